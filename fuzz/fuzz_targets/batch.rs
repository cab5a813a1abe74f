//! Any bytes as a SignedBatch body: the batch, and each envelope that it holds.
#![no_main]

use creto_fuzz::creto_envelope::{BatchView, FrameType};

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    creto_fuzz::with_aligned(data, |body| {
        creto_fuzz::check_batch_header(body.get(8..).unwrap_or_default());
        if !creto_fuzz::check_body(FrameType::SignedBatch, body) {
            return;
        }
        let mut entries = Vec::new();
        let batch = BatchView::parse(&body[8..], &mut entries).expect("the oracle has accepted it");
        for entry in &entries {
            creto_fuzz::check_envelope(batch.envelope(entry));
        }
    });
});
