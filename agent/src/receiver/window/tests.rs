use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;

fn agent(n: u8) -> AgentId {
    AgentId([n; 16])
}

fn message(n: u8) -> MessageId {
    MessageId::from_parts(u64::from(n), [n; 10])
}

fn place(mailbox_sequence: u64, stream: u64) -> Place {
    Place { mailbox_sequence, stream }
}

#[test]
fn an_acknowledged_message_that_comes_again_is_hidden() {
    let mut window = Window::new(8, 64);
    assert_eq!(window.arrived(agent(1), message(1), place(5, 1)), Arrival::Fresh);
    assert_eq!(window.acknowledged(agent(1), message(1)), Some(place(5, 1)));
    assert_eq!(window.acknowledged(agent(1), message(1)), None, "once is enough");
    assert_eq!(window.arrived(agent(1), message(1), place(5, 2)), Arrival::Settled);
}

#[test]
fn a_message_that_is_held_over_a_reconnect_is_hidden_and_acknowledged_where_it_came_last() {
    let mut window = Window::new(8, 64);
    window.arrived(agent(1), message(1), place(5, 1));
    assert_eq!(window.arrived(agent(1), message(1), place(9, 2)), Arrival::Held);
    assert_eq!(window.acknowledged(agent(1), message(1)), Some(place(9, 2)));
}

#[test]
fn a_message_that_is_refused_is_shown_once_for_each_time_that_it_comes_and_refused_where_it_came_last() {
    let mut window = Window::new(8, 64);
    for attempt in 0..3 {
        assert_eq!(window.arrived(agent(1), message(1), place(5, attempt)), Arrival::Fresh);
        assert_eq!(window.arrived(agent(1), message(1), place(5, attempt + 10)), Arrival::Held, "a reconnect");
        assert_eq!(window.released(agent(1), message(1)), Some(place(5, attempt + 10)));
        assert_eq!(window.released(agent(1), message(1)), None, "once is enough");
    }
    window.arrived(agent(1), message(1), place(5, 9));
    window.acknowledged(agent(1), message(1));
    assert_eq!(window.released(agent(1), message(1)), None, "what is acknowledged is not refused");
}

#[test]
fn a_message_that_was_dropped_is_shown_again() {
    let mut window = Window::new(8, 64);
    window.arrived(agent(1), message(1), place(5, 1));
    window.released(agent(1), message(1));
    assert_eq!(window.remembered(), 0);
    assert_eq!(window.arrived(agent(1), message(1), place(5, 2)), Arrival::Fresh);
}

#[test]
fn the_same_id_from_another_sender_is_another_message() {
    let mut window = Window::new(8, 64);
    window.arrived(agent(1), message(1), place(1, 1));
    assert_eq!(window.arrived(agent(2), message(1), place(2, 1)), Arrival::Fresh);
}

#[test]
fn a_noisy_sender_pushes_out_its_own_ids_only() {
    let mut window = Window::new(4, 64);
    window.arrived(agent(1), message(1), place(1, 1));
    window.acknowledged(agent(1), message(1));
    for n in 0..100 {
        window.arrived(agent(2), message(n), place(u64::from(n), 1));
        window.acknowledged(agent(2), message(n));
    }
    assert_eq!(window.arrived(agent(1), message(1), place(1, 2)), Arrival::Settled);
    assert_eq!(window.remembered(), 5);
}

#[derive(Clone, Debug)]
enum Step {
    Arrive(u8, u8),
    Acknowledge(u8, u8),
    Release(u8, u8),
}

fn step() -> impl Strategy<Value = Step> {
    (0u8..3, 0u8..4, 0u8..12).prop_map(|(what, from, id)| match what {
        0 => Step::Arrive(from, id),
        1 => Step::Acknowledge(from, id),
        _ => Step::Release(from, id),
    })
}

proptest! {
    /// The model remembers everything, so the window may differ from it only by forgetting settled ids.
    #[test]
    fn the_window_agrees_with_a_memory_without_bounds_until_a_bound_is_reached(
        steps in prop::collection::vec(step(), 0..200),
        bounded: bool,
    ) {
        let (per_sender, all) = if bounded { (3, 6) } else { (1_000, 1_000) };
        let mut window = Window::new(per_sender, all);
        let mut held: BTreeMap<(u8, u8), Place> = BTreeMap::new();
        let mut settled: BTreeSet<(u8, u8)> = BTreeSet::new();
        for (sequence, step) in (0..).zip(steps) {
            match step {
                Step::Arrive(from, id) => {
                    let here = place(sequence, 1);
                    let arrival = window.arrived(agent(from), message(id), here);
                    if held.contains_key(&(from, id)) {
                        prop_assert_eq!(arrival, Arrival::Held);
                    } else if settled.contains(&(from, id)) && (!bounded || arrival == Arrival::Settled) {
                        prop_assert_eq!(arrival, Arrival::Settled);
                        continue;
                    } else {
                        prop_assert_eq!(arrival, Arrival::Fresh);
                        settled.remove(&(from, id));
                    }
                    held.insert((from, id), here);
                }
                Step::Acknowledge(from, id) => {
                    let expected = held.remove(&(from, id));
                    if expected.is_some() {
                        settled.insert((from, id));
                    }
                    prop_assert_eq!(window.acknowledged(agent(from), message(id)), expected);
                }
                Step::Release(from, id) => {
                    held.remove(&(from, id));
                    window.released(agent(from), message(id));
                }
            }
            if bounded {
                prop_assert!(window.settled <= all && window.remembered() == window.settled + held.len());
            }
            prop_assert_eq!(window.by_use.len(), window.senders.len());
        }
    }
}
