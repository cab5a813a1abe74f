//! The tables of the documents that this system was drawn up from, and beside each of their figures ours, measured in this
//! run in CPU time of one core: `cargo bench -p creto-benches --bench documents [--features fn-dsa] [-- --json]`.
//!
//! Figures of the documents are estimates and targets; what stands beside them does the same work or more (hybrid where
//! they are not, both signatures where they count one). A figure that needs a network, a disk or several machines is not
//! measured here; the row says what measures it.

use std::hint::black_box;

use creto_benches::NOW;
use creto_benches::crypto::primitive::{self, Primitives};
use creto_benches::crypto::station::{Admission, Alone, Recipient, Sender};
use creto_benches::crypto::{Effort, backend, session_establish_ns};
use creto_policy::{Action, DecisionTable};
use creto_sim::agents::{SimAgent, snapshot};

struct Table {
    title: &'static str,
    rows: Vec<Row>,
}

struct Row {
    operation: &'static str,
    theirs: Figure,
    /// Nothing where this run cannot measure it; `how` says what does.
    ours: Option<Figure>,
    how: &'static str,
}

#[derive(Clone, Copy)]
enum Figure {
    /// Nanoseconds: less is better.
    Time(f64),
    /// Messages per second: more is better.
    Rate(f64),
}

fn main() {
    let asks = |flag: &str| std::env::args().any(|argument| argument == flag);
    // `cargo test --benches` runs every bench with `--test`, to see that it works.
    let effort = if asks("--test") { Effort::TRIAL } else { Effort::FULL };
    let tables = measure(effort);
    match asks("--json") {
        true => println!("{}", json(&tables)),
        false => print(&tables),
    }
}

fn measure(effort: Effort) -> Vec<Table> {
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
        throughput(&p, single_ns, seal_256_ns),
        receiving(&p, alone_ns, open_ns),
        delivery(admit_ns, authorize_ns, &p, open_ns),
        success(seal_256_ns, open_ns, admit_ns, authorize_ns, session_ns),
        aegis_keys(effort, &p),
        aegis_messages(&p, single_ns, alone_ns),
        aegis_scale(),
    ]
}

/// An answer from the decision table, for a pair that talked before.
fn authorize_ns(effort: Effort, from: &SimAgent, to: &SimAgent) -> f64 {
    let snapshot = snapshot([from, to]);
    let mut table = DecisionTable::new(1_024, u64::MAX);
    effort.median_ns(|| {
        let decision = table.decide(black_box(&snapshot), NOW.unix_ms, &from.id, Action::SendMessage, &to.id);
        assert!(decision.is_allowed());
    })
}

const US: f64 = 1e3;
const MS: f64 = 1e6;

fn time(operation: &'static str, theirs_ns: f64, ours_ns: f64, how: &'static str) -> Row {
    Row { operation, theirs: Figure::Time(theirs_ns), ours: Some(Figure::Time(ours_ns)), how }
}

fn rate(operation: &'static str, theirs: f64, ours_ns: f64, how: &'static str) -> Row {
    Row { operation, theirs: Figure::Rate(theirs), ours: Some(Figure::Rate(1e9 / ours_ns)), how }
}

fn elsewhere(operation: &'static str, theirs: Figure, how: &'static str) -> Row {
    Row { operation, theirs, ours: None, how }
}

