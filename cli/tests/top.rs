//! `creto top` against a node that runs.

#![allow(clippy::unwrap_used, reason = "helper functions outside of a test count as code for the lint")]

mod process;

use process::{Node, creto, ok};

#[test]
fn a_look_says_what_each_shard_does_for_people_and_for_machines() {
    let folder = tempfile::tempdir().unwrap();
    let node = Node::with_agents(folder.path(), 2, &["acme/planner", "acme/executor"]);
    let address = node.address.to_string();
    ok(folder.path(), 2, &["send", "acme/planner", "acme/executor", "hello", "--node", &address]);
    let looks = creto(folder.path(), 2, &["top", "-n", "2", "--interval", "200ms", "--json"]);
    assert_eq!(looks.status, 0, "{}", looks.stderr);
    let looks = looks.lines();
    assert_eq!(looks.len(), 2);
    for look in &looks {
        assert_eq!((&look["ready"], &look["agents"], &look["restarted"]), (&true.into(), &2.0.into(), &false.into()));
        assert_eq!(look["shards"].as_array().unwrap().len(), 2);
        assert!(look["seconds"].as_f64().unwrap() >= 0.2 && look["resident_bytes"].as_f64().unwrap() > 1e6);
        let waiting: f64 =
            look["shards"].as_array().unwrap().iter().map(|of| of["queued_messages"].as_f64().unwrap()).sum();
        assert!(waiting <= 1.0);
    }
    let shown = creto(folder.path(), 2, &["top", "--once", "--interval", "100ms"]);
    assert_eq!(shown.status, 0, "{}", shown.stderr);
    for word in ["ready", "2 agents", "durable/s", "log room", "serving"] {
        assert!(shown.stdout.contains(word), "{word}: {}", shown.stdout);
    }
    assert!(!shown.stdout.contains('\x1b'), "no colours and no screen where nobody sees them");
}

#[test]
fn without_a_node_it_says_what_to_do() {
    let folder = tempfile::tempdir().unwrap();
    ok(folder.path(), 1, &["init"]);
    let alone = creto(folder.path(), 1, &["top", "--once"]);
    assert!(alone.status != 0 && alone.stderr.contains("creto serve"), "{} {}", alone.status, alone.stderr);
}
