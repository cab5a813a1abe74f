//! Virtual time: what is to happen, in order. Nothing here waits; the next step is always now.

use std::cmp::Ordering;
use std::collections::BinaryHeap;

use creto_shard::Now;

/// The wall clock at the start of every run, Unix milliseconds.
pub const START_MS: u64 = 1_700_000_000_000;

/// The time of a run and everything that is due in it.
#[derive(Debug)]
pub(crate) struct Clock<T> {
    now_us: u64,
    /// What the node's wall clock is ahead of (or behind) true time: operators and NTP move it.
    wall_skew_ms: i64,
    set_us: Option<u64>,
    next_order: u64,
    due: BinaryHeap<Due<T>>,
}

#[derive(Debug)]
struct Due<T> {
    at_us: u64,
    order: u64,
    step: T,
}

impl<T> Clock<T> {
    pub(crate) fn new() -> Self {
        Self { now_us: 0, wall_skew_ms: 0, set_us: None, next_order: 0, due: BinaryHeap::new() }
    }

    pub(crate) fn now_us(&self) -> u64 {
        self.now_us
    }

    /// The time as the node's clocks show it.
    pub(crate) fn now(&self) -> Now {
        let unix_ms = (START_MS + self.now_us / 1_000).saturating_add_signed(self.wall_skew_ms);
        Now { unix_ms, monotonic_us: self.now_us }
    }

    pub(crate) fn set_wall_skew_ms(&mut self, skew_ms: i64) {
        (self.wall_skew_ms, self.set_us) = (skew_ms, Some(self.now_us));
    }

    /// Whether somebody set the wall clock just now.
    pub(crate) fn was_set_within(&self, past_us: u64) -> bool {
        self.set_us.is_some_and(|set_us| set_us + past_us >= self.now_us)
    }

    /// Sets the wall clock to this time, if it is behind.
    pub(crate) fn catch_up(&mut self, unix_ms: u64) {
        let behind_ms = unix_ms.saturating_sub(self.now().unix_ms);
        self.set_wall_skew_ms(self.wall_skew_ms + i64::try_from(behind_ms).expect("clocks jump by seconds"));
    }

    pub(crate) fn after(&mut self, delay_us: u64, step: T) {
        self.at(self.now_us + delay_us, step);
    }

    /// Steps of the same moment happen in the order in which they were asked for.
    pub(crate) fn at(&mut self, at_us: u64, step: T) {
        assert!(at_us >= self.now_us, "nothing is due in the past");
        self.due.push(Due { at_us, order: self.next_order, step });
        self.next_order += 1;
    }

    /// Goes to the next step's time and takes it.
    pub(crate) fn next(&mut self) -> Option<T> {
        let due = self.due.pop()?;
        self.now_us = due.at_us;
        Some(due.step)
    }
}

impl<T> PartialEq for Due<T> {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl<T> Eq for Due<T> {}

impl<T> PartialOrd for Due<T> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<T> Ord for Due<T> {
    /// The heap gives its largest first, so the earliest is the largest.
    fn cmp(&self, other: &Self) -> Ordering {
        (other.at_us, other.order).cmp(&(self.at_us, self.order))
    }
}
