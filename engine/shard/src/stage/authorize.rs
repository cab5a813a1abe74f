//! Authorize: policy lets this sender send to this recipient, now.
//!
//! Promises that every message behind it was allowed by the decision table under the current snapshot, and is sealed
//! to a key that its recipient has. No decision means no.

use bytes::Bytes;
use creto_envelope::RejectCode;
use creto_policy::{Action, Decision, DecisionTable, Snapshot};

use super::Refusals;
use super::verify::{Verified, VerifiedMessage};
use crate::event::{ConnectionId, Now, ShardIndex};
use crate::route::{BatchPart, Origin, PartMessage, Placement};

/// Batches of which every message is allowed.
#[derive(Debug)]
pub(crate) struct Authorized {
    batches: Vec<AuthorizedBatch>,
}

#[derive(Debug)]
struct AuthorizedBatch {
    connection: ConnectionId,
    sequence: u64,
    sender: creto_envelope::AgentId,
    header: Bytes,
    messages: Vec<VerifiedMessage>,
}

pub(crate) fn authorize(
    verified: Verified,
    now: Now,
    snapshot: &Snapshot,
    decisions: &mut DecisionTable,
    refusals: &mut Refusals,
) -> Authorized {
    let mut batches = Vec::new();
    for mut batch in verified.into_batches() {
        let sender = batch.login.agent;
        batch.messages.retain(|message| {
            let decoded = &message.decoded;
            let refused =
                match decisions.decide(snapshot, now.unix_ms, &sender, Action::SendMessage, &decoded.recipient) {
                    Decision::Deny(code) => Some(code),
                    Decision::Allow => {
                        let opens =
                            snapshot.principal(&decoded.recipient).is_some_and(|p| p.has_key_id(&decoded.key_id));
                        (!opens).then_some(RejectCode::UnknownRecipientKey)
                    }
                };
            if let Some(code) = refused {
                refusals.message(batch.connection, batch.sequence, decoded.leaf_index, code);
            }
            refused.is_none()
        });
        batches.push(AuthorizedBatch {
            connection: batch.connection,
            sequence: batch.sequence,
            sender,
            header: batch.header,
            messages: batch.messages,
        });
    }
    Authorized { batches }
}

impl Authorized {
    /// Splits the batches by the shard that owns each mailbox.
    pub(crate) fn into_parts(self, here: ShardIndex, placement: &Placement) -> Vec<(ShardIndex, BatchPart)> {
        let mut parts: Vec<(ShardIndex, BatchPart)> = Vec::new();
        for batch in self.batches {
            let first = parts.len();
            for message in batch.messages {
                let owner = placement.owner(&message.decoded.recipient);
                let known = parts[first..].iter().position(|(shard, _)| *shard == owner);
                let index = known.map_or_else(
                    || {
                        let part = BatchPart {
                            origin: Origin { shard: here, connection: batch.connection },
                            sequence: batch.sequence,
                            sender: batch.sender,
                            header: batch.header.clone(),
                            messages: Vec::new(),
                        };
                        parts.push((owner, part));
                        parts.len() - 1
                    },
                    |offset| first + offset,
                );
                parts[index].1.messages.push(PartMessage {
                    leaf_index: message.decoded.leaf_index,
                    recipient: message.decoded.recipient,
                    message_id: message.decoded.message_id,
                    priority: message.decoded.priority,
                    ttl_s: message.decoded.ttl_s,
                    salt: message.salt,
                    path: message.path,
                    envelope: message.envelope,
                });
            }
        }
        parts
    }

    pub(crate) fn message_count(&self) -> u64 {
        self.batches.iter().map(|batch| batch.messages.len() as u64).sum()
    }
}
