//! `creto bench control`: what identities, policy and audit cost on this machine.

use std::io::Write;

use creto_benches::control::{Figures, Scale, measure};

use super::targets::{Target, Targets};
use crate::args::bench::BenchControlArgs;
use crate::exit::{Exit, Failure, plain};
use crate::terminal::{DIM, print_json, stdout};
use crate::verb::demo::revocation;

/// Agents that are revoked; the slowest counts.
const REVOCATIONS: usize = 20;

pub(super) fn run(args: &BenchControlArgs) -> Result<Exit, Failure> {
    let (scale, revocations) = if args.trial { (Scale::TRIAL, 1) } else { (Scale::FULL, REVOCATIONS) };
    let folder = args.dir.clone().unwrap_or_else(std::env::temp_dir);
    let place = tempfile::Builder::new().prefix(".bench-control-").tempdir_in(&folder).map_err(|error| {
        let what = format!("{} cannot be written to: {}", folder.display(), plain(&error));
        Failure::new(Exit::System, what, "name a folder with 1 GiB of room: --dir /path")
    })?;
    let mut figures = measure(place.path(), scale).map_err(|error| {
        Failure::new(Exit::System, error.to_string(), "name a folder with 1 GiB of room: --dir /path")
    })?;
    // Everything else needs no node, and is shown all the same.
    let revoked = revocation::measure(revocations);
    figures.revocation_ms = revoked.as_ref().ok().copied();
    if args.json {
        print_json(&serde_json::to_value(&figures).expect("figures are plain data"))?;
    } else {
        print(&figures)?;
    }
    revoked.map(|_| Exit::Ok)
}

#[allow(clippy::cast_precision_loss, reason = "nanoseconds of a decision and leaves are far below 2^52")]
fn print(figures: &Figures) -> std::io::Result<()> {
    let (pairs, leaves) = (crate::terminal::grouped(figures.decision_pairs as u64), figures.audit_leaves as f64);
    writeln!(stdout(), "{DIM}{pairs} pairs in a random order; {leaves:.0} leaves; one core{DIM:#}\n")?;
    let mut targets = Targets::new();
    let known = [
        ("decision, known, in a batch, median", figures.decision_p50_ns, 100.0),
        ("decision, known, in a batch, p99", figures.decision_p99_ns, 250.0),
        ("decision, known, alone, median", figures.decision_alone_p50_ns, 100.0),
        ("decision, known, alone, p99", figures.decision_alone_p99_ns, 250.0),
    ];
    for (what, ns, most) in known {
        targets.row(what, ns as f64, "ns", Target::AtMost(most));
    }
    targets.row("decision, the policy asked, median", figures.decision_miss_us, "us", Target::AtMost(25.0));
    if let Some(revocation_ms) = figures.revocation_ms {
        targets.row("revocation, to the last shard, slowest", revocation_ms, "ms", Target::AtMost(1_000.0));
    }
    targets.row("audit, events to leaves", figures.audit_leaves_per_s, "leaves/s", Target::AtLeast(300_000.0));
    if let Some(verify_s) = figures.verify_1m_leaves_s {
        targets.row("audit, a million leaves verified", verify_s, "s", Target::AtMost(2.0));
    }
    targets.write("a busy neighbour on the same core or cache makes figures worse")
}
