//! CPU time of the node and of this process, second by second.

use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use nix::sys::time::TimeValLike as _;
use nix::time::{ClockId, clock_getcpuclockid};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

use crate::limits::SERIES_ROWS_MAX;
use crate::options::micros;

/// Linux numbers no process higher (PID_MAX_LIMIT).
const PROCESS_ID_MAX: i32 = 1 << 22;

/// User and system time so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct CpuSample {
    /// After the start.
    pub(crate) at: Duration,
    /// None where the node's process is not known, or gone.
    pub(crate) node_us: Option<u64>,
    pub(crate) generator_us: Option<u64>,
}

impl CpuSample {
    fn take(start: Instant, node_pid: Option<i32>) -> Self {
        Self {
            at: start.elapsed(),
            node_us: node_pid.and_then(process_cpu_us),
            generator_us: clock_us(ClockId::CLOCK_PROCESS_CPUTIME_ID),
        }
    }
}

/// What `/proc/PID/stat` has as utime and stime, of all threads, also those that have ended; the kernel's clock of the process counts
/// it in nanoseconds instead of hundredths of a second.
fn process_cpu_us(pid: i32) -> Option<u64> {
    // A number that no process can have would be another clock's.
    let is_possible = (1..=PROCESS_ID_MAX).contains(&pid);
    clock_us(clock_getcpuclockid(Pid::from_raw(pid)).ok().filter(|_| is_possible)?)
}

fn clock_us(clock: ClockId) -> Option<u64> {
    u64::try_from(clock.now().ok()?.num_microseconds()).ok()
}

/// Takes samples: at the start, when the warm-up ends, at every full second, and when it is finished.
#[derive(Debug)]
pub(crate) struct CpuSampler {
    stop: mpsc::Sender<()>,
    thread: JoinHandle<Vec<CpuSample>>,
}

impl CpuSampler {
    pub(crate) fn start(start: Instant, warmup: Duration, node_pid: Option<i32>) -> std::io::Result<Self> {
        let (stop, stopped) = mpsc::channel();
        let thread = thread::Builder::new().name("creto-cpu".to_owned()).spawn(move || {
            let (mut samples, mut next) = (Vec::new(), Duration::ZERO);
            loop {
                // The start may be to come: what has elapsed since then would be nothing until it is there.
                match stopped.recv_timeout((start + next).saturating_duration_since(Instant::now())) {
                    Err(RecvTimeoutError::Timeout) => {
                        if samples.len() < SERIES_ROWS_MAX {
                            samples.push(CpuSample::take(start, node_pid));
                        }
                        next = next_sample(next, warmup);
                    }
                    _ => {
                        samples.push(CpuSample::take(start, node_pid));
                        return samples;
                    }
                }
            }
        })?;
        Ok(Self { stop, thread })
    }

    /// Takes the last sample, and gives all of them in their order.
    pub(crate) fn finish(self) -> Vec<CpuSample> {
        drop(self.stop);
        self.thread.join().expect("reading a clock does not panic")
    }
}

/// When a sample is to be taken, after the one at `last`: at full seconds, and when the warm-up ends.
fn next_sample(last: Duration, warmup: Duration) -> Duration {
    let second = Duration::from_secs(last.as_secs() + 1);
    if last < warmup { second.min(warmup) } else { second }
}

/// CPU time from the end of the warm-up to the last sample, of each message; none where no clock tells it, or nothing was measured.
pub(crate) fn us_per_message(
    samples: &[CpuSample],
    warmup: Duration,
    messages: u64,
    of: impl Fn(&CpuSample) -> Option<u64>,
) -> Option<f64> {
    let first = samples.iter().find(|sample| sample.at >= warmup)?;
    let took_us = of(samples.last()?)?.checked_sub(of(first)?)?;
    #[allow(clippy::cast_precision_loss, reason = "microseconds of a run are far below 2^52")]
    (messages > 0).then(|| took_us as f64 / messages as f64)
}

/// CPU time in each second after the start, in microseconds. A second without a sample at its end has none.
pub(crate) fn by_second(samples: &[CpuSample], of: impl Fn(&CpuSample) -> Option<u64>) -> Vec<(u64, u64)> {
    // Of a second the first sample that was taken in it stands at its beginning, be it some microseconds late.
    let mut firsts: Vec<(u64, u64)> = Vec::new();
    for sample in samples {
        let second = micros(sample.at) / 1_000_000;
        if firsts.last().is_none_or(|(last, _)| *last < second)
            && let Some(us) = of(sample)
        {
            firsts.push((second, us));
        }
    }
    let neighbours = firsts.windows(2).filter(|two| two[1].0 == two[0].0 + 1);
    neighbours.map(|two| (two[0].0, two[1].1.saturating_sub(two[0].1))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64, node_us: u64) -> CpuSample {
        CpuSample { at: Duration::from_millis(ms), node_us: Some(node_us), generator_us: None }
    }

    #[test]
    fn samples_are_due_at_every_second_and_when_the_warm_up_ends() {
        let warmup = Duration::from_millis(1_500);
        let mut times = vec![Duration::ZERO];
        for _ in 0..4 {
            times.push(next_sample(times[times.len() - 1], warmup));
        }
        assert_eq!(times[1..], [1_000, 1_500, 2_000, 3_000].map(Duration::from_millis));
    }

    #[test]
    fn no_sample_of_a_start_to_come_is_taken_before_its_time() {
        let warmup = Duration::from_millis(20);
        let start = Instant::now() + Duration::from_millis(60);
        let sampler = CpuSampler::start(start, warmup, None).unwrap();
        // Works all the time, so that there is CPU time to be seen.
        while start.elapsed() < Duration::from_millis(500) {
            thread::yield_now();
        }
        let samples = sampler.finish();
        let before_the_last = &samples[..samples.len() - 1];
        assert!(before_the_last.iter().any(|sample| sample.at >= warmup), "the warm-up's end has its own: {samples:?}");
        let us = us_per_message(&samples, warmup, 1, |sample| sample.generator_us);
        assert!(us > Some(0.0), "the first measured second counts: {us:?} of {samples:?}");
    }

    #[test]
    fn cpu_of_the_warm_up_is_nobodys() {
        let samples = [at(0, 0), at(1_000, 50_000), at(1_500, 80_000), at(2_000, 90_000), at(2_900, 100_000)];
        let warmup = Duration::from_millis(1_500);
        assert_eq!(us_per_message(&samples, warmup, 1_000, |sample| sample.node_us), Some(20.0));
        assert_eq!(us_per_message(&samples, warmup, 0, |sample| sample.node_us), None);
        assert_eq!(us_per_message(&samples, warmup, 9, |sample| sample.generator_us), None, "no clock, no figure");
        assert_eq!(by_second(&samples, |sample| sample.node_us), [(0, 50_000), (1, 40_000)]);
    }

    #[test]
    fn the_clock_of_a_process_is_what_the_kernel_shows_of_it() {
        let pid = i32::try_from(std::process::id()).unwrap();
        let before = process_cpu_us(pid).unwrap();
        let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
        let fields: Vec<&str> = stat[stat.rfind(')').unwrap() + 2..].split(' ').collect();
        let ticks: u64 = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
        let after = process_cpu_us(pid).unwrap();
        // A tick is a hundredth of a second on every Linux of today; the kernel rounds each of both down.
        assert!(
            (before.saturating_sub(20_000)..=after + 20_000).contains(&(ticks * 10_000)),
            "{before} {ticks} {after}"
        );
        assert_eq!((process_cpu_us(i32::MAX), process_cpu_us(0), process_cpu_us(-1)), (None, None, None));
    }
}
