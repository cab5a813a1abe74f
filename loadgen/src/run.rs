//! A run from beginning to end.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use creto_agent::{Delivery, Stats};
use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval};

use crate::arrival::Planned;
use crate::cast::CretoCast;
use crate::cpu::{CpuSample, CpuSampler};
use crate::ledger::{Durability, LedgerError, LedgerPaths, LedgerWriter};
use crate::limits::{AWAY_MAX, BACKLOG_SAMPLES_MAX, MESSAGES_MAX, PROGRESS_EVERY, SETTLE_TIMEOUT, STANDSTILL};
use crate::measure::{Metric, Second, Seconds, written};
#[cfg(not(feature = "nats"))]
use crate::nats::NatsError;
#[cfg(feature = "nats")]
use crate::nats::drive::NatsCast;
use crate::options::{RegisterError, Registration, RunError, RunOptions, Shape};
use crate::pace::Pacer;
use crate::send::Sender;
use crate::state::{Counts, Measured, Parts, Run, Told};
use crate::target::{Cast, Readers, Signals, Target};

/// Where a run stands.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct Progress {
    /// Which repetition, from 1.
    pub run: u32,
    /// Whether it is still warming up.
    pub is_warming_up: bool,
    /// Messages that were due so far; in a closed loop those that were sent.
    pub due: u64,
    /// Messages of the whole run; none in a closed loop.
    pub message_count: Option<u64>,
    /// Messages given to the SDK.
    pub submitted: u64,
    /// Messages that the node acknowledged, in the ledger if there is one.
    pub acknowledged: u64,
    /// Deliveries.
    pub delivered: u64,
    /// Publish to delivered so far, in microseconds: half are not above.
    pub p50_us: Option<u64>,
    /// 99 % are not above.
    pub p99_us: Option<u64>,
    /// Since the start.
    pub elapsed: Duration,
    /// From the start until nothing is due any more.
    pub duration: Duration,
}

/// The backlogs at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Backlog {
    pub(crate) at: Duration,
    /// Due and not acknowledged.
    pub(crate) unacknowledged: u64,
    /// Acknowledged and not delivered.
    pub(crate) undelivered: u64,
}

/// What the agents of a run counted together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SdkCounts {
    pub(crate) duplicates_hidden: u64,
    pub(crate) rejected: u64,
    pub(crate) reconnects: u64,
    pub(crate) encapsulations: u64,
    pub(crate) signatures: u64,
}

impl SdkCounts {
    fn add(&mut self, stats: &Stats) {
        self.duplicates_hidden += stats.duplicates_hidden;
        self.rejected += stats.rejected_total();
        self.reconnects += stats.reconnects;
        self.encapsulations += stats.encapsulations;
        self.signatures += stats.signatures;
    }

    /// Of two processes together.
    pub(crate) fn add_all(&mut self, others: &Self) {
        self.duplicates_hidden += others.duplicates_hidden;
        self.rejected += others.rejected;
        self.reconnects += others.reconnects;
        self.encapsulations += others.encapsulations;
        self.signatures += others.signatures;
    }
}

/// How a mailbox was read that had filled up before.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Drain {
    pub(crate) deliveries: u64,
    pub(crate) took: Duration,
}

impl Drain {
    /// Until the last delivery: when somebody looked next says nothing of the system.
    fn of(began: Duration, last_delivery: Duration, deliveries: u64) -> Self {
        Self { deliveries, took: last_delivery.saturating_sub(began) }
    }
}

/// Everything that one run found, or one process's part of it.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Outcome {
    pub(crate) planned: Option<u64>,
    pub(crate) sent: u64,
    pub(crate) acknowledged: u64,
    pub(crate) deliveries: u64,
    pub(crate) measured: Measured,
    pub(crate) refused: std::collections::BTreeMap<u16, u64>,
    pub(crate) lost: u64,
    pub(crate) duplicated: u64,
    pub(crate) rejected: u64,
    pub(crate) unmeasured: u64,
    pub(crate) came_back: u64,
    pub(crate) failures: Vec<String>,
    #[serde(with = "written::with_seconds")]
    pub(crate) durable: (Histogram<u64>, Vec<Second>),
    #[serde(with = "written::with_seconds")]
    pub(crate) delivered: (Histogram<u64>, Vec<Second>),
    #[serde(with = "written::with_seconds")]
    pub(crate) settled: (Histogram<u64>, Vec<Second>),
    #[serde(with = "written")]
    pub(crate) late: Histogram<u64>,
    pub(crate) sent_by_second: Counts,
    pub(crate) acknowledged_by_second: Counts,
    pub(crate) cpu: Vec<CpuSample>,
    pub(crate) backlog: Vec<Backlog>,
    pub(crate) drain: Option<Drain>,
    pub(crate) sdk: SdkCounts,
    /// Unix milliseconds of the start.
    pub(crate) started_at_ms: u64,
}

