//! One connection: its streams, their frames, and what waits to be sent.

use std::collections::VecDeque;
use std::net::IpAddr;
use std::time::Instant;

use bytes::Bytes;
use quinn_proto::{ReadError, VarInt, WriteError};

use crate::event::{ConnId, NetEvent, Pieces, SendError, StreamEnd, StreamId};
use crate::framing::FrameDecoder;
use crate::limits::NetLimits;

/// Code with which reading from a stream is stopped after a bad frame.
pub(crate) const STOP_BAD_FRAME: u32 = 1;

/// How far a connection is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    Handshaking,
    Open,
    /// Closed by either side; QUIC still answers stray packets until it is drained.
    Closed,
}

pub(crate) struct Connection {
    pub(crate) id: ConnId,
    pub(crate) quic: quinn_proto::Connection,
    pub(crate) phase: Phase,
    pub(crate) authenticated: bool,
    pub(crate) prefix: AddressPrefix,
    pub(crate) handshake_deadline: Instant,
    /// The entry for this connection in the endpoint's timer set.
    pub(crate) armed: Option<Instant>,
    /// In the endpoint's list of connections whose QUIC events must be read.
    pub(crate) dirty: bool,
    /// In the endpoint's list of connections that may have packets to send.
    pub(crate) transmitting: bool,
    /// GSO batches sent since the connection's turn began.
    pub(crate) burst: u32,
    streams: Vec<Stream>,
    queued_bytes: usize,
    /// Somebody was told `Full` and waits for `Writable`.
    owes_writable: bool,
    reading_paused: bool,
}

struct Stream {
    id: StreamId,
    decoder: FrameDecoder,
    /// Since when a part of a frame is held.
    frame_began: Option<Instant>,
    out: VecDeque<Bytes>,
    /// QUIC refused more; a `Writable` event of its ends this.
    blocked: bool,
    /// In the endpoint's list of readable streams.
    listed: bool,
    /// Bytes may wait in QUIC although the stream is not listed.
    unread: bool,
    paused: bool,
    read_half_done: bool,
    finish_wanted: bool,
    write_half_done: bool,
}

/// The network that an address belongs to, as far as abuse is counted: /24 or /56.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct AddressPrefix([u8; 8]);

impl From<IpAddr> for AddressPrefix {
    fn from(address: IpAddr) -> Self {
        let mut prefix = [0; 8];
        match address.to_canonical() {
            IpAddr::V4(v4) => prefix[..3].copy_from_slice(&v4.octets()[..3]),
            IpAddr::V6(v6) => {
                prefix[0] = 0xff; // keeps the two families apart
                prefix[1..].copy_from_slice(&v6.octets()[..7]);
            }
        }
        Self(prefix)
    }
}

/// What reading from a stream left behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ReadProgress {
    /// Everything that arrived was read.
    Blocked,
    /// The quantum is used up, there is more.
    More,
}

impl Connection {
    pub(crate) fn new(id: ConnId, quic: quinn_proto::Connection, remote: IpAddr, handshake_deadline: Instant) -> Self {
        Self {
            id,
            quic,
            phase: Phase::Handshaking,
            authenticated: false,
            prefix: remote.into(),
            handshake_deadline,
            armed: None,
            dirty: false,
            transmitting: false,
            burst: 0,
            streams: Vec::new(),
            queued_bytes: 0,
            owes_writable: false,
            reading_paused: false,
        }
    }

    pub(crate) fn queued_bytes(&self) -> usize {
        self.queued_bytes
    }

    /// The next moment at which this connection wants the clock.
    pub(crate) fn deadline(&mut self) -> Option<Instant> {
        let quic = self.quic.poll_timeout();
        match self.phase {
            Phase::Handshaking => Some(quic.map_or(self.handshake_deadline, |at| at.min(self.handshake_deadline))),
            _ => quic,
        }
    }

    pub(crate) fn open_stream(&mut self, id: StreamId) {
        self.streams.push(Stream {
            id,
            decoder: FrameDecoder::default(),
            frame_began: None,
            out: VecDeque::new(),
            blocked: false,
            listed: false,
            unread: false,
            paused: false,
            read_half_done: false,
            finish_wanted: false,
            write_half_done: false,
        });
    }

