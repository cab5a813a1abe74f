//! What patterns cost a node: one publish to a thousand subscribers, a channel of 1,500 members, a group that shares a channel, requests
//! and their answers, and ten thousand messages for somebody who was away.
//!
//! `cargo bench -p creto-benches --bench patterns [-- --subscribers 1000] [--members 1500]`. The node is a process of its own, and its CPU
//! time is what the scheduler says of all its threads: QUIC, signatures and the disk are in it. Subscribers are in this process,
//! which takes the rest of this machine, and read frames without opening or checking them: rates are those of both together.
#![allow(clippy::unwrap_used, reason = "a bench stops where it is wrong")]

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use creto_agent::channel::{ChannelName, ChannelRecord, Publishing, Subscribing};
use creto_agent::raw::RawStream;
use creto_agent::{
    Agent, AgentKeys, ConnectOptions, IncomingRequest, NodeCertificate, PrekeyPolicy, PublishOptions, Publisher,
    SendOptions, ServeOptions,
};
use creto_benches::node::{now_ms, prepare};
use creto_benches::served::{IDLE, SERVE, Served, TOGETHER, WITHIN, progress, serve};
use creto_envelope::channel::frames::{
    ChannelAck, ChannelCredit, ChannelDeliver, ChannelSubscribe, ChannelSubscribed, Start,
};
use creto_envelope::control::StreamRole;
use creto_envelope::limits::{CREDIT_BYTES_MAX, CREDIT_MESSAGES_MAX};
use creto_envelope::{ChannelId, FrameType, GroupId};
use tokio::sync::Notify;
use tokio::task::JoinSet;

const USAGE: &str = "cargo bench -p creto-benches --bench patterns [-- --subscribers N] [--members N]";
const SUBSCRIBERS_DEFAULT: usize = 1_000;
const MEMBERS_DEFAULT: usize = 1_500;
const SOCKETS: usize = 64;
const PAYLOAD_BYTES: usize = 1_024;
/// Deliveries that each fan-out is measured with.
const DELIVERIES: usize = 200_000;
const REQUESTS: usize = 2_000;
const AWAY: usize = 10_000;
const HANDLE: u32 = 1;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words[..] {
        [SERVE, path] => serve(Path::new(path)),
        // Among all benches, as a test runner starts them: that it works is shown with few.
        ["--test"] => measure(&Sizes { subscribers: 8, members: 8, deliveries: 64, requests: 16, away: 100 }),
        _ => match parse(&words) {
            Some(sizes) => measure(&sizes),
            None => {
                eprintln!("{USAGE}");
                return ExitCode::from(2);
            }
        },
    }
    ExitCode::SUCCESS
}

struct Sizes {
    subscribers: usize,
    members: usize,
    deliveries: usize,
    requests: usize,
    away: usize,
}

fn parse(words: &[&str]) -> Option<Sizes> {
    let mut sizes = Sizes {
        subscribers: SUBSCRIBERS_DEFAULT,
        members: MEMBERS_DEFAULT,
        deliveries: DELIVERIES,
        requests: REQUESTS,
        away: AWAY,
    };
    for pair in words.chunks(2) {
        match *pair {
            ["--subscribers", count] => sizes.subscribers = count.parse().ok().filter(|count| *count > 0)?,
            ["--members", count] => sizes.members = count.parse().ok().filter(|count| *count > 0)?,
            _ => return None,
        }
    }
    Some(sizes)
}

