//! Reads a whole log for a human: what it holds, where it ends, what is wrong with it. Nothing is changed.

use crate::frame::FrameDamage;
use crate::lsn::{Epoch, Lsn, SegmentNumber};
use crate::recovery::{RecoveryError, Survey, for_each_record};
use crate::source::{SegmentSource, SourceError};

/// What a log holds.
#[derive(Debug)]
pub struct Report {
    /// The segments of the log, oldest first.
    pub segments: Vec<SegmentReport>,
    /// Frames in all segments.
    pub frames: u64,
    /// Records in all frames.
    pub records: u64,
    /// Messages in all records, settled or not.
    pub messages: u64,
    /// Bytes of all headers and frames.
    pub bytes: u64,
    /// The last frame that the log itself proves durable (W).
    pub durable_upto: Lsn,
    /// Where the log ends; `None` for an empty log, or when the last segment cannot be read.
    pub end: Option<LogEnd>,
    /// Files that are not part of the log: prepared and never begun, or trimmed. The next start deletes them.
    pub leftovers: Vec<SegmentNumber>,
    /// What is wrong; empty for a sound log.
    pub problems: Vec<RecoveryError>,
}

/// What a segment holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SegmentReport {
    /// The segment.
    pub number: SegmentNumber,
    /// Its epoch.
    pub epoch: Epoch,
    /// Its first frame.
    pub first_lsn: Lsn,
    /// Its frames.
    pub frames: u64,
    /// Their records.
    pub records: u64,
    /// Messages in these records.
    pub messages: u64,
    /// Bytes of its header and frames.
    pub bytes: u64,
}

/// Where a log ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogEnd {
    /// The segment.
    pub segment: SegmentNumber,
    /// The byte after the last frame.
    pub offset: u64,
    /// The last frame.
    pub lsn: Lsn,
    /// What stands there instead of a next frame; `None` at the end of the file.
    pub reason: Option<FrameDamage>,
}

/// Reads the log of a shard from end to end. Damage is reported, and reading goes on with the next segment.
///
/// # Errors
/// [`SourceError`] when the folder cannot be listed.
pub fn verify<S: SegmentSource>(source: &mut S, shard_index: u32) -> Result<Report, SourceError> {
    let mut report = Report {
        segments: Vec::new(),
        frames: 0,
        records: 0,
        messages: 0,
        bytes: 0,
        durable_upto: Lsn(0),
        end: None,
        leftovers: Vec::new(),
        problems: Vec::new(),
    };
    let survey = match Survey::make(source, shard_index) {
        Ok(survey) => survey,
        Err(RecoveryError::Source(error)) => return Err(error),
        Err(problem) => {
            report.problems.push(problem);
            return Ok(report);
        }
    };
    report.durable_upto = survey.durable_upto;
    report.leftovers.clone_from(&survey.leftovers);
    for (place, (file, header)) in survey.chain.iter().enumerate() {
        let (mut frames, mut records, mut messages) = (0, 0, 0);
        let replayed = survey.replay(source, place, |frame, body| {
            frames += 1;
            for_each_record(frame, body, &mut |_, record| {
                records += 1;
                messages += record.message_count() as u64;
            })
        });
        let bytes = match replayed {
            Ok(end) => end.offset,
            Err(problem) => {
                report.problems.push(problem);
                0
            }
        };
        let (number, epoch, first_lsn) = (file.number, header.epoch, header.first_lsn);
        report.segments.push(SegmentReport { number, epoch, first_lsn, frames, records, messages, bytes });
        report.frames += frames;
        report.records += records;
        report.messages += messages;
        report.bytes += bytes;
    }
    report.end = survey.chain.last().map(|(file, _)| {
        let end = survey.end;
        LogEnd { segment: file.number, offset: end.offset, lsn: end.lsn, reason: end.reason }
    });
    Ok(report)
}
