//! What runs found, for people and as JSON.

use std::collections::BTreeMap;

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

use crate::cpu::{by_second, us_per_message};
use crate::limits::GENERATOR_LATE_P99_US_MAX;
use crate::measure::{Percentiles, Point, Second, curve, merged};
use crate::options::RunOptions;
use crate::run::Outcome;
use crate::setup::Setup;
use crate::shards::ShardSeries;
use crate::verdict::{Facts, invalid_because, is_growing};

/// Format of a report as JSON.
pub const REPORT_FORMAT: u32 = 1;

/// What became of the messages of a warm-up: sent, and looked after, and in no other figure.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Warmup {
    /// Messages given to the SDK.
    pub sent: u64,
    /// Messages that the node acknowledged.
    pub acknowledged: u64,
    /// Deliveries.
    pub deliveries: u64,
}

/// How mailboxes were read that had filled up before.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct DrainReport {
    /// Messages that were read.
    pub deliveries: u64,
    /// From the moment that their agents subscribed, in seconds.
    pub seconds: f64,
    /// Messages a second.
    pub per_s: f64,
}

/// The least, the middle and the most that repetitions gave. The middle of an even number is the lower of the two in the middle.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Spread {
    /// The least.
    pub min: f64,
    /// The middle.
    pub median: f64,
    /// The most.
    pub max: f64,
}

impl Spread {
    /// Of these values; none of none.
    #[must_use]
    pub fn of(values: impl IntoIterator<Item = f64>) -> Option<Self> {
        let mut values: Vec<f64> = values.into_iter().collect();
        values.sort_by(f64::total_cmp);
        let (min, max) = (*values.first()?, *values.last()?);
        // One that was measured: a mean of two percentiles is a percentile of nothing.
        let median = values[(values.len() - 1) / 2];
        Some(Self { min, median, max })
    }
}

/// The main figures of one repetition.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct RunFigures {
    /// Messages that were due a second.
    pub offered_rate: Option<f64>,
    /// Messages that were acknowledged a second.
    pub achieved_rate: f64,
    /// Whether it says what it seems to say.
    pub valid: bool,
    /// Why not.
    pub invalid_because: Vec<String>,
    /// From when a message was due to its acknowledgement.
    pub publish_to_durable_us: Percentiles,
    /// To its delivery.
    pub publish_to_delivered_us: Percentiles,
    /// Until it was settled.
    pub publish_to_settled_us: Percentiles,
    /// CPU time of the node.
    pub node_cpu_us_per_message: Option<f64>,
    /// CPU time of the generator.
    pub generator_cpu_us_per_message: Option<f64>,
    /// How late the generator was.
    pub generator_late_us_p99: Option<u64>,
    /// What is due and not acknowledged becomes more and more.
    pub unacknowledged_grows: bool,
    /// What is acknowledged and not delivered becomes more and more.
    pub undelivered_grows: bool,
}

/// The spread of the main figures over the repetitions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Spreads {
    /// Messages that were acknowledged a second.
    pub achieved_rate: Option<Spread>,
    /// p50 of publish to durable.
    pub publish_to_durable_us_p50: Option<Spread>,
    /// p99 of publish to durable.
    pub publish_to_durable_us_p99: Option<Spread>,
    /// p50 of publish to delivered.
    pub publish_to_delivered_us_p50: Option<Spread>,
    /// p99 of publish to delivered.
    pub publish_to_delivered_us_p99: Option<Spread>,
    /// p99 of publish to settled.
    pub publish_to_settled_us_p99: Option<Spread>,
    /// CPU time of the node.
    pub node_cpu_us_per_message: Option<Spread>,
    /// CPU time of the generator.
    pub generator_cpu_us_per_message: Option<Spread>,
}

/// Distributions of all repetitions together.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Curves {
    /// From when a message was due to its acknowledgement.
    pub publish_to_durable_us: Vec<Point>,
    /// To its delivery.
    pub publish_to_delivered_us: Vec<Point>,
    /// Until it was settled.
    pub publish_to_settled_us: Vec<Point>,
}

