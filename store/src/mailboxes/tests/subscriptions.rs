//! What the log says of subscriptions, and when: of what is missed, of what is carried over, and of what is on its way.

use super::channels::{CHANNEL, GROUP, HOUR_MS, who};
use super::*;
use crate::id::{GroupId, SubscriberId};
use crate::record::{Subscribe, Unsubscribe};
use crate::subscription::Reader;

/// A shard whose records a restart can read.
struct Logged {
    shard: Shard,
    log: Vec<(Position, Record)>,
}

impl Logged {
    fn new(config: MailboxesConfig) -> Self {
        Self { shard: Shard::new(config), log: Vec::new() }
    }

    fn keep(&mut self, record: Record) {
        let position = self.shard.write(&record);
        self.shard.make_durable(position, record.clone());
        self.log.push((position, record));
    }

    fn publish(&mut self, number: u64, expiry_ms: u64) -> u64 {
        let part = self.shard.admit_published(number, 100, expiry_ms);
        let sequence = part.messages[0].sequence;
        self.keep(Record::BatchPart(part));
        sequence
    }

    fn subscribe(&mut self, number: u32, group: GroupId) -> Reader {
        let made = self.shard.mailboxes.subscribe(CHANNEL, who(number), group, Some(StartAt::Oldest)).unwrap();
        self.keep(Record::Subscribe(made.unwrap()));
        self.shard.mailboxes.attach(CHANNEL, who(number), group).unwrap()
    }

    /// Records by which what is over leaves the channel.
    fn expire(&mut self, now_ms: u64) -> Vec<Settle> {
        let mut settles = self.shard.mailboxes.expire(now_ms, 1_000);
        settles.extend(std::iter::from_fn(|| self.shard.mailboxes.next_leaving()));
        settles
    }

    fn cursors(&mut self) -> usize {
        let records: Vec<_> = std::iter::from_fn(|| self.shard.mailboxes.next_cursors(64 << 10)).collect();
        let count = records.len();
        records.into_iter().for_each(|record| self.keep(Record::Cursors(record)));
        count
    }

    /// What a start finds in the log from this segment on.
    fn restarted(&self, from: SegmentNumber) -> Mailboxes {
        let mut mailboxes = Mailboxes::new(MailboxesConfig::default(), [5, 6]);
        for (position, record) in self.log.iter().filter(|(position, _)| position.segment >= from) {
            mailboxes.note(*position, record.noted(*position));
        }
        mailboxes.recovered();
        mailboxes
    }

    /// Carries over what segments before this one say, durably.
    fn trim(&mut self, log_start: SegmentNumber, record_bytes_max: usize) -> Vec<Record> {
        let carried = self.shard.mailboxes.carry_over(log_start, record_bytes_max);
        carried.iter().for_each(|record| self.keep(record.clone()));
        self.log.retain(|(position, _)| position.segment >= log_start);
        carried
    }

    fn next_segment(&self) -> SegmentNumber {
        SegmentNumber(1 + (self.shard.durable + 1) / 10)
    }
}

fn missed(mailboxes: &Mailboxes, number: u32, group: GroupId) -> u64 {
    mailboxes.subscription(CHANNEL, who(number), group).unwrap().progress.missed
}

