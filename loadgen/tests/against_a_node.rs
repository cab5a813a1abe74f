//! The load generator against a real node in this process: two shards, QUIC, a log on disk.

#![allow(clippy::unwrap_used, reason = "helper functions outside of a test count as code for the lint")]

#[path = "../../engine/node/tests/home/mod.rs"]
mod home;

use std::error::Error;
use std::path::Path;
use std::time::Duration;

use creto_agent::{AgentName, SignedKeyRecord};
use creto_loadgen::ledger::{Durability, LedgerPaths, LedgerWriter, Record};
use creto_loadgen::{RunError, RunOptions, Scenario, VerifyOptions, VerifyReport, run, verify};
use creto_node::Node;
use creto_service::client::Client;
use home::{Home, on_time};

fn options(home: &Home, node: &Node, rate_per_s: u64, duration: Duration) -> RunOptions {
    let defaults = RunOptions::new(node.address(), home.certificate.clone(), Scenario::Direct);
    RunOptions { rate_per_s, duration, ..defaults }
}

/// Registers agents over the node's control socket.
fn register(node: &Node) -> impl AsyncFn(SignedKeyRecord) -> Result<(), Box<dyn Error + Send + Sync>> + use<> {
    let socket = node.control_socket().to_owned();
    async move |record: SignedKeyRecord| {
        Client::new(&socket).register(&record).await?;
        Ok(())
    }
}

async fn verified(ledger: &Path) -> VerifyReport {
    verify(VerifyOptions::new(ledger)).await.unwrap()
}

#[test]
fn every_acknowledged_message_is_delivered_once_and_the_ledger_says_so() {
    on_time(async {
        let home = Home::new();
        let node = home.start();
        let ledger = home.path().join("ledger");
        let mut options = options(&home, &node, 1_500, Duration::from_secs(2));
        options.pairs = 3;
        options.payload_bytes = 300;
        options.ledger = Some(ledger.clone());
        let mut last = 0;
        let report = run(options.clone(), register(&node), |progress| last = progress.delivered).await.unwrap();
        assert!(report.holds(), "{report:#?}");
        assert_eq!((report.sent, report.acknowledged, report.delivered, last), (3_000, 3_000, 3_000, 3_000));
        assert_eq!((report.acknowledged_latency.count, report.delivered_latency.count), (3_000, 3_000));
        assert!((3..=12).contains(&report.encapsulations), "three senders, a thousand messages each: {report:?}");
        assert!((1..3_000).contains(&report.signatures), "{report:?}");
        assert!(report.delivered_latency.p50_us > 0 && report.delivered_latency.max_us < 60_000_000);

        let verified = verified(&ledger).await;
        assert!(verified.holds(), "{verified:?}");
        assert_eq!((verified.acknowledged, verified.delivered, verified.read_back), (3_000, 3_000, 0));
        let again = run(options, register(&node), |_| {}).await.unwrap_err();
        assert!(matches!(again, RunError::Ledger(_)), "a ledger is never written over: {again}");
        node.stop().unwrap();
    });
}

#[test]
fn a_node_that_restarts_in_the_middle_loses_nothing() {
    on_time(async {
        let home = Home::new();
        let node = home.start();
        let (ledger, address) = (home.path().join("ledger"), node.address());
        let mut options = options(&home, &node, 1_000, Duration::from_secs(3));
        options.pairs = 2;
        options.payload_bytes = 64;
        options.ledger = Some(ledger.clone());
        let registering = register(&node);
        let mut node = Some(node);
        let (restart, restarts) = std::sync::mpsc::channel::<Node>();
        let restarted = std::thread::spawn({
            let config = home.path().join("creto.toml");
            move || {
                let node = restarts.recv().unwrap();
                node.stop().unwrap();
                let text = std::fs::read_to_string(&config).unwrap();
                std::fs::write(&config, text.replace("127.0.0.1:0", &address.to_string())).unwrap();
                Node::start(&creto_node::config::Config::load(&config, []).unwrap()).unwrap()
            }
        });
        let report = run(options, registering, |progress| {
            if progress.acknowledged > 800
                && let Some(node) = node.take()
            {
                restart.send(node).unwrap();
            }
        });
        let report = report.await.unwrap();
        let node = restarted.join().unwrap();
        assert!(report.holds(), "{report:#?}");
        assert_eq!((report.acknowledged, report.unknown), (3_000, 0));
        assert!(report.reconnects >= 4, "every agent came back: {}", report.reconnects);
        let verified = verified(&ledger).await;
        assert!(verified.holds(), "{verified:?}");
        node.stop().unwrap();
    });
}

#[test]
fn what_is_still_in_a_mailbox_is_lost_for_the_files_and_found_at_the_node() {
    on_time(async {
        let home = Home::new();
        let node = home.start();
        let paths = LedgerPaths::of(&home.path().join("ledger"));
        let receiver = home.register(&node, "acme/receiver").await;
        let to: AgentName = receiver.name().clone();
        std::fs::create_dir(&paths.keys).unwrap();
        receiver.save(paths.receiver_keys(0)).unwrap();
        let sender = home.register(&node, "acme/sender").await;
        let sender = home.connect(&node, sender).await;

        // A run that was killed after its messages were acknowledged and before its receiver got any.
        let acknowledged = LedgerWriter::start(&paths.acknowledged, Durability::Synced, false, |_, ()| {}).unwrap();
        let records = acknowledged.records();
        for number in 0..50 {
            let payload = format!("message {number:04} of fifty");
            let receipt = sender.send(&to, payload.clone()).await.unwrap();
            let digest = <sha2::Sha256 as sha2::Digest>::digest(&payload).into();
            records.send((Record { pair: 0, number, message_id: receipt.message_id, digest }, ())).await.unwrap();
        }
        drop(records);
        acknowledged.finish().await.unwrap();
        // ... and in the middle of a record.
        std::fs::write(&paths.delivered, [7; 30]).unwrap();

        let files = verified(&paths.acknowledged).await;
        assert_eq!((files.acknowledged, files.lost, files.lost_ids.len(), files.holds()), (50, 50, 10, false));

        let mut options = VerifyOptions::new(&paths.acknowledged);
        options.node = Some((node.address(), home.certificate.clone()));
        options.quiet = Duration::from_millis(500);
        let found = verify(options.clone()).await.unwrap();
        assert!(found.holds(), "{found:?}");
        assert_eq!((found.read_back, found.delivered), (50, 50));
        let again = verify(options).await.unwrap();
        assert!(again.holds() && again.read_back == 0, "what was read back is settled: {again:?}");
        sender.close().await;
        node.stop().unwrap();
    });
}
