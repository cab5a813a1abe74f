//! Cleaning: a few messages that wait do not hold the log, and the log takes no more than it should.

use std::collections::BTreeMap;

use bytes::Bytes;
use creto_store::{MailboxId, MessageFlags, PartMessage, Priority, SegmentNumber, SenderId, SettleCause, WalConfig};

use crate::disk::{Crash, Disk, Random};
use crate::node::{MAILBOX, NOW_MS, Node, message_id, messages};

fn config() -> WalConfig {
    WalConfig {
        segment_bytes: 1 << 20,
        frame_bytes_max: 128 << 10,
        wal_bytes_max: 4 << 30,
        pending_records_max: 1_000,
        pending_bytes_max: 1 << 20,
        writes_in_flight_max: 2,
        full_group_bytes: 128 << 10,
        recycled_segments_max: 1,
    }
}

/// Cleans and trims until nothing moves any more; returns how many messages were moved.
fn clean(node: &mut Node, disk: &mut Disk) -> usize {
    let (mut moved, mut quiet) = (0, 0);
    while quiet < 3 {
        let step = node.clean(disk);
        node.settle_down(disk, &mut Random(7), NOW_MS);
        let applied = node.take_durable().len();
        node.trim();
        if node.wal.space().bytes > node.mailboxes.space_bytes_max(node.wal.segment_bytes()) {
            node.wal.drop_spare();
        }
        node.settle_down(disk, &mut Random(7), NOW_MS);
        let done = step + applied + node.take_durable().len();
        quiet = if done == 0 && !node.mailboxes.is_cleaning() { quiet + 1 } else { 0 };
        moved += step;
    }
    moved
}

#[test]
fn a_message_that_nobody_reads_does_not_hold_the_log() {
    let mut disk = Disk::default();
    let mut node = Node::ready(&mut disk, config());
    let straggler = node.commit(&mut disk, messages(1, 1, 900, NOW_MS)).remove(0);
    let mut number = 2;
    for _ in 0..300 {
        let stored = node.commit(&mut disk, messages(number, 20, 1_000, NOW_MS));
        number += 20;
        for message in &stored {
            node.settle(message).unwrap();
        }
        node.commit(&mut disk, Vec::new());
        clean(&mut node, &mut disk);
        let (bytes, most) = (node.wal.space().bytes, node.mailboxes.space_bytes_max(1 << 20));
        assert!(bytes <= most, "{bytes} bytes, {most} at most");
    }
    assert!(node.wal.log_start() > SegmentNumber(5), "{} bytes were written", number * 1_100);
    let left: Vec<_> = node.deliveries(&mut disk, MAILBOX, NOW_MS).into_iter().map(|d| d.message).collect();
    assert_eq!(left, std::slice::from_ref(&straggler));
    // Where it was first is long gone: after a restart it is the same message, and a settle ends it.
    node.crash(&mut disk, Crash::Power, &mut Random(3));
    let mut node = Node::ready(&mut disk, config());
    let left: Vec<_> = node.deliveries(&mut disk, MAILBOX, NOW_MS).into_iter().map(|d| d.message).collect();
    assert_eq!(left, std::slice::from_ref(&straggler));
    node.settle(&straggler).unwrap();
    node.commit(&mut disk, Vec::new());
    node.crash(&mut disk, Crash::Power, &mut Random(4));
    let node = Node::ready(&mut disk, config());
    assert_eq!(node.mailboxes.messages(), 0);
}

