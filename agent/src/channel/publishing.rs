//! What a publisher does in one channel, as a state machine: no IO, no randomness, time is an argument.
//!
//! Its sessions, and who was given which of them from which message on. Four rules hold:
//!
//! - **No counter is used before the disk has it as used**: [`take`](Publishing::take) gives none above what was
//!   [confirmed](Publishing::confirm) to be written.
//! - **Keys go only to whom both the node names as a subscriber and the owner's record allows.** The node can add nobody.
//! - **Nobody is sent a key before the disk has them as one who may hold it** ([`prepare`](Publishing::prepare)): whoever was ever sent
//!   one, answered or not, ends the session when they leave, also for a process that reads the disk after this one died.
//! - **Who came gets what it is entitled to**: a member change stands in the node's stream before the acknowledgement of any message
//!   that lies behind it, so whoever joins is given the chain from the oldest message on that is not acknowledged at that moment.
//!   On a new connection nothing counts as acknowledged before the node has said who subscribes. What is owed is on disk, too, until
//!   it is given.
//!
//! Once somebody leaves who holds a session, that session is over: the next message begins another, which those get who are left.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use creto_crypto_accel::seal::MessageKey;
use creto_crypto_accel::session::{
    CHANNEL_SECRET_BYTES, CHANNEL_SESSION_MESSAGES_MAX, ChannelEnds, ChannelKey, ChannelSendChain, SessionId,
};
use creto_envelope::AgentId;
use creto_envelope::channel::ChannelRecord;
use creto_envelope::channel::frames::ChannelMembers;
use creto_envelope::limits::CHANNEL_SUBSCRIBERS_MAX;

use crate::backoff::pause;
use crate::limits::{
    CHANNEL_COUNTERS_RESERVED, CHANNEL_GIVE_PAUSE_MAX, CHANNEL_GIVE_PAUSE_MIN, CHANNEL_SESSION_AGE,
    CHANNEL_SESSIONS_KEPT_MAX,
};

/// When sessions end, and how far ahead counters are written as used.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SessionLimits {
    /// Messages of a session.
    pub(crate) messages: u64,
    /// Age from which on no message is published under it.
    pub(crate) age: Duration,
    /// Counters that are written as used at a time.
    pub(crate) reserve: u64,
    /// Sessions that are kept.
    pub(crate) kept: usize,
}