/// One second of a run, by when things happened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Row {
    /// Which repetition, from 1.
    pub run: u32,
    /// Seconds after its start.
    pub second: u64,
    /// Whether it is before, in, or after the part that is measured.
    pub phase: Phase,
    /// Messages given to the SDK.
    pub sent: u64,
    /// Messages that the node acknowledged.
    pub acknowledged: u64,
    /// Deliveries.
    pub deliveries: u64,
    /// p50 of publish to durable, of what was acknowledged then.
    pub durable_p50_us: Option<u64>,
    /// p99 of it.
    pub durable_p99_us: Option<u64>,
    /// p50 of publish to delivered, of what was delivered then.
    pub delivered_p50_us: Option<u64>,
    /// p99 of it.
    pub delivered_p99_us: Option<u64>,
    /// p99 of publish to settled, of what was settled then.
    pub settled_p99_us: Option<u64>,
    /// CPU time of the node, in microseconds.
    pub node_cpu_us: Option<u64>,
    /// CPU time of the generator, in microseconds.
    pub generator_cpu_us: Option<u64>,
}

/// Where a second of a run lies.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// Before what is measured.
    Warmup,
    /// What is due is measured.
    #[default]
    Measured,
    /// Nothing is due any more.
    Drain,
}

impl Phase {
    /// The word.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Warmup => "warmup",
            Self::Measured => "measured",
            Self::Drain => "drain",
        }
    }
}

/// What runs found. Everything is counted; nothing is assumed. Counts and latencies are of the messages that were due after the
/// warm-up; what must not be (lost, twice, refused) is of all.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// [`REPORT_FORMAT`].
    pub format: u32,
    /// What was sent to whom.
    pub scenario: String,
    /// Messages that were due a second; none in a closed loop.
    pub offered_rate: Option<f64>,
    /// Messages that were acknowledged a second, until the last one was.
    pub achieved_rate: f64,
    /// Whether the figures say what they seem to say.
    pub valid: bool,
    /// Why not, in words.
    pub invalid_because: Vec<String>,
    /// What else to know before they are read.
    pub notes: Vec<String>,
    /// Messages given to the SDK.
    pub sent: u64,
    /// Messages that the node acknowledged as durable; with a ledger, only those that are in it and synced; of requests, those that
    /// were answered.
    pub acknowledged: u64,
    /// Messages that everybody has whom they are for.
    pub delivered: u64,
    /// Deliveries: of a message in a channel one to each subscriber.
    pub deliveries: u64,
    /// From when a message was due to its acknowledgement.
    pub publish_to_durable_us: Percentiles,
    /// From when a message was due to its delivery to the application; in a channel to each.
    pub publish_to_delivered_us: Percentiles,
    /// From when a message was due until its recipient's acknowledgement was handed to the connection; of a request, until its answer
    /// was there.
    pub publish_to_settled_us: Percentiles,
    /// CPU time of the node's process, for each acknowledged message.
    pub node_cpu_us_per_message: Option<f64>,
    /// CPU time of this process, which has both ends of every message.
    pub generator_cpu_us_per_message: Option<f64>,
    /// How late this tool itself was, by its own fault.
    pub generator_late_us_p99: Option<u64>,
    /// How the node makes writes durable, as it says itself.
    pub durability: Option<String>,
    /// The same for each delivery, where that is something else.
    pub node_cpu_us_per_delivery: Option<f64>,
    /// All of the generator's lateness.
    pub generator_late_us: Percentiles,
    /// Acknowledged and not delivered, for each whom it is for: zero, or the system is broken (or the run did not wait long enough).
    pub lost: u64,
    /// Deliveries to an application of what it had already: zero, or the system is broken.
    pub duplicated: u64,
    /// Messages that the node refused for good, by code.
    pub refused: BTreeMap<u16, u64>,
    /// Messages without a clear answer: the connection broke, the answer did not come, or the run ended first.
    pub unknown: u64,
    /// Deliveries that could not be verified or opened, are not this run's, or not as they were sent.
    pub rejected: u64,
    /// Duplicates that the SDK hid.
    pub duplicates_hidden: u64,
    /// Connections that were made again.
    pub reconnects: u64,
    /// Times that an agent left and came back.
    pub came_back: u64,
    /// Key encapsulations that were paid: one for each session.
    pub encapsulations: u64,
    /// Batches that were signed, each with Ed25519 and ML-DSA-65.
    pub signatures: u64,
    /// What is due and not acknowledged becomes more and more, in one of the runs.
    pub unacknowledged_grows: bool,
    /// What is acknowledged and not delivered becomes more and more, in one of the runs.
    pub undelivered_grows: bool,
    /// How mailboxes were read that had filled up before.
    pub drain: Option<DrainReport>,
    /// Before what was measured.
    pub warmup: Warmup,
    /// Each repetition.
    pub runs: Vec<RunFigures>,
    /// Over the repetitions.
    pub spread: Spreads,
    /// Distributions.
    pub curves: Curves,
    /// Second by second.
    pub series: Vec<Row>,
    /// Shard by shard and second by second, where the node tells it.
    #[serde(default)]
    pub shards: ShardSeries,
    /// What it was made on and with.
    pub setup: Setup,
}

