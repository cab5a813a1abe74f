//! The segment files of one shard: prepared, written and made durable, read, recycled, deleted.
//!
//! Every operation is a task of its own that answers with one completion. What a task waits for is the driver's ([`Files`]):
//! writes go past the page cache through io_uring; whatever the kernel can only do blocking (rename, delete, syncing a folder)
//! runs on a thread beside the shard. The rules are here, once, for both drivers.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::fs::File;
use std::future::Future;
use std::io;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Instant;

use bytes::Bytes;
use rkyv::util::AlignedVec;
use serde::{Deserialize, Serialize};

use self::pace::Pace;
use self::segment_file::SegmentFile;
use crate::error::DiskError;
use crate::files::{Files, OpenFor};
use crate::limits::{BLOCK_BYTES, DISK_OPERATIONS_MAX, ZERO_FILL_BYTES};
use crate::machine::{ActionId, EncodeWrite};
use crate::park::Signal;
use crate::planted::{self, PlantedBug};

mod digest_file;
mod pace;
mod segment_file;

/// A digest on its way to its name, or the file of one that is not needed any more and that the next is written over. One is
/// written at a time, and what a stop leaves behind is written over by the next.
const UNFINISHED_DIGEST: &str = ".digest.new";

/// How a write is made durable.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Durability {
    /// Write, then fdatasync. One covers every write that had landed when it began.
    #[default]
    Fdatasync,
    /// Write to a file opened with O_DSYNC. Better on drives with power-loss protection, much worse on others.
    Dsync,
}

/// Where a shard's segments are.
#[derive(Clone, Debug)]
pub struct DiskConfig {
    /// The folder. It exists.
    pub folder: PathBuf,
    /// The name of a segment's file.
    pub file_name: fn(u64) -> String,
    /// The name of the file with a segment's digest.
    pub digest_name: fn(u64) -> String,
    /// How writes are made durable; [`crate::probe`] says what this disk does better.
    pub durability: Durability,
}

/// An answered operation.
#[derive(Debug)]
pub(crate) struct Completion {
    pub(crate) id: ActionId,
    pub(crate) outcome: Outcome,
}

#[derive(Debug)]
pub(crate) enum Outcome {
    Done(Result<(), DiskError>),
    Written { result: Result<(), DiskError>, bytes: u64, us: u64 },
    Read(Result<Bytes, DiskError>),
}

/// The disk side of a driver. Cloned into each operation's task.
pub(crate) struct Disk<F: Files>(Rc<Shared<F>>);

impl<F: Files> Clone for Disk<F> {
    fn clone(&self) -> Self {
        Self(Rc::clone(&self.0))
    }
}

struct Shared<F: Files> {
    config: DiskConfig,
    system: F,
    files: RefCell<BTreeMap<u64, Rc<SegmentFile<F>>>>,
    completions: RefCell<VecDeque<Completion>>,
    running: Cell<usize>,
    pace: Pace,
    signal: Rc<Signal>,
}

impl<F: Files> Disk<F> {
    pub(crate) fn new(config: DiskConfig, system: F, signal: Rc<Signal>) -> Self {
        Self(Rc::new(Shared {
            config,
            system,
            files: RefCell::default(),
            completions: RefCell::default(),
            running: Cell::new(0),
            pace: Pace::default(),
            signal,
        }))
    }

    /// Operations under way.
    pub(crate) fn running(&self) -> usize {
        self.0.running.get()
    }

    pub(crate) fn next_completion(&self) -> Option<Completion> {
        self.0.completions.borrow_mut().pop_front()
    }

    pub(crate) fn has_completions(&self) -> bool {
        !self.0.completions.borrow().is_empty()
    }

