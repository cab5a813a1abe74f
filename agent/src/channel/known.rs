//! What the owner says of a channel that is read: kept at hand, and held against what was seen before.

use std::sync::Arc;

use creto_envelope::channel::{ChannelName, ChannelRecord};
use creto_envelope::{AgentId, ChannelId, TrustDomain};
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep};

use super::error::ChannelError;
use super::records::{Records, Seen, seen_of};
use crate::limits::{CHANNEL_RECORD_LIFETIME, CHANNEL_RECORD_PAUSE, CHANNEL_RECORD_TIMEOUT};
use crate::receiver::Inbox;
use crate::worker::on_disk;

/// The newest record that is known.
#[derive(Clone, Debug)]
pub(super) struct Known {
    pub(super) record: Arc<ChannelRecord>,
    /// When it was asked for.
    pub(super) asked_at: Instant,
}

/// Has a newer record asked for.
#[derive(Debug, Default)]
pub(super) struct KnownRecord {
    asked: Notify,
}

impl KnownRecord {
    pub(super) fn ask(&self) {
        self.asked.notify_one();
    }
}

/// Keeps the record of one channel at hand, as long as somebody reads it.
pub(super) struct Keeper {
    pub(super) inbox: Arc<Inbox>,
    pub(super) records: Arc<Records>,
    pub(super) name: ChannelName,
    pub(super) trust_domain: TrustDomain,
    /// The owner that the application has named.
    pub(super) owner: Option<AgentId>,
    pub(super) known: watch::Sender<Option<Known>>,
    pub(super) record: Arc<KnownRecord>,
}

impl Keeper {
    /// The first one: until then nothing is shown.
    pub(super) async fn begin(&self) -> Result<(), ChannelError> {
        let until = Instant::now() + CHANNEL_RECORD_TIMEOUT;
        loop {
            match self.fetch().await {
                // A shard may be a moment behind.
                Ok(Seen::Older) if Instant::now() < until => sleep(CHANNEL_RECORD_PAUSE).await,
                Ok(Seen::Older) => return Err(Seen::older(&self.name)),
                Ok(_) => return Ok(()),
                Err(error) => return Err(error),
            }
        }
    }

    /// Runs until nobody reads the channel any more.
    pub(super) async fn run(self) {
        loop {
            tokio::select! {
                () = self.known.closed() => return,
                () = sleep(CHANNEL_RECORD_LIFETIME) => {},
                () = self.record.asked.notified() => {},
            }
            if let Err(error) = self.fetch().await {
                // The one at hand goes on.
                match error.is_retryable() {
                    true => {
                        tracing::debug!(channel = %self.name, %error, "the record of the channel cannot be had now")
                    }
                    false => tracing::warn!(channel = %self.name, %error, "the record of the channel is not gone by"),
                }
            }
            // Whoever asks again asks for one that may be another.
            sleep(CHANNEL_RECORD_PAUSE).await;
        }
    }

    async fn fetch(&self) -> Result<Seen, ChannelError> {
        let asked_at = Instant::now();
        let record = self.records.fetch(&self.name, &self.trust_domain).await?;
        let sessions = self.inbox.sessions().await.map_err(ChannelError::Mailbox)?;
        let channel = ChannelId::derive(&self.trust_domain, &self.name);
        let seen = Seen::check(&record, sessions.seen_channel(channel), self.owner)?;
        if seen == Seen::New {
            let is_seen = seen_of(&record);
            let kept = on_disk(move || sessions.channel_seen(channel, is_seen)).await;
            kept.map_err(|error| ChannelError::State(Arc::new(error)))?;
        }
        if seen != Seen::Older {
            self.known.send_replace(Some(Known { record, asked_at }));
        }
        Ok(seen)
    }
}
