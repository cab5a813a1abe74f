//! Seals the messages of a batch and signs its root: the work of a cryptographic worker.

use std::collections::BTreeMap;

use bytes::Bytes;
use creto_crypto_accel::merkle::{Tree, TreeHash, leaf_hashes};
use creto_crypto_accel::seal::{MessageKey, RecipientKey, message_key};
use creto_crypto_accel::sign::HybridSignature;
use creto_envelope::envelope::{EnvelopeHeader, FLAG_PREKEY, Suite, nonce};
use creto_envelope::limits::WRAPPED_KEY_BYTES;
use creto_envelope::{AgentId, BatchHeader, KeyId, SignatureSuite, Statement, TreeDigest};

use super::chain::{Chain, Taken};
use super::message::{Message, Plain, Sealed};
use super::outbox::{SealJob, SealedBatch};
use super::sessions::{SessionTicket, Under};
use crate::directory::tree_hash;
use crate::keys::AgentKeys;
use crate::stats::Counters;

/// Seals what is not sealed yet, then signs the tree over all of it.
pub(crate) fn seal_batch(
    keys: &AgentKeys,
    mut job: SealJob,
    mut salts: Vec<[u8; 16]>,
    digest: TreeDigest,
    now_ms: u64,
    counters: &Counters,
) -> SealedBatch {
    assert_eq!(salts.len(), job.messages.len(), "every leaf has a salt of its own");
    let unsealed = seal_messages(&mut job, counters);
    let (number, messages) = (job.number, job.messages);
    if messages.is_empty() {
        return SealedBatch { number, header: None, salts: Vec::new(), messages, unsealed };
    }
    salts.truncate(messages.len());
    let mut leaves = Vec::with_capacity(messages.len());
    let entries = salts.iter().zip(messages.iter().map(|message| message.sealed_bytes()));
    match digest {
        TreeDigest::Sha256 => leaf_hashes(entries, &mut leaves),
        TreeDigest::Sha3_256 => leaves.extend(entries.map(|(salt, bytes)| TreeHash::Sha3_256.leaf(salt, bytes))),
    }
    counters.signatures.add(1);
    SealedBatch { number, header: Some(sign(keys, digest, &leaves, now_ms)), salts, messages, unsealed }
}

/// Seals what is not sealed yet. All of it lies in one piece of memory, of which each message has a part: one allocation
/// for a batch. It is given back when the last of them is answered or, refused for now, copied. Takes out and gives what may only
/// go in a session and has none.
fn seal_messages(job: &mut SealJob, counters: &Counters) -> Vec<Message> {
    let mut taken = take_keys(&job.under, counters);
    let new = || job.messages.iter().zip(&job.under).filter(|(message, _)| message.sealed.is_none());
    let bytes = |(message, under): (&Message, &Option<Planned>)| match under {
        Some(Planned { carries: false, .. }) => message.plain().header.envelope_bytes() - WRAPPED_KEY_BYTES,
        _ => message.plain().header.envelope_bytes(),
    };
    let (count, bytes) = (new().count(), new().map(bytes).sum());
    let (mut envelopes, mut sealed) = (Vec::with_capacity(bytes), Vec::with_capacity(count));
    let under = std::mem::take(&mut job.under);
    let sessions_only = job.sessions_only;
    for (message, under) in job.messages.iter().zip(under).filter(|(message, _)| message.sealed.is_none()) {
        let start = envelopes.len();
        let one = seal_one(message.plain(), under, sessions_only, &mut taken, counters, &mut envelopes);
        sealed.push(one.map(|(key_id, ticket)| (start..envelopes.len(), key_id, ticket)));
    }
    let envelopes = Bytes::from(envelopes);
    let new = job.messages.iter_mut().filter(|message| message.sealed.is_none());
    for (message, sealed) in new.zip(sealed) {
        message.sealed =
            sealed.map(|(range, key_id, ticket)| Sealed { envelope: envelopes.slice(range), key_id, ticket });
    }
    job.messages.extract_if(.., |message| message.sealed.is_none()).collect()
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

/// Appends the envelope of a message to `out`; gives the key of the recipient's record that it depends on, and its place in a
/// session. `None`, and nothing is appended, when it may only go in a session and there is none.
fn seal_one(
    plain: &Plain,
    planned: Option<Planned>,
    sessions_only: bool,
    taken: &mut BTreeMap<u64, Taken>,
    counters: &Counters,
    out: &mut Vec<u8>,
) -> Option<(KeyId, Option<SessionTicket>)> {
    if let Some(Planned { under, carries }) = planned
        && let Some(session) = taken.get_mut(&under.ticket.number())
        && let Some((counter, key)) = session.keys.pop_front()
    {
        counters.sealed.add(1);
        seal_in_session(plain, session, carries, counter, key, out);
        return Some((session.opened_to.record, Some(under.ticket)));
    }
    if sessions_only {
        return None;
    }
    // Without sessions, and when a session has no key left after all: nothing is ever sealed under a key twice.
    counters.sealed.add(1);
    counters.encapsulations.add(1);
    seal_append(&plain.header, &plain.recipient.sealing, &plain.payload, out);
    Some((plain.key_id(), None))
}

fn seal_in_session(
    Plain { header, payload, .. }: &Plain,
    session: &Taken,
    carries: bool,
    counter: u64,
    key: MessageKey,
    out: &mut Vec<u8>,
) {
    let wrapped_key: &[u8] = if carries { &session.wrapped_key[..] } else { &[] };
    let header = EnvelopeHeader {
        suite: Suite::Session as u8,
        flags: header.flags | if session.opened_to.prekey.is_some() { FLAG_PREKEY } else { 0 },
        key_id: session.opened_to.wire().0,
        session_id: session.session_id,
        counter,
        nonce: nonce(counter),
        wrapped_key_bytes: if carries { header.wrapped_key_bytes } else { 0 },
        ..(**header).clone()
    };
    let header_bytes = header.to_bytes();
    let start = out.len();
    out.extend_from_slice(&header_bytes);
    out.extend_from_slice(wrapped_key);
    key.seal_append(&nonce(counter), &header_bytes, payload, out);
    debug_assert_eq!(out.len() - start, header.envelope_bytes(), "the header announces the envelope");
}

/// One whole envelope of the sealed suite: header, wrapped key, ciphertext and tag.
pub(crate) fn seal(header: &EnvelopeHeader, recipient: &RecipientKey, payload: &[u8]) -> Vec<u8> {
    let mut envelope = Vec::with_capacity(header.envelope_bytes());
    seal_append(header, recipient, payload, &mut envelope);
    envelope
}

fn seal_append(header: &EnvelopeHeader, recipient: &RecipientKey, payload: &[u8], out: &mut Vec<u8>) {
    let (wrapped_key, secret) = recipient.encapsulate();
    let header_bytes = header.to_bytes();
    let start = out.len();
    out.extend_from_slice(&header_bytes);
    out.extend_from_slice(&wrapped_key);
    message_key(&secret, &header_bytes).seal_append(&nonce(header.counter), &header_bytes, payload, out);
    debug_assert_eq!(out.len() - start, header.envelope_bytes(), "the header announces the envelope");
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