#[test]
fn what_cannot_be_read_counts_as_missed_by_whoever_comes_by_it_and_once() {
    let mut logged = Logged::new(MailboxesConfig { cache_bytes: 0, ..MailboxesConfig::default() });
    let (own, member) = (logged.subscribe(1, GroupId::NONE), logged.subscribe(2, GROUP));
    logged.subscribe(3, GroupId::NONE);
    let sequences: Vec<u64> = (1..=4).map(|number| logged.publish(number, NOW_MS + HOUR_MS)).collect();
    let shard = &mut logged.shard;
    shard.mailboxes.end_turn();
    let slot = shard.mailboxes.index.find(sequences[1]).unwrap();
    let place = shard.mailboxes.index.entries.get(slot).place();
    let at = (place.message_offset + place.message_bytes - 8) as usize;
    shard.segments.get_mut(&place.segment).unwrap()[at] ^= 1;
    let mut problems = Vec::new();
    for _ in 0..4 {
        for reader in [own, member] {
            let taken = shard.take(reader, 10);
            shard.mailboxes.acknowledge_each(reader, &taken);
            shard.mailboxes.acknowledge_upto(reader, taken.last().copied().unwrap_or(0));
        }
        shard.mailboxes.end_turn();
        problems.extend(shard.read());
    }
    assert_eq!(problems.len(), 1, "said once");
    for (number, group) in [(1, GroupId::NONE), (2, GROUP)] {
        let state = shard.mailboxes.subscription(CHANNEL, who(number), group).unwrap();
        assert_eq!((state.progress.cursor, state.progress.missed), (sequences[3], 1), "{group:?}");
    }
    assert_eq!(missed(&shard.mailboxes, 3, GroupId::NONE), 0, "it did not come by it yet");
    logged.cursors();
    // It expires: for those that came by it, it was counted.
    for settle in logged.expire(NOW_MS + 2 * HOUR_MS) {
        logged.keep(Record::Settle(settle));
    }
    let again = logged.restarted(SegmentNumber(1));
    for mailboxes in [&logged.shard.mailboxes, &again] {
        assert_eq!([missed(mailboxes, 1, GroupId::NONE), missed(mailboxes, 2, GROUP)], [1, 1]);
        assert_eq!(missed(mailboxes, 3, GroupId::NONE), 4);
    }
}

#[test]
fn what_expired_is_counted_once_whatever_is_written_in_between() {
    let mut logged = Logged::new(MailboxesConfig::default());
    let reader = logged.subscribe(1, GroupId::NONE);
    let first = logged.publish(1, NOW_MS + HOUR_MS);
    logged.publish(2, NOW_MS + 1_000);
    // It is found to be over, and before anything is appended about that, the cursor is.
    let mut settles = logged.shard.mailboxes.expire(NOW_MS + 2_000, 1_000);
    assert_eq!(logged.shard.take(reader, 1), [first]);
    logged.shard.mailboxes.acknowledge_upto(reader, first);
    assert_eq!(logged.cursors(), 1);
    settles.extend(std::iter::from_fn(|| logged.shard.mailboxes.next_leaving()));
    assert_eq!(settles.len(), 1);
    for settle in settles {
        logged.keep(Record::Settle(settle));
    }
    let again = logged.restarted(SegmentNumber(1));
    assert_eq!([missed(&logged.shard.mailboxes, 1, GroupId::NONE), missed(&again, 1, GroupId::NONE)], [1, 1]);
}

#[test]
fn an_expiry_writes_nothing_about_those_that_lag_and_what_they_missed_outlives_trimming() {
    let mut logged = Logged::new(MailboxesConfig::default());
    let lagging = 0..50;
    let group = |number: u32| if number < 40 { GroupId::NONE } else { GroupId(who(number).0) };
    for number in lagging.clone() {
        logged.subscribe(number, group(number));
    }
    assert_eq!(logged.cursors(), 0);
    for number in 1..=6 {
        logged.publish(number, NOW_MS + 1_000 * number);
    }
    for tick in 1..=5 {
        for settle in logged.expire(NOW_MS + 1_000 * tick) {
            logged.keep(Record::Settle(settle));
        }
        assert_eq!(logged.cursors(), 0, "a record for each of them at each expiry");
    }
    let all = |mailboxes: &Mailboxes| lagging.clone().map(|number| missed(mailboxes, number, group(number))).sum();
    let sum: u64 = all(&logged.shard.mailboxes);
    assert_eq!((sum, all(&logged.restarted(SegmentNumber(1)))), (250, 250));
    // The segments that say so go.
    let log_start = logged.next_segment();
    let carried_bytes = logged.shard.mailboxes.channels.carried_bytes(log_start);
    let carried = logged.trim(log_start, 4_000);
    let encoded: usize = carried.iter().map(Record::encoded_bytes).sum();
    assert!(encoded as u64 <= carried_bytes + 1_000, "{encoded} bytes were counted as {carried_bytes}");
    // The last message was there before, and is not in what is left of this log.
    assert_eq!(all(&logged.restarted(log_start)), 250);
    // Said once: nothing is carried over again for it.
    assert_eq!(logged.shard.mailboxes.channels.carried_bytes(log_start), 0);
    assert_eq!(logged.cursors(), 0);
}

