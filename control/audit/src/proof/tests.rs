use super::*;
use crate::fixture::{Log, verifier};
use crate::tree::{consistency_proof, inclusion_proof};

mod golden;

fn proof(log: &mut Log, index: u64, size: u64, since: Option<u64>) -> InclusionProof {
    InclusionProof {
        index,
        entry: log.entries[usize::try_from(index).unwrap()].clone().unwrap(),
        path: inclusion_proof(log, index, size).unwrap(),
        checkpoint: log.checkpoint(usize::try_from(size).unwrap()).note().to_owned(),
        grown_from: since.map(|old| (old, consistency_proof(log, old, size).unwrap())),
    }
}

#[test]
fn a_proof_of_every_leaf_is_read_as_it_was_written_and_holds() {
    let mut log = Log::of(70);
    for index in 0..70 {
        let proof = proof(&mut log, index, 70, None);
        let parsed = InclusionProof::parse(proof.to_text().as_bytes()).unwrap();
        assert_eq!(parsed, proof);
        let proven = parsed.verify(&verifier(), None).unwrap();
        assert_eq!((proven.index, proven.event.event.time_ms()), (index, 1_000 + index));
    }
}

#[test]
fn a_changed_entry_or_place_is_not_in_the_log() {
    let mut log = Log::of(70);
    let good = proof(&mut log, 20, 70, None);
    let code = |proof: &InclusionProof| proof.verify(&verifier(), None).unwrap_err().code();
    let mut changed = good.clone();
    changed.entry[0] ^= 1;
    assert_eq!(code(&changed), "not_in_the_log", "another salt");
    let mut changed = good.clone();
    *changed.entry.last_mut().unwrap() ^= 1;
    assert_eq!(code(&changed), "not_in_the_log", "another event");
    assert_eq!(code(&InclusionProof { index: 21, ..good.clone() }), "not_in_the_log");
    assert_eq!(code(&InclusionProof { index: 70, ..good.clone() }), "not_in_the_log");
    let mut longer = good.clone();
    longer.path.push([0; 32]);
    assert_eq!(code(&longer), "not_in_the_log");
    let text = good.to_text();
    for length in (0..text.len()).step_by(97) {
        let cut = InclusionProof::parse(text.get(..length).unwrap_or_default().as_bytes());
        assert!(cut.is_err() || cut.unwrap().verify(&verifier(), None).is_err(), "cut at {length}");
    }
}

#[test]
fn a_log_that_was_rolled_back_or_rewritten_is_refused() {
    let mut log = Log::of(70);
    let verify = |proof: &InclusionProof, since: &SignedCheckpoint| {
        proof.verify(&verifier(), Some(since)).map(|proven| proven.index).map_err(|error| error.code())
    };
    let extended = proof(&mut log, 20, 70, Some(33));
    assert_eq!(verify(&extended, &log.checkpoint(33)), Ok(20));
    assert_eq!(verify(&extended, &log.checkpoint(70)), Ok(20));
    assert_eq!(verify(&extended, &log.checkpoint(0)), Ok(20));
    assert_eq!(verify(&extended, &log.checkpoint(34)), Err("not_shown_to_extend"));
    assert_eq!(verify(&proof(&mut log, 20, 60, None), &log.checkpoint(61)), Err("rolled_back"));
    let mut other = Log::default();
    other.push(crate::SourceId::CONTROL, &crate::Event::new(1, crate::fixture::what(0)), &crate::Label::NONE);
    for index in 1..70 {
        other.push(crate::SourceId::CONTROL, &crate::Event::new(2, crate::fixture::what(index)), &crate::Label::NONE);
    }
    let rewritten = proof(&mut other, 20, 70, Some(33));
    assert_eq!(verify(&rewritten, &log.checkpoint(33)), Err("does_not_extend"));
    assert_eq!(verify(&rewritten, &log.checkpoint(70)), Err("does_not_extend"));
}
