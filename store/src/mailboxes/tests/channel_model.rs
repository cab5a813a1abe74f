//! Channels against a plain model: maps, everything in memory, and a restart as what the records say, one after the other.
//!
//! The model knows every record that ever became durable; the shard that starts again reads only what trimming left. So what is
//! carried over must say what the records said that are gone.

mod model;

use std::collections::{BTreeSet, VecDeque};

use proptest::prelude::*;

use self::model::{Known, Model, Subscribed};
use super::*;
use crate::id::{GroupId, SubscriberId};
use crate::limits::PROBE_HOLD_US;
use crate::record::Unsubscribe;
use crate::subscription::Reader;

const CHANNELS: u8 = 2;
const QUOTA: u64 = 7;
const DELIVERIES_MAX: u8 = 2;
const RECORD_BYTES_MAX: usize = 600;

fn channel(number: u8) -> MailboxId {
    MailboxId([0xc0 + number; 16])
}

fn who(number: u8) -> SubscriberId {
    SubscriberId([1 + number; 16])
}

/// None, or one of two.
fn group(number: u8) -> GroupId {
    if number < 2 { GroupId::NONE } else { GroupId([number; 16]) }
}

#[derive(Debug, Clone)]
enum Op {
    Publish { channel: u8, count: u8, ttl_s: u8 },
    Subscribe { channel: u8, who: u8, group: u8, start: Option<(u8, u16)>, is_refused: bool },
    Unsubscribe { channel: u8, who: u8, group: u8, is_refused: bool },
    Attach(u16),
    Reset(u16),
    Deliver(u16, u8),
    Acknowledge { choice: u16, count: u8 },
    Nack { choice: u16, count: u8, delay_ms: u32 },
    GiveBack { choice: u16, count: u8 },
    Pass(u64),
    Cursors { is_refused: bool },
    Expire { later_ms: u16, is_refused: bool },
    Move(u16),
    Trim,
    Durable(u8),
    Restart,
}

fn any_op() -> impl Strategy<Value = Op> {
    let name = || (0..CHANNELS, 0_u8..3, 0_u8..4);
    let refused = || prop::bool::weighted(0.15);
    let start = prop::option::weighted(0.5, (0_u8..4, any::<u16>()));
    prop_oneof![
        24 => (0..CHANNELS, 1_u8..4, 1_u8..20).prop_map(|(channel, count, ttl_s)| Op::Publish { channel, count, ttl_s }),
        6 => (name(), start, refused()).prop_map(|((channel, who, group), start, is_refused)| {
            Op::Subscribe { channel, who, group, start, is_refused }
        }),
        2 => (name(), refused())
            .prop_map(|((channel, who, group), is_refused)| Op::Unsubscribe { channel, who, group, is_refused }),
        8 => any::<u16>().prop_map(Op::Attach),
        6 => any::<u16>().prop_map(Op::Reset),
        30 => (any::<u16>(), 1_u8..8).prop_map(|(choice, credit)| Op::Deliver(choice, credit)),
        30 => (any::<u16>(), 1_u8..6).prop_map(|(choice, count)| Op::Acknowledge { choice, count }),
        14 => (any::<u16>(), 1_u8..4, 0_u32..3_000)
            .prop_map(|(choice, count, delay_ms)| Op::Nack { choice, count, delay_ms }),
        10 => (any::<u16>(), 1_u8..4).prop_map(|(choice, count)| Op::GiveBack { choice, count }),
        12 => prop_oneof![0_u64..3_000_000, Just(PROBE_HOLD_US), 0_u64..2 * PROBE_HOLD_US].prop_map(Op::Pass),
        20 => refused().prop_map(|is_refused| Op::Cursors { is_refused }),
        6 => (0_u16..6_000, refused()).prop_map(|(later_ms, is_refused)| Op::Expire { later_ms, is_refused }),
        6 => any::<u16>().prop_map(Op::Move),
        8 => Just(Op::Trim),
        40 => (1_u8..6).prop_map(Op::Durable),
        1 => Just(Op::Restart),
    ]
}

