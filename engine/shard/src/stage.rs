//! The stages of the path. Each stage is a type that only its own file can make, so a message that skipped a check does
//! not compile. Each takes a batch of batches and gives one back; what it refuses goes to [`Refusals`].

pub(crate) mod authorize;
pub(crate) mod decode;
pub(crate) mod deliver;
pub(crate) mod log;
pub(crate) mod receive;
pub(crate) mod signal;
pub(crate) mod verify;

use creto_envelope::{AgentId, MessageId, RejectCode};

use self::decode::DecodedMessage;
use crate::event::ConnectionId;

/// What the stages of one turn refused; told to the senders at the end of the turn.
#[derive(Debug, Default)]
pub(crate) struct Refusals {
    pub(crate) batches: Vec<RefusedBatch>,
    pub(crate) messages: Vec<RefusedMessage>,
}

/// A batch of which no message is accepted.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RefusedBatch {
    pub(crate) connection: ConnectionId,
    pub(crate) sequence: u64,
    pub(crate) code: RejectCode,
}

/// One message of a batch.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RefusedMessage {
    pub(crate) connection: ConnectionId,
    pub(crate) sequence: u64,
    pub(crate) leaf_index: u32,
    /// Whom it was for; zero where that was not looked at.
    pub(crate) recipient: AgentId,
    /// Its id; zero where that was not looked at.
    pub(crate) message_id: MessageId,
    pub(crate) code: RejectCode,
    /// When trying again may help, if that is known better than the code says.
    pub(crate) retry_after_ms: Option<u32>,
}

impl RefusedMessage {
    fn unread(connection: ConnectionId, sequence: u64, leaf_index: u32, code: RejectCode) -> Self {
        let (recipient, message_id) = (AgentId([0; 16]), MessageId([0; 16]));
        Self { connection, sequence, leaf_index, recipient, message_id, code, retry_after_ms: None }
    }
}

impl Refusals {
    /// Refuses a batch as a whole: the answer for each of its messages, so none of them is refused alone.
    pub(crate) fn batch(&mut self, connection: ConnectionId, sequence: u64, code: RejectCode) {
        self.batches.push(RefusedBatch { connection, sequence, code });
    }

    /// Refuses a message that cannot be read.
    pub(crate) fn unread(&mut self, connection: ConnectionId, sequence: u64, leaf_index: u32, code: RejectCode) {
        self.messages.push(RefusedMessage::unread(connection, sequence, leaf_index, code));
    }

    pub(crate) fn message(
        &mut self,
        connection: ConnectionId,
        sequence: u64,
        message: &DecodedMessage,
        code: RejectCode,
    ) {
        self.message_until(connection, sequence, message, code, None);
    }

    /// The same, where it is known when trying again may help.
    pub(crate) fn message_until(
        &mut self,
        connection: ConnectionId,
        sequence: u64,
        message: &DecodedMessage,
        code: RejectCode,
        retry_after_ms: Option<u32>,
    ) {
        let &DecodedMessage { leaf_index, recipient, message_id, .. } = message;
        let unread = RefusedMessage::unread(connection, sequence, leaf_index, code);
        self.messages.push(RefusedMessage { recipient, message_id, retry_after_ms, ..unread });
    }
}
