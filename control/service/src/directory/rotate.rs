//! The rules of replacing an encryption key, inside the writer's transaction.

use creto_control_storage::Writing;
use creto_envelope::control::RotationMode;
use creto_envelope::{AgentState, KeyRecord, RejectCode, SignedKeyRecord};
use creto_policy::{KeyVersion, Replacement};

use super::Directory;
use crate::error::ServiceError;
use crate::limits::{EMERGENCIES_PER_WINDOW_MAX, ROTATION_WINDOW_MS, ROTATIONS_PER_WINDOW_MAX};
use crate::rotation::{Refused, Rotation};
use crate::storage::{AGENTS, AgentEntry, KEY_RECORDS, REPLACEMENTS, parse_replacement, replaced_bytes};

/// What became of one published record.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Rotated {
    /// It is the current one now.
    Replaced(u32),
    /// It was the current one before.
    Known(u32),
    /// The directory says no.
    Refused(Refused),
}

impl From<RejectCode> for Rotated {
    fn from(code: RejectCode) -> Self {
        Self::Refused(code.into())
    }
}

impl Directory {
    pub(super) fn rotate_one(
        &self,
        transaction: &dyn Writing,
        rotation: &Rotation,
        now_ms: u64,
    ) -> Result<Rotated, ServiceError> {
        let agents = transaction.table(AGENTS);
        let key_records = transaction.table(KEY_RECORDS);
        let replacements = transaction.table(REPLACEMENTS);
        let signed = rotation.signed();
        let record = &signed.record;
        let id = record.agent_id();
        let damaged = || self.storage.damaged(format!("agent {id}"));

        let Some(row) = agents.get(&id.0)? else {
            return Ok(RejectCode::UnknownSender.into());
        };
        let entry = AgentEntry::parse(&row).ok_or_else(damaged)?;
        match entry.state {
            AgentState::Active => {}
            AgentState::Suspended => return Ok(RejectCode::AgentSuspended.into()),
            AgentState::Revoked => return Ok(RejectCode::AgentRevoked.into()),
        }
        let current = key_records.get(&(id.0, entry.version))?;
        let current = current.and_then(|row| SignedKeyRecord::parse(&row).ok()).ok_or_else(damaged)?.record;
        // Compared without the signatures: whoever lost the answer may have signed again.
        if current == *record {
            return Ok(Rotated::Known(current.version));
        }
        if entry.version.checked_add(1) != Some(record.version) {
            return Ok(RejectCode::RotationVersion.into());
        }
        // All of them: a third signature that the record demands is not dropped by the way.
        let signing = |record: &KeyRecord| (record.ed25519, record.ml_dsa_65.clone(), record.fn_dsa_512.clone());
        if signing(&current) != signing(record) {
            return Ok(RejectCode::RotationSigningKeys.into());
        }
        // The snapshot's versions, and the current one, which an earlier request of this transaction may have made.
        let key = record.key_id();
        let had_before = self.builder.principal(&id).is_some_and(|known| known.accepted_until_ms(&key).is_some());
        if had_before || key == entry.key_id {
            return Ok(RejectCode::RotationRecord.into());
        }
        // The replacement that is one too many when it is still inside the window.
        let rotations_max = match rotation.mode {
            RotationMode::Planned => ROTATIONS_PER_WINDOW_MAX,
            RotationMode::Emergency => EMERGENCIES_PER_WINDOW_MAX,
        };
        if let Some(version) = entry.version.checked_sub(rotations_max) {
            let row = replacements.get(&(id.0, version))?;
            let replaced = row.and_then(|row| parse_replacement(&row));
            let until_ms = replaced.map_or(0, |replaced| replaced.at_ms.saturating_add(ROTATION_WINDOW_MS));
            if until_ms > now_ms {
                let retry_after_ms = u32::try_from(until_ms - now_ms).unwrap_or(u32::MAX);
                return Ok(Rotated::Refused(Refused { code: RejectCode::Overloaded, retry_after_ms }));
            }
        }

        let replaced = Some(Replacement { at_ms: now_ms, mode: rotation.mode });
        let replaced = KeyVersion { replaced, ..KeyVersion::from(&current) };
        let entry = AgentEntry { registered_at_ms: entry.registered_at_ms, ..AgentEntry::registered(signed, now_ms) };
        agents.put(&id.0, &entry.to_bytes())?;
        key_records.put(&(id.0, record.version), &signed.to_bytes())?;
        replacements.put(&(id.0, current.version), &replaced_bytes(&replaced))?;
        Ok(Rotated::Replaced(record.version))
    }
}
