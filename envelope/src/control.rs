//! Frames of the control stream, and the two that every stream knows: StreamOpen and Reject.

use crate::batch::{ED25519_SIGNATURE_BYTES, ML_DSA_65_SIGNATURE_BYTES};
use crate::frame::{FrameType, begin_frame, finish_frame};
use crate::id::AgentId;
use crate::key_record::SignedKeyRecord;
use crate::reader::Reader;
use crate::reject::RejectCode;

/// Label of the TLS exporter that a login signs (RFC 8446 section 7.5), with an empty context and 32 bytes.
pub const LOGIN_EXPORTER_LABEL: &[u8] = b"EXPORTER-creto-login-v1";
/// Size of the login statement, in bytes.
pub const LOGIN_STATEMENT_BYTES: usize = 67;

const LOGIN_LABEL: &[u8; 14] = b"creto/login/v1";

/// What a stream is for.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(u8)]
#[non_exhaustive]
pub enum StreamRole {
    /// Login and questions.
    Control = 1,
    /// Batches up, acknowledgements down.
    Submit = 2,
    /// Messages down, credit and acknowledgements up.
    Deliver = 3,
    /// Messages of channels down, subscriptions, credit and acknowledgements up.
    Channels = 4,
}

/// First frame of every stream.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct StreamOpen {
    /// What the stream is for.
    pub role: StreamRole,
}

impl StreamOpen {
    /// Appends the frame.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let start = begin_frame(out, FrameType::StreamOpen);
        out.extend_from_slice(&[self.role as u8, 0, 0, 0, 0, 0, 0, 0]);
        finish_frame(out, start, FrameType::StreamOpen);
    }

    /// Parses the body.
    ///
    /// # Errors
    /// [`RejectCode::StreamRole`], [`RejectCode::FrameLength`] or [`RejectCode::FrameReserved`].
    pub fn parse(body: &[u8]) -> Result<Self, RejectCode> {
        let mut reader = Reader::new(body, RejectCode::FrameLength);
        let role = match reader.u8()? {
            1 => StreamRole::Control,
            2 => StreamRole::Submit,
            3 => StreamRole::Deliver,
            4 => StreamRole::Channels,
            _ => return Err(RejectCode::StreamRole),
        };
        reader.zeros(7, RejectCode::FrameReserved)?;
        reader.end()?;
        Ok(Self { role })
    }
}

/// The exact bytes that both identity keys sign to log in on the connection with this TLS exporter value.
#[must_use]
#[allow(clippy::cast_possible_truncation, reason = "the label has 14 bytes")]
pub fn login_statement(exporter: &[u8; 32], agent: &AgentId, key_record_version: u32) -> [u8; LOGIN_STATEMENT_BYTES] {
    let mut bytes = [0; LOGIN_STATEMENT_BYTES];
    bytes[0] = LOGIN_LABEL.len() as u8;
    bytes[1..15].copy_from_slice(LOGIN_LABEL);
    bytes[15..47].copy_from_slice(exporter);
    bytes[47..63].copy_from_slice(&agent.0);
    bytes[63..67].copy_from_slice(&key_record_version.to_le_bytes());
    bytes
}

/// Proves who the client is: signatures over [`login_statement`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Login {
    /// Who logs in.
    pub agent: AgentId,
    /// Which version of their key record holds the keys.
    pub key_record_version: u32,
    /// Ed25519 over the login statement.
    pub ed25519: [u8; ED25519_SIGNATURE_BYTES],
    /// ML-DSA-65 over the login statement.
    pub ml_dsa_65: Box<[u8; ML_DSA_65_SIGNATURE_BYTES]>,
}

