//! The load generator against a real NATS server, where one is installed (Debian: nats-server). `CRETO_NATS_SERVER` names another one,
//! `CRETO_REQUIRE_NATS=1` makes a test fail that finds none. Nothing here looks at a latency.
#![cfg(feature = "nats")]
#![allow(clippy::unwrap_used, reason = "helper functions outside of a test count as code for the lint")]

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use creto_loadgen::{
    Finished, NatsServer, NatsSync, NodeSetup, RegisterError, Registration, Report, RunOptions, Scenario, Target,
};

/// Longer than a server takes to start on a loaded machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// A server of its own on a free port, ended with the test.
struct Server {
    child: Child,
    folder: tempfile::TempDir,
    url: String,
    monitor: String,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn program() -> Option<PathBuf> {
    let named = std::env::var_os("CRETO_NATS_SERVER").map(PathBuf::from);
    let path = std::env::var_os("PATH").unwrap_or_default();
    let usual =
        std::env::split_paths(&path).chain([PathBuf::from("/usr/sbin")]).map(|folder| folder.join("nats-server"));
    let found = named.into_iter().chain(usual).find(|program| program.is_file());
    if found.is_none() {
        assert!(std::env::var_os("CRETO_REQUIRE_NATS").is_none(), "there is no nats-server: apt install nats-server");
        println!("skipped: no NATS server");
    }
    found
}

/// The address that a server of this kind of protocol wrote into the file of its ports.
fn address(ports: &str, kind: &str) -> Option<String> {
    let ports: serde_json::Value = serde_json::from_str(ports).ok()?;
    ports[kind][0].as_str().map(|url| url.split_once("://").map_or(url, |(_, host)| host).to_owned())
}

impl Server {
    fn start() -> Option<Self> {
        let program = program()?;
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
        std::fs::create_dir(at("ports")).unwrap();
        let text = format!(
            "listen: \"127.0.0.1:-1\"\nhttp: \"127.0.0.1:-1\"\nports_file_dir: {:?}\njetstream {{ store_dir: {:?} }}\n",
            at("ports"),
            at("store")
        );
        std::fs::write(at("nats.conf"), text).unwrap();
        let mut child = Command::new(program)
            .args(["-c", &at("nats.conf")])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let began = Instant::now();
        let (url, monitor) = loop {
            assert!(began.elapsed() < PATIENCE && child.try_wait().unwrap().is_none(), "the server does not start");
            if let Some(found) = Self::ports(Path::new(&at("ports"))) {
                break found;
            }
            std::thread::yield_now();
        };
        Some(Self { child, folder, url: format!("nats://{url}"), monitor })
    }

    /// Written when it listens; read again where only a part of it is there.
    fn ports(folder: &Path) -> Option<(String, String)> {
        let file = std::fs::read_dir(folder).ok()?.flatten().next()?;
        let text = std::fs::read_to_string(file.path()).ok()?;
        Some((address(&text, "nats")?, address(&text, "monitoring")?))
    }

    fn target(&self) -> NatsServer {
        NatsServer { url: self.url.clone(), certificate: None, monitor: Some(self.monitor.clone()), sync: None }
    }

