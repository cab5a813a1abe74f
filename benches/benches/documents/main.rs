//! The tables of the documents that this system was drawn up from, and beside each of their figures ours, all measured in
//! this run: `cargo bench -p creto-benches --bench documents [-- --json]`. It takes about two minutes.
//!
//! Figures of the documents are estimates and targets; what stands beside them does the same work or more (hybrid where
//! they are not, both signatures where they count one). Work of one core is measured in CPU time; whatever needs a node is
//! measured by the wall clock on a whole one, with its clients on the same machine, and its row says so.
#![allow(clippy::unwrap_used, reason = "a bench stops where it is wrong")]

use std::fs;
use std::hint::black_box;
use std::path::Path;
use std::thread;
use std::time::Duration;

use creto_benches::NOW;
use creto_benches::crypto::primitive::{self, Primitives};
use creto_benches::crypto::station::{Admission, Alone, Recipient, Sender};
use creto_benches::crypto::{Effort, backend, session_establish_ns};
use creto_benches::node::BenchNode;
use creto_benches::rotation;
use creto_loadgen::Percentiles;
use creto_policy::{Action, DecisionTable};
use creto_sim::agents::{SimAgent, snapshot};

use crate::crowd::{Answers, Crowd};
use crate::table::{MB, MS, Row, Table, US, memory, per_s, rate, time};
use crate::third::Third;

mod crowd;
mod delivery;
mod table;
mod third;

/// The documents' cores, where they count several.
const CORES: usize = 8;

fn main() {
    let asks = |flag: &str| std::env::args().any(|argument| argument == flag);
    // `cargo test --benches` runs every bench with `--test`, to see that it works.
    let (effort, run) = if asks("--test") { (Effort::TRIAL, Run::TRIAL) } else { (Effort::FULL, Run::FULL) };
    // Before this run adds its own.
    let load = load_average();
    let mut tables = processor(effort);
    tables.extend(whole_node(&run));
    let how = format!(
        "backend: {}; {} CPUs at a load of {load}; medians of CPU time on one core, where the note says no other.\n\
         Figures by the wall clock are worth what the machine has to spare: above a load of 1 they say little.",
        backend(),
        thread::available_parallelism().unwrap()
    );
    match asks("--json") {
        true => println!("{}", table::json(&backend(), &tables)),
        false => table::print(&how, &tables),
    }
}

/// Processes of others that want a CPU, over the last minute.
fn load_average() -> String {
    let text = fs::read_to_string("/proc/loadavg").unwrap();
    text.split_whitespace().next().unwrap().to_owned()
}

/// What one core does.
fn processor(effort: Effort) -> Vec<Table> {
    let (planner, executor) = (SimAgent::new("acme/planner", 1), SimAgent::new("acme/executor", 2));
    let p = primitive::measure(effort);
    let mut sender = Sender::new(&planner, &executor);
    let batch_ns = effort.median_ns(|| {
        black_box(sender.batch(256));
    });
    let seal_256_ns = batch_ns / 256.0;
    let single_ns = effort.median_ns(|| {
        black_box(sender.single());
    });
    let alone = Alone::new(&planner, &executor);
    let alone_ns = effort.median_ns(|| alone.receive());
    let open_ns = 1e9 / Recipient::new(&planner, &executor, 256).messages_per_s(effort);
    let admit_ns = 1e9 / Admission::new(&planner, &executor, 256).messages_per_s(effort);
    let session_ns = session_establish_ns(effort, &planner, &executor);
    let authorize_ns = authorize_ns(effort, &planner, &executor);
    vec![
        throughput(&p, single_ns, seal_256_ns, singles_on_many_cores(effort)),
        receiving(&p, alone_ns, open_ns),
        stages(admit_ns, authorize_ns, &p, open_ns),
        success(seal_256_ns, open_ns, admit_ns, authorize_ns, session_ns),
        aegis_keys(&p, &third::measure(effort)),
        aegis_messages(&p, single_ns, alone_ns),
    ]
}

/// How much to do on a whole node.
struct Run {
    /// Users at once, in three steps.
    users: [usize; 3],
    /// Messages that all of them write, one at a time each.
    messages: usize,
    bursts: Duration,
    /// Messages that are timed one by one.
    wire_messages: usize,
    open_loop: Duration,
    rotations: usize,
}

