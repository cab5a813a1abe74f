use std::sync::atomic::Ordering;
use std::sync::mpsc::channel;

use creto_envelope::TrustDomain;
use creto_envelope::channel::{ChannelName, ChannelRecord, Publishing, Subscribing};

use super::*;
use crate::fixture::{signed, signing_keys};
use crate::storage::{both, faulty};

fn row(name: &str, is_deleted: bool) -> ChannelRow {
    let record = ChannelRecord {
        version: 1,
        name: ChannelName::parse(name).unwrap(),
        trust_domain: TrustDomain::default(),
        owner: signed("acme/a", 1).record.agent_id(),
        owner_key_version: 1,
        signed_at_ms: 1,
        subscribing: Subscribing::Open,
        publishing: Publishing::Open,
        has_history: false,
        is_deleted,
        retention_s: 60,
        messages_max: 1,
        bytes_max: 1,
        subscribers_max: 1,
    };
    let signature = signing_keys(1).sign(&record.signed_bytes());
    let signed = SignedChannelRecord { record, ed25519: signature.ed25519, ml_dsa_65: signature.ml_dsa_65 };
    ChannelRow { created_at_ms: 1, changed_at_ms: 1, signed }
}

fn store(storage: &Storage, id: ChannelId, bytes: &[u8]) {
    let transaction = storage.begin_write().unwrap();
    transaction.table(CHANNELS).put(&id.0, bytes).unwrap();
    transaction.commit().unwrap();
}

fn ask(storage: &Storage, channels: &[ChannelId]) -> Vec<Result<Box<SignedChannelRecord>, Refused>> {
    let (asked, told): (Vec<_>, Vec<_>) = channels
        .iter()
        .map(|&id| {
            let (tell, told) = channel();
            (Question { channel: id, reply: Reply::new(move |answer| tell.send(answer).unwrap()) }, told)
        })
        .unzip();
    answer_all(storage, asked);
    told.into_iter().map(|told| told.recv().unwrap()).collect()
}

#[test]
fn whoever_asks_gets_the_record_of_a_channel_that_is_there() {
    let folder = tempfile::tempdir().unwrap();
    let storage = both::open(&folder.path().join("control.redb"));
    let (one, deleted) = (row("acme/one", false), row("acme/two", true));
    let id = |row: &ChannelRow| row.signed.record.channel_id();
    store(&storage, id(&one), &one.to_bytes());
    store(&storage, id(&deleted), &deleted.to_bytes());
    store(&storage, ChannelId([7; 16]), b"damaged");
    let unknown = Err(Refused::from(RejectCode::UnknownChannel));
    let asked = [id(&one), id(&deleted), ChannelId([9; 16]), ChannelId([7; 16]), id(&one)];
    let found = Ok(Box::new(one.signed));
    let busy = Err(Refused::from(RejectCode::Overloaded));
    assert_eq!(ask(&storage, &asked), [found.clone(), unknown.clone(), unknown, busy, found]);
}

#[test]
fn while_a_directory_cannot_be_read_whoever_asks_is_told_to_come_again() {
    let (storage, fate) = faulty::uncertain_storage();
    let one = row("acme/one", false);
    let id = one.signed.record.channel_id();
    store(&storage, id, &one.to_bytes());
    fate.store(faulty::AWAY, Ordering::Relaxed);
    assert_eq!(ask(&storage, &[id]), [Err(Refused::from(RejectCode::Overloaded))]);
    fate.store(faulty::FINE, Ordering::Relaxed);
    assert_eq!(ask(&storage, &[id]), [Ok(Box::new(one.signed))]);
}

#[test]
fn a_door_that_is_full_or_closed_says_so_and_answers_nobody() {
    let (door, questions) = channel_questions();
    let ask = || door.ask(ChannelId([1; 16]), Reply::new(|_| {}));
    for _ in 0..CHANNEL_QUESTIONS_MAX {
        assert_eq!(ask(), Ok(()));
    }
    let never = || Reply::new(|_| panic!("whoever asked was told already"));
    assert_eq!(door.ask(ChannelId([1; 16]), never()), Err(RejectCode::Overloaded.into()));
    drop(questions);
    assert_eq!(door.ask(ChannelId([1; 16]), never()), Err(RejectCode::ShuttingDown.into()));
}
