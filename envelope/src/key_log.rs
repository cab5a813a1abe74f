//! Frames of the control stream about the key log: that a key record is in it, and what its leaves are. The leaves, hashes and
//! notes inside are `docs/key-transparency.md`'s; here they are bytes.
//!
//! Each question has one answer, in the order of the questions of one kind. What cannot be granted is said in the answer, not in a
//! Reject: that way no answer is taken for one about something else.

use crate::frame::{FrameType, begin_frame, finish_frame};
use crate::id::AgentId;
use crate::limits::{
    CONTROL_BODY_BYTES_MAX, KEY_LEAVES_MAX, KEY_LOG_HASHES_MAX, KEY_LOG_KEYS_BYTES_MAX, KEY_LOG_NOTE_BYTES_MAX,
};
use crate::reader::Reader;
use crate::reject::RejectCode;

/// Bytes of a leaf.
pub const KEY_LEAF_BYTES: usize = 120;
const ANSWER_BYTES: usize = 32;
const PROVEN_BYTES: usize = ANSWER_BYTES + 16 + KEY_LEAF_BYTES;
const LEAVES_BYTES: usize = 24;
const FLAG_WANTS_KEYS: u32 = 1;

// The largest answer fits its frame.
const _: () = assert!(
    PROVEN_BYTES + 2 * KEY_LOG_HASHES_MAX * 32 + KEY_LOG_NOTE_BYTES_MAX + KEY_LOG_KEYS_BYTES_MAX
        <= CONTROL_BODY_BYTES_MAX
);
const _: () = assert!(LEAVES_BYTES + KEY_LEAVES_MAX * KEY_LEAF_BYTES <= FrameType::KeyLeaves.body_bytes_max());

/// Asks how a key record stands in the key log.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct KeyProofRequest {
    /// Whose record.
    pub agent: AgentId,
    /// Its version.
    pub version: u32,
    /// Leaves of the newest head that the client has seen, from which the log must be shown to have grown; zero for none.
    pub seen: u64,
    /// Whether the client needs the log's public keys.
    pub wants_keys: bool,
}

impl KeyProofRequest {
    /// Appends the frame.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let start = begin_frame(out, FrameType::KeyProofRequest);
        out.extend_from_slice(&self.agent.0);
        out.extend_from_slice(&self.version.to_le_bytes());
        out.extend_from_slice(&if self.wants_keys { FLAG_WANTS_KEYS } else { 0 }.to_le_bytes());
        out.extend_from_slice(&self.seen.to_le_bytes());
        finish_frame(out, start, FrameType::KeyProofRequest);
    }

    /// Parses the body.
    ///
    /// # Errors
    /// [`RejectCode::FrameLength`] or [`RejectCode::FrameReserved`].
    pub fn parse(body: &[u8]) -> Result<Self, RejectCode> {
        let mut reader = Reader::new(body, RejectCode::FrameLength);
        let (agent, version, flags) = (AgentId(*reader.array()?), reader.u32()?, reader.u32()?);
        let request = Self { agent, version, seen: reader.u64()?, wants_keys: flags == FLAG_WANTS_KEYS };
        if flags & !FLAG_WANTS_KEYS != 0 {
            return Err(RejectCode::FrameReserved);
        }
        reader.end()?;
        Ok(request)
    }
}

/// Why a question about the key log is not granted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct KeyLogRefusal {
    /// The code's number, never 0; [`RejectCode::from_u16`] names it, if this version knows it.
    pub code: u16,
    /// When asking again may help, in milliseconds; zero for at once or never, as the code says.
    pub retry_after_ms: u32,
}

impl From<RejectCode> for KeyLogRefusal {
    fn from(code: RejectCode) -> Self {
        Self { code: code.as_u16(), retry_after_ms: code.retry_after_ms() }
    }
}

/// How a key record stands in the key log.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct KeyProof {
    /// Whose record.
    pub agent: AgentId,
    /// Its version.
    pub version: u32,
    /// The proof, or why there is none.
    pub answer: Result<ProvenKey, KeyLogRefusal>,
}

