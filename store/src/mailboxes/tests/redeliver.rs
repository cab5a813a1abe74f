//! What is delivered again, and when.

use super::*;
use crate::limits::{DELIVERIES_MAX, NOTICE_BYTES, PROBE_HOLD_US, REDELIVERY_BASE_US, REDELIVERY_MAX_US};

fn shard(messages: u64) -> Shard {
    let mut shard = Shard::new(MailboxesConfig::default());
    (1..=messages).for_each(|number| shard.queue(number, Priority::Normal));
    shard
}

impl Shard {
    fn nack(&mut self, sequence: u64, delay_ms: u32, now_us: u64) {
        self.mailboxes.nack(INBOX, &[(sequence, delay_ms)], None, now_us, NOW_MS);
    }

    /// Lets time pass; whether the mailbox may have something that it had not before.
    fn pass(&mut self, now_us: u64) -> bool {
        self.mailboxes.pass(now_us);
        self.mailboxes.take_ready().contains(&INBOX)
    }

    /// A consumer comes, gets what it may, and disappears.
    fn consumer_dies(&mut self, now_us: u64) -> Vec<u32> {
        let got = self.deliver(100).into_iter().map(|(number, _)| number).collect();
        self.mailboxes.reset(INBOX, None, now_us, NOW_MS);
        got
    }
}

#[test]
fn a_nacked_message_waits_and_the_others_go_on() {
    let mut shard = shard(4);
    assert_eq!(shard.deliver(3), [(1, 1), (2, 1), (3, 1)]);
    shard.nack(2, 0, 50);
    assert_eq!(shard.mailboxes.delayed_messages(), 1);
    assert_eq!(shard.deliver(10), [(4, 1)]);
    assert!(!shard.pass(50 + REDELIVERY_BASE_US - 1), "the pause is not over");
    assert!(shard.pass(50 + REDELIVERY_BASE_US));
    assert_eq!(shard.deliver(10), [(2, 2)]);
    assert_eq!(shard.settle(&[1, 2, 3, 4]), Some(vec![1, 2, 3, 4]));
    assert_eq!(shard.mailboxes.messages(), 0);
}

#[test]
fn what_a_consumer_did_not_look_at_is_not_what_it_died_of() {
    let mut shard = shard(3);
    for time in 1..=u64::from(DELIVERIES_MAX) + 5 {
        assert_eq!(shard.deliver(100).len(), 3, "time {time}");
        let sequences = [1, 2, 3];
        shard.mailboxes.untouched(INBOX, &sequences);
        shard.mailboxes.untouched(INBOX, &[sequences[0], 1_000_000]);
        assert_eq!(shard.deliver(100), [], "it keeps them");
        shard.mailboxes.reset(INBOX, None, time, NOW_MS);
    }
    // It says so anew each time: the next one dies of what it has.
    assert_eq!(shard.deliver(100).len(), 3);
    shard.mailboxes.untouched(INBOX, &[1]);
    shard.mailboxes.reset(INBOX, None, 100, NOW_MS);
    assert_eq!(shard.mailboxes.failed_deliveries(2), 1);
}

#[test]
fn every_pause_is_twice_the_last_up_to_the_longest_and_never_below_what_was_asked_for() {
    let mut shard = Shard::new(MailboxesConfig {
        redelivery: RedeliveryConfig { deliveries_max: 0, ..RedeliveryConfig::default() },
        ..MailboxesConfig::default()
    });
    shard.queue(1, Priority::Normal);
    let mut now_us = 7;
    for count in 1..=70_u32 {
        assert_eq!(shard.deliver(1).len(), 1, "delivery {count}");
        shard.nack(1, 0, now_us);
        let doubled = REDELIVERY_BASE_US.saturating_mul(1_u64.checked_shl(count - 1).unwrap_or(u64::MAX));
        let pause_us = doubled.min(REDELIVERY_MAX_US);
        assert!(!shard.pass(now_us + pause_us - 1) && shard.deliver(1).is_empty(), "delivery {count}");
        now_us += pause_us;
        assert!(shard.pass(now_us), "delivery {count}");
    }
    let asked_ms = 2 * u32::try_from(REDELIVERY_MAX_US / 1_000).unwrap();
    shard.deliver(1);
    shard.nack(1, asked_ms, now_us);
    assert!(!shard.pass(now_us + 2 * REDELIVERY_MAX_US - 1));
    assert!(shard.pass(now_us + 2 * REDELIVERY_MAX_US));
}

