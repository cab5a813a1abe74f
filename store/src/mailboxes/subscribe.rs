//! Who subscribes to which channel, and how far each has come.
//!
//! A subscription changes when its record is made, not when that is durable: what is made later stands behind it in the log, so
//! a restart sees the same in the same order. What leaves a channel early goes by cursors that are durable. A record that is not
//! appended is given back at once.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use hashbrown::HashMap;
use thiserror::Error;

use super::Mailboxes;
use crate::channel::Channel;
use crate::hash::HashKey;
use crate::id::{GroupId, MailboxId, SubscriberId};
use crate::limits::{CURSORS_RECORD_ENTRIES_MAX, RECORD_HEADER_BYTES, SUBSCRIPTIONS_RECORD_ENTRIES_MAX};
use crate::lsn::SegmentNumber;
use crate::record::{
    Cursors, CursorsEntry, LIST_BYTES, Progress, Settle, Subscribe, Subscriptions, SubscriptionsEntry, Unsubscribe,
};
use crate::slab::Held;
use crate::subscription::{Group, Member, Reader, Readers, Subscription, Waits};

/// Where a subscription begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StartAt {
    /// With what is published from now on.
    Now,
    /// With the oldest message that the channel keeps.
    Oldest,
    /// With the message of this sequence, or the first one behind it.
    Sequence(u64),
    /// With the first message of this time or later, in milliseconds since 1970. A message counts as published at the latest time
    /// that its message id, or one before it that the channel keeps, has.
    TimeMs(u64),
}

/// Why a subscription was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum SubscribeRefusal {
    /// the channel has as many subscribers as it may: try again when one has unsubscribed
    #[error("the channel has as many subscribers as it may: try again when one has unsubscribed")]
    ChannelFull,
    /// the shard has as many subscribers, or channels, as it may: try again later
    #[error("the shard has as many subscribers, or channels, as it may: try again later")]
    ShardFull,
}

/// A subscription, to look at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SubscriptionState {
    /// Its number.
    pub number: u64,
    /// How far it has come: what a restart would find, once [`Mailboxes::next_cursors`] has told all.
    pub progress: Progress,
    /// Who reads by it, members of a group by id.
    pub subscribers: Vec<SubscriberId>,
}

/// All channels of a shard, as far as they are not mailboxes.
#[derive(Debug)]
pub(super) struct Channels {
    /// By number.
    pub(super) subscriptions: HashMap<u64, Subscription, HashKey>,
    /// Who subscribes to any, members of groups among them.
    subscribers: usize,
    /// Bytes to carry over, by the segment that holds them.
    by_segment: BTreeMap<SegmentNumber, u64>,
    /// Subscriptions that have come further than the log says.
    pub(super) dirty: BTreeSet<u64>,
    /// Readers that may have something to be handed, and nobody was told.
    pub(super) ready: VecDeque<Reader>,
    /// Records by which messages leave early, to be appended.
    pub(super) leaving: VecDeque<Settle>,
    /// Mailboxes whose channels looked something up in this turn.
    pub(super) memoized: Vec<u32>,
    /// Channels whose last read failed.
    pub(super) pausing: Vec<MailboxId>,
    /// What the last record of its kind changed, should it not be appended.
    undo: Option<Undo>,
    /// Messages that were looked up to be handed out.
    pub(super) resolved: u64,
    /// The node's clock when something was asked for last, in milliseconds since 1970.
    pub(super) now_ms: u64,
}

/// What there was before a record was made.
#[derive(Debug)]
enum Undo {
    /// No such subscription.
    Begun(u64),
    /// No such member.
    Joined(u64, SubscriberId),
    /// It had come this far, and durably so.
    Moved(u64, Progress, u64),
    /// One more member.
    Left(u64),
    /// It was there.
    Ended(u64, Box<Subscription>),
}

/// Bytes that a subscription counts until it is carried over.
const WEIGHT: u64 = 88;
const MEMBER_WEIGHT: u64 = 16;

impl Channels {
    pub(super) fn new(key: HashKey) -> Self {
        Self {
            subscriptions: HashMap::with_hasher(key),
            subscribers: 0,
            by_segment: BTreeMap::new(),
            dirty: BTreeSet::new(),
            ready: VecDeque::new(),
            leaving: VecDeque::new(),
            memoized: Vec::new(),
            pausing: Vec::new(),
            undo: None,
            resolved: 0,
            now_ms: 0,
        }
    }

