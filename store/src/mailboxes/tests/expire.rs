//! What becomes of expired messages whose senders ask to be told, and of notices.

use super::*;
use crate::limits::{EXPIRING_MAX, NOTICE_BYTES, READ_TRIES_MAX};
use crate::wal::DiskError;

const OVER_MS: u64 = NOW_MS + 10_000;

fn without_cache() -> MailboxesConfig {
    MailboxesConfig { cache_bytes: 0, ..MailboxesConfig::default() }
}

/// Queues a message that is over at [`OVER_MS`].
fn queue(shard: &mut Shard, number: u64, flags: MessageFlags) {
    let mut part = shard.admit(number, Priority::Normal).unwrap();
    part.messages[0].expiry_ms = OVER_MS;
    part.messages[0].flags = flags;
    shard.apply(Record::BatchPart(part));
    shard.mailboxes.end_turn();
}

fn expire(shard: &mut Shard) -> Vec<u64> {
    let settles = shard.mailboxes.expire(OVER_MS, usize::MAX);
    settles.into_iter().flat_map(|settle| settle.sequences).collect()
}

/// Sequences of those that are to be told now, in the order of turns, with what must be read for them read.
fn to_be_told(shard: &mut Shard) -> Vec<u64> {
    let mut told = Vec::new();
    loop {
        let more = shard.mailboxes.next_expired();
        assert!(more.iter().all(|expired| (expired.mailbox, expired.sender) == (INBOX, SENDER)));
        let reads = shard.reads;
        assert_eq!(shard.read(), []);
        if more.is_empty() && reads == shard.reads {
            return told;
        }
        told.extend(more.iter().map(|expired| expired.sequence));
    }
}

#[test]
fn a_message_that_asks_is_told_before_it_is_settled_from_memory_and_from_the_log() {
    for (config, reads) in [(MailboxesConfig::default(), 0), (without_cache(), 1)] {
        let mut shard = Shard::new(config);
        let retention = MessageFlags::WANTS_NOTICE.with(MessageFlags::KEPT_FOR_RETENTION);
        for (number, flags) in
            [(1, MessageFlags::WANTS_NOTICE), (2, MessageFlags::NONE), (3, retention), (4, MessageFlags::WANTS_NOTICE)]
        {
            queue(&mut shard, number, flags);
        }
        assert_eq!(shard.settle(&[4]), Some(vec![4]), "acknowledged in time");
        assert_eq!(shard.mailboxes.expire(OVER_MS - 1_000, 10), []);
        assert_eq!((shard.mailboxes.next_expired(), shard.mailboxes.expiring_messages()), (vec![], 0));

        assert_eq!(expire(&mut shard), [2], "who does not ask is settled at once");
        let mut told = shard.mailboxes.next_expired();
        assert_eq!(shard.read(), []);
        told.extend(shard.mailboxes.next_expired());
        let expected = |sequence, number, is_for_retention| Expired {
            mailbox: INBOX,
            sequence,
            sender: SENDER,
            message_id: message_id(number),
            expiry_ms: OVER_MS,
            is_for_retention,
        };
        assert_eq!(told, [expected(1, 1, false), expected(3, 3, true)]);
        assert_eq!((shard.reads, shard.mailboxes.expiring_messages()), (reads, 2));

        // Until then it is neither found again, nor handed out, nor settled by its consumer.
        assert_eq!((expire(&mut shard), to_be_told(&mut shard)), (vec![], vec![]));
        assert_eq!((shard.deliver(10), shard.settle(&[1, 3])), (vec![], None));
        shard.mailboxes.reset(INBOX, None, 0, NOW_MS);
        assert_eq!((shard.deliver(10), shard.mailboxes.queued_messages(INBOX)), (vec![], 3));

        let settle = shard.mailboxes.settle_expired(INBOX, &[1, 3]).unwrap();
        assert_eq!((&settle.sequences[..], settle.cause), (&[1, 3][..], SettleCause::Expired));
        shard.apply(Record::Settle(settle));
        assert_eq!((shard.mailboxes.queued_messages(INBOX), shard.mailboxes.expiring_messages()), (1, 0));
        assert_eq!(shard.mailboxes.settle_expired(INBOX, &[1, 3]), None, "an answer that comes twice");
    }
}

#[test]
fn what_asks_is_found_again_after_a_restart() {
    for asks in [false, true] {
        let mut shard = Shard::new(without_cache());
        let mut part = shard.admit(1, Priority::Normal).unwrap();
        part.messages[0].expiry_ms = OVER_MS;
        if asks {
            part.messages[0].flags = MessageFlags::WANTS_NOTICE;
        }
        let record = Record::BatchPart(part);
        let position = shard.write(&record);
        // Nobody was told before the crash, or it is not known.
        shard.mailboxes.note(position, record.noted(position));
        shard.mailboxes.recovered();
        assert_eq!(expire(&mut shard), if asks { vec![] } else { vec![1] });
        assert_eq!(to_be_told(&mut shard), if asks { vec![1] } else { vec![] });
    }
}

