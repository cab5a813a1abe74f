//! A message of a channel, as the application gets it.

use std::fmt;
use std::sync::Weak;

use bytes::Bytes;
use creto_envelope::{AgentId, AgentName, ChannelId, MessageId, Priority};

use super::reading::Reading;

/// A message that was published in a channel.
///
/// The node keeps where the subscription is until [`ack`](Self::ack) moves it on. While the application has not acknowledged as many as
/// the window allows, no more come.
#[derive(Clone)]
#[non_exhaustive]
pub struct ChannelMessage {
    /// The channel.
    pub channel: ChannelId,
    /// Who published it: proven by both signatures under the publisher's key record.
    pub publisher: AgentName,
    /// The publisher's id.
    pub publisher_id: AgentId,
    /// Its place in the channel's order. Sequences grow; some are of no message.
    pub sequence: u64,
    /// Its id, chosen by the publisher.
    pub message_id: MessageId,
    /// What was published.
    pub payload: Bytes,
    /// When it was made, by the publisher's clock, Unix milliseconds.
    pub timestamp_ms: u64,
    /// How urgent its publisher calls it. It changes nothing in the order.
    pub priority: Priority,
    /// How often the node handed it out before, to this subscription or another member of its group; zero the first time.
    pub attempt: u8,
    pub(super) reading: Weak<Reading>,
    pub(super) handle: u32,
}

impl ChannelMessage {
    /// The application has this message; without a group, this one **and all that it was shown before it**. Returns at once;
    /// acknowledgements travel together. What was acknowledged does not come again.
    pub fn ack(&self) {
        if let Some(reading) = self.reading.upgrade()
            && reading.acknowledged(self.handle, self.sequence)
        {
            reading.counters.consumer_acknowledged.add(1);
        }
    }
}

/// Says how long the payload is, not what it is: this ends up in logs.
impl fmt::Debug for ChannelMessage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ChannelMessage")
            .field("publisher", &self.publisher)
            .field("sequence", &self.sequence)
            .field("message_id", &self.message_id)
            .field("payload_bytes", &self.payload.len())
            .field("attempt", &self.attempt)
            .finish_non_exhaustive()
    }
}
