//! The table of speed in SPECIFICATION.md, read as data: what was promised, and whether a measurement keeps it. Pure.

/// A row of the table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row<'a> {
    /// What is promised.
    pub what: &'a str,
    /// How much; empty where nothing is promised and something was measured.
    pub target: &'a str,
    /// What was measured when it was written down.
    pub measured: &'a str,
    /// What holds it.
    pub held_by: &'a str,
}

/// How the rows begin that `cargo bench --bench table` measures.
pub const MEASURED: [&str; 8] = [
    "seal + batch-sign in a session, N = 256",
    "the same, N = 64",
    "the same, N = 1: a message alone",
    "open in a session at the recipient",
    "opening a session: sender, recipient",
    "the same, and authorized",
    "authorization decision",
    "a decision that no memory has",
];

/// The rows of the section `Speed`.
#[must_use]
pub fn rows(specification: &str) -> Vec<Row<'_>> {
    let section = specification.split_once("\n## Speed\n").map_or("", |(_, rest)| rest);
    let section = section.split_once("\n## ").map_or(section, |(section, _)| section);
    section
        .lines()
        .filter_map(|line| {
            let inner = line.trim().strip_prefix('|')?.strip_suffix('|')?;
            let cells: Vec<&str> = inner.split('|').map(str::trim).collect();
            let [what, target, measured, held_by] = cells[..] else { return None };
            let is_rule = what.chars().all(|letter| letter == '-');
            (!is_rule && what != "what").then_some(Row { what, target, measured, held_by })
        })
        .collect()
}

/// A bound that a figure keeps or does not.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Bound {
    at_most: bool,
    /// Nanoseconds, or messages a second.
    value: f64,
    kind: Kind,
}

/// Of what a figure is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Time,
    Rate,
}

/// A figure that was measured.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Figure {
    /// A time in nanoseconds.
    Ns(f64),
    /// Messages a second.
    PerS(f64),
}

impl Figure {
    fn value(self) -> (f64, Kind) {
        match self {
            Self::Ns(value) => (value, Kind::Time),
            Self::PerS(value) => (value, Kind::Rate),
        }
    }

    /// As a person reads it.
    #[must_use]
    pub fn text(self) -> String {
        match self {
            Self::PerS(value) => format!("{value:.0}/s"),
            Self::Ns(value) if value < 1e3 => format!("{value:.0} ns"),
            Self::Ns(value) if value < 1e6 => format!("{:.2} us", value / 1e3),
            Self::Ns(value) => format!("{:.2} ms", value / 1e6),
        }
    }
}

/// Whether figures keep what a row promises, bound by bound; none where it promises something else than these can say.
#[must_use]
pub fn is_met(target: &str, figures: &[Figure]) -> Option<bool> {
    let bounds: Option<Vec<Bound>> = target.split(", ").map(bound).collect();
    let bounds = bounds.filter(|bounds| bounds.len() == figures.len() && !bounds.is_empty())?;
    let mut is_met = true;
    for (bound, figure) in bounds.iter().zip(figures) {
        let (value, kind) = figure.value();
        if kind != bound.kind {
            return None;
        }
        is_met &= if bound.at_most { value <= bound.value } else { value >= bound.value };
    }
    Some(is_met)
}

/// `p99 <= 250 ns`, `>= 300,000 messages/s`; what follows the unit says of what.
fn bound(text: &str) -> Option<Bound> {
    let mut words = text.split(' ').skip_while(|word| word.starts_with('p'));
    let at_most = match words.next()? {
        "<=" | "<" => true,
        ">=" | ">" => false,
        _ => return None,
    };
    let value: f64 = words.next()?.replace(',', "").parse().ok()?;
    let (factor, kind) = match words.next()? {
        "ns" => (1.0, Kind::Time),
        "us" => (1e3, Kind::Time),
        "ms" => (1e6, Kind::Time),
        "s" => (1e9, Kind::Time),
        "messages/s" => (1.0, Kind::Rate),
        _ => return None,
    };
    Some(Bound { at_most, value: value * factor, kind })
}

/// What the document itself says of a row that is not measured here.
#[must_use]
pub fn written(row: &Row<'_>) -> &'static str {
    let short = row.measured.to_lowercase();
    match (row.target.is_empty(), short.find("**short**")) {
        (true, _) => "no target",
        (false, None) => "met",
        (false, Some(0)) => "SHORT",
        // Some runs, or a part of it; which, the document says.
        (false, Some(_)) => "short in part",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_those_of_the_section_alone() {
        let text = "# S\n\n## Other\n\n| a | 1 | 2 | `x` |\n\n## Speed\n\nText.\n\n| what | target | measured | held by |\n|---|---|---|---|\n\
                    | seal | >= 300,000 messages/s | 380,000/s | `seal/x` |\n| alone | | 192 us | `seal/y` |\n\n## More\n\n| b | 1 | 2 | `z` |\n";
        let rows = rows(text);
        assert_eq!((rows.len(), rows[0].target, rows[1].target), (2, ">= 300,000 messages/s", ""));
    }

    #[test]
    fn every_figure_that_is_measured_belongs_to_one_row_of_the_specification() {
        let specification = include_str!("../../SPECIFICATION.md");
        let rows = rows(specification);
        assert!(rows.len() > MEASURED.len());
        for begin in MEASURED {
            assert_eq!(rows.iter().filter(|row| row.what.starts_with(begin)).count(), 1, "{begin}");
        }
    }

    #[test]
    fn a_figure_keeps_its_bound_or_does_not() {
        let cases = [
            (">= 300,000 messages/s", vec![Figure::PerS(300_000.0)], Some(true)),
            (">= 300,000 messages/s", vec![Figure::PerS(299_999.0)], Some(false)),
            ("<= 1 ms of CPU", vec![Figure::Ns(116e3)], Some(true)),
            ("<= 25 us", vec![Figure::Ns(25_001.0)], Some(false)),
            ("p50 <= 100 ns, p99 <= 250 ns", vec![Figure::Ns(40.0), Figure::Ns(251.0)], Some(false)),
            ("p50 <= 100 ns, p99 <= 250 ns", vec![Figure::Ns(40.0), Figure::Ns(250.0)], Some(true)),
            ("p50 <= 100 ns, p99 <= 250 ns", vec![Figure::Ns(40.0)], None),
            ("<= 1 s", vec![Figure::PerS(9.0)], None),
            ("their figures", vec![Figure::Ns(1.0)], None),
            ("", vec![], None),
        ];
        for (target, figures, wanted) in cases {
            assert_eq!(is_met(target, &figures), wanted, "{target} {figures:?}");
        }
    }

    #[test]
    fn what_is_written_down_as_short_is_not_met() {
        let row = |target, measured| Row { what: "a", target, measured, held_by: "`b`" };
        assert_eq!(written(&row("<= 4 us", "**short**: 4.2 us")), "SHORT");
        assert_eq!(written(&row("<= 4 us", "3 us. **Short** on a slower host")), "short in part");
        assert_eq!(written(&row("<= 4 us", "3 us")), "met");
        assert_eq!(written(&row("", "3 us")), "no target");
    }
}