#[test]
fn only_what_is_handed_out_can_be_nacked_and_only_once() {
    let mut shard = shard(2);
    shard.nack(1, 0, 0);
    assert_eq!(shard.mailboxes.delayed_messages(), 0, "it waits");
    assert_eq!(shard.deliver(1), [(1, 1)]);
    shard.mailboxes.nack(INBOX, &[(1, 0), (1, 0), (9, 0)], None, 0, NOW_MS);
    assert_eq!(shard.mailboxes.delayed_messages(), 1);
    shard.mailboxes.nack(MailboxId([8; 16]), &[(1, 0)], None, 0, NOW_MS);
    assert_eq!(shard.deliver(9), [(2, 1)]);
}

#[test]
fn a_delayed_message_can_be_settled_and_leaves_no_timer_behind() {
    let mut shard = shard(1);
    shard.deliver(1);
    shard.nack(1, 0, 0);
    assert_eq!(shard.settle(&[1]), Some(vec![1]));
    assert_eq!((shard.mailboxes.delayed_messages(), shard.mailboxes.messages()), (0, 0));
    shard.pass(u64::MAX);
}

#[test]
fn what_comes_back_takes_its_old_place() {
    let mut shard = Shard::new(MailboxesConfig::default());
    for number in 1..=8 {
        shard.queue(number, if number % 2 == 0 { Priority::High } else { Priority::Normal });
    }
    assert_eq!(shard.deliver(6).len(), 6);
    for sequence in [1, 4, 2] {
        shard.nack(sequence, 0, 0);
    }
    shard.pass(REDELIVERY_BASE_US);
    shard.mailboxes.reset(INBOX, None, REDELIVERY_BASE_US, NOW_MS);
    let order: Vec<u32> = shard.deliver(10).into_iter().map(|(number, _)| number).collect();
    assert_eq!(order, [2, 4, 6, 8, 1, 3, 5, 7]);
}

#[test]
fn a_message_whose_deliveries_fail_too_often_goes_to_the_dead_letters() {
    let mut shard = shard(2);
    let mut now_us = 0;
    for count in 1..20 {
        assert_eq!(shard.deliver(1), [(1, count)]);
        shard.nack(1, 0, now_us);
        now_us += REDELIVERY_MAX_US;
        shard.pass(now_us);
        assert!(shard.die().is_empty());
    }
    assert_eq!(shard.deliver(1), [(1, 20)]);
    shard.nack(1, 0, now_us);
    assert_eq!(shard.deliver(10), [(2, 1)], "it is not delivered while its record is on its way");
    let letter = DeadLetter { sequence: 1, died_ms: NOW_MS, reason: 0, cause: DeathCause::Deliveries, deliveries: 20 };
    assert_eq!(shard.die(), [letter]);
    shard.mailboxes.reset(INBOX, None, now_us, NOW_MS);
    assert_eq!(shard.deliver(10), [(2, 2)]);
}

#[test]
fn a_consumer_that_disappears_is_held_against_the_message_that_it_had_first() {
    let mut shard = shard(3);
    let mut now_us = 0;
    // It always gets one more done: what was handed out ahead comes again and again, and nothing of it is guilty.
    for number in 4..200 {
        shard.queue(number, Priority::Normal);
        let first = shard.deliver(100)[0].0;
        assert_eq!(u64::from(first), number - 3, "in order, without a pause");
        shard.settle(&[u64::from(first)]).unwrap();
        now_us += 1;
        shard.mailboxes.reset(INBOX, None, now_us, NOW_MS);
        assert!(shard.die().is_empty());
    }
}

