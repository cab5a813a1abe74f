//! Places in the chains of channels, sealed for a file: whoever has the file and not the agent's keys has nothing.

use creto_crypto_accel::Backend;
use creto_crypto_accel::seal::{MessageKey, derived_key};
use zeroize::Zeroizing;

use crate::clock;

/// Bytes of a channel key, or of a publisher's chain, as creto-crypto-accel writes them.
const POSITION_BYTES: usize = 112;
const SALT_BYTES: usize = 16;
const TAG_BYTES: usize = 16;
/// Bytes of one that is sealed.
pub(crate) const SEALED_POSITION_BYTES: usize = SALT_BYTES + POSITION_BYTES + TAG_BYTES;
const LABEL: &[u8] = b"creto/channel-file/v1\0";

/// Seals a place in a chain under `key`, for the row `row` of a table.
///
/// # Panics
/// When `position` has another length.
pub(crate) fn seal_position(key: &[u8; 32], row: &[u8], position: &[u8]) -> [u8; SEALED_POSITION_BYTES] {
    assert_eq!(position.len(), POSITION_BYTES, "a place in a chain has one length");
    let mut sealed = [0; SEALED_POSITION_BYTES];
    let (salt, rest) = sealed.split_at_mut(SALT_BYTES);
    clock::fill(salt);
    let (place, tag_place) = rest.split_at_mut(POSITION_BYTES);
    place.copy_from_slice(position);
    // A key of its own for each time that it is written.
    let tag = slot_key(key, row, salt).seal_in_place(&[0; 12], LABEL, place);
    tag_place.copy_from_slice(&tag);
    sealed
}

/// The bytes that were sealed for this row. None: they are not as they were written, or the agent's keys are others.
pub(crate) fn open_position(
    key: &[u8; 32],
    row: &[u8],
    sealed: &[u8; SEALED_POSITION_BYTES],
) -> Option<Zeroizing<Vec<u8>>> {
    let (salt, rest) = sealed.split_at(SALT_BYTES);
    slot_key(key, row, salt).open(&[0; 12], LABEL, rest).ok().map(Zeroizing::new)
}

/// Under which they are sealed: it follows from that of an agent's files of prekeys.
pub(crate) fn channel_file_key(prekey_file_key: &[u8; 32]) -> Zeroizing<[u8; 32]> {
    derived_key(prekey_file_key, &[LABEL])
}

fn slot_key(key: &[u8; 32], row: &[u8], salt: &[u8]) -> MessageKey {
    MessageKey::from_bytes(Backend::AwsLc, derived_key(key, &[LABEL, salt, row]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_opens_in_its_row_with_its_key_and_nowhere_else() {
        let (key, position) = ([1; 32], [7; POSITION_BYTES]);
        let sealed = seal_position(&key, b"row", &position);
        assert_eq!(open_position(&key, b"row", &sealed).unwrap()[..], position);
        assert!(open_position(&[2; 32], b"row", &sealed).is_none());
        assert!(open_position(&key, b"another", &sealed).is_none());
        for at in 0..SEALED_POSITION_BYTES {
            let mut damaged = sealed;
            damaged[at] ^= 1;
            assert!(open_position(&key, b"row", &damaged).is_none());
        }
        assert_ne!(seal_position(&key, b"row", &position), sealed, "never the same bytes twice");
    }
}
