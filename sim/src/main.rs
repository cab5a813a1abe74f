//! `creto-sim`: runs seeds and says what they found.
#![forbid(unsafe_code)]

use std::cell::Cell;
use std::ops::Range;
use std::process::ExitCode;

use clap::Parser;
use creto_sim::{Fault, Options, Outcome, PlantedBug, Pool, Summary, run_seed};

/// Runs a whole node on faulty disks and a faulty network, in virtual time, one seed after the other.
///
/// Exit status: 0 every rule held; 1 a rule was broken; 2 the command line is wrong; 3 vacuous: something was never
/// compared, or a kind of fault was never injected.
#[derive(Debug, Parser)]
#[command(name = "creto-sim", version)]
struct Arguments {
    /// Seeds to run: `A..B` without B, or one seed.
    #[arg(long, default_value = "0..1000", value_parser = parse_seeds)]
    seeds: Range<u64>,
    /// Steps of each seed before its faults end.
    #[arg(long, default_value_t = Options::default().steps)]
    steps: u64,
    /// Shards of the node; each seed draws 1 to 3 when absent.
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..=64))]
    shards: Option<u16>,
    /// Print one JSON object at the end instead of text.
    #[arg(long)]
    json: bool,
    /// Plant a bug around the product: the rules must catch it.
    #[arg(long, value_enum)]
    planted: Option<PlantedBug>,
    /// Stop at so many seeds that broke a rule.
    #[arg(long, default_value_t = 3)]
    violations_max: usize,
}

const BROKEN: u8 = 1;
const VACUOUS: u8 = 3;

thread_local! {
    static SEED: Cell<u64> = const { Cell::new(0) };
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    // An assertion of the product is a verdict too, and must name its seed before the process ends.
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        report(panic);
        eprintln!("seed {} ended in this panic; run `creto-sim --seeds {0}` to repeat it", SEED.get());
    }));
    let options = Options { steps: arguments.steps, shard_count: arguments.shards, planted: arguments.planted };
    let pool = Pool::new();
    let mut summary = Summary::default();
    let count = arguments.seeds.end - arguments.seeds.start;
    for seed in arguments.seeds.clone() {
        SEED.set(seed);
        let outcome = run_seed(&pool, seed, &options);
        if outcome.violation.is_some() && !arguments.json {
            print_violation(&outcome, &options);
        }
        summary.add(outcome);
        if summary.violations.len() >= arguments.violations_max {
            break;
        }
        if !arguments.json && count >= 10 && summary.seeds % (count / 10).max(1) == 0 {
            eprintln!("{} of {count} seeds, {} steps", summary.seeds, summary.tally.steps);
        }
    }
    let vacuous = summary.vacuous();
    if arguments.json {
        print_json(&summary, vacuous.as_deref());
    } else {
        print_summary(&summary, vacuous.as_deref());
    }
    match (summary.violations.is_empty(), vacuous) {
        (false, _) => ExitCode::from(BROKEN),
        (true, Some(_)) => ExitCode::from(VACUOUS),
        (true, None) => ExitCode::SUCCESS,
    }
}

fn parse_seeds(text: &str) -> Result<Range<u64>, String> {
    let number = |text: &str| text.parse::<u64>().map_err(|error| format!("`{text}` is no seed: {error}"));
    let range = match text.split_once("..") {
        Some((start, end)) => number(start)?..number(end)?,
        None => {
            let seed = number(text)?;
            seed..seed.checked_add(1).ok_or("the last seed is too large")?
        }
    };
    if range.is_empty() {
        Err("there is no seed in this range; write A..B with A below B".to_owned())
    } else {
        Ok(range)
    }
}

fn print_violation(outcome: &Outcome, options: &Options) {
    let Some((violation, trace)) = &outcome.violation else { return };
    println!("seed {} breaks a rule: {violation}", outcome.seed);
    for line in trace {
        println!("  {line}");
    }
    println!("  => {violation}");
    let planted = options.planted.map(|_| " with the same --planted").unwrap_or_default();
    println!("repeat it with --seeds {} --steps {}{planted}\n", outcome.seed, options.steps);
}

fn print_summary(summary: &Summary, vacuous: Option<&str>) {
    println!("seeds                     {:>12}", summary.seeds);
    for (name, count) in summary.tally.entries() {
        println!("{:<25} {count:>12}", name.replace('_', " "));
    }
    println!("faults injected");
    for fault in Fault::ALL {
        println!("  {:<23} {:>12}", fault.name(), summary.faults.of(fault));
    }
    println!("seeds that broke a rule   {:>12}", summary.violations.len());
    if let Some(vacuous) = vacuous {
        println!("vacuous: {vacuous}");
    }
}

fn print_json(summary: &Summary, vacuous: Option<&str>) {
    let faults: serde_json::Map<String, serde_json::Value> =
        Fault::ALL.into_iter().map(|fault| (fault.name().to_owned(), summary.faults.of(fault).into())).collect();
    let counts: serde_json::Map<String, serde_json::Value> =
        summary.tally.entries().into_iter().map(|(name, count)| (name.to_owned(), count.into())).collect();
    let violations: Vec<serde_json::Value> = summary
        .violations
        .iter()
        .filter_map(|outcome| {
            let (violation, trace) = outcome.violation.as_ref()?;
            Some(serde_json::json!({
                "seed": outcome.seed,
                "rule": format!("{:?}", violation.rule),
                "text": violation.text,
                "trace": trace,
            }))
        })
        .collect();
    let report = serde_json::json!({
        "seeds": summary.seeds,
        "counts": counts,
        "faults": faults,
        "violations": violations,
        "vacuous": vacuous,
    });
    println!("{report:#}");
}
