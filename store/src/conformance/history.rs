//! What a log was given and has promised, as far as its next life may find it.

use std::collections::VecDeque;

use crate::lsn::{Position, RecordSequence, SegmentNumber};
use crate::record::Record;

/// One way in which the records of a log may go on.
#[derive(Debug, Clone, Default)]
pub(super) struct History {
    /// Handed out or found, in order. Of what a trim takes, everything is here until the trim is proven.
    pub(super) kept: Vec<(Position, Record)>,
    /// How many of these are proven durable.
    pub(super) proven: usize,
    /// Taken and not handed out.
    pub(super) expected: VecDeque<Expected>,
    pub(super) log_start: SegmentNumber,
    /// A trim under way, or one that was found and is not proven.
    pub(super) trim: Option<Trim>,
}

#[derive(Debug, Clone)]
pub(super) struct Expected {
    pub(super) sequence: RecordSequence,
    /// `None`: the log's own.
    pub(super) record: Option<Record>,
    /// Writes that were handed out before it was taken: it is in none of them.
    pub(super) writes_before: usize,
}

#[derive(Debug, Clone)]
pub(super) struct Trim {
    /// Where the log is to begin.
    pub(super) point: SegmentNumber,
    /// The last record that is carried over, if any.
    pub(super) carried: Option<Record>,
}

impl History {
    /// Everything that is there is proven durable.
    pub(super) fn is_proven(&mut self) {
        self.proven = self.kept.len();
    }

    /// The trim is finished: what it took never comes back.
    pub(super) fn is_trimmed(&mut self, point: SegmentNumber) {
        self.log_start = point;
        self.proven -= self.kept[..self.proven].iter().filter(|(position, _)| position.segment < point).count();
        self.kept.retain(|(position, _)| position.segment >= point);
    }

    /// Holds what a log found against what it must and may find. Returns how it goes on from there.
    pub(super) fn find(&self, recovered: &[(Position, Record)]) -> Result<Self, String> {
        let untrimmed = self.find_from(self.log_start, recovered).map(|proven| (self.log_start, proven));
        let (from, proven) = untrimmed.or_else(|text| {
            let Some(trim) = &self.trim else { return Err(text) };
            let proven = self.find_from(trim.point, recovered)?;
            // What was trimmed may only be missing when all that was carried over for it is there.
            let lacks = self.kept[..self.proven].iter().any(|(position, _)| position.segment < trim.point);
            let has = |carried| recovered.iter().any(|(_, record)| record == carried);
            match &trim.carried {
                Some(carried) if lacks && !has(carried) => Err("a trim took what it had not carried over".to_owned()),
                _ => Ok((trim.point, proven)),
            }
        })?;
        // A trim that was found and is not proven may be undone by another stop: then what it took is back.
        let mut kept = self.kept.clone();
        let taken = kept[..self.proven].iter().filter(|(position, _)| position.segment < from).count();
        kept.retain(|(position, _)| position.segment < from);
        kept.extend_from_slice(recovered);
        Ok(Self {
            kept,
            proven: taken + proven,
            expected: VecDeque::new(),
            log_start: self.log_start,
            trim: self.trim.clone().filter(|trim| trim.point == from),
        })
    }

    /// The same when the log begins at `from`. Returns how many of the records were proven.
    fn find_from(&self, from: SegmentNumber, recovered: &[(Position, Record)]) -> Result<usize, String> {
        let kept = self.kept.iter().filter(|(position, _)| position.segment >= from);
        let kept = kept.map(|(position, record)| (Some(position), Some(record)));
        let may: Vec<_> = kept.chain(self.expected.iter().map(|expected| (None, expected.record.as_ref()))).collect();
        let must = self.kept[..self.proven].iter().filter(|(position, _)| position.segment >= from).count();
        let count = recovered.len();
        if count < must {
            return Err(format!("{count} records are found of {must} that were durable"));
        }
        if count > may.len() {
            return Err(format!("{count} records are found of {} that were taken", may.len()));
        }
        for (place, ((position, record), (known, wanted))) in recovered.iter().zip(may).enumerate() {
            let is_it = wanted.map_or(matches!(record, Record::Start(_)), |wanted| wanted == record);
            if !is_it || known.is_some_and(|known| known != position) {
                return Err(format!("record {place} that is found, at {position:?}, is not the one that was taken"));
            }
        }
        match recovered.is_sorted_by(|(first, _), (second, _)| first < second) {
            true => Ok(must),
            false => Err("what is found is not in order".to_owned()),
        }
    }
}
