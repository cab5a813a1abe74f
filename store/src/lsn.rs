//! Where something is in the log.

use std::fmt;

macro_rules! number {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
        pub struct $name(pub u64);

        impl $name {
            /// The one after this.
            #[must_use]
            pub fn next(self) -> Self {
                Self(self.0.checked_add(1).expect("a log does not live for 2^64 steps"))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}", self.0)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}", self.0)
            }
        }
    };
}

number! {
    /// Number of a frame in its log: 1, 2, 3 ... without holes. 0 means "before the first frame".
    Lsn
}
number! {
    /// Moves by one at every start of the log; all frames of a segment are of one epoch.
    Epoch
}
number! {
    /// Number of a segment in its log: 1, 2, 3 ... without holes.
    SegmentNumber
}
number! {
    /// Counts the records appended since the log was opened: 1, 2, 3 ... It lives in memory only.
    RecordSequence
}

impl Lsn {
    /// The one before this. Zero has none and stays zero.
    #[must_use]
    pub fn previous(self) -> Self {
        Self(self.0.saturating_sub(1))
    }
}

/// Where a durable record is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    /// The segment that holds it.
    pub segment: SegmentNumber,
    /// The frame that holds it.
    pub lsn: Lsn,
    /// Its place inside the frame, from 0.
    pub index: u32,
    /// The byte in the segment at which it begins, with its header.
    pub offset: u32,
}
