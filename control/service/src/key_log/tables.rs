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
use creto_envelope::control::RotationMode;
use creto_envelope::key_log::KEY_LEAF_BYTES;
use creto_envelope::{AgentId, AgentState, SignedKeyRecord};
use creto_transparency::leaf::leaf_hash;
use creto_transparency::{KeyLeaf, LeafKind};
use redb::{
    ReadOnlyTable, ReadTransaction, ReadableTable, ReadableTableMetadata, Table, TableDefinition, WriteTransaction,
};

use crate::error::ServiceError;
use crate::storage::{AGENTS, AgentEntry, KEY_RECORDS, REPLACEMENTS, STATES, Storage, parse_replacement};

pub(crate) const KEY_LEAVES: TableDefinition<'_, u64, &[u8; KEY_LEAF_BYTES]> = TableDefinition::new("key_leaves");
pub(crate) const KEY_SUBTREES: TableDefinition<'_, (u8, u64), &[u8; 32]> = TableDefinition::new("key_subtrees");
pub(crate) const KEY_PLACES: TableDefinition<'_, (&[u8; 16], u32), u64> = TableDefinition::new("key_places");

/// The tables of the log, open in one transaction.
pub(crate) struct Log<'s, L, S, P> {
    storage: &'s Storage,
    leaves: L,
    subtrees: S,
    places: P,
    size: u64,
}

/// To read.
pub(crate) type LogReader<'s> = Log<
    's,
    ReadOnlyTable<u64, &'static [u8; KEY_LEAF_BYTES]>,
    ReadOnlyTable<(u8, u64), &'static [u8; 32]>,
    ReadOnlyTable<(&'static [u8; 16], u32), u64>,
>;

/// To append.
pub(crate) type LogWriter<'s, 't> = Log<
    's,
    Table<'t, u64, &'static [u8; KEY_LEAF_BYTES]>,
    Table<'t, (u8, u64), &'static [u8; 32]>,
    Table<'t, (&'static [u8; 16], u32), u64>,
>;

impl<L, S, P> Log<'_, L, S, P> {
    /// Number of leaves.
    pub(crate) fn size(&self) -> u64 {
        self.size
    }
}

impl<'s> LogReader<'s> {
    pub(crate) fn open(storage: &'s Storage, transaction: &ReadTransaction) -> Result<Self, ServiceError> {
        let leaves = transaction.open_table(KEY_LEAVES).map_err(ServiceError::database)?;
        let subtrees = transaction.open_table(KEY_SUBTREES).map_err(ServiceError::database)?;
        let places = transaction.open_table(KEY_PLACES).map_err(ServiceError::database)?;
        let size = leaves.len().map_err(ServiceError::database)?;
        Ok(Self { storage, leaves, subtrees, places, size })
    }

    /// Where the leaf of this key record is.
    pub(crate) fn place(&self, agent: AgentId, version: u32) -> Result<Option<u64>, ServiceError> {
        Ok(self.places.get((&agent.0, version)).map_err(ServiceError::database)?.map(|row| row.value()))
    }

    /// The leaves from `from` on, before `end`, which are there.
    pub(crate) fn leaves(&self, from: u64, end: u64) -> Result<Vec<[u8; KEY_LEAF_BYTES]>, ServiceError> {
        let rows = self.leaves.range(from..end).map_err(ServiceError::database)?;
        rows.map(|row| row.map(|(_, leaf)| *leaf.value()).map_err(ServiceError::database)).collect()
    }
}

impl<L, S, P> Log<'_, L, S, P>
where
    L: ReadableTable<u64, &'static [u8; KEY_LEAF_BYTES]>,
{
    pub(crate) fn leaf(&self, index: u64) -> Result<[u8; KEY_LEAF_BYTES], ServiceError> {
        let row = self.leaves.get(index).map_err(ServiceError::database)?;
        row.map(|row| *row.value()).ok_or_else(|| self.storage.damaged(format!("leaf {index} of the key log")))
    }
}

impl<L, S, P> Nodes for Log<'_, L, S, P>
where
    L: ReadableTable<u64, &'static [u8; KEY_LEAF_BYTES]>,
    S: ReadableTable<(u8, u64), &'static [u8; 32]>,
{
    type Error = ServiceError;

    fn complete(&mut self, level: u8, index: u64) -> Result<Hash, ServiceError> {
        if level == 0 {
            return Ok(leaf_hash(&self.leaf(index)?));
        }
        let row = self.subtrees.get((level, index)).map_err(ServiceError::database)?;
        let damaged = || self.storage.damaged(format!("subtree {index} of level {level} of the key log"));
        row.map(|row| *row.value()).ok_or_else(damaged)
    }
}

