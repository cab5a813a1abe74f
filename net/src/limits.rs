//! Every bound of an endpoint, in one place.

use crate::framing::FRAME_HEADER_BYTES;

/// Bytes of the largest frame body by default: that of the protocol.
#[allow(clippy::cast_possible_truncation, reason = "checked right below, at compile time")]
pub const FRAME_BODY_BYTES_MAX: u32 = creto_envelope::limits::FRAME_BODY_BYTES_MAX as u32;
const _: () = assert!(FRAME_BODY_BYTES_MAX as usize == creto_envelope::limits::FRAME_BODY_BYTES_MAX);

/// Bytes of the largest frame body that a connection may send before [`crate::Endpoint::authenticated`] was called.
/// A login (3,416 bytes) fits; nothing big does.
pub const FRAME_BODY_BYTES_MAX_BEFORE_LOGIN: u32 = 8 << 10;

/// Receive window of a connection before [`crate::Endpoint::authenticated`] was called, in bytes. With the default of
/// 4,096 connections, strangers can make a shard hold 256 MiB in all.
pub const CONNECTION_WINDOW_BYTES_BEFORE_LOGIN: u32 = 64 << 10;

/// Largest number of answers that the endpoint itself owes (Retry, refusal, version negotiation, reset) at one time.
/// More are dropped: the peer's retransmission asks again.
pub const RESPONSES_QUEUED_MAX: usize = 512;

/// GSO batches that one connection may send before the next connection has its turn.
pub const TRANSMITS_PER_CONNECTION_BURST: u32 = 16;

/// Bounds of one shard's endpoint.
///
/// `Default` is made for a few thousand agents per shard on a local network: one submit stream can run at full speed
/// (8 MiB in flight covers 80 ms at 100 MB/s), and the worst case of memory per connection is stated by
/// [`NetLimits::connection_bytes_max`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetLimits {
    /// Connections per shard, handshaking ones included. A further one is refused.
    pub connections_max: usize,
    /// Half-open handshakes above which an unproven address must answer a Retry first.
    pub half_open_retry_above: usize,
    /// Half-open handshakes above which new ones are refused.
    pub half_open_max: usize,
    /// Half-open handshakes from one /24 (IPv4) or /56 (IPv6) above which new ones from there are ignored.
    pub half_open_per_prefix_max: usize,
    /// Time that a handshake may take, in milliseconds.
    pub handshake_timeout_ms: u64,
    /// Streams that a client may hold open at one time.
    pub streams_per_connection_max: u32,
    /// Receive window of one stream in bytes: what a peer may have sent and we not yet read.
    pub stream_window_bytes: u32,
    /// Receive window of a connection in bytes, over all its streams.
    pub connection_window_bytes: u32,
    /// The same before the peer has proved who it is: what a stranger can make the node hold. A login fits many times.
    pub connection_window_bytes_before_login: u32,
    /// Bytes sent and not yet acknowledged that QUIC keeps per connection.
    pub send_window_bytes: u64,
    /// Bytes that wait in a connection's out-queue before QUIC takes them.
    pub out_queue_bytes_max: usize,
    /// Bytes of the largest frame body from a connection that has logged in.
    pub frame_body_bytes_max: u32,
    /// Bytes of the largest frame body before that.
    pub frame_body_bytes_max_before_login: u32,
    /// Bytes read from one stream before the next stream has its turn; also the most that frames waiting in the event
    /// queue may hold beyond one frame.
    pub read_quantum_bytes: usize,
    /// A connection on which nothing arrived for this long is closed, in milliseconds.
    pub idle_timeout_ms: u32,
    /// Interval of keep-alive packets from this side, in milliseconds. `None` on the node: ten thousand idle agents
    /// would cost it a thousand packets a second; agents send theirs.
    pub keep_alive_ms: Option<u32>,
    /// Largest UDP payload that path MTU discovery tries, in bytes.
    pub mtu_upper_bound: u16,
}

impl Default for NetLimits {
    fn default() -> Self {
        Self {
            connections_max: 4_096,
            half_open_retry_above: 128,
            half_open_max: 1_024,
            half_open_per_prefix_max: 512,
            handshake_timeout_ms: 10_000,
            streams_per_connection_max: 8,
            stream_window_bytes: 8 << 20,
            connection_window_bytes: 12 << 20,
            connection_window_bytes_before_login: CONNECTION_WINDOW_BYTES_BEFORE_LOGIN,
            send_window_bytes: 8 << 20,
            out_queue_bytes_max: 4 << 20,
            frame_body_bytes_max: FRAME_BODY_BYTES_MAX,
            frame_body_bytes_max_before_login: FRAME_BODY_BYTES_MAX_BEFORE_LOGIN,
            read_quantum_bytes: 256 << 10,
            idle_timeout_ms: 30_000,
            keep_alive_ms: None,
            mtu_upper_bound: 1_452,
        }
    }
}

impl NetLimits {
    /// The most bytes that one connection can make the node hold: received and unread, half-assembled frames, queued to
    /// send, sent and unacknowledged.
    pub fn connection_bytes_max(&self) -> u64 {
        u64::from(self.connection_window_bytes)
            + u64::from(self.streams_per_connection_max) * u64::from(self.frame_body_bytes_max)
            + self.out_queue_bytes_max as u64
            + self.send_window_bytes
    }

    /// Panics when the limits contradict each other: that is a configuration no connection could work under.
    pub(crate) fn assert_consistent(&self) {
        assert!(self.stream_window_bytes <= self.connection_window_bytes, "a stream's window exceeds its connection's");
        assert!(
            self.out_queue_bytes_max >= self.frame_body_bytes_max as usize + FRAME_HEADER_BYTES,
            "the out-queue cannot hold one frame of the largest size"
        );
        assert!(self.streams_per_connection_max > 0 && self.connections_max > 0, "nobody could connect");
        assert!(self.mtu_upper_bound >= 1_200, "QUIC needs datagrams of 1,200 bytes");
    }
}

const _: () = assert!(FRAME_BODY_BYTES_MAX_BEFORE_LOGIN < FRAME_BODY_BYTES_MAX);
// A login must arrive whole while the small window holds.
const _: () = assert!(FRAME_BODY_BYTES_MAX_BEFORE_LOGIN < CONNECTION_WINDOW_BYTES_BEFORE_LOGIN);
