//! Whoever sent a message that expired is told, before the message is forgotten, on whichever shards the two mailboxes are.
#![allow(clippy::unwrap_used, reason = "a test stops where it is wrong")]

#[allow(dead_code, reason = "each test file takes what it needs")]
mod fixture;

use std::sync::Arc;

use creto_envelope::deliver::{ConsumerAck, Credit, Subscribe};
use creto_envelope::envelope::FLAG_NOTICE_WANTED;
use creto_envelope::notice::{NOTICE_BODY_BYTES, Notice, NoticeBody, NoticeCause};
use creto_envelope::{AgentState, EnvelopeHeader, FrameType};
use creto_policy::{LowerRetention, MailboxSettings, Policy, Snapshot, SnapshotBuilder};
use creto_shard::limits::RETENTION_MS;
use creto_shard::{Event, Now, Placement};
use creto_sim::agents::SimAgent;
use creto_store::{DiskError, MailboxesConfig, WalConfig};
use fixture::{Client, DELIVER, NOW, Node, id};

const SECOND_MS: u64 = 1_000;

struct World {
    planner: SimAgent,
    executor: SimAgent,
}

impl World {
    fn new() -> Self {
        Self { planner: SimAgent::new("acme/planner", 1), executor: SimAgent::new("acme/executor", 2) }
    }

    /// A node of two shards, which keep no payload in memory when they are to read it back.
    fn node(&self, reads_back: bool) -> Node {
        let cache_bytes = if reads_back { 0 } else { 1 << 20 };
        let mailboxes = MailboxesConfig { cache_bytes, ..MailboxesConfig::default() };
        Node::start_sized(2, &[&self.planner, &self.executor], false, &WalConfig::default(), &mailboxes)
    }

    fn owner(agent: &SimAgent) -> usize {
        usize::from(Placement::new(2).owner(&agent.id).0)
    }

    /// Sends a message of the planner that is worthless after `ttl_s`.
    fn send(&self, node: &mut Node, client: &Client, sequence: u64, number: u8, ttl_s: u32, flags: u8) {
        let key_id = self.executor.record.record.key_id();
        let (from, to) = (self.planner.id, self.executor.id);
        let mut header = EnvelopeHeader::sealed(from, to, key_id, id(number), NOW.unix_ms, 3).unwrap();
        (header.ttl_s, header.flags) = (ttl_s, flags);
        let envelope = self.planner.seal_under(&self.executor, &header, &[number; 3]);
        node.submit(client, sequence, &self.planner.sign(&[envelope], NOW.unix_ms));
        assert_eq!(node.acks(client), (sequence, vec![]));
    }

    fn publish(&self, node: &mut Node, state: AgentState, settings: MailboxSettings) {
        let mut builder = SnapshotBuilder::with_policy(Policy::SameOrganization);
        builder.insert(state, vec![Arc::clone(&self.planner.record)]).unwrap();
        builder.insert(AgentState::Active, vec![Arc::clone(&self.executor.record)]).unwrap();
        builder.set_mailbox(&self.planner.id, settings, LowerRetention::default());
        let snapshot = Arc::new(builder.build(9));
        for shard in 0..node.shards.len() {
            node.event(shard, Event::Snapshot(Arc::clone(&snapshot)));
        }
        node.run();
    }
}

/// Lets the wall clock say this on every shard.
fn tick_at(node: &mut Node, unix_ms: u64) {
    node.now = Now { unix_ms, ..NOW };
    for _ in 0..2 {
        for shard in 0..node.shards.len() {
            node.event(shard, Event::Tick);
        }
        node.run();
    }
}

/// Until every log has stated its last frame durable: then nothing is written but what expires.
fn rest(node: &mut Node) {
    tick_at(node, NOW.unix_ms);
}

fn notices(node: &mut Node, client: &Client) -> Vec<Notice> {
    node.take(client, FrameType::Notice).iter().map(|body| Notice::parse(body).unwrap()).collect()
}

fn queued(node: &Node, agent: &SimAgent) -> u64 {
    node.shards[World::owner(agent)].log().mailboxes().messages()
}

