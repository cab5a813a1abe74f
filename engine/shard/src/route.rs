//! Which shard owns what, and what shards say to each other.
//!
//! A connection belongs to the shard that accepted it, a mailbox to the shard of its partition. Whatever crosses
//! between the two is a [`ShardMessage`]; shards share no memory.

use bytes::Bytes;
use creto_envelope::deliver::Nack;
use creto_envelope::limits::PARTITION_COUNT;
use creto_envelope::notice::NoticeBody;
use creto_envelope::presence::{PresenceAnswer, PresenceAudience};
use creto_envelope::{AgentId, ChannelId, MessageId, Priority, RejectCode};

use crate::channels::{ChannelAsk, ChannelNews, ReaderPush};
use crate::event::{ConnectionId, ShardIndex};
use crate::expiry::{Bond, MessageRoom};
use crate::stage::log::letters::LetterQuestion;

/// Where partitions live.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Placement {
    shard_count: u16,
}

impl Placement {
    /// Spreads the partitions over this many shards.
    ///
    /// # Panics
    /// Without a shard, or with more shards than partitions: the plan checks that.
    #[must_use]
    pub fn new(shard_count: u16) -> Self {
        assert!((1..=PARTITION_COUNT).contains(&shard_count), "every shard owns at least one partition");
        Self { shard_count }
    }

    /// How many shards there are.
    #[must_use]
    pub fn shard_count(&self) -> u16 {
        self.shard_count
    }

    /// The shard that owns an agent's mailbox.
    #[must_use]
    pub fn owner(&self, mailbox: &AgentId) -> ShardIndex {
        ShardIndex(mailbox.partition() % self.shard_count)
    }

    /// The shard that owns a channel: the one whose mailbox its id would be.
    #[must_use]
    pub fn channel_owner(&self, channel: &ChannelId) -> ShardIndex {
        self.owner(&AgentId(channel.0))
    }
}

/// A connection, as another shard names it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Origin {
    /// The shard that owns the connection.
    pub shard: ShardIndex,
    /// The connection.
    pub connection: ConnectionId,
}

/// The messages of one batch whose mailboxes one shard owns. Made only of what was authorized.
#[derive(Debug)]
pub struct BatchPart {
    /// Who waits for the outcome.
    pub(crate) origin: Origin,
    /// Submit sequence of the batch on that connection.
    pub(crate) sequence: u64,
    /// Who signed the batch.
    pub(crate) sender: AgentId,
    /// The batch header's bytes.
    pub(crate) header: Bytes,
    /// The messages.
    pub(crate) messages: Vec<PartMessage>,
}

/// One message of a [`BatchPart`].
#[derive(Debug)]
pub(crate) struct PartMessage {
    pub(crate) leaf_index: u32,
    pub(crate) recipient: AgentId,
    pub(crate) message_id: MessageId,
    pub(crate) priority: Priority,
    pub(crate) ttl_s: u32,
    /// What it has to do with a session.
    pub(crate) bond: Bond,
    /// Its sender asks to be told if it expires.
    pub(crate) wants_notice: bool,
    /// What the mailbox or the channel may hold.
    pub(crate) room: MessageRoom,
    pub(crate) salt: [u8; 16],
    /// Nodes from the leaf to the root, 32 bytes each.
    pub(crate) path: Bytes,
    pub(crate) envelope: Bytes,
}

/// What became of a [`BatchPart`]: every message of it is durable, a signal, or listed here.
#[derive(Debug)]
pub struct PartOutcome {
    pub(crate) connection: ConnectionId,
    pub(crate) sequence: u64,
    /// How many messages of the batch this answers.
    pub(crate) message_count: u32,
    /// Which of them were refused, or were duplicates.
    pub(crate) refused: Vec<(u32, RejectCode)>,
    /// How long the log asks the sender to send nothing new, in milliseconds.
    pub(crate) pause_ms: u32,
    /// When it was known that all that was to be stored is durable, by the node's monotonic clock; none where nothing was.
    pub(crate) durable_us: Option<u64>,
}

/// A message of some shard's mailbox that expired, for the shard of its sender's mailbox.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExpiredMessage {
    /// Who is to be told.
    pub(crate) sender: AgentId,
    /// Whose mailbox it is in.
    pub(crate) mailbox: AgentId,
    /// Its sequence there.
    pub(crate) sequence: u64,
    /// What its sender is told.
    pub(crate) notice: NoticeBody,
}

