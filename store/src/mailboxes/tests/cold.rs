//! What is read back from the log.

use super::*;
use crate::limits::{READ_AHEAD_BYTES, READ_TRIES_MAX};
use crate::wal::DiskError;

fn without_cache() -> MailboxesConfig {
    MailboxesConfig { cache_bytes: 0, ..MailboxesConfig::default() }
}

/// A part of messages with these numbers and this size, all for the inbox.
fn admit_part(shard: &mut Shard, numbers: std::ops::Range<u64>, header: &Bytes, envelope_bytes: usize) -> BatchPart {
    let messages = numbers.map(|number| {
        let admitted = shard.mailboxes.admit(SENDER, message_id(number), INBOX, envelope_bytes, NOW_MS);
        let Ok(Admit::New(sequence)) = admitted else { panic!("message {number}: {admitted:?}") };
        let envelope = Bytes::from(vec![u64::to_le_bytes(number)[0]; envelope_bytes]);
        part(sequence, number, Priority::Normal, envelope).messages.remove(0)
    });
    BatchPart { batch_header: header.clone(), messages: messages.collect() }
}

#[test]
fn what_the_cache_let_go_comes_from_the_log_as_it_was() {
    let mut shard = Shard::new(without_cache());
    let mut expected = Vec::new();
    for (first, header_bytes, envelope_bytes) in [(1, 3448, 1000), (21, 0, 17), (41, 4096, 5000), (61, 60_000, 100)] {
        let header = Bytes::from(vec![u64::to_le_bytes(first)[0]; header_bytes]);
        let part = admit_part(&mut shard, first..first + 20, &header, envelope_bytes);
        expected.extend(part.messages.iter().map(|message| (message.clone(), header.clone(), 1)));
        shard.apply(Record::BatchPart(part));
        shard.mailboxes.end_turn();
    }
    assert_eq!(shard.mailboxes.cached_bytes(), 0);
    let deliveries = shard.deliveries(1_000, u64::MAX, NOW_MS);
    let found: Vec<_> = deliveries.iter().map(|d| (d.message.clone(), d.batch_header.clone(), d.attempt)).collect();
    assert_eq!(found, expected);
    assert_eq!(shard.reads, 3, "near things are read in one go; a long header, and what is behind it, are not near");
    let records = deliveries.chunk_by(|a, b| a.record == b.record).map(<[_]>::len).collect::<Vec<_>>();
    assert_eq!(records, [20; 4]);
    shard.settle(&deliveries.iter().map(|delivery| delivery.message.sequence).collect::<Vec<_>>()).unwrap();
    assert_eq!(shard.mailboxes.messages(), 0);
}

#[test]
fn a_message_alone_may_be_longer_than_what_is_read_ahead() {
    let mut shard = Shard::new(without_cache());
    for number in 1..=2 {
        let part = admit_part(&mut shard, number..number + 1, &Bytes::from_static(b"header"), 2 * READ_AHEAD_BYTES);
        shard.apply(Record::BatchPart(part));
    }
    shard.mailboxes.end_turn();
    assert_eq!(shard.deliver(10), [(1, 1), (2, 1)]);
    assert_eq!(shard.reads, 2);
}

#[test]
fn only_what_credit_allows_is_read() {
    let mut shard = Shard::new(without_cache());
    let part = admit_part(&mut shard, 1..101, &Bytes::from_static(b"header"), 10_000);
    shard.apply(Record::BatchPart(part));
    shard.mailboxes.end_turn();
    assert!(shard.mailboxes.next_for_delivery(INBOX, 3, u64::MAX, NOW_MS).is_empty());
    let read = shard.mailboxes.next_read().unwrap();
    assert!(read.bytes < 50_000 && shard.mailboxes.next_read().is_none(), "{read:?}");
    assert!(shard.mailboxes.next_for_delivery(INBOX, 10, u64::MAX, NOW_MS).is_empty(), "it is on its way");
    assert!(shard.mailboxes.next_read().is_none(), "a mailbox reads one piece at a time");
    let content = shard.bytes(read.segment, read.offset, read.bytes);
    assert_eq!(shard.mailboxes.read_completed(read.id, Ok(content)).ready, Some(INBOX));
    assert_eq!(shard.mailboxes.next_for_delivery(INBOX, 10, u64::MAX, NOW_MS).len(), 3);
}

