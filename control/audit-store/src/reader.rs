//! Reads a log: bundles, tiles, nodes of the tree. While a node writes only what is signed is read, and that never changes.

use std::path::Path;

use creto_audit::limits::SALT_BYTES;
use creto_audit::tile::{Entry, TILE_WIDTH, entries};
use creto_audit::tree::{Frontier, Hash, Nodes, TILE_HEIGHT};
use creto_audit::{ChainedEvent, LogVerifier, SignedCheckpoint};

use crate::disk::{Disk, RealDisk};
use crate::error::StoreError;
use crate::layout::{HASH_BYTES, MILESTONES, SEGMENT_LEAVES, TILES, entries_file, hashes_file, milestone_file};
use crate::recovery::{damaged, read_checkpoint, read_note};

/// The nodes of the tree, from the files of hashes.
pub(crate) struct TreeFiles<'d, D> {
    disk: &'d D,
}

impl<'d, D: Disk> TreeFiles<'d, D> {
    pub(crate) fn new(disk: &'d D) -> Self {
        Self { disk }
    }

    fn hashes(&self, file: &str, first: u64, count: usize) -> Result<Vec<Hash>, StoreError> {
        let mut hashes = vec![[0; 32]; count];
        let read = self.disk.read_at(file, first * HASH_BYTES, hashes.as_flattened_mut());
        match read.map_err(StoreError::file("read", file))? {
            Some(bytes) if bytes == count * 32 => Ok(hashes),
            _ => Err(damaged(format!("{file} is shorter than the log"), first)),
        }
    }

    fn leaves(&self, first: u64, count: usize) -> Result<Vec<Hash>, StoreError> {
        self.hashes(&hashes_file(first / SEGMENT_LEAVES), first % SEGMENT_LEAVES, count)
    }
}

/// Hashes that are read at once.
const HASHES_READ: u64 = 4_096;

impl<D: Disk> Nodes for TreeFiles<'_, D> {
    type Error = StoreError;

    fn complete(&mut self, level: u8, index: u64) -> Result<Hash, StoreError> {
        // Leaf hashes below the tiles' roots, those of full tiles above.
        let is_in_tile = level < TILE_HEIGHT;
        let level = if is_in_tile { level } else { level - TILE_HEIGHT };
        let mut tree = Frontier::new();
        let (mut at, end) = (index << level, (index + 1) << level);
        while at < end {
            let count = usize::try_from((end - at).min(HASHES_READ)).expect("at most 4,096");
            let hashes = if is_in_tile { self.leaves(at, count)? } else { self.hashes(TILES, at, count)? };
            tree.append(&hashes, |_| ());
            at += count as u64;
        }
        Ok(tree.root())
    }
}

/// Reads what is signed of a log.
pub struct LogReader<D: Disk = RealDisk> {
    disk: D,
    checkpoint: SignedCheckpoint,
    verifier: LogVerifier,
}

/// 256 leaves, or what is left.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Block {
    /// The first leaf.
    pub first: u64,
    /// Entries, as in a bundle; of entries that were dropped only the places.
    pub bundle: Vec<u8>,
    /// Their hashes.
    pub tile: Vec<Hash>,
}

impl LogReader<RealDisk> {
    /// The log in this folder, with its own `audit.pub`.
    ///
    /// # Errors
    /// [`StoreError::NoLog`], or what does not hold.
    pub fn open(folder: &Path) -> Result<Self, StoreError> {
        let public = crate::keys::load_public(&folder.join(crate::layout::PUBLIC_KEYS))?;
        Self::with_disk(RealDisk::new(folder), LogVerifier::new(public)?)?
            .ok_or_else(|| StoreError::NoLog(folder.display().to_string()))
    }
}

impl<D: Disk> LogReader<D> {
    /// The log on this disk; `None` when nothing was signed yet.
    ///
    /// # Errors
    /// What does not hold.
    pub fn with_disk(disk: D, verifier: LogVerifier) -> Result<Option<Self>, StoreError> {
        let checkpoint = read_checkpoint(&disk, &verifier)?;
        Ok(checkpoint.map(|checkpoint| Self { disk, checkpoint, verifier }))
    }

    /// The checkpoint up to which this reads.
    #[must_use]
    pub fn checkpoint(&self) -> &SignedCheckpoint {
        &self.checkpoint
    }

