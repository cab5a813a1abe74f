//! Prekeys: encryption keys that an agent leaves with its node, each for one sender and one session.
//!
//! An agent makes many of them, signs them **once**, all together, with both of its signing keys, and uploads the public
//! halves. A sender that opens a session claims one, checks it by its path in the signed tree, and wraps the session's secret
//! for it; the recipient erases the secret half as soon as the session is on its disk. So whoever steals the key of the
//! agent's record later opens no session that was opened to a prekey. `docs/prekeys.md` gives every byte.
//!
//! A prekey belongs to one version of its agent's key record, and its id says to which: what holds of that version's
//! encryption key (accepted, in its grace period, ended by an emergency) holds of its prekeys.

use sha2::{Digest, Sha256};

use crate::batch::{ED25519_SIGNATURE_BYTES, ML_DSA_65_SIGNATURE_BYTES};
use crate::id::{AgentId, KeyId};
use crate::limits::{PREKEY_PATH_NODES_MAX, PREKEYS_PER_BATCH_MAX};
use crate::reader::Reader;
use crate::reject::RejectCode;

mod frames;

pub use frames::{
    PrekeyClaim, PrekeyClaimed, PrekeyRefusal, PrekeyStock, PrekeyStockRequest, PrekeyStockTold, PrekeyUploaded,
    encode_prekey_upload,
};

/// Size of one prekey as it is uploaded, hashed and handed out, in bytes.
pub const PREKEY_BYTES: usize = 1_224;
/// Size of what stands in front of the prekeys of a batch, in bytes.
pub const PREKEY_BATCH_HEADER_BYTES: usize = 3_408;
/// Size of a signed prekey without its path, in bytes.
pub const SIGNED_PREKEY_FIXED_BYTES: usize = 3_424 + PREKEY_BYTES;
/// Size of the statement that both signing keys sign, in bytes.
pub const PREKEY_STATEMENT_BYTES: usize = 81;
/// The format that this code writes.
pub const PREKEY_FORMAT: u8 = 1;

const ID_LABEL: &[u8; 18] = b"creto/prekey-id/v1";
const STATEMENT_LABEL: &[u8; 16] = b"creto/prekeys/v1";

/// How often a prekey may be used.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(u8)]
pub enum PrekeyKind {
    /// For one session: the node hands it out once, and its secret half is erased when it was used.
    OneTime = 0,
    /// For whoever asks when no other is left.
    LastResort = 1,
}

impl PrekeyKind {
    /// The kind with this number.
    #[must_use]
    pub const fn from_u8(kind: u8) -> Option<Self> {
        match kind {
            0 => Some(Self::OneTime),
            1 => Some(Self::LastResort),
            _ => None,
        }
    }
}

/// The public half of a prekey: 1,224 bytes.
///
/// ```text
/// 0 u8 kind (0 one-time, 1 last resort) | 1 [7] zero | 8 [32] X25519 | 40 [1184] ML-KEM-768
/// ```
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Prekey {
    /// How often it may be used.
    pub kind: PrekeyKind,
    /// X25519 half (RFC 7748).
    pub x25519: [u8; 32],
    /// ML-KEM-768 half (FIPS 203).
    pub ml_kem_768: Box<[u8; 1184]>,
}

impl Prekey {
    /// The bytes: what is hashed, sent and stored.
    #[must_use]
    pub fn to_bytes(&self) -> [u8; PREKEY_BYTES] {
        let mut bytes = [0; PREKEY_BYTES];
        bytes[0] = self.kind as u8;
        bytes[8..40].copy_from_slice(&self.x25519);
        bytes[40..].copy_from_slice(&self.ml_kem_768[..]);
        bytes
    }

    /// Parses the bytes. Whether the halves are usable keys, `crypto-accel` says.
    ///
    /// # Errors
    /// [`RejectCode::FrameLength`] or [`RejectCode::FrameReserved`].
    pub fn parse(bytes: &[u8]) -> Result<Self, RejectCode> {
        let mut reader = Reader::new(bytes, RejectCode::FrameLength);
        let prekey = Self::read(&mut reader)?;
        reader.end()?;
        Ok(prekey)
    }

    fn read(reader: &mut Reader<'_>) -> Result<Self, RejectCode> {
        let kind = PrekeyKind::from_u8(reader.u8()?).ok_or(RejectCode::FrameReserved)?;
        reader.zeros(7, RejectCode::FrameReserved)?;
        Ok(Self { kind, x25519: *reader.array()?, ml_kem_768: Box::new(*reader.array()?) })
    }

    /// Its id as a prekey of this version of its agent's key record: the version, little-endian, and the first 12 bytes of
    /// SHA-256("creto/prekey-id/v1" || the version || the prekey's bytes).
    #[must_use]
    pub fn id(&self, key_record_version: u32) -> KeyId {
        let version = key_record_version.to_le_bytes();
        let mut hash = Sha256::new();
        hash.update(ID_LABEL);
        hash.update(version);
        hash.update(self.to_bytes());
        let mut id = [0; 16];
        id[..4].copy_from_slice(&version);
        id[4..].copy_from_slice(&hash.finalize()[..12]);
        KeyId(id)
    }
}

