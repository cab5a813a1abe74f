//! `creto request` and `creto respond`, as a person uses them.
#![allow(clippy::unwrap_used, reason = "a test stops where it is wrong")]

mod process;

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use process::{Node, Process, Run, command, creto, name, ok, on_time, run};

const AGENTS: &[&str] = &["acme/planner", "acme/worker"];

/// A node with two agents, and what is said to it.
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

    fn request(&self, args: &[&str]) -> Run {
        let address = self.node.address.to_string();
        creto(self.path(), 2, &[&["request", "acme/planner", "acme/worker", "--node", &address], args].concat())
    }

    /// `creto respond acme/worker`, which answers until it is dropped or has done what it was to do.
    fn respond(&self, args: &[&str]) -> (Process, impl Iterator<Item = String> + use<>) {
        let address = self.node.address.to_string();
        let mut command =
            command(self.path(), 2, &[&["respond", "acme/worker", "--node", &address, "--json"], args].concat());
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
        (Process(child), lines)
    }
}

#[test]
fn a_request_is_answered_with_a_text_an_echo_or_what_a_command_prints() {
    let scene = Scene::new();
    let (mut process, mut lines) = scene.respond(&["--reply", "42", "-n", "1"]);
    let answer = scene.request(&["what is six times seven?"]);
    assert_eq!((answer.status, answer.stdout.as_str()), (0, "42"), "{}", answer.stderr);
    assert!(answer.stderr.contains("answered by acme/worker in"), "{}", answer.stderr);
    let line: serde_json::Value = serde_json::from_str(&lines.next().unwrap()).unwrap();
    assert_eq!(
        (&line["from"], &line["outcome"], &line["answer_bytes"]),
        (&"acme/planner".into(), &"answered".into(), &2.into())
    );
    assert!(process.0.wait().unwrap().success(), "it stops after one");

    let (_process, _lines) = scene.respond(&["--echo"]);
    let mut piped = command(scene.path(), 2, &["request", "acme/planner", "acme/worker", "-", "--json"]);
    piped.arg("--node").arg(scene.node.address.to_string()).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = piped.spawn().unwrap();
    child.stdin.take().unwrap().write_all(b"from a pipe").unwrap();
    let output = child.wait_with_output().unwrap();
    let object: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(
        (&object["outcome"], &object["text"], &object["from"]),
        (&"answered".into(), &"from a pipe".into(), &"acme/worker".into())
    );
    assert_eq!((object["request_id"].as_str().unwrap().len(), object["message_id"].as_str().unwrap().len()), (36, 36));
    drop(_process);

    let (process, _lines) = scene.respond(&["--concurrency", "4", "--exec", "tr", "a-z", "A-Z"]);
    assert_eq!(scene.request(&["shout this"]).stdout, "SHOUT THIS");
    // In good order, at Ctrl-C.
    process.signal(rustix::process::Signal::INT);
    let mut process = process;
    assert!(process.0.wait().unwrap().success());
}

