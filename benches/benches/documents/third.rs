//! The experimental third signature. Cargo would switch the product's feature on for whatever is built together with this
//! bench, so it makes the calls of `creto_crypto_accel::fn_dsa` itself.

use std::hint::black_box;

use creto_benches::crypto::Effort;
use fn_dsa::{
    CryptoRng, DOMAIN_NONE, FN_DSA_LOGN_512, HASH_ID_RAW, KeyPairGenerator, KeyPairGenerator512, RngCore, RngError,
    SigningKey, SigningKey512, VerifyingKey, VerifyingKey512, sign_key_size, signature_size, vrfy_key_size,
};

/// Bytes of a batch statement.
const STATEMENT: [u8; 80] = [7; 80];
const SECRET_BYTES: usize = sign_key_size(FN_DSA_LOGN_512);
const PUBLIC_BYTES: usize = vrfy_key_size(FN_DSA_LOGN_512);
const SIGNATURE_BYTES: usize = signature_size(FN_DSA_LOGN_512);

/// Nanoseconds of one operation each, the median.
pub(crate) struct Third {
    pub(crate) keygen_ns: f64,
    pub(crate) sign_ns: f64,
    pub(crate) verify_ns: f64,
}

pub(crate) fn measure(effort: Effort) -> Third {
    let (mut secret, mut public) = ([0; SECRET_BYTES], [0; PUBLIC_BYTES]);
    let keygen_ns = effort.median_ns(|| {
        KeyPairGenerator512::default().keygen(FN_DSA_LOGN_512, &mut System, &mut secret, &mut public);
        black_box((&secret, &public));
    });
    let mut signature = [0; SIGNATURE_BYTES];
    let sign_ns = effort.median_ns(|| {
        let mut key = SigningKey512::decode(&secret).expect("the key pair was made here");
        key.sign(&mut System, &DOMAIN_NONE, &HASH_ID_RAW, black_box(&STATEMENT), &mut signature);
    });
    let key = VerifyingKey512::decode(&public).expect("the key pair was made here");
    let verify_ns = effort.median_ns(|| {
        assert!(key.verify(&signature, &DOMAIN_NONE, &HASH_ID_RAW, black_box(&STATEMENT)));
    });
    Third { keygen_ns, sign_ns, verify_ns }
}

/// The system's randomness.
struct System;

impl CryptoRng for System {}

impl RngCore for System {
    fn next_u32(&mut self) -> u32 {
        let mut bytes = [0; 4];
        self.fill_bytes(&mut bytes);
        u32::from_le_bytes(bytes)
    }

    fn next_u64(&mut self) -> u64 {
        let mut bytes = [0; 8];
        self.fill_bytes(&mut bytes);
        u64::from_le_bytes(bytes)
    }

    fn fill_bytes(&mut self, bytes: &mut [u8]) {
        getrandom::fill(bytes).expect("the system gives randomness");
    }

    fn try_fill_bytes(&mut self, bytes: &mut [u8]) -> Result<(), RngError> {
        self.fill_bytes(bytes);
        Ok(())
    }
}
