//! Channels in a run: who owns, publishes and reads them, what their records say, and how that changes while the run goes on.
//!
//! Agents of their own have to do with channels, beside those that write to each other: so an agent can be revoked, and no mailbox
//! is waited for. What they do is in [`client`], what must be true in [`truth`], and what is held against it when a shard hands
//! something out or says something in [`node`]. Half of the runs have channels; the others are as if there were none.

pub(crate) mod client;
mod node;
pub(crate) mod truth;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use creto_envelope::channel::{ChannelName, ChannelRecord, Publishing, Subscribing};
use creto_envelope::{AgentState, ChannelId, GroupId, TrustDomain};
use creto_policy::{Policy, Snapshot, SnapshotBuilder};
use creto_shard::Event;

use self::client::ChannelAgent;
use crate::clock::START_MS;
use crate::fault::Fault;
use crate::model::Checked;
use crate::network::LinkNumber;
use crate::patterns::OUTSIDER;
use crate::pool::{AGENTS, Pool};
use crate::random::Random;
use crate::world::{Step, World};

/// Channels of a run: one that everybody may read, and one with a list.
pub(crate) const CHANNELS: usize = 2;
const LISTED: usize = 1;
const NAMES: [&str; CHANNELS] = ["acme/open", "acme/listed"];
/// Agents that have to do with channels. The first ones publish, the first of all owns the channels.
pub(crate) const CHANNEL_AGENTS: usize = 5;
pub(crate) const PUBLISHERS: usize = 2;
pub(crate) const MESSAGES_PER_PUBLISHER: usize = 24;
/// The group of each channel.
pub(crate) const GROUP: GroupId = GroupId([9; 16]);
/// Most messages of a channel. A small log has room for fewer: what is kept stays in it while mailboxes go on.
const MESSAGES_MAX: [u64; 3] = [3, 6, 12];
const MESSAGES_MAX_OF_SMALL_LOG: [u64; 3] = [2, 3, 4];
const SMALL_LOG_BYTES: u64 = 400 << 10;
/// The longest that a channel keeps anything.
pub(crate) const RETENTION_S_MAX: u32 = 120;
/// What a connection's shard was told is known to a channel's after this, whatever ring it took.
const RING_US_MAX: u64 = 200;

/// Names a cursor over a channel: that of an agent, or that of its group.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct Cursor {
    pub(crate) channel: usize,
    /// Whose it is; nobody's alone for the group's.
    pub(crate) agent: Option<usize>,
}

impl Cursor {
    fn group(self) -> GroupId {
        if self.agent.is_some() { GroupId::NONE } else { GROUP }
    }
}

pub(crate) fn id(channel: usize) -> ChannelId {
    let name = ChannelName::parse(NAMES[channel]).expect("a simulated channel has a proper name");
    ChannelId::derive(&TrustDomain::default(), &name)
}

/// What control knows of channels and their agents at some time.
#[derive(Clone, Debug)]
pub(crate) struct Records {
    /// Who may read the channel with a list.
    listed: BTreeSet<usize>,
    is_deleted: [bool; CHANNELS],
    /// Who is revoked, and since when.
    revoked: Option<(usize, u64)>,
    /// So is the outsider of the patterns; not what it had signed.
    outsider_is_revoked: bool,
    messages_max: [u64; CHANNELS],
    pub(crate) retention_s: [u32; CHANNELS],
}

impl Records {
    fn draw(random: &mut Random, quotas: [u64; 3]) -> Self {
        Self {
            listed: (AGENTS..AGENTS + CHANNEL_AGENTS).filter(|agent| *agent == AGENTS || !random.one_in(4)).collect(),
            is_deleted: [false; CHANNELS],
            revoked: None,
            outsider_is_revoked: false,
            messages_max: std::array::from_fn(|_| random.pick(&quotas)),
            retention_s: std::array::from_fn(|_| random.pick(&[60, RETENTION_S_MAX])),
        }
    }

    /// Whether an agent may read a channel.
    pub(crate) fn may_read(&self, agent: usize, channel: usize) -> bool {
        !self.is_deleted[channel] && !self.is_revoked(agent) && (channel != LISTED || self.listed.contains(&agent))
    }

    pub(crate) fn is_revoked(&self, agent: usize) -> bool {
        self.revoked.is_some_and(|(revoked, _)| revoked == agent) || self.outsider_is_revoked && agent == OUTSIDER
    }

    /// Whether what an agent signed in this run is void.
    pub(crate) fn is_void(&self, agent: usize) -> bool {
        self.revoked.is_some_and(|(revoked, at_ms)| revoked == agent && at_ms <= START_MS)
    }

