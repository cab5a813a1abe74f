use creto_policy::mailbox::SESSION_SPAN_MS;
use creto_policy::{MailboxLimits, MailboxSettings};

use super::*;
use crate::directory::MailboxSet;
use crate::fixture::next;
use crate::mailboxes::{MailboxChange, MailboxDefaults, MailboxRequest};

const NAME: &str = "acme/a";
const HOUR_S: u32 = 3_600;

fn open_with(path: &Path, retention_s: u32, now_ms: u64) -> (Directory, Reader) {
    let storage = Arc::new(both::open(path));
    let directory = Directory::load(Arc::clone(&storage), 10, GRACE_MS, retention_s, now_ms).unwrap();
    (directory, Reader::new(storage, TrustDomain::default()))
}

fn set_at(directory: &mut Directory, change: MailboxChange, now_ms: u64) -> MailboxSet {
    let agent = record(NAME, 1).agent_id();
    let changes = vec![Change::Mailbox(MailboxRequest { agent, change })];
    match directory.change(changes, now_ms).unwrap().remove(0) {
        Changed::Mailbox(set) => set,
        other => panic!("a change has an answer of its kind: {other:?}"),
    }
}

fn limits(directory: &Directory, now_ms: u64) -> MailboxLimits {
    directory.snapshot().principal(&record(NAME, 1).agent_id()).unwrap().mailbox_limits(now_ms)
}

#[test]
fn what_is_set_is_in_the_next_snapshot_and_there_after_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("control.redb");
    let (mut directory, reader) = open(&path, 10);
    assert_eq!(set_at(&mut directory, MailboxChange::default(), NOW_MS), MailboxSet::Unknown);
    register(&mut directory, &[signed(NAME, 1)]);
    let change = MailboxChange {
        retention_s: Some(Some(2 * HOUR_S)),
        messages_max: Some(Some(7)),
        bytes_max: Some(Some(4 << 20)),
        max_deliveries: Some(Some(3)),
    };
    let before = directory.snapshot().epoch();
    assert!(matches!(set_at(&mut directory, change, NOW_MS), MailboxSet::Changed(_)));
    assert!(matches!(set_at(&mut directory, change, NOW_MS), MailboxSet::Same(_)));
    assert_eq!(directory.snapshot().epoch(), before + 1, "what changes nothing makes no snapshot");
    let expected =
        MailboxLimits { bytes_max: 4 << 20, messages_max: 7, retention_s: 2 * HOUR_S, session_retention_s: 0 };
    assert_eq!(limits(&directory, NOW_MS), expected);
    let principal = directory.snapshot().principal(&record(NAME, 1).agent_id()).cloned().unwrap();
    assert_eq!(principal.mailbox_settings().max_deliveries, Some(3));

    // A replaced key leaves it as it is, in memory and on disk.
    let rotation = crate::rotation::Rotation::check(
        record(NAME, 1).agent_id(),
        creto_envelope::control::RotationMode::Planned,
        next(&signed(NAME, 1), 1, 9),
        &TrustDomain::default(),
        NOW_MS,
    );
    directory.change(vec![Change::Rotate(rotation.unwrap())], NOW_MS).unwrap();
    assert_eq!(limits(&directory, NOW_MS), expected);
    drop((directory, reader));
    let (mut directory, reader) = open(&path, 10);
    assert_eq!(limits(&directory, NOW_MS), expected);

    let defaults = MailboxDefaults::default();
    let info = reader.mailbox(&record(NAME, 1).name, &defaults).unwrap().unwrap();
    assert_eq!((info.messages_max, info.in_force.messages_max), (Some(7), 7));
    assert!(reader.mailbox(&record("acme/nobody", 1).name, &defaults).unwrap().is_none());
    assert!(matches!(set_at(&mut directory, MailboxChange::ALL_DEFAULT, NOW_MS), MailboxSet::Changed(_)));
    let page = reader.mailboxes(Some("acme"), None, 10, &defaults).unwrap();
    assert_eq!((page.mailboxes.len(), page.next_after), (1, None));
    assert_eq!((page.mailboxes[0].messages_max, page.mailboxes[0].in_force), (None, defaults));
}

