//! What is done to a log: everything mixed, and each bound and each ending on its own.

use super::run::{Broken, Checked, Run, broken};
use super::{Medium, Random, Rule, Seen};
use crate::log::{RecordLog, SealedEnd};
use crate::lsn::SegmentNumber;
use crate::wal::{Action, AppendError};

/// Longest envelope of the usual record: several fit a group, some tens a segment.
const ENVELOPE_BYTES: usize = 3_000;
/// Records after which a bound must have been met.
const RECORDS_MAX: usize = 20_000;

type Scenario<M> = fn(&mut M, Random, &mut Seen) -> Checked;

/// Every scenario with this seed, each on a medium of its own.
pub(super) fn all<M: Medium>(seed: u64, new: &mut impl FnMut(u64) -> M, seen: &mut Seen) -> Result<(), Broken> {
    let scenarios: [Scenario<M>; 6] = [mixed, too_much_waits, space_runs_out, a_write_fails, sealed, held];
    for (number, scenario) in (0..).zip(scenarios) {
        let random = Random::new(seed.wrapping_mul(scenarios.len() as u64).wrapping_add(number));
        scenario(&mut new(seed), random, seen)?;
    }
    Ok(())
}

fn usual<M: Medium>(run: &mut Run<'_, M>) -> Checked<Option<AppendError>> {
    let bytes_max = ENVELOPE_BYTES.min(run.log.record_bytes_max() / 8);
    let record = run.records.any(&mut run.random, bytes_max);
    run.append(record)
}

/// Appends until the log says that too much waits, or enough is there.
fn fill<M: Medium>(run: &mut Run<'_, M>, records: usize) -> Checked {
    for _ in 0..records {
        if usual(run)?.is_some() {
            break;
        }
    }
    Ok(())
}

/// Everything in any order, in one life after the other.
fn mixed<M: Medium>(medium: &mut M, random: Random, seen: &mut Seen) -> Checked {
    let mut run = Run::open(medium, random, seen)?;
    let (steps, stops_one_in) = (400 + run.random.below(800), 40 + run.random.below(400));
    let fails_one_in = 1 + run.random.below(40);
    for _ in 0..steps {
        match run.random.below(100) {
            0..30 => drop(usual(&mut run)?),
            30..60 => _ = run.take_action()?,
            60..82 => _ = run.complete_one()?,
            82..88 => run.take_durable()?,
            88..92 => run.read_any()?,
            92..95 => run.trim_any()?,
            95 => run.log.confirm(),
            96 => run.log.tick(0),
            97 => _ = run.log.hold(),
            98 => run.log.let_go(),
            _ => _ = run.random.one_in(fails_one_in) && run.fail_one(|_| true)?,
        }
        let is_fenced = run.log.fenced().is_some();
        if M::KEEPS && (is_fenced || run.random.one_in(stops_one_in)) {
            run = run.stop_and_open()?;
        } else if is_fenced {
            return fenced(&mut run);
        }
    }
    if run.random.one_in(3) {
        run.log.seal();
    }
    run.come_to_rest()?;
    let Some(kept) = (M::KEEPS && run.log.fenced().is_none()).then(|| run.kept()) else { return Ok(()) };
    let mut next = run.stop_and_open()?;
    next.come_to_rest()?;
    match next.kept().starts_with(&kept) {
        true => Ok(()),
        false => broken(Rule::NextLifeFindsIt, "a log at rest comes back as another"),
    }
}

/// More is appended than may wait.
fn too_much_waits<M: Medium>(medium: &mut M, random: Random, seen: &mut Seen) -> Checked {
    let mut run = Run::started(medium, random, seen)?;
    let bytes_max = run.log.record_bytes_max();
    let too_large = run.records.message_of(&mut run.random, bytes_max);
    if !matches!(run.append(too_large)?, Some(AppendError::RecordTooLarge { .. })) {
        return broken(Rule::Bounded, "a record that fits nowhere was not refused as too large");
    }
    let refused = (0..RECORDS_MAX).find_map(|_| {
        let record = run.records.settle(&mut run.random);
        run.append(record).transpose()
    });
    match refused.transpose()? {
        Some(AppendError::Full) => run.seen.full += 1,
        other => return broken(Rule::Bounded, format!("{other:?} where too much waits")),
    }
    run.come_to_rest()?;
    match usual(&mut run)? {
        None => run.come_to_rest(),
        Some(error) => broken(Rule::Bounded, format!("nothing waits any more, and yet: {error}")),
    }
}

