//! Where queued messages are: by slot and by sequence in memory, by segment on disk.

use std::collections::BTreeMap;

use crate::entry::Entry;
use crate::lsn::SegmentNumber;
use crate::noted::Place;
use crate::planted::{Bug, is_planted};
use crate::sequences::Sequences;
use crate::slab::{Slab, Slot};

/// All queued messages of a shard: about sixty bytes each, payloads left out.
#[derive(Debug, Default)]
pub(crate) struct Index {
    pub(crate) entries: Slab<Entry>,
    sequences: Sequences,
    segments: BTreeMap<SegmentNumber, Live>,
    live_bytes: u64,
    /// Where the next look for messages whose time is over begins.
    hand: Slot,
}

/// What a segment holds that is queued.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Live {
    pub(crate) messages: u64,
    /// Of these, those that cannot be read back.
    pub(crate) damaged: u64,
    /// Dead letters whose records are in it, or their messages when these records were made.
    pub(crate) marks: u64,
}

impl Live {
    fn is_empty(self) -> bool {
        self.messages == 0 && self.marks == 0
    }
}

impl Index {
    pub(crate) fn insert(&mut self, entry: Entry) -> Slot {
        self.segments.entry(entry.segment()).or_default().messages += 1;
        self.live_bytes += entry.log_bytes();
        let sequence = entry.sequence();
        let slot = self.entries.insert(entry);
        let entries = &self.entries;
        self.sequences.insert(sequence, slot, |slot| entries.get(slot).sequence());
        slot
    }

    pub(crate) fn remove(&mut self, slot: Slot) -> Entry {
        let entries = &self.entries;
        self.sequences.remove(entries.get(slot).sequence(), slot, |slot| entries.get(slot).sequence());
        let entry = self.entries.remove(slot);
        self.leave_segment(&entry);
        entry
    }

    /// A message is elsewhere in the log now.
    pub(crate) fn relocate(&mut self, slot: Slot, place: &Place, share_bytes: u32) {
        let before = self.entries.get(slot).clone();
        let old = before.place();
        let kept = Place { segment: place.segment, ..old };
        let place = if is_planted(Bug::KeepOldOffset) { &kept } else { place };
        self.leave_segment(&before);
        let entry = self.entries.get_mut(slot);
        entry.put(place, share_bytes);
        self.live_bytes += entry.log_bytes();
        let live = self.segments.entry(place.segment).or_default();
        live.messages += 1;
        // It may have been found damaged while its copy was on its way: whoever leaves takes its count along.
        live.damaged += u64::from(entry.is_damaged());
    }

    /// A message cannot be read back where it is.
    pub(crate) fn set_damaged(&mut self, slot: Slot) {
        let entry = self.entries.get_mut(slot);
        if !entry.is_damaged() {
            entry.set_damaged();
            let live = self.segments.get_mut(&entry.segment()).expect("every queued message is counted in its segment");
            live.damaged += 1;
        }
    }

    /// A record in this segment says of a message that it is dead, or speaks of a message that was here.
    pub(crate) fn mark(&mut self, segment: SegmentNumber) {
        self.segments.entry(segment).or_default().marks += 1;
    }

    /// That is not needed any more.
    pub(crate) fn unmark(&mut self, segment: SegmentNumber) {
        let live = self.segments.get_mut(&segment).expect("every dead letter is counted in the segment of its record");
        live.marks -= 1;
        if live.is_empty() {
            self.segments.remove(&segment);
        }
    }

    /// The slot of a sequence that is queued.
    pub(crate) fn find(&self, sequence: u64) -> Option<Slot> {
        self.sequences.find(sequence, |slot| self.entries.get(slot).sequence())
    }

    /// The oldest segment that holds a queued message, or the record by which one is dead.
    pub(crate) fn oldest_live_segment(&self) -> Option<SegmentNumber> {
        self.segments.keys().next().copied()
    }

    /// The segments that hold either, oldest first.
    pub(crate) fn live_segments(&self) -> impl Iterator<Item = (SegmentNumber, Live)> {
        self.segments.iter().map(|(&segment, &live)| (segment, live))
    }

    /// Bytes of the log that queued messages need, with their shares of the headers.
    pub(crate) fn live_bytes(&self) -> u64 {
        self.live_bytes
    }

    /// Goes on from where the last call ended, over up to `slots_max` slots, and collects up to `messages_max` messages
    /// whose time is over and that nobody settles yet.
    pub(crate) fn expired(&mut self, now_ms: u64, slots_max: usize, messages_max: usize) -> Vec<Slot> {
        let mut expired = Vec::new();
        if messages_max > 0 {
            self.entries.sweep(&mut self.hand, slots_max, |slot, entry| {
                if entry.is_over(now_ms) && !entry.is_settling() {
                    expired.push(slot);
                }
                expired.len() < messages_max
            });
        }
        expired
    }

    fn leave_segment(&mut self, entry: &Entry) {
        self.live_bytes -= entry.log_bytes();
        let segment = entry.segment();
        let live = self.segments.get_mut(&segment).expect("every queued message is counted in its segment");
        live.messages -= 1;
        live.damaged -= u64::from(entry.is_damaged());
        if live.is_empty() {
            self.segments.remove(&segment);
        }
    }
}
