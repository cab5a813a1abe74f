//! What is set of an agent's type, roles and capabilities: the bytes of the table, and the change that someone asks for.

use creto_envelope::AgentId;
use creto_policy::attributes::{CAPABILITIES_MAX, ROLES_MAX, TYPE_DEFAULT};
use creto_policy::{Attributes, AttributesError};
use serde::{Deserialize, Deserializer, Serialize};
use utoipa::ToSchema;

#[cfg(test)]
mod tests;

/// What to set. What is left out stays as it is; what is given takes the place of all that was there; `null` takes it back:
/// the type `agent`, no roles, no capabilities.
#[derive(Clone, PartialEq, Eq, Default, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct AttributesChange {
    /// What kind of agent it is.
    #[serde(rename = "type", default, deserialize_with = "given", skip_serializing_if = "Option::is_none")]
    pub agent_type: Option<Option<String>>,
    /// All its roles.
    #[serde(default, deserialize_with = "given", skip_serializing_if = "Option::is_none")]
    pub roles: Option<Option<Vec<String>>>,
    /// All its capabilities.
    #[serde(default, deserialize_with = "given", skip_serializing_if = "Option::is_none")]
    pub capabilities: Option<Option<Vec<String>>>,
}

/// What is written is given, also when that is `null`.
fn given<'de, D: Deserializer<'de>, T: Deserialize<'de>>(deserializer: D) -> Result<Option<Option<T>>, D::Error> {
    Option::deserialize(deserializer).map(Some)
}

impl AttributesChange {
    /// The attributes after it.
    ///
    /// # Errors
    /// [`AttributesError`]: nothing is to be changed then.
    pub fn applied_to(&self, before: &Attributes) -> Result<Attributes, AttributesError> {
        let agent_type = match &self.agent_type {
            None => before.agent_type(),
            Some(given) => given.as_deref().unwrap_or(TYPE_DEFAULT),
        };
        Attributes::parse(
            agent_type,
            after(&self.roles, before.roles()),
            after(&self.capabilities, before.capabilities()),
        )
    }
}

fn after<'a>(given: &'a Option<Option<Vec<String>>>, before: &'a [String]) -> impl Iterator<Item = &'a str> {
    let texts = match given {
        None => before,
        Some(given) => given.as_deref().unwrap_or_default(),
    };
    texts.iter().map(String::as_str)
}

/// A change of one agent's attributes, on its way to the writer.
#[derive(Debug)]
pub(crate) struct AttributesRequest {
    pub(crate) agent: AgentId,
    pub(crate) change: AttributesChange,
}

const ROW_FORMAT: u8 = 1;
const ROW_FIXED_BYTES: usize = 8;

/// The bytes of the table `attributes`, little-endian; every text has its length before it, as u16:
///
/// ```text
/// 0 u8 format=1 | 1 u8 zero | 2 u16 roles | 4 u16 capabilities | 6 u16 zero | 8 type | roles | capabilities
/// ```
pub(crate) fn row_bytes(attributes: &Attributes) -> Vec<u8> {
    let (roles, capabilities) = (attributes.roles(), attributes.capabilities());
    let texts = || std::iter::once(attributes.agent_type()).chain(roles.iter().chain(capabilities).map(String::as_str));
    let mut out = Vec::with_capacity(ROW_FIXED_BYTES + texts().map(|text| 2 + text.len()).sum::<usize>());
    out.extend_from_slice(&[ROW_FORMAT, 0]);
    for count in [roles.len(), capabilities.len(), 0] {
        out.extend_from_slice(&u16::try_from(count).expect("attributes are bounded").to_le_bytes());
    }
    for text in texts() {
        out.extend_from_slice(&u16::try_from(text.len()).expect("attributes are bounded").to_le_bytes());
        out.extend_from_slice(text.as_bytes());
    }
    out
}

/// Parses them; `None` when they are not as [`row_bytes`] writes them.
pub(crate) fn parse_row(bytes: &[u8]) -> Option<Attributes> {
    let (fixed, mut rest) = bytes.split_first_chunk::<ROW_FIXED_BYTES>()?;
    let count_at = |at: usize| usize::from(u16::from_le_bytes([fixed[at], fixed[at + 1]]));
    let (role_count, capability_count) = (count_at(2), count_at(4));
    if role_count > ROLES_MAX || capability_count > CAPABILITIES_MAX {
        return None;
    }
    let agent_type = text(&mut rest)?;
    let mut texts = |count: usize| (0..count).map(|_| text(&mut rest)).collect::<Option<Vec<_>>>();
    let (roles, capabilities) = (texts(role_count)?, texts(capability_count)?);
    let attributes = Attributes::parse(agent_type, roles, capabilities).ok()?;
    // Whatever is left over, out of order or there twice was not written by us.
    (row_bytes(&attributes) == bytes).then_some(attributes)
}

fn text<'a>(rest: &mut &'a [u8]) -> Option<&'a str> {
    let (length, after) = rest.split_first_chunk()?;
    let (text, after) = after.split_at_checked(usize::from(u16::from_le_bytes(*length)))?;
    *rest = after;
    std::str::from_utf8(text).ok()
}
