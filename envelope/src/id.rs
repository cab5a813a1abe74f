//! Who and what: agent ids and names, message ids, key ids.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use sha2::{Digest, Sha256};
use thiserror::Error;

use crate::channel::ChannelName;
use crate::limits::{NAME_BYTES_MAX, PARTITION_COUNT, TRUST_DOMAIN_BYTES_MAX};

/// Trust domain of a node that was not given another one.
pub const TRUST_DOMAIN_DEFAULT: &str = "creto.local";

macro_rules! id16 {
    ($(#[$meta:meta])* $name:ident) => {
        $(#[$meta])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
        #[repr(transparent)]
        pub struct $name(pub [u8; 16]);

        impl $name {
            /// All zero: "none" where a field is optional.
            pub const ZERO: Self = Self([0; 16]);

            /// Whether this is the "none" value.
            #[must_use]
            pub fn is_zero(&self) -> bool {
                self.0 == [0; 16]
            }

            /// Reads 32 hexadecimal digits, as `Display` writes them; hyphens as in a UUID may stand between them.
            #[must_use]
            pub fn parse_hex(text: &str) -> Option<Self> {
                let mut digits = text.chars().filter(|&c| c != '-').map(|c| c.to_digit(16));
                let mut bytes = [0; 16];
                for byte in &mut bytes {
                    let (high, low) = (digits.next()??, digits.next()??);
                    *byte = u8::try_from(high << 4 | low).ok()?;
                }
                digits.next().is_none().then_some(Self(bytes))
            }

            /// The 16 bytes.
            #[must_use]
            pub const fn as_bytes(&self) -> &[u8; 16] {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self)
            }
        }
    };
}

id16! {
    /// An agent: first 16 bytes of SHA-256("creto/agent-id/v1" || trust domain || 0x00 || name).
    AgentId
}
id16! {
    /// A message: a UUID of version 7 (RFC 9562), chosen by the sender; the key for deduplication.
    MessageId
}
id16! {
    /// A recipient's encryption key: first 16 bytes of SHA-256("creto/key-id/v1" || X25519 key || ML-KEM-768 key).
    KeyId
}

id16! {
    /// A channel: first 16 bytes of SHA-256("creto/channel-id/v1" || trust domain || 0x00 || name).
    ChannelId
}

impl ChannelId {
    /// Derives the id of a channel's name inside a trust domain.
    #[must_use]
    pub fn derive(trust_domain: &TrustDomain, name: &ChannelName) -> Self {
        let mut hash = Sha256::new();
        hash.update(b"creto/channel-id/v1");
        hash.update(trust_domain.as_str());
        hash.update([0]);
        hash.update(name.as_str());
        Self(first_16(&hash.finalize()))
    }
}

id16! {
    /// A group of subscribers that share a channel's messages: first 16 bytes of SHA-256("creto/channel-group/v1" || channel id ||
    /// name), or zero for none.
    GroupId
}

impl GroupId {
    /// No group.
    pub const NONE: Self = Self([0; 16]);

    /// Derives the id of a group's name inside a channel. Any text is a name: whoever subscribes under it is of the group.
    #[must_use]
    pub fn derive(channel: &ChannelId, name: &str) -> Self {
        let mut hash = Sha256::new();
        hash.update(b"creto/channel-group/v1");
        hash.update(channel.0);
        hash.update(name);
        Self(first_16(&hash.finalize()))
    }
}

impl AgentId {
    /// Derives the id of a name inside a trust domain.
    #[must_use]
    pub fn derive(trust_domain: &TrustDomain, name: &AgentName) -> Self {
        let mut hash = Sha256::new();
        hash.update(b"creto/agent-id/v1");
        hash.update(trust_domain.as_str());
        hash.update([0]);
        hash.update(name.as_str());
        Self(first_16(&hash.finalize()))
    }

    /// The partition of this agent's mailbox: the id's first eight bytes, little-endian, modulo [`PARTITION_COUNT`].
    #[must_use]
    #[allow(clippy::cast_possible_truncation, reason = "a remainder of PARTITION_COUNT fits u16")]
    pub fn partition(&self) -> u16 {
        let [a, b, c, d, e, f, g, h, ..] = self.0;
        (u64::from_le_bytes([a, b, c, d, e, f, g, h]) % u64::from(PARTITION_COUNT)) as u16
    }
}

impl KeyId {
    /// Derives the id of a hybrid encryption key.
    #[must_use]
    pub fn derive(x25519: &[u8; 32], ml_kem_768: &[u8; 1184]) -> Self {
        let mut hash = Sha256::new();
        hash.update(b"creto/key-id/v1");
        hash.update(x25519);
        hash.update(ml_kem_768);
        Self(first_16(&hash.finalize()))
    }
}

fn first_16(digest: &[u8]) -> [u8; 16] {
    let mut id = [0; 16];
    id.copy_from_slice(&digest[..16]);
    id
}

impl MessageId {
    /// Builds a UUID of version 7 from a time and 10 random bytes (RFC 9562 section 5.7).
    #[must_use]
    pub fn from_parts(unix_ms: u64, random: [u8; 10]) -> Self {
        let mut bytes = [0; 16];
        bytes[..6].copy_from_slice(&unix_ms.to_be_bytes()[2..]);
        bytes[6..].copy_from_slice(&random);
        bytes[6] = (bytes[6] & 0x0f) | 0x70;
        bytes[8] = (bytes[8] & 0x3f) | 0x80;
        Self(bytes)
    }

    /// Whether version and variant are those of a UUID of version 7.
    #[must_use]
    pub fn is_uuid_v7(&self) -> bool {
        self.0[6] & 0xf0 == 0x70 && self.0[8] & 0xc0 == 0x80
    }

    /// The time inside the id, in Unix milliseconds.
    #[must_use]
    pub fn unix_ms(&self) -> u64 {
        let [a, b, c, d, e, f, ..] = self.0;
        u64::from_be_bytes([0, 0, a, b, c, d, e, f])
    }

    /// The usual text form with hyphens.
    #[must_use]
    pub fn to_uuid_string(&self) -> String {
        let hex = self.to_string();
        format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..])
    }
}

