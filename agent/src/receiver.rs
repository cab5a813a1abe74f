//! Receiving: the mailbox's messages, verified, opened, each shown to the application once.
//!
//! - Credit goes back as the application acknowledges or drops deliveries, not as frames arrive: what the application
//!   has not finished bounds what the node may push.
//! - A message that cannot be verified or opened is **not** acknowledged. The node promised its sender that nothing is
//!   lost, and an acknowledgement would delete the only copy. It is counted, reported as an [`Incident`], takes no
//!   credit, so it blocks nothing, and comes again on the next connection. [`Incident::discard`] acknowledges it, when
//!   the application has decided so.
//! - A message that the application refuses ([`Delivery::nack`], [`Delivery::reject`]) is not settled: its key is kept, and its
//!   session is on disk before the node is told, so that it opens when it comes again, whoever reads the mailbox then. A
//!   message that comes again is shown only when its session is on disk, too: it may be what the process before died of, and
//!   if the node gives it up, what comes after it in the session must still open.
//! - Answers to requests of this agent go to their requests ([`answers`]). A full application does not hold them: while a request
//!   waits and the window is full, credit is lent, and what comes on it and is no answer is passed over, neither shown nor
//!   acknowledged, with all that follows. When there is room again the subscription is renewed, over a new connection, and all
//!   of it comes in its old order.
//! - Keys of channels ([`channel_keys`]) are kept and acknowledged, and never shown. While a message of a channel waits for one, credit
//!   is lent as for an answer.
//! - What the application has acknowledged of a session is written to disk before the node is told ([`Inbox::keep`]): all
//!   that came while one transaction was under way goes with the next, so throughput does not wait for the disk.

use std::fmt;
use std::future::poll_fn;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, Weak};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use creto_envelope::deliver::{Credit, DeliveredSpan, Nack};
use creto_envelope::{AgentId, AgentName, Kind, MessageId, Priority};
use futures_core::Stream;
use tokio::sync::{Notify, OnceCell, broadcast, mpsc, watch};
use tracing::Span;

use crate::clock;
use crate::error::ReceiveError;
use crate::keys::AgentKeys;
use crate::limits::{
    ACKNOWLEDGEMENTS_QUEUED_MAX, DEDUP_IDS_MAX, DEDUP_IDS_PER_SENDER, INCIDENTS_QUEUED_MAX, LENT_BYTES, LENT_MESSAGES,
    PASSED_OVER_MAX,
};
use crate::self_destruct::{self, Found, Fuse, SelfDestructing};
use crate::stats::{Counters, UNPOISONED};
use crate::submit::Submitter;
use crate::trace::{Ends, TraceContext};

pub(crate) mod acknowledgements;
pub(crate) mod answers;
mod channel_keys;
pub(crate) mod credit;
pub(crate) mod framing;
pub(crate) mod incidents;
mod keeper;
pub(crate) mod link;
pub(crate) mod notices;
pub(crate) mod open;
pub(crate) mod receipts;
pub(crate) mod sessions;
pub(crate) mod signals;
mod window;

use acknowledgements::{Acknowledged, Acknowledgements};
use answers::Waiting;
use credit::CreditLedger;
use framing::Framing;
use incidents::{Incident, Incidents};
use notices::NoticeQueue;
use open::{Opened, Refused};
use receipts::{DeliveryReceipt, Due, Outbound, ReceiptKind, Repeats};
use sessions::{IncomingSessions, SessionUse};
use signals::SignalQueue;
use window::{Arrival, Place, Window};

