//! What must be true of channels: which subscriptions the logs durably hold, how far each has come, and what applications were
//! given by each cursor.

use std::collections::{BTreeMap, BTreeSet};

use creto_store::{Cursors, CursorsEntry, GroupId, Mailboxes, Progress, Record, Subscribe, SubscriberId, Unsubscribe};

use super::Cursor;
use crate::model::{Checked, Fate, Model, Rule, broken};
use crate::pool::{FIRST_PUBLISHED, MESSAGES, MessageNumber, Pool, Recipient};

/// Frames after the one by which a subscription began, in which messages may leave that were on their way out before: a turn's
/// records stand in a few frames.
const FRAMES_OF_A_TURN: u64 = 4;

/// The truth about the channels of one run.
#[derive(Debug, Default)]
pub(crate) struct Truth {
    /// Those that are durable.
    pub(crate) subscriptions: BTreeMap<Cursor, Subscription>,
    /// What applications were given, and have acknowledged.
    pub(crate) given: BTreeMap<Cursor, Given>,
    /// Since when an agent subscribes to a channel in whatever way, in durable records.
    member_since: BTreeMap<(usize, usize), u64>,
    /// The place of each published message in that.
    published_at: BTreeMap<MessageNumber, u64>,
    /// Durable records so far.
    records: u64,
    /// Ends of subscriptions that agents asked for.
    pub(crate) ends_asked: BTreeSet<(Cursor, usize)>,
    /// Agents that may not, or once might not, read a channel.
    pub(crate) denied: BTreeSet<(usize, usize)>,
    /// Agents all of whose messages became void.
    pub(crate) void: BTreeSet<usize>,
    pub(crate) retention_s_min: u32,
    /// The last message that each cursor's application saw of each publisher: its place with that.
    last_order: BTreeMap<(Cursor, usize), usize>,
}

/// A durable subscription.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Subscription {
    pub(crate) number: u64,
    /// It began behind this sequence, by a record of this frame.
    begins_after: u64,
    begun_lsn: u64,
    cursor: u64,
    /// Of a group: what is done above the cursor.
    done: BTreeSet<u64>,
    skipped: u32,
    pub(crate) members: BTreeSet<usize>,
}

/// What an application was given by a cursor, and has acknowledged, by sequence.
#[derive(Debug, Default)]
pub(crate) struct Given {
    pub(crate) shown: BTreeSet<u64>,
    pub(crate) acknowledged: BTreeSet<u64>,
}

impl Subscription {
    pub(crate) fn has_consumed(&self, sequence: u64) -> bool {
        sequence <= self.cursor || self.done.contains(&sequence)
    }

    fn take(&mut self, progress: &Progress) {
        self.cursor = progress.cursor;
        self.done = progress.done.iter().copied().collect();
        self.skipped = progress.skipped;
    }
}

/// The cursor that these names of the log are, and the agent.
fn cursor_of(pool: &Pool, channel: &[u8; 16], group: GroupId, agent: SubscriberId) -> Option<(Cursor, usize)> {
    let (channel, agent) = (pool.channel_of(channel)?, pool.agent_of(&agent.0)?);
    Some((Cursor { channel, agent: (group == GroupId::NONE).then_some(agent) }, agent))
}

impl Model {
    /// A record about subscriptions is durable.
    pub(crate) fn subscriptions_are_durable(
        &mut self,
        pool: &Pool,
        shard: usize,
        lsn: u64,
        record: &Record,
    ) -> Checked {
        let shard_count = self.ledgers.len();
        let is_here = |cursor: &Cursor| pool.owner(Recipient::Channel(cursor.channel), shard_count) == shard;
        self.channels.records += 1;
        match record {
            Record::Subscribe(subscribe) => self.subscribe_is_durable(pool, lsn, subscribe),
            Record::Unsubscribe(unsubscribe) => self.unsubscribe_is_durable(pool, unsubscribe),
            Record::Cursors(Cursors { entries }) => {
                entries.iter().try_for_each(|CursorsEntry { number, progress }| {
                    // Each shard counts by itself.
                    let mut known = self.channels.subscriptions.iter();
                    let of = known.find(|(cursor, known)| known.number == *number && is_here(cursor));
                    // It may have ended since.
                    let Some((&cursor, _)) = of else { return Ok(()) };
                    self.goes_on(pool, cursor, progress)
                })
            }
            Record::Subscriptions(carried) => {
                carried.entries.iter().filter(|entry| entry.part == 0).try_for_each(|entry| {
                    let agent = if entry.group == GroupId::NONE { entry.subscriber } else { entry.members[0] };
                    let found = cursor_of(pool, &entry.channel.0, entry.group, agent);
                    let known = found.and_then(|(cursor, _)| Some((cursor, self.channels.subscriptions.get(&cursor)?)));
                    match known {
                        Some((cursor, known)) if known.number == entry.number => {
                            self.goes_on(pool, cursor, &entry.progress)
                        }
                        known => broken(
                            Rule::SubscriptionIsKept,
                            format!("{entry:?} was carried over, which is no more: {known:?}"),
                        ),
                    }
                })
            }
            _ => Ok(()),
        }
    }

