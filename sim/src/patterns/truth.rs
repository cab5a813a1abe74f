//! What must be true of messaging patterns, and what of it was compared.

use std::collections::BTreeMap;

use super::messages::{MESSAGES_PER_SENDER, SIGNAL_BYTES, first_of, is_patient};
use super::{Asked, FileOutcome, OUTSIDER};
use crate::model::{Checked, Model, Rule, broken};
use crate::patterns::messages::{self, COPIES, FILES, RUNS};
use crate::pool::MessageNumber;
use crate::world::World;

/// Something that was compared.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Counted {
    /// Requests that were sent.
    Requests,
    /// Those whose answers their callers were given.
    Answered,
    /// Those whose callers gave them up.
    GivenUp,
    /// Those whose time was over before an answer came.
    TimedOut,
    /// Those that came to the worker when their time was over.
    CameTooLate,
    /// Answers that came when their request was over, and were dropped.
    LateAnswers,
    /// Answers of somebody who was not asked, which were dropped.
    ForeignAnswers,
    /// Requests that came again, and were answered again.
    AnsweredAgain,
    /// Chunks that a receiver took.
    Chunks,
    /// Those for which it had no room just then.
    NoRoom,
    /// Parts of files that it had taken before.
    PartsAgain,
    /// Files that were begun again where they were.
    Resumed,
    /// Files that were handed out.
    Files,
    /// Files that were refused, of which no chunk was left.
    FilesRefused,
    /// Heads that came before their chunks.
    EarlyHeads,
    /// Signals that the node took.
    SignalsTaken,
    /// Those that an application was shown.
    SignalsShown,
    /// Those that it had seen.
    SignalsAgain,
    /// Bytes that became durable and were searched for signals, in KiB.
    SearchedKib,
    /// Answers that somebody reads.
    PresenceOnline,
    /// Answers that nothing is known, to whoever may know.
    PresenceUnknown,
    /// Those to a stranger, while somebody read and showed it.
    PresenceHidden,
}

impl Counted {
    const ALL: [(Self, &'static str); 22] = [
        (Self::Requests, "requests"),
        (Self::Answered, "requests_answered"),
        (Self::GivenUp, "requests_given_up"),
        (Self::TimedOut, "requests_timed_out"),
        (Self::CameTooLate, "requests_too_late"),
        (Self::LateAnswers, "late_answers"),
        (Self::ForeignAnswers, "foreign_answers"),
        (Self::AnsweredAgain, "answered_again"),
        (Self::Chunks, "chunks"),
        (Self::NoRoom, "chunks_without_room"),
        (Self::PartsAgain, "parts_again"),
        (Self::Resumed, "files_resumed"),
        (Self::Files, "files"),
        (Self::FilesRefused, "files_refused"),
        (Self::EarlyHeads, "early_heads"),
        (Self::SignalsTaken, "signals_taken"),
        (Self::SignalsShown, "signals_shown"),
        (Self::SignalsAgain, "signals_again"),
        (Self::SearchedKib, "searched_kib"),
        (Self::PresenceOnline, "presence_online"),
        (Self::PresenceUnknown, "presence_unknown"),
        (Self::PresenceHidden, "presence_hidden"),
    ];
}

/// How often each was.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct PatternCounts([u64; Counted::ALL.len()]);

impl PatternCounts {
    /// Counts more.
    pub(crate) fn add(&mut self, what: Counted, more: u64) {
        self.0[what as usize] += more;
    }

    /// Adds the counts of another run.
    pub(crate) fn merge(&mut self, other: &Self) {
        self.0.iter_mut().zip(other.0).for_each(|(count, more)| *count += more);
    }

    pub(crate) fn entries(&self) -> impl Iterator<Item = (&'static str, u64)> {
        Counted::ALL.into_iter().map(|(what, name)| (name, self.0[what as usize]))
    }
}

/// The truth about the patterns of one run, as far as rules of messages need it.
#[derive(Debug, Default)]
pub(crate) struct Patterns {
    pub(crate) is_on: bool,
    /// Control has said that the outsider is revoked.
    pub(crate) is_outsider_revoked: bool,
    /// Where among those of its sender a message was sent first.
    places: BTreeMap<MessageNumber, usize>,
}

impl Patterns {
    pub(super) fn is_sent(&mut self, number: MessageNumber) {
        let place = self.places.len();
        self.places.entry(number).or_insert(place);
    }

