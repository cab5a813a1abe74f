//! Subscriptions in the log: what records make of them, and what is carried over when segments go that know of them.
//!
//! A subscription is carried over with the first record that it cannot be without. One that has come further than the log says is
//! carried over whatever goes; so is one that missed messages since it was last written: a reader of the log counts these as long as
//! it finds the messages, and no record is written for each that lags whenever something expires.

use super::Mailboxes;
use super::subscribe::one_less;
use crate::id::{GroupId, MailboxId, SubscriberId};
use crate::limits::{RECORD_HEADER_BYTES, SUBSCRIPTIONS_RECORD_ENTRIES_MAX};
use crate::lsn::SegmentNumber;
use crate::planted::{Bug, is_planted};
use crate::record::{Cursors, LIST_BYTES, Subscribe, Subscriptions, SubscriptionsEntry, Unsubscribe};
use crate::subscription::{Readers, Subscription};

impl Mailboxes {
    /// What segments before `log_start` know of subscriptions, and what no segment says yet, as records of at most
    /// `record_bytes_max`.
    pub(super) fn carry_subscriptions(&self, log_start: SegmentNumber, record_bytes_max: usize) -> Vec<Subscriptions> {
        let is_carried = |subscription: &Subscription| {
            subscription.segment.is_some_and(|segment| segment < log_start) || subscription.is_carried_always()
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
            let mut entry =
                SubscriptionsEntry { channel, group, subscriber, number, progress, part: 0, members: Vec::new() };
            match &subscription.readers {
                Readers::One(_) => put(entry),
                Readers::Group(group) => {
                    let members: Vec<SubscriberId> = group.members.keys().copied().collect();
                    let mut members = &members[..];
                    while !members.is_empty() {
                        let most = room.saturating_sub(entry.bytes_with(0)) / 16;
                        let (some, others) = members.split_at(most.clamp(1, members.len()));
                        entry.members = some.to_vec();
                        put(entry.clone());
                        members = others;
                        // The first part has said it.
                        entry.part += 1;
                        entry.progress.done.clear();
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
                // Its records were trimmed: it was carried over, or is gone.
                None => return,
            }
        } else {
            one_less(&mut self.channels.subscribing, &(number, subscriber));
            if let (Some(cursor), Some(subscription)) = (begins_after, self.channels.subscriptions.get_mut(&number)) {
                subscription.moves = subscription.moves.saturating_sub(1);
                if subscription.moves == 0 {
                    subscription.durable = cursor;
                    self.refloor(number);
                }
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
        if !is_recovery {
            one_less(&mut self.channels.unsubscribing, &(channel, group, subscriber));
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
                true if is_planted(Bug::ForgetCursors) => {}
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
            if is_recovery && is_planted(Bug::ForgetCarriedSubscriptions) {
                continue;
            }
            if is_recovery {
                let is_new = !self.is_of(number, channel, group, subscriber);
                if is_new {
                    let first = entry.members.first().copied().unwrap_or(subscriber);
                    self.begin(number, channel, group, first, entry.progress.cursor);
                }
                entry.members.iter().for_each(|&member| self.join(number, member));
                let subscription =
                    self.channels.subscriptions.get_mut(&number).expect("it is there, or was just begun");
                if entry.part == 0 || is_new {
                    subscription.put(&entry.progress);
                }
                self.refloor(number);
            }
            let Some(subscription) = self.channels.subscriptions.get_mut(&number) else { continue };
            // It says all that was missed, unless something was since.
            if entry.progress.missed == subscription.missed {
                subscription.has_missed = false;
            }
            // Of the parts that it is carried over in, the first counts.
            let before = subscription.segment.filter(|_| entry.part > 0);
            self.channels.place(number, Some(before.map_or(segment, |before| before.min(segment))));
        }
    }

    /// Whether a number is that of this subscription.
    fn is_of(&self, number: u64, channel: MailboxId, group: GroupId, subscriber: SubscriberId) -> bool {
        self.find_subscription(channel, group, subscriber) == Some(number)
    }
}
