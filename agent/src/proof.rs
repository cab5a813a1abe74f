//! Proofs: one message that somebody else can be shown, with all that it takes to check who signed it.
//!
//! A proof is one file (`docs/proof-format.md`): envelope, salt, path to the root, batch header with its signatures, and
//! the sender's key record. [`verify`] needs nothing else: no node, no network, no state, no clock.
//!
//! What a proof shows: whoever holds the signing keys of this record has signed this very envelope, header and sealed
//! payload, and named this moment for it. What it does not show:
//! - *that the record is the one of the name in it*: anybody can write a record for any name and sign it with keys of
//!   their own. Compare [`Proven::signing_fingerprint`] with what you were told over another channel. Comparing key ids is
//!   not enough: a key id names the encryption key, which is public and can stand in a stranger's record;
//! - *what the message says*: the payload is sealed, and AES-256-GCM does not commit to its key, so a recipient who reveals
//!   a key and a plaintext proves nothing by it;
//! - *when it was signed*: the sender names the moment, nobody confirms it;
//! - *that it was accepted, delivered or read*, and *that the keys were not revoked*: only the node knows.

use creto_crypto_accel::keys::KeyError;
use creto_crypto_accel::merkle::PathError;
use creto_crypto_accel::verify::{SignatureError, VerifyingKeys};
use creto_envelope::proof::{ProofFormatError, ProofView};
use creto_envelope::{AgentId, AgentName, KeyId, Kind, MessageId, Priority, SignatureSuite, TrustDomain};
use rkyv::util::AlignedVec;
use thiserror::Error;

use crate::directory::tree_hash;

#[cfg(test)]
mod tests;

/// What a proof shows. Every field was signed by the sender, directly or through the root of the batch.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Proven {
    /// The name in the key record.
    pub sender: AgentName,
    /// The trust domain of that name.
    pub trust_domain: TrustDomain,
    /// The id that both derive to.
    pub sender_id: AgentId,
    /// Names the sender's signing keys: SHA-256 over the public keys. This is what to compare over another channel.
    pub signing_fingerprint: [u8; 32],
    /// Version of the key record.
    pub key_record_version: u32,
    /// The encryption key in the same record.
    pub key_id: KeyId,
    /// When the batch was signed, by the sender's clock, Unix milliseconds. Inside the record's validity.
    pub signed_at_ms: u64,
    /// Which signatures hold, over which tree.
    pub signature_suite: SignatureSuite,
    /// Who the message is for.
    pub recipient: AgentId,
    /// The message's id.
    pub message_id: MessageId,
    /// Ties it to another message.
    pub correlation_id: Option<MessageId>,
    /// When the sender made it, by the sender's clock, Unix milliseconds.
    pub timestamp_ms: u64,
    /// What it is for.
    pub kind: Kind,
    /// How urgent it is.
    pub priority: Priority,
    /// Bytes of the envelope.
    pub envelope_bytes: usize,
    /// Bytes of the sealed payload, its tag included.
    pub payload_bytes: usize,
    /// The leaf that stands for the envelope in the signed tree.
    pub leaf: [u8; 32],
    /// Where that leaf stands.
    pub leaf_index: u32,
    /// How many leaves the tree has.
    pub tree_size: u32,
    /// The signed root.
    pub root: [u8; 32],
}

