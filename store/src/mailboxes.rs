//! The mailboxes of a shard: what is admitted, what is queued, what goes to whom next.
//!
//! State changes in two steps. [`Mailboxes::admit`] and [`Mailboxes::settle`] decide and reserve; the record they lead to
//! goes to the log; [`Mailboxes::apply`] makes it true once it is durable. Recovery calls the same `apply` with the same
//! records in the same order, so the queues after a restart are the queues before it.

use std::collections::BTreeMap;

use bytes::Bytes;
use hashbrown::HashMap;
use thiserror::Error;

use crate::dedup::{DedupConfig, Verdict, Windows};
use crate::hash::HashKey;
use crate::id::{MailboxId, MessageId, SenderId};
use crate::index::{Index, Queued};
use crate::limits::{
    MAILBOX_BYTES_MAX, MAILBOX_MESSAGES_MAX, MAILBOXES_MAX, MESSAGE_OVERHEAD_BYTES, RESIDENT_BYTES_MAX,
    SETTLE_SEQUENCES_MAX,
};
use crate::lsn::{Position, SegmentNumber};
use crate::mailbox::Mailbox;
use crate::planted::{Bug, is_planted};
use crate::record::{BatchPart, PartMessage, Record, Settle, SettleCause};

/// Quotas. The defaults are those of [`limits`](crate::limits).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MailboxesConfig {
    /// Messages queued in one mailbox.
    pub mailbox_messages_max: u64,
    /// Bytes queued in one mailbox.
    pub mailbox_bytes_max: u64,
    /// Bytes queued on the shard.
    pub resident_bytes_max: u64,
    /// Mailboxes that hold anything.
    pub mailboxes_max: usize,
    /// Deduplication.
    pub dedup: DedupConfig,
}

impl Default for MailboxesConfig {
    fn default() -> Self {
        Self {
            mailbox_messages_max: MAILBOX_MESSAGES_MAX,
            mailbox_bytes_max: MAILBOX_BYTES_MAX,
            resident_bytes_max: RESIDENT_BYTES_MAX,
            mailboxes_max: MAILBOXES_MAX,
            dedup: DedupConfig::default(),
        }
    }
}

/// A message may go into the log, or is there already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Admit {
    /// Put it into a part under this sequence, and append the part.
    New(u64),
    /// It was admitted before. Acknowledge it at once only if it is `durable`; else its first copy is on its way, and it is
    /// acknowledged when everything is durable that was appended up to and with the next record appended from here on.
    Duplicate {
        /// Whether its first copy is durable.
        durable: bool,
    },
}

/// Why a message was not admitted. All of these are the sender's business, none is the node's fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum Refusal {
    /// the recipient's mailbox is full: try again when it has read some
    #[error("the recipient's mailbox is full: try again when it has read some")]
    MailboxFull,
    /// the shard holds as much as it may: try again later
    #[error("the shard holds as much as it may: try again later")]
    ShardFull,
    /// the message id is older than what the node can tell apart: send the message under a new id
    #[error("the message id is older than what the node can tell apart: send the message under a new id")]
    OutsideDedupWindow,
    /// the message id's time is ahead of the node's clock: set the sender's clock
    #[error("the message id's time is too far ahead of the node's clock: set the sender's clock")]
    AheadOfClock,
    /// too many messages of this sender wait for the disk: try again when some are acknowledged
    #[error("too many messages of this sender wait for the disk: try again when some are acknowledged")]
    TooManyInFlight,
    /// the shard remembers as many senders as it may: try again later
    #[error("the shard remembers as many senders as it may: try again later")]
    TooManySenders,
}

/// A message to hand to a subscriber.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delivery {
    /// The message, with its sequence.
    pub message: PartMessage,
    /// The header of its batch.
    pub batch_header: Bytes,
    /// Its record. Deliveries from the same record have the same batch header.
    pub position: Position,
    /// How often it was handed out, this time included: 1 for the first.
    pub attempt: u8,
}

/// The mailboxes of a shard.
#[derive(Debug)]
pub struct Mailboxes {
    config: MailboxesConfig,
    mailboxes: HashMap<MailboxId, Mailbox, HashKey>,
    index: Index,
    dedup: Windows,
    next_sequence: u64,
    /// Queued and reserved.
    resident_bytes: u64,
    messages: u64,
}

