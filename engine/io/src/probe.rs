//! How fast the disk under a folder makes writes durable: for the choice between fdatasync and O_DSYNC, and of how many
//! writes are in flight at once, and for `creto doctor`, which shows both.
//!
//! Plain system calls on a file of its own, already written once, as a segment is. Several writes in flight share their
//! syncs as those of a shard do: a sync covers every write that had landed when it began.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::aligned::AlignedBuffer;
use crate::disk::Durability;

/// Sizes of the writes that are measured.
pub const PROBE_BLOCK_BYTES: [usize; 3] = [4 << 10, 64 << 10, 256 << 10];
/// Writes in flight that are measured.
pub const PROBE_DEPTHS: [usize; 3] = [1, 2, 4];
/// Time for one size, one way and one depth when a node starts: all of them take less than a second.
pub const QUICK: Duration = Duration::from_millis(35);
/// The same for whoever wants to look at the figures.
pub const THOROUGH: Duration = Duration::from_millis(120);

const FILE_BYTES: usize = 16 << 20;
const WRITES_MAX: usize = 256;
/// What fdatasync costs a shard beyond what a thread sees that calls it: the write and the sync are two trips through the
/// ring, and the sync is carried out by a thread of the kernel. Measured where a write takes 0.1 ms; elsewhere it is little.
const SECOND_TRIP_US: u64 = 50;
/// More writes in flight must make an acknowledgement this much sooner: group commits get smaller with it, and each costs CPU
/// time, about 100 us. Those that are full go ahead of the others anyway.
const DEPTH_ADVANTAGE: f64 = 0.95;

/// How the log of each shard is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Choice {
    /// How a write is made durable.
    pub durability: Durability,
    /// Writes of one shard on their way at once.
    pub writes_in_flight: usize,
}

/// What was measured.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ProbeReport {
    /// Whether the file system takes O_DIRECT. Without it, every write is copied once more.
    pub direct_io: bool,
    /// One row for each size, way and depth.
    pub results: Vec<ProbeResult>,
    /// What this disk does best.
    pub choice: Choice,
}

/// One size, one way, one depth.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct ProbeResult {
    /// Bytes of each write.
    pub block_bytes: usize,
    /// How it was made durable.
    pub durability: Durability,
    /// Writes on their way at once.
    pub in_flight: usize,
    /// Writes measured.
    pub writes: usize,
    /// Median of write and sync together, in microseconds.
    pub p50_us: u64,
    /// 99th percentile.
    pub p99_us: u64,
    /// The slowest.
    pub max_us: u64,
    /// Bytes per second, all that are in flight together.
    pub bytes_per_s: f64,
}

impl ProbeReport {
    /// The row for this size and way, one write after the other.
    pub fn result(&self, block_bytes: usize, durability: Durability) -> Option<&ProbeResult> {
        row(&self.results, block_bytes, durability, 1)
    }
}

fn row(results: &[ProbeResult], block_bytes: usize, durability: Durability, in_flight: usize) -> Option<&ProbeResult> {
    let is_it = |row: &&ProbeResult| {
        row.block_bytes == block_bytes && row.durability == durability && row.in_flight == in_flight
    };
    results.iter().find(is_it)
}

impl std::fmt::Display for Choice {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let way = match self.durability {
            Durability::Fdatasync => "write + fdatasync",
            Durability::Dsync => "O_DSYNC",
        };
        write!(f, "{way}, {} in flight", self.writes_in_flight)
    }
}

impl std::fmt::Display for ProbeReport {
    /// One line, for the log at start.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} ({})", self.choice, if self.direct_io { "O_DIRECT" } else { "no O_DIRECT here" })?;
        let chosen = self.results.iter().filter(|row| row.durability == self.choice.durability);
        for row in chosen.filter(|row| row.in_flight == self.choice.writes_in_flight) {
            write!(f, ", {} KiB p50 {} us p99 {} us", row.block_bytes >> 10, row.p50_us, row.p99_us)?;
        }
        Ok(())
    }
}

/// Measures the disk under `folder`, every combination for as long as `each`. Leaves nothing behind.
///
/// # Errors
/// The folder cannot be written to, or has less than 16 MiB of space.
pub fn probe(folder: &Path, each: Duration) -> io::Result<ProbeReport> {
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
        for in_flight in PROBE_DEPTHS {
            results.push(measure(&file, block, Durability::Fdatasync, in_flight, each)?);
            results.push(measure(&dsync, block, Durability::Dsync, in_flight, each)?);
        }
    }
    drop(remove);
    let choice = choose(&results);
    Ok(ProbeReport { direct_io, results, choice })
}

