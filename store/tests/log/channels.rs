//! Channels on a log that is trimmed, cleaned, and stopped again and again: who subscribes, and how far each has come, outlives
//! every segment that said so.
//!
//! `CRETO_SEED=7 cargo test -p creto-store --test log channels` repeats one seed.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use creto_store::{
    Admit, BatchPart, DiskError, GroupId, MailboxId, MailboxesConfig, MessageFlags, PartMessage, Progress, Quota,
    Reader, Record, SegmentSource, SettleCause, StartAt, SubscriberId,
};

use crate::disk::{Crash, Disk, Random};
use crate::node::{Node, messages, small_config};

const CHANNEL: MailboxId = MailboxId([0xc0; 16]);
const GROUP: GroupId = GroupId([0x61; 16]);
const START_MS: u64 = 1_700_000_000_000;

/// Two subscribers of their own, and two members of a group.
const READERS: [(u8, GroupId); 4] = [(1, GroupId::NONE), (2, GroupId::NONE), (3, GROUP), (4, GROUP)];

#[derive(Debug, Default)]
struct Seen {
    delivered: u64,
    recovered: u64,
    trims: u64,
    moved: u64,
    carried: u64,
    expired: u64,
    consumed: u64,
    nacked: u64,
    given_back: u64,
}

/// What was promised of one subscription: of the group under its first member.
#[derive(Debug, Default, Clone)]
struct Promise {
    is_durable: bool,
    /// What a Cursors record says that is durable.
    durable: Progress,
    /// What readers ever acknowledged.
    acknowledged: BTreeSet<u64>,
}

struct Run {
    random: Random,
    disk: Disk,
    node: Node,
    now_ms: u64,
    number: u64,
    /// Durable, by sequence.
    stored: BTreeMap<u64, PartMessage>,
    /// Appended, not durable.
    pending: BTreeMap<u64, PartMessage>,
    /// Records that settle these were appended: they may be gone.
    leaving: BTreeSet<u64>,
    promises: BTreeMap<SubscriberId, Promise>,
    readers: BTreeMap<SubscriberId, (Reader, u64)>,
    seen: Seen,
}

fn config() -> MailboxesConfig {
    MailboxesConfig { mailbox_messages_max: 60, cache_bytes: 20 << 10, ..MailboxesConfig::default() }
}

