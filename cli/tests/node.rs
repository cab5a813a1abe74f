//! A node and its clients as processes: what a person does in the first five minutes, and then SIGKILL.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

struct Run {
    status: i32,
    stdout: String,
    stderr: String,
}

fn command(folder: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_creto"));
    command.current_dir(folder).args(args).env_remove("CRETO_CONFIG");
    // Small: a test needs neither the disk nor the memory of a node.
    command.env("CRETO__WAL__SEGMENT_BYTES", "8 MiB").env("CRETO__WAL__WAL_BYTES_MAX", "64 MiB");
    command.env("CRETO__TOPOLOGY__SHARDS", "2");
    command
}

fn creto(folder: &Path, args: &[&str]) -> Run {
    let output = command(folder, args).output().expect("the binary was built");
    let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
    Run { status: output.status.code().expect("an exit"), stdout: text(output.stdout), stderr: text(output.stderr) }
}

fn ok(folder: &Path, args: &[&str]) -> Run {
    let run = creto(folder, args);
    assert_eq!(run.status, 0, "{args:?}: {}{}", run.stdout, run.stderr);
    run
}

/// A process that does not outlive a test that fails.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        // It may have ended, as it should.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A node that is killed when the test is over, however it ends.
struct Node {
    process: Child,
    address: String,
    output: BufReader<std::process::ChildStdout>,
}

impl Node {
    /// Starts a node and waits for its line.
    fn start(folder: &Path) -> Self {
        let mut serve = command(folder, &["serve", "--json"]);
        let mut process = serve.stdout(Stdio::piped()).stderr(Stdio::inherit()).spawn().expect("the binary was built");
        let mut output = BufReader::new(process.stdout.take().expect("piped"));
        let ready = Self::line(&mut output);
        assert_eq!(ready["event"], "ready", "{ready}");
        let address = ready["address"].as_str().expect("an address").to_owned();
        Self { process, address, output }
    }

    fn line(output: &mut impl BufRead) -> serde_json::Value {
        let mut line = String::new();
        output.read_line(&mut line).expect("a pipe can be read");
        serde_json::from_str(&line).unwrap_or_else(|error| panic!("the node said {line:?}: {error}"))
    }

    fn signal(&self, signal: rustix::process::Signal) {
        send_signal(&self.process, signal);
    }
}

