use bytes::{Bytes, BytesMut};
use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::id::{GroupId, SubscriberId};

proptest! {
    #[test]
    fn every_record_reads_back_as_it_was_written(record in any_record(), behind in vec(any::<u8>(), 0..40)) {
        let mut bytes = encode(&record).to_vec();
        let length = bytes.len();
        prop_assert!(length.is_multiple_of(8));
        bytes.extend_from_slice(&behind);
        prop_assert_eq!(Record::parse(&Bytes::from(bytes)), Ok((record.clone(), length)));
        prop_assert_eq!(record.detached(), record);
    }

    #[test]
    fn what_is_read_is_the_only_way_to_write_it(record in any_record(), at in any::<usize>(), flip in 1_u8..) {
        let mut bytes = BytesMut::from(&encode(&record)[..]);
        let at = at % bytes.len();
        bytes[at] ^= flip;
        let bytes = bytes.freeze();
        if let Ok((read, length)) = Record::parse(&bytes) {
            prop_assert!(read.is_within_limits());
            prop_assert_eq!(encode(&read), bytes.slice(..length));
        }
    }

    #[test]
    fn no_bytes_make_parsing_panic(bytes in vec(any::<u8>(), 0..400), kind in 0_u8..14, version in 1_u8..4) {
        let mut bytes = bytes;
        let _ = Record::parse(&Bytes::from(bytes.clone()));
        // Past the front door: a plausible header before the same bytes.
        let mut plausible = vec![kind, version, 0, 0];
        plausible.extend_from_slice(&length_u32(bytes.len()).to_le_bytes());
        plausible.append(&mut bytes);
        let _ = Record::parse(&Bytes::from(plausible));
    }

    #[test]
    fn a_record_that_is_cut_short_is_truncated(record in any_record(), cut in any::<usize>()) {
        let bytes = encode(&record);
        let cut = cut % bytes.len();
        prop_assert_eq!(Record::parse(&bytes.slice(..cut)), Err(RecordError::Truncated));
    }
}

#[test]
fn refusals_say_what_is_wrong() {
    let settle =
        Record::Settle(Settle { mailbox: MailboxId([1; 16]), cause: SettleCause::Acknowledged, sequences: vec![5] });
    check(&settle, |bytes| bytes[0] = 13, RecordError::Kind(13));
    check(&settle, |bytes| bytes[1] = 2, RecordError::Version(2));
    check(&settle, |bytes| bytes[2] = 1, RecordError::NotZero);
    check(&settle, |bytes| bytes[4] -= 8, RecordError::Truncated);
    check(&settle, |bytes| bytes[8 + 16] = 0, RecordError::Length);
    check(&settle, |bytes| bytes[8 + 18] = 1, RecordError::OverLimit);
    check(&settle, |bytes| bytes[8 + 20] = 5, RecordError::Value);
    check(&settle, |bytes| bytes[8 + 21] = 1, RecordError::NotZero);

    let part = Record::BatchPart(BatchPart { batch_header: Bytes::from_static(&[1; 3]), messages: vec![message()] });
    check(&part, |bytes| bytes[8 + 4 + 2] = 2, RecordError::OverLimit);
    check(&part, |bytes| bytes[8 + 8 + 3] = 1, RecordError::NotZero);
    let fixed = 8 + 8 + 8;
    check(&part, |bytes| bytes[fixed + 68] = 4, RecordError::Value);
    check(&part, |bytes| bytes[fixed + 69] = 33, RecordError::OverLimit);
    check(&part, |bytes| bytes[fixed + 70] = 1, RecordError::NotZero);
    check(&part, |bytes| bytes[fixed + 76] = 1, RecordError::NotZero);
    check(&part, |bytes| bytes[fixed + 75] = 1, RecordError::OverLimit);
    check(&part, |bytes| *bytes.last_mut().unwrap() = 1, RecordError::NotZero);
}

