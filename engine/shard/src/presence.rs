//! Presence: whether an agent reads its mailbox, told to those who may send to it, if it wants that. Off unless it says so.
//!
//! The mailbox's shard knows who reads it; beside that it remembers, in memory and bounded, when those who showed themselves stopped. A
//! question goes there whatever is known and whoever asks, and comes back the same way: that somebody does not show themselves, may not
//! be asked about, was never there or does not exist is one answer.

use std::collections::{BTreeMap, BTreeSet};

use creto_envelope::presence::{PresenceAnswer, PresenceAudience, PresenceRequest, PresenceShow, PresenceState};
use creto_envelope::{AgentId, AgentState};
use creto_policy::Action as PolicyAction;
use creto_store::RecordLog;
use creto_store::planted::{Bug, is_planted};

use crate::event::{Action, ConnectionId, Now};
use crate::limits::{
    LAST_SEEN_KEPT_MS, LAST_SEEN_MAX, PRESENCE_BURST, PRESENCE_QUESTIONS_MAX, PRESENCE_REFILL_US, PRESENCE_RETRY_MS,
};
use crate::request::Outcome;
use crate::route::{Origin, ShardMessage};
use crate::shard::Shard;

/// When agents that showed themselves stopped reading, by the wall clock; those that stopped first are forgotten first.
#[derive(Debug, Default)]
pub(crate) struct LastSeen {
    by_agent: BTreeMap<AgentId, u64>,
    by_time: BTreeSet<(u64, AgentId)>,
}

impl LastSeen {
    pub(crate) fn stopped(&mut self, agent: AgentId, now_ms: u64) {
        self.forget(&agent);
        self.by_agent.insert(agent, now_ms);
        self.by_time.insert((now_ms, agent));
        while self.by_agent.len() > LAST_SEEN_MAX
            && let Some((_, oldest)) = self.by_time.pop_first()
        {
            self.by_agent.remove(&oldest);
        }
    }

    pub(crate) fn forget(&mut self, agent: &AgentId) {
        if let Some(before_ms) = self.by_agent.remove(agent) {
            self.by_time.remove(&(before_ms, *agent));
        }
    }

    /// Whole minutes since then.
    fn minutes(&self, agent: &AgentId, now_ms: u64) -> Option<u32> {
        // A clock that was set back says that it is now.
        let ago_ms = now_ms.saturating_sub(*self.by_agent.get(agent)?);
        (ago_ms < LAST_SEEN_KEPT_MS).then(|| u32::try_from(ago_ms / 60_000).unwrap_or(u32::MAX))
    }

    /// Forgets those that nobody is told of any more.
    pub(crate) fn pass(&mut self, now_ms: u64) {
        while let Some(&(seen_ms, agent)) = self.by_time.first()
            && now_ms.saturating_sub(seen_ms) >= LAST_SEEN_KEPT_MS
        {
            self.by_time.pop_first();
            self.by_agent.remove(&agent);
        }
    }
}

/// How much one connection asks, and how much it may.
#[derive(Debug)]
pub(crate) struct PresenceQuestions {
    /// Asked and not answered.
    pub(crate) open: u32,
    left: u32,
    refilled_us: u64,
}

impl Default for PresenceQuestions {
    fn default() -> Self {
        Self { open: 0, left: PRESENCE_BURST, refilled_us: 0 }
    }
}

impl PresenceQuestions {
    /// Whether one more may be asked now; it is counted.
    fn take(&mut self, now: Now) -> bool {
        let passed = now.monotonic_us.saturating_sub(self.refilled_us) / PRESENCE_REFILL_US;
        if passed > 0 {
            self.left = self.left.saturating_add(u32::try_from(passed).unwrap_or(u32::MAX)).min(PRESENCE_BURST);
            self.refilled_us += passed * PRESENCE_REFILL_US;
        }
        let is_allowed = self.left > 0 && self.open < PRESENCE_QUESTIONS_MAX;
        if is_allowed {
            self.left -= 1;
            self.open += 1;
        }
        is_allowed
    }
}

