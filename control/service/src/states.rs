//! Whether agents may act: the bytes of the table, and the change that someone asks for.

use creto_envelope::{AgentId, AgentState};
use serde::{Deserialize, Serialize};
use thiserror::Error;
use utoipa::ToSchema;

use crate::limits::REASON_BYTES_MAX;

#[cfg(test)]
mod tests;

/// What an agent, or every agent of an organization, is to be from now on.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct StateChange {
    /// `active`, `suspended` or `revoked`. Whoever is revoked stays so.
    pub state: StateWord,
    /// Why, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// For a revocation, since when what the keys sign is void, Unix milliseconds; absent: since now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since_ms: Option<u64>,
}

/// A state, as the API writes it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum StateWord {
    /// It may act.
    Active,
    /// It may not act until it is active again.
    Suspended,
    /// It never may act again.
    Revoked,
}

impl From<StateWord> for AgentState {
    fn from(word: StateWord) -> Self {
        match word {
            StateWord::Active => Self::Active,
            StateWord::Suspended => Self::Suspended,
            StateWord::Revoked => Self::Revoked,
        }
    }
}

/// What a bulk change of an organization did. One request changes at most
/// `STATE_CHANGES_MAX` agents, all in one transaction.
#[derive(Clone, PartialEq, Eq, Default, Debug, Serialize, Deserialize, ToSchema)]
pub struct OrganizationChanged {
    /// Agents that are what they were not before.
    pub changed: u64,
    /// Agents that were so before.
    pub unchanged: u64,
    /// Agents that are revoked, which is final, and were to be something else.
    pub revoked_before: u64,
    /// There are more agents: ask again, with this as `after`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_after: Option<String>,
}

/// Why a change of state is none.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
#[non_exhaustive]
pub enum StateError {
    /// a reason that is too long
    #[error("the reason has {0} bytes; at most {REASON_BYTES_MAX} are possible")]
    ReasonLong(usize),
    /// a reason that would play tricks on a terminal
    #[error("the reason has the character {0:?}; leave out what is not seen on a line of text")]
    ReasonCharacter(char),
    /// a time that is only for revocations
    #[error("only a revocation can be said to count since another time; leave out since_ms")]
    SinceWithoutRevocation,
    /// a time that has not come
    #[error("since_ms is {since_ms}, and it is {now_ms} now; a revocation cannot begin later")]
    SinceAhead {
        /// As given.
        since_ms: u64,
        /// The node's clock.
        now_ms: u64,
    },
}

impl StateChange {
    /// What is to be kept of it, at `now_ms`; `None` for agents that may act.
    ///
    /// # Errors
    /// [`StateError`].
    pub(crate) fn row(&self, now_ms: u64) -> Result<Option<StateRow>, StateError> {
        let reason = self.reason.as_deref().unwrap_or_default();
        if reason.len() > REASON_BYTES_MAX {
            return Err(StateError::ReasonLong(reason.len()));
        }
        if let Some(unseen) = reason.chars().find(|&character| is_unseen(character)) {
            return Err(StateError::ReasonCharacter(unseen));
        }
        let since_ms = match self.since_ms {
            None => now_ms,
            Some(_) if self.state != StateWord::Revoked => return Err(StateError::SinceWithoutRevocation),
            Some(since_ms) if since_ms > now_ms => return Err(StateError::SinceAhead { since_ms, now_ms }),
            Some(since_ms) => since_ms,
        };
        let row = StateRow { since_ms, decided_ms: now_ms, reason: reason.to_owned() };
        Ok((self.state != StateWord::Active).then_some(row))
    }
}

/// Control characters, and those that change how the text around them is shown.
fn is_unseen(character: char) -> bool {
    character.is_control()
        || matches!(character, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}')
}

/// A change of states, on its way to the writer.
#[derive(Debug)]
pub(crate) struct StateRequest {
    pub(crate) whose: Whose,
    pub(crate) change: StateChange,
}

/// Whom it concerns.
#[derive(Debug)]
pub(crate) enum Whose {
    Agent(AgentId),
    /// The agents of an organization whose names follow on `after`.
    Organization {
        name: String,
        after: Option<String>,
    },
}

/// A row of the table `states`: why an agent may not act. Which state it is stands in its entry.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct StateRow {
    /// From when it counts: what a revoked agent signed later is void.
    pub(crate) since_ms: u64,
    /// When the operator said so.
    pub(crate) decided_ms: u64,
    /// Why; may be empty.
    pub(crate) reason: String,
}

const ROW_FORMAT: u8 = 1;
const ROW_FIXED_BYTES: usize = 20;

impl StateRow {
    /// The bytes of the table, little-endian:
    ///
    /// ```text
    /// 0 u8 format=1 | 1 u8 zero | 2 u16 reason_bytes | 4 u64 since_ms | 12 u64 decided_ms | 20 reason, UTF-8
    /// ```
    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(ROW_FIXED_BYTES + self.reason.len());
        out.extend_from_slice(&[ROW_FORMAT, 0]);
        out.extend_from_slice(&u16::try_from(self.reason.len()).expect("reasons are bounded").to_le_bytes());
        out.extend_from_slice(&self.since_ms.to_le_bytes());
        out.extend_from_slice(&self.decided_ms.to_le_bytes());
        out.extend_from_slice(self.reason.as_bytes());
        out
    }

    /// Parses them; `None` when they are not as [`StateRow::to_bytes`] writes them.
    pub(crate) fn parse(bytes: &[u8]) -> Option<Self> {
        let (fixed, reason) = bytes.split_first_chunk::<ROW_FIXED_BYTES>()?;
        let u64_at = |at: usize| Some(u64::from_le_bytes(*fixed.get(at..)?.first_chunk()?));
        let reason_bytes = usize::from(u16::from_le_bytes([fixed[2], fixed[3]]));
        if fixed[..2] != [ROW_FORMAT, 0] || reason.len() != reason_bytes || reason_bytes > REASON_BYTES_MAX {
            return None;
        }
        let reason = std::str::from_utf8(reason).ok()?.to_owned();
        Some(Self { since_ms: u64_at(4)?, decided_ms: u64_at(12)?, reason })
    }
}

const _: () = assert!(REASON_BYTES_MAX <= u16::MAX as usize);
