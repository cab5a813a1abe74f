//! Frames about channels: subscribing and what is delivered, on the channels stream; who subscribes, on the publisher's submit
//! stream; the record, on the control stream. `docs/protocol.md`, section 9, says what each of them leads to.
//!
//! A client numbers its subscriptions: frames name them by that **handle**.

use crate::channel::SignedChannelRecord;
use crate::deliver::{Deliver, DeliverEncoder};
use crate::frame::{FrameType, begin_frame, finish_frame};
use crate::id::{AgentId, ChannelId, GroupId};
use crate::limits::{CHANNEL_SUBSCRIBERS_MAX, CONSUMER_ACK_SEQUENCES_MAX, FRAME_BODY_BYTES_MAX};
use crate::reader::Reader;
use crate::reject::RejectCode;

/// Most agents that one ChannelMembers frame names: all that may subscribe, as members, joined and left.
pub const CHANNEL_MEMBERS_TOLD_MAX: usize = CHANNEL_SUBSCRIBERS_MAX as usize;

const MEMBERS_HEADER_BYTES: usize = 40;
const FLAG_WHOLE: u32 = 1;
const _: () = assert!(MEMBERS_HEADER_BYTES + CHANNEL_MEMBERS_TOLD_MAX * 16 <= FRAME_BODY_BYTES_MAX);

/// Where a subscription begins.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Start {
    /// Where it was; one that is not there yet, with what is published from now on.
    #[default]
    GoOn,
    /// With what is published from now on.
    Now,
    /// With the oldest message that the channel keeps.
    Oldest,
    /// With the message of this sequence, or the first one behind it.
    Sequence(u64),
    /// With the first message of this time or later, Unix milliseconds.
    Time(u64),
}

impl Start {
    fn to_wire(self) -> (u8, u64) {
        match self {
            Self::GoOn => (0, 0),
            Self::Now => (1, 0),
            Self::Oldest => (2, 0),
            Self::Sequence(sequence) => (3, sequence),
            Self::Time(unix_ms) => (4, unix_ms),
        }
    }

    fn from_wire(kind: u8, value: u64) -> Result<Self, RejectCode> {
        Ok(match (kind, value) {
            (0, 0) => Self::GoOn,
            (1, 0) => Self::Now,
            (2, 0) => Self::Oldest,
            (3, sequence) => Self::Sequence(sequence),
            (4, unix_ms) => Self::Time(unix_ms),
            _ => return Err(RejectCode::FrameReserved),
        })
    }
}

/// Asks to read a channel.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ChannelSubscribe {
    /// The client's number for the subscription, free on this connection.
    pub handle: u32,
    /// The channel.
    pub channel: ChannelId,
    /// The group whose messages it shares, or [`GroupId::NONE`] for all of its own.
    pub group: GroupId,
    /// Where it begins.
    pub start: Start,
}

impl ChannelSubscribe {
    /// Appends the frame.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let start = begin_frame(out, FrameType::ChannelSubscribe);
        let (kind, value) = self.start.to_wire();
        out.extend_from_slice(&self.handle.to_le_bytes());
        out.extend_from_slice(&[kind, 0, 0, 0]);
        out.extend_from_slice(&value.to_le_bytes());
        out.extend_from_slice(&self.channel.0);
        out.extend_from_slice(&self.group.0);
        finish_frame(out, start, FrameType::ChannelSubscribe);
    }

    /// Parses the body.
    ///
    /// # Errors
    /// [`RejectCode::FrameLength`] or [`RejectCode::FrameReserved`].
    pub fn parse(body: &[u8]) -> Result<Self, RejectCode> {
        let mut reader = Reader::new(body, RejectCode::FrameLength);
        let (handle, kind) = (reader.u32()?, reader.u8()?);
        reader.zeros(3, RejectCode::FrameReserved)?;
        let start = Start::from_wire(kind, reader.u64()?)?;
        let (channel, group) = (ChannelId(*reader.array()?), GroupId(*reader.array()?));
        reader.end()?;
        Ok(Self { handle, channel, group, start })
    }
}

/// The subscription is durable, and read by this connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ChannelSubscribed {
    /// The client's number for it.
    pub handle: u32,
    /// The channel.
    pub channel: ChannelId,
    /// Sequence of the first message that is not consumed, whether it is there yet or not.
    pub next_sequence: u64,
    /// Sequence of the oldest message that the channel keeps; zero when it keeps none.
    pub oldest_sequence: u64,
    /// Sequence of the newest one; zero when it keeps none.
    pub newest_sequence: u64,
}