/// The proof of one record.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ProvenKey {
    /// Leaves of the head that it is for.
    pub size: u64,
    /// Which leaf.
    pub index: u64,
    /// The leaf.
    pub leaf: [u8; KEY_LEAF_BYTES],
    /// From the leaf's sibling upwards.
    pub path: Vec<[u8; 32]>,
    /// That the tree of `size` leaves begins with the one that the client has seen.
    pub consistency: Vec<[u8; 32]>,
    /// The signed head; empty when it is of the size that the client has seen.
    pub note: Vec<u8>,
    /// The log's public keys; empty unless they were asked for.
    pub keys: Vec<u8>,
}

impl KeyProof {
    /// Appends the frame.
    ///
    /// # Panics
    /// When something is longer than its limit.
    #[allow(clippy::cast_possible_truncation, reason = "asserted to be below their limits")]
    pub fn encode(&self, out: &mut Vec<u8>) {
        let start = begin_frame(out, FrameType::KeyProof);
        out.extend_from_slice(&self.agent.0);
        out.extend_from_slice(&self.version.to_le_bytes());
        match &self.answer {
            Err(KeyLogRefusal { code, retry_after_ms }) => {
                assert_ne!(*code, 0, "a refusal has a code");
                out.extend_from_slice(&code.to_le_bytes());
                out.extend_from_slice(&[0; 2]);
                out.extend_from_slice(&retry_after_ms.to_le_bytes());
                out.extend_from_slice(&[0; 4]);
            }
            Ok(proven) => {
                let ProvenKey { size, index, leaf, path, consistency, note, keys } = proven;
                assert!(path.len().max(consistency.len()) <= KEY_LOG_HASHES_MAX, "no tree has longer paths");
                assert!(
                    note.len() <= KEY_LOG_NOTE_BYTES_MAX && keys.len() <= KEY_LOG_KEYS_BYTES_MAX,
                    "a head and keys within their limits"
                );
                out.extend_from_slice(&[0, 0, path.len() as u8, consistency.len() as u8, 0, 0, 0, 0]);
                out.extend_from_slice(&(note.len() as u16).to_le_bytes());
                out.extend_from_slice(&(keys.len() as u16).to_le_bytes());
                out.extend_from_slice(&size.to_le_bytes());
                out.extend_from_slice(&index.to_le_bytes());
                out.extend_from_slice(leaf);
                for part in [path.as_flattened(), consistency.as_flattened(), note, keys] {
                    out.extend_from_slice(part);
                }
            }
        }
        finish_frame(out, start, FrameType::KeyProof);
    }

    /// Parses the body.
    ///
    /// # Errors
    /// [`RejectCode::FrameLength`] or [`RejectCode::FrameReserved`].
    pub fn parse(body: &[u8]) -> Result<Self, RejectCode> {
        let mut reader = Reader::new(body, RejectCode::FrameLength);
        let (agent, version, code) = (AgentId(*reader.array()?), reader.u32()?, reader.u16()?);
        let (path, consistency) = (usize::from(reader.u8()?), usize::from(reader.u8()?));
        let retry_after_ms = reader.u32()?;
        let (note, keys) = (usize::from(reader.u16()?), usize::from(reader.u16()?));
        if code != 0 {
            if path + consistency + note + keys != 0 {
                return Err(RejectCode::FrameReserved);
            }
            reader.end()?;
            return Ok(Self { agent, version, answer: Err(KeyLogRefusal { code, retry_after_ms }) });
        }
        if retry_after_ms != 0 {
            return Err(RejectCode::FrameReserved);
        }
        let is_within = path.max(consistency) <= KEY_LOG_HASHES_MAX
            && note <= KEY_LOG_NOTE_BYTES_MAX
            && keys <= KEY_LOG_KEYS_BYTES_MAX;
        if !is_within {
            return Err(RejectCode::FrameLength);
        }
        let (size, index, leaf) = (reader.u64()?, reader.u64()?, *reader.array()?);
        let mut hashes = |count: usize| (0..count).map(|_| reader.array().copied()).collect::<Result<Vec<_>, _>>();
        let (path, consistency) = (hashes(path)?, hashes(consistency)?);
        let (note, keys) = (reader.take(note)?.to_vec(), reader.take(keys)?.to_vec());
        reader.end()?;
        let proven = ProvenKey { size, index, leaf, path, consistency, note, keys };
        Ok(Self { agent, version, answer: Ok(proven) })
    }
}

/// Asks for the leaves of the key log, in order.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct KeyLeavesRequest {
    /// The first one.
    pub from: u64,
    /// The one behind the last one; above `from`.
    pub through: u64,
}

