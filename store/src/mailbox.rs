//! One mailbox: four queues, first in first out each, and what its subscriber holds.

use crate::cold::JobId;
use crate::entry::Entry;
use crate::id::MailboxId;
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
            reserved_messages: 0,
            reserved_bytes: 0,
            read: None,
            waits_for_room: false,
            failed_reads: 0,
            pauses: false,
            is_unordered: false,
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.messages == 0 && self.reserved_messages == 0
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
        if entry.is_handed_out() {
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
        let back = self.handed_out.iter(entries).filter(is_back);
        let mut back: Vec<(u64, Slot)> = back.map(|slot| (entries.get(slot).sequence(), slot)).collect();
        // The youngest first: each finds its place at the front, before what is there already.
        back.sort_unstable_by(|a, b| b.cmp(a));
        for (_, slot) in back {
            self.put_back(entries, slot);
        }
    }

    /// One message that was handed out waits again, in its old order.
    pub(crate) fn put_back(&mut self, entries: &mut Slab<Entry>, slot: Slot) {
        self.handed_out.remove(entries, slot);
        self.handed_out_messages -= 1;
        let entry = entries.get_mut(slot);
        entry.set_handed_out(false);
        let priority = entry.priority();
        self.waiting[priority as usize].insert_in_order(entries, slot);
    }

    /// Puts its queues in order.
    pub(crate) fn sort(&mut self, entries: &mut Slab<Entry>) {
        for list in &mut self.waiting {
            list.sort(entries);
        }
        self.is_unordered = false;
    }
}
