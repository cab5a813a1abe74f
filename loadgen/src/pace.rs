//! When messages are due. A thread of its own keeps the time: the timers of an async runtime round up to a millisecond,
//! which would count as the node's latency.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use tokio::sync::watch;

use crate::report::{latencies, record};

/// An even schedule: message `k` is due `k / rate` seconds after the start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Schedule {
    rate_per_s: u64,
    pub(crate) message_count: u64,
}

impl Schedule {
    pub(crate) fn new(rate_per_s: u64, duration: Duration) -> Self {
        let message_count = u128::from(rate_per_s) * duration.as_micros() / 1_000_000;
        Self { rate_per_s, message_count: u64::try_from(message_count).unwrap_or(u64::MAX) }
    }

    /// When message `k` is due, in microseconds after the start.
    pub(crate) fn due_us(&self, k: u64) -> u64 {
        u64::try_from(u128::from(k) * 1_000_000 / u128::from(self.rate_per_s)).unwrap_or(u64::MAX)
    }

    /// How many messages are due at this time.
    pub(crate) fn due_count(&self, elapsed_us: u64) -> u64 {
        let due = u128::from(elapsed_us) * u128::from(self.rate_per_s) / 1_000_000 + 1;
        u64::try_from(due).unwrap_or(u64::MAX).min(self.message_count)
    }
}

/// The thread that announces how many messages are due.
#[derive(Debug)]
pub(crate) struct Pacer {
    pub(crate) due: watch::Receiver<u64>,
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Histogram<u64>>,
}

impl Pacer {
    pub(crate) fn start(schedule: Schedule, start: Instant) -> std::io::Result<Self> {
        let (announce, due) = watch::channel(0);
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = thread::Builder::new().name("creto-pacer".to_owned()).spawn(move || {
            let mut late = latencies();
            let mut announced = 0;
            while announced < schedule.message_count && !stopped.load(Ordering::Relaxed) {
                let due_at = start + Duration::from_micros(schedule.due_us(announced));
                let now = Instant::now();
                if now < due_at {
                    thread::sleep(due_at - now);
                    continue;
                }
                // How late this thread is: what it adds to every latency by its own fault.
                record(&mut late, now - due_at);
                announced = schedule.due_count(u64::try_from((now - start).as_micros()).unwrap_or(u64::MAX));
                announce.send_replace(announced);
            }
            late
        })?;
        Ok(Self { due, stop, thread })
    }

    /// Ends it, and gives how late it was, in microseconds.
    pub(crate) fn finish(self) -> Histogram<u64> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().expect("keeping time does not panic")
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_rate_and_a_duration_make_a_number_of_messages() {
        assert_eq!(Schedule::new(20_000, Duration::from_secs(10)).message_count, 200_000);
        assert_eq!(Schedule::new(3, Duration::from_millis(500)).message_count, 1);
        assert_eq!(Schedule::new(1, Duration::ZERO).message_count, 0);
    }

    #[test]
    fn the_pacer_announces_every_message_and_none_early() {
        let schedule = Schedule::new(1_000, Duration::from_millis(100));
        let start = Instant::now();
        let pacer = Pacer::start(schedule, start).unwrap();
        let mut due = pacer.due.clone();
        while *due.borrow_and_update() < 100 {
            let announced = *due.borrow();
            let elapsed_us = u64::try_from(start.elapsed().as_micros()).unwrap();
            assert!(announced == 0 || schedule.due_us(announced - 1) <= elapsed_us);
            thread::yield_now();
        }
        assert!(start.elapsed() >= Duration::from_millis(99));
        assert!(pacer.finish().len() > 1);
    }

    proptest! {
        #[test]
        fn a_message_is_due_exactly_when_its_time_has_come(rate in 1u64..2_000_000, k in 0u64..1_000_000) {
            let schedule = Schedule { rate_per_s: rate, message_count: u64::MAX };
            let due_us = schedule.due_us(k);
            prop_assert!(schedule.due_count(due_us + 1) > k, "due a microsecond later at the latest");
            if due_us > 0 {
                prop_assert!(schedule.due_count(due_us - 1) <= k, "not due before");
            }
        }
    }
}
