//! What all tasks of a run share, and what was found so far.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use creto_agent::{AgentId, Priority, SendError};
use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

use crate::arrival::{Planned, Way, Workload};
use crate::limits::SERIES_ROWS_MAX;
use crate::measure::{Metric, latencies, record};
use crate::options::micros;
use crate::payload::{Mark, Payloads};
use crate::tally::Tally;

/// Texts of failures that are kept, each once.
const FAILURES_KEPT: usize = 8;

/// What became of a message, as its sender knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Told {
    /// It is durable; of a request: it is answered.
    Done,
    /// The node refused it, with this code.
    Refused(u16),
    /// The connection broke, or the answer did not come.
    Unknown,
}

impl Told {
    pub(crate) fn of_send(error: &SendError) -> Self {
        match error {
            SendError::RefusedWith { code, .. } => Self::Refused(*code),
            SendError::Unknown { .. } | SendError::TimedOut { .. } => Self::Unknown,
            error => error.code().map_or(Self::Unknown, |code| Self::Refused(code.as_u16())),
        }
    }
}

/// What all tasks of a run share.
#[derive(Debug)]
pub(crate) struct Run {
    pub(crate) workload: Arc<Workload>,
    pub(crate) start: Instant,
    pub(crate) warmup_us: u64,
    pub(crate) payloads: Payloads,
    pub(crate) keeps_ledger: bool,
    /// Those that send, lane by lane.
    sender_ids: Vec<AgentId>,
    /// How many channels there are; a lane publishes in the one at its place.
    channels: usize,
    receivers: usize,
    pub(crate) submitted: AtomicU64,
    found: Mutex<Found>,
}

/// What was found so far.
#[derive(Debug)]
pub(crate) struct Found {
    pub(crate) tally: Tally,
    pub(crate) refused: BTreeMap<u16, u64>,
    pub(crate) unknown: u64,
    pub(crate) durable: Metric,
    pub(crate) delivered: Metric,
    pub(crate) settled: Metric,
    pub(crate) late: Histogram<u64>,
    /// Of the messages that were due after the warm-up.
    pub(crate) measured: Measured,
    pub(crate) sent_by_second: Counts,
    pub(crate) acknowledged_by_second: Counts,
    /// All that were settled, and deliveries whose settling is not measured.
    pub(crate) settled_count: u64,
    pub(crate) unmeasured: u64,
    /// When the last delivery came, after the start.
    pub(crate) last_delivery: Duration,
    /// Times that an agent left and came back.
    pub(crate) came_back: u64,
    /// What receivers and subscribers ended with, each text once.
    pub(crate) failures: Vec<String>,
}

/// Counts of what was due after the warm-up.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Measured {
    pub(crate) sent: u64,
    pub(crate) acknowledged: u64,
    /// To those that messages are for alone.
    pub(crate) delivered: u64,
    /// Of what was published, for each subscriber of a channel.
    pub(crate) read: Vec<u64>,
    /// The last acknowledgement, after the start.
    pub(crate) last_acknowledged_us: u64,
}

impl Measured {
    /// Messages that everybody has whom they are for.
    pub(crate) fn delivered_messages(&self) -> u64 {
        self.delivered + self.read.iter().min().copied().unwrap_or(0)
    }

    pub(crate) fn deliveries(&self) -> u64 {
        self.delivered + self.read.iter().sum::<u64>()
    }

    /// Of two processes together.
    pub(crate) fn add_all(&mut self, others: &Self) {
        self.sent += others.sent;
        self.acknowledged += others.acknowledged;
        self.delivered += others.delivered;
        self.last_acknowledged_us = self.last_acknowledged_us.max(others.last_acknowledged_us);
        if others.read.len() > self.read.len() {
            self.read.resize(others.read.len(), 0);
        }
        self.read.iter_mut().zip(&others.read).for_each(|(count, other)| *count += other);
    }
}

/// How often something was in each second.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Counts(pub(crate) Vec<u64>);

impl Counts {
    fn add(&mut self, at_us: u64) {
        let second = usize::try_from(at_us / 1_000_000).unwrap_or(usize::MAX);
        if second >= SERIES_ROWS_MAX {
            return;
        }
        if second >= self.0.len() {
            self.0.resize(second + 1, 0);
        }
        self.0[second] += 1;
    }

