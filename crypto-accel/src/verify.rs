//! Verification of hybrid signatures. Hybrid means AND: a statement holds when Ed25519 and ML-DSA-65 both do.
//!
//! A verdict never depends on the company in which a signature was checked, nor on the backend. Keys outside the
//! prime-order group are refused when they are parsed, and Ed25519 is checked by the strict rule: the equation of
//! RFC 8032 section 5.1.7 without the cofactor, s below the group order, no point of small order.

use crate::Backend;
use crate::backend::{aws_lc, portable};
use crate::digest::{Hash, sha256};
use crate::fn_dsa::{self, FN_DSA_512_PUBLIC_BYTES, FN_DSA_512_SIGNATURE_BYTES};
use crate::keys::{
    ED25519_PUBLIC_BYTES, ED25519_SIGNATURE_BYTES, KeyError, ML_DSA_65_PUBLIC_BYTES, ML_DSA_65_SIGNATURE_BYTES,
};

mod cache;
#[cfg(test)]
mod tests;

pub use cache::{RootCache, RootKey};

/// Both public keys of a sender, checked and parsed once.
pub struct VerifyingKeys {
    ed25519: ed25519_dalek::VerifyingKey,
    ml_dsa_65: MlDsaVerifier,
    fn_dsa_512: Option<Box<fn_dsa::Verifier>>,
    fingerprint: Hash,
}

enum MlDsaVerifier {
    AwsLc(aws_lc::MlDsaVerifier),
    Portable(portable::MlDsaVerifier),
}

impl VerifyingKeys {
    /// Checks and parses both keys for the path ([`Backend::AwsLc`] for ML-DSA; Ed25519 is dalek's in either case).
    ///
    /// # Errors
    /// [`KeyError::Ed25519Encoding`], [`KeyError::Ed25519Order`] or [`KeyError::MlDsa65Encoding`]: such a key must not
    /// be registered.
    pub fn parse(
        ed25519: &[u8; ED25519_PUBLIC_BYTES],
        ml_dsa_65: &[u8; ML_DSA_65_PUBLIC_BYTES],
    ) -> Result<Self, KeyError> {
        Self::with_backend(Backend::AwsLc, ed25519, ml_dsa_65)
    }

    /// As [`VerifyingKeys::parse`], with the backend chosen.
    ///
    /// # Errors
    /// As [`VerifyingKeys::parse`].
    pub fn with_backend(
        backend: Backend,
        ed25519: &[u8; ED25519_PUBLIC_BYTES],
        ml_dsa_65: &[u8; ML_DSA_65_PUBLIC_BYTES],
    ) -> Result<Self, KeyError> {
        let fingerprint = sha256(&[ed25519, ml_dsa_65]);
        let ed25519 = parse_ed25519(ed25519)?;
        let ml_dsa_65 = match backend {
            Backend::AwsLc => aws_lc::MlDsaVerifier::parse(ml_dsa_65).map(MlDsaVerifier::AwsLc),
            Backend::Portable => portable::MlDsaVerifier::parse(ml_dsa_65).map(MlDsaVerifier::Portable),
        };
        let ml_dsa_65 = ml_dsa_65.ok_or(KeyError::MlDsa65Encoding)?;
        Ok(Self { ed25519, ml_dsa_65, fn_dsa_512: None, fingerprint })
    }

    /// The same keys and the third one of the key record, if it has one. The fingerprint covers it.
    ///
    /// # Errors
    /// [`KeyError::FnDsa512Encoding`], or [`KeyError::FnDsa512Unsupported`] without the feature `fn-dsa`.
    pub fn with_fn_dsa_512(self, public: Option<&[u8; FN_DSA_512_PUBLIC_BYTES]>) -> Result<Self, KeyError> {
        let Some(public) = public else { return Ok(self) };
        let fn_dsa_512 = Some(Box::new(fn_dsa::Verifier::parse(public)?));
        let fingerprint = sha256(&[&self.fingerprint, public]);
        Ok(Self { fn_dsa_512, fingerprint, ..self })
    }

    /// Checks the third signature: there is one exactly if the key record has a key for it, and then it holds.
    ///
    /// # Errors
    /// [`SignatureError::FnDsa512`].
    pub fn verify_fn_dsa_512(
        &self,
        statement: &[u8],
        signature: Option<&[u8; FN_DSA_512_SIGNATURE_BYTES]>,
    ) -> Result<(), SignatureError> {
        match (&self.fn_dsa_512, signature) {
            (None, None) => Ok(()),
            (Some(key), Some(signature)) if key.verify(statement, signature) => Ok(()),
            _ => Err(SignatureError::FnDsa512),
        }
    }

