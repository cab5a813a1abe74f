//! One agent as a shard sees it: who it is, whether it may act, and every version of its keys.

use std::sync::Arc;

use creto_envelope::control::RotationMode;
use creto_envelope::{AgentId, AgentState, KeyId, RejectCode, SignedKeyRecord};

use crate::attributes::Attributes;
use crate::mailbox::{LowerRetention, MailboxLimits, MailboxSettings};

#[cfg(test)]
mod tests;

/// An organization inside one snapshot. Equal numbers mean the same organization of the same trust domain.
///
/// The number means nothing in a snapshot that another builder made.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct OrganizationId(pub(crate) u32);

/// One agent, with all versions of its key record. Cheap to clone: records and attributes are shared.
#[derive(Clone, Debug)]
pub struct Principal {
    agent: AgentId,
    organization: OrganizationId,
    state: AgentState,
    /// Since when what it signed is void, when it is revoked.
    revoked_at_ms: u64,
    // A copy of what every decision reads, so that it does not follow a pointer to a record of seven kilobytes.
    valid_from_ms: u64,
    valid_until_ms: u64,
    current_key: KeyId,
    mailbox: Mailbox,
    attributes: Arc<Attributes>,
    /// Never empty, versions strictly ascending: `SnapshotBuilder::insert` holds this.
    records: Arc<[VersionedRecord]>,
}

/// What is set for an agent's mailbox.
#[derive(Clone, Copy, Default, Debug)]
pub(crate) struct Mailbox {
    pub(crate) settings: MailboxSettings,
    pub(crate) lower: LowerRetention,
}

/// One version of an agent's key record, and what became of its encryption key.
#[derive(Clone, Debug)]
pub struct KeyVersion {
    /// The record.
    pub record: Arc<SignedKeyRecord>,
    /// When and how the next version replaced it; `None` for the current one.
    pub replaced: Option<Replacement>,
}

impl From<Arc<SignedKeyRecord>> for KeyVersion {
    fn from(record: Arc<SignedKeyRecord>) -> Self {
        Self { record, replaced: None }
    }
}

/// How a version of a key record ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Replacement {
    /// When the next version took its place, by the node's clock, Unix milliseconds.
    pub at_ms: u64,
    /// Why.
    pub mode: RotationMode,
}

#[derive(Debug)]
struct VersionedRecord {
    version: u32,
    key: KeyId,
    /// Up to when, exclusive, messages that are sealed to this key are accepted; `u64::MAX` for the current one.
    accepted_until_ms: u64,
    replaced: Option<Replacement>,
    record: Arc<SignedKeyRecord>,
}

impl Principal {
    /// Which agent this is.
    #[must_use]
    pub fn agent(&self) -> AgentId {
        self.agent
    }

    /// The organization that its name begins with.
    #[must_use]
    pub fn organization(&self) -> OrganizationId {
        self.organization
    }

    /// Whether it may act, as control says: the state inside a record is only what it was when the record was made.
    #[must_use]
    pub fn state(&self) -> AgentState {
        self.state
    }

    /// Since when what it signed is void, Unix milliseconds; `None` unless it is revoked. What it signed before is as good as
    /// it was.
    #[must_use]
    pub fn revoked_at_ms(&self) -> Option<u64> {
        (self.state == AgentState::Revoked).then_some(self.revoked_at_ms)
    }

    /// Its type, roles and capabilities; shared by all agents of the snapshot that have the same.
    #[must_use]
    pub fn attributes(&self) -> &Arc<Attributes> {
        &self.attributes
    }

    /// What is set for its mailbox.
    #[must_use]
    pub fn mailbox_settings(&self) -> &MailboxSettings {
        &self.mailbox.settings
    }

    /// What its mailbox may hold at `now_ms`.
    #[must_use]
    pub fn mailbox_limits(&self, now_ms: u64) -> MailboxLimits {
        MailboxLimits::new(&self.mailbox.settings, self.mailbox.lower, now_ms)
    }