    fn subscribe_is_durable(&mut self, pool: &Pool, lsn: u64, subscribe: &Subscribe) -> Checked {
        let &Subscribe { channel, subscriber, group, number, begins_after } = subscribe;
        let Some((cursor, agent)) = cursor_of(pool, &channel.0, group, subscriber) else {
            return broken(Rule::SubscriptionIsKept, format!("nobody asked for {subscribe:?}"));
        };
        match (begins_after, self.channels.subscriptions.get_mut(&cursor)) {
            (Some(begins_after), None) => {
                let (done, members) = (BTreeSet::new(), BTreeSet::from([agent]));
                let begun = Subscription {
                    number,
                    begins_after,
                    begun_lsn: lsn,
                    cursor: begins_after,
                    done,
                    skipped: 0,
                    members,
                };
                self.channels.subscriptions.insert(cursor, begun);
                self.tally.subscriptions += 1;
            }
            (None, Some(known)) if known.number == number => drop(known.members.insert(agent)),
            (begins_after, known) => {
                let text = format!("agent {agent} begins to read {cursor:?} behind {begins_after:?}: it was {known:?}");
                return broken(Rule::SubscriptionIsKept, text);
            }
        }
        let since = self.channels.records;
        self.channels.member_since.entry((cursor.channel, agent)).or_insert(since);
        Ok(())
    }

    fn unsubscribe_is_durable(&mut self, pool: &Pool, unsubscribe: &Unsubscribe) -> Checked {
        let &Unsubscribe { channel, subscriber, group } = unsubscribe;
        let Some((cursor, agent)) = cursor_of(pool, &channel.0, group, subscriber) else {
            return broken(Rule::SubscriptionIsKept, format!("nobody asked for {unsubscribe:?}"));
        };
        let truth = &mut self.channels;
        let may_not = truth.denied.contains(&(cursor.channel, agent));
        if !may_not && !truth.ends_asked.contains(&(cursor, agent)) {
            let text = format!("agent {agent} does not read {cursor:?} any more, and nobody asked for that");
            return broken(Rule::SubscriptionIsKept, text);
        }
        self.tally.subscriptions_ended += u64::from(may_not);
        let truth = &mut self.channels;
        if let Some(known) = truth.subscriptions.get_mut(&cursor)
            && known.members.remove(&agent)
            && known.members.is_empty()
        {
            truth.subscriptions.remove(&cursor);
        }
        if !truth.is_member(cursor.channel, agent) {
            truth.member_since.remove(&(cursor.channel, agent));
        }
        Ok(())
    }

    /// A cursor has come further, durably: as far as its application says, and no further.
    fn goes_on(&mut self, pool: &Pool, cursor: Cursor, progress: &Progress) -> Checked {
        let known = self.channels.subscriptions.get_mut(&cursor).expect("it was just looked up");
        if progress.cursor < known.cursor {
            let text = format!("{cursor:?} goes back to {progress:?} from {known:?}");
            return broken(Rule::ConsumedStaysConsumed, text);
        }
        known.take(progress);
        let known = known.clone();
        self.tally.cursors += 1;
        let mut skipped = Vec::new();
        for (number, sequence) in self.kept_in(pool, cursor.channel) {
            let is_over = sequence <= known.begins_after || !known.has_consumed(sequence);
            let has_it = || self.channels.given.get(&cursor).is_some_and(|of| of.acknowledged.contains(&sequence));
            if !is_over && !has_it() && !self.may_be_missing(pool, number) && self.fates[number].settled.is_none() {
                skipped.push((number, sequence));
            }
        }
        // A group gives up what its members go over too often.
        match skipped.len() <= known.skipped as usize {
            true => Ok(()),
            false => {
                let text = format!(
                    "{cursor:?} has consumed {skipped:?} (message, sequence), which nobody acknowledged: {known:?}"
                );
                broken(Rule::SettledForAReason, text)
            }
        }
    }

