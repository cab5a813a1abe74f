//! A node in a process of its own, as `creto serve` has it: this bench, started again with `--serve`. What it takes is what
//! the system says of that process.

use std::fs;
use std::io::{self, BufRead, BufReader};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use creto_node::Node;
use creto_node::config::Config;
use nix::time::clock_getcpuclockid;
use nix::unistd::Pid;
use rustix::process::{Signal, set_parent_process_death_signal};
use serde::{Deserialize, Serialize};

/// How this bench is told to be the node.
pub(crate) const SERVE: &str = "--serve";

/// What a node says when it serves.
#[derive(Debug, Serialize, Deserialize)]
struct Ready {
    address: SocketAddr,
    messages: u64,
    recovery_us: u64,
}

/// Runs a node until standard input ends.
pub(crate) fn serve(config: &Path) {
    die_with_parent();
    let node = Node::start(&Config::load(config, []).unwrap()).unwrap();
    let recovered = node.recovered();
    let recovery_us = u64::try_from(recovered.took.as_micros()).unwrap();
    let ready = Ready { address: node.address(), messages: recovered.messages, recovery_us };
    println!("{}", serde_json::to_string(&ready).unwrap());
    io::copy(&mut io::stdin(), &mut io::sink()).unwrap();
    node.stop().unwrap();
}

/// Nothing of a run outlives it.
pub(crate) fn die_with_parent() {
    set_parent_process_death_signal(Some(Signal::KILL)).unwrap();
}

/// A node that serves, in its process.
pub(crate) struct NodeProcess {
    child: Child,
    pub(crate) address: SocketAddr,
    pub(crate) started: Started,
}

/// How a start went.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Started {
    /// Messages that were found waiting.
    pub(crate) messages: u64,
    /// From the start of the process until the node serves.
    pub(crate) ready_s: f64,
    /// Of this, reading the logs.
    pub(crate) recovery_s: f64,
    /// Of the whole process until then.
    pub(crate) cpu_s: f64,
    /// In memory then.
    pub(crate) resident_bytes: u64,
    /// The most that was in memory until then.
    pub(crate) peak_bytes: u64,
    /// Read from the device until then.
    pub(crate) read_bytes: u64,
}

impl NodeProcess {
    /// Starts a node and waits until it serves. To be called on the main thread: the node ends with the thread that
    /// started it.
    pub(crate) fn start(config: &Path) -> Self {
        let began = Instant::now();
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.arg(SERVE).arg(config).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let ready_s = began.elapsed().as_secs_f64();
        assert!(!line.is_empty(), "the node did not start: {}", child.wait().unwrap());
        let Ready { address, messages, recovery_us } = serde_json::from_str(&line).unwrap();
        let of = Process(child.id());
        let started = Started {
            messages,
            ready_s,
            recovery_s: recovery_us as f64 / 1e6,
            cpu_s: of.cpu().as_secs_f64(),
            resident_bytes: of.memory_bytes("VmRSS:"),
            peak_bytes: of.memory_bytes("VmHWM:"),
            read_bytes: of.read_bytes(),
        };
        Self { child, address, started }
    }

    pub(crate) fn process(&self) -> Process {
        Process(self.child.id())
    }

    /// Stops it in good order.
    pub(crate) fn stop(mut self) {
        drop(self.child.stdin.take());
        assert!(self.child.wait().unwrap().success(), "the node did not end well");
    }
}

/// What the system says of a process.
#[derive(Clone, Copy)]
pub(crate) struct Process(u32);

impl Process {
    /// User and system time of all its threads, also of those that ended.
    pub(crate) fn cpu(self) -> Duration {
        let clock = clock_getcpuclockid(Pid::from_raw(i32::try_from(self.0).unwrap())).unwrap();
        Duration::from(clock.now().unwrap())
    }

    pub(crate) fn resident_bytes(self) -> u64 {
        self.memory_bytes("VmRSS:")
    }

    fn memory_bytes(self, field: &str) -> u64 {
        self.number("status", field) * 1_024
    }

    /// What the device gave it.
    pub(crate) fn read_bytes(self) -> u64 {
        self.number("io", "read_bytes:")
    }

    fn number(self, file: &str, field: &str) -> u64 {
        let text = fs::read_to_string(format!("/proc/{}/{file}", self.0)).unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix(field)).unwrap();
        line.split_whitespace().next().unwrap().parse().unwrap()
    }
}
