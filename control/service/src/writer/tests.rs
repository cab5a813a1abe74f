use std::sync::Arc;

use creto_envelope::TrustDomain;
use creto_policy::Snapshot;
use tokio::sync::{mpsc, oneshot};

use super::{Answer, Pending, write};
use crate::directory::{Change, Directory, OPERATOR, Registered};
use crate::fixture::signed;
use crate::health::Health;
use crate::registration::Registration;
use crate::service::Published;
use crate::storage::faulty;

const NOW_MS: u64 = 1_700_000_000_000;

#[tokio::test]
async fn a_change_that_nobody_waits_for_any_more_is_not_made() {
    let (storage, _) = faulty::uncertain_storage();
    let directory = Directory::load(Arc::new(storage), 10, 1_000, 3_600, NOW_MS).unwrap();
    let published = Published::new(directory.snapshot());
    let (changes, pending) = mpsc::channel(8);
    let mut answers = Vec::new();
    for (name, seed) in [("acme/given-up", 1), ("acme/waiting", 2)] {
        let registration = Registration::check(&signed(name, seed).to_bytes(), &TrustDomain::default(), NOW_MS);
        let (answer, answered) = oneshot::channel();
        let (change, answer) = (Change::Register(registration.unwrap()), Answer::Registration(answer));
        changes.send(Pending { change, answer, by: OPERATOR }).await.unwrap();
        answers.push(answered);
    }
    let waiting = answers.pop().unwrap();
    drop((answers, changes));
    write(directory, Box::new(|_: Arc<Snapshot>| {}), published.clone(), Health::default(), pending).await;
    assert!(matches!(waiting.await.unwrap(), Registered::Created(_)));
    assert_eq!(published.newest().agent_count(), 1);
}

#[tokio::test]
async fn while_the_outcome_of_a_commit_is_unknown_the_directory_is_in_doubt_and_afterwards_it_is_not() {
    let (storage, fate) = faulty::uncertain_storage();
    let directory = Directory::load(Arc::new(storage), 10, 1_000, 3_600, NOW_MS).unwrap();
    let published = Published::new(directory.snapshot());
    let health = Health::default();
    let (changes, pending) = mpsc::channel(8);
    // What is in doubt when a snapshot is published.
    let (seen, mut told) = mpsc::unbounded_channel();
    let of_sink = health.clone();
    let sink = move |snapshot: Arc<Snapshot>| {
        seen.send((snapshot.agent_count(), of_sink.is_directory_in_doubt())).unwrap();
    };
    let writing = tokio::spawn(write(directory, Box::new(sink), published, health.clone(), pending));
    let register = |name: &str, seed| {
        let registration = Registration::check(&signed(name, seed).to_bytes(), &TrustDomain::default(), NOW_MS);
        let (answer, answered) = oneshot::channel();
        let (change, answer) = (Change::Register(registration.unwrap()), Answer::Registration(answer));
        (Pending { change, answer, by: OPERATOR }, answered)
    };
    let (first, answered) = register("acme/a", 1);
    changes.send(first).await.unwrap();
    answered.await.unwrap();
    assert_eq!((told.recv().await, health.is_directory_in_doubt()), (Some((1, false)), false));
    // It is stored, and nobody knows.
    fate.store(faulty::DONE, std::sync::atomic::Ordering::Relaxed);
    let (second, answered) = register("acme/b", 2);
    changes.send(second).await.unwrap();
    answered.await.unwrap_err();
    // Told while it is in doubt still: only then there is nothing more that nodes have not heard of.
    assert_eq!(told.recv().await, Some((2, true)));
    fate.store(faulty::FINE, std::sync::atomic::Ordering::Relaxed);
    let (third, answered) = register("acme/c", 3);
    changes.send(third).await.unwrap();
    answered.await.unwrap();
    assert_eq!((told.recv().await, health.is_directory_in_doubt()), (Some((3, false)), false));
    drop(changes);
    writing.await.unwrap();
}