    /// Bytes that must be carried over, about, before segments below `log_start` may go.
    pub(super) fn carried_bytes(&self, log_start: SegmentNumber) -> u64 {
        self.by_segment.range(..log_start).map(|(_, bytes)| bytes).sum()
    }

    /// The record that a subscription cannot be without is in this segment.
    fn place(&mut self, number: u64, segment: Option<SegmentNumber>) {
        let Some(subscription) = self.subscriptions.get_mut(&number) else { return };
        let before = std::mem::replace(&mut subscription.segment, segment);
        let weight = WEIGHT + MEMBER_WEIGHT * subscription.subscribers() as u64;
        let weight_before = std::mem::replace(&mut subscription.weight, weight);
        self.unplace(before, weight_before);
        if let Some(segment) = segment {
            *self.by_segment.entry(segment).or_default() += weight;
        }
    }

    fn unplace(&mut self, segment: Option<SegmentNumber>, weight: u64) {
        let Some(segment) = segment else { return };
        if let Some(bytes) = self.by_segment.get_mut(&segment) {
            *bytes = bytes.saturating_sub(weight);
            if *bytes == 0 {
                self.by_segment.remove(&segment);
            }
        }
    }

    pub(super) fn is_dirty(&mut self, number: u64) {
        if let Some(subscription) = self.subscriptions.get_mut(&number) {
            subscription.is_dirty = true;
            self.dirty.insert(number);
        }
    }
}

impl Mailboxes {
    /// The record by which an agent subscribes to a channel, to append; `None` when it does already, and goes on where it is.
    /// Where it did not, `start` says where it begins, [`StartAt::Now`] unless it is given; where it did, it begins anew there.
    /// The member of a group goes on with the group; only who is a member already can have the group begin anew.
    ///
    /// If the record is not appended, call [`subscribe_refused`](Self::subscribe_refused). Tell the subscriber when it is durable.
    ///
    /// # Errors
    /// [`SubscribeRefusal`], to be sent to the subscriber.
    ///
    /// # Panics
    /// When the subscriber is [`SubscriberId::NONE`].
    pub fn subscribe(
        &mut self,
        channel: MailboxId,
        subscriber: SubscriberId,
        group: GroupId,
        start: Option<StartAt>,
    ) -> Result<Option<Subscribe>, SubscribeRefusal> {
        assert_ne!(subscriber, SubscriberId::NONE, "whoever subscribes has an id");
        let found = self.find_subscription(channel, group, subscriber);
        let is_known = found.is_some_and(|number| self.channels.subscriptions[&number].has_member(subscriber));
        if !is_known {
            self.check_room_for_subscriber(channel)?;
        }
        let (number, begins_after) = match (found, start) {
            (Some(_), None) if is_known => return Ok(None),
            (Some(number), Some(start)) if is_known => {
                let cursor = self.cursor_of(channel, start);
                self.begin_anew(number, cursor);
                (number, Some(cursor))
            }
            (Some(number), _) => {
                self.join(number, subscriber);
                self.channels.undo = Some(Undo::Joined(number, subscriber));
                (number, None)
            }
            (None, start) => {
                let cursor = self.cursor_of(channel, start.unwrap_or(StartAt::Now));
                let number = self.next_sequence;
                self.next_sequence += 1;
                self.begin(number, channel, group, subscriber, cursor);
                self.channels.undo = Some(Undo::Begun(number));
                (number, Some(cursor))
            }
        };
        Ok(Some(Subscribe { channel, subscriber, group, number, begins_after }))
    }

    /// The record of [`subscribe`](Self::subscribe) was not appended: everything is as it was before. Nothing else may have been
    /// asked of channels in between.
    pub fn subscribe_refused(&mut self, subscribe: &Subscribe) {
        match self.channels.undo.take() {
            Some(Undo::Begun(number)) if number == subscribe.number => drop(self.end_subscription(number)),
            Some(Undo::Joined(number, subscriber)) if number == subscribe.number => self.leave(number, subscriber),
            Some(Undo::Moved(number, progress, durable)) if number == subscribe.number => {
                let Some(subscription) = self.channels.subscriptions.get_mut(&number) else { return };
                subscription.begin_at(progress.cursor);
                subscription.durable = durable;
                subscription.moves -= 1;
                if let Readers::Group(group) = &mut subscription.readers {
                    group.done = progress.done.into_iter().collect();
                }
                let mailbox = subscription.mailbox;
                self.refloor(number);
                self.advance(number);
                self.wake_subscription(mailbox, number);
            }
            other => panic!("{subscribe:?} was not the last to be made: {other:?}"),
        }
        if let Some(&number) = self.numbers.get(&subscribe.channel) {
            self.forget_if_empty(number);
        }
    }