    /// The log's public keys.
    #[must_use]
    pub fn verifier(&self) -> &LogVerifier {
        &self.verifier
    }

    /// Reads the checkpoint again; whether there is a newer one.
    ///
    /// # Errors
    /// What does not hold.
    pub fn refresh(&mut self) -> Result<bool, StoreError> {
        match read_checkpoint(&self.disk, &self.verifier)? {
            Some(checkpoint) if checkpoint.size > self.checkpoint.size => {
                self.checkpoint = checkpoint;
                Ok(true)
            }
            _ => Ok(false),
        }
    }

    /// The tree's nodes.
    #[must_use]
    pub fn nodes(&self) -> impl Nodes<Error = StoreError> + '_ {
        TreeFiles::new(&self.disk)
    }

    /// Older checkpoints that were kept, by size; what is not one of this log is left out.
    ///
    /// # Errors
    /// [`StoreError::File`].
    pub fn milestones(&self) -> Result<Vec<SignedCheckpoint>, StoreError> {
        let mut milestones = Vec::new();
        for name in self.disk.list(MILESTONES).map_err(StoreError::file("list", MILESTONES))? {
            let Ok(size) = name.parse::<u64>() else { continue };
            if let Some(note) = read_note(&self.disk, &milestone_file(size))? {
                milestones.extend(self.verifier.verify(&note).ok().filter(|found| found.size < self.checkpoint.size));
            }
        }
        Ok(milestones)
    }

    /// Up to which leaf everything was signed at `time_ms` or before, as far as whole files of entries go, by the clock of
    /// whoever signed it. Few checkpoints are read for it, however many there are.
    ///
    /// # Errors
    /// [`StoreError::File`].
    pub fn signed_before(&self, time_ms: u64) -> Result<u64, StoreError> {
        let names = self.disk.list(MILESTONES).map_err(StoreError::file("list", MILESTONES))?;
        let mut sizes: Vec<u64> = names.iter().filter_map(|name| name.parse().ok()).collect();
        sizes.sort_unstable();
        let (mut known, mut end) = (0, sizes.len());
        while known < end {
            let middle = usize::midpoint(known, end);
            let note = read_note(&self.disk, &milestone_file(sizes[middle]))?;
            let signed = note.and_then(|note| self.verifier.verify(&note).ok());
            // What cannot be read says nothing about its time.
            match signed.is_some_and(|signed| signed.size == sizes[middle] && signed.time_ms <= time_ms) {
                true => known = middle + 1,
                false => end = middle,
            }
        }
        Ok(known.checked_sub(1).map_or(0, |last| sizes[last] / SEGMENT_LEAVES * SEGMENT_LEAVES))
    }

    /// Reads block by block from the block of leaf `from` on. One segment's entries are in memory at a time, at most 19 MB.
    pub fn blocks(&self, from: u64) -> Blocks<'_, D> {
        let first = from - from % TILE_WIDTH as u64;
        Blocks { reader: self, next: first, segment: None }
    }

    /// The events of the leaves from `from` on that this version knows and whose entries are there, at most `limit` of them. One
    /// file of entries is read at most.
    ///
    /// # Errors
    /// What does not hold.
    pub fn events(&self, from: u64, limit: usize) -> Result<EventPage, StoreError> {
        let (mut events, mut next) = (Vec::new(), from);
        let size = self.checkpoint.size;
        if from >= size {
            return Ok(EventPage { events, next: None });
        }
        let end = size.min((from / SEGMENT_LEAVES + 1) * SEGMENT_LEAVES);
        let first = from - from % TILE_WIDTH as u64;
        let blocks = usize::try_from((end - first).div_ceil(TILE_WIDTH as u64)).expect("a segment is small");
        for block in self.blocks(from).take(blocks) {
            let block = block?;
            for (index, entry) in (block.first..end).zip(entries(&block.bundle)) {
                if index < from {
                    continue;
                }
                if events.len() == limit {
                    return Ok(EventPage { events, next: Some(index) });
                }
                next = index + 1;
                let Entry::Full(bytes) = entry else { continue };
                // What a later version wrote is not for this one to tell.
                let event = bytes.get(SALT_BYTES..).and_then(|bytes| ChainedEvent::parse(bytes).ok());
                events.extend(event.map(|event| (index, event)));
            }
        }
        Ok(EventPage { events, next: (next < self.checkpoint.size).then_some(next) })
    }

    /// The bytes of one entry.
    ///
    /// # Errors
    /// [`StoreError::NoLeaf`] when there is none, or when it was dropped.
    pub fn entry(&self, index: u64) -> Result<Vec<u8>, StoreError> {
        let block = self.blocks(index).next().transpose()?.ok_or(StoreError::NoLeaf(index))?;
        let place = usize::try_from(index - block.first).map_err(|_| StoreError::NoLeaf(index))?;
        match entries(&block.bundle).nth(place) {
            Some(Entry::Full(entry)) => Ok(entry.to_vec()),
            _ => Err(StoreError::NoLeaf(index)),
        }
    }
}