fn send_signal(process: &Child, signal: rustix::process::Signal) {
    let pid = i32::try_from(process.id()).ok().and_then(rustix::process::Pid::from_raw).expect("a process");
    rustix::process::kill_process(pid, signal).expect("the process runs");
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn lines(run: &Run) -> Vec<serde_json::Value> {
    run.stdout.lines().map(|line| serde_json::from_str(line).expect("one object per line")).collect()
}

#[test]
fn the_first_five_minutes_and_a_kill() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path();
    ok(folder, &["init", "--listen", "127.0.0.1:0"]);
    let mut node = Node::start(folder);
    for name in ["acme/planner", "acme/worker", "other/stranger"] {
        ok(folder, &["agent", "create", name]);
    }

    let at = |node: &Node, args: &[&str]| {
        let address = node.address.clone();
        creto(folder, &[args, &["--node", &address]].concat())
    };
    for text in ["one", "two", "three"] {
        let sent = at(&node, &["send", "acme/planner", "acme/worker", text, "--json"]);
        assert_eq!(sent.status, 0, "{}", sent.stderr);
    }
    let recv = at(&node, &["recv", "acme/worker", "--count", "1", "--json"]);
    assert_eq!((recv.status, lines(&recv)[0]["text"].as_str()), (0, Some("one")), "{}", recv.stderr);
    assert_eq!(lines(&recv)[0]["from"], "acme/planner");

    // Receipts come back when the message was opened and when it was printed, and say which one.
    let asked = at(&node, &["send", "acme/worker", "acme/planner", "done?", "--receipt", "--delivered", "--json"]);
    let asked: serde_json::Value = serde_json::from_str(&asked.stdout).unwrap();
    let asked = asked["message_id"].clone();
    ok(folder, &["recv", "acme/planner", "--count", "1", "--node", &node.address]);
    let receipts = lines(&at(&node, &["recv", "acme/worker", "--json", "--count", "4"])).split_off(2);
    for receipt in &receipts {
        assert_eq!((&receipt["kind"], &receipt["from"]), (&"receipt".into(), &"acme/planner".into()), "{receipt}");
        assert_eq!((&receipt["receipt"]["message_id"], &receipt["correlation_id"]), (&asked, &asked), "{receipt}");
    }
    let mut kinds: Vec<_> = receipts.iter().map(|receipt| receipt["receipt"]["kind"].as_str().unwrap()).collect();
    kinds.sort_unstable();
    assert_eq!(kinds, ["acknowledged", "delivered"]);
    for text in ["two", "three"] {
        ok(folder, &["send", "acme/planner", "acme/worker", text, "--node", &node.address]);
    }

    // Policy: agents of one organization may talk, a stranger may not.
    let denied = at(&node, &["send", "other/stranger", "acme/worker", "psst"]);
    assert_eq!(denied.status, 4, "{}", denied.stderr);
    assert!(denied.stderr.contains("PolicyDenied"), "{}", denied.stderr);
    let nobody = at(&node, &["send", "acme/planner", "acme/nobody", "hello?"]);
    assert_eq!(nobody.status, 4, "{}", nobody.stderr);

    node.signal(rustix::process::Signal::KILL);
    node.process.wait().unwrap();
    drop(node);
    let verify = ok(folder, &["wal", "verify", "--json"]);
    assert!(verify.stdout.contains("\"ok\": true"), "{}", verify.stdout);

    let mut node = Node::start(folder);
    let recv = at(&node, &["recv", "acme/worker", "--json"]);
    let texts: Vec<_> = lines(&recv).iter().map(|line| line["text"].as_str().unwrap().to_owned()).collect();
    assert_eq!((recv.status, texts), (0, vec!["two".to_owned(), "three".to_owned()]), "{}", recv.stderr);
    let again = at(&node, &["recv", "acme/worker", "--wait", "300"]);
    assert_eq!((again.status, again.stdout.as_str()), (0, ""), "what was acknowledged does not come again");

    node.signal(rustix::process::Signal::TERM);
    let stopped = Node::line(&mut node.output);
    assert_eq!((&stopped["event"], &stopped["drained"]), (&"stopped".into(), &true.into()), "{stopped}");
    assert_eq!(node.process.wait().unwrap().code(), Some(0));
    let gone = at(&node, &["send", "acme/planner", "acme/worker", "late"]);
    assert_eq!(gone.status, 3, "{}", gone.stderr);
    assert!(gone.stderr.contains("\n next: "), "{}", gone.stderr);
}