impl<'s, 't> LogWriter<'s, 't> {
    pub(crate) fn open(storage: &'s Storage, transaction: &'t WriteTransaction) -> Result<Self, ServiceError> {
        let leaves = transaction.open_table(KEY_LEAVES).map_err(ServiceError::database)?;
        let subtrees = transaction.open_table(KEY_SUBTREES).map_err(ServiceError::database)?;
        let places = transaction.open_table(KEY_PLACES).map_err(ServiceError::database)?;
        let size = leaves.len().map_err(ServiceError::database)?;
        Ok(Self { storage, leaves, subtrees, places, size })
    }

    /// Appends a leaf; it counts when the transaction does.
    pub(crate) fn append(&mut self, leaf: &KeyLeaf) -> Result<(), ServiceError> {
        let index = self.size;
        self.leaves.insert(index, &leaf.to_bytes()).map_err(ServiceError::database)?;
        if leaf.kind.is_record() {
            let before = self.places.insert((&leaf.agent.0, leaf.version), index).map_err(ServiceError::database)?;
            if before.is_some() {
                return Err(self
                    .storage
                    .damaged(format!("key record {} of agent {} in the log", leaf.version, leaf.agent)));
            }
        }
        completed_by(self, index, leaf.hash(), |log, level, at, hash| {
            if level > 0 {
                log.subtrees.insert((level, at), &hash).map_err(ServiceError::database)?;
            }
            Ok(())
        })?;
        self.size += 1;
        Ok(())
    }
}

/// Appends the leaves of key records that an older version stored, which knew no key log. Returns how many there were.
pub(crate) fn adopt(storage: &Storage, now_ms: u64) -> Result<u64, ServiceError> {
    let transaction = storage.begin_write()?;
    let adopted = {
        let mut log = LogWriter::open(storage, &transaction)?;
        let key_records = transaction.open_table(KEY_RECORDS).map_err(ServiceError::database)?;
        let replacements = transaction.open_table(REPLACEMENTS).map_err(ServiceError::database)?;
        let agents = transaction.open_table(AGENTS).map_err(ServiceError::database)?;
        let states = transaction.open_table(STATES).map_err(ServiceError::database)?;
        let logged = log.places.len().map_err(ServiceError::database)?;
        let missing = key_records.len().map_err(ServiceError::database)?.saturating_sub(logged);
        if missing == 0 {
            return Ok(0);
        }
        for row in key_records.iter().map_err(ServiceError::database)? {
            let (key, bytes) = row.map_err(ServiceError::database)?;
            let (id, version) = key.value();
            let agent = AgentId(*id);
            let damaged = || storage.damaged(format!("agent {agent}"));
            if log.places.get((id, version)).map_err(ServiceError::database)?.is_some() {
                continue;
            }
            let record = SignedKeyRecord::parse(bytes.value()).map_err(|_| damaged())?.record;
            if record.agent_id() != agent || record.version != version {
                return Err(damaged());
            }
            let kind = match version.checked_sub(1).filter(|before| *before > 0) {
                None => LeafKind::Enrolled,
                Some(before) => {
                    let row = replacements.get((id, before)).map_err(ServiceError::database)?;
                    kind_of(row.and_then(|row| parse_replacement(row.value())).ok_or_else(damaged)?.mode)
                }
            };
            let leaf = KeyLeaf { is_adopted: true, ..KeyLeaf::of(&record, kind, now_ms) };
            log.append(&leaf)?;
            let row = agents.get(id).map_err(ServiceError::database)?;
            let entry = row.and_then(|row| AgentEntry::parse(row.value())).ok_or_else(damaged)?;
            if entry.state == AgentState::Revoked && entry.version == version {
                let since_ms = storage.state(&states, agent)?.map_or(0, |state| state.since_ms);
                log.append(&KeyLeaf { kind: LeafKind::Revoked, since_ms, ..leaf })?;
            }
        }
        missing
    };
    transaction.commit().map_err(ServiceError::database)?;
    Ok(adopted)
}

/// What a leaf says of a key that was replaced so.
pub(crate) fn kind_of(mode: RotationMode) -> LeafKind {
    match mode {
        RotationMode::Planned => LeafKind::Rotated,
        RotationMode::Emergency => LeafKind::Emergency,
    }
}
