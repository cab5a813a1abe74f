//! The sessions that senders opened to this agent: which there are, what each has settled, and when that is on disk.
//!
//! A session is made by the first message that carries its wrapped key and **opens**; nothing that fails to open makes
//! or moves one. A message's key lives until the message is settled, not until it is opened: what the application has
//! not acknowledged comes again after a crash and must open again. What it has acknowledged is settled here, then
//! written to disk, and only then acknowledged to the node; so a message that comes again under a settled counter is a
//! duplicate, also after a restart. What the application refuses is kept the same way: the session is on disk, and the
//! message's key beside it ([`refused`]), before the node hears of it.
//!
//! Bounded twice, per sender and in all: how many sessions there are, and how many message keys they keep. Whoever is
//! above its own bound loses the sessions that it left idle longest; above a bound over all, whoever has most does. So
//! no sender costs another one its sessions while it has more itself. Later messages of such a session that do not carry
//! the wrapped key are refused as [`RejectCode::UnknownSession`]. A sender renews its sessions one after the other, so
//! that takes thousands of sessions that were opened since, or hundreds of thousands of messages that overtook others.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::hash::{BuildHasher, RandomState};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard};

use creto_crypto_accel::keys::NONCE_BYTES;
use creto_crypto_accel::session::{ReceiveChain, SESSION_MESSAGES_MAX, SessionError, SessionId};
use creto_envelope::{AgentId, ChannelId, KeyId, RejectCode};
use zeroize::Zeroizing;

use crate::channel::keys::ChannelKeys;
use crate::clock;
use crate::error::StateError;
use crate::limits::{
    ALL_KEYS_KEPT_MAX, ALL_REFUSED_KEYS_MAX, ALL_SESSIONS_MAX, FAR_COUNTER, FAR_FAILURES_MAX, FAR_TRIED_ONE_IN,
    SENDER_KEYS_KEPT_MAX, SENDER_REFUSED_KEYS_MAX, SENDER_SESSIONS_MAX,
};
use crate::state::incoming::{Incoming, ReadChannel, Write};
use crate::state::prekeys::{OneTimeIds, PrekeySecrets};
use crate::state::sealed::channel_file_key;
use crate::stats::UNPOISONED;

pub(crate) mod channel_keys;
pub(crate) mod refused;
mod shares;

use refused::RefusedKeys;
use shares::Shares;

/// Names a session to its recipient: nobody can go on with another's.
pub(crate) type SessionKey = (AgentId, SessionId);

/// A message of a session that was opened, or came again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct SessionUse {
    pub(crate) key: SessionKey,
    pub(crate) counter: u64,
}

/// A message as it is opened.
#[derive(Clone, Copy)]
pub(crate) struct Sealed<'m> {
    pub(crate) nonce: [u8; NONCE_BYTES],
    /// The envelope's header.
    pub(crate) aad: &'m [u8],
    pub(crate) payload: &'m [u8],
}

/// What came of a message.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Opened {
    Payload {
        payload: Vec<u8>,
        /// The session was new.
        accepted: bool,
    },
    /// It was settled before: acknowledge it again.
    Settled,
}

/// How much is kept.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    pub(crate) sender_sessions: usize,
    pub(crate) all_sessions: usize,
    pub(crate) sender_keys: usize,
    pub(crate) all_keys: usize,
    pub(crate) sender_refused: usize,
    pub(crate) all_refused: usize,
}

impl Bounds {
    pub(crate) const PRODUCTION: Self = Self {
        sender_sessions: SENDER_SESSIONS_MAX,
        all_sessions: ALL_SESSIONS_MAX,
        sender_keys: SENDER_KEYS_KEPT_MAX,
        all_keys: ALL_KEYS_KEPT_MAX,
        sender_refused: SENDER_REFUSED_KEYS_MAX,
        all_refused: ALL_REFUSED_KEYS_MAX,
    };
}

