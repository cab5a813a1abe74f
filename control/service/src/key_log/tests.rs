use std::path::{Path, PathBuf};
use std::sync::{Arc, mpsc};

use creto_audit::LogKeys;
use creto_envelope::control::RotationMode;
use creto_envelope::key_log::{KeyLeaves, KeyLeavesRequest, KeyProof, KeyProofRequest, ProvenKey};
use creto_envelope::limits::KEY_LEAVES_MAX;
use creto_envelope::{AgentId, FrameHeader, KeyRecord, SignedKeyRecord, TrustDomain};
use creto_transparency::{Evidence, KeyLeaf, LeafKind, Scan, ScanSelf, Watch, origin_beside};

use super::serve::KeyLog;
use super::tables::{KEY_LEAVES, KEY_PLACES, KEY_SUBTREES, LogReader, LogWriter, adopt};
use super::*;
use crate::directory::{Change, Changed, Directory, Registered};
use crate::fixture::{in_mode, next, signed};
use crate::registration::Registration;
use crate::rotation::Rotation;
use crate::states::{StateChange, StateRequest, StateWord, Whose};
use crate::storage::{KEY_RECORDS, Storage};

const NOW_MS: u64 = 5_000;

fn keys() -> LogKeys {
    LogKeys::from_seeds(&origin_beside("creto.local/creto-audit/node-1"), &[1; 32], &[2; 32]).unwrap()
}

fn storage(path: &Path) -> Arc<Storage> {
    Arc::new(crate::storage::both::open(path))
}

fn load(storage: &Arc<Storage>) -> Directory {
    Directory::load(Arc::clone(storage), 100, 3_600_000, 86_400, NOW_MS).unwrap()
}

fn register(directory: &mut Directory, record: &SignedKeyRecord) {
    let registration = Registration::of(record.clone(), &TrustDomain::default(), NOW_MS).unwrap();
    let changed = directory.change(vec![Change::Register(registration)], NOW_MS).unwrap();
    assert!(matches!(changed[..], [Changed::Register(Registered::Created(_))]));
}

fn rotate(directory: &mut Directory, mode: RotationMode, record: &SignedKeyRecord) {
    let id = record.record.agent_id();
    let rotation = Rotation::check(id, mode, record.clone(), &TrustDomain::default(), NOW_MS).unwrap();
    let changed = directory.change(vec![Change::Rotate(rotation)], NOW_MS + 1).unwrap();
    assert!(changed[0].is_new(), "{changed:?}");
}

fn revoke(directory: &mut Directory, agent: AgentId, since_ms: u64) {
    let change = StateChange { state: StateWord::Revoked, reason: None, since_ms: Some(since_ms) };
    let changed = directory.change(vec![Change::State(StateRequest { whose: Whose::Agent(agent), change })], NOW_MS);
    assert!(changed.unwrap()[0].is_new());
}

fn leaves(storage: &Storage) -> Vec<KeyLeaf> {
    let transaction = storage.begin_read().unwrap();
    let log = LogReader::open(storage, &*transaction).unwrap();
    log.leaves(0, log.size()).unwrap().iter().map(|bytes| KeyLeaf::parse(bytes).unwrap()).collect()
}

/// An agent that asks over the door, and the service behind it.
struct Client {
    key_log: KeyLog,
    watch: Watch,
}

impl Client {
    fn new(storage: &Arc<Storage>) -> Self {
        Self { key_log: KeyLog::new(Arc::clone(storage), keys()), watch: Watch::pin(keys().public().clone()).unwrap() }
    }

    fn ask(&mut self, question: KeyLogQuestion) -> Vec<u8> {
        let (answers, answered) = mpsc::channel();
        let reply: Box<dyn FnOnce(Vec<u8>) + Send> = Box::new(move |frame| answers.send(frame).unwrap());
        self.key_log.answer_all(vec![Asked { question, reply: Some(reply) }]);
        let frame = answered.try_recv().unwrap();
        let (header, body) = frame.split_first_chunk().unwrap();
        assert_eq!(FrameHeader::parse(header).unwrap().body_bytes as usize, body.len());
        body.to_vec()
    }

