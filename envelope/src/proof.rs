//! A proof: one message with all that shows who signed it, in one file that needs nothing else.
//!
//! `docs/proof-format.md` gives every byte. This module cuts the file into its parts and checks their form; whether the
//! signatures hold and the parts belong together is decided where the keys are (`creto_agent::proof`).
//!
//! The format has one encoding of each value: whatever is accepted comes back byte for byte from [`ProofParts::to_bytes`].

use thiserror::Error;

use crate::batch::BatchHeaderView;
use crate::envelope::EnvelopeView;
use crate::key_record::{AgentState, SignedKeyRecord};
use crate::limits::{PATH_NODES_MAX, PROOF_BYTES_MAX, SIGNED_KEY_RECORD_BYTES_MAX};
use crate::reader::{Reader, padding};
use crate::reject::RejectCode;

/// The first eight bytes of every proof.
pub const PROOF_MAGIC: [u8; 8] = *b"CRETOPRF";
/// The version that this code writes.
pub const PROOF_VERSION: u32 = 1;
/// Size of what stands in front of the batch header, in bytes.
pub const PROOF_HEADER_BYTES: usize = 56;

/// What a proof is made of.
#[derive(Clone, Copy, Debug)]
pub struct ProofParts<'a> {
    /// The batch's header, as it was signed and sent.
    pub batch_header: &'a [u8],
    /// The message's leaf in the batch's tree.
    pub leaf_index: u32,
    /// The leaf's salt.
    pub salt: &'a [u8; 16],
    /// Nodes from the leaf to the root, 32 bytes each.
    pub path: &'a [u8],
    /// The envelope's exact bytes.
    pub envelope: &'a [u8],
    /// The sender's key record, of the version that the batch header names.
    pub key_record: &'a SignedKeyRecord,
}

impl ProofParts<'_> {
    /// The file. The state of the key record is not part of it: the agent did not sign it.
    ///
    /// # Panics
    /// When a part is longer than its format allows: such a message was never admitted.
    #[must_use]
    #[allow(clippy::cast_possible_truncation, reason = "every length is asserted to be within its limit")]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut signed = self.key_record.clone();
        signed.record.state = AgentState::Active;
        let key_record = signed.to_bytes();
        assert!(self.path.len().is_multiple_of(32) && self.path.len() / 32 <= PATH_NODES_MAX, "a path is whole nodes");
        let padded = |bytes: &[u8]| bytes.len() + padding(bytes.len());
        let total = PROOF_HEADER_BYTES
            + self.batch_header.len()
            + self.path.len()
            + padded(self.envelope)
            + padded(&key_record);
        assert!(total <= PROOF_BYTES_MAX, "every part is within its limit");
        let mut out = Vec::with_capacity(total);
        out.extend_from_slice(&PROOF_MAGIC);
        let lengths = [total, self.batch_header.len(), key_record.len(), self.envelope.len()];
        out.extend_from_slice(&PROOF_VERSION.to_le_bytes());
        lengths.iter().for_each(|&length| out.extend_from_slice(&(length as u32).to_le_bytes()));
        out.extend_from_slice(&self.leaf_index.to_le_bytes());
        out.extend_from_slice(&[(self.path.len() / 32) as u8, 0, 0, 0, 0, 0, 0, 0]);
        out.extend_from_slice(self.salt);
        debug_assert_eq!(out.len(), PROOF_HEADER_BYTES);
        out.extend_from_slice(self.batch_header);
        out.extend_from_slice(self.path);
        for part in [self.envelope, &key_record] {
            out.extend_from_slice(part);
            out.resize(out.len() + padding(part.len()), 0);
        }
        assert_eq!(out.len(), total, "a proof is the sum of its parts");
        out
    }
}

/// A proof whose parts have the right form. No signature was looked at yet.
#[derive(Debug)]
pub struct ProofView<'a> {
    /// The batch's header.
    pub batch_header: BatchHeaderView<'a>,
    /// The message's leaf in the batch's tree.
    pub leaf_index: u32,
    /// The leaf's salt.
    pub salt: &'a [u8; 16],
    /// Nodes from the leaf to the root.
    pub path: &'a [[u8; 32]],
    /// The envelope.
    pub envelope: EnvelopeView<'a>,
    /// The sender's key record.
    pub key_record: SignedKeyRecord,
}

