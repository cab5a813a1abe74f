use super::*;
use crate::directory::{EnrolRequest, TokenChange, TokenSet};
use crate::fixture::signed_for;
use crate::limits::TOKENS_MAX;
use crate::registration::RegistrationError;
use crate::tokens::TokenRow;

fn row(scope: &str, uses: u32, expires_ms: u64) -> TokenRow {
    TokenRow { scope: scope.to_owned(), uses_left: uses, uses, created_ms: NOW_MS, expires_ms }
}

fn make(directory: &mut Directory, number: u16, row: TokenRow) -> TokenSet {
    change(directory, TokenChange::Make(hash(number), row), NOW_MS)
}

fn hash(number: u16) -> [u8; 32] {
    let mut hash = [0; 32];
    hash[..2].copy_from_slice(&number.to_be_bytes());
    hash
}

fn change(directory: &mut Directory, change: TokenChange, now_ms: u64) -> TokenSet {
    match directory.change(vec![Change::Token(change)], now_ms).unwrap().remove(0) {
        Changed::Token(set) => set,
        other => panic!("a change has an answer of its kind: {other:?}"),
    }
}

/// The first record of `name`, signed for this token and brought with it.
fn enrol(token: u16, (name, seed): (&str, u8)) -> Change {
    let signed = signed_for(name, seed, &hash(token));
    Change::Enrol(EnrolRequest::new(checked(&signed), hash(token)).unwrap())
}

fn enrolled(directory: &mut Directory, changes: Vec<Change>, now_ms: u64) -> Vec<&'static str> {
    let changed = directory.change(changes, now_ms).unwrap().into_iter().map(|changed| match changed {
        Changed::Register(registered) => registered,
        other => panic!("agents are registered here, nothing else: {other:?}"),
    });
    codes(&changed.collect::<Vec<_>>())
}

#[test]
fn each_token_that_is_no_good_has_its_own_code_and_registers_nobody() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("control.redb");
    let (mut directory, reader) = open(&path, 100);
    let expires_ms = NOW_MS + 1_000;
    make(&mut directory, 1, row("acme", 1, expires_ms));
    make(&mut directory, 2, row("acme/b", 1, expires_ms));
    drop((directory, reader));
    // Tokens are durable, though no agent changed with them.
    let (mut directory, reader) = open(&path, 100);
    let (a, b) = (("acme/a", 1), ("acme/b", 2));
    for (token, agent, now_ms, code) in [
        (9, a, NOW_MS, "token_unknown"),
        (1, ("other/a", 3), NOW_MS, "token_scope"),
        (1, ("acmes/a", 3), NOW_MS, "token_scope"),
        (2, a, NOW_MS, "token_scope"),
        (1, a, expires_ms, "token_expired"),
        (1, a, expires_ms - 1, "created"),
        (1, ("acme/c", 3), NOW_MS, "token_used"),
        (2, b, NOW_MS, "created"),
        // Whoever lost the answer asks again.
        (2, b, expires_ms, "known"),
        (1, ("acme/b", 7), NOW_MS, "name_taken"),
    ] {
        assert_eq!(enrolled(&mut directory, vec![enrol(token, agent)], now_ms), [code], "{agent:?} with {token}");
    }
    assert_eq!(directory.snapshot().agent_count(), 2);
    let left: Vec<_> = reader.tokens().unwrap().iter().map(|token| (token.scope.clone(), token.uses_left)).collect();
    assert_eq!(left, [("acme".to_owned(), 0), ("acme/b".to_owned(), 0)]);
}

