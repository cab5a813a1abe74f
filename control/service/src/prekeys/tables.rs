//! Prekeys in the directory's file: their rows, and what uploading and claiming do to them inside a transaction.
//!
//! | table | key | value |
//! |---|---|---|
//! | `prekey_owners` | agent id 16 | [`Owner`] |
//! | `prekey_batches` | agent id 16, batch number u64 | what was signed for all prekeys of one upload: [`Batch`] |
//! | `prekeys` | agent id 16, number u64 | u64 batch number, u32 place in it, u32 path nodes, the prekey 1,224, path 32 each |
//!
//! An agent's one-time prekeys are numbered in the order in which they came, from 1, and no number is used again. They are
//! handed out in that order: **claiming one removes its row and moves the owner's first number above it, in one
//! transaction**, so whatever is read from the file later, no number below that is handed out. The one of last resort has a
//! number that no other gets.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use creto_control_storage::{Reading, Rows, Table, Writing};
use creto_envelope::prekeys::{PREKEY_BYTES, Prekey, PrekeySignature, PrekeyStock, SignedPrekey};
use creto_envelope::{AgentId, AgentState, RejectCode};

use super::check::CheckedBatch;
use crate::error::ServiceError;
use crate::limits::PREKEYS_HELD_MAX;
use crate::rotation::Refused;
use crate::storage::{AGENTS, AgentEntry, Storage};

pub(crate) const PREKEY_OWNERS: Table<[u8; 16], Vec<u8>> = Table::new("prekey_owners");
pub(crate) const PREKEY_BATCHES: Table<([u8; 16], u64), Vec<u8>> = Table::new("prekey_batches");
pub(crate) const PREKEYS: Table<([u8; 16], u64), Vec<u8>> = Table::new("prekeys");

/// The number of the prekey of last resort.
const LAST_RESORT: u64 = u64::MAX;

const OWNER_FORMAT: u8 = 1;
const OWNER_BYTES: usize = 80;

/// What is kept of an agent's prekeys, little-endian:
///
/// ```text
/// 0 u8 format=1 | 1 u8 has last resort | 2 [2] zero | 4 u32 key record version | 8 u64 first number that was not handed out
/// 16 u64 next number | 24 u64 next batch number | 32 u64 signing time of the last batch | 40 [32] its root | 72 u64 zero
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Owner {
    has_last_resort: bool,
    version: u32,
    first: u64,
    next: u64,
    next_batch: u64,
    signed_at_ms: u64,
    root: [u8; 32],
}

impl Owner {
    fn new() -> Self {
        Self { first: 1, next: 1, next_batch: 1, ..Self::default() }
    }

    fn to_bytes(self) -> [u8; OWNER_BYTES] {
        let mut bytes = [0; OWNER_BYTES];
        bytes[..2].copy_from_slice(&[OWNER_FORMAT, u8::from(self.has_last_resort)]);
        bytes[4..8].copy_from_slice(&self.version.to_le_bytes());
        for (at, number) in [(8, self.first), (16, self.next), (24, self.next_batch), (32, self.signed_at_ms)] {
            bytes[at..at + 8].copy_from_slice(&number.to_le_bytes());
        }
        bytes[40..72].copy_from_slice(&self.root);
        bytes
    }

    /// Parses the bytes; `None` when they are not as [`Owner::to_bytes`] writes them.
    fn parse(bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; OWNER_BYTES] = bytes.try_into().ok()?;
        let u64_at = |at: usize| Some(u64::from_le_bytes(*bytes.get(at..)?.first_chunk()?));
        let owner = Self {
            has_last_resort: bytes[1] == 1,
            version: u32::from_le_bytes(*bytes[4..].first_chunk()?),
            first: u64_at(8)?,
            next: u64_at(16)?,
            next_batch: u64_at(24)?,
            signed_at_ms: u64_at(32)?,
            root: *bytes[40..].first_chunk()?,
        };
        (owner.to_bytes() == *bytes && owner.first <= owner.next).then_some(owner)
    }

    fn one_time(&self) -> u64 {
        self.next - self.first
    }

    fn stock(&self) -> PrekeyStock {
        PrekeyStock {
            key_record_version: self.version,
            one_time: u32::try_from(self.one_time()).unwrap_or(u32::MAX),
            last_resort: self.has_last_resort,
            is_notice: false,
        }
    }

    /// As a backup has it: nothing that could be handed out a second time by whoever restores it.
    pub(crate) fn without_prekeys(bytes: &[u8]) -> Option<[u8; OWNER_BYTES]> {
        let owner = Self::parse(bytes)?;
        Some(Self { first: owner.next, has_last_resort: false, ..owner }.to_bytes())
    }
}

