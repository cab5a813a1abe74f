//! Authorize: policy lets this sender send to this recipient, or publish in this channel, now.
//!
//! Promises that every message behind it was allowed by the decision table under the current snapshot, is sealed
//! to a key of its recipient that is accepted now, or to a prekey of a version whose key is, and is within what its sender's obligations say of size, priority and
//! rate; and that a signal's time has begun and is not over. No decision means no. Of what is published, nobody here knows the key.

use bytes::Bytes;
use creto_envelope::channel::ChannelRecord;
use creto_envelope::prekeys::prekey_record_version;
use creto_envelope::{AgentId, ChannelId, EntrySpan, RejectCode};
use creto_policy::{Action, Decision, DecisionTable, Obligations, Snapshot};
use creto_store::planted::{Bug, is_planted};

use super::Refusals;
use super::decode::{DecodedMessage, Lifespan};
use super::verify::{Paths, Verified, VerifiedBatch};
use crate::event::{ConnectionId, Now, ShardIndex};
use crate::expiry::{ChannelLimits, MessageRoom};
use crate::limits::{SHARED_MEMORY_DENOMINATOR, SHARED_MEMORY_NUMERATOR, SIGNAL_AHEAD_MS_MAX};
use crate::meter::Meter;
use crate::route::{BatchPart, Origin, PartMessage, Placement, ShardMessage};

/// Batches of which every message is allowed.
#[derive(Debug)]
pub(crate) struct Authorized {
    batches: Vec<AuthorizedBatch>,
}

#[derive(Debug)]
struct AuthorizedBatch {
    connection: ConnectionId,
    sequence: u64,
    sender: AgentId,
    header: Bytes,
    batch: Bytes,
    entries: Vec<EntrySpan>,
    paths: Paths,
    messages: Vec<DecodedMessage>,
}

pub(crate) fn authorize(
    verified: Verified,
    now: Now,
    snapshot: &Snapshot,
    decisions: &mut DecisionTable,
    meter: &mut Meter,
    refusals: &mut Refusals,
) -> Authorized {
    let counts = snapshot.reads_recent_messages();
    // With every message that the policy counts, it may say something else; and each use of an open door is counted.
    let asks_each_time = counts || snapshot.is_fail_open();
    let batches = verified.into_batches();
    let mut authorized = Vec::with_capacity(batches.len());
    for VerifiedBatch { connection, login, sequence, header, batch, entries, paths, mut messages } in batches {
        let sender = login.agent;
        // Most batches go to few recipients: what was just said about one is said again without looking it up.
        let mut last = None;
        if !asks_each_time {
            let runs = messages.chunk_by(|one, next| one.recipient == next.recipient);
            decisions.expect(runs.map(|run| (&sender, action(&run[0]), &run[0].recipient)));
        }
        messages.retain_mut(|message| {
            let asked = (message.recipient, message.key_id, message.is_to_prekey, message.is_published);
            let answer = match last {
                Some((known, answer)) if known == asked && !asks_each_time => answer,
                _ => match counts.then(|| meter.recent(&sender, now.monotonic_us)) {
                    Some(None) => Err(RejectCode::Overloaded),
                    recent => allowed(message, &sender, now, snapshot, decisions, recent.flatten().unwrap_or(0)),
                },
            };
            last = Some((asked, answer));
            let held = answer.map_err(Refused::from).and_then(|(room, obligations)| {
                // Before its sender's rate is used for it.
                if message.signal.is_some_and(|lifespan| !is_in_time(lifespan, now)) {
                    return Err(RejectCode::SignalTime.into());
                }
                hold_to(&obligations, message, &sender, now, meter)?;
                Ok(room)
            });
            match held {
                Ok(room) => {
                    message.room = room;
                    if counts {
                        meter.sent(&sender, now.monotonic_us);
                    }
                }
                Err(Refused { code, retry_after_ms }) => {
                    refusals.message_until(connection, sequence, message, code, retry_after_ms);
                }
            }
            held.is_ok()
        });
        authorized.push(AuthorizedBatch { connection, sequence, sender, header, batch, entries, paths, messages });
    }
    Authorized { batches: authorized }
}

/// Why a message is refused, and when trying again may help, if that is known better than the code says.
#[derive(Clone, Copy, Debug)]
struct Refused {
    code: RejectCode,
    retry_after_ms: Option<u32>,
}

impl From<RejectCode> for Refused {
    fn from(code: RejectCode) -> Self {
        Self { code, retry_after_ms: None }
    }
}

fn is_in_time(Lifespan { begins_ms, ends_ms }: Lifespan, now: Now) -> bool {
    begins_ms <= now.unix_ms.saturating_add(SIGNAL_AHEAD_MS_MAX) && now.unix_ms < ends_ms
}

fn action(message: &DecodedMessage) -> Action {
    if message.is_published { Action::Publish } else { Action::SendMessage }
}

