//! What the members of a group are handed next, and what becomes of what they have: done, refused, or given back.

use super::Mailboxes;
use super::fanout::{Look, Next, look};
use crate::subscription::{Group, NextForMember, Reader, Readers, Waits};

/// What a member of a group gets next.
pub(super) enum ForMember {
    /// The first message behind this sequence.
    Behind(u64),
    This(Next),
}

impl Mailboxes {
    /// A member of a group has consumed these messages. What it does not have in hand is left out.
    pub fn acknowledge_each(&mut self, reader: Reader, sequences: &[u64]) {
        let Some(group) = self.group_mut(reader.subscription) else { return };
        let was_full = group.is_full();
        let mut is_any = false;
        for &sequence in sequences {
            is_any |= group.done(reader.subscriber, sequence);
        }
        if is_any {
            self.channels.is_dirty(reader.subscription);
            self.advance(reader.subscription);
            // Others wait for that only where the group may have no more.
            match was_full {
                true => self.group_goes_on(reader.subscription),
                false => self.wake(reader),
            }
        }
    }

    /// A member of a group wants these messages, of which it names the sequences, to be tried again: by itself or another, not before
    /// so many milliseconds, and not before their pause is over ([`RedeliveryConfig`](super::RedeliveryConfig)). Meanwhile the others
    /// go on. What was refused, or what members went over, `deliveries_max` times in all (unless given, as configured; 0 for never) is
    /// skipped by the group: with 1 at once, for good. What it does not have in hand is left out, and so is all that a subscriber of
    /// its own says. `now_us` is that of [`pass`](Self::pass).
    pub fn nack_published(&mut self, reader: Reader, asked: &[(u64, u32)], deliveries_max: Option<u8>, now_us: u64) {
        let config = self.config.redelivery.clone();
        let most = deliveries_max.unwrap_or(config.deliveries_max);
        let Some(group) = self.group_mut(reader.subscription) else { return };
        let (mut is_any, mut is_skipped) = (false, false);
        for &(sequence, delay_ms) in asked {
            let due_us = |count| {
                let pause_us = config.pause_us(count).max(u64::from(delay_ms) * 1_000);
                now_us.saturating_add(pause_us).max(1)
            };
            if let Some(is_too_often) = group.refused(reader.subscriber, sequence, most, due_us) {
                (is_any, is_skipped) = (true, is_skipped | is_too_often);
            }
        }
        if is_skipped {
            self.channels.is_dirty(reader.subscription);
            self.advance(reader.subscription);
        }
        if is_any {
            self.set_group_timer(reader.subscription);
            self.group_goes_on(reader.subscription);
        }
    }

    /// A member of a group gives back messages that it did not look at, or can do nothing with: they are as if it had never been handed
    /// them, and go first, to whoever asks, but not to it again while another member is there that did not give them back. A member that is about to go ([`reset_reader`](Self::reset_reader)) is not thought to have gone over any of them.
    /// What it does not have in hand is left out.
    pub fn give_back(&mut self, reader: Reader, sequences: &[u64]) {
        let Some(group) = self.group_mut(reader.subscription) else { return };
        let mut is_any = false;
        for &sequence in sequences {
            is_any |= group.untouched(reader.subscriber, sequence);
        }
        if is_any {
            self.group_goes_on(reader.subscription);
        }
    }

    /// What a member of a group gets next.
    pub(super) fn next_for_member(&mut self, reader: Reader, now_ms: u64) -> ForMember {
        let (mut first_again, mut gone) = (None, Vec::new());
        {
            let Self { index, cache, cold, channels, .. } = self;
            let Readers::Group(group) = &channels.subscriptions[&reader.subscription].readers else {
                return ForMember::This(Next::Nothing);
            };
            for &sequence in group.again.keys() {
                if group.is_for_others(sequence, reader.subscriber) {
                    continue;
                }
                channels.resolved += 1;
                match look(index, cache, cold, sequence, now_ms) {
                    Look::Gone => gone.push(sequence),
                    Look::Passed => {}
                    found => {
                        first_again = Some((sequence, found));
                        break;
                    }
                }
            }
        }
        let Some(subscription) = self.channels.subscriptions.get_mut(&reader.subscription) else {
            return ForMember::This(Next::Nothing);
        };
        let Readers::Group(group) = &mut subscription.readers else { return ForMember::This(Next::Nothing) };
        let has_gone = !gone.is_empty();
        gone.into_iter().for_each(|sequence| group.forget(sequence));
        let first = first_again.as_ref().map(|&(sequence, _)| sequence);
        let next = group.next_for(reader.subscriber, first, self.redelivery.now_us());
        if let NextForMember::Held(until_us) = next {
            group.hold(reader.subscriber, until_us);
            self.set_group_timer(reader.subscription);
        }
        if has_gone {
            self.advance(reader.subscription);
        }
        match (next, first_again) {
            (NextForMember::Again, Some((_, Look::Here(delivery)))) => ForMember::This(Next::Here(delivery)),
            (NextForMember::Again, Some((sequence, _))) => ForMember::This(Next::OnDisk(sequence)),
            (NextForMember::NewAfter(after), _) => ForMember::Behind(after),
            _ => ForMember::This(Next::Nothing),
        }
    }

    /// A message goes to a member; returns its attempt.
    pub(super) fn hand_to_member(&mut self, reader: Reader, sequence: u64) -> u8 {
        let now_us = self.redelivery.now_us();
        let group = self.group_mut(reader.subscription).expect("it was just looked at");
        let was_suspect = group.is_suspect_first();
        let attempt = group.hand(reader.subscriber, sequence, now_us);
        // What was to be had alone is in other hands: nobody is held up by it any more.
        if was_suspect && !group.is_suspect_first() {
            self.group_goes_on(reader.subscription);
        }
        attempt
    }

    /// Something of a group came back, or is done: there may be more for its members.
    pub(super) fn group_goes_on(&mut self, number: u64) {
        if let Some(subscription) = self.channels.subscriptions.get(&number) {
            let mailbox = subscription.mailbox;
            self.wake_subscription(mailbox, number);
        }
    }

    /// A reader that waits for news may have some.
    fn wake(&mut self, reader: Reader) {
        if matches!(self.waits_of(reader), Some(Waits::News(_))) {
            self.stop_waiting(reader);
            self.is_reader_ready(reader);
        }
    }

    /// Has a group looked at when the first of its timers is due.
    pub(super) fn set_group_timer(&mut self, number: u64) {
        let Self { channels, redelivery, .. } = self;
        let Some(subscription) = channels.subscriptions.get_mut(&number) else { return };
        let Readers::Group(group) = &mut subscription.readers else { return };
        if let Some(due_us) = group.first_due_us()
            && (group.timer_us == 0 || due_us < group.timer_us)
        {
            redelivery.look_at_group(number, group.timer_us, due_us);
            group.timer_us = due_us;
        }
    }

    /// The time has come to look at a group: what was refused comes back, and who was held back is not any more.
    pub(super) fn look_at_group(&mut self, number: u64, now_us: u64) {
        let Some(group) = self.group_mut(number) else { return };
        group.timer_us = 0;
        let passed = group.pass(now_us);
        self.set_group_timer(number);
        for subscriber in passed.members {
            self.wake(Reader { subscription: number, subscriber });
        }
        if passed.is_back {
            self.group_goes_on(number);
        }
    }

    fn group_mut(&mut self, number: u64) -> Option<&mut Group> {
        match &mut self.channels.subscriptions.get_mut(&number)?.readers {
            Readers::One(_) => None,
            Readers::Group(group) => Some(group),
        }
    }
}
