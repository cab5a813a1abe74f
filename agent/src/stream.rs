//! Frames on QUIC streams: whole bodies in memory that starts at a multiple of eight, as the views need it.

use bytes::Bytes;
use creto_envelope::control::Reject;
use creto_envelope::frame::FRAME_HEADER_BYTES;
use creto_envelope::{FrameHeader, FrameType, RejectCode};
use quinn::{ReadExactError, RecvStream, SendStream};
use rkyv::util::AlignedVec;

/// One whole frame.
#[derive(Debug)]
pub(crate) struct Frame {
    pub(crate) frame_type: FrameType,
    pub(crate) body: Bytes,
}

/// Why a stream gives no more frames.
#[derive(Debug)]
pub(crate) enum StreamEnd {
    /// The node finished it between two frames, or the connection is gone.
    Ended,
    /// The node broke the protocol, or refused with a code.
    Broken(RejectCode),
}

/// Reads the next frame. Not cancel-safe: a reader owns its stream.
pub(crate) async fn read_frame(stream: &mut RecvStream) -> Result<Frame, StreamEnd> {
    let mut header = [0; FRAME_HEADER_BYTES];
    read_exact(stream, &mut header).await?;
    let header = FrameHeader::parse(&header).map_err(StreamEnd::Broken)?;
    let body = read_body(stream, header.body_bytes as usize).await?;
    Ok(Frame { frame_type: header.frame_type, body })
}

/// Reads `body_bytes`, which the caller has held against a limit.
pub(crate) async fn read_body(stream: &mut RecvStream, body_bytes: usize) -> Result<Bytes, StreamEnd> {
    let mut body = AlignedVec::<8>::with_capacity(body_bytes);
    body.resize(body_bytes, 0);
    read_exact(stream, &mut body).await?;
    // An empty AlignedVec has a dangling but aligned pointer; Bytes would keep it, so both are the same here.
    Ok(Bytes::from_owner(body))
}

pub(crate) async fn read_exact(stream: &mut RecvStream, into: &mut [u8]) -> Result<(), StreamEnd> {
    stream.read_exact(into).await.map_err(|error| match error {
        ReadExactError::FinishedEarly(0) | ReadExactError::ReadError(_) => StreamEnd::Ended,
        ReadExactError::FinishedEarly(_) => StreamEnd::Broken(RejectCode::FrameTruncated),
    })
}

/// Writes whole frames.
pub(crate) async fn write(stream: &mut SendStream, frames: Vec<u8>) -> Result<(), StreamEnd> {
    stream.write_chunk(Bytes::from(frames)).await.map_err(|_| StreamEnd::Ended)
}

/// What a Reject frame says.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Refusal {
    /// The code, or its number when this version does not know it.
    pub(crate) code: Result<RejectCode, u16>,
    pub(crate) retry_after_ms: u32,
    pub(crate) context: [u8; 16],
}

/// Parses a Reject frame.
pub(crate) fn refusal(body: &[u8]) -> Result<Refusal, StreamEnd> {
    let Reject { code, retry_after_ms, context } = Reject::parse(body).map_err(StreamEnd::Broken)?;
    Ok(Refusal { code: RejectCode::from_u16(code).ok_or(code), retry_after_ms, context })
}
