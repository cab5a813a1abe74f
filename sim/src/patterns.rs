//! Messaging patterns in a run: requests and their answers, files in parts, signals and presence.
//!
//! Agents of their own keep the rules of the SDK for these, beside those that write to each other: a *caller* that asks and waits, a
//! *worker* that answers, receives files and listens to signals, an *uploader* that sends files, an *outsider* that answers what it was
//! not asked and may be revoked, and a *stranger* of another organization that wants to know whether the worker is there. What they are
//! sent is in [`messages`], what they do in [`client`], what is held against the node when it says something in [`node`], and what
//! must be true in the end in [`truth`]. One in three runs has them; the others are as if there were none.

pub(crate) mod client;
pub(crate) mod messages;
mod node;
pub(crate) mod truth;

use self::client::PatternAgent;
use self::messages::{CHUNKS, FILES, REQUESTS};
use crate::channels::CHANNEL_AGENTS;
use crate::pool::AGENTS;
use crate::random::Random;

/// The first agent of the patterns: behind those of channels.
const FIRST: usize = AGENTS + CHANNEL_AGENTS;
pub(crate) const CALLER: usize = FIRST;
pub(crate) const WORKER: usize = FIRST + 1;
pub(crate) const OUTSIDER: usize = FIRST + 2;
pub(crate) const UPLOADER: usize = FIRST + 3;
pub(crate) const STRANGER: usize = FIRST + 4;
pub(crate) const PATTERN_AGENTS: usize = 5;
/// Their names, in that order.
pub(crate) const NAMES: [&str; PATTERN_AGENTS] =
    ["acme/caller", "acme/worker", "acme/outsider", "acme/uploader", "elsewhere/stranger"];

/// Which of the patterns' agents this agent of the pool is.
pub(crate) fn number_of(agent: usize) -> Option<usize> {
    agent.checked_sub(FIRST)
}

/// The patterns of one run.
#[derive(Debug)]
pub(crate) struct Patterns {
    /// This run has them.
    pub(crate) is_on: bool,
    /// Decides about them.
    pub(crate) random: Random,
    pub(crate) agents: [PatternAgent; PATTERN_AGENTS],
    requests: [Request; REQUESTS],
    files: [File; FILES],
}

/// A request, as those see it who have to do with it. What its caller and its worker know outlives their connections.
#[derive(Debug, Default)]
struct Request {
    asked: Asked,
    work: Work,
    /// Answers that the worker has made.
    answers: usize,
    /// It was shown to the worker.
    was_shown: bool,
    /// Answers that the caller's application was given.
    taken: u32,
}

/// What the caller knows of a request.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
enum Asked {
    #[default]
    Unsent,
    /// It waits, for as long as it said.
    Waiting {
        until_us: u64,
    },
    Answered,
    /// Its time was over before an answer came.
    TimedOut,
    /// The application wants no answer any more.
    GivenUp,
}

/// What the worker does about a request.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
enum Work {
    #[default]
    Idle,
    Busy {
        until_us: u64,
    },
    /// Its answer is on its way.
    Answering {
        copy: usize,
    },
}

/// A file, as its sender and its receiver have it on their disks.
#[derive(Debug, Default)]
struct File {
    has_begun: bool,
    /// How often its sender has begun: another run has other message ids.
    run: usize,
    /// The sender knows that these chunks are durable at the node.
    journal: [bool; CHUNKS],
    head_is_sent: bool,
    /// Its sender has given it up.
    is_given_up: bool,
    /// It is larger than the receiver takes.
    is_too_large: bool,
    /// Chunks that the receiver holds.
    have: [bool; CHUNKS],
    outcome: Option<FileOutcome>,
    /// How often the receiver's application was given it.
    handed_out: u32,
}

/// What became of a file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum FileOutcome {
    Whole,
    Refused,
}

impl Patterns {
    pub(crate) fn draw(mut random: Random) -> Self {
        let is_on = random.one_in(3);
        let mut files: [File; FILES] = Default::default();
        files.iter_mut().for_each(|file| file.is_too_large = random.one_in(4));
        Self {
            is_on,
            random,
            agents: std::array::from_fn(|number| PatternAgent::new(FIRST + number)),
            requests: Default::default(),
            files,
        }
    }
}
