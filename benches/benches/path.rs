//! The whole path in memory: submitted, durable, pushed, acknowledged by its consumer, settled. No network, no disk.

use std::time::{Duration, Instant};

use creto_benches::{DELIVER, InstantShard, SUBMIT, aligned, batches};
use creto_envelope::FrameType;
use creto_envelope::deliver::{ConsumerAck, Credit, Deliver, Subscribe};
use creto_envelope::frame::FRAME_HEADER_BYTES;
use creto_sim::agents::SimAgent;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};

const BATCH_MESSAGES: u64 = 256;
const BATCHES: u64 = 32;

fn path(criterion: &mut Criterion) {
    let (planner, executor) = (SimAgent::new("acme/planner", 1), SimAgent::new("acme/executor", 2));
    let bodies = batches(&planner, &executor, BATCHES, BATCH_MESSAGES, 1_024);
    let mut group = criterion.benchmark_group("path");
    group.throughput(Throughput::Elements(BATCH_MESSAGES));
    group.bench_function("submit_deliver_settle/256x1KiB", |bencher| {
        bencher.iter_custom(|iterations| {
            let mut took = Duration::ZERO;
            let mut left = iterations;
            while left > 0 {
                let mut shard = InstantShard::new(&[&planner, &executor]);
                let sender = shard.connect(1, &planner);
                let reader = shard.connect(2, &executor);
                shard.encoded(reader, DELIVER, |out| Subscribe { mailbox: executor.id }.encode(out));
                let count = usize::try_from(left.min(BATCHES)).expect("a small number");
                for body in &bodies[..count] {
                    shard.sent.clear();
                    let begun = Instant::now();
                    shard.encoded(reader, DELIVER, |out| Credit { messages: 256, bytes: 1 << 20 }.encode(out));
                    shard.frame(sender, SUBMIT, FrameType::SignedBatch, body.clone());
                    shard.turns();
                    took += begun.elapsed();
                    // What a consumer does with the frames is not the shard's work.
                    let sequences = delivered(&shard);
                    assert_eq!(sequences.len() as u64, BATCH_MESSAGES, "the whole batch was pushed");
                    let begun = Instant::now();
                    shard.encoded(reader, DELIVER, |out| ConsumerAck { sequences }.encode(out));
                    shard.turns();
                    took += begun.elapsed();
                }
                left -= count as u64;
            }
            took
        });
    });
}

/// Sequences of the messages in the Deliver frames that the shard sent.
fn delivered(shard: &InstantShard) -> Vec<u64> {
    let mut sequences = Vec::new();
    for (_, frames) in shard.sent.iter().filter(|(stream, _)| *stream == DELIVER) {
        let mut rest = &frames[..];
        while !rest.is_empty() {
            let header = rest[..FRAME_HEADER_BYTES].try_into().expect("a frame has a header");
            let header = creto_envelope::FrameHeader::parse(header).expect("the shard sends frames");
            let end = FRAME_HEADER_BYTES + header.body_bytes as usize;
            if header.frame_type == FrameType::Deliver {
                let body = aligned(&rest[FRAME_HEADER_BYTES..end]);
                let parsed = Deliver::parse(&body).expect("the shard sends what it says");
                sequences.extend(parsed.messages.iter().map(|message| message.mailbox_sequence));
            }
            rest = &rest[end..];
        }
    }
    sequences
}

criterion_group!(benches, path);
criterion_main!(benches);
