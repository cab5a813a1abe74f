use proptest::prelude::*;

use super::*;

const WINDOW: Credit = Credit { messages: 4, bytes: 1_000_000 };

fn reader(is_group: bool) -> Cursor {
    let mut cursor = Cursor::new(is_group, WINDOW);
    cursor.opened(1);
    assert_eq!(cursor.take_outgoing(), (vec![], Some(WINDOW)));
    cursor
}

fn show(cursor: &mut Cursor, sequences: impl IntoIterator<Item = u64>) {
    for sequence in sequences {
        assert_eq!(cursor.arrived(sequence, 100), Arrival::Fresh);
        assert!(cursor.shown(sequence));
    }
}

#[test]
fn an_acknowledgement_is_for_a_message_and_all_that_were_shown_before() {
    let mut cursor = reader(false);
    show(&mut cursor, [3, 5, 9]);
    assert!(cursor.acknowledged(5));
    assert!(!cursor.acknowledged(3), "it was with the one behind it");
    let (acks, credit) = cursor.take_outgoing();
    assert_eq!((acks, credit), (vec![5], Some(Credit { messages: 2, bytes: 200 })));
    assert!(cursor.acknowledged(9));
    assert_eq!(cursor.take_outgoing().0, [9]);
}

#[test]
fn nothing_is_acknowledged_behind_a_message_that_could_not_be_shown_until_it_is_skipped() {
    let mut cursor = reader(false);
    show(&mut cursor, [1]);
    assert_eq!(cursor.arrived(2, 100), Arrival::Fresh);
    show(&mut cursor, [3, 4]);
    assert!(cursor.acknowledged(4));
    assert_eq!(cursor.take_outgoing(), (vec![1], Some(Credit { messages: 1, bytes: 100 })));
    assert_eq!(cursor.take_outgoing(), (vec![], None));
    assert_eq!(cursor.arrived(5, 100), Arrival::Fresh, "what was acknowledged to the node made room");
    assert_eq!(cursor.arrived(6, 100), Arrival::Overrun, "three cannot be acknowledged");
    assert!(cursor.skipped(2));
    assert_eq!(cursor.take_outgoing(), (vec![4], Some(Credit { messages: 3, bytes: 300 })));
}

#[test]
fn what_comes_again_is_hidden_and_acknowledged_again() {
    let mut cursor = reader(false);
    show(&mut cursor, [1, 2, 3]);
    cursor.acknowledged(2);
    assert_eq!(cursor.arrived(4, 100), Arrival::Fresh);
    // The stream breaks before the acknowledgement is said; 4 was not shown.
    cursor.opened(1);
    let (acks, credit) = cursor.take_outgoing();
    assert_eq!((acks, credit.unwrap().messages), (vec![2], 3), "one is in the application's hands");
    assert!(!cursor.shown(4));
    for sequence in 1..=3 {
        assert_eq!(cursor.arrived(sequence, 100), Arrival::Known);
    }
    assert_eq!(cursor.take_outgoing().0, [2]);
    assert_eq!(cursor.arrived(4, 100), Arrival::Fresh);
    assert!(cursor.shown(4) && cursor.acknowledged(4));
    assert_eq!(cursor.take_outgoing().0, [4]);
    cursor.opened(5);
    assert_eq!(cursor.take_outgoing().0, [0; 0], "the node has it");
}

#[test]
fn what_was_acknowledged_out_of_order_waits_on_a_new_stream_for_what_comes_again_before_it() {
    let mut cursor = reader(false);
    assert_eq!(cursor.arrived(1, 100), Arrival::Fresh);
    assert_eq!(cursor.arrived(2, 100), Arrival::Fresh);
    show(&mut cursor, [3]);
    cursor.acknowledged(3);
    cursor.opened(1);
    show(&mut cursor, [1]);
    cursor.acknowledged(1);
    assert_eq!(cursor.take_outgoing().0, [1], "2 has not come again yet");
    show(&mut cursor, [2]);
    cursor.acknowledged(2);
    assert_eq!(cursor.take_outgoing().0, [2]);
    assert_eq!(cursor.arrived(3, 100), Arrival::Known);
    assert_eq!(cursor.take_outgoing().0, [3]);
    // What the channel does not keep any more does not come again: what lies behind it says so.
    assert_eq!(cursor.arrived(4, 100), Arrival::Fresh);
    show(&mut cursor, [5]);
    cursor.acknowledged(5);
    cursor.opened(4);
    assert_eq!(cursor.take_outgoing().0, [0; 0]);
    show(&mut cursor, [6]);
    cursor.acknowledged(6);
    assert_eq!(cursor.take_outgoing().0, [6]);
    // What the node counts as consumed takes no room.
    show(&mut cursor, [7, 8]);
    cursor.opened(8);
    assert_eq!(cursor.take_outgoing().1.unwrap().messages, 3);
}

