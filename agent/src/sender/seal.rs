//! Seals the messages of a batch and signs its root: the work of a cryptographic worker.

use bytes::Bytes;
use creto_crypto_accel::merkle::{Tree, leaf_hash};
use creto_crypto_accel::seal::{RecipientKey, message_key};
use creto_envelope::envelope::{EnvelopeHeader, nonce};
use creto_envelope::{AgentId, BatchHeader, Statement};

use super::outbox::{Content, SealJob, SealedBatch};
use crate::keys::AgentKeys;

/// Seals what is not sealed yet, then signs the tree over all of it.
pub(crate) fn seal_batch(keys: &AgentKeys, mut job: SealJob, salts: Vec<[u8; 16]>, now_ms: u64) -> SealedBatch {
    assert_eq!(salts.len(), job.messages.len(), "every leaf has a salt of its own");
    let mut leaves = Vec::with_capacity(job.messages.len());
    for (message, salt) in job.messages.iter_mut().zip(&salts) {
        if let Content::Plain { header, recipient, payload } = &message.content {
            message.content = Content::Sealed(Bytes::from(seal(header, &recipient.sealing, payload)));
        }
        let Content::Sealed(envelope) = &message.content else { unreachable!("sealed just above") };
        leaves.push(leaf_hash(salt, envelope));
    }
    SealedBatch { number: job.number, header: sign(keys, &leaves, now_ms), salts, messages: job.messages }
}

/// One whole envelope: header, wrapped key, ciphertext and tag.
pub(crate) fn seal(header: &EnvelopeHeader, recipient: &RecipientKey, payload: &[u8]) -> Vec<u8> {
    let (wrapped_key, secret) = recipient.encapsulate();
    let header_bytes = header.to_bytes();
    let mut envelope = Vec::with_capacity(header.envelope_bytes());
    envelope.extend_from_slice(&header_bytes);
    envelope.extend_from_slice(&wrapped_key);
    message_key(&secret, &header_bytes).seal_append(&nonce(header.counter), &header_bytes, payload, &mut envelope);
    debug_assert_eq!(envelope.len(), header.envelope_bytes(), "the header announces the envelope");
    envelope
}

/// The header over these leaves, signed by both keys.
pub(crate) fn sign(keys: &AgentKeys, leaves: &[[u8; 32]], now_ms: u64) -> BatchHeader {
    let mut tree = Tree::new();
    tree.rebuild(leaves);
    let statement = Statement {
        sender: AgentId(keys.id().0),
        key_record_version: keys.record_version(),
        tree_size: tree.size(),
        root: tree.root(),
        signed_at_ms: now_ms,
    };
    let signature = keys.sign(&statement.to_bytes());
    BatchHeader::new(&statement, &signature.ed25519, &signature.ml_dsa_65)
}
