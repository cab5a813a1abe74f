//! A message as the blocks that SHA-256 compresses: padded as FIPS 180-4 section 5.1.1 says.

use crate::Message;
use crate::words::{BLOCK_BYTES, Block};

/// Bytes of the padding at least: the bit behind the message, and its length.
const PADDING_BYTES: usize = 9;
/// Longest message whose blocks are put together at once.
const ASSEMBLED_BYTES_MAX: usize = 2 * BLOCK_BYTES - PADDING_BYTES;

/// Gives the blocks of one message after the other. All but the first and the last two are read where they lie.
#[derive(Clone, Debug)]
pub(crate) struct Reader<'m> {
    /// The first block, which holds the head, and later the last one or two.
    assembled: [Block; 2],
    stretch: Stretch,
    /// Blocks of the stretch that are left.
    left: usize,
    /// What is left of the body; of whole blocks that are being read, too.
    body: &'m [u8],
    message_bytes: usize,
}

/// Blocks that lie one behind the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stretch {
    First,
    Body,
    /// One block, or two.
    Last {
        count: usize,
    },
}

impl<'m> Reader<'m> {
    /// A reader that has nothing to read.
    pub(crate) const DONE: Self = Self {
        assembled: [[0; BLOCK_BYTES]; 2],
        stretch: Stretch::Last { count: 0 },
        left: 0,
        body: &[],
        message_bytes: 0,
    };

    /// Turns to another message.
    #[inline]
    pub(crate) fn start<const HEAD: usize>(&mut self, message: &Message<'m, HEAD>) {
        const { assert!(HEAD < BLOCK_BYTES, "a head is shorter than a block") };
        let Message { head, body } = message;
        self.message_bytes = HEAD + body.len();
        match body.split_at_checked(BLOCK_BYTES - HEAD) {
            Some((filler, behind)) if HEAD > 0 && self.message_bytes > ASSEMBLED_BYTES_MAX => {
                let first = &mut self.assembled[0];
                first[..HEAD].copy_from_slice(head);
                first[HEAD..].copy_from_slice(filler);
                self.body = behind;
                (self.stretch, self.left) = (Stretch::First, 1);
            }
            _ if self.message_bytes <= ASSEMBLED_BYTES_MAX => self.assemble(head, body),
            _ => self.enter_body(body),
        }
    }

    /// Whether all blocks of the message were given.
    #[inline]
    pub(crate) fn is_done(&self) -> bool {
        self.left == 0
    }

    /// How many blocks [`Reader::blocks`] gives.
    #[inline]
    pub(crate) fn count(&self) -> usize {
        self.left
    }

    /// The next blocks: at least one, until the reader is done.
    #[inline]
    pub(crate) fn blocks(&self) -> &[Block] {
        match self.stretch {
            Stretch::First => &self.assembled[..self.left],
            Stretch::Body => &self.body.as_chunks().0[..self.left],
            Stretch::Last { count } => &self.assembled[count - self.left..count],
        }
    }

    /// Goes on behind this many blocks, of those that [`Reader::blocks`] gives.
    #[inline]
    pub(crate) fn advance(&mut self, count: usize) {
        self.left -= count;
        match self.stretch {
            Stretch::First => self.enter_body(self.body),
            Stretch::Body => {
                self.body = &self.body[count * BLOCK_BYTES..];
                if self.left == 0 {
                    self.assemble(&[], self.body);
                }
            }
            Stretch::Last { .. } => {}
        }
    }

    #[inline]
    fn enter_body(&mut self, body: &'m [u8]) {
        match body.len() / BLOCK_BYTES {
            0 => self.assemble(&[], body),
            whole => {
                self.body = body;
                (self.stretch, self.left) = (Stretch::Body, whole);
            }
        }
    }

    /// Puts the last blocks together: what is left of the message, and the padding.
    #[inline]
    fn assemble<const HEAD: usize>(&mut self, head: &[u8; HEAD], rest: &[u8]) {
        let bytes = HEAD + rest.len();
        let count = if bytes + PADDING_BYTES <= BLOCK_BYTES { 1 } else { 2 };
        self.assembled = [[0; BLOCK_BYTES]; 2];
        let flat = self.assembled.as_flattened_mut();
        flat[..HEAD].copy_from_slice(head);
        flat[HEAD..bytes].copy_from_slice(rest);
        flat[bytes] = 0x80;
        let bits = 8 * self.message_bytes as u64;
        self.assembled[count - 1][BLOCK_BYTES - 8..].copy_from_slice(&bits.to_be_bytes());
        (self.stretch, self.left) = (Stretch::Last { count }, count);
    }
}
