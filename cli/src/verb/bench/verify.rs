//! `creto bench verify`: was everything that a run's ledger says is acknowledged delivered, once, in order, as it was sent?

use std::io::Write;

use creto_loadgen::{VerifyError, VerifyOptions, VerifyReport};

use super::runtime;
use crate::args::Global;
use crate::args::bench::BenchVerifyArgs;
use crate::client::{connect_failure, keys_failure, node_certificate, receive_failure, resolve};
use crate::exit::{Exit, Failure};
use crate::terminal::{Align, BAD, Columns, GOOD, grouped, print_json, stdout};

pub(super) fn run(global: &Global, args: &BenchVerifyArgs) -> Result<Exit, Failure> {
    let mut options = VerifyOptions::new(&args.ledger);
    if !args.files_only {
        let (config, _) = global.load_config_or_default()?;
        let node = resolve(args.connect.as_deref(), &config)?;
        options.node = Some((node, node_certificate(args.certificate.as_deref(), &config)?));
    }
    let report = runtime()?.block_on(creto_loadgen::verify(options)).map_err(|error| failure(&error))?;
    if args.json {
        print_json(&serde_json::to_value(&report).expect("a report is plain data"))?;
    } else {
        print(&report)?;
    }
    Ok(if report.holds() { Exit::Ok } else { Exit::Found })
}

fn failure(error: &VerifyError) -> Failure {
    match error {
        VerifyError::Keys(error) => keys_failure(error),
        VerifyError::Connect(error) => connect_failure(error),
        VerifyError::Receive(error) => receive_failure(error),
        _ => Failure::of(Exit::System, error),
    }
}

fn print(report: &VerifyReport) -> std::io::Result<()> {
    let mut out = stdout();
    let mut counts = Columns::new(&[("messages", Align::Left), ("count", Align::Right)]);
    for (name, count) in [
        ("acknowledged", report.acknowledged),
        ("of those, found", report.found),
        ("missing", report.missing),
        ("delivered twice", report.duplicated),
        ("out of order", report.out_of_order),
        ("altered", report.altered),
        ("delivered, in all", report.delivered),
        ("of those, still in their mailbox", report.read_back),
        ("of those, without an acknowledgement", report.delivered_without_acknowledgement),
    ] {
        counts.add([name.to_owned(), grouped(count)]);
    }
    counts.write(&mut out)?;
    for id in &report.missing_ids {
        writeln!(out, "{BAD}missing{BAD:#} {id}")?;
    }
    match report.holds() {
        true => writeln!(out, "\n{GOOD}holds{GOOD:#}: every acknowledged message was delivered exactly once, in order"),
        false if report.acknowledged == 0 => {
            writeln!(out, "\n{BAD}failed{BAD:#}: the ledger holds no message, so nothing is proven")
        }
        false => writeln!(out, "\n{BAD}failed{BAD:#}: see the rows above that should be zero"),
    }
}