fn measure(sizes: &Sizes) {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let connections = sizes.subscribers.max(sizes.members) + SOCKETS;
    let lines = format!(
        "topology.shards = 1\nnet.connections_max = {connections}\nnet.idle_timeout_s = {}\nmailbox.messages_max = 100000\n",
        IDLE.as_secs()
    );
    let node = Served::start(&prepare(folder.path(), &lines));
    let certificate = NodeCertificate::from_file(folder.path().join("data").join("node.crt")).unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let sync = fdatasync(folder.path());
        println!("fdatasync of 4 KiB: p50 {:.0} us", micros(sync));
        let keys = node.register(sizes.subscribers.max(sizes.members) + 2).await;
        let (owner, rest) = keys.split_first().unwrap();
        let publishing = Agent::connect(options(&node, &certificate, owner)).await.unwrap();
        let scene = Scene { node: &node, certificate: &certificate, owner, publishing: &publishing };
        for batch in [1, 16, 256] {
            scene.fan_out(&format!("fan-out-{batch}"), &rest[..sizes.subscribers], None, batch, sizes.deliveries).await;
        }
        scene.fan_out("members", &rest[..sizes.members], None, 64, sizes.deliveries).await;
        // Each message to one of them: as many deliveries as messages.
        let shared = (sizes.deliveries / 20).max(64);
        scene.fan_out("shared", &rest[..sizes.members], Some("workers"), 64, shared).await;
        round_trips(&node, &certificate, &rest[..2], sizes.requests, sync).await;
        offline(&node, &certificate, &rest[..2], sizes.away).await;
        publishing.close().await;
    });
    node.stop();
}

fn options(node: &Served, certificate: &NodeCertificate, keys: &Arc<AgentKeys>) -> ConnectOptions {
    let mut options = ConnectOptions::new(node.address, certificate.clone(), Arc::clone(keys));
    options.prekeys = PrekeyPolicy::Off;
    options
}

fn micros(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e6
}

fn percentile(sorted: &[Duration], percent: usize) -> Duration {
    sorted[(sorted.len() * percent / 100).min(sorted.len() - 1)]
}

/// What making a write durable takes here: the half of 200.
fn fdatasync(folder: &Path) -> Duration {
    let mut file = fs::File::create(folder.join("sync")).unwrap();
    let mut took: Vec<Duration> = (0..200)
        .map(|_| {
            file.write_all(&[7; 4_096]).unwrap();
            let begun = Instant::now();
            file.sync_data().unwrap();
            begun.elapsed()
        })
        .collect();
    took.sort_unstable();
    percentile(&took, 50)
}

/// What subscribers have had.
#[derive(Default)]
struct Counted {
    delivered: AtomicU64,
    changed: Notify,
}

impl Counted {
    async fn reach(&self, wanted: u64) {
        loop {
            let changed = self.changed.notified();
            if self.delivered.load(Ordering::Acquire) >= wanted {
                return;
            }
            changed.await;
        }
    }
}

struct Scene<'s> {
    node: &'s Served,
    certificate: &'s NodeCertificate,
    owner: &'s Arc<AgentKeys>,
    publishing: &'s Agent,
}

