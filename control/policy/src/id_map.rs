//! A map from agent ids with a fixed hasher: the same in every run, and one load instead of a hash function.

use std::hash::{BuildHasherDefault, Hasher};

use creto_envelope::AgentId;

/// A map keyed by agents. Its order is never shown, because it follows the history of insertions.
pub(crate) type AgentMap<V> = hashbrown::HashMap<AgentId, V, BuildHasherDefault<IdHasher>>;

/// Takes eight bytes of an id as its hash: ids are SHA-256 outputs, so they are already spread evenly.
///
/// These are the *last* eight. The first eight choose the partition, and all ids of one shard share what those say.
/// Someone may search for names whose ids collide here, but a name enters the map only by a registration at the
/// node's own control socket, and each costs two signatures.
#[derive(Clone, Copy, Default)]
pub(crate) struct IdHasher(u64);

impl Hasher for IdHasher {
    fn write(&mut self, bytes: &[u8]) {
        if let Some(last) = bytes.last_chunk() {
            self.0 = u64::from_le_bytes(*last);
        }
    }

    // The length prefix of a byte array is the same for every id and says nothing.
    fn write_usize(&mut self, _: usize) {}

    fn finish(&self) -> u64 {
        self.0
    }
}
