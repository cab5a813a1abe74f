//! SPECIFICATION.md's table of speed: figure, target, measured, met or not. Rows that need no node, no disk and no minutes are measured
//! now; of the others the document's own words are shown, and what measures them.
//!
//! ```text
//! cargo bench --bench table               # some ten seconds
//! cargo bench --bench table -- --json
//! ```

use std::path::Path;
use std::process::ExitCode;

use creto_benches::control::decisions;
use creto_benches::crypto::{Effort, measure};
use creto_benches::table::{Figure, MEASURED, Row, is_met, rows, written};

/// Pairs of agents in the table of decisions, and decisions that are evaluated: what the targets speak of.
const DECISION_PAIRS: usize = 1 << 20;
const DECISION_MISSES: usize = 20_000;
/// Letters of a figure that was written down.
const SHOWN: usize = 64;

/// What is measured here, by how its row begins.
fn measured() -> Vec<(&'static str, Vec<Figure>)> {
    let crypto = measure(Effort::FULL);
    let warm = decisions::warm(DECISION_PAIRS);
    let misses = decisions::misses(DECISION_MISSES);
    #[allow(clippy::cast_precision_loss, reason = "nanoseconds of a decision")]
    let ns = |ns: u64| Figure::Ns(ns as f64);
    let figures = [
        vec![Figure::PerS(crypto.seal_n256_msgs_per_s)],
        vec![Figure::PerS(crypto.seal_n64_msgs_per_s)],
        vec![Figure::Ns(crypto.seal_single_us * 1e3)],
        vec![Figure::PerS(crypto.open_msgs_per_s)],
        vec![Figure::Ns(crypto.session_establish_us * 1e3)],
        vec![Figure::PerS(crypto.admit_n256_msgs_per_s)],
        vec![ns(warm.batch.at(0.5)), ns(warm.batch.at(0.99))],
        vec![ns(misses.at(0.5))],
    ];
    MEASURED.into_iter().zip(figures).collect()
}

/// A row as it is shown.
#[derive(serde::Serialize)]
struct Shown<'a> {
    figure: &'a str,
    target: &'a str,
    measured: String,
    /// Now, or when the document was written.
    is_measured_now: bool,
    verdict: &'static str,
    held_by: &'a str,
}

fn shown<'a>(row: &Row<'a>, measured: &[(&str, Vec<Figure>)]) -> Shown<'a> {
    let now = measured.iter().find(|(begin, _)| row.what.starts_with(begin)).map(|(_, figures)| figures);
    let (text, verdict) = match now {
        None => (row.measured.to_owned(), written(row)),
        Some(figures) => {
            let text: Vec<String> = figures.iter().map(|figure| figure.text()).collect();
            let verdict = match is_met(row.target, figures) {
                Some(true) => "met",
                Some(false) => "SHORT",
                None => "no target",
            };
            (text.join(", "), verdict)
        }
    };
    let Row { what: figure, target, held_by, .. } = *row;
    Shown { figure, target, measured: text, is_measured_now: now.is_some(), verdict, held_by }
}

fn main() -> ExitCode {
    // Cargo says which kind of target it runs.
    let args: Vec<String> = std::env::args().skip(1).filter(|arg| arg != "--bench").collect();
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../SPECIFICATION.md");
    let specification = match (std::fs::read_to_string(&path), &args[..]) {
        (Ok(text), []) => text,
        (Ok(text), [json]) if json == "--json" => text,
        (Ok(_), _) => {
            eprintln!("error: give nothing, or --json");
            return ExitCode::from(2);
        }
        (Err(error), _) => {
            eprintln!("error: {} cannot be read: {error}", path.display());
            return ExitCode::from(2);
        }
    };
    let rows = rows(&specification);
    let measured = measured();
    let all: Vec<Shown<'_>> = rows.iter().map(|row| shown(row, &measured)).collect();
    if args.is_empty() {
        print(&all);
    } else {
        println!("{}", serde_json::to_string_pretty(&all).expect("rows are plain data"));
    }
    ExitCode::SUCCESS
}

fn print(all: &[Shown<'_>]) {
    if cfg!(debug_assertions) {
        println!("a debug build: what is measured now says nothing of the product\n");
    }
    let cut = |text: &str, letters: usize| match text.chars().count() > letters {
        true => text.chars().take(letters - 3).collect::<String>() + "...",
        false => text.to_owned(),
    };
    for (title, now) in [("measured now", true), ("as SPECIFICATION.md has it", false)] {
        println!("{title}:\n\n{:64}  {:32}  {:64}  {:13}  held by", "figure", "target", "measured", "");
        for row in all.iter().filter(|row| row.is_measured_now == now) {
            let (figure, target, measured) = (cut(row.figure, SHOWN), cut(row.target, 32), cut(&row.measured, SHOWN));
            println!("{figure:64}  {target:32}  {measured:64}  {:13}  {}", row.verdict, row.held_by);
        }
        println!();
    }
    let count = |verdict: &str| all.iter().filter(|row| row.verdict == verdict).count();
    println!(
        "{} met, {} short, {} short in part, {} without a target",
        count("met"),
        count("SHORT"),
        count("short in part"),
        count("no target")
    );
}
