//! What a subscription of a channel was handed and has acknowledged, by sequence. Pure.
//!
//! Without a group what is acknowledged goes to the node as "up to and with": so nothing is, behind a message that the application has
//! not acknowledged, one that could not be opened among them. Credit comes back as this mark moves, or in a group as messages are
//! acknowledged or given back, so what is remembered here is bounded by the window.
//!
//! **On a new stream** the node hands out everything that it does not count as consumed again, in order, what the application has among
//! it, and all of that takes credit. So what is known takes no room before it has come again, and the node is granted the whole window.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use creto_envelope::channel::frames::GiveBack;
use creto_envelope::deliver::Credit;

use crate::limits::GROUP_DONE_REMEMBERED;
use crate::receiver::credit::CreditLedger;

/// See the module.
#[derive(Debug)]
pub(crate) struct Cursor {
    is_group: bool,
    credit: CreditLedger,
    /// What came and is not acknowledged to the node, or cannot be yet.
    entries: BTreeMap<u64, Entry>,
    /// Without a group: everything up to here is acknowledged.
    through: u64,
    /// Without a group: how far this stream has come. What lies behind may still come again, and with it what lies before that.
    reached: u64,
    /// In a group: what was acknowledged lately.
    done: BTreeSet<u64>,
    done_order: VecDeque<u64>,
    /// To be said on this stream.
    acks: Vec<u64>,
    nacks: Vec<(u64, GiveBack)>,
    through_to_say: bool,
    /// Credit to begin with.
    grant: Option<Credit>,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    bytes: usize,
    state: State,
    place: Place,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// It waits for its turn, or its key.
    Hidden,
    /// It is ready for the application, which has not taken it.
    Queued,
    /// The application has it.
    Shown,
    Acknowledged,
}

/// Whether a message takes room in the window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// It came on this stream.
    Here,
    /// It came on an earlier one. Without a group it comes again, and takes no room until then.
    Before,
    /// It came on an earlier one, the application has not taken it, and it does not come again: it takes room.
    Gone,
}

/// What an arriving message is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Arrival {
    Fresh,
    /// The application holds it, or has acknowledged it.
    Known,
    /// The node pushed more than it has credit for.
    Overrun,
}

impl Cursor {
    pub(crate) fn new(is_group: bool, window: Credit) -> Self {
        Self {
            is_group,
            credit: CreditLedger::new(window),
            entries: BTreeMap::new(),
            through: 0,
            reached: 0,
            done: BTreeSet::new(),
            done_order: VecDeque::new(),
            acks: Vec::new(),
            nacks: Vec::new(),
            through_to_say: false,
            grant: None,
        }
    }

    /// The subscription stands on a new stream, and the node counts everything before `next_sequence` as consumed: what is not ready for
    /// the application comes again, and what it was seen to have acknowledged on a stream that broke is said again.
    pub(crate) fn opened(&mut self, next_sequence: u64) {
        let hidden = self.entries.iter().filter(|(_, entry)| entry.state == State::Hidden);
        for sequence in hidden.map(|(sequence, _)| *sequence).collect::<Vec<_>>() {
            self.remove(sequence);
        }
        self.acks.clear();
        self.nacks.clear();
        self.through_to_say = false;
        if self.is_group {
            self.entries.values_mut().for_each(|entry| entry.place = Place::Before);
        } else {
            for entry in self.entries.range_mut(next_sequence..).map(|(_, entry)| entry) {
                if entry.place == Place::Here {
                    self.credit.finished(entry.bytes);
                    entry.place = Place::Before;
                }
            }
            // What the node counts as consumed does not come again.
            self.reached = next_sequence.saturating_sub(1);
            self.passed(next_sequence);
            let untaken = |entry: &Entry| entry.state == State::Queued;
            let taken = self.entries.range_mut(..next_sequence).filter(|(_, entry)| !untaken(entry));
            taken.for_each(|(_, entry)| entry.state = State::Acknowledged);
            self.advance();
            self.through_to_say = self.through >= next_sequence;
        }
        self.grant = Some(self.credit.opened());
    }

    /// A message came.
    pub(crate) fn arrived(&mut self, sequence: u64, bytes: usize) -> Arrival {
        if !self.credit.may_push() && !self.is_known(sequence) {
            return Arrival::Overrun;
        }
        self.credit.arrived(bytes);
        if !self.is_group {
            self.reached = self.reached.max(sequence);
            // The node hands out in order: what is behind did not come again, and does not.
            self.passed(sequence);
        }
        let is_known = self.is_known(sequence);
        match self.entries.get_mut(&sequence) {
            None if !is_known => {
                self.entries.insert(sequence, Entry { bytes, state: State::Hidden, place: Place::Here });
                self.advance();
                return Arrival::Fresh;
            }
            // It has its room from now on.
            Some(entry) if entry.place == Place::Before && !self.is_group => {
                (entry.place, entry.bytes) = (Place::Here, bytes);
            }
            Some(entry) => {
                entry.place = Place::Here;
                self.credit.finished(bytes);
            }
            None => self.credit.finished(bytes),
        }
        match self.is_group {
            true if self.done.contains(&sequence) => self.acks.push(sequence),
            false if sequence <= self.through => self.through_to_say = true,
            false => self.advance(),
            true => {}
        }
        Arrival::Known
    }

