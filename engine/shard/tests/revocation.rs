//! Agents that are suspended or revoked: their connections, what they submit, what they signed before and after.
#![allow(clippy::unwrap_used, reason = "a test stops where it is wrong")]

#[allow(dead_code, reason = "each test file takes what it needs")]
mod fixture;

use std::sync::Arc;

use creto_envelope::control::KeyRecordRequest;
use creto_envelope::letters::{
    DeadLetterChange, DeadLetterList, DeadLetters, DeathCause, LetterChange, REASON_SENDER_REVOKED,
};
use creto_envelope::{AgentState, FrameType, RejectCode, SignedKeyRecord};
use creto_policy::{Policy, Snapshot, SnapshotBuilder};
use creto_shard::observe::Counters;
use creto_shard::{Event, Placement};
use creto_sim::agents::SimAgent;
use fixture::{CONTROL, Client, NOW, Node, id};

/// When the sender was revoked, in the tests in which it is.
const REVOKED_MS: u64 = NOW.unix_ms - 1_000;

struct World {
    planner: SimAgent,
    executor: SimAgent,
}

impl World {
    fn new() -> Self {
        Self { planner: SimAgent::new("acme/planner", 1), executor: SimAgent::new("acme/executor", 2) }
    }

    fn node(&self, shard_count: u16) -> Node {
        Node::new(shard_count, &[&self.planner, &self.executor])
    }

    /// A snapshot in which this holds besides that both are known.
    fn snapshot(&self, epoch: u64, change: impl FnOnce(&mut SnapshotBuilder)) -> Arc<Snapshot> {
        let mut builder = SnapshotBuilder::with_policy(Policy::SameOrganization);
        for agent in [&self.planner, &self.executor] {
            builder.insert(AgentState::Active, vec![Arc::clone(&agent.record)]).unwrap();
        }
        change(&mut builder);
        Arc::new(builder.build(epoch))
    }

    fn submit(&self, node: &mut Node, sender: &Client, sequence: u64, numbers: std::ops::Range<u8>, signed_at_ms: u64) {
        let seal = |number: u8| self.planner.seal(&self.executor, id(number), NOW.unix_ms, &[number; 20]);
        let envelopes: Vec<_> = numbers.map(seal).collect();
        node.submit(sender, sequence, &self.planner.sign(&envelopes, signed_at_ms));
    }
}

fn publish(node: &mut Node, snapshot: &Arc<Snapshot>) {
    for shard in 0..node.shards.len() {
        node.event(shard, Event::Snapshot(Arc::clone(snapshot)));
    }
    node.run();
}

fn pushed(node: &mut Node, reader: &Client) -> Vec<u64> {
    node.deliveries(reader).iter().map(|(span, _)| span.mailbox_sequence).collect()
}

fn dead(node: &mut Node, owner: &Client, agent: &SimAgent) -> Vec<(u64, DeathCause, u16)> {
    let list = DeadLetterList { mailbox: agent.id, after: 0, letters_max: 100 };
    node.frames(owner, CONTROL, |out| list.encode(out));
    node.run();
    let page = DeadLetters::parse(&node.take(owner, FrameType::DeadLetters)[0]).unwrap();
    page.letters.iter().map(|letter| (letter.mailbox_sequence, letter.cause, letter.reason)).collect()
}

fn count(node: &Node, of: fn(&Counters) -> u64) -> u64 {
    node.shards.iter().map(|shard| of(shard.counters())).sum()
}

