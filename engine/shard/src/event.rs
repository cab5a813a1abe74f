//! What a shard is told and what it wants done: plain data, so that a driver, a test or a simulator can stand around it.

use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use creto_audit::event::Peer;
use creto_envelope::control::RotationMode;
use creto_envelope::enrol::Enrolled;
use creto_envelope::key_log::KeyLogQuestion;
use creto_envelope::prekeys::PrekeyStock;
use creto_envelope::{AgentId, ChannelId, FrameType, RejectCode, SignedKeyRecord};
use creto_policy::Snapshot;
use creto_store::{Action as DiskAction, ActionId, DiskError, Position, ReadProblem};

use crate::audit::AuditBatch;
use crate::prekeys::PrekeyQuestion;
use crate::route::ShardMessage;
use crate::stage::verify::{VerifyJob, VerifyOutcome};

/// The time, as the driver read it at the start of the turn.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Now {
    /// Wall clock, Unix milliseconds. It may jump: used for what the formats date, never for timeouts.
    pub unix_ms: u64,
    /// Monotonic clock, microseconds from an arbitrary start.
    pub monotonic_us: u64,
}

/// A connection of this shard; never used again for another one.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ConnectionId(pub u64);

/// A stream of a connection.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct StreamId(pub u64);

/// Number of a shard on its node, from zero.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ShardIndex(pub u16);

/// Something that happened outside.
#[derive(Debug)]
pub enum Event {
    /// A handshake is complete.
    Connected {
        /// The new connection.
        connection: ConnectionId,
        /// Its TLS exporter value: what a login signs.
        exporter: [u8; 32],
        /// From where.
        peer: SocketAddr,
    },
    /// A whole frame arrived.
    Frame {
        /// Its connection.
        connection: ConnectionId,
        /// Its stream.
        stream: StreamId,
        /// What it is.
        frame_type: FrameType,
        /// Its body, starting at a multiple of eight bytes.
        body: Bytes,
    },
    /// The bytes on a stream are no frame: nothing more can be read from it.
    FrameError {
        /// Its connection.
        connection: ConnectionId,
        /// Its stream.
        stream: StreamId,
        /// What is wrong.
        code: RejectCode,
    },
    /// The client will send nothing more on a stream.
    StreamClosed {
        /// Its connection.
        connection: ConnectionId,
        /// The stream.
        stream: StreamId,
    },
    /// A connection is gone.
    Disconnected {
        /// It.
        connection: ConnectionId,
    },
    /// Another shard of the node says something.
    FromShard {
        /// Which one.
        from: ShardIndex,
        /// What.
        message: ShardMessage,
    },
    /// Control published agents and policy anew.
    Snapshot(Arc<Snapshot>),
    /// Control has answered an [`Action::PublishKeyRecord`]. The snapshot that goes with a yes came before.
    KeyRecordPublished {
        /// The connection that published it; it may be gone.
        connection: ConnectionId,
        /// The version that is current now, or why it was refused.
        answer: Result<u32, KeyRefused>,
    },
    /// Control has answered an [`Action::Enrol`]. The snapshot that goes with a yes came before.
    Enrolled {
        /// The connection that asked; it may be gone.
        connection: ConnectionId,
        /// What became of it, or why control did not look at it.
        answer: Result<Enrolled, KeyRefused>,
    },
    /// Control has answered an [`Action::AskKeyRecord`]. The snapshot that this version is in came before.
    KeyRecordAnswered {
        /// Whose record.
        agent: AgentId,
        /// Which version.
        version: u32,
        /// The record, exactly this one; or why it cannot be had now.
        answer: Result<Arc<SignedKeyRecord>, KeyRefused>,
    },
    /// Control has answered an [`Action::AskKeyLog`].
    KeyLogAnswered {
        /// The connection that asked; it may be gone.
        connection: ConnectionId,
        /// The answer, a whole frame.
        frames: Bytes,
    },
    /// Control has answered an [`Action::AskChannel`].
    ChannelAnswered {
        /// The connection that asked; it may be gone.
        connection: ConnectionId,
        /// The channel.
        channel: ChannelId,
        /// The answer, a whole frame, or why there is none.
        answer: Result<Bytes, RejectCode>,
    },
    /// Control has answered an [`Action::AskPrekeys`].
    PrekeysAnswered {
        /// The connection that asked; it may be gone.
        connection: ConnectionId,
        /// The answer, a whole frame.
        frames: Bytes,
    },
    /// Control says that an agent has few one-time prekeys left. Every shard is told: nobody knows where its connections are.
    PrekeysLow {
        /// Whose.
        agent: AgentId,
        /// What is left.
        stock: PrekeyStock,
    },
    /// The disk has done, or failed to do, what the log asked.
    Disk {
        /// Which of its actions.
        id: ActionId,
        /// How it ended. Success of a write means written and synced.
        outcome: Result<(), DiskError>,
    },
    /// The disk has read, or failed to read, what the log asked for.
    DiskRead {
        /// Which of its actions.
        id: ActionId,
        /// The bytes, exactly as many as were asked for.
        outcome: Result<Bytes, DiskError>,
    },
    /// Whoever keeps the audit log has, durably, what [`Action::Audit`] told: in the order in which it was told.
    Audited {
        /// So many of the events.
        events: u64,
        /// All of what the log says up to this record.
        through: Option<Position>,
        /// The memory in which they were told, for those that come.
        spare: Vec<Vec<creto_audit::Event>>,
    },
    /// A worker has verified a batch ([`Action::Verify`]).
    Verified(VerifyOutcome),
    /// What the file system of the log has left for this shard, without what is allocated already. Told with every tick by
    /// whoever has a real file system; without it, only `wal_bytes_max` bounds the log.
    DiskRoom {
        /// Bytes.
        bytes: u64,
    },
    /// A while has passed: 100 ms is often enough. What has no event of its own is looked after.
    Tick,
    /// The node shuts down: take nothing new, answer what is under way.
    Drain,
    /// Every shard of the node has drained: from now on nothing is written to the log, whoever asks. What is in it becomes
    /// durable, and its end is stated.
    Seal,
}

