//! One mailbox: four queues, first in first out each, what its subscriber holds, and how that one fares.

use crate::channel::Channel;
use crate::cold::JobId;
use crate::entry::Entry;
use crate::id::MailboxId;
use crate::limits::DISAPPEARED_MAX;
use crate::queue::List;
use crate::record::Priority;
use crate::slab::{Slab, Slot};

/// The queues of one recipient. Their messages are entries of the index, in lists that run through these.
#[derive(Debug)]
pub(crate) struct Mailbox {
    pub(crate) id: MailboxId,
    /// What waits, by priority, by growing sequence each.
    waiting: [List; Priority::COUNT],
    /// What the subscriber was given, and what waits for the record that ends it.
    handed_out: List,
    pub(crate) handed_out_messages: usize,
    /// Queued and durable, handed out or not.
    pub(crate) messages: u64,
    pub(crate) bytes: u64,
    /// Of these, dead letters. They are in none of the lists, and neither is what waits until a pause is over.
    pub(crate) dead_messages: u64,
    /// Admitted and not durable yet.
    pub(crate) reserved_messages: u64,
    pub(crate) reserved_bytes: u64,
    /// The read that its next messages wait for.
    pub(crate) read: Option<JobId>,
    /// It stands among those that wait for room to read.
    pub(crate) waits_for_room: bool,
    /// Reads that failed since the last one that did not.
    pub(crate) failed_reads: u8,
    /// After a failed read: nothing is read before the next tick.
    pub(crate) pauses: bool,
    /// In recovery: a message that was moved stands behind younger ones.
    pub(crate) is_unordered: bool,
    /// Subscribers that disappeared one after the other with messages in hand, and nothing settled in between.
    pub(crate) disappeared: u8,
    /// Because of that it hands out nothing until its timer is due.
    pub(crate) is_pausing: bool,
    /// How many messages its subscriber may have in hand while it is given one at a time.
    pub(crate) probe_messages: usize,
    /// When its timer is due, by the monotonic clock in microseconds; 0 for none.
    pub(crate) timer_us: u64,
    /// What it is beside a mailbox, if it is a channel.
    pub(crate) channel: Option<Box<Channel>>,
}

/// From the first to be handed out to the last.
const DOWNWARDS: [Priority; Priority::COUNT] = [Priority::Critical, Priority::High, Priority::Normal, Priority::Low];

impl Mailbox {
    pub(crate) fn new(id: MailboxId) -> Self {
        Self {
            id,
            waiting: [List::default(); Priority::COUNT],
            handed_out: List::default(),
            handed_out_messages: 0,
            messages: 0,
            bytes: 0,
            dead_messages: 0,
            reserved_messages: 0,
            reserved_bytes: 0,
            read: None,
            waits_for_room: false,
            failed_reads: 0,
            pauses: false,
            is_unordered: false,
            disappeared: 0,
            is_pausing: false,
            probe_messages: 1,
            timer_us: 0,
            channel: None,
        }
    }

    /// Whether its subscriber is given one message at a time: so many before it disappeared that the next message to be
    /// handed out may be what they died of, and only that one is to be blamed.
    pub(crate) fn is_probing(&self) -> bool {
        self.disappeared >= DISAPPEARED_MAX
    }

