//! Agents with real keys, for the unit tests and for `tests/`.

use std::ops::Range;
use std::sync::OnceLock;

use creto_crypto_accel::merkle::{Tree, leaf_hash};
use creto_crypto_accel::seal::RecipientSecret;
use creto_crypto_accel::sign::SigningKeys;
use creto_envelope::control::RotationMode;
use creto_envelope::key_record::token_binding;
use creto_envelope::prekeys::{Prekey, PrekeyBatch, PrekeyKind, PrekeySignature};
use creto_envelope::{AgentName, AgentState, KeyRecord, Purpose, SignedKeyRecord, TrustDomain};

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
        purpose: None,
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

/// The first record of `name`, signed for the token with this hash.
pub(crate) fn signed_for(name: &str, seed: u8, token_hash: &[u8; 32]) -> SignedKeyRecord {
    let record = record(name, seed);
    let binding = token_binding(token_hash, &record.agent_id());
    sign(KeyRecord { purpose: Some(Purpose::Enrolment(binding)), ..record }, seed)
}

/// The version after `current`, with the signing keys of `signing_seed` and another encryption key; signed to replace the current one
/// in the planned way.
pub(crate) fn next(current: &SignedKeyRecord, signing_seed: u8, encryption_seed: u8) -> SignedKeyRecord {
    // Of its own kind, so that it is none that `record` makes.
    let mut seed = [encryption_seed; 32];
    seed[0] ^= 0x80;
    let recipient = RecipientSecret::from_seed(&seed);
    let record = KeyRecord {
        version: current.record.version + 1,
        x25519: recipient.public().x25519,
        ml_kem_768: Box::new(recipient.public().ml_kem_768),
        purpose: Some(Purpose::Rotation(RotationMode::Planned)),
        ..current.record.clone()
    };
    sign(record, signing_seed)
}

/// The same record, signed to replace the current one in this way.
pub(crate) fn in_mode(mode: RotationMode, signed: &SignedKeyRecord, seed: u8) -> SignedKeyRecord {
    sign(KeyRecord { purpose: Some(Purpose::Rotation(mode)), ..signed.record.clone() }, seed)
}

/// The same record with other signatures: ML-DSA here is hedged.
pub(crate) fn resigned(signed: &SignedKeyRecord, seed: u8) -> SignedKeyRecord {
    sign(signed.record.clone(), seed)
}

/// One-time prekeys of the owner of `record`, each with a share that is its number, and one of last resort if `signed_at_ms`
/// is odd; signed by the keys of `seed`.
pub(crate) fn prekeys(record: &KeyRecord, seed: u8, signed_at_ms: u64, numbers: Range<u64>) -> PrekeyBatch {
    static ML_KEM: OnceLock<Box<[u8; 1_184]>> = OnceLock::new();
    let ml_kem = ML_KEM.get_or_init(|| Box::new(RecipientSecret::from_seed(&[9; 32]).public().ml_kem_768));
    let prekey = |kind, number: u64| {
        let mut x25519 = [9; 32];
        x25519[..8].copy_from_slice(&number.to_le_bytes());
        Prekey { kind, x25519, ml_kem_768: ml_kem.clone() }
    };
    let mut prekeys: Vec<_> = numbers.map(|number| prekey(PrekeyKind::OneTime, number)).collect();
    if signed_at_ms % 2 == 1 {
        prekeys.push(prekey(PrekeyKind::LastResort, signed_at_ms));
    }
    sign_prekeys(record, seed, signed_at_ms, prekeys)
}

pub(crate) fn sign_prekeys(record: &KeyRecord, seed: u8, signed_at_ms: u64, prekeys: Vec<Prekey>) -> PrekeyBatch {
    let leaf = |prekey: &Prekey| leaf_hash(&prekey.id(record.version).0, &prekey.to_bytes());
    let mut tree = Tree::new();
    tree.rebuild(&prekeys.iter().map(leaf).collect::<Vec<_>>());
    let (ed25519, ml_dsa_65) = ([0; 64], Box::new([0; 3_309]));
    let mut signature = PrekeySignature { key_record_version: record.version, signed_at_ms, ed25519, ml_dsa_65 };
    let statement = signature.statement(record.agent_id(), tree.size(), tree.root());
    let signed = signing_keys(seed).sign(&statement.to_bytes());
    (signature.ed25519, signature.ml_dsa_65) = (signed.ed25519, signed.ml_dsa_65);
    PrekeyBatch { agent: record.agent_id(), signature, prekeys }
}
