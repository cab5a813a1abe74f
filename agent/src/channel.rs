//! Channels: [`Agent::publisher`] publishes, [`Agent::subscribe_channel`] reads.
//!
//! What a channel is, its owner says in a record with two signatures ([`ChannelRecord`]); `docs/channels.md` has the rules. What is
//! published is encrypted by the publisher under a session of its own, whose keys it gives to those who subscribe **and whom the owner
//! allows**, sealed to each as any message is: the node has none of them.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use creto_envelope::channel::frames::LeaveMode;
use creto_envelope::envelope::{ENVELOPE_HEADER_BYTES, EnvelopeHeader, nonce};
use creto_envelope::limits::{
    AEAD_TAG_BYTES, CHANNEL_SUBSCRIPTIONS_MAX, CREDIT_BYTES_MAX, CREDIT_MESSAGES_MAX, PAYLOAD_PLAINTEXT_BYTES_MAX,
};
use creto_envelope::{AgentId, AgentName, ChannelId, GroupId, Kind, MessageId, Priority};
use futures_core::Stream;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, timeout, timeout_at};

pub use creto_envelope::channel::frames::Start;
pub use creto_envelope::channel::{
    ChannelName, ChannelNameError, ChannelPattern, ChannelRecord, Publishing, SignedChannelRecord, Subscribing,
};

use crate::client::Agent;
use crate::clock;
use crate::error::SendError;
use crate::limits::{
    CHANNEL_ATTACH_TIMEOUT, CHANNEL_FORGET_TIMEOUT, CHANNEL_KEY_WAIT, OFFLOADED_BYTES_MIN, WINDOW_MESSAGES,
};
use crate::receiver::Inbox;
use crate::sender::Receipt;
use crate::sender::message::{Message, Ticket};
use crate::submit::ttl_s;
use crate::trace::{Ends, Published, with_head};
use crate::worker::{offload, on_disk};

mod cursor;
mod error;
pub(crate) mod keys;
mod known;
pub(crate) mod line;
pub(crate) mod link;
pub(crate) mod listing;
mod message;
mod pattern;
mod present;
pub(crate) mod publishing;
pub(crate) mod reading;
pub(crate) mod records;

pub use error::ChannelError;
pub use message::ChannelMessage;
pub use pattern::{PatternEvent, PatternSubscription};

use known::{Keeper, KnownRecord};
use line::Handle;
use present::Presenter;
use publishing::{SessionLimits, Taken};
use reading::{Reading, Shown, Wanted};

/// How a message is published. `PublishOptions::default()` is the usual.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PublishOptions {
    /// How urgent it is, for whoever reads it. It changes nothing in the channel's order.
    pub priority: Priority,
    /// How long the channel keeps it, to the second, if that is less than it keeps others; `None` for as long as others.
    pub ttl: Option<Duration>,
    /// How long the caller waits; `None` means until there is an answer. When it passes, the answer is [`SendError::TimedOut`], and the
    /// message may still be published.
    pub deadline: Option<Duration>,
}

/// A channel that this agent publishes to. Clones are the same; when the last is dropped, the node is told, and what is left of the
/// session is kept for the next.
///
/// While there is one, who subscribes is given keys, also when nothing is published.
#[derive(Clone, Debug)]
pub struct Publisher {
    handle: Arc<Handle>,
}

/// The answer to a message that was handed over for publishing. Resolves when the message is durable, and the keys of its session are
/// in the mailboxes of those for whom that began, or refused.
///
/// The message is on its way whether or not this is awaited; dropping it only drops the answer.
#[must_use = "without the answer nobody knows whether the message is durable"]
pub struct PendingPublish {
    message_id: MessageId,
    answer: Answer,
}

type Answer = Pin<Box<dyn Future<Output = Result<Receipt, ChannelError>> + Send>>;

