//! What connections cost a node that does nothing else: memory of ten thousand that are idle, and a storm of a thousand agents that
//! come back after the node was killed.
//!
//! `cargo bench -p creto-benches --bench connections [-- --idle 10000] [--storm 1000]`. The node is a process of its own, and its
//! memory is what the kernel says it has resident; agents are in this one. Handshakes, logins and, in the storm, the SDK's own way of
//! coming back are all real; both processes share this machine's CPUs, and the storm's time counts both.
#![allow(clippy::unwrap_used, reason = "a bench stops where it is wrong")]

use std::fs;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use creto_agent::raw::{RawConnection, RawStream};
use creto_agent::{Agent, AgentId, AgentKeys, ConnectOptions, NodeCertificate, PrekeyPolicy};
use creto_benches::node::prepare;
use creto_benches::served::{IDLE, SERVE, Served, TOGETHER, WITHIN, progress, serve};
use creto_envelope::control::StreamRole;
use creto_envelope::deliver::{Credit, Subscribe};
use tokio::task::JoinSet;

const USAGE: &str = "cargo bench -p creto-benches --bench connections [-- --idle N] [--storm N]";
const IDLE_DEFAULT: usize = 10_000;
const STORM_DEFAULT: usize = 1_000;
/// Sockets of all idle connections: of one each, nothing would be measured but the kernel.
const SOCKETS: usize = 64;
const MIB: f64 = 1_048_576.0;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words[..] {
        [SERVE, path] => serve(Path::new(path)),
        // Among all benches, as a test runner starts them: that it works is shown with few.
        ["--test"] => measure(64, 8),
        _ => match parse(&words) {
            Some((idle, storm)) => measure(idle, storm),
            None => {
                eprintln!("{USAGE}");
                return ExitCode::from(2);
            }
        },
    }
    ExitCode::SUCCESS
}

fn parse(words: &[&str]) -> Option<(usize, usize)> {
    let (mut idle, mut storm) = (IDLE_DEFAULT, STORM_DEFAULT);
    for pair in words.chunks(2) {
        match *pair {
            ["--idle", count] => idle = count.parse().ok().filter(|count| *count > 0)?,
            ["--storm", count] => storm = count.parse().ok().filter(|count| *count > 0)?,
            _ => return None,
        }
    }
    Some((idle, storm))
}

/// A connection that is logged in.
struct Idle {
    agent: AgentId,
    connection: Arc<RawConnection>,
    _control: RawStream,
}

fn measure(idle: usize, storm: usize) {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    // The port stays, so that the storm finds the node again.
    let port = std::net::UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let lines = format!(
        "topology.shards = 2\nnet.connections_max = {}\nnet.idle_timeout_s = {}\n",
        idle.max(storm) + SOCKETS,
        IDLE.as_secs()
    );
    let path = prepare(folder.path(), &lines);
    let text = fs::read_to_string(&path).unwrap().replace("127.0.0.1:0", &format!("127.0.0.1:{port}"));
    fs::write(&path, text).unwrap();
    let certificate = NodeCertificate::from_file(folder.path().join("data").join("node.crt")).unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();

    let node = Served::start(&path);
    let count = idle.max(storm);
    let keys = runtime.block_on(node.register(count));
    runtime.block_on(idle_connections(&node, &certificate, &keys[..idle]));
    node.stop();

    let node = Served::start(&path);
    let agents = runtime.block_on(connect(&node, &certificate, &keys[..storm]));
    node.kill();
    let begun = Instant::now();
    let node = Served::start(&path);
    let started = begun.elapsed();
    let came = runtime.block_on(come_back(agents, begun));
    let percent = |share: usize| came[(came.len() * share / 100).min(came.len() - 1)].as_secs_f64();
    println!(
        "{storm} agents after a SIGKILL: node ready after {:.2} s; half of the agents had a message durable after {:.2} s, 99 % after \
         {:.2} s, all after {:.2} s",
        started.as_secs_f64(),
        percent(50),
        percent(99),
        percent(100)
    );
    println!("node {:.0} MiB resident after the storm", node.resident() / MIB);
    node.stop();
}

