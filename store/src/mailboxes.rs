//! The mailboxes of a shard: what is admitted, what is queued, what goes to whom next.
//!
//! State changes in two steps. [`Mailboxes::admit`] and [`Mailboxes::settle`] decide and reserve; the record they lead to
//! goes to the log; [`Mailboxes::apply`] makes it true once it is durable. Recovery says the same with
//! [`Mailboxes::note`], for the same records in the same order, so the queues after a restart are the queues before it.
//!
//! What is queued is in memory as about sixty bytes of index. Payloads are on disk; those that came lately are in memory as
//! well, and the others are read back when a subscriber has credit for them (`deliver.rs`).

mod carry;
mod channel_read;
mod clean;
mod dead;
mod deliver;
mod depth;
mod expire;
mod fanout;
mod group;
mod publish;
mod redeliver;
mod subscribe;
mod subscribers;

use std::collections::BTreeMap;

use bytes::Bytes;
use hashbrown::HashMap;
use thiserror::Error;

use self::clean::Cleaning;
pub use self::clean::LogExtent;
use self::dead::DeadLetters;
pub use self::dead::{LetterFound, LetterRead, LetterUnread, ListedLetter};
pub use self::deliver::{ReadDone, ReadProblem, ReadProblemKind};
pub use self::depth::Depth;
pub use self::expire::Expired;
use self::expire::Expiring;
use self::publish::sorted;
use self::redeliver::Redelivery;
pub use self::redeliver::RedeliveryConfig;
use self::subscribe::Channels;
pub use self::subscribe::{StartAt, SubscribeRefusal, SubscriptionState};
use crate::cache::Cache;
use crate::cold::Cold;
use crate::dedup::{DedupConfig, Verdict, Windows};
use crate::entry::{Entry, NO_PIECE};
use crate::flags::MessageFlags;
use crate::hash::HashKey;
use crate::id::{MailboxId, MessageId, SenderId};
use crate::index::Index;
use crate::layout::{length_u32, length_usize};
use crate::limits::{
    CACHE_BYTES, CHANNEL_SUBSCRIBERS_MAX, EXPIRY_SWEEP_SLOTS_MIN, EXPIRY_SWEEP_TICKS, MAILBOX_BYTES_MAX,
    MAILBOX_MESSAGES_MAX, MAILBOXES_MAX, MESSAGE_OVERHEAD_BYTES, SETTLE_SEQUENCES_MAX, SHARD_BYTES_MAX,
    SUBSCRIBERS_MAX,
};
use crate::lsn::{Position, SegmentNumber};
use crate::mailbox::Mailbox;
use crate::noted::{Noted, NotedMessage};
use crate::planted::{Bug, is_planted};
use crate::record::{BatchPart, CursorsEntry, Dedup, PartMessage, Record, Settle, SettleCause};
use crate::slab::{Held, Slab, Slot};
use crate::wal::Durable;

/// Quotas. The defaults are those of [`limits`](crate::limits).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MailboxesConfig {
    /// Messages queued in one mailbox.
    pub mailbox_messages_max: u64,
    /// Bytes queued in one mailbox.
    pub mailbox_bytes_max: u64,
    /// Bytes queued on the shard: on disk, not in memory.
    pub shard_bytes_max: u64,
    /// Bytes of payload that stay in memory after they became durable.
    pub cache_bytes: usize,
    /// Mailboxes that hold anything, and channels that somebody subscribes to.
    pub mailboxes_max: usize,
    /// Subscribers of one channel, members of its groups among them.
    pub channel_subscribers_max: usize,
    /// Subscribers of all channels, members of groups among them.
    pub subscribers_max: usize,
    /// Deduplication.
    pub dedup: DedupConfig,
    /// When messages are delivered again, and how often.
    pub redelivery: RedeliveryConfig,
}

impl Default for MailboxesConfig {
    fn default() -> Self {
        Self {
            mailbox_messages_max: MAILBOX_MESSAGES_MAX,
            mailbox_bytes_max: MAILBOX_BYTES_MAX,
            shard_bytes_max: SHARD_BYTES_MAX,
            cache_bytes: CACHE_BYTES,
            mailboxes_max: MAILBOXES_MAX,
            channel_subscribers_max: CHANNEL_SUBSCRIBERS_MAX,
            subscribers_max: SUBSCRIBERS_MAX,
            dedup: DedupConfig::default(),
            redelivery: RedeliveryConfig::default(),
        }
    }
}

