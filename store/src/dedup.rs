//! Which message ids were already admitted, per sender.
//!
//! A sender's window holds its most recent ids in the order of their arrival, and a *floor*: the largest time of an id that
//! fell out. An id that is not in the window is new only if its time is above the floor, so an id is never admitted twice,
//! whatever falls out. What is at or below the floor, or too old, is refused by name instead of being guessed about.
//!
//! Invariant: the window (65,536 ids) is larger than what a sender may have in flight (16,384), so the resend of a message
//! whose acknowledgement was lost is always recognised.
//!
//! An id enters as *pending* when its message is admitted, and becomes durable with its record. Pending ids never fall out.

use std::collections::{BTreeMap, VecDeque};

use hashbrown::{HashMap, HashTable};

use crate::hash::HashKey;
use crate::id::{MessageId, SenderId};
use crate::limits::{
    DEDUP_AHEAD_MS, DEDUP_RECORD_IDS_MAX, DEDUP_RECORD_SENDERS_MAX, DEDUP_SENDER_IDS_MAX, DEDUP_SENDERS_MAX,
    DEDUP_SHARD_IDS_MAX, DEDUP_WINDOW_MS, RECORD_HEADER_BYTES,
};
use crate::lsn::SegmentNumber;
use crate::planted::{Bug, is_planted};
use crate::record::{Dedup, DedupSender};

/// Sizes of the deduplication windows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DedupConfig {
    /// Ids remembered per sender.
    pub sender_ids_max: usize,
    /// Ids remembered per shard.
    pub shard_ids_max: usize,
    /// Senders remembered per shard.
    pub senders_max: usize,
    /// Age at which an id is refused, in milliseconds.
    pub window_ms: u64,
    /// How far ahead of the clock an id may be, in milliseconds.
    pub ahead_ms: u64,
}

impl Default for DedupConfig {
    fn default() -> Self {
        Self {
            sender_ids_max: DEDUP_SENDER_IDS_MAX,
            shard_ids_max: DEDUP_SHARD_IDS_MAX,
            senders_max: DEDUP_SENDERS_MAX,
            window_ms: DEDUP_WINDOW_MS,
            ahead_ms: DEDUP_AHEAD_MS,
        }
    }
}

/// What is known about an id.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    New,
    Duplicate { durable: bool },
    TooOld,
    TooFarAhead,
    TooManyPending,
    TooManySenders,
}

/// The windows of all senders of a shard.
#[derive(Debug)]
pub(crate) struct Windows {
    config: DedupConfig,
    key: HashKey,
    slots: HashMap<SenderId, usize, HashKey>,
    windows: Vec<Option<Window>>,
    free: Vec<usize>,
    /// The next window that is looked at for ids to let go.
    hand: usize,
    next_arrival: u64,
    ids: usize,
    ids_by_segment: BTreeMap<SegmentNumber, u64>,
    /// The highest floor of a window that was forgotten because its ids were too old. It counts when the clock is set back.
    floor_ms: u64,
}

/// In a Dedup record the floor of all windows that were forgotten: no agent has this id.
const EVERY_SENDER: SenderId = SenderId([0; 16]);

#[derive(Debug)]
struct Window {
    sender: SenderId,
    floor_ms: u64,
    /// Oldest arrival first.
    ids: VecDeque<Entry>,
    /// The number of the front entry: the table holds numbers, which stay true while entries come and go at both ends.
    first_number: u32,
    /// The number behind the one that became durable last: mostly the next that does.
    next_durable: u32,
    table: HashTable<u32>,
}

/// A shard remembers millions of ids: 24 bytes each, and 6 to 11 in its window's table.
#[derive(Debug, Clone, Copy)]
struct Entry {
    id: MessageId,
    arrival: Step,
    segment: u32,
}

const _: () = assert!(size_of::<Entry>() == 24);

/// Ids that a new window has room for.
const FIRST_IDS: usize = 4;

/// When an id arrived. Counts ids of the whole shard, in steps of a 64th of those that it remembers.
type Step = u32;

/// The arrival of ids whose own records were trimmed: before all others.
const CARRIED_OVER: Step = 0;
const STEPS: u64 = 64;

/// In place of a segment: the id is not durable yet.
const PENDING: u32 = u32::MAX;

impl Entry {
    fn new(id: MessageId, arrival: Step, segment: Option<SegmentNumber>) -> Self {
        let mut entry = Self { id, arrival, segment: PENDING };
        if let Some(segment) = segment {
            entry.set_segment(segment);
        }
        entry
    }