impl<'a> ProofView<'a> {
    /// Cuts `bytes`, which start at a multiple of eight, into their parts and checks the form of each.
    ///
    /// # Errors
    /// The [`ProofFormatError`] of the first rule that the bytes break.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, ProofFormatError> {
        let short = |_| ProofFormatError::Truncated;
        let mut reader = Reader::new(bytes, RejectCode::FrameLength);
        if !bytes.starts_with(&PROOF_MAGIC) {
            return Err(ProofFormatError::Magic);
        }
        reader.take(PROOF_MAGIC.len()).map_err(short)?;
        let version = reader.u32().map_err(short)?;
        if version != PROOF_VERSION {
            return Err(ProofFormatError::Version(version));
        }
        let total = reader.u32().map_err(short)? as usize;
        if bytes.len() < total {
            return Err(ProofFormatError::Truncated);
        }
        if bytes.len() > total || total > PROOF_BYTES_MAX {
            return Err(ProofFormatError::Length);
        }
        let batch_header_bytes = reader.u32().map_err(short)? as usize;
        let key_record_bytes = reader.u32().map_err(short)? as usize;
        let envelope_bytes = reader.u32().map_err(short)? as usize;
        let leaf_index = reader.u32().map_err(short)?;
        let path_nodes = usize::from(reader.u8().map_err(short)?);
        reader.zeros(7, RejectCode::FrameReserved).map_err(reserved)?;
        if path_nodes > PATH_NODES_MAX || key_record_bytes > SIGNED_KEY_RECORD_BYTES_MAX {
            return Err(ProofFormatError::Length);
        }
        let salt = reader.array().map_err(short)?;
        let batch_header = BatchHeaderView::parse(reader.take(batch_header_bytes).map_err(length)?)
            .map_err(ProofFormatError::BatchHeader)?;
        if batch_header.as_bytes().len() != batch_header_bytes {
            return Err(ProofFormatError::Length);
        }
        let (path, _) = reader.take(path_nodes * 32).map_err(length)?.as_chunks();
        let envelope =
            EnvelopeView::parse(reader.take(envelope_bytes).map_err(length)?).map_err(ProofFormatError::Envelope)?;
        reader.zeros(padding(envelope_bytes), RejectCode::FrameReserved).map_err(reserved)?;
        let key_record = SignedKeyRecord::parse(reader.take(key_record_bytes).map_err(length)?)
            .map_err(ProofFormatError::KeyRecord)?;
        reader.zeros(padding(key_record_bytes), RejectCode::FrameReserved).map_err(reserved)?;
        reader.end().map_err(length)?;
        if key_record.record.state != AgentState::Active {
            return Err(ProofFormatError::State);
        }
        Ok(Self { batch_header, leaf_index, salt, path, envelope, key_record })
    }

    /// The parts, to write them down again.
    #[must_use]
    pub fn parts(&self) -> ProofParts<'_> {
        ProofParts {
            batch_header: self.batch_header.as_bytes(),
            leaf_index: self.leaf_index,
            salt: self.salt,
            path: self.path.as_flattened(),
            envelope: self.envelope.as_bytes(),
            key_record: &self.key_record,
        }
    }
}

fn length(_: RejectCode) -> ProofFormatError {
    ProofFormatError::Length
}

fn reserved(code: RejectCode) -> ProofFormatError {
    match code {
        RejectCode::FrameReserved => ProofFormatError::Reserved,
        _ => ProofFormatError::Length,
    }
}

/// Why bytes are not a proof.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
#[non_exhaustive]
pub enum ProofFormatError {
    /// The first bytes are others.
    #[error("this is not a proof: it does not begin with CRETOPRF; give a file that `creto proof export` wrote")]
    Magic,
    /// A version that this code does not know.
    #[error("the proof has version {0}, this program reads version 1; verify it with a newer creto")]
    Version(u32),
    /// Bytes are missing at the end.
    #[error("the proof is cut short; get the whole file again")]
    Truncated,
    /// Lengths disagree with each other or with the file.
    #[error("the lengths in the proof do not fit the file; it was changed or badly written")]
    Length,
    /// A byte that must be zero is not.
    #[error("a reserved byte of the proof is not zero; it was changed or written by another version")]
    Reserved,
    /// The key record carries a state, which its agent did not sign.
    #[error("the key record in the proof carries a state; a proof says nothing that the sender did not sign")]
    State,
    /// The batch header breaks a rule of its format.
    #[error("the batch header in the proof is not valid: {0}")]
    BatchHeader(RejectCode),
    /// The envelope breaks a rule of its format.
    #[error("the envelope in the proof is not valid: {0}")]
    Envelope(RejectCode),
    /// The key record breaks a rule of its format, or names and keys do not derive to the ids in it.
    #[error("the key record in the proof is not valid: {0}")]
    KeyRecord(RejectCode),
}

// Batch header and path keep what follows them at a multiple of eight.
const _: () = assert!(PROOF_HEADER_BYTES.is_multiple_of(8));
