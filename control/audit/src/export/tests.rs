use super::*;
use crate::event::{ChainedEvent, Event, Label, SourceId};
use crate::fixture::{Log, what};
use crate::proof::entry_hash;

/// Verifies `log` as if it were what was signed for `honest`.
fn verify(honest: &Log, log: &Log, since: Option<usize>) -> Result<Summary, ExportError> {
    let size = honest.entries.len();
    let milestones = vec![honest.checkpoint(size / 2)];
    let since = since.map(|size| honest.checkpoint(size));
    let mut verifier = Verifier::new(honest.checkpoint(size), milestones, since)?;
    let mut next = 0;
    for (bundle, tile) in log.blocks() {
        verifier.block(&bundle, &tile, |seen| {
            assert!(seen.index >= next);
            next = seen.index + 1;
        })?;
    }
    verifier.finish()
}

fn finding(honest: &Log, log: &Log) -> Finding {
    match verify(honest, log, None) {
        Err(ExportError::Found(finding)) => finding,
        other => panic!("{other:?}"),
    }
}

/// Also puts right the hash of leaf `index`, as someone would who can write the export.
fn rehash(log: &mut Log, index: usize) {
    log.hashes[index] = entry_hash(log.entries[index].as_ref().unwrap()).unwrap();
}

#[test]
fn whole_logs_verify_whatever_their_size() {
    for count in [0, 1, 2, 255, 256, 257, 600] {
        let log = Log::of(count);
        for since in [None, Some(0), Some(usize::try_from(count).unwrap() / 3), Some(usize::try_from(count).unwrap())] {
            let summary = verify(&log, &log, since).unwrap();
            assert_eq!((summary.leaves, summary.hidden), (count, 0));
            assert_eq!(summary.checkpoints, 2 + u64::from(since.is_some()));
        }
    }
}

#[test]
fn a_log_of_which_some_or_all_leaves_are_only_hashes_verifies() {
    for (count, step) in [(600, 1), (600, 2), (600, 7), (3, 1)] {
        let honest = Log::of(count);
        let mut log = honest.clone();
        log.entries.iter_mut().step_by(step).for_each(|entry| *entry = None);
        let summary = verify(&honest, &log, Some(100.min(usize::try_from(count).unwrap()))).unwrap();
        assert_eq!(summary.hidden, count.div_ceil(step as u64));
    }
}

#[test]
fn every_changed_byte_of_a_leaf_is_found_at_that_leaf() {
    let honest = Log::of(300);
    for index in [0, 1, 255, 256, 299] {
        for at in 0..honest.entries[index].as_ref().unwrap().len() {
            let mut log = honest.clone();
            log.entries[index].as_mut().unwrap()[at] ^= 0x10;
            let found = finding(&honest, &log);
            assert_eq!((found.code(), found.place().unwrap().index), ("leaf_changed", index as u64), "byte {at}");
        }
    }
}

#[test]
fn a_changed_event_is_named_even_when_its_hash_was_put_right() {
    let honest = Log::of(300);
    for index in [0, 1, 200] {
        let mut log = honest.clone();
        *log.entries[index].as_mut().unwrap().last_mut().unwrap() ^= 1;
        rehash(&mut log, index);
        let found = finding(&honest, &log);
        assert_eq!((found.code(), found.place().unwrap().index), ("chain_hash", index as u64));
    }
    let mut log = honest.clone();
    *log.entries[299].as_mut().unwrap().last_mut().unwrap() ^= 1;
    rehash(&mut log, 299);
    let found = finding(&honest, &log);
    assert_eq!((found.code(), found.place().unwrap().index), ("chain_head", 299));
}

#[test]
fn a_changed_salt_whose_hash_was_put_right_is_narrowed_down_by_a_milestone() {
    let honest = Log::of(300);
    for (index, from, to) in [(20, 0, 150), (200, 150, 300)] {
        let mut log = honest.clone();
        log.entries[index].as_mut().unwrap()[0] ^= 1;
        rehash(&mut log, index);
        assert_eq!(finding(&honest, &log), Finding::Root { from, to });
    }
}

#[test]
fn swapped_leaves_are_found() {
    let honest = Log::of(300);
    let source = |index: usize| ChainedEvent::parse(&honest.entries[index].as_ref().unwrap()[16..]).unwrap().source;
    let other = (11..).find(|index| source(*index) != source(10)).unwrap();
    let same = (11..).find(|index| source(*index) == source(10)).unwrap();
    for other in [same, other] {
        let mut log = honest.clone();
        log.entries.swap(10, other);
        assert_eq!(finding(&honest, &log).code(), "leaf_changed");
        log.hashes.swap(10, other);
        let found = finding(&honest, &log);
        let is_named = found.code() == "chain_hole" && found.place().is_some_and(|place| place.index <= other as u64);
        assert!(is_named || found.code() == "root", "{found}");
    }
    let mut log = honest.clone();
    log.entries.swap(10, same);
    log.hashes.swap(10, same);
    assert_eq!(finding(&honest, &log).code(), "chain_hole");
}

