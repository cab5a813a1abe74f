//! Memory of verdicts, so that a root that comes again (a resend, a redelivery) costs one hash and no signature check.

use std::collections::{BTreeMap, VecDeque};

use super::{Item, SignatureError};
use crate::digest::{Hash, sha256};

#[cfg(test)]
mod tests;

/// Bounded memory of good **and** bad verdicts, under SHA-256(keys' fingerprint || statement || both signatures).
///
/// Good and bad verdicts have a bound of their own each, so a stranger who sends bad roots pushes out nothing but other
/// bad roots. Eviction is in order of arrival, the same in every run.
#[derive(Debug)]
pub struct RootCache {
    verdicts: BTreeMap<Hash, Result<(), SignatureError>>,
    good: VecDeque<Hash>,
    bad: VecDeque<Hash>,
    capacity: usize,
}

/// Names a statement with its keys and signatures. Only [`RootCache::look_up`] makes one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RootKey(Hash);

impl RootCache {
    /// A memory of at most `capacity` good and `capacity` bad verdicts, about 150 bytes each.
    ///
    /// # Panics
    /// If `capacity` is zero: a cache that holds nothing is a mistake in the configuration.
    pub fn new(capacity: usize) -> Self {
        assert!(capacity > 0, "a root cache holds at least one verdict");
        Self { verdicts: BTreeMap::new(), good: VecDeque::new(), bad: VecDeque::new(), capacity }
    }

    /// The verdict on `item`, remembered or made now.
    ///
    /// # Errors
    /// As [`super::VerifyingKeys::verify`].
    pub fn verify(&mut self, item: &Item<'_>) -> Result<(), SignatureError> {
        let key = cache_key(item);
        match self.verdicts.get(&key) {
            Some(verdict) => *verdict,
            None => self.remember(key, item.verify()),
        }
    }

    /// The name of `item` here, and its verdict if that is remembered. A verdict that is made elsewhere is brought back with
    /// [`RootCache::put`].
    pub fn look_up(&self, item: &Item<'_>) -> (RootKey, Option<Result<(), SignatureError>>) {
        let key = cache_key(item);
        (RootKey(key), self.verdicts.get(&key).copied())
    }

    /// Remembers a verdict that was made after [`RootCache::look_up`]. One that is there already stays.
    pub fn put(&mut self, key: RootKey, verdict: Result<(), SignatureError>) {
        if !self.verdicts.contains_key(&key.0) {
            // The verdict itself is what the caller has.
            let _ = self.remember(key.0, verdict);
        }
    }

    /// The verdicts on all items of one turn, remembered or made now; verdict `i` is that of item `i`.
    pub fn verify_turn(&mut self, items: &[Item<'_>]) -> Vec<Result<(), SignatureError>> {
        items.iter().map(|item| self.verify(item)).collect()
    }

    /// Number of verdicts held.
    pub fn len(&self) -> usize {
        self.verdicts.len()
    }

    /// True if no verdict is held.
    pub fn is_empty(&self) -> bool {
        self.verdicts.is_empty()
    }

    fn remember(&mut self, key: Hash, verdict: Result<(), SignatureError>) -> Result<(), SignatureError> {
        let queue = match verdict {
            Ok(()) => &mut self.good,
            Err(_) => &mut self.bad,
        };
        if queue.len() == self.capacity {
            let oldest = queue.pop_front().expect("the capacity is at least one");
            self.verdicts.remove(&oldest);
        }
        queue.push_back(key);
        self.verdicts.insert(key, verdict);
        assert_eq!(self.verdicts.len(), self.good.len() + self.bad.len(), "every verdict is in exactly one queue");
        verdict
    }
}

/// Everything but the statement has a fixed size, so the concatenation is unambiguous.
fn cache_key(item: &Item<'_>) -> Hash {
    sha256(&[item.keys.fingerprint(), item.statement, item.ed25519, item.ml_dsa_65])
}
