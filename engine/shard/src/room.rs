//! How full a log is, and what that means for senders.
//!
//! ```text
//! room for messages   all of it ........ a quarter left ................. nothing left
//!                     open               slow: every answer asks for a    full: StorageFull, with a
//!                                        pause, longer as room shrinks    time to try again
//! ```
//!
//! Reading, acknowledging and deleting go on in all three: the log keeps two segments for what these write.

use creto_store::Space;

/// The part of the log's space at which senders are slowed.
const SLOW_DIVISOR: u64 = 4;
/// Shortest and longest pause that a sender is asked for, in milliseconds.
const PAUSE_MS: (u64, u64) = (10, 500);

/// What a log can take.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Room {
    /// There is room.
    Open,
    /// Less than a quarter is left: senders are asked for this pause.
    Slow {
        /// Milliseconds.
        pause_ms: u32,
    },
    /// Nothing is left for messages: they are refused until something is read, expires, or space is added.
    Full,
    /// The disk failed: nothing is acknowledged until the node is started again.
    Fenced {
        /// What it said.
        cause: String,
    },
}

impl Room {
    /// What this space means. Fenced or not is for the log to say.
    #[must_use]
    pub fn of(space: Space) -> Self {
        let mark = space.bytes_max / SLOW_DIVISOR;
        let left = space.message_bytes_left;
        if left == 0 {
            return Self::Full;
        }
        if left >= mark {
            return Self::Open;
        }
        let (shortest, longest) = PAUSE_MS;
        // In 128 bits: bytes of a log times milliseconds.
        let missing = u128::from(mark - left) * u128::from(longest - shortest) / u128::from(mark);
        let pause_ms = u128::from(shortest) + missing;
        Self::Slow { pause_ms: u32::try_from(pause_ms).unwrap_or(u32::MAX) }
    }

    /// The pause that a sender is asked for.
    #[must_use]
    pub fn pause_ms(&self) -> u32 {
        match self {
            Self::Open | Self::Fenced { .. } => 0,
            Self::Slow { pause_ms } => *pause_ms,
            Self::Full => u32::try_from(PAUSE_MS.1).unwrap_or(u32::MAX),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn room(left: u64) -> Room {
        Room::of(Space { bytes: 0, bytes_max: 4_000, message_bytes_left: left })
    }

    #[test]
    fn a_pause_begins_at_the_mark_and_grows_until_nothing_is_left() {
        assert_eq!(room(4_000), Room::Open);
        assert_eq!(room(1_000), Room::Open);
        assert_eq!(room(999), Room::Slow { pause_ms: 10 });
        assert_eq!(room(500), Room::Slow { pause_ms: 255 });
        assert_eq!(room(1), Room::Slow { pause_ms: 499 });
        assert_eq!(room(0), Room::Full);
        let pauses: Vec<_> = (0..=1_000).rev().map(|left| room(left).pause_ms()).collect();
        assert!(pauses.is_sorted());
    }
}
