//! Cleaning: what is still queued in the oldest segments is written again at the log's head, so that they can go.
//!
//! Only a prefix of the log goes, so one message that waits long would hold everything behind it. When the log takes more
//! than one and a half times what is queued and two segments, its oldest messages are moved, first in first out:
//!
//! ```text
//! rests -> looks for messages in the oldest segments -> reads them -> Moved records -> waits until these are durable -> ...
//! ```
//!
//! Each step is bounded, and one step is taken in a turn. A message that is being settled is not moved: its Settle stands
//! before the Moved record in the log, and a recovery would bring the message back.

use std::collections::VecDeque;

use bytes::Bytes;

use super::Mailboxes;
use super::deliver::{ReadDone, ReadProblemKind};
use crate::cold::{Job, JobId, Plan, Purpose};
use crate::limits::{
    CLEANED_SLOTS_PER_STEP, CLEANING_MESSAGES_MAX, CLEANING_PASSES_MAX, READ_TRIES_MAX, SPACE_FACTOR_HALVES,
    SPACE_SEGMENTS,
};
use crate::lsn::SegmentNumber;
use crate::planted::{Bug, is_planted};
use crate::record::{BatchPart, PartMessage};
use crate::slab::Slot;

/// How full the log is: what cleaning goes by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogExtent {
    /// Bytes of all files that belong to it.
    pub bytes: u64,
    /// The segment that is being written to.
    pub active: SegmentNumber,
    /// Bytes of a segment.
    pub segment_bytes: u64,
    /// Messages are refused for want of space, or soon will be.
    pub is_short: bool,
    /// Files that it has let go are being deleted: room comes without another pass.
    pub is_giving_back: bool,
}

/// Where cleaning is.
#[derive(Debug, Default)]
pub(crate) struct Cleaning {
    phase: Phase,
    /// Segments below this one are cleaned in this pass.
    pass_until: SegmentNumber,
    /// Passes that began since enough was settled to make another one worth it.
    passes: u32,
    /// What was settled since then, in bytes of the log.
    pub(super) settled_bytes: u64,
    /// The log had no room for a message since the last pass began.
    is_room_wanted: bool,
    /// Read back, to be appended.
    ready: VecDeque<BatchPart>,
    /// Messages in Moved records that are appended and not durable.
    moving: u64,
    failed_reads: u8,
    /// After a failed read: until the next tick.
    pauses: bool,
}

#[derive(Debug, Default)]
enum Phase {
    #[default]
    Rests,
    /// Goes over the index for messages in segments up to this one.
    Looks { through: SegmentNumber, hand: Slot, slots_left: usize, missing: u64, found: Vec<Found> },
    /// Reads what was found, in the order of the log.
    Reads { found: VecDeque<Found>, job: Option<JobId> },
}

/// A message to move: its place is what the list is sorted by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Found {
    segment: SegmentNumber,
    message_offset: u32,
    slot: Slot,
    sequence: u64,
}

impl Cleaning {
    /// A message of so many bytes of the log is settled.
    pub(super) fn settled(&mut self, bytes: u64) {
        self.settled_bytes += bytes;
    }

    /// Moved messages are durable where they are now.
    pub(super) fn moved(&mut self, messages: usize) {
        self.moving = self.moving.saturating_sub(messages as u64);
    }
}

impl Mailboxes {
    /// Bytes that the log may take for what it holds: half as much again as what is queued, and two segments.
    pub fn space_bytes_max(&self, segment_bytes: u64) -> u64 {
        self.needed_bytes() * SPACE_FACTOR_HALVES / 2 + SPACE_SEGMENTS * segment_bytes
    }

    /// Takes one step of cleaning, if the log takes more than it may. Call it in every turn.
    pub fn clean(&mut self, log: &LogExtent) {
        if self.cleaning.pauses {
            return;
        }
        match std::mem::take(&mut self.cleaning.phase) {
            Phase::Rests => self.begin_cleaning(log),
            Phase::Looks { through, hand, slots_left, missing, found } => {
                self.look(through, hand, slots_left, missing, found);
            }
            Phase::Reads { found, job: None } => self.read_to_move(found),
            reading @ Phase::Reads { job: Some(_), .. } => self.cleaning.phase = reading,
        }
    }

