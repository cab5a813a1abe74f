//! What a terminal sees: the few styles there are, and output that leaves them out where nobody sees colours.

use std::io::{self, Write};

use anstyle::{AnsiColor, Style};

/// Something is as it should be.
pub(crate) const GOOD: Style = AnsiColor::Green.on_default();
/// Something works but wants a look.
pub(crate) const CAUTION: Style = AnsiColor::Yellow.on_default();
/// Something is wrong.
pub(crate) const BAD: Style = AnsiColor::Red.on_default().bold();
/// A command or a name to copy.
pub(crate) const LITERAL: Style = AnsiColor::Cyan.on_default();
/// Said, but not what the eye should find first.
pub(crate) const DIM: Style = Style::new().dimmed();
/// What the eye should find first.
pub(crate) const STRONG: Style = Style::new().bold();

/// When to use colours.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Color {
    /// On a terminal that wants them.
    #[default]
    Auto,
    /// Always.
    Always,
    /// Never.
    Never,
}

impl Color {
    /// Decides for the whole process.
    pub(crate) fn write_global(self) {
        let choice = match self {
            Self::Auto => anstream::ColorChoice::Auto,
            Self::Always => anstream::ColorChoice::Always,
            Self::Never => anstream::ColorChoice::Never,
        };
        choice.write_global();
    }
}

/// Standard output, which drops styles where they do not belong.
pub(crate) fn stdout() -> impl Write {
    anstream::stdout().lock()
}

/// Writes `value` as one line of JSON.
pub(crate) fn print_json(value: &serde_json::Value) -> io::Result<()> {
    let mut out = io::stdout().lock();
    serde_json::to_writer_pretty(&mut out, value)?;
    out.write_all(b"\n")
}

/// Text broken into lines of at most `width` characters, at spaces.
pub(crate) fn wrap(text: &str, width: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split(' ') {
        let line = lines.last_mut().expect("there is always a last line");
        if !line.is_empty() && line.chars().count() + 1 + word.chars().count() > width {
            lines.push(word.to_owned());
        } else {
            if !line.is_empty() {
                line.push(' ');
            }
            line.push_str(word);
        }
    }
    lines
}

/// A count with a separator between thousands: `1,234,567`.
pub(crate) fn grouped(count: u64) -> String {
    let digits = count.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Which side of a column its cells stand on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Align {
    /// Words.
    Left,
    /// Numbers.
    Right,
}

/// A table without lines: a bold heading, cells as wide as they need.
pub(crate) struct Columns {
    heading: Vec<(&'static str, Align)>,
    rows: Vec<Vec<String>>,
}

impl Columns {
    pub(crate) fn new(heading: &[(&'static str, Align)]) -> Self {
        Self { heading: heading.to_vec(), rows: Vec::new() }
    }

    /// Adds a row with one plain cell per column.
    pub(crate) fn add<const COUNT: usize>(&mut self, cells: [String; COUNT]) {
        assert_eq!(COUNT, self.heading.len(), "a row has one cell per column");
        self.rows.push(cells.into());
    }

    pub(crate) fn write(&self, out: &mut impl Write) -> io::Result<()> {
        let widths: Vec<usize> = (0..self.heading.len())
            .map(|column| {
                let cells = self.rows.iter().map(|row| row[column].chars().count());
                cells.chain([self.heading[column].0.len()]).max().unwrap_or(0)
            })
            .collect();
        let line = |cells: &[&str]| {
            let padded = cells.iter().zip(&self.heading).zip(&widths).map(|((cell, (_, align)), width)| match align {
                Align::Left => format!("{cell:<width$}"),
                Align::Right => format!("{cell:>width$}"),
            });
            padded.collect::<Vec<_>>().join("  ").trim_end().to_owned()
        };
        let names: Vec<&str> = self.heading.iter().map(|(name, _)| *name).collect();
        writeln!(out, "{STRONG}{}{STRONG:#}", line(&names))?;
        for row in &self.rows {
            writeln!(out, "{}", line(&row.iter().map(String::as_str).collect::<Vec<_>>()))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_grouped_by_thousands() {
        assert_eq!([0, 999, 1000, 1_234_567].map(grouped), ["0", "999", "1,000", "1,234,567"]);
    }

    #[test]
    fn columns_are_as_wide_as_they_need() {
        let mut columns = Columns::new(&[("n", Align::Right), ("name", Align::Left), ("x", Align::Left)]);
        columns.add(["10".to_owned(), "größer".to_owned(), "y".to_owned()]);
        columns.add(["9".to_owned(), "a".to_owned(), String::new()]);
        let mut out = anstream::StripStream::new(Vec::new());
        columns.write(&mut out).unwrap();
        assert_eq!(String::from_utf8(out.into_inner()).unwrap(), " n  name    x\n10  größer  y\n 9  a\n");
    }

    #[test]
    fn text_is_broken_at_spaces() {
        assert_eq!(wrap("one two three", 8), ["one two", "three"]);
        assert_eq!(wrap("unbreakable", 3), ["unbreakable"]);
    }
}