/// See the module.
#[derive(Debug)]
pub(crate) struct IncomingSessions {
    table: Mutex<Table>,
    /// Whoever holds this asks for nothing else.
    refused: Mutex<RefusedKeys>,
    failures: Mutex<Failures>,
    /// None in memory, and after [`release`](Self::release).
    disk: Mutex<Option<Incoming>>,
    /// The same. Whoever holds this asks for nothing else.
    prekeys: Mutex<Option<PrekeySecrets>>,
    /// The same.
    channel_keys: Mutex<ChannelKeys>,
    /// What is remembered of the channels that are read. The same.
    channels: Mutex<BTreeMap<ChannelId, ReadChannel>>,
    /// Of those, the ones for one use. Whoever asks waits for no disk.
    one_time: OneTimeIds,
}

impl IncomingSessions {
    /// In memory only.
    pub(crate) fn new(bounds: Bounds) -> Self {
        let refused = RefusedKeys::new(bounds.sender_refused, bounds.all_refused);
        Self::with(Table::new(bounds), refused, ChannelKeys::new(), BTreeMap::new(), None, None)
    }

    /// Those of the folder, which no other process may have then. The file of prekeys there is sealed under `prekey_file_key`.
    ///
    /// # Errors
    /// [`StateError`].
    pub(crate) fn open(
        folder: &Path,
        me: AgentId,
        prekey_file_key: Zeroizing<[u8; 32]>,
        bounds: Bounds,
    ) -> Result<Self, StateError> {
        let (disk, stored) = Incoming::open(folder, me, channel_file_key(&prekey_file_key))?;
        let mut prekeys = PrekeySecrets::open(folder, me, prekey_file_key, clock::now_ms())?;
        let mut table = Table::new(bounds);
        let mut used = Vec::new();
        for read in stored.sessions {
            used.extend(read.prekey.filter(|prekey| prekeys.one_time().contains(prekey)));
            table.adopt((read.sender, read.session), read.used, read.prekey, read.chain);
        }
        if !used.is_empty() {
            // A crash came after their sessions were written; no other message of these may ever come.
            tracing::info!(count = used.len(), "prekeys that were used before the last end are erased now");
            prekeys.erase(&used)?;
        }
        let mut refused = RefusedKeys::new(bounds.sender_refused, bounds.all_refused);
        for (at, read) in stored.refused {
            refused.adopt(at, read);
        }
        refused.expire(clock::now_ms());
        let mut keys = ChannelKeys::new();
        stored.channel_keys.into_iter().for_each(|key| keys.adopt(key));
        let sessions = Self::with(table, refused, keys, stored.channels, Some(disk), Some(prekeys));
        sessions.expire_channel_keys(clock::now_ms(), |_| None)?;
        Ok(sessions)
    }

    fn with(
        table: Table,
        refused: RefusedKeys,
        channel_keys: ChannelKeys,
        channels: BTreeMap<ChannelId, ReadChannel>,
        disk: Option<Incoming>,
        prekeys: Option<PrekeySecrets>,
    ) -> Self {
        Self {
            table: Mutex::new(table),
            refused: Mutex::new(refused),
            failures: Mutex::default(),
            disk: Mutex::new(disk),
            one_time: prekeys.as_ref().map(PrekeySecrets::one_time).unwrap_or_default(),
            prekeys: Mutex::new(prekeys),
            channel_keys: Mutex::new(channel_keys),
            channels: Mutex::new(channels),
        }
    }

    /// A stream of deliveries begins: what failed on the one before comes again, and has its chances again.
    pub(crate) fn stream_begins(&self) {
        *self.failures.lock().expect(UNPOISONED) = Failures::default();
    }