impl SessionLimits {
    pub(crate) const PRODUCTION: Self = Self {
        messages: CHANNEL_SESSION_MESSAGES_MAX,
        age: CHANNEL_SESSION_AGE,
        reserve: CHANNEL_COUNTERS_RESERVED,
        kept: CHANNEL_SESSIONS_KEPT_MAX,
    };
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Publishing {
    ends: ChannelEnds,
    limits: SessionLimits,
    record: Option<Arc<ChannelRecord>>,
    /// Who subscribes, as the node says.
    members: BTreeSet<AgentId>,
    /// Whether the node has said that on this connection.
    is_told: bool,
    /// Oldest first; the last one is in use unless it is over.
    sessions: Vec<Session>,
    /// A message waits for a session.
    wants_session: bool,
    changes: Unwritten,
}

/// A session of this publisher.
#[derive(Debug)]
struct Session {
    id: SessionId,
    /// What newcomers are given, from its message on or a later one.
    base: ChannelKey,
    /// Gone when the session is over.
    chain: Option<ChannelSendChain>,
    /// Whether the disk has it.
    on_disk: bool,
    /// Counters below this are on disk as used.
    reserved: u64,
    /// The first counter that was not used.
    end: u64,
    begun_at_ms: u64,
    used_at_ms: u64,
    /// Counters in use whose messages are not answered.
    unsettled: BTreeSet<u64>,
    /// Answered before the node said on this connection who subscribes: somebody may have come before them.
    settled_early: Vec<u64>,
    /// Who may have it, and from which message on: everybody to whom it was ever sent.
    given: BTreeMap<AgentId, u64>,
    /// Of those, the ones of whom the disk knows that.
    known_given: BTreeSet<AgentId>,
    /// On its way to them.
    giving: BTreeMap<AgentId, Due>,
    due: BTreeMap<AgentId, Due>,
    /// They did not take it.
    refused: BTreeMap<AgentId, u64>,
    /// Those for whom it was begun, and of whom nothing is known yet.
    first_round: BTreeSet<AgentId>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Due {
    /// The first message that the key opens.
    from: u64,
    /// Not before, Unix milliseconds.
    at_ms: u64,
    /// How often it could not be given.
    failures: u32,
}

impl Due {
    fn now(from: u64) -> Self {
        Self { from, at_ms: 0, failures: 0 }
    }
}

/// What has changed since it was written last.
#[derive(Debug, Default)]
struct Unwritten {
    sessions: BTreeSet<SessionId>,
    /// Who may have been given what, and who has left.
    given: BTreeMap<(SessionId, AgentId), Option<u64>>,
    /// What is still to be given to whom, and what is not any more.
    owed: BTreeMap<(SessionId, AgentId), Option<u64>>,
    removed: BTreeSet<SessionId>,
}

/// A session as it is stored.
#[derive(Debug)]
pub(crate) struct StoredSession {
    pub(crate) base: ChannelKey,
    /// Where whoever reads this goes on. None: it is over.
    pub(crate) chain: Option<ChannelSendChain>,
    /// The first counter that was not used.
    pub(crate) end: u64,
    pub(crate) begun_at_ms: u64,
    pub(crate) used_at_ms: u64,
}

/// What is to be written, in one transaction.
#[derive(Debug, Default)]
pub(crate) struct Changes {
    pub(crate) sessions: Vec<StoredSession>,
    pub(crate) given: Vec<(SessionId, AgentId, Option<u64>)>,
    pub(crate) owed: Vec<(SessionId, AgentId, Option<u64>)>,
    pub(crate) removed: Vec<SessionId>,
}

/// Who has to do with a stored session, each with the first message of theirs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Members {
    /// Who may have it.
    pub(crate) given: BTreeMap<AgentId, u64>,
    /// To whom it is to be given.
    pub(crate) owed: BTreeMap<AgentId, u64>,
}

impl Changes {
    pub(crate) fn is_empty(&self) -> bool {
        self.sessions.is_empty() && self.given.is_empty() && self.owed.is_empty() && self.removed.is_empty()
    }
}

/// What the next message is sealed with.
#[derive(Debug)]
pub(crate) struct Taken {
    pub(crate) session: SessionId,
    pub(crate) counter: u64,
    pub(crate) key: MessageKey,
}

/// Why there is no key for the next message now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wait {
    /// The node has not said who subscribes, or the owner's record is not here.
    Told,
    /// A session is to be begun ([`Publishing::wants_session`]).
    Session,
    /// Counters are to be written ([`Publishing::take_changes`]).
    Disk,
}

/// A key that is to be given.
#[derive(Debug)]
pub(crate) struct Give {
    pub(crate) member: AgentId,
    pub(crate) session: SessionId,
    pub(crate) key: ChannelKey,
}

/// What became of one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// It is durable in the member's mailbox.
    Durable,
    /// It may work later.
    Later,
    /// It is not taken; it is tried again when the member is named again.
    Never,
}

/// Steps of a chain that are made at a time.
const STEPS_MAX: u64 = 1_024;

/// The node names more subscribers than a channel can have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TooManyMembers;

impl Publishing {
    pub(crate) fn new(ends: ChannelEnds, limits: SessionLimits) -> Self {
        assert!(0 < limits.messages && limits.messages <= CHANNEL_SESSION_MESSAGES_MAX && limits.reserve > 0);
        Self {
            ends,
            limits,
            record: None,
            members: BTreeSet::new(),
            is_told: false,
            sessions: Vec::new(),
            wants_session: false,
            changes: Unwritten::default(),
        }
    }

