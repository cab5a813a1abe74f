//! The sealed suite: X-Wing to the recipient's key, HKDF-SHA256 to a key for one message, AES-256-GCM under it.
//!
//! Sealing goes in steps, because the header is authenticated and must be complete before anything is encrypted:
//!
//! 1. [`RecipientKey::encapsulate`] gives the wrapped key of the envelope and a [`SharedSecret`];
//! 2. [`message_key`] binds the secret to the finished header;
//! 3. [`MessageKey::seal_in_place`] encrypts the payload with the header as its additional data.
//!
//! X-Wing is ML-KEM-768 and X25519 with one SHA3-256 over both secrets, the X25519 share and the X25519 key
//! (draft-connolly-cfrg-xwing-kem). It holds as long as either half does. In one point this module is stricter than the
//! draft: a share or a key of low order is refused, by both backends, where the draft lets the secret be zero.

use zeroize::Zeroizing;

use crate::Backend;
use crate::backend::{ExpandedSeed, HalfSecrets, aws_lc, portable};
use crate::keys::{
    KeyError, ML_KEM_768_CIPHERTEXT_BYTES, NONCE_BYTES, RecipientPublic, TAG_BYTES, X25519_PUBLIC_BYTES,
    XWING_CIPHERTEXT_BYTES, XWING_COINS_BYTES, XWING_SEED_BYTES,
};

#[cfg(test)]
mod tests;

/// X-Wing's label, the picture of an X-wing fighter in six ASCII characters: `\.//^\`.
const XWING_LABEL: &[u8; 6] = b"\\.//^\\";

/// First bytes of HKDF's info, with the separator; the header follows.
const SEALED_LABEL: &[u8] = b"creto/sealed/v1\0";

/// A key for another purpose from one of full entropy: HKDF-SHA256 (RFC 5869) with the empty salt. `info` is the
/// concatenation of its parts: the caller frames those that have no fixed length, and begins with a label of its own.
pub fn derived_key(key: &[u8; 32], info: &[&[u8]]) -> Zeroizing<[u8; 32]> {
    aws_lc::hkdf_sha256(key, info)
}

/// A recipient's public key, checked and parsed once and used for every message to this recipient.
pub struct RecipientKey {
    encapsulator: Encapsulator,
    x25519: [u8; X25519_PUBLIC_BYTES],
    key_id: [u8; 16],
}

enum Encapsulator {
    AwsLc(aws_lc::Encapsulator),
    Portable(portable::Encapsulator),
}

impl RecipientKey {
    /// Checks and parses a key for the path ([`Backend::AwsLc`]).
    ///
    /// # Errors
    /// [`KeyError::MlKem768Encoding`] or [`KeyError::X25519Order`]: nothing may be sealed to such a key.
    pub fn parse(public: &RecipientPublic) -> Result<Self, KeyError> {
        Self::with_backend(Backend::AwsLc, public)
    }

    /// As [`RecipientKey::parse`], with the backend chosen.
    ///
    /// # Errors
    /// As [`RecipientKey::parse`].
    pub fn with_backend(backend: Backend, public: &RecipientPublic) -> Result<Self, KeyError> {
        // aws-lc looks at nothing but the length before it encapsulates, so both backends check with the same code.
        portable::parse_ml_kem_key(&public.ml_kem_768).ok_or(KeyError::MlKem768Encoding)?;
        if portable::is_low_order(&public.x25519) {
            return Err(KeyError::X25519Order);
        }
        let encapsulator = match backend {
            Backend::AwsLc => aws_lc::Encapsulator::new(public).map(Encapsulator::AwsLc),
            Backend::Portable => portable::Encapsulator::new(public).map(Encapsulator::Portable),
        };
        let encapsulator = encapsulator.ok_or(KeyError::MlKem768Encoding)?;
        Ok(Self { encapsulator, x25519: public.x25519, key_id: public.key_id() })
    }

    /// The same key under another id: a prekey is named by the hash of more than its two halves.
    #[must_use]
    pub fn named(self, key_id: [u8; 16]) -> Self {
        Self { key_id, ..self }
    }

