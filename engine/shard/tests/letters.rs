//! Messages that a consumer does not take, and dead letters: what the mailbox's owner asks, over any shard.
#![allow(clippy::unwrap_used, reason = "a test stops where it is wrong")]

#[allow(dead_code, reason = "each test file takes what it needs")]
mod fixture;

use std::sync::Arc;

use creto_envelope::deliver::{ConsumerAck, ConsumerNack, Nack};
use creto_envelope::letters::{
    DeadLetterChange, DeadLetterChanged, DeadLetterList, DeadLetterRead, DeadLetters, DeathCause, LetterChange,
    parse_dead_letter,
};
use creto_envelope::{AgentId, AgentState, EnvelopeView, FrameType, RejectCode};
use creto_policy::{Policy, SnapshotBuilder};
use creto_shard::{Event, Placement};
use creto_sim::agents::SimAgent;
use creto_store::{DiskError, MailboxesConfig, RedeliveryConfig, WalConfig};
use fixture::{CONTROL, Client, DELIVER, NOW, Node, id};

struct World {
    planner: SimAgent,
    executor: SimAgent,
}

/// Failed deliveries after which a message dies.
const DELIVERIES_MAX: u8 = 3;

impl World {
    fn new() -> Self {
        Self { planner: SimAgent::new("acme/planner", 1), executor: SimAgent::new("acme/executor", 2) }
    }

    /// Shards that keep no payload in memory if `cache_bytes` is zero.
    fn node(&self, shard_count: u16, cache_bytes: usize) -> Node {
        let redelivery = RedeliveryConfig { deliveries_max: DELIVERIES_MAX, ..RedeliveryConfig::default() };
        let mailboxes = MailboxesConfig { cache_bytes, redelivery, ..MailboxesConfig::default() };
        Node::start_sized(shard_count, &[&self.planner, &self.executor], false, &WalConfig::default(), &mailboxes)
    }

    /// A reader of the executor's mailbox, which was sent so many messages.
    fn reader(&self, node: &mut Node, shard: usize, messages: u8) -> Client {
        let sender = node.connect_as(0, &self.planner);
        let seal = |number: u8| self.planner.seal(&self.executor, id(number), NOW.unix_ms, &[number; 20]);
        let envelopes: Vec<_> = (1..=messages).map(seal).collect();
        node.submit(&sender, 1, &self.planner.sign(&envelopes, NOW.unix_ms));
        assert_eq!(node.acks(&sender), (1, vec![]));
        let reader = node.connect_as(shard, &self.executor);
        node.subscribe(&reader, &self.executor);
        reader
    }
}

fn nack(node: &mut Node, reader: &Client, messages: &[(u64, Nack)]) {
    node.frames(reader, DELIVER, |out| ConsumerNack { messages: messages.to_vec() }.encode(out));
    node.run();
}

/// Numbers of the messages that were pushed, and how often before.
fn pushed(node: &mut Node, reader: &Client) -> Vec<(u64, u8)> {
    node.deliveries(reader).iter().map(|(span, _)| (span.mailbox_sequence, span.attempt)).collect()
}

fn tick(node: &mut Node, monotonic_us: u64) {
    node.now.monotonic_us = monotonic_us;
    node.tick(monotonic_us);
    node.run();
}

fn list(node: &mut Node, owner: &Client, mailbox: AgentId, after: u64) -> DeadLetters {
    node.frames(owner, CONTROL, |out| DeadLetterList { mailbox, after, letters_max: 2 }.encode(out));
    node.run();
    DeadLetters::parse(&node.take(owner, FrameType::DeadLetters)[0]).unwrap()
}

fn numbers(letters: &DeadLetters) -> Vec<u64> {
    letters.letters.iter().map(|letter| letter.mailbox_sequence).collect()
}

fn change(node: &mut Node, owner: &Client, mailbox: AgentId, change: LetterChange, sequences: &[u64]) -> Option<u32> {
    let change = DeadLetterChange { mailbox, change, sequences: sequences.to_vec() };
    node.frames(owner, CONTROL, |out| change.encode(out));
    node.run();
    let answers = node.take(owner, FrameType::DeadLetterChanged);
    answers.first().map(|body| DeadLetterChanged::parse(body).unwrap().count)
}

