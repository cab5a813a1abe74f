//! One mailbox: four queues, first in first out each, and what its subscriber holds.

use std::collections::VecDeque;

use crate::cursor::Cursor;
use crate::index::Slot;
use crate::record::Priority;

/// The queues of one recipient.
#[derive(Debug, Default)]
pub(crate) struct Mailbox {
    queues: [Queue; Priority::COUNT],
    pub(crate) cursor: Cursor,
    /// Queued and durable, handed out or not.
    pub(crate) messages: u64,
    pub(crate) bytes: u64,
    /// Admitted and not durable yet.
    pub(crate) reserved_messages: u64,
    pub(crate) reserved_bytes: u64,
}

/// Messages of one priority that wait, by growing sequence.
#[derive(Debug, Default)]
struct Queue {
    /// `None`: settled while it waited.
    waiting: VecDeque<(u64, Option<Slot>)>,
    settled: usize,
}

impl Mailbox {
    pub(crate) fn is_empty(&self) -> bool {
        self.messages == 0 && self.reserved_messages == 0
    }

    pub(crate) fn push(&mut self, priority: Priority, sequence: u64, slot: Slot) {
        let queue = &mut self.queues[priority as usize];
        debug_assert!(queue.waiting.back().is_none_or(|(last, _)| *last < sequence), "sequences grow");
        queue.waiting.push_back((sequence, Some(slot)));
    }

    /// The message to hand out next: the highest priority first.
    pub(crate) fn front(&mut self) -> Option<(Priority, u64, Slot)> {
        let priorities = [Priority::Critical, Priority::High, Priority::Normal, Priority::Low];
        priorities.into_iter().find_map(|priority| {
            let (sequence, slot) = self.queues[priority as usize].front()?;
            Some((priority, sequence, slot))
        })
    }

    pub(crate) fn pop(&mut self, priority: Priority) {
        self.queues[priority as usize].waiting.pop_front();
    }

    /// Puts a message back before all that wait.
    pub(crate) fn put_back(&mut self, priority: Priority, sequence: u64, slot: Slot) {
        let queue = &mut self.queues[priority as usize];
        debug_assert!(queue.waiting.front().is_none_or(|(first, _)| *first > sequence), "what was handed out is older");
        queue.waiting.push_front((sequence, Some(slot)));
    }

    /// The message of a sequence, handed out or waiting.
    pub(crate) fn find(&self, sequence: u64) -> Option<Slot> {
        self.cursor.get(sequence).or_else(|| self.queues.iter().find_map(|queue| queue.find(sequence)))
    }

    /// Takes a message out, wherever it is.
    pub(crate) fn remove(&mut self, sequence: u64) -> Option<Slot> {
        let handed_out = self.cursor.settle(sequence);
        handed_out.or_else(|| self.queues.iter_mut().find_map(|queue| queue.settle(sequence)))
    }
}

impl Queue {
    /// The first message that still waits. What was settled before it is swept away.
    fn front(&mut self) -> Option<(u64, Slot)> {
        while let Some(&(sequence, slot)) = self.waiting.front() {
            if let Some(slot) = slot {
                return Some((sequence, slot));
            }
            self.waiting.pop_front();
            self.settled -= 1;
        }
        None
    }

    fn find(&self, sequence: u64) -> Option<Slot> {
        let at = self.waiting.binary_search_by_key(&sequence, |(sequence, _)| *sequence).ok()?;
        self.waiting[at].1
    }

    fn settle(&mut self, sequence: u64) -> Option<Slot> {
        let at = self.waiting.binary_search_by_key(&sequence, |(sequence, _)| *sequence).ok()?;
        let slot = self.waiting[at].1.take()?;
        self.settled += 1;
        // Gaps are cheaper than moving what follows, as long as they are the smaller part.
        if self.settled > 32 && self.settled > self.waiting.len() / 2 {
            self.waiting.retain(|(_, slot)| slot.is_some());
            self.settled = 0;
        }
        Some(slot)
    }
}
