//! Sending: from `submit` to the answer. [`outbox`] decides, this task carries out.

use std::collections::{BTreeSet, VecDeque};
use std::future::{Future, pending};
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use creto_envelope::channel::frames::{ChannelAttach, ChannelDetach, ChannelMembers};
use creto_envelope::control::LoginAccepted;
use creto_envelope::submit::SubmitAck;
use creto_envelope::{AgentId, ChannelId, Kind, MessageId, Priority, RejectCode, TreeDigest};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::{Instant, Sleep, sleep_until};

use crate::channel::line::Lines;
use crate::channel::publishing::TooManyMembers;
use crate::clock::{self, Clock};
use crate::directory::{CURRENT, Directory, Identity};
use crate::error::{ConnectError, LookupError, PrekeyError, SendError};
use crate::keys::AgentKeys;
use crate::prekeys::claimed::ClaimedPrekey;
use crate::prekeys::{PrekeyPolicy, Prekeys};
use crate::self_destruct::SelfDestruct;
use crate::state::outgoing::{self, StoredSession};
use crate::stats::Counters;
use crate::stream::Refusal;
use crate::worker::{offload, on_disk};

pub(crate) mod batcher;
pub(crate) mod chain;
pub(crate) mod message;
pub(crate) mod outbox;
pub(crate) mod seal;
pub(crate) mod sessions;
pub(crate) mod shelf;

use chain::{Chain, SessionKeys};
use message::Message;
use outbox::{Answered, Outbox, SealedBatch};
use sessions::{Kept, Sessions, To};

/// How a message is sent. `SendOptions::default()` is the usual.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SendOptions {
    /// How urgent it is.
    pub priority: Priority,
    /// How long it may wait for its recipient, to the second; `None` means the mailbox's own limit.
    pub ttl: Option<Duration>,
    /// Ties a response to its request.
    pub correlation_id: Option<MessageId>,
    /// What it is for.
    pub kind: Kind,
    /// Whether the recipient is asked for a signed receipt when its application has acknowledged the message. It comes
    /// as a delivery of kind [`Kind::Receipt`]; see [`Delivery::receipt`](crate::Delivery::receipt). Costs the recipient
    /// a message.
    pub receipt: bool,
    /// Whether the recipient is asked for a signed receipt when its SDK has verified and opened the message, which says nothing of whether
    /// anybody looked at it. It comes in the same way, before or after the other, or not at all: the recipient sends it once, holds
    /// nothing back for it, and may not send any ([`ReceiptPolicy`](crate::ReceiptPolicy)). Costs the recipient a message.
    pub delivered: bool,
    /// Whether the node is asked to say so when the message expires before its recipient acknowledged it: by
    /// [`ttl`](Self::ttl), or because its mailbox keeps nothing for longer. It comes as a [`Notice`](crate::Notice), which
    /// [`Agent::notices`](crate::Agent::notices) gives. On by default: what was acknowledged should not vanish silently.
    pub notice: bool,
    /// Whether the message destroys itself, and when: the recipient's SDK shows it no longer, and erases what it has of it. Only messages
    /// of kind [`Kind::Direct`] do. It takes 16 bytes of the payload.
    pub self_destruct: Option<SelfDestruct>,
    /// How long the caller waits for the answer; `None` means until there is one. When it passes, the answer is
    /// [`SendError::TimedOut`], and the message may still be accepted.
    pub deadline: Option<Duration>,
}

impl Default for SendOptions {
    fn default() -> Self {
        Self {
            priority: Priority::Normal,
            ttl: None,
            correlation_id: None,
            kind: Kind::Direct,
            receipt: false,
            delivered: false,
            notice: true,
            self_destruct: None,
            deadline: None,
        }
    }
}

