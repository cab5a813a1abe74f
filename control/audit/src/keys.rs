//! The keys of a log: one Ed25519 and one ML-DSA-65 pair, named by the log's origin. Both sign, and both must hold.
//!
//! In text a key is one line, as others' tools for signed notes write it: `NAME+ID+BASE64(type || public key)`, and for the
//! secret `PRIVATE+KEY+NAME+ID+BASE64(type || seed)`.

use std::fmt::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use creto_crypto_accel::keys::{ED25519_PUBLIC_BYTES, ML_DSA_65_PUBLIC_BYTES, SigningPublic};
use creto_crypto_accel::sign::SigningKeys;
use creto_crypto_accel::verify::VerifyingKeys;
use thiserror::Error;
use zeroize::Zeroizing;

use crate::limits::ORIGIN_BYTES_MAX;
use crate::note::{TYPE_ED25519, TYPE_ML_DSA_65, is_key_name, key_id, push_signature};

#[cfg(test)]
mod tests;

const PRIVATE_PREFIX: &str = "PRIVATE+KEY+";

/// The origin of a node's log: `TRUST_DOMAIN/creto-audit/NODE`.
#[must_use]
pub fn origin(trust_domain: &str, node: &str) -> String {
    format!("{trust_domain}/creto-audit/{node}")
}

fn is_origin(origin: &str) -> bool {
    is_key_name(origin) && origin.len() <= ORIGIN_BYTES_MAX
}

/// The secret keys of a log. Erased on drop, never printed.
pub struct LogKeys {
    signing: SigningKeys,
    seeds: Zeroizing<[[u8; 32]; 2]>,
    public: LogPublic,
}

impl LogKeys {
    /// The keys of the log of this origin, from their seeds. `None` when the origin cannot name a key: it has a space, a plus
    /// or a control character, or is longer than 512 bytes.
    #[must_use]
    pub fn from_seeds(origin: &str, ed25519: &[u8; 32], ml_dsa_65: &[u8; 32]) -> Option<Self> {
        let signing = SigningKeys::from_seeds(ed25519, ml_dsa_65);
        let public = LogPublic::new(origin, signing.public().clone())?;
        Some(Self { signing, seeds: Zeroizing::new([*ed25519, *ml_dsa_65]), public })
    }

    /// Both lines of the secret file.
    #[must_use]
    pub fn to_secret_text(&self) -> Zeroizing<String> {
        // Room for all of it at once: a text that grows leaves copies of itself behind.
        let mut text = Zeroizing::new(String::with_capacity(2 * (self.public.origin.len() + 128)));
        let lines = [(TYPE_ED25519, self.public.ed25519_id), (TYPE_ML_DSA_65, self.public.ml_dsa_65_id)];
        for ((signature_type, id), seed) in lines.into_iter().zip(self.seeds.iter()) {
            let mut bytes = Zeroizing::new(Vec::with_capacity(signature_type.len() + seed.len()));
            bytes.extend_from_slice(signature_type);
            bytes.extend_from_slice(seed);
            let encoded = Zeroizing::new(STANDARD.encode(bytes.as_slice()));
            let origin = &self.public.origin;
            writeln!(text, "{PRIVATE_PREFIX}{origin}+{id:08x}+{}", encoded.as_str()).expect("a String takes all");
        }
        text
    }

    /// Reads what [`LogKeys::to_secret_text`] wrote.
    ///
    /// # Errors
    /// [`KeysError`]; the text says nothing of the secret.
    pub fn parse(text: &str) -> Result<Self, KeysError> {
        let [first, second] = two_lines(text)?;
        let [(origin, ed25519_id, ed25519), (other, ml_dsa_65_id, ml_dsa_65)] =
            [(first, TYPE_ED25519), (second, TYPE_ML_DSA_65)]
                .map(|(line, signature_type)| parse_line(line.strip_prefix(PRIVATE_PREFIX)?, signature_type))
                .map(|parsed| parsed.unwrap_or_default());
        let seed = |bytes: &[u8]| bytes.try_into().map(Zeroizing::new).map_err(|_| KeysError::Form);
        let (ed25519, ml_dsa_65): (Zeroizing<[u8; 32]>, Zeroizing<[u8; 32]>) = (seed(&ed25519)?, seed(&ml_dsa_65)?);
        let keys = Self::from_seeds(origin, &ed25519, &ml_dsa_65).ok_or(KeysError::Form)?;
        let is_as_said =
            origin == other && (ed25519_id, ml_dsa_65_id) == (keys.public.ed25519_id, keys.public.ml_dsa_65_id);
        if is_as_said { Ok(keys) } else { Err(KeysError::Id) }
    }

    /// The public halves.
    #[must_use]
    pub fn public(&self) -> &LogPublic {
        &self.public
    }

    /// The same two keys as those of another log of the same node. The name of a key is part of its id, and the origin is the
    /// first line of what is signed: no checkpoint of one log is ever one of the other. `None` as for [`LogKeys::from_seeds`].
    #[must_use]
    pub fn of_log(&self, origin: &str) -> Option<Self> {
        Self::from_seeds(origin, &self.seeds[0], &self.seeds[1])
    }