    /// The record by which an agent does not subscribe any more, to append; `None` when it does not. What a member of a group had
    /// in hand goes to others; with the last one the group is gone. If the record is not appended, call
    /// [`unsubscribe_refused`](Self::unsubscribe_refused).
    pub fn unsubscribe(&mut self, channel: MailboxId, subscriber: SubscriberId, group: GroupId) -> Option<Unsubscribe> {
        let number = self.find_subscription(channel, group, subscriber)?;
        let subscription = &self.channels.subscriptions[&number];
        if !subscription.has_member(subscriber) {
            return None;
        }
        self.channels.undo = Some(match self.leave_or_end(number, subscriber) {
            Some(ended) => Undo::Ended(number, Box::new(ended)),
            None => Undo::Left(number),
        });
        Some(Unsubscribe { channel, subscriber, group })
    }

    /// The record of [`unsubscribe`](Self::unsubscribe) was not appended: it subscribes as before, and is not there
    /// ([`attach`](Self::attach)). Nothing else may have been asked of channels in between.
    pub fn unsubscribe_refused(&mut self, unsubscribe: &Unsubscribe) {
        let (number, before) = match self.channels.undo.take() {
            Some(Undo::Left(number)) => return self.join(number, unsubscribe.subscriber),
            Some(Undo::Ended(number, before)) => (number, before),
            other => panic!("{unsubscribe:?} was not the last to be made: {other:?}"),
        };
        self.begin(number, unsubscribe.channel, unsubscribe.group, unsubscribe.subscriber, before.cursor);
        let subscription = self.channels.subscriptions.get_mut(&number).expect("it was just put there");
        subscription.put(&before.progress());
        (subscription.durable, subscription.moves) = (before.durable, before.moves);
        self.refloor(number);
        self.channels.place(number, before.segment);
        if before.is_dirty {
            self.channels.is_dirty(number);
        }
    }

    /// A record that says how far subscriptions have come, to append: call it once a turn, until `None`. `record_bytes_max` is
    /// that of the log. If it is not appended, call [`cursors_refused`](Self::cursors_refused).
    pub fn next_cursors(&mut self, record_bytes_max: usize) -> Option<Cursors> {
        let mut entries = Vec::new();
        let mut bytes_left = record_bytes_max.saturating_sub(RECORD_HEADER_BYTES + LIST_BYTES);
        while let Some(&number) = self.channels.dirty.first() {
            let Some(subscription) = self.channels.subscriptions.get_mut(&number) else {
                self.channels.dirty.remove(&number);
                continue;
            };
            let entry = CursorsEntry { number, progress: subscription.progress() };
            let bytes = entry.bytes();
            if entries.len() == CURSORS_RECORD_ENTRIES_MAX || bytes > bytes_left {
                break;
            }
            bytes_left -= bytes;
            subscription.is_dirty = false;
            self.channels.dirty.remove(&number);
            entries.push(entry);
        }
        (!entries.is_empty()).then_some(Cursors { entries })
    }

    /// The log had no room for what [`next_cursors`](Self::next_cursors) gave out: the next record says it.
    pub fn cursors_refused(&mut self, cursors: &Cursors) {
        for entry in &cursors.entries {
            self.channels.is_dirty(entry.number);
        }
    }

    /// A subscription, to look at; for a group's any member's id, or [`SubscriberId::NONE`].
    pub fn subscription(
        &self,
        channel: MailboxId,
        subscriber: SubscriberId,
        group: GroupId,
    ) -> Option<SubscriptionState> {
        let number = self.find_subscription(channel, group, subscriber)?;
        let subscription = &self.channels.subscriptions[&number];
        let subscribers = match &subscription.readers {
            Readers::One(_) => vec![subscription.subscriber],
            Readers::Group(group) => group.members.keys().copied().collect(),
        };
        Some(SubscriptionState { number, progress: subscription.progress(), subscribers })
    }

    /// Who subscribes to a channel, members of groups among them.
    pub fn channel_subscribers(&self, channel: MailboxId) -> usize {
        self.channel(channel).map_or(0, |channel| channel.subscribers)
    }

