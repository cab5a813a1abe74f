//! What goes to the readers of a channel next: one stored copy, for as many as there are.
//!
//! A message is looked up once in a turn, in memory or as it was read back, and then handed to each subscriber that comes for it:
//! the bytes are shared, never copied. Readers that have all there is wait in a list, and are named when there is more; those
//! whose next message is on disk only wait for one read of it together.

use bytes::Bytes;

use super::deliver::in_memory;
use super::group::ForMember;
use super::{Delivery, Mailboxes};
use crate::cache::Cache;
use crate::channel::NextInLine;
use crate::cold::Cold;
use crate::id::{GroupId, MailboxId, SubscriberId};
use crate::index::Index;
use crate::planted::{Bug, is_planted};
use crate::subscription::{Reader, Readers, Waits};

/// What a look at one message of a channel finds.
#[expect(clippy::large_enum_variant, reason = "it is taken apart at once: a box would cost an allocation a delivery")]
pub(super) enum Look {
    /// It is not kept any more, or cannot be read.
    Gone,
    /// Its time is over, or it is leaving.
    Passed,
    OnDisk,
    Here(Delivery),
}

/// What a reader gets next.
pub(super) enum Next {
    Here(Delivery),
    /// The message of this sequence, when it is read back.
    OnDisk(u64),
    /// Nothing before something happens.
    Nothing,
}

/// Why no more is handed out.
#[derive(Debug, Clone, Copy)]
enum Stop {
    Credit,
    Nothing,
    OnDisk(u64),
}

impl Mailboxes {
    /// A subscriber is there and reads: [`next_published`](Self::next_published) has what is next. Whoever was there before under
    /// this name is not any more. `None` when it does not subscribe.
    pub fn attach(&mut self, channel: MailboxId, subscriber: SubscriberId, group: GroupId) -> Option<Reader> {
        let subscription = self.channel(channel)?.find(group, subscriber)?;
        let reader = Reader { subscription, subscriber };
        self.reset_reader(reader, None);
        *self.channels.subscriptions.get_mut(&subscription)?.attached_mut(subscriber)? = true;
        Some(reader)
    }

    /// A reader is gone. What it was handed and did not acknowledge is handed out again: to itself, when it is there again, or to
    /// other members of its group, in order and ahead of what is new. A message that members went over, `deliveries_max` times (unless
    /// given, as configured; 0 for never), is skipped by the group: the only one in hand, or one that was handed out alone.
    pub fn reset_reader(&mut self, reader: Reader, deliveries_max: Option<u8>) {
        self.stop_waiting(reader);
        let deliveries_max = deliveries_max.unwrap_or(self.config.redelivery.deliveries_max);
        let Some(subscription) = self.channels.subscriptions.get_mut(&reader.subscription) else { return };
        match &mut subscription.readers {
            Readers::One(own) if subscription.subscriber == reader.subscriber => {
                own.is_attached = false;
                own.handed = match is_planted(Bug::GoBackToDurable) {
                    false => subscription.cursor,
                    true => subscription.durable.min(subscription.cursor),
                };
            }
            Readers::One(_) => {}
            Readers::Group(group) => {
                // A group may have very many members: they are woken only where there may be something for them.
                let is_of_interest = group.is_waited_for(reader.subscriber);
                let is_skipped = group.member_goes(reader.subscriber, deliveries_max);
                if is_skipped {
                    self.channels.is_dirty(reader.subscription);
                    self.advance(reader.subscription);
                }
                if is_of_interest {
                    self.group_goes_on(reader.subscription);
                }
            }
        }
    }