impl Mailboxes {
    /// No mailboxes. `hash_key` is random: it keeps senders from choosing ids that collide.
    pub fn new(config: MailboxesConfig, hash_key: [u64; 2]) -> Self {
        let key = HashKey(hash_key);
        Self {
            dedup: Windows::new(config.dedup.clone(), key),
            config,
            mailboxes: HashMap::with_hasher(key),
            index: Index::default(),
            next_sequence: 1,
            resident_bytes: 0,
            messages: 0,
        }
    }

    /// Decides about a message before its record is appended. A new one is reserved for: append its record, or
    /// [`withdraw`](Self::withdraw) it. `envelope_bytes` is the length of its envelope.
    ///
    /// # Errors
    /// [`Refusal`], to be sent to the sender.
    pub fn admit(
        &mut self,
        sender: SenderId,
        message_id: MessageId,
        mailbox: MailboxId,
        envelope_bytes: usize,
        now_ms: u64,
    ) -> Result<Admit, Refusal> {
        match self.dedup.check(sender, message_id, now_ms) {
            Verdict::New => {}
            Verdict::Duplicate { durable } => return Ok(Admit::Duplicate { durable }),
            Verdict::TooOld => return Err(Refusal::OutsideDedupWindow),
            Verdict::TooFarAhead => return Err(Refusal::AheadOfClock),
            Verdict::TooManyPending => return Err(Refusal::TooManyInFlight),
            Verdict::TooManySenders => return Err(Refusal::TooManySenders),
        }
        let cost = cost_of(envelope_bytes);
        if self.resident_bytes + cost > self.config.resident_bytes_max {
            return Err(Refusal::ShardFull);
        }
        if !self.mailboxes.contains_key(&mailbox) && self.mailboxes.len() >= self.config.mailboxes_max {
            return Err(Refusal::ShardFull);
        }
        let queues = self.mailboxes.entry(mailbox).or_default();
        let messages_after = queues.messages + queues.reserved_messages + 1;
        let bytes_after = queues.bytes + queues.reserved_bytes + cost;
        if messages_after > self.config.mailbox_messages_max || bytes_after > self.config.mailbox_bytes_max {
            self.forget_if_empty(mailbox);
            return Err(Refusal::MailboxFull);
        }
        queues.reserved_messages += 1;
        queues.reserved_bytes += cost;
        self.resident_bytes += cost;
        self.dedup.insert_pending(sender, message_id);
        let sequence = self.next_sequence;
        self.next_sequence += 1;
        Ok(Admit::New(sequence))
    }

    /// Takes back the admission of a part that was not appended. Nothing may have been admitted since its last message.
    pub fn withdraw(&mut self, part: &BatchPart) {
        for message in part.messages.iter().rev() {
            self.dedup.withdraw(message.sender, message.message_id);
            let cost = cost_of(message.envelope.len());
            self.unreserve(message.mailbox, cost);
            self.resident_bytes -= cost;
            self.forget_if_empty(message.mailbox);
        }
    }

    /// Makes a durable record true. In recovery: for every record, in order.
    pub fn apply(&mut self, position: Position, record: Record) {
        match record {
            Record::BatchPart(part) => self.apply_part(position, part),
            Record::Settle(settle) => self.apply_settle(&settle),
            Record::Dedup(dedup) => {
                self.next_sequence = self.next_sequence.max(dedup.next_sequence);
                for sender in &dedup.senders {
                    self.dedup.carried_over(sender, position.segment);
                }
            }
            Record::Start(_) => {}
        }
    }

