//! Encryption keys that agents replace: who may, what the shard does meanwhile, and what is accepted afterwards.
#![allow(clippy::unwrap_used, reason = "a test stops where it is wrong")]

#[allow(dead_code, reason = "each test file takes what it needs")]
mod fixture;

use std::sync::Arc;

use creto_envelope::control::RotationMode::{self, Emergency, Planned};
use creto_envelope::control::{KeyRecordPublish, KeyRecordPublished, KeyRecordRequest, Reject};
use creto_envelope::{AgentState, FrameType, RejectCode, SignedKeyRecord};
use creto_policy::{KeyVersion, Policy, Replacement, Snapshot, SnapshotBuilder};
use creto_shard::{Event, KeyRefused, Now};
use creto_sim::agents::SimAgent;
use fixture::{CONTROL, Client, NOW, Node, SUBMIT, id};

const GRACE_MS: u64 = 1_000;

struct World {
    planner: SimAgent,
    /// The executor before and after it replaced its key.
    before: SimAgent,
    after: SimAgent,
}

impl World {
    fn new() -> Self {
        let before = SimAgent::new("acme/executor", 2);
        let after = before.with_next_key(2, 12);
        Self { planner: SimAgent::new("acme/planner", 1), before, after }
    }

    fn node(&self, shard_count: u16) -> Node {
        Node::new(shard_count, &[&self.planner, &self.before])
    }

    /// What control publishes once it has stored the new key.
    fn rotated(&self, mode: RotationMode) -> Arc<Snapshot> {
        let mut builder = SnapshotBuilder::with_policy(Policy::SameOrganization);
        builder.set_key_grace_ms(GRACE_MS);
        builder.insert(AgentState::Active, vec![Arc::clone(&self.planner.record)]).unwrap();
        let replaced = Some(Replacement { at_ms: NOW.unix_ms, mode });
        let (before, after) = (&self.before.record.record, &self.after.record.record);
        let versions = vec![KeyVersion { replaced, ..before.into() }, after.into()];
        builder.insert_versions(&before.trust_domain, &before.name, AgentState::Active, versions).unwrap();
        Arc::new(builder.build(2))
    }

    fn publish(&self, node: &mut Node, client: &Client) {
        publish(node, client, &self.after.record);
    }

    /// Sends a message from the planner to each of the executor's keys; what was refused.
    fn send_to_both(&self, node: &mut Node, client: &Client, sequence: u8) -> Vec<(u32, RejectCode)> {
        let at_ms = node.now.unix_ms;
        let envelopes = [(&self.before, 2 * sequence), (&self.after, 2 * sequence + 1)]
            .map(|(to, number)| self.planner.seal(to, id(number), at_ms, &[number; 20]));
        node.submit(client, sequence.into(), &self.planner.sign(&envelopes, at_ms));
        let (through, refused) = node.acks(client);
        assert_eq!(through, u64::from(sequence));
        refused
    }
}

fn publish(node: &mut Node, client: &Client, record: &SignedKeyRecord) {
    let publish = KeyRecordPublish { mode: Planned, record: record.clone() };
    node.frames(client, CONTROL, |out| publish.encode(out));
    node.run();
}

fn answer(node: &mut Node, client: &Client, answer: Result<u32, KeyRefused>) {
    node.event(client.shard, Event::KeyRecordPublished { connection: client.connection, answer });
}

fn published(node: &mut Node, client: &Client) -> Vec<u32> {
    let bodies = node.take(client, FrameType::KeyRecordPublished);
    bodies.iter().map(|body| KeyRecordPublished::parse(body).unwrap().version).collect()
}

fn later(ms: u64) -> Now {
    Now { unix_ms: NOW.unix_ms + ms, monotonic_us: NOW.monotonic_us + ms * 1_000 }
}

