//! Which session carries the next message to a recipient, and whether the message has to open it. Pure: time is an
//! argument, and what the keys are is somebody else's.
//!
//! A session is paid for with one encapsulation. Any message may carry the wrapped key that opens it (1,120 bytes), so
//! a recipient that has never heard of the session opens it with whichever of these messages comes first.
//!
//! **A message goes without the wrapped key only if an earlier one of its session that carried it, of the same
//! priority and without a time limit, was acknowledged.** That one is durable, is delivered first (a mailbox is first
//! in, first out inside a priority) and does not expire, so whoever reads this message has the session by then. Until
//! the first acknowledgement, some milliseconds, every message carries it; where all messages have a time limit, every
//! message does, at the cost of its bytes and of no encapsulation.
//!
//! A session is renewed in passing: when nine tenths of it are used, one message opens the next session, and the old
//! one goes on until that message was acknowledged or the old one is used up. A lone message to a recipient without a
//! session opens one: no other message, no round trip.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use creto_crypto_accel::session::SESSION_MESSAGES_MAX;
use creto_envelope::{AgentId, KeyId, Priority};

use crate::limits::{SESSION_AGE, SESSION_AGE_MAX, SESSION_MESSAGES};

/// How long a session serves before an encapsulation opens the next one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SessionPolicy {
    /// One encapsulation for many messages, each under a key of its own that is erased once it is used.
    Renew {
        /// Messages of one session; 1 to 4,096. Default 1,000.
        messages: u64,
        /// Age of a session; at most 24 hours. Default one hour.
        age: Duration,
    },
    /// No sessions: one encapsulation for each message (the sealed suite).
    Off,
}

impl Default for SessionPolicy {
    fn default() -> Self {
        Self::Renew { messages: SESSION_MESSAGES, age: SESSION_AGE }
    }
}

/// Whom a message is for, and under which of the recipient's keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct To {
    pub(crate) recipient: AgentId,
    pub(crate) key_id: KeyId,
    /// Version of the key record: a newer one replaces the sessions to an older key.
    pub(crate) record_version: u32,
}

/// What becomes of one message; made by [`Sessions::decide`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Decision {
    step: Step,
    /// The message carries the wrapped key: of its session, or its own in the sealed suite.
    pub(crate) carries: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// No session: the sealed suite.
    Seal,
    /// The session in use.
    Go,
    /// The next session, which is proven or needed, is the one in use from now on.
    Promote,
    /// A new session, at once in use.
    Open,
    /// A new session, opened by this message while the old one goes on.
    OpenNext,
}

impl Decision {
    /// A session is opened that the message cannot go without.
    pub(crate) fn opens(self) -> bool {
        self.step == Step::Open
    }

    /// A session is opened, and the message could go under the one before.
    pub(crate) fn opens_next(self) -> bool {
        self.step == Step::OpenNext
    }
}

/// The session that a message goes under.
#[derive(Debug)]
pub(crate) struct Under<C> {
    pub(crate) chain: Arc<C>,
    pub(crate) ticket: SessionTicket,
}

/// What the outbox remembers of it until the answer comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SessionTicket {
    number: u64,
    /// Whether its acknowledgement lets later messages go without the wrapped key.
    frees: Option<Priority>,
}

impl SessionTicket {
    /// The session's number in this process.
    pub(crate) fn number(self) -> u64 {
        self.number
    }
}

/// A session in use, as it is kept between two runs of the agent.
#[derive(Debug)]
pub(crate) struct Kept<C> {
    pub(crate) to: To,
    pub(crate) chain: Arc<C>,
    pub(crate) taken: u64,
    pub(crate) age: Duration,
    /// Whether an acknowledged message carried the wrapped key, by priority.
    pub(crate) freed: [bool; 4],
}

/// The sessions to all recipients. Bounded: the one that was idle longest goes, at the price of an encapsulation later.
#[derive(Debug)]
pub(crate) struct Sessions<C> {
    policy: Option<Limits>,
    lines: HashMap<AgentId, Line<C>>,
    by_use: BTreeMap<u64, AgentId>,
    uses: u64,
    next_number: u64,
    recipients_max: usize,
}

#[derive(Clone, Copy, Debug)]
struct Limits {
    messages: u64,
    renew_at_messages: u64,
    age_us: u64,
    renew_at_age_us: u64,
}

#[derive(Debug)]
struct Line<C> {
    key_id: KeyId,
    record_version: u32,
    current: Session<C>,
    next: Option<Session<C>>,
    /// A key of `by_use`.
    used: u64,
}

