//! What the API reads of the directory.

use std::sync::Arc;

use creto_control_storage::{Reading, StorageError};
use creto_envelope::{AgentId, AgentName, KeyRecord, TrustDomain};
use creto_policy::Attributes;

use super::{AGENTS_AT_ONCE, attributes, rows_of};
use crate::api::{AgentInfo, AgentPage, state_word};
use crate::error::ServiceError;
use crate::limits::{PAGE_AGENTS_MAX, PAGE_ATTRIBUTES_BYTES_MAX, attributes_json_bytes_max};
use crate::states::StateRow;
use crate::storage::{AGENTS, ATTRIBUTES, AgentEntry, KEY_RECORDS, NAMES, STATES, Storage};
/// Names and ids of the agents of one organization or of all, in the order of names, those after `after`.
pub(super) fn named_from<'t>(
    transaction: &'t dyn Reading,
    organization: Option<&str>,
    after: Option<&str>,
) -> impl Iterator<Item = Result<(String, [u8; 16]), StorageError>> + use<'t> {
    let prefix = organization.map(|organization| format!("{organization}/")).unwrap_or_default();
    let names = transaction.table(NAMES);
    let rows = match after {
        Some(after) if after >= prefix.as_str() => names.after(after),
        _ => names.from(&prefix),
    };
    rows.take_while(move |row| row.as_ref().map_or(true, |(name, _)| name.starts_with(&prefix)))
}

/// Reads of the last committed state. They never wait for a writer.
#[derive(Clone)]
pub(crate) struct Reader {
    pub(super) storage: Arc<Storage>,
    pub(super) trust_domain: TrustDomain,
}

impl Reader {
    pub(crate) fn new(storage: Arc<Storage>, trust_domain: TrustDomain) -> Self {
        Self { storage, trust_domain }
    }

    pub(crate) fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    /// An agent, as the API shows it.
    fn info(&self, entry: &AgentEntry, attributes: &Attributes, state: Option<StateRow>) -> AgentInfo {
        AgentInfo {
            name: entry.name.to_string(),
            id: AgentId::derive(&self.trust_domain, &entry.name).to_string(),
            spiffe_id: entry.name.spiffe_id(&self.trust_domain),
            organization: entry.name.organization().to_owned(),
            state: state_word(entry.state).to_owned(),
            state_since_ms: state.as_ref().map(|state| state.since_ms),
            state_set_at_ms: state.as_ref().map(|state| state.decided_ms),
            state_reason: state.map(|state| state.reason).filter(|reason| !reason.is_empty()),
            version: entry.version,
            key_id: entry.key_id.to_string(),
            valid_from_ms: entry.valid_from_ms,
            valid_until_ms: entry.valid_until_ms,
            registered_at_ms: entry.registered_at_ms,
            agent_type: attributes.agent_type().to_owned(),
            roles: attributes.roles().to_vec(),
            capabilities: attributes.capabilities().to_vec(),
        }
    }

    /// The agent with this name.
    pub(crate) fn agent(&self, name: &AgentName) -> Result<Option<AgentInfo>, ServiceError> {
        let transaction = self.storage.begin_read()?;
        let agents = transaction.table(AGENTS);
        let id = AgentId::derive(&self.trust_domain, name);
        let Some(row) = agents.get(&id.0)? else { return Ok(None) };
        let entry = AgentEntry::parse(&row).ok_or_else(|| self.storage.damaged(format!("agent {id}")))?;
        let attributes = attributes::stored(&self.storage, &*transaction, id)?;
        Ok(Some(self.info(&entry, &attributes, self.storage.state(&*transaction, id)?)))
    }

    /// The current key record of an agent; `None` when it is not registered.
    pub(crate) fn current_record(&self, agent: AgentId) -> Result<Option<KeyRecord>, ServiceError> {
        self.storage.current_record(&*self.storage.begin_read()?, agent)
    }

    /// The bytes of one signed key record.
    pub(crate) fn key_record(&self, agent: AgentId, version: u32) -> Result<Option<Vec<u8>>, ServiceError> {
        Ok(self.storage.begin_read()?.table(KEY_RECORDS).get(&(agent.0, version))?)
    }

    /// Agents by name, of one organization or of all, those after `after`, at most `limit`, and fewer when they have many
    /// attributes.
    pub(crate) fn page(
        &self,
        organization: Option<&str>,
        after: Option<&str>,
        limit: usize,
    ) -> Result<AgentPage, ServiceError> {
        let transaction = self.storage.begin_read()?;
        let mut room = PAGE_ATTRIBUTES_BYTES_MAX;
        let fetch = |ids: &[AgentId]| {
            let attributes = rows_of(&*transaction, ATTRIBUTES, ids)?;
            Ok(attributes.into_iter().zip(rows_of(&*transaction, STATES, ids)?).collect())
        };
        let show = |id: AgentId, entry: AgentEntry, (attributes, state): (Option<Vec<u8>>, Option<Vec<u8>>)| {
            let attributes = self.storage.parse_attributes(id, attributes)?.unwrap_or_default();
            let Some(left) = room.checked_sub(attributes_json_bytes_max(&attributes)) else { return Ok(None) };
            room = left;
            Ok(Some(self.info(&entry, &attributes, self.storage.parse_state(id, state)?)))
        };
        let (agents, next_after) = self.named(&*transaction, organization, after, limit, fetch, show)?;
        Ok(AgentPage { agents, next_after })
    }

    /// What `show` makes of the agents by name, at most `limit` of them, and the name after which there are more. `fetch` reads
    /// what is shown of some of them beside their entries. The page ends early where `show` makes nothing of one, which it must not
    /// of the first.
    pub(super) fn named<B, T>(
        &self,
        transaction: &dyn Reading,
        organization: Option<&str>,
        after: Option<&str>,
        limit: usize,
        fetch: impl Fn(&[AgentId]) -> Result<Vec<B>, ServiceError>,
        mut show: impl FnMut(AgentId, AgentEntry, B) -> Result<Option<T>, ServiceError>,
    ) -> Result<(Vec<T>, Option<String>), ServiceError> {
        let limit = limit.clamp(1, PAGE_AGENTS_MAX);
        let mut names = named_from(transaction, organization, after);
        let (mut shown, mut last) = (Vec::new(), None);
        loop {
            let chunk: Vec<_> = names.by_ref().take(AGENTS_AT_ONCE).collect::<Result<_, _>>()?;
            if chunk.is_empty() {
                return Ok((shown, None));
            }
            let ids: Vec<_> = chunk.iter().map(|(_, id)| AgentId(*id)).collect();
            let beside = rows_of(transaction, AGENTS, &ids)?.into_iter().zip(fetch(&ids)?);
            for ((name, id), (row, beside)) in chunk.into_iter().zip(beside) {
                if shown.len() == limit {
                    return Ok((shown, last));
                }
                let entry = row.and_then(|row| AgentEntry::parse(&row));
                let entry = entry.ok_or_else(|| self.storage.damaged(format!("name {name}")))?;
                let Some(one) = show(AgentId(id), entry, beside)? else {
                    assert!(last.is_some(), "a page has room for one agent, or the list would never end");
                    return Ok((shown, last));
                };
                last = Some(name);
                shown.push(one);
            }
        }
    }
}