/// The mailboxes with the log that a restart reads, and the records that are on their way to it.
struct Tested {
    shard: Shard,
    config: MailboxesConfig,
    log: Vec<(Position, Record)>,
    /// All that was ever durable.
    history: Vec<Record>,
    pending: VecDeque<Record>,
    log_start: SegmentNumber,
    /// Where the log begins when so many more records are durable.
    trimming: Option<(SegmentNumber, usize)>,
    model: Model,
    /// Readers that are there, in the order in which they came.
    readers: Vec<Reader>,
    /// Of these, those that were handed less than they had credit for, and were not named since.
    waiting: BTreeSet<Reader>,
    published: u64,
    seen: Seen,
}

/// What a run came by: one that compared nothing proves nothing.
#[derive(Debug, Default, Clone, Copy)]
struct Seen {
    delivered: u64,
    restarts: u64,
    trims: u64,
    left: u64,
    missed: u64,
    skipped: u64,
    nacked: u64,
    given_back: u64,
    held_no_longer: u64,
}

impl Tested {
    fn new(cache_bytes: usize) -> Self {
        let redelivery = RedeliveryConfig { deliveries_max: DELIVERIES_MAX, ..RedeliveryConfig::default() };
        let config =
            MailboxesConfig { cache_bytes, mailbox_messages_max: QUOTA, redelivery, ..MailboxesConfig::default() };
        Self {
            shard: Shard::new(config.clone()),
            config,
            log: Vec::new(),
            history: Vec::new(),
            pending: VecDeque::new(),
            log_start: SegmentNumber(1),
            trimming: None,
            model: Model { now_ms: NOW_MS, ..Model::default() },
            readers: Vec::new(),
            waiting: BTreeSet::new(),
            published: 0,
            seen: Seen::default(),
        }
    }

    fn mailboxes(&mut self) -> &mut Mailboxes {
        &mut self.shard.mailboxes
    }