impl ChannelSubscribed {
    /// Appends the frame.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let start = begin_frame(out, FrameType::ChannelSubscribed);
        out.extend_from_slice(&self.handle.to_le_bytes());
        out.extend_from_slice(&[0; 4]);
        out.extend_from_slice(&self.channel.0);
        for sequence in [self.next_sequence, self.oldest_sequence, self.newest_sequence] {
            out.extend_from_slice(&sequence.to_le_bytes());
        }
        finish_frame(out, start, FrameType::ChannelSubscribed);
    }

    /// Parses the body.
    ///
    /// # Errors
    /// [`RejectCode::FrameLength`] or [`RejectCode::FrameReserved`].
    pub fn parse(body: &[u8]) -> Result<Self, RejectCode> {
        let mut reader = Reader::new(body, RejectCode::FrameLength);
        let handle = reader.u32()?;
        reader.zeros(4, RejectCode::FrameReserved)?;
        let channel = ChannelId(*reader.array()?);
        let (next_sequence, oldest_sequence, newest_sequence) = (reader.u64()?, reader.u64()?, reader.u64()?);
        reader.end()?;
        Ok(Self { handle, channel, next_sequence, oldest_sequence, newest_sequence })
    }
}

/// Allows the node to push this much more to one subscription.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ChannelCredit {
    /// Which subscription.
    pub handle: u32,
    /// Messages, in addition to what is left.
    pub messages: u32,
    /// Bytes of envelopes, in addition to what is left. One message may overdraw it.
    pub bytes: u32,
}

impl ChannelCredit {
    /// Appends the frame.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let start = begin_frame(out, FrameType::ChannelCredit);
        for number in [self.handle, self.messages, self.bytes, 0] {
            out.extend_from_slice(&number.to_le_bytes());
        }
        finish_frame(out, start, FrameType::ChannelCredit);
    }

    /// Parses the body.
    ///
    /// # Errors
    /// [`RejectCode::FrameLength`] or [`RejectCode::FrameReserved`].
    pub fn parse(body: &[u8]) -> Result<Self, RejectCode> {
        let mut reader = Reader::new(body, RejectCode::FrameLength);
        let credit = Self { handle: reader.u32()?, messages: reader.u32()?, bytes: reader.u32()? };
        reader.zeros(4, RejectCode::FrameReserved)?;
        reader.end()?;
        Ok(credit)
    }
}

/// Bytes of a ChannelDeliver body in front of what a Deliver body has, too.
pub const CHANNEL_DELIVER_HEADER_BYTES: usize = 8;

/// Messages of a channel, pushed to one subscription. What follows the handle is the body of a Deliver frame, whose sequences are the
/// channel's; so one encoding of it serves every subscriber.
#[derive(Debug)]
pub struct ChannelDeliver<'a> {
    /// Which subscription.
    pub handle: u32,
    /// The messages. Without a batch header, the one of the subscription's previous ChannelDeliver holds. Ranges are those of the body
    /// behind its first [`CHANNEL_DELIVER_HEADER_BYTES`].
    pub deliver: Deliver<'a>,
}

impl<'a> ChannelDeliver<'a> {
    /// Appends the frame's header and what stands in front of `deliver_bytes` of a Deliver body, which the caller sends behind it:
    /// [`DeliverEncoder::begin_body`] makes them.
    ///
    /// # Panics
    /// When the frame would be above its limit.
    pub fn encode_head(out: &mut Vec<u8>, handle: u32, deliver_bytes: usize) {
        let head = crate::frame::FrameHeader::new(
            FrameType::ChannelDeliver,
            CHANNEL_DELIVER_HEADER_BYTES.saturating_add(deliver_bytes),
        );
        out.extend_from_slice(&head.expect("a node makes no frame above its limit").to_bytes());
        out.extend_from_slice(&handle.to_le_bytes());
        out.extend_from_slice(&[0; 4]);
    }

    /// Parses a body that starts at a multiple of eight bytes.
    ///
    /// # Errors
    /// The [`RejectCode`] of the first rule that the bytes break.
    pub fn parse(body: &'a [u8]) -> Result<Self, RejectCode> {
        let mut reader = Reader::new(body, RejectCode::FrameLength);
        let handle = reader.u32()?;
        reader.zeros(4, RejectCode::FrameReserved)?;
        Ok(Self { handle, deliver: Deliver::parse(reader.rest())? })
    }
}

