//! A message of a channel, as the application gets it.

use std::fmt;
use std::sync::Weak;
use std::time::Duration;

use bytes::Bytes;
use creto_envelope::channel::frames::GiveBack;
use creto_envelope::{AgentId, AgentName, ChannelId, MessageId, Priority};

use tracing::Span;

use super::reading::Reading;
use crate::trace::TraceContext;

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
    /// Where in a trace its publisher was, if it says so.
    pub trace: Option<TraceContext>,
    pub(super) span: Span,
    pub(super) reading: Weak<Reading>,
    pub(super) handle: u32,
}

impl ChannelMessage {
    /// The application has this message; without a group, this one **and all before it that it took**. Returns at once;
    /// acknowledgements travel together. What was acknowledged does not come again.
    pub fn ack(&self) {
        if let Some(reading) = self.reading.upgrade()
            && reading.acknowledged(self.handle, self.sequence)
        {
            reading.counters.consumer_acknowledged.add(1);
        }
    }

    /// The span of working on this message, as [`Delivery::span`](crate::Delivery::span) is; it ends with the last clone.
    #[must_use]
    pub fn span(&self) -> &Span {
        &self.span
    }

    /// In a group: the application cannot do the work now. The message comes again, to whichever member, after a pause that the node
    /// makes longer with every failure; after too many of them the group gives it up. Says whether it goes back: not without a group,
    /// where nobody else could do the work, and not after [`ack`](Self::ack).
    #[allow(clippy::must_use_candidate, reason = "whoever does not ask has done all the same")]
    pub fn nack(&self) -> bool {
        self.nack_after(Duration::ZERO)
    }

    /// As [`nack`](Self::nack), and not before this time has passed; rounded up to milliseconds.
    #[allow(clippy::must_use_candidate, reason = "whoever does not ask has done all the same")]
    pub fn nack_after(&self, delay: Duration) -> bool {
        let delay_ms = u32::try_from(delay.as_nanos().div_ceil(1_000_000)).unwrap_or(u32::MAX);
        let Some(reading) = self.reading.upgrade() else { return false };
        let is_back = reading.given_back(self.handle, self.sequence, GiveBack::Later { delay_ms });
        reading.counters.consumer_nacked.add(usize::from(is_back));
        is_back
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
