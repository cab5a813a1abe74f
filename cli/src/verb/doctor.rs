//! `creto doctor`: is this machine fit for a node, and if not, which command makes it so.
//!
//! `facts` asks the machine, `judge` says what the answers mean (a pure function, tested for machines nobody here
//! owns), `disk` measures the device that the log is on. Printing is here.

pub(crate) mod disk;
mod facts;
mod judge;
mod pair;

use std::io::Write;
use std::path::Path;

use creto_io::Durability;
use creto_io::probe::ProbeResult;
use creto_node::config::Config;
use serde_json::json;

use crate::args::{DoctorArgs, Global};
use crate::exit::{Exit, Failure};
use crate::terminal::{BAD, CAUTION, DIM, GOOD, LITERAL, STRONG, print_json, stdout, wrap};
use facts::Facts;

/// Width of the text beside the names.
const TEXT_CHARS_MAX: usize = 84;

/// How a finding is to be taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum State {
    Ok,
    /// The node runs, but slower or less safely than this machine could.
    Warn,
    /// The node does not start, or must not.
    Fail,
}

/// One line of the doctor's report.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Finding {
    name: &'static str,
    state: State,
    text: String,
    /// A command to copy, or an edit to make; empty when there is nothing to do.
    fix: String,
}

impl Finding {
    fn ok(name: &'static str, text: impl Into<String>) -> Self {
        Self { name, state: State::Ok, text: text.into(), fix: String::new() }
    }

    fn warn(name: &'static str, text: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { name, state: State::Warn, text: text.into(), fix: fix.into() }
    }

    fn fail(name: &'static str, text: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { name, state: State::Fail, text: text.into(), fix: fix.into() }
    }
}

pub(crate) fn run(global: &Global, args: &DoctorArgs) -> Result<Exit, Failure> {
    let (config, from_file) = global.load_config_or_default()?;
    let file = from_file.then(|| global.config_path());
    let facts = Facts::gather(&config, file, args.probe).map_err(|error| {
        Failure::new(Exit::System, format!("this machine cannot be described: {error}"), "run it on Linux, with /proc")
    })?;
    let findings = judge::judge(&config, &facts);
    assert!(
        findings.iter().all(|finding| finding.state == State::Ok || !finding.fix.is_empty()),
        "a finding says what to do"
    );
    let worst = findings.iter().map(|finding| finding.state).max().unwrap_or(State::Ok);
    if args.json {
        print_json(&report(&facts, &findings))?;
    } else {
        print(&facts, &findings)?;
    }
    Ok(exit(worst))
}

/// The report that `--json` prints, for whoever gathers what there is to know.
pub(crate) fn examined(config: &Config, file: Option<&Path>) -> std::io::Result<serde_json::Value> {
    let facts = Facts::gather(config, file, false)?;
    Ok(report(&facts, &judge::judge(config, &facts)))
}

/// As checks of monitoring systems end: 1 is a warning, 2 is what has to be mended. It is the one verb that tells the two apart by its
/// status, for it is the one that whoever sets a machine up runs again and again.
fn exit(worst: State) -> Exit {
    match worst {
        State::Ok => Exit::Ok,
        State::Warn => Exit::Found,
        State::Fail => Exit::Usage,
    }
}

fn report(facts: &Facts, findings: &[Finding]) -> serde_json::Value {
    let finding = |finding: &Finding| {
        let state = match finding.state {
            State::Ok => "ok",
            State::Warn => "warn",
            State::Fail => "fail",
        };
        json!({ "name": finding.name, "state": state, "text": finding.text, "fix": finding.fix })
    };
    let latency = |row: &ProbeResult| {
        json!({
            "block_bytes": row.block_bytes,
            "in_flight": row.in_flight,
            "durable_by": match row.durability {
                Durability::Fdatasync => "fdatasync",
                Durability::Dsync => "o_dsync",
            },
            "writes": row.writes,
            "p50_us": row.p50_us,
            "p99_us": row.p99_us,
            "max_us": row.max_us,
            "bytes_per_s": row.bytes_per_s,
        })
    };
    let latencies = facts.disk.probe.as_ref().map(|probe| probe.results.iter().map(latency).collect::<Vec<_>>());
    let count = |state| findings.iter().filter(|finding| finding.state == state).count();
    json!({
        "ok": findings.iter().all(|finding| finding.state != State::Fail),
        "warnings": count(State::Warn),
        "failures": count(State::Fail),
        "kernel": facts.kernel,
        "cpus": facts.host.cpus_text(),
        "memory_bytes": facts.host.memory_bytes,
        "findings": findings.iter().map(finding).collect::<Vec<_>>(),
        "disk_latency": latencies.unwrap_or_default(),
    })
}

fn print(facts: &Facts, findings: &[Finding]) -> std::io::Result<()> {
    let mut out = stdout();
    let cpus = facts.host.cpus.len();
    let memory_gib = facts.host.memory_bytes as f64 / f64::from(1 << 30);
    writeln!(
        out,
        "{STRONG}creto doctor{STRONG:#}  {DIM}Linux {} · {cpus} CPU{} · {memory_gib:.1} GiB{DIM:#}\n",
        facts.kernel,
        if cpus == 1 { "" } else { "s" }
    )?;
    let width = findings.iter().map(|finding| finding.name.len()).max().unwrap_or(0);
    for Finding { name, state, text, fix } in findings {
        let (style, word) = match state {
            State::Ok => (GOOD, "ok  "),
            State::Warn => (CAUTION, "warn"),
            State::Fail => (BAD, "fail"),
        };
        let mut lines = wrap(text, TEXT_CHARS_MAX).into_iter();
        let first = lines.next().unwrap_or_default();
        writeln!(out, "  {style}{word}{style:#}  {name:width$}  {first}")?;
        for line in lines {
            writeln!(out, "        {:width$}  {line}", "")?;
        }
        if !fix.is_empty() {
            writeln!(out, "        {:width$}  {DIM}fix:{DIM:#} {LITERAL}{fix}{LITERAL:#}", "")?;
        }
    }
    let count = |state| findings.iter().filter(|finding| finding.state == state).count();
    let (ok, warnings, failures) = (count(State::Ok), count(State::Warn), count(State::Fail));
    let verdict = match (failures, warnings) {
        (0, 0) => format!("{GOOD}Ready.{GOOD:#} {ok} checks, all ok."),
        (0, _) => format!("{GOOD}Ready{GOOD:#}, with {warnings} thing{} to look at.", plural(warnings)),
        _ => format!("{BAD}Not ready{BAD:#}: {failures} thing{} to fix.", plural(failures)),
    };
    writeln!(out, "\n{verdict}")
}

fn plural(count: usize) -> &'static str {
    if count == 1 { "" } else { "s" }
}
