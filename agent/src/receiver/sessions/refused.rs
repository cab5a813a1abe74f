//! Keys of messages that the application refused, beside the sessions that they came in.
//!
//! What was refused may lie in the mailbox for a month, as a dead letter, and its session goes for want of room long before.
//! So its key is copied here when it is refused. It goes when the message is acknowledged after all, when this process deletes
//! the dead letter, and when no mailbox keeps anything as old. Bounded per sender and in all: above, the oldest of that
//! sender, or of whoever has most, go first. Pure.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use creto_crypto_accel::Backend;
use creto_crypto_accel::seal::MessageKey;
use creto_envelope::{AgentId, RejectCode};
use zeroize::Zeroizing;

use super::{Sealed, SessionUse, Shares};
use crate::limits::{REFUSED_KEY_AGE_MAX, REFUSED_KEYS_LOOKED_THROUGH};

/// A key of one message. It never moves, so that none is left behind.
pub(crate) type RefusedKey = Arc<Zeroizing<[u8; 32]>>;

/// A refused message.
#[derive(Clone)]
pub(crate) struct Refused {
    /// None once it was acknowledged after all, when its session was gone: nothing else says so.
    pub(crate) key: Option<RefusedKey>,
    /// Higher was refused later.
    pub(crate) order: u64,
    /// By this machine's clock.
    pub(crate) refused_at_ms: u64,
    /// Its number in the mailbox; zero when the connection that it came on was gone.
    pub(crate) mailbox_sequence: u64,
}

/// Says nothing of the key.
impl std::fmt::Debug for Refused {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Refused").field("order", &self.order).finish_non_exhaustive()
    }
}

impl Refused {
    pub(super) fn open(&self, sealed: &Sealed<'_>) -> Result<Vec<u8>, RejectCode> {
        let key = self.key.as_ref().ok_or(RejectCode::UnknownSession)?;
        let opened =
            MessageKey::from_bytes(Backend::AwsLc, (**key).clone()).open(&sealed.nonce, sealed.aad, sealed.payload);
        opened.map_err(|_| RejectCode::EnvelopeSeal)
    }
}

/// See the module.
#[derive(Debug)]
pub(super) struct RefusedKeys {
    of: HashMap<SessionUse, Refused>,
    /// Those of each sender by their order.
    senders: HashMap<AgentId, BTreeMap<u64, SessionUse>>,
    counts: Shares,
    order: u64,
    /// What the next transaction writes, or removes if it is gone.
    changed: HashSet<SessionUse>,
    /// When to look for what is too old.
    look_at_ms: u64,
    sender_max: usize,
    all_max: usize,
}

impl RefusedKeys {
    pub(super) fn new(sender_max: usize, all_max: usize) -> Self {
        assert!(0 < sender_max && sender_max <= all_max, "what was refused last must have a place");
        Self {
            of: HashMap::new(),
            senders: HashMap::new(),
            counts: Shares::default(),
            order: 0,
            changed: HashSet::new(),
            look_at_ms: 0,
            sender_max,
            all_max,
        }
    }

    /// One from the disk, which come by their order.
    pub(super) fn adopt(&mut self, at: SessionUse, refused: Refused) {
        self.order = self.order.max(refused.order);
        self.insert(at, refused);
    }

    pub(super) fn get(&self, at: SessionUse) -> Option<Refused> {
        self.of.get(&at).cloned()
    }

    /// A message was refused that its session has the key of. Refused again, it keeps its place.
    pub(super) fn keep(&mut self, at: SessionUse, key: &[u8; 32], mailbox_sequence: u64, now_ms: u64) {
        if self.of.contains_key(&at) {
            return;
        }
        self.order += 1;
        let key = Some(Arc::new(Zeroizing::new(*key)));
        self.changed.insert(at);
        self.insert(at, Refused { key, order: self.order, refused_at_ms: now_ms, mailbox_sequence });
    }

    /// A message was acknowledged after all, and its session says so from now on.
    pub(super) fn remove(&mut self, at: SessionUse) {
        let Some(refused) = self.of.remove(&at) else { return };
        let of_sender = self.senders.get_mut(&at.key.0).expect(LISTED);
        of_sender.remove(&refused.order).expect(LISTED);
        if of_sender.is_empty() {
            self.senders.remove(&at.key.0);
        }
        self.counts.change(at.key.0, 1, 0);
        self.changed.insert(at);
    }

    /// A message was acknowledged after all whose session is gone: its key goes.
    pub(super) fn settle(&mut self, at: SessionUse) {
        if self.of.get_mut(&at).is_some_and(|refused| refused.key.take().is_some()) {
            self.changed.insert(at);
        }
    }

    /// These dead letters were deleted: which messages they were.
    pub(super) fn purge(&mut self, mailbox_sequences: &HashSet<u64>) -> Vec<SessionUse> {
        self.remove_all(|refused| mailbox_sequences.contains(&refused.mailbox_sequence))
    }

    /// Removes what is older than anything that a mailbox keeps. It looks once in a while.
    pub(super) fn expire(&mut self, now_ms: u64) {
        if now_ms < self.look_at_ms {
            return;
        }
        let millis = |span: std::time::Duration| u64::try_from(span.as_millis()).expect("a span of days");
        self.look_at_ms = now_ms.saturating_add(millis(REFUSED_KEYS_LOOKED_THROUGH));
        let oldest_ms = now_ms.saturating_sub(millis(REFUSED_KEY_AGE_MAX));
        self.remove_all(|refused| refused.refused_at_ms < oldest_ms);
    }

    /// What changed since the last time: none is gone.
    pub(super) fn take_changes(&mut self) -> Vec<(SessionUse, Option<Refused>)> {
        let changed = std::mem::take(&mut self.changed);
        changed.into_iter().map(|at| (at, self.get(at))).collect()
    }

    /// The transaction with these changes failed.
    pub(super) fn take_back(&mut self, changes: Vec<(SessionUse, Option<Refused>)>) {
        self.changed.extend(changes.into_iter().map(|(at, _)| at));
    }

    fn insert(&mut self, at: SessionUse, refused: Refused) {
        let (sender, order) = (at.key.0, refused.order);
        let before = self.of.insert(at, refused);
        assert!(before.is_none(), "a message is listed once");
        self.senders.entry(sender).or_default().insert(order, at);
        self.counts.change(sender, 0, 1);
        while self.counts.of(sender) > self.sender_max {
            self.remove_oldest(sender);
        }
        while self.counts.total > self.all_max {
            self.remove_oldest(self.counts.largest());
        }
    }

    fn remove_oldest(&mut self, sender: AgentId) {
        let at = *self.senders[&sender].first_key_value().expect(LISTED).1;
        self.remove(at);
    }

    fn remove_all(&mut self, wanted: impl Fn(&Refused) -> bool) -> Vec<SessionUse> {
        let found: Vec<SessionUse> = self.of.iter().filter(|(_, refused)| wanted(refused)).map(|(at, _)| *at).collect();
        found.iter().for_each(|at| self.remove(*at));
        found
    }
}

const LISTED: &str = "every refused message is listed under its sender, and only those";

#[cfg(test)]
mod tests;
