//! Decode: bytes become a batch whose every envelope was checked, viewed in place.
//!
//! Promises that the entries fill the batch exactly, that every message behind it is an envelope as the format says,
//! and that no message id stands twice in one batch. An envelope that is not as the format says is refused alone: its
//! leaf still counts for the tree.

use std::sync::Arc;

use bytes::Bytes;
use creto_envelope::limits::AEAD_TAG_BYTES;
use creto_envelope::{
    AgentId, BatchView, EntrySpan, EnvelopeView, KeyId, MessageId, Priority, RejectCode, SignedKeyRecord, Suite,
};
use creto_policy::MailboxLimits;

use super::Refusals;
use super::receive::Received;
use crate::connection::LoggedIn;
use crate::event::ConnectionId;
use crate::expiry::{Bond, MessageRoom};

/// Batches whose envelopes are as the format says.
#[derive(Debug)]
pub(crate) struct Decoded {
    batches: Vec<DecodedBatch>,
}

#[derive(Debug)]
pub(crate) struct DecodedBatch {
    pub(crate) connection: ConnectionId,
    pub(crate) login: LoggedIn,
    /// The record whose keys must have signed it.
    pub(crate) signer: Arc<SignedKeyRecord>,
    pub(crate) sequence: u64,
    /// Bad signatures that its connection may still send.
    pub(crate) chances: u32,
    pub(crate) batch: Bytes,
    /// All entries: the leaves of the tree.
    pub(crate) entries: Vec<EntrySpan>,
    /// The messages that are still accepted.
    pub(crate) messages: Vec<DecodedMessage>,
    /// Those that are not, by leaf index. Told with the batch's verdict: one that does not hold is refused as a whole.
    pub(crate) refused: Vec<(u32, RejectCode)>,
}

/// What the path needs to know of a message.
#[derive(Clone, Copy, Debug)]
pub(crate) struct DecodedMessage {
    pub(crate) leaf_index: u32,
    pub(crate) sender: AgentId,
    pub(crate) recipient: AgentId,
    pub(crate) message_id: MessageId,
    pub(crate) key_id: KeyId,
    /// That key is a prekey.
    pub(crate) is_to_prekey: bool,
    pub(crate) priority: Priority,
    /// Bytes of its payload, before it was sealed.
    pub(crate) payload_bytes: u32,
    pub(crate) ttl_s: u32,
    /// What it has to do with a session.
    pub(crate) bond: Bond,
    /// Its sender asks to be told if it expires.
    pub(crate) wants_notice: bool,
    /// It is a signal, and means something so long.
    pub(crate) signal: Option<Lifespan>,
    /// It is published in a channel, whose id stands in the place of its recipient's.
    pub(crate) is_published: bool,
    /// What may be where it goes: authorize, which looks that up, says it.
    pub(crate) room: MessageRoom,
}

/// From when until when something means anything, by its sender's clock, Unix milliseconds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Lifespan {
    pub(crate) begins_ms: u64,
    pub(crate) ends_ms: u64,
}

pub(crate) fn decode(received: Received, refusals: &mut Refusals) -> Decoded {
    let batches = received.into_batches();
    let mut decoded = Vec::with_capacity(batches.len());
    for batch in batches {
        let mut entries = Vec::new();
        let mut messages = Vec::new();
        let mut refused = Vec::new();
        let view = match BatchView::parse(&batch.batch, &mut entries) {
            Ok(view) => view,
            Err(code) => {
                refusals.batch(batch.connection, batch.sequence, code);
                continue;
            }
        };
        messages.reserve(entries.len());
        for (leaf_index, entry) in (0u32..).zip(&entries) {
            match EnvelopeView::parse(view.envelope(entry)) {
                Ok(envelope) => messages.push(DecodedMessage {
                    leaf_index,
                    sender: envelope.sender(),
                    recipient: envelope.recipient(),
                    message_id: envelope.message_id(),
                    key_id: envelope.key_id(),
                    is_to_prekey: envelope.is_to_prekey(),
                    priority: envelope.priority(),
                    payload_bytes: u32::try_from(envelope.payload().len().saturating_sub(AEAD_TAG_BYTES))
                        .expect("the envelope was checked: a payload is at most a mebibyte"),
                    ttl_s: envelope.header().ttl_s.to_native(),
                    bond: match (envelope.suite(), envelope.wrapped_key()) {
                        (Suite::Session, Some(_)) => Bond::BringsKey,
                        (Suite::Session, None) => Bond::NeedsKey,
                        _ => Bond::None,
                    },
                    wants_notice: envelope.wants_notice(),
                    signal: envelope
                        .signal_until_ms()
                        .map(|ends_ms| Lifespan { begins_ms: envelope.header().timestamp_ms.to_native(), ends_ms }),
                    is_published: envelope.suite() == Suite::Channel,
                    room: MessageRoom::Mailbox(MailboxLimits::default()),
                }),
                Err(code) => refused.push((leaf_index, code)),
            }
        }
        if has_repeated_id(&messages) {
            refusals.batch(batch.connection, batch.sequence, RejectCode::BatchRepeatedMessage);
            continue;
        }
        decoded.push(DecodedBatch {
            connection: batch.connection,
            login: batch.login,
            signer: batch.signer,
            sequence: batch.sequence,
            chances: batch.chances,
            batch: batch.batch,
            entries,
            messages,
            refused,
        });
    }
    Decoded { batches: decoded }
}

fn has_repeated_id(messages: &[DecodedMessage]) -> bool {
    // Ids begin with their time, so most batches come sorted: one pass, and no memory.
    if messages.is_sorted_by(|a, b| a.message_id < b.message_id) {
        return false;
    }
    let mut ids: Vec<MessageId> = messages.iter().map(|message| message.message_id).collect();
    ids.sort_unstable();
    ids.windows(2).any(|pair| pair[0] == pair[1])
}

impl Decoded {
    pub(crate) fn into_batches(self) -> Vec<DecodedBatch> {
        self.batches
    }
}
