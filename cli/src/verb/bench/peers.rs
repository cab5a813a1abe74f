//! `creto bench peers`: reports of several systems under the same load as one table in Markdown, losses as plain as wins.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use creto_loadgen::{Report, Spread};

use super::compare::read;
use crate::args::bench::{BenchPeersArgs, PeerReport};
use crate::exit::{Exit, Failure};
use crate::terminal::grouped;

/// What stands between them in a document is written by this command.
const BEGIN: &str = "<!-- peers: begin -->";
const END: &str = "<!-- peers: end -->";

pub(super) fn run(args: &BenchPeersArgs) -> Result<Exit, Failure> {
    let mut reports = Vec::new();
    for PeerReport { label, path } in &args.reports {
        reports.push((label.clone(), read(path)?));
    }
    let mut text = tables(&reports);
    for left_out in &args.left_out {
        let _ = writeln!(text, "\nLeft out: {left_out}.");
    }
    match &args.into {
        Some(document) => replace(document, &text)?,
        None => std::io::Write::write_all(&mut crate::terminal::stdout(), text.as_bytes())?,
    }
    Ok(if reports.iter().all(|(_, report)| report.valid) { Exit::Ok } else { Exit::Found })
}

/// Writes the text between the marks of a document; a document that is not there is made of it.
fn replace(document: &Path, text: &str) -> Result<(), Failure> {
    let before = match std::fs::read_to_string(document) {
        Ok(before) => before,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => format!("{BEGIN}\n{END}\n"),
        Err(error) => return Err(Failure::file("read", document, &error)),
    };
    let after = between_marks(&before, text).ok_or_else(|| {
        let what = format!("{} has no place for a table", document.display());
        Failure::new(
            Exit::Usage,
            what,
            format!("put a line `{BEGIN}` and a line `{END}` below it where it is to stand"),
        )
    })?;
    std::fs::write(document, after).map_err(|error| Failure::file("write", document, &error))
}

fn between_marks(before: &str, text: &str) -> Option<String> {
    let (head, rest) = before.split_once(BEGIN)?;
    let (_, tail) = rest.split_once(END)?;
    Some(format!("{head}{BEGIN}\n\n{}\n\n{END}{tail}", text.trim()))
}

/// One system under one load: its repetitions, each a run of its own.
type Repetitions<'a> = Vec<&'a Report>;

