//! The endpoint of one shard: every connection that it owns, driven by datagrams and time.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use aws_lc_rs::{hkdf, hmac};
use bytes::{Bytes, BytesMut};
use quinn_proto::crypto::rustls::QuicServerConfig;
use quinn_proto::{
    ConnectionError, ConnectionHandle, DatagramEvent, Dir, EcnCodepoint, Event, Incoming, ServerConfig, StreamEvent,
    TimeSource, Transmit, VarInt,
};

use crate::cid::{NodeKeys, ShardCids};
use crate::connection::{AddressPrefix, Connection, Phase, ReadProgress};
use crate::event::{CloseReason, ConnId, NetEvent, Pieces, SendError, StreamId};
use crate::limits::{NetLimits, RESPONSES_QUEUED_MAX, TRANSMITS_PER_CONNECTION_BURST};
use crate::tls::EXPORTER_LABEL;
use crate::transport::server_transport;

/// Code with which the node closes connections whose handshake took too long.
const CLOSE_HANDSHAKE_TIMEOUT: u32 = 0x10;

/// What an endpoint needs to know when it is made.
#[derive(Debug)]
pub struct EndpointConfig {
    /// The shard that this endpoint belongs to: the first byte of its connection ids.
    pub shard_index: u8,
    /// Bounds.
    pub limits: NetLimits,
    /// TLS, from [`crate::tls::server_config`].
    pub tls: Arc<rustls::ServerConfig>,
    /// Keys that all shards of the node share.
    pub keys: NodeKeys,
    /// Fresh randomness, different for each shard and each start.
    pub seed: [u8; 32],
}

/// What an endpoint has counted since it was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NetStats {
    /// Datagrams taken in.
    pub datagrams_received: u64,
    /// Datagrams handed out (segments of a GSO batch counted one by one).
    pub datagrams_sent: u64,
    /// Handshakes begun.
    pub handshakes_started: u64,
    /// Handshakes completed.
    pub handshakes_completed: u64,
    /// Retry packets sent to unproven addresses.
    pub handshakes_retried: u64,
    /// Handshakes refused because a limit was reached.
    pub handshakes_refused: u64,
    /// Handshakes ignored because too many from the same network are half-open.
    pub handshakes_ignored: u64,
    /// Connections closed after they were open.
    pub connections_closed: u64,
    /// Frames handed out.
    pub frames_received: u64,
    /// Streams on which something arrived that is no frame.
    pub frame_errors: u64,
    /// Sends refused because the out-queue was full.
    pub sends_refused: u64,
}

/// QUIC for one shard. See the crate's page for the order of calls.
pub struct Endpoint {
    quic: quinn_proto::Endpoint,
    limits: NetLimits,
    clock: Arc<Clock>,
    accepting: bool,
    slots: Vec<Slot>,
    live: usize,
    half_open: usize,
    half_open_by_prefix: BTreeMap<AddressPrefix, u32>,
    /// Slots whose QUIC events must be read.
    dirty: Vec<u32>,
    /// Streams with bytes to read, each once.
    readable: VecDeque<(ConnId, StreamId)>,
    events: VecDeque<NetEvent>,
    /// Slots that may have packets to send, each once.
    transmitting: VecDeque<u32>,
    responses: VecDeque<(Transmit, Vec<u8>)>,
    /// When the last datagram came.
    heard_at: Instant,
    scratch: Vec<u8>,
    /// One entry per connection at most; it may be too early, never too late.
    timers: BTreeSet<(Instant, u32)>,
    stats: NetStats,
}

#[derive(Default)]
struct Slot {
    generation: u32,
    connection: Option<Box<Connection>>,
}

/// Wall time for the age of Retry tokens, moved by the `now` of each call.
struct Clock {
    origin: Instant,
    origin_wall_ms: u64,
    elapsed_ms: AtomicU64,
}

impl TimeSource for Clock {
    fn now(&self) -> SystemTime {
        UNIX_EPOCH + Duration::from_millis(self.origin_wall_ms + self.elapsed_ms.load(Ordering::Relaxed))
    }
}

