//! A shard on every log there is: the same messages come out, and the log ends when it is sealed.
#![allow(clippy::unwrap_used, reason = "a test stops where it is wrong")]

#[allow(dead_code, reason = "each test file takes what it needs")]
mod fixture;

use creto_envelope::deliver::ConsumerAck;
use creto_envelope::{EnvelopeView, RejectCode};
use creto_shard::Event;
use creto_sim::agents::SimAgent;
use creto_store::{Epoch, MailboxesConfig, MemoryLog, RecordLog, Wal, WalConfig};
use fixture::{Client, DELIVER, NOW, Node, id};

struct World {
    planner: SimAgent,
    executor: SimAgent,
}

impl World {
    fn new() -> Self {
        Self { planner: SimAgent::new("acme/planner", 1), executor: SimAgent::new("acme/executor", 2) }
    }

    /// Nothing stays in memory: what is delivered was read back from the log.
    fn mailboxes() -> MailboxesConfig {
        MailboxesConfig { cache_bytes: 0, ..MailboxesConfig::default() }
    }

    fn on_wal(&self) -> Node<Wal> {
        Node::start_sized(1, &[&self.planner, &self.executor], false, &WalConfig::default(), &Self::mailboxes())
    }

    fn in_memory(&self) -> Node<MemoryLog> {
        Node::start_on(1, &[&self.planner, &self.executor], false, &Self::mailboxes(), |index| {
            MemoryLog::open(WalConfig::default(), u32::from(index), Epoch(1), NOW.unix_ms)
        })
    }

    fn send<L: RecordLog>(&self, node: &mut Node<L>, sender: &Client, sequence: u64, numbers: std::ops::Range<u8>) {
        let seal = |number: u8| self.planner.seal(&self.executor, id(number), NOW.unix_ms, &[number; 50]);
        let envelopes: Vec<_> = numbers.map(seal).collect();
        node.submit(sender, sequence, &self.planner.sign(&envelopes, NOW.unix_ms));
    }

    /// Messages go in, twice some of them; come out, are acknowledged; the log ends, and what comes then is refused.
    fn first_to_last<L: RecordLog>(&self, mut node: Node<L>) -> Vec<Vec<u8>> {
        let sender = node.connect_as(0, &self.planner);
        self.send(&mut node, &sender, 1, 1..5);
        self.send(&mut node, &sender, 2, 3..8);
        let (through, results) = node.acks(&sender);
        assert_eq!((through, results.len()), (2, 2), "two are duplicates: {results:?}");
        let reader = node.connect_as(0, &self.executor);
        node.subscribe(&reader, &self.executor);
        let opened = node.deliveries(&reader).into_iter().map(|(span, envelope)| {
            let opened = self.executor.open(&EnvelopeView::parse(&envelope).unwrap());
            (span.mailbox_sequence, opened)
        });
        let (sequences, opened): (Vec<u64>, Vec<_>) = opened.unzip();
        assert_eq!(node.shards[0].counters().messages_read_back, 7);
        node.frames(&reader, DELIVER, |out| ConsumerAck { sequences }.encode(out));
        node.run();
        assert_eq!(node.shards[0].log().mailboxes().messages(), 0);

        node.hold_disk = true;
        node.event(0, Event::Seal);
        let was_written = node.shards[0].log().wal().durable();
        self.send(&mut node, &sender, 3, 8..10);
        assert_eq!(node.acks(&sender), (3, vec![(0, RejectCode::ShuttingDown), (1, RejectCode::ShuttingDown)]));
        node.hold_disk = false;
        node.run();
        assert!(node.shards[0].is_sealed());
        assert_eq!(node.shards[0].log().wal().end().unwrap().sequence, was_written);
        opened
    }
}

#[test]
fn a_shard_does_the_same_on_every_log() {
    let world = World::new();
    let on_wal = world.first_to_last(world.on_wal());
    assert_eq!(on_wal, (1..8).map(|number| vec![number; 50]).collect::<Vec<_>>());
    assert_eq!(world.first_to_last(world.in_memory()), on_wal);
}

#[test]
fn what_is_on_its_way_when_a_log_is_sealed_is_answered_when_it_is_durable() {
    let world = World::new();
    let mut node = world.on_wal();
    let sender = node.connect_as(0, &world.planner);
    node.hold_disk = true;
    world.send(&mut node, &sender, 1, 1..3);
    node.event(0, Event::Seal);
    node.run();
    assert!(!node.shards[0].is_sealed());
    assert_eq!(node.acks(&sender), (0, vec![]));
    node.hold_disk = false;
    node.run();
    assert_eq!(node.acks(&sender), (1, vec![]));
    assert!(node.shards[0].is_sealed());
}