    fn prove(&mut self, agent: AgentId, version: u32) -> Result<ProvenKey, KeyLogRefusal> {
        let question = KeyProofRequest { agent, version, seen: self.watch.size(), wants_keys: true };
        KeyProof::parse(&self.ask(KeyLogQuestion::Proof(question))).unwrap().answer
    }

    /// Has the record proven, as the SDK does.
    fn check(&mut self, record: &KeyRecord) -> KeyLeaf {
        let ProvenKey { size, index, leaf, path, consistency, note, keys } =
            self.prove(record.agent_id(), record.version).unwrap();
        assert_eq!(keys, self.watch.public().to_text().into_bytes());
        assert_eq!(note.is_empty(), size == self.watch.size(), "a head that is known is not sent again");
        if !note.is_empty() {
            self.watch.advance(&note, &consistency).unwrap();
        }
        self.watch.check(record, Evidence { size, index, leaf: &leaf, path: &path }).unwrap()
    }
}

#[test]
fn every_change_of_a_key_record_is_a_leaf_and_nothing_else_is() {
    let folder = tempfile::tempdir().unwrap();
    let storage = storage(&folder.path().join("control.redb"));
    let mut directory = load(&storage);
    let (a, b) = (signed("acme/a", 1), signed("acme/b", 2));
    register(&mut directory, &a);
    register(&mut directory, &b);
    let second = next(&a, 1, 9);
    rotate(&mut directory, RotationMode::Planned, &second);
    let third = in_mode(RotationMode::Emergency, &next(&second, 1, 10), 1);
    rotate(&mut directory, RotationMode::Emergency, &third);
    // Known already, refused, and what is no matter of keys.
    let again = Registration::of(a.clone(), &TrustDomain::default(), NOW_MS).unwrap();
    directory.change(vec![Change::Register(again)], NOW_MS).unwrap();
    let suspend = StateChange { state: StateWord::Suspended, reason: None, since_ms: None };
    let whose = Whose::Agent(b.record.agent_id());
    directory.change(vec![Change::State(StateRequest { whose, change: suspend })], NOW_MS).unwrap();
    revoke(&mut directory, a.record.agent_id(), 4_000);
    // It is found to count since earlier.
    revoke(&mut directory, a.record.agent_id(), 3_000);

    let revoked = KeyLeaf::of(&third.record, LeafKind::Revoked, NOW_MS);
    assert_eq!(
        leaves(&storage),
        [
            KeyLeaf::of(&a.record, LeafKind::Enrolled, NOW_MS),
            KeyLeaf::of(&b.record, LeafKind::Enrolled, NOW_MS),
            KeyLeaf::of(&second.record, LeafKind::Rotated, NOW_MS + 1),
            KeyLeaf::of(&third.record, LeafKind::Emergency, NOW_MS + 1),
            KeyLeaf { since_ms: 4_000, ..revoked },
            KeyLeaf { since_ms: 3_000, ..revoked },
        ]
    );
}

#[test]
fn each_record_is_proven_to_a_client_that_has_seen_any_earlier_size() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("control.redb");
    let mut records: Vec<SignedKeyRecord> = Vec::new();
    let mut old = None;
    for round in 0..9_u8 {
        // Each round is another process.
        let storage = storage(&path);
        let mut directory = load(&storage);
        let new = signed(&format!("acme/a{round}"), round + 1);
        register(&mut directory, &new);
        records.push(new);
        let mut fresh = Client::new(&storage);
        let mut seen = old.take().map_or_else(
            || Client::new(&storage),
            |watch| Client { key_log: KeyLog::new(Arc::clone(&storage), keys()), watch },
        );
        for record in &records {
            assert_eq!(fresh.check(&record.record).kind, LeafKind::Enrolled);
            assert_eq!(seen.check(&record.record).kind, LeafKind::Enrolled);
        }
        assert_eq!(seen.watch.size(), u64::from(round) + 1);
        old = Some(seen.watch);
    }
}

#[test]
fn what_is_in_no_leaf_is_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let storage = storage(&folder.path().join("control.redb"));
    let a = signed("acme/a", 1);
    let mut client = Client::new(&storage);
    let id = a.record.agent_id();
    assert_eq!(client.prove(id, 1), Err(RejectCode::UnknownKeyVersion.into()));
    register(&mut load(&storage), &a);
    assert!(client.prove(id, 1).is_ok());
    for version in [0, 2] {
        assert_eq!(client.prove(id, version), Err(RejectCode::UnknownKeyVersion.into()));
    }
}

