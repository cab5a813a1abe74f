//! Frames over QUIC between a client of quinn (on tokio) and a node of two shards.
#![allow(clippy::unwrap_used, reason = "a test's steps fail by panicking")]

mod support;

use std::net::UdpSocket;
use std::time::Duration;

use creto_io::executor::DriverKind;
use support::echo::{Echo, exchange};
use support::{Node, client_endpoint, on_each_driver, tokio_runtime};

fn frames_come_back_whole_from_two_shards_and_across_the_wrong_shard(driver: DriverKind) {
    let folder = tempfile::tempdir().unwrap();
    let node = Node::start(driver, folder.path(), 2, |_| Echo::default());
    let (address, config) = (node.address, node.client_config());
    let stats: Vec<_> = node.shards.iter().map(|shard| shard.stats.clone()).collect();
    let forwarded = || stats.iter().map(|stats| stats.read().datagrams_forwarded).sum::<u64>();

    tokio_runtime().block_on(async {
        let endpoints: Vec<_> = (0..8).map(|_| client_endpoint(config.clone())).collect();
        for (n, endpoint) in (0u8..).zip(&endpoints) {
            let connection = endpoint.connect(address, "localhost").unwrap().await.unwrap();
            let (mut send, mut recv) = connection.open_bi().await.unwrap();
            for size in [0, 1, 1_000, 70_000, 1_500_000] {
                exchange(&mut send, &mut recv, &vec![n; size]).await;
            }
            send.finish().unwrap();
            assert_eq!(recv.read_to_end(10).await.unwrap(), b"", "a finished stream is answered with its end");
        }

        // A client that moves to another port lands on another shard, sooner or later; its connection does not move.
        let endpoint = &endpoints[0];
        let connection = endpoint.connect(address, "localhost").unwrap().await.unwrap();
        let (mut send, mut recv) = connection.open_bi().await.unwrap();
        exchange(&mut send, &mut recv, b"before").await;
        let before = forwarded();
        for round in 0..40u8 {
            endpoint.rebind(UdpSocket::bind("127.0.0.1:0").unwrap()).unwrap();
            exchange(&mut send, &mut recv, &vec![round; 50_000]).await;
            tokio::time::sleep(Duration::from_millis(5)).await;
            if round > 5 && forwarded() > before + 20 {
                break;
            }
        }
        assert!(forwarded() > before, "of 40 ports none landed on the other shard");
    });

    let machines = node.stop(|| ());
    assert_eq!(machines.iter().map(|echo| echo.connected).sum::<u64>(), 9);
    assert!(machines.iter().all(|echo| echo.connected > 0), "eight clients, two shards: both were used");
}

on_each_driver!(frames_come_back_whole_from_two_shards_and_across_the_wrong_shard,);