    /// A session of an earlier run, which nobody else has; they come in the order of their beginnings.
    pub(crate) fn adopt(&mut self, stored: StoredSession, members: Members) {
        let StoredSession { base, chain, end, begun_at_ms, used_at_ms } = stored;
        if let Some(before) = self.sessions.last_mut() {
            before.end();
        }
        let end = chain.as_ref().map_or(end, ChannelSendChain::counter);
        // What is on disk is where the earlier run may have come to: more is written before the first counter is used.
        let Members { given, owed } = members;
        let due = owed.into_iter().map(|(member, from)| (member, Due::now(from))).collect();
        let known_given = given.keys().copied().collect();
        let session = Session::new(base, chain, begun_at_ms, used_at_ms);
        let on_disk = true;
        self.sessions.push(Session { on_disk, reserved: end, end, given, known_given, due, ..session });
    }

    /// The owner's record, verified. Whoever holds a session and may not subscribe by it has left.
    pub(crate) fn set_record(&mut self, record: Arc<ChannelRecord>) {
        let all = self.holders().chain(self.members.iter().copied());
        let not = all.filter(|agent| !record.lets_subscribe(agent)).collect();
        self.record = Some(record);
        self.forget(&not);
        if self.is_told {
            let members = self.members.iter().copied().filter(|member| self.lets_read(member)).collect();
            self.welcome(&members);
        }
        self.trim();
    }

    /// The owner's record.
    pub(crate) fn record(&self) -> Option<&Arc<ChannelRecord>> {
        self.record.as_ref()
    }

    /// Subscribers whom the record at hand does not allow: a newer one may.
    pub(crate) fn strangers(&self) -> usize {
        self.members.iter().filter(|member| !self.lets_read(member)).count()
    }

    /// The node says who subscribes.
    ///
    /// # Errors
    /// [`TooManyMembers`]: the connection is of no use any more.
    pub(crate) fn told(&mut self, told: &ChannelMembers) -> Result<(), TooManyMembers> {
        if !told.is_whole && !self.is_told {
            // Before the whole list a change says nothing.
            return Ok(());
        }
        let joined: BTreeSet<AgentId> = told.joined.iter().copied().collect();
        let left: BTreeSet<AgentId> = match told.is_whole {
            // Who holds a key and is not named has left, also before this process began.
            true => {
                self.holders().chain(self.members.iter().copied()).filter(|agent| !joined.contains(agent)).collect()
            }
            false => told.left.iter().copied().collect(),
        };
        // Who left and came again in one change may have lost what it held: that is over, and it is given what begins next.
        self.members.retain(|member| !left.contains(member));
        self.members.extend(&joined);
        if self.members.len() > CHANNEL_SUBSCRIBERS_MAX as usize {
            return Err(TooManyMembers);
        }
        self.forget(&left);
        self.welcome(&joined);
        if told.is_whole {
            self.is_told = true;
            for session in &mut self.sessions {
                for counter in std::mem::take(&mut session.settled_early) {
                    session.unsettled.remove(&counter);
                }
            }
        }
        self.trim();
        Ok(())
    }

    /// The connection is gone, and with it what the node said on it.
    pub(crate) fn lost(&mut self) {
        self.is_told = false;
    }

    /// Whether the node has said who subscribes, and the record is here.
    pub(crate) fn is_ready(&self) -> bool {
        self.is_told && self.record.is_some()
    }

    /// How many subscribe, as the node says.
    pub(crate) fn member_count(&self) -> usize {
        self.members.len()
    }

    /// Whether there is a key for the next message; if not, what is missing is wanted from now on.
    pub(crate) fn can_take(&mut self, now_ms: u64) -> Result<(), Wait> {
        if !self.is_ready() {
            return Err(Wait::Told);
        }
        let limits = self.limits;
        let Some(session) = self.sessions.last_mut().filter(|session| session.is_usable(&limits, now_ms)) else {
            self.wants_session = true;
            return Err(Wait::Session);
        };
        let chain = session.chain.as_mut().expect("a session that is usable is not over");
        // Before they are used up: nobody waits for the disk then.
        if chain.counter() + limits.reserve / 4 >= session.reserved && session.reserved < limits.messages {
            self.changes.sessions.insert(session.id);
        }
        if chain.counter() < session.reserved { Ok(()) } else { Err(Wait::Disk) }
    }