/// The version of the key record to which the prekey with this id belongs.
#[must_use]
pub const fn prekey_record_version(id: &KeyId) -> u32 {
    let [a, b, c, d, ..] = id.0;
    u32::from_le_bytes([a, b, c, d])
}

/// What both signing keys sign for a batch of prekeys.
///
/// The root is that of the RFC 6962 tree over SHA-256 whose leaf is SHA-256(0x00 || the prekey's id || its bytes).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PrekeyStatement {
    /// Whose prekeys.
    pub agent: AgentId,
    /// Which version of their key record holds the signing keys; the prekeys belong to it.
    pub key_record_version: u32,
    /// Prekeys in the batch.
    pub count: u32,
    /// Root of the tree over them.
    pub root: [u8; 32],
    /// When it was signed, Unix milliseconds: grows from batch to batch of an agent.
    pub signed_at_ms: u64,
}

impl PrekeyStatement {
    /// The exact bytes that are signed.
    #[must_use]
    #[allow(clippy::cast_possible_truncation, reason = "the label has 16 bytes")]
    pub fn to_bytes(&self) -> [u8; PREKEY_STATEMENT_BYTES] {
        let mut bytes = [0; PREKEY_STATEMENT_BYTES];
        bytes[0] = STATEMENT_LABEL.len() as u8;
        bytes[1..17].copy_from_slice(STATEMENT_LABEL);
        bytes[17..33].copy_from_slice(&self.agent.0);
        bytes[33..37].copy_from_slice(&self.key_record_version.to_le_bytes());
        bytes[37..41].copy_from_slice(&self.count.to_le_bytes());
        bytes[41..73].copy_from_slice(&self.root);
        bytes[73..].copy_from_slice(&self.signed_at_ms.to_le_bytes());
        bytes
    }
}

/// What an agent says and signs of a batch beside the prekeys in it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PrekeySignature {
    /// See [`PrekeyStatement::key_record_version`].
    pub key_record_version: u32,
    /// See [`PrekeyStatement::signed_at_ms`].
    pub signed_at_ms: u64,
    /// Ed25519 over the statement.
    pub ed25519: [u8; ED25519_SIGNATURE_BYTES],
    /// ML-DSA-65 over the statement.
    pub ml_dsa_65: Box<[u8; ML_DSA_65_SIGNATURE_BYTES]>,
}

impl PrekeySignature {
    /// The statement over `count` prekeys of `agent` with this root.
    #[must_use]
    pub const fn statement(&self, agent: AgentId, count: u32, root: [u8; 32]) -> PrekeyStatement {
        let Self { key_record_version, signed_at_ms, .. } = *self;
        PrekeyStatement { agent, key_record_version, count, root, signed_at_ms }
    }

    fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.ed25519);
        out.extend_from_slice(&self.ml_dsa_65[..]);
        out.extend_from_slice(&[0; 3]);
    }
}

/// The prekeys of one upload. At most one of them is of last resort, and it is the last.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PrekeyBatch {
    /// Whose.
    pub agent: AgentId,
    /// Signed once for all of them.
    pub signature: PrekeySignature,
    /// 1 to [`PREKEYS_PER_BATCH_MAX`].
    pub prekeys: Vec<Prekey>,
}

