//! Reads a log back after a stop of any kind, and decides where it ends.
//!
//! Let W be the highest frame that anything in the log proves durable. A bad frame at or below W is corruption: recovery
//! says where and stops, and nothing is cut. A bad frame above W is the end that was never synced: the log is cut there,
//! even when good frames follow. `docs/wal-format.md` argues every crash case.

mod behind;
mod by_digest;

use std::collections::VecDeque;
use std::fmt;

use bytes::Bytes;
use thiserror::Error;

pub use self::behind::{LogPlace, ReadBehind, read_behind};
pub use self::by_digest::{DigestUse, recover_noted};
use crate::digest::Digest;
use crate::frame::{FrameDamage, FrameHeader, offset_blocks};
use crate::layout::{length_u32, length_usize};
use crate::limits::{BLOCK_BYTES, FRAME_BYTES_MAX, FRAME_HEADER_BYTES, SEGMENT_HEADER_BYTES, WRITE_BYTES_MAX};
use crate::lsn::{Epoch, Lsn, Position, SegmentNumber};
use crate::planted::{Bug, is_planted};
use crate::record::{Record, RecordError};
use crate::segment::{SegmentDamage, SegmentHeader};
use crate::source::{SegmentFile, SegmentSource, SourceError, Window};

/// Reads the log of a shard: hands every record to `on_record` in order, and returns what [`Wal::open`](crate::Wal::open)
/// needs to go on. Records are detached: what is kept of them keeps nothing else in memory.
///
/// # Errors
/// [`RecoveryError`]: the log cannot be read, or it is damaged where it was known to be durable. Nothing was changed.
pub fn recover<S: SegmentSource>(
    source: &mut S,
    shard_index: u32,
    mut on_record: impl FnMut(Position, Record),
) -> Result<Recovered, RecoveryError> {
    let survey = Survey::make(source, shard_index)?;
    for place in 0..survey.chain.len() {
        survey.replay(source, place, |frame, body| {
            for_each_record(frame, body, &mut |position, record| on_record(position, record.detached()))
        })?;
    }
    survey.into_recovered(source)
}

/// What recovery found, and what must be done before the log goes on.
#[derive(Debug)]
pub struct Recovered {
    pub(crate) shard_index: u32,
    /// The epoch of the last segment; 0 for a new log.
    pub(crate) epoch: Epoch,
    /// The last frame that belongs to the log.
    pub(crate) end_lsn: Lsn,
    /// Its CRC.
    pub(crate) end_crc: u32,
    pub(crate) log_start: SegmentNumber,
    /// The segments of the log, oldest first.
    pub(crate) segments: Vec<SegmentFile>,
    /// Where the last segment's frames end.
    pub(crate) end_offset: u64,
    /// Bytes of the last segment that are in the log and not proven durable: written back as they are, and synced.
    pub(crate) rewrite: Vec<Piece>,
    /// Files that are not part of the log: never begun, or trimmed.
    pub(crate) leftovers: Vec<SegmentNumber>,
    /// Digests of segments that had none.
    pub(crate) digests: Vec<(SegmentNumber, Digest)>,
    digest_use: DigestUse,
    durable_upto: Lsn,
    end_reason: Option<FrameDamage>,
}

/// Bytes of a segment. Its `Debug` shows where they are, not what they are.
pub(crate) struct Piece {
    pub(crate) offset: u64,
    pub(crate) bytes: Bytes,
}

impl fmt::Debug for Piece {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes at {}", self.bytes.len(), self.offset)
    }
}

impl Recovered {
    /// The last frame that belongs to the log; 0 for an empty log.
    pub fn end_lsn(&self) -> Lsn {
        self.end_lsn
    }

    /// The last frame that the log itself proved durable (W).
    pub fn durable_upto(&self) -> Lsn {
        self.durable_upto
    }

    /// The epoch that was recovered; 0 for a new log. The next one is one higher.
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// How much was read from digests. With [`recover`]: nothing.
    pub fn digest_use(&self) -> &DigestUse {
        &self.digest_use
    }

