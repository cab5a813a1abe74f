//! Admission on one core, batches of 256: decode and verify (`admit`), with authorization (`admit_authorized`), and the
//! whole way into the log (`admit_logged`). Messages of a session, which carry no wrapped key, and sealed ones, which do.
//! What counts is CPU time of the thread, so that neighbours change little.

use std::time::Duration;

use bytes::Bytes;
use creto_benches::crypto::median::CpuTime;
use creto_benches::{InstantShard, NOW, SUBMIT, batches, session_batches};
use creto_envelope::FrameType;
use creto_shard::admission::Admission;
use creto_sim::agents::{SimAgent, snapshot};
use criterion::{BenchmarkGroup, Criterion, Throughput, criterion_group, criterion_main, measurement::WallTime};

const BATCH_MESSAGES: u64 = 256;
/// Batches that one shard takes before a fresh one is made: its memory stays below the processor's and ours. Each is
/// verified once: a verdict that is remembered would cost nothing.
const BATCHES: u64 = 32;

/// Batches of one kind of message; the first is the warm-up.
struct Traffic {
    name: &'static str,
    bodies: Vec<Bytes>,
}

fn admit(criterion: &mut Criterion) {
    let (planner, executor) = (SimAgent::new("acme/planner", 1), SimAgent::new("acme/executor", 2));
    let sealed = |bytes| batches(&planner, &executor, BATCHES + 1, BATCH_MESSAGES, bytes);
    let session = |bytes| session_batches(&planner, &executor, BATCHES + 1, BATCH_MESSAGES, bytes);
    let traffic = [
        Traffic { name: "session-256x1KiB", bodies: session(1_024) },
        Traffic { name: "session-256x16B", bodies: session(16) },
        Traffic { name: "sealed-256x1KiB", bodies: sealed(1_024) },
    ];
    for (group, stages) in
        [("admit", Admission::verify as fn(&mut Admission, _, _) -> _), ("admit_authorized", Admission::authorize)]
    {
        let mut group = group_of(criterion, group);
        for Traffic { name, bodies } in &traffic {
            group.bench_function(*name, |bencher| {
                bencher.iter_custom(|iterations| {
                    rounds(iterations, |count| {
                        let mut admission = Admission::new(snapshot([&planner, &executor]), planner.record.clone());
                        stages(&mut admission, NOW, bodies[0].clone());
                        let begun = CpuTime::now();
                        let round = bodies[1..=count].iter();
                        let admitted: usize = round.map(|body| stages(&mut admission, NOW, body.clone())).sum();
                        let took = begun.elapsed();
                        assert_eq!((admitted, admission.refused()), (count * 256, 0), "every message is admitted");
                        took
                    })
                });
            });
        }
        group.finish();
    }
    let mut group = group_of(criterion, "admit_logged");
    for Traffic { name, bodies } in &traffic {
        group.bench_function(*name, |bencher| {
            bencher.iter_custom(|iterations| {
                rounds(iterations, |count| {
                    let mut shard = InstantShard::new(&[&planner, &executor]);
                    let connection = shard.connect(1, &planner);
                    let begun = CpuTime::now();
                    for body in &bodies[..count] {
                        shard.frame(connection, SUBMIT, FrameType::SignedBatch, body.clone());
                        shard.turns();
                    }
                    begun.elapsed()
                })
            });
        });
    }
}

fn group_of<'c>(criterion: &'c mut Criterion, name: &str) -> BenchmarkGroup<'c, WallTime> {
    let mut group = criterion.benchmark_group(name);
    group.throughput(Throughput::Elements(BATCH_MESSAGES));
    group
}

/// Time of so many batches, in rounds of [`BATCHES`] at most.
fn rounds(iterations: u64, mut round: impl FnMut(usize) -> Duration) -> Duration {
    let mut took = Duration::ZERO;
    let mut left = iterations;
    while left > 0 {
        let count = left.min(BATCHES);
        took += round(usize::try_from(count).expect("a small number"));
        left -= count;
    }
    took
}

criterion_group!(benches, admit);
criterion_main!(benches);
