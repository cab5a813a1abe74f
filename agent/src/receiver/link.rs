//! The deliver stream of one connection: subscribe, read, open, present in order, acknowledge.

use std::collections::{HashSet, VecDeque};
use std::future::pending;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use creto_envelope::control::{StreamOpen, StreamRole};
use creto_envelope::deliver::{ConsumerAck, ConsumerNack, Credit, Deliver, DeliveredSpan, Subscribe, Subscribed};
use creto_envelope::envelope::signal_until_ms;
use creto_envelope::limits::{CONSUMER_ACK_SEQUENCES_MAX, CONSUMER_NACK_MESSAGES_MAX};
use creto_envelope::notice::Notice;
use creto_envelope::presence::{PresenceAudience, PresenceShow};
use creto_envelope::signal::parse_signals;
use creto_envelope::{AgentName, FrameType, RejectCode};
use quinn::{RecvStream, SendStream};
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinHandle, yield_now};
use tokio::time::{Instant, sleep_until, timeout};

use super::Inbox;
use super::acknowledgements::Acknowledged;
use super::open::{Arrived, Opener, Refused, SignedHeader};
use super::sessions::SessionKey;
use crate::clock;
use crate::directory::{CURRENT, Directory};
use crate::error::ReceiveError;
use crate::limits::{
    ACKNOWLEDGEMENT_REST, ALL_SESSIONS_MAX, GOODBYE_TIMEOUT, KEY_RECORD_TIMEOUT, NOTICE_LOOKUPS_MAX, OPEN_JOBS_MAX,
    SIGNAL_LOOKUP_TIMEOUT, SIGNAL_WINDOW,
};
use crate::prekeys::Prekeys;
use crate::stream::{self, StreamEnd};
use crate::worker::offload;

/// A Deliver frame whose messages were opened.
struct OpenedFrame {
    header: Arc<SignedHeader>,
    body: Bytes,
    messages: Vec<DeliveredSpan>,
    /// Of each message.
    verdicts: Vec<Result<Arrived, Refused>>,
}

/// What the deliver stream needs.
#[derive(Clone)]
pub(crate) struct DeliverLink {
    pub(crate) inbox: Arc<Inbox>,
    pub(crate) opener: Arc<Opener>,
    pub(crate) directory: Arc<Directory>,
    /// Made while this process receives.
    pub(crate) prekeys: Arc<Prekeys>,
    /// Those who may send to the agent are shown that it reads.
    pub(crate) shows_presence: bool,
    /// Turns true when the agent is closing: what is to be acknowledged goes out first.
    pub(crate) closing: watch::Receiver<bool>,
}

impl DeliverLink {
    /// Runs until the stream or the connection ends. Waits for the first subscription before it opens a stream.
    pub(crate) async fn run(self, connection: quinn::Connection) -> StreamEnd {
        let mut wanted = self.inbox.wanted.subscribe();
        let mut closing = self.closing.clone();
        tokio::select! {
            _ = wanted.wait_for(|wanted| *wanted) => {},
            // Nothing was ever delivered, so nothing is to be acknowledged.
            _ = closing.wait_for(|closing| *closing) => return StreamEnd::Ended,
        }
        if self.inbox.sender().is_none() {
            return self.rest().await;
        }
        let Ok((mut send, receive)) = connection.open_bi().await else { return StreamEnd::Ended };
        let (stream, credit) = self.inbox.opened();
        let mut frames = Vec::new();
        StreamOpen { role: StreamRole::Deliver }.encode(&mut frames);
        Subscribe { mailbox: self.inbox.me }.encode(&mut frames);
        if self.shows_presence {
            PresenceShow { audience: PresenceAudience::Senders }.encode(&mut frames);
        }
        encode_credit(&mut frames, credit);
        if let Err(end) = stream::write(&mut send, frames).await {
            return end;
        }
        let (jobs, opened) = mpsc::channel(OPEN_JOBS_MAX);
        // As many as the node has credit for: reading never waits for a name.
        let (notices, unnamed) = mpsc::channel(self.inbox.window_messages);
        let (signals, unopened) = mpsc::channel(SIGNAL_WINDOW as usize);
        // All of them only move bytes and wait; the work is with the cryptographic workers.
        let end = tokio::select! {
            end = self.write(send) => end,
            end = self.read(receive, jobs, notices, signals) => end,
            end = self.name(unnamed, stream) => end,
            end = self.open_signals(unopened) => end,
            end = self.present(opened, stream) => end,
        };
        if self.inbox.sender().is_none() { self.rest().await } else { end }
    }

