//! An agent's encryption keys: the current one, those that it replaced, and one that is about to be the next.
//!
//! ```text
//!            begin                  published                      erase
//! (nothing) -------> pending ----------------------> current     (nothing)
//!                       |                               |            ^
//!                       +-- the node has another one    v            |
//!                                       grace over, or an emergency  |
//!                                    replaced ------> leaving -------+
//! ```
//!
//! No IO, time is an argument. Whatever may be sealed to is here, so the pending key opens already: the node may have
//! published it although its answer was lost.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use creto_crypto_accel::seal::RecipientSecret;
use creto_envelope::KeyId;
use creto_envelope::control::RotationMode;
use zeroize::Zeroizing;

use crate::limits::KEY_UNUSED_MS_MIN;

/// One encryption key.
pub(super) struct Key {
    pub(super) version: u32,
    pub(super) seed: Zeroizing<[u8; 32]>,
    pub(super) secret: Arc<RecipientSecret>,
    /// When it last opened something, or was learned of: Unix milliseconds.
    used_ms: AtomicU64,
}

impl Key {
    pub(super) fn new(version: u32, seed: Zeroizing<[u8; 32]>, now_ms: u64) -> Self {
        let secret = Arc::new(RecipientSecret::from_seed(&seed));
        Self { version, seed, secret, used_ms: AtomicU64::new(now_ms) }
    }

    pub(super) fn id(&self) -> KeyId {
        KeyId(self.secret.key_id())
    }

    fn is_unused(&self, now_ms: u64) -> bool {
        now_ms.saturating_sub(self.used_ms.load(Ordering::Relaxed)) >= KEY_UNUSED_MS_MIN
    }
}

/// A key that another one replaced.
pub(super) struct Replaced {
    pub(super) key: Key,
    pub(super) at_ms: u64,
}

/// A key that is saved and not known to be published.
pub(super) struct Pending {
    pub(super) key: Key,
    pub(super) mode: RotationMode,
}

/// See the module.
pub(super) struct Ring {
    pub(super) current: Key,
    /// Newest first.
    pub(super) replaced: Vec<Replaced>,
    pub(super) pending: Option<Pending>,
    /// No longer in the file. Kept until what was accepted before they ended is opened.
    leaving: Vec<Key>,
    /// When it was last asked whose time is over; zero before the first time.
    looked_ms: u64,
}

/// How the keys stand to what the node says is current.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Standing {
    /// The node has the current key.
    Level,
    /// A key waits to be published.
    Unpublished,
    /// The node has a key that is not here: another copy of the keys replaced it.
    Behind,
}

impl Ring {
    pub(super) fn new(current: Key) -> Self {
        Self { current, replaced: Vec::new(), pending: None, leaving: Vec::new(), looked_ms: 0 }
    }

    fn all(&self) -> impl Iterator<Item = &Key> {
        let replaced = self.replaced.iter().map(|replaced| &replaced.key);
        let pending = self.pending.iter().map(|pending| &pending.key);
        std::iter::once(&self.current).chain(pending).chain(replaced).chain(&self.leaving)
    }

    /// Whether every key of another ring is here or was replaced by one that is.
    pub(super) fn holds(&self, other: &Self) -> bool {
        let is_here = |key: &Key| self.all().any(|own| own.id() == key.id());
        other.all().all(|key| key.version < self.current.version || is_here(key))
    }

    /// The secret half of a key, which is in use at `now_ms`.
    pub(super) fn opening(&self, key_id: KeyId, now_ms: u64) -> Option<Arc<RecipientSecret>> {
        let key = self.all().find(|key| key.id() == key_id)?;
        key.used_ms.store(now_ms, Ordering::Relaxed);
        Some(Arc::clone(&key.secret))
    }

    /// The key of this version is in use at `now_ms`.
    pub(super) fn touch(&self, version: u32, now_ms: u64) {
        self.all().filter(|key| key.version == version).for_each(|key| key.used_ms.store(now_ms, Ordering::Relaxed));
    }

