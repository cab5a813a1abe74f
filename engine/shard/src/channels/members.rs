//! Who subscribes to the channels of this shard, durably, and which publishers are told of it.
//!
//! What changes is told in the order of the log: a join before the outcome of any message behind it, over the same ring and on the
//! same stream.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;

use bytes::Bytes;
use creto_envelope::channel::frames::{CHANNEL_MEMBERS_TOLD_MAX, ChannelMembers};
use creto_envelope::{AgentId, ChannelId, GroupId};
use creto_store::Mailboxes;

use super::readers::Subscribed;
use crate::route::Origin;

/// What the log says of a subscription.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum MemberChange {
    Joined(Subscribed),
    Left(Subscribed),
}

/// A connection that wants to know who subscribes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Watcher {
    pub(crate) agent: AgentId,
    /// The epoch under which it may publish.
    pub(crate) allowed_epoch: u64,
}

/// One channel.
#[derive(Debug, Default)]
struct Topic {
    /// Counts changes.
    version: u64,
    subscriptions: BTreeSet<(AgentId, GroupId)>,
    watchers: BTreeMap<Origin, Watcher>,
    /// The frame with all of them, as long as nobody comes or goes: many publishers may ask at a time.
    whole: Option<Bytes>,
    /// Who came and went in this turn. Who is in both went and came again: what they held of keys may be gone with the folder.
    joined: BTreeSet<AgentId>,
    left: BTreeSet<AgentId>,
}

/// All channels of the shard that somebody subscribes to, or is told of.
#[derive(Debug, Default)]
pub(crate) struct Members {
    topics: BTreeMap<ChannelId, Topic>,
    changed: BTreeSet<ChannelId>,
    subscription_count: u64,
}

/// News of a channel's members, for whoever watches.
pub(crate) struct MembersNews {
    pub(crate) channel: ChannelId,
    pub(crate) frame: Bytes,
    pub(crate) watchers: Vec<(Origin, Watcher)>,
}

impl Topic {
    fn has(&self, agent: AgentId) -> bool {
        let from = (agent, GroupId::NONE);
        self.subscriptions.range(from..).next().is_some_and(|(first, _)| *first == agent)
    }

    fn is_needed(&self) -> bool {
        !self.subscriptions.is_empty() || !self.watchers.is_empty()
    }

    fn whole(&mut self, channel: ChannelId) -> Bytes {
        if let Some(frame) = &self.whole {
            return frame.clone();
        }
        let mut joined: Vec<AgentId> = self.subscriptions.iter().map(|(agent, _)| *agent).collect();
        joined.dedup();
        // The log takes no more subscribers than that.
        joined.truncate(CHANNEL_MEMBERS_TOLD_MAX);
        let members = ChannelMembers { channel, version: self.version, is_whole: true, joined, left: Vec::new() };
        self.whole.insert(encoded(&members)).clone()
    }
}

fn encoded(members: &ChannelMembers) -> Bytes {
    let mut out = Vec::new();
    members.encode(&mut out);
    out.into()
}

impl Members {
    /// What recovery found.
    pub(crate) fn of(mailboxes: &Mailboxes) -> Self {
        let mut members = Self::default();
        for (channel, group, subscriber) in mailboxes.all_subscribers() {
            let (channel, agent, group) = (ChannelId(channel.0), AgentId(subscriber.0), GroupId(group.0));
            let topic = members.topics.entry(channel).or_default();
            members.subscription_count += u64::from(topic.subscriptions.insert((agent, group)));
        }
        members
    }

    /// How many subscriptions there are, each member of a group counted.
    pub(crate) fn subscription_count(&self) -> u64 {
        self.subscription_count
    }