#[test]
fn what_is_settled_while_it_is_read_is_dropped() {
    let mut shard = Shard::new(without_cache());
    for number in 1..=3 {
        shard.queue(number, Priority::Normal);
    }
    shard.mailboxes.end_turn();
    assert!(shard.mailboxes.next_for_delivery(INBOX, 10, u64::MAX, NOW_MS).is_empty());
    let read = shard.mailboxes.next_read().unwrap();
    let content = shard.bytes(read.segment, read.offset, read.bytes);
    shard.settle(&[1, 2]).unwrap();
    // The slots are given to others at once.
    for number in 11..=12 {
        shard.queue(number, Priority::Low);
    }
    assert_eq!(shard.mailboxes.read_completed(read.id, Ok(content)).messages, 1);
    let deliveries = shard.mailboxes.next_for_delivery(INBOX, 10, u64::MAX, NOW_MS);
    let found: Vec<_> = deliveries.iter().map(|delivery| delivery.message.leaf_index).collect();
    assert_eq!(found, [3, 11, 12]);

    // All of it is settled, and its file gone: nobody is told of a failed read.
    let mut shard = Shard::new(without_cache());
    shard.queue(1, Priority::Normal);
    shard.mailboxes.end_turn();
    assert!(shard.mailboxes.next_for_delivery(INBOX, 10, u64::MAX, NOW_MS).is_empty());
    let read = shard.mailboxes.next_read().unwrap();
    shard.settle(&[1]).unwrap();
    let done = shard.mailboxes.read_completed(read.id, Err(DiskError::Io("no such file".into())));
    assert!(done.problems.is_empty());
}

#[test]
fn a_flipped_bit_anywhere_in_a_message_is_never_served_and_stops_no_other() {
    let mut shard = Shard::new(without_cache());
    let header = Bytes::from(vec![5; 200]);
    let part = admit_part(&mut shard, 1..4, &header, 100);
    let record = Record::BatchPart(part);
    let noted = record.noted(Position { segment: SegmentNumber(1), lsn: Lsn(1), index: 0, offset: 4192 });
    shard.apply(record);
    shard.mailboxes.end_turn();
    let intact = shard.segments[&SegmentNumber(1)].clone();
    let (mut of_header, mut of_message) = (0, 0);
    for offset in 4192..intact.len() {
        shard.segments.get_mut(&SegmentNumber(1)).unwrap()[offset] ^= 1 << (offset % 8);
        let mut again = Shard::new(without_cache());
        again.segments = shard.segments.clone();
        let position = Position { segment: SegmentNumber(1), lsn: Lsn(1), index: 0, offset: 4192 };
        again.mailboxes.note(position, noted.clone());
        let mut delivered = Vec::new();
        let mut problems = Vec::new();
        for _ in 0..3 {
            let more = again.mailboxes.next_for_delivery(INBOX, 10, u64::MAX, NOW_MS);
            delivered.extend(more.into_iter().map(|delivery| delivery.message.sequence));
            problems.extend(again.read());
        }
        let spot = u32::try_from(offset).unwrap();
        let hit = |m: &&NotedMessage| {
            (m.place.message_offset..m.place.message_offset + m.place.message_bytes).contains(&spot)
        };
        // The record's own header and count say nothing about a message.
        if spot < 4192 + 12 {
            assert_eq!(delivered, [1, 2, 3]);
        } else if let Some(hit) = noted.messages().iter().find(hit) {
            let others: Vec<_> = [1, 2, 3].into_iter().filter(|sequence| *sequence != hit.sequence).collect();
            assert_eq!(delivered, others, "byte {offset}");
            assert_eq!((problems.len(), problems[0].sequence), (1, hit.sequence));
            assert_eq!((problems[0].segment, problems[0].offset), (SegmentNumber(1), hit.place.message_offset));
            of_message += 1;
        } else {
            assert_eq!((delivered.len(), problems.len()), (0, 3), "byte {offset} of the batch header");
            of_header += 1;
        }
        assert_eq!(again.mailboxes.messages(), 3, "nothing is deleted");
        again.mailboxes.reset(INBOX, None, 0, NOW_MS);
        assert!(problems.iter().all(|p| p.to_string().contains("creto wal verify")));
        shard.segments.insert(SegmentNumber(1), intact.clone());
    }
    assert!(of_header >= 200 && of_message >= 3 * 200, "vacuous: {of_header}, {of_message}");
}

