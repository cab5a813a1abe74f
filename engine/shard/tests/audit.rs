//! What a shard tells the audit log: every event once, in order, and nothing before it is durable.
#![allow(clippy::unwrap_used, reason = "a test stops where it is wrong")]

#[allow(dead_code, reason = "each test file takes what it needs")]
mod fixture;

use std::sync::Arc;

use creto_audit::What;
use creto_audit::event::{Action as AuditAction, ChannelId, Code, KindOf, Peer};
use creto_audit::limits::TOLD_AT_ONCE_MAX;
use creto_envelope::control::KeyRecordRequest;
use creto_envelope::deliver::{ConsumerAck, ConsumerNack, Credit, Nack};
use creto_envelope::letters::{DeadLetterChange, LetterChange};
use creto_envelope::{AgentState, EnvelopeView, RejectCode};
use creto_policy::{Policy, SnapshotBuilder};
use creto_shard::limits::{AUDIT_EVENTS_MAX, AUDIT_EVENTS_RESUME};
use creto_shard::{AuditBatch, Event, events_of};
use creto_sim::agents::{SimAgent, SimBatch};
use creto_store::{DiskError, LogPlace, Position, WalConfig, read_behind};
use fixture::{CONTROL, Client, DELIVER, NOW, Node, id};

struct World {
    planner: SimAgent,
    executor: SimAgent,
    stranger: SimAgent,
}

const PEER: fn() -> Peer = || Peer::from(std::net::IpAddr::from([127, 0, 0, 1]));

impl World {
    fn new() -> Self {
        Self {
            planner: SimAgent::new("acme/planner", 1),
            executor: SimAgent::new("acme/executor", 2),
            stranger: SimAgent::new("other/stranger", 3),
        }
    }

    fn node(&self, config: &WalConfig) -> Node {
        Node::start_with(1, &[&self.planner, &self.executor, &self.stranger], false, config).with_audit()
    }

    fn batch(&self, to: &SimAgent, numbers: &[u8]) -> SimBatch {
        let seal = |&number: &u8| self.planner.seal(to, id(number), NOW.unix_ms, &[number; 20]);
        self.planner.sign(&numbers.iter().map(seal).collect::<Vec<_>>(), NOW.unix_ms)
    }

    fn accepted(&self, batch: &SimBatch, number: u8, sequence: u64) -> What {
        let envelopes = batch.envelopes.iter().map(|envelope| fixture::aligned(envelope));
        let envelope =
            envelopes.into_iter().find(|envelope| EnvelopeView::parse(envelope).unwrap().message_id() == id(number));
        let envelope = envelope.unwrap();
        let view = EnvelopeView::parse(&envelope).unwrap();
        What::Accepted {
            sender: self.planner.id,
            recipient: view.recipient(),
            message_id: id(number),
            channel: ChannelId::default(),
            sequence,
            envelope_bytes: u32::try_from(envelope.len()).unwrap(),
            key_version: 1,
            priority: view.priority() as u8,
            message_kind: view.kind() as u8,
        }
    }
}

/// What was told and not asked for yet, in order.
fn told(node: &mut Node) -> Vec<What> {
    node.run();
    node.tick(0);
    node.run();
    let events = node.keep_audit().into_iter().flat_map(|(_, batch)| batch.events);
    events
        .inspect(|event| assert!(!event.is_recovered() && event.time_ms() == NOW.unix_ms))
        .map(|event| event.what)
        .collect()
}

fn login(agent: &SimAgent, client: &Client) -> What {
    What::LoginAccepted { agent: agent.id, peer: PEER(), connection: client.connection.0, key_version: 1 }
}

