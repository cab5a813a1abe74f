//! What waits: messages as a node writes them, each of which can be told by its number, so that whoever receives one knows
//! what it must be, byte by byte.
//!
//! Batches of 256 messages of 1 KiB, each of the next sender. Every other one goes to a single mailbox, as what an agent
//! tells one other does: its messages lie one behind the other on disk. The batches between go to all other mailboxes in
//! turn, as what an agent tells many others does: of each batch a mailbox has a message or two, far apart. Half of the
//! mailboxes are on either shard.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::thread;
use std::time::Duration;

use bytes::Bytes;
use creto_agent::{AgentName, TrustDomain};
use creto_benches::node::now_ms;
use creto_envelope::envelope::{ENVELOPE_HEADER_BYTES, InSession};
use creto_envelope::limits::AEAD_TAG_BYTES;
use creto_envelope::{AgentId, BatchHeader, EnvelopeHeader, KeyId, MessageId, Statement};
use creto_node::data_dir::DataDir;
use creto_shard::limits::RETENTION_MS;
use creto_shard::{Placement, ShardIndex};
use creto_store::limits::{MAILBOX_BYTES_MAX, MAILBOX_MESSAGES_MAX, MESSAGE_OVERHEAD_BYTES, SHARD_BYTES_MAX};
use creto_store::{
    Action, BatchPart, FileSource, MailboxId, MessageFlags, PartMessage, Priority, Record, SegmentNumber, SenderId,
    Wal, WalConfig, digest_file_name, recover, segment_file_name,
};
use rustix::fs::{FallocateFlags, fallocate};
use serde::{Deserialize, Serialize};

pub(crate) const PAYLOAD_BYTES: usize = 1_024;
pub(crate) const ENVELOPE_BYTES: usize = ENVELOPE_HEADER_BYTES + PAYLOAD_BYTES + AEAD_TAG_BYTES;
pub(crate) const SHARDS: u16 = 2;
pub(crate) const SENDERS: u64 = 1_000;
/// What the SDK puts under one signature when there is much to send.
const BATCH_MESSAGES: u64 = 256;
/// Nodes from a leaf of such a batch to its root.
const PATH_NODES: usize = 8;
/// What one mailbox may hold by default, in whole batches.
const MAILBOX_BATCHES: u64 = mailbox_messages_max() / BATCH_MESSAGES;
/// Mailboxes of each [`Spread`], at least.
const MAILBOXES_MIN: u64 = 128;
/// What both shards may hold by default.
pub(crate) const MESSAGES_MAX: u64 = 10_000_000;
/// With fewer, some mailboxes would be empty.
pub(crate) const MESSAGES_MIN: u64 = MAILBOXES_MIN * BATCH_MESSAGES * 2;
/// The messages came in evenly over so long, the last ones just now: their ids are all within the window in which a node
/// must tell them from new ones.
const CAME_WITHIN_MS: u64 = 30 * 60_000;
/// Different payloads overlap in this.
const FILLER_BYTES: usize = 64 << 10;
/// Messages that are appended before they are written: a group commit of half a megabyte.
const COMMIT_MESSAGES: u64 = 320;

const _: () = assert!(MESSAGES_MAX / SHARDS as u64 * message_cost() <= SHARD_BYTES_MAX);

const fn message_cost() -> u64 {
    ENVELOPE_BYTES as u64 + MESSAGE_OVERHEAD_BYTES
}

const fn mailbox_messages_max() -> u64 {
    let by_bytes = MAILBOX_BYTES_MAX / message_cost();
    if by_bytes < MAILBOX_MESSAGES_MAX { by_bytes } else { MAILBOX_MESSAGES_MAX }
}

/// How the messages of a mailbox lie on disk.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Spread {
    /// Whole batches, one message behind the other.
    Runs,
    /// One or two of each batch.
    Scattered,
}

/// All messages that wait.
pub(crate) struct Backlog {
    written: Written,
    runs: Vec<Mailbox>,
    scattered: Vec<Mailbox>,
    header: Vec<u8>,
    filler: Vec<u8>,
}

/// What a backlog follows from.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct Written {
    pub(crate) messages: u64,
    /// The time in the first id.
    from_ms: u64,
    /// The time in the last one.
    pub(crate) to_ms: u64,
    pub(crate) took_s: f64,
}

