//! Frames of the deliver stream: subscription, credit, pushed messages, acknowledgements.

use std::ops::Range;

use crate::batch::{BATCH_HEADER_BYTES, BATCH_HEADER_BYTES_MAX, BatchHeaderView};
use crate::envelope::ENVELOPE_HEADER_BYTES;
use crate::frame::{FrameType, begin_frame, finish_frame};
use crate::id::AgentId;
use crate::limits::{
    BATCH_MESSAGES_MAX, CONSUMER_ACK_SEQUENCES_MAX, CONSUMER_NACK_MESSAGES_MAX, ENVELOPE_BYTES_MAX, PATH_NODES_MAX,
};
use crate::reader::{Reader, padding};
use crate::reject::RejectCode;

/// Size of what stands in front of path and envelope of a delivered message, in bytes.
pub const DELIVERED_MESSAGE_HEADER_BYTES: usize = 40;
/// Flag of a Deliver frame: a batch header follows; without it the one of the stream's previous Deliver frame holds.
pub const DELIVER_HAS_BATCH_HEADER: u32 = 1;

/// Asks for a mailbox: one's own.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Subscribe {
    /// Whose mailbox.
    pub mailbox: AgentId,
}

impl Subscribe {
    /// Appends the frame.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let start = begin_frame(out, FrameType::Subscribe);
        out.extend_from_slice(&self.mailbox.0);
        finish_frame(out, start, FrameType::Subscribe);
    }

    /// Parses the body.
    ///
    /// # Errors
    /// [`RejectCode::FrameLength`].
    pub fn parse(body: &[u8]) -> Result<Self, RejectCode> {
        let mut reader = Reader::new(body, RejectCode::FrameLength);
        let subscribe = Self { mailbox: AgentId(*reader.array()?) };
        reader.end()?;
        Ok(subscribe)
    }
}

/// The subscription stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Subscribed {
    /// Whose mailbox.
    pub mailbox: AgentId,
    /// Messages that wait in it.
    pub queued_messages: u64,
}

impl Subscribed {
    /// Appends the frame.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let start = begin_frame(out, FrameType::Subscribed);
        out.extend_from_slice(&self.mailbox.0);
        out.extend_from_slice(&self.queued_messages.to_le_bytes());
        finish_frame(out, start, FrameType::Subscribed);
    }

    /// Parses the body.
    ///
    /// # Errors
    /// [`RejectCode::FrameLength`].
    pub fn parse(body: &[u8]) -> Result<Self, RejectCode> {
        let mut reader = Reader::new(body, RejectCode::FrameLength);
        let subscribed = Self { mailbox: AgentId(*reader.array()?), queued_messages: reader.u64()? };
        reader.end()?;
        Ok(subscribed)
    }
}

/// Allows the node to push this much more.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Credit {
    /// Messages, in addition to what is left.
    pub messages: u32,
    /// Bytes of envelopes, in addition to what is left. One message may overdraw it.
    pub bytes: u32,
}

impl Credit {
    /// Appends the frame.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let start = begin_frame(out, FrameType::Credit);
        out.extend_from_slice(&self.messages.to_le_bytes());
        out.extend_from_slice(&self.bytes.to_le_bytes());
        finish_frame(out, start, FrameType::Credit);
    }

    /// Parses the body.
    ///
    /// # Errors
    /// [`RejectCode::FrameLength`].
    pub fn parse(body: &[u8]) -> Result<Self, RejectCode> {
        let mut reader = Reader::new(body, RejectCode::FrameLength);
        let credit = Self { messages: reader.u32()?, bytes: reader.u32()? };
        reader.end()?;
        Ok(credit)
    }
}

/// The application has these messages; the node may forget them.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ConsumerAck {
    /// Mailbox sequences of the messages.
    pub sequences: Vec<u64>,
}

impl ConsumerAck {
    /// Appends the frame.
    ///
    /// # Panics
    /// Above [`CONSUMER_ACK_SEQUENCES_MAX`] sequences: the caller splits them over several frames.
    #[allow(clippy::cast_possible_truncation, reason = "asserted to be below CONSUMER_ACK_SEQUENCES_MAX")]
    pub fn encode(&self, out: &mut Vec<u8>) {
        assert!(self.sequences.len() <= CONSUMER_ACK_SEQUENCES_MAX, "acknowledgements are split over frames");
        let start = begin_frame(out, FrameType::ConsumerAck);
        out.extend_from_slice(&(self.sequences.len() as u32).to_le_bytes());
        out.extend_from_slice(&[0; 4]);
        for sequence in &self.sequences {
            out.extend_from_slice(&sequence.to_le_bytes());
        }
        finish_frame(out, start, FrameType::ConsumerAck);
    }

