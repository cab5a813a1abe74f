//! The node's key log, as this agent sees it: no key record is used before the node has shown that it is a leaf of a log that grew
//! out of the one that was seen last, and nobody gets a record of this agent that it did not make without its noticing.
//!
//! ```text
//! record from the node -> KeyProofRequest -> KeyProof -> both signatures, grown out of what was seen -> on disk -> in the tree
//! soon after a connect, and every ten minutes -> every new leaf -> the signed tree -> no record of ours that our keys did not sign
//! ```
//!
//! The log's keys are those that were seen first, over a connection to the certificate that the agent was given. What was seen is
//! in a file (`file.rs`), so that a restart forgets nothing.

use std::collections::{BTreeMap, VecDeque};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use creto_envelope::key_log::{KeyLeaves, KeyLeavesRequest, KeyLogRefusal, KeyProof, KeyProofRequest, ProvenKey};
use creto_envelope::limits::KEY_LEAVES_MAX;
use creto_envelope::{AgentId, KeyId, KeyRecord, RejectCode};
use creto_transparency::{Evidence, KeyLeaf, KeyLogError, Scan, ScanSelf, Watch};
use tokio::sync::{Notify, oneshot, watch};
use tokio::time::{sleep, timeout};

use crate::clock;
use crate::error::{KeyLogFileError, LookupError};
use crate::keys::AgentKeys;
use crate::limits::{
    KEY_LOG_LOOKS_MISSED_MAX, KEY_LOG_OVERTAKEN_MAX, KEY_LOG_PROOFS_OPEN_MAX, KEY_LOG_READ_AFTER, KEY_LOG_READ_EVERY,
    KEY_LOG_TRIES_MAX, KEY_RECORD_TIMEOUT,
};
use crate::stats::{Counters, UNPOISONED};
use crate::worker::{offload, on_disk};

mod file;
#[cfg(test)]
mod tests;

pub use file::KEY_LOG_FILE_FORMAT;

/// How a key record stands in the node's key log.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct KeyPlace {
    /// Which leaf.
    pub index: u64,
    /// Leaves of the signed head that it was proven under.
    pub size: u64,
    /// Root of the tree of that head.
    pub root: [u8; 32],
    /// When the leaf was written, by the node's clock, Unix milliseconds.
    pub time_ms: u64,
}

/// What this agent has seen of the node's key log.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub struct KeyLogStatus {
    /// The newest signed head, as a note that others can verify; none before the first proof.
    pub head: Option<String>,
    /// Public keys of the log, in the form of `audit.pub`; none before the first proof.
    pub keys: Option<String>,
    /// Leaves of the newest signed head.
    pub size: u64,
    /// Leaves that were read, and found to be those of a signed head.
    pub read: u64,
    /// Looks at the log in succession that the node, though connected, did not let this agent finish.
    pub looks_missed: u32,
    /// What was found that no honest node does. No further key is used until the agent is started anew; after
    /// [`KeyLogError::Withheld`] until the node lets it look.
    pub alarm: Option<KeyLogError>,
}

type Answer = Result<KeyPlace, LookupError>;

/// The key log of one agent's node.
pub(crate) struct KeyLog {
    own: Own,
    file: Option<PathBuf>,
    counters: Arc<Counters>,
    state: Mutex<State>,
    /// Wakes the control stream's writer: there is a question to ask.
    asked: Notify,
    connected: Notify,
    /// One reader of leaves at a time.
    turn: tokio::sync::Mutex<()>,
    /// When new leaves are read.
    pace: Pace,
    /// One writer of the file at a time, and what it wrote.
    saved: tokio::sync::Mutex<Extent>,
}

#[derive(Clone, Copy, Debug)]
struct Pace {
    /// After a connect, and after a look that came to nothing, at the latest.
    after: Duration,
    /// Otherwise.
    every: Duration,
}

/// Leaves of the newest head, and of those that were read.
type Extent = (u64, u64);

