//! Decisions that shards keep against decisions made afresh, and against a model that knows no Rego, while policies, roles,
//! states, keys and the clock change: random, from seeds.
//!
//! `CRETO_DECISIONS` says how many, `CRETO_SEED` where the seeds begin; `scripts/decisions.sh` makes ten million.

mod model;
mod world;

use std::time::Instant;

use creto_envelope::{AgentState, RejectCode};
use creto_policy::{Action, Decision, DecisionTable, Snapshot, decide};
use model::Model;
use world::{Script, World};

const DECISIONS: u64 = 200_000;
const STEPS_PER_SEED: u64 = 2_000;

/// What a run found.
#[derive(Clone, Copy, Default, Debug)]
struct Found {
    decisions: u64,
    allowed: u64,
    hits: u64,
    answers_reused: u64,
    evaluations: u64,
    changes: u64,
    /// An evaluation ran into its limit, because the machine was busy: there is nothing to compare.
    unanswered: u64,
}

impl std::ops::AddAssign for Found {
    fn add_assign(&mut self, other: Self) {
        self.decisions += other.decisions;
        self.allowed += other.allowed;
        self.hits += other.hits;
        self.answers_reused += other.answers_reused;
        self.evaluations += other.evaluations;
        self.changes += other.changes;
        self.unanswered += other.unanswered;
    }
}

/// A shard's view and the same afresh: what one seed decides.
fn run(seed: u64, policies: &world::Policies) -> Result<Found, String> {
    let mut script = Script(seed);
    let mut world = World::new(&mut script, policies);
    let mut table = DecisionTable::new(script.pick(&[0, 4, 64, 1_024]), script.pick(&[0, 50, 1_000, u64::MAX]));
    let (mut kept, mut fresh): (Snapshot, Snapshot) = world.snapshots();
    let mut found = Found::default();
    for step in 0..STEPS_PER_SEED {
        if script.next(100) < 6 {
            found.changes += 1;
            world.change(&mut script, policies);
            // Not every change is seen at once.
            if script.next(4) > 0 {
                (kept, fresh) = world.publish();
            }
            continue;
        }
        table.begin_turn();
        let (sender, recipient) = (world.pick(&mut script), world.pick(&mut script));
        // Most of what agents send goes to whom they sent before.
        let usual = (world.first(), world.second());
        let (sender, recipient) = if script.next(3) > 0 { usual } else { (sender, recipient) };
        let action =
            script.pick(&[Action::SendMessage, Action::SendMessage, Action::SendMessage, Action::ReadDirectory]);
        let (action, recipient) = match script.next(4) {
            0 => (script.pick(&[Action::Publish, Action::SubscribeChannel]), World::pick_channel(&mut script)),
            _ => (action, recipient),
        };
        let recent = script.pick(&[0, 1, 999, 1_000, 1_001, 10_001]);
        let now_ms = world.now_ms;
        // As for a message of a batch, which says beforehand what it will ask.
        if step % 2 == 0 {
            table.expect(std::iter::once((&sender, action, &recipient)));
        }
        let by_shard = table.decide(&kept, now_ms, &sender, action, &recipient, recent);
        let afresh = decide(&fresh, now_ms, &sender, action, &recipient, recent);
        let unanswered = |decision| match decision {
            Decision::Deny(RejectCode::PolicyUnavailable) => fresh.policy().is_some(),
            Decision::Deny(RejectCode::Overloaded) => true,
            _ => false,
        };
        if unanswered(by_shard) || unanswered(afresh) {
            found.unanswered += 1;
            continue;
        }
        found.decisions += 1;
        found.allowed += u64::from(by_shard.is_allowed());
        let say = |what: &str, other: &dyn std::fmt::Debug| {
            let about = world.describe(&sender, &recipient);
            format!(
                "seed {seed}, step {step}: {action:?} {about}, recent {recent}: the shard says {by_shard:?}, {what} {other:?}"
            )
        };
        if by_shard != afresh {
            return Err(say("an evaluation", &afresh));
        }
        let wanted = Model::new(&fresh, world.published_policy()).decide(now_ms, &sender, action, &recipient, recent);
        if by_shard != wanted {
            return Err(say("the model", &wanted));
        }
    }
    let stats = table.stats();
    found.hits = stats.hits;
    found.answers_reused = stats.answers_reused;
    found.evaluations = stats.evaluations;
    Ok(found)
}

fn number(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(text.replace('_', "").parse().unwrap_or_else(|_| panic!("{variable} is a number, not {text}")))
}

#[test]
fn what_a_shard_keeps_is_what_the_policy_says_now_and_nothing_is_allowed_without_a_grant() {
    let wanted = number("CRETO_DECISIONS").unwrap_or(DECISIONS);
    let first = number("CRETO_SEED").unwrap_or(1);
    let begun = Instant::now();
    let policies = world::Policies::compile();
    let mut found = Found::default();
    let mut seed = first;
    while found.decisions < wanted {
        let one = run(seed, &policies).unwrap_or_else(|difference| {
            panic!(
                "{difference}\nagain: CRETO_SEED={seed} CRETO_DECISIONS=1 cargo test -p creto-service --test decisions"
            )
        });
        found += one;
        seed += 1;
    }
    let seconds = begun.elapsed().as_secs_f64();
    let Found { decisions, allowed, hits, answers_reused, evaluations, changes, unanswered } = found;
    println!(
        "{{\"decisions\": {decisions}, \"differences\": 0, \"allowed_without_grant\": 0, \"allowed\": {allowed}, \
         \"changes\": {changes}, \"from_table\": {hits}, \"answers_reused\": {answers_reused}, \
         \"evaluations\": {evaluations}, \"unanswered\": {unanswered}, \"first_seed\": {first}, \"seeds\": {}, \
         \"seconds\": {seconds:.1}}}",
        seed - first
    );
    assert!(unanswered * 10 < decisions, "most evaluations had no time: {found:?}");
    // Of one seed alone these need not hold.
    if decisions > 5 * STEPS_PER_SEED {
        assert!(allowed * 10 > decisions && allowed * 10 < decisions * 9, "nearly always the same answer: {found:?}");
        assert!(hits > 0 && answers_reused > 0 && evaluations > 0, "vacuous: {found:?}");
    }
}

/// The model is worth something only if it can be wrong.
#[test]
fn a_table_that_forgets_a_change_is_found() {
    let policies = world::Policies::compile();
    let differs = (1..50).any(|seed| {
        let mut script = Script(seed);
        let mut world = World::new(&mut script, &policies);
        let mut table = DecisionTable::new(1_024, u64::MAX);
        let (stale, _) = world.publish();
        (0..2_000).any(|_| {
            world.change(&mut script, &policies);
            let (_, fresh) = world.publish();
            let (sender, recipient) = (world.pick(&mut script), world.pick(&mut script));
            let (now_ms, action) = (world.now_ms, Action::SendMessage);
            table.begin_turn();
            let by_shard = table.decide(&stale, now_ms, &sender, action, &recipient, 0);
            let wanted = Model::new(&fresh, world.published_policy()).decide(now_ms, &sender, action, &recipient, 0);
            by_shard.is_allowed() && !wanted.is_allowed()
        })
    });
    assert!(differs, "no seed shows a decision that is out of date");
    assert_eq!(AgentState::Active as u8, 0, "an agent whose state is not set is active");
}
