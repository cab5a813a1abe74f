//! What one authorization costs a shard: an answer from the table, a fresh evaluation, and the making of a snapshot.
//!
//! The target is a median of at most 100 ns for an answer, and a 99th percentile of at most 250 ns, on a table of a million
//! pairs. `hot` asks for one pair again and again, which is what a batch does; `pairs` walks many pairs in an order the
//! processor cannot guess, which is the honest worst of the table. Percentiles are of lookups that are timed one by one, less
//! what reading the clock takes.
//!
//! `rego` is a policy that an operator wrote, in the examples of the product's documents: at most 25 us for an evaluation.

use std::hint::black_box;
use std::sync::Arc;

use creto_benches::control::decisions::{NOW_MS, ORGANIZATION, RATE, ROLE, agents, pairs, policy, table, warm};
use creto_envelope::AgentId;
use creto_policy::{Action, Answer, DecisionTable, Policy, PolicySource as _, Question, SnapshotBuilder, decide};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};

const ENTRIES_MAX: usize = 65_536;

fn authorize(criterion: &mut Criterion) {
    let (builder, agents) = agents(10_000);
    let snapshot = builder.build(1);
    let mut group = criterion.benchmark_group("authorize");
    group.throughput(Throughput::Elements(1));

    for (name, pair_count) in [("hit/hot", 1), ("hit/1024-pairs", 1_024), ("hit/16384-pairs", 16_384)] {
        let pairs = pairs(&agents, pair_count);
        let mut table = table(&snapshot, &pairs, ENTRIES_MAX);
        let mut at = 0;
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                let (from, to) = &pairs[at];
                at = (at + 1) & (pair_count - 1);
                table.decide(black_box(&snapshot), black_box(NOW_MS), from, Action::SendMessage, to, 0)
            });
        });
        let stats = table.stats();
        // What a filter left out measured nothing.
        assert!(stats.hits == 0 || stats.hits > 50 * stats.misses, "{name} measured misses: {stats:?}");
    }

    million();
    rego(&mut group, &builder, &agents);

    let pairs = pairs(&agents, 1_024);
    let mut at = 0;
    group.bench_function("fresh/1024-pairs", |bencher| {
        bencher.iter(|| {
            let (from, to) = &pairs[at];
            at = (at + 1) & 1_023;
            decide(black_box(&snapshot), black_box(NOW_MS), from, Action::SendMessage, to, 0)
        });
    });

    let mut forgetful = DecisionTable::new(ENTRIES_MAX, 0);
    group.bench_function("miss/1024-pairs", |bencher| {
        bencher.iter(|| {
            let (from, to) = &pairs[at];
            at = (at + 1) & 1_023;
            forgetful.decide(black_box(&snapshot), black_box(NOW_MS), from, Action::SendMessage, to, 0)
        });
    });

    group.throughput(Throughput::Elements(10_000));
    group.bench_function("snapshot/build-10000-agents", |bencher| bencher.iter(|| builder.build(black_box(2))));
    group.finish();
}

/// Percentiles of lookups in a warm table of a million pairs.
fn million() {
    let warm = warm(1 << 20);
    for (name, times) in [("in-a-batch", warm.batch), ("alone", warm.alone)] {
        let [p50, p90, p99, p99_9] = [0.5, 0.9, 0.99, 0.999].map(|part| times.at(part));
        println!("authorize/hit/million-pairs/{name}: p50 {p50} ns, p90 {p90} ns, p99 {p99} ns, p99.9 {p99_9} ns");
    }
}

/// What the documents' policies cost when they are asked, and a shard that knows the answer to what they read.
fn rego(
    group: &mut criterion::BenchmarkGroup<'_, criterion::measurement::WallTime>,
    builder: &SnapshotBuilder,
    agents: &[AgentId],
) {
    let all = [ORGANIZATION, RATE, ROLE].concat();
    for (name, text) in [("organization", ORGANIZATION), ("rate", RATE), ("role", ROLE), ("all", &all)] {
        let policy = policy(text);
        let mut builder = builder.clone();
        builder.set_policy(Some(Policy::Loaded(Arc::new(policy.clone()))));
        let snapshot = builder.build(3);
        let principal = |place: usize| snapshot.principal(&agents[place % agents.len()]).expect("it is there");
        let (mut evaluator, mut at) = (policy.evaluator(), 0);
        group.bench_function(format!("rego/evaluate/{name}"), |bencher| {
            bencher.iter(|| {
                at += 1;
                let recent_messages = u32::try_from(at % 900).expect("small");
                let (sender, recipient) = (principal(at), principal(at + 10));
                let question =
                    Question { sender, action: Action::SendMessage, recipient, channel: None, recent_messages };
                let answer = evaluator.evaluate(&question).answer;
                assert_ne!(answer, Answer::Failed);
                answer
            });
        });
        if name == "organization" {
            let mut forgetful = DecisionTable::new(0, 0);
            group.bench_function(format!("rego/known-answer/{name}"), |bencher| {
                bencher.iter(|| {
                    at += 1;
                    let (from, to) = (&agents[at % agents.len()], &agents[(at + 10) % agents.len()]);
                    forgetful.begin_turn();
                    forgetful.decide(&snapshot, NOW_MS, from, Action::SendMessage, to, 0)
                });
            });
        }
    }
}

criterion_group!(benches, authorize);
criterion_main!(benches);