impl KeyLeavesRequest {
    /// Appends the frame.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let start = begin_frame(out, FrameType::KeyLeavesRequest);
        out.extend_from_slice(&self.from.to_le_bytes());
        out.extend_from_slice(&self.through.to_le_bytes());
        finish_frame(out, start, FrameType::KeyLeavesRequest);
    }

    /// Parses the body.
    ///
    /// # Errors
    /// [`RejectCode::FrameLength`], also when it asks for no leaf.
    pub fn parse(body: &[u8]) -> Result<Self, RejectCode> {
        let mut reader = Reader::new(body, RejectCode::FrameLength);
        let request = Self { from: reader.u64()?, through: reader.u64()? };
        reader.end()?;
        if request.from < request.through { Ok(request) } else { Err(RejectCode::FrameLength) }
    }
}

/// The next leaves: as many as were asked for and there are, at most [`KEY_LEAVES_MAX`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct KeyLeaves {
    /// The first one.
    pub from: u64,
    /// They, or why they are not given.
    pub answer: Result<Vec<[u8; KEY_LEAF_BYTES]>, KeyLogRefusal>,
}

impl KeyLeaves {
    /// Appends the frame.
    ///
    /// # Panics
    /// Above [`KEY_LEAVES_MAX`] leaves.
    #[allow(clippy::cast_possible_truncation, reason = "asserted to be below KEY_LEAVES_MAX")]
    pub fn encode(&self, out: &mut Vec<u8>) {
        let start = begin_frame(out, FrameType::KeyLeaves);
        let (leaves, refusal) = match &self.answer {
            Ok(leaves) => (&leaves[..], KeyLogRefusal { code: 0, retry_after_ms: 0 }),
            Err(refusal) => (&[][..], *refusal),
        };
        assert!(leaves.len() <= KEY_LEAVES_MAX, "leaves are given page by page");
        out.extend_from_slice(&self.from.to_le_bytes());
        out.extend_from_slice(&(leaves.len() as u32).to_le_bytes());
        out.extend_from_slice(&refusal.code.to_le_bytes());
        out.extend_from_slice(&[0; 2]);
        out.extend_from_slice(&refusal.retry_after_ms.to_le_bytes());
        out.extend_from_slice(&[0; 4]);
        out.extend_from_slice(leaves.as_flattened());
        finish_frame(out, start, FrameType::KeyLeaves);
    }

    /// Parses the body.
    ///
    /// # Errors
    /// [`RejectCode::FrameLength`] or [`RejectCode::FrameReserved`].
    pub fn parse(body: &[u8]) -> Result<Self, RejectCode> {
        let mut reader = Reader::new(body, RejectCode::FrameLength);
        let (from, count, code) = (reader.u64()?, reader.u32()? as usize, reader.u16()?);
        reader.zeros(2, RejectCode::FrameReserved)?;
        let retry_after_ms = reader.u32()?;
        reader.zeros(4, RejectCode::FrameReserved)?;
        if count > KEY_LEAVES_MAX || reader.remaining() != count * KEY_LEAF_BYTES {
            return Err(RejectCode::FrameLength);
        }
        let leaves = (0..count).map(|_| reader.array().copied()).collect::<Result<Vec<_>, _>>()?;
        reader.end()?;
        match (code, count, retry_after_ms) {
            (0, _, 0) => Ok(Self { from, answer: Ok(leaves) }),
            (0, _, _) => Err(RejectCode::FrameReserved),
            (code, 0, retry_after_ms) => Ok(Self { from, answer: Err(KeyLogRefusal { code, retry_after_ms }) }),
            _ => Err(RejectCode::FrameReserved),
        }
    }
}

/// A question about the key log.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum KeyLogQuestion {
    /// How does a record stand in it?
    Proof(KeyProofRequest),
    /// What are its leaves?
    Leaves(KeyLeavesRequest),
}

impl KeyLogQuestion {
    /// The frame that refuses it.
    #[must_use]
    pub fn refused(&self, refusal: KeyLogRefusal) -> Vec<u8> {
        let mut out = Vec::new();
        match *self {
            Self::Proof(KeyProofRequest { agent, version, .. }) => {
                KeyProof { agent, version, answer: Err(refusal) }.encode(&mut out);
            }
            Self::Leaves(KeyLeavesRequest { from, .. }) => KeyLeaves { from, answer: Err(refusal) }.encode(&mut out),
        }
        out
    }
}