    /// The next messages for the subscriber of a mailbox, within its credit: highest priority first, then in order. With
    /// any byte of credit left, one message may overdraw it.
    /// They count as handed out until they are settled or the mailbox is [`reset`](Self::reset).
    /// What expired is left out; [`expire`](Self::expire) settles it.
    pub fn next_for_delivery(
        &mut self,
        mailbox: MailboxId,
        credit_messages: u32,
        credit_bytes: u64,
        now_ms: u64,
    ) -> Vec<Delivery> {
        let mut deliveries = Vec::new();
        let Some(queues) = self.mailboxes.get_mut(&mailbox) else { return deliveries };
        let (mut messages_left, mut bytes_left) = (credit_messages, credit_bytes);
        while messages_left > 0 && bytes_left > 0 {
            let Some((priority, sequence, slot)) = queues.front() else { break };
            let queued = self.index.get_mut(slot);
            let is_over = queued.message.expiry_ms != 0 && queued.message.expiry_ms <= now_ms;
            if !is_over && !queued.is_settling {
                let bytes = queued.message.envelope.len() as u64;
                // The first message may overdraw: else one that is larger than all credit would wait for ever.
                if bytes > bytes_left && !deliveries.is_empty() {
                    break;
                }
                bytes_left = bytes_left.saturating_sub(bytes);
                messages_left -= 1;
                queued.attempt = queued.attempt.saturating_add(1);
                deliveries.push(Delivery {
                    message: queued.message.clone(),
                    batch_header: queued.batch_header.clone(),
                    position: queued.position,
                    attempt: queued.attempt,
                });
            }
            // What is over or being settled waits with what is handed out for the record that ends it.
            queues.pop(priority);
            queues.cursor.hand_out(sequence, slot);
        }
        deliveries
    }

    /// The record that settles these messages, to append. Sequences that are unknown or already being settled are left
    /// out; `None` when nothing is left. If the record is not appended, call [`settle_refused`](Self::settle_refused).
    pub fn settle(&mut self, mailbox: MailboxId, sequences: &[u64], cause: SettleCause) -> Option<Settle> {
        let queues = self.mailboxes.get(&mailbox)?;
        let mut settled = Vec::new();
        for &sequence in sequences.iter().take(SETTLE_SEQUENCES_MAX) {
            let Some(slot) = queues.find(sequence) else { continue };
            let queued = self.index.get_mut(slot);
            if !queued.is_settling {
                queued.is_settling = true;
                settled.push(sequence);
            }
        }
        (!settled.is_empty()).then_some(Settle { mailbox, cause, sequences: settled })
    }

    /// A record of [`settle`](Self::settle) or [`expire`](Self::expire) was not appended: its messages stay.
    pub fn settle_refused(&mut self, settle: &Settle) {
        let Some(queues) = self.mailboxes.get(&settle.mailbox) else { return };
        for slot in settle.sequences.iter().filter_map(|&sequence| queues.find(sequence)) {
            self.index.get_mut(slot).is_settling = false;
        }
    }

    /// Records that settle up to `messages_max` messages whose time is over, to append. Also lets go of message ids that
    /// are too old to be asked about. Call it now and then.
    pub fn expire(&mut self, now_ms: u64, messages_max: usize) -> Vec<Settle> {
        let now_ms = if is_planted(Bug::ExpireEarly) { now_ms + 500 } else { now_ms };
        self.dedup.expire(now_ms, messages_max);
        let mut by_mailbox: BTreeMap<MailboxId, Vec<u64>> = BTreeMap::new();
        for (mailbox, sequence) in self.index.expired(now_ms, messages_max) {
            by_mailbox.entry(mailbox).or_default().push(sequence);
        }
        let settle = |(mailbox, sequences): (_, Vec<u64>)| self.settle(mailbox, &sequences, SettleCause::Expired);
        by_mailbox.into_iter().filter_map(settle).collect()
    }

    /// The subscriber of a mailbox is gone: what it was given and has not settled goes back to the front, in order.
    pub fn reset(&mut self, mailbox: MailboxId) {
        let Some(queues) = self.mailboxes.get_mut(&mailbox) else { return };
        let index = &self.index;
        for (sequence, slot) in queues.cursor.take_back(|slot| index.get(slot).is_settling) {
            queues.put_back(self.index.get(slot).message.priority, sequence, slot);
        }
    }

