use super::*;
use crate::limits::SENDER_IN_FLIGHT_MESSAGES_MAX;

const NOW_MS: u64 = 1_700_000_000_000;
const A: SenderId = SenderId([1; 16]);
const B: SenderId = SenderId([2; 16]);
const FIRST: SegmentNumber = SegmentNumber(1);

fn windows(config: DedupConfig) -> Windows {
    Windows::new(config, HashKey([5, 6]))
}

fn id(time_ms: u64, number: u64) -> MessageId {
    let mut id = [0; 16];
    id[..6].copy_from_slice(&time_ms.to_be_bytes()[2..]);
    id[8..].copy_from_slice(&number.to_be_bytes());
    MessageId(id)
}

#[test]
fn an_id_is_new_then_pending_then_durable() {
    let mut windows = windows(DedupConfig::default());
    let id = id(NOW_MS, 1);
    assert_eq!(windows.check(A, id, NOW_MS), Verdict::New);
    windows.insert_pending(A, id);
    assert_eq!(windows.check(A, id, NOW_MS), Verdict::Duplicate { durable: false });
    assert_eq!(windows.check(B, id, NOW_MS), Verdict::New, "ids are the sender's own");
    windows.durable(A, id, FIRST);
    assert_eq!(windows.check(A, id, NOW_MS), Verdict::Duplicate { durable: true });
}

#[test]
fn a_withdrawn_id_is_new_again() {
    let mut windows = windows(DedupConfig::default());
    windows.insert_pending(A, id(NOW_MS, 1));
    windows.insert_pending(A, id(NOW_MS, 2));
    windows.withdraw(A, id(NOW_MS, 2));
    assert_eq!(windows.check(A, id(NOW_MS, 2), NOW_MS), Verdict::New);
    assert_eq!(windows.check(A, id(NOW_MS, 1), NOW_MS), Verdict::Duplicate { durable: false });
}

#[test]
fn times_outside_the_window_are_refused() {
    let windows = windows(DedupConfig::default());
    let check = |time_ms, expected| assert_eq!(windows.check(A, id(time_ms, 1), NOW_MS), expected);
    check(NOW_MS - DEDUP_WINDOW_MS, Verdict::New);
    check(NOW_MS - DEDUP_WINDOW_MS - 1, Verdict::TooOld);
    check(NOW_MS + DEDUP_AHEAD_MS, Verdict::New);
    check(NOW_MS + DEDUP_AHEAD_MS + 1, Verdict::TooFarAhead);
    check((1 << 48) - 1, Verdict::TooFarAhead);
    assert_eq!(windows.check(A, id(0, 1), 5), Verdict::New, "a clock at its very beginning");
}

#[test]
fn what_fell_out_is_refused_and_never_new() {
    let mut windows = windows(DedupConfig { sender_ids_max: 4, ..DedupConfig::default() });
    for number in 0..10 {
        let id = id(NOW_MS + number, number);
        assert_eq!(windows.check(A, id, NOW_MS), Verdict::New);
        windows.insert_pending(A, id);
        windows.durable(A, id, FIRST);
    }
    for number in 0..10 {
        let expected = if number < 6 { Verdict::TooOld } else { Verdict::Duplicate { durable: true } };
        assert_eq!(windows.check(A, id(NOW_MS + number, number), NOW_MS), expected);
    }
    // An id that was never seen, of a time that fell out: cannot be told from one that was.
    assert_eq!(windows.check(A, id(NOW_MS + 5, 99), NOW_MS), Verdict::TooOld);
    assert_eq!(windows.check(A, id(NOW_MS + 6, 99), NOW_MS), Verdict::New);
}

#[test]
fn pending_ids_never_fall_out() {
    let mut windows = windows(DedupConfig { sender_ids_max: 4, ..DedupConfig::default() });
    for number in 0..4 {
        windows.insert_pending(A, id(NOW_MS, number));
    }
    assert_eq!(windows.check(A, id(NOW_MS, 4), NOW_MS), Verdict::TooManyPending);
    assert_eq!(windows.check(A, id(NOW_MS, 0), NOW_MS), Verdict::Duplicate { durable: false });
    windows.durable(A, id(NOW_MS, 0), FIRST);
    assert_eq!(windows.check(A, id(NOW_MS + 1, 4), NOW_MS), Verdict::New);
}

