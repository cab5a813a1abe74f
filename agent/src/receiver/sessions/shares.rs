//! How much each sender has of what is bounded, and who has most. Pure.

use std::collections::{BTreeSet, HashMap};

use creto_envelope::AgentId;

/// How much of something each sender has.
#[derive(Debug, Default)]
pub(super) struct Shares {
    of: HashMap<AgentId, usize>,
    ranked: BTreeSet<(usize, AgentId)>,
    pub(super) total: usize,
}

impl Shares {
    pub(super) fn of(&self, sender: AgentId) -> usize {
        self.of.get(&sender).copied().unwrap_or_default()
    }

    /// Part of what a sender has was `before`, and is `after`.
    pub(super) fn change(&mut self, sender: AgentId, before: usize, after: usize) {
        let had = self.of(sender);
        let has = had - before + after;
        self.total = self.total - before + after;
        self.ranked.remove(&(had, sender));
        if has == 0 {
            self.of.remove(&sender);
        } else {
            self.ranked.insert((has, sender));
            self.of.insert(sender, has);
        }
    }

    pub(super) fn largest(&self) -> AgentId {
        self.ranked.last().expect("somebody has some").1
    }
}
