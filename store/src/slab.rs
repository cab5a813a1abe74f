//! Room for many small things of one kind, in chunks: growing moves nothing, and a chunk that is empty goes back.
//!
//! A vector that doubles would copy everything that is queued at a moment that nobody chose, and hold three times as much
//! while it does. Here a full slab costs one more chunk. What is put in goes to the lowest chunk with room, so that after a
//! flood the upper ones empty and are given back.

use std::collections::BTreeSet;

use crate::layout::length_usize;

/// Names a thing while it is in a slab.
pub(crate) type Slot = u32;

/// No slot. Lists end with it.
pub(crate) const NO_SLOT: Slot = Slot::MAX;

/// Slots of a chunk.
const CHUNK_SLOTS: usize = 4_096;

/// What a slab holds. A vacant slot holds the next one of its chunk instead, so that the list of them takes no memory.
pub(crate) trait Item {
    /// A vacant slot before this one; [`NO_SLOT`] for the last of its chunk.
    fn vacant(next: Slot) -> Self;
    /// The slot after this vacant one; `None` when it is taken.
    fn next_vacant(&self) -> Option<Slot>;
}

/// A slot of things that have no place for the list of vacant ones themselves.
#[derive(Debug)]
pub(crate) enum Held<T> {
    Vacant(Slot),
    Taken(T),
}

impl<T> Item for Held<T> {
    fn vacant(next: Slot) -> Self {
        Self::Vacant(next)
    }

    fn next_vacant(&self) -> Option<Slot> {
        match self {
            Self::Vacant(next) => Some(*next),
            Self::Taken(_) => None,
        }
    }
}

impl<T> Held<T> {
    pub(crate) fn taken(&self) -> &T {
        match self {
            Self::Vacant(_) => panic!("a slot that is named is taken"),
            Self::Taken(thing) => thing,
        }
    }

    pub(crate) fn taken_mut(&mut self) -> &mut T {
        match self {
            Self::Vacant(_) => panic!("a slot that is named is taken"),
            Self::Taken(thing) => thing,
        }
    }
}

/// Things by slot.
#[derive(Debug)]
pub(crate) struct Slab<T> {
    chunks: Vec<Option<Chunk<T>>>,
    /// Chunks with a vacant slot.
    roomy: BTreeSet<usize>,
    /// Chunks that were given back.
    absent: BTreeSet<usize>,
    /// One chunk may be empty: the next message must not allocate what the last one gave back.
    spare: Option<usize>,
    taken: usize,
}

#[derive(Debug)]
struct Chunk<T> {
    slots: Box<[T]>,
    first_vacant: Slot,
    taken: usize,
}

impl<T> Default for Slab<T> {
    fn default() -> Self {
        let (roomy, absent) = (BTreeSet::new(), BTreeSet::new());
        Self { chunks: Vec::new(), roomy, absent, spare: None, taken: 0 }
    }
}

impl<T: Item> Slab<T> {
    pub(crate) fn insert(&mut self, thing: T) -> Slot {
        let number = match self.roomy.first() {
            Some(&number) => number,
            None => self.add_chunk(),
        };
        let chunk = self.chunks[number].as_mut().expect("a roomy chunk is there");
        let slot = chunk.first_vacant;
        let place = &mut chunk.slots[length_usize(slot) % CHUNK_SLOTS];
        chunk.first_vacant = place.next_vacant().expect("what is in the list of vacant slots is vacant");
        *place = thing;
        chunk.taken += 1;
        self.taken += 1;
        if chunk.first_vacant == NO_SLOT {
            self.roomy.remove(&number);
        }
        if self.spare == Some(number) {
            self.spare = None;
        }
        slot
    }

    /// Takes a thing out.
    ///
    /// # Panics
    /// When the slot is vacant.
    pub(crate) fn remove(&mut self, slot: Slot) -> T {
        let number = length_usize(slot) / CHUNK_SLOTS;
        let chunk = self.chunks[number].as_mut().expect("a slot that is named is taken");
        let vacant = T::vacant(chunk.first_vacant);
        let thing = std::mem::replace(&mut chunk.slots[length_usize(slot) % CHUNK_SLOTS], vacant);
        assert!(thing.next_vacant().is_none(), "a slot that is named is taken");
        if chunk.first_vacant == NO_SLOT {
            self.roomy.insert(number);
        }
        chunk.first_vacant = slot;
        chunk.taken -= 1;
        self.taken -= 1;
        if chunk.taken == 0 {
            self.give_back(number);
        }
        thing
    }

