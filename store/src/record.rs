//! What a frame carries: messages that came in, messages that are done with, dead letters, subscriptions to channels and
//! their cursors, ids to remember, starts.
//!
//! A record knows its bytes only as slices of what came in: they are copied once, into the frame that goes to the disk.
//! Parsing is total: any bytes give a record or a [`RecordError`], and the record encodes to the very same bytes.

mod channel;
mod dead;
mod dedup;

use bytes::Bytes;
use thiserror::Error;

pub use self::channel::{Cursors, CursorsEntry, Progress, Subscribe, Subscriptions, SubscriptionsEntry, Unsubscribe};
pub(crate) use self::channel::{LIST_BYTES, SUBSCRIPTIONS_ENTRY_BYTES};
pub(crate) use self::dead::LETTER_BYTES;
pub use self::dead::{Dead, DeadLetter, DeathCause, Revive};

use crate::checksum;
use crate::flags::MessageFlags;
use crate::id::{MailboxId, MessageId, SenderId};
use crate::layout::{Reader, Writer, length_u32, length_usize, pad8};
use crate::limits::{
    BATCH_HEADER_BYTES_MAX, DEAD_RECORD_LETTERS_MAX, DEDUP_RECORD_IDS_MAX, DEDUP_RECORD_SENDERS_MAX,
    ENVELOPE_BYTES_MAX, NOTICE_BYTES, PART_MESSAGES_MAX, PATH_HASHES_MAX, RECORD_HEADER_BYTES, SETTLE_SEQUENCES_MAX,
};
use crate::lsn::{Epoch, Lsn};

/// One entry of the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Record {
    /// Messages of one batch for mailboxes of this shard.
    BatchPart(BatchPart),
    /// Messages that need not be kept any more.
    Settle(Settle),
    /// What trimmed segments knew and deduplication still needs.
    Dedup(Dedup),
    /// A start of the log.
    Start(Start),
    /// Messages that came in earlier, written again so that the segment that held them can go. As a part: same bytes, but
    /// for the kind.
    Moved(BatchPart),
    /// Messages that are kept and not delivered any more.
    Dead(Dead),
    /// Messages that were dead and are to be delivered again.
    Revive(Revive),
    /// What the node tells senders about messages that expired, in their own mailboxes. As a part without a batch header: a
    /// notice stands in place of each envelope, its sender is [`SenderId::NODE`], its message id that of the message.
    Notice(BatchPart),
    /// An agent subscribes to a channel, or begins anew.
    Subscribe(Subscribe),
    /// An agent subscribes to a channel no more.
    Unsubscribe(Unsubscribe),
    /// How far subscriptions have come.
    Cursors(Cursors),
    /// Subscriptions of which segments that go knew.
    Subscriptions(Subscriptions),
}

/// Messages of one signed batch whose recipients this shard owns.
///
/// Their paths and envelopes may share memory, with each other and with the batch that they came in. Mailboxes keep them
/// there, so whoever makes a part sees to it that they are most of that memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BatchPart {
    /// The batch's header with both signatures: opaque here, handed to every recipient.
    pub batch_header: Bytes,
    /// The messages, in the order in which they were admitted.
    pub messages: Vec<PartMessage>,
}

/// One message of a [`BatchPart`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartMessage {
    /// The recipient.
    pub mailbox: MailboxId,
    /// The sender.
    pub sender: SenderId,
    /// The message's id.
    pub message_id: MessageId,
    /// The number given by [`Mailboxes::admit`](crate::Mailboxes::admit): grows over the whole shard, never given twice.
    pub sequence: u64,
    /// When the message loses its meaning, in milliseconds since 1970; 0 = never.
    pub expiry_ms: u64,
    /// The message's leaf in the batch's tree.
    pub leaf_index: u32,
    /// Which queue it waits in.
    pub priority: Priority,
    /// What else the node keeps of it.
    pub flags: MessageFlags,
    /// The leaf's salt.
    pub salt: [u8; 16],
    /// The hashes from the leaf to the root, 32 bytes each.
    pub path: Bytes,
    /// The envelope, as signed.
    pub envelope: Bytes,
}

