//! Decisions of a shard: from its memory, and by asking a policy.

use std::hint::black_box;
use std::ops::Range;
use std::sync::Arc;
use std::time::Instant;

use creto_envelope::{AgentId, AgentName, AgentState, KeyId, TrustDomain};
use creto_policy::{Action, DecisionTable, KeyVersion, Policy, Snapshot, SnapshotBuilder};
use creto_rego::PolicySource;
use creto_service::policy::RegoPolicy;

/// When everything happens.
pub const NOW_MS: u64 = 1_800_000_000_000;
/// How long a decision is remembered.
pub const LIFETIME_MS: u64 = 60_000;
/// Organizations that the agents are of, in turn.
pub const ORGANIZATION_COUNT: usize = 10;
/// Agents that the pairs are made of.
const AGENT_COUNT: usize = 10_000;

/// The first example of a policy in the product's documents.
pub const ORGANIZATION: &str = "allow { input.sender.organization_id == input.recipient.organization_id }\n";
/// The second.
pub const RATE: &str = "allow { count(recent_messages[input.sender.nhi]) < 1000 }\n";
/// The third.
pub const ROLE: &str = "allow { input.sender.roles[_] == \"coordinator\"\ninput.action == \"send_message\" }\n";

/// Times of single decisions in nanoseconds, less what reading the clock takes.
#[derive(Clone, Debug)]
pub struct Times(Vec<u64>);

impl Times {
    /// Times of single decisions, each with its share of what `before` takes for a group of so many.
    fn in_groups(rounds: usize, group: usize, before: impl Fn(Range<usize>), mut run: impl FnMut(usize)) -> Self {
        let clock_ns = clock_ns(rounds);
        let mut taken = Vec::with_capacity(rounds);
        for first in (0..rounds / group * group).step_by(group) {
            let begun = Instant::now();
            before(first..first + group);
            let share_ns = ns_since(begun).saturating_sub(clock_ns) / group as u64;
            for round in first..first + group {
                let begun = Instant::now();
                run(round);
                taken.push(share_ns + ns_since(begun).saturating_sub(clock_ns));
            }
        }
        taken.sort_unstable();
        Self(taken)
    }

    /// Runs `run` so many times and times each.
    fn take(rounds: usize, run: impl FnMut(usize)) -> Self {
        let clock_ns = clock_ns(rounds);
        let mut taken = timed(rounds, run);
        taken.iter_mut().for_each(|ns| *ns = ns.saturating_sub(clock_ns));
        taken.sort_unstable();
        Self(taken)
    }

    /// The time that this part of them, from 0 to 1, did not exceed.
    #[must_use]
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a part of a length, from 0 to 1")]
    pub fn at(&self, part: f64) -> u64 {
        let place = (self.0.len() as f64 * part) as usize;
        self.0[place.min(self.0.len() - 1)]
    }
}

fn timed(rounds: usize, mut run: impl FnMut(usize)) -> Vec<u64> {
    let mut taken = Vec::with_capacity(rounds);
    for round in 0..rounds {
        let begun = Instant::now();
        run(round);
        taken.push(ns_since(begun));
    }
    taken
}

/// What reading the clock takes.
fn clock_ns(rounds: usize) -> u64 {
    let mut clock = timed(rounds.min(1 << 18), |_| ());
    clock.sort_unstable();
    clock[clock.len() / 2]
}

fn ns_since(begun: Instant) -> u64 {
    u64::try_from(begun.elapsed().as_nanos()).unwrap_or(u64::MAX)
}

/// Decisions from a table that knows the answer of this many pairs, a power of two, in an order without a pattern.
#[derive(Clone, Debug)]
pub struct Warm {
    /// As a shard decides about the messages of a batch: [`BATCH`] of them, each to another recipient.
    pub batch: Times,
    /// Each alone: every one waits for memory.
    pub alone: Times,
}

/// Messages of a batch.
pub const BATCH: usize = 16;

