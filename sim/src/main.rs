//! `creto-sim`: runs seeds and says what they found.
#![forbid(unsafe_code)]

use std::cell::Cell;
use std::io::IsTerminal as _;
use std::ops::Range;
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use clap::Parser;
use creto_sim::{Fault, Options, Outcome, PlantedBug, Pool, Strike, StrikeKind, Summary, run_every_step, run_seed};

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
    /// Repeat each seed with this fault at its first step, its second, its third ...; with fewer `--steps`, say 200.
    #[arg(long, value_enum, value_name = "KIND", conflicts_with = "strike")]
    every_step: Option<StrikeKind>,
    /// One fault at one step beside those of the seed, as `--every-step` names it: kill@17.
    #[arg(long)]
    strike: Option<Strike>,
    /// Threads to run seeds on. What is found does not depend on it.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=1024))]
    jobs: u16,
    /// Print one JSON object at the end instead of text.
    #[arg(long)]
    json: bool,
    /// Plant a bug: the rules must catch it. Those inside the product need a build with the feature `planted-bugs`.
    #[arg(long, value_enum)]
    planted: Option<PlantedBug>,
    /// Stop at so many seeds that broke a rule.
    #[arg(long, default_value_t = 3)]
    violations_max: usize,
}

const BROKEN: u8 = 1;
const VACUOUS: u8 = 3;
/// Seeds that a thread takes before what all have found is put together.
const SEEDS_PER_TURN: u64 = 32;
/// How often the line with the progress is written again.
const PROGRESS_EVERY: Duration = Duration::from_millis(500);

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
    let options = Options {
        steps: arguments.steps,
        shard_count: arguments.shards,
        planted: arguments.planted,
        strike: arguments.strike,
    };
    let summary = run_all(&arguments, &options);
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

/// Runs the seeds in turns, each on all threads, and adds what they found in the order of the seeds: the same whatever the
/// number of threads.
fn run_all(arguments: &Arguments, options: &Options) -> Summary {
    let pool = Pool::new();
    let mut summary = Summary::default();
    let mut progress = Progress::new(arguments.seeds.end - arguments.seeds.start);
    let jobs = u64::from(arguments.jobs);
    let mut start = arguments.seeds.start;
    while start < arguments.seeds.end && summary.violations.len() < arguments.violations_max {
        let end = arguments.seeds.end.min(start.saturating_add(jobs * SEEDS_PER_TURN));
        for outcome in run_turn(&pool, start..end, options, arguments) {
            if outcome.violation.is_some() && !arguments.json {
                progress.clear();
                print_violation(&outcome, options);
            }
            summary.add(outcome);
            if summary.violations.len() >= arguments.violations_max {
                break;
            }
        }
        progress.show(&summary);
        start = end;
    }
    progress.clear();
    summary
}

/// Runs these seeds on so many threads; what they found, in their order.
fn run_turn(pool: &Pool, seeds: Range<u64>, options: &Options, arguments: &Arguments) -> Vec<Outcome> {
    let next = AtomicU64::new(seeds.start);
    let work = || {
        let mut outcomes = Vec::new();
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= seeds.end {
                return outcomes;
            }
            SEED.set(seed);
            match arguments.every_step {
                None => outcomes.push(run_seed(pool, seed, options)),
                Some(kind) => outcomes.append(&mut run_every_step(pool, seed, options, kind)),
            }
        }
    };
    let mut outcomes = std::thread::scope(|scope| {
        let others: Vec<_> = (1..arguments.jobs).map(|_| scope.spawn(work)).collect();
        let mut outcomes = work();
        for other in others {
            // A panic there has said its seed already.
            outcomes.extend(other.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
        }
        outcomes
    });
    // Stable: the runs of a seed stay in their order.
    outcomes.sort_by_key(|outcome| outcome.seed);
    outcomes
}

/// One line that is written over and over, on a terminal only.
struct Progress {
    is_shown: bool,
    seeds: u64,
    started: Instant,
    written: Option<Instant>,
}

impl Progress {
    fn new(seeds: u64) -> Self {
        Self { is_shown: std::io::stderr().is_terminal(), seeds, started: Instant::now(), written: None }
    }

    fn show(&mut self, summary: &Summary) {
        let is_due = self.written.is_none_or(|written| written.elapsed() >= PROGRESS_EVERY);
        if !self.is_shown || !is_due {
            return;
        }
        self.written = Some(Instant::now());
        let done = summary.seeds;
        let elapsed_s = self.started.elapsed().as_secs().max(1);
        let left = Duration::from_secs((self.seeds - done).saturating_mul(elapsed_s) / done.max(1));
        let (minutes, seconds) = (left.as_secs() / 60, left.as_secs() % 60);
        let broken = summary.violations.len();
        eprint!(
            "\r\x1b[2K{done} of {} seeds, {} per second, {broken} broke a rule, {minutes} min {seconds:02} s left",
            self.seeds,
            done / elapsed_s
        );
    }

    /// Makes room for what is printed instead.
    fn clear(&mut self) {
        if self.written.take().is_some() {
            eprint!("\r\x1b[2K");
        }
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
    let planted = options.planted.map(|bug| format!(" --planted {}", bug.name())).unwrap_or_default();
    let strike = outcome.strike.map(|strike| format!(" --strike {strike}")).unwrap_or_default();
    println!("repeat it with --seeds {} --steps {}{strike}{planted}\n", outcome.seed, options.steps);
}

fn print_summary(summary: &Summary, vacuous: Option<&str>) {
    println!("{:<27} {:>14}", "seeds", summary.seeds);
    println!("{:<27} {:>14}", "runs", summary.runs);
    println!("{:<27} {:>14}", "events", summary.tally.steps);
    println!("\n{:<27} {:>14}", "compared", "times");
    for (name, count) in summary.tally.entries().into_iter().filter(|(name, _)| *name != "steps") {
        println!("  {:<25} {count:>14}", name.replace('_', " "));
    }
    println!("\n{:<27} {:>14}", "fault", "injected");
    for fault in Fault::ALL {
        println!("  {:<25} {:>14}", fault.name(), summary.faults.of(fault));
    }
    println!("\n{:<27} {:>14}", "seeds that broke a rule", summary.violations.len());
    if let Some(vacuous) = vacuous {
        println!("vacuous: {vacuous}");
    }
}

/// `violations` is how many seeds broke a rule, `broken` says which; `vacuous` whether the series proves nothing, `missing`
/// why.
fn print_json(summary: &Summary, vacuous: Option<&str>) {
    let faults: serde_json::Map<String, serde_json::Value> =
        Fault::ALL.into_iter().map(|fault| (fault.name().to_owned(), summary.faults.of(fault).into())).collect();
    let counts: serde_json::Map<String, serde_json::Value> =
        summary.tally.entries().into_iter().map(|(name, count)| (name.to_owned(), count.into())).collect();
    let broken: Vec<serde_json::Value> = summary
        .violations
        .iter()
        .filter_map(|outcome| {
            let (violation, trace) = outcome.violation.as_ref()?;
            Some(serde_json::json!({
                "seed": outcome.seed,
                "strike": outcome.strike.map(|strike| strike.to_string()),
                "rule": format!("{:?}", violation.rule),
                "text": violation.text,
                "trace": trace,
            }))
        })
        .collect();
    let report = serde_json::json!({
        "seeds": summary.seeds,
        "runs": summary.runs,
        "events": summary.tally.steps,
        "faults": faults,
        "violations": summary.violations.len(),
        "vacuous": vacuous.is_some(),
        "missing": vacuous,
        "counts": counts,
        "broken": broken,
    });
    println!("{report:#}");
}
