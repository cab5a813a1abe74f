use creto_envelope::key_log::KeyProofRequest;
use creto_envelope::{AgentName, TrustDomain};
use creto_transparency::memory::MemoryLog;
use creto_transparency::{KeyLeaf, LeafKind, LogKeys};

use super::*;
use crate::keys::AgentKeys;

fn keys(name: &str) -> AgentKeys {
    AgentKeys::generate(AgentName::parse(name).unwrap(), TrustDomain::default()).unwrap()
}

/// The directory of an agent, at a node whose log has whatever it says.
struct Node {
    directory: Arc<Directory>,
    key_log: Arc<KeyLog>,
    log: Mutex<MemoryLog>,
}

impl std::ops::Deref for Node {
    type Target = Arc<Directory>;

    fn deref(&self) -> &Arc<Directory> {
        &self.directory
    }
}

impl Node {
    /// The node gives a record, and proves it when it is asked to.
    async fn answers(&self, signed: SignedKeyRecord) {
        // It says so in its log, whatever it said before.
        self.log.lock().unwrap().append(KeyLeaf::of(&signed.record, LeafKind::Enrolled, 5));
        self.directory.answered(signed);
        let frame = self.key_log.next_frame().await;
        let question = KeyProofRequest::parse(&frame[8..]).unwrap();
        let proof = self.log.lock().unwrap().prove(&question, &log_keys(), 5);
        self.key_log.proven(proof).await;
    }
}

fn log_keys() -> LogKeys {
    LogKeys::from_seeds("creto.local/creto-audit/node/keys", &[1; 32], &[2; 32]).unwrap()
}

fn directory() -> Node {
    let key_log = KeyLog::open(Arc::new(keys("acme/me")), None, Arc::default()).unwrap();
    let key_log = Arc::new(key_log);
    let directory = Arc::new(Directory::new(Arc::default(), Clock::start(), Arc::clone(&key_log)));
    Node { directory, key_log, log: Mutex::default() }
}

fn refusal(agent: AgentId, code: RejectCode) -> Refusal {
    Refusal { code: Ok(code), retry_after_ms: 0, context: agent.0 }
}

#[tokio::test]
async fn many_who_ask_at_once_ask_one_question_and_the_answer_is_remembered() {
    let (directory, worker) = (directory(), keys("acme/worker"));
    let id = worker.id();
    let asking: Vec<_> = (0..50)
        .map(|_| {
            let directory = Arc::clone(&directory.directory);
            tokio::spawn(async move { directory.lookup(id, CURRENT).await })
        })
        .collect();
    assert_eq!(directory.next_question().await, KeyRecordRequest { agent: id, version: CURRENT });
    tokio::task::yield_now().await;
    assert_eq!(directory.take_question(), None);
    directory.answers(worker.signed_record(4, 0, 9)).await;
    for asked in asking {
        assert_eq!(asked.await.unwrap().unwrap().record.version, 4);
    }
    assert_eq!(directory.lookup(id, CURRENT).await.unwrap().record.version, 4);
    assert_eq!(directory.lookup(id, 4).await.unwrap().record.version, 4);
    assert_eq!(directory.counters.snapshot().key_record_lookups, 1);
}

