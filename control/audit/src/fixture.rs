//! A small log in memory, for tests.

use std::collections::BTreeMap;

use creto_envelope::{AgentId, MessageId};

use crate::chain::Chain;
use crate::checkpoint::{Checkpoint, LogVerifier, SignedCheckpoint};
use crate::event::{ChannelId, Event, Label, SourceId, What};
use crate::keys::LogKeys;
use crate::proof::entry_hash;
use crate::tile::{TILE_WIDTH, push_entry, push_hidden};
use crate::tree::{Frontier, Hash, Nodes};

pub(crate) const ORIGIN: &str = "creto.local/creto-audit/node-1";

pub(crate) fn keys() -> LogKeys {
    LogKeys::from_seeds(ORIGIN, &[1; 32], &[2; 32]).unwrap()
}

pub(crate) fn verifier() -> LogVerifier {
    LogVerifier::new(keys().public().clone()).unwrap()
}

#[derive(Clone, Default)]
pub(crate) struct Log {
    pub(crate) entries: Vec<Option<Vec<u8>>>,
    pub(crate) hashes: Vec<Hash>,
    chains: BTreeMap<SourceId, Chain>,
    signed_at: Vec<(usize, BTreeMap<SourceId, Chain>)>,
}

impl Log {
    /// `count` events of three sources, in an uneven mix.
    pub(crate) fn of(count: u64) -> Self {
        let mut log = Self::default();
        for index in 0..count {
            let source = [SourceId::shard(0), SourceId::CONTROL, SourceId::shard(1)][(index * index % 3) as usize];
            log.push(source, &Event::new(1_000 + index, what(index)), &Label::NONE);
        }
        log
    }

    pub(crate) fn push(&mut self, source: SourceId, event: &Event, label: &Label) {
        let index = self.entries.len() as u64;
        let mut entry = vec![0; 16];
        entry[..8].copy_from_slice(&index.to_le_bytes());
        let chain = self.chains.entry(source).or_insert_with(|| Chain::beginning(ORIGIN, source));
        chain.append(event, label, &mut entry);
        self.hashes.push(entry_hash(&entry).unwrap());
        self.entries.push(Some(entry));
        self.signed_at.push((self.entries.len(), self.chains.clone()));
    }

    pub(crate) fn root(&self, size: usize) -> Hash {
        let mut tree = Frontier::new();
        tree.append(&self.hashes[..size], |_| ());
        tree.root()
    }

    pub(crate) fn checkpoint(&self, size: usize) -> SignedCheckpoint {
        let none = BTreeMap::new();
        let sources = self.signed_at.iter().find(|(at, _)| *at == size).map_or(&none, |(_, chains)| chains);
        let checkpoint = Checkpoint {
            origin: ORIGIN.to_owned(),
            size: size as u64,
            root: self.root(size),
            time_ms: 1_764_460_800_000,
            sources: sources.values().copied().collect(),
        };
        verifier().verify(checkpoint.sign(&keys()).as_bytes()).unwrap()
    }

    /// Bundle and tile, block by block.
    pub(crate) fn blocks(&self) -> Vec<(Vec<u8>, Vec<Hash>)> {
        let blocks = self.entries.chunks(TILE_WIDTH).zip(self.hashes.chunks(TILE_WIDTH));
        blocks.map(|(entries, tile)| (bundle(entries), tile.to_vec())).collect()
    }
}

fn bundle(entries: &[Option<Vec<u8>>]) -> Vec<u8> {
    let mut bundle = Vec::new();
    for entry in entries {
        match entry {
            Some(entry) => push_entry(&mut bundle, entry),
            None => push_hidden(&mut bundle),
        }
    }
    bundle
}

pub(crate) fn what(index: u64) -> What {
    let id = |first: u8| AgentId([first; 16]);
    match index % 4 {
        0 => What::Delivered { mailbox: id(3), sequence: index },
        1 => What::Revived { mailbox: id(4), sequence: index },
        _ => What::Accepted {
            sender: id(5),
            recipient: id(6),
            message_id: MessageId([u8::try_from(index % 251).unwrap(); 16]),
            channel: ChannelId::default(),
            sequence: index,
            envelope_bytes: 1_024,
            key_version: 1,
            priority: 1,
            message_kind: 0,
        },
    }
}

impl Nodes for Log {
    type Error = std::convert::Infallible;

    fn complete(&mut self, level: u8, index: u64) -> Result<Hash, Self::Error> {
        let begin = usize::try_from(index << level).unwrap();
        let mut tree = Frontier::new();
        tree.append(&self.hashes[begin..begin + (1 << level)], |_| ());
        Ok(tree.root())
    }
}
