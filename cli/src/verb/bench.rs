//! `creto bench`: load from agents of its own, in an open loop, and a ledger that says afterwards what was promised.

mod control;
mod crypto;
mod store;
mod targets;

use std::error::Error;
use std::io::{IsTerminal, Write};
use std::time::Duration;

use creto_agent::{NodeCertificate, RejectCode, SignedKeyRecord, TrustDomain};
use creto_loadgen::{
    Latency, Progress, Report, RunError, RunOptions, Scenario, VerifyError, VerifyOptions, VerifyReport,
};
use creto_service::client::Client;
use indicatif::{ProgressBar, ProgressStyle};

use crate::args::{BenchArgs, BenchRunArgs, BenchVerb, BenchVerifyArgs, Global, ScenarioArg};
use crate::client::{connect_failure, control_failure, keys_failure, resolve};
use crate::exit::{Exit, Failure};
use crate::terminal::{Align, BAD, CAUTION, Columns, DIM, GOOD, grouped, print_json, stdout};

pub(crate) fn run(global: &Global, args: &BenchArgs) -> Result<Exit, Failure> {
    // Sealing and opening run on threads of the SDK; two threads here keep one pair's sockets and timers apart.
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let runtime = runtime.map_err(|error| {
        Failure::new(Exit::System, format!("no runtime can be started: {error}"), "check `ulimit -a`")
    })?;
    match &args.verb {
        BenchVerb::Run(args) => runtime.block_on(load(global, args)),
        BenchVerb::Verify(args) => runtime.block_on(verify(global, args)),
        BenchVerb::Control(args) => control::run(args),
        BenchVerb::Crypto(args) => crypto::run(args),
        BenchVerb::Store(args) => store::run(global, args),
    }
}

async fn load(global: &Global, args: &BenchRunArgs) -> Result<Exit, Failure> {
    let (config, _) = global.load_config_or_default()?;
    let node = resolve(args.node.as_deref(), &config)?;
    let certificate = certificate(args.certificate.as_deref(), &config)?;
    let scenario = match args.scenario {
        ScenarioArg::Direct => Scenario::Direct,
    };
    let trust_domain = TrustDomain::parse(&config.node.trust_domain);
    let options = RunOptions {
        rate_per_s: args.rate,
        duration: args.duration,
        payload_bytes: args.size,
        pairs: args.pairs,
        ledger: args.ledger.clone(),
        trust_domain: trust_domain.map_err(|error| Failure::of(Exit::Usage, &error))?,
        tree_digest: config.crypto.tree_digest,
        ..RunOptions::new(node, certificate, scenario)
    };
    let control = Client::new(config.control_socket());
    // The control socket is the operator's: what it refuses is shown as it says it.
    let refused = std::cell::RefCell::new(None);
    let register = async |record: SignedKeyRecord| -> Result<(), Box<dyn Error + Send + Sync>> {
        match control.register(&record).await {
            Ok(_) => Ok(()),
            Err(error) => {
                let text = error.to_string();
                *refused.borrow_mut() = Some(control_failure(&error));
                Err(text.into())
            }
        }
    };
    let bar = progress_bar(args.json);
    let report = creto_loadgen::run(options, register, |progress| show(&bar, progress)).await;
    bar.finish_and_clear();
    let report = report.map_err(|error| refused.take().unwrap_or_else(|| run_failure(&error)))?;
    if args.json {
        print_json(&serde_json::to_value(&report).expect("a report is plain data"))?;
    } else {
        print(&report, args)?;
    }
    Ok(if report.holds() { Exit::Ok } else { Exit::Found })
}

async fn verify(global: &Global, args: &BenchVerifyArgs) -> Result<Exit, Failure> {
    let mut options = VerifyOptions::new(&args.ledger);
    if !args.files_only {
        let (config, _) = global.load_config_or_default()?;
        let node = resolve(args.node.as_deref(), &config)?;
        options.node = Some((node, certificate(args.certificate.as_deref(), &config)?));
    }
    let report = creto_loadgen::verify(options).await.map_err(|error| verify_failure(&error))?;
    if args.json {
        print_json(&serde_json::to_value(&report).expect("a report is plain data"))?;
    } else {
        print_verified(&report)?;
    }
    Ok(if report.holds() { Exit::Ok } else { Exit::Found })
}

fn certificate(
    given: Option<&std::path::Path>,
    config: &creto_node::config::Config,
) -> Result<NodeCertificate, Failure> {
    let path = given.map_or_else(|| config.certificate(), std::path::Path::to_owned);
    NodeCertificate::from_file(path).map_err(|error| Failure::of(Exit::Usage, &error))
}

fn run_failure(error: &RunError) -> Failure {
    match error {
        RunError::Option(_) => Failure::of(Exit::Usage, error),
        RunError::Keys(error) => keys_failure(error),
        RunError::Connect { source, .. } => connect_failure(source),
        RunError::Register { .. } | RunError::Subscribe { .. } => Failure::of(Exit::Refused, error),
        _ => Failure::of(Exit::System, error),
    }
}

