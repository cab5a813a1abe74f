//! FN-DSA-512 by the crate `fn-dsa`.

use aws_lc_rs::rand::{SecureRandom, SystemRandom};
use fn_dsa::{
    CryptoRng, DOMAIN_NONE, FN_DSA_LOGN_512, HASH_ID_RAW, KeyPairGenerator, KeyPairGenerator512, RngCore, RngError,
    SigningKey, SigningKey512, VerifyingKey, VerifyingKey512, sign_key_size, signature_size, vrfy_key_size,
};
use zeroize::Zeroizing;

use super::{
    FN_DSA_512_PUBLIC_BYTES, FN_DSA_512_SECRET_BYTES, FN_DSA_512_SIGNATURE_BYTES, FN_DSA_512_STORED_BYTES, KeyError,
};
use crate::digest::sha256;

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

    /// The key pair of a stored key.
    ///
    /// # Errors
    /// [`KeyError::FnDsa512Secret`], also when any bit of it was changed.
    pub fn from_stored(stored: &[u8; FN_DSA_512_STORED_BYTES]) -> Result<Self, KeyError> {
        // The crate sees not every wrong key (0.4.0, with AVX2), and signing with one may not end, or tell of the key.
        let (secret, check) = stored.split_first_chunk().expect("it is the longer one");
        if *check != sha256(&[secret]) {
            return Err(KeyError::FnDsa512Secret);
        }
        let key = SigningKey512::decode(secret).ok_or(KeyError::FnDsa512Secret)?;
        let mut public = Box::new([0; FN_DSA_512_PUBLIC_BYTES]);
        key.to_verifying_key(&mut public[..]);
        Ok(Self { secret: Zeroizing::new(*secret), public })
    }

    /// The key as it is kept: the encoded signing key and SHA-256 over it.
    pub fn to_stored(&self) -> Zeroizing<[u8; FN_DSA_512_STORED_BYTES]> {
        let mut stored = Zeroizing::new([0; FN_DSA_512_STORED_BYTES]);
        stored[..FN_DSA_512_SECRET_BYTES].copy_from_slice(&self.secret[..]);
        stored[FN_DSA_512_SECRET_BYTES..].copy_from_slice(&sha256(&[&self.secret[..]]));
        stored
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