/// Where and how a channel is read. `SubscribeOptions::default()` goes on where the subscription was, or begins with what is
/// published from now on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SubscribeOptions {
    /// Where it begins. Anything but [`Start::GoOn`] begins anew there, also a subscription that is there already.
    pub start: Start,
    /// The group whose messages this agent shares: each goes to one member. `None`: all messages come here.
    pub group: Option<String>,
    /// Most messages that the application may hold without an acknowledgement. Default 1,024.
    pub window_messages: u32,
    /// Most bytes of the envelopes of those. All subscriptions of an agent have 4 MiB together, which is what a node lets wait for a
    /// connection; `None`, the default, is a share of that: about 1 MiB for the first one, half of that for the second, and so on, and
    /// at least 32 KiB.
    pub window_bytes: Option<u32>,
    /// How long a message waits for its key, which its publisher gives, before that is reported ([`ChannelError::NoKey`]) and what lies
    /// behind it goes on. Default 10 s.
    pub key_wait: Duration,
    /// Whether a message that cannot be read is acknowledged once the application has taken the report of it. Off by default: then it
    /// stays where the subscription is, which moves on only over what was acknowledged or [skipped](ChannelSubscription::skip). Without
    /// meaning in a group, whose other members get it.
    pub skip_unreadable: bool,
    /// The agent that owns the channel, where the application knows that: a record of anybody else is not gone by. `None`: whoever was
    /// the owner when this agent saw the channel first.
    pub owner: Option<AgentName>,
}

/// How a channel is opened for publishing. `PublisherOptions::default()` is the usual.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PublisherOptions {
    /// The agent that owns the channel, where the application knows that: a record of anybody else is not gone by. `None`: whoever was
    /// the owner when this agent saw the channel first.
    pub owner: Option<AgentName>,
}

impl Default for SubscribeOptions {
    fn default() -> Self {
        Self {
            start: Start::GoOn,
            group: None,
            window_messages: WINDOW_MESSAGES,
            window_bytes: None,
            key_wait: CHANNEL_KEY_WAIT,
            skip_unreadable: false,
            owner: None,
        }
    }
}

/// A channel as a stream of messages. Dropped, it leaves the channel; the subscription stays at the node, and goes on where it was
/// when it is read again.
#[derive(Debug)]
pub struct ChannelSubscription {
    name: ChannelName,
    handle: u32,
    reading: Arc<Reading>,
    shown: mpsc::Receiver<Shown>,
    inbox: Arc<Inbox>,
    id: ChannelId,
    is_group: bool,
    skips_unreadable: bool,
    has_left: bool,
}

impl Agent {
    /// Opens a channel for publishing: fetches and verifies what its owner says of it, and waits until the node has said who
    /// subscribes. The same channel may be opened several times.
    ///
    /// The sessions that this agent publishes under are kept beside its keys, and belong to one process at a time.
    ///
    /// # Errors
    /// [`ChannelError`]: also when the owner does not let this agent publish.
    pub async fn publisher(&self, channel: &ChannelName) -> Result<Publisher, ChannelError> {
        self.publisher_with(channel, PublisherOptions::default()).await
    }

    /// As [`publisher`](Self::publisher). Where the channel is opened already, it goes on as it was opened.
    ///
    /// # Errors
    /// As [`publisher`](Self::publisher).
    pub async fn publisher_with(
        &self,
        channel: &ChannelName,
        options: PublisherOptions,
    ) -> Result<Publisher, ChannelError> {
        let (lines, means) = self.publishing();
        let owner = options.owner.map(|owner| AgentId::derive(self.trust_domain(), &owner));
        let opened = lines.open(means, channel, owner, SessionLimits::PRODUCTION, CHANNEL_SUBSCRIPTIONS_MAX);
        Ok(Publisher { handle: opened.await? })
    }

    /// Subscribes to a channel. When this returns, the subscription is durable: it outlives this process.
    ///
    /// Keys of channels come to the agent's mailbox, so this process reads that, too: another one of the same agent that does so is told to
    /// let go, and messages that come meanwhile wait for [`subscribe`](Self::subscribe).
    ///
    /// # Errors
    /// [`ChannelError`]: also when the owner, or the node's policy, does not let this agent subscribe.
    pub async fn subscribe_channel(
        &self,
        channel: &ChannelName,
        options: SubscribeOptions,
    ) -> Result<ChannelSubscription, ChannelError> {
        let (reading, inbox) = self.reading();
        let id = ChannelId::derive(self.trust_domain(), channel);
        let group = options.group.as_deref().map_or(GroupId::NONE, |group| GroupId::derive(&id, group));
        let is_group = group != GroupId::NONE;
        let bytes = options.window_bytes.map(|bytes| bytes.clamp(1, CREDIT_BYTES_MAX));
        let wanted = Wanted { messages: options.window_messages.clamp(1, CREDIT_MESSAGES_MAX), bytes };
        let opened = reading.open(channel, id, group, options.start, wanted)?;
        // From here on, dropping this leaves the channel.
        let subscription = ChannelSubscription {
            name: channel.clone(),
            handle: opened.handle,
            reading: Arc::clone(reading),
            shown: opened.shown,
            inbox: Arc::clone(inbox),
            id,
            is_group,
            skips_unreadable: options.skip_unreadable,
            has_left: false,
        };
        inbox.receive_keys();
        let (known, knows) = watch::channel(None);
        let record = Arc::new(KnownRecord::default());
        let presenter = Presenter {
            handle: opened.handle,
            channel: id,
            is_group,
            key_wait: options.key_wait,
            reading: Arc::clone(reading),
            inbox: Arc::clone(inbox),
            arrived: opened.arrived,
            began: opened.began,
            is_over: opened.is_over,
            queue: opened.queue,
            known: knows,
            record: Arc::clone(&record),
        };
        tokio::spawn(presenter.run());
        let stands = timeout(CHANNEL_ATTACH_TIMEOUT, opened.stands).await;
        stands.map_err(|_| ChannelError::TimedOut)?.unwrap_or(Err(ChannelError::Closed))?;
        let keeper = Keeper {
            inbox: Arc::clone(inbox),
            records: Arc::clone(self.records()),
            name: channel.clone(),
            trust_domain: self.trust_domain().clone(),
            owner: options.owner.map(|owner| AgentId::derive(self.trust_domain(), &owner)),
            known,
            record,
        };
        keeper.begin().await?;
        tokio::spawn(keeper.run());
        Ok(subscription)
    }
}

