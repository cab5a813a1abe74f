//! `creto pub` and `creto sub`, as a person uses them.
#![allow(clippy::unwrap_used, reason = "a test stops where it is wrong")]

mod process;

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use process::{Node, Process, Run, command, creto, ok};

const AGENTS: &[&str] = &["acme/planner", "acme/worker", "acme/watcher"];

/// A node with agents and a channel.
struct Scene {
    folder: tempfile::TempDir,
    node: Node,
}

impl Scene {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let node = Node::with_agents(folder.path(), 2, AGENTS);
        ok(folder.path(), 2, &["channel", "create", "acme/alerts", "--owner", "acme/planner"]);
        Self { folder, node }
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }

    fn run(&self, args: &[&str]) -> Run {
        let address = self.node.address.to_string();
        creto(self.path(), 2, &[args, &["--node", &address]].concat())
    }

    fn publish(&self, text: &str) -> Run {
        self.run(&["pub", "acme/planner", "acme/alerts", text])
    }

    /// `creto sub`, which reads until it is dropped or has done what it was to do.
    fn subscribe(&self, agent: &str, args: &[&str]) -> (Process, impl Iterator<Item = serde_json::Value> + use<>) {
        let address = self.node.address.to_string();
        let args = [&["sub", agent, "acme/alerts", "--follow", "--json", "--node", &address], args].concat();
        let mut child = command(self.path(), 2, &args).stdout(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        (Process(child), lines.map(|line| serde_json::from_str(&line.unwrap()).unwrap()))
    }

    /// Makes a subscription, which stays, and waits for nothing.
    fn make_subscription(&self, agent: &str) {
        self.make_subscription_with(agent, &[]);
    }

    fn make_subscription_with(&self, agent: &str, args: &[&str]) {
        let made = self.run(&[&["sub", agent, "acme/alerts", "--wait", "1"], args].concat());
        assert_eq!((made.status, made.stdout.as_str()), (0, ""), "{}", made.stderr);
    }
}

#[test]
fn what_is_published_is_printed_by_who_subscribes_and_goes_on_where_it_was() {
    let scene = Scene::new();
    let nobody = scene.publish("before anybody came");
    assert_eq!(nobody.status, 0, "{}", nobody.stderr);
    assert!(nobody.stdout.starts_with("durable") && nobody.stdout.contains("no subscriber yet"), "{}", nobody.stdout);

    scene.make_subscription("acme/worker");
    let one = scene.publish("disk is filling");
    assert!(one.stdout.contains("1 subscriber,") && one.stdout.contains("15 bytes to acme/alerts"), "{}", one.stdout);
    let read = scene.run(&["sub", "acme/worker", "acme/alerts", "-n", "1", "--follow", "--json"]);
    assert_eq!(read.status, 0, "{}", read.stderr);
    let line = &read.lines()[0];
    assert_eq!(
        (&line["text"], &line["from"], &line["channel"], &line["attempt"]),
        (&"disk is filling".into(), &"acme/planner".into(), &"acme/alerts".into(), &0.into())
    );

    // Lines of standard input, each a message, in order; to a subscriber that follows.
    let (mut process, lines) = scene.subscribe("acme/worker", &["-n", "500"]);
    let address = scene.node.address.to_string();
    let args = ["pub", "acme/planner", "acme/alerts", "--lines", "--json", "--node", &address];
    let mut child = command(scene.path(), 2, &args).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut input = child.stdin.take().unwrap();
    // As they end on one system or another.
    let end = |n| if n % 2 == 0 { "\n" } else { "\r\n" };
    let text: String = (0..500).map(|n| format!("line {n}{}", end(n))).collect();
    let writing = std::thread::spawn(move || input.write_all(text.as_bytes()).unwrap());
    let output = child.wait_with_output().unwrap();
    writing.join().unwrap();
    assert!(output.status.success());
    assert_eq!(String::from_utf8(output.stdout).unwrap().lines().count(), 500);
    let read: Vec<String> = lines.map(|line| line["text"].as_str().unwrap().to_owned()).collect();
    assert_eq!(read, (0..500).map(|n| format!("line {n}")).collect::<Vec<_>>());
    assert!(process.0.wait().unwrap().success());
}

