//! How long messages take in each stage: measured where it is said, by a clock that is read for batches and not for messages.
#![allow(clippy::unwrap_used, reason = "a test stops where it is wrong")]

#[allow(dead_code, reason = "each test file takes what it needs")]
mod fixture;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use creto_envelope::deliver::ConsumerAck;
use creto_shard::Event;
use creto_shard::stages::{StageTimes, Stages};
use creto_sim::agents::{SimAgent, SimBatch};
use fixture::{Client, DELIVER, NOW, Node, id};

/// A clock that goes on by so much whenever it is read.
const STEP_US: u64 = 10;

struct Scene {
    planner: SimAgent,
    executor: SimAgent,
    node: Node,
    sender: Client,
    reader: Client,
    clock: Arc<AtomicU64>,
    reads: Arc<AtomicU64>,
}

impl Scene {
    fn new() -> Self {
        let (planner, executor) = (SimAgent::new("acme/planner", 1), SimAgent::new("acme/executor", 2));
        let mut node = Node::new(1, &[&planner, &executor]);
        let (sender, reader) = (node.connect_as(0, &planner), node.connect_as(0, &executor));
        node.subscribe(&reader, &executor);
        let (clock, reads) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
        let (of_shard, counted) = (Arc::clone(&clock), Arc::clone(&reads));
        let shard = node.shards.remove(0).with_stage_clock(move || {
            counted.fetch_add(1, Ordering::Relaxed);
            of_shard.fetch_add(STEP_US, Ordering::Relaxed)
        });
        node.shards.push(shard);
        node.hold_disk = true;
        let mut scene = Self { planner, executor, node, sender, reader, clock, reads };
        scene.pass(1_000_000);
        scene
    }

    fn pass(&mut self, us: u64) {
        self.node.now.monotonic_us += us;
        self.clock.store(self.node.now.monotonic_us, Ordering::Relaxed);
    }

    fn batch(&self, numbers: std::ops::Range<u8>) -> SimBatch {
        let seal = |number: u8| self.planner.seal(&self.executor, id(number), NOW.unix_ms, &[number; 20]);
        self.planner.sign(&numbers.map(seal).collect::<Vec<_>>(), NOW.unix_ms)
    }

    fn submit(&mut self, sequence: u64, batch: &SimBatch) {
        let sender = self.sender;
        self.node.submit(&sender, sequence, batch);
    }

    fn delivered(&mut self) -> Vec<u64> {
        let reader = self.reader;
        self.node.deliveries(&reader).iter().map(|(span, _)| span.mailbox_sequence).collect()
    }

    fn stages(&mut self) -> Stages {
        self.node.event(0, Event::Tick);
        self.node.shards[0].counters().stages.clone()
    }
}

#[track_caller]
fn check(times: &StageTimes, count: u64, sum_us: u64) {
    assert_eq!((times.counts.iter().sum::<u64>(), times.sum_us), (count, sum_us));
}

#[test]
fn each_stage_of_a_batch_is_measured_from_its_arrival_to_its_consumers_acknowledgement() {
    let mut scene = Scene::new();
    let batch = scene.batch(1..4);
    scene.submit(1, &batch);
    let stages = scene.stages();
    check(&stages.verify, 1, STEP_US);
    check(&stages.authorize, 1, STEP_US);
    check(&stages.queue, 1, 0);
    check(&stages.acknowledge, 0, 0);
    scene.pass(5_000);
    scene.node.complete_disk(Ok(()));
    scene.node.run();
    let stages = scene.stages();
    // The push is made at the first reading of that turn, the answer at the second.
    check(&stages.deliver, 1, 0);
    check(&stages.acknowledge, 1, STEP_US);
    check(&stages.settle, 0, 0);
    let sequences = scene.delivered();
    assert_eq!(sequences.len(), 3);
    scene.pass(7_000);
    scene.node.hold_rest = true;
    for (acknowledged, settled) in [(&sequences[..2], 0), (&sequences[2..], 1)] {
        let reader = scene.reader;
        scene.node.frames(&reader, DELIVER, |out| ConsumerAck { sequences: acknowledged.to_vec() }.encode(out));
        scene.node.run();
        check(&scene.stages().settle, settled, settled * 7_000);
    }
}

#[test]
fn a_batch_that_has_no_write_yet_waits_and_that_is_measured() {
    let mut scene = Scene::new();
    // As many writes as may be on their way, and one batch more.
    for sequence in 1..=3 {
        let first = u8::try_from(sequence).unwrap() * 10;
        let batch = scene.batch(first..first + 2);
        scene.submit(sequence, &batch);
    }
    let waiting = 3 - scene.stages().queue.counts.iter().sum::<u64>();
    assert!(waiting > 0, "the log has no more writes than that on their way");
    scene.pass(4_000);
    scene.node.complete_disk(Ok(()));
    scene.node.run();
    check(&scene.stages().queue, 3, waiting * 4_000);
}

#[test]
fn the_clock_is_read_for_batches_and_not_for_messages() {
    let reads_for = |messages: u8| {
        let mut scene = Scene::new();
        let batch = scene.batch(1..1 + messages);
        scene.reads.store(0, Ordering::Relaxed);
        scene.submit(1, &batch);
        scene.node.complete_disk(Ok(()));
        scene.node.run();
        assert_eq!(scene.delivered().len(), usize::from(messages));
        scene.reads.load(Ordering::Relaxed)
    };
    let (one, many) = (reads_for(1), reads_for(100));
    assert_eq!(one, many);
    assert!(one <= 8, "{one} readings for a batch");
}
