//! One log under test, and beside it the model of what it has taken and promised.

use super::history::{Expected, History, Trim};
use super::records::Records;
use super::{Handed, Medium, Opened, Random, Rule, Seen};
use crate::limits::BLOCK_BYTES;
use crate::log::RecordLog;
use crate::lsn::{Epoch, Position, RecordSequence, SegmentNumber};
use crate::record::Record;
use crate::wal::{Action, ActionId, AppendError, DiskError};

pub(super) type Broken = (Rule, String);
pub(super) type Checked<T = ()> = Result<T, Broken>;

pub(super) fn broken<T>(rule: Rule, text: impl Into<String>) -> Checked<T> {
    Err((rule, text.into()))
}

/// Rounds after which a log that still wants something done never comes to rest.
const ROUNDS_MAX: usize = 100_000;

pub(super) struct Run<'a, M: Medium> {
    medium: &'a mut M,
    pub(super) log: M::Log,
    pub(super) random: Random,
    pub(super) records: Records,
    pub(super) seen: &'a mut Seen,
    now_ms: u64,
    /// The last life that was started.
    epoch: Epoch,

    history: History,
    /// What else may be found until this life is started: what was on its way when an earlier one stopped may land late.
    others: Vec<History>,
    /// The last record that was handed out in this life, and where it is.
    last_sequence: RecordSequence,
    pub(super) last_position: Option<Position>,

    under_way: Vec<Handed>,
    /// Every write that was handed out, in order, and whether it was reported to have succeeded.
    writes: Vec<(ActionId, bool)>,
}

impl<'a, M: Medium> Run<'a, M> {
    /// Opens the log on an empty medium.
    pub(super) fn open(medium: &'a mut M, mut random: Random, seen: &'a mut Seen) -> Checked<Self> {
        let Opened { log, recovered } = opened(medium, &mut random)?;
        if !recovered.is_empty() {
            return broken(Rule::NextLifeFindsIt, "an empty medium holds records");
        }
        let log_start = log.log_start();
        let mut run = Self {
            medium,
            log,
            random,
            records: Records::default(),
            seen,
            now_ms: 1_700_000_000_000,
            epoch: Epoch(0),
            history: History { log_start, ..History::default() },
            others: Vec::new(),
            last_sequence: RecordSequence(0),
            last_position: None,
            under_way: Vec::new(),
            writes: Vec::new(),
        };
        run.begin_life()?;
        Ok(run)
    }

    /// The same, once it serves.
    pub(super) fn started(medium: &'a mut M, random: Random, seen: &'a mut Seen) -> Checked<Self> {
        let mut run = Self::open(medium, random, seen)?;
        run.come_to_rest()?;
        match run.log.is_started() {
            true => Ok(run),
            false => broken(Rule::ComesToRest, "everything is done and the log has not started"),
        }
    }

    fn begin_life(&mut self) -> Checked {
        if self.log.epoch() <= self.epoch {
            let text = format!("epoch {} follows epoch {}", self.log.epoch(), self.epoch);
            return broken(Rule::NextLifeFindsIt, text);
        }
        for sequence in 1..=self.log.appended().0 {
            let sequence = RecordSequence(sequence);
            self.history.expected.push_back(Expected { sequence, record: None, writes_before: 0 });
        }
        Ok(())
    }

    /// Appends a record. Returns why it was not taken, if so.
    pub(super) fn append(&mut self, record: Record) -> Checked<Option<AppendError>> {
        let before = self.log.appended();
        let asked = self.log.check_append(&record);
        match self.log.append(record.clone()) {
            Ok(sequence) => {
                if sequence != before.next() || self.log.appended() != sequence {
                    return broken(Rule::Order, format!("{before} is followed by {sequence}"));
                }
                if let Err(error) = asked {
                    return broken(Rule::Bounded, format!("a record was taken that would not be: {error}"));
                }
                self.expect(sequence, record);
                Ok(None)
            }
            Err(error) => {
                if self.log.appended() != before {
                    return broken(Rule::Order, "a refused record counts as taken");
                }
                let is_told = asked.as_ref() == Err(&error);
                is_told.then_some(Some(error)).ok_or((Rule::Bounded, format!("refused after {asked:?}")))
            }
        }
    }