#[test]
fn the_message_that_consumers_die_of_goes_alone_and_no_innocent_with_it() {
    let mut shard = shard(50);
    let mut now_us = 0;
    assert_eq!(shard.consumer_dies(now_us).len(), 50);
    assert_eq!(shard.consumer_dies(now_us).len(), 50, "once may be chance");
    let mut deaths = 2;
    loop {
        assert!(shard.consumer_dies(now_us).is_empty(), "nothing before the pause is over");
        now_us += REDELIVERY_MAX_US;
        assert!(shard.pass(now_us));
        assert_eq!(shard.consumer_dies(now_us), [1], "one at a time");
        deaths += 1;
        let letters = shard.die();
        if let [letter] = letters[..] {
            assert_eq!((letter.sequence, letter.cause, letter.deliveries), (1, DeathCause::Deliveries, 20));
            break;
        }
        assert!(letters.is_empty());
    }
    assert_eq!(deaths, 20);
    // All others were handed out twice and are not blamed.
    let rest = shard.deliver(100);
    assert_eq!(rest, (2..=50).map(|number| (number, 3)).collect::<Vec<_>>());
    assert_eq!(shard.dead(), [1]);
}

#[test]
fn whoever_gets_one_message_at_a_time_gets_the_next_when_it_nacks_and_all_when_it_gets_something_done() {
    let mut shard = shard(9);
    shard.consumer_dies(0);
    shard.consumer_dies(0);
    shard.pass(REDELIVERY_BASE_US);
    assert_eq!(shard.deliver(9), [(1, 3)]);
    shard.nack(1, 0, REDELIVERY_BASE_US);
    assert!(shard.mailboxes.take_ready().contains(&INBOX));
    assert_eq!(shard.deliver(9), [(2, 3)]);
    assert_eq!(shard.deliver(9), []);
    shard.mailboxes.reject(INBOX, &[(2, 5)], NOW_MS);
    assert!(shard.mailboxes.take_ready().contains(&INBOX));
    assert_eq!(shard.deliver(2), [(3, 3), (4, 3)], "anything done ends it");
    shard.mailboxes.reset(INBOX, None, REDELIVERY_BASE_US, NOW_MS);
    shard.consumer_dies(REDELIVERY_BASE_US);
    shard.pass(2 * REDELIVERY_BASE_US);
    assert_eq!(shard.deliver(9).len(), 1);
    shard.settle(&[3]).unwrap();
    assert!(shard.mailboxes.take_ready().contains(&INBOX));
    assert_eq!(shard.deliver(9).len(), 6);
}

#[test]
fn whoever_settles_several_together_gets_one_more_from_time_to_time() {
    let mut shard = shard(5);
    shard.consumer_dies(0);
    shard.consumer_dies(0);
    let mut now_us = REDELIVERY_BASE_US;
    shard.pass(now_us);
    for number in 1..=5 {
        assert_eq!(shard.deliver(9), [(number, 3)]);
        assert!(!shard.pass(now_us + PROBE_HOLD_US - 1));
        now_us += PROBE_HOLD_US;
        assert!(shard.pass(now_us));
    }
}

#[test]
fn a_consumer_that_leaves_with_nothing_in_hand_is_not_missed() {
    let mut shard = shard(2);
    for _ in 0..9 {
        assert_eq!(shard.deliver(2).len(), 2);
        shard.mailboxes.nack(INBOX, &[(1, 0), (2, 0)], None, 0, NOW_MS);
        shard.mailboxes.reset(INBOX, None, 0, NOW_MS);
        shard.pass(u64::MAX / 2);
    }
    assert_eq!(shard.deliver(2).len(), 2);
}

