//! Receipts: what a sender that asks for some gets when its message was opened, and when the application acknowledges it.
//!
//! **Delivered**: made of what was verified and opened, before the application sees it. It holds nothing back: it is sent beside the
//! messages, tried for a moment, and left out where too many are on their way.
//!
//! **Done**: the receipt goes out first, and the message is acknowledged when the node has the receipt: a process that dies between
//! the two sees the message again, and its sender gets two receipts rather than none. Only when the receipt is refused for
//! good (the sender is gone, or takes nothing from this agent) is the message acknowledged without.

use std::collections::{HashMap, VecDeque};
use std::hash::Hash;
use std::sync::Arc;

use bytes::Bytes;
use creto_envelope::receipt::{ReceiptBody, ReceiptOutcome};
use creto_envelope::{AgentId, AgentName, Kind, MessageId, Priority};
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use super::sessions::SessionUse;
use super::{Answer, Delivery, Inbox};
use crate::clock;
use crate::error::SendError;
use crate::limits::{DELIVERED_RECEIPTS_MAX, DELIVERED_RETRY_FOR, RECEIPTS_REMEMBERED};
use crate::sender::SendOptions;
use crate::submit::Submitter;

/// Which receipts an agent sends to those who ask for them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ReceiptPolicy {
    /// None. Its messages are acknowledged all the same.
    Off,
    /// Those that say that a message is done. When it has which message, so when it is there, it tells nobody.
    Done,
    /// Those, and those that say that a message was delivered: whoever may send to it can find out when it receives.
    #[default]
    All,
}

/// What a receipt says.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[non_exhaustive]
pub enum ReceiptKind {
    /// The recipient has the message, verified and opened.
    Delivered,
    /// Its application acknowledged the message: the work is done.
    Done,
}

impl ReceiptKind {
    fn of(outcome: ReceiptOutcome) -> Option<Self> {
        match outcome {
            ReceiptOutcome::Acknowledged => Some(Self::Done),
            ReceiptOutcome::Delivered => Some(Self::Delivered),
            _ => None,
        }
    }

    fn outcome(self) -> ReceiptOutcome {
        match self {
            Self::Done => ReceiptOutcome::Acknowledged,
            Self::Delivered => ReceiptOutcome::Delivered,
        }
    }
}

/// A recipient's word about a message: [`Delivery::receipt`].
///
/// It holds as far as the delivery that it came in does, and that is verified like any other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct DeliveryReceipt {
    /// What it says.
    pub kind: ReceiptKind,
    /// The message that is confirmed.
    pub message_id: MessageId,
    /// SHA-256 of its envelope, as the recipient had it.
    pub envelope_sha256: [u8; 32],
    /// When that was, by the recipient's clock, Unix milliseconds.
    pub at_ms: u64,
}

impl DeliveryReceipt {
    pub(super) fn of(delivery: &Delivery) -> Option<Self> {
        let about = delivery.correlation_id.unwrap_or(MessageId::ZERO);
        let (kind, body) = read(delivery.kind, about, &delivery.payload)?;
        let ReceiptBody { message_id, envelope_sha256, at_ms, .. } = body;
        Some(Self { kind, message_id, envelope_sha256, at_ms })
    }
}

/// What a payload says, if it is a receipt.
fn read(kind: Kind, correlation_id: MessageId, payload: &[u8]) -> Option<(ReceiptKind, ReceiptBody)> {
    let body = ReceiptBody::parse(payload).filter(|_| kind == Kind::Receipt)?;
    // It says what it is about twice: in the header, for whoever routes it, and here.
    let is_whole = correlation_id == body.message_id;
    ReceiptKind::of(body.outcome).filter(|_| is_whole).map(|kind| (kind, body))
}

/// Receipts that came and messages whose delivery was told: of each a bounded number, of which the oldest are forgotten.
#[derive(Debug, Default)]
pub(super) struct Repeats {
    came: Firsts<(AgentId, MessageId, ReceiptKind)>,
    told: Firsts<(AgentId, MessageId)>,
}

