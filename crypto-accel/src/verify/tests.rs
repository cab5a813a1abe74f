use super::*;
use crate::portable::sign_deterministic;
use crate::sign::{HybridSignature, SigningKeys};

const STATEMENT: &[u8] = b"\x0ecreto/batch/v1 and eighty bytes of statement";

fn signer(backend: Backend, seed: u8) -> SigningKeys {
    SigningKeys::with_backend(backend, &[seed; 32], &[seed ^ 0xff; 32])
}

fn verifier(backend: Backend, signer: &SigningKeys) -> VerifyingKeys {
    let public = signer.public();
    VerifyingKeys::with_backend(backend, &public.ed25519, &public.ml_dsa_65).unwrap()
}

fn item<'a>(keys: &'a VerifyingKeys, statement: &'a [u8], signature: &'a HybridSignature) -> Item<'a> {
    Item { keys, statement, ed25519: &signature.ed25519, ml_dsa_65: &signature.ml_dsa_65 }
}

fn both_ways(check: impl Fn(Backend, Backend)) {
    for signer in Backend::ALL {
        for verifier in Backend::ALL {
            check(signer, verifier);
        }
    }
}

#[test]
fn what_either_backend_signs_either_verifies() {
    both_ways(|signing, verifying| {
        let signer = signer(signing, 1);
        let keys = verifier(verifying, &signer);
        for statement in [b"".as_slice(), STATEMENT, &[0; 5000]] {
            let signature = signer.sign(statement);
            assert_eq!(item(&keys, statement, &signature).verify(), Ok(()));
        }
    });
}

#[test]
fn a_seed_gives_the_same_public_keys_in_both_backends() {
    for seed in 0..8 {
        let [a, b] = Backend::ALL.map(|backend| signer(backend, seed));
        assert_eq!(a.public(), b.public());
    }
}

#[test]
fn portable_signatures_are_the_same_every_time_and_hedged_ones_are_not() {
    let portable = signer(Backend::Portable, 1);
    assert_eq!(portable.sign(STATEMENT), portable.sign(STATEMENT));
    assert_eq!(portable.sign(STATEMENT), sign_deterministic(&[1; 32], &[0xfe; 32], STATEMENT));
    let hedged = signer(Backend::AwsLc, 1);
    assert_ne!(hedged.sign(STATEMENT).ml_dsa_65, hedged.sign(STATEMENT).ml_dsa_65);
    assert_eq!(hedged.sign(STATEMENT).ed25519, portable.sign(STATEMENT).ed25519);
}

#[test]
fn each_half_must_hold_by_itself() {
    both_ways(|signing, verifying| {
        let (signer, other) = (signer(signing, 1), signer(signing, 2));
        let keys = verifier(verifying, &signer);
        let (good, foreign) = (signer.sign(STATEMENT), other.sign(STATEMENT));
        assert_eq!(keys.verify(STATEMENT, &foreign.ed25519, &good.ml_dsa_65), Err(SignatureError::Ed25519));
        assert_eq!(keys.verify(STATEMENT, &good.ed25519, &foreign.ml_dsa_65), Err(SignatureError::MlDsa65));
        assert_eq!(keys.verify(b"another", &good.ed25519, &good.ml_dsa_65), Err(SignatureError::Ed25519));
        let signed_other = signer.sign(b"another");
        assert_eq!(keys.verify(STATEMENT, &good.ed25519, &signed_other.ml_dsa_65), Err(SignatureError::MlDsa65));
    });
}

#[test]
fn every_flipped_bit_of_a_signature_is_found() {
    both_ways(|signing, verifying| {
        let signer = signer(signing, 1);
        let keys = verifier(verifying, &signer);
        let good = signer.sign(STATEMENT);
        for byte in 0..ED25519_SIGNATURE_BYTES {
            let mut bad = good.clone();
            bad.ed25519[byte] ^= 1 << (byte % 8);
            assert_eq!(item(&keys, STATEMENT, &bad).verify(), Err(SignatureError::Ed25519));
        }
        // The commitment, the response, and the hints with their trailing zeros: a stride that meets all of them.
        for byte in (0..48).chain((48..ML_DSA_65_SIGNATURE_BYTES - 61).step_by(61)).chain(3248..3309) {
            let mut bad = good.clone();
            bad.ml_dsa_65[byte] ^= 1 << (byte % 8);
            assert_eq!(item(&keys, STATEMENT, &bad).verify(), Err(SignatureError::MlDsa65), "byte {byte}");
        }
    });
}