#[test]
fn a_resend_of_what_is_in_flight_is_always_recognised() {
    // The oldest unacknowledged message, with everything a sender may send after it, whatever its clock did.
    let mut windows = windows(DedupConfig::default());
    let mut time_ms = NOW_MS;
    let mut sent = VecDeque::new();
    for number in 0..200_000_u64 {
        time_ms = if number % 50_000 == 0 { NOW_MS - 60_000 } else { time_ms + 1 };
        let id = id(time_ms, number);
        if windows.check(A, id, NOW_MS) != Verdict::New {
            continue;
        }
        windows.insert_pending(A, id);
        windows.durable(A, id, FIRST);
        sent.push_back(id);
        if sent.len() > SENDER_IN_FLIGHT_MESSAGES_MAX {
            sent.pop_front();
        }
        let oldest = sent[0];
        assert_eq!(windows.check(A, oldest, NOW_MS), Verdict::Duplicate { durable: true });
    }
    assert_eq!(sent.len(), SENDER_IN_FLIGHT_MESSAGES_MAX, "vacuous");
}

#[test]
fn the_shard_lets_the_longest_known_go_first() {
    let config = DedupConfig { shard_ids_max: 1000, ..DedupConfig::default() };
    let mut windows = windows(config);
    for number in 0..20_000_u64 {
        let sender = SenderId([u8::try_from(number % 50).unwrap(); 16]);
        windows.insert_pending(sender, id(NOW_MS + number, number));
        windows.durable(sender, id(NOW_MS + number, number), FIRST);
    }
    assert!(windows.ids <= 1100, "{}", windows.ids);
    for number in 0..20_000_u64 {
        let sender = SenderId([u8::try_from(number % 50).unwrap(); 16]);
        let verdict = windows.check(sender, id(NOW_MS + number, number), NOW_MS + 20_000);
        assert_ne!(verdict, Verdict::New);
        assert!(number < 19_000 || verdict == Verdict::Duplicate { durable: true }, "{number}");
    }
}

#[test]
fn too_old_senders_are_forgotten_and_their_ids_refused() {
    let mut windows = windows(DedupConfig { senders_max: 2, ..DedupConfig::default() });
    for sender in [A, B] {
        windows.insert_pending(sender, id(NOW_MS, 1));
        windows.durable(sender, id(NOW_MS, 1), FIRST);
    }
    let third = SenderId([3; 16]);
    assert_eq!(windows.check(third, id(NOW_MS, 1), NOW_MS), Verdict::TooManySenders);
    windows.expire(NOW_MS, 10);
    assert_eq!(windows.ids, 2);
    let later_ms = NOW_MS + DEDUP_WINDOW_MS + 2;
    windows.expire(later_ms, 10);
    assert_eq!((windows.ids, windows.slots.len(), windows.carried_bytes(SegmentNumber(9))), (0, 0, 0));
    assert_eq!(windows.check(A, id(NOW_MS, 1), later_ms), Verdict::TooOld);
    assert_eq!(windows.check(third, id(later_ms, 1), later_ms), Verdict::New);
}

