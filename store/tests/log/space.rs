//! What the log does besides writing: acknowledge a prefix, fence, fill up, give space back, forget nothing it needs.

use creto_store::limits::FULL_GROUPS_AHEAD;
use creto_store::{
    Action, ActionId, Admit, AppendError, DiskError, Lsn, MailboxesConfig, Record, RecordSequence, Refusal,
    SegmentNumber, SettleCause, recover,
};

use crate::disk::{Crash, Disk, Random};
use crate::node::{MAILBOX, NOW_MS, Node, SENDER, SHARD, message_id, messages, small_config};

#[test]
fn only_the_contiguous_prefix_becomes_durable() {
    let mut disk = Disk::default();
    let mut node = Node::ready(&mut disk, small_config(3));
    for number in 1..4 {
        node.submit(messages(number, 1, 900, NOW_MS), NOW_MS);
        assert!(node.next_action(&mut disk, NOW_MS));
        crate::node::encoded(node.issued.last().unwrap());
    }
    let ids: Vec<_> = node.issued.iter().map(|write| write.id()).collect();
    node.wal.completed(ids[2], Ok(())).unwrap();
    node.wal.completed(ids[1], Ok(())).unwrap();
    assert!(node.take_durable().is_empty());
    assert_eq!(node.wal.durable(), RecordSequence(1), "only the start");
    node.wal.completed(ids[0], Ok(())).unwrap();
    let durable = node.take_durable();
    assert_eq!(durable.iter().map(|durable| durable.position.lsn.0).collect::<Vec<_>>(), [2, 3, 4]);
    assert_eq!(node.wal.durable(), node.wal.appended());
}

#[test]
fn a_group_commit_takes_what_arrived_while_the_last_one_was_on_its_way() {
    let mut disk = Disk::default();
    let mut node = Node::ready(&mut disk, small_config(1));
    for number in 1..6 {
        node.submit(messages(number, 1, 100, NOW_MS), NOW_MS);
        node.next_action(&mut disk, NOW_MS);
    }
    node.settle_down(&mut disk, &mut Random(1), NOW_MS);
    let lsns: Vec<_> = node.take_durable().iter().map(|durable| durable.position.lsn.0).collect();
    assert_eq!(lsns, [2, 3, 3, 3, 3]);
}

#[test]
fn a_full_group_does_not_wait_for_the_one_on_its_way_and_others_do() {
    let mut disk = Disk::default();
    let mut node = Node::ready(&mut disk, small_config(1));
    // Writes on their way after everything was asked for.
    let mut submit = |number: u64, count: u64, disk: &mut Disk| {
        node.submit(messages(number, count, 900, NOW_MS), NOW_MS);
        while node.next_action(disk, NOW_MS) {
            crate::node::encoded(node.issued.last().unwrap());
        }
        node.issued.len()
    };
    assert_eq!(submit(1, 1, &mut disk), 1);
    assert_eq!(submit(2, 1, &mut disk), 1, "a group that is not full waits");
    assert_eq!(submit(3, 5, &mut disk), 2, "a full one leaves");
    let most = 1 + FULL_GROUPS_AHEAD;
    assert_eq!((0..9).map(|n| submit(8 + 5 * n, 5, &mut disk)).max(), Some(most), "but no more than that");
    let second = node.issued[1].id();
    node.wal.completed(second, Ok(())).unwrap();
    assert!(node.take_durable().is_empty(), "what is before it is not durable yet");
    let first = node.issued.remove(0).id();
    node.wal.completed(first, Ok(())).unwrap();
    let lsns: Vec<_> = node.take_durable().iter().map(|durable| durable.position.lsn.0).collect();
    assert_eq!(lsns, [2, 3, 3], "and now it is, and no more than it");
}

#[test]
fn a_group_takes_records_until_it_is_full() {
    let mut disk = Disk::default();
    let mut node = Node::ready(&mut disk, small_config(1));
    let full_group_bytes = node.config.full_group_bytes;
    for number in 1..24 {
        node.submit(messages(number, 1, 900, NOW_MS), NOW_MS);
    }
    node.settle_down(&mut disk, &mut Random(1), NOW_MS);
    let mut groups = std::collections::BTreeMap::<_, Vec<usize>>::new();
    for durable in node.take_durable() {
        groups.entry(durable.position.lsn).or_default().push(durable.record.encoded_bytes());
    }
    assert_eq!(groups.values().map(Vec::len).sum::<usize>(), 23);
    // The first to reach it is the last that is taken.
    let is_full = |group: &[usize]| group.iter().sum::<usize>() >= full_group_bytes;
    let groups: Vec<_> = groups.into_values().collect();
    let (last, others) = groups.split_last().unwrap();
    assert!(others.iter().all(|group| is_full(group) && !is_full(&group[1..])), "{groups:?}");
    assert!(others.len() > 2 && !is_full(last), "{groups:?}");
}