/// An agent that has nothing in the log.
struct Nobody;

impl ScanSelf for Nobody {
    fn agent(&self) -> AgentId {
        AgentId([0; 16])
    }

    fn signing(&self) -> [u8; 32] {
        [0; 32]
    }

    fn key_id(&self, _version: u32) -> Option<creto_envelope::KeyId> {
        None
    }
}

/// Appends this many small leaves.
fn grow(storage: &Storage, from: u32, count: u32) {
    let template = KeyLeaf::of(&signed("acme/a", 1).record, LeafKind::Enrolled, 0);
    let transaction = storage.begin_write().unwrap();
    let mut log = LogWriter::open(storage, &*transaction).unwrap();
    for version in from..from + count {
        log.append(&KeyLeaf { version, ..template }).unwrap();
    }
    transaction.commit().unwrap();
}

#[test]
fn all_leaves_are_read_page_by_page_and_make_the_tree() {
    let folder = tempfile::tempdir().unwrap();
    let storage = storage(&folder.path().join("control.redb"));
    let size = 2 * KEY_LEAVES_MAX as u64 + 77;
    grow(&storage, 1, u32::try_from(size).unwrap());
    let mut client = Client::new(&storage);
    let proven = client.prove(signed("acme/a", 1).record.agent_id(), 9).unwrap();
    client.watch.advance(&proven.note, &proven.consistency).unwrap();
    let mut scan = Scan::new();
    let mut pages = 0;
    while !scan.ends_at(client.watch.head().unwrap()).unwrap() {
        let question = KeyLeavesRequest { from: scan.size(), through: size };
        let page = KeyLeaves::parse(&client.ask(KeyLogQuestion::Leaves(question))).unwrap();
        assert_eq!(page.from, scan.size());
        scan.take(&page.answer.unwrap(), &Nobody).unwrap();
        pages += 1;
    }
    assert_eq!((pages, scan.size()), (3, size));
    let behind = KeyLeavesRequest { from: size, through: u64::MAX };
    assert_eq!(KeyLeaves::parse(&client.ask(KeyLogQuestion::Leaves(behind))).unwrap().answer, Ok(Vec::new()));
}

#[test]
fn records_of_an_older_directory_are_its_first_leaves_and_taken_over_once() {
    let folder = tempfile::tempdir().unwrap();
    let storage = storage(&folder.path().join("control.redb"));
    let mut directory = load(&storage);
    let (a, b) = (signed("acme/a", 1), signed("acme/b", 2));
    register(&mut directory, &a);
    register(&mut directory, &b);
    let second = in_mode(RotationMode::Emergency, &next(&a, 1, 9), 1);
    rotate(&mut directory, RotationMode::Emergency, &second);
    revoke(&mut directory, b.record.agent_id(), 4_000);
    drop(directory);
    // What a version leaves that knew no key log.
    let transaction = storage.begin_write().unwrap();
    transaction.table(KEY_LEAVES).clear().unwrap();
    transaction.table(KEY_SUBTREES).clear().unwrap();
    transaction.table(KEY_PLACES).clear().unwrap();
    transaction.commit().unwrap();

    let mut directory = load(&storage);
    let adopted =
        |record: &SignedKeyRecord, kind| KeyLeaf { is_adopted: true, ..KeyLeaf::of(&record.record, kind, NOW_MS) };
    let mut expect = vec![
        adopted(&a, LeafKind::Enrolled),
        adopted(&second, LeafKind::Emergency),
        adopted(&b, LeafKind::Enrolled),
        KeyLeaf { since_ms: 4_000, ..adopted(&b, LeafKind::Revoked) },
    ];
    // In the order of the ids.
    if b.record.agent_id() < a.record.agent_id() {
        expect.rotate_left(2);
    }
    assert_eq!(leaves(&storage), expect);
    let third = next(&second, 1, 10);
    rotate(&mut directory, RotationMode::Planned, &third);
    drop(directory);
    assert_eq!(adopt(&storage, NOW_MS).unwrap(), 0);
    assert_eq!(leaves(&storage).len(), 5);
    let mut client = Client::new(&storage);
    for record in [&a, &b, &second, &third] {
        client.check(&record.record);
    }
}

