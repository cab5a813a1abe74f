//! The state of control at one epoch, immutable, shared by all shards.

use std::collections::BTreeMap;
use std::sync::Arc;

use creto_envelope::channel::ChannelRecord;
use creto_envelope::{AgentId, AgentName, AgentState, ChannelId, SignedKeyRecord, TrustDomain};
use thiserror::Error;

use crate::attributes::Attributes;
use crate::channel::Channel;
use crate::id_map::IdMap;
use crate::mailbox::{LowerRetention, MailboxSettings};
use crate::principal::{Identity, KeyVersion, Mailbox, OrganizationId, Principal, Replacement, mix};
use crate::shared::Shared;
use crate::source::{Input, PolicySource};

#[cfg(test)]
mod tests;

/// Which agents may do what to which, in the form that a decision evaluates.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Policy {
    /// Agents of one organization may talk to each other and look each other up; nobody else. What holds when nothing is
    /// configured.
    SameOrganization,
    /// What an operator wrote.
    Loaded(Arc<dyn PolicySource>),
    /// What an operator wrote cannot be loaded, and the configuration says that everybody may do everything until it can.
    FailOpen,
}

impl Policy {
    /// A number that differs when a decision can.
    fn fingerprint(&self) -> u64 {
        match self {
            Self::SameOrganization => 1,
            Self::FailOpen => 2,
            Self::Loaded(source) => {
                source.digest().as_chunks::<8>().0.iter().fold(3, |seed, word| mix(seed, u64::from_le_bytes(*word)))
            }
        }
    }
}

/// Agents, keys, channels and policy at one epoch.
///
/// A snapshot never changes. Whatever changes in control makes a new one with a higher epoch.
#[derive(Clone, Debug)]
pub struct Snapshot {
    epoch: u64,
    fingerprint: u64,
    policy: Option<Policy>,
    agents: IdMap<Principal>,
    channels: IdMap<Arc<Channel>>,
}

impl Snapshot {
    /// What a shard starts with: epoch 0, nobody is known, no policy is loaded and every decision is a deny.
    #[must_use]
    pub fn empty() -> Self {
        Self { epoch: 0, fingerprint: 0, policy: None, agents: IdMap::default(), channels: IdMap::default() }
    }

    /// Counts the changes of control, from 1. Zero is [`Snapshot::empty`].
    #[must_use]
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// The agent with this id.
    #[must_use]
    pub fn principal(&self, agent: &AgentId) -> Option<&Principal> {
        self.agents.get(&agent.0)
    }

    /// How many agents there are, whatever their state.
    #[must_use]
    pub fn agent_count(&self) -> usize {
        self.agents.len()
    }

    /// The channel with this id; a deleted one is none.
    #[must_use]
    pub fn channel(&self, channel: &ChannelId) -> Option<&Arc<Channel>> {
        self.channels.get(&channel.0)
    }

    /// How many channels there are.
    #[must_use]
    pub fn channel_count(&self) -> usize {
        self.channels.len()
    }

    /// The channels behind this one, or all, in an order that depends on their ids alone: it is the same in every snapshot.
    pub fn channels_after(&self, last: Option<&ChannelId>) -> impl Iterator<Item = &Arc<Channel>> {
        self.channels.after(last.map(|last| &last.0)).map(|(_, channel)| channel)
    }

    /// A place in that order behind this channel, the same for many that stand together: it says nothing of which these are.
    #[must_use]
    pub fn channels_until(channel: &ChannelId) -> ChannelId {
        ChannelId(crate::id_map::end_of_part(&channel.0))
    }

    /// Whether these are the channels and the policy of `other`. `false` when in doubt, as between snapshots of two builders.
    #[must_use]
    pub fn has_channels_and_policy_of(&self, other: &Self) -> bool {
        let policy = |of: &Self| of.policy.as_ref().map(Policy::fingerprint);
        policy(self) == policy(other) && self.channels.is_shared_with(&other.channels)
    }

