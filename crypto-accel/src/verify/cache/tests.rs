use super::*;
use crate::sign::SigningKeys;
use crate::verify::VerifyingKeys;

struct Signed {
    keys: VerifyingKeys,
    signature: crate::sign::HybridSignature,
}

impl Signed {
    fn new(seed: u8) -> Self {
        let signer = SigningKeys::from_seeds(&[seed; 32], &[seed; 32]);
        let public = signer.public();
        let keys = VerifyingKeys::parse(&public.ed25519, &public.ml_dsa_65).unwrap();
        Self { keys, signature: signer.sign(b"statement") }
    }

    fn item<'a>(&'a self, statement: &'a [u8]) -> Item<'a> {
        Item { keys: &self.keys, statement, ed25519: &self.signature.ed25519, ml_dsa_65: &self.signature.ml_dsa_65 }
    }
}

#[test]
fn good_and_bad_verdicts_are_remembered() {
    let signed = Signed::new(1);
    let mut cache = RootCache::new(4);
    for _ in 0..3 {
        assert_eq!(cache.verify(&signed.item(b"statement")), Ok(()));
        assert_eq!(cache.verify(&signed.item(b"forged")), Err(SignatureError::Ed25519));
        assert_eq!(cache.len(), 2);
    }
}

#[test]
fn a_verdict_counts_only_for_the_keys_statement_and_signatures_it_was_made_on() {
    let (signed, other) = (Signed::new(1), Signed::new(2));
    let mut cache = RootCache::new(8);
    assert_eq!(cache.verify(&signed.item(b"statement")), Ok(()));
    let good = signed.item(b"statement");
    let mut ed25519 = *good.ed25519;
    ed25519[63] ^= 1;
    let mut ml_dsa_65 = *good.ml_dsa_65;
    ml_dsa_65[3308] ^= 1;
    assert_eq!(cache.verify(&Item { keys: &other.keys, ..good }), Err(SignatureError::Ed25519));
    assert_eq!(cache.verify(&Item { statement: b"statemenu", ..good }), Err(SignatureError::Ed25519));
    assert_eq!(cache.verify(&Item { ed25519: &ed25519, ..good }), Err(SignatureError::Ed25519));
    assert_eq!(cache.verify(&Item { ml_dsa_65: &ml_dsa_65, ..good }), Err(SignatureError::MlDsa65));
    assert_eq!(cache.len(), 5);
}

#[test]
fn a_flood_of_bad_roots_pushes_out_no_good_one_and_memory_stays_bounded() {
    let signed = Signed::new(1);
    let mut cache = RootCache::new(3);
    cache.verify(&signed.item(b"statement")).unwrap();
    let good = cache_key(&signed.item(b"statement"));
    for number in 0..50u32 {
        assert!(cache.verify(&signed.item(&number.to_le_bytes())).is_err());
        assert!(cache.len() <= 4);
    }
    assert_eq!(cache.verdicts.get(&good), Some(&Ok(())));
    // The oldest went first: exactly the last three bad ones are left.
    for number in 47..50u32 {
        assert!(cache.verdicts.contains_key(&cache_key(&signed.item(&number.to_le_bytes()))));
    }
}