    /// Receiving is over for good, because another connection of this agent took over or because the node refused it.
    /// The connection stays: sending still works.
    async fn rest(&self) -> StreamEnd {
        // An error means that the agent is gone.
        let _ = self.closing.clone().wait_for(|closing| *closing).await;
        StreamEnd::Ended
    }

    async fn write(&self, mut send: SendStream) -> StreamEnd {
        let mut closing = self.closing.clone();
        let mut last = false;
        let mut rested = Instant::now();
        loop {
            if !last && self.inbox.is_to_renew() {
                self.inbox.renews.store(true, Ordering::Release);
                last = true;
            } else {
                tokio::select! {
                    biased;
                    _ = closing.wait_for(|closing| *closing), if !last => last = true,
                    () = self.inbox.changed.notified() => {},
                }
            }
            // What nobody waits for goes with what comes in the meantime.
            while !last && !self.inbox.is_pressing() && Instant::now() < rested {
                tokio::select! {
                    biased;
                    _ = closing.wait_for(|closing| *closing) => last = true,
                    () = sleep_until(rested) => {}
                    () = self.inbox.changed.notified() => {},
                }
            }
            // The application's turn is not over when its first acknowledgement wakes this: let it finish.
            yield_now().await;
            let (acks, nacks, credit) = self.inbox.take_outgoing();
            if !acks.is_empty() {
                rested = Instant::now() + ACKNOWLEDGEMENT_REST;
            }
            let mut frames = Vec::new();
            for sequences in acks.chunks(CONSUMER_ACK_SEQUENCES_MAX) {
                ConsumerAck { sequences: sequences.to_vec() }.encode(&mut frames);
            }
            for messages in nacks.chunks(CONSUMER_NACK_MESSAGES_MAX) {
                ConsumerNack { messages: messages.to_vec() }.encode(&mut frames);
            }
            credit.into_iter().for_each(|credit| encode_credit(&mut frames, credit));
            if let Some(credit) = self.inbox.signals.take_credit() {
                credit.encode(&mut frames);
            }
            if !frames.is_empty()
                && let Err(end) = stream::write(&mut send, frames).await
            {
                return end;
            }
            if !acks.is_empty() && self.inbox.is_measured() {
                self.inbox.handed_over(Acknowledged::Mailbox(acks.into()));
            }
            // What is on its way to the disk is acknowledged too; `changed` says when it is there.
            if last && !self.inbox.is_settling() {
                // Resolves when the node has everything, or is gone.
                let stopped = send.stopped();
                if send.finish().is_ok() {
                    let _ = timeout(GOODBYE_TIMEOUT, stopped).await;
                }
                return StreamEnd::Ended;
            }
        }
    }

    async fn read(
        &self,
        mut receive: RecvStream,
        jobs: mpsc::Sender<JoinHandle<OpenedFrame>>,
        notices: mpsc::Sender<(Notice, Instant)>,
        signals: mpsc::Sender<Bytes>,
    ) -> StreamEnd {
        let mut header: Option<Arc<SignedHeader>> = None;
        // After Subscribe went out: whoever was subscribed before, in another process, is told so and lets go of them.
        let sessions = match self.inbox.sessions().await {
            Ok(sessions) => sessions,
            Err(error) => {
                tracing::error!(%error, "nothing can be received");
                self.inbox.end(error);
                return StreamEnd::Ended;
            }
        };
        sessions.stream_begins();
        self.prekeys.receiving(&sessions);
        loop {
            let frame = match stream::read_frame(&mut receive).await {
                Ok(frame) => frame,
                Err(end) => return end,
            };
            match frame.frame_type {
                FrameType::Deliver => {}
                FrameType::Notice => match Notice::parse(&frame.body) {
                    Ok(notice) => match notices.send((notice, Instant::now())).await {
                        Ok(()) => continue,
                        Err(_) => return StreamEnd::Ended,
                    },
                    Err(code) => return StreamEnd::Broken(code),
                },
                FrameType::Signal => match parse_signals(&frame.body) {
                    Ok(parsed) => {
                        let count = parsed.messages.len();
                        match self.inbox.signals.arrived(count) {
                            Some(true) => self.inbox.changed.notify_one(),
                            Some(false) => {}
                            None => return StreamEnd::Broken(RejectCode::FrameUnexpected),
                        }
                        // Reading never waits for signals: what there is no room for is gone.
                        if signals.try_send(frame.body).is_err() {
                            self.inbox.counters.signals_dropped.add(count);
                        }
                        continue;
                    }
                    Err(code) => return StreamEnd::Broken(code),
                },
                FrameType::Subscribed => match Subscribed::parse(&frame.body) {
                    Ok(subscribed) => {
                        tracing::debug!(queued_messages = subscribed.queued_messages, "subscribed");
                        continue;
                    }
                    Err(code) => return StreamEnd::Broken(code),
                },
                FrameType::Reject => match self.refused(&frame.body) {
                    Some(end) => return end,
                    None => continue,
                },
                _ => return StreamEnd::Broken(RejectCode::FrameUnexpected),
            }
            let deliver = match Deliver::parse(&frame.body) {
                Ok(deliver) => deliver,
                Err(code) => return StreamEnd::Broken(code),
            };
            self.inbox.counters.received.add(deliver.messages.len());
            if let Some(batch) = deliver.batch_header {
                let identity = self.directory.lookup(batch.sender(), batch.key_record_version()).await;
                header = Some(Arc::new(SignedHeader::new(frame.body.clone(), identity)));
            }
            let Some(header) = header.clone() else { return StreamEnd::Broken(RejectCode::FrameUnexpected) };
            let (opener, body, messages) = (Arc::clone(&self.opener), frame.body.clone(), deliver.messages);
            let sessions = Arc::clone(&sessions);
            let job = tokio::spawn(offload(move || {
                let verdicts = opener.open(&sessions, &header, &body, &messages);
                OpenedFrame { header, body, messages, verdicts }
            }));
            if jobs.send(job).await.is_err() {
                return StreamEnd::Ended;
            }
        }
    }

