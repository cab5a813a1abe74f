//! Opens a log: finds what was committed last, cuts off what was written after it, and holds the rest against what was signed.

use std::collections::BTreeMap;

use creto_audit::limits::NOTE_BYTES_MAX;
use creto_audit::proof::entry_hash;
use creto_audit::tile::{Entry, TILE_WIDTH, entries};
use creto_audit::tree::{Frontier, Hash, root_at};
use creto_audit::{LogVerifier, SignedCheckpoint};

use crate::commit::{Commit, Slot};
use crate::disk::Disk;
use crate::error::StoreError;
use crate::layout::{
    CHECKPOINT, COMMIT, ENTRIES, HASH_BYTES, HASHES, MILESTONES, SEGMENT_LEAVES, SLOT_BYTES, TILES, entries_file,
    hashes_file,
};
use crate::reader::TreeFiles;

/// A log that is opened.
pub(crate) struct Recovered {
    pub(crate) commit: Commit,
    pub(crate) tree: Frontier,
    pub(crate) signed: Option<SignedCheckpoint>,
}

pub(crate) fn recover<D: Disk>(disk: &mut D, log: &LogVerifier) -> Result<Recovered, StoreError> {
    let signed = read_checkpoint(disk, log)?;
    let signed_size = signed.as_ref().map_or(0, |signed| signed.size);
    let commit = read_commit(disk)?;
    let commit = match commit {
        Some(commit) if commit.size >= signed_size => commit,
        Some(commit) => return Err(damaged("the commit file says less than the signed checkpoint", commit.size)),
        None if signed.is_some() => return Err(damaged("there is a signed checkpoint and no commit file", 0)),
        None => begin(),
    };
    // First everything is looked at, and only then anything is changed: a damaged log is kept as it was found.
    let (segment, within) = (commit.size / SEGMENT_LEAVES, commit.size % SEGMENT_LEAVES);
    let hashes = read_last_segment(disk, &commit, segment, within)?;
    let tiles_before = segment * (SEGMENT_LEAVES / TILE_WIDTH as u64);
    if length(disk, TILES)?.unwrap_or(0) < tiles_before * HASH_BYTES {
        return Err(damaged("the hashes of full tiles are missing", 0));
    }
    let mut tree = Frontier::read(&mut TreeFiles::new(disk), segment * SEGMENT_LEAVES)?;
    let mut tiles: Vec<Hash> = Vec::new();
    tree.append(&hashes, |tile| tiles.push(tile));
    if tree.root() != commit.root {
        return Err(damaged("the hashes have another root than was committed", segment * SEGMENT_LEAVES));
    }
    cut(disk, &commit, segment, within, tiles_before, &tiles)?;
    // What was signed is read from the files themselves, not from what was just computed.
    if let Some(signed) = &signed
        && root_at(&mut TreeFiles::new(disk), signed.size)? != signed.root
    {
        return Err(damaged("the hashes have another root than was signed", 0));
    }
    Ok(Recovered { commit, tree, signed })
}

fn begin() -> Commit {
    let root = Frontier::new().root();
    Commit { sequence: 0, size: 0, entries_bytes: 0, root, dropped_below: 0, sources: BTreeMap::new() }
}

pub(crate) fn damaged(what: impl Into<String>, leaf: u64) -> StoreError {
    StoreError::Damaged { what: what.into(), leaf }
}

fn length<D: Disk>(disk: &D, file: &str) -> Result<Option<u64>, StoreError> {
    disk.length(file).map_err(StoreError::file("read", file))
}

pub(crate) fn read_checkpoint<D: Disk>(disk: &D, log: &LogVerifier) -> Result<Option<SignedCheckpoint>, StoreError> {
    read_note(disk, CHECKPOINT)?.map(|note| Ok(log.verify(&note)?)).transpose()
}

pub(crate) fn read_note<D: Disk>(disk: &D, file: &str) -> Result<Option<Vec<u8>>, StoreError> {
    let mut note = vec![0; NOTE_BYTES_MAX + 1];
    let read = disk.read_at(file, 0, &mut note).map_err(StoreError::file("read", file))?;
    Ok(read.map(|bytes| {
        note.truncate(bytes);
        note
    }))
}

