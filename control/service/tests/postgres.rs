//! The service with its directory in PostgreSQL: what stays, what is refused while the database is away, and how a file moves in.
#![allow(clippy::unwrap_used, reason = "this file is all tests, also the functions that tests share")]

use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use creto_envelope::TrustDomain;
use creto_policy::Snapshot;
use creto_service::api::ErrorCode;
use creto_service::client::{Client, ClientError};
use creto_service::states::{StateChange, StateWord};
use creto_service::{Service, ServiceError, ServiceHandle, ServiceOptions, StorageError, offline};

#[path = "../src/fixture.rs"]
#[allow(dead_code, reason = "each test file takes what it needs")]
mod fixture;
#[path = "../../storage/tests/server/mod.rs"]
#[allow(dead_code, reason = "each test file takes what it needs")]
mod server;
use fixture::{record, signed};
use server::Server;

type Published = Arc<Mutex<Vec<Arc<Snapshot>>>>;

fn options(folder: &Path, url: &str) -> ServiceOptions {
    let mut options =
        ServiceOptions::new(folder.join("control.redb"), folder.join("control.sock"), TrustDomain::default());
    options.database = Some(url.parse().unwrap());
    options
}

fn start(folder: &Path, url: &str) -> (ServiceHandle, Client, Published) {
    let published = Published::default();
    let sink = Arc::clone(&published);
    let service = Service::open(options(folder, url)).unwrap();
    let handle = service.spawn(move |snapshot| sink.lock().unwrap().push(snapshot)).unwrap();
    let client = Client::new(handle.socket_path());
    (handle, client, published)
}

fn code(result: Result<impl std::fmt::Debug, ClientError>) -> String {
    match result {
        Err(ClientError::Refused { error, .. }) => error.code,
        other => panic!("expected a refusal: {other:?}"),
    }
}

#[tokio::test]
async fn agents_stay_over_a_restart_and_nothing_is_written_into_the_folder() {
    let Some(server) = Server::shared() else { return };
    let (folder, url) = (tempfile::tempdir().unwrap(), server.database());
    let (handle, client, published) = start(folder.path(), &url);
    let planner = signed("acme/planner", 1);
    client.register(&planner).await.unwrap();
    let change = StateChange { state: StateWord::Suspended, reason: Some("audit".to_owned()), since_ms: None };
    client.set_state(&planner.record.name, &change).await.unwrap();
    let epoch = published.lock().unwrap().last().unwrap().epoch();
    // Another node may not have it meanwhile, and is told so.
    let other = tempfile::tempdir().unwrap();
    let refused = Service::open(options(other.path(), &url)).unwrap_err();
    assert!(matches!(refused, ServiceError::Storage(StorageError::Taken { .. })), "{refused}");
    let found = offline::key_record_in(url.parse().unwrap(), planner.record.agent_id(), 1).unwrap();
    assert_eq!(found, Some(planner.clone()));
    handle.shutdown().unwrap();

    let (handle, client, published) = start(folder.path(), &url);
    assert_eq!(published.lock().unwrap().last().unwrap().epoch(), epoch);
    let info = client.agent(&planner.record.name).await.unwrap();
    assert_eq!((info.state.as_str(), info.state_reason.as_deref()), ("suspended", Some("audit")));
    handle.shutdown().unwrap();
    assert!(!folder.path().join("control.redb").exists());

    let mut wrong = options(folder.path(), &url);
    wrong.trust_domain = TrustDomain::parse("other.local").unwrap();
    let refused = Service::open(wrong).unwrap_err();
    assert!(matches!(refused, ServiceError::TrustDomain { .. }), "{refused}");
}