#[test]
fn a_new_snapshot_closes_the_connections_of_whoever_may_not_act_and_no_others() {
    for (state, code) in
        [(AgentState::Suspended, RejectCode::AgentSuspended), (AgentState::Revoked, RejectCode::AgentRevoked)]
    {
        let world = World::new();
        let mut node = world.node(3);
        let gone: Vec<_> = (0..3).map(|shard| node.connect_as(shard, &world.planner)).collect();
        let other = node.connect_as(1, &world.executor);
        // What arrived in the turn in which the snapshot comes is refused with the connection.
        let envelope = world.planner.seal(&world.executor, id(1), NOW.unix_ms, b"late");
        node.arrive(&gone[0], 1, &world.planner.sign(&[envelope], NOW.unix_ms));
        let snapshot = world.snapshot(2, |builder| assert!(builder.set_state(&world.planner.id, state)));
        publish(&mut node, &snapshot);
        let closed: Vec<_> = std::mem::take(&mut node.closed);
        assert_eq!(closed, gone.iter().map(|client| (client.connection, code)).collect::<Vec<_>>());
        assert_eq!(count(&node, |c| c.messages_durable), 0);

        // Nor does it come back, on any shard, as long as it may not.
        for shard in 0..3 {
            let again = node.connect(shard);
            node.frames(&again, CONTROL, |out| world.planner.login(&again.exporter).encode(out));
            assert_eq!(node.rejects(&again), [code]);
        }
        assert!(node.rejects(&other).is_empty());
        publish(&mut node, &world.snapshot(3, |_| ()));
        node.connect_as(2, &world.planner);
    }
}

#[test]
fn what_was_signed_before_a_revocation_is_delivered_and_what_was_signed_after_it_is_a_dead_letter() {
    for (shard_count, shard) in [(1, 0), (3, 0), (3, 1), (3, 2)] {
        let world = World::new();
        let mut node = world.node(shard_count);
        let sender = node.connect_as(0, &world.planner);
        // All of it is accepted: nobody knows yet that the keys were stolen a second ago.
        world.submit(&mut node, &sender, 1, 1..4, REVOKED_MS - 1);
        world.submit(&mut node, &sender, 2, 4..6, REVOKED_MS);
        world.submit(&mut node, &sender, 3, 6..7, NOW.unix_ms);
        assert_eq!(node.acks(&sender), (3, vec![]));
        let snapshot = world.snapshot(2, |builder| assert!(builder.revoke(&world.planner.id, REVOKED_MS)));
        publish(&mut node, &snapshot);
        assert_eq!(node.closed, [(sender.connection, RejectCode::AgentRevoked)]);

        let reader = node.connect_as(shard, &world.executor);
        node.subscribe(&reader, &world.executor);
        assert_eq!(pushed(&mut node, &reader), [1, 2, 3]);
        let void = |sequence| (sequence, DeathCause::Rejected, REASON_SENDER_REVOKED);
        assert_eq!(dead(&mut node, &reader, &world.executor), [4, 5, 6].map(void));
        assert_eq!((count(&node, |c| c.messages_void), count(&node, |c| c.messages_dead)), (3, 3));

        // Whoever wants it delivered all the same gets it into the dead letters again.
        let replay = DeadLetterChange { mailbox: world.executor.id, change: LetterChange::Replay, sequences: vec![5] };
        node.frames(&reader, CONTROL, |out| replay.encode(out));
        node.run();
        assert_eq!(node.take(&reader, FrameType::DeadLetterChanged).len(), 1);
        assert_eq!(pushed(&mut node, &reader), [0; 0]);
        assert_eq!(dead(&mut node, &reader, &world.executor), [4, 5, 6].map(void));
        assert_eq!(count(&node, |c| c.messages_void), 4);
    }
}

