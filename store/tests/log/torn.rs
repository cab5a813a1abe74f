//! The end of a log after a loss of power: every subset of the sectors that were on their way.

use creto_store::{Lsn, Record, SegmentNumber, recover};

use crate::disk::{Crash, Disk, Random, SECTOR_BYTES};
use crate::node::{NOW_MS, Node, SHARD, encoded, messages, small_config};

#[test]
fn every_sector_subset_of_two_frames_in_flight_ends_in_a_clean_prefix() {
    // Two frames of 4 KiB are on their way at once: 16 sectors, 65,536 ways to stop.
    let mut disk = Disk::default();
    let mut node = Node::ready(&mut disk, small_config(2));
    node.commit(&mut disk, messages(1, 1, 900, NOW_MS));
    let mut writes = Vec::new();
    for number in 2..4 {
        node.submit(messages(number, 1, 3000, NOW_MS), NOW_MS);
        assert!(node.next_action(&mut disk, NOW_MS));
        let write = &node.issued[node.issued.len() - 1];
        writes.push((write.offset() as usize, encoded(write)));
    }
    let segment = SegmentNumber(1);
    let before = disk.bytes_mut(segment).clone();
    let sectors: Vec<(usize, &[u8])> = writes
        .iter()
        .flat_map(|(offset, bytes)| {
            bytes.chunks(SECTOR_BYTES).enumerate().map(move |(at, sector)| (offset + at * SECTOR_BYTES, sector))
        })
        .collect();
    assert_eq!(sectors.len(), 16);
    let mut ends = [0_u32; 3];
    for subset in 0..1_u32 << sectors.len() {
        let bytes = disk.bytes_mut(segment);
        bytes.copy_from_slice(&before);
        for (at, (offset, sector)) in sectors.iter().enumerate() {
            if subset & (1 << at) != 0 {
                bytes[*offset..offset + SECTOR_BYTES].copy_from_slice(sector);
            }
        }
        let mut found = Vec::new();
        let recovered = recover(&mut disk, SHARD, |_, record| found.extend(leaf_indices(&record)));
        let recovered = recovered.unwrap_or_else(|error| panic!("subset {subset:#x}: {error}"));
        // A sector of zeros says the same written or not: compare with what is there, not with the subset.
        let is_there =
            |(offset, frame): &(usize, Vec<u8>)| disk.bytes_mut(segment)[*offset..offset + frame.len()] == frame[..];
        let complete: Vec<bool> = writes.iter().map(is_there).collect();
        let expected = complete.iter().take_while(|complete| **complete).count();
        assert_eq!(found, (1..2 + expected as u32).collect::<Vec<_>>(), "subset {subset:#x}");
        assert_eq!(recovered.end_lsn(), Lsn(2 + expected as u64));
        ends[expected] += 1;
    }
    assert!(ends.iter().all(|&count| count > 0), "vacuous: {ends:?}");
}

#[test]
fn a_second_start_after_a_cut_never_brings_back_what_was_cut() {
    // Frame 3 is torn, frame 4 is whole. Both are cut; what the next epoch writes is what counts, after any number of starts.
    let mut disk = Disk::default();
    let mut node = Node::ready(&mut disk, small_config(2));
    node.commit(&mut disk, messages(1, 1, 900, NOW_MS));
    for number in 2..4 {
        node.submit(messages(number, 1, 900, NOW_MS), NOW_MS);
        assert!(node.next_action(&mut disk, NOW_MS));
        encoded(&node.issued[node.issued.len() - 1]);
    }
    let whole = node.issued.remove(1);
    disk.write(whole.segment(), whole.offset(), &encoded(&whole));
    disk.sync(whole.segment());
    node.issued.clear();
    node.crash(&mut disk, Crash::Power, &mut Random(1));
    for start in 0..4 {
        let mut node = Node::ready(&mut disk, small_config(2));
        node.commit(&mut disk, messages(10 + start, 1, 900, NOW_MS));
        let mut found = Vec::new();
        recover(&mut disk, SHARD, |_, record| found.extend(leaf_indices(&record))).unwrap();
        let expected: Vec<u32> = [1].into_iter().chain(10..=10 + start as u32).collect();
        assert_eq!(found, expected);
        node.crash(&mut disk, Crash::Kill, &mut Random(1));
    }
}

fn leaf_indices(record: &Record) -> Vec<u32> {
    match record {
        Record::BatchPart(part) => part.messages.iter().map(|message| message.leaf_index).collect(),
        _ => Vec::new(),
    }
}