#[test]
fn a_dead_letter_does_not_hold_the_log_and_stays_dead_wherever_it_is_moved() {
    let mut disk = Disk::default();
    let mut node = Node::ready(&mut disk, config());
    let stored = node.commit(&mut disk, messages(1, 3, 900, NOW_MS));
    node.reject(&mut disk, &stored[0], NOW_MS);
    node.reject(&mut disk, &stored[1], NOW_MS);
    node.settle(&stored[2]).unwrap();
    node.commit(&mut disk, Vec::new());
    let mut number = 10;
    for round in 0..120 {
        let stored = node.commit(&mut disk, messages(number, 20, 1_000, NOW_MS));
        number += 20;
        for message in &stored {
            node.settle(message).unwrap();
        }
        node.commit(&mut disk, Vec::new());
        clean(&mut node, &mut disk);
        let (bytes, most) = (node.wal.space().bytes, node.mailboxes.space_bytes_max(1 << 20));
        assert!(bytes <= most, "{bytes} bytes, {most} at most");
        if round % 40 == 39 {
            node.crash(&mut disk, Crash::Power, &mut Random(round));
            node = Node::ready(&mut disk, config());
            assert!(node.deliveries(&mut disk, MAILBOX, NOW_MS).is_empty());
        }
    }
    assert!(node.wal.log_start() > SegmentNumber(2), "what first said that they are dead is long gone");
    let listed = node.mailboxes.dead_letters(MAILBOX, 0, 9);
    let reasons: Vec<_> = listed.iter().map(|listed| (listed.letter.sequence, listed.letter.reason)).collect();
    assert_eq!(reasons, [(stored[0].sequence, 7), (stored[1].sequence, 7)]);
    assert_eq!(node.letter(&mut disk, MAILBOX, stored[0].sequence).as_ref(), Some(&stored[0]));
    // One lives again, for good; the other one is purged.
    assert!(node.revive(&stored[1]));
    let purge = node.mailboxes.purge(MAILBOX, &[stored[0].sequence]).unwrap();
    node.wal.append(creto_store::Record::Settle(purge)).unwrap();
    node.commit(&mut disk, Vec::new());
    node.crash(&mut disk, Crash::Power, &mut Random(9));
    let mut node = Node::ready(&mut disk, config());
    let left: Vec<_> = node.deliveries(&mut disk, MAILBOX, NOW_MS).into_iter().map(|d| d.message).collect();
    assert_eq!(left, stored[1..2]);
    assert!(node.mailboxes.dead_letters(MAILBOX, 0, 9).is_empty());
}

/// One message, and nothing else on the shard that would be settled.
#[test]
fn rejecting_and_replaying_one_message_over_and_over_does_not_fill_the_log() {
    let mut disk = Disk::default();
    let mut node = Node::ready(&mut disk, config());
    let stored = node.commit(&mut disk, messages(1, 1, 900, NOW_MS)).remove(0);
    for round in 0..3_000 {
        node.reject(&mut disk, &stored, NOW_MS);
        node.commit(&mut disk, Vec::new());
        assert!(node.revive(&stored));
        node.commit(&mut disk, Vec::new());
        if round % 50 == 49 {
            clean(&mut node, &mut disk);
            let (bytes, most) = (node.wal.space().bytes, node.mailboxes.space_bytes_max(1 << 20));
            assert!(bytes <= most, "round {round}: {bytes} bytes, {most} at most");
        }
    }
    assert!(node.wal.log_start() > SegmentNumber(10), "the log went on past all of it");
    let left: Vec<_> = node.deliveries(&mut disk, MAILBOX, NOW_MS).into_iter().map(|d| d.message).collect();
    assert_eq!(left, [stored]);
}

