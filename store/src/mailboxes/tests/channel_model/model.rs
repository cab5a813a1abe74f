//! What a shard's channels are, said in the simplest way, and what a reader of the log makes of its records.

use std::collections::{BTreeMap, BTreeSet};

use super::super::*;
use super::QUOTA;
use crate::id::{GroupId, SubscriberId};
use crate::limits::PROBE_HOLD_US;
use crate::record::{Progress, Subscribe, Unsubscribe};

#[derive(Debug, Clone)]
pub(super) struct Known {
    pub(super) message: PartMessage,
    pub(super) channel: u8,
    pub(super) time_ms: u64,
    pub(super) is_durable: bool,
    pub(super) settling: Option<SettleCause>,
}

impl Known {
    pub(super) fn is_over(&self, now_ms: u64) -> bool {
        self.message.expiry_ms.div_ceil(1_000) * 1_000 <= now_ms
    }

    pub(super) fn is_deliverable(&self, now_ms: u64) -> bool {
        self.is_durable && self.settling.is_none() && !self.is_over(now_ms)
    }
}

#[derive(Debug, Clone, Default)]
pub(super) struct Tries {
    pub(super) attempts: u8,
    pub(super) failed: u8,
    /// Its member went: it is handed out alone.
    pub(super) is_suspect: bool,
}

#[derive(Debug, Clone)]
pub(super) struct Subscribed {
    pub(super) channel: u8,
    pub(super) group: GroupId,
    pub(super) members: BTreeSet<SubscriberId>,
    pub(super) progress: Progress,
    pub(super) durable: u64,
    pub(super) moves: u32,
    // In memory only.
    pub(super) attached: BTreeSet<SubscriberId>,
    pub(super) handed: u64,
    pub(super) handed_max: u64,
    pub(super) again: BTreeMap<u64, Tries>,
    /// When it comes back.
    pub(super) later: BTreeMap<u64, (u64, Tries)>,
    pub(super) in_hand: BTreeMap<u64, (SubscriberId, Tries)>,
    /// What members were handed alone.
    pub(super) alone: BTreeMap<SubscriberId, u64>,
    /// When they were handed something last.
    pub(super) handed_us: BTreeMap<SubscriberId, u64>,
    /// Who gave back what.
    pub(super) given_back: BTreeSet<(u64, SubscriberId)>,
}

impl Subscribed {
    pub(super) fn new(channel: u8, group: GroupId, cursor: u64) -> Self {
        let mut new = Self {
            channel,
            group,
            members: BTreeSet::new(),
            progress: Progress::default(),
            durable: cursor,
            moves: 0,
            attached: BTreeSet::new(),
            handed: 0,
            handed_max: 0,
            again: BTreeMap::new(),
            later: BTreeMap::new(),
            in_hand: BTreeMap::new(),
            alone: BTreeMap::new(),
            handed_us: BTreeMap::new(),
            given_back: BTreeSet::new(),
        };
        new.begin_at(cursor);
        new
    }

    pub(super) fn begin_at(&mut self, cursor: u64) {
        (self.progress.cursor, self.handed, self.handed_max) = (cursor, cursor, cursor);
        self.progress.done.clear();
        self.again.clear();
        self.in_hand.clear();
        self.later.clear();
        self.alone.clear();
        self.handed_us.clear();
        self.given_back.clear();
    }

    pub(super) fn is_group(&self) -> bool {
        self.group != GroupId::NONE
    }

    pub(super) fn wants(&self, sequence: u64) -> bool {
        sequence > self.progress.cursor && !self.progress.done.contains(&sequence)
    }

    fn is_for_others(&self, sequence: u64, member: SubscriberId) -> bool {
        let gave = |member: SubscriberId| self.given_back.contains(&(sequence, member));
        gave(member) && self.attached.iter().any(|other| !gave(*other))
    }

    pub(super) fn done(&mut self, sequence: u64) {
        self.given_back.retain(|(given, _)| *given != sequence);
        self.progress.done.push(sequence);
        self.progress.done.sort_unstable();
    }

    /// Takes a message out of the hand it is in.
    pub(super) fn take(&mut self, sequence: u64) -> Option<Tries> {
        self.alone.retain(|_, alone| *alone != sequence);
        self.in_hand.remove(&sequence).map(|(_, tries)| tries)
    }

