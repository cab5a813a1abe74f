//! What is set for mailboxes: the bytes of the table, the change that someone asks for, and the change of the node's default.

use creto_envelope::AgentId;
use creto_policy::mailbox::OutOfRange;
pub use creto_policy::mailbox::{BYTES_MAX, MAX_DELIVERIES, MESSAGES_MAX, RETENTION_S};
use creto_policy::{LowerRetention, MailboxSettings};
use serde::{Deserialize, Deserializer, Serialize};
use utoipa::ToSchema;

#[cfg(test)]
mod tests;

/// What holds for every mailbox for which nothing else is set: the node's configuration.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct MailboxDefaults {
    /// How long what nobody acknowledges is kept, in seconds.
    pub retention_s: u32,
    /// Most messages queued.
    pub messages_max: u32,
    /// Most bytes queued.
    pub bytes_max: u64,
    /// After so many deliveries a message is given up; zero: never.
    pub max_deliveries: u8,
}

impl Default for MailboxDefaults {
    fn default() -> Self {
        Self { retention_s: 7 * 86_400, messages_max: 100_000, bytes_max: 64 << 20, max_deliveries: 0 }
    }
}

/// What to set. A setting that is left out stays, `null` takes it back: the node's default holds again.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct MailboxChange {
    /// How long what nobody acknowledges is kept, in seconds.
    #[serde(default, deserialize_with = "given", skip_serializing_if = "Option::is_none")]
    pub retention_s: Option<Option<u32>>,
    /// Most messages queued.
    #[serde(default, deserialize_with = "given", skip_serializing_if = "Option::is_none")]
    pub messages_max: Option<Option<u32>>,
    /// Most bytes queued.
    #[serde(default, deserialize_with = "given", skip_serializing_if = "Option::is_none")]
    pub bytes_max: Option<Option<u64>>,
    /// After so many deliveries a message is given up.
    #[serde(default, deserialize_with = "given", skip_serializing_if = "Option::is_none")]
    pub max_deliveries: Option<Option<u8>>,
}

/// What is written is given, also when that is `null`.
fn given<'de, D: Deserializer<'de>, T: Deserialize<'de>>(deserializer: D) -> Result<Option<Option<T>>, D::Error> {
    Option::deserialize(deserializer).map(Some)
}

impl MailboxChange {
    /// Takes back every setting.
    pub const ALL_DEFAULT: Self =
        Self { retention_s: Some(None), messages_max: Some(None), bytes_max: Some(None), max_deliveries: Some(None) };

    /// The settings after it.
    ///
    /// # Errors
    /// [`OutOfRange`]: nothing is to be changed then.
    pub fn applied_to(&self, before: &MailboxSettings) -> Result<MailboxSettings, OutOfRange> {
        let after = MailboxSettings {
            retention_s: self.retention_s.unwrap_or(before.retention_s),
            messages_max: self.messages_max.unwrap_or(before.messages_max),
            bytes_max: self.bytes_max.unwrap_or(before.bytes_max),
            max_deliveries: self.max_deliveries.unwrap_or(before.max_deliveries),
        };
        after.check()?;
        Ok(after)
    }
}

/// A change of one mailbox, on its way to the writer.
#[derive(Debug)]
pub(crate) struct MailboxRequest {
    pub(crate) agent: AgentId,
    pub(crate) change: MailboxChange,
}

/// A row of the table `mailboxes`.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(crate) struct MailboxRow {
    pub(crate) settings: MailboxSettings,
    /// Its own retention, where that was lower not long ago.
    pub(crate) lower: LowerRetention,
}

const ROW_FORMAT: u8 = 1;
const ROW_BYTES: usize = 32;

impl MailboxRow {
    /// The row after a change, at `now_ms`, of a node with this default retention, which may have been lower itself.
    pub(crate) fn changed(
        &self,
        settings: MailboxSettings,
        default_s: u32,
        default_lower: LowerRetention,
        now_ms: u64,
    ) -> Self {
        let lower = self.lower_with(default_lower, now_ms);
        let retention_s = |settings: &MailboxSettings| settings.retention_s.unwrap_or(default_s);
        Self { settings, lower: lower.changed(retention_s(&self.settings), retention_s(&settings), now_ms) }
    }

