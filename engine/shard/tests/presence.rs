//! Presence: shown by whoever says so to those who may send, and the same word for everything that is not to be known.
#![allow(clippy::unwrap_used, reason = "a test stops where it is wrong")]

#[allow(dead_code, reason = "each test file takes what it needs")]
mod fixture;

use std::sync::Arc;

use creto_envelope::AgentId;
use creto_envelope::deliver::Subscribe;
use creto_envelope::presence::{PresenceAnswer, PresenceAudience, PresenceRequest, PresenceShow, PresenceState};
use creto_envelope::{AgentState, FrameType, RejectCode};
use creto_policy::{Policy, Snapshot, SnapshotBuilder};
use creto_shard::limits::{LAST_SEEN_KEPT_MS, PRESENCE_BURST};
use creto_shard::{Event, Now, Placement};
use creto_sim::agents::SimAgent;
use fixture::{CONTROL, Client, DELIVER, NOW, Node};

struct World {
    planner: SimAgent,
    executor: SimAgent,
    stranger: SimAgent,
}

impl World {
    fn new() -> Self {
        let world = Self {
            planner: SimAgent::new("acme/planner", 1),
            executor: SimAgent::new("acme/executor", 2),
            stranger: SimAgent::new("other/agent", 3),
        };
        let owner = |agent: &SimAgent| Placement::new(2).owner(&agent.id);
        assert_ne!(owner(&world.planner), owner(&world.executor), "two shards have a part in it");
        world
    }

    fn node(&self) -> Node {
        Node::new(2, &[&self.planner, &self.executor, &self.stranger])
    }

    /// The executor reads its mailbox on this shard, and shows itself to these.
    fn read(&self, node: &mut Node, shard: usize, audience: Option<PresenceAudience>) -> Client {
        let client = node.connect_as(shard, &self.executor);
        node.frames(&client, DELIVER, |out| Subscribe { mailbox: self.executor.id }.encode(out));
        if let Some(audience) = audience {
            node.frames(&client, DELIVER, |out| PresenceShow { audience }.encode(out));
        }
        node.run();
        client
    }
}

const SENDERS: Option<PresenceAudience> = Some(PresenceAudience::Senders);

fn ask(node: &mut Node, client: &Client, agent: AgentId) -> PresenceState {
    node.frames(client, CONTROL, |out| PresenceRequest { agent }.encode(out));
    node.run();
    let answers = node.take(client, FrameType::PresenceAnswer);
    assert_eq!(answers.len(), 1, "every question has one answer");
    let answer = PresenceAnswer::parse(&answers[0]).unwrap();
    assert_eq!(answer.agent, agent);
    answer.state
}

fn leave(node: &mut Node, client: &Client) {
    node.event(client.shard, Event::Disconnected { connection: client.connection });
    node.run();
}

#[test]
fn whoever_shows_itself_is_online_while_it_reads_and_was_seen_afterwards() {
    for (from, to) in [(0, 0), (0, 1), (1, 0), (1, 1)] {
        let world = World::new();
        let mut node = world.node();
        let asker = node.connect_as(from, &world.planner);
        let reader = world.read(&mut node, to, SENDERS);
        assert_eq!(ask(&mut node, &asker, world.executor.id), PresenceState::Online);
        leave(&mut node, &reader);
        for (later_ms, minutes) in [(0, 0), (59_000, 0), (61_000, 1), (3_600_000, 60)] {
            node.now = Now { unix_ms: NOW.unix_ms + later_ms, ..NOW };
            assert_eq!(ask(&mut node, &asker, world.executor.id), PresenceState::Seen { minutes });
        }
        node.now = Now { unix_ms: NOW.unix_ms + LAST_SEEN_KEPT_MS, ..NOW };
        assert_eq!(ask(&mut node, &asker, world.executor.id), PresenceState::Unknown);
    }
}