    /// Opens a message. A session that is not known is made by `accept`, from the wrapped key that the message carries;
    /// `None` when it carries none. `prekey` is what the message says that its session was opened to: it must be that.
    ///
    /// # Errors
    /// The code under which the message is refused. Nothing was changed then.
    pub(crate) fn open_message(
        &self,
        at: SessionUse,
        prekey: Option<KeyId>,
        accept: Option<impl FnOnce() -> Result<ReceiveChain, RejectCode>>,
        sealed: &Sealed<'_>,
    ) -> Result<Opened, RejectCode> {
        let refused = self.refused().get(at);
        if refused.as_ref().is_some_and(|refused| refused.key.is_none()) {
            return Ok(Opened::Settled);
        }
        let known = self.known(at.key, prekey)?;
        if let Some(held) = known {
            let mut chain = held.lock().expect(UNPOISONED);
            let payload = chain.open(at.counter, sealed);
            self.keep_count(at.key, &held, &mut chain);
            return opened(payload, false);
        }
        let accepted = match accept {
            Some(accept) => self.accept(at, prekey, accept, sealed),
            None => Err(RejectCode::UnknownSession),
        };
        let opened_meanwhile = if accepted.is_err() { self.known(at.key, prekey)? } else { None };
        if let Some(held) = opened_meanwhile {
            // By another message, and the prekey that it was opened to is erased.
            let mut chain = held.lock().expect(UNPOISONED);
            let payload = chain.open(at.counter, sealed);
            self.keep_count(at.key, &held, &mut chain);
            return opened(payload, false);
        }
        match (accepted, refused) {
            (Err(_), Some(refused)) => refused.open(sealed).map(|payload| Opened::Payload { payload, accepted: false }),
            (accepted, _) => accepted,
        }
    }

    /// The session, if it is known, to which this prekey or none belongs: nothing that a message says of another is believed.
    fn known(&self, key: SessionKey, prekey: Option<KeyId>) -> Result<Option<Arc<Mutex<Held>>>, RejectCode> {
        let mut table = self.table();
        match table.sessions.get(&key) {
            Some(entry) if entry.prekey != prekey => Err(RejectCode::EnvelopeSeal),
            _ => Ok(table.get(key)),
        }
    }

    fn accept(
        &self,
        at: SessionUse,
        prekey: Option<KeyId>,
        accept: impl FnOnce() -> Result<ReceiveChain, RejectCode>,
        sealed: &Sealed<'_>,
    ) -> Result<Opened, RejectCode> {
        if !self.failures.lock().expect(UNPOISONED).may_try(at) {
            return Err(RejectCode::EnvelopeSeal);
        }
        let mut chain = Held::new(accept()?);
        let payload = chain.open(at.counter, sealed);
        if payload.is_err() {
            self.failures.lock().expect(UNPOISONED).count(at);
            return opened(payload, false);
        }
        // Two messages that both carry the wrapped key may be opened at once: the first one's session stays, and the
        // second one's is the same but for what it has opened, which opens again when it is asked for.
        let accepted = self.table().insert(at.key, prekey, chain);
        opened(payload, accepted)
    }

    /// Settles messages for good: when this returns, it is on disk that they are. One durable transaction for all of them,
    /// none if nothing is new.
    ///
    /// # Errors
    /// [`StateError`]: none of them may be acknowledged.
    pub(crate) fn settle(&self, uses: impl IntoIterator<Item = SessionUse>) -> Result<(), StateError> {
        self.settle_and_keep(uses, [])
    }

    /// As [`settle`](Self::settle); and when this returns, the sessions and the keys of `refused`, which stand with their
    /// numbers in the mailbox, are on disk, so that these messages open again after a restart and when their sessions are
    /// gone. Whichever state of a session is there, it opens what is not settled.
    ///
    /// # Errors
    /// As [`settle`](Self::settle); the node must hear of none of them.
    pub(crate) fn settle_and_keep(
        &self,
        settled: impl IntoIterator<Item = SessionUse>,
        refused: impl IntoIterator<Item = (SessionUse, u64)>,
    ) -> Result<(), StateError> {
        let now_ms = clock::now_ms();
        let mut kept = Vec::new();
        for (at, mailbox_sequence) in refused {
            // One whose session is gone has its key with the refused ones, or nowhere.
            let Some(held) = self.table().get(at.key) else { continue };
            if let Some(key) = held.lock().expect(UNPOISONED).chain.kept_key(at.counter) {
                self.refused().keep(at, key, mailbox_sequence, now_ms);
            }
            kept.push(at.key);
        }
        self.refused().expire(now_ms);
        self.write(settled, kept)
    }

    /// When this returns, the session is on disk, if it is known.
    ///
    /// # Errors
    /// [`StateError`].
    pub(crate) fn keep_session(&self, key: SessionKey) -> Result<(), StateError> {
        self.write([], [key])
    }