    /// Who subscribes to any channel of the shard, members of groups among them.
    pub fn subscribers(&self) -> usize {
        self.channels.subscribers
    }

    /// Sequences of the oldest and the latest message that a channel keeps.
    pub fn kept_range(&self, channel: MailboxId) -> Option<(u64, u64)> {
        let mut kept = self.channel(channel)?.kept();
        let first = kept.next()?;
        Some((first.sequence, kept.next_back().unwrap_or(first).sequence))
    }

    /// What segments before `log_start` know of subscriptions, and what no segment says yet, as records of at most
    /// `record_bytes_max`.
    pub(super) fn carry_subscriptions(&self, log_start: SegmentNumber, record_bytes_max: usize) -> Vec<Subscriptions> {
        let is_carried = |subscription: &Subscription| {
            subscription.segment.is_some_and(|segment| segment < log_start) || subscription.is_dirty
        };
        let carried = self.channels.subscriptions.iter().filter(|(_, subscription)| is_carried(subscription));
        let mut carried: Vec<(u64, &Subscription)> =
            carried.map(|(&number, subscription)| (number, subscription)).collect();
        // By number, so that the records do not depend on a table's order.
        carried.sort_unstable_by_key(|&(number, _)| number);
        let room = record_bytes_max.saturating_sub(RECORD_HEADER_BYTES + LIST_BYTES);
        let (mut records, mut room_left) = (Vec::<Subscriptions>::new(), 0);
        let mut put = |entry: SubscriptionsEntry| {
            let bytes = entry.bytes_with(entry.members.len());
            let is_full = |last: &Subscriptions| last.entries.len() == SUBSCRIPTIONS_RECORD_ENTRIES_MAX;
            if bytes > room_left || records.last().is_none_or(is_full) {
                records.push(Subscriptions { entries: Vec::new() });
                room_left = room;
            }
            room_left = room_left.saturating_sub(bytes);
            records.last_mut().expect("one was just made").entries.push(entry);
        };
        for (number, subscription) in carried {
            let channel = self.boxes.get(subscription.mailbox).taken().id;
            let (group, subscriber) = (subscription.group, subscription.subscriber);
            let progress = subscription.progress();
            let mut entry = SubscriptionsEntry { channel, group, subscriber, number, progress, members: Vec::new() };
            match &subscription.readers {
                Readers::One(_) => put(entry),
                Readers::Group(group) => {
                    let members: Vec<SubscriberId> = group.members.keys().copied().collect();
                    let most = room.saturating_sub(entry.bytes_with(0)) / 16;
                    for members in members.chunks(most.max(1)) {
                        entry.members = members.to_vec();
                        put(entry.clone());
                    }
                }
            }
        }
        records
    }

    pub(super) fn apply_subscribe(&mut self, subscribe: &Subscribe, segment: SegmentNumber, is_recovery: bool) {
        let &Subscribe { channel, subscriber, group, number, begins_after } = subscribe;
        // A cursor may name a sequence that no record has: one that was given and never came into the log. Whatever is published after
        // a restart must lie behind it.
        self.sequence_is_known(number.max(begins_after.unwrap_or(0)));
        if is_recovery {
            match begins_after {
                Some(cursor) if self.is_of(number, channel, group, subscriber) => {
                    let subscription = self.channels.subscriptions.get_mut(&number).expect("it was just looked at");
                    subscription.begin_at(cursor);
                    subscription.durable = cursor;
                    self.join(number, subscriber);
                    self.refloor(number);
                }
                Some(cursor) => self.begin(number, channel, group, subscriber, cursor),
                None if self.is_of(number, channel, group, subscriber) => self.join(number, subscriber),
                // Of a group whose records were trimmed: it was carried over, or is gone.
                None => return,
            }
        } else if let (Some(cursor), Some(subscription)) = (begins_after, self.channels.subscriptions.get_mut(&number))
        {
            subscription.moves = subscription.moves.saturating_sub(1);
            if subscription.moves == 0 {
                subscription.durable = cursor;
                self.refloor(number);
            }
        }
        // Of the records that it needs, the first counts.
        if let Some(subscription) = self.channels.subscriptions.get(&number) {
            let first = subscription.segment.map_or(segment, |first| first.min(segment));
            self.channels.place(number, Some(first));
        }
    }

