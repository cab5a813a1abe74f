//! What was measured, for people and as JSON.

use std::fmt;
use std::fs;
use std::path::PathBuf;
use std::thread;

use serde::Serialize;

use crate::backlog::{ENVELOPE_BYTES, MESSAGES_MAX, SENDERS, SHARDS, Written};
use crate::drain::Drained;
use crate::page_cache::Dropped;
use crate::process::Started;

/// What is promised for ten million messages.
const READY_S_MAX: f64 = 15.0;
const RESIDENT_BYTES_MAX: u64 = 1 << 30;

#[derive(Debug, Serialize)]
pub(crate) struct Report {
    pub(crate) written: Written,
    pub(crate) mailboxes: usize,
    /// Since the last message came.
    pub(crate) age_s: u64,
    pub(crate) log: Log,
    pub(crate) load: f64,
    pub(crate) dropped: Dropped,
    /// With nothing of the log in memory.
    pub(crate) cold: Started,
    /// Just after such a start.
    pub(crate) warm: Started,
    /// Segments from front to back, one of each shard at a time.
    pub(crate) plain_gb_per_s: f64,
    pub(crate) reads: Vec<Read>,
    /// Memory of the node after these.
    pub(crate) resident_then_bytes: u64,
}

/// What the logs take on disk.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Log {
    segments: usize,
    segment_bytes: u64,
    digest_bytes: u64,
}

/// How mailboxes were read.
#[derive(Debug, Serialize)]
pub(crate) struct Read {
    /// One message behind the other on disk, or far apart.
    pub(crate) is_in_runs: bool,
    #[serde(flatten)]
    pub(crate) drained: Drained,
}

impl Log {
    pub(crate) fn measure(folders: &[PathBuf]) -> Self {
        let mut log = Self::default();
        for entry in folders.iter().flat_map(|folder| fs::read_dir(folder).unwrap()) {
            let entry = entry.unwrap();
            let bytes = entry.metadata().unwrap().len();
            match entry.path().extension().and_then(|extension| extension.to_str()) {
                Some("wal") => {
                    log.segments += 1;
                    log.segment_bytes += bytes;
                }
                Some("idx") => log.digest_bytes += bytes,
                _ => {}
            }
        }
        log
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { written, log, .. } = self;
        let messages = grouped(self.cold.messages);
        let minutes = self.age_s.div_ceil(60);
        let cpus = thread::available_parallelism().map_or(1, usize::from);
        writeln!(
            f,
            "{messages} messages of 1 KiB of {} senders wait in {} mailboxes of {SHARDS} shards; \
             the last came {minutes} minutes ago",
            grouped(SENDERS),
            self.mailboxes,
        )?;
        writeln!(
            f,
            "{:.1} GB of log in {} segments with {:.2} GB of digests, written in {:.0} s; {cpus} CPUs at a load of {:.1}\n",
            gb(log.segment_bytes),
            log.segments,
            gb(log.digest_bytes),
            written.took_s,
            self.load,
        )?;
        writeln!(
            f,
            "{:<40} {:>9} {:>11} {:>9} {:>10} {:>10} {:>10} {:>10}",
            "start", "ready", "logs read", "CPU", "from disk", "resident", "at most", "a message"
        )?;
        let cold = match self.dropped {
            Dropped::Everything => "nothing in the page cache",
            Dropped::Content => "no file's content in memory (not root)",
        };
        for (name, started) in [(cold, &self.cold), ("just after that", &self.warm)] {
            writeln!(
                f,
                "  {name:<38} {:>7.2} s {:>9.2} s {:>7.2} s {:>7.2} GB {:>6.0} MiB {:>6.0} MiB {:>8.1} B",
                started.ready_s,
                started.recovery_s,
                started.cpu_s,
                gb(started.read_bytes),
                mib(started.resident_bytes),
                mib(started.peak_bytes),
                started.resident_bytes as f64 / started.messages as f64,
            )?;
        }
        if self.cold.messages == MESSAGES_MAX {
            let holds = |holds: bool| if holds { "holds" } else { "SHORT" };
            writeln!(
                f,
                "  promised: ready in {READY_S_MAX} s ({}), {:.0} MiB resident ({})",
                holds(self.cold.ready_s < READY_S_MAX),
                mib(RESIDENT_BYTES_MAX),
                holds(self.cold.resident_bytes.max(self.warm.resident_bytes) <= RESIDENT_BYTES_MAX),
            )?;
        }
        writeln!(
            f,
            "\n{:<40} {:>9} {:>11} {:>11} {:>11} {:>9} {:>11}",
            "mailboxes read from disk", "messages", "messages/s", "envelopes", "from disk", "of plain", "node CPU"
        )?;
        let plain = self.plain_gb_per_s;
        writeln!(
            f,
            "  {:<38} {:>9} {:>11} {:>11} {plain:>6.2} GB/s {:>9.2}",
            "the segments, plainly, one of each shard", "", "", "", 1.0
        )?;
        for Read { is_in_runs, drained } in &self.reads {
            let how = if *is_in_runs { "whole batches each" } else { "messages far apart" };
            let name = format!("{} at a time, {how}", drained.mailboxes);
            writeln!(
                f,
                "  {name:<38} {:>9} {:>11} {:>6.2} GB/s {:>6.2} GB/s {:>9.2} {:>8.1} us",
                grouped(drained.messages),
                grouped(rounded(drained.messages_per_s)),
                drained.gb_per_s,
                drained.device_gb_per_s,
                drained.gb_per_s / plain,
                drained.cpu_us_per_message,
            )?;
        }
        write!(
            f,
            "  \"of plain\": envelopes of {ENVELOPE_BYTES} bytes a second by what plain reads bring; {:.0} MiB resident then",
            mib(self.resident_then_bytes),
        )
    }
}

fn gb(bytes: u64) -> f64 {
    bytes as f64 / 1e9
}

fn mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a positive rate far below 2^64")]
fn rounded(rate: f64) -> u64 {
    rate.round() as u64
}

/// `1,234,567`
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let first = digits.len() % 3;
    let groups = digits.as_bytes()[first..].chunks(3).map(|group| String::from_utf8_lossy(group).into_owned());
    let first = (first > 0).then(|| digits[..first].to_owned());
    first.into_iter().chain(groups).collect::<Vec<_>>().join(",")
}
