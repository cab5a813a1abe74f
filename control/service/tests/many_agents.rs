//! A directory of many agents: opened without its key records, every one is there, and each of them is found.
#![allow(clippy::unwrap_used, reason = "a test stops where it is wrong")]

use std::path::Path;
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex};

use creto_envelope::{AgentName, AgentState, KeyRecord, SignedKeyRecord, TrustDomain};
use creto_policy::{KeyVersion, Snapshot};
use creto_service::client::Client;
use creto_service::fill::fill;
use creto_service::key_records::{KeyRecordDoor, Reply, key_record_questions};
use creto_service::states::{StateChange, StateWord};
use creto_service::{Service, ServiceHandle, ServiceOptions};

const AGENTS: u32 = 3_000;
const ORGANIZATIONS: u32 = 7;

/// Nobody looks at signatures here, so the keys are patterns; each agent has its own.
fn record(number: u32) -> SignedKeyRecord {
    let mut key = [1; 32];
    key[..4].copy_from_slice(&number.to_le_bytes());
    SignedKeyRecord {
        record: KeyRecord {
            version: 1,
            state: AgentState::Active,
            valid_from_ms: u64::from(number),
            valid_until_ms: u64::MAX,
            ed25519: key,
            x25519: key,
            ml_dsa_65: Box::new([3; 1952]),
            ml_kem_768: Box::new([4; 1184]),
            name: AgentName::parse(&format!("org-{}/agent-{number}", number % ORGANIZATIONS)).unwrap(),
            trust_domain: TrustDomain::default(),
            fn_dsa_512: None,
            purpose: None,
        },
        ed25519: [5; 64],
        ml_dsa_65: Box::new([6; 3309]),
    }
}

struct Running {
    service: ServiceHandle,
    door: KeyRecordDoor,
    newest: Arc<Mutex<Arc<Snapshot>>>,
}

fn start(folder: &Path) -> Running {
    let options = ServiceOptions::new(folder.join("control.redb"), folder.join("control.sock"), TrustDomain::default());
    let (door, questions) = key_record_questions();
    let newest = Arc::new(Mutex::new(Arc::new(Snapshot::empty())));
    let sink = Arc::clone(&newest);
    let service = Service::open(options).unwrap().with_key_records(questions);
    let service = service.spawn(move |snapshot: Arc<_>| *sink.lock().unwrap() = snapshot).unwrap();
    Running { service, door, newest }
}

impl Running {
    fn snapshot(&self) -> Arc<Snapshot> {
        Arc::clone(&self.newest.lock().unwrap())
    }
}

#[tokio::test]
async fn every_agent_of_a_large_directory_is_there_after_a_start_and_its_record_is_given_to_whoever_asks() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("control.redb");
    assert_eq!(fill(&path, &TrustDomain::default(), (0..AGENTS).map(record)).unwrap(), u64::from(AGENTS));
    let node = start(folder.path());
    let client = Client::new(node.service.socket_path());

    let snapshot = node.snapshot();
    assert_eq!(snapshot.agent_count(), AGENTS as usize);
    for number in 0..AGENTS {
        let record = record(number).record;
        let known = snapshot.principal(&record.agent_id()).unwrap();
        assert_eq!((known.current(), known.name()), (KeyVersion::from(&record), &record.name));
    }
    let status = client.status().await.unwrap();
    assert_eq!((status.agents, status.epoch), (u64::from(AGENTS), snapshot.epoch()));

    let mut listed: Vec<_> = client.agents(None).await.unwrap().into_iter().map(|agent| agent.name).collect();
    let mut names: Vec<_> = (0..AGENTS).map(|number| record(number).record.name.to_string()).collect();
    names.sort_unstable();
    assert!(listed.is_sorted());
    assert_eq!(listed, names, "page by page, each once");
    listed = client.agents(Some("org-3")).await.unwrap().into_iter().map(|agent| agent.name).collect();
    names.retain(|name| name.starts_with("org-3/"));
    assert_eq!(listed, names);

    let (tell, told) = channel();
    for number in (0..AGENTS).step_by(7) {
        let tell = tell.clone();
        let reply = Reply::new(move |answer| tell.send((number, answer)).unwrap());
        node.door.ask(record(number).record.agent_id(), 1, reply).unwrap();
    }
    drop(tell);
    let answers: Vec<_> = told.iter().collect();
    assert_eq!(answers.len(), AGENTS.div_ceil(7) as usize);
    for (number, answer) in answers {
        assert_eq!(*answer.unwrap(), record(number));
    }
    node.service.shutdown().unwrap();
}

#[tokio::test]
async fn a_change_of_one_of_many_is_in_the_next_snapshot_and_in_the_next_start() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("control.redb");
    fill(&path, &TrustDomain::default(), (0..AGENTS).map(record)).unwrap();
    let node = start(folder.path());
    let client = Client::new(node.service.socket_path());
    let changed = record(17).record;
    let revoke = StateChange { state: StateWord::Revoked, reason: None, since_ms: Some(5) };
    client.set_state(&changed.name, &revoke).await.unwrap();
    let is_as_changed = |snapshot: &Snapshot| {
        for number in 0..AGENTS {
            let known = snapshot.principal(&record(number).record.agent_id()).unwrap();
            assert_eq!(known.revoked_at_ms(), (number == 17).then_some(5), "agent {number}");
        }
    };
    is_as_changed(&node.snapshot());
    node.service.shutdown().unwrap();
    let node = start(folder.path());
    is_as_changed(&node.snapshot());
    node.service.shutdown().unwrap();
}