#[allow(clippy::cast_precision_loss, reason = "counts and microseconds of a run are far below 2^52")]
fn ratio(above: u64, below: u64) -> Option<f64> {
    (below > 0).then(|| above as f64 / below as f64)
}

impl Report {
    /// Whether every acknowledged message was delivered exactly once, and there was at least one.
    #[must_use]
    pub fn holds(&self) -> bool {
        self.acknowledged > 0 && self.lost == 0 && self.duplicated == 0 && self.rejected == 0
    }

    pub(crate) fn of(options: &RunOptions, outcomes: &[Outcome], setup: Setup) -> Self {
        Self::of_processes(options, outcomes, setup, &[])
    }

    /// As [`of`](Self::of), with what makes each run not valid beyond what its sums say: what single processes found.
    pub(crate) fn of_processes(
        options: &RunOptions,
        outcomes: &[Outcome],
        setup: Setup,
        reasons: &[Vec<String>],
    ) -> Self {
        let mut runs: Vec<RunFigures> = outcomes.iter().map(|outcome| RunFigures::of(options, outcome)).collect();
        for (run, reasons) in runs.iter_mut().zip(reasons) {
            // What is wrong with one of them says more than the sum does.
            if !reasons.is_empty() {
                run.invalid_because.clone_from(reasons);
                run.valid = false;
            }
        }
        let all = |of: fn(&Outcome) -> &Histogram<u64>| merged(outcomes.iter().map(of));
        let (durable, delivered) = (all(|one| &one.durable.0), all(|one| &one.delivered.0));
        let (settled, late) = (all(|one| &one.settled.0), all(|one| &one.late));
        let sum = |of: &dyn Fn(&Outcome) -> u64| outcomes.iter().map(of).sum::<u64>();
        let mut refused = BTreeMap::new();
        for (code, count) in outcomes.iter().flat_map(|one| &one.refused) {
            *refused.entry(*code).or_insert(0) += count;
        }
        let acknowledged = sum(&|one| one.measured.acknowledged);
        let deliveries = sum(&|one| one.measured.deliveries());
        // All of one length of time, but for what a run took until its last acknowledgement.
        let per_message = |each: fn(&RunFigures) -> Option<f64>| -> Option<f64> {
            let weigh = |(run, one): (&RunFigures, &Outcome)| Some(each(run)? * one.measured.acknowledged as f64);
            let total: Option<f64> = runs.iter().zip(outcomes).map(weigh).sum();
            total.filter(|_| acknowledged > 0).map(|total| total / acknowledged as f64)
        };
        let node_cpu = per_message(|run| run.node_cpu_us_per_message);
        let mean = |of: fn(&RunFigures) -> Option<f64>| {
            let values: Option<Vec<f64>> = runs.iter().map(of).collect();
            values.filter(|values| !values.is_empty()).map(|values| values.iter().sum::<f64>() / values.len() as f64)
        };
        let measured_sent = sum(&|one| one.measured.sent);
        let warmup = Warmup {
            sent: sum(&|one| one.sent) - measured_sent,
            acknowledged: sum(&|one| one.acknowledged) - acknowledged,
            deliveries: sum(&|one| one.deliveries) - deliveries,
        };
        let drains: Vec<_> = outcomes.iter().filter_map(|one| one.drain).collect();
        let drain = (!drains.is_empty()).then(|| {
            let deliveries = drains.iter().map(|drain| drain.deliveries).sum();
            let seconds: f64 = drains.iter().map(|drain| drain.took.as_secs_f64()).sum();
            DrainReport { deliveries, seconds, per_s: if seconds > 0.0 { deliveries as f64 / seconds } else { 0.0 } }
        });
        let several = runs.len() > 1;
        let invalid_because: Vec<String> = (1..)
            .zip(&runs)
            .flat_map(|(place, run)| run.invalid_because.iter().map(move |reason| (place, reason)))
            .map(|(place, reason)| if several { format!("run {place}: {reason}") } else { reason.clone() })
            .collect();
        let setup = Setup { started_at_ms: outcomes.first().map_or(0, |one| one.started_at_ms), ..setup };
        Self {
            format: REPORT_FORMAT,
            scenario: options.scenario.name().to_owned(),
            offered_rate: mean(|run| run.offered_rate),
            achieved_rate: mean(|run| Some(run.achieved_rate)).unwrap_or(0.0),
            valid: invalid_because.is_empty(),
            invalid_because,
            notes: notes(options, outcomes, &setup),
            sent: measured_sent,
            acknowledged,
            delivered: sum(&|one| one.measured.delivered_messages()),
            deliveries,
            publish_to_durable_us: Percentiles::of(&durable),
            publish_to_delivered_us: Percentiles::of(&delivered),
            publish_to_settled_us: Percentiles::of(&settled),
            node_cpu_us_per_message: node_cpu,
            generator_cpu_us_per_message: per_message(|run| run.generator_cpu_us_per_message),
            generator_late_us_p99: Percentiles::of(&late).p99,
            durability: setup.node.durability.clone(),
            node_cpu_us_per_delivery: node_cpu.zip(ratio(acknowledged, deliveries)).map(|(us, share)| us * share),
            generator_late_us: Percentiles::of(&late),
            lost: sum(&|one| one.lost),
            duplicated: sum(&|one| one.duplicated),
            unknown: sum(&unknown),
            refused,
            rejected: sum(&|one| one.rejected),
            duplicates_hidden: sum(&|one| one.sdk.duplicates_hidden),
            reconnects: sum(&|one| one.sdk.reconnects),
            came_back: sum(&|one| one.came_back),
            encapsulations: sum(&|one| one.sdk.encapsulations),
            signatures: sum(&|one| one.sdk.signatures),
            unacknowledged_grows: runs.iter().any(|run| run.unacknowledged_grows),
            undelivered_grows: runs.iter().any(|run| run.undelivered_grows),
            drain,
            warmup,
            spread: Spreads::of(&runs),
            curves: Curves {
                publish_to_durable_us: curve(&durable),
                publish_to_delivered_us: curve(&delivered),
                publish_to_settled_us: curve(&settled),
            },
            // Whoever can ask the node puts it here.
            shards: ShardSeries::default(),
            series: (1..).zip(outcomes).flat_map(|(run, outcome)| rows(options, run, outcome)).collect(),
            runs,
            setup,
        }
    }
}

