//! The hash chain of one source: each event names the hash of the one before it.
//!
//! An event's chain hash is SHA-256(0x02 || its bytes). The bytes hold source, position and the previous chain hash, so that
//! the hash of the last event fixes all of them, their order and their number. A source's first event names the hash of the
//! log's origin and the source, so that chains of two logs cannot be exchanged.

use std::fmt;

use creto_crypto_accel::digest::sha256;

use crate::event::{ChainedEvent, Event, Label, SourceId};

#[cfg(test)]
mod tests;

pub(crate) const CHAIN_DOMAIN: u8 = 0x02;

/// The hash of an event in its chain, or of a chain's beginning.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct ChainHash(pub [u8; 32]);

impl ChainHash {
    /// The beginning of a source's chain in the log of this origin: SHA-256("creto/audit-chain/v1" || 0x00 || source, u16 || origin).
    #[must_use]
    pub fn beginning(origin: &str, source: SourceId) -> Self {
        Self(sha256(&[b"creto/audit-chain/v1\0", &source.number().to_le_bytes(), origin.as_bytes()]))
    }

    /// Of an event's bytes.
    #[must_use]
    pub fn of(event: &[u8]) -> Self {
        Self(sha256(&[&[CHAIN_DOMAIN], event]))
    }
}

impl fmt::Debug for ChainHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// Where a source's chain stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Chain {
    /// The source.
    pub source: SourceId,
    /// Events so far: the position of the next one.
    pub position: u64,
    /// The chain hash of the last one, or the beginning.
    pub head: ChainHash,
}

impl Chain {
    /// A chain without events.
    #[must_use]
    pub fn beginning(origin: &str, source: SourceId) -> Self {
        Self { source, position: 0, head: ChainHash::beginning(origin, source) }
    }

    /// Appends the bytes of `event`, as the next of this chain, to `out`, and moves on.
    pub fn append(&mut self, event: &Event, label: &Label, out: &mut Vec<u8>) {
        let begin = out.len();
        let (source, position, previous) = (self.source, self.position, self.head);
        ChainedEvent { source, position, previous, event: *event, label: *label }.encode(out);
        self.head = ChainHash::of(&out[begin..]);
        self.position = position.checked_add(1).expect("no source tells 2^64 events");
    }
}