    /// No sequence up to and with this one is given again.
    fn sequence_is_known(&mut self, sequence: u64) {
        self.next_sequence = self.next_sequence.max(sequence.saturating_add(1));
    }

    pub(super) fn apply_unsubscribe(&mut self, unsubscribe: &Unsubscribe, is_recovery: bool) {
        let &Unsubscribe { channel, subscriber, group } = unsubscribe;
        if is_recovery && let Some(number) = self.find_subscription(channel, group, subscriber) {
            self.leave_or_end(number, subscriber);
        }
        if let Some(&number) = self.numbers.get(&channel) {
            self.forget_if_empty(number);
        }
    }

    pub(super) fn apply_cursors(&mut self, cursors: &Cursors, is_recovery: bool) {
        for entry in &cursors.entries {
            self.sequence_is_known(entry.progress.cursor);
            let Some(subscription) = self.channels.subscriptions.get_mut(&entry.number) else { continue };
            match is_recovery {
                true => subscription.put(&entry.progress),
                // It was made before the record by which the subscription begins anew.
                false if subscription.moves > 0 => continue,
                false => subscription.durable = entry.progress.cursor,
            }
            self.refloor(entry.number);
        }
    }

    pub(super) fn apply_subscriptions(
        &mut self,
        subscriptions: &Subscriptions,
        segment: SegmentNumber,
        is_recovery: bool,
    ) {
        for entry in &subscriptions.entries {
            let &SubscriptionsEntry { channel, group, subscriber, number, .. } = entry;
            self.sequence_is_known(number.max(entry.progress.cursor));
            if is_recovery {
                if !self.is_of(number, channel, group, subscriber) {
                    let first = entry.members.first().copied().unwrap_or(subscriber);
                    self.begin(number, channel, group, first, entry.progress.cursor);
                }
                entry.members.iter().for_each(|&member| self.join(number, member));
                let subscription =
                    self.channels.subscriptions.get_mut(&number).expect("it is there, or was just begun");
                subscription.put(&entry.progress);
                self.refloor(number);
            }
            self.channels.place(number, Some(segment));
        }
    }

    /// Whether a number is that of this subscription.
    fn is_of(&self, number: u64, channel: MailboxId, group: GroupId, subscriber: SubscriberId) -> bool {
        self.find_subscription(channel, group, subscriber) == Some(number)
    }

    fn find_subscription(&self, channel: MailboxId, group: GroupId, subscriber: SubscriberId) -> Option<u64> {
        self.channel(channel)?.find(group, subscriber)
    }

    fn check_room_for_subscriber(&self, channel: MailboxId) -> Result<(), SubscribeRefusal> {
        if self.channel_subscribers(channel) >= self.config.channel_subscribers_max {
            return Err(SubscribeRefusal::ChannelFull);
        }
        let is_new = !self.numbers.contains_key(&channel);
        if self.channels.subscribers >= self.config.subscribers_max
            || (is_new && self.numbers.len() >= self.config.mailboxes_max)
        {
            return Err(SubscribeRefusal::ShardFull);
        }
        Ok(())
    }

    /// The sequence after which a subscription begins.
    fn cursor_of(&self, channel: MailboxId, start: StartAt) -> u64 {
        let now = self.next_sequence - 1;
        match start {
            StartAt::Now => now,
            StartAt::Oldest => 0,
            StartAt::Sequence(sequence) => sequence.saturating_sub(1).min(now),
            StartAt::TimeMs(time_ms) => {
                self.channel(channel).and_then(|channel| channel.before_time(time_ms)).unwrap_or(now)
            }
        }
    }

    /// A subscription begins. One of the same name, and one of the same number, ends: no log of ours has either.
    fn begin(&mut self, number: u64, channel: MailboxId, group: GroupId, subscriber: SubscriberId, cursor: u64) {
        if let Some(other) = self.find_subscription(channel, group, subscriber) {
            self.end_subscription(other);
        }
        if self.channels.subscriptions.contains_key(&number) {
            self.end_subscription(number);
        }
        let mailbox = self.numbers.get(&channel).copied().unwrap_or_else(|| self.open(channel));
        let owner = if group == GroupId::NONE { subscriber } else { SubscriberId::NONE };
        let subscription = Subscription::new(mailbox, group, owner, cursor);
        let one = subscription.subscribers();
        let channel = self.channel_mut(mailbox);
        channel.add(number, &subscription);
        channel.subscribers += one;
        self.channels.subscribers += one;
        self.channels.subscriptions.insert(number, subscription);
        self.join(number, subscriber);
    }

