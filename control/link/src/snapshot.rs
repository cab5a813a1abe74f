//! A directory on its way: cut into frames by control, and put together by the node, which refuses what would take it back.
//!
//! A link begins with all of it. From then on only what changed is sent: which agents and channels are otherwise than in the snapshot
//! before, and which are gone. Whatever a later version adds to a snapshot gets frames of its own between its beginning and its end.

use creto_envelope::channel::ChannelRecord;
use creto_envelope::{AgentId, ChannelId, TrustDomain};
use creto_policy::{Channel, Policy, PrincipalError, Snapshot, SnapshotBuilder};
use thiserror::Error;

use crate::agent::{self, Agent};
use crate::frame::{FromControl, LinkError};
use crate::limits::{
    AGENTS_MAX, CHANNEL_LISTED_MAX, CHANNELS_MAX, CHUNK_BYTES, GONE_MAX, POLICY_BYTES_MAX, POLICY_NAME_BYTES_MAX,
};
use crate::reader::{Reader, put_text};

/// What stands in front of a snapshot's agents.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SnapshotHead {
    /// Its epoch: never below the one before.
    pub epoch: u64,
    /// Whether all agents and channels follow, and not only those that changed.
    pub is_whole: bool,
    /// How long a replaced encryption key is accepted, in milliseconds.
    pub key_grace_ms: u64,
    /// The policy.
    pub policy: PolicyPart,
}

/// A policy on its way.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum PolicyPart {
    /// That of the snapshot before, on the same link.
    AsBefore,
    /// None is loaded: everything is denied.
    None,
    /// Agents of one organization may talk.
    SameOrganization,
    /// None can be loaded, and everybody may do everything until it can.
    FailOpen,
    /// What an operator wrote: the node compiles it.
    Text {
        /// SHA-256 of the text.
        sha256: [u8; 32],
        /// What it is called in messages.
        name: String,
        /// The text.
        text: String,
    },
}

impl PolicyPart {
    /// The policy of a snapshot. One that has a form of its own, and no text, is none: nobody else could evaluate it.
    #[must_use]
    pub fn of(snapshot: &Snapshot) -> Self {
        match snapshot.policy() {
            Some(Policy::SameOrganization) => Self::SameOrganization,
            Some(Policy::FailOpen) => Self::FailOpen,
            Some(Policy::Loaded(source)) => match source.text() {
                Some((name, text)) => {
                    let (sha256, text) = (*source.digest(), text.to_owned());
                    // Only shown, and the end says more than the beginning.
                    let mut from = name.len().saturating_sub(POLICY_NAME_BYTES_MAX);
                    while !name.is_char_boundary(from) {
                        from += 1;
                    }
                    Self::Text { sha256, name: name[from..].to_owned(), text }
                }
                None => Self::None,
            },
            _ => Self::None,
        }
    }
}

impl SnapshotHead {
    /// ```text
    /// 0 u64 epoch | 8 u64 key_grace_ms | 16 u8 whole | 17 u8 policy (0 as before, 1 none, 2 same organization, 3 fail open, 4 text)
    /// 18 [6] zero | of a text: [32] SHA-256, u16 name_bytes, name, text
    /// ```
    pub(crate) fn put(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.epoch.to_le_bytes());
        out.extend_from_slice(&self.key_grace_ms.to_le_bytes());
        let kind = match self.policy {
            PolicyPart::AsBefore => 0,
            PolicyPart::None => 1,
            PolicyPart::SameOrganization => 2,
            PolicyPart::FailOpen => 3,
            PolicyPart::Text { .. } => 4,
        };
        out.extend_from_slice(&[u8::from(self.is_whole), kind, 0, 0, 0, 0, 0, 0]);
        if let PolicyPart::Text { sha256, name, text } = &self.policy {
            out.extend_from_slice(sha256);
            put_text(out, name);
            out.extend_from_slice(text.as_bytes());
        }
    }

    pub(crate) fn take(reader: &mut Reader<'_>) -> Result<Self, LinkError> {
        let (epoch, key_grace_ms) = (reader.u64()?, reader.u64()?);
        let (is_whole, kind) = (reader.u8()?, reader.u8()?);
        reader.zeros(6)?;
        let policy = match kind {
            0 => PolicyPart::AsBefore,
            1 => PolicyPart::None,
            2 => PolicyPart::SameOrganization,
            3 => PolicyPart::FailOpen,
            4 => {
                let (sha256, name_bytes) = (reader.array()?, usize::from(reader.u16()?));
                if name_bytes > POLICY_NAME_BYTES_MAX {
                    return Err(LinkError::Length);
                }
                let name = reader.text(name_bytes)?.to_owned();
                let text = str::from_utf8(reader.rest()).map_err(|_| LinkError::Value)?;
                if text.len() > POLICY_BYTES_MAX {
                    return Err(LinkError::Length);
                }
                PolicyPart::Text { sha256, name, text: text.to_owned() }
            }
            _ => return Err(LinkError::Value),
        };
        let is_whole = match is_whole {
            0 => false,
            1 => true,
            _ => return Err(LinkError::Value),
        };
        Ok(Self { epoch, is_whole, key_grace_ms, policy })
    }
}