#[test]
fn a_message_that_cannot_be_read_goes_without_a_notice_and_holds_no_other() {
    let mut shard = Shard::new(without_cache());
    for number in 1..=3 {
        queue(&mut shard, number, MessageFlags::WANTS_NOTICE);
    }
    // The bytes of the first are not what they were.
    let segment = shard.segments.get_mut(&SegmentNumber(1)).unwrap();
    segment[4192 + 40] ^= 1;
    assert_eq!(expire(&mut shard), []);
    assert_eq!(shard.mailboxes.next_expired(), []);
    let problems = shard.read();
    assert!(matches!(&problems[..], [ReadProblem { sequence: 1, kind: ReadProblemKind::Damaged, .. }]), "{problems:?}");
    assert_eq!(shard.mailboxes.next_unreadable()[0].sequences, [1]);
    assert_eq!(shard.mailboxes.next_expired().iter().map(|expired| expired.sequence).collect::<Vec<_>>(), [2, 3]);
    assert_eq!((shard.mailboxes.next_unreadable(), shard.mailboxes.expiring_messages()), (vec![], 2));
}

#[test]
fn a_disk_that_does_not_give_a_message_is_asked_again_and_then_it_goes_untold() {
    let mut shard = Shard::new(without_cache());
    for number in 1..=2 {
        queue(&mut shard, number, MessageFlags::WANTS_NOTICE);
    }
    assert_eq!(expire(&mut shard), []);
    for attempt in 1..=READ_TRIES_MAX {
        assert_eq!(shard.mailboxes.next_expired(), []);
        let read = shard.mailboxes.next_read().expect("it is asked for again");
        let failed = shard.mailboxes.read_completed(read.id, Err(DiskError::Io("no".to_owned())));
        assert_eq!(failed.problems.len(), usize::from(attempt == 1 || attempt == READ_TRIES_MAX), "said twice");
        assert_eq!(shard.mailboxes.next_expired(), []);
        if attempt < READ_TRIES_MAX {
            assert!(shard.mailboxes.next_read().is_none(), "not before the next tick");
        }
        shard.mailboxes.retry_reads();
    }
    assert_eq!(shard.mailboxes.next_unreadable()[0].sequences, [1]);
    assert_eq!(shard.read(), []);
    assert_eq!(to_be_told(&mut shard), [2]);
}

#[test]
fn no_more_are_on_their_way_than_may_be() {
    let mut shard = Shard::new(MailboxesConfig::default());
    let more = EXPIRING_MAX as u64 + 5;
    for number in 1..=more {
        queue(&mut shard, number, MessageFlags::WANTS_NOTICE);
    }
    queue(&mut shard, more + 1, MessageFlags::NONE);
    let mut settled = Vec::new();
    for _ in 0..200 {
        settled.extend(expire(&mut shard));
    }
    assert_eq!(settled, [more + 1], "who does not ask does not wait");
    let told = to_be_told(&mut shard);
    assert_eq!((told.len(), shard.mailboxes.expiring_messages()), (EXPIRING_MAX, EXPIRING_MAX));
    let settle = shard.mailboxes.settle_expired(INBOX, &told).unwrap();
    shard.apply(Record::Settle(settle));
    for _ in 0..200 {
        settled.extend(expire(&mut shard));
    }
    assert_eq!((settled.len(), to_be_told(&mut shard).len()), (1, 5));
}

fn notice(sequence: u64, number: u64) -> Record {
    let mut part = part(sequence, number, Priority::Normal, Bytes::from(vec![8; NOTICE_BYTES]));
    part.batch_header = Bytes::new();
    part.messages[0].sender = SenderId::NODE;
    Record::Notice(part)
}

#[test]
fn a_notice_is_queued_delivered_moved_and_settled_like_a_message_and_may_come_twice() {
    let mut shard = Shard::new(without_cache());
    for _ in 0..2 {
        let sequence = shard.mailboxes.admit_notice(Quota::default(), INBOX, NOTICE_BYTES).unwrap();
        shard.apply(notice(sequence, 7));
        shard.mailboxes.end_turn();
    }
    assert_eq!(shard.mailboxes.queued_bytes(), 2 * cost_of(NOTICE_BYTES));
    // The id is that of a message, and stands in the way of none.
    let admitted = shard.mailboxes.admit(SENDER, message_id(7), INBOX, 100, NOW_MS);
    assert_eq!(admitted, Ok(Admit::New(3)));
    shard.mailboxes.withdraw(&part(3, 7, Priority::Normal, Bytes::from(vec![7; 100])));

    let deliveries = shard.deliveries(10, u64::MAX, NOW_MS);
    let found: Vec<_> =
        deliveries.iter().map(|d| (d.message.sender, d.message.sequence, d.batch_header.len())).collect();
    assert_eq!(found, [(SenderId::NODE, 1, 0), (SenderId::NODE, 2, 0)]);

    // Moved, and recovered from where it is then.
    let Record::Notice(part) = notice(2, 7) else { unreachable!("just made") };
    let moved = Record::Moved(part);
    shard.apply(moved.clone());
    shard.mailboxes.reset(INBOX, None, 0, NOW_MS);
    assert_eq!(shard.deliveries(10, u64::MAX, NOW_MS).len(), 2);
    let mut recovered = Shard::new(without_cache());
    for record in [notice(1, 7), moved] {
        let position = recovered.write(&record);
        recovered.mailboxes.note(position, record.noted(position));
    }
    recovered.mailboxes.recovered();
    assert_eq!(recovered.deliveries(10, u64::MAX, NOW_MS).len(), 2);
    let admitted = recovered.mailboxes.admit(SENDER, message_id(7), INBOX, 100, NOW_MS);
    assert_eq!(admitted, Ok(Admit::New(3)), "a recovery learns no message ids from notices");

    assert_eq!(shard.settle(&[1, 2]), Some(vec![1, 2]));
    assert_eq!(shard.mailboxes.queued_bytes(), 0);
}

