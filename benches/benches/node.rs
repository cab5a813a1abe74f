//! What a message costs a whole node: real QUIC on loopback, real files, one shard on a CPU of its own.
//!
//! The sender's work (sealing, signing) is done before the clock starts, so the figure is the node's. CPU time is that
//! of the shard's thread alone, as the kernel accounts it. `cargo bench -p creto-benches --bench node`; messages and
//! payload size as arguments.
#![allow(clippy::unwrap_used, reason = "a bench stops where it is wrong")]

use std::fs;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use creto_agent::raw::{RawConnection, RawStream, signed_batch_frame};
use creto_agent::{AgentKeys, AgentName, NodeCertificate, TrustDomain};
use creto_crypto_accel::keys::RecipientPublic;
use creto_crypto_accel::seal::RecipientKey;
use creto_crypto_accel::session::{Peers, SendChain};
use creto_envelope::control::StreamRole;
use creto_envelope::deliver::{ConsumerAck, Credit, Deliver, Subscribe};
use creto_envelope::envelope::{InSession, nonce};
use creto_envelope::limits::WRAPPED_KEY_BYTES;
use creto_envelope::submit::SubmitAck;
use creto_envelope::{AgentId, EnvelopeHeader, FrameType, KeyId, MessageId};
use creto_net::tls::NodeIdentity;
use creto_node::Node;
use creto_node::config::Config;
use creto_service::client::Client;

const BATCH_MESSAGES: usize = 256;
const IN_FLIGHT_BATCHES: u64 = 48;
const WITHIN: Duration = Duration::from_secs(10);

fn main() {
    let mut numbers = std::env::args().skip(1).filter_map(|argument| argument.parse::<usize>().ok());
    let messages = numbers.next().unwrap_or(100_000);
    let payload_bytes = numbers.next().unwrap_or(1_024);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(run(messages.next_multiple_of(BATCH_MESSAGES), payload_bytes));
}

async fn run(messages: usize, payload_bytes: usize) {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let (node, certificate) = start(dir.path());
    let planner = Arc::new(register(&node, "acme/planner").await);
    let executor = Arc::new(register(&node, "acme/executor").await);
    // The shard has the first CPU, whoever loads it the last.
    if let Some(last) = core_affinity::get_core_ids().unwrap_or_default().last() {
        core_affinity::set_for_current(*last);
    }

    let mut sessions = Sessions::between(&planner, &executor);
    let payload = vec![0x5a; payload_bytes];
    let mut batches = Vec::new();
    for sequence in (1u64..).take(messages / BATCH_MESSAGES) {
        let envelopes: Vec<_> = (0..BATCH_MESSAGES).map(|_| sessions.envelope(&payload)).collect();
        batches.push(signed_batch_frame(&planner, sequence, &envelopes).unwrap());
    }

    let idle = measure("idle, one second", 0, async { tokio::time::sleep(Duration::from_secs(1)).await }).await;
    println!("idle node: {:.2} % of its CPU", idle / 10_000.0);

    let connection = RawConnection::connect(node.address(), &certificate, WITHIN).await.unwrap();
    let _control = connection.log_in(&planner).await.unwrap();
    let mut submit = connection.open(StreamRole::Submit).await.unwrap();
    measure("in, verified, authorized, durable, acknowledged", messages, async {
        let (mut sent, mut answered) = (0u64, 0u64);
        for batch in batches {
            while sent - answered >= IN_FLIGHT_BATCHES {
                answered = acknowledged(&mut submit).await;
            }
            submit.send(batch).await.unwrap();
            sent += 1;
        }
        while answered < sent {
            answered = acknowledged(&mut submit).await;
        }
    })
    .await;

    let reader = RawConnection::connect(node.address(), &certificate, WITHIN).await.unwrap();
    let _control = reader.log_in(&executor).await.unwrap();
    let mut deliver = reader.open(StreamRole::Deliver).await.unwrap();
    measure("delivered, settled", messages, async {
        let mut frame = Vec::new();
        Subscribe { mailbox: executor.id() }.encode(&mut frame);
        Credit { messages: 4_096, bytes: 4 << 20 }.encode(&mut frame);
        deliver.send(frame).await.unwrap();
        let mut received = 0;
        while received < messages {
            let frame = deliver.next().await.unwrap().unwrap();
            if frame.frame_type != FrameType::Deliver as u8 {
                continue;
            }
            let parsed = Deliver::parse(&frame.body).unwrap();
            received += parsed.messages.len();
            let bytes: usize = parsed.messages.iter().map(|message| message.envelope.len()).sum();
            let mut answer = Vec::new();
            let sequences = parsed.messages.iter().map(|message| message.mailbox_sequence).collect();
            ConsumerAck { sequences }.encode(&mut answer);
            let messages = u32::try_from(parsed.messages.len()).unwrap();
            Credit { messages, bytes: u32::try_from(bytes).unwrap() }.encode(&mut answer);
            deliver.send(answer).await.unwrap();
        }
    })
    .await;
    drop((connection, reader));
    node.stop().unwrap();
}

