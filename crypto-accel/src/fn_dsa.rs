//! **Experimental.** FN-DSA-512 (Falcon) as a third signature, for agents whose key record demands it.
//!
//! Its standard, FIPS 206, is not final: encodings, hashing and domain separation may still change, and with them what
//! is signed today would not verify any more. So it is never alone, always off unless it is asked for (cargo feature
//! `fn-dsa`), and without that feature a key of this kind is refused with [`KeyError::FnDsa512Unsupported`].
//!
//! Signatures have the padded form of 666 bytes; messages are signed as they are, with the empty context.

use crate::keys::KeyError;

/// Bytes of an FN-DSA-512 verifying key.
pub const FN_DSA_512_PUBLIC_BYTES: usize = 897;
/// Bytes of an FN-DSA-512 signature in its padded form.
pub const FN_DSA_512_SIGNATURE_BYTES: usize = 666;
/// Bytes of an encoded FN-DSA-512 signing key.
pub const FN_DSA_512_SECRET_BYTES: usize = 1_345;
/// Whether this build can verify FN-DSA-512.
pub const SUPPORTED: bool = cfg!(feature = "fn-dsa");

#[cfg(not(feature = "fn-dsa"))]
pub(crate) use absent::Verifier;
#[cfg(feature = "fn-dsa")]
pub use present::FnDsaSigner;
#[cfg(feature = "fn-dsa")]
pub(crate) use present::Verifier;

#[cfg(not(feature = "fn-dsa"))]
mod absent {
    use super::{FN_DSA_512_PUBLIC_BYTES, FN_DSA_512_SIGNATURE_BYTES, KeyError};

    /// There is none.
    pub(crate) enum Verifier {}

    impl Verifier {
        pub(crate) fn parse(_: &[u8; FN_DSA_512_PUBLIC_BYTES]) -> Result<Self, KeyError> {
            Err(KeyError::FnDsa512Unsupported)
        }

        pub(crate) fn verify(&self, _: &[u8], _: &[u8; FN_DSA_512_SIGNATURE_BYTES]) -> bool {
            match *self {}
        }
    }
}

#[cfg(feature = "fn-dsa")]
mod present {
    use aws_lc_rs::rand::{SecureRandom, SystemRandom};
    use fn_dsa::{
        CryptoRng, DOMAIN_NONE, FN_DSA_LOGN_512, HASH_ID_RAW, KeyPairGenerator, KeyPairGenerator512, RngCore, RngError,
        SigningKey, SigningKey512, VerifyingKey, VerifyingKey512, sign_key_size, signature_size, vrfy_key_size,
    };
    use zeroize::Zeroizing;

    use super::{FN_DSA_512_PUBLIC_BYTES, FN_DSA_512_SECRET_BYTES, FN_DSA_512_SIGNATURE_BYTES, KeyError};

    // The sizes of the formats are those of the crate.
    const _: () = assert!(vrfy_key_size(FN_DSA_LOGN_512) == FN_DSA_512_PUBLIC_BYTES);
    const _: () = assert!(signature_size(FN_DSA_LOGN_512) == FN_DSA_512_SIGNATURE_BYTES);
    const _: () = assert!(sign_key_size(FN_DSA_LOGN_512) == FN_DSA_512_SECRET_BYTES);

    pub(crate) struct Verifier(VerifyingKey512);

    impl Verifier {
        pub(crate) fn parse(bytes: &[u8; FN_DSA_512_PUBLIC_BYTES]) -> Result<Self, KeyError> {
            VerifyingKey512::decode(bytes).map(Self).ok_or(KeyError::FnDsa512Encoding)
        }

        pub(crate) fn verify(&self, statement: &[u8], signature: &[u8; FN_DSA_512_SIGNATURE_BYTES]) -> bool {
            self.0.verify(signature, &DOMAIN_NONE, &HASH_ID_RAW, statement)
        }
    }

    /// An FN-DSA-512 key pair. The secret half is erased on drop and never printed.
    pub struct FnDsaSigner {
        secret: Zeroizing<[u8; FN_DSA_512_SECRET_BYTES]>,
        public: Box<[u8; FN_DSA_512_PUBLIC_BYTES]>,
    }