/// Bytes and turns: nothing tells one reason from another.
#[test]
fn everything_that_is_not_to_be_known_is_one_answer_in_the_same_turn() {
    let ask_so = |shows: Option<Option<PresenceAudience>>, by_stranger: bool, about: fn(&World) -> AgentId| {
        let world = World::new();
        let mut node = world.node();
        if let Some(shows) = shows {
            world.read(&mut node, 1, shows);
        }
        let asker = node.connect_as(0, if by_stranger { &world.stranger } else { &world.planner });
        let agent = about(&world);
        node.raw.clear();
        node.frames(&asker, CONTROL, |out| PresenceRequest { agent }.encode(out));
        node.run();
        let raw = std::mem::take(&mut node.raw);
        let mut bytes = raw.into_iter().filter(|(to, _)| *to == asker.connection).map(|(_, bytes)| bytes.to_vec());
        let mut frame = bytes.next().unwrap();
        assert!(bytes.next().is_none());
        // The name of who was asked for aside.
        frame[8..24].fill(0);
        frame
    };
    let executor: fn(&World) -> AgentId = |world| world.executor.id;
    let never_there = ask_so(None, false, executor);
    assert_eq!(PresenceAnswer::parse(&never_there[8..]).unwrap().state, PresenceState::Unknown);
    let silent = Some(PresenceAudience::Nobody);
    assert_eq!(ask_so(Some(None), false, executor), never_there, "it said nothing");
    assert_eq!(ask_so(Some(silent), false, executor), never_there, "it shows itself to nobody");
    assert_eq!(ask_so(Some(SENDERS), true, executor), never_there, "whoever asks may not send to it");
    assert_eq!(ask_so(None, false, |_| AgentId([9; 16])), never_there, "there is nobody of that name");
}

#[test]
fn what_was_shown_counts_until_the_agent_reads_again_and_says_otherwise() {
    let world = World::new();
    let mut node = world.node();
    let asker = node.connect_as(0, &world.planner);
    let first = world.read(&mut node, 1, SENDERS);
    // Another process of it reads, and shows nothing.
    let second = world.read(&mut node, 0, None);
    assert_eq!(ask(&mut node, &asker, world.executor.id), PresenceState::Unknown);
    // What the first still says counts for nothing, and its end is nobody's.
    node.frames(&first, DELIVER, |out| PresenceShow { audience: PresenceAudience::Senders }.encode(out));
    leave(&mut node, &first);
    assert_eq!(ask(&mut node, &asker, world.executor.id), PresenceState::Unknown);
    node.frames(&second, DELIVER, |out| PresenceShow { audience: PresenceAudience::Senders }.encode(out));
    assert_eq!(ask(&mut node, &asker, world.executor.id), PresenceState::Online);
    leave(&mut node, &second);
    assert_eq!(ask(&mut node, &asker, world.executor.id), PresenceState::Seen { minutes: 0 });
    let third = world.read(&mut node, 1, Some(PresenceAudience::Nobody));
    leave(&mut node, &third);
    assert_eq!(ask(&mut node, &asker, world.executor.id), PresenceState::Unknown, "and what was known is forgotten");
}

#[test]
fn a_restart_forgets_all_of_it() {
    let world = World::new();
    let mut node = world.node();
    let reader = world.read(&mut node, 1, SENDERS);
    leave(&mut node, &reader);
    let agents = [&world.planner, &world.executor, &world.stranger];
    let mut node = node.restarted(&agents, &creto_sim::agents::snapshot(agents));
    let asker = node.connect_as(0, &world.planner);
    assert_eq!(ask(&mut node, &asker, world.executor.id), PresenceState::Unknown);
}

#[test]
fn of_whoever_may_not_act_any_more_nothing_is_told() {
    for state in [AgentState::Suspended, AgentState::Revoked] {
        let world = World::new();
        let mut node = world.node();
        let asker = node.connect_as(0, &world.planner);
        let reader = world.read(&mut node, 1, SENDERS);
        leave(&mut node, &reader);
        let mut builder = SnapshotBuilder::with_policy(Policy::SameOrganization);
        builder.insert(AgentState::Active, vec![Arc::clone(&world.planner.record)]).unwrap();
        builder.insert(state, vec![Arc::clone(&world.executor.record)]).unwrap();
        publish(&mut node, &Arc::new(builder.build(9)));
        assert_eq!(ask(&mut node, &asker, world.executor.id), PresenceState::Unknown, "{state:?}");
    }
}

