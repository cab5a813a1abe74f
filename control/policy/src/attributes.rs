//! What an agent is and may do in the words of its operator: its type, its roles, its capabilities. Policies read them.
//!
//! The node attaches no meaning to any of these texts. They are compared byte by byte, so they are plain ASCII: a role that
//! only looks like another cannot be written.

use std::collections::BTreeSet;
use std::fmt;

use thiserror::Error;

use crate::principal::mix;

#[cfg(test)]
mod tests;

/// The type of an agent for which none is set.
pub const TYPE_DEFAULT: &str = "agent";
/// Most bytes of a type, a role or a capability.
pub const TEXT_BYTES_MAX: usize = 512;
/// Most roles of one agent.
pub const ROLES_MAX: usize = 64;
/// Most capabilities of one agent.
pub const CAPABILITIES_MAX: usize = 256;
/// Most bytes of all of them together.
pub const ATTRIBUTES_BYTES_MAX: usize = (1 + ROLES_MAX + CAPABILITIES_MAX) * TEXT_BYTES_MAX;

/// The attributes of an agent. Roles and capabilities are sorted, and each is there once.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Attributes {
    agent_type: String,
    roles: Vec<String>,
    capabilities: Vec<String>,
    /// Follows from the others.
    digest: u64,
}

/// Why something is no set of attributes.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
#[non_exhaustive]
pub enum AttributesError {
    /// a text without a character
    #[error("a {0} is empty; give it at least one character")]
    Empty(&'static str),
    /// a text that is too long
    #[error("a {what} has {bytes} bytes; at most {TEXT_BYTES_MAX} are possible")]
    Long {
        /// Which kind.
        what: &'static str,
        /// Its length.
        bytes: usize,
    },
    /// a text with other characters than those of plain ASCII
    #[error(
        "a {what} has the character {character:?}; write it in plain ASCII (letters, digits, signs, and spaces inside)"
    )]
    Character {
        /// Which kind.
        what: &'static str,
        /// The first of them.
        character: char,
    },
    /// too many of a kind
    #[error("{count} {what} are too many; an agent has at most {count_max}")]
    Many {
        /// Which kind.
        what: &'static str,
        /// How many there are.
        count: usize,
        /// How many there may be.
        count_max: usize,
    },
}

impl Attributes {
    /// Attributes of these texts, in any order; one that is there twice counts once.
    ///
    /// # Errors
    /// [`AttributesError`], for the first text that is none.
    pub fn parse(
        agent_type: &str,
        roles: impl IntoIterator<Item = impl Into<String>>,
        capabilities: impl IntoIterator<Item = impl Into<String>>,
    ) -> Result<Self, AttributesError> {
        check_text("type", agent_type)?;
        let roles = sorted("role", "roles", roles, ROLES_MAX)?;
        let capabilities = sorted("capability", "capabilities", capabilities, CAPABILITIES_MAX)?;
        Ok(Self::new(agent_type.to_owned(), roles, capabilities))
    }

    fn new(agent_type: String, roles: Vec<String>, capabilities: Vec<String>) -> Self {
        // The counts are in it, so that no text can move from one list to the other unseen.
        let counts = mix(roles.len() as u64, capabilities.len() as u64);
        let texts = [&agent_type].into_iter().chain(&roles).chain(&capabilities);
        let digest = texts.fold(counts, |seed, text| fold_text(seed, text));
        Self { agent_type, roles, capabilities, digest }
    }

    /// What kind of agent it is.
    #[must_use]
    pub fn agent_type(&self) -> &str {
        &self.agent_type
    }

    /// Its roles, sorted.
    #[must_use]
    pub fn roles(&self) -> &[String] {
        &self.roles
    }

    /// Its capabilities, sorted.
    #[must_use]
    pub fn capabilities(&self) -> &[String] {
        &self.capabilities
    }

    /// Bytes of all texts together.
    #[must_use]
    pub fn text_bytes(&self) -> usize {
        self.agent_type.len() + self.roles.iter().chain(&self.capabilities).map(String::len).sum::<usize>()
    }

    /// A number that differs when anything in it does, by all odds.
    pub(crate) fn digest(&self) -> u64 {
        self.digest
    }
}

impl Default for Attributes {
    /// Those of an agent for which nothing is set: the type `agent`, no roles, no capabilities.
    fn default() -> Self {
        Self::new(TYPE_DEFAULT.to_owned(), Vec::new(), Vec::new())
    }
}

impl fmt::Debug for Attributes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Attributes")
            .field("agent_type", &self.agent_type)
            .field("roles", &self.roles)
            .field("capabilities", &self.capabilities)
            .finish_non_exhaustive()
    }
}

fn check_text(what: &'static str, text: &str) -> Result<(), AttributesError> {
    if text.is_empty() {
        return Err(AttributesError::Empty(what));
    }
    if text.len() > TEXT_BYTES_MAX {
        return Err(AttributesError::Long { what, bytes: text.len() });
    }
    let outside = text.chars().find(|&character| !character.is_ascii_graphic() && character != ' ');
    let at_edge = Some(' ').filter(|&space| text.starts_with(space) || text.ends_with(space));
    match outside.or(at_edge) {
        Some(character) => Err(AttributesError::Character { what, character }),
        None => Ok(()),
    }
}

fn sorted(
    one: &'static str,
    many: &'static str,
    texts: impl IntoIterator<Item = impl Into<String>>,
    count_max: usize,
) -> Result<Vec<String>, AttributesError> {
    let mut distinct = BTreeSet::new();
    for text in texts {
        let text = text.into();
        check_text(one, &text)?;
        distinct.insert(text);
    }
    if distinct.len() > count_max {
        return Err(AttributesError::Many { what: many, count: distinct.len(), count_max });
    }
    Ok(distinct.into_iter().collect())
}

/// The length first, so that where one text ends and the next begins counts too.
fn fold_text(seed: u64, text: &str) -> u64 {
    text.as_bytes().chunks(8).fold(mix(seed, text.len() as u64), |seed, chunk| {
        let mut word = [0; 8];
        word[..chunk.len()].copy_from_slice(chunk);
        mix(seed, u64::from_le_bytes(word))
    })
}
