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
        assert!(cursor.queued(sequence) && cursor.shown(sequence));
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
    assert_eq!(
        (acks, credit),
        (vec![2], Some(WINDOW)),
        "what is in the application's hands comes again, and takes credit then"
    );
    assert!(!cursor.queued(4));
    for sequence in 1..=3 {
        assert_eq!(cursor.arrived(sequence, 100), Arrival::Known);
    }
    assert_eq!(cursor.take_outgoing().0, [2]);
    assert_eq!(cursor.arrived(4, 100), Arrival::Fresh);
    assert!(cursor.queued(4) && cursor.shown(4) && cursor.acknowledged(4));
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
    assert_eq!(cursor.take_outgoing().1, Some(WINDOW));
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

#[test]
fn a_window_full_of_what_the_application_holds_does_not_stop_a_new_stream() {
    let mut cursor = reader(false);
    show(&mut cursor, 1..=4);
    cursor.opened(1);
    assert_eq!(cursor.take_outgoing(), (vec![], Some(WINDOW)), "all of it comes again");
    // The application is done with it before the node has come so far.
    assert!(cursor.acknowledged(4));
    assert_eq!(cursor.take_outgoing().0, [0; 0], "the node would not know what is meant");
    for sequence in 1..=4 {
        assert_eq!(cursor.arrived(sequence, 100), Arrival::Known);
    }
    assert_eq!(cursor.take_outgoing(), (vec![4], Some(Credit { messages: 4, bytes: 400 })));
    show(&mut cursor, 5..=8);
    // As before, and while it comes again nothing new finds room.
    cursor.opened(5);
    cursor.take_outgoing();
    for sequence in 5..=8 {
        assert_eq!(cursor.arrived(sequence, 100), Arrival::Known);
    }
    assert_eq!(cursor.arrived(9, 100), Arrival::Overrun);
    assert!(cursor.acknowledged(8));
    assert_eq!(cursor.take_outgoing(), (vec![8], Some(Credit { messages: 4, bytes: 400 })));
}

#[test]
fn what_the_application_has_not_taken_is_not_acknowledged_with_what_it_has() {
    let mut cursor = reader(false);
    for sequence in [3, 6] {
        assert_eq!(cursor.arrived(sequence, 100), Arrival::Fresh);
    }
    // The key of 3 comes late: it stands behind 6 in the queue.
    assert!(cursor.queued(6) && cursor.shown(6) && cursor.queued(3));
    assert!(cursor.acknowledged(6));
    assert_eq!(cursor.take_outgoing().0, [0; 0], "nobody has seen 3");
    assert!(cursor.shown(3) && cursor.acknowledged(3));
    assert_eq!(cursor.take_outgoing().0, [6]);
}

#[test]
fn what_a_member_gives_back_is_said_and_no_acknowledgement() {
    let mut cursor = reader(true);
    show(&mut cursor, [1]);
    assert_eq!((cursor.arrived(2, 100), cursor.arrived(3, 100)), (Arrival::Fresh, Arrival::Fresh));
    assert!(cursor.given_back(2, GiveBack::Untouched) && !cursor.given_back(2, GiveBack::Untouched));
    assert!(cursor.given_back(1, GiveBack::Later { delay_ms: 7 }) && !cursor.acknowledged(1));
    assert_eq!(cursor.take_nacks(), [(2, GiveBack::Untouched), (1, GiveBack::Later { delay_ms: 7 })]);
    assert_eq!(cursor.take_outgoing(), (vec![], Some(Credit { messages: 2, bytes: 200 })));
    assert_eq!(cursor.arrived(2, 100), Arrival::Fresh, "it may come again");
    cursor.leaves();
    assert_eq!(cursor.take_nacks(), [(2, GiveBack::Untouched), (3, GiveBack::Untouched)]);
    // What was not taken when the stream broke is somebody else's.
    assert_eq!(cursor.arrived(4, 100), Arrival::Fresh);
    assert!(cursor.queued(4));
    cursor.opened(1);
    assert!(!cursor.shown(4) && !cursor.acknowledged(4));
    assert_eq!(
        (cursor.take_nacks(), cursor.take_outgoing()),
        (vec![], (vec![], Some(Credit { messages: 3, bytes: 999_900 })))
    );
    // A subscriber of its own has nobody to give to.
    let mut alone = reader(false);
    show(&mut alone, [1]);
    assert!(!alone.given_back(1, GiveBack::Untouched));
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Push,
    Queue(usize),
    Take,
    Acknowledge(usize),
    Skip(usize),
    GiveBack(usize),
    Expire,
    Say,
    Break,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        5 => Just(Step::Push),
        4 => (0..8usize).prop_map(Step::Queue),
        4 => Just(Step::Take),
        3 => (0..8usize).prop_map(Step::Acknowledge),
        1 => (0..8usize).prop_map(Step::Skip),
        1 => (0..8usize).prop_map(Step::GiveBack),
        1 => Just(Step::Expire),
        3 => Just(Step::Say),
        1 => Just(Step::Break),
    ]
}

/// A node, what presents, and an application, none of which looks into the cursor.
#[derive(Debug)]
struct World {
    cursor: Cursor,
    is_group: bool,
    // The node's.
    credit: i64,
    consumed: u64,
    /// Without a group: the last one that it handed out on this stream.
    pushed: u64,
    /// What it does not keep any more.
    expired: u64,
    in_hand: BTreeSet<u64>,
    settled: BTreeSet<u64>,
    // Ours.
    hidden: BTreeSet<u64>,
    queue: VecDeque<u64>,
    held: BTreeSet<u64>,
    done: BTreeSet<u64>,
}

