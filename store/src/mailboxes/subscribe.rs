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
use crate::limits::{CURSORS_RECORD_ENTRIES_MAX, RECORD_HEADER_BYTES};
use crate::lsn::SegmentNumber;
use crate::planted::{Bug, is_planted};
use crate::record::{Cursors, CursorsEntry, LIST_BYTES, Progress, Settle, Subscribe, Unsubscribe};
use crate::slab::Held;
use crate::subscription::{Handed, Member, Reader, Readers, Subscription, Waits};

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
    /// Subscribe records that are on their way, of each subscription and subscriber.
    pub(super) subscribing: BTreeMap<(u64, SubscriberId), u32>,
    /// Unsubscribe records that are on their way.
    pub(super) unsubscribing: BTreeMap<(MailboxId, GroupId, SubscriberId), u32>,
    /// Messages that were looked up to be handed out.
    pub(super) resolved: u64,
    /// The node's clock when something was asked for last, in milliseconds since 1970.
    pub(super) now_ms: u64,
}

/// What there was before a record was made.
#[derive(Debug)]
enum Undo {
    /// The same: the record says once more what one says that is on its way.
    Same,
    /// No such subscription.
    Begun,
    /// No such member.
    Joined,
    /// It had come this far, and durably so; and this was handed out.
    Moved(u64, u64, Handed),
    /// One more member.
    Left(u64),
    /// It was there.
    Ended(u64, Box<Subscription>),
}

/// Where what is carried over whatever goes is counted.
const ALWAYS: SegmentNumber = SegmentNumber(0);

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
            subscribing: BTreeMap::new(),
            unsubscribing: BTreeMap::new(),
            resolved: 0,
            now_ms: 0,
        }
    }

    /// Bytes that must be carried over, about, before segments below `log_start` may go.
    pub(super) fn carried_bytes(&self, log_start: SegmentNumber) -> u64 {
        self.by_segment.range(..log_start).map(|(_, bytes)| bytes).sum()
    }

    /// The record that a subscription cannot be without is in this segment.
    pub(super) fn place(&mut self, number: u64, segment: Option<SegmentNumber>) {
        if let Some(subscription) = self.subscriptions.get_mut(&number) {
            subscription.segment = segment;
            self.recount(number);
        }
    }

    /// Counts what a subscription takes when it is carried over, where that is: with the segment that it cannot be without, or,
    /// when it has come further than the log says or will go on saying, with any.
    pub(super) fn recount(&mut self, number: u64) {
        let Some(subscription) = self.subscriptions.get_mut(&number) else { return };
        let segment = if subscription.is_carried_always() { Some(ALWAYS) } else { subscription.segment };
        let counted = segment.map(|segment| (segment, subscription.carried_bytes()));
        let before = std::mem::replace(&mut subscription.counted, counted);
        if before != counted {
            self.uncount(before);
            if let Some((segment, bytes)) = counted {
                *self.by_segment.entry(segment).or_default() += bytes;
            }
        }
    }

    fn uncount(&mut self, counted: Option<(SegmentNumber, u64)>) {
        let Some((segment, weight)) = counted else { return };
        if let Some(bytes) = self.by_segment.get_mut(&segment) {
            *bytes = bytes.saturating_sub(weight);
            if *bytes == 0 {
                self.by_segment.remove(&segment);
            }
        }
    }

    /// A subscription has come further than the last record about it says: the next one is to say it.
    pub(super) fn is_dirty(&mut self, number: u64) {
        if let Some(subscription) = self.subscriptions.get_mut(&number) {
            subscription.is_dirty = true;
            self.dirty.insert(number);
            self.recount(number);
        }
    }

    /// A subscription missed something, or did not after all. The log says so by what it has of the messages, which may go: it is
    /// carried over then, and needs no record before.
    pub(super) fn has_missed(&mut self, number: u64) {
        if let Some(subscription) = self.subscriptions.get_mut(&number) {
            subscription.has_missed = true;
            self.recount(number);
        }
    }

    /// A record about a subscriber is on its way.
    fn is_subscribing(&mut self, number: u64, subscriber: SubscriberId) {
        *self.subscribing.entry((number, subscriber)).or_default() += 1;
    }
}

/// A record of those that are on their way is durable, or was not appended.
pub(super) fn one_less<K: Ord>(counts: &mut BTreeMap<K, u32>, key: &K) {
    if let Some(count) = counts.get_mut(key) {
        *count -= 1;
        if *count == 0 {
            counts.remove(key);
        }
    }
}

