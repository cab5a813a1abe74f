//! Proofs on the command line: from the recipient, from a node that runs, from one that was killed; checked with nothing.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

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

/// A node that is killed when the test is over, however it ends.
struct Node {
    process: Child,
    address: String,
    // Open as long as the node runs.
    _output: BufReader<std::process::ChildStdout>,
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
        Self { process, address, _output: output }
    }

    fn line(output: &mut impl BufRead) -> serde_json::Value {
        let mut line = String::new();
        output.read_line(&mut line).expect("a pipe can be read");
        serde_json::from_str(&line).unwrap_or_else(|error| panic!("the node said {line:?}: {error}"))
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn json(run: &Run) -> serde_json::Value {
    serde_json::from_str(&run.stdout).unwrap_or_else(|error| panic!("{error}: {}{}", run.stdout, run.stderr))
}

#[test]
fn a_proof_from_recipient_running_node_and_dead_node_is_one_file_that_holds_alone() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path();
    ok(folder, &["init", "--listen", "127.0.0.1:0"]);
    let node = Node::start(folder);
    ok(folder, &["agent", "create", "acme/planner"]);
    ok(folder, &["agent", "create", "acme/worker"]);
    let fingerprint = json(&ok(folder, &["agent", "show", "acme/planner", "--json"]))["signing_fingerprint"].clone();
    let fingerprint = fingerprint.as_str().unwrap();

    let sent = ok(folder, &["send", "acme/planner", "acme/worker", "hello", "--json", "--node", &node.address]);
    let id = json(&sent)["message_id"].as_str().unwrap().to_owned();
    let received =
        ok(folder, &["recv", "acme/worker", "--count", "1", "--json", "--proofs", "proofs", "--node", &node.address]);
    let kept = format!("proofs/{id}.proof");
    assert_eq!(json(&received)["proof"], kept, "{}", received.stdout);
    ok(folder, &["proof", "export", &id, "-o", "running.proof"]);
    drop(node);
    // Killed, so its directory was not closed, and neither was its log.
    let database = std::fs::read(folder.join("data/control.redb")).unwrap();
    ok(folder, &["proof", "export", &id, "--from", "acme/planner", "-o", "dead.proof"]);
    assert_eq!(std::fs::read(folder.join("data/control.redb")).unwrap(), database, "it was only read");
    let proof = std::fs::read(folder.join(&kept)).unwrap();
    for name in ["running.proof", "dead.proof"] {
        assert_eq!(std::fs::read(folder.join(name)).unwrap(), proof, "{name}");
    }

    let empty = tempfile::tempdir().unwrap();
    let path = empty.path().join("message.proof");
    std::fs::write(&path, &proof).unwrap();
    let check = |args: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_creto"));
        let output = command.current_dir(empty.path()).env_clear().args(["proof", "verify"]).args(args).output();
        let output = output.expect("the binary was built");
        let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
        Run { status: output.status.code().expect("an exit"), stdout: text(output.stdout), stderr: text(output.stderr) }
    };
    let run = check(&["message.proof", "--json", "--expect-fingerprint", fingerprint]);
    let value = json(&run);
    assert_eq!(
        (run.status, &value["ok"], &value["message_id"]),
        (0, &true.into(), &id.as_str().into()),
        "{}",
        run.stdout
    );
    assert_eq!((&value["sender"], &value["fingerprint_compared"]), (&"acme/planner".into(), &true.into()));
    assert_eq!(std::fs::read_dir(empty.path()).unwrap().count(), 1, "nothing was made");
    let run = check(&["message.proof"]);
    assert!(run.status == 0 && run.stdout.starts_with("holds  message.proof"), "{}{}", run.stdout, run.stderr);
    assert!(run.stdout.contains(fingerprint) && run.stdout.contains("compare it"), "{}", run.stdout);

    let run = check(&["message.proof", "--json", "--expect-fingerprint", &"00".repeat(32)]);
    assert_eq!((run.status, &json(&run)["code"]), (1, &"other_fingerprint".into()), "{}", run.stdout);
    let mut changed = proof.clone();
    changed[3_504 + 160] ^= 1;
    std::fs::write(&path, changed).unwrap();
    let run = check(&["message.proof", "--json"]);
    assert_eq!((run.status, &json(&run)["code"]), (1, &"root".into()), "{}", run.stdout);
    std::fs::write(&path, "hello").unwrap();
    let run = check(&["message.proof"]);
    assert_eq!(run.status, 1);
    assert!(run.stdout.starts_with("does not hold") && run.stdout.contains("not_a_proof"), "{}", run.stdout);
    assert_eq!(check(&["missing.proof"]).status, 5);
}

#[test]
fn what_a_node_does_not_have_it_gives_no_proof_of() {
    let dir = tempfile::tempdir().unwrap();
    ok(dir.path(), &["init", "--listen", "127.0.0.1:0"]);
    let node = Node::start(dir.path());
    let unknown = creto(dir.path(), &["proof", "export", "019b76da-abe8-70e0-a0e0-e0e0e0e0e0e0"]);
    assert_eq!(unknown.status, 2, "{}", unknown.stderr);
    assert!(unknown.stderr.contains("is not in the log") && unknown.stderr.contains("\n next: "), "{}", unknown.stderr);
    assert_eq!(creto(dir.path(), &["proof", "export", "019b76da"]).status, 2);
    drop(node);
}

#[test]
fn a_deployment_that_demands_sha3_gets_it_and_refuses_the_other_tree() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path();
    ok(folder, &["init", "--listen", "127.0.0.1:0"]);
    let plain = std::fs::read_to_string(folder.join("creto.toml")).unwrap();
    std::fs::write(folder.join("creto.toml"), demanding_sha3(&plain)).unwrap();
    let node = Node::start(folder);
    ok(folder, &["agent", "create", "acme/planner"]);
    ok(folder, &["agent", "create", "acme/worker"]);
    let sent = ok(folder, &["send", "acme/planner", "acme/worker", "hello", "--json", "--node", &node.address]);
    let id = json(&sent)["message_id"].as_str().unwrap().to_owned();
    ok(folder, &["recv", "acme/worker", "--count", "1", "--proofs", ".", "--node", &node.address]);
    let proof = json(&ok(folder, &["proof", "verify", &format!("{id}.proof"), "--json"]));
    assert_eq!(proof["tree_digest"], "SHA3-256");

    std::fs::write(folder.join("creto.toml"), plain).unwrap();
    let refused = creto(folder, &["send", "acme/planner", "acme/worker", "hello", "--node", &node.address]);
    assert_eq!(refused.status, 4, "{}", refused.stderr);
    assert!(refused.stderr.contains("BatchDigest") && refused.stderr.contains("tree_digest"), "{}", refused.stderr);
}

/// The template has every key commented out at its default.
fn demanding_sha3(template: &str) -> String {
    let commented = "# tree_digest = \"sha256\"";
    assert!(template.contains(commented), "{template}");
    template.replace(commented, "tree_digest = \"sha3-256\"")
}