#[test]
fn a_message_is_told_when_it_is_durable_and_when_its_consumer_has_it() {
    let world = World::new();
    let mut node = world.node(&WalConfig::default());
    assert_eq!(told(&mut node), [], "the shard had started before anybody followed");
    let (sender, reader) = (node.connect_as(0, &world.planner), node.connect_as(0, &world.executor));
    node.subscribe(&reader, &world.executor);
    let subscribed =
        What::Subscribed { agent: world.executor.id, channel: ChannelId::default(), connection: reader.connection.0 };
    assert_eq!(told(&mut node), [login(&world.planner, &sender), login(&world.executor, &reader), subscribed]);

    let batch = world.batch(&world.executor, &[1, 2]);
    node.hold_disk = true;
    node.submit(&sender, 1, &batch);
    assert_eq!(told(&mut node), [], "it is not durable yet");
    node.hold_disk = false;
    assert_eq!(told(&mut node), [world.accepted(&batch, 1, 1), world.accepted(&batch, 2, 2)]);

    node.frames(&reader, DELIVER, |out| ConsumerAck { sequences: vec![2] }.encode(out));
    let (mailbox, reason) = (world.executor.id, 9);
    assert_eq!(told(&mut node), [What::Delivered { mailbox, sequence: 2 }]);
    node.frames(&reader, DELIVER, |out| ConsumerNack { messages: vec![(1, Nack::Never { reason })] }.encode(out));
    let dead = told(&mut node);
    assert!(
        matches!(dead[..], [What::DeadLettered { mailbox: of, sequence: 1, reason: 9, .. }] if of == mailbox),
        "{dead:?}"
    );
    // A resend is nothing new.
    node.submit(&sender, 2, &batch);
    assert_eq!(told(&mut node), []);
}

#[test]
fn a_shard_that_drains_keeps_nothing_to_itself() {
    let world = World::new();
    let mut node = world.node(&WalConfig::default());
    let sender = node.connect_as(0, &world.planner);
    told(&mut node);
    node.event(0, Event::Drain);
    node.submit(&sender, 1, &world.batch(&world.executor, &[1]));
    node.run();
    let told: Vec<_> = node.audit.iter().flat_map(|(_, batch)| &batch.events).collect();
    assert_eq!(told.len(), 1, "without a tick: {told:?}");
}

#[test]
fn what_is_refused_is_told_once_for_each_reason_and_says_whom_it_was_for() {
    let world = World::new();
    let mut node = world.node(&WalConfig::default());
    let sender = node.connect_as(0, &world.planner);
    told(&mut node);
    node.submit(&sender, 1, &world.batch(&world.stranger, &[1, 2, 3]));
    let refused = |count, recipient, message_id, code| What::SubmitRefused {
        sender: world.planner.id,
        recipient,
        message_id,
        key_version: 1,
        count,
        code: Code::from(code),
    };
    assert_eq!(told(&mut node), [refused(3, world.stranger.id, id(1), RejectCode::PolicyDenied)]);

    let mut batch = world.batch(&world.executor, &[4, 5]);
    batch.header.ml_dsa_65[5] ^= 1;
    node.submit(&sender, 2, &batch);
    let forged = What::SignatureFailure {
        claimed: world.planner.id,
        sender: world.planner.id,
        peer: PEER(),
        key_version: 1,
        count: 2,
        code: RejectCode::BadSignature.into(),
    };
    assert_eq!(told(&mut node), [forged]);
}

#[test]
fn a_login_that_fails_is_told_with_who_it_was_said_to_be() {
    let world = World::new();
    let mut node = world.node(&WalConfig::default());
    let client = node.connect(0);
    let login = world.planner.login(&[9; 32]);
    node.frames(&client, CONTROL, |out| login.encode(out));
    let code = Code::from(RejectCode::LoginBadSignature);
    let failed = What::LoginFailed { claimed: world.planner.id, peer: PEER(), connection: client.connection.0, code };
    assert_eq!(told(&mut node), [failed]);
}

#[test]
fn who_may_not_act_any_more_is_told_with_the_connection_that_ends() {
    let world = World::new();
    let mut node = world.node(&WalConfig::default());
    let client = node.connect_as(0, &world.planner);
    told(&mut node);
    let mut builder = SnapshotBuilder::with_policy(Policy::SameOrganization);
    builder.insert(AgentState::Revoked, vec![Arc::clone(&world.planner.record)]).unwrap();
    node.event(0, Event::Snapshot(Arc::new(builder.build(2))));
    let closed = told(&mut node);
    assert!(
        matches!(closed[..], [What::ConnectionClosed { agent, connection, .. }]
            if agent == world.planner.id && connection == client.connection.0),
        "{closed:?}"
    );
}

