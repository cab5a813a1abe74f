//! A message as the blocks that SHA-256 compresses: padded as FIPS 180-4 section 5.1.1 says.
#![cfg_attr(not(target_arch = "x86_64"), allow(dead_code, reason = "only the x86-64 code compresses"))]

use crate::Message;

pub(crate) const BLOCK_BYTES: usize = 64;

/// The blocks of one message. All but the first and the last two lie where the message lies.
pub(crate) struct Blocks<'m> {
    first: [u8; BLOCK_BYTES],
    /// Whole blocks of the body behind the first block.
    middle: &'m [[u8; BLOCK_BYTES]],
    /// The rest, the padding and the length: one block or two.
    last: [[u8; BLOCK_BYTES]; 2],
    has_first: bool,
    last_count: usize,
}

impl<'m> Blocks<'m> {
    pub(crate) fn of(message: Message<'m>) -> Self {
        let Message { head, body } = message;
        let bits = 8 * (head.len() as u64 + body.len() as u64);
        let mut first = [0; BLOCK_BYTES];
        // The first block is put together only where there is a head, and enough behind it to fill the block.
        let (has_first, head, body) = match body.split_at_checked(BLOCK_BYTES - head.len()) {
            Some((filler, behind)) if !head.is_empty() => {
                first[..head.len()].copy_from_slice(head);
                first[head.len()..].copy_from_slice(filler);
                (true, &[][..], behind)
            }
            _ => (false, head, body),
        };
        // A head that is left over means that there is less than a block in all.
        let (middle, rest) = body.as_chunks::<BLOCK_BYTES>();
        let rest_bytes = head.len() + rest.len();
        let mut last = [[0; BLOCK_BYTES]; 2];
        let flat = last.as_flattened_mut();
        flat[..head.len()].copy_from_slice(head);
        flat[head.len()..rest_bytes].copy_from_slice(rest);
        flat[rest_bytes] = 0x80;
        let last_count = if rest_bytes + 9 <= BLOCK_BYTES { 1 } else { 2 };
        flat[last_count * BLOCK_BYTES - 8..last_count * BLOCK_BYTES].copy_from_slice(&bits.to_be_bytes());
        Self { first, middle, last, has_first, last_count }
    }

    pub(crate) fn len(&self) -> usize {
        usize::from(self.has_first) + self.middle.len() + self.last_count
    }

    #[inline]
    pub(crate) fn get(&self, index: usize) -> &[u8; BLOCK_BYTES] {
        let Some(behind_first) = index.checked_sub(usize::from(self.has_first)) else { return &self.first };
        match self.middle.get(behind_first) {
            Some(block) => block,
            None => &self.last[behind_first - self.middle.len()],
        }
    }
}
