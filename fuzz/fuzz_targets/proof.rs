//! Any bytes as a proof: refused, or understood and written back as they were.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    creto_fuzz::with_aligned(data, |bytes| creto_fuzz::check_proof(bytes));
});