#[test]
fn what_is_done_above_a_cursor_and_not_written_yet_counts_as_carried_over() {
    let mut logged = Logged::new(MailboxesConfig::default());
    let (slow, quick) = (logged.subscribe(1, GROUP), logged.subscribe(2, GROUP));
    for number in 1..=400 {
        logged.publish(number, NOW_MS + HOUR_MS);
    }
    logged.shard.take(slow, 1);
    let taken = logged.shard.take(quick, 399);
    logged.shard.mailboxes.acknowledge_each(quick, &taken);
    let log_start = logged.next_segment();
    let compare = |logged: &Logged| {
        let channels = logged.shard.mailboxes.carry_subscriptions(log_start, 64 << 10);
        let encoded: usize = channels.iter().map(|record| Record::Subscriptions(record.clone()).encoded_bytes()).sum();
        let counted = logged.shard.mailboxes.channels.carried_bytes(log_start);
        assert!(encoded > 3_000, "{encoded}");
        assert!((encoded as u64).abs_diff(counted) < 100, "{encoded} bytes were counted as {counted}");
    };
    compare(&logged);
    logged.cursors();
    compare(&logged);
    // To trim less than that would write more than it frees.
    let trim_point = |logged: &Logged| {
        let mailboxes = &logged.shard.mailboxes;
        mailboxes.channels.carried_bytes(SegmentNumber(2))
    };
    assert!(trim_point(&logged) > 3_000);
}

#[test]
fn a_group_in_several_records_is_carried_over_again_with_the_first_of_them() {
    let mut logged = Logged::new(MailboxesConfig::default());
    let members: Vec<SubscriberId> = (0..60).map(who).collect();
    for number in 0..60 {
        logged.subscribe(number, GROUP);
    }
    // Into several records, in two segments.
    while logged.shard.durable % 10 != 7 {
        logged.publish(logged.shard.durable, NOW_MS + HOUR_MS);
    }
    let carried = logged.trim(logged.next_segment(), 400);
    let subscriptions = carried.iter().filter(|record| matches!(record, Record::Subscriptions(_))).count();
    assert!(subscriptions > 3, "{subscriptions}");
    let segments: std::collections::BTreeSet<SegmentNumber> =
        logged.log.iter().rev().take(carried.len()).map(|(position, _)| position.segment).collect();
    assert!(segments.len() > 1, "{segments:?}");
    assert_eq!(found(&logged.restarted(SegmentNumber(1))), members);
    // The first of these segments goes.
    let log_start = *segments.last().unwrap();
    let again = logged.restarted(SegmentNumber(1));
    let carried = again.carry_over(log_start, 400);
    assert!(carried.iter().any(|record| matches!(record, Record::Subscriptions(_))), "after a restart, too");
    logged.trim(log_start, 400);
    assert_eq!(found(&logged.restarted(log_start)), members);
}

fn found(mailboxes: &Mailboxes) -> Vec<SubscriberId> {
    mailboxes.subscription(CHANNEL, SubscriberId::NONE, GROUP).map(|state| state.subscribers).unwrap_or_default()
}

