//! Signals: messages that no node stores, such as "working on it". Whoever reads the mailbox at that moment has them, and nobody else.
//!
//! A signal is an envelope with [`FLAG_EPHEMERAL`](crate::envelope::FLAG_EPHEMERAL) in a signed batch like any other. Its recipient says
//! how many it takes ([`SignalCredit`]); the node pushes that many, in Signal frames ([`parse_signals`]), and drops the others.
//! `docs/protocol.md` gives every byte of the frames, `docs/patterns.md` those of a [`Working`].

use crate::deliver::Deliver;
use crate::frame::{FrameType, begin_frame, finish_frame};
use crate::id::MessageId;
use crate::limits::SIGNAL_ENVELOPE_BYTES_MAX;
use crate::reader::Reader;
use crate::reject::RejectCode;
use crate::request::Malformed;

/// Allows the node to push so many more signals. A reader that never says so is pushed none.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct SignalCredit {
    /// Signals, in addition to what is left.
    pub signals: u32,
}

impl SignalCredit {
    /// Appends the frame.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let start = begin_frame(out, FrameType::SignalCredit);
        out.extend_from_slice(&self.signals.to_le_bytes());
        out.extend_from_slice(&[0; 4]);
        finish_frame(out, start, FrameType::SignalCredit);
    }

    /// Parses the body.
    ///
    /// # Errors
    /// [`RejectCode::FrameLength`] or [`RejectCode::FrameReserved`].
    pub fn parse(body: &[u8]) -> Result<Self, RejectCode> {
        let mut reader = Reader::new(body, RejectCode::FrameLength);
        let credit = Self { signals: reader.u32()? };
        reader.zeros(4, RejectCode::FrameReserved)?;
        reader.end()?;
        Ok(credit)
    }
}

/// Parses the body of a Signal frame, which starts at a multiple of eight: a Deliver frame with the header of its batch, whose messages
/// have no number and no attempts. [`DeliverEncoder::begin_signal`](crate::deliver::DeliverEncoder::begin_signal) builds it.
///
/// # Errors
/// As [`Deliver::parse`]; [`RejectCode::FrameLength`] without a header or without a message, [`RejectCode::EnvelopeLength`] where one is
/// larger than a signal can be, [`RejectCode::FrameReserved`] where one has a number or an attempt.
pub fn parse_signals(body: &[u8]) -> Result<Deliver<'_>, RejectCode> {
    let signals = Deliver::parse(body)?;
    if signals.batch_header.is_none() || signals.messages.is_empty() {
        return Err(RejectCode::FrameLength);
    }
    if signals.messages.iter().any(|signal| signal.envelope.len() > SIGNAL_ENVELOPE_BYTES_MAX) {
        return Err(RejectCode::EnvelopeLength);
    }
    match signals.messages.iter().all(|signal| (signal.mailbox_sequence, signal.attempt) == (0, 0)) {
        true => Ok(signals),
        false => Err(RejectCode::FrameReserved),
    }
}

/// Most bytes of the note of a [`Working`].
pub const WORKING_NOTE_BYTES_MAX: usize = 256;
const WORKING_HEADER_BYTES: usize = 24;
// No UTF-8 text begins with 0xff: an application's own payload is not taken for one of these by accident.
const WORKING_MAGIC: [u8; 3] = *b"\xffWK";
const WORKING_VERSION: u8 = 1;

/// What an agent is doing.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(u8)]
#[non_exhaustive]
pub enum WorkState {
    /// It works.
    Working = 1,
    /// It waits, for somebody or something else.
    Waiting = 2,
    /// It has stopped.
    Idle = 3,
}

impl WorkState {
    /// The state with this number.
    #[must_use]
    pub const fn from_u8(state: u8) -> Option<Self> {
        Some(match state {
            1 => Self::Working,
            2 => Self::Waiting,
            3 => Self::Idle,
            _ => return None,
        })
    }
}

/// What a signal says whose payload is of this form: that its sender works.
///
/// ```text
///  0 [3] 0xff "WK" | 3 u8 version = 1 | 4 u8 state | 5 [3] zero | 8 [16] about: a message id or zero | 24 note, UTF-8, at most 256 bytes
/// ```
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Working {
    /// What it is doing.
    pub state: WorkState,
    /// The message that it works on.
    pub about: Option<MessageId>,
    /// For people. Above 256 bytes it is cut when it is written.
    pub note: String,
}

impl Working {
    /// The payload.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let note = &self.note[..self.note.floor_char_boundary(WORKING_NOTE_BYTES_MAX)];
        let mut bytes = Vec::with_capacity(WORKING_HEADER_BYTES + note.len());
        bytes.extend_from_slice(&WORKING_MAGIC);
        bytes.extend_from_slice(&[WORKING_VERSION, self.state as u8, 0, 0, 0]);
        bytes.extend_from_slice(&self.about.unwrap_or(MessageId::ZERO).0);
        bytes.extend_from_slice(note.as_bytes());
        bytes
    }

    /// Reads the payload of a signal; `None` when it does not begin as one of these does, and is the application's alone.
    ///
    /// # Errors
    /// [`Malformed`].
    pub fn parse(payload: &[u8]) -> Result<Option<Self>, Malformed> {
        if !payload.starts_with(&WORKING_MAGIC) {
            return Ok(None);
        }
        let (header, note) = payload.split_first_chunk::<WORKING_HEADER_BYTES>().ok_or(Malformed)?;
        let [_, _, _, WORKING_VERSION, state, 0, 0, 0, about @ ..] = *header else { return Err(Malformed) };
        let state = WorkState::from_u8(state).ok_or(Malformed)?;
        let note = str::from_utf8(note).map_err(|_| Malformed)?;
        if note.len() > WORKING_NOTE_BYTES_MAX {
            return Err(Malformed);
        }
        let about = Some(MessageId(about)).filter(|about| !about.is_zero());
        Ok(Some(Self { state, about, note: note.to_owned() }))
    }
}

#[cfg(test)]
mod tests;
