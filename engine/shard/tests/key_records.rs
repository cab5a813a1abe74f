//! Key records that a shard does not have: who waits for them, who does not, and in which order they are answered.
#![allow(clippy::unwrap_used, reason = "a test stops where it is wrong")]

#[allow(dead_code, reason = "each test file takes what it needs")]
mod fixture;

use std::sync::Arc;

use creto_envelope::control::{KeyRecordRequest, Reject, RotationMode};
use creto_envelope::{AgentId, AgentState, FrameType, RejectCode, SignedKeyRecord};
use creto_policy::{KeyVersion, Policy, Replacement, Snapshot, SnapshotBuilder};
use creto_shard::limits::{KEY_RECORD_QUESTIONS_MAX, KEY_RECORD_WAIT_US_MAX, LOGIN_HELD_FRAMES_MAX, LOGIN_US_MAX};
use creto_shard::{Event, KeyRefused};
use creto_sim::agents::SimAgent;
use fixture::{CONTROL, Client, NOW, Node, SUBMIT, id};

const BUSY: KeyRefused = KeyRefused { code: RejectCode::Overloaded, retry_after_ms: 250 };

struct World {
    planner: SimAgent,
    executor: SimAgent,
    /// The executor with its next key.
    next: SimAgent,
}

impl World {
    fn new() -> Self {
        let executor = SimAgent::new("acme/executor", 2);
        let next = executor.with_next_key(2, 12);
        Self { planner: SimAgent::new("acme/planner", 1), executor, next }
    }

    /// A node whose control says nothing of its own accord.
    fn node(&self) -> Node {
        let mut node = Node::new(1, &[&self.planner, &self.executor]);
        node.hold_records = true;
        node
    }

    fn snapshot(&self, epoch: u64, change: impl FnOnce(&mut SnapshotBuilder)) -> Arc<Snapshot> {
        let mut builder = SnapshotBuilder::with_policy(Policy::SameOrganization);
        for agent in [&self.planner, &self.executor] {
            builder.insert(AgentState::Active, vec![Arc::clone(&agent.record)]).unwrap();
        }
        change(&mut builder);
        Arc::new(builder.build(epoch))
    }

    /// What control publishes once the executor has replaced its key.
    fn rotated(&self) -> Arc<Snapshot> {
        let replacement = Replacement { at_ms: NOW.unix_ms, mode: RotationMode::Planned };
        let next = KeyVersion::from(&self.next.record.record);
        self.snapshot(2, |builder| builder.replace_key(&self.executor.id, next, replacement, 9).unwrap())
    }
}

fn login(node: &mut Node, agent: &SimAgent) -> Client {
    let client = node.connect(0);
    node.frames(&client, CONTROL, |out| agent.login(&client.exporter).encode(out));
    client
}

/// Logs in on a node whose control answers at once.
fn logged_in(node: &mut Node, agent: &SimAgent) -> Client {
    node.hold_records = false;
    let client = node.connect_as(0, agent);
    node.hold_records = true;
    client
}

fn ask(node: &mut Node, client: &Client, agent: AgentId, version: u32) {
    node.frames(client, CONTROL, |out| KeyRecordRequest { agent, version }.encode(out));
}

fn answer(node: &mut Node, agent: &SimAgent) {
    refuse_or(node, agent, Ok(Arc::clone(&agent.record)));
}

fn refuse_or(node: &mut Node, agent: &SimAgent, answer: Result<Arc<SignedKeyRecord>, KeyRefused>) {
    let version = agent.record.record.version;
    let place = node.asked.iter().position(|asked| *asked == (0, agent.id, version)).expect("it was asked for");
    node.asked.remove(place);
    node.event(0, Event::KeyRecordAnswered { agent: agent.id, version, answer });
}

fn is_accepted(node: &mut Node, client: &Client) -> bool {
    !node.take(client, FrameType::LoginAccepted).is_empty()
}

/// What a client was answered on its control stream, in order: the version of a record, or a code.
fn answers(node: &mut Node, client: &Client) -> Vec<Result<u32, RejectCode>> {
    let (own, others): (Vec<_>, Vec<_>) =
        std::mem::take(&mut node.sent).into_iter().partition(|(connection, _)| *connection == client.connection);
    node.sent = others;
    own.iter()
        .map(|(_, sent)| match sent.frame_type {
            FrameType::LoginAccepted => Ok(0),
            FrameType::KeyRecordResponse => Ok(SignedKeyRecord::parse(&sent.body).unwrap().record.version),
            _ => Err(RejectCode::from_u16(Reject::parse(&sent.body).unwrap().code).unwrap()),
        })
        .collect()
}

