//! The two ends of a pair: a sender that submits what is due, and a receiver that counts what comes.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use creto_agent::{Agent, AgentName, Delivery, PendingSend, SendError, SendOptions, Subscription};
use hdrhistogram::Histogram;
use tokio::sync::{mpsc, watch};

use crate::ledger::Record;
use crate::pace::Schedule;
use crate::payload::{Mark, Payloads, digest, mark};
use crate::report::{latencies, record};
use crate::tally::Tally;

/// What all tasks of a run share.
#[derive(Debug)]
pub(crate) struct Run {
    pub(crate) schedule: Schedule,
    pub(crate) start: Instant,
    pub(crate) pairs: u64,
    pub(crate) payloads: Payloads,
    pub(crate) submitted: AtomicU64,
    /// Answers that came, whatever they were.
    pub(crate) answered: AtomicU64,
    pub(crate) last_acknowledged_us: AtomicU64,
    found: Mutex<Found>,
}

/// What was found so far.
#[derive(Debug)]
pub(crate) struct Found {
    pub(crate) tally: Tally,
    pub(crate) refused: BTreeMap<u16, u64>,
    pub(crate) unknown: u64,
    pub(crate) acknowledged_latency: Histogram<u64>,
    pub(crate) delivered_latency: Histogram<u64>,
}

impl Run {
    pub(crate) fn new(schedule: Schedule, start: Instant, pairs: u64, payload_bytes: usize) -> Self {
        Self {
            schedule,
            start,
            pairs,
            payloads: Payloads::new(payload_bytes),
            submitted: AtomicU64::new(0),
            answered: AtomicU64::new(0),
            last_acknowledged_us: AtomicU64::new(0),
            found: Mutex::new(Found {
                tally: Tally::new(schedule.message_count),
                refused: BTreeMap::new(),
                unknown: 0,
                acknowledged_latency: latencies(),
                delivered_latency: latencies(),
            }),
        }
    }

    pub(crate) fn found(&self) -> MutexGuard<'_, Found> {
        self.found.lock().expect("no code panics while it holds this lock")
    }

    /// A message counts as acknowledged: it is in the ledger, if there is one.
    pub(crate) fn acknowledged(&self, number: u64) {
        self.found().tally.acknowledged.insert(number);
        let now_us = u64::try_from(self.start.elapsed().as_micros()).unwrap_or(u64::MAX);
        self.last_acknowledged_us.fetch_max(now_us, Ordering::Relaxed);
    }

    fn failed(&self, error: &SendError) {
        let mut found = self.found();
        match error {
            SendError::RefusedWith { code, .. } => *found.refused.entry(*code).or_default() += 1,
            SendError::Unknown { .. } | SendError::TimedOut { .. } => found.unknown += 1,
            error => match error.code() {
                Some(code) => *found.refused.entry(code.as_u16()).or_default() += 1,
                None => found.unknown += 1,
            },
        }
    }

    fn since(&self, due_us: u64) -> Duration {
        self.start.elapsed().saturating_sub(Duration::from_micros(due_us))
    }
}

/// A message whose answer is waited for.
#[derive(Debug)]
pub(crate) struct Waiting {
    answer: PendingSend,
    mark: Mark,
    digest: [u8; 32],
}

/// Where records of acknowledged messages go.
pub(crate) type AcknowledgedLedger = mpsc::Sender<(Record, ())>;
/// Where records of delivered messages go; the delivery is acknowledged once its record is down.
pub(crate) type DeliveredLedger = mpsc::Sender<(Record, Delivery)>;

/// One sender and its receiver.
#[derive(Clone, Debug)]
pub(crate) struct Pair {
    pub(crate) run: Arc<Run>,
    pub(crate) index: u32,
}

impl Pair {
    /// Submits every message of this pair as it becomes due. Never waits for an answer: only for a place in flight.
    pub(crate) async fn send(
        self,
        agent: Agent,
        to: AgentName,
        mut due: watch::Receiver<u64>,
        waiting: mpsc::Sender<Waiting>,
        with_digest: bool,
    ) {
        let mut number = u64::from(self.index);
        while number < self.run.schedule.message_count {
            // The pacer is gone when the run was given up.
            if due.wait_for(|due| *due > number).await.is_err() {
                return;
            }
            let mark = Mark { number, due_us: self.run.schedule.due_us(number) };
            let payload = self.run.payloads.make(mark);
            let digest = if with_digest { digest(&payload) } else { [0; 32] };
            self.run.submitted.fetch_add(1, Ordering::Relaxed);
            match agent.submit(&to, payload, SendOptions::default()).await {
                Ok(answer) => {
                    if waiting.send(Waiting { answer, mark, digest }).await.is_err() {
                        return;
                    }
                }
                Err(error) => {
                    self.run.failed(&error);
                    self.run.answered.fetch_add(1, Ordering::Relaxed);
                }
            }
            number += self.run.pairs;
        }
    }

    /// Takes the answers. They come in the order of the messages, so that none waits here for an earlier one; only a
    /// message that was refused for now lets later ones wait, and their latency then counts with it.
    pub(crate) async fn take_answers(self, mut waiting: mpsc::Receiver<Waiting>, ledger: Option<AcknowledgedLedger>) {
        while let Some(Waiting { answer, mark, digest }) = waiting.recv().await {
            match answer.await {
                Ok(receipt) => {
                    let latency = self.run.since(mark.due_us);
                    record(&mut self.run.found().acknowledged_latency, latency);
                    let line = Record { pair: self.index, number: mark.number, message_id: receipt.message_id, digest };
                    match &ledger {
                        None => self.run.acknowledged(mark.number),
                        // A ledger that cannot be written ends the run with its own error.
                        Some(ledger) => drop(ledger.send((line, ())).await),
                    }
                }
                Err(error) => self.run.failed(&error),
            }
            self.run.answered.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Counts what comes, until the subscription ends.
    pub(crate) async fn receive(self, mut mailbox: Subscription, ledger: Option<DeliveredLedger>) {
        while let Some(Ok(delivery)) = mailbox.next().await {
            let mark = mark(&delivery.payload).filter(|mark| self.owns(mark));
            let Some(mark) = mark else {
                self.run.found().tally.strange += 1;
                continue;
            };
            let latency = self.run.since(mark.due_us);
            {
                let mut found = self.run.found();
                record(&mut found.delivered_latency, latency);
                found.tally.deliver(mark.number);
            }
            match &ledger {
                None => delivery.ack(),
                Some(ledger) => {
                    let digest = digest(&delivery.payload);
                    let message_id = delivery.message_id;
                    let line = Record { pair: self.index, number: mark.number, message_id, digest };
                    drop(ledger.send((line, delivery)).await);
                }
            }
        }
    }

    fn owns(&self, mark: &Mark) -> bool {
        let schedule = &self.run.schedule;
        mark.number < schedule.message_count
            && mark.number % self.run.pairs == u64::from(self.index)
            && mark.due_us == schedule.due_us(mark.number)
    }
}
