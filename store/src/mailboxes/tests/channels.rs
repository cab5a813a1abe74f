use proptest::prelude::*;

use super::*;
use crate::id::{GroupId, SubscriberId};
use crate::limits::{CHANNEL_SUBSCRIBERS_MAX, GROUP_WINDOW, READ_TRIES_MAX};
use crate::record::Progress;
use crate::record::tests::any_record;
use crate::subscription::Reader;

pub(super) const CHANNEL: MailboxId = MailboxId([0xc0; 16]);
pub(super) const GROUP: GroupId = GroupId([0x61; 16]);
pub(super) const HOUR_MS: u64 = 3_600_000;

pub(super) fn who(number: u32) -> SubscriberId {
    let mut id = [7; 16];
    id[..4].copy_from_slice(&number.to_be_bytes());
    SubscriberId(id)
}

impl Shard {
    pub(super) fn publish(&mut self, number: u64) -> u64 {
        self.publish_of(number, 100, NOW_MS + HOUR_MS)
    }

    /// Publishes a message with so many bytes of envelope, until then.
    pub(super) fn publish_of(&mut self, number: u64, envelope_bytes: usize, expiry_ms: u64) -> u64 {
        let part = self.admit_published(number, envelope_bytes, expiry_ms);
        let sequence = part.messages[0].sequence;
        self.apply(Record::BatchPart(part));
        sequence
    }

    pub(super) fn admit_published(&mut self, number: u64, envelope_bytes: usize, expiry_ms: u64) -> BatchPart {
        let envelope = Bytes::from(vec![number.to_le_bytes()[0]; envelope_bytes]);
        let id = message_id(number);
        let admitted = self.mailboxes.admit_published(Quota::default(), SENDER, id, CHANNEL, envelope_bytes, NOW_MS);
        let Ok(Admit::New(sequence)) = admitted else { panic!("{admitted:?}") };
        let mut part = part(sequence, number, Priority::Normal, envelope);
        part.messages[0].mailbox = CHANNEL;
        part.messages[0].flags = MessageFlags::PUBLISHED;
        part.messages[0].expiry_ms = expiry_ms;
        part
    }

    /// Subscribes, durably, and is there.
    pub(super) fn reader(&mut self, number: u32, group: GroupId) -> Reader {
        let subscribe = self.mailboxes.subscribe(CHANNEL, who(number), group, Some(StartAt::Oldest)).unwrap();
        self.apply(Record::Subscribe(subscribe.unwrap()));
        self.mailboxes.attach(CHANNEL, who(number), group).unwrap()
    }

    pub(super) fn take(&mut self, reader: Reader, messages: u32) -> Vec<u64> {
        let deliveries = self.mailboxes.next_published(reader, messages, u64::MAX, NOW_MS);
        deliveries.into_iter().map(|delivery| delivery.message.sequence).collect()
    }

    pub(super) fn cursors(&mut self) -> usize {
        let mut count = 0;
        while let Some(cursors) = self.mailboxes.next_cursors(64 << 10) {
            count += 1;
            self.apply(Record::Cursors(cursors));
        }
        count
    }
}

/// The figures are printed: `cargo test -p creto-store --lib one_stored_copy -- --nocapture`.
#[test]
fn one_stored_copy_goes_to_a_thousand_subscribers_and_is_looked_up_once() {
    let mut shard = Shard::new(MailboxesConfig::default());
    let readers: Vec<Reader> = (0..1_000).map(|number| shard.reader(number, GroupId::NONE)).collect();
    for reader in &readers {
        assert_eq!(shard.take(*reader, 100), []);
    }
    let mut copies = std::collections::BTreeSet::new();
    let (messages, before) = (100, shard.mailboxes.published_lookups());
    for number in 1..=messages {
        let sequence = shard.publish(number);
        let ready = shard.mailboxes.take_ready_readers();
        assert_eq!(ready, readers, "each is told once, in its turn");
        for reader in ready {
            let deliveries = shard.mailboxes.next_published(reader, 100, u64::MAX, NOW_MS);
            assert_eq!(deliveries.len(), 1);
            assert_eq!((deliveries[0].message.sequence, deliveries[0].attempt), (sequence, 1));
            copies.insert(deliveries[0].message.envelope.as_ptr() as usize);
            shard.mailboxes.acknowledge_upto(reader, sequence);
        }
        shard.mailboxes.end_turn();
        assert_eq!(shard.cursors(), 1, "a thousand acknowledgements are one record");
    }
    let lookups = shard.mailboxes.published_lookups() - before;
    println!("{messages} messages to 1,000 subscribers: {lookups} lookups, {} copies", copies.len());
    assert_eq!(copies.len() as u64, messages, "the bytes are shared");
    assert_eq!(lookups, messages, "the index is asked once for each message");
}

