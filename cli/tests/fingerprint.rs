//! `creto agent fingerprint` against a real node: what two people compare is the same at both ends, and proven.
#![allow(clippy::unwrap_used, reason = "a test stops where it is wrong")]

mod process;
use process::{Node, creto, ok};

#[test]
fn both_ends_read_the_same_digits_and_they_stay_over_a_rotation_and_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::with_agents(dir.path(), 1, &["acme/one", "acme/two"]);
    let address = node.address.to_string();
    let read = |me: &str, whose: &str, address: &str| {
        ok(dir.path(), 1, &["agent", "fingerprint", whose, "--as", me, "--node", address, "--json"]).json()
    };
    let (own, other) = (read("acme/one", "acme/one", &address), read("acme/two", "acme/one", &address));
    for field in ["fingerprint", "record_fingerprint", "key_id", "leaf", "log_size", "log_root"] {
        assert_eq!(own[field], other[field], "{field}");
    }
    assert_eq!((&own["verified"], &own["log_size"], &own["log_read"]), (&true.into(), &2.into(), &2.into()));
    let digits = own["fingerprint"].as_str().unwrap();
    assert_eq!((digits.len(), digits.split(' ').count()), (35, 6), "{digits}");
    let text = ok(dir.path(), 1, &["agent", "fingerprint", "acme/one", "--node", &address]).stdout;
    assert!(text.contains(digits) && text.contains("verified"), "{text}");

    ok(dir.path(), 1, &["agent", "rotate", "acme/one", "--node", &address]);
    node.stop();
    let node = Node::start(dir.path(), 1);
    let address = node.address.to_string();
    let after = read("acme/two", "acme/one", &address);
    assert_eq!(after["fingerprint"], own["fingerprint"]);
    assert_ne!(after["record_fingerprint"], own["record_fingerprint"]);
    assert_eq!((&after["version"], &after["log_size"], &after["log_read"]), (&2.into(), &3.into(), &3.into()));
    node.stop();
}

#[test]
fn a_node_with_an_older_directory_is_found_out_and_says_what_to_do() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::with_agents(dir.path(), 1, &["acme/one", "acme/two"]);
    node.stop();
    let (data, old) = (dir.path().join("data/control.redb"), dir.path().join("old.redb"));
    std::fs::copy(&data, &old).unwrap();
    let node = Node::start(dir.path(), 1);
    let address = node.address.to_string();
    ok(dir.path(), 1, &["agent", "create", "acme/three"]);
    ok(dir.path(), 1, &["agent", "fingerprint", "acme/two", "--as", "acme/one", "--node", &address]);
    node.stop();
    std::fs::copy(&old, &data).unwrap();
    let node = Node::start(dir.path(), 1);
    let address = node.address.to_string();
    let ask = ["agent", "fingerprint", "acme/two", "--as", "acme/one", "--node", &address, "--json"];
    let found = creto(dir.path(), 1, &ask);
    assert_eq!(found.status, 1, "{}", found.stderr);
    assert_eq!((&found.json()["verified"], &found.json()["code"]), (&false.into(), &"rolled_back".into()));
    assert!(found.stderr.contains("whether an older backup was restored"), "{}", found.stderr);
    // Whoever saw nothing of the newer log is not concerned.
    ok(dir.path(), 1, &["agent", "fingerprint", "acme/one", "--as", "acme/two", "--node", &address]);
    node.stop();
}
