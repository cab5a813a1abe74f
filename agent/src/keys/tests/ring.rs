use creto_envelope::control::RotationMode::{Emergency, Planned};

use super::super::ring::{Key, Ring, Standing};
use super::*;
use crate::limits::KEY_UNUSED_MS_MIN;

const NOW_MS: u64 = 1_000_000_000;

fn seed(number: u8) -> Zeroizing<[u8; 32]> {
    Zeroizing::new([number; 32])
}

fn id(number: u8) -> KeyId {
    KeyId(RecipientSecret::from_seed(&[number; 32]).key_id())
}

/// A ring with key 1 of version 1.
fn ring() -> Ring {
    Ring::new(Key::new(1, seed(1), NOW_MS))
}

#[test]
fn what_the_node_has_decides_what_becomes_of_a_saved_key() {
    for (node_version, node_key, standing, versions) in [
        // It was not published: it will be.
        (1, id(1), Standing::Unpublished, &[1, 2][..]),
        // It was, and the answer was lost.
        (2, id(2), Standing::Level, &[2, 1]),
        // Another copy of the keys was faster: this one is of no use, and does not open what is sealed to the other.
        (2, id(9), Standing::Behind, &[1, 2]),
    ] {
        let mut ring = ring();
        ring.begin(Planned, 1, seed(2), NOW_MS);
        assert_eq!(ring.reconcile(node_version, node_key, NOW_MS).0, standing, "{node_version} {node_key:?}");
        assert_eq!(ring.versions(), versions);
        assert_eq!(ring.pending.is_some(), standing == Standing::Unpublished);
    }
}

#[test]
fn nothing_changes_when_the_node_has_the_current_key() {
    let mut ring = ring();
    assert_eq!(ring.reconcile(1, id(1), NOW_MS), (Standing::Level, false));
}

#[test]
fn a_node_that_came_back_from_a_backup_has_a_key_that_is_still_here() {
    let mut ring = ring();
    ring.begin(Planned, 1, seed(2), NOW_MS);
    assert!(ring.published(2, NOW_MS));
    assert_eq!(ring.reconcile(1, id(1), NOW_MS), (Standing::Level, false));
    // The next rotation goes on from what the node has.
    ring.begin(Planned, 1, seed(3), NOW_MS);
    assert!(ring.published(2, NOW_MS));
    assert!([1, 2, 3].into_iter().all(|number| ring.opening(id(number), NOW_MS).is_some()));
}

#[test]
fn a_key_that_waits_is_used_again_and_in_an_emergency_it_is_not() {
    let mut ring = ring();
    ring.begin(Planned, 1, seed(2), NOW_MS);
    ring.begin(Planned, 1, seed(3), NOW_MS);
    assert_eq!(ring.pending.as_ref().unwrap().key.id(), id(2));
    ring.begin(Emergency, 1, seed(4), NOW_MS);
    let pending = ring.pending.as_ref().unwrap();
    assert_eq!((pending.key.id(), pending.mode), (id(4), Emergency));
    ring.begin(Planned, 1, seed(5), NOW_MS);
    assert_eq!(ring.pending.as_ref().unwrap().mode, Emergency, "an emergency that waits stays one");
    assert!(ring.opening(id(2), NOW_MS).is_some(), "it may be what the node has");
}

#[test]
fn a_replaced_key_goes_when_its_grace_is_over_and_nothing_needed_it_lately() {
    const GRACE_MS: u64 = 3_600_000;
    let mut ring = ring();
    ring.begin(Planned, 1, seed(2), NOW_MS);
    ring.published(2, NOW_MS);
    let end_ms = NOW_MS + GRACE_MS;
    assert!(!ring.end_grace(GRACE_MS, end_ms - 1));
    assert!(ring.opening(id(1), end_ms - 1).is_some(), "one more message that was accepted in time");
    assert!(!ring.end_grace(GRACE_MS, end_ms), "more may be behind it");
    assert!(!ring.end_grace(GRACE_MS, end_ms - 2 + KEY_UNUSED_MS_MIN));
    assert!(ring.end_grace(GRACE_MS, end_ms - 1 + KEY_UNUSED_MS_MIN));
    assert!(ring.opening(id(1), end_ms).is_none());
    assert_eq!(ring.versions(), [2]);
}

#[test]
fn a_machine_that_slept_past_the_grace_period_has_time_to_open_what_came_before() {
    const GRACE_MS: u64 = 3_600_000;
    let mut ring = ring();
    ring.begin(Planned, 1, seed(2), NOW_MS);
    ring.published(2, NOW_MS);
    assert!(!ring.end_grace(GRACE_MS, NOW_MS + 1));
    let awake_ms = NOW_MS + 100 * GRACE_MS;
    assert!(!ring.end_grace(GRACE_MS, awake_ms), "nobody could receive while it slept");
    assert!(!ring.end_grace(GRACE_MS, awake_ms - 1 + KEY_UNUSED_MS_MIN));
    assert_eq!(ring.versions(), [2, 1]);
    assert!(ring.end_grace(GRACE_MS, awake_ms + KEY_UNUSED_MS_MIN));
    assert_eq!(ring.versions(), [2]);
}

#[test]
fn after_an_emergency_the_old_keys_open_what_is_on_its_way_and_no_longer() {
    let mut ring = ring();
    ring.begin(Planned, 1, seed(2), NOW_MS);
    ring.published(2, NOW_MS);
    ring.begin(Emergency, 2, seed(3), NOW_MS);
    ring.published(3, NOW_MS);
    assert!(ring.replaced.is_empty(), "none of them is saved");
    assert!(ring.opening(id(2), NOW_MS + 5).is_some());
    ring.end_grace(u64::MAX, NOW_MS + KEY_UNUSED_MS_MIN);
    assert_eq!(ring.versions(), [3, 2], "the first was not needed");
    ring.end_grace(u64::MAX, NOW_MS + 5 + KEY_UNUSED_MS_MIN);
    assert_eq!(ring.versions(), [3]);
}

#[test]
fn an_answer_to_another_version_changes_nothing() {
    let mut ring = ring();
    assert!(!ring.published(2, NOW_MS));
    ring.begin(Planned, 1, seed(2), NOW_MS);
    assert!(!ring.published(3, NOW_MS));
    assert_eq!(ring.current.id(), id(1));
}