const BATCH_BYTES: usize = 24 + 64 + 3_309;

/// What the prekeys of one upload share, little-endian:
///
/// ```text
/// 0 u32 key record version | 4 u32 prekeys in it | 8 u32 of them not handed out | 12 u32 zero | 16 u64 signed at
/// 24 [64] Ed25519 | 88 [3309] ML-DSA-65
/// ```
#[derive(Clone)]
struct Batch {
    signature: PrekeySignature,
    count: u32,
    left: u32,
}

impl Batch {
    fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(BATCH_BYTES);
        for field in [self.signature.key_record_version, self.count, self.left, 0] {
            bytes.extend_from_slice(&field.to_le_bytes());
        }
        bytes.extend_from_slice(&self.signature.signed_at_ms.to_le_bytes());
        bytes.extend_from_slice(&self.signature.ed25519);
        bytes.extend_from_slice(&self.signature.ml_dsa_65[..]);
        bytes
    }

    fn parse(bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; BATCH_BYTES] = bytes.try_into().ok()?;
        let u32_at = |at: usize| Some(u32::from_le_bytes(*bytes.get(at..)?.first_chunk()?));
        let signature = PrekeySignature {
            key_record_version: u32_at(0)?,
            signed_at_ms: u64::from_le_bytes(*bytes[16..].first_chunk()?),
            ed25519: *bytes[24..].first_chunk()?,
            ml_dsa_65: Box::new(*bytes[88..].first_chunk()?),
        };
        Some(Self { signature, count: u32_at(4)?, left: u32_at(8)? })
    }
}

const ROW_HEAD_BYTES: usize = 16;

fn row_bytes(batch: u64, index: u32, prekey: &[u8; PREKEY_BYTES], path: &[[u8; 32]]) -> Vec<u8> {
    let nodes = u32::try_from(path.len()).expect("a path has a limit");
    let mut bytes = Vec::with_capacity(ROW_HEAD_BYTES + PREKEY_BYTES + path.len() * 32);
    bytes.extend_from_slice(&batch.to_le_bytes());
    bytes.extend_from_slice(&index.to_le_bytes());
    bytes.extend_from_slice(&nodes.to_le_bytes());
    bytes.extend_from_slice(prekey);
    bytes.extend_from_slice(path.as_flattened());
    bytes
}

/// Batch number, place in it, prekey and path.
type Row = (u64, u32, Prekey, Vec<[u8; 32]>);

fn parse_row(bytes: &[u8]) -> Option<Row> {
    let (head, rest) = bytes.split_first_chunk::<ROW_HEAD_BYTES>()?;
    let (prekey, path) = rest.split_at_checked(PREKEY_BYTES)?;
    let (batch, rest) = head.split_first_chunk::<8>()?;
    let (index, nodes) = rest.split_first_chunk::<4>()?;
    let (path, odd) = path.as_chunks::<32>();
    let is_whole = odd.is_empty() && nodes[..] == u32::try_from(path.len()).ok()?.to_le_bytes();
    let row = (u64::from_le_bytes(*batch), u32::from_le_bytes(*index), Prekey::parse(prekey).ok()?, path.to_vec());
    is_whole.then_some(row)
}

/// What became of an upload.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Uploaded {
    /// It is there now.
    Added(PrekeyStock),
    /// It was there before: what of it was handed out stays so.
    Known(PrekeyStock),
    /// The directory says no.
    Refused(Refused),
}

impl From<RejectCode> for Uploaded {
    fn from(code: RejectCode) -> Self {
        Self::Refused(code.into())
    }
}