#[test]
fn a_read_is_shared_by_all_that_wait_for_it() {
    let mut shard = Shard::new(MailboxesConfig { cache_bytes: 0, ..MailboxesConfig::default() });
    let readers: Vec<Reader> = (0..50).map(|number| shard.reader(number, GroupId::NONE)).collect();
    let sequences: Vec<u64> = (1..=3).map(|number| shard.publish(number)).collect();
    shard.mailboxes.end_turn();
    for reader in &readers {
        assert_eq!(shard.take(*reader, 10), []);
    }
    assert_eq!(shard.read(), []);
    assert_eq!(shard.reads, 1, "three messages, fifty readers");
    let ready = shard.mailboxes.take_ready_readers();
    assert_eq!(ready.len(), 50);
    for reader in ready {
        assert_eq!(shard.take(reader, 10), sequences);
    }
    shard.mailboxes.end_turn();
    assert_eq!(shard.mailboxes.reads_in_flight(), 0);
}

#[test]
fn a_full_channel_refuses_until_everybody_has_durably_consumed_the_oldest() {
    let mut shard = Shard::new(MailboxesConfig { mailbox_messages_max: 3, ..MailboxesConfig::default() });
    let (quick, slow) = (shard.reader(1, GroupId::NONE), shard.reader(2, GroupId::NONE));
    let sequences: Vec<u64> = (1..=3).map(|number| shard.publish(number)).collect();
    assert_eq!(shard.take(quick, 10), sequences);
    shard.mailboxes.acknowledge_upto(quick, sequences[2]);
    shard.cursors();
    let admit = |shard: &mut Shard| {
        shard.mailboxes.admit_published(Quota::default(), SENDER, message_id(4), CHANNEL, 100, NOW_MS)
    };
    assert_eq!(admit(&mut shard), Err(Refusal::MailboxFull));
    assert_eq!(shard.take(slow, 1), sequences[..1]);
    shard.mailboxes.acknowledge_upto(slow, sequences[0]);
    assert_eq!(admit(&mut shard), Err(Refusal::MailboxFull), "that is not durable yet");
    shard.cursors();
    assert!(matches!(admit(&mut shard), Ok(Admit::New(_))));
    let leaving = shard.mailboxes.next_leaving().unwrap();
    assert_eq!((leaving.cause, &leaving.sequences[..]), (SettleCause::Consumed, &sequences[..1]));
    assert_eq!(shard.mailboxes.next_leaving(), None);
    shard.apply(Record::Settle(leaving));
    assert_eq!(shard.mailboxes.kept_range(CHANNEL), Some((sequences[1], sequences[2])));
    // Nobody subscribes any more: the oldest need not wait for anyone.
    for number in [1, 2] {
        let unsubscribe = shard.mailboxes.unsubscribe(CHANNEL, who(number), GroupId::NONE).unwrap();
        shard.apply(Record::Unsubscribe(unsubscribe));
    }
    let next = shard.mailboxes.admit_published(Quota::default(), SENDER, message_id(5), CHANNEL, 100, NOW_MS);
    assert!(matches!(next, Ok(Admit::New(_))));
    assert_eq!(shard.mailboxes.next_leaving().unwrap().sequences, sequences[1..2]);
}

