//! Verify: the batch was signed by the agent that is logged in, with both keys of a record that is valid now.
//!
//! Promises that the tree over the envelopes has the signed root, that Ed25519 **and** ML-DSA-65 hold over the
//! statement, that the key record is known and valid, and that every message's sender is the signer. Which algorithms
//! must be present comes from the key record, never from the message.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use creto_crypto_accel::digest::Hash;
use creto_crypto_accel::merkle::{Tree, TreeHash, leaf_hashes};
use creto_crypto_accel::verify::{Item, RootCache, VerifyingKeys};
use creto_envelope::batch::STATEMENT_BYTES;
use creto_envelope::{AgentId, AgentState, BatchHeaderView, EntrySpan, RejectCode, SignedKeyRecord, TreeDigest};
use creto_policy::Snapshot;

use super::Refusals;
use super::decode::{Decoded, DecodedBatch, DecodedMessage};
use crate::connection::LoggedIn;
use crate::event::{ConnectionId, Now};
use crate::limits::{KEY_CACHE_ENTRIES, ROOT_CACHE_ENTRIES, SIGNED_AGE_MS_MAX, SIGNED_AHEAD_MS_MAX};

/// Batches whose signatures hold.
#[derive(Debug)]
pub(crate) struct Verified {
    batches: Vec<VerifiedBatch>,
}

#[derive(Debug)]
pub(crate) struct VerifiedBatch {
    pub(crate) connection: ConnectionId,
    pub(crate) login: LoggedIn,
    pub(crate) sequence: u64,
    pub(crate) header: Bytes,
    /// The batch as it came: its envelopes stay where they are.
    pub(crate) batch: Bytes,
    pub(crate) entries: Vec<EntrySpan>,
    pub(crate) paths: Paths,
    /// The messages that are still accepted.
    pub(crate) messages: Vec<DecodedMessage>,
}

/// The paths of all leaves of a batch, in one piece of memory: nodes from the leaf to the root, 32 bytes each.
#[derive(Debug)]
pub(crate) struct Paths {
    pub(crate) bytes: Bytes,
    /// Where each leaf's path ends.
    ends: Vec<u32>,
}

/// Memory that verification keeps from turn to turn.
#[derive(Debug)]
pub(crate) struct Verifier {
    keys: KeyCache,
    roots: RootCache,
    tree: Tree,
    leaves: Vec<Hash>,
    /// The hash that every tree must be made of.
    tree_digest: TreeDigest,
}

impl Default for Verifier {
    fn default() -> Self {
        Self {
            keys: KeyCache::default(),
            roots: RootCache::new(ROOT_CACHE_ENTRIES),
            tree: Tree::new(),
            leaves: Vec::new(),
            tree_digest: TreeDigest::default(),
        }
    }
}

pub(crate) fn verify(
    decoded: Decoded,
    now: Now,
    snapshot: &Snapshot,
    verifier: &mut Verifier,
    refusals: &mut Refusals,
) -> Verified {
    let mut signed = Vec::new();
    for batch in decoded.into_batches() {
        match check_statement(&batch, now, snapshot, verifier) {
            Ok(keys) => {
                let statement = header_of(&batch).statement_bytes();
                signed.push(SignedBatch { paths: Paths::of(&verifier.tree), batch, keys, statement });
            }
            Err(code) => refusals.batch(batch.connection, batch.sequence, code),
        }
    }
    // All roots of the turn are checked together: that is where a batch verification can save.
    let items: Vec<Item<'_>> = signed.iter().map(SignedBatch::item).collect();
    let verdicts = verifier.roots.verify_turn(&items);
    let mut batches = Vec::with_capacity(signed.len());
    for (SignedBatch { batch, paths, keys, statement }, verdict) in signed.into_iter().zip(verdicts) {
        let third_signature_holds = keys.verify_fn_dsa_512(&statement, header_of(&batch).fn_dsa_512()).is_ok();
        if verdict.is_err() || !third_signature_holds {
            refusals.batch(batch.connection, batch.sequence, RejectCode::BadSignature);
            continue;
        }
        let header = Bytes::copy_from_slice(header_of(&batch).as_bytes());
        let DecodedBatch { connection, login, sequence, batch, entries, mut messages } = batch;
        messages.retain(|message| {
            let is_own = message.sender == login.agent;
            if !is_own {
                refusals.message(connection, sequence, message.leaf_index, RejectCode::SenderMismatch);
            }
            is_own
        });
        batches.push(VerifiedBatch { connection, login, sequence, header, batch, entries, paths, messages });
    }
    Verified { batches }
}

struct SignedBatch {
    batch: DecodedBatch,
    paths: Paths,
    keys: Arc<VerifyingKeys>,
    statement: [u8; STATEMENT_BYTES],
}

impl SignedBatch {
    fn item(&self) -> Item<'_> {
        let header = header_of(&self.batch);
        Item { keys: &self.keys, statement: &self.statement, ed25519: header.ed25519(), ml_dsa_65: header.ml_dsa_65() }
    }
}

fn header_of(batch: &DecodedBatch) -> BatchHeaderView<'_> {
    BatchHeaderView::parse(&batch.batch).expect("decode has checked the header")
}

impl Paths {
    fn of(tree: &Tree) -> Self {
        let leaf_count = tree.size();
        let mut bytes = Vec::with_capacity(tree.path_bytes_max() * leaf_count as usize);
        let mut ends = Vec::with_capacity(leaf_count as usize);
        for index in 0..leaf_count {
            tree.append_path(index, &mut bytes);
            ends.push(u32::try_from(bytes.len()).expect("1,024 paths of ten nodes are 320 KiB"));
        }
        Self { bytes: bytes.into(), ends }
    }

