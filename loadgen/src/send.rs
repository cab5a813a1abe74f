//! A connection that sends: it hands over what is due, whatever became of the messages before, and others wait for the answers.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};
use tokio::task::JoinSet;

use crate::arrival::{Planned, Way};
use crate::ledger::Record;
use crate::limits::{PENDING_PER_SENDER, REQUESTS_PER_SENDER};
use crate::options::micros;
use crate::pace::{OwnLateness, timed};
use crate::payload::{Mark, digest};
use crate::state::{Run, Told};
use crate::target::Line;

/// A message whose answer is waited for.
#[derive(Debug)]
struct Waiting<A> {
    answer: A,
    planned: Planned,
    digest: [u8; 32],
    /// Its place in a closed loop.
    _place: Option<OwnedSemaphorePermit>,
}

/// Where records of acknowledged messages go.
pub(crate) type AcknowledgedLedger = mpsc::Sender<(Record, Planned)>;

/// One connection that sends.
#[derive(Debug)]
pub(crate) struct Sender<L> {
    pub(crate) run: Arc<Run>,
    pub(crate) lane: u32,
    pub(crate) line: L,
    /// Before when its messages are due; none in a closed loop.
    pub(crate) due: Option<watch::Receiver<u64>>,
    /// Its places in a closed loop.
    pub(crate) places: Option<Arc<Semaphore>>,
    pub(crate) ledger: Option<AcknowledgedLedger>,
}

impl<L: Line> Sender<L> {
    /// Sends everything that is due, and ends when everything is answered. Never waits for an answer: only for a place in flight.
    pub(crate) async fn send(mut self) {
        // What goes to mailboxes and what goes into channels is answered in the order of each, and not of both.
        let (direct, answers) = mpsc::channel::<Waiting<L::Answer>>(PENDING_PER_SENDER);
        let (published, publish_answers) = mpsc::channel::<Waiting<L::Answer>>(PENDING_PER_SENDER);
        let mut requests = JoinSet::new();
        let requests_max = Arc::new(Semaphore::new(REQUESTS_PER_SENDER));
        let mut takers = JoinSet::new();
        takers.spawn(take_answers::<L>(Arc::clone(&self.run), answers, self.ledger.take()));
        takers.spawn(take_answers::<L>(Arc::clone(&self.run), publish_answers, None));

        let (run, workload) = (Arc::clone(&self.run), Arc::clone(&self.run.workload));
        let mut dated = workload.lane(self.lane);
        let mut undated = workload.undated(self.lane);
        let mut lateness = OwnLateness::default();
        // A closed loop begins with the clock, too.
        tokio::time::sleep_until(run.start.into()).await;
        loop {
            let mut place = None;
            let planned = match (&mut self.due, &self.places) {
                (Some(due), _) => {
                    let Some(planned) = dated.next() else { break };
                    // The pacer is gone when the run was given up.
                    if due.wait_for(|before| *before > planned.due_us).await.is_err() {
                        break;
                    }
                    planned
                }
                (None, places) => {
                    let places = Arc::clone(places.as_ref().expect("a closed loop has places"));
                    place = Some(places.acquire_owned().await.expect("nobody closes it"));
                    let now_us = micros(run.start.elapsed());
                    if now_us >= workload.end_us {
                        break;
                    }
                    let planned = undated.at(now_us);
                    if !run.in_bounds(planned.number) {
                        break;
                    }
                    planned
                }
            };
            let mark = Mark { number: planned.number, due_us: planned.due_us };
            let payload = run.payloads.make(mark, planned.payload_bytes);
            let digest = if run.keeps_ledger { digest(&payload) } else { [0; 32] };
            let now_us = micros(run.start.elapsed());
            let late_us = self.due.is_some().then(|| lateness.handed_over(planned.due_us, now_us));
            run.handed_over(&planned, now_us, late_us);
            let answers = match planned.way {
                Way::Direct => &direct,
                Way::Publish => &published,
                Way::Request => {
                    while let Some(joined) = requests.try_join_next() {
                        joined.expect("a request does not panic");
                    }
                    let (under_way, wait) = timed(Arc::clone(&requests_max).acquire_owned()).await;
                    lateness.waited(wait);
                    let under_way = under_way.expect("nobody closes it");
                    let (answer, run) = (self.line.request(&planned, payload), Arc::clone(&run));
                    requests.spawn(async move {
                        let told = answer.await;
                        run.answered(&planned, told);
                        drop((place, under_way));
                    });
                    continue;
                }
            };
            let (submitted, wait) = timed(self.line.submit(&planned, payload)).await;
            lateness.waited(wait);
            match submitted {
                Ok(answer) => {
                    let (taken, wait) = timed(answers.send(Waiting { answer, planned, digest, _place: place })).await;
                    lateness.waited(wait);
                    if taken.is_err() {
                        break;
                    }
                }
                Err(told) => run.answered(&planned, told),
            }
        }
        drop((direct, published));
        while let Some(joined) = requests.join_next().await {
            joined.expect("a request does not panic");
        }
        while let Some(joined) = takers.join_next().await {
            joined.expect("taking answers does not panic");
        }
    }
}

/// Takes the answers. They come in the order of the messages, so that none waits here for an earlier one; only a
/// message that was refused for now lets later ones wait, and their latency then counts with it.
async fn take_answers<L: Line>(
    run: Arc<Run>,
    mut waiting: mpsc::Receiver<Waiting<L::Answer>>,
    ledger: Option<AcknowledgedLedger>,
) {
    while let Some(Waiting { answer, planned, digest, _place }) = waiting.recv().await {
        match L::answer(answer).await {
            Ok(message_id) => {
                run.durable(&planned);
                match ledger.as_ref().zip(message_id) {
                    None => run.answered(&planned, Told::Done),
                    Some((ledger, message_id)) => {
                        let line = Record {
                            pair: run.pair(&planned),
                            number: planned.number,
                            message_id,
                            digest,
                            flow: run.flow(&planned),
                        };
                        // A ledger that cannot be written ends the run with its own error.
                        let _ = ledger.send((line, planned)).await;
                    }
                }
            }
            Err(told) => run.answered(&planned, told),
        }
    }
}
