//! A node in a temporary folder, and agents of it.
#![allow(unreachable_pub, dead_code, reason = "each test uses what it needs of it")]

use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use creto_agent::{Agent, AgentKeys, AgentName, ConnectOptions, NodeCertificate, TrustDomain};
use creto_net::tls::NodeIdentity;
use creto_node::Node;
use creto_node::config::Config;
use creto_service::client::Client;
use tempfile::TempDir;

/// A node's folder, with what `creto init` makes.
pub struct Home {
    dir: TempDir,
    pub certificate: NodeCertificate,
}

impl Home {
    pub fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let identity = NodeIdentity::self_signed(&[]).unwrap();
        std::fs::create_dir(dir.path().join("data")).unwrap();
        let pem = |label: &str, der: &[u8]| {
            use base64::Engine as _;
            let text = base64::engine::general_purpose::STANDARD.encode(der);
            format!("-----BEGIN {label}-----\n{text}\n-----END {label}-----\n")
        };
        std::fs::write(dir.path().join("data/node.crt"), pem("CERTIFICATE", &identity.certificate)).unwrap();
        std::fs::write(dir.path().join("data/node.key"), pem("PRIVATE KEY", &identity.key_pkcs8)).unwrap();
        let certificate = NodeCertificate::from_file(dir.path().join("data/node.crt")).unwrap();
        Self { dir, certificate }
    }

    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    pub fn start(&self) -> Node {
        self.start_with("topology.shards = 2\n")
    }

    /// A node whose shards have a crypto worker. Where there is one CPU only, they verify themselves.
    pub fn start_with_worker(&self) -> Node {
        let cpus = creto_node::host::Host::probe().unwrap().cpus;
        match &cpus[..] {
            [.., last] if cpus.len() > 1 => self.start_with(&format!("topology.crypto = [{}]\n", last.cpu_index)),
            _ => self.start(),
        }
    }

    /// A node where another was before it ended.
    pub fn start_at(&self, address: SocketAddr) -> Node {
        let mut config = self.configure("");
        config.node.listen = address;
        Node::start(&config).unwrap()
    }

    /// A node with further lines in its configuration.
    pub fn start_with(&self, topology: &str) -> Node {
        Node::start(&self.configure(topology)).unwrap()
    }

    /// Writes the configuration of such a node.
    pub fn configure(&self, topology: &str) -> Config {
        let text = "node.listen = \"127.0.0.1:0\"\nnode.data_dir = \"data\"\nnode.certificate = \"node.crt\"\n\
             node.private_key = \"node.key\"\nwal.segment_bytes = 16777216\n";
        std::fs::write(self.path().join("creto.toml"), format!("{text}{topology}")).unwrap();
        Config::load(&self.path().join("creto.toml"), []).unwrap()
    }

    pub async fn register(&self, node: &Node, name: &str) -> AgentKeys {
        self.register_until(node, name, now_ms() + 86_400_000).await
    }

    pub async fn register_until(&self, node: &Node, name: &str, valid_until_ms: u64) -> AgentKeys {
        let keys = AgentKeys::generate(AgentName::parse(name).unwrap(), TrustDomain::default()).unwrap();
        let record = keys.signed_record(1, now_ms() - 1_000, valid_until_ms);
        Client::new(node.control_socket()).register(&record).await.unwrap();
        keys
    }

    pub async fn connect(&self, node: &Node, keys: AgentKeys) -> Agent {
        Agent::connect(ConnectOptions::new(node.address(), self.certificate.clone(), keys)).await.unwrap()
    }
}

pub fn now_ms() -> u64 {
    u64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis()).unwrap()
}

pub fn on_time<F: Future<Output = ()>>(test: F) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    // A test that hangs is worse than one that fails; nothing here takes a hundredth of this.
    runtime.block_on(async { tokio::time::timeout(Duration::from_secs(60), test).await.expect("in a minute") });
}