    fn snapshot(&self, pool: &Pool, epoch: u64) -> Arc<Snapshot> {
        let mut builder = SnapshotBuilder::with_policy(Policy::SameOrganization);
        for agent in &pool.agents {
            let inserted = builder.insert(AgentState::Active, vec![Arc::clone(&agent.record)]);
            inserted.expect("simulated agents have one proper record each");
        }
        if let Some((agent, at_ms)) = self.revoked {
            builder.revoke(&pool.agents[agent].id, at_ms);
        }
        if self.outsider_is_revoked {
            builder.revoke(&pool.agents[OUTSIDER].id, START_MS + 1);
        }
        for (channel, name) in NAMES.iter().enumerate() {
            let mut listed: Vec<_> = self.listed.iter().map(|agent| pool.agents[*agent].id).collect();
            listed.sort_unstable();
            builder.insert_channel(ChannelRecord {
                version: 1,
                name: ChannelName::parse(name).expect("a simulated channel has a proper name"),
                trust_domain: TrustDomain::default(),
                owner: pool.agents[AGENTS].id,
                owner_key_version: 1,
                signed_at_ms: START_MS,
                subscribing: if channel == LISTED { Subscribing::Allowlist(listed) } else { Subscribing::Open },
                publishing: Publishing::Open,
                has_history: false,
                is_deleted: self.is_deleted[channel],
                retention_s: self.retention_s[channel],
                messages_max: self.messages_max[channel],
                bytes_max: 1 << 20,
                subscribers_max: 1_000,
            });
        }
        Arc::new(builder.build(epoch))
    }
}

/// The channels of one run.
#[derive(Debug)]
pub(crate) struct Channels {
    /// This run has channels.
    pub(crate) is_on: bool,
    /// Decides about channels.
    pub(crate) random: Random,
    /// Everything that control said, the newest last.
    history: Vec<(Records, Arc<Snapshot>)>,
    /// What each shard knows of that: a place in the history.
    applied: Vec<usize>,
    /// When what was said last reaches each shard.
    arrival_us: Vec<u64>,
    pub(crate) agents: Vec<ChannelAgent>,
    /// How many messages a channel may keep: one of these.
    quotas: [u64; 3],
    hands: Hands,
    /// All was read to its end, and the time of all messages is over.
    pub(crate) is_let_go: bool,
}

/// A connection with its number for a subscription.
type Seat = (LinkNumber, u32);

/// Who has what in this life of the node, as far as that is certain.
#[derive(Debug, Default)]
struct Hands {
    /// Who reads as what: the last connection that asked for it.
    seats: BTreeMap<(Cursor, usize), Seat>,
    /// Messages of groups that a member has, by subscription (with its number: a group may end and begin again) and sequence.
    in_hand: BTreeMap<(Cursor, u64, u64), Seat>,
    /// What was acknowledged, in the same way, when, and by whom.
    done: BTreeMap<(Cursor, u64, u64), (u64, Seat)>,
}

impl Hands {
    /// A connection does not read under this number any more. What it said just now may come too late.
    fn release(&mut self, seat: Seat, now_us: u64) {
        self.in_hand.retain(|_, holder| *holder != seat);
        self.done.retain(|_, (at_us, by)| *by != seat || *at_us + RING_US_MAX <= now_us);
        self.seats.retain(|_, of| *of != seat);
    }

    /// A connection is gone.
    fn release_all(&mut self, link: LinkNumber, now_us: u64) {
        let seats: Vec<Seat> = self.seats.values().filter(|(of, _)| *of == link).copied().collect();
        seats.into_iter().for_each(|seat| self.release(seat, now_us));
    }
}

impl Channels {
    pub(crate) fn draw(pool: &Pool, mut random: Random, shard_count: usize, wal_bytes_max: u64) -> Self {
        let quotas = if wal_bytes_max < SMALL_LOG_BYTES { MESSAGES_MAX_OF_SMALL_LOG } else { MESSAGES_MAX };
        let is_on = random.one_in(2);
        let mut history = Vec::new();
        if is_on {
            let records = Records::draw(&mut random, quotas);
            let snapshot = records.snapshot(pool, 1);
            history.push((records, snapshot));
        }
        let agents = (0..CHANNEL_AGENTS).map(|number| ChannelAgent::draw(&mut random, number)).collect();
        Self {
            is_on,
            random,
            history,
            applied: vec![0; shard_count],
            arrival_us: vec![0; shard_count],
            agents,
            quotas,
            hands: Hands::default(),
            is_let_go: false,
        }
    }

    /// What holds by what control said last.
    pub(crate) fn records(&self) -> &Records {
        &self.history.last().expect("a run with channels has records").0
    }

    /// What a shard knows.
    fn applied(&self, shard: usize) -> &Records {
        &self.history[self.applied[shard]].0
    }

    /// Whether a shard knows that an agent is revoked.
    pub(crate) fn knows_as_revoked(&self, shard: usize, agent: usize) -> bool {
        self.applied(shard).is_revoked(agent)
    }

    /// What was ever said.
    pub(crate) fn ever(&self, holds: impl Fn(&Records) -> bool) -> bool {
        self.history.iter().any(|(records, _)| holds(records))
    }

    /// The agents and channels that a node starts with.
    pub(crate) fn snapshot(&self, pool: &Pool) -> Arc<Snapshot> {
        self.history.last().map_or(&pool.snapshot, |(_, snapshot)| snapshot).clone()
    }

    /// The node stops: nobody has anything any more.
    pub(crate) fn stops(&mut self) {
        self.hands = Hands::default();
    }

