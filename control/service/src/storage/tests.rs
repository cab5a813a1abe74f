use std::os::unix::fs::PermissionsExt;

use creto_control_storage::{StorageError, Table};
use creto_envelope::control::RotationMode;
use creto_envelope::{AgentState, TrustDomain};
use creto_policy::{KeyVersion, Replacement};

use super::{
    AGENTS, AgentEntry, FORMAT, META, META_EPOCH, META_FORMAT, NAMES, REPLACEMENTS, Storage, parse_replaced,
    parse_replacement, replaced_bytes,
};
use crate::ServiceError;
use crate::fixture::{record, signed};
use crate::limits::VERSIONS_HELD_MAX;

fn entry(name: &str) -> AgentEntry {
    let record = record(name, 1);
    AgentEntry {
        state: AgentState::Suspended,
        version: 7,
        registered_at_ms: u64::MAX,
        valid_from_ms: 1,
        valid_until_ms: 2,
        key_id: record.key_id(),
        has_fn_dsa_512: true,
        name: record.name,
    }
}

/// Takes a table away, as a version left the file that did not know it.
pub(crate) fn delete_table<K, V>(path: &std::path::Path, table: Table<K, V>) {
    let database = redb::Database::open(path).unwrap();
    let transaction = database.begin_write().unwrap();
    let mut tables = transaction.list_tables().unwrap();
    let name = format!("{table:?}");
    let handle = tables.find(|handle| redb::TableHandle::name(handle) == name).unwrap();
    drop(tables);
    transaction.delete_table(handle).unwrap();
    transaction.commit().unwrap();
}

fn put_meta(storage: &Storage, key: &str, value: &[u8]) {
    let transaction = storage.begin_write().unwrap();
    transaction.table(META).put(key, value).unwrap();
    transaction.commit().unwrap();
}

/// Writes the rows as formats up to 4 had them, and this format.
pub(crate) fn age(storage: &Storage, format: u64) {
    let transaction = storage.begin_write().unwrap();
    let (agents, replacements) = (transaction.table(AGENTS), transaction.table(REPLACEMENTS));
    for row in agents.all().collect::<Result<Vec<_>, _>>().unwrap() {
        let (id, mut bytes) = row;
        bytes.drain(48..56);
        bytes[0] = 1;
        agents.put(&id, &bytes).unwrap();
    }
    for row in replacements.all().collect::<Result<Vec<_>, _>>().unwrap() {
        let (place, mut bytes) = row;
        bytes.truncate(16);
        (bytes[0], bytes[2]) = (1, 0);
        replacements.put(&place, &bytes).unwrap();
    }
    transaction.commit().unwrap();
    put_meta(storage, META_FORMAT, &format.to_le_bytes());
}

#[test]
fn an_entry_comes_back_from_its_bytes_and_from_no_others() {
    for name in ["a/b", "acme/planner-7", &format!("a/{}", "b".repeat(126))] {
        let bytes = entry(name).to_bytes();
        assert_eq!(AgentEntry::parse(&bytes), Some(entry(name)));
        for cut in 0..bytes.len() {
            assert_eq!(AgentEntry::parse(&bytes[..cut]), None);
        }
        for (at, wrong) in [(0, 1), (1, 3), (48, 2), (49, 1), (55, 1), (56, b'/')] {
            let mut changed = bytes.clone();
            changed[at] = wrong;
            assert_eq!(AgentEntry::parse(&changed), None, "byte {at}");
        }
    }
}

#[test]
fn the_file_is_readable_by_its_owner_only_and_open_once() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("control.redb");
    let _storage = Storage::open(&path, &TrustDomain::default()).unwrap();
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    assert!(matches!(
        Storage::open(&path, &TrustDomain::default()),
        Err(ServiceError::Storage(StorageError::InUse(_)))
    ));
}

#[test]
fn a_file_of_another_trust_domain_or_format_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("control.redb");
    let storage = Storage::open(&path, &TrustDomain::default()).unwrap();
    put_meta(&storage, META_FORMAT, &(FORMAT + 1).to_le_bytes());
    drop(storage);
    let refused = Storage::open(&path, &TrustDomain::default()).err();
    let is_later =
        |error: &ServiceError| matches!(error, ServiceError::Format { found, known: FORMAT } if *found == FORMAT + 1);
    assert!(refused.as_ref().is_some_and(is_later), "{refused:?}");

    let path = folder.path().join("other.redb");
    drop(Storage::open(&path, &TrustDomain::default()).unwrap());
    let refused = Storage::open(&path, &TrustDomain::parse("other.local").unwrap()).err();
    assert!(matches!(refused, Some(ServiceError::TrustDomain { .. })), "{refused:?}");
}