impl Repeats {
    /// Whether the same agent has said the same of the same message before, in another one of its messages.
    pub(super) fn is_repeated(
        &mut self,
        from: AgentId,
        id: MessageId,
        kind: Kind,
        correlation_id: MessageId,
        payload: &[u8],
    ) -> bool {
        let Some((kind, body)) = read(kind, correlation_id, payload) else { return false };
        // One that comes again itself is shown again: the application has not acknowledged it.
        self.came.first((from, body.message_id, kind), id).is_some_and(|first| first != id)
    }
}

/// Which message was the first of each kind.
#[derive(Debug)]
struct Firsts<K> {
    known: HashMap<K, MessageId>,
    order: VecDeque<K>,
}

impl<K> Default for Firsts<K> {
    fn default() -> Self {
        Self { known: HashMap::new(), order: VecDeque::new() }
    }
}

impl<K: Copy + Eq + Hash> Firsts<K> {
    /// The one that there was before; `None` when this is the first, which is remembered.
    fn first(&mut self, key: K, id: MessageId) -> Option<MessageId> {
        if let Some(first) = self.known.get(&key) {
            return Some(*first);
        }
        if self.order.len() >= RECEIPTS_REMEMBERED
            && let Some(oldest) = self.order.pop_front()
        {
            self.known.remove(&oldest);
        }
        self.known.insert(key, id);
        self.order.push_back(key);
        None
    }
}

/// A receipt to send, and what is to be acknowledged then.
#[derive(Clone, Debug)]
pub(crate) struct Due {
    pub(super) kind: ReceiptKind,
    pub(super) to: AgentName,
    pub(super) to_id: AgentId,
    pub(super) message_id: MessageId,
    pub(super) priority: Priority,
    pub(super) envelope_sha256: [u8; 32],
    pub(super) session: Option<SessionUse>,
    pub(super) envelope_bytes: usize,
}

/// The ways to the task that sends receipts.
#[derive(Debug)]
pub(crate) struct Outbound {
    done: mpsc::Sender<Due>,
    /// None where nobody is told.
    delivered: Option<mpsc::Sender<Due>>,
}

/// The other ends.
#[derive(Debug)]
pub(crate) struct Inbound {
    done: mpsc::Receiver<Due>,
    delivered: mpsc::Receiver<Due>,
}

/// Queues for receipts. Every delivery that waits for its own still takes its place in the window, so there is room for all of those.
pub(crate) fn queues(window_messages: usize, policy: ReceiptPolicy) -> (Outbound, Inbound) {
    let (done, done_due) = mpsc::channel(window_messages);
    let (delivered, delivered_due) = mpsc::channel(window_messages);
    let delivered = (policy == ReceiptPolicy::All).then_some(delivered);
    (Outbound { done, delivered }, Inbound { done: done_due, delivered: delivered_due })
}

impl Inbox {
    /// Has the sender of a message told that it was opened, if it was not told and there is room.
    pub(super) fn tell_delivered(&self, due: Due) {
        let Some(delivered) = self.receipts.as_ref().and_then(|receipts| receipts.delivered.as_ref()) else { return };
        let place = match delivered.try_reserve() {
            Ok(place) => place,
            Err(TrySendError::Full(())) => return self.counters.receipts_left_out.add(1),
            Err(TrySendError::Closed(())) => return,
        };
        // After the place was taken: what was left out is told when the message comes again.
        let known = self.state().repeats.told.first((due.to_id, due.message_id), due.message_id);
        if known.is_none() {
            self.receipts_due.send_modify(|due| *due += 1);
            place.send(due);
        }
    }

    /// Has the receipt sent before the message is acknowledged. False when nothing sends receipts any more.
    pub(super) fn confirm(&self, due: &Due) -> bool {
        let Some(receipts) = &self.receipts else { return false };
        self.receipts_due.send_modify(|due| *due += 1);
        match receipts.done.try_send(due.clone()) {
            Ok(()) => {}
            // The agent is closing, or the node pushed more than it was allowed to: the message comes again.
            Err(_) => self.confirmed(due, Err(SendError::Closed)),
        }
        true
    }

