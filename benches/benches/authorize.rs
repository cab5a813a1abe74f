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
use std::time::Instant;

use creto_envelope::{AgentId, AgentName, AgentState, KeyRecord, SignedKeyRecord, TrustDomain};
use creto_policy::{
    Action, Answer, DecisionTable, Policy, PolicySource as _, Question, Snapshot, SnapshotBuilder, decide,
};
use creto_rego::PolicySource;
use creto_service::policy::RegoPolicy;
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

fn table(snapshot: &Snapshot, pairs: &[(AgentId, AgentId)], entries_max: usize) -> DecisionTable {
    let mut table = DecisionTable::new(entries_max, LIFETIME_MS);
    for (from, to) in pairs {
        assert!(table.decide(snapshot, NOW_MS, from, Action::SendMessage, to, 0).is_allowed());
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
        assert!(stats.hits > 50 * stats.misses, "{name} measured misses: {stats:?}");
    }

    million(&snapshot, &agents);
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
fn million(snapshot: &Snapshot, agents: &[AgentId]) {
    const PAIRS: usize = 1 << 20;
    let pairs = pairs(agents, PAIRS);
    let mut table = table(snapshot, &pairs, 4 * PAIRS);
    // Those that lost their place come back once; a second round finds all that stay.
    for (from, to) in &pairs {
        black_box(table.decide(snapshot, NOW_MS, from, Action::SendMessage, to, 0).is_allowed());
    }
    let before = table.stats();
    let clock_ns = percentile(&mut times(PAIRS / 4, |_| ()), 50);
    let mut taken = times(2 * PAIRS, |round| {
        let (from, to) = &pairs[round.wrapping_mul(0x9e37_79b1) & (PAIRS - 1)];
        black_box(table.decide(snapshot, NOW_MS, from, Action::SendMessage, to, 0).is_allowed());
    });
    let misses = table.stats().misses - before.misses;
    let net = |ns: u64| ns.saturating_sub(clock_ns);
    println!(
        "authorize/hit/million-pairs: p50 {} ns, p90 {} ns, p99 {} ns, p99.9 {} ns, {misses} misses in {} lookups (clock {clock_ns} ns)",
        net(percentile(&mut taken, 50)),
        net(percentile(&mut taken, 90)),
        net(percentile(&mut taken, 99)),
        net(taken[taken.len() - taken.len() / 1_000]),
        2 * PAIRS,
    );
    assert!(misses * 1_000 < PAIRS as u64, "the table is not warm");
}

fn times(rounds: usize, mut run: impl FnMut(usize)) -> Vec<u64> {
    let mut taken = Vec::with_capacity(rounds);
    for round in 0..rounds {
        let begun = Instant::now();
        run(round);
        taken.push(u64::try_from(begun.elapsed().as_nanos()).unwrap_or(u64::MAX));
    }
    taken
}

fn percentile(taken: &mut [u64], percent: usize) -> u64 {
    taken.sort_unstable();
    taken[taken.len() * percent / 100]
}

/// What the documents' policies cost when they are asked, and a shard that knows the answer to what they read.
fn rego(
    group: &mut criterion::BenchmarkGroup<'_, criterion::measurement::WallTime>,
    builder: &SnapshotBuilder,
    agents: &[AgentId],
) {
    const ORGANIZATION: &str = "allow { input.sender.organization_id == input.recipient.organization_id }\n";
    const RATE: &str = "allow { count(recent_messages[input.sender.nhi]) < 1000 }\n";
    const ROLE: &str = "allow { input.sender.roles[_] == \"coordinator\"\ninput.action == \"send_message\" }\n";
    let all = [ORGANIZATION, RATE, ROLE].concat();
    for (name, text) in [("organization", ORGANIZATION), ("rate", RATE), ("role", ROLE), ("all", &all)] {
        let policy = RegoPolicy::new(PolicySource::parse("p.rego", text).expect("it is one"), text);
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
                let question = Question { sender, action: Action::SendMessage, recipient, recent_messages };
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
