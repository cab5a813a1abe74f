//! How long a message takes in each stage of the path, measured by a clock that decides nothing.
//!
//! One reading of that clock for a batch and a stage, or one for all batches of a turn: never one for a message. Without a clock
//! ([`Shard::with_stage_clock`](crate::Shard::with_stage_clock)) all of a turn happens at the time of the turn, so that a simulation
//! measures the same in every run.

use std::collections::VecDeque;
use std::fmt;

use creto_store::{Position, RecordLog, SegmentNumber};

use crate::event::Now;
use crate::limits::{DURABLE_MARKS_MAX, PUSH_MARK_US_MAX, PUSH_MARKS_MAX};
use crate::shard::Shard;
use crate::stage::authorize::{Authorized, authorize};
use crate::stage::deliver::{Delivered, Measure, deliver};
use crate::stage::verify::Verified;

/// Upper bounds of [`StageTimes`], in microseconds.
pub const STAGE_BOUNDS_US: [u64; 16] =
    [5, 10, 25, 50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 100_000, 500_000, 2_000_000, 10_000_000];

/// How long a stage took, so often.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StageTimes {
    /// Those of at most [`STAGE_BOUNDS_US`] that are above the bound before; the last place has those above all of them.
    pub counts: [u64; STAGE_BOUNDS_US.len() + 1],
    /// All of them together, in microseconds.
    pub sum_us: u64,
}

impl StageTimes {
    pub(crate) fn add(&mut self, us: u64) {
        self.counts[place(us)] += 1;
        self.sum_us += us;
    }

    /// So many that took `us` together, and were not told apart.
    pub(crate) fn add_together(&mut self, us: u64, count: u64) {
        if let Some(mean) = us.checked_div(count) {
            self.counts[place(mean)] += count;
            self.sum_us += us;
        }
    }
}

fn place(us: u64) -> usize {
    STAGE_BOUNDS_US.partition_point(|&bound| bound < us)
}

/// How long each stage of the path took on this shard.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stages {
    /// Verifying a batch: its tree and signatures. With crypto workers from when one was asked until the shard has its verdict.
    pub verify: StageTimes,
    /// Deciding about the messages of a batch; batches of one turn share what it took.
    pub authorize: StageTimes,
    /// From when a part of a batch came to the shard of its mailboxes until the write that has it was handed to the disk.
    pub queue: StageTimes,
    /// From when a part of a batch was known durable until its acknowledgement was handed to the connection.
    pub acknowledge: StageTimes,
    /// From when a part of a batch was known durable until messages of it were pushed for the first time; each push of such messages
    /// counts once, as long as the part is one of the last [`DURABLE_MARKS_MAX`].
    pub deliver: StageTimes,
    /// From a push of messages until the consumer was done with the last of them; of at most [`PUSH_MARKS_MAX`] pushes of a mailbox at
    /// a time.
    pub settle: StageTimes,
}

/// The clock of measurements, in microseconds from where [`Now::monotonic_us`] counts, too.
#[derive(Default)]
pub(crate) struct StageClock(Option<Box<dyn Fn() -> u64 + Send>>);

impl StageClock {
    pub(crate) fn of(clock: Box<dyn Fn() -> u64 + Send>) -> Self {
        Self(Some(clock))
    }

    pub(crate) fn read(&self, now: Now) -> u64 {
        self.0.as_ref().map_or(now.monotonic_us, |clock| clock())
    }
}

impl fmt::Debug for StageClock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_some() { "StageClock" } else { "StageClock(none)" })
    }
}

/// When the parts that became durable last did so. The oldest is forgotten.
#[derive(Debug, Default)]
pub(crate) struct DurableMarks(VecDeque<((SegmentNumber, u32), u64)>);

impl DurableMarks {
    pub(crate) fn durable(&mut self, at: Position, us: u64) {
        if self.0.len() == DURABLE_MARKS_MAX {
            self.0.pop_front();
        }
        self.0.push_back(((at.segment, at.offset), us));
    }

    /// When the part of this record became durable, if that is still known. Records are durable in the order of the log.
    pub(crate) fn of(&self, record: (SegmentNumber, u32)) -> Option<u64> {
        let place = self.0.binary_search_by_key(&record, |(at, _)| *at).ok()?;
        Some(self.0[place].1)
    }
}

/// The last messages of the pushes that a subscriber got last, and when. One that gets more than it is done with is measured by some.
#[derive(Debug, Default)]
pub(crate) struct PushMarks {
    marks: [(u64, u64); PUSH_MARKS_MAX],
    count: usize,
}

impl PushMarks {
    pub(crate) fn pushed(&mut self, sequence: u64, us: u64) {
        if self.count == PUSH_MARKS_MAX {
            // What expired in the consumer's hands is never done.
            if us.saturating_sub(self.marks[0].1) < PUSH_MARK_US_MAX {
                return;
            }
            self.forget(0);
        }
        self.marks[self.count] = (sequence, us);
        self.count += 1;
    }

