//! One flipped bit anywhere in a signed batch, and nothing of it is accepted: neither the message that it is in nor its
//! neighbours. Header, both signatures, salts, entry headers, envelopes, wrapped keys, payloads and padding.
#![allow(clippy::unwrap_used, reason = "a test stops where it is wrong")]
#![allow(dead_code, reason = "the fixture does more than is needed here")]

#[allow(dead_code, reason = "each test file takes what it needs")]
mod fixture;

use std::ops::Range;

use creto_envelope::submit::WHOLE_BATCH;
use creto_envelope::{FrameType, MessageId, RejectCode};
use creto_sim::agents::SimAgent;
use fixture::{Client, NOW, Node, SUBMIT};
use proptest::prelude::*;
use proptest::test_runner::TestRunner;

/// Bytes of the submit sequence before the batch: framing, which is not signed.
const SEQUENCE_BYTES: usize = 8;
/// Where the two signatures lie in the batch header.
const SIGNATURES: Range<usize> = 72..3445;

struct World {
    planner: SimAgent,
    node: Node,
    client: Client,
    sequence: u64,
    executor: SimAgent,
}

impl World {
    fn new() -> Self {
        let (planner, executor) = (SimAgent::new("acme/planner", 1), SimAgent::new("acme/executor", 2));
        let mut node = Node::new(1, &[&planner, &executor]);
        let client = node.connect_as(0, &planner);
        Self { planner, node, client, sequence: 0, executor }
    }

    /// A batch of this many short messages.
    fn batch(&self, size: u16) -> Vec<u8> {
        let seal = |number| self.planner.seal(&self.executor, message_id(number), NOW.unix_ms, &[7; 5]);
        let envelopes: Vec<_> = (0..size).map(seal).collect();
        self.planner.sign(&envelopes, NOW.unix_ms).body(0)
    }

    /// The same in a session: the first one carries the wrapped key.
    fn session_batch(&self, size: u16) -> Vec<u8> {
        let mut session = self.planner.open_session(&self.executor);
        let seal = |number| session.seal(number == 0, message_id(number), NOW.unix_ms, &[7; 5]);
        let envelopes: Vec<_> = (0..size).map(seal).collect();
        self.planner.sign(&envelopes, NOW.unix_ms).body(0)
    }

    /// The answer to this batch: the codes of what was refused, by index.
    fn submit(&mut self, body: &mut [u8]) -> Vec<(u32, RejectCode)> {
        if !self.node.closed.is_empty() {
            // Too many bad signatures end a connection; another one may come.
            self.node.closed.clear();
            self.client = self.node.connect_as(0, &self.planner);
            self.sequence = 0;
        }
        self.sequence += 1;
        body[..SEQUENCE_BYTES].copy_from_slice(&self.sequence.to_le_bytes());
        self.node.frame(&self.client, SUBMIT, FrameType::SignedBatch, body);
        self.node.run();
        let rejects = self.node.rejects(&self.client);
        let (through, codes) = self.node.acks(&self.client);
        match self.node.closed.first() {
            Some((_, code)) => vec![(WHOLE_BATCH, *code)],
            None => {
                assert_eq!((through, rejects), (self.sequence, vec![]), "every batch is answered, and nothing else is");
                codes
            }
        }
    }

    /// Flips one bit of the batch, which must be refused as a whole, and flips it back.
    fn refuse_flip(&mut self, body: &mut [u8], byte: usize, bit: usize) {
        body[SEQUENCE_BYTES + byte] ^= 1 << bit;
        let answer = self.submit(body);
        assert!(matches!(answer[..], [(WHOLE_BATCH, _)]), "bit {bit} of byte {byte}: answered {answer:?}");
        body[SEQUENCE_BYTES + byte] ^= 1 << bit;
    }
}

fn message_id(number: u16) -> MessageId {
    let mut random = [0; 10];
    random[8..].copy_from_slice(&number.to_le_bytes());
    MessageId::from_parts(NOW.unix_ms, random)
}

#[test]
fn any_flipped_bit_of_a_batch_of_one_is_refused() {
    let mut world = World::new();
    let mut body = world.batch(1);
    for byte in 0..body.len() - SEQUENCE_BYTES {
        for bit in 0..8 {
            world.refuse_flip(&mut body, byte, bit);
        }
    }
    assert_eq!(world.submit(&mut body), [], "as it was made, it is accepted");
}

/// The signatures are the same size whatever the batch; here it is the rest.
fn check_outside_of_signatures(make: impl Fn(&World) -> Vec<u8>) {
    let mut world = World::new();
    let mut body = make(&world);
    for byte in (0..body.len() - SEQUENCE_BYTES).filter(|byte| !SIGNATURES.contains(byte)) {
        for bit in 0..8 {
            world.refuse_flip(&mut body, byte, bit);
        }
    }
    assert_eq!(world.submit(&mut body), [], "as it was made, it is accepted");
}

#[test]
fn any_flipped_bit_of_a_batch_of_two_or_three_outside_its_signatures_is_refused() {
    check_outside_of_signatures(|world| world.batch(2));
    check_outside_of_signatures(|world| world.batch(3));
}

#[test]
fn any_flipped_bit_of_messages_of_a_session_is_refused() {
    check_outside_of_signatures(|world| world.session_batch(1));
    check_outside_of_signatures(|world| world.session_batch(3));
}

#[test]
fn bits_flipped_anywhere_in_larger_batches_are_refused() {
    let mut runner = TestRunner::new(ProptestConfig::with_cases(24));
    let flips = prop::collection::vec((any::<prop::sample::Index>(), 0..8usize), 64);
    runner
        .run(&(4..=256u16, flips), |(size, flips)| {
            let mut world = World::new();
            let mut body = world.batch(size);
            for (byte, bit) in flips {
                let byte = byte.index(body.len() - SEQUENCE_BYTES);
                world.refuse_flip(&mut body, byte, bit);
            }
            prop_assert_eq!(world.submit(&mut body), vec![]);
            Ok(())
        })
        .unwrap();
}