    /// Parses the body.
    ///
    /// # Errors
    /// [`RejectCode::FrameLength`] or [`RejectCode::FrameReserved`].
    pub fn parse(body: &[u8]) -> Result<Self, RejectCode> {
        let mut reader = Reader::new(body, RejectCode::FrameLength);
        let count = reader.u32()? as usize;
        reader.zeros(4, RejectCode::FrameReserved)?;
        if count > CONSUMER_ACK_SEQUENCES_MAX || reader.remaining() != count * 8 {
            return Err(RejectCode::FrameLength);
        }
        let sequences = (0..count).map(|_| reader.u64()).collect::<Result<_, _>>()?;
        reader.end()?;
        Ok(Self { sequences })
    }
}

/// The application does not take these messages: it wants them later, or never.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ConsumerNack {
    /// The messages, by mailbox sequence, in any order.
    pub messages: Vec<(u64, Nack)>,
}

/// When the application wants a message that it was given.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Nack {
    /// Again, and not before this time has passed; the node may make it longer.
    Later {
        /// Milliseconds.
        delay_ms: u32,
    },
    /// Never: it goes to the dead letters.
    Never {
        /// Whatever the application likes; 0 for none.
        reason: u16,
    },
    /// Nobody looked at it, or will on this subscription: it stays with it, and is not what that ended over.
    Untouched,
}

/// Bytes of a message in a ConsumerNack frame.
pub const NACK_BYTES: usize = 16;

impl ConsumerNack {
    /// Appends the frame.
    ///
    /// # Panics
    /// Above [`CONSUMER_NACK_MESSAGES_MAX`] messages: the caller splits them over several frames.
    #[allow(clippy::cast_possible_truncation, reason = "asserted to be below CONSUMER_NACK_MESSAGES_MAX")]
    pub fn encode(&self, out: &mut Vec<u8>) {
        assert!(self.messages.len() <= CONSUMER_NACK_MESSAGES_MAX, "refusals are split over frames");
        let start = begin_frame(out, FrameType::ConsumerNack);
        out.extend_from_slice(&(self.messages.len() as u32).to_le_bytes());
        out.extend_from_slice(&[0; 4]);
        for (sequence, nack) in &self.messages {
            let (kind, reason, delay_ms) = match *nack {
                Nack::Later { delay_ms } => (0, 0, delay_ms),
                Nack::Never { reason } => (1, reason, 0),
                Nack::Untouched => (2, 0, 0),
            };
            out.extend_from_slice(&sequence.to_le_bytes());
            out.extend_from_slice(&[kind, 0]);
            out.extend_from_slice(&u16::to_le_bytes(reason));
            out.extend_from_slice(&u32::to_le_bytes(delay_ms));
        }
        finish_frame(out, start, FrameType::ConsumerNack);
    }

    /// Parses the body.
    ///
    /// # Errors
    /// [`RejectCode::FrameLength`] or [`RejectCode::FrameReserved`].
    pub fn parse(body: &[u8]) -> Result<Self, RejectCode> {
        let mut reader = Reader::new(body, RejectCode::FrameLength);
        let count = reader.u32()? as usize;
        reader.zeros(4, RejectCode::FrameReserved)?;
        if count > CONSUMER_NACK_MESSAGES_MAX || reader.remaining() != count * NACK_BYTES {
            return Err(RejectCode::FrameLength);
        }
        let mut messages = Vec::with_capacity(count);
        for _ in 0..count {
            let (sequence, kind) = (reader.u64()?, reader.u8()?);
            reader.zeros(1, RejectCode::FrameReserved)?;
            let nack = match (kind, reader.u16()?, reader.u32()?) {
                (0, 0, delay_ms) => Nack::Later { delay_ms },
                (1, reason, 0) => Nack::Never { reason },
                (2, 0, 0) => Nack::Untouched,
                _ => return Err(RejectCode::FrameReserved),
            };
            messages.push((sequence, nack));
        }
        reader.end()?;
        Ok(Self { messages })
    }
}