    /// What is done with the secret halves of this agent's prekeys. `None`: there are none to keep, in memory and after
    /// [`release`](Self::release).
    pub(crate) fn prekeys<R>(&self, work: impl FnOnce(&mut PrekeySecrets) -> R) -> Option<R> {
        self.prekeys.lock().expect(UNPOISONED).as_mut().map(work)
    }

    /// Whether the secret half of this prekey is here, and is to go with its first use. Waits for no disk.
    pub(crate) fn is_one_time(&self, prekey: &KeyId) -> bool {
        self.one_time.contains(prekey)
    }

    /// When this returns, these sessions are on disk, and **then** the one-time prekeys to which they were opened were erased
    /// there: a crash in between leaves both, and whoever opens the folder next erases.
    ///
    /// # Errors
    /// [`StateError`]: the messages that opened them must not be shown.
    pub(crate) fn keep_and_erase(&self, opened: &[SessionKey]) -> Result<(), StateError> {
        self.write([], opened.iter().copied())?;
        // A session that went for want of room is nowhere: its message must open again. And what a message says of its prekey
        // counts for nothing: only what opened the session goes.
        let used: Vec<KeyId> = {
            let table = self.table();
            let kept = |key: &SessionKey| table.sessions.get(key).filter(|entry| entry.on_disk && !entry.is_behind);
            let prekeys = opened.iter().filter_map(|key| kept(key)?.prekey);
            prekeys.filter(|prekey| self.one_time.contains(prekey)).collect()
        };
        self.prekeys(|prekeys| prekeys.erase(&used)).unwrap_or(Ok(()))
    }

    /// From now on no transaction succeeds, or they do again.
    #[cfg(test)]
    pub(crate) fn fail(&self, fails: bool) {
        self.disk.lock().expect(UNPOISONED).as_mut().expect("a test has files").fails = fails;
    }

    /// The dead letters with these numbers were deleted: nothing needs their keys any more, here or in their sessions.
    ///
    /// # Errors
    /// [`StateError`]: they are gone from memory, and from the disk with the next transactions that succeed.
    pub(crate) fn purge_refused(&self, mailbox_sequences: &[u64]) -> Result<(), StateError> {
        let purged = self.refused().purge(&mailbox_sequences.iter().copied().collect());
        self.write(purged, [])
    }

    /// Settles messages, and writes what that changes, the sessions of `kept` that are not on disk, and what changed of the
    /// refused ones.
    fn write(
        &self,
        settled: impl IntoIterator<Item = SessionUse>,
        kept: impl IntoIterator<Item = SessionKey>,
    ) -> Result<(), StateError> {
        let disk = self.disk.lock().expect(UNPOISONED);
        let is_behind = |key: &SessionKey| self.table().sessions.get(key).is_some_and(|entry| entry.is_behind);
        let mut changed: HashSet<SessionKey> = kept.into_iter().filter(is_behind).collect();
        for SessionUse { key, counter } in settled {
            let at = SessionUse { key, counter };
            let Some(held) = self.table().get(key) else {
                // It went for want of room. Of a message that was refused before, the place of its key remembers it.
                self.refused().settle(at);
                continue;
            };
            self.refused().remove(at);
            let mut chain = held.lock().expect(UNPOISONED);
            let is_new = !chain.chain.is_settled(counter);
            if is_new {
                chain.settle(counter);
                self.keep_count(key, &held, &mut chain);
            }
            // Settled before, and it may be that only the memory knows.
            if is_new || is_behind(&key) {
                changed.insert(key);
            }
        }
        let refused = self.refused().take_changes();
        let is_changed = !changed.is_empty() || !refused.is_empty();
        let (true, Some(disk)) = (is_changed, disk.as_ref()) else { return Ok(()) };
        let (writes, removed) = self.table().take_changes(changed);
        let write = |Changed { key, used, prekey, held }: Changed| {
            let chain = held.lock().expect(UNPOISONED).chain.to_bytes();
            Write { sender: key.0, session: key.1, used, prekey, chain }
        };
        let writes: Vec<Write> = writes.into_iter().map(write).collect();
        let outcome = disk.commit(&writes, &removed, &refused);
        if outcome.is_err() {
            let written = writes.iter().map(|write| (write.sender, write.session));
            self.table().take_back(written, removed);
            self.refused().take_back(refused);
        }
        outcome
    }