/// A node that starts finds what expired while it was down, perhaps before it has read who its agents are.
#[test]
fn nobody_is_taken_for_unknown_before_control_has_said_who_there_is() {
    for silent in [&[0][..], &[1], &[0, 1]] {
        let world = World::new();
        let mut node = world.node(false);
        let sender = node.connect_as(0, &world.planner);
        world.send(&mut node, &sender, 1, 1, 5, FLAG_NOTICE_WANTED);
        for &shard in silent {
            node.event(shard, Event::Snapshot(Arc::new(Snapshot::empty())));
        }
        tick_at(&mut node, NOW.unix_ms + 6 * SECOND_MS);
        let knows = !silent.contains(&World::owner(&world.planner));
        let (kept, told) = if knows { (0, 1) } else { (1, 0) };
        assert_eq!((queued(&node, &world.executor), queued(&node, &world.planner)), (kept, told), "{silent:?}");
        world.publish(&mut node, AgentState::Active, MailboxSettings::default());
        assert_eq!((queued(&node, &world.executor), queued(&node, &world.planner)), (0, 1), "{silent:?}");
    }
}

#[test]
fn the_sender_of_a_message_that_expired_is_told_what_where_and_why() {
    for reads_back in [false, true] {
        let world = World::new();
        assert_ne!(World::owner(&world.planner), World::owner(&world.executor), "two shards have a part in it");
        let mut node = world.node(reads_back);
        let sender = node.connect_as(0, &world.planner);
        world.send(&mut node, &sender, 1, 1, 5, FLAG_NOTICE_WANTED);
        world.send(&mut node, &sender, 2, 2, 5, 0);
        world.send(&mut node, &sender, 3, 3, 0, FLAG_NOTICE_WANTED);
        tick_at(&mut node, NOW.unix_ms + 4 * SECOND_MS);
        assert_eq!((queued(&node, &world.executor), queued(&node, &world.planner)), (3, 0));
        tick_at(&mut node, NOW.unix_ms + 6 * SECOND_MS);
        assert_eq!((queued(&node, &world.executor), queued(&node, &world.planner)), (1, 1), "the second did not ask");

        node.subscribe(&sender, &world.planner);
        let told = notices(&mut node, &sender);
        let body = NoticeBody {
            recipient: world.executor.id,
            message_id: id(1),
            expired_at_ms: NOW.unix_ms + 5 * SECOND_MS,
            cause: NoticeCause::TimeToLive,
        };
        assert_eq!(told, [Notice { mailbox_sequence: told[0].mailbox_sequence, attempt: 0, body }]);
        tick_at(&mut node, NOW.unix_ms + RETENTION_MS + SECOND_MS);
        let more = notices(&mut node, &sender);
        assert_eq!(
            more.iter().map(|notice| (notice.body.message_id, notice.body.cause)).collect::<Vec<_>>(),
            [(id(3), NoticeCause::Retention)]
        );
        let sequences = told.iter().chain(&more).map(|notice| notice.mailbox_sequence).collect();
        node.frames(&sender, DELIVER, |out| ConsumerAck { sequences }.encode(out));
        node.run();
        assert_eq!((queued(&node, &world.executor), queued(&node, &world.planner)), (0, 0));
        let counters = |agent| node.shards[World::owner(agent)].counters().clone();
        assert_eq!((counters(&world.executor).messages_expired, counters(&world.executor).messages_untold), (3, 0));
        assert_eq!(counters(&world.planner).notices_durable, 2);
    }
}

#[test]
fn nothing_is_forgotten_before_its_notice_is_durable() {
    let world = World::new();
    let mut node = world.node(true);
    let sender = node.connect_as(0, &world.planner);
    world.send(&mut node, &sender, 1, 1, 1, FLAG_NOTICE_WANTED);
    rest(&mut node);
    node.hold_disk = true;
    tick_at(&mut node, NOW.unix_ms + 3 * SECOND_MS);
    node.run();
    // The read was answered, the notice is written, and nobody has said that it is durable.
    let waiting: Vec<usize> = node.disk.iter().map(|(shard, _)| *shard).collect();
    assert_eq!(waiting, [World::owner(&world.planner)]);
    assert_eq!((queued(&node, &world.executor), queued(&node, &world.planner)), (1, 0));
    node.complete_disk(Ok(()));
    node.run();
    // Now it is; and the record that settles the message is on its way.
    assert_eq!((queued(&node, &world.executor), queued(&node, &world.planner)), (1, 1));
    assert_eq!(node.disk.iter().map(|(shard, _)| *shard).collect::<Vec<_>>(), [World::owner(&world.executor)]);
    node.complete_disk(Ok(()));
    node.run();
    assert_eq!((queued(&node, &world.executor), queued(&node, &world.planner)), (0, 1));
}