pub(crate) fn read_commit<D: Disk>(disk: &D) -> Result<Option<Commit>, StoreError> {
    let mut bytes = vec![0; 2 * SLOT_BYTES];
    let Some(read) = disk.read_at(COMMIT, 0, &mut bytes).map_err(StoreError::file("read", COMMIT))? else {
        return Ok(None);
    };
    bytes.truncate(read);
    let mut newest: Option<Commit> = None;
    for slot in bytes.chunks(SLOT_BYTES) {
        match Commit::parse(slot) {
            Slot::Version(version) => return Err(StoreError::Version(version)),
            Slot::Whole(commit) if newest.as_ref().is_none_or(|newest| newest.sequence < commit.sequence) => {
                newest = Some(commit);
            }
            Slot::Whole(_) | Slot::Torn => {}
        }
    }
    // The first commit goes into the second slot. Whoever wrote into the first one had a whole second one.
    if newest.is_none() && bytes.iter().take(SLOT_BYTES).any(|byte| *byte != 0) {
        return Err(damaged("both slots of the commit file are broken", 0));
    }
    Ok(newest)
}

/// The hashes of the last segment, after its entries were held against them.
fn read_last_segment<D: Disk>(disk: &D, commit: &Commit, segment: u64, within: u64) -> Result<Vec<Hash>, StoreError> {
    if within == 0 {
        return Ok(Vec::new());
    }
    let first = segment * SEGMENT_LEAVES;
    let file = hashes_file(segment);
    let count = usize::try_from(within).expect("below 65,536");
    let mut hashes = vec![[0; 32]; count];
    let read = disk.read_at(&file, 0, hashes.as_flattened_mut()).map_err(StoreError::file("read", &file))?;
    if read != Some(count * 32) {
        return Err(damaged(format!("{file} is shorter than was committed"), first + read.unwrap_or(0) as u64 / 32));
    }
    let file = entries_file(segment);
    let mut bundle = vec![0; usize::try_from(commit.entries_bytes).unwrap_or(usize::MAX).min(MOST_SEGMENT_BYTES)];
    let read = disk.read_at(&file, 0, &mut bundle).map_err(StoreError::file("read", &file))?;
    bundle.truncate(read.unwrap_or(0));
    let mut checked = 0;
    for (entry, hash) in entries(&bundle).zip(&hashes) {
        let is_right = matches!(entry, Entry::Full(entry) if entry_hash(entry) == Some(*hash));
        if !is_right {
            return Err(damaged(format!("an entry in {file} was changed"), first + checked));
        }
        checked += 1;
    }
    if checked != within || bundle.len() as u64 != commit.entries_bytes {
        return Err(damaged(format!("{file} is shorter than was committed"), first + checked));
    }
    Ok(hashes)
}

const MOST_SEGMENT_BYTES: usize = 65_536 * (2 + creto_audit::limits::ENTRY_BYTES_MAX);

/// Cuts off what is behind the last commit, and writes again the tiles of the last segment, which are not synced with it.
fn cut<D: Disk>(
    disk: &mut D,
    commit: &Commit,
    segment: u64,
    within: u64,
    tiles_before: u64,
    tiles: &[Hash],
) -> Result<(), StoreError> {
    for folder in [ENTRIES, HASHES, MILESTONES] {
        disk.make_folder(folder).map_err(StoreError::file("make", folder))?;
    }
    let last =
        [(ENTRIES, entries_file(segment), commit.entries_bytes), (HASHES, hashes_file(segment), within * HASH_BYTES)];
    for (folder, file, bytes) in last {
        for name in disk.list(folder).map_err(StoreError::file("list", folder))? {
            let is_later = name.parse::<u64>().is_ok_and(|other| other > segment || other == segment && within == 0);
            if is_later {
                let file = format!("{folder}/{name}");
                disk.remove(&file).map_err(StoreError::file("remove", &file))?;
            }
        }
        if within > 0 && length(disk, &file)?.is_some_and(|length| length > bytes) {
            disk.cut(&file, bytes).map_err(StoreError::file("cut", &file))?;
            disk.sync(&file).map_err(StoreError::file("sync", &file))?;
        }
    }
    let tiles_end = (tiles_before + tiles.len() as u64) * HASH_BYTES;
    if !tiles.is_empty() {
        disk.write_at(TILES, tiles_before * HASH_BYTES, tiles.as_flattened())
            .map_err(StoreError::file("write", TILES))?;
    }
    if length(disk, TILES)?.is_some_and(|length| length > tiles_end) {
        disk.cut(TILES, tiles_end).map_err(StoreError::file("cut", TILES))?;
    }
    // Made here, so that their names are durable before anything in them is relied on.
    for file in [COMMIT, TILES] {
        if length(disk, file)?.is_none() {
            disk.write_at(file, 0, &[]).map_err(StoreError::file("make", file))?;
            disk.sync(file).map_err(StoreError::file("sync", file))?;
        }
    }
    for folder in [ENTRIES, HASHES, MILESTONES, ""] {
        disk.sync_folder(folder).map_err(StoreError::file("sync the folder of", folder))?;
    }
    Ok(())
}
