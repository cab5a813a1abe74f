//! A backup of a shard: its log is held at any moment, its files are copied one after the other while everything goes on,
//! and the copy must be the log as it was durable when it was begun.

use std::collections::BTreeSet;

use creto_shard::{HoldAnswer, HoldId, HoldRequest};
use creto_store::{HeldLog, Position, Record, SegmentNumber, recover};

use crate::checkers::Replayed;
use crate::disk::Image;
use crate::fault::Fault;
use crate::model::{Checked, Model, Rule, broken};
use crate::node::shard_u32;
use crate::pool::MessageNumber;
use crate::world::{Step, World};

#[derive(Debug)]
pub(crate) struct Backup {
    life: u32,
    shard: usize,
    id: HoldId,
    held: HeldLog,
    /// What the files held when it was begun.
    records: Vec<(Position, Record)>,
    /// The file that is copied next.
    next: SegmentNumber,
    copy: Image,
}

impl World<'_> {
    /// Holds one of the logs, and copies it from then on.
    pub(crate) fn begin_backup(&mut self) -> Checked {
        let shard = self.random.index(self.profile.shard_count);
        let is_busy = self.backup.as_ref().is_some_and(|backup| backup.life == self.node.life);
        if !self.node.is_up || is_busy || self.disks[shard].has_lied {
            return Ok(());
        }
        let id = HoldId(self.random.bits());
        let HoldAnswer::Held(held) = self.hold(shard, id, HoldRequest::Begin) else { return Ok(()) };
        self.note(|| format!("a backup of shard {shard} begins: {held:?}"));
        self.faults.add(Fault::Backup);
        let mut files = Image::default();
        for number in (held.first_segment.0..=held.last_segment.0).map(SegmentNumber) {
            let Some(bytes) = self.file(shard, &held, number) else {
                let text =
                    format!("shard {shard} is held from segment {} on, and {number} is not there", held.first_segment);
                return broken(Rule::BackupIsThatMoment, text);
            };
            files.files.insert(number, bytes);
        }
        let records = self.read_backup(shard, &held, &mut files)?;
        let mut replayed = Replayed::default();
        records.iter().try_for_each(|(_, record)| replayed.take(self.pool, record))?;
        self.model.is_that_moment(shard, &held, &replayed.queued())?;
        let (life, next) = (self.node.life, held.first_segment);
        self.backup = Some(Backup { life, shard, id, held, records, next, copy: Image::default() });
        self.copy_later();
        Ok(())
    }

    /// Copies another file; after the last one, looks at what was copied.
    pub(crate) fn copy_one(&mut self) -> Checked {
        let Some(mut backup) = self.backup.take() else { return Ok(()) };
        let shard = backup.shard;
        let is_last = backup.next == backup.held.last_segment;
        let bytes = self.file(shard, &backup.held, backup.next);
        // A drive that has lied since may have overwritten what is held: what the copy is worth then, its reader says.
        let has_lied = self.disks[shard].has_lied;
        let request = if is_last || has_lied { HoldRequest::End } else { HoldRequest::Renew };
        match self.hold(shard, backup.id, request) {
            HoldAnswer::Held(held) if held == backup.held => {}
            HoldAnswer::Over(why) => {
                self.note(|| format!("the backup of shard {shard} is over: {why:?}"));
                return Ok(());
            }
            answer => return broken(Rule::BackupIsThatMoment, format!("shard {shard} holds another log: {answer:?}")),
        }
        if has_lied {
            self.note(|| format!("the backup of shard {shard} is given up: its drive lies"));
            return Ok(());
        }
        let Some(bytes) = bytes else {
            let text = format!("shard {shard}: segment {} is held, and is not there any more", backup.next);
            return broken(Rule::BackupIsThatMoment, text);
        };
        backup.copy.files.insert(backup.next, bytes);
        if !is_last {
            backup.next = backup.next.next();
            self.backup = Some(backup);
            self.copy_later();
            return Ok(());
        }
        let records = self.read_backup(shard, &backup.held, &mut backup.copy)?;
        if records != backup.records {
            let same = records.iter().zip(&backup.records).take_while(|(copied, held)| copied == held).count();
            let place = backup.records.get(same).or(records.get(same)).map(|(position, _)| *position);
            let text = format!("the copy of shard {shard} is another log than was held, from {place:?} on");
            return broken(Rule::BackupIsThatMoment, text);
        }
        self.model.tally.backups += 1;
        Ok(())
    }

    fn copy_later(&mut self) {
        // Between nothing and time for everything to be settled and trimmed.
        let delay_us = self.random.between(0, 20_000);
        self.clock.after(delay_us, Step::Copy { life: self.node.life });
    }

    fn hold(&mut self, shard: usize, id: HoldId, request: HoldRequest) -> HoldAnswer {
        let now = self.clock.now();
        self.node.shards[shard].hold(now, id, request)
    }

    /// What a copy takes of a segment.
    fn file(&self, shard: usize, held: &HeldLog, segment: SegmentNumber) -> Option<Vec<u8>> {
        let mut bytes = self.disks[shard].file(segment)?.to_vec();
        if segment == held.last_segment {
            bytes.truncate(usize::try_from(held.end_offset).expect("a simulated disk is small"));
        }
        Some(bytes)
    }

    fn read_backup(
        &self,
        shard: usize,
        held: &HeldLog,
        copy: &mut Image,
    ) -> Result<Vec<(Position, Record)>, crate::model::Violation> {
        let mut records = Vec::new();
        let recovered = recover(copy, shard_u32(shard), |position, record| records.push((position, record)));
        match recovered {
            Ok(recovered) if recovered.end_lsn() == held.end_lsn => Ok(records),
            Ok(recovered) => {
                let text =
                    format!("the copy of shard {shard} ends with frame {}, not as {held:?}", recovered.end_lsn());
                broken(Rule::BackupIsThatMoment, text)
            }
            Err(error) => {
                broken(Rule::BackupIsThatMoment, format!("the copy of shard {shard} cannot be read: {error}"))
            }
        }
    }
}

impl Model {
    /// What is queued in a held log is what was durably stored and not durably settled up to its end.
    fn is_that_moment(&self, shard: usize, held: &HeldLog, queued: &BTreeSet<MessageNumber>) -> Checked {
        let end = held.end_lsn.0;
        for (number, fate) in self.fates.iter().enumerate() {
            let Some(stored) = fate.stored.filter(|stored| stored.shard == shard) else { continue };
            let is_settled = fate.settled.is_some() && fate.settled_lsn <= end;
            let is_queued = stored.lsn <= end && !is_settled;
            if is_queued != queued.contains(&number) {
                let text = format!("message {number} is queued in {held:?}: {}, not as {fate:?}", !is_queued);
                return broken(Rule::BackupIsThatMoment, text);
            }
        }
        Ok(())
    }
}
