//! A list of queued messages that runs through their entries: it takes no memory but its two ends.

use crate::entry::Entry;
use crate::slab::{NO_SLOT, Slab, Slot};

/// The two ends of a list. An entry is in one list at a time.
#[derive(Debug, Clone, Copy)]
pub(crate) struct List {
    first: Slot,
    last: Slot,
}

impl Default for List {
    fn default() -> Self {
        Self { first: NO_SLOT, last: NO_SLOT }
    }
}

impl List {
    pub(crate) fn first(&self) -> Option<Slot> {
        (self.first != NO_SLOT).then_some(self.first)
    }

    /// Puts an entry behind all others.
    pub(crate) fn push_back(&mut self, entries: &mut Slab<Entry>, slot: Slot) {
        self.insert_after(entries, self.last, slot);
    }

    /// Puts entries, which are in the order of their sequences, each before the first one with a larger sequence. Goes over
    /// the list once, from the front to where the last one belongs.
    pub(crate) fn merge(&mut self, entries: &mut Slab<Entry>, slots: impl IntoIterator<Item = Slot>) {
        let (mut before, mut next) = (NO_SLOT, self.first);
        for slot in slots {
            let sequence = entries.get(slot).sequence();
            while next != NO_SLOT && entries.get(next).sequence() < sequence {
                (before, next) = (next, entries.get(next).next);
            }
            self.insert_after(entries, before, slot);
            before = slot;
        }
    }

    /// Takes an entry out that is in this list.
    pub(crate) fn remove(&mut self, entries: &mut Slab<Entry>, slot: Slot) {
        let (previous, next) = (entries.get(slot).previous, entries.get(slot).next);
        match previous {
            NO_SLOT => self.first = next,
            previous => entries.get_mut(previous).next = next,
        }
        match next {
            NO_SLOT => self.last = previous,
            next => entries.get_mut(next).previous = previous,
        }
    }

    /// The slots from the front to the end.
    pub(crate) fn iter<'e>(&self, entries: &'e Slab<Entry>) -> impl Iterator<Item = Slot> + use<'e> {
        std::iter::successors(self.first(), |&slot| {
            let next = entries.get(slot).next;
            (next != NO_SLOT).then_some(next)
        })
    }

    /// Puts the list in the order of its sequences.
    pub(crate) fn sort(&mut self, entries: &mut Slab<Entry>) {
        let mut slots: Vec<(u64, Slot)> = self.iter(entries).map(|slot| (entries.get(slot).sequence(), slot)).collect();
        if slots.is_sorted() {
            return;
        }
        slots.sort_unstable();
        *self = Self::default();
        for (_, slot) in slots {
            self.push_back(entries, slot);
        }
    }

    fn insert_after(&mut self, entries: &mut Slab<Entry>, previous: Slot, slot: Slot) {
        let next = match previous {
            NO_SLOT => std::mem::replace(&mut self.first, slot),
            previous => std::mem::replace(&mut entries.get_mut(previous).next, slot),
        };
        match next {
            NO_SLOT => self.last = slot,
            next => entries.get_mut(next).previous = slot,
        }
        let entry = entries.get_mut(slot);
        (entry.previous, entry.next) = (previous, next);
    }
}

#[cfg(test)]
mod tests;
