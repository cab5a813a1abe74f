//! When messages are due. A thread of its own keeps the time: the timers of an async runtime round up to a millisecond,
//! which would count as the node's latency.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use tokio::sync::watch;

use crate::arrival::Workload;

/// Which lane has something due when. Pure.
#[derive(Debug)]
pub(crate) struct Merge<'a> {
    lanes: Vec<crate::arrival::Lane<'a>>,
    next: BinaryHeap<Reverse<(u64, usize)>>,
}

impl<'a> Merge<'a> {
    pub(crate) fn new(workload: &'a Workload) -> Self {
        let mut lanes: Vec<_> = (0..workload.lanes).map(|lane| workload.lane(lane)).collect();
        let first = lanes.iter_mut().enumerate().filter_map(|(at, lane)| Some(Reverse((lane.next()?.due_us, at))));
        let next = first.collect();
        Self { lanes, next }
    }

    /// When something is due next.
    pub(crate) fn next_due_us(&self) -> Option<u64> {
        self.next.peek().map(|Reverse((due_us, _))| *due_us)
    }

    /// Takes what is due by now: how many of it, and of which lanes, each once.
    pub(crate) fn take_due(&mut self, now_us: u64, due_lanes: &mut Vec<usize>) -> u64 {
        due_lanes.clear();
        let mut count = 0;
        while let Some(Reverse((due_us, at))) = self.next.peek().copied()
            && due_us <= now_us
        {
            self.next.pop();
            count += 1;
            due_lanes.push(at);
            if let Some(message) = self.lanes[at].next() {
                self.next.push(Reverse((message.due_us, at)));
            }
        }
        due_lanes.sort_unstable();
        due_lanes.dedup();
        count
    }
}

/// The thread that tells each lane up to what time its messages are due.
#[derive(Debug)]
pub(crate) struct Pacer {
    lanes: Vec<watch::Receiver<u64>>,
    due_count: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    thread: JoinHandle<()>,
}

/// What is due up to the microsecond before is due.
pub(crate) const NOTHING_DUE: u64 = 0;

impl Pacer {
    pub(crate) fn start(workload: Arc<Workload>, start: Instant) -> std::io::Result<Self> {
        let (announce, lanes): (Vec<_>, Vec<_>) = (0..workload.lanes).map(|_| watch::channel(NOTHING_DUE)).unzip();
        let (stop, due_count) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (stopped, counted) = (Arc::clone(&stop), Arc::clone(&due_count));
        let thread = thread::Builder::new().name("creto-pacer".to_owned()).spawn(move || {
            let (mut merge, mut due_lanes) = (Merge::new(&workload), Vec::new());
            while let Some(due_us) = merge.next_due_us() {
                if stopped.load(Ordering::Relaxed) {
                    return;
                }
                let elapsed = start.elapsed();
                let due = Duration::from_micros(due_us);
                if elapsed < due {
                    // Not for long: whoever stops this waits for it.
                    thread::sleep((due - elapsed).min(Duration::from_millis(200)));
                    continue;
                }
                let now_us = u64::try_from(elapsed.as_micros()).unwrap_or(u64::MAX);
                counted.fetch_add(merge.take_due(now_us, &mut due_lanes), Ordering::Relaxed);
                for lane in &due_lanes {
                    announce[*lane].send_replace(now_us + 1);
                }
            }
        })?;
        Ok(Self { lanes, due_count, stop, thread })
    }

    /// Before which time the messages of this lane are due, in microseconds after the start.
    pub(crate) fn lane(&self, lane: u32) -> watch::Receiver<u64> {
        self.lanes[lane as usize].clone()
    }

    /// How many messages were due so far.
    pub(crate) fn due_count(&self) -> u64 {
        self.due_count.load(Ordering::Relaxed)
    }

    /// Ends it.
    pub(crate) fn finish(self) {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().expect("keeping time does not panic");
    }
}

/// How late the generator itself was with a message: from when it could have handed it over, which is when it was due and the one
/// before was handed over, until it did. What the SDK makes it wait for a place in flight is the system's, and counts as latency only.
pub(crate) fn own_lateness_us(due_us: u64, free_us: u64, handed_over_us: u64) -> u64 {
    handed_over_us.saturating_sub(due_us.max(free_us))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::arrival::{Arrival, Ways};
    use crate::mix::{PriorityMix, SizeMix, Targets};

    fn workload(arrival: Arrival, rate_per_s: u64, lanes: u32, end_us: u64) -> Workload {
        Workload {
            arrival,
            rate_per_s,
            end_us,
            lanes,
            seed: 3,
            sizes: SizeMix::of(64),
            priorities: PriorityMix::default(),
            targets: Targets::new(1, None),
            ways: Ways::DIRECT,
        }
    }

    #[test]
    fn the_pacer_announces_every_message_and_none_early() {
        let workload = Arc::new(workload(Arrival::Fixed, 1_000, 2, 100_000));
        let start = Instant::now();
        let pacer = Pacer::start(Arc::clone(&workload), start).unwrap();
        let mut lane = pacer.lane(1);
        // Of this lane 99,000 us is the last.
        while *lane.borrow_and_update() <= 99_000 {
            let announced = *lane.borrow();
            assert!(u128::from(announced) <= start.elapsed().as_micros() + 1, "nothing is due before its time");
            thread::yield_now();
        }
        assert_eq!(pacer.due_count(), 100);
        pacer.finish();
    }

    #[test]
    fn waiting_for_the_system_is_not_the_generators_lateness() {
        assert_eq!(own_lateness_us(100, 0, 130), 30, "it was idle, and woke 30 us late");
        assert_eq!(
            own_lateness_us(100, 5_000, 5_004),
            4,
            "the SDK had no place before: only what came after is its own"
        );
        assert_eq!(own_lateness_us(100, 0, 99), 0);
    }

    proptest! {
        #[test]
        fn lanes_are_merged_in_the_order_of_their_times(
            poisson: bool, rate in 1u64..5_000, lanes in 1u32..10, step_us in 1u64..100_000,
        ) {
            let arrival = if poisson { Arrival::Poisson } else { Arrival::Fixed };
            let workload = workload(arrival, rate, lanes, 1_000_000);
            let (mut merge, mut due_lanes, mut now_us, mut count) = (Merge::new(&workload), Vec::new(), 0, 0);
            while let Some(next_us) = merge.next_due_us() {
                let due = merge.take_due(now_us, &mut due_lanes);
                prop_assert_eq!(due > 0, next_us <= now_us);
                prop_assert!(due_lanes.is_sorted_by(|a, b| a < b) && due_lanes.len() as u64 <= due);
                count += due;
                prop_assert!(merge.next_due_us().is_none_or(|next_us| next_us > now_us));
                now_us += step_us;
            }
            prop_assert_eq!(count, workload.count_in(0..u64::MAX));
        }
    }
}
