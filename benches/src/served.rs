//! A node that is a process of its own, for benches that measure what it costs beside what its clients cost: the bench starts itself
//! once more, as the node.
#![allow(clippy::unwrap_used, reason = "a bench stops where it is wrong")]

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use creto_agent::raw::RawConnection;
use creto_agent::{AgentKeys, AgentName, NodeCertificate, TrustDomain};
use creto_node::Node;
use creto_node::config::Config;
use creto_service::client::Client;

use crate::node::record;

/// How a bench is told to be the node: its first argument, before the path of the configuration.
pub const SERVE: &str = "--serve";
/// How long a connection may take.
pub const WITHIN: Duration = Duration::from_secs(60);
/// How long either side believes in a silent other: nobody is to be lost to keep-alives that come late.
pub const IDLE: Duration = Duration::from_secs(600);
/// Agents that register or connect at the same time.
pub const TOGETHER: usize = 64;

/// Is the node until its standard input ends.
///
/// # Panics
/// When it does not start, or does not end well.
pub fn serve(configuration: &Path) {
    let node = Node::start(&Config::load(configuration, []).unwrap()).unwrap();
    println!("{} {}", node.address(), node.control_socket().display());
    let _ = std::io::stdin().lock().read_line(&mut String::new());
    node.stop().unwrap();
}

/// A node that is a process of its own.
#[derive(Debug)]
pub struct Served {
    child: Child,
    stdin: Option<ChildStdin>,
    /// Its UDP address.
    pub address: SocketAddr,
    /// Calls of its operator.
    pub control: Client,
}

impl Served {
    /// Starts this bench once more, as the node with this configuration.
    ///
    /// # Panics
    /// When it does not start.
    #[must_use]
    pub fn start(configuration: &Path) -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args([SERVE.as_ref(), configuration.as_os_str()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let (address, socket) = line.trim_end().split_once(' ').expect("the node says where it is");
        let stdin = child.stdin.take();
        Self { child, stdin, address: address.parse().unwrap(), control: Client::new(socket) }
    }

    /// What the kernel says that it has in memory, in bytes.
    ///
    /// # Panics
    /// When it has ended.
    #[must_use]
    pub fn resident(&self) -> f64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.split_whitespace().next().unwrap().parse::<f64>().unwrap() * 1_024.0
    }

    /// CPU time that all its threads have taken, in nanoseconds, as the scheduler counts it.
    ///
    /// # Panics
    /// When it has ended.
    #[must_use]
    pub fn cpu_ns(&self) -> u64 {
        let tasks = fs::read_dir(format!("/proc/{}/task", self.child.id())).unwrap();
        tasks
            .map(|task| {
                let text = fs::read_to_string(task.unwrap().path().join("schedstat")).unwrap();
                text.split_whitespace().next().unwrap().parse::<u64>().unwrap()
            })
            .sum()
    }

    /// New agents, registered: `acme/agent-00000` and so on.
    ///
    /// # Panics
    /// When the node refuses one.
    pub async fn register(&self, count: usize) -> Vec<Arc<AgentKeys>> {
        let mut keys = Vec::with_capacity(count);
        let mut registering = tokio::task::JoinSet::new();
        for number in 0..count {
            let name = AgentName::parse(&format!("acme/agent-{number:05}")).unwrap();
            let made = Arc::new(AgentKeys::generate(name, TrustDomain::default()).unwrap());
            let (control, record) = (self.control.clone(), record(&made));
            keys.push(made);
            registering.spawn(async move { control.register(&record).await.map(drop).unwrap() });
            if registering.len() == TOGETHER {
                registering.join_next().await.unwrap().unwrap();
            }
            progress("registered", number + 1, count);
        }
        registering.join_all().await;
        keys
    }

    /// Connections that share so many sockets, one for each of these agents, not logged in.
    ///
    /// # Panics
    /// When there is no connection.
    pub async fn sockets(&self, certificate: &NodeCertificate, count: usize) -> Vec<Arc<RawConnection>> {
        let mut sockets = Vec::with_capacity(count);
        for _ in 0..count {
            let connection = RawConnection::connect_for(self.address, certificate, WITHIN, IDLE).await.unwrap();
            sockets.push(Arc::new(connection));
        }
        sockets
    }

    /// SIGKILL.
    ///
    /// # Panics
    /// When it has ended.
    pub fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Stops it in good order.
    ///
    /// # Panics
    /// When it does not end well.
    pub fn stop(mut self) {
        drop(self.stdin.take());
        assert!(self.child.wait().unwrap().success(), "the node ends in good order");
    }
}

/// Says how far it is, on a terminal.
pub fn progress(what: &str, done: usize, of: usize) {
    let mut err = std::io::stderr();
    if std::io::IsTerminal::is_terminal(&err) && (done.is_multiple_of(100) || done == of) {
        let _ = write!(err, "\r{what} {done} of {of}{}", if done == of { "\n" } else { "" });
    }
}
