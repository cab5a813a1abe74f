//! A whole node in a temporary folder, for the benches that need one: real QUIC on loopback, real files, shards on the
//! first CPUs, and whoever loads it on the others.
#![allow(clippy::unwrap_used, reason = "a bench stops where it is wrong")]

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use creto_agent::{Agent, AgentKeys, AgentName, ConnectOptions, NodeCertificate, SignedKeyRecord, TrustDomain};
use creto_net::tls::NodeIdentity;
use creto_node::Node;
use creto_node::config::Config;
use creto_service::client::Client;
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use tempfile::TempDir;

/// Records of agents start this long ago and end this far ahead.
const VALID_MS: u64 = 86_400_000;

/// A node of its own, its folder and its certificate. Dropping it stops the node.
#[derive(Debug)]
pub struct BenchNode {
    // Before the folder, so that it is dropped first.
    node: Node,
    certificate: NodeCertificate,
    folder: TempDir,
    shard_cpus: Vec<usize>,
}

impl BenchNode {
    /// Starts a node in a new folder below `parent`, with one shard on each of the first `shard_count` CPUs that this
    /// process may use, and with further lines in its configuration.
    ///
    /// # Panics
    /// When it does not start.
    #[must_use]
    pub fn start(parent: &Path, shard_count: usize, lines: &str) -> Self {
        let folder = tempfile::tempdir_in(parent).unwrap();
        let shard_cpus: Vec<usize> = usable_cpus().into_iter().take(shard_count).collect();
        let topology = format!("topology.cpus = {shard_cpus:?}\ntopology.shards = {}", shard_cpus.len());
        let path = prepare(folder.path(), &format!("{topology}\n{lines}"));
        let data = folder.path().join("data");
        let node = Node::start(&Config::load(&path, []).unwrap()).unwrap();
        let certificate = NodeCertificate::from_file(data.join("node.crt")).unwrap();
        Self { node, certificate, folder, shard_cpus }
    }

    /// Keeps this thread, and those that it starts from now on, off the CPUs of the shards, unless there are no others.
    ///
    /// # Panics
    /// When the system does not let it.
    pub fn leave_the_shards_alone(&self) {
        let mut set = CpuSet::new();
        for cpu in usable_cpus().into_iter().filter(|cpu| !self.shard_cpus.contains(cpu)) {
            set.set(cpu);
        }
        if set.count() > 0 {
            sched_setaffinity(None, &set).unwrap();
        }
    }

    /// Its UDP address.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.node.address()
    }

    /// What agents trust it by.
    #[must_use]
    pub fn certificate(&self) -> &NodeCertificate {
        &self.certificate
    }

    /// Its folder, for files of agents too.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Its shards.
    #[must_use]
    pub fn shard_count(&self) -> usize {
        self.shard_cpus.len()
    }

    /// Calls of its operator.
    #[must_use]
    pub fn control(&self) -> Client {
        Client::new(self.node.control_socket())
    }

    /// New keys, registered.
    ///
    /// # Panics
    /// When the node refuses them.
    pub async fn new_agent(&self, name: &str) -> AgentKeys {
        let keys = AgentKeys::generate(AgentName::parse(name).unwrap(), TrustDomain::default()).unwrap();
        self.register(&keys).await;
        keys
    }

    /// Registers keys.
    ///
    /// # Panics
    /// When the node refuses them.
    pub async fn register(&self, keys: &AgentKeys) {
        self.control().register(&record(keys)).await.unwrap();
    }

    /// Connects through the SDK.
    ///
    /// # Panics
    /// When there is no connection.
    pub async fn connect(&self, keys: AgentKeys) -> Agent {
        Agent::connect(ConnectOptions::new(self.address(), self.certificate.clone(), keys)).await.unwrap()
    }

    /// Stops it in good order.
    ///
    /// # Panics
    /// When it does not end well.
    pub fn stop(self) {
        self.node.stop().unwrap();
    }
}

/// Writes what a node needs before its first start into an empty folder: a key and a certificate, `data/node.crt`, and its
/// configuration with these lines in it, whose path is returned.
///
/// # Panics
/// When the folder cannot be written to.
#[must_use]
pub fn prepare(folder: &Path, lines: &str) -> PathBuf {
    let identity = NodeIdentity::self_signed(&[]).unwrap();
    let data = folder.join("data");
    fs::create_dir(&data).unwrap();
    for (file, label, der) in
        [("node.crt", "CERTIFICATE", &identity.certificate[..]), ("node.key", "PRIVATE KEY", &identity.key_pkcs8[..])]
    {
        let pem = format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", BASE64.encode(der));
        fs::write(data.join(file), pem).unwrap();
    }
    let path = folder.join("creto.toml");
    fs::write(&path, format!("node.listen = \"127.0.0.1:0\"\n{lines}")).unwrap();
    path
}

/// The record that agents are registered with.
#[must_use]
pub fn record(keys: &AgentKeys) -> SignedKeyRecord {
    let now_ms = now_ms();
    keys.signed_record(1, now_ms - VALID_MS, now_ms + VALID_MS)
}

/// The CPUs that this thread may run on.
fn usable_cpus() -> Vec<usize> {
    let set = sched_getaffinity(None).unwrap();
    (0..CpuSet::MAX_CPU).filter(|cpu| set.is_set(*cpu)).collect()
}

/// Unix milliseconds.
///
/// # Panics
/// On a clock before 1970.
#[must_use]
pub fn now_ms() -> u64 {
    u64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis()).unwrap()
}