/// A message for the application.
///
/// The node keeps it until [`ack`](Self::ack); dropped without, it comes again on the next connection. While the
/// application holds as many as the window allows, no more come.
#[non_exhaustive]
pub struct Delivery {
    /// Who sent it: proven by both signatures under the sender's key record.
    pub from: AgentName,
    /// The sender's id.
    pub from_id: AgentId,
    /// The message's id, chosen by the sender.
    pub message_id: MessageId,
    /// What was sent; of a request ([`request`](Self::request)) what is asked. Empty where the message destroys itself
    /// ([`self_destructing`](Self::self_destructing)).
    pub payload: Bytes,
    /// When the sender made it, by the sender's clock, Unix milliseconds.
    pub timestamp_ms: u64,
    /// Ties a response to its request.
    pub correlation_id: Option<MessageId>,
    /// What it is for.
    pub kind: Kind,
    /// How urgent it is.
    pub priority: Priority,
    /// How often the node pushed it before; zero the first time.
    pub attempt: u8,
    /// Its number in the mailbox.
    pub mailbox_sequence: u64,
    /// Whether its sender asked for a receipt; [`ack`](Self::ack) sends it.
    pub receipt_wanted: bool,
    /// Where in a trace its sender was, if it says so.
    pub trace: Option<TraceContext>,
    span: Span,
    self_destructing: Option<SelfDestructing>,
    pub(crate) framing: Framing,
    /// SHA-256 of the envelope, if it was wanted: always where the payload says that it is typed.
    pub(crate) envelope_sha256: Option<[u8; 32]>,
    proof: Option<Bytes>,
    pub(crate) token: Token,
}

impl Delivery {
    /// The application has the message: the node may forget it. Returns at once; acknowledgements travel together.
    /// Acknowledge after the work is done: what was acknowledged does not come again.
    pub fn ack(&self) {
        self.token.finish(Answer::Done);
    }

    /// The application cannot do the work now: the node delivers the message again after a pause, one second at first and
    /// twice as long every time, and others meanwhile; the message gives up its place in the order. After too many failed
    /// deliveries (a setting of the node, 20 unless it says otherwise) it goes to the dead letters. Returns at once.
    pub fn nack(&self) {
        self.nack_after(Duration::ZERO);
    }

    /// As [`nack`](Self::nack), and not before this time has passed; rounded up to milliseconds.
    pub fn nack_after(&self, delay: Duration) {
        let delay_ms = u32::try_from(delay.as_nanos().div_ceil(1_000_000)).unwrap_or(u32::MAX);
        self.token.finish(Answer::Nack(Nack::Later { delay_ms }));
    }

    /// The application never wants the message: it goes to the dead letters of this mailbox, where it is kept and not
    /// delivered ([`Agent::dead_letters`](crate::Agent::dead_letters)). `reason` is the application's own number, 0 for none.
    /// Returns at once; if the connection breaks before the node has heard it, the message comes again.
    pub fn reject(&self, reason: u16) {
        self.token.finish(Answer::Nack(Nack::Never { reason }));
    }

    /// What this message confirms, when it is a receipt for one that this agent sent with
    /// [`SendOptions::receipt`](crate::SendOptions::receipt) or [`SendOptions::delivered`](crate::SendOptions::delivered). The same receipt
    /// of the same agent is shown once, as far as that is remembered. Look at [`from`](Self::from): only the agent that the message
    /// was for can confirm it.
    #[must_use]
    pub fn receipt(&self) -> Option<DeliveryReceipt> {
        DeliveryReceipt::of(self)
    }

    /// What was sent, if its sender wants it gone after reading or after a time ([`SendOptions::self_destruct`](crate::SendOptions)).
    /// It is shown as long as it is there, and erased when the delivery is acknowledged, refused or dropped, and when its time is over.
    /// [`reject`](Self::reject) does not keep it as a dead letter: the node deletes it.
    #[must_use]
    pub fn self_destructing(&self) -> Option<&SelfDestructing> {
        self.self_destructing.as_ref()
    }

    /// The span of working on this message, `creto.process`, from when it was shown until it is dropped; of nothing unless somebody asked for
    /// spans ([`ConnectOptions::trace`](crate::ConnectOptions::trace)). What is sent inside of it continues the sender's trace.
    #[must_use]
    pub fn span(&self) -> &Span {
        &self.span
    }

