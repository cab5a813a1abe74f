//! Channels as they stand in the log: who subscribes to them, and how far each has come.
//!
//! How far a subscription has come is always written whole, never as a difference: the last record about it says all.

use super::RecordError;
use crate::id::{GroupId, MailboxId, SubscriberId};
use crate::layout::{Reader, Writer, length_u32, length_usize};
use crate::limits::{
    CHANNEL_SUBSCRIBERS_MAX, CURSORS_RECORD_ENTRIES_MAX, GROUP_WINDOW, SUBSCRIPTIONS_RECORD_ENTRIES_MAX,
};

/// An agent subscribes to a channel, alone or as a member of a group; or begins anew at another place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Subscribe {
    /// The channel.
    pub channel: MailboxId,
    /// Who subscribes.
    pub subscriber: SubscriberId,
    /// As a member of this group; [`GroupId::NONE`] for a cursor of its own.
    pub group: GroupId,
    /// The subscription's number: one of the shard's sequences, never given twice. The members of a group share it.
    pub number: u64,
    /// Everything up to and with this sequence counts as consumed from here on. `None` for a member of a group that is there, and
    /// for whoever subscribes already: it goes on where it is.
    pub begins_after: Option<u64>,
}

/// An agent does not subscribe any more. With the last member of a group the group is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unsubscribe {
    /// The channel.
    pub channel: MailboxId,
    /// Who leaves.
    pub subscriber: SubscriberId,
    /// The group that it leaves; [`GroupId::NONE`] for a cursor of its own.
    pub group: GroupId,
}

/// How far subscriptions have come, of any channels of the shard: those that moved since the last such record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cursors {
    /// The subscriptions; each once.
    pub entries: Vec<CursorsEntry>,
}

/// One subscription in a [`Cursors`] record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CursorsEntry {
    /// The subscription's number.
    pub number: u64,
    /// How far it has come.
    pub progress: Progress,
}

/// How far a subscription has come.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Progress {
    /// Everything up to and with this sequence is consumed, or gone.
    pub cursor: u64,
    /// Messages that expired before they were consumed, and those that could not be read when it came by them.
    pub missed: u64,
    /// Messages that a group gave up after too many deliveries.
    pub skipped: u32,
    /// Of a group: what is consumed above the cursor, by growing sequence; at most
    /// [`GROUP_WINDOW`](crate::limits::GROUP_WINDOW).
    pub done: Vec<u64>,
}

/// Subscriptions of which segments that go knew, written again: as they are now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subscriptions {
    /// The subscriptions. A group with many members may stand here more than once, each time with others of them.
    pub entries: Vec<SubscriptionsEntry>,
}

/// One subscription in a [`Subscriptions`] record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SubscriptionsEntry {
    /// The channel.
    pub channel: MailboxId,
    /// The group; [`GroupId::NONE`] for one subscriber's own.
    pub group: GroupId,
    /// Whose it is; [`SubscriberId::NONE`] for a group's.
    pub subscriber: SubscriberId,
    /// The subscription's number.
    pub number: u64,
    /// How far it has come. Of several entries of a group only the first says what is done above the cursor.
    pub progress: Progress,
    /// Which of the entries it is in which its group is written: 0 for the first, and for a subscriber's own.
    pub part: u32,
    /// Members of the group, by id.
    pub members: Vec<SubscriberId>,
}

const SUBSCRIBE_BYTES: usize = 72;
const UNSUBSCRIBE_BYTES: usize = 48;
/// Bytes of a record of either list before its entries.
pub(crate) const LIST_BYTES: usize = 8;
/// Bytes of an entry of [`Cursors`] before what is done above the cursor.
const CURSORS_ENTRY_BYTES: usize = 32;
/// Bytes of an entry of [`Subscriptions`] before what is done and who its members are.
pub(crate) const SUBSCRIPTIONS_ENTRY_BYTES: usize = 88;

impl Subscribe {
    pub(super) fn body_bytes() -> usize {
        SUBSCRIBE_BYTES
    }

    /// Whether it says something.
    pub(super) fn is_sound(&self) -> bool {
        self.subscriber != SubscriberId::NONE && self.number != 0
    }

    pub(super) fn encode(&self, writer: &mut Writer<'_>) {
        writer.put(&self.channel.0);
        writer.put(&self.subscriber.0);
        writer.put(&self.group.0);
        writer.u64(self.number);
        writer.u64(self.begins_after.unwrap_or(0));
        writer.u8(u8::from(self.begins_after.is_some()));
        writer.put(&[0; 7]);
    }

