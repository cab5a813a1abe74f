use std::time::Duration;

use creto_net::framing::FrameType::SignedBatch;
use creto_net::{NetLimits, NodeKeys, owner_shard};

use crate::harness::{Pair, Rng, SHARD, frame, keys};

/// Where the datagrams arrive in these tests.
const OTHER: u8 = 3;

/// Whether a datagram's first packet is addressed to the id that the client made up.
fn is_to_invented_id(datagram: &[u8]) -> bool {
    datagram[0] & 0x80 != 0 && datagram[5] != 8
}

#[test]
fn every_datagram_of_a_connection_names_its_shard() {
    let mut pair = Pair::new(NetLimits::default());
    let (client, conn) = pair.establish();
    let stream = pair.clients[client].open();
    pair.server.authenticated(conn);
    for round in 0..50u8 {
        pair.clients[client].write(stream, &frame(SignedBatch, &[round; 5_000]));
        pair.run_for(Duration::from_millis(5));
    }
    pair.clients[client].conn.close(pair.now, 0u32.into(), bytes::Bytes::new());
    pair.run_for(Duration::from_millis(50));
    let mut short = 0;
    let mut long = 0;
    for datagram in &pair.to_server_seen {
        let owner = owner_shard(&keys(), OTHER, datagram);
        if is_to_invented_id(datagram) {
            assert_eq!(owner, None, "the first flight is for whoever received it");
            continue;
        }
        assert_eq!(owner, Some(SHARD));
        assert_eq!(owner_shard(&keys(), SHARD, datagram), None, "at home there is nothing to forward");
        if datagram[0] & 0x80 == 0 { short += 1 } else { long += 1 }
    }
    assert!(short > 150 && long > 0, "{short} short and {long} long headers were compared");
}

#[test]
fn a_retried_first_packet_names_the_shard_that_asked_for_it() {
    let mut pair = Pair::new(NetLimits { half_open_retry_above: 0, ..NetLimits::default() });
    let (_, _) = pair.establish();
    assert_eq!(
        pair.server.stats().handshakes_retried,
        2,
        "one for each Initial of one client: its answer was believed"
    );
    let with_our_id = pair.to_server_seen.iter().filter(|d| d[0] & 0xb0 == 0x80 && d[5] == 8);
    for datagram in with_our_id {
        assert_eq!(owner_shard(&keys(), OTHER, datagram), Some(SHARD));
    }
}

#[test]
fn ids_of_another_node_are_not_taken_for_ours() {
    let mut pair = Pair::new(NetLimits { half_open_retry_above: 0, ..NetLimits::default() });
    pair.establish();
    let other = NodeKeys::derive(&[43; 32]);
    let initials: Vec<_> = pair.to_server_seen.iter().filter(|d| d[0] & 0xb0 == 0x80 && d[5] == 8).collect();
    assert!(!initials.is_empty());
    assert!(initials.iter().all(|datagram| owner_shard(&other, OTHER, datagram).is_none()));
}

#[test]
fn noise_never_panics_and_is_never_forwarded() {
    let mut rng = Rng(11);
    let mut taken_for_ours = 0;
    let mut pair = Pair::new(NetLimits::default());
    for _ in 0..20_000 {
        let len = usize::try_from(rng.below(80)).unwrap();
        let noise: Vec<u8> = (0..len).map(|_| rng.next().to_le_bytes()[0]).collect();
        taken_for_ours += u32::from(owner_shard(&keys(), OTHER, &noise).is_some());
        pair.server_handles("10.1.1.1:9".parse().unwrap(), &noise);
        pair.poll_server();
    }
    assert_eq!(taken_for_ours, 0, "the tag tells noise from an id");
    assert_eq!(pair.server.connections(), 0);
    assert!(pair.events.is_empty());
}
