use creto_crypto_accel::keys::KeyError;
use creto_envelope::{AgentState, KeyRecord, RejectCode, TrustDomain};
use proptest::prelude::*;

use super::{Registration, RegistrationError};
use crate::fixture::{VALID_UNTIL_MS, record, sign, signed};

const NOW_MS: u64 = 5_000;

fn check(bytes: &[u8]) -> Result<Registration, RegistrationError> {
    Registration::check(bytes, &TrustDomain::default(), NOW_MS)
}

/// Changes a record, signs it properly, and expects `error`.
fn refused(change: impl FnOnce(&mut KeyRecord), error: &RegistrationError) {
    let mut changed = record("acme/a", 1);
    change(&mut changed);
    assert_eq!(check(&sign(changed, 1).to_bytes()).as_ref(), Err(error));
}

#[test]
fn a_record_signed_by_both_of_its_keys_is_accepted_as_it_is() {
    let signed = signed("acme/a", 1);
    assert_eq!(check(&signed.to_bytes()).unwrap().into_signed(), signed);
}

#[test]
fn what_is_not_a_record_is_refused() {
    let bytes = signed("acme/a", 1).to_bytes();
    for cut in [0, 1, 7, 8, 3_000, bytes.len() - 1] {
        assert_eq!(check(&bytes[..cut]), Err(RegistrationError::Malformed(RejectCode::FrameLength)), "{cut} bytes");
    }
    let mut longer = bytes.clone();
    longer.push(0);
    assert_eq!(check(&longer), Err(RegistrationError::Malformed(RejectCode::FrameLength)));
}

#[test]
fn each_of_the_two_signatures_must_hold() {
    let good = signed("acme/a", 1);
    let other = signed("acme/a", 2);
    let mut ed25519 = good.clone();
    ed25519.ed25519 = other.ed25519;
    let mut ml_dsa_65 = good.clone();
    ml_dsa_65.ml_dsa_65 = other.ml_dsa_65;
    let mut zero = good;
    zero.ed25519 = [0; 64];
    for tampered in [ed25519, ml_dsa_65, zero] {
        assert_eq!(check(&tampered.to_bytes()), Err(RegistrationError::SelfSignature));
    }
}

#[test]
fn a_record_signed_by_other_keys_than_its_own_is_refused() {
    assert_eq!(check(&sign(record("acme/a", 1), 2).to_bytes()), Err(RegistrationError::SelfSignature));
}

#[test]
fn claims_that_this_node_cannot_accept_are_refused() {
    let elsewhere = TrustDomain::parse("other.local").unwrap();
    refused(
        |record| record.trust_domain = elsewhere.clone(),
        &RegistrationError::TrustDomain { found: elsewhere.clone(), served: TrustDomain::default() },
    );
    refused(|record| record.state = AgentState::Revoked, &RegistrationError::State);
    refused(
        |record| record.valid_from_ms = VALID_UNTIL_MS,
        &RegistrationError::ValidityEmpty { from_ms: VALID_UNTIL_MS, until_ms: VALID_UNTIL_MS },
    );
    refused(
        |record| record.valid_until_ms = NOW_MS,
        &RegistrationError::ValidityOver { until_ms: NOW_MS, now_ms: NOW_MS },
    );
}

#[test]
fn a_validity_that_starts_later_is_accepted() {
    let mut later = record("acme/a", 1);
    later.valid_from_ms = NOW_MS + 1;
    assert!(check(&sign(later, 1).to_bytes()).is_ok());
}

#[test]
fn weak_keys_are_refused_before_any_signature_is_looked_at() {
    // The neutral element of the curve: small order, and anything verifies under it by the lax rule.
    let mut neutral = [0; 32];
    neutral[0] = 1;
    refused(|record| record.ed25519 = neutral, &RegistrationError::WeakKey(KeyError::Ed25519Order));
    refused(|record| record.x25519 = [0; 32], &RegistrationError::WeakKey(KeyError::X25519Order));
    // Coefficients above the modulus (FIPS 203 section 7.2).
    refused(|record| record.ml_kem_768.fill(0xff), &RegistrationError::WeakKey(KeyError::MlKem768Encoding));
}

/// Every encoding of a point of small order, also those that are not canonical, and an honest key with each of them added.
#[test]
fn no_ed25519_key_of_small_or_mixed_order_is_registered() {
    use curve25519_dalek::constants::EIGHT_TORSION;
    use curve25519_dalek::edwards::CompressedEdwardsY;
    let honest = CompressedEdwardsY(record("acme/a", 1).ed25519).decompress().unwrap();
    let small = EIGHT_TORSION.map(|point| point.compress().to_bytes());
    let mixed = EIGHT_TORSION[1..].iter().map(|point| (honest + point).compress().to_bytes());
    // y = 1 and y = -1 with a sign that their x = 0 does not have, and y = p and p + 1, with either sign.
    let other_sign = [0, 4].map(|index| {
        let mut bytes = small[index];
        bytes[31] ^= 0x80;
        bytes
    });
    let above_the_modulus = [0xed, 0xee].into_iter().flat_map(|low| {
        [0x7f, 0xff].map(|high| {
            let mut bytes = [0xff; 32];
            (bytes[0], bytes[31]) = (low, high);
            bytes
        })
    });
    let all: Vec<_> = small.into_iter().chain(mixed).chain(other_sign).chain(above_the_modulus).collect();
    assert_eq!(all.len(), 8 + 7 + 2 + 4);
    for ed25519 in all {
        let mut changed = record("acme/a", 1);
        changed.ed25519 = ed25519;
        let verdict = check(&sign(changed, 1).to_bytes());
        assert!(matches!(verdict, Err(RegistrationError::WeakKey(_))), "{ed25519:02x?}: {verdict:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn no_flipped_bit_is_accepted(bit in 0_usize..signed("acme/a", 1).to_bytes().len() * 8) {
        let mut bytes = signed("acme/a", 1).to_bytes();
        bytes[bit / 8] ^= 1 << (bit % 8);
        prop_assert!(check(&bytes).is_err(), "bit {bit}");
    }
}
