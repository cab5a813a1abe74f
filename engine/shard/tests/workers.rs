//! What holds when crypto workers verify, and that it is what holds without them; and what a flood of bad signatures costs.
#![allow(clippy::unwrap_used, reason = "a test stops where it is wrong")]

#[allow(dead_code, reason = "each test file takes what it needs")]
mod fixture;

use creto_envelope::submit::WHOLE_BATCH;
use creto_envelope::{EnvelopeView, MessageId, RejectCode};
use creto_shard::Event;
use creto_shard::limits::BAD_SIGNATURES_MAX;
use creto_sim::agents::{SimAgent, SimBatch};
use fixture::{Client, NOW, Node};

struct World {
    planner: SimAgent,
    auditor: SimAgent,
    executor: SimAgent,
    stranger: SimAgent,
}

impl World {
    fn new() -> Self {
        Self {
            planner: SimAgent::new("acme/planner", 1),
            auditor: SimAgent::new("acme/auditor", 4),
            executor: SimAgent::new("acme/executor", 2),
            stranger: SimAgent::new("other/stranger", 3),
        }
    }

    fn node(&self, shard_count: u16) -> Node {
        Node::new(shard_count, &[&self.planner, &self.auditor, &self.executor, &self.stranger])
    }

    fn seal(&self, from: &SimAgent, to: &SimAgent, number: u32) -> Vec<u8> {
        from.seal(to, message_id(number), NOW.unix_ms, &number.to_le_bytes())
    }

    fn batch(&self, from: &SimAgent, numbers: std::ops::Range<u32>) -> SimBatch {
        let envelopes: Vec<_> = numbers.map(|number| self.seal(from, &self.executor, number)).collect();
        from.sign(&envelopes, NOW.unix_ms)
    }

    /// The batch with this number: good or bad in one of the ways there are.
    fn mixed(&self, from: &SimAgent, number: u32) -> SimBatch {
        let first = number * 16;
        let mut batch = self.batch(from, first..first + 3);
        match number % 8 {
            1 => batch.header.ml_dsa_65[9] ^= 1,
            2 => *batch.envelopes[1].last_mut().unwrap() ^= 1,
            3 => {
                let mut malformed = batch.envelopes[0].clone();
                malformed[3] = 9;
                let denied = self.seal(from, &self.stranger, first + 4);
                batch = from.sign(&[malformed, denied, batch.envelopes[1].clone()], NOW.unix_ms);
            }
            4 => {
                // Every message is refused before the signatures are looked at.
                let mut malformed = batch.envelopes[0].clone();
                malformed[3] = 9;
                batch = from.sign(&[malformed], NOW.unix_ms);
            }
            5 => batch = self.batch(from, first - 80..first - 77),
            6 => batch.header.signed_at_ms -= 3_700_000,
            _ => {}
        }
        batch
    }
}

fn message_id(number: u32) -> MessageId {
    let mut random = [0; 10];
    random[6..].copy_from_slice(&number.to_be_bytes());
    MessageId::from_parts(NOW.unix_ms, random)
}

/// What two senders and a reader see of the same traffic.
#[derive(PartialEq, Debug)]
struct Seen {
    acks: Vec<(u64, Vec<(u32, RejectCode)>)>,
    opened: Vec<Vec<Vec<u8>>>,
    closed: usize,
}

fn traffic(world: &World, mut node: Node, batches: &[Vec<SimBatch>; 2]) -> Seen {
    let reader = node.connect_as(1, &world.executor);
    node.subscribe(&reader, &world.executor);
    let senders = [node.connect_as(0, &world.planner), node.connect_as(0, &world.auditor)];
    for (number, pair) in batches[0].iter().zip(&batches[1]).enumerate() {
        let sequence = number as u64 + 1;
        node.arrive(&senders[0], sequence, pair.0);
        node.arrive(&senders[1], sequence, pair.1);
        // Several batches of a connection in one turn, then in turns of their own.
        if number % 3 == 2 || number > 12 {
            node.run();
        }
    }
    node.run();
    let deliveries = node.deliveries(&reader);
    let from = |agent: &SimAgent| {
        let envelopes = deliveries.iter().map(|(_, envelope)| EnvelopeView::parse(envelope).unwrap());
        envelopes.filter(|view| view.sender() == agent.id).map(|view| world.executor.open(&view)).collect()
    };
    Seen {
        acks: senders.iter().map(|sender| node.acks(sender)).collect(),
        opened: vec![from(&world.planner), from(&world.auditor)],
        closed: node.closed.len(),
    }
}

