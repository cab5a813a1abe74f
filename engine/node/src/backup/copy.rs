//! Copies bytes and digests them: at a bounded rate, past the page cache, with a look around after every piece.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::time::{Duration, Instant};

use aws_lc_rs::digest::{Context, SHA256};

use super::{BackupError, failed};

/// Bytes read at a time.
const PIECE_BYTES: usize = 1 << 20;
/// What direct reads are aligned to, in memory and on the disk.
const ALIGNMENT: usize = 4096;

/// How fast, and who is asked on the way whether to go on.
pub(super) struct Copier<'a> {
    /// Most bytes per second.
    bytes_per_s: Option<u64>,
    began: Instant,
    copied: u64,
    on_piece: &'a mut dyn FnMut(u64) -> Result<(), BackupError>,
    /// One piece, aligned for direct reads somewhere in it.
    buffer: Vec<u8>,
}

/// A file to copy.
pub(super) enum From<'a> {
    /// Reads that leave the page cache alone, of a file that somebody writes past it.
    Direct(File, &'a Path),
    /// Reads through the page cache, which forgets them.
    Cached(File, &'a Path),
    /// Bytes that are here.
    Bytes(&'a [u8]),
    /// A stream.
    Stream(&'a mut dyn Read, &'a Path),
}

impl<'a> From<'a> {
    /// A segment. Where the file system knows no direct reads, it is read through the cache.
    pub(super) fn segment(path: &'a Path) -> Result<Self, BackupError> {
        let flags = i32::try_from(rustix::fs::OFlags::DIRECT.bits()).expect("the flag is one of a few low bits");
        let direct = File::options().read(true).custom_flags(flags).open(path);
        match direct {
            Ok(file) => Ok(Self::Direct(file, path)),
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => Self::file(path),
            Err(error) => Err(failed("open", path)(error)),
        }
    }

    pub(super) fn file(path: &'a Path) -> Result<Self, BackupError> {
        Ok(Self::Cached(File::open(path).map_err(failed("open", path))?, path))
    }

    /// Reads from `offset` on; less than `piece` only at the end of the file.
    fn read(&mut self, piece: &mut [u8], offset: u64) -> Result<usize, BackupError> {
        let mut read = 0;
        while read < piece.len() {
            let at = offset + read as u64;
            let (result, path) = match self {
                Self::Direct(file, path) | Self::Cached(file, path) => (file.read_at(&mut piece[read..], at), *path),
                Self::Stream(stream, path) => (stream.read(&mut piece[read..]), *path),
                Self::Bytes(bytes) => {
                    let rest = usize::try_from(at).ok().and_then(|at| bytes.get(at..)).unwrap_or_default();
                    let bytes = rest.len().min(piece.len() - read);
                    piece[read..read + bytes].copy_from_slice(&rest[..bytes]);
                    (Ok(bytes), Path::new(""))
                }
            };
            match result {
                Ok(0) => break,
                Ok(bytes) => read += bytes,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(failed("read", path)(error)),
            }
            // A direct read goes on at a block, or nowhere.
            if matches!(self, Self::Direct(..)) && !read.is_multiple_of(ALIGNMENT) {
                break;
            }
        }
        if let Self::Cached(file, _) = self {
            let bytes = std::num::NonZeroU64::new(read as u64);
            let _ = rustix::fs::fadvise(file, offset, bytes, rustix::fs::Advice::DontNeed);
        }
        Ok(read)
    }

    fn path(&self) -> &Path {
        match self {
            Self::Direct(_, path) | Self::Cached(_, path) | Self::Stream(_, path) => path,
            Self::Bytes(_) => Path::new(""),
        }
    }
}

impl<'a> Copier<'a> {
    /// Calls `on_piece` with the bytes of every piece.
    pub(super) fn new(bytes_per_s: Option<u64>, on_piece: &'a mut dyn FnMut(u64) -> Result<(), BackupError>) -> Self {
        let buffer = vec![0; PIECE_BYTES + ALIGNMENT];
        Self { bytes_per_s, began: Instant::now(), copied: 0, on_piece, buffer }
    }

    /// Copies the first `bytes` of `from`, and returns their SHA-256 in hexadecimal.
    pub(super) fn copy(
        &mut self,
        mut from: From<'_>,
        bytes: u64,
        out: &mut dyn Write,
        to: &Path,
    ) -> Result<String, BackupError> {
        let mut digest = Context::new(&SHA256);
        let mut offset = 0;
        let start = self.buffer.as_ptr().align_offset(ALIGNMENT).min(ALIGNMENT);
        while offset < bytes {
            let wanted = usize::try_from(bytes - offset).unwrap_or(usize::MAX).min(PIECE_BYTES);
            // A direct read is whole blocks, also where less is wanted of the last one.
            let asked = match from {
                From::Direct(..) => wanted.next_multiple_of(ALIGNMENT),
                _ => wanted,
            };
            let read = from.read(&mut self.buffer[start..start + asked], offset)?.min(wanted);
            if read < wanted {
                return Err(BackupError::Short(from.path().to_owned()));
            }
            let piece = &self.buffer[start..start + read];
            digest.update(piece);
            out.write_all(piece).map_err(failed("write", to))?;
            offset += read as u64;
            self.pace(read as u64);
            (self.on_piece)(read as u64)?;
        }
        Ok(hex::encode(digest.finish()))
    }

    /// Waits until as much time has passed as these bytes may take at least.
    fn pace(&mut self, bytes: u64) {
        self.copied += bytes;
        let Some(bytes_per_s) = self.bytes_per_s else { return };
        let due = Duration::from_secs_f64(self.copied as f64 / bytes_per_s.max(1) as f64);
        std::thread::sleep(due.saturating_sub(self.began.elapsed()));
    }
}

/// SHA-256 of bytes, in hexadecimal.
pub(super) fn sha256(bytes: &[u8]) -> String {
    hex::encode(aws_lc_rs::digest::digest(&SHA256, bytes))
}
