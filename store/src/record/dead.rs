//! Dead letters as they stand in the log: which messages are dead and why, and which live again.

use super::RecordError;
use super::channel::checked_count;
use crate::id::MailboxId;
use crate::layout::{Reader, Writer, length_u32};
use crate::limits::DEAD_RECORD_LETTERS_MAX;

/// Messages of one mailbox that are kept and not delivered any more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dead {
    /// Whose messages.
    pub mailbox: MailboxId,
    /// They were dead before: their messages were moved, and the segment that said so is to go.
    pub is_again: bool,
    /// Which, and why.
    pub letters: Vec<DeadLetter>,
}

/// Why one message is dead.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeadLetter {
    /// Its sequence.
    pub sequence: u64,
    /// When it died, by the node's clock, in milliseconds since 1970.
    pub died_ms: u64,
    /// What its consumer gave as reason; 0 for none. The consumer's own number, without a meaning here.
    pub reason: u16,
    /// Who gave it up.
    pub cause: DeathCause,
    /// Deliveries of it that failed; stays at 255.
    pub deliveries: u8,
}

/// Who gave a message up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum DeathCause {
    /// Its consumer refused it for good.
    Rejected = 0,
    /// Too many deliveries of it failed.
    Deliveries = 1,
}

/// Messages of one mailbox that were dead, and wait to be delivered again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Revive {
    /// Whose messages.
    pub mailbox: MailboxId,
    /// Their sequences.
    pub sequences: Vec<u64>,
}

/// Bytes of a record of either kind before its list.
const FIXED_BYTES: usize = 24;
/// Bytes of a dead letter in its record.
pub(crate) const LETTER_BYTES: usize = 24;

impl Dead {
    pub(super) fn body_bytes(&self) -> usize {
        FIXED_BYTES + LETTER_BYTES * self.letters.len()
    }

    pub(super) fn encode(&self, writer: &mut Writer<'_>) {
        writer.put(&self.mailbox.0);
        writer.u32(length_u32(self.letters.len()));
        writer.u8(u8::from(self.is_again));
        writer.put(&[0; 3]);
        for letter in &self.letters {
            writer.u64(letter.sequence);
            writer.u64(letter.died_ms);
            writer.u16(letter.reason);
            writer.u8(letter.cause as u8);
            writer.u8(letter.deliveries);
            writer.u32(0);
        }
    }

    pub(super) fn parse(reader: &mut Reader<'_>) -> Result<Self, RecordError> {
        let fixed = (|| Some((reader.array()?, reader.u32()?, reader.u8()?, reader.array()?)))();
        let (mailbox, count, is_again, reserved) = fixed.ok_or(RecordError::Truncated)?;
        if reserved != [0; 3] {
            return Err(RecordError::NotZero);
        }
        let is_again = match is_again {
            0 => false,
            1 => true,
            _ => return Err(RecordError::Value),
        };
        let count = checked_count(count, DEAD_RECORD_LETTERS_MAX, reader.left() / LETTER_BYTES)?;
        let letters = (0..count).map(|_| DeadLetter::parse(reader)).collect::<Result<_, _>>()?;
        Ok(Self { mailbox: MailboxId(mailbox), is_again, letters })
    }
}

impl DeadLetter {
    fn parse(reader: &mut Reader<'_>) -> Result<Self, RecordError> {
        let fields = (|| {
            let times = (reader.u64()?, reader.u64()?);
            Some((times, reader.u16()?, reader.u8()?, reader.u8()?, reader.u32()?))
        })();
        let ((sequence, died_ms), reason, cause, deliveries, reserved) = fields.ok_or(RecordError::Truncated)?;
        if reserved != 0 {
            return Err(RecordError::NotZero);
        }
        let cause = match cause {
            0 => DeathCause::Rejected,
            1 => DeathCause::Deliveries,
            _ => return Err(RecordError::Value),
        };
        Ok(Self { sequence, died_ms, reason, cause, deliveries })
    }
}

impl Revive {
    pub(super) fn body_bytes(&self) -> usize {
        FIXED_BYTES + 8 * self.sequences.len()
    }

    pub(super) fn encode(&self, writer: &mut Writer<'_>) {
        writer.put(&self.mailbox.0);
        writer.u32(length_u32(self.sequences.len()));
        writer.u32(0);
        for &sequence in &self.sequences {
            writer.u64(sequence);
        }
    }

    pub(super) fn parse(reader: &mut Reader<'_>) -> Result<Self, RecordError> {
        let fixed = (|| Some((reader.array()?, reader.u32()?, reader.u32()?)))();
        let (mailbox, count, reserved) = fixed.ok_or(RecordError::Truncated)?;
        if reserved != 0 {
            return Err(RecordError::NotZero);
        }
        let count = checked_count(count, DEAD_RECORD_LETTERS_MAX, reader.left() / 8)?;
        let sequences = (0..count).map_while(|_| reader.u64()).collect();
        Ok(Self { mailbox: MailboxId(mailbox), sequences })
    }
}
