use super::*;

fn rows(figures: &[(Durability, usize, u64, f64)]) -> Vec<ProbeResult> {
    let of_size = |block_bytes| {
        figures.iter().map(move |&(durability, in_flight, p50_us, bytes_per_s)| ProbeResult {
            block_bytes,
            durability,
            in_flight,
            writes: 100,
            p50_us,
            p99_us: p50_us * 2,
            max_us: p50_us * 3,
            bytes_per_s,
        })
    };
    PROBE_BLOCK_BYTES.into_iter().flat_map(of_size).collect()
}

use Durability::{Dsync, Fdatasync};

#[test]
fn a_disk_that_gains_from_more_writes_in_flight_gets_them_and_no_more() {
    let depths = |two: f64, four: f64| {
        let of =
            [(Fdatasync, 1, 300, 1e8), (Fdatasync, 2, 350, two), (Fdatasync, 4, 500, four), (Dsync, 1, 3_000, 1e7)];
        choose(&rows(&of))
    };
    assert_eq!(depths(1.8e8, 3.2e8), Choice { durability: Fdatasync, writes_in_flight: 4 });
    assert_eq!(depths(1.8e8, 2.0e8), Choice { durability: Fdatasync, writes_in_flight: 2 });
    assert_eq!(depths(1.4e8, 3.2e8), Choice { durability: Fdatasync, writes_in_flight: 1 });
}

#[test]
fn o_dsync_is_chosen_only_where_it_is_clearly_better() {
    let of = |dsync_us| choose(&rows(&[(Fdatasync, 1, 300, 1e8), (Dsync, 1, dsync_us, 1e8)])).durability;
    assert_eq!([of(100), of(290), of(3_000)], [Dsync, Fdatasync, Fdatasync]);
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