/// What became of the notice of an [`ExpiredMessage`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Told {
    /// Whose mailbox it is in.
    pub(crate) mailbox: AgentId,
    /// Its sequence there.
    pub(crate) sequence: u64,
    pub(crate) outcome: Telling,
}

/// How it went to tell a sender.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Telling {
    /// The notice is durable: the message may be settled.
    Durable,
    /// There is no room for it, or nobody to tell: the message is settled without.
    Refused,
    /// The log takes nothing any more, and whoever opens it next may: the message waits.
    NotNow,
}

/// What one shard says to another.
#[derive(Debug)]
pub enum ShardMessage {
    /// Make these messages durable.
    Submit(BatchPart),
    /// Push these signals, which are not stored, to whoever reads there.
    Signal(BatchPart),
    /// They are, or were refused.
    Outcome(PartOutcome),
    /// This connection wants to read this mailbox, which it owns.
    Subscribe {
        /// The mailbox.
        mailbox: AgentId,
        /// The connection.
        origin: Origin,
        /// When it asked, in microseconds of the node's monotonic clock.
        since_us: u64,
    },
    /// The connection is gone.
    Unsubscribe {
        /// The mailbox.
        mailbox: AgentId,
        /// The connection.
        origin: Origin,
    },
    /// The connection can take this much more.
    Credit {
        /// The mailbox.
        mailbox: AgentId,
        /// The connection.
        origin: Origin,
        /// Messages in addition.
        messages: u32,
        /// Bytes in addition.
        bytes: u32,
    },
    /// The connection takes so many signals more.
    SignalCredit {
        /// The mailbox.
        mailbox: AgentId,
        /// The connection.
        origin: Origin,
        /// Signals in addition.
        signals: u32,
    },
    /// The connection says to whom its agent shows itself.
    PresenceShow {
        /// The mailbox.
        mailbox: AgentId,
        /// The connection.
        origin: Origin,
        /// To whom.
        audience: PresenceAudience,
    },
    /// A connection asks whether this agent is there, whose mailbox you own; answered once, whatever is known.
    PresenceAsk {
        /// Who.
        agent: AgentId,
        /// The connection.
        origin: Origin,
        /// Whether its agent may know.
        is_allowed: bool,
    },
    /// The answer.
    PresenceTold {
        /// The connection that asked.
        connection: ConnectionId,
        /// What it may know.
        answer: PresenceAnswer,
    },
    /// The application has these messages.
    ConsumerAck {
        /// The mailbox.
        mailbox: AgentId,
        /// The connection.
        origin: Origin,
        /// Their mailbox sequences.
        sequences: Vec<u64>,
    },
    /// The application does not take these messages.
    ConsumerNack {
        /// The mailbox.
        mailbox: AgentId,
        /// The connection.
        origin: Origin,
        /// Their mailbox sequences, and when it wants them.
        messages: Vec<(u64, Nack)>,
    },
    /// The mailbox's owner asks about its dead letters; answered once.
    LetterQuestion {
        /// The mailbox.
        mailbox: AgentId,
        /// The connection, which has no other question open.
        origin: Origin,
        /// What it asks.
        question: LetterQuestion,
    },
    /// The answer.
    LetterAnswer {
        /// The connection that asked.
        connection: ConnectionId,
        /// Whole frames, or why there are none.
        answer: Result<Bytes, RejectCode>,
    },
    /// Tell the senders of these messages, whose mailboxes you own, that they expired.
    Tell {
        /// Who waits for the answer.
        from: ShardIndex,
        /// The messages: a bounded number of a shard is on its way.
        expired: Vec<ExpiredMessage>,
    },
    /// They were told, durably, or cannot be.
    Told {
        /// Of each message.
        told: Vec<Told>,
    },
    /// A connection asks something of a channel that you own.
    Channel {
        /// The channel.
        channel: ChannelId,
        /// The connection.
        origin: Origin,
        /// What.
        ask: ChannelAsk,
    },
    /// A channel's shard says something to a connection of yours.
    ChannelNews {
        /// The connection.
        connection: ConnectionId,
        /// What.
        news: ChannelNews,
    },
    /// Messages of channels for connections of yours: at most what one turn hands out.
    FanOut {
        /// The messages, in order.
        pushes: Vec<ReaderPush>,
    },
    /// Frames for a connection's deliver stream.
    Push {
        /// The connection.
        connection: ConnectionId,
        /// Whole frames.
        frames: Bytes,
    },
}