#[test]
fn a_damaged_message_can_still_expire() {
    let mut shard = Shard::new(without_cache());
    let mut part = shard.admit(1, Priority::Normal).unwrap();
    part.messages[0].expiry_ms = NOW_MS + 5_000;
    shard.apply(Record::BatchPart(part));
    shard.mailboxes.end_turn();
    shard.segments.get_mut(&SegmentNumber(1)).unwrap()[4192 + 60] ^= 1;
    assert!(shard.mailboxes.next_for_delivery(INBOX, 10, u64::MAX, NOW_MS).is_empty());
    assert_eq!(shard.read().len(), 1);
    shard.mailboxes.reset(INBOX, None, 0, NOW_MS);
    assert!(shard.mailboxes.next_for_delivery(INBOX, 10, u64::MAX, NOW_MS).is_empty());
    assert!(shard.mailboxes.next_read().is_none(), "it is known");
    for settle in shard.mailboxes.expire(NOW_MS + 5_000, 10) {
        shard.apply(Record::Settle(settle));
    }
    assert_eq!((shard.mailboxes.messages(), shard.mailboxes.index.oldest_live_segment()), (0, None));
}

#[test]
fn a_failed_read_is_tried_again_at_every_tick_and_then_passed_over() {
    let mut shard = Shard::new(without_cache());
    for number in 1..=30 {
        shard.queue(number, Priority::Normal);
    }
    shard.mailboxes.end_turn();
    let fail = || Err(DiskError::Io("input/output error".into()));
    let mut problems = Vec::new();
    for attempt in 0..READ_TRIES_MAX {
        assert!(shard.mailboxes.next_for_delivery(INBOX, 100, u64::MAX, NOW_MS).is_empty());
        let mut reads = 0;
        while let Some(read) = shard.mailboxes.next_read() {
            reads += 1;
            problems.extend(shard.mailboxes.read_completed(read.id, fail()).problems);
        }
        assert_eq!(reads, if attempt == 0 { 4 } else { 1 }, "after a failure, one message at a time");
        let next = shard.mailboxes.next_for_delivery(INBOX, 100, u64::MAX, NOW_MS);
        assert!(next.is_empty());
        if attempt + 1 < READ_TRIES_MAX {
            assert!(shard.mailboxes.next_read().is_none(), "it pauses");
            assert_eq!(shard.mailboxes.retry_reads(), [INBOX]);
        }
    }
    assert!(matches!(problems[0].kind, ReadProblemKind::TriedAgain(_)), "{problems:?}");
    assert!(matches!(problems[1].kind, ReadProblemKind::GivenUp(_)), "{problems:?}");
    assert_eq!((problems.len(), problems[0].sequence, problems[1].sequence), (2, 1, 1));
    assert_eq!(shard.read(), []);
    assert_eq!(shard.deliver(100).len(), 29, "the others go on");
}

#[test]
fn reads_under_way_are_bounded_and_nobody_is_left_waiting() {
    const MAILBOXES: u8 = 200;
    let mut shard = Shard::new(without_cache());
    for mailbox in 0..MAILBOXES {
        let inbox = MailboxId([mailbox; 16]);
        for number in 0..3 {
            let id = message_id(u64::from(mailbox) * 10 + number);
            let Ok(Admit::New(sequence)) = shard.mailboxes.admit(SENDER, id, inbox, 100, NOW_MS) else { panic!() };
            let mut part = part(sequence, number, Priority::Normal, Bytes::from(vec![mailbox; 100]));
            part.messages[0].mailbox = inbox;
            part.messages[0].message_id = id;
            shard.apply(Record::BatchPart(part));
        }
    }
    shard.mailboxes.end_turn();
    let mut ready: Vec<MailboxId> = (0..MAILBOXES).map(|mailbox| MailboxId([mailbox; 16])).collect();
    let (mut delivered, mut most) = (0, 0);
    let mut under_way = Vec::new();
    loop {
        for mailbox in std::mem::take(&mut ready) {
            let deliveries = shard.mailboxes.next_for_delivery(mailbox, 10, u64::MAX, NOW_MS);
            assert!(deliveries.iter().all(|delivery| delivery.message.mailbox == mailbox));
            delivered += deliveries.len();
        }
        while let Some(mailbox) = shard.mailboxes.next_reader() {
            delivered += shard.mailboxes.next_for_delivery(mailbox, 10, u64::MAX, NOW_MS).len();
        }
        shard.mailboxes.end_turn();
        under_way.extend(std::iter::from_fn(|| shard.mailboxes.next_read()));
        most = most.max(under_way.len());
        if under_way.is_empty() {
            break;
        }
        assert_eq!(under_way.len(), shard.mailboxes.reads_in_flight());
        let ColdRead { id, segment, offset, bytes } = under_way.remove(under_way.len() / 2);
        let content = shard.bytes(segment, offset, bytes);
        ready.extend(shard.mailboxes.read_completed(id, Ok(content)).ready);
    }
    assert_eq!(delivered, usize::from(MAILBOXES) * 3);
    assert!((10..=crate::limits::READS_IN_FLIGHT_MAX).contains(&most), "{most}");
    assert_eq!(shard.mailboxes.reads_in_flight(), 0);
}
