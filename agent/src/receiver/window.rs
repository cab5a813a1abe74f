//! Which messages the application has seen, so that it sees each of them once. Pure.
//!
//! The node delivers at least once: what was not acknowledged comes again on the next connection. A message that the
//! application holds or has acknowledged is hidden then; one that it dropped is shown again. Ids are remembered per
//! sender and bounded per sender, so that a noisy one cannot push out what is known of the others.

use std::collections::{BTreeMap, HashMap, VecDeque};

use creto_envelope::{AgentId, MessageId};

/// Where a delivery can be acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    /// Its number in the mailbox.
    pub(crate) mailbox_sequence: u64,
    /// The stream on which it came last. Only there may it be acknowledged.
    pub(crate) stream: u64,
}

/// What an arriving message is to the application.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Arrival {
    /// New, or dropped before without an acknowledgement.
    Fresh,
    /// The application holds it now.
    Held,
    /// The application has acknowledged it: acknowledge it again.
    Settled,
}

#[derive(Debug)]
enum State {
    Held(Place),
    Settled,
}

#[derive(Debug, Default)]
struct Sender {
    messages: HashMap<MessageId, State>,
    /// Settled ids, oldest first.
    settled: VecDeque<MessageId>,
    /// When this sender's last message arrived, as a key of `by_use`.
    used: u64,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Window {
    senders: HashMap<AgentId, Sender>,
    by_use: BTreeMap<u64, AgentId>,
    uses: u64,
    settled: usize,
    per_sender_max: usize,
    all_max: usize,
}

impl Window {
    pub(crate) fn new(per_sender_max: usize, all_max: usize) -> Self {
        assert!(0 < per_sender_max && per_sender_max <= all_max, "a window that remembers nothing hides nothing");
        Self { senders: HashMap::new(), by_use: BTreeMap::new(), uses: 0, settled: 0, per_sender_max, all_max }
    }

    /// A verified message arrived.
    pub(crate) fn arrived(&mut self, from: AgentId, id: MessageId, place: Place) -> Arrival {
        self.uses += 1;
        let sender = self.senders.entry(from).or_default();
        self.by_use.remove(&sender.used);
        sender.used = self.uses;
        self.by_use.insert(self.uses, from);
        match sender.messages.get_mut(&id) {
            Some(State::Held(held)) => {
                *held = place;
                Arrival::Held
            }
            Some(State::Settled) => Arrival::Settled,
            None => {
                sender.messages.insert(id, State::Held(place));
                Arrival::Fresh
            }
        }
    }

    /// The application acknowledged a message that it holds; gives the place where to say so.
    pub(crate) fn acknowledged(&mut self, from: AgentId, id: MessageId) -> Option<Place> {
        let sender = self.senders.get_mut(&from)?;
        let state = sender.messages.get_mut(&id)?;
        let State::Held(place) = *state else { return None };
        *state = State::Settled;
        sender.settled.push_back(id);
        self.settled += 1;
        if sender.settled.len() > self.per_sender_max {
            let oldest = sender.settled.pop_front().expect("one was pushed just now");
            sender.messages.remove(&oldest);
            self.settled -= 1;
        }
        self.forget_above_the_limit();
        Some(place)
    }

    /// The application refused a message, or dropped it without a word: when it comes again, it is shown again. Gives the place
    /// where to say so.
    pub(crate) fn released(&mut self, from: AgentId, id: MessageId) -> Option<Place> {
        let sender = self.senders.get_mut(&from)?;
        let State::Held(place) = *sender.messages.get(&id)? else { return None };
        sender.messages.remove(&id);
        self.drop_if_empty(from);
        Some(place)
    }

    /// Forgets settled ids of the sender that was silent longest, one by one.
    fn forget_above_the_limit(&mut self) {
        while self.settled > self.all_max {
            let silent = self.by_use.values().copied().find(|from| !self.senders[from].settled.is_empty());
            let silent = silent.expect("the settled ids belong to somebody");
            let sender = self.senders.get_mut(&silent).expect("by_use lists known senders");
            let oldest = sender.settled.pop_front().expect("found for having one");
            sender.messages.remove(&oldest);
            self.settled -= 1;
            self.drop_if_empty(silent);
        }
    }

    fn drop_if_empty(&mut self, from: AgentId) {
        if let Some(sender) = self.senders.get(&from)
            && sender.messages.is_empty()
        {
            self.by_use.remove(&sender.used);
            self.senders.remove(&from);
        }
    }

    #[cfg(test)]
    fn remembered(&self) -> usize {
        self.senders.values().map(|sender| sender.messages.len()).sum()
    }
}

#[cfg(test)]
mod tests;
