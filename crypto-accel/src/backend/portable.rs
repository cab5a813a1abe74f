//! The oracle: pure Rust, and deterministic wherever its caller brings the randomness.

use aes_gcm::{AeadInOut, Aes256Gcm, KeyInit};
use ed25519_dalek::Signer as _;
use hkdf::Hkdf;
use ml_dsa::MlDsa65;
use ml_kem::MlKem768;
use ml_kem::kem::{Decapsulate, KeyExport};
use sha2::Sha256;
use sha3::{Digest, Sha3_256};
use shake::{ExtendableOutput, Shake256, Update, XofReader};
use x25519_dalek::{PublicKey, StaticSecret};
use zeroize::Zeroizing;

use super::{ExpandedSeed, HalfSecrets};
use crate::keys::{
    ED25519_SEED_BYTES, ML_DSA_65_PUBLIC_BYTES, ML_DSA_65_SEED_BYTES, ML_DSA_65_SIGNATURE_BYTES,
    ML_KEM_768_CIPHERTEXT_BYTES, ML_KEM_768_ENCAPSULATION_KEY_BYTES, NONCE_BYTES, RecipientPublic, SigningPublic,
    TAG_BYTES, X25519_PUBLIC_BYTES, XWING_CIPHERTEXT_BYTES, XWING_COINS_BYTES, XWING_SEED_BYTES,
};
use crate::seal::{RecipientKey, SharedSecret};
use crate::sign::HybridSignature;
use crate::{Backend, keys::KeyError};

/// Bytes of an ML-KEM-768 decapsulation key in its expanded form (FIPS 203 table 3).
const ML_KEM_768_EXPANDED_BYTES: usize = 2400;

/// Signs `statement` with the keys of these seeds, giving the same bytes every time: ML-DSA in its deterministic variant
/// (FIPS 204 section 3.4). Only for golden files: a fault during deterministic signing can leak the key.
pub fn sign_deterministic(
    ed25519_seed: &[u8; ED25519_SEED_BYTES],
    ml_dsa_65_seed: &[u8; ML_DSA_65_SEED_BYTES],
    statement: &[u8],
) -> HybridSignature {
    Signer::from_seeds(ed25519_seed, ml_dsa_65_seed).sign(statement)
}

/// X-Wing's EncapsulateDerand: the coins are 32 bytes for ML-KEM, then the ephemeral X25519 secret. The secret opens with
/// the portable backend. Only for golden files: coins used twice give the same secret twice.
///
/// # Errors
/// As [`RecipientKey::parse`].
pub fn encapsulate_deterministic(
    recipient: &RecipientPublic,
    coins: &[u8; XWING_COINS_BYTES],
) -> Result<([u8; XWING_CIPHERTEXT_BYTES], SharedSecret), KeyError> {
    RecipientKey::with_backend(Backend::Portable, recipient).map(|key| key.encapsulate_with(coins))
}

/// Both key pairs, erased on drop.
pub(crate) struct Signer {
    ed25519: ed25519_dalek::SigningKey,
    ml_dsa_65: ml_dsa::SigningKey<MlDsa65>,
}

impl Signer {
    pub(crate) fn from_seeds(ed25519: &[u8; 32], ml_dsa_65: &[u8; 32]) -> Self {
        Self {
            ed25519: ed25519_dalek::SigningKey::from_bytes(ed25519),
            ml_dsa_65: ml_dsa::SigningKey::from_seed(ml_dsa_65.into()),
        }
    }

    pub(crate) fn public(&self) -> SigningPublic {
        SigningPublic {
            ed25519: self.ed25519.verifying_key().to_bytes(),
            ml_dsa_65: self.ml_dsa_65.expanded_key().verifying_key().encode().into(),
        }
    }

    pub(crate) fn sign(&self, statement: &[u8]) -> HybridSignature {
        let ml_dsa_65 = self
            .ml_dsa_65
            .expanded_key()
            .sign_deterministic(statement, &[])
            .expect("the empty context is short enough, and rejection ends");
        HybridSignature {
            ed25519: self.ed25519.sign(statement).to_bytes(),
            ml_dsa_65: Box::new(ml_dsa_65.encode().into()),
        }
    }
}

