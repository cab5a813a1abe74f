//! Recovery over segments that were written honestly, dishonestly, or damaged afterwards.
//!
//! It may find an end or corruption, never panic; twice the same; and the verifier agrees with it.
#![no_main]

use creto_fuzz::creto_store::{Lsn, Position, Record, RecoveryError, recover, verify};
use creto_fuzz::log_image::{self, SHARD};

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let mut image = log_image::build(data);
    let (first, records) = run(&mut image);
    let (second, records_again) = run(&mut image);
    assert_eq!(format!("{first:?}"), format!("{second:?}"), "recovery reads the same log in the same way");
    assert_eq!(records, records_again);
    let positions: Vec<_> = records.iter().map(|(position, _)| *position).collect();
    assert!(positions.is_sorted(), "records come in the order of the log");

    let report = verify(&mut image, SHARD).expect("an image in memory can be read");
    match first {
        Ok((end_lsn, durable_upto)) => {
            assert!(report.problems.is_empty(), "the verifier finds {:?} in a log that recovers", report.problems);
            assert!(durable_upto <= end_lsn, "what is durable is never cut");
            assert_eq!(report.durable_upto, durable_upto);
            assert_eq!(report.end.map_or(Lsn(0), |end| end.lsn), end_lsn);
            assert_eq!(report.records, records.len() as u64);
        }
        Err(_) => assert!(!report.problems.is_empty(), "the verifier finds nothing in a log that does not recover"),
    }
});

type Found = (Result<(Lsn, Lsn), RecoveryError>, Vec<(Position, Record)>);

fn run(image: &mut log_image::LogImage) -> Found {
    let mut records = Vec::new();
    let recovered = recover(image, SHARD, |position, record| records.push((position, record)));
    (recovered.map(|recovered| (recovered.end_lsn(), recovered.durable_upto())), records)
}
