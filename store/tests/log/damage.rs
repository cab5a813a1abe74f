//! Damage of what was synced: found at or below the durable point, cut above it, named in either case.

use creto_store::{
    Damage, FileSource, FrameDamage, Lsn, RecoveryError, SegmentDamage, SegmentNumber, SegmentSource, WalConfig,
    recover, segment_file_name, verify,
};

use crate::disk::{Crash, Disk, Random};
use crate::node::{NOW_MS, Node, SHARD, messages, small_config};

/// A log of two epochs and four segments whose last frame is stated durable by a confirming frame.
fn sound_disk() -> Disk {
    let mut disk = Disk::default();
    let config = WalConfig { segment_bytes: 20 << 10, frame_bytes_max: 8 << 10, ..small_config(1) };
    for start in 0..2 {
        let mut node = Node::ready(&mut disk, config.clone());
        for part in 0..3 + start {
            node.commit(&mut disk, messages(1 + 100 * start + 10 * part, 3, 1000, NOW_MS));
        }
        node.wal.confirm();
        node.commit(&mut disk, Vec::new());
        assert!(node.wal.is_idle());
        node.crash(&mut disk, Crash::Power, &mut Random(start));
    }
    disk
}

#[test]
fn a_flipped_bit_anywhere_below_the_durable_point_is_corruption() {
    let mut disk = sound_disk();
    let report = verify(&mut disk, SHARD).unwrap();
    assert!(report.problems.is_empty() && report.segments.len() >= 4, "{report:#?}");
    let end = report.end.unwrap();
    assert_eq!(report.durable_upto.next(), end.lsn, "only the confirming frame is above the durable point");
    let mut flips = 0;
    for segment in &report.segments {
        // The confirming frame at the very end is the one thing above the durable point.
        let bytes = if segment.number == end.segment { segment.bytes - 4096 } else { segment.bytes };
        for offset in 0..usize::try_from(bytes).unwrap() {
            let bit = 1 << (offset % 8);
            disk.bytes_mut(segment.number)[offset] ^= bit;
            match recover(&mut disk, SHARD, |_, _| ()) {
                Err(RecoveryError::Corrupt(found)) => assert!(
                    found.segment == segment.number && found.offset <= offset as u64,
                    "damage at byte {offset} of segment {} was reported as {found}",
                    segment.number
                ),
                other => panic!("damage at byte {offset} of segment {} gave {other:?}", segment.number),
            }
            disk.bytes_mut(segment.number)[offset] ^= bit;
            flips += 1;
        }
    }
    assert!(flips > 30_000, "vacuous: {flips}");
}

#[test]
fn a_flipped_bit_above_the_durable_point_cuts_there() {
    let mut disk = Disk::default();
    let mut node = Node::ready(&mut disk, small_config(1));
    node.commit(&mut disk, messages(1, 1, 900, NOW_MS));
    node.commit(&mut disk, messages(2, 1, 6000, NOW_MS));
    let end = verify(&mut disk, SHARD).unwrap().end.unwrap();
    assert_eq!((end.lsn, end.offset), (Lsn(3), 20480));
    for offset in 12288..20480 {
        disk.bytes_mut(SegmentNumber(1))[offset] ^= 0x40;
        let recovered = recover(&mut disk, SHARD, |_, _| ()).unwrap();
        assert_eq!((recovered.end_lsn(), recovered.durable_upto()), (Lsn(2), Lsn(1)), "byte {offset}");
        assert!(recovered.end_reason().is_some());
        disk.bytes_mut(SegmentNumber(1))[offset] ^= 0x40;
    }
}

