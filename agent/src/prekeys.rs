//! Prekeys: those of this agent, made and uploaded while it receives, and those of others, claimed to open sessions to.
//!
//! ```text
//! keeper:  stock asked -> few? -> secrets on disk -> PrekeyUpload -> yes -> written down
//! sender:  session to open -> PrekeyClaim -> path, both signatures, keys checked -> session opened to it
//! ```
//!
//! All questions go over the control stream. Their answers say everything themselves, so a Reject is never one of them, but from
//! a node of a version that does not know these frames: it is asked once for each connection, and nothing more until it has
//! answered; one that ends the connection over the question is left alone for an hour. `docs/prekeys.md` has the rules.

use std::collections::{BTreeMap, VecDeque};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use creto_envelope::prekeys::{
    PrekeyClaim, PrekeyClaimed, PrekeyRefusal, PrekeyStock, PrekeyStockRequest, PrekeyStockTold, PrekeyUploaded,
    SignedPrekey,
};
use creto_envelope::{AgentId, FrameType, RejectCode};
use tokio::sync::{Notify, oneshot, watch};
use tokio::time::{Instant, sleep, timeout};

use crate::directory::{CURRENT, Directory};
use crate::error::{LookupError, PrekeyError};
use crate::keys::AgentKeys;
use crate::limits::{
    PREKEY_ANSWER_TIMEOUT, PREKEY_CLAIM_TIMEOUT, PREKEY_QUESTIONS_OPEN_MAX, PREKEYS_UNSUPPORTED_REMEMBERED,
};
use crate::receiver::sessions::IncomingSessions;
use crate::stats::{Counters, UNPOISONED};
use crate::stream::{Frame, Refusal};
use crate::worker::offload;

pub(crate) mod claimed;
mod keeper;
pub(crate) mod make;
#[cfg(test)]
mod tests;

use claimed::ClaimedPrekey;

/// What an agent does with prekeys: keys that an agent leaves with its node, each for one session.
///
/// A session that was opened to a one-time prekey stays closed to whoever steals the recipient's long-term keys later, with
/// everything that was ever sent. One that was opened to the key of its record does not.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum PrekeyPolicy {
    /// Neither makes nor claims any, and only erases what is left of earlier ones when its time is over. For an identity that several machines use in turn without sharing its state folder: what
    /// is sent to a prekey opens only where its secret half is.
    Off,
    /// Makes them, and opens sessions to those of others; to the key of the record where there is none.
    #[default]
    Prefer,
    /// As [`Prefer`](Self::Prefer), and sends nothing that was not opened to a prekey: where there is none, sending fails with
    /// [`SendError::NoPrekey`](crate::SendError::NoPrekey).
    Require,
}

type Said<T> = Result<T, PrekeyError>;

/// Everything about prekeys that outlives a connection.
#[derive(Debug)]
pub(crate) struct Prekeys {
    keys: Arc<AgentKeys>,
    counters: Arc<Counters>,
    /// Whether this agent has some of its own.
    makes: bool,
    /// Where the secret halves are while nobody receives.
    folder: Option<PathBuf>,
    wire: Mutex<Wire>,
    /// Wakes the control stream's writer: there is a question to ask.
    asked: Notify,
    /// Wakes the keeper: there is a connection, or few are left.
    wake: Notify,
    /// Wakes whoever erases, and the keeper after that: the key was replaced.
    replaced: Arc<Notify>,
    /// The version whose key is to be replaced, because the node hands out prekeys of it whose secret halves are gone. Zero: none.
    to_replace: watch::Sender<u32>,
    waits: Waits,
    /// Whether there is a connection, for clocks that stand still without.
    connection: watch::Sender<bool>,
    /// Where the secret halves are, once this process receives.
    store: watch::Sender<Option<Arc<IncomingSessions>>>,
    /// Held by whoever erases: one that finds the file in use by another would go away before it is done.
    erasing: tokio::sync::Mutex<()>,
    /// Whether the keeper is at work.
    is_busy: watch::Sender<bool>,
}

