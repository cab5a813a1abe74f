//! NIST's ACVP vectors of ML-DSA-65 (FIPS 204) and ML-KEM-768 (FIPS 203).
//!
//! The signature files are for the internal interface of FIPS 204 section 6 (no context prefix), which neither our API
//! nor aws-lc-rs has: they test the `ml-dsa` crate, which is the engine of the portable backend, directly, and that crate
//! is the oracle of the other one. What the engine signs with NIST's keys and NIST's randomness for the external, pure
//! interface with the empty context (algorithm 2 puts two zeros before the message) is then verified by both backends.
//! Of the forged signatures, aws-lc must refuse every one as well.

use ml_dsa::MlDsa65;
use serde_json::Value;

use super::{array, bytes, json, with_file};
use crate::Backend;
use crate::backend::{ExpandedSeed, aws_lc, portable};
use crate::sign::SigningKeys;
use crate::verify::VerifyingKeys;

/// What algorithm 2 of FIPS 204 puts before the message: pure, and no byte of context.
const EMPTY_CONTEXT: [u8; 2] = [0, 0];

/// Runs `check` on every case of the groups of `parameter_set`; true means that the case counts.
fn each_case(text: &str, parameter_set: &str, mut check: impl FnMut(&Value, &Value) -> bool) -> usize {
    let file = json(text);
    let groups = file["testGroups"].as_array().unwrap().iter().filter(|g| g["parameterSet"] == parameter_set);
    groups.map(|g| g["tests"].as_array().unwrap().iter().filter(|case| check(g, case)).count()).sum()
}

#[test]
fn ml_dsa_65_keys_are_those_of_nist_in_both_backends() {
    with_file("acvp/ML-DSA-keyGen-FIPS204.json", 25, |text| {
        each_case(text, "ML-DSA-65", |_, case| {
            for backend in Backend::ALL {
                let keys = SigningKeys::with_backend(backend, &[0; 32], &array(case, "seed"));
                assert_eq!(keys.public().ml_dsa_65, array(case, "pk"));
            }
            true
        })
    });
}

/// Ties our interface to the internal one, on which the other files of NIST are: deterministic signatures are equal bit by
/// bit, hedged ones hold.
#[test]
fn signing_is_the_internal_interface_after_two_zeros_for_every_key_of_nist() {
    with_file("acvp/ML-DSA-keyGen-FIPS204.json", 25, |text| {
        each_case(text, "ML-DSA-65", |_, case| {
            let seed = array(case, "seed");
            let signers = Backend::ALL.map(|backend| SigningKeys::with_backend(backend, &[0; 32], &seed));
            let engine = ml_dsa::SigningKey::<MlDsa65>::from_seed((&seed).into());
            let message = bytes(case, "pk");
            let expected = engine.expanded_key().sign_internal(&[&EMPTY_CONTEXT, &message], (&[0; 32]).into());
            assert_eq!(signers[1].sign(&message).ml_dsa_65.as_slice(), expected.encode().as_slice());
            for signer in &signers {
                let signature = signer.sign(&message);
                for backend in Backend::ALL {
                    let public = signer.public();
                    let keys = VerifyingKeys::with_backend(backend, &public.ed25519, &public.ml_dsa_65).unwrap();
                    assert_eq!(keys.verify(&message, &signature.ed25519, &signature.ml_dsa_65), Ok(()));
                }
                let decoded = ml_dsa::Signature::decode((&*signature.ml_dsa_65).into()).unwrap();
                let internal = [&EMPTY_CONTEXT, message.as_slice()].concat();
                assert!(engine.expanded_key().verifying_key().verify_internal(&internal, &decoded));
            }
            true
        })
    });
}