#[test]
fn a_window_survives_being_carried_over_in_its_order() {
    let config = DedupConfig { sender_ids_max: 100, ..DedupConfig::default() };
    let mut before = windows(config.clone());
    let segment_of = |number: u64| SegmentNumber(1 + number / 40);
    for number in 0..200 {
        for sender in [A, B] {
            before.insert_pending(sender, id(NOW_MS + number, number));
            before.durable(sender, id(NOW_MS + number, number), segment_of(number));
        }
    }
    // Small records: one window takes several. They follow what segments from 5 on hold.
    let records = before.carry_over(SegmentNumber(5), 77, 500);
    assert!(records.len() > 3 && records.iter().all(|record| record.next_sequence == 77));
    let mut after = windows(config);
    for number in 160..200 {
        for sender in [A, B] {
            after.durable(sender, id(NOW_MS + number, number), segment_of(number));
        }
    }
    for record in &records {
        for sender in &record.senders {
            after.carried_over(sender, SegmentNumber(6));
            before.carried_over(sender, SegmentNumber(6));
        }
    }
    for windows in [&before, &after] {
        assert_eq!(windows.ids, 200);
        assert_eq!(windows.carried_bytes(SegmentNumber(5)), 64, "nothing below 5 is needed any more, but two floors");
        let ids: Vec<Vec<u64>> = [A, B]
            .iter()
            .map(|sender| windows.windows[windows.slots[sender]].as_ref().unwrap())
            .map(|window| window.ids.iter().map(|entry| entry.id.time_ms() - NOW_MS).collect())
            .collect();
        assert_eq!(ids, vec![(100..200).collect::<Vec<_>>(); 2]);
        assert_eq!(windows.check(A, id(NOW_MS + 99, 99), NOW_MS), Verdict::TooOld);
    }
}

#[test]
fn what_a_later_trim_carried_over_is_newer_than_what_an_earlier_one_did() {
    // Both records are in the log, in this order, and together they have more ids than the window.
    let config = DedupConfig { sender_ids_max: 100, ..DedupConfig::default() };
    let mut before = windows(config.clone());
    let mut after = windows(config);
    let send = |before: &mut Windows, numbers: std::ops::Range<u64>, segment: u64| {
        for number in numbers {
            let id = id(NOW_MS + number, number);
            before.insert_pending(A, id);
            before.durable(A, id, SegmentNumber(segment));
        }
    };
    let carry = |before: &mut Windows, after: &mut Windows, log_start: u64, segment: u64| {
        for record in before.carry_over(SegmentNumber(log_start), 77, 500) {
            for sender in &record.senders {
                before.carried_over(sender, SegmentNumber(segment));
                after.carried_over(sender, SegmentNumber(segment));
            }
        }
    };
    send(&mut before, 0..90, 1);
    carry(&mut before, &mut after, 2, 3);
    send(&mut before, 90..150, 2);
    carry(&mut before, &mut after, 3, 4);
    for windows in [&before, &after] {
        for number in 0..50 {
            assert_eq!(windows.check(A, id(NOW_MS + number, number), NOW_MS), Verdict::TooOld, "{number}");
        }
        // A message whose acknowledgement was lost is sent again under its id: it is among the last ones.
        for number in 50..150 {
            let known = windows.check(A, id(NOW_MS + number, number), NOW_MS);
            assert_eq!(known, Verdict::Duplicate { durable: true }, "{number}");
        }
        assert_eq!((windows.ids, windows.carried_bytes(SegmentNumber(3))), (100, 32));
    }
}

#[test]
fn a_clock_that_is_set_back_makes_no_id_new_again() {
    let mut before = windows(DedupConfig::default());
    before.insert_pending(A, id(NOW_MS, 1));
    before.durable(A, id(NOW_MS, 1), FIRST);
    // A day ahead by mistake: everything is too old, and forgotten.
    before.expire(NOW_MS + 86_400_000, 10);
    assert_eq!((before.ids, before.slots.len()), (0, 0));
    assert_eq!(before.check(A, id(NOW_MS, 1), NOW_MS), Verdict::TooOld);
    // Also after a restart from what was carried over.
    let mut after = windows(DedupConfig::default());
    for record in before.carry_over(SegmentNumber(2), 2, 4096) {
        record.senders.iter().for_each(|sender| after.carried_over(sender, SegmentNumber(2)));
    }
    assert_eq!(after.check(A, id(NOW_MS, 1), NOW_MS), Verdict::TooOld);
    assert_eq!(after.check(A, id(NOW_MS + 1, 2), NOW_MS + 1), Verdict::New);
}

