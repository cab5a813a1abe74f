//! Opens what a subscription is handed and shows it to the application, in order.
//!
//! A message whose key has not come waits, and without a group all behind it do, so that the order holds. When it has waited long
//! enough it is reported once and what lies behind it goes on; it is shown when its key comes, late. So is one whose publisher's record
//! cannot be had for now. It is never acknowledged by itself, unless the application has said so beforehand
//! ([`SubscribeOptions::skip_unreadable`](super::SubscribeOptions)), and then only when the application has taken the report.
//!
//! What was published before this agent was let in opens for it never. It is passed over only where it lies before where the
//! subscription began; anything else that does not open is reported.
//!
//! **In a group** a message that does not open here is another member's to read: it is given back and never acknowledged. One that comes
//! again after that is held for a while first, so that it does not go round and round.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::{Buf as _, Bytes};
use creto_envelope::channel::frames::GiveBack;
use creto_envelope::envelope::nonce;
use creto_envelope::{ChannelId, EnvelopeView, Kind, RejectCode};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

use super::error::ChannelError;
use super::keys::{NoKey, PublishedSession};
use super::known::{Known, KnownRecord};
use super::message::ChannelMessage;
use super::reading::{Arrived, Began, Reading, Shown, Unproven, Unverified};
use crate::backoff::pause;
use crate::clock;
use crate::directory::Identity;
use crate::limits::{
    CHANNEL_HOLD_MAX, CHANNEL_HOLD_MIN, CHANNEL_KEYS_LOOKED_THROUGH, CHANNEL_LOOKUP_PAUSE_MAX,
    CHANNEL_LOOKUP_PAUSE_MIN, CHANNEL_LOOKUPS_MAX, CHANNEL_OPENED_AT_A_TIME, CHANNEL_REPORT_PAUSE,
    GROUP_DONE_REMEMBERED,
};
use crate::receiver::Inbox;
use crate::receiver::sessions::IncomingSessions;
use crate::trace::{self, Ends};
use crate::worker::{offload, on_disk};

/// What presents the messages of one subscription.
pub(super) struct Presenter {
    pub(super) handle: u32,
    pub(super) channel: ChannelId,
    pub(super) is_group: bool,
    /// How long a message waits for its key.
    pub(super) key_wait: Duration,
    pub(super) reading: Arc<Reading>,
    pub(super) inbox: Arc<Inbox>,
    pub(super) arrived: mpsc::Receiver<Arrived>,
    pub(super) began: oneshot::Receiver<Began>,
    /// Whether the subscription itself has ended, once nothing more arrives.
    pub(super) is_over: Arc<AtomicBool>,
    pub(super) queue: mpsc::Sender<Shown>,
    /// What the owner says of the channel, once that is known.
    pub(super) known: watch::Receiver<Option<Known>>,
    pub(super) record: Arc<KnownRecord>,
}

/// A message that waits.
struct Waiting {
    attempt: u8,
    stream: u64,
    came_at: Instant,
    content: Content,
    is_reported: bool,
}

enum Content {
    Verified(Verified),
    /// It does not hold.
    Refused(RejectCode),
    /// Its publisher's record could not be had.
    Unproven(Lookup),
}

/// Whose message it is, is proven.
struct Verified {
    envelope: Bytes,
    publisher: Arc<Identity>,
    session: PublishedSession,
    counter: u64,
    /// The key at hand did not open it when so many keys had come.
    tried_at: Option<u64>,
}

/// A message whose publisher's record is looked up again and again.
struct Lookup {
    /// None: that is under way.
    unproven: Option<Box<Unproven>>,
    at: Instant,
    failures: u32,
}

/// What a look at a message says.
enum Look {
    /// It can be opened.
    Opens,
    /// Nothing is to be done about it, and what lies behind it goes on.
    Passed,
    /// It waits, and without a group all behind it; for this long, and maybe for a key.
    Until { at: Instant, for_key: bool },
    /// What lies behind it goes on, and it is looked at again then.
    PassedUntil(Instant),
    /// It has waited for long enough.
    Over,
}

enum Opened {
    Payload(Vec<u8>),
    Missing(NoKey),
    Broken,
}

/// What a look at all of them says.
#[derive(Default)]
struct Next {
    at: Option<Instant>,
    for_key: bool,
}