/// A parsed ML-DSA-65 public key, with its matrix expanded (about 70 KiB).
pub(crate) struct MlDsaVerifier(Box<ml_dsa::VerifyingKey<MlDsa65>>);

impl MlDsaVerifier {
    pub(crate) fn parse(public: &[u8; ML_DSA_65_PUBLIC_BYTES]) -> Option<Self> {
        Some(Self(Box::new(ml_dsa::VerifyingKey::decode(public.into()))))
    }

    pub(crate) fn verify(&self, statement: &[u8], signature: &[u8; ML_DSA_65_SIGNATURE_BYTES]) -> bool {
        ml_dsa::Signature::decode(signature.into())
            .is_some_and(|signature| self.0.verify_with_context(statement, &[], &signature))
    }
}

/// A parsed recipient key.
pub(crate) struct Encapsulator {
    ml_kem_768: Box<ml_kem::EncapsulationKey<MlKem768>>,
    x25519: PublicKey,
}

impl Encapsulator {
    /// Does the checks of FIPS 203 section 7.2.
    pub(crate) fn new(public: &RecipientPublic) -> Option<Self> {
        let ml_kem_768 = Box::new(parse_ml_kem_key(&public.ml_kem_768)?);
        Some(Self { ml_kem_768, x25519: PublicKey::from(public.x25519) })
    }

    pub(crate) fn encapsulate(
        &self,
        coins: &[u8; XWING_COINS_BYTES],
    ) -> ([u8; ML_KEM_768_CIPHERTEXT_BYTES], [u8; X25519_PUBLIC_BYTES], HalfSecrets) {
        let (for_ml_kem, for_x25519) = coins.split_at(32);
        let message = Zeroizing::new(for_ml_kem.try_into().expect("half of 64 bytes"));
        let ephemeral = StaticSecret::from(<[u8; 32]>::try_from(for_x25519).expect("half of 64 bytes"));
        let (ciphertext, ml_kem) = self.ml_kem_768.encapsulate_deterministic(&message);
        let ml_kem = Zeroizing::new(ml_kem);
        let x25519 = ephemeral.diffie_hellman(&self.x25519);
        let secrets = HalfSecrets { ml_kem: (*ml_kem).into(), x25519: x25519.to_bytes() };
        (ciphertext.into(), PublicKey::from(&ephemeral).to_bytes(), secrets)
    }
}

/// Both decapsulation keys, erased on drop.
pub(crate) struct Decapsulator {
    ml_kem_768: Box<ml_kem::DecapsulationKey<MlKem768>>,
    x25519: StaticSecret,
}

impl Decapsulator {
    pub(crate) fn new(expanded: &ExpandedSeed) -> Self {
        Self { ml_kem_768: Box::new(ml_kem_key(expanded)), x25519: StaticSecret::from(expanded.x25519) }
    }

    pub(crate) fn decapsulate(
        &self,
        ml_kem: &[u8; ML_KEM_768_CIPHERTEXT_BYTES],
        x25519: &[u8; X25519_PUBLIC_BYTES],
    ) -> Option<HalfSecrets> {
        let x25519 = self.x25519.diffie_hellman(&PublicKey::from(*x25519));
        if !x25519.was_contributory() {
            return None;
        }
        let ml_kem = Zeroizing::new(self.ml_kem_768.decapsulate(ml_kem.into()));
        Some(HalfSecrets { ml_kem: (*ml_kem).into(), x25519: x25519.to_bytes() })
    }
}

/// The public halves of an expanded seed.
pub(crate) fn recipient_public(expanded: &ExpandedSeed) -> RecipientPublic {
    RecipientPublic {
        ml_kem_768: ml_kem_key(expanded).encapsulation_key().to_bytes().into(),
        x25519: PublicKey::from(&StaticSecret::from(expanded.x25519)).to_bytes(),
    }
}

/// The X-Wing seed, expanded (draft-connolly-cfrg-xwing-kem, expandDecapsulationKey).
pub(crate) fn expand_seed(seed: &[u8; XWING_SEED_BYTES]) -> ExpandedSeed {
    let mut expanded = ExpandedSeed { ml_kem: [0; 64], x25519: [0; 32] };
    let mut reader = Shake256::default().chain(seed).finalize_xof();
    reader.read(&mut expanded.ml_kem);
    reader.read(&mut expanded.x25519);
    expanded
}

