//! Two reports against each other, with a verdict. Pure.

use serde::Serialize;

use crate::report::{Report, Spread};

/// By how much a figure may be worse, as a share of the first one.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct CompareLimits {
    /// Percentiles of latencies.
    pub latency: f64,
    /// CPU time of a message.
    pub cpu: f64,
    /// The rate that was achieved.
    pub rate: f64,
}

impl Default for CompareLimits {
    /// 10 % of a latency, 5 % of CPU time, 2 % of the rate.
    fn default() -> Self {
        Self { latency: 0.10, cpu: 0.05, rate: 0.02 }
    }
}

/// What a comparison of a figure came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// Better by more than the limit.
    Better,
    /// Within the limit.
    Same,
    /// Worse by more than the limit, but not beyond what the first one's own repetitions differ by.
    Unclear,
    /// Worse by more than the limit.
    Worse,
    /// One of the two does not have it.
    Missing,
}

impl Verdict {
    /// The word.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Better => "better",
            Self::Same => "same",
            Self::Unclear => "unclear",
            Self::Worse => "worse",
            Self::Missing => "missing",
        }
    }
}

/// One figure of both.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Compared {
    /// Which.
    pub figure: &'static str,
    /// Of the first report.
    pub before: Option<f64>,
    /// Of the second.
    pub after: Option<f64>,
    /// How much it changed, as a share of the first.
    pub change: Option<f64>,
    /// By how much it may be worse.
    pub limit: f64,
    /// What it came to.
    pub verdict: Verdict,
}

/// Two reports against each other.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Comparison {
    /// Whether nothing is worse, both are valid, and both are of the same load.
    pub holds: bool,
    /// Why not, beyond the figures.
    pub problems: Vec<String>,
    /// What differs in what they were made on: figures of another machine may differ for that alone.
    pub differences: Vec<String>,
    /// The figures.
    pub figures: Vec<Compared>,
}

/// Which way a figure is better.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Good {
    Low,
    High,
}