#[test]
#[allow(deprecated, reason = "the vectors give expanded keys, not seeds")]
fn ml_dsa_65_signatures_are_those_of_nist() {
    with_file("acvp/ML-DSA-sigGen-FIPS204.json", 20, |text| {
        each_case(text, "ML-DSA-65", |group, case| {
            let key = ml_dsa::ExpandedSigningKey::<MlDsa65>::from_expanded((&array::<4032>(case, "sk")).into());
            let random: [u8; 32] = match group["deterministic"].as_bool().unwrap() {
                true => [0; 32],
                false => array(case, "rnd"),
            };
            let signature = key.sign_internal(&[&bytes(case, "message")], (&random).into());
            assert_eq!(signature.encode().as_slice(), bytes(case, "signature"));
            // The same key, message and randomness through the external interface.
            let public: [u8; 1952] = key.verifying_key().encode().into();
            let message = bytes(case, "message");
            let signature = key.sign_internal(&[&EMPTY_CONTEXT, &message], (&random).into()).encode().into();
            assert!(aws_lc::MlDsaVerifier::parse(&public).unwrap().verify(&message, &signature));
            assert!(portable::MlDsaVerifier::parse(&public).unwrap().verify(&message, &signature));
            true
        })
    });
}

#[test]
fn ml_dsa_65_verdicts_are_those_of_nist() {
    with_file("acvp/ML-DSA-sigVer-FIPS204.json", 15, |text| {
        each_case(text, "ML-DSA-65", |group, case| {
            let (public, signature) = (array(group, "pk"), array::<3309>(case, "signature"));
            let message = bytes(case, "message");
            let expected = case["testPassed"].as_bool().unwrap();
            let key = ml_dsa::VerifyingKey::<MlDsa65>::decode((&public).into());
            let found = ml_dsa::Signature::decode((&signature).into())
                .is_some_and(|signature| key.verify_internal(&message, &signature));
            assert_eq!(found, expected, "{}", case["reason"]);
            if !expected {
                assert!(!aws_lc::MlDsaVerifier::parse(&public).unwrap().verify(&message, &signature));
                assert!(!portable::MlDsaVerifier::parse(&public).unwrap().verify(&message, &signature));
            }
            true
        })
    });
}

#[test]
fn ml_kem_768_keys_are_those_of_nist() {
    with_file("acvp/ML-KEM-keyGen-FIPS203.json", 25, |text| {
        each_case(text, "ML-KEM-768", |_, case| {
            let expanded = expanded_seed(case);
            assert_eq!(portable::recipient_public(&expanded).ml_kem_768, array(case, "ek"));
            assert_eq!(portable::expanded_ml_kem_key(&expanded).as_slice(), bytes(case, "dk"));
            true
        })
    });
}

#[test]
fn ml_kem_768_secrets_are_those_of_nist_in_both_backends() {
    with_file("acvp/ML-KEM-encapDecap-FIPS203.json", 35, |text| {
        each_case(text, "ML-KEM-768", |group, case| {
            let (ciphertext, shared): ([u8; 1088], [u8; 32]) = (array(case, "c"), array(case, "k"));
            let decapsulating = group["function"] == "decapsulation";
            let holder = if decapsulating { group } else { case };
            assert_eq!(decapsulate_with_both(&array(holder, "dk"), &ciphertext), [shared; 2], "{}", case["reason"]);
            if !decapsulating {
                let key = portable::parse_ml_kem_key(&array(case, "ek")).unwrap();
                let (found, secret) = key.encapsulate_deterministic((&array::<32>(case, "m")).into());
                assert_eq!((found.as_slice(), secret.as_slice()), (ciphertext.as_slice(), shared.as_slice()));
            }
            true
        })
    });
}

/// d || z; the X25519 half plays no part.
fn expanded_seed(case: &Value) -> ExpandedSeed {
    let ml_kem = [bytes(case, "d"), bytes(case, "z")].concat();
    ExpandedSeed { ml_kem: ml_kem.try_into().unwrap(), x25519: [1; 32] }
}

/// These vectors give expanded keys, so they go straight to the two engines.
#[allow(deprecated, reason = "the vectors give expanded keys, not seeds")]
pub(super) fn decapsulate_with_both(key: &[u8; 2400], ciphertext: &[u8; 1088]) -> [[u8; 32]; 2] {
    use aws_lc_rs::kem::{DecapsulationKey, ML_KEM_768};
    use ml_kem::kem::Decapsulate;
    let portable = ml_kem::DecapsulationKey::<ml_kem::MlKem768>::from_expanded(key.into()).unwrap();
    let aws_lc = DecapsulationKey::new(&ML_KEM_768, key).unwrap();
    let secret = aws_lc.decapsulate(ciphertext.as_slice().into()).unwrap();
    [secret.as_ref().try_into().unwrap(), portable.decapsulate(ciphertext.into()).into()]
}