    /// Lets go of the file: another process may have it now. What is settled from now on is not remembered, and must not
    /// be acknowledged.
    pub(crate) fn release(&self) {
        // First: nothing is erased any more when nothing is written any more.
        drop(self.prekeys.lock().expect(UNPOISONED).take());
        self.one_time.clear();
        drop(self.disk.lock().expect(UNPOISONED).take());
    }

    /// Counts the keys that a session keeps now. The chain is held meanwhile: of two changes, the later one counts.
    fn keep_count(&self, key: SessionKey, held: &Arc<Mutex<Held>>, chain: &mut Held) {
        if chain.counted != chain.places {
            chain.counted = chain.places;
            self.table().count(key, held, chain.places);
        }
    }

    fn refused(&self) -> MutexGuard<'_, RefusedKeys> {
        self.refused.lock().expect(UNPOISONED)
    }

    /// Whoever holds this may not ask for a chain.
    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().expect(UNPOISONED)
    }
}

fn opened(payload: Result<Vec<u8>, SessionError>, accepted: bool) -> Result<Opened, RejectCode> {
    match payload {
        Ok(payload) => Ok(Opened::Payload { payload, accepted }),
        Err(SessionError::AlreadySettled) => Ok(Opened::Settled),
        Err(SessionError::CounterBeyondEnd) => Err(RejectCode::SessionCounter),
        Err(_) => Err(RejectCode::EnvelopeSeal),
    }
}

/// Messages that were to open a session and did not open, since the stream of deliveries began.
///
/// Whether such a message is worth its decapsulation and its steps, up to 4,096 of them (over a millisecond), shows only
/// after both. So a sender that failed often is tried no more where it is dear, but for one message in a few, which ones
/// changes with every stream: one that holds is opened in the end, however many are before it that do not.
#[derive(Debug, Default)]
struct Failures {
    of: HashMap<AgentId, u32>,
    chances: RandomState,
}

impl Failures {
    fn may_try(&self, at: SessionUse) -> bool {
        at.counter <= FAR_COUNTER
            || self.of.get(&at.key.0).is_none_or(|failures| *failures < FAR_FAILURES_MAX)
            || self.chances.hash_one((at.key, at.counter)).is_multiple_of(FAR_TRIED_ONE_IN)
    }

    fn count(&mut self, at: SessionUse) {
        if self.of.len() >= ALL_SESSIONS_MAX {
            self.of.clear();
        }
        let failures = self.of.entry(at.key.0).or_default();
        *failures = failures.saturating_add(1);
    }
}

/// A chain, and how many keys it has memory for. That is more than the keys that it keeps: the chain has a place for every
/// counter from the first that is not settled to the last that was opened, a power of two of them, and frees none.
#[derive(Debug)]
struct Held {
    chain: ReceiveChain,
    /// The first counter that is not settled.
    base: u64,
    /// One above the last counter that was opened or settled.
    next: u64,
    /// None for up to [`FREE_PLACES`].
    places: usize,
    /// What the table has counted of them.
    counted: usize,
}

/// Places for keys that every session may have.
const FREE_PLACES: usize = 16;

impl Held {
    fn new(chain: ReceiveChain) -> Self {
        let settled = |counter: &u64| chain.is_settled(*counter);
        let base = (0..SESSION_MESSAGES_MAX).find(|counter| !settled(counter)).unwrap_or(SESSION_MESSAGES_MAX);
        // Whatever is below the chain's end is settled or has its key: those that have one fill up from below.
        let above_settled = (base..SESSION_MESSAGES_MAX).rev().find(settled).map_or(base, |last| last + 1);
        let holes = (base..above_settled).filter(|counter| !settled(counter)).count();
        let next = above_settled + (chain.kept_keys() - holes) as u64;
        let mut held = Self { chain, base, next, places: 0, counted: 0 };
        held.places = held.places_needed();
        held
    }