fn verify_failure(error: &VerifyError) -> Failure {
    Failure::of(Exit::System, error)
}

fn progress_bar(json: bool) -> ProgressBar {
    if json || !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template("{bar:32} {pos}/{len}  {msg}");
    ProgressBar::new(0).with_style(style.expect("a constant template"))
}

fn show(bar: &ProgressBar, progress: &Progress) {
    bar.set_length(progress.message_count);
    bar.set_position(progress.delivered);
    bar.set_message(format!("delivered; {} acknowledged", grouped(progress.acknowledged)));
}

fn print(report: &Report, args: &BenchRunArgs) -> std::io::Result<()> {
    let mut out = stdout();
    writeln!(
        out,
        "{DIM}{} scenario, {} messages/s for {:.0} s, {} bytes each, open loop{DIM:#}\n",
        report.scenario,
        grouped(report.rate_per_s),
        report.duration_s,
        grouped(report.payload_bytes as u64)
    )?;
    let mut counts = Columns::new(&[("messages", Align::Left), ("count", Align::Right)]);
    for (name, count) in [
        ("sent", report.sent),
        ("acknowledged (durable, in the ledger)", report.acknowledged),
        ("delivered", report.delivered),
        ("duplicates hidden", report.duplicates_hidden),
        ("delivered twice", report.delivered_twice),
        ("lost", report.lost),
        ("outcome unknown", report.unknown),
        ("key encapsulations", report.encapsulations),
        ("signed batches", report.signatures),
    ] {
        counts.add([name.to_owned(), grouped(count)]);
    }
    for (code, count) in &report.refused {
        let name = RejectCode::from_u16(*code).map_or("unknown", RejectCode::name);
        counts.add([format!("refused: {code} {name}"), grouped(*count)]);
    }
    counts.write(&mut out)?;
    writeln!(out)?;
    let mut times = Columns::new(&[
        ("microseconds from the due time", Align::Left),
        ("p50", Align::Right),
        ("p99", Align::Right),
        ("p99.9", Align::Right),
        ("max", Align::Right),
    ]);
    let mut row = |name: &str, latency: &Latency| {
        times.add([
            name.to_owned(),
            grouped(latency.p50_us),
            grouped(latency.p99_us),
            grouped(latency.p999_us),
            grouped(latency.max_us),
        ]);
    };
    row("to the acknowledgement", &report.acknowledged_latency);
    row("to the application", &report.delivered_latency);
    row("the load generator's own lateness", &report.pacer_late);
    times.write(&mut out)?;
    for warning in &report.warnings {
        writeln!(out, "\n{CAUTION}note{CAUTION:#}: {warning}")?;
    }
    match &args.ledger {
        _ if !report.holds() => writeln!(out, "\n{BAD}failed{BAD:#}: something acknowledged is missing or came twice"),
        Some(ledger) => {
            writeln!(out, "\n{GOOD}holds{GOOD:#}; later: creto bench verify --ledger {}", ledger.display())
        }
        None => writeln!(out, "\n{GOOD}holds{GOOD:#}; with --ledger FILE it can be verified after a crash"),
    }
}

fn print_verified(report: &VerifyReport) -> std::io::Result<()> {
    let mut out = stdout();
    let mut counts = Columns::new(&[("messages", Align::Left), ("count", Align::Right)]);
    for (name, count) in [
        ("acknowledged", report.acknowledged),
        ("delivered", report.delivered),
        ("of those, still in their mailbox", report.read_back),
        ("delivered without an acknowledgement", report.delivered_without_acknowledgement),
        ("delivered twice", report.delivered_twice),
        ("altered", report.altered),
        ("lost", report.lost),
    ] {
        counts.add([name.to_owned(), grouped(count)]);
    }
    counts.write(&mut out)?;
    for id in &report.lost_ids {
        writeln!(out, "{BAD}lost{BAD:#} {id}")?;
    }
    match report.holds() {
        true => writeln!(out, "\n{GOOD}holds{GOOD:#}: every acknowledged message was delivered exactly once"),
        false => writeln!(out, "\n{BAD}failed{BAD:#}: see the rows above that should be zero"),
    }
}

/// `30s`, `2m`, `500ms`, or seconds without a unit.
pub(crate) fn parse_duration(text: &str) -> Result<Duration, String> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let count: u64 = digits.parse().map_err(|_| format!("`{text}` is no duration; write 500ms, 30s or 2m"))?;
    match &text[digits.len()..] {
        "ms" => Ok(Duration::from_millis(count)),
        "" | "s" => Ok(Duration::from_secs(count)),
        "m" => Ok(Duration::from_secs(count.saturating_mul(60))),
        unit => Err(format!("`{unit}` is no unit of time; use ms, s or m")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_units() {
        assert_eq!(parse_duration("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(parse_duration("30s"), Ok(Duration::from_secs(30)));
        assert_eq!(parse_duration("7"), Ok(Duration::from_secs(7)));
        assert_eq!(parse_duration("2m"), Ok(Duration::from_secs(120)));
        assert!(parse_duration("2h").is_err());
        assert!(parse_duration("s").is_err());
    }
}