/// Measures them.
///
/// # Panics
/// When the table forgot what it has room for.
#[must_use]
pub fn warm(pair_count: usize) -> Warm {
    let (builder, agents) = agents(AGENT_COUNT);
    let snapshot = builder.build(1);
    let pairs = pairs(&agents, pair_count);
    let mut table = table(&snapshot, &pairs, 4 * pair_count);
    // Those that lost their place come back once; a second round finds all that stay.
    for (from, to) in &pairs {
        black_box(table.decide(&snapshot, NOW_MS, from, Action::SendMessage, to, 0).is_allowed());
    }
    // What is asked about comes with the message, in the order of messages: only the table is looked up at random.
    let asked: Vec<_> =
        (0..pair_count).map(|place| pairs[place.wrapping_mul(0x9e37_79b1) & (pair_count - 1)]).collect();
    let before = table.stats();
    let pair = |round: usize| asked[round & (pair_count - 1)];
    let table = std::cell::RefCell::new(table);
    let decide = |round| {
        let (from, to) = pair(round);
        black_box(table.borrow_mut().decide(&snapshot, NOW_MS, &from, Action::SendMessage, &to, 0).is_allowed());
    };
    let expect = |rounds: Range<usize>| {
        let batch = rounds.map(|round| &asked[round & (pair_count - 1)]);
        table.borrow().expect(batch.map(|(from, to)| (from, Action::SendMessage, to)));
    };
    let alone = Times::take(2 * pair_count, decide);
    let batch = Times::in_groups(2 * pair_count, BATCH, expect, decide);
    let misses = table.borrow().stats().misses - before.misses;
    assert!(misses * 100 < 4 * pair_count as u64, "the table is not warm: {misses} misses");
    Warm { batch, alone }
}

/// Decisions that no memory has an answer for, by the three policies of the product's documents in one.
///
/// # Panics
/// When the policy is not one.
#[must_use]
pub fn misses(rounds: usize) -> Times {
    let (mut builder, agents) = agents(AGENT_COUNT);
    let text = [ORGANIZATION, RATE, ROLE].concat();
    builder.set_policy(Some(Policy::Loaded(Arc::new(policy(&text)))));
    let snapshot = builder.build(1);
    let mut table = DecisionTable::new(4, LIFETIME_MS);
    Times::take(rounds, |round| {
        let (from, to) = (&agents[round % agents.len()], &agents[(round * 7 + 1) % agents.len()]);
        let recent_messages = u32::try_from(round % 2_000).expect("small");
        table.begin_turn();
        black_box(table.decide(&snapshot, NOW_MS, from, Action::SendMessage, to, recent_messages).is_allowed());
    })
}

/// A policy of an operator.
///
/// # Panics
/// When it is not one.
#[must_use]
pub fn policy(text: &str) -> RegoPolicy {
    RegoPolicy::new(PolicySource::parse("p.rego", text).expect("the documents' policies are policies"), text)
}

/// So many agents, and what makes a snapshot of them.
///
/// # Panics
/// Never.
#[must_use]
pub fn agents(agent_count: usize) -> (SnapshotBuilder, Vec<AgentId>) {
    let mut builder = SnapshotBuilder::with_policy(Policy::SameOrganization);
    let domain = TrustDomain::default();
    let version = KeyVersion {
        version: 1,
        key: KeyId([4; 16]),
        valid_from_ms: 0,
        valid_until_ms: u64::MAX,
        has_fn_dsa_512: false,
        replaced: None,
    };
    let agents = (0..agent_count)
        .map(|index| {
            let name = AgentName::parse(&format!("org-{}/agent-{index}", index % ORGANIZATION_COUNT));
            let name = name.expect("the name has the right form");
            let inserted = builder.insert_versions(&domain, &name, AgentState::Active, vec![version]);
            inserted.expect("one version makes an agent")
        })
        .collect();
    (builder, agents)
}

/// Pairs of one organization, in a fixed order without a pattern. A power of two of them.
///
/// # Panics
/// Never.
#[must_use]
pub fn pairs(agents: &[AgentId], pair_count: usize) -> Vec<(AgentId, AgentId)> {
    let mut state = 1_u64;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(state >> 40).expect("24 bits fit")
    };
    (0..pair_count)
        .map(|_| {
            let from = next() % agents.len();
            let to = (from + ORGANIZATION_COUNT * (next() % 100)) % agents.len();
            (agents[from], agents[to])
        })
        .collect()
}

/// A table that was asked about all of these.
///
/// # Panics
/// When one is not allowed.
#[must_use]
pub fn table(snapshot: &Snapshot, pairs: &[(AgentId, AgentId)], entries_max: usize) -> DecisionTable {
    let mut table = DecisionTable::new(entries_max, LIFETIME_MS);
    // As a node does it.
    creto_io::memory::prefer_huge_pages(table.memory());
    for (from, to) in pairs {
        assert!(table.decide(snapshot, NOW_MS, from, Action::SendMessage, to, 0).is_allowed());
    }
    table
}