/// How long what is waited for, or remembered.
#[derive(Clone, Copy, Debug)]
struct Waits {
    claim: Duration,
    answer: Duration,
    unsupported: Duration,
}

impl Waits {
    const PRODUCTION: Self = Self {
        claim: PREKEY_CLAIM_TIMEOUT,
        answer: PREKEY_ANSWER_TIMEOUT,
        unsupported: PREKEYS_UNSUPPORTED_REMEMBERED,
    };
}

#[derive(Debug, Default)]
struct Wire {
    node: Speaks,
    is_connected: bool,
    /// Questions that were asked on this connection and not answered.
    on_the_way: usize,
    upload: Exchange<u32>,
    stock: Exchange<PrekeyStock>,
    /// One of each agent at a time.
    claims: BTreeMap<AgentId, Vec<oneshot::Sender<Said<SignedPrekey>>>>,
    /// Of whom one must be claimed on this connection.
    to_claim: VecDeque<AgentId>,
    /// When the node ended the connection over a question, if it did.
    never_since: Option<Instant>,
    is_closed: bool,
}

/// Whether the node at the other end knows prekeys.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
enum Speaks {
    #[default]
    Unknown,
    /// One question is open, and its answer says it.
    Asked,
    Yes,
    No,
    /// Not even the frames: it ends the connection over one. It is not asked again for a while.
    Never,
}

/// The one question of a kind that may be open.
#[derive(Debug, Default)]
enum Exchange<T> {
    #[default]
    Idle,
    /// Not written yet.
    Asked(Vec<u8>, oneshot::Sender<Said<T>>),
    /// Written; the node owes an answer.
    Sent(oneshot::Sender<Said<T>>),
}

impl<T> Exchange<T> {
    fn take_frame(&mut self) -> Option<Vec<u8>> {
        match std::mem::take(self) {
            // Whoever asked may have stopped waiting.
            Self::Asked(frame, reply) if !reply.is_closed() => {
                *self = Self::Sent(reply);
                Some(frame)
            }
            Self::Asked(..) => None,
            other => {
                *self = other;
                None
            }
        }
    }

    fn answer(&mut self, said: Said<T>) {
        match std::mem::take(self) {
            // Whoever asked may have stopped waiting.
            Self::Sent(reply) => {
                let _ = reply.send(said);
            }
            other => *self = other,
        }
    }

    fn end(&mut self, error: &PrekeyError) {
        if let Self::Asked(_, reply) | Self::Sent(reply) = std::mem::take(self) {
            // Whoever asked may have stopped waiting.
            let _ = reply.send(Err(error.clone()));
        }
    }
}

impl Wire {
    /// Answers everything that is open.
    fn end(&mut self, error: &PrekeyError) {
        self.upload.end(error);
        self.stock.end(error);
        self.to_claim.clear();
        self.on_the_way = 0;
        for waiting in std::mem::take(&mut self.claims).into_values().flatten() {
            let _ = waiting.send(Err(error.clone()));
        }
    }

    /// The node knows no prekeys, or not even their frames.
    fn knows_none(&mut self, node: Speaks) {
        tracing::info!("this node knows no prekeys: sessions are opened to the keys of records");
        self.node = node;
        self.never_since = (node == Speaks::Never).then(Instant::now);
        self.end(&PrekeyError::Unsupported);
    }

    /// Whether a question can be asked at all.
    const fn may_ask(&self) -> Result<(), PrekeyError> {
        match self.node {
            _ if self.is_closed => Err(PrekeyError::Closed),
            Speaks::No | Speaks::Never => Err(PrekeyError::Unsupported),
            _ => Ok(()),
        }
    }
}

fn error_of(refusal: PrekeyRefusal) -> PrekeyError {
    RejectCode::from_u16(refusal.code).map_or(PrekeyError::RefusedWith(refusal.code), PrekeyError::Refused)
}

