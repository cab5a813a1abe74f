//! `creto audit tail` and `query`: events as a table, or as JSON, one a line.

use std::collections::{BTreeMap, VecDeque};
use std::io::Write;
use std::time::Duration;

use creto_audit::limits::SALT_BYTES;
use creto_audit::tile::{Entry, entries};
use creto_audit::{ChainedEvent, What};
use creto_audit_store::LogReader;
use creto_envelope::AgentId;

use super::filter::Filter;
use super::show::{as_json, fields};
use super::{open, store};
use crate::args::Global;
use crate::args::audit::{AuditQueryArgs, AuditTailArgs};
use crate::exit::{Exit, Failure};
use crate::moment::date_time;
use crate::terminal::{Align, CAUTION, Columns, DIM, grouped, stdout};

/// A node signs at most every second; so often a follower looks.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// Tells of each event from leaf `from` on that can be read.
pub(super) fn each(
    log: &LogReader,
    from: u64,
    mut event: impl FnMut(u64, &ChainedEvent) -> Result<(), Failure>,
) -> Result<(), Failure> {
    for block in log.blocks(from) {
        let block = block.map_err(|error| store(&error))?;
        for (index, entry) in (block.first..).zip(entries(&block.bundle)) {
            let Entry::Full(bytes) = entry else { continue };
            let parsed = bytes.get(SALT_BYTES..).and_then(|bytes| ChainedEvent::parse(bytes).ok());
            let Some(parsed) = parsed.filter(|_| index >= from) else { continue };
            event(index, &parsed)?;
        }
    }
    Ok(())
}

/// Names of the agents, as their registrations say them.
#[derive(Default)]
struct Names(BTreeMap<AgentId, String>);

impl Names {
    fn learn(&mut self, event: &ChainedEvent) {
        if let What::AgentRegistered { agent, .. } = event.event.what {
            self.0.insert(agent, event.label.as_str().to_owned());
        }
    }

    fn of(&self, agent: AgentId) -> String {
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
    each(&log, 0, |index, event| {
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
    let mut log = open(global, &args.log)?;
    let mut filter = Filter::new(&args.filter, log.checkpoint())?;
    let (mut names, mut last) = (Names::default(), VecDeque::new());
    each(&log, 0, |index, event| {
        names.learn(event);
        if filter.fits(event) {
            last.push_back((index, *event));
            if last.len() > args.count as usize {
                last.pop_front();
            }
        }
        Ok(())
    })?;
    print(&names, last.make_contiguous(), args.json)?;
    let mut next = log.checkpoint().size;
    if !args.follow {
        return Ok(Exit::Ok);
    }
    loop {
        // The log is files, which only tell of themselves when they are looked at.
        std::thread::sleep(LOOK_EVERY);
        if !log.refresh().map_err(|error| store(&error))? {
            continue;
        }
        each(&log, next, |index, event| {
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
        })?;
        next = log.checkpoint().size;
    }
}
