//! How a node that runs is: whether it serves, and whether each of its shards moves. For whoever supervises the process.

use std::fmt;
use std::sync::Arc;
use std::time::Instant;

use creto_io::watchdog::{Progress, Stall};
use creto_service::health::{Health, Readiness};

/// The vital signs of a node, or of a control service, which has no shards.
#[derive(Clone)]
pub struct Vitals {
    health: Health,
    shards: Vec<Pulse>,
}

/// How far a shard was when all of them had moved last.
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

    /// Whether every shard has taken a turn since this was last so; one that has nothing to do takes twenty in a second. They need not
    /// do it at the same time: on a busy machine each may stand for a moment, and all of them are alive. A shard that has ended counts
    /// as one that moves: that ends the node, and is no stall.
    pub fn have_moved(&mut self) -> bool {
        let looked = self.shards.iter().map(|Pulse { progress, .. }| progress.is_running().then(|| progress.turns()));
        let looked: Vec<Option<u64>> = looked.collect();
        let moves = |(shard, now): (&Pulse, &Option<u64>)| now.is_none_or(|now| shard.turns != Some(now));
        let all = self.shards.iter().zip(&looked).all(moves);
        if all {
            for (shard, now) in self.shards.iter_mut().zip(looked) {
                shard.turns = now;
            }
        }
        all
    }
}

/// Has `/ready` say which shard stands still, as the watchdog reports it.
pub(crate) fn tell_stalls(health: Health) -> impl FnMut(&Stall) + Send {
    move |stall| {
        let since = Instant::now().checked_sub(stall.lasted).unwrap_or_else(Instant::now);
        health.set_stalled(stall.shard_index, stall.ongoing.then(|| (since, stall.advice())));
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use creto_io::watchdog::StallCause;
    use creto_service::health::ShardState;

    use super::*;

    #[test]
    fn shards_that_take_their_turns_one_after_the_other_are_alive() {
        let shards = [(); 2].map(|()| Arc::new(Progress::default()));
        let mut vitals = Vitals::new(Health::new(2), shards.iter().map(Arc::clone));
        shards.iter().for_each(|shard| shard.begin());
        assert!(vitals.have_moved(), "nothing is known of them yet");
        assert!(!vitals.have_moved());
        shards[0].turn();
        assert!(!vitals.have_moved(), "the other stands still");
        shards[1].turn();
        assert!(vitals.have_moved(), "both have moved, if not at the same time");
        assert!(!vitals.have_moved());
        shards.iter().for_each(|shard| shard.end());
        assert!(vitals.have_moved());
    }

    #[test]
    fn a_stall_that_the_watchdog_reports_takes_the_node_out_of_service_until_it_is_over() {
        let health = Health::new(1);
        health.set(0, ShardState::Serving, "");
        let mut tell = tell_stalls(health.clone());
        let mut stall =
            Stall { shard_index: 0, lasted: Duration::from_millis(100), cause: StallCause::Blocked, ongoing: true };
        tell(&stall);
        assert!(health.readiness().ready, "it has lasted for a moment only");
        stall.lasted = Duration::from_secs(3);
        tell(&stall);
        let why = health.readiness().why();
        assert!(why.starts_with("shard 0 is stalled: no progress for 3 s: the kernel holds it"), "{why}");
        stall.ongoing = false;
        tell(&stall);
        assert!(health.readiness().ready);
    }

    #[test]
    fn a_shard_that_has_ended_is_no_stall() {
        // Nothing runs behind it, as before the first turn and after the last.
        let mut vitals = Vitals::new(Health::new(1), [Arc::new(Progress::default())]);
        assert!(vitals.have_moved() && vitals.have_moved());
        assert!(!vitals.readiness().ready);
        assert!(Vitals::new(Health::new(0), []).have_moved());
    }
}