    /// What the subscriber has in hand, in the order in which it was handed out, but for notices: these are the node's own
    /// word, read before a consumer sees anything of them, and nobody dies of one.
    pub(crate) fn in_hand<'e>(&self, entries: &'e Slab<Entry>, now_ms: u64) -> impl Iterator<Item = Slot> + use<'e> {
        self.handed_out.iter(entries).filter(move |&slot| {
            let entry = entries.get(slot);
            let is_passed_over = entry.is_settling() || entry.is_damaged() || entry.is_over(now_ms);
            entry.attempt > 0 && !is_passed_over && !entry.is_notice()
        })
    }

    /// How many more messages its subscriber may have, notices aside.
    pub(crate) fn messages_allowed(&self, entries: &Slab<Entry>, now_ms: u64) -> usize {
        match (self.is_pausing, self.is_probing()) {
            (true, _) => 0,
            (false, true) => self.probe_messages.saturating_sub(self.in_hand(entries, now_ms).count()),
            (false, false) => usize::MAX,
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        let is_subscribed_to = self.channel.as_ref().is_some_and(|channel| !channel.subscriptions.is_empty());
        self.messages == 0 && self.reserved_messages == 0 && !is_subscribed_to
    }

    /// Messages and bytes that count against its quota: what leaves early, and is not gone yet, does not.
    pub(crate) fn counted(&self) -> (u64, u64) {
        let leaving = self.channel.as_ref().map_or((0, 0), |channel| (channel.leaving_messages, channel.leaving_bytes));
        let messages = (self.messages + self.reserved_messages).saturating_sub(leaving.0);
        (messages, (self.bytes + self.reserved_bytes).saturating_sub(leaving.1))
    }

    /// Puts a message behind all that wait.
    pub(crate) fn push(&mut self, entries: &mut Slab<Entry>, slot: Slot) {
        let priority = entries.get(slot).priority();
        self.waiting[priority as usize].push_back(entries, slot);
    }

    /// The message to hand out next: the highest priority first.
    pub(crate) fn front(&self) -> Option<Slot> {
        DOWNWARDS.into_iter().find_map(|priority| self.waiting[priority as usize].first())
    }

    /// All that wait, in the order in which they will be handed out.
    pub(crate) fn waiting<'e>(&self, entries: &'e Slab<Entry>) -> impl Iterator<Item = Slot> + use<'e> {
        let lists = self.waiting;
        DOWNWARDS.into_iter().flat_map(move |priority| lists[priority as usize].iter(entries))
    }

    /// A message that waits goes to what is handed out.
    pub(crate) fn hand_out(&mut self, entries: &mut Slab<Entry>, slot: Slot) {
        let entry = entries.get_mut(slot);
        assert!(!entry.is_handed_out(), "a message is handed out once until it is put back");
        entry.set_handed_out(true);
        let priority = entry.priority();
        self.waiting[priority as usize].remove(entries, slot);
        self.handed_out.push_back(entries, slot);
        self.handed_out_messages += 1;
    }

    /// Takes a message out, wherever it is.
    pub(crate) fn remove(&mut self, entries: &mut Slab<Entry>, slot: Slot) {
        let entry = entries.get(slot);
        if entry.is_dead() {
            self.dead_messages -= 1;
        } else if entry.is_delayed() {
            // In no list.
        } else if entry.is_handed_out() {
            self.handed_out.remove(entries, slot);
            self.handed_out_messages -= 1;
        } else {
            self.waiting[entry.priority() as usize].remove(entries, slot);
        }
    }

    /// What was handed out waits again, in its old order; what is being settled or cannot be read stays.
    pub(crate) fn take_back(&mut self, entries: &mut Slab<Entry>) {
        let is_back = |slot: &Slot| {
            let entry = entries.get(*slot);
            !entry.is_settling() && !entry.is_damaged()
        };
        let back: Vec<Slot> = self.handed_out.iter(entries).filter(is_back).collect();
        for &slot in &back {
            self.let_go(entries, slot);
        }
        self.wait_again(entries, back);
    }

    /// A message that was handed out is in no list any more.
    pub(crate) fn let_go(&mut self, entries: &mut Slab<Entry>, slot: Slot) {
        self.handed_out.remove(entries, slot);
        self.handed_out_messages -= 1;
        entries.get_mut(slot).set_handed_out(false);
    }

    /// Messages that are in no list wait, in their old order.
    pub(crate) fn wait_again(&mut self, entries: &mut Slab<Entry>, mut slots: Vec<Slot>) {
        slots.sort_unstable_by_key(|&slot| entries.get(slot).sequence());
        for priority in DOWNWARDS {
            let of_priority: Vec<Slot> =
                slots.iter().copied().filter(|&slot| entries.get(slot).priority() == priority).collect();
            self.waiting[priority as usize].merge(entries, of_priority);
        }
    }

    /// Puts its queues in order.
    pub(crate) fn sort(&mut self, entries: &mut Slab<Entry>) {
        for list in &mut self.waiting {
            list.sort(entries);
        }
        self.is_unordered = false;
    }
}