#[test]
fn a_value_outside_its_range_changes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let (mut directory, _) = open(&folder.path().join("control.redb"), 10);
    register(&mut directory, &[signed(NAME, 1)]);
    let change = MailboxChange { retention_s: Some(Some(60)), messages_max: Some(Some(1)), ..MailboxChange::default() };
    let MailboxSet::OutOfRange(error) = set_at(&mut directory, change, NOW_MS) else { panic!("a minute is too short") };
    assert_eq!(error.to_string(), "retention_s: 60 is out of range: from 3600 to 2592000");
    assert_eq!(limits(&directory, NOW_MS), MailboxLimits::default());
}

#[test]
fn a_retention_that_is_raised_counts_for_open_sessions_later_also_over_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("control.redb");
    let (mut directory, reader) = open_with(&path, HOUR_S, NOW_MS);
    register(&mut directory, &[signed(NAME, 1)]);
    let retention = |seconds: u32| MailboxChange { retention_s: Some(Some(seconds)), ..MailboxChange::default() };
    set_at(&mut directory, retention(9 * HOUR_S), NOW_MS);
    assert_eq!(limits(&directory, NOW_MS).session_retention_s, HOUR_S, "it was the default");
    set_at(&mut directory, retention(2 * HOUR_S), NOW_MS + 1);
    set_at(&mut directory, retention(3 * HOUR_S), NOW_MS + 2);
    drop((directory, reader));
    let (directory, reader) = open_with(&path, HOUR_S, NOW_MS + 3);
    let now = limits(&directory, NOW_MS + 3);
    assert_eq!((now.retention_s, now.session_retention_s), (3 * HOUR_S, HOUR_S));
    assert_eq!(limits(&directory, NOW_MS + 2 + SESSION_SPAN_MS).session_retention_s, 0);
    drop((directory, reader));

    // The configuration was changed between two starts: those that follow it are in the same place.
    let other = folder.path().join("other.redb");
    let (mut directory, reader) = open_with(&other, HOUR_S, NOW_MS);
    register(&mut directory, &[signed(NAME, 1)]);
    assert_eq!(limits(&directory, NOW_MS), MailboxLimits::default());
    drop((directory, reader));
    for _ in 0..2 {
        let (directory, _reader) = open_with(&other, 9 * HOUR_S, NOW_MS + 1);
        let now = limits(&directory, NOW_MS + 1);
        assert_eq!((now.retention_s, now.session_retention_s), (0, HOUR_S));
    }
}

#[test]
fn settings_of_a_file_of_the_last_format_are_those_of_the_node() {
    let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/data-dir-v1/data/control.redb");
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("control.redb");
    std::fs::copy(fixture, &path).unwrap();
    let (directory, reader) = open(&path, 10);
    let page = reader.mailboxes(None, None, 10, &MailboxDefaults::default()).unwrap();
    assert_eq!(page.mailboxes.len(), 3);
    for mailbox in page.mailboxes {
        assert_eq!(mailbox.in_force, MailboxDefaults::default());
        let agent = creto_envelope::AgentId::parse_hex(&mailbox.id).unwrap();
        let snapshot = directory.snapshot();
        assert_eq!(snapshot.principal(&agent).unwrap().mailbox_settings(), &MailboxSettings::default());
    }
}

#[test]
fn a_row_that_nobody_wrote_is_found_at_start() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("control.redb");
    let (mut directory, _) = open(&path, 10);
    register(&mut directory, &[signed(NAME, 1)]);
    let transaction = directory.storage.begin_write().unwrap();
    let id = record(NAME, 1).agent_id();
    transaction.table(crate::storage::MAILBOXES).put(&id.0, &[1; 32]).unwrap();
    transaction.commit().unwrap();
    let reloaded = Directory::load(Arc::clone(&directory.storage), 10, GRACE_MS, RETENTION_S, NOW_MS);
    assert!(matches!(reloaded.err(), Some(ServiceError::Damaged(_))));
}

crate::storage::both::on_postgres_too!(
    what_is_set_is_in_the_next_snapshot_and_there_after_a_restart,
    a_value_outside_its_range_changes_nothing,
    a_retention_that_is_raised_counts_for_open_sessions_later_also_over_a_restart,
    a_row_that_nobody_wrote_is_found_at_start,
);