/// Why control did not take a key record, or cannot bring one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct KeyRefused {
    /// The code for the agent.
    pub code: RejectCode,
    /// When the same record may be accepted, in milliseconds from now; zero when that will not be.
    pub retry_after_ms: u32,
}

/// Something that the shard wants done.
#[derive(Debug)]
pub enum Action {
    /// Send whole frames on a stream.
    Send {
        /// On which connection.
        connection: ConnectionId,
        /// On which stream.
        stream: StreamId,
        /// The frames.
        frames: Bytes,
    },
    /// The connection has logged in: larger frames may be taken from it.
    Authenticated {
        /// It.
        connection: ConnectionId,
    },
    /// Close a connection, after what was sent before has left.
    Close {
        /// It.
        connection: ConnectionId,
        /// Why: also the application's close code of QUIC.
        code: RejectCode,
    },
    /// Read from all connections (`true`), or stop until told to go on (`false`).
    SetReading(bool),
    /// Tell another shard.
    ToShard {
        /// Which one.
        to: ShardIndex,
        /// What.
        message: ShardMessage,
    },
    /// Have the disk do something for the log. A read is answered with [`Event::DiskRead`], all else with [`Event::Disk`].
    Disk(DiskAction),
    /// Have control store an agent's next key record, and answer with [`Event::KeyRecordPublished`] when it did or did
    /// not: once, and not before this turn is over.
    PublishKeyRecord {
        /// The connection that is to be answered; it has one of these open at a time.
        connection: ConnectionId,
        /// Who is logged in on it, and whose record it is.
        agent: AgentId,
        /// What becomes of the key that is replaced.
        mode: RotationMode,
        /// The record; nothing about it was checked but its form and whose it is.
        record: Box<SignedKeyRecord>,
    },
    /// Have control register an agent if its token allows it, and answer with [`Event::Enrolled`]: once, and not before this turn
    /// is over.
    Enrol {
        /// The connection that is to be answered; nobody is logged in on it, and it has one of these open at a time.
        connection: ConnectionId,
        /// From where it comes.
        peer: Peer,
        /// SHA-256 of the token's secret.
        token_hash: [u8; 32],
        /// The record; nothing about it was checked but its form.
        record: Box<SignedKeyRecord>,
    },
    /// Have control bring a key record that the snapshot shows, and answer with [`Event::KeyRecordAnswered`] when it did or cannot:
    /// once, and not before this turn is over. One question for the same record is open at a time.
    AskKeyRecord {
        /// Whose.
        agent: AgentId,
        /// Which version.
        version: u32,
    },
    /// Have control answer a question about the key log with [`Event::KeyLogAnswered`]: once, and not before this turn is over.
    AskKeyLog {
        /// The connection that is to be answered.
        connection: ConnectionId,
        /// What it asks.
        question: KeyLogQuestion,
    },
    /// Have control bring the record of a channel, and answer with [`Event::ChannelAnswered`]: once, and not before this turn is over.
    AskChannel {
        /// The connection that is to be answered.
        connection: ConnectionId,
        /// The channel.
        channel: ChannelId,
    },
    /// Have control answer a question about prekeys with [`Event::PrekeysAnswered`]: once, and not before this turn is over.
    AskPrekeys {
        /// The connection that is to be answered.
        connection: ConnectionId,
        /// Who is logged in on it.
        asker: AgentId,
        /// What it wants.
        question: PrekeyQuestion,
    },
    /// Have a worker run this and answer with [`Event::Verified`], in any order. Only asked of a shard that was given
    /// workers, and never for more than it was told they take.
    Verify(VerifyJob),
    /// Tell the operator of a queued message that cannot be read back. Said once for each, unless its mailbox's consumer or
    /// the node starts again.
    Unreadable {
        /// Which one, where it is, what is wrong, and what to do.
        problem: ReadProblem,
    },
    /// Have these events kept, and answer with [`Event::Audited`] when they are durable. Only from a shard
    /// [with an audit log](crate::Shard::with_audit).
    Audit(AuditBatch),
    /// The log stopped for good: no acknowledgement will come from this shard any more. Said once.
    Fenced {
        /// What the disk said.
        cause: String,
    },
}