#[derive(Debug)]
struct Session<C> {
    number: u64,
    chain: Arc<C>,
    /// Counters that were given out.
    taken: u64,
    /// When it was opened; before the agent began it is below zero.
    opened_us: i128,
    freed: [bool; 4],
}

impl<C> Session<C> {
    fn age_us(&self, now_us: u64) -> u64 {
        u64::try_from(i128::from(now_us) - self.opened_us).unwrap_or_default()
    }

    fn is_usable(&self, limits: &Limits, now_us: u64) -> bool {
        self.taken < limits.messages && self.age_us(now_us) < limits.age_us
    }

    fn is_due(&self, limits: &Limits, now_us: u64) -> bool {
        self.taken >= limits.renew_at_messages || self.age_us(now_us) >= limits.renew_at_age_us
    }

    /// The recipient will have it: an acknowledged message opens it.
    fn is_proven(&self) -> bool {
        self.freed.contains(&true)
    }
}

impl<C> Sessions<C> {
    pub(crate) fn new(policy: SessionPolicy, recipients_max: usize) -> Self {
        assert!(recipients_max > 0, "the session in use must have a place");
        let policy = match policy {
            SessionPolicy::Off => None,
            SessionPolicy::Renew { messages, age } => {
                let messages = messages.clamp(1, SESSION_MESSAGES_MAX);
                let age_us = u64::try_from(age.min(SESSION_AGE_MAX).as_micros()).unwrap_or(u64::MAX);
                Some(Limits {
                    messages,
                    renew_at_messages: (messages * 9 / 10).max(1),
                    age_us,
                    renew_at_age_us: age_us / 10 * 9,
                })
            }
        };
        Self { policy, lines: HashMap::new(), by_use: BTreeMap::new(), uses: 0, next_number: 0, recipients_max }
    }

    /// What becomes of a message to `to`, if it is sealed now. Changes nothing: [`take`](Self::take) does.
    pub(crate) fn decide(&self, to: &To, priority: Priority, now_us: u64) -> Decision {
        let Some(limits) = &self.policy else { return Decision { step: Step::Seal, carries: true } };
        let carries = |session: &Session<C>| !session.freed[priority as usize];
        let open = Decision { step: Step::Open, carries: true };
        let Some(line) = self.lines.get(&to.recipient) else { return open };
        if to.record_version > line.record_version && to.key_id != line.key_id {
            return open;
        }
        let next = line.next.as_ref().filter(|next| next.is_usable(limits, now_us));
        if !line.current.is_usable(limits, now_us) {
            return next.map_or(open, |next| Decision { step: Step::Promote, carries: carries(next) });
        }
        match next {
            Some(next) if next.is_proven() => Decision { step: Step::Promote, carries: carries(next) },
            // Only to the key of this line: a message that was looked up before the key was replaced opens nothing.
            None if line.current.is_due(limits, now_us) && to.key_id == line.key_id => {
                Decision { step: Step::OpenNext, carries: true }
            }
            _ => Decision { step: Step::Go, carries: carries(&line.current) },
        }
    }

    /// What becomes of a message that was to open the next session while the session in use goes on, if it does not.
    pub(crate) fn go_on(&self, to: &To, priority: Priority, decision: Decision) -> Decision {
        match (decision.step, self.lines.get(&to.recipient)) {
            (Step::OpenNext, Some(line)) => {
                Decision { step: Step::Go, carries: !line.current.freed[priority as usize] }
            }
            _ => decision,
        }
    }

    /// Does what was decided just now, for one message: gives its session and counts it. `None` is the sealed suite.
    /// `time_limit` says that the message may expire; `open` makes the chain of a new session.
    pub(crate) fn take(
        &mut self,
        to: &To,
        priority: Priority,
        time_limit: bool,
        decision: Decision,
        now_us: u64,
        open: impl FnOnce() -> C,
    ) -> Option<Under<C>> {
        if decision.step == Step::Seal {
            return None;
        }
        self.touch(to.recipient);
        let session = match decision.step {
            Step::Seal => unreachable!("handled above"),
            Step::Open => {
                let session = self.session(open(), now_us);
                let (key_id, record_version) = (to.key_id, to.record_version);
                let line = Line { key_id, record_version, current: session, next: None, used: self.uses };
                let lines = &mut self.lines;
                lines.insert(to.recipient, line);
                &mut lines.get_mut(&to.recipient).expect("inserted just now").current
            }
            Step::OpenNext => {
                let session = self.session(open(), now_us);
                let line = self.lines.get_mut(&to.recipient).expect("there was one to decide about");
                line.next.insert(session)
            }
            Step::Promote => {
                let line = self.lines.get_mut(&to.recipient).expect("there was one to decide about");
                line.current = line.next.take().expect("there was one to decide about");
                &mut line.current
            }
            Step::Go => &mut self.lines.get_mut(&to.recipient).expect("there was one to decide about").current,
        };
        session.taken += 1;
        let frees = (decision.carries && !time_limit).then_some(priority);
        let under =
            Under { chain: Arc::clone(&session.chain), ticket: SessionTicket { number: session.number, frees } };
        self.forget_above_the_bound();
        Some(under)
    }