    pub(crate) fn get(&self, slot: Slot) -> &T {
        let chunk = self.chunks[length_usize(slot) / CHUNK_SLOTS].as_ref().expect("a slot that is named is taken");
        let thing = &chunk.slots[length_usize(slot) % CHUNK_SLOTS];
        debug_assert!(thing.next_vacant().is_none(), "a slot that is named is taken");
        thing
    }

    pub(crate) fn get_mut(&mut self, slot: Slot) -> &mut T {
        let chunk = self.chunks[length_usize(slot) / CHUNK_SLOTS].as_mut().expect("a slot that is named is taken");
        let thing = &mut chunk.slots[length_usize(slot) % CHUNK_SLOTS];
        debug_assert!(thing.next_vacant().is_none(), "a slot that is named is taken");
        thing
    }

    /// What is in a slot that may have been given to another thing meanwhile.
    pub(crate) fn look(&self, slot: Slot) -> Option<&T> {
        let chunk = self.chunks.get(length_usize(slot) / CHUNK_SLOTS)?.as_ref()?;
        Some(&chunk.slots[length_usize(slot) % CHUNK_SLOTS]).filter(|thing| thing.next_vacant().is_none())
    }

    /// As [`look`](Self::look), to change it.
    pub(crate) fn look_mut(&mut self, slot: Slot) -> Option<&mut T> {
        let chunk = self.chunks.get_mut(length_usize(slot) / CHUNK_SLOTS)?.as_mut()?;
        Some(&mut chunk.slots[length_usize(slot) % CHUNK_SLOTS]).filter(|thing| thing.next_vacant().is_none())
    }

    /// Things in it.
    pub(crate) fn len(&self) -> usize {
        self.taken
    }

    /// Slots that have memory, taken or not.
    pub(crate) fn slots(&self) -> usize {
        (self.chunks.len() - self.absent.len()) * CHUNK_SLOTS
    }

    /// The first slot from this one on that has memory; [`end`](Self::end) when there is none.
    pub(crate) fn next_present(&self, slot: Slot) -> Slot {
        let at = length_usize(slot);
        let present = (at / CHUNK_SLOTS..self.chunks.len()).find(|&number| self.chunks[number].is_some());
        present.map_or_else(|| self.end(), |number| slot_of(at.max(number * CHUNK_SLOTS)))
    }

    /// All slots are below it.
    pub(crate) fn end(&self) -> Slot {
        slot_of(self.chunks.len() * CHUNK_SLOTS)
    }

    /// Goes on from `hand` over up to `slots_max` slots, around the end, and calls `visit` for those that are taken until
    /// it says that it has enough. The hand then stands behind the last slot that was visited.
    pub(crate) fn sweep(&self, hand: &mut Slot, slots_max: usize, mut visit: impl FnMut(Slot, &T) -> bool) {
        let all = self.chunks.len() * CHUNK_SLOTS;
        let (mut at, mut left, mut passed) = (length_usize(*hand), slots_max.min(self.slots()), 0);
        while left > 0 && passed < all {
            at = if at < all { at } else { 0 };
            let Some(chunk) = &self.chunks[at / CHUNK_SLOTS] else {
                let skipped = CHUNK_SLOTS - at % CHUNK_SLOTS;
                (at, passed) = (at + skipped, passed + skipped);
                continue;
            };
            let thing = &chunk.slots[at % CHUNK_SLOTS];
            let slot = slot_of(at);
            (at, left, passed) = (at + 1, left - 1, passed + 1);
            if thing.next_vacant().is_none() && !visit(slot, thing) {
                break;
            }
        }
        *hand = slot_of(at);
    }

    fn add_chunk(&mut self) -> usize {
        let number = self.absent.pop_first().unwrap_or(self.chunks.len());
        if number == self.chunks.len() {
            self.chunks.push(None);
        }
        let first = number * CHUNK_SLOTS;
        let end = first + CHUNK_SLOTS;
        let vacant = (first..end).map(|slot| T::vacant(if slot + 1 < end { slot_of(slot + 1) } else { NO_SLOT }));
        self.chunks[number] = Some(Chunk { slots: vacant.collect(), first_vacant: slot_of(first), taken: 0 });
        self.roomy.insert(number);
        number
    }

    /// A chunk is empty: it stays as the spare one, or makes way for the one that is.
    fn give_back(&mut self, number: usize) {
        let Some(spare) = self.spare.replace(number) else { return };
        let (keep, give) = (number.min(spare), number.max(spare));
        self.spare = Some(keep);
        self.chunks[give] = None;
        self.roomy.remove(&give);
        self.absent.insert(give);
    }
}

fn slot_of(place: usize) -> Slot {
    Slot::try_from(place).expect("the quotas keep a shard far below 2^32 messages")
}

#[cfg(test)]
mod tests;
