//! What a node does that has nothing to do. A binary of its own: it counts what all shards of the process did.
//!
//! Wakes are counted, not their time: what a wake costs is the machine's business (100 to 310 us of CPU time on two virtual
//! machines), and `benches/benches/node.rs` measures it.
#![allow(clippy::unwrap_used, reason = "a test's steps fail by panicking")]

mod support;

use std::time::Duration;

use creto_io::executor::DriverKind;
use support::echo::{Echo, exchange};
use support::{Node, client_endpoint, tokio_runtime};

/// Ten ticks, the connection's keep-alives, and as much again.
const WAKES_PER_S_MAX: f64 = 40.0;

#[test]
fn an_idle_shard_wakes_at_most_forty_times_a_second() {
    // One after the other: all shards of the process are looked at.
    DriverKind::ALL.into_iter().for_each(check);
}

fn check(driver: DriverKind) {
    let folder = tempfile::tempdir().unwrap();
    let node = Node::start(driver, folder.path(), 2, |_| Echo::default());
    let config = node.client_config();
    let runtime = tokio_runtime();
    let endpoint = runtime.block_on(async {
        let endpoint = client_endpoint(config);
        let connection = endpoint.connect(node.address, "localhost").unwrap().await.unwrap();
        let (mut send, mut recv) = connection.open_bi().await.unwrap();
        exchange(&mut send, &mut recv, b"hello").await;
        (endpoint, connection)
    });
    std::thread::sleep(Duration::from_millis(300));
    let before = Shards::of_this_process();
    let measured = Duration::from_secs(3);
    std::thread::sleep(measured);
    let after = Shards::of_this_process();
    assert!(before.count >= 2, "{driver:?}: both shards are looked at, and what they have run beside them");
    let used = (after.ran - before.ran).as_secs_f64() / measured.as_secs_f64();
    let wakes_per_s = f64::from(after.wakes - before.wakes) / measured.as_secs_f64() / 2.0;
    println!(
        "{driver:?}: two idle shards with a connection: {:.3} % of a CPU, {wakes_per_s:.0} wakes a second each",
        used * 100.0
    );
    assert!(wakes_per_s > 1.0, "{driver:?}: vacuous: whoever ticks wakes");
    assert!(wakes_per_s < WAKES_PER_S_MAX, "{driver:?}: an idle shard woke {wakes_per_s:.0} times a second");
    drop(endpoint);
    node.stop(|| ());
}

/// What the shard threads of this process have done, all together.
#[derive(Default)]
struct Shards {
    count: u32,
    ran: Duration,
    wakes: u32,
}

impl Shards {
    fn of_this_process() -> Self {
        let mut shards = Self::default();
        for task in std::fs::read_dir("/proc/self/task").unwrap().flatten() {
            let read = |file: &str| std::fs::read_to_string(task.path().join(file)).unwrap_or_default();
            if !read("comm").starts_with("creto-shard") {
                continue;
            }
            let nanos: u64 = read("schedstat").split_ascii_whitespace().next().unwrap().parse().unwrap();
            let status = read("status");
            let wakes = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:")).unwrap();
            shards.count += 1;
            shards.ran += Duration::from_nanos(nanos);
            shards.wakes += wakes.trim().parse::<u32>().unwrap();
        }
        shards
    }
}
