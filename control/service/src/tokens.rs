//! Tokens for enrolment: whoever brings one may register an agent. Made by the operator, kept here as their hash only.
//!
//! A token says nothing about keys, and is worth nothing without them: what is registered is a key record that both of its
//! own signing keys have signed, under the name that stands in it. The token only says that this name, or any name of an
//! organization, may be taken.

use std::fmt;

use creto_envelope::AgentName;
use creto_envelope::enrol::ENROLMENT_TOKEN_BYTES;
use serde::{Deserialize, Serialize};
use thiserror::Error;
use utoipa::ToSchema;
use zeroize::Zeroizing;

pub use creto_crypto_accel::token::EnrolmentToken;

use crate::limits::{TOKEN_SECONDS_MAX, TOKEN_SECONDS_MIN, TOKEN_USES_MAX};

#[cfg(test)]
mod tests;

/// Who may register agents at the control socket.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum Enrolment {
    /// Whoever may use the socket.
    #[default]
    Open,
    /// Whoever may use the socket and brings a token.
    Token,
}

/// What the directory keeps of it: its SHA-256.
pub(crate) type TokenHash = [u8; 32];

/// A new one.
///
/// # Errors
/// When the system gives no randomness.
pub(crate) fn generate() -> Result<EnrolmentToken, getrandom::Error> {
    let mut secret = Zeroizing::new([0; ENROLMENT_TOKEN_BYTES]);
    getrandom::fill(&mut secret[..])?;
    Ok(EnrolmentToken::new(secret))
}

/// A token that somebody wants.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct TokenWanted {
    /// Agents of this organization may be registered with it.
    pub organization: String,
    /// Only this one of them, `organization/agent`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// How long it is good, in seconds.
    pub expires_in_s: u64,
    /// How many agents may be registered with it.
    pub uses: u32,
}

/// A token that was just made: the only time that its text is told.
#[derive(Clone, Serialize, Deserialize, ToSchema)]
pub struct TokenMade {
    /// The token.
    pub token: String,
    /// What else is known of it.
    #[serde(flatten)]
    pub info: TokenInfo,
}

impl fmt::Debug for TokenMade {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TokenMade").field("info", &self.info).finish_non_exhaustive()
    }
}

/// What is known of a token, without the token.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct TokenInfo {
    /// Names it: 16 hexadecimal digits of its hash.
    pub id: String,
    /// `acme` for any agent of the organization, `acme/planner` for this one.
    pub scope: String,
    /// Agents that may still be registered with it.
    pub uses_left: u32,
    /// Agents that could be when it was made.
    pub uses: u32,
    /// When it was made, Unix milliseconds.
    pub created_at_ms: u64,
    /// Until when it is good, Unix milliseconds (exclusive).
    pub expires_at_ms: u64,
}

/// Every token there is.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct TokenList {
    /// By hash, so in no order that means anything.
    pub tokens: Vec<TokenInfo>,
}

/// Why a token cannot be made.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
#[non_exhaustive]
pub enum TokenError {
    /// an organization that no agent can have
    #[error("{0:?} is no organization; use a-z, 0-9, dots, dashes and underscores, such as acme")]
    Organization(String),
    /// a name that is none, or of another organization
    #[error(
        "{name:?} is no agent of {organization}; write {organization}/ and the agent, such as {organization}/planner"
    )]
    Name {
        /// As given.
        name: String,
        /// As given.
        organization: String,
    },
    /// a lifetime out of range
    #[error("{0} s is no lifetime of a token; give one from {TOKEN_SECONDS_MIN} to {TOKEN_SECONDS_MAX}")]
    Expiry(u64),
    /// a number of uses out of range
    #[error("{0} uses are out of range; from 1 to {TOKEN_USES_MAX}, and one for a single name")]
    Uses(u32),
}

