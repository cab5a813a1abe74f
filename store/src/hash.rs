//! A keyed hash for ids that strangers choose.
//!
//! Message ids come from senders: with a known hash one could choose ids that all collide, and make every lookup walk
//! through them. The key is drawn at start and never leaves the process. Nothing iterates in hash order, so the key changes
//! no result, only where things lie in memory.

use std::hash::{BuildHasher, Hasher};

/// The key of a table's hash.
#[derive(Debug, Clone, Copy)]
pub(crate) struct HashKey(pub(crate) [u64; 2]);

/// Folds eight bytes at a time with a 64 x 64 -> 128 bit product.
#[derive(Debug)]
pub(crate) struct KeyedHasher {
    state: u64,
    key: u64,
}

impl HashKey {
    /// The hash of an id.
    pub(crate) fn hash_id(&self, id: &[u8; 16]) -> u64 {
        let mut hasher = self.build_hasher();
        hasher.write(id);
        hasher.finish()
    }
}

impl BuildHasher for HashKey {
    type Hasher = KeyedHasher;

    fn build_hasher(&self) -> KeyedHasher {
        // An even factor would lose bits with every product.
        KeyedHasher { state: self.0[0], key: self.0[1] | 1 }
    }
}

impl Hasher for KeyedHasher {
    fn write(&mut self, bytes: &[u8]) {
        let (words, rest) = bytes.as_chunks::<8>();
        for word in words {
            self.write_u64(u64::from_le_bytes(*word));
        }
        if !rest.is_empty() {
            let mut word = [0; 8];
            word[..rest.len()].copy_from_slice(rest);
            self.write_u64(u64::from_le_bytes(word));
        }
    }

    fn write_u64(&mut self, word: u64) {
        self.state = fold(self.state ^ word, self.key).wrapping_add(word.rotate_left(32));
    }

    fn write_usize(&mut self, word: usize) {
        self.write_u64(word as u64);
    }

    fn finish(&self) -> u64 {
        fold(self.state, self.key ^ 0x9e37_79b9_7f4a_7c15)
    }
}

fn fold(a: u64, b: u64) -> u64 {
    let (low, high) = a.carrying_mul(b, 0);
    low ^ high
}
