//! Frames on a QUIC stream: an 8-byte header, then a body.
//!
//! ```text
//!  0         4      5         6          8
//! +---------+------+---------+----------+------------------
//! | u32 len | type | version | u16 zero | body (len bytes)
//! +---------+------+---------+----------+------------------
//! ```
//!
//! Little-endian. [`FrameDecoder`] takes a stream's bytes in whatever pieces they arrive and gives each body in a buffer
//! of its own that starts at an 8-byte boundary, so that the formats inside can be viewed in place. It costs one copy of
//! the body (0.03 us per KiB) and one allocation per frame, not per message.

use bytes::Bytes;
pub use creto_envelope::FrameType;
use creto_envelope::RejectCode;
pub use creto_envelope::frame::{FRAME_HEADER_BYTES, FRAME_VERSION};
use rkyv::util::AlignedVec;
use thiserror::Error;

#[cfg(test)]
mod tests;

/// Boundary at which every frame body starts in memory.
pub const FRAME_BODY_ALIGN: usize = 8;

/// What is wrong with a frame. All of these are the peer's fault, and the stream cannot be read on after one: where the
/// next frame starts is no longer known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum FrameError {
    /// The header names a version that this node does not speak.
    #[error("frame version {found} is unknown here, send version {FRAME_VERSION}")]
    Version {
        /// The version found.
        found: u8,
    },
    /// The reserved header bytes are not zero.
    #[error("reserved bytes of the frame header hold {found:#06x}, send zero")]
    Reserved {
        /// The value found.
        found: u16,
    },
    /// The header names a type that this version does not have.
    #[error("frame type {found:#04x} is unknown in frame version {FRAME_VERSION}")]
    UnknownType {
        /// The type found.
        found: u8,
    },
    /// The header announces a body above the limit.
    #[error("frame body of {body_bytes} bytes is above the limit of {limit_bytes}, send smaller batches")]
    TooLarge {
        /// The length announced.
        body_bytes: u32,
        /// The limit in force: the type's own, or that of a connection that has not logged in.
        limit_bytes: u32,
    },
    /// The stream was finished inside a frame.
    #[error("the stream ended inside a frame, {missing_bytes} bytes short; resend the frame whole")]
    Truncated {
        /// Bytes that were still to come.
        missing_bytes: u32,
    },
}

impl FrameError {
    /// The code with which a peer is told.
    pub fn reject_code(self) -> RejectCode {
        match self {
            Self::Version { .. } => RejectCode::FrameVersion,
            Self::Reserved { .. } => RejectCode::FrameReserved,
            Self::UnknownType { .. } => RejectCode::FrameUnknownType,
            Self::TooLarge { .. } => RejectCode::FrameOversized,
            Self::Truncated { .. } => RejectCode::FrameTruncated,
        }
    }
}

/// One whole frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RawFrame {
    /// The frame type of the header.
    pub frame_type: FrameType,
    /// The body, 8-byte aligned.
    pub body: Bytes,
}

/// Reads a header and holds it against the version, the type's own limit and `limit_bytes`. The same rules as
/// [`creto_envelope::FrameHeader::parse`], with the numbers kept for the error.
fn parse_header(bytes: [u8; FRAME_HEADER_BYTES], limit_bytes: u32) -> Result<(FrameType, u32), FrameError> {
    let [l0, l1, l2, l3, frame_type, version, r0, r1] = bytes;
    // Version first: another version may have moved everything else.
    if version != FRAME_VERSION {
        return Err(FrameError::Version { found: version });
    }
    let reserved = u16::from_le_bytes([r0, r1]);
    if reserved != 0 {
        return Err(FrameError::Reserved { found: reserved });
    }
    let frame_type = FrameType::from_u8(frame_type).ok_or(FrameError::UnknownType { found: frame_type })?;
    let body_bytes = u32::from_le_bytes([l0, l1, l2, l3]);
    let limit_bytes = limit_bytes.min(u32::try_from(frame_type.body_bytes_max()).unwrap_or(u32::MAX));
    if body_bytes > limit_bytes {
        return Err(FrameError::TooLarge { body_bytes, limit_bytes });
    }
    Ok((frame_type, body_bytes))
}

