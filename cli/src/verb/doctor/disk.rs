//! The device that the log is on: its file system, direct writes, room, and how long it takes to make a write durable.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{FallocateFlags, OFlags};
use rustix::io::ReadWriteFlags;

/// Block sizes of the measurement: a lone message, a small group commit, a large one.
const BLOCK_BYTES: [usize; 3] = [4 << 10, 64 << 10, 256 << 10];
/// Alignment that every direct write satisfies.
const ALIGN_BYTES: usize = 4096;
/// Writes of one measurement, at most.
const WRITES_MAX: usize = 64;
/// Time of one measurement, at most; a slow device is recognised by then.
const MEASURE_TIME_MAX: Duration = Duration::from_millis(250);
/// Room of the file that is written, reused from its start.
const FILE_BYTES: u64 = 16 << 20;

/// What was found where the log is, or will be.
#[derive(Debug)]
pub(super) struct Disk {
    /// The folder that was looked at: the log's, or the nearest above it that exists.
    pub(super) folder: PathBuf,
    /// Name of the file system, or its magic number in hex.
    pub(super) file_system: String,
    pub(super) free_bytes: u64,
    /// Whether a direct write could be made, and what the system said if not.
    pub(super) direct: Result<(), io::Error>,
    /// One per block size; empty when no direct write could be made.
    pub(super) latencies: Vec<Latency>,
}

/// How long a durable write of one size takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Latency {
    pub(super) block_bytes: usize,
    pub(super) writes: usize,
    /// Write, then `fdatasync`.
    pub(super) fdatasync_p50_us: u64,
    pub(super) fdatasync_p99_us: u64,
    /// The same write, durable by itself.
    pub(super) dsync_p50_us: u64,
}

impl Disk {
    /// Looks at the file system of `folder` and writes a file there that has no name and leaves none.
    pub(super) fn measure(folder: &Path) -> Self {
        let folder = nearest_existing(folder);
        let statfs = rustix::fs::statfs(&folder);
        let statvfs = rustix::fs::statvfs(&folder);
        let (direct, latencies) = match measure_writes(&folder) {
            Ok(latencies) => (Ok(()), latencies),
            Err(error) => (Err(error), Vec::new()),
        };
        Self {
            file_system: statfs.map_or_else(|_| "unknown".to_owned(), |stat| file_system_name(stat.f_type)),
            free_bytes: statvfs.map_or(0, |stat| stat.f_bavail.saturating_mul(stat.f_frsize)),
            folder,
            direct,
            latencies,
        }
    }
}

fn nearest_existing(folder: &Path) -> PathBuf {
    let existing = folder.ancestors().find(|ancestor| !ancestor.as_os_str().is_empty() && ancestor.is_dir());
    existing.unwrap_or(Path::new(".")).to_owned()
}

fn file_system_name(magic: impl TryInto<i64>) -> String {
    let magic: i64 = magic.try_into().unwrap_or(0);
    let name = match magic & 0xffff_ffff {
        0xef53 => "ext4",
        0x5846_5342 => "xfs",
        0x9123_683e => "btrfs",
        0x2fc1_2fc1 => "zfs",
        0xf2f5_2010 => "f2fs",
        0xca45_1a4e => "bcachefs",
        0x0102_1994 => "tmpfs",
        0x8584_58f6 => "ramfs",
        0x794c_7630 => "overlay",
        0x6969 => "nfs",
        0xff53_4d42 | 0xfe53_4d42 => "cifs",
        0x0102_1997 => "9p",
        0x6573_5546 => "fuse",
        other => return format!("{other:#x}"),
    };
    name.to_owned()
}

fn measure_writes(folder: &Path) -> io::Result<Vec<Latency>> {
    let file = tempfile::tempfile_in(folder)?;
    rustix::fs::fcntl_setfl(&file, rustix::fs::fcntl_getfl(&file)? | OFlags::DIRECT)?;
    // Preallocated and written once, as a segment is: later writes then change no metadata. A file system without
    // fallocate measures its own way of growing a file.
    let _ = rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, FILE_BYTES);
    let largest = BLOCK_BYTES[BLOCK_BYTES.len() - 1];
    let mut memory = vec![0x5a_u8; largest + ALIGN_BYTES];
    let start = memory.as_ptr().align_offset(ALIGN_BYTES);
    let block = &mut memory[start..start + largest];
    for offset in (0..FILE_BYTES).step_by(largest) {
        write_at(&file, block, offset, ReadWriteFlags::empty())?;
    }
    rustix::fs::fdatasync(&file)?;

    let mut latencies = Vec::new();
    for block_bytes in BLOCK_BYTES {
        let block = &block[..block_bytes];
        let synced = time_writes(block_bytes, |offset| {
            write_at(&file, block, offset, ReadWriteFlags::empty())?;
            Ok(rustix::fs::fdatasync(&file)?)
        })?;
        let dsync = time_writes(block_bytes, |offset| write_at(&file, block, offset, ReadWriteFlags::DSYNC))?;
        latencies.push(Latency {
            block_bytes,
            writes: synced.len(),
            fdatasync_p50_us: quantile(&synced, 50),
            fdatasync_p99_us: quantile(&synced, 99),
            dsync_p50_us: quantile(&dsync, 50),
        });
    }
    Ok(latencies)
}

/// Sorted durations in microseconds of as many writes as fit into the time.
fn time_writes(block_bytes: usize, mut write: impl FnMut(u64) -> io::Result<()>) -> io::Result<Vec<u64>> {
    let begin = Instant::now();
    let mut durations = Vec::new();
    let mut offset = 0;
    while durations.len() < WRITES_MAX && (durations.is_empty() || begin.elapsed() < MEASURE_TIME_MAX) {
        let before = Instant::now();
        write(offset)?;
        durations.push(u64::try_from(before.elapsed().as_micros()).unwrap_or(u64::MAX));
        offset = (offset + block_bytes as u64) % FILE_BYTES;
    }
    durations.sort_unstable();
    Ok(durations)
}

fn write_at(file: &File, block: &[u8], offset: u64, flags: ReadWriteFlags) -> io::Result<()> {
    let written = rustix::io::pwritev2(file.as_fd(), &[io::IoSlice::new(block)], offset, flags)?;
    if written == block.len() { Ok(()) } else { Err(io::Error::from(io::ErrorKind::WriteZero)) }
}

/// The value that `percent` of the sorted values do not exceed.
fn quantile(sorted: &[u64], percent: usize) -> u64 {
    let index = (sorted.len() * percent).div_ceil(100).max(1) - 1;
    sorted.get(index).copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_values_that_were_seen() {
        assert_eq!(quantile(&[7], 50), 7);
        assert_eq!(quantile(&[1, 2, 3, 4], 50), 2);
        assert_eq!(quantile(&[1, 2, 3, 4], 99), 4);
        assert_eq!(quantile(&[], 50), 0);
    }

    #[test]
    fn a_folder_that_is_not_there_yet_is_measured_above() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(nearest_existing(&dir.path().join("data/wal")), dir.path());
        assert_eq!(nearest_existing(Path::new("data/no/such")), Path::new("."));
    }

    #[test]
    fn measuring_leaves_nothing_behind() {
        let dir = tempfile::tempdir().unwrap();
        let disk = Disk::measure(dir.path());
        assert!(disk.free_bytes > 0);
        assert_eq!(disk.direct.is_ok(), disk.latencies.len() == BLOCK_BYTES.len());
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}
