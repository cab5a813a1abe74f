//! Reads again what stands in a log behind a place: for whoever follows the log and remembers how far it came.

use super::{RecoveryError, Survey, for_each_record};
use crate::lsn::{Lsn, Position};
use crate::record::Record;
use crate::source::SegmentSource;

/// A place in a log: up to this record, and with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct LogPlace {
    /// The frame that holds the record; 0 = before the first.
    pub lsn: Lsn,
    /// The record's place inside the frame, from 0.
    pub index: u32,
}

impl From<Position> for LogPlace {
    fn from(position: Position) -> Self {
        Self { lsn: position.lsn, index: position.index }
    }
}

/// What was read behind a place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReadBehind {
    /// Records handed on.
    pub records: u64,
    /// Frames behind the place that the log does not hold any more: they were trimmed before anyone read them. Zero for
    /// whoever held them.
    pub frames_missing: u64,
    /// The last frame of the log; below the place when the log is older than whoever remembers the place.
    pub end_lsn: Lsn,
}

/// Hands every record behind `place` to `on_record`, in order; segments that end before it are not read. The log is as
/// [`recover`](super::recover) finds it: read it before the log goes on.
///
/// # Errors
/// [`RecoveryError`], as a start would find it. Nothing was changed.
pub fn read_behind<S: SegmentSource>(
    source: &mut S,
    shard_index: u32,
    place: LogPlace,
    mut on_record: impl FnMut(Position, Record),
) -> Result<ReadBehind, RecoveryError> {
    let survey = Survey::make(source, shard_index)?;
    let first_lsn = survey.chain.first().map_or(Lsn(1), |(_, header)| header.first_lsn);
    let end_lsn = survey.end.lsn;
    let mut read =
        ReadBehind { records: 0, frames_missing: first_lsn.previous().0.saturating_sub(place.lsn.0), end_lsn };
    for at in 0..survey.chain.len() {
        let last_lsn = survey.chain.get(at + 1).map_or(end_lsn, |(_, next)| next.first_lsn.previous());
        if last_lsn < place.lsn {
            continue;
        }
        survey.replay(source, at, |frame, body| {
            if frame.header.lsn < place.lsn {
                return Ok(());
            }
            for_each_record(frame, body, &mut |position, record| {
                if LogPlace::from(position) > place {
                    read.records += 1;
                    on_record(position, record);
                }
            })
        })?;
    }
    Ok(read)
}