/// The frames between the beginning and the end of a snapshot: what differs from `before`, each frame when the one before it was
/// taken, so that a directory of any size needs the memory of one frame. Since [`Snapshot::empty`] that is everything.
pub fn frames_between<'s>(before: &'s Snapshot, now: &'s Snapshot) -> impl Iterator<Item = FromControl> + use<'s> {
    let gone = |ids: Vec<AgentId>| FromControl::Gone(ids);
    let agents = frames_of(now.changes_since(before), agent::put, FromControl::Agents, gone);
    let gone = |ids: Vec<ChannelId>| FromControl::ChannelsGone(ids);
    agents.chain(frames_of(now.channel_changes_since(before), put_channel, FromControl::Channels, gone))
}

/// Cuts what changed into frames of what is there, and of the ids of what is not any more.
fn frames_of<'s, I: 's, V: 's>(
    changes: impl Iterator<Item = (I, Option<&'s V>)>,
    put: fn(&V, &mut Vec<u8>),
    there: fn(Vec<u8>) -> FromControl,
    not_there: fn(Vec<I>) -> FromControl,
) -> impl Iterator<Item = FromControl> {
    let mut changes = changes.fuse();
    let mut gone = Vec::new();
    std::iter::from_fn(move || {
        let mut bytes = Vec::new();
        while bytes.len() < CHUNK_BYTES && gone.len() < GONE_MAX {
            match changes.next() {
                Some((_, Some(value))) => put(value, &mut bytes),
                Some((id, None)) => gone.push(id),
                None => break,
            }
        }
        match (bytes.is_empty(), gone.is_empty()) {
            (false, _) => Some(there(bytes)),
            (true, false) => Some(not_there(std::mem::take(&mut gone))),
            (true, true) => None,
        }
    })
}

/// A channel: `u32 record_bytes | [4] zero`, and its record as `docs/channels.md` has it, without the signatures.
fn put_channel(channel: &Channel, out: &mut Vec<u8>) {
    let record = channel.record().to_bytes();
    let bytes = u32::try_from(record.len()).expect("a record is below 400 KB");
    out.extend_from_slice(&bytes.to_le_bytes());
    out.extend_from_slice(&[0; 4]);
    out.extend_from_slice(&record);
}

/// Why a snapshot is refused: what was in force before stays so, until its time is over.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
#[non_exhaustive]
pub enum SnapshotRefused {
    /// control offers an older directory than this node holds
    #[error(
        "control offers the directory of epoch {offered}, and this node holds epoch {held}; if control was restored from a backup, \
         restart this node, else look for a second control service on the same address"
    )]
    Older {
        /// What the node holds.
        held: u64,
        /// What was offered.
        offered: u64,
    },
    /// the policy cannot be used by this version
    #[error("control's policy cannot be used here ({0}); run the same version of creto on both sides")]
    Policy(String),
    /// an agent that cannot be one
    #[error("an agent in control's directory cannot be used ({0}); run the same version of creto on both sides")]
    Agent(#[from] PrincipalError),
    /// not all agents came
    #[error("{arrived} agents arrived of {told} that control has; run the same version of creto on both sides")]
    Count {
        /// By the snapshot's end.
        told: u64,
        /// In what was put together.
        arrived: u64,
    },
    /// not all channels came
    #[error("{arrived} channels arrived of {told} that control has; run the same version of creto on both sides")]
    ChannelCount {
        /// By the snapshot's end.
        told: u64,
        /// In what was put together.
        arrived: u64,
    },
    /// more agents than any directory has
    #[error("control sends more than {AGENTS_MAX} agents; look what answers in its place")]
    Many,
    /// more channels than any directory has
    #[error(
        "control sends more than {CHANNELS_MAX} channels, or more than {CHANNEL_LISTED_MAX} agents that they list; look what answers in its \
         place"
    )]
    ManyChannels,
    /// a channel that cannot be one
    #[error("a channel in control's directory cannot be used ({0}); run the same version of creto on both sides")]
    Channel(String),
    /// frames of a snapshot that are in no snapshot
    #[error("frames of a snapshot came in the wrong order; run the same version of creto on both sides")]
    Order,
    /// bytes that are no agents
    #[error("agents cannot be read: {0}")]
    Bytes(#[from] LinkError),
}

/// What arrives on one link, on its way to be a snapshot.
#[derive(Debug)]
pub struct Incoming {
    trust_domain: TrustDomain,
    builder: SnapshotBuilder,
    policy: Option<Policy>,
    /// Below this epoch nothing is taken.
    held_epoch: u64,
    is_begun: bool,
    is_whole: bool,
    /// Of the snapshot that is under way.
    epoch: Option<u64>,
}

impl Incoming {
    /// For a new link of a node that holds the snapshot of `held_epoch`, or none: zero.
    #[must_use]
    pub fn new(trust_domain: TrustDomain, held_epoch: u64) -> Self {
        let builder = SnapshotBuilder::new();
        Self { trust_domain, builder, policy: None, held_epoch, is_begun: false, is_whole: false, epoch: None }
    }

