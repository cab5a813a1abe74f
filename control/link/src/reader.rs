//! Takes fields off the front of a frame's body, and never reads past its end.

use crate::frame::LinkError;

pub(crate) struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    pub(crate) fn take(&mut self, count: usize) -> Result<&'a [u8], LinkError> {
        let (head, rest) = self.0.split_at_checked(count).ok_or(LinkError::Length)?;
        self.0 = rest;
        Ok(head)
    }

    pub(crate) fn array<const N: usize>(&mut self) -> Result<[u8; N], LinkError> {
        let (head, rest) = self.0.split_first_chunk::<N>().ok_or(LinkError::Length)?;
        self.0 = rest;
        Ok(*head)
    }

    pub(crate) fn u8(&mut self) -> Result<u8, LinkError> {
        self.array::<1>().map(|[byte]| byte)
    }

    pub(crate) fn u16(&mut self) -> Result<u16, LinkError> {
        self.array().map(u16::from_le_bytes)
    }

    pub(crate) fn u32(&mut self) -> Result<u32, LinkError> {
        self.array().map(u32::from_le_bytes)
    }

    pub(crate) fn u64(&mut self) -> Result<u64, LinkError> {
        self.array().map(u64::from_le_bytes)
    }

    /// A text of this many bytes.
    pub(crate) fn text(&mut self, bytes: usize) -> Result<&'a str, LinkError> {
        str::from_utf8(self.take(bytes)?).map_err(|_| LinkError::Value)
    }

    pub(crate) fn zeros(&mut self, count: usize) -> Result<(), LinkError> {
        if self.take(count)?.iter().all(|&byte| byte == 0) { Ok(()) } else { Err(LinkError::NotZero) }
    }

    pub(crate) fn rest(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.0)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Says that everything was taken.
    pub(crate) fn end(self) -> Result<(), LinkError> {
        if self.0.is_empty() { Ok(()) } else { Err(LinkError::Length) }
    }
}

/// The length of a text that is known to be short enough, in front of it.
pub(crate) fn put_text(out: &mut Vec<u8>, text: &str) {
    let bytes = u16::try_from(text.len()).expect("every text has a limit below 64 KiB");
    out.extend_from_slice(&bytes.to_le_bytes());
    out.extend_from_slice(text.as_bytes());
}