/// What one mailbox may hold, where that is not what the configuration says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Quota {
    /// Messages queued in it.
    pub messages_max: Option<u64>,
    /// Bytes queued in it.
    pub bytes_max: Option<u64>,
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
    /// Its record: segment, and byte in it. Deliveries from the same record have the same batch header.
    pub record: (SegmentNumber, u32),
    /// How often it was handed out, this time included: 1 for the first.
    pub attempt: u8,
}

/// The mailboxes of a shard.
#[derive(Debug)]
pub struct Mailboxes {
    config: MailboxesConfig,
    numbers: HashMap<MailboxId, u32, HashKey>,
    boxes: Slab<Held<Mailbox>>,
    index: Index,
    cache: Cache,
    cold: Cold,
    /// Mailboxes whose last read failed: they read again after the next tick.
    pausing: Vec<MailboxId>,
    cleaning: Cleaning,
    redelivery: Redelivery,
    dead: DeadLetters,
    expiring: Expiring,
    channels: Channels,
    /// In recovery: mailboxes with a message that was moved.
    unordered: Vec<u32>,
    dedup: Windows,
    next_sequence: u64,
    /// Queued and reserved.
    queued_bytes: u64,
}

impl Mailboxes {
    /// No mailboxes. `hash_key` is random: it keeps senders from choosing ids that collide.
    pub fn new(config: MailboxesConfig, hash_key: [u64; 2]) -> Self {
        let key = HashKey(hash_key);
        Self {
            dedup: Windows::new(config.dedup.clone(), key),
            cache: Cache::new(config.cache_bytes),
            config,
            numbers: HashMap::with_hasher(key),
            boxes: Slab::default(),
            index: Index::default(),
            cold: Cold::default(),
            pausing: Vec::new(),
            cleaning: Cleaning::default(),
            redelivery: Redelivery::default(),
            dead: DeadLetters::default(),
            expiring: Expiring::default(),
            channels: Channels::new(key),
            unordered: Vec::new(),
            next_sequence: 1,
            queued_bytes: 0,
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
        self.admit_within(Quota::default(), sender, message_id, mailbox, envelope_bytes, now_ms)
    }

    /// As [`admit`](Self::admit), for a mailbox with a quota of its own. A quota below what is queued drops nothing: it
    /// refuses until enough was settled.
    ///
    /// # Errors
    /// [`Refusal`], to be sent to the sender.
    pub fn admit_within(
        &mut self,
        quota: Quota,
        sender: SenderId,
        message_id: MessageId,
        mailbox: MailboxId,
        envelope_bytes: usize,
        now_ms: u64,
    ) -> Result<Admit, Refusal> {
        if let Some(durable) = self.known_before(sender, message_id, now_ms)? {
            return Ok(Admit::Duplicate { durable });
        }
        let sequence = self.reserve(quota, mailbox, envelope_bytes)?;
        self.dedup.insert_pending(sender, message_id);
        Ok(Admit::New(sequence))
    }

    /// Whether a message was admitted before, and if so, whether it is durable.
    fn known_before(&self, sender: SenderId, message_id: MessageId, now_ms: u64) -> Result<Option<bool>, Refusal> {
        match self.dedup.check(sender, message_id, now_ms) {
            Verdict::New => Ok(None),
            Verdict::Duplicate { durable } => Ok(Some(durable)),
            Verdict::TooOld => Err(Refusal::OutsideDedupWindow),
            Verdict::TooFarAhead => Err(Refusal::AheadOfClock),
            Verdict::TooManyPending => Err(Refusal::TooManyInFlight),
            Verdict::TooManySenders => Err(Refusal::TooManySenders),
        }
    }

    /// Decides about a notice of the node, whose size is `notice_bytes`, and reserves for it: put it into a record under the
    /// sequence, and append that. Message ids have no part in it: a notice may be told twice.
    ///
    /// # Errors
    /// [`Refusal::MailboxFull`] or [`Refusal::ShardFull`]: nobody is told.
    pub fn admit_notice(&mut self, quota: Quota, mailbox: MailboxId, notice_bytes: usize) -> Result<u64, Refusal> {
        self.reserve(quota, mailbox, notice_bytes)
    }

    /// Reserves room for what is new, and gives it its sequence.
    fn reserve(&mut self, quota: Quota, mailbox: MailboxId, envelope_bytes: usize) -> Result<u64, Refusal> {
        let cost = cost_of(envelope_bytes);
        if self.queued_bytes + cost > self.config.shard_bytes_max {
            return Err(Refusal::ShardFull);
        }
        let known = self.numbers.get(&mailbox).copied();
        if known.is_none() && self.numbers.len() >= self.config.mailboxes_max {
            return Err(Refusal::ShardFull);
        }
        let (messages, bytes) = known.map_or((0, 0), |number| self.boxes.get(number).taken().counted());
        let (messages_max, bytes_max) = self.quota_of(quota);
        if (messages + 1 > messages_max || bytes + cost > bytes_max) && !is_planted(Bug::ForgetQuota) {
            return Err(Refusal::MailboxFull);
        }
        let number = known.unwrap_or_else(|| self.open(mailbox));
        let queues = self.boxes.get_mut(number).taken_mut();
        queues.reserved_messages += 1;
        queues.reserved_bytes += cost;
        self.queued_bytes += cost;
        let sequence = self.next_sequence;
        self.next_sequence += 1;
        Ok(sequence)
    }

    /// Messages and bytes.
    fn quota_of(&self, quota: Quota) -> (u64, u64) {
        let messages_max = quota.messages_max.unwrap_or(self.config.mailbox_messages_max);
        (messages_max, quota.bytes_max.unwrap_or(self.config.mailbox_bytes_max))
    }

    /// Takes back the admission of a part that was not appended. Nothing may have been admitted since its last message.
    pub fn withdraw(&mut self, part: &BatchPart) {
        for message in part.messages.iter().rev() {
            self.dedup.withdraw(message.sender, message.message_id);
            let cost = cost_of(message.envelope.len());
            let number = self.numbers[&message.mailbox];
            assert!(self.unreserve(number, cost), "what is withdrawn was admitted");
            self.queued_bytes -= cost;
            self.forget_if_empty(number);
        }
    }

    /// Makes a durable record true, as soon as it is durable. Its payloads stay in memory for a while.
    pub fn apply(&mut self, durable: Durable) {
        let Durable { record, position, noted, .. } = durable;
        match (record, noted) {
            (Record::BatchPart(part), Noted::Part(messages)) | (Record::Notice(part), Noted::Notice(messages)) => {
                let piece = self.cache.insert(part);
                self.take_in(&messages, piece);
            }
            (_, noted) => self.take(position, noted, false),
        }
    }

    /// Takes a record that recovery read: for every record, in order, then [`recovered`](Self::recovered). Payloads stay on
    /// disk.
    pub fn note(&mut self, position: Position, noted: Noted) {
        if is_planted(Bug::ReviveOnRestart) && matches!(noted, Noted::Dead(_)) {
            return;
        }
        self.take(position, noted, true);
    }

    fn take(&mut self, position: Position, noted: Noted, is_recovery: bool) {
        match noted {
            Noted::Part(messages) | Noted::Notice(messages) => self.take_in(&messages, NO_PIECE),
            Noted::Moved(messages) => self.note_moved(&messages),
            Noted::Settle(settle) => self.apply_settle(&settle, is_recovery),
            Noted::Dedup(dedup) => self.apply_dedup(&dedup, position.segment),
            Noted::Start(_) => {}
            Noted::Dead(dead) => self.apply_dead(&dead, position.segment),
            Noted::Revive(revive) => self.apply_revive(&revive, is_recovery),
            Noted::Subscribe(subscribe) => {
                self.a_record_is_behind(0);
                self.apply_subscribe(&subscribe, position.segment, is_recovery);
            }
            Noted::Unsubscribe(unsubscribe) => self.apply_unsubscribe(&unsubscribe, is_recovery),
            Noted::Cursors(cursors) => {
                self.a_record_is_behind(cursors.entries.iter().map(CursorsEntry::bytes).sum());
                self.apply_cursors(&cursors, is_recovery);
            }
            Noted::Subscriptions(carried) => self.apply_subscriptions(&carried, position.segment, is_recovery),
        }
    }

    /// Recovery has read everything: puts into order what was moved.
    pub fn recovered(&mut self) {
        for number in std::mem::take(&mut self.unordered) {
            // Its number may have been given to another mailbox since: ordering that one does no harm.
            let Some(Held::Taken(queues)) = self.boxes.look_mut(number) else { continue };
            if queues.is_unordered {
                queues.sort(&mut self.index.entries);
            }
            if let Some(channel) = &mut queues.channel {
                channel.sort();
            }
        }
        self.channels_are_recovered();
    }

    /// The record that settles these messages, to append. Sequences that are unknown, published in a channel or already being
    /// settled are left out; `None` when nothing is left. If the record is not appended, call [`settle_refused`](Self::settle_refused).
    pub fn settle(&mut self, mailbox: MailboxId, sequences: &[u64], cause: SettleCause) -> Option<Settle> {
        let &number = self.numbers.get(&mailbox)?;
        let mut settled = Vec::new();
        let mut is_work_done = false;
        for &sequence in sequences.iter().take(SETTLE_SEQUENCES_MAX) {
            let Some(slot) = self.find(number, sequence) else { continue };
            let entry = self.index.entries.get_mut(slot);
            // Of what is published nobody disposes: it goes when its time is over, or to make room.
            let is_kept = entry.is_published() && cause != SettleCause::Expired;
            if !entry.is_settling() && !is_kept {
                entry.set_settling(true);
                is_work_done |= !entry.is_notice();
                settled.push(sequence);
            }
        }
        if settled.is_empty() {
            return None;
        }
        if cause == SettleCause::Acknowledged && is_work_done {
            self.consumer_is_well(number);
        }
        Some(Settle { mailbox, cause, sequences: settled })
    }

    /// A record of [`settle`](Self::settle), [`expire`](Self::expire) or [`next_leaving`](Self::next_leaving) was not appended: its
    /// messages stay.
    pub fn settle_refused(&mut self, settle: &Settle) {
        let Some(&number) = self.numbers.get(&settle.mailbox) else { return };
        let mut published = Vec::new();
        for &sequence in &settle.sequences {
            let Some(slot) = self.find(number, sequence) else { continue };
            let entry = self.index.entries.get_mut(slot);
            entry.set_settling(false);
            if entry.is_published() {
                let cost = cost_of(entry.envelope_bytes());
                published.push(sequence);
                if settle.cause == SettleCause::Consumed {
                    self.leaves_no_more(number, cost);
                }
            }
        }
        if settle.cause == SettleCause::Expired {
            self.count_missed(number, &sorted(published), true);
        }
    }

    /// Records that settle up to `messages_max` messages whose time is over, to append. Those whose senders ask to be told
    /// are not among them: [`next_expired`](Self::next_expired) has these; nor is what was published in channels:
    /// [`next_leaving`](Self::next_leaving) has that. Also lets go of message ids that are too old to be
    /// asked about. Call it at every tick: in a hundred calls it comes by every message.
    pub fn expire(&mut self, now_ms: u64, messages_max: usize) -> Vec<Settle> {
        let now_ms = if is_planted(Bug::ExpireEarly) { now_ms + 2_000 } else { now_ms };
        self.dedup.expire(now_ms, messages_max);
        let slots_max = (self.index.entries.slots() / EXPIRY_SWEEP_TICKS).max(EXPIRY_SWEEP_SLOTS_MIN);
        let mut by_mailbox: BTreeMap<MailboxId, Vec<u64>> = BTreeMap::new();
        for slot in self.index.expired(now_ms, slots_max, messages_max) {
            if self.is_to_be_told(slot) {
                continue;
            }
            let entry = self.index.entries.get(slot);
            let mailbox = self.boxes.get(entry.mailbox).taken().id;
            by_mailbox.entry(mailbox).or_default().push(entry.sequence());
        }
        let mut settles = Vec::new();
        for (mailbox, sequences) in by_mailbox {
            let Some(mut settle) = self.settle(mailbox, &sequences, SettleCause::Expired) else { continue };
            let published = self.published_of(&settle);
            settle.sequences.retain(|sequence| published.binary_search(sequence).is_err());
            self.channels.will_leave(mailbox, SettleCause::Expired, &published);
            if !settle.sequences.is_empty() {
                settles.push(settle);
            }
        }
        settles
    }

    /// The messages of a record that are published, in order.
    fn published_of(&self, settle: &Settle) -> Vec<u64> {
        let is_published = |sequence: &&u64| {
            let slot = self.index.find(**sequence);
            slot.is_some_and(|slot| self.index.entries.get(slot).is_published())
        };
        if self.channel(settle.mailbox).is_none() {
            return Vec::new();
        }
        sorted(settle.sequences.iter().filter(is_published).copied().collect())
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
        let carried_bytes = self.dedup.carried_bytes(point) + self.channels.carried_bytes(point);
        let factor = if is_short { 1 } else { 8 };
        (point > log_start && freed_bytes > factor * carried_bytes).then_some(point)
    }

    /// What segments before `log_start` know and is still needed: for [`Wal::trim`](crate::Wal::trim), in the same turn.
    /// `record_bytes_max` is that of the log.
    pub fn carry_over(&self, log_start: SegmentNumber, record_bytes_max: usize) -> Vec<Record> {
        let records = self.dedup.carry_over(log_start, self.next_sequence, record_bytes_max);
        let subscriptions = self.carry_subscriptions(log_start, record_bytes_max);
        let subscriptions = subscriptions.into_iter().map(Record::Subscriptions);
        records.into_iter().map(Record::Dedup).chain(subscriptions).collect()
    }

    /// Messages queued in a mailbox, handed out or not, dead letters included.
    pub fn queued_messages(&self, mailbox: MailboxId) -> u64 {
        self.mailbox(mailbox).map_or(0, |queues| queues.messages)
    }

    /// Messages of a mailbox that are handed out and not settled.
    pub fn handed_out_messages(&self, mailbox: MailboxId) -> usize {
        self.mailbox(mailbox).map_or(0, |queues| queues.handed_out_messages)
    }

    /// Whether a record that ends a message, buries it or gives it life was made and is not durable yet: it is not handed out
    /// meanwhile, and others pass it.
    pub fn is_passed_over(&self, sequence: u64) -> bool {
        self.index.find(sequence).is_some_and(|slot| self.index.entries.get(slot).is_settling())
    }

    /// Messages queued on the shard.
    pub fn messages(&self) -> u64 {
        self.index.entries.len() as u64
    }

    /// Bytes queued or reserved on the shard, as the quotas count them.
    pub fn queued_bytes(&self) -> u64 {
        self.queued_bytes
    }

    /// Bytes of payload in memory. What lay beside them in the batches that they came in may be a third more.
    pub fn cached_bytes(&self) -> usize {
        self.cache.bytes()
    }

    /// Bytes of the log that queued messages need, with their shares of the headers beside them.
    pub fn live_bytes(&self) -> u64 {
        self.index.live_bytes()
    }

    /// Queues durable messages of one record.
    fn take_in(&mut self, messages: &[NotedMessage], piece: u32) {
        let share_bytes = share_bytes(messages);
        for message in messages {
            let cost = cost_of(length_usize(message.envelope_bytes));
            if !is_planted(Bug::ReuseSequence) {
                self.next_sequence = self.next_sequence.max(message.sequence + 1);
            }
            if message.sender != SenderId::NODE {
                self.dedup.durable(message.sender, message.message_id, message.place.segment);
            }
            let number = self.numbers.get(&message.mailbox).copied().unwrap_or_else(|| self.open(message.mailbox));
            // In recovery nothing was reserved.
            if !self.unreserve(number, cost) {
                self.queued_bytes += cost;
            }
            let mut entry = Entry::new(message, number, share_bytes);
            entry.piece = piece;
            let slot = self.index.insert(entry);
            let queues = self.boxes.get_mut(number).taken_mut();
            queues.messages += 1;
            queues.bytes += cost;
            match message.flags.contains(MessageFlags::PUBLISHED) {
                true => self.take_in_published(number, message),
                false => queues.push(&mut self.index.entries, slot),
            }
        }
    }

    /// Messages that came in earlier are here now. In recovery their first record may be gone.
    fn note_moved(&mut self, messages: &[NotedMessage]) {
        self.cleaning.moved(messages.len());
        let share_bytes = share_bytes(messages);
        for message in messages {
            if let Some(slot) = self.index.find(message.sequence) {
                let from = self.index.entries.get(slot).segment();
                self.index.relocate(slot, &message.place, share_bytes);
                self.dead_is_moved(slot, from);
                if is_planted(Bug::CountMovedTwice) {
                    let (cost, number) =
                        (cost_of(length_usize(message.envelope_bytes)), self.numbers[&message.mailbox]);
                    self.boxes.get_mut(number).taken_mut().bytes += cost;
                    self.queued_bytes += cost;
                }
                continue;
            }
            let cost = cost_of(length_usize(message.envelope_bytes));
            self.next_sequence = self.next_sequence.max(message.sequence + 1);
            self.queued_bytes += cost;
            let number = self.numbers.get(&message.mailbox).copied().unwrap_or_else(|| self.open(message.mailbox));
            let slot = self.index.insert(Entry::new(message, number, share_bytes));
            let queues = self.boxes.get_mut(number).taken_mut();
            queues.messages += 1;
            queues.bytes += cost;
            if message.flags.contains(MessageFlags::PUBLISHED) {
                self.take_in_published(number, message);
                continue;
            }
            queues.push(&mut self.index.entries, slot);
            if !std::mem::replace(&mut queues.is_unordered, true) {
                self.unordered.push(number);
            }
        }
    }

    fn apply_settle(&mut self, settle: &Settle, is_recovery: bool) {
        // A settle may outlive the segment of its message: what is unknown was settled and trimmed.
        let Some(&number) = self.numbers.get(&settle.mailbox) else { return };
        let published = self.published_of(settle);
        if is_recovery && settle.cause == SettleCause::Expired {
            self.count_missed(number, &published, false);
        }
        for &sequence in &settle.sequences {
            let Some(slot) = self.find(number, sequence) else { continue };
            self.forget_failures(slot);
            self.forget_untellable(sequence);
            let queues = self.boxes.get_mut(number).taken_mut();
            let is_published = self.index.entries.get(slot).is_published();
            if !is_published {
                queues.remove(&mut self.index.entries, slot);
            }
            let entry = self.index.remove(slot);
            if entry.is_dead() {
                self.bury(number, sequence);
            }
            self.cache.leave(entry.piece, sequence);
            self.cleaning.settled(entry.log_bytes());
            let cost = cost_of(entry.envelope_bytes());
            let queues = self.boxes.get_mut(number).taken_mut();
            queues.messages -= 1;
            queues.bytes -= cost;
            self.queued_bytes -= cost;
            if is_published && settle.cause == SettleCause::Consumed && !is_recovery {
                self.leaves_no_more(number, cost);
            }
        }
        self.forget_published(number, &published, is_recovery);
        self.forget_if_empty(number);
    }

    fn apply_dedup(&mut self, dedup: &Dedup, segment: SegmentNumber) {
        self.next_sequence = self.next_sequence.max(dedup.next_sequence);
        for sender in &dedup.senders {
            self.dedup.carried_over(sender, segment);
        }
    }

    /// The slot of a message of this mailbox. Consumers may name whatever they like.
    fn find(&self, number: u32, sequence: u64) -> Option<Slot> {
        self.index.find(sequence).filter(|&slot| self.index.entries.get(slot).mailbox == number)
    }

    fn mailbox(&self, mailbox: MailboxId) -> Option<&Mailbox> {
        self.numbers.get(&mailbox).map(|&number| self.boxes.get(number).taken())
    }

    fn mailbox_mut(&mut self, mailbox: MailboxId) -> Option<&mut Mailbox> {
        self.numbers.get(&mailbox).map(|&number| self.boxes.get_mut(number).taken_mut())
    }

    fn open(&mut self, mailbox: MailboxId) -> u32 {
        let number = self.boxes.insert(Held::Taken(Mailbox::new(mailbox)));
        self.numbers.insert(mailbox, number);
        number
    }

    /// Gives back what was reserved for a message; `false` when nothing was.
    fn unreserve(&mut self, number: u32, cost: u64) -> bool {
        let queues = self.boxes.get_mut(number).taken_mut();
        if queues.reserved_messages == 0 {
            return false;
        }
        queues.reserved_messages -= 1;
        queues.reserved_bytes -= cost;
        true
    }

    fn forget_if_empty(&mut self, number: u32) {
        if self.boxes.get(number).taken().is_empty() {
            self.clear_timer(number);
            let queues = self.boxes.get(number).taken();
            self.numbers.remove(&queues.id);
            self.boxes.remove(number);
        }
    }
}

/// What a message counts against the quotas.
fn cost_of(envelope_bytes: usize) -> u64 {
    envelope_bytes as u64 + MESSAGE_OVERHEAD_BYTES
}

/// What a record has beside its messages, for each of them.
fn share_bytes(messages: &[NotedMessage]) -> u32 {
    let Some(first) = messages.first() else { return 0 };
    (first.place.message_offset - first.place.record_offset).div_ceil(length_u32(messages.len()))
}

#[cfg(test)]
mod tests;