    /// What came back and failed goes to others, or is skipped.
    fn is_skipped(&mut self, sequence: u64, tries: &Tries, deliveries_max: u8) -> bool {
        let is_skipped = deliveries_max > 0 && tries.failed >= deliveries_max;
        if is_skipped {
            self.progress.skipped += 1;
            self.done(sequence);
        }
        is_skipped
    }

    pub(super) fn hand_of(&self, member: SubscriberId) -> Vec<u64> {
        self.in_hand.iter().filter(|(_, held)| held.0 == member).map(|(&sequence, _)| sequence).collect()
    }
}

/// What a shard's channels are, said in the simplest way.
#[derive(Debug, Default, Clone)]
pub(super) struct Model {
    pub(super) messages: BTreeMap<u64, Known>,
    /// By number.
    pub(super) subscriptions: BTreeMap<u64, Subscribed>,
    pub(super) now_ms: u64,
    pub(super) now_us: u64,
}

impl Model {
    pub(super) fn find(&self, channel: u8, group: GroupId, subscriber: SubscriberId) -> Option<u64> {
        let is_it = |of: &Subscribed| {
            let is_ours = of.group != GroupId::NONE || of.members.contains(&subscriber);
            of.channel == channel && of.group == group && is_ours
        };
        self.subscriptions.iter().find(|(_, of)| is_it(of)).map(|(&number, _)| number)
    }

    pub(super) fn kept(&self, channel: u8) -> impl Iterator<Item = (u64, &Known)> {
        let kept = self.messages.iter().filter(move |(_, known)| known.channel == channel && known.is_durable);
        kept.map(|(&sequence, known)| (sequence, known))
    }

    /// The sequences that leave early when one more message is to be admitted; `None` when that is refused.
    pub(super) fn leaving(&self, channel: u8) -> Option<Vec<u64>> {
        let of = || self.messages.iter().filter(|(_, known)| known.channel == channel);
        let counted = of().filter(|(_, known)| known.settling != Some(SettleCause::Consumed)).count() as u64;
        let over = usize::try_from((counted + 1).saturating_sub(QUOTA)).unwrap();
        let subscriptions = self.subscriptions.values().filter(|of| of.channel == channel);
        let consumed = subscriptions.map(|of| of.progress.cursor.min(of.durable)).min().unwrap_or(u64::MAX);
        let may_leave = |known: &Known| known.is_durable && known.settling.is_none();
        let free = of().filter(|(sequence, known)| **sequence <= consumed && may_leave(known));
        let leaving: Vec<u64> = free.map(|(&sequence, _)| sequence).take(over).collect();
        (leaving.len() == over).then_some(leaving)
    }

    pub(super) fn next(&self, number: u64, member: SubscriberId) -> Option<(u64, u8, bool)> {
        let of = &self.subscriptions[&number];
        let is_deliverable =
            |sequence: &u64| self.messages.get(sequence).is_some_and(|k| k.is_deliverable(self.now_ms));
        let new_after = |after: u64| {
            let mut behind = self.kept(of.channel).map(|(sequence, _)| sequence).filter(|&sequence| sequence > after);
            behind.find(|sequence| {
                is_deliverable(sequence)
                    && of.wants(*sequence)
                    && !of.in_hand.contains_key(sequence)
                    && !of.again.contains_key(sequence)
                    && !of.later.contains_key(sequence)
            })
        };
        if !of.attached.contains(&member) {
            return None;
        }
        if !of.is_group() {
            let mut behind = self.kept(of.channel).map(|(sequence, _)| sequence);
            let next = behind.find(|sequence| *sequence > of.handed && is_deliverable(sequence))?;
            return Some((next, if next > of.handed_max { 1 } else { 2 }, false));
        }
        let has_any = !of.hand_of(member).is_empty();
        let first = of.again.iter().find(|(at, _)| is_deliverable(at) && !of.is_for_others(**at, member));
        let is_suspect = first.is_some_and(|(_, tries)| tries.is_suspect);
        let is_held = of.alone.contains_key(&member) || (is_suspect && has_any);
        if is_held && self.now_us < of.handed_us[&member] + PROBE_HOLD_US {
            return None;
        }
        match first {
            Some((&sequence, tries)) => Some((sequence, tries.attempts + 1, is_suspect && !has_any)),
            None => new_after(of.handed).map(|sequence| (sequence, 1, false)),
        }
    }