#[test]
fn workers_give_the_verdicts_and_acknowledgements_that_the_shard_itself_gives() {
    let world = World::new();
    let of = |agent, first| (first..first + 24).map(|number| world.mixed(agent, number)).collect::<Vec<_>>();
    let batches = [of(&world.planner, 8), of(&world.auditor, 45)];
    let inline = traffic(&world, world.node(2), &batches);
    assert_eq!(inline.closed, 0);
    assert!(inline.acks.iter().all(|(through, _)| *through == 24), "everything is answered: {inline:?}");
    let codes: std::collections::BTreeSet<_> =
        inline.acks.iter().flat_map(|(_, results)| results.iter().map(|(_, code)| *code)).collect();
    assert!(codes.len() >= 6, "the traffic has many ways to be bad: {codes:?}");
    for (at_workers_max, seed) in [(1, 1), (2, 2), (3, 3), (64, 4), (64, 5), (64, 6)] {
        let workers = traffic(&world, world.node(2).with_workers(at_workers_max, seed), &batches);
        assert_eq!(workers, inline, "{at_workers_max} at a time, seed {seed}");
    }
}

#[test]
fn batches_of_a_connection_stay_in_order_whichever_verdict_comes_first() {
    let world = World::new();
    for seed in 0..20 {
        let mut node = world.node(1).with_workers(8, seed);
        let reader = node.connect_as(0, &world.executor);
        node.subscribe(&reader, &world.executor);
        let sender = node.connect_as(0, &world.planner);
        for number in 0..8u32 {
            node.arrive(&sender, u64::from(number) + 1, &world.batch(&world.planner, number * 2..number * 2 + 2));
        }
        node.run();
        let deliveries = node.deliveries(&reader);
        let opened: Vec<_> = deliveries
            .iter()
            .map(|(_, envelope)| world.executor.open(&EnvelopeView::parse(envelope).unwrap()))
            .collect();
        assert_eq!(opened, (0..16u32).map(|number| number.to_le_bytes()).collect::<Vec<_>>(), "seed {seed}");
    }
}

#[test]
fn workers_get_no_more_than_they_take_and_the_rest_waits() {
    let world = World::new();
    let mut node = world.node(1).with_workers(2, 1);
    let sender = node.connect_as(0, &world.planner);
    node.hold_verdicts = true;
    for number in 0..6u32 {
        node.arrive(&sender, u64::from(number) + 1, &world.batch(&world.planner, number..number + 1));
    }
    node.run();
    assert_eq!((node.jobs.len(), node.shards[0].batches_at_workers()), (2, 6));
    node.verify_one();
    node.run();
    assert_eq!(node.jobs.len(), 2, "a worker that is free gets the next one");
    node.hold_verdicts = false;
    node.run();
    assert_eq!(node.acks(&sender), (6, vec![]));
}

#[test]
fn a_connection_that_goes_while_workers_verify_leaves_nothing_behind() {
    let world = World::new();
    let mut node = world.node(1).with_workers(4, 1);
    node.hold_verdicts = true;
    let gone = node.connect_as(0, &world.planner);
    for number in 0..6u32 {
        node.arrive(&gone, u64::from(number) + 1, &world.batch(&world.planner, number..number + 1));
    }
    node.run();
    assert_eq!(node.jobs.len(), 4);
    node.event(0, Event::Disconnected { connection: gone.connection });
    assert_eq!((node.shards[0].batches_at_workers(), node.shards[0].ingress_bytes()), (0, 0));
    // The workers answer all the same, and the next connection finds all of them free.
    node.hold_verdicts = false;
    node.run();
    let next = node.connect_as(0, &world.planner);
    for number in 0..6u32 {
        node.arrive(&next, u64::from(number) + 1, &world.batch(&world.planner, number..number + 1));
    }
    node.run();
    assert_eq!(node.acks(&next), (6, vec![]));
}

