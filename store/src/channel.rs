//! What a channel is beside its messages in the index: their order, who subscribes, and who waits for what.
//!
//! A channel is a mailbox with many readers: its messages are entries of the same index, in the same log and cache. They are in
//! none of the lists of a mailbox, for a list has one place where its reader is; here each subscription has a place of its own,
//! the sequence that it has come to, and finds what follows in [`Channel::kept`].

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;

use crate::cold::JobId;
use crate::flags::MessageFlags;
use crate::id::{GroupId, SubscriberId};
use crate::limits::{CHANNEL_MEMO_MESSAGES_MAX, CHANNEL_RETENTION_S_MAX, CHANNEL_RETENTION_S_MIN};
use crate::mailboxes::Delivery;
use crate::subscription::{Reader, Subscription};

/// For how long a channel keeps its messages, in seconds: from a minute to thirty days.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Retention(u32);

impl Retention {
    /// So many seconds; `None` when that is outside of what a channel may have.
    pub const fn from_seconds(seconds: u32) -> Option<Self> {
        match seconds >= CHANNEL_RETENTION_S_MIN && seconds <= CHANNEL_RETENTION_S_MAX {
            true => Some(Self(seconds)),
            false => None,
        }
    }

    /// When a message that is published now leaves the channel, in milliseconds since 1970, and what its record says beside it.
    /// `ttl_s` is what its sender says, 0 for nothing: it counts if it is less.
    pub fn of_message(self, now_ms: u64, ttl_s: u32) -> (u64, MessageFlags) {
        let (seconds, flags) = match ttl_s {
            0 => (self.0, MessageFlags::KEPT_FOR_RETENTION),
            ttl_s if ttl_s > self.0 => (self.0, MessageFlags::KEPT_FOR_RETENTION),
            ttl_s => (ttl_s, MessageFlags::NONE),
        };
        (now_ms.saturating_add(u64::from(seconds) * 1_000), flags.with(MessageFlags::PUBLISHED))
    }
}

/// A message that a channel keeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Kept {
    pub(crate) sequence: u64,
    /// The latest time, in milliseconds since 1970, that its message id or one before it in the channel has.
    pub(crate) time_ms: u64,
}

/// A message on disk only, and who waits for it: never nobody.
#[derive(Debug, Default)]
struct Awaited {
    readers: Vec<Reader>,
    /// Its place in the line; none while it is being read.
    in_line: Option<u64>,
    /// The most that any of them had credit for when it asked: what is read along.
    messages: u32,
    bytes: u64,
}

/// A message to read for those that wait for it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct NextInLine {
    pub(crate) sequence: u64,
    /// How many messages, and bytes, its readers have credit for.
    pub(crate) messages: u32,
    pub(crate) bytes: u64,
}

/// One channel.
#[derive(Debug, Default)]
pub(crate) struct Channel {
    /// What it keeps: the time of each, as [`Kept`] says it, by sequence.
    kept: BTreeMap<u64, u64>,
    /// In recovery: an older one came behind younger ones, and their times are not right yet.
    is_unordered: bool,
    /// Numbers of its subscriptions. Those of groups stand under no subscriber.
    pub(crate) subscriptions: BTreeMap<(GroupId, SubscriberId), u64>,
    /// Who subscribes, members of groups among them.
    pub(crate) subscribers: usize,
    /// Floor and number of each subscription.
    floors: BTreeSet<(u64, u64)>,
    /// Readers that have all there is.
    pub(crate) waiting: Vec<Reader>,
    /// Messages on disk only for which readers wait, by sequence.
    awaited: BTreeMap<u64, Awaited>,
    /// Those of them that are not being read, in the order in which they came to wait, by a number that grows.
    line: BTreeMap<u64, u64>,
    last_in_line: u64,
    /// What is being read: which messages.
    pub(crate) reads: BTreeMap<JobId, Vec<u64>>,
    /// It stands among those that wait for room to read.
    pub(crate) waits_for_room: bool,
    /// Messages whose reads failed, how often each: of those that are kept.
    pub(crate) failed_reads: BTreeMap<u64, u8>,
    /// What it keeps and cannot read, and what is not on its way out: whoever passes it has missed it.
    pub(crate) damaged: BTreeSet<u64>,
    /// After a failed read: nothing is read before the next tick.
    pub(crate) pauses: bool,
    pub(crate) memo: Memo,
    /// Of what it keeps, what makes room for new messages as soon as the record that says so is durable.
    pub(crate) leaving_messages: u64,
    pub(crate) leaving_bytes: u64,
    /// All that could have made room when that was looked for last, and was not enough.
    pub(crate) too_little: Option<Consumed>,
}