    pub(super) fn deliver(&mut self, number: u64, member: SubscriberId, credit: u32) -> Vec<(PartMessage, u8)> {
        let mut delivered = Vec::new();
        while delivered.len() < credit as usize {
            let Some((sequence, attempt, is_alone)) = self.next(number, member) else { break };
            let of = self.subscriptions.get_mut(&number).unwrap();
            if of.is_group() {
                let mut tries = of.again.remove(&sequence).unwrap_or_default();
                tries.attempts += 1;
                of.in_hand.insert(sequence, (member, tries));
                of.handed_us.insert(member, self.now_us);
                if is_alone {
                    of.alone.insert(member, sequence);
                }
                of.handed = of.handed.max(sequence);
            } else {
                (of.handed, of.handed_max) = (sequence, of.handed_max.max(sequence));
            }
            delivered.push((self.messages[&sequence].message.clone(), attempt));
        }
        delivered
    }

    pub(super) fn advance(&mut self, number: u64) {
        let of = &self.subscriptions[&number];
        let kept: Vec<u64> = self.kept(of.channel).map(|(sequence, _)| sequence).collect();
        let of = self.subscriptions.get_mut(&number).unwrap();
        if !of.is_group() {
            return;
        }
        let is_open = |sequence: &u64| *sequence > of.progress.cursor && !of.progress.done.contains(sequence);
        let first = kept.into_iter().find(is_open).unwrap_or(u64::MAX);
        let passed = of.progress.done.iter().copied().filter(|&done| done < first).max();
        of.progress.cursor = passed.unwrap_or(of.progress.cursor);
        of.progress.done.retain(|&done| done > of.progress.cursor);
        of.handed = of.handed.max(of.progress.cursor);
    }

    pub(super) fn reset(&mut self, number: u64, member: SubscriberId, deliveries_max: u8) {
        let Some(of) = self.subscriptions.get_mut(&number) else { return };
        of.attached.remove(&member);
        if !of.is_group() {
            of.handed = of.progress.cursor;
            return;
        }
        of.given_back.retain(|(_, giver)| *giver != member);
        let hand = of.hand_of(member);
        let only = hand.first().copied().filter(|_| hand.len() == 1);
        let blamed = of.alone.get(&member).copied().or(only);
        for &sequence in &hand {
            let mut tries = of.take(sequence).unwrap();
            tries.failed += u8::from(blamed == Some(sequence));
            tries.is_suspect = true;
            if !of.is_skipped(sequence, &tries, deliveries_max) {
                of.again.insert(sequence, tries);
            }
        }
        self.advance(number);
    }

    /// A member wants messages that it has again, after the pause for so many failures.
    pub(super) fn nack(&mut self, number: u64, sequences: &[u64], deliveries_max: u8, pause_us: impl Fn(u8) -> u64) {
        let of = self.subscriptions.get_mut(&number).unwrap();
        for &sequence in sequences {
            let mut tries = of.take(sequence).unwrap();
            (tries.failed, tries.is_suspect) = (tries.failed + 1, false);
            if !of.is_skipped(sequence, &tries, deliveries_max) {
                of.later.insert(sequence, (self.now_us + pause_us(tries.failed), tries));
            }
        }
        self.advance(number);
    }

    pub(super) fn give_back(&mut self, number: u64, member: SubscriberId, sequences: &[u64]) {
        let of = self.subscriptions.get_mut(&number).unwrap();
        for &sequence in sequences {
            let mut tries = of.take(sequence).unwrap();
            tries.attempts -= 1;
            of.again.insert(sequence, tries);
            of.given_back.insert((sequence, member));
        }
    }

    pub(super) fn pass(&mut self, later_us: u64) {
        self.now_us += later_us;
        for of in self.subscriptions.values_mut() {
            while let Some((&sequence, _)) = of.later.iter().find(|(_, (due_us, _))| *due_us <= self.now_us) {
                let (_, tries) = of.later.remove(&sequence).unwrap();
                of.again.insert(sequence, tries);
            }
        }
    }

    pub(super) fn expire(&mut self, sequences: &[u64]) {
        for &sequence in sequences {
            let known = self.messages.get_mut(&sequence).unwrap();
            known.settling = Some(SettleCause::Expired);
            self.count_missed(sequence, 1);
        }
    }

    pub(super) fn count_missed(&mut self, sequence: u64, by: i64) {
        let channel = self.messages[&sequence].channel;
        for of in self.subscriptions.values_mut().filter(|of| of.channel == channel && of.wants(sequence)) {
            of.progress.missed = of.progress.missed.checked_add_signed(by).unwrap();
        }
    }

