//! The simulator on the product as it is, and on planted bugs that it must see.
//!
//! `CRETO_SEEDS=10000 cargo test -p creto-sim` runs that many; `cargo run --release -p creto-sim -- --seeds 7` repeats one.
#![allow(clippy::unwrap_used, reason = "a test stops where it is wrong")]

use std::sync::LazyLock;

use creto_sim::{Options, Outcome, PlantedBug, Pool, Rule, Summary, run_seed};

static POOL: LazyLock<Pool> = LazyLock::new(Pool::new);

/// Seeds within which a planted bug must show.
const PLANTED_SEEDS: u64 = 200;

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

fn caught(bug: PlantedBug) -> Outcome {
    let options = Options { planted: Some(bug), ..Options::default() };
    let caught = (0..PLANTED_SEEDS).map(|seed| run_seed(&POOL, seed, &options)).find(|o| o.violation.is_some());
    let caught = caught.unwrap_or_else(|| panic!("{bug:?} was not caught within {PLANTED_SEEDS} seeds"));
    println!("{bug:?}: seed {}: {}", caught.seed, caught.violation.as_ref().unwrap().0);
    caught
}

#[track_caller]
fn check(bug: PlantedBug, rules: &[Rule]) {
    let (violation, trace) = caught(bug).violation.unwrap();
    assert!(rules.contains(&violation.rule), "{bug:?} was caught by the wrong rule: {violation}");
    assert!(!trace.is_empty(), "a violation comes with its trace");
}

#[test]
fn acknowledging_before_the_sync_is_caught() {
    check(PlantedBug::AckBeforeSync, &[Rule::AcknowledgedIsDurable, Rule::DeliveredIsDurable]);
}

#[test]
fn believing_a_second_sync_is_caught() {
    check(PlantedBug::RetrySync, &[Rule::AcknowledgedIsDurable, Rule::DeliveredIsDurable]);
}

#[test]
fn a_folder_that_is_not_synced_is_caught() {
    check(PlantedBug::SkipFolderSync, &[Rule::NothingAcknowledgedIsLost, Rule::SettledStaysSettled]);
}

#[test]
fn forgetting_message_ids_at_a_restart_is_caught() {
    check(PlantedBug::ForgetDedupOnRestart, &[Rule::StoredOnce]);
}

#[test]
fn forgetting_settles_at_a_restart_is_caught() {
    check(PlantedBug::LostSettle, &[Rule::SettledStaysSettled]);
}

#[test]
fn rings_that_reorder_are_caught() {
    // Credit that overtakes its subscription is lost, and then a mailbox never empties.
    check(PlantedBug::Reorder, &[Rule::Order, Rule::ComesToRest]);
}

#[test]
fn repairing_a_log_by_cutting_it_is_caught() {
    check(PlantedBug::RepairByTruncation, &[Rule::DamageIsNotCut]);
}