    /// Why the log ends where it ends; `None` when its last segment is full to the last byte, or for a new log.
    pub fn end_reason(&self) -> Option<FrameDamage> {
        self.end_reason
    }
}

/// Why a log cannot be used.
#[derive(Debug, Error)]
pub enum RecoveryError {
    /// The log cannot be read.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// The log is damaged where it was known to be durable.
    #[error(transparent)]
    Corrupt(#[from] Corruption),
}

/// Damage where the log was known to be durable.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error(
    "the log is damaged in segment {segment} at byte {offset}, where frame {expected_lsn} belongs: {reason}; the log is \
     durable up to frame {durable_upto}, so nothing is cut: keep a copy of the folder, run `creto wal verify` on it, and \
     bring the segment back from a replica or a backup"
)]
pub struct Corruption {
    /// The segment.
    pub segment: SegmentNumber,
    /// The byte in the segment.
    pub offset: u64,
    /// The frame that should be there.
    pub expected_lsn: Lsn,
    /// What proves that it was there: a frame, or the header of a segment, that was written after everything up to here
    /// was durable.
    pub durable_upto: Lsn,
    /// What is wrong.
    pub reason: Damage,
}

/// What is wrong with a damaged place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum Damage {
    /// A frame.
    #[error(transparent)]
    Frame(#[from] FrameDamage),
    /// A segment's header.
    #[error(transparent)]
    Segment(#[from] SegmentDamage),
    /// A record of a frame whose checksum holds.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// The segment's file is missing.
    #[error("the segment's file is missing")]
    MissingSegment,
    /// The segment begins at another frame than the one after the end of the segment before it.
    #[error("the segment begins at frame {0}, not where the segment before it ends")]
    FirstLsn(Lsn),
}

/// A frame whose place and checksum hold.
#[derive(Debug, Clone, Copy)]
pub(crate) struct FoundFrame {
    pub(crate) header: FrameHeader,
    pub(crate) offset: u64,
}

/// Which segments are the log, and where it ends.
pub(crate) struct Survey {
    shard_index: u32,
    /// The segments of the log, oldest first.
    pub(crate) chain: Vec<(SegmentFile, SegmentHeader)>,
    pub(crate) leftovers: Vec<SegmentNumber>,
    pub(crate) end: End,
    pub(crate) durable_upto: Lsn,
    /// Where the bytes begin that are in the log and not proven durable.
    unproven_offset: u64,
    log_start: SegmentNumber,
}

/// Where a segment's good frames end.
#[derive(Debug, Clone, Copy)]
pub(crate) struct End {
    pub(crate) offset: u64,
    /// The last good frame, or the one before the segment.
    pub(crate) lsn: Lsn,
    pub(crate) crc: u32,
    /// What stands there instead of the next frame; `None` at the end of the file.
    pub(crate) reason: Option<FrameDamage>,
}

impl Survey {
    pub(crate) fn make<S: SegmentSource>(source: &mut S, shard_index: u32) -> Result<Self, RecoveryError> {
        let mut files = source.segments()?;
        files.sort_unstable();
        let mut headers = Vec::with_capacity(files.len());
        for &file in &files {
            headers.push((file, read_header(source, file, shard_index)?));
        }
        let Some(last) = headers.iter().rposition(|(_, header)| header.is_ok()) else {
            let mut survey = Self::of_new_log(source, shard_index, &headers)?;
            survey.find_orphans(&source.digests()?, &files);
            return Ok(survey);
        };
        let mut survey = Self::of_last(source, shard_index, headers[last].0, headers[last].1.expect("chosen as good"))?;
        for &(file, header) in &headers[last + 1..] {
            survey.check_never_begun(source, file, header.expect_err("beyond the last good one"))?;
            // Only the segment after the last one is ever prepared: any other says that one between them is gone.
            let missing = survey.chain[0].0.number.next();
            if file.number != missing {
                return Err(survey.corrupt(missing, 0, Damage::MissingSegment).into());
            }
            survey.leftovers.push(file.number);
        }
        let digests = source.digests()?;
        survey.check_nothing_is_behind(source, &digests, headers.get(last + 1).and_then(|(_, header)| header.err()))?;
        survey.join(&headers[..last])?;
        survey.find_orphans(&digests, &files);
        Ok(survey)
    }

    /// No segment has a good header: a log that never got its first frame durable, or a damaged one.
    fn of_new_log<S: SegmentSource>(
        source: &mut S,
        shard_index: u32,
        headers: &[(SegmentFile, Result<SegmentHeader, SegmentDamage>)],
    ) -> Result<Self, RecoveryError> {
        let end = End { offset: 0, lsn: Lsn(0), crc: 0, reason: None };
        let survey = Self {
            shard_index,
            chain: Vec::new(),
            leftovers: headers.iter().map(|(file, _)| file.number).collect(),
            end,
            durable_upto: Lsn(0),
            unproven_offset: 0,
            log_start: SegmentNumber(1),
        };
        for &(file, header) in headers {
            let damage = header.expect_err("none is good");
            survey.check_never_begun(source, file, damage)?;
            // A new log begins with segment 1, and prepares no other before that one is durable.
            if file.number != SegmentNumber(1) {
                return Err(survey.corrupt(file.number, 0, damage).into());
            }
        }
        Ok(survey)
    }

    /// Walks through the last segment that was begun, and finds W and the end.
    fn of_last<S: SegmentSource>(
        source: &mut S,
        shard_index: u32,
        file: SegmentFile,
        header: SegmentHeader,
    ) -> Result<Self, RecoveryError> {
        // The header was written when everything before its first frame was durable.
        let mut durable_upto = header.first_lsn.previous();
        let mut log_start = header.log_start;
        let mut unproven: VecDeque<FoundFrame> = VecDeque::new();
        let mut window = Window::new(source, file);
        let mut walk = Walk::new(&header);
        let reason = loop {
            match walk.step(&mut window)? {
                Step::Frame(frame, _) => {
                    durable_upto = durable_upto.max(frame.header.durable_upto);
                    log_start = log_start.max(frame.header.log_start);
                    unproven.push_back(frame);
                    while unproven.front().is_some_and(|first| first.header.lsn <= durable_upto) {
                        unproven.pop_front();
                    }
                }
                Step::Bad(reason) => break Some(reason),
                Step::EndOfFile => break None,
            }
        };
        let end = walk.end(reason);
        let unproven_offset = match unproven.front() {
            Some(first) if first.header.lsn == header.first_lsn => 0,
            Some(first) => first.offset,
            None if end.lsn < header.first_lsn => 0,
            None => end.offset,
        };
        let proof = proof_of_durability(&mut window, end.offset, shard_index, Some(header.epoch_nonce))?;
        let survey = Self {
            shard_index,
            chain: vec![(file, header)],
            leftovers: Vec::new(),
            end,
            durable_upto: durable_upto.max(proof),
            unproven_offset,
            log_start,
        };
        // A segment has its length before anything is written to it: no stop of any kind ends it inside a frame.
        let is_cut = reason == Some(FrameDamage::Truncated);
        if (is_cut || survey.durable_upto > end.lsn) && !is_planted(Bug::CutAtFirstBadFrame) {
            let reason = reason.unwrap_or(FrameDamage::Truncated);
            return Err(survey.corrupt(file.number, end.offset, reason).into());
        }
        Ok(survey)
    }

    /// A file above the last good header must be one that was prepared and never begun.
    fn check_never_begun<S: SegmentSource>(
        &self,
        source: &mut S,
        file: SegmentFile,
        damage: SegmentDamage,
    ) -> Result<(), RecoveryError> {
        let mut window = Window::new(source, file);
        let proof = proof_of_durability(&mut window, SEGMENT_HEADER_BYTES as u64, self.shard_index, None)?;
        if proof > self.end.lsn {
            let mut corruption = self.corrupt(file.number, 0, damage);
            corruption.durable_upto = proof;
            return Err(corruption.into());
        }
        Ok(())
    }

    /// Puts the segments before the last one into the chain, and checks that none is missing.
    fn join(&mut self, earlier: &[(SegmentFile, Result<SegmentHeader, SegmentDamage>)]) -> Result<(), Corruption> {
        let (last_file, _) = self.chain[0];
        let mut chain = Vec::with_capacity(earlier.len() + 1);
        let mut expected = self.log_start;
        for &(file, header) in earlier {
            if file.number < self.log_start {
                self.leftovers.push(file.number);
                continue;
            }
            if file.number != expected {
                break;
            }
            match header {
                Ok(header) => chain.push((file, header)),
                Err(damage) => return Err(self.corrupt(file.number, 0, damage)),
            }
            expected = expected.next();
        }
        if expected != last_file.number {
            return Err(self.corrupt(expected, 0, Damage::MissingSegment));
        }
        chain.append(&mut self.chain);
        self.chain = chain;
        Ok(())
    }

    /// Digests whose segments are gone go with the leftovers.
    fn find_orphans(&mut self, digests: &[SegmentNumber], files: &[SegmentFile]) {
        let has_file = |number: &SegmentNumber| files.binary_search_by_key(number, |file| file.number).is_ok();
        let mut orphans: Vec<_> = digests.iter().copied().filter(|number| !has_file(number)).collect();
        orphans.sort_unstable();
        self.leftovers.append(&mut orphans);
    }

    /// Walks through one segment of the chain and hands on its frames, with what they must lead to checked.
    pub(crate) fn replay<S: SegmentSource>(
        &self,
        source: &mut S,
        place: usize,
        mut on_frame: impl FnMut(FoundFrame, &[u8]) -> Result<(), RecordError>,
    ) -> Result<End, RecoveryError> {
        let (file, header) = self.chain[place];
        let next = self.chain.get(place + 1);
        let last_lsn = next.map_or(self.end.lsn, |(_, next)| next.first_lsn.previous());
        let mut window = Window::new(source, file);
        let mut walk = Walk::new(&header);
        let corrupt = |walk: &Walk, reason: Damage| Corruption {
            segment: file.number,
            offset: walk.offset,
            expected_lsn: walk.lsn.next(),
            durable_upto: last_lsn,
            reason,
        };
        if last_lsn < walk.lsn {
            let reason = Damage::FirstLsn(header.first_lsn);
            return Err(corrupt(&walk, reason).into());
        }
        while walk.lsn < last_lsn {
            let before = walk.clone();
            let bad = match walk.step(&mut window)? {
                Step::Frame(frame, body) => match on_frame(frame, body) {
                    Ok(()) => continue,
                    Err(error) => Damage::Record(error),
                },
                Step::Bad(reason) => Damage::Frame(reason),
                Step::EndOfFile => Damage::Frame(FrameDamage::Truncated),
            };
            return Err(corrupt(&before, bad).into());
        }
        if let Some((next_file, next)) = next
            && next.previous_crc != walk.crc
            && !is_planted(Bug::SkipPreviousCrc)
        {
            let reason = Damage::Frame(FrameDamage::Link);
            let (segment, expected_lsn) = (next_file.number, next.first_lsn);
            return Err(Corruption { segment, offset: 0, expected_lsn, durable_upto: last_lsn, reason }.into());
        }
        Ok(walk.end(None))
    }

    fn into_recovered<S: SegmentSource>(self, source: &mut S) -> Result<Recovered, RecoveryError> {
        let mut rewrite = Vec::new();
        if let Some(&(file, _)) = self.chain.last() {
            let mut offset = self.unproven_offset;
            while offset < self.end.offset {
                let bytes = (self.end.offset - offset).min(WRITE_BYTES_MAX as u64);
                let mut copy = vec![0; usize::try_from(bytes).expect("bounded by WRITE_BYTES_MAX")];
                source.read(file.number, offset, &mut copy)?;
                rewrite.push(Piece { offset, bytes: Bytes::from(copy) });
                offset += bytes;
            }
        }
        Ok(Recovered {
            shard_index: self.shard_index,
            epoch: self.chain.last().map_or(Epoch(0), |(_, header)| header.epoch),
            end_lsn: self.end.lsn,
            end_crc: self.end.crc,
            log_start: self.log_start,
            segments: self.chain.iter().map(|&(file, _)| file).collect(),
            end_offset: self.end.offset,
            rewrite,
            leftovers: self.leftovers,
            digests: Vec::new(),
            digest_use: DigestUse::default(),
            durable_upto: self.durable_upto,
            end_reason: self.end.reason,
        })
    }

    fn corrupt(&self, segment: SegmentNumber, offset: u64, reason: impl Into<Damage>) -> Corruption {
        Corruption {
            segment,
            offset,
            expected_lsn: self.end.lsn.next(),
            durable_upto: self.durable_upto,
            reason: reason.into(),
        }
    }
}

/// Calls `on_record` for every record of a frame.
pub(crate) fn for_each_record(
    frame: FoundFrame,
    body: &[u8],
    on_record: &mut impl FnMut(Position, Record),
) -> Result<(), RecordError> {
    let mut rest = Bytes::copy_from_slice(body);
    let mut offset = frame.header.body_offset();
    for index in 0..frame.header.record_count {
        let (record, bytes) = Record::parse(&rest)?;
        rest = rest.slice(bytes..);
        on_record(Position { segment: frame.header.segment, lsn: frame.header.lsn, index, offset }, record);
        offset += length_u32(bytes);
    }
    if rest.is_empty() { Ok(()) } else { Err(RecordError::Length) }
}

/// Goes from frame to frame through a segment.
#[derive(Clone)]
struct Walk {
    segment: SegmentHeader,
    offset: u64,
    /// The frame that was last passed.
    lsn: Lsn,
    crc: u32,
}

enum Step<'a> {
    Frame(FoundFrame, &'a [u8]),
    Bad(FrameDamage),
    EndOfFile,
}

impl Walk {
    fn new(segment: &SegmentHeader) -> Self {
        Self {
            segment: *segment,
            offset: SEGMENT_HEADER_BYTES as u64,
            lsn: segment.first_lsn.previous(),
            crc: segment.previous_crc,
        }
    }

    fn step<'a, S: SegmentSource>(&mut self, window: &'a mut Window<'_, S>) -> Result<Step<'a>, SourceError> {
        if window.segment().bytes <= self.offset {
            return Ok(Step::EndOfFile);
        }
        match self.check(window)? {
            Err(damage) => Ok(Step::Bad(damage)),
            Ok(header) => {
                let found = FoundFrame { header, offset: self.offset };
                self.lsn = header.lsn;
                self.crc = header.crc;
                self.offset += header.total_bytes() as u64;
                let body_bytes = length_usize(header.body_bytes);
                let body = window.bytes(found.offset + FRAME_HEADER_BYTES as u64, body_bytes)?;
                Ok(Step::Frame(found, body))
            }
        }
    }

    fn check<S: SegmentSource>(
        &self,
        window: &mut Window<'_, S>,
    ) -> Result<Result<FrameHeader, FrameDamage>, SourceError> {
        let header = match FrameHeader::parse(window.bytes(self.offset, BLOCK_BYTES)?) {
            Ok(header) => header,
            Err(damage) => return Ok(Err(damage)),
        };
        let frame = window.bytes(self.offset, header.total_bytes())?;
        let checked = match header.check_body(frame) {
            // Only a frame that belongs here says that its segment was longer.
            Err(FrameDamage::Truncated) => self.check_place(&header).and(Err(FrameDamage::Truncated)),
            other => other.and_then(|_| self.check_place(&header)),
        };
        Ok(checked.map(|()| header))
    }

    /// A good frame is only the right one when everything about its place is right.
    fn check_place(&self, header: &FrameHeader) -> Result<(), FrameDamage> {
        // No segment is longer: every byte of a record has an offset of 32 bits.
        if self.offset + header.total_bytes() as u64 > u64::from(u32::MAX) {
            return Err(FrameDamage::Place);
        }
        if is_planted(Bug::AcceptOldFrames) && header.epoch_nonce == self.segment.epoch_nonce {
            return Ok(());
        }
        let place = (header.segment, header.offset_blocks, header.shard_index);
        if place != (self.segment.number, offset_blocks(self.offset), self.segment.shard_index) {
            return Err(FrameDamage::Place);
        }
        let is_of_epoch = header.epoch_nonce == self.segment.epoch_nonce || is_planted(Bug::IgnoreNonce);
        if header.epoch != self.segment.epoch || !is_of_epoch {
            return Err(FrameDamage::Epoch);
        }
        if header.lsn != self.lsn.next() {
            return Err(FrameDamage::Lsn(header.lsn));
        }
        if header.previous_crc != self.crc && !is_planted(Bug::SkipPreviousCrc) {
            return Err(FrameDamage::Link);
        }
        Ok(())
    }

    fn end(&self, reason: Option<FrameDamage>) -> End {
        End { offset: self.offset, lsn: self.lsn, crc: self.crc, reason }
    }
}

/// Looks at every block from `offset` on for frames of this segment, and returns the highest `durable_upto` they state.
///
/// Envelopes are bytes that a stranger chose, so a body may imitate a frame. The epoch's nonce, which no stranger knows,
/// tells them apart. Where the nonce itself is lost with the segment's header, an imitation could only make recovery stop
/// for a human, never cut.
fn proof_of_durability<S: SegmentSource>(
    window: &mut Window<'_, S>,
    mut offset: u64,
    shard_index: u32,
    epoch_nonce: Option<u64>,
) -> Result<Lsn, SourceError> {
    let file = window.segment();
    let mut proof = Lsn(0);
    while offset + FRAME_HEADER_BYTES as u64 <= file.bytes {
        if let Ok(header) = FrameHeader::parse(window.bytes(offset, BLOCK_BYTES)?)
            && (header.segment, header.offset_blocks) == (file.number, offset_blocks(offset))
            && header.shard_index == shard_index
            && epoch_nonce.is_none_or(|nonce| nonce == header.epoch_nonce || is_planted(Bug::IgnoreNonce))
        {
            debug_assert!(header.total_bytes() <= FRAME_BYTES_MAX, "parse bounds the body");
            let frame = window.bytes(offset, header.total_bytes())?;
            if header.check_body(frame).is_ok() {
                proof = proof.max(header.durable_upto);
            }
        }
        offset += BLOCK_BYTES as u64;
    }
    Ok(proof)
}

fn read_header<S: SegmentSource>(
    source: &mut S,
    file: SegmentFile,
    shard_index: u32,
) -> Result<Result<SegmentHeader, SegmentDamage>, RecoveryError> {
    if file.bytes < SEGMENT_HEADER_BYTES as u64 {
        return Ok(Err(SegmentDamage::Truncated));
    }
    let mut block = [0; SEGMENT_HEADER_BYTES];
    source.read(file.number, 0, &mut block)?;
    let damage = match SegmentHeader::parse(&block) {
        Ok(header) if header.shard_index != shard_index => SegmentDamage::Shard(header.shard_index),
        Ok(header) if header.number != file.number => return Ok(Err(SegmentDamage::Number(header.number))),
        // No crash makes a header of another version: it is a log that this program must not touch.
        Err(damage @ SegmentDamage::Version(_)) => damage,
        other => return Ok(other),
    };
    let (segment, reason) = (file.number, Damage::Segment(damage));
    Err(Corruption { segment, offset: 0, expected_lsn: Lsn(0), durable_upto: Lsn(0), reason }.into())
}
