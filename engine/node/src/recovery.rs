//! Watches the recovery of the logs: one line on a terminal, a line in the log now and then where nobody looks.

use std::io::{IsTerminal, Write};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use creto_store::{SegmentFile, SegmentNumber, SegmentSource, SourceError};

/// A recovery that is over by then is not worth a word.
const SILENT: Duration = Duration::from_secs(1);
/// Between two states of the line on a terminal.
const REDRAW: Duration = Duration::from_millis(200);
/// Between two lines in the log.
const RELOG: Duration = Duration::from_secs(5);
/// Characters of the bar.
const BAR: usize = 30;

/// How far the recovery of all shards is.
#[derive(Debug, Default)]
pub(crate) struct RecoveryProgress {
    /// Segments of all logs, and those that are done.
    segments: AtomicU64,
    segments_done: AtomicU64,
    /// Bytes of all segment files, and of those that are done, read or not.
    bytes: AtomicU64,
    bytes_done: AtomicU64,
    /// Bytes that were read.
    bytes_read: AtomicU64,
}

/// A log that is read, with its progress.
#[derive(Debug)]
pub(crate) struct WatchedSource<'p, S> {
    source: S,
    progress: &'p RecoveryProgress,
    segments: Vec<SegmentFile>,
    /// The segment that is being read. Those before it are done.
    current: Option<SegmentNumber>,
}

/// Reads of this size are of frames. Smaller ones are of headers, from all over the log.
const READ_OF_FRAMES: usize = 64 << 10;

impl<'p, S: SegmentSource> WatchedSource<'p, S> {
    pub(crate) fn new(source: S, progress: &'p RecoveryProgress) -> Self {
        Self { source, progress, segments: Vec::new(), current: None }
    }

    /// Everything before `segment` is done. The last segment is read first of all, to find the end of the log.
    fn begin(&mut self, segment: SegmentNumber) {
        let is_last = self.segments.last().is_some_and(|last| last.number <= segment);
        if is_last || self.current.is_some_and(|current| current >= segment) {
            return;
        }
        let after = self.current.replace(segment);
        for file in &self.segments {
            if after.is_none_or(|after| file.number >= after) && file.number < segment {
                self.progress.segments_done.fetch_add(1, Relaxed);
                self.progress.bytes_done.fetch_add(file.bytes, Relaxed);
            }
        }
    }
}

impl<S: SegmentSource> SegmentSource for WatchedSource<'_, S> {
    fn segments(&mut self) -> Result<Vec<SegmentFile>, SourceError> {
        let segments = self.source.segments()?;
        self.segments.clone_from(&segments);
        self.segments.sort_unstable();
        self.progress.segments.fetch_add(segments.len() as u64, Relaxed);
        self.progress.bytes.fetch_add(segments.iter().map(|file| file.bytes).sum(), Relaxed);
        Ok(segments)
    }

    fn read(&mut self, segment: SegmentNumber, offset: u64, out: &mut [u8]) -> Result<(), SourceError> {
        if out.len() >= READ_OF_FRAMES {
            self.begin(segment);
        }
        self.progress.bytes_read.fetch_add(out.len() as u64, Relaxed);
        self.source.read(segment, offset, out)
    }

    fn digests(&mut self) -> Result<Vec<SegmentNumber>, SourceError> {
        self.source.digests()
    }

    fn read_digest(&mut self, segment: SegmentNumber) -> Result<Bytes, SourceError> {
        self.begin(segment);
        let digest = self.source.read_digest(segment)?;
        self.progress.bytes_read.fetch_add(digest.len() as u64, Relaxed);
        Ok(digest)
    }
}

impl RecoveryProgress {
    /// Says how far the recovery is until the other end of `finished` is gone.
    pub(crate) fn report(&self, finished: &Receiver<()>) {
        let begun = Instant::now();
        let on_terminal = std::io::stderr().is_terminal();
        let mut has_drawn = false;
        let mut wait = SILENT;
        while let Err(RecvTimeoutError::Timeout) = finished.recv_timeout(wait) {
            let text = self.text(begun.elapsed());
            if on_terminal {
                let _ = write!(std::io::stderr(), "\r\x1b[2K{text}");
                has_drawn = true;
                wait = REDRAW;
            } else {
                tracing::info!("recovering the logs: {text}");
                wait = RELOG;
            }
        }
        if has_drawn {
            let _ = write!(std::io::stderr(), "\r\x1b[2K");
        }
    }

    /// Such as `[######........] 12 of 40 segments, 0.8 of 2.7 GB, 1.1 GB/s read, about 2 s left`.
    fn text(&self, elapsed: Duration) -> String {
        let (done, all) = (self.bytes_done.load(Relaxed), self.bytes.load(Relaxed));
        let share = if all == 0 { 0.0 } else { done as f64 / all as f64 };
        let filled = (0..BAR).filter(|&at| (at as f64) < share * BAR as f64).count();
        let bar = "#".repeat(filled) + &".".repeat(BAR - filled);
        let seconds = elapsed.as_secs_f64().max(0.001);
        let left = match share {
            0.0 => String::new(),
            share => format!(", about {:.0} s left", (seconds / share - seconds).ceil()),
        };
        let gigabytes = |bytes: u64| bytes as f64 / 1e9;
        format!(
            "[{bar}] {} of {} segments, {:.1} of {:.1} GB, {:.2} GB/s read{left}",
            self.segments_done.load(Relaxed),
            self.segments.load(Relaxed),
            gigabytes(done),
            gigabytes(all),
            gigabytes(self.bytes_read.load(Relaxed)) / seconds,
        )
    }
}

#[cfg(test)]
mod tests;