#[test]
fn an_agent_elsewhere_is_created_with_a_token_and_nothing_but_the_nodes_certificate() {
    let dir = tempfile::tempdir().unwrap();
    let (there, here) = (dir.path().join("there"), dir.path().join("here"));
    std::fs::create_dir_all(&there).unwrap();
    std::fs::create_dir_all(&here).unwrap();
    ok(&there, &["init", "--listen", "127.0.0.1:0"]);
    let node = Node::start(&there);
    let made = ok(&there, &["token", "create", "--organization", "acme", "--json"]);
    let token = serde_json::from_str::<serde_json::Value>(&made.stdout).unwrap()["token"].as_str().unwrap().to_owned();
    std::fs::copy(there.join("data/node.crt"), here.join("node.crt")).unwrap();
    let create = |name: &str, further: &[&str]| {
        let args = ["agent", "create", name, "--node", &node.address, "--certificate", "node.crt"];
        creto(&here, &[&args[..], further].concat())
    };
    let keys = here.join("agents/acme/planner.keys");

    // Without a token, with half of one, and with one of somebody else.
    assert_eq!(create("acme/planner", &[]).status, 2);
    assert_eq!(create("acme/planner", &["--token", &token[..40]]).status, 2);
    assert!(!keys.exists());
    let forged = format!("creto-enrol-{}", "5a".repeat(32));
    let refused = create("acme/planner", &["--token", &forged]);
    assert!(refused.status == 4 && refused.stderr.contains("token unknown"), "{}{}", refused.status, refused.stderr);
    assert!(refused.stderr.contains("creto token create"), "{}", refused.stderr);
    // Another run may have had them registered meanwhile: keys that were made stay, and the next run goes on with them.
    let before = std::fs::read(&keys).unwrap();

    let created = create("acme/planner", &["--token", &token, "--json"]);
    assert_eq!(created.status, 0, "{}", created.stderr);
    let created: serde_json::Value = serde_json::from_str(&created.stdout).unwrap();
    assert_eq!((&created["created"], &created["name"]), (&true.into(), &"acme/planner".into()));
    assert_eq!(std::fs::read(&keys).unwrap(), before);
    let shown = ok(&there, &["agent", "show", "acme/planner", "--json"]);
    let shown: serde_json::Value = serde_json::from_str(&shown.stdout).unwrap();
    for field in ["id", "key_id", "spiffe_id", "version"] {
        assert_eq!(created[field], shown[field]);
    }
    // Again, though the token is used up: the keys are known.
    let again = create("acme/planner", &["--token", &token]);
    assert!(again.status == 0 && again.stdout.starts_with("exists"), "{}{}", again.stdout, again.stderr);
    let late = create("acme/late", &["--token", &token]);
    assert!(late.status == 4 && late.stderr.contains("token used"), "{}", late.stderr);

    // And it talks.
    let reach = ["--node", &node.address, "--certificate", "node.crt"];
    ok(&here, &[&["send", "acme/planner", "acme/planner", "note to self"], &reach[..]].concat());
    let received = ok(&here, &[&["recv", "acme/planner", "--count", "1", "--json"], &reach[..]].concat());
    assert_eq!(lines(&received)[0]["text"], "note to self");
}

#[test]
fn following_prints_what_comes_and_ends_in_order_with_ctrl_c() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path();
    ok(folder, &["init", "--listen", "127.0.0.1:0"]);
    let node = Node::start(folder);
    ok(folder, &["agent", "create", "acme/planner"]);
    ok(folder, &["agent", "create", "acme/worker"]);

    let mut recv = command(folder, &["recv", "acme/worker", "--follow", "--json", "--node", &node.address]);
    let mut recv = recv.stdout(Stdio::piped()).spawn().unwrap();
    let mut output = BufReader::new(recv.stdout.take().unwrap());
    for text in ["one", "two"] {
        ok(folder, &["send", "acme/planner", "acme/worker", text, "--node", &node.address]);
        assert_eq!(Node::line(&mut output)["text"], text);
    }
    send_signal(&recv, rustix::process::Signal::INT);
    assert_eq!(recv.wait().unwrap().code(), Some(0));

    let again = ok(folder, &["recv", "acme/worker", "--wait", "300", "--node", &node.address]);
    assert_eq!(again.stdout, "", "what was printed was acknowledged before the end");
}