/// Memory of connections that are logged in and do nothing, and of the same with their mailboxes subscribed to.
async fn idle_connections(node: &Served, certificate: &NodeCertificate, keys: &[Arc<AgentKeys>]) {
    let before = node.resident();
    let sockets = node.sockets(certificate, SOCKETS.min(keys.len())).await;
    let (begun, count) = (Instant::now(), keys.len());
    let mut connected: Vec<Idle> = Vec::with_capacity(keys.len());
    let mut connecting = JoinSet::new();
    for (number, keys) in keys.iter().enumerate() {
        let (own, keys) = (sockets.get(number).cloned(), Arc::clone(keys));
        let socket = Arc::clone(&sockets[number % sockets.len()]);
        connecting.spawn(async move {
            let connection = match own {
                Some(own) => own,
                None => Arc::new(socket.another(WITHIN).await.unwrap()),
            };
            let (control, _) = connection.log_in(&keys).await.unwrap();
            Idle { agent: keys.id(), connection, _control: control }
        });
        if connecting.len() == TOGETHER {
            connected.push(connecting.join_next().await.unwrap().unwrap());
        }
        progress("connected", number + 1, count);
    }
    connected.extend(connecting.join_all().await);
    let took = begun.elapsed();
    let logged_in = node.resident();
    let each = |resident: f64| (resident - before) / count as f64 / 1_024.0;
    println!(
        "{count} connections, logged in and idle: node {:.0} MiB resident, {:.0} before; {:.1} KiB each; connected at {:.0} a second",
        logged_in / MIB,
        before / MIB,
        each(logged_in),
        count as f64 / took.as_secs_f64()
    );
    let mut subscribed = Vec::with_capacity(keys.len());
    for idle in &connected {
        let mut deliver = idle.connection.open(StreamRole::Deliver).await.unwrap();
        let mut frames = Vec::new();
        Subscribe { mailbox: idle.agent }.encode(&mut frames);
        Credit { messages: 256, bytes: 1 << 20 }.encode(&mut frames);
        deliver.send(frames).await.unwrap();
        subscribed.push(deliver);
    }
    for deliver in &mut subscribed {
        deliver.next().await.unwrap().expect("the subscription stands");
    }
    let reading = node.resident();
    println!(
        "the same, each reading its mailbox: node {:.0} MiB resident; {:.1} KiB each",
        reading / MIB,
        each(reading)
    );
}

/// Agents of the SDK, each with a socket of its own.
async fn connect(node: &Served, certificate: &NodeCertificate, keys: &[Arc<AgentKeys>]) -> Vec<Agent> {
    let mut connecting = JoinSet::new();
    let mut agents = Vec::with_capacity(keys.len());
    for (number, one) in keys.iter().enumerate() {
        let mut options = ConnectOptions::new(node.address, certificate.clone(), Arc::clone(one));
        options.prekeys = PrekeyPolicy::Off;
        connecting.spawn(async move { Agent::connect(options).await.unwrap() });
        if connecting.len() == TOGETHER {
            agents.push(connecting.join_next().await.unwrap().unwrap());
        }
        progress("agents", number + 1, keys.len());
    }
    agents.extend(connecting.join_all().await);
    agents
}

/// How long after `begun` each agent had a message to itself durable, in ascending order.
async fn come_back(agents: Vec<Agent>, begun: Instant) -> Vec<Duration> {
    let mut coming = JoinSet::new();
    for agent in agents {
        coming.spawn(async move {
            agent.send(agent.name(), "here again").await.unwrap();
            let came = begun.elapsed();
            (agent, came)
        });
    }
    let mut came: Vec<Duration> = Vec::new();
    let mut agents = Vec::new();
    while let Some(back) = coming.join_next().await {
        let (agent, after) = back.unwrap();
        came.push(after);
        agents.push(agent);
    }
    came.sort_unstable();
    came
}
