//! The sessions that senders opened to this agent: which there are, what each has settled, and when that is on disk.
//!
//! A session is made by the first message that carries its wrapped key and **opens**; nothing that fails to open makes
//! or moves one. A message's key lives until the message is settled, not until it is opened: what the application has
//! not acknowledged comes again after a crash and must open again. What it has acknowledged is settled here, then
//! written to disk, and only then acknowledged to the node; so a message that comes again under a settled counter is a
//! duplicate, also after a restart.
//!
//! Bounded per sender and in all; the session that was idle longest goes. Later messages of such a session that do not
//! carry the wrapped key are refused as [`RejectCode::UnknownSession`]. A sender renews its sessions one after the other,
//! so that takes hundreds of sessions that were opened since.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard};

use creto_crypto_accel::session::{ReceiveChain, SessionError, SessionId};
use creto_envelope::{AgentId, RejectCode};

use crate::error::StateError;
use crate::state::incoming::{Incoming, Write};
use crate::stats::UNPOISONED;

/// Names a session to its recipient: nobody can go on with another's.
pub(crate) type SessionKey = (AgentId, SessionId);

/// A message of a session that was opened, or came again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SessionUse {
    pub(crate) key: SessionKey,
    pub(crate) counter: u64,
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

/// See the module.
#[derive(Debug)]
pub(crate) struct IncomingSessions {
    table: Mutex<Table>,
    /// None in memory, and after [`release`](Self::release).
    disk: Mutex<Option<Incoming>>,
}

impl IncomingSessions {
    /// In memory only.
    pub(crate) fn new(per_sender_max: usize, all_max: usize) -> Self {
        Self { table: Mutex::new(Table::new(per_sender_max, all_max)), disk: Mutex::new(None) }
    }

    /// Those of the folder, which no other process may have then.
    ///
    /// # Errors
    /// [`StateError`].
    pub(crate) fn open(folder: &Path, me: AgentId, per_sender_max: usize, all_max: usize) -> Result<Self, StateError> {
        let (disk, sessions) = Incoming::open(folder, me)?;
        let mut table = Table::new(per_sender_max, all_max);
        for read in sessions {
            table.adopt((read.sender, read.session), read.chain);
        }
        Ok(Self { table: Mutex::new(table), disk: Mutex::new(Some(disk)) })
    }

    /// Opens a message with `open`. A session that is not known is made by `accept`, from the wrapped key that the
    /// message carries; `None` when it carries none.
    ///
    /// # Errors
    /// The code under which the message is refused. Nothing was changed then.
    pub(crate) fn open_message(
        &self,
        at: SessionUse,
        accept: impl FnOnce() -> Option<Result<ReceiveChain, RejectCode>>,
        open: impl Fn(&mut ReceiveChain) -> Result<Vec<u8>, SessionError>,
    ) -> Result<Opened, RejectCode> {
        let known = self.table().get(at.key);
        if let Some(chain) = known {
            return opened(open(&mut chain.lock().expect(UNPOISONED)), false);
        }
        let mut chain = accept().ok_or(RejectCode::UnknownSession)??;
        let payload = open(&mut chain);
        if payload.is_err() {
            return opened(payload, false);
        }
        // Two messages that both carry the wrapped key may be opened at once: the first one's session stays, and the
        // second one's is the same but for what it has opened, which opens again when it is asked for.
        let accepted = self.table().insert(at.key, chain);
        opened(payload, accepted)
    }

    /// Settles messages for good: when this returns, it is on disk that they are. One durable transaction for all of them,
    /// none if nothing is new.
    ///
    /// # Errors
    /// [`StateError`]: none of them may be acknowledged.
    pub(crate) fn settle(&self, uses: impl IntoIterator<Item = SessionUse>) -> Result<(), StateError> {
        let disk = self.disk.lock().expect(UNPOISONED);
        let mut changed: HashSet<SessionKey> = HashSet::new();
        for SessionUse { key, counter } in uses {
            // A session that went for want of room: nothing is left to remember the message by.
            let Some(chain) = self.table().get(key) else { continue };
            let mut chain = chain.lock().expect(UNPOISONED);
            if !chain.is_settled(counter) {
                chain.settle(counter);
                changed.insert(key);
            }
        }
        let (true, Some(disk)) = (!changed.is_empty(), disk.as_ref()) else { return Ok(()) };
        let (writes, removed) = self.table().take_changes(changed);
        let write = |(key, used, chain): (SessionKey, u64, Arc<Mutex<ReceiveChain>>)| {
            let chain = chain.lock().expect(UNPOISONED).to_bytes();
            Write { sender: key.0, session: key.1, used, chain }
        };
        let writes: Vec<Write> = writes.into_iter().map(write).collect();
        disk.commit(&writes, &removed)
    }