    /// The policy, if one is loaded.
    #[must_use]
    pub fn policy(&self) -> Option<&Policy> {
        self.policy.as_ref()
    }

    /// Whether the policy reads how many messages a sender sent recently: then it is asked for each message anew.
    #[must_use]
    pub fn reads_recent_messages(&self) -> bool {
        matches!(&self.policy, Some(Policy::Loaded(source)) if source.reads().has(Input::RecentMessages))
    }

    /// Whether everything is allowed because no policy could be loaded: then each use is counted.
    #[must_use]
    pub fn is_fail_open(&self) -> bool {
        matches!(self.policy, Some(Policy::FailOpen))
    }

    /// The agents that are not in `before` as they are here, and the ids of those that are only there: `None`. All of them since
    /// [`Snapshot::empty`]. Two snapshots of one builder are compared where they differ; those of two, agent by agent.
    ///
    /// In no order, and not for decisions: for whoever hands a snapshot on.
    pub fn changes_since<'s>(
        &'s self,
        before: &'s Self,
    ) -> impl Iterator<Item = (AgentId, Option<&'s Principal>)> + use<'s> {
        self.agents.changes_since(&before.agents).map(|(id, principal)| (AgentId(id), principal))
    }

    /// As [`Snapshot::changes_since`], of channels: the records that are not in `before` as they are here, and the ids of channels that are
    /// only there.
    pub fn channel_changes_since<'s>(
        &'s self,
        before: &'s Self,
    ) -> impl Iterator<Item = (ChannelId, Option<&'s Channel>)> + use<'s> {
        let changes = self.channels.changes_since(&before.channels);
        changes.map(|(id, channel)| (ChannelId(id), channel.map(Arc::as_ref)))
    }

    /// Whether this snapshot may deny what `before` allowed: another policy or none, or an agent or a channel of `before` that is not
    /// as it was. What is new in a directory takes nothing from anybody. `true` when in doubt, as between snapshots of two builders; it
    /// takes no longer than some hundred microseconds.
    #[must_use]
    pub fn may_take_away_since(&self, before: &Self) -> bool {
        let policy = |of: &Self| of.policy.as_ref().map(Policy::fingerprint);
        policy(self) != policy(before)
            || self.agents.replaces_some_of(&before.agents)
            || self.channels.replaces_some_of(&before.channels)
    }

    /// What a shard goes by when nobody can say any more whether this snapshot still holds: the same agents and channels under the
    /// same epoch, and no policy, so that everything is denied, in channels, too.
    ///
    /// Its epoch is that of a snapshot that allowed something: whoever keeps an answer by its epoch must look at the policy, too.
    #[must_use]
    pub fn lapsed(&self) -> Self {
        // Another stamp: nothing that was decided while it held may be answered from memory.
        Self { policy: None, fingerprint: mix(self.fingerprint, LAPSED), ..self.clone() }
    }

    /// Epoch, and a digest of all that decisions read: both key record versions of any pair, and the record of any channel, are in it.
    ///
    /// The epoch alone would do if every builder counted it right. The digest makes a table that meets two snapshots
    /// under one epoch start afresh instead of answering from the wrong one.
    pub(crate) fn stamp(&self) -> (u64, u64) {
        (self.epoch, self.fingerprint)
    }
}

/// Makes the fingerprint of a snapshot that lapsed another one.
const LAPSED: u64 = 0x6c61_7073_6564;

/// Why an agent cannot be part of a snapshot.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
#[non_exhaustive]
pub enum PrincipalError {
    /// an agent without a key record; give at least one
    #[error("an agent without a key record; give at least one")]
    NoRecord,
    /// key records of two agents; insert each agent by itself
    #[error("key records of the agents {0} and {1}; insert each agent by itself")]
    MixedAgents(AgentId, AgentId),
    /// key record versions that do not ascend; give each version once, oldest first
    #[error("key record version {1} follows version {0}; give each version once, oldest first")]
    VersionOrder(u32, u32),
}