#[test]
fn the_log_says_the_same_again() {
    let world = World::new();
    let mut node = world.node(&WalConfig::default());
    let (sender, reader) = (node.connect_as(0, &world.planner), node.connect_as(0, &world.executor));
    node.subscribe(&reader, &world.executor);
    node.submit(&sender, 1, &world.batch(&world.executor, &[1, 2, 3]));
    node.frames(&reader, DELIVER, |out| ConsumerAck { sequences: vec![1, 3] }.encode(out));
    let is_of_a_record = |what: &What| matches!(what, What::Accepted { .. } | What::Delivered { .. });
    let live: Vec<What> = told(&mut node).into_iter().filter(is_of_a_record).collect();
    let mut again = Vec::new();
    let mut source = node.source(0);
    let read =
        read_behind(&mut source, 0, LogPlace::default(), |_, record| events_of(&record, |what| again.push(what)));
    assert_eq!(read.unwrap().frames_missing, 0);
    again.retain(is_of_a_record);
    assert_eq!(again, live);
    assert_eq!(live.len(), 5);
}

#[test]
fn a_shard_that_is_not_heard_reads_nothing_more_until_it_is() {
    let world = World::new();
    let mut node = world.node(&WalConfig::default());
    let (sender, reader) = (node.connect_as(0, &world.planner), node.connect_as(0, &world.executor));
    node.subscribe(&reader, &world.executor);
    let numbers: Vec<u8> = (1..=200).collect();
    node.submit(&sender, 1, &world.batch(&world.executor, &numbers));
    told(&mut node);
    let mailbox = world.executor.id;
    let mut events = 0;
    while node.reading {
        // Each dies, and each is wanted again.
        let sequences: Vec<u64> = node.deliveries(&reader).iter().map(|(span, _)| span.mailbox_sequence).collect();
        assert_eq!(sequences.len(), numbers.len());
        let messages = sequences.iter().map(|sequence| (*sequence, Nack::Never { reason: 1 })).collect();
        node.frames(&reader, DELIVER, |out| ConsumerNack { messages }.encode(out));
        node.run();
        events += 2 * sequences.len() as u64;
        let replay = DeadLetterChange { mailbox, change: LetterChange::Replay, sequences };
        node.frames(&reader, CONTROL, |out| replay.encode(out));
        node.frames(&reader, DELIVER, |out| Credit { messages: 200, bytes: 1 << 20 }.encode(out));
        node.run();
        assert!(events <= AUDIT_EVENTS_MAX + 400, "it reads on");
    }
    assert!(events > AUDIT_EVENTS_MAX - 400, "it stopped after {events}");
    node.tick(0);
    node.run();
    let mut left: u64 = node.audit.iter().map(|(_, batch)| batch.events.len() as u64).sum();
    let batches: Vec<AuditBatch> = std::mem::take(&mut node.audit).into_iter().map(|(_, batch)| batch).collect();
    for AuditBatch { events, through } in batches {
        assert_eq!(node.reading, left <= AUDIT_EVENTS_RESUME, "with {left} left");
        left -= events.len() as u64;
        node.event(0, Event::Audited { events: events.len() as u64, through, spare: vec![events] });
        node.run();
    }
    assert!(node.reading);
}

