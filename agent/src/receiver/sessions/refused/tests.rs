use super::*;

fn at(sender: u8, counter: u64) -> SessionUse {
    SessionUse { key: (AgentId([sender; 16]), [1; 16]), counter }
}

/// Which of these counters of a sender are there.
fn there(keys: &RefusedKeys, sender: u8, counters: std::ops::Range<u64>) -> Vec<u64> {
    counters.filter(|counter| keys.get(at(sender, *counter)).is_some()).collect()
}

#[test]
fn above_a_bound_the_oldest_go_of_whoever_is_above_it() {
    let mut keys = RefusedKeys::new(3, 5);
    for counter in 0..2 {
        keys.keep(at(2, counter), &[2; 32], 0, 0);
    }
    for counter in 0..4 {
        keys.keep(at(1, counter), &[1; 32], 0, 0);
    }
    // Again: it keeps its place.
    keys.keep(at(1, 1), &[1; 32], 0, 0);
    assert_eq!((there(&keys, 1, 0..9), there(&keys, 2, 0..9)), (vec![1, 2, 3], vec![0, 1]));
    keys.keep(at(3, 0), &[3; 32], 0, 0);
    assert_eq!((there(&keys, 1, 0..9), there(&keys, 2, 0..9)), (vec![2, 3], vec![0, 1]), "whoever has most pays");
    assert_eq!((keys.of.len(), keys.counts.total), (5, 5));
    assert_eq!(keys.senders.values().map(BTreeMap::len).sum::<usize>(), 5);
}

#[test]
fn a_key_goes_when_its_message_is_done_deleted_or_older_than_any_mailbox_keeps() {
    let day_ms = 86_400_000;
    let mut keys = RefusedKeys::new(9, 9);
    keys.expire(0);
    for counter in 0..4 {
        keys.keep(at(1, counter), &[1; 32], 100 + counter, counter * day_ms);
    }
    keys.remove(at(1, 3));
    assert_eq!(keys.purge(&HashSet::from([102, 555])), [at(1, 2)]);
    assert_eq!(there(&keys, 1, 0..4), [0, 1]);
    keys.expire(32 * day_ms);
    assert_eq!(
        there(&keys, 1, 0..4),
        [0, 1],
        "a mailbox keeps a message for 30 days, one that opens a session 25 hours longer"
    );
    keys.expire(32 * day_ms + 1);
    assert_eq!(there(&keys, 1, 0..4), [0, 1], "it looks once an hour");
    keys.expire(33 * day_ms);
    assert_eq!(there(&keys, 1, 0..4), [1]);
    keys.settle(at(1, 1));
    assert!(keys.get(at(1, 1)).unwrap().key.is_none(), "that it is done stays");
    let mut changes = keys.take_changes();
    changes.sort_by_key(|(at, _)| at.counter);
    assert_eq!(
        changes.iter().map(|(at, now)| (at.counter, now.is_some())).collect::<Vec<_>>(),
        [(0, false), (1, true), (2, false), (3, false)]
    );
    assert!(keys.take_changes().is_empty());
    keys.take_back(changes);
    assert_eq!(keys.take_changes().len(), 4);
}
