use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use creto_audit::{Label, What};
use creto_control_storage::StorageError;
use creto_envelope::{AgentState, SignedKeyRecord, TrustDomain};

use super::{Change, Changed, Directory, Reader, Registered};
use crate::ServiceError;
use crate::fixture::{record, sign, signed};
use crate::limits::NOTES_MAX;
use crate::registration::Registration;
use crate::storage::both;
use crate::storage::{AGENTS, AgentEntry, faulty};

mod attributes;
mod channels;
mod mailbox;
mod rotate;
mod states;
mod tokens;

const NOW_MS: u64 = 5_000;
pub(super) const GRACE_MS: u64 = 3_600_000;
pub(super) const RETENTION_S: u32 = 7 * 86_400;

fn open(path: &Path, agents_max: u64) -> (Directory, Reader) {
    let storage = Arc::new(both::open(path));
    let directory = Directory::load(Arc::clone(&storage), agents_max, GRACE_MS, RETENTION_S, NOW_MS).unwrap();
    (directory, Reader::new(storage, TrustDomain::default()))
}

fn checked(signed: &SignedKeyRecord) -> Registration {
    Registration::check(&signed.to_bytes(), &TrustDomain::default(), NOW_MS).unwrap()
}

fn register(directory: &mut Directory, records: &[SignedKeyRecord]) -> Vec<Registered> {
    let changes = records.iter().map(|signed| Change::Register(checked(signed))).collect();
    let changed = directory.change(changes, NOW_MS).unwrap();
    let registered = changed.into_iter().map(|changed| match changed {
        Changed::Register(registered) => registered,
        other => panic!("agents are registered here, nothing else: {other:?}"),
    });
    registered.collect()
}

fn codes(answers: &[Registered]) -> Vec<&'static str> {
    answers
        .iter()
        .map(|answer| match answer {
            Registered::Created(_) => "created",
            Registered::Known(_) => "known",
            Registered::Refused(code, _) => code.as_str(),
        })
        .collect()
}

#[test]
fn a_name_belongs_to_the_record_that_came_first() {
    let folder = tempfile::tempdir().unwrap();
    let (mut directory, _) = open(&folder.path().join("control.redb"), 10);
    let first = signed("acme/a", 1);
    assert_eq!(codes(&register(&mut directory, std::slice::from_ref(&first))), ["created"]);
    // Signed again, so its signatures differ; the record is the same.
    assert_eq!(codes(&register(&mut directory, &[first, signed("acme/a", 1)])), ["known", "known"]);
    let mut other_validity = record("acme/a", 1);
    other_validity.valid_from_ms += 1;
    let mut second_version = record("acme/a", 1);
    second_version.version = 2;
    let others = [signed("acme/a", 2), sign(other_validity, 1), sign(second_version, 1)];
    assert_eq!(codes(&register(&mut directory, &others)), ["name_taken"; 3]);
    assert_eq!(directory.snapshot().agent_count(), 1);
}

#[test]
fn in_one_transaction_too_exactly_one_of_a_name_wins() {
    let folder = tempfile::tempdir().unwrap();
    let (mut directory, _) = open(&folder.path().join("control.redb"), 10);
    let answers = register(&mut directory, &[signed("acme/a", 1), signed("acme/a", 2), signed("acme/a", 1)]);
    assert_eq!(codes(&answers), ["created", "name_taken", "known"]);
}

#[test]
fn the_first_version_is_one() {
    let folder = tempfile::tempdir().unwrap();
    let (mut directory, _) = open(&folder.path().join("control.redb"), 10);
    let mut second = record("acme/a", 1);
    second.version = 2;
    assert_eq!(codes(&register(&mut directory, &[sign(second, 1)])), ["version_not_first"]);
}

#[test]
fn the_epoch_moves_once_per_commit_and_not_without_a_change() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("control.redb");
    let (mut directory, reader) = open(&path, 10);
    assert_eq!(directory.snapshot().epoch(), 1);
    register(&mut directory, &[signed("acme/a", 1), signed("acme/b", 2)]);
    assert_eq!(directory.snapshot().epoch(), 2);
    register(&mut directory, &[signed("acme/a", 1), signed("acme/a", 3)]);
    assert_eq!(directory.snapshot().epoch(), 2);
    drop((directory, reader));
    let (mut directory, _) = open(&path, 10);
    assert_eq!(directory.snapshot().epoch(), 2, "the epoch does not go back with a restart");
    register(&mut directory, &[signed("acme/c", 3)]);
    assert_eq!(directory.snapshot().epoch(), 3);
}

#[test]
fn a_full_directory_refuses_and_still_knows_whom_it_has() {
    let folder = tempfile::tempdir().unwrap();
    let (mut directory, _) = open(&folder.path().join("control.redb"), 1);
    let answers = register(&mut directory, &[signed("acme/a", 1), signed("acme/b", 2), signed("acme/a", 1)]);
    assert_eq!(codes(&answers), ["created", "directory_full", "known"]);
}

