//! What is delivered again, and when: what its consumer asks for again, and what a consumer had in hand when it
//! disappeared.
//!
//! ```text
//! waiting --> handed out --> settled
//!    ^           |   | nack, or its consumer disappears over it: a failed delivery
//!    |           v   v
//!    +------- delayed   too many of them --> dead
//! ```
//!
//! **Which delivery failed.** A consumer that asks for a message again says so itself. Of what a consumer had in hand when it
//! disappeared, the message that it had first is blamed, and no other: what was handed out ahead, and never looked at, gains
//! nothing by it. Where consumers disappear one after the other and nothing is settled, the next one gets one message at a
//! time, after a pause: then the one that it had first is the one that it died of.
//!
//! All of this is in memory only. After a restart a message has all its deliveries before it again.

use std::collections::{BTreeMap, BTreeSet};

use super::Mailboxes;
use crate::id::MailboxId;
use crate::limits::{DELIVERIES_MAX, DISAPPEARED_MAX, PROBE_HOLD_US, REDELIVERY_BASE_US, REDELIVERY_MAX_US};
use crate::planted::{Bug, is_planted};
use crate::record::{DeadLetter, DeathCause};
use crate::slab::{Held, Slot};

/// When messages are delivered again, and how often. The defaults are those of [`limits`](crate::limits).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RedeliveryConfig {
    /// Pause before the first redelivery, in microseconds; it doubles with every one.
    pub base_us: u64,
    /// The longest pause, in microseconds, unless the consumer asks for a longer one.
    pub max_us: u64,
    /// Failed deliveries after which a message goes to the dead letters; 0 for never.
    pub deliveries_max: u8,
}

impl Default for RedeliveryConfig {
    fn default() -> Self {
        Self { base_us: REDELIVERY_BASE_US, max_us: REDELIVERY_MAX_US, deliveries_max: DELIVERIES_MAX }
    }
}

impl RedeliveryConfig {
    /// The pause before what is delivered again for the `count`-th time.
    pub(super) fn pause_us(&self, count: u8) -> u64 {
        let doublings = u32::from(count.saturating_sub(1));
        self.base_us
            .checked_shl(doublings)
            .filter(|pause| pause >> doublings == self.base_us)
            .unwrap_or(u64::MAX)
            .min(self.max_us)
    }
}

/// What waits for a time, and what has failed.
#[derive(Debug, Default)]
pub(super) struct Redelivery {
    /// By sequence. Each message in it was handed out, and is queued.
    failures: BTreeMap<u64, Failures>,
    timers: BTreeSet<(u64, Timer)>,
    /// Mailboxes that may have something to hand out, and nobody was told.
    ready: BTreeSet<MailboxId>,
    /// The time that was told last.
    now_us: u64,
}

#[derive(Debug, Default, Clone, Copy)]
struct Failures {
    count: u8,
    /// When the message is delivered again; 0 unless it is delayed.
    due_us: u64,
    /// Its consumer says that it did not look at it.
    is_untouched: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Timer {
    /// A message of this sequence is to be delivered again.
    Message(u64),
    /// A mailbox of this number goes on.
    Mailbox(u32),
    /// Something of the group with this subscription comes back, or one of its members goes on.
    Group(u64),
}

impl Redelivery {
    /// A group is looked at then, and not when it was to be before; 0 for not at all.
    pub(super) fn look_at_group(&mut self, number: u64, before_us: u64, due_us: u64) {
        self.group_ends(number, before_us);
        self.timers.insert((due_us, Timer::Group(number)));
    }

    /// A group that was to be looked at then is gone; 0 for not at all.
    pub(super) fn group_ends(&mut self, number: u64, timer_us: u64) {
        if timer_us > 0 {
            self.timers.remove(&(timer_us, Timer::Group(number)));
        }
    }

    pub(super) fn now_us(&self) -> u64 {
        self.now_us
    }

    #[cfg(test)]
    pub(super) fn timers(&self) -> usize {
        self.timers.len()
    }
}

impl Mailboxes {
    /// The consumer wants these messages, of which it names the sequences, again: not before so many milliseconds, and not
    /// before their pause is over. They give up their places in the order until then. One whose deliveries failed too often
    /// goes to the dead letters ([`next_death`](Self::next_death)): how often is too often is `deliveries_max`, or what is
    /// configured for all. What is not handed out is left out.
    pub fn nack(
        &mut self,
        mailbox: MailboxId,
        asked: &[(u64, u32)],
        deliveries_max: Option<u8>,
        now_us: u64,
        now_ms: u64,
    ) {
        let Some(&number) = self.numbers.get(&mailbox) else { return };
        let most = deliveries_max.unwrap_or(self.config.redelivery.deliveries_max);
        let mut dying = Vec::new();
        for &(sequence, delay_ms) in asked {
            let Some(slot) = self.find_in_hand(number, sequence) else { continue };
            let Some(count) = self.delivery_failed(slot, most, now_ms, &mut dying) else { continue };
            let pause_us = self.config.redelivery.pause_us(count).max(u64::from(delay_ms) * 1_000);
            let due_us = now_us.saturating_add(pause_us);
            self.boxes.get_mut(number).taken_mut().let_go(&mut self.index.entries, slot);
            self.index.entries.get_mut(slot).set_delayed(true);
            self.redelivery.failures.entry(sequence).or_default().due_us = due_us;
            if !is_planted(Bug::PauseForEver) {
                self.redelivery.timers.insert((due_us, Timer::Message(sequence)));
            }
        }
        self.will_die(mailbox, dying);
        self.has_less_in_hand(number);
    }

