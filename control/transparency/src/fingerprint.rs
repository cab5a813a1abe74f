//! What two people compare aloud: thirty digits in six groups of five.
//!
//! The form is that of one party's half of a
//! [Signal safety number](https://signal.org/blog/safety-number-updates/): five bytes of a hash, big-endian, modulo 100,000, for each
//! group. The hash is SHA-256 under a label of its own, and not Signal's, so the digits are no Signal number. Thirty digits are
//! 99 bits: to find other keys with the same digits takes 2^99 tries.

use std::fmt;

use creto_crypto_accel::digest::sha256;
use creto_envelope::KeyRecord;

use crate::leaf::{record_hash, signing_fingerprint};

#[cfg(test)]
mod tests;

const RECORD_LABEL: &[u8; 27] = b"creto/fingerprint/record/v1";
const AGENT_LABEL: &[u8; 26] = b"creto/fingerprint/agent/v1";
const GROUPS: usize = 6;
const BYTES_PER_GROUP: usize = 5;

/// Thirty digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Fingerprint([u32; GROUPS]);

impl Fingerprint {
    /// Of who an agent is: its id and its signing keys. It stays as long as the agent does, whatever becomes of its encryption
    /// keys.
    #[must_use]
    pub fn of_agent(record: &KeyRecord) -> Self {
        Self::of(AGENT_LABEL, &[&record.agent_id().0, &signing_fingerprint(record)])
    }

    /// Of one version of a key record: of every key, name and date in it.
    #[must_use]
    pub fn of_record(record: &KeyRecord) -> Self {
        Self::of(RECORD_LABEL, &[&record_hash(record)])
    }

    fn of(label: &[u8], parts: &[&[u8]]) -> Self {
        let length = [u8::try_from(label.len()).expect("a label is short")];
        let hash = sha256(&[&[&length[..], label], parts].concat());
        let mut groups = hash.chunks_exact(BYTES_PER_GROUP).map(|bytes| {
            let number = bytes.iter().fold(0_u64, |number, byte| number << 8 | u64::from(*byte));
            u32::try_from(number % 100_000).expect("below 100,000")
        });
        Self(std::array::from_fn(|_| groups.next().expect("32 bytes hold six times five")))
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, group) in self.0.iter().enumerate() {
            write!(f, "{}{group:05}", if at == 0 { "" } else { " " })?;
        }
        Ok(())
    }
}