/// Which of a mailbox's queues a message waits in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Priority {
    /// Delivered when nothing else waits.
    Low = 0,
    /// The usual.
    Normal = 1,
    /// Before the usual.
    High = 2,
    /// Before everything.
    Critical = 3,
}

impl Priority {
    /// Number of priorities.
    pub const COUNT: usize = 4;

    /// The priority of an envelope's byte; `None` above 3.
    pub fn from_byte(byte: u8) -> Option<Self> {
        Some(match byte {
            0 => Self::Low,
            1 => Self::Normal,
            2 => Self::High,
            3 => Self::Critical,
            _ => return None,
        })
    }
}

/// Messages of one mailbox that need not be kept any more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settle {
    /// Whose messages.
    pub mailbox: MailboxId,
    /// Why they are done with.
    pub cause: SettleCause,
    /// Their sequences.
    pub sequences: Vec<u64>,
}

/// Why messages are done with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum SettleCause {
    /// The consumer acknowledged them.
    Acknowledged = 0,
    /// Their time was over before they were acknowledged.
    Expired = 1,
    /// They were given up after too many deliveries.
    GivenUp = 2,
    /// Dead letters that their owner deleted.
    Purged = 3,
    /// Messages of a channel that every subscription has consumed, and that make room for new ones.
    Consumed = 4,
}

/// What deduplication still needs of segments that go. It stands before everything else the log holds about these senders.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dedup {
    /// No sequence below this is given again.
    pub next_sequence: u64,
    /// The senders, by id.
    pub senders: Vec<DedupSender>,
}

/// One sender in a [`Dedup`] record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DedupSender {
    /// The sender.
    pub sender: SenderId,
    /// Ids of this time (ms) and older, and not listed, are unknown and refused.
    pub floor_ms: u64,
    /// Ids to remember, oldest arrival first.
    pub ids: Vec<MessageId>,
}

/// The first record of every epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Start {
    /// The epoch that starts.
    pub epoch: Epoch,
    /// The node's clock, in milliseconds since 1970.
    pub started_ms: u64,
    /// The last frame that recovery kept.
    pub recovered_through: Lsn,
}

/// Why bytes are not a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum RecordError {
    /// the record ends before its fields do
    #[error("the record ends before its fields do")]
    Truncated,
    /// the record is of kind {0}, which this version does not know: read it with the version that wrote it
    #[error("the record is of kind {0}, which this version does not know: read it with the version that wrote it")]
    Kind(u8),
    /// the record is of version {0}, which this version does not know: read it with the version that wrote it
    #[error("the record is of version {0}, which this version does not know: read it with the version that wrote it")]
    Version(u8),
    /// a field that must be zero is not
    #[error("a field that must be zero is not")]
    NotZero,
    /// a field holds a value without a meaning
    #[error("a field holds a value without a meaning")]
    Value,
    /// a count or length is above its limit
    #[error("a count or length is above its limit")]
    OverLimit,
    /// the record's length is not the sum of its fields
    #[error("the record's length is not the sum of its fields")]
    Length,
}

/// The highest version of a record: that of one with messages of which any is [`MessageFlags::PUBLISHED`], and of one that
/// settles what was [`SettleCause::Consumed`].
pub const RECORD_VERSION: u8 = 3;
/// That of a record with messages of which any has other [`MessageFlags`].
const VERSION_WITH_FLAGS: u8 = 2;
/// That of all others.
const VERSION_WITHOUT_FLAGS: u8 = 1;
/// Bytes of a message in a `BatchPart` before its path.
const MESSAGE_FIXED_BYTES: usize = 96;

impl Record {
    /// Bytes of the encoded record: a multiple of eight.
    pub fn encoded_bytes(&self) -> usize {
        RECORD_HEADER_BYTES
            + match self {
                Self::BatchPart(part) | Self::Moved(part) | Self::Notice(part) => part.body_bytes(),
                Self::Settle(settle) => 24 + 8 * settle.sequences.len(),
                Self::Dedup(dedup) => 16 + dedup.senders.iter().map(|sender| 32 + 16 * sender.ids.len()).sum::<usize>(),
                Self::Start(_) => 24,
                Self::Dead(dead) => dead.body_bytes(),
                Self::Revive(revive) => revive.body_bytes(),
                Self::Subscribe(_) => Subscribe::body_bytes(),
                Self::Unsubscribe(_) => Unsubscribe::body_bytes(),
                Self::Cursors(cursors) => cursors.body_bytes(),
                Self::Subscriptions(subscriptions) => subscriptions.body_bytes(),
            }
    }

