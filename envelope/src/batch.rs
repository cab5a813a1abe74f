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

/// Size of the header of a batch of signature suites 1 and 2, in bytes. With the others more follows.
pub const BATCH_HEADER_BYTES: usize = 3_448;
/// Largest header of a batch, in bytes: that of signature suites 3 and 4.
pub const BATCH_HEADER_BYTES_MAX: usize = BATCH_HEADER_BYTES + FN_DSA_512_SIGNATURE_BYTES.next_multiple_of(8);
/// Size of what stands in front of each envelope in a batch, in bytes: salt, length, zero.
pub const ENTRY_HEADER_BYTES: usize = 24;
/// The version that this code writes.
pub const BATCH_VERSION: u8 = 1;
/// Size of the signed statement, in bytes.
pub const STATEMENT_BYTES: usize = 80;
/// Size of an Ed25519 signature, in bytes (RFC 8032).
pub const ED25519_SIGNATURE_BYTES: usize = 64;
/// Size of an ML-DSA-65 signature, in bytes (FIPS 204).
pub const ML_DSA_65_SIGNATURE_BYTES: usize = 3_309;

/// Size of an FN-DSA-512 signature in its padded form, in bytes (Falcon specification, table 3.3; FIPS 206 is not final).
pub const FN_DSA_512_SIGNATURE_BYTES: usize = 666;

const STATEMENT_LABEL: &[u8; 14] = b"creto/batch/v1";

/// The hash of a batch's tree.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub enum TreeDigest {
    /// SHA-256 (FIPS 180-4).
    #[default]
    Sha256,
    /// SHA3-256 (FIPS 202), where a deployment demands it.
    Sha3_256,
}

/// Which signatures a batch has, and over which tree.
///
/// Which of them must be there is decided by the sender's key record ([`KeyRecord::fn_dsa_512`]), and which tree by the
/// deployment; a suite only says how the batch is to be read.
///
/// [`KeyRecord::fn_dsa_512`]: crate::KeyRecord::fn_dsa_512
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
#[repr(u8)]
pub enum SignatureSuite {
    /// Ed25519 and ML-DSA-65 over the root of a SHA-256 tree.
    #[default]
    HybridSha256 = 1,
    /// The same two over the root of a SHA3-256 tree.
    HybridSha3 = 2,
    /// Experimental: suite 1 and FN-DSA-512.
    TripleSha256 = 3,
    /// Experimental: suite 2 and FN-DSA-512.
    TripleSha3 = 4,
}

impl SignatureSuite {
    /// The suite with this number.
    #[must_use]
    pub const fn from_u8(suite: u8) -> Option<Self> {
        Some(match suite {
            1 => Self::HybridSha256,
            2 => Self::HybridSha3,
            3 => Self::TripleSha256,
            4 => Self::TripleSha3,
            _ => return None,
        })
    }

    /// The suite over this tree, with FN-DSA-512 or without.
    #[must_use]
    pub const fn of(digest: TreeDigest, fn_dsa_512: bool) -> Self {
        match (digest, fn_dsa_512) {
            (TreeDigest::Sha256, false) => Self::HybridSha256,
            (TreeDigest::Sha3_256, false) => Self::HybridSha3,
            (TreeDigest::Sha256, true) => Self::TripleSha256,
            (TreeDigest::Sha3_256, true) => Self::TripleSha3,
        }
    }

    /// The hash of the tree.
    #[must_use]
    pub const fn tree_digest(self) -> TreeDigest {
        match self {
            Self::HybridSha256 | Self::TripleSha256 => TreeDigest::Sha256,
            Self::HybridSha3 | Self::TripleSha3 => TreeDigest::Sha3_256,
        }
    }

    /// Whether an FN-DSA-512 signature stands behind the other two.
    #[must_use]
    pub const fn has_fn_dsa_512(self) -> bool {
        matches!(self, Self::TripleSha256 | Self::TripleSha3)
    }

    /// Size of the header of such a batch, in bytes.
    #[must_use]
    pub const fn header_bytes(self) -> usize {
        if self.has_fn_dsa_512() { BATCH_HEADER_BYTES_MAX } else { BATCH_HEADER_BYTES }
    }
}

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
    /// The exact bytes that the keys sign in suite 1.
    #[must_use]
    pub fn to_bytes(&self) -> [u8; STATEMENT_BYTES] {
        self.to_bytes_in(SignatureSuite::HybridSha256)
    }

    /// The exact bytes that the keys sign in this suite.
    #[must_use]
    #[allow(clippy::cast_possible_truncation, reason = "the label has 14 bytes")]
    pub fn to_bytes_in(&self, suite: SignatureSuite) -> [u8; STATEMENT_BYTES] {
        let mut bytes = [0; STATEMENT_BYTES];
        bytes[0] = STATEMENT_LABEL.len() as u8;
        bytes[1..15].copy_from_slice(STATEMENT_LABEL);
        bytes[15] = suite as u8;
        bytes[16..32].copy_from_slice(&self.sender.0);
        bytes[32..36].copy_from_slice(&self.key_record_version.to_le_bytes());
        bytes[36..40].copy_from_slice(&self.tree_size.to_le_bytes());
        bytes[40..72].copy_from_slice(&self.root);
        bytes[72..80].copy_from_slice(&self.signed_at_ms.to_le_bytes());
        bytes
    }
}

