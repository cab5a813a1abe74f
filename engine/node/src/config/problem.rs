//! What can be wrong with a configuration, and how it is shown: the place, the line, a caret, the next step.

use std::fmt;
use std::ops::Range;
use std::path::PathBuf;

/// Characters of a line that an excerpt shows, so that one long line does not fill the screen.
const EXCERPT_CHARS_MAX: usize = 120;

/// Why a configuration was not loaded.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file is missing or may not be read.
    #[error("cannot read {}: {source}; {}", path.display(), unreadable_hint(source))]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// Something was not understood; every problem is listed, in the order of the file, then of the environment.
    #[error("{}", list(problems))]
    NotUnderstood {
        /// At least one.
        problems: Vec<Problem>,
    },
}

/// One thing that was not understood.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Where it stands.
    pub place: Place,
    /// What is wrong, in one line.
    pub message: String,
    /// What to do, in one line; may be empty.
    pub hint: String,
}

/// Where a problem stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// In the file.
    File {
        /// Name of the file as it was given.
        file: String,
        /// Line, counted from 1.
        line: usize,
        /// Column in characters, counted from 1.
        column: usize,
        /// Characters to underline, at least 1.
        width: usize,
        /// The whole line.
        text: String,
    },
    /// In the environment.
    Variable {
        /// Name of the variable.
        name: String,
    },
    /// Nobody wrote it: it follows from defaults and from where the file is.
    Defaults,
}

impl Place {
    /// The place of the bytes `span` in `text`.
    pub(super) fn in_file(file: &str, text: &str, span: Range<usize>) -> Self {
        let start = floor_char_boundary(text, span.start);
        let line_start = text[..start].rfind('\n').map_or(0, |newline| newline + 1);
        let line_end = text[start..].find('\n').map_or(text.len(), |newline| start + newline);
        let end = floor_char_boundary(text, span.end).clamp(start, line_end);
        Self::File {
            file: file.to_owned(),
            line: text[..line_start].matches('\n').count() + 1,
            column: text[line_start..start].chars().count() + 1,
            width: text[start..end].trim_end().chars().count().max(1),
            text: without_passwords(text[line_start..line_end].trim_end_matches('\r')),
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.place {
            Place::Defaults => write!(f, "{}: {}", self.message, self.hint),
            Place::Variable { name } if self.hint.is_empty() => write!(f, "{name}: {}", self.message),
            Place::Variable { name } => write!(f, "{name}: {}: {}", self.message, self.hint),
            Place::File { file, line, column, width, text } => {
                let (text, shown_column) = excerpt(text, *column);
                let gutter = line.to_string().len();
                let until_caret = text.chars().map(|c| if c == '\t' { '\t' } else { ' ' });
                let until_caret: String = until_caret.chain(std::iter::repeat(' ')).take(shown_column - 1).collect();
                let carets = "^".repeat((*width).min(text.chars().count().saturating_sub(shown_column - 1)).max(1));
                writeln!(f, "{file}:{line}:{column}: {}", self.message)?;
                writeln!(f, "{:gutter$} |", "")?;
                writeln!(f, "{line} | {text}")?;
                write!(f, "{:gutter$} | {until_caret}{carets}", "")?;
                if self.hint.is_empty() { Ok(()) } else { write!(f, " {}", self.hint) }
            }
        }
    }
}

/// The line with stars in the place of a database's URL, from where there may be a password: it is shown on screens and written to
/// logs, and what was not understood cannot be told from a password.
pub(super) fn without_passwords(line: &str) -> String {
    let key = line.split('=').next().unwrap_or_default();
    let is_database = key.contains("database") || line.contains("postgres");
    let begin = match line.find("://") {
        Some(at) if is_database || line[at..].contains('@') => at + 3,
        // Whoever forgot how a URL begins has written the rest of it.
        None if is_database => line.find('=').map_or(0, |at| at + 1),
        _ => return line.to_owned(),
    };
    let hidden = line[begin..].chars().map(|c| if c == ' ' || c == '"' || c == '\'' { c } else { '*' });
    line[..begin].chars().chain(hidden).collect()
}

/// The part of a line around `column` that is worth showing, with the column inside it; never a control character.
fn excerpt(line: &str, column: usize) -> (String, usize) {
    let skipped = if column > EXCERPT_CHARS_MAX { column - EXCERPT_CHARS_MAX / 2 } else { 0 };
    let visible = |c: char| if c.is_control() && c != '\t' { char::REPLACEMENT_CHARACTER } else { c };
    let text: String = line.chars().skip(skipped).take(EXCERPT_CHARS_MAX).map(visible).collect();
    (text.trim_end().to_owned(), column - skipped)
}

fn floor_char_boundary(text: &str, index: usize) -> usize {
    let mut index = index.min(text.len());
    while !text.is_char_boundary(index) {
        index -= 1;
    }
    index
}

fn list(problems: &[Problem]) -> String {
    problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n\n")
}

fn unreadable_hint(source: &std::io::Error) -> &'static str {
    match source.kind() {
        std::io::ErrorKind::NotFound => "make one with `creto init`, or name another with --config",
        std::io::ErrorKind::PermissionDenied => "run as the user who owns it, or change its mode",
        _ => "name a readable file with --config",
    }
}
