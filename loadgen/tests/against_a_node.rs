//! The load generator against a real node in this process: two shards, QUIC, a log on disk.

#![allow(clippy::unwrap_used, reason = "helper functions outside of a test count as code for the lint")]

#[path = "../../engine/node/tests/home/mod.rs"]
mod home;

use std::path::Path;
use std::time::Duration;

use creto_agent::{AgentName, BatchOptions};
use creto_loadgen::ledger::{Durability, LedgerPaths, LedgerWriter, Record};
use creto_loadgen::{
    Arrival, Finished, NodeSetup, Progress, RegisterError, Registration, Report, RunError, RunOptions, Scenario,
    VerifyOptions, VerifyReport, verify,
};
use creto_node::Node;
use creto_service::client::Client;
use creto_service::mailboxes::MailboxChange;
use home::{Home, on_time};

fn options(home: &Home, node: &Node, rate_per_s: u64, duration: Duration) -> RunOptions {
    let defaults = RunOptions::new(node.address(), home.certificate.clone(), Scenario::Direct);
    RunOptions { rate_per_s, duration, warmup: Duration::ZERO, ..defaults }
}

/// Registers agents and channels over the node's control socket.
fn register(node: &Node) -> impl AsyncFn(Registration) -> Result<(), RegisterError> + use<> {
    let socket = node.control_socket().to_owned();
    async move |registration: Registration| {
        let client = Client::new(&socket);
        match registration {
            Registration::Agent(record) => drop(client.register(&record).await?),
            Registration::Channel(record) => drop(client.put_channel(&record).await?),
            _ => unreachable!("there is nothing else to register"),
        }
        Ok(())
    }
}

async fn run(
    options: RunOptions,
    register: impl AsyncFn(Registration) -> Result<(), RegisterError>,
    progress: impl FnMut(&Progress),
) -> Result<Report, RunError> {
    creto_loadgen::run(&options, 1, NodeSetup::default(), register, progress)
        .await
        .map(|Finished { report, .. }| report)
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
        options.connections = Some(3);
        options.sizes = "300".parse().unwrap();
        options.ledger = Some(ledger.clone());
        let mut last = 0;
        let report = run(options.clone(), register(&node), |progress| last = progress.delivered).await.unwrap();
        assert!(report.holds(), "{report:#?}");
        assert_eq!((report.sent, report.acknowledged, report.delivered, last), (3_000, 3_000, 3_000, 3_000));
        let latencies = [&report.publish_to_durable_us, &report.publish_to_delivered_us, &report.publish_to_settled_us];
        assert!(latencies.iter().all(|latency| latency.count == 3_000), "{latencies:?}");
        assert_eq!((report.generator_late_us.count, report.offered_rate), (3_000, Some(1_500.0)));
        assert!((3..=12).contains(&report.encapsulations), "three senders, a thousand messages each: {report:?}");
        assert!((1..3_000).contains(&report.signatures), "{report:?}");
        assert!(report.publish_to_delivered_us.p50 > Some(0) && report.publish_to_delivered_us.max < Some(60_000_000));
        let (sent, deliveries) =
            report.series.iter().fold((0, 0), |(sent, deliveries), row| (sent + row.sent, deliveries + row.deliveries));
        assert_eq!((sent, deliveries), (3_000, 3_000), "every message is in one second: {:?}", report.series);

        let verified = verified(&ledger).await;
        assert!(verified.holds(), "{verified:?}");
        assert_eq!(
            (verified.acknowledged, verified.found, verified.delivered, verified.read_back),
            (3_000, 3_000, 3_000, 0)
        );
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
        options.connections = Some(2);
        options.sizes = "64".parse().unwrap();
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
            records
                .send((Record { pair: 0, number, message_id: receipt.message_id, digest, flow: 1 }, ()))
                .await
                .unwrap();
        }
        drop(records);
        acknowledged.finish().await.unwrap();
        // ... and in the middle of a record.
        std::fs::write(&paths.delivered, [7; 30]).unwrap();

        let files = verified(&paths.acknowledged).await;
        assert_eq!((files.acknowledged, files.missing, files.missing_ids.len(), files.holds()), (50, 50, 10, false));

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

