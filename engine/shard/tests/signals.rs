//! Signals: pushed to whoever takes them at that moment, and in no log, no mailbox and no window, whoever reads and whichever shards
//! have a part in it.
#![allow(clippy::unwrap_used, reason = "a test stops where it is wrong")]

#[allow(dead_code, reason = "each test file takes what it needs")]
mod fixture;

use std::sync::Arc;

use bytes::Bytes;
use creto_envelope::deliver::{Credit, Subscribe};
use creto_envelope::envelope::{
    FLAG_DELIVERED_WANTED, FLAG_EPHEMERAL, FLAG_NOTICE_WANTED, FLAG_PREKEY, FLAG_RECEIPT_WANTED, Kind,
};
use creto_envelope::limits::SIGNAL_CREDIT_MAX;
use creto_envelope::signal::{SignalCredit, parse_signals};
use creto_envelope::{AgentState, EnvelopeHeader, EnvelopeView, FrameType, MessageId, RejectCode};
use creto_policy::{Policy, SnapshotBuilder};
use creto_shard::{Event, Now, Placement};
use creto_sim::agents::SimAgent;
use fixture::{Client, DELIVER, NOW, Node, aligned, id};

const SECOND_MS: u64 = 1_000;

struct World {
    planner: SimAgent,
    executor: SimAgent,
}

impl World {
    fn new() -> Self {
        let world = Self { planner: SimAgent::new("acme/planner", 1), executor: SimAgent::new("acme/executor", 2) };
        assert_ne!(owner(&world.planner), owner(&world.executor), "two shards have a part in it");
        world
    }

    fn node(&self) -> Node {
        Node::new(2, &[&self.planner, &self.executor])
    }

    fn header(&self, number: u8, bytes: usize) -> EnvelopeHeader {
        let key_id = self.executor.record.record.key_id();
        EnvelopeHeader::sealed(self.planner.id, self.executor.id, key_id, id(number), NOW.unix_ms, bytes).unwrap()
    }

    /// A signal of the planner that means something for ten seconds.
    fn signal(&self, number: u8) -> Vec<u8> {
        self.changed(number, |_| ())
    }

    fn changed(&self, number: u8, change: impl FnOnce(&mut EnvelopeHeader)) -> Vec<u8> {
        let mut header = self.header(number, 3);
        (header.flags, header.ttl_s) = (FLAG_EPHEMERAL, 10);
        change(&mut header);
        self.planner.seal_under(&self.executor, &header, &[number; 3])
    }

    fn message(&self, number: u8) -> Vec<u8> {
        self.planner.seal_under(&self.executor, &self.header(number, 3), &[number; 3])
    }

    fn submit(&self, node: &mut Node, client: &Client, sequence: u64, envelopes: &[Vec<u8>]) {
        node.submit(client, sequence, &self.planner.sign(envelopes, NOW.unix_ms));
    }

    /// The executor reads its mailbox, and takes so many signals.
    fn listen(&self, node: &mut Node, shard: usize, signals: u32) -> Client {
        let client = node.connect_as(shard, &self.executor);
        node.subscribe(&client, &self.executor);
        allow(node, &client, signals);
        client
    }

    fn publish(&self, node: &mut Node, planner: AgentState, executor: AgentState) {
        let mut builder = SnapshotBuilder::with_policy(Policy::SameOrganization);
        builder.insert(planner, vec![Arc::clone(&self.planner.record)]).unwrap();
        builder.insert(executor, vec![Arc::clone(&self.executor.record)]).unwrap();
        let snapshot = Arc::new(builder.build(9));
        for shard in 0..node.shards.len() {
            node.event(shard, Event::Snapshot(Arc::clone(&snapshot)));
        }
        node.run();
    }
}

fn owner(agent: &SimAgent) -> usize {
    usize::from(Placement::new(2).owner(&agent.id).0)
}

fn allow(node: &mut Node, client: &Client, signals: u32) {
    if signals > 0 {
        node.frames(client, DELIVER, |out| SignalCredit { signals }.encode(out));
        node.run();
    }
}

/// The signals that a client was pushed, and what they say.
fn pushed(node: &mut Node, client: &Client, to: &SimAgent) -> Vec<(MessageId, Vec<u8>)> {
    let mut pushed = Vec::new();
    for body in node.take(client, FrameType::Signal) {
        for span in parse_signals(&body).unwrap().messages {
            let envelope: Bytes = aligned(&body[span.envelope.clone()]);
            let view = EnvelopeView::parse(&envelope).unwrap();
            pushed.push((view.message_id(), to.open(&view)));
        }
    }
    pushed
}