    pub(super) fn parse(reader: &mut Reader<'_>) -> Result<Self, RecordError> {
        let fields = (|| {
            let ids = (reader.array()?, reader.array()?, reader.array()?);
            Some((ids, reader.u64()?, reader.u64()?, reader.u8()?, reader.array()?))
        })();
        let ((channel, subscriber, group), number, cursor, begins, reserved) = fields.ok_or(RecordError::Truncated)?;
        if reserved != [0; 7] {
            return Err(RecordError::NotZero);
        }
        let begins_after = match (begins, cursor) {
            (0, 0) => None,
            (0, _) => return Err(RecordError::NotZero),
            (1, cursor) => Some(cursor),
            _ => return Err(RecordError::Value),
        };
        let (channel, subscriber, group) = (MailboxId(channel), SubscriberId(subscriber), GroupId(group));
        let subscribe = Self { channel, subscriber, group, number, begins_after };
        if subscribe.is_sound() { Ok(subscribe) } else { Err(RecordError::Value) }
    }
}

impl Unsubscribe {
    pub(super) fn body_bytes() -> usize {
        UNSUBSCRIBE_BYTES
    }

    /// Whether it says something.
    pub(super) fn is_sound(&self) -> bool {
        self.subscriber != SubscriberId::NONE
    }

    pub(super) fn encode(&self, writer: &mut Writer<'_>) {
        writer.put(&self.channel.0);
        writer.put(&self.subscriber.0);
        writer.put(&self.group.0);
    }

    pub(super) fn parse(reader: &mut Reader<'_>) -> Result<Self, RecordError> {
        let fields = (|| Some((reader.array()?, reader.array()?, reader.array()?)))();
        let (channel, subscriber, group) = fields.ok_or(RecordError::Truncated)?;
        let (channel, subscriber, group) = (MailboxId(channel), SubscriberId(subscriber), GroupId(group));
        let unsubscribe = Self { channel, subscriber, group };
        if unsubscribe.is_sound() { Ok(unsubscribe) } else { Err(RecordError::Value) }
    }
}

impl Progress {
    /// Whether it can be: what is done is above the cursor, in order.
    fn is_sound(&self) -> bool {
        let is_above = self.done.first().is_none_or(|&first| first > self.cursor);
        is_above && self.done.len() <= GROUP_WINDOW && self.done.is_sorted_by(|a, b| a < b)
    }

    fn parse_done(&mut self, count: u32, reader: &mut Reader<'_>) -> Result<(), RecordError> {
        let count = checked_count(count, GROUP_WINDOW, reader.left() / 8)?;
        self.done = (0..count).map_while(|_| reader.u64()).collect();
        if self.is_sound() { Ok(()) } else { Err(RecordError::Value) }
    }
}

impl CursorsEntry {
    /// Bytes that it takes in its record.
    pub(crate) fn bytes(&self) -> usize {
        CURSORS_ENTRY_BYTES + 8 * self.progress.done.len()
    }

    fn encode(&self, writer: &mut Writer<'_>) {
        let Progress { cursor, missed, skipped, done } = &self.progress;
        writer.u64(self.number);
        writer.u64(*cursor);
        writer.u64(*missed);
        writer.u32(*skipped);
        writer.u32(length_u32(done.len()));
        done.iter().for_each(|&sequence| writer.u64(sequence));
    }

    fn parse(reader: &mut Reader<'_>) -> Result<Self, RecordError> {
        let fields = (|| Some((reader.u64()?, reader.u64()?, reader.u64()?, reader.u32()?, reader.u32()?)))();
        let (number, cursor, missed, skipped, count) = fields.ok_or(RecordError::Truncated)?;
        let mut progress = Progress { cursor, missed, skipped, done: Vec::new() };
        progress.parse_done(count, reader)?;
        if number == 0 { Err(RecordError::Value) } else { Ok(Self { number, progress }) }
    }
}

impl Cursors {
    pub(super) fn body_bytes(&self) -> usize {
        LIST_BYTES + self.entries.iter().map(CursorsEntry::bytes).sum::<usize>()
    }

    /// Whether it can be read again.
    pub(super) fn is_sound(&self) -> bool {
        let is_sound = |entry: &CursorsEntry| entry.number != 0 && entry.progress.is_sound();
        self.entries.len() <= CURSORS_RECORD_ENTRIES_MAX && self.entries.iter().all(is_sound)
    }

    pub(super) fn encode(&self, writer: &mut Writer<'_>) {
        writer.u32(length_u32(self.entries.len()));
        writer.u32(0);
        self.entries.iter().for_each(|entry| entry.encode(writer));
    }

    pub(super) fn parse(reader: &mut Reader<'_>) -> Result<Self, RecordError> {
        let count = list_count(reader, CURSORS_RECORD_ENTRIES_MAX, CURSORS_ENTRY_BYTES)?;
        let entries = (0..count).map(|_| CursorsEntry::parse(reader)).collect::<Result<_, _>>()?;
        Ok(Self { entries })
    }
}

