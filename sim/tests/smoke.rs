//! The simulator on the product as it is. `planted.rs` has the bugs that it must see.
//!
//! `CRETO_SEEDS=10000 cargo test -p creto-sim` runs that many; `cargo run --release -p creto-sim -- --seeds 7` repeats one.
#![allow(clippy::unwrap_used, reason = "a test stops where it is wrong")]

use std::sync::LazyLock;

use creto_sim::{Options, Pool, StrikeKind, Summary, run_every_step, run_seed};

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

/// Seeds that once broke a rule, and what was wrong. What a seed does changes with the simulator: what was wrong in the product
/// has a test of its own beside the code.
const ONCE_BROKEN: [(u64, &str); 14] = [
    (2, "a shard drained without a frame that states its last one durable"),
    (20, "a shard called itself drained before it had asked for that frame"),
    (851, "an agent sent again what the node had refused for the time of its clock"),
    (2_342, "a clock a day ahead made the node forget ids, and store them twice when it was set back"),
    (7_760, "ids that two trims had carried over fell out of their window in the wrong order"),
    (2_583, "as 851"),
    (4_798, "a drive lost a frame without messages, and its number was given again"),
    (8_676, "as 4,798"),
    (5_513, "a message that its agent had given up arrived after everything had come to rest"),
    (162, "the end of a subscription that a full log refused was never tried again"),
    (1_037, "a subscription became durable after all were looked at under the snapshot that forbids it, and stayed"),
    (22_035, "before the log had started an older question for a subscription was taken behind a newer one"),
    (24_661, "a full log of which most was of no use was not cleaned any more, and took nothing"),
    (9_126, "a full log was cleaned as fast as it was trimmed, took nothing, and grew"),
];

#[test]
fn seeds_that_once_broke_a_rule_keep_it() {
    for (seed, what) in ONCE_BROKEN {
        let outcome = run_seed(&POOL, seed, &Options::default());
        if let Some((violation, trace)) = &outcome.violation {
            panic!("seed {seed} ({what}): {violation}\n{}", trace.join("\n"));
        }
    }
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

#[test]
fn a_fault_at_every_step_of_a_short_run_breaks_no_rule() {
    let options = Options { steps: 150, ..Options::default() };
    for kind in StrikeKind::ALL {
        let mut summary = Summary::default();
        // Some short runs have no place for it: a node that is never started again reads nothing in recovery.
        let mut struck = 0;
        for seed in 0..40 {
            if struck == 3 {
                break;
            }
            let outcomes = run_every_step(&POOL, seed, &options, kind);
            struck += u64::from(outcomes.len() > 1);
            for outcome in outcomes {
                if let Some((violation, trace)) = &outcome.violation {
                    panic!("seed {seed}, {:?}: {violation}\n{}", outcome.strike, trace.join("\n"));
                }
                summary.add(outcome);
            }
        }
        println!("{kind:?}: {} runs, {:?}", summary.runs, summary.faults);
        assert!(struck == 3 && summary.runs > 2 * summary.seeds, "every step is struck once");
    }
}
