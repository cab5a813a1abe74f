//! Requests: a message that waits for its answer, and answering those of others.
//!
//! A request is a message of kind request whose deadline travels sealed inside it and, in whole seconds, as its time to live. Its
//! answer is a message of kind response whose correlation id is the request's message id. `docs/patterns.md` gives the bytes
//! and argues what happens when somebody dies in between.

use std::time::Duration;

use bytes::Bytes;
use creto_envelope::limits::PAYLOAD_PLAINTEXT_BYTES_MAX;
use creto_envelope::request::{REQUEST_BODY_BYTES_MAX, REQUEST_HEADER_BYTES, RequestPayload};
use creto_envelope::{AgentId, AgentName, Kind, MessageId, Priority, RejectCode};
use tokio::time::{Instant, timeout_at};

use crate::client::Agent;
use crate::clock;
use crate::error::{ReceiveError, RequestError, SendError};
use crate::limits::{REQUEST_RETRY_PART, REQUEST_TIMEOUT_MAX};
use crate::receiver::Delivery;
use crate::receiver::framing::Framing;
use crate::sender::SendOptions;
use crate::submit::Handling;

mod incoming;
mod serve;

pub use incoming::IncomingRequest;
pub use serve::{Failure, ServeOptions, ServeOutcome, Served, Server};

/// How a request is made. `RequestOptions::new(timeout)` is the usual.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct RequestOptions {
    /// How long to wait for the answer, all told: also for keys, for room and for the node. The answer is as good as none after
    /// that, so nobody works on the request any more, and the node drops it when it waits that long, rounded up to seconds. At
    /// most 30 days.
    pub timeout: Duration,
    /// How urgent it is. Its answer is at least [`Priority::High`]: somebody waits for it.
    pub priority: Priority,
    /// Whether the node is asked to say so when the request expires before its recipient acknowledged it
    /// ([`Agent::notices`]). Default off: its timeout says as much.
    pub notice: bool,
}

impl RequestOptions {
    /// Of normal priority, and without a notice.
    #[must_use]
    pub fn new(timeout: Duration) -> Self {
        Self { timeout, priority: Priority::Normal, notice: false }
    }

    /// The same, of another priority.
    #[must_use]
    pub fn priority(self, priority: Priority) -> Self {
        Self { priority, ..self }
    }

    /// The same, with or without a notice of its expiry.
    #[must_use]
    pub fn notice(self, notice: bool) -> Self {
        Self { notice, ..self }
    }
}

/// The answer to a request.
#[derive(Clone)]
#[non_exhaustive]
pub struct Response {
    /// Who answered: the agent that was asked, proven by both signatures under its key record.
    pub from: AgentName,
    /// The id of that agent.
    pub from_id: AgentId,
    /// The request's id.
    pub request_id: MessageId,
    /// The answer's own.
    pub message_id: MessageId,
    /// What was answered.
    pub payload: Bytes,
    /// When it was answered, by the answering agent's clock, Unix milliseconds.
    pub timestamp_ms: u64,
    /// The answer's proof, to show a third party who signed it; see [`Delivery::proof`](crate::Delivery::proof).
    pub proof: Option<Bytes>,
}

/// Says how long the payload is, not what it is: this ends up in logs.
impl std::fmt::Debug for Response {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Response")
            .field("from", &self.from)
            .field("request_id", &self.request_id)
            .field("message_id", &self.message_id)
            .field("payload_bytes", &self.payload.len())
            .finish_non_exhaustive()
    }
}

impl Agent {
    /// Asks another agent and waits for its answer; see [`request_with`](Self::request_with).
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/doc/node.rs"));
    /// # fn main() -> Result<(), Box<dyn Error>> { with_node(async |node| {
    /// # use std::time::Duration;
    /// # use creto_agent::AgentName;
    /// # let agent = node.connect("planner").await?;
    /// let worker = AgentName::parse("acme/worker")?;
    /// let answer = agent.request(&worker, "what is new?", Duration::from_secs(5)).await?;
    /// println!("{} says {:?}", answer.from, answer.payload);
    /// # assert_eq!(answer.payload, "what is new?");
    /// # Ok(()) }) }
    /// ```
    ///
    /// # Errors
    /// [`RequestError`].
    pub async fn request(
        &self,
        to: &AgentName,
        payload: impl Into<Bytes>,
        timeout: Duration,
    ) -> Result<Response, RequestError> {
        self.request_with(to, payload, RequestOptions::new(timeout)).await
    }

