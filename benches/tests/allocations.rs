//! What a message allocates, once the memory is warm: at its sender and at its recipient in the SDK itself, in between on
//! the node. What is counted is everything that a thread asks of the C library, so aws-lc's own memory too.
#![cfg(all(target_os = "linux", target_env = "gnu"))]
#![allow(clippy::unwrap_used, reason = "a test stops where it is wrong")]

mod counting;

use counting::{Allocations, allocations};
use creto_benches::crypto::station::{Admission, Recipient, Sender};
use creto_sim::agents::SimAgent;

fn agents() -> (SimAgent, SimAgent) {
    (SimAgent::new("acme/planner", 1), SimAgent::new("acme/executor", 2))
}

#[test]
fn the_counter_sees_rust_and_c() {
    assert_eq!(allocations(|| ()), Allocations { rust: 0, c: 0 });
    assert_eq!(allocations(|| drop(std::hint::black_box(Box::new(1u8)))), Allocations { rust: 1, c: 0 });
    // aws-lc keeps a key pair on its own heap.
    let seed = [1; 32];
    let keys = || drop(creto_crypto_accel::sign::SigningKeys::from_seeds(&seed, &seed));
    keys();
    assert!(allocations(keys).c > 4);
}

/// aws-lc keeps each message's AES key schedule on its heap, and erases it there; the interface of aws-lc-rs knows no other
/// way, and going around it would save 2 % of sealing a message.
const OF_C_PER_MESSAGE: u64 = 1;
/// What a batch may cost, whatever its size: a signature, a frame, a growing table now and then.
const OF_C_PER_BATCH: u64 = 16;
/// The same of Rust code: lists that grow with the batch do so by doubling.
const PER_BATCH: u64 = 72;

/// A message on its way has a header of its own and a channel to whoever waits for its answer.
const SUBMITTED_PER_MESSAGE: u64 = 2;
/// It stands in a map, whose nodes hold at least five.
const SUBMITTED_PER_NODE: u64 = 5;
/// The payload: the application owns it, and may keep it when everything around it is gone.
const OPENED_PER_MESSAGE: u64 = 1;

#[test]
fn sealing_and_signing_in_the_sdk_allocate_by_the_batch_and_never_by_the_message() {
    let (planner, executor) = agents();
    let mut sender = Sender::new(&planner, &executor);
    sender.batch(256);
    for messages in [64u32, 256, 1, 64, 256, 512, 1_000, 256] {
        let count = u64::from(messages);
        let found = allocations(|| sender.submit(messages as usize));
        let most = SUBMITTED_PER_MESSAGE * count + count / SUBMITTED_PER_NODE + OF_C_PER_BATCH;
        assert!((SUBMITTED_PER_MESSAGE * count..=most).contains(&found.rust), "{messages} submitted: {found:?}");
        assert_eq!(found.c, 0, "{messages} submitted: {found:?}");
        let found = allocations(|| drop(sender.frame()));
        assert!(found.rust <= PER_BATCH, "a batch of {messages}: {found:?}");
        assert!(found.c <= count * OF_C_PER_MESSAGE + OF_C_PER_BATCH, "a batch of {messages}: {found:?}");
    }
}

#[test]
fn opening_in_the_sdk_allocates_the_payload_of_each_message_and_the_rest_by_the_batch() {
    let (planner, executor) = agents();
    for messages in [1u32, 64, 256] {
        let count = u64::from(messages);
        let mut recipient = Recipient::new(&planner, &executor, messages as usize);
        let found = recipient.each_delivery(|work| allocations(work));
        // The first one finds no memory yet.
        for found in &found[1..] {
            let of_payloads = count * OPENED_PER_MESSAGE;
            assert!((of_payloads..=of_payloads + PER_BATCH).contains(&found.rust), "{messages} messages: {found:?}");
            assert!(found.c <= count * OF_C_PER_MESSAGE + OF_C_PER_BATCH, "{messages} messages: {found:?}");
        }
    }
}

#[test]
fn admitting_allocates_by_the_batch_and_never_by_the_message() {
    let (planner, executor) = agents();
    let [small, large] = [64u32, 256].map(|messages| {
        let found = Admission::new(&planner, &executor, messages as usize).each_batch(|work| allocations(work));
        for found in &found[1..] {
            assert!(
                found.c <= u64::from(messages) * OF_C_PER_MESSAGE + OF_C_PER_BATCH,
                "{messages} messages: {found:?}"
            );
        }
        found[1..].iter().map(|found| found.rust).max().unwrap()
    });
    // The shard's index and its log grow with what is queued: a doubling now and then, in either.
    assert!(small <= 64 && large <= small + 8, "a batch of 64: {small}, a batch of 256: {large}");
}

/// A policy that binds everybody to a size.
#[derive(Clone, Debug)]
struct Bound;

impl creto_policy::PolicySource for Bound {
    fn digest(&self) -> &[u8; 32] {
        &[3; 32]
    }

    fn reads(&self) -> creto_policy::Reads {
        creto_policy::Reads::default().with(creto_policy::Input::SenderOrganization)
    }

    fn evaluator(&self) -> Box<dyn creto_policy::Evaluator> {
        Box::new(self.clone())
    }
}

impl creto_policy::Evaluator for Bound {
    fn evaluate(&mut self, _: &creto_policy::Question<'_>) -> creto_policy::Evaluation {
        let bound = creto_policy::Obligations { size_max: Some(1_024), ..creto_policy::Obligations::NONE };
        creto_policy::Evaluation { answer: creto_policy::Answer::Allow(bound), took_us: 0 }
    }
}

#[test]
fn a_decision_that_is_kept_allocates_nothing() {
    use creto_policy::{Action, DecisionTable, Policy, SnapshotBuilder};

    let (planner, executor) = agents();
    let mut builder = SnapshotBuilder::with_policy(Policy::Loaded(std::sync::Arc::new(Bound)));
    for agent in [&planner, &executor] {
        builder.insert(creto_envelope::AgentState::Active, vec![std::sync::Arc::clone(&agent.record)]).unwrap();
    }
    let (snapshot, mut table) = (builder.build(1), DecisionTable::new(64, u64::MAX));
    let mut decide = || table.decide(&snapshot, 5, &planner.id, Action::SendMessage, &executor.id, 0);
    let first = decide();
    assert!(first.is_allowed() && first != creto_policy::Decision::ALLOW, "{first:?}");
    for _ in 0..100 {
        assert_eq!(allocations(|| assert_eq!(decide(), first)), Allocations { rust: 0, c: 0 });
    }
    assert_eq!(table.stats().hits, 100);
}
