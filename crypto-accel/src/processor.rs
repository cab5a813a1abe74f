//! Which implementation of each primitive runs on this processor, in this build.
//!
//! aws-lc and our SHA-256 of many messages choose when the process starts, by what the processor says of itself; so does dalek
//! between what it was built with. Nothing has to be set for that, and one portable build runs at full speed everywhere
//! (docs/building.md). This module repeats their rules, to say which way they went.

/// What a processor can do, as far as it matters here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[allow(clippy::struct_excessive_bools, reason = "each is one bit of the processor's own answer")]
pub struct Processor {
    /// AES and carry-less multiplication.
    pub aes: bool,
    /// The same on 256 and 512 bits: VAES, VPCLMULQDQ, AVX-512 F, VL, BW and DQ.
    pub vector_aes: bool,
    /// SHA-256 rounds.
    pub sha256: bool,
    /// AVX-512 F and BW: sixteen words at once, and their bytes.
    pub avx512: bool,
    /// AVX2 and BMI2 (x86-64).
    pub avx2: bool,
    /// AVX-512 IFMA and VL (x86-64).
    pub avx512_ifma: bool,
}

impl Processor {
    /// This one.
    #[must_use]
    pub fn detect() -> Self {
        #[cfg(target_arch = "x86_64")]
        {
            macro_rules! has {
                ($($feature:tt),+) => { $(std::arch::is_x86_feature_detected!($feature))&&+ };
            }
            Self {
                aes: has!("aes", "pclmulqdq", "ssse3"),
                vector_aes: has!("vaes", "vpclmulqdq", "avx512f", "avx512vl", "avx512bw", "avx512dq"),
                sha256: has!("sha", "ssse3", "sse4.1"),
                avx512: has!("avx512f", "avx512bw"),
                avx2: has!("avx2", "bmi2"),
                avx512_ifma: has!("avx512ifma", "avx512vl"),
            }
        }
        #[cfg(target_arch = "aarch64")]
        {
            Self {
                aes: std::arch::is_aarch64_feature_detected!("aes"),
                sha256: std::arch::is_aarch64_feature_detected!("sha2"),
                ..Self::default()
            }
        }
        #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
        Self::default()
    }
}

/// How one primitive is computed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Choice {
    /// The primitive.
    pub primitive: &'static str,
    /// What computes it.
    pub by: &'static str,
    /// Whether that is several times slower than what other processors have.
    pub is_slow: bool,
}

/// Whether dalek was built with its AVX-512 backend: `--cfg curve25519_dalek_backend="avx512"`, or a `target-cpu` that has
/// AVX-512 IFMA. It still asks the processor before it uses it.
#[allow(unexpected_cfgs, reason = "the cfg is dalek's, set for the whole build")]
#[must_use]
pub const fn has_dalek_avx512() -> bool {
    cfg!(all(
        target_arch = "x86_64",
        not(any(
            curve25519_dalek_backend = "serial",
            curve25519_dalek_backend = "fiat",
            curve25519_dalek_backend = "simd"
        )),
        any(curve25519_dalek_backend = "avx512", all(target_feature = "avx512ifma", target_feature = "avx512vl"))
    ))
}

/// What runs on `processor` in a build with or without dalek's AVX-512 backend.
#[must_use]
pub fn choices(processor: &Processor, dalek_avx512: bool) -> Vec<Choice> {
    let choice = |primitive, by, is_slow| Choice { primitive, by, is_slow };
    let is_x86 = cfg!(target_arch = "x86_64");
    let aes = match (processor.vector_aes, processor.aes) {
        (true, _) => choice("AES-256-GCM", "aws-lc, VAES and AVX-512", false),
        (false, true) => choice("AES-256-GCM", "aws-lc, AES instructions", false),
        (false, false) => choice("AES-256-GCM", "aws-lc, no AES instructions", true),
    };
    // What `creto-sha-lanes` does for leaves and nodes, where most of the hashing is; aws-lc hashes the rest.
    let sha256 = match (is_x86, processor.avx512, processor.sha256) {
        (true, true, true) => choice("SHA-256", "AVX-512, sixteen messages at once, and SHA instructions", false),
        (true, true, false) => choice("SHA-256", "AVX-512, sixteen messages at once", false),
        (true, false, true) => choice("SHA-256", "SHA instructions, two messages at once", false),
        (false, _, true) => choice("SHA-256", "aws-lc, SHA instructions", false),
        (_, _, false) => choice("SHA-256", "aws-lc, no SHA instructions", true),
    };
    let lattice = match (is_x86, processor.avx2) {
        (true, true) => choice("ML-DSA-65, ML-KEM-768", "aws-lc, AVX2", false),
        (true, false) => choice("ML-DSA-65, ML-KEM-768", "aws-lc, portable", true),
        (false, _) => choice("ML-DSA-65, ML-KEM-768", "aws-lc", false),
    };
    let ed25519 = match (processor.avx512_ifma && dalek_avx512, processor.avx2) {
        (true, _) => choice("Ed25519 verification", "dalek, AVX-512 IFMA", false),
        (false, true) => choice("Ed25519 verification", "dalek, AVX2", false),
        (false, false) => choice("Ed25519 verification", "dalek, serial", is_x86),
    };
    vec![aes, sha256, lattice, ed25519]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn by(processor: &Processor, dalek_avx512: bool) -> Vec<&'static str> {
        choices(processor, dalek_avx512).into_iter().map(|choice| choice.by).collect()
    }

    #[cfg(target_arch = "x86_64")]
    #[test]
    fn the_best_that_a_processor_has_is_chosen() {
        let new = Processor { aes: true, vector_aes: true, sha256: true, avx512: true, avx2: true, avx512_ifma: true };
        let (sixteen, pairs) = ("AVX-512, sixteen messages at once", "SHA instructions, two messages at once");
        let both = "AVX-512, sixteen messages at once, and SHA instructions";
        assert_eq!(by(&new, false), ["aws-lc, VAES and AVX-512", both, "aws-lc, AVX2", "dalek, AVX2"]);
        assert_eq!(by(&Processor { sha256: false, ..new }, false)[1], sixteen);
        assert_eq!(by(&new, true)[3], "dalek, AVX-512 IFMA");
        let plain = Processor { aes: true, sha256: true, avx2: true, ..Processor::default() };
        assert_eq!(by(&plain, true), ["aws-lc, AES instructions", pairs, "aws-lc, AVX2", "dalek, AVX2"]);
        assert!(choices(&plain, false).iter().all(|choice| !choice.is_slow));
        // x86-64-v2, the oldest that a portable build runs on.
        assert!(choices(&Processor::default(), false).iter().all(|choice| choice.is_slow));
    }

    #[test]
    fn this_processor_is_one_of_them_and_has_the_lanes_that_are_said() {
        use creto_sha_lanes::{Kind, Lanes};
        let choices = choices(&Processor::detect(), has_dalek_avx512());
        assert_eq!(choices.len(), 4);
        let said = match Lanes::detect().map(Lanes::kind) {
            Some(Kind::SixteenAndTwo) => "AVX-512, sixteen messages at once, and SHA instructions",
            Some(Kind::Sixteen) => "AVX-512, sixteen messages at once",
            Some(Kind::Two) => "SHA instructions, two messages at once",
            None => "aws-lc",
        };
        assert!(choices[1].by.starts_with(said), "{choices:?}");
    }
}