impl Run {
    const FULL: Self = Self {
        users: [100, 1_000, 10_000],
        messages: 40_000,
        bursts: Duration::from_secs(5),
        wire_messages: 2_000,
        open_loop: Duration::from_secs(10),
        rotations: 55,
    };
    const TRIAL: Self = Self {
        users: [2, 4, 8],
        messages: 16,
        bursts: Duration::from_millis(10),
        wire_messages: 2,
        open_loop: Duration::from_millis(200),
        rotations: 1,
    };
}

/// What a whole node does, with its clients beside it.
fn whole_node(run: &Run) -> Vec<Table> {
    let cpus = thread::available_parallelism().unwrap().get();
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR"));
    // On a thread of its own, which stays off the CPUs of the shards with all that it starts.
    let on = |node: &BenchNode, work: &mut (dyn FnMut(&tokio::runtime::Runtime) + Send)| {
        thread::scope(|scope| {
            scope.spawn(|| {
                node.leave_the_shards_alone();
                let clients = thread::available_parallelism().unwrap().get();
                let runtime =
                    tokio::runtime::Builder::new_multi_thread().worker_threads(clients).enable_all().build().unwrap();
                work(&runtime);
            });
        });
    };

    let mut tables = Vec::new();
    let node = BenchNode::start(folder, 1, "");
    on(&node, &mut |runtime| {
        runtime.block_on(async {
            let wire = delivery::wire(&node, run.wire_messages).await;
            let total = delivery::total(&node, run.open_loop).await;
            let rotations = rotation::measure(&node, run.rotations).await;
            tables.push(end_to_end(&wire, &total.publish_to_delivered_us, &rotations.whole));
        });
    });
    node.stop();

    // Half of the CPUs for the node, half for its users.
    let node = BenchNode::start(folder, (cpus / 2).max(1), crowd::CONFIGURATION);
    on(&node, &mut |runtime| {
        let mut steps = Vec::new();
        runtime.block_on(async {
            let mut crowd = Crowd::new(&node);
            for (users, theirs) in run.users.into_iter().zip(AEGIS_SCALE) {
                eprintln!("{users} users ...");
                crowd.grow(users).await;
                let resident = crowd::resident_bytes();
                let singly = crowd.one_at_a_time(run.messages / users).await;
                let bursts = crowd.in_bursts(theirs.offered_per_s(), run.bursts).await;
                steps.push(Step { users, resident, singly, bursts });
            }
        });
        tables.push(by_scale(node.shard_count(), &steps));
        tables.push(aegis_scale(node.shard_count(), &steps));
    });
    node.stop();
    tables
}

/// What so many users found.
struct Step {
    users: usize,
    resident: f64,
    singly: Answers,
    bursts: Answers,
}

/// An answer from the decision table, for a pair that talked before.
fn authorize_ns(effort: Effort, from: &SimAgent, to: &SimAgent) -> f64 {
    let snapshot = snapshot([from, to]);
    let mut table = DecisionTable::new(1_024, u64::MAX);
    effort.median_ns(|| {
        let decision = table.decide(black_box(&snapshot), NOW.unix_ms, &from.id, Action::SendMessage, &to.id, 0);
        assert!(decision.is_allowed());
    })
}

/// Nanoseconds per message when as many cores as the documents count, or as there are, sign messages one by one; and how
/// many these were.
fn singles_on_many_cores(effort: Effort) -> (f64, usize) {
    let cores = thread::available_parallelism().unwrap().get().min(CORES);
    let per_ns: f64 = thread::scope(|scope| {
        let running: Vec<_> = (0..cores)
            .map(|_| {
                scope.spawn(|| {
                    let (planner, executor) = (SimAgent::new("acme/planner", 1), SimAgent::new("acme/executor", 2));
                    let mut sender = Sender::new(&planner, &executor);
                    1.0 / effort.median_ns(|| {
                        black_box(sender.single());
                    })
                })
            })
            .collect();
        running.into_iter().map(|thread| thread.join().unwrap()).sum()
    });
    (1.0 / per_ns, cores)
}

fn throughput(p: &Primitives, single_ns: f64, seal_256_ns: f64, (many_ns, cores): (f64, usize)) -> Table {
    let rows = vec![
        time("AES-256-GCM encrypt, 1 KiB", 500.0, p.aes_256_gcm_seal_ns, "a new key for every message"),
        time("ML-KEM-768 encapsulation", 100.0 * US, p.ml_kem_768_encapsulate_ns, "alone"),
        time("the same, as we send it", 100.0 * US, p.x_wing_encapsulate_ns, "X-Wing: with X25519, once per session"),
        time("Ed25519 sign", 40.0 * US, p.ed25519_sign_ns, ""),
        time("ML-DSA-65 sign", 2.0 * MS, p.ml_dsa_65_sign_ns, "hedged"),
        time("combined, one message", 2.14 * MS, single_ns, "sealed suite, both signatures, leaf, frame"),
        rate("combined, one core", 467.0, single_ns, ""),
        rate("combined, eight cores", 3_736.0, many_ns, format!("{cores} cores at once: this machine has no more")),
        rate("batched, one core", 100_000.0, seal_256_ns, "session, 256 to a batch, both signatures"),
    ];
    Table { title: "Creto: encryption throughput (product overview)", rows }
}

