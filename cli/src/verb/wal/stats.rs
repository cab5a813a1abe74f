//! `creto wal stats`: what a log is made of.

use std::collections::{BTreeMap, HashMap};
use std::io::Write;
use std::path::{Path, PathBuf};

use creto_store::{
    DigestState, FileSource, LogEntry, MailboxId, Noted, Report, digest_file_name, segment_file_name, walk,
};
use serde_json::{Value, json};

use super::{problem, shards_of, size, unreadable};
use crate::args::{Global, WalStatsArgs};
use crate::exit::{Exit, Failure};
use crate::terminal::{Align, BAD, Columns, DIM, grouped, print_json, stdout};

/// Mailboxes that are shown.
const MAILBOXES_SHOWN: usize = 20;

pub(super) fn run(global: &Global, args: &WalStatsArgs) -> Result<Exit, Failure> {
    let mut all = Vec::new();
    for (shard_index, folder) in shards_of(global, args.folder.as_ref())? {
        let mut made_of = MadeOf::default();
        let report = walk(&mut FileSource::new(&folder), shard_index, |entry| made_of.add(&entry));
        let report = report.map_err(|error| unreadable(&error))?;
        all.push(Shard { shard_index, folder, report, made_of });
    }
    if args.json {
        print_json(&json!({ "shards": all.iter().map(as_json).collect::<Vec<_>>() }))?;
    } else {
        print(&all)?;
    }
    let is_damaged = all.iter().any(|shard| !shard.report.problems.is_empty());
    Ok(if is_damaged { Exit::Found } else { Exit::Ok })
}

struct Shard {
    shard_index: u32,
    folder: PathBuf,
    report: Report,
    made_of: MadeOf,
}

/// What was counted on the way through a log.
#[derive(Default)]
struct MadeOf {
    kinds: BTreeMap<&'static str, Count>,
    mailboxes: HashMap<MailboxId, Count>,
    /// Messages that nothing in the log settles, by sequence.
    live: HashMap<u64, (MailboxId, u32)>,
    epochs: BTreeMap<u64, Epoch>,
}

#[derive(Clone, Copy, Default)]
struct Count {
    count: u64,
    bytes: u64,
    live: u64,
    live_bytes: u64,
}

#[derive(Default)]
struct Epoch {
    segments: u64,
    frames: u64,
    started_ms: Option<u64>,
}

impl MadeOf {
    fn add(&mut self, entry: &LogEntry<'_>) {
        match entry {
            LogEntry::Segment { header, .. } => self.epochs.entry(header.epoch.0).or_default().segments += 1,
            LogEntry::Frame { header, .. } => self.epochs.entry(header.epoch.0).or_default().frames += 1,
            LogEntry::Record { position, bytes, record } => {
                let noted = record.noted(*position);
                let kind = self.kinds.entry(noted.kind_name()).or_default();
                kind.count += 1;
                kind.bytes += *bytes as u64;
                match &noted {
                    Noted::Settle(settle) => {
                        for sequence in &settle.sequences {
                            self.live.remove(sequence);
                        }
                    }
                    Noted::Start(start) => {
                        self.epochs.entry(start.epoch.0).or_default().started_ms = Some(start.started_ms);
                    }
                    _ => {}
                }
                for message in noted.messages() {
                    let mailbox = self.mailboxes.entry(message.mailbox).or_default();
                    // What was moved came in before; where it came in may be trimmed since.
                    if self.live.contains_key(&message.sequence) {
                        continue;
                    }
                    mailbox.count += 1;
                    mailbox.bytes += u64::from(message.place.message_bytes);
                    self.live.insert(message.sequence, (message.mailbox, message.place.message_bytes));
                }
            }
        }
    }

    fn live_bytes(&self) -> u64 {
        self.live.values().map(|(_, bytes)| u64::from(*bytes)).sum()
    }

    /// Mailboxes with what is live in them, the one with most messages first.
    fn fullest(&self) -> Vec<(MailboxId, Count)> {
        let mut counts = self.mailboxes.clone();
        for (mailbox, bytes) in self.live.values() {
            let count = counts.entry(*mailbox).or_default();
            count.live += 1;
            count.live_bytes += u64::from(*bytes);
        }
        let mut all: Vec<_> = counts.into_iter().collect();
        all.sort_unstable_by_key(|(mailbox, count)| (std::cmp::Reverse((count.live, count.count)), *mailbox));
        all.truncate(MAILBOXES_SHOWN);
        all
    }
}

impl Shard {
    /// Bytes of all segment files, and of their digests.
    fn file_bytes(&self) -> (u64, u64) {
        let length = |name: String| std::fs::metadata(self.folder.join(name)).map_or(0, |metadata| metadata.len());
        let segments = self.report.segments.iter().map(|segment| segment.number);
        let digests = segments.clone().map(|number| length(digest_file_name(number))).sum();
        (segments.map(|number| length(segment_file_name(number))).sum(), digests)
    }