    /// The key of the next message. Its counter is in use until [`settled`](Self::settled).
    pub(crate) fn take(&mut self, now_ms: u64) -> Result<Taken, Wait> {
        self.can_take(now_ms)?;
        let session = self.sessions.last_mut().expect("there was one just now");
        let next = session.chain.as_mut().and_then(ChannelSendChain::next);
        let (counter, key) = next.expect("a session that can be taken from is not full");
        session.end = counter + 1;
        session.used_at_ms = session.used_at_ms.max(now_ms);
        session.unsettled.insert(counter);
        Ok(Taken { session: session.id, counter, key })
    }

    /// Whether a message waits for a session to be begun.
    pub(crate) fn wants_session(&self) -> bool {
        self.wants_session && self.is_ready()
    }

    /// Begins a session, with fresh randomness.
    pub(crate) fn begin(&mut self, secret: &[u8; CHANNEL_SECRET_BYTES], now_ms: u64) {
        let record = self.record.as_ref().expect("a session begins for a message, which needs the record");
        self.wants_session = false;
        if let Some(before) = self.sessions.last_mut().filter(|session| session.chain.is_some()) {
            before.end();
            self.changes.sessions.insert(before.id);
        }
        let readers = self.members.iter().copied().filter(|member| record.lets_subscribe(member)).collect();
        let chain = ChannelSendChain::new(self.ends, secret);
        let session = Session::new(chain.key(), Some(chain), now_ms, now_ms);
        self.changes.sessions.insert(session.id);
        // Those whom the record does not allow wait for a newer one.
        let due = self.members.iter().map(|member| (*member, Due::now(0))).collect();
        self.changes.owed.extend(self.members.iter().map(|member| ((session.id, *member), Some(0))));
        self.sessions.push(Session { due, first_round: readers, ..session });
        self.trim();
    }

    /// A message is answered, or will never be sent.
    pub(crate) fn settled(&mut self, session: SessionId, counter: u64) {
        let (is_told, has_history, has_record) = (self.is_told, self.has_history(), self.record.is_some());
        let Some(session) = self.session_mut(session) else { return };
        match is_told {
            true => drop(session.unsettled.remove(&counter)),
            false => session.settled_early.push(counter),
        }
        // Now and then, so that no single step is a long one.
        if is_told && has_record && !has_history && session.first_open() - session.base.counter() >= STEPS_MAX {
            session.let_go_of_the_past();
        }
    }

    /// Whether everybody for whom this session was begun has it, or cannot be given it now.
    pub(crate) fn is_handed_out(&self, session: SessionId) -> bool {
        self.sessions.iter().all(|known| known.id != session || known.first_round.is_empty())
    }

    /// Whether nothing is to be given or on its way.
    pub(crate) fn has_given_all(&self) -> bool {
        self.sessions.iter().all(|session| session.giving.is_empty()) && self.dues().next().is_none()
    }

    /// Whether every message is answered.
    pub(crate) fn is_settled(&self) -> bool {
        self.sessions.iter().all(|session| session.unsettled.len() == session.settled_early.len())
    }

    /// Writes down for so many of those who are to be given a key now that they may have it: [`gives`](Self::gives) gives it when that is
    /// on disk.
    pub(crate) fn prepare(&mut self, most: usize, now_ms: u64) {
        let Self { sessions, changes, record: Some(record), is_told: true, .. } = self else { return };
        let mut room = most;
        for session in sessions.iter_mut().rev() {
            let Session { id, due, given, .. } = session;
            let is_ready = |(member, due): &(&AgentId, &Due)| due.at_ms <= now_ms && record.lets_subscribe(member);
            for (member, due) in due.iter().filter(is_ready).take(room) {
                room -= 1;
                let before = given.get(member).copied();
                let from = before.map_or(due.from, |before| before.min(due.from));
                if before != Some(from) {
                    given.insert(*member, from);
                    changes.given.insert((*id, *member), Some(from));
                }
            }
        }
    }