    /// Writes the record into `out`, which has exactly [`encoded_bytes`](Self::encoded_bytes).
    ///
    /// # Panics
    /// When `out` has another size, or a count is above its limit: both are the caller's mistake.
    pub fn encode_into(&self, out: &mut [u8]) {
        self.encode(out, &mut Unsummed);
    }

    /// The same, and sums each part as soon as it is written. Returns the CRC32C of whatever gave `crc`, followed by the
    /// record; adds to `messages` the CRC32C of batch header and encoded message, of each message.
    pub(crate) fn encode_and_sum(&self, out: &mut [u8], crc: u32, messages: &mut Vec<u32>) -> u32 {
        let mut sums = Summing { crc, header_crc: 0, messages };
        self.encode(out, &mut sums);
        sums.crc
    }

    fn encode(&self, out: &mut [u8], sums: &mut impl Sum) {
        assert_eq!(out.len(), self.encoded_bytes(), "a record is encoded into exactly its own bytes");
        let body_bytes = length_u32(out.len() - RECORD_HEADER_BYTES);
        let mut writer = Writer::new(out);
        writer.u8(self.kind());
        writer.u8(self.version());
        writer.u16(0);
        writer.u32(body_bytes);
        match self {
            Self::BatchPart(part) | Self::Moved(part) | Self::Notice(part) => part.encode(&mut writer, sums),
            Self::Settle(settle) => settle.encode(&mut writer),
            Self::Dedup(dedup) => dedup.encode(&mut writer),
            Self::Start(start) => {
                writer.u64(start.epoch.0);
                writer.u64(start.started_ms);
                writer.u64(start.recovered_through.0);
            }
            Self::Dead(dead) => dead.encode(&mut writer),
            Self::Revive(revive) => revive.encode(&mut writer),
            Self::Subscribe(subscribe) => subscribe.encode(&mut writer),
            Self::Unsubscribe(unsubscribe) => unsubscribe.encode(&mut writer),
            Self::Cursors(cursors) => cursors.encode(&mut writer),
            Self::Subscriptions(subscriptions) => subscriptions.encode(&mut writer),
        }
        sums.rest(&mut writer);
        assert_eq!(writer.at(), body_bytes as usize + RECORD_HEADER_BYTES, "a record's size is the sum of its fields");
    }

    /// Reads the record at the front of `bytes` and tells how many bytes it took. The record shares the storage of `bytes`.
    ///
    /// # Errors
    /// [`RecordError`] when the bytes are not a record of this version.
    pub fn parse(bytes: &Bytes) -> Result<(Self, usize), RecordError> {
        let mut header = Reader::new(bytes);
        let fields = (|| Some((header.u8()?, header.u8()?, header.u16()?, header.u32()?)))();
        let (kind, version, reserved, body_bytes) = fields.ok_or(RecordError::Truncated)?;
        let is_known = match version {
            VERSION_WITHOUT_FLAGS => true,
            VERSION_WITH_FLAGS => matches!(kind, 1 | 5),
            RECORD_VERSION => matches!(kind, 1 | 2 | 5),
            _ => false,
        };
        if !is_known {
            return Err(RecordError::Version(version));
        }
        if reserved != 0 {
            return Err(RecordError::NotZero);
        }
        let body = header.slice(length_usize(body_bytes)).ok_or(RecordError::Truncated)?;
        let mut reader = Reader::new(&body);
        let record = match kind {
            1 => Self::BatchPart(BatchPart::parse(&mut reader)?),
            2 => Self::Settle(Settle::parse(&mut reader)?),
            3 => Self::Dedup(Dedup::parse(&mut reader)?),
            4 => Self::Start(Start::parse(&mut reader).ok_or(RecordError::Truncated)?),
            5 => Self::Moved(BatchPart::parse(&mut reader)?),
            6 => Self::Dead(Dead::parse(&mut reader)?),
            7 => Self::Revive(Revive::parse(&mut reader)?),
            8 => Self::Notice(BatchPart::parse(&mut reader)?),
            9 => Self::Subscribe(Subscribe::parse(&mut reader)?),
            10 => Self::Unsubscribe(Unsubscribe::parse(&mut reader)?),
            11 => Self::Cursors(Cursors::parse(&mut reader)?),
            12 => Self::Subscriptions(Subscriptions::parse(&mut reader)?),
            other => return Err(RecordError::Kind(other)),
        };
        if reader.left() != 0 {
            return Err(RecordError::Length);
        }
        if record.version() != version {
            return Err(RecordError::NotZero);
        }
        if let Self::Notice(part) = &record
            && !part.is_of_the_node()
        {
            return Err(RecordError::Value);
        }
        Ok((record, RECORD_HEADER_BYTES + body.len()))
    }