/// One message to push, as the node holds it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MessageToDeliver<'a> {
    /// Number of the message in its mailbox.
    pub mailbox_sequence: u64,
    /// Its leaf in the batch's tree.
    pub leaf_index: u32,
    /// How often it was pushed before: zero the first time; stays at 255.
    pub attempt: u8,
    /// The leaf's salt.
    pub salt: &'a [u8; 16],
    /// Nodes from the leaf to the root, each 32 bytes.
    pub path: &'a [[u8; 32]],
    /// The envelope's exact bytes.
    pub envelope: &'a [u8],
}

/// Builds one Deliver frame: messages of one batch, one after the other.
#[derive(Debug)]
pub struct DeliverEncoder<'o> {
    out: &'o mut Vec<u8>,
    /// None: the body of a Deliver frame by itself.
    frame_type: Option<FrameType>,
    start: usize,
    message_count: u32,
}

impl<'o> DeliverEncoder<'o> {
    /// Starts a frame behind what `out` holds. `batch_header` is given once per batch and stream.
    ///
    /// # Panics
    /// When a given header has no length that a header can have.
    pub fn begin(out: &'o mut Vec<u8>, batch_header: Option<&[u8]>) -> Self {
        Self::begin_as(Some(FrameType::Deliver), out, batch_header)
    }

    /// Starts a DeadLetter frame, for one message.
    ///
    /// # Panics
    /// As [`begin`](Self::begin).
    pub fn begin_letter(out: &'o mut Vec<u8>, batch_header: &[u8]) -> Self {
        Self::begin_as(Some(FrameType::DeadLetter), out, Some(batch_header))
    }

    /// Starts a Signal frame ([`crate::signal`]).
    ///
    /// # Panics
    /// As [`begin`](Self::begin).
    pub fn begin_signal(out: &'o mut Vec<u8>, batch_header: &[u8]) -> Self {
        Self::begin_as(Some(FrameType::Signal), out, Some(batch_header))
    }

    pub(crate) fn begin_as(frame_type: Option<FrameType>, out: &'o mut Vec<u8>, batch_header: Option<&[u8]>) -> Self {
        let start = out.len();
        if let Some(frame_type) = frame_type {
            begin_frame(out, frame_type);
        }
        out.extend_from_slice(&[0; 4]);
        out.extend_from_slice(&u32::from(batch_header.is_some()).to_le_bytes());
        if let Some(header) = batch_header {
            let known = [BATCH_HEADER_BYTES, BATCH_HEADER_BYTES_MAX].contains(&header.len());
            assert!(known, "a batch header has the size of its suite");
            out.extend_from_slice(header);
        }
        Self { out, frame_type, start, message_count: 0 }
    }

    /// Bytes of the frame, or of the body by itself, so far.
    #[must_use]
    pub fn frame_bytes(&self) -> usize {
        self.out.len() - self.start
    }

    /// Appends a message.
    ///
    /// # Panics
    /// When path or envelope are above their limits; the node admitted neither.
    #[allow(clippy::cast_possible_truncation, reason = "both lengths are asserted to be within their limits")]
    pub fn push(&mut self, message: &MessageToDeliver<'_>) {
        assert!(message.path.len() <= PATH_NODES_MAX, "the node admitted a path above the limit");
        assert!(message.envelope.len() <= ENVELOPE_BYTES_MAX, "the node admitted an envelope above the limit");
        self.out.extend_from_slice(&message.mailbox_sequence.to_le_bytes());
        self.out.extend_from_slice(&message.leaf_index.to_le_bytes());
        self.out.extend_from_slice(&[message.path.len() as u8, message.attempt, 0, 0]);
        self.out.extend_from_slice(message.salt);
        self.out.extend_from_slice(&(message.envelope.len() as u32).to_le_bytes());
        self.out.extend_from_slice(&[0; 4]);
        self.out.extend_from_slice(message.path.as_flattened());
        self.out.extend_from_slice(message.envelope);
        self.out.resize(self.out.len() + padding(message.envelope.len()), 0);
        self.message_count += 1;
    }

