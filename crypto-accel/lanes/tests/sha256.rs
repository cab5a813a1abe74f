//! Two at once gives what one by one gives.

use aws_lc_rs::digest::{SHA256, digest};
use creto_sha_lanes::{HEAD_BYTES_MAX, Hash, Message, available, sha256_two};
use proptest::prelude::*;

fn bytes(count: usize, seed: usize) -> Vec<u8> {
    (0..count).map(|index| (index * 31 + seed * 97 + index / 251).to_le_bytes()[0]).collect()
}

fn expected(message: Message<'_>) -> Hash {
    digest(&SHA256, &[message.head, message.body].concat()).as_ref().try_into().expect("SHA-256 puts out 32 bytes")
}

fn check(messages: [Message<'_>; 2]) {
    let Some(found) = sha256_two(messages) else {
        assert!(!available());
        return;
    };
    assert_eq!(found, messages.map(expected), "lengths {:?}", messages.map(|m| (m.head.len(), m.body.len())));
}

#[test]
fn a_processor_without_the_instructions_is_named_as_one() {
    let empty = Message { head: &[], body: &[] };
    assert_eq!(sha256_two([empty, empty]).is_some(), available());
    if !available() {
        println!("skipped: no SHA instructions here, 0 cases");
    }
}

#[test]
fn the_examples_of_fips_180_4_come_out_in_both_lanes() {
    let million = vec![b'a'; 1_000_000];
    let examples: [(&[u8], &str); 4] = [
        (b"abc", "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"),
        (
            b"abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq",
            "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1",
        ),
        (b"", "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"),
        (&million, "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0"),
    ];
    for (left, left_digest) in examples {
        for (right, right_digest) in examples {
            let messages = [left, right].map(|body| Message { head: &[], body });
            if let Some(found) = sha256_two(messages) {
                assert_eq!(found.map(hex::encode), [left_digest, right_digest]);
            }
        }
    }
}

#[test]
fn every_length_of_head_and_body_around_the_blocks_is_right_in_both_lanes() {
    for head_bytes in 0..=HEAD_BYTES_MAX {
        for body_bytes in 0..=200 {
            let (head, body, other) = (bytes(head_bytes, 1), bytes(body_bytes, 2), bytes(200 - body_bytes, 3));
            let [first, second] = [Message { head: &head, body: &body }, Message { head: &[9; 17], body: &other }];
            check([first, second]);
            check([second, first]);
        }
    }
}

#[test]
#[should_panic(expected = "a head is shorter than a block")]
fn a_head_that_fills_a_block_is_a_mistake() {
    let long = Message { head: &[0; HEAD_BYTES_MAX + 1], body: &[] };
    let _ = sha256_two([long, long]);
}

proptest! {
    #[test]
    fn two_messages_of_any_length_do_not_disturb_each_other(
        heads in prop::array::uniform2(0..=HEAD_BYTES_MAX),
        bodies in prop::array::uniform2(0usize..5_000),
        seed in 0usize..1_000,
    ) {
        let parts = [0, 1].map(|lane| (bytes(heads[lane], seed + lane), bytes(bodies[lane], seed + 7 * lane)));
        check([0, 1].map(|lane| Message { head: &parts[lane].0, body: &parts[lane].1 }));
    }
}