#[test]
fn a_leaf_that_was_left_out_or_told_twice_is_found() {
    let honest = Log::of(300);
    let mut log = honest.clone();
    log.entries.remove(100);
    log.hashes.remove(100);
    assert_eq!(finding(&honest, &log).code(), "chain_hole");
    let mut log = honest.clone();
    let (entry, hash) = (log.entries[100].clone(), log.hashes[100]);
    log.entries.insert(101, entry);
    log.hashes.insert(101, hash);
    let found = finding(&honest, &log);
    assert_eq!((found.code(), found.place().unwrap().index), ("chain_order", 101));
}

#[test]
fn an_event_of_a_source_that_nobody_signed_for_is_found() {
    let honest = Log::of(300);
    let mut log = Log::of(299);
    log.push(SourceId::shard(9), &Event::new(1, what(0)), &Label::NONE);
    assert_eq!(finding(&honest, &log).code(), "chain_head");
    let mut other = Log::default();
    other.push(SourceId::shard(0), &Event::new(1, what(0)), &Label::NONE);
    other.entries[0].as_mut().unwrap()[16 + 30] ^= 1;
    rehash(&mut other, 0);
    assert_eq!(finding(&Log::of(1), &other).code(), "chain_beginning");
}

#[test]
fn hidden_leaves_that_stand_for_other_events_are_found() {
    let honest = Log::of(300);
    let mut log = Log::of(300);
    let of_shard = |index: usize| {
        ChainedEvent::parse(&honest.entries[index].as_ref().unwrap()[16..]).unwrap().source == SourceId::shard(0)
    };
    log.entries.iter_mut().enumerate().for_each(|(index, entry)| {
        if of_shard(index) {
            *entry = None;
        }
    });
    assert!(verify(&honest, &log, None).is_ok());
    // One visible event less, one hidden more: the checkpoint says how many events each source told.
    let last = (0..300).rev().find(|index| !of_shard(*index)).unwrap();
    log.entries.remove(last);
    log.hashes.remove(last);
    let found = verify(&honest, &log, None).unwrap_err();
    assert!(matches!(found.code(), "truncated" | "hidden" | "root"), "{found}");
}

#[test]
fn a_shorter_log_is_truncated_and_one_behind_what_was_seen_is_rolled_back() {
    let honest = Log::of(300);
    let error = verify(&honest, &Log::of(299), None).unwrap_err();
    assert_eq!(error, ExportError::Truncated { leaf: 299, leaves: 300 });
    let old = Log::of(200);
    let error = Verifier::new(old.checkpoint(200), Vec::new(), Some(honest.checkpoint(300))).err().unwrap();
    assert_eq!(error, ExportError::RolledBack { seen: 300, found: 200 });
}

#[test]
fn a_history_that_was_rewritten_and_signed_again_does_not_extend_what_was_seen() {
    let seen = Log::of(100).checkpoint(100);
    let mut rewritten = Log::default();
    for index in 0..300 {
        rewritten.push(SourceId::shard(0), &Event::new(1, what(index)), &Label::NONE);
    }
    let mut verifier = Verifier::new(rewritten.checkpoint(300), Vec::new(), Some(seen)).unwrap();
    let blocks = rewritten.blocks();
    let error = verifier.block(&blocks[0].0, &blocks[0].1, |_| ()).unwrap_err();
    assert_eq!(error, ExportError::Found(Finding::Forked(100)));
}

#[test]
fn a_head_is_read_as_it_was_written_and_its_lengths_are_bounded() {
    let head = ExportHead { leaves: 1_000, checkpoint_bytes: 5_000, keys_bytes: 3_000, milestones: 2 };
    let bytes = head.to_bytes();
    assert_eq!(ExportHead::parse(&bytes), Ok(head));
    assert_eq!((head.block_leaves(0), head.block_leaves(768), head.block_leaves(1_000)), (256, 232, 0));
    let with = |at: usize, byte: u8| {
        let mut bytes = bytes;
        bytes[at] = byte;
        ExportHead::parse(&bytes)
    };
    assert_eq!(with(0, b'X'), Err(ExportError::NotAnExport));
    assert_eq!(with(8, 2), Err(ExportError::Version(2)));
    for at in [12, 27, 31, 35, 36] {
        assert_eq!(with(at, 0xff), Err(ExportError::Form), "byte {at}");
    }
}
