//! One agent as a shard sees it: who it is, whether it may act, and which versions of its keys count until when.
//!
//! The keys themselves are not here: a record has seven kilobytes, and a directory a million agents. Whoever needs one asks
//! whoever keeps them.

use std::sync::Arc;

use creto_envelope::control::RotationMode;
use creto_envelope::{AgentId, AgentName, AgentState, KeyId, KeyRecord, RejectCode};

use crate::attributes::Attributes;
use crate::mailbox::{LowerRetention, MailboxLimits, MailboxSettings};

#[cfg(test)]
mod tests;

/// An organization inside one snapshot. Equal numbers mean the same organization of the same trust domain.
///
/// The number means nothing in a snapshot that another builder made.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct OrganizationId(pub(crate) u32);

/// One agent, with what decisions and checks of validity read of all versions of its key record: never a key. Cheap to clone:
/// what several agents have alike is shared.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Principal {
    agent: AgentId,
    name: AgentName,
    organization: OrganizationId,
    state: AgentState,
    /// Since when what it signed is void, when it is revoked.
    revoked_at_ms: u64,
    current: Current,
    mailbox: Arc<Mailbox>,
    attributes: Arc<Attributes>,
    /// Those before the current one, versions strictly ascending and below it. Empty, without any memory, for most agents.
    older: Arc<[Older]>,
}

// A directory holds a million of these; the name is beside it.
const _: () = assert!(size_of::<Principal>() <= 128);

/// The newest version. Here, and not behind a pointer: every decision reads it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Current {
    key: KeyId,
    valid_from_ms: u64,
    valid_until_ms: u64,
    version: u32,
    has_fn_dsa_512: bool,
}

/// A version that was replaced.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Older {
    known: KeyVersion,
    /// Up to when, exclusive, messages that are sealed to its key are accepted.
    accepted_until_ms: u64,
}

/// What is set for an agent's mailbox.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Debug)]
pub(crate) struct Mailbox {
    pub(crate) settings: MailboxSettings,
    pub(crate) lower: LowerRetention,
}

/// What a snapshot knows of one version of an agent's key record: everything but the keys.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct KeyVersion {
    /// The version.
    pub version: u32,
    /// Id of its encryption key.
    pub key: KeyId,
    /// Start of its validity, Unix milliseconds.
    pub valid_from_ms: u64,
    /// End of its validity, exclusive, Unix milliseconds.
    pub valid_until_ms: u64,
    /// Whether it demands a third signature.
    pub has_fn_dsa_512: bool,
    /// When and how the next version replaced it; `None` for the current one.
    pub replaced: Option<Replacement>,
}

