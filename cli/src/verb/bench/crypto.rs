//! `creto bench crypto`: what cryptography costs on this machine, at the sender, on the node, at the recipient.

use std::io::Write;

use creto_benches::crypto::{Effort, Figures, measure};

use super::targets::{Target, Targets};
use crate::args::bench::BenchCryptoArgs;
use crate::exit::{Exit, Failure};
use crate::terminal::{DIM, print_json, stdout};
use crate::verb::demo::rotation;

/// Rotations of which the median is taken.
const ROTATIONS: usize = 15;

pub(super) fn run(args: &BenchCryptoArgs) -> Result<Exit, Failure> {
    let effort = if args.trial { Effort::TRIAL } else { Effort::FULL };
    let mut figures = measure(effort);
    match rotation::measure(if args.trial { 1 } else { ROTATIONS }) {
        Ok(rotation_ms) => figures.rotation_ms = Some(rotation_ms),
        // Everything else needs no node.
        Err(failure) => failure.print(),
    }
    if args.json {
        print_json(&serde_json::to_value(&figures).expect("figures are plain data"))?;
    } else {
        print(&figures)?;
    }
    Ok(Exit::Ok)
}

fn print(figures: &Figures) -> std::io::Result<()> {
    writeln!(stdout(), "{DIM}{}; medians of CPU time on one core; messages of 1 KiB{DIM:#}\n", figures.backend)?;
    let mut targets = Targets::new();
    targets.row(
        "seal and sign, 256 to a batch",
        figures.seal_n256_msgs_per_s,
        "messages/s",
        Target::AtLeast(300_000.0),
    );
    targets.row("seal and sign, 64 to a batch", figures.seal_n64_msgs_per_s, "messages/s", Target::AtLeast(180_000.0));
    targets.row("seal and sign, one message", figures.seal_single_us, "us", Target::None);
    targets.row("admit, 256 to a batch", figures.admit_n256_msgs_per_s, "messages/s", Target::AtLeast(700_000.0));
    targets.row("open at the recipient", figures.open_msgs_per_s, "messages/s", Target::AtLeast(400_000.0));
    targets.row("open a session, both ends", figures.session_establish_us, "us", Target::AtMost(1_000.0));
    if let Some(rotation_ms) = figures.rotation_ms {
        targets.row("replace a key, end to end", rotation_ms, "ms", Target::AtMost(5.0));
    }
    targets.row("ML-DSA-65 sign", figures.ml_dsa_sign_us, "us", Target::None);
    targets.row("ML-DSA-65 verify", figures.ml_dsa_verify_us, "us", Target::None);
    let ed25519 = figures.ed25519_batch_verify_us_per_signature;
    targets.row("Ed25519 verify, each of a turn", ed25519, "us", Target::None);
    targets.row("encapsulate (X-Wing)", figures.kem_encaps_us, "us", Target::None);
    targets.write("a busy neighbour on the same core or cache makes figures worse")
}
