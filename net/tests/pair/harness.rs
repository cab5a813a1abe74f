//! A client of quinn-proto and our endpoint on a simulated network, in virtual time.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use creto_envelope::FrameHeader;
use creto_net::framing::FrameType;
use creto_net::tls::{NodeIdentity, client_config, server_config_of};
use creto_net::{ConnId, Endpoint, EndpointConfig, NetEvent, NetLimits, NodeKeys, client_transport};
use quinn_proto as quic;
use quinn_proto::crypto::rustls::QuicClientConfig;

pub(crate) const SHARD: u8 = 7;
pub(crate) const SERVER: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 4433);
const LATENCY: Duration = Duration::from_micros(500);

pub(crate) static IDENTITY: LazyLock<NodeIdentity> = LazyLock::new(|| NodeIdentity::self_signed(&[]).unwrap());

#[derive(Clone, Debug)]
pub(crate) struct Packet {
    pub(crate) from: SocketAddr,
    pub(crate) to_server: bool,
    pub(crate) bytes: Vec<u8>,
}

/// What the network does with the n-th datagram of a direction: how often it arrives, and how much later.
pub(crate) type Fate = Box<dyn FnMut(u64, &Packet) -> Vec<Duration>>;

pub(crate) struct Client {
    pub(crate) endpoint: quic::Endpoint,
    pub(crate) handle: quic::ConnectionHandle,
    pub(crate) conn: quic::Connection,
    pub(crate) address: SocketAddr,
    pub(crate) events: Vec<quic::Event>,
    pub(crate) connected: bool,
    pub(crate) lost: Option<quic::ConnectionError>,
}

pub(crate) struct Pair {
    pub(crate) now: Instant,
    pub(crate) server: Endpoint,
    pub(crate) clients: Vec<Client>,
    pub(crate) events: Vec<NetEvent>,
    pub(crate) limits: NetLimits,
    /// Whether the shard takes events; when it does not, frames stay in the endpoint.
    pub(crate) polling: bool,
    pub(crate) fate: Fate,
    pub(crate) to_server_seen: Vec<Vec<u8>>,
    wire: BTreeMap<(Instant, u64), Packet>,
    sent: [u64; 2],
    order: u64,
}

pub(crate) fn keys() -> NodeKeys {
    NodeKeys::derive(&[42; 32])
}

pub(crate) fn endpoint(limits: NetLimits, shard_index: u8, seed: u8, now: Instant) -> Endpoint {
    let tls = server_config_of(&IDENTITY).unwrap();
    Endpoint::new(EndpointConfig { shard_index, limits, tls, keys: keys(), seed: [seed; 32] }, now, 1_700_000_000_000)
}

#[allow(clippy::disallowed_methods, reason = "virtual time needs one real instant to start from: none can be made up")]
pub(crate) fn origin() -> Instant {
    Instant::now()
}

impl Pair {
    pub(crate) fn new(limits: NetLimits) -> Self {
        let now = origin();
        Self {
            now,
            server: endpoint(limits.clone(), SHARD, 1, now),
            clients: Vec::new(),
            events: Vec::new(),
            limits,
            polling: true,
            fate: Box::new(|_, _| vec![LATENCY]),
            to_server_seen: Vec::new(),
            wire: BTreeMap::new(),
            sent: [0; 2],
            order: 0,
        }
    }

    pub(crate) fn connect(&mut self) -> usize {
        self.connect_with(QuicClientConfig::try_from(client_config(IDENTITY.certificate.clone())).unwrap())
    }