#[test]
fn what_was_committed_is_in_a_copy_of_the_file_taken_at_that_moment() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("control.redb");
    let (mut directory, _) = open(&path, 100);
    for seed in 1..=8 {
        register(&mut directory, &[signed(&format!("acme/a{seed}"), seed)]);
        // The directory is still open: this is what a killed process leaves behind.
        let copy = folder.path().join(format!("copy-{seed}.redb"));
        std::fs::copy(&path, &copy).unwrap();
        let (found, _) = open(&copy, 100);
        let snapshot = found.snapshot();
        assert_eq!((snapshot.epoch(), snapshot.agent_count()), (u64::from(seed) + 1, usize::from(seed)));
        let id = record(&format!("acme/a{seed}"), seed).agent_id();
        assert_eq!(snapshot.principal(&id).unwrap().current(), (&record(&format!("acme/a{seed}"), seed)).into());
    }
}

#[test]
fn after_a_failed_commit_nobody_is_registered_and_the_epoch_stands() {
    let (storage, is_broken) = faulty::storage();
    let mut directory = Directory::load(Arc::new(storage), 10, GRACE_MS, RETENTION_S, NOW_MS).unwrap();
    register(&mut directory, &[signed("acme/a", 1)]);
    is_broken.store(true, Ordering::Relaxed);
    for _ in 0..2 {
        let failed = directory.change(vec![Change::Register(checked(&signed("acme/b", 2)))], NOW_MS);
        assert!(matches!(failed, Err(ServiceError::Storage(_))), "{failed:?}");
        let snapshot = directory.snapshot();
        assert_eq!((snapshot.epoch(), snapshot.agent_count()), (2, 1));
    }
}

/// What the audit log was told.
#[derive(Default)]
struct Told(std::sync::Mutex<Vec<crate::outbox::ControlEvent>>);

impl crate::outbox::AuditSink for Told {
    fn tell(&self, events: Vec<crate::outbox::ControlEvent>) {
        self.0.lock().unwrap().extend(events);
    }
}

#[test]
fn a_change_whose_outcome_is_unknown_is_an_error_and_what_was_stored_is_loaded_before_the_next() {
    for was_done in [true, false] {
        let (storage, fate) = faulty::uncertain_storage();
        let mut directory = Directory::load(Arc::new(storage), 10, GRACE_MS, RETENTION_S, NOW_MS).unwrap();
        let told = Arc::new(Told::default());
        let kept = Arc::new(crate::outbox::Kept::default());
        directory.tell_audit(super::Outbox::new(Arc::clone(&told) as _, kept), Vec::new(), NOW_MS).unwrap();
        directory.set_policy(creto_policy::Policy::FailOpen);
        register(&mut directory, &[signed("acme/a", 1)]);
        fate.store(if was_done { faulty::DONE } else { faulty::NOT_DONE }, Ordering::Relaxed);
        let failed = directory.change(vec![Change::Register(checked(&signed("acme/b", 2)))], NOW_MS);
        let unknown = matches!(failed, Err(ServiceError::Storage(StorageError::OutcomeUnknown { .. })));
        assert!(unknown && directory.is_stale(), "{failed:?}");
        assert_eq!(directory.snapshot().agent_count(), 1, "what is not known to be stored is not decided by");
        // Nothing is decided by old memory: as long as it cannot be loaded, nothing is changed.
        fate.store(faulty::AWAY, Ordering::Relaxed);
        assert!(directory.change(vec![Change::Register(checked(&signed("acme/c", 3)))], NOW_MS).is_err());
        fate.store(faulty::FINE, Ordering::Relaxed);
        let answers = register(&mut directory, &[signed("acme/b", 2)]);
        assert_eq!(codes(&answers), [if was_done { "known" } else { "created" }]);
        assert!(directory.take_reloaded() && !directory.take_reloaded() && !directory.is_stale());
        let snapshot = directory.snapshot();
        assert_eq!((snapshot.epoch(), snapshot.agent_count()), (3, 2));
        assert!(matches!(snapshot.policy(), Some(creto_policy::Policy::FailOpen)), "the policy is the one in force");
        let numbers: Vec<_> = told.0.lock().unwrap().iter().map(|event| event.number).collect();
        assert_eq!(numbers, [1, 2], "each is told once, in its order");
    }
}

