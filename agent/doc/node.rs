// What stands behind the examples of the documentation: a node in a temporary folder, some registered agents with their
// key files, and a worker that echoes. Included by the examples, in lines that are not shown.

use std::error::Error;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

pub(crate) struct ExampleNode {
    pub(crate) address: SocketAddr,
    pub(crate) folder: PathBuf,
    pub(crate) control: PathBuf,
}

#[allow(dead_code, reason = "each example uses what it needs of it")]
impl ExampleNode {
    pub(crate) fn certificate(&self) -> Result<creto_agent::NodeCertificate, Box<dyn Error>> {
        Ok(creto_agent::NodeCertificate::from_file(self.folder.join("data/node.crt"))?)
    }

    pub(crate) async fn connect(&self, name: &str) -> Result<creto_agent::Agent, Box<dyn Error>> {
        let keys = creto_agent::AgentKeys::load(self.folder.join(name).with_extension("keys"))?;
        let options = creto_agent::ConnectOptions::new(self.address, self.certificate()?, keys);
        Ok(creto_agent::Agent::connect(options).await?)
    }

    /// Registers a channel, which its owner signs.
    pub(crate) async fn create_channel(
        &self,
        owner: &str,
        record: impl FnOnce(&creto_agent::AgentKeys) -> creto_agent::channel::ChannelRecord,
    ) -> Result<(), Box<dyn Error>> {
        let keys = creto_agent::AgentKeys::load(self.folder.join(owner).with_extension("keys"))?;
        let signed = keys.signed_channel(record(&keys))?;
        creto_service::client::Client::new(&self.control).put_channel(&signed).await?;
        Ok(())
    }
}

pub(crate) fn with_node(example: impl AsyncFnOnce(&ExampleNode) -> Result<(), Box<dyn Error>>) -> Result<(), Box<dyn Error>> {
    let folder = tempfile::tempdir()?;
    let data = folder.path().join("data");
    std::fs::create_dir(&data)?;
    let identity = creto_net::tls::NodeIdentity::self_signed(&[])?;
    let pem = |label: &str, der: &[u8]| {
        use base64::Engine as _;
        let text = base64::engine::general_purpose::STANDARD.encode(der);
        format!("-----BEGIN {label}-----\n{text}\n-----END {label}-----\n")
    };
    std::fs::write(data.join("node.crt"), pem("CERTIFICATE", &identity.certificate))?;
    std::fs::write(data.join("node.key"), pem("PRIVATE KEY", &identity.key_pkcs8))?;
    let config = folder.path().join("creto.toml");
    let text = "node.listen = \"127.0.0.1:0\"\nnode.data_dir = \"data\"\nnode.certificate = \"node.crt\"\n\
         node.private_key = \"node.key\"\ntopology.shards = 1\nwal.segment_bytes = 16777216\n";
    std::fs::write(&config, text)?;
    let node = creto_node::Node::start(&creto_node::config::Config::load(&config, [])?)?;

    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let outcome = runtime.block_on(async {
        let now_ms = u64::try_from(SystemTime::now().duration_since(UNIX_EPOCH)?.as_millis())?;
        for name in ["planner", "worker", "reader-1", "reader-2", "worker-1", "worker-2"] {
            let full = creto_agent::AgentName::parse(&format!("acme/{name}"))?;
            let keys = creto_agent::AgentKeys::generate(full, creto_agent::TrustDomain::default())?;
            keys.save(folder.path().join(name).with_extension("keys"))?;
            let record = keys.signed_record(1, now_ms - 1_000, now_ms + 86_400_000);
            creto_service::client::Client::new(node.control_socket()).register(&record).await?;
        }
        let control = node.control_socket().to_owned();
        let example_node = ExampleNode { address: node.address(), folder: folder.path().to_owned(), control };
        let worker = example_node.connect("worker").await?;
        let echo = tokio::spawn(async move {
            while let Ok(delivery) = worker.receive().await {
                if delivery.request().is_some() {
                    let _ = delivery.respond(delivery.payload.clone()).await;
                    continue;
                }
                let _ = worker.send(&delivery.from, delivery.payload.clone()).await;
                delivery.ack();
            }
        });
        let example = tokio::time::timeout(std::time::Duration::from_secs(60), example(&example_node)).await;
        echo.abort();
        example?
    });
    drop(runtime);
    node.stop()?;
    outcome
}
