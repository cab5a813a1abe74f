//! Whether agents may act: changed inside the writer's transaction, one agent or an organization at a time.

use creto_envelope::{AgentId, AgentState};
use redb::{ReadableTable, Table, WriteTransaction};

use super::Directory;
use crate::error::ServiceError;
use crate::limits::STATE_CHANGES_MAX;
use crate::states::{OrganizationChanged, StateError, StateRequest, StateRow, Whose};
use crate::storage::{AGENTS, AgentEntry, NAMES, STATES, Storage};

/// What became of a change.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum StatesSet {
    /// What was done to an organization, or to one agent.
    Done(OrganizationChanged),
    /// No agent has this name.
    Unknown,
    /// The agent is revoked, and that is final.
    Final,
    /// It is no change of state.
    Refused(StateError),
}

/// An agent that changed, on its way into memory.
pub(super) struct Changed {
    pub(super) agent: AgentId,
    pub(super) state: AgentState,
    pub(super) since_ms: u64,
}

enum One {
    Changed(Changed),
    Same,
    Final,
}

impl Directory {
    pub(super) fn set_states(
        &self,
        transaction: &WriteTransaction,
        request: &StateRequest,
        now_ms: u64,
    ) -> Result<(StatesSet, Vec<Changed>), ServiceError> {
        let row = match request.change.row(now_ms) {
            Ok(row) => row,
            Err(error) => return Ok((StatesSet::Refused(error), Vec::new())),
        };
        let state = AgentState::from(request.change.state);
        let mut tables = Tables {
            storage: &self.storage,
            agents: transaction.open_table(AGENTS).map_err(ServiceError::database)?,
            states: transaction.open_table(STATES).map_err(ServiceError::database)?,
        };
        match &request.whose {
            Whose::Agent(agent) => Ok(match tables.set(*agent, state, row.as_ref())? {
                None => (StatesSet::Unknown, Vec::new()),
                Some(One::Final) => (StatesSet::Final, Vec::new()),
                Some(One::Same) => {
                    (StatesSet::Done(OrganizationChanged { unchanged: 1, ..Default::default() }), Vec::new())
                }
                Some(One::Changed(changed)) => {
                    (StatesSet::Done(OrganizationChanged { changed: 1, ..Default::default() }), vec![changed])
                }
            }),
            Whose::Organization { name, after } => {
                let names = transaction.open_table(NAMES).map_err(ServiceError::database)?;
                let prefix = format!("{name}/");
                let start = after.as_deref().unwrap_or_default().max(prefix.as_str());
                let (mut done, mut all, mut last) = (OrganizationChanged::default(), Vec::new(), None);
                for row_of_name in names.range(start..).map_err(ServiceError::database)? {
                    let (name, id) = row_of_name.map_err(ServiceError::database)?;
                    if after.as_deref() == Some(name.value()) {
                        continue;
                    }
                    if !name.value().starts_with(&prefix) {
                        break;
                    }
                    // Those that were so before cost no space in the transaction, but the one to come may.
                    if all.len() == STATE_CHANGES_MAX {
                        done.next_after = last.clone();
                        break;
                    }
                    match tables.set(AgentId(*id.value()), state, row.as_ref())? {
                        None => return Err(self.storage.damaged(format!("name {}", name.value()))),
                        Some(One::Final) => done.revoked_before += 1,
                        Some(One::Same) => done.unchanged += 1,
                        Some(One::Changed(changed)) => {
                            done.changed += 1;
                            all.push(changed);
                        }
                    }
                    last = Some(name.value().to_owned());
                }
                let is_known = last.is_some() || after.is_some();
                Ok((if is_known { StatesSet::Done(done) } else { StatesSet::Unknown }, all))
            }
        }
    }
}

struct Tables<'t> {
    storage: &'t Storage,
    agents: Table<'t, &'static [u8; 16], &'static [u8]>,
    states: Table<'t, &'static [u8; 16], &'static [u8]>,
}

impl Tables<'_> {
    /// Sets one agent's state; `None` when there is no such agent.
    fn set(&mut self, id: AgentId, state: AgentState, row: Option<&StateRow>) -> Result<Option<One>, ServiceError> {
        let known = self.agents.get(&id.0).map_err(ServiceError::database)?.map(|row| row.value().to_vec());
        let Some(known) = known else { return Ok(None) };
        let entry = AgentEntry::parse(&known).ok_or_else(|| self.storage.damaged(format!("agent {id}")))?;
        if entry.state == AgentState::Revoked && state != AgentState::Revoked {
            return Ok(Some(One::Final));
        }
        let mut since_ms = row.map_or(0, |row| row.since_ms);
        if entry.state == state {
            let before = self.storage.state(&self.states, id)?;
            // A revocation may be found to count since earlier, never since later: that would give back what was void.
            let is_earlier = state == AgentState::Revoked && before.is_some_and(|before| since_ms < before.since_ms);
            if !is_earlier {
                return Ok(Some(One::Same));
            }
        } else {
            let entry = AgentEntry { state, ..entry };
            self.agents.insert(&id.0, &entry.to_bytes()[..]).map_err(ServiceError::database)?;
        }
        match row {
            Some(row) => drop(self.states.insert(&id.0, &row.to_bytes()[..]).map_err(ServiceError::database)?),
            None => {
                since_ms = 0;
                drop(self.states.remove(&id.0).map_err(ServiceError::database)?);
            }
        }
        Ok(Some(One::Changed(Changed { agent: id, state, since_ms })))
    }
}
