//! Presence: whether an agent is there, as far as it wants others to know. Frames of the deliver stream, where it says so, and of the
//! control stream, where others ask. `docs/protocol.md` gives every byte.

use crate::frame::{FrameType, begin_frame, finish_frame};
use crate::id::AgentId;
use crate::reader::Reader;
use crate::reject::RejectCode;

/// To whom an agent shows that it reads its mailbox. Without a word of it: to nobody.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
#[repr(u8)]
pub enum PresenceAudience {
    /// To nobody, and what was shown before is forgotten.
    #[default]
    Nobody = 0,
    /// To those whom policy lets send to it.
    Senders = 1,
}

/// Says to whom the agent shows that it reads its mailbox, while it does; after Subscribe.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct PresenceShow {
    /// To whom.
    pub audience: PresenceAudience,
}

impl PresenceShow {
    /// Appends the frame.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let start = begin_frame(out, FrameType::PresenceShow);
        out.extend_from_slice(&[self.audience as u8, 0, 0, 0, 0, 0, 0, 0]);
        finish_frame(out, start, FrameType::PresenceShow);
    }

    /// Parses the body.
    ///
    /// # Errors
    /// [`RejectCode::FrameLength`] or [`RejectCode::FrameReserved`].
    pub fn parse(body: &[u8]) -> Result<Self, RejectCode> {
        let mut reader = Reader::new(body, RejectCode::FrameLength);
        let audience = match reader.u8()? {
            0 => PresenceAudience::Nobody,
            1 => PresenceAudience::Senders,
            _ => return Err(RejectCode::FrameReserved),
        };
        reader.zeros(7, RejectCode::FrameReserved)?;
        reader.end()?;
        Ok(Self { audience })
    }
}

/// Asks whether an agent is there.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PresenceRequest {
    /// Who.
    pub agent: AgentId,
}

impl PresenceRequest {
    /// Appends the frame.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let start = begin_frame(out, FrameType::PresenceRequest);
        out.extend_from_slice(&self.agent.0);
        finish_frame(out, start, FrameType::PresenceRequest);
    }

    /// Parses the body.
    ///
    /// # Errors
    /// [`RejectCode::FrameLength`].
    pub fn parse(body: &[u8]) -> Result<Self, RejectCode> {
        let mut reader = Reader::new(body, RejectCode::FrameLength);
        let request = Self { agent: AgentId(*reader.array()?) };
        reader.end()?;
        Ok(request)
    }
}

/// What is known of it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[non_exhaustive]
pub enum PresenceState {
    /// Nothing, or nothing that whoever asks may know. There is no telling which.
    Unknown,
    /// It reads its mailbox now.
    Online,
    /// It did, and stopped so many minutes ago.
    Seen {
        /// Whole minutes.
        minutes: u32,
    },
    /// Whoever asks has asked too much: not looked up.
    Later {
        /// When asking again may help, in milliseconds.
        retry_after_ms: u32,
    },
}

/// Answers with it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PresenceAnswer {
    /// Who was asked for.
    pub agent: AgentId,
    /// What is known.
    pub state: PresenceState,
}

impl PresenceAnswer {
    /// Appends the frame.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let (state, number) = match self.state {
            PresenceState::Unknown => (0, 0),
            PresenceState::Online => (1, 0),
            PresenceState::Seen { minutes } => (2, minutes),
            PresenceState::Later { retry_after_ms } => (3, retry_after_ms),
        };
        let start = begin_frame(out, FrameType::PresenceAnswer);
        out.extend_from_slice(&self.agent.0);
        out.extend_from_slice(&[state, 0, 0, 0]);
        out.extend_from_slice(&u32::to_le_bytes(number));
        finish_frame(out, start, FrameType::PresenceAnswer);
    }

    /// Parses the body.
    ///
    /// # Errors
    /// [`RejectCode::FrameLength`] or [`RejectCode::FrameReserved`].
    pub fn parse(body: &[u8]) -> Result<Self, RejectCode> {
        let mut reader = Reader::new(body, RejectCode::FrameLength);
        let agent = AgentId(*reader.array()?);
        let state = reader.u8()?;
        reader.zeros(3, RejectCode::FrameReserved)?;
        let state = match (state, reader.u32()?) {
            (0, 0) => PresenceState::Unknown,
            (1, 0) => PresenceState::Online,
            (2, minutes) => PresenceState::Seen { minutes },
            (3, retry_after_ms) => PresenceState::Later { retry_after_ms },
            _ => return Err(RejectCode::FrameReserved),
        };
        reader.end()?;
        Ok(Self { agent, state })
    }
}