    /// The message's proof, to show a third party who signed it: the file that [`proof::verify`](crate::proof::verify)
    /// and `creto proof verify` check. None unless [`ConnectOptions::keep_proofs`](crate::ConnectOptions::keep_proofs)
    /// is set.
    #[must_use]
    pub fn proof(&self) -> Option<&Bytes> {
        self.proof.as_ref()
    }
}

/// Says how long the payload is, not what it is: this ends up in logs.
impl fmt::Debug for Delivery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Delivery")
            .field("from", &self.from)
            .field("message_id", &self.message_id)
            .field("payload_bytes", &self.payload.len())
            .field("kind", &self.kind)
            .field("priority", &self.priority)
            .field("attempt", &self.attempt)
            .field("mailbox_sequence", &self.mailbox_sequence)
            .field("token", &self.token)
            .finish_non_exhaustive()
    }
}

/// What the application says of a delivery.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Answer {
    Done,
    Nack(Nack),
    /// Nothing.
    Dropped,
    /// It never saw it, and nobody needs it: acknowledged without a receipt.
    Discarded,
}

/// Finishes a delivery exactly once: acknowledged, refused, or dropped.
pub(crate) struct Token {
    inbox: Weak<Inbox>,
    from: AgentId,
    message_id: MessageId,
    session: Option<SessionUse>,
    envelope_bytes: usize,
    /// The receipt that its sender asked for.
    receipt: Option<Box<Due>>,
    /// What is erased with it.
    fuse: Option<Fuse>,
    finished: AtomicBool,
}

impl Token {
    fn finish(&self, answer: Answer) {
        let answer = match (&self.fuse, answer) {
            // As a dead letter it would be kept.
            (Some(_), Answer::Nack(Nack::Never { .. })) => Answer::Discarded,
            // No receipt says that something was done with it.
            (Some(fuse), Answer::Done) if fuse.went_unseen(clock::now_ms()) => Answer::Discarded,
            _ => answer,
        };
        if let Some(fuse) = &self.fuse {
            fuse.burn();
        }
        if !self.finished.swap(true, Ordering::AcqRel)
            && let Some(inbox) = self.inbox.upgrade()
        {
            inbox.finished(self, answer);
        }
    }

    /// Acknowledges what the application does not get to see.
    pub(crate) fn discard(&self) {
        self.finish(Answer::Discarded);
    }

    pub(crate) fn is_finished(&self) -> bool {
        self.finished.load(Ordering::Acquire)
    }

    /// None when the agent is gone.
    pub(crate) fn inbox(&self) -> Option<Arc<Inbox>> {
        self.inbox.upgrade()
    }
}

impl Drop for Token {
    fn drop(&mut self) {
        self.finish(Answer::Dropped);
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.is_finished() { "finished" } else { "not finished" })
    }
}

/// The agent's mailbox as a stream. Dropped, it leaves what it has not handed out to the next subscription.
#[derive(Debug)]
pub struct Subscription {
    inbox: Arc<Inbox>,
    /// Taken on drop only.
    queue: Option<mpsc::Receiver<Delivery>>,
    ended: bool,
}

impl Subscription {
    /// The next delivery, waiting for it, over reconnects too. `None` after an error: no more will come.
    ///
    /// # Errors
    /// [`ReceiveError`] when no more deliveries will come.
    pub async fn next(&mut self) -> Option<Result<Delivery, ReceiveError>> {
        poll_fn(|context| self.poll_delivery(context)).await
    }

    fn poll_delivery(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Delivery, ReceiveError>>> {
        if self.ended {
            return Poll::Ready(None);
        }
        let queue = self.queue.as_mut().expect("only drop takes the queue");
        match queue.poll_recv(context) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(Some(delivery)) => {
                self.inbox.counters.delivered.add(1);
                Poll::Ready(Some(Ok(delivery)))
            }
            Poll::Ready(None) => {
                self.ended = true;
                Poll::Ready(Some(Err(self.inbox.end_reason())))
            }
        }
    }
}