#[test]
fn what_stays_after_all_makes_room_for_what_was_refused_before() {
    let mut shard = Shard::new(MailboxesConfig { mailbox_messages_max: 2, ..MailboxesConfig::default() });
    let sequences: Vec<u64> = (1..=2).map(|number| shard.publish_of(number, 100, NOW_MS + 1_000)).collect();
    assert_eq!(shard.mailboxes.expire(NOW_MS + 1_000, 10), []);
    let expired = shard.mailboxes.next_leaving().unwrap();
    assert_eq!((expired.cause, &expired.sequences), (SettleCause::Expired, &sequences));
    let admit = |shard: &mut Shard| {
        shard.mailboxes.admit_published(Quota::default(), SENDER, message_id(3), CHANNEL, 100, NOW_MS)
    };
    assert_eq!(admit(&mut shard), Err(Refusal::MailboxFull), "they are on their way out, and there still");
    shard.mailboxes.settle_refused(&expired);
    assert!(matches!(admit(&mut shard), Ok(Admit::New(_))));
    assert_eq!(shard.mailboxes.next_leaving().unwrap().sequences, sequences[..1]);
}

#[test]
fn a_cursor_that_is_being_set_back_holds_what_is_to_be_read_again() {
    let mut shard = Shard::new(MailboxesConfig { mailbox_messages_max: 3, ..MailboxesConfig::default() });
    let reader = shard.reader(1, GroupId::NONE);
    let sequences: Vec<u64> = (1..=3).map(|number| shard.publish(number)).collect();
    assert_eq!(shard.take(reader, 10), sequences);
    let mut made = Vec::new();
    for &sequence in &sequences[1..] {
        shard.mailboxes.acknowledge_upto(reader, sequence);
        made.extend(shard.mailboxes.next_cursors(1_000).map(Record::Cursors));
    }
    let again = shard.mailboxes.subscribe(CHANNEL, who(1), GroupId::NONE, Some(StartAt::Oldest)).unwrap().unwrap();
    // What is on its way says that all is consumed, and was made before.
    shard.apply(made.remove(0));
    assert_eq!(shard.take(reader, 1), sequences[..1]);
    // Nothing that is said meanwhile moves it.
    shard.mailboxes.acknowledge_upto(reader, sequences[0]);
    shard.apply(made.remove(0));
    let admit = |shard: &mut Shard| {
        shard.mailboxes.admit_published(Quota::default(), SENDER, message_id(4), CHANNEL, 100, NOW_MS)
    };
    assert_eq!(admit(&mut shard), Err(Refusal::MailboxFull));
    shard.apply(Record::Subscribe(again));
    let cursor = |shard: &Shard| shard.mailboxes.subscription(CHANNEL, who(1), GroupId::NONE).unwrap().progress.cursor;
    assert_eq!(cursor(&shard), 0, "what was said before that was durable is about what was before");
    shard.mailboxes.acknowledge_upto(reader, sequences[0]);
    assert_eq!(cursor(&shard), sequences[0]);
    assert_eq!(admit(&mut shard), Err(Refusal::MailboxFull), "the first is acknowledged, and that is not durable");
    shard.cursors();
    assert!(matches!(admit(&mut shard), Ok(Admit::New(_))));
}

#[test]
fn whoever_begins_anew_behind_what_never_came_into_the_log_misses_nothing_after_a_restart() {
    let mut shard = Shard::new(MailboxesConfig::default());
    let mut log = Vec::new();
    let mut keep = |shard: &mut Shard, record: Record| {
        let position = shard.write(&record);
        shard.make_durable(position, record.clone());
        log.push((position, record));
    };
    let subscribe = |shard: &mut Shard, number| {
        shard.mailboxes.subscribe(CHANNEL, who(number), GroupId::NONE, Some(StartAt::Now)).unwrap().unwrap()
    };
    let first = subscribe(&mut shard, 1);
    keep(&mut shard, Record::Subscribe(first));
    // The log has no room for another one's record: its number is gone.
    let refused = subscribe(&mut shard, 2);
    shard.mailboxes.subscribe_refused(&refused);
    let again = subscribe(&mut shard, 1);
    assert!(again.begins_after.unwrap() > again.number);
    keep(&mut shard, Record::Subscribe(again));

    let mut restarted = Shard::new(MailboxesConfig::default());
    for (position, record) in &log {
        restarted.mailboxes.note(*position, record.noted(*position));
    }
    restarted.mailboxes.recovered();
    let sequence = restarted.publish(1);
    let reader = restarted.mailboxes.attach(CHANNEL, who(1), GroupId::NONE).unwrap();
    assert_eq!(restarted.take(reader, 10), [sequence]);
}

