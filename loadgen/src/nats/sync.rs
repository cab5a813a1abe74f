//! What an acknowledgement of a JetStream server is worth: whether a message is on disk by then.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// When a JetStream server syncs its files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum NatsSync {
    /// Before it acknowledges a message (`sync_interval: always`).
    Always,
    /// So often, in the background: what it has acknowledged since is lost with the power.
    Every(Duration),
    /// As often as this version does by itself: some minutes apart, in the background.
    Default,
}

impl FromStr for NatsSync {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        match name {
            "always" => Ok(Self::Always),
            "default" => Ok(Self::Default),
            _ => Err(format!("`{name}` is none of always, default")),
        }
    }
}

impl fmt::Display for NatsSync {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Always => f.write_str("sync_interval: always, synced before each acknowledgement"),
            Self::Every(every) => {
                let seconds = every.as_secs_f64();
                write!(f, "synced every {seconds} s in the background, acknowledged before that: NOT synced when it is acknowledged")
            }
            Self::Default => {
                f.write_str("synced every 2 minutes or as its version does, acknowledged before that: NOT synced when it is acknowledged")
            }
        }
    }
}

/// What a server says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NatsFound {
    /// Its version.
    pub version: String,
    /// What an acknowledgement means, in words.
    pub durability: String,
    /// Whether the connection is encrypted.
    pub is_encrypted: bool,
}