    fn begin_anew(&mut self, number: u64, cursor: u64) {
        let subscription = self.channels.subscriptions.get_mut(&number).expect("it was just found");
        self.channels.undo = Some(Undo::Moved(number, subscription.progress(), subscription.durable));
        subscription.begin_at(cursor);
        subscription.durable = subscription.durable.min(cursor);
        subscription.moves += 1;
        let mailbox = subscription.mailbox;
        self.refloor(number);
        self.wake_subscription(mailbox, number);
    }

    /// A member joins a group, if it is none yet.
    fn join(&mut self, number: u64, subscriber: SubscriberId) {
        let Some(subscription) = self.channels.subscriptions.get_mut(&number) else { return };
        let Readers::Group(group) = &mut subscription.readers else { return };
        if group.members.contains_key(&subscriber) {
            return;
        }
        group.members.insert(subscriber, Member::default());
        let mailbox = subscription.mailbox;
        self.channels.subscribers += 1;
        self.channel_mut(mailbox).subscribers += 1;
    }

    /// A member leaves a group.
    fn leave(&mut self, number: u64, subscriber: SubscriberId) {
        let reader = Reader { subscription: number, subscriber };
        self.stop_waiting(reader);
        let Some(subscription) = self.channels.subscriptions.get_mut(&number) else { return };
        let Readers::Group(group) = &mut subscription.readers else { return };
        group.member_goes(subscriber, 0);
        if group.members.remove(&subscriber).is_some() {
            let mailbox = subscription.mailbox;
            self.channels.subscribers -= 1;
            self.channel_mut(mailbox).subscribers -= 1;
        }
        self.group_goes_on(number);
    }

    /// Whoever subscribes does not any more, and with the last one the subscription ends; returns it then. The channel stays
    /// for now.
    fn leave_or_end(&mut self, number: u64, subscriber: SubscriberId) -> Option<Subscription> {
        let subscription = &self.channels.subscriptions[&number];
        match &subscription.readers {
            Readers::Group(Group { members, .. }) if members.len() > 1 || !members.contains_key(&subscriber) => {
                self.leave(number, subscriber);
                None
            }
            _ => self.end_subscription(number),
        }
    }

    fn end_subscription(&mut self, number: u64) -> Option<Subscription> {
        let subscription = self.channels.subscriptions.get(&number)?;
        let readers: Vec<SubscriberId> = match &subscription.readers {
            Readers::One(_) => vec![subscription.subscriber],
            Readers::Group(group) => group.members.keys().copied().collect(),
        };
        for subscriber in readers {
            self.stop_waiting(Reader { subscription: number, subscriber });
        }
        let subscription = self.channels.subscriptions.remove(&number)?;
        self.channels.dirty.remove(&number);
        self.channels.unplace(subscription.segment, subscription.weight);
        let count = subscription.subscribers();
        self.channels.subscribers -= count;
        let channel = self.channel_mut(subscription.mailbox);
        channel.subscribers -= count;
        channel.remove(number, &subscription);
        Some(subscription)
    }

    pub(super) fn refloor(&mut self, number: u64) {
        let Some(subscription) = self.channels.subscriptions.get_mut(&number) else { return };
        let channel = self.boxes.get_mut(subscription.mailbox).taken_mut().channel.get_or_insert_default();
        channel.refloor(number, subscription);
    }

    pub(super) fn channel(&self, channel: MailboxId) -> Option<&Channel> {
        self.mailbox(channel)?.channel.as_deref()
    }

    /// The channel of a mailbox's number; it is one from now on.
    pub(super) fn channel_mut(&mut self, number: u32) -> &mut Channel {
        self.boxes.get_mut(number).taken_mut().channel.get_or_insert_default()
    }

    /// The readers of a subscription that wait for news may have some: it begins anew, or something came back.
    pub(super) fn wake_subscription(&mut self, mailbox: u32, number: u64) {
        if !matches!(self.boxes.look(mailbox), Some(Held::Taken(_))) {
            return;
        }
        let Some(subscription) = self.channels.subscriptions.get(&number) else { return };
        for subscriber in subscription.attached() {
            let reader = Reader { subscription: number, subscriber };
            if matches!(self.waits_of(reader), Some(Waits::News(_))) {
                self.stop_waiting(reader);
                self.is_reader_ready(reader);
            }
        }
    }
}