    /// Of two processes together.
    pub(crate) fn add_all(&mut self, others: &Self) {
        if others.0.len() > self.0.len() {
            self.0.resize(others.0.len(), 0);
        }
        self.0.iter_mut().zip(&others.0).for_each(|(count, other)| *count += other);
    }
}

/// What a run is made of.
#[derive(Debug)]
pub(crate) struct Parts {
    pub(crate) workload: Arc<Workload>,
    pub(crate) start: Instant,
    pub(crate) warmup_us: u64,
    pub(crate) numbers_below: u64,
    pub(crate) keeps_ledger: bool,
    pub(crate) sender_ids: Vec<AgentId>,
    pub(crate) channels: usize,
    pub(crate) receivers: usize,
    /// Of each channel.
    pub(crate) subscribers: usize,
}

impl Found {
    fn new(numbers_below: u64, subscribers: usize) -> Self {
        Self {
            tally: Tally::new(numbers_below, subscribers),
            refused: BTreeMap::new(),
            unknown: 0,
            durable: Metric::new(),
            delivered: Metric::new(),
            settled: Metric::new(),
            late: latencies(),
            measured: Measured { read: vec![0; subscribers], ..Measured::default() },
            sent_by_second: Counts::default(),
            acknowledged_by_second: Counts::default(),
            settled_count: 0,
            unmeasured: 0,
            last_delivery: Duration::ZERO,
            came_back: 0,
            failures: Vec::new(),
        }
    }
}

impl Run {
    pub(crate) fn new(parts: Parts) -> Self {
        let Parts { workload, start, warmup_us, numbers_below, keeps_ledger, .. } = parts;
        Self {
            payloads: Payloads::up_to(workload.sizes.bytes_max()),
            workload,
            start,
            warmup_us,
            keeps_ledger,
            sender_ids: parts.sender_ids,
            channels: parts.channels,
            receivers: parts.receivers,
            submitted: AtomicU64::new(0),
            found: Mutex::new(Found::new(numbers_below, parts.subscribers)),
        }
    }