/// Why a name or a trust domain was refused.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum NameError {
    /// The name is not of the form `organization/agent`.
    #[error("`{0}` is not an agent name; write organization/agent, such as acme/planner")]
    Form(String),
    /// The name has a character that is not allowed.
    #[error("`{name}` has the character {found:?}; names use a-z, 0-9, '.', '_' and '-'")]
    Character {
        /// The name as given.
        name: String,
        /// The first character that is not allowed.
        found: char,
    },
    /// The name is too long.
    #[error("the name has {0} bytes; at most 128 are allowed")]
    TooLong(usize),
    /// The trust domain is not usable.
    #[error("`{0}` is not a trust domain; use a DNS-like name of a-z, 0-9, '.', '_' and '-', at most 255 bytes")]
    TrustDomain(String),
}

fn name_character(c: char) -> bool {
    c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '.' | '_' | '-')
}

/// An agent's name: `organization/agent`. Cheap to clone: the text is shared.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct AgentName(Arc<str>);

impl AgentName {
    /// Parses `organization/agent`.
    ///
    /// # Errors
    /// [`NameError`] says which rule the text breaks.
    pub fn parse(text: &str) -> Result<Self, NameError> {
        if text.len() > NAME_BYTES_MAX {
            return Err(NameError::TooLong(text.len()));
        }
        if let Some(found) = text.chars().find(|&c| c != '/' && !name_character(c)) {
            return Err(NameError::Character { name: text.to_owned(), found });
        }
        match text.split_once('/') {
            Some((organization, agent)) if !organization.is_empty() && !agent.is_empty() && !agent.contains('/') => {
                Ok(Self(text.into()))
            }
            _ => Err(NameError::Form(text.to_owned())),
        }
    }

    /// The whole name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The part before the slash.
    #[must_use]
    pub fn organization(&self) -> &str {
        self.0.split_once('/').map_or("", |(organization, _)| organization)
    }

    /// The SPIFFE id of this name in `trust_domain`.
    #[must_use]
    pub fn spiffe_id(&self, trust_domain: &TrustDomain) -> String {
        format!("spiffe://{}/{}", trust_domain.as_str(), self.0)
    }
}

impl FromStr for AgentName {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        Self::parse(text)
    }
}

impl fmt::Display for AgentName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A trust domain: the space in which names are unique.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct TrustDomain(String);

impl TrustDomain {
    /// Parses a trust domain (SPIFFE-ID section 2.1: lower case letters, digits, dot, dash, underscore).
    ///
    /// # Errors
    /// [`NameError::TrustDomain`] when it is empty, too long or has another character.
    pub fn parse(text: &str) -> Result<Self, NameError> {
        let usable = !text.is_empty() && text.len() <= TRUST_DOMAIN_BYTES_MAX && text.chars().all(name_character);
        if usable { Ok(Self(text.to_owned())) } else { Err(NameError::TrustDomain(text.to_owned())) }
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Default for TrustDomain {
    fn default() -> Self {
        Self(TRUST_DOMAIN_DEFAULT.to_owned())
    }
}

impl FromStr for TrustDomain {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        Self::parse(text)
    }
}

impl fmt::Display for TrustDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
