use creto_envelope::key_log::{KeyProof, KeyProofRequest, ProvenKey};
use proptest::prelude::*;

use super::*;
use crate::fixture::{keys, record, rotated};
use crate::leaf::LeafKind;
use crate::memory::MemoryLog;

/// An operator with a log, and an agent that asks.
struct World {
    log: MemoryLog,
    watch: Watch,
}

fn log_of(names: &[&str]) -> MemoryLog {
    let mut log = MemoryLog::new();
    for (seed, name) in (1..).zip(names) {
        log.enter(&record(name, seed), 5);
    }
    log
}

impl World {
    fn new(names: &[&str]) -> Self {
        Self { log: log_of(names), watch: Watch::pin(keys().public().clone()).unwrap() }
    }

    fn ask(&mut self, record: &KeyRecord) -> ProvenKey {
        let question = KeyProofRequest {
            agent: record.agent_id(),
            version: record.version,
            seen: self.watch.size(),
            wants_keys: false,
        };
        let KeyProof { answer, .. } = self.log.prove(&question, &keys(), 9);
        answer.unwrap()
    }

    /// What the agent makes of an answer.
    fn takes(&mut self, record: &KeyRecord, proven: &ProvenKey) -> Result<KeyLeaf, KeyLogError> {
        if !proven.note.is_empty() {
            self.watch.advance(&proven.note, &proven.consistency)?;
        }
        let ProvenKey { size, index, leaf, path, .. } = proven;
        self.watch.check(record, Evidence { size: *size, index: *index, leaf, path })
    }

    fn looks_up(&mut self, record: &KeyRecord) -> Result<KeyLeaf, KeyLogError> {
        let proven = self.ask(record);
        self.takes(record, &proven)
    }
}

#[track_caller]
fn refused<T: std::fmt::Debug>(outcome: Result<T, KeyLogError>, code: &str) {
    let error = outcome.expect_err("a dishonest operator is refused");
    assert_eq!(error.code(), code, "{error}");
    assert!(error.to_string().len() > 60, "it says what to do: {error}");
}

#[test]
fn a_record_that_is_in_the_log_is_believed_and_the_log_may_grow() {
    let mut world = World::new(&["acme/a", "acme/b", "acme/c"]);
    let (a, b) = (record("acme/a", 1), record("acme/b", 2));
    assert_eq!(world.looks_up(&a).unwrap().kind, LeafKind::Enrolled);
    let again = world.ask(&b);
    assert!(again.note.is_empty(), "the head is known");
    world.takes(&b, &again).unwrap();
    let next = rotated(&a, 9);
    world.log.enter(&next, 7);
    assert_eq!(world.looks_up(&next).unwrap().kind, LeafKind::Rotated);
    assert_eq!(world.watch.size(), 4);
    world.looks_up(&a).unwrap();
}

#[test]
fn an_operator_who_exchanges_a_record_is_refused() {
    let mut world = World::new(&["acme/a", "acme/b"]);
    let theirs = record("acme/a", 66);
    let honest = world.ask(&record("acme/a", 1));
    refused(world.takes(&theirs, &honest), "record_exchanged");
    // The record that was asked for, and another's place.
    let mut elsewhere = honest.clone();
    elsewhere.index = 1;
    refused(world.takes(&record("acme/a", 1), &elsewhere), "not_in_the_log");
    // A leaf that fits the record, and is not in the tree.
    let slipped_in = ProvenKey { leaf: KeyLeaf::of(&theirs, LeafKind::Enrolled, 5).to_bytes(), ..honest.clone() };
    refused(world.takes(&theirs, &slipped_in), "not_in_the_log");
    let mut no_leaf = honest.clone();
    no_leaf.leaf[0] = 2;
    refused(world.takes(&record("acme/a", 1), &no_leaf), "leaf_form");
    for path in [Vec::new(), vec![[0; 32]], [&honest.path[..], &[[0; 32]]].concat()] {
        refused(world.takes(&record("acme/a", 1), &ProvenKey { path, ..honest.clone() }), "not_in_the_log");
    }
    world.takes(&record("acme/a", 1), &honest).unwrap();
}

#[test]
fn an_operator_who_shows_two_trees_is_refused_by_whoever_saw_both() {
    let mut world = World::new(&["acme/a", "acme/b", "acme/c"]);
    world.looks_up(&record("acme/a", 1)).unwrap();
    let size = world.watch.size();
    // As large, and other leaves; and larger, grown out of other leaves.
    for (names, leaves) in [(&["acme/a", "acme/x", "acme/c"][..], 3), (&["acme/a", "acme/x", "acme/c", "acme/d"], 4)] {
        let mut other = log_of(names);
        assert_eq!(other.size(), leaves);
        let note = other.head(leaves, 9).sign(&keys());
        let consistency = if leaves > size { other.consistency(size, leaves) } else { Vec::new() };
        refused(world.watch.advance(note.as_bytes(), &consistency), "does_not_extend");
    }
    assert_eq!(world.watch.size(), size, "what was seen stays");
    world.looks_up(&record("acme/b", 2)).unwrap();
}