impl Scene<'_> {
    /// Publishes so many messages that there are `deliveries`, `batch` at a time, each time until all of them are where they belong.
    async fn fan_out(
        &self,
        name: &str,
        readers: &[Arc<AgentKeys>],
        group: Option<&str>,
        batch: usize,
        deliveries: usize,
    ) {
        let name = ChannelName::parse(&format!("acme/{name}")).unwrap();
        let record = self.record(&name);
        let id = record.channel_id();
        let signed = self.owner.signed_channel(record).unwrap();
        self.node.control.put_channel(&signed).await.unwrap();
        let counted = Arc::new(Counted::default());
        let subscribed = self.subscribe(readers, id, group, &counted).await;
        let publisher = self.publishing.publisher(&name).await.unwrap();
        let each = if group.is_some() { 1 } else { readers.len() };
        let rounds = deliveries.div_ceil(each * batch);
        // The first one gives everybody their key, which happens once.
        let mut wanted = 0;
        self.round(&publisher, &counted, batch, each, &mut wanted).await;
        let (cpu, begun) = (self.node.cpu_ns(), Instant::now());
        for _ in 0..rounds {
            self.round(&publisher, &counted, batch, each, &mut wanted).await;
        }
        let (took, cpu) = (begun.elapsed(), self.node.cpu_ns() - cpu);
        let (messages, delivered) = (rounds * batch, rounds * batch * each);
        println!(
            "{name}: {} {}, {batch} messages of {PAYLOAD_BYTES} bytes at a time: node CPU {:.2} us a delivery, acknowledged; {:.0} us a \
             message; {:.0} messages and {:.0} deliveries a second",
            readers.len(),
            if group.is_some() { "members of a group" } else { "subscribers" },
            cpu as f64 / 1e3 / delivered as f64,
            cpu as f64 / 1e3 / messages as f64,
            messages as f64 / took.as_secs_f64(),
            delivered as f64 / took.as_secs_f64(),
        );
        drop(subscribed);
        drop(publisher);
    }

    async fn round(&self, publisher: &Publisher, counted: &Counted, batch: usize, each: usize, wanted: &mut u64) {
        let mut answers = Vec::with_capacity(batch);
        for _ in 0..batch {
            let payload = Bytes::from_static(&[7; PAYLOAD_BYTES]);
            answers.push(publisher.submit(payload, PublishOptions::default()).await.unwrap());
        }
        for answer in answers {
            answer.await.unwrap();
        }
        *wanted += (batch * each) as u64;
        counted.reach(*wanted).await;
    }

    fn record(&self, name: &ChannelName) -> ChannelRecord {
        ChannelRecord {
            version: 1,
            name: name.clone(),
            trust_domain: self.owner.trust_domain().clone(),
            owner: self.owner.id(),
            owner_key_version: 1,
            signed_at_ms: now_ms(),
            subscribing: Subscribing::Open,
            publishing: Publishing::Open,
            has_history: false,
            is_deleted: false,
            retention_s: 3_600,
            messages_max: 1_000_000,
            bytes_max: 1 << 34,
            subscribers_max: 10_000,
        }
    }

    /// A connection for each reader, all subscribed when this returns. They read until the set is dropped.
    async fn subscribe(
        &self,
        readers: &[Arc<AgentKeys>],
        channel: ChannelId,
        group: Option<&str>,
        counted: &Arc<Counted>,
    ) -> JoinSet<()> {
        let sockets = self.node.sockets(self.certificate, SOCKETS.min(readers.len())).await;
        let group = group.map_or(GroupId::NONE, |group| GroupId::derive(&channel, group));
        let (mut connecting, mut connected) = (JoinSet::new(), Vec::with_capacity(readers.len()));
        for (number, keys) in readers.iter().enumerate() {
            let (own, keys) = (sockets.get(number).cloned(), Arc::clone(keys));
            let socket = Arc::clone(&sockets[number % sockets.len()]);
            connecting.spawn(async move {
                let connection = match own {
                    Some(own) => own,
                    None => Arc::new(socket.another(WITHIN).await.unwrap()),
                };
                let (control, _) = connection.log_in(&keys).await.unwrap();
                let mut stream = connection.open(StreamRole::Channels).await.unwrap();
                let mut frames = Vec::new();
                ChannelSubscribe { handle: HANDLE, channel, group, start: Start::GoOn }.encode(&mut frames);
                stream.send(frames).await.unwrap();
                let answer = stream.next().await.unwrap().expect("the subscription stands");
                assert_eq!(answer.frame_type, FrameType::ChannelSubscribed as u8, "{answer:?}");
                ChannelSubscribed::parse(&answer.body).unwrap();
                let (messages, bytes) = (CREDIT_MESSAGES_MAX, CREDIT_BYTES_MAX);
                let mut frames = Vec::new();
                ChannelCredit { handle: HANDLE, messages, bytes }.encode(&mut frames);
                stream.send(frames).await.unwrap();
                (connection, control, stream)
            });
            if connecting.len() == TOGETHER {
                connected.push(connecting.join_next().await.unwrap().unwrap());
            }
            progress("subscribed", number + 1, readers.len());
        }
        connected.extend(connecting.join_all().await);
        let mut reading = JoinSet::new();
        for (connection, control, stream) in connected {
            let (counted, is_group) = (Arc::clone(counted), group != GroupId::NONE);
            reading.spawn(async move {
                read(stream, is_group, &counted).await;
                drop((connection, control));
            });
        }
        reading
    }
}

