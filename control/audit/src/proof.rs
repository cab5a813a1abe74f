//! A proof that one entry is in the log: one small file, checked with the log's public keys and nothing else.
//!
//! The file is a [c2sp.org/tlog-proof](https://c2sp.org/tlog-proof); its `extra` is the entry, and, where it was asked for, the proof
//! that the log grew out of an older checkpoint:
//!
//! ```text
//! 0 u8 version=1 | 1 u8 n | 2 u16 entry_bytes | 4 u32 zero | 8 u64 old size | 16 entry | [32] x n consistency proof
//! ```

use std::fmt::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use creto_crypto_accel::merkle::leaf_hash;
use thiserror::Error;

use crate::checkpoint::{CheckpointError, LogVerifier, SignedCheckpoint, hash, number};
use crate::event::{ChainedEvent, EventError};
use crate::limits::{ENTRY_BYTES_MAX, ENTRY_BYTES_MIN, PATH_HASHES_MAX, PROOF_BYTES_MAX, SALT_BYTES};
use crate::reader::Reader;
use crate::tree::{Hash, PathError, check_consistency, root_of_inclusion};

#[cfg(test)]
mod tests;

/// The first line of the file.
pub const PROOF_HEADER: &str = "c2sp.org/tlog-proof@v1";
const EXTRA_VERSION: u8 = 1;

/// The hash of an entry's leaf: SHA-256(0x00 || entry). `None` when it is too short to have a salt.
#[must_use]
pub fn entry_hash(entry: &[u8]) -> Option<Hash> {
    entry.split_first_chunk().map(|(salt, event)| leaf_hash(salt, event))
}

/// A proof, not verified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InclusionProof {
    /// Which leaf.
    pub index: u64,
    /// Salt and event.
    pub entry: Vec<u8>,
    /// From the leaf's sibling upwards.
    pub path: Vec<Hash>,
    /// The checkpoint's note.
    pub checkpoint: String,
    /// The size of an older checkpoint, and the proof that the log grew out of it.
    pub grown_from: Option<(u64, Vec<Hash>)>,
}

/// What a proof proves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProvenEntry {
    /// Which leaf.
    pub index: u64,
    /// What it says.
    pub event: ChainedEvent,
    /// Under which checkpoint.
    pub checkpoint: SignedCheckpoint,
}

impl InclusionProof {
    /// The file.
    ///
    /// # Panics
    /// When entry or proofs are longer than any can be.
    #[must_use]
    pub fn to_text(&self) -> String {
        let (old_size, consistency) = self.grown_from.as_ref().map_or((0, &[][..]), |(size, proof)| (*size, proof));
        assert!(
            consistency.len() <= PATH_HASHES_MAX && self.entry.len() <= ENTRY_BYTES_MAX,
            "a proof within its limits"
        );
        let mut extra = vec![EXTRA_VERSION, u8::try_from(consistency.len()).expect("checked above")];
        extra.extend_from_slice(&u16::try_from(self.entry.len()).expect("checked above").to_le_bytes());
        extra.extend_from_slice(&[0; 4]);
        extra.extend_from_slice(&old_size.to_le_bytes());
        extra.extend_from_slice(&self.entry);
        extra.extend_from_slice(consistency.as_flattened());
        let mut text = format!("{PROOF_HEADER}\nextra {}\nindex {}\n", STANDARD.encode(extra), self.index);
        for node in &self.path {
            writeln!(text, "{}", STANDARD.encode(node)).expect("a String takes all");
        }
        text.push('\n');
        text.push_str(&self.checkpoint);
        text
    }

    /// Whether a file may be one: it begins with [`PROOF_HEADER`].
    #[must_use]
    pub fn is_one(bytes: &[u8]) -> bool {
        bytes.starts_with(PROOF_HEADER.as_bytes())
    }

    /// Reads the file.
    ///
    /// # Errors
    /// [`ProofError::Form`].
    pub fn parse(bytes: &[u8]) -> Result<Self, ProofError> {
        if bytes.len() > PROOF_BYTES_MAX {
            return Err(ProofError::Form);
        }
        let text = str::from_utf8(bytes).map_err(|_| ProofError::Form)?;
        let (head, checkpoint) = text.split_once("\n\n").ok_or(ProofError::Form)?;
        let mut lines = head.split('\n');
        let parsed = (|| {
            (lines.next()? == PROOF_HEADER).then_some(())?;
            let extra = STANDARD.decode(lines.next()?.strip_prefix("extra ")?).ok()?;
            let index = number(lines.next()?.strip_prefix("index ")?)?;
            let path = lines.map(hash).collect::<Option<Vec<_>>>()?;
            let (entry, grown_from) = parse_extra(&extra)?;
            let checkpoint = checkpoint.to_owned();
            (path.len() <= PATH_HASHES_MAX).then_some(Self { index, entry, path, checkpoint, grown_from })
        })();
        parsed.ok_or(ProofError::Form)
    }

