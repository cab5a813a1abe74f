//! A control service and two nodes as processes: the first five minutes, SIGKILL of the service while agents send, and what each
//! process says of it.
#![allow(clippy::unwrap_used, reason = "a test stops where it is wrong")]

mod process;

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use process::{Process, Run, command, run};
use rustix::process::Signal;

const SHARDS: u16 = 2;
const LIFETIME: Duration = Duration::from_secs(4);

/// Folders of a control service, of two nodes, and of people who use them.
struct World {
    dir: tempfile::TempDir,
}

struct Running {
    process: Process,
    /// Of a node: what its shards listen on. Of the service: where nodes connect to.
    address: String,
    output: BufReader<std::process::ChildStdout>,
}

impl World {
    fn new() -> Self {
        let world = Self { dir: tempfile::tempdir().unwrap() };
        for name in ["control", "one", "two"] {
            std::fs::create_dir(world.folder(name)).unwrap();
            world.ok(name, &["init", "--listen", "127.0.0.1:0"]);
        }
        world
    }

    fn folder(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn command(&self, name: &str, args: &[&str]) -> Command {
        let mut command = command(&self.folder(name), SHARDS, args);
        command.env("CRETO__LINK__SNAPSHOT_LIFETIME", format!("{}s", LIFETIME.as_secs()));
        command
    }

    fn run(&self, name: &str, args: &[&str]) -> Run {
        run(self.command(name, args))
    }

    fn ok(&self, name: &str, args: &[&str]) -> Run {
        let run = self.run(name, args);
        assert_eq!(run.status, 0, "{args:?}: {}{}", run.stdout, run.stderr);
        run
    }

    fn control(&self, listen: &str) -> Running {
        Running::start(self.command("control", &["control", "--listen", listen, "--json"]), "ready")
    }

    fn node(&self, name: &str, control: &Running, event: &str) -> Running {
        let certificate = self.folder("control").join("data/node.crt");
        let reach = ["--control", &control.address, "--control-certificate", certificate.to_str().unwrap()];
        Running::start(self.command(name, &[&["serve", "--json"], &reach[..]].concat()), event)
    }

    /// A command of an agent whose keys are in the service's folder, at a node.
    fn at(&self, node: &str, running: &Running, args: &[&str]) -> Command {
        let certificate = self.folder(node).join("data/node.crt");
        let reach = ["--node", &running.address, "--certificate", certificate.to_str().unwrap()];
        self.command("control", &[args, &reach[..]].concat())
    }
}

impl Running {
    /// Starts a process, and waits for its first line.
    fn start(mut command: Command, event: &str) -> Self {
        let mut process = Process(command.stdout(Stdio::piped()).spawn().unwrap());
        let output = BufReader::new(process.0.stdout.take().unwrap());
        let mut running = Self { process, address: String::new(), output };
        running.address = running.line(event)["address"].as_str().unwrap().to_owned();
        running
    }

    /// Its next line, which is of this event.
    fn line(&mut self, event: &str) -> serde_json::Value {
        let mut line = String::new();
        self.output.read_line(&mut line).unwrap();
        let said: serde_json::Value = serde_json::from_str(&line).unwrap_or_else(|error| panic!("{line:?}: {error}"));
        assert_eq!(said["event"], event, "{said}");
        said
    }

    fn kill(mut self) -> String {
        self.process.signal(Signal::KILL);
        self.process.0.wait().unwrap();
        std::mem::take(&mut self.address)
    }