fn receiving(p: &Primitives, alone_ns: f64, open_ns: f64) -> Table {
    let rows = vec![
        time("verify Ed25519 and ML-DSA-65", 3.0 * MS, p.hybrid_verify_ns, ""),
        time("ML-KEM-768 decapsulation", 100.0 * US, p.ml_kem_768_decapsulate_ns, "alone"),
        time(
            "the same, as we receive it",
            100.0 * US,
            p.x_wing_decapsulate_ns,
            "X-Wing: with X25519, once per session",
        ),
        time("AES-256-GCM decrypt, 1 KiB", 500.0, p.aes_256_gcm_open_ns, "a new key for every message"),
        time("total per message", 3.1 * MS, alone_ns, "a message alone in its batch, nothing remembered"),
        time("the same, in a batch", 3.1 * MS, open_ns, "session, 256 to a batch, root verified before"),
    ];
    Table { title: "Creto: receiving (architecture)", rows }
}

fn stages(admit_ns: f64, authorize_ns: f64, p: &Primitives, open_ns: f64) -> Table {
    let rows = vec![
        time("envelope processing and queue insertion", 1.5 * MS, admit_ns, "decode, verify, authorize; per message"),
        time("authorization", 168.0, authorize_ns, "a pair that talked before"),
        time("signature verification", 3.0 * MS, p.hybrid_verify_ns, "once per batch"),
        time("decryption", 1.0 * MS, open_ns, "tree path and key step with it"),
    ];
    Table { title: "Creto: delivery latency (product overview)", rows }
}

fn success(seal_256_ns: f64, open_ns: f64, admit_ns: f64, authorize_ns: f64, session_ns: f64) -> Table {
    let rows = vec![
        rate("encryption throughput", 100_000.0, seal_256_ns, "one core"),
        time("authorization latency", 1.0 * MS, authorize_ns, ""),
        time(
            "cryptographic overhead per message",
            10.0 * MS,
            seal_256_ns + admit_ns + open_ns,
            "sender, node, recipient",
        ),
        time("session establishment", 1_000.0 * MS, session_ns, "CPU time, both ends"),
    ];
    Table { title: "Creto: success metrics (product overview, agent communication security)", rows }
}

fn aegis_keys(p: &Primitives, third: &Third) -> Table {
    let rows = vec![
        time("ML-KEM-768 key pair", 50.0 * MS, p.ml_kem_768_keygen_ns, "alone"),
        time("the same, as we make it", 50.0 * MS, p.x_wing_keygen_ns, "X-Wing, ready for use"),
        time("ML-DSA-65 key pair", 100.0 * MS, p.ml_dsa_65_keygen_ns, "alone"),
        time("both signing keys", 100.0 * MS, p.signing_keygen_ns, "ready for use"),
        time("FN-DSA-512 key pair", 75.0 * MS, third.keygen_ns, "experimental, off by default in the product"),
        time("FN-DSA-512 signature", 45.0 * MS, third.sign_ns, "against their time of any signature"),
        time("FN-DSA-512 verification", 35.0 * MS, third.verify_ns, "against theirs of any, key decoded before"),
    ];
    Table { title: "Aegis: key generation", rows }
}

fn aegis_messages(p: &Primitives, single_ns: f64, alone_ns: f64) -> Table {
    let rows = vec![
        time("message encryption", 25.0 * MS, single_ns, "sealed suite, signed too"),
        rate("message encryption", 40.0, single_ns, ""),
        time("message decryption", 30.0 * MS, alone_ns, "sealed suite, verified too"),
        rate("message decryption", 33.0, alone_ns, ""),
        time("signature generation", 45.0 * MS, p.hybrid_sign_ns, "Ed25519 and ML-DSA-65"),
        rate("signature generation", 22.0, p.hybrid_sign_ns, ""),
        time("signature verification", 35.0 * MS, p.hybrid_verify_ns, "Ed25519 and ML-DSA-65"),
        rate("signature verification", 28.0, p.hybrid_verify_ns, ""),
    ];
    Table { title: "Aegis: message processing", rows }
}