    /// A message is durable in a channel.
    pub(crate) fn published_is_durable(&mut self, pool: &Pool, number: MessageNumber) -> Checked {
        let Recipient::Channel(channel) = pool.messages[number].to else { return Ok(()) };
        self.tally.published += 1;
        self.channels.records += 1;
        self.channels.published_at.insert(number, self.channels.records);
        let stored = self.fates[number].stored.expect("it was just stored");
        let kept_s = if pool.messages[number].expires { 1 } else { u64::from(self.channels.retention_s_min) };
        if stored.expiry_ms < self.earliest_unix_ms + kept_s * 1_000 {
            let text = format!("message {number} is to leave its channel too early: {stored:?}");
            return broken(Rule::PublishedIsKept, text);
        }
        let late = self
            .channels
            .subscriptions
            .iter()
            .find(|(cursor, of)| cursor.channel == channel && of.has_consumed(stored.sequence));
        match late {
            None => Ok(()),
            Some((cursor, of)) => {
                let text = format!("message {number} was published as {stored:?}, and {cursor:?} is behind it: {of:?}");
                broken(Rule::PublishedIsKept, text)
            }
        }
    }

    /// A published message leaves because all have consumed it: they have, durably, by records before this one.
    pub(crate) fn all_have_consumed(&self, pool: &Pool, number: MessageNumber, lsn: u64) -> Checked {
        let fate = &self.fates[number];
        let (Some(stored), Recipient::Channel(channel)) = (fate.stored, pool.messages[number].to) else {
            return broken(Rule::SettledForAReason, format!("message {number} was settled as consumed: {fate:?}"));
        };
        let behind = self.channels.subscriptions.iter().find(|(cursor, of)| {
            let is_new = of.begun_lsn + FRAMES_OF_A_TURN >= lsn;
            // What members have done above a group's cursor is not enough, and what is over is over.
            cursor.channel == channel && !is_new && of.cursor < stored.sequence && !of.has_consumed(stored.sequence)
        });
        match behind {
            None => Ok(()),
            Some((cursor, of)) => {
                let text =
                    format!("message {number}, {stored:?}, made room in its channel; {cursor:?} wants it: {of:?}");
                broken(Rule::SettledForAReason, text)
            }
        }
    }

    /// Messages of a channel that are durable, with their sequences.
    fn kept_in(&self, pool: &Pool, channel: usize) -> impl Iterator<Item = (MessageNumber, u64)> {
        let of_channel = move |number: &MessageNumber| pool.messages[*number].to == Recipient::Channel(channel);
        (FIRST_PUBLISHED..MESSAGES)
            .filter(of_channel)
            .filter_map(|number| Some((number, self.fates[number].stored?.sequence)))
    }

    /// Whether a message may be passed over: its time was over once, or it is void, or it could not be read.
    pub(crate) fn may_be_missing(&self, pool: &Pool, number: MessageNumber) -> bool {
        let Fate { stored, passed_over, .. } = &self.fates[number];
        let is_over = stored.is_some_and(|stored| stored.expiry_ms <= self.latest_unix_ms);
        is_over || *passed_over || self.channels.void.contains(&pool.messages[number].sender)
    }

    /// How many messages the channels of a shard keep.
    pub(crate) fn kept(&self, shard: usize) -> u64 {
        let is_kept = |fate: &&Fate| fate.settled.is_none() && fate.stored.is_some_and(|stored| stored.shard == shard);
        self.fates[FIRST_PUBLISHED..].iter().filter(is_kept).count() as u64
    }

    /// When the last message of those that channels keep is over.
    pub(crate) fn last_expiry_ms(&self) -> Option<u64> {
        let kept = self.fates[FIRST_PUBLISHED..].iter().filter(|fate| fate.settled.is_none());
        kept.filter_map(|fate| Some(fate.stored?.expiry_ms)).max()
    }

    /// What every durable subscription still has to consume; `None` when all have come to the end.
    pub(crate) fn unread(&self, pool: &Pool) -> Option<String> {
        self.channels.subscriptions.iter().find_map(|(cursor, of)| {
            let (number, sequence) = self.kept_in(pool, cursor.channel).find(|&(number, sequence)| {
                !of.has_consumed(sequence) && self.fates[number].settled.is_none() && !self.may_be_missing(pool, number)
            })?;
            Some(format!("{cursor:?} has not consumed message {number}, sequence {sequence}: {of:?}"))
        })
    }