impl Agent {
    /// Ends a subscription that this process does not read: of this agent alone, or as a member of `group`. Where there is none, nothing
    /// is changed. Returns when that is durable. The mailbox is left alone.
    ///
    /// # Errors
    /// [`ChannelError`]: it may not have ended.
    pub async fn unsubscribe_channel(&self, channel: &ChannelName, group: Option<&str>) -> Result<(), ChannelError> {
        let (reading, inbox) = self.reading();
        let id = ChannelId::derive(self.trust_domain(), channel);
        let group = group.map_or(GroupId::NONE, |group| GroupId::derive(&id, group));
        let wanted = Wanted { messages: 1, bytes: Some(1) };
        let opened = reading.open(channel, id, group, Start::GoOn, wanted)?;
        let leaves = LeavesOnDrop { reading, handle: opened.handle };
        let ended = reading.leave(opened.handle, LeaveMode::Unsubscribe).await.unwrap_or(Err(ChannelError::Closed));
        drop(leaves);
        ended?;
        // Where another process reads the mailbox, that has the file; then what is known of the subscription is of an older one.
        if group == GroupId::NONE
            && let Ok(Ok(sessions)) = timeout(CHANNEL_FORGET_TIMEOUT, inbox.sessions()).await
        {
            let forgotten = on_disk(move || sessions.ended_to_read(id)).await;
            forgotten.map_err(|error| ChannelError::State(Arc::new(error)))?;
        }
        Ok(())
    }
}

/// Whoever stops waiting leaves nothing behind on this connection.
struct LeavesOnDrop<'a> {
    reading: &'a Reading,
    handle: u32,
}

impl Drop for LeavesOnDrop<'_> {
    fn drop(&mut self) {
        drop(self.reading.leave(self.handle, LeaveMode::Detach));
    }
}

impl Publisher {
    /// The channel's name.
    #[must_use]
    pub fn channel(&self) -> &ChannelName {
        &self.handle.line.name
    }

    /// How many agents subscribe, as the node says; whom the owner does not allow are among them, and given nothing.
    #[must_use]
    pub fn subscribers(&self) -> usize {
        self.handle.line.member_count()
    }

    /// What the owner says of the channel, verified.
    #[must_use]
    pub fn record(&self) -> Option<Arc<ChannelRecord>> {
        self.handle.line.record()
    }

    /// Publishes a message and waits until it is durable, with the usual options; see [`submit`](Self::submit).
    ///
    /// # Errors
    /// [`ChannelError`]. Over a lost connection the message is sent again under the same id; that is no error.
    pub async fn publish(&self, payload: impl Into<Bytes>) -> Result<Receipt, ChannelError> {
        self.publish_with(payload, PublishOptions::default()).await
    }

    /// Publishes a message and waits until it is durable.
    ///
    /// # Errors
    /// As [`publish`](Self::publish).
    pub async fn publish_with(
        &self,
        payload: impl Into<Bytes>,
        options: PublishOptions,
    ) -> Result<Receipt, ChannelError> {
        self.submit(payload, options).await?.await
    }

