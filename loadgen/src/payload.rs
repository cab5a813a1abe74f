//! What is sent: the message's number, when it was due, and bytes that do not compress.

use bytes::Bytes;
use sha2::{Digest, Sha256};

use crate::limits::PAYLOAD_BYTES_MIN;

/// The front of a payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Mark {
    /// Number of the message in its run.
    pub(crate) number: u64,
    /// When it was due, in microseconds after the run's start.
    pub(crate) due_us: u64,
}

/// Makes payloads up to a size.
#[derive(Debug)]
pub(crate) struct Payloads {
    filler: Vec<u8>,
}

impl Payloads {
    pub(crate) fn up_to(payload_bytes: usize) -> Self {
        // A xorshift sequence: the same in every run.
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        let filler = (0..payload_bytes.div_ceil(8) + 8).flat_map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state.to_le_bytes()
        });
        Self { filler: filler.collect() }
    }

    /// The payload of a message. Neighbours differ in more than their marks.
    pub(crate) fn make(&self, mark: Mark, payload_bytes: usize) -> Bytes {
        assert!(payload_bytes >= PAYLOAD_BYTES_MIN, "the options were checked");
        let mut payload = Vec::with_capacity(payload_bytes);
        payload.extend_from_slice(&mark.number.to_le_bytes());
        payload.extend_from_slice(&mark.due_us.to_le_bytes());
        let from = usize::try_from(mark.number % 64).unwrap_or_default();
        payload.extend_from_slice(&self.filler[from..from + payload_bytes - PAYLOAD_BYTES_MIN]);
        Bytes::from(payload)
    }

    /// Reads a message; `None` if it is not as [`make`](Self::make) makes it.
    pub(crate) fn read(&self, payload: &[u8]) -> Option<Mark> {
        let mark = mark(payload)?;
        let rest = &payload[PAYLOAD_BYTES_MIN..];
        let from = usize::try_from(mark.number % 64).unwrap_or_default();
        (self.filler.get(from..from + rest.len())? == rest).then_some(mark)
    }
}

/// Reads the front of a payload; `None` if it is too short to be one of ours.
pub(crate) fn mark(payload: &[u8]) -> Option<Mark> {
    let (number, rest) = payload.split_first_chunk()?;
    let due_us = rest.first_chunk()?;
    Some(Mark { number: u64::from_le_bytes(*number), due_us: u64::from_le_bytes(*due_us) })
}

/// SHA-256 of a payload, as the ledger keeps it.
pub(crate) fn digest(payload: &[u8]) -> [u8; 32] {
    Sha256::digest(payload).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_payload_has_its_size_and_gives_its_mark_back() {
        let payloads = Payloads::up_to(1 << 20);
        for payload_bytes in [16, 17, 64, 1_024, 1 << 20] {
            for number in [0, 1, 63, 64, u64::MAX] {
                let made = Mark { number, due_us: number / 2 };
                let payload = payloads.make(made, payload_bytes);
                assert_eq!((payload.len(), payloads.read(&payload)), (payload_bytes, Some(made)));
            }
        }
        assert_eq!(mark(&[0; 15]), None);
    }

    #[test]
    fn other_bytes_than_were_sent_are_noticed() {
        let payloads = Payloads::up_to(256);
        let payload = payloads.make(Mark { number: 3, due_us: 9 }, 200);
        for at in 16..200 {
            let mut altered = payload.to_vec();
            altered[at] ^= 1;
            assert_eq!(payloads.read(&altered), None, "a flipped bit at {at}");
        }
        let longer = [&payload[..], &[0; 500][..]].concat();
        assert_eq!(payloads.read(&longer), None);
    }
}