impl Stream for Subscription {
    type Item = Result<Delivery, ReceiveError>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.poll_delivery(context)
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        self.inbox.state().queue = self.queue.take();
    }
}

/// Everything about receiving that outlives a connection.
pub(crate) struct Inbox {
    me: AgentId,
    keys: Arc<AgentKeys>,
    /// Requests of this agent that wait for their answers.
    waiting: Waiting,
    /// What answers requests of others.
    pub(crate) submitter: Arc<Submitter>,
    /// Where the sessions of senders are kept; in memory if nowhere.
    folder: Option<PathBuf>,
    /// Those, once somebody subscribed.
    sessions: OnceCell<Arc<IncomingSessions>>,
    /// Wakes [`keep`](Self::keep): something is to be settled, or nothing ever will be again.
    to_settle: Notify,
    pub(crate) counters: Arc<Counters>,
    /// Most deliveries and notices that the application may hold.
    window_messages: usize,
    state: Mutex<State>,
    /// Wakes the deliver stream's writer: something is to be acknowledged or given back.
    changed: Notify,
    /// Whether anyone has subscribed.
    wanted: watch::Sender<bool>,
    incidents: broadcast::Sender<Incident>,
    /// What was acknowledged, for whoever measures it.
    acknowledgements: OnceLock<broadcast::Sender<Acknowledged>>,
    /// What came and is not stored.
    signals: SignalQueue,
    /// To the task that sends receipts, if they are sent.
    receipts: Option<Outbound>,
    /// Receipts that are due and not durable at the node.
    receipts_due: watch::Sender<usize>,
    /// The connection is to be made anew, for the sake of what was passed over on it.
    renews: AtomicBool,
    /// Counts keys of channels that came.
    pub(crate) keys_came: watch::Sender<u64>,
    /// Subscriptions of channels that wait for a key.
    awaited_keys: AtomicUsize,
    /// Whether no more deliveries will come.
    over: watch::Sender<bool>,
}

struct State {
    window: Window,
    credit: CreditLedger,
    /// To acknowledge on the current stream. No longer than the window.
    acks: Vec<u64>,
    /// To refuse on the current stream. No longer than the window.
    nacks: Vec<(u64, Nack)>,
    /// Acknowledged or refused by the application, to be settled on disk before the node is told. No longer than the window.
    settling: Vec<Settling>,
    /// Some are on their way to the disk.
    committing: bool,
    /// Number of the deliver stream; what came on another one cannot be acknowledged on it.
    stream: u64,
    streams: u64,
    /// Messages that were passed over on this stream.
    passed_over: usize,
    /// Nobody reads: only keys of channels are looked for.
    is_for_keys: bool,
    /// Into the queue of the subscription; gone when no more will come.
    sender: Option<mpsc::Sender<Delivery>>,
    /// The queue, while there is no subscription.
    queue: Option<mpsc::Receiver<Delivery>>,
    /// What the node says about messages that this agent sent.
    notices: NoticeQueue,
    /// Receipts that came, and messages whose delivery was told.
    repeats: Repeats,
    ended: Option<ReceiveError>,
}

/// A message of a session that is done with, or refused.
#[derive(Clone, Copy)]
struct Settling {
    session: SessionUse,
    /// It is wanted again: its session is kept, and it is not settled.
    nack: Option<Nack>,
    /// Where the node is to be told, if that stream is still there.
    place: Option<Place>,
}

impl State {
    /// Has the node told about a message, if it came on the stream that there is now.
    fn answer(&mut self, place: Option<Place>, nack: Option<Nack>) {
        let Some(place) = place.filter(|place| place.stream == self.stream) else { return };
        match nack {
            None => self.acks.push(place.mailbox_sequence),
            Some(nack) => self.nacks.push((place.mailbox_sequence, nack)),
        }
    }

    /// Whether the application has room for what comes now, and nothing before it was passed over.
    fn has_room(&self) -> bool {
        self.passed_over == 0 && !self.is_for_keys && !(self.credit.has_lent() && self.credit.is_full())
    }