    /// Checks both signatures over `statement`. About 70 us.
    ///
    /// # Errors
    /// The first signature that does not hold; Ed25519 is looked at first, because it costs less.
    pub fn verify(
        &self,
        statement: &[u8],
        ed25519: &[u8; ED25519_SIGNATURE_BYTES],
        ml_dsa_65: &[u8; ML_DSA_65_SIGNATURE_BYTES],
    ) -> Result<(), SignatureError> {
        if !self.ed25519_holds(statement, ed25519) {
            return Err(SignatureError::Ed25519);
        }
        match self.ml_dsa_65_holds(statement, ml_dsa_65) {
            true => Ok(()),
            false => Err(SignatureError::MlDsa65),
        }
    }

    pub(crate) fn ed25519_holds(&self, statement: &[u8], signature: &[u8; ED25519_SIGNATURE_BYTES]) -> bool {
        self.ed25519.verify_strict(statement, &ed25519_dalek::Signature::from_bytes(signature)).is_ok()
    }

    pub(crate) fn ml_dsa_65_holds(&self, statement: &[u8], signature: &[u8; ML_DSA_65_SIGNATURE_BYTES]) -> bool {
        match &self.ml_dsa_65 {
            MlDsaVerifier::AwsLc(key) => key.verify(statement, signature),
            MlDsaVerifier::Portable(key) => key.verify(statement, signature),
        }
    }

    /// SHA-256 of both public keys (and, with a third one, SHA-256 over that and the third): equal fingerprints mean equal
    /// keys.
    pub fn fingerprint(&self) -> &Hash {
        &self.fingerprint
    }
}

impl std::fmt::Debug for VerifyingKeys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("VerifyingKeys").field("ed25519", self.ed25519.as_bytes()).finish_non_exhaustive()
    }
}

/// One signed statement to check, with the keys that must have signed it.
#[derive(Clone, Copy, Debug)]
pub struct Item<'a> {
    /// Keys from the sender's key record, never from the message.
    pub keys: &'a VerifyingKeys,
    /// The exact bytes that were signed.
    pub statement: &'a [u8],
    /// Ed25519 signature.
    pub ed25519: &'a [u8; ED25519_SIGNATURE_BYTES],
    /// ML-DSA-65 signature.
    pub ml_dsa_65: &'a [u8; ML_DSA_65_SIGNATURE_BYTES],
}

impl Item<'_> {
    /// As [`VerifyingKeys::verify`].
    ///
    /// # Errors
    /// As [`VerifyingKeys::verify`].
    pub fn verify(&self) -> Result<(), SignatureError> {
        self.keys.verify(self.statement, self.ed25519, self.ml_dsa_65)
    }
}

/// Checks all statements of one turn; verdict `i` is that of item `i`, and the same as if it had come alone.
///
/// One by one, because a batch equation of Ed25519 takes some signatures that the strict one refuses, even under admitted
/// keys (docs/decisions/2026-11-20-ed25519-strict-measured-again.md).
pub fn verify_turn(items: &[Item<'_>]) -> Vec<Result<(), SignatureError>> {
    items.iter().map(Item::verify).collect()
}

/// Refuses what would make a signature's verdict depend on who checks it: encodings that are not canonical and points
/// outside the prime-order group (small or mixed order). Honest keys are neither.
fn parse_ed25519(bytes: &[u8; ED25519_PUBLIC_BYTES]) -> Result<ed25519_dalek::VerifyingKey, KeyError> {
    let key = ed25519_dalek::VerifyingKey::from_bytes(bytes).map_err(|_| KeyError::Ed25519Encoding)?;
    let point = key.to_edwards();
    if point.compress().as_bytes() != bytes {
        return Err(KeyError::Ed25519Encoding);
    }
    match !key.is_weak() && point.is_torsion_free() {
        true => Ok(key),
        false => Err(KeyError::Ed25519Order),
    }
}

/// Which of the two signatures does not hold. Always the fault of whoever sent it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SignatureError {
    /// The Ed25519 signature does not hold for this statement and key.
    #[error("ed25519 signature does not hold: sign the exact statement with the key of the current key record")]
    Ed25519,
    /// The ML-DSA-65 signature does not hold for this statement and key.
    #[error("ml-dsa-65 signature does not hold: sign the exact statement with the key of the current key record")]
    MlDsa65,
    /// The FN-DSA-512 signature does not hold, is missing, or is one too many.
    #[error(
        "fn-dsa-512 signature does not hold or is missing: sign with every key of the current key record, and no other"
    )]
    FnDsa512,
}
