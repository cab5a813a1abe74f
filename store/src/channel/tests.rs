use bytes::Bytes;

use super::*;
use crate::id::{MailboxId, MessageId, SenderId};
use crate::lsn::SegmentNumber;
use crate::record::{PartMessage, Priority};

#[test]
fn a_retention_is_from_a_minute_to_thirty_days() {
    assert_eq!(Retention::from_seconds(59), None);
    assert_eq!(Retention::from_seconds(30 * 24 * 3_600 + 1), None);
    let hour = Retention::from_seconds(3_600).unwrap();
    let for_retention = MessageFlags::PUBLISHED.with(MessageFlags::KEPT_FOR_RETENTION);
    assert_eq!(hour.of_message(1_000, 0), (3_601_000, for_retention));
    assert_eq!(hour.of_message(1_000, 3_601), (3_601_000, for_retention));
    assert_eq!(hour.of_message(1_000, 60), (61_000, MessageFlags::PUBLISHED));
    assert_eq!(hour.of_message(u64::MAX, 0).0, u64::MAX);
}

#[test]
fn what_was_moved_is_put_in_order_with_the_times_it_has() {
    let mut channel = Channel::default();
    assert!(channel.push(5, 50));
    // Its sender's clock is behind: it counts as of the time of those before it.
    assert!(channel.push(6, 20));
    assert!(!channel.push(2, 10));
    assert!(!channel.push(3, 30));
    assert!(!channel.push(3, 30));
    assert!(!channel.push(7, 40));
    channel.forget(&[5]);
    channel.sort();
    let kept: Vec<(u64, u64)> = channel.kept().map(|kept| (kept.sequence, kept.time_ms)).collect();
    assert_eq!(kept, [(2, 10), (3, 30), (6, 50), (7, 50)]);
    assert_eq!(
        [0, 11, 30, 31, 51].map(|time_ms| channel.before_time(time_ms)),
        [Some(1), Some(2), Some(2), Some(5), None]
    );
    let after = |sequence| channel.kept_after(sequence).map(|kept| kept.sequence).collect::<Vec<_>>();
    assert_eq!((after(0).len(), after(3), after(4), after(7)), (4, vec![6, 7], vec![6, 7], vec![]));
}

#[test]
fn what_leaves_is_forgotten_from_the_front_from_the_middle_and_in_one_go() {
    let all: Vec<u64> = (1..=40).collect();
    for gone in [vec![1, 2, 3], vec![7], vec![1, 5, 39, 40], (1..=40).step_by(2).collect(), all.clone(), vec![41, 50]] {
        let mut channel = Channel::default();
        all.iter().for_each(|&sequence| assert!(channel.push(sequence, 0)));
        channel.forget(&gone);
        let kept: Vec<u64> = channel.kept().map(|kept| kept.sequence).collect();
        let left: Vec<u64> = all.iter().copied().filter(|sequence| !gone.contains(sequence)).collect();
        assert_eq!(kept, left);
    }
}

#[test]
fn a_time_is_found_among_whatever_is_left() {
    let mut channel = Channel::default();
    for sequence in (10..2_000).step_by(7) {
        assert!(channel.push(sequence, sequence / 50));
    }
    let gone: Vec<u64> = channel.kept().map(|kept| kept.sequence).filter(|sequence| sequence % 5 < 3).collect();
    channel.forget(&gone);
    for time_ms in 0..45 {
        let expected = channel.kept().find(|kept| kept.time_ms >= time_ms).map(|kept| kept.sequence - 1);
        assert_eq!(channel.before_time(time_ms), expected, "{time_ms}");
    }
}

#[test]
fn a_memo_knows_what_was_looked_up_and_nothing_else() {
    let mut memo = Memo::default();
    assert_eq!(memo.after(0), None);
    assert!(memo.put(3, delivery(5)), "the first");
    assert!(!memo.put(5, delivery(6)));
    let after = |memo: &Memo, sequence| memo.after(sequence).map(|found| found.message.sequence);
    assert_eq!([2, 3, 4, 5, 6].map(|sequence| after(&memo, sequence)), [None, Some(5), Some(5), Some(6), None]);
    // Something else may stand between: what is behind it begins anew.
    memo.put(7, delivery(9));
    assert_eq!([5, 6, 7, 8, 9].map(|sequence| after(&memo, sequence)), [None, None, Some(9), Some(9), None]);
    for sequence in 9..9 + 3 * CHANNEL_MEMO_MESSAGES_MAX as u64 {
        memo.put(sequence, delivery(sequence + 1));
        assert_eq!(after(&memo, sequence), Some(sequence + 1));
        assert!(memo.found.len() <= CHANNEL_MEMO_MESSAGES_MAX);
    }
}

fn delivery(sequence: u64) -> Delivery {
    let message = PartMessage {
        mailbox: MailboxId([1; 16]),
        sender: SenderId([2; 16]),
        message_id: MessageId([3; 16]),
        sequence,
        expiry_ms: 1,
        leaf_index: 0,
        priority: Priority::Normal,
        flags: MessageFlags::PUBLISHED,
        salt: [4; 16],
        path: Bytes::new(),
        envelope: Bytes::new(),
    };
    Delivery { message, batch_header: Bytes::new(), record: (SegmentNumber(1), 0), attempt: 1 }
}
