//! Verify: the batch was signed by the agent that is logged in, with both keys of a record that is valid now.
//!
//! Promises that the tree over the envelopes has the signed root, that Ed25519 **and** ML-DSA-65 hold over the
//! statement, that the version of the key record is known and valid, and that every message's sender is the signer. Which
//! algorithms must be present comes from the key record, never from the message.
//!
//! The keys are those of the connection's login, whichever version the batch names: control takes no version of a key record
//! whose signing keys are others than those of the one before.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use creto_crypto_accel::digest::Hash;
use creto_crypto_accel::fn_dsa::FN_DSA_512_PUBLIC_BYTES;
use creto_crypto_accel::keys::ML_DSA_65_PUBLIC_BYTES;
use creto_crypto_accel::merkle::{Tree, TreeHash, leaf_hashes};
use creto_crypto_accel::verify::{Item, RootCache, RootKey, SignatureError, VerifyingKeys};
use creto_envelope::batch::STATEMENT_BYTES;
use creto_envelope::{AgentId, AgentState, BatchHeaderView, EntrySpan, RejectCode, SignedKeyRecord, TreeDigest};
use creto_policy::{KeyVersion, Recent, Snapshot};

use super::Refusals;
use super::decode::{Decoded, DecodedBatch, DecodedMessage};
use crate::connection::LoggedIn;
use crate::event::{ConnectionId, Now};
use crate::limits::{KEY_CACHE_ENTRIES, ROOT_CACHE_ENTRIES, SIGNED_AGE_MS_MAX, SIGNED_AHEAD_MS_MAX};
use crate::stages::{StageClock, StageTimes};

/// Batches whose signatures hold.
#[derive(Debug, Default)]
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
    scratch: Scratch,
    /// Roots whose signatures were checked: those remembered cost nothing and do not count.
    pub(crate) roots_checked: u64,
    /// The hash that every tree must be made of.
    tree_digest: TreeDigest,
}

impl Default for Verifier {
    fn default() -> Self {
        Self {
            keys: KeyCache::default(),
            roots: RootCache::new(ROOT_CACHE_ENTRIES),
            scratch: Scratch::default(),
            roots_checked: 0,
            tree_digest: TreeDigest::default(),
        }
    }
}

/// Memory that whoever runs [`VerifyJob`]s keeps from one to the next.
#[derive(Debug, Default)]
pub struct Scratch {
    tree: Tree,
    leaves: Vec<Hash>,
}

/// A batch whose statement may be made by its sender now; what is left to check is in the batch alone. A job owns all
/// that it needs, so that it can run on another thread.
#[derive(Debug)]
pub struct VerifyJob {
    id: u64,
    batch: DecodedBatch,
    keys: Arc<VerifyingKeys>,
    root: RootKey,
    /// The verdict on the same root and signatures, if it is remembered.
    known: Option<Result<(), SignatureError>>,
    /// When it was begun, by the clock of stages.
    began_us: u64,
}

/// A batch with its verdict. Only [`VerifyJob::run`] makes one.
#[derive(Debug)]
pub struct VerifyOutcome {
    id: u64,
    batch: DecodedBatch,
    root: RootKey,
    is_known: bool,
    verdict: Verdict,
    began_us: u64,
}

#[derive(Debug)]
enum Verdict {
    Holds(Paths),
    /// The tree over the envelopes has another root: the signatures were not looked at.
    OtherRoot,
    BadSignature(SignatureError),
    /// Both signatures hold, and the third one that the key record demands does not.
    BadThirdSignature,
}

/// Verifies on this thread what arrived in this turn.
pub(crate) fn verify(
    decoded: Decoded,
    now: Now,
    snapshot: &Snapshot,
    verifier: &mut Verifier,
    refusals: &mut Refusals,
    (clock, times): (&StageClock, &mut StageTimes),
) -> Verified {
    let mut verified = Verified::default();
    // Bad signatures of this turn, by connection. Beyond its chances a connection costs nothing more: it is closed when
    // the turn ends.
    let mut bad: Vec<(ConnectionId, u32)> = Vec::new();
    // Where one batch ends the next begins: one reading for each of them.
    let mut began_us = None;
    for job in prepare(decoded, now, snapshot, verifier, refusals) {
        let DecodedBatch { connection, sequence, chances, .. } = job.batch;
        let spent = bad.iter().find(|(known, _)| *known == connection).map_or(0, |(_, count)| *count);
        if spent >= chances {
            refusals.batch(connection, sequence, RejectCode::BadSignature);
            continue;
        }
        let from_us = began_us.unwrap_or_else(|| clock.read(now));
        let outcome = job.run(&mut verifier.scratch);
        let until_us = clock.read(now);
        times.add(until_us.saturating_sub(from_us));
        began_us = Some(until_us);
        if outcome.has_bad_signature() {
            bad.retain(|(known, _)| *known != connection);
            bad.push((connection, spent + 1));
        }
        verified.take(outcome, verifier, refusals);
    }
    verified
}