/// Messages take all the space there is; what is settled and trimmed brings it back.
fn space_runs_out<M: Medium>(medium: &mut M, random: Random, seen: &mut Seen) -> Checked {
    let mut run = Run::started(medium, random, seen)?;
    let envelope_bytes = run.log.record_bytes_max() / 3;
    fill_up(&mut run, envelope_bytes)?;
    let full = run.log.space();
    for _ in 0..4 {
        let settle = run.records.settle(&mut run.random);
        if let Some(error) = run.append(settle)? {
            return broken(Rule::Bounded, format!("a full log must take settles: {error}"));
        }
        run.come_to_rest()?;
    }
    run.seen.storage_full += 1;
    let kept = run.kept();
    let active = run.log.extent().active;
    run.trim(active)?;
    run.come_to_rest()?;
    if run.log.is_trimming() {
        return broken(Rule::TrimTakesAPrefix, "everything is done and the trim is not");
    }
    let (space, left) = (run.log.space(), full.message_bytes_left);
    if space.message_bytes_left <= left {
        let text = format!("a trim of all but one segment gives nothing: {left}, then {}", space.message_bytes_left);
        return broken(Rule::TrimTakesAPrefix, text);
    }
    for (position, record) in kept.iter().filter(|(position, _)| position.segment >= active) {
        run.read(*position, record, Rule::TrimTakesAPrefix)?;
    }
    let message = run.records.message_of(&mut run.random, envelope_bytes);
    if let Some(error) = run.append(message)? {
        return broken(Rule::Bounded, format!("there is space again, and yet: {error}"));
    }
    run.come_to_rest()?;
    if M::KEEPS {
        let mut next = run.stop_and_open()?;
        next.come_to_rest()?;
    }
    Ok(())
}

fn fill_up<M: Medium>(run: &mut Run<'_, M>, envelope_bytes: usize) -> Checked {
    for _ in 0..RECORDS_MAX {
        let message = run.records.message_of(&mut run.random, envelope_bytes);
        match run.append(message)? {
            Some(AppendError::StorageFull) => return run.come_to_rest(),
            None | Some(AppendError::Full) => run.come_to_rest()?,
            Some(error) => return broken(Rule::Bounded, format!("a log with room refuses: {error}")),
        }
    }
    broken(Rule::Bounded, "messages never run out of space")
}

/// One write fails among others that succeed.
fn a_write_fails<M: Medium>(medium: &mut M, random: Random, seen: &mut Seen) -> Checked {
    let mut run = Run::started(medium, random, seen)?;
    let before = run.random.below(30);
    fill(&mut run, before)?;
    run.come_to_rest()?;
    for _ in 0..200 {
        drop(usual(&mut run)?);
        while run.random.one_in(2) && run.take_action()? {}
        if run.random.one_in(4) {
            run.complete_one()?;
        }
        if run.has_write_under_way() && run.random.one_in(4) {
            break;
        }
    }
    while !run.has_write_under_way() {
        // Whatever stands before the next write.
        drop(usual(&mut run)?);
        if !run.take_action()? && !run.complete_one()? {
            return broken(Rule::ComesToRest, "a record is never written");
        }
    }
    if run.fail_one(|action| matches!(action, Action::Write(_)))? {
        fenced(&mut run)?;
    }
    if M::KEEPS {
        let mut next = run.stop_and_open()?;
        next.come_to_rest()?;
    }
    Ok(())
}

/// What a fenced log does: nothing.
fn fenced<M: Medium>(run: &mut Run<'_, M>) -> Checked {
    run.take_durable()?;
    while run.complete_one()? {}
    run.take_durable()?;
    match usual(run)? {
        Some(AppendError::Fenced(_)) => {}
        other => return broken(Rule::FailedWriteFences, format!("{other:?} from a fenced log")),
    }
    if run.take_action()? {
        return broken(Rule::FailedWriteFences, "a fenced log wants something done");
    }
    run.log.seal();
    match run.log.end() {
        None => Ok(()),
        Some(end) => broken(Rule::FailedWriteFences, format!("a fenced log has an end: {end:?}")),
    }
}

