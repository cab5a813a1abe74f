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
/// Bytes of such a key as it is kept: with SHA-256 over it.
pub const FN_DSA_512_STORED_BYTES: usize = FN_DSA_512_SECRET_BYTES + 32;
/// Whether this build can verify FN-DSA-512.
pub const SUPPORTED: bool = cfg!(feature = "fn-dsa");

#[cfg(not(feature = "fn-dsa"))]
pub use absent::FnDsaSigner;
#[cfg(not(feature = "fn-dsa"))]
pub(crate) use absent::Verifier;
#[cfg(feature = "fn-dsa")]
pub use present::FnDsaSigner;
#[cfg(feature = "fn-dsa")]
pub(crate) use present::Verifier;

#[cfg(not(feature = "fn-dsa"))]
mod absent {
    use std::convert::Infallible;

    use zeroize::Zeroizing;

    use super::{FN_DSA_512_PUBLIC_BYTES, FN_DSA_512_SIGNATURE_BYTES, FN_DSA_512_STORED_BYTES, KeyError};

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

    /// An FN-DSA-512 key pair. This build has none: see the feature `fn-dsa`.
    pub struct FnDsaSigner(Infallible);

    impl FnDsaSigner {
        /// Refuses.
        ///
        /// # Errors
        /// [`KeyError::FnDsa512Unsupported`].
        pub fn from_stored(_: &[u8; FN_DSA_512_STORED_BYTES]) -> Result<Self, KeyError> {
            Err(KeyError::FnDsa512Unsupported)
        }

        /// The key as it is kept.
        pub fn to_stored(&self) -> Zeroizing<[u8; FN_DSA_512_STORED_BYTES]> {
            match self.0 {}
        }

        /// The verifying key.
        pub fn public(&self) -> &[u8; FN_DSA_512_PUBLIC_BYTES] {
            match self.0 {}
        }

        /// Signs.
        pub fn sign(&self, _: &[u8]) -> Box<[u8; FN_DSA_512_SIGNATURE_BYTES]> {
            match self.0 {}
        }
    }

    impl std::fmt::Debug for FnDsaSigner {
        fn fmt(&self, _: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            match self.0 {}
        }
    }
}

#[cfg(feature = "fn-dsa")]
mod present;

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
        assert_eq!(super::FnDsaSigner::from_stored(&[9; 1_377]).unwrap_err(), KeyError::FnDsa512Unsupported);
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

    #[cfg(feature = "fn-dsa")]
    #[test]
    fn a_kept_signing_key_is_the_same_key_and_a_damaged_one_is_known() {
        let signer = super::FnDsaSigner::generate();
        let kept = super::FnDsaSigner::from_stored(&signer.to_stored()).unwrap();
        assert_eq!((kept.public(), kept.to_stored()), (signer.public(), signer.to_stored()));
        let keys = hybrid().with_fn_dsa_512(Some(signer.public())).unwrap();
        assert_eq!(keys.verify_fn_dsa_512(b"statement", Some(&kept.sign(b"statement"))), Ok(()));
        // Header, f, g, F, the hash of the verifying key, and the one over all.
        for at in [0, 1, 200, 384, 385, 700, 768, 769, 1_000, 1_280, 1_281, 1_344, 1_345, 1_376] {
            let mut damaged = signer.to_stored();
            damaged[at] ^= 1 << (at % 8);
            assert_eq!(super::FnDsaSigner::from_stored(&damaged).err(), Some(KeyError::FnDsa512Secret), "byte {at}");
        }
    }
}