    /// It comes again, and all that follow with it, so that they keep their order.
    fn pass_over(&mut self, from: AgentId, message_id: MessageId, bytes: usize) {
        self.window.released(from, message_id);
        self.credit.finished(bytes);
        self.passed_over += 1;
    }
}

/// The number of no stream.
const NO_STREAM: u64 = 0;
/// Credit for answers that stand behind what the application has no room for.
const LENT: Credit = Credit { messages: LENT_MESSAGES, bytes: LENT_BYTES };

impl Inbox {
    pub(crate) fn new(submitter: Arc<Submitter>, folder: Option<PathBuf>, window: Credit) -> Self {
        let (keys, counters) = (Arc::clone(&submitter.keys), Arc::clone(&submitter.counters));
        // Credit bounds the queue; the channel's own bound holds a node that pushes without credit.
        let (sender, queue) = mpsc::channel(window.messages as usize);
        let state = State {
            window: Window::new(DEDUP_IDS_PER_SENDER, DEDUP_IDS_MAX),
            credit: CreditLedger::new(window),
            acks: Vec::new(),
            nacks: Vec::new(),
            settling: Vec::new(),
            committing: false,
            stream: NO_STREAM,
            streams: 0,
            passed_over: 0,
            is_for_keys: false,
            sender: Some(sender),
            queue: Some(queue),
            notices: NoticeQueue::new(window.messages as usize),
            repeats: Repeats::default(),
            ended: None,
        };
        Self {
            me: keys.id(),
            keys,
            waiting: Waiting::new(),
            submitter,
            folder,
            sessions: OnceCell::new(),
            to_settle: Notify::new(),
            counters,
            window_messages: window.messages as usize,
            state: Mutex::new(state),
            changed: Notify::new(),
            wanted: watch::Sender::new(false),
            incidents: broadcast::Sender::new(INCIDENTS_QUEUED_MAX),
            acknowledgements: OnceLock::new(),
            signals: SignalQueue::default(),
            receipts: None,
            receipts_due: watch::Sender::new(0),
            renews: AtomicBool::new(false),
            keys_came: watch::Sender::new(0),
            awaited_keys: AtomicUsize::new(0),
            over: watch::Sender::new(false),
        }
    }

    /// The same, and receipts that are due go to `receipts`.
    pub(crate) fn with_receipts(self, receipts: Outbound) -> Self {
        Self { receipts: Some(receipts), ..self }
    }

    pub(crate) fn subscribe(self: &Arc<Self>) -> Result<Subscription, ReceiveError> {
        let mut state = self.state();
        let queue = state.queue.take().ok_or(ReceiveError::AlreadySubscribed)?;
        drop(state);
        self.reads_all();
        self.wanted.send_replace(true);
        // What was passed over may be wanted now.
        self.changed.notify_one();
        Ok(Subscription { inbox: Arc::clone(self), queue: Some(queue), ended: false })
    }

    /// Somebody reads, or waits for an answer.
    fn reads_all(&self) {
        self.state().is_for_keys = false;
        self.changed.notify_one();
    }

    pub(crate) fn incidents(&self) -> Incidents {
        Incidents { incidents: self.incidents.subscribe(), counters: Arc::clone(&self.counters) }
    }

    pub(crate) fn acknowledgements(&self) -> Acknowledgements {
        let queue = self.acknowledgements.get_or_init(|| broadcast::Sender::new(ACKNOWLEDGEMENTS_QUEUED_MAX));
        Acknowledgements::new(queue.subscribe())
    }

    /// Whether somebody wants to hear of acknowledgements.
    pub(crate) fn is_measured(&self) -> bool {
        self.acknowledgements.get().is_some_and(|queue| queue.receiver_count() > 0)
    }

    /// These acknowledgements are with the connection.
    pub(crate) fn handed_over(&self, acknowledged: Acknowledged) {
        if let Some(queue) = self.acknowledgements.get() {
            // Nobody may be listening any more.
            let _ = queue.send(acknowledged);
        }
    }

