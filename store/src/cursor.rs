//! How far a subscriber is: what it was given and has not settled.

use std::collections::BTreeMap;

use crate::index::Slot;

/// Messages that were handed out, by sequence.
#[derive(Debug, Default)]
pub(crate) struct Cursor {
    in_flight: BTreeMap<u64, Slot>,
}

impl Cursor {
    pub(crate) fn hand_out(&mut self, sequence: u64, slot: Slot) {
        let before = self.in_flight.insert(sequence, slot);
        assert!(before.is_none(), "a message is handed out once until it is put back");
    }

    pub(crate) fn get(&self, sequence: u64) -> Option<Slot> {
        self.in_flight.get(&sequence).copied()
    }

    pub(crate) fn settle(&mut self, sequence: u64) -> Option<Slot> {
        self.in_flight.remove(&sequence)
    }

    pub(crate) fn len(&self) -> usize {
        self.in_flight.len()
    }

    /// Takes everything back for which `keep` does not speak, highest sequence first.
    pub(crate) fn take_back(&mut self, keep: impl Fn(Slot) -> bool) -> Vec<(u64, Slot)> {
        let mut taken: Vec<_> = self.in_flight.extract_if(.., |_, slot| !keep(*slot)).collect();
        taken.reverse();
        taken
    }
}