#[test]
fn a_published_record_goes_to_control_once_and_its_answer_back_to_whoever_published() {
    let world = World::new();
    let mut node = world.node(2);
    let client = node.connect_as(1, &world.before);
    world.publish(&mut node, &client);
    let [(shard, connection, agent, mode, record)] = &node.published[..] else { panic!("{:?}", node.published) };
    assert_eq!((*shard, *connection, *agent, *mode), (1, client.connection, world.before.id, Planned));
    assert_eq!(**record, *world.after.record);
    assert!(published(&mut node, &client).is_empty(), "nothing is said before control has it");
    answer(&mut node, &client, Ok(2));
    assert_eq!(published(&mut node, &client), [2]);
    assert!(node.rejects(&client).is_empty());
    assert_eq!(node.shards[1].counters().keys_replaced, 1);
}

#[test]
fn a_refusal_names_the_agent_and_says_when_to_come_again() {
    let world = World::new();
    let mut node = world.node(1);
    let client = node.connect_as(0, &world.before);
    for (code, retry_after_ms) in [(RejectCode::Overloaded, 250), (RejectCode::RotationVersion, 0)] {
        world.publish(&mut node, &client);
        answer(&mut node, &client, Err(KeyRefused { code, retry_after_ms }));
        let [body] = &node.take(&client, FrameType::Reject)[..] else { panic!("one answer") };
        let expect = Reject { code: code.as_u16(), retry_after_ms, context: world.before.id.0 };
        assert_eq!(Reject::parse(body), Ok(expect));
    }
    assert_eq!(node.published.len(), 2, "a refusal closes the question");
}

#[test]
fn one_record_at_a_time_is_on_its_way_and_the_next_one_after_its_answer() {
    let world = World::new();
    let mut node = world.node(1);
    let client = node.connect_as(0, &world.before);
    world.publish(&mut node, &client);
    world.publish(&mut node, &client);
    assert_eq!(node.rejects(&client), [RejectCode::FrameUnexpected]);
    assert_eq!(node.published.len(), 1, "control is asked once");
    answer(&mut node, &client, Ok(2));
    world.publish(&mut node, &client);
    assert_eq!(node.published.len(), 2);
}

#[test]
fn only_the_agent_itself_publishes_and_only_what_is_a_record() {
    let world = World::new();
    let mut node = world.node(1);
    let stranger = node.connect(0);
    world.publish(&mut node, &stranger);
    assert_eq!(node.rejects(&stranger), [RejectCode::LoginRequired]);
    let planner = node.connect_as(0, &world.planner);
    world.publish(&mut node, &planner);
    assert_eq!(node.rejects(&planner), [RejectCode::SenderMismatch]);
    node.frame(&planner, CONTROL, FrameType::KeyRecordPublish, &[0; 8]);
    node.frame(&planner, CONTROL, FrameType::KeyRecordPublish, &[2; 8]);
    assert_eq!(node.rejects(&planner), [RejectCode::FrameLength, RejectCode::FrameReserved]);
    node.frame(&planner, SUBMIT, FrameType::KeyRecordPublish, &[0; 8]);
    node.frame(&planner, CONTROL, FrameType::KeyRecordPublished, &[0; 8]);
    assert_eq!(node.rejects(&planner), [RejectCode::FrameUnexpected; 2]);
    assert!(node.published.is_empty());
}

#[test]
fn a_busy_node_is_no_reason_to_close_a_connection_and_a_flood_of_bad_records_is() {
    let world = World::new();
    let mut node = world.node(1);
    let client = node.connect_as(0, &world.before);
    for _ in 0..100 {
        world.publish(&mut node, &client);
        answer(&mut node, &client, Err(KeyRefused { code: RejectCode::Overloaded, retry_after_ms: 1_000 }));
    }
    assert!(node.closed.is_empty());
    for _ in 0..16 {
        assert!(node.closed.is_empty());
        world.publish(&mut node, &client);
        answer(&mut node, &client, Err(KeyRefused { code: RejectCode::RotationRecord, retry_after_ms: 0 }));
    }
    assert_eq!(node.closed, [(client.connection, RejectCode::RotationRecord)]);
}