#[test]
fn a_file_that_is_not_ours_is_an_error_and_stays_as_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("control.redb");
    std::fs::write(&path, b"something else entirely").unwrap();
    assert!(matches!(Storage::open(&path, &TrustDomain::default()), Err(ServiceError::Storage(StorageError::Redb(_)))));
    assert_eq!(std::fs::read(&path).unwrap(), b"something else entirely");
}

#[test]
fn a_damaged_epoch_is_found() {
    let folder = tempfile::tempdir().unwrap();
    for damage in [&0_u64.to_le_bytes()[..], b"short"] {
        let path = folder.path().join(format!("{}.redb", damage.len()));
        let storage = Storage::open(&path, &TrustDomain::default()).unwrap();
        assert_eq!(storage.load(|_| Ok(())).unwrap(), 1);
        put_meta(&storage, META_EPOCH, damage);
        assert!(matches!(storage.load(|_| Ok(())), Err(ServiceError::Damaged(_))));
    }
}

#[test]
fn of_an_agent_with_a_long_history_the_newest_versions_are_read_and_its_neighbours_are_whole() {
    let folder = tempfile::tempdir().unwrap();
    let storage = Storage::open(&folder.path().join("control.redb"), &TrustDomain::default()).unwrap();
    let held_max = u32::try_from(VERSIONS_HELD_MAX).unwrap();
    let histories =
        [("acme/a", held_max + 5), ("acme/b", 2), ("acme/c", held_max + 1), ("acme/d", held_max), ("acme/e", 1)];
    let transaction = storage.begin_write().unwrap();
    let replaced = Some(Replacement { at_ms: 1, mode: RotationMode::Planned });
    for (name, newest) in histories {
        let mut signed = signed(name, 1);
        let id = signed.record.agent_id();
        for version in 1..newest {
            let known = replaced_bytes(&KeyVersion { replaced, ..KeyVersion::from(&signed.record) }).to_vec();
            // What is not held is not looked at, so it may be anything; no record is.
            let bytes = if version + held_max > newest { known } else { b"from long ago".to_vec() };
            transaction.table(REPLACEMENTS).put(&(id.0, version), &bytes).unwrap();
        }
        signed.record.version = newest;
        let entry = AgentEntry::registered(&signed, 1);
        transaction.table(AGENTS).put(&id.0, &entry.to_bytes()).unwrap();
        transaction.table(NAMES).put(name, &id.0).unwrap();
    }
    transaction.commit().unwrap();
    let mut loaded = Vec::new();
    let load = |agent: super::Loaded| {
        let versions: Vec<_> = agent.versions.iter().map(|known| known.version).collect();
        loaded.push((agent.entry.name.to_string(), versions));
        Ok(())
    };
    storage.load(load).unwrap();
    loaded.sort();
    for ((name, versions), (wanted, newest)) in loaded.iter().zip(histories) {
        let oldest = newest.saturating_sub(held_max) + 1;
        assert_eq!((name.as_str(), versions), (wanted, &(oldest..=newest).collect()));
    }
    assert_eq!(loaded.len(), histories.len());
}

#[test]
fn a_file_of_format_1_becomes_one_of_this_format_when_it_is_opened() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("control.redb");
    let storage = Storage::open(&path, &TrustDomain::default()).unwrap();
    put_meta(&storage, META_FORMAT, &1_u64.to_le_bytes());
    drop(storage);
    delete_table(&path, super::REPLACEMENTS);
    let storage = Storage::open(&path, &TrustDomain::default()).unwrap();
    let meta = storage.begin_read().unwrap();
    assert_eq!(meta.table(META).get(META_FORMAT).unwrap().unwrap(), FORMAT.to_le_bytes());
    assert_eq!(storage.load(|_| Ok(())).unwrap(), 1);
}

#[test]
fn a_version_that_was_replaced_comes_back_from_its_bytes_and_from_no_others() {
    for (mode, has_fn_dsa_512) in [(RotationMode::Planned, false), (RotationMode::Emergency, true)] {
        let replaced = Some(Replacement { at_ms: u64::MAX - 1, mode });
        let known = KeyVersion { version: 7, has_fn_dsa_512, replaced, ..KeyVersion::from(&record("acme/a", 1)) };
        let bytes = replaced_bytes(&known);
        assert_eq!(parse_replaced(7, &bytes), Some(known));
        assert_eq!(parse_replacement(&bytes), replaced);
        for (at, wrong) in [(0, 1), (0, 3), (1, 2), (2, 2), (3, 1), (7, 1)] {
            let mut changed = bytes;
            changed[at] = wrong;
            assert_eq!(parse_replaced(7, &changed), None, "byte {at}");
        }
        assert_eq!(parse_replaced(7, &bytes[..47]), None);
    }
}
