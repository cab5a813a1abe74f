//! The signed size and root of a log, as [c2sp.org/tlog-checkpoint](https://c2sp.org/tlog-checkpoint) has it, with lines of our own:
//! the time, and where the chain of each source stands.

use std::fmt::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use creto_crypto_accel::keys::{ED25519_SIGNATURE_BYTES, ML_DSA_65_SIGNATURE_BYTES};
use creto_crypto_accel::verify::{SignatureError, VerifyingKeys};
use thiserror::Error;

use crate::chain::{Chain, ChainHash};
use crate::event::SourceId;
use crate::keys::{KeysError, LogKeys, LogPublic};
use crate::limits::SOURCES_MAX;
use crate::note::{Note, NoteError};
use crate::tree::Hash;

#[cfg(test)]
mod tests;

/// What a log says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checkpoint {
    /// Which log.
    pub origin: String,
    /// Number of leaves.
    pub size: u64,
    /// Root of the tree over them.
    pub root: Hash,
    /// When, by the node's clock, Unix milliseconds.
    pub time_ms: u64,
    /// Where the chain of each source stands that has told anything, by source. The positions add up to the size.
    pub sources: Vec<Chain>,
}

impl Checkpoint {
    /// The text that is signed:
    ///
    /// ```text
    /// creto.local/creto-audit/node-1
    /// 1234
    /// <root, base64>
    /// time 1764460800000
    /// source shard-0 1200 <chain head, base64>
    /// source control 34 <chain head, base64>
    /// ```
    #[must_use]
    pub fn to_text(&self) -> String {
        let mut text =
            format!("{}\n{}\n{}\ntime {}\n", self.origin, self.size, STANDARD.encode(self.root), self.time_ms);
        for Chain { source, position, head } in &self.sources {
            writeln!(text, "source {source} {position} {}", STANDARD.encode(head.0)).expect("a String takes all");
        }
        text
    }

    /// The note: the text, signed with both keys. About 200 us.
    ///
    /// # Panics
    /// When the keys are another log's, or the sources do not add up: a log signs only what it is.
    #[must_use]
    pub fn sign(&self, keys: &LogKeys) -> String {
        assert!(self.adds_up(), "every leaf is of one source");
        keys.sign_note(&self.to_text())
    }

    /// Reads the text of a note, whoever signed it. Only [`LogVerifier::verify`] says that it is true.
    ///
    /// # Errors
    /// [`CheckpointError::Form`] or [`CheckpointError::Sources`].
    pub fn parse(text: &str) -> Result<Self, CheckpointError> {
        let mut lines = text.strip_suffix('\n').ok_or(CheckpointError::Form)?.split('\n');
        let head = (|| {
            let (origin, size, root) = (lines.next()?, lines.next()?, lines.next()?);
            let (size, root) = (number(size)?, hash(root)?);
            let time_ms = number(lines.next()?.strip_prefix("time ")?)?;
            (!origin.is_empty()).then(|| Self { origin: origin.to_owned(), size, root, time_ms, sources: Vec::new() })
        })();
        let mut checkpoint = head.ok_or(CheckpointError::Form)?;
        for line in lines {
            let chain = parse_source(line).ok_or(CheckpointError::Form)?;
            let is_next = checkpoint.sources.last().is_none_or(|last| last.source < chain.source);
            if !is_next || checkpoint.sources.len() == SOURCES_MAX {
                return Err(CheckpointError::Sources);
            }
            checkpoint.sources.push(chain);
        }
        if checkpoint.adds_up() { Ok(checkpoint) } else { Err(CheckpointError::Sources) }
    }

    fn adds_up(&self) -> bool {
        let sum = self.sources.iter().try_fold(0_u64, |sum, chain| sum.checked_add(chain.position));
        sum == Some(self.size)
    }
}

fn parse_source(line: &str) -> Option<Chain> {
    let mut parts = line.strip_prefix("source ")?.split(' ');
    let (source, position, head) = (parts.next()?, parts.next()?, parts.next()?);
    let (source, position) = (SourceId::parse(source)?, number(position)?);
    (parts.next().is_none() && position > 0).then_some(Chain { source, position, head: ChainHash(hash(head)?) })
}

/// A decimal number as it is written: no sign, no leading zeros.
pub(crate) fn number(text: &str) -> Option<u64> {
    let number = text.parse().ok()?;
    (u64::to_string(&number) == text).then_some(number)
}

pub(crate) fn hash(text: &str) -> Option<Hash> {
    STANDARD.decode(text).ok()?.try_into().ok()
}

/// Checks notes of one log.
#[derive(Debug)]
pub struct LogVerifier {
    public: LogPublic,
    keys: VerifyingKeys,
}

/// A checkpoint that both of the log's keys have signed. Only [`LogVerifier::verify`] makes one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SignedCheckpoint {
    checkpoint: Checkpoint,
    note: String,
}

impl SignedCheckpoint {
    /// The note, byte by byte.
    #[must_use]
    pub fn note(&self) -> &str {
        &self.note
    }
}