    /// A snapshot begins. `compile` makes a policy of its name and text.
    ///
    /// # Errors
    /// [`SnapshotRefused`]; nothing more can be taken from this link then.
    pub fn begin(
        &mut self,
        head: SnapshotHead,
        compile: impl FnOnce(&str, &str, &[u8; 32]) -> Result<Policy, String>,
    ) -> Result<(), SnapshotRefused> {
        let SnapshotHead { epoch, is_whole, key_grace_ms, policy } = head;
        // The first one is whole, for there is nothing that it could change.
        if self.epoch.is_some() || !(is_whole || self.is_whole) {
            return Err(SnapshotRefused::Order);
        }
        if epoch == 0 || epoch < self.held_epoch {
            return Err(SnapshotRefused::Older { held: self.held_epoch, offered: epoch });
        }
        self.policy = match policy {
            PolicyPart::AsBefore if self.is_begun => self.policy.take(),
            PolicyPart::AsBefore => return Err(SnapshotRefused::Order),
            PolicyPart::None => None,
            PolicyPart::SameOrganization => Some(Policy::SameOrganization),
            PolicyPart::FailOpen => Some(Policy::FailOpen),
            PolicyPart::Text { sha256, name, text } => {
                Some(compile(&name, &text, &sha256).map_err(SnapshotRefused::Policy)?)
            }
        };
        if is_whole {
            self.builder = SnapshotBuilder::new();
        }
        self.builder.set_key_grace_ms(key_grace_ms);
        self.builder.set_policy(self.policy.clone());
        (self.epoch, self.is_whole, self.is_begun) = (Some(epoch), true, true);
        Ok(())
    }

    /// The body of a frame of agents.
    ///
    /// # Errors
    /// As [`Incoming::begin`].
    pub fn agents(&mut self, body: &[u8]) -> Result<(), SnapshotRefused> {
        self.epoch.ok_or(SnapshotRefused::Order)?;
        let mut reader = Reader::new(body);
        while !reader.is_empty() {
            Agent::take(&mut reader)?.put_into(&mut self.builder, &self.trust_domain)?;
        }
        // A frame has a few thousand of them at most.
        if self.builder.agent_count() > AGENTS_MAX { Err(SnapshotRefused::Many) } else { Ok(()) }
    }

    /// Agents that are not in the directory any more.
    ///
    /// # Errors
    /// As [`Incoming::begin`].
    pub fn gone(&mut self, ids: &[AgentId]) -> Result<(), SnapshotRefused> {
        self.epoch.ok_or(SnapshotRefused::Order)?;
        ids.iter().for_each(|id| {
            self.builder.remove(id);
        });
        Ok(())
    }

    /// The body of a frame of channels.
    ///
    /// # Errors
    /// As [`Incoming::begin`].
    pub fn channels(&mut self, body: &[u8]) -> Result<(), SnapshotRefused> {
        self.epoch.ok_or(SnapshotRefused::Order)?;
        let mut reader = Reader::new(body);
        while !reader.is_empty() {
            let bytes = reader.u32()? as usize;
            reader.zeros(4)?;
            let record = ChannelRecord::parse(reader.take(bytes)?).map_err(|_| LinkError::Value)?;
            // One that is deleted is not sent.
            if record.is_deleted {
                return Err(LinkError::Value.into());
            }
            if record.trust_domain != self.trust_domain {
                let (name, domain) = (record.name.as_str(), record.trust_domain.as_str());
                return Err(SnapshotRefused::Channel(format!("{name} is of the trust domain {domain}")));
            }
            self.builder.insert_channel(record);
        }
        // A frame lists a few ten thousand at most.
        match self.builder.channel_count() > CHANNELS_MAX || self.builder.listed_count() > CHANNEL_LISTED_MAX {
            true => Err(SnapshotRefused::ManyChannels),
            false => Ok(()),
        }
    }

    /// Channels that are not in the directory any more.
    ///
    /// # Errors
    /// As [`Incoming::begin`].
    pub fn channels_gone(&mut self, ids: &[ChannelId]) -> Result<(), SnapshotRefused> {
        self.epoch.ok_or(SnapshotRefused::Order)?;
        ids.iter().for_each(|id| {
            self.builder.remove_channel(id);
        });
        Ok(())
    }

    /// The end of a snapshot, which says how many agents and channels there are.
    ///
    /// # Errors
    /// As [`Incoming::begin`].
    pub fn end(&mut self, agents: u64, channels: u64) -> Result<Snapshot, SnapshotRefused> {
        let epoch = self.epoch.take().ok_or(SnapshotRefused::Order)?;
        let arrived = self.builder.agent_count() as u64;
        if arrived != agents {
            return Err(SnapshotRefused::Count { told: agents, arrived });
        }
        let arrived = self.builder.channel_count() as u64;
        if arrived != channels {
            return Err(SnapshotRefused::ChannelCount { told: channels, arrived });
        }
        self.held_epoch = epoch;
        Ok(self.builder.build(epoch))
    }
}