/// Makes one run. What the system does wrong is no error: it stands in the outcome.
pub(crate) async fn run_once(
    options: &RunOptions,
    repetition: u32,
    register: &impl AsyncFn(Registration) -> Result<(), RegisterError>,
    start: &impl AsyncFn(u32) -> Result<Instant, RunError>,
    progress: &mut impl FnMut(&Progress),
) -> Result<Outcome, RunError> {
    let paths = options.ledger.as_deref().map(LedgerPaths::of);
    if let Some(taken) = paths.as_ref().and_then(LedgerPaths::taken) {
        return Err(LedgerError::Exists(taken).into());
    }
    let staging = Staging { options, repetition, paths: paths.as_ref() };
    match &options.target {
        Target::Creto(node) => {
            let cast = CretoCast::make(node, options, register, paths.as_ref()).await?;
            staging.perform(cast, start, progress).await
        }
        #[cfg(not(feature = "nats"))]
        Target::Nats(_) => Err(NatsError::LeftOut.into()),
        #[cfg(feature = "nats")]
        Target::Nats(server) => {
            let cast = NatsCast::make(server, options).await?;
            staging.perform(cast, start, progress).await
        }
    }
}

/// What a run is made with, whoever takes part.
struct Staging<'a> {
    options: &'a RunOptions,
    repetition: u32,
    paths: Option<&'a LedgerPaths>,
}

impl Staging<'_> {
    async fn perform<C: Cast>(
        self,
        mut cast: C,
        start: &impl AsyncFn(u32) -> Result<Instant, RunError>,
        progress: &mut impl FnMut(&Progress),
    ) -> Result<Outcome, RunError> {
        let Self { options, repetition, paths } = self;
        let Shape { receivers, channels, subscribers, .. } = options.shape();
        let workload = Arc::new(options.workload(repetition));
        let planned = options.closed_loop.is_none().then(|| workload.count_in(0..u64::MAX));
        let numbers_below = if planned.is_some() { workload.numbers_below() } else { MESSAGES_MAX };
        let lines = cast.lines();
        // By then everything below is done: what is due first is not late because of it.
        let start = start(repetition).await?;
        let started_at_ms = crate::setup::now_ms();
        let run = Arc::new(Run::new(Parts {
            workload: Arc::clone(&workload),
            start,
            warmup_us: options.warmup_us(),
            numbers_below,
            keeps_ledger: paths.is_some(),
            sender_ids: cast.sender_ids(),
            channels,
            receivers,
            subscribers,
        }));
        let ledgers = paths.map(|paths| Ledgers::start(paths, &run)).transpose()?;
        let (open, opened) = watch::channel(!options.offline_then_drain);
        let (over, is_over) = watch::channel(false);
        let mut readers = Readers {
            run: &run,
            options,
            signals: Signals { open: opened, over: is_over },
            delivered: ledgers.as_ref().map(|ledgers| &ledgers.delivered),
            tasks: JoinSet::new(),
        };
        let left = cast.read(&mut readers);
        let mut reading = readers.tasks;

        let cpu = CpuSampler::start(start, options.warmup, options.node_pid).map_err(RunError::Thread)?;
        let pacer = match options.closed_loop {
            None => Some(Pacer::start(Arc::clone(&workload), start).map_err(RunError::Thread)?),
            Some(_) => None,
        };
        let lanes = workload.lanes as usize;
        let mut sending = JoinSet::new();
        for (lane, line) in workload.share.clone().zip(lines) {
            let places = options.closed_loop.map(|count| {
                let lane = lane as usize;
                Arc::new(Semaphore::new(count / lanes + usize::from(lane < count % lanes)))
            });
            let sender = Sender {
                run: Arc::clone(&run),
                lane,
                line,
                due: pacer.as_ref().map(|pacer| pacer.lane(lane)),
                places,
                ledger: ledgers.as_ref().map(|ledgers| ledgers.acknowledged.records()),
            };
            sending.spawn(sender.send());
        }

        let watching = Watching { run: &run, options, pacer: pacer.as_ref(), planned, repetition, open: &open };
        let [durable, delivered, settled] = std::array::from_fn(|_| Seconds::new(options.keep_histograms));
        let mut seconds = AllSeconds { durable, delivered, settled };
        let (backlog, drain) = watching.until_done(&mut sending, &mut seconds, progress).await;
        let cpu = cpu.finish();
        sending.shutdown().await;
        over.send_replace(true);
        let mut sdk = SdkCounts::default();
        while let Some(joined) = reading.join_next().await {
            joined.expect("receiving does not panic").iter().for_each(|stats| sdk.add(stats));
        }
        if let Some(pacer) = pacer {
            pacer.finish();
        }
        if let Some(ledgers) = ledgers {
            ledgers.acknowledged.finish().await?;
            ledgers.delivered.finish().await?;
        }
        C::close(left).await.iter().for_each(|stats| sdk.add(stats));
        let sent = run.submitted.load(Ordering::Relaxed);
        let found = run.take_found();
        Ok(Outcome {
            planned,
            sent,
            acknowledged: found.tally.acknowledged_count(),
            deliveries: found.tally.deliveries(),
            lost: found.tally.lost(),
            duplicated: found.tally.delivered_twice,
            rejected: sdk.rejected + found.tally.strange,
            measured: found.measured,
            refused: found.refused,
            unmeasured: found.unmeasured,
            came_back: found.came_back,
            failures: found.failures,
            durable: finished(found.durable, seconds.durable),
            delivered: finished(found.delivered, seconds.delivered),
            settled: finished(found.settled, seconds.settled),
            late: found.late,
            sent_by_second: found.sent_by_second,
            acknowledged_by_second: found.acknowledged_by_second,
            cpu,
            backlog,
            drain,
            sdk,
            started_at_ms,
        })
    }
}

