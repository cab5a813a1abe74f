//! The versions of an agent's key record, and what is left of its prekeys, as the API shows them.

use creto_envelope::control::RotationMode;
use creto_envelope::{AgentId, AgentName, SignedKeyRecord};

use super::Reader;
use crate::api::{AgentKeys, AgentPrekeys, KeyState, KeyVersionInfo};
use crate::error::ServiceError;
use crate::limits::{PREKEYS_LOW, VERSIONS_LISTED_MAX};
use crate::prekeys::tables;
use crate::storage::{AGENTS, AgentEntry, KEY_RECORDS, REPLACEMENTS, parse_replacement};

impl Reader {
    /// What is left of an agent's prekeys.
    pub(crate) fn prekeys(&self, name: &AgentName) -> Result<Option<AgentPrekeys>, ServiceError> {
        let id = AgentId::derive(&self.trust_domain, name);
        let transaction = self.storage.begin_read()?;
        let agents = transaction.table(AGENTS);
        let Some(row) = agents.get(&id.0)? else { return Ok(None) };
        let entry = AgentEntry::parse(&row).ok_or_else(|| self.storage.damaged(format!("agent {id}")))?;
        let (stock, uploaded_at_ms) = tables::look(&self.storage, &*transaction, id, entry.version)?;
        Ok(Some(AgentPrekeys {
            name: entry.name.to_string(),
            version: entry.version,
            one_time: stock.one_time,
            last_resort: stock.last_resort,
            low: PREKEYS_LOW,
            uploaded_at_ms,
        }))
    }

    /// The newest versions of an agent's key record, the current one first.
    pub(crate) fn keys(
        &self,
        name: &AgentName,
        key_grace_ms: u64,
        now_ms: u64,
    ) -> Result<Option<AgentKeys>, ServiceError> {
        let id = AgentId::derive(&self.trust_domain, name);
        let damaged = || self.storage.damaged(format!("agent {id}"));
        let transaction = self.storage.begin_read()?;
        let agents = transaction.table(AGENTS);
        let key_records = transaction.table(KEY_RECORDS);
        let replacements = transaction.table(REPLACEMENTS);
        let Some(row) = agents.get(&id.0)? else { return Ok(None) };
        let entry = AgentEntry::parse(&row).ok_or_else(damaged)?;

        let mut keys = AgentKeys { name: entry.name.to_string(), key_grace_ms, versions: Vec::new() };
        // An emergency ends all that was before it.
        let mut revoked = false;
        let stored: Vec<_> = key_records
            .within(&(id.0, 0), &(id.0, u32::MAX))
            .descending()
            .limit(VERSIONS_LISTED_MAX)
            .collect::<Result<_, _>>()?;
        let replaced = replacements.get_many(stored.iter().map(|(key, _)| key))?;
        for ((_, bytes), row) in stored.into_iter().zip(replaced) {
            let record = SignedKeyRecord::parse(&bytes).map_err(|_| damaged())?.record;
            let replaced = row.map(|row| parse_replacement(&row).ok_or_else(damaged)).transpose()?;
            revoked |= replaced.is_some_and(|replaced| replaced.mode == RotationMode::Emergency);
            let accepted_until_ms =
                replaced.map(|replaced| if revoked { 0 } else { replaced.at_ms.saturating_add(key_grace_ms) });
            let state = match accepted_until_ms {
                None => KeyState::Current,
                Some(_) if revoked => KeyState::Revoked,
                Some(until_ms) if now_ms < until_ms => KeyState::Grace,
                Some(_) => KeyState::Ended,
            };
            keys.versions.push(KeyVersionInfo {
                version: record.version,
                key_id: record.key_id().to_string(),
                state: state.as_str().to_owned(),
                valid_from_ms: record.valid_from_ms,
                valid_until_ms: record.valid_until_ms,
                replaced_at_ms: replaced.map(|replaced| replaced.at_ms),
                accepted_until_ms: accepted_until_ms.filter(|_| state == KeyState::Grace),
            });
        }
        Ok(Some(keys))
    }
}