/// The application has these messages.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ChannelAck {
    /// Which subscription.
    pub handle: u32,
    /// Of a group's member: the messages. Of a subscriber of its own: one sequence, up to and with which it has all.
    pub sequences: Vec<u64>,
}

impl ChannelAck {
    /// Appends the frame.
    ///
    /// # Panics
    /// Above [`CONSUMER_ACK_SEQUENCES_MAX`] sequences: the caller splits them over several frames.
    #[allow(clippy::cast_possible_truncation, reason = "asserted to be below CONSUMER_ACK_SEQUENCES_MAX")]
    pub fn encode(&self, out: &mut Vec<u8>) {
        assert!(self.sequences.len() <= CONSUMER_ACK_SEQUENCES_MAX, "acknowledgements are split over frames");
        let start = begin_frame(out, FrameType::ChannelAck);
        out.extend_from_slice(&self.handle.to_le_bytes());
        out.extend_from_slice(&(self.sequences.len() as u32).to_le_bytes());
        for sequence in &self.sequences {
            out.extend_from_slice(&sequence.to_le_bytes());
        }
        finish_frame(out, start, FrameType::ChannelAck);
    }

    /// Parses the body.
    ///
    /// # Errors
    /// [`RejectCode::FrameLength`].
    pub fn parse(body: &[u8]) -> Result<Self, RejectCode> {
        let mut reader = Reader::new(body, RejectCode::FrameLength);
        let (handle, count) = (reader.u32()?, reader.u32()? as usize);
        if count > CONSUMER_ACK_SEQUENCES_MAX || reader.remaining() != count * 8 {
            return Err(RejectCode::FrameLength);
        }
        let sequences = (0..count).map(|_| reader.u64()).collect::<Result<_, _>>()?;
        reader.end()?;
        Ok(Self { handle, sequences })
    }
}

/// How a member of a group gives messages back.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum GiveBack {
    /// As if it had not been handed them: nothing counts as tried, and they go to another member as long as one is there.
    Untouched,
    /// It could not do the work. Again, to whichever member, and not before this time has passed; the node may make it longer.
    Later {
        /// Milliseconds.
        delay_ms: u32,
    },
}

/// A member of a group gives these messages back.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ChannelNack {
    /// Which subscription.
    pub handle: u32,
    /// How.
    pub how: GiveBack,
    /// The messages.
    pub sequences: Vec<u64>,
}

impl ChannelNack {
    /// Appends the frame.
    ///
    /// # Panics
    /// Above [`CONSUMER_ACK_SEQUENCES_MAX`] sequences: the caller splits them over several frames.
    #[allow(clippy::cast_possible_truncation, reason = "asserted to be below CONSUMER_ACK_SEQUENCES_MAX")]
    pub fn encode(&self, out: &mut Vec<u8>) {
        assert!(self.sequences.len() <= CONSUMER_ACK_SEQUENCES_MAX, "what is given back is split over frames");
        let start = begin_frame(out, FrameType::ChannelNack);
        let (kind, delay_ms) = match self.how {
            GiveBack::Untouched => (0, 0),
            GiveBack::Later { delay_ms } => (1, delay_ms),
        };
        out.extend_from_slice(&self.handle.to_le_bytes());
        out.extend_from_slice(&[kind, 0, 0, 0]);
        out.extend_from_slice(&u32::to_le_bytes(delay_ms));
        out.extend_from_slice(&(self.sequences.len() as u32).to_le_bytes());
        for sequence in &self.sequences {
            out.extend_from_slice(&sequence.to_le_bytes());
        }
        finish_frame(out, start, FrameType::ChannelNack);
    }

