use creto_envelope::AgentName;
use creto_envelope::control::RotationMode;

use super::*;
use crate::directory::StatesSet;
use crate::directory::rotate::Rotated;
use crate::fixture::next;
use crate::limits::STATE_CHANGES_MAX;
use crate::rotation::Rotation;
use crate::states::{OrganizationChanged, StateChange, StateError, StateRequest, StateWord, Whose};
use crate::storage::STATES;

fn id(name: &str) -> creto_envelope::AgentId {
    creto_envelope::AgentId::derive(&TrustDomain::default(), &AgentName::parse(name).unwrap())
}

fn change(state: StateWord, since_ms: Option<u64>) -> StateChange {
    StateChange { state, reason: Some("why".to_owned()), since_ms }
}

fn request(name: &str, change: StateChange) -> Change {
    Change::State(StateRequest { whose: Whose::Agent(id(name)), change })
}

fn set(directory: &mut Directory, change: Change) -> StatesSet {
    match directory.change(vec![change], NOW_MS).unwrap().remove(0) {
        Changed::State(set) => set,
        other => panic!("a change has an answer of its kind: {other:?}"),
    }
}

fn set_all(directory: &mut Directory, name: &str, after: Option<&str>, state: StateWord) -> StatesSet {
    let whose = Whose::Organization { name: name.to_owned(), after: after.map(str::to_owned) };
    set(directory, Change::State(StateRequest { whose, change: change(state, None) }))
}

fn done(changed: u64, unchanged: u64, revoked_before: u64) -> StatesSet {
    StatesSet::Done(OrganizationChanged { changed, unchanged, revoked_before, next_after: None })
}

fn held(directory: &Directory, name: &str) -> (AgentState, Option<u64>) {
    let snapshot = directory.snapshot();
    let principal = snapshot.principal(&id(name)).unwrap();
    (principal.state(), principal.revoked_at_ms())
}

#[test]
fn a_revocation_is_final_and_there_after_a_restart_with_its_time_and_reason() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("control.redb");
    let (mut directory, reader) = open(&path, 10);
    assert_eq!(set(&mut directory, request("acme/a", change(StateWord::Revoked, None))), StatesSet::Unknown);
    register(&mut directory, &[signed("acme/a", 1), signed("acme/b", 2)]);
    assert_eq!(set(&mut directory, request("acme/b", change(StateWord::Suspended, None))), done(1, 0, 0));
    assert_eq!(held(&directory, "acme/b"), (AgentState::Suspended, None));
    assert_eq!(set(&mut directory, request("acme/b", change(StateWord::Active, None))), done(1, 0, 0));
    assert_eq!(held(&directory, "acme/b"), (AgentState::Active, None));

    let before = directory.snapshot().epoch();
    assert_eq!(set(&mut directory, request("acme/a", change(StateWord::Revoked, Some(4_000)))), done(1, 0, 0));
    assert_eq!(directory.snapshot().epoch(), before + 1);
    for state in [StateWord::Active, StateWord::Suspended] {
        assert_eq!(set(&mut directory, request("acme/a", change(state, None))), StatesSet::Final);
    }
    assert_eq!(set(&mut directory, request("acme/a", change(StateWord::Revoked, None))), done(0, 1, 0));
    assert_eq!(held(&directory, "acme/a"), (AgentState::Revoked, Some(4_000)), "said again, it counts as before");
    assert_eq!(directory.snapshot().epoch(), before + 1, "what changes nothing makes no snapshot");
    assert_eq!(set(&mut directory, request("acme/a", change(StateWord::Revoked, Some(3_000)))), done(1, 0, 0));
    assert_eq!(held(&directory, "acme/a").1, Some(3_000), "it may be found to count since earlier");

    // Neither its own keys nor new ones bring the name back.
    assert_eq!(codes(&register(&mut directory, &[signed("acme/a", 1), signed("acme/a", 3)])), ["agent_revoked"; 2]);
    drop((directory, reader));
    let (directory, reader) = open(&path, 10);
    assert_eq!(held(&directory, "acme/a"), (AgentState::Revoked, Some(3_000)));
    assert_eq!(held(&directory, "acme/b"), (AgentState::Active, None));
    let info = reader.agent(&AgentName::parse("acme/a").unwrap()).unwrap().unwrap();
    assert_eq!(
        (info.state.as_str(), info.state_since_ms, info.state_set_at_ms),
        ("revoked", Some(3_000), Some(NOW_MS))
    );
    assert_eq!(info.state_reason.as_deref(), Some("why"));
    let other = reader.agent(&AgentName::parse("acme/b").unwrap()).unwrap().unwrap();
    assert_eq!((other.state_since_ms, other.state_reason), (None, None), "of one that may act, nothing is kept");

    let copy = folder.path().join("copy.redb");
    directory.storage.copy_to(&copy).unwrap();
    assert_eq!(held(&open(&copy, 10).0, "acme/a"), (AgentState::Revoked, Some(3_000)));
}