    /// No more deliveries will come.
    pub(crate) fn end(&self, reason: ReceiveError) {
        let mut state = self.state();
        let reason = state.ended.get_or_insert(reason).clone();
        let sender = state.sender.take();
        let notices = state.notices.sender.take();
        drop(state);
        drop((sender, notices));
        self.waiting.end(&reason);
        self.signals.end();
        self.over.send_replace(true);
        self.to_settle.notify_one();
    }

    pub(crate) fn end_reason(&self) -> ReceiveError {
        self.state().ended.clone().unwrap_or(ReceiveError::Closed)
    }

    /// A deliver stream is opened: its number, and the credit to begin with.
    fn opened(&self) -> (u64, Credit) {
        let mut state = self.state();
        self.signals.stream_begins();
        state.streams += 1;
        state.stream = state.streams;
        state.passed_over = 0;
        state.acks.clear();
        state.nacks.clear();
        // A request that waits may need credit that a full window does not give.
        self.changed.notify_one();
        let credit = match state.is_for_keys {
            true => {
                state.credit.opened_dry();
                Credit { messages: 0, bytes: 0 }
            }
            false => state.credit.opened(),
        };
        (state.stream, credit)
    }

    /// The connection is gone: what was not acknowledged on it comes again.
    pub(crate) fn lost(&self) {
        let mut state = self.state();
        state.stream = NO_STREAM;
        state.acks.clear();
        state.nacks.clear();
    }

    /// Acknowledgements, refusals and credit that are to be sent now.
    fn take_outgoing(&self) -> (Vec<u64>, Vec<(u64, Nack)>, Option<Credit>) {
        let is_asking = self.is_asking();
        let mut state = self.state();
        let credit = match state.passed_over {
            _ if state.is_for_keys && !is_asking => None,
            ..PASSED_OVER_MAX if state.is_for_keys => state.credit.lend(LENT),
            0 if !is_asking => state.credit.take(),
            ..PASSED_OVER_MAX if is_asking => state.credit.take_or_lend(LENT),
            // What would come is passed over as well, until the subscription is renewed.
            _ => None,
        };
        (std::mem::take(&mut state.acks), std::mem::take(&mut state.nacks), credit)
    }

    /// Whether something is to be sent that somebody waits for: credit without which less may come, or a refusal. Nobody waits
    /// for an acknowledgement.
    fn is_pressing(&self) -> bool {
        if self.is_asking() || self.signals.is_credit_due() || self.is_to_renew() {
            return true;
        }
        let state = self.state();
        !state.nacks.is_empty() || state.passed_over > 0 || state.is_for_keys || state.credit.is_worth_it()
    }

    /// Whether the subscription is to be made anew, because messages were passed over: when the application reads and holds
    /// nothing more, since the node takes the first message that is unanswered for a failed delivery when a subscription ends, and
    /// that must not be one that is being worked on. Or when as many were passed over as may be, and a request still waits.
    fn is_to_renew(&self) -> bool {
        let is_asking = self.is_asking();
        let state = self.state();
        let reads = state.queue.is_none() && state.sender.is_some();
        state.passed_over > 0 && reads && state.credit.is_empty()
            || state.passed_over >= PASSED_OVER_MAX && is_asking && state.sender.is_some()
    }

    /// Whether the connection that ended just now was ended to renew the subscription.
    pub(crate) fn has_renewed(&self) -> bool {
        self.renews.swap(false, Ordering::AcqRel)
    }