    /// The log had no room for a message: a log that is mostly of no use is gone over once more, however often it was.
    pub fn room_is_wanted(&mut self) {
        self.cleaning.is_room_wanted = true;
    }

    /// Messages to append in a Moved record, now: what is settled by a record that is appended later comes after it. If it
    /// is not appended, give it back to [`move_refused`](Self::move_refused).
    pub fn next_moved(&mut self) -> Option<BatchPart> {
        while let Some(mut part) = self.cleaning.ready.pop_front() {
            part.messages.retain(|message| self.is_movable(message));
            if !part.messages.is_empty() {
                self.cleaning.moving += part.messages.len() as u64;
                return Some(part);
            }
        }
        None
    }

    /// The log had no room for what [`next_moved`](Self::next_moved) gave out.
    pub fn move_refused(&mut self, part: BatchPart) {
        self.cleaning.moved(part.messages.len());
        self.cleaning.ready.push_front(part);
    }

    /// Whether another turn would do something about cleaning.
    pub fn is_cleaning(&self) -> bool {
        matches!(self.cleaning.phase, Phase::Looks { .. })
    }

    /// What the log holds that is needed: queued messages, what says that some are dead, and what is carried over of message ids
    /// and subscriptions.
    fn needed_bytes(&self) -> u64 {
        let everywhere = SegmentNumber(u64::MAX);
        let carried_bytes = self.dedup.carried_bytes(everywhere) + self.channels.carried_bytes(everywhere);
        self.index.live_bytes() + self.dead.bytes() + carried_bytes
    }

    fn is_movable(&self, message: &PartMessage) -> bool {
        let entry = self.index.find(message.sequence).map(|slot| self.index.entries.get(slot));
        entry.is_some_and(|entry| !entry.is_settling() || is_planted(Bug::MoveWhileSettling))
    }

    fn begin_cleaning(&mut self, log: &LogExtent) {
        let is_over = log.bytes > self.space_bytes_max(log.segment_bytes) || (log.is_short && self.is_sparse(log));
        let Some(oldest) = self.index.oldest_live_segment().filter(|_| is_over && self.cleaning.moving == 0) else {
            return;
        };
        // A pass goes over everything once. A log that is still too long afterwards is so for other reasons, and waits until
        // something was settled.
        if oldest >= self.cleaning.pass_until {
            if oldest >= log.active {
                return;
            }
            let worth = (self.index.live_bytes() / 4).max(log.segment_bytes);
            if self.cleaning.settled_bytes >= worth {
                self.cleaning.passes = 0;
                self.cleaning.settled_bytes = 0;
            }
            // Nor does it wait where that is why nothing is settled: most of it is of no use, and a message was refused. But for
            // what was let go already: pass after pass would write new segments as fast as the old ones are deleted.
            let is_sparse = log.is_short && !log.is_giving_back && self.is_sparse(log);
            let is_wanted = self.cleaning.is_room_wanted && is_sparse;
            if self.cleaning.passes >= CLEANING_PASSES_MAX && !is_wanted {
                return;
            }
            self.cleaning.is_room_wanted = false;
            self.cleaning.passes = CLEANING_PASSES_MAX.min(self.cleaning.passes + 1);
            self.cleaning.pass_until = log.active;
        }
        let (mut through, mut missing) = (SegmentNumber(0), 0);
        for (segment, live) in self.index.live_segments() {
            // What cannot be read cannot be moved, and holds its segment and all behind it.
            let is_enough = missing > 0 && missing + live.messages > CLEANING_MESSAGES_MAX;
            if segment >= self.cleaning.pass_until || live.damaged > 0 || is_enough {
                break;
            }
            (through, missing) = (segment, missing + live.messages);
        }
        if missing > 0 {
            let slots_left = self.index.entries.slots();
            self.cleaning.phase = Phase::Looks { through, hand: 0, slots_left, missing, found: Vec::new() };
        }
    }

    /// Whether moving would free more than it takes, in a log that is short of space.
    fn is_sparse(&self, log: &LogExtent) -> bool {
        log.bytes > 2 * self.needed_bytes() + SPACE_SEGMENTS * log.segment_bytes
    }

