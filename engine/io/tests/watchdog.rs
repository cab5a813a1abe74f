//! A shard that stops is noticed, with the reason; one that has nothing to do is not.
#![allow(clippy::unwrap_used, reason = "a test's steps fail by panicking")]

mod support;

use std::collections::VecDeque;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use creto_io::executor::DriverKind;
use creto_io::watchdog::{Stall, StallCause, Watchdog};
use creto_io::{IoAction, IoEvent, Machine, Now};
use support::judge::{Subject, judge};
use support::{Block, Node, on_each_driver};

enum Order {
    Spin(Duration),
    Sleep(Duration),
    Stop,
}

#[derive(Default)]
struct Misbehaving(VecDeque<IoAction<Order, Block>>);

impl Machine for Misbehaving {
    type Item = Order;
    type Write = Block;

    fn on_event(&mut self, _now: Now, event: IoEvent<Order>) {
        let IoEvent::Item { item, .. } = event else { return };
        match item {
            Order::Spin(time) => {
                let began = Instant::now();
                while began.elapsed() < time {
                    std::hint::spin_loop();
                }
            }
            Order::Sleep(time) => std::thread::sleep(time),
            Order::Stop => self.0.push_back(IoAction::Halt),
        }
    }

    fn on_turn(&mut self, _now: Now) {}

    fn poll_action(&mut self) -> Option<IoAction<Order, Block>> {
        self.0.pop_front()
    }

    fn next_deadline_us(&self) -> Option<u64> {
        None
    }
}

/// What the watchdog says of shard 1 when it gets `order`.
fn stalls_after(driver: DriverKind, order: Option<Order>) -> Vec<Stall> {
    let folder = tempfile::tempdir().unwrap();
    let node = Node::start(driver, folder.path(), 2, |_| Misbehaving::default());
    let (report, stalls) = mpsc::channel();
    let watchdog = Watchdog::start(node.watched(), move |stall| report.send(*stall).unwrap()).unwrap();
    std::thread::sleep(Duration::from_millis(300));
    if let Some(order) = order {
        assert!(node.shards[1].port.send_item(order).is_ok());
    }
    std::thread::sleep(Duration::from_millis(900));
    drop(watchdog);
    node.stop(|| Order::Stop);
    stalls.try_iter().collect()
}

/// The shard is stalled by `order`; somebody else may have its CPU as well.
fn check_noticed(driver: DriverKind, order: Order, causes: &[StallCause]) {
    let stalls = stalls_after(driver, Some(order));
    let mut ours = stalls.iter().filter(|stall| stall.shard_index == 1 && causes.contains(&stall.cause));
    let (Some(noticed), Some(over)) = (ours.next(), ours.next()) else { panic!("noticed and over, not {stalls:?}") };
    assert!(noticed.ongoing && noticed.lasted < Duration::from_millis(300), "{noticed:?}");
    assert!(!over.ongoing && over.lasted >= Duration::from_millis(300), "{over:?}");
}

fn a_turn_that_never_ends_is_noticed_as_running(driver: DriverKind) {
    // On a machine that others use as well it waits for its CPU between.
    check_noticed(driver, Order::Spin(Duration::from_millis(450)), &[StallCause::Running, StallCause::WaitingForCpu]);
}

fn a_shard_that_sleeps_is_noticed_as_asleep(driver: DriverKind) {
    check_noticed(driver, Order::Sleep(Duration::from_millis(450)), &[StallCause::Asleep]);
}

fn a_shard_with_nothing_to_do_is_not_stalled(driver: DriverKind) {
    let asleep = |stall: &Stall| matches!(stall.cause, StallCause::Asleep | StallCause::Running);
    let stalls = stalls_after(driver, None);
    assert!(!stalls.iter().any(asleep), "{stalls:?}");
}

fn the_soaks_judge_finds_an_artificial_stall_and_acquits_an_idle_shard(driver: DriverKind) {
    let folder = tempfile::tempdir().unwrap();
    let node = Node::start(driver, folder.path(), 2, |_| Misbehaving::default());
    let subjects = node.shards.iter().enumerate().map(|(index, shard)| {
        let progress = std::sync::Arc::clone(&shard.progress);
        Subject {
            name: format!("shard {index} turns"),
            threads: vec![(
                format!("creto-shard-{index}"),
                index % std::thread::available_parallelism().unwrap().get(),
            )],
            count: Box::new(move || progress.turns()),
            limit: Duration::from_millis(100),
        }
    });
    let port = node.shards[1].port.clone();
    let began = Instant::now();
    let mut order = Some(Order::Sleep(Duration::from_millis(400)));
    let verdicts = judge(subjects.collect(), move || {
        if began.elapsed() > Duration::from_millis(500)
            && let Some(order) = order.take()
        {
            assert!(port.send_item(order).is_ok());
        }
        began.elapsed() > Duration::from_millis(1_500)
    });
    node.stop(|| Order::Stop);
    println!("{verdicts:#?}");
    assert!(!verdicts[0].guilty(), "{:?}", verdicts[0]);
    assert!(verdicts[1].guilty(), "{:?}", verdicts[1]);
    assert!(verdicts[1].longest >= Duration::from_millis(350));
}

on_each_driver!(
    a_turn_that_never_ends_is_noticed_as_running,
    a_shard_that_sleeps_is_noticed_as_asleep,
    a_shard_with_nothing_to_do_is_not_stalled,
    the_soaks_judge_finds_an_artificial_stall_and_acquits_an_idle_shard,
);
