//! No allocation per message, once the memory is warm: not when sealing, not when a node admits, not when opening. What is
//! counted is everything that a thread asks of the C library, so aws-lc's own memory too.
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

/// aws-lc keeps each message's AES key schedule on its heap, and erases it there; its interface knows no other way.
const OF_C_PER_MESSAGE: u64 = 1;
/// What a batch may cost, whatever its size: a signature, a frame, a growing table now and then.
const OF_C_PER_BATCH: u64 = 16;

#[test]
fn sealing_allocates_by_the_batch_and_never_by_the_message() {
    let (planner, executor) = agents();
    let mut sender = Sender::new(&planner, &executor);
    sender.batch(256);
    let mut of_first = None;
    for messages in [64u32, 256, 1, 64, 256] {
        let found = allocations(|| {
            sender.batch(messages as usize);
        });
        assert!(
            found.rust <= 8 && *of_first.get_or_insert(found.rust) == found.rust,
            "a batch of {messages}: {found:?}"
        );
        assert!(found.c <= u64::from(messages) * OF_C_PER_MESSAGE + OF_C_PER_BATCH, "a batch of {messages}: {found:?}");
    }
}

#[test]
fn opening_allocates_by_the_batch_and_never_by_the_message() {
    let (planner, executor) = agents();
    for messages in [64u32, 256] {
        let recipient = Recipient::new(&planner, &executor, messages as usize);
        let found = recipient.each_delivery(|work| allocations(work));
        // The first one finds no memory yet.
        for found in &found[1..] {
            assert!(found.rust <= 2, "{messages} messages: {found:?}");
            assert!(
                found.c <= u64::from(messages) * OF_C_PER_MESSAGE + OF_C_PER_BATCH,
                "{messages} messages: {found:?}"
            );
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