#[derive(Debug, Default)]
struct State {
    watch: Option<Watch>,
    /// The leaves that were read, up to a head.
    scan: Scan,
    /// Those that were read since, and do not reach the next head yet: they may be anything.
    reading: Option<Scan>,
    /// Looks in succession that came to nothing although there was a connection.
    looks_missed: u32,
    is_connected: bool,
    alarm: Option<KeyLogError>,
    open: BTreeMap<(AgentId, u32), Open>,
    /// Records whose proof must be asked for on this connection.
    to_ask: VecDeque<(AgentId, u32)>,
    /// Proofs that were asked for on this connection and have not come.
    on_the_way: usize,
    /// The one that is on its way was overtaken before: nothing else is asked for until it comes.
    is_alone: bool,
    leaves: Page,
    is_closed: bool,
}

impl State {
    fn extent(&self) -> Extent {
        (self.watch.as_ref().map_or(0, Watch::size), self.scan.size())
    }

    /// Why no key is used.
    fn alarm(&self) -> Option<KeyLogError> {
        let withheld = || {
            let (size, read) = self.extent();
            let looks = self.looks_missed;
            (looks >= KEY_LOG_LOOKS_MISSED_MAX).then_some(KeyLogError::Withheld { looks, read, size })
        };
        self.alarm.clone().or_else(withheld)
    }
}

/// A proof that somebody waits for.
#[derive(Debug, Default)]
struct Open {
    /// Leaves of the head that it was asked against, once it was.
    seen: Option<u64>,
    tries: u32,
    /// How often another proof brought a newer head before the answer came.
    overtaken: u32,
    waiting: Vec<(Wanted, oneshot::Sender<Answer>)>,
}

impl Open {
    fn is_abandoned(&self) -> bool {
        self.waiting.iter().all(|(_, waiting)| waiting.is_closed())
    }
}

/// What is to be proven.
#[derive(Debug)]
enum Wanted {
    /// Exactly this record.
    Record(Box<KeyRecord>),
    /// A record that this agent's own keys have signed; and the log's keys are compared.
    Own,
}

/// The one page of leaves that may be asked for.
#[derive(Debug, Default)]
enum Page {
    #[default]
    Idle,
    Asked(KeyLeavesRequest, oneshot::Sender<KeyLeaves>),
    Sent(oneshot::Sender<KeyLeaves>),
}

/// What an agent knows of itself.
struct Own(Arc<AgentKeys>);

impl ScanSelf for Own {
    fn agent(&self) -> AgentId {
        self.0.id()
    }

    fn signing(&self) -> [u8; 32] {
        self.0.signing_fingerprint()
    }

    fn key_id(&self, version: u32) -> Option<KeyId> {
        self.0.key_id_of(version)
    }
}

impl std::fmt::Debug for KeyLog {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("KeyLog").field("file", &self.file).finish_non_exhaustive()
    }
}