    /// Ends the frame, or the body by itself, and returns how many messages it holds.
    pub fn finish(self) -> u32 {
        let count_at = self.start + if self.frame_type.is_some() { crate::frame::FRAME_HEADER_BYTES } else { 0 };
        self.out[count_at..count_at + 4].copy_from_slice(&self.message_count.to_le_bytes());
        if let Some(frame_type) = self.frame_type {
            finish_frame(self.out, self.start, frame_type);
        }
        self.message_count
    }
}

/// Bytes that one message takes inside a Deliver frame.
#[must_use]
pub const fn delivered_message_bytes(path_nodes: usize, envelope_bytes: usize) -> usize {
    DELIVERED_MESSAGE_HEADER_BYTES + path_nodes * 32 + envelope_bytes + padding(envelope_bytes)
}

/// Where a delivered message lies inside the body of its frame.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DeliveredSpan {
    /// Number of the message in its mailbox.
    pub mailbox_sequence: u64,
    /// Its leaf in the batch's tree.
    pub leaf_index: u32,
    /// How often it was pushed before.
    pub attempt: u8,
    /// The leaf's salt.
    pub salt: [u8; 16],
    /// Nodes from the leaf to the root, as a range of the body; see [`DeliveredSpan::path`].
    pub path: Range<usize>,
    /// The envelope's bytes, as a range of the body; it starts at a multiple of eight.
    pub envelope: Range<usize>,
}

impl DeliveredSpan {
    /// The nodes from the leaf to the root, in the body that the span was parsed from.
    #[must_use]
    pub fn path<'b>(&self, body: &'b [u8]) -> &'b [[u8; 32]] {
        body[self.path.clone()].as_chunks().0
    }
}

/// A Deliver frame cut into pieces; the envelopes and signatures are not checked yet.
#[derive(Debug)]
pub struct Deliver<'a> {
    /// The batch header, when this frame carries one.
    pub batch_header: Option<BatchHeaderView<'a>>,
    /// The messages.
    pub messages: Vec<DeliveredSpan>,
}

impl<'a> Deliver<'a> {
    /// Parses a body that starts at a multiple of eight bytes.
    ///
    /// # Errors
    /// The [`RejectCode`] of the first rule that the bytes break.
    pub fn parse(body: &'a [u8]) -> Result<Self, RejectCode> {
        let mut reader = Reader::new(body, RejectCode::FrameLength);
        let message_count = reader.u32()? as usize;
        let flags = reader.u32()?;
        if flags & !DELIVER_HAS_BATCH_HEADER != 0 {
            return Err(RejectCode::FrameReserved);
        }
        if message_count > BATCH_MESSAGES_MAX {
            return Err(RejectCode::BatchTooManyMessages);
        }
        let batch_header = match flags {
            0 => None,
            _ => {
                // Its length stands in its suite, so what is too short for one is a wrong length of this frame.
                let rest = reader.rest();
                let header = match BatchHeaderView::parse(rest) {
                    Err(RejectCode::BatchTruncated) => return Err(RejectCode::FrameLength),
                    header => header?,
                };
                reader.take(header.as_bytes().len())?;
                Some(header)
            }
        };
        let mut messages = Vec::with_capacity(message_count);
        for _ in 0..message_count {
            let mailbox_sequence = reader.u64()?;
            let leaf_index = reader.u32()?;
            let path_nodes = usize::from(reader.u8()?);
            let attempt = reader.u8()?;
            reader.zeros(2, RejectCode::FrameReserved)?;
            let salt = *reader.array()?;
            let envelope_bytes = reader.u32()? as usize;
            reader.zeros(4, RejectCode::FrameReserved)?;
            if path_nodes > PATH_NODES_MAX {
                return Err(RejectCode::FrameLength);
            }
            if !(ENVELOPE_HEADER_BYTES..=ENVELOPE_BYTES_MAX).contains(&envelope_bytes) {
                return Err(RejectCode::EnvelopeLength);
            }
            let path_start = body.len() - reader.remaining();
            reader.take(path_nodes * 32)?;
            let start = body.len() - reader.remaining();
            let path = path_start..start;
            reader.take(envelope_bytes)?;
            reader.zeros(padding(envelope_bytes), RejectCode::FrameReserved)?;
            let envelope = start..start + envelope_bytes;
            messages.push(DeliveredSpan { mailbox_sequence, leaf_index, attempt, salt, path, envelope });
        }
        reader.end()?;
        Ok(Self { batch_header, messages })
    }
}