impl PrekeyBatch {
    /// The bytes as they are uploaded.
    ///
    /// # Panics
    /// With more than [`PREKEYS_PER_BATCH_MAX`] prekeys.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        assert!(self.prekeys.len() <= PREKEYS_PER_BATCH_MAX, "a batch has a limit");
        let count = u16::try_from(self.prekeys.len()).expect("the limit is below");
        let mut out = Vec::with_capacity(PREKEY_BATCH_HEADER_BYTES + self.prekeys.len() * PREKEY_BYTES);
        out.extend_from_slice(&[PREKEY_FORMAT, 0]);
        out.extend_from_slice(&count.to_le_bytes());
        out.extend_from_slice(&self.signature.key_record_version.to_le_bytes());
        out.extend_from_slice(&self.agent.0);
        out.extend_from_slice(&self.signature.signed_at_ms.to_le_bytes());
        self.signature.write(&mut out);
        debug_assert_eq!(out.len(), PREKEY_BATCH_HEADER_BYTES);
        self.prekeys.iter().for_each(|prekey| out.extend_from_slice(&prekey.to_bytes()));
        out
    }

    /// Parses the bytes. The signatures are not verified here.
    ///
    /// # Errors
    /// [`RejectCode::FrameLength`], [`RejectCode::FrameReserved`], or [`RejectCode::PrekeyBatch`] for none or too many
    /// prekeys, or one of last resort that is not the last.
    pub fn parse(bytes: &[u8]) -> Result<Self, RejectCode> {
        let mut reader = Reader::new(bytes, RejectCode::FrameLength);
        if [reader.u8()?, reader.u8()?] != [PREKEY_FORMAT, 0] {
            return Err(RejectCode::FrameReserved);
        }
        let count = usize::from(reader.u16()?);
        let key_record_version = reader.u32()?;
        let agent = AgentId(*reader.array()?);
        let signature = read_signature(&mut reader, key_record_version)?;
        if count == 0 || count > PREKEYS_PER_BATCH_MAX {
            return Err(RejectCode::PrekeyBatch);
        }
        let prekeys = (0..count).map(|_| Prekey::read(&mut reader)).collect::<Result<Vec<_>, _>>()?;
        reader.end()?;
        let early = &prekeys[..count - 1];
        if early.iter().any(|prekey| prekey.kind == PrekeyKind::LastResort) {
            return Err(RejectCode::PrekeyBatch);
        }
        Ok(Self { agent, signature, prekeys })
    }

    /// How many of the prekeys are for one use.
    #[must_use]
    pub fn one_time(&self) -> usize {
        self.prekeys.iter().filter(|prekey| prekey.kind == PrekeyKind::OneTime).count()
    }
}

/// One prekey of a batch, with what shows that its agent signed it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SignedPrekey {
    /// That of its batch.
    pub signature: PrekeySignature,
    /// Prekeys in its batch.
    pub count: u32,
    /// Its place there, from 0.
    pub index: u32,
    /// The prekey.
    pub prekey: Prekey,
    /// Its audit path (RFC 6962), from the leaf's sibling upwards.
    pub path: Vec<[u8; 32]>,
}

impl SignedPrekey {
    /// The id under which an envelope names it.
    #[must_use]
    pub fn id(&self) -> KeyId {
        self.prekey.id(self.signature.key_record_version)
    }

    /// The bytes as they are handed out.
    ///
    /// # Panics
    /// With a path longer than [`PREKEY_PATH_NODES_MAX`].
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        assert!(self.path.len() <= PREKEY_PATH_NODES_MAX, "a path has a limit");
        let nodes = u32::try_from(self.path.len()).expect("the limit is below");
        let mut out = Vec::with_capacity(SIGNED_PREKEY_FIXED_BYTES + self.path.len() * 32);
        out.extend_from_slice(&[PREKEY_FORMAT, 0, 0, 0]);
        for field in [self.signature.key_record_version, self.count, self.index, nodes, 0] {
            out.extend_from_slice(&field.to_le_bytes());
        }
        // Where a batch has its agent's id: whose it is, the asker knows.
        out.extend_from_slice(&[0; 16]);
        out.extend_from_slice(&self.signature.signed_at_ms.to_le_bytes());
        self.signature.write(&mut out);
        out.extend_from_slice(&self.prekey.to_bytes());
        debug_assert_eq!(out.len(), SIGNED_PREKEY_FIXED_BYTES);
        out.extend_from_slice(self.path.as_flattened());
        out
    }

    /// Parses the bytes. Neither path nor signatures are verified here.
    ///
    /// # Errors
    /// [`RejectCode::FrameLength`] or [`RejectCode::FrameReserved`].
    pub fn parse(bytes: &[u8]) -> Result<Self, RejectCode> {
        let mut reader = Reader::new(bytes, RejectCode::FrameLength);
        if *reader.array()? != [PREKEY_FORMAT, 0, 0, 0] {
            return Err(RejectCode::FrameReserved);
        }
        let key_record_version = reader.u32()?;
        let (count, index, nodes) = (reader.u32()?, reader.u32()?, reader.u32()? as usize);
        reader.zeros(20, RejectCode::FrameReserved)?;
        let signature = read_signature(&mut reader, key_record_version)?;
        let prekey = Prekey::read(&mut reader)?;
        if count as usize > PREKEYS_PER_BATCH_MAX || index >= count || nodes > PREKEY_PATH_NODES_MAX {
            return Err(RejectCode::FrameReserved);
        }
        let path = (0..nodes).map(|_| reader.array().copied()).collect::<Result<Vec<_>, _>>()?;
        reader.end()?;
        Ok(Self { signature, count, index, prekey, path })
    }
}

/// Signing time, both signatures and the bytes that fill up behind them.
fn read_signature(reader: &mut Reader<'_>, key_record_version: u32) -> Result<PrekeySignature, RejectCode> {
    let signed_at_ms = reader.u64()?;
    let ed25519 = *reader.array()?;
    let ml_dsa_65 = Box::new(*reader.array()?);
    reader.zeros(3, RejectCode::FrameReserved)?;
    Ok(PrekeySignature { key_record_version, signed_at_ms, ed25519, ml_dsa_65 })
}
