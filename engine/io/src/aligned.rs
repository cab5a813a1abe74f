//! Memory for plain system calls on files that are opened with O_DIRECT.

use crate::limits::BLOCK_BYTES;

/// Memory that starts at a block boundary, as O_DIRECT demands.
#[derive(Debug)]
pub struct AlignedBuffer {
    bytes: Vec<u8>,
    start: usize,
}

impl AlignedBuffer {
    /// A buffer of so many bytes, all of them 0x5a.
    #[must_use]
    pub fn new(len: usize) -> Self {
        let bytes = vec![0x5a; len + BLOCK_BYTES];
        let start = bytes.as_ptr().align_offset(BLOCK_BYTES);
        Self { bytes, start }
    }

    /// How many bytes it has.
    pub(crate) fn len(&self) -> usize {
        self.bytes.len() - BLOCK_BYTES
    }

    /// Its first `len` bytes.
    ///
    /// # Panics
    /// When it has fewer.
    #[must_use]
    pub fn bytes(&self, len: usize) -> &[u8] {
        &self.bytes[self.start..self.start + len]
    }

    /// Its first `len` bytes, to be written to.
    ///
    /// # Panics
    /// When it has fewer.
    pub(crate) fn bytes_mut(&mut self, len: usize) -> &mut [u8] {
        &mut self.bytes[self.start..self.start + len]
    }
}
