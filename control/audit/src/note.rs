//! Signed notes, as [c2sp.org/signed-note](https://c2sp.org/signed-note) has them: a text, an empty line, and one line for each
//! signature.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use creto_crypto_accel::digest::sha256;
use thiserror::Error;

use crate::limits::{NOTE_BYTES_MAX, NOTE_SIGNATURES_MAX};

#[cfg(test)]
mod tests;

/// The signature type of Ed25519 over a note's text.
pub const TYPE_ED25519: &[u8] = &[0x01];
/// The signature type of ML-DSA-65 (FIPS 204, pure, empty context) over a note's text. The specification has no number for it:
/// 0xff, and a name.
pub const TYPE_ML_DSA_65: &[u8] = b"\xffcreto/ml-dsa-65/v1";

const SEPARATOR: &str = "\n\n";
const SIGNATURE_PREFIX: &str = "\u{2014} ";

/// A note, not verified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note<'n> {
    /// What is signed, with its last newline.
    pub text: &'n str,
    /// Its signatures, in order.
    pub signatures: Vec<NoteSignature<'n>>,
}

/// One signature of a note.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NoteSignature<'n> {
    /// Name of the key.
    pub name: &'n str,
    /// Id of the key.
    pub key_id: u32,
    /// The signature.
    pub signature: Vec<u8>,
}

impl<'n> Note<'n> {
    /// Reads a note.
    ///
    /// # Errors
    /// [`NoteError`]: which rule is broken.
    pub fn parse(bytes: &'n [u8]) -> Result<Self, NoteError> {
        if bytes.len() > NOTE_BYTES_MAX {
            return Err(NoteError::TooLarge);
        }
        let whole = str::from_utf8(bytes).map_err(|_| NoteError::Text)?;
        if whole.chars().any(|c| c < ' ' && c != '\n') {
            return Err(NoteError::Text);
        }
        let split = whole.rfind(SEPARATOR).ok_or(NoteError::Form)?;
        let (text, lines) = (&whole[..=split], &whole[split + SEPARATOR.len()..]);
        let lines = lines.strip_suffix('\n').ok_or(NoteError::Form)?;
        let signatures = lines.split('\n').map(parse_signature).collect::<Option<Vec<_>>>().ok_or(NoteError::Form)?;
        if signatures.len() > NOTE_SIGNATURES_MAX {
            return Err(NoteError::TooLarge);
        }
        Ok(Self { text, signatures })
    }
}

fn parse_signature(line: &str) -> Option<NoteSignature<'_>> {
    let (name, encoded) = line.strip_prefix(SIGNATURE_PREFIX)?.split_once(' ')?;
    let bytes = STANDARD.decode(encoded).ok()?;
    let (key_id, signature) = bytes.split_first_chunk::<4>()?;
    let is_signature = is_key_name(name) && !signature.is_empty();
    is_signature.then(|| NoteSignature { name, key_id: u32::from_be_bytes(*key_id), signature: signature.to_vec() })
}

/// Whether a key can have this name.
#[must_use]
pub fn is_key_name(name: &str) -> bool {
    !name.is_empty() && !name.contains(|c: char| c.is_whitespace() || c == '+' || c.is_control())
}

/// The id of a key: the first four bytes of SHA-256(name || 0x0a || type || public key), big-endian.
#[must_use]
pub fn key_id(name: &str, signature_type: &[u8], public: &[u8]) -> u32 {
    let hash = sha256(&[name.as_bytes(), b"\n", signature_type, public]);
    u32::from_be_bytes(*hash.first_chunk().expect("32 bytes hold four"))
}

/// Appends a signature's line.
pub fn push_signature(note: &mut String, name: &str, key_id: u32, signature: &[u8]) {
    let bytes = [&key_id.to_be_bytes()[..], signature].concat();
    note.push_str(SIGNATURE_PREFIX);
    note.push_str(name);
    note.push(' ');
    note.push_str(&STANDARD.encode(bytes));
    note.push('\n');
}

/// Why bytes are not a signed note.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum NoteError {
    /// the note is larger than any checkpoint, or has more signatures: give the file that the node wrote
    #[error("the note is larger than any checkpoint, or has more signatures: give the file that the node wrote")]
    TooLarge,
    /// the note is not text, or has control characters: give the file as the node wrote it
    #[error("the note is not text, or has control characters: give the file as the node wrote it")]
    Text,
    /// the note is not a text, an empty line, and signatures: give the file as the node wrote it, with its last newline
    #[error(
        "the note is not a text, an empty line, and signatures: give the file as the node wrote it, with its last newline"
    )]
    Form,
}
