//! The path: aws-lc-rs. Every failure that is left here is either the peer's bytes or a broken invariant of ours; aws-lc
//! itself aborts the process when it runs out of memory or entropy.

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::agreement::{PrivateKey, UnparsedPublicKey, X25519, agree};
use aws_lc_rs::hkdf::{HKDF_SHA256, Salt};
use aws_lc_rs::kem::{DecapsulationKey, EncapsulationKey, ML_KEM_768};
use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair, ML_DSA_65, ML_DSA_65_SIGNING, ParsedPublicKey, PqdsaKeyPair};
use aws_lc_rs::{digest, rand};
use zeroize::{Zeroize, Zeroizing};

use super::{ExpandedSeed, HalfSecrets, portable};
use crate::keys::{
    ML_DSA_65_PUBLIC_BYTES, ML_DSA_65_SIGNATURE_BYTES, ML_KEM_768_CIPHERTEXT_BYTES, NONCE_BYTES, RecipientPublic,
    SigningPublic, TAG_BYTES, X25519_PUBLIC_BYTES, XWING_COINS_BYTES,
};
use crate::sign::HybridSignature;

/// Both key pairs. aws-lc erases them when it frees them.
pub(crate) struct Signer {
    ed25519: Ed25519KeyPair,
    ml_dsa_65: PqdsaKeyPair,
}

impl Signer {
    pub(crate) fn from_seeds(ed25519: &[u8; 32], ml_dsa_65: &[u8; 32]) -> Self {
        Self {
            ed25519: Ed25519KeyPair::from_seed_unchecked(ed25519).expect("every 32 bytes are an Ed25519 seed"),
            ml_dsa_65: PqdsaKeyPair::from_seed(&ML_DSA_65_SIGNING, ml_dsa_65)
                .expect("every 32 bytes are an ML-DSA seed"),
        }
    }

    pub(crate) fn public(&self) -> SigningPublic {
        SigningPublic {
            ed25519: fixed(self.ed25519.public_key().as_ref()),
            ml_dsa_65: fixed(self.ml_dsa_65.public_key().as_ref()),
        }
    }

    /// Ed25519 is deterministic by its definition, ML-DSA is hedged with fresh randomness.
    pub(crate) fn sign(&self, statement: &[u8]) -> HybridSignature {
        let mut ml_dsa_65 = Box::new([0; ML_DSA_65_SIGNATURE_BYTES]);
        let written = self
            .ml_dsa_65
            .sign(statement, ml_dsa_65.as_mut_slice())
            .expect("signing fails only without memory or entropy, and aws-lc aborts then");
        assert_eq!(written, ML_DSA_65_SIGNATURE_BYTES, "an ML-DSA-65 signature has one size");
        HybridSignature { ed25519: fixed(self.ed25519.sign(statement).as_ref()), ml_dsa_65 }
    }
}

/// A parsed ML-DSA-65 public key.
pub(crate) struct MlDsaVerifier(ParsedPublicKey);

impl MlDsaVerifier {
    pub(crate) fn parse(public: &[u8; ML_DSA_65_PUBLIC_BYTES]) -> Option<Self> {
        ParsedPublicKey::new(&ML_DSA_65, public).ok().map(Self)
    }

    pub(crate) fn verify(&self, statement: &[u8], signature: &[u8; ML_DSA_65_SIGNATURE_BYTES]) -> bool {
        self.0.verify_sig(statement, signature).is_ok()
    }
}

/// A parsed recipient key.
pub(crate) struct Encapsulator {
    ml_kem_768: EncapsulationKey,
    x25519: [u8; X25519_PUBLIC_BYTES],
}

impl Encapsulator {
    /// The caller has checked the key: aws-lc itself only looks at its length here.
    pub(crate) fn new(checked: &RecipientPublic) -> Option<Self> {
        let ml_kem_768 = EncapsulationKey::new(&ML_KEM_768, &checked.ml_kem_768).ok()?;
        Some(Self { ml_kem_768, x25519: checked.x25519 })
    }

    pub(crate) fn encapsulate(&self) -> ([u8; ML_KEM_768_CIPHERTEXT_BYTES], [u8; X25519_PUBLIC_BYTES], HalfSecrets) {
        const CHECKED: &str = "the key was checked when it was parsed";
        let (ciphertext, ml_kem) = self.ml_kem_768.encapsulate().expect(CHECKED);
        let ephemeral = PrivateKey::generate(&X25519).expect("aws-lc aborts when it has no entropy");
        let share = ephemeral.compute_public_key().expect("every X25519 secret has a public key");
        let x25519 = diffie_hellman(&ephemeral, &self.x25519).expect(CHECKED);
        let secrets = HalfSecrets { ml_kem: fixed(ml_kem.as_ref()), x25519: *x25519 };
        (fixed(ciphertext.as_ref()), fixed(share.as_ref()), secrets)
    }
}

/// Both decapsulation keys. aws-lc erases them when it frees them.
pub(crate) struct Decapsulator {
    ml_kem_768: DecapsulationKey,
    x25519: PrivateKey,
}