    fn open(&mut self, counter: u64, sealed: &Sealed<'_>) -> Result<Vec<u8>, SessionError> {
        let payload = self.chain.open(counter, &sealed.nonce, sealed.aad, sealed.payload)?;
        self.reach(counter);
        Ok(payload)
    }

    fn settle(&mut self, counter: u64) {
        self.chain.settle(counter);
        self.reach(counter);
        while self.base < self.next && self.chain.is_settled(self.base) {
            self.base += 1;
        }
        let needed = self.places_needed();
        // Not at every turn: what has just become free may be wanted again by the messages that follow.
        if needed <= self.places / 4 && needed < self.places {
            self.chain = ReceiveChain::from_bytes(&self.chain.to_bytes()).expect("a chain reads what it wrote");
            self.places = needed;
        }
    }

    fn reach(&mut self, counter: u64) {
        self.next = self.next.max(counter + 1);
        self.places = self.places.max(self.places_needed());
    }

    fn places_needed(&self) -> usize {
        let span = usize::try_from(self.next - self.base).expect("a counter is at most 4,096");
        if span <= FREE_PLACES { 0 } else { span.next_power_of_two() }
    }
}

#[derive(Debug)]
struct Table {
    sessions: HashMap<SessionKey, Entry>,
    /// The sessions of each sender by their use.
    senders: HashMap<AgentId, BTreeMap<u64, Listed>>,
    /// Sessions of each sender.
    counts: Shares,
    /// Places for keys in the sessions of each sender.
    keys: Shares,
    uses: u64,
    /// On disk, and to be removed there with the next transaction.
    removed: Vec<SessionKey>,
    bounds: Bounds,
}

#[derive(Debug)]
struct Entry {
    held: Arc<Mutex<Held>>,
    used: u64,
    /// To which it was opened, if it was.
    prekey: Option<KeyId>,
    /// Some state of it may be there, and goes from there when it goes.
    on_disk: bool,
    /// Something of it that was asked for is not there: it is new, or a transaction failed.
    is_behind: bool,
}

/// A session that is to be written.
struct Changed {
    key: SessionKey,
    used: u64,
    prekey: Option<KeyId>,
    held: Arc<Mutex<Held>>,
}

#[derive(Clone, Copy, Debug)]
struct Listed {
    session: SessionId,
    /// For keys, as they were counted.
    places: usize,
}

impl Table {
    fn new(bounds: Bounds) -> Self {
        let Bounds { sender_sessions, all_sessions, sender_keys, all_keys, .. } = bounds;
        assert!(0 < sender_sessions && sender_sessions <= all_sessions, "the session in use must have a place");
        assert!(sender_keys as u64 >= SESSION_MESSAGES_MAX && sender_keys <= all_keys, "so must its keys");
        Self {
            sessions: HashMap::new(),
            senders: HashMap::new(),
            counts: Shares::default(),
            keys: Shares::default(),
            uses: 0,
            removed: Vec::new(),
            bounds,
        }
    }

    /// A known session, which is in use now.
    fn get(&mut self, key: SessionKey) -> Option<Arc<Mutex<Held>>> {
        let entry = self.sessions.get_mut(&key)?;
        let held = Arc::clone(&entry.held);
        if entry.used < self.uses {
            self.uses += 1;
            let before = std::mem::replace(&mut entry.used, self.uses);
            let of_sender = self.senders.get_mut(&key.0).expect(LISTED);
            let listed = of_sender.remove(&before).expect(LISTED);
            of_sender.insert(self.uses, listed);
        }
        Some(held)
    }

    /// A session from the disk, which come in the order of their use. What is used from now on was used later than all of
    /// them, also to whoever reads the disk next.
    fn adopt(&mut self, key: SessionKey, used: u64, prekey: Option<KeyId>, chain: ReceiveChain) {
        self.uses = self.uses.max(used.saturating_sub(1));
        self.insert(key, prekey, Held::new(chain));
        if let Some(entry) = self.sessions.get_mut(&key) {
            (entry.on_disk, entry.is_behind) = (true, false);
        }
    }

