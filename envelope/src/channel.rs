//! Channels: their names, patterns of names, and the record in which a channel's owner says what it is.
//!
//! A record is signed by its owner like a key record, so that who publishes can see for themselves who may read: the node cannot
//! add anybody. `docs/channels.md` has the bytes and the rules.

use crate::batch::{ED25519_SIGNATURE_BYTES, ML_DSA_65_SIGNATURE_BYTES};
use crate::id::{AgentId, ChannelId, TrustDomain};
use crate::limits::{CHANNEL_MEMBERS_MAX, CHANNEL_RETENTION_S_MAX, CHANNEL_RETENTION_S_MIN, CHANNEL_SUBSCRIBERS_MAX};
use crate::reader::Reader;
use crate::reject::RejectCode;

pub mod frames;
pub mod listing;
mod name;

pub use name::{ChannelName, ChannelNameError, ChannelPattern};

/// The format that this code writes.
pub const CHANNEL_RECORD_FORMAT: u8 = 1;
/// Size of a channel's record without names and lists, in bytes.
pub const CHANNEL_RECORD_FIXED_BYTES: usize = 88;

const SIGNATURE_LABEL: &[u8; 23] = b"creto/channel-record/v1";
const FLAG_HISTORY: u8 = 1;
const FLAG_DELETED: u8 = 2;

/// Who may subscribe. Whatever the record says, the node's policy must let them, too.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Subscribing {
    /// Whoever the node's policy lets.
    Open,
    /// The owner.
    Private,
    /// Whoever a policy lets that its operator has written: the built-in one is not enough.
    AuthzRequired,
    /// The owner and these agents, in ascending order of their ids, at most [`CHANNEL_MEMBERS_MAX`].
    Allowlist(Vec<AgentId>),
}

/// Who may publish. Whatever the record says, the node's policy must let them, too.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Publishing {
    /// Whoever the node's policy lets.
    Open,
    /// The owner and these agents, in ascending order of their ids, at most [`CHANNEL_MEMBERS_MAX`].
    Listed(Vec<AgentId>),
}

/// What a channel is, as its owner says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ChannelRecord {
    /// Counts the changes of the record, from 1.
    pub version: u32,
    /// The channel's name.
    pub name: ChannelName,
    /// The trust domain of the name.
    pub trust_domain: TrustDomain,
    /// Whose channel it is: an agent of the name's organization.
    pub owner: AgentId,
    /// Which version of the owner's key record has the keys that signed.
    pub owner_key_version: u32,
    /// When it was signed, by the owner's clock, Unix milliseconds.
    pub signed_at_ms: u64,
    /// Who may subscribe.
    pub subscribing: Subscribing,
    /// Who may publish.
    pub publishing: Publishing,
    /// Whether a new subscriber is given the keys of what the channel kept before.
    pub has_history: bool,
    /// Whether the channel is no more: nothing is published, delivered or kept.
    pub is_deleted: bool,
    /// How long messages are kept, in seconds: [`CHANNEL_RETENTION_S_MIN`] to [`CHANNEL_RETENTION_S_MAX`].
    pub retention_s: u32,
    /// Most messages that it keeps, at least 1.
    pub messages_max: u64,
    /// Most bytes of messages that it keeps, at least 1.
    pub bytes_max: u64,
    /// Most subscribers that it has, 1 to [`CHANNEL_SUBSCRIBERS_MAX`].
    pub subscribers_max: u32,
}

impl ChannelRecord {
    /// The channel that the name derives to.
    #[must_use]
    pub fn channel_id(&self) -> ChannelId {
        ChannelId::derive(&self.trust_domain, &self.name)
    }

    /// Whether the record, without the node's policy, lets this agent subscribe; a policy of the operator's must, too, where it is
    /// [`Subscribing::AuthzRequired`].
    #[must_use]
    pub fn lets_subscribe(&self, agent: &AgentId) -> bool {
        !self.is_deleted
            && match &self.subscribing {
                Subscribing::Open | Subscribing::AuthzRequired => true,
                Subscribing::Private => *agent == self.owner,
                Subscribing::Allowlist(listed) => *agent == self.owner || listed.binary_search(agent).is_ok(),
            }
    }

    /// Whether the record, without the node's policy, lets this agent publish.
    #[must_use]
    pub fn lets_publish(&self, agent: &AgentId) -> bool {
        !self.is_deleted
            && match &self.publishing {
                Publishing::Open => true,
                Publishing::Listed(listed) => *agent == self.owner || listed.binary_search(agent).is_ok(),
            }
    }

