//! A node and its tools as processes, in folders of a test.
#![allow(unreachable_pub, dead_code, reason = "each test takes what it needs of it")]

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use creto_agent::{Agent, AgentKeys, AgentName, ConnectOptions, NodeCertificate};

/// No wait of a test takes a tenth of it.
pub const PATIENCE: Duration = Duration::from_secs(240);

#[derive(Debug)]
pub struct Run {
    pub status: i32,
    pub stdout: String,
    pub stderr: String,
}

impl Run {
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error}: {}{}", self.stdout, self.stderr))
    }

    /// One object a line.
    pub fn lines(&self) -> Vec<serde_json::Value> {
        let object = |line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
        self.stdout.lines().map(object).collect()
    }
}

pub fn command(folder: &Path, shards: u16, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_creto"));
    command.current_dir(folder).args(args).env_remove("CRETO_CONFIG");
    command.env_remove("CRETO_PASSPHRASE_FILE").env_remove("CREDENTIALS_DIRECTORY");
    // A collector of whoever runs the tests is told nothing.
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.as_encoded_bytes().starts_with(b"OTEL_")) {
        command.env_remove(name);
    }
    // Small: a test needs neither the disk nor the memory of a node.
    command.env("CRETO__WAL__SEGMENT_BYTES", "8 MiB").env("CRETO__WAL__WAL_BYTES_MAX", "256 MiB");
    command.env("CRETO__TOPOLOGY__SHARDS", shards.to_string());
    command
}

pub fn run(mut command: Command) -> Run {
    let output = command.output().expect("the binary was built");
    let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
    Run { status: output.status.code().expect("an exit"), stdout: text(output.stdout), stderr: text(output.stderr) }
}

pub fn creto(folder: &Path, shards: u16, args: &[&str]) -> Run {
    run(command(folder, shards, args))
}

pub fn ok(folder: &Path, shards: u16, args: &[&str]) -> Run {
    let run = creto(folder, shards, args);
    assert_eq!(run.status, 0, "{args:?}: {}{}", run.stdout, run.stderr);
    run
}

/// A process that does not outlive a test that fails.
pub struct Process(pub Child);

impl Process {
    pub fn signal(&self, signal: rustix::process::Signal) {
        let pid = i32::try_from(self.0.id()).ok().and_then(rustix::process::Pid::from_raw).expect("a process");
        rustix::process::kill_process(pid, signal).expect("the process runs");
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

pub struct Node {
    pub process: Process,
    pub address: std::net::SocketAddr,
    pub folder: PathBuf,
}

impl Node {
    pub fn start(folder: &Path, shards: u16) -> Self {
        let mut serve = command(folder, shards, &["serve", "--json"]);
        let mut process = Process(serve.stdout(Stdio::piped()).spawn().expect("the binary was built"));
        let mut line = String::new();
        let mut output = BufReader::new(process.0.stdout.take().expect("piped"));
        output.read_line(&mut line).expect("a pipe can be read");
        let ready: serde_json::Value = serde_json::from_str(&line).unwrap_or_else(|error| panic!("{line:?}: {error}"));
        let address = ready["address"].as_str().expect("an address").parse().expect("an address");
        Self { process, address, folder: folder.to_owned() }
    }

    /// A node with agents whose keys are in its folder.
    pub fn with_agents(folder: &Path, shards: u16, agents: &[&str]) -> Self {
        ok(folder, shards, &["init", "--listen", "127.0.0.1:0"]);
        let node = Self::start(folder, shards);
        for agent in agents {
            ok(folder, shards, &["agent", "create", agent]);
        }
        node
    }

    pub async fn connect(&self, keys: &Path, agent: &str) -> Agent {
        let certificate = NodeCertificate::from_file(self.folder.join("data/node.crt")).expect("a certificate");
        let keys = AgentKeys::load(keys.join(format!("agents/{agent}.keys"))).expect("keys");
        Agent::connect(ConnectOptions::new(self.address, certificate, keys)).await.expect("the node runs")
    }

    pub fn stop(mut self) {
        self.process.signal(rustix::process::Signal::TERM);
        assert_eq!(self.process.0.wait().expect("a child").code(), Some(0));
    }
}

/// A folder in which a node starts on the data that was restored into it.
pub fn restored_home(folder: &Path) {
    std::fs::create_dir_all(folder).expect("a folder");
    std::fs::write(folder.join("creto.toml"), "[node]\nlisten = \"127.0.0.1:0\"\n").expect("a file");
}

pub fn name(text: &str) -> AgentName {
    AgentName::parse(text).expect("a name")
}

pub fn on_time<F: Future<Output = ()>>(test: F) {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime");
    runtime.block_on(async { tokio::time::timeout(PATIENCE, test).await.expect("in time") });
}

/// Runs a command beside the runtime.
pub async fn beside(command: Command) -> Run {
    tokio::task::spawn_blocking(move || run(command)).await.expect("it does not panic")
}