#[test]
fn a_segment_is_kept_until_its_records_are_told_and_kept() {
    let world = World::new();
    let config = WalConfig { segment_bytes: 64 << 10, frame_bytes_max: 16 << 10, ..WalConfig::default() };
    let mut node = world.node(&config);
    let (sender, reader) = (node.connect_as(0, &world.planner), node.connect_as(0, &world.executor));
    node.subscribe(&reader, &world.executor);
    let settle_all = |node: &mut Node, first: u8| {
        for number in first..first + 60 {
            let batch = world.batch(&world.executor, &[number]);
            node.submit(&sender, u64::from(number), &batch);
            node.frames(&reader, DELIVER, |out| ConsumerAck { sequences: vec![u64::from(number)] }.encode(out));
        }
        node.run();
    };
    settle_all(&mut node, 1);
    let log_start = |node: &Node| node.shards[0].log().wal().log_start();
    assert_eq!(log_start(&node).0, 1, "nothing of it was kept");
    let through = |batches: &[(usize, AuditBatch)]| -> Option<Position> {
        batches.iter().filter_map(|(_, batch)| batch.through).max()
    };
    node.tick(0);
    node.run();
    let kept = through(&node.keep_audit()).unwrap();
    assert!(kept.segment.0 > 3, "vacuous");
    settle_all(&mut node, 61);
    assert_eq!(log_start(&node), kept.segment);
}

#[test]
fn the_memory_of_events_that_are_kept_is_used_for_those_that_come() {
    let world = World::new();
    let mut node = world.node(&WalConfig::default());
    let sender = node.connect_as(0, &world.planner);
    let tell = |node: &mut Node, number: u8| -> AuditBatch {
        node.submit(&sender, u64::from(number), &world.batch(&world.executor, &[number]));
        node.run();
        node.tick(0);
        node.run();
        let told = std::mem::take(&mut node.audit);
        assert_eq!(told.len(), 1);
        told.into_iter().next().unwrap().1
    };
    told(&mut node);
    let first = tell(&mut node, 1);
    let (place, count) = (first.events.as_ptr(), first.events.len() as u64);
    assert!(count > 0, "vacuous");
    node.event(0, Event::Audited { events: count, through: first.through, spare: vec![first.events] });
    let second = tell(&mut node, 2);
    assert_ne!(second.events.as_ptr(), place, "it was begun before the first was given back");
    let third = tell(&mut node, 3);
    assert_eq!(third.events.as_ptr(), place);
    assert!(
        third.events.iter().all(|event| !matches!(event.what, What::Accepted { sequence: 0, .. })),
        "nothing of before"
    );
}

/// Everybody is known, everything else as `change` says.
fn publish(node: &mut Node, world: &World, epoch: u64, policy: Policy, change: impl FnOnce(&mut SnapshotBuilder)) {
    let mut builder = SnapshotBuilder::with_policy(policy);
    for agent in [&world.planner, &world.executor, &world.stranger] {
        builder.insert(AgentState::Active, vec![Arc::clone(&agent.record)]).unwrap();
    }
    change(&mut builder);
    node.event(0, Event::Snapshot(Arc::new(builder.build(epoch))));
    node.run();
}

#[test]
fn a_message_that_is_not_handed_over_is_told_with_who_signed_it() {
    let world = World::new();
    let mut node = world.node(&WalConfig::default());
    let (sender, reader) = (node.connect_as(0, &world.planner), node.connect_as(0, &world.executor));
    node.submit(&sender, 1, &world.batch(&world.executor, &[1, 2]));
    publish(&mut node, &world, 2, Policy::SameOrganization, |builder| {
        assert!(builder.revoke(&world.planner.id, NOW.unix_ms));
    });
    told(&mut node);
    node.subscribe(&reader, &world.executor);
    let denied: Vec<_> =
        told(&mut node).into_iter().filter(|what| matches!(what, What::DeliveryDenied { .. })).collect();
    let of = |number: u8| What::DeliveryDenied {
        sender: world.planner.id,
        recipient: world.executor.id,
        message_id: id(number),
        sequence: u64::from(number),
        code: RejectCode::AgentRevoked.into(),
    };
    assert_eq!(denied, [of(1), of(2)]);
}

