//! `creto tune`: what to set on this machine so that a node runs well on it. It only shows, unless it is told to change something; what it
//! changes it remembers, and puts back.

mod tuners;

#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use creto_node::host::Host;
use creto_node::plan::Plan;
use serde::{Deserialize, Serialize};
use serde_json::json;

use self::tuners::{Change, State, value};
pub(crate) use self::tuners::{Setting, look};
pub(crate) use self::tuners::{State as TunerState, Tuner};
use crate::args::{Global, TuneArgs};
use crate::exit::{Exit, Failure};
use crate::terminal::{BAD, CAUTION, DIM, GOOD, LITERAL, STRONG, print_json, stdout, wrap};

/// Where what was changed is remembered, from the root on.
const STATE_FILE: &str = "var/lib/creto/tuned.json";
/// Width of a tuner's help.
const WIDTH: usize = 90;

/// What was changed and not put back.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Remembered {
    /// The form of this file.
    version: u32,
    changes: Vec<Change>,
}

/// What became of one change.
#[derive(Debug, PartialEq, Eq)]
enum Outcome {
    Done,
    /// Somebody has set it to this meanwhile: it is left.
    Other(String),
    Failed(String),
}

pub(crate) fn run(global: &Global, args: &TuneArgs) -> Result<Exit, Failure> {
    if args.explain {
        return explain(args);
    }
    let (config, _) = global.load_config_or_default()?;
    let host = Host::probe().map_err(|error| {
        Failure::new(Exit::System, format!("this machine cannot be described: {error}"), "`creto doctor` says more")
    })?;
    let plan = Plan::resolve(&config, &host)?;
    let root = Path::new("/");
    if args.revert {
        return reverted(&revert(root).map_err(|error| state_failure(&error))?, args);
    }
    let settings = look(root, &host, &plan, &chosen(args));
    if args.emit {
        write!(io::stdout(), "{}", script(&settings, &plan))?;
        return Ok(Exit::Ok);
    }
    if args.apply {
        let outcomes = apply(root, &settings).map_err(|error| state_failure(&error))?;
        return applied(&outcomes, args);
    }
    show(&settings, args)?;
    let is_right = settings.iter().all(|setting| matches!(setting.state, State::Right | State::Unsupported));
    Ok(if is_right { Exit::Ok } else { Exit::Found })
}

fn chosen(args: &TuneArgs) -> BTreeSet<Tuner> {
    match args.only.is_empty() {
        true => Tuner::ALL.into(),
        false => args.only.iter().copied().collect(),
    }
}

fn state_failure(error: &io::Error) -> Failure {
    let what = format!("/{STATE_FILE}, which remembers what is changed, cannot be used: {error}; nothing was changed");
    Failure::new(Exit::System, what, "run it as root; `creto tune --emit` prints what it would do")
}

fn explain(args: &TuneArgs) -> Result<Exit, Failure> {
    let mut out = stdout();
    for tuner in chosen(args) {
        writeln!(out, "{STRONG}{}{STRONG:#}", tuner.name())?;
        for line in wrap(tuner.help(), WIDTH) {
            writeln!(out, "  {line}")?;
        }
    }
    Ok(Exit::Ok)
}

