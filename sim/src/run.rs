//! Runs seeds: what a run is told, what it found.

use crate::fault::FaultCounts;
use crate::model::{Rule, Tally, Violation};
use crate::planted::{Planted, PlantedBug};
use crate::pool::Pool;
use crate::strike::Strike;
use crate::world::World;

/// What every seed of a series has in common.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Options {
    /// Steps with faults, before everything may come to rest.
    pub steps: u64,
    /// Shards of the node; each seed draws its own when `None`.
    pub shard_count: Option<u16>,
    /// The bug to plant.
    pub planted: Option<PlantedBug>,
    /// One fault at one step, beside those of the seed.
    pub strike: Option<Strike>,
}

impl Default for Options {
    fn default() -> Self {
        Self { steps: 1_000, shard_count: None, planted: None, strike: None }
    }
}

/// What one seed did.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Outcome {
    /// The seed.
    pub seed: u64,
    /// What struck.
    pub strike: Option<Strike>,
    /// What was compared.
    pub tally: Tally,
    /// What was injected.
    pub faults: FaultCounts,
    /// The same for the same seed and options, different for every other run.
    pub digest: u64,
    /// The rule that was broken, and the last lines of the trace.
    pub violation: Option<(Violation, Vec<String>)>,
}

/// Runs one seed. A violation is found twice: the second run writes the trace.
#[must_use]
pub fn run_seed(pool: &Pool, seed: u64, options: &Options) -> Outcome {
    let (mut outcome, _) = run_once(pool, seed, options, false);
    if let Some((violation, trace)) = &mut outcome.violation {
        let (again, lines) = run_once(pool, seed, options, true);
        *trace = lines;
        let found = again.violation.as_ref().map(|(again, _)| again);
        if found != Some(violation) {
            let text = format!("first: {violation}; again: {found:?}");
            *violation = Violation { rule: Rule::Replays, text };
        }
    }
    outcome
}

fn run_once(pool: &Pool, seed: u64, options: &Options, is_traced: bool) -> (Outcome, Vec<String>) {
    let _planted = Planted::new(options.planted);
    let mut world = World::new(pool, seed, options, is_traced);
    let found = world.run(options.steps);
    let outcome = Outcome {
        seed,
        strike: options.strike,
        tally: world.model.tally.clone(),
        faults: world.faults.clone(),
        digest: world.digest(),
        violation: found.err().map(|violation| (violation, Vec::new())),
    };
    (outcome, world.into_trace())
}

/// What a series of seeds did together.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Summary {
    /// Seeds that ran.
    pub seeds: u64,
    /// Runs: one for each seed, and one for each strike.
    pub runs: u64,
    /// What was compared.
    pub tally: Tally,
    /// What was injected.
    pub faults: FaultCounts,
    /// Runs that broke a rule.
    pub violations: Vec<Outcome>,
}

impl Summary {
    /// Adds a run.
    pub fn add(&mut self, outcome: Outcome) {
        self.seeds += u64::from(outcome.strike.is_none());
        self.runs += 1;
        self.tally.merge(&outcome.tally);
        self.faults.merge(&outcome.faults);
        if outcome.violation.is_some() {
            self.violations.push(outcome);
        }
    }

    /// Why the series proves nothing, if so: something was never compared, or a kind of fault never happened.
    #[must_use]
    pub fn vacuous(&self) -> Option<String> {
        let compared = self.tally.entries().into_iter();
        let uncompared: Vec<&str> = compared.filter(|(_, count)| *count == 0).map(|(name, _)| name).collect();
        let uninjected: Vec<&str> = self.faults.never().map(crate::fault::Fault::name).collect();
        if uncompared.is_empty() && uninjected.is_empty() {
            return None;
        }
        Some(format!("never compared: {}; never injected: {}", list(&uncompared), list(&uninjected)))
    }
}

fn list(names: &[&str]) -> String {
    if names.is_empty() { "nothing".to_owned() } else { names.join(", ") }
}