impl KeyLog {
    /// Goes on with what the file has, if there is one; without it nothing was seen yet.
    pub(crate) fn open(
        keys: Arc<AgentKeys>,
        file: Option<PathBuf>,
        counters: Arc<Counters>,
    ) -> Result<Self, KeyLogFileError> {
        let seen = file.as_deref().map_or(Ok(None), |path| file::read(path, keys.id()))?;
        let (watch, scan) = seen.map_or((None, Scan::new()), |seen| (Some(seen.watch), seen.scan));
        let state = State { watch, scan, ..State::default() };
        Ok(Self {
            own: Own(keys),
            file,
            counters,
            saved: tokio::sync::Mutex::new(state.extent()),
            state: Mutex::new(state),
            asked: Notify::new(),
            connected: Notify::new(),
            turn: tokio::sync::Mutex::default(),
            pace: Pace { after: KEY_LOG_READ_AFTER, every: KEY_LOG_READ_EVERY },
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect(UNPOISONED)
    }

    /// What was seen.
    pub(crate) fn status(&self) -> KeyLogStatus {
        let state = self.state();
        let watch = state.watch.as_ref();
        KeyLogStatus {
            head: watch.and_then(Watch::head).map(|head| head.note().to_owned()),
            keys: watch.map(|watch| watch.public().to_text()),
            size: watch.map_or(0, Watch::size),
            read: state.scan.size(),
            looks_missed: state.looks_missed,
            alarm: state.alarm(),
        }
    }

    /// Has the node prove that exactly this record is in its log.
    pub(crate) async fn prove(&self, record: &KeyRecord) -> Answer {
        self.ask((record.agent_id(), record.version), Wanted::Record(Box::new(record.clone()))).await
    }

    async fn ask(&self, key: (AgentId, u32), wanted: Wanted) -> Answer {
        let (reply, answer) = oneshot::channel();
        {
            let mut state = self.state();
            if state.is_closed {
                return Err(LookupError::Closed);
            }
            // A look of its own is what ends that the node withholds something.
            let alarm = if matches!(wanted, Wanted::Own) { state.alarm.clone() } else { state.alarm() };
            if let Some(source) = alarm {
                return Err(LookupError::KeyLog { agent: key.0, source });
            }
            let is_new = !state.open.contains_key(&key);
            let open = state.open.entry(key).or_default();
            open.waiting.retain(|(_, waiting)| !waiting.is_closed());
            open.waiting.push((wanted, reply));
            if is_new {
                state.to_ask.push_back(key);
            }
        }
        self.asked.notify_one();
        match timeout(KEY_RECORD_TIMEOUT, answer).await {
            Ok(answer) => answer.unwrap_or(Err(LookupError::Closed)),
            Err(_) => {
                self.abandon(key);
                Err(LookupError::TimedOut { agent: key.0 })
            }
        }
    }

    /// Closes a question for which nobody waits any more. One that is on the wire stays until its answer comes: that does not say
    /// what it was asked against, and must not be taken for the answer to a later one.
    fn abandon(&self, key: (AgentId, u32)) {
        let mut state = self.state();
        if state.open.get(&key).is_some_and(|open| open.seen.is_none() && open.is_abandoned()) {
            state.open.remove(&key);
        }
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
        let mut state = self.state();
        let mut frame = Vec::new();
        if let Page::Asked(..) = state.leaves
            && let Page::Asked(request, reply) = std::mem::take(&mut state.leaves)
        {
            state.leaves = Page::Sent(reply);
            request.encode(&mut frame);
            return Some(frame);
        }
        // Fewer than the node takes of one connection.
        while state.on_the_way < KEY_LOG_PROOFS_OPEN_MAX && !state.is_alone {
            let key = *state.to_ask.front()?;
            let is_alone = state.open.get(&key).is_some_and(|open| open.overtaken >= KEY_LOG_OVERTAKEN_MAX);
            if is_alone && state.on_the_way > 0 {
                return None;
            }
            state.to_ask.pop_front();
            let seen = state.watch.as_ref().map_or(0, Watch::size);
            let is_first = state.watch.is_none();
            // Given up, or on its way already.
            let Some(open) = state.open.get_mut(&key).filter(|open| open.seen.is_none()) else { continue };
            let wants_keys = is_first || open.waiting.iter().any(|(wanted, _)| matches!(wanted, Wanted::Own));
            (open.seen, open.tries) = (Some(seen), open.tries + 1);
            (state.on_the_way, state.is_alone) = (state.on_the_way + 1, is_alone);
            KeyProofRequest { agent: key.0, version: key.1, seen, wants_keys }.encode(&mut frame);
            return Some(frame);
        }
        None
    }

    /// A proof came, or a refusal. One that nobody waits for is ignored.
    pub(crate) async fn proven(self: &Arc<Self>, proof: KeyProof) {
        let key = (proof.agent, proof.version);
        let open = {
            let mut state = self.state();
            state.on_the_way = state.on_the_way.saturating_sub(1);
            state.is_alone &= state.on_the_way > 0;
            // A question that was not asked yet on this connection stays: what came is late.
            let is_asked = state.open.get(&key).is_some_and(|open| open.seen.is_some());
            if is_asked { state.open.remove(&key) } else { None }
        };
        // There is room for another question.
        self.asked.notify_one();
        let Some(open) = open else { return };
        match proof.answer {
            Err(refusal) => self.refused(key, open, refusal),
            Ok(proven) => {
                // Whoever reads the stream is stopped when the connection is lost; those who wait get their answer even then.
                let checking = tokio::spawn(Arc::clone(self).check_proof(key, open, proven));
                if let Err(error) = checking.await
                    && let Ok(panic) = error.try_into_panic()
                {
                    std::panic::resume_unwind(panic);
                }
            }
        }
    }

    async fn check_proof(self: Arc<Self>, key: (AgentId, u32), open: Open, proven: ProvenKey) {
        let this = Arc::clone(&self);
        let (open, outcome) = offload(move || {
            let outcome = this.take_proof(&open, &proven);
            (open, outcome)
        })
        .await;
        match outcome {
            // The head that it was asked against is not the newest any more.
            Taken::Overtaken => {
                self.ask_again(key, Open { overtaken: open.overtaken + 1, tries: open.tries - 1, ..open })
            }
            Taken::Checked(answers) => {
                // Also when it was another proof that brought the head.
                self.save().await;
                let alarm = self.state().alarm.clone();
                for ((_, waiting), answer) in open.waiting.into_iter().zip(answers) {
                    let answer = alarm.clone().map_or(answer, Err);
                    // Whoever asked may have stopped waiting.
                    let _ = waiting.send(answer.map_err(|source| self.disbelieved(key.0, source)));
                }
            }
        }
    }

    fn refused(self: &Arc<Self>, key: (AgentId, u32), open: Open, refusal: KeyLogRefusal) {
        let code = RejectCode::from_u16(refusal.code);
        if code.is_some_and(RejectCode::is_retryable) && open.tries < KEY_LOG_TRIES_MAX {
            let pause = Duration::from_millis(u64::from(refusal.retry_after_ms));
            let this = Arc::clone(self);
            tokio::spawn(async move {
                sleep(pause.min(KEY_RECORD_TIMEOUT)).await;
                this.ask_again(key, open);
            });
            return;
        }
        let error = code.map_or(LookupError::RefusedWith(refusal.code), LookupError::Refused);
        for (_, waiting) in open.waiting {
            let _ = waiting.send(Err(error.clone()));
        }
    }

    fn ask_again(&self, key: (AgentId, u32), open: Open) {
        let mut state = self.state();
        if state.is_closed {
            return;
        }
        let is_new = !state.open.contains_key(&key);
        let again = state.open.entry(key).or_default();
        again.tries = again.tries.max(open.tries);
        again.overtaken = again.overtaken.max(open.overtaken);
        again.waiting.extend(open.waiting);
        if is_new {
            state.to_ask.push_back(key);
        }
        drop(state);
        self.asked.notify_one();
    }

    /// Counts and logs what no honest node says.
    fn disbelieved(&self, agent: AgentId, source: KeyLogError) -> LookupError {
        self.counters.key_log_refused.add(1);
        tracing::error!(%agent, code = source.code(), "{source}");
        LookupError::KeyLog { agent, source }
    }

    fn take_proof(&self, open: &Open, proven: &ProvenKey) -> Taken {
        let mut state = self.state();
        let State { watch, .. } = &mut *state;
        let everyone = |error: KeyLogError| Taken::Checked(open.waiting.iter().map(|_| Err(error.clone())).collect());
        match watch {
            // The log's keys are those that are seen first.
            None => {
                let pinned = str::from_utf8(&proven.keys)
                    .map_err(|_| KeyLogError::Keys("they are no text".to_owned()))
                    .and_then(Watch::pin_text)
                    .and_then(|mut watch| watch.advance(&proven.note, &[]).map(|_| watch));
                match pinned {
                    Ok(pinned) => *watch = Some(pinned),
                    Err(error) => return everyone(error),
                }
            }
            Some(watch) => {
                let has_other_keys = !proven.keys.is_empty() && proven.keys != watch.public().to_text().into_bytes();
                if has_other_keys {
                    return everyone(KeyLogError::OtherKeys);
                }
                if open.seen != Some(watch.size()) {
                    if proven.size != watch.size() {
                        return Taken::Overtaken;
                    }
                } else if !proven.note.is_empty()
                    && let Err(error) = watch.advance(&proven.note, &proven.consistency)
                {
                    return everyone(error);
                }
            }
        }
        let watch = watch.as_ref().expect("pinned above");
        let evidence = Evidence { size: proven.size, index: proven.index, leaf: &proven.leaf, path: &proven.path };
        let root = watch.head().map(|head| head.root).unwrap_or_default();
        let check = |wanted: &Wanted| -> Result<KeyPlace, KeyLogError> {
            let leaf = match wanted {
                Wanted::Record(record) => watch.check(record, evidence)?,
                Wanted::Own => self.check_own(watch, evidence)?,
            };
            Ok(KeyPlace { index: proven.index, size: proven.size, root, time_ms: leaf.time_ms })
        };
        Taken::Checked(open.waiting.iter().map(|(wanted, _)| check(wanted)).collect())
    }

    fn check_own(&self, watch: &Watch, evidence: Evidence<'_>) -> Result<KeyLeaf, KeyLogError> {
        let leaf = watch.check_leaf(evidence)?;
        let Evidence { index, leaf: bytes, .. } = evidence;
        if leaf.agent != self.own.agent() {
            return Err(KeyLogError::OtherRecord { index });
        }
        Scan::new().take(&[*bytes], &self.own).map_err(|error| match error {
            KeyLogError::ForeignRecord { version, .. } => KeyLogError::ForeignRecord { index, version },
            error => error,
        })?;
        Ok(leaf)
    }

    /// Leaves came. A page that nobody waits for is ignored.
    pub(crate) fn leaves(&self, page: KeyLeaves) {
        let mut state = self.state();
        // One that is not asked for yet stays: what came is late.
        if let Page::Sent(_) = state.leaves
            && let Page::Sent(reply) = std::mem::take(&mut state.leaves)
        {
            let _ = reply.send(page);
        }
    }

    /// A new connection: every open question is asked again.
    pub(crate) fn connected(&self) {
        let mut state = self.state();
        state.open.retain(|_, open| !open.is_abandoned());
        state.to_ask = state.open.keys().copied().collect();
        (state.on_the_way, state.is_alone) = (0, false);
        for open in state.open.values_mut() {
            open.seen = None;
        }
        state.is_connected = true;
        drop(state);
        self.asked.notify_one();
        self.connected.notify_one();
    }

    /// The connection is gone, and with it the page that may have been on its way.
    pub(crate) fn lost(&self) {
        let mut state = self.state();
        state.leaves = Page::Idle;
        state.is_connected = false;
    }

    /// No connection will come any more.
    pub(crate) fn close(&self) {
        let mut state = self.state();
        state.is_closed = true;
        state.open.clear();
        state.leaves = Page::Idle;
    }

    /// Reads the leaves that are new, soon after each connect and every now and then, until the agent closes.
    pub(crate) async fn look_after(self: Arc<Self>, mut closing: watch::Receiver<bool>) {
        let mut pause = self.pace.every;
        loop {
            tokio::select! {
                // An error means that every handle is gone: the same.
                _ = closing.wait_for(|closing| *closing) => return,
                () = self.connected.notified() => {
                    // A fleet that comes back together does not read together.
                    let after_ms = u64::try_from(self.pace.after.as_millis()).unwrap_or(u64::MAX);
                    pause = Duration::from_millis(u64::from(u32::from_le_bytes(clock::random())) % after_ms);
                    continue;
                }
                () = sleep(pause) => {}
            }
            tokio::select! {
                _ = async { closing.clone().wait_for(|closing| *closing).await.map(drop) } => return,
                is_whole = self.look() => pause = self.looked(is_whole),
            }
        }
    }

    /// Has the node show its newest head, and reads what it has not read of it. What cannot be had now is asked for the next time.
    pub(crate) async fn read_on(&self) {
        if self.look().await == Look::Whole {
            self.looked(Look::Whole);
        }
    }

    /// Counts a look, and says how long the next one has time.
    fn looked(&self, look: Look) -> Duration {
        let mut state = self.state();
        let was_withheld = state.alarm();
        match look {
            Look::Whole => state.looks_missed = 0,
            Look::Missed => state.looks_missed = state.looks_missed.saturating_add(1),
            Look::Impossible => {}
        }
        let pause = if state.looks_missed == 0 { self.pace.every } else { self.pace.after };
        let (alarm, missed) = (state.alarm(), state.looks_missed);
        drop(state);
        match (was_withheld, alarm) {
            (None, Some(alarm)) => self.told(&alarm),
            (Some(_), None) => {
                tracing::info!("the node lets this agent look at its key log again: keys are used again")
            }
            (None, None) if missed > 0 => tracing::warn!(missed, "the node did not let this agent look at its key log"),
            _ => {}
        }
        pause
    }

    async fn look(&self) -> Look {
        let _turn = self.turn.lock().await;
        if self.state().alarm.is_some() {
            return Look::Impossible;
        }
        let own = (self.own.agent(), self.own.0.record_version());
        let looked = match self.ask(own, Wanted::Own).await {
            Ok(_) => self.read_leaves().await,
            Err(LookupError::KeyLog { source, .. }) => Err(source),
            Err(LookupError::Closed) => return Look::Impossible,
            Err(error) => {
                tracing::debug!(%error, "the node's key log cannot be had now");
                // A node that cannot be reached keeps nothing back.
                return if self.state().is_connected { Look::Missed } else { Look::Impossible };
            }
        };
        match looked {
            Ok(look) => look,
            Err(error) => {
                self.raise(error);
                Look::Impossible
            }
        }
    }

    async fn read_leaves(&self) -> Result<Look, KeyLogError> {
        let (mut scan, head) = {
            let state = self.state();
            let Some(head) = state.watch.as_ref().and_then(Watch::head) else { return Ok(Look::Missed) };
            if state.scan.size() == head.size {
                return Ok(Look::Whole);
            }
            (state.reading.as_ref().unwrap_or(&state.scan).clone(), head.clone())
        };
        let begun = scan.size();
        while !scan.ends_at(&head)? {
            let request = KeyLeavesRequest { from: scan.size(), through: head.size };
            let Some(leaves) = self.page(request).await else {
                // A long log over connections that break is read piece by piece.
                let goes_on = scan.size() > begun && !self.state().is_connected;
                return Ok(if goes_on { Look::Impossible } else { Look::Missed });
            };
            let asked = (request.through - request.from).min(KEY_LEAVES_MAX as u64);
            if leaves.is_empty() || leaves.len() as u64 > asked {
                return Err(KeyLogError::LeavesChanged { size: head.size });
            }
            scan.take(&leaves, &self.own)?;
            self.state().reading = Some(scan.clone());
            // A node gives as many as were asked for. With a few at a time it could keep the rest for itself for ever.
            if (leaves.len() as u64) < asked {
                return Ok(Look::Missed);
            }
        }
        {
            let mut state = self.state();
            state.scan = scan;
            state.reading = None;
        }
        self.save().await;
        Ok(Look::Whole)
    }

    async fn page(&self, request: KeyLeavesRequest) -> Option<Vec<[u8; creto_envelope::key_log::KEY_LEAF_BYTES]>> {
        let (reply, answer) = oneshot::channel();
        self.state().leaves = Page::Asked(request, reply);
        self.asked.notify_one();
        let page = timeout(KEY_RECORD_TIMEOUT, answer).await.ok()?.ok()?;
        page.answer.ok().filter(|_| page.from == request.from)
    }

    /// What was found that no honest node does.
    pub(crate) fn alarm(&self) -> Option<KeyLogError> {
        self.state().alarm()
    }

    /// Something was found that no honest node does: no further key is used.
    fn raise(&self, alarm: KeyLogError) {
        let is_first = {
            let mut state = self.state();
            let is_first = state.alarm.is_none();
            state.alarm.get_or_insert_with(|| alarm.clone());
            is_first
        };
        if is_first {
            self.told(&alarm);
        }
    }

    fn told(&self, alarm: &KeyLogError) {
        tracing::error!(code = alarm.code(), "{alarm}");
        self.counters.key_log_alarms.add(1);
    }

    /// Returns when the file has what was seen. Where it cannot be written, that is held in memory and written with what comes
    /// next.
    async fn save(&self) {
        let Some(path) = self.file.clone() else { return };
        let mut saved = self.saved.lock().await;
        let agent = self.own.agent();
        let (text, extent) = {
            let state = self.state();
            let Some(watch) = &state.watch else { return };
            let extent = state.extent();
            if *saved == extent {
                return;
            }
            (file::Seen::text(agent, watch, &state.scan), extent)
        };
        match on_disk(move || file::write(&path, agent, &text)).await {
            Ok(None) => *saved = extent,
            Ok(Some(conflict)) => self.raise(conflict),
            Err(error) => {
                tracing::warn!(%error, "what was seen of the node's key log could not be written down, and will be later");
            }
        }
    }
}

/// What became of a look at the log.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Look {
    /// Every leaf of the newest head is read.
    Whole,
    /// The node was there and did not give everything.
    Missed,
    /// There is no connection, it broke on the way, or there is an alarm already.
    Impossible,
}

/// What becomes of a proof.
enum Taken {
    /// It was asked against another head than the newest that was seen meanwhile.
    Overtaken,
    /// For everybody who waits, in order.
    Checked(Vec<Result<KeyPlace, KeyLogError>>),
}
