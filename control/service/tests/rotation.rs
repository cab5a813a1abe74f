//! Keys that agents replace, as a node runs the service: shards that publish, snapshots, and a crash at the worst moment.
#![allow(clippy::unwrap_used, reason = "this file is all tests, also the functions that tests share")]

use std::path::Path;
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

use creto_envelope::control::RotationMode;
use creto_envelope::{AgentName, RejectCode, SignedKeyRecord, TrustDomain};
use creto_policy::Snapshot;
use creto_service::client::Client;
use creto_service::rotation::{Answer, Publication, Publisher, Reply, publications};
use creto_service::{Service, ServiceHandle, ServiceOptions, SnapshotSink};

#[path = "../src/fixture.rs"]
#[allow(dead_code, reason = "each test file takes what it needs")]
mod fixture;
use fixture::{in_mode, next, signed};

const WITHIN: Duration = Duration::from_secs(20);

fn options(folder: &Path) -> ServiceOptions {
    ServiceOptions::new(folder.join("control.redb"), folder.join("control.sock"), TrustDomain::default())
}

fn start(folder: &Path, sink: impl SnapshotSink) -> (ServiceHandle, Publisher) {
    let (publisher, publications) = publications();
    (Service::open(options(folder)).unwrap().spawn_with(sink, publications).unwrap(), publisher)
}

fn publish(publisher: &Publisher, record: &SignedKeyRecord) -> mpsc::Receiver<Answer> {
    let (answer, answered) = mpsc::channel();
    let publication = Publication {
        agent: record.record.agent_id(),
        mode: RotationMode::Planned,
        record: Box::new(record.clone()),
        reply: Reply::new(move |said| answer.send(said).unwrap()),
    };
    publisher.publish(publication).unwrap();
    answered
}

#[tokio::test]
async fn the_answer_comes_after_the_snapshot_and_the_snapshot_after_the_disk() {
    let folder = tempfile::tempdir().unwrap();
    let first = signed("acme/a", 1);
    let second = next(&first, 1, 2);
    let id = first.record.agent_id();

    // What a process that is killed when the shards are about to be told leaves behind is the file as it is then.
    let seen = Arc::new(Mutex::new(Vec::new()));
    let (file, sink) = (folder.path().join("control.redb"), Arc::clone(&seen));
    let killed = folder.path().join("killed");
    std::fs::create_dir(&killed).unwrap();
    let copy = killed.join("control.redb");
    let (service, publisher) = start(folder.path(), move |snapshot: Arc<Snapshot>| {
        let version = snapshot.principal(&id).map(|known| known.current_version());
        if version == Some(2) {
            std::fs::copy(&file, &copy).unwrap();
        }
        sink.lock().unwrap().push(version);
    });
    Client::new(service.socket_path()).register(&first).await.unwrap();
    assert_eq!(publish(&publisher, &second).recv_timeout(WITHIN).unwrap(), Ok(2));
    assert_eq!(*seen.lock().unwrap(), [None, Some(1), Some(2)], "the shards were told before the agent was");

    let restarted = Service::open(options(&killed)).unwrap().snapshot();
    let principal = restarted.principal(&id).unwrap();
    assert_eq!(principal.current(), (&second.record).into());
    assert!(principal.accepts_key(&first.record.key_id(), principal.current().valid_from_ms));
    service.shutdown().unwrap();
}

#[tokio::test]
async fn whoever_lost_the_answer_asks_again_and_the_versions_are_listed() {
    let folder = tempfile::tempdir().unwrap();
    let first = signed("acme/a", 1);
    let second = next(&first, 1, 2);
    let (service, publisher) = start(folder.path(), |_| {});
    let client = Client::new(service.socket_path());
    client.register(&first).await.unwrap();
    for _ in 0..2 {
        assert_eq!(publish(&publisher, &second).recv_timeout(WITHIN).unwrap(), Ok(2));
    }
    let back = in_mode(RotationMode::Planned, &first, 1);
    let refused = publish(&publisher, &back).recv_timeout(WITHIN).unwrap().unwrap_err();
    assert_eq!((refused.code, refused.retry_after_ms), (RejectCode::RotationVersion, 0));
    let agent = client.agent(&first.record.name).await.unwrap();
    assert_eq!((agent.version, agent.key_id), (2, second.record.key_id().to_string()));
    let keys = client.keys(&first.record.name).await.unwrap();
    assert_eq!(keys.key_grace_ms, 7 * 86_400_000);
    let listed: Vec<_> = keys.versions.iter().map(|v| (v.version, v.state.as_str())).collect();
    assert_eq!(listed, [(2, "current"), (1, "grace")]);
    assert!(client.keys(&AgentName::parse("acme/nobody").unwrap()).await.is_err());
    service.shutdown().unwrap();
}

#[tokio::test]
async fn a_service_that_is_gone_refuses_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let (service, publisher) = start(folder.path(), |_| {});
    service.shutdown().unwrap();
    let publication = Publication {
        agent: signed("acme/a", 1).record.agent_id(),
        mode: RotationMode::Planned,
        record: Box::new(signed("acme/a", 1)),
        reply: Reply::new(|_| panic!("the caller was told already")),
    };
    let refused = publisher.publish(publication).unwrap_err();
    assert_eq!(refused.code, RejectCode::ShuttingDown);
    assert!(refused.retry_after_ms > 0);
}