    /// A copy that shares no storage with what it was read from, so that one kept message does not keep a whole frame. The
    /// messages of a part share one piece of memory with each other.
    #[must_use]
    pub fn detached(&self) -> Self {
        match self {
            Self::BatchPart(part) => Self::BatchPart(part.detached()),
            Self::Moved(part) => Self::Moved(part.detached()),
            Self::Notice(part) => Self::Notice(part.detached()),
            other => other.clone(),
        }
    }

    /// Number of messages that the record brings.
    pub fn message_count(&self) -> usize {
        match self {
            Self::BatchPart(part) | Self::Moved(part) | Self::Notice(part) => part.messages.len(),
            _ => 0,
        }
    }

    /// Whether every count and length is within its limit, so that what is written can be read again.
    pub(crate) fn is_within_limits(&self) -> bool {
        match self {
            Self::BatchPart(part) | Self::Moved(part) | Self::Notice(part) => {
                part.batch_header.len() <= BATCH_HEADER_BYTES_MAX
                    && part.messages.len() <= PART_MESSAGES_MAX
                    && part.messages.iter().all(|message| {
                        message.envelope.len() <= ENVELOPE_BYTES_MAX
                            && message.path.len().is_multiple_of(32)
                            && message.path.len() / 32 <= PATH_HASHES_MAX
                            && message.has_the_expiry_it_needs()
                    })
            }
            Self::Settle(settle) => settle.sequences.len() <= SETTLE_SEQUENCES_MAX,
            Self::Dedup(dedup) => {
                dedup.senders.len() <= DEDUP_RECORD_SENDERS_MAX
                    && dedup.senders.iter().map(|sender| sender.ids.len()).sum::<usize>() <= DEDUP_RECORD_IDS_MAX
            }
            Self::Start(_) => true,
            Self::Dead(dead) => dead.letters.len() <= DEAD_RECORD_LETTERS_MAX,
            Self::Revive(revive) => revive.sequences.len() <= DEAD_RECORD_LETTERS_MAX,
            Self::Subscribe(subscribe) => subscribe.is_sound(),
            Self::Unsubscribe(unsubscribe) => unsubscribe.is_sound(),
            Self::Cursors(cursors) => cursors.is_sound(),
            Self::Subscriptions(subscriptions) => subscriptions.is_sound(),
        }
    }

    fn kind(&self) -> u8 {
        match self {
            Self::BatchPart(_) => 1,
            Self::Settle(_) => 2,
            Self::Dedup(_) => 3,
            Self::Start(_) => 4,
            Self::Moved(_) => 5,
            Self::Dead(_) => 6,
            Self::Revive(_) => 7,
            Self::Notice(_) => 8,
            Self::Subscribe(_) => 9,
            Self::Unsubscribe(_) => 10,
            Self::Cursors(_) => 11,
            Self::Subscriptions(_) => 12,
        }
    }