#[test]
fn a_failed_write_fences_the_log_for_ever() {
    let mut disk = Disk::default();
    let mut node = Node::ready(&mut disk, small_config(2));
    for number in 1..3 {
        node.submit(messages(number, 1, 900, NOW_MS), NOW_MS);
        assert!(node.next_action(&mut disk, NOW_MS));
        crate::node::encoded(node.issued.last().unwrap());
    }
    let fenced = node.wal.completed(node.issued[0].id(), Err(DiskError::Io("input/output error".into()))).unwrap_err();
    assert!(fenced.to_string().starts_with("the log is fenced since writing frame 2 to segment 1 failed"), "{fenced}");
    // The write behind it went well, and is still not acknowledged.
    assert_eq!(node.wal.completed(node.issued[1].id(), Ok(())), Err(fenced.clone()));
    assert!(node.take_durable().is_empty() && !node.next_action(&mut disk, NOW_MS));
    let record =
        Record::Settle(creto_store::Settle { mailbox: MAILBOX, cause: SettleCause::Acknowledged, sequences: vec![1] });
    assert_eq!(node.wal.append(record), Err(AppendError::Fenced(fenced)));
}

/// Of a small log.
fn six_segments() -> creto_store::WalConfig {
    let mut config = small_config(1);
    config.wal_bytes_max = 6 * config.segment_bytes;
    config
}

/// A log of six segments that takes no message of so many bytes any more, and what it holds.
fn full(disk: &mut Disk, bytes: usize) -> (Node, Vec<creto_store::PartMessage>) {
    let mut node = Node::ready(disk, six_segments());
    let mut stored = Vec::new();
    loop {
        let submitted = node.commit(disk, messages(1 + stored.len() as u64, 1, bytes, NOW_MS));
        if submitted.is_empty() {
            return (node, stored);
        }
        stored.extend(submitted);
    }
}

#[test]
fn a_full_log_refuses_messages_takes_settles_and_comes_back() {
    let mut disk = Disk::default();
    let (mut node, stored) = full(&mut disk, 9000);
    let record = |node: &mut Node, message: &creto_store::PartMessage| {
        let settle = node.mailboxes.settle(MAILBOX, &[message.sequence], SettleCause::Acknowledged).unwrap();
        node.wal.append(Record::Settle(settle))
    };
    let part = Record::BatchPart(creto_store::BatchPart {
        batch_header: bytes::Bytes::new(),
        messages: messages(9999, 1, 9000, NOW_MS),
    });
    assert_eq!(node.wal.check_append(&part), Err(AppendError::StorageFull));
    // What its consumer rejects dies all the same, and lives again.
    node.reject(&mut disk, &stored[0], NOW_MS);
    node.commit(&mut disk, Vec::new());
    assert_eq!(node.mailboxes.dead_messages(MAILBOX), 1);
    assert!(node.revive(&stored[0]));
    node.commit(&mut disk, Vec::new());
    assert_eq!(node.mailboxes.dead_messages(MAILBOX), 0);
    for message in &stored {
        record(&mut node, message).unwrap();
        node.commit(&mut disk, Vec::new());
    }
    assert!(disk.names().len() as u64 <= 6, "{:?}", disk.names());
    node.trim();
    node.commit(&mut disk, Vec::new());
    node.wal.check_append(&part).unwrap();
    assert_eq!(node.commit(&mut disk, messages(5000, 1, 9000, NOW_MS)).len(), 1);
}

/// Nothing comes back meanwhile: every message is still wanted.
#[test]
fn whoever_refuses_and_replays_a_message_over_and_over_gets_no_further_than_the_log_may_grow() {
    let mut disk = Disk::default();
    let (mut node, stored) = full(&mut disk, 9000);
    let mut replays = 0;
    loop {
        node.reject(&mut disk, &stored[0], NOW_MS);
        node.commit(&mut disk, Vec::new());
        assert_eq!(node.mailboxes.dead_messages(MAILBOX), 1);
        if !node.revive(&stored[0]) {
            break;
        }
        node.commit(&mut disk, Vec::new());
        replays += 1;
        assert!(replays < 1_000, "a replay is refused in the end");
    }
    assert!(replays > 0 && disk.names().len() as u64 <= 6, "{replays} replays, {:?}", disk.names());
    for message in &stored {
        let settle = node.mailboxes.settle(MAILBOX, &[message.sequence], SettleCause::Acknowledged).unwrap();
        node.wal.append(Record::Settle(settle)).unwrap();
        node.commit(&mut disk, Vec::new());
    }
    node.trim();
    node.commit(&mut disk, Vec::new());
    assert_eq!(node.commit(&mut disk, messages(5000, 1, 9000, NOW_MS)).len(), 1);
}

