//! Reads a whole log for a human: what it holds, where it ends, what is wrong with it. Nothing is changed.
//!
//! The reader is recovery's, so what it says of a log is what a start would find.

use std::collections::BTreeSet;

use crate::digest::{DigestBuilder, DigestDamage, SegmentDigest};
use crate::frame::{FrameDamage, FrameHeader};
use crate::lsn::{Epoch, Lsn, Position, SegmentNumber};
use crate::record::Record;
use crate::recovery::{RecoveryError, Survey, for_each_record};
use crate::segment::SegmentHeader;
use crate::source::{SegmentFile, SegmentSource, SourceError};

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
    /// What its digest is worth.
    pub digest: DigestState,
}

/// What a segment's digest is worth.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DigestState {
    /// There is none: a start reads the segment.
    Missing,
    /// It says what the segment says.
    Sound,
    /// It is damaged or another's: a start reads the segment.
    Refused(DigestDamage),
    /// It looks sound and says something else than the segment: a start would believe it.
    Wrong,
    /// The segment is damaged, so there is nothing to hold it against.
    Unknown,
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

/// What [`walk`] comes by, in the order of the log.
#[derive(Debug)]
pub enum LogEntry<'a> {
    /// A segment begins.
    Segment {
        /// Its file.
        file: SegmentFile,
        /// Its header.
        header: &'a SegmentHeader,
    },
    /// A frame whose place and checksum hold.
    Frame {
        /// Its header.
        header: &'a FrameHeader,
        /// The byte in the segment at which it begins.
        offset: u64,
    },
    /// A record of that frame.
    Record {
        /// Where it is.
        position: Position,
        /// Its bytes, header and padding included.
        bytes: usize,
        /// The record.
        record: &'a Record,
    },
}

/// Reads the log of a shard from end to end. Damage is reported, and reading goes on with the next segment.
///
/// # Errors
/// [`SourceError`] when the folder cannot be listed.
pub fn verify<S: SegmentSource>(source: &mut S, shard_index: u32) -> Result<Report, SourceError> {
    walk(source, shard_index, |_| ())
}

/// As [`verify`], and shows everything that it comes by.
///
/// # Errors
/// As [`verify`].
pub fn walk<S: SegmentSource>(
    source: &mut S,
    shard_index: u32,
    mut on_entry: impl FnMut(LogEntry<'_>),
) -> Result<Report, SourceError> {
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
    let digests: BTreeSet<_> = source.digests()?.into_iter().collect();
    for place in 0..survey.chain.len() {
        let (segment, problem) = walk_segment(source, &survey, place, &digests, &mut on_entry);
        report.frames += segment.frames;
        report.records += segment.records;
        report.messages += segment.messages;
        report.bytes += segment.bytes;
        report.segments.push(segment);
        report.problems.extend(problem);
    }
    report.end = survey.chain.last().map(|(file, _)| {
        let end = survey.end;
        LogEnd { segment: file.number, offset: end.offset, lsn: end.lsn, reason: end.reason }
    });
    Ok(report)
}

fn walk_segment<S: SegmentSource>(
    source: &mut S,
    survey: &Survey,
    place: usize,
    digests: &BTreeSet<SegmentNumber>,
    on_entry: &mut impl FnMut(LogEntry<'_>),
) -> (SegmentReport, Option<RecoveryError>) {
    let (file, header) = survey.chain[place];
    on_entry(LogEntry::Segment { file, header: &header });
    let (mut frames, mut records, mut messages) = (0, 0, 0);
    let mut builder = DigestBuilder::new(header, u64::MAX);
    let replayed = survey.replay(source, place, |frame, body| {
        frames += 1;
        on_entry(LogEntry::Frame { header: &frame.header, offset: frame.offset });
        for_each_record(frame, body, &mut |position, record| {
            records += 1;
            messages += record.message_count() as u64;
            let noted = record.noted(position);
            builder.record(position, &record, &noted);
            on_entry(LogEntry::Record { position, bytes: record.encoded_bytes(), record: &record });
        })?;
        builder.frame(&frame.header, frame.header.crc);
        Ok(())
    });
    let (bytes, digest, problem) = match replayed {
        Ok(end) => {
            let digest = match digests.contains(&file.number) {
                true => state_of_digest(source, survey, place, builder),
                false => DigestState::Missing,
            };
            (end.offset, digest, None)
        }
        Err(problem) => (0, DigestState::Unknown, Some(problem)),
    };
    let (number, epoch, first_lsn) = (file.number, header.epoch, header.first_lsn);
    (SegmentReport { number, epoch, first_lsn, frames, records, messages, bytes, digest }, problem)
}

/// Holds a digest against the one that the segment itself gives.
fn state_of_digest<S: SegmentSource>(
    source: &mut S,
    survey: &Survey,
    place: usize,
    builder: DigestBuilder,
) -> DigestState {
    let number = survey.chain[place].0.number;
    let Ok(bytes) = source.read_digest(number) else { return DigestState::Refused(DigestDamage::Unreadable) };
    let digest = SegmentDigest::parse(&bytes).and_then(|digest| survey.check_digest(place, &digest).map(|()| digest));
    match (digest, builder.finish()) {
        (Err(damage), _) => DigestState::Refused(damage),
        (Ok(digest), Some(made)) if digest.says_what(&made) => DigestState::Sound,
        (Ok(_), _) => DigestState::Wrong,
    }
}