impl Mailboxes {
    /// The record by which an agent subscribes to a channel, to append; `None` when it does already, durably, and goes on where it
    /// is. When a record that says so is on its way, this one says it again: whoever waits for it waits for that one, too.
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
            (Some(number), None) if is_known => {
                if !self.channels.subscribing.contains_key(&(number, subscriber)) {
                    return Ok(None);
                }
                self.channels.undo = Some(Undo::Same);
                (number, None)
            }
            (Some(number), Some(start)) if is_known => {
                let cursor = self.cursor_of(channel, start);
                self.begin_anew(number, cursor);
                (number, Some(cursor))
            }
            (Some(number), _) => {
                self.join(number, subscriber);
                self.channels.undo = Some(Undo::Joined);
                (number, None)
            }
            (None, start) => {
                let cursor = self.cursor_of(channel, start.unwrap_or(StartAt::Now));
                let number = self.next_sequence;
                self.next_sequence += 1;
                self.begin(number, channel, group, subscriber, cursor);
                self.channels.undo = Some(Undo::Begun);
                (number, Some(cursor))
            }
        };
        self.channels.is_subscribing(number, subscriber);
        Ok(Some(Subscribe { channel, subscriber, group, number, begins_after }))
    }

    /// The record of [`subscribe`](Self::subscribe) was not appended: everything is as it was before. Nothing else may have been
    /// asked of channels in between.
    pub fn subscribe_refused(&mut self, subscribe: &Subscribe) {
        let &Subscribe { channel, subscriber, number, .. } = subscribe;
        one_less(&mut self.channels.subscribing, &(number, subscriber));
        match self.channels.undo.take() {
            Some(Undo::Same) => {}
            Some(Undo::Begun) => drop(self.end_subscription(number)),
            Some(Undo::Joined) => self.leave(number, subscriber),
            Some(Undo::Moved(cursor, durable, handed)) => {
                let Some(subscription) = self.channels.subscriptions.get_mut(&number) else { return };
                (subscription.cursor, subscription.durable) = (cursor, durable);
                subscription.moves -= 1;
                subscription.put_handed(handed);
                let mailbox = subscription.mailbox;
                self.channels.recount(number);
                self.refloor(number);
                self.set_group_timer(number);
                self.wake_subscription(mailbox, number);
            }
            other => panic!("{subscribe:?} was not the last to be made: {other:?}"),
        }
        if let Some(&number) = self.numbers.get(&channel) {
            self.forget_if_empty(number);
        }
    }

    /// The record by which an agent does not subscribe any more, to append; `None` when it does not, durably: as long as a record
    /// that says so is on its way, this one says it again. What a member of a group had in hand goes to others; with the last one
    /// the group is gone. If the record is not appended, call
    /// [`unsubscribe_refused`](Self::unsubscribe_refused).
    pub fn unsubscribe(&mut self, channel: MailboxId, subscriber: SubscriberId, group: GroupId) -> Option<Unsubscribe> {
        let found = self.find_subscription(channel, group, subscriber);
        let found = found.filter(|number| self.channels.subscriptions[number].has_member(subscriber));
        let key = (channel, group, subscriber);
        let undo = match found {
            None if !self.channels.unsubscribing.contains_key(&key) => return None,
            None => Undo::Same,
            Some(number) => match self.leave_or_end(number, subscriber) {
                Some(ended) => Undo::Ended(number, Box::new(ended)),
                None => Undo::Left(number),
            },
        };
        self.channels.undo = Some(undo);
        *self.channels.unsubscribing.entry(key).or_default() += 1;
        Some(Unsubscribe { channel, subscriber, group })
    }

    /// The record of [`unsubscribe`](Self::unsubscribe) was not appended: it subscribes as before, and is not there
    /// ([`attach`](Self::attach)). Nothing else may have been asked of channels in between.
    pub fn unsubscribe_refused(&mut self, unsubscribe: &Unsubscribe) {
        let &Unsubscribe { channel, subscriber, group } = unsubscribe;
        one_less(&mut self.channels.unsubscribing, &(channel, group, subscriber));
        let (number, before) = match self.channels.undo.take() {
            Some(Undo::Same) => return,
            Some(Undo::Left(number)) => return self.join(number, subscriber),
            Some(Undo::Ended(number, before)) => (number, before),
            other => panic!("{unsubscribe:?} was not the last to be made: {other:?}"),
        };
        self.begin(number, channel, group, subscriber, before.cursor);
        let subscription = self.channels.subscriptions.get_mut(&number).expect("it was just put there");
        subscription.put(&before.progress());
        (subscription.durable, subscription.moves) = (before.durable, before.moves);
        subscription.has_missed = before.has_missed;
        self.refloor(number);
        self.channels.place(number, before.segment);
        if before.is_dirty {
            self.channels.is_dirty(number);
        }
    }

    /// Whether [`next_cursors`](Self::next_cursors) may have a record.
    pub fn has_cursors(&self) -> bool {
        !self.channels.dirty.is_empty()
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
            (subscription.is_dirty, subscription.has_missed) = (false, false);
            self.channels.dirty.remove(&number);
            self.channels.recount(number);
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

    /// Who an agent is to [`next_published`](Self::next_published), and the cursor of its subscription; `None` when it does not
    /// subscribe.
    pub fn reader_of(&self, channel: MailboxId, subscriber: SubscriberId, group: GroupId) -> Option<(Reader, u64)> {
        let number = self.find_subscription(channel, group, subscriber)?;
        let subscription = &self.channels.subscriptions[&number];
        let reader = Reader { subscription: number, subscriber };
        subscription.has_member(subscriber).then_some((reader, subscription.cursor))
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

    pub(super) fn find_subscription(
        &self,
        channel: MailboxId,
        group: GroupId,
        subscriber: SubscriberId,
    ) -> Option<u64> {
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
        let now = self.next_sequence - 1 + if is_planted(Bug::BeginLate) { 2 } else { 0 };
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
    pub(super) fn begin(
        &mut self,
        number: u64,
        channel: MailboxId,
        group: GroupId,
        subscriber: SubscriberId,
        cursor: u64,
    ) {
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
        let (before, handed) = (subscription.cursor, subscription.handed());
        self.channels.undo = Some(Undo::Moved(before, subscription.durable, handed));
        subscription.begin_at(cursor);
        subscription.durable = subscription.durable.min(cursor);
        subscription.moves += 1;
        let mailbox = subscription.mailbox;
        self.channels.recount(number);
        self.refloor(number);
        self.wake_subscription(mailbox, number);
    }

    /// A member joins a group, if it is none yet.
    pub(super) fn join(&mut self, number: u64, subscriber: SubscriberId) {
        let Some(subscription) = self.channels.subscriptions.get_mut(&number) else { return };
        let Readers::Group(group) = &mut subscription.readers else { return };
        if group.members.contains_key(&subscriber) {
            return;
        }
        group.members.insert(subscriber, Member::default());
        let mailbox = subscription.mailbox;
        self.channels.recount(number);
        self.channels.subscribers += 1;
        self.channel_mut(mailbox).subscribers += 1;
    }

    /// A member leaves a group.
    fn leave(&mut self, number: u64, subscriber: SubscriberId) {
        let reader = Reader { subscription: number, subscriber };
        self.stop_waiting(reader);
        let Some(subscription) = self.channels.subscriptions.get_mut(&number) else { return };
        let Readers::Group(group) = &mut subscription.readers else { return };
        let is_of_interest = group.is_waited_for(subscriber);
        group.member_goes(subscriber, 0);
        // Nothing of it is left: neither what it had, nor its timer.
        if group.members.remove(&subscriber).is_some() {
            let mailbox = subscription.mailbox;
            self.channels.recount(number);
            self.channels.subscribers -= 1;
            self.channel_mut(mailbox).subscribers -= 1;
        }
        if is_of_interest {
            self.group_goes_on(number);
        }
    }

    /// Whoever subscribes does not any more, and with the last one the subscription ends; returns it then. The channel stays
    /// for now.
    pub(super) fn leave_or_end(&mut self, number: u64, subscriber: SubscriberId) -> Option<Subscription> {
        let subscription = &self.channels.subscriptions[&number];
        match &subscription.readers {
            Readers::Group(group) if group.members.len() > 1 || !group.members.contains_key(&subscriber) => {
                self.leave(number, subscriber);
                None
            }
            _ => self.end_subscription(number),
        }
    }

    pub(super) fn end_subscription(&mut self, number: u64) -> Option<Subscription> {
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
        self.channels.uncount(subscription.counted);
        if let Readers::Group(group) = &subscription.readers {
            self.redelivery.group_ends(number, group.timer_us);
        }
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