    fn stop(mut self) {
        self.process.signal(Signal::TERM);
        assert_eq!(self.process.0.wait().unwrap().code(), Some(0));
    }
}

fn is_ok(mut command: Command) -> bool {
    command.output().unwrap().status.success()
}

fn verified(folder: &Path) -> Run {
    run(command(folder, SHARDS, &["audit", "verify", "data/audit", "--key", "data/audit/audit.pub", "--json"]))
}

#[test]
fn a_control_service_serves_two_nodes_and_is_missed_when_it_is_killed() {
    let world = World::new();
    let control = world.control("127.0.0.1:0");
    // A node that is not admitted waits, and says for what.
    let mut one = world.node("one", &control, "waiting");
    let waiting = world.run("one", &["status", "--json"]);
    assert_eq!(waiting.status, 1, "{}{}", waiting.stdout, waiting.stderr);
    assert_eq!(waiting.json()["ready"], false);
    let certificate = |name: &str| world.folder(name).join("data/node.crt").to_str().unwrap().to_owned();
    let admitted = world.ok("control", &["control", "admit", "node-1", &certificate("one")]);
    assert!(admitted.stdout.starts_with("admitted  node-1  SHA-256 "), "{}", admitted.stdout);
    one.line("ready");
    world.ok("control", &["control", "admit", "node-2", &certificate("two")]);
    let again = world.run("control", &["control", "admit", "node-3", &certificate("two")]);
    assert!(again.status == 2 && again.stderr.contains("admitted already, as node-2"), "{}", again.stderr);
    let taken = world.run("control", &["control", "admit", "node-1", &certificate("two")]);
    assert!(taken.status == 2 && taken.stderr.contains("another node is called node-1"), "{}", taken.stderr);
    let no = world.run("control", &["control", "admit", "node-3", "creto.toml"]);
    assert!(no.status == 2 && no.stderr.contains("no certificate in PEM"), "{}", no.stderr);
    let listed = world.ok("control", &["control", "nodes", "--json"]).json();
    let names: Vec<_> = listed["nodes"].as_array().unwrap().iter().map(|node| node["name"].clone()).collect();
    assert_eq!(names, ["node-1", "node-2"]);
    // It is admitted, and the service looks for that four times a second: it is linked at once or in a moment.
    let mut serve = world.command("two", &["serve", "--json"]);
    let node_toml = world.folder("two").join("creto.toml");
    let config = std::fs::read_to_string(&node_toml).unwrap();
    let link =
        format!("[link]\ncontrol = \"{}\"\ncontrol_certificate = \"{}\"\n", control.address, certificate("control"));
    std::fs::write(&node_toml, config.replace("[link]\n", &link)).unwrap();
    let mut process = Process(serve.stdout(Stdio::piped()).spawn().unwrap());
    let mut output = BufReader::new(process.0.stdout.take().unwrap());
    let mut said = serde_json::Value::Null;
    while said["event"] != "ready" {
        let mut line = String::new();
        output.read_line(&mut line).unwrap();
        said = serde_json::from_str(&line).unwrap();
    }
    let two = Running { process, address: said["address"].as_str().unwrap().to_owned(), output };

    for agent in ["acme/planner", "acme/worker"] {
        world.ok("control", &["agent", "create", agent]);
    }
    let elsewhere = world.run("one", &["agent", "create", "acme/other"]);
    assert_eq!(elsewhere.status, 4, "{}", elsewhere.stderr);
    assert!(elsewhere.stderr.contains(&format!("its control service is the process at {}", control.address)));
    for (name, node) in [("one", &one), ("two", &two)] {
        let sent = run(world.at(name, node, &["send", "acme/planner", "acme/worker", name]));
        assert_eq!(sent.status, 0, "{}", sent.stderr);
        let received = run(world.at(name, node, &["recv", "acme/worker", "--count", "1", "--json"]));
        assert_eq!(received.lines()[0]["text"], name, "{}", received.stderr);
    }
    let status = world.ok("one", &["status"]).stdout;
    assert!(status.starts_with("ready\n  control    linked"), "{status}");
    let status = world.ok("control", &["status"]).stdout;
    assert!(status.starts_with("ready\n  nodes      linked  node-1\n             linked  node-2\n"), "{status}");
    let listed = world.ok("control", &["control", "nodes", "--json"]).json();
    assert!(listed["nodes"].as_array().unwrap().iter().all(|node| node["linked"] == true), "{listed}");

    // Killed while agents send: those that are there go on for as long as the snapshot counts.
    let mut follow = world.at("one", &one, &["recv", "acme/worker", "--follow", "--json"]);
    let mut follow = Process(follow.stdout(Stdio::piped()).spawn().unwrap());
    let mut delivered = BufReader::new(follow.0.stdout.take().unwrap());
    let mut next = || {
        let mut line = String::new();
        delivered.read_line(&mut line).unwrap();
        serde_json::from_str::<serde_json::Value>(&line).unwrap()["text"].as_str().unwrap().to_owned()
    };
    assert!(is_ok(world.at("one", &one, &["send", "acme/planner", "acme/worker", "with"])));
    assert_eq!(next(), "with");
    let address = control.kill();
    let killed = Instant::now();
    let until_denied = || {
        let status = world.run("one", &["status", "--json"]);
        let ready = status.json()["ready"] == true;
        assert_eq!(status.status, i32::from(!ready));
        (ready, status.json()["control"].clone())
    };
    let (ready, link) = until_denied();
    assert!(ready && link["lapses_in_ms"].is_u64(), "{link}");
    while until_denied().0 {
        assert!(killed.elapsed() < Duration::from_secs(30), "it goes by it for ever");
    }
    let denied = killed.elapsed();
    println!("not ready {:.1} s after SIGKILL of control; a snapshot counts for {LIFETIME:?}", denied.as_secs_f64());
    let status = world.run("one", &["status"]);
    assert!(
        status.status == 1 && status.stdout.contains("everything is denied until control confirms it"),
        "{}",
        status.stdout
    );
    // Whoever comes now is told to come again.
    let refused = run(world.at("one", &one, &["send", "acme/planner", "acme/worker", "without"]));
    assert!(refused.status == 4 && refused.stderr.contains("505 PolicyUnavailable"), "{}", refused.stderr);

    let control = world.control(&address);
    let back = Instant::now();
    while !until_denied().0 {
        assert!(back.elapsed() < Duration::from_secs(30), "it does not come back");
    }
    println!("ready again {:.1} s after control was", back.elapsed().as_secs_f64());
    while world.run("two", &["status", "--json"]).json()["ready"] != true {
        assert!(back.elapsed() < Duration::from_secs(30), "the other node does not come back");
    }
    assert!(is_ok(world.at("one", &one, &["send", "acme/planner", "acme/worker", "again"])));
    assert_eq!(next(), "again");

    // Revoked at control: no node takes it any more.
    world.ok("control", &["agent", "revoke", "acme/planner"]);
    for (name, node) in [("one", &one), ("two", &two)] {
        let refused = run(world.at(name, node, &["send", "acme/planner", "acme/worker", "psst"]));
        assert!(refused.status == 4 && refused.stderr.contains("AgentRevoked"), "{}{}", refused.status, refused.stderr);
    }
    // While it runs, too.
    world.ok("control", &["backup", "running", "--with-secrets"]);
    drop(follow);
    one.stop();
    two.stop();
    control.stop();
    // Three audit logs, each by itself.
    for name in ["control", "one", "two"] {
        let verified = verified(&world.folder(name));
        assert_eq!(verified.status, 0, "{name}: {}{}", verified.stdout, verified.stderr);
    }
    // Control is backed up like a node; a node that has it elsewhere is copied as it is.
    world.ok("control", &["backup", "copy"]);
    std::fs::create_dir(world.folder("restored")).unwrap();
    world.ok("restored", &["restore", "../control/copy", "data"]);
    assert!(world.folder("restored").join("data/control.redb").exists());
    // And serves from there, by the configuration that it had: who there was is there.
    std::fs::create_dir(world.folder("again")).unwrap();
    world.ok("again", &["restore", "../control/running", "data"]);
    std::fs::copy(world.folder("control").join("creto.toml"), world.folder("again").join("creto.toml")).unwrap();
    let args = ["control", "--listen", "127.0.0.1:0", "--json"];
    let again = Running::start(world.command("again", &args), "ready");
    let agents = world.ok("again", &["agent", "list", "--json"]).stdout;
    assert!(agents.contains("acme/planner") && agents.contains("acme/worker"), "{agents}");
    again.stop();
    // Without a configuration it is told that there is none, and does not serve by the defaults.
    let elsewhere = world.dir.path().join("elsewhere");
    std::fs::create_dir(&elsewhere).unwrap();
    let data = world.folder("again").join("data");
    let refused = run(command(&elsewhere, SHARDS, &["control", "--data-dir", data.to_str().unwrap()]));
    assert!(refused.status != 0 && refused.stderr.contains("creto.toml"), "{}{}", refused.status, refused.stderr);
    let listed = run(command(&elsewhere, SHARDS, &["control", "nodes", "--data-dir", data.to_str().unwrap()]));
    assert_eq!(listed.status, 0, "{}", listed.stderr);
    // Only the certificate is taken, whatever else is in the file.
    let both = elsewhere.join("both.pem");
    let text = ["node.crt", "node.key"]
        .map(|file| std::fs::read_to_string(world.folder("one").join("data").join(file)).unwrap());
    std::fs::write(&both, text.concat()).unwrap();
    let admit = ["control", "admit", "node-9", both.to_str().unwrap(), "--data-dir", data.to_str().unwrap()];
    assert_eq!(run(command(&elsewhere, SHARDS, &admit)).status, 0);
    let admitted = std::fs::read_to_string(data.join("nodes/node-9.crt")).unwrap();
    assert!(admitted.contains("CERTIFICATE") && !admitted.contains("PRIVATE"), "{admitted}");
    let refused = world.run("two", &["backup", "copy"]);
    assert!(refused.status != 0 && refused.stderr.contains("copy this folder as it is"), "{}", refused.stderr);
    let refused = world.run("control", &["serve"]);
    assert!(refused.status == 2 && refused.stderr.contains("start it with `creto control`"), "{}", refused.stderr);
    let refused = world.run("two", &["control"]);
    assert!(refused.status == 2 && refused.stderr.contains("of a node whose control service"), "{}", refused.stderr);
}