pub(crate) struct Mailbox {
    pub(crate) name: AgentName,
    pub(crate) id: AgentId,
}

impl Backlog {
    /// So many messages, the last of which came just now.
    pub(crate) fn new(messages: u64) -> Self {
        let to_ms = now_ms();
        Self::of(Written { messages, from_ms: to_ms - CAME_WITHIN_MS, to_ms, took_s: 0.0 })
    }

    fn of(written: Written) -> Self {
        let batches = written.messages.div_ceil(BATCH_MESSAGES * 2);
        let count = batches.div_ceil(MAILBOX_BATCHES).max(MAILBOXES_MIN).next_multiple_of(u64::from(SHARDS));
        let mailboxes = |kind: &str| (0..count).map(|number| Mailbox::new(kind, number)).collect();
        let mut random = 1_u64;
        let filler = std::iter::repeat_with(|| {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            random.to_be_bytes()[0]
        });
        let filler: Vec<u8> = filler.take(FILLER_BYTES + ENVELOPE_BYTES).collect();
        // Only who opens the messages would look at the signatures.
        let statement = Statement {
            sender: sender(0),
            key_record_version: 1,
            tree_size: u32::try_from(BATCH_MESSAGES).unwrap(),
            root: filler[..32].try_into().unwrap(),
            signed_at_ms: written.to_ms,
        };
        let header =
            BatchHeader::new(&statement, &filler[..64].try_into().unwrap(), &filler[64..3_373].try_into().unwrap());
        let header = header.to_bytes();
        Self { written, runs: mailboxes("runs"), scattered: mailboxes("scattered"), header, filler }
    }

    /// Writes the logs of all shards of a node that is stopped, as the node would have. `done` counts messages.
    pub(crate) fn write(&self, data: &DataDir, done: &AtomicU64) {
        thread::scope(|scope| {
            for shard in 0..SHARDS {
                scope.spawn(move || self.write_shard(&data.shard_dir(shard), shard, done));
            }
        });
        rustix::fs::sync();
    }

    fn write_shard(&self, folder: &Path, shard: u16, done: &AtomicU64) {
        let recovered = recover(&mut FileSource::new(folder), u32::from(shard), |_, _| {}).unwrap();
        let mut files = PlainFiles { folder, open: None, buffer: Vec::new() };
        let mut wal = Wal::open(WalConfig::default(), recovered, u64::from(shard) + 7, now_ms());
        files.carry_out(&mut wal);
        let (mut sequence, mut waiting) = (1, 0);
        for batch in 0..self.written.messages.div_ceil(BATCH_MESSAGES) {
            let part = self.part(batch, shard, sequence);
            let count = part.messages.len() as u64;
            if count == 0 {
                continue;
            }
            wal.append(Record::BatchPart(part)).unwrap();
            sequence += count;
            waiting += count;
            if waiting >= COMMIT_MESSAGES {
                files.carry_out(&mut wal);
                done.fetch_add(std::mem::take(&mut waiting), Relaxed);
            }
        }
        files.carry_out(&mut wal);
        done.fetch_add(waiting, Relaxed);
        // As a node that is stopped: the last frame, too, is stated durable.
        wal.confirm();
        files.carry_out(&mut wal);
        assert!(wal.is_idle() && wal.is_confirmed(), "everything is written");
    }

    /// What a batch brings to a shard.
    fn part(&self, batch: u64, shard: u16, first_sequence: u64) -> BatchPart {
        let numbers = batch * BATCH_MESSAGES..((batch + 1) * BATCH_MESSAGES).min(self.written.messages);
        let here = numbers.filter(|&number| self.place(number).1 % usize::from(SHARDS) == usize::from(shard));
        let path = Bytes::copy_from_slice(&self.filler[..PATH_NODES * 32]);
        let messages = (first_sequence..).zip(here).map(|(sequence, number)| {
            let envelope = self.envelope(number);
            let id = self.message_id(number);
            PartMessage {
                mailbox: MailboxId(self.recipient(number).0),
                sender: SenderId(sender(batch).0),
                message_id: creto_store::MessageId(id.0),
                sequence,
                expiry_ms: id.unix_ms() + RETENTION_MS,
                flags: MessageFlags::NONE,
                leaf_index: u32::try_from(number % BATCH_MESSAGES).unwrap(),
                priority: Priority::Normal,
                salt: salt(number),
                path: path.clone(),
                envelope: Bytes::from(envelope),
            }
        });
        BatchPart { messages: messages.collect(), batch_header: Bytes::from(self.batch_header(batch)) }
    }