/// Sessions as the SDK renews them: every thousand messages, of which the first carries the wrapped key.
struct Sessions {
    peers: Peers,
    key: RecipientKey,
    current: Option<(SendChain, Box<[u8; WRAPPED_KEY_BYTES]>)>,
    messages: u128,
}

impl Sessions {
    const MESSAGES: u64 = 1_000;

    fn between(sender: &AgentKeys, recipient: &AgentKeys) -> Self {
        let record = recipient.signed_record(1, 0, u64::MAX).record;
        let public = RecipientPublic { ml_kem_768: *record.ml_kem_768, x25519: record.x25519 };
        let peers = Peers { sender: sender.id().0, recipient: recipient.id().0, key_id: recipient.key_id().0 };
        Self { peers, key: RecipientKey::parse(&public).unwrap(), current: None, messages: 0 }
    }

    fn envelope(&mut self, payload: &[u8]) -> Vec<u8> {
        if self.current.as_ref().is_none_or(|(chain, _)| chain.counter() == Self::MESSAGES) {
            let (chain, wrapped_key) = SendChain::open(&self.key, &self.peers);
            self.current = Some((chain, Box::new(wrapped_key)));
        }
        let (chain, wrapped_key) = self.current.as_mut().unwrap();
        let (counter, key) = chain.next().unwrap();
        let position = InSession { session_id: chain.session_id(), counter, with_wrapped_key: counter == 0 };
        self.messages += 1;
        let id = MessageId::from_parts(now_ms(), self.messages.to_be_bytes()[6..].try_into().unwrap());
        let Peers { sender, recipient, key_id } = self.peers;
        let header = EnvelopeHeader::session(
            AgentId(sender),
            AgentId(recipient),
            KeyId(key_id),
            id,
            now_ms(),
            payload.len(),
            &position,
        );
        let header = header.unwrap().to_bytes();
        let mut envelope = header.to_vec();
        if counter == 0 {
            envelope.extend_from_slice(&wrapped_key[..]);
        }
        key.seal_append(&nonce(counter), &header, payload, &mut envelope);
        envelope
    }
}

async fn acknowledged(submit: &mut RawStream) -> u64 {
    let ack = SubmitAck::parse(&submit.next().await.unwrap().unwrap().body).unwrap();
    assert!(ack.results.is_empty(), "the node refused something: {:?}", ack.results);
    ack.through_sequence
}

/// Runs something and prints what it cost the shard; returns the CPU time in microseconds.
async fn measure(name: &str, messages: usize, work: impl Future<Output = ()>) -> f64 {
    let (cpu, begun) = (shard_cpu(), Instant::now());
    work.await;
    let (cpu_us, wall) = ((shard_cpu() - cpu).as_secs_f64() * 1e6, begun.elapsed());
    if messages > 0 {
        let count = messages as f64;
        println!("{name}: {:.2} us CPU per message, {:.0} messages/s", cpu_us / count, count / wall.as_secs_f64());
    }
    cpu_us
}

/// CPU time of the shards' threads: user and system, in nanoseconds of `schedstat`.
fn shard_cpu() -> Duration {
    let tasks = fs::read_dir("/proc/self/task").unwrap().map(|task| task.unwrap().path());
    let shards =
        tasks.filter(|task| fs::read_to_string(task.join("comm")).is_ok_and(|name| name.starts_with("creto-shard")));
    let spent = shards.map(|task| {
        let text = fs::read_to_string(task.join("schedstat")).unwrap();
        text.split_whitespace().next().unwrap().parse::<u64>().unwrap()
    });
    Duration::from_nanos(spent.sum())
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
    let config = format!(
        "node.listen = \"127.0.0.1:0\"\ntopology.cpus = [{first}]\ntopology.shards = 1\n\
         mailbox.messages_max = 10000000\nmailbox.bytes_max = \"4 GiB\"\nmailbox.shard_bytes_max = \"4 GiB\"\n"
    );
    fs::write(dir.join("creto.toml"), config).unwrap();
    let config = Config::load(&dir.join("creto.toml"), []).unwrap();
    (Node::start(&config).unwrap(), NodeCertificate::from_file(dir.join("data/node.crt")).unwrap())
}

async fn register(node: &Node, name: &str) -> AgentKeys {
    let keys = AgentKeys::generate(AgentName::parse(name).unwrap(), TrustDomain::default()).unwrap();
    Client::new(node.control_socket()).register(&keys.signed_record(1, 0, u64::MAX)).await.unwrap();
    keys
}

fn now_ms() -> u64 {
    u64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis()).unwrap()
}
