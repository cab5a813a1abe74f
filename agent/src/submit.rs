//! Submitting a message: who reads it, its header, its place among what is in flight.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use creto_envelope::envelope::{
    EnvelopeHeader, FLAG_DELIVERED_WANTED, FLAG_EPHEMERAL, FLAG_NOTICE_WANTED, FLAG_RECEIPT_WANTED,
};
use creto_envelope::limits::{IN_FLIGHT_MESSAGES_MAX, SIGNAL_PLAINTEXT_BYTES_MAX, SIGNAL_TTL_S_MAX};
use creto_envelope::self_destruct::SELF_DESTRUCT_HEADER_BYTES;
use creto_envelope::{AgentId, AgentName, ChannelId, KeyId, Kind, MessageId};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio::time::Instant;

use crate::clock::{self, Clock};
use crate::directory::{CURRENT, Directory, Identity};
use crate::error::SendError;
use crate::keys::AgentKeys;
use crate::self_destruct::SelfDestruct;
use crate::sender::message::{Message, Plain, Ticket};
use crate::sender::{PendingSend, SendOptions};
use crate::signal::SignalOptions;
use crate::stats::Counters;
use crate::trace::{Ends, Published, Tracer, with_head};

/// The way to the sender's task, for the application and for receipts.
#[derive(Debug)]
pub(crate) struct Submitter {
    pub(crate) keys: Arc<AgentKeys>,
    pub(crate) directory: Arc<Directory>,
    pub(crate) counters: Arc<Counters>,
    pub(crate) clock: Clock,
    pub(crate) messages: mpsc::Sender<Message>,
    pub(crate) places: Places,
    pub(crate) retry_for_us: u64,
    /// Places of signals, of which none waits for one: they take none of the messages'.
    pub(crate) signal_places: Places,
    /// Something may be sealed to the key of a record, and not to a prekey.
    pub(crate) seals_to_records: bool,
    pub(crate) tracer: Tracer,
}

/// What is special about a message on its way.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Handling {
    /// How long it is sent again when the node refuses it for now.
    pub(crate) retry_for_us: u64,
    /// Whether its sender wants to know the hash of its envelope.
    pub(crate) digest: bool,
    /// The channel that it is about, or zero.
    pub(crate) channel: ChannelId,
}

impl Submitter {
    /// Hands a message over; waits only for the recipient's keys and for a place. `deadline` is the caller's, for the
    /// answer.
    pub(crate) async fn submit(
        &self,
        message_id: MessageId,
        to: &AgentName,
        payload: Bytes,
        options: SendOptions,
        deadline: Option<(Duration, Instant)>,
    ) -> Result<PendingSend, SendError> {
        self.submit_so(self.usual(), message_id, to, payload, options, deadline).await
    }

    /// How most messages are handled.
    pub(crate) fn usual(&self) -> Handling {
        Handling { retry_for_us: self.retry_for_us, digest: false, channel: ChannelId::ZERO }
    }

    /// As [`submit`](Self::submit), handled otherwise.
    pub(crate) async fn submit_so(
        &self,
        handling: Handling,
        message_id: MessageId,
        to: &AgentName,
        payload: Bytes,
        options: SendOptions,
        deadline: Option<(Duration, Instant)>,
    ) -> Result<PendingSend, SendError> {
        let recipient_id = AgentId::derive(self.keys.trust_domain(), to);
        let recipient: Arc<Identity> = self
            .directory
            .lookup(recipient_id, CURRENT)
            .await
            .map_err(|source| SendError::Recipient { recipient: to.to_string(), source })?;
        self.submit_to(handling, message_id, recipient, payload, options, deadline).await
    }