    /// Gets the next key ready, as the version after the node's. A key that waits already is the one, but for an
    /// emergency: whoever has the old keys may have that one too.
    pub(super) fn begin(&mut self, mode: RotationMode, node_version: u32, seed: Zeroizing<[u8; 32]>, now_ms: u64) {
        let version = node_version.saturating_add(1);
        let waits = self.pending.as_ref().is_some_and(|pending| {
            pending.key.version == version && (mode == RotationMode::Planned || pending.mode == mode)
        });
        if !waits {
            let given_up = self.pending.replace(Pending { key: Key::new(version, seed, now_ms), mode });
            // It may have been published after all, when the node's answer is all that was lost.
            self.leaving.extend(given_up.map(|pending| pending.key));
        }
    }

    /// The pending key is published no more, unless the file brings it back. It still opens: it may have been published.
    pub(super) fn give_up_pending(&mut self) {
        self.leaving.extend(self.pending.take().map(|pending| pending.key));
    }

    /// The node has the pending key. Says whether this changed anything.
    pub(super) fn published(&mut self, version: u32, at_ms: u64) -> bool {
        let Some(Pending { key, mode }) = self.pending.take_if(|pending| pending.key.version == version) else {
            return false;
        };
        let before = std::mem::replace(&mut self.current, key);
        self.replaced.insert(0, Replaced { key: before, at_ms });
        if mode == RotationMode::Emergency {
            self.leaving.extend(self.replaced.drain(..).map(|replaced| replaced.key));
        }
        true
    }

    /// Holds the keys against the node's current record; a pending key is adopted, kept or dropped by it. Says how they
    /// stand, and whether this changed anything.
    pub(super) fn reconcile(&mut self, node_version: u32, node_key: KeyId, now_ms: u64) -> (Standing, bool) {
        if self.pending.as_ref().is_some_and(|p| p.key.version == node_version && p.key.id() == node_key) {
            return (Standing::Level, self.published(node_version, now_ms));
        }
        let next = node_version.saturating_add(1);
        let dropped = self.pending.take_if(|pending| pending.key.version != next);
        let changed = dropped.is_some();
        self.leaving.extend(dropped.map(|pending| pending.key));
        let standing = match &self.pending {
            // What is current on the node may be a replaced key here, when the node came back from a backup.
            _ if !self.all().any(|key| key.id() == node_key) => Standing::Behind,
            Some(_) => Standing::Unpublished,
            None => Standing::Level,
        };
        (standing, changed)
    }

    /// Takes keys out of the file whose grace period is over and that nothing needed lately. Says whether any.
    pub(super) fn end_grace(&mut self, grace_ms: u64, now_ms: u64) -> bool {
        let looked_ms = std::mem::replace(&mut self.looked_ms, now_ms);
        if looked_ms != 0 && now_ms.saturating_sub(looked_ms) >= KEY_UNUSED_MS_MIN {
            // The machine slept, or its clock was set: what came meanwhile had no time to need a key.
            self.all().for_each(|key| key.used_ms.store(now_ms, Ordering::Relaxed));
        }
        let before = self.replaced.len();
        self.replaced
            .retain(|replaced| now_ms < replaced.at_ms.saturating_add(grace_ms) || !replaced.key.is_unused(now_ms));
        self.leaving.retain(|key| !key.is_unused(now_ms));
        before != self.replaced.len()
    }

    /// Takes over what the file says now. What is only here leaves.
    pub(super) fn merge(&mut self, mut file: Self) {
        let known = |id| file.all().any(|key: &Key| key.id() == id);
        let replaced = self.replaced.drain(..).map(|replaced| replaced.key);
        let pending = self.pending.take().map(|pending| pending.key);
        let gone: Vec<Key> =
            replaced.chain(pending).chain(self.leaving.drain(..)).filter(|key| !known(key.id())).collect();
        let current_is_known = known(self.current.id());
        file.leaving.extend(gone);
        file.looked_ms = self.looked_ms;
        let before = std::mem::replace(self, file);
        if !current_is_known {
            self.leaving.push(before.current);
        }
    }

    /// Versions of the keys that can open, the current one first.
    #[cfg(test)]
    pub(super) fn versions(&self) -> Vec<u32> {
        self.all().map(|key| key.version).collect()
    }
}