    /// Where in `bytes` the path of a leaf is.
    pub(crate) fn range(&self, leaf_index: u32) -> Range<usize> {
        let leaf_index = leaf_index as usize;
        let start = leaf_index.checked_sub(1).map_or(0, |before| self.ends[before]);
        start as usize..self.ends[leaf_index] as usize
    }
}

/// Everything about the statement but its signatures; leaves the batch's tree in `verifier`.
fn check_statement(
    batch: &DecodedBatch,
    now: Now,
    snapshot: &Snapshot,
    verifier: &mut Verifier,
) -> Result<Arc<VerifyingKeys>, RejectCode> {
    let header = header_of(batch);
    if header.sender() != batch.login.agent {
        return Err(RejectCode::SenderMismatch);
    }
    let record = valid_key_record(snapshot, &header.sender(), header.key_record_version(), now.unix_ms)?;
    let suite = header.signature_suite();
    // Which signatures must be there is for the record to say: a batch can neither leave one out nor bring one along.
    if suite.has_fn_dsa_512() != record.record.fn_dsa_512.is_some() {
        return Err(RejectCode::BatchSuite);
    }
    if suite.tree_digest() != verifier.tree_digest {
        return Err(RejectCode::BatchDigest);
    }
    let signed_at_ms = header.signed_at_ms();
    let too_old = signed_at_ms.saturating_add(SIGNED_AGE_MS_MAX) < now.unix_ms;
    let too_far_ahead = signed_at_ms > now.unix_ms.saturating_add(SIGNED_AHEAD_MS_MAX);
    if too_old || too_far_ahead {
        return Err(RejectCode::SigningTime);
    }
    let keys = verifier.keys.get(record)?;
    verifier.leaves.clear();
    let entries = batch.entries.iter().map(|entry| (&entry.salt, &batch.batch[entry.envelope.clone()]));
    match verifier.tree_digest {
        TreeDigest::Sha256 => {
            leaf_hashes(entries, &mut verifier.leaves);
            verifier.tree.rebuild(&verifier.leaves);
        }
        TreeDigest::Sha3_256 => {
            verifier.leaves.extend(entries.map(|(salt, envelope)| TreeHash::Sha3_256.leaf(salt, envelope)));
            TreeHash::Sha3_256.rebuild(&mut verifier.tree, &verifier.leaves);
        }
    }
    if verifier.tree.root() != *header.root() {
        return Err(RejectCode::BatchRoot);
    }
    Ok(keys)
}

/// The key record that must have signed, if the agent may act with it now.
pub(crate) fn valid_key_record<'s>(
    snapshot: &'s Snapshot,
    agent: &AgentId,
    version: u32,
    unix_ms: u64,
) -> Result<&'s SignedKeyRecord, RejectCode> {
    let principal = snapshot.principal(agent).ok_or(RejectCode::UnknownSender)?;
    match principal.state() {
        AgentState::Active => {}
        AgentState::Suspended => return Err(RejectCode::AgentSuspended),
        AgentState::Revoked => return Err(RejectCode::AgentRevoked),
    }
    Ok(principal.valid_key_record(version, unix_ms)?)
}

/// Parsed keys of recent senders, in order of arrival; the oldest makes room.
#[derive(Debug, Default)]
pub(crate) struct KeyCache {
    keys: BTreeMap<(AgentId, u32), CachedKeys>,
    order: VecDeque<(AgentId, u32)>,
}

#[derive(Debug)]
struct CachedKeys {
    ed25519: [u8; 32],
    keys: Arc<VerifyingKeys>,
}

impl KeyCache {
    pub(crate) fn get(&mut self, record: &SignedKeyRecord) -> Result<Arc<VerifyingKeys>, RejectCode> {
        let key = (record.record.agent_id(), record.record.version);
        if let Some(cached) = self.keys.get(&key).filter(|cached| cached.ed25519 == record.record.ed25519) {
            return Ok(Arc::clone(&cached.keys));
        }
        // Control refuses weak keys when they are registered; one that got through is refused here.
        let keys = VerifyingKeys::parse(&record.record.ed25519, &record.record.ml_dsa_65)
            .and_then(|keys| keys.with_fn_dsa_512(record.record.fn_dsa_512.as_deref()))
            .map_err(|_| RejectCode::BadSignature)?;
        let keys = Arc::new(keys);
        if self.order.len() >= KEY_CACHE_ENTRIES {
            self.order.pop_front().map(|oldest| self.keys.remove(&oldest));
        }
        self.order.push_back(key);
        self.keys.insert(key, CachedKeys { ed25519: record.record.ed25519, keys: Arc::clone(&keys) });
        Ok(keys)
    }
}

impl Verifier {
    /// Every tree must be made of this hash.
    pub(crate) fn demand(&mut self, tree_digest: TreeDigest) {
        self.tree_digest = tree_digest;
    }

    /// The parsed keys of a record, for what else the agent signs: its login.
    pub(crate) fn keys(&mut self, record: &SignedKeyRecord) -> Result<Arc<VerifyingKeys>, RejectCode> {
        self.keys.get(record)
    }
}

impl Verified {
    pub(crate) fn batch_count(&self) -> u64 {
        self.batches.len() as u64
    }

    pub(crate) fn into_batches(self) -> Vec<VerifiedBatch> {
        self.batches
    }
}
