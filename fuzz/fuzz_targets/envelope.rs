//! Any bytes as one envelope: refused with a code, or every field comes back as it was.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    creto_fuzz::with_aligned(data, creto_fuzz::check_envelope);
});
