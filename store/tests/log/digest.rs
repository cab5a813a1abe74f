//! Digests: never needed, never wrong. Whatever becomes of them, a start finds what it finds without them.

use creto_store::{
    Damage, DigestDamage, DigestState, Noted, Position, RecoveryError, SegmentDamage, SegmentNumber, recover,
    recover_noted, verify,
};

use crate::disk::{Crash, Disk, Random};
use crate::node::{NOW_MS, Node, SHARD, messages, small_config};

/// A log of several segments, some of them trimmed, most with a digest.
fn grown(random: &mut Random) -> Disk {
    let mut disk = Disk::default();
    let mut number = 1;
    for life in 0..2 {
        let config = small_config(1 + random.below(3));
        let (mut node, _) = Node::start(&mut disk, config, Default::default(), life, NOW_MS).unwrap();
        node.settle_down(&mut disk, random, NOW_MS);
        for _ in 0..60 {
            let submitted = node.commit(&mut disk, messages(number, 1, 500 + random.below(5000), NOW_MS));
            number += 1;
            if let Some(message) = submitted.first().filter(|message| message.leaf_index < 40) {
                node.settle(message);
            }
            node.trim();
        }
        node.commit(&mut disk, Vec::new());
        node.crash(&mut disk, Crash::Power, random);
    }
    disk
}

/// What a start without digests finds.
fn replayed(disk: &mut Disk) -> Vec<(Position, Noted)> {
    let mut found = Vec::new();
    recover(disk, SHARD, |position, record| found.push((position, record.noted(position)))).unwrap();
    found
}

#[test]
fn a_start_by_digests_reads_only_the_last_segment() {
    let mut disk = grown(&mut Random(1));
    let expected = replayed(&mut disk);
    // One more start: it writes the digest of the segment that the last stop left open.
    Node::ready(&mut disk, small_config(1)).crash(&mut disk, Crash::Kill, &mut Random(1));
    let mut found = Vec::new();
    let recovered = recover_noted(&mut disk, SHARD, |position, noted| found.push((position, noted))).unwrap();
    assert_eq!(found[..expected.len()], expected[..]);
    assert_eq!((recovered.digest_use().read, &recovered.digest_use().refused[..]), (1, &[][..]));
    assert!(recovered.digest_use().used > 5, "vacuous: {:?}", recovered.digest_use());
}

#[test]
fn a_digest_made_while_writing_is_the_one_made_while_reading() {
    let mut disk = grown(&mut Random(2));
    let live = std::mem::take(disk.digests_mut());
    let before = disk.names();
    let mut node = Node::ready(&mut disk, small_config(1));
    node.commit(&mut disk, Vec::new());
    let sealed = node.wal.active_segment();
    let made = disk.digests_mut();
    let compared = live.iter().filter(|(segment, digest)| made.get(segment) == Some(digest)).count();
    assert!(compared > 5, "{compared} of {}", live.len());
    let without: Vec<_> = before.iter().filter(|&&segment| segment < sealed && !made.contains_key(&segment)).collect();
    assert!(without.is_empty(), "every segment has one now, but {without:?} of {before:?}");
    assert!(live.iter().all(|(segment, digest)| made[segment] == *digest));
}

#[test]
fn a_flipped_bit_of_a_digest_is_noticed_and_the_segment_is_read() {
    let mut disk = grown(&mut Random(3));
    let expected = replayed(&mut disk);
    let (segment, digest) = disk.digests_mut().iter().min_by_key(|(_, digest)| digest.len()).unwrap();
    let (segment, digest) = (*segment, digest.clone());
    let mut random = Random(4);
    for at in (0..digest.len()).step_by(1 + digest.len() / 300) {
        let mut flipped = digest.clone();
        flipped[at] ^= 1 << random.below(8);
        check_refused(&mut disk, segment, flipped, &expected);
    }
}

#[test]
fn a_digest_of_another_segment_is_refused_and_the_segment_is_read() {
    let mut disk = grown(&mut Random(5));
    let expected = replayed(&mut disk);
    let digests = disk.digests_mut().clone();
    for segment in digests.keys() {
        for (_, other) in digests.iter().filter(|(other, _)| *other != segment) {
            let refused = check_refused(&mut disk, *segment, other.clone(), &expected);
            assert_eq!(refused, DigestDamage::OtherSegment);
        }
    }
}

