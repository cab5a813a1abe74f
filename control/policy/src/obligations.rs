//! What a yes is bound to: limits that a policy returns with it, and a shard holds a sender to.

use creto_envelope::Priority;

/// Bounds that come with a yes. The default binds to nothing.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug)]
pub struct Obligations {
    /// Messages in a second.
    pub messages_per_s: Option<u64>,
    /// Bytes of payload in a second.
    pub bytes_per_s: Option<u64>,
    /// Bytes of the largest payload.
    pub size_max: Option<u64>,
    /// Which priorities may be used.
    pub priorities: Priorities,
}

impl Obligations {
    /// A yes without bounds.
    pub const NONE: Self =
        Self { messages_per_s: None, bytes_per_s: None, size_max: None, priorities: Priorities::ALL };

    /// Whether a rate is bound.
    #[must_use]
    pub fn has_rate(&self) -> bool {
        self.messages_per_s.is_some() || self.bytes_per_s.is_some()
    }
}

/// A set of priorities.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Priorities(u8);

impl Priorities {
    /// Every priority.
    pub const ALL: Self = Self(0b1111);
    /// No priority.
    pub const NONE: Self = Self(0);

    /// The same set and this one.
    #[must_use]
    pub const fn with(self, priority: Priority) -> Self {
        Self(self.0 | 1 << priority as u8)
    }

    /// Whether it is in the set.
    #[must_use]
    pub const fn has(self, priority: Priority) -> bool {
        self.0 & 1 << priority as u8 != 0
    }
}

impl Default for Priorities {
    fn default() -> Self {
        Self::ALL
    }
}

impl FromIterator<Priority> for Priorities {
    fn from_iter<I: IntoIterator<Item = Priority>>(priorities: I) -> Self {
        priorities.into_iter().fold(Self::NONE, Self::with)
    }
}

// Every priority has its bit.
const _: () = assert!(Priorities::NONE.with(Priority::Critical).0 & Priorities::ALL.0 != 0);
