//! Both ends of a message's way without the way: what [`crate::Agent`] does from `submit` to a frame, and from a frame to
//! payloads, by the same code, on the calling thread. For benches, and for tests that count what it costs.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use creto_envelope::control::LoginAccepted;
use creto_envelope::deliver::Deliver;
use creto_envelope::envelope::EnvelopeHeader;
use creto_envelope::limits::BATCH_MESSAGES_MAX;
use creto_envelope::submit::SubmitAck;
use creto_envelope::{AgentId, KeyId, MessageId, RejectCode, SignedKeyRecord, TreeDigest};
use tokio::sync::oneshot;

use crate::clock;
use crate::directory::Identity;
use crate::error::{LookupError, SendError};
use crate::keys::AgentKeys;
use crate::limits::RECIPIENT_SESSIONS_MAX;
use crate::receiver::open::{Arrived, Opener, SignedHeader};
use crate::receiver::sessions::{Bounds, IncomingSessions, SessionUse};
use crate::sender::batcher::BatchOptions;
use crate::sender::message::{Message, Plain, Ticket};
use crate::sender::outbox::Outbox;
use crate::sender::sessions::{SessionPolicy, Sessions};
use crate::sender::{Receipt, seal};
use crate::stats::Counters;

#[cfg(test)]
mod tests;

/// A sender's end: payloads in, SignedBatch frames out.
pub struct SendingEnd {
    keys: Arc<AgentKeys>,
    recipient: Arc<Identity>,
    outbox: Outbox,
    counters: Counters,
    answers: VecDeque<oneshot::Receiver<Result<Receipt, SendError>>>,
    frames: u64,
}

impl SendingEnd {
    /// An end that sends to the agent of this record, which is verified first.
    ///
    /// # Errors
    /// [`LookupError::Invalid`] when the record does not hold.
    pub fn new(
        keys: Arc<AgentKeys>,
        recipient: &SignedKeyRecord,
        batches: BatchOptions,
        sessions: SessionPolicy,
    ) -> Result<Self, LookupError> {
        let recipient = Arc::new(Identity::verify(recipient.record.agent_id(), recipient)?);
        let sessions = Sessions::new(sessions, RECIPIENT_SESSIONS_MAX);
        let mut outbox = Outbox::new(keys.id(), batches.into(), sessions);
        // A node that takes whatever the format allows.
        outbox.connected(&LoginAccepted {
            node_time_ms: 0,
            shard_index: 0,
            shard_count: 1,
            in_flight_messages_max: u32::MAX,
            batch_messages_max: u32::try_from(BATCH_MESSAGES_MAX).unwrap_or(u32::MAX),
            batch_bytes_max: u32::MAX,
        });
        Ok(Self { keys, recipient, outbox, counters: Counters::default(), answers: VecDeque::new(), frames: 0 })
    }

    /// Takes a message, as [`Agent::submit`](crate::Agent::submit) does.
    ///
    /// # Errors
    /// [`SendError::TooLarge`].
    pub fn submit(&mut self, payload: Bytes, now_ms: u64) -> Result<(), SendError> {
        let recipient = Arc::clone(&self.recipient);
        let (to, key_id) = (recipient.record.agent_id(), KeyId(recipient.sealing.key_id()));
        let id = MessageId::from_parts(now_ms, clock::random());
        let header = EnvelopeHeader::sealed(self.keys.id(), to, key_id, id, now_ms, payload.len())
            .map_err(|_| SendError::TooLarge { bytes: payload.len() })?;
        let (reply, answer) = oneshot::channel();
        let plain = Plain { header: Box::new(header), recipient, payload };
        self.answers.push_back(answer);
        self.outbox.push(Message::new(id, plain, Ticket { reply, _places: None }, now_ms * 1_000, 0));
        Ok(())
    }

