//! Making prekeys: the public half of a seed, and a batch of them, signed once.

use creto_crypto_accel::merkle::{Tree, leaf_hash};
use creto_crypto_accel::seal::RecipientSecret;
use creto_crypto_accel::sign::HybridSignature;
use creto_envelope::prekeys::{Prekey, PrekeyBatch, PrekeyKind, PrekeySignature};

use crate::keys::AgentKeys;

/// The public half of the prekey that follows from `seed`. About 20 us.
pub(crate) fn prekey(kind: PrekeyKind, seed: &[u8; 32]) -> Prekey {
    let secret = RecipientSecret::from_seed(seed);
    let public = secret.public();
    Prekey { kind, x25519: public.x25519, ml_kem_768: Box::new(public.ml_kem_768) }
}

/// Signs prekeys for this version of the agent's key record: once, whatever their number. About 0.2 ms.
pub(crate) fn sign(keys: &AgentKeys, version: u32, prekeys: Vec<Prekey>, signed_at_ms: u64) -> PrekeyBatch {
    let leaves: Vec<_> = prekeys.iter().map(|prekey| leaf_hash(&prekey.id(version).0, &prekey.to_bytes())).collect();
    let mut tree = Tree::new();
    tree.rebuild(&leaves);
    let mut signature = PrekeySignature {
        key_record_version: version,
        signed_at_ms,
        ed25519: [0; 64],
        ml_dsa_65: Box::new([0; 3_309]),
    };
    let statement = signature.statement(keys.id(), tree.size(), tree.root());
    let HybridSignature { ed25519, ml_dsa_65 } = keys.sign(&statement.to_bytes());
    (signature.ed25519, signature.ml_dsa_65) = (ed25519, ml_dsa_65);
    PrekeyBatch { agent: keys.id(), signature, prekeys }
}
