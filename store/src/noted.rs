//! What is kept of a record once it is durable: all but the payloads, and where these are.
//!
//! A live record and the same record read back by recovery are noted as the same: [`Record::noted`] is the only place that
//! makes a [`Noted`], from the record and its [`Position`]. The log, which summed every message when it encoded it, does not
//! sum it again.

use crate::checksum;
use crate::flags::MessageFlags;
use crate::id::{MailboxId, MessageId, SenderId};
use crate::layout::length_u32;
use crate::lsn::{Position, SegmentNumber};
use crate::record::{
    BatchPart, Cursors, Dead, Dedup, Priority, Record, Revive, Settle, Start, Subscribe, Subscriptions, Unsubscribe,
};

/// Where a message is in the log, and what its bytes there must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// The segment.
    pub segment: SegmentNumber,
    /// The byte in the segment at which the message's record begins, with its eight bytes of header.
    pub record_offset: u32,
    /// The byte in the segment at which the encoded message begins.
    pub message_offset: u32,
    /// Bytes of the encoded message: [`PartMessage::encoded_bytes`](crate::PartMessage::encoded_bytes).
    pub message_bytes: u32,
    /// CRC32C of the batch header's bytes followed by the encoded message: what is read back later is held against it.
    pub crc: u32,
}

/// A message of a durable record, without its payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NotedMessage {
    /// The recipient.
    pub mailbox: MailboxId,
    /// The sender.
    pub sender: SenderId,
    /// The message's id.
    pub message_id: MessageId,
    /// Its sequence.
    pub sequence: u64,
    /// When it loses its meaning, in milliseconds since 1970; 0 = never.
    pub expiry_ms: u64,
    /// Which queue it waits in.
    pub priority: Priority,
    /// What else the node keeps of it.
    pub flags: MessageFlags,
    /// Length of its envelope.
    pub envelope_bytes: u32,
    /// Where it is.
    pub place: Place,
}

/// A durable record, without the payloads of its messages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Noted {
    /// Messages that came in.
    Part(Vec<NotedMessage>),
    /// Messages that came in earlier and were written again further on.
    Moved(Vec<NotedMessage>),
    /// Notices of the node.
    Notice(Vec<NotedMessage>),
    /// As in the record.
    Settle(Settle),
    /// As in the record.
    Dedup(Dedup),
    /// As in the record.
    Start(Start),
    /// As in the record.
    Dead(Dead),
    /// As in the record.
    Revive(Revive),
    /// As in the record.
    Subscribe(Subscribe),
    /// As in the record.
    Unsubscribe(Unsubscribe),
    /// As in the record.
    Cursors(Cursors),
    /// As in the record.
    Subscriptions(Subscriptions),
}

impl Noted {
    /// What the record is called where people read it.
    pub fn kind_name(&self) -> &'static str {
        match self {
            Self::Part(_) => "batch",
            Self::Moved(_) => "moved",
            Self::Notice(_) => "notice",
            Self::Settle(_) => "settle",
            Self::Dedup(_) => "dedup",
            Self::Start(_) => "start",
            Self::Dead(_) => "dead",
            Self::Revive(_) => "revive",
            Self::Subscribe(_) => "subscribe",
            Self::Unsubscribe(_) => "unsubscribe",
            Self::Cursors(_) => "cursors",
            Self::Subscriptions(_) => "subscriptions",
        }
    }

    /// The messages that the record brings.
    pub fn messages(&self) -> &[NotedMessage] {
        match self {
            Self::Part(messages) | Self::Moved(messages) | Self::Notice(messages) => messages,
            _ => &[],
        }
    }

    /// Number of messages that the record brings.
    pub fn message_count(&self) -> usize {
        self.messages().len()
    }
}

impl Record {
    /// What is kept of the record when it is durable at `position`.
    ///
    /// # Panics
    /// When the record does not fit into a segment from `position` on: then it is not durable there.
    pub fn noted(&self, position: Position) -> Noted {
        let part = match self {
            Self::BatchPart(part) | Self::Moved(part) | Self::Notice(part) => part,
            _ => return self.noted_as_summed(position, &mut [].into_iter()),
        };
        let header_crc = checksum::crc32c(&part.batch_header);
        self.noted_as_summed(position, &mut part.messages.iter().map(|message| message.crc_append(header_crc)))
    }

    /// The same; `sums` has the checksum of each message, as [`Record::encode_and_sum`] left them, and those of the records
    /// that follow.
    pub(crate) fn noted_as_summed(&self, position: Position, sums: &mut impl Iterator<Item = u32>) -> Noted {
        match self {
            Self::BatchPart(part) => Noted::Part(part.noted(position, sums)),
            Self::Settle(settle) => Noted::Settle(settle.clone()),
            Self::Dedup(dedup) => Noted::Dedup(dedup.clone()),
            Self::Start(start) => Noted::Start(*start),
            Self::Moved(part) => Noted::Moved(part.noted(position, sums)),
            Self::Dead(dead) => Noted::Dead(dead.clone()),
            Self::Revive(revive) => Noted::Revive(revive.clone()),
            Self::Subscribe(subscribe) => Noted::Subscribe(*subscribe),
            Self::Unsubscribe(unsubscribe) => Noted::Unsubscribe(*unsubscribe),
            Self::Cursors(cursors) => Noted::Cursors(cursors.clone()),
            Self::Subscriptions(subscriptions) => Noted::Subscriptions(subscriptions.clone()),
            Self::Notice(part) => Noted::Notice(part.noted(position, sums)),
        }
    }
}

impl BatchPart {
    /// The messages of a part whose record is durable at `position`, with these checksums.
    fn noted(&self, position: Position, sums: &mut impl Iterator<Item = u32>) -> Vec<NotedMessage> {
        let messages = self.messages.iter().zip(self.message_spans());
        let noted = messages.map(|(message, (offset, bytes))| NotedMessage {
            mailbox: message.mailbox,
            sender: message.sender,
            message_id: message.message_id,
            sequence: message.sequence,
            expiry_ms: message.expiry_ms,
            priority: message.priority,
            flags: message.flags,
            envelope_bytes: length_u32(message.envelope.len()),
            place: Place {
                segment: position.segment,
                record_offset: position.offset,
                message_offset: position.offset.checked_add(offset).expect("a record ends inside its segment"),
                message_bytes: bytes,
                crc: sums.next().expect("every message was summed"),
            },
        });
        noted.collect()
    }
}

#[cfg(test)]
mod tests;