#[test]
fn a_send_that_requires_a_prekey_says_with_status_4_that_there_is_none() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path();
    ok(folder, &["init", "--listen", "127.0.0.1:0"]);
    let node = Node::start(folder);
    ok(folder, &["agent", "create", "acme/planner"]);
    ok(folder, &["agent", "create", "acme/worker"]);
    let send = ["send", "acme/planner", "acme/worker", "hello", "--node", &node.address];
    let refused = creto(folder, &[&send[..], &["--prekeys", "require"]].concat());
    assert_eq!(refused.status, 4, "{}", refused.stderr);
    assert!(refused.stderr.contains("\n next: wait until it receives"), "{}", refused.stderr);
    let by_variable = command(folder, &send).env("CRETO_PREKEYS", "require").output().unwrap();
    assert_eq!(by_variable.status.code(), Some(4));
    for prekeys in ["prefer", "off"] {
        ok(folder, &[&send[..], &["--prekeys", prekeys]].concat());
    }
    assert_eq!(creto(folder, &[&send[..], &["--prekeys", "sometimes"]].concat()).status, 2);
    // Whoever receives without any leaves none.
    let received = ok(folder, &["recv", "acme/worker", "--prekeys", "off", "--node", &node.address]);
    assert_eq!(received.stdout.matches("hello").count(), 2);
    let prekeys = ok(folder, &["agent", "prekeys", "acme/worker"]);
    assert!(prekeys.stdout.starts_with("acme/worker  none\n"), "{}", prekeys.stdout);
}

#[test]
fn a_running_agent_goes_on_when_its_keys_are_replaced_from_the_command_line() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path();
    ok(folder, &["init", "--listen", "127.0.0.1:0"]);
    let node = Node::start(folder);
    ok(folder, &["agent", "create", "acme/planner"]);
    ok(folder, &["agent", "create", "acme/worker"]);

    let mut recv = command(folder, &["recv", "acme/worker", "--follow", "--json", "--node", &node.address]);
    let mut recv = Killed(recv.stdout(Stdio::piped()).spawn().unwrap());
    let mut output = BufReader::new(recv.0.stdout.take().unwrap());
    let mut deliver = |text: &str| {
        ok(folder, &["send", "acme/planner", "acme/worker", text, "--node", &node.address]);
        assert_eq!(Node::line(&mut output)["text"], text);
    };
    deliver("to the first key");
    let rotate = |more: &[&str]| {
        let args = [&["agent", "rotate", "acme/worker", "--node", &node.address, "--json"], more].concat();
        serde_json::from_str::<serde_json::Value>(&ok(folder, &args).stdout).unwrap()
    };
    assert_eq!((&rotate(&[])["version"], &rotate(&[])["version"]), (&2.into(), &3.into()));
    deliver("to the third key");
    assert_eq!(rotate(&["--emergency"])["version"], 4);
    deliver("to the fourth key");
    send_signal(&recv.0, rustix::process::Signal::INT);
    assert_eq!(recv.0.wait().unwrap().code(), Some(0));

    let shown = ok(folder, &["agent", "show", "acme/worker", "--json"]);
    let shown: serde_json::Value = serde_json::from_str(&shown.stdout).unwrap();
    let states: Vec<_> = shown["keys"].as_array().unwrap().iter().map(|key| key["state"].as_str().unwrap()).collect();
    assert_eq!(states, ["current", "revoked", "revoked", "revoked"]);
    assert!(ok(folder, &["agent", "show", "acme/worker"]).stdout.contains("revoked"));
    let text = ok(folder, &["agent", "rotate", "acme/worker", "--node", &node.address]).stdout;
    assert!(text.contains("rotated") && text.contains("grace period"), "{text}");
}

