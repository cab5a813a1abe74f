//! `creto bench`: load from agents of its own, what became of it, and what parts of the product cost on this machine.

mod compare;
mod control;
pub(crate) mod cpus;
mod crypto;
mod driven;
mod peers;
mod processes;
mod run;
mod shards;
mod show;
mod store;
mod targets;
mod verify;
pub(crate) mod worker;

use std::time::Duration;

use crate::args::Global;
use crate::args::bench::{BenchArgs, BenchVerb};
use crate::exit::{Exit, Failure};

pub(crate) fn run(global: &Global, args: &BenchArgs) -> Result<Exit, Failure> {
    match &args.verb {
        BenchVerb::Run(args) => run::run(global, args),
        BenchVerb::Compare(args) => compare::run(args),
        BenchVerb::Peers(args) => peers::run(args),
        BenchVerb::Verify(args) => verify::run(global, args),
        BenchVerb::Control(args) => control::run(args),
        BenchVerb::Crypto(args) => crypto::run(args),
        BenchVerb::Store(args) => store::run(global, args),
    }
}

/// A runtime for one conversation with a node that runs.
fn runtime() -> Result<tokio::runtime::Runtime, Failure> {
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::new(Exit::System, format!("no runtime can be started: {error}"), "check `ulimit -a`"))
}

/// `30s`, `2m`, `500ms`, `800us`, or seconds without a unit.
pub(crate) fn parse_duration(text: &str) -> Result<Duration, String> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let count: u64 = digits.parse().map_err(|_| format!("`{text}` is no duration; write 500ms, 30s or 2m"))?;
    match &text[digits.len()..] {
        "us" => Ok(Duration::from_micros(count)),
        "ms" => Ok(Duration::from_millis(count)),
        "" | "s" => Ok(Duration::from_secs(count)),
        "m" => Ok(Duration::from_secs(count.saturating_mul(60))),
        unit => Err(format!("`{unit}` is no unit of time; use us, ms, s or m")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_units() {
        assert_eq!(parse_duration("800us"), Ok(Duration::from_micros(800)));
        assert_eq!(parse_duration("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(parse_duration("30s"), Ok(Duration::from_secs(30)));
        assert_eq!(parse_duration("7"), Ok(Duration::from_secs(7)));
        assert_eq!(parse_duration("2m"), Ok(Duration::from_secs(120)));
        assert!(parse_duration("2h").is_err());
        assert!(parse_duration("s").is_err());
    }
}