#[test]
fn a_login_waits_for_its_record_and_everybody_else_goes_on() {
    let world = World::new();
    let mut node = world.node();
    let planner = logged_in(&mut node, &world.planner);
    let executor = login(&mut node, &world.executor);
    assert_eq!(node.asked, [(0, world.executor.id, 1)]);
    let envelope = world.planner.seal(&world.executor, id(1), NOW.unix_ms, b"meanwhile");
    node.submit(&planner, 1, &world.planner.sign(&[envelope], NOW.unix_ms));
    assert_eq!(node.acks(&planner), (1, vec![]));
    assert!(!is_accepted(&mut node, &executor) && node.rejects(&executor).is_empty());
    answer(&mut node, &world.executor);
    assert!(is_accepted(&mut node, &executor));
    node.subscribe(&executor, &world.executor);
    assert_eq!(node.deliveries(&executor).len(), 1);
}

#[test]
fn control_is_asked_once_for_a_record_however_many_wait_and_what_came_is_kept() {
    let world = World::new();
    let mut node = world.node();
    let clients: Vec<_> = (0..5).map(|_| login(&mut node, &world.executor)).collect();
    node.event(0, Event::Disconnected { connection: clients[0].connection });
    assert_eq!(node.asked.len(), 1);
    answer(&mut node, &world.executor);
    let accepted: Vec<_> = clients.iter().map(|client| is_accepted(&mut node, client)).collect();
    assert_eq!(accepted, [false, true, true, true, true], "the first is gone");
    let later = login(&mut node, &world.executor);
    assert!(is_accepted(&mut node, &later) && node.asked.is_empty());
}

#[test]
fn what_comes_behind_a_login_on_its_stream_is_handled_behind_it() {
    let world = World::new();
    let mut node = world.node();
    let client = login(&mut node, &world.executor);
    ask(&mut node, &client, world.executor.id, 0);
    node.frames(&client, CONTROL, |out| world.executor.login(&client.exporter).encode(out));
    assert_eq!(answers(&mut node, &client), []);
    node.frame(&client, SUBMIT, FrameType::SignedBatch, &[0; 8]);
    assert_eq!(answers(&mut node, &client), [Err(RejectCode::LoginRequired)], "another stream has no order to it");
    answer(&mut node, &world.executor);
    assert_eq!(answers(&mut node, &client), [Ok(0), Ok(1), Err(RejectCode::LoginAgain)]);
    // A stranger does not have the node keep as much as it likes: what is too much ends the connection, whatever it is.
    let further: [fn(&World, &Client, &mut Vec<u8>); 2] = [
        |world, _, out| KeyRecordRequest { agent: world.executor.id, version: 0 }.encode(out),
        |world, client, out| world.executor.login(&client.exporter).encode(out),
    ];
    for (frames, last) in [(LOGIN_HELD_FRAMES_MAX, further[0]), (LOGIN_HELD_FRAMES_MAX, further[1]), (1, further[1])] {
        // One login more takes most of the bytes that are kept.
        let held = if frames == 1 { further[1] } else { further[0] };
        let mut node = world.node();
        let stranger = login(&mut node, &world.planner);
        for _ in 0..frames {
            node.frames(&stranger, CONTROL, |out| held(&world, &stranger, out));
        }
        assert_eq!(answers(&mut node, &stranger), []);
        assert!(node.closed.is_empty());
        node.frames(&stranger, CONTROL, |out| last(&world, &stranger, out));
        assert_eq!(node.closed, [(stranger.connection, RejectCode::LoginRequired)]);
        // The answer to what it had asked for is for nobody.
        answer(&mut node, &world.planner);
        assert_eq!(answers(&mut node, &stranger), []);
    }
}

#[test]
fn who_waits_too_long_is_told_to_come_again_and_a_late_answer_harms_nobody() {
    let world = World::new();
    let mut node = world.node();
    let (client, reader) = (login(&mut node, &world.executor), login(&mut node, &world.executor));
    node.tick(NOW.monotonic_us + KEY_RECORD_WAIT_US_MAX - 1);
    assert_eq!(answers(&mut node, &client), []);
    node.tick(NOW.monotonic_us + KEY_RECORD_WAIT_US_MAX);
    for client in [&client, &reader] {
        assert_eq!(answers(&mut node, client), [Err(RejectCode::Overloaded)]);
    }
    // The answer that was lost comes after all; who comes again gets in by it.
    answer(&mut node, &world.executor);
    node.frames(&client, CONTROL, |out| world.executor.login(&client.exporter).encode(out));
    assert!(is_accepted(&mut node, &client));
}