impl TokenWanted {
    /// What is to be kept of it, at `now_ms`.
    ///
    /// # Errors
    /// [`TokenError`].
    pub(crate) fn row(&self, now_ms: u64) -> Result<TokenRow, TokenError> {
        let organization = &self.organization;
        // An organization is what stands before the slash of a name.
        if AgentName::parse(&format!("{organization}/a")).is_err() {
            return Err(TokenError::Organization(organization.clone()));
        }
        let scope = match &self.name {
            None => organization.clone(),
            Some(name) if AgentName::parse(name).is_ok_and(|parsed| parsed.organization() == organization) => {
                name.clone()
            }
            Some(name) => {
                return Err(TokenError::Name { name: name.clone(), organization: organization.clone() });
            }
        };
        if !(TOKEN_SECONDS_MIN..=TOKEN_SECONDS_MAX).contains(&self.expires_in_s) {
            return Err(TokenError::Expiry(self.expires_in_s));
        }
        if self.uses == 0 || self.uses > if self.name.is_some() { 1 } else { TOKEN_USES_MAX } {
            return Err(TokenError::Uses(self.uses));
        }
        let expires_ms = now_ms.saturating_add(self.expires_in_s * 1_000);
        Ok(TokenRow { scope, uses_left: self.uses, uses: self.uses, created_ms: now_ms, expires_ms })
    }
}

/// A row of the table `tokens`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct TokenRow {
    pub(crate) scope: String,
    pub(crate) uses_left: u32,
    pub(crate) uses: u32,
    pub(crate) created_ms: u64,
    pub(crate) expires_ms: u64,
}

const ROW_FORMAT: u8 = 1;
const ROW_FIXED_BYTES: usize = 28;

impl TokenRow {
    /// Whether an agent of this name may be registered with it.
    pub(crate) fn covers(&self, name: &AgentName) -> bool {
        self.scope == name.as_str() || self.scope == name.organization()
    }

    /// Whether nobody can use it any more.
    pub(crate) fn is_over(&self, now_ms: u64) -> bool {
        self.uses_left == 0 || now_ms >= self.expires_ms
    }

    pub(crate) fn info(&self, hash: &TokenHash) -> TokenInfo {
        TokenInfo {
            id: token_id(hash),
            scope: self.scope.clone(),
            uses_left: self.uses_left,
            uses: self.uses,
            created_at_ms: self.created_ms,
            expires_at_ms: self.expires_ms,
        }
    }

    /// The bytes of the table, little-endian:
    ///
    /// ```text
    /// 0 u8 format=1 | 1 u8 zero | 2 u16 scope_bytes | 4 u32 uses_left | 8 u32 uses | 12 u64 created_ms | 20 u64 expires_ms
    /// 28 scope: an organization, or the name of an agent
    /// ```
    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(ROW_FIXED_BYTES + self.scope.len());
        out.extend_from_slice(&[ROW_FORMAT, 0]);
        out.extend_from_slice(&u16::try_from(self.scope.len()).expect("names are bounded").to_le_bytes());
        out.extend_from_slice(&self.uses_left.to_le_bytes());
        out.extend_from_slice(&self.uses.to_le_bytes());
        out.extend_from_slice(&self.created_ms.to_le_bytes());
        out.extend_from_slice(&self.expires_ms.to_le_bytes());
        out.extend_from_slice(self.scope.as_bytes());
        out
    }

    /// Parses them; `None` when they are not as [`TokenRow::to_bytes`] writes them.
    pub(crate) fn parse(bytes: &[u8]) -> Option<Self> {
        let (fixed, scope) = bytes.split_first_chunk::<ROW_FIXED_BYTES>()?;
        let u32_at = |at: usize| Some(u32::from_le_bytes(*fixed.get(at..)?.first_chunk()?));
        let u64_at = |at: usize| Some(u64::from_le_bytes(*fixed.get(at..)?.first_chunk()?));
        let scope = std::str::from_utf8(scope).ok()?.to_owned();
        let (uses_left, uses) = (u32_at(4)?, u32_at(8)?);
        let row = Self { scope, uses_left, uses, created_ms: u64_at(12)?, expires_ms: u64_at(20)? };
        let is_name = AgentName::parse(&row.scope).or_else(|_| AgentName::parse(&format!("{}/a", row.scope))).is_ok();
        (is_name && uses_left <= uses && row.to_bytes() == bytes).then_some(row)
    }
}

/// Names a token without telling it: the first eight bytes of its hash.
pub(crate) fn token_id(hash: &TokenHash) -> String {
    hash[..8].iter().map(|byte| format!("{byte:02x}")).collect()
}
