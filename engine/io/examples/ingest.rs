//! What one shard pays to take in messages: QUIC, frames, nothing else.
//!
//! ```text
//! cargo run --release -p creto-io --example ingest [SECONDS [FRAME_KIB [glommio|io-uring]]]
//! ```
//!
//! One shard on CPU 0, a client of quinn on CPU 1, loopback; the client sends frames of 256 KiB (a batch of 256 messages of
//! 1 KiB) as fast as flow control lets it, and the shard answers each frame with 16 bytes, as an acknowledgement would.
//! CPU time is that of the shard's thread alone, by the scheduler's own count.
#![allow(clippy::unwrap_used, reason = "an example stops at the first thing that is wrong")]
#![allow(clippy::cast_precision_loss, reason = "figures for people")]

#[path = "../tests/support/mod.rs"]
mod support;

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use creto_envelope::{FrameHeader, FrameType};
use creto_io::executor::DriverKind;
use creto_io::{IoAction, IoEvent, Machine, Now};
use creto_net::NetEvent;
use support::{Block, Node, client_endpoint, tokio_runtime};

const MESSAGE_BYTES: u64 = 1_024;

/// Counts bytes and answers frames.
#[derive(Default)]
struct Sink {
    actions: VecDeque<IoAction<(), Block>>,
}

impl Machine for Sink {
    type Item = ();
    type Write = Block;

    fn on_event(&mut self, _now: Now, event: IoEvent<()>) {
        match event {
            IoEvent::Net(NetEvent::Connected { conn, .. }) => {
                self.actions.push_back(IoAction::Authenticated { conn });
            }
            IoEvent::Net(NetEvent::Frame { conn, stream, body, .. }) => {
                let mut answer = FrameHeader::new(FrameType::SubmitAck, 16).unwrap().to_bytes().to_vec();
                answer.extend_from_slice(&(body.len() as u64).to_le_bytes());
                answer.extend_from_slice(&[0; 8]);
                self.actions.push_back(IoAction::Send { conn, stream, pieces: answer.into() });
            }
            IoEvent::Item { .. } => self.actions.push_back(IoAction::Halt),
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

fn main() {
    let mut arguments = std::env::args().skip(1);
    let seconds = arguments.next().map_or(5.0, |text| text.parse().unwrap());
    let frame_bytes = arguments.next().map_or(256, |text| text.parse::<usize>().unwrap()) << 10;

    let named = |name: String| DriverKind::ALL.into_iter().find(|driver| driver.name() == name).unwrap();
    let driver = arguments.next().map_or(DriverKind::default(), named);

    let folder = tempfile::tempdir().unwrap();
    let node = Node::start(driver, folder.path(), 1, |_| Sink::default());
    let (address, config, stats) = (node.address, node.client_config(), node.shards[0].stats.clone());
    pin_to_cpu(1);
    let (began, ran_before) = (Instant::now(), shard_ran());
    let bytes = tokio_runtime().block_on(async move {
        let connection = client_endpoint(config).connect(address, "localhost").unwrap().await.unwrap();
        let (mut send, mut recv) = connection.open_bi().await.unwrap();
        let body = vec![7; frame_bytes];
        let header = FrameHeader::new(FrameType::SignedBatch, body.len()).unwrap().to_bytes();
        let frame = bytes::Bytes::from([&header[..], &body].concat());
        let answers = tokio::spawn(async move {
            let mut answer = [0; 24];
            let mut acknowledged = 0;
            while recv.read_exact(&mut answer).await.is_ok() {
                acknowledged += u64::from_le_bytes(answer[8..16].try_into().unwrap());
            }
            acknowledged
        });
        while began.elapsed().as_secs_f64() < seconds {
            send.write_chunk(frame.clone()).await.unwrap();
        }
        send.finish().unwrap();
        let _ = tokio::time::timeout(Duration::from_secs(2), send.stopped()).await;
        connection.close(0u32.into(), b"");
        answers.await.unwrap()
    });
    let (elapsed, ran) = (began.elapsed(), shard_ran() - ran_before);
    let counted = stats.read();
    node.stop(|| ());

    let messages = bytes / MESSAGE_BYTES;
    let per_message_us = ran.as_secs_f64() * 1e6 / messages as f64;
    println!(
        "{messages} messages of 1 KiB in frames of {} KiB: {:.0}/s, {per_message_us:.2} us of shard CPU each, shard {:.0} % busy",
        frame_bytes >> 10,
        messages as f64 / elapsed.as_secs_f64(),
        ran.as_secs_f64() / elapsed.as_secs_f64() * 100.0,
    );
    println!(
        "turns {} parks {} | {:.1} KiB per receive call | {} sends",
        counted.turns,
        counted.parks,
        counted.bytes_received as f64 / counted.receives as f64 / 1_024.0,
        counted.sends,
    );
}

fn pin_to_cpu(cpu: usize) {
    let mut set = rustix::thread::CpuSet::new();
    set.set(cpu);
    rustix::thread::sched_setaffinity(None, &set).unwrap();
}

fn shard_ran() -> Duration {
    for task in std::fs::read_dir("/proc/self/task").unwrap().flatten() {
        if std::fs::read_to_string(task.path().join("comm")).unwrap_or_default().starts_with("creto-shard") {
            let times = std::fs::read_to_string(task.path().join("schedstat")).unwrap();
            return Duration::from_nanos(times.split_ascii_whitespace().next().unwrap().parse().unwrap());
        }
    }
    Duration::ZERO
}
