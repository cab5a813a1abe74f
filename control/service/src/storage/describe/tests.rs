use std::path::Path;
use std::sync::Arc;

use creto_envelope::{AgentName, SignedKeyRecord, TrustDomain};

use super::*;
use crate::directory::Directory;
use crate::fixture::{next, sign, signed};
use crate::storage::tests::age;
use crate::storage::{Loaded, both};

const GRACE_MS: u64 = 1_000;

fn put_record(storage: &Storage, signed: &SignedKeyRecord) {
    let (id, version) = (signed.record.agent_id(), signed.record.version);
    let transaction = storage.begin_write().unwrap();
    transaction.table(KEY_RECORDS).put(&(id.0, version), &signed.to_bytes()).unwrap();
    transaction.commit().unwrap();
}

/// An agent with three versions, one that demands a third signature, and one more.
fn histories() -> [Vec<SignedKeyRecord>; 3] {
    let first = signed("acme/a", 1);
    let second = next(&first, 1, 2);
    let third = next(&second, 1, 3);
    let mut strict = signed("acme/b", 4).record;
    strict.fn_dsa_512 = Some(Box::new([1; 897]));
    [vec![first, second, third], vec![sign(strict, 4)], vec![signed("other/c", 5)]]
}

/// Stores them as this version does.
fn fill(path: &Path) -> Storage {
    let storage = both::open(path);
    let transaction = storage.begin_write().unwrap();
    for history in histories() {
        for signed in &history {
            let (record, key) = (&signed.record, (signed.record.agent_id().0, signed.record.version));
            let entry = AgentEntry::registered(signed, 7);
            transaction.table(AGENTS).put(&key.0, &entry.to_bytes()).unwrap();
            transaction.table(crate::storage::NAMES).put(record.name.as_str(), &key.0).unwrap();
            transaction.table(KEY_RECORDS).put(&key, &signed.to_bytes()).unwrap();
            if (record.version as usize) < history.len() {
                let mode = [RotationMode::Planned, RotationMode::Emergency][record.version as usize % 2];
                let replaced = Some(Replacement { at_ms: 100 + u64::from(record.version), mode });
                let known = KeyVersion { replaced, ..KeyVersion::from(record) };
                transaction.table(REPLACEMENTS).put(&key, replaced_bytes(&known).as_ref()).unwrap();
            }
        }
    }
    transaction.commit().unwrap();
    storage
}

fn all_of(storage: &Storage) -> Vec<(AgentEntry, Vec<KeyVersion>)> {
    let mut loaded = Vec::new();
    let load = |Loaded { entry, versions, .. }| {
        loaded.push((entry, versions));
        Ok(())
    };
    storage.load(load).unwrap();
    loaded
}

#[test]
fn a_directory_of_format_4_becomes_one_that_holds_the_same_of_every_version() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("control.redb");
    let storage = fill(&path);
    let before = all_of(&storage);
    assert_eq!(before.iter().map(|(_, versions)| versions.len()).sum::<usize>(), 5);
    age(&storage, 4);
    drop(storage);
    for _ in 0..2 {
        // Once: what was described is opened as it is.
        let storage = Arc::new(both::open(&path));
        assert_eq!(all_of(&storage), before);
        let directory = Directory::load(storage, 10, GRACE_MS, 1, 10_000).unwrap();
        let snapshot = directory.snapshot();
        for signed in histories().iter().flatten() {
            let known = snapshot.principal(&signed.record.agent_id()).unwrap().key_version(signed.record.version);
            let known = known.map(|known| KeyVersion { replaced: None, ..known });
            assert_eq!(known, Some(KeyVersion::from(&signed.record)));
        }
    }
}

#[test]
fn one_whose_records_contradict_its_agents_is_not_taken_and_stays_as_it_was() {
    let folder = tempfile::tempdir().unwrap();
    let [history, ..] = histories();
    let other_signer = signed("acme/a", 9).record;
    let other_signer = sign(creto_envelope::KeyRecord { version: 2, ..other_signer }, 9);
    let no_such_version = next(&history[2], 1, 8);
    for (number, wrong) in [other_signer, no_such_version].iter().enumerate() {
        let path = folder.path().join(format!("{number}.redb"));
        let storage = fill(&path);
        age(&storage, 4);
        put_record(&storage, wrong);
        drop(storage);
        for _ in 0..2 {
            let refused = Storage::open(&path, &TrustDomain::default()).err();
            assert!(matches!(refused, Some(ServiceError::Damaged(_))), "{refused:?}");
        }
    }
}

/// More rows of each table than are read at a time, and agents whose versions lie on both sides of an end.
#[test]
fn a_directory_of_format_4_with_many_agents_and_versions_is_described_whole() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("control.redb");
    let storage = both::open(&path);
    let transaction = storage.begin_write().unwrap();
    let mut signed = signed("acme/a", 1);
    let mut rows = 0;
    for number in 0..300_u32 {
        signed.record.name = AgentName::parse(&format!("acme/a{number}")).unwrap();
        let (id, newest) = (signed.record.agent_id().0, 1 + number % 5);
        for version in 1..=newest {
            signed.record.version = version;
            // Nobody looks at signatures here: each version has a key of its own.
            signed.record.x25519[..8].copy_from_slice(&(u64::from(number) << 32 | u64::from(version)).to_le_bytes());
            transaction.table(KEY_RECORDS).put(&(id, version), &signed.to_bytes()).unwrap();
            rows += 1;
            if version < newest {
                let replaced = Some(Replacement { at_ms: u64::from(version), mode: RotationMode::Planned });
                let known = KeyVersion { replaced, ..KeyVersion::from(&signed.record) };
                transaction.table(REPLACEMENTS).put(&(id, version), replaced_bytes(&known).as_ref()).unwrap();
            }
        }
        transaction.table(AGENTS).put(&id, &AgentEntry::registered(&signed, 7).to_bytes()).unwrap();
        transaction.table(crate::storage::NAMES).put(signed.record.name.as_str(), &id).unwrap();
    }
    transaction.commit().unwrap();
    assert!(rows > 600, "{rows}");
    let before = all_of(&storage);
    assert_eq!(before.iter().map(|(_, versions)| versions.len()).sum::<usize>(), rows);
    age(&storage, 4);
    drop(storage);
    assert_eq!(all_of(&both::open(&path)), before);
}

both::on_postgres_too!(
    a_directory_of_format_4_becomes_one_that_holds_the_same_of_every_version,
    a_directory_of_format_4_with_many_agents_and_versions_is_described_whole,
);
