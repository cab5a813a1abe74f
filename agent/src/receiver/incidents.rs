//! Messages that came and could not be verified or opened, for whoever wants to hear of them.

use std::fmt;
use std::sync::{Arc, Weak};

use creto_envelope::deliver::Nack;
use creto_envelope::{AgentId, MessageId, RejectCode};
use tokio::sync::broadcast;

use super::Inbox;
use crate::stats::Counters;

/// A message that came and could not be verified or opened. It was not acknowledged.
#[derive(Clone)]
#[non_exhaustive]
pub struct Incident {
    /// Which check failed.
    pub code: RejectCode,
    /// Who sent it, as the envelope claims; zero when it could not be read.
    pub claimed_sender: AgentId,
    /// The message's id, as the envelope claims; zero when it could not be read.
    pub message_id: MessageId,
    /// Its number in the mailbox.
    pub mailbox_sequence: u64,
    /// How often the node pushed it before.
    pub attempt: u8,
    pub(super) stream: u64,
    pub(super) inbox: Weak<Inbox>,
}

impl Incident {
    /// Acknowledges the message, so that the node forgets it and it does not come again. It is lost then: for good
    /// reasons only. False when the connection that it came on is gone; it will come again.
    #[must_use = "the message may come again"]
    pub fn discard(&self) -> bool {
        self.inbox.upgrade().is_some_and(|inbox| inbox.dismissed(self, None))
    }

    /// Sends the message to the dead letters of this mailbox, with the application's own reason (0 for none): it does not
    /// come again, and it is kept. False when the connection that it came on is gone; it will come again.
    #[must_use = "the message may come again"]
    pub fn reject(&self, reason: u16) -> bool {
        self.inbox.upgrade().is_some_and(|inbox| inbox.dismissed(self, Some(Nack::Never { reason })))
    }
}

impl fmt::Debug for Incident {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for Incident {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { code, claimed_sender, message_id, mailbox_sequence, .. } = self;
        write!(f, "mailbox message {mailbox_sequence} (id {message_id}, said to be from {claimed_sender}): {code}")
    }
}

/// Incidents as they happen.
#[derive(Debug)]
pub struct Incidents {
    pub(super) incidents: broadcast::Receiver<Incident>,
    pub(super) counters: Arc<Counters>,
}

impl Incidents {
    /// The next incident; `None` when the agent is closed. Incidents that were not read in time are skipped and counted.
    pub async fn next(&mut self) -> Option<Incident> {
        loop {
            match self.incidents.recv().await {
                Ok(incident) => return Some(incident),
                Err(broadcast::error::RecvError::Closed) => return None,
                Err(broadcast::error::RecvError::Lagged(count)) => {
                    self.counters.incidents_dropped.add(usize::try_from(count).unwrap_or(usize::MAX));
                }
            }
        }
    }
}