    /// Keys that are to be given now, at most so many. Each is answered with [`gave`](Self::gave).
    pub(crate) fn gives(&mut self, most: usize, now_ms: u64) -> Vec<Give> {
        let mut gives = Vec::new();
        // The newest session first: what comes now is read first. None before the disk has it: a key of a session that a crash
        // made never to have been would be kept for nothing. And none before the node has said who subscribes: who left has left.
        let Some(record) = self.record.as_ref().filter(|_| self.is_told) else { return gives };
        for session in self.sessions.iter_mut().rev().filter(|session| session.on_disk) {
            let is_ready = |(member, due): &(&AgentId, &Due)| {
                due.at_ms <= now_ms && record.lets_subscribe(member) && session.known_given.contains(member)
            };
            let ready = session.due.iter().filter(is_ready).map(|(member, _)| *member);
            for member in ready.take(most - gives.len()).collect::<Vec<_>>() {
                let due = session.due.remove(&member).expect("listed just now");
                session.giving.insert(member, due);
                // Most of those that come together begin at the same message: the steps to it are made once.
                let before = gives.last().map(|give: &Give| &give.key).filter(|key| key.session_id() == session.id);
                let near = before.filter(|key| key.counter() <= due.from).unwrap_or(&session.base);
                // What is owed by an earlier run may lie before what is left of the session.
                let from = due.from.max(session.base.counter());
                let key = near.at(from).expect("the base lies behind whatever is due");
                gives.push(Give { member, session: session.id, key });
            }
        }
        gives
    }

    /// When the next key is due, Unix milliseconds.
    pub(crate) fn gives_at_ms(&self) -> Option<u64> {
        self.dues().map(|due| due.at_ms).min()
    }

    /// Keys that are to be given, to those who may have them.
    fn dues(&self) -> impl Iterator<Item = &Due> {
        let on_disk = self.sessions.iter().filter(|session| session.on_disk);
        on_disk.flat_map(|session| &session.due).filter(|(member, _)| self.lets_read(member)).map(|(_, due)| due)
    }

    fn lets_read(&self, agent: &AgentId) -> bool {
        self.record.as_ref().is_some_and(|record| record.lets_subscribe(agent))
    }

    /// What became of a key that was to be given.
    pub(crate) fn gave(&mut self, member: AgentId, session: SessionId, outcome: Outcome, now_ms: u64) {
        let is_member = self.members.contains(&member);
        let Some(session) = self.sessions.iter_mut().find(|known| known.id == session) else { return };
        session.first_round.remove(&member);
        let Some(due) = session.giving.remove(&member) else { return };
        match outcome {
            Outcome::Durable => drop(self.changes.owed.insert((session.id, member), None)),
            // Whoever has left meanwhile is given nothing more.
            Outcome::Later if is_member => {
                let pause = pause(CHANNEL_GIVE_PAUSE_MIN, CHANNEL_GIVE_PAUSE_MAX, due.failures);
                let at_ms = now_ms.saturating_add(u64::try_from(pause.as_millis()).unwrap_or(u64::MAX));
                session.due.insert(member, Due { at_ms, failures: due.failures.saturating_add(1), ..due });
            }
            Outcome::Never if is_member => drop(session.refused.insert(member, due.from)),
            Outcome::Later | Outcome::Never => {}
        }
        self.trim();
    }

    /// Whether something is to be written.
    pub(crate) fn has_changes(&self) -> bool {
        let Unwritten { sessions, given, owed, removed } = &self.changes;
        !(sessions.is_empty() && given.is_empty() && owed.is_empty() && removed.is_empty())
    }

    /// What is to be written now; [`confirm`](Self::confirm) says that it is.
    pub(crate) fn take_changes(&mut self) -> Changes {
        let Unwritten { sessions, given, owed, removed } = std::mem::take(&mut self.changes);
        let rows = |rows: BTreeMap<(SessionId, AgentId), Option<u64>>| {
            rows.into_iter().map(|((session, member), from)| (session, member, from)).collect()
        };
        let limits = self.limits;
        let stored = |id: SessionId| Some(self.sessions.iter().find(|known| known.id == id)?.to_store(&limits));
        Changes {
            sessions: sessions.into_iter().filter_map(stored).collect(),
            given: rows(given),
            owed: rows(owed),
            removed: removed.into_iter().collect(),
        }
    }

