//! A log that is held while it is copied: what is copied recovers to exactly what was durable, whatever happens meanwhile.

use creto_store::{HeldLog, SegmentNumber, SegmentSource, recover};

use crate::disk::{Disk, Random};
use crate::node::{NOW_MS, Node, SHARD, messages, small_config};

/// The files of the held log, the last one cut at its end: what a backup copies.
fn copy(disk: &mut Disk, held: &HeldLog) -> Disk {
    let mut copy = Disk::default();
    for number in (held.first_segment.0..=held.last_segment.0).map(SegmentNumber) {
        let mut bytes = disk.bytes_mut(number).clone();
        if number == held.last_segment {
            bytes.truncate(usize::try_from(held.end_offset).unwrap());
        }
        copy.prepare(number, bytes.len() as u64, None);
        copy.write(number, 0, &bytes);
        copy.sync(number);
    }
    copy
}

/// Ids of all messages that recovery reads, in order.
fn recovered(disk: &mut Disk) -> (u64, Vec<creto_store::MessageId>) {
    let mut ids = Vec::new();
    let recovered = recover(disk, SHARD, |_, record| {
        if let creto_store::Record::BatchPart(part) = record {
            ids.extend(part.messages.iter().map(|message| message.message_id));
        }
    });
    (recovered.unwrap_or_else(|error| panic!("{error}")).end_lsn().0, ids)
}

#[test]
fn a_held_log_can_be_copied_while_its_segments_are_trimmed_and_wanted_for_reuse() {
    for seed in 0..40 {
        let mut random = Random(seed);
        let mut disk = Disk::default();
        let mut config = small_config(1 + random.below(3));
        config.recycled_segments_max = random.below(4);
        let mut node = Node::ready(&mut disk, config);
        let mut number = 1;
        let mut stored = Vec::new();
        let fill = |node: &mut Node, disk: &mut Disk, number: &mut u64, bytes: usize| {
            let mut new = Vec::new();
            for _ in 0..bytes.div_ceil(4_000) {
                new.extend(node.commit(disk, messages(*number, 1, 4_000, NOW_MS)));
                *number += 1;
            }
            new
        };
        stored.extend(fill(&mut node, &mut disk, &mut number, (2 + random.below(4)) * 64_000));
        // Some of it is trimmed before, so that the log does not begin with segment 1, and files wait for reuse.
        for message in stored.drain(..stored.len() / 2) {
            node.settle(&message);
        }
        node.commit(&mut disk, Vec::new());
        node.trim();
        if random.one_in(2) {
            // Otherwise the frame that states the new start is still to be written.
            node.commit(&mut disk, Vec::new());
        }

        let held = node.wal.hold().expect("the log has started");
        let mut at_hold = copy(&mut disk, &held);
        let (end_lsn, ids) = recovered(&mut at_hold);
        assert_eq!(end_lsn, held.end_lsn.0, "seed {seed}");
        for message in stored.drain(..) {
            node.settle(&message);
        }
        let mut rounds = Vec::new();
        for _ in 0..4 {
            node.commit(&mut disk, Vec::new());
            node.trim();
            let more = fill(&mut node, &mut disk, &mut number, 3 * 64_000);
            assert!(!more.is_empty(), "seed {seed}: the log goes on");
            rounds.push(more);
            for message in rounds.last().unwrap() {
                node.settle(message);
            }
        }
        node.commit(&mut disk, Vec::new());
        assert!(node.wal.log_start() > held.last_segment, "seed {seed}: nothing of the held log is needed any more");
        let mut later = copy(&mut disk, &held);
        assert_eq!(recovered(&mut later), (end_lsn, ids), "seed {seed}");
        assert!(node.wal.held_back_bytes() > 0);
        // A node opens the copy and goes on.
        let opened = Node::ready(&mut later, small_config(2));
        assert!(opened.wal.epoch() > held.epoch);

        node.wal.let_go();
        fill(&mut node, &mut disk, &mut number, 3 * 64_000);
        assert_eq!(node.wal.held_back_bytes(), 0);
        assert!(!disk.names().contains(&held.first_segment), "seed {seed}: what only the hold kept is gone");
    }
}

#[test]
fn an_older_last_segment_is_not_shortened_while_it_is_held() {
    let mut disk = Disk::default();
    let mut node = Node::ready(&mut disk, small_config(1));
    node.commit(&mut disk, messages(1, 3, 900, NOW_MS));
    drop(node);
    let started = Node::start(&mut disk, small_config(1), creto_store::MailboxesConfig::default(), 9, NOW_MS);
    let mut node = started.unwrap_or_else(|error| panic!("{error}")).0;
    assert_eq!(node.wal.hold(), None, "what recovery found is not proven durable before the start is");
    while !node.wal.is_started() {
        assert!(node.next_action(&mut disk, NOW_MS) || !node.issued.is_empty());
        node.write(&mut disk, &mut Random(1));
        node.sync(&mut disk, &mut Random(1));
    }
    let held = node.wal.hold().unwrap();
    assert_eq!((held.first_segment, held.last_segment), (SegmentNumber(1), SegmentNumber(2)));
    node.settle_down(&mut disk, &mut Random(1), NOW_MS);
    let bytes = |disk: &mut Disk| disk.segments().unwrap()[0].bytes;
    assert_eq!(bytes(&mut disk), 64 << 10);
    node.wal.let_go();
    node.settle_down(&mut disk, &mut Random(1), NOW_MS);
    assert!(bytes(&mut disk) < 64 << 10);
}