    /// The header of a batch: none is like another.
    pub(crate) fn batch_header(&self, batch: u64) -> Vec<u8> {
        let mut header = self.header.clone();
        // In the middle of the signature.
        header[1_024..1_032].copy_from_slice(&batch.to_le_bytes());
        header
    }

    /// The envelope of a message.
    pub(crate) fn envelope(&self, number: u64) -> Vec<u8> {
        let (spread, mailbox) = self.place(number);
        let (id, sender) = (self.message_id(number), sender(number / BATCH_MESSAGES));
        let mut session_id = sender.0;
        session_id[8..].copy_from_slice(&(mailbox as u64 * 2 + spread as u64 + 1).to_le_bytes());
        let position = InSession { session_id, counter: number % 1_000, with_wrapped_key: false };
        let recipient = self.recipient(number);
        let header =
            EnvelopeHeader::session(sender, recipient, KeyId([9; 16]), id, id.unix_ms(), PAYLOAD_BYTES, &position);
        let mut envelope = Vec::with_capacity(ENVELOPE_BYTES);
        envelope.extend_from_slice(&header.unwrap().to_bytes());
        let from = usize::try_from(number * 1_031 % FILLER_BYTES as u64).unwrap();
        envelope.extend_from_slice(&self.filler[from..from + PAYLOAD_BYTES + AEAD_TAG_BYTES]);
        envelope
    }

    /// The number of the `nth` message of a mailbox.
    pub(crate) fn number(&self, spread: Spread, mailbox: usize, nth: u64) -> u64 {
        let (mailbox, mailboxes) = (mailbox as u64, self.mailboxes(spread).len() as u64);
        match spread {
            Spread::Runs => {
                let batch = 2 * (mailbox + nth / BATCH_MESSAGES * mailboxes);
                batch * BATCH_MESSAGES + nth % BATCH_MESSAGES
            }
            Spread::Scattered => {
                let nth = mailbox + nth * mailboxes;
                let batch = 2 * (nth / BATCH_MESSAGES) + 1;
                batch * BATCH_MESSAGES + nth % BATCH_MESSAGES
            }
        }
    }

    /// How many messages were written to a mailbox.
    pub(crate) fn count(&self, spread: Spread, mailbox: usize) -> u64 {
        let (mut from, mut to) = (0, self.written.messages);
        while from < to {
            let middle = from.midpoint(to);
            if self.number(spread, mailbox, middle) < self.written.messages { from = middle + 1 } else { to = middle }
        }
        from
    }

    pub(crate) fn mailboxes(&self, spread: Spread) -> &[Mailbox] {
        match spread {
            Spread::Runs => &self.runs,
            Spread::Scattered => &self.scattered,
        }
    }

    /// Writing it took so long.
    pub(crate) fn took(&mut self, took: Duration) {
        self.written.took_s = took.as_secs_f64();
    }

    pub(crate) fn written(&self) -> &Written {
        &self.written
    }

    /// Whose mailbox a message is in.
    fn place(&self, number: u64) -> (Spread, usize) {
        let (batch, index) = batch_and_index(number);
        let (spread, nth) = match batch % 2 {
            0 => (Spread::Runs, batch / 2),
            _ => (Spread::Scattered, batch / 2 * BATCH_MESSAGES + index),
        };
        (spread, usize::try_from(nth % self.mailboxes(spread).len() as u64).unwrap())
    }

    fn recipient(&self, number: u64) -> AgentId {
        let (spread, mailbox) = self.place(number);
        self.mailboxes(spread)[mailbox].id
    }

