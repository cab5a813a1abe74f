//! `creto policy explain` and `reload`, SIGHUP and `creto status` with a node that runs: what scripts and people get.
#![allow(clippy::unwrap_used, reason = "a test stops where it is wrong")]

mod process;

use std::path::Path;
use std::time::{Duration, Instant};

use process::{Node, creto, ok};
use rustix::process::Signal;

const POLICY: &str = "# Allow messages within same organization
allow {
    input.sender.organization_id == input.recipient.organization_id
}
";

fn write(folder: &Path, text: &str) {
    std::fs::write(folder.join("policy.rego"), text).unwrap();
}

/// Waits until the node decides so.
fn until_allowed(folder: &Path, args: &[&str], wanted: i32) {
    let begun = Instant::now();
    while creto(folder, 1, args).status != wanted {
        assert!(begun.elapsed() < Duration::from_secs(60), "it never was {wanted}");
    }
}

#[test]
fn a_running_node_explains_reloads_and_shows_its_policy() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path();
    ok(folder, 1, &["init", "--listen", "127.0.0.1:0"]);
    let config = std::fs::read_to_string(folder.join("creto.toml")).unwrap();
    assert!(config.contains("[policy]\n"), "{config}");
    std::fs::write(folder.join("creto.toml"), config.replace("[policy]\n", "[policy]\nfile = \"policy.rego\"\n"))
        .unwrap();

    // One that is refused: no node, and why.
    write(folder, "allow {\n    input.sender.role == \"a\"\n}\n");
    let refused = creto(folder, 1, &["serve"]);
    assert_eq!(refused.status, 2, "{}", refused.stderr);
    assert!(refused.stderr.contains("policy.rego:2:5: there is no `input.sender.role`"), "{}", refused.stderr);
    assert!(refused.stderr.contains("did you mean `input.sender.roles`?"), "{}", refused.stderr);

    write(folder, POLICY);
    let node = Node::start(folder, 1);
    for agent in ["acme/planner", "acme/worker", "other/agent"] {
        ok(folder, 1, &["agent", "create", agent]);
    }
    let same = ["policy", "explain", "acme/planner", "send_message", "acme/worker"];
    let other = ["policy", "explain", "acme/planner", "send_message", "other/agent"];
    let run = ok(folder, 1, &same);
    assert!(run.stdout.starts_with("allow\n") && run.stdout.contains("on no shard"), "{}", run.stdout);
    let allows = run.stdout.lines().any(|line| line.contains("allows ") && line.ends_with("policy.rego:2: allow {"));
    assert!(allows, "{}", run.stdout);
    let run = creto(folder, 1, &[&other[..], &["--json"]].concat());
    let value = run.json();
    assert_eq!((run.status, &value["allow"], &value["code"]), (1, &false.into(), &400.into()));
    let unknown = creto(folder, 1, &["policy", "explain", "acme/planner", "send_message", "acme/nobody"]);
    assert!(
        unknown.status == 4 && unknown.stderr.contains("no agent is registered as acme/nobody"),
        "{}",
        unknown.stderr
    );

    // A broken file is told, and changes nothing.
    write(folder, "allow {\n");
    let run = creto(folder, 1, &["policy", "reload"]);
    assert!(
        run.status == 4 && run.stderr.contains("policy.rego:") && run.stderr.contains("(syntax)"),
        "{}",
        run.stderr
    );
    let status = ok(folder, 1, &["status"]);
    assert!(status.stdout.contains("the file is not in force"), "{}", status.stdout);
    ok(folder, 1, &same);

    write(folder, "allow { true }\n");
    node.process.signal(Signal::HUP);
    until_allowed(folder, &other, 0);
    let run = ok(folder, 1, &["status", "--json"]);
    let policy = &run.json()["policy"];
    assert!(policy["failure"].is_null() && policy["epoch"].as_u64().unwrap() > 0, "{policy}");
    write(folder, POLICY);
    let reloaded = ok(folder, 1, &["policy", "reload", "--json"]).json();
    assert_ne!(reloaded["sha256"], policy["sha256"]);
    assert!(reloaded["epoch"].as_u64() > policy["epoch"].as_u64());
    assert_eq!(creto(folder, 1, &other).status, 1);
    node.stop();
}
