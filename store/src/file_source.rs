//! Segments as files of a folder. The one place of this crate that touches the system, and it only reads.

use std::fs::{self, File};
use std::io::{self, Read};
use std::num::NonZeroU64;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use rustix::fs::Advice;

use crate::digest::{digest_file_name, parse_digest_file_name};
use crate::limits::DIGEST_BYTES_MAX;
use crate::lsn::SegmentNumber;
use crate::segment::{parse_segment_file_name, segment_file_name};
use crate::source::{SegmentFile, SegmentSource, SourceError};

/// Reads the segments of one folder.
#[derive(Debug)]
pub struct FileSource {
    folder: PathBuf,
    open: Option<(SegmentNumber, File)>,
    /// Up to where the open file was asked for ahead.
    ahead: u64,
}

/// How far ahead of what is read the system is asked to read. It does so while what is there is checked.
const AHEAD_BYTES: u64 = 8 << 20;
/// Smaller reads are of headers, and nothing behind them is wanted.
const AHEAD_FROM_BYTES: usize = 64 << 10;

impl FileSource {
    /// The segments of `folder`. A folder that does not exist holds none.
    pub fn new(folder: impl Into<PathBuf>) -> Self {
        Self { folder: folder.into(), open: None, ahead: 0 }
    }

    /// Has the system read what comes behind `end` in the open file, if it is one that is read from front to back.
    fn read_ahead(&mut self, end: u64, read_bytes: usize) {
        let Some((_, file)) = &self.open else { return };
        let from = self.ahead.max(end);
        let bytes = (end + AHEAD_BYTES).saturating_sub(from);
        if read_bytes < AHEAD_FROM_BYTES || bytes < AHEAD_BYTES / 2 {
            return;
        }
        // Advice: where a file system takes none, reading is slower and as right.
        let _ = rustix::fs::fadvise(file, from, NonZeroU64::new(bytes), Advice::WillNeed);
        self.ahead = from + bytes;
    }

    fn file(&mut self, segment: SegmentNumber) -> Result<&File, SourceError> {
        if self.open.as_ref().is_none_or(|(open, _)| *open != segment) {
            let path = self.folder.join(segment_file_name(segment));
            let file = File::open(&path).map_err(|error| failed("open", &path, error))?;
            self.open = Some((segment, file));
            self.ahead = 0;
        }
        Ok(&self.open.as_ref().expect("opened above").1)
    }
}

impl SegmentSource for FileSource {
    fn segments(&mut self) -> Result<Vec<SegmentFile>, SourceError> {
        let entries = match fs::read_dir(&self.folder) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(failed("list", &self.folder, error)),
        };
        let mut segments = Vec::new();
        for entry in entries {
            let entry = entry.map_err(|error| failed("list", &self.folder, error))?;
            let Some(number) = entry.file_name().to_str().and_then(parse_segment_file_name) else { continue };
            let metadata = entry.metadata().map_err(|error| failed("look at", &entry.path(), error))?;
            segments.push(SegmentFile { number, bytes: metadata.len() });
        }
        Ok(segments)
    }

    fn digests(&mut self) -> Result<Vec<SegmentNumber>, SourceError> {
        let entries = match fs::read_dir(&self.folder) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(failed("list", &self.folder, error)),
        };
        let mut digests = Vec::new();
        for entry in entries {
            let entry = entry.map_err(|error| failed("list", &self.folder, error))?;
            digests.extend(entry.file_name().to_str().and_then(parse_digest_file_name));
        }
        Ok(digests)
    }

    fn read_digest(&mut self, segment: SegmentNumber) -> Result<Bytes, SourceError> {
        let path = self.folder.join(digest_file_name(segment));
        let bytes_max = DIGEST_BYTES_MAX as u64 + 1;
        let mut bytes = Vec::new();
        File::open(&path)
            .and_then(|file| {
                bytes.reserve(usize::try_from(file.metadata()?.len().min(bytes_max)).unwrap_or(0));
                file.take(bytes_max).read_to_end(&mut bytes)
            })
            .map_err(|error| failed("read", &path, error))?;
        Ok(Bytes::from(bytes))
    }

    fn read(&mut self, segment: SegmentNumber, offset: u64, out: &mut [u8]) -> Result<(), SourceError> {
        self.file(segment)?;
        self.read_ahead(offset + out.len() as u64, out.len());
        let read = self.file(segment)?.read_exact_at(out, offset);
        read.map_err(|error| failed("read", &self.folder.join(segment_file_name(segment)), error))
    }
}

fn failed(verb: &str, path: &Path, error: io::Error) -> SourceError {
    SourceError { action: format!("{verb} {}", path.display()), error }
}
