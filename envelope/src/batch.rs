//! A signed batch: one header with two signatures over a Merkle root, and the envelopes under that root.
//!
//! Signing one message costs about 190 us, so a root over many envelopes is signed once, by Ed25519 **and** by
//! ML-DSA-65. What is signed is never the bare root but a statement that names the sender, the key record and the
//! size of the tree ([`Statement`]). The tree is that of RFC 6962; `crypto-accel` builds it.

use std::ops::Range;

use rkyv::rancor::Failure;
use rkyv::{Archive, Deserialize, Serialize};

use crate::envelope::ENVELOPE_HEADER_BYTES;
use crate::frame::{FrameType, begin_frame, finish_frame};
use crate::id::AgentId;
use crate::limits::{BATCH_BYTES_MAX, BATCH_MESSAGES_MAX, ENVELOPE_BYTES_MAX};
use crate::reader::{Reader, padding};
use crate::reject::RejectCode;

/// Size of the header of a batch, in bytes.
pub const BATCH_HEADER_BYTES: usize = 3_448;
/// Size of what stands in front of each envelope in a batch, in bytes: salt, length, zero.
pub const ENTRY_HEADER_BYTES: usize = 24;
/// The version that this code writes.
pub const BATCH_VERSION: u8 = 1;
/// Signature suite 1: Ed25519 and ML-DSA-65, both over the statement; a SHA-256 tree.
pub const SIGNATURE_SUITE: u8 = 1;
/// Size of the signed statement, in bytes.
pub const STATEMENT_BYTES: usize = 80;
/// Size of an Ed25519 signature, in bytes (RFC 8032).
pub const ED25519_SIGNATURE_BYTES: usize = 64;
/// Size of an ML-DSA-65 signature, in bytes (FIPS 204).
pub const ML_DSA_65_SIGNATURE_BYTES: usize = 3_309;

const STATEMENT_LABEL: &[u8; 14] = b"creto/batch/v1";

/// What the sender signs for a batch.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Statement {
    /// Who signs.
    pub sender: AgentId,
    /// Which version of their key record holds the keys.
    pub key_record_version: u32,
    /// How many envelopes the tree has.
    pub tree_size: u32,
    /// Root of the tree.
    pub root: [u8; 32],
    /// When it was signed, Unix milliseconds.
    pub signed_at_ms: u64,
}

impl Statement {
    /// The exact bytes that both keys sign.
    #[must_use]
    #[allow(clippy::cast_possible_truncation, reason = "the label has 14 bytes")]
    pub fn to_bytes(&self) -> [u8; STATEMENT_BYTES] {
        let mut bytes = [0; STATEMENT_BYTES];
        bytes[0] = STATEMENT_LABEL.len() as u8;
        bytes[1..15].copy_from_slice(STATEMENT_LABEL);
        bytes[15] = SIGNATURE_SUITE;
        bytes[16..32].copy_from_slice(&self.sender.0);
        bytes[32..36].copy_from_slice(&self.key_record_version.to_le_bytes());
        bytes[36..40].copy_from_slice(&self.tree_size.to_le_bytes());
        bytes[40..72].copy_from_slice(&self.root);
        bytes[72..80].copy_from_slice(&self.signed_at_ms.to_le_bytes());
        bytes
    }
}

/// The header of a batch, field for field in the order of the wire.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[rkyv(derive(Debug))]
#[repr(C)]
pub struct BatchHeader {
    /// [`BATCH_VERSION`].
    pub version: u8,
    /// [`SIGNATURE_SUITE`].
    pub signature_suite: u8,
    /// None is defined: zero.
    pub flags: u16,
    /// How many envelopes the batch holds.
    pub tree_size: u32,
    /// Which version of the sender's key record holds the keys.
    pub key_record_version: u32,
    /// Zero.
    pub reserved: u32,
    /// Who signs ([`AgentId`]).
    pub sender: [u8; 16],
    /// When, Unix milliseconds.
    pub signed_at_ms: u64,
    /// Root of the RFC 6962 tree over the envelopes.
    pub root: [u8; 32],
    /// Ed25519 over the statement.
    pub ed25519: [u8; ED25519_SIGNATURE_BYTES],
    /// ML-DSA-65 over the statement.
    pub ml_dsa_65: [u8; ML_DSA_65_SIGNATURE_BYTES],
    /// Zero.
    pub padding: [u8; 3],
}

// The layout is the format.
const _: () = {
    use std::mem::{align_of, offset_of, size_of};
    assert!(size_of::<ArchivedBatchHeader>() == BATCH_HEADER_BYTES);
    assert!(align_of::<ArchivedBatchHeader>() == 8);
    assert!(BATCH_HEADER_BYTES.is_multiple_of(8));
    assert!(offset_of!(ArchivedBatchHeader, flags) == 2);
    assert!(offset_of!(ArchivedBatchHeader, tree_size) == 4);
    assert!(offset_of!(ArchivedBatchHeader, key_record_version) == 8);
    assert!(offset_of!(ArchivedBatchHeader, sender) == 16);
    assert!(offset_of!(ArchivedBatchHeader, signed_at_ms) == 32);
    assert!(offset_of!(ArchivedBatchHeader, root) == 40);
    assert!(offset_of!(ArchivedBatchHeader, ed25519) == 72);
    assert!(offset_of!(ArchivedBatchHeader, ml_dsa_65) == 136);
    assert!(offset_of!(ArchivedBatchHeader, padding) == 3_445);
};