#[test]
fn in_a_group_each_message_is_acknowledged_by_itself() {
    let mut cursor = reader(true);
    show(&mut cursor, [1, 2, 3]);
    assert!(cursor.acknowledged(2) && !cursor.acknowledged(2));
    assert_eq!(cursor.take_outgoing(), (vec![2], Some(Credit { messages: 1, bytes: 100 })));
    cursor.opened(1);
    cursor.take_outgoing();
    assert_eq!((cursor.arrived(2, 100), cursor.arrived(3, 100)), (Arrival::Known, Arrival::Known));
    assert_eq!(cursor.take_outgoing().0, [2], "said again; 3 is in the application's hands");
    assert!(cursor.acknowledged(3));
    assert_eq!(cursor.take_outgoing().0, [3]);
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Push,
    Show(usize),
    Acknowledge(usize),
    Skip(usize),
    Say,
    Break,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => Just(Step::Push),
        4 => (0..8usize).prop_map(Step::Show),
        3 => (0..8usize).prop_map(Step::Acknowledge),
        1 => (0..8usize).prop_map(Step::Skip),
        2 => Just(Step::Say),
        1 => Just(Step::Break),
    ]
}

proptest! {
    /// A node that keeps to its credit: it is never overrun, gets all its credit back, and nothing that the application has neither
    /// acknowledged nor skipped is ever acknowledged to it.
    #[test]
    fn whatever_happens_nothing_is_acknowledged_that_was_not_and_all_credit_comes_back(
        is_group: bool,
        steps in prop::collection::vec(step(), 1..200),
    ) {
        let mut cursor = Cursor::new(is_group, WINDOW);
        let (mut done, mut consumed) = (BTreeSet::new(), 0_u64);
        let (mut credit, mut pushed) = (0_i64, Vec::<u64>::new());
        let mut settled = BTreeSet::new();
        cursor.opened(1);
        for step in steps.into_iter().chain([Step::Say]) {
            match step {
                Step::Push if credit > 0 => {
                    let next = (1..).find(|at| *at > consumed && !settled.contains(at) && !pushed.contains(at)).unwrap();
                    prop_assert_ne!(cursor.arrived(next, 10), Arrival::Overrun);
                    pushed.push(next);
                    credit -= 1;
                }
                Step::Push => {}
                Step::Show(n) => drop(pushed.get(n).map(|at| cursor.shown(*at))),
                Step::Acknowledge(n) => {
                    if let Some(at) = pushed.get(n).copied() {
                        let shown: Vec<u64> = cursor.entries.iter().filter(|(_, entry)| entry.state == State::Shown).map(|(at, _)| *at).collect();
                        if shown.contains(&at) {
                            cursor.acknowledged(at);
                            done.extend(shown.into_iter().filter(|before| *before == at || (!is_group && *before < at)));
                        }
                    }
                }
                Step::Skip(n) => {
                    if let Some(at) = pushed.get(n).copied() {
                        cursor.skipped(at);
                        done.insert(at);
                    }
                }
                Step::Say => {
                    let (acks, granted) = cursor.take_outgoing();
                    for ack in acks {
                        match is_group {
                            true => {
                                prop_assert!(done.contains(&ack));
                                settled.insert(ack);
                            }
                            false => {
                                prop_assert!((1..=ack).all(|at| done.contains(&at) || at <= consumed), "{ack}");
                                consumed = consumed.max(ack);
                            }
                        }
                    }
                    credit += granted.map_or(0, |granted| i64::from(granted.messages));
                }
                Step::Break => {
                    pushed.clear();
                    credit = 0;
                    cursor.opened(consumed + 1);
                }
            }
            prop_assert!(cursor.entries.len() <= WINDOW.messages as usize);
        }
        // At the end the application is done with all of it.
        for at in cursor.entries.keys().copied().collect::<Vec<_>>() {
            // What the last stream did not come to comes again.
            cursor.arrived(at, 10);
            cursor.skipped(at);
        }
        cursor.opened(consumed + 1);
        prop_assert_eq!(cursor.take_outgoing().1, Some(WINDOW));
    }
}
