//! How fast the disk under a folder makes writes durable: for `creto doctor`, and for the choice between fdatasync and
//! O_DSYNC at start.
//!
//! Plain system calls on a file of its own, already written once, as a segment is. It takes about a second.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::disk::Durability;
use crate::limits::BLOCK_BYTES;

/// Sizes of the writes that are measured.
pub const PROBE_BLOCK_BYTES: [usize; 3] = [4 << 10, 64 << 10, 256 << 10];
const FILE_BYTES: usize = 16 << 20;
const WRITES_MAX: usize = 64;
const TIME_PER_CASE: Duration = Duration::from_millis(150);
/// O_DSYNC must be this much better before it is chosen: a tie goes to fdatasync, which glommio can overlap.
const DSYNC_ADVANTAGE: f64 = 0.9;

/// What was measured.
#[derive(Clone, Debug, PartialEq)]
pub struct ProbeReport {
    /// Whether the file system takes O_DIRECT. Without it, every write is copied once more.
    pub direct_io: bool,
    /// One row for each size and way.
    pub results: Vec<ProbeResult>,
    /// What this disk does better.
    pub recommended: Durability,
}

/// One size, one way.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ProbeResult {
    /// Bytes of each write.
    pub block_bytes: usize,
    /// How it was made durable.
    pub durability: Durability,
    /// Writes measured.
    pub writes: usize,
    /// Median of write and sync together, in microseconds.
    pub p50_us: u64,
    /// 99th percentile.
    pub p99_us: u64,
    /// The slowest.
    pub max_us: u64,
    /// Bytes per second, one write after the other.
    pub bytes_per_s: f64,
}

impl ProbeReport {
    /// The row for this size and way.
    pub fn result(&self, block_bytes: usize, durability: Durability) -> Option<&ProbeResult> {
        self.results.iter().find(|row| row.block_bytes == block_bytes && row.durability == durability)
    }
}

impl std::fmt::Display for ProbeReport {
    /// One line, for the log at start.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{} ({})",
            match self.recommended {
                Durability::Fdatasync => "write + fdatasync",
                Durability::Dsync => "O_DSYNC",
            },
            if self.direct_io { "O_DIRECT" } else { "no O_DIRECT here" }
        )?;
        for row in self.results.iter().filter(|row| row.durability == self.recommended) {
            write!(f, ", {} KiB p50 {} us p99 {} us", row.block_bytes >> 10, row.p50_us, row.p99_us)?;
        }
        Ok(())
    }
}

/// Measures the disk under `folder`. Leaves nothing behind.
///
/// # Errors
/// The folder cannot be written to, or has less than 16 MiB of space.
pub fn probe(folder: &Path) -> io::Result<ProbeReport> {
    let path = folder.join(format!(".probe-{}", std::process::id()));
    let remove = RemoveOnDrop(path.clone());
    let buffer = AlignedBuffer::new(PROBE_BLOCK_BYTES[2]);
    let direct_io = open(&path, libc::O_DIRECT).and_then(|file| file.write_all_at(buffer.bytes(4096), 0)).is_ok();
    let direct = if direct_io { libc::O_DIRECT } else { 0 };

    let file = open(&path, direct)?;
    for offset in (0..FILE_BYTES).step_by(PROBE_BLOCK_BYTES[2]) {
        file.write_all_at(buffer.bytes(PROBE_BLOCK_BYTES[2]), offset as u64)?;
    }
    file.sync_all()?;
    let dsync = open(&path, direct | libc::O_DSYNC)?;

    let mut results = Vec::new();
    for block_bytes in PROBE_BLOCK_BYTES {
        let block = buffer.bytes(block_bytes);
        results.push(measure(&file, block, Durability::Fdatasync)?);
        results.push(measure(&dsync, block, Durability::Dsync)?);
    }
    drop(remove);
    let median = |durability| {
        let of_way = results.iter().filter(|row| row.durability == durability);
        of_way.map(|row| row.p50_us).sum::<u64>()
    };
    #[allow(clippy::cast_precision_loss, reason = "microseconds of a probe are far below 2^52")]
    let better = (median(Durability::Dsync) as f64) < median(Durability::Fdatasync) as f64 * DSYNC_ADVANTAGE;
    let recommended = if better { Durability::Dsync } else { Durability::Fdatasync };
    Ok(ProbeReport { direct_io, results, recommended })
}

fn open(path: &Path, flags: i32) -> io::Result<File> {
    OpenOptions::new().create(true).truncate(false).write(true).custom_flags(flags).open(path)
}

fn measure(file: &File, block: &[u8], durability: Durability) -> io::Result<ProbeResult> {
    let began = Instant::now();
    let mut took = Vec::with_capacity(WRITES_MAX);
    while took.len() < WRITES_MAX && began.elapsed() < TIME_PER_CASE {
        let offset = took.len() * block.len() % FILE_BYTES;
        let start = Instant::now();
        file.write_all_at(block, offset as u64)?;
        if durability == Durability::Fdatasync {
            file.sync_data()?;
        }
        took.push(start.elapsed());
    }
    let total = began.elapsed();
    took.sort_unstable();
    let at = |part: usize| u64::try_from(took[(took.len() - 1) * part / 100].as_micros()).unwrap_or(u64::MAX);
    #[allow(clippy::cast_precision_loss, reason = "a probe writes less than 2^52 bytes")]
    let bytes_per_s = (took.len() * block.len()) as f64 / total.as_secs_f64();
    Ok(ProbeResult {
        block_bytes: block.len(),
        durability,
        writes: took.len(),
        p50_us: at(50),
        p99_us: at(99),
        max_us: at(100),
        bytes_per_s,
    })
}

/// Memory that starts at a block boundary, as O_DIRECT demands.
struct AlignedBuffer {
    bytes: Vec<u8>,
    start: usize,
}

impl AlignedBuffer {
    fn new(len: usize) -> Self {
        let bytes = vec![0x5a; len + BLOCK_BYTES];
        let start = bytes.as_ptr().align_offset(BLOCK_BYTES);
        Self { bytes, start }
    }

    fn bytes(&self, len: usize) -> &[u8] {
        &self.bytes[self.start..self.start + len]
    }
}

struct RemoveOnDrop(PathBuf);

impl Drop for RemoveOnDrop {
    fn drop(&mut self) {
        // The folder may be gone, or was never writable: the probe has said so.
        let _ = std::fs::remove_file(&self.0);
    }
}
