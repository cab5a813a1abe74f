use super::*;

const SECTOR: u64 = SECTOR_BYTES as u64;

fn drive() -> Drive {
    Drive::new(64 * SECTOR_BYTES)
}

fn sectors(value: u8, count: usize) -> Vec<u8> {
    vec![value; count * SECTOR_BYTES]
}

/// The first byte of each of the first `count` sectors.
fn firsts(drive: &mut Drive, count: usize) -> Vec<u8> {
    let bytes = drive.read(0, count * SECTOR_BYTES).unwrap();
    bytes
        .chunks(SECTOR_BYTES)
        .inspect(|sector| assert!(sector.iter().all(|byte| *byte == sector[0])))
        .map(|sector| sector[0])
        .collect()
}

fn cut_now(drive: &mut Drive, keep: Keep, seed: u64) {
    drive.cut(Cut { after_requests: 0, keep, seed });
    drive.restore();
}

#[test]
fn what_was_flushed_survives_every_cut() {
    for seed in 0..200 {
        let mut drive = drive();
        drive.write(0, &sectors(1, 4)).unwrap();
        drive.flush().unwrap();
        drive.write(8 * SECTOR, &sectors(2, 4)).unwrap();
        cut_now(&mut drive, Keep::Any, seed);
        assert_eq!(firsts(&mut drive, 4), [1; 4], "seed {seed}");
    }
}

#[test]
fn what_was_not_flushed_is_readable_until_the_cut() {
    let mut drive = drive();
    drive.write(0, &sectors(1, 2)).unwrap();
    assert_eq!(firsts(&mut drive, 2), [1, 1]);
    cut_now(&mut drive, Keep::Nothing, 0);
    assert_eq!(firsts(&mut drive, 2), [0, 0]);
    assert_eq!(drive.counts().sectors_lost, 2);
}

#[test]
fn every_subset_of_the_sectors_of_two_writes_is_left_by_some_seed() {
    let mut left = std::collections::BTreeSet::new();
    for seed in 0..4_000 {
        let mut drive = drive();
        drive.write(0, &sectors(1, 2)).unwrap();
        drive.write(2 * SECTOR, &sectors(2, 2)).unwrap();
        cut_now(&mut drive, Keep::Any, seed);
        left.insert(firsts(&mut drive, 4).iter().map(|byte| *byte > 0).collect::<Vec<_>>());
    }
    assert_eq!(left.len(), 16);
}

#[test]
fn a_sector_that_was_written_twice_holds_any_of_its_three_states() {
    let mut left = std::collections::BTreeSet::new();
    for seed in 0..500 {
        let mut drive = drive();
        drive.write(0, &sectors(1, 1)).unwrap();
        drive.write(0, &sectors(2, 1)).unwrap();
        cut_now(&mut drive, Keep::Writes, seed);
        left.extend(firsts(&mut drive, 1));
    }
    assert_eq!(left.into_iter().collect::<Vec<_>>(), [0, 1, 2]);
}

#[test]
fn the_first_writes_are_left_in_their_order() {
    for seed in 0..200 {
        let mut drive = drive();
        for index in 0..8 {
            drive.write(index * 2 * SECTOR, &sectors(1, 2)).unwrap();
        }
        cut_now(&mut drive, Keep::First, seed);
        let left = firsts(&mut drive, 16);
        let end = left.iter().position(|byte| *byte == 0).unwrap_or(16);
        assert!(left[end..].iter().all(|byte| *byte == 0), "seed {seed}: {left:?}");
    }
}

#[test]
fn without_power_everything_is_refused_and_nothing_changes() {
    let mut drive = drive();
    drive.write(0, &sectors(1, 1)).unwrap();
    drive.flush().unwrap();
    drive.cut(Cut { after_requests: 0, keep: Keep::Any, seed: 3 });
    assert_eq!(drive.write(0, &sectors(9, 1)), Err(NoPower));
    assert_eq!(drive.flush(), Err(NoPower));
    assert_eq!(drive.read(0, 1), Err(NoPower));
    assert_eq!(drive.counts().refused, 3);
    drive.restore();
    assert_eq!(firsts(&mut drive, 1), [1]);
}

#[test]
fn a_cut_some_requests_later_tears_the_write_it_meets_and_fails_the_flush_it_meets() {
    let mut torn = std::collections::BTreeSet::new();
    for seed in 0..200 {
        let mut drive = drive();
        drive.cut(Cut { after_requests: 2, keep: Keep::First, seed });
        drive.write(0, &sectors(1, 1)).unwrap();
        assert_eq!(drive.write(SECTOR, &sectors(2, 4)), Err(NoPower));
        assert!(drive.is_off());
        drive.restore();
        torn.insert(firsts(&mut drive, 5).iter().filter(|byte| **byte == 2).count());
    }
    assert_eq!(torn.into_iter().collect::<Vec<_>>(), [0, 1, 2, 3, 4]);

    let mut drive = drive();
    drive.write(0, &sectors(1, 1)).unwrap();
    drive.cut(Cut { after_requests: 1, keep: Keep::Nothing, seed: 0 });
    assert_eq!(drive.flush(), Err(NoPower));
    drive.restore();
    assert_eq!(firsts(&mut drive, 1), [0]);
}

#[test]
fn a_full_cache_makes_what_came_first_durable() {
    let mut drive = Drive::new(2 * CACHE_BYTES_MAX);
    let mib = vec![7; 1 << 20];
    for index in 0..(CACHE_BYTES_MAX >> 20) as u64 + 3 {
        drive.write(index << 20, &mib).unwrap();
    }
    cut_now(&mut drive, Keep::Nothing, 0);
    let durable = drive.read(0, 4 << 20).unwrap();
    assert!(durable[..3 << 20].iter().all(|byte| *byte == 7));
    assert!(durable[3 << 20..].iter().all(|byte| *byte == 0));
}