#[test]
fn a_full_mailbox_takes_no_notice() {
    let config = MailboxesConfig { mailbox_messages_max: 1, ..MailboxesConfig::default() };
    let mut shard = Shard::new(config);
    shard.queue(1, Priority::Normal);
    let refused = shard.mailboxes.admit_notice(Quota::default(), INBOX, NOTICE_BYTES);
    assert_eq!(refused, Err(Refusal::MailboxFull));
    let more = Quota { messages_max: Some(2), bytes_max: None };
    assert_eq!(shard.mailboxes.admit_notice(more, INBOX, NOTICE_BYTES), Ok(2));
}

#[test]
fn a_notice_fails_any_number_of_times_and_is_never_a_dead_letter() {
    let mut shard = Shard::new(MailboxesConfig::default());
    let mut now_us = 0;
    let sequence = shard.mailboxes.admit_notice(Quota::default(), INBOX, NOTICE_BYTES).unwrap();
    shard.apply(notice(sequence, 7));
    for _ in 0..100 {
        now_us += 3_600_000_000;
        shard.mailboxes.pass(now_us);
        assert_eq!(shard.deliver(10).len(), 1);
        shard.mailboxes.reject(INBOX, &[(sequence, 7)], NOW_MS);
        shard.mailboxes.nack(INBOX, &[(sequence, 0)], Some(1), now_us, NOW_MS);
        assert_eq!(shard.die(), []);
    }
    now_us += 3_600_000_000;
    shard.mailboxes.pass(now_us);
    assert_eq!(shard.deliver(10).len(), 1);
    assert_eq!(shard.settle(&[sequence]), Some(vec![sequence]));
}

#[test]
fn who_cannot_be_told_before_the_next_start_holds_nobody_back() {
    for config in [MailboxesConfig::default(), without_cache()] {
        let mut shard = Shard::new(config);
        let stuck = EXPIRING_MAX as u64;
        for number in 1..=stuck + 2 {
            queue(&mut shard, number, MessageFlags::WANTS_NOTICE);
        }
        // Looking through all of them takes several ticks.
        let told = |shard: &mut Shard| {
            let ticks = (0..9).map(|_| {
                assert_eq!(expire(shard), []);
                to_be_told(shard)
            });
            ticks.collect::<Vec<_>>().concat()
        };
        let first = told(&mut shard);
        assert!(first == (1..=stuck).collect::<Vec<_>>(), "no more at a time: {} of them", first.len());
        shard.mailboxes.tell_after_restart(INBOX, &first);
        shard.mailboxes.tell_after_restart(INBOX, &[1, stuck + 9]);
        assert_eq!(shard.mailboxes.expiring_messages(), 0);
        let others = told(&mut shard);
        assert!(
            others == [stuck + 1, stuck + 2],
            "the others have their turn, those no more: {} of them",
            others.len()
        );
        assert_eq!(told(&mut shard).len(), 0);
        assert!(!shard.mailboxes.is_passed_over(1), "it may be moved, or acknowledged after all");
        assert_eq!(shard.settle(&[1]), Some(vec![1]));
        assert_eq!(shard.deliveries(9, u64::MAX, OVER_MS).len(), 0);
    }
}

#[test]
fn what_was_found_damaged_goes_untold_and_that_is_said() {
    let mut shard = Shard::new(without_cache());
    queue(&mut shard, 1, MessageFlags::WANTS_NOTICE);
    shard.mailboxes.next_for_delivery(INBOX, 1, u64::MAX, NOW_MS);
    let read = shard.mailboxes.next_read().unwrap();
    let done = shard.mailboxes.read_completed(read.id, Ok(Bytes::from(vec![0; read.bytes])));
    assert_eq!(done.problems.len(), 1);
    assert_eq!((expire(&mut shard), to_be_told(&mut shard)), (vec![], vec![]));
    let untold: Vec<Vec<u64>> = shard.mailboxes.next_unreadable().into_iter().map(|settle| settle.sequences).collect();
    assert_eq!((untold, shard.mailboxes.expiring_messages()), (vec![vec![1]], 0));
}
