//! Signals: what comes and is not stored. Each is shown once, to whoever listens at that moment, or never.
//!
//! Nothing here takes of the messages' window or waits for it. The node is allowed [`SIGNAL_WINDOW`] signals at a time, however fast the
//! application reads: what it leaves lying is dropped here, the oldest first. An id is remembered until its signal's time is over, so that
//! a repeated one is not shown again; a sender of whom more would have to be remembered is not heard until then.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use creto_envelope::signal::{SignalCredit, Working};
use creto_envelope::{AgentId, AgentName, MessageId, Priority, RejectCode};
use tokio::sync::Notify;

use super::Inbox;
use super::open::{Arrived, Refused};
use crate::clock;
use crate::error::ReceiveError;
use crate::limits::{SIGNAL_IDS_MAX, SIGNAL_IDS_PER_SENDER, SIGNAL_SKEW, SIGNAL_WINDOW, SIGNALS_QUEUED_MAX};
use crate::stats::UNPOISONED;

/// What an agent says just now, and nobody keeps: [`Agent::signal`](crate::Agent::signal). There is nothing to acknowledge.
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Signal {
    /// Who sent it: proven by both signatures under the sender's key record.
    pub from: AgentName,
    /// The sender's id.
    pub from_id: AgentId,
    /// The signal's id, chosen by the sender.
    pub message_id: MessageId,
    /// What was sent.
    pub payload: Bytes,
    /// When the sender made it, by the sender's clock, Unix milliseconds.
    pub timestamp_ms: u64,
    /// Until when it means something, by the sender's clock, Unix milliseconds.
    pub until_ms: u64,
    /// How urgent it is.
    pub priority: Priority,
}

impl Signal {
    /// What the sender is doing, if that is what the signal says ([`Agent::signal_working`](crate::Agent::signal_working)).
    #[must_use]
    pub fn working(&self) -> Option<Working> {
        Working::parse(&self.payload).ok().flatten()
    }
}

/// Says how long the payload is, not what it is: this ends up in logs.
impl fmt::Debug for Signal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Signal")
            .field("from", &self.from)
            .field("message_id", &self.message_id)
            .field("payload_bytes", &self.payload.len())
            .field("until_ms", &self.until_ms)
            .finish_non_exhaustive()
    }
}

/// Signals as they come. When it is dropped, what it has not handed out is gone, and no more are asked for.
#[derive(Debug)]
pub struct Signals {
    inbox: Arc<Inbox>,
}

impl Signals {
    /// The next signal whose time is not over, waiting for it, over reconnects too; `None` when no more will come.
    pub async fn next(&mut self) -> Option<Signal> {
        loop {
            match self.inbox.signals.take(clock::now_ms()) {
                Taken::Signal(signal, late) => {
                    self.inbox.counters.signals_dropped.add(late);
                    return Some(*signal);
                }
                Taken::Nothing(late) => self.inbox.counters.signals_dropped.add(late),
                Taken::Over => return None,
            }
            // Whoever puts one there while nobody waits leaves a permit.
            self.inbox.signals.came.notified().await;
        }
    }
}

impl Drop for Signals {
    fn drop(&mut self) {
        self.inbox.signals.stop();
    }
}

enum Taken {
    /// And how many before it were too late.
    Signal(Box<Signal>, usize),
    Nothing(usize),
    Over,
}

/// Signals that wait for the application, and what the node may push.
#[derive(Debug, Default)]
pub(super) struct SignalQueue {
    state: Mutex<State>,
    came: Notify,
}

#[derive(Debug, Default)]
struct State {
    queue: VecDeque<Signal>,
    seen: Seen,
    /// Somebody listens.
    is_wanted: bool,
    is_over: bool,
    /// Signals that the node may still push on this stream.
    allowed: u32,
}

impl State {
    fn is_credit_due(&self) -> bool {
        self.is_wanted && self.allowed <= SIGNAL_WINDOW / 2
    }
}