    /// When all who read have come to the end: nobody was left out of anything.
    pub(crate) fn everybody_was_given_all(&mut self, pool: &Pool) -> Checked {
        let (nothing, mut count) = (Given::default(), 0);
        for (&cursor, of) in &self.channels.subscriptions {
            let given = self.channels.given.get(&cursor).unwrap_or(&nothing);
            let mut missing = Vec::new();
            for (number, sequence) in self.kept_in(pool, cursor.channel) {
                let fate = &self.fates[number];
                let had_left = fate.settled.is_some() && fate.settled_lsn <= of.begun_lsn + FRAMES_OF_A_TURN;
                if sequence > of.begins_after && !had_left && !self.may_be_missing(pool, number) {
                    count += 1;
                    if !given.shown.contains(&sequence) {
                        missing.push((number, sequence));
                    }
                }
            }
            if missing.len() > of.skipped as usize {
                let text = format!("{cursor:?} was never given {missing:?} (message, sequence): {of:?}");
                return broken(Rule::PublishedIsKept, text);
            }
        }
        self.tally.given += count;
        Ok(())
    }

    /// A shard has started again: it knows every subscription as the log has it.
    pub(crate) fn subscriptions_are_recovered(
        &mut self,
        pool: &Pool,
        shard: usize,
        shard_count: usize,
        mailboxes: &Mailboxes,
    ) -> Checked {
        let mut found: BTreeSet<(Cursor, usize)> = BTreeSet::new();
        for (channel, group, agent) in mailboxes.all_subscribers() {
            found.extend(cursor_of(pool, &channel.0, group, agent));
        }
        let is_here = |cursor: &Cursor| pool.owner(Recipient::Channel(cursor.channel), shard_count) == shard;
        let here = self.channels.subscriptions.iter().filter(|(cursor, _)| is_here(cursor));
        let expected: BTreeSet<(Cursor, usize)> =
            here.flat_map(|(cursor, of)| of.members.iter().map(move |agent| (*cursor, *agent))).collect();
        if expected != found {
            let text = format!("shard {shard} started with the subscriptions {found:?}; its log says {expected:?}");
            return broken(Rule::SubscriptionIsKept, text);
        }
        self.tally.subscriptions_recovered += expected.len() as u64;
        for (cursor, agent) in expected {
            let of = &self.channels.subscriptions[&cursor];
            let group = GroupId(cursor.group().0);
            let (channel, agent) =
                (creto_store::MailboxId(pool.channels[cursor.channel].0), SubscriberId(pool.agents[agent].id.0));
            let state = mailboxes.subscription(channel, agent, group).expect("it is among those that were found");
            let has_consumed = |sequence| sequence <= state.progress.cursor || state.progress.done.contains(&sequence);
            let other = self.kept_in(pool, cursor.channel).find(|&(number, sequence)| {
                self.fates[number].settled.is_none() && has_consumed(sequence) != of.has_consumed(sequence)
            });
            if state.number != of.number || other.is_some() {
                let text =
                    format!("shard {shard} started with {cursor:?} as {state:?}; its log says {of:?}: {other:?}");
                return broken(Rule::SubscriptionIsKept, text);
            }
        }
        Ok(())
    }

    /// What an application sees first by a cursor of its own comes in the order of its publisher.
    pub(crate) fn published_in_order(&mut self, pool: &Pool, cursor: Cursor, number: MessageNumber) -> Checked {
        let message = &pool.messages[number];
        if message.expires || self.fates[number].passed_over {
            return Ok(());
        }
        let last = self.channels.last_order.insert((cursor, message.sender), message.order);
        if self.refused_for_room || last.is_none_or(|last| last < message.order) {
            return Ok(());
        }
        let text = format!(
            "message {number} of agent {} (place {}) came to {cursor:?} after place {last:?}",
            message.sender, message.order
        );
        broken(Rule::Order, text)
    }
}

impl Truth {
    /// Whether an agent subscribes to a channel in whatever way.
    pub(crate) fn is_member(&self, channel: usize, agent: usize) -> bool {
        self.subscriptions.iter().any(|(cursor, of)| cursor.channel == channel && of.members.contains(&agent))
    }

    /// All who subscribe to a channel.
    pub(crate) fn members(&self, channel: usize) -> BTreeSet<usize> {
        self.member_since.keys().filter(|(of, _)| *of == channel).map(|(_, agent)| *agent).collect()
    }

    /// Those who subscribed to a channel before this message was published there, and still do.
    pub(crate) fn members_before(&self, channel: usize, number: MessageNumber) -> Vec<usize> {
        let Some(&at) = self.published_at.get(&number) else { return Vec::new() };
        let before = self.member_since.iter().filter(|((of, _), since)| *of == channel && **since < at);
        before.map(|((_, agent), _)| *agent).collect()
    }

    /// An application begins anew with a cursor.
    pub(crate) fn begins_anew(&mut self, cursor: Cursor) {
        self.given.remove(&cursor);
        self.last_order.retain(|(of, _), _| *of != cursor);
    }
}