/// Compares `after` with `before`.
#[must_use]
pub fn compare(before: &Report, after: &Report, limits: &CompareLimits) -> Comparison {
    #[allow(clippy::cast_precision_loss, reason = "latencies are at most LATENCY_US_MAX")]
    fn us(value: Option<u64>) -> Option<f64> {
        value.map(|us| us as f64)
    }
    type Figure = (&'static str, f64, Good, fn(&Report) -> Option<f64>, fn(&Report) -> Option<Spread>);
    let CompareLimits { latency, cpu, rate } = *limits;
    let figures: [Figure; 11] = [
        ("achieved_rate", rate, Good::High, |report| Some(report.achieved_rate), |report| report.spread.achieved_rate),
        (
            "publish_to_durable_us.p50",
            latency,
            Good::Low,
            |report| us(report.publish_to_durable_us.p50),
            |report| report.spread.publish_to_durable_us_p50,
        ),
        (
            "publish_to_durable_us.p99",
            latency,
            Good::Low,
            |report| us(report.publish_to_durable_us.p99),
            |report| report.spread.publish_to_durable_us_p99,
        ),
        ("publish_to_durable_us.p99_9", latency, Good::Low, |report| us(report.publish_to_durable_us.p99_9), |_| None),
        (
            "publish_to_delivered_us.p50",
            latency,
            Good::Low,
            |report| us(report.publish_to_delivered_us.p50),
            |report| report.spread.publish_to_delivered_us_p50,
        ),
        (
            "publish_to_delivered_us.p99",
            latency,
            Good::Low,
            |report| us(report.publish_to_delivered_us.p99),
            |report| report.spread.publish_to_delivered_us_p99,
        ),
        (
            "publish_to_delivered_us.p99_9",
            latency,
            Good::Low,
            |report| us(report.publish_to_delivered_us.p99_9),
            |_| None,
        ),
        (
            "publish_to_settled_us.p99",
            latency,
            Good::Low,
            |report| us(report.publish_to_settled_us.p99),
            |report| report.spread.publish_to_settled_us_p99,
        ),
        (
            "node_cpu_us_per_message",
            cpu,
            Good::Low,
            |report| report.node_cpu_us_per_message,
            |report| report.spread.node_cpu_us_per_message,
        ),
        (
            "generator_cpu_us_per_message",
            cpu,
            Good::Low,
            |report| report.generator_cpu_us_per_message,
            |report| report.spread.generator_cpu_us_per_message,
        ),
        ("drain.per_s", rate, Good::High, |report| report.drain.map(|drain| drain.per_s), |_| None),
    ];
    let figures: Vec<Compared> = figures
        .into_iter()
        .filter(|(_, _, _, of, _)| of(before).is_some() || of(after).is_some())
        .map(|(figure, limit, good, of, spread)| {
            let repeated = before.runs.len() > 1;
            judge(figure, limit, good, of(before), of(after), spread(before).filter(|_| repeated))
        })
        .collect();
    let mut problems = Vec::new();
    for (which, report) in [("first", before), ("second", after)] {
        problems.extend(report.invalid_because.iter().map(|reason| format!("the {which} is not valid: {reason}")));
        if !report.valid && report.invalid_because.is_empty() {
            problems.push(format!("the {which} is not valid"));
        }
    }
    let (options, others) = (&before.setup.options, &after.setup.options);
    let repeat = others.repeat;
    if (crate::Options { repeat, ..options.clone() }) != *others {
        let what = differing(options, others).join(", ");
        problems.push(format!("they are not of the same load: {what}"));
    }
    let differences = setups(before, after);
    let holds = problems.is_empty()
        && figures.iter().all(|compared| compared.verdict != Verdict::Worse && compared.verdict != Verdict::Missing);
    Comparison { holds, problems, differences, figures }
}

/// What is at its limit is not above it because it has no exact value in binary.
const ROUNDING: f64 = 1e-9;

fn judge(
    figure: &'static str,
    limit: f64,
    good: Good,
    before: Option<f64>,
    after: Option<f64>,
    spread: Option<Spread>,
) -> Compared {
    let change = before.zip(after).filter(|(before, _)| *before > 0.0).map(|(before, after)| (after - before) / before);
    let worse = change.map(|change| if good == Good::Low { change } else { -change });
    let in_spread = |spread: Spread| {
        after.is_some_and(|after| match good {
            Good::Low => after <= spread.max,
            Good::High => after >= spread.min,
        })
    };
    let verdict = match worse {
        None if before.is_some() && after.is_some() => Verdict::Same,
        None => Verdict::Missing,
        Some(worse) if worse > limit + ROUNDING && spread.is_some_and(in_spread) => Verdict::Unclear,
        Some(worse) if worse > limit + ROUNDING => Verdict::Worse,
        Some(worse) if worse < -limit => Verdict::Better,
        Some(_) => Verdict::Same,
    };
    Compared { figure, before, after, change, limit, verdict }
}

/// The options that are not the same, each with both values.
fn differing(one: &crate::Options, other: &crate::Options) -> Vec<String> {
    let values = |options| serde_json::to_value(options).ok();
    let (Some(serde_json::Value::Object(one)), Some(other)) = (values(one), values(other)) else { return Vec::new() };
    let differs = one.iter().filter(|(name, value)| *name != "repeat" && other[*name] != **value);
    differs.map(|(name, value)| format!("{name} {value} and {}", other[name])).collect()
}

fn setups(before: &Report, after: &Report) -> Vec<String> {
    let (one, other) = (&before.setup, &after.setup);
    let text = |value: &Option<String>| value.clone().unwrap_or_else(|| "not known".to_owned());
    let pairs = [
        ("host", one.host.clone(), other.host.clone()),
        ("processor", one.cpu_model.clone(), other.cpu_model.clone()),
        ("cores", one.cores.to_string(), other.cores.to_string()),
        ("kernel", one.kernel.clone(), other.kernel.clone()),
        ("build", one.build.clone(), other.build.clone()),
        ("version", one.version.clone(), other.version.clone()),
        ("commit", text(&one.commit), text(&other.commit)),
        ("durability", text(&before.durability), text(&after.durability)),
        ("shards", format!("{:?}", one.node.shards), format!("{:?}", other.node.shards)),
        ("system", one.node.system.clone(), other.node.system.clone()),
        ("protection", one.node.protection.clone(), other.node.protection.clone()),
        ("processes", one.processes.to_string(), other.processes.to_string()),
        ("seed", one.seed.to_string(), other.seed.to_string()),
    ];
    let differ = pairs.into_iter().filter(|(_, one, other)| one != other);
    differ.map(|(what, one, other)| format!("{what}: {one} and {other}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::measure::Percentiles;
    use crate::report::{RunFigures, Spreads};

    fn report(p99: u64, cpu: f64, rate: f64) -> Report {
        Report {
            valid: true,
            achieved_rate: rate,
            publish_to_delivered_us: Percentiles { p99: Some(p99), ..Percentiles::default() },
            node_cpu_us_per_message: Some(cpu),
            ..Report::default()
        }
    }

    fn verdict(comparison: &Comparison, figure: &str) -> Verdict {
        comparison.figures.iter().find(|compared| compared.figure == figure).unwrap().verdict
    }

    #[test]
    fn what_is_worse_by_more_than_its_limit_fails_and_what_is_better_does_not() {
        let before = report(1_000, 4.0, 20_000.0);
        let limits = CompareLimits::default();
        let p99 = "publish_to_delivered_us.p99";
        let cases = [
            (report(1_100, 4.2, 19_600.0), true, Verdict::Same),
            (report(1_101, 4.0, 20_000.0), false, Verdict::Worse),
            (report(800, 4.0, 20_000.0), true, Verdict::Better),
            (report(1_000, 4.3, 20_000.0), false, Verdict::Same),
            (report(1_000, 4.0, 19_500.0), false, Verdict::Same),
        ];
        for (after, holds, wanted) in cases {
            let comparison = compare(&before, &after, &limits);
            assert_eq!((comparison.holds, verdict(&comparison, p99)), (holds, wanted), "{comparison:#?}");
        }
        let lenient = CompareLimits { latency: 0.5, ..limits };
        assert!(compare(&before, &report(1_400, 4.0, 20_000.0), &lenient).holds);
    }

    #[test]
    fn what_the_first_ones_own_runs_reach_is_unclear_and_does_not_fail() {
        let spread = Spread { min: 900.0, median: 1_000.0, max: 1_300.0 };
        let spread = Spreads { publish_to_delivered_us_p99: Some(spread), ..Spreads::default() };
        let runs = vec![RunFigures::default(); 3];
        let before = Report { spread, runs: runs.clone(), ..report(1_000, 4.0, 20_000.0) };
        let limits = CompareLimits::default();
        let within = compare(&before, &report(1_250, 4.0, 20_000.0), &limits);
        assert!(within.holds && verdict(&within, "publish_to_delivered_us.p99") == Verdict::Unclear);
        assert!(!compare(&before, &report(1_350, 4.0, 20_000.0), &limits).holds, "beyond all of them");
        let once = Report { runs: runs[..1].to_vec(), ..before };
        assert!(!compare(&once, &report(1_250, 4.0, 20_000.0), &limits).holds, "one run has no spread");
    }

    #[test]
    fn runs_that_are_not_valid_or_of_another_load_do_not_compare() {
        let before = report(1_000, 4.0, 20_000.0);
        let invalid = Report { valid: false, invalid_because: vec!["late".to_owned()], ..before.clone() };
        let comparison = compare(&before, &invalid, &CompareLimits::default());
        assert_eq!(
            (comparison.holds, &comparison.problems[..]),
            (false, &["the second is not valid: late".to_owned()][..])
        );
        let mut other = before.clone();
        other.setup.options.rate = Some(9);
        let comparison = compare(&before, &other, &CompareLimits::default());
        assert!(!comparison.holds && comparison.problems[0].contains("rate null and 9"), "{comparison:?}");
        let mut repeated = before.clone();
        repeated.setup.options.repeat = 5;
        repeated.setup.host = "elsewhere".to_owned();
        let comparison = compare(&before, &repeated, &CompareLimits::default());
        assert!(
            comparison.holds && comparison.differences.len() == 1,
            "more runs of the same load compare: {comparison:?}"
        );
    }

    #[test]
    fn a_figure_that_only_one_of_them_has_fails() {
        let before = report(1_000, 4.0, 20_000.0);
        let after = Report { node_cpu_us_per_message: None, ..before.clone() };
        let comparison = compare(&before, &after, &CompareLimits::default());
        assert!(!comparison.holds && verdict(&comparison, "node_cpu_us_per_message") == Verdict::Missing);
    }
}
