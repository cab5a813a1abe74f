//! Segments as files of a folder. The one place of this crate that touches the system, and it only reads.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use crate::lsn::SegmentNumber;
use crate::segment::{parse_segment_file_name, segment_file_name};
use crate::source::{SegmentFile, SegmentSource, SourceError};

/// Reads the segments of one folder.
#[derive(Debug)]
pub struct FileSource {
    folder: PathBuf,
    open: Option<(SegmentNumber, File)>,
}

impl FileSource {
    /// The segments of `folder`. A folder that does not exist holds none.
    pub fn new(folder: impl Into<PathBuf>) -> Self {
        Self { folder: folder.into(), open: None }
    }

    fn file(&mut self, segment: SegmentNumber) -> Result<&File, SourceError> {
        if self.open.as_ref().is_none_or(|(open, _)| *open != segment) {
            let path = self.folder.join(segment_file_name(segment));
            let file = File::open(&path).map_err(|error| failed("open", &path, error))?;
            self.open = Some((segment, file));
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

    fn read(&mut self, segment: SegmentNumber, offset: u64, out: &mut [u8]) -> Result<(), SourceError> {
        let read = self.file(segment)?.read_exact_at(out, offset);
        read.map_err(|error| failed("read", &self.folder.join(segment_file_name(segment)), error))
    }
}

fn failed(verb: &str, path: &Path, error: io::Error) -> SourceError {
    SourceError { action: format!("{verb} {}", path.display()), error }
}
