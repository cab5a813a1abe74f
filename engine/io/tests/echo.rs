//! Frames over QUIC between a client of quinn (on tokio) and a node of two shards.
#![allow(clippy::unwrap_used, reason = "a test's steps fail by panicking")]

mod support;

use std::collections::VecDeque;
use std::net::UdpSocket;
use std::time::Duration;

use creto_envelope::{FrameHeader, FrameType};
use creto_io::{IoAction, IoEvent, Machine, Now};
use creto_net::{NetEvent, Pieces};
use support::{Block, Node, client_endpoint, tokio_runtime};

/// Answers each frame with itself.
#[derive(Default)]
struct Echo {
    actions: VecDeque<IoAction<(), Block>>,
    connected: u64,
    frames: u64,
}

impl Machine for Echo {
    type Item = ();
    type Write = Block;

    fn on_event(&mut self, _now: Now, event: IoEvent<()>) {
        match event {
            IoEvent::Net(NetEvent::Connected { conn, .. }) => {
                self.connected += 1;
                self.actions.push_back(IoAction::Authenticated { conn });
            }
            IoEvent::Net(NetEvent::Frame { conn, stream, frame_type, body }) => {
                self.frames += 1;
                let header = FrameHeader::new(frame_type, body.len()).unwrap().to_bytes();
                let pieces = Pieces::Many(vec![header.to_vec().into(), body]);
                self.actions.push_back(IoAction::Send { conn, stream, pieces });
            }
            IoEvent::Net(NetEvent::StreamClosed { conn, stream, .. }) => {
                self.actions.push_back(IoAction::Finish { conn, stream });
            }
            IoEvent::Item { .. } => {
                self.actions.push_back(IoAction::CloseAll { code: 0, reason: "done" });
                self.actions.push_back(IoAction::Halt);
            }
            _ => {}
        }
    }

    fn on_turn(&mut self, _now: Now) {}

    fn poll_action(&mut self) -> Option<IoAction<(), Block>> {
        self.actions.pop_front()
    }

    fn next_deadline_us(&self) -> Option<u64> {
        None
    }
}

fn frame(body: &[u8]) -> Vec<u8> {
    [&FrameHeader::new(FrameType::SignedBatch, body.len()).unwrap().to_bytes()[..], body].concat()
}

async fn exchange(send: &mut quinn::SendStream, recv: &mut quinn::RecvStream, body: &[u8]) {
    let sent = frame(body);
    let (written, echoed) = tokio::join!(send.write_all(&sent), async {
        let mut echoed = vec![0; sent.len()];
        recv.read_exact(&mut echoed).await.map(|()| echoed)
    });
    written.unwrap();
    assert!(echoed.unwrap() == sent, "the echo of {} bytes differs", body.len());
}

#[test]
fn frames_come_back_whole_from_two_shards_and_across_the_wrong_shard() {
    let folder = tempfile::tempdir().unwrap();
    let node = Node::start(folder.path(), 2, |_| Echo::default());
    let (address, config) = (node.address, node.client_config());
    let stats: Vec<_> = node.shards.iter().map(|shard| shard.stats.clone()).collect();
    let forwarded = || stats.iter().map(|stats| stats.read().datagrams_forwarded).sum::<u64>();

    tokio_runtime().block_on(async {
        let endpoints: Vec<_> = (0..8).map(|_| client_endpoint(config.clone())).collect();
        for (n, endpoint) in (0u8..).zip(&endpoints) {
            let connection = endpoint.connect(address, "localhost").unwrap().await.unwrap();
            let (mut send, mut recv) = connection.open_bi().await.unwrap();
            for size in [0, 1, 1_000, 70_000, 1_500_000] {
                exchange(&mut send, &mut recv, &vec![n; size]).await;
            }
            send.finish().unwrap();
            assert_eq!(recv.read_to_end(10).await.unwrap(), b"", "a finished stream is answered with its end");
        }

        // A client that moves to another port lands on another shard, sooner or later; its connection does not move.
        let endpoint = &endpoints[0];
        let connection = endpoint.connect(address, "localhost").unwrap().await.unwrap();
        let (mut send, mut recv) = connection.open_bi().await.unwrap();
        exchange(&mut send, &mut recv, b"before").await;
        let before = forwarded();
        for round in 0..40u8 {
            endpoint.rebind(UdpSocket::bind("127.0.0.1:0").unwrap()).unwrap();
            exchange(&mut send, &mut recv, &vec![round; 50_000]).await;
            tokio::time::sleep(Duration::from_millis(5)).await;
            if round > 5 && forwarded() > before + 20 {
                break;
            }
        }
        assert!(forwarded() > before, "of 40 ports none landed on the other shard");
    });

    let machines = node.stop(|| ());
    assert_eq!(machines.iter().map(|echo| echo.connected).sum::<u64>(), 9);
    assert!(machines.iter().all(|echo| echo.connected > 0), "eight clients, two shards: both were used");
}

#[test]
fn an_idle_node_uses_less_than_a_hundredth_of_a_cpu() {
    let folder = tempfile::tempdir().unwrap();
    let node = Node::start(folder.path(), 2, |_| Echo::default());
    let config = node.client_config();
    let runtime = tokio_runtime();
    let endpoint = runtime.block_on(async {
        let endpoint = client_endpoint(config);
        let connection = endpoint.connect(node.address, "localhost").unwrap().await.unwrap();
        let (mut send, mut recv) = connection.open_bi().await.unwrap();
        exchange(&mut send, &mut recv, b"hello").await;
        (endpoint, connection)
    });
    std::thread::sleep(Duration::from_millis(300));
    let before = shards_ran();
    let measured = Duration::from_secs(3);
    std::thread::sleep(measured);
    let used = (shards_ran() - before).as_secs_f64() / measured.as_secs_f64();
    println!("two idle shards with a connection: {:.3} % of a CPU", used * 100.0);
    assert!(used < 0.01, "idle shards used {:.2} % of a CPU", used * 100.0);
    drop(endpoint);
    node.stop(|| ());
}

/// CPU time of all shard threads of this process.
fn shards_ran() -> Duration {
    let mut ran = Duration::ZERO;
    for task in std::fs::read_dir("/proc/self/task").unwrap().flatten() {
        let name = std::fs::read_to_string(task.path().join("comm")).unwrap_or_default();
        if name.starts_with("creto-shard") {
            let times = std::fs::read_to_string(task.path().join("schedstat")).unwrap_or_default();
            let nanos = times.split_ascii_whitespace().next().and_then(|number| number.parse().ok());
            ran += Duration::from_nanos(nanos.unwrap_or(0));
        }
    }
    ran
}
