//! Frames of an enrolment: an agent that the node does not know yet brings a token and its first key record.

use std::fmt;

use crate::frame::{FrameType, begin_frame, finish_frame};
use crate::key_record::SignedKeyRecord;
use crate::limits::{CONTROL_BODY_BYTES_MAX, SIGNED_KEY_RECORD_BYTES_MAX};
use crate::reader::Reader;
use crate::reject::RejectCode;

/// Size of the secret of a token for enrolment, in bytes.
pub const ENROLMENT_TOKEN_BYTES: usize = 32;

const _: () = assert!(ENROLMENT_TOKEN_BYTES + SIGNED_KEY_RECORD_BYTES_MAX <= CONTROL_BODY_BYTES_MAX);

/// Asks for a registration, on a connection that nobody has logged in on.
#[derive(PartialEq, Eq)]
pub struct Enrol<'t> {
    /// The secret of the token; whoever has it can use it.
    pub token: &'t [u8; ENROLMENT_TOKEN_BYTES],
    /// What is to be registered.
    pub record: SignedKeyRecord,
}

impl<'t> Enrol<'t> {
    /// Appends the frame.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let start = begin_frame(out, FrameType::Enrol);
        out.extend_from_slice(self.token);
        out.extend_from_slice(&self.record.to_bytes());
        finish_frame(out, start, FrameType::Enrol);
    }

    /// Parses the body. The record's signatures are not verified here.
    ///
    /// # Errors
    /// [`RejectCode::FrameLength`], or what [`SignedKeyRecord::parse`] says.
    pub fn parse(body: &'t [u8]) -> Result<Self, RejectCode> {
        let mut reader = Reader::new(body, RejectCode::FrameLength);
        let token = reader.array()?;
        let record = SignedKeyRecord::parse(reader.take(reader.remaining())?)?;
        Ok(Self { token, record })
    }
}

impl fmt::Debug for Enrol<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Enrol").field("record", &self.record).finish_non_exhaustive()
    }
}

/// What became of an [`Enrol`]. A refusal for the node's own state is a Reject instead.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Enrolled {
    /// The agent is registered now.
    Created,
    /// It was, with this very record.
    Known,
    /// It is not: the number of a code of the control API, as `docs/audit-format.md` lists them; never zero.
    Refused(u16),
}

impl Enrolled {
    /// Appends the frame.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let start = begin_frame(out, FrameType::Enrolled);
        let (outcome, code) = match *self {
            Self::Created => (0, 0),
            Self::Known => (1, 0),
            Self::Refused(code) => (2, code),
        };
        out.extend_from_slice(&[outcome, 0]);
        out.extend_from_slice(&u16::to_le_bytes(code));
        out.extend_from_slice(&[0; 4]);
        finish_frame(out, start, FrameType::Enrolled);
    }

    /// Parses the body.
    ///
    /// # Errors
    /// [`RejectCode::FrameLength`] or [`RejectCode::FrameReserved`].
    pub fn parse(body: &[u8]) -> Result<Self, RejectCode> {
        let mut reader = Reader::new(body, RejectCode::FrameLength);
        let outcome = reader.u8()?;
        reader.zeros(1, RejectCode::FrameReserved)?;
        let code = reader.u16()?;
        reader.zeros(4, RejectCode::FrameReserved)?;
        reader.end()?;
        match (outcome, code) {
            (0, 0) => Ok(Self::Created),
            (1, 0) => Ok(Self::Known),
            (2, 1..) => Ok(Self::Refused(code)),
            _ => Err(RejectCode::FrameReserved),
        }
    }
}
