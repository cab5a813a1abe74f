//! A channel and those who have to do with it, for the tests of channels.
#![allow(unreachable_pub, reason = "the test above is the only one who could reach it")]

use std::collections::BTreeMap;
use std::sync::Arc;

use creto_crypto_accel::merkle::{leaf_hash, root_from_path};
use creto_envelope::channel::frames::{
    ChannelAck, ChannelAttach, ChannelCredit, ChannelDeliver, ChannelLeave, ChannelLeft, ChannelMembers, ChannelNack,
    ChannelSubscribe, ChannelSubscribed, GiveBack, LeaveMode, Start,
};
use creto_envelope::channel::{ChannelName, ChannelRecord, Publishing, Subscribing};
use creto_envelope::limits::{CREDIT_BYTES_MAX, CREDIT_MESSAGES_MAX};
use creto_envelope::{AgentState, ChannelId, EnvelopeView, FrameType, GroupId, RejectCode, TrustDomain};
use creto_policy::{Policy, Snapshot, SnapshotBuilder};
use creto_shard::Event;
use creto_shard::observe::Counters;
use creto_sim::agents::{SimAgent, SimPublisher};

use super::fixture::{CHANNELS, Client, NOW, Node, SUBMIT, aligned, id};

pub const TOPIC: &str = "acme/alerts.eu";
/// Where a subscription of its own is meant.
pub const ALONE: GroupId = GroupId::NONE;

pub struct World {
    pub owner: SimAgent,
    pub worker: SimAgent,
    pub critic: SimAgent,
    pub stranger: SimAgent,
}

/// A message as a reader was pushed it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Pushed {
    pub sequence: u64,
    pub attempt: u8,
    pub plaintext: Vec<u8>,
}

pub fn topic(name: &str) -> ChannelId {
    ChannelId::derive(&TrustDomain::default(), &ChannelName::parse(name).unwrap())
}

/// Version 1 of a channel of the owner's, for everybody.
pub fn record(name: &str) -> ChannelRecord {
    ChannelRecord {
        version: 1,
        name: ChannelName::parse(name).unwrap(),
        trust_domain: TrustDomain::default(),
        owner: SimAgent::new("acme/owner", 1).id,
        owner_key_version: 1,
        signed_at_ms: 1_000,
        subscribing: Subscribing::Open,
        publishing: Publishing::Open,
        has_history: false,
        is_deleted: false,
        retention_s: 3_600,
        messages_max: 10_000,
        bytes_max: 100 << 20,
        subscribers_max: 1_000,
    }
}

impl World {
    pub fn new() -> Self {
        Self {
            owner: SimAgent::new("acme/owner", 1),
            worker: SimAgent::new("acme/worker", 2),
            critic: SimAgent::new("acme/critic", 3),
            stranger: SimAgent::new("other/stranger", 4),
        }
    }

    pub fn agents(&self) -> [&SimAgent; 4] {
        [&self.owner, &self.worker, &self.critic, &self.stranger]
    }

    /// A snapshot with all agents and these channels, and in which this holds besides.
    pub fn snapshot(
        &self,
        epoch: u64,
        records: &[ChannelRecord],
        change: impl FnOnce(&mut SnapshotBuilder),
    ) -> Arc<Snapshot> {
        let mut builder = SnapshotBuilder::with_policy(Policy::SameOrganization);
        for agent in self.agents() {
            builder.insert(AgentState::Active, vec![Arc::clone(&agent.record)]).unwrap();
        }
        for record in records {
            builder.insert_channel(record.clone());
        }
        change(&mut builder);
        Arc::new(builder.build(epoch))
    }

    /// A node with the open channel.
    pub fn node(&self, shard_count: u16) -> Node {
        let mut node = Node::new(shard_count, &self.agents());
        publish(&mut node, &self.snapshot(2, &[record(TOPIC)], |_| {}));
        node
    }

    /// The owner begins to publish in the channel.
    pub fn publisher(&self, name: &str) -> SimPublisher {
        self.owner.publish_in(topic(name), [7; 32])
    }

    /// The owner publishes these, as one batch.
    pub fn send(
        &self,
        node: &mut Node,
        client: &Client,
        sequence: u64,
        publisher: &mut SimPublisher,
        numbers: std::ops::Range<u8>,
    ) {
        let envelopes: Vec<_> = numbers.map(|number| publisher.seal(id(number), NOW.unix_ms, &[number; 20])).collect();
        node.submit(client, sequence, &self.owner.sign(&envelopes, NOW.unix_ms));
    }
}

pub fn publish(node: &mut Node, snapshot: &Arc<Snapshot>) {
    for shard in 0..node.shards.len() {
        node.event(shard, Event::Snapshot(Arc::clone(snapshot)));
    }
    node.run();
}

pub fn count(node: &Node, of: fn(&Counters) -> u64) -> u64 {
    node.shards.iter().map(|shard| of(shard.counters())).sum()
}

/// A client that reads channels, as a client does: it remembers the batch header of each of its subscriptions.
pub struct Subscriber {
    pub client: Client,
    /// Root and size of the tree of the last batch header of each.
    headers: BTreeMap<u32, ([u8; 32], u32)>,
}

