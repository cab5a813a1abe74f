//! SHA-256 (FIPS 180-4) and SHA3-256 (FIPS 202).

use aws_lc_rs::digest::{Algorithm, Context, SHA3_256, SHA256, digest};

/// A digest.
pub type Hash = [u8; 32];

/// SHA-256 of the concatenation of `parts`. The parts are hashed where they lie; nothing is joined first.
///
/// Concatenation is not injective: where the parts have no fixed length, the caller frames them.
pub fn sha256(parts: &[&[u8]]) -> Hash {
    hash(&SHA256, parts)
}

/// SHA3-256 of the concatenation of `parts`; otherwise as [`sha256`].
pub fn sha3_256(parts: &[&[u8]]) -> Hash {
    hash(&SHA3_256, parts)
}

#[inline]
fn hash(algorithm: &'static Algorithm, parts: &[&[u8]]) -> Hash {
    let output = match parts {
        [whole] => digest(algorithm, whole),
        _ => {
            let mut context = Context::new(algorithm);
            parts.iter().for_each(|part| context.update(part));
            context.finish()
        }
    };
    output.as_ref().try_into().expect("both put out 32 bytes")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digests_are_those_of_fips_180_4_however_the_input_is_cut() {
        let abc = hex::decode("ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad").unwrap();
        assert_eq!(sha256(&[b"abc"]).as_slice(), abc);
        assert_eq!(sha256(&[b"a", b"", b"bc"]).as_slice(), abc);
        let empty = hex::decode("e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855").unwrap();
        assert_eq!(sha256(&[]).as_slice(), empty);
        assert_eq!(sha256(&[b""]).as_slice(), empty);
    }
}
