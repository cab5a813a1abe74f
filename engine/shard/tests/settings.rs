//! What is set for a mailbox holds from the next snapshot on, wherever its mailbox and its senders are.
#![allow(clippy::unwrap_used, reason = "a test stops where it is wrong")]

#[allow(dead_code, reason = "each test file takes what it needs")]
mod fixture;

use std::sync::Arc;

use creto_envelope::deliver::{ConsumerAck, ConsumerNack, Nack};
use creto_envelope::{AgentState, RejectCode};
use creto_policy::{LowerRetention, MailboxSettings, Policy, SnapshotBuilder};
use creto_shard::limits::{RETENTION_MS, SESSION_OPENER_EXTRA_MS};
use creto_shard::{Event, Now};
use creto_sim::agents::SimAgent;
use fixture::{Client, DELIVER, NOW, Node, id};

const HOUR_MS: u64 = 3_600_000;

struct World {
    planner: SimAgent,
    executor: SimAgent,
    builder: SnapshotBuilder,
    epoch: u64,
}

impl World {
    fn new() -> (Self, Node) {
        let (planner, executor) = (SimAgent::new("acme/planner", 1), SimAgent::new("acme/executor", 2));
        let node = Node::new(2, &[&planner, &executor]);
        let mut builder = SnapshotBuilder::with_policy(Policy::SameOrganization);
        for agent in [&planner, &executor] {
            builder.insert(AgentState::Active, vec![Arc::clone(&agent.record)]).unwrap();
        }
        (Self { planner, executor, builder, epoch: 1 }, node)
    }

    /// Has control publish what is set for the executor's mailbox.
    fn set(&mut self, node: &mut Node, settings: MailboxSettings, lower: LowerRetention) {
        assert!(self.builder.set_mailbox(&self.executor.id, settings, lower));
        self.epoch += 1;
        let snapshot = Arc::new(self.builder.build(self.epoch));
        for shard in 0..node.shards.len() {
            node.event(shard, Event::Snapshot(Arc::clone(&snapshot)));
        }
        node.run();
    }

    /// Sends one message under each of these numbers, and says which were refused, and how.
    fn send(&self, node: &mut Node, client: &Client, sequence: u64, numbers: &[u8]) -> Vec<(u32, RejectCode)> {
        let seal = |&number: &u8| self.planner.seal(&self.executor, id(number), NOW.unix_ms, &[number; 20]);
        let envelopes: Vec<_> = numbers.iter().map(seal).collect();
        node.submit(client, sequence, &self.planner.sign(&envelopes, NOW.unix_ms));
        let (through, refused) = node.acks(client);
        assert_eq!(through, sequence);
        refused
    }
}

fn quota(messages_max: u32) -> MailboxSettings {
    MailboxSettings { messages_max: Some(messages_max), ..MailboxSettings::default() }
}

#[test]
fn a_quota_counts_from_the_next_message_and_drops_nothing_when_it_is_lowered() {
    // The sender's connection on the mailbox's shard, and on the other one.
    for shard in 0..2 {
        let (mut world, mut node) = World::new();
        let sender = node.connect_as(shard, &world.planner);
        assert_eq!(world.send(&mut node, &sender, 1, &[1, 2, 3]), []);
        world.set(&mut node, quota(2), LowerRetention::default());
        assert_eq!(world.send(&mut node, &sender, 2, &[4]), [(0, RejectCode::MailboxFull)]);

        let reader = node.connect_as(1 - shard, &world.executor);
        node.subscribe(&reader, &world.executor);
        let queued = node.deliveries(&reader);
        assert_eq!(queued.len(), 3, "what was queued stays");
        let sequences = queued.iter().map(|(span, _)| span.mailbox_sequence).collect();
        node.frames(&reader, DELIVER, |out| ConsumerAck { sequences }.encode(out));
        node.run();
        assert_eq!(world.send(&mut node, &sender, 3, &[5, 6, 7]), [(2, RejectCode::MailboxFull)]);
        world.set(&mut node, quota(3), LowerRetention::default());
        assert_eq!(world.send(&mut node, &sender, 4, &[8, 9]), [(1, RejectCode::MailboxFull)], "and is raised as soon");
        world.set(&mut node, MailboxSettings::default(), LowerRetention::default());
        assert_eq!(world.send(&mut node, &sender, 5, &[10, 11, 12]), [], "without one, the node's is in force");
    }
}