    /// A note: the text, which ends with a newline and begins with the log's origin, signed with both keys. About 200 us.
    ///
    /// # Panics
    /// When the text begins with something else: a log signs only what it says of itself.
    #[must_use]
    pub fn sign_note(&self, text: &str) -> String {
        let public = &self.public;
        assert!(text.ends_with('\n'), "the text of a note ends with a newline");
        assert_eq!(text.split('\n').next(), Some(public.origin.as_str()), "a log signs with its own keys");
        let signature = self.signing.sign(text.as_bytes());
        let mut note = format!("{text}\n");
        push_signature(&mut note, &public.origin, public.ed25519_id, &signature.ed25519);
        push_signature(&mut note, &public.origin, public.ml_dsa_65_id, signature.ml_dsa_65.as_slice());
        note
    }
}

impl std::fmt::Debug for LogKeys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LogKeys").field("origin", &self.public.origin).finish_non_exhaustive()
    }
}

/// The public keys of a log: what an auditor takes along.
#[derive(Clone, PartialEq, Eq)]
pub struct LogPublic {
    origin: String,
    keys: SigningPublic,
    pub(crate) ed25519_id: u32,
    pub(crate) ml_dsa_65_id: u32,
}

impl LogPublic {
    fn new(origin: &str, keys: SigningPublic) -> Option<Self> {
        let ed25519_id = key_id(origin, TYPE_ED25519, &keys.ed25519);
        let ml_dsa_65_id = key_id(origin, TYPE_ML_DSA_65, &keys.ml_dsa_65);
        is_origin(origin).then(|| Self { origin: origin.to_owned(), keys, ed25519_id, ml_dsa_65_id })
    }

    /// The origin of the log, which is the keys' name.
    #[must_use]
    pub fn origin(&self) -> &str {
        &self.origin
    }

    /// Both lines of the public file.
    #[must_use]
    pub fn to_text(&self) -> String {
        let line = |signature_type: &[u8], id: u32, key: &[u8]| {
            format!("{}+{id:08x}+{}\n", self.origin, STANDARD.encode([signature_type, key].concat()))
        };
        let ed25519 = line(TYPE_ED25519, self.ed25519_id, &self.keys.ed25519);
        ed25519 + &line(TYPE_ML_DSA_65, self.ml_dsa_65_id, &self.keys.ml_dsa_65)
    }

    /// Reads what [`LogPublic::to_text`] wrote.
    ///
    /// # Errors
    /// [`KeysError`]: the form of the lines, or ids that are not those of the keys.
    pub fn parse(text: &str) -> Result<Self, KeysError> {
        let [first, second] = two_lines(text)?;
        let (origin, ed25519_id, ed25519) = parse_line(first, TYPE_ED25519).ok_or(KeysError::Form)?;
        let (other, ml_dsa_65_id, ml_dsa_65) = parse_line(second, TYPE_ML_DSA_65).ok_or(KeysError::Form)?;
        let ed25519: [u8; ED25519_PUBLIC_BYTES] = ed25519.as_slice().try_into().map_err(|_| KeysError::Form)?;
        let ml_dsa_65: [u8; ML_DSA_65_PUBLIC_BYTES] = ml_dsa_65.as_slice().try_into().map_err(|_| KeysError::Form)?;
        let public = Self::new(origin, SigningPublic { ed25519, ml_dsa_65 }).ok_or(KeysError::Form)?;
        let is_as_said = origin == other && (ed25519_id, ml_dsa_65_id) == (public.ed25519_id, public.ml_dsa_65_id);
        if is_as_said { Ok(public) } else { Err(KeysError::Id) }
    }

    pub(crate) fn verifying(&self) -> Result<VerifyingKeys, KeysError> {
        VerifyingKeys::parse(&self.keys.ed25519, &self.keys.ml_dsa_65).map_err(|_| KeysError::Weak)
    }
}

impl std::fmt::Debug for LogPublic {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (ed25519, ml_dsa_65) = (self.ed25519_id, self.ml_dsa_65_id);
        write!(f, "LogPublic({}, {ed25519:08x}, {ml_dsa_65:08x})", self.origin)
    }
}

fn two_lines(text: &str) -> Result<[&str; 2], KeysError> {
    let mut lines = text.strip_suffix('\n').unwrap_or(text).split('\n');
    match (lines.next(), lines.next(), lines.next()) {
        (Some(first), Some(second), None) => Ok([first, second]),
        _ => Err(KeysError::Form),
    }
}

/// Name, id and key of a line.
fn parse_line<'l>(line: &'l str, signature_type: &[u8]) -> Option<(&'l str, u32, Zeroizing<Vec<u8>>)> {
    let mut parts = line.splitn(3, '+');
    let (name, id, encoded) = (parts.next()?, parts.next()?, parts.next()?);
    if id.len() != 8 || !id.bytes().all(|digit| digit.is_ascii_hexdigit()) {
        return None;
    }
    let id = u32::from_str_radix(id, 16).ok()?;
    let bytes = Zeroizing::new(STANDARD.decode(encoded).ok()?);
    let key = bytes.strip_prefix(signature_type)?;
    Some((name, id, Zeroizing::new(key.to_vec())))
}

/// Why a text is not the keys of a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum KeysError {
    /// the key file has not the two lines that it should have: take `audit.pub` as the node made it
    #[error("the key file has not the two lines that it should have: take `audit.pub` as the node made it")]
    Form,
    /// the key file's names or ids do not belong to its keys: take `audit.pub` as the node made it
    #[error("the key file's names or ids do not belong to its keys: take `audit.pub` as the node made it")]
    Id,
    /// the key file has a key that no honest node makes: ask the operator for the right one
    #[error("the key file has a key that no honest node makes: ask the operator for the right one")]
    Weak,
}
