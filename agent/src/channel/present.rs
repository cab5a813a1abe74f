//! Opens what a subscription is handed and shows it to the application, in order.
//!
//! A message whose key has not come waits, and without a group all behind it do, so that the order holds. When it has waited long
//! enough it is reported once and what lies behind it goes on; it is shown when its key comes, late. It is never acknowledged by
//! itself, unless the application has said so beforehand ([`SubscribeOptions::skip_unreadable`](super::SubscribeOptions)).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use creto_envelope::envelope::nonce;
use creto_envelope::{ChannelId, EnvelopeView, RejectCode};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};

use super::error::ChannelError;
use super::keys::{NoKey, PublishedSession};
use super::message::ChannelMessage;
use super::reading::{Arrived, Reading, Shown};
use crate::clock;
use crate::directory::Identity;
use crate::limits::{CHANNEL_KEYS_LOOKED_THROUGH, CHANNEL_OPENED_AT_A_TIME};
use crate::receiver::Inbox;
use crate::receiver::sessions::IncomingSessions;
use crate::worker::{offload, on_disk};

/// What presents the messages of one subscription.
pub(super) struct Presenter {
    pub(super) handle: u32,
    pub(super) channel: ChannelId,
    pub(super) is_group: bool,
    /// How long a message waits for its key.
    pub(super) key_wait: Duration,
    /// Whether what cannot be read is acknowledged once it was reported.
    pub(super) skip_unreadable: bool,
    pub(super) reading: Arc<Reading>,
    pub(super) inbox: Arc<Inbox>,
    pub(super) arrived: mpsc::Receiver<Arrived>,
    pub(super) queue: mpsc::Sender<Shown>,
    /// How long the channel keeps messages, once that is known.
    pub(super) retention: tokio::sync::watch::Receiver<Option<Duration>>,
}

/// A message that waits.
struct Waiting {
    attempt: u8,
    stream: u64,
    envelope: Bytes,
    publisher: Arc<Identity>,
    session: PublishedSession,
    counter: u64,
    is_reported: bool,
}

enum Opened {
    Payload(Vec<u8>),
    Missing(NoKey),
    Broken,
}

impl Presenter {
    /// Runs until the subscription is left or has ended.
    pub(super) async fn run(mut self) {
        let sessions = match self.inbox.sessions().await {
            Ok(sessions) => sessions,
            Err(error) => {
                tracing::error!(%error, "the keys of channels cannot be read");
                let _ = self.queue.try_send(Err(ChannelError::Mailbox(error)));
                return;
            }
        };
        let mut keys_came = self.inbox.keys_came.subscribe();
        let mut waiting: BTreeMap<u64, Waiting> = BTreeMap::new();
        // Since when a key is waited for.
        let mut since: BTreeMap<PublishedSession, Instant> = BTreeMap::new();
        let mut looks_at = Instant::now();
        let mut awaits = Awaits { inbox: Arc::clone(&self.inbox), is_set: false };
        loop {
            let due = self.present(&sessions, &mut waiting, &mut since).await;
            awaits.set(due.is_some());
            if Instant::now() >= looks_at {
                self.look_through(&sessions).await;
                looks_at = Instant::now() + CHANNEL_KEYS_LOOKED_THROUGH;
            }
            tokio::select! {
                arrived = self.arrived.recv() => match arrived {
                    Some(arrived) => {
                        self.take_in(arrived, &mut waiting);
                        while let Ok(arrived) = self.arrived.try_recv() {
                            self.take_in(arrived, &mut waiting);
                        }
                    }
                    None => return,
                },
                came = keys_came.changed() => if came.is_err() { return },
                () = sleep_until(due.unwrap_or(looks_at).min(looks_at)) => {},
            }
        }
    }

    fn take_in(&self, arrived: Arrived, waiting: &mut BTreeMap<u64, Waiting>) {
        let Arrived { sequence, attempt, stream, verified } = arrived;
        match verified {
            Err(refused) => self.report_unreadable(sequence, refused.code),
            Ok((envelope, publisher)) => {
                let view = EnvelopeView::parse(&envelope).expect("it was verified");
                let (session, counter) = ((view.sender(), view.session_id()), view.counter());
                let message = Waiting { attempt, stream, envelope, publisher, session, counter, is_reported: false };
                waiting.insert(sequence, message);
            }
        }
    }