impl Login {
    /// Appends the frame.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let start = begin_frame(out, FrameType::Login);
        out.extend_from_slice(&self.agent.0);
        out.extend_from_slice(&self.key_record_version.to_le_bytes());
        out.extend_from_slice(&[0; 4]);
        out.extend_from_slice(&self.ed25519);
        out.extend_from_slice(&self.ml_dsa_65[..]);
        out.extend_from_slice(&[0; 3]);
        finish_frame(out, start, FrameType::Login);
    }

    /// Parses the body.
    ///
    /// # Errors
    /// [`RejectCode::FrameLength`] or [`RejectCode::FrameReserved`].
    pub fn parse(body: &[u8]) -> Result<Self, RejectCode> {
        let mut reader = Reader::new(body, RejectCode::FrameLength);
        let agent = AgentId(*reader.array()?);
        let key_record_version = reader.u32()?;
        reader.zeros(4, RejectCode::FrameReserved)?;
        let ed25519 = *reader.array()?;
        let ml_dsa_65 = Box::new(*reader.array()?);
        reader.zeros(3, RejectCode::FrameReserved)?;
        reader.end()?;
        Ok(Self { agent, key_record_version, ed25519, ml_dsa_65 })
    }
}

/// The login held; what the node allows on this connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LoginAccepted {
    /// The node's clock, Unix milliseconds.
    pub node_time_ms: u64,
    /// The shard that owns this connection.
    pub shard_index: u32,
    /// How many shards the node has.
    pub shard_count: u32,
    /// Most messages that may wait for their acknowledgement on this connection.
    pub in_flight_messages_max: u32,
    /// Most messages in one batch.
    pub batch_messages_max: u32,
    /// Most bytes in one batch.
    pub batch_bytes_max: u32,
}

impl LoginAccepted {
    /// Appends the frame.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let start = begin_frame(out, FrameType::LoginAccepted);
        out.extend_from_slice(&self.node_time_ms.to_le_bytes());
        for field in [
            self.shard_index,
            self.shard_count,
            self.in_flight_messages_max,
            self.batch_messages_max,
            self.batch_bytes_max,
            0,
        ] {
            out.extend_from_slice(&field.to_le_bytes());
        }
        finish_frame(out, start, FrameType::LoginAccepted);
    }

    /// Parses the body.
    ///
    /// # Errors
    /// [`RejectCode::FrameLength`] or [`RejectCode::FrameReserved`].
    pub fn parse(body: &[u8]) -> Result<Self, RejectCode> {
        let mut reader = Reader::new(body, RejectCode::FrameLength);
        let accepted = Self {
            node_time_ms: reader.u64()?,
            shard_index: reader.u32()?,
            shard_count: reader.u32()?,
            in_flight_messages_max: reader.u32()?,
            batch_messages_max: reader.u32()?,
            batch_bytes_max: reader.u32()?,
        };
        reader.zeros(4, RejectCode::FrameReserved)?;
        reader.end()?;
        Ok(accepted)
    }
}

/// Something was refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Reject {
    /// The code's number; [`RejectCode::from_u16`] names it, if this version knows it.
    pub code: u16,
    /// When to try again, in milliseconds; zero when trying again is of no use or at once.
    pub retry_after_ms: u32,
    /// The agent or message that it is about, or zero.
    pub context: [u8; 16],
}

impl Reject {
    /// A refusal with the code's own [`retry_after_ms`](RejectCode::retry_after_ms) and nothing more to say.
    #[must_use]
    pub const fn new(code: RejectCode) -> Self {
        Self { code: code.as_u16(), retry_after_ms: code.retry_after_ms(), context: [0; 16] }
    }

    /// Appends the frame.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let start = begin_frame(out, FrameType::Reject);
        out.extend_from_slice(&self.code.to_le_bytes());
        out.extend_from_slice(&[0; 2]);
        out.extend_from_slice(&self.retry_after_ms.to_le_bytes());
        out.extend_from_slice(&self.context);
        finish_frame(out, start, FrameType::Reject);
    }

    /// Parses the body.
    ///
    /// # Errors
    /// [`RejectCode::FrameLength`] or [`RejectCode::FrameReserved`].
    pub fn parse(body: &[u8]) -> Result<Self, RejectCode> {
        let mut reader = Reader::new(body, RejectCode::FrameLength);
        let code = reader.u16()?;
        reader.zeros(2, RejectCode::FrameReserved)?;
        let reject = Self { code, retry_after_ms: reader.u32()?, context: *reader.array()? };
        reader.end()?;
        Ok(reject)
    }
}

/// Asks for the key record of an agent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct KeyRecordRequest {
    /// Whose.
    pub agent: AgentId,
    /// Which version; zero is the current one.
    pub version: u32,
}

