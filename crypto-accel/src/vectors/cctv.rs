//! C2SP's community vectors: intermediate values of ML-KEM-768, and messages that make ML-DSA-65 reject and try again as
//! often as it does on average.
//!
//! The ML-KEM file was made for the draft of FIPS 203: its key generation hashes d alone, where the standard hashes d || k,
//! so its keys are taken as they are and what follows from them is compared.

use serde_json::Value;

use super::acvp::decapsulate_with_both;
use super::{array, json, with_file};
use crate::Backend;
use crate::backend::portable;
use crate::portable::sign_deterministic;
use crate::sign::SigningKeys;
use crate::verify::VerifyingKeys;

#[test]
fn ml_kem_768_from_key_to_secret_is_that_of_cctv_in_both_backends() {
    with_file("cctv/ML-KEM-768-intermediate.txt", 1, |text| {
        // Lines of "name = value"; the values with braces are polynomials, which we do not look into.
        let fields = text.lines().filter_map(|line| line.split_once(" = "));
        let case = Value::Object(fields.map(|(name, value)| (name.to_owned(), value.into())).collect());
        let (ciphertext, shared): ([u8; 1088], [u8; 32]) = (array(&case, "c"), array(&case, "K"));
        let key = portable::parse_ml_kem_key(&array(&case, "ek")).unwrap();
        let (found, secret) = key.encapsulate_deterministic((&array::<32>(&case, "m")).into());
        assert_eq!((found.as_slice(), secret.as_slice()), (ciphertext.as_slice(), shared.as_slice()));
        assert_eq!(decapsulate_with_both(&array(&case, "dk"), &ciphertext), [shared; 2]);
        1
    });
}

#[test]
fn messages_with_many_rejections_are_signed_by_either_backend_and_verified_by_either() {
    with_file("cctv/ML-DSA-65-benchmark.json", 147, |text| {
        let messages = json(text);
        let messages = messages.as_array().unwrap();
        let seeds = ([0; 32], [0; 32]);
        let hedged = SigningKeys::from_seeds(&seeds.0, &seeds.1);
        let public = hedged.public();
        for message in messages {
            let message = message.as_str().unwrap().as_bytes();
            for signature in [hedged.sign(message), sign_deterministic(&seeds.0, &seeds.1, message)] {
                for backend in Backend::ALL {
                    let keys = VerifyingKeys::with_backend(backend, &public.ed25519, &public.ml_dsa_65).unwrap();
                    assert_eq!(keys.verify(message, &signature.ed25519, &signature.ml_dsa_65), Ok(()));
                }
            }
        }
        messages.len()
    });
}
