//! `creto-powercut`: kill cycles of a node on a disk whose power is cut at each kill (`scripts/power-cuts.sh`).
#![forbid(unsafe_code)]

use std::error::Error;
use std::path::PathBuf;
use std::process::{Command, ExitCode};

use clap::{Parser, Subcommand};
use creto_powercut::{Keep, RunOptions, keep_of, serve_from_environment, what_is_missing};

/// The same status as `creto` ends with when it found something.
const FOUND: u8 = 1;
/// Something is missing here.
const SYSTEM: u8 = 3;

#[derive(Parser)]
#[command(about = "Cuts the power of a node's disk under load, over and over, and counts")]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Be the drive: started by the others.
    #[command(hide = true)]
    Device,
    /// Run `creto kill-cycles` on such a disk.
    Run(RunArgs),
}

#[derive(clap::Args)]
struct RunArgs {
    /// The binary under test.
    #[arg(long, value_name = "FILE")]
    creto: PathBuf,
    /// How many times.
    #[arg(long, default_value_t = 200)]
    cuts: u64,
    /// Decides moments and what is left of unsynced writes.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// What a cut leaves of what was not synced.
    #[arg(long, value_parser = read_keep, default_value = "any", value_name = "any|nothing|first|writes|sectors")]
    keep: Keep,
    /// Ask the node for a bug, skip-sync or sync-not-awaited, and succeed only if that loses messages. It has to be built
    /// with the feature planted-bugs.
    #[arg(long, value_name = "BUG")]
    planted: Option<String>,
    /// Bytes of each payload.
    #[arg(long, default_value_t = 1024)]
    size: u32,
}

fn read_keep(name: &str) -> Result<Keep, String> {
    keep_of(name).ok_or_else(|| format!("{name} is none of any, nothing, first, writes, sectors"))
}

fn main() -> ExitCode {
    match Cli::parse().verb {
        Verb::Device => match serve_from_environment() {
            Some(Ok(())) => ExitCode::SUCCESS,
            Some(Err(error)) => failed(&error),
            None => failed(&"the environment describes no drive; `creto-powercut run` starts one"),
        },
        Verb::Run(args) => run(&args).unwrap_or_else(|error| failed(&error)),
    }
}

fn failed(error: &dyn std::fmt::Display) -> ExitCode {
    eprintln!("failed: {error}");
    ExitCode::from(SYSTEM)
}

fn run(args: &RunArgs) -> Result<ExitCode, Box<dyn Error>> {
    if let Some(missing) = what_is_missing() {
        return Err(format!("power cuts need {missing}").into());
    }
    let folder = tempfile::Builder::new().prefix("creto-power-cuts-").tempdir()?;
    let mut device = Command::new(std::env::current_exe()?);
    device.arg("device");
    let mut options = RunOptions::new(&args.creto, args.cuts, args.seed);
    (options.keep, options.payload_bytes) = (args.keep, args.size);
    options.planted_bug.clone_from(&args.planted);
    let outcome = creto_powercut::run(folder.path(), &options, device)?;
    println!("{:#}", outcome.report);
    let problems = outcome.problems();
    problems.iter().for_each(|problem| eprintln!("found: {problem}"));
    let as_expected = if args.planted.is_some() { outcome.lost() > 0 } else { problems.is_empty() };
    Ok(if as_expected { ExitCode::SUCCESS } else { ExitCode::from(FOUND) })
}