/// Adds the prekeys of a batch.
pub(crate) fn upload(
    storage: &Storage,
    transaction: &dyn Writing,
    batch: &CheckedBatch,
) -> Result<Uploaded, ServiceError> {
    let id = batch.agent();
    let damaged = || storage.damaged(format!("prekeys of agent {id}"));
    let agents = transaction.table(AGENTS);
    let Some(entry) = agents.get(&id.0)? else {
        return Ok(RejectCode::UnknownSender.into());
    };
    let entry = AgentEntry::parse(&entry).ok_or_else(damaged)?;
    match entry.state {
        AgentState::Active => {}
        AgentState::Suspended => return Ok(RejectCode::AgentSuspended.into()),
        AgentState::Revoked => return Ok(RejectCode::AgentRevoked.into()),
    }
    let signature = batch.signature();
    if signature.key_record_version != entry.version {
        return Ok(RejectCode::UnknownKeyVersion.into());
    }
    let owners = transaction.table(PREKEY_OWNERS);
    let batches = transaction.table(PREKEY_BATCHES);
    let prekeys = transaction.table(PREKEYS);
    let stored = owners.get(&id.0)?;
    let mut owner = stored.map_or(Some(Owner::new()), |row| Owner::parse(&row)).ok_or_else(damaged)?;
    // Whoever lost the answer asks again, and must not bring back what was handed out meanwhile. So every batch is later
    // than the one before, and each is added once.
    if owner.signed_at_ms >= signature.signed_at_ms {
        return Ok(match owner.root == *batch.root() && owner.signed_at_ms == signature.signed_at_ms {
            true => Uploaded::Known(owner.stock()),
            false => RejectCode::PrekeyBatch.into(),
        });
    }
    // Prekeys of an older version are as old as its key: nobody is given them any more.
    if owner.version != entry.version {
        prekeys.delete_within(&(id.0, 0), &(id.0, u64::MAX))?;
        batches.delete_within(&(id.0, 0), &(id.0, u64::MAX))?;
        (owner.version, owner.first, owner.has_last_resort) = (entry.version, owner.next, false);
    }
    let one_time = batch.one_time() as u64;
    if owner.one_time() + one_time > PREKEYS_HELD_MAX {
        return Ok(RejectCode::PrekeysFull.into());
    }
    let number = owner.next_batch;
    let at = |index: u64| if index >= one_time { LAST_RESORT } else { owner.next + index };
    let keys: Vec<_> = (0..batch.prekeys().len() as u64).map(|index| (id.0, at(index))).collect();
    let before = prekeys.get_many(&keys)?;
    for (index, (prekey, path)) in (0_u32..).zip(batch.prekeys()) {
        let row = row_bytes(number, index, prekey, path);
        let is_last_resort = u64::from(index) >= one_time;
        let place = index as usize;
        prekeys.put(&keys[place], &row)?;
        match before[place].as_ref().map(|before| parse_row(before).map(|row| row.0)) {
            Some(Some(batch)) if is_last_resort => let_go(batches, id, batch, 1)?.ok_or_else(damaged)?,
            None => {}
            // A number that is used a second time.
            Some(_) => return Err(damaged()),
        }
        owner.has_last_resort |= is_last_resort;
    }
    let count = batch.prekeys().len();
    let count = u32::try_from(count).expect("a batch has a limit");
    let kept = Batch { signature: signature.clone(), count, left: count };
    batches.put(&(id.0, number), &kept.to_bytes())?;
    owner.next += one_time;
    owner.next_batch += 1;
    (owner.signed_at_ms, owner.root) = (signature.signed_at_ms, *batch.root());
    owners.put(&id.0, &owner.to_bytes())?;
    Ok(Uploaded::Added(owner.stock()))
}

type Batches<'t> = Rows<'t, dyn Writing + 't, ([u8; 16], u64), Vec<u8>>;

/// So many prekeys of a batch are gone; with the last of them the batch goes. `None` when it never had so many.
fn let_go(batches: Batches<'_>, agent: AgentId, number: u64, gone: u32) -> Result<Option<()>, ServiceError> {
    let key = (agent.0, number);
    let Some(mut batch) = batches.get(&key)?.and_then(|row| Batch::parse(&row)) else { return Ok(None) };
    let Some(left) = batch.left.checked_sub(gone) else { return Ok(None) };
    batch.left = left;
    match left {
        0 => batches.delete(&key)?,
        _ => batches.put(&key, &batch.to_bytes())?,
    }
    Ok(Some(()))
}

/// What is left of an agent's prekeys, as the last commit has it, and when it uploaded some last; nothing of it is claimed.
pub(crate) fn look(
    storage: &Storage,
    transaction: &dyn Reading,
    agent: AgentId,
    version: u32,
) -> Result<(PrekeyStock, Option<u64>), ServiceError> {
    let owners = transaction.table(PREKEY_OWNERS);
    let Some(row) = owners.get(&agent.0)? else { return Ok(Default::default()) };
    let owner = Owner::parse(&row).ok_or_else(|| storage.damaged(format!("prekeys of agent {agent}")))?;
    let stock = if owner.version == version { owner.stock() } else { PrekeyStock::default() };
    Ok((stock, Some(owner.signed_at_ms)))
}

/// What one claim gave, and what it leaves.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Claimed {
    pub(crate) prekey: SignedPrekey,
    /// `None` when the prekey is that of last resort and nothing changed.
    pub(crate) left: Option<u64>,
}

/// The claims of one transaction: what it reads of an owner or a batch it reads once, and writes once, in
/// [`finish`](Self::finish).
pub(crate) struct Claims<'t> {
    storage: &'t Storage,
    transaction: &'t dyn Writing,
    /// `None`: nobody is given a prekey of that agent now.
    seen: HashMap<AgentId, Option<Owner>>,
    opened: HashMap<(AgentId, u64), Batch>,
    is_changed: bool,
}