    /// Takes out the pushes whose last message is among these, and counts them.
    pub(crate) fn settled(&mut self, sequences: &[u64], us: u64, times: &mut StageTimes) {
        let mut place = 0;
        while place < self.count {
            let (sequence, pushed_us) = self.marks[place];
            if sequences.contains(&sequence) {
                times.add(us.saturating_sub(pushed_us));
                self.forget(place);
            } else {
                place += 1;
            }
        }
    }

    fn forget(&mut self, place: usize) {
        self.marks.copy_within(place + 1..self.count, place);
        self.count -= 1;
    }
}

/// Stages of the path with what is measured of them.
impl<L: RecordLog> Shard<L> {
    /// Authorizes what is verified.
    pub(crate) fn authorized(&mut self, now: Now, verified: Verified) -> Authorized {
        let began_us = (verified.batch_count() > 0).then(|| self.stage_clock.read(now));
        let (decisions, meter) = (&mut self.decisions, &mut self.meter);
        let authorized = authorize(verified, now, &self.snapshot, decisions, meter, &mut self.refusals);
        if let Some(began_us) = began_us {
            let us = self.stage_clock.read(now).saturating_sub(began_us);
            self.counters.stages.authorize.add_together(us, authorized.batch_count());
        }
        authorized
    }

    /// Pushes what can be pushed.
    pub(crate) fn delivered(&mut self, now: Now) -> Delivered {
        let pushed_us = if self.subscriptions.has_work() { self.stage_clock.read(now) } else { now.monotonic_us };
        let (mailboxes, marks) = self.log.mailboxes_and_marks();
        let mut measure = Measure { pushed_us, marks, times: &mut self.counters.stages.deliver };
        deliver(now, &self.snapshot, &mut self.subscriptions, mailboxes, &mut measure)
    }

    /// What was answered in this turn is on its way to its senders.
    pub(crate) fn measure_answers(&mut self, now: Now) {
        if self.durable_since.is_empty() {
            return;
        }
        let answered_us = self.stage_clock.read(now);
        for since_us in self.durable_since.drain(..) {
            self.counters.stages.acknowledge.add(answered_us.saturating_sub(since_us));
        }
    }
}

#[cfg(test)]
mod tests {
    use creto_store::Lsn;

    use super::*;

    #[test]
    fn what_took_so_long_counts_in_the_first_bucket_that_it_fits() {
        let mut times = StageTimes::default();
        for us in [0, 5, 6, 10_000_000, 10_000_001] {
            times.add(us);
        }
        assert_eq!((times.counts[0], times.counts[1], times.counts[15], times.counts[16]), (2, 1, 1, 1));
        assert_eq!(times.sum_us, 20_000_012);
        assert!(STAGE_BOUNDS_US.is_sorted());
        let mut together = StageTimes::default();
        together.add_together(21, 3);
        together.add_together(9, 0);
        assert_eq!((together.counts[1], together.sum_us), (3, 21), "three of seven each, and nothing of nothing");
    }

    fn at(segment: u64, offset: u32) -> Position {
        Position { segment: SegmentNumber(segment), lsn: Lsn(0), index: 0, offset }
    }

    #[test]
    fn a_durable_part_is_known_until_as_many_came_after_it() {
        let mut marks = DurableMarks::default();
        for part in 0..DURABLE_MARKS_MAX {
            let part = u32::try_from(part).expect("a few thousand");
            marks.durable(at(1, 8 * part), u64::from(part));
        }
        assert_eq!((marks.of((SegmentNumber(1), 0)), marks.of((SegmentNumber(1), 80))), (Some(0), Some(10)));
        marks.durable(at(2, 0), 99);
        assert_eq!((marks.of((SegmentNumber(1), 0)), marks.of((SegmentNumber(2), 0))), (None, Some(99)));
        assert_eq!(marks.of((SegmentNumber(1), 81)), None, "it was moved, or is older than the start");
        assert_eq!(marks.0.len(), DURABLE_MARKS_MAX);
    }

    #[test]
    fn a_push_is_over_when_its_last_message_is_done_and_too_many_are_not_remembered() {
        let (mut marks, mut times) = (PushMarks::default(), StageTimes::default());
        for push in 1..=PUSH_MARKS_MAX as u64 + 3 {
            marks.pushed(10 * push, push);
        }
        assert_eq!(marks.count, PUSH_MARKS_MAX);
        marks.settled(&[9, 10, 11, 30], 1_003, &mut times);
        assert_eq!((times.counts.iter().sum::<u64>(), times.sum_us), (2, 1_002 + 1_000));
        marks.settled(&[10, 30], 2_000, &mut times);
        assert_eq!(times.counts.iter().sum::<u64>(), 2, "each counts once");
        marks.pushed(7, 5_000);
        marks.settled(&[7], 5_001, &mut times);
        assert_eq!((times.counts[0], marks.count), (1, PUSH_MARKS_MAX - 2));
        (0..9).for_each(|push| marks.pushed(100 + push, 6_000 + push));
        marks.pushed(777, 6_000 + PUSH_MARK_US_MAX);
        marks.settled(&[777], 6_010 + PUSH_MARK_US_MAX, &mut times);
        assert_eq!(times.counts[1], 1, "those that are never done with do not keep the others out");
    }
}