    /// The first rule of the format that the record breaks, if it breaks one: what a program put together must be checked
    /// before it is signed.
    ///
    /// # Errors
    /// [`RejectCode::FrameReserved`].
    pub fn check(&self) -> Result<(), RejectCode> {
        let ascends = |list: &[AgentId]| list.len() <= CHANNEL_MEMBERS_MAX && list.is_sorted_by(|a, b| a < b);
        let holds = self.version > 0
            && self.owner_key_version > 0
            && (CHANNEL_RETENTION_S_MIN..=CHANNEL_RETENTION_S_MAX).contains(&self.retention_s)
            && (1..=CHANNEL_SUBSCRIBERS_MAX).contains(&self.subscribers_max)
            && self.messages_max > 0
            && self.bytes_max > 0
            && ascends(self.listed_publishers())
            && ascends(self.listed_subscribers())
            // What is no more names nobody: its row stays.
            && !(self.is_deleted && self.listed_publishers().len() + self.listed_subscribers().len() > 0);
        if holds { Ok(()) } else { Err(RejectCode::FrameReserved) }
    }

    /// The agents that are listed as publishers, if there is a list.
    #[must_use]
    pub fn listed_publishers(&self) -> &[AgentId] {
        match &self.publishing {
            Publishing::Listed(listed) => listed,
            Publishing::Open => &[],
        }
    }

    /// The agents on the allowlist, if there is one.
    #[must_use]
    pub fn listed_subscribers(&self) -> &[AgentId] {
        match &self.subscribing {
            Subscribing::Allowlist(listed) => listed,
            _ => &[],
        }
    }

    /// The record's bytes.
    ///
    /// # Panics
    /// When it lists more agents than a u32 counts; [`ChannelRecord::check`] allows fewer.
    #[must_use]
    #[allow(clippy::cast_possible_truncation, reason = "names are at most 128 and 255 bytes long")]
    pub fn to_bytes(&self) -> Vec<u8> {
        let (name, trust_domain) = (self.name.as_str(), self.trust_domain.as_str());
        let (publishers, subscribers) = (self.listed_publishers(), self.listed_subscribers());
        let count = |list: &[AgentId]| u32::try_from(list.len()).expect("a record lists 10,000 agents at most");
        let subscribing = match &self.subscribing {
            Subscribing::Open => 0,
            Subscribing::Private => 1,
            Subscribing::AuthzRequired => 2,
            Subscribing::Allowlist(_) => 3,
        };
        let publishing = match &self.publishing {
            Publishing::Open => 0,
            Publishing::Listed(_) => 1,
        };
        let flags = if self.has_history { FLAG_HISTORY } else { 0 } | if self.is_deleted { FLAG_DELETED } else { 0 };
        let listed_bytes = (publishers.len() + subscribers.len()) * 16;
        let mut out = Vec::with_capacity(CHANNEL_RECORD_FIXED_BYTES + name.len() + trust_domain.len() + listed_bytes);
        out.extend_from_slice(&[CHANNEL_RECORD_FORMAT, subscribing, publishing, flags]);
        out.extend_from_slice(&self.version.to_le_bytes());
        out.extend_from_slice(&self.channel_id().0);
        out.extend_from_slice(&self.owner.0);
        out.extend_from_slice(&self.owner_key_version.to_le_bytes());
        out.extend_from_slice(&self.retention_s.to_le_bytes());
        out.extend_from_slice(&self.signed_at_ms.to_le_bytes());
        out.extend_from_slice(&self.messages_max.to_le_bytes());
        out.extend_from_slice(&self.bytes_max.to_le_bytes());
        out.extend_from_slice(&self.subscribers_max.to_le_bytes());
        out.extend_from_slice(&count(publishers).to_le_bytes());
        out.extend_from_slice(&count(subscribers).to_le_bytes());
        out.extend_from_slice(&(name.len() as u16).to_le_bytes());
        out.extend_from_slice(&(trust_domain.len() as u16).to_le_bytes());
        debug_assert_eq!(out.len(), CHANNEL_RECORD_FIXED_BYTES);
        out.extend_from_slice(name.as_bytes());
        out.extend_from_slice(trust_domain.as_bytes());
        for agent in publishers.iter().chain(subscribers) {
            out.extend_from_slice(&agent.0);
        }
        out
    }