#[test]
fn a_login_that_waits_is_not_closed_as_one_that_never_came() {
    let world = World::new();
    let mut node = world.node();
    let client = node.connect(0);
    node.now.monotonic_us += LOGIN_US_MAX - 1;
    node.frames(&client, CONTROL, |out| world.executor.login(&client.exporter).encode(out));
    node.tick(NOW.monotonic_us + LOGIN_US_MAX);
    assert!(node.closed.is_empty());
    answer(&mut node, &world.executor);
    assert!(is_accepted(&mut node, &client));
}

#[test]
fn a_login_that_control_cannot_serve_is_told_when_to_come_again_and_is_no_fault() {
    let world = World::new();
    let mut node = world.node();
    let client = login(&mut node, &world.executor);
    for _ in 0..40 {
        refuse_or(&mut node, &world.executor, Err(BUSY));
        let [body] = &node.take(&client, FrameType::Reject)[..] else { panic!("one answer") };
        let Reject { code, retry_after_ms, context } = Reject::parse(body).unwrap();
        assert_eq!((code, retry_after_ms, context), (BUSY.code.as_u16(), 250, world.executor.id.0));
        node.frames(&client, CONTROL, |out| world.executor.login(&client.exporter).encode(out));
    }
    assert!(node.closed.is_empty());
    answer(&mut node, &world.executor);
    assert!(is_accepted(&mut node, &client));
}

#[test]
fn whoever_may_not_act_any_more_when_the_record_comes_is_not_let_in() {
    let world = World::new();
    let mut node = world.node();
    let client = login(&mut node, &world.executor);
    let revoked = world.snapshot(2, |builder| assert!(builder.revoke(&world.executor.id, NOW.unix_ms)));
    node.event(0, Event::Snapshot(revoked));
    answer(&mut node, &world.executor);
    assert_eq!(answers(&mut node, &client), [Err(RejectCode::AgentRevoked)]);

    let mut node = world.node();
    let client = login(&mut node, &world.executor);
    node.event(0, Event::Drain);
    answer(&mut node, &world.executor);
    assert_eq!(answers(&mut node, &client), [Err(RejectCode::ShuttingDown)]);
}

#[test]
fn a_login_whose_signatures_do_not_hold_is_refused_when_the_record_is_there() {
    let world = World::new();
    let mut node = world.node();
    let client = node.connect(0);
    let mut forged = world.executor.login(&client.exporter);
    forged.ed25519[0] ^= 1;
    node.frames(&client, CONTROL, |out| forged.encode(out));
    answer(&mut node, &world.executor);
    assert_eq!(answers(&mut node, &client), [Err(RejectCode::LoginBadSignature)]);
}

#[test]
fn records_are_answered_in_the_order_of_the_questions() {
    let world = World::new();
    let mut node = world.node();
    let reader = logged_in(&mut node, &world.planner);
    ask(&mut node, &reader, world.executor.id, 0);
    ask(&mut node, &reader, AgentId([9; 16]), 0);
    ask(&mut node, &reader, world.planner.id, 1);
    ask(&mut node, &reader, world.executor.id, 7);
    ask(&mut node, &reader, world.executor.id, 1);
    assert_eq!(answers(&mut node, &reader), [], "the first one waits");
    assert_eq!(node.asked, [(0, world.executor.id, 1)], "and only for it control is asked");
    answer(&mut node, &world.executor);
    let (unknown, no_version) = (Err(RejectCode::UnknownAgent), Err(RejectCode::UnknownKeyVersion));
    assert_eq!(answers(&mut node, &reader), [Ok(1), unknown, Ok(1), no_version, Ok(1)]);
}