/// What was neither acknowledged nor refused.
fn unknown(outcome: &Outcome) -> u64 {
    outcome.sent.saturating_sub(outcome.acknowledged + outcome.refused.values().sum::<u64>())
}

impl RunFigures {
    #[allow(clippy::cast_precision_loss, reason = "counts and microseconds of a run are far below 2^52")]
    pub(crate) fn of(options: &RunOptions, outcome: &Outcome) -> Self {
        let measured = &outcome.measured;
        let warmup_s = options.warmup.as_secs_f64();
        let seconds = options.duration.as_secs_f64();
        let until_last = (measured.last_acknowledged_us as f64 / 1e6 - warmup_s).max(seconds);
        // What was planned was due, sent or not.
        let due = outcome.planned.map(|planned| planned.saturating_sub(outcome.sent - measured.sent));
        let offered_rate = due.map(|due| due as f64 / seconds);
        let achieved_rate = measured.acknowledged as f64 / until_last;
        let late = Percentiles::of(&outcome.late);
        let span = outcome.backlog.first().zip(outcome.backlog.last());
        let span = span.map_or(0.0, |(first, last)| (last.at.saturating_sub(first.at)).as_secs_f64());
        let grows = |of: fn(&crate::run::Backlog) -> u64| {
            let samples: Vec<u64> = outcome.backlog.iter().map(of).collect();
            is_growing(&samples, span, offered_rate.unwrap_or(achieved_rate))
        };
        let undelivered_grows = grows(|backlog| backlog.undelivered);
        // Whoever asked for receivers that are away or slow asked for this.
        let is_meant = options.offline_then_drain || options.slow_consumers > 0;
        let facts = Facts {
            offered_rate,
            achieved_rate,
            generator_late_p99_us: late.p99,
            acknowledged: measured.acknowledged,
            refused: outcome.refused.values().sum(),
            unknown: unknown(outcome),
            lost: outcome.lost,
            duplicated: outcome.duplicated,
            rejected: outcome.rejected,
            undelivered_grows: undelivered_grows && !is_meant,
        };
        let cpu = |of: fn(&crate::cpu::CpuSample) -> Option<u64>| {
            us_per_message(&outcome.cpu, options.warmup, measured.acknowledged, of)
        };
        let invalid_because = invalid_because(&facts);
        Self {
            offered_rate,
            achieved_rate,
            valid: invalid_because.is_empty(),
            invalid_because,
            publish_to_durable_us: Percentiles::of(&outcome.durable.0),
            publish_to_delivered_us: Percentiles::of(&outcome.delivered.0),
            publish_to_settled_us: Percentiles::of(&outcome.settled.0),
            node_cpu_us_per_message: cpu(|sample| sample.node_us),
            generator_cpu_us_per_message: cpu(|sample| sample.generator_us),
            generator_late_us_p99: late.p99,
            unacknowledged_grows: grows(|backlog| backlog.unacknowledged),
            undelivered_grows,
        }
    }
}

