//! Reading mailboxes of which nothing is in memory: over QUIC, with the window of the SDK, every message held against what
//! was written, and acknowledged.

use std::fs::{self, File};
use std::net::SocketAddr;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use creto_agent::limits::{WINDOW_BYTES, WINDOW_MESSAGES};
use creto_agent::raw::{RawConnection, RawStream};
use creto_agent::{AgentKeys, NodeCertificate};
use creto_envelope::FrameType;
use creto_envelope::control::StreamRole;
use creto_envelope::deliver::{ConsumerAck, Credit, Deliver, Subscribe, Subscribed};
use serde::Serialize;
use tokio::sync::Barrier;
use tokio::task::JoinSet;

use crate::backlog::{Backlog, ENVELOPE_BYTES, Spread, batch_and_index};
use crate::process::Process;

const WITHIN: Duration = Duration::from_secs(60);
/// After so many the SDK gives credit back.
const ACKNOWLEDGED_TOGETHER: usize = WINDOW_MESSAGES as usize / 4;

/// A node whose mailboxes are read.
#[derive(Clone)]
pub(crate) struct Target {
    pub(crate) backlog: Arc<Backlog>,
    pub(crate) address: SocketAddr,
    pub(crate) certificate: NodeCertificate,
    pub(crate) process: Process,
    /// The folder with the keys of agents.
    pub(crate) keys: PathBuf,
}

/// What reading some mailboxes took.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Drained {
    pub(crate) mailboxes: usize,
    pub(crate) messages: u64,
    pub(crate) took_s: f64,
    pub(crate) messages_per_s: f64,
    /// Envelopes, by the clock.
    pub(crate) gb_per_s: f64,
    /// What the device gave the node meanwhile.
    pub(crate) device_gb_per_s: f64,
    /// Of the whole node.
    pub(crate) cpu_us_per_message: f64,
}

/// The file with the keys of a mailbox's owner.
pub(crate) fn key_file(folder: &Path, spread: Spread, mailbox: usize) -> PathBuf {
    folder.join(format!("{spread:?}-{mailbox}.keys"))
}

/// Reads up to so many messages of each of these mailboxes at the same time.
pub(crate) async fn drain(target: &Target, spread: Spread, mailboxes: Range<usize>, each: u64) -> Drained {
    let readers = mailboxes.len();
    let together = Arc::new(Barrier::new(readers + 1));
    let mut reading = JoinSet::new();
    for mailbox in mailboxes {
        let (target, together) = (target.clone(), Arc::clone(&together));
        reading.spawn(async move {
            let mut reader = Reader::subscribe(target, spread, mailbox).await;
            // One stays, for the goodbye.
            let messages = each.min(reader.waiting - 1);
            together.wait().await;
            reader.read(messages).await;
            // The clock stops when the last one of all readers has come.
            together.wait().await;
            reader.leave().await;
            messages
        });
    }
    together.wait().await;
    let (began, cpu, device) = (Instant::now(), target.process.cpu(), target.process.read_bytes());
    together.wait().await;
    let took_s = began.elapsed().as_secs_f64();
    let device_bytes = target.process.read_bytes() - device;
    let messages: u64 = reading.join_all().await.into_iter().sum();
    // Until what was acknowledged is settled: that is part of the node's work.
    let cpu_us = (target.process.cpu() - cpu).as_secs_f64() * 1e6;
    let per_s = |bytes: f64| bytes / 1e9 / took_s;
    Drained {
        mailboxes: readers,
        messages,
        took_s,
        messages_per_s: messages as f64 / took_s,
        gb_per_s: per_s(messages as f64 * ENVELOPE_BYTES as f64),
        device_gb_per_s: per_s(device_bytes as f64),
        cpu_us_per_message: cpu_us / messages as f64,
    }
}

/// Whoever reads a mailbox.
struct Reader {
    backlog: Arc<Backlog>,
    spread: Spread,
    mailbox: usize,
    _connection: RawConnection,
    _control: RawStream,
    deliver: RawStream,
    /// Messages that wait in the mailbox when this one comes.
    waiting: u64,
    /// Which of those that were written to it comes next.
    nth: u64,
    /// The batch whose header came last on this stream.
    batch: u64,
}

