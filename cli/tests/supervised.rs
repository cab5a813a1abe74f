//! A node and a control service as a service manager sees them: a socket of the test's own is what `NOTIFY_SOCKET` names.
#![allow(clippy::unwrap_used, reason = "a test stops where it is wrong")]

mod process;

use std::ffi::OsString;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use process::{PATIENCE, Process, command, creto, ok};
use rustix::process::Signal;

/// What the test asks to be told within, as `WatchdogSec=` does.
const WATCHDOG: Duration = Duration::from_secs(2);

/// A service manager that only listens.
struct Manager {
    ear: UnixDatagram,
    name: OsString,
}

/// One datagram: its lines, each a variable and its value.
type Told = Vec<(String, String)>;

impl Manager {
    fn at_path(folder: &Path) -> Self {
        let path = folder.join("notify");
        Self::listening(UnixDatagram::bind(&path).unwrap(), path.into_os_string())
    }

    fn abstract_one() -> Self {
        let name = format!("creto-supervised-{}", std::process::id());
        let address = SocketAddr::from_abstract_name(&name).unwrap();
        Self::listening(UnixDatagram::bind_addr(&address).unwrap(), format!("@{name}").into())
    }

    fn listening(ear: UnixDatagram, name: OsString) -> Self {
        ear.set_read_timeout(Some(PATIENCE)).unwrap();
        Self { ear, name }
    }

    fn starts(&self, mut command: Command) -> Process {
        command.env("NOTIFY_SOCKET", &self.name).env("WATCHDOG_USEC", WATCHDOG.as_micros().to_string());
        Process(command.stdout(Stdio::null()).spawn().unwrap())
    }

    /// The next datagram, if one comes in this time.
    fn hears(&self, within: Duration) -> Option<Told> {
        self.ear.set_read_timeout(Some(within)).unwrap();
        let mut bytes = [0; 4096];
        let length = match self.ear.recv(&mut bytes) {
            Ok(length) => length,
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return None,
            Err(error) => panic!("{error}"),
        };
        let text = std::str::from_utf8(&bytes[..length]).unwrap();
        let pair = |line: &str| line.split_once('=').map(|(name, value)| (name.to_owned(), value.to_owned())).unwrap();
        Some(text.lines().map(pair).collect())
    }

    /// Everything that is said until `last` is, and with it.
    fn until(&self, last: impl Fn(&Told) -> bool) -> Vec<Told> {
        let begun = Instant::now();
        let mut all = Vec::new();
        while begun.elapsed() < PATIENCE {
            let told = self.hears(PATIENCE).expect("the process says something");
            let is_last = last(&told);
            all.push(told);
            if is_last {
                return all;
            }
        }
        panic!("not within {PATIENCE:?}: {all:?}")
    }
}

fn has(told: &Told, name: &str, value: &str) -> bool {
    told.iter().any(|(known, said)| (known.as_str(), said.as_str()) == (name, value))
}

fn is_ready(told: &Told) -> bool {
    has(told, "READY", "1")
}

fn is_alive(told: &Told) -> bool {
    has(told, "WATCHDOG", "1")
}

fn is_stopping(told: &Told) -> bool {
    has(told, "STOPPING", "1")
}

fn status(told: &Told) -> Option<&str> {
    told.iter().find(|(name, _)| name == "STATUS").map(|(_, status)| status.as_str())
}

fn ends_well(mut process: Process) {
    assert_eq!(process.0.wait().unwrap().code(), Some(0));
}

#[test]
fn a_node_says_when_it_is_ready_that_it_lives_and_that_it_ends() {
    let folder = tempfile::tempdir().unwrap();
    ok(folder.path(), 2, &["init", "--listen", "127.0.0.1:0"]);
    let manager = Manager::at_path(folder.path());
    let node = manager.starts(command(folder.path(), 2, &["serve", "--json"]));
    let begin = manager.until(is_ready);
    assert_eq!(status(&begin[0]), Some("reads its log"));
    // The moment at which it says so is one at which it is.
    assert_eq!(creto(folder.path(), 2, &["status"]).status, 0);
    let ready = begin.last().unwrap();
    assert!(status(ready).unwrap().starts_with("serves on 127.0.0.1:"), "{ready:?}");

    for _ in 0..3 {
        let heard = manager.until(is_alive);
        assert!(!heard.iter().any(is_ready), "it is said once: {heard:?}");
    }
    node.signal(Signal::TERM);
    let end = manager.until(is_stopping);
    assert!(!end.iter().any(is_ready), "{end:?}");
    assert_eq!(status(end.last().unwrap()), Some("answering what is under way"));
    ends_well(node);
    assert_eq!(manager.hears(Duration::from_millis(10)), None, "nothing is said behind the end");
}

