//! What a leaf says: one change of one agent's key record, in 120 bytes.
//!
//! ```text
//!   0 u8 version=1 | 1 u8 kind | 2 u8 flags | 3 u8 zero | 4 u32 record version | 8 u64 time_ms | 16 u64 since_ms
//!  24 [16] agent id | 40 [16] key id | 56 [32] SHA-256 of what the record's signatures cover | 88 [32] signing keys
//! ```

use creto_audit::tree::Hash;
use creto_crypto_accel::digest::sha256;
use creto_envelope::key_log::KEY_LEAF_BYTES;
use creto_envelope::{AgentId, KeyId, KeyRecord};

#[cfg(test)]
mod tests;

const VERSION: u8 = 1;
const FLAG_ADOPTED: u8 = 1;
/// In front of a leaf's bytes when it is hashed: nothing else that is hashed begins so.
const LABEL: &[u8; 17] = b"creto/key-leaf/v1";
/// RFC 6962 section 2.1.
const LEAF_PREFIX: u8 = 0x00;

/// What happened to an agent's key record.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(u8)]
pub enum LeafKind {
    /// The first version: a name got its keys.
    Enrolled = 1,
    /// The encryption key was replaced; the one before is accepted for the grace period.
    Rotated = 2,
    /// The encryption key was replaced, and all before it are over.
    Emergency = 3,
    /// The agent may never act again.
    Revoked = 4,
}

impl LeafKind {
    fn from_u8(kind: u8) -> Option<Self> {
        match kind {
            1 => Some(Self::Enrolled),
            2 => Some(Self::Rotated),
            3 => Some(Self::Emergency),
            4 => Some(Self::Revoked),
            _ => None,
        }
    }

    /// Whether the leaf stands for a key record.
    #[must_use]
    pub fn is_record(self) -> bool {
        self != Self::Revoked
    }
}

/// A leaf of the log.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct KeyLeaf {
    /// What happened.
    pub kind: LeafKind,
    /// Whether the record is older than the log: its time is when it was taken over.
    pub is_adopted: bool,
    /// Version of the key record; of a revocation the current one.
    pub version: u32,
    /// When, by the node's clock, Unix milliseconds.
    pub time_ms: u64,
    /// Since when a revocation counts, Unix milliseconds; else zero.
    pub since_ms: u64,
    /// Whose.
    pub agent: AgentId,
    /// The record's encryption key.
    pub key_id: KeyId,
    /// [`record_hash`] of the record.
    pub record: Hash,
    /// [`signing_fingerprint`] of the record.
    pub signing: Hash,
}

impl KeyLeaf {
    /// The leaf of `record`, which is told for the first time.
    #[must_use]
    pub fn of(record: &KeyRecord, kind: LeafKind, time_ms: u64) -> Self {
        Self {
            kind,
            is_adopted: false,
            version: record.version,
            time_ms,
            since_ms: 0,
            agent: record.agent_id(),
            key_id: record.key_id(),
            record: record_hash(record),
            signing: signing_fingerprint(record),
        }
    }

    /// Whether this is the leaf of exactly this record, whatever its state and signatures.
    #[must_use]
    pub fn is_of(&self, record: &KeyRecord) -> bool {
        self.kind.is_record()
            && *self == Self { is_adopted: self.is_adopted, ..Self::of(record, self.kind, self.time_ms) }
    }

    /// The leaf's bytes.
    #[must_use]
    pub fn to_bytes(&self) -> [u8; KEY_LEAF_BYTES] {
        let mut bytes = [0; KEY_LEAF_BYTES];
        bytes[0] = VERSION;
        bytes[1] = self.kind as u8;
        bytes[2] = if self.is_adopted { FLAG_ADOPTED } else { 0 };
        bytes[4..8].copy_from_slice(&self.version.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.time_ms.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.since_ms.to_le_bytes());
        bytes[24..40].copy_from_slice(&self.agent.0);
        bytes[40..56].copy_from_slice(&self.key_id.0);
        bytes[56..88].copy_from_slice(&self.record);
        bytes[88..].copy_from_slice(&self.signing);
        bytes
    }

    /// Reads a leaf; `None` when the bytes are not those of one.
    #[must_use]
    pub fn parse(bytes: &[u8; KEY_LEAF_BYTES]) -> Option<Self> {
        let (head, _) = bytes.split_first_chunk::<24>()?;
        let number = |at: usize| Some(u64::from_le_bytes(*head.get(at..)?.first_chunk()?));
        let leaf = Self {
            kind: LeafKind::from_u8(head[1])?,
            is_adopted: head[2] & FLAG_ADOPTED != 0,
            version: u32::from_le_bytes(*head[4..].first_chunk()?),
            time_ms: number(8)?,
            since_ms: number(16)?,
            agent: AgentId(*bytes[24..].first_chunk()?),
            key_id: KeyId(*bytes[40..].first_chunk()?),
            record: *bytes[56..].first_chunk()?,
            signing: *bytes[88..].first_chunk()?,
        };
        // Each leaf has one form: the version, the reserved bits and a record without `since_ms` follow from it.
        (leaf.to_bytes() == *bytes && (leaf.since_ms == 0 || !leaf.kind.is_record())).then_some(leaf)
    }

    /// The leaf's hash in the tree.
    #[must_use]
    pub fn hash(&self) -> Hash {
        leaf_hash(&self.to_bytes())
    }
}

/// The hash of a leaf's bytes in the tree: SHA-256(0x00 || 17 || `creto/key-leaf/v1` || bytes).
#[must_use]
pub fn leaf_hash(leaf: &[u8; KEY_LEAF_BYTES]) -> Hash {
    sha256(&[&[LEAF_PREFIX, 17], LABEL, leaf])
}

/// SHA-256 of exactly the bytes that a record's own signatures cover, label and all: every key, name and date, not the state,
/// which is the node's to say. Not of the signatures: whoever signs the same record again has made no other.
#[must_use]
pub fn record_hash(record: &KeyRecord) -> Hash {
    sha256(&[&record.signed_bytes()])
}

/// SHA-256 of both signing keys, and with a third one SHA-256 over that and the third: what a verifier calls the fingerprint.
#[must_use]
pub fn signing_fingerprint(record: &KeyRecord) -> Hash {
    let both = sha256(&[&record.ed25519, &record.ml_dsa_65[..]]);
    match record.fn_dsa_512.as_deref() {
        Some(third) => sha256(&[&both, &third[..]]),
        None => both,
    }
}