    fn sound_digests(&self) -> usize {
        self.report.segments.iter().filter(|segment| segment.digest == DigestState::Sound).count()
    }
}

fn print(shards: &[Shard]) -> std::io::Result<()> {
    let mut out = stdout();
    let right = |name| (name, Align::Right);
    let mut columns = Columns::new(&[
        right("shard"),
        right("segments"),
        right("on disk"),
        right("digests"),
        right("records"),
        right("messages"),
        right("live"),
        right("live size"),
        right("dead size"),
        right("epochs"),
    ]);
    for shard in shards {
        let (segment_bytes, digest_bytes) = shard.file_bytes();
        let live_bytes = shard.made_of.live_bytes();
        columns.add([
            shard.shard_index.to_string(),
            shard.report.segments.len().to_string(),
            size(segment_bytes + digest_bytes),
            format!("{} ({})", shard.sound_digests(), size(digest_bytes)),
            grouped(shard.report.records),
            grouped(shard.report.messages),
            grouped(shard.made_of.live.len() as u64),
            size(live_bytes),
            size(shard.report.bytes.saturating_sub(live_bytes)),
            shard.made_of.epochs.len().to_string(),
        ]);
    }
    columns.write(&mut out)?;
    let note =
        "Live: not settled by anything in the log. Dead: the rest of what is written, headers and padding included.";
    writeln!(out, "{DIM}{note}{DIM:#}")?;
    for shard in shards {
        writeln!(out, "\n{}", place(shard, &shard.folder))?;
        print_kinds(&mut out, &shard.made_of)?;
        writeln!(out)?;
        print_mailboxes(&mut out, &shard.made_of)?;
        for problem in &shard.report.problems {
            writeln!(out, "{BAD}damaged{BAD:#}  {problem}")?;
        }
    }
    Ok(())
}

fn place(shard: &Shard, folder: &Path) -> String {
    format!("Shard {} in {}", shard.shard_index, folder.display())
}

fn print_kinds(out: &mut impl Write, made_of: &MadeOf) -> std::io::Result<()> {
    let mut columns = Columns::new(&[("records", Align::Left), ("count", Align::Right), ("size", Align::Right)]);
    for (kind, count) in &made_of.kinds {
        columns.add([(*kind).to_owned(), grouped(count.count), size(count.bytes)]);
    }
    columns.write(out)
}

fn print_mailboxes(out: &mut impl Write, made_of: &MadeOf) -> std::io::Result<()> {
    let mut columns = Columns::new(&[
        ("fullest mailboxes", Align::Left),
        ("live", Align::Right),
        ("live size", Align::Right),
        ("messages", Align::Right),
        ("size", Align::Right),
    ]);
    for (mailbox, count) in made_of.fullest() {
        let (live, live_size) = (grouped(count.live), size(count.live_bytes));
        columns.add([mailbox.to_string(), live, live_size, grouped(count.count), size(count.bytes)]);
    }
    columns.write(out)?;
    let left = made_of.mailboxes.len().saturating_sub(MAILBOXES_SHOWN);
    if left > 0 {
        writeln!(out, "{DIM}and {} more{DIM:#}", grouped(left as u64))?;
    }
    Ok(())
}

fn as_json(shard: &Shard) -> Value {
    let (segment_bytes, digest_bytes) = shard.file_bytes();
    let (report, made_of) = (&shard.report, &shard.made_of);
    let live_bytes = made_of.live_bytes();
    json!({
        "shard": shard.shard_index,
        "folder": shard.folder,
        "segments": report.segments.len(),
        "segment_file_bytes": segment_bytes,
        "digest_file_bytes": digest_bytes,
        "sound_digests": shard.sound_digests(),
        "written_bytes": report.bytes,
        "frames": report.frames,
        "records": report.records,
        "messages": report.messages,
        "live_messages": made_of.live.len(),
        "live_bytes": live_bytes,
        "dead_bytes": report.bytes.saturating_sub(live_bytes),
        "kinds": made_of.kinds.iter().map(|(kind, count)| json!({
            "kind": kind, "count": count.count, "bytes": count.bytes,
        })).collect::<Vec<_>>(),
        "mailboxes": made_of.mailboxes.len(),
        "fullest_mailboxes": made_of.fullest().iter().map(|(mailbox, count)| json!({
            "mailbox": mailbox.to_string(), "live_messages": count.live, "live_bytes": count.live_bytes,
            "messages": count.count, "bytes": count.bytes,
        })).collect::<Vec<_>>(),
        "epochs": made_of.epochs.iter().map(|(epoch, of)| json!({
            "epoch": epoch, "segments": of.segments, "frames": of.frames, "started_ms": of.started_ms,
        })).collect::<Vec<_>>(),
        "problems": report.problems.iter().map(problem).collect::<Vec<_>>(),
    })
}