    /// Notes that bytes arrived on a stream. True when the endpoint must list it for reading.
    pub(crate) fn mark_readable(&mut self, id: StreamId) -> bool {
        let conn_paused = self.reading_paused;
        let Some(stream) = self.stream(id) else { return false };
        if stream.read_half_done || stream.listed {
            return false;
        }
        if conn_paused || stream.paused {
            stream.unread = true;
            return false;
        }
        stream.listed = true;
        true
    }

    pub(crate) fn mark_writable(&mut self, id: StreamId) {
        if let Some(stream) = self.stream(id) {
            stream.blocked = false;
        }
    }

    /// The peer will not take more on this stream: what waits for it is dropped.
    pub(crate) fn mark_stopped(&mut self, id: StreamId) {
        let Some(stream) = self.streams.iter_mut().find(|stream| stream.id == id) else { return };
        self.queued_bytes -= stream.drop_out();
        self.retire(id);
    }

    pub(crate) fn pause(&mut self, stream: Option<StreamId>) {
        match stream {
            None => self.reading_paused = true,
            Some(id) => {
                if let Some(stream) = self.stream(id) {
                    stream.paused = true;
                }
            }
        }
    }

    /// Ends a pause; `relist` is called for each stream that must be read now.
    pub(crate) fn resume(&mut self, stream: Option<StreamId>, mut relist: impl FnMut(StreamId)) {
        match stream {
            None => self.reading_paused = false,
            Some(id) => {
                if let Some(stream) = self.stream(id) {
                    stream.paused = false;
                }
            }
        }
        if self.reading_paused {
            return;
        }
        for stream in &mut self.streams {
            if stream.unread && !stream.paused && !stream.listed {
                stream.unread = false;
                stream.listed = true;
                relist(stream.id);
            }
        }
    }

    /// Reads one stream, up to the quantum, into events. `wants_transmit` is set when the peer is owed flow-control credit.
    pub(crate) fn read(
        &mut self,
        id: StreamId,
        limits: &NetLimits,
        now: Instant,
        events: &mut VecDeque<NetEvent>,
        wants_transmit: &mut bool,
    ) -> ReadProgress {
        let conn = self.id;
        let paused = self.reading_paused;
        let limit_bytes = match self.authenticated {
            true => limits.frame_body_bytes_max,
            false => limits.frame_body_bytes_max_before_login,
        };
        let Some(stream) = self.streams.iter_mut().find(|stream| stream.id == id) else { return ReadProgress::Blocked };
        stream.listed = false;
        if stream.read_half_done {
            return ReadProgress::Blocked;
        }
        if paused || stream.paused {
            stream.unread = true;
            return ReadProgress::Blocked;
        }

        let mut recv = self.quic.recv_stream(id.quic());
        let Ok(mut chunks) = recv.read(true) else {
            stream.read_half_done = true;
            return ReadProgress::Blocked;
        };
        let mut left = limits.read_quantum_bytes;
        let mut bad_frame = None;
        let mut end = None;
        while left > 0 && bad_frame.is_none() {
            match chunks.next(left) {
                Ok(Some(chunk)) => {
                    left -= chunk.bytes.len();
                    let mut input = &chunk.bytes[..];
                    loop {
                        match stream.decoder.push(&mut input, limit_bytes) {
                            Ok(Some(frame)) => events.push_back(NetEvent::Frame {
                                conn,
                                stream: id,
                                frame_type: frame.frame_type,
                                body: frame.body,
                                took: now.saturating_duration_since(stream.frame_began.take().unwrap_or(now)),
                            }),
                            Ok(None) => break,
                            Err(error) => {
                                bad_frame = Some(error);
                                break;
                            }
                        }
                    }
                    if stream.frame_began.is_none() && stream.decoder.held_bytes() > 0 {
                        stream.frame_began = Some(now);
                    }
                }
                Ok(None) => {
                    bad_frame = stream.decoder.finish().err();
                    end = Some(StreamEnd::Finished);
                    break;
                }
                Err(ReadError::Reset(code)) => {
                    end = Some(StreamEnd::Reset(code.into_inner()));
                    break;
                }
                Err(ReadError::Blocked) => break,
            }
        }
        *wants_transmit |= chunks.finalize().should_transmit();

        if let Some(error) = bad_frame {
            events.push_back(NetEvent::FrameError { conn, stream: id, error });
            stream.read_half_done = true;
            if end.is_none() {
                // Already-ended streams answer an error here, and need no stopping.
                let _ = recv.stop(VarInt::from_u32(STOP_BAD_FRAME));
                *wants_transmit = true;
            }
        }
        if let Some(end) = end {
            events.push_back(NetEvent::StreamClosed { conn, stream: id, end });
            stream.read_half_done = true;
        }
        if stream.read_half_done {
            self.retire(id);
            return ReadProgress::Blocked;
        }
        if left > 0 {
            return ReadProgress::Blocked;
        }
        stream.listed = true;
        ReadProgress::More
    }

