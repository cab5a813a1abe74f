//! Acknowledgements on their way to the node, for whoever measures how long they take.

use std::sync::Arc;

use creto_envelope::ChannelId;
use tokio::sync::broadcast;
use tokio::sync::broadcast::error::RecvError;

/// Acknowledgements that were handed to the connection together.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Acknowledged {
    /// Messages of the agent's mailbox, by [`Delivery::mailbox_sequence`](crate::Delivery::mailbox_sequence).
    Mailbox(Arc<[u64]>),
    /// Messages of a channel, by [`ChannelMessage::sequence`](crate::ChannelMessage::sequence). Without a group the largest stands for
    /// all before it.
    Channel {
        /// Which channel.
        channel: ChannelId,
        /// The messages.
        sequences: Arc<[u64]>,
    },
}

/// Acknowledgements as they leave; see [`Agent::acknowledgements`](crate::Agent::acknowledgements).
#[derive(Debug)]
pub struct Acknowledgements {
    queue: broadcast::Receiver<Acknowledged>,
    missed: u64,
}

impl Acknowledgements {
    pub(super) fn new(queue: broadcast::Receiver<Acknowledged>) -> Self {
        Self { queue, missed: 0 }
    }

    /// The next ones, waiting for them. `None` when the agent is gone. Cancel-safe.
    pub async fn next(&mut self) -> Option<Acknowledged> {
        loop {
            match self.queue.recv().await {
                Ok(acknowledged) => return Some(acknowledged),
                Err(RecvError::Lagged(count)) => self.missed += count,
                Err(RecvError::Closed) => return None,
            }
        }
    }

    /// How many were left out because nobody took them in time: receiving never waits for whoever measures it.
    #[must_use]
    pub fn missed(&self) -> u64 {
        self.missed
    }
}