    fn run(&mut self, op: Op) {
        match op {
            Op::Publish { channel, count, ttl_s } => self.publish(channel, count, ttl_s),
            Op::Subscribe { channel, who: number, group: of, start, is_refused } => {
                self.subscribe(channel, who(number), group(of), start, is_refused);
            }
            Op::Unsubscribe { channel: of, who: number, group: in_group, is_refused } => {
                let (subscriber, group) = (who(number), group(in_group));
                let unsubscribe = self.mailboxes().unsubscribe(channel(of), subscriber, group);
                let found = self.model.find(of, group, subscriber);
                let found = found.filter(|number| self.model.subscriptions[number].members.contains(&subscriber));
                let is_said = |record: &Record| {
                    *record == Record::Unsubscribe(Unsubscribe { channel: channel(of), subscriber, group })
                };
                let is_on_its_way = self.pending.iter().any(is_said);
                assert_eq!(unsubscribe.is_some(), found.is_some() || is_on_its_way);
                let Some(unsubscribe) = unsubscribe else { return };
                let Some(number) = found else {
                    match is_refused {
                        true => self.mailboxes().unsubscribe_refused(&unsubscribe),
                        false => self.pending.push_back(Record::Unsubscribe(unsubscribe)),
                    }
                    return;
                };
                self.forget_reader(number, subscriber);
                if is_refused {
                    // It is as if it had gone, and subscribes still.
                    self.mailboxes().unsubscribe_refused(&unsubscribe);
                    self.forget_hands(number, subscriber);
                } else {
                    self.model.unsubscribe(number, subscriber);
                    self.pending.push_back(Record::Unsubscribe(unsubscribe));
                }
            }
            Op::Attach(choice) => {
                let all = self.model.subscriptions.iter();
                let all: Vec<(u64, u8, GroupId, SubscriberId)> = all
                    .flat_map(|(&number, of)| {
                        of.members.iter().map(move |&member| (number, of.channel, of.group, member))
                    })
                    .collect();
                assert_eq!(self.mailboxes().attach(channel(0), who(77), GroupId::NONE), None);
                if all.is_empty() {
                    return;
                }
                let (subscription, of, group, subscriber) = all[usize::from(choice) % all.len()];
                let reader = self.mailboxes().attach(channel(of), subscriber, group);
                self.forget_reader(subscription, subscriber);
                assert_eq!(reader, Some(Reader { subscription, subscriber }));
                self.model.reset(subscription, subscriber, DELIVERIES_MAX);
                self.model.subscriptions.get_mut(&subscription).unwrap().attached.insert(subscriber);
                self.readers.extend(reader);
            }
            Op::Reset(choice) => {
                let Some(reader) = self.reader(choice) else { return };
                self.mailboxes().reset_reader(reader, None);
                self.forget_reader(reader.subscription, reader.subscriber);
                self.model.reset(reader.subscription, reader.subscriber, DELIVERIES_MAX);
            }
            Op::Deliver(choice, credit) => {
                let Some(reader) = self.reader(choice) else { return };
                let of = &self.model.subscriptions[&reader.subscription];
                let has_one_alone = of.alone.contains_key(&reader.subscriber);
                let expected = self.model.deliver(reader.subscription, reader.subscriber, u32::from(credit));
                let found = self.deliver(reader, u32::from(credit));
                assert_eq!(found, expected);
                self.seen.delivered += found.len() as u64;
                self.seen.held_no_longer += u64::from(has_one_alone && !found.is_empty());
            }
            Op::Acknowledge { choice, count } => self.acknowledge(choice, count),
            Op::Nack { choice, count, delay_ms } => self.nack(choice, count, delay_ms),
            Op::GiveBack { choice, count } => {
                let Some((reader, its, named)) = self.some_in_hand(choice, count) else { return };
                self.model.give_back(reader.subscription, reader.subscriber, &its);
                self.mailboxes().give_back(reader, &named);
                self.seen.given_back += its.len() as u64;
            }
            Op::Pass(later_us) => {
                self.model.pass(later_us);
                let now_us = self.model.now_us;
                self.mailboxes().pass(now_us);
            }
            Op::Cursors { is_refused } => {
                while let Some(cursors) = self.mailboxes().next_cursors(RECORD_BYTES_MAX) {
                    assert!(Record::Cursors(cursors.clone()).encoded_bytes() <= RECORD_BYTES_MAX);
                    if is_refused {
                        return self.mailboxes().cursors_refused(&cursors);
                    }
                    self.pending.push_back(Record::Cursors(cursors));
                }
                for (number, of) in self.model.subscriptions.clone() {
                    assert!(!self.mailboxes().channels.dirty.contains(&number), "{of:?}");
                }
            }
            Op::Expire { later_ms, is_refused } => self.expire(later_ms, is_refused),
            Op::Move(choice) => {
                let free: Vec<Known> =
                    self.model.messages.values().filter(|k| k.is_durable && k.settling.is_none()).cloned().collect();
                if !free.is_empty() {
                    let message = free[usize::from(choice) % free.len()].message.clone();
                    let part = BatchPart { batch_header: Bytes::from_static(b"header"), messages: vec![message] };
                    self.pending.push_back(Record::Moved(part));
                }
            }
            Op::Trim => self.trim(),
            Op::Durable(count) => {
                for _ in 0..count {
                    self.durable();
                }
            }
            Op::Restart => self.restart(),
        }
    }

    fn reader(&self, choice: u16) -> Option<Reader> {
        (!self.readers.is_empty()).then(|| self.readers[usize::from(choice) % self.readers.len()])
    }

    fn forget_reader(&mut self, subscription: u64, subscriber: SubscriberId) {
        let reader = Reader { subscription, subscriber };
        self.readers.retain(|other| *other != reader);
        self.waiting.remove(&reader);
    }

