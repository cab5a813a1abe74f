//! A message between `submit` and its answer: what it says, its envelope once there is one, and who waits for the answer.

use std::sync::Arc;

use bytes::Bytes;
use creto_crypto_accel::digest::sha256;
use creto_envelope::envelope::EnvelopeHeader;
use creto_envelope::limits::WRAPPED_KEY_BYTES;
use creto_envelope::{AgentId, ChannelId, KeyId, MessageId, Priority};
use tokio::sync::{OwnedSemaphorePermit, oneshot};
use tracing::Span;

use super::Receipt;
use super::sessions::{Decision, SessionTicket, To};
use crate::channel::line::InUse;
use crate::directory::Identity;
use crate::error::SendError;
use crate::trace;

/// A message on its way.
#[derive(Debug)]
pub(crate) struct Message {
    pub(crate) id: MessageId,
    /// Whose it is; of a channel its id.
    pub(crate) recipient: AgentId,
    /// `None`: it is published in a channel, sealed when it was submitted, and never sealed again.
    pub(crate) plain: Option<Plain>,
    /// The envelope, once there is one.
    pub(crate) sealed: Option<Sealed>,
    pub(crate) ticket: Ticket,
    /// When it was submitted; a batch ages with its oldest message.
    pub(crate) came_us: u64,
    /// Until when the node may refuse it for now.
    pub(crate) retry_until_us: u64,
    /// Connections on which it was sent.
    pub(super) sent: u32,
    /// How often the node refused it for now.
    pub(super) refusals: u32,
    /// How often it was sealed again.
    pub(super) reseals: u32,
    /// Its place: counted up with every submit.
    pub(super) order: u64,
    /// Whether whoever waits for the answer wants to know the hash of the envelope.
    pub(crate) wants_digest: bool,
    /// It is a signal: never stored, so never worth sending again.
    pub(crate) is_signal: bool,
    /// From when it was handed over until it is answered, if somebody asked for spans.
    pub(crate) span: Option<Box<Span>>,
    /// The counter of a channel's session that it uses until it is answered.
    _in_use: Option<InUse>,
}

/// What is sealed, and to whom. The header is one of the sealed suite; a session fills in its own fields.
#[derive(Debug)]
pub(crate) struct Plain {
    pub(crate) header: Box<EnvelopeHeader>,
    pub(crate) recipient: Arc<Identity>,
    pub(crate) payload: Bytes,
}

impl Plain {
    pub(crate) fn key_id(&self) -> KeyId {
        KeyId(self.recipient.sealing.key_id())
    }

    pub(super) fn to(&self) -> To {
        let record_version = self.recipient.record.version;
        To { recipient: AgentId(self.header.recipient), key_id: self.key_id(), record_version }
    }

    pub(super) fn priority(&self) -> Priority {
        Priority::from_u8(self.header.priority).expect("the header was made from a priority")
    }

    /// The recipient has a newer record.
    pub(super) fn adopt(&mut self, identity: &Arc<Identity>) {
        self.header.key_id = identity.sealing.key_id();
        self.recipient = Arc::clone(identity);
    }

    /// Bytes of the envelope that this becomes.
    pub(super) fn envelope_bytes(&self, decision: Decision) -> usize {
        self.header.envelope_bytes() - if decision.carries { 0 } else { WRAPPED_KEY_BYTES }
    }
}

/// An envelope, and the key of the recipient that opens it.
#[derive(Debug)]
pub(crate) struct Sealed {
    pub(crate) envelope: Bytes,
    pub(crate) key_id: KeyId,
    /// The session that it belongs to.
    pub(crate) ticket: Option<SessionTicket>,
}

/// Who waits for the answer, and the places that the message takes until then.
#[derive(Debug)]
pub(crate) struct Ticket {
    pub(crate) reply: oneshot::Sender<Result<Receipt, SendError>>,
    pub(crate) _places: Option<(OwnedSemaphorePermit, OwnedSemaphorePermit)>,
}

impl Message {
    pub(crate) fn new(id: MessageId, plain: Plain, ticket: Ticket, came_us: u64, retry_for_us: u64) -> Self {
        let recipient = AgentId(plain.header.recipient);
        Self { plain: Some(plain), ..Self::to(recipient, id, ticket, came_us, retry_for_us) }
    }

    /// A message that is published in a channel.
    pub(crate) fn published(
        (id, channel): (MessageId, ChannelId),
        envelope: Bytes,
        in_use: InUse,
        ticket: Ticket,
        came_us: u64,
        retry_for_us: u64,
    ) -> Self {
        let sealed = Sealed { envelope, key_id: KeyId::ZERO, ticket: None };
        let message = Self::to(AgentId(channel.0), id, ticket, came_us, retry_for_us);
        Self { sealed: Some(sealed), _in_use: Some(in_use), ..message }
    }

    fn to(recipient: AgentId, id: MessageId, ticket: Ticket, came_us: u64, retry_for_us: u64) -> Self {
        Self {
            id,
            recipient,
            plain: None,
            sealed: None,
            ticket,
            came_us,
            retry_until_us: came_us.saturating_add(retry_for_us),
            sent: 0,
            refusals: 0,
            reseals: 0,
            order: 0,
            wants_digest: false,
            is_signal: false,
            span: None,
            _in_use: None,
        }
    }

    /// What is sealed.
    pub(crate) fn plain(&self) -> &Plain {
        self.plain.as_ref().expect(SEALED_BEFORE)
    }

    /// SHA-256 of the envelope that there is now, if it is wanted.
    pub(super) fn digest(&self) -> Option<[u8; 32]> {
        let sealed = self.sealed.as_ref().filter(|_| self.wants_digest)?;
        Some(sha256(&[&sealed.envelope]))
    }

    /// The envelope of a message that a worker has sealed.
    pub(crate) fn sealed_bytes(&self) -> &[u8] {
        &self.sealed.as_ref().expect("a batch is sealed before it is signed and written").envelope
    }

    /// Ends the message's way.
    pub(crate) fn answer(self, answer: Result<Receipt, SendError>) {
        if let (Err(error), Some(span)) = (&answer, &self.span) {
            span.record("error.type", trace::error_type(error)).record("otel.status_code", "ERROR");
        }
        // Nobody waits when the caller dropped its future; the message was on its way all the same.
        let _ = self.ticket.reply.send(answer);
    }
}

/// Why it is there.
pub(super) const SEALED_BEFORE: &str = "what is published is sealed when it is submitted";
