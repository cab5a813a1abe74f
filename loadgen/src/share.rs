//! A run that is divided among processes: what each of them does of it, and what they found together.
//!
//! Every process knows the whole plan and does its own lanes of it, with receivers of its own, so that the same seed is the same messages
//! at the same times however many processes there are. All begin at one moment of the clock that the machine's processes share. What
//! they found is added up: counts, and histograms value by value. A percentile is read from a sum and never averaged.

use std::ops::Range;
use std::time::{Duration, Instant};

use nix::sys::time::TimeValLike as _;
use nix::time::ClockId;
use serde::{Deserialize, Serialize};

use crate::cpu::{CpuSample, CpuSampler};
use crate::measure::{merged, seconds_together};
use crate::options::{RegisterError, Registration, RunError, RunOptions};
use crate::report::{Report, RunFigures};
use crate::run::{Drain, Outcome, Progress, run_once};
use crate::setup::{NodeSetup, Setup};
use crate::{Finished, limits};

/// What one of several processes does of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Share {
    /// Which process, from 0.
    pub index: u32,
    /// How many there are.
    pub count: u32,
}

impl Share {
    /// Which of so many things are this process's: as many as every other's, or one more.
    #[must_use]
    pub fn of(self, count: usize) -> Range<usize> {
        let (index, all) = (self.index as usize, (self.count as usize).max(1));
        count * index / all..count * (index + 1) / all
    }
}

/// A moment of the clock that every process of the machine has, in nanoseconds.
///
/// # Errors
/// The system has no such clock.
pub fn clock_ns() -> std::io::Result<u64> {
    let now = ClockId::CLOCK_MONOTONIC.now().map_err(std::io::Error::from)?;
    u64::try_from(now.num_nanoseconds()).map_err(std::io::Error::other)
}

/// When that is for this process; none when it is over.
///
/// # Errors
/// As of [`clock_ns`].
pub fn instant_of(at_ns: u64) -> std::io::Result<Option<Instant>> {
    let (now, now_ns) = (Instant::now(), clock_ns()?);
    Ok(at_ns.checked_sub(now_ns).map(|ns| now + Duration::from_nanos(ns)))
}

/// What one process found of one repetition, to be given to whoever puts them together.
#[derive(Debug, Serialize, Deserialize)]
pub struct ShareOutcome(Outcome);

/// Does this process's share of one repetition. `start` is asked when everybody is connected, and says when it begins.
///
/// # Errors
/// [`RunError`]. What the system does wrong is no error: it stands in the outcome.
pub async fn run_share(
    options: &RunOptions,
    repetition: u32,
    register: &impl AsyncFn(Registration) -> Result<(), RegisterError>,
    start: &impl AsyncFn(u32) -> Result<Instant, RunError>,
    progress: &mut impl FnMut(&Progress),
) -> Result<ShareOutcome, RunError> {
    options.check()?;
    // Seconds are put together from their histograms.
    let options = RunOptions { keep_histograms: true, ..options.clone() };
    run_once(&options, repetition, register, start, progress).await.map(ShareOutcome)
}

/// Puts together what processes found, repetition by repetition.
#[derive(Debug)]
pub struct Gathering {
    options: RunOptions,
    setup: Setup,
    outcomes: Vec<Outcome>,
    /// Of each repetition, why it is not valid beyond what the sums say.
    reasons: Vec<Vec<String>>,
    clock: Option<CpuSampler>,
}

impl Gathering {
    /// Of a run that is about to begin. The options are those of all processes together.
    ///
    /// # Errors
    /// [`RunError::Option`] says which options do not go together.
    pub fn new(options: &RunOptions, repeat: u32, node: NodeSetup) -> Result<Self, RunError> {
        options.check()?;
        // Before anything loads the machine.
        let setup = Setup::of(options, repeat, node);
        Ok(Self { options: options.clone(), setup, outcomes: Vec::new(), reasons: Vec::new(), clock: None })
    }

