//! The hybrid signature: Ed25519 **and** ML-DSA-65 over the same statement.
//!
//! ML-DSA-65 is used in its pure form with the empty context (FIPS 204 algorithm 2), Ed25519 as RFC 8032 section 5.1.6.
//! What is signed is the caller's statement, as is: domain separation is the statement's first bytes.

use crate::Backend;
use crate::backend::{aws_lc, portable};
use crate::keys::{
    ED25519_SEED_BYTES, ED25519_SIGNATURE_BYTES, ML_DSA_65_SEED_BYTES, ML_DSA_65_SIGNATURE_BYTES, SigningPublic,
};

/// Both identity keys of an agent, ready to sign. Secrets are erased on drop and never printed.
pub struct SigningKeys {
    signer: Signer,
    public: Box<SigningPublic>,
}

enum Signer {
    AwsLc(Box<aws_lc::Signer>),
    Portable(Box<portable::Signer>),
}

/// Two signatures over one statement; both must hold. On the path ML-DSA is hedged, so signing twice gives two different
/// values: never use a signature to identify what it signs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HybridSignature {
    /// Ed25519 signature.
    pub ed25519: [u8; ED25519_SIGNATURE_BYTES],
    /// ML-DSA-65 signature.
    pub ml_dsa_65: Box<[u8; ML_DSA_65_SIGNATURE_BYTES]>,
}

impl SigningKeys {
    /// Expands both key pairs from their seeds, for signing on the path ([`Backend::AwsLc`]). Every seed is a valid one.
    pub fn from_seeds(ed25519: &[u8; ED25519_SEED_BYTES], ml_dsa_65: &[u8; ML_DSA_65_SEED_BYTES]) -> Self {
        Self::with_backend(Backend::AwsLc, ed25519, ml_dsa_65)
    }

    /// As [`SigningKeys::from_seeds`], with the backend chosen. [`Backend::Portable`] signs deterministically.
    pub fn with_backend(
        backend: Backend,
        ed25519: &[u8; ED25519_SEED_BYTES],
        ml_dsa_65: &[u8; ML_DSA_65_SEED_BYTES],
    ) -> Self {
        match backend {
            Backend::AwsLc => {
                let signer = aws_lc::Signer::from_seeds(ed25519, ml_dsa_65);
                Self { public: Box::new(signer.public()), signer: Signer::AwsLc(Box::new(signer)) }
            }
            Backend::Portable => {
                let signer = portable::Signer::from_seeds(ed25519, ml_dsa_65);
                Self { public: Box::new(signer.public()), signer: Signer::Portable(Box::new(signer)) }
            }
        }
    }

    /// Signs `statement` with both keys. About 190 us on the path, with a p99 near 4x the median (ML-DSA rejects and tries
    /// again): not to be called between a packet and its acknowledgement.
    pub fn sign(&self, statement: &[u8]) -> HybridSignature {
        match &self.signer {
            Signer::AwsLc(signer) => signer.sign(statement),
            Signer::Portable(signer) => signer.sign(statement),
        }
    }

    /// The public halves.
    pub fn public(&self) -> &SigningPublic {
        &self.public
    }
}

impl std::fmt::Debug for SigningKeys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SigningKeys").field("public", &self.public).finish_non_exhaustive()
    }
}