#[test]
fn an_operator_who_rolls_the_log_back_is_refused() {
    let mut world = World::new(&["acme/a", "acme/b", "acme/c"]);
    world.looks_up(&record("acme/a", 1)).unwrap();
    let note = world.log.head(2, 9).sign(&keys());
    refused(world.watch.advance(note.as_bytes(), &[]), "rolled_back");
    let old = ProvenKey { size: 2, path: world.log.path(0, 2), ..world.ask(&record("acme/a", 1)) };
    refused(world.takes(&record("acme/a", 1), &old), "other_head");
}

#[test]
fn an_operator_who_drops_a_leaf_is_refused() {
    let mut world = World::new(&["acme/a", "acme/b", "acme/c"]);
    world.looks_up(&record("acme/a", 1)).unwrap();
    // Without the middle one, and two more at the end.
    let mut without = log_of(&["acme/a"]);
    for (name, seed) in [("acme/c", 3), ("acme/d", 4), ("acme/e", 5)] {
        without.enter(&record(name, seed), 5);
    }
    let note = without.head(4, 9).sign(&keys());
    refused(world.watch.advance(note.as_bytes(), &without.consistency(3, 4)), "does_not_extend");
    refused(world.watch.advance(note.as_bytes(), &[]), "not_shown_to_extend");
}

#[test]
fn an_operator_who_signs_with_one_algorithm_or_with_other_keys_is_refused() {
    let mut world = World::new(&["acme/a"]);
    let note = world.log.head(1, 9).sign(&keys());
    let (text, signatures) = note.rsplit_once("\n\n").unwrap();
    for line in signatures.lines() {
        refused(world.watch.advance(format!("{text}\n\n{line}\n").as_bytes(), &[]), "signature_missing");
    }
    let theirs = creto_audit::LogKeys::from_seeds(keys().public().origin(), &[8; 32], &[9; 32]).unwrap();
    let note = world.log.head(1, 9).sign(&theirs);
    refused(world.watch.advance(note.as_bytes(), &[]), "signature_missing");
    assert_eq!(world.watch.head(), None);
    let proven = ProvenKey { note: Vec::new(), ..world.ask(&record("acme/a", 1)) };
    refused(world.takes(&record("acme/a", 1), &proven), "other_head");
}

#[test]
fn keys_of_a_log_that_cannot_be_used_are_refused() {
    refused(Watch::pin_text("no keys\n"), "log_keys");
}

/// A log of this many small leaves.
fn grown(size: u64) -> MemoryLog {
    let template = KeyLeaf::of(&record("acme/a", 1), LeafKind::Enrolled, 0);
    let mut log = MemoryLog::new();
    for index in 0..size {
        log.append(KeyLeaf { time_ms: index, version: u32::try_from(index).unwrap(), ..template });
    }
    log
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    /// Whatever sizes an agent sees one after the other, an honest log is believed, and one with any leaf changed before the
    /// newest head is not.
    #[test]
    fn growth_is_believed_and_no_other_history_is(
        sizes in proptest::collection::vec(1_u64..400, 1..6),
        changed in any::<proptest::sample::Index>(),
    ) {
        let mut sizes = sizes;
        sizes.sort_unstable();
        let largest = sizes[sizes.len() - 1];
        let mut honest = grown(largest + 1);
        let mut watch = Watch::pin(keys().public().clone()).unwrap();
        for size in sizes {
            let seen = watch.size();
            let proof = if seen > 0 { honest.consistency(seen, size) } else { Vec::new() };
            let is_new = watch.advance(honest.head(size, 1).sign(&keys()).as_bytes(), &proof).unwrap();
            prop_assert_eq!(is_new, size > seen);
        }
        let changed = changed.index(usize::try_from(largest).unwrap()) as u64;
        let mut other = MemoryLog::new();
        for index in 0..=largest {
            let leaf = honest.leaf(index);
            other.append(KeyLeaf { time_ms: leaf.time_ms + u64::from(index == changed), ..*leaf });
        }
        let note = other.head(largest + 1, 1).sign(&keys());
        let refusal = watch.advance(note.as_bytes(), &other.consistency(largest, largest + 1)).unwrap_err();
        prop_assert_eq!(refusal, KeyLogError::Forked { seen: largest, found: largest + 1 });
        prop_assert_eq!(watch.size(), largest);
    }
}
