//! Requests of others: what they say, and answering them.

use std::time::Duration;

use bytes::Bytes;
use creto_envelope::request::{ANSWER_BODY_BYTES_MAX, ANSWER_HEADER_BYTES, ResponsePayload};
use creto_envelope::{AgentId, AgentName, Kind, MessageId, Priority, RejectCode};

use super::whole_seconds;
use crate::clock;
use crate::error::{RespondError, SendError};
use crate::receiver::framing::Framing;
use crate::receiver::{Delivery, Inbox};
use crate::sender::{Receipt, SendOptions};

/// A request that came, as far as whoever works on it needs it: [`Delivery::request`].
#[derive(Clone)]
#[non_exhaustive]
pub struct IncomingRequest {
    /// Who asks: proven by both signatures under its key record.
    pub from: AgentName,
    /// The id of that agent.
    pub from_id: AgentId,
    /// The request's id. It is the same when the request comes again, because whoever worked on it died before the answer.
    pub message_id: MessageId,
    /// What is asked.
    pub payload: Bytes,
    /// How urgent it is.
    pub priority: Priority,
    /// How often the node pushed it before; zero the first time.
    pub attempt: u8,
    /// When it was made, by the asking agent's clock, Unix milliseconds.
    pub timestamp_ms: u64,
    /// When whoever asks stops waiting, by its own clock, Unix milliseconds.
    pub deadline_ms: u64,
}

impl IncomingRequest {
    /// How long whoever asks still waits; zero when nobody waits any more. By this machine's clock, against a deadline of the
    /// other's: clocks that differ make it shorter or longer by as much, but never longer than the request's whole time.
    #[must_use]
    pub fn remaining(&self) -> Duration {
        let whole_ms = self.deadline_ms.saturating_sub(self.timestamp_ms);
        Duration::from_millis(self.deadline_ms.saturating_sub(clock::now_ms()).min(whole_ms))
    }
}

/// Says how long the payload is, not what it is: this ends up in logs.
impl std::fmt::Debug for IncomingRequest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("IncomingRequest")
            .field("from", &self.from)
            .field("message_id", &self.message_id)
            .field("payload_bytes", &self.payload.len())
            .field("attempt", &self.attempt)
            .field("deadline_ms", &self.deadline_ms)
            .finish_non_exhaustive()
    }
}

impl Delivery {
    /// The request that this delivery is, made by [`Agent::request`](crate::Agent::request). None for whatever else came, also for
    /// a message of kind request that was sent by other means: it has no deadline.
    #[must_use]
    pub fn request(&self) -> Option<IncomingRequest> {
        let Framing::Request { deadline_ms } = self.framing else { return None };
        Some(IncomingRequest {
            from: self.from.clone(),
            from_id: self.from_id,
            message_id: self.message_id,
            payload: self.payload.clone(),
            priority: self.priority,
            attempt: self.attempt,
            timestamp_ms: self.timestamp_ms,
            deadline_ms,
        })
    }

    /// Answers a request, and acknowledges it when the node has the answer on its disk: if this process dies before that, the
    /// request comes again, and if it dies between the two, there is a second answer, which its sender drops. So work that
    /// must not be done twice looks at the request's [`message_id`](Self::message_id).
    ///
    /// The answer is of [`Priority::High`] at least, or of the request's own priority where the policy allows no more, and its time to live is what is left of the request's. When this is dropped
    /// before it is done, the answer may be on its way, and the request is not acknowledged.
    ///
    /// # Errors
    /// [`RespondError`]. The request is acknowledged only with [`RespondError::TooLate`]: after the others say what is to become
    /// of it.
    pub async fn respond(&self, payload: impl Into<Bytes>) -> Result<Receipt, RespondError> {
        let body: Bytes = payload.into();
        if body.len() > ANSWER_BODY_BYTES_MAX {
            return Err(RespondError::Send(SendError::TooLarge { bytes: body.len() + ANSWER_HEADER_BYTES }));
        }
        self.answer_with(ResponsePayload::Answered(&body)).await
    }

    /// Answers that it did not work, with the application's own number and a sentence for people, of which 1,024 bytes are kept.
    /// Whoever asks gets [`RequestError::Failed`](crate::RequestError::Failed). Numbers from 4,294,967,040 on are the SDK's.
    ///
    /// # Errors
    /// As [`respond`](Self::respond).
    pub async fn fail(&self, code: u32, message: &str) -> Result<Receipt, RespondError> {
        self.answer_with(ResponsePayload::Failed { code, text: message }).await
    }

    async fn answer_with(&self, answer: ResponsePayload<'_>) -> Result<Receipt, RespondError> {
        let request = self.request().ok_or(RespondError::NotARequest)?;
        let inbox = self.token.inbox().ok_or(RespondError::Send(SendError::Closed))?;
        if self.token.is_finished() {
            return Err(RespondError::Finished);
        }
        let left = request.remaining();
        if left.is_zero() {
            self.expire(&inbox);
            return Err(RespondError::TooLate);
        }
        let payload = Bytes::from(answer.to_bytes());
        let mut priority = self.priority.max(Priority::High);
        let receipt = loop {
            let options = SendOptions {
                kind: Kind::Response,
                priority,
                correlation_id: Some(self.message_id),
                notice: false,
                ttl: Some(whole_seconds(left)),
                ..SendOptions::default()
            };
            let submitted = inbox.submitter.submit(clock::new_message_id(), &self.from, payload.clone(), options, None);
            let sent = match submitted.await {
                Ok(sent) => sent.await,
                Err(error) => Err(error),
            };
            match sent {
                // The policy may let this agent send nothing that urgent; the request's own priority is the asker's.
                Err(SendError::Refused { code: RejectCode::PolicyPriority, .. }) if priority > self.priority => {
                    priority = self.priority;
                }
                sent => break sent.map_err(RespondError::Send)?,
            }
        };
        // Only now: a process that died before this sees the request again.
        self.ack();
        inbox.counters.requests_answered.add(1);
        Ok(receipt)
    }

    /// Nobody waits for the answer any more.
    pub(super) fn expire(&self, inbox: &Inbox) {
        inbox.counters.requests_expired.add(1);
        self.token.discard();
    }
}