/// Proof that the node has a message on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Receipt {
    /// Which message.
    pub message_id: MessageId,
    /// The node had it already: it was accepted on a connection that broke before the answer came.
    pub was_duplicate: bool,
    /// SHA-256 of the envelope that is on disk, of a typed message ([`Agent::send_typed`](crate::Agent::send_typed)): what the
    /// next one of the thread names. None where the node had it already in a form that may be another, because the recipient's key
    /// changed in between.
    pub envelope_sha256: Option<[u8; 32]>,
}

/// The answer to a message that was submitted. Resolves when the message is durable or refused for good.
///
/// The message is on its way whether or not this is awaited; dropping it only drops the answer.
#[derive(Debug)]
#[must_use = "without the answer nobody knows whether the message is durable"]
pub struct PendingSend {
    message_id: MessageId,
    answer: oneshot::Receiver<Result<Receipt, SendError>>,
    deadline: Option<(Duration, Pin<Box<Sleep>>)>,
}

impl PendingSend {
    pub(crate) fn new(
        message_id: MessageId,
        answer: oneshot::Receiver<Result<Receipt, SendError>>,
        deadline: Option<(Duration, Instant)>,
    ) -> Self {
        let deadline = deadline.map(|(after, at)| (after, Box::pin(sleep_until(at))));
        Self { message_id, answer, deadline }
    }

    /// The message's id: the same over every resend.
    #[must_use]
    pub fn message_id(&self) -> MessageId {
        self.message_id
    }
}

impl Future for PendingSend {
    type Output = Result<Receipt, SendError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        if let Poll::Ready(answer) = Pin::new(&mut self.answer).poll(context) {
            return Poll::Ready(answer.unwrap_or(Err(SendError::Closed)));
        }
        let message_id = self.message_id;
        let Some((after, sleep)) = &mut self.deadline else { return Poll::Pending };
        let after = *after;
        sleep.as_mut().poll(context).map(|()| Err(SendError::TimedOut { message_id, after }))
    }
}

/// What happens to the sender.
#[derive(Debug)]
pub(crate) enum Event {
    /// A connection is there; whole frames for its submit stream go into `frames`.
    Connected { accepted: LoginAccepted, frames: mpsc::Sender<Vec<u8>> },
    /// The node answered batches.
    Acknowledged(SubmitAck),
    /// The node asks for a pause.
    Pause(Duration),
    /// The node says who subscribes to a channel.
    Members(ChannelMembers),
    /// The node does not say who subscribes to a channel.
    MembersRefused(Refusal),
    /// Something is published to this channel from now on: the node is asked who subscribes.
    Attach(ChannelId),
    /// Nothing is published to it any more.
    Detach(ChannelId),
    /// The application wants new sessions.
    RenewSessions,
    /// The connection is gone, and all of its acknowledgements came before this.
    Lost,
    /// There will be no connection any more.
    GiveUp(ConnectError),
}

/// The task that owns the outbox.
pub(crate) struct Sender {
    pub(crate) keys: Arc<AgentKeys>,
    pub(crate) outbox: Outbox,
    pub(crate) directory: Arc<Directory>,
    pub(crate) prekeys: Arc<Prekeys>,
    /// Channels that are published to.
    pub(crate) lines: Arc<Lines>,
    pub(crate) attachments: Attachments,
    pub(crate) clock: Clock,
    pub(crate) counters: Arc<Counters>,
    pub(crate) messages: mpsc::Receiver<Message>,
    pub(crate) events: mpsc::Receiver<Event>,
    /// Where sessions are left for another run.
    pub(crate) state: Option<PathBuf>,
    /// The hash of the trees that are signed.
    pub(crate) tree_digest: TreeDigest,
}

/// Channels of which the node is asked on this connection who subscribes.
#[derive(Debug, Default)]
pub(crate) struct Attachments {
    asked: BTreeSet<ChannelId>,
    /// To be written before any batch.
    frames: VecDeque<Vec<u8>>,
}

impl Attachments {
    fn ask(&mut self, channel: ChannelId) {
        if self.asked.insert(channel) {
            let mut frame = Vec::new();
            ChannelAttach { channel }.encode(&mut frame);
            self.frames.push_back(frame);
        }
    }