impl Spreads {
    fn of(runs: &[RunFigures]) -> Self {
        let of = |figure: fn(&RunFigures) -> Option<f64>| {
            let values: Option<Vec<f64>> = runs.iter().map(figure).collect();
            values.and_then(Spread::of)
        };
        #[allow(clippy::cast_precision_loss, reason = "latencies are at most LATENCY_US_MAX")]
        fn us(value: Option<u64>) -> Option<f64> {
            value.map(|us| us as f64)
        }
        Self {
            achieved_rate: of(|run| Some(run.achieved_rate)),
            publish_to_durable_us_p50: of(|run| us(run.publish_to_durable_us.p50)),
            publish_to_durable_us_p99: of(|run| us(run.publish_to_durable_us.p99)),
            publish_to_delivered_us_p50: of(|run| us(run.publish_to_delivered_us.p50)),
            publish_to_delivered_us_p99: of(|run| us(run.publish_to_delivered_us.p99)),
            publish_to_settled_us_p99: of(|run| us(run.publish_to_settled_us.p99)),
            node_cpu_us_per_message: of(|run| run.node_cpu_us_per_message),
            generator_cpu_us_per_message: of(|run| run.generator_cpu_us_per_message),
        }
    }
}

fn notes(options: &RunOptions, outcomes: &[Outcome], setup: &Setup) -> Vec<String> {
    let mut notes = Vec::new();
    if setup.build == "debug" {
        notes.push("a debug build: these figures say nothing of the product; build with --release".to_owned());
    }
    if options.closed_loop.is_some() {
        notes.push(
            "a closed loop: whenever the system is slow, less is sent, so its latencies leave out what would have waited".to_owned(),
        );
    }
    // Whoever was pinned has CPUs that somebody chose; which, the report says.
    if setup.node.is_own && setup.cores < 4 && setup.generator_cpus.is_none() {
        notes.push(format!("the generator and the node share {} CPUs: latencies are of both", setup.cores));
    }
    let unmeasured: u64 = outcomes.iter().map(|outcome| outcome.unmeasured).sum();
    if unmeasured > 0 {
        notes.push(format!("of {unmeasured} deliveries it was not measured when they were settled"));
    }
    if outcomes.iter().any(|outcome| outcome.late.is_empty()) && options.closed_loop.is_none() {
        notes.push(format!("nothing says whether the generator was later than {GENERATOR_LATE_P99_US_MAX} us"));
    }
    for failure in outcomes.iter().flat_map(|outcome| &outcome.failures) {
        if !notes.contains(failure) {
            notes.push(failure.clone());
        }
    }
    notes
}