    /// The id under which an envelope names this key.
    pub fn key_id(&self) -> [u8; 16] {
        self.key_id
    }

    /// A fresh secret for the recipient, and the 1,120 bytes that carry it. About 80 us: one per message in the sealed
    /// suite, one per session in the session suite.
    pub fn encapsulate(&self) -> ([u8; XWING_CIPHERTEXT_BYTES], SharedSecret) {
        match &self.encapsulator {
            Encapsulator::AwsLc(key) => self.combine(Backend::AwsLc, key.encapsulate()),
            Encapsulator::Portable(key) => self.combine(Backend::Portable, key.encapsulate(&aws_lc::coins())),
        }
    }

    /// # Panics
    /// With [`Backend::AwsLc`], which takes no coins: only the portable backend is given any.
    pub(crate) fn encapsulate_with(
        &self,
        coins: &[u8; XWING_COINS_BYTES],
    ) -> ([u8; XWING_CIPHERTEXT_BYTES], SharedSecret) {
        match &self.encapsulator {
            Encapsulator::AwsLc(_) => panic!("aws-lc draws its own coins"),
            Encapsulator::Portable(key) => self.combine(Backend::Portable, key.encapsulate(coins)),
        }
    }

    fn combine(
        &self,
        backend: Backend,
        (ml_kem, share, secrets): ([u8; ML_KEM_768_CIPHERTEXT_BYTES], [u8; X25519_PUBLIC_BYTES], HalfSecrets),
    ) -> ([u8; XWING_CIPHERTEXT_BYTES], SharedSecret) {
        let mut ciphertext = [0; XWING_CIPHERTEXT_BYTES];
        ciphertext[..ML_KEM_768_CIPHERTEXT_BYTES].copy_from_slice(&ml_kem);
        ciphertext[ML_KEM_768_CIPHERTEXT_BYTES..].copy_from_slice(&share);
        (ciphertext, combine(backend, &secrets, &share, &self.x25519))
    }
}

impl std::fmt::Debug for RecipientKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RecipientKey").field("key_id", &self.key_id).finish_non_exhaustive()
    }
}

/// A recipient's own secret key, ready to decapsulate. Erased on drop, never printed.
pub struct RecipientSecret {
    decapsulator: Decapsulator,
    public: Box<RecipientPublic>,
    key_id: [u8; 16],
}

enum Decapsulator {
    AwsLc(aws_lc::Decapsulator),
    Portable(portable::Decapsulator),
}

impl RecipientSecret {
    /// Expands an X-Wing seed, for opening on the path ([`Backend::AwsLc`]). Every seed is a valid one, and the seed is
    /// all that needs to be stored.
    pub fn from_seed(seed: &[u8; XWING_SEED_BYTES]) -> Self {
        Self::with_backend(Backend::AwsLc, seed)
    }

    /// As [`RecipientSecret::from_seed`], with the backend chosen.
    pub fn with_backend(backend: Backend, seed: &[u8; XWING_SEED_BYTES]) -> Self {
        let expanded: ExpandedSeed = portable::expand_seed(seed);
        let public = Box::new(portable::recipient_public(&expanded));
        let decapsulator = match backend {
            Backend::AwsLc => Decapsulator::AwsLc(aws_lc::Decapsulator::new(&expanded)),
            Backend::Portable => Decapsulator::Portable(portable::Decapsulator::new(&expanded)),
        };
        Self { decapsulator, key_id: public.key_id(), public }
    }

    /// The public halves, for the key record.
    pub fn public(&self) -> &RecipientPublic {
        &self.public
    }

    /// The same key under another id, as [`RecipientKey::named`].
    #[must_use]
    pub fn named(self, key_id: [u8; 16]) -> Self {
        Self { key_id, ..self }
    }

    /// The id under which envelopes name this key.
    pub fn key_id(&self) -> [u8; 16] {
        self.key_id
    }