    /// The node starts with the newest snapshot.
    pub(crate) fn starts(&mut self, now_us: u64) {
        self.applied.fill(self.history.len().saturating_sub(1));
        self.arrival_us.fill(now_us);
    }
}

impl World<'_> {
    pub(crate) fn channels_begin(&mut self) {
        if !self.channels.is_on {
            return;
        }
        self.model.channels.retention_s_min = *self.channels.records().retention_s.iter().min().expect("two channels");
        for agent in 0..CHANNEL_AGENTS {
            let delay_us = self.channels.random.between(0, 5_000);
            self.clock.after(delay_us, Step::ChannelAgent { agent });
            for channel in 0..CHANNELS {
                self.note_who_may_not(agent + AGENTS, channel);
            }
        }
        self.change_later();
    }

    fn change_later(&mut self) {
        let delay_us = self.channels.random.between(2_000, 60_000);
        self.clock.after(delay_us, Step::ChannelChange);
    }

    fn note_who_may_not(&mut self, agent: usize, channel: usize) {
        let records = self.channels.records();
        if !records.may_read(agent, channel) {
            self.model.channels.denied.insert((channel, agent));
        }
        if records.is_void(agent) {
            self.model.channels.void.insert(agent);
        }
    }

    /// A record changes, or an agent is revoked: control tells each shard in its time.
    pub(crate) fn channel_change(&mut self) -> Checked {
        if self.is_healing {
            return Ok(());
        }
        self.change_later();
        let mut records = self.channels.records().clone();
        let (random, quotas) = (&mut self.channels.random, &self.channels.quotas);
        let fault = match random.below(12) {
            0 if !records.is_deleted.contains(&true) => {
                records.is_deleted[random.index(CHANNELS)] = true;
                Fault::ChannelDeletion
            }
            1 | 2 if records.revoked.is_none() => {
                let agent = AGENTS + random.index(CHANNEL_AGENTS);
                // Of what it signed everything is void, or nothing.
                records.revoked = Some((agent, START_MS + u64::from(!random.one_in(3))));
                Fault::Revocation
            }
            3 | 4 if self.patterns.is_on && !records.outsider_is_revoked => {
                records.outsider_is_revoked = true;
                self.model.patterns.is_outsider_revoked = true;
                Fault::Revocation
            }
            3 | 4 => {
                records.messages_max[random.index(CHANNELS)] = random.pick(quotas);
                Fault::RecordChange
            }
            _ => {
                let agent = AGENTS + random.index(CHANNEL_AGENTS);
                if agent != AGENTS && !records.listed.remove(&agent) {
                    records.listed.insert(agent);
                }
                Fault::RecordChange
            }
        };
        self.faults.add(fault);
        let place = self.channels.history.len();
        self.note(|| format!("control says {records:?}"));
        let snapshot = records.snapshot(self.pool, place as u64 + 1);
        self.channels.history.push((records, snapshot));
        for agent in AGENTS..AGENTS + CHANNEL_AGENTS {
            (0..CHANNELS).for_each(|channel| self.note_who_may_not(agent, channel));
        }
        if !self.node.is_up {
            return Ok(());
        }
        for shard in 0..self.profile.shard_count {
            let delay_us = self.channels.random.between(1, 5_000);
            let arrival_us = self.channels.arrival_us[shard].max(self.clock.now_us() + delay_us);
            self.channels.arrival_us[shard] = arrival_us;
            self.clock.at(arrival_us, Step::Snapshot { life: self.node.life, shard, place });
        }
        Ok(())
    }

    /// A shard does not know a connection any more.
    pub(crate) fn link_is_gone(&mut self, link: LinkNumber) {
        let now_us = self.clock.now_us();
        self.links[link].node_side.gone_us = now_us;
        self.channels.hands.release_all(link, now_us);
    }

    /// A shard hears what control said.
    pub(crate) fn snapshot_arrives(&mut self, shard: usize, place: usize) -> Checked {
        // The node may have started with it, or a newer one.
        if place <= self.channels.applied[shard] {
            return Ok(());
        }
        self.note(|| format!("shard {shard} hears what control said as number {place}"));
        self.channels.applied[shard] = place;
        let now_us = self.clock.now_us();
        let ended: Vec<Seat> = self
            .channels
            .hands
            .seats
            .iter()
            .filter(|((cursor, agent), _)| {
                let is_here = self.channel_owner(cursor.channel) == shard;
                is_here && !self.channels.applied(shard).may_read(*agent, cursor.channel)
            })
            .map(|(_, seat)| *seat)
            .collect();
        ended.into_iter().for_each(|seat| self.channels.hands.release(seat, now_us));
        if self.channels.history[place].0.outsider_is_revoked {
            self.outsider_signals_once_more();
        }
        let snapshot = self.channels.history[place].1.clone();
        self.shard_event(shard, Event::Snapshot(snapshot))
    }

    /// The shard of a channel.
    pub(crate) fn channel_owner(&self, channel: usize) -> usize {
        self.pool.owner(crate::pool::Recipient::Channel(channel), self.profile.shard_count)
    }
}
