//! The edge cases of "Taming the many EdDSAs" (Chalkias, Garillot, Nikolaenko 2020), from ed25519-speccheck.

use ed25519_dalek::{Signature, VerifyingKey};

use super::{array, bytes, json, with_file};
use crate::keys::KeyError;
use crate::verify::VerifyingKeys;

/// What the authors document for `verify_strict` of ed25519-dalek: only case 3 passes (key and R of mixed order, but the
/// equation holds without the cofactor).
const STRICT: [bool; 12] = [false, false, false, true, false, false, false, false, false, false, false, false];

/// Why registration refuses each case's key; the keys of cases 6 and 7 are good ones, their signatures have s >= L.
const REGISTRATION: [Option<KeyError>; 12] = {
    let mut verdicts = [Some(KeyError::Ed25519Order); 12];
    verdicts[6] = None;
    verdicts[7] = None;
    verdicts[10] = Some(KeyError::Ed25519Encoding);
    verdicts[11] = Some(KeyError::Ed25519Encoding);
    verdicts
};

#[test]
fn strict_verification_is_as_documented_and_no_case_passes_with_an_admitted_key() {
    let ml_dsa_65 = crate::sign::SigningKeys::from_seeds(&[0; 32], &[0; 32]).public().ml_dsa_65;
    with_file("ed25519-speccheck/cases.json", 12, |text| {
        let cases = json(text);
        let cases = cases.as_array().unwrap();
        assert_eq!(cases.len(), STRICT.len());
        for (number, case) in cases.iter().enumerate() {
            let (public, message) = (array(case, "pub_key"), bytes(case, "message"));
            let signature = Signature::from_bytes(&array(case, "signature"));
            let key = VerifyingKey::from_bytes(&public).unwrap();
            let strict = key.verify_strict(&message, &signature).is_ok();
            assert_eq!(strict, STRICT[number], "strict verdict of case {number}");
            match VerifyingKeys::parse(&public, &ml_dsa_65) {
                Err(refused) => assert_eq!(Some(refused), REGISTRATION[number], "registration of case {number}"),
                Ok(keys) => {
                    assert_eq!(REGISTRATION[number], None, "registration of case {number}");
                    let batch = ed25519_dalek::verify_batch(&[&message], &[signature], &[key]).is_ok();
                    assert!(!batch && !keys.ed25519_holds(&message, &signature.to_bytes()), "case {number}");
                }
            }
        }
        cases.len()
    });
}
