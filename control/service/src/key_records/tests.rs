use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, channel};

use creto_envelope::TrustDomain;

use super::*;
use crate::fixture::signed;
use crate::storage::{both, faulty};

type Answer = Result<Arc<SignedKeyRecord>, Refused>;

fn reply() -> (Reply<Arc<SignedKeyRecord>>, Receiver<Answer>) {
    let (tell, told) = channel();
    (Reply::new(move |answer| tell.send(answer).unwrap()), told)
}

fn store(storage: &Storage, version: u32, bytes: &[u8]) {
    let id = signed("acme/a", 1).record.agent_id();
    let transaction = storage.begin_write().unwrap();
    transaction.table(KEY_RECORDS).put(&(id.0, version), bytes).unwrap();
    transaction.commit().unwrap();
}

fn over(storage: Storage) -> KeyRecords {
    KeyRecords { storage: Arc::new(storage), recent: Recent::new(2) }
}

/// Asks for these versions of one agent, all at once.
fn ask(records: &mut KeyRecords, versions: &[u32]) -> Vec<Answer> {
    let agent = signed("acme/a", 1).record.agent_id();
    let (asked, told): (Vec<_>, Vec<_>) = versions
        .iter()
        .map(|&version| {
            let (reply, told) = reply();
            (Question { agent, version, reply }, told)
        })
        .unzip();
    let missing = records.give(asked);
    let read = Read::of(&records.storage, missing);
    records.take(read);
    told.into_iter().map(|told| told.recv().unwrap()).collect()
}

#[test]
fn whoever_asks_gets_the_record_that_is_stored_and_no_other() {
    let folder = tempfile::tempdir().unwrap();
    let storage = both::open(&folder.path().join("control.redb"));
    let first = signed("acme/a", 1);
    store(&storage, 1, &first.to_bytes());
    // Of another version, of another agent, and no record at all.
    store(&storage, 2, &first.to_bytes());
    store(&storage, 3, &signed("acme/b", 2).to_bytes());
    store(&storage, 4, b"damaged");
    let busy = Err(Refused::from(RejectCode::Overloaded));
    let first = Ok(Arc::new(first));
    assert_eq!(
        ask(&mut over(storage), &[4, 1, 2, 3, 5, 1]),
        [busy.clone(), first.clone(), busy.clone(), busy.clone(), busy, first]
    );
}

#[test]
fn while_a_directory_cannot_be_read_what_came_last_is_given_and_the_rest_is_busy_until_it_can_be() {
    let (storage, fate) = faulty::uncertain_storage();
    let mut signed = signed("acme/a", 1);
    let mut stored = Vec::new();
    for version in 1..=4 {
        signed.record.version = version;
        store(&storage, version, &signed.to_bytes());
        stored.push(Ok(Arc::new(signed.clone())));
    }
    let mut records = over(storage);
    // More than it keeps, and each is given.
    assert_eq!(ask(&mut records, &[1, 2, 3]), stored[..3]);
    fate.store(faulty::AWAY, Ordering::Relaxed);
    let busy = || Err(Refused::from(RejectCode::Overloaded));
    assert_eq!(ask(&mut records, &[1, 2, 3, 4]), [busy(), stored[1].clone(), stored[2].clone(), busy()]);
    fate.store(faulty::FINE, Ordering::Relaxed);
    assert_eq!(ask(&mut records, &[4, 1]), [stored[3].clone(), stored[0].clone()]);
}

#[test]
fn a_full_door_and_a_closed_one_say_so_at_once_and_whoever_waits_is_answered_when_it_closes() {
    let (door, questions) = key_record_questions();
    let agent = AgentId([1; 16]);
    let mut waiting = Vec::new();
    for _ in 0..KEY_RECORD_QUESTIONS_MAX {
        let (reply, told) = reply();
        door.ask(agent, 1, reply).unwrap();
        waiting.push(told);
    }
    let (over, told) = reply();
    assert_eq!(door.ask(agent, 1, over), Err(RejectCode::Overloaded.into()));
    assert!(told.recv().is_err(), "whoever was told at once is not answered again");
    drop(questions);
    for told in waiting {
        assert_eq!(told.recv().unwrap(), Err(RejectCode::ShuttingDown.into()));
        assert!(told.recv().is_err(), "answered once");
    }
    let (late, told) = reply();
    assert_eq!(door.ask(agent, 1, late), Err(RejectCode::ShuttingDown.into()));
    assert!(told.recv().is_err());
}

#[test]
fn questions_that_came_before_the_service_ended_are_answered() {
    let folder = tempfile::tempdir().unwrap();
    let storage = Arc::new(Storage::open(&folder.path().join("control.redb"), &TrustDomain::default()).unwrap());
    let first = signed("acme/a", 1);
    store(&storage, 1, &first.to_bytes());
    let (door, questions) = key_record_questions();
    let asked: Vec<_> = (0..3 * KEY_RECORD_ANSWERS_MAX)
        .map(|_| {
            let (reply, told) = reply();
            door.ask(first.record.agent_id(), 1, reply).unwrap();
            told
        })
        .collect();
    drop(door);
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(answer(storage, questions));
    for told in asked {
        assert_eq!(*told.recv().unwrap().unwrap(), first);
    }
}

#[test]
fn what_is_at_hand_is_given_while_a_read_is_out() {
    let folder = tempfile::tempdir().unwrap();
    let storage = Arc::new(both::open(&folder.path().join("control.redb")));
    let first = signed("acme/a", 1);
    store(&storage, 1, &first.to_bytes());
    let (door, questions) = key_record_questions();
    // One blocking thread, which does nothing until it is told: every read is out for as long.
    let runtime = tokio::runtime::Builder::new_current_thread().max_blocking_threads(1).build().unwrap();
    let ask = |version| {
        let (reply, told) = reply();
        door.ask(first.record.agent_id(), version, reply).unwrap();
        told
    };
    let known = ask(1);
    let answering = runtime.spawn(answer(storage, questions));
    let (free, held) = channel::<()>();
    let read = runtime.block_on(async {
        while known.try_recv().is_err() {
            tokio::task::yield_now().await;
        }
        let hold = tokio::task::spawn_blocking(move || held.recv());
        let (read, again) = (ask(2), ask(1));
        let given = loop {
            match again.try_recv() {
                Ok(given) => break given,
                Err(_) => tokio::task::yield_now().await,
            }
        };
        assert_eq!(*given.unwrap(), first);
        assert!(read.try_recv().is_err(), "its read has not begun");
        free.send(()).unwrap();
        hold.await.unwrap().unwrap();
        read
    });
    drop(door);
    runtime.block_on(answering).unwrap();
    assert_eq!(read.recv().unwrap(), Err(RejectCode::Overloaded.into()), "there is no second version");
}

both::on_postgres_too!(whoever_asks_gets_the_record_that_is_stored_and_no_other);