#[test]
fn a_disk_without_space_refuses_messages_and_is_asked_again() {
    let mut disk = Disk::default();
    let mut node = Node::ready(&mut disk, small_config(1));
    let mut number = 1;
    let prepare = loop {
        node.submit(messages(number, 1, 6000, NOW_MS), NOW_MS);
        number += 1;
        match node.wal.next_action(NOW_MS) {
            Some(creto_store::Action::Prepare { id, .. }) => break id,
            Some(creto_store::Action::Write(write)) => {
                disk.write(write.segment(), write.offset(), &crate::node::encoded(&write));
                disk.sync(write.segment());
                node.wal.completed(write.id(), Ok(())).unwrap();
            }
            other => panic!("{other:?}"),
        }
    };
    node.wal.completed(prepare, Err(DiskError::NoSpace)).unwrap();
    node.settle_down(&mut disk, &mut Random(1), NOW_MS);
    assert!(node.submit(messages(1000, 1, 6000, NOW_MS), NOW_MS).is_empty());
    node.wal.retry_space();
    assert_eq!(node.commit(&mut disk, messages(1001, 1, 6000, NOW_MS)).len(), 1);
    assert!(node.wal.is_idle());
}

#[test]
fn messages_are_refused_while_the_disk_still_has_room_for_settling() {
    let mut disk = Disk::default();
    let mut node = Node::ready(&mut disk, small_config(1));
    let part = Record::BatchPart(creto_store::BatchPart {
        batch_header: bytes::Bytes::new(),
        messages: messages(5000, 1, 6000, NOW_MS),
    });
    let segment = node.wal.segment_bytes();
    node.wal.set_disk_room(4 * segment);
    node.wal.check_append(&part).unwrap();
    let open = node.wal.space();
    assert!(open.message_bytes_left > 0 && open.bytes_max == open.bytes + 4 * segment);
    // What others leave of the disk is less than what the log keeps for itself.
    node.wal.set_disk_room(segment / 2);
    assert_eq!(node.wal.space().message_bytes_left, 0);
    assert_eq!(node.wal.check_append(&part), Err(AppendError::StorageFull));
    node.wal.check_room(creto_store::AppendClass::Settle, 4096).unwrap();
    node.wal.set_disk_room(4 * segment);
    assert_eq!(node.commit(&mut disk, messages(5000, 1, 6000, NOW_MS)).len(), 1);
}

#[test]
fn too_much_pending_and_too_large_records_are_refused() {
    let mut disk = Disk::default();
    let mut node = Node::ready(&mut disk, small_config(1));
    let part = |count, bytes| {
        Record::BatchPart(creto_store::BatchPart {
            batch_header: bytes::Bytes::new(),
            messages: messages(1, count, bytes, NOW_MS),
        })
    };
    let bytes_max = node.wal.record_bytes_max();
    let too_large = part(2, 8100);
    assert_eq!(
        node.wal.append(too_large.clone()),
        Err(AppendError::RecordTooLarge { bytes: too_large.encoded_bytes(), bytes_max })
    );
    let largest = part(1, bytes_max - 8 - 8 - 96 - 64);
    assert_eq!(largest.encoded_bytes(), bytes_max);
    let mut taken = 0;
    let refused = loop {
        match node.wal.append(largest.clone()) {
            Ok(_) => taken += 1,
            Err(error) => break error,
        }
    };
    assert_eq!((taken, refused), (4, AppendError::Full));
}

#[test]
fn a_confirmed_log_finds_damage_of_its_last_message() {
    for confirmed in [false, true] {
        let mut disk = Disk::default();
        let mut node = Node::ready(&mut disk, small_config(1));
        node.commit(&mut disk, messages(1, 1, 900, NOW_MS));
        if confirmed {
            node.wal.confirm();
            node.commit(&mut disk, Vec::new());
            node.wal.confirm();
            assert!(!node.next_action(&mut disk, NOW_MS), "once is enough");
        }
        disk.bytes_mut(SegmentNumber(1))[8192 + 300] ^= 1;
        let recovered = recover(&mut disk, SHARD, |_, _| ());
        assert_eq!(recovered.is_err(), confirmed);
    }
}

