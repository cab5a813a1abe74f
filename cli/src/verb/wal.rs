//! `creto wal verify`: what a log holds, where it ends, what is damaged; `dump`: every frame and record; `stats`: what it is
//! made of. They only read, with the reader of recovery.

mod dump;
mod stats;

use std::io::Write;
use std::path::{Path, PathBuf};

use creto_store::{
    DigestState, FileSource, LogEnd, RecoveryError, Report, SegmentReport, SourceError, digest_file_name,
    parse_segment_file_name, verify,
};
use serde_json::{Value, json};

use crate::args::{Global, WalArgs, WalVerb, WalVerifyArgs};
use crate::exit::{Exit, Failure};
use crate::terminal::{Align, BAD, Columns, DIM, GOOD, grouped, print_json, stdout};

/// What the folder of a shard is called, before its number.
const SHARD_FOLDER_PREFIX: &str = "shard-";

/// The log of one shard.
struct Shard {
    shard_index: u32,
    folder: PathBuf,
    report: Report,
}

pub(crate) fn run(global: &Global, args: &WalArgs) -> Result<Exit, Failure> {
    match &args.verb {
        WalVerb::Verify(args) => run_verify(global, args),
        WalVerb::Dump(args) => dump::run(global, args),
        WalVerb::Stats(args) => stats::run(global, args),
    }
}

/// The shards of the log that the command line means.
fn shards_of(global: &Global, folder: Option<&PathBuf>) -> Result<Vec<(u32, PathBuf)>, Failure> {
    match folder {
        Some(folder) => shard_folders(folder),
        None => shard_folders(&global.load_config()?.wal_dir()),
    }
}

fn unreadable(error: &SourceError) -> Failure {
    Failure::new(Exit::System, error.to_string(), "run it as the user who owns the log")
}

fn run_verify(global: &Global, args: &WalVerifyArgs) -> Result<Exit, Failure> {
    let mut shards = Vec::new();
    for (shard_index, folder) in shards_of(global, args.folder.as_ref())? {
        let report = verify(&mut FileSource::new(&folder), shard_index).map_err(|error| unreadable(&error))?;
        shards.push(Shard { shard_index, folder, report });
    }
    if args.json {
        print_json(&as_json(&shards))?;
    } else {
        print(&shards)?;
    }
    let damaged = shards.iter().any(|shard| !shard.report.problems.is_empty() || wrong_digests(shard).count() > 0);
    Ok(if damaged { Exit::Found } else { Exit::Ok })
}

/// The folders of the shards in `folder`, by their numbers; or `folder` itself if it is the one of a shard.
pub(super) fn shard_folders(folder: &Path) -> Result<Vec<(u32, PathBuf)>, Failure> {
    let entries = std::fs::read_dir(folder).map_err(|error| Failure::file("read", folder, &error))?;
    let mut shards = Vec::new();
    let mut holds_segments = false;
    for entry in entries {
        let path = entry.map_err(|error| Failure::file("read", folder, &error))?.path();
        holds_segments |= path.file_name().and_then(|name| parse_segment_file_name(name.to_str()?)).is_some();
        if let Some(shard_index) = shard_index(&path).filter(|_| path.is_dir()) {
            shards.push((shard_index, path));
        }
    }
    shards.sort();
    if shards.is_empty() && holds_segments {
        let own = folder.canonicalize().ok().and_then(|folder| shard_index(&folder));
        let renamed = || {
            let what = format!("{} holds segments, but its name is not that of a shard", folder.display());
            Failure::new(Exit::Usage, what, "name it as the node did, such as shard-0000: each frame says whose it is")
        };
        shards.push((own.ok_or_else(renamed)?, folder.to_owned()));
    }
    if shards.is_empty() {
        let what = format!("there is no log in {}", folder.display());
        return Err(Failure::new(
            Exit::Usage,
            what,
            "name the folder that holds shard-0000 (`creto config show`: wal.dir)",
        ));
    }
    Ok(shards)
}

fn shard_index(folder: &Path) -> Option<u32> {
    let digits = folder.file_name()?.to_str()?.strip_prefix(SHARD_FOLDER_PREFIX)?;
    digits.bytes().all(|byte| byte.is_ascii_digit()).then(|| digits.parse().ok())?
}

