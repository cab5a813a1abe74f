//! Back ends that are broken on purpose, one rule each: a suite that finds nothing in them would be blind.

use std::collections::BTreeSet;

use bytes::Bytes;
use creto_store::conformance::{Handed, Medium, Opened, Random, Rule, check};
use creto_store::{
    Action, ActionId, AppendClass, AppendError, DiskError, Durable, Epoch, Fenced, HeldLog, LogExtent, Record,
    RecordLog, RecordSequence, SealedEnd, SegmentNumber, Space,
};

use super::disk::DiskMedium;
use super::memory::MemoryMedium;

/// What a back end does wrong.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Wrong {
    /// A record is durable as soon as its write begins.
    IsDurableEarly,
    /// A write that was reported counts for those before it.
    IgnoresGaps,
    /// A failed write counts as done.
    IgnoresFailure,
    /// Two records change places when both are there.
    Overtakes,
    /// A record is handed out again.
    Repeats,
    /// Everything stands a little further on than it says.
    Misplaces,
    /// Nothing is ever too much.
    TakesEverything,
    /// A full log takes no settles.
    RefusesSettles,
    /// A trim takes a segment more.
    TrimsTooMuch,
    /// A trim takes nothing.
    TrimsNothing,
    /// What is held is not kept.
    ForgetsTheHold,
    /// A sealed log takes records.
    TakesWhenSealed,
    /// A sealed log drops what is on its way.
    ForgetsWhenSealed,
    /// A sealed log has an end before everything is durable.
    EndsEarly,
    /// Every life is the first.
    RepeatsItsEpoch,
    /// The last record is not found.
    ForgetsTheLast,
    /// The first record is found twice.
    FindsTwice,
    /// Writes reach the cache and no further.
    SyncsNothing,
}

#[test]
fn every_broken_log_in_memory_is_caught() {
    for (wrong, rules) in [
        (Wrong::IsDurableEarly, [Rule::DurableMeansDone; 2]),
        (Wrong::IgnoresGaps, [Rule::DurableMeansDone; 2]),
        (Wrong::IgnoresFailure, [Rule::FailedWriteFences; 2]),
        (Wrong::Overtakes, [Rule::Order; 2]),
        (Wrong::Repeats, [Rule::Order; 2]),
        (Wrong::Misplaces, [Rule::StandsAtItsPosition; 2]),
        (Wrong::TakesEverything, [Rule::Bounded; 2]),
        (Wrong::RefusesSettles, [Rule::Bounded; 2]),
        (Wrong::TrimsTooMuch, [Rule::TrimTakesAPrefix, Rule::StandsAtItsPosition]),
        (Wrong::TrimsNothing, [Rule::TrimTakesAPrefix; 2]),
        (Wrong::ForgetsTheHold, [Rule::HeldStays; 2]),
        (Wrong::TakesWhenSealed, [Rule::SealedHasOneEnd; 2]),
        (Wrong::ForgetsWhenSealed, [Rule::ComesToRest; 2]),
        (Wrong::EndsEarly, [Rule::SealedHasOneEnd; 2]),
    ] {
        is_caught(wrong, &rules, MemoryMedium::new);
    }
}

#[test]
fn every_broken_log_on_a_disk_is_caught() {
    for (wrong, rules) in [
        (Wrong::RepeatsItsEpoch, [Rule::NextLifeFindsIt; 2]),
        (Wrong::ForgetsTheLast, [Rule::NextLifeFindsIt; 2]),
        (Wrong::FindsTwice, [Rule::NextLifeFindsIt; 2]),
        (Wrong::SyncsNothing, [Rule::NextLifeFindsIt; 2]),
        (Wrong::IgnoresGaps, [Rule::DurableMeansDone; 2]),
        (Wrong::TakesWhenSealed, [Rule::SealedHasOneEnd; 2]),
    ] {
        is_caught(wrong, &rules, DiskMedium::new);
    }
}

fn is_caught<M: Medium + AsDisk>(wrong: Wrong, rules: &[Rule], mut new: impl FnMut(u64) -> M) {
    match check(0..100, |seed| BrokenMedium { medium: new(seed), wrong }) {
        Ok(seen) => panic!("{wrong:?} was not noticed: {seen:?}"),
        Err(broken) => {
            println!("{wrong:?}: {broken}");
            assert!(rules.contains(&broken.rule), "{wrong:?} broke {rules:?}, and was noticed as: {broken}");
        }
    }
}