/// Every second of each kind of latency.
struct AllSeconds {
    durable: Seconds,
    delivered: Seconds,
    settled: Seconds,
}

fn finished(metric: Metric, mut seconds: Seconds) -> (Histogram<u64>, Vec<Second>) {
    let (measured, over) = metric.finish();
    seconds.add(over);
    (measured, seconds.rows)
}

/// Looks at a run until it is done.
struct Watching<'a> {
    run: &'a Run,
    options: &'a RunOptions,
    pacer: Option<&'a Pacer>,
    planned: Option<u64>,
    repetition: u32,
    open: &'a watch::Sender<bool>,
}

impl Watching<'_> {
    /// Waits until everything is answered, everything acknowledged is delivered and its acknowledgements are out, at most as long as
    /// the options say. Lets receivers begin that were to wait.
    async fn until_done(
        self,
        sending: &mut JoinSet<()>,
        seconds: &mut AllSeconds,
        progress: &mut impl FnMut(&Progress),
    ) -> (Vec<Backlog>, Option<Drain>) {
        let Self { run, options, .. } = self;
        let duration = options.warmup.saturating_add(options.duration);
        let at_most = duration.saturating_add(options.drain_timeout);
        let mut tick = interval(PROGRESS_EVERY);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (mut backlog, mut all_there_at, mut drain_began) = (Vec::new(), None, None);
        let mut away = Away::new(duration);
        loop {
            tokio::select! {
                _ = tick.tick() => {}
                Some(joined) = sending.join_next(), if !sending.is_empty() => {
                    joined.expect("sending does not panic");
                    if !sending.is_empty() {
                        continue;
                    }
                }
            }
            let elapsed = run.start.elapsed();
            let submitted = run.submitted.load(Ordering::Relaxed);
            let due = self.pacer.map_or(submitted, Pacer::due_count);
            let (now, is_all_there, is_settled, over) = {
                let mut found = run.found();
                let over = [found.durable.take_over(), found.delivered.take_over(), found.settled.take_over()];
                let (acknowledged, deliveries) = (found.tally.acknowledged_count(), found.tally.deliveries());
                let owed = found.tally.deliveries_due();
                let failed = found.unknown + found.refused.values().sum::<u64>();
                let samples_left = backlog.len() < BACKLOG_SAMPLES_MAX;
                if samples_left && (options.warmup..duration).contains(&elapsed) {
                    backlog.push(Backlog {
                        at: elapsed,
                        unacknowledged: due.saturating_sub(acknowledged + failed),
                        undelivered: owed.saturating_sub(deliveries),
                    });
                }
                let histogram = &found.delivered.measured;
                let quantile = |quantile| (!histogram.is_empty()).then(|| histogram.value_at_quantile(quantile));
                let now = Progress {
                    run: self.repetition + 1,
                    is_warming_up: elapsed < options.warmup,
                    due,
                    message_count: self.planned,
                    submitted,
                    acknowledged,
                    delivered: deliveries,
                    p50_us: quantile(0.5),
                    p99_us: quantile(0.99),
                    elapsed,
                    duration,
                };
                let is_answered = sending.is_empty() && acknowledged + failed >= submitted;
                let is_all_there = is_answered && deliveries >= owed && found.tally.lost() == 0;
                (now, is_all_there, found.settled_count + found.unmeasured >= deliveries, over)
            };
            let [durable, delivered, settled] = over;
            seconds.durable.add(durable);
            seconds.delivered.add(delivered);
            seconds.settled.add(settled);
            progress(&now);
            if drain_began.is_none() && options.offline_then_drain {
                let is_stuck = away.is_stuck(elapsed, now.acknowledged);
                if sending.is_empty() || is_stuck {
                    drain_began = Some(run.start.elapsed());
                    self.open.send_replace(true);
                }
                if !sending.is_empty() && is_stuck {
                    run.failed(&format!(
                        "receivers began to read with {} messages not acknowledged: a mailbox was full, or the node far behind; raise \
                         mailbox.messages_max, mailbox.bytes_max and mailbox.shard_bytes_max of the node",
                        now.submitted.saturating_sub(now.acknowledged)
                    ));
                }
            }
            if is_all_there {
                let since = *all_there_at.get_or_insert(elapsed);
                if is_settled || elapsed >= since + SETTLE_TIMEOUT {
                    break;
                }
            }
            if elapsed >= at_most {
                break;
            }
        }
        let drain = drain_began.map(|began| {
            let found = run.found();
            Drain::of(began, found.last_delivery, found.tally.deliveries())
        });
        (backlog, drain)
    }
}

