use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]
    #[test]
    fn a_slab_holds_what_a_map_holds(ops in proptest::collection::vec((any::<u16>(), 1_u16..3_000), 1..20)) {
        let mut slab = Slab::default();
        let mut model: BTreeMap<Slot, u64> = BTreeMap::new();
        let mut next = 0;
        for (choice, count) in ops {
            for step in 0..count {
                if choice % 3 > 0 {
                    next += 1;
                    let slot = slab.insert(Held::Taken(next));
                    prop_assert!(model.insert(slot, next).is_none(), "a slot is given to one thing at a time");
                } else if let Some((&slot, _)) = model.range(Slot::from(choice.wrapping_mul(step))..).next() {
                    prop_assert_eq!(*slab.remove(slot).taken(), model.remove(&slot).unwrap());
                    prop_assert!(slab.look(slot).is_none());
                }
            }
            prop_assert_eq!(slab.len(), model.len());
            prop_assert!(model.iter().all(|(&slot, &thing)| *slab.get(slot).taken() == thing));
            let mut seen = Vec::new();
            let mut hand = Slot::from(choice);
            while seen.len() < model.len() {
                slab.sweep(&mut hand, 700, |slot, _| { seen.push(slot); true });
            }
            seen.sort_unstable();
            seen.dedup();
            prop_assert!(seen.len() <= model.len() && seen.iter().all(|slot| model.contains_key(slot)));
        }
    }
}

#[test]
fn what_a_flood_took_is_given_back() {
    let mut slab = Slab::default();
    let slots: Vec<_> = (0..100_000).map(|number| slab.insert(Held::Taken(number))).collect();
    assert!((100_000..100_000 + CHUNK_SLOTS).contains(&slab.slots()));
    for &slot in &slots[10..] {
        slab.remove(slot);
    }
    assert_eq!(slab.slots(), 2 * CHUNK_SLOTS, "the chunk that is used, and a spare one");
    // A message that comes and goes takes no memory and gives none back.
    for number in 0..3 * CHUNK_SLOTS as u64 {
        let slot = slab.insert(Held::Taken(number));
        assert_eq!(slab.slots(), 2 * CHUNK_SLOTS);
        slab.remove(slot);
    }
    let again: Vec<_> = (0..20_000).map(|number| slab.insert(Held::Taken(number))).collect();
    assert!(again.iter().all(|slot| *slot < 6 * 4_096), "chunks that were given back are used again");
}

#[test]
fn a_sweep_comes_by_every_thing_and_stops_when_told() {
    let mut slab = Slab::default();
    let slots: Vec<_> = (0..10_000).map(|number| slab.insert(Held::Taken(number))).collect();
    let (mut hand, mut seen) = (0, Vec::new());
    for _ in 0..100 {
        slab.sweep(&mut hand, slab.slots().div_ceil(100), |slot, _| {
            seen.push(slot);
            true
        });
    }
    seen.sort_unstable();
    seen.dedup();
    assert_eq!(seen, slots, "within a hundred steps of a hundredth");
    hand = 5;
    slab.sweep(&mut hand, 1_000, |slot, _| slot < 17);
    assert_eq!(hand, 18);
    Slab::<Held<u64>>::default().sweep(&mut hand, 10, |_, _| panic!("there is nothing"));
}