    /// Somebody's leaving was taken back: what all had in hand of an ended subscription is forgotten.
    fn forget_hands(&mut self, number: u64, subscriber: SubscriberId) {
        let of = &self.model.subscriptions[&number];
        if of.members.len() > 1 {
            return self.model.reset(number, subscriber, 0);
        }
        let of = self.model.subscriptions.get_mut(&number).unwrap();
        let progress = of.progress.clone();
        of.begin_at(progress.cursor);
        of.progress = progress;
        of.attached.clear();
    }

    fn publish(&mut self, of: u8, count: u8, ttl_s: u8) {
        let mut part = BatchPart { batch_header: Bytes::from_static(b"header"), messages: Vec::new() };
        for _ in 0..count {
            self.published += 1;
            let mut id = message_id(self.published);
            let now_ms = self.model.now_ms;
            id.0[..6].copy_from_slice(&now_ms.to_be_bytes()[2..]);
            let admitted = self.mailboxes().admit_published(Quota::default(), SENDER, id, channel(of), 100, now_ms);
            let Some(leaving) = self.model.leaving(of) else {
                assert_eq!(admitted, Err(Refusal::MailboxFull));
                continue;
            };
            let Ok(Admit::New(sequence)) = admitted else { panic!("{admitted:?}: {leaving:?} may leave") };
            let mut found = Vec::new();
            while let Some(settle) = self.mailboxes().next_leaving() {
                assert_eq!((settle.mailbox, settle.cause), (channel(of), SettleCause::Consumed));
                found.extend_from_slice(&settle.sequences);
                // Some are refused: they stay.
                if self.published.is_multiple_of(5) {
                    self.mailboxes().settle_refused(&settle);
                } else {
                    for sequence in &settle.sequences {
                        self.model.messages.get_mut(sequence).unwrap().settling = Some(SettleCause::Consumed);
                    }
                    self.seen.left += settle.sequences.len() as u64;
                    self.pending.push_back(Record::Settle(settle));
                }
            }
            assert_eq!(found, leaving);
            let mut message = super::part(
                sequence,
                self.published,
                Priority::from_byte(ttl_s % 4).unwrap(),
                Bytes::from(vec![9; 100]),
            )
            .messages
            .remove(0);
            message.mailbox = channel(of);
            message.message_id = id;
            message.flags = MessageFlags::PUBLISHED;
            message.expiry_ms = now_ms + u64::from(ttl_s) * 1_000;
            let known =
                Known { message: message.clone(), channel: of, time_ms: now_ms, is_durable: false, settling: None };
            self.model.messages.insert(sequence, known);
            part.messages.push(message);
        }
        if !part.messages.is_empty() {
            self.pending.push_back(Record::BatchPart(part));
        }
    }