#[test]
fn refusals_of_dead_letters_say_what_is_wrong() {
    let letter = DeadLetter { sequence: 7, died_ms: 8, reason: 9, cause: DeathCause::Deliveries, deliveries: 3 };
    let dead = Record::Dead(Dead { mailbox: MailboxId([1; 16]), is_again: false, letters: vec![letter] });
    check(&dead, |bytes| bytes[8 + 16] = 0, RecordError::Length);
    check(&dead, |bytes| bytes[8 + 16] = 2, RecordError::Truncated);
    check(&dead, |bytes| bytes[8 + 17] = 3, RecordError::OverLimit);
    check(&dead, |bytes| bytes[8 + 20] = 2, RecordError::Value);
    check(&dead, |bytes| bytes[8 + 21] = 1, RecordError::NotZero);
    check(&dead, |bytes| bytes[8 + 24 + 18] = 2, RecordError::Value);
    check(&dead, |bytes| bytes[8 + 24 + 20] = 1, RecordError::NotZero);
    let revive = Record::Revive(Revive { mailbox: MailboxId([1; 16]), sequences: vec![5] });
    check(&revive, |bytes| bytes[8 + 16] = 0, RecordError::Length);
    check(&revive, |bytes| bytes[8 + 17] = 3, RecordError::OverLimit);
    check(&revive, |bytes| bytes[8 + 20] = 1, RecordError::NotZero);
}

/// A version that does not know the flags must not take such a record for one without.
#[test]
fn messages_with_flags_are_of_the_second_version_and_no_others() {
    let flags = MessageFlags::WANTS_NOTICE.with(MessageFlags::KEPT_FOR_RETENTION);
    let part =
        |flags| BatchPart { batch_header: Bytes::new(), messages: vec![message(), PartMessage { flags, ..message() }] };
    let fixed = 8 + 8 + 96 + 32 + 8;
    for (make, kind) in [(Record::BatchPart as fn(_) -> _, 1), (Record::Moved, 5)] {
        let record = make(part(flags));
        let bytes = encode(&record);
        assert_eq!((&bytes[..2], &bytes[fixed + 70..fixed + 72]), (&[kind, 2][..], &[3, 0][..]));
        assert_eq!(Record::parse(&bytes), Ok((record.clone(), bytes.len())));
        assert_eq!(encode(&make(part(MessageFlags::NONE)))[..2], [kind, 1]);
        check(&record, |bytes| bytes[1] = 1, RecordError::NotZero);
        check(&record, |bytes| bytes[1] = 3, RecordError::NotZero);
        check(&record, |bytes| bytes[1] = 4, RecordError::Version(4));
        check(&record, |bytes| bytes[fixed + 70] = 8, RecordError::NotZero);
        check(&record, |bytes| bytes[fixed + 70] = 0, RecordError::NotZero);
        check(&record, |bytes| bytes[fixed + 71] = 1, RecordError::NotZero);
    }
}

/// A version that does not know channels must not take such a record for one of a mailbox.
#[test]
fn what_is_published_or_consumed_is_of_the_third_version_and_no_others() {
    let published = PartMessage { flags: MessageFlags::PUBLISHED, expiry_ms: 7, ..message() };
    let part = BatchPart { batch_header: Bytes::new(), messages: vec![published.clone()] };
    let fixed = 8 + 8;
    for (make, kind) in [(Record::BatchPart as fn(_) -> _, 1), (Record::Moved, 5)] {
        let record = make(part.clone());
        let bytes = encode(&record);
        assert_eq!((&bytes[..2], &bytes[fixed + 70..fixed + 72]), (&[kind, 3][..], &[4, 0][..]));
        assert_eq!(Record::parse(&bytes), Ok((record.clone(), bytes.len())));
        check(&record, |bytes| bytes[1] = 1, RecordError::NotZero);
        check(&record, |bytes| bytes[1] = 2, RecordError::NotZero);
        check(&record, |bytes| bytes[1] = 4, RecordError::Version(4));
        check(&record, |bytes| bytes[fixed + 70] = 1, RecordError::NotZero);
        // What is published has an end.
        check(&record, |bytes| bytes[fixed + 56] = 0, RecordError::Value);
    }
    let forever = PartMessage { expiry_ms: 0, ..published };
    assert!(!Record::BatchPart(BatchPart { batch_header: Bytes::new(), messages: vec![forever] }).is_within_limits());

    let settle = |cause| Record::Settle(Settle { mailbox: MailboxId([1; 16]), cause, sequences: vec![5] });
    assert_eq!(encode(&settle(SettleCause::Consumed))[..2], [2, 3]);
    assert_eq!(encode(&settle(SettleCause::Expired))[..2], [2, 1]);
    check(&settle(SettleCause::Consumed), |bytes| bytes[1] = 1, RecordError::NotZero);
    check(&settle(SettleCause::Consumed), |bytes| bytes[8 + 20] = 3, RecordError::NotZero);
    check(&settle(SettleCause::Expired), |bytes| bytes[1] = 3, RecordError::NotZero);
}

