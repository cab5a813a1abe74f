//! Little-endian fields, read without a panic and written without a gap.

use bytes::Bytes;

/// Length rounded up to a multiple of eight, the alignment of everything inside a frame.
pub(crate) const fn pad8(bytes: usize) -> usize {
    bytes.next_multiple_of(8)
}

/// Reads fields one after the other; `None` once the bytes are used up.
pub(crate) struct Reader<'a> {
    bytes: &'a Bytes,
    at: usize,
}

impl<'a> Reader<'a> {
    pub(crate) fn new(bytes: &'a Bytes) -> Self {
        Self { bytes, at: 0 }
    }

    pub(crate) fn left(&self) -> usize {
        self.bytes.len() - self.at
    }

    pub(crate) fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (field, _) = self.bytes.get(self.at..)?.split_first_chunk::<N>()?;
        self.at += N;
        Some(*field)
    }

    pub(crate) fn u8(&mut self) -> Option<u8> {
        self.array::<1>().map(|[byte]| byte)
    }

    pub(crate) fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_le_bytes)
    }

    pub(crate) fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }

    pub(crate) fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }

    /// A slice that shares the storage of what is read.
    pub(crate) fn slice(&mut self, bytes: usize) -> Option<Bytes> {
        let end = self.at.checked_add(bytes).filter(|&end| end <= self.bytes.len())?;
        let slice = self.bytes.slice(self.at..end);
        self.at = end;
        Some(slice)
    }

    /// Bytes from here to the next multiple of eight.
    pub(crate) fn padding_bytes(&self) -> usize {
        pad8(self.at) - self.at
    }

    /// Skips to the next multiple of eight. What is skipped must be zero: two encodings of one record would be one too many.
    pub(crate) fn padding(&mut self) -> Option<()> {
        let end = pad8(self.at);
        let zeros = self.bytes.get(self.at..end)?;
        self.at = end;
        zeros.iter().all(|&byte| byte == 0).then_some(())
    }
}

/// Writes fields one after the other into a buffer of exactly the right size.
pub(crate) struct Writer<'a> {
    out: &'a mut [u8],
    at: usize,
    mark: usize,
}

impl<'a> Writer<'a> {
    pub(crate) fn new(out: &'a mut [u8]) -> Self {
        Self { out, at: 0, mark: 0 }
    }

    pub(crate) fn at(&self) -> usize {
        self.at
    }

    /// What was written since this was asked the last time.
    pub(crate) fn since_mark(&mut self) -> &[u8] {
        &self.out[std::mem::replace(&mut self.mark, self.at)..self.at]
    }

    pub(crate) fn put(&mut self, bytes: &[u8]) {
        let end = self.at + bytes.len();
        self.out[self.at..end].copy_from_slice(bytes);
        self.at = end;
    }

    pub(crate) fn u8(&mut self, value: u8) {
        self.put(&[value]);
    }

    pub(crate) fn u16(&mut self, value: u16) {
        self.put(&value.to_le_bytes());
    }

    pub(crate) fn u32(&mut self, value: u32) {
        self.put(&value.to_le_bytes());
    }

    pub(crate) fn u64(&mut self, value: u64) {
        self.put(&value.to_le_bytes());
    }

    pub(crate) fn zeros_to(&mut self, end: usize) {
        self.out[self.at..end].fill(0);
        self.at = end;
    }

    pub(crate) fn padding(&mut self) {
        self.zeros_to(pad8(self.at));
    }
}

/// A count or length as the format holds it.
pub(crate) fn length_u32(length: usize) -> u32 {
    u32::try_from(length).expect("every length of the format is bounded far below 4 GiB by limits.rs")
}

/// A count or length of the format as memory knows it.
pub(crate) fn length_usize(length: u32) -> usize {
    usize::try_from(length).expect("this crate needs pointers of 32 bits or more")
}