impl BatchHeader {
    /// Joins a statement and its two signatures.
    #[must_use]
    pub fn new(
        statement: &Statement,
        ed25519: &[u8; ED25519_SIGNATURE_BYTES],
        ml_dsa_65: &[u8; ML_DSA_65_SIGNATURE_BYTES],
    ) -> Self {
        Self {
            version: BATCH_VERSION,
            signature_suite: SIGNATURE_SUITE,
            flags: 0,
            tree_size: statement.tree_size,
            key_record_version: statement.key_record_version,
            reserved: 0,
            sender: statement.sender.0,
            signed_at_ms: statement.signed_at_ms,
            root: statement.root,
            ed25519: *ed25519,
            ml_dsa_65: *ml_dsa_65,
            padding: [0; 3],
        }
    }

    /// The header as it stands on the wire.
    #[must_use]
    pub fn to_bytes(&self) -> [u8; BATCH_HEADER_BYTES] {
        let mut bytes = [0; BATCH_HEADER_BYTES];
        bytes[0] = self.version;
        bytes[1] = self.signature_suite;
        bytes[2..4].copy_from_slice(&self.flags.to_le_bytes());
        bytes[4..8].copy_from_slice(&self.tree_size.to_le_bytes());
        bytes[8..12].copy_from_slice(&self.key_record_version.to_le_bytes());
        bytes[12..16].copy_from_slice(&self.reserved.to_le_bytes());
        bytes[16..32].copy_from_slice(&self.sender);
        bytes[32..40].copy_from_slice(&self.signed_at_ms.to_le_bytes());
        bytes[40..72].copy_from_slice(&self.root);
        bytes[72..136].copy_from_slice(&self.ed25519);
        bytes[136..3_445].copy_from_slice(&self.ml_dsa_65);
        bytes[3_445..].copy_from_slice(&self.padding);
        bytes
    }
}

/// A batch header whose every field was checked (the signatures were not: `crypto-accel` does that), viewed in place.
#[derive(Clone, Copy, Debug)]
pub struct BatchHeaderView<'a> {
    header: &'a ArchivedBatchHeader,
    bytes: &'a [u8],
}

impl<'a> BatchHeaderView<'a> {
    /// Checks and views the [`BATCH_HEADER_BYTES`] at the front of `bytes`, which start at a multiple of eight.
    ///
    /// # Errors
    /// The [`RejectCode`] of the first rule that the bytes break.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, RejectCode> {
        if !bytes.as_ptr().addr().is_multiple_of(8) {
            return Err(RejectCode::EnvelopeMisaligned);
        }
        let bytes = bytes.get(..BATCH_HEADER_BYTES).ok_or(RejectCode::BatchTruncated)?;
        let header = rkyv::api::low::access_pos::<ArchivedBatchHeader, Failure>(bytes, 0)
            .map_err(|_| RejectCode::EnvelopeMisaligned)?;
        if header.version != BATCH_VERSION {
            return Err(RejectCode::BatchVersion);
        }
        if header.signature_suite != SIGNATURE_SUITE {
            return Err(RejectCode::BatchSuite);
        }
        if header.flags != 0 || header.reserved != 0 || header.padding != [0; 3] {
            return Err(RejectCode::BatchReserved);
        }
        match header.tree_size.to_native() as usize {
            0 => Err(RejectCode::BatchEmpty),
            count if count > BATCH_MESSAGES_MAX => Err(RejectCode::BatchTooManyMessages),
            _ => Ok(Self { header, bytes }),
        }
    }

    /// The header's bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// Who signs.
    #[must_use]
    pub fn sender(&self) -> AgentId {
        AgentId(self.header.sender)
    }

    /// How many envelopes the batch holds.
    #[must_use]
    pub fn tree_size(&self) -> u32 {
        self.header.tree_size.to_native()
    }

    /// Which version of the sender's key record holds the keys.
    #[must_use]
    pub fn key_record_version(&self) -> u32 {
        self.header.key_record_version.to_native()
    }

    /// When the batch was signed, Unix milliseconds.
    #[must_use]
    pub fn signed_at_ms(&self) -> u64 {
        self.header.signed_at_ms.to_native()
    }

    /// The root that the header names.
    #[must_use]
    pub fn root(&self) -> &'a [u8; 32] {
        &self.header.root
    }

    /// The Ed25519 signature.
    #[must_use]
    pub fn ed25519(&self) -> &'a [u8; ED25519_SIGNATURE_BYTES] {
        &self.header.ed25519
    }

    /// The ML-DSA-65 signature.
    #[must_use]
    pub fn ml_dsa_65(&self) -> &'a [u8; ML_DSA_65_SIGNATURE_BYTES] {
        &self.header.ml_dsa_65
    }

    /// The statement that both signatures must be over.
    #[must_use]
    pub fn statement(&self) -> Statement {
        Statement {
            sender: self.sender(),
            key_record_version: self.key_record_version(),
            tree_size: self.tree_size(),
            root: *self.root(),
            signed_at_ms: self.signed_at_ms(),
        }
    }
}