/// The seconds of one run.
fn rows(options: &RunOptions, run: u32, outcome: &Outcome) -> Vec<Row> {
    let mut rows: BTreeMap<u64, Row> = BTreeMap::new();
    let end = (options.warmup + options.duration).as_secs_f64();
    #[allow(clippy::cast_precision_loss, reason = "a run has at most SERIES_ROWS_MAX seconds")]
    let phase = |second: u64| match second as f64 {
        second if second < options.warmup.as_secs_f64() => Phase::Warmup,
        second if second < end => Phase::Measured,
        _ => Phase::Drain,
    };
    fn at(rows: &mut BTreeMap<u64, Row>, second: u64) -> &mut Row {
        rows.entry(second).or_default()
    }
    for (second, count) in (0..).zip(&outcome.sent_by_second.0) {
        at(&mut rows, second).sent = *count;
    }
    for (second, count) in (0..).zip(&outcome.acknowledged_by_second.0) {
        at(&mut rows, second).acknowledged = *count;
    }
    let seconds = |seconds: &[Second]| -> Vec<(u64, Percentiles)> {
        seconds.iter().map(|second| (second.second, second.percentiles)).collect()
    };
    for (second, percentiles) in seconds(&outcome.durable.1) {
        let row = at(&mut rows, second);
        (row.durable_p50_us, row.durable_p99_us) = (percentiles.p50, percentiles.p99);
    }
    for (second, percentiles) in seconds(&outcome.delivered.1) {
        let row = at(&mut rows, second);
        row.deliveries = percentiles.count;
        (row.delivered_p50_us, row.delivered_p99_us) = (percentiles.p50, percentiles.p99);
    }
    for (second, percentiles) in seconds(&outcome.settled.1) {
        at(&mut rows, second).settled_p99_us = percentiles.p99;
    }
    for (second, us) in by_second(&outcome.cpu, |sample| sample.node_us) {
        at(&mut rows, second).node_cpu_us = Some(us);
    }
    for (second, us) in by_second(&outcome.cpu, |sample| sample.generator_us) {
        at(&mut rows, second).generator_cpu_us = Some(us);
    }
    rows.into_iter().map(|(second, row)| Row { run, second, phase: phase(second), ..row }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spread_has_its_middle_and_its_ends() {
        let spread = Spread::of([3.0, 1.0, 2.0]).unwrap();
        assert_eq!((spread.min, spread.median, spread.max), (1.0, 2.0, 3.0));
        assert_eq!(Spread::of([4.0, 1.0]).unwrap().median, 1.0, "no figure that was never measured");
        assert_eq!(Spread::of([4.0, 1.0, 3.0, 2.0]).unwrap().median, 2.0);
        assert_eq!(Spread::of([]), None);
    }

    #[test]
    fn a_report_is_read_as_it_was_written() {
        let report = Report { format: REPORT_FORMAT, refused: BTreeMap::from([(7, 9)]), ..Report::default() };
        let text = serde_json::to_string(&report).unwrap();
        assert_eq!(serde_json::from_str::<Report>(&text).unwrap(), report);
    }
}