    impl FnDsaSigner {
        /// Makes a key pair. Takes a few milliseconds.
        pub fn generate() -> Self {
            let mut secret = Zeroizing::new([0; FN_DSA_512_SECRET_BYTES]);
            let mut public = Box::new([0; FN_DSA_512_PUBLIC_BYTES]);
            KeyPairGenerator512::default().keygen(FN_DSA_LOGN_512, &mut System, &mut secret[..], &mut public[..]);
            Self { secret, public }
        }

        /// The verifying key.
        pub fn public(&self) -> &[u8; FN_DSA_512_PUBLIC_BYTES] {
            &self.public
        }

        /// Signs `statement` as it is. Randomized: signing twice gives two different values.
        pub fn sign(&self, statement: &[u8]) -> Box<[u8; FN_DSA_512_SIGNATURE_BYTES]> {
            let mut key = SigningKey512::decode(&self.secret[..]).expect("the key pair was made here");
            let mut signature = Box::new([0; FN_DSA_512_SIGNATURE_BYTES]);
            key.sign(&mut System, &DOMAIN_NONE, &HASH_ID_RAW, statement, &mut signature[..]);
            signature
        }
    }

    impl std::fmt::Debug for FnDsaSigner {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.debug_struct("FnDsaSigner").finish_non_exhaustive()
        }
    }

    /// The generator that everything else here draws from.
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
            SystemRandom::new().fill(bytes).expect("the system gives randomness");
        }

        fn try_fill_bytes(&mut self, bytes: &mut [u8]) -> Result<(), RngError> {
            self.fill_bytes(bytes);
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::keys::KeyError;
    use crate::sign::SigningKeys;
    use crate::verify::{SignatureError, VerifyingKeys};

    fn hybrid() -> VerifyingKeys {
        let public = SigningKeys::from_seeds(&[1; 32], &[2; 32]).public().clone();
        VerifyingKeys::parse(&public.ed25519, &public.ml_dsa_65).unwrap()
    }

    #[test]
    fn without_a_third_key_a_third_signature_is_refused() {
        let keys = hybrid().with_fn_dsa_512(None).unwrap();
        assert_eq!(keys.fingerprint(), hybrid().fingerprint());
        assert_eq!(keys.verify_fn_dsa_512(b"statement", None), Ok(()));
        assert_eq!(keys.verify_fn_dsa_512(b"statement", Some(&[0; 666])), Err(SignatureError::FnDsa512));
    }

    #[cfg(not(feature = "fn-dsa"))]
    #[test]
    fn a_build_without_it_refuses_the_key_and_says_so() {
        let error = hybrid().with_fn_dsa_512(Some(&[9; 897])).unwrap_err();
        assert_eq!(error, KeyError::FnDsa512Unsupported);
        assert!(error.to_string().contains("--features fn-dsa"));
    }

    #[cfg(feature = "fn-dsa")]
    #[test]
    fn a_third_key_demands_its_signature_and_takes_no_other() {
        let signer = super::FnDsaSigner::generate();
        let keys = hybrid().with_fn_dsa_512(Some(signer.public())).unwrap();
        assert_ne!(keys.fingerprint(), hybrid().fingerprint());
        let signature = signer.sign(b"statement");
        assert_ne!(signature, signer.sign(b"statement"), "signing is randomized");
        assert_eq!(keys.verify_fn_dsa_512(b"statement", Some(&signature)), Ok(()));
        assert_eq!(keys.verify_fn_dsa_512(b"statement", None), Err(SignatureError::FnDsa512));
        assert_eq!(keys.verify_fn_dsa_512(b"Statement", Some(&signature)), Err(SignatureError::FnDsa512));
        for at in 0..signature.len() {
            for bit in 0..8 {
                let mut changed = signature.clone();
                changed[at] ^= 1 << bit;
                let verdict = keys.verify_fn_dsa_512(b"statement", Some(&changed));
                assert_eq!(verdict, Err(SignatureError::FnDsa512), "byte {at}, bit {bit}");
            }
        }
        assert_eq!(hybrid().with_fn_dsa_512(Some(&[0xff; 897])).unwrap_err(), KeyError::FnDsa512Encoding);
        assert!(!format!("{signer:?}").contains("secret"));
    }
}