/// The ML-KEM-768 decapsulation key in the expanded form of FIPS 203, which is the only one that aws-lc-rs reads.
#[allow(deprecated, reason = "aws-lc-rs 1.19 takes no ML-KEM seed")]
pub(crate) fn expanded_ml_kem_key(expanded: &ExpandedSeed) -> Zeroizing<[u8; ML_KEM_768_EXPANDED_BYTES]> {
    use ml_kem::ExpandedKeyEncoding;
    Zeroizing::new(ml_kem_key(expanded).to_expanded_bytes().into())
}

/// None if the key fails the modulus check of FIPS 203 section 7.2.
pub(crate) fn parse_ml_kem_key(
    bytes: &[u8; ML_KEM_768_ENCAPSULATION_KEY_BYTES],
) -> Option<ml_kem::EncapsulationKey<MlKem768>> {
    ml_kem::EncapsulationKey::new(bytes.into()).ok()
}

/// True if every agreement with this share gives zero, whatever the other secret is (RFC 7748 section 6.1).
pub(crate) fn is_low_order(share: &[u8; X25519_PUBLIC_BYTES]) -> bool {
    // Clamping makes every secret a multiple of the cofactor, so one fixed secret shows it for all.
    !StaticSecret::from([1; 32]).diffie_hellman(&PublicKey::from(*share)).was_contributory()
}

pub(crate) fn sha3_256(parts: &[&[u8]]) -> [u8; 32] {
    let mut hasher = Sha3_256::new();
    parts.iter().for_each(|part| Digest::update(&mut hasher, part));
    hasher.finalize().into()
}

/// HKDF-SHA256 (RFC 5869) with the empty salt, 32 bytes out. `info` is the concatenation of its parts.
pub(crate) fn hkdf_sha256(ikm: &[u8; 32], info: &[&[u8]]) -> Zeroizing<[u8; 32]> {
    let mut out = Zeroizing::new([0; 32]);
    Hkdf::<Sha256>::new(None, ikm)
        .expand_multi_info(info, out.as_mut_slice())
        .expect("32 bytes are far below the 8,160 that HKDF-SHA256 can give");
    out
}

/// A step of a session's chain: HKDF-Expand-SHA256 (RFC 5869 section 2.3) of `chain`, whose first half replaces it and whose
/// second half goes into `key`.
pub(crate) fn step(chain: &mut [u8; 32], info: &[u8], key: &mut [u8; 32]) {
    let mut okm = Zeroizing::new([0; 64]);
    Hkdf::<Sha256>::from_prk(chain)
        .expect("32 bytes are a pseudorandom key of SHA-256")
        .expand(info, okm.as_mut_slice())
        .expect("64 bytes are far below the 8,160 that HKDF-SHA256 can give");
    chain.copy_from_slice(&okm[..32]);
    key.copy_from_slice(&okm[32..]);
}

pub(crate) fn aes_256_gcm_seal(
    key: &[u8; 32],
    nonce: &[u8; NONCE_BYTES],
    aad: &[u8],
    buffer: &mut [u8],
) -> [u8; TAG_BYTES] {
    Aes256Gcm::new(key.into())
        .encrypt_inout_detached(nonce.into(), aad, buffer.into())
        .expect("a payload is far below the 64 GiB that AES-GCM can seal")
        .into()
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
    plaintext.copy_from_slice(ciphertext);
    aes_256_gcm_open_in_place(key, nonce, aad, tag, plaintext)
}

/// As [`aes_256_gcm_open`], over the ciphertext itself.
pub(crate) fn aes_256_gcm_open_in_place(
    key: &[u8; 32],
    nonce: &[u8; NONCE_BYTES],
    aad: &[u8],
    tag: &[u8; TAG_BYTES],
    buffer: &mut [u8],
) -> bool {
    Aes256Gcm::new(key.into()).decrypt_inout_detached(nonce.into(), aad, buffer.into(), tag.into()).is_ok()
}

fn ml_kem_key(expanded: &ExpandedSeed) -> ml_kem::DecapsulationKey<MlKem768> {
    ml_kem::DecapsulationKey::from_seed(expanded.ml_kem.into())
}