impl SubscriptionsEntry {
    /// Bytes that it takes in its record with so many members.
    pub(crate) fn bytes_with(&self, members: usize) -> usize {
        SUBSCRIPTIONS_ENTRY_BYTES + 8 * self.progress.done.len() + 16 * members
    }

    /// Whether it can be: a subscriber's own, or that of a group with members.
    fn is_sound(&self) -> bool {
        let is_whole = match self.group == GroupId::NONE {
            true => {
                let has_nothing_of_a_group = self.members.is_empty() && self.progress.done.is_empty();
                let is_whole = has_nothing_of_a_group && self.progress.skipped == 0 && self.part == 0;
                self.subscriber != SubscriberId::NONE && is_whole
            }
            false => self.subscriber == SubscriberId::NONE && !self.members.is_empty(),
        };
        is_whole
            && self.number != 0
            && self.progress.is_sound()
            && (self.part == 0 || self.progress.done.is_empty())
            && self.members.len() <= CHANNEL_SUBSCRIBERS_MAX
            && self.members.first() != Some(&SubscriberId::NONE)
            && self.members.is_sorted_by(|a, b| a < b)
    }

    fn encode(&self, writer: &mut Writer<'_>) {
        let Progress { cursor, missed, skipped, done } = &self.progress;
        writer.put(&self.channel.0);
        writer.put(&self.group.0);
        writer.put(&self.subscriber.0);
        writer.u64(self.number);
        writer.u64(*cursor);
        writer.u64(*missed);
        writer.u32(*skipped);
        writer.u32(length_u32(done.len()));
        writer.u32(length_u32(self.members.len()));
        writer.u32(self.part);
        done.iter().for_each(|&sequence| writer.u64(sequence));
        self.members.iter().for_each(|member| writer.put(&member.0));
    }

    fn parse(reader: &mut Reader<'_>) -> Result<Self, RecordError> {
        let fields = (|| {
            let ids = (reader.array()?, reader.array()?, reader.array()?);
            let numbers = (reader.u64()?, reader.u64()?, reader.u64()?);
            Some((ids, numbers, reader.u32()?, reader.u32()?, reader.u32()?, reader.u32()?))
        })();
        let (ids, (number, cursor, missed), skipped, done, members, part) = fields.ok_or(RecordError::Truncated)?;
        let (channel, group, subscriber) = (MailboxId(ids.0), GroupId(ids.1), SubscriberId(ids.2));
        let mut progress = Progress { cursor, missed, skipped, done: Vec::new() };
        progress.parse_done(done, reader)?;
        let count = checked_count(members, CHANNEL_SUBSCRIBERS_MAX, reader.left() / 16)?;
        let members = (0..count).map_while(|_| reader.array().map(SubscriberId)).collect();
        let entry = Self { channel, group, subscriber, number, progress, part, members };
        if entry.is_sound() { Ok(entry) } else { Err(RecordError::Value) }
    }
}

impl Subscriptions {
    pub(super) fn body_bytes(&self) -> usize {
        LIST_BYTES + self.entries.iter().map(|entry| entry.bytes_with(entry.members.len())).sum::<usize>()
    }

    /// Whether it can be read again.
    pub(super) fn is_sound(&self) -> bool {
        self.entries.len() <= SUBSCRIPTIONS_RECORD_ENTRIES_MAX && self.entries.iter().all(SubscriptionsEntry::is_sound)
    }

    pub(super) fn encode(&self, writer: &mut Writer<'_>) {
        writer.u32(length_u32(self.entries.len()));
        writer.u32(0);
        self.entries.iter().for_each(|entry| entry.encode(writer));
    }

    pub(super) fn parse(reader: &mut Reader<'_>) -> Result<Self, RecordError> {
        let count = list_count(reader, SUBSCRIPTIONS_RECORD_ENTRIES_MAX, SUBSCRIPTIONS_ENTRY_BYTES)?;
        let entries = (0..count).map(|_| SubscriptionsEntry::parse(reader)).collect::<Result<_, _>>()?;
        Ok(Self { entries })
    }
}

/// The first eight bytes of a record of either list.
fn list_count(reader: &mut Reader<'_>, most: usize, entry_bytes: usize) -> Result<usize, RecordError> {
    let (count, reserved) = reader.u32().zip(reader.u32()).ok_or(RecordError::Truncated)?;
    if reserved != 0 {
        return Err(RecordError::NotZero);
    }
    checked_count(count, most, reader.left() / entry_bytes)
}

/// A count is held against its limit and the bytes that are there before anything is reserved for it.
pub(super) fn checked_count(count: u32, most: usize, there: usize) -> Result<usize, RecordError> {
    match length_usize(count) {
        count if count > most => Err(RecordError::OverLimit),
        count if count > there => Err(RecordError::Truncated),
        count => Ok(count),
    }
}