    /// The consumer did not look at these messages, of which it names the sequences, and will not: it may be one that waits for others
    /// behind them. They stay in its hand, and when it goes none of them is what it went over. What is not handed out is left out.
    pub fn untouched(&mut self, mailbox: MailboxId, sequences: &[u64]) {
        let Some(&number) = self.numbers.get(&mailbox) else { return };
        for &sequence in sequences {
            let Some(slot) = self.find_in_hand(number, sequence) else { continue };
            self.index.entries.get_mut(slot).set_failed(true);
            self.redelivery.failures.entry(sequence).or_default().is_untouched = true;
        }
    }

    /// The subscriber of a mailbox is gone: what it was given and has not settled goes back to the front, in order. The
    /// message that it had in hand first, notices aside and what it [did not look at](Self::untouched), counts one more failed delivery, and may go to the dead letters for it
    /// ([`next_death`](Self::next_death)); `deliveries_max` as in [`nack`](Self::nack).
    pub fn reset(&mut self, mailbox: MailboxId, deliveries_max: Option<u8>, now_us: u64, now_ms: u64) {
        let Some(&number) = self.numbers.get(&mailbox) else { return };
        let most = deliveries_max.unwrap_or(self.config.redelivery.deliveries_max);
        let Self { boxes, index, redelivery, .. } = &mut *self;
        let queues = boxes.get_mut(number).taken_mut();
        queues.probe_messages = 1;
        let (mut first, mut untouched) = (None, Vec::new());
        for slot in queues.in_hand(&index.entries, now_ms) {
            let entry = index.entries.get(slot);
            let failures = redelivery.failures.get_mut(&entry.sequence()).filter(|failures| failures.is_untouched);
            match failures {
                Some(failures) => {
                    failures.is_untouched = false;
                    untouched.push((slot, failures.count));
                }
                None => first = first.or(Some(slot)),
            }
        }
        // Of most of them nothing else is known.
        for (slot, _) in untouched.into_iter().filter(|(_, count)| *count == 0) {
            self.forget_failures(slot);
        }
        let queues = self.boxes.get_mut(number).taken_mut();
        if let Some(slot) = first {
            queues.disappeared = queues.disappeared.saturating_add(1);
            if queues.is_probing() {
                let times = queues.disappeared - (DISAPPEARED_MAX - 1);
                queues.is_pausing = true;
                let due_us = now_us.saturating_add(self.config.redelivery.pause_us(times));
                self.set_timer(number, due_us);
            }
            let mut dying = Vec::new();
            self.delivery_failed(slot, most, now_ms, &mut dying);
            self.will_die(mailbox, dying);
        }
        self.boxes.get_mut(number).taken_mut().take_back(&mut self.index.entries);
    }

    /// Tells the time, by the monotonic clock: messages, mailboxes and members of groups whose pause is over go on. Call it at every
    /// tick.
    pub fn pass(&mut self, now_us: u64) {
        self.redelivery.now_us = now_us;
        let mut again: BTreeMap<u32, Vec<Slot>> = BTreeMap::new();
        while let Some(&(_, timer)) = self.redelivery.timers.first().filter(|(due_us, _)| *due_us <= now_us) {
            self.redelivery.timers.pop_first();
            match timer {
                Timer::Message(sequence) => {
                    let slot = self.index.find(sequence).expect("what leaves takes its timer with it");
                    let failures = self.redelivery.failures.get_mut(&sequence);
                    failures.expect("what is delayed has failed").due_us = 0;
                    let entry = self.index.entries.get_mut(slot);
                    entry.set_delayed(false);
                    again.entry(entry.mailbox).or_default().push(slot);
                }
                Timer::Mailbox(number) => {
                    let queues = self.boxes.get_mut(number).taken_mut();
                    queues.timer_us = 0;
                    // It was quiet long enough; or its subscriber is still there, and may want more before it settles any.
                    if !std::mem::take(&mut queues.is_pausing) {
                        queues.probe_messages = queues.probe_messages.saturating_add(1);
                    }
                    self.redelivery.ready.insert(queues.id);
                }
                Timer::Group(number) => self.look_at_group(number, now_us),
            }
        }
        for (number, slots) in again {
            let queues = self.boxes.get_mut(number).taken_mut();
            queues.wait_again(&mut self.index.entries, slots);
            self.redelivery.ready.insert(queues.id);
        }
    }

