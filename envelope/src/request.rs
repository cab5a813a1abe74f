//! What stands before the application's own bytes in a request and in its answer: the payloads of envelopes of kind request and
//! response, before they are sealed. `docs/patterns.md` gives every byte.
//!
//! Payloads of other kinds have nothing of this before them. One of kind request or response that does not begin with the three
//! bytes of its own is the application's alone, as it always was.

use crate::limits::PAYLOAD_PLAINTEXT_BYTES_MAX;

/// Bytes before the body of a request.
pub const REQUEST_HEADER_BYTES: usize = 16;
/// Bytes before the body of an answer.
pub const ANSWER_HEADER_BYTES: usize = 8;
/// Bytes before the text of a failure.
pub const FAILURE_HEADER_BYTES: usize = 12;
/// Most bytes of that text.
pub const FAILURE_TEXT_BYTES_MAX: usize = 1024;
/// Most bytes of a request's body.
pub const REQUEST_BODY_BYTES_MAX: usize = PAYLOAD_PLAINTEXT_BYTES_MAX - REQUEST_HEADER_BYTES;
/// Most bytes of an answer's body.
pub const ANSWER_BODY_BYTES_MAX: usize = PAYLOAD_PLAINTEXT_BYTES_MAX - ANSWER_HEADER_BYTES;

// No UTF-8 text begins with 0xff: an application's own payload is not taken for one of these by accident.
const REQUEST_MAGIC: [u8; 3] = *b"\xffRQ";
const RESPONSE_MAGIC: [u8; 3] = *b"\xffRS";
/// The version that this code reads and writes.
const VERSION: u8 = 1;
const ANSWERED: u8 = 1;
const FAILED: u8 = 2;

/// A payload that says it is of this form, and breaks a rule of it or is of a later version.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Malformed;

/// A request.
///
/// ```text
///  0 [3] 0xff "RQ" | 3 u8 version = 1 | 4 [4] zero | 8 u64 deadline_ms | 16 body
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RequestPayload<'a> {
    /// When whoever asks stops waiting, by its own clock, Unix milliseconds.
    pub deadline_ms: u64,
    /// What is asked.
    pub body: &'a [u8],
}

impl<'a> RequestPayload<'a> {
    /// The payload.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(REQUEST_HEADER_BYTES + self.body.len());
        bytes.extend_from_slice(&REQUEST_MAGIC);
        bytes.push(VERSION);
        bytes.extend_from_slice(&[0; 4]);
        bytes.extend_from_slice(&self.deadline_ms.to_le_bytes());
        bytes.extend_from_slice(self.body);
        bytes
    }

    /// Reads the payload of a message of kind request; `None` when it does not begin as a request does, and is the application's
    /// alone.
    ///
    /// # Errors
    /// [`Malformed`].
    pub fn parse(payload: &'a [u8]) -> Result<Option<Self>, Malformed> {
        if !payload.starts_with(&REQUEST_MAGIC) {
            return Ok(None);
        }
        let (header, body) = payload.split_first_chunk::<REQUEST_HEADER_BYTES>().ok_or(Malformed)?;
        let [_, _, _, VERSION, 0, 0, 0, 0, deadline_ms @ ..] = *header else { return Err(Malformed) };
        Ok(Some(Self { deadline_ms: u64::from_le_bytes(deadline_ms), body }))
    }
}

/// What a request is answered with.
///
/// ```text
///  0 [3] 0xff "RS" | 3 u8 version = 1 | 4 u8 outcome = 1 | 5 [3] zero | 8 body
///  0 [3] 0xff "RS" | 3 u8 version = 1 | 4 u8 outcome = 2 | 5 [3] zero | 8 u32 code | 12 text, UTF-8, at most 1,024 bytes
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ResponsePayload<'a> {
    /// An answer.
    Answered(&'a [u8]),
    /// Whoever was asked says that it did not work.
    Failed {
        /// The application's own number.
        code: u32,
        /// What happened, for people. Above 1,024 bytes it is cut when it is written.
        text: &'a str,
    },
}

impl<'a> ResponsePayload<'a> {
    /// The payload.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let header = |outcome| [RESPONSE_MAGIC[0], RESPONSE_MAGIC[1], RESPONSE_MAGIC[2], VERSION, outcome, 0, 0, 0];
        match *self {
            Self::Answered(body) => [&header(ANSWERED)[..], body].concat(),
            Self::Failed { code, text } => {
                let text = &text[..text.floor_char_boundary(FAILURE_TEXT_BYTES_MAX)];
                [&header(FAILED)[..], &code.to_le_bytes(), text.as_bytes()].concat()
            }
        }
    }

    /// Reads the payload of a message of kind response; `None` when it does not begin as one to a request does, and is the
    /// application's alone.
    ///
    /// # Errors
    /// [`Malformed`].
    pub fn parse(payload: &'a [u8]) -> Result<Option<Self>, Malformed> {
        if !payload.starts_with(&RESPONSE_MAGIC) {
            return Ok(None);
        }
        let (header, body) = payload.split_first_chunk::<ANSWER_HEADER_BYTES>().ok_or(Malformed)?;
        let [_, _, _, VERSION, outcome, 0, 0, 0] = *header else { return Err(Malformed) };
        match outcome {
            ANSWERED => Ok(Some(Self::Answered(body))),
            FAILED => {
                let (code, text) = body.split_first_chunk::<4>().ok_or(Malformed)?;
                let text = str::from_utf8(text).map_err(|_| Malformed)?;
                let is_short = text.len() <= FAILURE_TEXT_BYTES_MAX;
                is_short.then_some(Some(Self::Failed { code: u32::from_le_bytes(*code), text })).ok_or(Malformed)
            }
            _ => Err(Malformed),
        }
    }
}

#[cfg(test)]
mod tests;