    pub(crate) fn connect_with(&mut self, tls: QuicClientConfig) -> usize {
        let index = self.clients.len();
        let port = 10_000 + u16::try_from(index).unwrap();
        let mut config = quic::ClientConfig::new(Arc::new(tls));
        config.transport_config(Arc::new(client_transport(&self.limits)));
        let mut endpoint = quic::Endpoint::new(Arc::new(quic::EndpointConfig::default()), None, true, Some([9; 32]));
        let (handle, conn) = endpoint.connect(self.now, config, SERVER, "localhost").unwrap();
        let address = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port);
        self.clients.push(Client { endpoint, handle, conn, address, events: vec![], connected: false, lost: None });
        index
    }

    /// Replaces the node by a new life of it: same keys, new everything else.
    pub(crate) fn restart_server(&mut self) {
        self.server = endpoint(self.limits.clone(), SHARD, 2, self.now);
    }

    /// Everything that can happen without the clock moving.
    fn settle(&mut self) {
        let mut buffer = Vec::new();
        for client in &mut self.clients {
            client.settle();
            let mut packets = Vec::new();
            while let Some(transmit) = client.conn.poll_transmit(self.now, 4, &mut buffer) {
                let segment = transmit.segment_size.unwrap_or(transmit.size);
                packets.extend(buffer[..transmit.size].chunks(segment).map(<[u8]>::to_vec));
                buffer.clear();
            }
            client.settle();
            for bytes in packets {
                let packet = Packet { from: client.address, to_server: true, bytes };
                post(&mut self.wire, &mut self.fate, &mut self.sent, &mut self.order, self.now, packet);
            }
        }
        self.poll_server();
        while let Some(transmit) = self.server.poll_transmit(self.now, 4, &mut buffer) {
            let segment = transmit.segment_size.unwrap_or(transmit.size);
            for bytes in buffer[..transmit.size].chunks(segment) {
                let packet = Packet { from: transmit.destination, to_server: false, bytes: bytes.to_vec() };
                post(&mut self.wire, &mut self.fate, &mut self.sent, &mut self.order, self.now, packet);
            }
        }
        self.poll_server();
    }

    pub(crate) fn poll_server(&mut self) {
        while self.polling {
            let Some(event) = self.server.poll_event() else { break };
            self.events.push(event);
        }
    }

    /// One step: to the next arrival or timer. False when nothing is left to happen.
    pub(crate) fn step(&mut self) -> bool {
        self.settle();
        let arrival = self.wire.first_key_value().map(|(key, _)| key.0);
        let timers = self.clients.iter_mut().filter_map(|client| client.conn.poll_timeout());
        let next = timers.chain(arrival).chain(self.server.next_timeout()).min();
        let Some(next) = next else { return false };
        self.now = self.now.max(next);
        if self.server.next_timeout().is_some_and(|at| at <= self.now) {
            self.server.handle_timeout(self.now);
        }
        for client in &mut self.clients {
            if client.conn.poll_timeout().is_some_and(|at| at <= self.now) {
                client.conn.handle_timeout(self.now);
            }
        }
        while let Some(entry) = self.wire.first_entry() {
            if entry.key().0 > self.now {
                break;
            }
            let packet = entry.remove();
            self.deliver(packet);
        }
        self.settle();
        true
    }

    /// Steps until `done`, for at most `limit` of virtual time. True when it was done in time.
    pub(crate) fn run_until(&mut self, limit: Duration, mut done: impl FnMut(&mut Self) -> bool) -> bool {
        let end = self.now + limit;
        loop {
            self.settle();
            if done(self) {
                return true;
            }
            if self.now > end || !self.step() {
                return done(self);
            }
        }
    }

    pub(crate) fn run_for(&mut self, duration: Duration) {
        self.run_until(duration, |_| false);
    }

    pub(crate) fn establish(&mut self) -> (usize, ConnId) {
        let client = self.connect();
        assert!(self.run_until(Duration::from_secs(5), |pair| pair.clients[client].connected));
        assert!(self.run_until(Duration::from_secs(5), |pair| pair.connected().len() > client));
        let conn = *self.connected().last().unwrap();
        (client, conn)
    }

    pub(crate) fn connected(&self) -> Vec<ConnId> {
        let connected = self.events.iter().filter_map(|event| match event {
            NetEvent::Connected { conn, .. } => Some(*conn),
            _ => None,
        });
        connected.collect()
    }

    pub(crate) fn frames(&self) -> Vec<(FrameType, Bytes)> {
        let frames = self.events.iter().filter_map(|event| match event {
            NetEvent::Frame { frame_type, body, .. } => Some((*frame_type, body.clone())),
            _ => None,
        });
        frames.collect()
    }

    pub(crate) fn server_handles(&mut self, from: SocketAddr, bytes: &[u8]) {
        self.server.handle_datagram(self.now, from, None, None, BytesMut::from(bytes));
    }

    fn deliver(&mut self, packet: Packet) {
        if packet.to_server {
            self.server_handles(packet.from, &packet.bytes);
            self.to_server_seen.push(packet.bytes);
            return;
        }
        let Some(client) = self.clients.iter_mut().find(|client| client.address == packet.from) else { return };
        let mut out = Vec::new();
        let data = BytesMut::from(&packet.bytes[..]);
        let event = client.endpoint.handle(self.now, SERVER, None, None, data, &mut out);
        if let Some(quic::DatagramEvent::ConnectionEvent(_, event)) = event {
            client.conn.handle_event(event);
        }
    }
}