    /// Where the id is durable.
    fn segment(&self) -> Option<SegmentNumber> {
        (self.segment != PENDING).then_some(SegmentNumber(u64::from(self.segment)))
    }

    fn set_segment(&mut self, segment: SegmentNumber) {
        self.segment = u32::try_from(segment.0).expect("2^32 segments are more than any disk has held");
    }
}

impl Windows {
    pub(crate) fn new(config: DedupConfig, key: HashKey) -> Self {
        assert!(config.sender_ids_max > 0 && u32::try_from(config.sender_ids_max).is_ok());
        Self {
            config,
            key,
            slots: HashMap::with_hasher(key),
            windows: Vec::new(),
            free: Vec::new(),
            hand: 0,
            next_arrival: 0,
            ids: 0,
            ids_by_segment: BTreeMap::new(),
            floor_ms: 0,
        }
    }

    /// What is known about an id, without remembering it.
    pub(crate) fn check(&self, sender: SenderId, id: MessageId, now_ms: u64) -> Verdict {
        let window = self.slots.get(&sender).and_then(|&slot| self.windows[slot].as_ref());
        if let Some(entry) = window.and_then(|window| window.get(&self.key, id)) {
            return Verdict::Duplicate { durable: entry.segment().is_some() };
        }
        let time_ms = id.time_ms();
        if time_ms > now_ms.saturating_add(self.config.ahead_ms) {
            return Verdict::TooFarAhead;
        }
        if time_ms.saturating_add(self.config.window_ms) < now_ms {
            return Verdict::TooOld;
        }
        if self.floor_ms > 0 && time_ms <= self.floor_ms {
            return Verdict::TooOld;
        }
        let Some(window) = window else {
            let is_full = self.slots.len() >= self.config.senders_max;
            return if is_full { Verdict::TooManySenders } else { Verdict::New };
        };
        if time_ms <= window.floor_ms {
            return Verdict::TooOld;
        }
        let is_full = window.ids.len() >= self.config.sender_ids_max;
        if is_full && window.ids.front().is_some_and(|front| front.segment().is_none()) {
            return Verdict::TooManyPending;
        }
        Verdict::New
    }

    /// Remembers an id that was admitted and is not durable yet.
    pub(crate) fn insert_pending(&mut self, sender: SenderId, id: MessageId) {
        self.insert(sender, id, None);
    }

    /// Forgets the last pending id of a sender: its message was not appended after all.
    pub(crate) fn withdraw(&mut self, sender: SenderId, id: MessageId) {
        let slot = *self.slots.get(&sender).expect("the sender was admitted");
        let window = self.windows[slot].as_mut().expect("a named slot is taken");
        let last = window.ids.back().expect("its id is in the window");
        assert!(last.id == id && last.segment().is_none(), "messages are withdrawn in the reverse order of admission");
        window.pop_back(&self.key);
        self.ids -= 1;
    }

    /// An id is durable: a pending one becomes so, an unknown one (in recovery) is remembered.
    pub(crate) fn durable(&mut self, sender: SenderId, id: MessageId, segment: SegmentNumber) {
        let key = self.key;
        let window = self.slots.get(&sender).copied().and_then(|slot| self.windows[slot].as_mut());
        match window.and_then(|window| window.next_durable(&key, id)) {
            Some(entry) if entry.segment().is_none() => {
                entry.set_segment(segment);
                *self.ids_by_segment.entry(segment).or_default() += 1;
            }
            Some(_) => {}
            None => self.insert(sender, id, Some(segment)),
        }
    }

