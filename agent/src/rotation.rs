//! Replacing the agent's encryption key, on a schedule, on demand, or because it may be in foreign hands.
//!
//! ```text
//! own record from the node -> reconcile with the file -> next key saved -> KeyRecordPublish -> Published -> saved
//! ```
//!
//! Every step is on disk before the next one. Wherever a process dies, the next one finds with its first connection what
//! the node has, and publishes the saved key, adopts it, or drops it.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use creto_envelope::control::{KeyRecordPublish, RotationMode};
use creto_envelope::{KeyId, RejectCode};
use tokio::sync::{Notify, oneshot, watch};
use tokio::time::{Instant, sleep, timeout, timeout_at};

use crate::clock;
use crate::directory::{CURRENT, Directory, Identity};
use crate::error::{KeysError, LookupError, RotateError};
use crate::keys::{AgentKeys, Standing};
use crate::limits::{KEYS_LOOKED_AFTER, PREKEYS_LOST_PAUSE, ROTATE_TIMEOUT};
use crate::stats::{Counters, UNPOISONED};
use crate::stream::Refusal;
use crate::worker::offload;

#[cfg(test)]
mod tests;

/// How often an agent replaces its encryption key by itself. Each agent has a moment of its own, so that a fleet does not
/// do it at once.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum RotationSchedule {
    /// Only when it is told to.
    #[default]
    Off,
    /// Every hour.
    Hourly,
    /// Every day.
    Daily,
    /// Every week.
    Weekly,
}

impl RotationSchedule {
    const fn period_ms(self) -> Option<u64> {
        match self {
            Self::Off => None,
            Self::Hourly => Some(3_600_000),
            Self::Daily => Some(86_400_000),
            Self::Weekly => Some(7 * 86_400_000),
        }
    }

    /// When a key that was made at `made_ms` is due to be replaced: up to a sixteenth of the period early, by agent.
    fn due_ms(self, made_ms: u64, agent: &creto_envelope::AgentId) -> u64 {
        let Some(period_ms) = self.period_ms() else { return u64::MAX };
        let early_ms = period_ms / 16 * u64::from(agent.0[15]) / 256;
        made_ms.saturating_add(period_ms - early_ms)
    }
}

/// A key that was replaced.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct KeyRotation {
    /// The version of the key record that is current now.
    pub version: u32,
    /// The id of the encryption key that is current now.
    pub key_id: KeyId,
    /// From handing the record to the connection to the node's word that it is durable and counts.
    pub published_in: Duration,
}

/// A record starts this long ago, so that a node whose clock is behind takes it.
const VALID_BEFORE_MS: u64 = 300_000;
/// Longest pause before a publish is tried again that the node refused for now.
const RETRY_MAX: Duration = Duration::from_secs(5);

/// Replaces the keys of one agent, one at a time.
#[derive(Debug)]
pub(crate) struct Rotor {
    keys: Arc<AgentKeys>,
    directory: Arc<Directory>,
    counters: Arc<Counters>,
    schedule: RotationSchedule,
    grace_ms: u64,
    turn: tokio::sync::Mutex<()>,
    exchange: Mutex<Exchange>,
    /// Wakes the control stream's writer: there is a record to publish.
    asked: Notify,
    connected: Notify,
    /// Woken when the key was replaced: its prekeys are of no use any more.
    replaced: Arc<Notify>,
    /// The version whose key is to be replaced, whatever the schedule says.
    wanted: watch::Receiver<u32>,
}

/// The one publish that may be on its way.
#[derive(Debug, Default)]
enum Exchange {
    #[default]
    Idle,
    /// Not written yet.
    Asked(Vec<u8>, oneshot::Sender<Answer>),
    /// Written; the node owes an answer.
    Sent(oneshot::Sender<Answer>),
    Closed,
}

#[derive(Debug)]
enum Answer {
    Published(u32),
    Refused { code: Result<RejectCode, u16>, retry_after: Duration },
    Lost,
    Closed,
}