    /// Hands a message over without waiting for its answer. Waits while too much is in flight, while there is no connection, and for the
    /// disk once in a thousand messages. Messages that one task hands over one after the other are published in that order.
    ///
    /// Dropped before it gives something, nothing is published.
    ///
    /// # Errors
    /// [`ChannelError`] when the message cannot be handed over.
    pub async fn submit(
        &self,
        payload: impl Into<Bytes>,
        options: PublishOptions,
    ) -> Result<PendingPublish, ChannelError> {
        let payload = payload.into();
        if payload.len() > PAYLOAD_PLAINTEXT_BYTES_MAX {
            return Err(ChannelError::Send(SendError::TooLarge { bytes: payload.len() }));
        }
        let message_id = clock::new_message_id();
        let deadline = options.deadline.map(|after| (Instant::now() + after, after));
        let timed_out = move |after| ChannelError::Send(SendError::TimedOut { message_id, after });
        let handed_over = self.hand_over(message_id, payload, &options);
        let answer = match deadline {
            None => handed_over.await?,
            Some((at, after)) => timeout_at(at, handed_over).await.unwrap_or_else(|_| Err(timed_out(after)))?,
        };
        let answer: Answer = match deadline {
            None => answer,
            Some((at, after)) => {
                Box::pin(async move { timeout_at(at, answer).await.unwrap_or_else(|_| Err(timed_out(after))) })
            }
        };
        Ok(PendingPublish { message_id, answer })
    }

    async fn hand_over(
        &self,
        message_id: MessageId,
        payload: Bytes,
        options: &PublishOptions,
    ) -> Result<Answer, ChannelError> {
        let Handle { line, means } = &*self.handle;
        let submitter = &means.submitter;
        let ends = Ends { me: means.keys.name().as_str(), other: line.name.as_str() };
        let Published { span, head } = submitter.tracer.publish(ends, Kind::Channel, message_id, &payload, 0);
        let payload = with_head(&head, payload);
        if payload.len() > PAYLOAD_PLAINTEXT_BYTES_MAX {
            return Err(ChannelError::Send(SendError::TooLarge { bytes: payload.len() }));
        }
        let envelope_bytes = ENVELOPE_HEADER_BYTES + payload.len() + AEAD_TAG_BYTES;
        let places = submitter.places.take(envelope_bytes).await?;
        let (taken, in_use, place) = loop {
            line.wait_for_key().await?;
            // A counter that is taken is used: nothing is waited for in between.
            let place = submitter.messages.reserve().await.map_err(|_| ChannelError::Closed)?;
            if let Some((taken, in_use)) = line.take() {
                break (taken, in_use, place);
            }
        };
        let Taken { session, counter, key } = taken;
        let (me, channel, bytes) = (means.keys.id(), line.channel, payload.len());
        let header = EnvelopeHeader::published(me, channel, message_id, clock::now_ms(), bytes, session, counter);
        let mut header = header.expect("the payload is small enough, and the session gave its counter");
        header.priority = options.priority as u8;
        header.ttl_s = ttl_s(options.ttl);
        let seal = move || {
            let mut envelope = Vec::with_capacity(envelope_bytes);
            let header_bytes = header.to_bytes();
            envelope.extend_from_slice(&header_bytes);
            key.seal_append(&nonce(counter), &header_bytes, &payload, &mut envelope);
            debug_assert_eq!(envelope.len(), envelope_bytes, "the header announces the envelope");
            Bytes::from(envelope)
        };
        // A short one is sealed in less time than handing it over takes.
        let envelope = if bytes < OFFLOADED_BYTES_MIN { seal() } else { offload(seal).await };
        let (reply, answer) = oneshot::channel();
        let ticket = Ticket { reply, _places: Some(places) };
        let now_us = submitter.clock.now_us();
        let ids = (message_id, channel);
        let mut message = Message::published(ids, envelope, in_use, ticket, now_us, submitter.retry_for_us);
        message.span = span;
        place.send(message);
        means.counters.submitted.add(1);
        means.counters.published.add(1);
        let line = Arc::clone(line);
        Ok(Box::pin(async move {
            let receipt = answer.await.unwrap_or(Err(SendError::Closed)).map_err(|error| match error {
                SendError::Refused { code, .. } => {
                    match ChannelError::refused(line.name.as_str(), "publish", code.as_u16()) {
                        ChannelError::Refused(_) => ChannelError::Send(error),
                        named => named,
                    }
                }
                error => error.into(),
            })?;
            // Who subscribes can read it then, whatever becomes of this process. Where the line ends first, the message is durable all the
            // same.
            let _ = line.handed_out(session).await;
            Ok(receipt)
        }))
    }

