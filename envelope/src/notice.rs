//! What the node tells a sender about a message of its own: that it expired before it was acknowledged.
//!
//! A notice comes from the node, inside the TLS connection, and not from an agent: nobody has signed it. `docs/security.md`
//! says what that means.

use crate::frame::{FrameType, begin_frame, finish_frame};
use crate::id::{AgentId, MessageId};
use crate::reader::Reader;
use crate::reject::RejectCode;

/// Size of what a notice says, in bytes. So much of a subscriber's credit one takes.
pub const NOTICE_BODY_BYTES: usize = 48;

/// Why a message is over.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(u8)]
#[non_exhaustive]
pub enum NoticeCause {
    /// The time that its sender gave it.
    TimeToLive = 1,
    /// The time for which its mailbox keeps messages.
    Retention = 2,
}

impl NoticeCause {
    /// The cause with this number.
    #[must_use]
    pub const fn from_u8(cause: u8) -> Option<Self> {
        Some(match cause {
            1 => Self::TimeToLive,
            2 => Self::Retention,
            _ => return None,
        })
    }
}

/// What a notice says: 48 bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NoticeBody {
    /// Whom the message was for.
    pub recipient: AgentId,
    /// The message's id.
    pub message_id: MessageId,
    /// When its time was over, by the node's clock, Unix milliseconds.
    pub expired_at_ms: u64,
    /// Why.
    pub cause: NoticeCause,
}

impl NoticeBody {
    /// The bytes.
    #[must_use]
    pub fn to_bytes(&self) -> [u8; NOTICE_BODY_BYTES] {
        let mut out = [0; NOTICE_BODY_BYTES];
        out[..16].copy_from_slice(&self.recipient.0);
        out[16..32].copy_from_slice(&self.message_id.0);
        out[32..40].copy_from_slice(&self.expired_at_ms.to_le_bytes());
        out[40] = self.cause as u8;
        out
    }

    /// Reads what [`NoticeBody::to_bytes`] wrote.
    ///
    /// # Errors
    /// The code of the first rule that is broken.
    pub fn parse(bytes: &[u8]) -> Result<Self, RejectCode> {
        let mut reader = Reader::new(bytes, RejectCode::FrameLength);
        let body = Self::read(&mut reader)?;
        reader.end().map(|()| body)
    }

    fn read(reader: &mut Reader<'_>) -> Result<Self, RejectCode> {
        let (recipient, message_id) = (AgentId(*reader.array()?), MessageId(*reader.array()?));
        let expired_at_ms = reader.u64()?;
        let cause = NoticeCause::from_u8(reader.u8()?).ok_or(RejectCode::FrameReserved)?;
        reader.zeros(7, RejectCode::FrameReserved)?;
        Ok(Self { recipient, message_id, expired_at_ms, cause })
    }
}

/// A pushed notice.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Notice {
    /// Its number in the mailbox: what acknowledges it.
    pub mailbox_sequence: u64,
    /// How often it was pushed before: zero the first time; stays at 255.
    pub attempt: u8,
    /// What it says.
    pub body: NoticeBody,
}

impl Notice {
    /// Appends the frame; `body` are the bytes of its [`NoticeBody`].
    pub fn encode(out: &mut Vec<u8>, mailbox_sequence: u64, attempt: u8, body: &[u8; NOTICE_BODY_BYTES]) {
        let start = begin_frame(out, FrameType::Notice);
        out.extend_from_slice(&mailbox_sequence.to_le_bytes());
        out.extend_from_slice(&[attempt, 0, 0, 0, 0, 0, 0, 0]);
        out.extend_from_slice(body);
        finish_frame(out, start, FrameType::Notice);
    }

    /// Parses the body of a frame.
    ///
    /// # Errors
    /// [`RejectCode::FrameLength`] or [`RejectCode::FrameReserved`].
    pub fn parse(body: &[u8]) -> Result<Self, RejectCode> {
        let mut reader = Reader::new(body, RejectCode::FrameLength);
        let (mailbox_sequence, attempt) = (reader.u64()?, reader.u8()?);
        reader.zeros(7, RejectCode::FrameReserved)?;
        let body = NoticeBody::read(&mut reader)?;
        reader.end()?;
        Ok(Self { mailbox_sequence, attempt, body })
    }
}