fn numbers(pushed: &[(MessageId, Vec<u8>)]) -> Vec<u8> {
    pushed.iter().map(|(_, plaintext)| plaintext[0]).collect()
}

/// Signals that were accepted, pushed, dropped, on all shards.
fn counts(node: &Node) -> (u64, u64, u64) {
    let counters = || node.shards.iter().map(|shard| shard.counters());
    (
        counters().map(|counters| counters.signals_accepted).sum(),
        counters().map(|counters| counters.signals_pushed).sum(),
        counters().map(|counters| counters.signals_dropped).sum(),
    )
}

#[test]
fn a_signal_reaches_whoever_listens_on_any_shard_without_the_disk() {
    for (from, to) in [(0, 0), (0, 1), (1, 0), (1, 1)] {
        let world = World::new();
        let mut node = world.node();
        let (sender, reader) = (node.connect_as(from, &world.planner), world.listen(&mut node, to, 8));
        let before: Vec<_> = node.shards.iter().map(|shard| shard.log().wal().appended()).collect();
        node.hold_disk = true;
        world.submit(&mut node, &sender, 1, &[world.signal(1), world.signal(2)]);
        assert_eq!(node.acks(&sender), (1, vec![]), "nothing is waited for");
        assert_eq!(pushed(&mut node, &reader, &world.executor), [(id(1), vec![1; 3]), (id(2), vec![2; 3])]);
        let after: Vec<_> = node.shards.iter().map(|shard| shard.log().wal().appended()).collect();
        assert!(before == after && node.disk.is_empty(), "nothing of it is in a log");
        assert_eq!(node.shards.iter().map(|shard| shard.log().mailboxes().messages()).sum::<u64>(), 0);
        assert_eq!(counts(&node), (2, 2, 0));
    }
}

#[test]
fn after_a_restart_there_is_nothing_of_a_signal_nobody_read() {
    let world = World::new();
    let mut node = world.node();
    let sender = node.connect_as(0, &world.planner);
    world.submit(&mut node, &sender, 1, &[world.signal(1), world.message(2)]);
    assert_eq!(node.acks(&sender), (1, vec![]));
    let agents = [&world.planner, &world.executor];
    let snapshot = creto_sim::agents::snapshot(agents);
    let mut node = node.restarted(&agents, &snapshot);
    let reader = world.listen(&mut node, 1, 8);
    assert_eq!(numbers(&pushed(&mut node, &reader, &world.executor)), [0; 0]);
    let delivered = node.deliveries(&reader);
    assert_eq!(delivered.len(), 1);
    let view = EnvelopeView::parse(&delivered[0].1).unwrap();
    assert_eq!((delivered[0].0.mailbox_sequence, world.executor.open(&view)), (1, vec![2; 3]));
}

#[test]
fn its_sender_is_answered_the_same_whoever_is_there() {
    let answers = [None, Some(0), Some(1), Some(8)].map(|listening| {
        let world = World::new();
        let mut node = world.node();
        if let Some(signals) = listening {
            world.listen(&mut node, 1, signals);
        }
        let sender = node.connect_as(0, &world.planner);
        node.raw.clear();
        // One turn: its answer does not come later where somebody listens, or where nobody does.
        node.submit(&sender, 1, &world.planner.sign(&[world.signal(1), world.signal(2)], NOW.unix_ms));
        let mut raw = std::mem::take(&mut node.raw);
        raw.retain(|(connection, _)| *connection == sender.connection);
        raw.into_iter().map(|(_, bytes)| bytes).collect::<Vec<_>>()
    });
    assert!(!answers[0].is_empty());
    assert!(answers.iter().all(|answer| *answer == answers[0]), "{answers:?}");
}

#[test]
fn a_reader_is_pushed_what_it_takes_and_the_rest_is_gone() {
    let world = World::new();
    let mut node = world.node();
    let (sender, reader) = (node.connect_as(0, &world.planner), world.listen(&mut node, 1, 3));
    let signals: Vec<_> = (1..=5).map(|number| world.signal(number)).collect();
    world.submit(&mut node, &sender, 1, &signals);
    assert_eq!(node.acks(&sender), (1, vec![]));
    assert_eq!(numbers(&pushed(&mut node, &reader, &world.executor)), [1, 2, 3]);
    allow(&mut node, &reader, 2);
    assert_eq!(numbers(&pushed(&mut node, &reader, &world.executor)), [0; 0], "nobody kept the others");
    world.submit(&mut node, &sender, 2, &[world.signal(6)]);
    assert_eq!(numbers(&pushed(&mut node, &reader, &world.executor)), [6]);
    assert_eq!(counts(&node), (6, 4, 2));
}