/// A life that admits an id every minute for three hours, each minute in a segment of its own, and trims the older half.
/// The next life has windows of another size and time. Whatever these are: nothing that was admitted is new again.
#[test]
fn windows_that_are_set_otherwise_at_a_restart_take_nothing_twice() {
    const MINUTE_MS: u64 = 60_000;
    const MINUTES: u64 = 180;
    let times = [10, 60, 24 * 60].map(|minutes| minutes * MINUTE_MS);
    let sizes = [20, 100, DEDUP_SENDER_IDS_MAX];
    let configs = times.iter().flat_map(|&window_ms| {
        sizes.map(|sender_ids_max| DedupConfig { window_ms, sender_ids_max, ..DedupConfig::default() })
    });
    let configs: Vec<_> = configs.collect();
    let (mut duplicates, mut refused, mut new) = (0, 0, 0);
    for before in &configs {
        for after in &configs {
            let mut first = windows(before.clone());
            for minute in 0..MINUTES {
                let (now_ms, segment) = (NOW_MS + minute * MINUTE_MS, SegmentNumber(minute + 1));
                assert_eq!(first.check(A, id(now_ms, minute), now_ms), Verdict::New);
                first.insert_pending(A, id(now_ms, minute));
                first.durable(A, id(now_ms, minute), segment);
                first.expire(now_ms, 10);
            }
            let log_start = SegmentNumber(MINUTES / 2);
            let carried = first.carry_over(log_start, 1, 1 << 20);
            let mut second = windows(after.clone());
            for minute in log_start.0 - 1..MINUTES {
                second.durable(A, id(NOW_MS + minute * MINUTE_MS, minute), SegmentNumber(minute + 1));
            }
            for sender in carried.iter().flat_map(|dedup| &dedup.senders) {
                second.carried_over(sender, SegmentNumber(MINUTES + 1));
            }
            let now_ms = NOW_MS + MINUTES * MINUTE_MS;
            for minute in 0..MINUTES {
                match second.check(A, id(NOW_MS + minute * MINUTE_MS, minute), now_ms) {
                    Verdict::Duplicate { .. } => duplicates += 1,
                    Verdict::TooOld => refused += 1,
                    verdict => panic!("minute {minute}, {before:?}, then {after:?}: {verdict:?}"),
                }
            }
            // What is set now is what counts for ids that never came.
            let unknown = id(now_ms - before.window_ms.max(after.window_ms) / 2, MINUTES);
            new += u32::from(second.check(A, unknown, now_ms) == Verdict::New);
            assert_eq!(second.check(A, id(now_ms - after.window_ms - 1, MINUTES), now_ms), Verdict::TooOld);
            assert_eq!(second.check(A, id(now_ms, MINUTES), now_ms), Verdict::New);
        }
    }
    assert!(duplicates > 1_000 && refused > 1_000 && new > 0, "vacuous: {duplicates}, {refused}, {new}");
}

#[test]
fn a_window_takes_an_eighth_more_than_its_ids_and_gives_the_rest_back() {
    let mut windows = windows(DedupConfig::default());
    let spare = |windows: &Windows| {
        let window = windows.windows[0].as_ref().unwrap();
        (window.ids.capacity() - window.ids.len(), window.table.capacity() - window.ids.len())
    };
    for number in 0..DEDUP_SENDER_IDS_MAX as u64 {
        windows.durable(A, id(NOW_MS + number, number), FIRST);
        assert!(spare(&windows).0 <= windows.ids / 8 + FIRST_IDS, "{number}");
    }
    // All but a hundred are forgotten for their age.
    windows.expire(NOW_MS + DEDUP_SENDER_IDS_MAX as u64 - 100 + DEDUP_WINDOW_MS, 1);
    assert_eq!(windows.ids, 100);
    let (places, of_table) = spare(&windows);
    assert!(places <= 400 && of_table <= 800, "room for {places} and {of_table} more");
    for number in 0..DEDUP_SENDER_IDS_MAX as u64 {
        let known = windows.check(A, id(NOW_MS + number, number), NOW_MS) == Verdict::Duplicate { durable: true };
        assert_eq!(known, number >= DEDUP_SENDER_IDS_MAX as u64 - 100, "{number}");
    }
}