/// Puts the frames of one stream together from the pieces in which they arrive.
#[derive(Debug, Default)]
pub struct FrameDecoder {
    header: [u8; FRAME_HEADER_BYTES],
    header_filled: usize,
    open: Option<OpenFrame>,
    failed: Option<FrameError>,
}

#[derive(Debug)]
struct OpenFrame {
    frame_type: FrameType,
    body_bytes: usize,
    body: AlignedVec<FRAME_BODY_ALIGN>,
}

impl FrameDecoder {
    /// Takes bytes from the front of `input` until one frame is whole or `input` is empty.
    ///
    /// After an error the decoder answers the same error for ever. `limit_bytes` may change between calls (a login
    /// raises it); it is held against each header as that header is completed.
    pub fn push(&mut self, input: &mut &[u8], limit_bytes: u32) -> Result<Option<RawFrame>, FrameError> {
        if let Some(error) = self.failed {
            return Err(error);
        }
        while !input.is_empty() || self.open.as_ref().is_some_and(|open| open.body_bytes == 0) {
            let Some(open) = &mut self.open else {
                self.fill_header(input, limit_bytes).inspect_err(|error| self.failed = Some(*error))?;
                continue;
            };
            let take = input.len().min(open.body_bytes - open.body.len());
            let (head, rest) = input.split_at(take);
            open.body.extend_from_slice(head);
            *input = rest;
            if open.body.len() == open.body_bytes {
                return Ok(self.open.take().map(OpenFrame::finish));
            }
        }
        Ok(None)
    }

    /// Says whether the stream may end here: an error if it is inside a frame.
    pub fn finish(&self) -> Result<(), FrameError> {
        if let Some(error) = self.failed {
            return Err(error);
        }
        let missing = match &self.open {
            Some(open) => open.body_bytes - open.body.len(),
            None if self.header_filled > 0 => FRAME_HEADER_BYTES - self.header_filled,
            None => return Ok(()),
        };
        Err(FrameError::Truncated { missing_bytes: u32::try_from(missing).unwrap_or(u32::MAX) })
    }

    /// Bytes held for a frame that is not whole yet.
    pub fn held_bytes(&self) -> usize {
        self.header_filled + self.open.as_ref().map_or(0, |open| open.body.len())
    }

    fn fill_header(&mut self, input: &mut &[u8], limit_bytes: u32) -> Result<(), FrameError> {
        let take = input.len().min(FRAME_HEADER_BYTES - self.header_filled);
        let (head, rest) = input.split_at(take);
        self.header[self.header_filled..self.header_filled + take].copy_from_slice(head);
        self.header_filled += take;
        *input = rest;
        if self.header_filled == FRAME_HEADER_BYTES {
            self.header_filled = 0;
            let (frame_type, body_bytes) = parse_header(self.header, limit_bytes)?;
            let body_bytes = body_bytes as usize;
            // The whole body at once: the limit bounds it, pages are only touched as bytes arrive, and growing by
            // doubling would copy every body one more time.
            let body = AlignedVec::with_capacity(body_bytes);
            self.open = Some(OpenFrame { frame_type, body_bytes, body });
        }
        Ok(())
    }
}

#[repr(align(8))]
struct Aligned([u8; FRAME_BODY_ALIGN]);

static NOTHING: Aligned = Aligned([0; FRAME_BODY_ALIGN]);

const _: () = assert!(align_of::<Aligned>() == FRAME_BODY_ALIGN);

impl OpenFrame {
    fn finish(self) -> RawFrame {
        assert_eq!(self.body.len(), self.body_bytes, "a frame is handed out whole");
        // An empty `Bytes` of its own making points nowhere in particular; ours keeps the alignment promised.
        let body =
            if self.body_bytes == 0 { Bytes::from_static(&NOTHING.0[..0]) } else { Bytes::from_owner(self.body) };
        RawFrame { frame_type: self.frame_type, body }
    }
}
