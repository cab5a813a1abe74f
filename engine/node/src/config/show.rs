//! The configuration shown to a person: each value with its origin, and the commented file that `creto init` writes.

use std::fmt;
use std::fmt::Write as _;

use super::Config;
use super::schema::{KEYS, SECTIONS};

/// Column at which the origin of a value is written, where the value is shorter.
const ORIGIN_COLUMN: usize = 44;
/// Width of a comment line.
const COMMENT_CHARS_MAX: usize = 100;

/// Where a value came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Nobody wrote it.
    Default,
    /// The file, at this line.
    File {
        /// Name of the file as it was given.
        file: String,
        /// Line, counted from 1.
        line: usize,
    },
    /// An environment variable, which wins over the file.
    Variable {
        /// Its name.
        name: String,
    },
}

/// One value with its origin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shown {
    /// Section without brackets.
    pub section: &'static str,
    /// Name inside the section.
    pub name: &'static str,
    /// Value in TOML.
    pub value: String,
    /// Where it came from.
    pub origin: Origin,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File { file, line } => write!(f, "{}:{line}", file.escape_debug()),
            Self::Variable { name } => f.write_str(name),
        }
    }
}

pub(super) fn rows(config: &Config) -> Vec<Shown> {
    let row = |(index, key): (usize, &super::schema::Key)| Shown {
        section: key.section,
        name: key.name,
        value: key.write(config),
        // A configuration made in code has no origins: all of it is default.
        origin: config.origins.get(index).cloned().unwrap_or(Origin::Default),
    };
    KEYS.iter().enumerate().map(row).collect()
}

pub(super) fn to_toml(rows: &[Shown]) -> String {
    let mut text = String::new();
    for (section, _) in SECTIONS {
        let gap = if text.is_empty() { "" } else { "\n" };
        text.push_str(&format!("{gap}[{section}]\n"));
        for row in rows.iter().filter(|row| row.section == *section) {
            let assignment = format!("{} = {}", row.name, row.value);
            // Writing to a String cannot fail.
            let _ = writeln!(text, "{assignment:ORIGIN_COLUMN$}  # {}", row.origin);
        }
    }
    text
}

pub(super) fn template(chosen: &[(&str, String)]) -> String {
    let defaults = Config::default();
    let mut text = String::from(
        "# The configuration of one node. A key that starts with # shows its default.\n\
         # Every key can also be set in the environment: CRETO__SECTION__KEY, for example CRETO__LOG__LEVEL=debug.\n\
         # `creto config check` reads this file, `creto config show` says where each value came from.\n",
    );
    for (section, about) in SECTIONS {
        let _ = write!(text, "\n# {about}\n[{section}]\n");
        for key in KEYS.iter().filter(|key| key.section == *section) {
            comment(&mut text, key.doc);
            let path = key.path();
            let _ = match chosen.iter().find(|(name, _)| *name == path) {
                Some((_, value)) => writeln!(text, "{} = {value}", key.name),
                None => writeln!(text, "# {} = {}", key.name, key.write(&defaults)),
            };
        }
    }
    text
}

/// Writes `doc` as a comment of as many lines as it needs.
fn comment(text: &mut String, doc: &str) {
    let mut line = String::from("#");
    for word in doc.split(' ') {
        if line.len() + 1 + word.len() > COMMENT_CHARS_MAX {
            text.push_str(&line);
            text.push('\n');
            line = String::from("#");
        }
        line.push(' ');
        line.push_str(word);
    }
    text.push_str(&line);
    text.push('\n');
}
