//! Agents and a log's keys, for the tests.

use creto_audit::LogKeys;
use creto_crypto_accel::seal::RecipientSecret;
use creto_crypto_accel::sign::SigningKeys;
use creto_envelope::{AgentName, AgentState, KeyRecord, TrustDomain};

use crate::head::origin_beside;

pub(crate) const AUDIT_ORIGIN: &str = "creto.local/creto-audit/node-1";

/// The keys of a node's audit log.
pub(crate) fn audit_keys() -> LogKeys {
    LogKeys::from_seeds(AUDIT_ORIGIN, &[1; 32], &[2; 32]).unwrap()
}

/// Those of its key log.
pub(crate) fn keys() -> LogKeys {
    audit_keys().of_log(&origin_beside(AUDIT_ORIGIN)).unwrap()
}

/// The first record of `name`, with keys that follow from `seed`.
pub(crate) fn record(name: &str, seed: u8) -> KeyRecord {
    let signing = SigningKeys::from_seeds(&[seed; 32], &[seed; 32]);
    let recipient = RecipientSecret::from_seed(&[seed; 32]);
    KeyRecord {
        version: 1,
        state: AgentState::Active,
        valid_from_ms: 1_000,
        valid_until_ms: 4_102_444_800_000,
        ed25519: signing.public().ed25519,
        x25519: recipient.public().x25519,
        ml_dsa_65: Box::new(signing.public().ml_dsa_65),
        ml_kem_768: Box::new(recipient.public().ml_kem_768),
        name: AgentName::parse(name).unwrap(),
        trust_domain: TrustDomain::default(),
        fn_dsa_512: None,
        purpose: None,
    }
}

/// The next version, with another encryption key.
pub(crate) fn rotated(before: &KeyRecord, seed: u8) -> KeyRecord {
    let recipient = RecipientSecret::from_seed(&[seed; 32]);
    KeyRecord {
        version: before.version + 1,
        x25519: recipient.public().x25519,
        ml_kem_768: Box::new(recipient.public().ml_kem_768),
        ..before.clone()
    }
}