    fn give_back(&mut self, channel: ChannelId) {
        if self.asked.remove(&channel) {
            let mut frame = Vec::new();
            ChannelDetach { channel }.encode(&mut frame);
            self.frames.push_back(frame);
        }
    }
}

/// What a question for a recipient's current record gave.
type Fetched = (AgentId, Result<Arc<Identity>, LookupError>);

/// What a claim of a prekey gave.
type Claimed = (AgentId, Result<Arc<ClaimedPrekey>, PrekeyError>);

const MESSAGES_PER_TURN: usize = 256;

impl Sender {
    /// Runs until every handle to the agent is gone and the driver has stopped, then leaves the sessions for another run.
    pub(crate) async fn run(mut self) {
        self.carry().await;
        self.leave_sessions().await;
    }

    async fn carry(&mut self) {
        let mut frames: Option<mpsc::Sender<Vec<u8>>> = None;
        let mut jobs: JoinSet<SealedBatch> = JoinSet::new();
        let mut lookups: JoinSet<Fetched> = JoinSet::new();
        let mut claims: JoinSet<Claimed> = JoinSet::new();
        let mut given_up: Option<ConnectError> = None;
        let mut arrived = Vec::with_capacity(MESSAGES_PER_TURN);
        let mut open = true;
        loop {
            self.drop_signals();
            self.start_lookups(&mut lookups);
            self.start_jobs(&mut jobs);
            self.start_claims(&mut claims);
            let unwritten = self.write(frames.as_ref());
            let deadline_us = self.outbox.deadline_us(self.clock.now_us());
            tokio::select! {
                biased;
                event = self.events.recv() => match event {
                    Some(event) => self.on(event, &mut frames, &mut given_up),
                    None => break,
                },
                Some(batch) = jobs.join_next() => {
                    self.outbox.sealed(batch.expect("sealing a batch does not panic"));
                    self.outbox.take_unsealed().into_iter().for_each(|answered| self.answer(answered));
                    if let Some(error) = &given_up {
                        self.give_up(error);
                    }
                },
                Some(fetched) = lookups.join_next() => {
                    let (recipient, record) = fetched.expect("a lookup does not panic");
                    let mut answers = Vec::new();
                    self.outbox.fetched(recipient, record, &mut answers);
                    answers.into_iter().for_each(|answered| self.answer(answered));
                }
                Some(claimed) = claims.join_next() => {
                    let (recipient, prekey) = claimed.expect("a claim does not panic");
                    let mut answers = Vec::new();
                    self.outbox.claimed(recipient, prekey, self.clock.now_us(), &mut answers);
                    answers.into_iter().for_each(|answered| self.answer(answered));
                },
                () = has_place(frames.as_ref()), if unwritten => {},
                count = self.messages.recv_many(&mut arrived, MESSAGES_PER_TURN), if open => {
                    // Without a handle nothing more comes; what was submitted goes out until the driver stops.
                    open = count > 0;
                    for message in arrived.drain(..) {
                        match &given_up {
                            None if message.is_signal && frames.is_none() => drop_signal(message),
                            None => self.outbox.push(message),
                            Some(error) => message.answer(Err(SendError::Disconnected(error.clone()))),
                        }
                    }
                },
                () = sleep_until(self.clock.at(deadline_us.unwrap_or_default())), if deadline_us.is_some() => {},
            }
        }
    }

