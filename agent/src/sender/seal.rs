//! Seals the messages of a batch and signs its root: the work of a cryptographic worker.

use std::collections::BTreeMap;

use bytes::Bytes;
use creto_crypto_accel::merkle::{Tree, TreeHash, leaf_hashes};
use creto_crypto_accel::seal::{MessageKey, RecipientKey, message_key};
use creto_crypto_accel::sign::HybridSignature;
use creto_envelope::envelope::{EnvelopeHeader, Suite, nonce};
use creto_envelope::{AgentId, BatchHeader, SignatureSuite, Statement, TreeDigest};

use super::chain::{Chain, Taken};
use super::outbox::{Plain, SealJob, Sealed, SealedBatch};
use super::sessions::Under;
use crate::directory::tree_hash;
use crate::keys::AgentKeys;
use crate::stats::Counters;

/// Seals what is not sealed yet, then signs the tree over all of it.
pub(crate) fn seal_batch(
    keys: &AgentKeys,
    mut job: SealJob,
    salts: Vec<[u8; 16]>,
    digest: TreeDigest,
    now_ms: u64,
    counters: &Counters,
) -> SealedBatch {
    assert_eq!(salts.len(), job.messages.len(), "every leaf has a salt of its own");
    let mut taken = take_keys(&job.under, counters);
    for (message, under) in job.messages.iter_mut().zip(job.under) {
        if message.sealed.is_none() {
            message.sealed = Some(seal_one(&message.plain, under, &mut taken, counters));
        }
    }
    let mut leaves = Vec::with_capacity(job.messages.len());
    let entries = salts.iter().zip(job.messages.iter().map(|message| message.sealed_bytes()));
    match digest {
        TreeDigest::Sha256 => leaf_hashes(entries, &mut leaves),
        TreeDigest::Sha3_256 => leaves.extend(entries.map(|(salt, bytes)| TreeHash::Sha3_256.leaf(salt, bytes))),
    }
    counters.signatures.add(1);
    SealedBatch { number: job.number, header: sign(keys, digest, &leaves, now_ms), salts, messages: job.messages }
}

/// The keys that the batch needs, session by session: each chain is held once, for the time of its steps.
fn take_keys(under: &[Option<Planned>], counters: &Counters) -> BTreeMap<u64, Taken> {
    let mut wanted: BTreeMap<u64, (&Chain, usize)> = BTreeMap::new();
    for Planned { under, .. } in under.iter().flatten() {
        wanted.entry(under.ticket.number()).or_insert((&under.chain, 0)).1 += 1;
    }
    let take = |(number, (chain, count)): (u64, (&Chain, usize))| Some((number, chain.take(count)?));
    let taken: BTreeMap<u64, Taken> = wanted.into_iter().filter_map(take).collect();
    let opened = taken.values().filter(|taken| taken.opened).count();
    counters.encapsulations.add(opened);
    counters.sessions_opened.add(opened);
    taken
}

/// A message's session, and whether the message carries the wrapped key.
#[derive(Debug)]
pub(crate) struct Planned {
    pub(crate) under: Under<Chain>,
    pub(crate) carries: bool,
}

fn seal_one(plain: &Plain, planned: Option<Planned>, taken: &mut BTreeMap<u64, Taken>, counters: &Counters) -> Sealed {
    counters.sealed.add(1);
    if let Some(Planned { under, carries }) = planned
        && let Some(session) = taken.get_mut(&under.ticket.number())
        && let Some((counter, key)) = session.keys.pop_front()
    {
        let envelope = seal_in_session(&plain.header, session, carries, counter, key, &plain.payload);
        return Sealed { envelope: Bytes::from(envelope), key_id: session.key_id, ticket: Some(under.ticket) };
    }
    // Without sessions, and when a session has no key left after all: nothing is ever sealed under a key twice.
    counters.encapsulations.add(1);
    let envelope = seal(&plain.header, &plain.recipient.sealing, &plain.payload);
    Sealed { envelope: Bytes::from(envelope), key_id: plain.key_id(), ticket: None }
}

fn seal_in_session(
    header: &EnvelopeHeader,
    session: &Taken,
    carries: bool,
    counter: u64,
    key: MessageKey,
    payload: &[u8],
) -> Vec<u8> {
    let wrapped_key: &[u8] = if carries { &session.wrapped_key[..] } else { &[] };
    let header = EnvelopeHeader {
        suite: Suite::Session as u8,
        key_id: session.key_id.0,
        session_id: session.session_id,
        counter,
        nonce: nonce(counter),
        wrapped_key_bytes: if carries { header.wrapped_key_bytes } else { 0 },
        ..header.clone()
    };
    let header_bytes = header.to_bytes();
    let mut envelope = Vec::with_capacity(header.envelope_bytes());
    envelope.extend_from_slice(&header_bytes);
    envelope.extend_from_slice(wrapped_key);
    key.seal_append(&nonce(counter), &header_bytes, payload, &mut envelope);
    debug_assert_eq!(envelope.len(), header.envelope_bytes(), "the header announces the envelope");
    envelope
}

/// One whole envelope of the sealed suite: header, wrapped key, ciphertext and tag.
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

/// The header over these leaves, signed by every signing key that the agent has.
pub(crate) fn sign(keys: &AgentKeys, digest: TreeDigest, leaves: &[[u8; 32]], now_ms: u64) -> BatchHeader {
    let mut tree = Tree::new();
    tree_hash(digest).rebuild(&mut tree, leaves);
    let statement = Statement {
        sender: AgentId(keys.id().0),
        key_record_version: keys.record_version(),
        tree_size: tree.size(),
        root: tree.root(),
        signed_at_ms: now_ms,
    };
    let statement_bytes = statement.to_bytes_in(SignatureSuite::of(digest, keys.has_fn_dsa_512()));
    let HybridSignature { ed25519, ml_dsa_65 } = keys.sign(&statement_bytes);
    BatchHeader::over(digest, &statement, &ed25519, &ml_dsa_65, keys.sign_fn_dsa_512(&statement_bytes))
}