#[test]
fn a_draining_shard_waits_for_its_workers() {
    let world = World::new();
    let mut node = world.node(1).with_workers(4, 1);
    node.hold_verdicts = true;
    let client = node.connect_as(0, &world.planner);
    node.submit(&client, 1, &world.batch(&world.planner, 1..3));
    node.event(0, Event::Drain);
    node.submit(&client, 2, &world.batch(&world.planner, 3..5));
    node.run();
    assert!(!node.shards[0].is_drained());
    node.hold_verdicts = false;
    node.run();
    assert_eq!(node.acks(&client), (2, vec![(WHOLE_BATCH, RejectCode::ShuttingDown)]));
    assert!(node.shards[0].is_drained());
}

#[test]
fn who_is_revoked_while_workers_verify_sends_nothing_any_more() {
    let world = World::new();
    let mut node = world.node(1).with_workers(4, 1);
    node.hold_verdicts = true;
    let client = node.connect_as(0, &world.planner);
    node.submit(&client, 1, &world.batch(&world.planner, 1..3));
    node.event(0, Event::Snapshot(creto_sim::agents::snapshot([&world.executor])));
    assert_eq!(node.closed, [(client.connection, RejectCode::UnknownSender)]);
    node.hold_verdicts = false;
    node.run();
    assert_eq!(node.shards[0].counters().messages_durable, 0);
}

/// A flood from one connection: in one turn and over many, with and without workers.
#[test]
fn a_flood_of_bad_signatures_costs_a_bounded_number_of_verifications() {
    const FLOOD: u32 = 100;
    let world = World::new();
    let bad: Vec<_> = (0..FLOOD)
        .map(|number| {
            let mut batch = world.batch(&world.planner, number..number + 1);
            batch.header.ml_dsa_65[1_000] ^= 1;
            batch
        })
        .collect();
    for in_one_turn in [true, false] {
        for workers in [None, Some(1), Some(64)] {
            let mut node = world.node(1);
            if let Some(at_workers_max) = workers {
                node = node.with_workers(at_workers_max, 7);
            }
            let (flood, honest) = (node.connect_as(0, &world.planner), node.connect_as(0, &world.auditor));
            let good = |node: &mut Node, client: &Client, number: u32| {
                node.arrive(client, u64::from(number), &world.batch(&world.auditor, number * 10..number * 10 + 2));
            };
            good(&mut node, &honest, 1);
            for (sequence, batch) in (1..).zip(&bad) {
                node.arrive(&flood, sequence, batch);
                if !in_one_turn {
                    node.run();
                }
            }
            good(&mut node, &honest, 2);
            node.run();
            let case = format!("in one turn: {in_one_turn}, workers: {workers:?}");
            assert_eq!(node.closed, [(flood.connection, RejectCode::BadSignature)], "{case}");
            assert_eq!(node.shards[0].counters().roots_checked, u64::from(BAD_SIGNATURES_MAX) + 2, "{case}");
            assert_eq!(node.acks(&honest), (2, vec![]), "others are served: {case}");
        }
    }
}

#[test]
fn a_root_that_comes_again_is_not_verified_again() {
    let world = World::new();
    for workers in [false, true] {
        let mut node = world.node(1);
        if workers {
            node = node.with_workers(4, 1);
        }
        let mut bad = world.batch(&world.planner, 1..3);
        bad.header.ed25519[5] ^= 1;
        let good = world.batch(&world.planner, 5..7);
        for connection in 0..3 {
            let client = node.connect_as(0, &world.planner);
            node.submit(&client, 1, &bad);
            node.submit(&client, 2, &good);
            let (through, results) = node.acks(&client);
            let again = [(0, RejectCode::Duplicate), (1, RejectCode::Duplicate)];
            let expected = [(WHOLE_BATCH, RejectCode::BadSignature)].into_iter();
            let expected = expected.chain(again.into_iter().filter(|_| connection > 0)).collect::<Vec<_>>();
            assert_eq!((through, results), (2, expected));
        }
        assert_eq!(node.shards[0].counters().roots_checked, 2, "one good root, one bad one");
    }
}