    /// Takes what the log says, in its order.
    pub(crate) fn take(&mut self, change: MemberChange) {
        let (MemberChange::Joined(what) | MemberChange::Left(what)) = change;
        let Subscribed { channel, agent, group } = what;
        let topic = self.topics.entry(channel).or_default();
        let was_member = topic.has(agent);
        match change {
            MemberChange::Joined(_) => {
                self.subscription_count += u64::from(topic.subscriptions.insert((agent, group)));
            }
            MemberChange::Left(_) => {
                self.subscription_count -= u64::from(topic.subscriptions.remove(&(agent, group)));
            }
        }
        match (was_member, topic.has(agent)) {
            (false, true) => drop(topic.joined.insert(agent)),
            // Whoever came and went in one turn was never told of.
            (true, false) if topic.joined.remove(&agent) => {}
            (true, false) => drop(topic.left.insert(agent)),
            _ => {}
        }
        self.changed.insert(channel);
    }

    /// What changed since this was asked last.
    pub(crate) fn take_news(&mut self) -> Vec<MembersNews> {
        let mut news = Vec::new();
        for channel in std::mem::take(&mut self.changed) {
            let Some(topic) = self.topics.get_mut(&channel) else { continue };
            let (joined, left) = (std::mem::take(&mut topic.joined), std::mem::take(&mut topic.left));
            if !joined.is_empty() || !left.is_empty() {
                topic.version += 1;
                topic.whole = None;
                if !topic.watchers.is_empty() {
                    let frame = if joined.len() + left.len() > CHANNEL_MEMBERS_TOLD_MAX {
                        // Who went and came is in the whole list as if nothing had been: it is said before.
                        let (version, left) =
                            (topic.version, left.into_iter().take(CHANNEL_MEMBERS_TOLD_MAX).collect());
                        let gone = ChannelMembers { channel, version, is_whole: false, joined: Vec::new(), left };
                        [encoded(&gone), topic.whole(channel)].concat().into()
                    } else {
                        let (joined, left) = (joined.into_iter().collect(), left.into_iter().collect());
                        let version = topic.version;
                        encoded(&ChannelMembers { channel, version, is_whole: false, joined, left })
                    };
                    let watchers = topic.watchers.iter().map(|(origin, watcher)| (*origin, *watcher)).collect();
                    news.push(MembersNews { channel, frame, watchers });
                }
            }
            self.forget_if_idle(channel);
        }
        news
    }

    /// Somebody wants to know; returns all who subscribe.
    pub(crate) fn watch(&mut self, channel: ChannelId, origin: Origin, watcher: Watcher) -> Bytes {
        let topic = self.topics.entry(channel).or_default();
        topic.watchers.insert(origin, watcher);
        topic.whole(channel)
    }

    /// Somebody may still know under this epoch.
    pub(crate) fn still_watches(&mut self, channel: ChannelId, origin: Origin, allowed_epoch: u64) {
        let topic = self.topics.get_mut(&channel);
        if let Some(watcher) = topic.and_then(|topic| topic.watchers.get_mut(&origin)) {
            watcher.allowed_epoch = allowed_epoch;
        }
    }

    /// Somebody does not want to know any more, or may not.
    pub(crate) fn unwatch(&mut self, channel: ChannelId, origin: Origin) {
        if let Some(topic) = self.topics.get_mut(&channel) {
            topic.watchers.remove(&origin);
            if topic.watchers.is_empty() {
                topic.whole = None;
            }
            self.forget_if_idle(channel);
        }
    }

    /// The next subscriptions behind this one, in order, or the first ones; at most so many.
    pub(crate) fn after(&self, last: Option<&Subscribed>, most: usize) -> Vec<Subscribed> {
        let first = last.map_or(Bound::Unbounded, |last| Bound::Included(last.channel));
        let mut found = Vec::new();
        for (&channel, topic) in self.topics.range((first, Bound::Unbounded)) {
            let from = match last {
                Some(last) if last.channel == channel => Bound::Excluded((last.agent, last.group)),
                _ => Bound::Unbounded,
            };
            let rest = topic.subscriptions.range((from, Bound::Unbounded)).take(most - found.len());
            found.extend(rest.map(|&(agent, group)| Subscribed { channel, agent, group }));
            if found.len() == most {
                break;
            }
        }
        found
    }

    fn forget_if_idle(&mut self, channel: ChannelId) {
        if self.topics.get(&channel).is_some_and(|topic| !topic.is_needed()) {
            self.topics.remove(&channel);
        }
    }
}
