//! `creto bench compare`: one run against another, with a verdict.

use std::io::Write;
use std::path::Path;

use creto_loadgen::{CompareLimits, Comparison, REPORT_FORMAT, Report, Verdict, compare};

use crate::args::bench::BenchCompareArgs;
use crate::exit::{Exit, Failure};
use crate::terminal::{Align, BAD, CAUTION, Columns, GOOD, print_json, stdout};

/// A report is not larger: a week of seconds.
const REPORT_BYTES_MAX: u64 = 512 << 20;

pub(super) fn run(args: &BenchCompareArgs) -> Result<Exit, Failure> {
    let mut shares = [0.0; 3];
    for (share, (name, percent)) in
        shares.iter_mut().zip([("latency", args.max_latency), ("cpu", args.max_cpu), ("rate", args.max_rate)])
    {
        if !(0.0..=100_000.0).contains(&percent) {
            let what = format!("--max-{name} {percent} is no limit");
            return Err(Failure::new(Exit::Usage, what, "give percent, from 0 on"));
        }
        *share = percent / 100.0;
    }
    let [latency, cpu, rate] = shares;
    let (before, after) = (read(&args.before)?, read(&args.after)?);
    let comparison = compare(&before, &after, &CompareLimits { latency, cpu, rate });
    if args.json {
        print_json(&serde_json::to_value(&comparison).expect("a comparison is plain data"))?;
    } else {
        print(&comparison)?;
    }
    Ok(if comparison.holds { Exit::Ok } else { Exit::Found })
}

/// Reads a report of a run.
pub(super) fn read(path: &Path) -> Result<Report, Failure> {
    let unreadable = |error: std::io::Error| Failure::file("read", path, &error);
    if std::fs::metadata(path).map_err(unreadable)?.len() > REPORT_BYTES_MAX {
        return Err(not_a_report(path, "it is too large"));
    }
    let bytes = std::fs::read(path).map_err(unreadable)?;
    let value: serde_json::Value =
        serde_json::from_slice(&bytes).map_err(|error| not_a_report(path, &error.to_string()))?;
    // What a search printed has its report inside.
    let value = value.get("best").filter(|best| best.is_object()).cloned().unwrap_or(value);
    match value.get("format").and_then(serde_json::Value::as_u64) {
        Some(format) if format == u64::from(REPORT_FORMAT) => {}
        Some(format) => {
            return Err(not_a_report(path, &format!("its format is {format}, this version reads {REPORT_FORMAT}")));
        }
        None => return Err(not_a_report(path, "it says no format")),
    }
    serde_json::from_value(value).map_err(|error| not_a_report(path, &error.to_string()))
}

fn not_a_report(path: &Path, why: &str) -> Failure {
    let what = format!("{} is no report of a run: {why}", path.display());
    Failure::new(Exit::Usage, what, "make one with `creto bench run --json > FILE`")
}

fn print(comparison: &Comparison) -> std::io::Result<()> {
    let mut out = stdout();
    let mut table = Columns::new(&[
        ("figure", Align::Left),
        ("before", Align::Right),
        ("after", Align::Right),
        ("change", Align::Right),
        ("limit", Align::Right),
        ("", Align::Left),
    ]);
    for compared in &comparison.figures {
        let value = |value: Option<f64>| match value {
            None => "-".to_owned(),
            Some(value) if value >= 1_000.0 => format!("{value:.0}"),
            Some(value) => format!("{value:.2}"),
        };
        let change = compared.change.map_or_else(|| "-".to_owned(), |change| format!("{:+.1} %", change * 100.0));
        table.add([
            compared.figure.to_owned(),
            value(compared.before),
            value(compared.after),
            change,
            format!("{:.1} %", compared.limit * 100.0),
            compared.verdict.as_str().to_owned(),
        ]);
    }
    table.write(&mut out)?;
    writeln!(out)?;
    for difference in &comparison.differences {
        writeln!(out, "{CAUTION}differs{CAUTION:#}: {difference}")?;
    }
    for problem in &comparison.problems {
        writeln!(out, "{BAD}problem{BAD:#}: {problem}")?;
    }
    let worse = comparison.figures.iter().filter(|compared| compared.verdict == Verdict::Worse).count();
    match (comparison.holds, worse) {
        (true, _) => writeln!(out, "{GOOD}holds{GOOD:#}: nothing is worse by more than its limit"),
        (false, 0) => writeln!(out, "{BAD}does not compare{BAD:#}"),
        (false, count) => writeln!(out, "{BAD}worse{BAD:#}: {count} by more than their limits"),
    }
}
