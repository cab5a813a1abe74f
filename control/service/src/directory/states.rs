//! Whether agents may act: changed inside the writer's transaction, one agent or an organization at a time.

use creto_control_storage::Writing;
use creto_envelope::{AgentId, AgentState};

use super::reader::named_from;
use super::{AGENTS_AT_ONCE, Directory, rows_of};
use crate::error::ServiceError;
use crate::limits::STATE_CHANGES_MAX;
use crate::states::{OrganizationChanged, StateError, StateRequest, StateRow, Whose};
use crate::storage::{AGENTS, AgentEntry, STATES, Storage};

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
        transaction: &dyn Writing,
        request: &StateRequest,
        now_ms: u64,
    ) -> Result<(StatesSet, Vec<Changed>), ServiceError> {
        let row = match request.change.row(now_ms) {
            Ok(row) => row,
            Err(error) => return Ok((StatesSet::Refused(error), Vec::new())),
        };
        let state = AgentState::from(request.change.state);
        let row = row.as_ref();
        let tables = Tables { storage: &self.storage, transaction };
        match &request.whose {
            Whose::Agent(agent) => Ok(match tables.set_all(&[*agent], state, row)?.pop().flatten() {
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
                let mut names = named_from(transaction, Some(name), after.as_deref());
                let (mut done, mut all, mut last) = (OrganizationChanged::default(), Vec::new(), None);
                loop {
                    // Those that were so before cost no space in the transaction, but the ones to come may.
                    let room = (STATE_CHANGES_MAX - all.len()).min(AGENTS_AT_ONCE);
                    let chunk: Vec<_> = names.by_ref().take(room.max(1)).collect::<Result<_, _>>()?;
                    if chunk.is_empty() {
                        break;
                    }
                    if room == 0 {
                        done.next_after = last.clone();
                        break;
                    }
                    let ids: Vec<_> = chunk.iter().map(|(_, id)| AgentId(*id)).collect();
                    for ((name, _), one) in chunk.into_iter().zip(tables.set_all(&ids, state, row)?) {
                        match one {
                            None => return Err(self.storage.damaged(format!("name {name}"))),
                            Some(One::Final) => done.revoked_before += 1,
                            Some(One::Same) => done.unchanged += 1,
                            Some(One::Changed(changed)) => {
                                done.changed += 1;
                                all.push(changed);
                            }
                        }
                        last = Some(name);
                    }
                }
                let is_known = last.is_some() || after.is_some();
                Ok((if is_known { StatesSet::Done(done) } else { StatesSet::Unknown }, all))
            }
        }
    }
}

struct Tables<'t> {
    storage: &'t Storage,
    transaction: &'t dyn Writing,
}

impl Tables<'_> {
    /// Sets the state of some agents, none of them twice; `None` where there is no such agent.
    fn set_all(
        &self,
        ids: &[AgentId],
        state: AgentState,
        row: Option<&StateRow>,
    ) -> Result<Vec<Option<One>>, ServiceError> {
        let known = rows_of(self.transaction, AGENTS, ids)?;
        let before = rows_of(self.transaction, STATES, ids)?;
        let each = ids.iter().zip(known.into_iter().zip(before));
        each.map(|(id, (known, before))| match known {
            Some(known) => self.set(*id, &known, before, state, row).map(Some),
            None => Ok(None),
        })
        .collect()
    }

    fn set(
        &self,
        id: AgentId,
        known: &[u8],
        before: Option<Vec<u8>>,
        state: AgentState,
        row: Option<&StateRow>,
    ) -> Result<One, ServiceError> {
        let entry = AgentEntry::parse(known).ok_or_else(|| self.storage.damaged(format!("agent {id}")))?;
        if entry.state == AgentState::Revoked && state != AgentState::Revoked {
            return Ok(One::Final);
        }
        let mut since_ms = row.map_or(0, |row| row.since_ms);
        if entry.state == state {
            let before = self.storage.parse_state(id, before)?;
            // A revocation may be found to count since earlier, never since later: that would give back what was void.
            let is_earlier = state == AgentState::Revoked && before.is_some_and(|before| since_ms < before.since_ms);
            if !is_earlier {
                return Ok(One::Same);
            }
        } else {
            let entry = AgentEntry { state, ..entry };
            self.transaction.table(AGENTS).put(&id.0, &entry.to_bytes())?;
        }
        match row {
            Some(row) => self.transaction.table(STATES).put(&id.0, &row.to_bytes())?,
            None => {
                since_ms = 0;
                self.transaction.table(STATES).delete(&id.0)?;
            }
        }
        Ok(One::Changed(Changed { agent: id, state, since_ms }))
    }
}
