//! Takes events, makes them durable, signs what is durable.
//!
//! The order of a commit: entries and their hashes are written and synced, then the slot that speaks of them is written and
//! synced. Only then may a checkpoint of that size be signed; it replaces the last one by a rename. After the first write that
//! fails nothing is written any more.

use std::collections::{BTreeMap, BTreeSet};

use creto_audit::limits::{SALT_BYTES, SOURCES_MAX};
use creto_audit::tree::{Frontier, Hash};
use creto_audit::{Chain, Checkpoint, Event, Label, LogKeys, LogVerifier, SignedCheckpoint, SourceId, What};
use creto_crypto_accel::merkle::leaf_hashes;

use crate::commit::{Commit, Resume};
use crate::disk::Disk;
use crate::error::StoreError;
use crate::layout::{
    CHECKPOINT, CHECKPOINT_NEW, COMMIT, ENTRIES, HASH_BYTES, HASHES, MILESTONES, PENDING_BYTES_MAX, SEGMENT_LEAVES,
    TILES, entries_file, hashes_file, milestone_file,
};
use crate::recovery::{self, Recovered};

#[cfg(test)]
mod tests;

/// The one writer of a log.
pub struct Writer<D: Disk> {
    disk: D,
    keys: LogKeys,
    verifier: LogVerifier,
    tree: Frontier,
    sources: BTreeMap<SourceId, (Chain, Resume)>,
    /// Bytes of the entries of the last segment.
    entries_bytes: u64,
    last_commit: Commit,
    signed: Option<SignedCheckpoint>,
    last_milestone_segment: Option<u64>,
    /// Entries that are not written: as in a bundle.
    pending: Vec<u8>,
    /// Where each of them ends in `pending`.
    ends: Vec<usize>,
    salts: Vec<u8>,
    hashes: Vec<Hash>,
    tiles: Vec<Hash>,
    unsynced: BTreeSet<String>,
    has_new_files: bool,
    is_fenced: bool,
}

/// What is durable.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Committed {
    /// Leaves.
    pub size: u64,
}

/// Salts that are drawn at once.
const SALTS_DRAWN: usize = 1_024;

impl<D: Disk> Writer<D> {
    /// Opens the log, or begins one. What was written and not committed is cut off.
    ///
    /// # Errors
    /// [`StoreError::Damaged`] when what was committed or signed is not there as it was: nothing is changed then.
    pub fn open(mut disk: D, keys: LogKeys) -> Result<Self, StoreError> {
        let verifier = LogVerifier::new(keys.public().clone())?;
        let Recovered { commit, tree, signed } = recovery::recover(&mut disk, &verifier)?;
        let milestones = disk.list(MILESTONES).map_err(StoreError::file("list", MILESTONES))?;
        let last_milestone_segment =
            milestones.iter().filter_map(|name| name.parse::<u64>().ok()).max().map(|size| size / SEGMENT_LEAVES);
        Ok(Self {
            disk,
            keys,
            verifier,
            tree,
            sources: commit.sources.clone(),
            entries_bytes: commit.entries_bytes,
            last_commit: commit,
            signed,
            last_milestone_segment,
            pending: Vec::new(),
            ends: Vec::new(),
            salts: Vec::new(),
            hashes: Vec::new(),
            tiles: Vec::new(),
            unsynced: BTreeSet::new(),
            has_new_files: false,
            is_fenced: false,
        })
    }

    /// The keys that sign this log.
    #[must_use]
    pub fn keys(&self) -> &LogKeys {
        &self.keys
    }

    /// Where a source is to go on: what was last committed with [`Writer::set_resume`]. `None` when it never said anything.
    #[must_use]
    pub fn resume(&self, source: SourceId) -> Option<Resume> {
        self.last_commit.sources.get(&source).map(|(_, resume)| *resume)
    }

    /// Sources that told anything, or have a resume point.
    pub fn sources(&self) -> impl Iterator<Item = SourceId> {
        self.sources.keys().copied()
    }

