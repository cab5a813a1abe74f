//! When messages are due. A thread of its own keeps the time: the timers of an async runtime round up to a millisecond,
//! which would count as the node's latency.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::Poll;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use tokio::sync::watch;

use crate::arrival::Workload;
use crate::options::micros;

/// Which lane has something due when. Pure.
#[derive(Debug)]
pub(crate) struct Merge<'a> {
    lanes: Vec<crate::arrival::Lane<'a>>,
    next: BinaryHeap<Reverse<(u64, usize)>>,
}

impl<'a> Merge<'a> {
    pub(crate) fn new(workload: &'a Workload) -> Self {
        let mut lanes: Vec<_> = workload.share.clone().map(|lane| workload.lane(lane)).collect();
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
    /// The first lane of this process.
    first: u32,
    lanes: Vec<watch::Receiver<u64>>,
    due_count: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    thread: JoinHandle<()>,
}

/// What is due up to the microsecond before is due.
pub(crate) const NOTHING_DUE: u64 = 0;

impl Pacer {
    pub(crate) fn start(workload: Arc<Workload>, start: Instant) -> std::io::Result<Self> {
        let (announce, lanes): (Vec<_>, Vec<_>) = workload.share.clone().map(|_| watch::channel(NOTHING_DUE)).unzip();
        let first = workload.share.start;
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
        Ok(Self { first, lanes, due_count, stop, thread })
    }

    /// Before which time the messages of this lane are due, in microseconds after the start.
    pub(crate) fn lane(&self, lane: u32) -> watch::Receiver<u64> {
        self.lanes[(lane - self.first) as usize].clone()
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

/// How late the generator itself was with its messages: against one that takes no time for anything and only waits for the system.
/// That one is free again when the system let it go, not when the real one had caught up: after a stall of the generator every
/// message that came due in it is late.
#[derive(Debug, Default)]
pub(crate) struct OwnLateness {
    free_us: u64,
}

impl OwnLateness {
    /// How late the message is that is handed over now.
    pub(crate) fn handed_over(&mut self, due_us: u64, now_us: u64) -> u64 {
        let ready_us = due_us.max(self.free_us);
        self.free_us = ready_us;
        now_us.saturating_sub(ready_us)
    }

    /// The system made it wait before the next one, such as for a place in flight: that counts as latency only.
    pub(crate) fn waited(&mut self, wait: Duration) {
        self.free_us = self.free_us.saturating_add(micros(wait));
    }
}

/// Awaits what the system lets wait, and says for how long it did: from when it was not ready until it was woken. A future that is ready
/// at once has made nobody wait, however long its caller was without a CPU meanwhile.
pub(crate) async fn timed<F: Future>(future: F) -> (F::Output, Duration) {
    // Tokio's own turn-taking would look like a wait for the system.
    let mut future = std::pin::pin!(tokio::task::coop::unconstrained(future));
    let mut waits_since = None;
    std::future::poll_fn(|context| {
        let polled_at = Instant::now();
        match future.as_mut().poll(context) {
            Poll::Ready(output) => {
                let wait = waits_since.map_or(Duration::ZERO, |since| polled_at.saturating_duration_since(since));
                Poll::Ready((output, wait))
            }
            Poll::Pending => {
                waits_since.get_or_insert_with(Instant::now);
                Poll::Pending
            }
        }
    })
    .await
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
            share: 0..lanes,
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
        let mut late = OwnLateness::default();
        assert_eq!(late.handed_over(100, 130), 30, "it was idle, and woke 30 us late");
        late.waited(Duration::from_micros(4_900));
        assert_eq!(late.handed_over(200, 5_004), 4, "the SDK had no place before: only what came after is its own");
        assert_eq!(late.handed_over(9_000, 8_999), 0);
        assert_eq!(late.handed_over(9_100, 9_101), 1, "what was waited for is over");
    }

    #[test]
    fn after_one_stall_of_the_generator_every_overdue_message_is_late() {
        let mut late = OwnLateness::default();
        // Due every 100 us; the generator has no CPU until 10 ms, and then takes a microsecond for each.
        let overdue: Vec<u64> = (0..100).map(|k| late.handed_over(k * 100, 10_000 + k)).collect();
        let wanted: Vec<u64> = (0..100).map(|k| 10_000 + k - k * 100).collect();
        assert_eq!(overdue, wanted);
        assert_eq!(late.handed_over(10_200, 10_201), 1, "it has caught up");
    }

    #[tokio::test]
    async fn only_a_future_that_was_pending_has_made_anybody_wait() {
        let stall = Duration::from_millis(20);
        let busy = move || {
            let began = Instant::now();
            while began.elapsed() < stall {
                thread::yield_now();
            }
        };
        let ((), wait) = timed(async { busy() }).await;
        assert_eq!(wait, Duration::ZERO, "the caller was without a CPU");
        let (release, released) = tokio::sync::oneshot::channel();
        let (asks, asked) = std::sync::mpsc::channel();
        let began = Instant::now();
        let waker = thread::spawn(move || {
            asked.recv().unwrap();
            (0..5).for_each(|_| busy());
            release.send(()).unwrap();
        });
        let (_, wait) = timed(async {
            busy();
            asks.send(()).unwrap();
            released.await.unwrap();
            busy();
        })
        .await;
        waker.join().unwrap();
        let all = began.elapsed();
        assert!(
            wait > Duration::ZERO && wait + 2 * stall <= all,
            "what it does itself is its own: {wait:?} of {all:?}"
        );
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
