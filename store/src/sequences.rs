//! From a message's sequence to its slot: a table in parts, so that the part that grows stalls nobody.
//!
//! A table holds slots only; the sequence itself is in the entry. That is 5 bytes for each of its places, 5.7 to 11.4 for each
//! message, depending on how full it is. The parts get uneven shares, from one to two, so that they double one after the
//! other and not all at once: together they take about 8 bytes for each message at any time.

use hashbrown::HashTable;

use crate::slab::Slot;

/// Parts of the table. At ten million messages a part that doubles moves about ten thousand of them, in half a millisecond.
const PARTS: usize = 1_024;
/// Places that a part has from the beginning, of which seven in eight may be taken: 80 KiB for all parts, so that the first
/// ten thousand messages find their places made.
const FIRST_PLACES: usize = 16;

/// Slots by sequence.
#[derive(Debug)]
pub(crate) struct Sequences {
    parts: Box<[HashTable<Slot>]>,
}

impl Default for Sequences {
    fn default() -> Self {
        Self { parts: (0..PARTS).map(|_| HashTable::with_capacity(FIRST_PLACES / 8 * 7)).collect() }
    }
}

impl Sequences {
    /// The slot of a sequence; `sequence_of` tells which one a slot has.
    pub(crate) fn find(&self, sequence: u64, sequence_of: impl Fn(Slot) -> u64) -> Option<Slot> {
        let hash = hash(sequence);
        self.parts[part(hash)].find(hash, |&slot| sequence_of(slot) == sequence).copied()
    }

    /// Adds a sequence that is not there.
    pub(crate) fn insert(&mut self, sequence: u64, slot: Slot, sequence_of: impl Fn(Slot) -> u64) {
        let own_hash = hash(sequence);
        self.parts[part(own_hash)].insert_unique(own_hash, slot, |&other| hash(sequence_of(other)));
    }

    /// Takes a sequence out; `sequence_of` must still know it.
    ///
    /// # Panics
    /// When it is not there.
    pub(crate) fn remove(&mut self, sequence: u64, slot: Slot, sequence_of: impl Fn(Slot) -> u64) {
        let own_hash = hash(sequence);
        let table = &mut self.parts[part(own_hash)];
        table.find_entry(own_hash, |&other| other == slot).expect("every queued message is in the table").remove();
        if table.capacity() > 64 && table.len() * 8 < table.capacity() {
            table.shrink_to(table.len() * 2, |&other| hash(sequence_of(other)));
        }
    }

    /// Bytes of memory that the table takes, about.
    #[cfg(test)]
    pub(crate) fn memory_bytes(&self) -> usize {
        // Seven of eight places may be taken; a place has four bytes and one of control.
        let places: usize = self.parts.iter().map(|part| (part.capacity() * 8 / 7).next_power_of_two()).sum();
        PARTS * size_of::<HashTable<Slot>>() + 5 * places
    }
}

/// Sequences are the node's own numbers: nobody outside chooses them, so the hash needs no key (splitmix64's last steps).
fn hash(sequence: u64) -> u64 {
    let mut hash = (sequence ^ (sequence >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    hash = (hash ^ (hash >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    hash ^ (hash >> 31)
}

/// Which part a hash belongs to: by bits from its middle, since tables use those at its ends. With x in 0..1 evenly,
/// x (2 + x) / 3 falls half as often at its end as at its beginning.
fn part(hash: u64) -> usize {
    let x = hash >> 24 & 0xff_ffff;
    let share = x * ((1 << 25) + x) / 3;
    usize::try_from(share >> 38).expect("ten bits")
}

#[cfg(test)]
mod tests;
