//! What stands before the application's own bytes in requests and their answers (`docs/patterns.md`).

use bytes::Bytes;
use creto_envelope::Kind;
use creto_envelope::request::{
    ANSWER_HEADER_BYTES, FAILURE_HEADER_BYTES, REQUEST_HEADER_BYTES, RequestPayload, ResponsePayload,
};

/// What a payload was found to be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Framing {
    /// The application's own bytes from the first to the last.
    None,
    /// A request, whose sender waits until then: Unix milliseconds by its clock.
    Request { deadline_ms: u64 },
    /// The answer to one.
    Answered,
    /// The same: it did not work. What is left of the payload is UTF-8.
    Failed { code: u32 },
    /// It says that it is a request or an answer, and is none that this version reads.
    Malformed,
}

impl Framing {
    /// Takes it off a payload.
    pub(crate) fn strip(kind: Kind, payload: Bytes) -> (Self, Bytes) {
        let (framing, header_bytes) = match kind {
            Kind::Request => match RequestPayload::parse(&payload) {
                Ok(None) => (Self::None, 0),
                Ok(Some(request)) => (Self::Request { deadline_ms: request.deadline_ms }, REQUEST_HEADER_BYTES),
                Err(_) => (Self::Malformed, 0),
            },
            Kind::Response => match ResponsePayload::parse(&payload) {
                Ok(None) => (Self::None, 0),
                Ok(Some(ResponsePayload::Answered(_))) => (Self::Answered, ANSWER_HEADER_BYTES),
                Ok(Some(ResponsePayload::Failed { code, .. })) => (Self::Failed { code }, FAILURE_HEADER_BYTES),
                Err(_) => (Self::Malformed, 0),
            },
            _ => (Self::None, 0),
        };
        (framing, payload.slice(header_bytes..))
    }

    /// Whether it answers a request: such a message is its request's, or nobody's. What only says so may be the application's.
    pub(super) fn is_answer(self) -> bool {
        matches!(self, Self::Answered | Self::Failed { .. })
    }
}
