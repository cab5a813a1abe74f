//! When a message is over: as soon as its sender or its mailbox says, but never before a message that needs it.

use crate::limits::SESSION_OPENER_EXTRA_MS;

/// How long a mailbox keeps what nobody acknowledges, in milliseconds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Retention(pub u64);

impl Retention {
    /// Wall time after which the message need not be delivered any more, in milliseconds since 1970. `ttl_s` is what its
    /// sender says, zero for nothing.
    ///
    /// Later messages of a session can be opened only with the key that an earlier one brings, and a sender counts on it
    /// that one with a lifetime no shorter is there as long as they are. The mailbox's limit must not break that: whoever
    /// brings a key may stay for as long as a session may go on beyond it.
    pub(crate) fn expiry_ms(self, now_ms: u64, ttl_s: u32, opens_session: bool) -> u64 {
        let kept_ms = if opens_session { self.0.saturating_add(SESSION_OPENER_EXTRA_MS) } else { self.0 };
        let wanted_ms = match ttl_s {
            0 => u64::MAX,
            seconds => u64::from(seconds) * 1_000,
        };
        now_ms.saturating_add(wanted_ms.min(kept_ms))
    }
}

impl Default for Retention {
    fn default() -> Self {
        Self(crate::limits::RETENTION_MS)
    }
}

#[cfg(test)]
mod tests;