#[test]
fn what_is_nacked_comes_again_after_its_pause_and_holds_up_nobody() {
    for (shard_count, shard) in [(1, 0), (3, 0), (3, 1), (3, 2)] {
        let world = World::new();
        let mut node = world.node(shard_count, 1 << 20);
        let reader = world.reader(&mut node, shard, 3);
        assert_eq!(pushed(&mut node, &reader), [(1, 0), (2, 0), (3, 0)]);
        nack(&mut node, &reader, &[(1, Nack::Later { delay_ms: 0 }), (2, Nack::Later { delay_ms: 2_500 })]);
        tick(&mut node, 999_999);
        assert_eq!(pushed(&mut node, &reader), []);
        tick(&mut node, 1_000_000);
        assert_eq!(pushed(&mut node, &reader), [(1, 1)]);
        tick(&mut node, 2_499_999);
        assert_eq!(pushed(&mut node, &reader), [], "never before what was asked for");
        tick(&mut node, 2_500_000);
        assert_eq!(pushed(&mut node, &reader), [(2, 1)]);
        node.frames(&reader, DELIVER, |out| ConsumerAck { sequences: vec![1, 2, 3] }.encode(out));
        node.run();
        assert_eq!(node.shards.iter().map(|shard| shard.log().mailboxes().messages()).sum::<u64>(), 0);
        assert_eq!(node.shards.iter().map(|shard| shard.counters().messages_nacked).sum::<u64>(), 2);
    }
}

#[test]
fn dead_letters_are_listed_read_replayed_and_purged_over_any_shard() {
    for (shard_count, shard, cache_bytes) in [(1, 0, 0), (3, 0, 0), (3, 1, 1 << 20), (3, 2, 0)] {
        let world = World::new();
        let mailbox = world.executor.id;
        let mut node = world.node(shard_count, cache_bytes);
        let reader = world.reader(&mut node, shard, 5);
        pushed(&mut node, &reader);
        let never = |sequence| (sequence, Nack::Never { reason: 40 + u16::try_from(sequence).unwrap() });
        nack(&mut node, &reader, &[never(4), never(2), never(3)]);
        assert!(node.rejects(&reader).is_empty());

        let page = list(&mut node, &reader, mailbox, 0);
        assert_eq!((page.total, numbers(&page)), (3, vec![2, 3]));
        let first = page.letters[0];
        assert_eq!((first.reason, first.cause, first.deliveries), (42, DeathCause::Rejected, 1));
        assert_eq!(first.died_ms, NOW.unix_ms);
        let page = list(&mut node, &reader, mailbox, 3);
        assert_eq!(numbers(&page), [4]);
        assert_eq!(numbers(&list(&mut node, &reader, mailbox, 4)), [0; 0]);

        node.frames(&reader, CONTROL, |out| DeadLetterRead { mailbox, mailbox_sequence: 3 }.encode(out));
        node.run();
        let body = &node.take(&reader, FrameType::DeadLetter)[0];
        let letter = parse_dead_letter(body).unwrap();
        let envelope = fixture::aligned(&body[letter.messages[0].envelope.clone()]);
        assert_eq!(world.executor.open(&EnvelopeView::parse(&envelope).unwrap()), [3; 20]);
        for sequence in [1, 99] {
            node.frames(&reader, CONTROL, |out| {
                DeadLetterRead { mailbox, mailbox_sequence: sequence }.encode(out);
            });
            node.run();
            assert_eq!(node.rejects(&reader), [RejectCode::UnknownDeadLetter]);
        }

        assert_eq!(change(&mut node, &reader, mailbox, LetterChange::Replay, &[2, 1, 4]), Some(2));
        assert_eq!(pushed(&mut node, &reader), [(2, 0), (4, 0)], "as if they had never been delivered");
        assert_eq!(change(&mut node, &reader, mailbox, LetterChange::Purge, &[1, 2, 3]), Some(1));
        assert_eq!(list(&mut node, &reader, mailbox, 0).total, 0);
        let count =
            |of: fn(&creto_shard::observe::Counters) -> u64| node.shards.iter().map(|s| of(s.counters())).sum::<u64>();
        assert_eq!(
            (count(|c| c.messages_dead), count(|c| c.messages_revived), count(|c| c.messages_settled)),
            (3, 2, 1)
        );
    }
}

