use std::sync::{Arc, Mutex};

use creto_audit::What;
use creto_envelope::{AgentId, AgentName, TrustDomain};

use super::Outbox;
use crate::directory::{Change, Changed, Directory, Registered};
use crate::fixture::signed;
use crate::outbox::{AuditSink, ControlEvent, Kept};
use crate::registration::Registration;
use crate::states::{StateChange, StateRequest, StateWord, Whose};

const NOW_MS: u64 = 1_700_000_000_000;

/// An audit log that keeps what it is told when the test says so.
#[derive(Default)]
struct Log(Mutex<Vec<ControlEvent>>);

impl AuditSink for Log {
    fn tell(&self, events: Vec<ControlEvent>) {
        self.0.lock().unwrap().extend(events);
    }
}

impl Log {
    fn told(&self) -> Vec<ControlEvent> {
        std::mem::take(&mut self.0.lock().unwrap())
    }
}

struct Node {
    directory: Directory,
    log: Arc<Log>,
    kept: Arc<Kept>,
}

impl Node {
    fn start(path: &std::path::Path, kept: u64) -> Self {
        let storage = Arc::new(crate::storage::both::open(path));
        let mut directory = Directory::load(storage, 100, 1_000, 3_600, NOW_MS).unwrap();
        let (log, kept) = (Arc::new(Log::default()), Arc::new(Kept::up_to(kept)));
        directory.tell_audit(Outbox::new(Arc::clone(&log) as _, Arc::clone(&kept)), Vec::new(), NOW_MS).unwrap();
        Self { directory, log, kept }
    }

    fn register(&mut self, name: &str, seed: u8) -> AgentId {
        let record = signed(name, seed);
        let id = record.record.agent_id();
        let registration = Registration::check(&record.to_bytes(), &TrustDomain::default(), NOW_MS).unwrap();
        let answer = self.directory.change(vec![Change::Register(registration)], NOW_MS).unwrap().remove(0);
        assert!(matches!(answer, Changed::Register(Registered::Created(_))));
        id
    }

    fn revoke(&mut self, name: &str, reason: &str) {
        let agent = AgentId::derive(&TrustDomain::default(), &AgentName::parse(name).unwrap());
        let change = StateChange { state: StateWord::Revoked, reason: Some(reason.to_owned()), since_ms: None };
        let request = StateRequest { whose: Whose::Agent(agent), change };
        self.directory.change(vec![Change::State(request)], NOW_MS).unwrap();
    }
}

#[test]
fn a_change_is_told_when_it_is_durable_and_again_until_it_is_kept() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("control.redb");
    let mut node = Node::start(&path, 0);
    let a = node.register("acme/a", 1);
    node.register("acme/b", 2);
    node.revoke("acme/a", "key lost");
    let told = node.log.told();
    assert_eq!(told.iter().map(|event| event.number).collect::<Vec<_>>(), [1, 2, 3]);
    assert!(matches!(told[0].event.what, What::AgentRegistered { agent, .. } if agent == a));
    assert_eq!((told[0].label.as_str(), told[2].label.as_str()), ("acme/a", "key lost"));
    assert!(
        matches!(told[2].event.what, What::AgentRevoked { agent, effective, .. } if agent == a && effective.0 == NOW_MS)
    );
    assert!(told.iter().all(|event| !event.event.is_recovered()));
    drop(node);

    // The audit log had kept the first when the node was killed.
    let mut node = Node::start(&path, 1);
    let again = node.log.told();
    assert_eq!(again.iter().map(|event| event.number).collect::<Vec<_>>(), [2, 3]);
    assert!(again.iter().all(|event| event.event.is_recovered()));
    assert_eq!((again[1].event.what, again[1].label), (told[2].event.what, told[2].label));
    node.kept.set(3);
    node.register("acme/c", 3);
    assert_eq!(node.log.told().iter().map(|event| event.number).collect::<Vec<_>>(), [4]);
    drop(node);

    // What is kept is gone from the outbox, whatever a log that was begun anew asks for.
    let node = Node::start(&path, 0);
    assert_eq!(node.log.told().iter().map(|event| event.number).collect::<Vec<_>>(), [4]);
}

#[test]
fn a_directory_that_was_restored_goes_on_behind_what_the_log_has() {
    let folder = tempfile::tempdir().unwrap();
    let mut node = Node::start(&folder.path().join("control.redb"), 50);
    node.register("acme/a", 1);
    assert_eq!(node.log.told()[0].number, 51);
}

#[test]
fn uploaded_prekeys_are_told_once_and_move_no_epoch() {
    let folder = tempfile::tempdir().unwrap();
    let mut node = Node::start(&folder.path().join("control.redb"), 0);
    let agent = node.register("acme/a", 1);
    node.log.told();
    let epoch = node.directory.epoch();
    let record = signed("acme/a", 1).record;
    let upload = || {
        let batch = crate::fixture::prekeys(&record, 1, 1, 0..3);
        Change::Prekeys(crate::prekeys::check::CheckedBatch::check(&batch, &record, NOW_MS).unwrap())
    };
    node.directory.change(vec![upload()], NOW_MS).unwrap();
    // Again, because the answer was lost.
    node.directory.change(vec![upload()], NOW_MS).unwrap();
    let told: Vec<_> = node.log.told().into_iter().map(|told| told.event.what).collect();
    assert_eq!(told, [What::PrekeysUploaded { agent, count: 4 }]);
    assert_eq!(node.directory.epoch(), epoch, "what the shards need not know does not make them decide anew");
}

crate::storage::both::on_postgres_too!(
    a_change_is_told_when_it_is_durable_and_again_until_it_is_kept,
    a_directory_that_was_restored_goes_on_behind_what_the_log_has,
    uploaded_prekeys_are_told_once_and_move_no_epoch,
);
