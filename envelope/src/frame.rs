//! Frames: how the QUIC streams are cut into pieces. `docs/protocol.md` gives every byte.

use crate::limits::{CONTROL_BODY_BYTES_MAX, FRAME_BODY_BYTES_MAX, PREKEY_UPLOAD_BODY_BYTES_MAX};
use crate::reject::RejectCode;

/// Size of a frame's header, in bytes.
pub const FRAME_HEADER_BYTES: usize = 8;
/// The version that this code speaks.
pub const FRAME_VERSION: u8 = 1;

/// What a frame is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(u8)]
#[non_exhaustive]
pub enum FrameType {
    /// First frame of every stream: its role.
    StreamOpen = 0x01,
    /// Proves who the client is.
    Login = 0x10,
    /// The login held.
    LoginAccepted = 0x11,
    /// Something was refused.
    Reject = 0x12,
    /// Asks for an agent's key record.
    KeyRecordRequest = 0x13,
    /// Answers with it.
    KeyRecordResponse = 0x14,
    /// The agent's own next key record.
    KeyRecordPublish = 0x15,
    /// The node has it, and goes by it.
    KeyRecordPublished = 0x16,
    /// Asks for a registration, with a token.
    Enrol = 0x17,
    /// Answers with what became of it.
    Enrolled = 0x18,
    /// Asks whether an agent is there.
    PresenceRequest = 0x19,
    /// Answers with what is known of it.
    PresenceAnswer = 0x1a,
    /// A signed batch of envelopes.
    SignedBatch = 0x20,
    /// What became of the batches so far.
    SubmitAck = 0x21,
    /// Asks for one's own mailbox.
    Subscribe = 0x30,
    /// The subscription stands.
    Subscribed = 0x31,
    /// Allows the node to push more.
    Credit = 0x32,
    /// Pushed messages.
    Deliver = 0x33,
    /// The application has them.
    ConsumerAck = 0x34,
    /// The application wants them later, or never.
    ConsumerNack = 0x35,
    /// What the node says about a message that its recipient's mailbox does not hold any more.
    Notice = 0x36,
    /// Allows the node to push so many more signals.
    SignalCredit = 0x37,
    /// Pushed signals: messages that are not stored.
    Signal = 0x38,
    /// Says to whom the agent shows that it is there.
    PresenceShow = 0x39,
    /// Asks for a page of dead letters.
    DeadLetterList = 0x40,
    /// Answers with it.
    DeadLetters = 0x41,
    /// Asks for one dead letter, to look at.
    DeadLetterRead = 0x42,
    /// Answers with it.
    DeadLetter = 0x43,
    /// Has dead letters delivered again, or deletes them.
    DeadLetterChange = 0x44,
    /// It is done.
    DeadLetterChanged = 0x45,
    /// The agent's own prekeys.
    PrekeyUpload = 0x50,
    /// The node has them, or why not.
    PrekeyUploaded = 0x51,
    /// Asks for a prekey of an agent.
    PrekeyClaim = 0x52,
    /// Answers with it.
    PrekeyClaimed = 0x53,
    /// Asks how many prekeys of one's own are left.
    PrekeyStockRequest = 0x54,
    /// Answers with it, or says unasked that they become few.
    PrekeyStock = 0x55,
    /// Asks how a key record stands in the key log.
    KeyProofRequest = 0x60,
    /// Answers with the proof.
    KeyProof = 0x61,
    /// Asks for leaves of the key log.
    KeyLeavesRequest = 0x62,
    /// Answers with them.
    KeyLeaves = 0x63,
    /// Asks to read a channel.
    ChannelSubscribe = 0x70,
    /// The subscription is durable, and read here.
    ChannelSubscribed = 0x71,
    /// Allows the node to push more of a channel.
    ChannelCredit = 0x72,
    /// Pushed messages of a channel.
    ChannelDeliver = 0x73,
    /// The application has them.
    ChannelAck = 0x74,
    /// A member of a group gives messages back.
    ChannelNack = 0x75,
    /// Stops reading a channel.
    ChannelLeave = 0x76,
    /// A channel is not read any more, or cannot be.
    ChannelLeft = 0x77,
    /// Asks to be told who subscribes to a channel.
    ChannelAttach = 0x78,
    /// Says who does.
    ChannelMembers = 0x79,
    /// Asks not to be told any more.
    ChannelDetach = 0x7a,
    /// Asks for the record of a channel.
    ChannelRequest = 0x7b,
    /// Answers with it.
    ChannelResponse = 0x7c,
    /// Asks which channels there are.
    ChannelList = 0x7d,
    /// Answers with their names, or says that there may be others now.
    ChannelListed = 0x7e,
}