impl<'t> Claims<'t> {
    pub(crate) fn begin(storage: &'t Storage, transaction: &'t dyn Writing) -> Result<Self, ServiceError> {
        Ok(Self { storage, transaction, seen: HashMap::new(), opened: HashMap::new(), is_changed: false })
    }

    /// Takes a prekey of `agent`: the next one-time one if `one_time` allows it and one is left, else that of last resort.
    pub(crate) fn claim(
        &mut self,
        agent: AgentId,
        one_time: bool,
    ) -> Result<Result<Claimed, RejectCode>, ServiceError> {
        let Some(mut owner) = self.owner(agent)? else { return Ok(Err(RejectCode::NoPrekey)) };
        if !one_time || owner.one_time() == 0 {
            if !owner.has_last_resort {
                return Ok(Err(RejectCode::NoPrekey));
            }
            let row = self.transaction.table(PREKEYS).get(&(agent.0, LAST_RESORT))?;
            let row = row.and_then(|row| parse_row(&row)).ok_or_else(|| self.damaged(agent))?;
            let prekey = self.signed(agent, row, false)?;
            return Ok(Ok(Claimed { prekey, left: None }));
        }
        let number = owner.first;
        let row = self.transaction.table(PREKEYS).take(&(agent.0, number))?;
        let row = row.and_then(|row| parse_row(&row)).ok_or_else(|| self.damaged(agent))?;
        owner.first += 1;
        self.is_changed = true;
        self.seen.insert(agent, Some(owner));
        let prekey = self.signed(agent, row, true)?;
        Ok(Ok(Claimed { prekey, left: Some(owner.one_time()) }))
    }

    /// What is left of an agent's prekeys.
    pub(crate) fn stock(&mut self, agent: AgentId) -> Result<PrekeyStock, ServiceError> {
        Ok(self.owner(agent)?.map(|owner| owner.stock()).unwrap_or_default())
    }

    /// Writes what the claims changed; the caller commits. Whether anything was.
    pub(crate) fn finish(self) -> Result<bool, ServiceError> {
        if !self.is_changed {
            return Ok(false);
        }
        let (owners, batches) = (self.transaction.table(PREKEY_OWNERS), self.transaction.table(PREKEY_BATCHES));
        for (agent, owner) in &self.seen {
            if let Some(owner) = owner {
                owners.put(&agent.0, &owner.to_bytes())?;
            }
        }
        for ((agent, number), batch) in &self.opened {
            let key = (agent.0, *number);
            match batch.left {
                0 => batches.delete(&key)?,
                _ => batches.put(&key, &batch.to_bytes())?,
            }
        }
        Ok(true)
    }

    /// The owner, if it may act and its prekeys belong to the current version of its key record.
    fn owner(&mut self, agent: AgentId) -> Result<Option<Owner>, ServiceError> {
        if let Some(owner) = self.seen.get(&agent) {
            return Ok(*owner);
        }
        let damaged = || self.damaged(agent);
        let entry = self.transaction.table(AGENTS).get(&agent.0)?;
        let entry = entry.map(|row| AgentEntry::parse(&row).ok_or_else(damaged)).transpose()?;
        let row = self.transaction.table(PREKEY_OWNERS).get(&agent.0)?;
        let owner = row.map(|row| Owner::parse(&row).ok_or_else(damaged)).transpose()?;
        let current = entry.filter(|entry| entry.state == AgentState::Active).map(|entry| entry.version);
        let owner = owner.filter(|owner| current == Some(owner.version));
        self.seen.insert(agent, owner);
        Ok(owner)
    }

    /// The prekey of a row with what was signed for its batch, of which it is gone if `is_gone`.
    fn signed(&mut self, agent: AgentId, row: Row, is_gone: bool) -> Result<SignedPrekey, ServiceError> {
        let (number, index, prekey, path) = row;
        let batch = match self.opened.entry((agent, number)) {
            Entry::Occupied(batch) => batch.into_mut(),
            Entry::Vacant(place) => {
                let row = self.transaction.table(PREKEY_BATCHES).get(&(agent.0, number))?;
                let batch = row.and_then(|row| Batch::parse(&row));
                place.insert(batch.ok_or_else(|| self.storage.damaged(format!("prekeys of agent {agent}")))?)
            }
        };
        if is_gone {
            let left = batch.left.checked_sub(1);
            batch.left = left.ok_or_else(|| self.storage.damaged(format!("prekeys of agent {agent}")))?;
        }
        Ok(SignedPrekey { signature: batch.signature.clone(), count: batch.count, index, prekey, path })
    }

    fn damaged(&self, agent: AgentId) -> ServiceError {
        self.storage.damaged(format!("prekeys of agent {agent}"))
    }
}
