//! Verifies a log block by block.

use std::collections::BTreeMap;

use creto_crypto_accel::digest::sha256_each;
use creto_crypto_accel::merkle::leaf_hashes;

use super::{ExportError, Finding, Place};
use crate::chain::{CHAIN_DOMAIN, Chain, ChainHash};
use crate::checkpoint::SignedCheckpoint;
use crate::event::{ChainedEvent, SourceId, What};
use crate::limits::SALT_BYTES;
use crate::tile::{Entry, entries};
use crate::tree::{Frontier, Hash};

/// An event that was verified to be at its place in its chain. That it is in the log is known when the checkpoint's root is.
#[derive(Clone, Copy, Debug)]
pub struct Seen<'e> {
    /// Which leaf.
    pub index: u64,
    /// What it says.
    pub event: &'e ChainedEvent,
}

/// What was verified.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Summary {
    /// Leaves in all.
    pub leaves: u64,
    /// Those that are only hashes.
    pub hidden: u64,
    /// Of these, those before the first one that is there.
    pub hidden_first: u64,
    /// The log says, in a leaf that is there, that its entries before this leaf were dropped; zero: it says nothing of the kind.
    pub dropped_below: u64,
    /// Sources whose events were seen.
    pub sources: u64,
    /// Events that were found again after a crash.
    pub recovered: u64,
    /// Checkpoints whose root was computed again.
    pub checkpoints: u64,
}

/// Where a chain stands by the events that were seen.
struct Standing {
    position: u64,
    /// Not known after a hidden event.
    head: Option<ChainHash>,
    last: Option<Place>,
}

/// A size at which the root must be a signed one.
struct Milestone {
    checkpoint: SignedCheckpoint,
    is_since: bool,
}

/// Verifies a log from its first leaf on, against checkpoints that were verified before.
pub struct Verifier {
    origin: String,
    tree: Frontier,
    chains: BTreeMap<SourceId, Standing>,
    /// By size, descending: the next one is last.
    milestones: Vec<Milestone>,
    /// Leaves of the last checkpoint whose root was right.
    confirmed: u64,
    leaves: u64,
    /// Events that must be among the hidden leaves.
    missing: u64,
    summary: Summary,
    hashes: Vec<Hash>,
    chain_hashes: Vec<Hash>,
}

impl Verifier {
    /// For the log under `checkpoint`. `milestones` are older checkpoints of the log; `since` is one that was seen before.
    ///
    /// # Errors
    /// [`ExportError::RolledBack`] when the log is shorter than `since`.
    pub fn new(
        checkpoint: SignedCheckpoint,
        milestones: Vec<SignedCheckpoint>,
        since: Option<SignedCheckpoint>,
    ) -> Result<Self, ExportError> {
        let leaves = checkpoint.size;
        if let Some(since) = &since
            && since.size > leaves
        {
            return Err(ExportError::RolledBack { seen: since.size, found: leaves });
        }
        let origin = checkpoint.origin.clone();
        let of_log = milestones.into_iter().chain([checkpoint]).map(|checkpoint| (checkpoint, false));
        let mut milestones: Vec<_> = of_log
            .chain(since.map(|since| (since, true)))
            .filter(|(checkpoint, _)| checkpoint.size <= leaves)
            .map(|(checkpoint, is_since)| Milestone { checkpoint, is_since })
            .collect();
        // Of two of one size the one that was seen comes first: it is what the caller asked about.
        milestones.sort_by_key(|milestone| (std::cmp::Reverse(milestone.checkpoint.size), milestone.is_since));
        let mut verifier = Self {
            origin,
            tree: Frontier::new(),
            chains: BTreeMap::new(),
            milestones,
            confirmed: 0,
            leaves,
            missing: 0,
            summary: Summary::default(),
            hashes: Vec::new(),
            chain_hashes: Vec::new(),
        };
        verifier.check_milestones()?;
        Ok(verifier)
    }