impl Prekeys {
    pub(crate) fn new(keys: Arc<AgentKeys>, counters: Arc<Counters>) -> Self {
        Self {
            keys,
            counters,
            makes: true,
            folder: None,
            wire: Mutex::default(),
            asked: Notify::new(),
            wake: Notify::new(),
            replaced: Arc::new(Notify::new()),
            to_replace: watch::Sender::new(0),
            waits: Waits::PRODUCTION,
            connection: watch::Sender::new(false),
            store: watch::Sender::new(None),
            erasing: tokio::sync::Mutex::default(),
            is_busy: watch::Sender::new(false),
        }
    }

    /// The same, as the policy says, for an agent whose secret halves are in this folder while nobody receives.
    pub(crate) fn of(self, policy: PrekeyPolicy, folder: Option<PathBuf>) -> Self {
        Self { makes: policy != PrekeyPolicy::Off, folder, ..self }
    }

    /// What is to be woken when the key was replaced.
    pub(crate) fn replaced(&self) -> Arc<Notify> {
        Arc::clone(&self.replaced)
    }

    /// The version whose key is to be replaced, said anew as long as it is not.
    pub(crate) fn to_replace(&self) -> watch::Receiver<u32> {
        self.to_replace.subscribe()
    }

    /// This process receives from now on, and these are its sessions.
    pub(crate) fn receiving(&self, sessions: &Arc<IncomingSessions>) {
        self.store.send_replace(Some(Arc::clone(sessions)));
        self.wake.notify_one();
    }

    /// Waits until what was made is uploaded, for whoever closes the agent: a batch that is cut off is of no use to anybody, and
    /// nobody knows it.
    pub(crate) async fn settled(&self) {
        // The sender lives as long as this.
        let _ = self.is_busy.subscribe().wait_for(|is_busy| !is_busy).await;
    }

    /// A prekey of `recipient` to open a session to, checked under the current record. Waits for a connection as long as it takes,
    /// and on each for [`PREKEY_CLAIM_TIMEOUT`].
    pub(crate) async fn claim(&self, directory: &Directory, recipient: AgentId) -> Said<Arc<ClaimedPrekey>> {
        let claimed = tokio::select! {
            claimed = self.claim_checked(directory, recipient) => Some(claimed),
            () = self.connected_for(self.waits.claim) => None,
        };
        let claimed = claimed.unwrap_or_else(|| {
            self.abandon(recipient);
            Err(PrekeyError::TimedOut)
        });
        match &claimed {
            Ok(claimed) => {
                self.counters.prekeys_claimed.add(1);
                self.counters.prekeys_last_resort.add(usize::from(claimed.is_last_resort()));
            }
            Err(error) => {
                self.counters.prekeys_missing.add(1);
                if let PrekeyError::Invalid { .. } = error {
                    tracing::error!(%recipient, "{error}");
                }
            }
        }
        claimed
    }

    /// Resolves when one connection has lasted so long from now on.
    async fn connected_for(&self, time: Duration) {
        let mut connection = self.connection.subscribe();
        loop {
            // The sender lives as long as this.
            let _ = connection.wait_for(|is_connected| *is_connected).await;
            tokio::select! {
                () = sleep(time) => return,
                _ = connection.wait_for(|is_connected| !is_connected) => {}
            }
        }
    }

    async fn claim_checked(&self, directory: &Directory, recipient: AgentId) -> Said<Arc<ClaimedPrekey>> {
        let mut is_second = false;
        loop {
            let signed = self.ask_claim(recipient).await?;
            let lookup = || async { directory.lookup(recipient, CURRENT).await.map_err(PrekeyError::Record) };
            let mut identity = lookup().await?;
            let version = signed.signature.key_record_version;
            if version > identity.record.version {
                directory.forget_current(recipient);
                identity = lookup().await?;
            }
            if version < identity.record.version && !is_second {
                // Its owner has another key since: the next one belongs to that.
                is_second = true;
                continue;
            }
            return offload(move || ClaimedPrekey::check(&signed, identity)).await.map(Arc::new);
        }
    }

