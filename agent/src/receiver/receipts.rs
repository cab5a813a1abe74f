//! Receipts: what a sender that asks for one gets when the application acknowledges its message.
//!
//! The receipt goes out first, and the message is acknowledged when the node has the receipt: a process that dies between
//! the two sees the message again, and its sender gets two receipts rather than none. Only when the receipt is refused for
//! good (the sender is gone, or takes nothing from this agent) is the message acknowledged without.

use std::sync::Arc;

use bytes::Bytes;
use creto_envelope::receipt::{ReceiptBody, ReceiptOutcome};
use creto_envelope::{AgentId, AgentName, Kind, MessageId, Priority};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use super::sessions::SessionUse;
use super::{Answer, Delivery, Inbox};
use crate::clock;
use crate::error::SendError;
use crate::sender::SendOptions;
use crate::submit::Submitter;

/// A recipient's word that it has done with a message: [`Delivery::receipt`].
///
/// It holds as far as the delivery that it came in does, and that is verified like any other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct DeliveryReceipt {
    /// The message that is confirmed.
    pub message_id: MessageId,
    /// SHA-256 of its envelope, as the recipient had it.
    pub envelope_sha256: [u8; 32],
    /// When its application acknowledged it, by its own clock, Unix milliseconds.
    pub acknowledged_at_ms: u64,
}

impl DeliveryReceipt {
    pub(super) fn of(delivery: &Delivery) -> Option<Self> {
        let body = ReceiptBody::parse(&delivery.payload).filter(|_| delivery.kind == Kind::Receipt)?;
        let ReceiptBody { message_id, envelope_sha256, at_ms, .. } = body;
        // It says what it is about twice: in the header, for whoever routes it, and here.
        let is_whole = delivery.correlation_id == Some(message_id) && body.outcome == ReceiptOutcome::Acknowledged;
        is_whole.then_some(Self { message_id, envelope_sha256, acknowledged_at_ms: at_ms })
    }
}

/// A receipt to send, and what is to be acknowledged then.
#[derive(Clone, Debug)]
pub(crate) struct Due {
    pub(super) to: AgentName,
    pub(super) to_id: AgentId,
    pub(super) message_id: MessageId,
    pub(super) priority: Priority,
    pub(super) envelope_sha256: [u8; 32],
    pub(super) session: Option<SessionUse>,
    pub(super) envelope_bytes: usize,
}

impl Inbox {
    /// Has the receipt sent before the message is acknowledged. False when nothing sends receipts any more.
    pub(super) fn confirm(&self, due: &Due) -> bool {
        let Some(receipts) = &self.receipts else { return false };
        self.receipts_due.send_modify(|due| *due += 1);
        match receipts.try_send(due.clone()) {
            Ok(()) => {}
            // The agent is closing, or the node pushed more than it was allowed to: the message comes again.
            Err(_) => self.confirmed(due, Err(SendError::Closed)),
        }
        true
    }

    fn confirmed(&self, due: &Due, sent: Result<(), SendError>) {
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

/// Sends what is due, until the agent closes. As many are on their way as the window holds deliveries.
pub(crate) async fn send(
    submitter: Arc<Submitter>,
    inbox: Arc<Inbox>,
    mut due: mpsc::Receiver<Due>,
    mut closing: watch::Receiver<bool>,
) {
    let mut under_way = JoinSet::new();
    loop {
        tokio::select! {
            biased;
            _ = closing.wait_for(|closing| *closing) => break,
            Some(sent) = under_way.join_next() => {
                let (due, sent): (Due, _) = sent.expect("sending a receipt does not panic");
                inbox.confirmed(&due, sent);
            }
            Some(due) = due.recv() => {
                let submitter = Arc::clone(&submitter);
                under_way.spawn(async move {
                    let sent = send_one(&submitter, &due).await;
                    (due, sent)
                });
            }
        }
    }
}

async fn send_one(submitter: &Submitter, due: &Due) -> Result<(), SendError> {
    let receipt = ReceiptBody {
        outcome: ReceiptOutcome::Acknowledged,
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
    let sent = submitter.submit(clock::new_message_id(), &due.to, payload, options, None).await?;
    sent.await.map(drop)
}