#[test]
fn a_quota_of_bytes_is_that_of_its_mailbox_alone() {
    let (mut world, mut node) = World::new();
    let settings = MailboxSettings { bytes_max: Some(2 << 20), ..MailboxSettings::default() };
    world.set(&mut node, settings, LowerRetention::default());
    let sender = node.connect_as(0, &world.planner);
    let seal = |to: &SimAgent, number| world.planner.seal(to, id(number), NOW.unix_ms, &vec![7; 900_000]);
    for (sequence, number) in (1..).zip([1, 2]) {
        node.submit(&sender, sequence, &world.planner.sign(&[seal(&world.executor, number)], NOW.unix_ms));
    }
    node.submit(&sender, 3, &world.planner.sign(&[seal(&world.executor, 3)], NOW.unix_ms));
    node.submit(&sender, 4, &world.planner.sign(&[seal(&world.planner, 4)], NOW.unix_ms));
    assert_eq!(node.acks(&sender), (4, vec![(0, RejectCode::MailboxFull)]), "the third does not fit, the fourth may");
}

/// When the only message of the executor's mailbox is over, in milliseconds from now.
fn lifetime_ms(node: &mut Node, candidates_ms: &[u64]) -> u64 {
    let owner = usize::from(node.shards[0].log().mailboxes().messages() == 0);
    let queued = |node: &Node| node.shards[owner].log().mailboxes().messages();
    assert_eq!(queued(node), 1);
    for &after_ms in candidates_ms {
        // The index knows seconds, rounded up.
        for (now_ms, left) in [(NOW.unix_ms + after_ms - 1, 1), (NOW.unix_ms + after_ms + 1_000, 0)] {
            let mut actions = Vec::new();
            let now = Now { unix_ms: now_ms, ..NOW };
            for _ in 0..2 {
                node.shards[owner].apply(now, Event::Tick, &mut actions);
            }
            node.shards[owner].end_turn(now, &mut actions);
            node.carry_out(owner, actions);
            node.run();
            if left == 0 && queued(node) == 0 {
                return after_ms;
            }
            assert!(left == 0 || queued(node) == 1, "it is over before {after_ms} ms");
        }
    }
    panic!("it is not over at any of {candidates_ms:?}")
}

#[test]
fn retention_counts_for_messages_that_are_admitted_from_then_on() {
    let candidates = [2 * HOUR_MS, RETENTION_MS, 30 * 24 * HOUR_MS];
    let set = |retention_s| MailboxSettings { retention_s, ..MailboxSettings::default() };
    for (before, after, expected_ms) in [
        (None, Some(7_200), 2 * HOUR_MS),
        (Some(7_200), None, RETENTION_MS),
        (Some(7_200), Some(30 * 86_400), 30 * 24 * HOUR_MS),
    ] {
        let (mut world, mut node) = World::new();
        world.set(&mut node, set(before), LowerRetention::default());
        world.set(&mut node, set(after), LowerRetention::default());
        let sender = node.connect_as(0, &world.planner);
        assert_eq!(world.send(&mut node, &sender, 1, &[1]), []);
        // What is set now is for others.
        world.set(&mut node, set(Some(3_600)), LowerRetention::default());
        assert_eq!(lifetime_ms(&mut node, &candidates), expected_ms);
    }
}

#[test]
fn what_needs_the_key_of_a_session_does_not_outlive_it_where_the_retention_was_raised() {
    let settings = MailboxSettings { retention_s: Some(30 * 86_400), ..MailboxSettings::default() };
    let lower = LowerRetention { retention_s: 7_200, until_ms: NOW.unix_ms + 1 };
    let candidates = [2 * HOUR_MS, 30 * 24 * HOUR_MS, 30 * 24 * HOUR_MS + SESSION_OPENER_EXTRA_MS];
    for (with_key, expected_ms) in [(false, candidates[0]), (true, candidates[2])] {
        let (mut world, mut node) = World::new();
        world.set(&mut node, settings, lower);
        let sender = node.connect_as(1, &world.planner);
        let mut session = world.planner.open_session(&world.executor);
        let envelope = session.seal(with_key, id(1), NOW.unix_ms, b"later");
        node.submit(&sender, 1, &world.planner.sign(&[envelope], NOW.unix_ms));
        assert_eq!(node.acks(&sender), (1, vec![]));
        assert_eq!(lifetime_ms(&mut node, &candidates), expected_ms);
    }
}

#[test]
fn a_mailbox_with_its_own_number_of_deliveries_gives_a_message_up_after_as_many() {
    for (own, dead) in [(Some(1), 1), (None, 0)] {
        let (mut world, mut node) = World::new();
        let settings = MailboxSettings { max_deliveries: own, ..MailboxSettings::default() };
        world.set(&mut node, settings, LowerRetention::default());
        let sender = node.connect_as(0, &world.planner);
        assert_eq!(world.send(&mut node, &sender, 1, &[1]), []);
        let reader = node.connect_as(1, &world.executor);
        node.subscribe(&reader, &world.executor);
        let sequence = node.deliveries(&reader)[0].0.mailbox_sequence;
        let messages = vec![(sequence, Nack::Later { delay_ms: 0 })];
        node.frames(&reader, DELIVER, |out| ConsumerNack { messages }.encode(out));
        node.run();
        assert_eq!(node.shards.iter().map(|shard| shard.counters().messages_dead).sum::<u64>(), dead, "{own:?}");
    }
}
