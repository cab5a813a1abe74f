//! What a run found, as a person reads it.

use std::io::Write;

use creto_agent::RejectCode;
use creto_loadgen::{Percentiles, Report, Spread, Step};

use crate::args::bench::BenchRunArgs;
use crate::terminal::{Align, BAD, CAUTION, Columns, DIM, GOOD, STRONG, grouped, stdout};

/// Microseconds as a person reads them.
#[allow(clippy::cast_precision_loss, reason = "latencies are far below 2^52")]
pub(super) fn micros(us: u64) -> String {
    match us {
        0..1_000 => format!("{us} us"),
        1_000..1_000_000 => format!("{:.2} ms", us as f64 / 1e3),
        _ => format!("{:.2} s", us as f64 / 1e6),
    }
}

pub(super) fn report(report: &Report, args: &BenchRunArgs) -> std::io::Result<()> {
    let mut out = stdout();
    head(&mut out, report)?;
    counts(&mut out, report)?;
    times(&mut out, report)?;
    if report.runs.len() > 1 {
        spreads(&mut out, report)?;
    }
    costs(&mut out, report)?;
    for note in &report.notes {
        writeln!(out, "{CAUTION}note{CAUTION:#}: {note}")?;
    }
    for (what, path) in [("page", &args.html), ("table", &args.csv), ("histograms", &args.hdr)] {
        if let Some(path) = path {
            writeln!(out, "{DIM}{what}: {}{DIM:#}", path.display())?;
        }
    }
    for reason in &report.invalid_because {
        writeln!(out, "{BAD}not valid{BAD:#}: {reason}")?;
    }
    if !report.valid {
        return Ok(());
    }
    match &args.ledger {
        Some(ledger) => {
            let files_only = if report.setup.node.is_own { " --files-only" } else { "" };
            let ledger = ledger.display();
            writeln!(out, "{GOOD}valid{GOOD:#}; later: creto bench verify --ledger {ledger}{files_only}")
        }
        None => writeln!(out, "{GOOD}valid{GOOD:#}; with --ledger FILE it can be verified after a crash"),
    }
}

fn head(out: &mut impl Write, report: &Report) -> std::io::Result<()> {
    let (setup, options) = (&report.setup, &report.setup.options);
    let load = match (options.rate, options.closed_loop) {
        (Some(rate), _) => format!("{} messages/s, {} arrivals", grouped(rate), options.arrival),
        (None, count) => format!("closed loop of {}", grouped(count.unwrap_or(0) as u64)),
    };
    let whose = if setup.node.is_own { "a node of its own" } else { setup.node.address.as_str() };
    let durability = report.durability.as_deref().unwrap_or("durability not told");
    writeln!(
        out,
        "{DIM}{} scenario, {load}, {} s after {} s of warm-up, {} bytes, {} connections to {} agents, seed {}\n\
         {whose}: {durability}; {}, {} CPUs, Linux {}{DIM:#}\n",
        report.scenario,
        options.duration_s,
        options.warmup_s,
        options.size,
        options.connections,
        options.agents,
        setup.seed,
        setup.cpu_model,
        setup.cores,
        setup.kernel
    )
}

fn counts(out: &mut impl Write, report: &Report) -> std::io::Result<()> {
    let mut counts = Columns::new(&[("messages", Align::Left), ("count", Align::Right)]);
    let mut rows = vec![
        ("sent", report.sent),
        (
            if report.setup.options.ledger { "acknowledged (durable, in the ledger)" } else { "acknowledged" },
            report.acknowledged,
        ),
        ("delivered", report.delivered),
    ];
    if report.deliveries != report.delivered {
        rows.push(("deliveries", report.deliveries));
    }
    rows.extend([
        ("lost", report.lost),
        ("delivered twice", report.duplicated),
        ("outcome unknown", report.unknown),
        ("duplicates hidden", report.duplicates_hidden),
        ("key encapsulations", report.encapsulations),
        ("signed batches", report.signatures),
    ]);
    for (name, count) in rows {
        counts.add([name.to_owned(), grouped(count)]);
    }
    for (code, count) in &report.refused {
        let name = RejectCode::from_u16(*code).map_or("unknown", RejectCode::name);
        counts.add([format!("refused: {code} {name}"), grouped(*count)]);
    }
    counts.write(out)?;
    writeln!(out)
}

