//! Many at once gives what one by one gives, whatever the lanes are made of.

use aws_lc_rs::digest::{SHA256, digest};
use creto_sha_lanes::{Hash, Kind, Lanes, Message};
use proptest::prelude::*;

const KINDS: [Kind; 3] = [Kind::SixteenAndTwo, Kind::Sixteen, Kind::Two];

fn bytes(count: usize, seed: usize) -> Vec<u8> {
    (0..count).map(|index| (index * 31 + seed * 97 + index / 251).to_le_bytes()[0]).collect()
}

fn expected<const HEAD: usize>(message: &Message<'_, HEAD>) -> Hash {
    let whole = [&message.head, message.body].concat();
    digest(&SHA256, &whole).as_ref().try_into().expect("SHA-256 puts out 32 bytes")
}

/// Every kind of lanes that is here puts out the digests that aws-lc does.
fn check<const HEAD: usize>(messages: &[Message<'_, HEAD>]) {
    let expected: Vec<_> = messages.iter().map(expected).collect();
    for lanes in KINDS.into_iter().filter_map(Lanes::of_kind) {
        let mut found = vec![[0; 32]; messages.len()];
        lanes.hash_each(messages.iter().copied(), &mut found);
        let lengths: Vec<_> = messages.iter().map(|message| HEAD + message.body.len()).collect();
        assert_eq!(found, expected, "{:?}, lengths {lengths:?}", lanes.kind());
    }
}

/// The same for bodies of these lengths, each with other bytes.
fn check_lengths<const HEAD: usize>(lengths: &[usize]) {
    let bodies: Vec<_> = lengths.iter().enumerate().map(|(seed, length)| bytes(*length, seed)).collect();
    let head = |seed: usize| std::array::from_fn(|index| (index * 7 + seed).to_le_bytes()[0]);
    let messages = bodies.iter().enumerate().map(|(seed, body)| Message::<HEAD> { head: head(seed), body });
    check(&messages.collect::<Vec<_>>());
}

macro_rules! check_lengths_behind_heads {
    ($lengths:expr, [$($head:literal)+]) => { $(check_lengths::<$head>($lengths);)+ };
}

#[test]
fn lanes_that_are_not_here_are_not_given_and_the_best_that_are_here_are_detected() {
    let here: Vec<_> = KINDS.into_iter().filter(|kind| Lanes::of_kind(*kind).is_some()).collect();
    println!("{here:?} here");
    if here.is_empty() {
        println!("skipped: no lanes on this processor, 0 cases");
    }
    let best = Lanes::detect().map(Lanes::kind);
    assert_eq!(best, here.first().copied());
}

#[test]
fn every_count_of_messages_comes_out_right_with_equal_and_with_different_lengths() {
    for count in (0..=17).chain([31, 32, 33, 47, 48, 49, 100]) {
        for length in [0, 1, 64, 119, 120, 1_200] {
            check_lengths::<17>(&vec![length; count]);
        }
        check_lengths::<17>(&(0..count).map(|index| index * 37 % 700).collect::<Vec<_>>());
        check_lengths::<1>(&(0..count).rev().map(|index| index * index * 11 % 3_000).collect::<Vec<_>>());
    }
}

#[test]
fn every_length_up_to_300_and_around_each_end_of_a_block_is_right_behind_every_sort_of_head() {
    let around_blocks = (5..=34).flat_map(|block| block * 64 - 10..=block * 64 + 2);
    for length in (0..=300).chain(around_blocks) {
        // As many lanes as there are and one more; then alone between others.
        check_lengths_behind_heads!(&[length; 17], [0 1 17 63]);
        let mut among = [200; 16];
        among[length % 16] = length;
        check_lengths_behind_heads!(&among, [0 2 17 32 55 56 62 63]);
    }
}

#[test]
fn one_long_message_among_short_ones_and_one_short_among_long_ones_are_right_in_every_place() {
    for place in 0..20 {
        let (mut short, mut long) = ([40; 20], [3_000; 20]);
        short[place] = 60_000;
        long[place] = 3;
        check_lengths::<17>(&short);
        check_lengths::<17>(&long);
    }
}

/// The cases of a response file of NIST's Secure Hash Algorithm Validation System: message and digest.
fn cases(file: &str) -> Vec<(Vec<u8>, Hash)> {
    let value = |line: &str, name: &str| line.strip_prefix(name).map(str::trim).map(str::to_owned);
    let mut lines = file.lines();
    let mut cases = Vec::new();
    while let Some(line) = lines.next() {
        let Some(bits) = value(line, "Len =") else { continue };
        let mut next = |name| value(lines.next().expect("three lines a case"), name).expect("Len, Msg, MD");
        let (message, hash) = (hex::decode(next("Msg =")).expect("hex"), hex::decode(next("MD =")).expect("hex"));
        let bytes = bits.parse::<usize>().expect("a number") / 8;
        cases.push((message[..bytes].to_vec(), hash.try_into().expect("32 bytes")));
    }
    cases
}

#[test]
fn the_short_and_long_messages_of_nist_come_out_in_every_lane() {
    let mut cases =
        [cases(include_str!("nist/SHA256ShortMsg.rsp")), cases(include_str!("nist/SHA256LongMsg.rsp"))].concat();
    assert_eq!(cases.len(), 65 + 24);
    for lanes in KINDS.into_iter().filter_map(Lanes::of_kind) {
        // Sixteen turns: every message is once in every lane when lanes are filled in order.
        for _ in 0..16 {
            cases.rotate_left(1);
            let mut found = vec![[0; 32]; cases.len()];
            lanes.hash_each(cases.iter().map(|(message, _)| Message { head: [], body: message }), &mut found);
            assert!(found.iter().eq(cases.iter().map(|(_, hash)| hash)), "{:?}", lanes.kind());
        }
        for ((message, hash), place) in cases.iter().zip(0..) {
            let mut found = [[0; 32]; 16];
            lanes.hash_each([Message { head: [], body: message }; 16], &mut found);
            assert_eq!(found, [*hash; 16], "case {place}, {:?}", lanes.kind());
        }
    }
}

#[test]
fn a_million_bytes_as_in_fips_180_4_are_right_in_every_lane() {
    let million = vec![b'a'; 1_000_000];
    let hash = hex::decode("cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0").expect("hex");
    for lanes in KINDS.into_iter().filter_map(Lanes::of_kind) {
        let mut found = [[0; 32]; 16];
        lanes.hash_each([Message { head: [], body: &million }; 16], &mut found);
        assert!(found.iter().all(|found| found[..] == hash), "{:?}", lanes.kind());
    }
}

#[test]
fn more_or_fewer_messages_than_places_are_a_mistake() {
    for lanes in KINDS.into_iter().filter_map(Lanes::of_kind) {
        for (messages, places) in [(3, 2), (2, 3), (17, 16), (16, 17), (40, 16), (0, 1), (1, 0)] {
            let hash = || {
                lanes.hash_each(vec![Message { head: [1; 17], body: &[2; 100] }; messages], &mut vec![[0; 32]; places])
            };
            let outcome = std::panic::catch_unwind(hash);
            assert!(outcome.is_err(), "{messages} messages, {places} places, {:?}", lanes.kind());
        }
    }
}

proptest! {
    #[test]
    fn messages_of_any_lengths_do_not_disturb_each_other(
        lengths in prop::collection::vec(prop_oneof![0usize..130, 0usize..5_000], 0..40),
    ) {
        check_lengths::<17>(&lengths);
        check_lengths::<1>(&lengths);
        check_lengths::<0>(&lengths);
    }
}