    /// Without a group: of what lies before this, nothing comes again on this stream.
    fn passed(&mut self, sequence: u64) {
        for entry in self.entries.range_mut(..sequence).map(|(_, entry)| entry) {
            match (entry.state, entry.place) {
                // It is in the application's queue, which has bounds.
                (State::Queued, Place::Before) => {
                    self.credit.held_back(entry.bytes);
                    entry.place = Place::Gone;
                }
                (State::Queued, Place::Here | Place::Gone) => {}
                // The node counts it as consumed.
                (_, Place::Before) => entry.state = State::Acknowledged,
                _ => {}
            }
        }
    }

    fn is_known(&self, sequence: u64) -> bool {
        self.entries.contains_key(&sequence)
            || if self.is_group { self.done.contains(&sequence) } else { sequence <= self.through }
    }

    /// A message is ready for the application. False: it is there already, or not any more, and comes again.
    pub(crate) fn queued(&mut self, sequence: u64) -> bool {
        let entry = self.entries.get_mut(&sequence).filter(|entry| entry.state == State::Hidden);
        entry.map(|entry| entry.state = State::Queued).is_some()
    }

    /// What came and is not ready for the application.
    pub(crate) fn hidden(&self) -> Vec<u64> {
        let hidden = self.entries.iter().filter(|(_, entry)| entry.state == State::Hidden);
        hidden.map(|(sequence, _)| *sequence).collect()
    }

    /// The application takes a message. False: it is somebody else's by now.
    pub(crate) fn shown(&mut self, sequence: u64) -> bool {
        let Some(entry) = self.entries.get_mut(&sequence) else { return !self.is_group };
        if self.is_group && entry.place == Place::Before {
            // The node has it again: to whoever is handed it then, it is new.
            self.remove(sequence);
            return false;
        }
        if entry.state == State::Queued {
            entry.state = State::Shown;
        }
        true
    }

    /// The application has a message: without a group, and all that it took before. Says whether that was new.
    pub(crate) fn acknowledged(&mut self, sequence: u64) -> bool {
        match self.is_group {
            true => self.finish(sequence),
            false => {
                let shown = self.entries.range_mut(..=sequence).filter(|(_, entry)| entry.state == State::Shown);
                let count = shown.map(|(_, entry)| entry.state = State::Acknowledged).count();
                self.advance();
                count > 0
            }
        }
    }

    /// A message that the application does not get to see is acknowledged. Says whether that was new.
    pub(crate) fn skipped(&mut self, sequence: u64) -> bool {
        if self.is_group {
            return self.finish(sequence);
        }
        let entry = self.entries.get_mut(&sequence).filter(|entry| entry.state != State::Acknowledged);
        let Some(entry) = entry else { return false };
        entry.state = State::Acknowledged;
        self.advance();
        true
    }

    /// In a group: a message goes back. Says whether it was there.
    pub(crate) fn given_back(&mut self, sequence: u64, how: GiveBack) -> bool {
        let Some(entry) = self.entries.get(&sequence).filter(|_| self.is_group) else { return false };
        // What came on an earlier stream, the node has already.
        if entry.place == Place::Here {
            self.nacks.push((sequence, how));
        }
        self.remove(sequence);
        true
    }

    /// In a group: what the application has not taken goes back, because it goes.
    pub(crate) fn leaves(&mut self) {
        let untaken = |entry: &Entry| matches!(entry.state, State::Hidden | State::Queued);
        let sequences = self.entries.iter().filter(|(_, entry)| untaken(entry)).map(|(sequence, _)| *sequence);
        for sequence in sequences.collect::<Vec<_>>() {
            self.given_back(sequence, GiveBack::Untouched);
        }
    }

    fn finish(&mut self, sequence: u64) -> bool {
        if !self.entries.contains_key(&sequence) {
            return false;
        }
        self.remove(sequence);
        self.acks.push(sequence);
        self.done.insert(sequence);
        self.done_order.push_back(sequence);
        if self.done_order.len() > GROUP_DONE_REMEMBERED
            && let Some(oldest) = self.done_order.pop_front()
        {
            self.done.remove(&oldest);
        }
        true
    }

    fn remove(&mut self, sequence: u64) {
        let entry = self.entries.remove(&sequence).expect("whoever removes it has seen it");
        if self.is_group || entry.place != Place::Before {
            self.credit.finished(entry.bytes);
        }
    }

    /// Without a group: the mark moves over what is acknowledged from below.
    fn advance(&mut self) {
        while let Some(first) = self.entries.first_entry() {
            let sequence = *first.key();
            if first.get().state != State::Acknowledged || sequence > self.reached {
                break;
            }
            self.remove(sequence);
            self.through = self.through.max(sequence);
            self.through_to_say = true;
        }
    }

    /// Acknowledgements and credit to be sent now.
    pub(crate) fn take_outgoing(&mut self) -> (Vec<u64>, Option<Credit>) {
        let mut acks = std::mem::take(&mut self.acks);
        if std::mem::take(&mut self.through_to_say) {
            acks.push(self.through);
        }
        (acks, self.grant.take().or_else(|| self.credit.take()))
    }

    /// What is to be given back now.
    pub(crate) fn take_nacks(&mut self) -> Vec<(u64, GiveBack)> {
        std::mem::take(&mut self.nacks)
    }
}

#[cfg(test)]
mod tests;
