//! What members of a group give back, and how long one that holds back is held back.

use super::channels::{CHANNEL, GROUP, who};
use super::*;
use crate::limits::{PROBE_HOLD_US, REDELIVERY_BASE_US};
use crate::subscription::Reader;

fn shard(members: u32, messages: u64, deliveries_max: u8) -> (Shard, Vec<Reader>, Vec<u64>) {
    let redelivery = RedeliveryConfig { deliveries_max, ..RedeliveryConfig::default() };
    let mut shard = Shard::new(MailboxesConfig { redelivery, ..MailboxesConfig::default() });
    let members = (1..=members).map(|number| shard.reader(number, GROUP)).collect();
    let sequences = (1..=messages).map(|number| shard.publish(number)).collect();
    (shard, members, sequences)
}

impl Shard {
    /// What a member is handed, and how often each was.
    fn handed(&mut self, member: Reader, messages: u32) -> Vec<(u64, u8)> {
        let deliveries = self.mailboxes.next_published(member, messages, u64::MAX, NOW_MS);
        deliveries.iter().map(|delivery| (delivery.message.sequence, delivery.attempt)).collect()
    }

    /// Lets time pass; who may have something that it had not before.
    fn pass_for(&mut self, now_us: u64) -> Vec<Reader> {
        self.mailboxes.take_ready_readers();
        self.mailboxes.pass(now_us);
        self.mailboxes.take_ready_readers()
    }

    fn timers(&self) -> usize {
        self.mailboxes.redelivery.timers()
    }

    fn progress(&self) -> crate::record::Progress {
        self.mailboxes.subscription(CHANNEL, who(1), GROUP).unwrap().progress
    }
}

#[test]
fn a_member_that_holds_what_came_back_gets_one_more_after_a_while_and_another_after_that() {
    let (mut shard, members, sequences) = shard(2, 5, 0);
    assert_eq!(shard.handed(members[0], 1), [(sequences[0], 1)]);
    shard.mailboxes.reset_reader(members[0], None);
    // It waits for a second one before it acknowledges any.
    assert_eq!(shard.handed(members[1], 10), [(sequences[0], 2)]);
    for (times, &more) in (1..).zip(&sequences[1..4]) {
        let due_us = times * PROBE_HOLD_US;
        assert_eq!(shard.pass_for(due_us - 1), []);
        assert_eq!(shard.handed(members[1], 10), []);
        assert_eq!(shard.pass_for(due_us), [members[1]]);
        assert_eq!(shard.handed(members[1], 10), [(more, 1)]);
        assert_eq!(shard.handed(members[1], 10), [], "one");
    }
    // As soon as it is done with what came back it has what it has credit for.
    shard.mailboxes.take_ready_readers();
    shard.mailboxes.acknowledge_each(members[1], &sequences[..1]);
    assert_eq!(shard.mailboxes.take_ready_readers(), [members[1]]);
    assert_eq!(shard.handed(members[1], 10), [(sequences[4], 1)]);
    assert_eq!(shard.pass_for(100 * PROBE_HOLD_US), [], "nothing is held back any more");
}

#[test]
fn members_that_all_collect_do_not_hold_up_what_came_back() {
    let (mut shard, members, sequences) = shard(2, 3, 0);
    assert_eq!(shard.handed(members[0], 1), [(sequences[0], 1)]);
    assert_eq!(shard.handed(members[1], 1), [(sequences[1], 1)]);
    shard.mailboxes.reset_reader(members[0], None);
    // The other has something in hand: what came back is to be had alone, and nothing new before it.
    assert_eq!(shard.handed(members[1], 10), []);
    assert_eq!(shard.pass_for(PROBE_HOLD_US), [members[1]]);
    // Then in order.
    assert_eq!(shard.handed(members[1], 10), [(sequences[0], 2), (sequences[2], 1)]);
}

#[test]
fn a_member_that_was_given_more_goes_over_what_it_had_first() {
    let (mut shard, members, sequences) = shard(2, 3, 2);
    assert_eq!(shard.handed(members[0], 1).len(), 1);
    shard.mailboxes.reset_reader(members[0], None);
    assert_eq!(shard.handed(members[1], 10), [(sequences[0], 2)]);
    shard.pass_for(PROBE_HOLD_US);
    assert_eq!(shard.handed(members[1], 10), [(sequences[1], 1)]);
    shard.mailboxes.reset_reader(members[1], None);
    let progress = shard.progress();
    assert_eq!((progress.cursor, progress.skipped), (sequences[0], 1), "twice somebody went over the first");
    let again = shard.mailboxes.attach(CHANNEL, who(1), GROUP).unwrap();
    assert_eq!(shard.handed(again, 10), [(sequences[1], 2)]);
}

