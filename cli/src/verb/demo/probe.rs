//! What must not work: a batch that was changed on its way, a message that policy forbids, an agent that is revoked. All go
//! below the SDK, which would not send them; all count by what the node answers.

use std::sync::Arc;
use std::time::{Duration, Instant};

use creto_agent::raw::{RawConnection, RawStream, RawStreamEnded, seal_envelope, signed_batch_frame};
use creto_agent::{ConnectError, MessageId, RejectCode};
use creto_crypto_accel::digest::sha256;
use creto_envelope::control::{Reject, StreamRole};
use creto_envelope::deliver::{Subscribe, Subscribed};
use creto_envelope::submit::{SubmitAck, SubmitResult};
use creto_envelope::{EnvelopeHeader, FrameType, KeyId};
use creto_service::client::Client;
use creto_service::states::{StateChange, StateWord};
use tokio::time::timeout;

use super::book::{Pair, Sent};
use super::cast::{Cast, Member};
use super::node::NodeHost;
use super::payload::Payloads;
use crate::client::{connect_failure, control_failure};
use crate::exit::{Exit, Failure};
use crate::moment::now_ms;

/// The node answers in milliseconds.
const ANSWER_WITHIN: Duration = Duration::from_secs(20);

/// What the node said to something that must not work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It was refused with this code.
    Refused(u16),
    /// It was taken.
    Accepted,
    /// It never came to it.
    NotTried,
}

impl Verdict {
    pub(super) fn is(self, code: RejectCode) -> bool {
        self == Self::Refused(code.as_u16())
    }

    /// For the end of a sentence.
    pub(super) fn sentence(self) -> String {
        match self {
            Self::Refused(_) => format!("refused, {}", self.text()),
            Self::Accepted | Self::NotTried => self.text(),
        }
    }

    /// The name of the code.
    pub(super) fn text(self) -> String {
        match self {
            Self::Accepted => "accepted".to_owned(),
            Self::NotTried => "not tried".to_owned(),
            Self::Refused(code) => {
                RejectCode::from_u16(code).map_or_else(|| code.to_string(), |code| code.name().to_owned())
            }
        }
    }
}

/// What became of a signed batch that was sent twice: changed, and as it was.
pub(super) struct Tampered {
    /// The batch with one byte of one envelope changed.
    pub(super) changed: Verdict,
    /// The same batch, untouched: it must be taken, or the first refusal proves nothing.
    pub(super) untouched: Verdict,
    /// The messages of the untouched one.
    pub(super) messages: Vec<Sent>,
}

/// Sends the messages of these numbers as one signed batch from the first sender to the first receiver: once with one
/// byte changed, once as it is.
pub(super) async fn tamper(
    host: &NodeHost,
    cast: &Cast,
    payloads: &Payloads,
    numbers: std::ops::Range<u64>,
) -> Result<Tampered, Failure> {
    let (sender, receiver) = (&cast.senders[0], &cast.receivers[0]);
    let mut envelopes = Vec::new();
    let mut messages = Vec::new();
    for number in numbers {
        let payload = payloads.get(number);
        let (id, envelope) = seal(sender, receiver, &payload)?;
        envelopes.push(envelope);
        messages.push(Sent { id, pair: Pair { from: 0, to: 0 }, digest: sha256(&[&payload]), due: None });
    }
    let frame = |sequence| {
        signed_batch_frame(&sender.keys, sequence, &envelopes).map_err(|code| Failure::of(Exit::System, &code))
    };
    let mut changed = frame(1)?;
    let victim = &envelopes[envelopes.len() / 2];
    let at = changed.windows(victim.len()).position(|window| window == victim).expect("the frame holds its envelopes");
    // The last byte of the ciphertext's tag: nothing but the signed tree can notice on the way.
    changed[at + victim.len() - 1] ^= 1;

    let mut line = Line::log_in(host, sender, StreamRole::Submit).await?;
    let changed = line.submit(1, changed).await?;
    let untouched = line.submit(2, frame(2)?).await?;
    Ok(Tampered { changed, untouched, messages })
}

/// Sends a message from the stranger to the first receiver: sealed and signed as it should be, and not allowed.
pub(super) async fn forbidden_send(host: &NodeHost, cast: &Cast) -> Result<(Verdict, MessageId), Failure> {
    // The stranger came by the receiver's key record some other way: the node does not give it out.
    let (id, envelope) = seal(&cast.stranger, &cast.receivers[0], b"let me in")?;
    let frame = signed_batch_frame(&cast.stranger.keys, 1, &[envelope]);
    let frame = frame.map_err(|code| Failure::of(Exit::System, &code))?;
    let mut line = Line::log_in(host, &cast.stranger, StreamRole::Submit).await?;
    Ok((line.submit(1, frame).await?, id))
}

/// What became of an agent that was revoked while it was connected.
#[derive(Clone, Copy, Debug)]
pub(super) struct Revoked {
    /// With what its connection was closed; accepted: it was not.
    pub(super) closed: Verdict,
    /// From the operator's request until then.
    pub(super) closed_after: Duration,
    /// What the node said to its next login.
    pub(super) again: Verdict,
}