impl KeyRecordRequest {
    /// Appends the frame.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let start = begin_frame(out, FrameType::KeyRecordRequest);
        out.extend_from_slice(&self.agent.0);
        out.extend_from_slice(&self.version.to_le_bytes());
        out.extend_from_slice(&[0; 4]);
        finish_frame(out, start, FrameType::KeyRecordRequest);
    }

    /// Parses the body.
    ///
    /// # Errors
    /// [`RejectCode::FrameLength`] or [`RejectCode::FrameReserved`].
    pub fn parse(body: &[u8]) -> Result<Self, RejectCode> {
        let mut reader = Reader::new(body, RejectCode::FrameLength);
        let request = Self { agent: AgentId(*reader.array()?), version: reader.u32()? };
        reader.zeros(4, RejectCode::FrameReserved)?;
        reader.end()?;
        Ok(request)
    }
}

/// Appends a KeyRecordResponse frame; [`SignedKeyRecord::parse`] reads its body.
pub fn encode_key_record_response(out: &mut Vec<u8>, record: &SignedKeyRecord) {
    let start = begin_frame(out, FrameType::KeyRecordResponse);
    out.extend_from_slice(&record.to_bytes());
    finish_frame(out, start, FrameType::KeyRecordResponse);
}

/// Why an agent's encryption key is replaced, and so what becomes of the old one.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
#[repr(u8)]
pub enum RotationMode {
    /// On a schedule or on demand: what is sealed to the old key is accepted for the grace period.
    #[default]
    Planned = 0,
    /// The old key may be in foreign hands: nothing that is sealed to it, or to one before it, is accepted any more.
    Emergency = 1,
}

impl RotationMode {
    /// The mode with this number.
    #[must_use]
    pub const fn from_u8(mode: u8) -> Option<Self> {
        Some(match mode {
            0 => Self::Planned,
            1 => Self::Emergency,
            _ => return None,
        })
    }
}

/// Publishes the next version of the agent's own key record: other encryption key, same signing keys.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct KeyRecordPublish {
    /// What becomes of the key that it replaces.
    pub mode: RotationMode,
    /// The record.
    pub record: SignedKeyRecord,
}

impl KeyRecordPublish {
    /// Appends the frame.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let start = begin_frame(out, FrameType::KeyRecordPublish);
        out.extend_from_slice(&[self.mode as u8, 0, 0, 0, 0, 0, 0, 0]);
        out.extend_from_slice(&self.record.to_bytes());
        finish_frame(out, start, FrameType::KeyRecordPublish);
    }

    /// Parses the body. The record's signatures are not verified here.
    ///
    /// # Errors
    /// [`RejectCode::FrameLength`] or [`RejectCode::FrameReserved`].
    pub fn parse(body: &[u8]) -> Result<Self, RejectCode> {
        let mut reader = Reader::new(body, RejectCode::FrameLength);
        let mode = RotationMode::from_u8(reader.u8()?).ok_or(RejectCode::FrameReserved)?;
        reader.zeros(7, RejectCode::FrameReserved)?;
        let record = SignedKeyRecord::parse(reader.take(reader.remaining())?)?;
        Ok(Self { mode, record })
    }
}

/// The published record is durable on the node, and is the agent's current one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct KeyRecordPublished {
    /// Its version.
    pub version: u32,
}

impl KeyRecordPublished {
    /// Appends the frame.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let start = begin_frame(out, FrameType::KeyRecordPublished);
        out.extend_from_slice(&self.version.to_le_bytes());
        out.extend_from_slice(&[0; 4]);
        finish_frame(out, start, FrameType::KeyRecordPublished);
    }

    /// Parses the body.
    ///
    /// # Errors
    /// [`RejectCode::FrameLength`] or [`RejectCode::FrameReserved`].
    pub fn parse(body: &[u8]) -> Result<Self, RejectCode> {
        let mut reader = Reader::new(body, RejectCode::FrameLength);
        let published = Self { version: reader.u32()? };
        reader.zeros(4, RejectCode::FrameReserved)?;
        reader.end()?;
        Ok(published)
    }
}