    fn subscribe(
        &mut self,
        of: u8,
        subscriber: SubscriberId,
        group: GroupId,
        start: Option<(u8, u16)>,
        is_refused: bool,
    ) {
        let known: Vec<u64> = self.model.kept(of).map(|(sequence, _)| sequence).collect();
        let start_at = start.map(|(kind, choice)| match kind {
            0 => StartAt::Now,
            1 => StartAt::Oldest,
            2 => StartAt::Sequence(known.get(usize::from(choice) % (known.len() + 1)).copied().unwrap_or(3)),
            _ => StartAt::TimeMs(NOW_MS + u64::from(choice) % (self.model.now_ms - NOW_MS + 2)),
        });
        let subscribe = self.mailboxes().subscribe(channel(of), subscriber, group, start_at).unwrap();
        let found = self.model.find(of, group, subscriber);
        let is_member = found.is_some_and(|number| self.model.subscriptions[&number].members.contains(&subscriber));
        let is_on_its_way = self.pending.iter().any(|record| match record {
            Record::Subscribe(made) => Some(made.number) == found && made.subscriber == subscriber,
            _ => false,
        });
        assert_eq!(subscribe.is_none(), is_member && start.is_none() && !is_on_its_way);
        let Some(subscribe) = subscribe else { return };
        if is_refused {
            // Everything is as it was.
            return self.mailboxes().subscribe_refused(&subscribe);
        }
        assert_eq!((subscribe.channel, subscribe.subscriber, subscribe.group), (channel(of), subscriber, group));
        match found {
            None => assert!(!self.model.subscriptions.contains_key(&subscribe.number)),
            Some(number) => assert_eq!(subscribe.number, number),
        }
        assert_eq!(subscribe.begins_after.is_some(), found.is_none() || (is_member && start.is_some()));
        if let Some(cursor) = subscribe.begins_after {
            let last = self.model.messages.keys().next_back().copied().unwrap_or(0);
            match start_at.unwrap_or(StartAt::Now) {
                StartAt::Now => assert!(cursor >= last),
                StartAt::Oldest => assert_eq!(cursor, 0),
                // Nothing that is still to come is passed over.
                StartAt::Sequence(sequence) => assert!(cursor == sequence - 1 || (last..sequence).contains(&cursor)),
                StartAt::TimeMs(time_ms) => {
                    let first = self.model.kept(of).find(|(_, known)| known.time_ms >= time_ms);
                    assert!(first.map_or(cursor >= last, |(sequence, _)| cursor == sequence - 1));
                }
            }
            let begun = || Subscribed::new(of, group, cursor);
            let of = self.model.subscriptions.entry(subscribe.number).or_insert_with(begun);
            of.begin_at(cursor);
            (of.durable, of.moves) = (of.durable.min(cursor), of.moves + u32::from(is_member));
        }
        self.model.subscriptions.get_mut(&subscribe.number).unwrap().members.insert(subscriber);
        self.pending.push_back(Record::Subscribe(subscribe));
    }

    /// What a reader is handed, with what must be read for it.
    fn deliver(&mut self, reader: Reader, credit: u32) -> Vec<(PartMessage, u8)> {
        self.waiting.remove(&reader);
        let now_ms = self.model.now_ms;
        let mut found = Vec::new();
        loop {
            let left = credit - u32::try_from(found.len()).unwrap();
            let more = self.mailboxes().next_published(reader, left, u64::MAX, now_ms);
            self.mailboxes().end_turn();
            found.extend(more.into_iter().map(|delivery| (delivery.message, delivery.attempt)));
            if found.len() == credit as usize {
                return found;
            }
            let reads = self.shard.reads;
            assert_eq!(self.shard.read(), []);
            self.take_ready();
            if self.shard.reads == reads {
                self.waiting.insert(reader);
                return found;
            }
        }
    }

    fn take_ready(&mut self) {
        for reader in self.shard.mailboxes.take_ready_readers() {
            self.waiting.remove(&reader);
        }
    }

    fn acknowledge(&mut self, choice: u16, count: u8) {
        let Some(reader) = self.reader(choice) else { return };
        let of = self.model.subscriptions.get_mut(&reader.subscription).unwrap();
        if !of.is_group() {
            let upto = of.progress.cursor + u64::from(count);
            let allowed = upto.min(of.handed_max);
            if allowed > of.progress.cursor && of.moves == 0 {
                of.progress.cursor = allowed;
                of.handed = of.handed.max(allowed);
            }
            return self.mailboxes().acknowledge_upto(reader, upto);
        }
        let mut sequences: Vec<u64> = of.in_hand.keys().copied().skip(usize::from(choice % 3)).collect();
        sequences.truncate(usize::from(count));
        sequences.push(u64::from(choice));
        for sequence in sequences.clone() {
            if of.in_hand.get(&sequence).is_some_and(|held| held.0 == reader.subscriber) {
                of.take(sequence);
                of.done(sequence);
            }
        }
        self.model.advance(reader.subscription);
        self.mailboxes().acknowledge_each(reader, &sequences);
    }