#[test]
fn a_message_that_is_published_again_is_a_duplicate() {
    let mut shard = Shard::new(MailboxesConfig::default());
    shard.publish(1);
    let again = shard.mailboxes.admit_published(Quota::default(), SENDER, message_id(1), CHANNEL, 100, NOW_MS);
    assert_eq!(again, Ok(Admit::Duplicate { durable: true }));
}

#[test]
fn a_group_has_no_more_than_its_window_above_its_cursor() {
    let mut shard = Shard::new(MailboxesConfig::default());
    let (slow, quick) = (shard.reader(1, GROUP), shard.reader(2, GROUP));
    let sequences: Vec<u64> = (1..=GROUP_WINDOW as u64 + 5).map(|number| shard.publish(number)).collect();
    assert_eq!(shard.take(slow, 1), sequences[..1]);
    let taken = shard.take(quick, u32::MAX);
    assert_eq!(taken.len(), GROUP_WINDOW - 1);
    shard.mailboxes.acknowledge_each(quick, &taken);
    assert_eq!(shard.take(quick, 10), [], "the first is still in the other's hand");
    let state = shard.mailboxes.subscription(CHANNEL, who(1), GROUP).unwrap();
    assert_eq!(state.progress.done.len(), GROUP_WINDOW - 1);
    let cursors = shard.mailboxes.next_cursors(16 << 10).expect("a full window fits the smallest frames");
    assert!(Record::Cursors(cursors).is_within_limits());
    shard.mailboxes.take_ready_readers();
    shard.mailboxes.acknowledge_each(slow, &sequences[..1]);
    assert_eq!(shard.mailboxes.take_ready_readers(), [quick], "it waited for that");
    assert_eq!(shard.take(quick, 10), sequences[GROUP_WINDOW..]);
}

#[test]
fn what_came_back_goes_first_and_alone_and_is_skipped_after_too_many_deliveries() {
    let redelivery = RedeliveryConfig { deliveries_max: 3, ..RedeliveryConfig::default() };
    let mut shard = Shard::new(MailboxesConfig { redelivery, ..MailboxesConfig::default() });
    let (first, second) = (shard.reader(1, GROUP), shard.reader(2, GROUP));
    let sequences: Vec<u64> = (1..=4).map(|number| shard.publish(number)).collect();
    assert_eq!(shard.take(first, 3), sequences[..3]);
    // It goes with three in hand: nobody can say which of them it was.
    shard.mailboxes.reset_reader(first, None);
    assert_eq!(shard.take(second, 10), sequences[..1], "alone, ahead of what is new");
    shard.mailboxes.acknowledge_each(second, &sequences[..1]);
    for attempt in 2..=4 {
        let second = shard.mailboxes.attach(CHANNEL, who(2), GROUP).unwrap();
        let deliveries = shard.mailboxes.next_published(second, 10, u64::MAX, NOW_MS);
        let found: Vec<_> = deliveries.iter().map(|delivery| (delivery.message.sequence, delivery.attempt)).collect();
        assert_eq!(found, [(sequences[1], attempt)]);
        shard.mailboxes.reset_reader(second, None);
    }
    let state = shard.mailboxes.subscription(CHANNEL, who(2), GROUP).unwrap();
    assert_eq!((state.progress.cursor, state.progress.skipped), (sequences[1], 1));
    let second = shard.mailboxes.attach(CHANNEL, who(2), GROUP).unwrap();
    assert_eq!(shard.take(second, 10), sequences[2..3]);
    // It is the group that gave it up: the channel keeps it.
    let other = shard.reader(3, GroupId::NONE);
    assert_eq!(shard.take(other, 10), sequences);
}