#[test]
fn a_sender_that_cannot_be_told_holds_nothing_back() {
    let full = MailboxSettings { messages_max: Some(1), ..MailboxSettings::default() };
    for (state, settings) in [(AgentState::Active, full), (AgentState::Revoked, MailboxSettings::default())] {
        let world = World::new();
        let mut node = world.node(false);
        let sender = node.connect_as(0, &world.planner);
        for number in 1..=3 {
            world.send(&mut node, &sender, u64::from(number), number, 1, FLAG_NOTICE_WANTED);
        }
        world.publish(&mut node, state, settings);
        tick_at(&mut node, NOW.unix_ms + 3 * SECOND_MS);
        let room = u64::from(state == AgentState::Active);
        assert_eq!((queued(&node, &world.executor), queued(&node, &world.planner)), (0, room), "{state:?}");
        let untold = node.shards[World::owner(&world.executor)].counters().messages_untold;
        let refused = node.shards[World::owner(&world.planner)].log().notices_refused();
        assert_eq!((untold, refused), (3 - room, 3 - room));
    }
}

#[test]
fn behind_a_fence_of_the_senders_shard_a_message_waits_for_the_restart() {
    let world = World::new();
    let mut node = world.node(true);
    let sender = node.connect_as(World::owner(&world.executor), &world.planner);
    for number in 1..=2 {
        world.send(&mut node, &sender, u64::from(number), number, u32::from(number), FLAG_NOTICE_WANTED);
    }
    rest(&mut node);
    node.hold_disk = true;
    tick_at(&mut node, NOW.unix_ms + SECOND_MS);
    assert_eq!(node.disk.len(), 1);
    node.hold_disk = false;
    // One notice is on its way when the disk fails, the other comes later.
    node.complete_disk(Err(DiskError::Io("gone".to_owned())));
    node.run();
    for seconds in 2..=4 {
        tick_at(&mut node, NOW.unix_ms + seconds * SECOND_MS);
    }
    assert_eq!((node.fenced, queued(&node, &world.executor)), (1, 2));
    let shard = &node.shards[World::owner(&world.executor)];
    assert_eq!((shard.counters().messages_expired, shard.counters().messages_untold), (0, 0));
    // It waits like any other message: nobody else has to wait for it, and it can be moved.
    assert_eq!(shard.log().mailboxes().expiring_messages(), 0);
}

#[test]
fn a_notice_takes_credit_and_comes_again_until_it_is_acknowledged() {
    let world = World::new();
    let mut node = world.node(true);
    let sender = node.connect_as(0, &world.planner);
    for number in 1..=3 {
        world.send(&mut node, &sender, u64::from(number), number, 1, FLAG_NOTICE_WANTED);
    }
    tick_at(&mut node, NOW.unix_ms + 3 * SECOND_MS);
    let subscribe = |node: &mut Node, client: &Client, messages: u32, bytes: usize| {
        node.frames(client, DELIVER, |out| Subscribe { mailbox: world.planner.id }.encode(out));
        let bytes = u32::try_from(bytes).unwrap();
        node.frames(client, DELIVER, |out| Credit { messages, bytes }.encode(out));
        node.run();
    };
    subscribe(&mut node, &sender, 2, 1 << 20);
    assert_eq!(notices(&mut node, &sender).len(), 2);
    let other = node.connect_as(1, &world.planner);
    // With a byte of credit left one more may overdraw it.
    subscribe(&mut node, &other, 9, NOTICE_BODY_BYTES + 1);
    let told = notices(&mut node, &other);
    let attempts: Vec<_> = told.iter().map(|notice| (notice.body.message_id, notice.attempt)).collect();
    assert_eq!(attempts, [(id(1), 1), (id(2), 1)]);
    let sequences = told.iter().map(|notice| notice.mailbox_sequence).collect();
    node.frames(&other, DELIVER, |out| ConsumerAck { sequences }.encode(out));
    node.frames(&other, DELIVER, |out| Credit { messages: 9, bytes: 1 << 20 }.encode(out));
    node.run();
    assert_eq!(notices(&mut node, &other).len(), 1);
    assert_eq!(queued(&node, &world.planner), 1);
}

#[test]
fn nobody_is_told_that_a_notice_expired() {
    let world = World::new();
    let mut node = world.node(false);
    let sender = node.connect_as(0, &world.planner);
    world.send(&mut node, &sender, 1, 1, 1, FLAG_NOTICE_WANTED);
    tick_at(&mut node, NOW.unix_ms + 3 * SECOND_MS);
    assert_eq!(queued(&node, &world.planner), 1);
    tick_at(&mut node, NOW.unix_ms + 3 * SECOND_MS + RETENTION_MS + SECOND_MS);
    assert_eq!((queued(&node, &world.planner), queued(&node, &world.executor)), (0, 0));
    let durable: u64 = node.shards.iter().map(|shard| shard.counters().notices_durable).sum();
    assert_eq!(durable, 1);
}