    /// Asks another agent and waits for its answer. As many requests as wanted may be under way; above 4,096 of one agent they
    /// wait for a place, which counts as their own time.
    ///
    /// The agent receives from the first request on, whether it has subscribed or not. What is no answer waits in its window as
    /// always, for [`subscribe`](Self::subscribe), and is left at the node where there is no room for it; answers come through
    /// all the same. Like every subscription this one replaces that of another process of the same agent, whose requests get no
    /// answers then.
    ///
    /// **Dropping the future gives the request up**, at any moment: it may still be worked on, and its answer is acknowledged
    /// and dropped when it comes ([`Stats::late_responses`](crate::Stats::late_responses)), as are answers to requests of a
    /// process that died. Nothing of it is left behind here. An answer is acknowledged when this returns it.
    ///
    /// # Errors
    /// [`RequestError`]. After [`RequestError::TimedOut`] the request may have been worked on.
    pub async fn request_with(
        &self,
        to: &AgentName,
        payload: impl Into<Bytes>,
        options: RequestOptions,
    ) -> Result<Response, RequestError> {
        let body: Bytes = payload.into();
        if body.len() > REQUEST_BODY_BYTES_MAX {
            // Counted with what goes before it, as it would not fit.
            let bytes = body.len() + REQUEST_HEADER_BYTES;
            debug_assert!(bytes > PAYLOAD_PLAINTEXT_BYTES_MAX);
            return Err(RequestError::NotSent(SendError::TooLarge { bytes }));
        }
        self.counters().requests.add(1);
        let message_id = clock::new_message_id();
        let after = options.timeout.min(REQUEST_TIMEOUT_MAX);
        let until = Instant::now() + after;
        let mut accepted = false;
        let exchange = self.exchange(message_id, to, &body, options, until, &mut accepted);
        match timeout_at(until, exchange).await {
            Ok(answer) => answer,
            Err(_) => Err(RequestError::TimedOut { to: to.to_string(), message_id, after, accepted }),
        }
    }

    async fn exchange(
        &self,
        message_id: MessageId,
        to: &AgentName,
        body: &[u8],
        options: RequestOptions,
        until: Instant,
        accepted: &mut bool,
    ) -> Result<Response, RequestError> {
        // Waited for before it is sent: the answer may be faster than the node's acknowledgement.
        let mut waiting = self.inbox().ask(message_id, self.id_of(to)).await.map_err(RequestError::Receiving)?;
        // What it waited for a place is over, for the other side too.
        let left = until.saturating_duration_since(Instant::now());
        let left_ms = u64::try_from(left.as_millis()).unwrap_or(u64::MAX);
        let deadline_ms = clock::now_ms().saturating_add(left_ms);
        let payload = Bytes::from(RequestPayload { deadline_ms, body }.to_bytes());
        let sending = SendOptions {
            kind: Kind::Request,
            priority: options.priority,
            notice: options.notice,
            ttl: Some(whole_seconds(left)),
            ..SendOptions::default()
        };
        let submitter = self.submitter();
        let retry_us = u64::try_from((left / REQUEST_RETRY_PART).as_micros()).unwrap_or(u64::MAX);
        let usual = submitter.usual();
        let handling = Handling { retry_for_us: retry_us.min(usual.retry_for_us), ..usual };
        let failed = |error| RequestError::of_send(to, error);
        let submitted = submitter.submit_so(handling, message_id, to, payload, sending, None);
        let mut sent = submitted.await.map_err(failed)?;
        let mut is_told = false;
        let answer = loop {
            tokio::select! {
                biased;
                answer = waiting.answer() => break answer.map_err(RequestError::Receiving)?,
                sent = &mut sent, if !is_told => {
                    is_told = true;
                    match sent {
                        Ok(_) => *accepted = true,
                        // It may be durable, and answered.
                        Err(SendError::Unknown { .. }) => {}
                        Err(error) => return Err(failed(error)),
                    }
                }
            }
        };
        drop(waiting);
        self.take(message_id, answer)
    }

    /// The answer is the caller's: from here to the end of the request nothing waits.
    fn take(&self, request_id: MessageId, answer: Delivery) -> Result<Response, RequestError> {
        self.counters().responses.add(1);
        answer.ack();
        match answer.framing {
            Framing::Failed { code } => Err(RequestError::Failed {
                from: answer.from.to_string(),
                code,
                message: String::from_utf8_lossy(&answer.payload).into_owned(),
            }),
            Framing::Answered => Ok(Response {
                from: answer.from.clone(),
                from_id: answer.from_id,
                request_id,
                message_id: answer.message_id,
                payload: answer.payload.clone(),
                timestamp_ms: answer.timestamp_ms,
                proof: answer.proof().cloned(),
            }),
            _ => Err(RequestError::Unreadable { from: answer.from.to_string(), message_id: answer.message_id }),
        }
    }
}

/// A time to live that is no shorter.
fn whole_seconds(time: Duration) -> Duration {
    Duration::from_secs(time.as_secs() + u64::from(time.subsec_nanos() > 0))
}

impl RequestError {
    fn of_send(to: &AgentName, source: SendError) -> Self {
        let to = to.to_string();
        match source.code() {
            Some(RejectCode::PolicyDenied | RejectCode::PolicySize | RejectCode::PolicyPriority) => {
                Self::Denied { to, source }
            }
            Some(RejectCode::UnknownAgent | RejectCode::UnknownRecipient) => Self::UnknownAgent { to, source },
            Some(RejectCode::MailboxFull) => Self::MailboxFull { to, source },
            _ => match source {
                SendError::Closed => Self::Receiving(ReceiveError::Closed),
                SendError::Disconnected(error) => Self::Receiving(ReceiveError::Disconnected(error)),
                source => Self::NotSent(source),
            },
        }
    }
}