impl Run {
    fn new(seed: u64) -> Self {
        let mut disk = Disk::default();
        let (node, _) = Node::start(&mut disk, small_config(2), config(), seed | 1, START_MS).unwrap();
        let mut run = Self {
            random: Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1),
            disk,
            node,
            now_ms: START_MS,
            number: 0,
            stored: BTreeMap::new(),
            pending: BTreeMap::new(),
            leaving: BTreeSet::new(),
            promises: BTreeMap::new(),
            readers: BTreeMap::new(),
            seen: Seen::default(),
        };
        run.settle_down();
        run
    }

    fn step(&mut self) {
        match self.random.below(40) {
            0..8 => self.publish(),
            8..10 => self.subscribe(),
            10..20 => self.deliver(),
            20..24 => self.append_cursors(),
            24 => self.expire(),
            25..29 => {
                let moved = self.node.clean(&mut self.disk);
                self.seen.moved += moved as u64;
                self.node.trim();
            }
            29..39 => {
                self.node.next_action(&mut self.disk, self.now_ms);
                self.node.write(&mut self.disk, &mut self.random);
                self.node.sync(&mut self.disk, &mut self.random);
                self.take_durable();
            }
            _ if self.random.one_in(6) => self.crash(),
            _ => self.settle_down(),
        }
        self.now_ms += self.random.below(200) as u64;
        self.node.mailboxes.pass(self.now_us());
    }

    /// The monotonic clock.
    fn now_us(&self) -> u64 {
        (self.now_ms - START_MS) * 1_000
    }

    fn settle_down(&mut self) {
        self.node.settle_down(&mut self.disk, &mut self.random, self.now_ms);
        self.take_durable();
    }

    fn publish(&mut self) {
        let count = 1 + self.random.below(3);
        let mut part = BatchPart { batch_header: Bytes::from_static(&[7; 100]), messages: Vec::new() };
        for _ in 0..count {
            self.number += 1;
            let bytes = [30, 700, 3_000][self.random.below(3)];
            let mut message = messages(self.number, 1, bytes, self.now_ms).remove(0);
            message.mailbox = CHANNEL;
            message.flags = MessageFlags::PUBLISHED;
            message.expiry_ms = self.now_ms + 2_000 + self.random.below(20_000) as u64;
            let admitted = self.node.mailboxes.admit_published(
                Quota::default(),
                message.sender,
                message.message_id,
                CHANNEL,
                bytes,
                self.now_ms,
            );
            if let Ok(Admit::New(sequence)) = admitted {
                message.sequence = sequence;
                part.messages.push(message);
            }
        }
        while let Some(settle) = self.node.mailboxes.next_leaving() {
            // Of what leaves early, everybody durably consumed it.
            for (subscriber, promise) in self.promises.iter().filter(|(_, promise)| promise.is_durable) {
                let is_consumed =
                    |&sequence: &u64| sequence <= promise.durable.cursor || promise.durable.done.contains(&sequence);
                assert!(settle.sequences.iter().all(is_consumed), "{subscriber}: {promise:?}, {settle:?}");
            }
            self.seen.consumed += settle.sequences.len() as u64;
            self.append_settle(settle);
        }
        if part.messages.is_empty() {
            return;
        }
        let record = Record::BatchPart(part);
        let is_room = self.node.wal.check_append(&record).is_ok();
        let Record::BatchPart(part) = &record else { unreachable!() };
        if !is_room {
            return self.node.mailboxes.withdraw(part);
        }
        self.pending.extend(part.messages.iter().map(|message| (message.sequence, message.clone())));
        self.node.wal.append(record).unwrap();
    }

    fn append_settle(&mut self, settle: creto_store::Settle) {
        let record = Record::Settle(settle.clone());
        if self.node.wal.check_append(&record).is_err() {
            return self.node.mailboxes.settle_refused(&settle);
        }
        self.leaving.extend(settle.sequences);
        self.node.wal.append(record).unwrap();
    }

    fn subscribe(&mut self) {
        let (number, group) = READERS[self.random.below(READERS.len())];
        let subscriber = SubscriberId([number; 16]);
        let made = self.node.mailboxes.subscribe(CHANNEL, subscriber, group, None).unwrap();
        if let Some(subscribe) = made {
            let is_first = !self.promises.contains_key(&owner(number));
            assert!(is_first || !self.promises[&owner(number)].is_durable || subscribe.begins_after.is_none());
            let record = Record::Subscribe(subscribe);
            if self.node.wal.check_append(&record).is_err() {
                return self.node.mailboxes.subscribe_refused(&subscribe);
            }
            self.node.wal.append(record).unwrap();
            if is_first {
                let durable = Progress { cursor: subscribe.begins_after.unwrap(), ..Progress::default() };
                self.promises.insert(owner(number), Promise { durable, ..Promise::default() });
            }
        }
        let reader = self.node.mailboxes.attach(CHANNEL, subscriber, group).unwrap();
        let cursor = self.node.mailboxes.subscription(CHANNEL, subscriber, group).unwrap().progress.cursor;
        self.readers.insert(subscriber, (reader, cursor));
    }

    fn deliver(&mut self) {
        let (number, group) = READERS[self.random.below(READERS.len())];
        let subscriber = SubscriberId([number; 16]);
        let Some(&(reader, handed)) = self.readers.get(&subscriber) else { return };
        let credit = 1 + self.random.below(6) as u32;
        let found = take(&mut self.node, &mut self.disk, reader, credit, self.now_ms);
        self.seen.delivered += found.len() as u64;
        for message in &found {
            assert_eq!(Some(message), self.stored.get(&message.sequence), "durable, and as it was published");
        }
        let sequences: Vec<u64> = found.iter().map(|message| message.sequence).collect();
        if group == GroupId::NONE {
            // In order, and nothing is left out that is there for sure.
            let last = sequences.last().copied().unwrap_or(handed);
            let is_there = |message: &PartMessage| message.expiry_ms.div_ceil(1_000) * 1_000 > self.now_ms;
            let between = self
                .stored
                .range(handed + 1..)
                .filter(|(sequence, message)| is_there(message) && !self.leaving.contains(*sequence));
            let between = between
                .map(|(&sequence, _)| sequence)
                .filter(|&sequence| sequence <= last || sequences.len() < credit as usize);
            assert_eq!(between.collect::<Vec<_>>(), sequences);
            self.readers.insert(subscriber, (reader, last));
        }
        let promise = self.promises.get_mut(&owner(number)).unwrap();
        for &sequence in &sequences {
            assert!(
                group == GroupId::NONE || !promise.acknowledged.contains(&sequence),
                "a group has each message once"
            );
        }
        let some = &sequences[..self.random.below(sequences.len() + 1)];
        match some.last() {
            Some(&last) if group == GroupId::NONE => {
                promise.acknowledged.extend(self.stored.range(..=last).map(|(&sequence, _)| sequence));
                self.node.mailboxes.acknowledge_upto(reader, last);
            }
            Some(_) => {
                promise.acknowledged.extend(some);
                self.node.mailboxes.acknowledge_each(reader, some);
            }
            None => {}
        }
        // The rest a member of a group keeps, refuses, or gives back untouched.
        let rest = &sequences[some.len()..];
        if group != GroupId::NONE && !rest.is_empty() && self.random.one_in(2) {
            if self.random.one_in(2) {
                let asked: Vec<(u64, u32)> = rest.iter().map(|&sequence| (sequence, 500)).collect();
                let now_us = self.now_us();
                self.node.mailboxes.nack_published(reader, &asked, Some(0), now_us);
                self.seen.nacked += rest.len() as u64;
            } else {
                self.node.mailboxes.give_back(reader, rest);
                self.seen.given_back += rest.len() as u64;
            }
        }
        if self.random.one_in(20) {
            self.node.mailboxes.reset_reader(reader, Some(0));
            self.readers.remove(&subscriber);
        }
    }

    fn append_cursors(&mut self) {
        while let Some(cursors) = self.node.mailboxes.next_cursors(self.node.wal.record_bytes_max()) {
            let record = Record::Cursors(cursors.clone());
            if self.node.wal.check_append(&record).is_err() {
                return self.node.mailboxes.cursors_refused(&cursors);
            }
            self.node.wal.append(record).unwrap();
        }
    }

    fn expire(&mut self) {
        assert_eq!(self.node.mailboxes.expire(self.now_ms, 1_000), []);
        while let Some(settle) = self.node.mailboxes.next_leaving() {
            assert_eq!(settle.cause, SettleCause::Expired);
            self.seen.expired += settle.sequences.len() as u64;
            self.append_settle(settle);
        }
    }

    fn take_durable(&mut self) {
        for durable in self.node.take_durable() {
            match durable.record {
                Record::BatchPart(part) => {
                    for message in part.messages {
                        self.pending.remove(&message.sequence);
                        self.stored.insert(message.sequence, message);
                    }
                }
                Record::Settle(settle) => {
                    assert!(matches!(settle.cause, SettleCause::Expired | SettleCause::Consumed));
                    settle.sequences.iter().for_each(|sequence| drop(self.stored.remove(sequence)));
                }
                Record::Subscribe(subscribe) => {
                    self.promises.get_mut(&owner(subscribe.subscriber.0[0])).unwrap().is_durable = true;
                }
                Record::Cursors(cursors) => {
                    for entry in cursors.entries {
                        self.is_durable(entry.number, entry.progress);
                    }
                }
                Record::Subscriptions(carried) => {
                    self.seen.carried += carried.entries.len() as u64;
                    for entry in carried.entries {
                        self.is_durable(entry.number, entry.progress);
                    }
                }
                Record::Dedup(_) => self.seen.trims += 1,
                _ => {}
            }
        }
    }

    fn is_durable(&mut self, number: u64, progress: Progress) {
        for (of, group) in READERS {
            let state = self.node.mailboxes.subscription(CHANNEL, SubscriberId([of; 16]), group);
            if state.is_some_and(|state| state.number == number) {
                let promise = self.promises.get_mut(&owner(of)).unwrap();
                assert!(progress.cursor >= promise.durable.cursor && progress.missed >= promise.durable.missed);
                promise.durable = progress;
                return;
            }
        }
        panic!("nobody has the number {number}");
    }

    fn crash(&mut self) {
        let how = if self.random.one_in(2) { Crash::Kill } else { Crash::Power };
        // What is in memory only goes with it; so does what was written and never synced, or a part of it.
        let config_of_log = small_config(1 + self.random.below(3));
        let nonce = self.random.next();
        let old = std::mem::replace(
            &mut self.node,
            Node::start(&mut Disk::default(), small_config(1), config(), 1, START_MS).unwrap().0,
        );
        old.crash(&mut self.disk, how, &mut self.random);
        let started = Node::start(&mut self.disk, config_of_log, config(), nonce, self.now_ms);
        let (node, records) = started.unwrap_or_else(|error| panic!("{error}"));
        self.node = node;
        self.seen.recovered += records.len() as u64;
        self.node.settle_down(&mut self.disk, &mut self.random, self.now_ms);
        drop(self.node.take_durable());
        self.readers.clear();
        self.check_recovered();
    }

    fn check_recovered(&mut self) {
        // Who begins with the oldest sees all that is kept.
        let witness = SubscriberId([99; 16]);
        let subscribe = self.node.mailboxes.subscribe(CHANNEL, witness, GroupId::NONE, Some(StartAt::Oldest));
        assert!(subscribe.unwrap().is_some());
        let reader = self.node.mailboxes.attach(CHANNEL, witness, GroupId::NONE).unwrap();
        let kept = take(&mut self.node, &mut self.disk, reader, u32::MAX, 0);
        assert!(kept.is_sorted_by_key(|message| message.sequence));
        let kept: BTreeMap<u64, PartMessage> = kept.into_iter().map(|message| (message.sequence, message)).collect();
        for (sequence, message) in &self.stored {
            let is_there = kept.get(sequence) == Some(message);
            assert!(is_there || self.leaving.contains(sequence), "message {sequence} is lost");
        }
        for (sequence, message) in &kept {
            let known = self.stored.get(sequence).or_else(|| self.pending.get(sequence));
            assert_eq!(known, Some(message), "message {sequence} came from nowhere");
        }
        // Its record was never appended: it is nobody.
        assert!(self.node.mailboxes.unsubscribe(CHANNEL, witness, GroupId::NONE).is_some());
        self.stored = kept;
        self.pending.clear();
        self.leaving.clear();
        for (number, group) in READERS {
            let Some(mut promise) = self.promises.get(&owner(number)).cloned() else { continue };
            let found = self.node.mailboxes.subscription(CHANNEL, owner(number), group);
            let Some(state) = found else {
                assert!(!promise.is_durable, "{number} subscribes, durably");
                self.promises.remove(&owner(number));
                continue;
            };
            let Progress { cursor, missed, done, .. } = &state.progress;
            assert!(*cursor >= promise.durable.cursor, "{state:?} is behind {promise:?}");
            assert!(*missed >= promise.durable.missed, "{state:?} is behind {promise:?}");
            for sequence in self.stored.keys() {
                let is_consumed = sequence <= cursor || done.contains(sequence);
                let was_durable = *sequence <= promise.durable.cursor || promise.durable.done.contains(sequence);
                assert!(is_consumed || !was_durable, "{sequence}: {state:?} is behind {promise:?}");
                let may_be = was_durable || promise.acknowledged.contains(sequence);
                assert!(may_be || !is_consumed, "{sequence}: nobody acknowledged it, {state:?} {promise:?}");
            }
            // What was acknowledged and is not durable is handed out again.
            let is_kept = |sequence: &u64| *sequence <= *cursor || done.contains(sequence);
            promise.acknowledged.retain(is_kept);
            promise.durable = state.progress;
            promise.is_durable = true;
            self.promises.insert(owner(number), promise);
        }
    }
}