#[tokio::test]
async fn while_the_database_is_away_changes_are_refused_the_shards_keep_what_they_have_and_it_comes_back_by_itself() {
    let Some(mut server) = Server::start(&[]) else { return };
    let (folder, url) = (tempfile::tempdir().unwrap(), server.database());
    let (handle, client, published) = start(folder.path(), &url);
    let (first, second) = (signed("acme/a", 1), signed("acme/b", 2));
    client.register(&first).await.unwrap();
    let snapshots = published.lock().unwrap().len();
    server.kill();
    for _ in 0..2 {
        let began = Instant::now();
        assert_eq!(code(client.register(&second).await), ErrorCode::StorageFailed.as_str());
        assert_eq!(code(client.agent(&first.record.name).await), ErrorCode::StorageFailed.as_str());
        // Whether the node serves is no question to the database.
        client.readiness().await.unwrap();
        assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    }
    assert_eq!(published.lock().unwrap().len(), snapshots, "the shards decide by what they were given");
    server.start_again();
    let until = Instant::now() + Duration::from_secs(30);
    loop {
        match client.register(&second).await {
            Ok(_) => break,
            Err(ClientError::Refused { error, .. }) if Instant::now() < until => {
                assert_eq!(error.code, ErrorCode::StorageFailed.as_str());
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(client.status().await.unwrap().agents, 2);
    assert_eq!(published.lock().unwrap().last().unwrap().agent_count(), 2);
    handle.shutdown().unwrap();
}

#[tokio::test]
async fn a_node_whose_database_went_back_is_not_ready() {
    let Some(server) = Server::shared() else { return };
    let (folder, url) = (tempfile::tempdir().unwrap(), server.database());
    let (handle, client, published) = start(folder.path(), &url);
    client.register(&signed("acme/a", 1)).await.unwrap();
    assert!(client.readiness().await.unwrap().ready);
    let name = url.rsplit('/').next().unwrap();
    server.sql(name, "UPDATE creto._writer SET commits = 1");
    let end = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity \
               WHERE application_name = 'creto' AND datname = current_database()";
    server.sql(name, end);
    assert_eq!(code(client.register(&signed("acme/b", 2)).await), ErrorCode::StorageFailed.as_str());
    let readiness = client.readiness().await.unwrap();
    assert!(!readiness.ready && readiness.directory.contains("went back"), "{readiness:?}");
    assert_eq!(published.lock().unwrap().last().unwrap().agent_count(), 1, "the shards go on with what they have");
    handle.shutdown().unwrap();
}

#[tokio::test]
async fn a_new_database_takes_over_what_is_in_the_file_once() {
    let Some(server) = Server::shared() else { return };
    let (folder, url) = (tempfile::tempdir().unwrap(), server.database());
    let path = folder.path().join("control.redb");
    let mut in_file = options(folder.path(), &url);
    in_file.database = None;
    let planner = signed("acme/planner", 1);
    let handle = Service::open(in_file.clone()).unwrap().spawn(|_: Arc<_>| {}).unwrap();
    Client::new(handle.socket_path()).register(&planner).await.unwrap();
    handle.shutdown().unwrap();

    let (handle, client, published) = start(folder.path(), &url);
    assert_eq!(client.agent(&planner.record.name).await.unwrap().id, planner.record.agent_id().to_string());
    assert_eq!(published.lock().unwrap().last().unwrap().agent_count(), 1);
    client.register(&signed("acme/later", 2)).await.unwrap();
    handle.shutdown().unwrap();
    assert!(!path.exists() && folder.path().join("control.redb.moved").exists());

    // A file that comes back, from a backup for example: nobody guesses which of the two is meant.
    std::fs::copy(folder.path().join("control.redb.moved"), &path).unwrap();
    let refused = Service::open(options(folder.path(), &url)).unwrap_err();
    assert!(matches!(refused, ServiceError::TwoDirectories { .. }), "{refused}");
    assert!(refused.to_string().contains("(1 agents, epoch 2)"), "{refused}");
    assert!(refused.to_string().contains("(2 agents, epoch 3)"), "{refused}");
    std::fs::remove_file(&path).unwrap();
    let found = Service::open(options(folder.path(), &url)).unwrap().snapshot();
    assert!(found.principal(&record("acme/later", 2).agent_id()).is_some());
}