#[test]
fn messages_and_questions_go_on_while_control_is_busy() {
    let world = World::new();
    let mut node = world.node(2);
    let executor = node.connect_as(0, &world.before);
    let planner = node.connect_as(0, &world.planner);
    world.publish(&mut node, &executor);
    let envelope = world.planner.seal(&world.before, id(1), NOW.unix_ms, b"meanwhile");
    node.submit(&planner, 1, &world.planner.sign(&[envelope], NOW.unix_ms));
    assert_eq!(node.acks(&planner), (1, vec![]));
    node.subscribe(&executor, &world.before);
    assert_eq!(node.deliveries(&executor).len(), 1);
    node.frames(&executor, CONTROL, |out| KeyRecordRequest { agent: world.before.id, version: 0 }.encode(out));
    assert_eq!(node.take(&executor, FrameType::KeyRecordResponse).len(), 1, "an answer may overtake an older one");
    answer(&mut node, &executor, Ok(2));
    assert_eq!(published(&mut node, &executor), [2]);
}

#[test]
fn an_answer_to_a_connection_that_is_gone_is_nobodys() {
    let world = World::new();
    let mut node = world.node(1);
    let client = node.connect_as(0, &world.before);
    world.publish(&mut node, &client);
    node.event(0, Event::Disconnected { connection: client.connection });
    answer(&mut node, &client, Ok(2));
    assert!(published(&mut node, &client).is_empty());
}

#[test]
fn a_draining_shard_waits_for_the_answer_and_takes_no_new_record() {
    let world = World::new();
    let mut node = world.node(1);
    let client = node.connect_as(0, &world.before);
    let late = node.connect_as(0, &world.before);
    world.publish(&mut node, &client);
    node.event(0, Event::Drain);
    node.run();
    assert!(!node.shards[0].is_drained());
    world.publish(&mut node, &late);
    assert_eq!(node.rejects(&late), [RejectCode::ShuttingDown]);
    answer(&mut node, &client, Ok(2));
    node.run();
    assert_eq!(published(&mut node, &client), [2]);
    assert!(node.shards[0].is_drained());
}

#[test]
fn a_replaced_key_is_accepted_until_its_grace_is_over_without_a_new_snapshot() {
    let world = World::new();
    let mut node = world.node(2);
    let client = node.connect_as(0, &world.planner);
    let no = [(0, RejectCode::UnknownRecipientKey)];
    assert_eq!(world.send_to_both(&mut node, &client, 1), [(1, RejectCode::UnknownRecipientKey)], "not yet published");
    for shard in 0..2 {
        node.event(shard, Event::Snapshot(world.rotated(Planned)));
    }
    assert_eq!(world.send_to_both(&mut node, &client, 2), []);
    node.now = later(GRACE_MS - 1);
    assert_eq!(world.send_to_both(&mut node, &client, 3), []);
    // The pair was decided a moment ago, and that decision still holds: it says nothing about keys.
    node.now = later(GRACE_MS);
    assert_eq!(world.send_to_both(&mut node, &client, 4), no);
}

#[test]
fn an_emergency_refuses_the_old_key_in_the_same_turn() {
    let world = World::new();
    let mut node = world.node(1);
    let client = node.connect_as(0, &world.planner);
    node.event(0, Event::Snapshot(world.rotated(Emergency)));
    assert_eq!(world.send_to_both(&mut node, &client, 1), [(0, RejectCode::UnknownRecipientKey)]);
}

#[test]
fn whoever_logs_in_with_an_older_version_may_do_what_the_agent_may() {
    let world = World::new();
    let mut node = world.node(1);
    node.event(0, Event::Snapshot(world.rotated(Planned)));
    node.know(&world.after);
    // Both sign with the same keys; only the version in the statement differs.
    for (login, number) in [(&world.before, 1), (&world.after, 2)] {
        let client = node.connect_as(0, login);
        let envelope = login.seal(&world.planner, id(number), NOW.unix_ms, b"from either");
        node.submit(&client, 1, &login.sign(&[envelope], NOW.unix_ms));
        assert_eq!(node.acks(&client), (1, vec![]));
        node.subscribe(&client, login);
        assert_eq!(node.take(&client, FrameType::Subscribed).len(), 1);
        node.frames(&client, CONTROL, |out| KeyRecordRequest { agent: login.id, version: 0 }.encode(out));
        let current = node.take(&client, FrameType::KeyRecordResponse);
        assert_eq!(SignedKeyRecord::parse(&current[0]).unwrap(), *world.after.record, "so it learns that it is behind");
    }
}