    /// Takes what was carried over from older segments: these ids arrived before all that the window knows otherwise, but
    /// for what other records carried over. Among those they stand by their time: what a later trim carried over is newer
    /// than what an earlier one did, and both may be in the log.
    pub(crate) fn carried_over(&mut self, carried: &DedupSender, segment: SegmentNumber) {
        if carried.sender == EVERY_SENDER {
            self.floor_ms = self.floor_ms.max(carried.floor_ms);
            return;
        }
        let slot = self.slot_of(carried.sender);
        let key = self.key;
        let window = self.windows[slot].as_mut().expect("a named slot is taken");
        if !is_planted(Bug::ForgetFloor) {
            window.floor_ms = window.floor_ms.max(carried.floor_ms);
        }
        let mut unknown = Vec::new();
        // They stand in the window as in the record, one after the other, and mostly come from one segment.
        let (mut expected, mut moved) = (window.first_number, (SegmentNumber(0), 0));
        for &id in &carried.ids {
            match window.get_near(&key, id, &mut expected) {
                None => unknown.push(Entry::new(id, CARRIED_OVER, Some(segment))),
                Some(entry) => {
                    if let Some(old) = entry.segment().filter(|&old| old < segment) {
                        entry.set_segment(segment);
                        if moved.0 != old {
                            move_in(&mut self.ids_by_segment, moved, segment);
                            moved = (old, 0);
                        }
                        moved.1 += 1;
                    }
                }
            }
        }
        move_in(&mut self.ids_by_segment, moved, segment);
        if unknown.is_empty() {
            return;
        }
        let mut older = Vec::new();
        while window.ids.front().is_some_and(|front| front.arrival == CARRIED_OVER) {
            let entry = window.pop_front(&key);
            forget_in(&mut self.ids_by_segment, entry.segment().expect("what is carried over is durable"));
            self.ids -= 1;
            older.push(entry);
        }
        older.append(&mut unknown);
        older.sort_by_key(|entry| entry.id.time_ms());
        // The newest first, as far as there is room.
        for entry in older.into_iter().rev() {
            if window.ids.len() < self.config.sender_ids_max {
                window.push_front(&key, entry);
                *self.ids_by_segment.entry(entry.segment().expect("it is durable")).or_default() += 1;
                self.ids += 1;
            } else {
                window.floor_ms = window.floor_ms.max(entry.id.time_ms());
            }
        }
    }

    /// Lets go what is too old to be asked about, in up to `windows_max` windows.
    pub(crate) fn expire(&mut self, now_ms: u64, windows_max: usize) {
        let oldest_ms = now_ms.saturating_sub(self.config.window_ms);
        for _ in 0..windows_max.min(self.windows.len()) {
            let slot = self.turn_hand();
            let is_old = |entry: &Entry| entry.id.time_ms() < oldest_ms;
            while self.windows[slot].as_ref().and_then(|window| window.ids.front()).is_some_and(is_old) {
                if !self.evict_front(slot) {
                    break;
                }
            }
            // Below `oldest_ms` everything is refused by its age, as long as the clock is not set back.
            let empty = self.windows[slot].take_if(|window| window.ids.is_empty() && window.floor_ms < oldest_ms);
            if let Some(window) = empty {
                self.floor_ms = self.floor_ms.max(window.floor_ms);
                self.slots.remove(&window.sender);
                self.free.push(slot);
            }
        }
    }

    /// Bytes that must be carried over, about, before segments below `log_start` may go.
    pub(crate) fn carried_bytes(&self, log_start: SegmentNumber) -> u64 {
        let ids: u64 = self.ids_by_segment.range(..log_start).map(|(_, ids)| ids).sum();
        16 * ids + 32 * self.slots.len() as u64
    }

    /// Everything about ids that segments below `log_start` hold and that is still needed, as records of at most
    /// `record_bytes_max`. Every sender's floor is in one of them. There is always at least one record.
    pub(crate) fn carry_over(
        &self,
        log_start: SegmentNumber,
        next_sequence: u64,
        record_bytes_max: usize,
    ) -> Vec<Dedup> {
        let mut windows: Vec<&Window> = self.windows.iter().flatten().collect();
        // By sender, so that the records do not depend on the order in which slots were given.
        windows.sort_unstable_by_key(|window| window.sender);
        let mut records = vec![Dedup { next_sequence, senders: Vec::new() }];
        if self.floor_ms > 0 {
            let everyone = DedupSender { sender: EVERY_SENDER, floor_ms: self.floor_ms, ids: Vec::new() };
            records[0].senders.push(everyone);
        }
        let room = record_bytes_max - RECORD_HEADER_BYTES - 16 - 32 * records[0].senders.len();
        let (mut room_left, mut ids_left) = (room, DEDUP_RECORD_IDS_MAX);
        for window in windows {
            let is_old = |entry: &&Entry| entry.segment().is_some_and(|segment| segment < log_start);
            let mut ids: Vec<MessageId> = window.ids.iter().filter(is_old).map(|entry| entry.id).collect();
            if ids.is_empty() && window.floor_ms == 0 {
                continue;
            }
            // The newest part goes first: each part is put in front of what is known when it is read again.
            loop {
                let last = records.last_mut().expect("never empty");
                if room_left < 32 + 16 || ids_left == 0 || last.senders.len() == DEDUP_RECORD_SENDERS_MAX {
                    records.push(Dedup { next_sequence, senders: Vec::new() });
                    (room_left, ids_left) = (room, DEDUP_RECORD_IDS_MAX);
                    continue;
                }
                let count = ids.len().min(ids_left).min((room_left - 32) / 16);
                let part = ids.split_off(ids.len() - count);
                room_left -= 32 + 16 * count;
                ids_left -= count;
                last.senders.push(DedupSender { sender: window.sender, floor_ms: window.floor_ms, ids: part });
                if ids.is_empty() {
                    break;
                }
            }
        }
        records
    }

