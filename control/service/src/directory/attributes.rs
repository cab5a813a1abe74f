//! The attributes of agents: changed inside the writer's transaction, read with the agent.

use std::sync::Arc;

use creto_control_storage::{Reading, Writing};
use creto_envelope::AgentId;
use creto_policy::{Attributes, AttributesError};

use super::Directory;
use crate::attributes::{AttributesRequest, row_bytes};
use crate::error::ServiceError;
use crate::storage::{AGENTS, ATTRIBUTES, Storage};

/// What became of one change.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum AttributesSet {
    /// These are set now.
    Changed(Arc<Attributes>),
    /// They were set before.
    Same,
    /// No agent has this name.
    Unknown,
    /// A text is none that may be set.
    Refused(AttributesError),
}

impl Directory {
    pub(super) fn set_attributes_one(
        &self,
        transaction: &dyn Writing,
        request: &AttributesRequest,
    ) -> Result<AttributesSet, ServiceError> {
        let agents = transaction.table(AGENTS);
        let table = transaction.table(ATTRIBUTES);
        let id = request.agent;
        if agents.get(&id.0)?.is_none() {
            return Ok(AttributesSet::Unknown);
        }
        let before = stored(&self.storage, transaction, id)?;
        let after = match request.change.applied_to(&before) {
            Ok(after) if after == before => return Ok(AttributesSet::Same),
            Ok(after) => after,
            Err(error) => return Ok(AttributesSet::Refused(error)),
        };
        if after == Attributes::default() {
            table.delete(&id.0)?;
        } else {
            table.put(&id.0, &row_bytes(&after))?;
        }
        Ok(AttributesSet::Changed(Arc::new(after)))
    }
}

/// Those of an agent; without a row, those of one for which none are set.
pub(crate) fn stored(storage: &Storage, transaction: &dyn Reading, id: AgentId) -> Result<Attributes, ServiceError> {
    storage.attributes(transaction, id).map(Option::unwrap_or_default)
}