#[test]
fn what_is_passed_over_is_not_in_hand_whoever_had_it_before() {
    let mut shard = Shard::new(MailboxesConfig { cache_bytes: 0, ..MailboxesConfig::default() });
    for number in 1..=2 {
        let mut part = shard.admit(number, Priority::Normal).unwrap();
        // The index rounds it up to a second: until then only the message itself says that it is over.
        part.messages[0].expiry_ms = if number == 1 { NOW_MS + 1 } else { 0 };
        shard.apply(Record::BatchPart(part));
    }
    assert_eq!(shard.consumer_dies(0), [1, 2]);
    assert_eq!(shard.consumer_dies(0), [1, 2]);
    shard.pass(REDELIVERY_BASE_US);
    let deliveries = shard.deliveries(9, u64::MAX, NOW_MS + 1);
    let numbers: Vec<u32> = deliveries.iter().map(|delivery| delivery.message.leaf_index).collect();
    assert_eq!(numbers, [2], "the one that it is given, though the first was read, and passed over, before");
}

#[test]
fn the_next_consumer_is_given_one_message_whatever_the_last_one_was_given() {
    let mut shard = shard(5);
    shard.consumer_dies(0);
    shard.consumer_dies(0);
    let mut now_us = REDELIVERY_BASE_US;
    shard.pass(now_us);
    for number in 1..=2 {
        assert_eq!(shard.deliver(9), [(number, 3)]);
        now_us += PROBE_HOLD_US;
        shard.pass(now_us);
    }
    // It leaves in peace: both will be delivered again later.
    shard.mailboxes.nack(INBOX, &[(1, 0), (2, 0)], None, now_us, NOW_MS);
    shard.mailboxes.reset(INBOX, None, now_us, NOW_MS);
    assert_eq!(shard.deliver(9), [(3, 3)]);
    assert_eq!(shard.deliver(9), []);
}

impl Shard {
    fn queue_notice(&mut self, number: u64) -> u64 {
        let admitted = self.mailboxes.admit(SENDER, message_id(number), INBOX, NOTICE_BYTES, NOW_MS);
        let Ok(Admit::New(sequence)) = admitted else { panic!("{admitted:?}") };
        let notice = part(sequence, number, Priority::Normal, Bytes::from(vec![7; NOTICE_BYTES]));
        self.apply(Record::BatchPart(notice));
        sequence
    }
}

#[test]
fn a_notice_is_never_blamed_and_the_message_behind_it_is() {
    let mut shard = shard(0);
    shard.queue_notice(1);
    shard.queue(2, Priority::Normal);
    shard.deliver(9);
    shard.mailboxes.reset(INBOX, Some(1), 0, NOW_MS);
    assert_eq!(shard.die().iter().map(|letter| letter.sequence).collect::<Vec<_>>(), [2]);
}

#[test]
fn notices_that_nobody_acknowledges_slow_nobody_down() {
    let mut shard = shard(0);
    for number in 1..=3 {
        shard.queue_notice(number);
    }
    for _ in 0..9 {
        assert_eq!(shard.consumer_dies(0), [1, 2, 3], "nothing that a consumer could die of");
    }
    shard.queue(4, Priority::Normal);
    assert_eq!(shard.consumer_dies(0), [1, 2, 3, 4]);
    assert_eq!(shard.consumer_dies(0), [1, 2, 3, 4]);
    shard.queue(5, Priority::Normal);
    assert_eq!(shard.deliver(9), [], "not before the pause is over");
    shard.pass(REDELIVERY_BASE_US);
    let got: Vec<u32> = shard.deliver(9).into_iter().map(|(number, _)| number).collect();
    assert_eq!(got, [1, 2, 3, 4], "all of them, and one message");
}

#[test]
fn an_acknowledged_notice_says_nothing_of_a_consumer() {
    let mut shard = shard(2);
    let notice = shard.queue_notice(3);
    shard.consumer_dies(0);
    shard.consumer_dies(0);
    shard.settle(&[notice]).unwrap();
    shard.pass(REDELIVERY_BASE_US);
    assert_eq!(shard.deliver(9).len(), 1, "still one at a time");
    shard.settle(&[1]).unwrap();
    assert_eq!(shard.deliver(9).len(), 1);
}
