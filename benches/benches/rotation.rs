//! How long it takes to replace an encryption key on a whole node: real QUIC on loopback, a real key file, a real
//! directory on disk, one shard on a CPU of its own.
//!
//! Two figures per rotation: from the record on its way to the node's word that it is durable and counts, and the whole
//! call of the SDK, which asks for the current record first and syncs the key file twice. `cargo bench -p creto-benches
//! --bench rotation`.
#![allow(clippy::unwrap_used, reason = "a bench stops where it is wrong")]

use std::fs;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use creto_agent::{Agent, AgentKeys, AgentName, ConnectOptions, NodeCertificate, TrustDomain};
use creto_net::tls::NodeIdentity;
use creto_node::Node;
use creto_node::config::Config;
use creto_service::client::Client;

/// A node takes 64 keys of one agent within an hour.
const ROTATIONS: u32 = 60;
/// Of which these do not count.
const WARM_UP: usize = 5;

fn main() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(run());
}

async fn run() {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let (node, certificate) = start(dir.path());
    if let Some(last) = core_affinity::get_core_ids().unwrap_or_default().last() {
        core_affinity::set_for_current(*last);
    }
    let keys = AgentKeys::generate(AgentName::parse("acme/planner").unwrap(), TrustDomain::default()).unwrap();
    keys.save(dir.path().join("planner.keys")).unwrap();
    let now_ms = u64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis()).unwrap();
    let record = keys.signed_record(1, now_ms - 1_000, now_ms + 86_400_000);
    Client::new(node.control_socket()).register(&record).await.unwrap();
    let agent = Agent::connect(ConnectOptions::new(node.address(), certificate, keys)).await.unwrap();

    let (mut published, mut whole) = (Vec::new(), Vec::new());
    for _ in 0..ROTATIONS {
        let begun = Instant::now();
        published.push(agent.rotate_keys().await.unwrap().published_in);
        whole.push(begun.elapsed());
    }
    print("published -> durable and current", published.split_off(WARM_UP));
    print("rotate_keys, key file and all", whole.split_off(WARM_UP));
    agent.close().await;
    node.stop().unwrap();
}

fn print(what: &str, mut took: Vec<Duration>) {
    took.sort_unstable();
    let (median, last) = (took[took.len() / 2], took[took.len() - 1]);
    let p95 = took[took.len() * 95 / 100];
    println!("{what}: median {median:.2?}, p95 {p95:.2?}, slowest {last:.2?} of {}", took.len());
}

fn start(dir: &std::path::Path) -> (Node, NodeCertificate) {
    use base64::Engine as _;
    let identity = NodeIdentity::self_signed(&[]).unwrap();
    fs::create_dir(dir.join("data")).unwrap();
    for (file, label, der) in
        [("node.crt", "CERTIFICATE", &identity.certificate[..]), ("node.key", "PRIVATE KEY", &identity.key_pkcs8[..])]
    {
        let text = base64::engine::general_purpose::STANDARD.encode(der);
        let pem = format!("-----BEGIN {label}-----\n{text}\n-----END {label}-----\n");
        fs::write(dir.join("data").join(file), pem).unwrap();
    }
    let first = core_affinity::get_core_ids().and_then(|ids| ids.first().map(|id| id.id)).unwrap_or(0);
    let config = format!("node.listen = \"127.0.0.1:0\"\ntopology.cpus = [{first}]\ntopology.shards = 1\n");
    fs::write(dir.join("creto.toml"), config).unwrap();
    let config = Config::load(&dir.join("creto.toml"), []).unwrap();
    (Node::start(&config).unwrap(), NodeCertificate::from_file(dir.join("data/node.crt")).unwrap())
}