/// Small order, mixed order, and encodings that are not canonical.
#[test]
fn keys_outside_the_prime_order_group_are_refused() {
    let ml_dsa_65 = signer(Backend::AwsLc, 1).public().ml_dsa_65;
    let refused = |ed25519: [u8; 32]| VerifyingKeys::parse(&ed25519, &ml_dsa_65).map(|_| ()).unwrap_err();
    for torsion in curve25519_dalek::constants::EIGHT_TORSION {
        assert_eq!(refused(torsion.compress().to_bytes()), KeyError::Ed25519Order);
    }
    let prime_order = curve25519_dalek::constants::ED25519_BASEPOINT_POINT;
    for torsion in &curve25519_dalek::constants::EIGHT_TORSION[1..] {
        assert_eq!(refused((prime_order + torsion).compress().to_bytes()), KeyError::Ed25519Order);
    }
    // y = p, p + 1 and the sign bit on a zero x: points that have another, canonical encoding.
    for encoding in [
        "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
        "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
        "0100000000000000000000000000000000000000000000000000000000000080",
    ] {
        let bytes = hex::decode(encoding).unwrap().try_into().unwrap();
        assert_eq!(refused(bytes), KeyError::Ed25519Encoding, "{encoding}");
    }
    // y = 2 is not on the curve.
    let mut off_curve = [0; 32];
    off_curve[0] = 2;
    assert_eq!(refused(off_curve), KeyError::Ed25519Encoding);
}

/// A signature that only the holder of an honest, admitted key can make: R carries a point of order 8. It satisfies the
/// equation of RFC 8032 with the cofactor, not the one without.
fn sign_with_torsion(seed: &[u8; 32], statement: &[u8], torsion: usize) -> [u8; ED25519_SIGNATURE_BYTES] {
    use curve25519_dalek::constants::{ED25519_BASEPOINT_POINT, EIGHT_TORSION};
    use curve25519_dalek::scalar::Scalar;
    use sha2::{Digest, Sha512};
    let key = ed25519_dalek::SigningKey::from_bytes(seed);
    let nonce = Scalar::from(7_777_777u64);
    let commitment = (ED25519_BASEPOINT_POINT * nonce + EIGHT_TORSION[torsion]).compress().to_bytes();
    let hash = Sha512::new().chain_update(commitment).chain_update(key.verifying_key()).chain_update(statement);
    let challenge = Scalar::from_bytes_mod_order_wide(&hash.finalize().into());
    let response = nonce + challenge * key.to_scalar();
    [commitment, response.to_bytes()].concat().try_into().unwrap()
}

#[test]
fn a_signature_with_torsion_is_refused_in_every_company_where_batch_verification_would_take_some() {
    let signer = signer(Backend::AwsLc, 1);
    let keys = verifier(Backend::AwsLc, &signer);
    let mut taken_by_batch = 0;
    for number in 0..64u32 {
        let statement = number.to_le_bytes();
        let ml_dsa_65 = signer.sign(&statement).ml_dsa_65;
        assert!(keys.ed25519_holds(&statement, &sign_with_torsion(&[1; 32], &statement, 0)), "the maker is right");
        // Order 2: a batch multiplies it by a random number, which is even every other time.
        let ed25519 = sign_with_torsion(&[1; 32], &statement, 4);
        let lone = Item { keys: &keys, statement: &statement, ed25519: &ed25519, ml_dsa_65: &ml_dsa_65 };
        assert_eq!(lone.verify(), Err(SignatureError::Ed25519));
        assert_eq!(verify_turn(&[lone; 3]), [Err(SignatureError::Ed25519); 3]);
        let signature = ed25519_dalek::Signature::from_bytes(&ed25519);
        taken_by_batch += u32::from(ed25519_dalek::verify_batch(&[&statement], &[signature], &[keys.ed25519]).is_ok());
    }
    // The reason why no batch verification is used here. Should dalek ever refuse them all, it can be.
    assert!((8..56).contains(&taken_by_batch), "batch verification took {taken_by_batch} of 64");
}