/// Checks a proof.
///
/// ```
/// # fn check(file: &[u8], told_on_the_telephone: [u8; 32]) -> Result<(), Box<dyn std::error::Error>> {
/// let proven = creto_agent::proof::verify(file)?;
/// // Without this comparison the name means nothing: anybody can write a record for it.
/// assert_eq!(proven.signing_fingerprint, told_on_the_telephone);
/// println!("{} signed {} at {}", proven.sender, proven.message_id.to_uuid_string(), proven.signed_at_ms);
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// [`ProofError`] with the first thing that does not hold.
pub fn verify(proof: &[u8]) -> Result<Proven, ProofError> {
    let mut aligned = AlignedVec::<8>::new();
    aligned.extend_from_slice(proof);
    let view = ProofView::parse(&aligned)?;
    let (batch, envelope, record) = (&view.batch_header, &view.envelope, &view.key_record.record);

    // What belongs together, before anything costs.
    if batch.sender() != record.agent_id() {
        return Err(ProofError::OtherRecord);
    }
    if batch.key_record_version() != record.version {
        return Err(ProofError::OtherVersion { signed_with: batch.key_record_version(), found: record.version });
    }
    if envelope.sender() != batch.sender() {
        return Err(ProofError::OtherSender);
    }
    let hash = tree_hash(batch.signature_suite().tree_digest());
    let leaf = hash.leaf(view.salt, envelope.as_bytes());
    if hash.root_from_path(leaf, view.leaf_index, batch.tree_size(), view.path)? != *batch.root() {
        return Err(ProofError::Root);
    }
    let signed_at_ms = batch.signed_at_ms();
    if !(record.valid_from_ms..record.valid_until_ms).contains(&signed_at_ms) {
        return Err(ProofError::Validity);
    }

    if batch.signature_suite().has_fn_dsa_512() != record.fn_dsa_512.is_some() {
        return Err(ProofError::Suite);
    }
    let keys = VerifyingKeys::parse(&record.ed25519, &record.ml_dsa_65)
        .and_then(|keys| keys.with_fn_dsa_512(record.fn_dsa_512.as_deref()))
        .map_err(ProofError::Keys)?;
    keys.verify(&record.signed_bytes(), &view.key_record.ed25519, &view.key_record.ml_dsa_65)
        .map_err(ProofError::RecordSignature)?;
    let statement = batch.statement_bytes();
    keys.verify(&statement, batch.ed25519(), batch.ml_dsa_65())
        .and_then(|()| keys.verify_fn_dsa_512(&statement, batch.fn_dsa_512()))
        .map_err(ProofError::BatchSignature)?;

    let header = envelope.header();
    let correlation_id = MessageId(header.correlation_id);
    Ok(Proven {
        sender: record.name.clone(),
        trust_domain: record.trust_domain.clone(),
        sender_id: record.agent_id(),
        signing_fingerprint: *keys.fingerprint(),
        key_record_version: record.version,
        key_id: record.key_id(),
        signed_at_ms,
        signature_suite: batch.signature_suite(),
        recipient: envelope.recipient(),
        message_id: envelope.message_id(),
        correlation_id: (!correlation_id.is_zero()).then_some(correlation_id),
        timestamp_ms: header.timestamp_ms.to_native(),
        kind: envelope.kind(),
        priority: envelope.priority(),
        envelope_bytes: envelope.as_bytes().len(),
        payload_bytes: envelope.payload().len(),
        leaf,
        leaf_index: view.leaf_index,
        tree_size: batch.tree_size(),
        root: *batch.root(),
    })
}

/// Why a file proves nothing.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
#[non_exhaustive]
pub enum ProofError {
    /// It is not a proof, or a part of it has not the form that it must have.
    #[error(transparent)]
    Format(#[from] ProofFormatError),
    /// The key record is of another agent than the one who signed.
    #[error("the key record in the proof belongs to another agent than the one the batch names")]
    OtherRecord,
    /// The key record is of another version.
    #[error("the batch was signed under version {signed_with} of the key record, the proof holds version {found}")]
    OtherVersion {
        /// As the batch header says.
        signed_with: u32,
        /// In the proof.
        found: u32,
    },
    /// The envelope names another sender than the batch.
    #[error("the envelope names another sender than the one who signed the batch")]
    OtherSender,
    /// The batch has other signatures than the key record demands.
    #[error("the batch does not have the signatures that the key record demands")]
    Suite,
    /// The path does not fit index and size of the tree.
    #[error("the path in the proof does not fit: {0}")]
    Path(#[from] PathError),
    /// The envelope is not under the signed root.
    #[error("the envelope is not under the signed root: it, its salt, its place or its path was changed")]
    Root,
    /// The batch was signed before or after the time for which the keys are valid.
    #[error("the batch names a signing time at which the key record was not valid")]
    Validity,
    /// A signing key is one that must not be used.
    #[error("a signing key in the key record must not be used: {0}")]
    Keys(KeyError),
    /// The key record is not signed by its own keys.
    #[error("the key record is not signed by the keys in it: {0}")]
    RecordSignature(SignatureError),
    /// The batch is not signed by the keys of the record.
    #[error("the batch is not signed by the keys of the key record: {0}")]
    BatchSignature(SignatureError),
}

impl ProofError {
    /// A short name that does not change, for programs.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Format(ProofFormatError::Magic) => "not_a_proof",
            Self::Format(ProofFormatError::Version(_)) => "version",
            Self::Format(ProofFormatError::Truncated) => "truncated",
            Self::Format(ProofFormatError::Length) => "length",
            Self::Format(ProofFormatError::Reserved) => "reserved",
            Self::Format(ProofFormatError::State) => "key_record_state",
            Self::Format(ProofFormatError::BatchHeader(_)) => "batch_header",
            Self::Format(ProofFormatError::Envelope(_)) => "envelope",
            Self::Format(ProofFormatError::KeyRecord(_)) => "key_record",
            Self::Format(_) => "format",
            Self::OtherRecord => "other_key_record",
            Self::OtherVersion { .. } => "other_key_record_version",
            Self::OtherSender => "other_sender",
            Self::Suite => "suite",
            Self::Path(_) => "path",
            Self::Root => "root",
            Self::Validity => "validity",
            Self::Keys(_) => "weak_key",
            Self::RecordSignature(_) => "key_record_signature",
            Self::BatchSignature(_) => "batch_signature",
        }
    }
}
