//! How a run ends: the exit statuses, and a failure as a person reads it.

use std::process::ExitCode;

use creto_node::config::ConfigError;
use creto_node::plan::PlanError;

use crate::terminal::{BAD, DIM};

/// Every status that `creto` ends with. Scripts may rely on them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Exit {
    /// Done.
    Ok = 0,
    /// A check was made and found something: loss, corruption, an alert; `creto doctor`: nothing but warnings.
    Found = 1,
    /// The command line or the configuration was not understood; `creto doctor`: no node should run here as it is.
    Usage = 2,
    /// No node could be reached, or it was lost before it answered.
    Unreachable = 3,
    /// The node was reached and refused.
    Refused = 4,
    /// This machine refused: a file, a limit, a permission.
    System = 5,
    /// Keys are encrypted, and their passphrase was not given or is another one.
    Locked = 6,
    /// Nobody answered a request in time.
    Unanswered = 7,
    /// Whoever was asked answered that it did not work.
    Failed = 8,
}

impl Exit {
    /// All of them, in the order of their numbers, each with its meaning.
    pub(crate) const ALL: &[(Self, &str)] = &[
        (Self::Ok, "done"),
        (Self::Found, "a check found something: loss, corruption, an alert; of doctor: warnings"),
        (Self::Usage, "command line or configuration were not understood; of doctor: something is to be mended"),
        (Self::Unreachable, "no node could be reached, or it was lost before it answered"),
        (Self::Refused, "the node was reached and refused"),
        (Self::System, "this machine refused: a file, a limit, a permission"),
        (Self::Locked, "keys are encrypted, and their passphrase was not given or is another one"),
        (Self::Unanswered, "nobody answered a request in time"),
        (Self::Failed, "whoever was asked answered that it did not work"),
    ];
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// The end of `--help`: how to begin, and what the statuses mean.
pub(crate) fn help() -> String {
    let rows = Exit::ALL.iter().map(|(exit, meaning)| format!("\n  {}  {meaning}", *exit as u8));
    let bold = anstyle::Style::new().bold();
    let steps = "creto init, creto doctor, creto serve; then, in another terminal, creto agent create acme/planner";
    format!("{bold}First steps:{bold:#}\n  {steps}\n\n{bold}Exit status:{bold:#}{}", rows.collect::<String>())
}

/// Why a verb did not do its work: one line on what is wrong, one on what to do next.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) exit: Exit,
    /// Lower case, without a final stop. May have more lines when it shows places in a file.
    what: String,
    /// What to do next; empty when `what` says it.
    next: String,
}

impl Failure {
    pub(crate) fn new(exit: Exit, what: impl Into<String>, next: impl Into<String>) -> Self {
        Self { exit, what: what.into(), next: next.into() }
    }

    /// From an error whose text says what to do next behind its last semicolon, as ours do.
    pub(crate) fn of(exit: Exit, error: &impl std::fmt::Display) -> Self {
        let text = error.to_string();
        match text.rsplit_once("; ") {
            Some((what, next)) => Self::new(exit, what, next),
            None => Self::new(exit, text, ""),
        }
    }

    /// A file operation that this machine refused.
    pub(crate) fn file(action: &str, path: &std::path::Path, error: &std::io::Error) -> Self {
        let next = match error.kind() {
            std::io::ErrorKind::PermissionDenied => "run as the user who owns it, or change its mode",
            std::io::ErrorKind::NotFound => "check the path",
            std::io::ErrorKind::StorageFull => "make room on that file system",
            std::io::ErrorKind::ReadOnlyFilesystem => "choose a folder that can be written",
            _ => "`creto doctor` looks at the machine",
        };
        Self::new(Exit::System, format!("cannot {action} {}: {}", path.display(), plain(error)), next)
    }

    /// Writes both lines to standard error.
    pub(crate) fn print(&self) {
        if self.what.is_empty() {
            return;
        }
        let mut text = format!("{BAD}error{BAD:#}: {}\n", self.what);
        if !self.next.is_empty() {
            text.push_str(&format!(" {DIM}next{DIM:#}: {}\n", self.next));
        }
        // Nobody is left to tell when standard error is closed.
        let _ = std::io::Write::write_all(&mut anstream::stderr().lock(), text.as_bytes());
    }
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}\nnext: {}", self.what, self.next)
    }
}

/// What the system said, without the number that only a programmer looks up.
pub(crate) fn plain(error: &std::io::Error) -> String {
    let text = error.to_string();
    let text = text.split(" (os error").next().unwrap_or(&text);
    let mut chars = text.chars();
    chars.next().map(|first| first.to_lowercase().chain(chars).collect()).unwrap_or_default()
}

impl From<ConfigError> for Failure {
    fn from(error: ConfigError) -> Self {
        let next = match &error {
            // Its text says what to do.
            ConfigError::Unreadable { .. } => "",
            ConfigError::NotUnderstood { problems } if problems.len() == 1 => {
                "correct it, then run `creto config check`"
            }
            ConfigError::NotUnderstood { .. } => "correct these, then run `creto config check`",
        };
        Self::new(Exit::Usage, error.to_string(), next)
    }
}

impl From<PlanError> for Failure {
    fn from(error: PlanError) -> Self {
        Self::of(Exit::Usage, &error)
    }
}

/// Only for writing to standard output: files say which with [`Failure::file`].
impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        if error.kind() == std::io::ErrorKind::BrokenPipe {
            // Whoever read the output has seen enough (`creto config show | head`).
            return Self::new(Exit::Ok, "", "");
        }
        Self::new(Exit::System, format!("cannot write the output: {}", plain(&error)), "check where it goes")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_status_has_one_number_and_one_meaning() {
        for (index, (exit, meaning)) in Exit::ALL.iter().enumerate() {
            assert!(!meaning.is_empty());
            assert!(Exit::ALL[index + 1..].iter().all(|(other, _)| *other as u8 > *exit as u8));
        }
    }

    #[test]
    fn a_failure_of_the_system_is_told_without_its_number() {
        let error = std::io::Error::from_raw_os_error(13);
        assert_eq!(plain(&error), "permission denied");
    }
}
