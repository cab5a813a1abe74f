//! The vectors of draft-connolly-cfrg-xwing-kem, appendix C.

use super::{array, bytes, json, with_file};
use crate::Backend;
use crate::keys::RecipientPublic;
use crate::portable::encapsulate_deterministic;
use crate::seal::RecipientSecret;

#[test]
fn x_wing_is_that_of_the_draft_in_both_backends() {
    with_file("x-wing/test-vectors.json", 3, |text| {
        let cases = json(text);
        let cases = cases.as_array().unwrap();
        for case in cases {
            let public = bytes(case, "pk");
            let (ml_kem_768, x25519) = public.split_at(1184);
            let public =
                RecipientPublic { ml_kem_768: ml_kem_768.try_into().unwrap(), x25519: x25519.try_into().unwrap() };
            let (ciphertext, shared): ([u8; 1120], [u8; 32]) = (array(case, "ct"), array(case, "ss"));
            for backend in Backend::ALL {
                let secret = RecipientSecret::with_backend(backend, &array(case, "seed"));
                assert_eq!(secret.public().ml_kem_768, public.ml_kem_768, "ML-KEM half of the key");
                assert_eq!(secret.public().x25519, public.x25519, "X25519 half of the key");
                assert_eq!(*secret.decapsulate(&ciphertext).unwrap().expose(), shared);
            }
            let (found, secret) = encapsulate_deterministic(&public, &array(case, "eseed")).unwrap();
            assert_eq!(found, ciphertext);
            assert_eq!(*secret.expose(), shared);
        }
        cases.len()
    });
}