/// Acknowledges what comes and gives the credit back, as an application does whose work takes no time.
async fn read(mut stream: RawStream, is_group: bool, counted: &Counted) {
    while let Ok(Some(frame)) = stream.next().await {
        assert_eq!(frame.frame_type, FrameType::ChannelDeliver as u8, "{frame:?}");
        let deliver = ChannelDeliver::parse(&frame.body).unwrap().deliver;
        let mut sequences: Vec<u64> = deliver.messages.iter().map(|message| message.mailbox_sequence).collect();
        let bytes: usize = deliver.messages.iter().map(|message| message.envelope.len()).sum();
        let (messages, bytes) = (u32::try_from(sequences.len()).unwrap(), u32::try_from(bytes).unwrap());
        if !is_group {
            // That one, and all before it.
            sequences.drain(..sequences.len() - 1);
        }
        let mut frames = Vec::new();
        ChannelAck { handle: HANDLE, sequences }.encode(&mut frames);
        ChannelCredit { handle: HANDLE, messages, bytes }.encode(&mut frames);
        if stream.send(frames).await.is_err() {
            return;
        }
        counted.delivered.fetch_add(u64::from(messages), Ordering::AcqRel);
        counted.changed.notify_one();
    }
}

/// One request after the other, each durable and each answer too.
async fn round_trips(
    node: &Served,
    certificate: &NodeCertificate,
    keys: &[Arc<AgentKeys>],
    count: usize,
    sync: Duration,
) {
    let asking = Agent::connect(options(node, certificate, &keys[0])).await.unwrap();
    let answering = Agent::connect(options(node, certificate, &keys[1])).await.unwrap();
    let server = answering
        .serve(ServeOptions::default(), async |request: IncomingRequest| {
            Ok::<_, creto_agent::Failure>(request.payload.clone())
        })
        .unwrap();
    let mut took = Vec::with_capacity(count);
    for number in 0..count + 100 {
        let begun = Instant::now();
        asking.request(answering.name(), Bytes::from_static(b"what is it?"), WITHIN).await.unwrap();
        // The first ones open sessions.
        if number >= 100 {
            took.push(begun.elapsed());
        }
    }
    took.sort_unstable();
    println!(
        "request and answer, one at a time, both durable: p50 {:.0} us, p99 {:.0} us; {:.1} times an fdatasync",
        micros(percentile(&took, 50)),
        micros(percentile(&took, 99)),
        micros(percentile(&took, 50)) / micros(sync)
    );
    server.stop().await.unwrap();
    asking.close().await;
    answering.close().await;
}

/// Messages that waited for somebody, from the call that connects to the last one opened, verified and acknowledged.
async fn offline(node: &Served, certificate: &NodeCertificate, keys: &[Arc<AgentKeys>], count: usize) {
    let sending = Agent::connect(options(node, certificate, &keys[0])).await.unwrap();
    let mut answers = std::collections::VecDeque::new();
    for number in 0..count {
        let payload = Bytes::from_static(&[7; PAYLOAD_BYTES]);
        let pending = sending.submit(keys[1].name(), payload, SendOptions::default()).await.unwrap();
        answers.push_back(pending);
        if answers.len() == 512 {
            answers.pop_front().unwrap().await.unwrap();
        }
        progress("waiting", number + 1, count);
    }
    for answer in answers {
        answer.await.unwrap();
    }
    sending.close().await;
    let begun = Instant::now();
    let reading = Agent::connect(options(node, certificate, &keys[1])).await.unwrap();
    let mut mailbox = reading.subscribe().unwrap();
    for _ in 0..count {
        mailbox.next().await.unwrap().unwrap().ack();
    }
    let took = begun.elapsed();
    println!(
        "{count} messages of {PAYLOAD_BYTES} bytes for somebody who was away: read in {:.3} s",
        took.as_secs_f64()
    );
    reading.close().await;
}