    /// Lets go of the file: another process may have it now. What is settled from now on is not remembered, and must not
    /// be acknowledged.
    pub(crate) fn release(&self) {
        drop(self.disk.lock().expect(UNPOISONED).take());
    }

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

#[derive(Debug)]
struct Table {
    sessions: HashMap<SessionKey, Entry>,
    by_use: BTreeMap<u64, SessionKey>,
    /// The sessions of each sender by their use.
    senders: HashMap<AgentId, BTreeMap<u64, SessionId>>,
    uses: u64,
    /// On disk, and to be removed there with the next transaction.
    removed: Vec<SessionKey>,
    per_sender_max: usize,
    all_max: usize,
}

#[derive(Debug)]
struct Entry {
    chain: Arc<Mutex<ReceiveChain>>,
    used: u64,
    on_disk: bool,
}

impl Table {
    fn new(per_sender_max: usize, all_max: usize) -> Self {
        assert!(0 < per_sender_max && per_sender_max <= all_max, "the session in use must have a place");
        Self {
            sessions: HashMap::new(),
            by_use: BTreeMap::new(),
            senders: HashMap::new(),
            uses: 0,
            removed: Vec::new(),
            per_sender_max,
            all_max,
        }
    }

    /// A known session, which is in use now.
    fn get(&mut self, key: SessionKey) -> Option<Arc<Mutex<ReceiveChain>>> {
        let entry = self.sessions.get_mut(&key)?;
        let chain = Arc::clone(&entry.chain);
        if entry.used < self.uses {
            let before = entry.used;
            self.uses += 1;
            entry.used = self.uses;
            self.unlist(key, before);
            self.list(key);
        }
        Some(chain)
    }

    fn adopt(&mut self, key: SessionKey, chain: ReceiveChain) {
        self.insert(key, chain);
        if let Some(entry) = self.sessions.get_mut(&key) {
            entry.on_disk = true;
        }
    }

    /// A new session; one that is there already stays. Whether it was new.
    fn insert(&mut self, key: SessionKey, chain: ReceiveChain) -> bool {
        if self.sessions.contains_key(&key) {
            return false;
        }
        self.uses += 1;
        let entry = Entry { chain: Arc::new(Mutex::new(chain)), used: self.uses, on_disk: false };
        self.sessions.insert(key, entry);
        self.list(key);
        let of_sender = &self.senders[&key.0];
        if of_sender.len() > self.per_sender_max {
            let (_, idle) = of_sender.first_key_value().expect("it has more than one");
            self.remove((key.0, *idle));
        }
        if self.sessions.len() > self.all_max {
            let (_, idle) = self.by_use.first_key_value().expect("every session is listed");
            self.remove(*idle);
        }
        true
    }

    fn remove(&mut self, key: SessionKey) {
        let entry = self.sessions.remove(&key).expect("every listed session is there");
        self.unlist(key, entry.used);
        if entry.on_disk {
            self.removed.push(key);
        }
    }

    fn list(&mut self, key: SessionKey) {
        self.by_use.insert(self.uses, key);
        self.senders.entry(key.0).or_default().insert(self.uses, key.1);
    }

    fn unlist(&mut self, key: SessionKey, used: u64) {
        self.by_use.remove(&used);
        if let Some(of_sender) = self.senders.get_mut(&key.0) {
            of_sender.remove(&used);
            if of_sender.is_empty() {
                self.senders.remove(&key.0);
            }
        }
    }

    /// What the next transaction writes and removes.
    #[allow(clippy::type_complexity, reason = "two lists, taken apart at once by the one caller")]
    fn take_changes(
        &mut self,
        changed: HashSet<SessionKey>,
    ) -> (Vec<(SessionKey, u64, Arc<Mutex<ReceiveChain>>)>, Vec<SessionKey>) {
        let mut writes = Vec::with_capacity(changed.len());
        for key in changed {
            let Some(entry) = self.sessions.get_mut(&key) else { continue };
            entry.on_disk = true;
            writes.push((key, entry.used, Arc::clone(&entry.chain)));
        }
        (writes, std::mem::take(&mut self.removed))
    }
}

#[cfg(test)]
mod tests;