impl World {
    fn new(is_group: bool) -> Self {
        let mut world = Self {
            cursor: Cursor::new(is_group, WINDOW),
            is_group,
            credit: 0,
            consumed: 0,
            pushed: 0,
            expired: 0,
            in_hand: BTreeSet::new(),
            settled: BTreeSet::new(),
            hidden: BTreeSet::new(),
            queue: VecDeque::new(),
            held: BTreeSet::new(),
            done: BTreeSet::new(),
        };
        world.reopen();
        world
    }

    fn reopen(&mut self) {
        self.credit = 0;
        self.pushed = self.consumed;
        self.in_hand.clear();
        self.hidden.clear();
        self.cursor.opened(self.consumed + 1);
    }

    fn step(&mut self, step: Step) {
        let nth = |set: &BTreeSet<u64>, n: usize| set.iter().nth(n).copied();
        match step {
            Step::Push if self.credit > 0 => {
                self.credit -= 1;
                let next = match self.is_group {
                    true => (self.expired + 1..)
                        .find(|at| !self.settled.contains(at) && !self.in_hand.contains(at))
                        .unwrap(),
                    false => self.pushed.max(self.expired) + 1,
                };
                self.pushed = next;
                self.in_hand.insert(next);
                match self.cursor.arrived(next, 10) {
                    Arrival::Fresh => assert!(self.hidden.insert(next)),
                    Arrival::Known => {}
                    Arrival::Overrun => panic!("{next} came with credit"),
                }
            }
            Step::Push => {}
            Step::Queue(n) => {
                if let Some(at) = nth(&self.hidden, n) {
                    self.hidden.remove(&at);
                    if self.cursor.queued(at) {
                        self.queue.push_back(at);
                    }
                }
            }
            Step::Take => {
                if let Some(at) = self.queue.pop_front()
                    && self.cursor.shown(at)
                {
                    self.held.insert(at);
                }
            }
            Step::Acknowledge(n) => {
                if let Some(at) = nth(&self.held, n) {
                    self.cursor.acknowledged(at);
                    let of: BTreeSet<u64> =
                        self.held.iter().copied().filter(|held| *held == at || !self.is_group && *held < at).collect();
                    self.held.retain(|held| !of.contains(held));
                    self.done.extend(of);
                }
            }
            Step::Skip(n) => {
                if let Some(at) = nth(&self.hidden, n) {
                    assert!(self.cursor.skipped(at));
                    self.hidden.remove(&at);
                    self.done.insert(at);
                }
            }
            Step::GiveBack(n) if self.is_group => {
                if let Some(at) = nth(&self.hidden, n) {
                    assert!(self.cursor.given_back(at, GiveBack::Untouched));
                    self.hidden.remove(&at);
                }
            }
            Step::GiveBack(_) => {}
            Step::Expire => self.expired = self.expired.max(self.pushed).max(self.consumed) + 1,
            Step::Say => {
                for (at, _) in self.cursor.take_nacks() {
                    assert!(self.in_hand.remove(&at), "{at} is in this hand");
                }
                let (acks, granted) = self.cursor.take_outgoing();
                for ack in acks {
                    match self.is_group {
                        true => {
                            assert!(self.done.contains(&ack));
                            // What it does not have in hand the node leaves out.
                            if self.in_hand.remove(&ack) {
                                self.settled.insert(ack);
                            }
                        }
                        false => {
                            let is_over = |at: &u64| self.done.contains(at) || *at <= self.consumed.max(self.expired);
                            assert!((1..=ack).all(|at| is_over(&at)), "{ack}");
                            self.consumed = self.consumed.max(ack);
                            // What it hears of it does not hand out again.
                            self.pushed = self.pushed.max(ack);
                        }
                    }
                }
                self.credit += granted.map_or(0, |granted| i64::from(granted.messages));
                assert!(self.credit <= i64::from(WINDOW.messages));
            }
            Step::Break => self.reopen(),
        }
        let window = WINDOW.messages as usize;
        assert!(self.hidden.len() <= window && self.queue.len() <= 2 * window, "what is kept is bounded");
    }
}

proptest! {
    /// A node that keeps to its credit is never overrun, nothing is acknowledged to it that the application has not acknowledged or
    /// skipped, and once the application is done with all that it has more comes.
    #[test]
    fn whatever_happens_nothing_is_acknowledged_that_was_not_and_more_comes_in_the_end(
        is_group: bool,
        steps in prop::collection::vec(step(), 1..200),
    ) {
        let mut world = World::new(is_group);
        steps.into_iter().for_each(|step| world.step(step));
        let so_far = world.pushed.max(world.expired) + 1;
        for _ in 0..12 {
            (0..8).for_each(|_| world.step(Step::Push));
            (0..8).for_each(|_| world.step(Step::Queue(0)));
            (0..16).for_each(|_| world.step(Step::Take));
            (0..16).for_each(|_| world.step(Step::Acknowledge(0)));
            world.step(Step::Say);
        }
        match is_group {
            true => prop_assert!(world.settled.contains(&so_far), "{world:?}"),
            false => prop_assert!(world.consumed > so_far, "{world:?}"),
        }
    }
}