/// Checks everything about the statements but their trees and signatures. Jobs are in the order of the batches.
pub(crate) fn prepare(
    decoded: Decoded,
    now: Now,
    snapshot: &Snapshot,
    verifier: &mut Verifier,
    refusals: &mut Refusals,
) -> Vec<VerifyJob> {
    let batches = decoded.into_batches();
    let mut jobs = Vec::with_capacity(batches.len());
    for batch in batches {
        match check_statement(&batch, now, snapshot, verifier) {
            Ok(keys) => {
                let (root, known) = verifier.roots.look_up(&item(&batch, &keys, &statement_of(&batch)));
                jobs.push(VerifyJob { id: 0, batch, keys, root, known, began_us: now.monotonic_us });
            }
            Err(code) => refusals.batch(batch.connection, batch.sequence, code),
        }
    }
    jobs
}

impl VerifyJob {
    /// Rebuilds the tree, holds its root against the signed one, and checks both signatures. About 70 us and 1 us per KiB.
    #[must_use]
    pub fn run(self, scratch: &mut Scratch) -> VerifyOutcome {
        let Self { id, batch, keys, root, known, began_us } = self;
        let entries = batch.entries.iter().map(|entry| (&entry.salt, &batch.batch[entry.envelope.clone()]));
        let header = header_of(&batch);
        scratch.leaves.clear();
        match header.signature_suite().tree_digest() {
            TreeDigest::Sha256 => {
                leaf_hashes(entries, &mut scratch.leaves);
                scratch.tree.rebuild(&scratch.leaves);
            }
            TreeDigest::Sha3_256 => {
                scratch.leaves.extend(entries.map(|(salt, envelope)| TreeHash::Sha3_256.leaf(salt, envelope)));
                TreeHash::Sha3_256.rebuild(&mut scratch.tree, &scratch.leaves);
            }
        }
        let statement = statement_of(&batch);
        let verdict = if scratch.tree.root() != *header.root() {
            Verdict::OtherRoot
        } else if let Err(error) = known.unwrap_or_else(|| item(&batch, &keys, &statement).verify()) {
            Verdict::BadSignature(error)
        } else if keys.verify_fn_dsa_512(&statement, header.fn_dsa_512()).is_err() {
            Verdict::BadThirdSignature
        } else {
            Verdict::Holds(Paths::of(&scratch.tree))
        };
        VerifyOutcome { id, batch, root, is_known: known.is_some(), verdict, began_us }
    }

    pub(crate) fn connection(&self) -> ConnectionId {
        self.batch.connection
    }

    pub(crate) fn with_id(self, id: u64) -> Self {
        Self { id, ..self }
    }

    /// A worker is asked now.
    pub(crate) fn begin(self, began_us: u64) -> Self {
        Self { began_us, ..self }
    }
}

impl VerifyOutcome {
    pub(crate) fn id(&self) -> u64 {
        self.id
    }

    /// When a worker was asked, by the clock of stages.
    pub(crate) fn began_us(&self) -> u64 {
        self.began_us
    }

    /// Whether its sender may still send it, asked again when its verdict was made elsewhere.
    pub(crate) fn recheck(&self, now: Now, snapshot: &Snapshot) -> Result<(), RejectCode> {
        let header = header_of(&self.batch);
        valid_key_version(snapshot, &header.sender(), header.key_record_version(), now.unix_ms).map(drop)
    }

    pub(crate) fn refuse(&self, code: RejectCode, refusals: &mut Refusals) {
        refusals.batch(self.batch.connection, self.batch.sequence, code);
    }

    pub(crate) fn has_bad_signature(&self) -> bool {
        matches!(self.verdict, Verdict::BadSignature(_) | Verdict::BadThirdSignature)
    }
}