impl From<&KeyRecord> for KeyVersion {
    fn from(record: &KeyRecord) -> Self {
        Self {
            version: record.version,
            key: record.key_id(),
            valid_from_ms: record.valid_from_ms,
            valid_until_ms: record.valid_until_ms,
            has_fn_dsa_512: record.fn_dsa_512.is_some(),
            replaced: None,
        }
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

impl Principal {
    /// Which agent this is.
    #[must_use]
    pub fn agent(&self) -> AgentId {
        self.agent
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &AgentName {
        &self.name
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

    /// A retention of its mailbox that was lower not long ago.
    #[must_use]
    pub fn lower_retention(&self) -> LowerRetention {
        self.mailbox.lower
    }

    /// What its mailbox may hold at `now_ms`.
    #[must_use]
    pub fn mailbox_limits(&self, now_ms: u64) -> MailboxLimits {
        MailboxLimits::new(&self.mailbox.settings, self.mailbox.lower, now_ms)
    }

    /// The version of the newest key record.
    #[must_use]
    pub fn current_version(&self) -> u32 {
        self.current.version
    }

    /// What is known of the newest version of the key record.
    #[must_use]
    pub fn current(&self) -> KeyVersion {
        self.current.into()
    }

    /// What is known of this version of the key record, if this agent ever had it.
    #[must_use]
    pub fn key_version(&self, version: u32) -> Option<KeyVersion> {
        if version == self.current.version {
            return Some(self.current.into());
        }
        self.older_version(version).map(|older| older.known)
    }

    /// The same, if what that version signs counts at `now_ms`.
    ///
    /// # Errors
    /// [`RejectCode::UnknownKeyVersion`], [`RejectCode::KeyNotYetValid`] or [`RejectCode::KeyExpired`].
    pub fn valid_key_version(&self, version: u32, now_ms: u64) -> Result<KeyVersion, RejectCode> {
        let known = self.key_version(version).ok_or(RejectCode::UnknownKeyVersion)?;
        check_validity(known.valid_from_ms, known.valid_until_ms, now_ms)?;
        Ok(known)
    }

    /// Whether a message that is sealed to this key is accepted at `now_ms`: it is the current key, or one that was
    /// replaced less than the grace period ago and that no emergency has ended.
    ///
    /// The answer changes with time alone, so it is given anew for every message: a [`DecisionTable`](crate::DecisionTable)
    /// knows nothing of keys.
    #[must_use]
    pub fn accepts_key(&self, key: &KeyId, now_ms: u64) -> bool {
        self.current.key == *key || self.accepted_until_ms(key).is_some_and(|until_ms| now_ms < until_ms)
    }

    /// Whether a message that is sealed to a prekey of this version of the key record is accepted at `now_ms`: whenever one to
    /// the version's own encryption key is.
    #[must_use]
    pub fn accepts_version(&self, version: u32, now_ms: u64) -> bool {
        version == self.current.version
            || self.older_version(version).is_some_and(|older| now_ms < older.accepted_until_ms)
    }

    /// Up to when, exclusive, messages that are sealed to this key are accepted: `u64::MAX` for the current key, `None`
    /// for one that the agent never had.
    #[must_use]
    pub fn accepted_until_ms(&self, key: &KeyId) -> Option<u64> {
        if self.current.key == *key {
            return Some(u64::MAX);
        }
        // The newest first: what is still in use was replaced not long ago.
        self.older.iter().rev().find(|older| older.known.key == *key).map(|older| older.accepted_until_ms)
    }

    /// Whether it may act at `now_ms`: it is active and its current keys are valid.
    ///
    /// # Errors
    /// [`RejectCode::AgentSuspended`], [`RejectCode::AgentRevoked`], [`RejectCode::KeyNotYetValid`] or
    /// [`RejectCode::KeyExpired`].
    pub fn may_act(&self, now_ms: u64) -> Result<(), RejectCode> {
        match self.state {
            AgentState::Active => check_validity(self.current.valid_from_ms, self.current.valid_until_ms, now_ms),
            AgentState::Suspended => Err(RejectCode::AgentSuspended),
            AgentState::Revoked => Err(RejectCode::AgentRevoked),
        }
    }

    /// The next moment after `now_ms` at which the current keys begin or cease to be valid.
    pub(crate) fn next_validity_change_ms(&self, now_ms: u64) -> u64 {
        [self.current.valid_from_ms, self.current.valid_until_ms]
            .into_iter()
            .filter(|&edge_ms| edge_ms > now_ms)
            .min()
            .unwrap_or(u64::MAX)
    }

    /// `versions` is not empty, and they strictly ascend.
    pub(crate) fn new(identity: Identity, state: AgentState, versions: Vec<KeyVersion>, grace_ms: u64) -> Self {
        assert!(versions.is_sorted_by(|a, b| a.version < b.version), "key record versions strictly ascend");
        let Identity { agent, name, organization, mailbox, attributes } = identity;
        let (newest, older) = versions.split_last().expect("a principal has at least one key record");
        let current = Current {
            key: newest.key,
            valid_from_ms: newest.valid_from_ms,
            valid_until_ms: newest.valid_until_ms,
            version: newest.version,
            has_fn_dsa_512: newest.has_fn_dsa_512,
        };
        let older = match older {
            [] => Arc::default(),
            older => with_grace(older, grace_ms),
        };
        Self { agent, name, organization, state, revoked_at_ms: 0, current, mailbox, attributes, older }
    }

    /// What is known of each version of the key record that is held, oldest first.
    pub fn versions(&self) -> impl Iterator<Item = KeyVersion> {
        self.older.iter().map(|older| older.known).chain([self.current.into()])
    }

    /// How many versions are held.
    #[must_use]
    pub fn version_count(&self) -> usize {
        self.older.len() + 1
    }

    pub(crate) fn mailbox(&self) -> &Arc<Mailbox> {
        &self.mailbox
    }

    pub(crate) fn set_mailbox(&mut self, mailbox: Arc<Mailbox>) {
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
            self.current.valid_from_ms,
            self.current.valid_until_ms,
            self.attributes.digest(),
            self.revoked_at_ms,
        ]
        .into_iter()
        .fold(0, mix)
    }

    fn older_version(&self, version: u32) -> Option<&Older> {
        let index = self.older.binary_search_by_key(&version, |older| older.known.version).ok()?;
        Some(&self.older[index])
    }
}

impl From<Current> for KeyVersion {
    fn from(current: Current) -> Self {
        let Current { key, valid_from_ms, valid_until_ms, version, has_fn_dsa_512 } = current;
        Self { version, key, valid_from_ms, valid_until_ms, has_fn_dsa_512, replaced: None }
    }
}

/// Who an agent is, and what is set for it: what stays when its keys are replaced.
pub(crate) struct Identity {
    pub(crate) agent: AgentId,
    pub(crate) name: AgentName,
    pub(crate) organization: OrganizationId,
    pub(crate) mailbox: Arc<Mailbox>,
    pub(crate) attributes: Arc<Attributes>,
}

/// Versions that were replaced, oldest first, with the end of each.
fn with_grace(replaced: &[KeyVersion], grace_ms: u64) -> Arc<[Older]> {
    let until_ms = |known: &KeyVersion| match known.replaced {
        Some(Replacement { at_ms, mode: RotationMode::Planned }) => at_ms.saturating_add(grace_ms),
        // Nobody knows when a key without a time was replaced: no reason for yes.
        Some(Replacement { mode: RotationMode::Emergency, .. }) | None => 0,
    };
    let mut older: Vec<_> =
        replaced.iter().map(|known| Older { known: *known, accepted_until_ms: until_ms(known) }).collect();
    // An emergency ends every key before it, whatever is left of its grace period.
    if let Some(last) = older.iter().rposition(|older| older.accepted_until_ms == 0) {
        older[..last].iter_mut().for_each(|older| older.accepted_until_ms = 0);
    }
    older.into()
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
