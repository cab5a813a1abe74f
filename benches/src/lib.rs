//! What the benches share: one shard in memory, whose disk is done at once, and clients that speak in frames; a whole
//! node in a temporary folder; a log on a real disk.

pub mod control;
pub mod crypto;
pub mod instructions;
pub mod node;
pub mod rotation;
pub mod served;
pub mod sessions;
pub mod store;
pub mod table;

use std::sync::Arc;

use bytes::Bytes;
use creto_envelope::control::{StreamOpen, StreamRole};
use creto_envelope::envelope::InSession;
use creto_envelope::frame::FRAME_HEADER_BYTES;
use creto_envelope::{EnvelopeHeader, FrameHeader, FrameType, MessageId, SignedKeyRecord};
use creto_shard::limits::ConnectionLimits;
use creto_shard::{Action, ConnectionId, Event, Log, Now, Placement, Shard, ShardIndex, StreamId};
use creto_sim::agents::SimAgent;
use creto_store::{Mailboxes, MailboxesConfig, SegmentFile, SegmentNumber, SegmentSource, SourceError, Wal, WalConfig};

/// The time of every bench.
pub const NOW: Now = Now { unix_ms: 1_700_000_000_000, monotonic_us: 0 };
/// The control stream of a client.
pub const CONTROL: StreamId = StreamId(0);
/// Its submit stream.
pub const SUBMIT: StreamId = StreamId(1);
/// Its deliver stream.
pub const DELIVER: StreamId = StreamId(2);

/// Messages that are sent in one session.
const MESSAGES_PER_SESSION: u64 = 1_000;

struct NoSegments;

impl SegmentSource for NoSegments {
    fn segments(&mut self) -> Result<Vec<SegmentFile>, SourceError> {
        Ok(Vec::new())
    }

    fn read(&mut self, segment: SegmentNumber, _: u64, _: &mut [u8]) -> Result<(), SourceError> {
        panic!("there is no segment {segment} to read")
    }
}

/// One shard whose disk needs no time: what is left is the shard's own work.
pub struct InstantShard {
    shard: Shard,
    records: Vec<Arc<SignedKeyRecord>>,
    actions: Vec<Action>,
    frame: Vec<u8>,
    /// Frames that it sent, counted by those who care.
    pub sent: Vec<(StreamId, Bytes)>,
}

impl InstantShard {
    /// A shard that knows these agents.
    ///
    /// # Panics
    /// When an empty log cannot be opened.
    #[must_use]
    pub fn new(agents: &[&SimAgent]) -> Self {
        let recovered = creto_store::recover(&mut NoSegments, 0, |_, _| {}).expect("an empty log is sound");
        let wal = Wal::open(WalConfig::default(), recovered, 7, NOW.unix_ms);
        let config = MailboxesConfig {
            mailbox_messages_max: u64::MAX,
            mailbox_bytes_max: u64::MAX / 4,
            shard_bytes_max: u64::MAX / 4,
            ..MailboxesConfig::default()
        };
        let log = Log::new(wal, Mailboxes::new(config, [1, 2]));
        let shard = Shard::new(ShardIndex(0), Placement::new(1), ConnectionLimits::default(), log);
        let records = agents.iter().map(|agent| Arc::clone(&agent.record)).collect();
        let mut this = Self { shard, records, actions: Vec::new(), frame: Vec::new(), sent: Vec::new() };
        this.event(Event::Snapshot(creto_sim::agents::snapshot(agents.iter().copied())));
        this.turns();
        this
    }

    /// Hands one event over.
    pub fn event(&mut self, event: Event) {
        self.shard.apply(NOW, event, &mut self.actions);
    }

    /// Hands the body of a frame over.
    pub fn frame(&mut self, connection: ConnectionId, stream: StreamId, frame_type: FrameType, body: Bytes) {
        self.event(Event::Frame { connection, stream, frame_type, body });
    }

    /// Hands a frame over that an encoder writes.
    ///
    /// # Panics
    /// When the encoder writes none.
    pub fn encoded(&mut self, connection: ConnectionId, stream: StreamId, encode: impl FnOnce(&mut Vec<u8>)) {
        let mut out = Vec::new();
        encode(&mut out);
        let header = out[..FRAME_HEADER_BYTES].try_into().expect("a frame has a header");
        let frame_type = FrameHeader::parse(header).expect("an encoder writes frames").frame_type;
        self.frame(connection, stream, frame_type, aligned(&out[FRAME_HEADER_BYTES..]));
    }

