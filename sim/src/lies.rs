//! What must hold when a drive lies or rots: an oracle that knows every frame that the drive called durable, looks which of
//! them are really there, and says what a recovery may make of it.
//!
//! W is the highest frame that any frame which is still there, in its place, states as durable; it is computed here from the
//! list of what was written, not with the product's search. A recovery may refuse the log only if a frame or a segment's
//! header that belongs to it is gone. If it goes on, it gives back every record up to W, and of those above W all before some
//! point and none behind it: the rest cannot be told from an end that was never synced.

use creto_store::{
    Damage, FrameHeader, Noted, RecoveryError, SegmentDamage, SegmentHeader, SegmentNumber, recover, recover_noted,
};

use crate::checkers::Replayed;
use crate::disk::{DiskSource, Image};
use crate::fault::Fault;
use crate::model::{Checked, Model, Rule, Violation, broken};
use crate::node::shard_u32;
use crate::world::World;

/// What a recovery made of a log whose drive has lied, or that has rotted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Verdict {
    /// It gave back everything that was durable.
    Whole,
    /// It refused.
    Refused,
    /// It took what nothing proves durable any more for the end that was never synced.
    Cut,
}

/// What is really there.
struct Survey {
    durable_upto: u64,
    is_damaged: bool,
}

impl Model {
    fn survey(&self, shard: usize, image: &Image) -> Survey {
        let frames: Vec<&FrameHeader> = self.ledgers[shard].frames().collect();
        let log_start = frames.iter().map(|frame| frame.log_start).max().unwrap_or_default();
        let mut survey = Survey { durable_upto: 0, is_damaged: false };
        // A segment may have been begun without a frame of it ever being durable: its header is a part of the log all the same.
        let last = frames.iter().map(|frame| frame.segment).max().unwrap_or_default();
        // And only the segment after the last one is ever prepared: a file proves that the header of the one before it was durable.
        let begun = image.files.keys().max().map_or(0, |prepared| prepared.0.saturating_sub(1));
        let last = last.max(SegmentNumber(begun));
        survey.is_damaged = (log_start.0..=last.0).map(SegmentNumber).any(|number| {
            let header = image.files.get(&number).map(|file| SegmentHeader::parse(file));
            !header.is_some_and(|header| header.is_ok_and(|header| header.number == number))
        });
        for frame in frames {
            let file = image.files.get(&frame.segment).map(Vec::as_slice).unwrap_or_default();
            let header = SegmentHeader::parse(file).ok();
            let has_header =
                header.is_some_and(|header| (header.number, header.epoch_nonce) == (frame.segment, frame.epoch_nonce));
            let place = file.get(frame.offset_blocks as usize * creto_store::limits::BLOCK_BYTES..).unwrap_or_default();
            let is_there = FrameHeader::parse(place).as_ref() == Ok(frame) && frame.check_body(place).is_ok();
            if is_there {
                survey.durable_upto = survey.durable_upto.max(frame.durable_upto.0);
            }
            survey.is_damaged |= frame.segment >= log_start && !(is_there && has_header);
        }
        survey
    }