    fn on(&mut self, event: Event, frames: &mut Option<mpsc::Sender<Vec<u8>>>, given_up: &mut Option<ConnectError>) {
        match event {
            Event::Connected { accepted, frames: new } => {
                self.counters.resent.add(self.outbox.unanswered());
                *frames = Some(new);
                // Before any message: what the node says of who subscribes goes before the acknowledgements of what lies behind it.
                self.attachments = Attachments::default();
                self.lines.channels().into_iter().for_each(|channel| self.attachments.ask(channel));
                self.outbox.connected(&accepted);
            }
            Event::Members(members) => {
                if let Err(TooManyMembers) = self.lines.told(&members) {
                    tracing::warn!("the node names more subscribers than a channel can have");
                    *frames = None;
                }
            }
            Event::MembersRefused(refusal) => {
                self.attachments.asked.remove(&ChannelId(refusal.context));
                if !self.lines.refused(&refusal) {
                    tracing::debug!(?refusal, "the node refuses what nobody asked for any more");
                }
            }
            Event::Attach(channel) => {
                if frames.is_some() {
                    self.attachments.ask(channel);
                }
            }
            Event::Detach(channel) => {
                if frames.is_some() {
                    self.attachments.give_back(channel);
                }
            }
            Event::Acknowledged(ack) => {
                let mut answers = Vec::new();
                if let Err(code) = self.outbox.acknowledged(&ack, self.clock.now_us(), &mut answers) {
                    // Dropping the writer's queue ends the connection; a new one starts from known ground.
                    tracing::warn!(%code, "the node acknowledged what was never sent");
                    *frames = None;
                }
                answers.into_iter().for_each(|answered| self.answer(answered));
            }
            Event::Pause(pause) => {
                let pause_us = u64::try_from(pause.as_micros()).unwrap_or(u64::MAX);
                self.outbox.pause(self.clock.now_us().saturating_add(pause_us));
            }
            Event::RenewSessions => self.outbox.sessions_mut().renew(),
            Event::Lost => {
                *frames = None;
                self.attachments = Attachments::default();
                self.lines.lost();
                self.outbox.lost();
            }
            Event::GiveUp(error) => {
                self.give_up(&error);
                *given_up = Some(error);
            }
        }
    }

    fn answer(&self, Answered { message, answer }: Answered) {
        match &answer {
            Ok(_) if message.is_signal => self.counters.signals_sent.add(1),
            Ok(receipt) => {
                self.counters.acknowledged.add(1);
                self.counters.acknowledged_again.add(usize::from(receipt.was_duplicate));
            }
            Err(SendError::Refused { code, .. }) => {
                self.counters.refused(code.as_u16());
                if *code == RejectCode::UnknownRecipientKey {
                    self.directory.forget_current(message.recipient);
                }
            }
            Err(SendError::Recipient { source: LookupError::Refused(code), .. }) => {
                self.counters.refused(code.as_u16());
            }
            Err(SendError::NoPrekey { source: PrekeyError::Refused(code), .. }) => self.counters.refused(code.as_u16()),
            Err(SendError::RefusedWith { code, .. }) => self.counters.refused(*code),
            Err(_) => {}
        }
        message.answer(answer);
    }

    fn give_up(&mut self, error: &ConnectError) {
        let answer = match error {
            ConnectError::Closed => SendError::Closed,
            error => SendError::Disconnected(error.clone()),
        };
        self.lines.end(&answer.clone().into());
        self.outbox.give_up().into_iter().for_each(|message| message.answer(Err(answer.clone())));
    }

    /// Answers signals whose connection is gone.
    fn drop_signals(&mut self) {
        self.outbox.take_dropped().into_iter().for_each(drop_signal);
    }

    /// Asks again for the records that turned out to be old.
    fn start_lookups(&mut self, lookups: &mut JoinSet<Fetched>) {
        for recipient in self.outbox.take_fetches() {
            self.directory.forget_current(recipient);
            let directory = Arc::clone(&self.directory);
            lookups.spawn(async move { (recipient, directory.lookup(recipient, CURRENT).await) });
        }
    }

    /// Claims prekeys for sessions that wait for one. Asked after the jobs were made, which find out what is wanted.
    fn start_claims(&mut self, claims: &mut JoinSet<Claimed>) {
        for recipient in self.outbox.take_claims() {
            let (prekeys, directory) = (Arc::clone(&self.prekeys), Arc::clone(&self.directory));
            claims.spawn(async move { (recipient, prekeys.claim(&directory, recipient).await) });
        }
    }

