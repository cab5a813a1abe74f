//! What changes of the directory are leaves of the key log: written in the transaction of the change.

use creto_control_storage::Writing;
use creto_envelope::{AgentId, AgentState, SignedKeyRecord};
use creto_transparency::{KeyLeaf, LeafKind};

use super::{AGENTS_AT_ONCE, Directory, Pending, rows_of, states};
use crate::error::ServiceError;
use crate::key_log::tables::{LogWriter, kind_of};
use crate::storage::{AGENTS, AgentEntry, KEY_RECORDS};

impl Directory {
    /// Appends a leaf for each key record that `pending` brings, and for each revocation.
    pub(super) fn log_keys(
        &self,
        transaction: &dyn Writing,
        pending: &[Pending],
        now_ms: u64,
    ) -> Result<(), ServiceError> {
        let mut log = LogWriter::open(&self.storage, transaction)?;
        for changes in pending.chunks(AGENTS_AT_ONCE) {
            let mut revoked = self.current_of_revoked(transaction, changes)?.into_iter();
            for change in changes {
                let leaf = match change {
                    Pending::Agent(_, signed) => KeyLeaf::of(&signed.record, LeafKind::Enrolled, now_ms),
                    Pending::Key(signed, mode) => KeyLeaf::of(&signed.record, kind_of(*mode), now_ms),
                    Pending::State(states::Changed { state: AgentState::Revoked, since_ms, .. }, _) => {
                        let current = revoked.next().expect("there is one for each that was revoked");
                        KeyLeaf { since_ms: *since_ms, ..KeyLeaf::of(&current.record, LeafKind::Revoked, now_ms) }
                    }
                    _ => continue,
                };
                log.append(&leaf)?;
            }
        }
        Ok(())
    }

    /// The current key records of the agents that some changes revoke, in the order of the changes.
    fn current_of_revoked(
        &self,
        transaction: &dyn Writing,
        changes: &[Pending],
    ) -> Result<Vec<SignedKeyRecord>, ServiceError> {
        let ids: Vec<_> = changes
            .iter()
            .filter_map(|change| match change {
                Pending::State(states::Changed { agent, state: AgentState::Revoked, .. }, _) => Some(*agent),
                _ => None,
            })
            .collect();
        let damaged = |id: &AgentId| self.storage.damaged(format!("agent {id}"));
        let entries = ids.iter().zip(rows_of(transaction, AGENTS, &ids)?);
        let key = |(id, row): (&AgentId, Option<Vec<u8>>)| {
            let entry = row.and_then(|row| AgentEntry::parse(&row)).ok_or_else(|| damaged(id))?;
            Ok((id.0, entry.version))
        };
        let keys: Vec<_> = entries.map(key).collect::<Result<_, ServiceError>>()?;
        let records = ids.iter().zip(transaction.table(KEY_RECORDS).get_many(&keys)?);
        let record = |(id, row): (&AgentId, Option<Vec<u8>>)| {
            row.and_then(|row| SignedKeyRecord::parse(&row).ok()).ok_or_else(|| damaged(id))
        };
        records.map(record).collect()
    }
}