    fn look(
        &mut self,
        through: SegmentNumber,
        mut hand: Slot,
        slots_left: usize,
        mut missing: u64,
        mut found: Vec<Found>,
    ) {
        let slots = slots_left.min(CLEANED_SLOTS_PER_STEP);
        self.index.entries.sweep(&mut hand, slots, |slot, entry| {
            let place = entry.place();
            if place.segment <= through {
                missing = missing.saturating_sub(1);
                let (segment, message_offset) = (place.segment, place.message_offset);
                found.push(Found { segment, message_offset, slot, sequence: entry.sequence() });
            }
            missing > 0
        });
        let slots_left = slots_left - slots;
        self.cleaning.phase = if missing > 0 && slots_left > 0 {
            Phase::Looks { through, hand, slots_left, missing, found }
        } else {
            found.sort_unstable();
            Phase::Reads { found: found.into(), job: None }
        };
    }

    fn read_to_move(&mut self, mut found: VecDeque<Found>) {
        // One part is read while the one before it is on its way into the log.
        if !self.cleaning.ready.is_empty() || !self.cold.has_room() {
            self.cleaning.phase = Phase::Reads { found, job: None };
            return;
        }
        let mut plan = Plan::default();
        while let Some(next) = found.pop_front() {
            let Some(slot) = self.still_queued(next.slot, next.sequence) else { continue };
            let entry = self.index.entries.get(slot);
            if entry.is_settling() || entry.is_damaged() || entry.segment() != next.segment {
                continue;
            }
            if !plan.add(slot, entry) {
                found.push_front(next);
                break;
            }
            // After a failure, one at a time.
            if self.cleaning.failed_reads > 0 {
                break;
            }
        }
        if plan.is_empty() {
            // The next look is for what the log still holds too much when all that was moved is durable.
            self.cleaning.phase = Phase::Rests;
            return;
        }
        let job = Some(self.cold.begin(Purpose::Move, plan));
        self.cleaning.phase = Phase::Reads { found, job };
    }

    pub(super) fn read_for_moving(&mut self, job_id: JobId, job: &Job, done: &mut ReadDone) {
        let Phase::Reads { found, job: running } = &mut self.cleaning.phase else {
            panic!("what is read to be moved was asked for in this phase")
        };
        assert_eq!(running.take(), Some(job_id), "cleaning reads one thing at a time");
        if let Some(error) = &job.failed {
            let again = job.wanted.iter().map(|wanted| Found {
                segment: wanted.place.segment,
                message_offset: wanted.place.message_offset,
                slot: wanted.slot,
                sequence: wanted.sequence,
            });
            again.rev().for_each(|again| found.push_front(again));
            let first = self.still_at(&job.wanted[0]);
            self.cleaning.failed_reads += 1;
            let tries = self.cleaning.failed_reads;
            self.cleaning.pauses = tries < READ_TRIES_MAX;
            if !self.cleaning.pauses {
                self.cleaning.failed_reads = 0;
            }
            match first {
                Some(slot) if tries >= READ_TRIES_MAX => {
                    self.is_damaged(slot, ReadProblemKind::GivenUp(error.clone()), done);
                }
                Some(slot) if tries == 1 => {
                    let problem = self.problem(slot, ReadProblemKind::TriedAgain(error.clone()));
                    done.problems.push(problem);
                }
                _ => {}
            }
            return;
        }
        self.cleaning.failed_reads = 0;
        let mut last: Option<((SegmentNumber, u32), BatchPart)> = None;
        for wanted in &job.wanted {
            let Some(slot) = self.still_at(wanted) else { continue };
            match job.payload(wanted) {
                Ok(payload) => {
                    let record = (wanted.place.segment, wanted.place.record_offset);
                    match &mut last {
                        Some((same, part)) if *same == record => part.messages.push(payload.message),
                        last => {
                            let batch_header: Bytes = payload.batch_header;
                            let part = BatchPart { batch_header, messages: vec![payload.message] };
                            self.cleaning.ready.extend(last.replace((record, part)).map(|(_, part)| part));
                        }
                    }
                }
                Err(_) => self.is_damaged(slot, ReadProblemKind::Damaged, done),
            }
        }
        self.cleaning.ready.extend(last.map(|(_, part)| part));
    }

    /// A tick has passed: what failed is tried again.
    pub(super) fn clean_again(&mut self) {
        self.cleaning.pauses = false;
    }
}
