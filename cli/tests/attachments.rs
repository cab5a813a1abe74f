//! `creto send --attach` and `creto recv --attachments`, as a person uses them.
#![allow(clippy::unwrap_used, reason = "a test stops where it is wrong")]

mod process;

use std::fs;
use std::path::Path;

use process::{Node, Run, command, creto, ok};
use rustix::process::Signal;

const AGENTS: &[&str] = &["acme/planner", "acme/worker"];

struct Scene {
    folder: tempfile::TempDir,
    node: Node,
}

impl Scene {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let node = Node::with_agents(folder.path(), 2, AGENTS);
        Self { folder, node }
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }

    fn file(&self, name: &str, bytes: usize) -> String {
        let path = self.path().join(name);
        let content: Vec<u8> = (0..bytes).map(|at| u8::try_from((at / 1_000) % 251).unwrap()).collect();
        fs::write(&path, content).unwrap();
        path.display().to_string()
    }

    fn send(&self, args: &[&str]) -> Run {
        let address = self.node.address.to_string();
        creto(self.path(), 2, &[&["send", "acme/planner", "acme/worker", "--node", &address, "--json"], args].concat())
    }

    fn recv(&self, args: &[&str]) -> Run {
        let address = self.node.address.to_string();
        ok(self.path(), 2, &[&["recv", "acme/worker", "--node", &address, "--json"], args].concat())
    }
}

#[test]
fn a_file_of_any_size_is_received_beside_messages_and_refused_if_it_is_not_wanted() {
    let scene = Scene::new();
    let (small, large) = (scene.file("small.txt", 10), scene.file("large.bin", 3_000_000));
    let as_message = scene.send(&["--file", &small]);
    assert!(as_message.json()["payload_bytes"] == 10, "{as_message:?}");
    let attached = scene.send(&["please read", "--attach", &small]);
    assert_eq!((&attached.json()["file_bytes"], &attached.json()["messages"]), (&10.into(), &2.into()));
    // Above a mebibyte there is one way only.
    let by_itself = scene.send(&["--file", &large]);
    assert_eq!((by_itself.status, &by_itself.json()["file_bytes"]), (0, &3_000_000.into()), "{by_itself:?}");

    let inbox = scene.path().join("inbox");
    let received = scene.recv(&["--attachments", &inbox.display().to_string(), "-n", "3"]);
    let mut lines = received.lines();
    assert_eq!(lines.remove(0)["payload_bytes"], 10, "the message, first: {received:?}");
    assert_eq!((&lines[0]["name"], &lines[0]["text"]), (&"small.txt".into(), &"please read".into()));
    assert_eq!((&lines[1]["name"], &lines[1]["file_bytes"]), (&"large.bin".into(), &3_000_000.into()));
    assert_eq!(lines[0]["attachment_id"], attached.json()["attachment_id"]);
    assert_eq!(fs::read(lines[1]["path"].as_str().unwrap()).unwrap(), fs::read(&large).unwrap());
    let rest = scene.recv(&["--wait", "300"]);
    assert!(rest.stdout.is_empty() && rest.stderr.is_empty(), "all is acknowledged: {rest:?}");

    // Without a folder there is one beside the keys; what is too large is refused, and blocks nobody.
    scene.send(&["--attach", &small]);
    scene.send(&["--attach", &large]);
    scene.send(&["and this"]);
    let received = scene.recv(&["-n", "2", "--file-bytes-max", "1 MiB"]);
    let lines = received.lines();
    let beside = scene.path().join("agents").join("acme").join("worker.keys.attachments").join("small.txt");
    assert_eq!(
        fs::canonicalize(scene.path().join(lines[0]["path"].as_str().unwrap())).unwrap(),
        fs::canonicalize(beside).unwrap()
    );
    assert_eq!(lines[1]["text"], "and this");
    assert!(received.stderr.contains("larger than this receiver takes"), "{}", received.stderr);
}

#[test]
fn a_file_that_is_not_wanted_does_not_fill_the_mailbox() {
    let scene = Scene::new();
    let large = scene.file("large.bin", 10_000_000);
    ok(scene.path(), 2, &["mailbox", "set", "acme/worker", "--bytes", "2 MiB"]);
    let address = scene.node.address.to_string();
    let recv = ["recv", "acme/worker", "--node", &address, "--follow", "-n", "1", "--file-bytes-max", "1 MiB"];
    let mut receiving = command(scene.path(), 2, &recv);
    let receiving =
        receiving.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped()).spawn().unwrap();
    // Refused at its first chunk, and all of it goes by; somebody who comes behind gets through.
    let sent = scene.send(&["--attach", &large]);
    assert_eq!(sent.status, 0, "{sent:?}");
    assert_eq!(scene.send(&["and this"]).status, 0);
    let received = receiving.wait_with_output().unwrap();
    let (shown, told) = (String::from_utf8(received.stdout).unwrap(), String::from_utf8(received.stderr).unwrap());
    assert!(received.status.success() && shown.contains("and this"), "{shown}{told}");
    assert_eq!(told.matches("larger than this receiver takes").count(), 2, "the first chunk, and the head: {told}");
}

#[test]
fn a_sender_that_is_killed_goes_on_where_it_was() {
    let scene = Scene::new();
    let large = scene.file("large.bin", 60_000_000);
    let address = scene.node.address.to_string();
    let args = ["send", "acme/planner", "acme/worker", "--attach", &large, "--node", &address];
    let mut child = process::Process(command(scene.path(), 2, &args).spawn().unwrap());
    // Killed once it has said of some chunks that they are durable.
    let uploads = scene.path().join("agents").join("acme").join("planner.keys.uploads");
    let lines = || {
        let journal = fs::read_dir(&uploads).ok().and_then(|mut files| files.next())?.ok()?.path();
        Some(fs::read_to_string(journal).ok()?.lines().count())
    };
    while lines().is_none_or(|lines| lines < 12) {
        assert!(child.0.try_wait().unwrap().is_none(), "it was to be killed in the middle");
        std::thread::yield_now();
    }
    child.signal(Signal::KILL);
    child.0.wait().unwrap();
    let again = scene.send(&["--attach", &large]);
    assert_eq!(again.status, 0, "{again:?}");
    assert!(again.json()["resumed_chunks"].as_u64().unwrap() >= 10);
    assert_eq!(fs::read_dir(&uploads).unwrap().count(), 0);
    let inbox = scene.path().join("inbox");
    let received = scene.recv(&["--attachments", &inbox.display().to_string(), "-n", "1"]);
    assert_eq!(fs::read(received.lines()[0]["path"].as_str().unwrap()).unwrap(), fs::read(&large).unwrap());
}

#[test]
fn what_cannot_be_sent_or_received_has_a_status_and_says_what_to_do() {
    let scene = Scene::new();
    let missing = scene.send(&["--attach", "/nothing/here"]);
    assert_eq!(missing.status, 5, "{missing:?}");
    let both = scene.send(&["--attach", "a", "--file", "b"]);
    assert_eq!(both.status, 2, "{both:?}");
    let small = scene.file("small.txt", 10);
    let stranger = creto(
        scene.path(),
        2,
        &["send", "acme/planner", "acme/nobody", "--attach", &small, "--node", &scene.node.address.to_string()],
    );
    assert_eq!(stranger.status, 4, "{stranger:?}");
    let file = scene.path().join("small.txt").display().to_string();
    let no_folder = creto(scene.path(), 2, &["recv", "acme/worker", "--attachments", &file]);
    assert_eq!(no_folder.status, 5, "{no_folder:?}");
}
