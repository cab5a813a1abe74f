//! The SHA extensions of x86-64 (Intel 64 and IA-32 manual, volume 2: SHA256RNDS2, SHA256MSG1, SHA256MSG2).

use std::arch::x86_64::{
    __m128i, _mm_add_epi32, _mm_alignr_epi8, _mm_extract_epi32, _mm_set_epi32, _mm_set_epi64x, _mm_sha256msg1_epu32,
    _mm_sha256msg2_epu32, _mm_sha256rnds2_epu32, _mm_shuffle_epi8, _mm_shuffle_epi32,
};

use crate::blocks::{BLOCK_BYTES, Blocks};
use crate::{Hash, Message};

pub(crate) fn available() -> bool {
    // Detected once by the standard library, then a load.
    is_x86_feature_detected!("sha") && is_x86_feature_detected!("ssse3") && is_x86_feature_detected!("sse4.1")
}

/// # Panics
/// On a processor without the instructions: the caller asks [`available`] first.
#[inline]
pub(crate) fn sha256_two(messages: [Message<'_>; 2]) -> [Hash; 2] {
    assert!(available(), "the caller asks first");
    // SAFETY: the processor has every feature that `hash` is compiled for: asserted in the line above.
    unsafe { hash(messages) }
}

#[target_feature(enable = "sha,sse4.1,ssse3")]
fn hash(messages: [Message<'_>; 2]) -> [Hash; 2] {
    let blocks = messages.map(Blocks::of);
    let mut states = [initial(), initial()];
    let together = blocks[0].len().min(blocks[1].len());
    for index in 0..together {
        compress(&mut states, [blocks[0].get(index), blocks[1].get(index)]);
    }
    for (state, blocks) in states.iter_mut().zip(&blocks) {
        for index in together..blocks.len() {
            compress(std::array::from_mut(state), [blocks.get(index)]);
        }
    }
    [digest(states[0]), digest(states[1])]
}

/// The eight words of a state in the order in which the instructions want them.
#[derive(Clone, Copy)]
struct State {
    abef: __m128i,
    cdgh: __m128i,
}

/// One block of each lane. Between the rounds of one lane stand those of the other.
#[target_feature(enable = "sha,sse4.1,ssse3")]
#[inline]
fn compress<const LANES: usize>(states: &mut [State; LANES], blocks: [&[u8; BLOCK_BYTES]; LANES]) {
    let before = *states;
    let mut schedule = blocks.map(|block| [words(block, 0), words(block, 1), words(block, 2), words(block, 3)]);
    for four in 0..16 {
        let constants = ROUND_CONSTANTS[four];
        let constants = _mm_set_epi32(constants[3], constants[2], constants[1], constants[0]);
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
fn words(block: &[u8; BLOCK_BYTES], quarter: usize) -> __m128i {
    let halves = block.as_chunks::<8>().0;
    let [low, high] = [halves[quarter * 2], halves[quarter * 2 + 1]].map(i64::from_le_bytes);
    let swap_bytes_of_words = _mm_set_epi64x(0x0c0d_0e0f_0809_0a0b, 0x0405_0607_0001_0203);
    _mm_shuffle_epi8(_mm_set_epi64x(high, low), swap_bytes_of_words)
}

#[target_feature(enable = "sha,sse4.1,ssse3")]
#[inline]
fn initial() -> State {
    let [a, b, c, d, e, f, g, h] = INITIAL_STATE;
    State { abef: _mm_set_epi32(a, b, e, f), cdgh: _mm_set_epi32(c, d, g, h) }
}

#[target_feature(enable = "sha,sse4.1,ssse3")]
#[inline]
fn digest(State { abef, cdgh }: State) -> Hash {
    let words = [
        _mm_extract_epi32::<3>(abef),
        _mm_extract_epi32::<2>(abef),
        _mm_extract_epi32::<3>(cdgh),
        _mm_extract_epi32::<2>(cdgh),
        _mm_extract_epi32::<1>(abef),
        _mm_extract_epi32::<0>(abef),
        _mm_extract_epi32::<1>(cdgh),
        _mm_extract_epi32::<0>(cdgh),
    ];
    let mut hash = [0; 32];
    for (bytes, word) in hash.as_chunks_mut::<4>().0.iter_mut().zip(words) {
        *bytes = word.to_be_bytes();
    }
    hash
}

/// FIPS 180-4 section 5.3.3.
const INITIAL_STATE: [i32; 8] =
    signed([0x6a09_e667, 0xbb67_ae85, 0x3c6e_f372, 0xa54f_f53a, 0x510e_527f, 0x9b05_688c, 0x1f83_d9ab, 0x5be0_cd19]);

/// FIPS 180-4 section 4.2.2, four rounds a row.
#[rustfmt::skip]
const ROUND_CONSTANTS: [[i32; 4]; 16] = [
    signed([0x428a_2f98, 0x7137_4491, 0xb5c0_fbcf, 0xe9b5_dba5]),
    signed([0x3956_c25b, 0x59f1_11f1, 0x923f_82a4, 0xab1c_5ed5]),
    signed([0xd807_aa98, 0x1283_5b01, 0x2431_85be, 0x550c_7dc3]),
    signed([0x72be_5d74, 0x80de_b1fe, 0x9bdc_06a7, 0xc19b_f174]),
    signed([0xe49b_69c1, 0xefbe_4786, 0x0fc1_9dc6, 0x240c_a1cc]),
    signed([0x2de9_2c6f, 0x4a74_84aa, 0x5cb0_a9dc, 0x76f9_88da]),
    signed([0x983e_5152, 0xa831_c66d, 0xb003_27c8, 0xbf59_7fc7]),
    signed([0xc6e0_0bf3, 0xd5a7_9147, 0x06ca_6351, 0x1429_2967]),
    signed([0x27b7_0a85, 0x2e1b_2138, 0x4d2c_6dfc, 0x5338_0d13]),
    signed([0x650a_7354, 0x766a_0abb, 0x81c2_c92e, 0x9272_2c85]),
    signed([0xa2bf_e8a1, 0xa81a_664b, 0xc24b_8b70, 0xc76c_51a3]),
    signed([0xd192_e819, 0xd699_0624, 0xf40e_3585, 0x106a_a070]),
    signed([0x19a4_c116, 0x1e37_6c08, 0x2748_774c, 0x34b0_bcb5]),
    signed([0x391c_0cb3, 0x4ed8_aa4a, 0x5b9c_ca4f, 0x682e_6ff3]),
    signed([0x748f_82ee, 0x78a5_636f, 0x84c8_7814, 0x8cc7_0208]),
    signed([0x90be_fffa, 0xa450_6ceb, 0xbef9_a3f7, 0xc671_78f2]),
];

/// The instructions' types are signed; the standard's words are not.
const fn signed<const N: usize>(words: [u32; N]) -> [i32; N] {
    let mut out = [0; N];
    let mut index = 0;
    while index < N {
        out[index] = words[index].cast_signed();
        index += 1;
    }
    out
}