impl Endpoint {
    /// Makes an endpoint. `wall_ms` is the Unix time of `now`; Retry tokens of other shards are judged by it.
    ///
    /// # Panics
    /// When the limits contradict each other, or the TLS configuration was not made by [`crate::tls`].
    pub fn new(config: EndpointConfig, now: Instant, wall_ms: u64) -> Self {
        let EndpointConfig { shard_index, limits, tls, keys, seed } = config;
        limits.assert_consistent();
        let clock = Arc::new(Clock { origin: now, origin_wall_ms: wall_ms, elapsed_ms: AtomicU64::new(0) });

        let reset_key = hmac::Key::new(hmac::HMAC_SHA256, &keys.reset);
        let token_key = hkdf::Salt::new(hkdf::HKDF_SHA256, &[]).extract(&keys.token);
        let mut endpoint = quinn_proto::EndpointConfig::new(Arc::new(reset_key));
        endpoint
            .cid_generator(move || Box::new(ShardCids::new(shard_index, keys.clone(), &seed)))
            .supported_versions(vec![1])
            // After a restart every agent of the former life asks once; at quinn's 50 a second a thousand of them would
            // wait 20 s. A reset is always smaller than what it answers, so it amplifies nothing.
            .min_reset_interval(Duration::from_micros(100))
            .rng_seed(Some(seed));

        let tls =
            QuicServerConfig::try_from(tls).expect("a configuration of creto_net::tls has the suite of QUIC Initials");
        let mut server = ServerConfig::new(Arc::new(tls), Arc::new(token_key));
        server
            .transport_config(Arc::new(server_transport(&limits)))
            // Incoming handshakes are decided at once, never parked, so nothing may be buffered for them.
            .max_incoming(limits.half_open_max)
            .incoming_buffer_size_total(1 << 20)
            .time_source(Arc::clone(&clock) as Arc<dyn TimeSource>);

        Self {
            quic: quinn_proto::Endpoint::new(Arc::new(endpoint), Some(Arc::new(server)), true, None),
            limits,
            clock,
            accepting: true,
            slots: Vec::new(),
            live: 0,
            half_open: 0,
            half_open_by_prefix: BTreeMap::new(),
            dirty: Vec::new(),
            readable: VecDeque::new(),
            events: VecDeque::new(),
            transmitting: VecDeque::new(),
            responses: VecDeque::new(),
            heard_at: now,
            scratch: Vec::new(),
            timers: BTreeSet::new(),
            stats: NetStats::default(),
        }
    }

