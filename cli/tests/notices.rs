//! Messages that expire unread, on a real node: their senders are told, also when it is killed meanwhile.
#![allow(clippy::unwrap_used, reason = "a test stops where it is wrong")]

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use creto_agent::{NoticeCause, SendOptions};
use serde_json::Value;

mod process;
use process::{Node, creto, name, ok, on_time};

const SHARDS: u16 = 2;
/// Messages that expire around each kill.
const MESSAGES: u32 = 60;

/// The node is killed when messages are about to expire, while they do, and when all have. What was acknowledged and never
/// read leads to a notice, and the SDK shows it once, however often the node had to begin anew.
#[test]
fn whoever_sent_what_expired_around_a_kill_is_told_once_of_each() {
    on_time(async {
        let dir = tempfile::tempdir().unwrap();
        let agents = ["acme/planner", "acme/worker", "acme/critic"];
        let mut node = Node::with_agents(dir.path(), SHARDS, &agents);
        let mut sent = BTreeSet::new();
        for kill_after_ms in [1_000, 1_300, 1_600, 1_900, 2_200] {
            let planner = node.connect(dir.path(), "acme/planner").await;
            let soon = SendOptions { ttl: Some(Duration::from_secs(1)), ..SendOptions::default() };
            for number in 0..MESSAGES {
                // Two mailboxes, so that both shards have a part in it.
                let to = name(if number % 2 == 0 { "acme/worker" } else { "acme/critic" });
                let receipt = planner.send_with(&to, format!("{number}"), soon).await.unwrap();
                assert!(sent.insert(receipt.message_id));
            }
            // Which moment it is, is what the test is about.
            tokio::time::sleep(Duration::from_millis(kill_after_ms)).await;
            node.process.signal(rustix::process::Signal::KILL);
            planner.close().await;
            drop(node);
            node = Node::start(dir.path(), SHARDS);
        }
        let planner = node.connect(dir.path(), "acme/planner").await;
        let mut notices = planner.notices().unwrap();
        let mailbox = planner.subscribe().unwrap();
        let mut told = BTreeMap::new();
        while told.len() < sent.len() {
            let notice = notices.next().await.unwrap();
            assert_eq!(notice.cause, NoticeCause::TimeToLive);
            assert_eq!(told.insert(notice.message_id, notice.to.clone()), None, "{notice:?} is shown twice");
            notice.ack();
        }
        assert!(told.keys().eq(sent.iter()));
        let names: BTreeSet<_> = told.into_values().map(|to| to.unwrap().to_string()).collect();
        assert_eq!(names, BTreeSet::from(["acme/critic".to_owned(), "acme/worker".to_owned()]));
        drop((mailbox, notices));
        planner.close().await;
        for agent in ["acme/worker", "acme/critic"] {
            let run = ok(dir.path(), SHARDS, &["recv", agent, "--node", &node.address.to_string(), "--wait", "200"]);
            assert_eq!(run.stdout, "", "what expired is not delivered");
        }
        node.stop();
        ok(dir.path(), SHARDS, &["wal", "verify"]);
    });
}

#[test]
fn recv_prints_what_expired_and_send_can_leave_the_notice_out() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let node = Node::with_agents(dir, SHARDS, &["acme/planner", "acme/worker"]);
    let address = node.address.to_string();
    let send = |more: &[&str]| {
        let send = ["send", "acme/planner", "acme/worker", "hello", "--ttl", "1", "--node", &address, "--json"];
        let sent = ok(dir, SHARDS, &[&send, more].concat()).json();
        sent["message_id"].as_str().unwrap().to_owned()
    };
    let quiet = send(&["--no-notice"]);
    let (first, second) = (send(&[]), send(&[]));
    let recv = |more: &[&str]| {
        let run = creto(dir, SHARDS, &[&["recv", "acme/planner", "--node", &address, "--wait", "4000"], more].concat());
        assert_eq!(run.status, 0, "{}", run.stderr);
        run.stdout
    };
    let printed = recv(&["--json"]);
    let lines: Vec<Value> = printed.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let told: BTreeSet<&str> = lines.iter().map(|line| line["message_id"].as_str().unwrap()).collect();
    assert_eq!(told, BTreeSet::from([first.as_str(), second.as_str()]), "{printed}");
    assert!(!printed.contains(&quiet));
    for line in &lines {
        assert_eq!((&line["notice"], &line["to"]), (&"expired".into(), &"acme/worker".into()));
        assert_eq!(line["cause"], "time_to_live");
    }
    assert_eq!(recv(&[]), "", "they are acknowledged");
    let third = send(&[]);
    let text = recv(&[]);
    assert!(text.contains("expired") && text.contains(&third) && text.contains("acme/worker"), "{text}");
    node.stop();
}