/// How long a replaced encryption key is accepted unless it is set otherwise: 7 days.
pub const KEY_GRACE_MS: u64 = 7 * 86_400_000;

/// Collects agents, channels and policy, and makes snapshots of them. It may be kept and built from again and again.
#[derive(Clone, Debug)]
pub struct SnapshotBuilder {
    policy: Option<Policy>,
    key_grace_ms: u64,
    agents: IdMap<Principal>,
    channels: IdMap<Arc<Channel>>,
    /// Agents that the channels' records list.
    listed_count: u64,
    /// Of the fingerprints of all agents and channels: a sum, because it does not depend on their order, and changes with one of them.
    fingerprint: u64,
    organizations: BTreeMap<TrustDomain, BTreeMap<String, OrganizationId>>,
    organization_count: u32,
    attributes: Shared<Attributes>,
    mailboxes: Shared<Mailbox>,
}

impl Default for SnapshotBuilder {
    fn default() -> Self {
        Self {
            policy: None,
            key_grace_ms: KEY_GRACE_MS,
            agents: IdMap::default(),
            channels: IdMap::default(),
            listed_count: 0,
            fingerprint: 0,
            organizations: BTreeMap::default(),
            organization_count: 0,
            attributes: Shared::default(),
            mailboxes: Shared::default(),
        }
    }
}

impl SnapshotBuilder {
    /// Nobody, and no policy.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Nobody, and `policy`.
    #[must_use]
    pub fn with_policy(policy: Policy) -> Self {
        Self { policy: Some(policy), ..Self::default() }
    }

    /// Sets the policy; `None` unloads it, and then everything is denied.
    pub fn set_policy(&mut self, policy: Option<Policy>) {
        self.policy = policy;
    }

    /// How long a replaced encryption key is accepted, for agents that are inserted from now on.
    pub fn set_key_grace_ms(&mut self, key_grace_ms: u64) {
        self.key_grace_ms = key_grace_ms;
    }

    /// Adds an agent with versions of its key record, oldest first, or replaces the one with the same id. Nobody knows
    /// when the older ones were replaced, so messages are accepted for the newest key only.
    ///
    /// # Errors
    /// As [`SnapshotBuilder::insert_versions`], and [`PrincipalError::MixedAgents`].
    pub fn insert(&mut self, state: AgentState, records: Vec<Arc<SignedKeyRecord>>) -> Result<AgentId, PrincipalError> {
        let first = &records.first().ok_or(PrincipalError::NoRecord)?.record;
        let agent = first.agent_id();
        if let Some(other) = records.iter().map(|signed| signed.record.agent_id()).find(|other| *other != agent) {
            return Err(PrincipalError::MixedAgents(agent, other));
        }
        let versions = records.iter().map(|signed| KeyVersion::from(&signed.record)).collect();
        self.insert_versions(&first.trust_domain, &first.name, state, versions)
    }