impl SignalQueue {
    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().expect(UNPOISONED)
    }

    fn listen(&self) -> Result<(), ReceiveError> {
        let mut state = self.state();
        if std::mem::replace(&mut state.is_wanted, true) { Err(ReceiveError::AlreadySubscribed) } else { Ok(()) }
    }

    fn stop(&self) {
        let mut state = self.state();
        state.is_wanted = false;
        state.queue.clear();
    }

    /// No more will come.
    pub(super) fn end(&self) {
        self.state().is_over = true;
        self.came.notify_one();
    }

    /// What the node was allowed on an earlier stream is void.
    pub(super) fn stream_begins(&self) {
        self.state().allowed = 0;
    }

    /// What the node is to be allowed now.
    pub(super) fn take_credit(&self) -> Option<SignalCredit> {
        let mut state = self.state();
        let is_due = state.is_credit_due();
        is_due.then(|| SignalCredit { signals: SIGNAL_WINDOW - std::mem::replace(&mut state.allowed, SIGNAL_WINDOW) })
    }

    /// Whether the node is to be allowed more.
    pub(super) fn is_credit_due(&self) -> bool {
        self.state().is_credit_due()
    }

    /// So many came. Whether the node is to be allowed more; `None` when it was not allowed as many.
    pub(super) fn arrived(&self, count: usize) -> Option<bool> {
        let mut state = self.state();
        state.allowed = state.allowed.checked_sub(u32::try_from(count).ok()?)?;
        Some(state.is_credit_due())
    }

    fn take(&self, now_ms: u64) -> Taken {
        let mut state = self.state();
        let mut late = 0;
        while let Some(signal) = state.queue.pop_front() {
            if is_in_time(&signal, now_ms) {
                return Taken::Signal(Box::new(signal), late);
            }
            late += 1;
        }
        if state.is_over { Taken::Over } else { Taken::Nothing(late) }
    }

    fn put(&self, signal: Signal, now_ms: u64) -> Put {
        let mut state = self.state();
        if !is_in_time(&signal, now_ms) || !state.is_wanted {
            return Put::Dropped;
        }
        let forget_at_ms = signal.until_ms.saturating_add(skew_ms());
        match state.seen.is_new(signal.from_id, signal.message_id, forget_at_ms, now_ms) {
            Some(true) => {}
            Some(false) => return Put::Repeated,
            None => return Put::Dropped,
        }
        state.queue.push_back(signal);
        let is_too_much = state.queue.len() > SIGNALS_QUEUED_MAX;
        if is_too_much {
            state.queue.pop_front();
        }
        drop(state);
        self.came.notify_one();
        if is_too_much { Put::DroppedOldest } else { Put::New }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Put {
    New,
    /// And the oldest one that waited is gone.
    DroppedOldest,
    /// It was there before.
    Repeated,
    /// It is gone.
    Dropped,
}

fn skew_ms() -> u64 {
    u64::try_from(SIGNAL_SKEW.as_millis()).unwrap_or(u64::MAX)
}

/// Whether what it says may be so now. Its sender's clock may be another.
fn is_in_time(signal: &Signal, now_ms: u64) -> bool {
    signal.timestamp_ms <= now_ms.saturating_add(skew_ms()) && now_ms < signal.until_ms.saturating_add(skew_ms())
}

/// Ids of signals that could still be taken for new ones.
#[derive(Debug, Default)]
struct Seen {
    by_sender: BTreeMap<AgentId, BTreeSet<MessageId>>,
    /// When each may be forgotten.
    by_end: BTreeSet<(u64, AgentId, MessageId)>,
}

impl Seen {
    /// Remembers a signal, and whether it was new. `None` when there is no room to remember it.
    fn is_new(&mut self, from: AgentId, id: MessageId, forget_at_ms: u64, now_ms: u64) -> Option<bool> {
        while let Some(&(_, from, id)) = self.by_end.first().filter(|(end_ms, ..)| *end_ms <= now_ms) {
            self.by_end.pop_first();
            if let Some(ids) = self.by_sender.get_mut(&from) {
                ids.remove(&id);
                if ids.is_empty() {
                    self.by_sender.remove(&from);
                }
            }
        }
        let known = self.by_sender.get(&from);
        if known.is_some_and(|ids| ids.contains(&id)) {
            return Some(false);
        }
        if known.is_some_and(|ids| ids.len() >= SIGNAL_IDS_PER_SENDER) || self.by_end.len() >= SIGNAL_IDS_MAX {
            return None;
        }
        self.by_sender.entry(from).or_default().insert(id);
        self.by_end.insert((forget_at_ms, from, id));
        Some(true)
    }
}

impl Inbox {
    /// From now on the agent asks for signals, also where nobody subscribes to its mailbox.
    pub(crate) fn listen(self: &Arc<Self>) -> Result<Signals, ReceiveError> {
        self.signals.listen()?;
        self.receive_keys();
        self.changed.notify_one();
        Ok(Signals { inbox: Arc::clone(self) })
    }

    /// A signal was verified and opened, or does not hold. There is nobody to tell of one that does not: the node does not have it.
    pub(super) fn signalled(&self, verdict: Result<Arrived, Refused>, now_ms: u64) {
        let opened = match verdict {
            Ok(Arrived::Message(opened)) => opened,
            // No signal is of a session.
            Ok(Arrived::Settled(_)) => return self.counters.rejected(RejectCode::EnvelopeSignal),
            Err(refused) => {
                tracing::debug!(code = %refused.code, from = %refused.from, "a signal does not hold");
                return self.counters.rejected(refused.code);
            }
        };
        let Some(ttl_s) = opened.signal_ttl_s else {
            return self.counters.rejected(RejectCode::EnvelopeSignal);
        };
        let signal = Signal {
            from: opened.identity.record.name.clone(),
            from_id: opened.identity.record.agent_id(),
            message_id: opened.message_id,
            payload: opened.payload,
            timestamp_ms: opened.timestamp_ms,
            until_ms: opened.timestamp_ms.saturating_add(u64::from(ttl_s.get()) * 1_000),
            priority: opened.priority,
        };
        let put = self.signals.put(signal, now_ms);
        if put == Put::Repeated {
            return self.counters.duplicates_hidden.add(1);
        }
        self.counters.signals_received.add(1);
        self.counters.signals_dropped.add(usize::from(put != Put::New));
    }
}

#[cfg(test)]
mod tests;