    fn version(&self) -> u8 {
        match self {
            Self::BatchPart(part) | Self::Moved(part) | Self::Notice(part) => {
                let flags = part.messages.iter().fold(MessageFlags::NONE, |all, message| all.with(message.flags));
                match flags {
                    MessageFlags::NONE => VERSION_WITHOUT_FLAGS,
                    flags if flags.contains(MessageFlags::PUBLISHED) => RECORD_VERSION,
                    _ => VERSION_WITH_FLAGS,
                }
            }
            Self::Settle(settle) if settle.cause == SettleCause::Consumed => RECORD_VERSION,
            _ => VERSION_WITHOUT_FLAGS,
        }
    }
}

impl BatchPart {
    /// Bytes that a part takes in the log: what to hold against [`RECORD_BYTES_MAX`](crate::limits::RECORD_BYTES_MAX)
    /// while a part is being put together. `message_bytes` is the sum of [`PartMessage::encoded_bytes`].
    pub fn encoded_bytes_of(batch_header_bytes: usize, message_bytes: usize) -> usize {
        RECORD_HEADER_BYTES + 8 + pad8(batch_header_bytes) + message_bytes
    }

    /// Whether it holds what the node says, and nothing else.
    fn is_of_the_node(&self) -> bool {
        let is_notice =
            |message: &PartMessage| message.sender == SenderId::NODE && message.envelope.len() == NOTICE_BYTES;
        self.batch_header.is_empty() && self.messages.iter().all(is_notice)
    }

    fn detached(&self) -> Self {
        let batch_header = Bytes::copy_from_slice(&self.batch_header);
        Self { batch_header, messages: detached(self.messages.iter()) }
    }

    fn body_bytes(&self) -> usize {
        let message_bytes = self.messages.iter().map(PartMessage::encoded_bytes).sum();
        Self::encoded_bytes_of(self.batch_header.len(), message_bytes) - RECORD_HEADER_BYTES
    }

    fn encode(&self, writer: &mut Writer<'_>, sums: &mut impl Sum) {
        writer.u32(length_u32(self.messages.len()));
        writer.u32(length_u32(self.batch_header.len()));
        sums.rest(writer);
        writer.put(&self.batch_header);
        sums.batch_header(writer);
        writer.padding();
        sums.rest(writer);
        for message in &self.messages {
            message.encode(writer);
            sums.message(writer);
        }
    }

    /// Where each message is: the byte in the record (its header included) at which it begins, and its length.
    pub(crate) fn message_spans(&self) -> impl Iterator<Item = (u32, u32)> {
        let first = RECORD_HEADER_BYTES + 8 + pad8(self.batch_header.len());
        self.messages.iter().scan(first, |at, message| {
            let (offset, bytes) = (*at, message.encoded_bytes());
            *at += bytes;
            Some((length_u32(offset), length_u32(bytes)))
        })
    }

    fn parse(reader: &mut Reader<'_>) -> Result<Self, RecordError> {
        let message_count = length_usize(reader.u32().ok_or(RecordError::Truncated)?);
        let header_bytes = length_usize(reader.u32().ok_or(RecordError::Truncated)?);
        if message_count > PART_MESSAGES_MAX || header_bytes > BATCH_HEADER_BYTES_MAX {
            return Err(RecordError::OverLimit);
        }
        let batch_header = reader.slice(header_bytes).ok_or(RecordError::Truncated)?;
        padding(reader)?;
        // The count is checked against the bytes that are there before anything is reserved for it.
        if reader.left() / MESSAGE_FIXED_BYTES < message_count {
            return Err(RecordError::Truncated);
        }
        let messages = (0..message_count).map(|_| PartMessage::parse(reader)).collect::<Result<_, _>>()?;
        Ok(Self { batch_header, messages })
    }
}

impl PartMessage {
    /// Bytes that the message takes in its record.
    pub fn encoded_bytes(&self) -> usize {
        Self::encoded_bytes_of(self.path.len(), self.envelope.len())
    }

    /// Bytes that a message with a path and an envelope of these sizes takes in its record.
    pub fn encoded_bytes_of(path_bytes: usize, envelope_bytes: usize) -> usize {
        MESSAGE_FIXED_BYTES + path_bytes + pad8(envelope_bytes)
    }

