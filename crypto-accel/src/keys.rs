//! Public keys as bytes, and every size that the formats build on.

use crate::digest::sha256;

/// Bytes of an Ed25519 seed (RFC 8032 section 5.1.5).
pub const ED25519_SEED_BYTES: usize = 32;
/// Bytes of an Ed25519 public key (RFC 8032 section 5.1.5).
pub const ED25519_PUBLIC_BYTES: usize = 32;
/// Bytes of an Ed25519 signature (RFC 8032 section 5.1.6).
pub const ED25519_SIGNATURE_BYTES: usize = 64;
/// Bytes of an ML-DSA seed, called xi in FIPS 204 algorithm 1.
pub const ML_DSA_65_SEED_BYTES: usize = 32;
/// Bytes of an ML-DSA-65 public key (FIPS 204 table 2).
pub const ML_DSA_65_PUBLIC_BYTES: usize = 1952;
/// Bytes of an ML-DSA-65 signature (FIPS 204 table 2).
pub const ML_DSA_65_SIGNATURE_BYTES: usize = 3309;
/// Bytes of an ML-KEM-768 encapsulation key (FIPS 203 table 3).
pub const ML_KEM_768_ENCAPSULATION_KEY_BYTES: usize = 1184;
/// Bytes of an ML-KEM-768 ciphertext (FIPS 203 table 3).
pub const ML_KEM_768_CIPHERTEXT_BYTES: usize = 1088;
/// Bytes of an X25519 public key (RFC 7748 section 5).
pub const X25519_PUBLIC_BYTES: usize = 32;
/// Bytes of an X-Wing seed, which is the whole decapsulation key (draft-connolly-cfrg-xwing-kem section 5.2).
pub const XWING_SEED_BYTES: usize = 32;
/// Bytes of an X-Wing ciphertext: ML-KEM-768 ciphertext, then X25519 share.
pub const XWING_CIPHERTEXT_BYTES: usize = 1120;
/// Bytes of the coins of one derandomised X-Wing encapsulation.
pub const XWING_COINS_BYTES: usize = 64;
/// Bytes of an AES-256-GCM nonce (SP 800-38D).
pub const NONCE_BYTES: usize = 12;
/// Bytes of an AES-256-GCM tag (SP 800-38D).
pub const TAG_BYTES: usize = 16;

const _: () = assert!(XWING_CIPHERTEXT_BYTES == ML_KEM_768_CIPHERTEXT_BYTES + X25519_PUBLIC_BYTES);

/// The public halves of an agent's identity keys, as its key record carries them.
#[derive(Clone, PartialEq, Eq)]
pub struct SigningPublic {
    /// Ed25519 public key.
    pub ed25519: [u8; ED25519_PUBLIC_BYTES],
    /// ML-DSA-65 public key.
    pub ml_dsa_65: [u8; ML_DSA_65_PUBLIC_BYTES],
}

/// The public halves of the keys that others seal to, as a key record carries them.
#[derive(Clone, PartialEq, Eq)]
pub struct RecipientPublic {
    /// ML-KEM-768 encapsulation key.
    pub ml_kem_768: [u8; ML_KEM_768_ENCAPSULATION_KEY_BYTES],
    /// X25519 public key.
    pub x25519: [u8; X25519_PUBLIC_BYTES],
}

impl RecipientPublic {
    /// The id under which envelopes name this key: SHA-256("creto/key-id/v1" || X25519 || ML-KEM-768)\[..16\].
    pub fn key_id(&self) -> [u8; 16] {
        let hash = sha256(&[b"creto/key-id/v1", &self.x25519, &self.ml_kem_768]);
        *hash.first_chunk().expect("32 bytes hold 16")
    }
}

impl std::fmt::Debug for SigningPublic {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SigningPublic").field("ed25519", &self.ed25519).finish_non_exhaustive()
    }
}

impl std::fmt::Debug for RecipientPublic {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RecipientPublic").field("key_id", &self.key_id()).finish_non_exhaustive()
    }
}

/// Why a public key is refused. It is refused once, when it is registered or parsed, and never used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// ed25519 public key is not the canonical encoding of a curve point: register a key made by RFC 8032
    #[error("ed25519 public key is not the canonical encoding of a curve point: register a key made by RFC 8032")]
    Ed25519Encoding,
    /// ed25519 public key is outside the prime-order group: register a key made by RFC 8032
    #[error("ed25519 public key is outside the prime-order group: register a key made by RFC 8032")]
    Ed25519Order,
    /// ml-dsa-65 public key cannot be decoded: register a key made by FIPS 204
    #[error("ml-dsa-65 public key cannot be decoded: register a key made by FIPS 204")]
    MlDsa65Encoding,
    /// fn-dsa-512 verifying key cannot be decoded: register a key of 897 bytes that its generator made
    #[error("fn-dsa-512 verifying key cannot be decoded: register a key of 897 bytes that its generator made")]
    FnDsa512Encoding,
    /// fn-dsa-512 signing key is damaged: take it from a copy
    #[error("fn-dsa-512 signing key is damaged: take it from a copy")]
    FnDsa512Secret,
    /// the key record demands fn-dsa-512, which this build cannot verify: build with --features fn-dsa (experimental)
    #[error(
        "the key record demands fn-dsa-512, which this build cannot verify: build with --features fn-dsa (experimental)"
    )]
    FnDsa512Unsupported,
    /// ml-kem-768 encapsulation key fails the check of FIPS 203 section 7.2: publish a key made by FIPS 203
    #[error("ml-kem-768 encapsulation key fails the check of FIPS 203 section 7.2: publish a key made by FIPS 203")]
    MlKem768Encoding,
    /// x25519 public key is of low order: publish a key made by RFC 7748
    #[error("x25519 public key is of low order: publish a key made by RFC 7748")]
    X25519Order,
}
