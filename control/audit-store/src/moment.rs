//! A log as it was at one moment, to be copied while a node goes on writing it.
//!
//! Everything but the checkpoint and the commit only grows. So these two are read first, the checkpoint before the commit, which
//! then has at least what is signed; and of every other file as much is copied as the commit says.

use std::path::Path;

use creto_audit::LogVerifier;
use creto_audit::export::Summary;

use crate::commit::Commit;
use crate::disk::{Disk, RealDisk};
use crate::error::StoreError;
use crate::export::{ExportFailure, verify_log};
use crate::layout::{
    CHECKPOINT, COMMIT, ENTRIES, HASH_BYTES, MILESTONES, PUBLIC_KEYS, SECRET_KEYS, SEGMENT_LEAVES, SLOT_BYTES, TILES,
    entries_file, hashes_file, milestone_file,
};
use crate::reader::LogReader;
use crate::recovery::{damaged, read_commit, read_note, recover};

/// What was durable and signed at one moment.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Moment {
    checkpoint: Vec<u8>,
    commit: Commit,
}

/// A file of a log at one moment.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MomentFile {
    /// Its name in the log's folder.
    pub name: String,
    /// How many of its bytes.
    pub bytes: u64,
    /// What it holds, where that is not what stands in the folder.
    pub content: Option<Vec<u8>>,
}

impl Moment {
    /// As the log in this folder is now; `None` when nothing was signed yet.
    ///
    /// # Errors
    /// [`StoreError`]: it cannot be read, or is damaged.
    pub fn read(folder: &Path) -> Result<Option<Self>, StoreError> {
        let disk = RealDisk::new(folder);
        let Some(checkpoint) = read_note(&disk, CHECKPOINT)? else { return Ok(None) };
        let commit =
            read_commit(&disk)?.ok_or_else(|| damaged("there is a signed checkpoint and no commit file", 0))?;
        Ok(Some(Self { checkpoint, commit }))
    }

    /// From what [`Moment::checkpoint`] and [`Moment::commit`] gave; `None` when that is not what they gave.
    #[must_use]
    pub fn parse(checkpoint: &str, commit: &[u8]) -> Option<Self> {
        match Commit::parse(commit) {
            crate::commit::Slot::Whole(commit) => Some(Self { checkpoint: checkpoint.as_bytes().to_vec(), commit }),
            _ => None,
        }
    }

    /// The signed checkpoint.
    #[must_use]
    pub fn checkpoint(&self) -> String {
        String::from_utf8_lossy(&self.checkpoint).into_owned()
    }

    /// What was durable, as it stands in the commit file.
    #[must_use]
    pub fn commit(&self) -> Vec<u8> {
        self.commit.to_bytes()
    }

    /// Leaves that were durable.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.commit.size
    }

    /// The files of the log in this folder, as they were then: but for its secret keys, all that it takes to read it. The folder's
    /// writer only appends, and drops entries whose time is over; a file that is gone by the time it is copied was dropped since.
    ///
    /// # Errors
    /// [`StoreError`]: the folder cannot be read.
    pub fn files(&self, folder: &Path) -> Result<Vec<MomentFile>, StoreError> {
        let disk = RealDisk::new(folder);
        let Commit { size, entries_bytes, .. } = self.commit;
        let (segment, within) = (size / SEGMENT_LEAVES, size % SEGMENT_LEAVES);
        let length = |file: &str| disk.length(file).map_err(StoreError::file("read", file));
        let numbers = |folder: &str| -> Result<Vec<u64>, StoreError> {
            let names = disk.list(folder).map_err(StoreError::file("list", folder))?;
            Ok(names.iter().filter_map(|name| name.parse().ok()).collect())
        };
        let part = |name: String, bytes| MomentFile { name, bytes, content: None };
        let whole = |name: &str, content: Vec<u8>| MomentFile {
            name: name.to_owned(),
            bytes: content.len() as u64,
            content: Some(content),
        };
        let mut files = vec![part(PUBLIC_KEYS.to_owned(), length(PUBLIC_KEYS)?.unwrap_or(0))];
        for entries in numbers(ENTRIES)? {
            let file = entries_file(entries);
            if entries < segment {
                files.push(part(file.clone(), length(&file)?.unwrap_or(0)));
            } else if entries == segment && within > 0 {
                files.push(part(file, entries_bytes));
            }
        }
        for hashes in 0..=segment {
            let leaves = if hashes < segment { SEGMENT_LEAVES } else { within };
            if leaves > 0 {
                files.push(part(hashes_file(hashes), leaves * HASH_BYTES));
            }
        }
        files.push(part(TILES.to_owned(), size / 256 * HASH_BYTES));
        for milestone in numbers(MILESTONES)?.into_iter().filter(|milestone| *milestone <= size) {
            let file = milestone_file(milestone);
            files.push(part(file.clone(), length(&file)?.unwrap_or(0)));
        }
        let mut slots = vec![0; usize::try_from(self.commit.offset()).expect("at most one slot")];
        slots.extend(self.commit.to_bytes());
        assert!(slots.len() <= 2 * SLOT_BYTES, "commit.rs says that a commit fits its slot");
        files.extend([whole(CHECKPOINT, self.checkpoint.clone()), whole(COMMIT, slots)]);
        Ok(files)
    }
}

/// Whether a file of this name can be one of a log.
#[must_use]
pub fn is_log_file(name: &str) -> bool {
    let digits = |text: &str, count: usize| text.len() == count && text.bytes().all(|byte| byte.is_ascii_digit());
    match name.split_once('/') {
        None => [PUBLIC_KEYS, SECRET_KEYS, TILES, CHECKPOINT, COMMIT].contains(&name),
        Some((ENTRIES | crate::layout::HASHES, file)) => digits(file, 12),
        Some((MILESTONES, file)) => digits(file, 20),
        Some(_) => false,
    }
}

/// Opens a copy of a log as a start would, and verifies all of it under its own public keys.
///
/// # Errors
/// [`ExportFailure`]: what does not fit.
pub fn check_copy(folder: &Path) -> Result<Summary, ExportFailure> {
    let verifier = LogVerifier::new(crate::keys::load_public(&folder.join(PUBLIC_KEYS))?).map_err(StoreError::Keys)?;
    recover(&mut RealDisk::new(folder), &verifier)?;
    verify_log(&LogReader::open(folder)?, None)
}
