use bytes::{Bytes, BytesMut};
use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

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
    fn no_bytes_make_parsing_panic(bytes in vec(any::<u8>(), 0..400), kind in 0_u8..10, version in 1_u8..3) {
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
    check(&settle, |bytes| bytes[0] = 9, RecordError::Kind(9));
    check(&settle, |bytes| bytes[1] = 2, RecordError::Version(2));
    check(&settle, |bytes| bytes[2] = 1, RecordError::NotZero);
    check(&settle, |bytes| bytes[4] -= 8, RecordError::Truncated);
    check(&settle, |bytes| bytes[8 + 16] = 0, RecordError::Length);
    check(&settle, |bytes| bytes[8 + 18] = 1, RecordError::OverLimit);
    check(&settle, |bytes| bytes[8 + 20] = 4, RecordError::Value);
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
        check(&record, |bytes| bytes[1] = 3, RecordError::Version(3));
        check(&record, |bytes| bytes[fixed + 70] = 4, RecordError::NotZero);
        check(&record, |bytes| bytes[fixed + 70] = 0, RecordError::NotZero);
        check(&record, |bytes| bytes[fixed + 71] = 1, RecordError::NotZero);
    }
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
    let causes = vec![SettleCause::Acknowledged, SettleCause::Expired, SettleCause::GivenUp, SettleCause::Purged];
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
    prop_oneof![3 => part, 1 => settle, 1 => dedup, 1 => start, 1 => dead, 1 => revive]
}

fn any_message() -> impl Strategy<Value = PartMessage> {
    let ids = (any::<[u8; 16]>(), any::<[u8; 16]>(), any::<[u8; 16]>(), any::<[u8; 16]>());
    let numbers = (any::<u64>(), any::<u64>(), any::<u32>(), 0_u8..4, any::<bool>());
    let bytes = (0_usize..5, vec(any::<u8>(), 0..100));
    (ids, numbers, bytes).prop_map(|(ids, numbers, (hashes, envelope))| PartMessage {
        mailbox: MailboxId(ids.0),
        sender: SenderId(ids.1),
        message_id: MessageId(ids.2),
        flags: MessageFlags::NONE.with(if numbers.4 { MessageFlags::WANTS_NOTICE } else { MessageFlags::NONE }),
        salt: ids.3,
        sequence: numbers.0,
        expiry_ms: numbers.1,
        leaf_index: numbers.2,
        priority: Priority::from_byte(numbers.3).unwrap(),
        path: Bytes::from(vec![7; 32 * hashes]),
        envelope: Bytes::from(envelope),
    })
}
