//! The key log in the directory's file.
//!
//! | table | key | value |
//! |---|---|---|
//! | `key_leaves` | index u64 | the leaf, 120 bytes |
//! | `key_subtrees` | level u8, from 1; index u64 | root of the complete subtree of 2^level leaves that begins at leaf index x 2^level |
//! | `key_places` | agent id 16, version u32 | index u64 of the leaf of that key record |
//!
//! A row of subtrees for each that is complete: one for each leaf in the long run. So a proof reads a few rows for each level of
//! the tree and computes hardly anything, whatever the size.

use creto_audit::tree::{Hash, Nodes, completed_by};
use creto_control_storage::{Reading, Table, Writing};
use creto_envelope::control::RotationMode;
use creto_envelope::key_log::KEY_LEAF_BYTES;
use creto_envelope::{AgentId, AgentState, SignedKeyRecord};
use creto_transparency::leaf::leaf_hash;
use creto_transparency::{KeyLeaf, LeafKind};

use crate::error::ServiceError;
use crate::storage::{AGENTS, AgentEntry, KEY_RECORDS, REPLACEMENTS, Storage, parse_replacement};

pub(crate) const KEY_LEAVES: Table<u64, [u8; KEY_LEAF_BYTES]> = Table::new("key_leaves");
pub(crate) const KEY_SUBTREES: Table<(u8, u64), [u8; 32]> = Table::new("key_subtrees");
pub(crate) const KEY_PLACES: Table<([u8; 16], u32), u64> = Table::new("key_places");

/// The log, in one transaction, to read.
pub(crate) struct LogReader<'t> {
    storage: &'t Storage,
    transaction: &'t dyn Reading,
    size: u64,
}

impl<'t> LogReader<'t> {
    pub(crate) fn open(storage: &'t Storage, transaction: &'t dyn Reading) -> Result<Self, ServiceError> {
        let size = match transaction.table(KEY_LEAVES).last()? {
            Some((last, _)) => last.checked_add(1).ok_or_else(|| storage.damaged("the last leaf of the key log"))?,
            None => 0,
        };
        Ok(Self { storage, transaction, size })
    }

    /// Number of leaves.
    pub(crate) fn size(&self) -> u64 {
        self.size
    }

    /// Where the leaf of this key record is.
    pub(crate) fn place(&self, agent: AgentId, version: u32) -> Result<Option<u64>, ServiceError> {
        Ok(self.transaction.table(KEY_PLACES).get(&(agent.0, version))?)
    }

    pub(crate) fn leaf(&self, index: u64) -> Result<[u8; KEY_LEAF_BYTES], ServiceError> {
        let leaf = self.transaction.table(KEY_LEAVES).get(&index)?;
        leaf.ok_or_else(|| self.storage.damaged(format!("leaf {index} of the key log")))
    }

    /// The leaves from `from` on, before `end`, which are there.
    pub(crate) fn leaves(&self, from: u64, end: u64) -> Result<Vec<[u8; KEY_LEAF_BYTES]>, ServiceError> {
        let Some(last) = end.checked_sub(1) else { return Ok(Vec::new()) };
        let rows = self.transaction.table(KEY_LEAVES).within(&from, &last);
        rows.map(|row| Ok(row?.1)).collect()
    }
}

impl Nodes for LogReader<'_> {
    type Error = ServiceError;

    fn complete(&mut self, level: u8, index: u64) -> Result<Hash, ServiceError> {
        if level == 0 {
            return Ok(leaf_hash(&self.leaf(index)?));
        }
        let root = self.transaction.table(KEY_SUBTREES).get(&(level, index))?;
        root.ok_or_else(|| self.storage.damaged(format!("subtree {index} of level {level} of the key log")))
    }
}

/// The same, to append.
pub(crate) struct LogWriter<'t> {
    log: LogReader<'t>,
    transaction: &'t dyn Writing,
}

impl Nodes for LogWriter<'_> {
    type Error = ServiceError;

    fn complete(&mut self, level: u8, index: u64) -> Result<Hash, ServiceError> {
        self.log.complete(level, index)
    }
}

impl<'t> LogWriter<'t> {
    pub(crate) fn open(storage: &'t Storage, transaction: &'t dyn Writing) -> Result<Self, ServiceError> {
        Ok(Self { log: LogReader::open(storage, transaction)?, transaction })
    }

    /// Appends a leaf; it counts when the transaction does.
    pub(crate) fn append(&mut self, leaf: &KeyLeaf) -> Result<(), ServiceError> {
        let index = self.log.size;
        self.transaction.table(KEY_LEAVES).put(&index, &leaf.to_bytes())?;
        if leaf.kind.is_record() {
            let before = self.transaction.table(KEY_PLACES).insert(&(leaf.agent.0, leaf.version), &index)?;
            if before.is_some() {
                let what = format!("key record {} of agent {} in the log", leaf.version, leaf.agent);
                return Err(self.log.storage.damaged(what));
            }
        }
        completed_by(self, index, leaf.hash(), |log, level, at, hash| {
            if level > 0 {
                log.transaction.table(KEY_SUBTREES).put(&(level, at), &hash)?;
            }
            Ok(())
        })?;
        self.log.size += 1;
        Ok(())
    }
}

/// Appends the leaves of key records that an older version stored, which knew no key log. Returns how many there were.
pub(crate) fn adopt(storage: &Storage, now_ms: u64) -> Result<u64, ServiceError> {
    let transaction = storage.begin_write()?;
    let (key_records, places) = (transaction.table(KEY_RECORDS), transaction.table(KEY_PLACES));
    let missing = key_records.count()?.saturating_sub(places.count()?);
    if missing == 0 {
        return Ok(0);
    }
    let mut log = LogWriter::open(storage, &*transaction)?;
    for row in key_records.all() {
        let ((id, version), bytes) = row?;
        let agent = AgentId(id);
        let damaged = || storage.damaged(format!("agent {agent}"));
        if places.get(&(id, version))?.is_some() {
            continue;
        }
        let record = SignedKeyRecord::parse(&bytes).map_err(|_| damaged())?.record;
        if record.agent_id() != agent || record.version != version {
            return Err(damaged());
        }
        let kind = match version.checked_sub(1).filter(|before| *before > 0) {
            None => LeafKind::Enrolled,
            Some(before) => {
                let row = transaction.table(REPLACEMENTS).get(&(id, before))?;
                kind_of(row.and_then(|row| parse_replacement(&row)).ok_or_else(damaged)?.mode)
            }
        };
        let leaf = KeyLeaf { is_adopted: true, ..KeyLeaf::of(&record, kind, now_ms) };
        log.append(&leaf)?;
        let row = transaction.table(AGENTS).get(&id)?;
        let entry = row.and_then(|row| AgentEntry::parse(&row)).ok_or_else(damaged)?;
        if entry.state == AgentState::Revoked && entry.version == version {
            let since_ms = storage.state(&*transaction, agent)?.map_or(0, |state| state.since_ms);
            log.append(&KeyLeaf { kind: LeafKind::Revoked, since_ms, ..leaf })?;
        }
    }
    transaction.commit()?;
    Ok(missing)
}

/// What a leaf says of a key that was replaced so.
pub(crate) fn kind_of(mode: RotationMode) -> LeafKind {
    match mode {
        RotationMode::Planned => LeafKind::Rotated,
        RotationMode::Emergency => LeafKind::Emergency,
    }
}