/// A table for each load, in the order in which they were given, and what to know of every system.
fn tables(reports: &[(String, Report)]) -> String {
    let mut loads: Vec<(String, Vec<(&str, Repetitions<'_>)>)> = Vec::new();
    for (label, report) in reports {
        let load = load_of(report);
        let at = loads.iter().position(|(known, _)| *known == load).unwrap_or_else(|| {
            loads.push((load, Vec::new()));
            loads.len() - 1
        });
        let systems = &mut loads[at].1;
        match systems.iter_mut().find(|(known, _)| known == label) {
            Some((_, repetitions)) => repetitions.push(report),
            None => systems.push((label, vec![report])),
        }
    }
    let mut text = String::new();
    for (load, systems) in &loads {
        table(&mut text, load, systems);
    }
    legend(&mut text, reports);
    text
}

/// The same for reports of one load.
fn load_of(report: &Report) -> String {
    let options = &report.setup.options;
    let rate = match (options.rate, options.closed_loop) {
        (Some(rate), _) => format!("{} messages/s, {} arrivals", grouped(rate), options.arrival),
        (None, count) => format!("closed loop of {}", grouped(count.unwrap_or(0) as u64)),
    };
    let processes = match report.setup.processes {
        0 | 1 => String::new(),
        count => format!(", generator of {count} processes"),
    };
    let mut more = String::new();
    if options.offline_then_drain {
        more.push_str(", receivers away until everything was sent");
    }
    if options.slow_consumers > 0 {
        let _ = write!(more, ", {} slow consumers", options.slow_consumers);
    }
    format!(
        "{}, {rate}, {} bytes, {} s after {} s of warm-up, {} connections to {} agents{processes}{more}",
        report.scenario, options.size, options.duration_s, options.warmup_s, options.connections, options.agents
    )
}

/// A figure of each repetition that has it.
type Figure = fn(&Report) -> Option<f64>;

#[allow(clippy::cast_precision_loss, reason = "latencies are far below 2^52")]
fn ms(us: Option<u64>) -> Option<f64> {
    us.map(|us| us as f64 / 1e3)
}

const FIGURES: [(&str, Figure); 8] = [
    ("acknowledged a second", |report| Some(report.achieved_rate)),
    ("to its acknowledgement p50, ms", |report| ms(report.publish_to_durable_us.p50)),
    ("p99, ms", |report| ms(report.publish_to_durable_us.p99)),
    ("to delivered p50, ms", |report| ms(report.publish_to_delivered_us.p50)),
    ("p99, ms", |report| ms(report.publish_to_delivered_us.p99)),
    ("p99.9, ms", |report| ms(report.publish_to_delivered_us.p99_9)),
    ("node CPU a message, us", |report| report.node_cpu_us_per_message),
    ("generator CPU a message, us", |report| report.generator_cpu_us_per_message),
];
/// The figures that are set against those of the first system, by their places.
const DELIVERED_P99: usize = 4;
const NODE_CPU: usize = 6;

fn table(text: &mut String, load: &str, systems: &[(&str, Repetitions<'_>)]) {
    let count = systems.iter().map(|(_, repetitions)| repetitions.len()).max().unwrap_or(0);
    // Writing into a string does not fail, here and below.
    let _ = writeln!(text, "**{load}**; {count} repetitions in turns:\n");
    let first = systems.first().map(|(label, _)| *label).unwrap_or_default();
    let names: Vec<&str> = FIGURES.iter().map(|(name, _)| *name).collect();
    let _ = writeln!(text, "| system | valid | {} | delivered p99, node CPU against {first} |", names.join(" | "));
    let _ = writeln!(text, "|---|---|{}---|", "---:|".repeat(names.len()));
    let base = systems.first().map(|(_, repetitions)| spreads(repetitions));
    for (label, repetitions) in systems {
        let (valid, all) = (repetitions.iter().filter(|report| report.valid).count(), repetitions.len());
        let spreads = spreads(repetitions);
        let cells: Vec<String> = spreads.iter().map(|spread| cell(*spread, valid > 0)).collect();
        // Figures of runs that are not valid are set against nothing.
        let is_first_valid = systems.first().is_some_and(|(_, first)| first.iter().any(|report| report.valid));
        let against = match &base {
            Some(base) if label != &first && valid > 0 && is_first_valid => {
                let against = |at: usize| times(spreads[at], base[at]);
                format!("{}, {}", against(DELIVERED_P99), against(NODE_CPU))
            }
            _ => String::new(),
        };
        let _ = writeln!(text, "| {label} | {valid} of {all} | {} | {against} |", cells.join(" | "));
    }
    text.push('\n');
    for (label, repetitions) in systems {
        let mut reasons: BTreeMap<&str, usize> = BTreeMap::new();
        for reason in repetitions.iter().flat_map(|report| &report.invalid_because) {
            *reasons.entry(reason).or_default() += 1;
        }
        for (reason, _) in reasons {
            let _ = writeln!(text, "- {label} was not valid: {reason}");
        }
    }
    if !text.ends_with("\n\n") {
        text.push('\n');
    }
}

/// Of the valid repetitions; where none is valid, of all.
fn spreads(repetitions: &[&Report]) -> Vec<Option<Spread>> {
    let any_valid = repetitions.iter().any(|report| report.valid);
    let counted = || repetitions.iter().filter(|report| report.valid || !any_valid);
    FIGURES.iter().map(|(_, figure)| Spread::of(counted().filter_map(|report| figure(report)))).collect()
}

/// The middle one, with the ends where there are several; in parentheses where no repetition was valid.
fn cell(spread: Option<Spread>, is_valid: bool) -> String {
    let Some(Spread { min, median, max }) = spread else { return "-".to_owned() };
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a rate is positive and far below 2^52")]
    let figure = |value: f64| match value {
        1_000.0.. => grouped(value.round() as u64),
        100.0.. => format!("{value:.0}"),
        10.0.. => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    };
    let range =
        if figure(min) == figure(max) { String::new() } else { format!(" ({} to {})", figure(min), figure(max)) };
    match is_valid {
        true => format!("{}{range}", figure(median)),
        false => format!("(not valid: {}{range})", figure(median)),
    }
}

fn times(one: Option<Spread>, base: Option<Spread>) -> String {
    match one.zip(base).filter(|(_, base)| base.median > 0.0) {
        Some((one, base)) => format!("{:.2} times", one.median / base.median),
        None => "-".to_owned(),
    }
}

/// What each system does for a message, and what all of it was made on.
fn legend(text: &mut String, reports: &[(String, Report)]) {
    text.push_str("What each of them does:\n\n");
    // Of each system what it does, and every way in which it made writes durable: it chooses anew where it measures its disk.
    let mut told: Vec<(String, Vec<&str>)> = Vec::new();
    for (label, report) in reports {
        let node = &report.setup.node;
        let version = node.version.as_deref().unwrap_or("version not told");
        let line = format!("- **{label}** ({} {version}): {}", node.system, node.protection);
        let durability = report.durability.as_deref().unwrap_or("not told");
        match told.iter_mut().find(|(known, _)| *known == line) {
            Some((_, ways)) if ways.contains(&durability) => {}
            Some((_, ways)) => ways.push(durability),
            None => told.push((line, vec![durability])),
        }
    }
    for (line, ways) in &told {
        let _ = writeln!(text, "{line}. Its acknowledgement: {}.", ways.join("; or "));
    }
    let mut machines: Vec<String> = Vec::new();
    for (_, report) in reports {
        let setup = &report.setup;
        let commit = setup.commit.as_deref().unwrap_or("unknown");
        let pinned =
            setup.generator_cpus.as_ref().map(|cpus| format!(", generator on CPUs {cpus}")).unwrap_or_default();
        let machine = format!(
            "{}, {} CPUs for the generator{pinned}, Linux {}, a {} build of commit {commit}",
            setup.cpu_model, setup.cores, setup.kernel, setup.build
        );
        if !machines.contains(&machine) {
            machines.push(machine);
        }
    }
    let loads = Spread::of(reports.iter().filter_map(|(_, report)| report.setup.load_average));
    let load =
        loads.map_or_else(String::new, |load| format!("; load average before a run {} to {}", load.min, load.max));
    let _ = writeln!(
        text,
        "\nMade on: {}{load}. Figures are the middle of the valid repetitions, with the least and the most; latencies count from when a \
         message was due. Systems ran on one machine with their generator, one after the other.",
        machines.join("; ")
    );
}

#[cfg(test)]
mod tests {
    use super::*;
    use creto_loadgen::{NodeSetup, Percentiles};

    fn report(system: &str, p99_us: u64, cpu: f64, valid: bool) -> (String, Report) {
        let mut report = Report {
            scenario: "direct".to_owned(),
            valid,
            achieved_rate: 999.6,
            publish_to_delivered_us: Percentiles { p99: Some(p99_us), ..Percentiles::default() },
            node_cpu_us_per_message: Some(cpu),
            durability: Some(format!("as {system} has it")),
            ..Report::default()
        };
        if !valid {
            report.invalid_because = vec!["the generator was late".to_owned()];
        }
        report.setup.options.rate = Some(1_000);
        report.setup.node =
            NodeSetup { system: system.to_owned(), protection: format!("what {system} does"), ..NodeSetup::default() };
        (system.to_owned(), report)
    }

    #[test]
    fn a_loss_is_as_plain_as_a_win_and_repetitions_that_are_not_valid_do_not_count() {
        let text = tables(&[
            report("creto", 2_000, 8.0, true),
            report("nats", 1_000, 4.0, true),
            report("creto", 4_000, 8.0, true),
            report("nats", 9_000, 4.0, false),
            report("creto", 3_000, 8.0, true),
        ]);
        let row = |system: &str| text.lines().find(|line| line.starts_with(&format!("| {system} |"))).expect("a row");
        assert!(row("creto").contains("| 3 of 3 |") && row("creto").contains("3.00 (2.00 to 4.00)"), "{text}");
        assert!(row("nats").contains("| 1 of 2 |") && row("nats").contains("0.33 times, 0.50 times"), "{text}");
        assert!(text.contains("- nats was not valid: the generator was late"), "{text}");
        assert!(
            text.contains("**nats** (nats version not told): what nats does. Its acknowledgement: as nats has it."),
            "{text}"
        );
        assert_eq!(text.matches("repetitions in turns").count(), 1, "one load, one table: {text}");
    }

    #[test]
    fn where_nothing_is_valid_the_figures_say_so() {
        let text = tables(&[report("nats", 9_000, 4.0, false)]);
        assert!(text.contains("| 0 of 1 |") && text.contains("(not valid: 9.00)"), "{text}");
        let text = tables(&[report("creto", 1_000, 8.0, true), report("nats", 9_000, 4.0, false)]);
        assert!(!text.contains(" times"), "and are set against nothing: {text}");
    }

    #[test]
    fn other_loads_have_tables_of_their_own() {
        let mut other = report("creto", 1, 1.0, true);
        other.1.setup.options.size = "65536".to_owned();
        let text = tables(&[report("creto", 1, 1.0, true), other]);
        assert_eq!(text.matches("repetitions in turns").count(), 2, "{text}");
    }

    #[test]
    fn only_what_is_between_the_marks_is_replaced() {
        let before = format!("head\n{BEGIN}\nold\n{END}\ntail\n");
        let after = between_marks(&before, "new\n").expect("it has marks");
        assert_eq!(after, format!("head\n{BEGIN}\n\nnew\n\n{END}\ntail\n"));
        assert_eq!(between_marks(&after, "new"), Some(after.clone()), "and again");
        assert_eq!(between_marks("no marks", "new"), None);
    }
}