/// A start with this digest beside the segment finds what it should, and says that it refused it.
fn check_refused(
    disk: &mut Disk,
    segment: SegmentNumber,
    digest: Vec<u8>,
    expected: &[(Position, Noted)],
) -> DigestDamage {
    let sound = disk.digests_mut().insert(segment, digest).unwrap();
    let mut found = Vec::new();
    let recovered = recover_noted(disk, SHARD, |position, noted| found.push((position, noted))).unwrap();
    assert!(found == expected, "a damaged digest of segment {segment} changed what is found");
    disk.digests_mut().insert(segment, sound);
    match recovered.digest_use().refused[..] {
        [(refused, damage)] if refused == segment => damage,
        ref other => panic!("segment {segment}: {other:?}"),
    }
}

#[test]
fn a_segment_that_is_cut_short_is_corruption_whatever_its_digest_says() {
    let mut disk = grown(&mut Random(6));
    let segment = *disk.digests_mut().keys().next().unwrap();
    let bytes = disk.bytes_mut(segment).len();
    disk.bytes_mut(segment).truncate(bytes / 2);
    match recover_noted(&mut disk, SHARD, |_, _| ()) {
        Err(RecoveryError::Corrupt(corruption)) => assert_eq!(corruption.segment, segment),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_digest_without_its_segment_is_deleted_at_the_next_start() {
    let mut disk = grown(&mut Random(7));
    let (_, digest) = disk.digests_mut().pop_last().unwrap();
    let orphan = SegmentNumber(1);
    assert!(disk.names()[0] > orphan, "vacuous: nothing was trimmed");
    disk.digests_mut().insert(orphan, digest);
    Node::ready(&mut disk, small_config(1));
    assert!(!disk.digests_mut().contains_key(&orphan));
}

#[test]
fn no_digest_outlives_its_segment() {
    for seed in 0..20 {
        let mut disk = grown(&mut Random(seed));
        let names = disk.names();
        let orphans: Vec<_> = disk.digests_mut().keys().filter(|segment| !names.contains(segment)).collect();
        assert!(orphans.is_empty(), "seed {seed}: {orphans:?}");
    }
}

#[test]
fn a_digest_proves_that_there_was_a_segment_behind_its_own() {
    let mut disk = grown(&mut Random(8));
    let last = verify(&mut disk, SHARD).unwrap().end.unwrap().segment;
    for (cut, reason) in [
        (None, Damage::MissingSegment),
        (Some(0), SegmentDamage::Truncated.into()),
        (Some(4096), SegmentDamage::Empty.into()),
    ] {
        let mut disk = disk.clone();
        match cut {
            None => disk.delete(last),
            Some(bytes) => {
                disk.bytes_mut(last).truncate(bytes);
                disk.bytes_mut(last).fill(0);
            }
        }
        if disk.names().last().is_some_and(|&name| name > last) {
            disk.delete(last.next());
        }
        for outcome in [recover(&mut disk, SHARD, |_, _| ()), recover_noted(&mut disk, SHARD, |_, _| ())] {
            match outcome {
                Err(RecoveryError::Corrupt(found)) => assert_eq!((found.segment, found.reason), (last, reason)),
                other => panic!("{other:?}"),
            }
        }
    }
}

#[test]
fn a_verifier_says_what_each_digest_is_worth() {
    let mut disk = grown(&mut Random(9));
    let sound = verify(&mut disk, SHARD).unwrap();
    let digests = disk.digests_mut().clone();
    let with_digest = |state| sound.segments.iter().filter(|segment| segment.digest == state).count();
    assert_eq!(with_digest(DigestState::Sound), digests.len());
    assert_eq!(with_digest(DigestState::Missing), sound.segments.len() - digests.len());
    let mut segments = digests.keys().copied();
    let (flipped, wrong) = (segments.next().unwrap(), segments.next().unwrap());
    disk.digests_mut().get_mut(&flipped).unwrap()[200] ^= 1;
    // A digest that says something else under checksums that hold, as only a program that is wrong can write it.
    let changed = disk.digests_mut().get_mut(&wrong).unwrap();
    let at = changed.len() - 8;
    changed[at] ^= 1;
    let body_crc = crc32c::crc32c(&changed[128..]);
    changed[96..100].copy_from_slice(&body_crc.to_le_bytes());
    changed[8..12].fill(0);
    let crc = crc32c::crc32c(&changed[..128]);
    changed[8..12].copy_from_slice(&crc.to_le_bytes());
    let report = verify(&mut disk, SHARD).unwrap();
    let state = |number| report.segments.iter().find(|segment| segment.number == number).unwrap().digest;
    assert_eq!(state(flipped), DigestState::Refused(DigestDamage::Checksum));
    assert_eq!(state(wrong), DigestState::Wrong);
    assert!(report.problems.is_empty(), "the log itself is sound");
}