/// By what was measured: the way and the number in flight with which a message is acknowledged soonest.
fn choose(results: &[ProbeResult]) -> Choice {
    let mut best = Choice { durability: Durability::default(), writes_in_flight: PROBE_DEPTHS[0] };
    let mut best_us = f64::MAX;
    for writes_in_flight in PROBE_DEPTHS {
        for durability in [Durability::Dsync, Durability::Fdatasync] {
            let Some(us) = acknowledged_us(results, durability, writes_in_flight) else { continue };
            let is_deeper = writes_in_flight > best.writes_in_flight;
            if us < best_us * if is_deeper { DEPTH_ADVANTAGE } else { 1.0 } {
                (best, best_us) = (Choice { durability, writes_in_flight }, us);
            }
        }
    }
    best
}

/// How long it takes until a message is durable that comes when as many writes are in flight as may be: one of them ends, and
/// then its own. The sum over all sizes; `None` if one was not measured.
fn acknowledged_us(results: &[ProbeResult], durability: Durability, in_flight: usize) -> Option<f64> {
    let trip_us = if durability == Durability::Fdatasync { SECOND_TRIP_US } else { 0 };
    let mut sum = 0;
    for block_bytes in PROBE_BLOCK_BYTES {
        sum += row(results, block_bytes, durability, in_flight)?.p50_us + trip_us;
    }
    #[allow(clippy::cast_precision_loss, reason = "microseconds of a probe are far below 2^52")]
    Some(sum as f64 * (1.0 + 1.0 / in_flight as f64))
}

fn open(path: &Path, flags: i32) -> io::Result<File> {
    OpenOptions::new().create(true).truncate(false).write(true).custom_flags(flags).open(path)
}

fn measure(
    file: &File,
    block: &[u8],
    durability: Durability,
    in_flight: usize,
    each: Duration,
) -> io::Result<ProbeResult> {
    let began = Instant::now();
    let syncs = SharedSync::default();
    let one = |lane: usize| -> io::Result<Vec<Duration>> {
        let mut took = Vec::with_capacity(WRITES_MAX);
        while took.is_empty() || (took.len() < WRITES_MAX / in_flight && began.elapsed() < each) {
            let offset = (took.len() * in_flight + lane) * block.len() % FILE_BYTES;
            let start = Instant::now();
            file.write_all_at(block, offset as u64)?;
            if durability == Durability::Fdatasync {
                syncs.make_durable(file)?;
            }
            took.push(start.elapsed());
        }
        Ok(took)
    };
    let mut took = std::thread::scope(|scope| {
        let others: Vec<_> = (1..in_flight).map(|lane| scope.spawn(move || one(lane))).collect();
        let mut took = one(0)?;
        for other in others {
            took.extend(other.join().expect("a thread that only writes does not panic")?);
        }
        io::Result::Ok(took)
    })?;
    let total = began.elapsed();
    took.sort_unstable();
    let at = |part: usize| u64::try_from(took[(took.len() - 1) * part / 100].as_micros()).unwrap_or(u64::MAX);
    #[allow(clippy::cast_precision_loss, reason = "a probe writes less than 2^52 bytes")]
    let bytes_per_s = (took.len() * block.len()) as f64 / total.as_secs_f64();
    Ok(ProbeResult {
        block_bytes: block.len(),
        durability,
        in_flight,
        writes: took.len(),
        p50_us: at(50),
        p99_us: at(99),
        max_us: at(100),
        bytes_per_s,
    })
}

/// The sync that writes of several threads share, as those of a shard share theirs.
#[derive(Default)]
struct SharedSync {
    state: Mutex<SyncState>,
    ended: Condvar,
}

#[derive(Default)]
struct SyncState {
    landed: u64,
    synced: u64,
    is_syncing: bool,
}

impl SharedSync {
    fn make_durable(&self, file: &File) -> io::Result<()> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.landed += 1;
        let mine = state.landed;
        while state.synced < mine {
            if state.is_syncing {
                state = self.ended.wait(state).unwrap_or_else(PoisonError::into_inner);
                continue;
            }
            state.is_syncing = true;
            let covers = state.landed;
            drop(state);
            let result = file.sync_data();
            state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
            state.is_syncing = false;
            self.ended.notify_all();
            result?;
            state.synced = covers;
        }
        Ok(())
    }
}

struct RemoveOnDrop(PathBuf);

impl Drop for RemoveOnDrop {
    fn drop(&mut self) {
        // The folder may be gone, or was never writable: the probe has said so.
        let _ = std::fs::remove_file(&self.0);
    }
}

#[cfg(test)]
mod tests;
