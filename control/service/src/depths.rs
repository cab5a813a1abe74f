//! Which mailboxes and channels are the fullest: shards find them, the API shows them.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Most mailboxes that are listed.
pub const DEPTHS_MAX: usize = 32;

/// What a mailbox is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum MailboxKind {
    /// An agent's.
    Agent,
    /// A channel.
    Channel,
    /// The directory has neither an agent nor a channel of this id any more.
    Unknown,
}

/// How much waits in a mailbox or a channel.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct MailboxDepth {
    /// The agent id or channel id, 32 hexadecimal digits.
    pub id: String,
    /// The name of the agent or channel; absent when the directory has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// What it is.
    pub kind: MailboxKind,
    /// The shard that keeps it.
    pub shard: u16,
    /// Messages that wait, dead letters included.
    pub messages: u64,
    /// Their bytes, as the quotas count them.
    pub bytes: u64,
    /// Of these messages, those that its reader was given and has not acknowledged.
    pub handed_out_messages: u64,
    /// Of these messages, dead letters.
    pub dead_messages: u64,
}

/// The fullest mailboxes and channels of a node, at the last look of each shard.
#[derive(Clone, PartialEq, Eq, Default, Debug, Serialize, Deserialize, ToSchema)]
pub struct MailboxDepths {
    /// Whether every shard has looked at all of its mailboxes since it started. While it is false the rest is what is known so far, which may
    /// be nothing; it stays false where there are no shards, as at a control service of its own.
    pub complete: bool,
    /// How many mailboxes and channels hold anything. One that empties and fills again while they are looked at may count twice.
    pub holding: u64,
    /// The fullest, those with most messages first; at most 32.
    pub mailboxes: Vec<MailboxDepth>,
}

/// Whoever knows.
pub trait DepthSource: std::fmt::Debug + Send + Sync + 'static {
    /// As of the last look. It waits for nobody.
    fn fullest(&self) -> MailboxDepths;
}