    /// These changes are on disk.
    pub(crate) fn confirm(&mut self, changes: &Changes) {
        for stored in &changes.sessions {
            if let Some(session) = self.session_mut(stored.base.session_id()) {
                session.on_disk = true;
                let reserved = stored.chain.as_ref().map_or(0, ChannelSendChain::counter);
                session.reserved = session.reserved.max(reserved);
            }
        }
        for (id, member, from) in &changes.given {
            // Who left meanwhile is to be written down once more, should they come again.
            if let Some(session) = self.session_mut(*id)
                && from.is_some()
                && session.given.contains_key(member)
            {
                session.known_given.insert(*member);
            }
        }
    }

    /// Forgets the sessions of which the channel keeps no message any more.
    pub(crate) fn expire(&mut self, now_ms: u64) {
        let Some(record) = &self.record else { return };
        let kept_ms = u64::from(record.retention_s) * 1_000;
        let is_old =
            |session: &&Session| session.chain.is_none() && now_ms > session.used_at_ms.saturating_add(kept_ms);
        let old: Vec<SessionId> = self.sessions.iter().filter(is_old).map(|session| session.id).collect();
        old.into_iter().for_each(|id| self.remove(id));
    }

    /// What another run goes on with. Nothing is taken here any more.
    pub(crate) fn leave(&mut self) -> Changes {
        self.is_told = false;
        if let Some(current) = self.sessions.last_mut()
            && let Some(chain) = &current.chain
        {
            // Exactly where it is: nobody goes on here.
            current.reserved = chain.counter();
            self.limits.reserve = 0;
            self.changes.sessions.insert(current.id);
        }
        let changes = self.take_changes();
        self.sessions.clear();
        changes
    }

    fn session_mut(&mut self, id: SessionId) -> Option<&mut Session> {
        self.sessions.iter_mut().rev().find(|session| session.id == id)
    }

    /// Everybody who may have a session, and to whom one is owed.
    fn holders(&self) -> impl Iterator<Item = AgentId> + '_ {
        self.sessions.iter().flat_map(|session| session.given.keys().chain(session.due.keys()).copied())
    }

    /// These are no subscribers any more.
    fn forget(&mut self, left: &BTreeSet<AgentId>) {
        let Self { sessions, changes, .. } = self;
        for session in sessions {
            if session.chain.is_some() && left.iter().any(|agent| session.given.contains_key(agent)) {
                session.end();
                changes.sessions.insert(session.id);
            }
            for agent in left {
                session.first_round.remove(agent);
                session.known_given.remove(agent);
                let was_owed = session.due.remove(agent).is_some() | session.refused.remove(agent).is_some();
                let was_given = session.given.remove(agent).is_some();
                if was_given {
                    changes.given.insert((session.id, *agent), None);
                }
                if was_given || was_owed {
                    changes.owed.insert((session.id, *agent), None);
                }
            }
        }
    }

    /// These are subscribers: what they have not, they are given. Of what is over only what newcomers may read, and what is still on
    /// its way into the channel.
    fn welcome(&mut self, joined: &BTreeSet<AgentId>) {
        let has_history = self.has_history();
        let Self { sessions, changes, .. } = self;
        for session in sessions {
            let from = match has_history {
                true => session.base.counter(),
                // A session that is over and wholly in the channel is of no use to whoever comes now.
                false if session.chain.is_none() && session.unsettled.is_empty() => continue,
                false => session.first_open(),
            };
            if from >= CHANNEL_SESSION_MESSAGES_MAX {
                continue;
            }
            for agent in joined {
                let is_owed = session.due.contains_key(agent) || session.refused.contains_key(agent);
                if session.giving.contains_key(agent) || session.given.contains_key(agent) && !is_owed {
                    continue;
                }
                let refused = session.refused.remove(agent);
                let due = session.due.entry(*agent).or_insert(Due::now(refused.unwrap_or(from)));
                // Where the record came later than the node's word, more may be theirs than it seemed.
                if from < due.from {
                    due.from = from;
                }
                changes.owed.insert((session.id, *agent), Some(due.from));
            }
        }
    }

    fn has_history(&self) -> bool {
        self.record.as_ref().is_some_and(|record| record.has_history)
    }

    /// Lets go of what is of no use to anybody any more.
    fn trim(&mut self) {
        // Without the record nobody knows whether newcomers may read what was before.
        if self.record.is_some() {
            let has_history = self.has_history();
            let is_spent = |session: &&Session| {
                let is_idle = session.unsettled.is_empty() && session.due.is_empty() && session.giving.is_empty();
                session.chain.is_none() && is_idle && (session.end == 0 || !has_history)
            };
            let spent: Vec<SessionId> = self.sessions.iter().filter(is_spent).map(|session| session.id).collect();
            spent.into_iter().for_each(|id| self.remove(id));
            if !has_history {
                self.sessions.iter_mut().for_each(Session::let_go_of_the_past);
            }
        }
        while self.sessions.len() > self.limits.kept {
            self.remove(self.sessions[0].id);
        }
    }

    fn remove(&mut self, id: SessionId) {
        self.sessions.retain(|session| session.id != id);
        self.changes.sessions.remove(&id);
        self.changes.given.retain(|(session, _), _| *session != id);
        self.changes.owed.retain(|(session, _), _| *session != id);
        self.changes.removed.insert(id);
    }
}