    pub(crate) fn write(
        &self,
        id: ActionId,
        segment: u64,
        offset: u64,
        bytes: usize,
        write: impl EncodeWrite + 'static,
    ) {
        assert!(bytes > 0 && bytes.is_multiple_of(BLOCK_BYTES), "a write is whole blocks");
        assert!(offset.is_multiple_of(BLOCK_BYTES as u64), "a write starts at a block");
        let began = Instant::now();
        self.0.pace.write_begins();
        // Encoded at once where the file is open: the next frame's link is this one's checksum, and it need not wait.
        let known = self.0.files.borrow().get(&segment).cloned();
        let prepared = match known {
            Some(file) => Prepared::Encoded(self.encode(&file, bytes, write), file),
            None => Prepared::Later(write),
        };
        let disk = self.clone();
        self.start(id, async move {
            let result = disk.write_durably(segment, offset, bytes, prepared).await;
            disk.0.pace.write_ended(bytes as u64);
            let us = u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX);
            Outcome::Written { result, bytes: bytes as u64, us }
        });
    }

    pub(crate) fn read(&self, id: ActionId, segment: u64, offset: u64, bytes: usize) {
        let disk = self.clone();
        self.start(id, async move { Outcome::Read(disk.read_aligned(segment, offset, bytes).await) });
    }

    pub(crate) fn prepare(&self, id: ActionId, segment: u64, bytes: u64, recycle: Option<u64>) {
        let disk = self.clone();
        self.start(id, async move {
            Outcome::Done(match recycle {
                Some(old) => disk.recycle(old, segment).await,
                None => disk.make(segment, bytes).await,
            })
        });
    }

    pub(crate) fn delete(&self, id: ActionId, segment: u64) {
        let disk = self.clone();
        self.start(id, async move {
            disk.0.files.borrow_mut().remove(&segment);
            let (digest, path) = (disk.digest_path(segment), disk.path(segment));
            // The digest goes first: none is ever left without its segment.
            let removed = disk.in_folder(move || {
                if_there(std::fs::remove_file(digest))?;
                if_there(std::fs::remove_file(path))
            });
            Outcome::Done(removed.await)
        });
    }

    pub(crate) fn write_digest(&self, id: ActionId, segment: u64, pieces: Vec<Bytes>) {
        let disk = self.clone();
        self.start(id, async move {
            let (path, unfinished) = (disk.digest_path(segment), disk.unfinished_digest_path());
            // Not synced: a digest makes nothing durable, and one that a crash left half is refused.
            let written = disk.0.system.blocking(move || {
                digest_file::write(&unfinished, &pieces)?;
                std::fs::rename(unfinished, path)
            });
            Outcome::Done(written.await.map_err(DiskError::from))
        });
    }

    pub(crate) fn shorten(&self, id: ActionId, segment: u64, bytes: u64) {
        let disk = self.clone();
        self.start(id, async move {
            let shortened = async {
                let file = disk.file(segment).await?;
                disk.0.system.shorten(file.file(), bytes).await
            };
            Outcome::Done(shortened.await)
        });
    }

    fn start(&self, id: ActionId, operation: impl Future<Output = Outcome> + 'static) {
        assert!(self.running() < DISK_OPERATIONS_MAX, "the machine asked for more disk operations than it may");
        self.0.running.set(self.running() + 1);
        let disk = self.clone();
        self.0.system.spawn(async move {
            let outcome = operation.await;
            disk.0.running.set(disk.running() - 1);
            disk.0.completions.borrow_mut().push_back(Completion { id, outcome });
            disk.0.signal.set();
        });
    }

    async fn write_durably<W: EncodeWrite>(
        &self,
        segment: u64,
        offset: u64,
        bytes: usize,
        prepared: Prepared<W, F>,
    ) -> Result<(), DiskError> {
        let (buffer, file) = match prepared {
            Prepared::Encoded(buffer, file) => (buffer, file),
            Prepared::Later(write) => {
                let file = self.file(segment).await?;
                (self.encode(&file, bytes, write), file)
            }
        };
        let system = &self.0.system;
        let written = system.write_at(file.file(), buffer, offset).await?;
        if written != bytes {
            return Err(DiskError::Io(format!("a write of {bytes} bytes ended after {written}")));
        }
        match self.0.config.durability {
            _ if planted::bug() == Some(PlantedBug::SkipSync) => Ok(()),
            _ if planted::bug() == Some(PlantedBug::SyncNotAwaited) => {
                let system = system.clone();
                self.0.system.spawn(async move {
                    // Nobody waits for it: that is the bug.
                    let _ = file.make_durable(&system).await;
                });
                Ok(())
            }
            Durability::Fdatasync => file.make_durable(system).await,
            Durability::Dsync => Ok(()),
        }
    }

    async fn read_aligned(&self, segment: u64, offset: u64, bytes: usize) -> Result<Bytes, DiskError> {
        let file = self.file(segment).await?;
        let mut aligned = AlignedVec::<8>::with_capacity(bytes);
        self.0.system.read_at(file.file(), offset, bytes, |read| aligned.extend_from_slice(read)).await?;
        if aligned.len() != bytes {
            let found = aligned.len();
            return Err(DiskError::Io(format!("a read of {bytes} bytes at {offset} found {found}")));
        }
        Ok(Bytes::from_owner(aligned))
    }

    /// Makes a segment under another name first: a segment that has its name has its space, whenever the power fails.
    async fn make(&self, segment: u64, bytes: u64) -> Result<(), DiskError> {
        let path = self.path(segment);
        let unfinished = path.with_extension("new");
        // Never with O_DSYNC: the zeros are synced once, at their end.
        let system = &self.0.system;
        let file = system.open(&unfinished, OpenFor::Making).await?;
        match system.reserve(&file, bytes).await {
            Err(DiskError::NoSpace) => return Err(DiskError::NoSpace),
            // A file system without fallocate: writing reserves the space just as well.
            Ok(()) | Err(DiskError::Io(_)) => {}
        }
        self.fill_with_zeros(&file, bytes).await?;
        system.fdatasync(&file).await?;
        let file = match self.0.config.durability {
            Durability::Fdatasync => file,
            Durability::Dsync => {
                system.close(file).await?;
                self.open(&unfinished).await?
            }
        };
        self.0.files.borrow_mut().remove(&segment);
        self.in_folder(move || std::fs::rename(unfinished, path)).await?;
        self.0.files.borrow_mut().insert(segment, Rc::new(SegmentFile::new(file)));
        Ok(())
    }

    /// Writes every block once. A block that was only reserved is "unwritten" to the file system: the first write into it
    /// changes metadata, and the fdatasync after it must commit the file system's journal as well. Group commits go first
    /// ([`Pace`]).
    async fn fill_with_zeros(&self, file: &F::File, bytes: u64) -> Result<(), DiskError> {
        let system = &self.0.system;
        let zeros = |bytes: usize| {
            let mut zeros = system.buffer(file, bytes);
            F::bytes_mut(&mut zeros).fill(0);
            Rc::new(zeros)
        };
        let (mut piece, mut piece_bytes) = (zeros(ZERO_FILL_BYTES), ZERO_FILL_BYTES);
        let mut offset = 0;
        let begun_at = self.0.pace.bytes_written();
        while offset < bytes {
            let may_go = self.0.pace.filler_may_go(begun_at, offset).await;
            let left = usize::try_from(bytes - offset).unwrap_or(usize::MAX).next_multiple_of(BLOCK_BYTES);
            let wanted = may_go.min(left);
            if wanted != piece_bytes {
                (piece, piece_bytes) = (zeros(wanted), wanted);
            }
            let written = system.write_shared_at(file, Rc::clone(&piece), offset).await?;
            if written == 0 {
                return Err(DiskError::NoSpace);
            }
            offset += written as u64;
        }
        Ok(())
    }

    async fn recycle(&self, old: u64, new: u64) -> Result<(), DiskError> {
        let (digest, unfinished) = (self.digest_path(old), self.unfinished_digest_path());
        let (from, to) = (self.path(old), self.path(new));
        let file = self.0.files.borrow_mut().remove(&old);
        self.0.files.borrow_mut().remove(&new);
        self.in_folder(move || {
            if_there(std::fs::rename(digest, unfinished))?;
            std::fs::rename(from, to)
        })
        .await?;
        if let Some(file) = file {
            self.0.files.borrow_mut().insert(new, file);
        }
        Ok(())
    }

    /// Runs a blocking change of the folder on the thread beside the shard, and makes it durable.
    async fn in_folder(&self, change: impl FnOnce() -> io::Result<()> + Send + 'static) -> Result<(), DiskError> {
        let folder = self.0.config.folder.clone();
        Ok(self.0.system.blocking(move || change().and_then(|()| sync_folder(&folder))).await?)
    }

    async fn file(&self, segment: u64) -> Result<Rc<SegmentFile<F>>, DiskError> {
        let known = self.0.files.borrow().get(&segment).cloned();
        if let Some(file) = known {
            return Ok(file);
        }
        let opened = Rc::new(SegmentFile::new(self.open(&self.path(segment)).await?));
        // Another operation may have opened it meanwhile: one handle for all.
        Ok(Rc::clone(self.0.files.borrow_mut().entry(segment).or_insert(opened)))
    }

    async fn open(&self, path: &Path) -> Result<F::File, DiskError> {
        self.0.system.open(path, OpenFor::Using { dsync: self.writes_are_synced() }).await
    }

    fn encode(&self, file: &SegmentFile<F>, bytes: usize, write: impl EncodeWrite) -> F::Buffer {
        let mut buffer = self.0.system.buffer(file.file(), bytes);
        write.encode_into(F::bytes_mut(&mut buffer));
        buffer
    }

    fn path(&self, segment: u64) -> PathBuf {
        self.0.config.folder.join((self.0.config.file_name)(segment))
    }

    fn digest_path(&self, segment: u64) -> PathBuf {
        self.0.config.folder.join((self.0.config.digest_name)(segment))
    }

    fn unfinished_digest_path(&self) -> PathBuf {
        self.0.config.folder.join(UNFINISHED_DIGEST)
    }

    fn writes_are_synced(&self) -> bool {
        self.0.config.durability == Durability::Dsync && planted::bug().is_none()
    }
}

/// What is done to a file succeeds where there is none.
fn if_there(done: io::Result<()>) -> io::Result<()> {
    match done {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// A write whose bytes are there, or will be once its file is open.
enum Prepared<W, F: Files> {
    Encoded(F::Buffer, Rc<SegmentFile<F>>),
    Later(W),
}

/// Makes the names in a folder durable.
pub(crate) fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}