impl std::ops::Deref for SignedCheckpoint {
    type Target = Checkpoint;

    fn deref(&self) -> &Checkpoint {
        &self.checkpoint
    }
}

impl LogVerifier {
    /// For the log with these keys.
    ///
    /// # Errors
    /// [`KeysError::Weak`].
    pub fn new(public: LogPublic) -> Result<Self, KeysError> {
        let keys = public.verifying()?;
        Ok(Self { public, keys })
    }

    /// The log's public keys.
    #[must_use]
    pub fn public(&self) -> &LogPublic {
        &self.public
    }

    /// Checks that `note` is a checkpoint of this log, and that **both** keys have signed it. Signatures of others are not
    /// looked at.
    ///
    /// # Errors
    /// [`CheckpointError`]: the first rule that is broken.
    pub fn verify(&self, note: &[u8]) -> Result<SignedCheckpoint, CheckpointError> {
        let checkpoint = Checkpoint::parse(self.verify_text(note)?)?;
        let note = str::from_utf8(note).map_err(|_| NoteError::Text)?.to_owned();
        Ok(SignedCheckpoint { checkpoint, note })
    }

    /// The text of a note of this log, which **both** keys have signed. Signatures of others are not looked at.
    ///
    /// # Errors
    /// [`CheckpointError`]: the first rule that is broken. What the text says is not looked at, but for the origin.
    pub fn verify_text<'n>(&self, note: &'n [u8]) -> Result<&'n str, CheckpointError> {
        let parsed = Note::parse(note)?;
        let origin = self.public.origin();
        let found = parsed.text.split('\n').next().unwrap_or_default();
        if found != origin {
            return Err(CheckpointError::Origin {
                expected: origin.to_owned(),
                found: found.chars().take(128).collect(),
            });
        }
        let ed25519 = the_signature(&parsed, origin, self.public.ed25519_id, ED25519)?;
        let ml_dsa_65 = the_signature(&parsed, origin, self.public.ml_dsa_65_id, ML_DSA_65)?;
        let ed25519: &[u8; ED25519_SIGNATURE_BYTES] =
            ed25519.try_into().map_err(|_| CheckpointError::Forged(ED25519))?;
        let ml_dsa_65: &[u8; ML_DSA_65_SIGNATURE_BYTES] =
            ml_dsa_65.try_into().map_err(|_| CheckpointError::Forged(ML_DSA_65))?;
        self.keys.verify(parsed.text.as_bytes(), ed25519, ml_dsa_65).map_err(|error| match error {
            SignatureError::Ed25519 => CheckpointError::Forged(ED25519),
            _ => CheckpointError::Forged(ML_DSA_65),
        })?;
        Ok(parsed.text)
    }
}

const ED25519: &str = "Ed25519";
const ML_DSA_65: &str = "ML-DSA-65";

/// Exactly one signature of this key.
fn the_signature<'n>(
    note: &'n Note<'_>,
    name: &str,
    key_id: u32,
    algorithm: &'static str,
) -> Result<&'n [u8], CheckpointError> {
    let mut of_key = note.signatures.iter().filter(|signature| signature.name == name && signature.key_id == key_id);
    match (of_key.next(), of_key.next()) {
        (Some(signature), None) => Ok(&signature.signature),
        (None, _) => Err(CheckpointError::Missing(algorithm)),
        (Some(_), Some(_)) => Err(CheckpointError::Repeated(algorithm)),
    }
}

/// Why a note is not a checkpoint of the log.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum CheckpointError {
    /// The note has not the form of one.
    #[error(transparent)]
    Note(#[from] NoteError),
    /// the checkpoint is of another log
    #[error(
        "the checkpoint is of the log `{found}`, the keys are those of `{expected}`: take the key file of that log"
    )]
    Origin {
        /// The log whose keys were given.
        expected: String,
        /// The log that the note is of.
        found: String,
    },
    /// the checkpoint is not signed by the log's key
    #[error("the checkpoint has no {0} signature of the log's key: both must be there; get it again from the node")]
    Missing(&'static str),
    /// the checkpoint has two signatures of one key
    #[error("the checkpoint has two {0} signatures of the log's key: get it again from the node")]
    Repeated(&'static str),
    /// a signature does not hold
    #[error(
        "the {0} signature of the checkpoint does not hold: it was changed or forged; do not trust it, and ask the operator"
    )]
    Forged(&'static str),
    /// the text is not that of a checkpoint
    #[error(
        "the signed text is not origin, size, root, time and sources: use the version that wrote it, or a later one"
    )]
    Form,
    /// the sources are out of order, or their positions do not add up to the size
    #[error("the sources of the checkpoint are out of order, or their positions do not add up to its size")]
    Sources,
}

impl CheckpointError {
    /// A stable word for scripts.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Note(_) => "not_a_note",
            Self::Origin { .. } => "other_origin",
            Self::Missing(_) => "signature_missing",
            Self::Repeated(_) => "signature_repeated",
            Self::Forged(_) => "signature_forged",
            Self::Form => "checkpoint_form",
            Self::Sources => "checkpoint_sources",
        }
    }
}