    /// Streams that are in its files.
    fn streams(&self) -> usize {
        let all = self.folder.path().join("store/jetstream/$G/streams");
        std::fs::read_dir(all).map_or(0, |streams| streams.flatten().count())
    }
}

fn options(server: &Server, scenario: Scenario) -> RunOptions {
    RunOptions {
        rate_per_s: 400,
        warmup: Duration::from_millis(250),
        duration: Duration::from_millis(500),
        seed: 77,
        node_pid: i32::try_from(server.child.id()).ok(),
        ..RunOptions::against(Target::Nats(server.target()), scenario)
    }
}

async fn run(options: &RunOptions) -> Report {
    let register = async |_: Registration| -> Result<(), RegisterError> { panic!("JetStream registers nobody") };
    let Finished { report, .. } = creto_loadgen::run(options, 1, NodeSetup::default(), register, |_| {}).await.unwrap();
    report
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_scenario_is_the_same_load_on_jetstream_and_leaves_no_stream() {
    let Some(server) = Server::start() else { return };
    for scenario in Scenario::ALL {
        let mut options = options(&server, scenario);
        options.sizes = "16=1,700=2,20000=1".parse().unwrap();
        (options.connections, options.agents) = (Some(2), Some(3));
        let report = run(&options).await;
        assert!(report.holds(), "{scenario}: {report:#?}");
        assert_eq!((report.sent, report.acknowledged, report.unknown), (200, 200, 0), "{scenario}: {report:#?}");
        assert_eq!((report.delivered, report.refused.len()), (200, 0), "{scenario}: {report:#?}");
        let readers = match scenario {
            Scenario::FanOut | Scenario::Channel => 3,
            _ => 1,
        };
        if scenario != Scenario::Mixed {
            assert_eq!(report.deliveries, 200 * readers, "{scenario}");
        }
        assert_eq!(report.publish_to_delivered_us.count, report.deliveries, "{scenario}");
        assert!(report.publish_to_settled_us.count > 0 && report.node_cpu_us_per_message > Some(0.0), "{report:#?}");
        assert_eq!((report.signatures, report.encapsulations), (0, 0), "nobody signs or encrypts");
        assert_eq!(server.streams(), 0, "{scenario}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn readers_that_are_away_or_slow_get_everything_once_from_jetstream() {
    let Some(server) = Server::start() else { return };
    let fan_in = || RunOptions {
        connections: Some(2),
        agents: Some(3),
        skew: Some(1.0),
        warmup: Duration::ZERO,
        duration: Duration::from_millis(800),
        ..options(&server, Scenario::FanIn)
    };
    let away = run(&RunOptions { offline_then_drain: true, ..fan_in() }).await;
    assert!(away.holds(), "{away:#?}");
    assert_eq!(away.drain.map(|drain| drain.deliveries), Some(away.sent));
    let slow = run(&RunOptions { slow_consumers: 1, slow_by: Duration::from_millis(3), ..fan_in() }).await;
    assert!(slow.holds() && slow.delivered == slow.sent, "{slow:#?}");
    let closed = run(&RunOptions { closed_loop: Some(8), ..fan_in() }).await;
    assert!(closed.holds() && closed.offered_rate.is_none(), "{closed:#?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_says_how_it_syncs_and_what_it_cannot_do_is_refused() {
    let Some(server) = Server::start() else { return };
    let found = server.target().look().await.unwrap();
    assert!(found.durability.contains("NOT synced") && found.durability.contains("the server says so"), "{found:?}");
    assert!(!found.version.is_empty() && !found.is_encrypted);
    let said = NatsServer { monitor: None, sync: Some(NatsSync::Always), ..server.target() };
    assert!(said.look().await.unwrap().durability.contains("by --nats-sync"));
    let elsewhere = NatsServer { monitor: Some("127.0.0.1:1".to_owned()), ..server.target() };
    assert!(elsewhere.look().await.unwrap_err().to_string().contains("--nats-sync"));

    let direct = || options(&server, Scenario::Direct);
    for (options, why) in [
        (RunOptions { priorities: "normal=1,high=1".parse().unwrap(), ..direct() }, "no priorities"),
        (RunOptions { ledger: Some("ledger".into()), ..direct() }, "a ledger"),
        (RunOptions { churn: Some(Duration::from_millis(50)), ..direct() }, "ack_wait"),
    ] {
        let register = async |_: Registration| -> Result<(), RegisterError> { Ok(()) };
        let ran = creto_loadgen::run(&options, 1, NodeSetup::default(), register, |_| {}).await;
        let error = ran.map(drop).unwrap_err().to_string();
        assert!(error.contains(why), "{error}");
    }
}

#[tokio::test]
async fn a_server_that_is_not_there_is_an_error_at_once() {
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let server = NatsServer { url: format!("nats://{nobody}"), certificate: None, monitor: None, sync: None };
    let error = server.look().await.unwrap_err().to_string();
    assert!(error.contains("cannot be reached"), "{error}");
}
