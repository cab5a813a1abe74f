//! AVX-512: each word of sixteen states in one register, lane by lane (Intel 64 and IA-32 manual, volume 2: VPROLD,
//! VPTERNLOGD). The rounds are those of FIPS 180-4 section 6.2.2, as they are written there.
//!
//! JUSTIFICATION of every `unsafe` here: a leaf takes 0.44 of the time that it takes alone, a node 0.33; none of these
//! instructions can be had without calling code that is compiled for them.

use std::arch::x86_64::{
    __m512i, _mm512_add_epi32, _mm512_ror_epi32, _mm512_set_epi64, _mm512_set1_epi32, _mm512_setzero_si512,
    _mm512_shuffle_epi8, _mm512_shuffle_i32x4, _mm512_srli_epi32, _mm512_ternarylogic_epi32, _mm512_unpackhi_epi32,
    _mm512_unpackhi_epi64, _mm512_unpacklo_epi32, _mm512_unpacklo_epi64,
};

use crate::schedule::Engine;
use crate::words::{Block, ROUND_CONSTANTS, State};

pub(crate) const LANES: usize = 16;

pub(crate) fn available() -> bool {
    is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512bw")
}

/// Sixteen states: of each word the sixteen lanes.
#[repr(align(64))]
pub(crate) struct Sixteen([[u32; LANES]; 8]);

impl Sixteen {
    /// # Panics
    /// On a processor without the instructions: the caller asks [`available`] first.
    #[inline]
    pub(crate) fn new() -> Self {
        assert!(available(), "the caller asks first");
        Self([[0; LANES]; 8])
    }
}

impl Engine<LANES> for Sixteen {
    #[inline]
    fn put(&mut self, lane: usize, state: &State) {
        self.0.iter_mut().zip(state).for_each(|(lanes, word)| lanes[lane] = *word);
    }

    #[inline]
    fn get(&self, lane: usize) -> State {
        self.0.each_ref().map(|lanes| lanes[lane])
    }

    #[inline]
    fn compress(&mut self, runs: [&[Block]; LANES], count: usize) {
        // SAFETY: the processor has every feature that `compress` is compiled for, or `new` had made no engine.
        unsafe { compress(&mut self.0, runs, count) }
    }
}

/// The statement once for each of the numbers, which are constants in it: left to itself the compiler makes a loop of so
/// many rounds, and keeps the words in memory.
macro_rules! unrolled {
    ($number:ident in [$($value:literal)+] => $statement:expr) => {
        $({
            #[allow(non_upper_case_globals, reason = "it stands for a number that counts")]
            const $number: usize = $value;
            $statement;
        })+
    };
}
#[target_feature(enable = "avx512f,avx512bw")]
fn compress(states: &mut [[u32; LANES]; 8], mut runs: [&[Block]; LANES], count: usize) {
    // Loops instead of closures: what is handed to a function without these features is not made part of this one.
    let mut now = [_mm512_setzero_si512(); 8];
    for word in 0..8 {
        now[word] = of_words(states[word]);
    }
    for run in &mut runs {
        *run = &run[..count];
    }
    #[allow(clippy::needless_range_loop, reason = "an index is that of a block in each of sixteen runs")]
    for index in 0..count {
        let mut rows = [_mm512_setzero_si512(); LANES];
        for lane in 0..LANES {
            rows[lane] = of_block(&runs[lane][index]);
        }
        compress_one_each(&mut now, rows);
    }
    for word in 0..8 {
        states[word] = to_words(now[word]);
    }
}

/// One block of each lane.
#[target_feature(enable = "avx512f,avx512bw")]
#[inline]
fn compress_one_each(states: &mut [__m512i; 8], blocks: [__m512i; LANES]) {
    let mut w = turned(blocks);
    let mut s = *states;
    let (sixteens, _) = ROUND_CONSTANTS.as_chunks::<16>();
    unrolled!(t in [0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15] => round::<t>(&mut s, w[t], sixteens[0][t]));
    for constants in &sixteens[1..] {
        unrolled!(t in [0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15] => {
            w[t] = next_word(w[t], w[(t + 1) % 16], w[(t + 9) % 16], w[(t + 14) % 16]);
            round::<t>(&mut s, w[t], constants[t]);
        });
    }
    for word in 0..8 {
        states[word] = add(states[word], s[word]);
    }
}

/// The T-th round. Instead of moving all words one place, what they are called moves.
#[target_feature(enable = "avx512f")]
#[inline]
fn round<const T: usize>(s: &mut [__m512i; 8], word: __m512i, constant: u32) {
    let [a, b, c, d, e, f, g, h] = const { [16 - T, 17 - T, 18 - T, 19 - T, 20 - T, 21 - T, 22 - T, 23 - T] };
    let [a, b, c, d, e, f, g, h] = [a % 8, b % 8, c % 8, d % 8, e % 8, f % 8, g % 8, h % 8];
    let sum1 = xor(_mm512_ror_epi32::<6>(s[e]), _mm512_ror_epi32::<11>(s[e]), _mm512_ror_epi32::<25>(s[e]));
    let choice = _mm512_ternarylogic_epi32::<0xca>(s[e], s[f], s[g]);
    let input = add(s[h], add(word, _mm512_set1_epi32(constant.cast_signed())));
    let t1 = add(input, add(sum1, choice));
    let sum0 = xor(_mm512_ror_epi32::<2>(s[a]), _mm512_ror_epi32::<13>(s[a]), _mm512_ror_epi32::<22>(s[a]));
    let majority = _mm512_ternarylogic_epi32::<0xe8>(s[a], s[b], s[c]);
    s[d] = add(s[d], t1);
    s[h] = add(t1, add(sum0, majority));
}