    /// Turns until nothing moves any more.
    pub fn turns(&mut self) {
        loop {
            self.shard.end_turn(NOW, &mut self.actions);
            let actions = std::mem::take(&mut self.actions);
            if actions.is_empty() && !self.shard.has_work() {
                return;
            }
            for action in actions {
                match action {
                    Action::Disk(action) => {
                        if let creto_store::Action::Write(write) = &action {
                            self.frame.resize(write.bytes(), 0);
                            write.encode_into(&mut self.frame);
                        }
                        self.event(Event::Disk { id: action.id(), outcome: Ok(()) });
                    }
                    Action::AskKeyRecord { agent, version } => {
                        let is_its = |signed: &&Arc<SignedKeyRecord>| signed.record.agent_id() == agent;
                        let record = self.records.iter().find(is_its).expect("a bench knows its agents");
                        let answer = Ok(Arc::clone(record));
                        self.event(Event::KeyRecordAnswered { agent, version, answer });
                    }
                    Action::Send { stream, frames, .. } => self.sent.push((stream, frames)),
                    Action::Close { code, .. } => panic!("the shard closed a bench's connection: {code}"),
                    _ => {}
                }
            }
        }
    }

    /// A connection of this agent, logged in, with its streams open.
    pub fn connect(&mut self, number: u64, agent: &SimAgent) -> ConnectionId {
        let connection = ConnectionId(number);
        self.event(Event::Connected { connection, exporter: [1; 32], peer: ([127, 0, 0, 1], 4433).into() });
        let streams = [(CONTROL, StreamRole::Control), (SUBMIT, StreamRole::Submit), (DELIVER, StreamRole::Deliver)];
        for (stream, role) in streams {
            self.encoded(connection, stream, |out| StreamOpen { role }.encode(out));
        }
        self.encoded(connection, CONTROL, |out| agent.login(&[1; 32]).encode(out));
        self.turns();
        connection
    }
}

/// Bodies of SignedBatch frames with the submit sequences 1, 2, 3 ...: `batch_count` batches of `batch_messages` messages.
#[must_use]
pub fn batches(
    from: &SimAgent,
    to: &SimAgent,
    batch_count: u64,
    batch_messages: u64,
    payload_bytes: usize,
) -> Vec<Bytes> {
    let payload = vec![0x5a; payload_bytes];
    signed(from, batch_count, batch_messages, |number| from.seal(to, message_id(number), NOW.unix_ms, &payload))
}

/// The same in the session suite, without wrapped keys. The payload is not encrypted: only its recipient could tell.
///
/// # Panics
/// When the payload is above the limit.
#[must_use]
pub fn session_batches(
    from: &SimAgent,
    to: &SimAgent,
    batch_count: u64,
    batch_messages: u64,
    payload_bytes: usize,
) -> Vec<Bytes> {
    let key_id = to.record.record.key_id();
    signed(from, batch_count, batch_messages, |number| {
        let mut session_id = [7; 16];
        session_id[..8].copy_from_slice(&(number / MESSAGES_PER_SESSION).to_le_bytes());
        let position = InSession { session_id, counter: number % MESSAGES_PER_SESSION, with_wrapped_key: false };
        let id = message_id(number);
        let header = EnvelopeHeader::session(from.id, to.id, key_id, id, NOW.unix_ms, payload_bytes, &position)
            .expect("the payload is below the limit");
        let mut envelope = header.to_bytes().to_vec();
        envelope.resize(header.envelope_bytes(), 0x5a);
        envelope
    })
}

fn signed(from: &SimAgent, batch_count: u64, batch_messages: u64, envelope: impl Fn(u64) -> Vec<u8>) -> Vec<Bytes> {
    let batch = |batch: u64| {
        let envelopes: Vec<_> = (batch * batch_messages..(batch + 1) * batch_messages).map(&envelope).collect();
        aligned(&from.sign(&envelopes, NOW.unix_ms).body(batch + 1))
    };
    (0..batch_count).map(batch).collect()
}

fn message_id(number: u64) -> MessageId {
    let mut random = [0; 10];
    random[2..].copy_from_slice(&number.to_be_bytes());
    MessageId::from_parts(NOW.unix_ms, random)
}

/// A copy that starts at a multiple of sixteen bytes: what the framing layer hands out.
#[must_use]
pub fn aligned(bytes: &[u8]) -> Bytes {
    let mut copy = rkyv::util::AlignedVec::<16>::with_capacity(bytes.len());
    copy.extend_from_slice(bytes);
    Bytes::from_owner(copy)
}