    pub(crate) fn found(&self) -> MutexGuard<'_, Found> {
        self.found.lock().expect("no code panics while it holds this lock")
    }

    /// Everything that was found. Tasks that still end find nothing more that anybody looks at.
    pub(crate) fn take_found(&self) -> Found {
        let mut found = self.found();
        // Of the same bounds: they may still count.
        let empty = Found::new(found.tally.numbers_below(), found.measured.read.len());
        std::mem::replace(&mut *found, empty)
    }

    pub(crate) fn in_bounds(&self, number: u64) -> bool {
        self.found().tally.in_bounds(number)
    }

    fn counts(&self, due_us: u64) -> bool {
        due_us >= self.warmup_us
    }

    /// A message is about to be handed to the SDK, so much later than the generator could have done it.
    pub(crate) fn handed_over(&self, planned: &Planned, now_us: u64, late_us: Option<u64>) {
        self.submitted.fetch_add(1, Ordering::Relaxed);
        let counts = self.counts(planned.due_us);
        let mut found = self.found();
        found.sent_by_second.add(now_us);
        if counts {
            found.measured.sent += 1;
            if let Some(late_us) = late_us {
                record(&mut found.late, Duration::from_micros(late_us));
            }
        }
    }

    /// The node says that a message is durable. It does not count before [`answered`](Self::answered).
    pub(crate) fn durable(&self, planned: &Planned) {
        let at = self.start.elapsed();
        let latency = at.saturating_sub(Duration::from_micros(planned.due_us));
        let counts = self.counts(planned.due_us);
        self.found().durable.record(at, latency, counts);
    }

    pub(crate) fn answered(&self, planned: &Planned, told: Told) {
        match told {
            Told::Done => self.acknowledged(planned.number, planned.due_us, planned.way),
            Told::Refused(code) => *self.found().refused.entry(code).or_default() += 1,
            Told::Unknown => self.found().unknown += 1,
        }
        if told == Told::Done && planned.way == Way::Request {
            self.settled(&[planned.due_us]);
        }
    }

    fn acknowledged(&self, number: u64, due_us: u64, way: Way) {
        let now_us = micros(self.start.elapsed());
        let counts = self.counts(due_us);
        let mut found = self.found();
        match way {
            Way::Direct | Way::Request => found.tally.acknowledged.insert(number),
            Way::Publish => found.tally.published.insert(number),
        };
        found.acknowledged_by_second.add(now_us);
        if counts {
            found.measured.acknowledged += 1;
            found.measured.last_acknowledged_us = found.measured.last_acknowledged_us.max(now_us);
        }
    }

    /// What a delivery says of itself, if it is of this run and from whom it says, where the system tells from whom it is.
    pub(crate) fn mark_of(&self, payload: &[u8], from: Option<AgentId>) -> Option<Mark> {
        let mark = self.payloads.read(payload)?;
        let sender = self.sender_of(mark.number)?;
        let is_its = from.is_none_or(|from| self.sender_ids.get(sender) == Some(&from));
        (self.in_bounds(mark.number) && is_its).then_some(mark)
    }

    /// Whether the sender of a message publishes in this channel.
    pub(crate) fn publishes_in(&self, number: u64, channel: usize) -> bool {
        self.channels > 0 && self.sender_of(number).is_some_and(|sender| sender % self.channels == channel)
    }

    /// Place of the sender of a message among those of this process, if it is one of them.
    fn sender_of(&self, number: u64) -> Option<usize> {
        let share = &self.workload.share;
        let sender = self.lane_of(number).checked_sub(share.start as usize)?;
        (sender < share.len()).then_some(sender)
    }

    fn lane_of(&self, number: u64) -> usize {
        usize::try_from(number % u64::from(self.workload.lanes)).expect("a run has some thousand lanes")
    }

    /// Which receiver a message to a mailbox is for.
    pub(crate) fn pair(&self, planned: &Planned) -> u32 {
        u32::try_from(planned.target % self.receivers.max(1)).unwrap_or(u32::MAX)
    }

    /// Messages of one flow arrive at a mailbox in the order of their numbers; see the ledger.
    pub(crate) fn flow(&self, planned: &Planned) -> u32 {
        self.flow_of(planned.number, planned.priority)
    }

    pub(crate) fn flow_of(&self, number: u64, priority: Priority) -> u32 {
        let lane = u32::try_from(self.lane_of(number)).unwrap_or(u32::MAX);
        lane.saturating_mul(4).saturating_add(u32::from(priority as u8)).saturating_add(1)
    }

    /// A message that is for one agent came to it.
    pub(crate) fn delivered(&self, mark: Mark) {
        let (at, counts) = (self.start.elapsed(), self.counts(mark.due_us));
        let mut found = self.found();
        if found.tally.deliver(mark.number) {
            found.last_delivery = found.last_delivery.max(at);
            found.measured.delivered += u64::from(counts);
            found.delivered.record(at, at.saturating_sub(Duration::from_micros(mark.due_us)), counts);
        }
    }

    /// A message that was published came to a subscriber.
    pub(crate) fn read(&self, subscriber: usize, mark: Mark) {
        let (at, counts) = (self.start.elapsed(), self.counts(mark.due_us));
        let mut found = self.found();
        if found.tally.read(subscriber, mark.number) {
            found.last_delivery = found.last_delivery.max(at);
            found.measured.read[subscriber] += u64::from(counts);
            found.delivered.record(at, at.saturating_sub(Duration::from_micros(mark.due_us)), counts);
        }
    }

    /// These are settled; each by when it was due.
    pub(crate) fn settled(&self, due_us: &[u64]) {
        let at = self.start.elapsed();
        let mut found = self.found();
        found.settled_count += due_us.len() as u64;
        for due_us in due_us {
            let counts = self.counts(*due_us);
            found.settled.record(at, at.saturating_sub(Duration::from_micros(*due_us)), counts);
        }
    }

    /// Of so many deliveries it is not measured when they are settled.
    pub(crate) fn unmeasured(&self, count: usize) {
        self.found().unmeasured += count as u64;
    }

    pub(crate) fn strange(&self) {
        self.found().tally.strange += 1;
    }

    pub(crate) fn came_back(&self) {
        self.found().came_back += 1;
    }

    pub(crate) fn failed(&self, text: &str) {
        let failures = &mut self.found().failures;
        if failures.len() < FAILURES_KEPT && !failures.iter().any(|known| known == text) {
            failures.push(text.to_owned());
        }
    }
}