impl Reader {
    async fn subscribe(target: Target, spread: Spread, mailbox: usize) -> Self {
        let keys = Arc::new(AgentKeys::load(key_file(&target.keys, spread, mailbox)).unwrap());
        let connection = RawConnection::connect(target.address, &target.certificate, WITHIN).await.unwrap();
        let (control, _) = connection.log_in(&keys).await.unwrap();
        let mut deliver = connection.open(StreamRole::Deliver).await.unwrap();
        let mut frame = Vec::new();
        Subscribe { mailbox: keys.id() }.encode(&mut frame);
        deliver.send(frame).await.unwrap();
        let answer = deliver.next().await.unwrap().unwrap();
        assert_eq!(answer.frame_type, FrameType::Subscribed as u8, "{:?}", answer.reject_code());
        let waiting = Subscribed::parse(&answer.body).unwrap().queued_messages;
        let backlog = target.backlog;
        let nth = backlog.count(spread, mailbox).checked_sub(waiting).expect("no more waits than was written");
        let (_connection, _control) = (connection, control);
        Self { backlog, spread, mailbox, _connection, _control, deliver, waiting, nth, batch: u64::MAX }
    }

    /// Reads and acknowledges so many messages.
    async fn read(&mut self, messages: u64) {
        let first = u64::from(WINDOW_MESSAGES).min(messages);
        let (mut left, mut not_granted) = (messages, messages - first);
        let mut answer = Vec::new();
        Credit { messages: u32::try_from(first).unwrap(), bytes: WINDOW_BYTES }.encode(&mut answer);
        let mut sequences = Vec::new();
        while left > 0 {
            if !answer.is_empty() {
                self.deliver.send(std::mem::take(&mut answer)).await.unwrap();
            }
            let before = sequences.len();
            self.next_frame(&mut sequences).await;
            left -= (sequences.len() - before) as u64;
            if sequences.len() >= ACKNOWLEDGED_TOGETHER || left == 0 {
                let bytes = u32::try_from(sequences.len() * ENVELOPE_BYTES).unwrap();
                let granted = not_granted.min(sequences.len() as u64);
                not_granted -= granted;
                ConsumerAck { sequences: std::mem::take(&mut sequences) }.encode(&mut answer);
                Credit { messages: u32::try_from(granted).unwrap(), bytes }.encode(&mut answer);
            }
        }
        self.deliver.send(answer).await.unwrap();
    }

    /// Leaves when the node has what was acknowledged: the message after it, which is not acknowledged, says so.
    async fn leave(mut self) {
        let mut frame = Vec::new();
        Credit { messages: 1, bytes: 0 }.encode(&mut frame);
        self.deliver.send(frame).await.unwrap();
        self.next_frame(&mut Vec::new()).await;
    }

    /// The next Deliver frame, whose messages must be the next ones that were written.
    async fn next_frame(&mut self, sequences: &mut Vec<u64>) {
        let frame = self.deliver.next().await.unwrap().unwrap();
        assert_eq!(frame.frame_type, FrameType::Deliver as u8, "a mailbox is read by one");
        let parsed = Deliver::parse(&frame.body).unwrap();
        for (at, message) in parsed.messages.iter().enumerate() {
            let number = self.backlog.number(self.spread, self.mailbox, self.nth);
            let (batch, index) = batch_and_index(number);
            if let Some(header) = parsed.batch_header.filter(|_| at == 0) {
                assert!(header.as_bytes() == self.backlog.batch_header(batch), "header of message {number}");
                self.batch = batch;
            }
            assert_eq!((self.batch, u64::from(message.leaf_index)), (batch, index), "message {number}");
            assert!(frame.body[message.envelope.clone()] == self.backlog.envelope(number), "message {number}");
            assert_eq!(message.attempt, 0, "message {number} comes once");
            sequences.push(message.mailbox_sequence);
            self.nth += 1;
        }
    }
}

/// Reads up to so many bytes of the segments of each folder, from the oldest on, one folder beside the other; returns bytes
/// and seconds.
pub(crate) fn read_plainly(folders: &[PathBuf], bytes_max: u64) -> (u64, f64) {
    let began = Instant::now();
    let read = thread::scope(|scope| {
        let reading: Vec<_> = folders.iter().map(|folder| scope.spawn(|| read_segments(folder, bytes_max))).collect();
        reading.into_iter().map(|thread| thread.join().unwrap()).sum()
    });
    (read, began.elapsed().as_secs_f64())
}

fn read_segments(folder: &Path, bytes_max: u64) -> u64 {
    let paths = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let mut segments: Vec<_> = paths.filter(|path| path.extension().is_some_and(|found| found == "wal")).collect();
    segments.sort();
    let (mut buffer, mut bytes) = (vec![0; 1 << 20], 0);
    for path in segments {
        let file = File::open(path).unwrap();
        let mut offset = 0;
        loop {
            let read = file.read_at(&mut buffer, offset).unwrap() as u64;
            (offset, bytes) = (offset + read, bytes + read);
            if read == 0 {
                break;
            }
            if bytes >= bytes_max {
                return bytes;
            }
        }
    }
    bytes
}