#[test]
fn without_a_policy_nothing_is_told() {
    let world = World::new();
    let mut node = world.node();
    let owner = usize::from(Placement::new(2).owner(&world.executor.id).0);
    // On the other shard, which still knows who there is.
    let asker = node.connect_as(1 - owner, &world.planner);
    world.read(&mut node, 1 - owner, SENDERS);
    let mut builder = SnapshotBuilder::with_policy(Policy::SameOrganization);
    for agent in [&world.planner, &world.executor] {
        builder.insert(AgentState::Active, vec![Arc::clone(&agent.record)]).unwrap();
    }
    let with = |builder: &mut SnapshotBuilder, policy, epoch| {
        builder.set_policy(policy);
        Arc::new(builder.build(epoch))
    };
    node.event(owner, Event::Snapshot(with(&mut builder, None, 8)));
    assert_eq!(ask(&mut node, &asker, world.executor.id), PresenceState::Unknown);
    publish(&mut node, &with(&mut builder, Some(Policy::SameOrganization), 9));
    assert_eq!(ask(&mut node, &asker, world.executor.id), PresenceState::Online);
    // No policy could be loaded, and everything is allowed: this is not, and nothing of it is told.
    publish(&mut node, &with(&mut builder, Some(Policy::FailOpen), 10));
    assert_eq!(ask(&mut node, &asker, world.executor.id), PresenceState::Unknown);
    let used: u64 = node.shards.iter().map(|shard| shard.counters().decisions.allowed_without_policy).sum();
    assert_eq!(used, 0);
}

#[test]
fn one_connection_asks_so_often_and_is_told_when_to_come_again() {
    let world = World::new();
    let mut node = world.node();
    let asker = node.connect_as(0, &world.planner);
    world.read(&mut node, 1, SENDERS);
    for _ in 0..PRESENCE_BURST {
        assert_eq!(ask(&mut node, &asker, world.executor.id), PresenceState::Online);
    }
    let later = PresenceState::Later { retry_after_ms: 1_000 };
    assert_eq!(ask(&mut node, &asker, world.executor.id), later);
    assert_eq!(ask(&mut node, &asker, AgentId([9; 16])), later, "whoever it asks for");
    node.now = Now { monotonic_us: 1_000_000, ..NOW };
    assert_eq!(ask(&mut node, &asker, world.executor.id), PresenceState::Online);
    for shard in 0..2 {
        node.event(shard, Event::Drain);
    }
    node.now = Now { monotonic_us: 10_000_000, ..NOW };
    assert_eq!(ask(&mut node, &asker, world.executor.id), later, "a node that ends looks nothing up");
    assert!(node.closed.is_empty());
}

#[test]
fn whoever_does_not_read_shows_nothing_and_whoever_has_not_logged_in_asks_nothing() {
    let world = World::new();
    let mut node = world.node();
    let client = node.connect_as(0, &world.executor);
    node.frames(&client, DELIVER, |out| PresenceShow { audience: PresenceAudience::Senders }.encode(out));
    node.run();
    assert_eq!(node.rejects(&client), [RejectCode::FrameUnexpected]);
    let nobody = node.connect(0);
    node.frames(&nobody, CONTROL, |out| PresenceRequest { agent: world.executor.id }.encode(out));
    node.run();
    assert_eq!(node.rejects(&nobody), [RejectCode::LoginRequired]);
}

fn publish(node: &mut Node, snapshot: &Arc<Snapshot>) {
    for shard in 0..node.shards.len() {
        node.event(shard, Event::Snapshot(Arc::clone(snapshot)));
    }
    node.run();
}
