//! What changes of the directory are leaves of the key log: written in the transaction of the change.

use creto_envelope::{AgentState, SignedKeyRecord};
use creto_transparency::{KeyLeaf, LeafKind};
use redb::{ReadableTable, WriteTransaction};

use super::{Directory, Pending, states};
use crate::error::ServiceError;
use crate::key_log::tables::{LogWriter, kind_of};
use crate::storage::{AGENTS, AgentEntry, KEY_RECORDS};

impl Directory {
    /// Appends a leaf for each key record that `pending` brings, and for each revocation.
    pub(super) fn log_keys(
        &self,
        transaction: &WriteTransaction,
        pending: &[Pending],
        now_ms: u64,
    ) -> Result<(), ServiceError> {
        let mut log = LogWriter::open(&self.storage, transaction)?;
        for change in pending {
            let leaf = match change {
                Pending::Agent(_, signed) => KeyLeaf::of(&signed.record, LeafKind::Enrolled, now_ms),
                Pending::Key(signed, mode) => KeyLeaf::of(&signed.record, kind_of(*mode), now_ms),
                Pending::State(states::Changed { agent, state: AgentState::Revoked, since_ms }, _) => {
                    let damaged = || self.storage.damaged(format!("agent {agent}"));
                    let agents = transaction.open_table(AGENTS).map_err(ServiceError::database)?;
                    let row = agents.get(&agent.0).map_err(ServiceError::database)?;
                    let entry = row.and_then(|row| AgentEntry::parse(row.value())).ok_or_else(damaged)?;
                    let records = transaction.open_table(KEY_RECORDS).map_err(ServiceError::database)?;
                    let row = records.get((&agent.0, entry.version)).map_err(ServiceError::database)?;
                    let current = row.and_then(|row| SignedKeyRecord::parse(row.value()).ok()).ok_or_else(damaged)?;
                    KeyLeaf { since_ms: *since_ms, ..KeyLeaf::of(&current.record, LeafKind::Revoked, now_ms) }
                }
                _ => continue,
            };
            log.append(&leaf)?;
        }
        Ok(())
    }
}