/// What every subscription has durably consumed, and what is not on its way out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Consumed {
    /// Everything up to and with this is consumed.
    pub(crate) upto: u64,
    pub(crate) messages: u64,
    pub(crate) bytes: u64,
}

impl Channel {
    /// Takes in a message. `false` when its place is not behind those that it keeps: in recovery, where an older one was moved.
    pub(crate) fn push(&mut self, sequence: u64, time_ms: u64) -> bool {
        let time_ms = match self.kept.last_key_value() {
            Some((&last, &latest_ms)) if last < sequence => latest_ms.max(time_ms),
            Some(_) => {
                self.is_unordered = true;
                time_ms
            }
            None => time_ms,
        };
        self.kept.insert(sequence, time_ms);
        self.too_little = None;
        !self.is_unordered
    }

    /// Puts the times of what it keeps in order.
    pub(crate) fn sort(&mut self) {
        if std::mem::take(&mut self.is_unordered) {
            let mut latest_ms = 0;
            for time_ms in self.kept.values_mut() {
                latest_ms = latest_ms.max(*time_ms);
                *time_ms = latest_ms;
            }
        }
    }

    /// Messages that are not kept any more, by growing sequence.
    pub(crate) fn forget(&mut self, gone: &[u64]) {
        self.memo.clear();
        self.too_little = None;
        for sequence in gone {
            self.kept.remove(sequence);
            self.failed_reads.remove(sequence);
            self.damaged.remove(sequence);
        }
    }

    /// What it keeps behind this sequence.
    pub(crate) fn kept_after(&self, sequence: u64) -> impl Iterator<Item = Kept> {
        let kept = self.kept.range((Bound::Excluded(sequence), Bound::Unbounded));
        kept.map(|(&sequence, &time_ms)| Kept { sequence, time_ms })
    }

    /// The sequence before the first message of this time or later; `None` when there is no such message.
    pub(crate) fn before_time(&self, time_ms: u64) -> Option<u64> {
        let (&first, _) = self.kept.first_key_value()?;
        let (&last, _) = self.kept.last_key_value().filter(|&(_, &latest_ms)| latest_ms >= time_ms)?;
        // Times grow with the sequences. What is below `low` is earlier; the first message from `high` on is not.
        let (mut low, mut high) = (first, last);
        while low < high {
            let middle = low + (high - low) / 2;
            match self.kept.range(middle..).next() {
                Some((&sequence, &found_ms)) if found_ms < time_ms => low = sequence + 1,
                _ => high = middle,
            }
        }
        self.kept.range(low..).next().map(|(&sequence, _)| sequence.saturating_sub(1))
    }

    /// Everything up to and with this is consumed by all.
    pub(crate) fn consumed(&self) -> u64 {
        self.floors.first().map_or(u64::MAX, |&(floor, _)| floor)
    }

    /// The subscriptions that may not have consumed all below this sequence.
    pub(crate) fn behind(&self, sequence: u64) -> impl Iterator<Item = u64> {
        self.floors.range(..(sequence, 0)).map(|&(_, number)| number)
    }

    pub(crate) fn add(&mut self, number: u64, subscription: &Subscription) {
        self.subscriptions.insert((subscription.group, subscription.subscriber), number);
        self.floors.insert((subscription.floor, number));
    }

    pub(crate) fn remove(&mut self, number: u64, subscription: &Subscription) {
        self.subscriptions.remove(&(subscription.group, subscription.subscriber));
        self.floors.remove(&(subscription.floor, number));
    }

    /// A subscription has come further, or begins anew.
    pub(crate) fn refloor(&mut self, number: u64, subscription: &mut Subscription) {
        let floor = subscription.cursor.min(subscription.durable);
        if floor != subscription.floor {
            self.floors.remove(&(subscription.floor, number));
            self.floors.insert((floor, number));
            subscription.floor = floor;
        }
    }

    /// The number of a subscription.
    pub(crate) fn find(&self, group: GroupId, subscriber: SubscriberId) -> Option<u64> {
        let subscriber = if group == GroupId::NONE { subscriber } else { SubscriberId::NONE };
        self.subscriptions.get(&(group, subscriber)).copied()
    }