    /// A new session; one that is there already stays. Whether it was new.
    fn insert(&mut self, key: SessionKey, prekey: Option<KeyId>, mut held: Held) -> bool {
        if self.sessions.contains_key(&key) {
            return false;
        }
        self.uses += 1;
        let places = held.places;
        held.counted = places;
        let held = Arc::new(Mutex::new(held));
        let entry = Entry { held, used: self.uses, prekey, on_disk: false, is_behind: true };
        self.sessions.insert(key, entry);
        self.senders.entry(key.0).or_default().insert(self.uses, Listed { session: key.1, places });
        self.counts.change(key.0, 0, 1);
        self.keys.change(key.0, 0, places);
        self.fit(key.0);
        true
    }

    /// The session has places for so many keys now, if it is still the one that is kept.
    fn count(&mut self, key: SessionKey, held: &Arc<Mutex<Held>>, places: usize) {
        let Some(entry) = self.sessions.get(&key).filter(|entry| Arc::ptr_eq(&entry.held, held)) else { return };
        let listed = self.senders.get_mut(&key.0).and_then(|of_sender| of_sender.get_mut(&entry.used)).expect(LISTED);
        let before = std::mem::replace(&mut listed.places, places);
        self.keys.change(key.0, before, places);
        self.fit(key.0);
    }

    /// Removes what is above a bound, after a change to the sessions of `sender`: what is idle longest, of `sender` itself
    /// as long as that one is above its own bound, then of whoever has most. The session that changed was used last, so it
    /// stays.
    fn fit(&mut self, sender: AgentId) {
        while self.counts.of(sender) > self.bounds.sender_sessions {
            self.remove_idle(sender, |_| true);
        }
        while self.counts.total > self.bounds.all_sessions {
            self.remove_idle(self.counts.largest(), |_| true);
        }
        // One that keeps no keys would go for nothing.
        while self.keys.of(sender) > self.bounds.sender_keys {
            self.remove_idle(sender, |listed| listed.places > 0);
        }
        while self.keys.total > self.bounds.all_keys {
            self.remove_idle(self.keys.largest(), |listed| listed.places > 0);
        }
    }

    /// Removes the session of `sender` that was idle longest of those that are `wanted`.
    fn remove_idle(&mut self, sender: AgentId, wanted: impl Fn(&Listed) -> bool) {
        let of_sender = self.senders.get_mut(&sender).expect(LISTED);
        let (&used, _) = of_sender.iter().find(|(_, listed)| wanted(listed)).expect("it has some, so one of them goes");
        let Listed { session, places } = of_sender.remove(&used).expect("found just now");
        if of_sender.is_empty() {
            self.senders.remove(&sender);
        }
        self.counts.change(sender, 1, 0);
        self.keys.change(sender, places, 0);
        if self.sessions.remove(&(sender, session)).expect(LISTED).on_disk {
            self.removed.push((sender, session));
        }
    }

    /// What the next transaction writes and removes.
    fn take_changes(&mut self, changed: HashSet<SessionKey>) -> (Vec<Changed>, Vec<SessionKey>) {
        let mut writes = Vec::with_capacity(changed.len());
        for key in changed {
            let Some(entry) = self.sessions.get_mut(&key) else { continue };
            (entry.on_disk, entry.is_behind) = (true, false);
            let Entry { used, prekey, .. } = *entry;
            writes.push(Changed { key, used, prekey, held: Arc::clone(&entry.held) });
        }
        (writes, std::mem::take(&mut self.removed))
    }

    /// The transaction that was to write and remove these failed: the next one that is asked for it does. `on_disk` stays,
    /// because how far it came is not known.
    fn take_back(&mut self, written: impl Iterator<Item = SessionKey>, removed: Vec<SessionKey>) {
        for key in written {
            if let Some(entry) = self.sessions.get_mut(&key) {
                entry.is_behind = true;
            }
        }
        self.removed.extend(removed);
    }
}

const LISTED: &str = "every session is listed under its sender, and only those";

#[cfg(test)]
mod tests;
