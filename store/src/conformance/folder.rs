//! The plainest driver there is: the actions of a log carried out on the files of a folder, one after the other.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use bytes::{Bytes, BytesMut};

use crate::digest::digest_file_name;
use crate::lsn::SegmentNumber;
use crate::segment::segment_file_name;
use crate::wal::{Action, Wal};

/// A folder with the files of one log, for tests that want a log on real files and no executor. Everything is synced when it
/// is done.
#[derive(Debug, Clone)]
pub struct Folder(PathBuf);

impl Folder {
    /// A folder that exists.
    pub fn new(folder: impl Into<PathBuf>) -> Self {
        Self(folder.into())
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Carries out everything that a log wants, as if nothing could fail, and drops what becomes durable.
    ///
    /// # Panics
    /// When something fails.
    pub fn settle(&self, wal: &mut Wal, now_ms: u64) {
        while let Some(action) = wal.next_action(now_ms) {
            self.carry_out(&action).unwrap_or_else(|error| panic!("{action:?}: {error}"));
            if !matches!(action, Action::Read { .. }) {
                wal.completed(action.id(), Ok(())).unwrap_or_else(|fenced| panic!("{fenced}"));
            }
        }
        while wal.next_durable().is_some() {}
    }

    /// Carries out an action. Returns what a read brought; nothing else.
    ///
    /// # Errors
    /// What the system says.
    pub fn carry_out(&self, action: &Action) -> io::Result<Bytes> {
        match action {
            Action::Write(write) => {
                let mut bytes = vec![0; write.bytes()];
                write.encode_into(&mut bytes);
                self.write(write.segment(), write.offset(), &bytes)?;
            }
            Action::Prepare { segment, recycle: Some(recycle), .. } => {
                remove(&self.digest(*recycle))?;
                fs::rename(self.segment(*recycle), self.segment(*segment))?;
                self.sync()?;
            }
            Action::Prepare { segment, bytes, recycle: None, .. } => {
                let file = File::create(self.segment(*segment))?;
                file.set_len(*bytes)?;
                file.sync_all()?;
                self.sync()?;
            }
            Action::Delete { segment, .. } => {
                remove(&self.digest(*segment))?;
                remove(&self.segment(*segment))?;
                self.sync()?;
            }
            Action::Shorten { segment, bytes, .. } => self.open(*segment)?.set_len(*bytes)?,
            Action::WriteDigest { segment, digest, .. } => {
                let part = self.digest(*segment).with_extension("part");
                fs::write(&part, digest.pieces().concat())?;
                File::open(&part)?.sync_all()?;
                fs::rename(part, self.digest(*segment))?;
                self.sync()?;
            }
            Action::Read { segment, offset, bytes, .. } => {
                let mut content = BytesMut::zeroed(*bytes);
                File::open(self.segment(*segment))?.read_exact_at(&mut content, *offset)?;
                return Ok(content.freeze());
            }
        }
        Ok(Bytes::new())
    }

    /// Writes to a segment, and syncs it.
    ///
    /// # Errors
    /// What the system says.
    pub fn write(&self, segment: SegmentNumber, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let file = self.open(segment)?;
        file.write_all_at(bytes, offset)?;
        file.sync_data()
    }

    fn open(&self, segment: SegmentNumber) -> io::Result<File> {
        OpenOptions::new().write(true).open(self.segment(segment))
    }

    fn segment(&self, segment: SegmentNumber) -> PathBuf {
        self.0.join(segment_file_name(segment))
    }

    fn digest(&self, segment: SegmentNumber) -> PathBuf {
        self.0.join(digest_file_name(segment))
    }

    fn sync(&self) -> io::Result<()> {
        File::open(&self.0)?.sync_all()
    }
}

/// What is not there counts as deleted.
fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        outcome => outcome,
    }
}