/// The header of a batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BatchHeader {
    /// Which signatures it has, and over which tree.
    pub signature_suite: SignatureSuite,
    /// How many envelopes the batch holds.
    pub tree_size: u32,
    /// Which version of the sender's key record holds the keys.
    pub key_record_version: u32,
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
    /// FN-DSA-512 over the statement, in suites 3 and 4.
    pub fn_dsa_512: Option<Box<[u8; FN_DSA_512_SIGNATURE_BYTES]>>,
}

/// The key record version in the header of a batch that was checked when it came in: for who keeps headers at any alignment
/// and cannot view them. `None` when the bytes are too few.
#[must_use]
pub fn key_record_version_in(header: &[u8]) -> Option<u32> {
    header.get(KEY_RECORD_VERSION_AT..)?.first_chunk().copied().map(u32::from_le_bytes)
}

const KEY_RECORD_VERSION_AT: usize = std::mem::offset_of!(ArchivedFixedHeader, key_record_version);

/// The front of every header, field for field in the order of the wire. Only ever viewed, never made.
#[derive(Archive, Serialize, Deserialize)]
#[rkyv(derive(Debug))]
#[repr(C)]
struct FixedHeader {
    version: u8,
    signature_suite: u8,
    flags: u16,
    tree_size: u32,
    key_record_version: u32,
    reserved: u32,
    sender: [u8; 16],
    signed_at_ms: u64,
    root: [u8; 32],
    ed25519: [u8; ED25519_SIGNATURE_BYTES],
    ml_dsa_65: [u8; ML_DSA_65_SIGNATURE_BYTES],
    padding: [u8; 3],
}

// The layout is the format.
const _: () = {
    use std::mem::{align_of, offset_of, size_of};
    assert!(size_of::<ArchivedFixedHeader>() == BATCH_HEADER_BYTES);
    assert!(align_of::<ArchivedFixedHeader>() == 8);
    assert!(BATCH_HEADER_BYTES.is_multiple_of(8) && BATCH_HEADER_BYTES_MAX.is_multiple_of(8));
    assert!(offset_of!(ArchivedFixedHeader, flags) == 2);
    assert!(offset_of!(ArchivedFixedHeader, tree_size) == 4);
    assert!(offset_of!(ArchivedFixedHeader, key_record_version) == 8);
    assert!(offset_of!(ArchivedFixedHeader, sender) == 16);
    assert!(offset_of!(ArchivedFixedHeader, signed_at_ms) == 32);
    assert!(offset_of!(ArchivedFixedHeader, root) == 40);
    assert!(offset_of!(ArchivedFixedHeader, ed25519) == 72);
    assert!(offset_of!(ArchivedFixedHeader, ml_dsa_65) == 136);
    assert!(offset_of!(ArchivedFixedHeader, padding) == 3_445);
};

impl BatchHeader {
    /// Joins a statement and its two signatures, in suite 1.
    #[must_use]
    pub fn new(
        statement: &Statement,
        ed25519: &[u8; ED25519_SIGNATURE_BYTES],
        ml_dsa_65: &[u8; ML_DSA_65_SIGNATURE_BYTES],
    ) -> Self {
        Self::over(TreeDigest::Sha256, statement, ed25519, ml_dsa_65, None)
    }

    /// Joins a statement over a tree of this hash and its signatures: the suite follows from them.
    #[must_use]
    pub fn over(
        digest: TreeDigest,
        statement: &Statement,
        ed25519: &[u8; ED25519_SIGNATURE_BYTES],
        ml_dsa_65: &[u8; ML_DSA_65_SIGNATURE_BYTES],
        fn_dsa_512: Option<Box<[u8; FN_DSA_512_SIGNATURE_BYTES]>>,
    ) -> Self {
        Self {
            signature_suite: SignatureSuite::of(digest, fn_dsa_512.is_some()),
            tree_size: statement.tree_size,
            key_record_version: statement.key_record_version,
            sender: statement.sender.0,
            signed_at_ms: statement.signed_at_ms,
            root: statement.root,
            ed25519: *ed25519,
            ml_dsa_65: *ml_dsa_65,
            fn_dsa_512,
        }
    }