#[test]
fn a_reader_that_never_asked_is_pushed_none() {
    let world = World::new();
    let mut node = world.node();
    let (sender, reader) = (node.connect_as(0, &world.planner), world.listen(&mut node, 1, 0));
    world.submit(&mut node, &sender, 1, &[world.signal(1)]);
    assert_eq!(node.take(&reader, FrameType::Signal).len(), 0);
    assert_eq!(counts(&node), (1, 0, 1));
}

#[test]
fn signals_and_messages_of_a_batch_go_their_own_ways_and_are_answered_together_when_the_messages_are_durable() {
    let world = World::new();
    let mut node = world.node();
    let sender = node.connect_as(0, &world.planner);
    let reader = node.connect_as(1, &world.executor);
    node.frames(&reader, DELIVER, |out| Subscribe { mailbox: world.executor.id }.encode(out));
    // Room for one message: signals take none of it.
    node.frames(&reader, DELIVER, |out| Credit { messages: 1, bytes: 1 << 20 }.encode(out));
    allow(&mut node, &reader, 8);
    node.hold_disk = true;
    world.submit(&mut node, &sender, 1, &[world.signal(1), world.message(2), world.signal(3)]);
    world.submit(&mut node, &sender, 2, &[world.signal(4)]);
    assert_eq!(numbers(&pushed(&mut node, &reader, &world.executor)), [1, 3, 4], "signals wait for no sync");
    assert_eq!(node.acks(&sender), (0, vec![]), "and an answer covers all before it");
    assert_eq!(node.deliveries(&reader).len(), 0);
    node.hold_disk = false;
    node.complete_disk(Ok(()));
    node.run();
    assert_eq!(node.acks(&sender), (2, vec![]));
    let delivered = node.deliveries(&reader);
    assert_eq!(
        delivered.iter().map(|(span, _)| (span.mailbox_sequence, span.leaf_index)).collect::<Vec<_>>(),
        [(1, 1)]
    );
}

#[test]
fn signals_are_in_no_window_of_ids() {
    let world = World::new();
    let mut node = world.node();
    let (sender, reader) = (node.connect_as(0, &world.planner), world.listen(&mut node, 1, 256));
    world.submit(&mut node, &sender, 1, &[world.message(1)]);
    // Nobody knows a signal again but its recipient; and a message under the same id is stored.
    for sequence in 2..=4 {
        world.submit(&mut node, &sender, sequence, &[world.signal(2)]);
    }
    world.submit(&mut node, &sender, 5, &[world.message(2)]);
    assert_eq!(node.acks(&sender), (5, vec![]));
    assert_eq!(numbers(&pushed(&mut node, &reader, &world.executor)), [2, 2, 2]);
    world.submit(&mut node, &sender, 6, &[world.message(1), world.message(2)]);
    let duplicate = RejectCode::Duplicate;
    assert_eq!(node.acks(&sender), (6, vec![(0, duplicate), (1, duplicate)]));
    assert_eq!(node.deliveries(&reader).iter().map(|(span, _)| span.mailbox_sequence).collect::<Vec<_>>(), [1, 2]);
}

#[test]
fn whom_policy_does_not_let_send_sends_no_signal() {
    let (stranger, world) = (SimAgent::new("other/agent", 3), World::new());
    let mut node = Node::new(2, &[&world.planner, &world.executor, &stranger]);
    let (sender, reader) = (node.connect_as(0, &stranger), world.listen(&mut node, 1, 8));
    let header = EnvelopeHeader { sender: stranger.id.0, flags: FLAG_EPHEMERAL, ttl_s: 10, ..world.header(1, 3) };
    let envelope = stranger.seal_under(&world.executor, &header, &[1; 3]);
    node.submit(&sender, 1, &stranger.sign(&[envelope], NOW.unix_ms));
    assert_eq!(node.acks(&sender), (1, vec![(0, RejectCode::PolicyDenied)]));
    assert_eq!(node.take(&reader, FrameType::Signal).len(), 0);
    assert_eq!(counts(&node), (0, 0, 0));
}