    /// The segment at which the log may begin now, if it is worth it: nothing queued lies before it, and it frees eight
    /// times what must be carried over, or, when the log `is_short` of space, more than that.
    pub fn trim_point(
        &self,
        log_start: SegmentNumber,
        active: SegmentNumber,
        segment_bytes: u64,
        is_short: bool,
    ) -> Option<SegmentNumber> {
        let point = self.index.oldest_live_segment().map_or(active, |oldest| oldest.min(active));
        let freed_bytes = point.0.saturating_sub(log_start.0) * segment_bytes;
        let carried_bytes = self.dedup.carried_bytes(point);
        let factor = if is_short { 1 } else { 8 };
        (point > log_start && freed_bytes > factor * carried_bytes).then_some(point)
    }

    /// What segments before `log_start` know and is still needed: for [`Wal::trim`](crate::Wal::trim), in the same turn.
    /// `record_bytes_max` is that of the log.
    pub fn carry_over(&self, log_start: SegmentNumber, record_bytes_max: usize) -> Vec<Record> {
        let records = self.dedup.carry_over(log_start, self.next_sequence, record_bytes_max);
        records.into_iter().map(Record::Dedup).collect()
    }

    /// Messages queued in a mailbox, handed out or not.
    pub fn queued_messages(&self, mailbox: MailboxId) -> u64 {
        self.mailboxes.get(&mailbox).map_or(0, |queues| queues.messages)
    }

    /// Messages of a mailbox that are handed out and not settled.
    pub fn handed_out_messages(&self, mailbox: MailboxId) -> usize {
        self.mailboxes.get(&mailbox).map_or(0, |queues| queues.cursor.len())
    }

    /// Messages queued on the shard.
    pub fn messages(&self) -> u64 {
        self.messages
    }

    /// Bytes queued or reserved on the shard, as the quotas count them.
    pub fn resident_bytes(&self) -> u64 {
        self.resident_bytes
    }

    fn apply_part(&mut self, position: Position, part: BatchPart) {
        let share = self.index.open_share(&part.messages);
        for message in part.messages {
            let cost = cost_of(message.envelope.len());
            if !is_planted(Bug::ReuseSequence) {
                self.next_sequence = self.next_sequence.max(message.sequence + 1);
            }
            self.dedup.durable(message.sender, message.message_id, position.segment);
            // In recovery nothing was reserved.
            if !self.unreserve(message.mailbox, cost) {
                self.resident_bytes += cost;
            }
            let (mailbox, priority, sequence) = (message.mailbox, message.priority, message.sequence);
            let batch_header = part.batch_header.clone();
            let queued = Queued { message, batch_header, position, attempt: 0, is_settling: false, share };
            let slot = self.index.insert(queued);
            let queues = self.mailboxes.entry(mailbox).or_default();
            queues.push(priority, sequence, slot);
            queues.messages += 1;
            queues.bytes += cost;
            self.messages += 1;
        }
    }

    fn apply_settle(&mut self, settle: &Settle) {
        // A settle may outlive the segment of its message: what is unknown was settled and trimmed.
        let Some(queues) = self.mailboxes.get_mut(&settle.mailbox) else { return };
        for &sequence in &settle.sequences {
            let Some(slot) = queues.remove(sequence) else { continue };
            let queued = self.index.remove(slot);
            let cost = cost_of(queued.message.envelope.len());
            queues.messages -= 1;
            queues.bytes -= cost;
            self.resident_bytes -= cost;
            self.messages -= 1;
        }
        self.index.compact();
        self.forget_if_empty(settle.mailbox);
    }

    /// Gives back what was reserved for a message; `false` when nothing was.
    fn unreserve(&mut self, mailbox: MailboxId, cost: u64) -> bool {
        let Some(queues) = self.mailboxes.get_mut(&mailbox).filter(|queues| queues.reserved_messages > 0) else {
            return false;
        };
        queues.reserved_messages -= 1;
        queues.reserved_bytes -= cost;
        true
    }

    fn forget_if_empty(&mut self, mailbox: MailboxId) {
        if self.mailboxes.get(&mailbox).is_some_and(Mailbox::is_empty) {
            self.mailboxes.remove(&mailbox);
        }
    }
}

/// What a message counts against the quotas.
fn cost_of(envelope_bytes: usize) -> u64 {
    envelope_bytes as u64 + MESSAGE_OVERHEAD_BYTES
}

#[cfg(test)]
mod tests;