/// Revokes an agent that is logged in, as an operator does it, and lets it come back.
pub(super) async fn revoke(host: &NodeHost, member: &Member) -> Result<Revoked, Failure> {
    let line = Line::log_in(host, member, StreamRole::Deliver).await?;
    let operator = Client::new(host.control_socket());
    let reason = Some("the demo revokes it".to_owned());
    let change = StateChange { state: StateWord::Revoked, reason, since_ms: None };
    let asked = Instant::now();
    let closing = async {
        let reason = timeout(ANSWER_WITHIN, line.connection.closed()).await;
        (reason, asked.elapsed())
    };
    let (changed, (reason, closed_after)) = tokio::join!(operator.set_state(member.name(), &change), closing);
    changed.map_err(|error| control_failure(&error))?;
    let closed = match reason {
        Ok(reason) => refused(&reason)?,
        Err(_) => Verdict::Accepted,
    };
    let certificate = host.certificate();
    let connection = RawConnection::connect(host.address(), &certificate, ANSWER_WITHIN).await;
    let connection = connection.map_err(|error| connect_failure(&error))?;
    let again = match connection.log_in(&member.keys).await {
        Ok(_) => Verdict::Accepted,
        Err(error) => refused(&error)?,
    };
    connection.close();
    Ok(Revoked { closed, closed_after, again })
}

/// The code in it; without one it is an error of this run.
fn refused(error: &ConnectError) -> Result<Verdict, Failure> {
    error.code().map(|code| Verdict::Refused(code.as_u16())).ok_or_else(|| connect_failure(error))
}

/// How many messages wait in a member's mailbox, as the node says it.
pub(super) async fn queued_messages(host: &NodeHost, member: &Member) -> Result<u64, Failure> {
    let mut line = Line::log_in(host, member, StreamRole::Deliver).await?;
    let mut frame = Vec::new();
    Subscribe { mailbox: member.id() }.encode(&mut frame);
    line.stream.send(frame).await.map_err(|ended| line.failure(&ended))?;
    // Without credit nothing is delivered.
    let answer = line.next().await?;
    Subscribed::parse(&answer.body).map(|subscribed| subscribed.queued_messages).map_err(|code| line.failure(&code))
}

fn seal(from: &Member, to: &Member, payload: &[u8]) -> Result<(MessageId, Vec<u8>), Failure> {
    let id = MessageId::from_parts(now_ms(), random()?);
    let key_id = KeyId::derive(&to.record.record.x25519, &to.record.record.ml_kem_768);
    let header = EnvelopeHeader::sealed(from.id(), to.id(), key_id, id, now_ms(), payload.len());
    let header = header.map_err(|code| Failure::of(Exit::System, &code))?;
    let envelope = seal_envelope(&header, &to.record, payload).map_err(|error| Failure::of(Exit::System, &error))?;
    Ok((id, envelope))
}

pub(super) fn random<const N: usize>() -> Result<[u8; N], Failure> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(|error| Failure::of(Exit::System, &error))?;
    Ok(bytes)
}

/// A connection that is logged in, with one stream.
struct Line {
    connection: RawConnection,
    /// The login holds as long as its stream does.
    _control: RawStream,
    stream: RawStream,
}

impl Line {
    async fn log_in(host: &NodeHost, member: &Member, role: StreamRole) -> Result<Self, Failure> {
        let failed = |error: ConnectError| connect_failure(&error);
        let certificate = host.certificate();
        let connection = RawConnection::connect(host.address(), &certificate, ANSWER_WITHIN);
        let connection = connection.await.map_err(failed)?;
        let (control, _) = connection.log_in(&Arc::clone(&member.keys)).await.map_err(failed)?;
        let stream = connection.open(role).await.map_err(failed)?;
        Ok(Self { connection, _control: control, stream })
    }

    /// Sends a frame with one batch and waits for what the node says to it.
    async fn submit(&mut self, sequence: u64, frame: Vec<u8>) -> Result<Verdict, Failure> {
        self.stream.send(frame).await.map_err(|ended| self.failure(&ended))?;
        let mut results: Vec<SubmitResult> = Vec::new();
        loop {
            let answer = self.next().await?;
            if answer.frame_type == FrameType::Reject as u8 {
                let reject = Reject::parse(&answer.body).map_err(|code| self.failure(&code))?;
                return Ok(Verdict::Refused(reject.code));
            }
            let ack = SubmitAck::parse(&answer.body).map_err(|code| self.failure(&code))?;
            results.extend(ack.results);
            if ack.through_sequence >= sequence {
                let refused = results.iter().find(|result| result.sequence == sequence);
                return Ok(refused.map_or(Verdict::Accepted, |result| Verdict::Refused(result.code)));
            }
        }
    }

    async fn next(&mut self) -> Result<creto_agent::raw::RawFrame, Failure> {
        match timeout(ANSWER_WITHIN, self.stream.next()).await {
            Ok(Ok(Some(frame))) => Ok(frame),
            Ok(Ok(None)) => Err(self.failure(&"it closed the stream")),
            Ok(Err(ended)) => Err(self.ended(&ended).await),
            Err(_) => Err(self.failure(&"it did not answer")),
        }
    }

    /// The connection knows the reason better than the stream does.
    async fn ended(&self, ended: &RawStreamEnded) -> Failure {
        match timeout(ANSWER_WITHIN, self.connection.closed()).await {
            Ok(reason) => connect_failure(&reason),
            Err(_) => self.failure(ended),
        }
    }

    fn failure(&self, what: &dyn std::fmt::Display) -> Failure {
        Failure::new(Exit::Refused, format!("the node answered a hand-made frame in an unexpected way: {what}"), "")
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        self.connection.close();
    }
}
