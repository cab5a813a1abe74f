//! Keys of channels, beside the sessions of senders: they come the same way, and belong to the same process.

use std::time::Duration;

use creto_crypto_accel::seal::MessageKey;
use creto_crypto_accel::session::ChannelKey;
use creto_envelope::ChannelId;
use creto_envelope::limits::CHANNEL_RETENTION_S_MAX;

use super::IncomingSessions;
use crate::channel::keys::{ChannelKeys, KeyChanges, NoKey, PublishedSession};
use crate::clock;
use crate::error::StateError;
use crate::state::incoming::ReadChannel;
use crate::state::publishing::SeenRecord;
use crate::stats::UNPOISONED;

impl IncomingSessions {
    /// Keeps keys that their publishers gave: when this returns, they are on disk. One durable transaction for all of them, none if
    /// nothing is new.
    ///
    /// # Errors
    /// [`StateError`]: none of them may be acknowledged.
    pub(crate) fn keep_channel_keys(&self, keys: Vec<ChannelKey>) -> Result<(), StateError> {
        let disk = self.disk.lock().expect(UNPOISONED);
        let mut changes = KeyChanges::default();
        {
            let mut known = self.channel_keys();
            let now_ms = clock::now_ms();
            keys.into_iter().for_each(|key| known.keep(key, now_ms, &mut changes));
        }
        match &*disk {
            Some(disk) if !changes.is_empty() => disk.commit_channel_keys(&changes),
            _ => Ok(()),
        }
    }

    /// Whether this agent was given this session of a channel.
    pub(crate) fn has_channel_key(&self, channel: ChannelId, session: PublishedSession) -> bool {
        self.channel_keys().has(channel, session)
    }

    /// The key of a message of a channel.
    pub(crate) fn channel_message_key(
        &self,
        channel: ChannelId,
        session: PublishedSession,
        counter: u64,
        now_ms: u64,
    ) -> Result<MessageKey, NoKey> {
        self.channel_keys().key(channel, session, counter, now_ms)
    }

    /// Erases the keys of what no channel keeps any more. `retention` says for how long a channel keeps messages, where that is known;
    /// elsewhere it is the longest.
    ///
    /// # Errors
    /// [`StateError`]: they are gone from memory, and from the disk with the next start.
    pub(crate) fn expire_channel_keys(
        &self,
        now_ms: u64,
        retention: impl Fn(ChannelId) -> Option<Duration>,
    ) -> Result<(), StateError> {
        let disk = self.disk.lock().expect(UNPOISONED);
        let longest = Duration::from_secs(CHANNEL_RETENTION_S_MAX.into());
        let changes = self.channel_keys().expire(now_ms, |channel| retention(channel).unwrap_or(longest));
        match &*disk {
            Some(disk) if !changes.is_empty() => disk.commit_channel_keys(&changes),
            _ => Ok(()),
        }
    }

    /// A subscription without a group begins, or goes on: gives up to where messages may be from before this agent was let in. That is
    /// `new`, unless it is known from an earlier run; then it is what it was.
    ///
    /// # Errors
    /// [`StateError`]: it is remembered, but not on disk.
    pub(crate) fn began_to_read(&self, channel: ChannelId, new: u64) -> Result<u64, StateError> {
        let mut before = new;
        self.change_channel(channel, |read| before = *read.before.get_or_insert(new))?;
        Ok(before)
    }

    /// A subscription ended: another one will begin somewhere else.
    ///
    /// # Errors
    /// [`StateError`].
    pub(crate) fn ended_to_read(&self, channel: ChannelId) -> Result<(), StateError> {
        self.change_channel(channel, |read| read.before = None)
    }

    /// The newest record of a channel that was seen.
    pub(crate) fn seen_channel(&self, channel: ChannelId) -> Option<SeenRecord> {
        self.channels.lock().expect(UNPOISONED).get(&channel)?.seen
    }

    /// A record of a channel was seen.
    ///
    /// # Errors
    /// [`StateError`].
    pub(crate) fn channel_seen(&self, channel: ChannelId, seen: SeenRecord) -> Result<(), StateError> {
        self.change_channel(channel, |read| read.seen = Some(seen))
    }

    fn change_channel(&self, channel: ChannelId, change: impl FnOnce(&mut ReadChannel)) -> Result<(), StateError> {
        let disk = self.disk.lock().expect(UNPOISONED);
        let (before, now) = {
            let mut channels = self.channels.lock().expect(UNPOISONED);
            let read = channels.entry(channel).or_default();
            let before = *read;
            change(read);
            (before, *read)
        };
        match &*disk {
            Some(disk) if before != now => disk.commit_channel(channel, &now),
            _ => Ok(()),
        }
    }

    fn channel_keys(&self) -> std::sync::MutexGuard<'_, ChannelKeys> {
        self.channel_keys.lock().expect(UNPOISONED)
    }
}
