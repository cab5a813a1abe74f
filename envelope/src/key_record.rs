//! Key records: the public keys of an agent, self-signed by both of its signing keys.

use crate::batch::{ED25519_SIGNATURE_BYTES, ML_DSA_65_SIGNATURE_BYTES};
use crate::control::RotationMode;
use crate::id::{AgentId, AgentName, KeyId, TrustDomain};
use crate::reader::Reader;
use crate::reject::RejectCode;

use sha2::{Digest, Sha256};

/// The newest format that this code writes: that of a record with a [`Purpose`].
pub const KEY_RECORD_FORMAT: u8 = 2;
/// The format of a record without one.
const KEY_RECORD_FORMAT_PLAIN: u8 = 1;
/// Both algorithms are required: bit 0 Ed25519, bit 1 ML-DSA-65.
pub const ALGORITHMS_HYBRID: u8 = 0b11;
/// The same and FN-DSA-512, bit 2: experimental, its standard is not final.
pub const ALGORITHMS_TRIPLE: u8 = 0b111;
/// Size of an FN-DSA-512 verifying key, in bytes (Falcon specification, table 3.3; FIPS 206 is not final).
pub const FN_DSA_512_PUBLIC_BYTES: usize = 897;
/// Size of a key record without its names, in bytes.
pub const KEY_RECORD_FIXED_BYTES: usize = 3_264;
/// Size of what binds a record to a token for enrolment, in bytes.
pub const TOKEN_BINDING_BYTES: usize = 32;

const SIGNATURE_LABEL: &[u8; 19] = b"creto/key-record/v1";
const STATE_OFFSET: usize = 2;

/// Whether an agent may act.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
#[repr(u8)]
pub enum AgentState {
    /// It may.
    #[default]
    Active = 0,
    /// Not now.
    Suspended = 1,
    /// Never again.
    Revoked = 2,
}

impl AgentState {
    /// The state with this number.
    #[must_use]
    pub const fn from_u8(state: u8) -> Option<Self> {
        Some(match state {
            0 => Self::Active,
            1 => Self::Suspended,
            2 => Self::Revoked,
            _ => return None,
        })
    }
}

/// The one thing that an agent signed a record for. Whoever carries the record can use it for nothing else.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Purpose {
    /// To be registered with one token: its [`token_binding`].
    Enrolment([u8; TOKEN_BINDING_BYTES]),
    /// To take the place of the version before it, so.
    Rotation(RotationMode),
}

impl Purpose {
    /// The byte of the record.
    const fn number(&self) -> u8 {
        match self {
            Self::Enrolment(_) => 1,
            Self::Rotation(RotationMode::Planned) => 2,
            Self::Rotation(RotationMode::Emergency) => 3,
        }
    }
}

/// What binds the record of `agent` to the token with this SHA-256: SHA-256("creto/enrol-token/v1" || that || agent id). Who sees the
/// record learns nothing of the token, nor which agents were registered with the same one.
#[must_use]
pub fn token_binding(token_hash: &[u8; 32], agent: &AgentId) -> [u8; TOKEN_BINDING_BYTES] {
    let mut hash = Sha256::new();
    hash.update(b"creto/enrol-token/v1");
    hash.update(token_hash);
    hash.update(agent.0);
    hash.finalize().into()
}

/// The public keys of an agent.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct KeyRecord {
    /// Counts the changes of the record, from 1.
    pub version: u32,
    /// Whether the agent may act. Set by control, not covered by the agent's own signatures.
    pub state: AgentState,
    /// Start of validity, Unix milliseconds.
    pub valid_from_ms: u64,
    /// End of validity, Unix milliseconds (exclusive).
    pub valid_until_ms: u64,
    /// Verifies Ed25519 signatures (RFC 8032).
    pub ed25519: [u8; 32],
    /// Half of the encryption key: X25519 (RFC 7748).
    pub x25519: [u8; 32],
    /// Verifies ML-DSA-65 signatures (FIPS 204).
    pub ml_dsa_65: Box<[u8; 1952]>,
    /// The other half of the encryption key: ML-KEM-768 (FIPS 203).
    pub ml_kem_768: Box<[u8; 1184]>,
    /// The agent's name.
    pub name: AgentName,
    /// The trust domain of the name.
    pub trust_domain: TrustDomain,
    /// Verifies FN-DSA-512 signatures. With it every batch of this agent must carry one; without it none may.
    /// Experimental: the standard is not final.
    pub fn_dsa_512: Option<Box<[u8; FN_DSA_512_PUBLIC_BYTES]>>,
    /// What it was signed for. `None`: by an agent that brought no token and replaced no key, or before records said so.
    pub purpose: Option<Purpose>,
}