    /// The secret that `ciphertext` carries. A ciphertext made for another key, or changed, still gives a secret, a
    /// different one (ML-KEM rejects implicitly): only opening the payload tells.
    ///
    /// # Errors
    /// [`OpenError::LowOrderShare`] if the X25519 share is of low order.
    pub fn decapsulate(&self, ciphertext: &[u8; XWING_CIPHERTEXT_BYTES]) -> Result<SharedSecret, OpenError> {
        let (ml_kem, share) =
            ciphertext.split_first_chunk::<ML_KEM_768_CIPHERTEXT_BYTES>().expect("the halves add up to the whole");
        let share = share.first_chunk::<X25519_PUBLIC_BYTES>().expect("the halves add up to the whole");
        let (backend, secrets) = match &self.decapsulator {
            Decapsulator::AwsLc(key) => (Backend::AwsLc, key.decapsulate(ml_kem, share)),
            Decapsulator::Portable(key) => (Backend::Portable, key.decapsulate(ml_kem, share)),
        };
        let secrets = secrets.ok_or(OpenError::LowOrderShare)?;
        Ok(combine(backend, &secrets, share, &self.public.x25519))
    }
}

impl std::fmt::Debug for RecipientSecret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RecipientSecret").field("key_id", &self.key_id).finish_non_exhaustive()
    }
}

/// The secret of one encapsulation, from which message keys are derived. Erased on drop, never printed.
pub struct SharedSecret {
    backend: Backend,
    bytes: Zeroizing<[u8; 32]>,
}

impl SharedSecret {
    /// The secret itself, for whoever derives other keys from it.
    pub fn expose(&self) -> &[u8; 32] {
        &self.bytes
    }

    pub(crate) fn backend(&self) -> Backend {
        self.backend
    }

    #[cfg(test)]
    pub(crate) fn known(backend: Backend, bytes: [u8; 32]) -> Self {
        Self { backend, bytes: Zeroizing::new(bytes) }
    }
}

impl std::fmt::Debug for SharedSecret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SharedSecret").finish_non_exhaustive()
    }
}

/// X-Wing's combiner: SHA3-256(ML-KEM secret || X25519 secret || X25519 share || X25519 key || label).
fn combine(
    backend: Backend,
    secrets: &HalfSecrets,
    share: &[u8; X25519_PUBLIC_BYTES],
    public: &[u8; X25519_PUBLIC_BYTES],
) -> SharedSecret {
    let parts: [&[u8]; 5] = [&secrets.ml_kem, &secrets.x25519, share, public, XWING_LABEL];
    let bytes = match backend {
        Backend::AwsLc => aws_lc::sha3_256(&parts),
        Backend::Portable => portable::sha3_256(&parts),
    };
    SharedSecret { backend, bytes: Zeroizing::new(bytes) }
}

/// The key of one message: HKDF-SHA256 (RFC 5869) with the empty salt, the shared secret, and as info
/// "creto/sealed/v1" || 0x00 || `header`. Binding the whole header means that no two messages share a key.
pub fn message_key(secret: &SharedSecret, header: &[u8]) -> MessageKey {
    let info = [SEALED_LABEL, header];
    let bytes = match secret.backend {
        Backend::AwsLc => aws_lc::hkdf_sha256(&secret.bytes, &info),
        Backend::Portable => portable::hkdf_sha256(&secret.bytes, &info),
    };
    MessageKey { backend: secret.backend, bytes }
}

/// An AES-256-GCM key (SP 800-38D) for one message: each use consumes it. Erased on drop, never printed.
pub struct MessageKey {
    backend: Backend,
    bytes: Zeroizing<[u8; 32]>,
}

impl MessageKey {
    /// A key that was agreed on elsewhere (a session's chain). It must be fresh: one key, one message.
    pub fn from_bytes(backend: Backend, bytes: Zeroizing<[u8; 32]>) -> Self {
        Self { backend, bytes }
    }

    /// Encrypts `payload` where it lies and returns the tag that follows it on the wire.
    #[must_use = "without its tag a payload can never be opened"]
    pub fn seal_in_place(self, nonce: &[u8; NONCE_BYTES], aad: &[u8], payload: &mut [u8]) -> [u8; TAG_BYTES] {
        match self.backend {
            Backend::AwsLc => aws_lc::aes_256_gcm_seal(&self.bytes, nonce, aad, payload),
            Backend::Portable => portable::aes_256_gcm_seal(&self.bytes, nonce, aad, payload),
        }
    }

