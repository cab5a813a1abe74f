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