impl KeyRecord {
    /// The agent that the name derives to.
    #[must_use]
    pub fn agent_id(&self) -> AgentId {
        AgentId::derive(&self.trust_domain, &self.name)
    }

    /// The id of the encryption key.
    #[must_use]
    pub fn key_id(&self) -> KeyId {
        KeyId::derive(&self.x25519, &self.ml_kem_768)
    }

    /// The record's bytes.
    #[must_use]
    #[allow(clippy::cast_possible_truncation, reason = "names are at most 128 and 255 bytes long")]
    pub fn to_bytes(&self) -> Vec<u8> {
        let (name, trust_domain) = (self.name.as_str(), self.trust_domain.as_str());
        let mut out = Vec::with_capacity(KEY_RECORD_FIXED_BYTES + name.len() + trust_domain.len());
        let algorithms = if self.fn_dsa_512.is_some() { ALGORITHMS_TRIPLE } else { ALGORITHMS_HYBRID };
        let format = if self.purpose.is_some() { KEY_RECORD_FORMAT } else { KEY_RECORD_FORMAT_PLAIN };
        let purpose = self.purpose.as_ref().map_or(0, Purpose::number);
        out.extend_from_slice(&[format, algorithms, self.state as u8, purpose]);
        out.extend_from_slice(&self.version.to_le_bytes());
        out.extend_from_slice(&self.agent_id().0);
        out.extend_from_slice(&self.valid_from_ms.to_le_bytes());
        out.extend_from_slice(&self.valid_until_ms.to_le_bytes());
        out.extend_from_slice(&self.key_id().0);
        out.extend_from_slice(&self.ed25519);
        out.extend_from_slice(&self.x25519);
        out.extend_from_slice(&self.ml_dsa_65[..]);
        out.extend_from_slice(&self.ml_kem_768[..]);
        out.extend_from_slice(&(name.len() as u16).to_le_bytes());
        out.extend_from_slice(&(trust_domain.len() as u16).to_le_bytes());
        out.extend_from_slice(&[0; 4]);
        debug_assert_eq!(out.len(), KEY_RECORD_FIXED_BYTES);
        out.extend_from_slice(name.as_bytes());
        out.extend_from_slice(trust_domain.as_bytes());
        if let Some(fn_dsa_512) = &self.fn_dsa_512 {
            out.extend_from_slice(&fn_dsa_512[..]);
        }
        if let Some(Purpose::Enrolment(binding)) = &self.purpose {
            out.extend_from_slice(binding);
        }
        out
    }