#[test]
fn a_revocation_between_two_pushes_stops_what_waits_for_credit() {
    let world = World::new();
    let mut node = world.node(2);
    let sender = node.connect_as(0, &world.planner);
    let reader = node.connect_as(1, &world.executor);
    node.frames(&reader, fixture::DELIVER, |out| {
        creto_envelope::deliver::Subscribe { mailbox: world.executor.id }.encode(out);
    });
    node.frames(&reader, fixture::DELIVER, |out| {
        creto_envelope::deliver::Credit { messages: 1, bytes: 1 << 20 }.encode(out);
    });
    world.submit(&mut node, &sender, 1, 1..4, NOW.unix_ms);
    assert_eq!(pushed(&mut node, &reader), [1]);
    let snapshot = world.snapshot(2, |builder| assert!(builder.revoke(&world.planner.id, REVOKED_MS)));
    publish(&mut node, &snapshot);
    node.frames(&reader, fixture::DELIVER, |out| {
        creto_envelope::deliver::Credit { messages: 10, bytes: 1 << 20 }.encode(out);
    });
    node.run();
    assert_eq!(pushed(&mut node, &reader), [0; 0]);
    assert_eq!(dead(&mut node, &reader, &world.executor).len(), 2);
}

#[test]
fn what_a_suspended_sender_sent_is_delivered() {
    let world = World::new();
    let mut node = world.node(2);
    let sender = node.connect_as(0, &world.planner);
    world.submit(&mut node, &sender, 1, 1..3, NOW.unix_ms);
    let suspended = world.snapshot(2, |builder| assert!(builder.set_state(&world.planner.id, AgentState::Suspended)));
    publish(&mut node, &suspended);
    let reader = node.connect_as(1, &world.executor);
    node.subscribe(&reader, &world.executor);
    assert_eq!(pushed(&mut node, &reader), [1, 2]);
    assert_eq!(count(&node, |c| c.messages_void), 0);
}

#[test]
fn the_mailboxes_shard_pushes_nothing_to_who_may_not_act_before_the_other_shards_have_heard() {
    let world = World::new();
    let mut node = world.node(2);
    let owner = usize::from(Placement::new(2).owner(&world.executor.id).0);
    let reader = node.connect_as(1 - owner, &world.executor);
    node.subscribe(&reader, &world.executor);
    let sender = node.connect_as(1 - owner, &world.planner);
    let suspended = world.snapshot(2, |builder| assert!(builder.set_state(&world.executor.id, AgentState::Suspended)));
    node.event(owner, Event::Snapshot(suspended));
    world.submit(&mut node, &sender, 1, 1..3, NOW.unix_ms);
    assert_eq!(node.acks(&sender), (1, vec![]), "it has a mailbox all the same");
    assert_eq!(pushed(&mut node, &reader), [0; 0]);
    // It is active again before the shard of its connection has heard of anything.
    publish(&mut node, &world.snapshot(3, |_| ()));
    assert_eq!(node.closed, []);
    assert_eq!(pushed(&mut node, &reader), [1, 2]);
}

#[test]
fn a_key_record_that_is_handed_out_says_whether_its_agent_may_act() {
    let world = World::new();
    let mut node = world.node(2);
    let reader = node.connect_as(1, &world.executor);
    let epochs = [AgentState::Active, AgentState::Suspended, AgentState::Active, AgentState::Revoked];
    for (state, epoch) in epochs.into_iter().zip(2..) {
        let snapshot = world.snapshot(epoch, |builder| assert!(builder.set_state(&world.planner.id, state)));
        publish(&mut node, &snapshot);
        for version in [0, 1] {
            let request = KeyRecordRequest { agent: world.planner.id, version };
            node.frames(&reader, CONTROL, |out| request.encode(out));
            let signed = SignedKeyRecord::parse(&node.take(&reader, FrameType::KeyRecordResponse)[0]).unwrap();
            assert_eq!(signed.record.state, state);
            // The node says that, not the agent: its signatures hold all the same.
            assert_eq!(signed.record.signed_bytes(), world.planner.record.record.signed_bytes());
        }
    }
}