    /// Waits until everybody who subscribes and may read has been given the keys that they are to have, as far as that works now.
    ///
    /// # Errors
    /// [`ChannelError`] when nothing is published here any more.
    pub async fn keys_given(&self) -> Result<(), ChannelError> {
        self.handle.line.given_all().await
    }
}

impl PendingPublish {
    /// The message's id: the same over every resend.
    #[must_use]
    pub fn message_id(&self) -> MessageId {
        self.message_id
    }
}

impl fmt::Debug for PendingPublish {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PendingPublish").field("message_id", &self.message_id).finish_non_exhaustive()
    }
}

impl Future for PendingPublish {
    type Output = Result<Receipt, ChannelError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        self.answer.as_mut().poll(context)
    }
}

impl ChannelSubscription {
    /// The channel's name.
    #[must_use]
    pub fn channel(&self) -> &ChannelName {
        &self.name
    }

    /// The next message, waiting for it, over reconnects too. `None` after an error that ends the subscription, and after it was left.
    /// Cancel-safe.
    ///
    /// # Errors
    /// [`ChannelError`]. One that [is about one message](ChannelError::is_about_one_message) ends nothing: call again.
    pub async fn next(&mut self) -> Option<Result<ChannelMessage, ChannelError>> {
        std::future::poll_fn(|context| self.poll_message(context)).await
    }

    fn poll_message(&mut self, context: &mut Context<'_>) -> Poll<Option<Shown>> {
        loop {
            let shown = std::task::ready!(self.shown.poll_recv(context));
            match &shown {
                Some(Ok(message)) if !self.reading.taken(self.handle, message.sequence) => continue,
                Some(Ok(_)) => self.reading.counters.delivered.add(1),
                Some(Err(error)) => match error.sequence() {
                    Some(sequence) if self.skips_unreadable && !self.is_group => {
                        self.reading.skipped(self.handle, sequence);
                    }
                    Some(_) => {}
                    // Nothing follows.
                    None => self.shown.close(),
                },
                None => {}
            }
            return Poll::Ready(shown);
        }
    }

    /// The sequences of messages that came and cannot be shown yet: they wait for their keys, or could not be read and are not skipped.
    #[must_use]
    pub fn waiting(&self) -> Vec<u64> {
        self.reading.hidden(self.handle)
    }

    /// Acknowledges a message that could not be shown ([`ChannelError::NoKey`], [`ChannelError::Unreadable`]): it does not come again.
    /// Says whether it was there to be skipped; in a group it is not, for it went back to the other members.
    pub fn skip(&self, sequence: u64) -> bool {
        self.reading.skipped(self.handle, sequence)
    }

    /// Stops reading, after the last acknowledgements. The subscription stays at the node and goes on where it was.
    pub async fn leave(mut self) {
        // Where the connection is gone there is nothing to leave.
        let _ = self.stop(LeaveMode::Detach).await;
    }

    /// Ends the subscription: what is published from now on is not kept for it, and publishers go on with sessions that this agent is
    /// not given. Returns when that is durable; over reconnects too, and as often as the node says that it cannot be now.
    ///
    /// Dropped before it gives something, the subscription may have ended or not.
    ///
    /// # Errors
    /// [`ChannelError`]: it may not have ended. [`ChannelError::Closed`] where it had before.
    pub async fn unsubscribe(mut self) -> Result<(), ChannelError> {
        self.stop(LeaveMode::Unsubscribe).await?;
        if !self.is_group {
            let sessions = self.inbox.sessions().await.map_err(ChannelError::Mailbox)?;
            let channel = self.id;
            let forgotten = on_disk(move || sessions.ended_to_read(channel)).await;
            forgotten.map_err(|error| ChannelError::State(Arc::new(error)))?;
        }
        Ok(())
    }

    async fn stop(&mut self, mode: LeaveMode) -> Result<(), ChannelError> {
        let left = self.reading.leave(self.handle, mode);
        // An error means that the agent is gone.
        let left = left.await.unwrap_or(Err(ChannelError::Closed));
        self.has_left = true;
        left
    }
}

impl Stream for ChannelSubscription {
    type Item = Result<ChannelMessage, ChannelError>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.poll_message(context)
    }
}

impl Drop for ChannelSubscription {
    fn drop(&mut self) {
        if !self.has_left {
            drop(self.reading.leave(self.handle, LeaveMode::Detach));
        }
    }
}
