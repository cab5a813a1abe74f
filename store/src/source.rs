//! Where recovery reads segments from: files, or a simulator's memory.

use std::io;

use bytes::Bytes;
use thiserror::Error;

use crate::lsn::SegmentNumber;

/// Reads the segments of one shard's log. Nothing here writes.
pub trait SegmentSource {
    /// The segments that exist, in any order. Files with other names are not listed.
    ///
    /// # Errors
    /// When the folder cannot be read.
    fn segments(&mut self) -> Result<Vec<SegmentFile>, SourceError>;

    /// Fills `out` with the bytes of `segment` from `offset` on.
    ///
    /// # Errors
    /// When not all of these bytes can be read. Recovery then stops: an unreadable byte is not a missing one.
    fn read(&mut self, segment: SegmentNumber, offset: u64, out: &mut [u8]) -> Result<(), SourceError>;

    /// The segments that have a digest, in any order. A source without digests has its segments read.
    ///
    /// # Errors
    /// When the folder cannot be read.
    fn digests(&mut self) -> Result<Vec<SegmentNumber>, SourceError> {
        Ok(Vec::new())
    }

    /// The digest of a segment, whole.
    ///
    /// # Errors
    /// When it cannot be read, or is larger than any digest. Its segment is read instead.
    fn read_digest(&mut self, segment: SegmentNumber) -> Result<Bytes, SourceError> {
        Err(SourceError {
            action: format!("read the digest of segment {segment}"),
            error: io::ErrorKind::NotFound.into(),
        })
    }
}

/// A segment that exists.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct SegmentFile {
    /// Its number, from its name.
    pub number: SegmentNumber,
    /// Its length.
    pub bytes: u64,
}

/// The log cannot be read.
#[derive(Debug, Error)]
#[error("cannot {action}: {error}; check the disk and the permissions, then start again")]
pub struct SourceError {
    /// What was tried, with the path.
    pub action: String,
    /// What the system said.
    #[source]
    pub error: io::Error,
}

/// A part of a segment, kept in memory while it is walked through.
pub(crate) struct Window<'a, S> {
    source: &'a mut S,
    segment: SegmentFile,
    start: u64,
    buffer: Vec<u8>,
}

/// How much is read at once: large enough for the disk, small enough for the cache.
const WINDOW_BYTES: usize = 1 << 20;

impl<'a, S: SegmentSource> Window<'a, S> {
    pub(crate) fn new(source: &'a mut S, segment: SegmentFile) -> Self {
        Self { source, segment, start: 0, buffer: Vec::new() }
    }

    pub(crate) fn segment(&self) -> SegmentFile {
        self.segment
    }

    /// Up to `length` bytes from `offset`: fewer only where the segment ends.
    pub(crate) fn bytes(&mut self, offset: u64, length: usize) -> Result<&[u8], SourceError> {
        let end = (offset + length as u64).min(self.segment.bytes);
        let start = offset.min(end);
        if start < self.start || end > self.start + self.buffer.len() as u64 {
            self.load(start, end)?;
        }
        let from = in_memory(start - self.start);
        Ok(&self.buffer[from..from + in_memory(end - start)])
    }

    fn load(&mut self, start: u64, end: u64) -> Result<(), SourceError> {
        let wanted = (end - start).max(WINDOW_BYTES as u64).min(self.segment.bytes - start);
        let loaded_end = self.start + self.buffer.len() as u64;
        // What is already here moves to the front; only the rest is read.
        let kept = if (self.start..loaded_end).contains(&start) {
            self.buffer.copy_within(in_memory(start - self.start).., 0);
            in_memory(loaded_end - start)
        } else {
            0
        };
        let wanted = in_memory(wanted).max(kept);
        self.buffer.resize(wanted, 0);
        self.start = start;
        let read = self.source.read(self.segment.number, start + kept as u64, &mut self.buffer[kept..]);
        if read.is_err() {
            // Nothing of a failed read may be taken for the disk's content.
            self.buffer.clear();
        }
        read
    }
}

fn in_memory(bytes: u64) -> usize {
    usize::try_from(bytes).expect("a window is far smaller than memory")
}
