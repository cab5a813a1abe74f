//! Typed messages: what agents that work together say to each other, each naming the message that it follows. The payload of an
//! envelope of kind direct, before it is sealed; `docs/threads.md` gives every byte.
//!
//! The content is the application's, byte by byte: what is hashed is what was sent, so nothing has to be brought into a canonical
//! form first. What stands before it has one encoding and no other.

/// Bytes before the content.
pub const TYPED_HEADER_BYTES: usize = 104;

// No UTF-8 text begins with 0xff.
const MAGIC: [u8; 3] = *b"\xffTH";
/// The version that this code reads and writes.
const VERSION: u8 = 1;
const HAS_PARENT: u8 = 1;
const HAS_HANDOFF: u8 = 2;

/// What a typed message is. The names are those of the agent communication security protocol.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(u8)]
#[non_exhaustive]
pub enum MessageType {
    /// Work is offered to somebody. Names what is handed over by its hash.
    HandoffRequest = 1,
    /// Offered work is taken. Names the same hash.
    HandoffApproval = 2,
    /// A vote.
    ConsensusVote = 3,
    /// How far something is.
    StatusUpdate = 4,
    /// Somebody is to do something.
    TaskAssignment = 5,
    /// Whether something is good enough.
    QualityGateResult = 6,
    /// Something is wrong.
    SecurityAlert = 7,
    /// From whatever runs the agents.
    SystemNotification = 8,
}

impl MessageType {
    /// All of them, in the order of their numbers.
    pub const ALL: [Self; 8] = [
        Self::HandoffRequest,
        Self::HandoffApproval,
        Self::ConsensusVote,
        Self::StatusUpdate,
        Self::TaskAssignment,
        Self::QualityGateResult,
        Self::SecurityAlert,
        Self::SystemNotification,
    ];

    /// The type with this number.
    #[must_use]
    pub fn from_u8(number: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|known| *known as u8 == number)
    }

    /// Its name, for people and programs.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::HandoffRequest => "handoff_request",
            Self::HandoffApproval => "handoff_approval",
            Self::ConsensusVote => "consensus_vote",
            Self::StatusUpdate => "status_update",
            Self::TaskAssignment => "task_assignment",
            Self::QualityGateResult => "quality_gate_result",
            Self::SecurityAlert => "security_alert",
            Self::SystemNotification => "system_notification",
        }
    }

    /// Whether it hands something over, and so must say what.
    #[must_use]
    pub fn needs_handoff(self) -> bool {
        matches!(self, Self::HandoffRequest | Self::HandoffApproval)
    }
}

/// A payload that says it is typed, and breaks a rule of that or is of a later version.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Malformed;

/// A typed message.
///
/// ```text
///  0 [3] 0xff "TH" | 3 u8 version = 1 | 4 u8 type | 5 u8 flags (1 parent, 2 handoff) | 6 [2] zero
///  8 [32] blinding | 40 [32] parent or zero | 72 [32] handoff or zero | 104 content
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TypedPayload<'a> {
    /// What it is.
    pub message_type: MessageType,
    /// Random: what is committed to cannot be guessed by whoever sees the commitment.
    pub blinding: [u8; 32],
    /// SHA-256 of all bytes of the envelope that this one follows; none for the first of a thread.
    pub parent: Option<[u8; 32]>,
    /// SHA-256 of what is handed over.
    pub handoff: Option<[u8; 32]>,
    /// The application's.
    pub content: &'a [u8],
}

impl<'a> TypedPayload<'a> {
    /// The payload; none when a type that hands something over does not say what.
    #[must_use]
    pub fn to_bytes(&self) -> Option<Vec<u8>> {
        if self.message_type.needs_handoff() && self.handoff.is_none() {
            return None;
        }
        let mut bytes = Vec::with_capacity(TYPED_HEADER_BYTES + self.content.len());
        bytes.extend_from_slice(&MAGIC);
        let flags =
            if self.parent.is_some() { HAS_PARENT } else { 0 } | if self.handoff.is_some() { HAS_HANDOFF } else { 0 };
        bytes.extend_from_slice(&[VERSION, self.message_type as u8, flags, 0, 0]);
        bytes.extend_from_slice(&self.blinding);
        bytes.extend_from_slice(&self.parent.unwrap_or_default());
        bytes.extend_from_slice(&self.handoff.unwrap_or_default());
        bytes.extend_from_slice(self.content);
        Some(bytes)
    }

    /// Whether a payload says that it is typed.
    #[must_use]
    pub fn is_claimed(payload: &[u8]) -> bool {
        payload.starts_with(&MAGIC)
    }

    /// Reads the payload of a message of kind direct; `None` when it does not begin as a typed one does, and is the application's
    /// alone.
    ///
    /// # Errors
    /// [`Malformed`].
    pub fn parse(payload: &'a [u8]) -> Result<Option<Self>, Malformed> {
        if !Self::is_claimed(payload) {
            return Ok(None);
        }
        let (header, content) = payload.split_first_chunk::<TYPED_HEADER_BYTES>().ok_or(Malformed)?;
        let [_, _, _, VERSION, number, flags, 0, 0, ..] = *header else { return Err(Malformed) };
        let message_type = MessageType::from_u8(number).ok_or(Malformed)?;
        if flags & !(HAS_PARENT | HAS_HANDOFF) != 0 {
            return Err(Malformed);
        }
        let field =
            |at: usize| -> [u8; 32] { *header[at..].first_chunk().expect("every field lies inside the header") };
        let named = |at, flag| match (flags & flag != 0, field(at)) {
            (true, hash) => Ok(Some(hash)),
            // One encoding only.
            (false, hash) if hash == [0; 32] => Ok(None),
            _ => Err(Malformed),
        };
        let (parent, handoff) = (named(40, HAS_PARENT)?, named(72, HAS_HANDOFF)?);
        if message_type.needs_handoff() && handoff.is_none() {
            return Err(Malformed);
        }
        Ok(Some(Self { message_type, blinding: field(8), parent, handoff, content }))
    }
}

#[cfg(test)]
mod tests;
