//! Admission on one core: receive, decode, verify, authorize, into the log. 1 KiB of payload, batches of 256.

use std::time::{Duration, Instant};

use creto_benches::{InstantShard, SUBMIT, batches};
use creto_envelope::FrameType;
use creto_sim::agents::SimAgent;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};

const BATCH_MESSAGES: u64 = 256;
/// Batches that one shard takes before a fresh one is made: its memory stays below the processor's and ours.
const BATCHES: u64 = 32;

fn admit(criterion: &mut Criterion) {
    let (planner, executor) = (SimAgent::new("acme/planner", 1), SimAgent::new("acme/executor", 2));
    let mut group = criterion.benchmark_group("admit");
    group.throughput(Throughput::Elements(BATCH_MESSAGES));
    for (name, payload_bytes) in [("256x1KiB", 1_024), ("256x16B", 16)] {
        let bodies = batches(&planner, &executor, BATCHES, BATCH_MESSAGES, payload_bytes);
        group.bench_function(name, |bencher| {
            bencher.iter_custom(|iterations| {
                let mut took = Duration::ZERO;
                let mut left = iterations;
                while left > 0 {
                    let mut shard = InstantShard::new(&[&planner, &executor]);
                    let connection = shard.connect(1, &planner);
                    let count = usize::try_from(left.min(BATCHES)).expect("a small number");
                    let begun = Instant::now();
                    for body in &bodies[..count] {
                        shard.frame(connection, SUBMIT, FrameType::SignedBatch, body.clone());
                        shard.turns();
                    }
                    took += begun.elapsed();
                    left -= count as u64;
                }
                took
            });
        });
    }
}

criterion_group!(benches, admit);
criterion_main!(benches);