    /// Leaves so far.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.tree.size()
    }

    /// Takes the next leaves: their entries as a bundle, and their hashes. `seen` is told of each event, in order.
    ///
    /// # Errors
    /// [`Finding`]: the first leaf that does not fit. The verifier is done then.
    pub fn block(&mut self, bundle: &[u8], tile: &[Hash], mut seen: impl FnMut(Seen<'_>)) -> Result<(), ExportError> {
        let begin = self.tree.size();
        if begin + tile.len() as u64 > self.leaves {
            return Err(ExportError::Form);
        }
        let (places, full) = split(bundle, tile.len(), begin)?;
        self.hashes.clear();
        leaf_hashes(full.iter().map(|(salt, event)| (*salt, *event)), &mut self.hashes);
        self.chain_hashes.clear();
        sha256_each([CHAIN_DOMAIN], full.iter().map(|(_, event)| *event), &mut self.chain_hashes);
        let mut next_full = 0;
        let mut from = 0;
        for (offset, is_full) in places.iter().enumerate() {
            let index = begin + offset as u64;
            self.summary.leaves += 1;
            if *is_full {
                let (event, hash) = (full[next_full].1, self.hashes[next_full]);
                let chain_hash = ChainHash(self.chain_hashes[next_full]);
                next_full += 1;
                let event = self.leaf(index, event, hash == tile[offset], chain_hash)?;
                self.summary.recovered += u64::from(event.event.is_recovered());
                if let What::EntriesDropped { below } = event.event.what {
                    self.summary.dropped_below = self.summary.dropped_below.max(below);
                }
                seen(Seen { index, event: &event });
            } else {
                self.summary.hidden_first += u64::from(self.summary.hidden == index);
                self.summary.hidden += 1;
            }
            if self.milestones.last().is_some_and(|next| next.checkpoint.size == index + 1) {
                self.tree.append(&tile[from..=offset], |_| ());
                from = offset + 1;
                self.check_milestones()?;
            }
        }
        self.tree.append(&tile[from..], |_| ());
        Ok(())
    }

    /// One leaf whose bytes are there.
    fn leaf(
        &mut self,
        index: u64,
        bytes: &[u8],
        is_hash_right: bool,
        chain_hash: ChainHash,
    ) -> Result<ChainedEvent, Finding> {
        let event = ChainedEvent::parse(bytes);
        let place = Place { index, event: event.ok().map(|event| (event.source, event.position)) };
        if !is_hash_right {
            return Err(Finding::LeafHash(place));
        }
        let event = event.map_err(|error| Finding::Event(place, error))?;
        let standing = self.chains.entry(event.source).or_insert_with(|| Standing {
            position: 0,
            head: Some(ChainHash::beginning(&self.origin, event.source)),
            last: None,
        });
        let expected = standing.position;
        if event.position < expected {
            return Err(Finding::Order { place, expected });
        }
        let gap = event.position - expected;
        if gap > 0 {
            self.missing = self.missing.saturating_add(gap);
            if self.missing > self.summary.hidden {
                return Err(Finding::Hole { place, expected });
            }
        } else if standing.head.is_some_and(|head| head != event.previous) {
            return Err(match standing.last {
                Some(last) => Finding::ChainHash { place: last, next: place },
                None => Finding::Beginning(place),
            });
        }
        let position = event.position.checked_add(1).ok_or(Finding::Order { place, expected })?;
        *standing = Standing { position, head: Some(chain_hash), last: Some(place) };
        Ok(event)
    }

    /// Holds the tree against what is signed for its size.
    fn check_milestones(&mut self) -> Result<(), Finding> {
        while self.milestones.last().is_some_and(|next| next.checkpoint.size == self.tree.size()) {
            let Some(milestone) = self.milestones.pop() else { break };
            let checkpoint = &milestone.checkpoint;
            let is_root_right = checkpoint.root == self.tree.root();
            if milestone.is_since && !is_root_right {
                return Err(Finding::Forked(checkpoint.size));
            }
            // First the chains: they know which leaf it is.
            self.check_chains(&checkpoint.sources, checkpoint.size)?;
            if !is_root_right {
                return Err(Finding::Root { from: self.confirmed, to: checkpoint.size });
            }
            self.confirmed = checkpoint.size;
            self.summary.checkpoints += 1;
        }
        Ok(())
    }

    /// Holds every chain against where the checkpoint says that it stands.
    fn check_chains(&self, signed: &[Chain], size: u64) -> Result<(), Finding> {
        let signed: BTreeMap<_, _> = signed.iter().map(|chain| (chain.source, chain)).collect();
        let mut unseen = 0_u64;
        for (source, standing) in &self.chains {
            let chain = signed.get(source).copied();
            let is_right = chain.is_some_and(|chain| {
                standing.position < chain.position
                    || standing.position == chain.position && standing.head == Some(chain.head)
            });
            if !is_right {
                let signed = chain.map_or(0, |chain| chain.position);
                let (chain, position, last) = (*source, standing.position, standing.last);
                return Err(Finding::Head { chain, size, position, signed, last });
            }
        }
        for (source, chain) in &signed {
            let position = self.chains.get(source).map_or(0, |standing| standing.position);
            unseen = unseen.saturating_add(chain.position - position);
        }
        let missing = self.missing.saturating_add(unseen);
        let hidden = self.summary.hidden;
        if missing != hidden { Err(Finding::Hidden { missing, hidden }) } else { Ok(()) }
    }

    /// Everything was taken: says what was verified.
    ///
    /// # Errors
    /// [`ExportError::Truncated`] when leaves are left.
    pub fn finish(mut self) -> Result<Summary, ExportError> {
        if self.tree.size() != self.leaves {
            return Err(ExportError::Truncated { leaf: self.tree.size(), leaves: self.leaves });
        }
        assert!(self.milestones.is_empty(), "each was checked at its size");
        self.summary.sources = self.chains.len() as u64;
        Ok(self.summary)
    }
}

type Full<'b> = Vec<(&'b [u8; SALT_BYTES], &'b [u8])>;

/// For each place whether its entry is there, and the entries.
fn split(bundle: &[u8], count: usize, begin: u64) -> Result<(Vec<bool>, Full<'_>), Finding> {
    let (mut places, mut full) = (Vec::with_capacity(count), Vec::with_capacity(count));
    for entry in entries(bundle) {
        let salted = match entry {
            Entry::Full(entry) => entry.split_first_chunk::<SALT_BYTES>(),
            Entry::Hidden => None,
            Entry::Broken => return Err(Finding::Bundle(begin + places.len() as u64)),
        };
        places.push(salted.is_some());
        full.extend(salted);
    }
    if places.len() != count {
        return Err(Finding::Bundle(begin + places.len().min(count) as u64));
    }
    Ok((places, full))
}
