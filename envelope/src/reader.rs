//! Takes fixed-size fields off the front of a slice, and never reads past its end.

use crate::reject::RejectCode;

pub(crate) struct Reader<'a> {
    bytes: &'a [u8],
    /// What a slice that is too short is called here.
    short: RejectCode,
}

impl<'a> Reader<'a> {
    pub(crate) fn new(bytes: &'a [u8], short: RejectCode) -> Self {
        Self { bytes, short }
    }

    pub(crate) fn take(&mut self, count: usize) -> Result<&'a [u8], RejectCode> {
        let (head, rest) = self.bytes.split_at_checked(count).ok_or(self.short)?;
        self.bytes = rest;
        Ok(head)
    }

    pub(crate) fn array<const N: usize>(&mut self) -> Result<&'a [u8; N], RejectCode> {
        let (head, rest) = self.bytes.split_first_chunk::<N>().ok_or(self.short)?;
        self.bytes = rest;
        Ok(head)
    }

    pub(crate) fn u8(&mut self) -> Result<u8, RejectCode> {
        self.array::<1>().map(|[byte]| *byte)
    }

    pub(crate) fn u16(&mut self) -> Result<u16, RejectCode> {
        self.array().map(|bytes| u16::from_le_bytes(*bytes))
    }

    pub(crate) fn u32(&mut self) -> Result<u32, RejectCode> {
        self.array().map(|bytes| u32::from_le_bytes(*bytes))
    }

    pub(crate) fn u64(&mut self) -> Result<u64, RejectCode> {
        self.array().map(|bytes| u64::from_le_bytes(*bytes))
    }

    /// Takes `count` bytes that must all be zero.
    pub(crate) fn zeros(&mut self, count: usize, otherwise: RejectCode) -> Result<(), RejectCode> {
        if self.take(count)?.iter().all(|&byte| byte == 0) { Ok(()) } else { Err(otherwise) }
    }

    /// What was not taken yet.
    pub(crate) fn rest(&self) -> &'a [u8] {
        self.bytes
    }

    pub(crate) fn remaining(&self) -> usize {
        self.bytes.len()
    }

    /// Says that everything was taken.
    pub(crate) fn end(self) -> Result<(), RejectCode> {
        if self.bytes.is_empty() { Ok(()) } else { Err(RejectCode::FrameLength) }
    }
}

/// Zero bytes that bring `length` to the next multiple of eight.
pub(crate) const fn padding(length: usize) -> usize {
    length.wrapping_neg() & 7
}
