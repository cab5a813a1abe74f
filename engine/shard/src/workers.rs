//! Batches that crypto workers verify while the shard goes on: the second break of the path, only there when a shard has
//! workers ([`Shard::with_workers`](crate::Shard::with_workers)).
//!
//! Batches of one connection go on in the order in which they came, whichever verdict is made first. What waits here is
//! not answered, so the bound on unanswered bytes is the bound of this queue: beyond it the shard stops reading.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use creto_policy::Snapshot;
use creto_store::RecordLog;

use crate::event::{Action, ConnectionId, Now};
use crate::limits::BAD_SIGNATURES_MAX;
use crate::shard::Shard;
use crate::stage::Refusals;
use crate::stage::decode::Decoded;
use crate::stage::verify::{Verified, Verifier, VerifyJob, VerifyOutcome, prepare, verify};
use crate::stages::StageTimes;

/// What a shard has workers verify.
#[derive(Debug)]
pub(crate) struct WorkerQueue {
    /// In the order of arrival; ids ascend.
    waiting: VecDeque<Waiting>,
    at_workers: usize,
    at_workers_max: usize,
    next_id: u64,
    /// A verdict came in since the last release.
    has_news: bool,
}

#[derive(Debug)]
struct Waiting {
    id: u64,
    connection: ConnectionId,
    state: State,
}

#[derive(Debug)]
enum State {
    Queued(VerifyJob),
    AtWorker,
    Done(VerifyOutcome),
}

impl<L: RecordLog> Shard<L> {
    /// Verifies here, or gives to the workers; what goes on then are batches of earlier turns.
    pub(crate) fn verified(&mut self, now: Now, decoded: Decoded) -> Verified {
        let Some(queue) = &mut self.workers else {
            let times = (&self.stage_clock, &mut self.counters.stages.verify);
            return verify(decoded, now, &self.snapshot, &mut self.verifier, &mut self.refusals, times);
        };
        let jobs = prepare(decoded, now, &self.snapshot, &mut self.verifier, &mut self.refusals);
        queue.push(jobs);
        queue.release(now, &self.snapshot, &mut self.verifier, &mut self.refusals)
    }

    /// Hands to the workers what they have room for. After the answers of the turn, which count bad signatures.
    pub(crate) fn dispatch(&mut self, now: Now, actions: &mut Vec<Action>) {
        let Some(queue) = &mut self.workers else { return };
        let connections = &self.connections;
        let chances = |connection| {
            let bad = connections.get(&connection).map_or(0, |state| state.bad_signatures);
            BAD_SIGNATURES_MAX.saturating_sub(bad)
        };
        queue.dispatch(now, chances, actions);
    }
}

impl WorkerQueue {
    pub(crate) fn new(at_workers_max: usize) -> Self {
        assert!(at_workers_max > 0, "workers take at least one batch");
        Self { waiting: VecDeque::new(), at_workers: 0, at_workers_max, next_id: 0, has_news: false }
    }

    fn push(&mut self, jobs: Vec<VerifyJob>) {
        for job in jobs {
            self.next_id += 1;
            let (id, connection) = (self.next_id, job.connection());
            self.waiting.push_back(Waiting { id, connection, state: State::Queued(job.with_id(id)) });
        }
    }

    /// Takes a verdict in. The connection may be gone, and with it its place here.
    pub(crate) fn complete(&mut self, now: Now, outcome: VerifyOutcome, times: &mut StageTimes) {
        times.add(now.monotonic_us.saturating_sub(outcome.began_us()));
        self.at_workers = self.at_workers.checked_sub(1).expect("workers answer what they were asked, once");
        if let Ok(place) = self.waiting.binary_search_by_key(&outcome.id(), |waiting| waiting.id) {
            self.waiting[place].state = State::Done(outcome);
            self.has_news = true;
        }
    }

    /// Batches whose verdicts are in and that no earlier one of their connection holds back.
    fn release(&mut self, now: Now, snapshot: &Snapshot, verifier: &mut Verifier, refusals: &mut Refusals) -> Verified {
        let mut verified = Verified::default();
        if !std::mem::take(&mut self.has_news) {
            return verified;
        }
        let mut held_back = BTreeSet::new();
        let mut left = VecDeque::with_capacity(self.waiting.len());
        for waiting in self.waiting.drain(..) {
            match waiting.state {
                State::Done(outcome) if !held_back.contains(&waiting.connection) => {
                    // Who was revoked while the workers were at it sends nothing any more.
                    match outcome.recheck(now, snapshot) {
                        Ok(()) => verified.take(outcome, verifier, refusals),
                        Err(code) => outcome.refuse(code, refusals),
                    }
                }
                _ => {
                    held_back.insert(waiting.connection);
                    left.push_back(waiting);
                }
            }
        }
        self.waiting = left;
        verified
    }

    /// A connection has no more batches at the workers than it may send bad signatures, so that a flood of them costs as
    /// much as when each verdict is waited for.
    fn dispatch(&mut self, now: Now, chances: impl Fn(ConnectionId) -> u32, actions: &mut Vec<Action>) {
        let mut taken: BTreeMap<ConnectionId, u32> = BTreeMap::new();
        for waiting in &mut self.waiting {
            if self.at_workers >= self.at_workers_max {
                return;
            }
            let taken = taken.entry(waiting.connection).or_default();
            if matches!(waiting.state, State::Queued(_)) {
                if *taken >= chances(waiting.connection) {
                    continue;
                }
                if let State::Queued(job) = std::mem::replace(&mut waiting.state, State::AtWorker) {
                    self.at_workers += 1;
                    actions.push(Action::Verify(job.begin(now.monotonic_us)));
                }
            }
            *taken += 1;
        }
    }

    /// Forgets the batches of a connection that is gone. Workers may still be at some of them.
    pub(crate) fn forget(&mut self, connection: ConnectionId) {
        self.waiting.retain(|waiting| waiting.connection != connection);
    }

    /// Batches that wait for a worker, for a verdict, or for an earlier batch of their connection.
    pub(crate) fn len(&self) -> usize {
        self.waiting.len()
    }
}