    /// A record is durable.
    pub(super) fn durable(&mut self, record: &Record) {
        match record {
            Record::BatchPart(part) => {
                for message in &part.messages {
                    self.messages.get_mut(&message.sequence).unwrap().is_durable = true;
                }
            }
            Record::Settle(settle) => self.settled(&settle.sequences),
            Record::Subscribe(Subscribe { number, begins_after: Some(cursor), .. }) => {
                if let Some(of) = self.subscriptions.get_mut(number) {
                    of.moves = of.moves.saturating_sub(1);
                    of.durable = if of.moves == 0 { *cursor } else { of.durable };
                }
            }
            Record::Cursors(cursors) => {
                for entry in &cursors.entries {
                    if let Some(of) = self.subscriptions.get_mut(&entry.number).filter(|of| of.moves == 0) {
                        of.durable = entry.progress.cursor;
                    }
                }
            }
            _ => {}
        }
    }

    pub(super) fn settled(&mut self, sequences: &[u64]) {
        for sequence in sequences {
            self.messages.remove(sequence).unwrap();
            for of in self.subscriptions.values_mut() {
                of.take(*sequence);
                of.again.remove(sequence);
                of.later.remove(sequence);
                of.given_back.retain(|(given, _)| given != sequence);
            }
        }
        self.subscriptions.keys().copied().collect::<Vec<_>>().into_iter().for_each(|number| self.advance(number));
    }

    /// What a reader of all these records knows.
    pub(super) fn of_log(log: &[Record], now_ms: u64) -> Self {
        let mut read = Self { now_ms, ..Self::default() };
        for record in log {
            match record {
                Record::BatchPart(part) | Record::Moved(part) => {
                    for message in part.messages.iter().cloned() {
                        let (channel, time_ms) = (message.mailbox.0[0] - 0xc0, message.message_id.time_ms());
                        let known = Known { message, channel, time_ms, is_durable: true, settling: None };
                        read.messages.entry(known.message.sequence).or_insert(known);
                    }
                }
                Record::Settle(settle) => {
                    for sequence in &settle.sequences {
                        if settle.cause == SettleCause::Expired {
                            read.count_missed(*sequence, 1);
                        }
                    }
                    read.settled(&settle.sequences);
                }
                &Record::Subscribe(Subscribe { channel, subscriber, group, number, begins_after }) => {
                    let channel = channel.0[0] - 0xc0;
                    let begun = || Subscribed::new(channel, group, begins_after.expect("a group is there"));
                    let of = read.subscriptions.entry(number).or_insert_with(begun);
                    if let Some(cursor) = begins_after {
                        of.begin_at(cursor);
                    }
                    of.members.insert(subscriber);
                }
                &Record::Unsubscribe(Unsubscribe { channel, subscriber, group }) => {
                    let number = read.find(channel.0[0] - 0xc0, group, subscriber);
                    let is_member = |number: &u64| read.subscriptions[number].members.contains(&subscriber);
                    if let Some(number) = number.filter(is_member) {
                        read.unsubscribe(number, subscriber);
                    }
                }
                Record::Cursors(cursors) => {
                    for entry in &cursors.entries {
                        let of = read.subscriptions.get_mut(&entry.number).unwrap();
                        of.begin_at(entry.progress.cursor);
                        of.progress = entry.progress.clone();
                    }
                }
                // Nothing that the records before did not say, but for how far it has come.
                Record::Subscriptions(carried) => {
                    for entry in &carried.entries {
                        let of = read.subscriptions.get_mut(&entry.number).expect("it was subscribed");
                        assert!(entry.members.iter().all(|member| of.members.contains(member)));
                        if entry.part > 0 {
                            continue;
                        }
                        of.begin_at(entry.progress.cursor);
                        of.progress = entry.progress.clone();
                    }
                }
                _ => {}
            }
        }
        for number in read.subscriptions.keys().copied().collect::<Vec<_>>() {
            read.advance(number);
            let of = read.subscriptions.get_mut(&number).unwrap();
            of.durable = of.progress.cursor;
        }
        read
    }

    pub(super) fn unsubscribe(&mut self, number: u64, subscriber: SubscriberId) {
        self.reset(number, subscriber, 0);
        let of = self.subscriptions.get_mut(&number).unwrap();
        of.members.remove(&subscriber);
        if of.members.is_empty() {
            self.subscriptions.remove(&number);
        }
    }
}
