//! The SHA extensions of x86-64 (Intel 64 and IA-32 manual, volume 2: SHA256RNDS2, SHA256MSG1, SHA256MSG2).
//!
//! JUSTIFICATION of every `unsafe` here: two leaves at once take 0.80 of the time that they take one by one, two nodes 0.61;
//! none of these instructions can be had without calling code that is compiled for them.

use std::arch::x86_64::{
    __m128i, _mm_add_epi32, _mm_alignr_epi8, _mm_extract_epi32, _mm_set_epi32, _mm_set_epi64x, _mm_setzero_si128,
    _mm_sha256msg1_epu32, _mm_sha256msg2_epu32, _mm_sha256rnds2_epu32, _mm_shuffle_epi8, _mm_shuffle_epi32,
};

use crate::schedule::Engine;
use crate::words::{Block, ROUND_CONSTANTS, State};

pub(crate) fn available() -> bool {
    is_x86_feature_detected!("sha") && is_x86_feature_detected!("ssse3") && is_x86_feature_detected!("sse4.1")
}

/// So many messages, whose rounds alternate. More than two need more than the sixteen registers that there are.
pub(crate) struct Sha<const LANES: usize>([Pair; LANES]);

/// The eight words of a state in the order in which the instructions want them.
#[derive(Clone, Copy)]
struct Pair {
    abef: __m128i,
    cdgh: __m128i,
}

impl<const LANES: usize> Sha<LANES> {
    /// # Panics
    /// On a processor without the instructions: the caller asks [`available`] first.
    #[inline]
    pub(crate) fn new() -> Self {
        assert!(available(), "the caller asks first");
        // SAFETY: the processor has every feature that `zero` is compiled for: asserted in the line above.
        Self([unsafe { zero() }; LANES])
    }
}

impl<const LANES: usize> Engine<LANES> for Sha<LANES> {
    #[inline]
    fn put(&mut self, lane: usize, state: &State) {
        // SAFETY: the processor has every feature that `packed` is compiled for, or `new` had made no engine.
        self.0[lane] = unsafe { packed(state) };
    }

    #[inline]
    fn get(&self, lane: usize) -> State {
        // SAFETY: the processor has every feature that `unpacked` is compiled for, or `new` had made no engine.
        unsafe { unpacked(self.0[lane]) }
    }

    #[inline]
    fn compress(&mut self, runs: [&[Block]; LANES], count: usize) {
        // SAFETY: the processor has every feature that `compress` is compiled for, or `new` had made no engine.
        unsafe { compress(&mut self.0, runs, count) }
    }
}

#[target_feature(enable = "sha,sse4.1,ssse3")]
fn compress<const LANES: usize>(states: &mut [Pair; LANES], runs: [&[Block]; LANES], count: usize) {
    let runs = runs.map(|run| &run[..count]);
    let mut now = *states;
    for index in 0..count {
        compress_one_each(&mut now, runs.map(|run| &run[index]));
    }
    *states = now;
}

/// One block of each lane. Between the rounds of one lane stand those of the other.
#[target_feature(enable = "sha,sse4.1,ssse3")]
#[inline]
fn compress_one_each<const LANES: usize>(states: &mut [Pair; LANES], blocks: [&Block; LANES]) {
    let before = *states;
    let mut schedule = blocks.map(|block| [words(block, 0), words(block, 1), words(block, 2), words(block, 3)]);
    for four in 0..16 {
        let k = |index: usize| ROUND_CONSTANTS[4 * four + index].cast_signed();
        let constants = _mm_set_epi32(k(3), k(2), k(1), k(0));
        for lane in 0..LANES {
            let (state, w) = (&mut states[lane], &schedule[lane]);
            let input = _mm_add_epi32(w[four % 4], constants);
            state.cdgh = _mm_sha256rnds2_epu32(state.cdgh, state.abef, input);
            state.abef = _mm_sha256rnds2_epu32(state.abef, state.cdgh, _mm_shuffle_epi32::<0x0e>(input));
        }
        if four < 12 {
            // The words of four rounds, sixteen rounds later.
            for w in &mut schedule {
                let [w0, w1, w2, w3] = [w[four % 4], w[(four + 1) % 4], w[(four + 2) % 4], w[(four + 3) % 4]];
                let sum = _mm_add_epi32(_mm_sha256msg1_epu32(w0, w1), _mm_alignr_epi8::<4>(w3, w2));
                w[four % 4] = _mm_sha256msg2_epu32(sum, w3);
            }
        }
    }
    for (state, before) in states.iter_mut().zip(before) {
        state.abef = _mm_add_epi32(state.abef, before.abef);
        state.cdgh = _mm_add_epi32(state.cdgh, before.cdgh);
    }
}

/// Sixteen bytes of a block as four big-endian words.
#[target_feature(enable = "sha,sse4.1,ssse3")]
#[inline]
fn words(block: &Block, quarter: usize) -> __m128i {
    let halves = block.as_chunks::<8>().0;
    let [low, high] = [halves[quarter * 2], halves[quarter * 2 + 1]].map(i64::from_le_bytes);
    let swap_bytes_of_words = _mm_set_epi64x(0x0c0d_0e0f_0809_0a0b, 0x0405_0607_0001_0203);
    _mm_shuffle_epi8(_mm_set_epi64x(high, low), swap_bytes_of_words)
}

#[target_feature(enable = "sha,sse4.1,ssse3")]
#[inline]
fn zero() -> Pair {
    Pair { abef: _mm_setzero_si128(), cdgh: _mm_setzero_si128() }
}

#[target_feature(enable = "sha,sse4.1,ssse3")]
#[inline]
fn packed(state: &State) -> Pair {
    let [a, b, c, d, e, f, g, h] = state.map(u32::cast_signed);
    Pair { abef: _mm_set_epi32(a, b, e, f), cdgh: _mm_set_epi32(c, d, g, h) }
}

#[target_feature(enable = "sha,sse4.1,ssse3")]
#[inline]
fn unpacked(Pair { abef, cdgh }: Pair) -> State {
    [
        _mm_extract_epi32::<3>(abef),
        _mm_extract_epi32::<2>(abef),
        _mm_extract_epi32::<3>(cdgh),
        _mm_extract_epi32::<2>(cdgh),
        _mm_extract_epi32::<1>(abef),
        _mm_extract_epi32::<0>(abef),
        _mm_extract_epi32::<1>(cdgh),
        _mm_extract_epi32::<0>(cdgh),
    ]
    .map(i32::cast_unsigned)
}