fn show(settings: &[Setting], args: &TuneArgs) -> io::Result<()> {
    if args.json {
        let each = |setting: &Setting| {
            json!({
                "tuner": setting.tuner.name(),
                "what": setting.what,
                "now": setting.now,
                "wanted": setting.wanted,
                "state": setting.state.as_str(),
                "reason": setting.reason,
                "file": setting.change.as_ref().map(|change| format!("/{}", change.file.display())),
            })
        };
        return print_json(&json!({ "settings": settings.iter().map(each).collect::<Vec<_>>() }));
    }
    let mut out = stdout();
    let width =
        |of: fn(&Setting) -> &str| settings.iter().map(|setting| of(setting).chars().count()).max().unwrap_or(0);
    let (tuner, what, now) =
        (width(|setting| setting.tuner.name()), width(|setting| &setting.what), width(|setting| &setting.now));
    for setting in settings {
        let (style, word) = match setting.state {
            State::Right => (GOOD, "right"),
            State::Differs => (CAUTION, "differs"),
            State::Elsewhere => (CAUTION, "elsewhere"),
            State::Unsupported => (DIM, "unsupported"),
        };
        write!(
            out,
            "{style}{word:<11}{style:#}  {:<tuner$}  {:<what$}  {:>now$}",
            setting.tuner.name(),
            setting.what,
            setting.now
        )?;
        if setting.state == State::Differs || setting.state == State::Elsewhere {
            write!(out, "  -> {STRONG}{}{STRONG:#}", setting.wanted)?;
        }
        match setting.reason.is_empty() {
            true => writeln!(out)?,
            false => writeln!(out, "  {DIM}{}{DIM:#}", setting.reason)?,
        }
    }
    writeln!(out)?;
    match settings.iter().filter(|setting| setting.change.is_some()).count() {
        0 => writeln!(
            out,
            "{DIM}nothing to change; each tuner is explained by{DIM:#} {LITERAL}creto tune --explain{LITERAL:#}"
        ),
        count => writeln!(
            out,
            "{count} would be changed by {LITERAL}sudo creto tune --apply{LITERAL:#}, until the next start of the machine; \
             {LITERAL}--revert{LITERAL:#} puts them back, {LITERAL}--emit{LITERAL:#} prints a script, {LITERAL}--explain{LITERAL:#} says why"
        ),
    }
}

/// Changes what differs. What was there is on the disk before anything is changed.
fn apply(root: &Path, settings: &[Setting]) -> io::Result<Vec<(Change, Outcome)>> {
    let changes: Vec<Change> = settings.iter().filter_map(|setting| setting.change.clone()).collect();
    if changes.is_empty() {
        return Ok(Vec::new());
    }
    let mut remembered = remembered(root)?;
    for change in &changes {
        match remembered.changes.iter_mut().find(|known| known.file == change.file) {
            // What was there at first is what is put back.
            Some(known) => known.to.clone_from(&change.to),
            None => remembered.changes.push(change.clone()),
        }
    }
    remember(root, &remembered)?;
    let outcomes = changes.into_iter().map(|change| {
        let written = fs::write(root.join(&change.file), &change.to);
        // The kernel takes some values and does as it likes.
        let outcome = match (written, value(root, &change.file)) {
            (Err(error), _) => Outcome::Failed(error.to_string()),
            (Ok(()), Some(now)) if now == change.to => Outcome::Done,
            (Ok(()), now) => Outcome::Failed(format!("it says {} now", now.unwrap_or_else(|| "nothing".to_owned()))),
        };
        (change, outcome)
    });
    Ok(outcomes.collect())
}

/// Puts back what was changed, but for what somebody else has changed since.
fn revert(root: &Path) -> io::Result<Vec<(Change, Outcome)>> {
    let remembered = remembered(root)?;
    let mut left = Vec::new();
    let mut outcomes = Vec::new();
    for change in remembered.changes {
        let outcome = match value(root, &change.file) {
            Some(now) if now == change.from => Outcome::Done,
            Some(now) if now != change.to => Outcome::Other(now),
            _ => match fs::write(root.join(&change.file), &change.from) {
                Ok(()) => Outcome::Done,
                Err(error) => Outcome::Failed(error.to_string()),
            },
        };
        if let Outcome::Failed(_) = outcome {
            left.push(change.clone());
        }
        outcomes.push((change, outcome));
    }
    if outcomes.is_empty() {
        return Ok(outcomes);
    }
    match left.is_empty() {
        true => fs::remove_file(root.join(STATE_FILE))?,
        false => remember(root, &Remembered { version: 1, changes: left })?,
    }
    Ok(outcomes)
}