impl FrameType {
    /// Every type of this version.
    pub const ALL: &'static [Self] = &[
        Self::StreamOpen,
        Self::Login,
        Self::LoginAccepted,
        Self::Reject,
        Self::KeyRecordRequest,
        Self::KeyRecordResponse,
        Self::KeyRecordPublish,
        Self::KeyRecordPublished,
        Self::Enrol,
        Self::Enrolled,
        Self::PresenceRequest,
        Self::PresenceAnswer,
        Self::SignedBatch,
        Self::SubmitAck,
        Self::Subscribe,
        Self::Subscribed,
        Self::Credit,
        Self::Deliver,
        Self::ConsumerAck,
        Self::ConsumerNack,
        Self::Notice,
        Self::SignalCredit,
        Self::Signal,
        Self::PresenceShow,
        Self::DeadLetterList,
        Self::DeadLetters,
        Self::DeadLetterRead,
        Self::DeadLetter,
        Self::DeadLetterChange,
        Self::DeadLetterChanged,
        Self::PrekeyUpload,
        Self::PrekeyUploaded,
        Self::PrekeyClaim,
        Self::PrekeyClaimed,
        Self::PrekeyStockRequest,
        Self::PrekeyStock,
        Self::KeyProofRequest,
        Self::KeyProof,
        Self::KeyLeavesRequest,
        Self::KeyLeaves,
        Self::ChannelSubscribe,
        Self::ChannelSubscribed,
        Self::ChannelCredit,
        Self::ChannelDeliver,
        Self::ChannelAck,
        Self::ChannelNack,
        Self::ChannelLeave,
        Self::ChannelLeft,
        Self::ChannelAttach,
        Self::ChannelMembers,
        Self::ChannelDetach,
        Self::ChannelRequest,
        Self::ChannelResponse,
        Self::ChannelList,
        Self::ChannelListed,
    ];

    /// The type with this number.
    #[must_use]
    pub fn from_u8(frame_type: u8) -> Option<Self> {
        Self::ALL.iter().copied().find(|known| *known as u8 == frame_type)
    }

    /// Largest body of a frame of this type, in bytes.
    #[must_use]
    pub const fn body_bytes_max(self) -> usize {
        match self {
            Self::SignedBatch
            | Self::SubmitAck
            | Self::Deliver
            | Self::ConsumerAck
            | Self::ConsumerNack
            | Self::Signal
            | Self::DeadLetter
            | Self::KeyLeaves
            | Self::ChannelDeliver
            | Self::ChannelAck
            | Self::ChannelNack
            | Self::ChannelMembers
            | Self::ChannelResponse => FRAME_BODY_BYTES_MAX,
            Self::PrekeyUpload => PREKEY_UPLOAD_BODY_BYTES_MAX,
            _ => CONTROL_BODY_BYTES_MAX,
        }
    }
}

/// The header of a frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FrameHeader {
    /// Bytes that follow the header.
    pub body_bytes: u32,
    /// What they are.
    pub frame_type: FrameType,
}

impl FrameHeader {
    /// A header for a body of this many bytes.
    ///
    /// # Errors
    /// [`RejectCode::FrameOversized`] above the type's limit.
    pub fn new(frame_type: FrameType, body_bytes: usize) -> Result<Self, RejectCode> {
        let within = body_bytes <= frame_type.body_bytes_max();
        let body_bytes = u32::try_from(body_bytes).map_err(|_| RejectCode::FrameOversized)?;
        if within { Ok(Self { body_bytes, frame_type }) } else { Err(RejectCode::FrameOversized) }
    }

    /// Parses the eight bytes in front of a body.
    ///
    /// # Errors
    /// The [`RejectCode`] of the first rule that they break. The version is looked at first: another version may
    /// mean everything else differently.
    pub fn parse(bytes: &[u8; FRAME_HEADER_BYTES]) -> Result<Self, RejectCode> {
        let [l0, l1, l2, l3, frame_type, version, r0, r1] = *bytes;
        if version != FRAME_VERSION {
            return Err(RejectCode::FrameVersion);
        }
        if [r0, r1] != [0, 0] {
            return Err(RejectCode::FrameReserved);
        }
        let frame_type = FrameType::from_u8(frame_type).ok_or(RejectCode::FrameUnknownType)?;
        Self::new(frame_type, u32::from_le_bytes([l0, l1, l2, l3]) as usize)
    }

    /// The eight bytes.
    #[must_use]
    pub fn to_bytes(self) -> [u8; FRAME_HEADER_BYTES] {
        let [l0, l1, l2, l3] = self.body_bytes.to_le_bytes();
        [l0, l1, l2, l3, self.frame_type as u8, FRAME_VERSION, 0, 0]
    }
}

/// Starts a frame in `out`; [`finish_frame`] fills in its length. Returns where the frame begins.
pub(crate) fn begin_frame(out: &mut Vec<u8>, frame_type: FrameType) -> usize {
    let start = out.len();
    out.extend_from_slice(&FrameHeader { body_bytes: 0, frame_type }.to_bytes());
    start
}

/// Writes the length of the frame that began at `start`.
///
/// # Panics
/// When the body is larger than the type's limit: encoders check their input first.
pub(crate) fn finish_frame(out: &mut [u8], start: usize, frame_type: FrameType) {
    let body_bytes = out.len() - start - FRAME_HEADER_BYTES;
    let header = FrameHeader::new(frame_type, body_bytes).expect("an encoder made a frame above its limit");
    out[start..start + FRAME_HEADER_BYTES].copy_from_slice(&header.to_bytes());
}