/// See [`LogReader::events`].
#[derive(Clone, Debug)]
pub struct EventPage {
    /// With their leaves.
    pub events: Vec<(u64, ChainedEvent)>,
    /// The leaf to read on from; none where the checkpoint ends.
    pub next: Option<u64>,
}

/// See [`LogReader::blocks`].
pub struct Blocks<'r, D: Disk> {
    reader: &'r LogReader<D>,
    next: u64,
    /// Which segment, its entries if they are there, and where the next bundle begins.
    segment: Option<(u64, Option<Vec<u8>>, usize)>,
}

impl<D: Disk> Blocks<'_, D> {
    fn read(&mut self) -> Result<Block, StoreError> {
        let size = self.reader.checkpoint.size;
        let (first, segment) = (self.next, self.next / SEGMENT_LEAVES);
        let count = usize::try_from(size - first).map_or(TILE_WIDTH, |left| left.min(TILE_WIDTH));
        let tile = TreeFiles::new(&self.reader.disk).leaves(first, count)?;
        if self.segment.as_ref().is_none_or(|(loaded, ..)| *loaded != segment) {
            let entries = self.load(segment)?;
            // Bundles have no index: those before are walked over.
            let before = usize::try_from(first % SEGMENT_LEAVES).expect("below 65,536");
            let at = entries.as_ref().map_or(Ok(0), |entries| walk(entries, 0, before, segment * SEGMENT_LEAVES))?;
            self.segment = Some((segment, entries, at));
        }
        let Some((_, entries, at)) = &mut self.segment else { unreachable!("loaded above") };
        let bundle = match entries {
            None => vec![0; 2 * count],
            Some(entries) => {
                let end = walk(entries, *at, count, first)?;
                let bundle = entries[*at..end].to_vec();
                *at = end;
                bundle
            }
        };
        self.next += count as u64;
        Ok(Block { first, bundle, tile })
    }

    /// `None` when the entries were dropped.
    fn load(&self, segment: u64) -> Result<Option<Vec<u8>>, StoreError> {
        let (disk, file) = (&self.reader.disk, entries_file(segment));
        let Some(length) = disk.length(&file).map_err(StoreError::file("read", &file))? else { return Ok(None) };
        let mut entries = vec![0; usize::try_from(length).unwrap_or(usize::MAX)];
        let read = disk.read_at(&file, 0, &mut entries).map_err(StoreError::file("read", &file))?;
        entries.truncate(read.unwrap_or(0));
        Ok(read.map(|_| entries))
    }
}

impl<D: Disk> Iterator for Blocks<'_, D> {
    type Item = Result<Block, StoreError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.next >= self.reader.checkpoint.size {
            return None;
        }
        let block = self.read();
        if block.is_err() {
            self.next = u64::MAX;
        }
        Some(block)
    }
}

/// Where `count` entries after `at` end.
fn walk(entries: &[u8], at: usize, count: usize, first: u64) -> Result<usize, StoreError> {
    let mut at = at;
    for place in 0..count {
        let length = entries.get(at..).and_then(|rest| rest.first_chunk::<2>());
        let end = length.map(|length| at + 2 + usize::from(u16::from_be_bytes(*length)));
        match end {
            Some(end) if end <= entries.len() => at = end,
            _ => return Err(damaged("a file of entries is shorter than the log", first + place as u64)),
        }
    }
    Ok(at)
}
