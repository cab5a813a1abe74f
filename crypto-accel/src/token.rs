//! Tokens for enrolment: secrets that people pass on, as the text that they copy.

use std::fmt;

use zeroize::Zeroizing;

use crate::digest::sha256;

/// What stands before the digits of a token, so that it is recognised where it should not be.
const PREFIX: &str = "creto-enrol-";
const SECRET_BYTES: usize = 32;

/// A token for enrolment. Its secret is erased when it is dropped, and never printed by accident. The frame that carries it to a
/// node is not erased: it goes through QUIC like any other.
pub struct EnrolmentToken(Zeroizing<[u8; SECRET_BYTES]>);

impl EnrolmentToken {
    /// The token with this secret, which should be random.
    #[must_use]
    pub fn new(secret: Zeroizing<[u8; SECRET_BYTES]>) -> Self {
        Self(secret)
    }

    /// Parses the text of [`EnrolmentToken::text`]; `None` for any other.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let digits = text.strip_prefix(PREFIX)?.as_bytes();
        if digits.len() != 2 * SECRET_BYTES {
            return None;
        }
        let mut secret = Zeroizing::new([0; SECRET_BYTES]);
        for (byte, pair) in secret.iter_mut().zip(digits.as_chunks::<2>().0) {
            *byte = digit(pair[0])? << 4 | digit(pair[1])?;
        }
        Some(Self(secret))
    }

    /// The token as people pass it on: `creto-enrol-` and 64 hexadecimal digits.
    #[must_use]
    pub fn text(&self) -> Zeroizing<String> {
        let mut text = Zeroizing::new(String::with_capacity(PREFIX.len() + 2 * SECRET_BYTES));
        text.push_str(PREFIX);
        for byte in self.0.iter() {
            for digit in [byte >> 4, byte & 15] {
                text.push(char::from_digit(u32::from(digit), 16).expect("four bits are one digit"));
            }
        }
        text
    }

    /// The secret, for the one frame that carries it.
    #[must_use]
    pub fn expose(&self) -> &[u8; SECRET_BYTES] {
        &self.0
    }

    /// What names it where it must not be told: the SHA-256 of the secret.
    #[must_use]
    pub fn hash(&self) -> [u8; 32] {
        sha256(&[&self.0[..]])
    }
}

impl fmt::Debug for EnrolmentToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("EnrolmentToken(..)")
    }
}

/// Lower case only: a token has one spelling.
fn digit(byte: u8) -> Option<u8> {
    match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    }
}