#[test]
fn what_the_audit_log_could_not_be_told_is_told_with_the_next_change_and_once() {
    for fate_of_it in [faulty::DONE, faulty::NOT_DONE, faulty::AWAY] {
        let (storage, fate) = faulty::uncertain_storage();
        let mut directory = Directory::load(Arc::new(storage), 10, GRACE_MS, RETENTION_S, NOW_MS).unwrap();
        let told = Arc::new(Told::default());
        let kept = Arc::new(crate::outbox::Kept::default());
        directory.tell_audit(super::Outbox::new(Arc::clone(&told) as _, kept), Vec::new(), NOW_MS).unwrap();
        let agent = creto_envelope::AgentId([9; 16]);
        let note = |count| Change::Tell(vec![(What::PrekeysUploaded { agent, count }, Label::NONE)]);
        for (number, fate_of_it) in [(1, fate_of_it), (2, fate_of_it), (3, faulty::AWAY)] {
            fate.store(fate_of_it, Ordering::Relaxed);
            assert!(directory.change(vec![note(number)], NOW_MS).is_err() && directory.has_untold());
        }
        fate.store(faulty::FINE, Ordering::Relaxed);
        directory.change(vec![note(4)], NOW_MS).unwrap();
        directory.change(vec![note(5)], NOW_MS).unwrap();
        assert!(!directory.has_untold());
        let counts: Vec<_> = told.0.lock().unwrap().iter().map(|event| event.event.what).collect();
        assert_eq!(counts, [1, 2, 3, 4, 5].map(|count| What::PrekeysUploaded { agent, count }));
        // Kept are only so many.
        fate.store(faulty::AWAY, Ordering::Relaxed);
        let many = vec![(What::PrekeysUploaded { agent, count: 6 }, Label::NONE); 2 * NOTES_MAX];
        assert!(directory.change(vec![Change::Tell(many)], NOW_MS).is_err());
        fate.store(faulty::FINE, Ordering::Relaxed);
        directory.change(Vec::new(), NOW_MS).unwrap();
        assert_eq!(told.0.lock().unwrap().len(), 5 + NOTES_MAX);
    }
}

#[test]
fn states_are_loaded_as_they_were_stored() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("control.redb");
    let (mut directory, reader) = open(&path, 10);
    let signed = signed("acme/a", 1);
    register(&mut directory, std::slice::from_ref(&signed));
    let id = signed.record.agent_id();
    let entry = AgentEntry { state: AgentState::Revoked, ..AgentEntry::registered(&signed, NOW_MS) };
    let transaction = directory.storage.begin_write().unwrap();
    transaction.table(AGENTS).put(&id.0, &entry.to_bytes()).unwrap();
    transaction.commit().unwrap();
    drop((directory, reader));
    let (directory, reader) = open(&path, 10);
    assert_eq!(directory.snapshot().principal(&id).unwrap().state(), AgentState::Revoked);
    assert_eq!(reader.agent(&signed.record.name).unwrap().unwrap().state, "revoked");
}

#[test]
fn an_agent_that_contradicts_its_records_is_found_at_start() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("control.redb");
    let (mut directory, _) = open(&path, 10);
    let signed = signed("acme/a", 1);
    register(&mut directory, std::slice::from_ref(&signed));
    let entry = AgentEntry { version: 2, ..AgentEntry::registered(&signed, NOW_MS) };
    let transaction = directory.storage.begin_write().unwrap();
    transaction.table(AGENTS).put(&signed.record.agent_id().0, &entry.to_bytes()).unwrap();
    transaction.commit().unwrap();
    let reloaded = Directory::load(Arc::clone(&directory.storage), 10, GRACE_MS, RETENTION_S, NOW_MS);
    assert!(matches!(reloaded.err(), Some(ServiceError::Damaged(_))));
}

#[test]
fn pages_hold_every_agent_once_in_the_order_of_names() {
    let folder = tempfile::tempdir().unwrap();
    let (mut directory, reader) = open(&folder.path().join("control.redb"), 100);
    let names = ["acme.x/a", "acme/a", "acme/b", "acme/c", "acme0/a", "zeta/a"];
    let records: Vec<_> = names.iter().rev().zip(1..).map(|(name, seed)| signed(name, seed)).collect();
    register(&mut directory, &records);
    for limit in 1..=7 {
        for organization in [None, Some("acme"), Some("zeta"), Some("nobody"), Some("acm")] {
            let (mut found, mut after, mut pages) = (Vec::new(), None, 0);
            loop {
                let page = reader.page(organization, after.as_deref(), limit).unwrap();
                assert!(page.agents.len() <= limit);
                found.extend(page.agents.into_iter().map(|agent| agent.name));
                pages += 1;
                after = page.next_after;
                if after.is_none() {
                    break;
                }
            }
            let expect: Vec<_> = names
                .iter()
                .filter(|name| organization.is_none_or(|organization| name.split('/').next() == Some(organization)))
                .collect();
            assert_eq!(found.iter().collect::<Vec<_>>(), expect.iter().map(|&&name| name).collect::<Vec<_>>());
            assert_eq!(pages, expect.len().div_ceil(limit).max(1), "no empty last page");
        }
    }
    assert!(reader.page(None, Some("zzz"), 10).unwrap().agents.is_empty());
    assert!(reader.page(Some("acme"), Some("zeta/a"), 10).unwrap().agents.is_empty());
}

crate::storage::both::on_postgres_too!(
    a_name_belongs_to_the_record_that_came_first,
    in_one_transaction_too_exactly_one_of_a_name_wins,
    the_first_version_is_one,
    the_epoch_moves_once_per_commit_and_not_without_a_change,
    a_full_directory_refuses_and_still_knows_whom_it_has,
    states_are_loaded_as_they_were_stored,
    an_agent_that_contradicts_its_records_is_found_at_start,
    pages_hold_every_agent_once_in_the_order_of_names,
);
