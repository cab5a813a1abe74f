use super::*;

use Durability::{Dsync, Fdatasync};

/// The same median for every size.
fn rows(figures: &[(Durability, usize, u64)]) -> Vec<ProbeResult> {
    let of_size = |block_bytes| {
        figures.iter().map(move |&(durability, in_flight, p50_us)| ProbeResult {
            block_bytes,
            durability,
            in_flight,
            writes: 100,
            p50_us,
            p99_us: p50_us * 2,
            max_us: p50_us * 3,
            bytes_per_s: 1e8,
        })
    };
    PROBE_BLOCK_BYTES.into_iter().flat_map(of_size).collect()
}

#[test]
fn a_disk_that_gains_from_more_writes_in_flight_gets_them_and_no_more() {
    let depth = |two, four| {
        let of = [(Fdatasync, 1, 300), (Fdatasync, 2, two), (Fdatasync, 4, four), (Dsync, 1, 3_000)];
        let choice = choose(&rows(&of));
        assert_eq!(choice.durability, Fdatasync);
        choice.writes_in_flight
    };
    // Of 350 us each with one in flight, an acknowledgement takes up to 700.
    assert_eq!([depth(310, 320), depth(310, 500), depth(450, 600), depth(450, 320)], [4, 2, 1, 4]);
}

#[test]
fn the_way_is_chosen_by_which_a_message_is_acknowledged_soonest() {
    let of = |dsync_us| choose(&rows(&[(Fdatasync, 1, 300), (Dsync, 1, dsync_us)])).durability;
    assert_eq!([of(100), of(340), of(360), of(3_000)], [Dsync, Dsync, Fdatasync, Fdatasync]);
    // A drive that takes several at once, and a sync each with them.
    let of = [
        (Fdatasync, 1, 83),
        (Dsync, 1, 96),
        (Fdatasync, 2, 160),
        (Dsync, 2, 114),
        (Fdatasync, 4, 190),
        (Dsync, 4, 155),
    ];
    assert_eq!(choose(&rows(&of)), Choice { durability: Dsync, writes_in_flight: 2 });
}

#[test]
fn a_quick_probe_measures_every_combination_and_leaves_nothing_behind() {
    let folder = tempfile::tempdir().unwrap();
    let report = probe(folder.path(), Duration::from_millis(2)).unwrap();
    assert_eq!(report.results.len(), PROBE_BLOCK_BYTES.len() * PROBE_DEPTHS.len() * 2);
    assert!(report.results.iter().all(|row| row.writes > 0 && row.p50_us <= row.p99_us));
    assert!(PROBE_DEPTHS.contains(&report.choice.writes_in_flight));
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}