/// A log is sealed while something is on its way.
fn sealed<M: Medium>(medium: &mut M, random: Random, seen: &mut Seen) -> Checked {
    let mut run = match Random::new(random.clone().bits()).one_in(5) {
        // Before it has started, even.
        true => Run::open(medium, random, seen)?,
        false => Run::started(medium, random, seen)?,
    };
    if run.log.is_started() {
        let before = run.random.below(60);
        fill(&mut run, before)?;
        run.come_to_rest()?;
        run.trim_any()?;
    }
    let (last, actions) = (run.random.below(8), run.random.below(3));
    fill(&mut run, last)?;
    for _ in 0..actions {
        run.take_action()?;
    }
    let (before, epoch) = (run.log.appended(), run.log.epoch());
    run.log.seal();
    if run.random.one_in(2) {
        run.log.seal();
    }
    refuses_everything(&mut run)?;
    let waits = run.is_anything_expected();
    let fails = run.random.one_in(4);
    for _ in 0..RECORDS_MAX {
        run.take_durable()?;
        // Also what was durable and is not handed out yet counts as durable: the last question is what was written.
        if let Some(end) = run.log.end() {
            if run.is_anything_expected() || run.is_anything_under_way() {
                return broken(Rule::SealedHasOneEnd, format!("{end:?}, and something is on its way"));
            }
            break;
        }
        if fails && run.has_write_under_way() && run.fail_one(|action| matches!(action, Action::Write(_)))? {
            run.seen.fenced_after_seal += 1;
            return fenced(&mut run);
        }
        if !run.take_action()? && !run.complete_one()? {
            return broken(Rule::ComesToRest, "everything is done, and a sealed log has no end");
        }
    }
    let end = run.log.end();
    let last = run.last_position;
    if end != last.map(|position| SealedEnd { epoch, sequence: before, position }) {
        return broken(Rule::SealedHasOneEnd, format!("{end:?}, and the last record is {before} at {last:?}"));
    }
    refuses_everything(&mut run)?;
    run.log.confirm();
    run.log.tick(0);
    if run.take_action()? {
        return broken(Rule::SealedHasOneEnd, "a log that has come to its end wants something done");
    }
    run.read_any()?;
    run.take_durable()?;
    if run.log.end() != end {
        return broken(Rule::SealedHasOneEnd, "the end moves");
    }
    run.seen.ended += u64::from(waits);
    if M::KEEPS {
        let kept = run.kept();
        let next = run.stop_and_open()?;
        // Exactly this: nothing was on its way.
        if next.kept() != kept {
            return broken(Rule::NextLifeFindsIt, "the next life of a sealed log finds something else");
        }
    }
    Ok(())
}

fn refuses_everything<M: Medium>(run: &mut Run<'_, M>) -> Checked {
    if !run.log.is_sealed() {
        return broken(Rule::SealedHasOneEnd, "a sealed log does not say so");
    }
    match usual(run)? {
        Some(AppendError::Sealed) => {}
        other => return broken(Rule::SealedHasOneEnd, format!("{other:?} from a sealed log")),
    }
    let (start, active) = (run.log.log_start(), run.log.extent().active);
    if active > start && !run.log.is_trimming() && run.log.trim(active, Vec::new()) != Err(AppendError::Sealed) {
        return broken(Rule::SealedHasOneEnd, "a sealed log is trimmed");
    }
    Ok(())
}

/// A log is trimmed while it is held.
fn held<M: Medium>(medium: &mut M, random: Random, seen: &mut Seen) -> Checked {
    let mut run = Run::started(medium, random, seen)?;
    if run.log.held().is_some() {
        return broken(Rule::HeldStays, "a new log is held by nobody");
    }
    let rounds = 2 + run.random.below(12);
    for _ in 0..rounds {
        fill(&mut run, 12)?;
        run.come_to_rest()?;
    }
    let Some(held) = run.log.hold() else { return broken(Rule::HeldStays, "a log that has started can be held") };
    let kept = run.kept();
    let last = kept.last().map(|(position, _)| position.segment);
    let holds = |segment: SegmentNumber| (held.first_segment..=held.last_segment).contains(&segment);
    if !kept.iter().all(|(position, _)| holds(position.segment)) {
        return broken(Rule::HeldStays, format!("{held:?} leaves out what is durable, up to {last:?}"));
    }
    for _ in 0..2 + run.random.below(4) {
        for _ in 0..6 {
            fill(&mut run, 12)?;
            run.come_to_rest()?;
        }
        run.trim_any()?;
        run.come_to_rest()?;
    }
    let start = run.log.log_start();
    let trimmed: Vec<_> = kept.iter().filter(|(position, _)| position.segment < start).collect();
    for (position, record) in trimmed.iter().take(40) {
        run.read(*position, record, Rule::HeldStays)?;
        run.seen.held += 1;
    }
    if !trimmed.is_empty() && run.log.held_back_bytes() == 0 {
        return broken(Rule::HeldStays, "what is held back takes no space");
    }
    run.log.let_go();
    fill(&mut run, 12)?;
    run.come_to_rest()?;
    match (run.log.held(), run.log.held_back_bytes()) {
        (None, 0) => Ok(()),
        (held, bytes) => broken(Rule::HeldStays, format!("let go, and yet {held:?} and {bytes} bytes")),
    }
}