    fn expect(&mut self, sequence: RecordSequence, record: Record) {
        let writes_before = self.writes.len();
        self.history.expected.push_back(Expected { sequence, record: Some(record), writes_before });
    }

    /// Takes the next action, if there is one; `true` when there was. A read is answered by nobody here.
    pub(super) fn take_action(&mut self) -> Checked<bool> {
        match self.next_handed() {
            None => Ok(false),
            Some(Handed { action: Action::Read { .. }, .. }) => {
                broken(Rule::ComesToRest, "the log reads what nobody asked for")
            }
            Some(handed) => {
                self.under_way.push(handed);
                Ok(true)
            }
        }
    }

    fn next_handed(&mut self) -> Option<Handed> {
        self.now_ms += 1;
        let handed = Handed::new(self.log.next_action(self.now_ms)?);
        if let Action::Write(write) = &handed.action {
            self.writes.push((write.id(), false));
        }
        Some(handed)
    }

    /// One action that is under way, any of them, is carried out and reported; `false` when there is none.
    pub(super) fn complete_one(&mut self) -> Checked<bool> {
        if self.under_way.is_empty() {
            return Ok(false);
        }
        let place = self.random.below(self.under_way.len());
        let handed = self.under_way.swap_remove(place);
        self.medium.carry_out(&self.log, &handed);
        let was_fenced = self.log.fenced().is_some();
        if !was_fenced {
            let id = handed.action.id();
            self.writes.iter_mut().filter(|(write, _)| *write == id).for_each(|(_, succeeded)| *succeeded = true);
        }
        match self.log.completed(handed.action.id(), Ok(())) {
            Err(fenced) if !was_fenced => broken(Rule::ComesToRest, format!("nothing failed: {fenced}")),
            Ok(()) if was_fenced => broken(Rule::FailedWriteFences, "a fenced log goes on"),
            _ => Ok(true),
        }
    }

    /// One action that is under way fails. Returns whether the log is fenced now.
    pub(super) fn fail_one(&mut self, is_wanted: impl Fn(&Action) -> bool) -> Checked<bool> {
        let places: Vec<_> = (0..self.under_way.len()).filter(|&at| is_wanted(&self.under_way[at].action)).collect();
        let Some(&place) = places.get(self.random.below(places.len())) else { return Ok(false) };
        let handed = self.under_way.swap_remove(place);
        self.medium.fail(&handed, &mut self.random);
        let is_write = matches!(handed.action, Action::Write(_));
        let error = match self.random.one_in(2) {
            true => DiskError::NoSpace,
            false => DiskError::Io("the suite says so".to_owned()),
        };
        let outcome = self.log.completed(handed.action.id(), Err(error));
        if outcome.is_err() != self.log.fenced().is_some() {
            return broken(Rule::FailedWriteFences, format!("{outcome:?}, and fenced {:?}", self.log.fenced()));
        }
        if is_write && outcome.is_ok() {
            return broken(Rule::FailedWriteFences, "a write failed, and the log goes on");
        }
        self.seen.fenced += u64::from(is_write);
        Ok(outcome.is_err())
    }

    pub(super) fn has_write_under_way(&self) -> bool {
        self.under_way.iter().any(|handed| matches!(handed.action, Action::Write(_)))
    }

    pub(super) fn is_anything_under_way(&self) -> bool {
        !self.under_way.is_empty()
    }

    /// Whether something that was taken is not handed out.
    pub(super) fn is_anything_expected(&self) -> bool {
        !self.history.expected.is_empty()
    }

