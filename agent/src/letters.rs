//! Dead letters of the agent's own mailbox: asked for on the control stream, one question at a time.

use std::fmt;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use creto_envelope::letters::{
    DeadLetterChange, DeadLetterChanged, DeadLetterList, DeadLetterRead, DeadLetters, LetterChange, parse_dead_letter,
};
use creto_envelope::limits::{DEAD_LETTER_CHANGES_MAX, DEAD_LETTERS_LISTED_MAX};
use creto_envelope::{
    AgentId, AgentName, BatchHeaderView, EnvelopeView, FrameType, Kind, MessageId, Priority, RejectCode, Suite,
};
use tokio::sync::{Notify, oneshot};
use tokio::time::{Instant, sleep, timeout_at};

use crate::clock;
use crate::directory::Directory;
use crate::error::DeadLetterError;
use crate::limits::{DEAD_LETTER_TIMEOUT, REFUSED_PAUSE_MAX, REFUSED_PAUSE_MIN};
use crate::receiver::Inbox;
use crate::receiver::framing::Framing;
use crate::receiver::open::{Arrived, Opener, SignedHeader};
use crate::self_destruct;
use crate::stats::UNPOISONED;
use crate::stream::{Frame, Refusal};
use crate::worker::{offload, on_disk};

/// A dead letter that was looked at: verified and opened like a delivery. It stays where it is.
#[derive(Clone)]
#[non_exhaustive]
pub struct DeadLetter {
    /// Who sent it: proven by both signatures under the sender's key record.
    pub from: AgentName,
    /// The sender's id.
    pub from_id: AgentId,
    /// The message's id, chosen by the sender.
    pub message_id: MessageId,
    /// What was sent; of a request what is asked.
    pub payload: Bytes,
    /// When the sender made it, by the sender's clock, Unix milliseconds.
    pub timestamp_ms: u64,
    /// Ties a response to its request.
    pub correlation_id: Option<MessageId>,
    /// What it is for.
    pub kind: Kind,
    /// How urgent it is.
    pub priority: Priority,
    /// How often the node pushed it.
    pub attempt: u8,
    /// Its number in the mailbox.
    pub mailbox_sequence: u64,
}

/// Says how long the payload is, not what it is: this ends up in logs.
impl fmt::Debug for DeadLetter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DeadLetter")
            .field("from", &self.from)
            .field("message_id", &self.message_id)
            .field("payload_bytes", &self.payload.len())
            .field("attempt", &self.attempt)
            .field("mailbox_sequence", &self.mailbox_sequence)
            .finish_non_exhaustive()
    }
}

/// The questions of one agent, one at a time, over as many connections as it takes.
#[derive(Debug)]
pub(crate) struct Letters {
    mailbox: AgentId,
    turn: tokio::sync::Mutex<()>,
    exchange: Mutex<Exchange>,
    /// Wakes the control stream's writer: there is a question.
    asked: Notify,
    /// Wakes whoever waits until an earlier question is answered.
    answered: Notify,
}

#[derive(Debug, Default)]
enum Exchange {
    #[default]
    Idle,
    /// Not written yet.
    Asked(Vec<u8>, oneshot::Sender<Answer>),
    /// Written; the node owes an answer.
    Sent(oneshot::Sender<Answer>),
    Closed,
}

#[derive(Debug)]
enum Answer {
    Frame(Frame),
    Refused(Refusal),
    /// The connection ended before the answer.
    Lost,
    Closed,
}

impl Letters {
    pub(crate) fn new(mailbox: AgentId) -> Self {
        Self {
            mailbox,
            turn: tokio::sync::Mutex::default(),
            exchange: Mutex::default(),
            asked: Notify::new(),
            answered: Notify::new(),
        }
    }

    /// A page of them.
    pub(crate) async fn list(&self, after: u64, letters_max: u32) -> Result<DeadLetters, DeadLetterError> {
        let most = u32::try_from(DEAD_LETTERS_LISTED_MAX).expect("a short page");
        let question = DeadLetterList { mailbox: self.mailbox, after, letters_max: letters_max.clamp(1, most) };
        let frame = self.ask(FrameType::DeadLetters, |out| question.encode(out)).await?;
        DeadLetters::parse(&frame.body).map_err(DeadLetterError::Protocol)
    }