    /// Adds an agent with all versions of its key record, oldest first, or replaces the one with the same id, whose mailbox
    /// and attributes stay as they are set. A new agent has the attributes of one for which none are set.
    ///
    /// The signatures on the records are taken as verified, and their signing keys as the same in all versions.
    ///
    /// # Errors
    /// [`PrincipalError::NoRecord`] and [`PrincipalError::VersionOrder`]; the builder is then as it was.
    pub fn insert_versions(
        &mut self,
        trust_domain: &TrustDomain,
        name: &AgentName,
        state: AgentState,
        versions: Vec<KeyVersion>,
    ) -> Result<AgentId, PrincipalError> {
        if versions.is_empty() {
            return Err(PrincipalError::NoRecord);
        }
        if let Some(pair) = versions.windows(2).find(|pair| pair[1].version <= pair[0].version) {
            return Err(PrincipalError::VersionOrder(pair[0].version, pair[1].version));
        }
        let agent = AgentId::derive(trust_domain, name);
        let organization = self.organization(trust_domain, name.organization());
        let known = self.agents.get(&agent.0);
        let identity = Identity {
            agent,
            name: name.clone(),
            organization,
            mailbox: match known {
                Some(known) => Arc::clone(known.mailbox()),
                None => self.mailboxes.share(Arc::default()),
            },
            attributes: match known {
                Some(known) => Arc::clone(known.attributes()),
                None => self.attributes.share(Arc::default()),
            },
        };
        let revoked_at_ms = known.and_then(Principal::revoked_at_ms).unwrap_or_default();
        let mut principal = Principal::new(identity, state, versions, self.key_grace_ms);
        if state == AgentState::Revoked {
            principal.set_state(state, revoked_at_ms);
        }
        self.put(principal);
        Ok(agent)
    }

    /// Gives an agent its next key record. Of the older ones the newest are kept, `versions_max` of all.
    ///
    /// # Errors
    /// [`PrincipalError`], when the agent is not known or the version is not newer; the builder is then as it was.
    pub fn replace_key(
        &mut self,
        agent: &AgentId,
        next: KeyVersion,
        replacement: Replacement,
        versions_max: usize,
    ) -> Result<(), PrincipalError> {
        let known = self.agents.get(&agent.0).ok_or(PrincipalError::NoRecord)?;
        if next.version <= known.current_version() {
            return Err(PrincipalError::VersionOrder(known.current_version(), next.version));
        }
        let skipped = (known.version_count() + 1).saturating_sub(versions_max);
        let mut versions: Vec<_> = known.versions().skip(skipped).collect();
        if let Some(last) = versions.last_mut() {
            last.replaced = Some(replacement);
        }
        versions.push(next);
        let identity = Identity {
            agent: *agent,
            name: known.name().clone(),
            organization: known.organization(),
            mailbox: Arc::clone(known.mailbox()),
            attributes: Arc::clone(known.attributes()),
        };
        let (state, revoked_at_ms) = (known.state(), known.revoked_at_ms().unwrap_or_default());
        let mut principal = Principal::new(identity, state, versions, self.key_grace_ms);
        principal.set_state(state, revoked_at_ms);
        self.put(principal);
        Ok(())
    }

    fn organization(&mut self, trust_domain: &TrustDomain, name: &str) -> OrganizationId {
        // Looked for first: a directory has far fewer organizations than agents, and what is there costs no memory.
        if let Some(known) = self.organizations.get(trust_domain).and_then(|organizations| organizations.get(name)) {
            return *known;
        }
        let new = OrganizationId(self.organization_count);
        self.organization_count = new.0.checked_add(1).expect("fewer than four billion organizations fit in memory");
        self.organizations.entry(trust_domain.clone()).or_default().insert(name.to_owned(), new);
        new
    }

    /// Sets what an agent's mailbox may hold. Returns whether the agent is known.
    pub fn set_mailbox(&mut self, agent: &AgentId, settings: MailboxSettings, lower: LowerRetention) -> bool {
        if self.agents.get(&agent.0).is_none() {
            return false;
        }
        let mailbox = self.mailboxes.share(Arc::new(Mailbox { settings, lower }));
        self.change(agent, |principal| principal.set_mailbox(mailbox))
    }

    /// Sets an agent's attributes. Returns whether the agent is known.
    pub fn set_attributes(&mut self, agent: &AgentId, attributes: Arc<Attributes>) -> bool {
        if self.agents.get(&agent.0).is_none() {
            return false;
        }
        let attributes = self.attributes.share(attributes);
        self.change(agent, |principal| principal.set_attributes(attributes))
    }

    /// Changes whether an agent may act. Returns whether the agent is known. Nobody knows when one that is revoked was: all that
    /// it ever signed is void ([`SnapshotBuilder::revoke`] says since when).
    pub fn set_state(&mut self, agent: &AgentId, state: AgentState) -> bool {
        self.change(agent, |principal| principal.set_state(state, 0))
    }