    fn message_id(&self, number: u64) -> MessageId {
        let Written { messages, from_ms, to_ms, .. } = self.written;
        let mut random = [0; 10];
        random[..2].copy_from_slice(&salt(number)[..2]);
        random[2..].copy_from_slice(&number.to_be_bytes());
        MessageId::from_parts(from_ms + number * (to_ms - from_ms) / messages, random)
    }
}

impl Mailbox {
    /// The shard of a mailbox follows from its name: the first name that brings it to the wanted one.
    fn new(kind: &str, number: u64) -> Self {
        let shard = ShardIndex(u16::try_from(number % u64::from(SHARDS)).unwrap());
        let names = (0..).map(|suffix| AgentName::parse(&format!("backlog/{kind}-{number:03}-{suffix}")).unwrap());
        let mut mailboxes = names.map(|name| Self { id: AgentId::derive(&TrustDomain::default(), &name), name });
        mailboxes.find(|mailbox| Placement::new(SHARDS).owner(&mailbox.id) == shard).unwrap()
    }
}

impl Written {
    /// Reads what an earlier run kept.
    pub(crate) fn load(path: &Path) -> Option<Backlog> {
        let text = fs::read_to_string(path).ok()?;
        Some(Backlog::of(serde_json::from_str(&text).unwrap()))
    }

    pub(crate) fn save(&self, path: &Path) {
        fs::write(path, serde_json::to_string(self).unwrap()).unwrap();
    }
}

/// The batch of a message, and its place in it.
pub(crate) fn batch_and_index(number: u64) -> (u64, u64) {
    (number / BATCH_MESSAGES, number % BATCH_MESSAGES)
}

fn sender(batch: u64) -> AgentId {
    let mut id = [0x5e; 16];
    id[..8].copy_from_slice(&(batch % SENDERS).wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes());
    AgentId(id)
}

fn salt(number: u64) -> [u8; 16] {
    let mut salt = [0; 16];
    salt[..8].copy_from_slice(&number.wrapping_mul(0xbf58_476d_1ce4_e5b9).to_be_bytes());
    salt
}

/// Carries out what a log wants, with plain files of one folder.
struct PlainFiles<'f> {
    folder: &'f Path,
    /// The segment that is written to.
    open: Option<(SegmentNumber, File)>,
    buffer: Vec<u8>,
}

impl PlainFiles<'_> {
    fn carry_out(&mut self, wal: &mut Wal) {
        while let Some(action) = wal.next_action(now_ms()) {
            match &action {
                Action::Write(write) => {
                    self.buffer.resize(write.bytes(), 0);
                    write.encode_into(&mut self.buffer);
                    let path = self.folder.join(segment_file_name(write.segment()));
                    let (_, file) = match self.open.take() {
                        Some(open) if open.0 == write.segment() => self.open.insert(open),
                        _ => self.open.insert((write.segment(), File::options().write(true).open(path).unwrap())),
                    };
                    file.write_all_at(&self.buffer, write.offset()).unwrap();
                }
                Action::Prepare { segment, bytes, .. } => {
                    let file = File::create(self.folder.join(segment_file_name(*segment))).unwrap();
                    // In one piece on disk, as far as there is one, like the node's.
                    fallocate(&file, FallocateFlags::empty(), 0, *bytes).unwrap();
                }
                Action::WriteDigest { segment, digest, .. } => {
                    fs::write(self.folder.join(digest_file_name(*segment)), digest.pieces().concat()).unwrap();
                    // Now and then, so that the system does not have to do all of it at once.
                    let segment = self.folder.join(segment_file_name(*segment));
                    File::open(segment).and_then(|segment| segment.sync_data()).unwrap();
                }
                Action::Delete { segment, .. } => {
                    let _ = fs::remove_file(self.folder.join(digest_file_name(*segment)));
                    let _ = fs::remove_file(self.folder.join(segment_file_name(*segment)));
                }
                Action::Shorten { segment, bytes, .. } => {
                    let path = self.folder.join(segment_file_name(*segment));
                    File::options().write(true).open(path).and_then(|file| file.set_len(*bytes)).unwrap();
                }
                Action::Read { .. } => unreachable!("nothing is read of a log that is only written"),
            }
            let id = action.id();
            drop(action);
            wal.completed(id, Ok(())).unwrap();
        }
        while wal.next_durable().is_some() {}
    }
}