#[test]
fn a_signal_whose_time_is_over_or_has_not_begun_is_refused() {
    let world = World::new();
    let mut node = world.node();
    let (sender, reader) = (node.connect_as(0, &world.planner), world.listen(&mut node, 1, 8));
    let at = |number, timestamp_ms| world.changed(number, |header| header.timestamp_ms = timestamp_ms);
    let envelopes = [
        at(1, NOW.unix_ms - 10 * SECOND_MS),
        at(2, NOW.unix_ms - 10 * SECOND_MS + 1),
        at(3, NOW.unix_ms + 60 * SECOND_MS),
        at(4, NOW.unix_ms + 60 * SECOND_MS + 1),
        at(5, u64::MAX),
        at(6, 0),
    ];
    world.submit(&mut node, &sender, 1, &envelopes);
    let late = RejectCode::SignalTime;
    assert_eq!(node.acks(&sender), (1, vec![(0, late), (3, late), (4, late), (5, late)]));
    assert_eq!(numbers(&pushed(&mut node, &reader, &world.executor)), [2, 3]);
}

#[test]
fn what_was_late_on_its_way_to_another_shard_is_dropped_and_its_sender_told_the_same() {
    let world = World::new();
    let mut node = world.node();
    let from = owner(&world.planner);
    let (sender, reader) = (node.connect_as(from, &world.planner), world.listen(&mut node, 1, 8));
    node.arrive(&sender, 1, &world.planner.sign(&[world.signal(1)], NOW.unix_ms));
    let mut actions = Vec::new();
    node.shards[from].end_turn(NOW, &mut actions);
    node.now = Now { unix_ms: NOW.unix_ms + 10 * SECOND_MS, ..NOW };
    node.carry_out(from, actions);
    node.run();
    assert_eq!((node.acks(&sender), node.take(&reader, FrameType::Signal).len()), ((1, vec![]), 0));
    assert_eq!(counts(&node), (1, 0, 1));
}

#[test]
fn every_flag_beside_it_every_other_kind_and_every_other_life_is_refused_with_its_code() {
    let world = World::new();
    let mut node = world.node();
    let (sender, reader) = (node.connect_as(0, &world.planner), world.listen(&mut node, 1, 8));
    let reserved = RejectCode::EnvelopeReserved;
    let (mut envelopes, mut expected) = (Vec::new(), Vec::new());
    for flags in [FLAG_RECEIPT_WANTED, FLAG_NOTICE_WANTED, FLAG_PREKEY, FLAG_DELIVERED_WANTED] {
        envelopes.push(world.changed(0, |header| header.flags |= flags));
        expected.push(reserved);
    }
    for kind in [Kind::Request, Kind::Response, Kind::Receipt, Kind::SessionOpen, Kind::Control] {
        envelopes.push(world.changed(0, |header| header.kind = kind as u8));
        expected.push(reserved);
    }
    for ttl_s in [0, 61, u32::MAX] {
        envelopes.push(world.changed(0, |header| header.ttl_s = ttl_s));
        expected.push(RejectCode::EnvelopeSignal);
    }
    let large = EnvelopeHeader { flags: FLAG_EPHEMERAL, ttl_s: 10, ..world.header(0, 4_097) };
    envelopes.push(world.planner.seal_under(&world.executor, &large, &[0; 4_097]));
    expected.push(RejectCode::EnvelopeSignal);
    envelopes.push(world.signal(9));
    world.submit(&mut node, &sender, 1, &envelopes);
    assert_eq!(node.acks(&sender), (1, (0..).zip(expected).collect()));
    assert_eq!(
        numbers(&pushed(&mut node, &reader, &world.executor)),
        [9],
        "those beside them are signals all the same"
    );
}

#[test]
fn nobody_is_pushed_a_signal_who_may_not_act_nor_one_of_a_sender_who_may_not() {
    use AgentState::{Active, Revoked, Suspended};
    for (planner, executor) in [(Active, Revoked), (Active, Suspended), (Revoked, Active), (Suspended, Active)] {
        let world = World::new();
        let mut node = world.node();
        let from = owner(&world.planner);
        let (sender, reader) = (node.connect_as(from, &world.planner), world.listen(&mut node, 1, 8));
        node.arrive(&sender, 1, &world.planner.sign(&[world.signal(1)], NOW.unix_ms));
        let mut actions = Vec::new();
        node.shards[from].end_turn(NOW, &mut actions);
        // The mailbox's shard hears of it before the signal comes.
        world.publish(&mut node, planner, executor);
        node.carry_out(from, actions);
        node.run();
        assert_eq!(node.take(&reader, FrameType::Signal).len(), 0, "{planner:?}, {executor:?}");
        assert_eq!(counts(&node).1, 0);
    }
}