/// Under whose name a reader's promise stands.
fn owner(number: u8) -> SubscriberId {
    SubscriberId([if number == 4 { 3 } else { number }; 16])
}

/// What a reader is handed, with what must be read for it.
fn take(node: &mut Node, disk: &mut Disk, reader: Reader, credit: u32, now_ms: u64) -> Vec<PartMessage> {
    let mut found: Vec<PartMessage> = Vec::new();
    loop {
        let left = credit - found.len() as u32;
        let more = node.mailboxes.next_published(reader, left, u64::MAX, now_ms);
        node.mailboxes.end_turn();
        found.extend(more.into_iter().map(|delivery| delivery.message));
        let mut is_done = true;
        while let Some(read) = node.mailboxes.next_read() {
            let mut bytes = vec![0; read.bytes];
            let outcome = disk.read(read.segment, read.offset, &mut bytes);
            let outcome = outcome.map(|()| bytes.into()).map_err(|error| DiskError::Io(error.to_string()));
            let done = node.mailboxes.read_completed(read.id, outcome);
            assert!(done.problems.is_empty(), "{}", done.problems[0]);
            is_done = false;
        }
        if is_done || found.len() == credit as usize {
            return found;
        }
    }
}

#[test]
fn channels_outlive_trimming_cleaning_and_every_stop() {
    let seed = std::env::var("CRETO_SEED").ok().map(|seed| seed.parse().expect("a number"));
    let seeds = seed.map_or(0..60, |seed: u64| seed..seed + 1);
    let mut all = Seen::default();
    for seed in seeds.clone() {
        println!("seed {seed}");
        let mut run = Run::new(seed);
        for _ in 0..2_500 {
            run.step();
        }
        run.crash();
        let Seen { delivered, recovered, trims, moved, carried, expired, consumed, nacked, given_back } = run.seen;
        all.delivered += delivered;
        all.recovered += recovered;
        all.trims += trims;
        all.moved += moved;
        all.carried += carried;
        all.expired += expired;
        all.consumed += consumed;
        all.nacked += nacked;
        all.given_back += given_back;
    }
    println!("{all:?}");
    // A run that compared nothing proves nothing.
    let Seen { delivered, recovered, trims, moved, carried, expired, consumed, nacked, given_back } = all;
    assert!(seed.is_some() || (delivered > 10_000 && recovered > 10_000 && trims > 100), "vacuous: {all:?}");
    assert!(seed.is_some() || (moved > 100 && carried > 200 && expired > 1_000 && consumed > 50), "vacuous: {all:?}");
    assert!(seed.is_some() || (nacked > 1_000 && given_back > 1_000), "vacuous: {all:?}");
}