#[test]
fn a_node_that_nobody_listens_to_serves_on() {
    let dir = tempfile::tempdir().unwrap();
    ok(dir.path(), &["init", "--listen", "127.0.0.1:0"]);
    let mut serve = command(dir.path(), &["serve"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    // Closed before the node is ready: its line goes nowhere.
    drop(serve.stdout.take());
    // So the first sign of life is that it answers.
    let socket = dir.path().join("data/control.sock");
    while std::os::unix::net::UnixStream::connect(&socket).is_err() {
        assert!(serve.try_wait().unwrap().is_none(), "the node ended");
        std::thread::yield_now();
    }
    ok(dir.path(), &["agent", "create", "acme/planner"]);
    send_signal(&serve, rustix::process::Signal::INT);
    let output = serve.wait_with_output().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(0), "{stderr}");
    assert!(stderr.contains("a second Ctrl-C ends it at once"), "{stderr}");
}

#[test]
fn a_second_node_on_the_same_data_is_refused_and_harms_nothing() {
    let dir = tempfile::tempdir().unwrap();
    ok(dir.path(), &["init", "--listen", "127.0.0.1:0"]);
    let node = Node::start(dir.path());
    let second = creto(dir.path(), &["serve"]);
    assert_eq!(second.status, 5, "{}", second.stderr);
    assert!(second.stderr.contains("is in use by another node\n next: stop that one first"), "{}", second.stderr);
    ok(dir.path(), &["agent", "create", "acme/planner"]);
    drop(node);
}

#[test]
fn a_node_says_what_keeps_it_from_starting() {
    let dir = tempfile::tempdir().unwrap();
    let missing = creto(dir.path(), &["serve"]);
    assert_eq!(missing.status, 2);
    assert!(missing.stderr.contains("creto init"), "{}", missing.stderr);

    ok(dir.path(), &["init", "--listen", "127.0.0.1:0"]);
    std::fs::write(dir.path().join("data/node.key"), "not a key").unwrap();
    let broken = creto(dir.path(), &["serve"]);
    assert_eq!(broken.status, 2, "{}", broken.stderr);
    assert!(broken.stderr.contains("node.key") && broken.stderr.contains("creto init --force"), "{}", broken.stderr);
}

/// Every file under `folder`, with its content.
fn files(folder: &Path) -> Vec<(std::path::PathBuf, Vec<u8>)> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).expect("the node made it") {
        let path = entry.expect("nobody removes it").path();
        match path.is_dir() {
            true => found.extend(files(&path)),
            false => found.extend(std::fs::read(&path).ok().map(|bytes| {
                // Segments are preallocated: behind what was written there is nothing but zeros.
                let end = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
                (path, bytes[..end].to_vec())
            })),
        }
    }
    found
}

#[test]
fn what_the_node_keeps_holds_neither_what_was_sent_nor_a_key_of_an_agent() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path();
    ok(folder, &["init", "--listen", "127.0.0.1:0"]);
    let node = Node::start(folder);
    ok(folder, &["agent", "create", "acme/planner"]);
    ok(folder, &["agent", "create", "acme/worker"]);
    let text = "nobody but the worker may ever read these words";
    for _ in 0..3 {
        ok(folder, &["send", "acme/planner", "acme/worker", text, "--node", &node.address]);
    }
    let read = ok(folder, &["recv", "acme/worker", "--count", "1", "--node", &node.address]);
    assert!(read.stdout.contains(text), "the recipient can");
    drop(node);

    // What must not be there: the text, and every value of a key file that is long enough to be a key.
    let mut forbidden = vec![text.as_bytes().to_vec()];
    for name in ["planner", "worker"] {
        let keys = std::fs::read_to_string(folder.join(format!("agents/acme/{name}.keys"))).unwrap();
        let values = keys.split('"').filter(|value| value.len() >= 40).map(|value| value.as_bytes().to_vec());
        let before = forbidden.len();
        forbidden.extend(values);
        assert!(forbidden.len() >= before + 3, "the key file was understood");
    }
    let decoded = forbidden.iter().filter_map(|value| STANDARD.decode(value).ok()).collect::<Vec<_>>();
    assert!(decoded.len() >= 6, "seeds are written in base64");
    forbidden.extend(decoded);
    let kept = files(&folder.join("data"));
    assert!(kept.iter().any(|(path, bytes)| path.to_string_lossy().contains("segment") && bytes.len() > 4096));
    for (path, bytes) in kept {
        for secret in &forbidden {
            let found = bytes.windows(secret.len()).any(|window| window == secret);
            assert!(!found, "{} holds {} bytes that it must not", path.display(), secret.len());
        }
    }
}