    /// Mailboxes that may have something to hand out that they had not before: ask for their deliveries.
    pub fn take_ready(&mut self) -> BTreeSet<MailboxId> {
        std::mem::take(&mut self.redelivery.ready)
    }

    /// Messages of mailboxes that wait until a pause is over.
    pub fn delayed_messages(&self) -> usize {
        self.redelivery.timers.iter().filter(|(_, timer)| matches!(timer, Timer::Message(_))).count()
    }

    /// A consumer that is given one message at a time has room for the next.
    pub(super) fn has_less_in_hand(&mut self, number: u32) {
        let queues = self.boxes.get(number).taken();
        if queues.is_probing() {
            self.redelivery.ready.insert(queues.id);
        }
    }

    pub(super) fn is_ready(&mut self, mailbox: MailboxId) {
        self.redelivery.ready.insert(mailbox);
    }

    /// Something was handed out to a subscriber that is given one message at a time.
    pub(super) fn probe_begins(&mut self, number: u32) {
        let due_us = self.redelivery.now_us.saturating_add(PROBE_HOLD_US);
        self.set_timer(number, due_us);
    }

    /// The mailbox's consumer got something done: what its predecessors died of is not what it has now.
    pub(super) fn consumer_is_well(&mut self, number: u32) {
        let queues = self.boxes.get_mut(number).taken_mut();
        if queues.disappeared > 0 {
            if queues.is_probing() {
                self.redelivery.ready.insert(queues.id);
            }
            queues.disappeared = 0;
            queues.is_pausing = false;
            self.clear_timer(number);
        }
    }

    /// A message leaves, or dies, or lives again: what was known of its deliveries is over.
    pub(super) fn forget_failures(&mut self, slot: Slot) {
        let entry = self.index.entries.get_mut(slot);
        if !entry.has_failed() {
            return;
        }
        entry.set_failed(false);
        let sequence = entry.sequence();
        let failures = self.redelivery.failures.remove(&sequence).expect("what has failed is counted");
        self.redelivery.timers.remove(&(failures.due_us, Timer::Message(sequence)));
    }

    /// A mailbox is forgotten: so is its timer.
    pub(super) fn clear_timer(&mut self, number: u32) {
        let Some(Held::Taken(queues)) = self.boxes.look(number) else { return };
        self.redelivery.timers.remove(&(queues.timer_us, Timer::Mailbox(number)));
        self.boxes.get_mut(number).taken_mut().timer_us = 0;
    }

    fn set_timer(&mut self, number: u32, due_us: u64) {
        self.clear_timer(number);
        self.boxes.get_mut(number).taken_mut().timer_us = due_us;
        self.redelivery.timers.insert((due_us, Timer::Mailbox(number)));
    }

    /// Counts a failed delivery; `None` when it was the last one that the message is given. A notice is given any number: it
    /// is the node's own word, small, and gone when its time is over, and nobody could look at it as a dead letter.
    fn delivery_failed(&mut self, slot: Slot, most: u8, now_ms: u64, dying: &mut Vec<DeadLetter>) -> Option<u8> {
        let entry = self.index.entries.get_mut(slot);
        entry.set_failed(true);
        let sequence = entry.sequence();
        let failures = self.redelivery.failures.entry(sequence).or_default();
        failures.count = failures.count.saturating_add(1);
        failures.is_untouched = false;
        let count = failures.count;
        if most == 0 || count < most || entry.is_notice() {
            return Some(count);
        }
        entry.set_settling(true);
        dying.push(DeadLetter {
            sequence,
            died_ms: now_ms,
            reason: 0,
            cause: DeathCause::Deliveries,
            deliveries: count,
        });
        None
    }

    /// Failed deliveries of a message.
    pub(super) fn failed_deliveries(&self, sequence: u64) -> u8 {
        self.redelivery.failures.get(&sequence).map_or(0, |failures| failures.count)
    }

    /// The slot of a message of this mailbox that its subscriber has in hand.
    pub(super) fn find_in_hand(&self, number: u32, sequence: u64) -> Option<Slot> {
        self.find(number, sequence).filter(|&slot| {
            let entry = self.index.entries.get(slot);
            entry.is_handed_out() && entry.attempt > 0 && !entry.is_settling() && !entry.is_damaged()
        })
    }
}