    /// Has these delivered again, or deletes them; how many of them were dead letters.
    pub(crate) async fn change(&self, change: LetterChange, sequences: &[u64]) -> Result<u64, DeadLetterError> {
        let mut count = 0;
        for some in sequences.chunks(DEAD_LETTER_CHANGES_MAX) {
            let question = DeadLetterChange { mailbox: self.mailbox, change, sequences: some.to_vec() };
            let frame = self.ask(FrameType::DeadLetterChanged, |out| question.encode(out)).await?;
            let changed = DeadLetterChanged::parse(&frame.body).map_err(DeadLetterError::Protocol)?;
            count += u64::from(changed.count);
        }
        Ok(count)
    }

    /// One of them, verified and opened.
    pub(crate) async fn read(
        &self,
        mailbox_sequence: u64,
        inbox: &Inbox,
        opener: &Arc<Opener>,
        directory: &Directory,
    ) -> Result<DeadLetter, DeadLetterError> {
        let question = DeadLetterRead { mailbox: self.mailbox, mailbox_sequence };
        let asked = self.ask(FrameType::DeadLetter, |out| question.encode(out)).await;
        let body = match asked {
            Err(DeadLetterError::Refused(RejectCode::UnknownDeadLetter)) => {
                return Err(DeadLetterError::Unknown { mailbox_sequence });
            }
            asked => asked?.body,
        };
        let letter = parse_dead_letter(&body).map_err(DeadLetterError::Protocol)?;
        let message = letter.messages.into_iter().next().expect("a dead letter is one message");
        if message.mailbox_sequence != mailbox_sequence {
            return Err(DeadLetterError::Protocol(RejectCode::FrameUnexpected));
        }
        let batch: BatchHeaderView<'_> = letter.batch_header.expect("a dead letter has its header");
        let identity = directory.lookup(batch.sender(), batch.key_record_version()).await;
        let envelope = EnvelopeView::parse(&body[message.envelope.clone()]);
        let is_of_session = envelope.is_ok_and(|envelope| envelope.suite() == Suite::Session);
        // The sessions belong to the process that is subscribed: they are asked for only where they are needed, and only for
        // as long.
        let sessions = match is_of_session {
            true => inbox.sessions_to_look().await.map_err(DeadLetterError::Sessions)?,
            false => inbox.no_sessions(),
        };
        let (opener, header) = (Arc::clone(opener), SignedHeader::new(body.clone(), identity));
        let attempt = message.attempt;
        let looked_in = Arc::clone(&sessions);
        let mut opened = offload(move || opener.open(&looked_in, &header, &body, &[message])).await;
        on_disk(move || drop(sessions)).await;
        let opened = match opened.pop().expect("one message, one verdict") {
            Ok(Arrived::Message(opened)) => opened,
            Ok(Arrived::Settled(_)) => return Err(DeadLetterError::Acknowledged { mailbox_sequence }),
            Err(refused) => return Err(DeadLetterError::Unopened { mailbox_sequence, code: refused.code }),
        };
        let payload = match opened.kind {
            Kind::Direct => self_destruct::looked_at(opened.payload, clock::now_ms())
                .ok_or(DeadLetterError::Destroyed { mailbox_sequence })?,
            kind => Framing::strip(kind, opened.payload).1,
        };
        Ok(DeadLetter {
            from: opened.identity.record.name.clone(),
            from_id: opened.identity.record.agent_id(),
            message_id: opened.message_id,
            payload,
            timestamp_ms: opened.timestamp_ms,
            correlation_id: (!opened.correlation_id.is_zero()).then_some(opened.correlation_id),
            kind: opened.kind,
            priority: opened.priority,
            attempt,
            mailbox_sequence,
        })
    }