#[test]
fn a_group_shares_what_comes_and_a_subscription_ends_when_it_is_asked_to() {
    let scene = Scene::new();
    let group = ["--group", "workers"];
    for agent in ["acme/worker", "acme/watcher"] {
        scene.make_subscription_with(agent, &group);
    }
    let (worker, of_worker) = scene.subscribe("acme/worker", &group);
    let (watcher, of_watcher) = scene.subscribe("acme/watcher", &group);
    let (printed, came) = std::sync::mpsc::channel();
    let readers = [of_worker, of_watcher].map(|lines| {
        let printed = printed.clone();
        std::thread::spawn(move || lines.for_each(|line| printed.send(line).unwrap()))
    });
    drop(printed);
    let sent: BTreeSet<String> = (0..40).map(|n| format!("job {n}")).collect();
    for text in &sent {
        assert_eq!(scene.publish(text).status, 0);
    }
    let text = |line: serde_json::Value| line["text"].as_str().unwrap_or_else(|| panic!("{line}")).to_owned();
    let mut all: Vec<String> = Vec::new();
    while all.len() < sent.len() {
        all.push(text(came.recv_timeout(Duration::from_secs(60)).expect("none is lost")));
    }
    for process in [&worker, &watcher] {
        process.signal(rustix::process::Signal::INT);
    }
    // Nothing comes behind.
    all.extend(came.iter().map(text));
    readers.into_iter().for_each(|reader| reader.join().unwrap());
    assert_eq!((all.len(), all.into_iter().collect::<BTreeSet<_>>()), (sent.len(), sent), "each to one of them");

    scene.make_subscription("acme/worker");
    let ended = scene.run(&["sub", "acme/worker", "acme/alerts", "--unsubscribe", "--json"]);
    assert_eq!(ended.json()["unsubscribed"], "acme/alerts", "{}", ended.stderr);
    assert_eq!(scene.publish("nobody reads this").status, 0);
    let nothing = scene.run(&["sub", "acme/worker", "acme/alerts", "--wait", "200"]);
    assert_eq!((nothing.status, nothing.stdout.as_str()), (0, ""));
}

#[test]
fn a_pattern_prints_what_is_published_in_all_channels_that_fit() {
    let scene = Scene::new();
    let names = ["acme/alerts.eu.critical", "acme/alerts.us.critical"];
    for name in names {
        ok(scene.path(), 2, &["channel", "create", name, "--owner", "acme/planner"]);
    }
    let pattern = "acme/alerts.*.critical";
    let nothing = scene.run(&["sub", "acme/worker", pattern, "--wait", "1"]);
    assert_eq!((nothing.status, nothing.stdout.as_str()), (0, ""), "{}", nothing.stderr);
    assert!(names.iter().all(|name| nothing.stderr.contains(&format!("reads {name}"))), "{}", nothing.stderr);
    for name in names.iter().chain(&["acme/alerts"]) {
        assert_eq!(scene.run(&["pub", "acme/planner", name, &format!("about {name}")]).status, 0);
    }
    let read = scene.run(&["sub", "acme/worker", pattern, "-n", "2", "--follow", "--json"]);
    assert_eq!(read.status, 0, "{}", read.stderr);
    let of = |key: &str| -> BTreeSet<String> {
        let lines = read.lines();
        let found = lines.iter().filter(|line| !line[key].is_null());
        found.map(|line| format!("{} {}", line["channel"].as_str().unwrap(), line[key])).collect()
    };
    assert_eq!(of("joined"), names.iter().map(|name| format!("{name} true")).collect());
    assert_eq!(of("text"), names.iter().map(|name| format!("{name} \"about {name}\"")).collect());
    let ended = scene.run(&["sub", "acme/worker", pattern, "--unsubscribe", "--json"]);
    let ended: Vec<_> = ended.lines().iter().map(|line| line["unsubscribed"].as_str().unwrap().to_owned()).collect();
    assert_eq!(ended, names);
    let bad = scene.run(&["sub", "acme/worker", "acme/**.critical"]);
    assert!(bad.status == 2 && bad.stderr.contains("write `*` for one word"), "{} {}", bad.status, bad.stderr);
}

#[test]
fn refusals_say_what_to_do_and_have_the_status_of_a_refusal() {
    let scene = Scene::new();
    let check = |run: Run, status: i32, says: &str| {
        assert_eq!(run.status, status, "{}{}", run.stdout, run.stderr);
        assert!(run.stderr.contains(says), "{}", run.stderr);
    };
    check(scene.run(&["pub", "acme/planner", "acme/none", "x"]), 4, "there is no channel acme/none here");
    check(scene.run(&["sub", "acme/worker", "acme/none"]), 4, "creto channel list");
    check(scene.run(&["pub", "acme/planner", "acme/alerts"]), 2, "--lines");
    check(scene.run(&["sub", "acme/worker", "acme/alerts", "--from", "yesterday"]), 2, "2026-11-20T16:05:00Z");
    let set = ["channel", "set", "acme/alerts", "--subscribe", "private", "--publish", "listed"];
    ok(scene.path(), 2, &set);
    check(scene.run(&["pub", "acme/worker", "acme/alerts", "x"]), 4, "does not let this agent publish");
}

