//! What the fuzz targets share.

pub mod log_image;
/// The oracle of the formats, the same one that the tests use.
#[path = "../../envelope/tests/canonical/mod.rs"]
mod oracle;

use std::cell::RefCell;

use creto_envelope::{FrameType, RejectCode};
use rkyv::util::AlignedVec;

pub use creto_envelope;
pub use creto_store;

thread_local! {
    static BUFFER: RefCell<AlignedVec> = RefCell::default();
}

/// Hands on a copy that starts at a multiple of eight, as the framing layer hands out bodies.
pub fn with_aligned<T>(bytes: &[u8], inspect: impl FnOnce(&[u8]) -> T) -> T {
    BUFFER.with_borrow_mut(|buffer| {
        buffer.clear();
        buffer.extend_from_slice(bytes);
        inspect(buffer)
    })
}

/// What is accepted must come back byte for byte.
fn check(bytes: &[u8], again: Result<Vec<u8>, RejectCode>) -> bool {
    match again {
        Ok(again) => {
            assert!(again == bytes, "accepted bytes are understood as something else");
            true
        }
        Err(code) => {
            assert_eq!(RejectCode::from_u16(code.as_u16()), Some(code));
            false
        }
    }
}

/// Holds bytes against the rules of an envelope; says whether they are one.
pub fn check_envelope(bytes: &[u8]) -> bool {
    check(bytes, oracle::reencode_envelope(bytes))
}

/// Holds the front of bytes against the rules of a batch header.
pub fn check_batch_header(bytes: &[u8]) -> bool {
    match oracle::reencode_batch_header(bytes) {
        Ok(again) => check(&bytes[..again.len()], Ok(again)),
        Err(code) => check(bytes, Err(code)),
    }
}

/// Holds bytes against the rules of a proof; says whether they are one.
pub fn check_proof(bytes: &[u8]) -> bool {
    match oracle::reencode_proof(bytes) {
        Ok(again) => check(bytes, Ok(again)),
        Err(_) => false,
    }
}

/// Holds bytes against the rules of a frame's body; says whether they are one.
pub fn check_body(frame_type: FrameType, body: &[u8]) -> bool {
    check(body, oracle::reencode(frame_type, body).map(|frame| frame[8..].to_vec()))
}