impl Verified {
    /// Takes a verdict in: a batch that holds goes on, another one is refused.
    pub(crate) fn take(&mut self, outcome: VerifyOutcome, verifier: &mut Verifier, refusals: &mut Refusals) {
        let VerifyOutcome { batch, root, is_known, verdict, .. } = outcome;
        let (paths, signatures) = match verdict {
            Verdict::Holds(paths) => (Some(paths), Ok(())),
            Verdict::BadSignature(error) => (None, Err(error)),
            Verdict::BadThirdSignature => (None, Ok(())),
            Verdict::OtherRoot => {
                refusals.batch(batch.connection, batch.sequence, RejectCode::BatchRoot);
                return;
            }
        };
        if !is_known {
            verifier.roots_checked += 1;
            verifier.roots.put(root, signatures);
        }
        let Some(paths) = paths else {
            refusals.batch(batch.connection, batch.sequence, RejectCode::BadSignature);
            return;
        };
        let header = Bytes::copy_from_slice(header_of(&batch).as_bytes());
        let DecodedBatch { connection, login, sequence, batch, entries, mut messages, refused, .. } = batch;
        for (leaf_index, code) in refused {
            refusals.unread(connection, sequence, leaf_index, code);
        }
        messages.retain(|message| {
            let is_own = message.sender == login.agent;
            if !is_own {
                refusals.message(connection, sequence, message, RejectCode::SenderMismatch);
            }
            is_own
        });
        self.batches.push(VerifiedBatch { connection, login, sequence, header, batch, entries, paths, messages });
    }
}

fn item<'i>(batch: &'i DecodedBatch, keys: &'i VerifyingKeys, statement: &'i [u8; STATEMENT_BYTES]) -> Item<'i> {
    let header = header_of(batch);
    Item { keys, statement, ed25519: header.ed25519(), ml_dsa_65: header.ml_dsa_65() }
}

fn statement_of(batch: &DecodedBatch) -> [u8; STATEMENT_BYTES] {
    header_of(batch).statement_bytes()
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

/// Everything about the statement but tree and signatures.
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
    let version = valid_key_version(snapshot, &header.sender(), header.key_record_version(), now.unix_ms)?;
    let suite = header.signature_suite();
    // Which signatures must be there is for the record to say: a batch can neither leave one out nor bring one along.
    if suite.has_fn_dsa_512() != version.has_fn_dsa_512 {
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
    verifier.keys.get(&batch.signer)
}

/// The version of the key record that must have signed, if the agent may act with it now.
pub(crate) fn valid_key_version(
    snapshot: &Snapshot,
    agent: &AgentId,
    version: u32,
    unix_ms: u64,
) -> Result<KeyVersion, RejectCode> {
    let principal = snapshot.principal(agent).ok_or(RejectCode::UnknownSender)?;
    match principal.state() {
        AgentState::Active => {}
        AgentState::Suspended => return Err(RejectCode::AgentSuspended),
        AgentState::Revoked => return Err(RejectCode::AgentRevoked),
    }
    principal.valid_key_version(version, unix_ms)
}

/// Parsed keys of recent senders, by agent and version of the record.
#[derive(Debug)]
pub(crate) struct KeyCache(Recent<(AgentId, u32), CachedKeys>);

#[derive(Debug)]
struct CachedKeys {
    ed25519: [u8; 32],
    ml_dsa_65: Box<[u8; ML_DSA_65_PUBLIC_BYTES]>,
    fn_dsa_512: Option<Box<[u8; FN_DSA_512_PUBLIC_BYTES]>>,
    keys: Arc<VerifyingKeys>,
}

impl Default for KeyCache {
    fn default() -> Self {
        Self(Recent::new(KEY_CACHE_ENTRIES))
    }
}

impl KeyCache {
    pub(crate) fn get(&mut self, record: &SignedKeyRecord) -> Result<Arc<VerifyingKeys>, RejectCode> {
        let record = &record.record;
        let place = (record.agent_id(), record.version);
        // All keys: a record that was replaced under its old version must not be verified with what it held before.
        let is_same = |cached: &&CachedKeys| {
            cached.ed25519 == record.ed25519
                && cached.ml_dsa_65 == record.ml_dsa_65
                && cached.fn_dsa_512 == record.fn_dsa_512
        };
        if let Some(cached) = self.0.get(&place).filter(is_same) {
            return Ok(Arc::clone(&cached.keys));
        }
        // Control refuses weak keys when they are registered; one that got through is refused here.
        let keys = VerifyingKeys::parse(&record.ed25519, &record.ml_dsa_65)
            .and_then(|keys| keys.with_fn_dsa_512(record.fn_dsa_512.as_deref()))
            .map_err(|_| RejectCode::BadSignature)?;
        let keys = Arc::new(keys);
        let cached = CachedKeys {
            ed25519: record.ed25519,
            ml_dsa_65: record.ml_dsa_65.clone(),
            fn_dsa_512: record.fn_dsa_512.clone(),
            keys: Arc::clone(&keys),
        };
        self.0.insert(place, cached);
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

#[cfg(test)]
mod tests;
