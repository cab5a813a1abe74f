//! What an operator has set for one mailbox, and what of it a shard takes along with every message for it.

use std::fmt;
use std::ops::RangeInclusive;

use creto_envelope::limits::SESSION_AGE_S_MAX;

#[cfg(test)]
mod tests;

/// How long a mailbox may keep what nobody acknowledges, in seconds: an hour to thirty days.
pub const RETENTION_S: RangeInclusive<u32> = 3_600..=30 * 86_400;
/// How many messages a mailbox may hold.
pub const MESSAGES_MAX: RangeInclusive<u32> = 1..=10_000_000;
/// How many bytes a mailbox may hold: the largest message fits.
pub const BYTES_MAX: RangeInclusive<u64> = 2 << 20..=1 << 40;
/// After how many failed deliveries a message may be given up. One is too few: a recipient writes the session that a message
/// opens to its disk when that message comes again, so one that dies of the first delivery would take along the key of what
/// comes after it.
pub const MAX_DELIVERIES: RangeInclusive<u8> = 2..=u8::MAX;

/// How long after a change of retention a message may come whose session began before it, in milliseconds: the longest
/// life of a session, an hour for what was late on its way, and one for the change on its way to the shards.
pub const SESSION_SPAN_MS: u64 = SESSION_AGE_S_MAX as u64 * 1_000 + 2 * 3_600_000;

/// What is set for one mailbox. What is not is as the node's configuration says.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Debug)]
pub struct MailboxSettings {
    /// How long what nobody acknowledges is kept, in seconds: of messages that are admitted from when it is set.
    pub retention_s: Option<u32>,
    /// Most messages queued.
    pub messages_max: Option<u32>,
    /// Most bytes queued.
    pub bytes_max: Option<u64>,
    /// After so many deliveries a message is given up.
    pub max_deliveries: Option<u8>,
}

/// A setting whose value is outside its range.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct OutOfRange {
    /// Name of the setting.
    pub setting: &'static str,
    /// What was given.
    pub value: u64,
    /// The smallest and the largest value there is.
    pub range: (u64, u64),
}

impl fmt::Display for OutOfRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} is out of range: from {} to {}", self.setting, self.value, self.range.0, self.range.1)
    }
}

impl std::error::Error for OutOfRange {}

impl MailboxSettings {
    /// Says of the first setting that is outside its range, if there is one, what its range is.
    ///
    /// # Errors
    /// [`OutOfRange`].
    pub fn check(&self) -> Result<(), OutOfRange> {
        within("retention_s", self.retention_s, &RETENTION_S)?;
        within("messages_max", self.messages_max, &MESSAGES_MAX)?;
        within("bytes_max", self.bytes_max, &BYTES_MAX)?;
        within("max_deliveries", self.max_deliveries, &MAX_DELIVERIES)
    }
}

fn within<T: Copy + PartialOrd + Into<u64>>(
    setting: &'static str,
    value: Option<T>,
    range: &RangeInclusive<T>,
) -> Result<(), OutOfRange> {
    match value {
        Some(value) if !range.contains(&value) => {
            let range = ((*range.start()).into(), (*range.end()).into());
            Err(OutOfRange { setting, value: value.into(), range })
        }
        _ => Ok(()),
    }
}

/// A retention that was lower not long ago. Zeros: none was.
///
/// Whoever brings the key of a session is kept for its mailbox's retention and the longest life of a session, so that the
/// key is there as long as anything that needs it. When the retention rises meanwhile, later messages of that session must
/// not outlive the key. So for as long as a session may go on that began before the rise, messages that need a key are
/// kept no longer than the retention was when it may have come. A retention that sinks needs none of that.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Debug)]
pub struct LowerRetention {
    /// The lowest retention under which a session may have begun that goes on, in seconds.
    pub retention_s: u32,
    /// Up to when, exclusive, one may go on, in Unix milliseconds.
    pub until_ms: u64,
}

impl LowerRetention {
    /// What counts after the retention changed, at `now_ms`.
    #[must_use]
    pub fn changed(self, before_s: u32, after_s: u32, now_ms: u64) -> Self {
        if after_s <= before_s {
            return self;
        }
        let retention_s = self.in_force_s(now_ms).map_or(before_s, |lower_s| lower_s.min(before_s));
        Self { retention_s, until_ms: now_ms.saturating_add(SESSION_SPAN_MS) }
    }

    /// The lower of two, for as long as either counts.
    #[must_use]
    pub fn and(self, other: Self, now_ms: u64) -> Self {
        match (self.in_force_s(now_ms), other.in_force_s(now_ms)) {
            (Some(a), Some(b)) => Self { retention_s: a.min(b), until_ms: self.until_ms.max(other.until_ms) },
            (None, Some(_)) => other,
            _ => self,
        }
    }

    /// The lower retention, in seconds, while it counts.
    #[must_use]
    pub fn in_force_s(self, now_ms: u64) -> Option<u32> {
        (now_ms < self.until_ms).then_some(self.retention_s)
    }
}

/// What a mailbox may hold, as it goes along with every message for it. Zero is the node's default.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct MailboxLimits {
    /// Most bytes queued.
    pub bytes_max: u64,
    /// Most messages queued.
    pub messages_max: u32,
    /// How long what nobody acknowledges is kept, in seconds.
    pub retention_s: u32,
    /// The same, for messages that need the key of a session ([`LowerRetention`]); zero: as the others.
    pub session_retention_s: u32,
}

// It travels with every message, across the rings too.
const _: () = assert!(size_of::<MailboxLimits>() == 24);

impl MailboxLimits {
    /// What `settings` mean at `now_ms`.
    #[must_use]
    pub fn new(settings: &MailboxSettings, lower: LowerRetention, now_ms: u64) -> Self {
        Self {
            bytes_max: settings.bytes_max.unwrap_or(0),
            messages_max: settings.messages_max.unwrap_or(0),
            retention_s: settings.retention_s.unwrap_or(0),
            session_retention_s: lower.in_force_s(now_ms).unwrap_or(0),
        }
    }
}
