//! SHA-256 (FIPS 180-4) of many messages at once, on one core.
//!
//! SHA-256 of one message is a chain: every round waits for the one before, and most of a core idles. Many messages are
//! many chains. What a processor offers for them, best first:
//!
//! - **AVX-512**: sixteen messages, each word of their states in one of sixteen lanes of a register.
//! - **SHA instructions**: two messages. A processor starts one `sha256rnds2` every two cycles, and each takes four: two
//!   messages whose rounds alternate fill the unit.
//!
//! A node hashes every byte that it admits, and a sender every byte that it signs, so this is worth code of our own.
//!
//! Messages may have any lengths: a lane whose message ends goes on with the next one, and when fewer messages are left than
//! sixteen lanes are worth, the SHA instructions carry them on from where they stand.
//!
//! This crate is here, and not a file of `creto-crypto-accel`, because it holds the `unsafe` that calling code for a certain
//! processor takes. What it computes is held to aws-lc over all lengths, and to the standard's own vectors. Nothing in it
//! depends on the content of a message: neither branches nor addresses.

/// A SHA-256 digest.
pub type Hash = [u8; 32];

/// A message in two parts: what is hashed is their concatenation. The first is short, and copied; the second is read where
/// it lies.
#[derive(Clone, Copy, Debug)]
pub struct Message<'m, const HEAD: usize> {
    /// Less than a block: at most 63 bytes, which is checked when the program is compiled.
    pub head: [u8; HEAD],
    /// Everything else.
    pub body: &'m [u8],
}

/// The lanes that this processor has.
#[derive(Clone, Copy, Debug)]
pub struct Lanes(Machine);

/// What the lanes are made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Sixteen lanes of AVX-512, and SHA instructions for what does not fill them.
    SixteenAndTwo,
    /// Sixteen lanes of AVX-512 on a processor without SHA instructions.
    Sixteen,
    /// SHA instructions, two messages at once.
    Two,
}

impl Lanes {
    /// The best ones of this processor; `None` where one message at a time is the best.
    #[must_use]
    #[inline]
    pub fn detect() -> Option<Self> {
        Machine::detect().map(Self)
    }

    /// Those of this kind, if this processor has them: to compare them, and to test them.
    #[must_use]
    pub fn of_kind(kind: Kind) -> Option<Self> {
        Machine::of_kind(kind).map(Self)
    }

    /// What they are made of.
    #[must_use]
    pub fn kind(self) -> Kind {
        self.0.kind()
    }

    /// The digest of each message, in order.
    ///
    /// # Panics
    /// If there are more or fewer messages than places for digests.
    pub fn hash_each<'m, const HEAD: usize>(
        self,
        messages: impl IntoIterator<Item = Message<'m, HEAD>>,
        hashes: &mut [Hash],
    ) {
        self.0.hash_each(messages.into_iter(), hashes);
    }
}

#[cfg(target_arch = "x86_64")]
mod message;
#[cfg(target_arch = "x86_64")]
mod schedule;
#[cfg(target_arch = "x86_64")]
mod words;
#[cfg(target_arch = "x86_64")]
mod x86_64;

#[cfg(target_arch = "x86_64")]
use x86_64::Machine;

#[cfg(not(target_arch = "x86_64"))]
use elsewhere::Machine;

/// Processors for which no lanes are written: a value of this `Machine` cannot be made.
#[cfg(not(target_arch = "x86_64"))]
mod elsewhere {
    use crate::{Hash, Kind, Message};

    #[derive(Clone, Copy, Debug)]
    pub(crate) enum Machine {}

    impl Machine {
        #[inline]
        pub(crate) fn detect() -> Option<Self> {
            None
        }

        pub(crate) fn of_kind(_: Kind) -> Option<Self> {
            None
        }

        pub(crate) fn kind(self) -> Kind {
            match self {}
        }

        pub(crate) fn hash_each<'m, const HEAD: usize>(
            self,
            _: impl Iterator<Item = Message<'m, HEAD>>,
            _: &mut [Hash],
        ) {
            match self {}
        }
    }
}
