use std::sync::Arc;
use std::time::Duration;

use creto_net::tls::{NodeIdentity, client_config};
use creto_net::{CloseReason, NetEvent, NetLimits};
use quinn_proto as quic;
use quinn_proto::crypto::rustls::QuicClientConfig;

use crate::harness::{IDENTITY, Packet, Pair, Rng};

const SOON: Duration = Duration::from_secs(20);
const HOP: Duration = Duration::from_micros(500);

fn exporter_of(pair: &Pair, nth: usize) -> [u8; 32] {
    let mut exporters = pair.events.iter().filter_map(|event| match event {
        NetEvent::Connected { exporter, .. } => Some(*exporter),
        _ => None,
    });
    exporters.nth(nth).unwrap()
}

#[test]
fn the_exporter_is_equal_at_both_ends_and_new_for_each_connection() {
    let mut pair = Pair::new(NetLimits::default());
    let (first, _) = pair.establish();
    let (second, _) = pair.establish();
    assert_eq!(exporter_of(&pair, 0), pair.clients[first].exporter());
    assert_eq!(exporter_of(&pair, 1), pair.clients[second].exporter());
    assert_ne!(exporter_of(&pair, 0), exporter_of(&pair, 1));
}

/// One handshake on a network that treats the first datagrams of each direction as `fate` says.
fn check_handshake(name: &str, fate: impl FnMut(u64, &Packet) -> Vec<Duration> + 'static) {
    let mut pair = Pair::new(NetLimits::default());
    pair.fate = Box::new(fate);
    let client = pair.connect();
    let done = pair.run_until(SOON, |pair| pair.clients[client].connected && pair.connected().len() == 1);
    assert!(done, "{name}: no handshake");
    assert_eq!(exporter_of(&pair, 0), pair.clients[client].exporter(), "{name}");
    assert_eq!(pair.server.half_open(), 0, "{name}");
}

#[test]
fn the_client_hello_of_the_hybrid_key_exchange_spans_two_initials() {
    let mut pair = Pair::new(NetLimits::default());
    pair.connect();
    pair.run_until(SOON, |pair| pair.clients[0].connected);
    let initial = |bytes: &[u8]| bytes[0] & 0b1011_0000 == 0b1000_0000;
    assert!(initial(&pair.to_server_seen[0]) && initial(&pair.to_server_seen[1]), "1,216 bytes of share need two");
}

#[test]
fn a_split_client_hello_survives_reordering_duplication_and_loss() {
    check_handshake("in order", |_, _| vec![HOP]);
    check_handshake("second Initial first", |n, p| vec![if p.to_server && n == 0 { 3 * HOP } else { HOP }]);
    check_handshake("everything twice", |_, _| vec![HOP, 2 * HOP]);
    check_handshake("first Initial lost", |n, p| if p.to_server && n == 0 { vec![] } else { vec![HOP] });
    check_handshake("second Initial lost", |n, p| if p.to_server && n == 1 { vec![] } else { vec![HOP] });
    check_handshake("both Initials lost", |n, p| if p.to_server && n < 2 { vec![] } else { vec![HOP] });
    check_handshake("first answer lost", |n, p| if !p.to_server && n == 0 { vec![] } else { vec![HOP] });
    check_handshake("first three answers lost", |n, p| if !p.to_server && n < 3 { vec![] } else { vec![HOP] });
    check_handshake("first Initial late and twice, second lost", |n, p| match (p.to_server, n) {
        (true, 0) => vec![4 * HOP, 5 * HOP],
        (true, 1) => vec![],
        _ => vec![HOP],
    });
}

#[test]
fn handshakes_complete_on_a_bad_network_whatever_the_seed() {
    for seed in 0..60 {
        let mut rng = Rng(seed);
        check_handshake(&format!("seed {seed}"), move |_, _| match rng.below(10) {
            0 | 1 => vec![],
            2 => vec![HOP, HOP * 5],
            3 => vec![HOP * 7],
            _ => vec![HOP],
        });
    }
}

#[test]
fn a_node_with_another_certificate_is_not_trusted() {
    let other = NodeIdentity::self_signed(&["localhost".into()]).unwrap();
    let mut pair = Pair::new(NetLimits::default());
    let client = pair.connect_with(QuicClientConfig::try_from(client_config(other.certificate)).unwrap());
    assert!(pair.run_until(SOON, |pair| pair.clients[client].lost.is_some() && pair.server.half_open() == 0));
    assert!(pair.connected().is_empty(), "the shard never hears of it");
}

#[test]
fn another_application_protocol_is_refused() {
    let mut tls = (*client_config(IDENTITY.certificate.clone())).clone();
    tls.alpn_protocols = vec![b"h3".to_vec()];
    let mut pair = Pair::new(NetLimits::default());
    let client = pair.connect_with(QuicClientConfig::try_from(Arc::new(tls)).unwrap());
    assert!(pair.run_until(SOON, |pair| pair.clients[client].lost.is_some()));
    assert!(pair.connected().is_empty());
}

#[test]
fn a_client_that_offers_only_the_hybrid_group_is_served() {
    let mut provider = rustls::crypto::aws_lc_rs::default_provider();
    provider.kx_groups = vec![rustls::crypto::aws_lc_rs::kx_group::X25519MLKEM768];
    let mut roots = rustls::RootCertStore::empty();
    roots.add(IDENTITY.certificate.clone()).unwrap();
    let mut tls = rustls::ClientConfig::builder_with_provider(Arc::new(provider))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    tls.alpn_protocols = vec![creto_net::tls::ALPN.to_vec()];
    let mut pair = Pair::new(NetLimits::default());
    let client = pair.connect_with(QuicClientConfig::try_from(Arc::new(tls)).unwrap());
    assert!(pair.run_until(SOON, |pair| pair.clients[client].connected), "{:?}", pair.clients[client].lost);
}