#[test]
fn a_question_that_control_cannot_serve_is_refused_in_its_place() {
    let world = World::new();
    let mut node = world.node();
    let reader = logged_in(&mut node, &world.planner);
    ask(&mut node, &reader, world.executor.id, 0);
    ask(&mut node, &reader, world.planner.id, 0);
    refuse_or(&mut node, &world.executor, Err(BUSY));
    assert_eq!(answers(&mut node, &reader), [Err(RejectCode::Overloaded), Ok(1)]);
    // It is asked for again, and no refusal is kept.
    ask(&mut node, &reader, world.executor.id, 0);
    answer(&mut node, &world.executor);
    assert_eq!(answers(&mut node, &reader), [Ok(1)]);
}

#[test]
fn once_a_key_is_replaced_the_one_before_it_is_not_handed_out_as_the_current_one() {
    let world = World::new();
    let mut node = world.node();
    let reader = logged_in(&mut node, &world.planner);
    ask(&mut node, &reader, world.executor.id, 0);
    ask(&mut node, &reader, world.executor.id, 1);
    node.event(0, Event::Snapshot(world.rotated()));
    answer(&mut node, &world.executor);
    assert_eq!(answers(&mut node, &reader), [], "the answer is that to another question by now");
    assert_eq!(node.asked, [(0, world.executor.id, 2)]);
    answer(&mut node, &world.next);
    assert_eq!(answers(&mut node, &reader), [Ok(2), Ok(1)]);
}

#[test]
fn whoever_asks_for_more_than_it_reads_is_told_so_at_once() {
    let world = World::new();
    let mut node = world.node();
    let reader = logged_in(&mut node, &world.planner);
    for _ in 0..KEY_RECORD_QUESTIONS_MAX {
        ask(&mut node, &reader, world.executor.id, 0);
    }
    assert_eq!(answers(&mut node, &reader), []);
    ask(&mut node, &reader, world.executor.id, 0);
    assert_eq!(answers(&mut node, &reader), [Err(RejectCode::Overloaded)]);
    assert_eq!(node.asked.len(), 1);
    answer(&mut node, &world.executor);
    assert_eq!(answers(&mut node, &reader), vec![Ok(1); KEY_RECORD_QUESTIONS_MAX]);
}

#[test]
fn batches_of_every_version_that_counts_are_taken_on_any_connection_and_control_is_not_asked() {
    for at_workers_max in [None, Some(4)] {
        let world = World::new();
        let mut node = Node::new(1, &[&world.planner, &world.executor]);
        if let Some(at_workers_max) = at_workers_max {
            node = node.with_workers(at_workers_max, 7);
        }
        let batch = |of: &SimAgent, number| {
            let envelope = of.seal(&world.planner, id(number), NOW.unix_ms, &[number; 20]);
            of.sign(&[envelope], NOW.unix_ms)
        };
        let before = logged_in(&mut node, &world.executor);
        node.submit(&before, 1, &batch(&world.executor, 1));
        node.submit(&before, 2, &batch(&world.next, 2));
        let unknown = vec![(creto_envelope::submit::WHOLE_BATCH, RejectCode::UnknownKeyVersion)];
        assert_eq!(node.acks(&before), (2, unknown), "nobody has published that version");
        node.event(0, Event::Snapshot(world.rotated()));
        // In the middle of the connection; and one that was signed before the key was replaced.
        node.arrive(&before, 3, &batch(&world.next, 3));
        node.arrive(&before, 4, &batch(&world.executor, 4));
        node.run();
        assert_eq!(node.acks(&before), (4, vec![]));
        node.know(&world.next);
        let after = logged_in(&mut node, &world.next);
        node.submit(&after, 1, &batch(&world.executor, 5));
        node.submit(&after, 2, &batch(&world.next, 6));
        assert_eq!(node.acks(&after), (2, vec![]));
        assert!(node.asked.is_empty());
        assert_eq!(node.shards[0].counters().messages_durable, 5);
    }
}

#[test]
fn the_keys_of_a_connection_verify_no_batch_of_another_signer_under_any_version() {
    let world = World::new();
    let mut node = world.node();
    node.event(0, Event::Snapshot(world.rotated()));
    let client = logged_in(&mut node, &world.executor);
    // The next version, signed by keys that are not the agent's.
    let thief = SimAgent::new("acme/executor", 9).with_next_key(9, 13);
    let envelope = thief.seal(&world.planner, id(1), NOW.unix_ms, b"forged");
    node.submit(&client, 1, &thief.sign(&[envelope], NOW.unix_ms));
    let bad = vec![(creto_envelope::submit::WHOLE_BATCH, RejectCode::BadSignature)];
    assert_eq!(node.acks(&client), (1, bad));
}