#[test]
fn who_is_revoked_in_a_transaction_replaces_no_key_later_in_it() {
    let folder = tempfile::tempdir().unwrap();
    let (mut directory, _) = open(&folder.path().join("control.redb"), 10);
    register(&mut directory, &[signed("acme/a", 1)]);
    let record = next(&signed("acme/a", 1), 1, 9);
    let rotation =
        Rotation::check(id("acme/a"), RotationMode::Planned, record, &TrustDomain::default(), NOW_MS).unwrap();
    let changes = vec![request("acme/a", change(StateWord::Revoked, None)), Change::Rotate(rotation)];
    let answers = directory.change(changes, NOW_MS).unwrap();
    assert!(matches!(answers[1], Changed::Rotate(Rotated::Refused(_))), "{answers:?}");
    assert_eq!(held(&directory, "acme/a"), (AgentState::Revoked, Some(NOW_MS)));
    assert_eq!(directory.snapshot().principal(&id("acme/a")).unwrap().current_version(), 1);
}

#[test]
fn what_cannot_be_meant_changes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let (mut directory, _) = open(&folder.path().join("control.redb"), 10);
    register(&mut directory, &[signed("acme/a", 1)]);
    let ahead = set(&mut directory, request("acme/a", change(StateWord::Revoked, Some(NOW_MS + 1))));
    assert_eq!(ahead, StatesSet::Refused(StateError::SinceAhead { since_ms: NOW_MS + 1, now_ms: NOW_MS }));
    assert_eq!(held(&directory, "acme/a"), (AgentState::Active, None));
}

#[test]
fn an_organization_is_changed_in_one_transaction_and_nobody_elses_agents() {
    let folder = tempfile::tempdir().unwrap();
    let (mut directory, _) = open(&folder.path().join("control.redb"), 100);
    let names = ["acm/x", "acme.x/a", "acme/a", "acme/b", "acme/c", "acme0/a"];
    let records: Vec<_> = names.iter().zip(1..).map(|(name, seed)| signed(name, seed)).collect();
    register(&mut directory, &records);
    set(&mut directory, request("acme/b", change(StateWord::Revoked, Some(1))));
    let before = directory.snapshot().epoch();
    assert_eq!(set_all(&mut directory, "acme", None, StateWord::Suspended), done(2, 0, 1));
    assert_eq!(set_all(&mut directory, "acme", None, StateWord::Revoked), done(2, 1, 0));
    assert_eq!(directory.snapshot().epoch(), before + 2, "one commit and one snapshot each");
    let states: Vec<_> = names.iter().map(|name| held(&directory, name)).collect();
    let (active, revoked) = ((AgentState::Active, None), |at_ms| (AgentState::Revoked, Some(at_ms)));
    assert_eq!(states, [active, active, revoked(NOW_MS), revoked(1), revoked(NOW_MS), active]);
    assert_eq!(set_all(&mut directory, "acme", None, StateWord::Active), done(0, 0, 3));
    assert_eq!(set_all(&mut directory, "nobody", None, StateWord::Revoked), StatesSet::Unknown);
    assert_eq!(set_all(&mut directory, "", None, StateWord::Revoked), StatesSet::Unknown);
}

#[test]
fn a_larger_organization_takes_several_transactions_and_leaves_nobody_out() {
    let folder = tempfile::tempdir().unwrap();
    let (directory, _) = open(&folder.path().join("control.redb"), u64::MAX);
    // Entries without real keys: making so many would take minutes, and states do not look at keys.
    let count = STATE_CHANGES_MAX + 5;
    let template = signed("acme/a", 1);
    let transaction = directory.storage.begin_write().unwrap();
    for number in 0..count {
        let name = AgentName::parse(&format!("acme/{number:06}")).unwrap();
        let entry = AgentEntry { name: name.clone(), ..AgentEntry::registered(&template, NOW_MS) };
        transaction.table(AGENTS).put(&id(name.as_str()).0, &entry.to_bytes()).unwrap();
        transaction.table(crate::storage::NAMES).put(name.as_str(), &id(name.as_str()).0).unwrap();
    }
    transaction.commit().unwrap();
    let (mut after, mut changed, mut transactions) = (None, 0, 0);
    loop {
        // The memory has none of them, so the change is made on the tables alone.
        let transaction = directory.storage.begin_write().unwrap();
        let whose = Whose::Organization { name: "acme".to_owned(), after: after.clone() };
        let request = StateRequest { whose, change: change(StateWord::Revoked, None) };
        let (set, all) = directory.set_states(&*transaction, &request, NOW_MS).unwrap();
        transaction.commit().unwrap();
        let StatesSet::Done(done) = set else { panic!("it is known: {set:?}") };
        assert_eq!(done.changed, all.len() as u64);
        assert!(all.len() <= STATE_CHANGES_MAX);
        changed += all.len();
        transactions += 1;
        after = done.next_after;
        if after.is_none() {
            break;
        }
    }
    assert_eq!((changed, transactions), (count, 2));
    assert_eq!(directory.storage.begin_read().unwrap().table(STATES).count().unwrap(), count as u64);
}

crate::storage::both::on_postgres_too!(
    who_is_revoked_in_a_transaction_replaces_no_key_later_in_it,
    what_cannot_be_meant_changes_nothing,
    an_organization_is_changed_in_one_transaction_and_nobody_elses_agents,
    a_larger_organization_takes_several_transactions_and_leaves_nobody_out,
);
