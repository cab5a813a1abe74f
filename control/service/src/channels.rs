//! Channels: what the API takes and shows of them, the checks that need no look at other channels, and the row.
//!
//! The directory keeps what a channel's owner has signed. Who publishes verifies that for themselves, so the node can add nobody to
//! those who may read.

use creto_crypto_accel::verify::VerifyingKeys;
use creto_envelope::TrustDomain;
use creto_envelope::channel::{ChannelRecord, Publishing, SignedChannelRecord, Subscribing};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::api::ErrorCode;
use crate::limits::CHANNEL_AHEAD_MS_MAX;

/// A channel as the directory shows it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct ChannelInfo {
    /// `organization/words`.
    pub name: String,
    /// The channel id, 32 hexadecimal digits.
    pub id: String,
    /// The owner's name.
    pub owner: String,
    /// Counts the changes of the record, from 1.
    pub version: u32,
    /// Who may subscribe, if the node's policy lets them: `open`, `private`, `authz_required` or `allowlist`.
    pub subscribing: String,
    /// Who may publish, if the node's policy lets them: `open` or `listed`.
    pub publishing: String,
    /// How many agents the allowlist names.
    pub subscriber_count: usize,
    /// How many agents are listed as publishers.
    pub publisher_count: usize,
    /// The names on the allowlist, or ids of agents that are not registered; left out in lists of channels.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subscribers: Option<Vec<String>>,
    /// The names of the listed publishers, the same.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub publishers: Option<Vec<String>>,
    /// Whether new subscribers are given the keys of what was published before.
    pub history: bool,
    /// Whether the channel was deleted.
    pub deleted: bool,
    /// How long messages are kept, in seconds.
    pub retention_s: u32,
    /// Most messages that are kept.
    pub messages_max: u64,
    /// Most bytes of messages that are kept.
    pub bytes_max: u64,
    /// Most subscribers.
    pub subscribers_max: u32,
    /// When the channel was first created here, Unix milliseconds.
    pub created_at_ms: u64,
    /// When the node took this version, Unix milliseconds.
    pub changed_at_ms: u64,
}

/// A page of channels, without the names that they list.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct ChannelPage {
    /// By name.
    pub channels: Vec<ChannelInfo>,
    /// Pass this as `after` to get the next page; absent on the last one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_after: Option<String>,
}

/// A channel's record whose signatures hold.
#[derive(Debug)]
pub(crate) struct CheckedChannel(SignedChannelRecord);

/// Why a record is refused, for people too.
pub(crate) type ChannelRefusal = (ErrorCode, String);

/// Parses a record and checks what it says about itself.
pub(crate) fn parse_record(
    bytes: &[u8],
    trust_domain: &TrustDomain,
    now_ms: u64,
) -> Result<SignedChannelRecord, ChannelRefusal> {
    let signed = SignedChannelRecord::parse(bytes).map_err(|code| {
        (ErrorCode::ChannelMalformed, format!("the body is not a signed channel record: {}", code.name()))
    })?;
    let record = &signed.record;
    if record.trust_domain != *trust_domain {
        let found = &record.trust_domain;
        let message = format!("the channel belongs to trust domain {found}, this node serves {trust_domain}");
        return Err((ErrorCode::TrustDomain, message));
    }
    if record.signed_at_ms > now_ms.saturating_add(CHANNEL_AHEAD_MS_MAX) {
        let message = format!("the record is dated {} ms, it is {now_ms} ms now", record.signed_at_ms);
        return Err((ErrorCode::ChannelMalformed, message));
    }
    Ok(signed)
}

impl CheckedChannel {
    /// Checks both signatures with the keys of the version of the owner's key record that the channel's record names. About 0.1 ms.
    pub(crate) fn verify(signed: SignedChannelRecord, keys: &VerifyingKeys) -> Result<Self, ChannelRefusal> {
        let verified = keys.verify(&signed.record.signed_bytes(), &signed.ed25519, &signed.ml_dsa_65);
        let refused = || (ErrorCode::ChannelSignature, "the record is not signed by its owner's keys".to_owned());
        verified.map(|()| Self(signed)).map_err(|_| refused())
    }

    pub(crate) fn signed(&self) -> &SignedChannelRecord {
        &self.0
    }

    pub(crate) fn into_record(self) -> ChannelRecord {
        self.0.record
    }
}

/// What the directory keeps of a channel, little-endian:
///
/// ```text
/// 0 u8 format=1 | 1 [7] zero | 8 u64 created_at_ms | 16 u64 changed_at_ms | 24 the signed record
/// ```
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct ChannelRow {
    pub(crate) created_at_ms: u64,
    pub(crate) changed_at_ms: u64,
    pub(crate) signed: SignedChannelRecord,
}

const ROW_FORMAT: u8 = 1;

impl ChannelRow {
    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        let signed = self.signed.to_bytes();
        let mut out = Vec::with_capacity(24 + signed.len());
        out.extend_from_slice(&[ROW_FORMAT, 0, 0, 0, 0, 0, 0, 0]);
        out.extend_from_slice(&self.created_at_ms.to_le_bytes());
        out.extend_from_slice(&self.changed_at_ms.to_le_bytes());
        out.extend_from_slice(&signed);
        out
    }

    /// `None` when they are not as [`ChannelRow::to_bytes`] writes them.
    pub(crate) fn parse(bytes: &[u8]) -> Option<Self> {
        let (head, signed) = bytes.split_first_chunk::<24>()?;
        let [format, rest @ ..] = head;
        if *format != ROW_FORMAT || rest[..7] != [0; 7] {
            return None;
        }
        let number = |at: usize| Some(u64::from_le_bytes(*head[at..].first_chunk()?));
        let signed = SignedChannelRecord::parse(signed).ok()?;
        Some(Self { created_at_ms: number(8)?, changed_at_ms: number(16)?, signed })
    }

    /// The channel as it is shown, without the names that it lists; `owner` is its owner's name.
    pub(crate) fn info(&self, owner: String) -> ChannelInfo {
        let record = &self.signed.record;
        ChannelInfo {
            name: record.name.to_string(),
            id: record.channel_id().to_string(),
            owner,
            version: record.version,
            subscribing: match &record.subscribing {
                Subscribing::Open => "open",
                Subscribing::Private => "private",
                Subscribing::AuthzRequired => "authz_required",
                Subscribing::Allowlist(_) => "allowlist",
            }
            .to_owned(),
            publishing: match &record.publishing {
                Publishing::Open => "open",
                Publishing::Listed(_) => "listed",
            }
            .to_owned(),
            subscriber_count: record.listed_subscribers().len(),
            publisher_count: record.listed_publishers().len(),
            subscribers: None,
            publishers: None,
            history: record.has_history,
            deleted: record.is_deleted,
            retention_s: record.retention_s,
            messages_max: record.messages_max,
            bytes_max: record.bytes_max,
            subscribers_max: record.subscribers_max,
            created_at_ms: self.created_at_ms,
            changed_at_ms: self.changed_at_ms,
        }
    }
}