#[test]
fn what_a_member_refuses_comes_back_later_and_is_given_up_after_too_many_tries() {
    let (mut shard, members, sequences) = shard(2, 4, 3);
    assert_eq!(shard.handed(members[0], 2), [(sequences[0], 1), (sequences[1], 1)]);
    let not_its = (sequences[3], 0);
    shard.mailboxes.nack_published(members[0], &[(sequences[0], 0), not_its], None, 0);
    // The others first, to both: it is known which one was refused, so nobody is given it alone.
    assert_eq!(shard.handed(members[1], 10), [(sequences[2], 1), (sequences[3], 1)]);
    assert_eq!(shard.pass_for(REDELIVERY_BASE_US - 1), []);
    assert_eq!(shard.pass_for(REDELIVERY_BASE_US), [members[1]], "the other had credit left");
    assert_eq!(shard.handed(members[1], 10), [(sequences[0], 2)]);
    // Not before it says.
    shard.mailboxes.nack_published(members[1], &[(sequences[0], 90_000)], None, REDELIVERY_BASE_US);
    assert_eq!(shard.handed(members[1], 10), []);
    assert_eq!(shard.pass_for(REDELIVERY_BASE_US + 89_999_999), []);
    assert_eq!(shard.pass_for(REDELIVERY_BASE_US + 90_000_000), [members[1]]);
    assert_eq!(shard.handed(members[0], 10), [(sequences[0], 3)]);
    shard.mailboxes.nack_published(members[0], &[(sequences[0], 0)], None, 100_000_000);
    assert_eq!((shard.progress().cursor, shard.progress().skipped), (sequences[0], 1));
    assert_eq!(shard.pass_for(u64::MAX), []);
    shard.mailboxes.acknowledge_each(members[0], &sequences[1..2]);
    shard.mailboxes.acknowledge_each(members[1], &sequences[2..]);
    assert_eq!(shard.progress().cursor, sequences[3]);
    assert_eq!(shard.timers(), 0);
}

#[test]
fn tries_count_together_however_they_failed() {
    let (mut shard, members, sequences) = shard(1, 1, 2);
    shard.handed(members[0], 1);
    shard.mailboxes.reset_reader(members[0], None);
    let again = shard.mailboxes.attach(CHANNEL, who(1), GROUP).unwrap();
    assert_eq!(shard.handed(again, 1), [(sequences[0], 2)]);
    shard.mailboxes.nack_published(again, &[(sequences[0], 0)], None, 0);
    assert_eq!(shard.progress().skipped, 1);
}

#[test]
fn what_a_member_refuses_for_good_is_given_up_at_once_by_its_group_alone() {
    let (mut shard, members, sequences) = shard(1, 2, 0);
    let own = shard.reader(9, crate::id::GroupId::NONE);
    assert_eq!(shard.take(own, 1), sequences[..1]);
    shard.handed(members[0], 1);
    shard.mailboxes.nack_published(members[0], &[(sequences[0], 0)], Some(1), 0);
    // A subscriber of its own has nobody to whom it could go back.
    shard.mailboxes.nack_published(own, &[(sequences[0], 0)], Some(1), 0);
    shard.mailboxes.give_back(own, &sequences);
    assert_eq!((shard.progress().cursor, shard.progress().skipped), (sequences[0], 1));
    assert_eq!(shard.handed(members[0], 5), [(sequences[1], 1)]);
    assert_eq!(shard.take(own, 5), sequences[1..]);
    assert_eq!(shard.mailboxes.kept_range(CHANNEL), Some((sequences[0], sequences[1])));
}

#[test]
fn what_a_member_gives_back_untouched_counts_for_nothing() {
    let (mut shard, members, sequences) = shard(2, 4, 1);
    assert_eq!(shard.handed(members[0], 3).len(), 3);
    assert_eq!(shard.handed(members[1], 10), [(sequences[3], 1)]);
    shard.mailboxes.take_ready_readers();
    shard.mailboxes.acknowledge_each(members[0], &sequences[..1]);
    // It leaves with two that it never looked at; others have them at once, as if nobody had had them.
    shard.mailboxes.give_back(members[0], &sequences);
    shard.mailboxes.reset_reader(members[0], None);
    assert_eq!(shard.mailboxes.take_ready_readers(), [members[1]]);
    assert_eq!(shard.handed(members[1], 10), [(sequences[1], 1), (sequences[2], 1)]);
    assert_eq!(shard.progress().skipped, 0);
}