    /// Takes what is durable, and holds it against what was taken and what was done.
    pub(super) fn take_durable(&mut self) -> Checked {
        while let Some(durable) = self.log.next_durable() {
            let Some(expected) = self.history.expected.pop_front() else {
                return broken(Rule::Order, format!("record {} was never taken", durable.sequence));
            };
            if durable.sequence != expected.sequence {
                let text = format!("record {} comes where {} belongs", durable.sequence, expected.sequence);
                return broken(Rule::Order, text);
            }
            let is_same = match &expected.record {
                Some(record) => *record == durable.record,
                None => matches!(durable.record, Record::Start(_)),
            };
            if !is_same {
                return broken(Rule::Order, format!("record {} is not the one that was taken", durable.sequence));
            }
            // It is in a write behind these at the earliest, and all before that one count.
            let needed = expected.writes_before + 1;
            let done = self.writes.iter().take_while(|(_, succeeded)| *succeeded).count();
            if done < needed {
                let text = format!("record {} needs {needed} writes, {done} are done", durable.sequence);
                return broken(Rule::DurableMeansDone, text);
            }
            let last = self.history.kept.last().map(|(position, _)| *position).max(self.last_position);
            if last.is_some_and(|last| last >= durable.position) {
                return broken(Rule::Order, format!("record {} stands before the last", durable.sequence));
            }
            if durable.noted != durable.record.noted(durable.position) {
                return broken(Rule::Order, format!("record {} is noted as another", durable.sequence));
            }
            let (position, record) = (durable.position, durable.record);
            self.history.kept.push((position, record));
            self.last_sequence = durable.sequence;
            self.last_position = Some(position);
            self.seen.durable += 1;
        }
        if self.log.durable() != self.last_sequence {
            let text = format!("{} is said to be durable, {} was handed out", self.log.durable(), self.last_sequence);
            return broken(Rule::DurableMeansDone, text);
        }
        if self.log.is_started() {
            self.history.is_proven();
            self.others.clear();
            self.epoch = self.log.epoch();
        }
        let is_trimmed = self.log.is_started() && !self.log.is_trimming();
        if let Some(Trim { point, .. }) = self.history.trim.take_if(|_| is_trimmed) {
            let (from, fenced) = (self.log.log_start(), self.log.fenced().is_some());
            if from != point && !fenced {
                return broken(Rule::TrimTakesAPrefix, format!("the log begins at {from}, not at {point}"));
            }
            self.history.is_trimmed(point);
            self.seen.trims += 1;
        }
        Ok(())
    }

    /// Carries out everything until nothing is wanted any more.
    pub(super) fn come_to_rest(&mut self) -> Checked {
        let mut has_waited = false;
        for _ in 0..ROUNDS_MAX {
            while self.take_action()? {}
            let is_done = !self.complete_one()?;
            self.take_durable()?;
            if is_done && (self.log.fenced().is_some() || self.history.expected.is_empty()) {
                return Ok(());
            }
            if is_done && has_waited {
                return broken(
                    Rule::ComesToRest,
                    format!("{} records never become durable", self.history.expected.len()),
                );
            }
            if is_done {
                // Space that was refused is asked for again when time has passed.
                self.log.tick(u64::MAX);
            }
            has_waited = is_done;
        }
        broken(Rule::ComesToRest, "there is always something more to do")
    }

    /// Reads one of the durable records back, any of them.
    pub(super) fn read_any(&mut self) -> Checked {
        if self.history.kept.is_empty() || self.log.fenced().is_some() {
            return Ok(());
        }
        let place = self.random.below(self.history.kept.len());
        let (position, record) = self.history.kept[place].clone();
        // Of what a trim under way takes, nothing need be there.
        if self.history.trim.as_ref().is_some_and(|trim| position.segment < trim.point) {
            return Ok(());
        }
        self.read(position, &record, Rule::StandsAtItsPosition)
    }

    /// Every record that is durable and not trimmed.
    pub(super) fn kept(&self) -> Vec<(Position, Record)> {
        self.history.kept.clone()
    }

