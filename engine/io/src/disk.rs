//! The segment files of one shard: prepared, written and made durable, read, recycled, deleted.
//!
//! Every operation is a task of its own that answers with one completion. Writes go through glommio's `DmaFile` (O_DIRECT,
//! io_uring); whatever the kernel can only do blocking (rename, delete, syncing a folder) runs on glommio's thread beside
//! the shard.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::fs::File;
use std::future::Future;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Instant;

use bytes::Bytes;
use glommio::io::{DmaBuffer, DmaFile, OpenOptions};
use rkyv::util::AlignedVec;
use serde::{Deserialize, Serialize};

use self::pace::Pace;
use self::segment_file::SegmentFile;
use crate::error::DiskError;
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
#[derive(Clone)]
pub(crate) struct Disk(Rc<Shared>);

struct Shared {
    config: DiskConfig,
    files: RefCell<BTreeMap<u64, Rc<SegmentFile>>>,
    completions: RefCell<VecDeque<Completion>>,
    running: Cell<usize>,
    pace: Pace,
    signal: Rc<Signal>,
}

impl Disk {
    pub(crate) fn new(config: DiskConfig, signal: Rc<Signal>) -> Self {
        Self(Rc::new(Shared {
            config,
            files: RefCell::default(),
            completions: RefCell::default(),
            running: Cell::new(0),
            pace: Pace::default(),
            signal,
        }))
    }