#[test]
fn a_message_that_fails_too_often_dies_and_what_waits_behind_it_goes_on() {
    let world = World::new();
    let mut node = world.node(2, 1 << 20);
    let reader = world.reader(&mut node, 1, 2);
    let mut now_us = 0;
    for failed in 1..=u64::from(DELIVERIES_MAX) {
        assert_eq!(pushed(&mut node, &reader).last().unwrap().0, if failed == 1 { 2 } else { 1 });
        nack(&mut node, &reader, &[(1, Nack::Later { delay_ms: 0 })]);
        now_us += 60_000_000;
        tick(&mut node, now_us);
    }
    assert_eq!(pushed(&mut node, &reader), []);
    let page = list(&mut node, &reader, world.executor.id, 0);
    assert_eq!((page.letters[0].cause, page.letters[0].deliveries), (DeathCause::Deliveries, DELIVERIES_MAX));
    // Whoever subscribes next gets the other one alone.
    let next = node.connect_as(0, &world.executor);
    node.subscribe(&next, &world.executor);
    assert_eq!(pushed(&mut node, &next), [(2, 1)]);
}

#[test]
fn what_consumers_die_of_dies_itself_and_the_others_do_not() {
    let world = World::new();
    let mut node = world.node(2, 1 << 20);
    let mut reader = world.reader(&mut node, 0, 4);
    let mut now_us = 0;
    let mut seen = Vec::new();
    for _ in 0..DELIVERIES_MAX {
        seen.push(pushed(&mut node, &reader).into_iter().map(|(sequence, _)| sequence).collect::<Vec<_>>());
        node.event(reader.shard, Event::Disconnected { connection: reader.connection });
        node.run();
        now_us += 60_000_000;
        reader = node.connect_as(1, &world.executor);
        node.subscribe(&reader, &world.executor);
        tick(&mut node, now_us);
    }
    assert_eq!(seen, [vec![1, 2, 3, 4], vec![1, 2, 3, 4], vec![1]], "after two of them, one message at a time");
    assert_eq!(pushed(&mut node, &reader), [(2, 2), (3, 2), (4, 2)]);
    assert_eq!(numbers(&list(&mut node, &reader, world.executor.id, 0)), [1]);
}

#[test]
fn only_the_owner_asks_about_dead_letters_and_one_thing_at_a_time() {
    let world = World::new();
    let mut node = world.node(2, 0);
    let reader = world.reader(&mut node, 1, 1);
    let mailbox = world.executor.id;
    let stranger = node.connect_as(0, &world.planner);
    let nobody = node.connect(0);
    for (client, code) in [(&stranger, RejectCode::NotMailboxOwner), (&nobody, RejectCode::LoginRequired)] {
        node.frames(client, CONTROL, |out| DeadLetterList { mailbox, after: 0, letters_max: 1 }.encode(out));
        node.frames(client, CONTROL, |out| DeadLetterRead { mailbox, mailbox_sequence: 1 }.encode(out));
        let change = DeadLetterChange { mailbox, change: LetterChange::Purge, sequences: vec![1] };
        node.frames(client, CONTROL, |out| change.encode(out));
        node.run();
        assert_eq!(node.rejects(client), [code; 3]);
    }
    nack(&mut node, &reader, &[(1, Nack::Never { reason: 0 })]);
    node.hold_reads = true;
    for _ in 0..2 {
        node.frames(&reader, CONTROL, |out| DeadLetterRead { mailbox, mailbox_sequence: 1 }.encode(out));
    }
    node.run();
    assert_eq!(node.rejects(&reader), [RejectCode::FrameUnexpected], "the first one is not answered");
    node.hold_reads = false;
    node.run();
    assert_eq!(node.take(&reader, FrameType::DeadLetter).len(), 1);
    // On another stream it means nothing.
    node.frames(&reader, DELIVER, |out| DeadLetterRead { mailbox, mailbox_sequence: 1 }.encode(out));
    assert_eq!(node.rejects(&reader), [RejectCode::FrameUnexpected]);
}