/// What the recipient's mailbox or the channel may hold, and what the sender is bound to, if the message may go there.
fn allowed(
    message: &DecodedMessage,
    sender: &AgentId,
    now: Now,
    snapshot: &Snapshot,
    decisions: &mut DecisionTable,
    recent_messages: u32,
) -> Result<(MessageRoom, Obligations), RejectCode> {
    match decisions.decide(snapshot, now.unix_ms, sender, action(message), &message.recipient, recent_messages) {
        Decision::Deny(code) => Err(code),
        Decision::Allow(obligations) if message.is_published => {
            let channel = snapshot.channel(&ChannelId(message.recipient.0)).ok_or(RejectCode::UnknownChannel)?.record();
            let &ChannelRecord { retention_s, messages_max, bytes_max, .. } = channel;
            Ok((MessageRoom::Channel(ChannelLimits { retention_s, messages_max, bytes_max }), obligations))
        }
        Decision::Allow(obligations) => {
            // By the time of this turn: a kept decision may be older than the end of a grace period.
            let recipient = snapshot.principal(&message.recipient);
            let accepts = recipient.filter(|recipient| match message.is_to_prekey {
                // Which prekeys there were, nobody here knows; which version they belong to, their ids say.
                true => recipient.accepts_version(prekey_record_version(&message.key_id), now.unix_ms),
                false => recipient.accepts_key(&message.key_id, now.unix_ms),
            });
            let limits = accepts.map(|recipient| recipient.mailbox_limits(now.unix_ms));
            let room = limits.map(MessageRoom::Mailbox);
            room.map(|room| (room, obligations)).ok_or(RejectCode::UnknownRecipientKey)
        }
    }
}

/// Whether the message is what its sender is bound to. Its rate is used only by what passes.
fn hold_to(
    obligations: &Obligations,
    message: &DecodedMessage,
    sender: &AgentId,
    now: Now,
    meter: &mut Meter,
) -> Result<(), Refused> {
    if obligations.size_max.is_some_and(|size_max| u64::from(message.payload_bytes) > size_max) {
        return Err(RejectCode::PolicySize.into());
    }
    if !obligations.priorities.has(message.priority) {
        return Err(RejectCode::PolicyPriority.into());
    }
    if !obligations.has_rate() {
        return Ok(());
    }
    let taken = meter.take(sender, obligations, message.payload_bytes, now.monotonic_us);
    taken.map_err(|retry_after_ms| Refused { code: RejectCode::RateLimited, retry_after_ms: Some(retry_after_ms) })
}

impl Authorized {
    /// Splits the batches by the shard that owns each mailbox, and what is stored from what is not.
    pub(crate) fn into_parts(self, here: ShardIndex, placement: &Placement) -> Vec<(ShardIndex, ShardMessage)> {
        let mut parts: Vec<(ShardIndex, ShardMessage)> = Vec::with_capacity(self.batches.len());
        for batch in self.batches {
            // The shards in the order in which the batch names them, so that every run does the same.
            let mut owners: Vec<(ShardIndex, bool)> = Vec::new();
            let is_signal = |message: &DecodedMessage| message.signal.is_some() && !is_planted(Bug::StoreSignals);
            let owner_of = |message: &DecodedMessage| (placement.owner(&message.recipient), is_signal(message));
            for message in &batch.messages {
                let owner = owner_of(message);
                if !owners.contains(&owner) {
                    owners.push(owner);
                }
            }
            let origin = Origin { shard: here, connection: batch.connection };
            parts.extend(owners.into_iter().map(|owner| {
                let is_owned = |message: &&DecodedMessage| owner_of(message) == owner;
                let part = BatchPart {
                    origin,
                    sequence: batch.sequence,
                    sender: batch.sender,
                    header: batch.header.clone(),
                    messages: batch.part_messages(|| batch.messages.iter().filter(is_owned)),
                };
                let (shard, is_signal) = owner;
                (shard, if is_signal { ShardMessage::Signal(part) } else { ShardMessage::Submit(part) })
            }));
        }
        parts
    }

    pub(crate) fn batch_count(&self) -> u64 {
        self.batches.len() as u64
    }

    pub(crate) fn message_count(&self) -> u64 {
        self.batches.iter().map(|batch| batch.messages.len() as u64).sum()
    }
}

impl AuthorizedBatch {
    /// The messages of one part. They stay in the memory of the batch if they are most of it, and share a copy else: a
    /// part never keeps more memory alive than its messages are worth.
    fn part_messages<'m, I>(&self, messages: impl Fn() -> I) -> Vec<PartMessage>
    where
        I: Iterator<Item = &'m DecodedMessage>,
    {
        let spans = || messages().map(|message| (message, &self.entries[message.leaf_index as usize]));
        let (count, bytes) = spans().fold((0, 0), |(count, bytes), (message, entry)| {
            (count + 1, bytes + self.paths.range(message.leaf_index).len() + entry.envelope.len())
        });
        let held_bytes = self.batch.len() + self.paths.bytes.len();
        let mut parts = Vec::with_capacity(count);
        if bytes * SHARED_MEMORY_DENOMINATOR >= held_bytes * SHARED_MEMORY_NUMERATOR {
            parts.extend(spans().map(|(message, entry)| {
                let path = self.paths.bytes.slice(self.paths.range(message.leaf_index));
                part_message(message, entry, path, self.batch.slice(entry.envelope.clone()))
            }));
            return parts;
        }
        let mut copy = Vec::with_capacity(bytes);
        for (message, entry) in spans() {
            copy.extend_from_slice(&self.paths.bytes[self.paths.range(message.leaf_index)]);
            copy.extend_from_slice(&self.batch[entry.envelope.clone()]);
        }
        let mut rest = Bytes::from(copy);
        parts.extend(spans().map(|(message, entry)| {
            let path = rest.split_to(self.paths.range(message.leaf_index).len());
            let envelope = rest.split_to(entry.envelope.len());
            part_message(message, entry, path, envelope)
        }));
        parts
    }
}

fn part_message(message: &DecodedMessage, entry: &EntrySpan, path: Bytes, envelope: Bytes) -> PartMessage {
    PartMessage {
        leaf_index: message.leaf_index,
        recipient: message.recipient,
        message_id: message.message_id,
        priority: message.priority,
        ttl_s: message.ttl_s,
        bond: message.bond,
        wants_notice: message.wants_notice,
        room: message.room,
        salt: entry.salt,
        path,
        envelope,
    }
}