#[test]
fn the_last_that_a_shard_tells_is_that_its_log_is_sealed() {
    let world = World::new();
    let mut node = world.node(&WalConfig::default());
    let sender = node.connect_as(0, &world.planner);
    node.submit(&sender, 1, &world.batch(&world.executor, &[1]));
    told(&mut node);
    node.event(0, Event::Drain);
    node.run();
    node.event(0, Event::Seal);
    node.run();
    node.run();
    let events: Vec<_> = node.keep_audit().into_iter().flat_map(|(_, batch)| batch.events).collect();
    let end = node.shards[0].log().wal().end().unwrap();
    let stopped = What::ShardStopped { epoch: end.epoch.0, last_frame: end.position.lsn.0 };
    assert_eq!(events.iter().map(|event| event.what).collect::<Vec<_>>(), [stopped]);
}

#[test]
fn a_shard_whose_disk_failed_says_so_once() {
    let world = World::new();
    let mut node = world.node(&WalConfig::default());
    let sender = node.connect_as(0, &world.planner);
    told(&mut node);
    node.hold_disk = true;
    node.submit(&sender, 1, &world.batch(&world.executor, &[1]));
    node.complete_disk(Err(DiskError::Io("broken".to_owned())));
    node.hold_disk = false;
    node.submit(&sender, 2, &world.batch(&world.executor, &[2]));
    let epoch = node.shards[0].log().wal().epoch().0;
    let fenced: Vec<_> = told(&mut node).into_iter().filter(|what| matches!(what, What::ShardFenced { .. })).collect();
    assert_eq!(fenced, [What::ShardFenced { epoch }]);
}

#[test]
fn every_use_of_an_open_door_is_counted_for_who_used_it() {
    let world = World::new();
    let mut node = world.node(&WalConfig::default());
    let (sender, reader) = (node.connect_as(0, &world.planner), node.connect_as(0, &world.executor));
    node.subscribe(&reader, &world.executor);
    publish(&mut node, &world, 7, Policy::FailOpen, |_| ());
    told(&mut node);
    node.submit(&sender, 1, &world.batch(&world.executor, &[1, 2, 3]));
    node.submit(&sender, 2, &world.batch(&world.stranger, &[4]));
    let asked = KeyRecordRequest { agent: world.stranger.id, version: 0 };
    node.frames(&sender, CONTROL, |out| asked.encode(out));
    node.tick(2_000_000);
    let open: Vec<_> = told(&mut node).into_iter().filter(|what| matches!(what, What::FailOpenUsed { .. })).collect();
    let used = |action, object: &SimAgent, count| What::FailOpenUsed {
        subject: world.planner.id,
        object: object.id,
        epoch: 7,
        count,
        action,
    };
    let expected = [
        used(AuditAction::Send, &world.executor, 3),
        used(AuditAction::Send, &world.stranger, 1),
        used(AuditAction::ReadDirectory, &world.stranger, 1),
    ];
    assert_eq!(open.len(), expected.len(), "{open:?}");
    assert!(expected.iter().all(|wanted| open.contains(wanted)), "{open:?}");
    // The last uses are told when a policy is in force again.
    node.submit(&sender, 3, &world.batch(&world.executor, &[5]));
    publish(&mut node, &world, 8, Policy::SameOrganization, |_| ());
    assert!(told(&mut node).contains(&used(AuditAction::Send, &world.executor, 1)));
}

#[test]
fn a_flood_of_refusals_is_told_in_part_and_counted_in_whole() {
    let world = World::new();
    let mut node = world.node(&WalConfig::default());
    let sender = node.connect_as(0, &world.planner);
    told(&mut node);
    let (flood, batch) = (u64::from(TOLD_AT_ONCE_MAX) + 100, world.batch(&world.stranger, &[1, 2]));
    for sequence in 1..=flood {
        node.submit(&sender, sequence, &batch);
    }
    node.tick(2_000_000);
    let denied = Code::from(RejectCode::PolicyDenied);
    let (mut one_by_one, mut merged) = (0, 0);
    for what in told(&mut node) {
        match what {
            What::SubmitRefused { count, code, .. } if code == denied => one_by_one += count,
            What::EventsMerged { kind: KindOf(9), code, count, .. } if code == denied => merged += count,
            other => panic!("{other:?}"),
        }
    }
    assert_eq!((one_by_one, merged), (2 * TOLD_AT_ONCE_MAX, 200));
}