    /// Shows what can be shown. Gives when a key has been waited for long enough.
    async fn present(
        &self,
        sessions: &Arc<IncomingSessions>,
        waiting: &mut BTreeMap<u64, Waiting>,
        since: &mut BTreeMap<PublishedSession, Instant>,
    ) -> Option<Instant> {
        let stream = self.reading.stream();
        // What came on another stream comes again.
        waiting.retain(|_, message| message.stream == stream);
        loop {
            let (mut run, mut due, mut overdue) = (Vec::new(), None::<Instant>, Vec::new());
            for (&sequence, message) in waiting.iter() {
                if run.len() == CHANNEL_OPENED_AT_A_TIME {
                    break;
                }
                if sessions.has_channel_key(self.channel, message.session) {
                    since.remove(&message.session);
                    run.push(sequence);
                    continue;
                }
                if message.is_reported {
                    continue;
                }
                let until = *since.entry(message.session).or_insert_with(Instant::now) + self.key_wait;
                if until <= Instant::now() {
                    overdue.push(sequence);
                    continue;
                }
                due = Some(due.map_or(until, |before| before.min(until)));
                if !self.is_group {
                    break;
                }
            }
            for sequence in overdue {
                let message = waiting.get_mut(&sequence).expect("listed just now");
                message.is_reported = true;
                self.report_missing(sequence, message);
                if self.skip_unreadable {
                    waiting.remove(&sequence);
                }
            }
            if run.is_empty() {
                since.retain(|session, _| waiting.values().any(|message| message.session == *session));
                return due;
            }
            let messages = run.into_iter().map(|at| (at, waiting.remove(&at).expect("listed just now"))).collect();
            for (sequence, message, opened) in self.open(sessions, messages).await {
                match opened {
                    Opened::Payload(payload) => self.show(sequence, message, payload),
                    Opened::Missing(NoKey::Earlier) => {
                        self.inbox.counters.channel_before_joining.add(1);
                        self.reading.skipped(self.handle, sequence);
                    }
                    // Its key was forgotten in this moment.
                    Opened::Missing(NoKey::NotGiven) => drop(waiting.insert(sequence, message)),
                    Opened::Broken => self.report_unreadable(sequence, RejectCode::EnvelopeSeal),
                }
            }
        }
    }

    async fn open(
        &self,
        sessions: &Arc<IncomingSessions>,
        messages: Vec<(u64, Waiting)>,
    ) -> Vec<(u64, Waiting, Opened)> {
        let (sessions, channel) = (Arc::clone(sessions), self.channel);
        offload(move || {
            let open = |(sequence, message): (u64, Waiting)| {
                let opened =
                    match sessions.channel_message_key(channel, message.session, message.counter, clock::now_ms()) {
                        Err(missing) => Opened::Missing(missing),
                        Ok(key) => {
                            let view = EnvelopeView::parse(&message.envelope).expect("it was verified");
                            let opened = key.open(&nonce(message.counter), view.header_bytes(), view.payload());
                            opened.map_or(Opened::Broken, Opened::Payload)
                        }
                    };
                (sequence, message, opened)
            };
            messages.into_iter().map(open).collect()
        })
        .await
    }

    fn show(&self, sequence: u64, message: Waiting, payload: Vec<u8>) {
        let Waiting { attempt, stream, envelope, publisher, .. } = message;
        let view = EnvelopeView::parse(&envelope).expect("it was verified");
        let shown = ChannelMessage {
            channel: self.channel,
            publisher: publisher.record.name.clone(),
            publisher_id: publisher.record.agent_id(),
            sequence,
            message_id: view.message_id(),
            payload: Bytes::from(payload),
            timestamp_ms: view.header().timestamp_ms.to_native(),
            priority: view.priority(),
            attempt,
            reading: Arc::downgrade(&self.reading),
            handle: self.handle,
        };
        self.inbox.counters.verified.add(1);
        self.reading.show(self.handle, stream, shown);
    }

    fn report_missing(&self, sequence: u64, message: &Waiting) {
        let view = EnvelopeView::parse(&message.envelope).expect("it was verified");
        let error = ChannelError::NoKey {
            sequence,
            message_id: view.message_id(),
            publisher: message.publisher.record.name.to_string(),
            after: self.key_wait,
        };
        self.inbox.counters.channel_without_key.add(1);
        self.report(sequence, error);
    }

    fn report_unreadable(&self, sequence: u64, code: RejectCode) {
        self.inbox.counters.rejected(code);
        self.report(sequence, ChannelError::Unreadable { sequence, code });
    }

    fn report(&self, sequence: u64, error: ChannelError) {
        tracing::warn!(handle = self.handle, %error, "a message of a channel is not shown");
        // Half of the queue is for messages: an application that does not read loses reports, which come again, and none of those.
        if self.queue.capacity() > self.queue.max_capacity() / 2 {
            let _ = self.queue.try_send(Err(error));
        }
        if self.skip_unreadable {
            self.reading.skipped(self.handle, sequence);
        }
    }

    /// Erases the keys of what no channel keeps any more.
    async fn look_through(&self, sessions: &Arc<IncomingSessions>) {
        let (sessions, channel, retention) = (Arc::clone(sessions), self.channel, *self.retention.borrow());
        let looked =
            on_disk(move || sessions.expire_channel_keys(clock::now_ms(), |of| retention.filter(|_| of == channel)));
        if let Err(error) = looked.await {
            tracing::warn!(%error, "keys of channels that are not needed any more are still on the disk");
        }
    }
}

/// While a key is awaited, the mailbox is lent credit: the key may stand behind what the application has not read.
struct Awaits {
    inbox: Arc<Inbox>,
    is_set: bool,
}

impl Awaits {
    fn set(&mut self, is_set: bool) {
        if self.is_set != is_set {
            self.is_set = is_set;
            self.inbox.await_key(is_set);
        }
    }
}

impl Drop for Awaits {
    fn drop(&mut self) {
        self.set(false);
    }
}
