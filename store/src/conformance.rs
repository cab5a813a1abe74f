//! The rules of a log ([`RecordLog`](crate::RecordLog)), as a test for whoever implements one.
//!
//! The suite plays the shard and the machine at once: from a seed it appends, carries out actions in any order, fails some,
//! reads, trims, holds, seals, and stops the machine between any two steps; beside it runs a model that knows what the log
//! has taken and what it has promised. The back end brings a [`Medium`]: where its actions are carried out, and how it is
//! opened again.
//!
//! ```text
//! let seen = conformance::check(0..100, |seed| MyMedium::new(seed)).unwrap_or_else(|broken| panic!("{broken}"));
//! assert_eq!(seen.missing(), [""; 0]);   // a run that compared nothing proves nothing
//! ```
//!
//! Open the log small: a few segments of some tens of KiB and some tens of pending records, so that every bound is met.

mod folder;
mod history;
mod records;
mod run;
mod scenario;

use std::fmt;

use bytes::Bytes;

pub use self::folder::Folder;
use crate::log::RecordLog;
use crate::lsn::Position;
use crate::record::Record;
use crate::wal::Action;

/// Where the log under test has its actions carried out. It does what it is told, at once and without an error of its own:
/// the suite decides when, in which order, and what fails.
pub trait Medium {
    /// The log under test.
    type Log: RecordLog;

    /// Whether a later life finds what an earlier one made durable.
    const KEEPS: bool;

    /// Opens the log, and returns every record that was found, in order. A log that keeps nothing finds none.
    ///
    /// # Errors
    /// In words, when it cannot be opened: a violation, for the suite damages nothing.
    fn open(&mut self, random: &mut Random) -> Result<Opened<Self::Log>, String>;

    /// Carries out an action as the log demands it: synced, where it says so. Returns what a read brought; nothing else.
    fn carry_out(&mut self, log: &Self::Log, handed: &Handed) -> Bytes;

    /// An action fails. What it would have changed may be changed in part.
    fn fail(&mut self, handed: &Handed, random: &mut Random);

    /// The machine stops, by any of the ways that this medium knows, while these actions are under way, each of them to any
    /// part. Everything that was carried out is still there.
    fn stop(&mut self, under_way: Vec<Handed>, random: &mut Random);
}

/// A log that was opened.
#[derive(Debug)]
pub struct Opened<L> {
    /// It.
    pub log: L,
    /// What it found, in order.
    pub recovered: Vec<(Position, Record)>,
}

/// An action that was handed to the machine.
#[derive(Debug, Clone)]
pub struct Handed {
    /// It.
    pub action: Action,
    /// The bytes of a write.
    pub bytes: Vec<u8>,
}

impl Handed {
    fn new(action: Action) -> Self {
        let mut bytes = Vec::new();
        if let Action::Write(write) = &action {
            // Filled with something else than zeros: what is to be zero must be written.
            bytes.resize(write.bytes(), 0xee);
            write.encode_into(&mut bytes);
        }
        Self { action, bytes }
    }
}

/// Random numbers from a seed (splitmix64), the same on every machine.
#[derive(Debug, Clone)]
pub struct Random(u64);

impl Random {
    /// The numbers of a seed.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// Any number.
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `bound`; zero when that is zero.
    pub fn below(&mut self, bound: usize) -> usize {
        let bits = usize::try_from(self.bits() >> 33).expect("31 bits fit");
        bits.checked_rem(bound).unwrap_or(0)
    }

    /// True once in so many times.
    pub fn one_in(&mut self, times: usize) -> bool {
        self.below(times) == 0
    }
}

/// A rule of [`RecordLog`](crate::RecordLog).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Rule {
    /// Records become durable in the order in which they were taken, each exactly as it was.
    Order,
    /// Nothing is durable before every write that it depends on was reported.
    DurableMeansDone,
    /// After a failed write nothing is taken and nothing more is handed out.
    FailedWriteFences,
    /// Records are refused when too much waits, when they are too large, and when messages have no space; not before.
    Bounded,
    /// A durable record stands at its position until it is trimmed.
    StandsAtItsPosition,
    /// What is trimmed stays away, what is not stays, what is carried over comes first.
    TrimTakesAPrefix,
    /// What is held stays readable.
    HeldStays,
    /// Nothing is appended after a seal, and the end is the end.
    SealedHasOneEnd,
    /// The next life finds what was durable, then perhaps more of what was taken, and nothing else.
    NextLifeFindsIt,
    /// What was taken becomes durable when everything that the log asks for is done.
    ComesToRest,
}

/// A rule that was broken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// Repeats it.
    pub seed: u64,
    /// Which one.
    pub rule: Rule,
    /// How.
    pub text: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "seed {}: {:?}: {}", self.seed, self.rule, self.text)
    }
}

/// What a series has compared.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Seen {
    /// Records that became durable.
    pub durable: u64,
    /// Records that were read back and held against what was appended.
    pub read: u64,
    /// Trims that were finished.
    pub trims: u64,
    /// Records that a trim carried over.
    pub carried: u64,
    /// Times that too much waited.
    pub full: u64,
    /// Times that messages had no space, and settles had.
    pub storage_full: u64,
    /// Writes that failed.
    pub fenced: u64,
    /// Logs that were sealed while records were on their way, and came to their end.
    pub ended: u64,
    /// Logs that were fenced after they were sealed.
    pub fenced_after_seal: u64,
    /// Records that were trimmed, held, and read.
    pub held: u64,
    /// Stops with something under way.
    pub stops: u64,
    /// Records that a later life found.
    pub found: u64,
    /// Of these, records that were taken and not known durable.
    pub found_more: u64,
    keeps: bool,
}

impl Seen {
    /// What never happened: a series without it proves less than it says.
    pub fn missing(&self) -> Vec<&'static str> {
        let always = [
            (self.durable, "durable"),
            (self.read, "read"),
            (self.trims, "trims"),
            (self.carried, "carried"),
            (self.full, "full"),
            (self.storage_full, "storage_full"),
            (self.fenced, "fenced"),
            (self.ended, "ended"),
            (self.fenced_after_seal, "fenced_after_seal"),
            (self.held, "held"),
        ];
        let of_those_that_keep = [(self.stops, "stops"), (self.found, "found"), (self.found_more, "found_more")];
        let kept = of_those_that_keep.into_iter().filter(|_| self.keeps);
        always.into_iter().chain(kept).filter(|(count, _)| *count == 0).map(|(_, name)| name).collect()
    }
}

/// Holds every rule against the log of this medium, once for each seed; `new` makes an empty medium, several for a seed.
///
/// # Errors
/// The first [`Violation`]. Its seed alone repeats it.
pub fn check<M: Medium>(
    seeds: impl IntoIterator<Item = u64>,
    mut new: impl FnMut(u64) -> M,
) -> Result<Seen, Violation> {
    let mut seen = Seen { keeps: M::KEEPS, ..Seen::default() };
    for seed in seeds {
        scenario::all(seed, &mut new, &mut seen).map_err(|(rule, text)| Violation { seed, rule, text })?;
    }
    Ok(seen)
}