#[test]
fn subscribers_are_bounded_for_each_channel_and_for_the_shard() {
    let config = MailboxesConfig { channel_subscribers_max: 2, subscribers_max: 3, ..MailboxesConfig::default() };
    assert_eq!(MailboxesConfig::default().channel_subscribers_max, CHANNEL_SUBSCRIBERS_MAX);
    let mut shard = Shard::new(config);
    shard.reader(1, GroupId::NONE);
    shard.reader(2, GROUP);
    let mut subscribe = |channel: u8, number| {
        let made = shard.mailboxes.subscribe(MailboxId([channel; 16]), who(number), GROUP, None);
        made.map(|made| made.is_some())
    };
    assert_eq!(subscribe(0xc0, 3), Err(SubscribeRefusal::ChannelFull));
    assert_eq!(subscribe(0xc0, 2), Ok(false), "it does already");
    assert_eq!(subscribe(0xc1, 3), Ok(true));
    assert_eq!(subscribe(0xc1, 4), Err(SubscribeRefusal::ShardFull));
    let unsubscribe = shard.mailboxes.unsubscribe(CHANNEL, who(2), GROUP).unwrap();
    assert_eq!((shard.mailboxes.channel_subscribers(CHANNEL), shard.mailboxes.subscribers()), (1, 2));
    shard.mailboxes.unsubscribe_refused(&unsubscribe);
    assert_eq!((shard.mailboxes.channel_subscribers(CHANNEL), shard.mailboxes.subscribers()), (2, 3));
}

#[test]
fn a_damaged_message_is_passed_over_by_everybody_and_said_once() {
    let mut shard = Shard::new(MailboxesConfig { cache_bytes: 0, ..MailboxesConfig::default() });
    let (own, member) = (shard.reader(1, GroupId::NONE), shard.reader(2, GROUP));
    let sequences: Vec<u64> = (1..=3).map(|number| shard.publish(number)).collect();
    shard.mailboxes.end_turn();
    // The last byte of the first message.
    let slot = shard.mailboxes.index.find(sequences[0]).unwrap();
    let place = shard.mailboxes.index.entries.get(slot).place();
    let at = (place.message_offset + place.message_bytes - 8) as usize;
    shard.segments.get_mut(&place.segment).unwrap()[at] ^= 1;
    let (mut found, mut problems) = (Vec::new(), Vec::new());
    for _ in 0..4 {
        for reader in [own, member] {
            let taken = shard.take(reader, 10);
            shard.mailboxes.acknowledge_each(reader, &taken);
            found.extend(taken.into_iter().map(|sequence| (reader, sequence)));
        }
        shard.mailboxes.end_turn();
        problems.extend(shard.read());
    }
    assert_eq!(problems.len(), 1);
    assert_eq!((problems[0].sequence, &problems[0].kind), (sequences[0], &ReadProblemKind::Damaged));
    found.sort_unstable();
    let expected = [(own, sequences[1]), (own, sequences[2]), (member, sequences[1]), (member, sequences[2])];
    assert_eq!(found, expected);
    let state = shard.mailboxes.subscription(CHANNEL, who(2), GROUP).unwrap();
    assert_eq!(state.progress.cursor, sequences[2]);
}

#[test]
fn a_failed_read_is_tried_again_at_every_tick_and_then_given_up() {
    let mut shard = Shard::new(MailboxesConfig { cache_bytes: 0, ..MailboxesConfig::default() });
    let reader = shard.reader(1, GroupId::NONE);
    shard.publish(1);
    shard.publish(2);
    shard.mailboxes.end_turn();
    let mut problems = Vec::new();
    assert_eq!(shard.take(reader, 10), []);
    for _ in 0..READ_TRIES_MAX {
        let read = shard.mailboxes.next_read().expect("it is asked for");
        assert_eq!(shard.mailboxes.next_read(), None);
        let failed = Err(crate::wal::DiskError::Io("no".to_owned()));
        problems.extend(shard.mailboxes.read_completed(read.id, failed).problems);
        assert_eq!(shard.take(reader, 10), []);
        let is_given_up = problems.len() == 2;
        assert_eq!(shard.mailboxes.next_read().is_some(), is_given_up, "not before the next tick");
        if problems.len() < 2 {
            assert_eq!(shard.mailboxes.take_ready_readers(), []);
            assert_eq!(shard.mailboxes.retry_reads(), []);
            assert_eq!(shard.mailboxes.take_ready_readers(), [], "it still waits for that");
        }
    }
    let kinds: Vec<bool> = problems.iter().map(|p| matches!(p.kind, ReadProblemKind::GivenUp(_))).collect();
    assert_eq!(kinds, [false, true]);
}