impl Rotor {
    pub(crate) fn new(
        keys: Arc<AgentKeys>,
        directory: Arc<Directory>,
        counters: Arc<Counters>,
        schedule: RotationSchedule,
        grace: Duration,
        replaced: Arc<Notify>,
        wanted: watch::Receiver<u32>,
    ) -> Self {
        Self {
            keys,
            directory,
            counters,
            schedule,
            grace_ms: u64::try_from(grace.as_millis()).unwrap_or(u64::MAX),
            turn: tokio::sync::Mutex::default(),
            exchange: Mutex::default(),
            asked: Notify::new(),
            connected: Notify::new(),
            replaced,
            wanted,
        }
    }

    /// Makes a new key, saves it, and has the node go by it.
    pub(crate) async fn rotate(&self, mode: RotationMode) -> Result<KeyRotation, RotateError> {
        if self.keys.file().is_none() {
            return Err(KeysError::NoFile { name: self.keys.name().to_string() }.into());
        }
        let until = Instant::now() + ROTATE_TIMEOUT;
        let _turn = timeout_at(until, self.turn.lock()).await.map_err(|_| RotateError::TimedOut)?;
        let (own, standing) = self.reconcile().await?;
        // Two copies of a key file that take turns would lock each other's mail away; in an emergency that is the point.
        if standing == Standing::Behind && mode == RotationMode::Planned {
            return Err(RotateError::Behind { node_version: own.record.version });
        }
        let (keys, version) = (Arc::clone(&self.keys), own.record.version);
        offload(move || keys.begin_rotation(mode, version)).await?;
        self.publish_pending(own, until).await
    }

    /// What the node says about this agent, and how the keys stand to it.
    async fn reconcile(&self) -> Result<(Arc<Identity>, Standing), RotateError> {
        self.directory.forget_current(self.keys.id());
        let own = self.directory.lookup(self.keys.id(), CURRENT).await.map_err(|error| match error {
            LookupError::Closed => RotateError::Closed,
            error => error.into(),
        })?;
        let (keys, version, key) = (Arc::clone(&self.keys), own.record.version, own.record.key_id());
        let standing = offload(move || keys.reconcile(version, key)).await?;
        if standing == Standing::Behind {
            tracing::error!(
                version,
                "the node has a newer key of this agent than the key file: what is sealed to it cannot be opened here"
            );
        }
        Ok((own, standing))
    }

    /// Publishes the key that is saved, over as many connections as it takes.
    async fn publish_pending(&self, mut own: Arc<Identity>, until: Instant) -> Result<KeyRotation, RotateError> {
        loop {
            // As long as the record before it, from now on.
            let lifetime_ms = own.record.valid_until_ms.saturating_sub(own.record.valid_from_ms);
            let valid_from_ms = clock::now_ms().saturating_sub(VALID_BEFORE_MS);
            let keys = Arc::clone(&self.keys);
            let signed =
                offload(move || keys.pending_record(valid_from_ms, valid_from_ms.saturating_add(lifetime_ms))).await;
            let Some((mode, record)) = signed else {
                // The node had it after all.
                return Ok(self.rotated(Duration::ZERO));
            };
            let mut frame = Vec::new();
            KeyRecordPublish { mode, record }.encode(&mut frame);
            let began = Instant::now();
            let answer = timeout_at(until, self.exchange(frame)).await.map_err(|_| RotateError::TimedOut)?;
            match answer {
                Answer::Published(version) => {
                    let published_in = began.elapsed();
                    let keys = Arc::clone(&self.keys);
                    offload(move || keys.rotation_published(version)).await?;
                    self.counters.keys_rotated.add(1);
                    self.replaced.notify_one();
                    tracing::info!(version, ?mode, "the encryption key was replaced");
                    return Ok(self.rotated(published_in));
                }
                Answer::Refused { code: Ok(code), retry_after } if code.is_retryable() => {
                    let pause = retry_after.clamp(Duration::from_millis(50), RETRY_MAX);
                    if Instant::now() + pause >= until {
                        return Err(RotateError::Refused(code));
                    }
                    sleep(pause).await;
                }
                Answer::Refused { code: Ok(RejectCode::RotationVersion), .. } | Answer::Lost => {}
                Answer::Refused { code: Ok(code), .. } => return Err(RotateError::Refused(code)),
                Answer::Refused { code: Err(number), .. } => return Err(RotateError::RefusedWith(number)),
                Answer::Closed => return Err(RotateError::Closed),
            }
            // Whatever happened, what the node has decides how it goes on.
            loop {
                match timeout_at(until, self.reconcile()).await.map_err(|_| RotateError::TimedOut)? {
                    Ok((_, Standing::Behind)) => {
                        return Err(RotateError::Refused(RejectCode::RotationVersion));
                    }
                    Ok((identity, _)) => {
                        own = identity;
                        break;
                    }
                    Err(RotateError::Lookup(LookupError::TimedOut { .. })) => {}
                    Err(error) => return Err(error),
                }
            }
        }
    }