impl Subscriber {
    pub fn connect(node: &mut Node, shard: usize, agent: &SimAgent) -> Self {
        Self { client: node.connect_as(shard, agent), headers: BTreeMap::new() }
    }

    pub fn ask(&self, node: &mut Node, handle: u32, name: &str, group: GroupId, start: Start) {
        let subscribe = ChannelSubscribe { handle, channel: topic(name), group, start };
        node.frames(&self.client, CHANNELS, |out| subscribe.encode(out));
        node.run();
    }

    /// Subscribes, and grants all the credit that there may be.
    pub fn subscribe(&mut self, node: &mut Node, handle: u32, name: &str, group: GroupId, start: Start) {
        self.ask(node, handle, name, group, start);
        self.grant(node, handle, CREDIT_MESSAGES_MAX, CREDIT_BYTES_MAX);
        assert_eq!(self.subscribed(node).map(|subscribed| subscribed.handle), Some(handle));
    }

    pub fn subscribed(&mut self, node: &mut Node) -> Option<ChannelSubscribed> {
        let bodies = node.take(&self.client, FrameType::ChannelSubscribed);
        let last = bodies.last().map(|body| ChannelSubscribed::parse(body).unwrap())?;
        self.headers.remove(&last.handle);
        Some(last)
    }

    pub fn grant(&self, node: &mut Node, handle: u32, messages: u32, bytes: u32) {
        node.frames(&self.client, CHANNELS, |out| ChannelCredit { handle, messages, bytes }.encode(out));
        node.run();
    }

    pub fn acknowledge(&self, node: &mut Node, handle: u32, sequences: &[u64]) {
        let ack = ChannelAck { handle, sequences: sequences.to_vec() };
        node.frames(&self.client, CHANNELS, |out| ack.encode(out));
        node.run();
    }

    pub fn give_back(&self, node: &mut Node, handle: u32, how: GiveBack, sequences: &[u64]) {
        let nack = ChannelNack { handle, how, sequences: sequences.to_vec() };
        node.frames(&self.client, CHANNELS, |out| nack.encode(out));
        node.run();
    }

    pub fn leave(&self, node: &mut Node, handle: u32, mode: LeaveMode) {
        node.frames(&self.client, CHANNELS, |out| ChannelLeave { handle, mode }.encode(out));
        node.run();
    }

    pub fn disconnect(&self, node: &mut Node) {
        node.event(self.client.shard, Event::Disconnected { connection: self.client.connection });
        node.run();
    }

    /// Handles that it was told are free, with the codes.
    pub fn left(&self, node: &mut Node) -> Vec<(u32, Option<RejectCode>)> {
        let bodies = node.take(&self.client, FrameType::ChannelLeft);
        let left = bodies.iter().map(|body| ChannelLeft::parse(body).unwrap());
        left.map(|left| (left.handle, RejectCode::from_u16(left.code))).collect()
    }

    /// What it was pushed under a handle, whatever came under others; opened as what the owner published.
    pub fn pushed(&mut self, node: &mut Node, handle: u32) -> Vec<Pushed> {
        let mut receiver = SimAgent::new("acme/owner", 1).publish_in(topic(TOPIC), [7; 32]).receiver();
        let mut pushed = Vec::new();
        for body in node.take(&self.client, FrameType::ChannelDeliver) {
            let deliver = ChannelDeliver::parse(&body).unwrap();
            let rest = body.slice(creto_envelope::channel::frames::CHANNEL_DELIVER_HEADER_BYTES..);
            if let Some(header) = &deliver.deliver.batch_header {
                self.headers.insert(deliver.handle, (*header.root(), header.tree_size()));
            }
            let known = self.headers.get(&deliver.handle);
            let &(root, size) = known.expect("the first frame of a handle has a batch header");
            if deliver.handle != handle {
                continue;
            }
            for span in &deliver.deliver.messages {
                let envelope = aligned(&rest[span.envelope.clone()]);
                let leaf = leaf_hash(&span.salt, &envelope);
                assert_eq!(root_from_path(leaf, span.leaf_index, size, span.path(&rest)), Ok(root));
                let view = EnvelopeView::parse(&envelope).unwrap();
                let key = receiver.key(view.counter()).unwrap();
                let plaintext = key.open(&view.header().nonce, view.header_bytes(), view.payload()).unwrap();
                pushed.push(Pushed { sequence: span.mailbox_sequence, attempt: span.attempt, plaintext });
            }
        }
        pushed
    }
}

/// The numbers of messages that [`World::send`] made.
pub fn numbers(pushed: &[Pushed]) -> Vec<u8> {
    pushed.iter().map(|pushed| pushed.plaintext[0]).collect()
}

/// Asks who subscribes.
pub fn attach(node: &mut Node, client: &Client, name: &str) {
    node.frames(client, SUBMIT, |out| ChannelAttach { channel: topic(name) }.encode(out));
    node.run();
}

pub fn members(node: &mut Node, client: &Client) -> Vec<ChannelMembers> {
    let bodies = node.take(client, FrameType::ChannelMembers);
    bodies.iter().map(|body| ChannelMembers::parse(body).unwrap()).collect()
}
