//! SHA-256 (FIPS 180-4) and SHA3-256 (FIPS 202).

use aws_lc_rs::digest::{Algorithm, Context, SHA3_256, SHA256, digest};
use creto_sha_lanes::{Lanes, Message};

/// A digest.
pub type Hash = [u8; 32];

/// SHA-256 of the concatenation of `parts`. The parts are hashed where they lie; nothing is joined first.
///
/// Concatenation is not injective: where the parts have no fixed length, the caller frames them.
pub fn sha256(parts: &[&[u8]]) -> Hash {
    hash(&SHA256, parts)
}

/// Appends SHA-256(`head` || body) of each body, in order. As many at a time as the processor can.
pub fn sha256_each<'b, const HEAD: usize>(
    head: [u8; HEAD],
    bodies: impl IntoIterator<Item = &'b [u8], IntoIter: ExactSizeIterator>,
    out: &mut Vec<Hash>,
) {
    let bodies = bodies.into_iter();
    let Some(lanes) = Lanes::detect().filter(|_| bodies.len() > 1) else {
        out.extend(bodies.map(|body| sha256(&[&head, body])));
        return;
    };
    let begin = out.len();
    out.resize(begin + bodies.len(), [0; 32]);
    lanes.hash_each(bodies.map(|body| Message { head, body }), &mut out[begin..]);
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

    #[test]
    fn many_at_once_are_hashed_as_one_by_one() {
        for count in [0, 1, 2, 15, 16, 17, 100] {
            let bodies: Vec<Vec<u8>> = (0..count).map(|index| vec![index; usize::from(index) * 3]).collect();
            let mut hashes = vec![[9; 32]];
            sha256_each([2], bodies.iter().map(Vec::as_slice), &mut hashes);
            assert_eq!(hashes[0], [9; 32]);
            let alone: Vec<_> = bodies.iter().map(|body| sha256(&[&[2], body])).collect();
            assert_eq!(hashes[1..], alone);
        }
    }
}
