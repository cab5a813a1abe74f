//! What a message costs a whole node: real QUIC on loopback, real files, one shard on a CPU of its own.
//!
//! The sender's work (sealing, signing) is done before the clock starts, so the figure is the node's. CPU time is that
//! of the shard's thread alone, as the kernel accounts it. `cargo bench -p creto-benches --bench node`; messages and
//! payload size as arguments.
#![allow(clippy::unwrap_used, reason = "a bench stops where it is wrong")]

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use creto_agent::raw::{RawConnection, RawStream};
use creto_benches::node::BenchNode;
use creto_benches::sessions::Sessions;
use creto_envelope::FrameType;
use creto_envelope::control::StreamRole;
use creto_envelope::deliver::{ConsumerAck, Credit, Deliver, Subscribe};
use creto_envelope::submit::SubmitAck;

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
    let lines = "mailbox.messages_max = 10000000\nmailbox.bytes_max = \"4 GiB\"\nmailbox.shard_bytes_max = \"4 GiB\"\n";
    let node = BenchNode::start(Path::new(env!("CARGO_TARGET_TMPDIR")), 1, lines);
    node.leave_the_shards_alone();
    let planner = Arc::new(node.new_agent("acme/planner").await);
    let executor = Arc::new(node.new_agent("acme/executor").await);

    let mut sessions = Sessions::between(&planner, &executor);
    let payload = vec![0x5a; payload_bytes];
    let batches: Vec<_> =
        (0..messages / BATCH_MESSAGES).map(|_| sessions.batch(&planner, BATCH_MESSAGES, &payload)).collect();

    let idle = measure("idle, one second", 0, async { tokio::time::sleep(Duration::from_secs(1)).await }).await;
    println!("idle node: {:.2} % of its CPU", idle / 10_000.0);

    let connection = RawConnection::connect(node.address(), node.certificate(), WITHIN).await.unwrap();
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

    let reader = RawConnection::connect(node.address(), node.certificate(), WITHIN).await.unwrap();
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
    node.stop();
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
