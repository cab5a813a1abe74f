//! A whole key log in memory: what a node keeps in its directory, for tests of either end.

use std::collections::BTreeMap;
use std::convert::Infallible;

use creto_audit::LogKeys;
use creto_audit::tree::{Hash, Nodes, completed_by, consistency_proof, inclusion_proof, root_at};
use creto_envelope::AgentId;
use creto_envelope::key_log::{
    KEY_LEAF_BYTES, KeyLeaves, KeyLeavesRequest, KeyLogRefusal, KeyProof, KeyProofRequest, ProvenKey,
};
use creto_envelope::limits::KEY_LEAVES_MAX;
use creto_envelope::{KeyRecord, RejectCode};

use crate::head::TreeHead;
use crate::leaf::{KeyLeaf, LeafKind};

#[cfg(test)]
mod tests;

/// The log.
#[derive(Debug, Default)]
pub struct MemoryLog {
    leaves: Vec<KeyLeaf>,
    nodes: Subtrees,
    places: BTreeMap<(AgentId, u32), u64>,
}

#[derive(Debug, Default)]
struct Subtrees(BTreeMap<(u8, u64), Hash>);

impl Nodes for Subtrees {
    type Error = Infallible;

    fn complete(&mut self, level: u8, index: u64) -> Result<Hash, Infallible> {
        Ok(self.0[&(level, index)])
    }
}

impl MemoryLog {
    /// Without a leaf.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Number of leaves.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.leaves.len() as u64
    }

    /// Appends a leaf, whatever it says. Returns its index.
    pub fn append(&mut self, leaf: KeyLeaf) -> u64 {
        let index = self.size();
        let Ok(()) = completed_by(&mut self.nodes, index, leaf.hash(), |nodes, level, at, hash| {
            nodes.0.insert((level, at), hash);
            Ok(())
        });
        self.leaves.push(leaf);
        if leaf.kind.is_record() {
            self.places.insert((leaf.agent, leaf.version), index);
        }
        index
    }

    /// Appends the leaf of a record, if the log does not have it yet.
    pub fn enter(&mut self, record: &KeyRecord, time_ms: u64) {
        if !self.places.contains_key(&(record.agent_id(), record.version)) {
            let kind = if record.version == 1 { LeafKind::Enrolled } else { LeafKind::Rotated };
            self.append(KeyLeaf::of(record, kind, time_ms));
        }
    }

    /// The tree of the first `size` leaves.
    ///
    /// # Panics
    /// When it has not so many.
    #[must_use]
    pub fn head(&mut self, size: u64, time_ms: u64) -> TreeHead {
        assert!(size <= self.size(), "{size} of {} leaves", self.size());
        let Ok(root) = root_at(&mut self.nodes, size);
        TreeHead { size, root, time_ms }
    }

    /// The path of a leaf in the tree of the first `size` leaves.
    #[must_use]
    pub fn path(&mut self, index: u64, size: u64) -> Vec<Hash> {
        let Ok(path) = inclusion_proof(&mut self.nodes, index, size);
        path
    }

    /// The proof that the tree of `size` leaves begins with that of `old`.
    #[must_use]
    pub fn consistency(&mut self, old: u64, size: u64) -> Vec<Hash> {
        let Ok(proof) = consistency_proof(&mut self.nodes, old, size);
        proof
    }

    /// The leaf with this index.
    ///
    /// # Panics
    /// When there is none.
    #[must_use]
    pub fn leaf(&self, index: u64) -> &KeyLeaf {
        let index = usize::try_from(index).expect("a log in memory");
        &self.leaves[index]
    }

    /// Answers a question as an honest node does.
    #[must_use]
    pub fn prove(&mut self, question: &KeyProofRequest, keys: &LogKeys, now_ms: u64) -> KeyProof {
        let KeyProofRequest { agent, version, seen, wants_keys } = *question;
        let size = self.size();
        let answer = match self.places.get(&(agent, version)) {
            None => Err(KeyLogRefusal::from(RejectCode::UnknownKeyVersion)),
            Some(&index) => Ok(ProvenKey {
                size,
                index,
                leaf: self.leaf(index).to_bytes(),
                path: self.path(index, size),
                consistency: if seen < size { self.consistency(seen, size) } else { Vec::new() },
                note: if seen == size { Vec::new() } else { self.head(size, now_ms).sign(keys).into_bytes() },
                keys: if wants_keys { keys.public().to_text().into_bytes() } else { Vec::new() },
            }),
        };
        KeyProof { agent, version, answer }
    }

    /// The leaves that were asked for.
    #[must_use]
    pub fn leaves(&self, question: &KeyLeavesRequest) -> KeyLeaves {
        let KeyLeavesRequest { from, through } = *question;
        let end = through.min(self.size()).min(from.saturating_add(KEY_LEAVES_MAX as u64));
        let leaves: Vec<[u8; KEY_LEAF_BYTES]> = (from..end).map(|index| self.leaf(index).to_bytes()).collect();
        KeyLeaves { from, answer: Ok(leaves) }
    }
}
