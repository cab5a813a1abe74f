//! A table of figures, each beside what it should be.

use std::io::Write;

use crate::terminal::{Align, CAUTION, Columns, GOOD, grouped, stdout};

/// What a figure should be.
pub(super) enum Target {
    AtLeast(f64),
    AtMost(f64),
    None,
}

pub(super) struct Targets {
    table: Columns,
    misses: usize,
}

impl Targets {
    pub(super) fn new() -> Self {
        let table = Columns::new(&[
            ("what", Align::Left),
            ("measured", Align::Right),
            ("unit", Align::Left),
            ("target", Align::Right),
            ("", Align::Left),
        ]);
        Self { table, misses: 0 }
    }

    pub(super) fn row(&mut self, what: &str, figure: f64, unit: &str, target: Target) {
        let text = |figure: f64| match figure >= 1_000.0 {
            // A figure of four digits and more has nothing behind its point.
            #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "positive and far below 2^64")]
            true => grouped(figure.round() as u64),
            false => format!("{figure:.2}"),
        };
        let (target, holds) = match target {
            Target::AtLeast(least) => (format!(">= {}", text(least)), Some(figure >= least)),
            Target::AtMost(most) => (format!("<= {}", text(most)), Some(figure <= most)),
            Target::None => (String::new(), None),
        };
        self.misses += usize::from(holds == Some(false));
        let verdict = holds.map_or("", |holds| if holds { "holds" } else { "short" });
        self.table.add([what.to_owned(), text(figure), unit.to_owned(), target, verdict.to_owned()]);
    }

    /// Prints it, and how many targets are missed; `cause` says what that may come from.
    pub(super) fn write(self, cause: &str) -> std::io::Result<()> {
        let mut out = stdout();
        self.table.write(&mut out)?;
        match self.misses {
            0 => writeln!(out, "\n{GOOD}every target holds{GOOD:#}"),
            misses => writeln!(out, "\n{CAUTION}{misses} short{CAUTION:#}: {cause}"),
        }
    }
}
