//! One fault at one step: a run is repeated with it at the first step, the second, the third ..., so that each is hit.

use std::fmt;
use std::str::FromStr;

use crate::fault::Fault;
use crate::model::Tally;
use crate::pool::Pool;
use crate::run::{Options, Outcome, run_seed};

/// What strikes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
pub enum StrikeKind {
    /// The process dies after a step.
    Kill,
    /// The power fails after a step.
    PowerLoss,
    /// An action of a disk fails at once.
    FailedWrite,
    /// An action of a disk fails when it should become durable.
    FailedSync,
    /// A read of a recovery fails.
    FailedRead,
}

/// A fault at one step, counted from 1: steps of the run before its faults end, actions of disks, or reads of recoveries.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Strike {
    /// What strikes.
    pub kind: StrikeKind,
    /// When.
    pub at: u64,
}

impl StrikeKind {
    /// Every kind.
    pub const ALL: [Self; 5] = [Self::Kill, Self::PowerLoss, Self::FailedWrite, Self::FailedSync, Self::FailedRead];

    fn name(self) -> &'static str {
        match self {
            Self::Kill => Fault::Kill.name(),
            Self::PowerLoss => Fault::PowerLoss.name(),
            Self::FailedWrite => Fault::FailedWrite.name(),
            Self::FailedSync => Fault::FailedSync.name(),
            Self::FailedRead => Fault::FailedRead.name(),
        }
    }

    /// How many places a run has at which this can strike.
    fn places(self, options: &Options, tally: &Tally) -> u64 {
        match self {
            Self::Kill | Self::PowerLoss => options.steps,
            Self::FailedWrite | Self::FailedSync => tally.disk_actions,
            Self::FailedRead => tally.recovery_reads,
        }
    }
}

impl fmt::Display for Strike {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.kind.name(), self.at)
    }
}

impl FromStr for Strike {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parts = text.split_once('@').and_then(|(name, at)| {
            let kind = StrikeKind::ALL.into_iter().find(|kind| kind.name() == name)?;
            Some(Self { kind, at: at.parse().ok()? })
        });
        parts.ok_or_else(|| format!("`{text}` is no strike; write for example kill@17"))
    }
}

/// Runs one seed without a strike, then once for every place at which this kind can strike. Stops at the first run that
/// breaks a rule.
pub fn run_every_step(pool: &Pool, seed: u64, options: &Options, kind: StrikeKind) -> Vec<Outcome> {
    let first = run_seed(pool, seed, options);
    let places = kind.places(options, &first.tally);
    let mut outcomes = vec![first];
    for at in 1..=places {
        if outcomes.last().is_some_and(|last| last.violation.is_some()) {
            break;
        }
        outcomes.push(run_seed(pool, seed, &Options { strike: Some(Strike { kind, at }), ..*options }));
    }
    outcomes
}