    /// Seals, signs and frames the next batch of what was submitted; `None` when nothing is left.
    pub fn next_frame(&mut self, now_ms: u64) -> Option<Vec<u8>> {
        // Everything before was answered, or is as good as answered: no batch waits for company.
        self.answer(now_ms);
        let job = self.outbox.next_job(now_ms * 1_000)?;
        let salts = clock::random_each(job.messages.len());
        let sealed = seal::seal_batch(&self.keys, job, salts, TreeDigest::Sha256, now_ms, &self.counters);
        self.outbox.sealed(sealed);
        let frame = self.outbox.next_frame()?;
        self.frames += 1;
        Some(frame)
    }

    /// Answers whatever went out, as a node does that has it on disk.
    fn answer(&mut self, now_ms: u64) {
        let ack = SubmitAck { through_sequence: self.frames, pause_ms: 0, results: Vec::new() };
        let mut answered = Vec::new();
        self.outbox.acknowledged(&ack, now_ms * 1_000, &mut answered).expect("these frames went out");
        for answered in answered {
            answered.message.answer(answered.answer);
            self.answers.pop_front();
        }
    }
}

impl fmt::Debug for SendingEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SendingEnd").field("keys", &self.keys).field("frames", &self.frames).finish_non_exhaustive()
    }
}

/// A recipient's end: Deliver frames in, payloads out. Its sessions are in memory.
pub struct ReceivingEnd {
    opener: Opener,
    sender: Arc<Identity>,
    sessions: IncomingSessions,
    header: Option<SignedHeader>,
    opened: Vec<SessionUse>,
}

impl ReceivingEnd {
    /// An end that receives from the agent of this record, which is verified first.
    ///
    /// # Errors
    /// [`LookupError::Invalid`] when the record does not hold.
    pub fn new(keys: Arc<AgentKeys>, sender: &SignedKeyRecord) -> Result<Self, LookupError> {
        Ok(Self {
            opener: Opener::new(keys, Arc::default()),
            sender: Arc::new(Identity::verify(sender.record.agent_id(), sender)?),
            sessions: IncomingSessions::new(Bounds::PRODUCTION),
            header: None,
            opened: Vec::new(),
        })
    }

    /// Verifies and opens the messages of a Deliver frame, given by its body, which starts at a multiple of eight bytes.
    /// The payloads are appended in order; a message that was settled before has none.
    ///
    /// # Errors
    /// Why the frame does not parse, or the first message is refused. Payloads before it are there.
    pub fn open(&mut self, body: &Bytes, payloads: &mut Vec<Bytes>) -> Result<(), RejectCode> {
        let deliver = Deliver::parse(body)?;
        if let Some(batch) = deliver.batch_header {
            let known = (self.sender.record.agent_id(), self.sender.record.version);
            if (batch.sender(), batch.key_record_version()) != known {
                return Err(RejectCode::SenderMismatch);
            }
            self.header = Some(SignedHeader::new(body.clone(), Ok(Arc::clone(&self.sender))));
        }
        let header = self.header.as_ref().ok_or(RejectCode::FrameUnexpected)?;
        for verdict in self.opener.open(&self.sessions, header, body, &deliver.messages) {
            match verdict.map_err(|refused| refused.code)? {
                Arrived::Message(message) => {
                    self.opened.extend(message.session);
                    payloads.push(message.payload);
                }
                Arrived::Settled(_) => {}
            }
        }
        Ok(())
    }

    /// Settles everything that was opened, as when the application has acknowledged it.
    pub fn settle(&mut self) {
        self.sessions.settle(self.opened.drain(..)).expect("sessions in memory need no disk");
    }

    /// Forgets all sessions, as a process does that ends without having stored them; verdicts on roots stay.
    pub fn forget_sessions(&mut self) {
        self.sessions = IncomingSessions::new(Bounds::PRODUCTION);
        self.opened.clear();
    }

    /// Whose messages it opens.
    #[must_use]
    pub fn sender(&self) -> AgentId {
        self.sender.record.agent_id()
    }
}

impl fmt::Debug for ReceivingEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReceivingEnd").field("sender", &self.sender()).finish_non_exhaustive()
    }
}
