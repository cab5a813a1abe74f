//! CRC32C (RFC 3720, appendix B.4), and the CRC32C of a whole from that of its last part, which was computed for something else.
//!
//! A frame's checksum covers its messages, and each message has one of its own. Bytes are looked at once: a message is summed
//! for itself, and what that says of the whole takes a few nanoseconds of arithmetic, whatever the message's length.

use crc_fast::{CrcAlgorithm, Digest, crc32_iscsi};

/// CRC32C of `bytes`.
pub(crate) fn crc32c(bytes: &[u8]) -> u32 {
    crc32_iscsi(bytes)
}

/// CRC32C of bytes whose CRC32C is `crc`, followed by `bytes`.
pub(crate) fn crc32c_append(crc: u32, bytes: &[u8]) -> u32 {
    // The library starts from the state itself, which is the checksum with every bit turned.
    let mut digest = Digest::new_with_init_state(CrcAlgorithm::Crc32Iscsi, u64::from(!crc));
    digest.update(bytes);
    u32::try_from(digest.finalize()).expect("a checksum of 32 bits")
}

/// The Castagnoli polynomial as a CRC32C has its bits: the highest term is the lowest bit.
const POLYNOMIAL: u32 = 0x82f6_3b78;

/// What appending 2^k bytes does to each bit of a checksum. A length is a sum of these powers.
const AFTER: [[u32; 32]; BITS] = after();
/// Lengths have at most this many bits.
const BITS: usize = 32;

/// CRC32C of bytes whose CRC32C is `whole` followed by `bytes` others, of which it is known that they turn the CRC32C `before`
/// of some other bytes into `after`.
///
/// A checksum starts from another one by adding it, and everything behind only shifts that sum: two checksums differ after
/// the same bytes by their difference before, shifted over these bytes.
pub(crate) fn appended(whole: u32, before: u32, after: u32, bytes: usize) -> u32 {
    let mut difference = whole ^ before;
    let mut left = bytes;
    while left != 0 {
        difference = apply(&AFTER[left.trailing_zeros() as usize], difference);
        left &= left - 1;
    }
    difference ^ after
}

const fn apply(images: &[u32; 32], crc: u32) -> u32 {
    let mut sum = 0;
    let mut bit = 0;
    while bit < 32 {
        sum ^= images[bit] & 0_u32.wrapping_sub((crc >> bit) & 1);
        bit += 1;
    }
    sum
}

const fn after() -> [[u32; 32]; BITS] {
    // One bit further: a multiplication by x.
    let mut one_bit = [0; 32];
    one_bit[0] = POLYNOMIAL;
    let mut bit = 1;
    while bit < 32 {
        one_bit[bit] = 1 << (bit - 1);
        bit += 1;
    }
    let mut images = twice(&twice(&twice(&one_bit)));
    let mut all = [[0; 32]; BITS];
    let mut power = 0;
    while power < BITS {
        all[power] = images;
        images = twice(&images);
        power += 1;
    }
    all
}

const fn twice(images: &[u32; 32]) -> [u32; 32] {
    let mut both = [0; 32];
    let mut bit = 0;
    while bit < 32 {
        both[bit] = apply(images, images[bit]);
        bit += 1;
    }
    both
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Another library, which other instructions do the work for.
        #[test]
        fn a_sum_is_what_another_implementation_finds_from_any_start_at_any_length_and_place(
            start in any::<u32>(),
            bytes in prop::collection::vec(any::<u8>(), 0..5000),
            from in 0..64_usize,
        ) {
            let bytes = &bytes[from.min(bytes.len())..];
            prop_assert_eq!(crc32c(bytes), ::crc32c::crc32c(bytes));
            prop_assert_eq!(crc32c_append(start, bytes), ::crc32c::crc32c_append(start, bytes));
        }

        #[test]
        fn the_sum_of_the_whole_follows_from_that_of_its_last_part(
            whole in prop::collection::vec(any::<u8>(), 0..300),
            other in prop::collection::vec(any::<u8>(), 0..300),
            last in prop::collection::vec(any::<u8>(), 0..5000),
        ) {
            let (before, sum) = (crc32c(&other), crc32c(&whole));
            let after = crc32c_append(before, &last);
            prop_assert_eq!(appended(sum, before, after, last.len()), crc32c_append(sum, &last));
        }
    }
}
