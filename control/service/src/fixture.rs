//! Agents with real keys, for the unit tests and for `tests/`.

use creto_crypto_accel::seal::RecipientSecret;
use creto_crypto_accel::sign::SigningKeys;
use creto_envelope::{AgentName, AgentState, KeyRecord, SignedKeyRecord, TrustDomain};

/// An end of validity that no clock of a test reaches: the year 2100.
pub(crate) const VALID_UNTIL_MS: u64 = 4_102_444_800_000;

pub(crate) fn signing_keys(seed: u8) -> SigningKeys {
    SigningKeys::from_seeds(&[seed; 32], &[seed; 32])
}

/// The first record of `name`, with keys that follow from `seed`.
pub(crate) fn record(name: &str, seed: u8) -> KeyRecord {
    let signing = signing_keys(seed);
    let recipient = RecipientSecret::from_seed(&[seed; 32]);
    KeyRecord {
        version: 1,
        state: AgentState::Active,
        valid_from_ms: 1_000,
        valid_until_ms: VALID_UNTIL_MS,
        ed25519: signing.public().ed25519,
        x25519: recipient.public().x25519,
        ml_dsa_65: Box::new(signing.public().ml_dsa_65),
        ml_kem_768: Box::new(recipient.public().ml_kem_768),
        name: AgentName::parse(name).expect("a test names agents correctly"),
        trust_domain: TrustDomain::default(),
        fn_dsa_512: None,
    }
}

/// `record`, signed by the keys of `seed`.
pub(crate) fn sign(record: KeyRecord, seed: u8) -> SignedKeyRecord {
    let signature = signing_keys(seed).sign(&record.signed_bytes());
    SignedKeyRecord { record, ed25519: signature.ed25519, ml_dsa_65: signature.ml_dsa_65 }
}

/// The first record of `name`, signed.
pub(crate) fn signed(name: &str, seed: u8) -> SignedKeyRecord {
    sign(record(name, seed), seed)
}

/// The version after `current`, with the signing keys of `signing_seed` and another encryption key.
pub(crate) fn next(current: &SignedKeyRecord, signing_seed: u8, encryption_seed: u8) -> SignedKeyRecord {
    // Of its own kind, so that it is none that `record` makes.
    let mut seed = [encryption_seed; 32];
    seed[0] ^= 0x80;
    let recipient = RecipientSecret::from_seed(&seed);
    let record = KeyRecord {
        version: current.record.version + 1,
        x25519: recipient.public().x25519,
        ml_kem_768: Box::new(recipient.public().ml_kem_768),
        ..current.record.clone()
    };
    sign(record, signing_seed)
}

/// The same record with other signatures: ML-DSA here is hedged.
pub(crate) fn resigned(signed: &SignedKeyRecord, seed: u8) -> SignedKeyRecord {
    sign(signed.record.clone(), seed)
}