fn post(
    wire: &mut BTreeMap<(Instant, u64), Packet>,
    fate: &mut Fate,
    sent: &mut [u64; 2],
    order: &mut u64,
    now: Instant,
    packet: Packet,
) {
    let direction = usize::from(packet.to_server);
    let index = sent[direction];
    sent[direction] += 1;
    for delay in fate(index, &packet) {
        *order += 1;
        wire.insert((now + delay, *order), packet.clone());
    }
}

impl Client {
    fn settle(&mut self) {
        while let Some(event) = self.conn.poll_endpoint_events() {
            if let Some(answer) = self.endpoint.handle_event(self.handle, event) {
                self.conn.handle_event(answer);
            }
        }
        while let Some(event) = self.conn.poll() {
            match event {
                quic::Event::Connected => self.connected = true,
                quic::Event::ConnectionLost { reason } => self.lost = Some(reason),
                other => self.events.push(other),
            }
        }
    }

    pub(crate) fn open(&mut self) -> quic::StreamId {
        self.conn.streams().open(quic::Dir::Bi).unwrap()
    }

    /// Writes as much as QUIC takes now; what it did not take.
    pub(crate) fn write<'a>(&mut self, stream: quic::StreamId, bytes: &'a [u8]) -> &'a [u8] {
        let mut rest = bytes;
        while !rest.is_empty() {
            match self.conn.send_stream(stream).write(rest) {
                Ok(written) => rest = &rest[written..],
                Err(_) => break,
            }
        }
        rest
    }

    pub(crate) fn read(&mut self, stream: quic::StreamId) -> Vec<u8> {
        let mut all = Vec::new();
        let mut recv = self.conn.recv_stream(stream);
        if let Ok(mut chunks) = recv.read(true) {
            while let Ok(Some(chunk)) = chunks.next(usize::MAX) {
                all.extend_from_slice(&chunk.bytes);
            }
            let _ = chunks.finalize();
        }
        all
    }

    pub(crate) fn exporter(&self) -> [u8; 32] {
        let mut out = [0; 32];
        self.conn.crypto_session().export_keying_material(&mut out, creto_net::tls::EXPORTER_LABEL, b"").unwrap();
        out
    }
}

pub(crate) fn frame(frame_type: FrameType, body: &[u8]) -> Vec<u8> {
    let header = FrameHeader { body_bytes: u32::try_from(body.len()).unwrap(), frame_type };
    [&header.to_bytes()[..], body].concat()
}

/// A small deterministic generator (SplitMix64), so that a failing network can be replayed from its seed.
pub(crate) struct Rng(pub(crate) u64);

impl Rng {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(crate) fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }
}
