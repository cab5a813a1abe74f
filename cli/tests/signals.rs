//! `creto signal`, `creto recv --signals`, `creto presence`, and messages that burn, on a real node.
#![allow(clippy::unwrap_used, reason = "a test stops where it is wrong")]

use std::sync::atomic::{AtomicBool, Ordering};

mod process;
use process::{Node, creto, ok};

const SHARDS: u16 = 2;

#[test]
fn recv_prints_what_others_signal_while_it_runs_and_nothing_of_it_afterwards() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let node = Node::with_agents(dir, SHARDS, &["acme/planner", "acme/worker"]);
    let address = node.address.to_string();
    let signal = |more: &[&str]| {
        let signal = ["signal", "acme/worker", "acme/planner", "--node", &address, "--json"];
        ok(dir, SHARDS, &[&signal, more].concat()).json()
    };
    // Nobody listens: it is taken all the same.
    let sent = signal(&["too early"]);
    assert_eq!((sent["payload_bytes"].as_u64(), sent["ttl_s"].as_u64()), (Some(9), Some(10)));
    let is_done = AtomicBool::new(false);
    let lines = std::thread::scope(|scope| {
        let listening = scope.spawn(|| {
            let recv = ["recv", "acme/planner", "--node", &address, "--signals", "--json", "--wait", "6000", "-n", "1"];
            let run = ok(dir, SHARDS, &recv);
            is_done.store(true, Ordering::Release);
            run.stdout
        });
        // It ends when it has one message; that one goes after some signals, of which it takes those from when it listened on.
        for _ in 0..3 {
            signal(&["--state", "waiting", "for review", "--about", "0190d1a4-7c00-7000-8000-000000000001"]);
            signal(&["just text"]);
        }
        ok(dir, SHARDS, &["send", "acme/worker", "acme/planner", "done", "--node", &address]);
        listening.join().unwrap()
    });
    assert!(is_done.load(Ordering::Acquire));
    let lines: Vec<serde_json::Value> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let (signals, messages): (Vec<_>, Vec<_>) = lines.iter().partition(|line| line["signal"] == true);
    assert_eq!(messages.len(), 1);
    assert_eq!(messages[0]["text"], "done");
    assert!(!signals.is_empty(), "it listened while they were sent");
    for signal in &signals {
        assert_eq!(signal["from"], "acme/worker");
        match signal["state"].as_str() {
            Some(state) => assert_eq!((state, signal["text"].as_str()), ("waiting", Some("for review"))),
            None => assert_eq!(signal["text"], "just text"),
        }
        assert_ne!(signal["text"], "too early");
    }
    let later = ["recv", "acme/planner", "--node", &address, "--signals", "--wait", "200"];
    assert_eq!(ok(dir, SHARDS, &later).stdout, "", "nobody kept any");
    let large = "x".repeat(4_097);
    let refused = creto(dir, SHARDS, &["signal", "acme/worker", "acme/planner", &large, "--node", &address]);
    assert!(refused.status != 0 && refused.stderr.contains("4,096"), "{}", refused.stderr);
    node.stop();
}

#[test]
fn recv_prints_what_burns_says_so_and_nothing_of_it_when_its_time_is_over() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let node = Node::with_agents(dir, SHARDS, &["acme/planner", "acme/worker"]);
    let address = node.address.to_string();
    let send = |text: &str, more: &[&str]| {
        let send = ["send", "acme/worker", "acme/planner", text, "--no-notice", "--node", &address];
        ok(dir, SHARDS, &[&send, more].concat());
    };
    let recv = |more: &[&str]| {
        let recv = ["recv", "acme/planner", "--node", &address, "--wait", "500"];
        ok(dir, SHARDS, &[&recv, more].concat())
    };
    send("the code is 7", &["--burn", "--burn-after", "10m"]);
    let printed = recv(&["--json", "-n", "1"]).json();
    assert_eq!((&printed["text"], &printed["payload_bytes"]), (&"the code is 7".into(), &13.into()), "{printed}");
    assert_eq!(printed["self_destruct"]["after_reading"], true);
    assert!(printed["self_destruct"]["until_ms"].as_u64().unwrap() > printed["timestamp_ms"].as_u64().unwrap());
    send("again", &["--burn"]);
    let printed = recv(&["-n", "1"]).stdout;
    assert!(printed.contains("burns") && printed.contains("again"), "{printed}");
    send("gone", &["--burn-after", "1s"]);
    std::thread::sleep(std::time::Duration::from_millis(1_100));
    assert_eq!(recv(&[]).stdout, "");
    node.stop();
}

#[test]
fn presence_says_whether_an_agent_reads_that_shows_it_and_nothing_of_any_other() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let node = Node::with_agents(dir, SHARDS, &["acme/planner", "acme/worker"]);
    let address = node.address.to_string();
    let presence = |agent: &str| {
        let asked = ok(dir, SHARDS, &["presence", "acme/worker", agent, "--node", &address, "--json"]).json();
        asked["presence"].as_str().unwrap().to_owned()
    };
    let recv = |more: &[&str]| {
        let recv = ["recv", "acme/planner", "--node", &address, "--wait", "4000", "-n", "1"];
        ok(dir, SHARDS, &[&recv, more].concat());
    };
    let send = || ok(dir, SHARDS, &["send", "acme/worker", "acme/planner", "done", "--node", &address]);
    send();
    recv(&[]);
    assert_eq!((presence("acme/planner"), presence("acme/nobody")), ("unknown".to_owned(), "unknown".to_owned()));
    std::thread::scope(|scope| {
        let reading = scope.spawn(|| recv(&["--show-presence"]));
        while presence("acme/planner") != "online" {
            assert!(!reading.is_finished(), "it read, and was never online");
        }
        send();
        reading.join().unwrap();
    });
    while presence("acme/planner") != "seen" {}
    let asked = ok(dir, SHARDS, &["presence", "acme/worker", "acme/planner", "--node", &address]).stdout;
    assert!(asked.starts_with("seen 0 min ago"), "{asked}");
    node.stop();
}