    /// Leaves, with those that are not durable yet.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.tree.size() + self.ends.len() as u64
    }

    /// Leaves that are durable.
    #[must_use]
    pub fn durable_size(&self) -> u64 {
        self.last_commit.size
    }

    /// The last checkpoint.
    #[must_use]
    pub fn signed(&self) -> Option<&SignedCheckpoint> {
        self.signed.as_ref()
    }

    /// Appends events of one source. They are durable after [`Writer::commit`].
    ///
    /// # Errors
    /// [`StoreError::File`]: the log is closed then.
    pub fn append(&mut self, source: SourceId, events: &[Event]) -> Result<(), StoreError> {
        events.iter().try_for_each(|event| self.append_with_label(source, event, &Label::NONE))
    }

    /// Appends one event with its text.
    ///
    /// # Errors
    /// [`StoreError::File`]: the log is closed then.
    pub fn append_with_label(&mut self, source: SourceId, event: &Event, label: &Label) -> Result<(), StoreError> {
        self.check_fence()?;
        if self.salts.is_empty() {
            self.salts.resize(SALTS_DRAWN * SALT_BYTES, 0);
            getrandom::fill(&mut self.salts).map_err(StoreError::Random)?;
        }
        let begin = self.pending.len();
        self.pending.extend_from_slice(&[0; 2]);
        self.pending.extend(self.salts.drain(self.salts.len() - SALT_BYTES..));
        let (chain, _) = source_of(&mut self.sources, self.keys.public().origin(), source)?;
        chain.append(event, label, &mut self.pending);
        let bytes = u16::try_from(self.pending.len() - begin - 2).expect("an entry has below 300 bytes");
        self.pending[begin..begin + 2].copy_from_slice(&bytes.to_be_bytes());
        self.ends.push(self.pending.len());
        if self.pending.len() >= PENDING_BYTES_MAX { self.write() } else { Ok(()) }
    }

    /// Says from where a source is to go on after a crash, if everything before is appended. Durable with the next commit.
    ///
    /// # Errors
    /// [`StoreError::Sources`].
    pub fn set_resume(&mut self, source: SourceId, resume: Resume) -> Result<(), StoreError> {
        self.check_fence()?;
        source_of(&mut self.sources, self.keys.public().origin(), source)?.1 = resume;
        Ok(())
    }

    /// Makes everything durable that was appended, together with the resume points.
    ///
    /// # Errors
    /// [`StoreError::File`]: the log is closed then, and what is durable is known when it is opened again.
    pub fn commit(&mut self) -> Result<Committed, StoreError> {
        self.write()?;
        if self.sources == self.last_commit.sources && self.tree.size() == self.last_commit.size {
            return Ok(Committed { size: self.last_commit.size });
        }
        let commit = Commit {
            sequence: self.last_commit.sequence + 1,
            size: self.tree.size(),
            entries_bytes: self.entries_bytes,
            root: self.tree.root(),
            dropped_below: self.last_commit.dropped_below,
            sources: self.sources.clone(),
        };
        self.commit_as(commit)
    }

    fn commit_as(&mut self, commit: Commit) -> Result<Committed, StoreError> {
        if commit.size / SEGMENT_LEAVES == self.last_commit.size / SEGMENT_LEAVES {
            // Recovery makes the tiles of the last segment again.
            self.unsynced.remove(TILES);
        }
        self.fenced(|writer| {
            for file in std::mem::take(&mut writer.unsynced) {
                writer.disk.sync(&file).map_err(StoreError::file("sync", &file))?;
            }
            if std::mem::take(&mut writer.has_new_files) {
                for folder in [ENTRIES, HASHES, ""] {
                    writer.disk.sync_folder(folder).map_err(StoreError::file("sync the folder of", folder))?;
                }
            }
            writer
                .disk
                .write_at(COMMIT, commit.offset(), &commit.to_bytes())
                .map_err(StoreError::file("write", COMMIT))?;
            writer.disk.sync(COMMIT).map_err(StoreError::file("sync", COMMIT))
        })?;
        let size = commit.size;
        self.last_commit = commit;
        Ok(Committed { size })
    }

    /// Signs what is durable, if that is more than was signed, and replaces the checkpoint. The caller does it at most every
    /// second. `None` when there is nothing new.
    ///
    /// # Errors
    /// [`StoreError::File`]: the log is closed then.
    pub fn checkpoint(&mut self, now_ms: u64) -> Result<Option<&SignedCheckpoint>, StoreError> {
        self.check_fence()?;
        let commit = &self.last_commit;
        if self.signed.as_ref().is_some_and(|signed| signed.size == commit.size) {
            return Ok(None);
        }
        let has_told = |(chain, _): &&(Chain, Resume)| chain.position > 0;
        let checkpoint = Checkpoint {
            origin: self.keys.public().origin().to_owned(),
            size: commit.size,
            root: commit.root,
            time_ms: now_ms,
            sources: commit.sources.values().filter(has_told).map(|(chain, _)| *chain).collect(),
        };
        assert!(self.signed.as_ref().is_none_or(|signed| signed.size < checkpoint.size), "a log only grows");
        let note = checkpoint.sign(&self.keys);
        // Our own checkpoint is read as an auditor reads it, before anyone else can.
        let signed = self.verifier.verify(note.as_bytes())?;
        let segment = signed.size / SEGMENT_LEAVES;
        let is_milestone = self.last_milestone_segment.is_none_or(|last| last < segment);
        self.fenced(|writer| {
            writer.replace(CHECKPOINT, &note)?;
            if is_milestone { writer.replace(&milestone_file(signed.size), &note) } else { Ok(()) }
        })?;
        if is_milestone {
            self.last_milestone_segment = Some(segment);
        }
        self.signed = Some(signed);
        Ok(self.signed.as_ref())
    }

    /// A file that is the old one or the new one, whenever the power goes.
    fn replace(&mut self, file: &str, text: &str) -> Result<(), StoreError> {
        let disk = &mut self.disk;
        if disk.length(CHECKPOINT_NEW).map_err(StoreError::file("read", CHECKPOINT_NEW))?.is_some() {
            disk.remove(CHECKPOINT_NEW).map_err(StoreError::file("remove", CHECKPOINT_NEW))?;
        }
        disk.write_at(CHECKPOINT_NEW, 0, text.as_bytes()).map_err(StoreError::file("write", CHECKPOINT_NEW))?;
        disk.sync(CHECKPOINT_NEW).map_err(StoreError::file("sync", CHECKPOINT_NEW))?;
        disk.rename(CHECKPOINT_NEW, file).map_err(StoreError::file("replace", file))?;
        let folder = file.split_once('/').map_or("", |(folder, _)| folder);
        disk.sync_folder(folder).map_err(StoreError::file("sync the folder of", file))
    }

    /// Drops the entries of whole files before leaf `below`, as far as they are signed; their hashes stay. Control tells of it
    /// in the log itself, first. Returns before which leaf entries are gone now.
    ///
    /// # Errors
    /// [`StoreError::File`]: the log is closed then.
    pub fn drop_entries_before(&mut self, below: u64, now_ms: u64) -> Result<u64, StoreError> {
        let signed = self.signed.as_ref().map_or(0, |signed| signed.size);
        let segments = below.min(signed) / SEGMENT_LEAVES;
        let (below, before) = (segments * SEGMENT_LEAVES, self.last_commit.dropped_below);
        if below > before {
            let event = Event::new(now_ms, What::EntriesDropped { below });
            self.append_with_label(SourceId::CONTROL, &event, &Label::NONE)?;
            self.write()?;
            let commit = Commit {
                sequence: self.last_commit.sequence + 1,
                size: self.tree.size(),
                entries_bytes: self.entries_bytes,
                root: self.tree.root(),
                dropped_below: below,
                sources: self.sources.clone(),
            };
            self.commit_as(commit)?;
        }
        // Also what a crash left of an earlier time.
        let gone = self.last_commit.dropped_below / SEGMENT_LEAVES;
        self.fenced(|writer| {
            for name in writer.disk.list(ENTRIES).map_err(StoreError::file("list", ENTRIES))? {
                if name.parse::<u64>().is_ok_and(|segment| segment < gone) {
                    let file = format!("{ENTRIES}/{name}");
                    writer.disk.remove(&file).map_err(StoreError::file("remove", &file))?;
                }
            }
            Ok(())
        })?;
        Ok(self.last_commit.dropped_below)
    }

    /// Hashes what is pending and writes it, segment by segment. Nothing is synced.
    fn write(&mut self) -> Result<(), StoreError> {
        self.check_fence()?;
        let (mut from, mut begin) = (0, 0);
        while from < self.ends.len() {
            let size = self.tree.size();
            let (segment, within) = (size / SEGMENT_LEAVES, size % SEGMENT_LEAVES);
            let room = usize::try_from(SEGMENT_LEAVES - within).expect("below 65,537");
            let count = room.min(self.ends.len() - from);
            let end = self.ends[from + count - 1];
            self.hash(from, begin, count);
            let first_tile = size / 256;
            self.tiles.clear();
            let tiles = &mut self.tiles;
            self.tree.append(&self.hashes, |tile| tiles.push(tile));
            if within == 0 {
                self.entries_bytes = 0;
                self.has_new_files = true;
            }
            let (entries, hashes) = (entries_file(segment), hashes_file(segment));
            let (offset, pending) = (self.entries_bytes, begin..end);
            self.fenced(|writer| {
                let disk = &mut writer.disk;
                let bytes = &writer.pending[pending];
                disk.write_at(&entries, offset, bytes).map_err(StoreError::file("write", &entries))?;
                let bytes = writer.hashes.as_flattened();
                disk.write_at(&hashes, within * HASH_BYTES, bytes).map_err(StoreError::file("write", &hashes))?;
                if !writer.tiles.is_empty() {
                    let bytes = writer.tiles.as_flattened();
                    disk.write_at(TILES, first_tile * HASH_BYTES, bytes).map_err(StoreError::file("write", TILES))?;
                    writer.unsynced.insert(TILES.to_owned());
                }
                Ok(())
            })?;
            self.unsynced.extend([entries, hashes]);
            self.entries_bytes += (end - begin) as u64;
            if self.tree.size().is_multiple_of(SEGMENT_LEAVES) {
                self.entries_bytes = 0;
            }
            (from, begin) = (from + count, end);
        }
        self.pending.clear();
        self.ends.clear();
        Ok(())
    }

    fn hash(&mut self, from: usize, begin: usize, count: usize) {
        self.hashes.clear();
        let pending = &self.pending;
        let starts = std::iter::once(begin).chain(self.ends[from..].iter().copied());
        let entries: Vec<_> = starts
            .zip(&self.ends[from..from + count])
            .map(|(start, end)| {
                pending[start + 2..*end].split_first_chunk::<SALT_BYTES>().expect("an entry has a salt")
            })
            .collect();
        leaf_hashes(entries, &mut self.hashes);
    }

    fn check_fence(&self) -> Result<(), StoreError> {
        if self.is_fenced { Err(StoreError::Fenced) } else { Ok(()) }
    }

    /// What fails in here closes the log.
    fn fenced(&mut self, step: impl FnOnce(&mut Self) -> Result<(), StoreError>) -> Result<(), StoreError> {
        self.check_fence()?;
        let result = step(self);
        self.is_fenced = result.is_err();
        result
    }
}

fn source_of<'s>(
    sources: &'s mut BTreeMap<SourceId, (Chain, Resume)>,
    origin: &str,
    source: SourceId,
) -> Result<&'s mut (Chain, Resume), StoreError> {
    if sources.len() >= SOURCES_MAX && !sources.contains_key(&source) {
        return Err(StoreError::Sources(sources.len() + 1));
    }
    Ok(sources.entry(source).or_insert_with(|| (Chain::beginning(origin, source), [0; 32])))
}