    fn start_jobs(&mut self, jobs: &mut JoinSet<SealedBatch>) {
        while let Some(job) = self.outbox.next_job(self.clock.now_us()) {
            let (keys, counters, digest) = (Arc::clone(&self.keys), Arc::clone(&self.counters), self.tree_digest);
            jobs.spawn(offload(move || {
                let salts = clock::random_each(job.messages.len());
                seal::seal_batch(&keys, job, salts, digest, clock::now_ms(), &counters)
            }));
        }
    }

    /// Puts what is left of the sessions where another run finds it. Nothing is sealed under them here any more.
    async fn leave_sessions(mut self) {
        let Some(folder) = self.state.take() else { return };
        let left = self.outbox.sessions_mut().leave(self.clock.now_us());
        let me = self.keys.id();
        let put = on_disk(move || outgoing::put(&folder, me, left.into_iter().filter_map(stored).collect()));
        if let Err(error) = put.await {
            // They are lost, which costs an encapsulation each.
            tracing::debug!(%error, "the sessions to recipients are not kept");
        }
    }

    /// Hands frames to the writer; true if there are more than it takes now.
    fn write(&mut self, frames: Option<&mpsc::Sender<Vec<u8>>>) -> bool {
        let Some(frames) = frames else { return false };
        loop {
            let place = match frames.try_reserve() {
                Ok(place) => place,
                // A closed queue means that the connection is going; `Lost` will say so.
                Err(error) => return matches!(error, mpsc::error::TrySendError::Full(())),
            };
            let about_channels = self.attachments.frames.pop_front();
            let is_batch = about_channels.is_none();
            let Some(frame) = about_channels.or_else(|| self.outbox.next_frame()) else { return false };
            self.counters.batches.add(usize::from(is_batch));
            place.send(frame);
        }
    }
}

/// The sessions of an earlier run, which nobody else has from now on. Where nothing goes without a prekey, those without are
/// left.
pub(crate) fn adopt_sessions(
    sessions: &mut Sessions<Chain>,
    stored: Vec<StoredSession>,
    policy: PrekeyPolicy,
    now_us: u64,
) {
    let now_ms = clock::now_ms();
    for session in stored {
        let StoredSession { recipient, key_id, prekey, record_version, opened_at_ms, freed, wrapped_key, chain } =
            session;
        if policy == PrekeyPolicy::Require && prekey.is_none() {
            continue;
        }
        // Under a clock that was set back nobody knows how old it is.
        let Some(age_ms) = now_ms.checked_sub(opened_at_ms) else { continue };
        let taken = chain.counter();
        let opened_to = SessionKeys { record: key_id, prekey };
        let chain = Arc::new(Chain::of(opened_to, wrapped_key, chain));
        let to = To { recipient, key_id, record_version };
        sessions.adopt(Kept { to, chain, taken, age: Duration::from_millis(age_ms), freed }, now_us);
    }
}

fn stored(kept: Kept<Chain>) -> Option<StoredSession> {
    let Kept { to: To { recipient, key_id, record_version }, chain, age, freed, .. } = kept;
    let (SessionKeys { prekey, .. }, wrapped_key, chain) = chain.close()?;
    let opened_at_ms = clock::now_ms().saturating_sub(u64::try_from(age.as_millis()).unwrap_or(u64::MAX));
    Some(StoredSession { recipient, key_id, prekey, record_version, opened_at_ms, freed, wrapped_key, chain })
}

fn drop_signal(signal: Message) {
    let message_id = signal.id;
    signal.answer(Err(SendError::SignalDropped { message_id }));
}

/// Waits until the writer takes a frame.
async fn has_place(frames: Option<&mpsc::Sender<Vec<u8>>>) {
    match frames {
        // When it is closed, `Lost` comes.
        Some(frames) => {
            if frames.reserve().await.is_err() {
                pending::<()>().await;
            }
        }
        None => pending().await,
    }
}