    fn insert(&mut self, sender: SenderId, id: MessageId, segment: Option<SegmentNumber>) {
        let slot = self.slot_of(sender);
        let arrival = self.step(self.next_arrival);
        self.next_arrival += 1;
        while self.windows[slot].as_ref().is_some_and(|window| window.ids.len() >= self.config.sender_ids_max) {
            if !self.evict_front(slot) {
                break;
            }
        }
        let key = self.key;
        let window = self.windows[slot].as_mut().expect("a named slot is taken");
        window.push_back(&key, Entry::new(id, arrival, segment));
        self.ids += 1;
        if let Some(segment) = segment {
            *self.ids_by_segment.entry(segment).or_default() += 1;
        }
        self.let_go_of_overdue();
    }

    /// Keeps the shard's sum near its bound: each arrival looks at two windows for ids that arrived too long ago.
    fn let_go_of_overdue(&mut self) {
        if self.ids <= self.config.shard_ids_max {
            return;
        }
        let oldest_arrival = self.step(self.next_arrival.saturating_sub(self.config.shard_ids_max as u64));
        for _ in 0..2 {
            let slot = self.turn_hand();
            for _ in 0..4 {
                let front = self.windows[slot].as_ref().and_then(|window| window.ids.front());
                if front.is_none_or(|front| front.arrival >= oldest_arrival) || !self.evict_front(slot) {
                    break;
                }
            }
        }
    }

    /// The step of an arrival. Ids of one step count as equally old.
    fn step(&self, arrival: u64) -> Step {
        let step = arrival / (self.config.shard_ids_max as u64 / STEPS).max(1);
        Step::try_from(step + 1).expect("2^48 ids are more than any node has seen")
    }

    /// Lets the oldest id of a window go and raises the floor over it. Pending ids stay: `false`.
    fn evict_front(&mut self, slot: usize) -> bool {
        let key = self.key;
        let Some(window) = self.windows[slot].as_mut() else { return false };
        let Some(segment) = window.ids.front().and_then(Entry::segment) else { return false };
        let evicted = window.pop_front(&key);
        window.floor_ms = window.floor_ms.max(evicted.id.time_ms());
        forget_in(&mut self.ids_by_segment, segment);
        self.ids -= 1;
        true
    }

    fn slot_of(&mut self, sender: SenderId) -> usize {
        if let Some(&slot) = self.slots.get(&sender) {
            return slot;
        }
        let window = Window {
            sender,
            floor_ms: 0,
            ids: VecDeque::new(),
            first_number: 0,
            next_durable: 0,
            table: HashTable::new(),
        };
        let slot = match self.free.pop() {
            Some(slot) => {
                self.windows[slot] = Some(window);
                slot
            }
            None => {
                self.windows.push(Some(window));
                self.windows.len() - 1
            }
        };
        self.slots.insert(sender, slot);
        slot
    }

    fn turn_hand(&mut self) -> usize {
        self.hand = if self.hand + 1 < self.windows.len() { self.hand + 1 } else { 0 };
        self.hand
    }
}

impl Window {
    fn get(&self, key: &HashKey, id: MessageId) -> Option<&Entry> {
        let number = self.number_of(key, id)?;
        self.ids.get(place(number, self.first_number))
    }

    /// The entry of an id that is about to become durable.
    fn next_durable(&mut self, key: &HashKey, id: MessageId) -> Option<&mut Entry> {
        let mut expected = self.next_durable;
        let number = self.number_near(key, id, &mut expected)?;
        self.next_durable = expected;
        self.ids.get_mut(place(number, self.first_number))
    }

    /// The entry of an id, which is expected to have this number; the next one is expected behind it.
    fn get_near(&mut self, key: &HashKey, id: MessageId, expected: &mut u32) -> Option<&mut Entry> {
        let number = self.number_near(key, id, expected)?;
        self.ids.get_mut(place(number, self.first_number))
    }