    /// The header as it stands on the wire.
    ///
    /// # Panics
    /// When the suite says otherwise than the signatures that are there.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let suite = self.signature_suite;
        assert_eq!(suite.has_fn_dsa_512(), self.fn_dsa_512.is_some(), "the suite names the signatures that are there");
        let mut bytes = Vec::with_capacity(suite.header_bytes());
        bytes.extend_from_slice(&[BATCH_VERSION, suite as u8, 0, 0]);
        bytes.extend_from_slice(&self.tree_size.to_le_bytes());
        bytes.extend_from_slice(&self.key_record_version.to_le_bytes());
        bytes.extend_from_slice(&[0; 4]);
        bytes.extend_from_slice(&self.sender);
        bytes.extend_from_slice(&self.signed_at_ms.to_le_bytes());
        bytes.extend_from_slice(&self.root);
        bytes.extend_from_slice(&self.ed25519);
        bytes.extend_from_slice(&self.ml_dsa_65);
        bytes.resize(BATCH_HEADER_BYTES, 0);
        if let Some(fn_dsa_512) = &self.fn_dsa_512 {
            bytes.extend_from_slice(&fn_dsa_512[..]);
            bytes.resize(BATCH_HEADER_BYTES_MAX, 0);
        }
        bytes
    }
}

/// A batch header whose every field was checked (the signatures were not: `crypto-accel` does that), viewed in place.
#[derive(Clone, Copy, Debug)]
pub struct BatchHeaderView<'a> {
    header: &'a ArchivedFixedHeader,
    suite: SignatureSuite,
    bytes: &'a [u8],
}

impl<'a> BatchHeaderView<'a> {
    /// Checks and views the header at the front of `bytes`, which start at a multiple of eight. Its length follows from
    /// its suite.
    ///
    /// # Errors
    /// The [`RejectCode`] of the first rule that the bytes break.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, RejectCode> {
        if !bytes.as_ptr().addr().is_multiple_of(8) {
            return Err(RejectCode::EnvelopeMisaligned);
        }
        let fixed = bytes.get(..BATCH_HEADER_BYTES).ok_or(RejectCode::BatchTruncated)?;
        if fixed[0] != BATCH_VERSION {
            return Err(RejectCode::BatchVersion);
        }
        let suite = SignatureSuite::from_u8(fixed[1]).ok_or(RejectCode::BatchSuite)?;
        let bytes = bytes.get(..suite.header_bytes()).ok_or(RejectCode::BatchTruncated)?;
        let header = rkyv::api::low::access_pos::<ArchivedFixedHeader, Failure>(fixed, 0)
            .map_err(|_| RejectCode::EnvelopeMisaligned)?;
        if header.flags != 0 || header.reserved != 0 || header.padding != [0; 3] {
            return Err(RejectCode::BatchReserved);
        }
        if suite.has_fn_dsa_512() && bytes[BATCH_HEADER_BYTES + FN_DSA_512_SIGNATURE_BYTES..].iter().any(|&b| b != 0) {
            return Err(RejectCode::BatchReserved);
        }
        match header.tree_size.to_native() as usize {
            0 => Err(RejectCode::BatchEmpty),
            count if count > BATCH_MESSAGES_MAX => Err(RejectCode::BatchTooManyMessages),
            _ => Ok(Self { header, suite, bytes }),
        }
    }

    /// The header's bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// Which signatures it has, and over which tree. What must be there is for the key record to say.
    #[must_use]
    pub fn signature_suite(&self) -> SignatureSuite {
        self.suite
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

    /// The FN-DSA-512 signature, in suites 3 and 4.
    #[must_use]
    pub fn fn_dsa_512(&self) -> Option<&'a [u8; FN_DSA_512_SIGNATURE_BYTES]> {
        // Suites 1 and 2 have nothing there.
        self.bytes[BATCH_HEADER_BYTES..].first_chunk()
    }

    /// The exact bytes that every signature must be over.
    #[must_use]
    pub fn statement_bytes(&self) -> [u8; STATEMENT_BYTES] {
        self.statement().to_bytes_in(self.suite)
    }

    /// The statement without its suite: [`statement_bytes`](Self::statement_bytes) is what was signed.
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
        let mut reader = Reader::new(&bytes[header.as_bytes().len()..], RejectCode::BatchTruncated);
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
    let bytes = header.signature_suite.header_bytes()
        + entries.clone().map(|(_, envelope)| entry_bytes(envelope.len())).sum::<usize>();
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