fn remembered(root: &Path) -> io::Result<Remembered> {
    let text = match fs::read(root.join(STATE_FILE)) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Ok(Remembered { version: 1, ..Remembered::default() });
        }
        Err(error) => return Err(error),
    };
    let remembered: Remembered = serde_json::from_slice(&text)?;
    // It is written into as root.
    let is_of_the_kernel = |change: &Change| {
        let inside = ["proc/sys", "proc/irq", "sys/devices/system/cpu", "sys/kernel/mm"];
        let is_plain = change.file.components().all(|part| matches!(part, std::path::Component::Normal(_)));
        is_plain && inside.iter().any(|folder| change.file.starts_with(folder))
    };
    match remembered.version == 1 && remembered.changes.iter().all(is_of_the_kernel) {
        true => Ok(remembered),
        false => Err(io::Error::other("it is not of this version, or names files that nothing here sets")),
    }
}

fn remember(root: &Path, remembered: &Remembered) -> io::Result<()> {
    let file = root.join(STATE_FILE);
    let folder = file.parent().expect("it has a folder");
    fs::create_dir_all(folder)?;
    let fresh: PathBuf = file.with_extension("json.new");
    let mut out = fs::File::create(&fresh)?;
    serde_json::to_writer_pretty(&mut out, remembered)?;
    out.sync_all()?;
    fs::rename(&fresh, &file)?;
    fs::File::open(folder)?.sync_all()
}

fn applied(outcomes: &[(Change, Outcome)], args: &TuneArgs) -> Result<Exit, Failure> {
    tell(outcomes, args, |change| format!("{} -> {}", change.from, change.to), "there was nothing to change")
}

fn reverted(outcomes: &[(Change, Outcome)], args: &TuneArgs) -> Result<Exit, Failure> {
    tell(
        outcomes,
        args,
        |change| format!("{} -> {}", change.to, change.from),
        "nothing was changed that could be put back",
    )
}

fn tell(
    outcomes: &[(Change, Outcome)],
    args: &TuneArgs,
    what: impl Fn(&Change) -> String,
    nothing: &str,
) -> Result<Exit, Failure> {
    let has_failed = outcomes.iter().any(|(_, outcome)| matches!(outcome, Outcome::Failed(_)));
    if args.json {
        let each = |(change, outcome): &(Change, Outcome)| {
            let (word, why) = match outcome {
                Outcome::Done => ("done", None),
                Outcome::Other(now) => ("left", Some(format!("somebody has set it to {now}"))),
                Outcome::Failed(why) => ("failed", Some(why.clone())),
            };
            json!({ "file": format!("/{}", change.file.display()), "from": change.from, "to": change.to, "outcome": word, "why": why })
        };
        print_json(&json!({ "changes": outcomes.iter().map(each).collect::<Vec<_>>() }))?;
    } else {
        let mut out = stdout();
        if outcomes.is_empty() {
            writeln!(out, "{DIM}{nothing}{DIM:#}")?;
        }
        for (change, outcome) in outcomes {
            let (file, what) = (change.file.display(), what(change));
            match outcome {
                Outcome::Done => writeln!(out, "{GOOD}done{GOOD:#}    /{file}  {what}")?,
                Outcome::Other(now) => {
                    writeln!(out, "{CAUTION}left{CAUTION:#}    /{file}  somebody has set it to {now} since")?;
                }
                Outcome::Failed(why) => writeln!(out, "{BAD}failed{BAD:#}  /{file}  {what}: {why}")?,
            }
        }
    }
    match has_failed {
        false => Ok(Exit::Ok),
        true => Err(Failure::new(Exit::System, "not everything was changed", "run it as root, on the machine itself")),
    }
}

/// What `--apply` would do, for whoever sets machines up by scripts.
fn script(settings: &[Setting], plan: &Plan) -> String {
    let mut out = String::from(
        "#!/bin/sh\n# What `creto tune --apply` would change here. Run as root at each start of the machine.\nset -eu\n",
    );
    for Change { file, from, to } in settings.iter().filter_map(|setting| setting.change.as_ref()) {
        writeln!(out, "echo {to} > /{}    # was {from}", file.display()).expect("a String takes what is written");
    }
    if settings.iter().any(|setting| setting.state == State::Elsewhere) {
        let bytes = plan.memlock_bytes_wanted;
        writeln!(
            out,
            "# In the unit that starts the node, under [Service] (at least {bytes} bytes):\n#   LimitMEMLOCK=infinity"
        )
        .expect("a String takes what is written");
    }
    out
}
