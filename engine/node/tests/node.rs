//! A real node: real QUIC, real files, agents that talk through the SDK.
#![allow(clippy::unwrap_used, reason = "a test stops where it is wrong")]

use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use creto_agent::{Agent, AgentKeys, AgentName, ConnectOptions, NodeCertificate, TrustDomain};
use creto_net::tls::NodeIdentity;
use creto_node::Node;
use creto_node::config::Config;
use creto_service::client::Client;
use tempfile::TempDir;

/// A node's folder, with what `creto init` makes.
struct Home {
    dir: TempDir,
    certificate: NodeCertificate,
}

impl Home {
    fn new() -> Self {
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

    fn path(&self) -> &Path {
        self.dir.path()
    }

    fn start(&self) -> Node {
        let text = "node.listen = \"127.0.0.1:0\"\nnode.data_dir = \"data\"\nnode.certificate = \"node.crt\"\n\
             node.private_key = \"node.key\"\ntopology.shards = 2\nwal.segment_bytes = 16777216\n";
        std::fs::write(self.path().join("creto.toml"), text).unwrap();
        let config = Config::load(&self.path().join("creto.toml"), []).unwrap();
        Node::start(&config).unwrap()
    }

    async fn register(&self, node: &Node, name: &str) -> AgentKeys {
        let keys = AgentKeys::generate(AgentName::parse(name).unwrap(), TrustDomain::default()).unwrap();
        let now_ms = u64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis()).unwrap();
        let record = keys.signed_record(1, now_ms, now_ms + 86_400_000);
        Client::new(node.control_socket()).register(&record).await.unwrap();
        keys
    }

    async fn connect(&self, node: &Node, keys: AgentKeys) -> Agent {
        Agent::connect(ConnectOptions::new(node.address(), self.certificate.clone(), keys)).await.unwrap()
    }
}

fn on_time<F: Future<Output = ()>>(test: F) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    // A test that hangs is worse than one that fails; nothing here takes a hundredth of this.
    runtime.block_on(async { tokio::time::timeout(Duration::from_secs(60), test).await.expect("in a minute") });
}

#[test]
fn messages_reach_their_reader_and_survive_a_restart() {
    on_time(async {
        let home = Home::new();
        let node = home.start();
        let planner = home.register(&node, "acme/planner").await;
        let executor = home.register(&node, "acme/executor").await;
        let stranger = home.register(&node, "other/stranger").await;
        let executor_name = executor.name().clone();

        let planner = home.connect(&node, planner).await;
        for number in 0..100u32 {
            planner.send(&executor_name, number.to_le_bytes().to_vec()).await.unwrap();
        }
        let refused = home.connect(&node, stranger).await.send(&executor_name, "hello").await;
        // A stranger may not even read the key record that it would seal to.
        assert!(refused.is_err_and(|error| error.to_string().contains("policy")));
        planner.close().await;
        let summary = node.stop().unwrap();
        assert!(summary.drained);
        assert_eq!(summary.shards.iter().map(|shard| shard.messages_durable).sum::<u64>(), 100);

        let node = home.start();
        assert_eq!(node.recovered().messages, 100);
        let reader = home.connect(&node, executor).await;
        let mut subscription = reader.subscribe().unwrap();
        for number in 0..100u32 {
            let delivery = subscription.next().await.unwrap().unwrap();
            assert_eq!(delivery.payload.as_ref(), number.to_le_bytes());
            delivery.ack();
        }
        reader.close().await;
        node.stop().unwrap();
    });
}
