use creto_policy::Attributes;

use super::*;
use crate::attributes::{AttributesChange, AttributesRequest, row_bytes};
use crate::directory::AttributesSet;
use crate::fixture::next;
use crate::limits::{PAGE_ATTRIBUTES_BYTES_MAX, attributes_json_bytes_max};
use crate::storage::ATTRIBUTES;

fn set(directory: &mut Directory, name: &str, change: AttributesChange) -> AttributesSet {
    let agent =
        creto_envelope::AgentId::derive(&TrustDomain::default(), &creto_envelope::AgentName::parse(name).unwrap());
    let changes = vec![Change::Attributes(AttributesRequest { agent, change })];
    match directory.change(changes, NOW_MS).unwrap().remove(0) {
        Changed::Attributes(set) => set,
        other => panic!("a change has an answer of its kind: {other:?}"),
    }
}

fn roles(roles: &[&str]) -> AttributesChange {
    let roles = roles.iter().map(|&role| role.to_owned()).collect();
    AttributesChange { roles: Some(Some(roles)), ..AttributesChange::default() }
}

fn held(directory: &Directory, name: &str) -> Attributes {
    let id = record(name, 1).agent_id();
    (**directory.snapshot().principal(&id).unwrap().attributes()).clone()
}

#[test]
fn what_is_set_is_in_the_next_snapshot_and_there_after_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("control.redb");
    let (mut directory, reader) = open(&path, 10);
    assert_eq!(set(&mut directory, "acme/a", roles(&["x"])), AttributesSet::Unknown);
    register(&mut directory, &[signed("acme/a", 1), signed("acme/b", 2)]);
    let before = directory.snapshot().epoch();
    assert!(matches!(set(&mut directory, "acme/a", roles(&["b", "a", "b"])), AttributesSet::Changed(_)));
    assert_eq!(set(&mut directory, "acme/a", roles(&["a", "b"])), AttributesSet::Same);
    assert_eq!(directory.snapshot().epoch(), before + 1, "what changes nothing makes no snapshot");
    let expected = Attributes::parse("agent", ["a", "b"], [""; 0]).unwrap();
    assert_eq!(held(&directory, "acme/a"), expected);

    // A replaced key leaves them as they are, in memory and on disk.
    let rotation = crate::rotation::Rotation::check(
        record("acme/a", 1).agent_id(),
        creto_envelope::control::RotationMode::Planned,
        next(&signed("acme/a", 1), 1, 9),
        &TrustDomain::default(),
        NOW_MS,
    );
    directory.change(vec![Change::Rotate(rotation.unwrap())], NOW_MS).unwrap();
    assert_eq!(held(&directory, "acme/a"), expected);
    drop((directory, reader));
    let (mut directory, reader) = open(&path, 10);
    assert_eq!((held(&directory, "acme/a"), held(&directory, "acme/b")), (expected, Attributes::default()));
    let info = reader.agent(&record("acme/a", 1).name).unwrap().unwrap();
    assert_eq!((info.agent_type.as_str(), &info.roles[..]), ("agent", &["a".to_owned(), "b".to_owned()][..]));

    // What is all taken back leaves no row.
    assert!(matches!(set(&mut directory, "acme/a", roles(&[])), AttributesSet::Changed(_)));
    assert_eq!(held(&directory, "acme/a"), Attributes::default());
    let read = directory.storage.begin_read().unwrap();
    assert_eq!(read.table(ATTRIBUTES).count().unwrap(), 0);
}

#[test]
fn an_attribute_that_may_not_be_changes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let (mut directory, _) = open(&folder.path().join("control.redb"), 10);
    register(&mut directory, &[signed("acme/a", 1)]);
    let AttributesSet::Refused(error) = set(&mut directory, "acme/a", roles(&["good", "\u{430}dmin"])) else {
        panic!("a role that looks like another is refused")
    };
    assert!(error.to_string().contains("plain ASCII"), "{error}");
    assert_eq!(held(&directory, "acme/a"), Attributes::default());
}

#[test]
fn a_file_of_format_3_gets_attributes_when_it_is_opened_and_a_copy_has_them() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("control.redb");
    let (mut directory, reader) = open(&path, 10);
    register(&mut directory, &[signed("acme/a", 1)]);
    crate::storage::tests::age(&directory.storage, 3);
    drop((directory, reader));
    crate::storage::tests::delete_table(&path, ATTRIBUTES);
    let (mut directory, _) = open(&path, 10);
    assert_eq!(held(&directory, "acme/a"), Attributes::default());
    set(&mut directory, "acme/a", roles(&["coordinator"]));

    let copy = folder.path().join("copy.redb");
    directory.storage.copy_to(&copy).unwrap();
    let (copied, _) = open(&copy, 10);
    assert_eq!(held(&copied, "acme/a").roles(), ["coordinator"]);
}

#[test]
fn a_row_that_nobody_wrote_is_found_at_start() {
    let folder = tempfile::tempdir().unwrap();
    let (mut directory, _) = open(&folder.path().join("control.redb"), 10);
    register(&mut directory, &[signed("acme/a", 1)]);
    let transaction = directory.storage.begin_write().unwrap();
    let mut row = row_bytes(&Attributes::default());
    row.push(0);
    transaction.table(ATTRIBUTES).put(&record("acme/a", 1).agent_id().0, &row).unwrap();
    transaction.commit().unwrap();
    let reloaded = Directory::load(Arc::clone(&directory.storage), 10, GRACE_MS, RETENTION_S, NOW_MS);
    assert!(matches!(reloaded.err(), Some(ServiceError::Damaged(_))));
}

#[test]
fn a_page_ends_early_where_agents_have_very_many_attributes_and_none_is_left_out() {
    let folder = tempfile::tempdir().unwrap();
    let (mut directory, reader) = open(&folder.path().join("control.redb"), 100);
    let names: Vec<_> = (1..=6).map(|number| format!("acme/a{number}")).collect();
    let records: Vec<_> = names.iter().zip(1..).map(|(name, seed)| signed(name, seed)).collect();
    register(&mut directory, &records);
    // Every character of them takes two in JSON.
    let texts = |count: usize| Some(Some((0..count).map(|number| format!("{number:\"<512}")).collect()));
    let largest = AttributesChange { agent_type: None, roles: texts(64), capabilities: texts(256) };
    for name in &names {
        assert!(matches!(set(&mut directory, name, largest.clone()), AttributesSet::Changed(_)));
    }
    let (mut found, mut after, mut pages) = (Vec::new(), None, 0);
    loop {
        let page = reader.page(None, after.as_deref(), 1_000).unwrap();
        let json: usize = page.agents.iter().map(|agent| serde_json::to_vec(&agent).unwrap().len() - 1_000).sum();
        assert!(json <= PAGE_ATTRIBUTES_BYTES_MAX, "{json} bytes");
        found.extend(page.agents.into_iter().map(|agent| agent.name));
        pages += 1;
        after = page.next_after;
        if after.is_none() {
            break;
        }
    }
    assert_eq!(found, names);
    assert!(pages > 1, "vacuous: one page holds {}", attributes_json_bytes_max(&held(&directory, "acme/a1")));
}

crate::storage::both::on_postgres_too!(
    what_is_set_is_in_the_next_snapshot_and_there_after_a_restart,
    an_attribute_that_may_not_be_changes_nothing,
    a_row_that_nobody_wrote_is_found_at_start,
    a_page_ends_early_where_agents_have_very_many_attributes_and_none_is_left_out,
);
