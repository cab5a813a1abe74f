//! What a delivery costs a shard, from one published message to a thousand subscribers: deciding, looking up, encoding, and the
//! actions for the driver; without QUIC and without a disk. Long; run it alone on a machine at rest:
//!
//! `cargo test --release -p creto-shard --test channel_cost -- --ignored --nocapture`
#![allow(
    clippy::unwrap_used,
    clippy::cast_precision_loss,
    clippy::disallowed_methods,
    reason = "a test harness that measures: a wrong unwrap fails the test"
)]

#[allow(dead_code, reason = "each test file takes what it needs")]
mod fixture;
#[allow(dead_code, reason = "each test file takes what it needs")]
mod topic;

use std::sync::Arc;
use std::time::{Duration, Instant};

use creto_envelope::channel::frames::{ChannelAck, Start};
use creto_envelope::{AgentState, MessageId};
use creto_policy::SnapshotBuilder;
use creto_shard::{Action, Event};
use creto_sim::agents::SimAgent;
use fixture::{CHANNELS, NOW};
use topic::{ALONE, Subscriber, TOPIC, World, publish, record};

const SUBSCRIBERS: u16 = 1_000;

/// Publishes in batches of `batch`, has all of it delivered and acknowledged, and says what that took.
fn measure(batch: u64, batches: u64) {
    let world = World::new();
    let agents: Vec<_> = (0..SUBSCRIBERS)
        .map(|number| SimAgent::new(&format!("acme/s{number}"), u8::try_from(number % 250).unwrap()))
        .collect();
    let mut node = world.node(1);
    let everybody = |builder: &mut SnapshotBuilder| {
        for agent in &agents {
            builder.insert(AgentState::Active, vec![Arc::clone(&agent.record)]).unwrap();
        }
    };
    publish(&mut node, &world.snapshot(3, &[record(TOPIC)], everybody));
    let sender = node.connect_as(0, &world.owner);
    let readers: Vec<_> = agents
        .iter()
        .map(|agent| {
            let reader = Subscriber::connect(&mut node, 0, agent);
            reader.ask(&mut node, 1, TOPIC, ALONE, Start::GoOn);
            reader
        })
        .collect();
    let mut publisher = world.publisher(TOPIC);
    let (mut delivering, mut acknowledging) = (Duration::ZERO, Duration::ZERO);
    let (mut delivered, mut bytes, mut sends) = (0, 0, 0);
    for number in 0..batches {
        for reader in &readers {
            reader.grant(&mut node, 1, u32::try_from(batch).unwrap(), 4 << 20);
        }
        let envelopes: Vec<_> = (number * batch..(number + 1) * batch)
            .map(|number| {
                let mut random = [0; 10];
                random[2..].copy_from_slice(&number.to_be_bytes());
                publisher.seal(MessageId::from_parts(NOW.unix_ms, random), NOW.unix_ms, &[7; 1_024])
            })
            .collect();
        node.hold_disk = true;
        node.submit(&sender, number + 1, &world.owner.sign(&envelopes, NOW.unix_ms));
        node.hold_disk = false;
        for (shard, id) in std::mem::take(&mut node.disk) {
            node.event(shard, Event::Disk { id, outcome: Ok(()) });
        }
        let before = node.shards[0].counters().channel_messages_pushed;
        let begun = Instant::now();
        let mut actions = Vec::new();
        loop {
            node.shards[0].end_turn(NOW, &mut actions);
            if !node.shards[0].has_work() {
                break;
            }
        }
        delivering += begun.elapsed();
        delivered += node.shards[0].counters().channel_messages_pushed - before;
        for action in &actions {
            if let Action::Send { frames, .. } = action {
                sends += 1;
                bytes += frames.len();
            }
        }
        node.carry_out(0, actions.into_iter().filter(|action| !matches!(action, Action::Send { .. })).collect());
        let newest =
            node.shards[0].log().mailboxes().kept_range(creto_store::MailboxId(topic::topic(TOPIC).0)).unwrap().1;
        let acks: Vec<_> =
            readers.iter().map(|reader| (reader.client, ChannelAck { handle: 1, sequences: vec![newest] })).collect();
        let frames: Vec<_> = acks
            .iter()
            .map(|(client, ack)| {
                let mut out = Vec::new();
                ack.encode(&mut out);
                (client.connection, fixture::aligned(&out[creto_envelope::frame::FRAME_HEADER_BYTES..]))
            })
            .collect();
        let begun = Instant::now();
        let mut actions = Vec::new();
        for (connection, body) in frames {
            let frame_type = creto_envelope::FrameType::ChannelAck;
            node.shards[0].apply(NOW, Event::Frame { connection, stream: CHANNELS, frame_type, body }, &mut actions);
        }
        node.shards[0].end_turn(NOW, &mut actions);
        acknowledging += begun.elapsed();
        node.carry_out(0, actions);
        node.run();
        node.sent.clear();
        node.raw.clear();
    }
    assert_eq!(delivered, u64::from(SUBSCRIBERS) * batch * batches);
    let each = |time: Duration| time.as_nanos() as f64 / delivered as f64;
    println!(
        "{SUBSCRIBERS} subscribers, batches of {batch}: {delivered} deliveries, {:.0} ns each to deliver, {:.0} ns each to \
         acknowledge, {sends} sends of {bytes} bytes",
        each(delivering),
        each(acknowledging),
    );
}

#[test]
#[ignore = "measures"]
fn a_thousand_subscribers() {
    measure(1, 200);
    measure(16, 40);
    measure(256, 4);
}