    fn rotated(&self, published_in: Duration) -> KeyRotation {
        KeyRotation { version: self.keys.record_version(), key_id: self.keys.key_id(), published_in }
    }

    async fn exchange(&self, frame: Vec<u8>) -> Answer {
        let (reply, answer) = oneshot::channel();
        {
            let mut exchange = self.exchange.lock().expect(UNPOISONED);
            if matches!(*exchange, Exchange::Closed) {
                return Answer::Closed;
            }
            *exchange = Exchange::Asked(frame, reply);
        }
        self.asked.notify_one();
        answer.await.unwrap_or(Answer::Closed)
    }

    /// The next record for the control stream, waiting for one.
    pub(crate) async fn next_frame(&self) -> Vec<u8> {
        loop {
            let asked = self.asked.notified();
            {
                let mut exchange = self.exchange.lock().expect(UNPOISONED);
                match std::mem::take(&mut *exchange) {
                    Exchange::Asked(frame, reply) => {
                        *exchange = Exchange::Sent(reply);
                        return frame;
                    }
                    other => *exchange = other,
                }
            }
            asked.await;
        }
    }

    /// The node has a record of this version. Late answers are nobody's.
    pub(crate) fn published(&self, version: u32) {
        self.answer(Answer::Published(version));
    }

    /// The node refused something about this agent. Says whether it was the publish.
    pub(crate) fn refused(&self, refusal: &Refusal) -> bool {
        // These are answers to questions only, and a question about oneself may be open beside a publish.
        let of_a_question = matches!(
            refusal.code,
            Ok(RejectCode::UnknownAgent | RejectCode::UnknownKeyVersion | RejectCode::PolicyDenied)
        );
        if refusal.context != self.keys.id().0 || of_a_question {
            return false;
        }
        let retry_after = Duration::from_millis(refusal.retry_after_ms.into());
        self.answer(Answer::Refused { code: refusal.code, retry_after })
    }

    fn answer(&self, answer: Answer) -> bool {
        let mut exchange = self.exchange.lock().expect(UNPOISONED);
        match std::mem::take(&mut *exchange) {
            Exchange::Sent(reply) => {
                // Whoever asked may have stopped waiting.
                let _ = reply.send(answer);
                true
            }
            other => {
                *exchange = other;
                false
            }
        }
    }

    /// A connection is there.
    pub(crate) fn connected(&self) {
        self.connected.notify_one();
    }

    /// The connection is gone; nobody knows what became of what was written.
    pub(crate) fn lost(&self) {
        self.answer(Answer::Lost);
    }

    /// No connection will come any more.
    pub(crate) fn close(&self) {
        let mut exchange = self.exchange.lock().expect(UNPOISONED);
        if let Exchange::Asked(_, reply) | Exchange::Sent(reply) = std::mem::replace(&mut *exchange, Exchange::Closed) {
            let _ = reply.send(Answer::Closed);
        }
    }