    /// Appends ciphertext and tag of `plaintext` to `out`.
    pub fn seal_append(self, nonce: &[u8; NONCE_BYTES], aad: &[u8], plaintext: &[u8], out: &mut Vec<u8>) {
        let start = out.len();
        out.reserve(plaintext.len() + TAG_BYTES);
        out.extend_from_slice(plaintext);
        let tag = self.seal_in_place(nonce, aad, &mut out[start..]);
        out.extend_from_slice(&tag);
    }

    /// Decrypts `sealed` (ciphertext || tag) where it lies and returns the plaintext in it. On failure `sealed` holds
    /// zeros.
    ///
    /// # Errors
    /// [`OpenError::TooShort`] or [`OpenError::NotAuthentic`].
    pub fn open_in_place<'s>(
        self,
        nonce: &[u8; NONCE_BYTES],
        aad: &[u8],
        sealed: &'s mut [u8],
    ) -> Result<&'s mut [u8], OpenError> {
        let (payload, tag) = sealed.split_last_chunk_mut::<TAG_BYTES>().ok_or(OpenError::TooShort)?;
        let authentic = match self.backend {
            Backend::AwsLc => aws_lc::aes_256_gcm_open_in_place(&self.bytes, nonce, aad, tag, payload),
            Backend::Portable => portable::aes_256_gcm_open_in_place(&self.bytes, nonce, aad, tag, payload),
        };
        match authentic {
            true => Ok(payload),
            false => {
                payload.fill(0);
                tag.fill(0);
                Err(OpenError::NotAuthentic)
            }
        }
    }

    /// Decrypts `sealed` (ciphertext || tag), which stays as it is, into a plaintext of its own.
    ///
    /// # Errors
    /// [`OpenError::TooShort`] or [`OpenError::NotAuthentic`].
    pub fn open(self, nonce: &[u8; NONCE_BYTES], aad: &[u8], sealed: &[u8]) -> Result<Vec<u8>, OpenError> {
        let mut plaintext = Vec::new();
        self.open_append(nonce, aad, sealed, &mut plaintext)?;
        Ok(plaintext)
    }

    /// Appends the plaintext of `sealed` (ciphertext || tag) to `out`, which stays as it is on failure.
    ///
    /// # Errors
    /// [`OpenError::TooShort`] or [`OpenError::NotAuthentic`].
    pub fn open_append(
        self,
        nonce: &[u8; NONCE_BYTES],
        aad: &[u8],
        sealed: &[u8],
        out: &mut Vec<u8>,
    ) -> Result<(), OpenError> {
        let (payload, tag) = sealed.split_last_chunk::<TAG_BYTES>().ok_or(OpenError::TooShort)?;
        let start = out.len();
        out.resize(start + payload.len(), 0);
        let plaintext = &mut out[start..];
        let authentic = match self.backend {
            Backend::AwsLc => aws_lc::aes_256_gcm_open(&self.bytes, nonce, aad, tag, payload, plaintext),
            Backend::Portable => portable::aes_256_gcm_open(&self.bytes, nonce, aad, tag, payload, plaintext),
        };
        if !authentic {
            plaintext.fill(0);
            out.truncate(start);
            return Err(OpenError::NotAuthentic);
        }
        Ok(())
    }
}

impl std::fmt::Debug for MessageKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MessageKey").finish_non_exhaustive()
    }
}

/// Why a message does not open. It says nothing about the key or the plaintext.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// The X25519 share of the wrapped key is of low order, which no honest sender makes.
    #[error("wrapped key has an x25519 share of low order: ask the sender to seal again")]
    LowOrderShare,
    /// Not even a tag.
    #[error("payload is shorter than its tag: ask the sender to send it whole")]
    TooShort,
    /// Another key, another header, or changed bytes.
    #[error("payload does not open under this key and header: check the key id, then ask the sender to seal again")]
    NotAuthentic,
}