impl<L: RecordLog> Shard<L> {
    /// A reader says to whom it shows itself.
    pub(crate) fn show_presence(
        &mut self,
        connection: ConnectionId,
        body: &[u8],
        actions: &mut Vec<Action>,
    ) -> Outcome {
        let mailbox = self.subscribed(connection)?;
        let PresenceShow { audience } = PresenceShow::parse(body)?;
        let origin = Origin { shard: self.index, connection };
        let message = ShardMessage::PresenceShow { mailbox, origin, audience };
        self.tell(self.placement.owner(&mailbox), message, actions);
        Ok(())
    }

    /// Somebody asks: the agent's shard answers, also whom it tells nothing.
    pub(crate) fn ask_presence(
        &mut self,
        now: Now,
        connection: ConnectionId,
        body: &[u8],
        actions: &mut Vec<Action>,
    ) -> Outcome {
        let login = self.logged_in(connection)?;
        let PresenceRequest { agent } = PresenceRequest::parse(body)?;
        let state = self.connections.get_mut(&connection).expect("logged_in has looked the connection up");
        // Never a Reject: on the control stream it would be taken for an answer about something else.
        if self.draining || !state.presence.take(now) {
            let state = PresenceState::Later { retry_after_ms: PRESENCE_RETRY_MS };
            self.counters.presence_refused += 1;
            self.send_presence(connection, PresenceAnswer { agent, state }, actions);
            return Ok(());
        }
        self.counters.presence_asked += 1;
        // Where everything is allowed because no policy could be loaded, this is not; and no use of that door is told.
        let is_allowed =
            !self.snapshot.is_fail_open() && self.may(now, &login.agent, PolicyAction::SendMessage, &agent).is_ok();
        let origin = Origin { shard: self.index, connection };
        self.tell(self.placement.owner(&agent), ShardMessage::PresenceAsk { agent, origin, is_allowed }, actions);
        Ok(())
    }

    /// On the agent's shard: looks, whether or not it may be told.
    pub(crate) fn answer_presence(
        &mut self,
        now: Now,
        agent: AgentId,
        origin: Origin,
        is_allowed: bool,
        actions: &mut Vec<Action>,
    ) {
        let is_active =
            self.snapshot.principal(&agent).is_some_and(|principal| principal.state() == AgentState::Active);
        let seen = self.last_seen.minutes(&agent, now.unix_ms).map(|minutes| PresenceState::Seen { minutes });
        let online = self.subscriptions.shows_presence(&agent).then_some(PresenceState::Online);
        let known = online.or(seen).filter(|_| {
            (is_allowed || is_planted(Bug::ShowToAnybody)) && is_active && self.snapshot.policy().is_some()
        });
        let state = known.unwrap_or(PresenceState::Unknown);
        let answer = PresenceAnswer { agent, state };
        let message = ShardMessage::PresenceTold { connection: origin.connection, answer };
        self.tell(origin.shard, message, actions);
    }

    /// Hands the answer on, if whoever asked is still there.
    pub(crate) fn presence_told(
        &mut self,
        connection: ConnectionId,
        answer: PresenceAnswer,
        actions: &mut Vec<Action>,
    ) {
        let Some(state) = self.connections.get_mut(&connection) else { return };
        state.presence.open = state.presence.open.checked_sub(1).expect("a question is answered once");
        self.send_presence(connection, answer, actions);
    }

    fn send_presence(&self, connection: ConnectionId, answer: PresenceAnswer, actions: &mut Vec<Action>) {
        let mut out = Vec::new();
        answer.encode(&mut out);
        self.send_control(connection, out.into(), actions);
    }

    /// Takes what a reader shows, on the mailbox's shard.
    pub(crate) fn presence_shown(&mut self, mailbox: AgentId, origin: Origin, audience: PresenceAudience) {
        if self.subscriptions.show_presence(mailbox, origin, audience == PresenceAudience::Senders) {
            // What was shown before is over, or it is there.
            self.last_seen.forget(&mailbox);
        }
    }
}

#[cfg(test)]
mod tests;