    /// Verifies and opens signals beside the messages, in the order in which they came.
    async fn open_signals(&self, mut came: mpsc::Receiver<Bytes>) -> StreamEnd {
        while let Some(body) = came.recv().await {
            let parsed = parse_signals(&body).expect("it was parsed when it came");
            let batch = parsed.batch_header.expect("a frame of signals has a header");
            let (sender, version, spans) = (batch.sender(), batch.key_record_version(), parsed.messages);
            let Ok(sessions) = self.inbox.sessions().await else { return pending().await };
            let lookup = timeout(SIGNAL_LOOKUP_TIMEOUT, self.directory.lookup(sender, version)).await;
            let Ok(identity @ Ok(_)) = lookup else {
                // Nobody can say whose they are, and later they mean nothing.
                self.inbox.counters.signals_dropped.add(spans.len());
                continue;
            };
            // Nothing but signals: opening a message may begin a session, and keys of that are kept, and prekeys erased, on another path.
            let (spans, others): (Vec<_>, Vec<_>) =
                spans.into_iter().partition(|span| signal_until_ms(&body[span.envelope.clone()]).is_some());
            others.iter().for_each(|_| self.inbox.counters.rejected(RejectCode::EnvelopeSignal));
            if spans.is_empty() {
                continue;
            }
            let header = SignedHeader::new(body.clone(), identity);
            let opener = Arc::clone(&self.opener);
            for verdict in offload(move || opener.open(&sessions, &header, &body, &spans)).await {
                self.inbox.signalled(verdict, clock::now_ms());
            }
        }
        StreamEnd::Ended
    }

    /// Hands notices over in the order in which they came, each with the name of whom it is about. Names are asked for beside
    /// the stream, a few at a time; when that takes too long, what has waited goes without.
    async fn name(&self, mut unnamed: mpsc::Receiver<(Notice, Instant)>, stream: u64) -> StreamEnd {
        let mut asked: VecDeque<(Notice, JoinHandle<Option<AgentName>>)> = VecDeque::new();
        loop {
            tokio::select! {
                Some((notice, came)) = unnamed.recv(), if asked.len() < NOTICE_LOOKUPS_MAX => {
                    let directory = Arc::clone(&self.directory);
                    let name = tokio::spawn(async move {
                        let recipient = notice.body.recipient;
                        let identity = match came.elapsed() < KEY_RECORD_TIMEOUT {
                            true => directory.lookup(recipient, CURRENT).await.ok(),
                            false => directory.known(recipient, CURRENT),
                        };
                        identity.map(|identity| identity.record.name.clone())
                    });
                    asked.push_back((notice, name));
                }
                name = async { (&mut asked[0].1).await }, if !asked.is_empty() => {
                    let (notice, _) = asked.pop_front().expect("its name has come");
                    self.inbox.noticed(&notice, name.expect("a look-up does not panic"), stream);
                }
                else => return StreamEnd::Ended,
            }
        }
    }

