//! What was sent, acknowledged and delivered: written down while it happens, held against each other at the end.
//!
//! It promises that every figure of the report is counted from here. Nothing is matched while messages fly: a delivery
//! may come before its sender has written down the id.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

use creto_agent::MessageId;
use tokio::sync::watch;
use tokio::time::timeout;

/// Nothing was acknowledged or delivered for so long: whatever is missing then is missing.
const STALLED_AFTER: Duration = Duration::from_secs(30);

/// Who sends to whom: positions in the cast.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Pair {
    pub(super) from: usize,
    pub(super) to: usize,
}

/// A message that the SDK took.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sent {
    pub(super) id: MessageId,
    pub(super) pair: Pair,
    pub(super) digest: [u8; 32],
    /// When it was due; only for those whose latency counts.
    pub(super) due: Option<Instant>,
}

/// A message that reached the application.
#[derive(Clone, Copy, Debug)]
pub(super) struct Received {
    pub(super) id: MessageId,
    /// `None` when it does not come from the cast.
    pub(super) from: Option<usize>,
    pub(super) to: usize,
    pub(super) digest: [u8; 32],
    pub(super) at: Instant,
}

/// How far it is. The numbers only grow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Progress {
    pub(super) sent: u64,
    /// Acknowledged or refused.
    pub(super) answered: u64,
    pub(super) acknowledged: u64,
    /// Handed to the application, twice if twice.
    pub(super) delivered: u64,
}

/// The book that all tasks write into.
#[derive(Debug)]
pub(super) struct Book {
    pages: Mutex<Pages>,
    progress: watch::Sender<Progress>,
}

/// What is written.
#[derive(Debug, Default)]
pub(super) struct Pages {
    pub(super) sent: Vec<Sent>,
    pub(super) acknowledged: Vec<MessageId>,
    pub(super) received: Vec<Received>,
    /// What the SDK answered instead of a receipt, by its text.
    pub(super) failures: BTreeMap<String, u64>,
}

impl Book {
    pub(super) fn new() -> Self {
        Self { pages: Mutex::new(Pages::default()), progress: watch::Sender::new(Progress::default()) }
    }

    pub(super) fn pages(&self) -> MutexGuard<'_, Pages> {
        self.pages.lock().expect("no code panics while it holds this lock")
    }

    pub(super) fn sent(&self, sent: Sent) {
        self.pages().sent.push(sent);
        self.progress.send_modify(|progress| progress.sent += 1);
    }

    pub(super) fn acknowledged(&self, id: MessageId) {
        self.pages().acknowledged.push(id);
        self.progress.send_modify(|progress| {
            progress.acknowledged += 1;
            progress.answered += 1;
        });
    }

    pub(super) fn refused(&self, why: String) {
        *self.pages().failures.entry(why).or_default() += 1;
        self.progress.send_modify(|progress| progress.answered += 1);
    }

    pub(super) fn received(&self, received: Received) {
        self.pages().received.push(received);
        self.progress.send_modify(|progress| progress.delivered += 1);
    }

    pub(super) fn progress(&self) -> Progress {
        *self.progress.borrow()
    }

    /// Waits until it is so far; false when nothing moves any more.
    pub(super) async fn reach(&self, goal: impl Fn(&Progress) -> bool) -> bool {
        let mut progress = self.progress.subscribe();
        loop {
            if goal(&progress.borrow_and_update()) {
                return true;
            }
            let moved = timeout(STALLED_AFTER, progress.changed()).await;
            if !moved.is_ok_and(|moved| moved.is_ok()) {
                return false;
            }
        }
    }
}

/// What the book says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Counts {
    /// Messages that the SDK took.
    pub(super) sent: u64,
    /// Messages that the node said are durable.
    pub(super) acknowledged: u64,
    /// Messages of ours that reached an application, each once.
    pub(super) delivered: u64,
    /// Of those, messages with the content that was sent, from who sent it, at whom it was meant for.
    pub(super) verified: u64,
    /// Acknowledged and not delivered.
    pub(super) lost: u64,
    /// Deliveries to the application of what it had already.
    pub(super) delivered_twice: u64,
    /// Messages that reached an application before one that was sent to it earlier by the same agent.
    pub(super) out_of_order: u64,
    /// Deliveries of what nobody of the cast sent.
    pub(super) unknown: u64,
    /// From due to delivered, of those that have a time: ascending.
    pub(super) latencies_us: Vec<u64>,
    /// The longest time between two deliveries.
    pub(super) longest_pause: Duration,
}