/// A word of the message schedule, from those 16, 15, 7 and 2 before it.
#[target_feature(enable = "avx512f")]
#[inline]
fn next_word(w16: __m512i, w15: __m512i, w7: __m512i, w2: __m512i) -> __m512i {
    let sigma0 = xor(_mm512_ror_epi32::<7>(w15), _mm512_ror_epi32::<18>(w15), _mm512_srli_epi32::<3>(w15));
    let sigma1 = xor(_mm512_ror_epi32::<17>(w2), _mm512_ror_epi32::<19>(w2), _mm512_srli_epi32::<10>(w2));
    add(add(w16, sigma0), add(w7, sigma1))
}

#[target_feature(enable = "avx512f")]
#[inline]
fn add(a: __m512i, b: __m512i) -> __m512i {
    _mm512_add_epi32(a, b)
}

#[target_feature(enable = "avx512f")]
#[inline]
fn xor(a: __m512i, b: __m512i, c: __m512i) -> __m512i {
    _mm512_ternarylogic_epi32::<0x96>(a, b, c)
}

/// Of sixteen blocks, one of each lane, the sixteen big-endian words, each of all lanes.
#[target_feature(enable = "avx512f,avx512bw")]
#[inline]
fn turned(mut rows: [__m512i; LANES]) -> [__m512i; 16] {
    let swap = (0x0c0d_0e0f_0809_0a0b, 0x0405_0607_0001_0203);
    let swap_bytes_of_words = _mm512_set_epi64(swap.0, swap.1, swap.0, swap.1, swap.0, swap.1, swap.0, swap.1);
    for row in &mut rows {
        *row = _mm512_shuffle_epi8(*row, swap_bytes_of_words);
    }
    // First by words, then by pairs of words, then by quarters of a register.
    for four in [0, 4, 8, 12] {
        let [a, b, c, d] = [rows[four], rows[four + 1], rows[four + 2], rows[four + 3]];
        let (ab_low, ab_high) = (_mm512_unpacklo_epi32(a, b), _mm512_unpackhi_epi32(a, b));
        let (cd_low, cd_high) = (_mm512_unpacklo_epi32(c, d), _mm512_unpackhi_epi32(c, d));
        // In quarter q of the j-th of these: word 4q + j of the four rows.
        rows[four] = _mm512_unpacklo_epi64(ab_low, cd_low);
        rows[four + 1] = _mm512_unpackhi_epi64(ab_low, cd_low);
        rows[four + 2] = _mm512_unpacklo_epi64(ab_high, cd_high);
        rows[four + 3] = _mm512_unpackhi_epi64(ab_high, cd_high);
    }
    for j in 0..4 {
        let [a, b, c, d] = [rows[j], rows[4 + j], rows[8 + j], rows[12 + j]];
        let (ab_low, ab_high) = (_mm512_shuffle_i32x4::<0x44>(a, b), _mm512_shuffle_i32x4::<0xee>(a, b));
        let (cd_low, cd_high) = (_mm512_shuffle_i32x4::<0x44>(c, d), _mm512_shuffle_i32x4::<0xee>(c, d));
        rows[j] = _mm512_shuffle_i32x4::<0x88>(ab_low, cd_low);
        rows[4 + j] = _mm512_shuffle_i32x4::<0xdd>(ab_low, cd_low);
        rows[8 + j] = _mm512_shuffle_i32x4::<0x88>(ab_high, cd_high);
        rows[12 + j] = _mm512_shuffle_i32x4::<0xdd>(ab_high, cd_high);
    }
    rows
}

#[target_feature(enable = "avx512f")]
#[inline]
fn of_block(block: &Block) -> __m512i {
    // SAFETY: both are 64 bytes of plain data, and every value of one is a value of the other.
    unsafe { std::mem::transmute::<Block, __m512i>(*block) }
}

#[target_feature(enable = "avx512f")]
#[inline]
fn of_words(words: [u32; LANES]) -> __m512i {
    // SAFETY: both are 64 bytes of plain data, and every value of one is a value of the other.
    unsafe { std::mem::transmute::<[u32; LANES], __m512i>(words) }
}

#[target_feature(enable = "avx512f")]
#[inline]
fn to_words(register: __m512i) -> [u32; LANES] {
    // SAFETY: both are 64 bytes of plain data, and every value of one is a value of the other.
    unsafe { std::mem::transmute::<__m512i, [u32; LANES]>(register) }
}