    /// What counts for this mailbox: a default that was lower concerns those that follow it.
    pub(crate) fn lower_with(&self, default_lower: LowerRetention, now_ms: u64) -> LowerRetention {
        match self.settings.retention_s {
            Some(_) => self.lower,
            None => self.lower.and(default_lower, now_ms),
        }
    }

    /// The bytes of the table, little-endian:
    ///
    /// ```text
    /// 0 u8 format=1 | 1 u8 max_deliveries | 2 u16 zero | 4 u32 messages_max | 8 u64 bytes_max | 16 u32 retention_s
    /// 20 u32 lower retention_s | 24 u64 up to when it counts, Unix ms
    /// ```
    ///
    /// Zero stands for what is not set.
    pub(crate) fn to_bytes(self) -> [u8; ROW_BYTES] {
        let mut out = [0; ROW_BYTES];
        out[0] = ROW_FORMAT;
        out[1] = self.settings.max_deliveries.unwrap_or(0);
        out[4..8].copy_from_slice(&self.settings.messages_max.unwrap_or(0).to_le_bytes());
        out[8..16].copy_from_slice(&self.settings.bytes_max.unwrap_or(0).to_le_bytes());
        out[16..20].copy_from_slice(&self.settings.retention_s.unwrap_or(0).to_le_bytes());
        out[20..].copy_from_slice(&lower_bytes(self.lower));
        out
    }

    /// Parses them; `None` when they are not as [`MailboxRow::to_bytes`] writes them.
    pub(crate) fn parse(bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; ROW_BYTES] = bytes.try_into().ok()?;
        let u32_at = |at: usize| Some(u32::from_le_bytes(*bytes.get(at..)?.first_chunk()?));
        let set = |value: u32| (value > 0).then_some(value);
        let settings = MailboxSettings {
            // 1 could be set once: the least that there is now is nearest to it.
            max_deliveries: (bytes[1] > 0).then_some(bytes[1].max(*MAX_DELIVERIES.start())),
            messages_max: set(u32_at(4)?),
            bytes_max: Some(u64::from_le_bytes(*bytes[8..].first_chunk()?)).filter(|&bytes_max| bytes_max > 0),
            retention_s: set(u32_at(16)?),
        };
        let row = Self { settings, lower: parse_lower(bytes.last_chunk()?) };
        let mut written = row.to_bytes();
        written[1] = bytes[1];
        (settings.check().is_ok() && written == *bytes).then_some(row)
    }
}

fn lower_bytes(lower: LowerRetention) -> [u8; 12] {
    let mut out = [0; 12];
    out[..4].copy_from_slice(&lower.retention_s.to_le_bytes());
    out[4..].copy_from_slice(&lower.until_ms.to_le_bytes());
    out
}

fn parse_lower(bytes: &[u8; 12]) -> LowerRetention {
    let (retention_s, until_ms) = bytes.split_first_chunk().expect("twelve bytes are more than four");
    let until_ms = until_ms.first_chunk().expect("eight are left");
    LowerRetention { retention_s: u32::from_le_bytes(*retention_s), until_ms: u64::from_le_bytes(*until_ms) }
}

/// The node's default retention, as `meta` keeps it: to know, at a start, that the configuration was changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct DefaultRetention {
    pub(crate) retention_s: u32,
    pub(crate) lower: LowerRetention,
}

impl DefaultRetention {
    /// What is to be kept when the configuration says `retention_s` at `now_ms`.
    pub(crate) fn configured(before: Option<Self>, retention_s: u32, now_ms: u64) -> Self {
        let lower =
            before.map_or_else(LowerRetention::default, |it| it.lower.changed(it.retention_s, retention_s, now_ms));
        Self { retention_s, lower }
    }

    /// u32 LE seconds, then as in [`MailboxRow::to_bytes`] from byte 20.
    pub(crate) fn to_bytes(self) -> [u8; 16] {
        let mut out = [0; 16];
        out[..4].copy_from_slice(&self.retention_s.to_le_bytes());
        out[4..].copy_from_slice(&lower_bytes(self.lower));
        out
    }

    /// Parses them.
    pub(crate) fn parse(bytes: &[u8]) -> Option<Self> {
        let (retention_s, lower) = bytes.split_first_chunk()?;
        Some(Self { retention_s: u32::from_le_bytes(*retention_s), lower: parse_lower(lower.try_into().ok()?) })
    }
}