#[test]
fn a_missing_segment_is_named() {
    let report = verify(&mut sound_disk(), SHARD).unwrap();
    let last = report.segments.last().unwrap().number;
    for segment in report.segments.iter().map(|segment| segment.number).filter(|&number| number != last) {
        let mut disk = sound_disk();
        disk.delete(segment);
        match recover(&mut disk, SHARD, |_, _| ()) {
            Err(RecoveryError::Corrupt(found)) => {
                assert_eq!((found.segment, found.reason), (segment, Damage::MissingSegment));
            }
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn a_missing_last_segment_is_named_when_the_one_after_it_is_prepared() {
    let mut disk = Disk::default();
    let mut node = Node::ready(&mut disk, small_config(1));
    let mut number = 1;
    while disk.names().len() < 3 {
        node.commit(&mut disk, messages(number, 1, 6000, NOW_MS));
        number += 1;
    }
    disk.delete(SegmentNumber(2));
    match recover(&mut disk, SHARD, |_, _| ()) {
        Err(RecoveryError::Corrupt(found)) => assert_eq!(found.segment, SegmentNumber(2)),
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_log_of_another_shard_is_refused_and_not_deleted() {
    match recover(&mut sound_disk(), SHARD + 1, |_, _| ()) {
        Err(RecoveryError::Corrupt(found)) => {
            assert_eq!(found.reason, Damage::Segment(SegmentDamage::Shard(SHARD)));
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_log_of_a_later_version_is_refused_and_not_deleted() {
    let mut disk = Disk::default();
    drop(Node::ready(&mut disk, small_config(1)));
    disk.bytes_mut(SegmentNumber(1))[12] = 2;
    match recover(&mut disk, SHARD, |_, _| ()) {
        Err(RecoveryError::Corrupt(found)) => {
            assert_eq!(found.reason, Damage::Segment(SegmentDamage::Version(2)));
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn an_envelope_that_imitates_a_frame_cannot_stop_a_recovery() {
    // A sender puts a frame into an envelope that claims the far future is durable. Then the frame around it is torn.
    use bytes::Bytes;
    use creto_store::{Epoch, FrameHeader};
    let forged = |offset_blocks: u32, epoch_nonce: u64| {
        let header = FrameHeader {
            crc: 0,
            epoch: Epoch(1),
            epoch_nonce,
            lsn: Lsn(1000),
            durable_upto: Lsn(999),
            segment: SegmentNumber(1),
            log_start: SegmentNumber(1),
            body_bytes: 0,
            record_count: 0,
            previous_crc: 0,
            offset_blocks,
            shard_index: SHARD,
        };
        let mut frame = vec![0; 4096];
        header.seal(&mut frame);
        frame
    };
    let mut disk = Disk::default();
    let mut node = Node::ready(&mut disk, small_config(1));
    let mut message = messages(1, 1, 12000, NOW_MS).remove(0);
    let mut envelope = vec![0; 12000];
    // Frame 2 starts at byte 8192; its header, the record's and the message's take 96 + 120 + 96 + 64 = 376 bytes.
    let inside = 4096 - 376;
    envelope[inside..inside + 4096].copy_from_slice(&forged(3, 77));
    message.envelope = Bytes::from(envelope);
    node.commit(&mut disk, vec![message]);
    let place = 8192 + 4096;
    assert_eq!(
        disk.bytes_mut(SegmentNumber(1))[place..place + 8],
        *b"CRETOFRM",
        "the imitation is where a frame could be"
    );
    disk.bytes_mut(SegmentNumber(1))[8192 + 200] ^= 1;
    let recovered = recover(&mut disk, SHARD, |_, _| ()).unwrap();
    assert_eq!(recovered.end_lsn(), Lsn(1));
    // Whoever knew the nonce could stop it: the nonce is what keeps strangers out.
    let nonce = u64::from_le_bytes(disk.bytes_mut(SegmentNumber(1))[40..48].try_into().unwrap());
    disk.bytes_mut(SegmentNumber(1))[place..place + 4096].copy_from_slice(&forged(3, nonce));
    assert!(recover(&mut disk, SHARD, |_, _| ()).is_err());
}

#[test]
fn verify_counts_what_is_there_and_goes_on_after_damage() {
    let mut disk = sound_disk();
    let sound = verify(&mut disk, SHARD).unwrap();
    assert_eq!(sound.messages, (3 + 4) * 3);
    disk.bytes_mut(SegmentNumber(1))[4096 + 100] ^= 1;
    let damaged = verify(&mut disk, SHARD).unwrap();
    assert_eq!((damaged.problems.len(), damaged.segments.len()), (1, sound.segments.len()));
    assert!(damaged.messages < sound.messages && damaged.segments[1..] == sound.segments[1..]);
    let text = damaged.problems[0].to_string();
    assert!(text.contains("segment 1 at byte 4096, where frame 1 belongs: the checksum does not match"), "{text}");
}

#[test]
fn files_of_a_folder_are_read_like_memory() {
    let folder = tempfile::tempdir().unwrap();
    let mut disk = sound_disk();
    for number in disk.names() {
        let bytes = disk.bytes_mut(number).clone();
        std::fs::write(folder.path().join(segment_file_name(number)), bytes).unwrap();
    }
    std::fs::write(folder.path().join("LOCK"), "not a segment").unwrap();
    let mut files = FileSource::new(folder.path());
    let (mut in_memory, mut in_files) = (Vec::new(), Vec::new());
    recover(&mut disk, SHARD, |position, record| in_memory.push((position, record))).unwrap();
    recover(&mut files, SHARD, |position, record| in_files.push((position, record))).unwrap();
    assert!(!in_files.is_empty() && in_files == in_memory);
    assert!(FileSource::new(folder.path().join("missing")).segments().unwrap().is_empty());
    let end = verify(&mut files, SHARD).unwrap().end.unwrap();
    assert_eq!(end.reason, Some(FrameDamage::Empty));
}