#[test]
fn the_status_says_whether_it_was_answered_failed_or_nobody_answered_in_time() {
    let scene = Scene::new();
    let began = Instant::now();
    let nobody = scene.request(&["anybody?", "--timeout", "700ms"]);
    assert_eq!(nobody.status, 7, "{}{}", nobody.stdout, nobody.stderr);
    assert!(began.elapsed() >= Duration::from_millis(700) && nobody.stdout.is_empty());
    assert!(
        nobody.stderr.contains("did not answer within 700 ms") && nobody.stderr.contains("next"),
        "{}",
        nobody.stderr
    );

    let (_process, lines) =
        scene.respond(&["--exec", "sh", "-c", "cat >/dev/null; echo \"$CRETO_REQUEST_FROM\" >&2; exit 3"]);
    let failed = scene.request(&["try"]);
    assert_eq!(failed.status, 8, "{}{}", failed.stdout, failed.stderr);
    assert!(failed.stderr.contains("acme/worker answered with failure 3: sh ended with status 3"), "{}", failed.stderr);
    let failed = scene.request(&["try", "--json"]);
    assert_eq!(failed.status, 8);
    assert_eq!((&failed.json()["outcome"], &failed.json()["code"]), (&"failed".into(), &3.into()));
    // The first was never worked on: its time was over.
    let done: Vec<serde_json::Value> = lines.take(2).map(|line| serde_json::from_str(&line).unwrap()).collect();
    assert!(done.iter().all(|line| line["outcome"] == "failed" && line["code"] == 3), "{done:?}");
    drop(_process);

    // There, and no program.
    let (_process, _lines) = scene.respond(&["--exec", "./creto.toml"]);
    let failed = scene.request(&["try"]);
    assert!(
        failed.status == 8 && failed.stderr.contains("failure 1001: ./creto.toml cannot be run"),
        "{}",
        failed.stderr
    );
    drop(_process);

    let address = scene.node.address.to_string();
    let unknown = creto(scene.path(), 2, &["request", "acme/planner", "acme/nobody", "?", "--node", &address]);
    assert_eq!(unknown.status, 4, "{}", unknown.stderr);
    assert!(unknown.stderr.contains("there is no acme/nobody to be asked"), "{}", unknown.stderr);
    for wrong in [&["respond", "acme/worker"][..], &["respond", "acme/worker", "--echo", "--reply", "x"]] {
        assert_eq!(run(command(scene.path(), 2, wrong)).status, 2);
    }
}

#[test]
fn a_command_that_is_not_there_is_said_before_anybody_asks() {
    let dir = tempfile::tempdir().unwrap();
    for command in ["tr a-z A-Z", "./no/such/thing"] {
        let run = creto(dir.path(), 1, &["respond", "acme/worker", "--exec", command]);
        assert!(run.status == 2 && run.stderr.contains(command) && run.stderr.contains("--exec tr"), "{}", run.stderr);
    }
}

#[test]
fn a_command_that_is_too_slow_is_killed_at_the_deadline() {
    let scene = Scene::new();
    let file = scene.path().join("pid");
    let script = format!("echo $$ > '{}'; exec sleep 1000", file.display());
    let (_process, mut lines) = scene.respond(&["--exec", "sh", "-c", &script]);
    let slow = scene.request(&["?", "--timeout", "2s"]);
    assert_eq!(slow.status, 7, "{}", slow.stderr);
    let line: serde_json::Value = serde_json::from_str(&lines.next().unwrap()).unwrap();
    assert_eq!(&line["outcome"], "too_late");
    let pid = std::fs::read_to_string(&file).unwrap();
    let (process, end) = (Path::new("/proc").join(pid.trim()), Instant::now() + Duration::from_secs(30));
    while process.exists() {
        assert!(Instant::now() < end, "{pid} is still there");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// What the two commands say to each other any program can say, and what nobody subscribed for stays.
#[test]
fn a_request_leaves_other_messages_for_recv() {
    let scene = Scene::new();
    let address = scene.node.address.to_string();
    ok(scene.path(), 2, &["send", "acme/worker", "acme/planner", "for later", "--node", &address]);
    on_time(async {
        let worker = scene.node.connect(scene.path(), "acme/worker").await;
        let server = worker
            .serve(creto_agent::ServeOptions::default(), |request| std::future::ready(Ok(request.payload)))
            .unwrap();
        let asked = tokio::task::block_in_place(|| scene.request(&["echo"]));
        assert_eq!(asked.stdout, "echo", "{}", asked.stderr);
        assert!(asked.stderr.contains("messages for acme/planner besides answers: 1"), "{}", asked.stderr);
        server.stop().await.unwrap();
        worker.close().await;
    });
    let read = ok(scene.path(), 2, &["recv", "acme/planner", "--node", &address, "--json"]);
    let lines = read.lines();
    assert_eq!(lines.len(), 1);
    assert_eq!((&lines[0]["text"], &lines[0]["attempt"]), (&"for later".into(), &1.into()));
    assert_eq!(name("acme/planner").as_str(), "acme/planner");
}