    /// The newest key record.
    #[must_use]
    pub fn current(&self) -> &Arc<SignedKeyRecord> {
        &self.newest().record
    }

    /// The version of the newest key record.
    #[must_use]
    pub fn current_version(&self) -> u32 {
        self.newest().version
    }

    /// The key record of `version`, if this agent ever had it.
    #[must_use]
    pub fn key_record(&self, version: u32) -> Option<&Arc<SignedKeyRecord>> {
        let index = self.records.binary_search_by_key(&version, |known| known.version).ok()?;
        Some(&self.records[index].record)
    }

    /// The key record of `version`, if what it signs counts at `now_ms`.
    ///
    /// # Errors
    /// [`RejectCode::UnknownKeyVersion`], [`RejectCode::KeyNotYetValid`] or [`RejectCode::KeyExpired`].
    pub fn valid_key_record(&self, version: u32, now_ms: u64) -> Result<&Arc<SignedKeyRecord>, RejectCode> {
        let signed = self.key_record(version).ok_or(RejectCode::UnknownKeyVersion)?;
        check_validity(signed.record.valid_from_ms, signed.record.valid_until_ms, now_ms)?;
        Ok(signed)
    }

    /// Whether a message that is sealed to this key is accepted at `now_ms`: it is the current key, or one that was
    /// replaced less than the grace period ago and that no emergency has ended.
    ///
    /// The answer changes with time alone, so it is given anew for every message: a [`DecisionTable`](crate::DecisionTable)
    /// knows nothing of keys.
    #[must_use]
    pub fn accepts_key(&self, key: &KeyId, now_ms: u64) -> bool {
        self.current_key == *key || self.accepted_until_ms(key).is_some_and(|until_ms| now_ms < until_ms)
    }

    /// Whether a message that is sealed to a prekey of this version of the key record is accepted at `now_ms`: whenever one to
    /// the version's own encryption key is.
    #[must_use]
    pub fn accepts_version(&self, version: u32, now_ms: u64) -> bool {
        let index = self.records.binary_search_by_key(&version, |known| known.version);
        index.is_ok_and(|index| now_ms < self.records[index].accepted_until_ms || version == self.current_version())
    }

    /// Up to when, exclusive, messages that are sealed to this key are accepted: `u64::MAX` for the current key, `None`
    /// for one that the agent never had.
    #[must_use]
    pub fn accepted_until_ms(&self, key: &KeyId) -> Option<u64> {
        // The newest first: what is still in use was replaced not long ago.
        self.records.iter().rev().find(|known| known.key == *key).map(|known| known.accepted_until_ms)
    }

    /// Whether it may act at `now_ms`: it is active and its current keys are valid.
    ///
    /// # Errors
    /// [`RejectCode::AgentSuspended`], [`RejectCode::AgentRevoked`], [`RejectCode::KeyNotYetValid`] or
    /// [`RejectCode::KeyExpired`].
    pub fn may_act(&self, now_ms: u64) -> Result<(), RejectCode> {
        match self.state {
            AgentState::Active => check_validity(self.valid_from_ms, self.valid_until_ms, now_ms),
            AgentState::Suspended => Err(RejectCode::AgentSuspended),
            AgentState::Revoked => Err(RejectCode::AgentRevoked),
        }
    }

    /// The next moment after `now_ms` at which the current keys begin or cease to be valid.
    pub(crate) fn next_validity_change_ms(&self, now_ms: u64) -> u64 {
        [self.valid_from_ms, self.valid_until_ms]
            .into_iter()
            .filter(|&edge_ms| edge_ms > now_ms)
            .min()
            .unwrap_or(u64::MAX)
    }

