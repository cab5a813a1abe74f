//! Rings between threads: nothing lost, nothing reordered, nobody left asleep.
#![allow(clippy::unwrap_used, reason = "a test's steps fail by panicking")]

mod support;

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use creto_io::executor::DriverKind;
use creto_io::ring::mesh;
use creto_io::{IoAction, IoEvent, Machine, Now, Source};
use support::{Block, Node};

#[test]
fn items_arrive_in_order_and_a_full_ring_says_so_and_says_when_it_is_not() {
    let mut ports = mesh::<u32>(3, 4);
    let mut third = ports.pop().unwrap();
    let mut second = ports.pop().unwrap();
    for n in 0..4 {
        second.push(2, n).unwrap();
    }
    assert_eq!(second.push(2, 4), Err(4), "the fifth of four");
    assert_eq!(second.push(0, 9), Ok(()), "another ring is another matter");
    assert_eq!(second.poll_room(), None);
    let mut got = Vec::new();
    assert_eq!(third.drain(3, |source, item| got.push((source, item))), 3);
    assert_eq!(got, [0, 1, 2].map(|n| (Source::Shard(1), n)));
    assert_eq!(second.poll_room(), Some(2));
    assert_eq!(second.poll_room(), None, "said once");
    assert!(third.has_incoming() && !second.has_incoming());

    second.push(2, 4).unwrap();
    second.push(2, 5).unwrap();
    assert_eq!(second.push_if_roomy(2, 6), Err(6), "three of four are taken: no room for what may be dropped");
    second.push(2, 7).unwrap();

    let control = third.control_port();
    control.send(77).unwrap();
    got.clear();
    third.drain(9, |source, item| got.push((source, item)));
    let items: Vec<_> = got.iter().map(|(_, item)| *item).collect();
    assert_eq!(items, [3, 4, 5, 7, 77]);
    assert_eq!(got[4].0, Source::Control);
}

/// Keeps `balls` balls in the air between two shards, and counts.
struct PingPong {
    peer: u16,
    serve: u64,
    backlog: VecDeque<u64>,
    blocked: bool,
    actions: VecDeque<IoAction<u64, Block>>,
    caught: Arc<AtomicU64>,
}

const STOP: u64 = u64::MAX;

impl Machine for PingPong {
    type Item = u64;
    type Write = Block;

    fn on_event(&mut self, _now: Now, event: IoEvent<u64>) {
        match event {
            IoEvent::Item { item: STOP, .. } => self.actions.push_back(IoAction::Halt),
            IoEvent::Item { source: Source::Control, item } => self.serve = item,
            IoEvent::Item { item, .. } => {
                self.caught.fetch_add(1, Ordering::Relaxed);
                self.backlog.push_back(item + 1);
            }
            IoEvent::RingFull { item, .. } => {
                self.blocked = true;
                self.backlog.push_front(item);
            }
            IoEvent::RingRoom { to } => {
                assert_eq!(to, self.peer);
                self.blocked = false;
            }
            _ => {}
        }
    }

    fn on_turn(&mut self, _now: Now) {
        self.backlog.extend(std::iter::repeat_n(0, usize::try_from(std::mem::take(&mut self.serve)).unwrap()));
        // One at a time while blocked answers come back: order does not matter here, loss does.
        while let Some(item) = if self.blocked { None } else { self.backlog.pop_front() } {
            self.actions.push_back(IoAction::SendItem { to: self.peer, item });
        }
    }

    fn poll_action(&mut self) -> Option<IoAction<u64, Block>> {
        self.actions.pop_front()
    }

    fn next_deadline_us(&self) -> Option<u64> {
        None
    }
}

/// Plays for a while; balls caught per second.
fn play(driver: DriverKind, balls: u64, seconds: f64) -> f64 {
    let folder = tempfile::tempdir().unwrap();
    let caught = Arc::<AtomicU64>::default();
    let node = Node::start(driver, folder.path(), 2, |index| PingPong {
        peer: 1 - index,
        serve: 0,
        backlog: VecDeque::new(),
        blocked: false,
        actions: VecDeque::new(),
        caught: Arc::clone(&caught),
    });
    node.shards[0].port.send_item(balls).unwrap();
    let began = Instant::now();
    let (mut seen, mut still) = (0, Instant::now());
    while began.elapsed().as_secs_f64() < seconds {
        std::thread::sleep(Duration::from_millis(20));
        let now = caught.load(Ordering::Relaxed);
        if now != seen {
            (seen, still) = (now, Instant::now());
        }
        assert!(still.elapsed() < Duration::from_secs(2), "the game of {balls} balls stopped at {seen}");
    }
    let rate = caught.load(Ordering::Relaxed) as f64 / began.elapsed().as_secs_f64();
    node.stop(|| STOP);
    rate
}

#[test]
fn one_ball_never_stops_although_its_receiver_sleeps_each_time() {
    for driver in DriverKind::ALL {
        let rate = play(driver, 1, 2.0);
        println!("{driver:?}, one ball: {rate:.0} catches/s, {:.1} us each way", 1e6 / rate);
        // A lost wake-up costs the 50 ms until the parked shard looks by itself: if they were lost there would be 20 to 40.
        assert!(rate > 150.0, "{driver:?}: {rate:.0} catches/s");
    }
}

#[test]
fn more_balls_than_the_rings_hold_are_neither_lost_nor_stuck() {
    for driver in DriverKind::ALL {
        let rate = play(driver, 5_000, 1.5);
        println!("{driver:?}, 5,000 balls through rings of 1,024: {rate:.0} catches/s, {:.0} ns each", 1e9 / rate);
        assert!(rate > 20_000.0, "{driver:?}: {rate:.0} catches/s");
    }
}