#[tokio::test]
async fn a_question_is_asked_again_on_the_next_connection() {
    let (directory, worker) = (directory(), keys("acme/worker"));
    let id = worker.id();
    let asking = tokio::spawn({
        let directory = Arc::clone(&directory.directory);
        async move { directory.lookup(id, CURRENT).await }
    });
    directory.next_question().await;
    directory.connected();
    assert_eq!(directory.next_question().await.agent, id);
    directory.answers(worker.signed_record(1, 0, 9)).await;
    asking.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_refusal_answers_its_question_and_is_not_remembered() {
    let directory = directory();
    let id = keys("acme/nobody").id();
    for _ in 0..2 {
        let asking = tokio::spawn({
            let directory = Arc::clone(&directory.directory);
            async move { directory.lookup(id, CURRENT).await }
        });
        directory.next_question().await;
        directory.refused(&refusal(AgentId([9; 16]), RejectCode::UnknownAgent));
        directory.refused(&refusal(id, RejectCode::UnknownAgent));
        assert_eq!(asking.await.unwrap().unwrap_err(), LookupError::Refused(RejectCode::UnknownAgent));
    }
}

#[tokio::test]
async fn versions_of_one_agent_are_asked_for_one_after_the_other() {
    let (directory, worker) = (directory(), keys("acme/worker"));
    let id = worker.id();
    let ask = |version| {
        let directory = Arc::clone(&directory.directory);
        tokio::spawn(async move { directory.lookup(id, version).await })
    };
    let second = ask(2);
    assert_eq!(directory.next_question().await.version, 2);
    let third = ask(3);
    tokio::task::yield_now().await;
    assert_eq!(directory.take_question(), None, "an answer carries no number");
    directory.answered(worker.signed_record(7, 0, 9));
    assert_eq!(directory.take_question(), None, "an answer that fits no question is ignored");
    directory.answers(worker.signed_record(2, 0, 9)).await;
    assert_eq!(second.await.unwrap().unwrap().record.version, 2);
    assert_eq!(directory.next_question().await.version, 3);
    directory.answers(worker.signed_record(3, 0, 9)).await;
    assert_eq!(third.await.unwrap().unwrap().record.version, 3);
}

#[test]
fn a_record_that_its_own_keys_did_not_sign_does_not_hold() {
    let (worker, thief) = (keys("acme/worker"), keys("acme/worker"));
    let good = worker.signed_record(1, 0, 9);
    assert!(Identity::verify(worker.id(), &good).is_ok());

    let mut ed25519 = good.clone();
    ed25519.ed25519[3] ^= 1;
    let mut ml_dsa_65 = good.clone();
    ml_dsa_65.ml_dsa_65[3] ^= 1;
    let mut exchanged = good.clone();
    exchanged.record.x25519 = thief.signed_record(1, 0, 9).record.x25519;
    let mut longer = good.clone();
    longer.record.valid_until_ms += 1;
    for bad in [ed25519, ml_dsa_65, exchanged, longer] {
        assert!(matches!(Identity::verify(worker.id(), &bad), Err(LookupError::Invalid { .. })));
    }
    assert!(matches!(Identity::verify(keys("acme/other").id(), &good), Err(LookupError::Invalid { .. })));
}

#[tokio::test]
async fn a_node_that_is_busy_is_asked_again_and_nobody_hears_of_it() {
    let (directory, worker) = (directory(), keys("acme/worker"));
    let id = worker.id();
    let asking = {
        let directory = Arc::clone(&directory);
        tokio::spawn(async move { directory.lookup(id, CURRENT).await })
    };
    for code in [RejectCode::Overloaded, RejectCode::TooManyInFlight, RejectCode::Overloaded] {
        assert_eq!(directory.next_question().await, KeyRecordRequest { agent: id, version: CURRENT });
        directory.refused(&refusal(id, code));
    }
    assert_eq!(directory.next_question().await, KeyRecordRequest { agent: id, version: CURRENT });
    directory.answers(worker.signed_record(1, 1_000, 2_000)).await;
    assert_eq!(asking.await.unwrap().unwrap().record.agent_id(), id);
}

#[tokio::test]
async fn a_version_that_was_seen_with_other_keys_is_refused() {
    let directory = directory();
    let (worker, thief) = (keys("acme/worker"), keys("acme/worker"));
    let id = worker.id();
    for (keys, held) in [(&worker, true), (&thief, false), (&worker, true)] {
        directory.forget_current(id);
        let asking = tokio::spawn({
            let directory = Arc::clone(&directory.directory);
            async move { directory.lookup(id, CURRENT).await }
        });
        directory.next_question().await;
        directory.answers(keys.signed_record(1, 0, 9)).await;
        assert_eq!(asking.await.unwrap().is_ok(), held);
    }
}

#[test]
fn the_cache_is_bounded_and_a_current_record_grows_old() {
    let worker = keys("acme/worker");
    let identity = |version| Arc::new(Identity::verify(worker.id(), &worker.signed_record(version, 0, 9)).unwrap());
    let one = identity(1);
    let mut cache = Cache::default();
    for n in 0..KEY_RECORDS_CACHED as u128 + 10 {
        cache.insert(AgentId(n.to_be_bytes()), true, Arc::clone(&one), 0).unwrap();
    }
    assert_eq!(
        (cache.records.len(), cache.current.len(), cache.order.len()),
        (KEY_RECORDS_CACHED, KEY_RECORDS_CACHED, KEY_RECORDS_CACHED)
    );
    let last = AgentId((KEY_RECORDS_CACHED as u128).to_be_bytes());
    let hour_us = u64::try_from(KEY_RECORD_LIFETIME.as_micros()).unwrap();
    assert!(cache.get(last, CURRENT, hour_us - 1).is_some());
    assert!(cache.get(last, CURRENT, hour_us).is_none());
    assert!(cache.get(last, 1, hour_us).is_some(), "a version never grows old");
}

#[tokio::test]
async fn a_record_that_comes_twice_is_proven_once() {
    let (directory, worker) = (directory(), keys("acme/worker"));
    let id = worker.id();
    let this = Arc::clone(&directory.directory);
    let asking = tokio::spawn(async move { this.lookup(id, CURRENT).await });
    directory.next_question().await;
    let signed = worker.signed_record(4, 0, 9);
    for _ in 0..3 {
        directory.answered(signed.clone());
    }
    // Nor is it asked for again where the proof alone is missing.
    directory.connected();
    assert_eq!(directory.take_question(), None);
    directory.refused(&refusal(id, RejectCode::UnknownKeyVersion));
    directory.log.lock().unwrap().append(KeyLeaf::of(&signed.record, LeafKind::Enrolled, 5));
    let question = KeyProofRequest::parse(&directory.key_log.next_frame().await[8..]).unwrap();
    let proof = directory.log.lock().unwrap().prove(&question, &log_keys(), 5);
    directory.key_log.proven(proof).await;
    assert_eq!(asking.await.unwrap().unwrap().record.version, 4);
}