    fn encode(&self, writer: &mut Writer<'_>) {
        writer.put(&self.fixed());
        writer.put(&self.path);
        writer.put(&self.envelope);
        writer.padding();
    }

    /// CRC32C of whatever gave `crc`, followed by the encoded message.
    pub(crate) fn crc_append(&self, crc: u32) -> u32 {
        let padding = pad8(self.envelope.len()) - self.envelope.len();
        let parts: [&[u8]; 4] = [&self.fixed(), &self.path, &self.envelope, &[0; 7][..padding]];
        parts.into_iter().fold(crc, checksum::crc32c_append)
    }

    /// The encoded message before its path.
    fn fixed(&self) -> [u8; MESSAGE_FIXED_BYTES] {
        assert!(self.path.len().is_multiple_of(32), "a path is whole hashes");
        let path_length = u8::try_from(self.path.len() / 32).expect("a path has at most 32 hashes");
        let mut fixed = [0; MESSAGE_FIXED_BYTES];
        let mut writer = Writer::new(&mut fixed);
        writer.put(&self.mailbox.0);
        writer.put(&self.sender.0);
        writer.put(&self.message_id.0);
        writer.u64(self.sequence);
        writer.u64(self.expiry_ms);
        writer.u32(self.leaf_index);
        writer.u8(self.priority as u8);
        writer.u8(path_length);
        writer.u16(u16::from(self.flags.bits()));
        writer.u32(length_u32(self.envelope.len()));
        writer.u32(0);
        writer.put(&self.salt);
        assert_eq!(writer.at(), MESSAGE_FIXED_BYTES, "the fields before the path have a fixed size");
        fixed
    }

    pub(crate) fn parse(reader: &mut Reader<'_>) -> Result<Self, RecordError> {
        let fixed = (|| {
            let ids = (reader.array()?, reader.array()?, reader.array()?);
            let numbers = (reader.u64()?, reader.u64()?, reader.u32()?);
            let bytes = (reader.u8()?, reader.u8()?, reader.u16()?);
            let lengths = (reader.u32()?, reader.u32()?);
            Some((ids, numbers, bytes, lengths, reader.array()?))
        })();
        let (ids, numbers, (priority, path_length, flags), (envelope_bytes, reserved), salt) =
            fixed.ok_or(RecordError::Truncated)?;
        let flags = MessageFlags::from_bits(flags).filter(|_| reserved == 0).ok_or(RecordError::NotZero)?;
        let priority = Priority::from_byte(priority).ok_or(RecordError::Value)?;
        let envelope_bytes = length_usize(envelope_bytes);
        if usize::from(path_length) > PATH_HASHES_MAX || envelope_bytes > ENVELOPE_BYTES_MAX {
            return Err(RecordError::OverLimit);
        }
        let path = reader.slice(32 * usize::from(path_length)).ok_or(RecordError::Truncated)?;
        let envelope = reader.slice(envelope_bytes).ok_or(RecordError::Truncated)?;
        padding(reader)?;
        let message = Self {
            mailbox: MailboxId(ids.0),
            sender: SenderId(ids.1),
            message_id: MessageId(ids.2),
            sequence: numbers.0,
            expiry_ms: numbers.1,
            leaf_index: numbers.2,
            priority,
            flags,
            salt,
            path,
            envelope,
        };
        if message.has_the_expiry_it_needs() { Ok(message) } else { Err(RecordError::Value) }
    }

    /// What was published is kept for a time: nobody's acknowledgement takes it out.
    fn has_the_expiry_it_needs(&self) -> bool {
        self.expiry_ms != 0 || !self.flags.contains(MessageFlags::PUBLISHED)
    }

    /// Bytes of path and envelope: what is held in memory for the message.
    pub(crate) fn held_bytes(&self) -> usize {
        self.path.len() + self.envelope.len()
    }
}