struct BrokenMedium<M> {
    medium: M,
    wrong: Wrong,
}

struct BrokenLog<L> {
    log: L,
    wrong: Wrong,
    /// Writes that are under way, and those whose outcome was reported before it was there.
    under_way: BTreeSet<ActionId>,
    reported: BTreeSet<ActionId>,
    /// Handed out by the log and kept back here.
    next: Vec<Durable>,
    is_sealed: bool,
    last: Option<SealedEnd>,
    log_start: Option<SegmentNumber>,
    held: Option<HeldLog>,
}

impl<M: Medium + AsDisk> Medium for BrokenMedium<M> {
    type Log = BrokenLog<M::Log>;

    const KEEPS: bool = M::KEEPS;

    fn open(&mut self, random: &mut Random) -> Result<Opened<Self::Log>, String> {
        if self.wrong == Wrong::TakesEverything {
            self.medium.take_everything();
        }
        let Opened { log, mut recovered } = self.medium.open(random)?;
        match self.wrong {
            Wrong::ForgetsTheLast => drop(recovered.pop()),
            Wrong::FindsTwice if !recovered.is_empty() => recovered.insert(1, recovered[0].clone()),
            _ => {}
        }
        let log = BrokenLog {
            log,
            wrong: self.wrong,
            under_way: BTreeSet::new(),
            reported: BTreeSet::new(),
            next: Vec::new(),
            is_sealed: false,
            last: None,
            log_start: None,
            held: None,
        };
        Ok(Opened { log, recovered })
    }

    fn carry_out(&mut self, log: &Self::Log, handed: &Handed) -> Bytes {
        match self.wrong {
            Wrong::SyncsNothing if self.medium.write_and_not_sync(handed) => Bytes::new(),
            _ => self.medium.carry_out(&log.log, handed),
        }
    }

    fn fail(&mut self, handed: &Handed, random: &mut Random) {
        self.medium.fail(handed, random);
    }

    fn stop(&mut self, under_way: Vec<Handed>, random: &mut Random) {
        self.medium.stop(under_way, random);
    }
}

/// What some of the bugs need of a medium.
pub(super) trait AsDisk {
    /// Opens logs without bounds from now on.
    fn take_everything(&mut self) {}

    /// Writes to the cache, if this is a write and there is a cache.
    fn write_and_not_sync(&mut self, _: &Handed) -> bool {
        false
    }
}

impl<L: RecordLog> RecordLog for BrokenLog<L> {
    fn append(&mut self, record: Record) -> Result<RecordSequence, AppendError> {
        self.check_append(&record)?;
        self.log.append(record)
    }

    fn check_room(&self, class: AppendClass, bytes: usize) -> Result<(), AppendError> {
        if self.wrong == Wrong::RefusesSettles && class == AppendClass::Settle {
            return self.log.check_room(AppendClass::Message, bytes);
        }
        self.log.check_room(class, bytes)
    }

    fn record_bytes_max(&self) -> usize {
        self.log.record_bytes_max()
    }

    fn next_action(&mut self, now_ms: u64) -> Option<Action> {
        if self.is_sealed && self.wrong == Wrong::ForgetsWhenSealed {
            return None;
        }
        let action = self.log.next_action(now_ms)?;
        if let Action::Write(write) = &action {
            self.under_way.insert(write.id());
            if self.wrong == Wrong::IsDurableEarly {
                let mut bytes = vec![0; write.bytes()];
                write.encode_into(&mut bytes);
                self.report(write.id(), Ok(())).expect("it succeeds");
            }
        }
        Some(action)
    }

    fn completed(&mut self, id: ActionId, outcome: Result<(), DiskError>) -> Result<(), Fenced> {
        if self.wrong == Wrong::IgnoresGaps && self.under_way.contains(&id) {
            for earlier in self.under_way.range(..id).copied().collect::<Vec<_>>() {
                self.report(earlier, Ok(()))?;
            }
        }
        if self.reported.remove(&id) {
            return Ok(());
        }
        let is_write = self.under_way.contains(&id);
        let outcome = if self.wrong == Wrong::IgnoresFailure && is_write { Ok(()) } else { outcome };
        let reported = self.report(id, outcome);
        self.reported.remove(&id);
        reported
    }