#[test]
fn a_control_service_is_heard_on_an_abstract_socket() {
    let folder = tempfile::tempdir().unwrap();
    ok(folder.path(), 1, &["init", "--listen", "127.0.0.1:0"]);
    let manager = Manager::abstract_one();
    let control = manager.starts(command(folder.path(), 1, &["control", "--listen", "127.0.0.1:0"]));
    let begin = manager.until(is_ready);
    assert!(status(begin.last().unwrap()).unwrap().starts_with("serves nodes on 127.0.0.1:"), "{begin:?}");
    manager.until(is_alive);
    control.signal(Signal::TERM);
    manager.until(is_stopping);
    ends_well(control);
}

#[test]
fn a_node_that_waits_for_its_control_service_is_alive_and_not_ready() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["control", "node"] {
        std::fs::create_dir(folder.path().join(name)).unwrap();
        ok(&folder.path().join(name), 1, &["init", "--listen", "127.0.0.1:0"]);
    }
    let manager = Manager::at_path(folder.path());
    // Nobody listens there.
    let nowhere = ["--control", "127.0.0.1:1", "--control-certificate", "../control/data/node.crt"];
    let node = manager.starts(command(&folder.path().join("node"), 1, &[&["serve"], &nowhere[..]].concat()));
    let waits = |told: &Told| status(told).is_some_and(|status| status.contains("cannot be reached"));
    let mut heard = manager.until(waits);
    heard.extend(manager.until(is_alive));
    node.signal(Signal::TERM);
    heard.extend(manager.until(is_stopping));
    assert!(!heard.iter().any(is_ready), "{heard:?}");
    ends_well(node);
}

#[test]
fn a_shard_that_stands_still_silences_the_watchdog() {
    let folder = tempfile::tempdir().unwrap();
    ok(folder.path(), 2, &["init", "--listen", "127.0.0.1:0"]);
    let manager = Manager::at_path(folder.path());
    let mut serve = command(folder.path(), 2, &["serve"]);
    // Shard 0 stops in the middle of a turn; the process, its other shard and its threads go on.
    serve.env("PLANTED_BUG", "stand-still");
    let node = manager.starts(serve);
    manager.until(is_ready);
    std::fs::write(folder.path().join("stand-still"), "").unwrap();
    let (begun, mut alive) = (Instant::now(), Instant::now());
    let mut stalled = false;
    while alive.elapsed() < 2 * WATCHDOG {
        assert!(begun.elapsed() < PATIENCE, "a shard stands still, and the node says that it lives");
        // How long it has stood is said again and again.
        let Some(told) = manager.hears(WATCHDOG) else { continue };
        if is_alive(&told) {
            alive = Instant::now();
        }
        stalled |= status(&told).is_some_and(|status| status.starts_with("not ready: shard 0 is stalled"));
    }
    assert!(stalled, "the manager's people are told why");
    // The process is there and answers, that it is not ready.
    let answer = creto(folder.path(), 2, &["status"]);
    assert!(answer.stdout.contains("stalled"), "{}", answer.stdout);
    drop(node);
}

#[test]
fn a_socket_that_cannot_be_one_is_a_mistake_that_is_said() {
    let folder = tempfile::tempdir().unwrap();
    ok(folder.path(), 1, &["init", "--listen", "127.0.0.1:0"]);
    let mut serve = command(folder.path(), 1, &["serve"]);
    serve.env("NOTIFY_SOCKET", "x".repeat(200));
    let run = process::run(serve);
    assert_eq!(run.status, 5, "{}", run.stderr);
    assert!(run.stderr.contains("NOTIFY_SOCKET") && run.stderr.contains("\n next: "), "{}", run.stderr);
}

#[test]
fn doctor_holds_the_machine_against_the_node_that_runs_and_not_against_its_own_shell() {
    let folder = tempfile::tempdir().unwrap();
    ok(folder.path(), 1, &["init", "--listen", "127.0.0.1:0"]);
    let manager = Manager::at_path(folder.path());
    // Started by somebody who allows fewer open files than whoever asks the doctor.
    let mut serve = Command::new("sh");
    serve.args(["-c", "ulimit -n 777 && exec \"$0\" serve", env!("CARGO_BIN_EXE_creto")]).current_dir(folder.path());
    serve.env("CRETO__WAL__SEGMENT_BYTES", "8 MiB").env("CRETO__WAL__WAL_BYTES_MAX", "256 MiB");
    serve.env("CRETO__TOPOLOGY__SHARDS", "1").env_remove("CRETO_CONFIG");
    let node = manager.starts(serve);
    manager.until(is_ready);
    let doctor = creto(folder.path(), 1, &["doctor", "--json"]);
    let report = doctor.json();
    let finding = |name: &str| {
        let findings = report["findings"].as_array().unwrap();
        findings.iter().find(|finding| finding["name"] == name).unwrap_or_else(|| panic!("{name}")).clone()
    };
    assert!(finding("open files")["text"].as_str().unwrap().starts_with("777;"), "{}", finding("open files"));
    assert_eq!(
        (&finding("node")["state"], &finding("node")["text"]),
        (&"ok".into(), &"it serves, with 1 shard".into())
    );
    node.signal(Signal::TERM);
    ends_well(node);
}