    /// Checks the proof: the checkpoint with both signatures, the path, and, if an older checkpoint is given, that the log grew
    /// out of it.
    ///
    /// # Errors
    /// [`ProofError`]: the first rule that is broken.
    pub fn verify(&self, log: &LogVerifier, since: Option<&SignedCheckpoint>) -> Result<ProvenEntry, ProofError> {
        let checkpoint = log.verify(self.checkpoint.as_bytes())?;
        if let Some(since) = since {
            self.check_since(&checkpoint, since)?;
        }
        let event = self.entry.get(SALT_BYTES..).ok_or(EventError::Truncated).and_then(ChainedEvent::parse)?;
        let leaf = entry_hash(&self.entry).ok_or(EventError::Truncated)?;
        let root = root_of_inclusion(leaf, self.index, checkpoint.size, &self.path).map_err(ProofError::Path)?;
        if root != checkpoint.root {
            return Err(ProofError::Path(PathError::OtherRoot));
        }
        Ok(ProvenEntry { index: self.index, event, checkpoint })
    }

    fn check_since(&self, checkpoint: &SignedCheckpoint, since: &SignedCheckpoint) -> Result<(), ProofError> {
        if checkpoint.size < since.size {
            return Err(ProofError::RolledBack { seen: since.size, found: checkpoint.size });
        }
        let proof = match &self.grown_from {
            Some((size, proof)) if *size == since.size => proof.as_slice(),
            _ if since.size == checkpoint.size || since.size == 0 => &[],
            _ => return Err(ProofError::NotFrom { size: since.size }),
        };
        check_consistency(since.size, since.root, checkpoint.size, checkpoint.root, proof)
            .map_err(|_| ProofError::Forked { size: since.size })
    }
}

type Extra = (Vec<u8>, Option<(u64, Vec<Hash>)>);

fn parse_extra(extra: &[u8]) -> Option<Extra> {
    let mut reader = Reader::new(extra);
    let (version, count, entry_bytes) = (reader.u8()?, reader.u8()?, usize::from(reader.u16()?));
    let (reserved, old_size) = (reader.u32()?, reader.u64()?);
    let is_known = version == EXTRA_VERSION && reserved == 0 && usize::from(count) <= PATH_HASHES_MAX;
    if !is_known || !(ENTRY_BYTES_MIN..=ENTRY_BYTES_MAX).contains(&entry_bytes) || (old_size == 0 && count != 0) {
        return None;
    }
    let entry = reader.take(entry_bytes)?.to_vec();
    let (proof, rest) = reader.rest().as_chunks::<32>();
    if !rest.is_empty() || proof.len() != usize::from(count) {
        return None;
    }
    Some((entry, (old_size != 0).then(|| (old_size, proof.to_vec()))))
}

/// Why a proof proves nothing.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ProofError {
    /// the file is not a proof of this version, or was cut: make it again with `creto audit prove`
    #[error("the file is not a proof of this version, or was cut: make it again with `creto audit prove`")]
    Form,
    /// Its checkpoint does not hold.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// Its entry is not an event.
    #[error("the entry is not an event: {0}")]
    Event(#[from] EventError),
    /// Its path does not lead to the checkpoint's root.
    #[error("the entry is not in the log at this place: {0}")]
    Path(PathError),
    /// the log was rolled back
    #[error(
        "the checkpoint has {found} leaves, but one with {seen} was seen before: the log was rolled back; do not trust it, and ask the operator"
    )]
    RolledBack {
        /// Leaves of the checkpoint that was seen.
        seen: u64,
        /// Leaves of this one.
        found: u64,
    },
    /// the proof does not say that the log grew out of the checkpoint that was seen
    #[error(
        "the proof does not show that the log grew out of the checkpoint of {size} leaves: make it with `creto audit prove --since`"
    )]
    NotFrom {
        /// Leaves of the checkpoint that was seen.
        size: u64,
    },
    /// the log does not extend the checkpoint that was seen
    #[error(
        "the log does not extend the checkpoint of {size} leaves that was seen before: its history was rewritten; do not trust it, and ask the operator"
    )]
    Forked {
        /// Leaves of the checkpoint that was seen.
        size: u64,
    },
}

impl ProofError {
    /// A stable word for scripts.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Form => "not_a_proof",
            Self::Checkpoint(error) => error.code(),
            Self::Event(_) => "event",
            Self::Path(_) => "not_in_the_log",
            Self::RolledBack { .. } => "rolled_back",
            Self::NotFrom { .. } => "not_shown_to_extend",
            Self::Forked { .. } => "does_not_extend",
        }
    }
}