#[test]
fn a_long_mixed_run_takes_no_more_space_than_it_should_and_keeps_every_order() {
    let mut random = Random(std::env::var("CRETO_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(11));
    let mut disk = Disk::default();
    let mut node = Node::ready(&mut disk, config());
    let mut queued: BTreeMap<u64, PartMessage> = BTreeMap::new();
    let (mut number, mut moved, mut written, mut most_used) = (0_u64, 0, 0_u64, 0.0_f64);
    for round in 0..400 {
        for _ in 0..6 {
            let count = 1 + random.below(30) as u64;
            let parts: Vec<_> = (0..count).map(|at| any_message(&mut random, number + at)).collect();
            number += count;
            let stored = node.submit(parts, NOW_MS);
            written += stored.iter().map(|message| message.encoded_bytes() as u64).sum::<u64>();
            queued.extend(stored.into_iter().map(|message| (message.sequence, message)));
        }
        node.commit(&mut disk, Vec::new());
        // Phases of growth and of decline; some messages are never read before the end.
        let settled = if round % 100 < 60 { 60 } else { 140 };
        let known: Vec<PartMessage> = queued.values().filter(|m| m.sequence % 37 != 0).take(settled).cloned().collect();
        for message in known {
            node.settle(&message).unwrap();
            queued.remove(&message.sequence);
        }
        node.commit(&mut disk, Vec::new());
        if round % 4 == 0 {
            moved += clean(&mut node, &mut disk);
            let needed: u64 = queued.values().map(|message| message.encoded_bytes() as u64 + 128).sum();
            let carried = 16 * number + 32 * 4;
            let (used, most) = (node.wal.space().bytes, (needed + carried) * 3 / 2 + (2 << 20));
            assert!(used <= most, "round {round}: {used} bytes for {needed} needed, {most} at most");
            most_used = most_used.max(used as f64 / (needed as f64 * 1.5 + (2 << 20) as f64));
        }
    }
    println!("{number} messages, {written} bytes, {moved} moved; at most {most_used:.2} of the space allowed");
    assert!(moved > 1_000 && node.wal.log_start() > SegmentNumber(10), "vacuous: {moved}");
    for restart in 0..2 {
        for mailbox in 0..MAILBOXES {
            let found: Vec<_> = node.deliveries(&mut disk, mailbox_id(mailbox), NOW_MS);
            let found: Vec<_> = found.into_iter().map(|delivery| delivery.message).collect();
            let mut expected: Vec<_> = queued.values().filter(|m| m.mailbox == mailbox_id(mailbox)).cloned().collect();
            expected.sort_by_key(|message| (std::cmp::Reverse(message.priority), message.sequence));
            assert!(found == expected, "mailbox {mailbox}, restart {restart}");
        }
        node.crash(&mut disk, Crash::Power, &mut Random(restart));
        node = Node::ready(&mut disk, config());
    }
    // All of it is settled: what is left is what is written to, and the next.
    for message in queued.values() {
        if node.mailboxes.settle(message.mailbox, &[message.sequence], SettleCause::Acknowledged).is_some() {
            let settle = creto_store::Settle {
                mailbox: message.mailbox,
                cause: SettleCause::Acknowledged,
                sequences: vec![message.sequence],
            };
            while node.wal.append(creto_store::Record::Settle(settle.clone())).is_err() {
                node.commit(&mut disk, Vec::new());
            }
        }
    }
    node.commit(&mut disk, Vec::new());
    clean(&mut node, &mut disk);
    assert_eq!(node.mailboxes.messages(), 0);
    let used = node.wal.space().bytes;
    assert!(used <= (2 << 20) + 16 * number * 3 / 2, "{used} bytes for nothing");
}

const MAILBOXES: u8 = 5;

fn mailbox_id(number: u8) -> MailboxId {
    MailboxId([number + 1; 16])
}

fn any_message(random: &mut Random, number: u64) -> PartMessage {
    let fill = number as u8;
    PartMessage {
        mailbox: mailbox_id(random.below(usize::from(MAILBOXES)) as u8),
        sender: SenderId([random.below(4) as u8 + 1; 16]),
        message_id: message_id(NOW_MS, number + 1_000),
        sequence: 0,
        expiry_ms: 0,
        leaf_index: 0,
        priority: Priority::from_byte(random.below(4) as u8).unwrap(),
        flags: MessageFlags::NONE,
        salt: [fill; 16],
        path: Bytes::from(vec![fill; 32 * random.below(4)]),
        envelope: Bytes::from(vec![fill; 200 + random.below(2_500)]),
    }
}