    /// Messages in the hands of a reader's group: those that are its own, and all that it names.
    fn some_in_hand(&self, choice: u16, count: u8) -> Option<(Reader, Vec<u64>, Vec<u64>)> {
        let reader = self.reader(choice)?;
        let of = &self.model.subscriptions[&reader.subscription];
        let its = of.hand_of(reader.subscriber).into_iter().skip(usize::from(choice % 2));
        let its: Vec<u64> = its.take(usize::from(count)).collect();
        let mut named = its.clone();
        named.extend(of.in_hand.iter().find(|(_, held)| held.0 != reader.subscriber).map(|(&sequence, _)| sequence));
        // Twice, and one that is in nobody's hand.
        named.extend(named.first().copied());
        named.extend(Some(u64::from(choice)).filter(|sequence| !of.in_hand.contains_key(sequence)));
        Some((reader, its, named))
    }

    fn nack(&mut self, choice: u16, count: u8, delay_ms: u32) {
        let Some((reader, its, named)) = self.some_in_hand(choice, count) else { return };
        let redelivery = self.config.redelivery.clone();
        let pause_us = |failed| redelivery.pause_us(failed).max(u64::from(delay_ms) * 1_000);
        self.model.nack(reader.subscription, &its, DELIVERIES_MAX, pause_us);
        let asked: Vec<(u64, u32)> = named.into_iter().map(|sequence| (sequence, delay_ms)).collect();
        let now_us = self.model.now_us;
        self.mailboxes().nack_published(reader, &asked, None, now_us);
        self.seen.nacked += its.len() as u64;
    }

    fn expire(&mut self, later_ms: u16, is_refused: bool) {
        self.model.now_ms += u64::from(later_ms);
        let now_ms = self.model.now_ms;
        let missed = |model: &Model| model.subscriptions.values().map(|of| of.progress.missed).sum::<u64>();
        let before = missed(&self.model);
        assert_eq!(self.mailboxes().expire(now_ms, 1_000), []);
        while let Some(settle) = self.mailboxes().next_leaving() {
            assert_eq!(settle.cause, SettleCause::Expired);
            assert!(settle.sequences.iter().all(|sequence| self.model.messages[sequence].is_over(now_ms)));
            if is_refused {
                self.mailboxes().settle_refused(&settle);
                continue;
            }
            self.model.expire(&settle.sequences);
            self.pending.push_back(Record::Settle(settle));
        }
        let mut durable = self.model.messages.values().filter(|known| known.is_durable);
        assert!(is_refused || durable.all(|known| known.settling.is_some() || !known.is_over(now_ms)));
        self.seen.missed += missed(&self.model) - before;
    }

    fn trim(&mut self) {
        if self.trimming.is_some() {
            return;
        }
        let active = SegmentNumber(1 + (self.shard.durable + 1) / 10);
        let Some(point) = self.shard.mailboxes.trim_point(self.log_start, active, 1 << 30, true) else { return };
        let carried = self.mailboxes().carry_over(point, RECORD_BYTES_MAX);
        for record in carried {
            assert!(record.is_within_limits() && record.encoded_bytes() <= RECORD_BYTES_MAX, "{record:?}");
            self.pending.push_back(record);
        }
        self.trimming = Some((point, self.pending.len()));
    }

    fn durable(&mut self) {
        let Some(record) = self.pending.pop_front() else { return };
        let position = self.shard.write(&record);
        self.log.push((position, record.clone()));
        self.history.push(record.clone());
        self.model.durable(&record);
        self.shard.make_durable(position, record);
        if let Some((point, left)) = &mut self.trimming {
            *left -= 1;
            if *left == 0 {
                let point = *point;
                self.trimming = None;
                self.log_start = point;
                self.log.retain(|(position, _)| position.segment >= point);
                self.shard.segments.retain(|&segment, _| segment >= point);
                self.seen.trims += 1;
            }
        }
    }

    fn restart(&mut self) {
        self.pending.clear();
        self.trimming = None;
        self.readers.clear();
        self.waiting.clear();
        let mut again = Mailboxes::new(self.config.clone(), [5, 6]);
        for (position, record) in &self.log {
            again.note(*position, record.noted(*position));
        }
        again.recovered();
        self.shard.mailboxes = again;
        self.model = Model::of_log(&self.history, self.model.now_ms);
        self.seen.restarts += 1;
    }

