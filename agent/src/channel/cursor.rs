//! What a subscription of a channel was handed and has acknowledged, by sequence. Pure.
//!
//! Without a group what is acknowledged goes to the node as "up to and with": so nothing is, behind a message that the application has
//! not acknowledged, one that could not be opened among them. Credit comes back as this mark moves, or in a group as messages are
//! acknowledged, so what is remembered here is bounded by the window.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use creto_envelope::deliver::Credit;

use crate::limits::GROUP_DONE_REMEMBERED;
use crate::receiver::credit::CreditLedger;

/// See the module.
#[derive(Debug)]
pub(crate) struct Cursor {
    is_group: bool,
    window: Credit,
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
    through_to_say: bool,
    /// Credit to begin with.
    grant: Option<Credit>,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    bytes: usize,
    state: State,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// The application has not seen it.
    Hidden,
    Shown,
    Acknowledged,
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
            window,
            credit: CreditLedger::new(window),
            entries: BTreeMap::new(),
            through: 0,
            reached: 0,
            done: BTreeSet::new(),
            done_order: VecDeque::new(),
            acks: Vec::new(),
            through_to_say: false,
            grant: None,
        }
    }

    /// The subscription stands on a new stream, and the node counts everything before `next_sequence` as consumed: what the application
    /// has not seen comes again, and what it was seen to have acknowledged on a stream that broke is said again.
    pub(crate) fn opened(&mut self, next_sequence: u64) {
        let hidden = self.entries.iter().filter(|(_, entry)| entry.state == State::Hidden);
        for sequence in hidden.map(|(sequence, _)| *sequence).collect::<Vec<_>>() {
            let entry = self.entries.remove(&sequence).expect("listed just now");
            self.credit.finished(entry.bytes);
        }
        self.acks.clear();
        self.through_to_say = false;
        if !self.is_group {
            // What the node counts as consumed does not come again.
            self.reached = next_sequence.saturating_sub(1);
            self.entries.range_mut(..next_sequence).for_each(|(_, entry)| entry.state = State::Acknowledged);
            self.advance();
            self.through_to_say = self.through >= next_sequence;
        }
        self.grant = Some(self.credit.opened());
    }

    /// A message came.
    pub(crate) fn arrived(&mut self, sequence: u64, bytes: usize) -> Arrival {
        if self.entries.len() >= self.window.messages as usize && !self.is_known(sequence) {
            return Arrival::Overrun;
        }
        self.credit.arrived(bytes);
        if !self.is_group {
            self.reached = self.reached.max(sequence);
        }
        if !self.is_known(sequence) {
            self.entries.insert(sequence, Entry { bytes, state: State::Hidden });
            return Arrival::Fresh;
        }
        self.credit.finished(bytes);
        match self.is_group {
            true if self.done.contains(&sequence) => self.acks.push(sequence),
            false if sequence <= self.through => self.through_to_say = true,
            false => self.advance(),
            true => {}
        }
        Arrival::Known
    }

    fn is_known(&self, sequence: u64) -> bool {
        self.entries.contains_key(&sequence)
            || if self.is_group { self.done.contains(&sequence) } else { sequence <= self.through }
    }

    /// The application is shown a message. False: it is not there any more, and comes again.
    pub(crate) fn shown(&mut self, sequence: u64) -> bool {
        let Some(entry) = self.entries.get_mut(&sequence) else { return false };
        entry.state = State::Shown;
        true
    }

    /// The application has a message: without a group, and all that it was shown before. Says whether that was new.
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
        let Some(entry) = self.entries.get_mut(&sequence) else { return false };
        entry.state = State::Acknowledged;
        self.advance();
        true
    }

    fn finish(&mut self, sequence: u64) -> bool {
        let Some(entry) = self.entries.remove(&sequence) else { return false };
        self.credit.finished(entry.bytes);
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

    /// Without a group: the mark moves over what is acknowledged from below.
    fn advance(&mut self) {
        while let Some(first) = self.entries.first_entry() {
            if first.get().state != State::Acknowledged || *first.key() > self.reached {
                break;
            }
            self.through = *first.key();
            let entry = first.remove();
            self.credit.finished(entry.bytes);
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
}

#[cfg(test)]
mod tests;
