//! What a field of an event can be: its bytes, and how a person reads it.

use std::net::{IpAddr, Ipv6Addr};

pub use creto_envelope::ChannelId;
use creto_envelope::{AgentId, KeyId, MessageId, RejectCode};

use super::control_code::CONTROL_CODES;
use super::kinds::Kind;
use crate::reader::Reader;

/// A field as it is shown.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Shown {
    /// A number, with its unit in the field's name.
    Number(u64),
    /// A time, Unix milliseconds.
    TimeMs(u64),
    /// An agent or a mailbox; zero: none.
    Agent(AgentId),
    /// A message.
    Message(MessageId),
    /// Sixteen other bytes: a key, a channel, a token; zero: none.
    Id([u8; 16]),
    /// A digest.
    Digest([u8; 32]),
    /// A word of a closed list.
    Word(&'static str),
    /// A reject code.
    Code(Code),
    /// An address; `None` where it was not known.
    Peer(Option<IpAddr>),
}

/// A field: fixed size, little-endian, one encoding for each value.
pub(crate) trait Field: Copy {
    const BYTES: usize;
    fn put(self, out: &mut Vec<u8>);
    /// `None` when the bytes end, or have no meaning.
    fn take(reader: &mut Reader<'_>) -> Option<Self>;
    fn shown(self) -> Shown;
}

macro_rules! number {
    ($($type:ident),*) => { $(
        impl Field for $type {
            const BYTES: usize = size_of::<$type>();
            fn put(self, out: &mut Vec<u8>) {
                out.extend_from_slice(&self.to_le_bytes());
            }
            fn take(reader: &mut Reader<'_>) -> Option<Self> {
                reader.$type()
            }
            fn shown(self) -> Shown {
                Shown::Number(self.into())
            }
        }
    )* };
}
number!(u8, u16, u32, u64);

macro_rules! bytes {
    ($($type:ident, $bytes:literal, $shown:expr;)*) => { $(
        impl Field for $type {
            const BYTES: usize = $bytes;
            fn put(self, out: &mut Vec<u8>) {
                out.extend_from_slice(&self.0);
            }
            fn take(reader: &mut Reader<'_>) -> Option<Self> {
                reader.array().map(Self)
            }
            fn shown(self) -> Shown {
                $shown(self)
            }
        }
    )* };
}
bytes! {
    AgentId, 16, Shown::Agent;
    MessageId, 16, Shown::Message;
    KeyId, 16, |id: KeyId| Shown::Id(id.0);
    ChannelId, 16, |id: ChannelId| Shown::Id(id.0);
    TokenId, 16, |id: TokenId| Shown::Id(id.0);
    Digest, 32, |digest: Digest| Shown::Digest(digest.0);
    Peer, 16, |peer: Peer| Shown::Peer(peer.address());
}

/// What names a one-time token or a backup, and tells nothing about it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Debug)]
pub struct TokenId(pub [u8; 16]);

/// A SHA-256.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Debug)]
pub struct Digest(pub [u8; 32]);

/// A kind of events, as its number.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct KindOf(pub u8);

/// An IP address as IPv6 (IPv4 is mapped: `::ffff:192.0.2.1`); all zero where it is not known.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Debug)]
pub struct Peer(pub [u8; 16]);

impl Peer {
    /// The address; `None` where it was not known.
    #[must_use]
    pub fn address(self) -> Option<IpAddr> {
        let address = Ipv6Addr::from(self.0);
        (!address.is_unspecified()).then(|| IpAddr::V6(address).to_canonical())
    }
}

impl From<IpAddr> for Peer {
    fn from(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(address) => Self(address.to_ipv6_mapped().octets()),
            IpAddr::V6(address) => Self(address.octets()),
        }
    }
}

/// A reject code of the protocol, or one of the control API (from 1,000 on), as its number: a log outlives the versions that
/// know its codes. Zero: none.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Debug)]
pub struct Code(pub u16);

impl Code {
    /// No code.
    pub const NONE: Self = Self(0);

    /// The code of the control API that has this name.
    #[must_use]
    pub fn of_control(name: &str) -> Option<Self> {
        CONTROL_CODES.iter().find(|(_, known)| *known == name).map(|(number, _)| Self(*number))
    }