    /// What can be asked at any time.
    fn check(&mut self) {
        self.take_ready();
        for reader in &self.waiting {
            // What came back and is over holds up the others until it is gone.
            if !self.model.subscriptions[&reader.subscription].again.is_empty() {
                continue;
            }
            let next = self.model.next(reader.subscription, reader.subscriber);
            assert_eq!(next, None, "{reader:?} waits, and was not told");
        }
        self.seen.skipped =
            self.seen.skipped.max(self.model.subscriptions.values().map(|of| u64::from(of.progress.skipped)).sum());
        let mailboxes = &self.shard.mailboxes;
        let durable = || self.model.messages.values().filter(|known| known.is_durable);
        assert_eq!(mailboxes.messages(), durable().count() as u64);
        assert_eq!(mailboxes.queued_bytes(), self.model.messages.len() as u64 * cost_of(100));
        for number in 0..CHANNELS {
            let kept: Vec<u64> = self.model.kept(number).map(|(sequence, _)| sequence).collect();
            let range = kept.first().copied().zip(kept.last().copied());
            assert_eq!(mailboxes.kept_range(channel(number)), range);
            let of = || self.model.subscriptions.values().filter(|of| of.channel == number);
            let subscribers: usize = of().map(|of| of.members.len()).sum();
            assert_eq!(mailboxes.channel_subscribers(channel(number)), subscribers);
        }
        assert_eq!(mailboxes.channels.subscriptions.len(), self.model.subscriptions.len());
        for (&number, of) in &self.model.subscriptions {
            let any = *of.members.first().unwrap();
            let found = mailboxes.subscription(channel(of.channel), any, of.group).unwrap();
            assert_eq!(found.number, number);
            assert_eq!(found.subscribers, of.members.iter().copied().collect::<Vec<_>>());
            assert_eq!(found.progress, of.progress, "{of:?}");
        }
        // What subscribers say settles nothing.
        let anything: Vec<u64> = self.model.messages.keys().copied().collect();
        for number in 0..CHANNELS {
            assert_eq!(self.mailboxes().settle(channel(number), &anything, SettleCause::Acknowledged), None);
        }
        assert!(self.mailboxes().cold.next_read().is_none());
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 600, ..ProptestConfig::default() })]
    #[test]
    fn channels_do_what_the_model_does(ops in prop::collection::vec(any_op(), 1..300), cache_bytes in 0_usize..4_000) {
        let mut tested = Tested::new(cache_bytes);
        for op in ops {
            tested.run(op);
            tested.check();
        }
        tested.run(Op::Restart);
        tested.check();
    }
}

/// The model test above is not vacuous: what it compares does happen.
#[test]
fn the_model_comes_by_everything() {
    use proptest::strategy::ValueTree;
    use proptest::test_runner::{TestRng, TestRunner};

    let rng = TestRng::deterministic_rng(proptest::test_runner::RngAlgorithm::ChaCha);
    let mut runner = TestRunner::new_with_rng(ProptestConfig::default(), rng);
    let mut all = Seen::default();
    for _ in 0..60 {
        let ops = prop::collection::vec(any_op(), 300).new_tree(&mut runner).unwrap().current();
        let mut tested = Tested::new(1_000);
        for op in ops {
            tested.run(op);
            tested.check();
        }
        let Seen { delivered, restarts, trims, left, missed, skipped, nacked, given_back, held_no_longer } =
            tested.seen;
        all.delivered += delivered;
        all.restarts += restarts;
        all.trims += trims;
        all.left += left;
        all.missed += missed;
        all.skipped += skipped;
        all.nacked += nacked;
        all.given_back += given_back;
        all.held_no_longer += held_no_longer;
    }
    let Seen { delivered, restarts, trims, left, missed, skipped, nacked, given_back, held_no_longer } = all;
    println!("{all:?}");
    assert!(delivered > 500 && restarts > 40 && trims > 40 && left > 100 && missed > 100 && skipped > 5, "{all:?}");
    assert!(nacked > 60 && given_back > 40 && held_no_longer > 5, "{all:?}");
}