#[test]
fn refusals_of_subscriptions_say_what_is_wrong() {
    let (channel, subscriber, group) = (MailboxId([1; 16]), SubscriberId([2; 16]), GroupId([3; 16]));
    let subscribe = Subscribe { channel, subscriber, group, number: 7, begins_after: Some(5) };
    let begins = Record::Subscribe(subscribe);
    check(&begins, |bytes| bytes[8 + 64] = 0, RecordError::NotZero);
    check(&begins, |bytes| bytes[8 + 64] = 2, RecordError::Value);
    check(&begins, |bytes| bytes[8 + 65] = 1, RecordError::NotZero);
    check(&begins, |bytes| bytes[8 + 48] = 0, RecordError::Value);
    check(&begins, |bytes| bytes[8 + 16..8 + 32].fill(0), RecordError::Value);
    // Who goes on says no cursor.
    let goes_on = Record::Subscribe(Subscribe { begins_after: None, ..subscribe });
    check(&goes_on, |bytes| bytes[8 + 56] = 1, RecordError::NotZero);
    let unsubscribe = Record::Unsubscribe(Unsubscribe { channel, subscriber, group });
    check(&unsubscribe, |bytes| bytes[8 + 16..8 + 32].fill(0), RecordError::Value);
    check(&unsubscribe, |bytes| bytes[4] = 40, RecordError::Truncated);

    let progress = Progress { cursor: 5, missed: 1, skipped: 2, done: vec![7, 9] };
    let cursors = Record::Cursors(Cursors { entries: vec![CursorsEntry { number: 7, progress: progress.clone() }] });
    let entry = 8 + 8;
    check(&cursors, |bytes| bytes[8] = 0, RecordError::Length);
    check(&cursors, |bytes| bytes[8] = 2, RecordError::Truncated);
    check(&cursors, |bytes| bytes[8 + 2] = 1, RecordError::OverLimit);
    check(&cursors, |bytes| bytes[8 + 4] = 1, RecordError::NotZero);
    check(&cursors, |bytes| bytes[entry] = 0, RecordError::Value);
    check(&cursors, |bytes| bytes[entry + 28] = 3, RecordError::Truncated);
    check(&cursors, |bytes| bytes[entry + 29] = 3, RecordError::OverLimit);
    check(&cursors, |bytes| bytes[entry + 32] = 5, RecordError::Value);
    check(&cursors, |bytes| bytes[entry + 32] = 9, RecordError::Value);

    let members = vec![SubscriberId([4; 16]), SubscriberId([5; 16])];
    let of_group =
        SubscriptionsEntry { channel, group, subscriber: SubscriberId::NONE, number: 7, progress, part: 0, members };
    let own = SubscriptionsEntry {
        group: GroupId::NONE,
        subscriber,
        progress: Progress { skipped: 0, done: Vec::new(), ..of_group.progress.clone() },
        members: Vec::new(),
        ..of_group.clone()
    };
    let of_group = Record::Subscriptions(Subscriptions { entries: vec![of_group] });
    check(&of_group, |bytes| bytes[8 + 2] = 1, RecordError::OverLimit);
    check(&of_group, |bytes| bytes[entry + 16..entry + 32].fill(0), RecordError::Value);
    check(&of_group, |bytes| bytes[entry + 32] = 1, RecordError::Value);
    check(&of_group, |bytes| bytes[entry + 48] = 0, RecordError::Value);
    check(&of_group, |bytes| bytes[entry + 80] = 3, RecordError::Truncated);
    check(&of_group, |bytes| bytes[entry + 82] = 1, RecordError::OverLimit);
    // Only the first part says what is done.
    check(&of_group, |bytes| bytes[entry + 84] = 1, RecordError::Value);
    check(&of_group, |bytes| bytes[entry + 88 + 16..][..16].fill(5), RecordError::Value);
    let own = Record::Subscriptions(Subscriptions { entries: vec![own] });
    check(&own, |bytes| bytes[entry + 16] = 1, RecordError::Value);
    check(&own, |bytes| bytes[entry + 32..entry + 48].fill(0), RecordError::Value);
    check(&own, |bytes| bytes[entry + 72] = 1, RecordError::Value);
    check(&own, |bytes| bytes[entry + 84] = 1, RecordError::Value);
}