#[test]
fn ids_outlive_the_segments_that_brought_them() {
    let mut disk = Disk::default();
    let mut node = Node::ready(&mut disk, small_config(1));
    for number in 1..=60 {
        for message in node.commit(&mut disk, messages(number, 1, 6000, NOW_MS)) {
            node.settle(&message).unwrap();
        }
        node.trim();
        node.commit(&mut disk, Vec::new());
    }
    let sequence_before = match node.mailboxes.admit(SENDER, message_id(NOW_MS, 70), MAILBOX, 1, NOW_MS) {
        Ok(Admit::New(sequence)) => sequence,
        other => panic!("{other:?}"),
    };
    assert!(node.wal.log_start() > SegmentNumber(5) && disk.names()[0] > SegmentNumber(2), "vacuous");
    node.crash(&mut disk, Crash::Power, &mut Random(1));
    let mut node = Node::ready(&mut disk, small_config(1));
    assert_eq!(node.mailboxes.messages(), 0);
    for number in 1..=60 {
        let again = node.mailboxes.admit(SENDER, message_id(NOW_MS, number), MAILBOX, 1, NOW_MS);
        assert_eq!(again, Ok(Admit::Duplicate { durable: true }), "message {number}");
    }
    let next = node.mailboxes.admit(SENDER, message_id(NOW_MS, 71), MAILBOX, 1, NOW_MS);
    assert_eq!(next, Ok(Admit::New(sequence_before)), "sequences are never given twice, and not forgotten");
}

#[test]
fn the_floor_outlives_the_segments_and_the_restart() {
    let mut disk = Disk::default();
    let mut config = MailboxesConfig::default();
    config.dedup.sender_ids_max = 10;
    let start = |disk: &mut Disk| {
        let mut node = Node::start(disk, small_config(1), config.clone(), 9, NOW_MS).unwrap().0;
        node.settle_down(disk, &mut Random(1), NOW_MS);
        node.take_durable();
        node
    };
    let mut node = start(&mut disk);
    for number in 1..=40 {
        for message in node.commit(&mut disk, messages(number, 1, 6000, NOW_MS + number)) {
            node.settle(&message).unwrap();
        }
        node.trim();
        node.commit(&mut disk, Vec::new());
    }
    node.crash(&mut disk, Crash::Kill, &mut Random(1));
    let mut node = start(&mut disk);
    for number in 1..=40 {
        let again = node.mailboxes.admit(SENDER, message_id(NOW_MS + number, number), MAILBOX, 1, NOW_MS);
        let expected =
            if number <= 30 { Err(Refusal::OutsideDedupWindow) } else { Ok(Admit::Duplicate { durable: true }) };
        assert_eq!(again, expected, "message {number}");
    }
    assert!(node.wal.durable_lsn() > Lsn(40));
}

#[test]
fn a_log_that_one_message_holds_back_comes_back_when_that_message_is_settled() {
    let mut disk = Disk::default();
    let (mut node, stored) = full(&mut disk, 600);
    // Everybody acknowledges, one message at a time, but the reader of the oldest one.
    let mut settled = 0;
    for message in &stored[1..] {
        settled += usize::from(node.settle(message).is_some());
        node.trim();
        node.settle_down(&mut disk, &mut Random(1), NOW_MS);
        node.take_durable();
    }
    println!("{} stored, {settled} settled, {:?}", stored.len(), node.wal.space());
    // Now it does, and the log must come back: here, or after a restart.
    let here = node.settle(&stored[0]).is_some();
    node.crash(&mut disk, Crash::Kill, &mut Random(1));
    let mut node = Node::ready(&mut disk, six_segments());
    let there = here || node.settle(&stored[0]).is_some();
    assert!(there, "the one message that holds all space back can never be settled");
}