fn print(shards: &[Shard]) -> std::io::Result<()> {
    let mut out = stdout();
    let mut columns = Columns::new(&[
        ("shard", Align::Right),
        ("segments", Align::Right),
        ("frames", Align::Right),
        ("records", Align::Right),
        ("messages", Align::Right),
        ("size", Align::Right),
        ("durable to", Align::Left),
        ("ends", Align::Left),
    ]);
    for Shard { shard_index, report, .. } in shards {
        columns.add([
            shard_index.to_string(),
            report.segments.len().to_string(),
            grouped(report.frames),
            grouped(report.records),
            grouped(report.messages),
            size(report.bytes),
            format!("frame {}", report.durable_upto),
            report.end.as_ref().map_or_else(|| "empty".to_owned(), end),
        ]);
    }
    columns.write(&mut out)?;
    writeln!(out)?;
    let problems: Vec<(&Shard, &RecoveryError)> =
        shards.iter().flat_map(|shard| shard.report.problems.iter().map(move |problem| (shard, problem))).collect();
    for (shard, problem) in &problems {
        writeln!(out, "{BAD}damaged{BAD:#}  {}\n         {problem}", shard.folder.display())?;
    }
    for (shard, segment) in shards.iter().flat_map(|shard| wrong_digests(shard).map(move |segment| (shard, segment))) {
        let name = digest_file_name(segment.number);
        writeln!(out, "{BAD}wrong{BAD:#}  {}", shard.folder.join(&name).display())?;
        writeln!(out, "       this digest says something else than its segment: stop the node and delete it")?;
    }
    for (shard, segment) in shards.iter().flat_map(|shard| shard.report.segments.iter().map(move |s| (shard, s))) {
        if let DigestState::Refused(damage) = segment.digest {
            let path = shard.folder.join(digest_file_name(segment.number));
            let note = format!("{}: {damage}; a start reads the segment instead", path.display());
            writeln!(out, "{DIM}{note}{DIM:#}")?;
        }
    }
    let messages: u64 = shards.iter().map(|shard| shard.report.messages).sum();
    if problems.is_empty() {
        writeln!(out, "{GOOD}Sound.{GOOD:#} {} messages, every frame as it was written.", grouped(messages))?;
        if shards.iter().any(|shard| shard.report.end.as_ref().is_some_and(is_torn)) {
            let note = "The last write was cut short by a stop. It was never acknowledged; the next start drops it.";
            writeln!(out, "{DIM}{note}{DIM:#}")?;
        }
    }
    Ok(())
}

/// Segments whose digest a start would believe although it is wrong.
fn wrong_digests(shard: &Shard) -> impl Iterator<Item = &SegmentReport> {
    shard.report.segments.iter().filter(|segment| segment.digest == DigestState::Wrong)
}

fn digest_name(state: DigestState) -> &'static str {
    match state {
        DigestState::Missing => "missing",
        DigestState::Sound => "sound",
        DigestState::Refused(_) => "refused",
        DigestState::Wrong => "wrong",
        DigestState::Unknown => "unknown",
    }
}

/// Whether the log ends in something that was begun and not finished.
fn is_torn(end: &LogEnd) -> bool {
    end.reason.is_some_and(|reason| reason != creto_store::FrameDamage::Empty)
}

fn end(end: &LogEnd) -> String {
    let torn = if is_torn(end) { ", cut short" } else { "" };
    format!("segment {}, byte {}{torn}", end.segment, end.offset)
}

fn as_json(shards: &[Shard]) -> Value {
    let shard = |shard: &Shard| {
        let report = &shard.report;
        json!({
            "shard": shard.shard_index,
            "folder": shard.folder,
            "segments": report.segments.iter().map(|segment| json!({
                "segment": segment.number.0,
                "epoch": segment.epoch.0,
                "first_lsn": segment.first_lsn.0,
                "frames": segment.frames,
                "records": segment.records,
                "messages": segment.messages,
                "bytes": segment.bytes,
                "digest": digest_name(segment.digest),
            })).collect::<Vec<_>>(),
            "frames": report.frames,
            "records": report.records,
            "messages": report.messages,
            "bytes": report.bytes,
            "durable_lsn": report.durable_upto.0,
            "end": report.end.as_ref().map(|end| json!({
                "segment": end.segment.0,
                "offset": end.offset,
                "lsn": end.lsn.0,
                "cut_short": is_torn(end),
                "reason": end.reason.map(|reason| reason.to_string()),
            })),
            "leftovers": report.leftovers.iter().map(|segment| segment.0).collect::<Vec<_>>(),
            "problems": report.problems.iter().map(problem).collect::<Vec<_>>(),
        })
    };
    json!({
        "ok": shards.iter().all(|shard| shard.report.problems.is_empty() && wrong_digests(shard).count() == 0),
        "messages": shards.iter().map(|shard| shard.report.messages).sum::<u64>(),
        "shards": shards.iter().map(shard).collect::<Vec<_>>(),
    })
}

fn problem(problem: &RecoveryError) -> Value {
    match problem {
        RecoveryError::Source(error) => json!({ "text": error.to_string() }),
        RecoveryError::Corrupt(corruption) => json!({
            "text": corruption.to_string(),
            "segment": corruption.segment.0,
            "offset": corruption.offset,
            "expected_lsn": corruption.expected_lsn.0,
            "durable_lsn": corruption.durable_upto.0,
            "reason": corruption.reason.to_string(),
        }),
    }
}

fn size(bytes: u64) -> String {
    match bytes {
        0..=1_023 => format!("{bytes} B"),
        1_024..=1_048_575 => format!("{} KiB", bytes >> 10),
        1_048_576..=1_073_741_823 => format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20)),
        _ => format!("{:.1} GiB", bytes as f64 / f64::from(1 << 30)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_of_shards_are_told_by_their_names() {
        assert_eq!(shard_index(Path::new("wal/shard-0012")), Some(12));
        for other in ["wal", "wal/shard-", "wal/shard-1a", "wal/shard--1"] {
            assert_eq!(shard_index(Path::new(other)), None, "{other}");
        }
    }
}
