//! The device under the log by itself: plain system calls on a file of its own, written once before, as a segment is.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use creto_io::limits::BLOCK_BYTES;
use creto_io::{AlignedBuffer, Durability};
use hdrhistogram::Histogram;

const FILE_BYTES: u64 = 128 << 20;
const FILL_BYTES: usize = 1 << 20;

/// A file to measure the device with.
pub(super) struct Device {
    file: File,
    durability: Durability,
}

/// What the device did.
pub(super) struct DeviceDone {
    pub(super) bytes: u64,
    pub(super) took: Duration,
    /// Write and sync together, in microseconds.
    pub(super) durable: Histogram<u64>,
    /// What messages that come evenly over the whole time would have waited, each for the first write that began after it,
    /// in microseconds: the least that any log can make them wait which writes one group at a time.
    pub(super) waited: Histogram<u64>,
}

/// Distance of the messages of which [`DeviceDone::waited`] speaks.
const ARRIVALS: Duration = Duration::from_micros(10);

fn histogram() -> Histogram<u64> {
    Histogram::new_with_max(60_000_000, 3).expect("a minute in microseconds is a valid range")
}

impl Device {
    pub(super) fn new(folder: &Path, durability: Durability) -> io::Result<Self> {
        let path = folder.join(".device");
        let open = |flags: i32| {
            OpenOptions::new().create(true).truncate(false).write(true).custom_flags(libc::O_DIRECT | flags).open(&path)
        };
        let file = open(0)?;
        let zeros = AlignedBuffer::new(FILL_BYTES);
        for offset in (0..FILE_BYTES).step_by(FILL_BYTES) {
            file.write_all_at(zeros.bytes(FILL_BYTES), offset)?;
        }
        file.sync_all()?;
        let file = match durability {
            Durability::Fdatasync => file,
            Durability::Dsync => open(libc::O_DSYNC)?,
        };
        std::fs::remove_file(&path)?;
        Ok(Self { file, durability })
    }

    /// Writes blocks of one size one after the other, `in_flight` at a time, each made durable by itself. With a pause, a
    /// block begins that long after the one before did, or at once when that is over.
    pub(super) fn run(
        &self,
        block_bytes: usize,
        in_flight: usize,
        pause: Duration,
        time: Duration,
    ) -> io::Result<DeviceDone> {
        let block_bytes = block_bytes.next_multiple_of(BLOCK_BYTES);
        let (next, began) = (AtomicU64::new(0), Instant::now());
        let one = || -> io::Result<DeviceDone> {
            let block = AlignedBuffer::new(block_bytes);
            let (mut durable, mut waited) = (histogram(), histogram());
            let (mut bytes, mut arrived) = (0, began);
            let mut due = began;
            while began.elapsed() < time {
                if let Some(wait) = due.checked_duration_since(Instant::now()) {
                    std::thread::park_timeout(wait);
                    continue;
                }
                due = (due + pause).max(Instant::now());
                let place = next.fetch_add(1, Ordering::Relaxed) % (FILE_BYTES / block_bytes as u64);
                let start = Instant::now();
                self.file.write_all_at(block.bytes(block_bytes), place * block_bytes as u64)?;
                if self.durability == Durability::Fdatasync {
                    self.file.sync_data()?;
                }
                let end = Instant::now();
                durable.saturating_record(micros(end - start));
                while arrived <= start {
                    waited.saturating_record(micros(end - arrived));
                    arrived += ARRIVALS;
                }
                bytes += block_bytes as u64;
            }
            Ok(DeviceDone { bytes, took: began.elapsed(), durable, waited })
        };
        let parts: Vec<io::Result<DeviceDone>> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..in_flight).map(|_| scope.spawn(one)).collect();
            threads.into_iter().map(|thread| thread.join().expect("the threads do not panic")).collect()
        });
        let mut parts = parts.into_iter();
        let mut done = parts.next().expect("at least one write is in flight")?;
        for part in parts {
            let part = part?;
            done.bytes += part.bytes;
            done.took = done.took.max(part.took);
            done.durable.add(&part.durable).expect("both have the same range");
            done.waited.add(&part.waited).expect("both have the same range");
        }
        Ok(done)
    }
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX).max(1)
}
