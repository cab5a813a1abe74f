//! What a policy binds a sender to, on its shard: size, priority, rate, and a count of recent messages.
#![allow(clippy::unwrap_used, reason = "a test stops where it is wrong")]

#[allow(dead_code, reason = "each test file takes what it needs")]
mod fixture;

use std::sync::Arc;

use creto_envelope::submit::SubmitAck;
use creto_envelope::{AgentState, EnvelopeHeader, FrameType, Priority, RejectCode};
use creto_policy::{
    Answer, Evaluation, Evaluator, Input, Obligations, Policy, PolicySource, Priorities, Question, Reads, Snapshot,
    SnapshotBuilder,
};
use creto_shard::{Event, Now};
use creto_sim::agents::SimAgent;
use fixture::{Client, NOW, Node, id};

/// A policy that is a function.
#[derive(Clone, Debug)]
struct Played {
    reads: Reads,
    rule: fn(&Question<'_>) -> Answer,
    took_us: u64,
}

impl PolicySource for Played {
    fn digest(&self) -> &[u8; 32] {
        &[7; 32]
    }

    fn reads(&self) -> Reads {
        self.reads
    }

    fn evaluator(&self) -> Box<dyn Evaluator> {
        Box::new(self.clone())
    }
}

impl Evaluator for Played {
    fn evaluate(&mut self, question: &Question<'_>) -> Evaluation {
        Evaluation { answer: (self.rule)(question), took_us: self.took_us }
    }
}

struct World {
    planner: SimAgent,
    executor: SimAgent,
    node: Node,
    client: Client,
    sequence: u64,
    snapshot: Arc<Snapshot>,
}

impl World {
    fn new(reads: Reads, rule: fn(&Question<'_>) -> Answer) -> Self {
        Self::with(Played { reads, rule, took_us: 0 })
    }

    fn with(policy: Played) -> Self {
        let (planner, executor) = (SimAgent::new("acme/planner", 1), SimAgent::new("acme/executor", 2));
        let mut node = Node::new(2, &[&planner, &executor]);
        let mut builder = SnapshotBuilder::with_policy(Policy::Loaded(Arc::new(policy)));
        for agent in [&planner, &executor] {
            builder.insert(AgentState::Active, vec![Arc::clone(&agent.record)]).unwrap();
        }
        let snapshot: Arc<Snapshot> = Arc::new(builder.build(2));
        for shard in 0..node.shards.len() {
            node.event(shard, Event::Snapshot(Arc::clone(&snapshot)));
        }
        node.run();
        let client = node.connect_as(0, &planner);
        Self { planner, executor, node, client, sequence: 0, snapshot }
    }

    /// Sends one batch of such messages; says which were refused, how, and until when in milliseconds.
    fn send(&mut self, messages: &[(u8, usize, Priority)]) -> Vec<(u32, RejectCode, u32)> {
        let envelopes: Vec<_> = messages
            .iter()
            .map(|&(number, bytes, priority)| {
                let key_id = self.executor.record.record.key_id();
                let (from, to) = (self.planner.id, self.executor.id);
                let mut header = EnvelopeHeader::sealed(from, to, key_id, id(number), NOW.unix_ms, bytes).unwrap();
                header.priority = priority as u8;
                self.planner.seal_under(&self.executor, &header, &vec![number; bytes])
            })
            .collect();
        self.sequence += 1;
        self.node.submit(&self.client, self.sequence, &self.planner.sign(&envelopes, NOW.unix_ms));
        let mut refused = Vec::new();
        for body in self.node.take(&self.client, FrameType::SubmitAck) {
            let ack = SubmitAck::parse(&body).unwrap();
            assert_eq!(ack.through_sequence, self.sequence);
            let told = |result: &creto_envelope::submit::SubmitResult| {
                (result.index, RejectCode::from_u16(result.code).unwrap(), result.retry_after_ms())
            };
            refused.extend(ack.results.iter().map(told));
        }
        refused
    }
}

fn bound() -> Obligations {
    let priorities = Priorities::NONE.with(Priority::Low).with(Priority::Normal);
    Obligations { size_max: Some(100), priorities, ..Obligations::NONE }
}

#[test]
fn a_message_that_is_too_large_or_too_urgent_is_refused_alone() {
    let mut world = World::new(Reads::default(), |_| Answer::Allow(bound()));
    let refused = world.send(&[
        (1, 100, Priority::Normal),
        (2, 101, Priority::Normal),
        (3, 10, Priority::Critical),
        (4, 0, Priority::Low),
    ]);
    assert_eq!(refused, [(1, RejectCode::PolicySize, 0), (2, RejectCode::PolicyPriority, 0)]);
    assert_eq!(world.node.shards[0].counters().messages_authorized, 2);
}

#[test]
fn a_sender_above_its_rate_is_told_when_to_come_again_and_is_let_through_then() {
    let rate = |_: &Question<'_>| Answer::Allow(Obligations { messages_per_s: Some(4), ..Obligations::NONE });
    let mut world = World::new(Reads::default(), rate);
    let messages: Vec<_> = (1..=6).map(|number| (number, 10, Priority::Normal)).collect();
    let limited = |index| (index, RejectCode::RateLimited, 250);
    assert_eq!(world.send(&messages), [limited(4), limited(5)]);
    assert_eq!(world.send(&[(7, 10, Priority::Normal)]), [limited(0)], "refused ones take nothing");
    world.node.now = Now { monotonic_us: 500_000, ..NOW };
    let again = [(5, 10, Priority::Normal), (6, 10, Priority::Normal), (8, 10, Priority::Normal)];
    assert_eq!(world.send(&again), [limited(2)]);
}

#[test]
fn what_a_message_that_does_not_pass_would_take_of_the_rate_is_left() {
    let rate = |_: &Question<'_>| Answer::Allow(Obligations { messages_per_s: Some(2), ..bound() });
    let mut world = World::new(Reads::default(), rate);
    let large: Vec<_> = (1..=5).map(|number| (number, 200, Priority::Normal)).collect();
    assert_eq!(world.send(&large).len(), 5);
    assert_eq!(world.send(&[(6, 1, Priority::Low), (7, 1, Priority::Low)]), []);
}

#[test]
fn a_policy_that_counts_sees_what_was_accepted_in_the_last_minute() {
    let few = |question: &Question<'_>| match question.recent_messages {
        0..3 => Answer::Allow(Obligations::NONE),
        _ => Answer::Deny,
    };
    let mut world = World::new(Reads::default().with(Input::RecentMessages), few);
    let messages: Vec<_> = (1..=5).map(|number| (number, 10, Priority::Normal)).collect();
    let denied = |index| (index, RejectCode::PolicyDenied, 0);
    assert_eq!(world.send(&messages), [denied(3), denied(4)], "in one batch, to one recipient");
    assert_eq!(world.node.shards[0].recent_messages(world.node.now, &world.planner.id), 3);
    world.node.now = Now { monotonic_us: 59_000_000, ..NOW };
    assert_eq!(world.send(&[(6, 10, Priority::Normal)]), [denied(0)]);
    world.node.now = Now { monotonic_us: 60_000_000, ..NOW };
    assert_eq!(world.send(&[(7, 10, Priority::Normal)]), []);
}

#[test]
fn what_was_sent_before_a_snapshot_lapsed_counts_when_it_is_confirmed_again() {
    let few = |question: &Question<'_>| match question.recent_messages {
        0..3 => Answer::Allow(Obligations::NONE),
        _ => Answer::Deny,
    };
    let mut world = World::new(Reads::default().with(Input::RecentMessages), few);
    let messages: Vec<_> = (1..=3).map(|number| (number, 10, Priority::Normal)).collect();
    assert_eq!(world.send(&messages), []);
    let snapshot = Arc::clone(&world.snapshot);
    for now in [Arc::new(snapshot.lapsed()), snapshot] {
        for shard in 0..world.node.shards.len() {
            world.node.event(shard, Event::Snapshot(Arc::clone(&now)));
        }
        world.node.run();
    }
    assert_eq!(world.send(&[(4, 10, Priority::Normal)]), [(0, RejectCode::PolicyDenied, 0)]);
}

#[test]
fn a_slow_policy_ends_a_turn_with_refusals_that_can_be_tried_again() {
    let mut world = World::with(Played {
        reads: Reads::default().with(Input::RecentMessages),
        rule: |_| Answer::Allow(Obligations::NONE),
        took_us: 5_000,
    });
    let messages: Vec<_> = (1..=6).map(|number| (number, 10, Priority::Normal)).collect();
    let refused = world.send(&messages);
    assert_eq!(refused, [(4, RejectCode::Overloaded, 100), (5, RejectCode::Overloaded, 100)]);
    let decisions = world.node.shards[0].counters().decisions;
    assert_eq!((decisions.evaluations, decisions.evaluations_refused), (4, 2));
}