    /// A repetition begins then: CPU time of the node is read from now on.
    ///
    /// # Errors
    /// [`RunError::Thread`].
    pub fn begin(&mut self, start: Instant) -> Result<(), RunError> {
        let sampler = CpuSampler::start(start, self.options.warmup, self.options.node_pid);
        self.clock = Some(sampler.map_err(RunError::Thread)?);
        Ok(())
    }

    /// A repetition is over; each process gave its part, or failed with these words. False: none gave anything.
    #[must_use]
    pub fn add(&mut self, parts: Vec<Result<ShareOutcome, String>>) -> bool {
        let node = self.clock.take().map(CpuSampler::finish).unwrap_or_default();
        let count = u32::try_from(parts.len()).unwrap_or(u32::MAX);
        let (mut reasons, mut outcomes) = (Vec::new(), Vec::new());
        for (index, part) in (0..count).zip(parts) {
            let name = format!("process {} of {count}", index + 1);
            match part {
                Ok(ShareOutcome(outcome)) => {
                    // The rules hold for each: one that was late hides among others that were not.
                    let options = RunOptions { share: Some(Share { index, count }), ..self.options.clone() };
                    let figures = RunFigures::of(&options, &outcome);
                    reasons.extend(figures.invalid_because.into_iter().map(|reason| format!("{name}: {reason}")));
                    outcomes.push(outcome);
                }
                Err(words) => reasons.push(format!("{name} failed: {words}")),
            }
        }
        let Some(together) = together(outcomes, &node, self.options.keep_histograms) else { return false };
        self.outcomes.push(together);
        self.reasons.push(reasons);
        true
    }

    /// What all of it came to.
    #[must_use]
    pub fn finish(self) -> Finished {
        let report = Report::of_processes(&self.options, &self.outcomes, self.setup, &self.reasons);
        Finished { report, outcomes: self.outcomes }
    }
}

/// The parts of one repetition as if one process had done it; `node` was read beside them.
fn together(parts: Vec<Outcome>, node: &[CpuSample], keeps: bool) -> Option<Outcome> {
    let cpu = cpu_together(&parts, node);
    let latency = |of: fn(&Outcome) -> &(hdrhistogram::Histogram<u64>, Vec<crate::measure::Second>)| {
        let seconds: Vec<_> = parts.iter().map(|part| of(part).1.clone()).collect();
        (merged(parts.iter().map(|part| &of(part).0)), seconds_together(&seconds, keeps))
    };
    let (durable, delivered) = (latency(|part| &part.durable), latency(|part| &part.delivered));
    let (settled, late) = (latency(|part| &part.settled), merged(parts.iter().map(|part| &part.late)));
    let mut parts = parts.into_iter();
    let mut all = parts.next()?;
    for part in parts {
        all.planned = all.planned.zip(part.planned).map(|(planned, other)| planned + other);
        all.sent += part.sent;
        all.acknowledged += part.acknowledged;
        all.deliveries += part.deliveries;
        all.measured.add_all(&part.measured);
        for (code, count) in part.refused {
            *all.refused.entry(code).or_default() += count;
        }
        all.lost += part.lost;
        all.duplicated += part.duplicated;
        all.rejected += part.rejected;
        all.unmeasured += part.unmeasured;
        all.came_back += part.came_back;
        for failure in part.failures {
            if !all.failures.contains(&failure) {
                all.failures.push(failure);
            }
        }
        all.sent_by_second.add_all(&part.sent_by_second);
        all.acknowledged_by_second.add_all(&part.acknowledged_by_second);
        // Looked at as often by each, from the same start.
        all.backlog.truncate(part.backlog.len());
        for (backlog, other) in all.backlog.iter_mut().zip(part.backlog) {
            backlog.unacknowledged += other.unacknowledged;
            backlog.undelivered += other.undelivered;
        }
        all.drain = all.drain.zip(part.drain).map(|(drain, other)| Drain {
            deliveries: drain.deliveries + other.deliveries,
            took: drain.took.max(other.took),
        });
        all.sdk.add_all(&part.sdk);
        all.started_at_ms = all.started_at_ms.min(part.started_at_ms);
    }
    Some(Outcome { durable, delivered, settled, late, cpu, ..all })
}

