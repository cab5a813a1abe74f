//! What a recipient says about a message that it was asked to confirm: the payload of an envelope of kind receipt.
//!
//! A message whose header sets [`FLAG_RECEIPT_WANTED`](crate::envelope::FLAG_RECEIPT_WANTED) asks for one when the work is done, one that
//! sets [`FLAG_DELIVERED_WANTED`](crate::envelope::FLAG_DELIVERED_WANTED) when it was opened. The answer is a message like any other, sealed to the sender and signed by the recipient, with the id of the message that it is about as
//! its correlation id. So a receipt can be proven to a third party as any message can (`docs/proof-format.md`).

use crate::id::MessageId;

/// Bytes of a receipt.
pub const RECEIPT_BYTES: usize = 64;
/// The version that this code writes.
pub const RECEIPT_VERSION: u8 = 1;

/// What became of a message, by its recipient's word.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
#[non_exhaustive]
pub enum ReceiptOutcome {
    /// The application acknowledged it: the work is done.
    Acknowledged = 1,
    /// The recipient has it, verified and opened. Whether anybody has looked at it, or will, this does not say.
    Delivered = 2,
}

/// A receipt: 64 bytes, little-endian.
///
/// ```text
///  0 u8 version = 1 | 1 u8 outcome (1 acknowledged, 2 delivered) | 2 [6] zero
///  8 [16] message id | 24 [32] SHA-256 of the message's envelope | 56 u64 at_ms
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ReceiptBody {
    /// What became of the message.
    pub outcome: ReceiptOutcome,
    /// Which message.
    pub message_id: MessageId,
    /// SHA-256 of the message's envelope, all of it: what was confirmed is exactly what was sent.
    pub envelope_sha256: [u8; 32],
    /// When, by the recipient's clock, Unix milliseconds.
    pub at_ms: u64,
}

impl ReceiptBody {
    /// The receipt as a payload.
    #[must_use]
    pub fn to_bytes(&self) -> [u8; RECEIPT_BYTES] {
        let mut bytes = [0; RECEIPT_BYTES];
        bytes[0] = RECEIPT_VERSION;
        bytes[1] = self.outcome as u8;
        bytes[8..24].copy_from_slice(&self.message_id.0);
        bytes[24..56].copy_from_slice(&self.envelope_sha256);
        bytes[56..].copy_from_slice(&self.at_ms.to_le_bytes());
        bytes
    }

    /// Reads a payload as a receipt; `None` when it is none of this version.
    #[must_use]
    pub fn parse(payload: &[u8]) -> Option<Self> {
        let payload: &[u8; RECEIPT_BYTES] = payload.try_into().ok()?;
        let outcome = match payload[1] {
            1 => ReceiptOutcome::Acknowledged,
            2 => ReceiptOutcome::Delivered,
            _ => return None,
        };
        let is_of_this_version = payload[0] == RECEIPT_VERSION && payload[2..8] == [0; 6];
        is_of_this_version.then(|| Self {
            outcome,
            message_id: MessageId(field(payload, 8)),
            envelope_sha256: field(payload, 24),
            at_ms: u64::from_le_bytes(field(payload, 56)),
        })
    }
}

fn field<const N: usize>(payload: &[u8; RECEIPT_BYTES], at: usize) -> [u8; N] {
    *payload[at..].first_chunk().expect("every field lies inside a receipt")
}

#[cfg(test)]
mod tests;
