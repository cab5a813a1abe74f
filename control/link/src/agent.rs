//! One agent of a snapshot as bytes.

use std::sync::Arc;

use creto_envelope::control::RotationMode;
use creto_envelope::{AgentId, AgentName, AgentState, KeyId, TrustDomain};
use creto_policy::attributes::{CAPABILITIES_MAX, ROLES_MAX};
use creto_policy::{
    Attributes, KeyVersion, LowerRetention, MailboxSettings, Principal, PrincipalError, Replacement, SnapshotBuilder,
};

use crate::frame::LinkError;
use crate::limits::{ATTRIBUTES_MAX, VERSIONS_MAX};
use crate::reader::{Reader, put_text};

const HAS_FN_DSA: u8 = 1;
const WAS_REPLACED: u8 = 2;
const IN_EMERGENCY: u8 = 4;

/// An agent on its way.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Agent {
    name: AgentName,
    state: AgentState,
    revoked_at_ms: u64,
    settings: MailboxSettings,
    lower: LowerRetention,
    versions: Vec<KeyVersion>,
    /// `None`: those of an agent for which none are set.
    attributes: Option<Attributes>,
}

/// Appends an agent.
///
/// ```text
///  0 u8 name_bytes | 1 u8 state | 2 u16 versions | 4 u32 attributes_bytes (0: none are set) | 8 u64 revoked_at_ms
/// 16 u32 retention_s | 20 u32 messages_max | 24 u64 bytes_max | 32 u8 max_deliveries | 33 u8 which of these four are set | 34 [2] zero
/// 36 u32 lower retention_s | 40 u64 lower until_ms | 48 name | versions, 48 bytes each | attributes
/// ```
#[allow(clippy::cast_possible_truncation, reason = "a name has 128 bytes at most, and versions are bounded")]
pub(crate) fn put(principal: &Principal, out: &mut Vec<u8>) {
    let (name, settings, lower) = (principal.name(), principal.mailbox_settings(), principal.lower_retention());
    let versions: Vec<_> = principal.versions().collect();
    // The newest ones: a directory holds no more than that.
    let versions = &versions[versions.len().saturating_sub(VERSIONS_MAX)..];
    let mut attributes = Vec::new();
    if **principal.attributes() != Attributes::default() {
        put_attributes(principal.attributes(), &mut attributes);
    }
    let set = [
        settings.retention_s.is_some(),
        settings.messages_max.is_some(),
        settings.bytes_max.is_some(),
        settings.max_deliveries.is_some(),
    ];
    let which = set.iter().rev().fold(0, |bits, is_set| bits << 1 | u8::from(*is_set));
    out.extend_from_slice(&[name.as_str().len() as u8, principal.state() as u8]);
    out.extend_from_slice(&(versions.len() as u16).to_le_bytes());
    out.extend_from_slice(&(attributes.len() as u32).to_le_bytes());
    out.extend_from_slice(&principal.revoked_at_ms().unwrap_or(0).to_le_bytes());
    out.extend_from_slice(&settings.retention_s.unwrap_or(0).to_le_bytes());
    out.extend_from_slice(&settings.messages_max.unwrap_or(0).to_le_bytes());
    out.extend_from_slice(&settings.bytes_max.unwrap_or(0).to_le_bytes());
    out.extend_from_slice(&[settings.max_deliveries.unwrap_or(0), which, 0, 0]);
    out.extend_from_slice(&lower.retention_s.to_le_bytes());
    out.extend_from_slice(&lower.until_ms.to_le_bytes());
    out.extend_from_slice(name.as_str().as_bytes());
    for version in versions {
        put_version(version, out);
    }
    out.extend_from_slice(&attributes);
}

/// ```text
/// 0 u32 version | 4 u8 flags (1 third signature, 2 replaced, 4 in an emergency) | 5 [3] zero | 8 [16] key id
/// 24 u64 valid_from_ms | 32 u64 valid_until_ms | 40 u64 replaced_at_ms
/// ```
fn put_version(version: &KeyVersion, out: &mut Vec<u8>) {
    let replaced = match version.replaced {
        None => 0,
        Some(Replacement { mode: RotationMode::Planned, .. }) => WAS_REPLACED,
        Some(Replacement { mode: RotationMode::Emergency, .. }) => WAS_REPLACED | IN_EMERGENCY,
    };
    out.extend_from_slice(&version.version.to_le_bytes());
    out.extend_from_slice(&[replaced | if version.has_fn_dsa_512 { HAS_FN_DSA } else { 0 }, 0, 0, 0]);
    out.extend_from_slice(&version.key.0);
    out.extend_from_slice(&version.valid_from_ms.to_le_bytes());
    out.extend_from_slice(&version.valid_until_ms.to_le_bytes());
    out.extend_from_slice(&version.replaced.map_or(0, |replaced| replaced.at_ms).to_le_bytes());
}