#[test]
fn a_credit_of_bytes_is_overdrawn_by_one_message_only() {
    let mut shard = Shard::new(MailboxesConfig::default());
    let reader = shard.reader(1, GroupId::NONE);
    let sequences: Vec<u64> = (1..=5).map(|number| shard.publish(number)).collect();
    let mut take = |bytes| {
        let deliveries = shard.mailboxes.next_published(reader, 10, bytes, NOW_MS);
        deliveries.into_iter().map(|delivery| delivery.message.sequence).collect::<Vec<_>>()
    };
    assert_eq!(take(0), []);
    assert_eq!(take(1), sequences[..1]);
    assert_eq!(take(250), sequences[1..3]);
    assert_eq!(take(u64::MAX), sequences[3..]);
    // It comes again: what it did not acknowledge, a second time.
    shard.mailboxes.acknowledge_upto(reader, sequences[1]);
    let again = shard.mailboxes.attach(CHANNEL, who(1), GroupId::NONE).unwrap();
    let deliveries = shard.mailboxes.next_published(again, 2, u64::MAX, NOW_MS);
    let found: Vec<_> = deliveries.iter().map(|delivery| (delivery.message.sequence, delivery.attempt)).collect();
    assert_eq!(found, [(sequences[2], 2), (sequences[3], 2)]);
}

#[test]
fn a_channel_without_subscribers_and_messages_is_forgotten() {
    let mut shard = Shard::new(MailboxesConfig { mailboxes_max: 1, ..MailboxesConfig::default() });
    shard.reader(1, GroupId::NONE);
    let other = MailboxId([1; 16]);
    assert_eq!(shard.mailboxes.subscribe(other, who(2), GROUP, None), Err(SubscribeRefusal::ShardFull));
    let unsubscribe = shard.mailboxes.unsubscribe(CHANNEL, who(1), GroupId::NONE).unwrap();
    shard.apply(Record::Unsubscribe(unsubscribe));
    assert!(shard.mailboxes.subscribe(other, who(2), GROUP, None).unwrap().is_some());
    assert_eq!(shard.mailboxes.attach(CHANNEL, who(1), GroupId::NONE), None);
}