    async fn ask_claim(&self, agent: AgentId) -> Said<SignedPrekey> {
        let answer = {
            let mut wire = self.wire();
            wire.may_ask()?;
            let (reply, answer) = oneshot::channel();
            let waiting = wire.claims.entry(agent).or_default();
            let is_new = waiting.is_empty();
            waiting.push(reply);
            // Without a connection: the next one asks.
            if is_new && wire.is_connected {
                wire.to_claim.push_back(agent);
            }
            answer
        };
        self.asked.notify_one();
        answer.await.unwrap_or(Err(PrekeyError::Closed))
    }

    /// Nobody waits for a claim any more.
    fn abandon(&self, agent: AgentId) {
        let mut wire = self.wire();
        if wire.claims.get(&agent).is_some_and(|waiting| waiting.iter().all(oneshot::Sender::is_closed)) {
            wire.claims.remove(&agent);
        }
    }

    /// Asks one question of the keeper; `of` is where questions of its kind are. A node that does not answer in
    /// [`PREKEY_ANSWER_TIMEOUT`] is not asked another one of that kind before it has, or the connection is another one: its late
    /// answer would be taken for that to the next question.
    async fn ask<T>(&self, of: impl Fn(&mut Wire) -> &mut Exchange<T>, frame: Vec<u8>) -> Said<T> {
        let answer = {
            let mut wire = self.wire();
            wire.may_ask()?;
            if !wire.is_connected {
                return Err(PrekeyError::TimedOut);
            }
            let (reply, answer) = oneshot::channel();
            let exchange = of(&mut wire);
            if matches!(exchange, Exchange::Sent(_)) {
                return Err(PrekeyError::TimedOut);
            }
            *exchange = Exchange::Asked(frame, reply);
            answer
        };
        self.asked.notify_one();
        match timeout(self.waits.answer, answer).await {
            Ok(said) => said.unwrap_or(Err(PrekeyError::Closed)),
            Err(_) => Err(PrekeyError::TimedOut),
        }
    }

    async fn ask_stock(&self) -> Said<PrekeyStock> {
        let mut frame = Vec::new();
        PrekeyStockRequest.encode(&mut frame);
        self.ask(|wire| &mut wire.stock, frame).await
    }

    async fn ask_upload(&self, frame: Vec<u8>) -> Said<u32> {
        self.ask(|wire| &mut wire.upload, frame).await
    }

    /// The next question for the control stream, waiting for one.
    pub(crate) async fn next_frame(&self) -> Vec<u8> {
        loop {
            let asked = self.asked.notified();
            if let Some(frame) = self.take_frame() {
                return frame;
            }
            asked.await;
        }
    }

    fn take_frame(&self) -> Option<Vec<u8>> {
        let mut wire = self.wire();
        let is_open = match wire.node {
            Speaks::Unknown => true,
            Speaks::Yes => wire.on_the_way < PREKEY_QUESTIONS_OPEN_MAX,
            Speaks::Asked | Speaks::No | Speaks::Never => false,
        };
        if !is_open || !wire.is_connected {
            return None;
        }
        let frame = match wire.upload.take_frame() {
            Some(frame) => Some(frame),
            None => wire.stock.take_frame(),
        };
        let frame = frame.or_else(|| {
            loop {
                let agent = wire.to_claim.pop_front()?;
                if wire.claims.contains_key(&agent) {
                    let mut frame = Vec::new();
                    PrekeyClaim { agent }.encode(&mut frame);
                    return Some(frame);
                }
            }
        })?;
        wire.on_the_way += 1;
        if wire.node == Speaks::Unknown {
            wire.node = Speaks::Asked;
        }
        Some(frame)
    }