    /// Ids are mostly asked for in the order in which they stand: then no table is looked into, whose every look misses the
    /// caches once a sender has sent tens of thousands of messages.
    fn number_near(&self, key: &HashKey, id: MessageId, expected: &mut u32) -> Option<u32> {
        let is_there = self.ids.get(place(*expected, self.first_number)).is_some_and(|entry| entry.id == id);
        let number = if is_there { *expected } else { self.number_of(key, id)? };
        *expected = number.wrapping_add(1);
        Some(number)
    }

    fn push_back(&mut self, key: &HashKey, entry: Entry) {
        let length = u32::try_from(self.ids.len()).expect("bounded by sender_ids_max");
        self.make_room();
        self.ids.push_back(entry);
        self.note(key, entry.id, self.first_number.wrapping_add(length));
    }

    fn push_front(&mut self, key: &HashKey, entry: Entry) {
        self.first_number = self.first_number.wrapping_sub(1);
        self.make_room();
        self.ids.push_front(entry);
        self.note(key, entry.id, self.first_number);
    }

    fn pop_front(&mut self, key: &HashKey) -> Entry {
        let entry = *self.ids.front().expect("asked for only when there is one");
        self.unnote(key, entry.id, self.first_number);
        self.ids.pop_front();
        self.first_number = self.first_number.wrapping_add(1);
        self.give_room_back(key);
        entry
    }

    fn pop_back(&mut self, key: &HashKey) {
        let entry = *self.ids.back().expect("asked for only when there is one");
        let before = u32::try_from(self.ids.len() - 1).expect("bounded by sender_ids_max");
        self.unnote(key, entry.id, self.first_number.wrapping_add(before));
        self.ids.pop_back();
    }

    /// Grows by an eighth. Doubling would leave half of the memory of millions of ids empty.
    fn make_room(&mut self) {
        if self.ids.len() == self.ids.capacity() {
            self.ids.reserve_exact((self.ids.len() / 8).max(FIRST_IDS));
        }
    }

    /// A window that was full once and holds little now keeps no memory for what it held: the shard's bound counts ids, and
    /// ten thousand senders could each have had a full window in turn.
    fn give_room_back(&mut self, key: &HashKey) {
        if self.ids.capacity() > 16 * FIRST_IDS && self.ids.len() < self.ids.capacity() / 4 {
            self.ids.shrink_to(self.ids.len() * 2);
            let (ids, first_number) = (&self.ids, self.first_number);
            self.table.shrink_to(ids.len() * 2, |&number| key.hash_id(&ids[place(number, first_number)].id.0));
        }
    }

    fn number_of(&self, key: &HashKey, id: MessageId) -> Option<u32> {
        let is_id = |&number: &u32| self.ids[place(number, self.first_number)].id == id;
        self.table.find(key.hash_id(&id.0), is_id).copied()
    }

    fn note(&mut self, key: &HashKey, id: MessageId, number: u32) {
        let (ids, first_number) = (&self.ids, self.first_number);
        let hash_of = |&number: &u32| key.hash_id(&ids[place(number, first_number)].id.0);
        self.table.insert_unique(key.hash_id(&id.0), number, hash_of);
    }

    fn unnote(&mut self, key: &HashKey, id: MessageId, number: u32) {
        let entry = self.table.find_entry(key.hash_id(&id.0), |&other| other == number);
        entry.expect("every id of the window is in its table").remove();
    }
}

/// Where an entry stands in the window. Numbers wrap; differences do not.
fn place(number: u32, first_number: u32) -> usize {
    crate::layout::length_usize(number.wrapping_sub(first_number))
}

/// So many ids of a segment are in another one now.
fn move_in(ids_by_segment: &mut BTreeMap<SegmentNumber, u64>, (from, count): (SegmentNumber, u64), to: SegmentNumber) {
    if count == 0 {
        return;
    }
    let ids = ids_by_segment.get_mut(&from).expect("every durable id is counted in its segment");
    *ids -= count;
    if *ids == 0 {
        ids_by_segment.remove(&from);
    }
    *ids_by_segment.entry(to).or_default() += count;
}

fn forget_in(ids_by_segment: &mut BTreeMap<SegmentNumber, u64>, segment: SegmentNumber) {
    let ids = ids_by_segment.get_mut(&segment).expect("every durable id is counted in its segment");
    *ids -= 1;
    if *ids == 0 {
        ids_by_segment.remove(&segment);
    }
}

#[cfg(test)]
mod tests;
