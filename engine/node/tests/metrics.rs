//! What a node counts and measures, as its operator and Prometheus read it.

#![allow(clippy::unwrap_used, reason = "helper functions outside of a test count as code for the lint")]

mod home;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};

use creto_service::api::MetricReading;
use creto_service::client::Client;
use home::{Home, on_time};

/// The answer of a plain HTTP request: status line and headers, and the body.
fn get(address: SocketAddr, path: &str) -> (String, String) {
    let mut stream = TcpStream::connect(address).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.to_ascii_lowercase(), body.to_owned())
}

fn sum(readings: &[MetricReading], name: &str) -> f64 {
    readings.iter().filter(|reading| reading.name == name).filter_map(|reading| reading.value).sum()
}

#[test]
fn what_is_sent_is_counted_and_told_to_the_operator_and_to_prometheus() {
    on_time(async {
        let home = Home::new();
        let node = home.start_with("topology.shards = 2\nmetrics.listen = \"127.0.0.1:0\"\n");
        let (alice, bob) = (home.register(&node, "acme/alice").await, home.register(&node, "acme/bob").await);
        let (alice, bob) = (home.connect(&node, alice).await, home.connect(&node, bob).await);
        for number in 0..50 {
            alice.send(&"acme/bob".parse().unwrap(), format!("message {number}")).await.unwrap();
        }
        let mut inbox = bob.subscribe().unwrap();
        for _ in 0..50 {
            inbox.next().await.unwrap().unwrap().ack();
        }
        let nobody = alice.send(&"other/carol".parse().unwrap(), "hello").await;
        assert!(nobody.is_err(), "there is no such agent");
        bob.close().await;

        // A shard leaves its numbers at each tick: the one that has the mailbox, and the one that took the messages in.
        let client = Client::new(node.control_socket());
        let readings = loop {
            let readings = client.metrics().await.unwrap();
            let least = [
                ("creto_mailbox_messages_settled", 50.0),
                ("creto_submit_batches_verified", 50.0),
                ("creto_agent_logins", 2.0),
            ];
            if least.iter().all(|(name, least)| sum(&readings, name) >= *least) {
                break readings;
            }
            tokio::task::yield_now().await;
        };
        assert_eq!(sum(&readings, "creto_mailbox_messages_durable"), 50.0);
        assert_eq!(sum(&readings, "creto_mailbox_messages_pushed"), 50.0);
        assert_eq!(sum(&readings, "creto_directory_agents"), 2.0);
        assert_eq!(sum(&readings, "creto_node_ready"), 1.0);
        assert!(sum(&readings, "creto_agent_logins") >= 2.0 && sum(&readings, "creto_node_resident_bytes") > 1e6);
        assert!(sum(&readings, "creto_shard_cpu_seconds") > 0.0);
        let serving = readings.iter().filter(|reading| reading.labels.get("state").is_some_and(|of| of == "serving"));
        assert!(serving.clone().count() >= 1 && serving.clone().all(|reading| reading.value == Some(1.0)));
        let histograms = |name: &str| -> Vec<_> {
            let of_name = readings.iter().filter(|reading| reading.name == name);
            of_name.filter_map(|reading| reading.histogram.as_ref()).collect()
        };
        let writes = histograms("creto_wal_write_seconds");
        // Each message was a batch of its own, and each stage has measured every batch; those that were refused, too, up to there.
        for (name, least) in [
            ("creto_submit_receive_seconds", 50),
            ("creto_submit_verify_seconds", 50),
            ("creto_policy_authorize_seconds", 50),
            ("creto_wal_queue_seconds", 50),
            ("creto_submit_acknowledge_seconds", 50),
            ("creto_mailbox_deliver_seconds", 50),
            ("creto_mailbox_settle_seconds", 1),
        ] {
            let count: u64 = histograms(name).iter().map(|times| times.count).sum();
            assert!((least..=51).contains(&count), "{name} has {count}");
        }
        // Signatures take their time, whatever the machine.
        assert!(histograms("creto_submit_verify_seconds").iter().any(|times| times.sum > 0.0));
        let written: u64 = writes.iter().map(|times| times.count).sum();
        assert!(written >= 1 && written as f64 <= sum(&readings, "creto_wal_writes"));
        assert!(writes.iter().all(|times| times.upto.is_sorted_by(|one, other| one.0 < other.0 && one.1 <= other.1)));

        let address = node.metrics_address().unwrap();
        let (head, text) = tokio::task::spawn_blocking(move || get(address, "/metrics")).await.unwrap();
        assert!(
            head.starts_with("http/1.1 200") && head.contains("content-type: application/openmetrics-text"),
            "{head}"
        );
        assert!(text.ends_with("# EOF\n"));
        let told: Vec<_> =
            text.lines().filter(|line| line.starts_with("creto_mailbox_messages_durable_total{")).collect();
        assert_eq!(told.len(), usize::from(node.plan().shard_count()), "{text}");
        assert!(!text.contains("acme"), "nobody is named");
        for (path, status) in [("/live", "204"), ("/ready", "200"), ("/v1/agents", "404"), ("/v1/metrics", "404")] {
            let (head, _) = tokio::task::spawn_blocking(move || get(address, path)).await.unwrap();
            assert!(head.starts_with(&format!("http/1.1 {status}")), "{path}: {head}");
        }
        alice.close().await;
        node.stop().unwrap();
    });
}

#[test]
fn an_address_that_is_taken_is_said_when_the_node_starts() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let home = Home::new();
    let config = home.configure(&format!("metrics.listen = \"{}\"\n", taken.local_addr().unwrap()));
    let error = creto_node::Node::start(&config).unwrap_err().to_string();
    assert!(error.contains("choose another address with metrics.listen"), "{error}");
}