    /// A frame about prekeys came.
    ///
    /// # Errors
    /// The code under which the node broke the protocol.
    pub(crate) fn answered(&self, frame: &Frame) -> Result<(), RejectCode> {
        let mut wire = self.wire();
        match frame.frame_type {
            FrameType::PrekeyUploaded => {
                let PrekeyUploaded { answer } = PrekeyUploaded::parse(&frame.body)?;
                wire.upload.answer(answer.map_err(error_of));
            }
            FrameType::PrekeyClaimed => {
                let PrekeyClaimed { agent, answer } = PrekeyClaimed::parse(&frame.body)?;
                let answer = answer.map_err(error_of);
                let mut waiting = wire.claims.remove(&agent).unwrap_or_default();
                waiting.retain(|waiting| !waiting.is_closed());
                // Each is for one: whoever asked later for the same agent is asked for again.
                if !waiting.is_empty() {
                    // It waits: whoever had stopped waiting is gone from the list.
                    let _ = waiting.remove(0).send(answer);
                }
                if !waiting.is_empty() {
                    wire.claims.insert(agent, waiting);
                    wire.to_claim.push_back(agent);
                }
            }
            _ => {
                let PrekeyStockTold { answer } = PrekeyStockTold::parse(&frame.body)?;
                if answer.is_ok_and(|stock| stock.is_notice) {
                    // Not an answer.
                    drop(wire);
                    self.wake.notify_one();
                    return Ok(());
                }
                wire.stock.answer(answer.map_err(error_of));
            }
        }
        wire.node = Speaks::Yes;
        wire.on_the_way = wire.on_the_way.saturating_sub(1);
        drop(wire);
        // There is room for another question.
        self.asked.notify_one();
        Ok(())
    }

    /// The node refused something. Says whether it was a question about prekeys: only a node that knows none of these frames
    /// refuses one.
    pub(crate) fn refused(&self, refusal: &Refusal) -> bool {
        let node = match refusal.code {
            Ok(RejectCode::FrameUnexpected) => Speaks::No,
            Ok(RejectCode::FrameUnknownType) => Speaks::Never,
            _ => return false,
        };
        let mut wire = self.wire();
        if refusal.context != [0; 16] || wire.node != Speaks::Asked {
            return false;
        }
        wire.knows_none(node);
        true
    }

    /// The node closes the connection with this code. One that does not know the frames writes a refusal first, which may be lost
    /// with the connection.
    pub(crate) fn ended_with(&self, code: RejectCode) {
        let mut wire = self.wire();
        if code == RejectCode::FrameUnknownType && wire.node == Speaks::Asked {
            wire.knows_none(Speaks::Never);
        }
    }

    /// A new connection: claims are made again, the keeper looks again.
    pub(crate) fn connected(&self) {
        let mut wire = self.wire();
        // It may be a newer version by now.
        let is_over = |since: Instant| since.elapsed() >= self.waits.unsupported;
        if wire.node != Speaks::Never || wire.never_since.is_none_or(is_over) {
            wire.node = Speaks::Unknown;
        }
        wire.is_connected = true;
        self.connection.send_replace(true);
        wire.on_the_way = 0;
        wire.to_claim = wire.claims.keys().copied().collect();
        drop(wire);
        self.asked.notify_one();
        self.wake.notify_one();
    }

    /// The connection is gone: nobody knows what became of what was written.
    pub(crate) fn lost(&self) {
        let mut wire = self.wire();
        wire.is_connected = false;
        self.connection.send_replace(false);
        wire.to_claim.clear();
        wire.upload.end(&PrekeyError::TimedOut);
        wire.stock.end(&PrekeyError::TimedOut);
    }

    /// No connection will come any more.
    pub(crate) fn close(&self) {
        let mut wire = self.wire();
        wire.is_closed = true;
        wire.is_connected = false;
        wire.end(&PrekeyError::Closed);
    }

    fn wire(&self) -> MutexGuard<'_, Wire> {
        self.wire.lock().expect(UNPOISONED)
    }
}

impl From<LookupError> for PrekeyError {
    fn from(error: LookupError) -> Self {
        Self::Record(error)
    }
}
