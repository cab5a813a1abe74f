//! Every back end of the log keeps the rules of `RecordLog`; and the rules see when one does not.
//!
//! `CRETO_SEED=7 cargo test -p creto-store --test log conformance` repeats one seed; `CRETO_SEEDS=1000` runs that many.

mod broken;
mod disk;
mod files;
mod memory;

use creto_store::WalConfig;
use creto_store::conformance::{Medium, Random, check};

use self::disk::DiskMedium;
use self::files::FileMedium;
use self::memory::MemoryMedium;

#[test]
fn the_log_keeps_every_rule_on_a_disk_that_keeps_only_what_was_synced() {
    keeps_every_rule(300, DiskMedium::new);
}

#[test]
fn the_log_keeps_every_rule_on_real_files() {
    keeps_every_rule(6, FileMedium::new);
}

#[test]
fn the_log_in_memory_keeps_every_rule() {
    keeps_every_rule(300, MemoryMedium::new);
}

#[test]
fn a_seed_repeats_its_run() {
    let run = || check(0..5, DiskMedium::new);
    assert_eq!(run(), run());
}

fn keeps_every_rule<M: Medium>(count: u64, new: impl FnMut(u64) -> M) {
    let read = |name: &str| std::env::var(name).ok().and_then(|value| value.parse().ok());
    let one = read("CRETO_SEED");
    let seeds = one.map_or(0..read("CRETO_SEEDS").unwrap_or(count), |seed| seed..seed + 1);
    let seeds = seeds.inspect(|seed| println!("seed {seed}"));
    let seen = check(seeds, new).unwrap_or_else(|broken| panic!("{broken}"));
    println!("{seen:?}");
    // A run that compared nothing proves nothing.
    assert!(one.is_some() || seen.missing().is_empty(), "vacuous: {:?} in {seen:?}", seen.missing());
}

/// A small log, of another shape for each seed.
fn config(seed: u64) -> WalConfig {
    let mut random = Random::new(!seed);
    let segment_bytes = [32 << 10, 64 << 10][random.below(2)];
    WalConfig {
        segment_bytes,
        frame_bytes_max: [8 << 10, 16 << 10, 28 << 10][random.below(3)],
        wal_bytes_max: (8 + random.below(8) as u64) * segment_bytes,
        pending_records_max: 16 + random.below(64),
        pending_bytes_max: 64 << 10,
        writes_in_flight_max: 1 + random.below(4),
        full_group_bytes: [2 << 10, 6 << 10, 24 << 10][random.below(3)],
        recycled_segments_max: random.below(4),
    }
}