fn times(out: &mut impl Write, report: &Report) -> std::io::Result<()> {
    let mut times = Columns::new(&[
        ("from the due time", Align::Left),
        ("p50", Align::Right),
        ("p90", Align::Right),
        ("p99", Align::Right),
        ("p99.9", Align::Right),
        ("max", Align::Right),
    ]);
    let mut row = |name: &str, of: &Percentiles| {
        let us = |us: Option<u64>| us.map_or_else(|| "-".to_owned(), micros);
        times.add([name.to_owned(), us(of.p50), us(of.p90), us(of.p99), us(of.p99_9), us(of.max)]);
    };
    row("to durable", &report.publish_to_durable_us);
    row("to delivered", &report.publish_to_delivered_us);
    row("to settled", &report.publish_to_settled_us);
    row("the generator's own lateness", &report.generator_late_us);
    times.write(out)?;
    writeln!(out)
}

fn spreads(out: &mut impl Write, report: &Report) -> std::io::Result<()> {
    let mut table = Columns::new(&[
        ("of each run", Align::Left),
        ("min", Align::Right),
        ("median", Align::Right),
        ("max", Align::Right),
    ]);
    let spread = &report.spread;
    let mut row = |name: &str, of: Option<Spread>| {
        if let Some(Spread { min, median, max }) = of {
            let [min, median, max] = [min, median, max].map(|value| format!("{value:.2}"));
            table.add([name.to_owned(), min, median, max]);
        }
    };
    row("achieved, messages/s", spread.achieved_rate);
    row("to durable p99, us", spread.publish_to_durable_us_p99);
    row("to delivered p50, us", spread.publish_to_delivered_us_p50);
    row("to delivered p99, us", spread.publish_to_delivered_us_p99);
    row("node CPU a message, us", spread.node_cpu_us_per_message);
    table.write(out)?;
    writeln!(out)
}

fn costs(out: &mut impl Write, report: &Report) -> std::io::Result<()> {
    let us = |us: Option<f64>| us.map_or_else(|| "not known".to_owned(), |us| format!("{us:.2} us"));
    let offered = report.offered_rate.map_or_else(String::new, |rate| format!(" of {rate:.0} offered"));
    writeln!(out, "{STRONG}{:.0} messages/s{STRONG:#} achieved{offered}", report.achieved_rate)?;
    let (node, generator) = (us(report.node_cpu_us_per_message), us(report.generator_cpu_us_per_message));
    writeln!(out, "CPU of a message: node {STRONG}{node}{STRONG:#}, generator (both ends) {generator}")?;
    if report.deliveries != report.delivered {
        writeln!(out, "CPU of a delivery: node {}", us(report.node_cpu_us_per_delivery))?;
    }
    if let Some(drain) = &report.drain {
        let (count, seconds) = (grouped(drain.deliveries), drain.seconds);
        writeln!(out, "read after they were away: {count} in {seconds:.2} s, {:.0}/s", drain.per_s)?;
    }
    Ok(())
}

/// A step of the search, on standard error: standard output has the result.
pub(super) fn step(step: &Step) {
    let p99 = step.publish_to_delivered_us_p99.map_or_else(|| "-".to_owned(), micros);
    let verdict = match step.holds {
        true => format!("{GOOD}holds{GOOD:#}"),
        false => format!("{CAUTION}does not hold{CAUTION:#}: {}", step.because.join("; ")),
    };
    let line = format!("{:>9}/s  p99 {p99:>9}  {verdict}\n", grouped(step.rate));
    // Nobody is left to tell when standard error is closed.
    let _ = anstream::stderr().lock().write_all(line.as_bytes());
}

pub(super) fn found(rate: u64, p99_us: u64, best: Option<&Report>, args: &BenchRunArgs) -> std::io::Result<()> {
    let mut out = stdout();
    let limit = micros(p99_us);
    match best {
        None => writeln!(out, "{BAD}no rate holds{BAD:#} with p99 within {limit}; begin lower with --rate"),
        Some(best) => {
            report(best, args)?;
            let rate = grouped(rate);
            writeln!(out, "\n{STRONG}{rate} messages/s{STRONG:#} hold with p99 of publish to delivered within {limit}")
        }
    }
}