    /// A message that holds: gives the delivery if the application is to see it now.
    fn present(self: &Arc<Self>, opened: Opened, span: &DeliveredSpan, stream: u64) -> Option<Delivery> {
        let from = opened.identity.record.agent_id();
        let envelope_bytes = span.envelope.len();
        let place = Place { mailbox_sequence: span.mailbox_sequence, stream };
        self.counters.verified.add(1);
        self.counters.sessions_accepted.add(usize::from(opened.accepted));
        let (framing, payload) = Framing::strip(opened.kind, opened.payload);
        let found = match opened.kind {
            Kind::Direct => self_destruct::found(payload, clock::now_ms()),
            _ => Found::Plain(payload),
        };
        let is_over = matches!(found, Found::Over);
        let (payload, self_destructing, fuse) = match found {
            Found::Plain(payload) => (payload, None, None),
            Found::Destructing(message, fuse) => (Bytes::new(), Some(message), Some(fuse)),
            Found::Over => (Bytes::new(), None, None),
        };
        // One of a later version is told to its request, if there is one; else it is shown as it came.
        let is_unreadable = opened.kind == Kind::Response && framing == Framing::Malformed;
        let is_answer = framing.is_answer() || is_unreadable && self.waiting.is_asked(opened.correlation_id, from);
        let mut state = self.state();
        let has_room = state.has_room();
        state.credit.arrived(envelope_bytes);
        match state.window.arrived(from, opened.message_id, place) {
            Arrival::Fresh if !is_answer && !has_room => {
                state.pass_over(from, opened.message_id, envelope_bytes);
                if state.is_for_keys {
                    // Nobody looks at it: it must not count as what this process died of.
                    state.answer(Some(place), Some(Nack::Untouched));
                }
                drop(state);
                self.counters.passed_over.add(1);
                self.changed.notify_one();
                return None;
            }
            Arrival::Fresh if is_over => {
                // Whoever sent it wants it gone: the node forgets it, too.
                let place = state.window.acknowledged(from, opened.message_id);
                self.done(&mut state, opened.session, place, None);
                state.credit.finished(envelope_bytes);
                drop(state);
                self.counters.self_destructed.add(1);
                self.changed.notify_one();
                return None;
            }
            Arrival::Fresh
                if state.repeats.is_repeated(from, opened.message_id, opened.kind, opened.correlation_id, &payload) =>
            {
                // Its sender did not know that the first one had arrived.
                let place = state.window.acknowledged(from, opened.message_id);
                self.done(&mut state, opened.session, place, None);
                state.credit.finished(envelope_bytes);
                drop(state);
                self.counters.duplicates_hidden.add(1);
                self.changed.notify_one();
                return None;
            }
            Arrival::Fresh => {
                if state.credit.is_dry() {
                    // An answer may stand behind it.
                    self.changed.notify_one();
                }
            }
            known => {
                if known == Arrival::Settled {
                    self.done(&mut state, opened.session, Some(place), None);
                }
                state.credit.finished(envelope_bytes);
                drop(state);
                self.counters.duplicates_hidden.add(1);
                self.changed.notify_one();
                return None;
            }
        }
        drop(state);
        let body_bytes = payload.len();
        let digest = opened.envelope_sha256;
        let confirms = opened.wants_receipt && self.receipts.is_some();
        let due = |kind, envelope_sha256| {
            Box::new(Due {
                kind,
                to: opened.identity.record.name.clone(),
                to_id: from,
                message_id: opened.message_id,
                priority: opened.priority,
                envelope_sha256,
                session: opened.session,
                envelope_bytes,
            })
        };
        if let Some(envelope_sha256) = digest.filter(|_| opened.wants_delivered) {
            self.tell_delivered(*due(ReceiptKind::Delivered, envelope_sha256));
        }
        let receipt = digest.filter(|_| confirms).map(|envelope_sha256| due(ReceiptKind::Done, envelope_sha256));
        let delivery = Delivery {
            from: opened.identity.record.name.clone(),
            from_id: from,
            message_id: opened.message_id,
            payload,
            timestamp_ms: opened.timestamp_ms,
            correlation_id: (!opened.correlation_id.is_zero()).then_some(opened.correlation_id),
            kind: opened.kind,
            priority: opened.priority,
            attempt: span.attempt,
            mailbox_sequence: span.mailbox_sequence,
            receipt_wanted: opened.wants_receipt,
            span: self.submitter.tracer.process(
                Ends { me: self.submitter.keys.name().as_str(), other: opened.identity.record.name.as_str() },
                (opened.kind, opened.message_id, span.attempt),
                body_bytes,
                opened.trace.as_deref(),
            ),
            trace: opened.trace.map(|trace| *trace),
            self_destructing,
            framing,
            envelope_sha256: digest,
            proof: opened.proof,
            token: Token {
                inbox: Arc::downgrade(self),
                from,
                message_id: opened.message_id,
                session: opened.session,
                envelope_bytes,
                receipt,
                fuse,
                finished: AtomicBool::new(false),
            },
        };
        if is_answer {
            self.answered(delivery);
            return None;
        }
        Some(delivery)
    }