impl Pages {
    /// Holds everything against each other.
    pub(super) fn count(&self) -> Counts {
        let sent: HashMap<MessageId, (usize, &Sent)> =
            self.sent.iter().enumerate().map(|(order, sent)| (sent.id, (order, sent))).collect();
        let acknowledged: HashSet<MessageId> = self.acknowledged.iter().copied().collect();
        let mut counts =
            Counts { sent: sent.len() as u64, acknowledged: acknowledged.len() as u64, ..Counts::default() };
        let mut delivered = HashSet::new();
        let mut latest: HashMap<Pair, usize> = HashMap::new();
        let mut last_at: Option<Instant> = None;
        for received in &self.received {
            let Some((order, sent)) = sent.get(&received.id) else {
                counts.unknown += 1;
                continue;
            };
            if !delivered.insert(received.id) {
                counts.delivered_twice += 1;
                continue;
            }
            let pair_holds = received.from == Some(sent.pair.from) && received.to == sent.pair.to;
            counts.verified += u64::from(pair_holds && received.digest == sent.digest);
            let latest = latest.entry(sent.pair).or_default();
            counts.out_of_order += u64::from(*order < *latest);
            *latest = (*latest).max(*order);
            if let Some(due) = sent.due {
                let latency = received.at.saturating_duration_since(due);
                counts.latencies_us.push(u64::try_from(latency.as_micros()).unwrap_or(u64::MAX));
            }
            let pause = last_at.map_or(Duration::ZERO, |last| received.at.saturating_duration_since(last));
            counts.longest_pause = counts.longest_pause.max(pause);
            last_at = last_at.max(Some(received.at));
        }
        counts.delivered = delivered.len() as u64;
        counts.lost = acknowledged.difference(&delivered).count() as u64;
        counts.latencies_us.sort_unstable();
        counts
    }
}

/// The smallest of the ascending `values` that `per_mille` of them do not exceed; `None` without values.
pub(super) fn percentile(values: &[u64], per_mille: usize) -> Option<u64> {
    let rank = (values.len() * per_mille).div_ceil(1_000).max(1);
    values.get(rank - 1).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAIR: Pair = Pair { from: 0, to: 1 };

    fn id(n: u8) -> MessageId {
        MessageId::from_parts(u64::from(n), [n; 10])
    }

    fn sent(n: u8) -> Sent {
        Sent { id: id(n), pair: PAIR, digest: [n; 32], due: None }
    }

    fn received(n: u8) -> Received {
        Received { id: id(n), from: Some(0), to: 1, digest: [n; 32], at: Instant::now() }
    }

    fn count(numbers: &[u8], acknowledged: &[u8], delivered: Vec<Received>) -> Counts {
        Pages {
            sent: numbers.iter().copied().map(sent).collect(),
            acknowledged: acknowledged.iter().copied().map(id).collect(),
            received: delivered,
            failures: BTreeMap::new(),
        }
        .count()
    }

    #[test]
    fn what_was_acknowledged_and_did_not_come_is_lost() {
        let counts = count(&[1, 2, 3], &[1, 2], vec![received(1), received(3)]);
        assert_eq!((counts.sent, counts.acknowledged, counts.delivered, counts.lost), (3, 2, 2, 1));
    }

    #[test]
    fn a_message_that_comes_twice_is_delivered_once_and_counted() {
        let counts = count(&[1, 2], &[1, 2], vec![received(1), received(2), received(1)]);
        assert_eq!((counts.delivered, counts.delivered_twice, counts.verified, counts.out_of_order), (2, 1, 2, 0));
    }

    #[test]
    fn other_bytes_another_sender_or_another_mailbox_are_not_verified() {
        let bytes = Received { digest: [9; 32], ..received(1) };
        let sender = Received { from: None, ..received(2) };
        let mailbox = Received { to: 0, ..received(3) };
        let counts = count(&[1, 2, 3, 4], &[1, 2, 3, 4], vec![bytes, sender, mailbox, received(4)]);
        assert_eq!((counts.delivered, counts.verified, counts.lost), (4, 1, 0));
    }

    #[test]
    fn what_nobody_sent_and_what_overtook_are_each_counted() {
        let counts = count(&[1, 2, 3], &[1, 2, 3], vec![received(2), received(1), received(9), received(3)]);
        assert_eq!((counts.unknown, counts.out_of_order, counts.delivered), (1, 1, 3));
    }

    #[test]
    fn percentiles_are_values_that_occurred() {
        let values: Vec<u64> = (1..=1_000).collect();
        assert_eq!([500, 990, 999, 1_000].map(|share| percentile(&values, share)), [500, 990, 999, 1_000].map(Some));
        assert_eq!(percentile(&[7], 999), Some(7));
        assert_eq!(percentile(&[], 500), None);
    }
}
