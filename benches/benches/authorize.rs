//! What one authorization costs a shard: an answer from the table, a fresh evaluation, and the making of a snapshot.
//!
//! The target is a median of at most 100 ns for an answer. `hot` asks for one pair again and again, which is what a
//! batch does; `pairs` walks many pairs in an order the processor cannot guess, which is the honest worst of the table.

use std::hint::black_box;
use std::sync::Arc;

use creto_envelope::{AgentId, AgentName, AgentState, KeyRecord, SignedKeyRecord, TrustDomain};
use creto_policy::{Action, DecisionTable, Policy, Snapshot, SnapshotBuilder, decide};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};

const NOW_MS: u64 = 1_800_000_000_000;
const LIFETIME_MS: u64 = 60_000;
const ENTRIES_MAX: usize = 65_536;
const ORGANIZATION_COUNT: usize = 10;

fn signed_record(name: &str) -> Arc<SignedKeyRecord> {
    Arc::new(SignedKeyRecord {
        record: KeyRecord {
            version: 1,
            state: AgentState::Active,
            valid_from_ms: 0,
            valid_until_ms: u64::MAX,
            ed25519: [1; 32],
            x25519: [2; 32],
            ml_dsa_65: Box::new([3; 1952]),
            ml_kem_768: Box::new([4; 1184]),
            name: AgentName::parse(name).expect("the name has the right form"),
            trust_domain: TrustDomain::default(),
            fn_dsa_512: None,
        },
        ed25519: [0; 64],
        ml_dsa_65: Box::new([0; 3309]),
    })
}

fn builder(agent_count: usize) -> (SnapshotBuilder, Vec<AgentId>) {
    let mut builder = SnapshotBuilder::with_policy(Policy::SameOrganization);
    let agents = (0..agent_count)
        .map(|index| {
            let record = signed_record(&format!("org-{}/agent-{index}", index % ORGANIZATION_COUNT));
            builder.insert(AgentState::Active, vec![record]).expect("one record makes an agent")
        })
        .collect();
    (builder, agents)
}

/// Pairs of one organization, in a fixed order without a pattern. A power of two of them.
fn pairs(agents: &[AgentId], pair_count: usize) -> Vec<(AgentId, AgentId)> {
    let mut state = 1_u64;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(state >> 40).expect("24 bits fit")
    };
    (0..pair_count)
        .map(|_| {
            let from = next() % agents.len();
            let to = (from + ORGANIZATION_COUNT * (next() % 100)) % agents.len();
            (agents[from], agents[to])
        })
        .collect()
}

fn table(snapshot: &Snapshot, pairs: &[(AgentId, AgentId)]) -> DecisionTable {
    let mut table = DecisionTable::new(ENTRIES_MAX, LIFETIME_MS);
    for (from, to) in pairs {
        assert!(table.decide(snapshot, NOW_MS, from, Action::SendMessage, to).is_allowed());
    }
    table
}

fn authorize(criterion: &mut Criterion) {
    let (builder, agents) = builder(10_000);
    let snapshot = builder.build(1);
    let mut group = criterion.benchmark_group("authorize");
    group.throughput(Throughput::Elements(1));

    for (name, pair_count) in [("hit/hot", 1), ("hit/1024-pairs", 1_024), ("hit/16384-pairs", 16_384)] {
        let pairs = pairs(&agents, pair_count);
        let mut table = table(&snapshot, &pairs);
        let mut at = 0;
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                let (from, to) = &pairs[at];
                at = (at + 1) & (pair_count - 1);
                table.decide(black_box(&snapshot), black_box(NOW_MS), from, Action::SendMessage, to)
            });
        });
        let stats = table.stats();
        assert!(stats.hits > 50 * stats.misses, "{name} measured misses: {stats:?}");
    }

    let pairs = pairs(&agents, 1_024);
    let mut at = 0;
    group.bench_function("fresh/1024-pairs", |bencher| {
        bencher.iter(|| {
            let (from, to) = &pairs[at];
            at = (at + 1) & 1_023;
            decide(black_box(&snapshot), black_box(NOW_MS), from, Action::SendMessage, to)
        });
    });

    let mut forgetful = DecisionTable::new(ENTRIES_MAX, 0);
    group.bench_function("miss/1024-pairs", |bencher| {
        bencher.iter(|| {
            let (from, to) = &pairs[at];
            at = (at + 1) & 1_023;
            forgetful.decide(black_box(&snapshot), black_box(NOW_MS), from, Action::SendMessage, to)
        });
    });

    group.throughput(Throughput::Elements(10_000));
    group.bench_function("snapshot/build-10000-agents", |bencher| bencher.iter(|| builder.build(black_box(2))));
    group.finish();
}

criterion_group!(benches, authorize);
criterion_main!(benches);