#[test]
fn verdicts_of_a_turn_are_the_verdicts_one_by_one() {
    let signers: Vec<_> = (0..4).map(|seed| signer(Backend::AwsLc, seed)).collect();
    let keys: Vec<_> = signers.iter().map(|signer| verifier(Backend::AwsLc, signer)).collect();
    let mut signatures: Vec<_> = (0..12).map(|i| signers[i % 4].sign(STATEMENT)).collect();
    signatures[3].ed25519[1] ^= 1;
    signatures[8].ml_dsa_65[100] ^= 1;
    let items: Vec<_> = signatures.iter().enumerate().map(|(i, s)| item(&keys[i % 4], STATEMENT, s)).collect();
    let mut expected = vec![Ok(()); 12];
    expected[3] = Err(SignatureError::Ed25519);
    expected[8] = Err(SignatureError::MlDsa65);
    assert_eq!(verify_turn(&items), expected);
    assert_eq!(items.iter().map(Item::verify).collect::<Vec<_>>(), expected);
    let mut cache = RootCache::new(16);
    assert_eq!(cache.verify_turn(&items), expected);
    assert_eq!(cache.verify_turn(&items), expected);
    assert_eq!(verify_turn(&[]), []);
}

/// What can be wrong with one root of a turn.
const WRONGS: [fn(&mut HybridSignature); 4] = [
    |signature| signature.ed25519[0] ^= 1,
    |signature| signature.ed25519[63] ^= 0x80,
    |signature| signature.ml_dsa_65[0] ^= 1,
    |signature| signature.ml_dsa_65[3308] ^= 1,
];

#[test]
fn one_bad_signature_at_any_place_of_a_turn_gives_that_verdict_and_no_other() {
    let verdicts = [SignatureError::Ed25519, SignatureError::Ed25519, SignatureError::MlDsa65, SignatureError::MlDsa65];
    both_ways(|signing, verifying| {
        let signers: Vec<_> = (0..3).map(|seed| signer(signing, seed)).collect();
        let keys: Vec<_> = signers.iter().map(|signer| verifier(verifying, signer)).collect();
        let statements: Vec<[u8; 80]> = (0..16).map(|number| [number; 80]).collect();
        let honest: Vec<_> = statements.iter().enumerate().map(|(i, s)| signers[i % 3].sign(s)).collect();
        for turn in [1, 2, 3, 16] {
            for place in 0..turn {
                for (spoil, verdict) in WRONGS.iter().zip(verdicts) {
                    let mut signatures = honest[..turn].to_vec();
                    spoil(&mut signatures[place]);
                    let items: Vec<_> = (0..turn).map(|i| item(&keys[i % 3], &statements[i], &signatures[i])).collect();
                    let mut expected = vec![Ok(()); turn];
                    expected[place] = Err(verdict);
                    assert_eq!(verify_turn(&items), expected, "place {place} of {turn}");
                    assert_eq!(items.iter().map(Item::verify).collect::<Vec<_>>(), expected);
                    // Once as something new, once from memory.
                    let mut cache = RootCache::new(16);
                    assert_eq!(cache.verify_turn(&items), expected);
                    assert_eq!(cache.verify_turn(&items), expected);
                }
            }
        }
    });
}

#[test]
fn nothing_secret_is_printed() {
    for backend in Backend::ALL {
        let signer = signer(backend, 1);
        let public = format!("{:?}", signer.public());
        assert_eq!(format!("{signer:?}"), format!("SigningKeys {{ public: {public}, .. }}"));
    }
}

#[test]
fn keys_can_be_moved_to_the_worker_that_uses_them() {
    fn assert_send_and_sync<T: Send + Sync>() {}
    assert_send_and_sync::<SigningKeys>();
    assert_send_and_sync::<VerifyingKeys>();
    assert_send_and_sync::<crate::seal::RecipientKey>();
    assert_send_and_sync::<crate::seal::RecipientSecret>();
}