    /// Hands a signal over; waits only for the recipient's keys.
    pub(crate) async fn signal(
        &self,
        message_id: MessageId,
        to: &AgentName,
        payload: Bytes,
        SignalOptions { ttl, priority }: SignalOptions,
    ) -> Result<PendingSend, SendError> {
        if !self.seals_to_records {
            return Err(SendError::SignalWithoutPrekey);
        }
        if payload.len() > SIGNAL_PLAINTEXT_BYTES_MAX {
            return Err(SendError::SignalTooLarge { bytes: payload.len() });
        }
        let recipient_id = AgentId::derive(self.keys.trust_domain(), to);
        let lookup = self.directory.lookup(recipient_id, CURRENT).await;
        let recipient = lookup.map_err(|source| SendError::Recipient { recipient: to.to_string(), source })?;
        let (key_id, bytes) = (KeyId(recipient.sealing.key_id()), payload.len());
        let header = EnvelopeHeader::sealed(self.keys.id(), recipient_id, key_id, message_id, clock::now_ms(), bytes);
        let mut header = header.map_err(|_| SendError::SignalTooLarge { bytes })?;
        header.flags = FLAG_EPHEMERAL;
        header.priority = priority as u8;
        header.ttl_s = ttl_s(Some(ttl)).min(SIGNAL_TTL_S_MAX);
        let dropped = SendError::SignalDropped { message_id };
        let places = self.signal_places.try_take(header.envelope_bytes()).ok_or_else(|| dropped.clone())?;
        let (reply, answer) = oneshot::channel();
        let plain = Plain { header: Box::new(header), recipient, payload };
        let ticket = Ticket { reply, _places: Some(places) };
        let mut message = Message::new(message_id, plain, ticket, self.clock.now_us(), 0);
        message.is_signal = true;
        // Behind more messages than the sender takes now it would be late.
        self.messages.try_send(message).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => dropped,
            mpsc::error::TrySendError::Closed(_) => SendError::Closed,
        })?;
        Ok(PendingSend::new(message_id, answer, None))
    }

    /// The same, to a recipient whose keys are known.
    pub(crate) async fn submit_to(
        &self,
        handling: Handling,
        message_id: MessageId,
        recipient: Arc<Identity>,
        payload: Bytes,
        options: SendOptions,
        deadline: Option<(Duration, Instant)>,
    ) -> Result<PendingSend, SendError> {
        let more_bytes = if options.self_destruct.is_some() { SELF_DESTRUCT_HEADER_BYTES } else { 0 };
        let ends = Ends { me: self.keys.name().as_str(), other: recipient.record.name.as_str() };
        let Published { span, head } = self.tracer.publish(ends, options.kind, message_id, &payload, more_bytes);
        let payload = match options.self_destruct {
            Some(_) if options.kind != Kind::Direct => return Err(SendError::SelfDestructKind),
            Some(how) => how.wrap(&head, payload, clock::now_ms()),
            None => with_head(&head, payload),
        };
        let mut header = EnvelopeHeader::sealed(
            self.keys.id(),
            recipient.record.agent_id(),
            KeyId(recipient.sealing.key_id()),
            message_id,
            clock::now_ms(),
            payload.len(),
        )
        .map_err(|_| SendError::TooLarge { bytes: payload.len() })?;
        header.kind = options.kind as u8;
        header.channel = handling.channel.0;
        header.priority = options.priority as u8;
        header.correlation_id = options.correlation_id.unwrap_or(MessageId::ZERO).0;
        // A receipt for a receipt would go on for ever: the node refuses to carry one that asks.
        if options.receipt && options.kind != Kind::Receipt {
            header.flags |= FLAG_RECEIPT_WANTED;
        }
        if options.delivered && options.kind != Kind::Receipt {
            header.flags |= FLAG_DELIVERED_WANTED;
        }
        if options.notice && options.kind != Kind::Receipt {
            header.flags |= FLAG_NOTICE_WANTED;
        }
        let ends = options.self_destruct.and_then(SelfDestruct::ttl);
        header.ttl_s = ttl_s(options.ttl.into_iter().chain(ends).min());

        let places = self.places.take(header.envelope_bytes()).await?;
        let (reply, answer) = oneshot::channel();
        let plain = Plain { header: Box::new(header), recipient, payload };
        let ticket = Ticket { reply, _places: Some(places) };
        // Nobody is given one that is over.
        let lasts_us = ends.map_or(u64::MAX, |ends| u64::try_from(ends.as_micros()).unwrap_or(u64::MAX));
        let retry_for_us = handling.retry_for_us.min(lasts_us);
        let mut message = Message::new(message_id, plain, ticket, self.clock.now_us(), retry_for_us);
        message.wants_digest = handling.digest;
        message.span = span;
        self.messages.send(message).await.map_err(|_| SendError::Closed)?;
        self.counters.submitted.add(1);
        Ok(PendingSend::new(message_id, answer, deadline))
    }
}

/// A time to live as the header has it. Less than a second is still a limit; zero would mean the mailbox's own.
pub(crate) fn ttl_s(ttl: Option<Duration>) -> u32 {
    ttl.map_or(0, |ttl| u32::try_from(ttl.as_secs()).unwrap_or(u32::MAX).max(1))
}

/// Bounds what is in flight, in messages and in bytes; fair, so that one task's messages keep their order.
#[derive(Debug)]
pub(crate) struct Places {
    messages: Arc<Semaphore>,
    messages_max: u32,
    kib: Arc<Semaphore>,
    kib_max: u32,
}

impl Places {
    pub(crate) fn new(messages_max: u32, bytes_max: u32) -> Self {
        let messages_max = messages_max.clamp(1, IN_FLIGHT_MESSAGES_MAX);
        let kib_max = (bytes_max / 1_024).max(1);
        Self {
            messages: Arc::new(Semaphore::new(messages_max as usize)),
            messages_max,
            kib: Arc::new(Semaphore::new(kib_max as usize)),
            kib_max,
        }
    }

    pub(crate) async fn take(
        &self,
        envelope_bytes: usize,
    ) -> Result<(OwnedSemaphorePermit, OwnedSemaphorePermit), SendError> {
        let kib = u32::try_from(envelope_bytes.div_ceil(1_024)).unwrap_or(u32::MAX).min(self.kib_max);
        let message = Arc::clone(&self.messages).acquire_owned().await.map_err(|_| SendError::Closed)?;
        let kib = Arc::clone(&self.kib).acquire_many_owned(kib).await.map_err(|_| SendError::Closed)?;
        Ok((message, kib))
    }

    /// The same, if there is room now.
    pub(crate) fn try_take(&self, envelope_bytes: usize) -> Option<(OwnedSemaphorePermit, OwnedSemaphorePermit)> {
        let kib = u32::try_from(envelope_bytes.div_ceil(1_024)).unwrap_or(u32::MAX).min(self.kib_max);
        let message = Arc::clone(&self.messages).try_acquire_owned().ok()?;
        let kib = Arc::clone(&self.kib).try_acquire_many_owned(kib).ok()?;
        Some((message, kib))
    }

    /// Every place is free only when nothing is in flight.
    pub(crate) async fn take_all(&self) -> Result<(), SendError> {
        self.messages.acquire_many(self.messages_max).await.map(drop).map_err(|_| SendError::Closed)
    }
}