    /// Takes in one datagram. It is handled here whatever its connection id says: ask [`crate::owner_shard`] first.
    pub fn handle_datagram(
        &mut self,
        now: Instant,
        remote: SocketAddr,
        local_ip: Option<IpAddr>,
        ecn: Option<EcnCodepoint>,
        datagram: BytesMut,
    ) {
        self.stats.datagrams_received += 1;
        self.heard_at = now;
        let elapsed = now.saturating_duration_since(self.clock.origin);
        self.clock.elapsed_ms.store(u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX), Ordering::Relaxed);
        self.scratch.clear();
        match self.quic.handle(now, remote, local_ip, ecn, datagram, &mut self.scratch) {
            None => {}
            Some(DatagramEvent::ConnectionEvent(handle, event)) => {
                let slot = slot_of(handle);
                if let Some(connection) = self.connection_at(slot) {
                    connection.quic.handle_event(event);
                    self.touch(slot);
                }
            }
            Some(DatagramEvent::NewConnection(incoming)) => self.decide(now, incoming),
            Some(DatagramEvent::Response(transmit)) => self.respond(transmit),
        }
    }

    /// When the clock is next wanted.
    pub fn next_timeout(&self) -> Option<Instant> {
        self.timers.first().map(|(at, _)| *at)
    }

    /// Handles every timer that is due at `now`.
    pub fn handle_timeout(&mut self, now: Instant) {
        while let Some(&(at, slot)) = self.timers.first() {
            if at > now {
                break;
            }
            self.timers.pop_first();
            let Some(connection) = self.connection_at(slot) else { continue };
            connection.armed = None;
            if connection.phase == Phase::Handshaking && connection.handshake_deadline <= now {
                let reason = Bytes::from_static(b"handshake took too long");
                connection.quic.close(now, VarInt::from_u32(CLOSE_HANDSHAKE_TIMEOUT), reason);
                self.leave(slot);
            } else if connection.quic.poll_timeout().is_some_and(|due| due <= now) {
                connection.quic.handle_timeout(now);
            } else {
                // The entry was early: the deadline has moved since. Put the true one in, nothing else to do.
                self.rearm(slot);
                continue;
            }
            self.touch(slot);
        }
    }

    /// The next event. Streams are read here, on demand: what is not asked for stays in QUIC, whose flow control then
    /// holds the sender back.
    pub fn poll_event(&mut self) -> Option<NetEvent> {
        loop {
            if let Some(event) = self.events.pop_front() {
                match event {
                    NetEvent::Frame { .. } => self.stats.frames_received += 1,
                    NetEvent::FrameError { .. } => self.stats.frame_errors += 1,
                    _ => {}
                }
                return Some(event);
            }
            if let Some(slot) = self.dirty.pop() {
                if let Some(connection) = self.connection_at(slot) {
                    connection.dirty = false;
                    self.pump(slot);
                }
            } else if let Some((conn, stream)) = self.readable.pop_front() {
                self.read(conn, stream);
            } else {
                return None;
            }
        }
    }

    /// Whether [`Endpoint::poll_event`] may have more: a driver must not sleep while it says yes.
    pub fn has_events(&self) -> bool {
        !self.events.is_empty() || !self.dirty.is_empty() || !self.readable.is_empty()
    }

    /// Queues whole frames on a stream, all of them or none.
    pub fn send(&mut self, conn: ConnId, stream: StreamId, pieces: impl Into<Pieces>) -> Result<(), SendError> {
        let out_bytes_max = self.limits.out_queue_bytes_max;
        let Some(connection) = self.connection(conn) else { return Err(SendError::Closed) };
        let outcome = connection.send(stream, pieces.into(), out_bytes_max);
        match outcome {
            Ok(()) => self.want_transmit(conn.slot),
            Err(SendError::Full(_)) => self.stats.sends_refused += 1,
            Err(SendError::Closed) => {}
        }
        outcome
    }

    /// Finishes the node's half of a stream once everything queued on it is sent.
    pub fn finish(&mut self, conn: ConnId, stream: StreamId) {
        if let Some(connection) = self.connection(conn) {
            connection.finish(stream);
            self.want_transmit(conn.slot);
        }
    }

    /// Bytes that wait in a connection's out-queue; 0 for one that is gone.
    pub fn queued_bytes(&self, conn: ConnId) -> usize {
        self.peek(conn).map_or(0, Connection::queued_bytes)
    }

    /// Lifts the frame limit of a connection whose peer has proved who it is.
    pub fn authenticated(&mut self, conn: ConnId) {
        let window = VarInt::from_u32(self.limits.connection_window_bytes);
        let Some(connection) = self.connection(conn) else { return };
        connection.authenticated = true;
        connection.quic.set_receive_window(window);
        self.touch(conn.slot);
    }

    /// Stops reading from one stream, or from all of a connection (`None`). Frames already taken from the stream still
    /// come; the peer is held back once its window is used up.
    pub fn pause_reading(&mut self, conn: ConnId, stream: Option<StreamId>) {
        if let Some(connection) = self.connection(conn) {
            connection.pause(stream);
        }
    }

    /// Ends what [`Endpoint::pause_reading`] began, with the same arguments.
    pub fn resume_reading(&mut self, conn: ConnId, stream: Option<StreamId>) {
        let slot = conn.slot as usize;
        if self.peek(conn).is_none() {
            return;
        }
        if let Some(connection) = &mut self.slots[slot].connection {
            let readable = &mut self.readable;
            connection.resume(stream, |stream| readable.push_back((conn, stream)));
        }
    }

    /// Closes a connection now. What was queued is dropped; [`NetEvent::Closed`] follows.
    pub fn close(&mut self, now: Instant, conn: ConnId, code: u32, reason: Bytes) {
        let Some(connection) = self.connection(conn) else { return };
        if connection.phase != Phase::Closed {
            connection.quic.close(now, VarInt::from_u32(code), reason);
            self.closed(conn.slot, CloseReason::Local);
            self.touch(conn.slot);
        }
    }

    /// Refuses new connections from now on; those that are open stay so. The first step of a graceful end.
    pub fn stop_accepting(&mut self) {
        self.accepting = false;
    }

    /// Closes every connection. [`Endpoint::connections`] falls to 0 once all are drained (three probe timeouts).
    pub fn close_all(&mut self, now: Instant, code: u32, reason: &Bytes) {
        for slot in 0..self.slots.len() {
            if let Some(conn) = self.slots[slot].connection.as_ref().map(|connection| connection.id) {
                self.close(now, conn, code, reason.clone());
            }
        }
    }

    /// Connections in any phase.
    pub fn connections(&self) -> usize {
        self.live
    }

    /// Handshakes begun and not complete.
    pub fn half_open(&self) -> usize {
        self.half_open
    }

    /// Round-trip time of a connection as QUIC estimates it.
    pub fn rtt(&self, conn: ConnId) -> Option<Duration> {
        self.peek(conn).map(|connection| connection.quic.rtt())
    }

    /// What was counted so far.
    pub fn stats(&self) -> NetStats {
        self.stats
    }

    /// Writes the next datagram, or GSO batch of up to `segments_max` datagrams, into `buffer` (cleared first).
    ///
    /// A driver whose socket is full keeps that last one, stops asking, and asks on when it can send again.
    pub fn poll_transmit(&mut self, now: Instant, segments_max: usize, buffer: &mut Vec<u8>) -> Option<Transmit> {
        buffer.clear();
        if let Some((transmit, bytes)) = self.responses.pop_front() {
            buffer.extend_from_slice(&bytes);
            self.stats.datagrams_sent += 1;
            return Some(transmit);
        }
        while let Some(&slot) = self.transmitting.front() {
            let out_bytes_max = self.limits.out_queue_bytes_max;
            let Some(connection) = self.connection_at(slot) else {
                self.transmitting.pop_front();
                continue;
            };
            let conn = connection.id;
            let writable = connection.flush(out_bytes_max);
            let transmit = connection.quic.poll_transmit(now, segments_max, buffer);
            match &transmit {
                Some(transmit) => {
                    connection.burst += 1;
                    let rotate = connection.burst >= TRANSMITS_PER_CONNECTION_BURST;
                    if rotate {
                        connection.burst = 0;
                        self.transmitting.rotate_left(1);
                    }
                    let segments = transmit.segment_size.map_or(1, |segment| transmit.size.div_ceil(segment));
                    self.stats.datagrams_sent += segments as u64;
                }
                None => {
                    connection.burst = 0;
                    connection.transmitting = false;
                    self.transmitting.pop_front();
                    self.pump(slot);
                }
            }
            if writable {
                self.events.push_back(NetEvent::Writable { conn });
            }
            if transmit.is_some() {
                return transmit;
            }
        }
        None
    }

    /// Whether [`Endpoint::poll_transmit`] may have more.
    pub fn has_transmits(&self) -> bool {
        !self.responses.is_empty() || !self.transmitting.is_empty()
    }

    /// Takes, defers or turns away a handshake.
    fn decide(&mut self, now: Instant, incoming: Incoming) {
        let prefix = AddressPrefix::from(incoming.remote_address().ip());
        let of_prefix = self.half_open_by_prefix.get(&prefix).copied().unwrap_or(0) as usize;
        if !self.accepting || self.live >= self.limits.connections_max || self.half_open >= self.limits.half_open_max {
            self.stats.handshakes_refused += 1;
            let transmit = self.quic.refuse(incoming, &mut self.scratch);
            self.respond(transmit);
        } else if self.half_open >= self.limits.half_open_retry_above
            && !incoming.remote_address_validated()
            && incoming.may_retry()
        {
            // A Retry keeps nothing here: who can answer it really is where it says it is.
            self.stats.handshakes_retried += 1;
            if let Ok(transmit) = self.quic.retry(incoming, &mut self.scratch) {
                self.respond(transmit);
            }
        } else if of_prefix >= self.limits.half_open_per_prefix_max {
            // Silence: a legitimate client sends its Initial again in a second, when there may be room.
            self.stats.handshakes_ignored += 1;
            self.quic.ignore(incoming);
        } else {
            self.accept(now, incoming, prefix);
        }
    }

    fn accept(&mut self, now: Instant, incoming: Incoming, prefix: AddressPrefix) {
        let remote = incoming.remote_address().ip();
        match self.quic.accept(incoming, now, &mut self.scratch, None) {
            Ok((handle, quic)) => {
                let slot = slot_of(handle);
                if self.slots.len() <= slot as usize {
                    self.slots.resize_with(slot as usize + 1, Slot::default);
                }
                let place = &mut self.slots[slot as usize];
                assert!(place.connection.is_none(), "QUIC gave a handle that is in use");
                place.generation += 1;
                let id = ConnId { slot, generation: place.generation };
                let deadline = now + Duration::from_millis(self.limits.handshake_timeout_ms);
                place.connection = Some(Box::new(Connection::new(id, quic, remote, deadline)));
                self.live += 1;
                self.half_open += 1;
                *self.half_open_by_prefix.entry(prefix).or_default() += 1;
                self.stats.handshakes_started += 1;
                self.touch(slot);
            }
            Err(error) => {
                if let Some(transmit) = error.response {
                    self.respond(transmit);
                }
            }
        }
    }

    fn respond(&mut self, transmit: Transmit) {
        if self.responses.len() < RESPONSES_QUEUED_MAX {
            let bytes = self.scratch[..transmit.size].to_vec();
            self.responses.push_back((transmit, bytes));
        }
    }

    /// Carries events between a connection and the endpoint, and out to the shard.
    fn pump(&mut self, slot: u32) {
        let Some(connection) = self.slots[slot as usize].connection.as_deref_mut() else { return };
        let conn = connection.id;
        let handle = ConnectionHandle(slot as usize);
        let mut drained = false;
        while let Some(event) = connection.quic.poll_endpoint_events() {
            drained |= event.is_drained();
            if let Some(answer) = self.quic.handle_event(handle, event) {
                connection.quic.handle_event(answer);
            }
        }
        while let Some(event) = self.connection_at(slot).and_then(|connection| connection.quic.poll()) {
            match event {
                Event::Connected => self.connected(slot),
                Event::ConnectionLost { reason } => self.closed(slot, close_reason(reason)),
                Event::Stream(StreamEvent::Opened { dir: Dir::Bi }) => self.streams_opened(slot),
                Event::Stream(StreamEvent::Readable { id }) => {
                    self.list_readable(conn, StreamId(id.index()));
                }
                Event::Stream(StreamEvent::Writable { id }) => {
                    if let Some(connection) = self.connection_at(slot) {
                        connection.mark_writable(StreamId(id.index()));
                    }
                    self.want_transmit(slot);
                }
                Event::Stream(StreamEvent::Stopped { id, .. }) => {
                    if let Some(connection) = self.connection_at(slot) {
                        connection.mark_stopped(StreamId(id.index()));
                    }
                }
                // Neither unidirectional streams nor datagrams are allowed to a peer, and the node opens nothing.
                Event::HandshakeDataReady
                | Event::DatagramReceived
                | Event::DatagramsUnblocked
                | Event::Stream(
                    StreamEvent::Opened { dir: Dir::Uni }
                    | StreamEvent::Finished { .. }
                    | StreamEvent::Available { .. },
                ) => {}
            }
        }
        // After the loop: a connection that timed out is lost and drained at once, and only its own event says why.
        if drained {
            self.remove(slot);
        } else {
            self.rearm(slot);
        }
    }

    fn connected(&mut self, slot: u32) {
        let Some(connection) = self.connection_at(slot) else { return };
        if connection.phase != Phase::Handshaking {
            return;
        }
        let mut exporter = [0; 32];
        connection
            .quic
            .crypto_session()
            .export_keying_material(&mut exporter, EXPORTER_LABEL, b"")
            .expect("a complete TLS 1.3 handshake exports any 32 bytes");
        let (conn, remote) = (connection.id, connection.quic.remote_address());
        self.leave(slot);
        if let Some(connection) = self.connection_at(slot) {
            connection.phase = Phase::Open;
        }
        self.stats.handshakes_completed += 1;
        self.events.push_back(NetEvent::Connected { conn, remote, exporter });
    }

    /// Takes a connection out of the half-open count, if it is in there.
    fn leave(&mut self, slot: u32) {
        let Some(connection) = self.slots[slot as usize].connection.as_deref_mut() else { return };
        if connection.phase != Phase::Handshaking {
            return;
        }
        connection.phase = Phase::Closed;
        self.half_open -= 1;
        if let Some(count) = self.half_open_by_prefix.get_mut(&connection.prefix) {
            *count -= 1;
            if *count == 0 {
                self.half_open_by_prefix.remove(&connection.prefix);
            }
        }
    }

    fn closed(&mut self, slot: u32, reason: CloseReason) {
        let Some(connection) = self.connection_at(slot) else { return };
        let conn = connection.id;
        match connection.phase {
            // Nobody was told of it.
            Phase::Handshaking => self.leave(slot),
            Phase::Open => {
                connection.clear();
                self.stats.connections_closed += 1;
                self.events.push_back(NetEvent::Closed { conn, reason });
            }
            Phase::Closed => {}
        }
    }

    fn streams_opened(&mut self, slot: u32) {
        while let Some(connection) = self.connection_at(slot) {
            let conn = connection.id;
            let Some(id) = connection.quic.streams().accept(Dir::Bi) else { break };
            let stream = StreamId(id.index());
            if connection.phase == Phase::Open {
                connection.open_stream(stream);
                self.events.push_back(NetEvent::StreamOpened { conn, stream });
                self.list_readable(conn, stream);
            }
        }
    }

    fn list_readable(&mut self, conn: ConnId, stream: StreamId) {
        if self.connection(conn).is_some_and(|connection| connection.mark_readable(stream)) {
            self.readable.push_back((conn, stream));
        }
    }

    fn read(&mut self, conn: ConnId, stream: StreamId) {
        if self.peek(conn).is_none_or(|connection| connection.phase != Phase::Open) {
            return;
        }
        let Some(connection) = self.slots[conn.slot as usize].connection.as_deref_mut() else { return };
        let mut wants_transmit = false;
        let now = self.heard_at;
        let progress = connection.read(stream, &self.limits, now, &mut self.events, &mut wants_transmit);
        if progress == ReadProgress::More {
            self.readable.push_back((conn, stream));
        }
        if wants_transmit {
            self.want_transmit(conn.slot);
        }
    }

    fn remove(&mut self, slot: u32) {
        self.closed(slot, CloseReason::Local);
        if let Some(connection) = self.slots[slot as usize].connection.take() {
            if let Some(at) = connection.armed {
                self.timers.remove(&(at, slot));
            }
            self.live -= 1;
        }
    }

    fn touch(&mut self, slot: u32) {
        let Some(connection) = self.connection_at(slot) else { return };
        if !std::mem::replace(&mut connection.dirty, true) {
            self.dirty.push(slot);
        }
        self.want_transmit(slot);
    }

    fn want_transmit(&mut self, slot: u32) {
        let Some(connection) = self.connection_at(slot) else { return };
        if !std::mem::replace(&mut connection.transmitting, true) {
            self.transmitting.push_back(slot);
        }
    }

    /// Makes sure that the clock wakes this connection no later than it asks for.
    fn rearm(&mut self, slot: u32) {
        let Some(connection) = self.slots[slot as usize].connection.as_deref_mut() else { return };
        let Some(deadline) = connection.deadline() else { return };
        match connection.armed {
            // Deadlines move later with almost every packet. An early entry costs one look when it fires; moving it
            // each time would cost two tree operations per turn.
            Some(armed) if armed <= deadline => return,
            Some(armed) => {
                self.timers.remove(&(armed, slot));
            }
            None => {}
        }
        connection.armed = Some(deadline);
        self.timers.insert((deadline, slot));
    }

    fn connection_at(&mut self, slot: u32) -> Option<&mut Connection> {
        self.slots.get_mut(slot as usize)?.connection.as_deref_mut()
    }

    fn connection(&mut self, conn: ConnId) -> Option<&mut Connection> {
        self.connection_at(conn.slot).filter(|connection| connection.id == conn)
    }

    fn peek(&self, conn: ConnId) -> Option<&Connection> {
        self.slots.get(conn.slot as usize)?.connection.as_deref().filter(|connection| connection.id == conn)
    }
}

fn slot_of(handle: ConnectionHandle) -> u32 {
    u32::try_from(handle.0).expect("connections are bounded far below 2^32")
}

fn close_reason(error: ConnectionError) -> CloseReason {
    match error {
        ConnectionError::LocallyClosed => CloseReason::Local,
        ConnectionError::ApplicationClosed(close) => CloseReason::Peer { code: close.error_code.into_inner() },
        ConnectionError::TimedOut => CloseReason::TimedOut,
        ConnectionError::Reset => CloseReason::Reset,
        other @ (ConnectionError::VersionMismatch
        | ConnectionError::TransportError(_)
        | ConnectionError::ConnectionClosed(_)
        | ConnectionError::CidsExhausted) => CloseReason::Protocol(other.to_string()),
    }
}