/// Every scenario with what makes it hard, small: nothing here looks at a latency.
#[test]
fn every_scenario_delivers_everything_once_to_everybody() {
    on_time(async {
        let home = Home::new();
        let node = home.start();
        for scenario in Scenario::ALL {
            let mut options = options(&home, &node, 400, Duration::from_millis(500));
            options.scenario = scenario;
            options.warmup = Duration::from_millis(250);
            options.sizes = "16=1,700=2,20000=1".parse().unwrap();
            options.priorities = "normal=3,high=1".parse().unwrap();
            options.arrival = Arrival::Poisson;
            options.seed = 77;
            (options.connections, options.agents) = (Some(2), Some(3));
            let report = run(options, register(&node), |_| {}).await.unwrap();
            assert!(report.holds(), "{scenario}: {report:#?}");
            assert_eq!((report.refused.len(), report.unknown, report.sent), (0, 0, report.acknowledged), "{report:#?}");
            let planned = report.offered_rate.unwrap() * 0.5;
            assert!((report.sent as f64 - planned).abs() < 1e-6, "{scenario}: {} of {planned}", report.sent);
            let readers = match scenario {
                Scenario::FanOut | Scenario::Channel => 3,
                _ => 1,
            };
            assert_eq!(report.delivered, report.sent, "{scenario}");
            if scenario != Scenario::Mixed {
                assert_eq!(report.deliveries, report.sent * readers, "{scenario}");
            }
            assert!(report.warmup.sent > 0 && report.warmup.acknowledged == report.warmup.sent, "{report:#?}");
            assert_eq!(report.publish_to_delivered_us.count, report.deliveries, "{scenario}");
            // Of a request nobody says when it was durable; its answer settles it.
            let durable = report.publish_to_durable_us.count;
            let is_right = match scenario {
                Scenario::Request => durable == 0,
                Scenario::Mixed => 0 < durable && durable < report.acknowledged,
                _ => durable == report.acknowledged,
            };
            assert!(is_right && report.publish_to_settled_us.count > 0, "{scenario}: {durable} of {report:#?}");
        }
        node.stop().unwrap();
    });
}

#[test]
fn a_closed_loop_has_so_many_messages_under_way_and_offers_no_rate() {
    on_time(async {
        let home = Home::new();
        let node = home.start();
        let mut options = options(&home, &node, 1, Duration::from_millis(700));
        (options.closed_loop, options.connections) = (Some(5), Some(2));
        let mut under_way = 0;
        let report = run(options, register(&node), |progress| {
            under_way = under_way.max(progress.submitted - progress.acknowledged);
        });
        let report = report.await.unwrap();
        assert!(report.holds() && report.valid, "{report:#?}");
        assert!(under_way <= 5, "{under_way}");
        assert_eq!((report.offered_rate, report.generator_late_us_p99), (None, None));
        assert!(report.notes.iter().any(|note| note.contains("a closed loop")));
        node.stop().unwrap();
    });
}

#[test]
fn whoever_is_slow_away_or_comes_and_goes_gets_everything_once() {
    on_time(async {
        let home = Home::new();
        let node = home.start();
        let fan_in = |rate: u64| {
            let mut options = options(&home, &node, rate, Duration::from_millis(1_200));
            (options.scenario, options.connections, options.agents) = (Scenario::FanIn, Some(2), Some(3));
            options.skew = Some(1.0);
            options
        };
        let slow = RunOptions { slow_consumers: 1, slow_by: Duration::from_millis(3), ..fan_in(300) };
        let away = RunOptions { offline_then_drain: true, ..fan_in(600) };
        let churning = RunOptions { churn: Some(Duration::from_millis(100)), ..fan_in(300) };
        for (what, options) in [("slow", slow), ("away", away), ("churning", churning)] {
            let (churns, drains) = (options.churn.is_some(), options.offline_then_drain);
            let report = run(options, register(&node), |_| {}).await.unwrap();
            assert!(report.holds(), "{what}: {report:#?}");
            assert_eq!((report.delivered, report.unknown), (report.sent, 0), "{what}: {report:#?}");
            assert_eq!(report.came_back > 0, churns, "{what}: {report:#?}");
            assert_eq!(report.drain.map(|drain| drain.deliveries), drains.then_some(report.sent), "{what}");
        }
        node.stop().unwrap();
    });
}

