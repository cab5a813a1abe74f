//! What can go wrong with channels. Every text says what to do next.

use std::sync::Arc;
use std::time::Duration;

use creto_envelope::{MessageId, RejectCode};
use thiserror::Error;

use crate::error::{ConnectError, LookupError, ReceiveError, SendError, StateError};

/// Why nothing can be published to a channel or read from it, or not this.
#[derive(Clone, Debug, Error)]
#[non_exhaustive]
pub enum ChannelError {
    /// There is no such channel, or none that this agent may know of.
    #[error("there is no channel {channel} here, or it was deleted; check the name with `creto channel list`")]
    Unknown {
        /// The channel's name.
        channel: String,
    },
    /// The channel's owner does not let this agent do that.
    #[error("the owner of {channel} does not let this agent {doing}; ask the owner (`creto channel show {channel}`)")]
    NotAllowed {
        /// The channel's name.
        channel: String,
        /// `publish` or `subscribe`.
        doing: &'static str,
    },
    /// The record that the node gave of the channel does not hold.
    #[error(
        "what the node says of {channel} does not hold: {reason}; tell the operator, and publish nothing until it is explained"
    )]
    Record {
        /// The channel's name.
        channel: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// The keys of the channel's owner, which signed its record, cannot be had.
    #[error("the keys of the owner of {channel} cannot be had: {source}")]
    Owner {
        /// The channel's name.
        channel: String,
        /// Why.
        source: LookupError,
    },
    /// The node refused.
    #[error("the node refused: {0}")]
    Refused(RejectCode),
    /// The node refused with a code that this version does not know.
    #[error("the node refused with code {0}, which this version does not know: update creto")]
    RefusedWith(u16),
    /// The node has no channels.
    #[error("this node does not serve channels; update it")]
    Unsupported,
    /// No answer in time.
    #[error("the node did not answer about the channel in time; try again when it can be reached")]
    TimedOut,
    /// A message was not, or perhaps not, accepted.
    #[error(transparent)]
    Send(SendError),
    /// The sessions that this agent publishes under, or reads with, cannot be used.
    #[error("{0}")]
    State(Arc<StateError>),
    /// This agent reads the channel already, as the same group.
    #[error("this agent reads {channel} already; use that subscription, or leave it first")]
    AlreadySubscribed {
        /// The channel's name.
        channel: String,
    },
    /// This agent reads, or publishes to, as many channels as a connection may.
    #[error("this agent uses as many channels as it may at a time ({most}); leave one, or connect another agent")]
    TooMany {
        /// How many.
        most: usize,
    },
    /// The windows of all subscriptions would be larger than a node allows a connection.
    #[error(
        "a window of {bytes} bytes is too large beside those of this agent's other subscriptions, which leave {left}; set window_bytes, or connect another agent"
    )]
    WindowTooLarge {
        /// What was asked for.
        bytes: u32,
        /// What is left.
        left: u32,
    },
    /// A message came whose key its publisher has not given within the time that was waited for it. It is neither shown nor acknowledged:
    /// it is shown when its key comes; in a group it went back to the other members. The subscription goes on.
    #[error(
        "message {sequence} of the channel cannot be read: its publisher has not given its key within {} ms; wait until the publisher runs again, or skip the message", .after.as_millis()
    )]
    NoKey {
        /// Its number in the channel.
        sequence: u64,
        /// Its id.
        message_id: MessageId,
        /// Its publisher's name.
        publisher: String,
        /// How long was waited.
        after: Duration,
    },
    /// A message came that cannot be verified or opened. It is neither shown nor acknowledged. The subscription goes on.
    #[error("message {sequence} of the channel does not hold: {code}; skip it once that is explained")]
    Unreadable {
        /// Its number in the channel.
        sequence: u64,
        /// Which check failed.
        code: RejectCode,
    },
    /// Keys cannot be received, because this agent's mailbox is read elsewhere or cannot be used.
    #[error("keys of channels come to this agent's mailbox, and that cannot be read: {0}")]
    Mailbox(ReceiveError),
    /// The agent gave up on the node.
    #[error("the agent gave up on the node: {0}")]
    Disconnected(ConnectError),
    /// The agent, or this subscription, was closed.
    #[error("this agent, or what it had of the channel, was closed; connect again")]
    Closed,
}

impl ChannelError {
    /// The code that the node refused with, if it did.
    #[must_use]
    pub fn code(&self) -> Option<RejectCode> {
        match self {
            Self::Unknown { .. } => Some(RejectCode::UnknownChannel),
            Self::NotAllowed { .. } => Some(RejectCode::ChannelNotAllowed),
            Self::Refused(code) | Self::Unreadable { code, .. } => Some(*code),
            Self::Send(error) => error.code(),
            Self::Disconnected(error) => error.code(),
            _ => None,
        }
    }

    /// Which message of the channel it is about, where it is about one.
    #[must_use]
    pub fn sequence(&self) -> Option<u64> {
        match self {
            Self::NoKey { sequence, .. } | Self::Unreadable { sequence, .. } => Some(*sequence),
            _ => None,
        }
    }

    /// Whether a subscription goes on after it: it is about one message.
    #[must_use]
    pub fn is_about_one_message(&self) -> bool {
        matches!(self, Self::NoKey { .. } | Self::Unreadable { .. })
    }

    /// What a refusal of the node means for the channel of this name.
    pub(crate) fn refused(channel: &str, doing: &'static str, code: u16) -> Self {
        let channel = channel.to_owned();
        match RejectCode::from_u16(code) {
            Some(RejectCode::UnknownChannel) => Self::Unknown { channel },
            Some(RejectCode::ChannelNotAllowed) => Self::NotAllowed { channel, doing },
            Some(code) => Self::Refused(code),
            None => Self::RefusedWith(code),
        }
    }

    /// Whether asking again may help.
    pub(crate) fn is_retryable(&self) -> bool {
        match self {
            Self::Refused(code) => code.is_retryable(),
            Self::RefusedWith(code) => (500..600).contains(code),
            Self::TimedOut => true,
            Self::Owner { source, .. } => source.is_temporary(),
            _ => false,
        }
    }
}

impl From<SendError> for ChannelError {
    fn from(error: SendError) -> Self {
        match error {
            SendError::Closed => Self::Closed,
            SendError::Disconnected(error) => Self::Disconnected(error),
            error => Self::Send(error),
        }
    }
}