type Proofs = JoinSet<(u64, u64, Result<(Bytes, Arc<Identity>), Unverified>)>;

/// The state of a presenter beside what it was given.
struct Work {
    sessions: Arc<IncomingSessions>,
    /// What was published up to and with this may be from before this agent was let in.
    before: u64,
    waiting: BTreeMap<u64, Waiting>,
    /// Since when a key is waited for.
    since: BTreeMap<PublishedSession, Instant>,
    /// In a group: how often a message was given back lately because it does not open.
    given_back: BTreeMap<u64, u32>,
    proofs: Proofs,
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
        // An error means that it never stood.
        let Ok(began) = (&mut self.began).await else { return };
        let before = self.before(&sessions, began).await;
        let mut keys_came = self.inbox.keys_came.subscribe();
        let mut known = self.known.clone();
        let mut work = Work {
            sessions,
            before,
            waiting: BTreeMap::new(),
            since: BTreeMap::new(),
            given_back: BTreeMap::new(),
            proofs: JoinSet::new(),
        };
        let mut looks_at = Instant::now();
        let mut awaits = Awaits { inbox: Arc::clone(&self.inbox), is_set: false };
        loop {
            let next = self.present(&mut work).await;
            awaits.set(next.for_key);
            if Instant::now() >= looks_at {
                self.look_through(&work.sessions).await;
                looks_at = Instant::now() + CHANNEL_KEYS_LOOKED_THROUGH;
            }
            tokio::select! {
                arrived = self.arrived.recv() => match arrived {
                    Some(arrived) => {
                        take_in(arrived, &mut work.waiting);
                        while let Ok(arrived) = self.arrived.try_recv() {
                            take_in(arrived, &mut work.waiting);
                        }
                    }
                    None => return self.end(work.sessions).await,
                },
                Some(proof) = work.proofs.join_next() => {
                    let (sequence, stream, verified) = proof.expect("a look-up does not panic");
                    proven(&mut work.waiting, sequence, stream, verified);
                }
                came = keys_came.changed() => if came.is_err() { return },
                came = known.changed() => if came.is_err() { return },
                () = sleep_until(next.at.unwrap_or(looks_at).min(looks_at)) => {},
            }
        }
    }

    /// Up to where messages may be from before this agent was let in: written down when it subscribes, and found again after a restart.
    /// Where nothing is known of a subscription that was there already, it counts as entitled to everything.
    async fn before(&self, sessions: &Arc<IncomingSessions>, began: Began) -> u64 {
        use creto_envelope::channel::frames::Start;
        // Members of groups acknowledge nothing that they cannot open.
        if self.is_group {
            return 0;
        }
        let consumed = began.next_sequence.saturating_sub(1);
        let new = match began.start {
            Start::GoOn => consumed,
            Start::Now => consumed.min(began.newest_sequence),
            _ => began.newest_sequence,
        };
        let (sessions, channel) = (Arc::clone(sessions), self.channel);
        let kept = on_disk(move || sessions.began_to_read(channel, new)).await;
        kept.unwrap_or_else(|error| {
            tracing::warn!(%error, "where the subscription of a channel began is not written down");
            new
        })
    }

    /// Nothing more comes. Where the node has ended the subscription, the next one begins somewhere else.
    async fn end(&self, sessions: Arc<IncomingSessions>) {
        if self.is_group || !self.is_over.load(Ordering::Acquire) {
            return;
        }
        let channel = self.channel;
        if let Err(error) = on_disk(move || sessions.ended_to_read(channel)).await {
            tracing::warn!(%error, "it is not written down that the subscription of a channel has ended");
        }
    }

    /// Shows what can be shown. Gives when to look again.
    async fn present(&self, work: &mut Work) -> Next {
        let stream = self.reading.stream();
        // What came on another stream comes again.
        work.waiting.retain(|_, message| message.stream == stream);
        let Some(known) = self.known.borrow().clone() else { return Next::default() };
        loop {
            let (mut run, mut over, mut next) = (Vec::new(), None, Next::default());
            let keys = *self.inbox.keys_came.borrow();
            let now = Instant::now();
            for sequence in work.waiting.keys().copied().collect::<Vec<_>>() {
                if run.len() == CHANNEL_OPENED_AT_A_TIME {
                    break;
                }
                match self.look(work, sequence, &known, keys, now) {
                    Look::Opens => run.push(sequence),
                    Look::Passed => {}
                    Look::PassedUntil(at) => next.at = Some(next.at.map_or(at, |before| before.min(at))),
                    Look::Until { at, for_key } => {
                        next.at = Some(next.at.map_or(at, |before| before.min(at)));
                        next.for_key |= for_key;
                        if !self.is_group {
                            break;
                        }
                    }
                    // What lies before it is shown first.
                    Look::Over => {
                        over = Some(sequence);
                        break;
                    }
                }
            }
            if run.is_empty() {
                let Some(sequence) = over else {
                    let Work { waiting, since, .. } = work;
                    since.retain(|session, _| waiting.values().any(|message| message.session() == Some(*session)));
                    return next;
                };
                if !self.is_over(work, sequence) {
                    next.at = Some(now + CHANNEL_REPORT_PAUSE);
                    return next;
                }
                continue;
            }
            let take = |at: u64| match work.waiting.remove(&at).expect("listed just now") {
                Waiting { content: Content::Verified(verified), attempt, stream, came_at, is_reported } => {
                    (at, (attempt, stream, came_at, is_reported), verified)
                }
                _ => unreachable!("only what is verified opens"),
            };
            let messages: Vec<_> = run.into_iter().map(take).collect();
            // Without a group: what lies behind one that waits, opened with it, is shown behind it.
            let mut is_held = false;
            for (sequence, (attempt, stream, came_at, is_reported), verified, opened) in
                self.open(&work.sessions, messages).await
            {
                let back = |content| Waiting { attempt, stream, came_at, content, is_reported };
                if is_held {
                    work.waiting.insert(sequence, back(Content::Verified(verified)));
                    continue;
                }
                match opened {
                    Opened::Payload(payload) => {
                        work.since.remove(&verified.session);
                        work.given_back.remove(&sequence);
                        self.show(sequence, attempt, stream, &verified, payload);
                    }
                    Opened::Missing(NoKey::Earlier) if !self.is_group && sequence <= work.before => {
                        self.inbox.counters.channel_before_joining.add(1);
                        self.reading.skipped(self.handle, sequence);
                    }
                    // The key of an earlier message may come; or its key was forgotten in this moment.
                    Opened::Missing(why) => {
                        is_held = !self.is_group && !is_reported;
                        let tried_at = (why == NoKey::Earlier).then_some(keys);
                        work.waiting.insert(sequence, back(Content::Verified(Verified { tried_at, ..verified })));
                    }
                    Opened::Broken => {
                        is_held = !self.is_group;
                        work.waiting.insert(sequence, back(Content::Refused(RejectCode::EnvelopeSeal)));
                    }
                }
            }
        }
    }

    fn look(&self, work: &mut Work, sequence: u64, known: &Known, keys: u64, now: Instant) -> Look {
        let Work { sessions, waiting, since, given_back, proofs, .. } = work;
        let message = waiting.get_mut(&sequence).expect("listed just now");
        let until = |at: Instant, for_key| if at <= now { Look::Over } else { Look::Until { at, for_key } };
        let (came_at, stream) = (message.came_at, message.stream);
        match &mut message.content {
            Content::Refused(_) => Look::Over,
            Content::Unproven(lookup) => {
                if lookup.at <= now
                    && proofs.len() < CHANNEL_LOOKUPS_MAX
                    && let Some(unproven) = lookup.unproven.take()
                {
                    proofs.spawn(async move { (sequence, stream, unproven.prove().await) });
                }
                let again = lookup.at.max(now + CHANNEL_LOOKUP_PAUSE_MIN);
                match message.is_reported {
                    true => Look::PassedUntil(again),
                    false => match until(came_at + self.key_wait, false) {
                        Look::Until { at, for_key } => Look::Until { at: at.min(again), for_key },
                        over => over,
                    },
                }
            }
            Content::Verified(verified) => {
                if !known.record.lets_publish(&verified.publisher.record.agent_id()) {
                    // A newer record may: one is asked for, and waited for.
                    let by = came_at + self.key_wait;
                    if known.asked_at < came_at && now < by {
                        self.record.ask();
                        return Look::Until { at: by, for_key: false };
                    }
                    message.content = Content::Refused(RejectCode::ChannelNotAllowed);
                    return Look::Over;
                }
                let has_key = sessions.has_channel_key(self.channel, verified.session);
                if has_key && verified.tried_at != Some(keys) {
                    return Look::Opens;
                }
                if message.is_reported && !self.is_group {
                    return Look::Passed;
                }
                let waits_since = *since.entry(verified.session).or_insert(now);
                let at = match given_back.get(&sequence) {
                    Some(times) => came_at + pause(CHANNEL_HOLD_MIN, CHANNEL_HOLD_MAX, times - 1),
                    // No other key of its session will come that opens more: others may have one.
                    None if has_key && self.is_group => now,
                    None => waits_since + self.key_wait,
                };
                until(at, true)
            }
        }
    }

    /// A message has waited for long enough: it is reported, and in a group given back. False: nobody could be told, and it is to be
    /// tried again.
    fn is_over(&self, work: &mut Work, sequence: u64) -> bool {
        let message = work.waiting.get_mut(&sequence).expect("listed just now");
        let (error, how) = match &message.content {
            Content::Refused(code) => {
                // Nobody can read it: it counts as tried.
                (ChannelError::Unreadable { sequence, code: *code }, GiveBack::Later { delay_ms: 0 })
            }
            Content::Unproven(_) => {
                (ChannelError::Unreadable { sequence, code: RejectCode::UnknownSender }, GiveBack::Untouched)
            }
            Content::Verified(verified) => (self.no_key(sequence, verified), GiveBack::Untouched),
        };
        let count = |error: &ChannelError| match error {
            ChannelError::Unreadable { code, .. } => self.inbox.counters.rejected(*code),
            _ => self.inbox.counters.channel_without_key.add(1),
        };
        if self.is_group {
            work.waiting.remove(&sequence);
            self.reading.given_back(self.handle, sequence, how);
            let times = work.given_back.entry(sequence).or_default();
            *times += 1;
            if *times == 1 {
                count(&error);
                self.report(error);
            }
            if work.given_back.len() > GROUP_DONE_REMEMBERED {
                work.given_back.pop_first();
            }
            return true;
        }
        let is_refused = matches!(message.content, Content::Refused(_));
        if !message.is_reported {
            let counted = error.clone();
            if !self.report(error) {
                return false;
            }
            count(&counted);
            message.is_reported = true;
        }
        if is_refused {
            work.waiting.remove(&sequence);
        }
        true
    }

    async fn open<M: Send + 'static>(
        &self,
        sessions: &Arc<IncomingSessions>,
        messages: Vec<(u64, M, Verified)>,
    ) -> Vec<(u64, M, Verified, Opened)> {
        let (sessions, channel) = (Arc::clone(sessions), self.channel);
        offload(move || {
            let open = |(sequence, message, verified): (u64, M, Verified)| {
                let Verified { envelope, session, counter, .. } = &verified;
                let opened = match sessions.channel_message_key(channel, *session, *counter, clock::now_ms()) {
                    Err(missing) => Opened::Missing(missing),
                    Ok(key) => {
                        let view = EnvelopeView::parse(envelope).expect("it was verified");
                        let opened = key.open(&nonce(*counter), view.header_bytes(), view.payload());
                        opened.map_or(Opened::Broken, Opened::Payload)
                    }
                };
                (sequence, message, verified, opened)
            };
            messages.into_iter().map(open).collect()
        })
        .await
    }

    fn show(&self, sequence: u64, attempt: u8, stream: u64, verified: &Verified, payload: Vec<u8>) {
        let Verified { envelope, publisher, .. } = verified;
        let view = EnvelopeView::parse(envelope).expect("it was verified");
        let (trace, head_bytes) = trace::taken(&payload, &self.inbox.counters);
        let mut payload = Bytes::from(payload);
        payload.advance(head_bytes);
        let submitter = &self.inbox.submitter;
        let span = submitter.tracer.process(
            Ends { me: submitter.keys.name().as_str(), other: publisher.record.name.as_str() },
            (Kind::Channel, view.message_id(), attempt),
            payload.len(),
            trace.as_ref(),
        );
        let shown = ChannelMessage {
            channel: self.channel,
            publisher: publisher.record.name.clone(),
            publisher_id: publisher.record.agent_id(),
            sequence,
            message_id: view.message_id(),
            payload,
            timestamp_ms: view.header().timestamp_ms.to_native(),
            priority: view.priority(),
            attempt,
            trace,
            span,
            reading: Arc::downgrade(&self.reading),
            handle: self.handle,
        };
        self.inbox.counters.verified.add(1);
        self.reading.show(self.handle, stream, shown);
    }

    fn no_key(&self, sequence: u64, verified: &Verified) -> ChannelError {
        let view = EnvelopeView::parse(&verified.envelope).expect("it was verified");
        ChannelError::NoKey {
            sequence,
            message_id: view.message_id(),
            publisher: verified.publisher.record.name.to_string(),
            after: self.key_wait,
        }
    }

    /// Tells the application, if it has room for that.
    fn report(&self, error: ChannelError) -> bool {
        // Two thirds of the queue are for messages.
        let has_room = self.queue.capacity() > self.queue.max_capacity() / 3 * 2;
        let text = has_room.then(|| error.to_string());
        let is_told = has_room && self.queue.try_send(Err(error)).is_ok();
        if let Some(error) = text.filter(|_| is_told) {
            tracing::warn!(handle = self.handle, error, "a message of a channel is not shown");
        }
        is_told
    }

    /// Erases the keys of what no channel keeps any more.
    async fn look_through(&self, sessions: &Arc<IncomingSessions>) {
        let retention = self.known.borrow().as_ref().map(|known| Duration::from_secs(known.record.retention_s.into()));
        let (sessions, channel) = (Arc::clone(sessions), self.channel);
        let looked =
            on_disk(move || sessions.expire_channel_keys(clock::now_ms(), |of| retention.filter(|_| of == channel)));
        if let Err(error) = looked.await {
            tracing::warn!(%error, "keys of channels that are not needed any more are still on the disk");
        }
    }
}

