//! A shard's QUIC endpoint and its framing, fed with what anybody on the network may send.
//!
//! The first byte chooses: datagrams of any content, an honest handshake whose datagrams are damaged on the way, or the bytes
//! of one stream, cut into pieces. Time moves as the input says.
#![no_main]

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use bytes::BytesMut;
use creto_net::framing::FrameDecoder;
use creto_net::tls::{NodeIdentity, client_config, server_config_of};
use creto_net::{Endpoint, EndpointConfig, NetEvent, NetLimits, NodeKeys, client_transport};
use quinn_proto as quic;
use quinn_proto::crypto::rustls::QuicClientConfig;

static IDENTITY: LazyLock<NodeIdentity> = LazyLock::new(|| NodeIdentity::self_signed(&[]).expect("names are given"));
static ORIGIN: LazyLock<Instant> = LazyLock::new(Instant::now);
const SERVER: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 4433);

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let Some((&choice, data)) = data.split_first() else { return };
    match choice % 8 {
        0 => handshake(data),
        1 | 2 => stream(data),
        _ => strangers(data),
    }
});

fn endpoint() -> Endpoint {
    let limits = NetLimits {
        connections_max: 8,
        half_open_retry_above: 2,
        half_open_max: 4,
        half_open_per_prefix_max: 3,
        ..NetLimits::default()
    };
    let tls = server_config_of(&IDENTITY).expect("the pair was made together");
    let keys = NodeKeys::derive(&[42; 32]);
    Endpoint::new(EndpointConfig { shard_index: 0, limits, tls, keys, seed: [1; 32] }, *ORIGIN, 1_700_000_000_000)
}

fn from(port: u8) -> SocketAddr {
    SocketAddr::new(IpAddr::V4(Ipv4Addr::new(127, 0, 0, port % 4)), 10_000 + u16::from(port))
}

/// Datagrams of any content: `port, milliseconds, length` and the bytes.
fn strangers(mut data: &[u8]) {
    let mut server = endpoint();
    let mut now = *ORIGIN;
    let mut out = Vec::new();
    while let [port, wait_ms, low, high, rest @ ..] = data {
        let length = usize::from(u16::from_le_bytes([*low, *high]) % 1_600).min(rest.len());
        now += Duration::from_millis(u64::from(*wait_ms));
        server.handle_datagram(now, from(*port), None, None, BytesMut::from(&rest[..length]));
        turn(&mut server, now, &mut out);
        data = &rest[length..];
    }
    // Whatever is half open is given up in time: nobody can make the endpoint keep it.
    for _ in 0..64 {
        let Some(at) = server.next_timeout() else { break };
        now = now.max(at);
        turn(&mut server, now, &mut out);
    }
    assert_eq!(server.half_open(), 0, "half-open handshakes end");
}

/// Events and datagrams of one turn; the datagrams are put into `out`.
fn turn(server: &mut Endpoint, now: Instant, out: &mut Vec<Vec<u8>>) {
    out.clear();
    server.handle_timeout(now);
    let mut buffer = Vec::new();
    loop {
        while let Some(event) = server.poll_event() {
            if let NetEvent::Frame { body, .. } = &event {
                assert!(body.is_empty() || body.as_ptr().addr().is_multiple_of(8), "bodies are aligned");
            }
        }
        let Some(transmit) = server.poll_transmit(now, 4, &mut buffer) else { break };
        let segment = transmit.segment_size.unwrap_or(transmit.size).max(1);
        out.extend(buffer[..transmit.size].chunks(segment).map(<[u8]>::to_vec));
        buffer.clear();
    }
}

/// An honest client; each datagram that it sends meets the fate that the next byte says. What is left of the input goes
/// over its first stream.
fn handshake(data: &[u8]) {
    let (fates, payload) = data.split_at(data.len().min(24));
    let mut fates = fates.iter().copied();
    let mut server = endpoint();
    let tls = QuicClientConfig::try_from(client_config(IDENTITY.certificate.clone())).expect("made for QUIC");
    let mut config = quic::ClientConfig::new(Arc::new(tls));
    config.transport_config(Arc::new(client_transport(&NetLimits::default())));
    let mut client = quic::Endpoint::new(Arc::default(), None, true, Some([9; 32]));
    let mut now = *ORIGIN;
    let (handle, mut conn) = client.connect(now, config, SERVER, "localhost").expect("the name is valid");
    let (mut payload, mut stream) = (Some(payload), None);
    let mut from_server = Vec::new();
    for _ in 0..40 {
        while let Some(event) = conn.poll_endpoint_events() {
            client.handle_event(handle, event).map(|answer| conn.handle_event(answer));
        }
        while conn.poll().is_some() {}
        if !conn.is_handshaking() && stream.is_none() {
            stream = conn.streams().open(quic::Dir::Bi);
        }
        if let Some(stream) = stream.filter(|_| !conn.is_handshaking())
            && let Some(bytes) = payload.take()
        {
            // A closed connection takes nothing, which is as good an end as any.
            let _ = conn.send_stream(stream).write(bytes);
            let _ = conn.send_stream(stream).finish();
        }
        let mut buffer = Vec::new();
        while let Some(transmit) = conn.poll_transmit(now, 1, &mut buffer) {
            let mut packet = buffer[..transmit.size].to_vec();
            buffer.clear();
            let copies = damage(&mut packet, fates.next().unwrap_or(0));
            for _ in 0..copies {
                server.handle_datagram(now, from(0), None, None, BytesMut::from(&packet[..]));
            }
        }
        turn(&mut server, now, &mut from_server);
        for packet in &from_server {
            let mut answer = Vec::new();
            let event = client.handle(now, SERVER, None, None, BytesMut::from(&packet[..]), &mut answer);
            if let Some(quic::DatagramEvent::ConnectionEvent(_, event)) = event {
                conn.handle_event(event);
            }
        }
        now += Duration::from_millis(20);
        if conn.poll_timeout().is_some_and(|at| at <= now) {
            conn.handle_timeout(now);
        }
    }
}

/// How often the datagram arrives, and what was done to it.
fn damage(packet: &mut Vec<u8>, fate: u8) -> usize {
    let at = usize::from(fate) * 7 % packet.len();
    match fate % 8 {
        1 => 0,
        2 => 2,
        3 => {
            packet[at] ^= fate | 1;
            1
        }
        4 => {
            packet.truncate(at);
            1
        }
        5 => {
            packet.extend_from_slice(&[fate; 40]);
            1
        }
        _ => 1,
    }
}

/// One stream's bytes, in pieces of a length that the first byte says: whole frames come out, in order, and the same ones
/// whatever the pieces.
fn stream(data: &[u8]) {
    let Some((&piece, data)) = data.split_first() else { return };
    let cut = frames(data, usize::from(piece).max(1));
    let whole = frames(data, data.len().max(1));
    assert_eq!(cut, whole, "frames do not depend on how the stream is cut");
}

fn frames(data: &[u8], piece: usize) -> (Vec<String>, bool) {
    let mut decoder = FrameDecoder::default();
    let mut found = Vec::new();
    for mut input in data.chunks(piece) {
        loop {
            match decoder.push(&mut input, 8_192) {
                Ok(Some(frame)) => found.push(format!("{frame:?}")),
                Ok(None) => break,
                Err(error) => {
                    found.push(error.to_string());
                    return (found, false);
                }
            }
        }
    }
    (found, decoder.finish().is_ok())
}