    fn confirmed(&self, due: &Due, sent: Result<(), SendError>) {
        if due.kind == ReceiptKind::Delivered {
            match sent {
                Ok(()) => self.counters.receipts_sent.add(1),
                Err(SendError::Closed | SendError::Disconnected(_)) => {}
                Err(error) => {
                    tracing::debug!(to = %due.to, message_id = %due.message_id, %error, "a delivery could not be told");
                    self.counters.receipts_refused.add(1);
                }
            }
            self.receipts_due.send_modify(|due| *due -= 1);
            return;
        }
        let acknowledged = match sent {
            Ok(()) => {
                self.counters.receipts_sent.add(1);
                true
            }
            Err(SendError::Closed | SendError::Disconnected(_)) => false,
            Err(error) => {
                tracing::warn!(to = %due.to, message_id = %due.message_id, %error, "a receipt could not be sent");
                self.counters.receipts_refused.add(1);
                true
            }
        };
        let answer = if acknowledged { Answer::Done } else { Answer::Dropped };
        self.conclude(due.to_id, due.message_id, due.session, due.envelope_bytes, answer);
        self.receipts_due.send_modify(|due| *due -= 1);
    }

    /// Waits until no receipt is due.
    pub(crate) async fn receipts_sent(&self) {
        // The sender of this channel lives as long as the inbox.
        let _ = self.receipts_due.subscribe().wait_for(|due| *due == 0).await;
    }
}

/// Sends what is due, until the agent closes. As many are on their way as the window holds deliveries, and a bounded number that tell of
/// a delivery.
pub(crate) async fn send(
    submitter: Arc<Submitter>,
    inbox: Arc<Inbox>,
    mut due: Inbound,
    mut closing: watch::Receiver<bool>,
) {
    let mut under_way = JoinSet::new();
    let mut telling = 0;
    loop {
        tokio::select! {
            biased;
            _ = closing.wait_for(|closing| *closing) => break,
            Some(sent) = under_way.join_next() => {
                let (due, sent): (Due, _) = sent.expect("sending a receipt does not panic");
                telling -= usize::from(due.kind == ReceiptKind::Delivered);
                inbox.confirmed(&due, sent);
            }
            // First: whoever asked for both likes to hear in this order. Without a queue of its own it would take the place of the others.
            Some(due) = due.delivered.recv(), if telling < DELIVERED_RECEIPTS_MAX => {
                telling += 1;
                under_way.spawn(send_one(Arc::clone(&submitter), due));
            }
            Some(due) = due.done.recv() => {
                under_way.spawn(send_one(Arc::clone(&submitter), due));
            }
        }
    }
}

async fn send_one(submitter: Arc<Submitter>, due: Due) -> (Due, Result<(), SendError>) {
    let sent = submit_one(&submitter, &due).await;
    (due, sent)
}

async fn submit_one(submitter: &Submitter, due: &Due) -> Result<(), SendError> {
    let receipt = ReceiptBody {
        outcome: due.kind.outcome(),
        message_id: due.message_id,
        envelope_sha256: due.envelope_sha256,
        at_ms: clock::now_ms(),
    };
    let options = SendOptions {
        kind: Kind::Receipt,
        priority: due.priority,
        correlation_id: Some(due.message_id),
        ..SendOptions::default()
    };
    let payload = Bytes::copy_from_slice(&receipt.to_bytes());
    let mut handling = submitter.usual();
    if due.kind == ReceiptKind::Delivered {
        handling.retry_for_us = u64::try_from(DELIVERED_RETRY_FOR.as_micros()).unwrap_or(u64::MAX);
    }
    let sent = submitter.submit_so(handling, clock::new_message_id(), &due.to, payload, options, None).await?;
    sent.await.map(drop)
}

#[cfg(test)]
mod tests;