fn take_in(arrived: Arrived, waiting: &mut BTreeMap<u64, Waiting>) {
    let Arrived { sequence, attempt, stream, verified } = arrived;
    let content = content(verified, 0);
    waiting.insert(sequence, Waiting { attempt, stream, came_at: Instant::now(), content, is_reported: false });
}

/// What another look-up of a message's publisher gave.
fn proven(
    waiting: &mut BTreeMap<u64, Waiting>,
    sequence: u64,
    stream: u64,
    verified: Result<(Bytes, Arc<Identity>), Unverified>,
) {
    if let Some(message) = waiting.get_mut(&sequence).filter(|message| message.stream == stream)
        && let Content::Unproven(Lookup { failures, .. }) = message.content
    {
        message.content = content(verified, failures + 1);
        // It waits for its key as one that came just now.
        message.is_reported &= !matches!(message.content, Content::Verified(_) | Content::Refused(_));
    }
}

fn content(verified: Result<(Bytes, Arc<Identity>), Unverified>, failures: u32) -> Content {
    match verified {
        Err(Unverified::Refused(code)) => Content::Refused(code),
        Err(Unverified::Unproven(unproven)) => {
            let at = Instant::now() + pause(CHANNEL_LOOKUP_PAUSE_MIN, CHANNEL_LOOKUP_PAUSE_MAX, failures);
            Content::Unproven(Lookup { unproven: Some(unproven), at, failures })
        }
        Ok((envelope, publisher)) => {
            let view = EnvelopeView::parse(&envelope).expect("it was verified");
            let (session, counter) = ((view.sender(), view.session_id()), view.counter());
            Content::Verified(Verified { envelope, publisher, session, counter, tried_at: None })
        }
    }
}

impl Waiting {
    fn session(&self) -> Option<PublishedSession> {
        match &self.content {
            Content::Verified(verified) => Some(verified.session),
            _ => None,
        }
    }
}

impl Unproven {
    /// Looks its publisher's record up once more, and verifies.
    async fn prove(mut self: Box<Self>) -> Result<(Bytes, Arc<Identity>), Unverified> {
        self.header = Arc::new(self.header.look_up_again(&self.directory).await);
        if self.header.is_unproven() {
            return Err(Unverified::Unproven(self));
        }
        offload(move || {
            let Self { channel, opener, header, body, span, .. } = *self;
            let spans = [span];
            let verdict =
                opener.verify_published(channel, &header, &body, &spans).pop().expect("one message, one verdict");
            let [span] = spans;
            match verdict {
                Ok(identity) => Ok((body.slice(span.envelope), identity)),
                Err(refused) => Err(Unverified::Refused(refused.code)),
            }
        })
        .await
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