/// CPU time of the node as it was read here; of the generator that of this process and of all others, each as it was then.
fn cpu_together(parts: &[Outcome], node: &[CpuSample]) -> Vec<CpuSample> {
    // All look at full seconds after one start, some earlier and some later.
    let slack = limits::PROGRESS_EVERY;
    let last = node.len().saturating_sub(1);
    let of_part = |part: &Outcome, place: usize, at: Duration| {
        let by_then = part.cpu.iter().rev().find(|sample| place == last || sample.at <= at + slack);
        by_then.or(part.cpu.first()).and_then(|sample| sample.generator_us)
    };
    let together = |(place, sample): (usize, &CpuSample)| {
        let others: Option<u64> = parts.iter().map(|part| of_part(part, place, sample.at)).sum();
        CpuSample { generator_us: sample.generator_us.zip(others).map(|(own, others)| own + others), ..*sample }
    };
    node.iter().enumerate().map(together).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::measure::{Metric, Seconds, latencies, record};
    use crate::nats::NatsServer;
    use crate::options::Scenario;
    use crate::run::SdkCounts;
    use crate::state::{Counts, Measured};
    use crate::target::Target;

    /// A part in which messages took so long, and the generator was so late.
    fn part(latencies_us: &[u64], late_us: u64, generator_us: u64) -> Outcome {
        let both = || {
            let (mut metric, mut seconds) = (Metric::new(), Seconds::new(true));
            for us in latencies_us {
                metric.record(Duration::from_millis(100), Duration::from_micros(*us), true);
            }
            let (all, over) = metric.finish();
            seconds.add(over);
            (all, seconds.rows)
        };
        let count = latencies_us.len() as u64;
        let mut late = latencies();
        latencies_us.iter().for_each(|_| record(&mut late, Duration::from_micros(late_us)));
        let sample =
            |ms: u64, us: u64| CpuSample { at: Duration::from_millis(ms), node_us: None, generator_us: Some(us) };
        Outcome {
            planned: Some(count),
            sent: count,
            acknowledged: count,
            deliveries: count,
            measured: Measured {
                sent: count,
                acknowledged: count,
                delivered: count,
                read: Vec::new(),
                last_acknowledged_us: 900_000,
            },
            refused: BTreeMap::new(),
            lost: 0,
            duplicated: 0,
            rejected: 0,
            unmeasured: 0,
            came_back: 0,
            failures: Vec::new(),
            durable: both(),
            delivered: both(),
            settled: both(),
            late,
            sent_by_second: Counts(vec![count]),
            acknowledged_by_second: Counts(vec![count]),
            cpu: vec![sample(0, 10), sample(990, generator_us)],
            backlog: Vec::new(),
            drain: None,
            sdk: SdkCounts::default(),
            started_at_ms: 5,
        }
    }

    fn options(processes: u32) -> RunOptions {
        let server = NatsServer { url: "nats://127.0.0.1:1".to_owned(), certificate: None, monitor: None, sync: None };
        RunOptions {
            processes,
            connections: Some(4),
            warmup: Duration::ZERO,
            duration: Duration::from_secs(1),
            ..RunOptions::against(Target::Nats(server), Scenario::Direct)
        }
    }

    fn gathered(parts: Vec<Result<ShareOutcome, String>>) -> Report {
        let mut gathering = Gathering::new(&options(2), 1, NodeSetup::default()).unwrap();
        gathering.begin(Instant::now()).unwrap();
        assert!(gathering.add(parts));
        gathering.finish().report
    }

    #[test]
    fn what_processes_found_is_added_up_and_percentiles_are_of_all_messages() {
        let fast = part(&[100; 99], 10, 1_010);
        let slow = part(&[10_000; 101], 10, 2_010);
        // As they come from other processes.
        let text = [fast, slow].map(|part| serde_json::to_string(&ShareOutcome(part)).unwrap());
        let report = gathered(text.iter().map(|text| Ok(serde_json::from_str(text).unwrap())).collect());
        assert!(report.valid, "{:?}", report.invalid_because);
        assert_eq!((report.sent, report.acknowledged, report.delivered), (200, 200, 200));
        let p50 = report.publish_to_durable_us.p50;
        assert_eq!(p50, Some(10_007), "101 of 200 took that long; a mean of percentiles would be some 5,000");
        assert_eq!(report.series[0].deliveries, 200);
        assert_eq!(report.setup.processes, 2);
    }

    #[test]
    fn cpu_time_of_the_generator_is_of_all_its_processes_and_the_nodes_is_read_once() {
        let parts = [part(&[100], 10, 1_010), part(&[100], 10, 2_010)];
        let sample = |ms: u64, node_us: u64, generator_us: u64| CpuSample {
            at: Duration::from_millis(ms),
            node_us: Some(node_us),
            generator_us: Some(generator_us),
        };
        let together = cpu_together(&parts, &[sample(0, 7, 5), sample(500, 8, 15), sample(1_000, 9, 25)]);
        let shown: Vec<_> = together.iter().map(|sample| (sample.node_us, sample.generator_us)).collect();
        let (begin, middle, end) = (5 + 10 + 10, 15 + 10 + 10, 25 + 1_010 + 2_010);
        assert_eq!(shown, [(Some(7), Some(begin)), (Some(8), Some(middle)), (Some(9), Some(end))]);
    }

    #[test]
    fn one_process_that_was_late_or_failed_makes_the_run_invalid() {
        let late = gathered(vec![
            Ok(ShareOutcome(part(&[100; 50], 5_000, 20))),
            Ok(ShareOutcome(part(&[100; 100_000], 10, 20))),
        ]);
        assert!(late.generator_late_us_p99 < Some(1_000), "among all messages it is not seen");
        assert!(
            !late.valid && late.invalid_because[0].contains("process 1 of 2: the generator was late"),
            "{:?}",
            late.invalid_because
        );
        let failed = gathered(vec![Ok(ShareOutcome(part(&[100; 50], 10, 20))), Err("it was killed".to_owned())]);
        assert!(!failed.valid && failed.invalid_because[0].contains("process 2 of 2 failed: it was killed"));
        let mut none = Gathering::new(&options(2), 1, NodeSetup::default()).unwrap();
        assert!(!none.add(vec![Err("gone".to_owned()), Err("gone".to_owned())]));
    }

    #[test]
    fn every_thing_is_one_processs() {
        for (count, things) in [(1, 7), (3, 7), (4, 4), (5, 1_000)] {
            let mut all: Vec<usize> = (0..count).flat_map(|index| Share { index, count }.of(things)).collect();
            assert_eq!(all.len(), things);
            all.dedup();
            assert_eq!(all, (0..things).collect::<Vec<_>>());
        }
    }

    #[test]
    fn what_cannot_be_divided_is_refused() {
        assert!(options(4).check().is_ok());
        for (options, why) in [
            (options(5), "at least as many"),
            (RunOptions { scenario: Scenario::FanOut, ..options(2) }, "not divided"),
            (RunOptions { scenario: Scenario::FanIn, ..options(2) }, "at least as many"),
            (RunOptions { processes: 0, ..options(1) }, "1 to"),
        ] {
            let error = options.check().unwrap_err().to_string();
            assert!(error.contains(why), "{error}");
        }
    }

    #[test]
    fn a_moment_of_the_shared_clock_is_one_of_this_process() {
        let soon = clock_ns().unwrap() + 1_000_000_000;
        let at = instant_of(soon).unwrap().unwrap();
        let wait = at.saturating_duration_since(Instant::now());
        assert!(wait <= Duration::from_secs(1) && wait > Duration::from_millis(500), "{wait:?}");
        assert_eq!(instant_of(1).unwrap(), None, "it is over");
    }
}