fn throughput(p: &Primitives, single_ns: f64, seal_256_ns: f64) -> Table {
    let rows = vec![
        time("AES-256-GCM encrypt, 1 KiB", 500.0, p.aes_256_gcm_seal_ns, "a new key for every message"),
        time("ML-KEM-768 encapsulation", 100.0 * US, p.ml_kem_768_encapsulate_ns, "alone"),
        time("the same, as we send it", 100.0 * US, p.x_wing_encapsulate_ns, "X-Wing: with X25519, once per session"),
        time("Ed25519 sign", 40.0 * US, p.ed25519_sign_ns, ""),
        time("ML-DSA-65 sign", 2.0 * MS, p.ml_dsa_65_sign_ns, "hedged"),
        time("combined, one message", 2.14 * MS, single_ns, "sealed suite, both signatures, leaf, frame"),
        rate("combined, one core", 467.0, single_ns, ""),
        elsewhere("combined, eight cores", Figure::Rate(3_736.0), "one core is measured here"),
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

fn delivery(admit_ns: f64, authorize_ns: f64, p: &Primitives, open_ns: f64) -> Table {
    let rows = vec![
        time("envelope processing and queue insertion", 1.5 * MS, admit_ns, "decode, verify, authorize; per message"),
        time("authorization", 168.0, authorize_ns, "a pair that talked before"),
        time("signature verification", 3.0 * MS, p.hybrid_verify_ns, "once per batch"),
        time("decryption", 1.0 * MS, open_ns, "tree path and key step with it"),
        elsewhere("queue, network, dequeue", Figure::Time(3.0 * MS), "creto bench run"),
        elsewhere("total, p99", Figure::Time(8.0 * MS), "creto bench run, durable"),
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
        elsewhere("key rotation", Figure::Time(100.0 * MS), "creto bench crypto"),
    ];
    Table { title: "Creto: success metrics (product overview, agent communication security)", rows }
}

fn aegis_keys(effort: Effort, p: &Primitives) -> Table {
    let mut rows = vec![
        time("ML-KEM-768 key pair", 50.0 * MS, p.ml_kem_768_keygen_ns, "alone"),
        time("the same, as we make it", 50.0 * MS, p.x_wing_keygen_ns, "X-Wing, ready for use"),
        time("ML-DSA-65 key pair", 100.0 * MS, p.ml_dsa_65_keygen_ns, "alone"),
        time("both signing keys", 100.0 * MS, p.signing_keygen_ns, "ready for use"),
    ];
    rows.extend(fn_dsa(effort));
    Table { title: "Aegis: key generation", rows }
}

/// The experimental third signature.
#[cfg(feature = "fn-dsa")]
fn fn_dsa(effort: Effort) -> Vec<Row> {
    use creto_crypto_accel::fn_dsa::FnDsaSigner;
    let keygen_ns = effort.median_ns(|| {
        black_box(FnDsaSigner::generate());
    });
    let signer = FnDsaSigner::generate();
    let sign_ns = effort.median_ns(|| {
        black_box(signer.sign(black_box(&[7; 80])));
    });
    vec![
        time("FN-DSA-512 key pair", 75.0 * MS, keygen_ns, "experimental"),
        time("FN-DSA-512 signature", 45.0 * MS, sign_ns, "experimental"),
    ]
}

#[cfg(not(feature = "fn-dsa"))]
fn fn_dsa(_: Effort) -> Vec<Row> {
    vec![elsewhere("FN-DSA-512 key pair", Figure::Time(75.0 * MS), "experimental: --features fn-dsa")]
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

fn aegis_scale() -> Table {
    let rows = [
        ("100 users, response", Figure::Time(85.0 * MS)),
        ("100 users, operations", Figure::Rate(1_176.0)),
        ("1,000 users, response", Figure::Time(120.0 * MS)),
        ("1,000 users, operations", Figure::Rate(8_333.0)),
        ("10,000 users, response", Figure::Time(180.0 * MS)),
        ("10,000 users, operations", Figure::Rate(55_556.0)),
    ];
    let rows = rows.map(|(operation, theirs)| elsewhere(operation, theirs, "creto bench run"));
    Table { title: "Aegis: scalability", rows: rows.into() }
}

impl Figure {
    fn text(self) -> String {
        match self {
            Self::Time(ns) if ns < 1_000.0 => format!("{ns:.0} ns"),
            Self::Time(ns) if ns < 1e6 => format!("{:.1} us", ns / 1e3),
            Self::Time(ns) => format!("{:.2} ms", ns / 1e6),
            Self::Rate(per_s) => format!("{per_s:.0}/s"),
        }
    }

    /// How many times better `ours` is.
    fn ratio(self, ours: Self) -> f64 {
        match (self, ours) {
            (Self::Time(theirs), Self::Time(ours)) => theirs / ours,
            (Self::Rate(theirs), Self::Rate(ours)) => ours / theirs,
            _ => unreachable!("a row compares what is alike"),
        }
    }
}

fn ratio_text(ratio: f64) -> String {
    if ratio < 100.0 { format!("{ratio:.1}x") } else { format!("{ratio:.0}x") }
}

fn print(tables: &[Table]) {
    println!("backend: {}; medians of CPU time on one core", backend());
    for Table { title, rows } in tables {
        println!("\n{title}");
        println!("  {:<42} {:>12} {:>12} {:>10}  note", "operation", "document", "measured", "ratio");
        for Row { operation, theirs, ours, how } in rows {
            let (measured, ratio) = match ours {
                Some(ours) => (ours.text(), ratio_text(theirs.ratio(*ours))),
                None => ("-".to_owned(), "-".to_owned()),
            };
            println!("  {operation:<42} {:>12} {measured:>12} {ratio:>10}  {how}", theirs.text());
        }
    }
}

fn json(tables: &[Table]) -> serde_json::Value {
    let value = |figure: Figure| match figure {
        Figure::Time(ns) => serde_json::json!({ "us": ns / 1e3 }),
        Figure::Rate(per_s) => serde_json::json!({ "per_s": per_s }),
    };
    let row = |row: &Row| {
        serde_json::json!({
            "operation": row.operation,
            "document": value(row.theirs),
            "measured": row.ours.map(value),
            "ratio": row.ours.map(|ours| row.theirs.ratio(ours)),
            "note": row.how,
        })
    };
    let table = |table: &Table| {
        let rows: Vec<_> = table.rows.iter().map(row).collect();
        serde_json::json!({ "table": table.title, "rows": rows })
    };
    let tables: Vec<_> = tables.iter().map(table).collect();
    serde_json::json!({ "backend": backend(), "tables": tables })
}