    /// The next messages for a reader, within its credit, in the order of the channel. With any byte of credit left, one message
    /// may overdraw it. What expired is passed over, a second after its time at the latest. The bytes are shared with every other reader's.
    ///
    /// A subscriber of its own has them all, and [`acknowledge_upto`](Self::acknowledge_upto) one sequence; `attempt` is 1 for what
    /// was not handed to it before in this life of the node, and 2 for what was. A member of a group has them to itself, and
    /// [`acknowledge_each`](Self::acknowledge_each); `attempt` counts the members that were handed it.
    ///
    /// Where it stops for want of messages, or to read some back ([`next_read`](Self::next_read)),
    /// [`take_ready_readers`](Self::take_ready_readers) names the reader when there is more.
    pub fn next_published(
        &mut self,
        reader: Reader,
        credit_messages: u32,
        credit_bytes: u64,
        now_ms: u64,
    ) -> Vec<Delivery> {
        let mut deliveries = Vec::new();
        let Some(subscription) = self.channels.subscriptions.get_mut(&reader.subscription) else { return deliveries };
        if subscription.attached_mut(reader.subscriber).is_none_or(|is_attached| !*is_attached) {
            return deliveries;
        }
        let mailbox = subscription.mailbox;
        self.channels.now_ms = now_ms;
        let (mut messages_left, mut bytes_left) = (credit_messages, credit_bytes);
        let stop = loop {
            if messages_left == 0 || bytes_left == 0 {
                break Stop::Credit;
            }
            let mut delivery = match self.next_for_reader(reader, mailbox, now_ms) {
                Next::Here(delivery) => delivery,
                Next::OnDisk(sequence) => break Stop::OnDisk(sequence),
                Next::Nothing => break Stop::Nothing,
            };
            let bytes = delivery.message.envelope.len() as u64;
            if bytes > bytes_left && !deliveries.is_empty() {
                break Stop::Credit;
            }
            delivery.attempt = self.hand(reader, delivery.message.sequence);
            deliveries.push(delivery);
            bytes_left = bytes_left.saturating_sub(bytes);
            messages_left -= 1;
        };
        match stop {
            Stop::Credit => self.stop_waiting(reader),
            Stop::Nothing => self.waits_for_news(reader, mailbox),
            Stop::OnDisk(sequence) => {
                let wanted = NextInLine { sequence, messages: messages_left, bytes: bytes_left };
                self.waits_for_disk(reader, mailbox, wanted);
            }
        }
        deliveries
    }

    /// A subscriber with a cursor of its own has consumed everything up to and with this sequence, as far as it was handed it. Nothing
    /// moves the cursor of one that begins anew before that is durable.
    pub fn acknowledge_upto(&mut self, reader: Reader, sequence: u64) {
        let Self { boxes, channels, .. } = self;
        let Some(subscription) = channels.subscriptions.get_mut(&reader.subscription) else { return };
        // It begins anew as soon as that is durable, and there: whatever is said meanwhile is about what was before.
        if subscription.moves > 0 {
            return;
        }
        let Readers::One(own) = &mut subscription.readers else { return };
        // What it says after it came again may be about what it had before.
        let sequence = match is_planted(Bug::AcknowledgeOneMore) {
            false => sequence.min(own.handed_max),
            true => sequence + 1,
        };
        if subscription.subscriber == reader.subscriber && sequence > subscription.cursor {
            // What could not be read was passed over.
            let channel = boxes.get(subscription.mailbox).taken().channel.as_ref();
            let lost = channel.map_or(0, |channel| channel.damaged.range(subscription.cursor + 1..=sequence).count());
            subscription.missed = subscription.missed.saturating_add(lost as u64);
            subscription.cursor = sequence;
            own.handed = own.handed.max(sequence);
            if is_planted(Bug::CursorBeforeDurable) {
                subscription.durable = sequence;
            }
            channels.is_dirty(reader.subscription);
            if is_planted(Bug::CursorBeforeDurable) {
                self.refloor(reader.subscription);
            }
        }
    }

    /// Readers that may have something to be handed that they had not before: ask for it. Call it in every turn.
    pub fn take_ready_readers(&mut self) -> Vec<Reader> {
        let mut ready = Vec::with_capacity(self.channels.ready.len());
        while let Some(reader) = self.channels.ready.pop_front() {
            // It may be gone, or have asked by itself, since.
            if let Some(waits) = self.waits_mut(reader)
                && *waits == Waits::Ready
            {
                *waits = Waits::Nothing;
                ready.push(reader);
            }
        }
        ready
    }

    /// Messages of channels that were looked up to be handed out: one look serves every subscriber in its turn.
    pub fn published_lookups(&self) -> u64 {
        self.channels.resolved
    }

    /// What a reader gets next, whatever its credit.
    fn next_for_reader(&mut self, reader: Reader, mailbox: u32, now_ms: u64) -> Next {
        let subscription = self.channels.subscriptions.get(&reader.subscription).expect("it was just looked at");
        let after = match &subscription.readers {
            Readers::One(own) => own.handed,
            Readers::Group(_) => match self.next_for_member(reader, now_ms) {
                ForMember::Behind(after) => after,
                ForMember::This(next) => return next,
            },
        };
        self.next_behind(reader, mailbox, after, now_ms)
    }

