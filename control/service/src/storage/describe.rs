//! Up to format 4 a key record was in `key_records` only, and a start read all of them. What snapshots hold of each is written beside
//! the agents once, in the transaction that raises the format.

use creto_control_storage::Writing;
use creto_envelope::control::RotationMode;
use creto_envelope::{AgentId, KeyRecord};
use creto_policy::{KeyVersion, Replacement};

use super::{AGENTS, AgentEntry, Beside, KEY_RECORDS, REPLACEMENTS, Storage, replaced_bytes};
use crate::error::ServiceError;

const ENTRY_FIXED_BYTES_1: usize = 48;

/// Rewrites the rows of `agents` and `replacements`. Reads every record, so it takes as long as a start took before: seven kilobytes
/// for each version.
pub(super) fn all(storage: &Storage, transaction: &dyn Writing) -> Result<(), ServiceError> {
    let (agents, replacements) = (transaction.table(AGENTS), transaction.table(REPLACEMENTS));
    // A row is read before it is written again, and a scan goes on behind what it has read.
    let mut entries = Beside::of(agents.all());
    let mut ends = Beside::of(replacements.all());
    let mut before: Option<KeyRecord> = None;
    for row in transaction.table(KEY_RECORDS).all() {
        let ((key, version), bytes) = row?;
        let id = AgentId(key);
        let damaged = || storage.damaged(format!("agent {id}"));
        let record = storage.parse_record(id, version, &bytes)?.record;
        // What an agent signs is verified with the keys of any of its versions.
        let has_other_keys = |before: &KeyRecord| {
            before.name == record.name
                && (before.ed25519 != record.ed25519
                    || before.ml_dsa_65 != record.ml_dsa_65
                    || before.fn_dsa_512 != record.fn_dsa_512)
        };
        if before.as_ref().is_some_and(has_other_keys) {
            return Err(damaged());
        }
        match ends.next_where(|place| place.cmp(&(key, version)))? {
            Some((_, row)) => {
                let replaced = Some(replacement_of(&row).ok_or_else(damaged)?);
                let known = KeyVersion { replaced, ..KeyVersion::from(&record) };
                replacements.put(&(key, version), &replaced_bytes(&known))?;
            }
            None => {
                let row = entries.next_where(|agent| agent.cmp(&key))?.map(|(_, row)| row);
                let entry = row.and_then(|row| entry_of(&row, record.fn_dsa_512.is_some())).ok_or_else(damaged)?;
                if entry.current() != KeyVersion::from(&record) {
                    return Err(damaged());
                }
                agents.put(&key, &entry.to_bytes())?;
            }
        }
        before = Some(record);
    }
    Ok(())
}

/// An entry of format 1, whose record is the current one.
fn entry_of(bytes: &[u8], has_fn_dsa_512: bool) -> Option<AgentEntry> {
    let (fixed, name) = bytes.split_at_checked(ENTRY_FIXED_BYTES_1)?;
    if fixed[0] != 1 {
        return None;
    }
    let mut now = [fixed, &[has_fn_dsa_512.into(), 0, 0, 0, 0, 0, 0, 0], name].concat();
    now[0] = super::ENTRY_FORMAT;
    AgentEntry::parse(&now)
}

/// A replacement of format 1.
fn replacement_of(bytes: &[u8]) -> Option<Replacement> {
    let bytes: &[u8; 16] = bytes.try_into().ok()?;
    let [1, mode, 0, 0, 0, 0, 0, 0, at_ms @ ..] = bytes else { return None };
    Some(Replacement { at_ms: u64::from_le_bytes(*at_ms), mode: RotationMode::from_u8(*mode)? })
}

#[cfg(test)]
mod tests;