    /// Looks after the keys until the agent closes: settles what an earlier process left, replaces on schedule, erases.
    pub(crate) async fn look_after(self: Arc<Self>, mut closing: watch::Receiver<bool>) {
        let mut due_ms = u64::MAX;
        let mut is_settled = true;
        let mut wanted = self.wanted.clone();
        loop {
            let soon = Duration::from_millis(due_ms.saturating_sub(clock::now_ms())).min(KEYS_LOOKED_AFTER);
            let is_new_connection = tokio::select! {
                // An error means that every handle is gone: the same.
                _ = closing.wait_for(|closing| *closing) => return,
                () = self.connected.notified() => true,
                // An error means that whoever wanted it is gone.
                Ok(()) = wanted.changed() => false,
                () = sleep(soon) => false,
            };
            let work = async {
                if is_new_connection || !is_settled {
                    let settled = self.settle().await;
                    is_settled = settled.is_some();
                    due_ms = settled.unwrap_or(u64::MAX);
                }
                let is_wanted = *wanted.borrow_and_update() == self.keys.record_version();
                if is_wanted && self.may_replace_lost() || clock::now_ms() >= due_ms {
                    due_ms = self.rotate_on_schedule().await;
                }
                let (keys, grace_ms) = (Arc::clone(&self.keys), self.grace_ms);
                if let Err(error) = offload(move || keys.erase_ended(grace_ms)).await {
                    tracing::warn!(%error, "replaced keys could not be erased, and will be later");
                }
            };
            tokio::select! {
                _ = async { closing.clone().wait_for(|closing| *closing).await.map(drop) } => return,
                () = work => {}
            }
        }
    }

    /// Whether a key whose prekeys are lost is replaced. Other copies of the keys would be left behind: without a schedule somebody
    /// has to say so. And not in every process of an agent whose folder does not last.
    fn may_replace_lost(&self) -> bool {
        let pause_ms = u64::try_from(PREKEYS_LOST_PAUSE.as_millis()).unwrap_or(u64::MAX);
        let is_old = |at_ms| clock::now_ms().saturating_sub(at_ms) >= pause_ms;
        self.schedule != RotationSchedule::Off && self.keys.replaced_at_ms().is_none_or(is_old)
    }

    /// After a connect: is there a key that nobody knows to be published? When is the next one due? `None`: ask again.
    async fn settle(&self) -> Option<u64> {
        if self.keys.file().is_none() || (!self.keys.has_pending() && self.schedule == RotationSchedule::Off) {
            return Some(u64::MAX);
        }
        let settled = async {
            let _turn = self.turn.lock().await;
            let (own, standing) = self.reconcile().await?;
            match standing {
                Standing::Unpublished => {
                    self.publish_pending(own, Instant::now() + ROTATE_TIMEOUT).await?;
                    Ok::<_, RotateError>(clock::now_ms())
                }
                Standing::Level => Ok(own.record.valid_from_ms.saturating_add(VALID_BEFORE_MS)),
                // Another copy of the keys is the one that rotates.
                Standing::Behind => Ok(u64::MAX),
            }
        };
        match timeout(2 * ROTATE_TIMEOUT, settled).await {
            Ok(Ok(made_ms)) => Some(self.schedule.due_ms(made_ms, &self.keys.id())),
            Ok(Err(error)) => {
                tracing::warn!(%error, "the keys could not be held against the node's record, and will be later");
                None
            }
            Err(_) => None,
        }
    }

    async fn rotate_on_schedule(&self) -> u64 {
        match self.rotate(RotationMode::Planned).await {
            Ok(_) => self.schedule.due_ms(clock::now_ms(), &self.keys.id()),
            Err(error) => {
                tracing::warn!(%error, "the key could not be replaced although it is due, and will be later");
                clock::now_ms().saturating_add(u64::try_from(KEYS_LOOKED_AFTER.as_millis()).unwrap_or(u64::MAX))
            }
        }
    }
}