    /// Asks until there is an answer; none of the questions does harm when it is asked twice.
    async fn ask(&self, expect: FrameType, encode: impl FnOnce(&mut Vec<u8>)) -> Result<Frame, DeadLetterError> {
        let mut question = Vec::new();
        encode(&mut question);
        let until = Instant::now() + DEAD_LETTER_TIMEOUT;
        let in_time = |_| DeadLetterError::TimedOut;
        let _turn = timeout_at(until, self.turn.lock()).await.map_err(in_time)?;
        loop {
            let code = match timeout_at(until, self.exchange(question.clone())).await.map_err(in_time)? {
                Answer::Frame(frame) if frame.frame_type == expect => return Ok(frame),
                Answer::Frame(_) => return Err(DeadLetterError::Protocol(RejectCode::FrameUnexpected)),
                Answer::Lost => continue,
                Answer::Closed => return Err(DeadLetterError::Closed),
                Answer::Refused(refusal) => match refusal.code {
                    Ok(code) if code.is_retryable() => {
                        let pause = Duration::from_millis(refusal.retry_after_ms.into());
                        sleep(pause.clamp(REFUSED_PAUSE_MIN, REFUSED_PAUSE_MAX)).await;
                        code
                    }
                    Ok(code) => return Err(DeadLetterError::Refused(code)),
                    Err(number) => return Err(DeadLetterError::RefusedWith(number)),
                },
            };
            if Instant::now() >= until {
                return Err(DeadLetterError::Refused(code));
            }
        }
    }

    async fn exchange(&self, frame: Vec<u8>) -> Answer {
        let (reply, answer) = oneshot::channel();
        loop {
            let answered = self.answered.notified();
            {
                let mut exchange = self.exchange.lock().expect(UNPOISONED);
                match &*exchange {
                    // Nobody waits for the answer any more, but the node owes it: it takes one question at a time.
                    Exchange::Sent(_) => {}
                    Exchange::Closed => return Answer::Closed,
                    Exchange::Idle | Exchange::Asked(..) => {
                        *exchange = Exchange::Asked(frame, reply);
                        break;
                    }
                }
            }
            answered.await;
        }
        self.asked.notify_one();
        answer.await.unwrap_or(Answer::Closed)
    }

    /// The next question for the control stream, waiting for one.
    pub(crate) async fn next_frame(&self) -> Vec<u8> {
        loop {
            let asked = self.asked.notified();
            {
                let mut exchange = self.exchange.lock().expect(UNPOISONED);
                match std::mem::take(&mut *exchange) {
                    // Whoever asked may have stopped waiting.
                    Exchange::Asked(_, reply) if reply.is_closed() => {}
                    Exchange::Asked(frame, reply) => {
                        *exchange = Exchange::Sent(reply);
                        return frame;
                    }
                    other => *exchange = other,
                }
            }
            asked.await;
        }
    }

    /// The node has answered. Says whether something was asked.
    pub(crate) fn answered(&self, frame: Frame) -> bool {
        self.answer(Answer::Frame(frame))
    }

    /// The node refused something. Says whether it was a question about dead letters: those name nobody.
    pub(crate) fn refused(&self, refusal: &Refusal) -> bool {
        refusal.context == [0; 16] && self.answer(Answer::Refused(*refusal))
    }

    /// The connection is gone, and with it the answer.
    pub(crate) fn lost(&self) {
        self.answer(Answer::Lost);
    }

    /// No connection will come any more.
    pub(crate) fn close(&self) {
        let before = std::mem::replace(&mut *self.exchange.lock().expect(UNPOISONED), Exchange::Closed);
        if let Exchange::Asked(_, reply) | Exchange::Sent(reply) = before {
            let _ = reply.send(Answer::Closed);
        }
        self.answered.notify_waiters();
    }

    fn answer(&self, answer: Answer) -> bool {
        let mut exchange = self.exchange.lock().expect(UNPOISONED);
        let other = match std::mem::take(&mut *exchange) {
            Exchange::Sent(reply) => {
                drop(exchange);
                // Whoever asked may have stopped waiting.
                let _ = reply.send(answer);
                self.answered.notify_waiters();
                return true;
            }
            other => other,
        };
        *exchange = other;
        false
    }
}