#[test]
fn whoever_subscribes_again_waits_for_the_record_before() {
    for group in [GroupId::NONE, GROUP] {
        let mut logged = Logged::new(MailboxesConfig::default());
        if group == GROUP {
            logged.subscribe(9, group);
        }
        let subscribe =
            |logged: &mut Logged, start| logged.shard.mailboxes.subscribe(CHANNEL, who(1), group, start).unwrap();
        let first = subscribe(&mut logged, None).expect("it did not before");
        let second = subscribe(&mut logged, None).expect("that is not durable yet");
        assert_eq!(second, Subscribe { begins_after: None, ..first });
        logged.shard.mailboxes.subscribe_refused(&second);
        let third = subscribe(&mut logged, None).expect("nor is it now");
        logged.keep(Record::Subscribe(first));
        let fourth = subscribe(&mut logged, None).expect("one is still on its way");
        logged.keep(Record::Subscribe(third));
        logged.keep(Record::Subscribe(fourth));
        assert_eq!(subscribe(&mut logged, None), None, "all is durable");
        // So it is when it begins anew.
        let anew = subscribe(&mut logged, Some(StartAt::Oldest)).unwrap();
        let again = subscribe(&mut logged, None).expect("that is not durable yet");
        logged.keep(Record::Subscribe(anew));
        logged.keep(Record::Subscribe(again));
        assert_eq!(subscribe(&mut logged, None), None);
        // Whoever unsubscribes twice, too.
        let unsubscribe = |logged: &mut Logged| logged.shard.mailboxes.unsubscribe(CHANNEL, who(1), group);
        let gone = unsubscribe(&mut logged).unwrap();
        assert_eq!(unsubscribe(&mut logged), Some(gone));
        logged.shard.mailboxes.unsubscribe_refused(&gone);
        let gone_again: Unsubscribe = unsubscribe(&mut logged).unwrap();
        assert!(logged.restarted(SegmentNumber(1)).attach(CHANNEL, who(1), group).is_some());
        logged.keep(Record::Unsubscribe(gone));
        logged.keep(Record::Unsubscribe(gone_again));
        assert_eq!(unsubscribe(&mut logged), None);
        assert_eq!(logged.restarted(SegmentNumber(1)).attach(CHANNEL, who(1), group), None);
    }
}

#[test]
fn a_refused_beginning_anew_changes_nothing_about_what_is_in_hand() {
    let mut logged = Logged::new(MailboxesConfig::default());
    let (own, first, second) =
        (logged.subscribe(1, GroupId::NONE), logged.subscribe(2, GROUP), logged.subscribe(3, GROUP));
    let sequences: Vec<u64> = (1..=9).map(|number| logged.publish(number, NOW_MS + HOUR_MS)).collect();
    let shard = &mut logged.shard;
    assert_eq!(shard.take(own, 3), sequences[..3]);
    assert_eq!(shard.take(first, 3), sequences[..3]);
    assert_eq!(shard.take(second, 2), sequences[3..5]);
    shard.mailboxes.acknowledge_each(second, &sequences[4..5]);
    for (number, group) in [(1, GroupId::NONE), (2, GROUP)] {
        let before = shard.mailboxes.subscription(CHANNEL, who(number), group);
        let anew = shard.mailboxes.subscribe(CHANNEL, who(number), group, Some(StartAt::Now)).unwrap().unwrap();
        shard.mailboxes.subscribe_refused(&anew);
        assert_eq!(shard.mailboxes.subscription(CHANNEL, who(number), group), before);
    }
    // What they were handed they may acknowledge, and have not again.
    shard.mailboxes.acknowledge_upto(own, sequences[2]);
    assert_eq!(shard.take(own, 2), sequences[3..5]);
    shard.mailboxes.acknowledge_each(first, &sequences[..3]);
    shard.mailboxes.acknowledge_each(second, &sequences[3..4]);
    let cursor = |shard: &Shard, number, group| {
        shard.mailboxes.subscription(CHANNEL, who(number), group).unwrap().progress.cursor
    };
    assert_eq!([cursor(shard, 1, GroupId::NONE), cursor(shard, 2, GROUP)], [sequences[2], sequences[4]]);
    assert_eq!(shard.take(second, 9), sequences[5..]);
}