    /// A Reject frame on the deliver stream: whether the stream ends with it.
    fn refused(&self, body: &[u8]) -> Option<StreamEnd> {
        let refusal = match stream::refusal(body) {
            Ok(refusal) => refusal,
            Err(end) => return Some(end),
        };
        match refusal.code {
            // It was settled meanwhile: an acknowledgement that crossed with a redelivery.
            Ok(RejectCode::UnknownDelivery) => None,
            Ok(code) if code.is_retryable() => Some(StreamEnd::Broken(code)),
            code => {
                self.inbox.end(match code {
                    Ok(RejectCode::SubscriptionReplaced) => ReceiveError::Replaced,
                    Ok(code) => ReceiveError::Refused(code),
                    Err(_) => ReceiveError::Refused(RejectCode::FrameUnexpected),
                });
                Some(StreamEnd::Ended)
            }
        }
    }

    /// Hands verdicts to the application in the order in which the messages came.
    async fn present(&self, mut opened: mpsc::Receiver<JoinHandle<OpenedFrame>>, stream: u64) -> StreamEnd {
        // Sessions that are on disk, as far as that was asked on this stream.
        let mut kept: HashSet<SessionKey> = HashSet::new();
        while let Some(job) = opened.recv().await {
            let OpenedFrame { header, body, messages, mut verdicts } =
                job.await.expect("opening a message does not panic");
            if let Err(error) = self.inbox.erase_used_prekeys(&verdicts).await {
                tracing::error!(%error, "a session cannot be remembered, so what opened it is not shown");
                self.inbox.end(error);
                return StreamEnd::Ended;
            }
            if let Err(error) = self.inbox.keep_channel_keys(&mut verdicts).await {
                tracing::error!(%error, "keys of channels cannot be remembered, so they are not acknowledged");
                self.inbox.end(error);
                return StreamEnd::Ended;
            }
            for (span, mut verdict) in messages.into_iter().zip(verdicts) {
                if verdict.as_ref().is_err_and(|refused| refused.code == RejectCode::UnknownSession) {
                    // Frames are opened side by side: the message that opens this session may stand in the one before,
                    // which is done by now.
                    let mut again = [self.open_again(&header, &body, &span).await];
                    if let Err(error) = self.inbox.keep_channel_keys(&mut again).await {
                        tracing::error!(%error, "keys of channels cannot be remembered, so they are not acknowledged");
                        self.inbox.end(error);
                        return StreamEnd::Ended;
                    }
                    [verdict] = again;
                }
                match verdict {
                    Ok(Arrived::Settled(session)) => self.inbox.settled_before(session, &span, stream),
                    // Nobody stores signals, and what comes as a message was stored.
                    Ok(Arrived::Message(message)) if message.signal_ttl_s.is_some() => {
                        let (from, message_id) = (message.identity.record.agent_id(), message.message_id);
                        let refused = Refused { code: RejectCode::EnvelopeSignal, from, message_id };
                        self.inbox.refuse(refused, &span, stream);
                    }
                    Ok(Arrived::Message(message)) if message.is_channel_key() => {
                        self.inbox.took_key(&message, &span, stream);
                    }
                    Ok(Arrived::Message(message)) => {
                        if span.attempt > 0
                            && let Some(session) = message.session.filter(|session| !kept.contains(&session.key))
                        {
                            if let Err(error) = self.inbox.keep_session(session).await {
                                tracing::error!(%error, "what comes again cannot be remembered, so it is not shown");
                                self.inbox.end(error);
                                return StreamEnd::Ended;
                            }
                            if kept.len() >= ALL_SESSIONS_MAX {
                                kept.clear();
                            }
                            kept.insert(session.key);
                        }
                        let Some(delivery) = self.inbox.present(message, &span, stream) else { continue };
                        let Some(queue) = self.inbox.sender() else { return StreamEnd::Ended };
                        if queue.send(delivery).await.is_err() {
                            return StreamEnd::Ended;
                        }
                    }
                    Err(refused) => self.inbox.refuse(refused, &span, stream),
                }
            }
        }
        StreamEnd::Ended
    }
}

impl DeliverLink {
    async fn open_again(
        &self,
        header: &Arc<SignedHeader>,
        body: &Bytes,
        span: &DeliveredSpan,
    ) -> Result<Arrived, Refused> {
        let sessions = self.inbox.sessions().await.expect("a frame was opened, so the sessions are open");
        let (opener, header, body, span) = (Arc::clone(&self.opener), Arc::clone(header), body.clone(), span.clone());
        offload(move || opener.open(&sessions, &header, &body, &[span]).pop().expect("one message, one verdict")).await
    }
}

fn encode_credit(frames: &mut Vec<u8>, credit: Credit) {
    if credit.messages > 0 || credit.bytes > 0 {
        credit.encode(frames);
    }
}