    /// `versions` is not empty, all of `agent`, with versions that strictly ascend.
    pub(crate) fn new(
        agent: AgentId,
        organization: OrganizationId,
        state: AgentState,
        attributes: Arc<Attributes>,
        versions: Vec<KeyVersion>,
        grace_ms: u64,
    ) -> Self {
        let newest = versions.len() - 1;
        let mut records: Vec<_> = versions
            .into_iter()
            .enumerate()
            .map(|(index, KeyVersion { record, replaced })| VersionedRecord {
                version: record.record.version,
                key: record.record.key_id(),
                accepted_until_ms: match replaced {
                    _ if index == newest => u64::MAX,
                    Some(Replacement { at_ms, mode: RotationMode::Planned }) => at_ms.saturating_add(grace_ms),
                    // Nobody knows when a key without a time was replaced: no reason for yes.
                    Some(Replacement { mode: RotationMode::Emergency, .. }) | None => 0,
                },
                replaced,
                record,
            })
            .collect();
        // An emergency ends every key before it, whatever is left of its grace period.
        if let Some(last) = records.iter().rposition(|known| known.accepted_until_ms == 0) {
            records[..last].iter_mut().for_each(|known| known.accepted_until_ms = 0);
        }
        let records: Arc<[VersionedRecord]> = records.into();
        assert!(records.is_sorted_by(|a, b| a.version < b.version), "key record versions strictly ascend");
        let newest = records.last().expect("a principal has at least one key record");
        let (valid_from_ms, valid_until_ms) = (newest.record.record.valid_from_ms, newest.record.record.valid_until_ms);
        let mailbox = Mailbox::default();
        let current_key = newest.key;
        Self {
            agent,
            organization,
            state,
            revoked_at_ms: 0,
            valid_from_ms,
            valid_until_ms,
            current_key,
            mailbox,
            attributes,
            records,
        }
    }

    /// Its versions, oldest first.
    pub(crate) fn versions(&self) -> impl DoubleEndedIterator<Item = KeyVersion> + ExactSizeIterator {
        self.records.iter().map(|known| KeyVersion { record: Arc::clone(&known.record), replaced: known.replaced })
    }

    pub(crate) fn mailbox(&self) -> Mailbox {
        self.mailbox
    }

    pub(crate) fn set_mailbox(&mut self, mailbox: Mailbox) {
        self.mailbox = mailbox;
    }

    pub(crate) fn set_attributes(&mut self, attributes: Arc<Attributes>) {
        self.attributes = attributes;
    }

    pub(crate) fn set_state(&mut self, state: AgentState, revoked_at_ms: u64) {
        self.state = state;
        self.revoked_at_ms = revoked_at_ms;
    }

    /// Everything that a decision can depend on, as one number.
    pub(crate) fn fingerprint(&self) -> u64 {
        let [a, b] = self.agent.0.as_chunks::<8>().0 else { unreachable!("an agent id is two times eight bytes") };
        let state_and_version = u64::from(self.state as u8) << 32 | u64::from(self.current_version());
        [
            u64::from_le_bytes(*a),
            u64::from_le_bytes(*b),
            u64::from(self.organization.0),
            state_and_version,
            self.valid_from_ms,
            self.valid_until_ms,
            self.attributes.digest(),
            self.revoked_at_ms,
        ]
        .into_iter()
        .fold(0, mix)
    }

    fn newest(&self) -> &VersionedRecord {
        self.records.last().expect("a principal has at least one key record")
    }
}

fn check_validity(from_ms: u64, until_ms: u64, now_ms: u64) -> Result<(), RejectCode> {
    // The end decides first: a record whose window is empty is never valid, whatever the clock says.
    if now_ms >= until_ms {
        Err(RejectCode::KeyExpired)
    } else if now_ms < from_ms {
        Err(RejectCode::KeyNotYetValid)
    } else {
        Ok(())
    }
}

/// Folds `value` into `seed`: the two halves of a full product depend on every bit of both.
pub(crate) fn mix(seed: u64, value: u64) -> u64 {
    let product = u128::from(seed ^ 0x9e37_79b9_7f4a_7c15) * u128::from(value ^ 0xd6e8_feb8_6659_fd93);
    let halves = product.to_le_bytes();
    let [low, high] = halves.as_chunks::<8>().0 else { unreachable!("sixteen bytes are two times eight") };
    u64::from_le_bytes(*low) ^ u64::from_le_bytes(*high)
}
