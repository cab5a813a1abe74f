//! When a message is over: as soon as its sender or its mailbox says, but never before a message that needs it.

use creto_policy::MailboxLimits;

use crate::limits::SESSION_OPENER_EXTRA_MS;

/// How long a mailbox keeps what nobody acknowledges, in milliseconds, unless it is set otherwise for that mailbox.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Retention(pub u64);

/// What may be where a message goes, and for how long.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum MessageRoom {
    /// In its recipient's mailbox.
    Mailbox(MailboxLimits),
    /// In the channel that it is published in.
    Channel(ChannelLimits),
}

/// What a channel may hold, as its record says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct ChannelLimits {
    pub(crate) retention_s: u32,
    pub(crate) messages_max: u64,
    pub(crate) bytes_max: u64,
}

/// What a message has to do with a session.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Bond {
    /// Nothing: it opens by itself.
    None,
    /// It brings the key of one, and later messages may need it.
    BringsKey,
    /// It opens only with the key that an earlier one brought.
    NeedsKey,
}

impl Retention {
    /// Wall time after which the message need not be delivered any more, in milliseconds since 1970. `ttl_s` is what its
    /// sender says, zero for nothing.
    ///
    /// Later messages of a session can be opened only with the key that an earlier one brings, and a sender counts on it
    /// that one with a lifetime no shorter is there as long as they are. The mailbox's limit must not break that: whoever
    /// brings a key may stay for as long as a session may go on beyond it, and where the limit was raised meanwhile, whoever
    /// needs the key is kept no longer than the limit was before ([`creto_policy::LowerRetention`]).
    pub(crate) fn expiry_ms(self, now_ms: u64, ttl_s: u32, bond: Bond, limits: &MailboxLimits) -> u64 {
        let retention_ms = match limits.retention_s {
            0 => self.0,
            seconds => ms(seconds),
        };
        let kept_ms = match bond {
            Bond::None => retention_ms,
            Bond::BringsKey => retention_ms.saturating_add(SESSION_OPENER_EXTRA_MS),
            Bond::NeedsKey if limits.session_retention_s > 0 => retention_ms.min(ms(limits.session_retention_s)),
            Bond::NeedsKey => retention_ms,
        };
        let wanted_ms = match ttl_s {
            0 => u64::MAX,
            seconds => ms(seconds),
        };
        now_ms.saturating_add(wanted_ms.min(kept_ms))
    }
}

fn ms(seconds: u32) -> u64 {
    u64::from(seconds) * 1_000
}

impl Default for Retention {
    fn default() -> Self {
        Self(crate::limits::RETENTION_MS)
    }
}

#[cfg(test)]
mod tests;