    /// Parses a record. The ids inside must be the ones that names and keys derive to.
    ///
    /// # Errors
    /// [`RejectCode::FrameLength`] for a wrong length, [`RejectCode::FrameReserved`] for anything else that is not
    /// as the format says.
    pub fn parse(bytes: &[u8]) -> Result<Self, RejectCode> {
        let bad = RejectCode::FrameReserved;
        let mut reader = Reader::new(bytes, RejectCode::FrameLength);
        let has_purpose = match reader.u8()? {
            KEY_RECORD_FORMAT_PLAIN => false,
            KEY_RECORD_FORMAT => true,
            _ => return Err(bad),
        };
        let has_fn_dsa_512 = match reader.u8()? {
            ALGORITHMS_HYBRID => false,
            ALGORITHMS_TRIPLE => true,
            _ => return Err(bad),
        };
        let state = AgentState::from_u8(reader.u8()?).ok_or(bad)?;
        let mut purpose = match (has_purpose, reader.u8()?) {
            (false, 0) => None,
            (true, 1) => Some(Purpose::Enrolment([0; TOKEN_BINDING_BYTES])),
            (true, 2) => Some(Purpose::Rotation(RotationMode::Planned)),
            (true, 3) => Some(Purpose::Rotation(RotationMode::Emergency)),
            _ => return Err(bad),
        };
        let version = reader.u32()?;
        let agent_id = AgentId(*reader.array()?);
        let valid_from_ms = reader.u64()?;
        let valid_until_ms = reader.u64()?;
        let key_id = KeyId(*reader.array()?);
        let ed25519 = *reader.array()?;
        let x25519 = *reader.array()?;
        let ml_dsa_65 = Box::new(*reader.array()?);
        let ml_kem_768 = Box::new(*reader.array()?);
        let name_bytes = usize::from(reader.u16()?);
        let trust_domain_bytes = usize::from(reader.u16()?);
        reader.zeros(4, bad)?;
        let text = |bytes| std::str::from_utf8(bytes).map_err(|_| bad);
        let name = AgentName::parse(text(reader.take(name_bytes)?)?).map_err(|_| bad)?;
        let trust_domain = TrustDomain::parse(text(reader.take(trust_domain_bytes)?)?).map_err(|_| bad)?;
        let fn_dsa_512 = match has_fn_dsa_512 {
            true => Some(Box::new(*reader.array()?)),
            false => None,
        };
        if let Some(Purpose::Enrolment(binding)) = &mut purpose {
            *binding = *reader.array()?;
        }
        reader.end()?;
        let record = Self {
            version,
            state,
            valid_from_ms,
            valid_until_ms,
            ed25519,
            x25519,
            ml_dsa_65,
            ml_kem_768,
            name,
            trust_domain,
            fn_dsa_512,
            purpose,
        };
        if version == 0 || record.agent_id() != agent_id || record.key_id() != key_id {
            return Err(bad);
        }
        Ok(record)
    }

    /// The exact bytes that both of the agent's signing keys sign: label and record, the state byte set to zero.
    #[must_use]
    #[allow(clippy::cast_possible_truncation, reason = "the label has 19 bytes")]
    pub fn signed_bytes(&self) -> Vec<u8> {
        let mut record = self.to_bytes();
        record[STATE_OFFSET] = 0;
        let mut out = vec![SIGNATURE_LABEL.len() as u8];
        out.extend_from_slice(SIGNATURE_LABEL);
        out.append(&mut record);
        out
    }
}

/// A key record with the agent's own signatures over it: proof that it holds the keys.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SignedKeyRecord {
    /// The record.
    pub record: KeyRecord,
    /// Ed25519 over [`KeyRecord::signed_bytes`].
    pub ed25519: [u8; ED25519_SIGNATURE_BYTES],
    /// ML-DSA-65 over the same.
    pub ml_dsa_65: Box<[u8; ML_DSA_65_SIGNATURE_BYTES]>,
}

impl SignedKeyRecord {
    /// The bytes as they are stored and sent.
    #[must_use]
    #[allow(clippy::cast_possible_truncation, reason = "a record is below 4 KiB")]
    pub fn to_bytes(&self) -> Vec<u8> {
        let record = self.record.to_bytes();
        let mut out = Vec::with_capacity(8 + record.len() + ED25519_SIGNATURE_BYTES + ML_DSA_65_SIGNATURE_BYTES);
        out.extend_from_slice(&(record.len() as u32).to_le_bytes());
        out.extend_from_slice(&[0; 4]);
        out.extend_from_slice(&record);
        out.extend_from_slice(&self.ed25519);
        out.extend_from_slice(&self.ml_dsa_65[..]);
        out
    }

    /// Parses a signed record. The signatures are not verified here: `crypto-accel` does that.
    ///
    /// # Errors
    /// As [`KeyRecord::parse`].
    pub fn parse(bytes: &[u8]) -> Result<Self, RejectCode> {
        let mut reader = Reader::new(bytes, RejectCode::FrameLength);
        let record_bytes = reader.u32()? as usize;
        reader.zeros(4, RejectCode::FrameReserved)?;
        let record = KeyRecord::parse(reader.take(record_bytes)?)?;
        let ed25519 = *reader.array()?;
        let ml_dsa_65 = Box::new(*reader.array()?);
        reader.end()?;
        Ok(Self { record, ed25519, ml_dsa_65 })
    }
}