    /// The first message of a channel behind this sequence that can be handed out to a reader.
    fn next_behind(&mut self, reader: Reader, number: u32, mut after: u64, now_ms: u64) -> Next {
        let Self { boxes, index, cache, cold, channels, .. } = self;
        let Some(channel) = &mut boxes.get_mut(number).taken_mut().channel else { return Next::Nothing };
        // Above its cursor a group may have what it need not be handed, nor have read back for it.
        let group = match &channels.subscriptions[&reader.subscription].readers {
            Readers::One(_) => None,
            Readers::Group(group) => Some(group),
        };
        let is_known = |sequence: u64| group.is_some_and(|group| group.knows(sequence));
        if let Some(found) = channel.memo.after(after)
            && !is_known(found.message.sequence)
        {
            return Next::Here(found.clone());
        }
        let mut next = Next::Nothing;
        for kept in channel.kept_after(after) {
            if is_known(kept.sequence) {
                after = kept.sequence;
                continue;
            }
            channels.resolved += 1;
            match look(index, cache, cold, kept.sequence, now_ms) {
                Look::Gone | Look::Passed => {}
                Look::OnDisk => next = Next::OnDisk(kept.sequence),
                Look::Here(delivery) => next = Next::Here(delivery),
            }
            if !matches!(next, Next::Nothing) {
                break;
            }
        }
        if let Next::Here(delivery) = &next
            && channel.memo.put(after, delivery.clone())
        {
            channels.memoized.push(number);
        }
        next
    }

    /// A message goes to a reader; returns its attempt.
    fn hand(&mut self, reader: Reader, sequence: u64) -> u8 {
        let subscription = self.channels.subscriptions.get_mut(&reader.subscription).expect("it was just looked at");
        match &mut subscription.readers {
            Readers::One(own) => {
                own.handed = sequence;
                let is_new = sequence > own.handed_max;
                own.handed_max = own.handed_max.max(sequence);
                if is_new { 1 } else { 2 }
            }
            Readers::Group(_) => self.hand_to_member(reader, sequence),
        }
    }

    /// All deliveries of a turn were asked for: what was looked up for them is let go.
    pub(super) fn forget_memos(&mut self) {
        for number in std::mem::take(&mut self.channels.memoized) {
            // Its number may have been given to another mailbox since.
            if let Some(crate::slab::Held::Taken(queues)) = self.boxes.look_mut(number)
                && let Some(channel) = &mut queues.channel
            {
                channel.memo.clear();
            }
        }
    }

    pub(super) fn waits_of(&mut self, reader: Reader) -> Option<Waits> {
        self.waits_mut(reader).copied()
    }

    fn waits_mut(&mut self, reader: Reader) -> Option<&mut Waits> {
        self.channels.subscriptions.get_mut(&reader.subscription)?.waits_mut(reader.subscriber)
    }

    pub(super) fn set_waits(&mut self, reader: Reader, waits: Waits) {
        if let Some(now) = self.waits_mut(reader) {
            *now = waits;
        }
    }

    /// A reader waits for nothing any more.
    pub(super) fn stop_waiting(&mut self, reader: Reader) {
        let Some(waits) = self.waits_of(reader) else { return };
        let mailbox = self.channels.subscriptions[&reader.subscription].mailbox;
        self.set_waits(reader, Waits::Nothing);
        let channel = self.channel_mut(mailbox);
        match waits {
            Waits::News(at) => {
                channel.waiting.swap_remove(at);
                if let Some(&moved) = channel.waiting.get(at) {
                    self.set_waits(moved, Waits::News(at));
                }
            }
            Waits::Read(sequence, at) => {
                if let Some(moved) = channel.leave_read(sequence, at) {
                    self.set_waits(moved, Waits::Read(sequence, at));
                }
            }
            // Those that are ready are looked at again when they are taken.
            Waits::Ready | Waits::Nothing => {}
        }
    }

    fn waits_for_news(&mut self, reader: Reader, mailbox: u32) {
        if matches!(self.waits_of(reader), Some(Waits::News(_))) {
            return;
        }
        self.stop_waiting(reader);
        let channel = self.channel_mut(mailbox);
        let at = channel.waiting.len();
        channel.waiting.push(reader);
        self.set_waits(reader, Waits::News(at));
    }

    /// A reader, which is in no list, may have something to be handed.
    pub(super) fn is_reader_ready(&mut self, reader: Reader) {
        self.set_waits(reader, Waits::Ready);
        self.channels.ready.push_back(reader);
    }

    /// Something was published: those that wait for it are ready.
    pub(super) fn news(&mut self, number: u32) {
        for reader in std::mem::take(&mut self.channel_mut(number).waiting) {
            self.is_reader_ready(reader);
        }
    }
}

pub(super) fn look(index: &Index, cache: &Cache, cold: &Cold, sequence: u64, now_ms: u64) -> Look {
    let Some(slot) = index.find(sequence) else { return Look::Gone };
    let entry = index.entries.get(slot);
    if entry.is_damaged() {
        return Look::Gone;
    }
    if entry.is_over(now_ms) || entry.is_settling() {
        return Look::Passed;
    }
    let Some((message, batch_header)) = in_memory(cache, cold, slot, entry) else { return Look::OnDisk };
    let place = entry.place();
    let batch_header: Bytes = batch_header.clone();
    let record = (place.segment, place.record_offset);
    Look::Here(Delivery { message: message.clone(), batch_header, record, attempt: 1 })
}