impl Decapsulator {
    pub(crate) fn new(expanded: &ExpandedSeed) -> Self {
        // aws-lc-rs takes an ML-KEM key in its expanded form only, so the seed is expanded by the other backend.
        let ml_kem_768 = portable::expanded_ml_kem_key(expanded);
        Self {
            ml_kem_768: DecapsulationKey::new(&ML_KEM_768, ml_kem_768.as_slice())
                .expect("an expanded ML-KEM-768 key has the length aws-lc wants"),
            x25519: PrivateKey::from_private_key(&X25519, &expanded.x25519)
                .expect("every 32 bytes are an X25519 secret"),
        }
    }

    pub(crate) fn decapsulate(
        &self,
        ml_kem: &[u8; ML_KEM_768_CIPHERTEXT_BYTES],
        x25519: &[u8; X25519_PUBLIC_BYTES],
    ) -> Option<HalfSecrets> {
        let x25519 = diffie_hellman(&self.x25519, x25519)?;
        let ml_kem = self
            .ml_kem_768
            .decapsulate(ml_kem.as_slice().into())
            .expect("ML-KEM rejects implicitly: a ciphertext of the right length always gives a secret");
        Some(HalfSecrets { ml_kem: fixed(ml_kem.as_ref()), x25519: *x25519 })
    }
}

/// None if the peer's share is of low order.
fn diffie_hellman(secret: &PrivateKey, public: &[u8; X25519_PUBLIC_BYTES]) -> Option<Zeroizing<[u8; 32]>> {
    agree(secret, UnparsedPublicKey::new(&X25519, public), (), |shared| Ok(Zeroizing::new(fixed(shared)))).ok()
}

pub(crate) fn sha3_256(parts: &[&[u8]]) -> [u8; 32] {
    let mut context = digest::Context::new(&digest::SHA3_256);
    parts.iter().for_each(|part| context.update(part));
    fixed(context.finish().as_ref())
}

/// HKDF-SHA256 (RFC 5869) with the empty salt, 32 bytes out. `info` is the concatenation of its parts.
pub(crate) fn hkdf_sha256(ikm: &[u8; 32], info: &[&[u8]]) -> Zeroizing<[u8; 32]> {
    let mut out = Zeroizing::new([0; 32]);
    Salt::new(HKDF_SHA256, &[])
        .extract(ikm)
        .expand(info, HKDF_SHA256)
        .and_then(|okm| okm.fill(out.as_mut_slice()))
        .expect("32 bytes are far below the 8,160 that HKDF-SHA256 can give");
    out
}

pub(crate) fn aes_256_gcm_seal(
    key: &[u8; 32],
    nonce: &[u8; NONCE_BYTES],
    aad: &[u8],
    buffer: &mut [u8],
) -> [u8; TAG_BYTES] {
    let tag = aes_256_gcm(key)
        .seal_in_place_separate_tag(Nonce::assume_unique_for_key(*nonce), Aad::from(aad), buffer)
        .expect("a payload is far below the 64 GiB that AES-GCM can seal");
    fixed(tag.as_ref())
}

/// False, and the buffer unspecified, if the tag does not hold.
pub(crate) fn aes_256_gcm_open(
    key: &[u8; 32],
    nonce: &[u8; NONCE_BYTES],
    aad: &[u8],
    tag: &[u8; TAG_BYTES],
    ciphertext: &[u8],
    plaintext: &mut [u8],
) -> bool {
    let nonce = Nonce::assume_unique_for_key(*nonce);
    aes_256_gcm(key).open_separate_gather(nonce, Aad::from(aad), ciphertext, tag, plaintext).is_ok()
}

/// As [`aes_256_gcm_open`], over the ciphertext itself.
pub(crate) fn aes_256_gcm_open_in_place(
    key: &[u8; 32],
    nonce: &[u8; NONCE_BYTES],
    aad: &[u8],
    tag: &[u8; TAG_BYTES],
    buffer: &mut [u8],
) -> bool {
    let nonce = Nonce::assume_unique_for_key(*nonce);
    aes_256_gcm(key).open_in_place_separate_tag(nonce, Aad::from(aad), tag, buffer).is_ok()
}

/// The key schedule lives on aws-lc's heap, which erases what it frees.
fn aes_256_gcm(key: &[u8; 32]) -> LessSafeKey {
    LessSafeKey::new(UnboundKey::new(&AES_256_GCM, key).expect("32 bytes are an AES-256 key"))
}

/// Fresh coins for the portable backend, from the same generator that the path uses.
pub(crate) fn coins() -> Zeroizing<[u8; XWING_COINS_BYTES]> {
    let mut coins = Zeroizing::new([0; XWING_COINS_BYTES]);
    if rand::fill(coins.as_mut_slice()).is_err() {
        coins.zeroize();
        panic!("the system gives no randomness: nothing can be sealed safely");
    }
    coins
}

/// Sizes are fixed by the algorithm, not by the input.
fn fixed<const N: usize>(bytes: &[u8]) -> [u8; N] {
    bytes.try_into().expect("the algorithm fixes this size")
}
