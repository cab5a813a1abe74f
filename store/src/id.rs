//! Names as the log knows them: sixteen bytes each, never looked into, except for the time in a message id.

use std::fmt;

macro_rules! id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub [u8; 16]);

        impl From<[u8; 16]> for $name {
            fn from(bytes: [u8; 16]) -> Self {
                Self(bytes)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:032x}", u128::from_be_bytes(self.0))
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(self, f)
            }
        }
    };
}

id! {
    /// The mailbox of a recipient: the recipient's agent id.
    MailboxId
}
id! {
    /// The agent id of a sender.
    SenderId
}
id! {
    /// The agent id of whoever subscribes to a channel.
    SubscriberId
}
id! {
    /// A consumer group of a channel: its members share one cursor.
    GroupId
}
id! {
    /// A message's id, a UUIDv7 (RFC 9562) chosen by its sender: the key for deduplication.
    MessageId
}

impl SenderId {
    /// The node itself, of its notices: no agent has this id.
    pub const NODE: Self = Self([0; 16]);
}

impl SubscriberId {
    /// In place of a subscriber where a whole group is meant: no agent has this id.
    pub const NONE: Self = Self([0; 16]);
}

impl GroupId {
    /// No group: whoever subscribes has a cursor of its own.
    pub const NONE: Self = Self([0; 16]);
}

impl MessageId {
    /// The id's time: its first 48 bits, big-endian, in milliseconds since 1970 (RFC 9562 section 5.7).
    pub fn time_ms(&self) -> u64 {
        let [a, b, c, d, e, f, ..] = self.0;
        u64::from_be_bytes([0, 0, a, b, c, d, e, f])
    }
}