#[test]
fn a_file_that_is_being_deleted_is_not_kept_for_reuse() {
    let mut disk = Disk::default();
    let mut config = small_config(1);
    config.recycled_segments_max = 2;
    let mut node = Node::ready(&mut disk, config);
    let mut deleting = Vec::new();
    let mut recycled = Vec::new();
    // Does all that is asked for, but for what deletes a file: that takes its time.
    let mut work = |node: &mut Node, disk: &mut Disk, deleting: &mut Vec<(ActionId, SegmentNumber)>| {
        while let Some(action) = node.wal.next_action(NOW_MS) {
            match &action {
                Action::Write(write) => {
                    disk.write(write.segment(), write.offset(), &crate::node::encoded(write));
                    disk.sync(write.segment());
                }
                Action::Prepare { segment, bytes, recycle, .. } => {
                    recycled.extend(*recycle);
                    disk.prepare(*segment, *bytes, *recycle);
                }
                Action::Delete { id, segment } => {
                    deleting.push((*id, *segment));
                    continue;
                }
                _ => {}
            }
            node.wal.completed(action.id(), Ok(())).unwrap();
        }
        node.take_durable();
        recycled.clone()
    };
    let mut number = 0;
    let mut fill = |node: &mut Node, frames: u64| {
        for _ in 0..frames {
            number += 1;
            node.submit(messages(number, 1, 6000, NOW_MS), NOW_MS);
        }
    };
    // Seven frames of 8 KiB to a segment: the fourth is begun, and the next one is made.
    for _ in 0..27 {
        fill(&mut node, 1);
        work(&mut node, &mut disk, &mut deleting);
    }
    assert_eq!(node.wal.active_segment(), SegmentNumber(4));
    node.wal.trim(SegmentNumber(4), Vec::new()).unwrap();
    work(&mut node, &mut disk, &mut deleting);
    let [(id, being_deleted)] = deleting[..] else { panic!("{deleting:?}") };
    // While it is being deleted, room is made among those kept for reuse, and the log is trimmed again.
    node.wal.drop_spare();
    while node.wal.active_segment() == SegmentNumber(4) {
        fill(&mut node, 1);
        work(&mut node, &mut disk, &mut deleting);
    }
    node.wal.trim(SegmentNumber(5), Vec::new()).unwrap();
    work(&mut node, &mut disk, &mut deleting);
    disk.delete(being_deleted);
    node.wal.completed(id, Ok(())).unwrap();
    let mut reused = Vec::new();
    for _ in 0..40 {
        fill(&mut node, 1);
        reused = work(&mut node, &mut disk, &mut deleting);
        for (id, segment) in deleting.drain(..).filter(|(pending, _)| *pending != id) {
            disk.delete(segment);
            node.wal.completed(id, Ok(())).unwrap();
        }
    }
    assert!(reused.len() > 1 && !reused.contains(&being_deleted), "{reused:?} and not {being_deleted:?}");
}

#[test]
fn a_file_whose_deletion_failed_is_not_kept_for_reuse() {
    let mut disk = Disk::default();
    let mut node = Node::ready(&mut disk, small_config(1));
    let mut number = 0;
    let mut fails = true;
    let mut reused = Vec::new();
    let mut fill = |node: &mut Node, disk: &mut Disk, frames: usize| {
        for _ in 0..frames {
            number += 1;
            node.submit(messages(number, 1, 6000, NOW_MS), NOW_MS);
            while let Some(action) = node.wal.next_action(NOW_MS) {
                let mut outcome = Ok(());
                match &action {
                    Action::Write(write) => {
                        disk.write(write.segment(), write.offset(), &crate::node::encoded(write));
                        disk.sync(write.segment());
                    }
                    Action::Prepare { segment, bytes, recycle, .. } => {
                        reused.extend(*recycle);
                        disk.prepare(*segment, *bytes, *recycle);
                    }
                    // It is gone, and the folder cannot be synced.
                    Action::Delete { segment, .. } => {
                        disk.delete(*segment);
                        if std::mem::take(&mut fails) {
                            assert_eq!(*segment, SegmentNumber(2));
                            outcome = Err(DiskError::Io("input/output error".into()));
                        }
                    }
                    _ => {}
                }
                node.wal.completed(action.id(), outcome).unwrap();
            }
            node.take_durable();
        }
        reused.clone()
    };
    // Seven frames of 8 KiB to a segment.
    fill(&mut node, &mut disk, 27);
    // Of the first two, one is kept for reuse and given back, the other cannot be deleted.
    node.wal.trim(SegmentNumber(3), Vec::new()).unwrap();
    fill(&mut node, &mut disk, 1);
    node.wal.drop_spare();
    fill(&mut node, &mut disk, 1);
    node.wal.trim(SegmentNumber(4), Vec::new()).unwrap();
    let reused = fill(&mut node, &mut disk, 30);
    assert!(!reused.is_empty() && !reused.contains(&SegmentNumber(2)), "{reused:?}");
}