    /// Its name, if this version knows it.
    #[must_use]
    pub fn name(self) -> Option<&'static str> {
        let of_control = || CONTROL_CODES.iter().find(|(number, _)| *number == self.0).map(|(_, name)| *name);
        RejectCode::from_u16(self.0).map(RejectCode::name).or_else(of_control)
    }
}

impl From<RejectCode> for Code {
    fn from(code: RejectCode) -> Self {
        Self(code as u16)
    }
}

/// A time, Unix milliseconds; zero: none.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Debug)]
pub struct TimeMs(pub u64);

macro_rules! numbered {
    ($($type:ident, $number:ident, $shown:expr;)*) => { $(
        impl Field for $type {
            const BYTES: usize = size_of::<$number>();
            fn put(self, out: &mut Vec<u8>) {
                self.0.put(out);
            }
            fn take(reader: &mut Reader<'_>) -> Option<Self> {
                reader.$number().map(Self)
            }
            fn shown(self) -> Shown {
                $shown(self)
            }
        }
    )* };
}
numbered! {
    Code, u16, Shown::Code;
    TimeMs, u64, |time: TimeMs| Shown::TimeMs(time.0);
    KindOf, u8, |kind: KindOf| match Kind::ALL.iter().find(|known| known.number == kind.0) {
        Some(known) => Shown::Word(known.name),
        None => Shown::Number(kind.0.into()),
    };
}

macro_rules! words {
    ($($(#[$doc:meta])* $name:ident { $($(#[$word_doc:meta])* $word:ident = $byte:literal, $text:literal;)* })*) => { $(
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
        #[repr(u8)]
        pub enum $name { $($(#[$word_doc])* $word = $byte,)* }

        impl $name {
            /// All of them, each with its byte and the word that stands for it in text.
            pub const ALL: &[(Self, u8, &str)] = &[$((Self::$word, $byte, $text),)*];

            /// The word that stands for it in text.
            #[must_use]
            pub fn word(self) -> &'static str {
                match self { $(Self::$word => $text,)* }
            }
        }

        impl Field for $name {
            const BYTES: usize = 1;
            fn put(self, out: &mut Vec<u8>) {
                out.push(self as u8);
            }
            fn take(reader: &mut Reader<'_>) -> Option<Self> {
                match reader.u8()? { $($byte => Some(Self::$word),)* _ => None }
            }
            fn shown(self) -> Shown {
                Shown::Word(self.word())
            }
        }
    )* };
}

words! {
    /// Who gave a message up.
    DeathCause {
        /// Its consumer refused it for good.
        Rejected = 0, "rejected";
        /// Too many deliveries of it failed.
        Deliveries = 1, "deliveries";
    }
    /// Which time of a message was over.
    ExpiryCause {
        /// The time that its sender gave it.
        TimeToLive = 1, "time_to_live";
        /// The time for which its mailbox keeps messages.
        Retention = 2, "retention";
    }
    /// How an encryption key was replaced.
    RotationMode {
        /// On a schedule or on demand.
        Planned = 0, "planned";
        /// The old key may be in foreign hands.
        Emergency = 1, "emergency";
    }
    /// What somebody wants to do.
    Action {
        /// Put a message into a mailbox.
        Send = 0, "send";
        /// Read a key record.
        ReadDirectory = 1, "read_directory";
        /// Read a mailbox or a channel.
        Subscribe = 2, "subscribe";
        /// Create a channel.
        CreateChannel = 3, "create_channel";
        /// Put a message into a channel.
        Publish = 4, "publish";
        /// Change what the node keeps.
        Administer = 5, "administer";
    }
    /// What an alert is about.
    Rule {
        /// Signatures that do not hold.
        ForgedSignatures = 1, "forged_signatures";
        /// Messages that came again too late to be told from new ones, or in another agent's name.
        Replays = 2, "replays";
        /// What policy denies, many times.
        Denials = 3, "denials";
        /// Logins and enrolments without the right keys or tokens.
        LoginFailures = 4, "login_failures";
        /// Signatures that are dated too far from the node's clock.
        ClockSkew = 5, "clock_skew";
        /// Keys that were revoked or suspended, still in use.
        RevokedKeys = 6, "revoked_keys";
    }
    /// How something ended.
    Outcome {
        /// As it should.
        Done = 0, "done";
        /// It was given up.
        GivenUp = 1, "given_up";
        /// It failed.
        Failed = 2, "failed";
    }
}