    /// Parses a record. The id inside must be the one that the names derive to.
    ///
    /// # Errors
    /// [`RejectCode::FrameLength`] for a wrong length, [`RejectCode::FrameReserved`] for anything else that is not as the
    /// format says.
    pub fn parse(bytes: &[u8]) -> Result<Self, RejectCode> {
        let bad = RejectCode::FrameReserved;
        let mut reader = Reader::new(bytes, RejectCode::FrameLength);
        if reader.u8()? != CHANNEL_RECORD_FORMAT {
            return Err(bad);
        }
        let [subscribing, publishing, flags] = *reader.array()?;
        if flags & !(FLAG_HISTORY | FLAG_DELETED) != 0 {
            return Err(bad);
        }
        let version = reader.u32()?;
        let channel_id = ChannelId(*reader.array()?);
        let owner = AgentId(*reader.array()?);
        let owner_key_version = reader.u32()?;
        let retention_s = reader.u32()?;
        let signed_at_ms = reader.u64()?;
        let messages_max = reader.u64()?;
        let bytes_max = reader.u64()?;
        let subscribers_max = reader.u32()?;
        let (publisher_count, subscriber_count) = (reader.u32()?, reader.u32()?);
        let (name_bytes, trust_domain_bytes) = (usize::from(reader.u16()?), usize::from(reader.u16()?));
        let text = |bytes| std::str::from_utf8(bytes).map_err(|_| bad);
        let name = ChannelName::parse(text(reader.take(name_bytes)?)?).map_err(|_| bad)?;
        let trust_domain = TrustDomain::parse(text(reader.take(trust_domain_bytes)?)?).map_err(|_| bad)?;
        let publishers = agents(&mut reader, publisher_count)?;
        let subscribers = agents(&mut reader, subscriber_count)?;
        reader.end()?;
        // A list stands only where it means something.
        let subscribing = match (subscribing, subscribers.is_empty()) {
            (0, true) => Subscribing::Open,
            (1, true) => Subscribing::Private,
            (2, true) => Subscribing::AuthzRequired,
            (3, _) => Subscribing::Allowlist(subscribers),
            _ => return Err(bad),
        };
        let publishing = match (publishing, publishers.is_empty()) {
            (0, true) => Publishing::Open,
            (1, _) => Publishing::Listed(publishers),
            _ => return Err(bad),
        };
        let record = Self {
            version,
            name,
            trust_domain,
            owner,
            owner_key_version,
            signed_at_ms,
            subscribing,
            publishing,
            has_history: flags & FLAG_HISTORY != 0,
            is_deleted: flags & FLAG_DELETED != 0,
            retention_s,
            messages_max,
            bytes_max,
            subscribers_max,
        };
        record.check()?;
        if record.channel_id() == channel_id { Ok(record) } else { Err(bad) }
    }

    /// The exact bytes that both of the owner's signing keys sign: label and record.
    #[must_use]
    #[allow(clippy::cast_possible_truncation, reason = "the label has 23 bytes")]
    pub fn signed_bytes(&self) -> Vec<u8> {
        let mut out = vec![SIGNATURE_LABEL.len() as u8];
        out.extend_from_slice(SIGNATURE_LABEL);
        out.append(&mut self.to_bytes());
        out
    }
}

/// So many agents, which are counted before anything is allocated for them.
fn agents(reader: &mut Reader<'_>, count: u32) -> Result<Vec<AgentId>, RejectCode> {
    let bytes = usize::try_from(count).ok().and_then(|count| count.checked_mul(16));
    let bytes = reader.take(bytes.ok_or(RejectCode::FrameLength)?)?;
    Ok(bytes.as_chunks::<16>().0.iter().map(|id| AgentId(*id)).collect())
}

/// A channel's record with its owner's signatures.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SignedChannelRecord {
    /// The record.
    pub record: ChannelRecord,
    /// Ed25519 over [`ChannelRecord::signed_bytes`].
    pub ed25519: [u8; ED25519_SIGNATURE_BYTES],
    /// ML-DSA-65 over the same.
    pub ml_dsa_65: Box<[u8; ML_DSA_65_SIGNATURE_BYTES]>,
}

impl SignedChannelRecord {
    /// The bytes as they are stored and sent.
    ///
    /// # Panics
    /// As [`ChannelRecord::to_bytes`].
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let record = self.record.to_bytes();
        let record_bytes = u32::try_from(record.len()).expect("a record is below 400 KB");
        let mut out = Vec::with_capacity(8 + record.len() + ED25519_SIGNATURE_BYTES + ML_DSA_65_SIGNATURE_BYTES);
        out.extend_from_slice(&record_bytes.to_le_bytes());
        out.extend_from_slice(&[0; 4]);
        out.extend_from_slice(&record);
        out.extend_from_slice(&self.ed25519);
        out.extend_from_slice(&self.ml_dsa_65[..]);
        out
    }

    /// Parses a signed record. The signatures are not verified here.
    ///
    /// # Errors
    /// As [`ChannelRecord::parse`].
    pub fn parse(bytes: &[u8]) -> Result<Self, RejectCode> {
        let mut reader = Reader::new(bytes, RejectCode::FrameLength);
        let record_bytes = reader.u32()? as usize;
        reader.zeros(4, RejectCode::FrameReserved)?;
        let record = ChannelRecord::parse(reader.take(record_bytes)?)?;
        let ed25519 = *reader.array()?;
        let ml_dsa_65 = Box::new(*reader.array()?);
        reader.end()?;
        Ok(Self { record, ed25519, ml_dsa_65 })
    }
}
