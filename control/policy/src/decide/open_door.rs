//! Who was let through while no policy could be loaded, and the configuration says that everything is allowed then.

use std::collections::BTreeMap;

use creto_envelope::AgentId;

use super::Action;
use crate::limits::OPEN_DOOR_PAIRS_MAX;

/// Uses since they were last taken.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct OpenDoor {
    /// How often each agent did what to whom; at most [`OPEN_DOOR_PAIRS_MAX`] of them.
    pub uses: BTreeMap<(AgentId, Action, AgentId), u32>,
    /// How often any others did something.
    pub others: u32,
}

impl OpenDoor {
    pub(super) fn used(&mut self, sender: &AgentId, action: Action, recipient: &AgentId) {
        let key = (*sender, action, *recipient);
        let has_room = self.uses.len() < OPEN_DOOR_PAIRS_MAX;
        let uses = match self.uses.get_mut(&key) {
            Some(uses) => uses,
            None if has_room => self.uses.entry(key).or_default(),
            None => &mut self.others,
        };
        *uses = uses.saturating_add(1);
    }

    /// Whether nobody used it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.uses.is_empty() && self.others == 0
    }
}