    /// A message that does not hold: counted and reported, neither shown nor acknowledged.
    fn refuse(self: &Arc<Self>, refused: Refused, span: &DeliveredSpan, stream: u64) {
        self.counters.rejected(refused.code);
        let incident = Incident {
            code: refused.code,
            claimed_sender: refused.from,
            message_id: refused.message_id,
            mailbox_sequence: span.mailbox_sequence,
            attempt: span.attempt,
            stream,
            inbox: Arc::downgrade(self),
        };
        tracing::warn!(%incident, "a delivered message was refused");
        let mut state = self.state();
        state.credit.arrived(span.envelope.len());
        state.credit.finished(span.envelope.len());
        drop(state);
        self.changed.notify_one();
        // Nobody may be listening; it is counted all the same.
        let _ = self.incidents.send(incident);
    }

    fn finished(&self, token: &Token, answer: Answer) {
        // With a receipt to send, the node is told when that one is durable.
        let is_confirmed_first =
            answer == Answer::Done && token.receipt.as_deref().is_some_and(|due| self.confirm(due));
        if !is_confirmed_first {
            self.conclude(token.from, token.message_id, token.session, token.envelope_bytes, answer);
        }
    }

    /// The application is done with a message: acknowledged, refused, or to come again.
    fn conclude(
        &self,
        from: AgentId,
        message_id: MessageId,
        session: Option<SessionUse>,
        envelope_bytes: usize,
        answer: Answer,
    ) {
        let mut state = self.state();
        match answer {
            Answer::Done | Answer::Discarded => {
                let place = state.window.acknowledged(from, message_id);
                self.done(&mut state, session, place, None);
                self.counters.consumer_acknowledged.add(usize::from(answer == Answer::Done));
            }
            // It is shown again when it comes again, which the node decides.
            Answer::Nack(nack) => {
                let place = state.window.released(from, message_id);
                self.done(&mut state, session, place, Some(nack));
                match nack {
                    Nack::Later { .. } => self.counters.consumer_nacked.add(1),
                    Nack::Never { .. } => self.counters.consumer_rejected.add(1),
                    Nack::Untouched => {}
                }
            }
            Answer::Dropped => drop(state.window.released(from, message_id)),
        }
        state.credit.finished(envelope_bytes);
        drop(state);
        self.changed.notify_one();
    }

    /// A message that does not hold is acknowledged, or refused.
    fn dismissed(&self, incident: &Incident, nack: Option<Nack>) -> bool {
        let mut state = self.state();
        let here = state.stream == incident.stream;
        // Discarding is the application's doing, one by one; still nothing grows without a bound.
        if here && state.acks.len() + state.nacks.len() < creto_envelope::limits::CREDIT_MESSAGES_MAX as usize {
            state.answer(Some(Place { mailbox_sequence: incident.mailbox_sequence, stream: incident.stream }), nack);
            drop(state);
            self.changed.notify_one();
            return true;
        }
        false
    }

    /// Nothing is dropped under this lock that could want the lock itself.
    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().expect(UNPOISONED)
    }

    fn sender(&self) -> Option<mpsc::Sender<Delivery>> {
        self.state().sender.clone()
    }
}

impl fmt::Debug for Inbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Inbox").field("me", &self.me).finish_non_exhaustive()
    }
}
