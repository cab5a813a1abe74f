//! What a node costs that has nothing to do. A binary of its own: it counts the CPU time of all shards of the process.
#![allow(clippy::unwrap_used, reason = "a test's steps fail by panicking")]

mod support;

use std::time::Duration;

use support::echo::{Echo, exchange};
use support::{Node, client_endpoint, tokio_runtime};

#[test]
fn an_idle_node_uses_less_than_a_hundredth_of_a_cpu() {
    let folder = tempfile::tempdir().unwrap();
    let node = Node::start(folder.path(), 2, |_| Echo::default());
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
    let before = shards_ran();
    let measured = Duration::from_secs(3);
    std::thread::sleep(measured);
    let used = (shards_ran() - before).as_secs_f64() / measured.as_secs_f64();
    println!("two idle shards with a connection: {:.3} % of a CPU", used * 100.0);
    assert!(used < 0.01, "idle shards used {:.2} % of a CPU", used * 100.0);
    drop(endpoint);
    node.stop(|| ());
}

/// CPU time of all shard threads of this process.
fn shards_ran() -> Duration {
    let mut ran = Duration::ZERO;
    for task in std::fs::read_dir("/proc/self/task").unwrap().flatten() {
        let name = std::fs::read_to_string(task.path().join("comm")).unwrap_or_default();
        if name.starts_with("creto-shard") {
            let times = std::fs::read_to_string(task.path().join("schedstat")).unwrap_or_default();
            let nanos = times.split_ascii_whitespace().next().and_then(|number| number.parse().ok());
            ran += Duration::from_nanos(nanos.unwrap_or(0));
        }
    }
    ran
}
