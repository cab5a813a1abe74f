//! What the node keeps of a message beside who, where and when: bits of its record.

/// Bits of a message in its record and in the digest. Those of a later version are refused.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct MessageFlags(u8);

impl MessageFlags {
    /// Nothing.
    pub const NONE: Self = Self(0);
    /// Its sender asks to be told if its time is over before it was acknowledged.
    pub const WANTS_NOTICE: Self = Self(1);
    /// Its time is what its mailbox keeps messages for: its sender said nothing, or more.
    pub const KEPT_FOR_RETENTION: Self = Self(2);

    /// It was published in a channel: its mailbox is the channel. Such a message always has an expiry.
    pub const PUBLISHED: Self = Self(4);

    const KNOWN: u8 = 7;

    /// Whether all bits of `flags` are set.
    pub const fn contains(self, flags: Self) -> bool {
        self.0 & flags.0 == flags.0
    }

    /// The same, and the bits of `flags`.
    #[must_use]
    pub const fn with(self, flags: Self) -> Self {
        Self(self.0 | flags.0)
    }

    pub(crate) const fn bits(self) -> u8 {
        self.0
    }

    pub(crate) const fn from_bits(bits: u16) -> Option<Self> {
        match bits.to_le_bytes() {
            [bits, 0] if bits & !Self::KNOWN == 0 => Some(Self(bits)),
            _ => None,
        }
    }
}
