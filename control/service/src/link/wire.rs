//! Frames over a byte stream: a header, its check, and only then a body.

use std::io;

use creto_link::limits::FRAME_HEADER_BYTES;
use creto_link::{FrameHeader, LinkError};
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::timeout;

use super::WRITE_MAX;

/// Why a link ended.
#[derive(Debug, Error)]
pub(super) enum WireError {
    #[error("{}", .0)]
    Io(#[from] io::Error),
    #[error(transparent)]
    Frame(#[from] LinkError),
    #[error("the other side took nothing for {} s", WRITE_MAX.as_secs())]
    Stuck,
}

/// Reads one frame. `body` is memory that is used again.
pub(super) async fn read(stream: &mut (impl AsyncRead + Unpin), body: &mut Vec<u8>) -> Result<FrameHeader, WireError> {
    let mut header = [0; FRAME_HEADER_BYTES];
    stream.read_exact(&mut header).await?;
    let header = FrameHeader::parse(&header)?;
    body.resize(header.body_bytes, 0);
    stream.read_exact(body).await?;
    Ok(header)
}

/// Writes one frame; what is buffered leaves with [`flush`].
pub(super) async fn write(stream: &mut (impl AsyncWrite + Unpin), frame: &[u8]) -> Result<(), WireError> {
    timeout(WRITE_MAX, stream.write_all(frame)).await.map_err(|_| WireError::Stuck)??;
    Ok(())
}

pub(super) async fn flush(stream: &mut (impl AsyncWrite + Unpin)) -> Result<(), WireError> {
    timeout(WRITE_MAX, stream.flush()).await.map_err(|_| WireError::Stuck)??;
    Ok(())
}
