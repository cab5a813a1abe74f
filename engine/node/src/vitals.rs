//! How a node that runs is: whether it serves, and whether each of its shards moves. For whoever supervises the process.

use std::fmt;
use std::sync::Arc;

use creto_io::watchdog::Progress;
use creto_service::health::{Health, Readiness};

/// The vital signs of a node, or of a control service, which has no shards.
#[derive(Clone)]
pub struct Vitals {
    health: Health,
    shards: Vec<Pulse>,
}

/// How far a shard was when it was last looked at.
#[derive(Clone)]
struct Pulse {
    progress: Arc<Progress>,
    turns: Option<u64>,
}

impl fmt::Debug for Vitals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Vitals").field("shards", &self.shards.len()).finish_non_exhaustive()
    }
}

impl Vitals {
    pub(crate) fn new(health: Health, shards: impl IntoIterator<Item = Arc<Progress>>) -> Self {
        let shards = shards.into_iter().map(|progress| Pulse { progress, turns: None }).collect();
        Self { health, shards }
    }

    /// What `/ready` answers at this moment.
    #[must_use]
    pub fn readiness(&self) -> Readiness {
        self.health.readiness()
    }

    /// Whether every shard has taken a turn since this was asked last; one that has nothing to do takes twenty in a second. A shard
    /// that has ended counts as one that moves: that ends the node, and is no stall.
    pub fn have_moved(&mut self) -> bool {
        let mut all = true;
        for Pulse { progress, turns } in &mut self.shards {
            let now = progress.turns();
            all &= turns.replace(now) != Some(now) || !progress.is_running();
        }
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shard_that_has_ended_is_no_stall() {
        // Nothing runs behind it, as before the first turn and after the last.
        let mut vitals = Vitals::new(Health::new(1), [Arc::new(Progress::default())]);
        assert!(vitals.have_moved() && vitals.have_moved());
        assert!(!vitals.readiness().ready);
        assert!(Vitals::new(Health::new(0), []).have_moved());
    }
}