    /// Whether a recovery of this image was right.
    pub(crate) fn judge<T>(
        &self,
        shard: usize,
        image: &Image,
        outcome: &Result<T, RecoveryError>,
        replayed: &Replayed,
    ) -> Result<Verdict, Violation> {
        let Survey { durable_upto, is_damaged } = self.survey(shard, image);
        if let Err(error) = outcome {
            // A header of another version is refused wherever it stands, also in a file that does not belong to the log.
            let is_version = matches!(error, RecoveryError::Corrupt(corruption)
                if matches!(corruption.reason, Damage::Segment(SegmentDamage::Version(_))));
            return match is_damaged || is_version {
                true => Ok(Verdict::Refused),
                false => broken(Rule::SoundIsNotRefused, format!("shard {shard}: nothing of the log is gone: {error}")),
            };
        }
        let queued = replayed.queued();
        let mut lost = u64::MAX;
        for (number, fate) in self.fates.iter().enumerate() {
            let Some(stored) = fate.stored.filter(|stored| stored.shard == shard) else { continue };
            let is_stored = replayed.stored.iter().any(|(sequence, _)| *sequence == stored.sequence);
            let wrong_from = match fate.settled {
                None if !is_stored => Some(stored.lsn),
                Some(_) if queued.contains(&number) => Some(fate.settled_lsn),
                _ => None,
            };
            let Some(lsn) = wrong_from else { continue };
            if lsn <= durable_upto {
                let text = format!(
                    "shard {shard}: frames up to {durable_upto} are proven durable by what is left, and recovery went on \
                     without a record of frame {lsn}, of message {number}: {fate:?}"
                );
                return broken(Rule::LiesAreNoticed, text);
            }
            lost = lost.min(lsn);
        }
        let later = replayed.stored.iter().find(|(_, number)| self.fates[*number].stored.is_some_and(|s| s.lsn > lost));
        match later {
            Some((_, number)) => broken(
                Rule::LiesAreNoticed,
                format!("shard {shard}: frame {lost} was cut, and message {number} behind it was not"),
            ),
            None if lost == u64::MAX => Ok(Verdict::Whole),
            None => Ok(Verdict::Cut),
        }
    }
}

impl World<'_> {
    /// A log is about to be recovered whose drive has lied. `false` when the run ends here: what the drive lost is gone.
    pub(crate) fn survives_lies<T>(
        &mut self,
        shard: usize,
        outcome: &Result<T, RecoveryError>,
        replayed: &Replayed,
    ) -> Result<bool, Violation> {
        let image = self.disks[shard].image();
        let verdict = self.model.judge(shard, &image, outcome, replayed)?;
        self.note(|| format!("shard {shard}: its drive has lied: {verdict:?}"));
        let tally = &mut self.model.tally;
        tally.lies_refused += u64::from(verdict == Verdict::Refused);
        tally.lies_cut += u64::from(verdict == Verdict::Cut);
        Ok(verdict == Verdict::Whole)
    }

    /// The only copy of a log rots while the node is down. A recovery says so, and the log is as it was once somebody has
    /// brought back what is gone; or it does without, where nothing proves any more that it was there.
    pub(crate) fn check_rot(&mut self, shard: usize) -> Checked {
        if self.disks[shard].has_lied || !self.random.one_in(self.profile.rot_one_in) {
            return Ok(());
        }
        let Some(rot) = self.disks[shard].rot(&mut self.random) else { return Ok(()) };
        self.faults.add(Fault::Rot);
        let image = self.disks[shard].image();
        let (mut read, mut noted) = (Replayed::default(), Replayed::default());
        let mut checked = Ok(());
        let mut source = DiskSource::new(&self.disks[shard]);
        let outcome = recover(&mut source, shard_u32(shard), |_, record| {
            if checked.is_ok() {
                checked = read.take(self.pool, &record);
            }
        });
        checked?;
        let on_noted = |_, record: Noted| noted.note(self.pool, &record);
        let by_digests = recover_noted(&mut source, shard_u32(shard), on_noted);
        let verdict = self.model.judge(shard, &image, &outcome, &read)?;
        self.model.judge(shard, &image, &by_digests, &noted)?;
        self.note(|| format!("shard {shard} rots: {verdict:?}"));
        self.model.tally.rot_refused += u64::from(verdict == Verdict::Refused);
        self.disks[shard].restore(&rot);
        Ok(())
    }

    /// After an orderly shutdown every frame with records is stated durable by a later one: damage to any of them would be
    /// found.
    pub(crate) fn check_confirmed(&mut self, shard: usize) -> Checked {
        if self.disks[shard].has_lied || self.model.ledgers[shard].fenced.is_some() {
            return Ok(());
        }
        let mut image = self.disks[shard].durable_image();
        let durable_upto = recover(&mut image, shard_u32(shard), |_, _| {}).map_or(0, |found| found.durable_upto().0);
        let last = self.model.ledgers[shard].last_record_lsn();
        match durable_upto >= last {
            true => Ok(()),
            false => broken(
                Rule::DamageIsNotCut,
                format!(
                    "shard {shard} has drained, and nothing states that frame {last} is durable, only {durable_upto}"
                ),
            ),
        }
    }
}
