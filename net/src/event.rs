//! What an endpoint says and takes: ids, events, pieces to send.

use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use thiserror::Error;

use crate::framing::{FrameError, FrameType};

/// One connection of one endpoint. Never used again for another connection, not even after its slot is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ConnId {
    pub(crate) slot: u32,
    pub(crate) generation: u32,
}

impl ConnId {
    /// The slot in the endpoint's table: small, dense, reused. For arrays kept beside the endpoint's own.
    pub fn slot(self) -> usize {
        self.slot as usize
    }

    /// The id as one number, for logs.
    pub fn as_u64(self) -> u64 {
        u64::from(self.generation) << 32 | u64::from(self.slot)
    }
}

impl fmt::Display for ConnId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "c{}.{}", self.slot, self.generation)
    }
}

/// A stream of a connection: 0 for the first that the client opened, then 1, 2, ...
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct StreamId(pub(crate) u64);

impl StreamId {
    /// The stream's place in the order in which the client opened them.
    pub fn index(self) -> u64 {
        self.0
    }

    pub(crate) fn quic(self) -> quinn_proto::StreamId {
        quinn_proto::StreamId::new(quinn_proto::Side::Client, quinn_proto::Dir::Bi, self.0)
    }
}

impl fmt::Display for StreamId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "s{}", self.0)
    }
}

/// Something that happened. For one connection: `Connected` first, `Closed` last and exactly once.
#[derive(Debug)]
pub enum NetEvent {
    /// The handshake is complete.
    Connected {
        /// The new connection.
        conn: ConnId,
        /// Where the peer is now.
        remote: SocketAddr,
        /// TLS exporter value with label `EXPORTER-creto-login-v1` and empty context (RFC 8446, section 7.5). The same
        /// at both ends, different for each connection: a login signs it.
        exporter: [u8; 32],
    },
    /// The client opened a stream.
    StreamOpened {
        /// Its connection.
        conn: ConnId,
        /// The stream.
        stream: StreamId,
    },
    /// A whole frame arrived.
    Frame {
        /// Its connection.
        conn: ConnId,
        /// Its stream.
        stream: StreamId,
        /// The type of the header.
        frame_type: FrameType,
        /// The body, 8-byte aligned.
        body: Bytes,
        /// From the datagram with which its first bytes were read to the one with its last.
        took: Duration,
    },
    /// The bytes on a stream are no frame. Nothing more is read from it; it can still be answered and finished.
    FrameError {
        /// Its connection.
        conn: ConnId,
        /// Its stream.
        stream: StreamId,
        /// What is wrong.
        error: FrameError,
    },
    /// The client will send nothing more on this stream.
    StreamClosed {
        /// Its connection.
        conn: ConnId,
        /// Its stream.
        stream: StreamId,
        /// How it ended.
        end: StreamEnd,
    },
    /// After [`SendError::Full`]: at least half of the connection's out-queue is free again.
    Writable {
        /// The connection.
        conn: ConnId,
    },
    /// The connection is gone; what waited to be sent is dropped.
    Closed {
        /// The connection.
        conn: ConnId,
        /// Why.
        reason: CloseReason,
    },
}

/// How the client's half of a stream ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StreamEnd {
    /// Everything was sent and read.
    Finished,
    /// The client gave up on it with this code.
    Reset(u64),
}

/// Why a connection is gone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CloseReason {
    /// [`crate::Endpoint::close`] was called.
    Local,
    /// The peer closed it with this code.
    Peer {
        /// Application code.
        code: u64,
    },
    /// Nothing arrived for the idle timeout.
    TimedOut,
    /// The peer restarted and knows nothing of the connection.
    Reset,
    /// The peer broke the protocol, or its QUIC stack gave up. The text is for logs.
    Protocol(String),
}

/// Bytes of one or more whole frames, to be sent in this order.
#[derive(Clone, Debug)]
pub enum Pieces {
    /// All in one buffer.
    One(Bytes),
    /// Several buffers: a header, then bodies that are shared with others.
    Many(Vec<Bytes>),
}

impl Pieces {
    /// Bytes in all.
    pub fn bytes(&self) -> usize {
        match self {
            Self::One(bytes) => bytes.len(),
            Self::Many(pieces) => pieces.iter().map(Bytes::len).sum(),
        }
    }
}

impl From<Bytes> for Pieces {
    fn from(bytes: Bytes) -> Self {
        Self::One(bytes)
    }
}

impl From<Vec<u8>> for Pieces {
    fn from(bytes: Vec<u8>) -> Self {
        Self::One(bytes.into())
    }
}

impl From<Vec<Bytes>> for Pieces {
    fn from(pieces: Vec<Bytes>) -> Self {
        Self::Many(pieces)
    }
}

/// Why nothing was queued. Never a part of the pieces.
#[derive(Debug, Error)]
pub enum SendError {
    /// The out-queue has no room for all of it. The pieces come back; a [`NetEvent::Writable`] will follow.
    #[error("the connection's out-queue is full, wait until it is writable")]
    Full(Pieces),
    /// The connection or this half of the stream is gone.
    #[error("the connection or stream is closed, drop what was meant for it")]
    Closed,
}
