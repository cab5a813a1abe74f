use std::collections::BTreeMap;

use super::*;

fn check(sequences: impl Iterator<Item = u64> + Clone) {
    let (mut table, mut known, mut slots) = (Sequences::default(), BTreeMap::new(), Vec::new());
    for sequence in sequences.clone() {
        let slot = Slot::try_from(slots.len()).unwrap();
        slots.push(sequence);
        table.insert(sequence, slot, |slot| slots[slot as usize]);
        known.insert(sequence, slot);
    }
    for (&sequence, &slot) in &known {
        assert_eq!(table.find(sequence, |slot| slots[slot as usize]), Some(slot));
    }
    for sequence in sequences.clone().step_by(2) {
        table.remove(sequence, known[&sequence], |slot| slots[slot as usize]);
        known.remove(&sequence);
    }
    for sequence in sequences {
        assert_eq!(table.find(sequence, |slot| slots[slot as usize]), known.get(&sequence).copied());
    }
}

#[test]
fn what_was_put_in_is_found_until_it_is_taken_out() {
    check(1..200_000);
    check((0..50_000).map(|number| number * 4_096 + 17));
    check((0..50_000).map(|number| u64::MAX - number * number));
}

#[test]
fn parts_grow_one_after_the_other() {
    let mut table = Sequences::default();
    let mut bytes = Vec::new();
    for sequence in 0..2_000_000_u64 {
        table.insert(sequence, Slot::try_from(sequence).unwrap(), u64::from);
        if sequence > 200_000 && sequence % 50_000 == 0 {
            bytes.push(table.memory_bytes() as f64 / sequence as f64);
        }
    }
    println!("{bytes:.1?}");
    assert!(
        bytes.iter().all(|bytes| (6.5..10.0).contains(bytes)),
        "no moment at which all are half empty: {bytes:.1?}"
    );
}

#[test]
fn a_table_that_emptied_takes_little() {
    let mut table = Sequences::default();
    for sequence in 0..500_000_u64 {
        table.insert(sequence, Slot::try_from(sequence).unwrap(), u64::from);
    }
    for sequence in 1_000..500_000_u64 {
        table.remove(sequence, Slot::try_from(sequence).unwrap(), u64::from);
    }
    assert!(table.memory_bytes() < 1_000_000, "{}", table.memory_bytes());
    assert!((0..1_000).all(|sequence| table.find(sequence, u64::from).is_some()));
}