    /// The node has a message of `recipient` on disk.
    pub(crate) fn acknowledged(&mut self, recipient: AgentId, ticket: SessionTicket) {
        let (Some(line), Some(priority)) = (self.lines.get_mut(&recipient), ticket.frees) else { return };
        for session in std::iter::once(&mut line.current).chain(&mut line.next) {
            if session.number == ticket.number {
                session.freed[priority as usize] = true;
            }
        }
    }

    /// The recipient has this key no more: its sessions are of no use.
    pub(crate) fn forget(&mut self, recipient: AgentId, key_id: KeyId) {
        if self.lines.get(&recipient).is_some_and(|line| line.key_id == key_id) {
            self.remove(recipient);
        }
    }

    /// Every recipient gets a new session with the next message.
    pub(crate) fn renew(&mut self) {
        self.lines.clear();
        self.by_use.clear();
    }

    /// A session of an earlier run goes on.
    pub(crate) fn adopt(&mut self, kept: Kept<C>, now_us: u64) {
        let Some(limits) = self.policy else { return };
        let Kept { to, chain, taken, age, freed } = kept;
        let age_us = i128::try_from(age.as_micros()).unwrap_or(i128::MAX);
        let mut session = self.session_of(chain, i128::from(now_us) - age_us);
        (session.taken, session.freed) = (taken, freed);
        if session.is_usable(&limits, now_us) {
            self.touch(to.recipient);
            let (key_id, record_version) = (to.key_id, to.record_version);
            let line = Line { key_id, record_version, current: session, next: None, used: self.uses };
            self.lines.insert(to.recipient, line);
            self.forget_above_the_bound();
        }
    }

    /// Gives out the sessions that another run can go on with, the one used last coming last.
    pub(crate) fn leave(&mut self, now_us: u64) -> Vec<Kept<C>> {
        let (Some(limits), by_use) = (self.policy, std::mem::take(&mut self.by_use)) else { return Vec::new() };
        let mut left = Vec::new();
        for recipient in by_use.into_values() {
            let line = self.lines.remove(&recipient).expect("by_use lists the lines");
            let next = line.next.filter(|next| next.is_proven());
            let session = next.unwrap_or(line.current);
            if session.is_usable(&limits, now_us) {
                let to = To { recipient, key_id: line.key_id, record_version: line.record_version };
                let age = Duration::from_micros(session.age_us(now_us));
                left.push(Kept { to, chain: session.chain, taken: session.taken, age, freed: session.freed });
            }
        }
        left
    }

    fn session(&mut self, chain: C, now_us: u64) -> Session<C> {
        self.session_of(Arc::new(chain), i128::from(now_us))
    }

    fn session_of(&mut self, chain: Arc<C>, opened_us: i128) -> Session<C> {
        self.next_number += 1;
        Session { number: self.next_number, chain, taken: 0, opened_us, freed: [false; 4] }
    }

    /// Notes a use; the line itself may come right after.
    fn touch(&mut self, recipient: AgentId) {
        let known = self.lines.get_mut(&recipient);
        if known.as_ref().is_some_and(|line| line.used == self.uses) {
            return;
        }
        self.uses += 1;
        if let Some(line) = known {
            self.by_use.remove(&line.used);
            line.used = self.uses;
        }
        self.by_use.insert(self.uses, recipient);
    }

    fn remove(&mut self, recipient: AgentId) {
        if let Some(line) = self.lines.remove(&recipient) {
            self.by_use.remove(&line.used);
        }
    }

    fn forget_above_the_bound(&mut self) {
        while self.lines.len() > self.recipients_max {
            let (_, idle) = self.by_use.pop_first().expect("every line is listed");
            self.lines.remove(&idle);
        }
    }
}

#[cfg(test)]
mod tests;