    /// A reader waits for a message that is on disk only, with this credit; returns its place among those that do.
    pub(crate) fn wait_for_read(&mut self, reader: Reader, wanted: NextInLine) -> usize {
        let NextInLine { sequence, messages, bytes } = wanted;
        if !self.awaited.contains_key(&sequence) && !self.is_being_read(sequence) {
            self.stand_in_line(sequence);
        }
        let awaited = self.awaited.entry(sequence).or_default();
        (awaited.messages, awaited.bytes) = (awaited.messages.max(messages), awaited.bytes.max(bytes));
        awaited.readers.push(reader);
        awaited.readers.len() - 1
    }

    /// A reader waits for this message no more; returns who has its place now.
    pub(crate) fn leave_read(&mut self, sequence: u64, at: usize) -> Option<Reader> {
        let awaited = self.awaited.get_mut(&sequence).expect("it waits for this");
        awaited.readers.swap_remove(at);
        let moved = awaited.readers.get(at).copied();
        if awaited.readers.is_empty() {
            self.take_awaiting(sequence);
        }
        moved
    }

    /// Those that wait for this message: they do not any more.
    pub(crate) fn take_awaiting(&mut self, sequence: u64) -> Vec<Reader> {
        let Some(awaited) = self.awaited.remove(&sequence) else { return Vec::new() };
        if let Some(place) = awaited.in_line {
            self.line.remove(&place);
        }
        awaited.readers
    }

    /// The message that waits longest to be read, which does not any more; what is being read already is passed over.
    pub(crate) fn next_in_line(&mut self) -> Option<NextInLine> {
        loop {
            let (_, sequence) = self.line.pop_first()?;
            let is_being_read = self.is_being_read(sequence);
            let awaited = self.awaited.get_mut(&sequence).expect("whoever waits for it has its place in line");
            awaited.in_line = None;
            if !is_being_read {
                return Some(NextInLine { sequence, messages: awaited.messages, bytes: awaited.bytes });
            }
        }
    }

    pub(crate) fn is_line_empty(&self) -> bool {
        self.line.is_empty()
    }

    /// A read of these messages failed: those for which somebody waits are read again, after all others.
    pub(crate) fn wait_again(&mut self, sequences: &[u64]) {
        for &sequence in sequences {
            if self.awaited.get(&sequence).is_some_and(|awaited| awaited.in_line.is_none()) {
                self.stand_in_line(sequence);
            }
        }
    }

    fn stand_in_line(&mut self, sequence: u64) {
        self.last_in_line += 1;
        self.line.insert(self.last_in_line, sequence);
        self.awaited.entry(sequence).or_default().in_line = Some(self.last_in_line);
    }

    fn is_being_read(&self, sequence: u64) -> bool {
        self.reads.values().any(|wanted| wanted.binary_search(&sequence).is_ok())
    }

    /// What it keeps, for who looks at it.
    pub(crate) fn kept(&self) -> impl DoubleEndedIterator<Item = Kept> {
        self.kept.iter().map(|(&sequence, &time_ms)| Kept { sequence, time_ms })
    }
}

/// Messages that were looked up in this turn, one behind the other, each the first that can be handed out behind the one before:
/// the next subscriber takes them from here.
#[derive(Debug, Default)]
pub(crate) struct Memo {
    /// The first one is the next behind this sequence.
    after: u64,
    found: Vec<Delivery>,
}

impl Memo {
    /// The first message behind this sequence, if it was looked up.
    pub(crate) fn after(&self, sequence: u64) -> Option<&Delivery> {
        if sequence < self.after {
            return None;
        }
        let at = match self.found.last() {
            Some(last) if last.message.sequence <= sequence => return None,
            _ => self.found.partition_point(|found| found.message.sequence <= sequence),
        };
        self.found.get(at)
    }

    /// This one is the first behind that sequence. `true` when it is the first that is kept here.
    pub(crate) fn put(&mut self, after: u64, found: Delivery) -> bool {
        let is_empty = self.found.is_empty();
        let is_next = self.found.last().is_some_and(|last| last.message.sequence == after);
        if !is_next || self.found.len() >= CHANNEL_MEMO_MESSAGES_MAX {
            self.found.clear();
            self.after = after;
        }
        self.found.push(found);
        is_empty
    }

    pub(crate) fn clear(&mut self) {
        self.found.clear();
    }
}

#[cfg(test)]
mod tests;