#[test]
fn a_new_subscription_begins_without_the_credit_of_the_one_before() {
    let world = World::new();
    let mut node = world.node();
    let (sender, first) = (node.connect_as(0, &world.planner), world.listen(&mut node, 1, 8));
    let second = world.listen(&mut node, 0, 0);
    // What the first still grants is nobody's.
    allow(&mut node, &first, 8);
    world.submit(&mut node, &sender, 1, &[world.signal(1)]);
    assert_eq!((node.take(&first, FrameType::Signal).len(), node.take(&second, FrameType::Signal).len()), (0, 0));
    allow(&mut node, &second, 1);
    world.submit(&mut node, &sender, 2, &[world.signal(2)]);
    assert_eq!(numbers(&pushed(&mut node, &second, &world.executor)), [2]);
    node.event(second.shard, Event::Disconnected { connection: second.connection });
    world.submit(&mut node, &sender, 3, &[world.signal(3)]);
    assert_eq!((node.acks(&sender), counts(&node)), ((3, vec![]), (3, 1, 2)));
}

#[test]
fn credit_is_for_subscribers_and_within_its_limit() {
    let world = World::new();
    let mut node = world.node();
    let reader = node.connect_as(1, &world.executor);
    allow(&mut node, &reader, 1);
    assert_eq!(node.rejects(&reader), [RejectCode::FrameUnexpected]);
    node.subscribe(&reader, &world.executor);
    allow(&mut node, &reader, SIGNAL_CREDIT_MAX + 1);
    assert_eq!(node.rejects(&reader), [RejectCode::CreditExceeded]);
    // More in all than the limit is the limit.
    allow(&mut node, &reader, SIGNAL_CREDIT_MAX);
    allow(&mut node, &reader, SIGNAL_CREDIT_MAX);
    let sender = node.connect_as(0, &world.planner);
    for sequence in 1..=2 {
        let signals: Vec<_> = (1..=200).map(|number| world.signal(number)).collect();
        world.submit(&mut node, &sender, sequence, &signals);
    }
    assert_eq!(pushed(&mut node, &reader, &world.executor).len(), SIGNAL_CREDIT_MAX as usize);
    assert_eq!(counts(&node), (400, 256, 144));
}

#[test]
fn a_turn_pushes_so_many_signals_and_no_more() {
    let world = World::new();
    let readers: Vec<SimAgent> = (10..16).map(|seed| SimAgent::new(&format!("acme/reader-{seed}"), seed)).collect();
    let agents: Vec<&SimAgent> = readers.iter().chain([&world.planner]).collect();
    let mut node = Node::new(1, &agents);
    let sender = node.connect_as(0, &world.planner);
    for reader in &readers {
        let client = node.connect_as(0, reader);
        node.subscribe(&client, reader);
        allow(&mut node, &client, SIGNAL_CREDIT_MAX);
    }
    for (sequence, reader) in (1..).zip(&readers) {
        let key_id = reader.record.record.key_id();
        let envelopes: Vec<_> = (1..=250)
            .map(|number| {
                let (from, to) = (world.planner.id, reader.id);
                let header = EnvelopeHeader::sealed(from, to, key_id, id(number), NOW.unix_ms, 0).unwrap();
                let header = EnvelopeHeader { flags: FLAG_EPHEMERAL, ttl_s: 10, ..header };
                world.planner.seal_under(reader, &header, &[])
            })
            .collect();
        node.arrive(&sender, sequence, &world.planner.sign(&envelopes, NOW.unix_ms));
    }
    node.run();
    assert_eq!(node.acks(&sender), (6, vec![]));
    assert_eq!(counts(&node), (1_500, 1_024, 476));
}

#[test]
fn the_audit_log_hears_of_refused_signals_and_of_no_other() {
    let world = World::new();
    let mut node = world.node().with_audit();
    let (sender, _reader) = (node.connect_as(0, &world.planner), world.listen(&mut node, 1, 8));
    node.tick(5_000_000);
    node.run();
    node.keep_audit();
    world.submit(&mut node, &sender, 1, &[world.signal(1)]);
    let told = |node: &mut Node| node.keep_audit().iter().map(|(_, batch)| batch.events.len()).sum::<usize>();
    node.tick(10_000_000);
    node.run();
    assert_eq!(told(&mut node), 0);
    let late = world.changed(2, |header| header.timestamp_ms = 0);
    world.submit(&mut node, &sender, 2, &[late]);
    node.tick(20_000_000);
    node.run();
    assert_eq!(told(&mut node), 1);
}
