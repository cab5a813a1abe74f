//! The input that a policy can read, and the set of what one does read.

use std::collections::BTreeSet;
use std::fmt;

/// Under this name the recent messages are in the input, and a policy may call them by it alone.
pub(crate) const RECENT_MESSAGES: &str = "recent_messages";
const AGENTS: &[&str] = &["sender", "recipient"];
const AGENT_FIELDS: &[&str] = &["capabilities", "name", "nhi", "organization_id", "roles", "type"];
const SCALARS: &[&str] = &["action", "channel"];

/// One input that is read: `input`, `input.sender`, `input.sender.roles`, `recent_messages`. Everything below it counts.
pub(crate) type Path = Vec<&'static str>;

/// The input that `fields`, those below `input`, name, cut where the schema ends. `None` is a field that it does not have:
/// which one, and the nearest.
pub(crate) fn resolve(fields: &[String]) -> Result<Path, UnknownField> {
    let Some(first) = fields.first() else { return Ok(Vec::new()) };
    let all: Vec<&'static str> = AGENTS.iter().chain(SCALARS).copied().chain([RECENT_MESSAGES]).collect();
    let first = known(first, &all, "input")?;
    let Some(second) = fields.get(1).filter(|_| AGENTS.contains(&first)) else { return Ok(vec![first]) };
    Ok(vec![first, known(second, AGENT_FIELDS, &format!("input.{first}"))?])
}

fn known(name: &str, all: &[&'static str], below: &str) -> Result<&'static str, UnknownField> {
    let unknown = || UnknownField {
        path: format!("{below}.{name}"),
        hint: match nearest(name, all.iter().copied()) {
            Some(near) => format!("did you mean `{below}.{near}`?"),
            None => format!("`{below}` has {}", all.join(", ")),
        },
    };
    all.iter().find(|known| **known == name).copied().ok_or_else(unknown)
}

/// An input that the schema does not have.
pub(crate) struct UnknownField {
    pub(crate) path: String,
    pub(crate) hint: String,
}

/// The name that was probably meant.
pub(crate) fn nearest<'a>(name: &str, all: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let scored = all.map(|known| (strsim::jaro_winkler(name, known), known)).filter(|(score, _)| *score > 0.75);
    scored.max_by(|a, b| a.0.total_cmp(&b.0)).map(|(_, known)| known)
}

/// The inputs that a policy reads; an input stands for everything below it. What is not in it never changes a verdict.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReadSet {
    paths: BTreeSet<Path>,
}

impl ReadSet {
    /// Adds an input. What lies below one that is read is not listed.
    pub(crate) fn add(&mut self, path: Path) {
        if !self.covers(&path) {
            self.paths.retain(|old| !old.starts_with(&path));
            self.paths.insert(path);
        }
    }

    fn covers(&self, path: &[&str]) -> bool {
        (0..=path.len()).any(|end| self.paths.iter().any(|read| **read == path[..end]))
    }

    /// Whether the count of recent messages is read: a decision by it holds until the sender's next message.
    #[must_use]
    pub fn has_recent_messages(&self) -> bool {
        self.covers(&[RECENT_MESSAGES])
    }

    /// Whether an input, such as `["sender", "roles"]`, or one that it is part of, is read.
    #[must_use]
    pub fn reads(&self, path: &[&str]) -> bool {
        self.covers(path)
    }

    /// Each input as a policy writes it, in order.
    pub fn names(&self) -> impl Iterator<Item = String> {
        self.paths.iter().map(|path| match path.as_slice() {
            [RECENT_MESSAGES] => RECENT_MESSAGES.to_owned(),
            path => ["input"].iter().chain(path).copied().collect::<Vec<_>>().join("."),
        })
    }

    /// What of `input` is read: the key under which a decision may be kept.
    #[must_use]
    pub(crate) fn project(&self, input: &serde_json::Value) -> serde_json::Value {
        let mut projected = serde_json::Map::new();
        for path in &self.paths {
            let Some(value) = path.iter().try_fold(input, |value, field| value.get(field)) else { continue };
            let name = if path.is_empty() { "input".to_owned() } else { path.join(".") };
            projected.insert(name, value.clone());
        }
        projected.into()
    }
}

impl fmt::Display for ReadSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.names().collect::<Vec<_>>().join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(text: &str) -> Vec<String> {
        text.split('.').skip(1).map(str::to_owned).collect()
    }

    #[test]
    fn a_path_is_cut_where_the_schema_ends() {
        for (written, wanted) in [
            ("input", vec![]),
            ("input.sender", vec!["sender"]),
            ("input.sender.roles", vec!["sender", "roles"]),
            ("input.sender.roles.0.x", vec!["sender", "roles"]),
            ("input.action.x", vec!["action"]),
        ] {
            assert_eq!(resolve(&path(written)).ok(), Some(wanted), "{written}");
        }
    }

    #[test]
    fn a_field_that_does_not_exist_is_answered_with_the_nearest() {
        let hint = |written| resolve(&path(written)).err().map(|unknown| (unknown.path, unknown.hint)).unwrap();
        assert_eq!(hint("input.sendr.roles"), ("input.sendr".to_owned(), "did you mean `input.sender`?".to_owned()));
        assert_eq!(hint("input.sender.role").1, "did you mean `input.sender.roles`?");
        assert!(hint("input.zzz").1.contains("recipient"));
    }

    #[test]
    fn an_input_covers_what_lies_below() {
        let mut reads = ReadSet::default();
        reads.add(vec!["sender", "roles"]);
        reads.add(vec!["sender"]);
        reads.add(vec!["sender", "nhi"]);
        reads.add(vec!["action"]);
        assert_eq!(reads.to_string(), "input.action, input.sender");
        assert!(reads.reads(&["sender", "name"]) && !reads.reads(&["recipient"]) && !reads.has_recent_messages());
        reads.add(vec![]);
        assert_eq!(reads.to_string(), "input");
        assert!(reads.has_recent_messages());
    }
}