/// Where one envelope of a batch lies.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct EntrySpan {
    /// The 16 secret bytes that the leaf starts with.
    pub salt: [u8; 16],
    /// The envelope's bytes, as a range of the batch.
    pub envelope: Range<usize>,
}

/// A batch that is whole: its header is checked and its entries fill it exactly. The envelopes are not checked yet.
#[derive(Debug)]
pub struct BatchView<'a> {
    /// The header.
    pub header: BatchHeaderView<'a>,
    bytes: &'a [u8],
}

impl<'a> BatchView<'a> {
    /// Cuts `bytes`, which start at a multiple of eight, into header and entries; the spans are appended to
    /// `entries`, which is cleared first.
    ///
    /// # Errors
    /// The [`RejectCode`] of the first rule that the bytes break.
    pub fn parse(bytes: &'a [u8], entries: &mut Vec<EntrySpan>) -> Result<Self, RejectCode> {
        entries.clear();
        if bytes.len() > BATCH_BYTES_MAX {
            return Err(RejectCode::FrameOversized);
        }
        let header = BatchHeaderView::parse(bytes)?;
        let mut reader = Reader::new(&bytes[BATCH_HEADER_BYTES..], RejectCode::BatchTruncated);
        for _ in 0..header.tree_size() {
            let salt = *reader.array()?;
            let envelope_bytes = reader.u32()? as usize;
            reader.zeros(4, RejectCode::BatchReserved)?;
            if envelope_bytes > ENVELOPE_BYTES_MAX {
                return Err(RejectCode::EnvelopeOversized);
            }
            if envelope_bytes < ENVELOPE_HEADER_BYTES {
                return Err(RejectCode::EnvelopeTruncated);
            }
            let start = bytes.len() - reader.remaining();
            reader.take(envelope_bytes)?;
            reader.zeros(padding(envelope_bytes), RejectCode::BatchReserved)?;
            entries.push(EntrySpan { salt, envelope: start..start + envelope_bytes });
        }
        if reader.remaining() != 0 {
            return Err(RejectCode::BatchTrailing);
        }
        Ok(Self { header, bytes })
    }

    /// The bytes of an envelope.
    #[must_use]
    pub fn envelope(&self, entry: &EntrySpan) -> &'a [u8] {
        &self.bytes[entry.envelope.clone()]
    }
}

/// Bytes that one envelope takes inside a batch: entry header, envelope and padding.
#[must_use]
pub const fn entry_bytes(envelope_bytes: usize) -> usize {
    ENTRY_HEADER_BYTES + envelope_bytes + padding(envelope_bytes)
}

/// Appends a whole SignedBatch frame to `out`: frame header, submit sequence, batch header, entries.
///
/// # Errors
/// [`RejectCode`] when there are no entries, too many, or too many bytes; `out` is then unchanged.
pub fn encode_signed_batch<'e>(
    out: &mut Vec<u8>,
    submit_sequence: u64,
    header: &BatchHeader,
    entries: impl ExactSizeIterator<Item = (&'e [u8; 16], &'e [u8])> + Clone,
) -> Result<(), RejectCode> {
    let count = entries.len();
    assert_eq!(count, header.tree_size as usize, "the header announces the entries that follow it");
    if count == 0 {
        return Err(RejectCode::BatchEmpty);
    }
    if count > BATCH_MESSAGES_MAX {
        return Err(RejectCode::BatchTooManyMessages);
    }
    let bytes = BATCH_HEADER_BYTES + entries.clone().map(|(_, envelope)| entry_bytes(envelope.len())).sum::<usize>();
    if bytes > BATCH_BYTES_MAX {
        return Err(RejectCode::FrameOversized);
    }
    out.reserve(crate::frame::FRAME_HEADER_BYTES + 8 + bytes);
    let start = begin_frame(out, FrameType::SignedBatch);
    out.extend_from_slice(&submit_sequence.to_le_bytes());
    out.extend_from_slice(&header.to_bytes());
    for (salt, envelope) in entries {
        let envelope_bytes = u32::try_from(envelope.len()).map_err(|_| RejectCode::EnvelopeOversized)?;
        out.extend_from_slice(salt);
        out.extend_from_slice(&envelope_bytes.to_le_bytes());
        out.extend_from_slice(&[0; 4]);
        out.extend_from_slice(envelope);
        out.resize(out.len() + padding(envelope.len()), 0);
    }
    finish_frame(out, start, FrameType::SignedBatch);
    Ok(())
}

/// Takes the submit sequence off the front of a SignedBatch body; the rest is the batch.
///
/// # Errors
/// [`RejectCode::FrameLength`] when the body is shorter than eight bytes.
pub fn parse_submit_sequence(body: &[u8]) -> Result<u64, RejectCode> {
    Reader::new(body, RejectCode::FrameLength).u64()
}