#[test]
fn a_mailbox_that_is_full_before_everything_was_sent_is_read_and_the_report_says_so() {
    on_time(async {
        let home = Home::new();
        let node = home.start();
        let mut options = options(&home, &node, 300, Duration::from_millis(700));
        options.offline_then_drain = true;
        let (registering, client) = (register(&node), Client::new(node.control_socket()));
        let small = async |registration: Registration| -> Result<(), RegisterError> {
            registering(registration).await?;
            for agent in client.agents(None).await? {
                let change = MailboxChange { messages_max: Some(Some(40)), ..MailboxChange::default() };
                client.set_mailbox(&AgentName::parse(&agent.name).unwrap(), &change).await?;
            }
            Ok(())
        };
        let report = run(options, small, |_| {}).await.unwrap();
        assert!(report.holds(), "{report:#?}");
        assert_eq!((report.sent, report.delivered, report.unknown), (210, 210, 0), "{report:#?}");
        assert_eq!(report.drain.map(|drain| drain.deliveries), Some(210));
        assert!(report.notes.iter().any(|note| note.contains("a mailbox was full")), "{:?}", report.notes);
        node.stop().unwrap();
    });
}

#[test]
fn repeated_runs_have_their_messages_together_and_their_figures_apart() {
    on_time(async {
        let home = Home::new();
        let node = home.start();
        let mut options = options(&home, &node, 200, Duration::from_millis(300));
        options.keep_histograms = true;
        let setup = NodeSetup { durability: Some("as it says".to_owned()), ..NodeSetup::default() };
        let mut seen = 0;
        let finished =
            creto_loadgen::run(&options, 3, setup, register(&node), |progress| seen = seen.max(progress.run));
        let report = finished.await.unwrap().report;
        assert_eq!((report.runs.len(), seen, report.acknowledged), (3, 3, 180));
        assert_eq!(report.publish_to_durable_us.count, 180, "merged");
        let durable = |run: &creto_loadgen::RunFigures| run.publish_to_durable_us.count;
        assert!(report.runs.iter().all(|run| durable(run) == 60));
        let spread = report.spread.achieved_rate.unwrap();
        assert!(spread.min <= spread.median && spread.median <= spread.max);
        assert_eq!((report.durability.as_deref(), report.setup.options.repeat), (Some("as it says"), 3));
        node.stop().unwrap();
    });
}

#[test]
fn options_that_do_not_go_together_are_refused_before_anything_is_done() {
    let home = Home::new();
    let node = home.start();
    let fits = || options(&home, &node, 100, Duration::from_secs(1));
    assert!(fits().check().is_ok());
    let churn = Some(Duration::from_millis(50));
    let ledger = Some(home.path().join("never"));
    for wrong in [
        RunOptions { rate_per_s: 0, ..fits() },
        RunOptions { duration: Duration::ZERO, ..fits() },
        RunOptions { rate_per_s: 1, duration: Duration::from_millis(1), warmup: Duration::from_millis(1), ..fits() },
        RunOptions { rate_per_s: 2_000_000, duration: Duration::from_secs(3_600), ..fits() },
        RunOptions { warmup: Duration::MAX, ..fits() },
        RunOptions { duration: Duration::MAX, ..fits() },
        RunOptions { duration: Duration::MAX, closed_loop: Some(4), ..fits() },
        RunOptions { drain_timeout: Duration::MAX, ..fits() },
        RunOptions { churn: Some(Duration::MAX), ..fits() },
        RunOptions { batch: BatchOptions { messages: 0, ..BatchOptions::default() }, ..fits() },
        RunOptions { batch: BatchOptions { messages: 1_025, ..BatchOptions::default() }, ..fits() },
        RunOptions { batch: BatchOptions { age: Duration::from_secs(61), ..BatchOptions::default() }, ..fits() },
        RunOptions { connections: Some(0), ..fits() },
        RunOptions { agents: Some(0), ..fits() },
        RunOptions { closed_loop: Some(0), ..fits() },
        RunOptions { slow_consumers: 2, ..fits() },
        RunOptions { skew: Some(f64::NAN), ..fits() },
        RunOptions { skew: Some(1.0), scenario: Scenario::FanOut, ..fits() },
        RunOptions { offline_then_drain: true, scenario: Scenario::Channel, ..fits() },
        RunOptions { churn, scenario: Scenario::Request, ..fits() },
        RunOptions { churn, ledger: ledger.clone(), ..fits() },
        RunOptions { ledger: ledger.clone(), scenario: Scenario::Mixed, ..fits() },
        RunOptions { ledger, closed_loop: Some(4), ..fits() },
    ] {
        assert!(matches!(wrong.check(), Err(RunError::Option(_))), "{wrong:?}");
    }
    node.stop().unwrap();
}