    /// Parses the body.
    ///
    /// # Errors
    /// [`RejectCode::FrameLength`] or [`RejectCode::FrameReserved`].
    pub fn parse(body: &[u8]) -> Result<Self, RejectCode> {
        let mut reader = Reader::new(body, RejectCode::FrameLength);
        let (handle, kind) = (reader.u32()?, reader.u8()?);
        reader.zeros(3, RejectCode::FrameReserved)?;
        let how = match (kind, reader.u32()?) {
            (0, 0) => GiveBack::Untouched,
            (1, delay_ms) => GiveBack::Later { delay_ms },
            _ => return Err(RejectCode::FrameReserved),
        };
        let count = reader.u32()? as usize;
        if count > CONSUMER_ACK_SEQUENCES_MAX || reader.remaining() != count * 8 {
            return Err(RejectCode::FrameLength);
        }
        let sequences = (0..count).map(|_| reader.u64()).collect::<Result<_, _>>()?;
        reader.end()?;
        Ok(Self { handle, how, sequences })
    }
}

/// What becomes of the subscription that a connection leaves.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum LeaveMode {
    /// It stays, and goes on where it is when it is read again.
    Detach = 0,
    /// It ends.
    Unsubscribe = 1,
}

/// Stops reading a channel.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ChannelLeave {
    /// Which subscription.
    pub handle: u32,
    /// What becomes of it.
    pub mode: LeaveMode,
}

impl ChannelLeave {
    /// Appends the frame.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let start = begin_frame(out, FrameType::ChannelLeave);
        out.extend_from_slice(&self.handle.to_le_bytes());
        out.extend_from_slice(&[self.mode as u8, 0, 0, 0]);
        finish_frame(out, start, FrameType::ChannelLeave);
    }

    /// Parses the body.
    ///
    /// # Errors
    /// [`RejectCode::FrameLength`] or [`RejectCode::FrameReserved`].
    pub fn parse(body: &[u8]) -> Result<Self, RejectCode> {
        let mut reader = Reader::new(body, RejectCode::FrameLength);
        let handle = reader.u32()?;
        let mode = match reader.u8()? {
            0 => LeaveMode::Detach,
            1 => LeaveMode::Unsubscribe,
            _ => return Err(RejectCode::FrameReserved),
        };
        reader.zeros(3, RejectCode::FrameReserved)?;
        reader.end()?;
        Ok(Self { handle, mode })
    }
}

/// This connection does not read the channel under this handle any more, or never did: the handle is free.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ChannelLeft {
    /// Which subscription.
    pub handle: u32,
    /// Zero: as the client asked. Else the number of the [`RejectCode`] that says why not, or why not any more.
    pub code: u16,
    /// When subscribing again may help, in milliseconds; zero for at once or never, as the code says.
    pub retry_after_ms: u32,
}

impl ChannelLeft {
    /// As the client asked.
    #[must_use]
    pub fn as_asked(handle: u32) -> Self {
        Self { handle, code: 0, retry_after_ms: 0 }
    }

    /// For this reason.
    #[must_use]
    pub fn because(handle: u32, code: RejectCode) -> Self {
        Self { handle, code: code.as_u16(), retry_after_ms: code.retry_after_ms() }
    }

    /// Appends the frame.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let start = begin_frame(out, FrameType::ChannelLeft);
        out.extend_from_slice(&self.handle.to_le_bytes());
        out.extend_from_slice(&self.code.to_le_bytes());
        out.extend_from_slice(&[0; 2]);
        out.extend_from_slice(&self.retry_after_ms.to_le_bytes());
        out.extend_from_slice(&[0; 4]);
        finish_frame(out, start, FrameType::ChannelLeft);
    }

    /// Parses the body.
    ///
    /// # Errors
    /// [`RejectCode::FrameLength`] or [`RejectCode::FrameReserved`].
    pub fn parse(body: &[u8]) -> Result<Self, RejectCode> {
        let mut reader = Reader::new(body, RejectCode::FrameLength);
        let (handle, code) = (reader.u32()?, reader.u16()?);
        reader.zeros(2, RejectCode::FrameReserved)?;
        let left = Self { handle, code, retry_after_ms: reader.u32()? };
        reader.zeros(4, RejectCode::FrameReserved)?;
        reader.end()?;
        Ok(left)
    }
}

/// A frame that names a channel and says nothing else.
macro_rules! about_a_channel {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        pub struct $name {
            /// The channel.
            pub channel: ChannelId,
        }

        impl $name {
            /// Appends the frame.
            pub fn encode(&self, out: &mut Vec<u8>) {
                let start = begin_frame(out, FrameType::$name);
                out.extend_from_slice(&self.channel.0);
                finish_frame(out, start, FrameType::$name);
            }

            /// Parses the body.
            ///
            /// # Errors
            /// [`RejectCode::FrameLength`].
            pub fn parse(body: &[u8]) -> Result<Self, RejectCode> {
                let mut reader = Reader::new(body, RejectCode::FrameLength);
                let channel = ChannelId(*reader.array()?);
                reader.end()?;
                Ok(Self { channel })
            }
        }
    };
}