    /// Its place, if it is to keep its order.
    pub(crate) fn place_of(&self, number: MessageNumber) -> Option<usize> {
        // What a dead uploader's last run had sent comes in between.
        let is_file = number >= messages::file_part(0, 0, 0);
        self.places.get(&number).copied().filter(|_| !is_file)
    }

    pub(crate) fn may_be_revoked(&self, number: MessageNumber) -> bool {
        let first = first_of(OUTSIDER);
        self.is_outsider_revoked && (first..first + MESSAGES_PER_SENDER).contains(&number)
    }
}

impl Model {
    pub(crate) fn count(&mut self, what: Counted) {
        self.tally.patterns.add(what, 1);
    }

    /// Of a signal nothing is in what becomes durable, whatever it is called there.
    pub(crate) fn no_signal_is_stored(&mut self, shard: usize, bytes: &[u8]) -> Checked {
        if !self.patterns.is_on {
            return Ok(());
        }
        self.tally.patterns.add(Counted::SearchedKib, bytes.len() as u64 >> 10);
        match bytes.windows(SIGNAL_BYTES.len()).position(|window| window == SIGNAL_BYTES) {
            None => Ok(()),
            Some(at) => {
                let text = format!("shard {shard} made the id of a signal durable, at byte {at} of a write");
                broken(Rule::SignalsLeaveNoTrace, text)
            }
        }
    }

    /// Whether a message of the patterns may never have come to its application: its owner deleted it, it expired, or its sender
    /// gave it up.
    fn is_lost(&self, number: MessageNumber) -> bool {
        let fate = &self.fates[number];
        fate.settled.is_some_and(|cause| cause != creto_store::SettleCause::Acknowledged)
    }
}

impl World<'_> {
    /// What agents of the patterns still wait for, if anything.
    pub(crate) fn patterns_wait(&self) -> Option<String> {
        if !self.patterns.is_on {
            return None;
        }
        for agent in &self.patterns.agents {
            if !agent.has_all_acknowledged() && !self.is_outsider_gone(agent.index) {
                return Some(format!("agent {} has sent what is not acknowledged: {agent:?}", agent.index));
            }
        }
        for (request, state) in self.patterns.requests.iter().enumerate() {
            if matches!(state.asked, Asked::Waiting { .. })
                && !(is_patient(request) && self.cannot_be_answered(request))
            {
                return Some(format!("request {request} waits: {state:?}"));
            }
        }
        self.patterns.files.iter().enumerate().find_map(|(number, file)| {
            let is_on_its_way = file.has_begun && !file.head_is_sent && !file.is_given_up;
            is_on_its_way.then(|| format!("file {number} is on its way: {file:?}"))
        })
    }

    /// The request, or every answer to it, was deleted by the owner of a mailbox, or given up for the clock.
    fn cannot_be_answered(&self, request: usize) -> bool {
        let is_lost = |number| self.model.is_lost(number) || self.patterns.is_given_up(number);
        let made = self.patterns.requests[request].answers;
        is_lost(messages::request(request))
            || (made > 0 && (0..made.min(COPIES)).all(|copy| is_lost(messages::answer(request, copy))))
    }

    /// Everything rests: requests and files came to an end that they may have.
    pub(crate) fn patterns_ended_well(&mut self) -> Checked {
        for (request, state) in self.patterns.requests.iter().enumerate() {
            let is_answered = u32::from(state.asked == Asked::Answered);
            if state.taken != is_answered {
                return broken(Rule::AnsweredOnce, format!("request {request} rests as {state:?}"));
            }
        }
        for file in 0..FILES {
            let state = &self.patterns.files[file];
            let is_right = match state.outcome {
                Some(FileOutcome::Whole) => state.handed_out == 1 && !state.is_too_large,
                Some(FileOutcome::Refused) => state.handed_out == 0,
                // Its head, or a chunk, was deleted by the owner of the mailbox.
                None => state.handed_out == 0 && (!state.head_is_sent || self.has_lost_a_part(file)),
            };
            let is_clean = state.outcome.is_none() || state.have == [false; messages::CHUNKS];
            if !is_right || !is_clean {
                return broken(Rule::WholeOrNotAtAll, format!("file {file} rests as {state:?}"));
            }
        }
        Ok(())
    }

    /// A part of a file was deleted by the owner of the mailbox.
    pub(super) fn has_lost_a_part(&self, file: usize) -> bool {
        let parts = (0..RUNS).flat_map(|run| (0..=messages::CHUNKS).map(move |part| (run, part)));
        parts.into_iter().any(|(run, part)| self.model.is_lost(messages::file_part(file, run, part)))
    }
}