    /// Reads a record back and holds it against what it must be.
    pub(super) fn read(&mut self, position: Position, record: &Record, rule: Rule) -> Checked {
        let block = BLOCK_BYTES as u64;
        let offset = u64::from(position.offset);
        let (start, end) = (offset / block * block, (offset + record.encoded_bytes() as u64).next_multiple_of(block));
        let bytes = in_memory(end - start);
        let id = self.log.read(position.segment, start, bytes);
        for _ in 0..ROUNDS_MAX {
            match self.next_handed() {
                Some(handed) if handed.action.id() == id => {
                    let content = self.medium.carry_out(&self.log, &handed);
                    let at = in_memory(offset - start);
                    let is_there = content.len() == bytes
                        && Record::parse(&content.slice(at..)) == Ok((record.clone(), record.encoded_bytes()));
                    self.seen.read += 1;
                    return match is_there {
                        true => Ok(()),
                        false => broken(rule, format!("something else stands at {position:?}")),
                    };
                }
                Some(handed) => self.under_way.push(handed),
                None if !self.complete_one()? => return broken(rule, "a read is never asked for"),
                None => {}
            }
        }
        broken(rule, "a read is never asked for")
    }

    /// Trims to somewhere, if a trim is possible.
    pub(super) fn trim_any(&mut self) -> Checked {
        // What is durable is applied first: a trim goes by it.
        self.take_durable()?;
        let (start, active) = (self.log.log_start(), self.log.extent().active);
        if self.history.trim.is_some() || active <= start || !self.log.is_started() || self.log.fenced().is_some() {
            return Ok(());
        }
        let segments = in_memory(active.0 - start.0);
        let point = SegmentNumber(start.0 + 1 + self.random.below(segments) as u64);
        self.trim(point)
    }

    pub(super) fn trim(&mut self, point: SegmentNumber) -> Checked {
        let carried: Vec<_> = (0..self.random.below(3)).map(|_| self.records.dedup(&mut self.random)).collect();
        let before = self.log.appended();
        if let Err(error) = self.log.trim(point, carried.clone()) {
            return broken(Rule::TrimTakesAPrefix, format!("a trim was refused: {error}"));
        }
        self.seen.carried += carried.len() as u64;
        let last = carried.last().cloned();
        let count = carried.len() as u64;
        for (number, record) in (1..).zip(carried) {
            self.expect(RecordSequence(before.0 + number), record);
        }
        if self.log.appended().0 != before.0 + count {
            return broken(Rule::TrimTakesAPrefix, "what a trim carries over is appended, and nothing else is");
        }
        self.history.trim = Some(Trim { point, carried: last });
        Ok(())
    }

    /// The machine stops, and the log is opened again.
    pub(super) fn stop_and_open(self) -> Checked<Self> {
        let Self { medium, log, mut random, seen, .. } = self;
        let under_way = self.under_way;
        drop(log);
        seen.stops += u64::from(!under_way.is_empty());
        medium.stop(under_way, &mut random);
        let Opened { log, recovered } = opened(medium, &mut random)?;
        let mut others = self.others;
        let wrong = |text| (Rule::NextLifeFindsIt, text);
        let history = match self.history.find(&recovered) {
            Ok(history) => history,
            Err(text) => {
                let other = others.iter().rev().find_map(|other| other.find(&recovered).ok());
                other.ok_or(text).map_err(wrong)?
            }
        };
        others.push(self.history);
        seen.found += recovered.len() as u64;
        seen.found_more += (history.kept.len() - history.proven) as u64;
        let mut run = Self {
            medium,
            log,
            random,
            records: self.records,
            seen,
            now_ms: self.now_ms,
            epoch: self.epoch,
            history,
            others,
            last_sequence: RecordSequence(0),
            last_position: None,
            under_way: Vec::new(),
            writes: Vec::new(),
        };
        run.begin_life()?;
        Ok(run)
    }
}

fn opened<M: Medium>(medium: &mut M, random: &mut Random) -> Checked<Opened<M::Log>> {
    medium.open(random).map_err(|text| (Rule::NextLifeFindsIt, format!("the log cannot be opened: {text}")))
}

fn in_memory(bytes: u64) -> usize {
    usize::try_from(bytes).expect("it is in memory")
}
