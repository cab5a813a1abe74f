//! Lanes of x86-64.
//!
//! An engine's `new` asks the processor, so whoever has an engine may use it: the `unsafe` of each stands beside that.

use self::avx512::Sixteen;
use self::sha::Sha;
use crate::schedule::{Engine, Lane, run};
use crate::words::{Block, INITIAL_STATE, State};
use crate::{Hash, Kind, Message};

mod avx512;
mod sha;

/// Busy lanes below which two lanes of SHA instructions are faster than sixteen of AVX-512: a block in each of the sixteen
/// takes as long as ten blocks by SHA instructions, two at a time.
const SIXTEEN_BUSY_MIN: usize = 10;
/// The same on a processor without SHA instructions, where the other way is one message at a time.
const SIXTEEN_ALONE_BUSY_MIN: usize = 2;

/// What this processor has.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Machine(Kind);

impl Machine {
    #[inline]
    pub(crate) fn detect() -> Option<Self> {
        // The standard library asks the processor once; this is a load.
        match (avx512::available(), sha::available()) {
            (true, true) => Some(Self(Kind::SixteenAndTwo)),
            (true, false) => Some(Self(Kind::Sixteen)),
            (false, true) => Some(Self(Kind::Two)),
            (false, false) => None,
        }
    }

    pub(crate) fn of_kind(kind: Kind) -> Option<Self> {
        let is_there = match kind {
            Kind::SixteenAndTwo => avx512::available() && sha::available(),
            Kind::Sixteen => avx512::available(),
            Kind::Two => sha::available(),
        };
        is_there.then_some(Self(kind))
    }

    pub(crate) fn kind(self) -> Kind {
        self.0
    }

    pub(crate) fn hash_each<'m, const HEAD: usize>(
        self,
        mut messages: impl Iterator<Item = Message<'m, HEAD>>,
        hashes: &mut [Hash],
    ) {
        let mut places = 0;
        let mut next_message = |lane: &mut Lane<'m>| {
            let Some(message) = messages.next() else { return false };
            lane.start(&message, places);
            places += 1;
            true
        };
        let sixteen_busy_min = match self.0 {
            Kind::SixteenAndTwo => SIXTEEN_BUSY_MIN,
            Kind::Sixteen => SIXTEEN_ALONE_BUSY_MIN,
            Kind::Two => usize::MAX,
        };
        // What sixteen lanes are not worth goes on in two, and what two are not worth in one.
        let mut left = (hashes.len() >= sixteen_busy_min)
            .then(|| run(&mut Sixteen::new(), sixteen_busy_min, &mut next_message, hashes));
        let mut rest = left.iter_mut().flatten().filter(|lane| !lane.is_idle());
        let mut next = |lane: &mut Lane<'m>| match rest.next() {
            Some(begun) => {
                std::mem::swap(lane, begun);
                true
            }
            None => next_message(lane),
        };
        let mut pair =
            (self.0 != Kind::Sixteen && hashes.len() > 1).then(|| run(&mut Sha::<2>::new(), 2, &mut next, hashes));
        let mut rest = pair.iter_mut().flatten().filter(|lane| !lane.is_idle());
        let next = |lane: &mut Lane<'m>| match rest.next() {
            Some(begun) => {
                std::mem::swap(lane, begun);
                true
            }
            None => next(lane),
        };
        run(&mut Portable::new(), 1, next, hashes);
        assert_eq!(places, hashes.len(), "there is a place for the digest of each message");
    }
}

/// One message at a time, by what RustCrypto has for this processor.
struct Portable(State);

impl Portable {
    fn new() -> Self {
        Self(INITIAL_STATE)
    }
}

impl Engine<1> for Portable {
    fn put(&mut self, _: usize, state: &State) {
        self.0 = *state;
    }

    fn get(&self, _: usize) -> State {
        self.0
    }

    fn compress(&mut self, [run]: [&[Block]; 1], count: usize) {
        sha2::block_api::compress256(&mut self.0, &run[..count]);
    }
}