/// Records that no log of ours has in this order, about few channels, subscribers and numbers, so that they contradict each other.
fn contradicting(record: Record, sequence: u64) -> Record {
    let channel = |id: MailboxId| MailboxId([0xc0 + id.0[0] % 2; 16]);
    let subscriber = |id: SubscriberId| SubscriberId([if id == SubscriberId::NONE { 0 } else { 1 + id.0[0] % 3 }; 16]);
    let group = |id: GroupId| GroupId([if id == GroupId::NONE { 0 } else { 1 + id.0[0] % 2 }; 16]);
    let progress = |mut progress: Progress| {
        progress.cursor %= 30;
        let done = progress.done.iter().map(|done| progress.cursor + 1 + done % 20);
        progress.done = done.collect::<std::collections::BTreeSet<u64>>().into_iter().collect();
        progress
    };
    match record {
        Record::BatchPart(mut part) | Record::Moved(mut part) | Record::Notice(mut part) => {
            part.messages.truncate(1);
            for message in &mut part.messages {
                (message.mailbox, message.sequence) = (channel(message.mailbox), sequence);
            }
            if sequence.is_multiple_of(5) { Record::Moved(part) } else { Record::BatchPart(part) }
        }
        Record::Settle(settle) => {
            let sequences = settle.sequences.iter().map(|named| named % (sequence + 1)).collect();
            Record::Settle(Settle { mailbox: channel(settle.mailbox), cause: settle.cause, sequences })
        }
        Record::Subscribe(mut subscribe) => {
            subscribe.channel = channel(subscribe.channel);
            subscribe.subscriber = subscriber(subscribe.subscriber);
            subscribe.group = group(subscribe.group);
            subscribe.number = 1 + subscribe.number % 6;
            subscribe.begins_after = subscribe.begins_after.map(|cursor| cursor % 40);
            Record::Subscribe(subscribe)
        }
        Record::Unsubscribe(mut unsubscribe) => {
            unsubscribe.channel = channel(unsubscribe.channel);
            unsubscribe.subscriber = subscriber(unsubscribe.subscriber);
            unsubscribe.group = group(unsubscribe.group);
            Record::Unsubscribe(unsubscribe)
        }
        Record::Cursors(mut cursors) => {
            for entry in &mut cursors.entries {
                entry.number = 1 + entry.number % 6;
                entry.progress = progress(entry.progress.clone());
            }
            Record::Cursors(cursors)
        }
        Record::Subscriptions(mut carried) => {
            for entry in &mut carried.entries {
                entry.channel = channel(entry.channel);
                entry.subscriber = subscriber(entry.subscriber);
                entry.group = group(entry.group);
                entry.number = 1 + entry.number % 6;
                entry.progress = progress(entry.progress.clone());
                let members = entry.members.iter().copied().map(subscriber);
                entry.members = members.collect::<std::collections::BTreeSet<_>>().into_iter().collect();
            }
            Record::Subscriptions(carried)
        }
        other => other,
    }
}

proptest! {
    #[test]
    fn whatever_a_log_says_of_channels_is_taken_and_can_be_served(
        records in prop::collection::vec(any_record(), 1..60),
    ) {
        let mut shard = Shard::new(MailboxesConfig { cache_bytes: 0, ..MailboxesConfig::default() });
        for (sequence, record) in (1..).zip(records) {
            let record = contradicting(record, sequence);
            prop_assert!(record.is_within_limits(), "{record:?}");
            let position = shard.write(&record);
            shard.mailboxes.note(position, record.noted(position));
        }
        shard.mailboxes.recovered();
        let mut counted = 0;
        for channel in [0xc0, 0xc1] {
            let channel = MailboxId([channel; 16]);
            counted += shard.mailboxes.channel_subscribers(channel);
            for (subscriber, group) in (1..4).flat_map(|subscriber| (0..3).map(move |group| (subscriber, group))) {
                let (subscriber, group) = (SubscriberId([subscriber; 16]), GroupId([group; 16]));
                let Some(reader) = shard.mailboxes.attach(channel, subscriber, group) else { continue };
                let mut last = 0;
                for _ in 0..200 {
                    let found = shard.mailboxes.next_published(reader, 3, u64::MAX, 0);
                    shard.mailboxes.end_turn();
                    let sequences: Vec<u64> = found.iter().map(|delivery| delivery.message.sequence).collect();
                    prop_assert!(sequences.iter().all(|&sequence| sequence > last) && sequences.is_sorted());
                    last = sequences.last().copied().unwrap_or(last);
                    shard.mailboxes.acknowledge_each(reader, &sequences);
                    shard.mailboxes.acknowledge_upto(reader, last);
                    if shard.read().is_empty() && sequences.is_empty() && shard.mailboxes.reads_in_flight() == 0 {
                        shard.mailboxes.take_ready_readers();
                    }
                }
                shard.mailboxes.reset_reader(reader, None);
            }
        }
        prop_assert_eq!(shard.mailboxes.subscribers(), counted);
        while shard.mailboxes.next_cursors(4_000).is_some() {}
        shard.mailboxes.carry_over(SegmentNumber(u64::MAX), 16_000).iter().for_each(|record| assert!(record.is_within_limits()));
    }
}