#[test]
fn above_the_limit_of_half_open_handshakes_a_retry_is_asked_for_and_answered() {
    let mut pair = Pair::new(NetLimits { half_open_retry_above: 4, ..NetLimits::default() });
    // A flood of first packets from addresses that never answer.
    flood(&mut pair, 50);
    assert_eq!(pair.server.half_open(), 4, "the others got a Retry and left no state");
    assert!(pair.server.stats().handshakes_retried >= 46);

    // An honest client answers its Retry and gets in while the flood lasts.
    let client = pair.connect();
    let both = |pair: &mut Pair| pair.clients[client].connected && pair.connected().len() == 1;
    assert!(pair.run_until(Duration::from_secs(5), both));
}

#[test]
fn half_open_handshakes_end_at_their_deadline() {
    let mut pair = Pair::new(NetLimits { handshake_timeout_ms: 3_000, ..NetLimits::default() });
    flood(&mut pair, 20);
    assert_eq!(pair.server.half_open(), 20);
    pair.run_for(Duration::from_secs(3));
    assert_eq!(pair.server.half_open(), 0);
    pair.run_for(SOON);
    assert_eq!(pair.server.connections(), 0, "and nothing is left of them");
    assert!(pair.events.is_empty(), "the shard never heard of them: {:?}", pair.events);
}

#[test]
fn above_the_limit_of_connections_a_client_is_refused() {
    let mut pair = Pair::new(NetLimits { connections_max: 2, ..NetLimits::default() });
    pair.establish();
    pair.establish();
    let third = pair.connect();
    assert!(pair.run_until(SOON, |pair| pair.clients[third].lost.is_some()));
    // Each of its two Initials is refused: a refusal keeps nothing by which the second could be known.
    assert_eq!(pair.server.stats().handshakes_refused, 2);
    assert_eq!(pair.server.connections(), 2);
}

#[test]
fn one_network_cannot_take_every_half_open_place() {
    let mut pair = Pair::new(NetLimits { half_open_per_prefix_max: 5, ..NetLimits::default() });
    flood(&mut pair, 30);
    assert_eq!(pair.server.half_open(), 5);
    assert_eq!(pair.server.stats().handshakes_ignored, 25);
}

#[test]
fn a_silent_peer_is_closed_after_the_idle_timeout_and_a_quiet_one_is_not() {
    let mut pair = Pair::new(NetLimits { idle_timeout_ms: 30_000, ..NetLimits::default() });
    let (_, _) = pair.establish();
    pair.run_for(Duration::from_secs(120));
    assert!(pair.clients[0].lost.is_none(), "its keep-alives hold the connection");
    pair.fate = Box::new(|_, _| vec![]);
    pair.run_for(Duration::from_secs(40));
    let closed =
        pair.events.iter().filter(|event| matches!(event, NetEvent::Closed { reason: CloseReason::TimedOut, .. }));
    assert_eq!(closed.count(), 1, "{:?}", pair.events);
    assert_eq!(pair.server.connections(), 0);
}

#[test]
fn a_restarted_node_resets_the_connections_of_its_former_life_at_once() {
    let mut pair = Pair::new(NetLimits::default());
    let (client, _) = pair.establish();
    let stream = pair.clients[client].open();
    pair.restart_server();
    pair.clients[client].write(stream, &[0; 64]);
    let before = pair.now;
    assert!(pair.run_until(SOON, |pair| pair.clients[client].lost.is_some()));
    assert_eq!(pair.clients[client].lost, Some(quic::ConnectionError::Reset));
    assert!(pair.now - before < Duration::from_secs(1), "not after the idle timeout");
}

#[test]
fn a_draining_endpoint_refuses_newcomers_and_ends_empty() {
    let mut pair = Pair::new(NetLimits::default());
    let (client, conn) = pair.establish();
    pair.server.stop_accepting();
    let late = pair.connect();
    assert!(pair.run_until(SOON, |pair| pair.clients[late].lost.is_some()));
    assert!(pair.clients[client].lost.is_none());
    pair.server.close_all(pair.now, 3, &bytes::Bytes::from_static(b"stopping"));
    assert!(pair.run_until(SOON, |pair| pair.server.connections() == 0));
    let Some(quic::ConnectionError::ApplicationClosed(close)) = &pair.clients[client].lost else { panic!() };
    assert_eq!(close.error_code.into_inner(), 3);
    let closed = pair.events.iter().filter(|event| matches!(event, NetEvent::Closed { conn: c, .. } if *c == conn));
    assert_eq!(closed.count(), 1, "each connection is reported closed once");
}

/// First packets of `count` clients that never answer.
fn flood(pair: &mut Pair, count: usize) {
    let mut ghosts = Pair::new(NetLimits::default());
    for _ in 0..count {
        let ghost = ghosts.connect();
        let mut buffer = Vec::new();
        let transmit = ghosts.clients[ghost].conn.poll_transmit(ghosts.now, 1, &mut buffer).unwrap();
        let from = std::net::SocketAddr::new([10, 0, 0, 1].into(), 1_000 + u16::try_from(ghost).unwrap());
        pair.server_handles(from, &buffer[..transmit.size]);
        pair.poll_server();
    }
}