#[test]
fn a_notice_is_of_the_node_and_has_no_batch() {
    let notice = Record::Notice(of_the_node(BatchPart { batch_header: Bytes::new(), messages: vec![message()] }));
    let bytes = encode(&notice);
    assert_eq!(bytes[..2], [8, 1]);
    check(&notice, |bytes| bytes[8 + 8 + 16] = 1, RecordError::Value);
    check(&notice, |bytes| bytes[1] = 2, RecordError::Version(2));
}

fn check(record: &Record, damage: impl Fn(&mut [u8]), expected: RecordError) {
    let mut bytes = encode(record).to_vec();
    damage(&mut bytes);
    assert_eq!(Record::parse(&Bytes::from(bytes)), Err(expected));
}

fn message() -> PartMessage {
    PartMessage {
        mailbox: MailboxId([1; 16]),
        sender: SenderId([2; 16]),
        message_id: MessageId([3; 16]),
        sequence: 1,
        expiry_ms: 0,
        leaf_index: 0,
        priority: Priority::High,
        flags: MessageFlags::NONE,
        salt: [4; 16],
        path: Bytes::from_static(&[5; 32]),
        envelope: Bytes::from_static(b"abc"),
    }
}

fn encode(record: &Record) -> Bytes {
    // What was in the buffer before must not show through.
    let mut bytes = vec![0xee; record.encoded_bytes()];
    record.encode_into(&mut bytes);
    Bytes::from(bytes)
}

fn of_the_node(part: BatchPart) -> BatchPart {
    let told = |message| PartMessage {
        sender: SenderId::NODE,
        flags: MessageFlags::NONE,
        envelope: Bytes::from_static(&[6; NOTICE_BYTES]),
        ..message
    };
    BatchPart { batch_header: Bytes::new(), messages: part.messages.into_iter().map(told).collect() }
}

pub(crate) fn any_record() -> impl Strategy<Value = Record> {
    let part = (vec(any::<u8>(), 0..50), vec(any_message(), 0..5), 0..4).prop_map(|(header, messages, kind)| {
        let part = BatchPart { batch_header: Bytes::from(header), messages };
        match kind {
            0 => Record::Moved(part),
            1 => Record::Notice(of_the_node(part)),
            _ => Record::BatchPart(part),
        }
    });
    let mut causes = vec![SettleCause::Acknowledged, SettleCause::Expired, SettleCause::GivenUp, SettleCause::Purged];
    causes.push(SettleCause::Consumed);
    let cause = prop::sample::select(causes);
    let settle = (any::<[u8; 16]>(), cause, vec(any::<u64>(), 0..20)).prop_map(|(mailbox, cause, sequences)| {
        Record::Settle(Settle { mailbox: MailboxId(mailbox), cause, sequences })
    });
    let sender = (any::<[u8; 16]>(), any::<u64>(), vec(any::<[u8; 16]>().prop_map(MessageId), 0..6))
        .prop_map(|(sender, floor_ms, ids)| DedupSender { sender: SenderId(sender), floor_ms, ids });
    let dedup = (any::<u64>(), vec(sender, 0..5))
        .prop_map(|(next_sequence, senders)| Record::Dedup(Dedup { next_sequence, senders }));
    let start = (any::<u64>(), any::<u64>(), any::<u64>()).prop_map(|(epoch, started_ms, through)| {
        Record::Start(Start { epoch: Epoch(epoch), started_ms, recovered_through: Lsn(through) })
    });
    let letter = (any::<u64>(), any::<u64>(), any::<u16>(), any::<bool>(), any::<u8>());
    let letter = letter.prop_map(|(sequence, died_ms, reason, is_rejected, deliveries)| {
        let cause = if is_rejected { DeathCause::Rejected } else { DeathCause::Deliveries };
        DeadLetter { sequence, died_ms, reason, cause, deliveries }
    });
    let dead = (any::<[u8; 16]>(), any::<bool>(), vec(letter, 0..20))
        .prop_map(|(mailbox, is_again, letters)| Record::Dead(Dead { mailbox: MailboxId(mailbox), is_again, letters }));
    let revive = (any::<[u8; 16]>(), vec(any::<u64>(), 0..20))
        .prop_map(|(mailbox, sequences)| Record::Revive(Revive { mailbox: MailboxId(mailbox), sequences }));
    prop_oneof![
        6 => part, 2 => settle, 2 => dedup, 2 => start, 2 => dead, 2 => revive,
        2 => any_subscribe(), 1 => any_unsubscribe(), 2 => any_cursors(), 2 => any_subscriptions(),
    ]
}