#[test]
fn a_change_is_answered_when_it_is_durable_and_not_when_the_disk_fails() {
    let world = World::new();
    let mut node = world.node(1, 1 << 20);
    let reader = world.reader(&mut node, 0, 2);
    let mailbox = world.executor.id;
    nack(&mut node, &reader, &[(1, Nack::Never { reason: 0 }), (2, Nack::Never { reason: 0 })]);
    node.hold_disk = true;
    assert_eq!(change(&mut node, &reader, mailbox, LetterChange::Purge, &[1]), None);
    node.complete_disk(Ok(()));
    node.run();
    assert_eq!(node.take(&reader, FrameType::DeadLetterChanged).len(), 1);
    assert_eq!(change(&mut node, &reader, mailbox, LetterChange::Replay, &[2]), None);
    node.complete_disk(Err(DiskError::Io("broken".into())));
    node.run();
    assert_eq!(node.rejects(&reader), [RejectCode::ShardFenced]);
    assert_eq!(change(&mut node, &reader, mailbox, LetterChange::Replay, &[2]), None);
    assert_eq!(node.rejects(&reader), [RejectCode::ShardFenced]);
    node.frames(&reader, CONTROL, |out| DeadLetterRead { mailbox, mailbox_sequence: 2 }.encode(out));
    node.run();
    assert_eq!(node.rejects(&reader), [RejectCode::ShardFenced]);
}

#[test]
fn a_refusal_of_a_subscriber_that_was_replaced_counts_for_nothing() {
    let world = World::new();
    let mut node = world.node(2, 1 << 20);
    let old = world.reader(&mut node, 0, 1);
    assert_eq!(pushed(&mut node, &old), [(1, 0)]);
    let new = node.connect_as(1, &world.executor);
    node.subscribe(&new, &world.executor);
    assert_eq!(node.rejects(&old), [RejectCode::SubscriptionReplaced]);
    nack(&mut node, &old, &[(1, Nack::Never { reason: 0 })]);
    assert_eq!(list(&mut node, &new, world.executor.id, 0).total, 0);
    assert_eq!(pushed(&mut node, &new), [(1, 1)]);
    // Nor is anything that was never given to whoever speaks.
    nack(&mut node, &new, &[(7, Nack::Never { reason: 0 }), (7, Nack::Later { delay_ms: 1 })]);
    assert!(node.rejects(&new).is_empty());
}

#[test]
fn while_a_snapshot_has_lapsed_nobody_is_told_of_dead_letters_or_changes_them() {
    let world = World::new();
    let mailbox = world.executor.id;
    let mut node = world.node(3, 1 << 20);
    let reader = world.reader(&mut node, 1, 2);
    pushed(&mut node, &reader);
    nack(&mut node, &reader, &[(1, Nack::Never { reason: 7 })]);
    let mut builder = SnapshotBuilder::with_policy(Policy::SameOrganization);
    for agent in [&world.planner, &world.executor] {
        builder.insert(AgentState::Active, vec![Arc::clone(&agent.record)]).unwrap();
    }
    let snapshot = Arc::new(builder.build(7));
    let lapsed = Arc::new(snapshot.lapsed());
    let on = |node: &mut Node, shards: &[usize], snapshot: &Arc<creto_policy::Snapshot>| {
        shards.iter().for_each(|&shard| node.event(shard, Event::Snapshot(Arc::clone(snapshot))));
        node.run();
    };
    // On the shard of the connection, and on all others: one of them has the mailbox.
    for shards in [&[0, 1, 2][..], &[0, 2], &[1]] {
        on(&mut node, &[0, 1, 2], &snapshot);
        on(&mut node, shards, &lapsed);
        let owner = usize::from(Placement::new(3).owner(&mailbox).0);
        let is_denied = shards.contains(&1) || shards.contains(&owner);
        node.frames(&reader, CONTROL, |out| DeadLetterList { mailbox, after: 0, letters_max: 9 }.encode(out));
        node.run();
        node.frames(&reader, CONTROL, |out| DeadLetterRead { mailbox, mailbox_sequence: 1 }.encode(out));
        node.run();
        let no_change = DeadLetterChange { mailbox, change: LetterChange::Purge, sequences: vec![2] };
        node.frames(&reader, CONTROL, |out| no_change.encode(out));
        node.run();
        let wanted = if is_denied { vec![RejectCode::PolicyUnavailable; 3] } else { Vec::new() };
        assert_eq!(node.rejects(&reader), wanted, "{shards:?}, {owner}");
        let told: usize = [FrameType::DeadLetters, FrameType::DeadLetter, FrameType::DeadLetterChanged]
            .map(|frame_type| node.take(&reader, frame_type).len())
            .iter()
            .sum();
        assert_eq!(told, if is_denied { 0 } else { 3 });
    }
    on(&mut node, &[0, 1, 2], &snapshot);
    assert_eq!(numbers(&list(&mut node, &reader, mailbox, 0)), [1], "it is there still");
}