    /// Revokes an agent: it may not act any more, and what it signed after `at_ms`, Unix milliseconds, is void. Returns
    /// whether the agent is known.
    pub fn revoke(&mut self, agent: &AgentId, at_ms: u64) -> bool {
        self.change(agent, |principal| principal.set_state(AgentState::Revoked, at_ms))
    }

    /// Forgets an agent. Returns whether it was known.
    pub fn remove(&mut self, agent: &AgentId) -> bool {
        let removed = self.agents.remove(&agent.0);
        if let Some(removed) = &removed {
            self.fingerprint = self.fingerprint.wrapping_sub(removed.fingerprint());
        }
        removed.is_some()
    }

    fn put(&mut self, principal: Principal) {
        let fingerprint = principal.fingerprint();
        let before = self.agents.insert(principal.agent().0, principal);
        let before = before.as_ref().map_or(0, Principal::fingerprint);
        self.fingerprint = self.fingerprint.wrapping_sub(before).wrapping_add(fingerprint);
    }

    /// Returns whether the agent is known.
    fn change(&mut self, agent: &AgentId, change: impl FnOnce(&mut Principal)) -> bool {
        let Some(principal) = self.agents.get_mut(&agent.0) else { return false };
        let before = principal.fingerprint();
        change(principal);
        self.fingerprint = self.fingerprint.wrapping_sub(before).wrapping_add(principal.fingerprint());
        true
    }

    /// Adds a channel, or replaces the one with the same id; a record that says that it is deleted removes it. Its owner's signatures
    /// are taken as verified. Returns its id.
    pub fn insert_channel(&mut self, record: ChannelRecord) -> ChannelId {
        let id = record.channel_id();
        self.remove_channel(&id);
        if !record.is_deleted {
            let organization = self.organization(&record.trust_domain, record.name.organization());
            let channel = Channel::new(id, organization, record);
            self.fingerprint = self.fingerprint.wrapping_add(channel.fingerprint());
            self.listed_count += channel.listed_count();
            self.channels.insert(id.0, Arc::new(channel));
        }
        id
    }

    /// Forgets a channel. Returns whether it was known.
    pub fn remove_channel(&mut self, channel: &ChannelId) -> bool {
        let removed = self.channels.remove(&channel.0);
        if let Some(removed) = &removed {
            self.fingerprint = self.fingerprint.wrapping_sub(removed.fingerprint());
            self.listed_count -= removed.listed_count();
        }
        removed.is_some()
    }

    /// How many channels there are.
    #[must_use]
    pub fn channel_count(&self) -> usize {
        self.channels.len()
    }

    /// How many agents the records of all channels list together.
    #[must_use]
    pub fn listed_count(&self) -> u64 {
        self.listed_count
    }

    /// The agent with this id, as the next snapshot will hold it.
    #[must_use]
    pub fn principal(&self, agent: &AgentId) -> Option<&Principal> {
        self.agents.get(&agent.0)
    }

    /// How many agents there are, whatever their state.
    #[must_use]
    pub fn agent_count(&self) -> usize {
        self.agents.len()
    }

    /// Makes a snapshot, which shares everything with this until it is changed: it takes as long for many agents as for few.
    /// `epoch` is above zero and above that of every earlier snapshot with other content.
    #[must_use]
    pub fn build(&self, epoch: u64) -> Snapshot {
        assert!(epoch > 0, "epoch 0 is the empty snapshot's");
        let policy = self.policy.as_ref().map_or(0, Policy::fingerprint);
        Snapshot {
            epoch,
            fingerprint: mix(mix(0, policy), self.fingerprint),
            policy: self.policy.clone(),
            agents: self.agents.clone(),
            channels: self.channels.clone(),
        }
    }
}
