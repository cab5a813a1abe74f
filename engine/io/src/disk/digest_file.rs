//! Writing the file of a digest so that no group commit waits for it.
//!
//! A digest is two megabytes and more, and a new one is due with every segment. Written through the page cache and synced, it
//! reaches the device as one burst, and every commit behind it waits for milliseconds; so does every commit behind the
//! deletion of an old one, on a file system that tells the device what it frees. Therefore the file of a digest that is not
//! needed any more is written over, block by block, past the page cache. A digest makes nothing durable, and its checksums
//! tell when a crash left something else: it need not be synced.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use bytes::Bytes;

use crate::aligned::AlignedBuffer;
use crate::limits::{BLOCK_BYTES, DIGEST_WRITE_BYTES};

/// Makes these pieces, one behind the other, the content of the file at `path`. Until then, and after a crash for longer, what
/// is in the file is neither the old content nor the new one: nothing here is synced, because a sync commits the file system's
/// journal, and a group commit that comes meanwhile waits for it.
pub(super) fn write(path: &Path, pieces: &[Bytes]) -> io::Result<()> {
    let file = open(path)?;
    let mut block = AlignedBuffer::new(DIGEST_WRITE_BYTES);
    let (mut filled, mut offset) = (0, 0);
    for piece in pieces {
        let mut left = &piece[..];
        while !left.is_empty() {
            let (now, later) = left.split_at(left.len().min(DIGEST_WRITE_BYTES - filled));
            block.bytes_mut(filled + now.len())[filled..].copy_from_slice(now);
            filled += now.len();
            left = later;
            if filled == DIGEST_WRITE_BYTES {
                file.write_all_at(block.bytes(filled), offset)?;
                (filled, offset) = (0, offset + filled as u64);
            }
        }
    }
    let bytes = offset + filled as u64;
    // What is behind the last byte is cut off below.
    file.write_all_at(block.bytes(filled.next_multiple_of(BLOCK_BYTES)), offset)?;
    file.set_len(bytes)
}

/// Past the page cache, where the file system can do that.
fn open(path: &Path) -> io::Result<File> {
    let with = |flags| OpenOptions::new().create(true).truncate(false).write(true).custom_flags(flags).open(path);
    with(libc::O_DIRECT).or_else(|_| with(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_holds_its_pieces_and_nothing_of_what_was_there_before() {
        let folder = tempfile::tempdir().expect("a folder for tests");
        let path = folder.path().join("digest");
        let block = DIGEST_WRITE_BYTES;
        let cases: [&[usize]; 7] =
            [&[], &[1], &[block], &[3 * block + 5, 7], &[block - 1, 2, block - 1], &[4_095, 1], &[100; 1_500]];
        for (number, lengths) in (1..).zip(cases) {
            let pieces: Vec<Bytes> = lengths.iter().map(|&length| Bytes::from(vec![number; length])).collect();
            write(&path, &pieces).expect("it can be written");
            assert_eq!(std::fs::read(&path).expect("it is there"), pieces.concat(), "pieces of {lengths:?} bytes");
        }
    }
}
