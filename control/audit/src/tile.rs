//! Names and bytes of tiles and entry bundles, as [c2sp.org/tlog-tiles](https://c2sp.org/tlog-tiles) has them.
//!
//! A bundle is entries one after the other, each behind its length as u16, big-endian. Here a length of zero stands for an entry
//! that is only a hash: it was dropped, or is not disclosed. No entry is empty, so that is never ambiguous.

use crate::limits::{ENTRY_BYTES_MAX, ENTRY_BYTES_MIN};

#[cfg(test)]
mod tests;

/// Hashes of a full tile, and entries of a full bundle.
pub const TILE_WIDTH: usize = 256;

/// The path of a tile below the log's prefix: `tile/0/x001/x234/067`, with `.p/W` when it has fewer than 256 hashes.
#[must_use]
pub fn tile_path(level: u8, index: u64, width: usize) -> String {
    format!("tile/{level}/{}", index_path(index, width))
}

/// The path of a bundle below the log's prefix: `tile/entries/x001/x234/067`.
#[must_use]
pub fn bundle_path(index: u64, width: usize) -> String {
    format!("tile/entries/{}", index_path(index, width))
}

fn index_path(index: u64, width: usize) -> String {
    let mut elements = vec![format!("{:03}", index % 1_000)];
    let mut rest = index / 1_000;
    while rest > 0 {
        elements.insert(0, format!("x{:03}", rest % 1_000));
        rest /= 1_000;
    }
    let path = elements.join("/");
    if width == TILE_WIDTH { path } else { format!("{path}.p/{width}") }
}

/// Appends an entry to a bundle.
///
/// # Panics
/// When the entry is longer than any can be.
pub fn push_entry(bundle: &mut Vec<u8>, entry: &[u8]) {
    assert!(entry.len() <= ENTRY_BYTES_MAX, "an entry of {} bytes", entry.len());
    bundle.extend_from_slice(&u16::try_from(entry.len()).expect("checked above").to_be_bytes());
    bundle.extend_from_slice(entry);
}

/// Appends the place of an entry that is only a hash.
pub fn push_hidden(bundle: &mut Vec<u8>) {
    bundle.extend_from_slice(&[0; 2]);
}

/// The entries of a bundle, in order.
#[derive(Clone, Debug)]
pub struct Entries<'b>(&'b [u8]);

/// One place of a bundle.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Entry<'b> {
    /// Its bytes.
    Full(&'b [u8]),
    /// Only its hash is there.
    Hidden,
    /// The bundle ends inside of it, or it is shorter or longer than any entry: nothing is read after it.
    Broken,
}

/// Reads a bundle.
#[must_use]
pub fn entries(bundle: &[u8]) -> Entries<'_> {
    Entries(bundle)
}

impl<'b> Iterator for Entries<'b> {
    type Item = Entry<'b>;

    fn next(&mut self) -> Option<Entry<'b>> {
        if self.0.is_empty() {
            return None;
        }
        let entry = (|| {
            let (length, rest) = self.0.split_first_chunk::<2>()?;
            let length = usize::from(u16::from_be_bytes(*length));
            if length == 0 {
                return Some((Entry::Hidden, rest));
            }
            let (entry, rest) = rest.split_at_checked(length)?;
            (ENTRY_BYTES_MIN..=ENTRY_BYTES_MAX).contains(&length).then_some((Entry::Full(entry), rest))
        })();
        let (entry, rest) = entry.unwrap_or((Entry::Broken, &[]));
        self.0 = rest;
        Some(entry)
    }
}