/// What is told of the parts of a record while it is encoded, right behind the writing: what was written is in the cache.
trait Sum {
    /// A batch header was written.
    fn batch_header(&mut self, writer: &mut Writer<'_>);
    /// A message was written.
    fn message(&mut self, writer: &mut Writer<'_>);
    /// Something else was written.
    fn rest(&mut self, writer: &mut Writer<'_>);
}

struct Unsummed;

impl Sum for Unsummed {
    fn batch_header(&mut self, _: &mut Writer<'_>) {}
    fn message(&mut self, _: &mut Writer<'_>) {}
    fn rest(&mut self, _: &mut Writer<'_>) {}
}

/// One look at each byte for two checksums of it: that of everything up to it, and that of its message.
struct Summing<'m> {
    crc: u32,
    header_crc: u32,
    messages: &'m mut Vec<u32>,
}

impl Sum for Summing<'_> {
    fn batch_header(&mut self, writer: &mut Writer<'_>) {
        let bytes = writer.since_mark();
        self.header_crc = checksum::crc32c(bytes);
        self.crc = checksum::appended(self.crc, 0, self.header_crc, bytes.len());
    }

    fn message(&mut self, writer: &mut Writer<'_>) {
        let bytes = writer.since_mark();
        let crc = checksum::crc32c_append(self.header_crc, bytes);
        self.crc = checksum::appended(self.crc, self.header_crc, crc, bytes.len());
        self.messages.push(crc);
    }

    fn rest(&mut self, writer: &mut Writer<'_>) {
        self.crc = checksum::crc32c_append(self.crc, writer.since_mark());
    }
}

/// Copies of these messages that share one piece of memory with each other, and none with anything else.
fn detached<'m>(messages: impl Iterator<Item = &'m PartMessage> + Clone) -> Vec<PartMessage> {
    let mut all = Vec::with_capacity(messages.clone().map(PartMessage::held_bytes).sum());
    for message in messages.clone() {
        all.extend_from_slice(&message.path);
        all.extend_from_slice(&message.envelope);
    }
    let mut rest = Bytes::from(all);
    let copies = messages.map(|message| {
        let path = rest.split_to(message.path.len());
        let envelope = rest.split_to(message.envelope.len());
        PartMessage { path, envelope, ..message.clone() }
    });
    copies.collect()
}

impl Settle {
    fn encode(&self, writer: &mut Writer<'_>) {
        writer.put(&self.mailbox.0);
        writer.u32(length_u32(self.sequences.len()));
        writer.u8(self.cause as u8);
        writer.u8(0);
        writer.u16(0);
        for &sequence in &self.sequences {
            writer.u64(sequence);
        }
    }

    fn parse(reader: &mut Reader<'_>) -> Result<Self, RecordError> {
        let fixed = (|| Some((reader.array()?, reader.u32()?, reader.u8()?, reader.u8()?, reader.u16()?)))();
        let (mailbox, count, cause, reserved, reserved_too) = fixed.ok_or(RecordError::Truncated)?;
        if reserved != 0 || reserved_too != 0 {
            return Err(RecordError::NotZero);
        }
        let cause = match cause {
            0 => SettleCause::Acknowledged,
            1 => SettleCause::Expired,
            2 => SettleCause::GivenUp,
            3 => SettleCause::Purged,
            4 => SettleCause::Consumed,
            _ => return Err(RecordError::Value),
        };
        let count = length_usize(count);
        if count > SETTLE_SEQUENCES_MAX {
            return Err(RecordError::OverLimit);
        }
        if reader.left() / 8 < count {
            return Err(RecordError::Truncated);
        }
        let sequences = (0..count).map_while(|_| reader.u64()).collect();
        Ok(Self { mailbox: MailboxId(mailbox), cause, sequences })
    }
}

impl Start {
    fn parse(reader: &mut Reader<'_>) -> Option<Self> {
        Some(Self { epoch: Epoch(reader.u64()?), started_ms: reader.u64()?, recovered_through: Lsn(reader.u64()?) })
    }
}

fn padding(reader: &mut Reader<'_>) -> Result<(), RecordError> {
    if reader.left() < reader.padding_bytes() {
        return Err(RecordError::Truncated);
    }
    reader.padding().ok_or(RecordError::NotZero)
}

#[cfg(test)]
pub(crate) mod tests;
