//! `creto audit tail` and `query`: events as a table, or as JSON, one a line.

use std::collections::{BTreeMap, VecDeque};
use std::io::Write;
use std::ops::Range;

use creto_audit::limits::SALT_BYTES;
use creto_audit::tile::{Entry, entries};
use creto_audit::{ChainedEvent, What};
use creto_audit_store::LogReader;
use creto_audit_store::layout::SEGMENT_LEAVES;
use creto_envelope::AgentId;

use super::filter::Filter;
use super::follow::each_checkpoint;
use super::show::{as_json, fields};
use super::{folder, open, store};
use crate::args::Global;
use crate::args::audit::{AuditQueryArgs, AuditTailArgs};
use crate::exit::{Exit, Failure};
use crate::moment::date_time;
use crate::terminal::{Align, CAUTION, Columns, DIM, grouped, stdout};

/// Tells of each event of these leaves that can be read.
pub(super) fn each(
    log: &LogReader,
    leaves: Range<u64>,
    mut event: impl FnMut(u64, &ChainedEvent) -> Result<(), Failure>,
) -> Result<(), Failure> {
    for block in log.blocks(leaves.start) {
        let block = block.map_err(|error| store(&error))?;
        if block.first >= leaves.end {
            break;
        }
        for (index, entry) in (block.first..).zip(entries(&block.bundle)) {
            let Entry::Full(bytes) = entry else { continue };
            let parsed = bytes.get(SALT_BYTES..).and_then(|bytes| ChainedEvent::parse(bytes).ok());
            let Some(parsed) = parsed.filter(|_| leaves.contains(&index)) else { continue };
            event(index, &parsed)?;
        }
    }
    Ok(())
}

/// Names of the agents, as their registrations say them.
#[derive(Default)]
pub(super) struct Names(BTreeMap<AgentId, String>);

impl Names {
    pub(super) fn learn(&mut self, event: &ChainedEvent) {
        if let What::AgentRegistered { agent, .. } = event.event.what {
            self.0.insert(agent, event.label.as_str().to_owned());
        }
    }

    pub(super) fn of(&self, agent: AgentId) -> String {
        self.0.get(&agent).cloned().unwrap_or_else(|| agent.to_string())
    }
}

fn row(names: &Names, index: u64, event: &ChainedEvent) -> [String; 5] {
    [
        index.to_string(),
        date_time(event.event.time_ms()),
        event.source.to_string(),
        event.event.what.name().to_owned(),
        fields(event, |agent| names.of(agent)),
    ]
}

const HEADING: [(&str, Align); 5] = [
    ("leaf", Align::Right),
    ("time (UTC)", Align::Left),
    ("source", Align::Left),
    ("kind", Align::Left),
    ("what", Align::Left),
];

fn print(names: &Names, found: &[(u64, ChainedEvent)], as_lines: bool) -> Result<(), Failure> {
    if as_lines {
        let mut out = std::io::stdout().lock();
        for (index, event) in found {
            writeln!(out, "{}", as_json(*index, event))?;
        }
        return Ok(());
    }
    let mut columns = Columns::new(&HEADING);
    found.iter().for_each(|(index, event)| columns.add(row(names, *index, event)));
    Ok(columns.write(&mut stdout())?)
}

pub(super) fn query(global: &Global, args: &AuditQueryArgs) -> Result<Exit, Failure> {
    let log = open(global, &args.log)?;
    let mut filter = Filter::new(&args.filter, log.checkpoint())?;
    let (mut names, mut found, mut more) = (Names::default(), Vec::new(), 0_u64);
    each(&log, 0..log.checkpoint().size, |index, event| {
        names.learn(event);
        match filter.fits(event) {
            true if found.len() < args.limit as usize => found.push((index, *event)),
            true => more += 1,
            false => {}
        }
        Ok(())
    })?;
    print(&names, &found, args.json)?;
    if !args.json {
        let (count, size) = (grouped(found.len() as u64), grouped(log.checkpoint().size));
        writeln!(
            stdout(),
            "{DIM}{count} of {size} events, signed at {} UTC{DIM:#}",
            date_time(log.checkpoint().time_ms)
        )?;
    }
    if more > 0 {
        let text = format!("{} more fit; narrow it down, or raise --limit", grouped(more));
        let _ = writeln!(anstream::stderr().lock(), "{CAUTION}{text}{CAUTION:#}");
    }
    Ok(Exit::Ok)
}

pub(super) fn tail(global: &Global, args: &AuditTailArgs) -> Result<Exit, Failure> {
    let folder = folder(global, &args.log)?;
    let mut log = LogReader::open(&folder).map_err(|error| store(&error))?;
    let mut filter = Filter::new(&args.filter, log.checkpoint())?;
    let mut names = Names::default();
    let mut last = last(&log, &mut filter, args.count as usize, &mut names)?;
    print(&names, last.make_contiguous(), args.json)?;
    if !args.follow {
        return Ok(Exit::Ok);
    }
    each_checkpoint(&folder, || {
        let next = log.checkpoint().size;
        if !log.refresh().map_err(|error| store(&error))? {
            return Ok(());
        }
        each(&log, next..log.checkpoint().size, |index, event| {
            names.learn(event);
            if !filter.fits(event) {
                return Ok(());
            }
            let mut out = std::io::stdout().lock();
            match args.json {
                true => writeln!(out, "{}", as_json(index, event))?,
                false => writeln!(out, "{}", row(&names, index, event).join("  "))?,
            }
            Ok(out.flush()?)
        })
    })
}

/// The last `count` events that fit, read file by file from the end, and no further than they are found.
fn last(
    log: &LogReader,
    filter: &mut Filter,
    count: usize,
    names: &mut Names,
) -> Result<VecDeque<(u64, ChainedEvent)>, Failure> {
    let (mut last, mut end) = (VecDeque::new(), log.checkpoint().size);
    while end > 0 && last.len() < count {
        // What became of a message is only known to whoever has read which one it is.
        let first = if filter.follows_a_message() { 0 } else { (end - 1) / SEGMENT_LEAVES * SEGMENT_LEAVES };
        let (mut found, room) = (VecDeque::new(), count - last.len());
        each(log, first..end, |index, event| {
            names.learn(event);
            if filter.fits(event) {
                found.push_back((index, *event));
                if found.len() > room {
                    found.pop_front();
                }
            }
            Ok(())
        })?;
        found.append(&mut last);
        (last, end) = (found, first);
    }
    Ok(last)
}