fn any_ids() -> impl Strategy<Value = (MailboxId, SubscriberId, GroupId)> {
    (any::<[u8; 16]>(), any::<[u8; 16]>(), any::<[u8; 16]>()).prop_map(|(channel, mut subscriber, mut group)| {
        (subscriber[0], group[0]) = (subscriber[0].max(1), group[0].max(1));
        (MailboxId(channel), SubscriberId(subscriber), GroupId(group))
    })
}

fn any_subscribe() -> impl Strategy<Value = Record> {
    let subscribe = (any_ids(), any::<bool>(), 1_u64.., any::<Option<u64>>());
    subscribe.prop_map(|((channel, subscriber, group), is_alone, number, begins_after)| {
        let group = if is_alone && begins_after.is_some() { GroupId::NONE } else { group };
        Record::Subscribe(Subscribe { channel, subscriber, group, number, begins_after })
    })
}

fn any_unsubscribe() -> impl Strategy<Value = Record> {
    any_ids().prop_map(|(channel, subscriber, group)| Record::Unsubscribe(Unsubscribe { channel, subscriber, group }))
}

fn any_progress() -> impl Strategy<Value = Progress> {
    let done = vec(1_u64..1_000, 0..6);
    (0..u64::MAX - 10_000, any::<u64>(), any::<u32>(), done).prop_map(|(cursor, missed, skipped, steps)| {
        let done = steps.into_iter().scan(cursor, |at, step| {
            *at += step;
            Some(*at)
        });
        Progress { cursor, missed, skipped, done: done.collect() }
    })
}

fn any_cursors() -> impl Strategy<Value = Record> {
    let entry = (1_u64.., any_progress()).prop_map(|(number, progress)| CursorsEntry { number, progress });
    vec(entry, 0..6).prop_map(|entries| Record::Cursors(Cursors { entries }))
}

fn any_subscriptions() -> impl Strategy<Value = Record> {
    let members = prop::collection::btree_set(1_u128.., 1..5);
    let entry = (any_ids(), 1_u64.., any_progress(), members, any::<bool>(), any::<u32>());
    let entry = entry.prop_map(|((channel, subscriber, group), number, progress, members, is_alone, part)| {
        if is_alone {
            let progress = Progress { skipped: 0, done: Vec::new(), ..progress };
            let (group, members) = (GroupId::NONE, Vec::new());
            return SubscriptionsEntry { channel, group, subscriber, number, progress, part: 0, members };
        }
        let members = members.into_iter().map(|id| SubscriberId(id.to_be_bytes())).collect();
        let part = if progress.done.is_empty() { part } else { 0 };
        SubscriptionsEntry { channel, group, subscriber: SubscriberId::NONE, number, progress, part, members }
    });
    vec(entry, 0..5).prop_map(|entries| Record::Subscriptions(Subscriptions { entries }))
}

fn any_message() -> impl Strategy<Value = PartMessage> {
    let ids = (any::<[u8; 16]>(), any::<[u8; 16]>(), any::<[u8; 16]>(), any::<[u8; 16]>());
    let flags = prop::sample::select(vec![MessageFlags::NONE, MessageFlags::WANTS_NOTICE, MessageFlags::PUBLISHED]);
    let numbers = (any::<u64>(), 1_u64.., any::<u32>(), 0_u8..4, flags);
    let bytes = (0_usize..5, vec(any::<u8>(), 0..100));
    (ids, numbers, bytes).prop_map(|(ids, numbers, (hashes, envelope))| PartMessage {
        mailbox: MailboxId(ids.0),
        sender: SenderId(ids.1),
        message_id: MessageId(ids.2),
        flags: numbers.4,
        salt: ids.3,
        sequence: numbers.0,
        expiry_ms: numbers.1,
        leaf_index: numbers.2,
        priority: Priority::from_byte(numbers.3).unwrap(),
        path: Bytes::from(vec![7; 32 * hashes]),
        envelope: Bytes::from(envelope),
    })
}