#[test]
fn a_record_registers_nobody_with_a_token_that_it_was_not_signed_for() {
    let refused = |signed: &SignedKeyRecord, token: u16| EnrolRequest::new(checked(signed), hash(token)).unwrap_err();
    let for_one = signed_for("acme/a", 1, &hash(1));
    assert!(EnrolRequest::new(checked(&for_one), hash(1)).is_ok());
    assert_eq!(refused(&for_one, 2), RegistrationError::Purpose, "signed for token 1, brought with token 2");
    assert_eq!(refused(&signed("acme/a", 1), 1), RegistrationError::Purpose, "signed for none");
    assert_eq!(checked(&for_one).signed_for(None), Err(RegistrationError::Purpose), "brought with none");
    // The binding is over the name, too: nobody takes it into a record of their own.
    let mut other = record("acme/b", 2);
    other.purpose = for_one.record.purpose;
    assert_eq!(refused(&sign(other, 2), 1), RegistrationError::Purpose);
    // And nobody changes it in somebody else's.
    let mut changed = for_one;
    changed.record.purpose = signed_for("acme/a", 1, &hash(2)).record.purpose;
    let verdict = Registration::of(changed, &TrustDomain::default(), NOW_MS);
    assert_eq!(verdict, Err(RegistrationError::SelfSignature));
    assert_eq!(RegistrationError::Purpose.code().as_str(), "record_purpose");
}

#[test]
fn in_one_transaction_too_a_token_is_used_as_often_as_it_may_be() {
    let folder = tempfile::tempdir().unwrap();
    let (mut directory, _) = open(&folder.path().join("control.redb"), 100);
    make(&mut directory, 1, row("acme", 2, u64::MAX));
    let mut changes: Vec<_> = (1..=4).map(|seed| enrol(1, (&format!("acme/a{seed}"), seed))).collect();
    changes.insert(1, enrol(1, ("acme/a1", 1)));
    assert_eq!(enrolled(&mut directory, changes, NOW_MS), ["created", "known", "created", "token_used", "token_used"]);
}

#[test]
fn after_a_failed_commit_a_token_has_as_many_uses_as_before() {
    let (storage, is_broken) = faulty::storage();
    let storage = Arc::new(storage);
    let mut directory = Directory::load(Arc::clone(&storage), 10, GRACE_MS, RETENTION_S, NOW_MS).unwrap();
    make(&mut directory, 1, row("acme", 1, u64::MAX));
    is_broken.store(true, Ordering::Relaxed);
    assert!(directory.change(vec![enrol(1, ("acme/a", 1))], NOW_MS).is_err());
    assert_eq!(directory.snapshot().agent_count(), 0);
}

#[test]
fn a_token_that_is_withdrawn_is_unknown_and_a_full_table_makes_room_by_what_is_over() {
    let folder = tempfile::tempdir().unwrap();
    let (mut directory, reader) = open(&folder.path().join("control.redb"), 100);
    let TokenSet::Done(named, info) = make(&mut directory, 1, row("acme", 1, u64::MAX)) else {
        panic!("there is room")
    };
    let withdraw = |directory: &mut Directory| change(directory, TokenChange::Withdraw(info.id.clone()), NOW_MS);
    assert_eq!(withdraw(&mut directory), TokenSet::Done(named, info.clone()));
    assert_eq!(withdraw(&mut directory), TokenSet::Unknown);
    assert_eq!(enrolled(&mut directory, vec![enrol(1, ("acme/a", 1))], NOW_MS), ["token_unknown"]);

    let most = u16::try_from(TOKENS_MAX).unwrap();
    let many = (0..most).map(|number| Change::Token(TokenChange::Make(hash(number), row("acme", 1, NOW_MS + 10))));
    directory.change(many.collect(), NOW_MS).unwrap();
    assert_eq!(make(&mut directory, most, row("acme", 1, u64::MAX)), TokenSet::Full);
    let later = TokenChange::Make(hash(most), row("acme", 1, u64::MAX));
    assert!(matches!(change(&mut directory, later, NOW_MS + 10), TokenSet::Done(..)));
    assert_eq!(reader.tokens().unwrap().len(), 1);
}

crate::storage::both::on_postgres_too!(
    each_token_that_is_no_good_has_its_own_code_and_registers_nobody,
    in_one_transaction_too_a_token_is_used_as_often_as_it_may_be,
    a_token_that_is_withdrawn_is_unknown_and_a_full_table_makes_room_by_what_is_over,
);
