//! A key record, by its agent and version: from a service that runs, and from the file that it leaves.
#![allow(clippy::unwrap_used, reason = "a test stops where it is wrong")]

use std::path::Path;
use std::sync::Arc;

use creto_envelope::{AgentId, TrustDomain};
use creto_service::api::ErrorCode;
use creto_service::client::Client;
use creto_service::{Service, ServiceError, ServiceHandle, ServiceOptions, StorageError, offline};

#[allow(dead_code, reason = "each test file takes what it needs")]
#[path = "../src/fixture.rs"]
mod fixture;
use fixture::signed;

fn start(folder: &Path) -> ServiceHandle {
    let options = ServiceOptions::new(folder.join("control.redb"), folder.join("control.sock"), TrustDomain::default());
    Service::open(options).unwrap().spawn(|_: Arc<_>| {}).unwrap()
}

#[tokio::test]
async fn a_key_record_is_given_as_it_was_registered() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("control.redb");
    let service = start(folder.path());
    let client = Client::new(service.socket_path());
    let planner = signed("acme/planner", 1);
    let id = planner.record.agent_id();
    client.register(&planner).await.unwrap();

    assert_eq!(client.key_record(id, 1).await.unwrap(), planner);
    for (agent, version) in [(id, 2), (AgentId([7; 16]), 1)] {
        let error = client.key_record(agent, version).await.unwrap_err();
        assert_eq!(error.code(), Some(ErrorCode::RecordUnknown.as_str()), "{error}");
    }
    assert!(matches!(offline::key_record(&path, id, 1), Err(ServiceError::Storage(StorageError::InUse(_)))));
    // As after SIGKILL: the file as it is while the service runs.
    let killed = folder.path().join("killed.redb");
    std::fs::copy(&path, &killed).unwrap();
    service.shutdown().unwrap();

    for path in [&path, &killed] {
        let before = std::fs::read(path).unwrap();
        assert_eq!(offline::key_record(path, id, 1).unwrap(), Some(planner.clone()));
        assert_eq!(offline::key_record(path, id, 2).unwrap(), None);
        assert_eq!(std::fs::read(path).unwrap(), before, "the file is only read");
    }
    assert!(offline::key_record(&folder.path().join("missing"), id, 1).is_err());
    let other = folder.path().join("other");
    std::fs::write(&other, "something else").unwrap();
    assert!(offline::key_record(&other, id, 1).is_err());
}
