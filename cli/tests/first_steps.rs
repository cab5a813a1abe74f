//! The first part of docs/operations.md, done: each command of the node's in it, in its order, as it stands there.
#![allow(clippy::unwrap_used, reason = "a test stops where it is wrong")]

mod process;

use std::io::{BufRead, BufReader};
use std::net::UdpSocket;
use std::path::Path;
use std::process::{Command, Stdio};

use process::{Process, Run, run};
use rustix::process::Signal;

/// One thing that the page has an operator do.
#[derive(Debug, PartialEq, Eq)]
enum Step {
    /// `node ARGUMENTS`
    Node(Vec<String>),
    /// The unit is started.
    Start,
}

/// The steps in the fenced blocks of the page's first part.
fn steps() -> Vec<Step> {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/operations.md");
    let page = std::fs::read_to_string(page).unwrap();
    let (_, part) = page.split_once("## From an empty machine to a node that is watched\n").unwrap();
    let (part, _) = part.split_once("\n## ").unwrap();
    let lines = part.split("```").skip(1).step_by(2).flat_map(str::lines);
    let step = |line: &str| {
        let command = line.split(" # ").next().unwrap().trim();
        match command.strip_prefix("node ") {
            Some(arguments) => {
                Some(Step::Node(arguments.split_whitespace().map(|word| word.replace('"', "")).collect()))
            }
            None => command.contains("systemctl enable --now creto").then_some(Step::Start),
        }
    };
    lines.filter_map(step).collect()
}

struct Machine {
    folder: tempfile::TempDir,
}

impl Machine {
    /// As the package leaves it, but that everything is in one folder, and the node on the loopback.
    fn installed() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let port = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let packaged = Path::new(env!("CARGO_MANIFEST_DIR")).join("../packaging/debian/creto.toml");
        let config = std::fs::read_to_string(packaged).unwrap();
        let config = config.replace("0.0.0.0:7443", &format!("127.0.0.1:{port}"));
        let config = config.replace("/var/lib/creto", folder.path().join("lib").to_str().unwrap());
        std::fs::write(folder.path().join("creto.toml"), config).unwrap();
        Self { folder }
    }

    fn command(&self, arguments: &[String]) -> Command {
        let mut command = process::command(self.folder.path(), 2, &["-c", "creto.toml"]);
        let lib = self.folder.path().join("lib");
        command.args(arguments.iter().map(|word| word.replace("/var/lib/creto", lib.to_str().unwrap())));
        command
    }
}

#[test]
fn the_steps_of_the_operations_page_work_as_they_stand_there() {
    let steps = steps();
    let verbs: Vec<&str> =
        steps.iter().map(|step| if let Step::Node(words) = step { words[0].as_str() } else { "start" }).collect();
    let expected = [
        "config", "init", "doctor", "tune", "start", "status", "doctor", "agent", "agent", "send", "recv", "top",
        "backup",
    ];
    assert_eq!(verbs, expected, "the page changed: look at what this test does with it");

    let machine = Machine::installed();
    let mut node = None;
    for step in &steps {
        let Step::Node(words) = step else {
            let mut serve = machine.command(&["serve".to_owned(), "--json".to_owned()]);
            let mut process = Process(serve.stdout(Stdio::piped()).spawn().unwrap());
            let mut line = String::new();
            BufReader::new(process.0.stdout.take().unwrap()).read_line(&mut line).unwrap();
            assert!(line.contains("\"ready\""), "{line}");
            node = Some(process);
            continue;
        };
        let Run { status, stdout, stderr } = run(machine.command(words));
        // What these two find is this machine's, and no mistake of the page: but nothing may be in the way of the node.
        let most = if ["doctor", "tune"].contains(&words[0].as_str()) { 1 } else { 0 };
        assert!((0..=most).contains(&status), "{words:?} ended with {status}: {stdout}{stderr}");
        if words[0] == "recv" {
            assert!(stdout.contains("hello"), "{stdout}");
        }
    }
    let mut node = node.unwrap();
    assert!(machine.folder.path().join("lib/backup-first/manifest.json").is_file());
    node.signal(Signal::TERM);
    assert_eq!(node.0.wait().unwrap().code(), Some(0));
}
