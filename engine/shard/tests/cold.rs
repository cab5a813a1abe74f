//! Messages that left memory before their recipient came: read back from the log, and pushed as if they had not.
#![allow(clippy::unwrap_used, reason = "a test stops where it is wrong")]

#[allow(dead_code, reason = "each test file takes what it needs")]
mod fixture;

use creto_envelope::EnvelopeView;
use creto_envelope::deliver::{ConsumerAck, Credit, Subscribe};
use creto_sim::agents::SimAgent;
use creto_store::{MailboxesConfig, WalConfig};
use fixture::{Client, DELIVER, NOW, Node, id};

struct World {
    planner: SimAgent,
    executor: SimAgent,
    critic: SimAgent,
}

impl World {
    fn new() -> Self {
        Self {
            planner: SimAgent::new("acme/planner", 1),
            executor: SimAgent::new("acme/executor", 2),
            critic: SimAgent::new("acme/critic", 3),
        }
    }

    /// A shard that keeps no payload in memory.
    fn node(&self) -> Node {
        let agents = [&self.planner, &self.executor, &self.critic];
        let mailboxes = MailboxesConfig { cache_bytes: 0, ..MailboxesConfig::default() };
        Node::start_sized(1, &agents, false, &WalConfig::default(), &mailboxes)
    }

    fn send(&self, node: &mut Node, sender: &Client, sequence: u64, to: &SimAgent, numbers: std::ops::Range<u8>) {
        let seal = |number: u8| self.planner.seal(to, id(number), NOW.unix_ms, &vec![number; 20 * usize::from(number)]);
        let envelopes: Vec<_> = numbers.map(seal).collect();
        node.submit(sender, sequence, &self.planner.sign(&envelopes, NOW.unix_ms));
        assert_eq!(node.acks(sender), (sequence, vec![]));
    }
}

fn opened(node: &mut Node, reader: &Client, agent: &SimAgent) -> Vec<Vec<u8>> {
    let deliveries = node.deliveries(reader);
    deliveries.iter().map(|(_, envelope)| agent.open(&EnvelopeView::parse(envelope).unwrap())).collect()
}

#[test]
fn a_mailbox_that_nobody_read_is_drained_from_the_log() {
    let world = World::new();
    let mut node = world.node();
    let sender = node.connect_as(0, &world.planner);
    for sequence in 1..=20 {
        let first = u8::try_from(sequence * 10).unwrap();
        world.send(&mut node, &sender, sequence, &world.executor, first..first + 10);
    }
    assert_eq!(node.shards[0].log().mailboxes().cached_bytes(), 0);
    let reader = node.connect_as(0, &world.executor);
    node.subscribe(&reader, &world.executor);
    let found = opened(&mut node, &reader, &world.executor);
    let expected: Vec<_> = (10..210).map(|number| vec![number; 20 * usize::from(number)]).collect();
    assert_eq!(found, expected);
    assert_eq!(node.shards[0].counters().messages_read_back, 200);

    // Acknowledged they are gone, as ever.
    let sequences = (1..=200).collect();
    node.frames(&reader, DELIVER, |out| ConsumerAck { sequences }.encode(out));
    node.run();
    assert_eq!(node.shards[0].log().mailboxes().messages(), 0);
}

#[test]
fn a_mailbox_that_waits_for_the_disk_stops_no_other() {
    let world = World::new();
    let mut node = world.node();
    let sender = node.connect_as(0, &world.planner);
    world.send(&mut node, &sender, 1, &world.executor, 1..5);
    let (cold, hot) = (node.connect_as(0, &world.executor), node.connect_as(0, &world.critic));
    node.hold_reads = true;
    node.subscribe(&cold, &world.executor);
    node.subscribe(&hot, &world.critic);
    world.send(&mut node, &sender, 2, &world.critic, 11..14);
    assert_eq!(opened(&mut node, &hot, &world.critic).len(), 3, "what is pushed at once never leaves memory");
    assert!(node.deliveries(&cold).is_empty() && node.reads.len() == 1);
    // What comes later for the one that waits does not overtake.
    world.send(&mut node, &sender, 3, &world.executor, 5..7);
    assert!(node.deliveries(&cold).is_empty());
    node.hold_reads = false;
    node.run();
    let found = opened(&mut node, &cold, &world.executor);
    assert_eq!(found, (1..7).map(|number| vec![number; 20 * usize::from(number)]).collect::<Vec<_>>());
}

#[test]
fn a_subscriber_that_leaves_while_its_messages_are_read_gets_them_when_it_comes_again() {
    let world = World::new();
    let mut node = world.node();
    let sender = node.connect_as(0, &world.planner);
    world.send(&mut node, &sender, 1, &world.executor, 1..5);
    node.hold_reads = true;
    let first = node.connect_as(0, &world.executor);
    node.subscribe(&first, &world.executor);
    node.event(0, creto_shard::Event::Disconnected { connection: first.connection });
    node.run();
    node.hold_reads = false;
    node.run();
    let second = node.connect_as(0, &world.executor);
    node.frames(&second, DELIVER, |out| Subscribe { mailbox: world.executor.id }.encode(out));
    node.run();
    assert!(node.deliveries(&second).is_empty(), "it has no credit");
    node.frames(&second, DELIVER, |out| Credit { messages: 3, bytes: 1 << 20 }.encode(out));
    node.run();
    let found = opened(&mut node, &second, &world.executor);
    assert_eq!(found, (1..4).map(|number| vec![number; 20 * usize::from(number)]).collect::<Vec<_>>());
}