about_a_channel! {
    /// A publisher asks to be told who subscribes: now, and with every change.
    ChannelAttach
}
about_a_channel! {
    /// A publisher does not want to be told any more.
    ChannelDetach
}
about_a_channel! {
    /// Asks for the record of a channel.
    ChannelRequest
}

/// Who subscribes to a channel, or what has changed in that.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ChannelMembers {
    /// The channel.
    pub channel: ChannelId,
    /// Counts changes, as long as the channel's shard runs.
    pub version: u64,
    /// Whether `joined` is all that subscribe, whatever was said before.
    pub is_whole: bool,
    /// Who subscribes, or does so since the version before.
    pub joined: Vec<AgentId>,
    /// Who does not any more since the version before; nobody of a whole list.
    pub left: Vec<AgentId>,
}

impl ChannelMembers {
    /// Appends the frame.
    ///
    /// # Panics
    /// When it names more than [`CHANNEL_MEMBERS_TOLD_MAX`] agents, or some that left in a whole list.
    #[allow(clippy::cast_possible_truncation, reason = "asserted to be below CHANNEL_MEMBERS_TOLD_MAX")]
    pub fn encode(&self, out: &mut Vec<u8>) {
        let told = self.joined.len() + self.left.len();
        assert!(told <= CHANNEL_MEMBERS_TOLD_MAX, "a larger change is told as a whole list");
        assert!(!self.is_whole || self.left.is_empty(), "a whole list knows of nobody who left");
        let start = begin_frame(out, FrameType::ChannelMembers);
        out.extend_from_slice(&self.channel.0);
        out.extend_from_slice(&self.version.to_le_bytes());
        let flags = if self.is_whole { FLAG_WHOLE } else { 0 };
        for number in [flags, 0, self.joined.len() as u32, self.left.len() as u32] {
            out.extend_from_slice(&number.to_le_bytes());
        }
        for agent in self.joined.iter().chain(&self.left) {
            out.extend_from_slice(&agent.0);
        }
        finish_frame(out, start, FrameType::ChannelMembers);
    }

    /// Parses the body.
    ///
    /// # Errors
    /// [`RejectCode::FrameLength`] or [`RejectCode::FrameReserved`].
    pub fn parse(body: &[u8]) -> Result<Self, RejectCode> {
        let mut reader = Reader::new(body, RejectCode::FrameLength);
        let (channel, version, flags) = (ChannelId(*reader.array()?), reader.u64()?, reader.u32()?);
        reader.zeros(4, RejectCode::FrameReserved)?;
        let (joined, left) = (reader.u32()? as usize, reader.u32()? as usize);
        let is_whole = flags == FLAG_WHOLE;
        if flags & !FLAG_WHOLE != 0 || (is_whole && left > 0) {
            return Err(RejectCode::FrameReserved);
        }
        let told = joined.saturating_add(left);
        if told > CHANNEL_MEMBERS_TOLD_MAX || reader.remaining() != told * 16 {
            return Err(RejectCode::FrameLength);
        }
        let mut agents = |count| (0..count).map(|_| reader.array().map(|id| AgentId(*id))).collect::<Result<_, _>>();
        let (joined, left) = (agents(joined)?, agents(left)?);
        reader.end()?;
        Ok(Self { channel, version, is_whole, joined, left })
    }
}

/// Appends a ChannelResponse frame: the record that was asked for.
pub fn encode_channel_response(out: &mut Vec<u8>, record: &SignedChannelRecord) {
    let start = begin_frame(out, FrameType::ChannelResponse);
    out.extend_from_slice(&record.to_bytes());
    finish_frame(out, start, FrameType::ChannelResponse);
}

impl<'o> DeliverEncoder<'o> {
    /// Starts the body of a Deliver frame without its header, for [`ChannelDeliver::encode_head`], behind what `out` holds.
    ///
    /// # Panics
    /// As [`begin`](Self::begin).
    pub fn begin_body(out: &'o mut Vec<u8>, batch_header: Option<&[u8]>) -> Self {
        Self::begin_as(None, out, batch_header)
    }
}