    /// Makes glommio find out truthfully whether this device can be polled. Before any other file is opened.
    ///
    /// It finds out by reading from the first file of a device that it opens, and remembers the answer for the process.
    /// A new segment is empty: reading it reaches no device and succeeds, every device seems to poll, and on one that
    /// does not, reads fail with "operation not supported" from then on. So the first file has a block that is on disk.
    pub(crate) async fn settle_polling(&self) -> io::Result<()> {
        let path = self.0.config.folder.join(".iopoll");
        let mut file = File::create(&path)?;
        file.write_all(&[0x5a; BLOCK_BYTES])?;
        // On the disk, not only in memory: a block without a place there is answered without the device as well.
        file.sync_all()?;
        let opened = OpenOptions::new().read(true).dma_open(&path).await;
        std::fs::remove_file(&path)?;
        opened.map(drop).map_err(io::Error::from)
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
            Some(file) => Prepared::Encoded(encode(file.file(), bytes, write), file),
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
            let written = glommio::executor().spawn_blocking(move || {
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
                file.file().truncate(bytes).await.map_err(DiskError::from)
            };
            Outcome::Done(shortened.await)
        });
    }

    fn start(&self, id: ActionId, operation: impl Future<Output = Outcome> + 'static) {
        assert!(self.running() < DISK_OPERATIONS_MAX, "the machine asked for more disk operations than it may");
        self.0.running.set(self.running() + 1);
        let disk = self.clone();
        glommio::spawn_local(async move {
            let outcome = operation.await;
            disk.0.running.set(disk.running() - 1);
            disk.0.completions.borrow_mut().push_back(Completion { id, outcome });
            disk.0.signal.set();
        })
        .detach();
    }

    async fn write_durably<W: EncodeWrite>(
        &self,
        segment: u64,
        offset: u64,
        bytes: usize,
        prepared: Prepared<W>,
    ) -> Result<(), DiskError> {
        let (buffer, file) = match prepared {
            Prepared::Encoded(buffer, file) => (buffer, file),
            Prepared::Later(write) => {
                let file = self.file(segment).await?;
                (encode(file.file(), bytes, write), file)
            }
        };
        let written = file.file().write_at(buffer, offset).await?;
        if written != bytes {
            return Err(DiskError::Io(format!("a write of {bytes} bytes ended after {written}")));
        }
        match self.0.config.durability {
            _ if planted::bug() == Some(PlantedBug::SkipSync) => Ok(()),
            _ if planted::bug() == Some(PlantedBug::SyncNotAwaited) => {
                glommio::spawn_local(async move { file.make_durable().await }).detach();
                Ok(())
            }
            Durability::Fdatasync => file.make_durable().await,
            Durability::Dsync => Ok(()),
        }
    }

    async fn read_aligned(&self, segment: u64, offset: u64, bytes: usize) -> Result<Bytes, DiskError> {
        let file = self.file(segment).await?;
        let read = file.file().read_at(offset, bytes).await?;
        if read.len() != bytes {
            let found = read.len();
            return Err(DiskError::Io(format!("a read of {bytes} bytes at {offset} found {found}")));
        }
        let mut aligned = AlignedVec::<8>::with_capacity(bytes);
        aligned.extend_from_slice(&read);
        Ok(Bytes::from_owner(aligned))
    }

    /// Makes a segment under another name first: a segment that has its name has its space, whenever the power fails.
    async fn make(&self, segment: u64, bytes: u64) -> Result<(), DiskError> {
        let path = self.path(segment);
        let unfinished = path.with_extension("new");
        // Never with O_DSYNC: the zeros are synced once, at their end.
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(true).dma_open(&unfinished).await?;
        match file.pre_allocate(bytes, false).await.map_err(DiskError::from) {
            Err(DiskError::NoSpace) => return Err(DiskError::NoSpace),
            // A file system without fallocate: writing reserves the space just as well.
            Ok(()) | Err(DiskError::Io(_)) => {}
        }
        self.fill_with_zeros(&file, bytes).await?;
        file.fdatasync().await?;
        let file = match self.0.config.durability {
            Durability::Fdatasync => file,
            Durability::Dsync => {
                file.close().await?;
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
    async fn fill_with_zeros(&self, file: &DmaFile, bytes: u64) -> Result<(), DiskError> {
        let zeros = |bytes: usize| {
            let mut zeros: DmaBuffer = file.alloc_dma_buffer(bytes);
            zeros.as_bytes_mut().fill(0);
            Rc::new(zeros)
        };
        let mut piece = zeros(ZERO_FILL_BYTES);
        let mut offset = 0;
        let begun_at = self.0.pace.bytes_written();
        while offset < bytes {
            let may_go = self.0.pace.filler_may_go(begun_at, offset).await;
            let left = usize::try_from(bytes - offset).unwrap_or(usize::MAX).next_multiple_of(BLOCK_BYTES);
            let wanted = may_go.min(left);
            if piece.len() != wanted {
                piece = zeros(wanted);
            }
            let written = file.write_rc_at(Rc::clone(&piece), offset).await?;
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
        let changed = glommio::executor().spawn_blocking(move || change().and_then(|()| sync_folder(&folder)));
        Ok(changed.await?)
    }

    async fn file(&self, segment: u64) -> Result<Rc<SegmentFile>, DiskError> {
        let known = self.0.files.borrow().get(&segment).cloned();
        if let Some(file) = known {
            return Ok(file);
        }
        let opened = Rc::new(SegmentFile::new(self.open(&self.path(segment)).await?));
        // Another operation may have opened it meanwhile: one handle for all.
        Ok(Rc::clone(self.0.files.borrow_mut().entry(segment).or_insert(opened)))
    }

    async fn open(&self, path: &Path) -> Result<DmaFile, DiskError> {
        let mut options = OpenOptions::new();
        options.read(true).write(true).custom_flags(self.flags());
        Ok(options.dma_open(path).await?)
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

    fn flags(&self) -> i32 {
        match self.0.config.durability {
            Durability::Dsync if planted::bug().is_none() => libc::O_DSYNC,
            Durability::Fdatasync | Durability::Dsync => 0,
        }
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
enum Prepared<W> {
    Encoded(DmaBuffer, Rc<SegmentFile>),
    Later(W),
}

fn encode(file: &DmaFile, bytes: usize, write: impl EncodeWrite) -> DmaBuffer {
    let mut buffer = file.alloc_dma_buffer(bytes);
    write.encode_into(buffer.as_bytes_mut());
    buffer
}

/// Makes the names in a folder durable.
pub(crate) fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}
