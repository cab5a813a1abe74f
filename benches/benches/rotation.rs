//! How long it takes to replace an encryption key on a whole node: real QUIC on loopback, a real key file, a real
//! directory on disk, one shard on a CPU of its own.
//!
//! Two figures per rotation: from the record on its way to the node's word that it is durable and counts, and the whole
//! call of the SDK, which asks for the current record first and syncs the key file twice. `cargo bench -p creto-benches
//! --bench rotation`.
#![allow(clippy::unwrap_used, reason = "a bench stops where it is wrong")]

use std::path::Path;
use std::time::Duration;

use creto_benches::node::BenchNode;
use creto_benches::rotation;

/// With those that do not count, below what a node takes of one agent within an hour.
const ROTATIONS: usize = 55;

fn main() {
    let node = BenchNode::start(Path::new(env!("CARGO_TARGET_TMPDIR")), 1, "");
    node.leave_the_shards_alone();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let found = runtime.block_on(rotation::measure(&node, ROTATIONS));
    print("published -> durable and current", &found.published);
    print("rotate_keys, key file and all", &found.whole);
    node.stop();
}

fn print(what: &str, took: &[Duration]) {
    let (median, last) = (took[took.len() / 2], took[took.len() - 1]);
    let p95 = took[took.len() * 95 / 100];
    println!("{what}: median {median:.2?}, p95 {p95:.2?}, slowest {last:.2?} of {}", took.len());
}
