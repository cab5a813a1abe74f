//! Frames of the control stream about dead letters: messages that a mailbox keeps and does not deliver any more. Only the
//! mailbox's owner may ask, and each question has one answer: its own frame, or a Reject.

use crate::deliver::Deliver;
use crate::frame::{FrameType, begin_frame, finish_frame};
use crate::id::AgentId;
use crate::limits::{DEAD_LETTER_CHANGES_MAX, DEAD_LETTERS_LISTED_MAX};
use crate::reader::Reader;
use crate::reject::RejectCode;

/// The reason of a dead letter that the node itself rejected: its sender signed it after the time since when it is revoked.
/// Consumers should not use it for reasons of their own.
pub const REASON_SENDER_REVOKED: u16 = u16::MAX;

/// Asks for a page of the dead letters of a mailbox.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DeadLetterList {
    /// Whose mailbox.
    pub mailbox: AgentId,
    /// The sequence behind which the page begins; 0 for the first page.
    pub after: u64,
    /// Most letters in the answer; [`DEAD_LETTERS_LISTED_MAX`] at most.
    pub letters_max: u32,
}

impl DeadLetterList {
    /// Appends the frame.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let start = begin_frame(out, FrameType::DeadLetterList);
        out.extend_from_slice(&self.mailbox.0);
        out.extend_from_slice(&self.after.to_le_bytes());
        out.extend_from_slice(&self.letters_max.to_le_bytes());
        out.extend_from_slice(&[0; 4]);
        finish_frame(out, start, FrameType::DeadLetterList);
    }

    /// Parses the body.
    ///
    /// # Errors
    /// [`RejectCode::FrameLength`], also for a page that is too long or has no room for a letter, or
    /// [`RejectCode::FrameReserved`].
    pub fn parse(body: &[u8]) -> Result<Self, RejectCode> {
        let mut reader = Reader::new(body, RejectCode::FrameLength);
        let list = Self { mailbox: AgentId(*reader.array()?), after: reader.u64()?, letters_max: reader.u32()? };
        if list.letters_max == 0 || list.letters_max as usize > DEAD_LETTERS_LISTED_MAX {
            return Err(RejectCode::FrameLength);
        }
        reader.zeros(4, RejectCode::FrameReserved)?;
        reader.end()?;
        Ok(list)
    }
}

/// A page of dead letters, by growing sequence.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct DeadLetters {
    /// Dead letters in the mailbox.
    pub total: u64,
    /// Those of the page; none behind the last page.
    pub letters: Vec<DeadLetterEntry>,
}

/// A dead letter in a list.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DeadLetterEntry {
    /// Number of the message in its mailbox.
    pub mailbox_sequence: u64,
    /// When it died, by the node's clock, Unix milliseconds.
    pub died_ms: u64,
    /// When its time is over, Unix milliseconds, up to a second late; 0 for never.
    pub expiry_ms: u64,
    /// Bytes of its envelope.
    pub envelope_bytes: u32,
    /// What its consumer gave as reason; 0 for none, [`REASON_SENDER_REVOKED`] if the node rejected it.
    pub reason: u16,
    /// Who gave it up.
    pub cause: DeathCause,
    /// Deliveries of it that failed; stays at 255.
    pub deliveries: u8,
}

/// Who gave a message up.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(u8)]
pub enum DeathCause {
    /// Its consumer refused it for good.
    Rejected = 0,
    /// Too many deliveries of it failed.
    Deliveries = 1,
}

impl DeathCause {
    fn from_u8(cause: u8) -> Result<Self, RejectCode> {
        match cause {
            0 => Ok(Self::Rejected),
            1 => Ok(Self::Deliveries),
            _ => Err(RejectCode::FrameReserved),
        }
    }
}

/// Bytes of a dead letter in a list.
pub const DEAD_LETTER_ENTRY_BYTES: usize = 32;

impl DeadLetters {
    /// Appends the frame.
    ///
    /// # Panics
    /// Above [`DEAD_LETTERS_LISTED_MAX`] letters.
    #[allow(clippy::cast_possible_truncation, reason = "asserted to be below DEAD_LETTERS_LISTED_MAX")]
    pub fn encode(&self, out: &mut Vec<u8>) {
        assert!(self.letters.len() <= DEAD_LETTERS_LISTED_MAX, "dead letters are listed page by page");
        let start = begin_frame(out, FrameType::DeadLetters);
        out.extend_from_slice(&self.total.to_le_bytes());
        out.extend_from_slice(&(self.letters.len() as u32).to_le_bytes());
        out.extend_from_slice(&[0; 4]);
        for letter in &self.letters {
            out.extend_from_slice(&letter.mailbox_sequence.to_le_bytes());
            out.extend_from_slice(&letter.died_ms.to_le_bytes());
            out.extend_from_slice(&letter.expiry_ms.to_le_bytes());
            out.extend_from_slice(&letter.envelope_bytes.to_le_bytes());
            out.extend_from_slice(&letter.reason.to_le_bytes());
            out.extend_from_slice(&[letter.cause as u8, letter.deliveries]);
        }
        finish_frame(out, start, FrameType::DeadLetters);
    }

    /// Parses the body.
    ///
    /// # Errors
    /// [`RejectCode::FrameLength`] or [`RejectCode::FrameReserved`].
    pub fn parse(body: &[u8]) -> Result<Self, RejectCode> {
        let mut reader = Reader::new(body, RejectCode::FrameLength);
        let (total, count) = (reader.u64()?, reader.u32()? as usize);
        reader.zeros(4, RejectCode::FrameReserved)?;
        if count > DEAD_LETTERS_LISTED_MAX || reader.remaining() != count * DEAD_LETTER_ENTRY_BYTES {
            return Err(RejectCode::FrameLength);
        }
        let letters = (0..count).map(|_| DeadLetterEntry::parse(&mut reader)).collect::<Result<_, _>>()?;
        reader.end()?;
        Ok(Self { total, letters })
    }
}