#[test]
fn what_cannot_be_read_for_want_of_its_key_is_said_and_the_status_says_so() {
    let scene = Scene::new();
    scene.make_subscription("acme/worker");
    assert_eq!(scene.publish("one").status, 0);
    let read = scene.run(&["sub", "acme/worker", "acme/alerts", "-n", "1", "--follow", "--json"]);
    assert_eq!(read.lines()[0]["text"], "one", "{}", read.stderr);
    // The keys that it was given are gone, and are not given twice.
    std::fs::remove_dir_all(scene.path().join("agents/acme/worker.keys.sessions")).unwrap();
    assert_eq!(scene.publish("two").status, 0);
    let sub = ["sub", "acme/worker", "acme/alerts", "--wait", "100", "--key-wait", "1s"];
    let unread = scene.run(&[&sub[..], &["--json"]].concat());
    assert_eq!(unread.status, 7, "{}{}", unread.stdout, unread.stderr);
    let line = &unread.lines()[0];
    assert_eq!((&line["channel"], &line["from"]), (&"acme/alerts".into(), &"acme/planner".into()));
    assert!(line["code"].is_null() && line["message_id"].is_string(), "{line}");
    assert!(line["unread"].as_str().unwrap().contains("has not given its key within 1000 ms"), "{line}");
    assert!(unread.stderr.contains("the channel has 1 message that was not read"), "{}", unread.stderr);
    let unread = scene.run(&sub);
    assert_eq!((unread.status, unread.stdout.as_str()), (7, ""));
    assert!(unread.stderr.contains("unread  message "), "{}", unread.stderr);
    // It is passed over when that is asked for.
    let passed = scene.run(&[&sub[..], &["--skip-unreadable"]].concat());
    assert_eq!(passed.status, 0, "{}", passed.stderr);
    assert!(passed.stderr.contains("unread  message "), "{}", passed.stderr);
    let nothing = scene.run(&sub);
    assert_eq!((nothing.status, nothing.stderr.as_str()), (0, ""));
}

#[test]
fn a_channel_that_changed_hands_is_used_when_its_owner_is_named_and_not_before() {
    let scene = Scene::new();
    scene.make_subscription("acme/worker");
    assert_eq!(scene.run(&["pub", "acme/worker", "acme/alerts", "one"]).status, 0);
    ok(scene.path(), 2, &["agent", "revoke", "acme/planner", "--reason", "gone"]);
    ok(scene.path(), 2, &["channel", "set", "acme/alerts", "--owner", "acme/watcher"]);
    for verb in [["sub", "--wait", "100"].as_slice(), &["pub", "two"]] {
        let run = |owner: &[&str]| scene.run(&[&[verb[0], "acme/worker", "acme/alerts"], &verb[1..], owner].concat());
        for owner in [&[][..], &["--owner", "acme/planner"]] {
            let refused = run(owner);
            assert_eq!(refused.status, 1, "{verb:?}: {}{}", refused.stdout, refused.stderr);
            assert!(refused.stderr.contains("owner"), "{}", refused.stderr);
        }
        let named = run(&["--owner", "acme/watcher"]);
        assert_eq!(named.status, 0, "{verb:?}: {}{}", named.stdout, named.stderr);
        // From then on it is known.
        assert_eq!(run(&[]).status, 0);
    }
}

#[test]
fn a_subscriber_can_be_interrupted_while_its_node_does_not_answer() {
    let scene = Scene::new();
    let (mut subscriber, mut lines) = scene.subscribe("acme/worker", &["-n", "2"]);
    let until = Instant::now() + process::PATIENCE;
    while !scene.publish("until it is there").stdout.contains("1 subscriber,") {
        assert!(Instant::now() < until, "it subscribes");
    }
    lines.next().expect("it reads");
    scene.node.process.signal(rustix::process::Signal::STOP);
    let asked = Instant::now();
    let status = loop {
        subscriber.signal(rustix::process::Signal::INT);
        if let Some(status) = subscriber.0.try_wait().unwrap() {
            break status;
        }
        // A person who waits asks again.
        std::thread::sleep(Duration::from_millis(100));
    };
    scene.node.process.signal(rustix::process::Signal::CONT);
    assert!(asked.elapsed() < Duration::from_secs(5), "{:?}", asked.elapsed());
    assert_eq!(status.code(), Some(0), "what it was to do, it has done");
}
