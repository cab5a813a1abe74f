//! SHA-256 (FIPS 180-4) of two messages at once, on one core.
//!
//! A processor with SHA instructions starts one `sha256rnds2` every two cycles, and each takes four: a single message,
//! whose every round waits for the one before, leaves half of the unit idle. Two messages whose rounds alternate fill it.
//! A node hashes every byte that it admits, and a sender every byte that it signs, so this is worth code of our own.
//!
//! This crate is here, and not a file of `creto-crypto-accel`, because it holds the one `unsafe` that calling code for a
//! certain processor takes. What it computes is held to aws-lc over all lengths, and to the standard's own examples.
//! Nothing in it depends on the content of a message: neither branches nor addresses.

/// A SHA-256 digest.
pub type Hash = [u8; 32];

/// A message in two parts: what is hashed is their concatenation. The first is short, and copied; the second is read where
/// it lies.
#[derive(Clone, Copy, Debug)]
pub struct Message<'m> {
    /// At most [`HEAD_BYTES_MAX`] bytes.
    pub head: &'m [u8],
    /// Everything else.
    pub body: &'m [u8],
}

/// Most bytes of [`Message::head`]: it never fills a block alone.
pub const HEAD_BYTES_MAX: usize = 63;

/// The digests of both messages, whatever their lengths; `None` on a processor without SHA instructions.
///
/// # Panics
/// If a head is longer than [`HEAD_BYTES_MAX`].
#[must_use]
#[inline]
pub fn sha256_two(messages: [Message<'_>; 2]) -> Option<[Hash; 2]> {
    for message in &messages {
        assert!(message.head.len() <= HEAD_BYTES_MAX, "a head is shorter than a block");
    }
    #[cfg(target_arch = "x86_64")]
    if x86_64::available() {
        return Some(x86_64::sha256_two(messages));
    }
    None
}

/// Whether this processor hashes two messages at once.
#[must_use]
pub fn available() -> bool {
    #[cfg(target_arch = "x86_64")]
    return x86_64::available();
    #[cfg(not(target_arch = "x86_64"))]
    false
}

mod blocks;
#[cfg(target_arch = "x86_64")]
mod x86_64;