    pub(crate) fn send(&mut self, id: StreamId, pieces: Pieces, out_bytes_max: usize) -> Result<(), SendError> {
        if self.phase != Phase::Open {
            return Err(SendError::Closed);
        }
        let bytes = pieces.bytes();
        if self.queued_bytes + bytes > out_bytes_max && self.stream(id).is_some() {
            self.owes_writable = true;
            return Err(SendError::Full(pieces));
        }
        let Some(stream) = self.streams.iter_mut().find(|stream| stream.id == id) else {
            return Err(SendError::Closed);
        };
        if stream.write_half_done || stream.finish_wanted {
            return Err(SendError::Closed);
        }
        match pieces {
            Pieces::One(one) => stream.out.push_back(one),
            Pieces::Many(many) => stream.out.extend(many),
        }
        self.queued_bytes += bytes;
        Ok(())
    }

    pub(crate) fn finish(&mut self, id: StreamId) {
        if let Some(stream) = self.stream(id) {
            stream.finish_wanted = true;
        }
    }

    /// Hands to QUIC as much of the out-queues as it takes. True when a `Writable` is owed and due.
    pub(crate) fn flush(&mut self, out_bytes_max: usize) -> bool {
        if self.phase != Phase::Open || (self.queued_bytes == 0 && !self.streams.iter().any(|s| s.finish_wanted)) {
            return false;
        }
        let mut retired = false;
        for stream in &mut self.streams {
            while !stream.out.is_empty() && !stream.blocked {
                let mut send = self.quic.send_stream(stream.id.quic());
                match send.write_chunks(stream.out.make_contiguous()) {
                    Ok(written) => {
                        stream.out.drain(..written.chunks);
                        self.queued_bytes -= written.bytes;
                    }
                    Err(WriteError::Blocked) => stream.blocked = true,
                    Err(WriteError::Stopped(_) | WriteError::ClosedStream) => {
                        self.queued_bytes -= stream.drop_out();
                        retired = true;
                    }
                }
            }
            if stream.finish_wanted && stream.out.is_empty() && !stream.write_half_done {
                // An error means that the peer stopped the stream: it is as finished as it can be.
                let _ = self.quic.send_stream(stream.id.quic()).finish();
                stream.write_half_done = true;
                retired = true;
            }
        }
        if retired {
            self.streams.retain(|stream| !stream.over());
        }
        let writable = self.owes_writable && self.queued_bytes <= out_bytes_max / 2;
        if writable {
            self.owes_writable = false;
        }
        writable
    }

    /// Forgets streams and queues: the connection is closed.
    pub(crate) fn clear(&mut self) {
        self.phase = Phase::Closed;
        self.streams = Vec::new();
        self.queued_bytes = 0;
        self.owes_writable = false;
    }

    fn stream(&mut self, id: StreamId) -> Option<&mut Stream> {
        self.streams.iter_mut().find(|stream| stream.id == id)
    }

    fn retire(&mut self, id: StreamId) {
        self.streams.retain(|stream| stream.id != id || !stream.over());
    }
}

impl Stream {
    fn over(&self) -> bool {
        self.read_half_done && self.write_half_done
    }

    fn drop_out(&mut self) -> usize {
        let dropped = self.out.iter().map(Bytes::len).sum();
        self.out.clear();
        self.write_half_done = true;
        dropped
    }
}