    fn next_durable(&mut self) -> Option<Durable> {
        let mut durable = match self.next.pop() {
            Some(durable) => durable,
            None => self.log.next_durable()?,
        };
        match self.wrong {
            Wrong::Overtakes if self.next.is_empty() => {
                if let Some(next) = self.log.next_durable() {
                    self.next.push(std::mem::replace(&mut durable, next));
                }
            }
            Wrong::Repeats if durable.sequence.0 == 20 && self.last.is_none_or(|last| last.sequence.0 < 20) => {
                self.next.push(durable.clone());
            }
            Wrong::Misplaces => {
                durable.position.offset += 8;
                durable.noted = durable.record.noted(durable.position);
            }
            _ => {}
        }
        let (epoch, sequence, position) = (self.log.epoch(), durable.sequence, durable.position);
        self.last = Some(SealedEnd { epoch, sequence, position });
        Some(durable)
    }

    fn appended(&self) -> RecordSequence {
        self.log.appended()
    }

    fn durable(&self) -> RecordSequence {
        self.log.durable()
    }

    fn epoch(&self) -> Epoch {
        if self.wrong == Wrong::RepeatsItsEpoch { Epoch(1) } else { self.log.epoch() }
    }

    fn is_started(&self) -> bool {
        self.log.is_started()
    }

    fn fenced(&self) -> Option<&Fenced> {
        self.log.fenced()
    }

    fn confirm(&mut self) {
        self.log.confirm();
    }

    fn read(&mut self, segment: SegmentNumber, offset: u64, bytes: usize) -> ActionId {
        self.log.read(segment, offset, bytes)
    }

    fn extent(&self) -> LogExtent {
        self.log.extent()
    }

    fn log_start(&self) -> SegmentNumber {
        self.log_start.unwrap_or(self.log.log_start())
    }

    fn trim(&mut self, log_start: SegmentNumber, carry_over: Vec<Record>) -> Result<(), AppendError> {
        match self.wrong {
            Wrong::TrimsTooMuch if log_start < self.log.extent().active => {
                self.log.trim(log_start.next(), carry_over)?;
                self.log_start = Some(log_start);
                Ok(())
            }
            Wrong::TrimsNothing => {
                if self.log.is_sealed() {
                    return Err(AppendError::Sealed);
                }
                carry_over.into_iter().try_for_each(|record| self.log.append(record).map(drop))?;
                self.log_start = Some(log_start);
                Ok(())
            }
            _ => self.log.trim(log_start, carry_over),
        }
    }

    fn is_trimming(&self) -> bool {
        self.log.is_trimming()
    }

    fn space(&self) -> Space {
        self.log.space()
    }

    fn set_disk_room(&mut self, bytes: u64) {
        self.log.set_disk_room(bytes);
    }

    fn tick(&mut self, bytes_max: u64) {
        self.log.tick(bytes_max);
    }

    fn seal(&mut self) {
        self.is_sealed = true;
        if self.wrong != Wrong::TakesWhenSealed {
            self.log.seal();
        }
    }

    fn is_sealed(&self) -> bool {
        self.is_sealed
    }

    fn end(&self) -> Option<SealedEnd> {
        match self.wrong {
            Wrong::EndsEarly if self.is_sealed && self.log.fenced().is_none() => self.last,
            _ => self.log.end(),
        }
    }

    fn hold(&mut self) -> Option<HeldLog> {
        self.held = self.log.hold();
        if self.wrong == Wrong::ForgetsTheHold {
            self.log.let_go();
        }
        self.held
    }

    fn let_go(&mut self) {
        self.held = None;
        self.log.let_go();
    }

    fn held(&self) -> Option<&HeldLog> {
        self.held.as_ref()
    }

    fn held_back_bytes(&self) -> u64 {
        self.log.held_back_bytes()
    }
}

impl<L: RecordLog> BrokenLog<L> {
    /// Reports a write now, so that its real outcome counts for nothing later.
    fn report(&mut self, id: ActionId, outcome: Result<(), DiskError>) -> Result<(), Fenced> {
        if self.under_way.remove(&id) {
            self.reported.insert(id);
        }
        self.log.completed(id, outcome)
    }
}
