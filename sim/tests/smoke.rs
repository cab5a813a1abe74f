//! The simulator on the product as it is. `planted.rs` has the bugs that it must see.
//!
//! `CRETO_SEEDS=10000 cargo test -p creto-sim` runs that many; `cargo run --release -p creto-sim -- --seeds 7` repeats one.
#![allow(clippy::unwrap_used, reason = "a test stops where it is wrong")]

use std::sync::LazyLock;

use creto_sim::{Options, Pool, Summary, run_seed};

static POOL: LazyLock<Pool> = LazyLock::new(Pool::new);

#[test]
fn every_rule_holds_over_the_smoke_seeds() {
    let seeds = std::env::var("CRETO_SEEDS").ok().and_then(|count| count.parse().ok()).unwrap_or(400);
    let mut summary = Summary::default();
    for seed in 0..seeds {
        let outcome = run_seed(&POOL, seed, &Options::default());
        if let Some((violation, trace)) = &outcome.violation {
            panic!("seed {seed}: {violation}\n{}", trace.join("\n"));
        }
        summary.add(outcome);
    }
    println!("{:?}\n{:?}", summary.tally, summary.faults);
    assert_eq!(summary.vacuous(), None, "a series that compared nothing proves nothing");
}

#[test]
fn the_same_seed_gives_the_same_run() {
    let other_bytes = Pool::new();
    for seed in 0..20 {
        let first = run_seed(&POOL, seed, &Options::default());
        assert_eq!(first, run_seed(&POOL, seed, &Options::default()), "seed {seed}");
        // Sealed and signed again: other bytes, the same schedule.
        assert_eq!(first, run_seed(&other_bytes, seed, &Options::default()), "seed {seed} with another pool");
    }
}