#[test]
fn what_a_worker_still_verifies_when_its_sender_is_revoked_is_dropped() {
    let world = World::new();
    let mut node = world.node(2).with_workers(4, 1);
    let sender = node.connect_as(0, &world.planner);
    node.hold_verdicts = true;
    world.submit(&mut node, &sender, 1, 1..3, REVOKED_MS - 1);
    assert_eq!(node.jobs.len(), 1);
    let snapshot = world.snapshot(2, |builder| assert!(builder.revoke(&world.planner.id, REVOKED_MS)));
    publish(&mut node, &snapshot);
    node.hold_verdicts = false;
    node.run();
    assert_eq!((node.jobs.len(), count(&node, |c| c.messages_durable)), (0, 0), "it was not accepted before");
    assert_eq!(node.closed, [(sender.connection, RejectCode::AgentRevoked)]);
}

#[test]
fn a_snapshot_that_lapsed_denies_sending_reading_and_logging_in_until_it_is_confirmed() {
    for (shard_count, reads_at) in [(1, 0), (3, 1), (3, 2)] {
        let world = World::new();
        let mut node = world.node(shard_count);
        let sender = node.connect_as(0, &world.planner);
        let reader = node.connect_as(reads_at, &world.executor);
        node.subscribe(&reader, &world.executor);
        let snapshot = world.snapshot(7, |_| ());
        publish(&mut node, &snapshot);
        world.submit(&mut node, &sender, 1, 1..3, NOW.unix_ms);
        assert_eq!(node.acks(&sender), (1, vec![]), "the decision is kept");
        assert_eq!(pushed(&mut node, &reader), [1, 2]);

        publish(&mut node, &Arc::new(snapshot.lapsed()));
        world.submit(&mut node, &sender, 2, 3..4, NOW.unix_ms);
        assert_eq!(node.acks(&sender), (2, vec![(0, RejectCode::PolicyUnavailable)]));
        assert!(RejectCode::PolicyUnavailable.is_retryable(), "nobody is told that it will never be");
        assert_eq!(node.closed, [], "whoever is there waits");
        let late = node.connect(0);
        node.frames(&late, CONTROL, |out| world.executor.login(&late.exporter).encode(out));
        assert_eq!(node.rejects(&late), [RejectCode::PolicyUnavailable]);
        node.frames(&sender, CONTROL, |out| KeyRecordRequest { agent: world.executor.id, version: 0 }.encode(out));
        assert_eq!(node.rejects(&sender), [RejectCode::PolicyUnavailable]);

        // What arrived before and waits is not handed to whom nobody can vouch for any more.
        publish(&mut node, &snapshot);
        world.submit(&mut node, &sender, 3, 4..5, NOW.unix_ms);
        assert_eq!(node.acks(&sender), (3, vec![]));
        assert_eq!(pushed(&mut node, &reader), [3], "the same snapshot counts again");
    }
}

#[test]
fn what_waits_for_a_reader_waits_while_the_snapshot_has_lapsed() {
    let world = World::new();
    let mut node = world.node(2);
    let sender = node.connect_as(0, &world.planner);
    let snapshot = world.snapshot(7, |_| ());
    publish(&mut node, &snapshot);
    world.submit(&mut node, &sender, 1, 1..4, NOW.unix_ms);
    assert_eq!(node.acks(&sender), (1, vec![]));
    let reader = node.connect_as(1, &world.executor);
    node.frames(&reader, fixture::DELIVER, |out| {
        creto_envelope::deliver::Subscribe { mailbox: world.executor.id }.encode(out);
    });
    let credit = |node: &mut Node| {
        node.frames(&reader, fixture::DELIVER, |out| {
            creto_envelope::deliver::Credit { messages: 1, bytes: 1 << 20 }.encode(out);
        });
        node.run();
    };
    credit(&mut node);
    assert_eq!(pushed(&mut node, &reader), [1]);
    publish(&mut node, &Arc::new(snapshot.lapsed()));
    credit(&mut node);
    assert_eq!(pushed(&mut node, &reader), [0; 0]);
    publish(&mut node, &snapshot);
    assert_eq!(pushed(&mut node, &reader), [2]);
}
