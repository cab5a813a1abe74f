//! How many one-time prekeys an agent may claim, and how many uploads it may make, within an hour. In memory: a restart of
//! the node begins anew.
//!
//! Whoever is above it is not refused: it is given the prekey of last resort, so it can send, and nobody can use up what
//! another agent has uploaded.

use std::collections::HashMap;

use creto_envelope::AgentId;

use crate::limits::{
    PREKEY_ALLOWANCES_MAX, PREKEY_CLAIMS_PER_ASKER_MAX, PREKEY_CLAIMS_PER_PAIR_MAX, PREKEY_UPLOADS_PER_AGENT_MAX,
    PREKEY_WINDOW_MS,
};

/// What may be done within [`PREKEY_WINDOW_MS`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PrekeyAllowance {
    /// One-time prekeys of one agent that another one may claim.
    pub claims_per_pair: u32,
    /// One-time prekeys that an agent may claim of all others.
    pub claims_per_asker: u32,
    /// Batches that an agent may upload.
    pub uploads: u32,
}

impl Default for PrekeyAllowance {
    fn default() -> Self {
        Self {
            claims_per_pair: PREKEY_CLAIMS_PER_PAIR_MAX,
            claims_per_asker: PREKEY_CLAIMS_PER_ASKER_MAX,
            uploads: PREKEY_UPLOADS_PER_AGENT_MAX,
        }
    }
}

/// Who did what in the hour that is running. Bounded by [`PREKEY_ALLOWANCES_MAX`].
#[derive(Debug, Default)]
pub(super) struct Used {
    of: HashMap<Subject, Window>,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
enum Subject {
    Pair(AgentId, AgentId),
    Asker(AgentId),
    Uploads(AgentId),
}

#[derive(Clone, Copy, Debug)]
struct Window {
    began_ms: u64,
    count: u32,
}

impl Used {
    /// Whether `asker` may be given a one-time prekey of `agent` now.
    pub(super) fn may_claim(
        &mut self,
        asker: AgentId,
        agent: AgentId,
        allowance: &PrekeyAllowance,
        now_ms: u64,
    ) -> bool {
        let (pair, all) = (Subject::Pair(asker, agent), Subject::Asker(asker));
        self.count(pair, now_ms) < allowance.claims_per_pair
            && self.count(all, now_ms) < allowance.claims_per_asker
            && self.has_room(&[pair, all], now_ms)
    }

    /// It was given one.
    pub(super) fn claimed(&mut self, asker: AgentId, agent: AgentId, now_ms: u64) {
        self.add(Subject::Pair(asker, agent), now_ms);
        self.add(Subject::Asker(asker), now_ms);
    }

    /// Whether `agent` may upload a batch now; if so, it is counted. If not, in how many milliseconds.
    pub(super) fn upload(&mut self, agent: AgentId, allowance: &PrekeyAllowance, now_ms: u64) -> Result<(), u64> {
        let subject = Subject::Uploads(agent);
        if self.count(subject, now_ms) < allowance.uploads && self.has_room(&[subject], now_ms) {
            self.add(subject, now_ms);
            return Ok(());
        }
        let began_ms = self.of.get(&subject).map_or(now_ms, |window| window.began_ms);
        Err(began_ms.saturating_add(PREKEY_WINDOW_MS).saturating_sub(now_ms))
    }

    fn count(&self, subject: Subject, now_ms: u64) -> u32 {
        self.of.get(&subject).filter(|window| window.is_running(now_ms)).map_or(0, |window| window.count)
    }

    fn add(&mut self, subject: Subject, now_ms: u64) {
        let window = self.of.entry(subject).or_insert(Window { began_ms: now_ms, count: 0 });
        if !window.is_running(now_ms) {
            *window = Window { began_ms: now_ms, count: 0 };
        }
        window.count += 1;
    }

    /// Whether there is room for these, when what is over has gone.
    fn has_room(&mut self, subjects: &[Subject], now_ms: u64) -> bool {
        let new = subjects.iter().filter(|subject| !self.of.contains_key(subject)).count();
        if self.of.len() + new > PREKEY_ALLOWANCES_MAX {
            self.of.retain(|_, window| window.is_running(now_ms));
        }
        self.of.len() + new <= PREKEY_ALLOWANCES_MAX
    }
}

impl Window {
    /// A clock that was set back ends it: nobody is shut out for longer than a window.
    fn is_running(&self, now_ms: u64) -> bool {
        now_ms.checked_sub(self.began_ms).is_some_and(|age_ms| age_ms < PREKEY_WINDOW_MS)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALLOWANCE: PrekeyAllowance = PrekeyAllowance { claims_per_pair: 2, claims_per_asker: 3, uploads: 1 };
    const A: AgentId = AgentId([1; 16]);
    const B: AgentId = AgentId([2; 16]);
    const C: AgentId = AgentId([3; 16]);

    fn claim(used: &mut Used, asker: AgentId, agent: AgentId, allowance: &PrekeyAllowance, now_ms: u64) -> bool {
        let may = used.may_claim(asker, agent, allowance, now_ms);
        if may {
            used.claimed(asker, agent, now_ms);
        }
        may
    }

    #[test]
    fn an_asker_has_a_share_of_each_agent_and_one_of_all_and_both_come_back_after_an_hour() {
        let mut used = Used::default();
        let mut claim = |asker, agent, now_ms| claim(&mut used, asker, agent, &ALLOWANCE, now_ms);
        assert!(claim(A, B, 1_000) && claim(A, B, 2_000));
        assert!(!claim(A, B, 3_000), "the share of this pair");
        assert!(claim(A, C, 3_000));
        assert!(!claim(A, C, 3_000), "the share of this asker");
        assert!(claim(C, B, 3_000), "others have their own");
        assert!(!claim(A, B, 1_000 + PREKEY_WINDOW_MS - 1));
        assert!(claim(A, B, 1_000 + PREKEY_WINDOW_MS));
        assert!(claim(A, B, 0), "a clock that was set back shuts nobody out");
    }

    #[test]
    fn an_agent_uploads_so_often_in_an_hour_and_is_told_when_again() {
        let mut used = Used::default();
        assert_eq!(used.upload(A, &ALLOWANCE, 1_000), Ok(()));
        assert_eq!(used.upload(A, &ALLOWANCE, 2_000), Err(PREKEY_WINDOW_MS - 1_000));
        assert_eq!(used.upload(B, &ALLOWANCE, 2_000), Ok(()));
        assert_eq!(used.upload(A, &ALLOWANCE, 1_000 + PREKEY_WINDOW_MS), Ok(()));
    }

    #[test]
    fn what_is_remembered_is_bounded_and_makes_room_for_itself() {
        let mut used = Used::default();
        let allowance = PrekeyAllowance { claims_per_asker: u32::MAX, ..ALLOWANCE };
        let agent = |number: usize| AgentId(u128::try_from(number).unwrap().to_le_bytes());
        for number in 0..PREKEY_ALLOWANCES_MAX - 1 {
            assert!(claim(&mut used, A, agent(number), &allowance, 1_000));
        }
        assert!(!claim(&mut used, A, agent(PREKEY_ALLOWANCES_MAX), &allowance, 2_000), "full: no one-time prekey");
        assert_eq!(used.of.len(), PREKEY_ALLOWANCES_MAX);
        assert!(claim(&mut used, A, agent(PREKEY_ALLOWANCES_MAX), &allowance, 1_000 + PREKEY_WINDOW_MS));
        assert_eq!(used.of.len(), 2);
    }
}