#[test]
fn who_gave_a_message_back_is_not_handed_it_again_while_another_member_may_have_it() {
    let (mut shard, members, sequences) = shard(3, 3, 1);
    assert_eq!(shard.handed(members[0], 1), [(sequences[0], 1)]);
    shard.mailboxes.give_back(members[0], &sequences[..1]);
    // It goes on with what is new, as long as somebody else is there.
    assert_eq!(shard.handed(members[0], 1), [(sequences[1], 1)]);
    assert_eq!(shard.handed(members[1], 1), [(sequences[0], 1)]);
    shard.mailboxes.give_back(members[1], &sequences[..1]);
    assert_eq!(shard.handed(members[0], 1), [(sequences[2], 1)]);
    assert_eq!(shard.handed(members[1], 1), []);
    // The last one that could goes: then whoever asks has it again, and is told that there is more.
    shard.mailboxes.take_ready_readers();
    shard.mailboxes.reset_reader(members[2], None);
    assert!(shard.mailboxes.take_ready_readers().contains(&members[1]));
    assert_eq!(shard.handed(members[1], 1), [(sequences[0], 1)]);
    // One that comes again may be able to do more.
    shard.mailboxes.give_back(members[1], &sequences[..1]);
    shard.mailboxes.acknowledge_each(members[0], &sequences[1..]);
    shard.mailboxes.reset_reader(members[0], None);
    let again = shard.mailboxes.attach(CHANNEL, members[0].subscriber, GROUP).unwrap();
    assert_eq!(shard.handed(members[1], 1), []);
    assert_eq!(shard.handed(again, 1), [(sequences[0], 1)]);
    shard.mailboxes.acknowledge_each(again, &sequences);
    assert_eq!(shard.progress().skipped, 0);
}

#[test]
fn a_member_that_comes_or_goes_with_nothing_wakes_no_other() {
    let (mut shard, members, sequences) = shard(3, 1, 0);
    assert_eq!(shard.handed(members[0], 1), [(sequences[0], 1)]);
    members[1..].iter().for_each(|&member| assert_eq!(shard.handed(member, 1), []));
    shard.mailboxes.take_ready_readers();
    for _ in 0..3 {
        shard.mailboxes.reset_reader(members[1], None);
        shard.mailboxes.attach(CHANNEL, who(2), GROUP).unwrap();
    }
    assert_eq!(shard.mailboxes.take_ready_readers(), []);
    shard.mailboxes.reset_reader(members[0], None);
    assert_eq!(shard.mailboxes.take_ready_readers(), members[2..]);
}

#[test]
fn timers_go_with_what_they_are_for() {
    let (mut shard, members, sequences) = shard(2, 6, 0);
    let subscribe =
        |shard: &mut Shard, start| shard.mailboxes.subscribe(CHANNEL, who(1), GROUP, Some(start)).unwrap().unwrap();
    let refuse = |shard: &mut Shard| {
        shard.handed(members[0], 2);
        shard.mailboxes.nack_published(members[0], &[(sequences[0], u32::MAX), (sequences[1], 5)], None, 0);
    };
    refuse(&mut shard);
    assert_eq!(shard.timers(), 1, "one of a group, whatever it waits for");
    // What expires comes back no more.
    let settle = Settle { mailbox: CHANNEL, cause: SettleCause::Expired, sequences: sequences[..2].to_vec() };
    let anew = subscribe(&mut shard, StartAt::Oldest);
    assert_eq!(shard.handed(members[0], 2), [(sequences[0], 1), (sequences[1], 1)], "it begins anew");
    shard.mailboxes.nack_published(members[0], &[(sequences[0], 1_000)], None, 0);
    shard.apply(Record::Subscribe(anew));
    shard.apply(Record::Settle(settle));
    assert_eq!(shard.pass_for(u64::MAX / 2), []);
    assert_eq!(shard.timers(), 0);
    // A refused beginning anew leaves what comes back later as it is.
    assert_eq!(shard.handed(members[1], 1), [(sequences[2], 1)]);
    shard.mailboxes.nack_published(members[1], &[(sequences[2], 1_000)], None, u64::MAX / 2);
    let refused = subscribe(&mut shard, StartAt::Now);
    shard.mailboxes.subscribe_refused(&refused);
    shard.pass_for(u64::MAX / 2 + 1_000_000);
    assert_eq!(shard.handed(members[1], 1), [(sequences[2], 2)]);
    // With its last member a group is gone, and its timer.
    shard.mailboxes.nack_published(members[1], &[(sequences[2], 1_000)], None, u64::MAX / 2);
    assert_eq!(shard.timers(), 1);
    for number in [1, 2] {
        shard.mailboxes.unsubscribe(CHANNEL, who(number), GROUP).unwrap();
    }
    assert_eq!(shard.timers(), 0);
    shard.mailboxes.pass(u64::MAX);
}