impl Session {
    fn new(base: ChannelKey, chain: Option<ChannelSendChain>, begun_at_ms: u64, used_at_ms: u64) -> Self {
        Self {
            id: base.session_id(),
            base,
            chain,
            on_disk: false,
            reserved: 0,
            end: 0,
            begun_at_ms,
            used_at_ms,
            unsettled: BTreeSet::new(),
            settled_early: Vec::new(),
            given: BTreeMap::new(),
            known_given: BTreeSet::new(),
            giving: BTreeMap::new(),
            due: BTreeMap::new(),
            refused: BTreeMap::new(),
            first_round: BTreeSet::new(),
        }
    }

    fn is_usable(&self, limits: &SessionLimits, now_ms: u64) -> bool {
        // Under a clock that was set back nobody knows how old it is.
        let age_ms = now_ms.checked_sub(self.begun_at_ms);
        let is_young = age_ms.is_some_and(|age_ms| u128::from(age_ms) < limits.age.as_millis());
        is_young && self.chain.as_ref().is_some_and(|chain| chain.counter() < limits.messages)
    }

    /// No message is sealed under it any more.
    fn end(&mut self) {
        if let Some(chain) = self.chain.take() {
            self.end = chain.counter();
        }
    }

    /// The oldest message that may come into the channel behind whoever joins now.
    fn first_open(&self) -> u64 {
        self.unsettled.first().copied().unwrap_or(self.end)
    }

    /// The base moves up to what somebody may still be given.
    fn let_go_of_the_past(&mut self) {
        let due = self.due.values().chain(self.giving.values()).map(|due| due.from).min();
        let from = due.unwrap_or(u64::MAX).min(self.first_open());
        if let Some(ahead) = self.base.at(from).filter(|_| from > self.base.counter()) {
            self.base = ahead;
        }
    }

    fn to_store(&self, limits: &SessionLimits) -> StoredSession {
        let ahead = |chain: &ChannelSendChain| {
            let reserved = (chain.counter() + limits.reserve).min(limits.messages).max(self.reserved);
            chain.at(reserved).expect("it lies ahead, within the session")
        };
        StoredSession {
            base: self.base.at(self.base.counter()).expect("where it is"),
            chain: self.chain.as_ref().map(ahead),
            end: self.end,
            begun_at_ms: self.begun_at_ms,
            used_at_ms: self.used_at_ms,
        }
    }
}

#[cfg(test)]
mod tests;