fn end_to_end(wire: &[Duration], total: &Percentiles, rotations: &[Duration]) -> Table {
    let ns = |duration: Duration| duration.as_secs_f64() * 1e9;
    let p99 = total.p99.unwrap() as f64 * US;
    let p50_ms = total.p50.unwrap() as f64 / 1e3;
    let in_loop = format!("wall clock, SDK to SDK, durable: open loop, {}/s; p50 {p50_ms:.2} ms", delivery::RATE_PER_S);
    let rows = vec![
        time(
            "queue, network, dequeue, p99",
            3.0 * MS,
            ns(wire[wire.len() * 99 / 100]),
            "wall clock, one at a time on loopback: admission and a synced log are in it",
        ),
        time("total, p99", 8.0 * MS, p99, &in_loop),
        time("delivery latency, p99 (success metrics)", 10.0 * MS, p99, in_loop),
        time(
            "key rotation, end to end",
            100.0 * MS,
            ns(rotations[rotations.len() / 2]),
            format!("wall clock, median of {}: key file synced twice, directory once", rotations.len()),
        ),
    ];
    Table { title: "Creto: delivery and rotation on a whole node (product overview)", rows }
}

/// Messages a second and instances of the documents' three sizes.
const BY_SCALE: [(&str, f64, f64); 3] =
    [("small", 1_000.0, 2.0), ("medium", 100_000.0, 10.0), ("large", 1_000_000.0, 50.0)];

fn by_scale(shards: usize, steps: &[Step]) -> Table {
    let Some(last) = steps.last() else { return Table { title: "", rows: Vec::new() } };
    let note = format!(
        "wall clock, offered and answered by one node of {shards} shard(s): {} users connected, bursts of {}",
        last.users,
        crowd::BURST
    );
    let rows = BY_SCALE.map(|(size, messages_per_s, instances)| {
        per_s(format!("{size}: messages, per instance"), messages_per_s / instances, last.bursts.per_s, &note)
    });
    Table { title: "Creto: performance targets by scale (architecture)", rows: rows.into() }
}

/// What Aegis promises to so many users.
struct Promise {
    users: &'static str,
    response_ms: f64,
    per_s: u32,
    memory_mb: f64,
}

impl Promise {
    /// Messages a second that are offered: a tenth more than they answer.
    fn offered_per_s(&self) -> u32 {
        self.per_s + self.per_s / 10
    }
}

const AEGIS_SCALE: [Promise; 3] = [
    Promise { users: "100 users", response_ms: 85.0, per_s: 1_176, memory_mb: 512.0 },
    Promise { users: "1,000 users", response_ms: 120.0, per_s: 8_333, memory_mb: 4_100.0 },
    Promise { users: "10,000 users", response_ms: 180.0, per_s: 55_556, memory_mb: 32_000.0 },
];

fn aegis_scale(shards: usize, steps: &[Step]) -> Table {
    let mut rows: Vec<Row> = Vec::new();
    for (Step { users, resident, singly, bursts }, theirs) in steps.iter().zip(AEGIS_SCALE) {
        let (name, their_rate) = (theirs.users, f64::from(theirs.per_s));
        let ns = |duration: Duration| duration.as_secs_f64() * 1e9;
        let p99_ms = |answers: &Answers| answers.p99.as_secs_f64() * 1e3;
        let closed = format!("wall clock: {users} connections, one message of each under way; {shards} shard(s)");
        rows.push(time(
            format!("{name}, response"),
            theirs.response_ms * MS,
            ns(singly.median),
            format!("{closed}; p99 {:.1} ms", p99_ms(singly)),
        ));
        rows.push(per_s(
            format!("{name}, operations"),
            their_rate,
            singly.per_s,
            "the same run: messages made durable",
        ));
        let open =
            format!("wall clock: open loop at {}/s, {} messages to a signature", theirs.offered_per_s(), crowd::BURST);
        rows.push(time(
            format!("{name} in bursts, response"),
            theirs.response_ms * MS,
            ns(bursts.median),
            format!("{open}; p99 {:.1} ms", p99_ms(bursts)),
        ));
        rows.push(per_s(
            format!("{name} in bursts, operations"),
            their_rate,
            bursts.per_s,
            "the same run: messages made durable, of a tenth more than theirs that were offered",
        ));
        rows.push(memory(
            format!("{name}, memory"),
            theirs.memory_mb * MB,
            *resident,
            "this process: the node, and the users at the other ends",
        ));
    }
    Table { title: "Aegis: scalability", rows }
}