/// `u16 roles | u16 capabilities`, and then the type, the roles and the capabilities, each behind its length as u16.
#[allow(clippy::cast_possible_truncation, reason = "both have limits far below 64 Ki")]
fn put_attributes(attributes: &Attributes, out: &mut Vec<u8>) {
    out.extend_from_slice(&(attributes.roles().len() as u16).to_le_bytes());
    out.extend_from_slice(&(attributes.capabilities().len() as u16).to_le_bytes());
    put_text(out, attributes.agent_type());
    attributes.roles().iter().chain(attributes.capabilities()).for_each(|text| put_text(out, text));
}

impl Agent {
    pub(crate) fn take(reader: &mut Reader<'_>) -> Result<Self, LinkError> {
        let (name_bytes, state) = (usize::from(reader.u8()?), reader.u8()?);
        let state = AgentState::from_u8(state).ok_or(LinkError::Value)?;
        let (version_count, attributes_bytes) = (usize::from(reader.u16()?), reader.u32()? as usize);
        if version_count > VERSIONS_MAX || attributes_bytes > ATTRIBUTES_MAX {
            return Err(LinkError::Length);
        }
        let revoked_at_ms = reader.u64()?;
        let (retention_s, messages_max, bytes_max) = (reader.u32()?, reader.u32()?, reader.u64()?);
        let (max_deliveries, which) = (reader.u8()?, reader.u8()?);
        reader.zeros(2)?;
        if which >= 16 {
            return Err(LinkError::NotZero);
        }
        let is_set = |bit: u8| which & 1 << bit != 0;
        let settings = MailboxSettings {
            retention_s: is_set(0).then_some(retention_s),
            messages_max: is_set(1).then_some(messages_max),
            bytes_max: is_set(2).then_some(bytes_max),
            max_deliveries: is_set(3).then_some(max_deliveries),
        };
        settings.check().map_err(|_| LinkError::Value)?;
        let lower = LowerRetention { retention_s: reader.u32()?, until_ms: reader.u64()? };
        let name = AgentName::parse(reader.text(name_bytes)?).map_err(|_| LinkError::Value)?;
        let versions = (0..version_count).map(|_| take_version(reader)).collect::<Result<_, _>>()?;
        let attributes = match attributes_bytes {
            0 => None,
            bytes => Some(take_attributes(reader.take(bytes)?)?),
        };
        Ok(Self { name, state, revoked_at_ms, settings, lower, versions, attributes })
    }

    /// Puts the agent into what the next snapshot is made of, in place of the one with its id.
    pub(crate) fn put_into(
        self,
        builder: &mut SnapshotBuilder,
        trust_domain: &TrustDomain,
    ) -> Result<AgentId, PrincipalError> {
        let agent = builder.insert_versions(trust_domain, &self.name, self.state, self.versions)?;
        if self.state == AgentState::Revoked {
            builder.revoke(&agent, self.revoked_at_ms);
        }
        builder.set_mailbox(&agent, self.settings, self.lower);
        builder.set_attributes(&agent, Arc::new(self.attributes.unwrap_or_default()));
        Ok(agent)
    }
}

fn take_version(reader: &mut Reader<'_>) -> Result<KeyVersion, LinkError> {
    let (version, flags) = (reader.u32()?, reader.u8()?);
    reader.zeros(3)?;
    let (key, valid_from_ms, valid_until_ms) = (KeyId(reader.array()?), reader.u64()?, reader.u64()?);
    let at_ms = reader.u64()?;
    let replaced = match flags & !HAS_FN_DSA {
        0 if at_ms == 0 => None,
        WAS_REPLACED => Some(Replacement { at_ms, mode: RotationMode::Planned }),
        flags if flags == WAS_REPLACED | IN_EMERGENCY => Some(Replacement { at_ms, mode: RotationMode::Emergency }),
        _ => return Err(LinkError::Value),
    };
    let has_fn_dsa_512 = flags & HAS_FN_DSA != 0;
    Ok(KeyVersion { version, key, valid_from_ms, valid_until_ms, has_fn_dsa_512, replaced })
}

fn take_attributes(bytes: &[u8]) -> Result<Attributes, LinkError> {
    let mut reader = Reader::new(bytes);
    let (roles, capabilities) = (usize::from(reader.u16()?), usize::from(reader.u16()?));
    if roles > ROLES_MAX || capabilities > CAPABILITIES_MAX {
        return Err(LinkError::Length);
    }
    let mut text = || {
        let bytes = usize::from(reader.u16()?);
        reader.text(bytes)
    };
    let agent_type = text()?;
    let roles = (0..roles).map(|_| text()).collect::<Result<Vec<_>, _>>()?;
    let capabilities = (0..capabilities).map(|_| text()).collect::<Result<Vec<_>, _>>()?;
    reader.end()?;
    Attributes::parse(agent_type, roles, capabilities).map_err(|_| LinkError::Value)
}
