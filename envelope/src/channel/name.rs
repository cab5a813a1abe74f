//! Names of channels, and patterns that stand for several.

use std::fmt;
use std::str::FromStr;

use thiserror::Error;

use crate::limits::NAME_BYTES_MAX;

/// Why a text is no name of a channel, or no pattern.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum ChannelNameError {
    /// It is not of the form `organization/word.word`.
    #[error("`{0}` is not a channel name; write organization/words, such as acme/alerts.eu.critical")]
    Form(String),
    /// It is not of the form of a pattern.
    #[error(
        "`{0}` is not a pattern of channel names; write `*` for one word and `**` at the end for all further ones, such as acme/alerts.*.critical or acme/alerts.**"
    )]
    Pattern(String),
    /// It has a character that is not allowed.
    #[error("`{name}` has the character {found:?}; names use a-z, 0-9, '_' and '-', and dots between words")]
    Character {
        /// As given.
        name: String,
        /// The first that is not allowed.
        found: char,
    },
    /// It is too long.
    #[error("the name has {0} bytes; at most {NAME_BYTES_MAX} are allowed")]
    TooLong(usize),
}

/// A channel's name: `organization/word.word`, such as `acme/alerts.eu.critical`. Organizations are those of agent names, words use
/// a-z, 0-9, '_' and '-'.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ChannelName(String);

impl ChannelName {
    /// Parses a name.
    ///
    /// # Errors
    /// [`ChannelNameError`] says which rule the text breaks.
    pub fn parse(text: &str) -> Result<Self, ChannelNameError> {
        let (_, topic) = split(text, |_| false)?.ok_or_else(|| ChannelNameError::Form(text.to_owned()))?;
        match topic.split('.').all(|word| !word.is_empty()) {
            true => Ok(Self(text.to_owned())),
            false => Err(ChannelNameError::Form(text.to_owned())),
        }
    }

    /// The whole name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The part before the slash.
    #[must_use]
    pub fn organization(&self) -> &str {
        self.0.split_once('/').map_or("", |(organization, _)| organization)
    }

    fn topic(&self) -> &str {
        self.0.split_once('/').map_or("", |(_, topic)| topic)
    }
}

/// Stands for all channels of an organization whose words fit: `*` is any one word, `**` at the end one or more. A name is a pattern
/// of itself.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ChannelPattern(String);

const ONE: &str = "*";
const REST: &str = "**";

impl ChannelPattern {
    /// Parses a pattern.
    ///
    /// # Errors
    /// [`ChannelNameError`] says which rule the text breaks.
    pub fn parse(text: &str) -> Result<Self, ChannelNameError> {
        let bad = || ChannelNameError::Pattern(text.to_owned());
        let (_, topic) = split(text, |found| found == '*')?.ok_or_else(bad)?;
        let words: Vec<_> = topic.split('.').collect();
        let fits = |(index, word): (usize, &&str)| match *word {
            ONE => true,
            REST => index + 1 == words.len(),
            word => !word.is_empty() && !word.contains('*'),
        };
        if words.iter().enumerate().all(fits) { Ok(Self(text.to_owned())) } else { Err(bad()) }
    }

    /// The whole pattern.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether this name is one of those that it stands for.
    #[must_use]
    pub fn matches(&self, name: &ChannelName) -> bool {
        let Some((organization, topic)) = self.0.split_once('/') else { return false };
        if organization != name.organization() {
            return false;
        }
        let (mut words, mut pattern) = (name.topic().split('.'), topic.split('.'));
        loop {
            match (pattern.next(), words.next()) {
                (None, None) | (Some(REST), Some(_)) => return true,
                (Some(ONE), Some(_)) => {}
                (Some(wanted), Some(word)) if wanted == word => {}
                _ => return false,
            }
        }
    }

    /// What every name begins with that it stands for.
    #[must_use]
    pub fn prefix(&self) -> &str {
        self.0.split_once('*').map_or(&self.0, |(prefix, _)| prefix)
    }

    /// The name, if it stands for one only.
    #[must_use]
    pub fn name(&self) -> Option<ChannelName> {
        ChannelName::parse(&self.0).ok()
    }
}

/// Organization and words, if there are both; `further` are characters that words may have besides.
fn split(text: &str, further: impl Fn(char) -> bool) -> Result<Option<(&str, &str)>, ChannelNameError> {
    if text.len() > NAME_BYTES_MAX {
        return Err(ChannelNameError::TooLong(text.len()));
    }
    let Some((organization, topic)) = text.split_once('/') else { return Ok(None) };
    let word = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '_' | '-' | '.');
    let unknown = organization.chars().find(|&c| !word(c));
    let unknown = unknown.or_else(|| topic.chars().find(|&c| !word(c) && !further(c)));
    if let Some(found) = unknown {
        return Err(ChannelNameError::Character { name: text.to_owned(), found });
    }
    Ok((!organization.is_empty() && !topic.is_empty()).then_some((organization, topic)))
}

impl FromStr for ChannelName {
    type Err = ChannelNameError;

    fn from_str(text: &str) -> Result<Self, ChannelNameError> {
        Self::parse(text)
    }
}

impl FromStr for ChannelPattern {
    type Err = ChannelNameError;

    fn from_str(text: &str) -> Result<Self, ChannelNameError> {
        Self::parse(text)
    }
}

impl fmt::Display for ChannelName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for ChannelPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