impl DeadLetterEntry {
    fn parse(reader: &mut Reader<'_>) -> Result<Self, RejectCode> {
        Ok(Self {
            mailbox_sequence: reader.u64()?,
            died_ms: reader.u64()?,
            expiry_ms: reader.u64()?,
            envelope_bytes: reader.u32()?,
            reason: reader.u16()?,
            cause: DeathCause::from_u8(reader.u8()?)?,
            deliveries: reader.u8()?,
        })
    }
}

/// Asks for one dead letter, to look at: it stays where it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DeadLetterRead {
    /// Whose mailbox.
    pub mailbox: AgentId,
    /// Number of the message in it.
    pub mailbox_sequence: u64,
}

impl DeadLetterRead {
    /// Appends the frame.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let start = begin_frame(out, FrameType::DeadLetterRead);
        out.extend_from_slice(&self.mailbox.0);
        out.extend_from_slice(&self.mailbox_sequence.to_le_bytes());
        finish_frame(out, start, FrameType::DeadLetterRead);
    }

    /// Parses the body.
    ///
    /// # Errors
    /// [`RejectCode::FrameLength`].
    pub fn parse(body: &[u8]) -> Result<Self, RejectCode> {
        let mut reader = Reader::new(body, RejectCode::FrameLength);
        let read = Self { mailbox: AgentId(*reader.array()?), mailbox_sequence: reader.u64()? };
        reader.end()?;
        Ok(read)
    }
}

/// Parses the body of a DeadLetter frame, which starts at a multiple of eight: a Deliver frame of one message, with the
/// header of its batch. [`DeliverEncoder::begin_letter`](crate::deliver::DeliverEncoder::begin_letter) builds it.
///
/// # Errors
/// As [`Deliver::parse`]; [`RejectCode::FrameLength`] without a header, or with another number of messages.
pub fn parse_dead_letter(body: &[u8]) -> Result<Deliver<'_>, RejectCode> {
    let deliver = Deliver::parse(body)?;
    match (deliver.batch_header.is_some(), deliver.messages.len()) {
        (true, 1) => Ok(deliver),
        _ => Err(RejectCode::FrameLength),
    }
}

/// What becomes of dead letters.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(u8)]
pub enum LetterChange {
    /// They wait again, at their old places.
    Replay = 1,
    /// They are deleted.
    Purge = 2,
}

/// Has dead letters delivered again, or deletes them.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DeadLetterChange {
    /// Whose mailbox.
    pub mailbox: AgentId,
    /// What becomes of them.
    pub change: LetterChange,
    /// Numbers of the messages in the mailbox, in any order.
    pub sequences: Vec<u64>,
}

impl DeadLetterChange {
    /// Appends the frame.
    ///
    /// # Panics
    /// Above [`DEAD_LETTER_CHANGES_MAX`] sequences: the caller splits them over several frames.
    #[allow(clippy::cast_possible_truncation, reason = "asserted to be below DEAD_LETTER_CHANGES_MAX")]
    pub fn encode(&self, out: &mut Vec<u8>) {
        assert!(self.sequences.len() <= DEAD_LETTER_CHANGES_MAX, "changes are split over frames");
        let start = begin_frame(out, FrameType::DeadLetterChange);
        out.extend_from_slice(&self.mailbox.0);
        out.extend_from_slice(&[self.change as u8, 0, 0, 0]);
        out.extend_from_slice(&(self.sequences.len() as u32).to_le_bytes());
        for sequence in &self.sequences {
            out.extend_from_slice(&sequence.to_le_bytes());
        }
        finish_frame(out, start, FrameType::DeadLetterChange);
    }

    /// Parses the body.
    ///
    /// # Errors
    /// [`RejectCode::FrameLength`] or [`RejectCode::FrameReserved`].
    pub fn parse(body: &[u8]) -> Result<Self, RejectCode> {
        let mut reader = Reader::new(body, RejectCode::FrameLength);
        let mailbox = AgentId(*reader.array()?);
        let change = match reader.u8()? {
            1 => LetterChange::Replay,
            2 => LetterChange::Purge,
            _ => return Err(RejectCode::FrameReserved),
        };
        reader.zeros(3, RejectCode::FrameReserved)?;
        let count = reader.u32()? as usize;
        if count > DEAD_LETTER_CHANGES_MAX || reader.remaining() != count * 8 {
            return Err(RejectCode::FrameLength);
        }
        let sequences = (0..count).map(|_| reader.u64()).collect::<Result<_, _>>()?;
        reader.end()?;
        Ok(Self { mailbox, change, sequences })
    }
}

/// The change is on the node's disk.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DeadLetterChanged {
    /// How many dead letters it concerned. Those that were none any more are left out.
    pub count: u32,
}

impl DeadLetterChanged {
    /// Appends the frame.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let start = begin_frame(out, FrameType::DeadLetterChanged);
        out.extend_from_slice(&self.count.to_le_bytes());
        out.extend_from_slice(&[0; 4]);
        finish_frame(out, start, FrameType::DeadLetterChanged);
    }

    /// Parses the body.
    ///
    /// # Errors
    /// [`RejectCode::FrameLength`] or [`RejectCode::FrameReserved`].
    pub fn parse(body: &[u8]) -> Result<Self, RejectCode> {
        let mut reader = Reader::new(body, RejectCode::FrameLength);
        let changed = Self { count: reader.u32()? };
        reader.zeros(4, RejectCode::FrameReserved)?;
        reader.end()?;
        Ok(changed)
    }
}