/// When receivers that are away must begin for messages to go on: a mailbox that is full takes nothing before it is read.
#[derive(Debug)]
struct Away {
    /// Nothing is due from then on.
    duration: Duration,
    acknowledged: u64,
    stands_since: Duration,
}

impl Away {
    fn new(duration: Duration) -> Self {
        Self { duration, acknowledged: 0, stands_since: Duration::ZERO }
    }

    /// Nothing is due any more, and acknowledgements stand still or have had their time.
    fn is_stuck(&mut self, elapsed: Duration, acknowledged: u64) -> bool {
        if acknowledged != self.acknowledged || elapsed < self.duration {
            (self.acknowledged, self.stands_since) = (acknowledged, elapsed);
        }
        elapsed >= self.stands_since.saturating_add(STANDSTILL) || elapsed >= self.duration.saturating_add(AWAY_MAX)
    }
}

/// Both ledgers of a run.
struct Ledgers {
    acknowledged: LedgerWriter<Planned>,
    delivered: LedgerWriter<Delivery>,
}

impl Ledgers {
    fn start(paths: &LedgerPaths, run: &Arc<Run>) -> Result<Self, LedgerError> {
        let counting = Arc::clone(run);
        let acknowledged = LedgerWriter::start(&paths.acknowledged, Durability::Synced, false, move |_, planned| {
            // In the file and synced: now it counts.
            counting.answered(&planned, Told::Done);
        })?;
        let delivered = LedgerWriter::start(&paths.delivered, Durability::Written, false, |_, delivery| {
            Delivery::ack(&delivery);
        })?;
        Ok(Self { acknowledged, delivered })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_mailbox_was_read_until_its_last_delivery() {
        let drain = Drain::of(SECOND * 4, Duration::from_micros(4_012_345), 300);
        assert_eq!((drain.took, drain.deliveries), (Duration::from_micros(12_345), 300));
        assert_eq!(Drain::of(SECOND, Duration::ZERO, 0).took, Duration::ZERO, "nothing came");
    }

    #[test]
    fn receivers_that_are_away_begin_when_nothing_is_due_and_acknowledgements_stand_still() {
        let mut away = Away::new(SECOND * 5);
        let looks = [(1, 10), (3, 10), (4, 10), (5, 20), (6, 30)];
        assert!(looks.iter().all(|(at, acknowledged)| !away.is_stuck(SECOND * *at, *acknowledged)), "something is due");
        assert!(!away.is_stuck(SECOND * 13 / 2, 30));
        assert!(away.is_stuck(SECOND * 7, 30));
        let mut slow = Away::new(SECOND * 5);
        assert!((5..15).all(|at| !slow.is_stuck(SECOND * at, u64::from(at))));
        assert!(slow.is_stuck(SECOND * 15, 15), "it is given its time, and no more");
    }
}
