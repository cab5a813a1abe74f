//! A whole frame of any type: header and body.
//!
//! The length in the header is corrected to the input's, so that the input is spent on the body; headers are tried as they
//! are first.
#![no_main]

use creto_fuzz::creto_envelope::FrameHeader;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let Some((header, body)) = data.split_first_chunk::<8>() else { return };
    if let Ok(parsed) = FrameHeader::parse(header) {
        assert_eq!(parsed.to_bytes(), *header, "an accepted header comes back as it was");
    }
    let mut corrected = *header;
    corrected[..4].copy_from_slice(&u32::try_from(body.len()).unwrap_or(u32::MAX).to_le_bytes());
    if let Ok(parsed) = FrameHeader::parse(&corrected) {
        creto_fuzz::with_aligned(body, |body| creto_fuzz::check_body(parsed.frame_type, body));
    }
});
