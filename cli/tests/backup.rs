//! Backups of a real node process under load, and nodes that start on what was restored.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, UNIX_EPOCH};

use creto_agent::{Agent, AgentId, AgentKeys, AgentName, ConnectOptions, NodeCertificate, TrustDomain};

mod process;
use process::{Node, PATIENCE, Process, beside, command, creto, name, ok, on_time, restored_home, run};

/// Texts that were acknowledged.
type Acknowledged = Arc<Mutex<BTreeSet<String>>>;

/// Sends numbered messages until it is stopped or the node is gone.
fn send_on(
    agent: Agent,
    from: &'static str,
    to: &'static str,
    bytes: usize,
    acknowledged: &Acknowledged,
) -> tokio::task::JoinHandle<()> {
    let acknowledged = Arc::clone(acknowledged);
    tokio::spawn(async move {
        for number in 0.. {
            let text = format!("{from} {number}");
            let payload = format!("{text}:{}", ".".repeat(bytes));
            if agent.send(&name(to), payload.into_bytes()).await.is_err() {
                break;
            }
            acknowledged.lock().expect("not poisoned").insert(text);
        }
    })
}

/// Reads a mailbox until it was quiet for two seconds; how often each text came.
async fn read_all(agent: &Agent) -> BTreeMap<String, u32> {
    let mut subscription = agent.subscribe().expect("one subscription");
    let mut texts = BTreeMap::new();
    while let Ok(Some(delivery)) = tokio::time::timeout(Duration::from_secs(2), subscription.next()).await {
        let delivery = delivery.expect("a message that opens");
        let payload = String::from_utf8(delivery.payload.to_vec()).expect("UTF-8");
        let text = payload.split(':').next().expect("a text").to_owned();
        *texts.entry(text).or_insert(0) += 1;
        delivery.ack();
    }
    texts
}

async fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !is_so() {
        assert!(begun.elapsed() < PATIENCE / 2, "{what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[test]
fn what_was_acknowledged_before_a_backup_of_a_loaded_node_is_served_from_its_restore_once() {
    on_time(async {
        let dir = tempfile::tempdir().expect("a folder");
        let home = dir.path().join("first");
        std::fs::create_dir(&home).expect("a folder");
        let mut node = Node::with_agents(&home, 2, &["acme/one", "acme/two", "acme/reader", "acme/late-reader"]);
        let acknowledged = Acknowledged::default();
        let senders: Vec<_> = [("acme/one", 600), ("acme/two", 20_000)]
            .map(|(from, bytes)| (from, bytes, &node))
            .into_iter()
            .map(|(from, bytes, node)| async move { (node.connect(&home_of(node), from).await, from, bytes) })
            .collect();
        let mut sending = Vec::new();
        for sender in senders {
            let (agent, from, bytes) = sender.await;
            sending.push(send_on(agent, from, "acme/reader", bytes, &acknowledged));
        }
        // Agents come all the time, and each sends at once.
        let control = creto_service::client::Client::new(home.join("data/control.sock"));
        let certificate = NodeCertificate::from_file(home.join("data/node.crt")).expect("a certificate");
        let address = node.address;
        sending.push(tokio::spawn(async move {
            for number in 0.. {
                let name = AgentName::parse(&format!("acme/newcomer-{number}")).expect("a name");
                let keys = AgentKeys::generate(name, TrustDomain::default()).expect("keys");
                let now_ms = u64::try_from(UNIX_EPOCH.elapsed().expect("after 1970").as_millis()).expect("64 bits");
                let record = keys.signed_record(1, now_ms - 1_000, now_ms + 86_400_000);
                let Ok(_) = control.register(&record).await else { break };
                let Ok(agent) = Agent::connect(ConnectOptions::new(address, certificate.clone(), keys)).await else {
                    break;
                };
                let Ok(_) = agent.send(&self::name("acme/late-reader"), b"new".to_vec()).await else { break };
                agent.close().await;
            }
        }));
        until("messages are acknowledged", || acknowledged.lock().expect("not poisoned").len() >= 60).await;

        let before = acknowledged.lock().expect("not poisoned").clone();
        let backup = beside(command(&home, 2, &["backup", "../backup", "--with-secrets", "--json"])).await;
        assert_eq!(backup.status, 0, "{}{}", backup.stdout, backup.stderr);
        let report = backup.json();
        assert_eq!((&report["running"], &report["secrets"]), (&true.into(), &true.into()), "{report}");
        let at_end = acknowledged.lock().expect("not poisoned").len();
        // It goes on serving, and an agent that comes now is not in the backup.
        ok(&home, 2, &["agent", "create", "acme/late"]);
        until("the node goes on", || acknowledged.lock().expect("not poisoned").len() > at_end + 5).await;
        node.process.signal(rustix::process::Signal::KILL);
        node.process.0.wait().expect("a child");
        sending.into_iter().for_each(|sender| sender.abort());
        assert!(!home.join("data/control.redb.backup").exists(), "the copy of the directory went with the backup");

        let second = dir.path().join("second");
        restored_home(&second);
        let restored = beside(command(&second, 2, &["restore", "../backup", "data", "--json"])).await;
        assert_eq!(restored.status, 0, "{}{}", restored.stdout, restored.stderr);
        assert!(restored.json()["messages"].as_u64().expect("a count") >= before.len() as u64);
        ok(&second, 2, &["wal", "verify"]);
        let senders = senders_in_logs(&second.join("data/wal"));
        assert!(senders.len() > 3, "newcomers, too: {}", senders.len());
        for sender in senders {
            let record = creto_service::offline::key_record(&second.join("data/control.redb"), sender, 1);
            assert!(record.expect("it can be read").is_some(), "{sender}: its message is there, and nobody knows it");
        }
        assert!(restored.json()["audit_leaves"].as_u64().expect("a count") > 0);
        let in_backup = restored.json()["messages"].as_u64().expect("a count");
        let node = Node::start(&second, 2);
        let reader = node.connect(&home, "acme/reader").await;
        let texts = read_all(&reader).await;
        let missing: Vec<_> = before.iter().filter(|text| !texts.contains_key(*text)).collect();
        assert!(missing.is_empty(), "{missing:?}");
        assert!(texts.values().all(|&times| times == 1), "{texts:?}");
        // The agents of the backup go on with their keys.
        let sender = node.connect(&home, "acme/one").await;
        sender.send(&name("acme/reader"), b"after:".to_vec()).await.expect("both are in the directory");
        let listed = ok(&second, 2, &["agent", "list", "--json"]).stdout;
        let late = creto(&second, 2, &["agent", "show", "acme/late"]);
        assert_eq!(late.status, 4, "{}", late.stderr);
        reader.close().await;
        sender.close().await;
        node.stop();

        // The audit log verifies, goes on, and has what was in the backup: also what it was not told yet when it was copied.
        let verified = ok(&second, 2, &["audit", "verify", "data/audit", "--key", "../first/data/audit/audit.pub"]);
        assert!(verified.stdout.contains("0 of them only hashes"), "{}", verified.stdout);
        let events =
            |kind: &str| ok(&second, 2, &["audit", "query", "--kind", kind, "--limit", "1000000", "--json"]).lines();
        let accepted: Vec<_> = events("message_accepted").iter().map(|event| event["message_id"].to_string()).collect();
        let ids: BTreeSet<_> = accepted.iter().collect();
        assert_eq!(ids.len(), accepted.len(), "each once");
        assert!(accepted.len() as u64 > in_backup, "{} accepted, {in_backup} in the backup", accepted.len());
        let registered: BTreeSet<_> =
            events("agent_registered").iter().map(|event| event["text"].as_str().expect("a name").to_owned()).collect();
        for agent in registered_in(&listed) {
            assert!(registered.contains(&agent), "{agent} is in the directory, and the log does not say so");
        }
    });
}

#[test]
fn without_its_secret_keys_an_audit_log_is_restored_to_be_read_and_another_one_begins() {
    let dir = tempfile::tempdir().expect("a folder");
    let home = dir.path().join("first");
    std::fs::create_dir(&home).expect("a folder");
    Node::with_agents(&home, 2, &["acme/one"]).stop();
    ok(&home, 2, &["backup", "../backup"]);
    assert!(!dir.path().join("backup/audit/audit.key").exists());
    let second = dir.path().join("second");
    restored_home(&second);
    let restored = ok(&second, 2, &["restore", "../backup", "data"]);
    assert!(restored.stdout.contains("audit.restored"), "{}", restored.stdout);
    ok(&second, 2, &["audit", "verify", "data/audit.restored", "--key", "../first/data/audit/audit.pub"]);
    for file in ["node.crt", "node.key"] {
        std::fs::copy(home.join("data").join(file), second.join("data").join(file)).expect("a copy");
    }
    Node::start(&second, 2).stop();
    let other = creto(&second, 2, &["audit", "verify", "data/audit", "--key", "../first/data/audit/audit.pub"]);
    assert_eq!(other.status, 1, "{}", other.stdout);
    // As it was backed up: one changed byte, and nothing is restored.
    let entries = dir.path().join("backup/audit/entries/000000000000");
    let mut bytes = std::fs::read(&entries).expect("entries");
    bytes[40] ^= 1;
    std::fs::write(&entries, bytes).expect("it can be written");
    let third = dir.path().join("third");
    restored_home(&third);
    assert_eq!(creto(&third, 2, &["restore", "../backup", "data"]).status, 1);
}

/// The agents of a list.
fn registered_in(listed: &str) -> Vec<String> {
    let listed: serde_json::Value = serde_json::from_str(listed).expect("JSON");
    let agents = listed.as_array().expect("a list");
    let names: Vec<_> = agents.iter().map(|agent| agent["name"].as_str().expect("a name").to_owned()).collect();
    assert!(names.len() > 4, "newcomers, too: {names:?}");
    names
}

/// Who sent the messages of the logs.
fn senders_in_logs(wal: &Path) -> BTreeSet<AgentId> {
    let mut senders = BTreeSet::new();
    for shard in 0..2 {
        let mut source = creto_store::FileSource::new(wal.join(format!("shard-{shard:04}")));
        let recovered = creto_store::recover(&mut source, shard, |_, record| {
            if let creto_store::Record::BatchPart(part) | creto_store::Record::Moved(part) = record {
                senders.extend(part.messages.iter().map(|message| AgentId(message.sender.0)));
            }
        });
        recovered.expect("it was verified");
    }
    senders
}

fn home_of(node: &Node) -> PathBuf {
    node.folder.clone()
}

#[test]
fn a_log_is_backed_up_while_its_segments_are_read_trimmed_and_reused() {
    on_time(async {
        let dir = tempfile::tempdir().expect("a folder");
        let home = dir.path().join("first");
        std::fs::create_dir(&home).expect("a folder");
        let node = Node::with_agents(&home, 1, &["acme/one", "acme/reader", "acme/keeper"]);
        let acknowledged = Acknowledged::default();
        let agent = node.connect(&home, "acme/one").await;
        let sending = send_on(agent, "acme/one", "acme/reader", 200_000, &acknowledged);
        let reader = node.connect(&home, "acme/reader").await;
        let reading = tokio::spawn(async move {
            let mut subscription = reader.subscribe().expect("one subscription");
            while let Some(Ok(delivery)) = subscription.next().await {
                delivery.ack();
            }
        });
        let segments = || -> Vec<String> {
            let mut names: Vec<_> = std::fs::read_dir(home.join("data/wal/shard-0000"))
                .expect("a log")
                .map(|entry| entry.expect("an entry").file_name().into_string().expect("a name"))
                .filter(|name| name.ends_with(".wal"))
                .collect();
            names.sort();
            names
        };
        until("the log has a second segment", || segments().len() > 1).await;
        let backup = command(&home, 1, &["backup", "../backup", "--rate", "4 MiB", "--with-secrets", "--json"]);
        let backup = beside(backup).await;
        assert_eq!(backup.status, 0, "{}{}", backup.stdout, backup.stderr);
        let last = backup.json()["shards"][0]["last_segment"].as_u64().expect("a number");
        // Everything that was copied is read by now, and its files are wanted for what comes.
        let last = format!("segment-{last:016x}.wal");
        until("the segments of the backup are reused", || segments().first().is_some_and(|first| *first > last)).await;
        sending.abort();
        reading.abort();
        let tar = beside(command(&home, 1, &["backup", "--tar", "../backup.tar", "--json"])).await;
        assert_eq!(tar.status, 0, "{}{}", tar.stdout, tar.stderr);
        for (source, shown) in [("../backup", "true"), ("../backup.tar", "false")] {
            let second = dir.path().join(format!("second-{shown}"));
            restored_home(&second);
            let restored = creto(&second, 1, &["restore", source, "data", "--json"]);
            assert_eq!(restored.status, 0, "{source}: {}{}", restored.stdout, restored.stderr);
            assert_eq!(restored.json()["secrets"].to_string(), shown);
        }
        let second = dir.path().join("second-true");
        Node::start(&second, 1).stop();
        // The other has no key, and says what to do.
        let keyless = creto(&dir.path().join("second-false"), 1, &["serve"]);
        assert_eq!(keyless.status, 2);
        assert!(keyless.stderr.contains("creto init --force"), "{}", keyless.stderr);
        node.stop();
    });
}

#[test]
fn a_backup_that_is_killed_is_not_one_and_does_not_hold_the_node() {
    let dir = tempfile::tempdir().expect("a folder");
    let home = dir.path().join("first");
    std::fs::create_dir(&home).expect("a folder");
    let node = Node::with_agents(&home, 1, &["acme/one"]);
    // More than a second at the lowest rate.
    let text = "x".repeat(900_000);
    for number in 0..3 {
        std::fs::write(home.join("text"), &text).expect("a file");
        let address = node.address.to_string();
        let sent = creto(&home, 1, &["send", "acme/one", "acme/one", "--file", "text", "--node", &address]);
        assert_eq!(sent.status, 0, "{number}: {}", sent.stderr);
    }
    let slow = |target: &[&str]| {
        let mut slow = command(&home, 1, &[&["backup", "--rate", "1 MiB"], target].concat());
        let process = Process(slow.stdout(Stdio::null()).spawn().expect("the binary was built"));
        // Its first file is there: it copies.
        let begun = Instant::now();
        let (folder, tar) = (dir.path().join("killed/wal"), dir.path().join("killed.tar.partial"));
        while !folder.exists() && !tar.exists() {
            assert!(begun.elapsed() < PATIENCE);
            std::thread::sleep(Duration::from_millis(5));
        }
        process
    };
    let mut interrupted = slow(&["../killed"]);
    interrupted.signal(rustix::process::Signal::INT);
    assert_eq!(interrupted.0.wait().expect("a child").code(), Some(5));
    assert!(!dir.path().join("killed").exists());

    let mut killed = slow(&["../killed"]);
    killed.signal(rustix::process::Signal::KILL);
    killed.0.wait().expect("a child");
    assert!(dir.path().join("killed").exists());
    let restore = creto(dir.path(), 1, &["restore", "killed", "restored"]);
    assert_eq!(restore.status, 1, "{}", restore.stderr);
    assert!(restore.stderr.contains("not a complete backup"), "{}", restore.stderr);
    assert!(std::fs::read_dir(dir.path().join("restored")).map_or(0, Iterator::count) == 0);
    // The node waits for it a little, and then no more.
    let busy = creto(&home, 1, &["backup", "../again"]);
    assert_eq!(busy.status, 4, "{}", busy.stderr);
    assert!(busy.stderr.contains("forgotten after 30 s"), "{}", busy.stderr);
    assert!(!dir.path().join("again").exists());
    let begun = Instant::now();
    while creto(&home, 1, &["backup", "../again"]).status == 4 {
        assert!(begun.elapsed() < PATIENCE);
        std::thread::sleep(Duration::from_millis(500));
    }
    ok(dir.path(), 1, &["restore", "again", "restored"]);
    node.stop();
}

#[test]
fn a_stopped_node_is_backed_up_through_a_pipe() {
    let dir = tempfile::tempdir().expect("a folder");
    let home = dir.path().join("first");
    std::fs::create_dir(&home).expect("a folder");
    let node = Node::with_agents(&home, 2, &["acme/one", "acme/two"]);
    let address = node.address.to_string();
    ok(&home, 2, &["send", "acme/one", "acme/two", "hello", "--node", &address]);
    node.stop();

    let second = dir.path().join("second");
    restored_home(&second);
    let mut backup = command(&home, 2, &["backup", "--tar", "-", "--with-secrets", "--json"]);
    let mut backup =
        Process(backup.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the binary was built"));
    let mut restore = command(&second, 2, &["restore", "-", "data"]);
    restore.stdin(backup.0.stdout.take().expect("piped"));
    let restored = run(restore);
    assert_eq!(restored.status, 0, "{}{}", restored.stdout, restored.stderr);
    assert!(restored.stdout.contains("must not run any more"), "{}", restored.stdout);
    assert_eq!(backup.0.wait().expect("a child").code(), Some(0));

    let node = Node::start(&second, 2);
    let address = node.address.to_string();
    let keys = home.join("agents");
    let keys = keys.to_str().expect("UTF-8");
    let recv = ok(&second, 2, &["recv", "acme/two", "--keys", keys, "--node", &address, "--json"]);
    assert!(recv.stdout.contains("\"text\":\"hello\""), "{}", recv.stdout);
    // A node runs: its folder is not copied behind its back.
    std::fs::remove_file(second.join("data/control.sock")).expect("a socket");
    let behind = creto(&second, 2, &["backup", "../backup"]);
    assert_eq!(behind.status, 5, "{}", behind.stderr);
    assert!(behind.stderr.contains("in use by another node"), "{}", behind.stderr);
    assert!(!dir.path().join("backup").exists());
}

#[test]
fn nothing_is_overwritten_and_nothing_is_taken_for_a_backup() {
    let dir = tempfile::tempdir().expect("a folder");
    ok(dir.path(), 1, &["init"]);
    let nothing = creto(dir.path(), 1, &["backup", "new"]);
    assert_eq!(nothing.status, 2, "{}", nothing.stderr);
    assert!(nothing.stderr.contains("it has no node.json"), "{}", nothing.stderr);
    assert!(!dir.path().join("new").exists());
    let full = creto(dir.path(), 1, &["backup", "."]);
    assert_eq!(full.status, 2, "{}", full.stderr);
    let neither = creto(dir.path(), 1, &["restore", "creto.toml", "new"]);
    assert_eq!(neither.status, 1, "{}", neither.stderr);
    let into_full = creto(dir.path(), 1, &["restore", "data", "."]);
    assert_eq!(into_full.status, 2, "{}", into_full.stderr);
    let rate = creto(dir.path(), 1, &["backup", "new", "--rate", "slow"]);
    assert_eq!(rate.status, 2, "{}", rate.stderr);
}