/// Directories as older versions wrote them.
fn fixtures() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures");
    let files = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path().join("data/control.redb"));
    files.filter(|file| file.exists()).collect()
}

#[test]
fn every_record_of_every_older_directory_is_proven_after_it_was_opened() {
    let folder = tempfile::tempdir().unwrap();
    let files = fixtures();
    assert!(files.len() >= 4, "{files:?}");
    for (number, file) in files.iter().enumerate() {
        let path = folder.path().join(number.to_string());
        std::fs::copy(file, &path).unwrap();
        let storage = storage(&path);
        let had_a_log = storage.begin_read().unwrap().table(KEY_LEAVES).count().unwrap() > 0;
        drop(load(&storage));
        let mut client = Client::new(&storage);
        let transaction = storage.begin_read().unwrap();
        let records = transaction.table(KEY_RECORDS);
        assert!(records.count().unwrap() >= 3, "{}", file.display());
        for row in records.all() {
            let record = SignedKeyRecord::parse(&row.unwrap().1).unwrap().record;
            assert_eq!(client.check(&record).is_adopted, !had_a_log, "{}", file.display());
        }
    }
}

#[test]
fn a_killed_process_leaves_each_record_with_its_leaf() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("control.redb");
    let live = storage(&path);
    let mut directory = load(&live);
    for seed in 1..=6 {
        register(&mut directory, &signed(&format!("acme/a{seed}"), seed));
        // The directory is still open: this is what a killed process leaves behind.
        let copy = folder.path().join(format!("copy-{seed}.redb"));
        std::fs::copy(&path, &copy).unwrap();
        let found = storage(&copy);
        assert_eq!(leaves(&found), leaves(&live));
        assert_eq!(leaves(&found).len(), usize::from(seed));
        Client::new(&found).check(&signed(&format!("acme/a{seed}"), seed).record);
    }
}

#[test]
fn a_change_that_cannot_be_stored_leaves_no_leaf() {
    let (storage, is_broken) = crate::storage::faulty::storage();
    let storage = Arc::new(storage);
    let mut directory = load(&storage);
    register(&mut directory, &signed("acme/a", 1));
    is_broken.store(true, std::sync::atomic::Ordering::Relaxed);
    let registration = Registration::of(signed("acme/b", 2), &TrustDomain::default(), NOW_MS).unwrap();
    assert!(directory.change(vec![Change::Register(registration)], NOW_MS).is_err());
    assert_eq!(leaves(&storage).len(), 1);
}

#[test]
fn a_full_door_refuses_at_once_and_whatever_was_taken_is_answered_once() {
    let (questioner, door) = questions();
    let (answers, answered) = mpsc::channel();
    let question = KeyLogQuestion::Leaves(KeyLeavesRequest { from: 3, through: 4 });
    let ask = || {
        let answers = answers.clone();
        questioner.ask(question, move |frame| answers.send(frame).unwrap())
    };
    for _ in 0..KEY_LOG_QUESTIONS_MAX {
        ask().unwrap();
    }
    assert_eq!(ask(), Err(BUSY));
    assert!(answered.try_recv().is_err());
    drop(door);
    let over = question.refused(RejectCode::ShuttingDown.into());
    assert_eq!(answered.try_iter().filter(|frame| *frame == over).count(), KEY_LOG_QUESTIONS_MAX);
    assert_eq!(ask().unwrap_err(), RejectCode::ShuttingDown.into());
    assert!(answered.try_recv().is_err());
}

crate::storage::both::on_postgres_too!(
    every_change_of_a_key_record_is_a_leaf_and_nothing_else_is,
    each_record_is_proven_to_a_client_that_has_seen_any_earlier_size,
    what_is_in_no_leaf_is_refused_by_name,
    all_leaves_are_read_page_by_page_and_make_the_tree,
    records_of_an_older_directory_are_its_first_leaves_and_taken_over_once,
    // From the file of each older version, which a new database takes over.
    every_record_of_every_older_directory_is_proven_after_it_was_opened,
);
