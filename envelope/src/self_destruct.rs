//! What stands before the application's own bytes in a message that destroys itself: the payload of an envelope of kind direct, before it
//! is sealed. `docs/patterns.md` gives every byte, and says what it is worth: its recipient's SDK keeps to it, and nobody else must.

use crate::limits::PAYLOAD_PLAINTEXT_BYTES_MAX;
use crate::request::Malformed;

/// Bytes before the body.
pub const SELF_DESTRUCT_HEADER_BYTES: usize = 16;
/// Most bytes of the body.
pub const SELF_DESTRUCT_BODY_BYTES_MAX: usize = PAYLOAD_PLAINTEXT_BYTES_MAX - SELF_DESTRUCT_HEADER_BYTES;

// No UTF-8 text begins with 0xff: an application's own payload is not taken for one of these by accident.
const MAGIC: [u8; 3] = *b"\xffSD";
/// The version that this code reads and writes.
const VERSION: u8 = 1;
const AFTER_READING: u8 = 1;

/// A message that destroys itself.
///
/// ```text
///  0 [3] 0xff "SD" | 3 u8 version = 1 | 4 u8 flags (bit 0: after reading) | 5 [3] zero | 8 u64 until_ms, or 0 | 16 body
/// ```
///
/// At least one of the two is set.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct SelfDestructPayload<'a> {
    /// It is gone when the application has acknowledged it.
    pub after_reading: bool,
    /// It is gone at this time, Unix milliseconds by its sender's clock, never 0.
    pub until_ms: Option<u64>,
    /// The application's own.
    pub body: &'a [u8],
}

/// Says how long the body is, not what it is.
impl std::fmt::Debug for SelfDestructPayload<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SelfDestructPayload")
            .field("after_reading", &self.after_reading)
            .field("until_ms", &self.until_ms)
            .field("body_bytes", &self.body.len())
            .finish()
    }
}

impl<'a> SelfDestructPayload<'a> {
    /// Writes the payload behind what `out` holds. Whoever wants no copy of the body left behind gives it the room before.
    pub fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&MAGIC);
        out.extend_from_slice(&[VERSION, if self.after_reading { AFTER_READING } else { 0 }, 0, 0, 0]);
        out.extend_from_slice(&self.until_ms.unwrap_or(0).to_le_bytes());
        out.extend_from_slice(self.body);
    }

    /// Whether a payload of kind direct says that it is one of these.
    #[must_use]
    pub fn is_claimed(payload: &[u8]) -> bool {
        payload.starts_with(&MAGIC)
    }

    /// Reads the payload of a message of kind direct; `None` when it does not begin as one of these does.
    ///
    /// # Errors
    /// [`Malformed`].
    pub fn parse(payload: &'a [u8]) -> Result<Option<Self>, Malformed> {
        if !Self::is_claimed(payload) {
            return Ok(None);
        }
        let (header, body) = payload.split_first_chunk::<SELF_DESTRUCT_HEADER_BYTES>().ok_or(Malformed)?;
        let [_, _, _, VERSION, flags, 0, 0, 0, until_ms @ ..] = *header else { return Err(Malformed) };
        let until_ms = Some(u64::from_le_bytes(until_ms)).filter(|until_ms| *until_ms > 0);
        let after_reading = flags == AFTER_READING;
        let is_any = after_reading || until_ms.is_some();
        if flags > AFTER_READING || !is_any {
            return Err(Malformed);
        }
        Ok(Some(Self { after_reading, until_ms, body }))
    }
}

#[cfg(test)]
mod tests;
