//! Answers to the requests of this agent: each goes to the request that waits for it, and to nobody else.
//!
//! An answer belongs to the request whose message id it names, and only if it comes from the agent that was asked. It is acknowledged
//! when the request has taken it or is gone. What no request waits for is acknowledged and dropped: nobody could do anything
//! with it. Nothing of this is ever shown in a subscription.

use std::collections::HashMap;
use std::sync::Mutex;

use creto_envelope::{AgentId, MessageId};
use tokio::sync::{Semaphore, SemaphorePermit, oneshot};

use super::{Delivery, Inbox};
use crate::error::ReceiveError;
use crate::limits::REQUESTS_MAX;
use crate::stats::{Counter, UNPOISONED};

/// What a request gets: its answer, or why none can come any more.
type Answer = Result<Delivery, ReceiveError>;

/// The requests that wait.
#[derive(Debug)]
pub(crate) struct Waiting {
    requests: Mutex<Table>,
    places: Semaphore,
}

#[derive(Debug, Default)]
struct Table {
    by_id: HashMap<MessageId, Asked>,
    /// No answer will come any more.
    ended: Option<ReceiveError>,
}

#[derive(Debug)]
struct Asked {
    whom: AgentId,
    answer: oneshot::Sender<Answer>,
}

/// One request that waits. When it is dropped, its answer is late.
pub(crate) struct WaitingRequest<'a> {
    inbox: &'a Inbox,
    message_id: MessageId,
    answer: oneshot::Receiver<Answer>,
    _place: SemaphorePermit<'a>,
}

impl Waiting {
    pub(super) fn new() -> Self {
        Self { requests: Mutex::default(), places: Semaphore::new(REQUESTS_MAX) }
    }

    /// Whether any request waits.
    pub(super) fn is_empty(&self) -> bool {
        self.requests.lock().expect(UNPOISONED).by_id.is_empty()
    }

    /// Whether a request waits for an answer to this id of this agent.
    pub(super) fn is_asked(&self, id: MessageId, whom: AgentId) -> bool {
        self.requests.lock().expect(UNPOISONED).by_id.get(&id).is_some_and(|asked| asked.whom == whom)
    }

    /// No answer will come any more.
    pub(super) fn end(&self, reason: &ReceiveError) {
        let mut table = self.requests.lock().expect(UNPOISONED);
        table.ended.get_or_insert_with(|| reason.clone());
        let left = std::mem::take(&mut table.by_id);
        drop(table);
        for Asked { answer, .. } in left.into_values() {
            // It may have been given up.
            let _ = answer.send(Err(reason.clone()));
        }
    }
}

impl Inbox {
    /// Waits for a place, and has the answer to `message_id` from `whom` come here. From now on the agent receives.
    pub(crate) async fn ask(&self, message_id: MessageId, whom: AgentId) -> Result<WaitingRequest<'_>, ReceiveError> {
        let place = self.waiting.places.acquire().await.expect("nobody closes it");
        let (sender, answer) = oneshot::channel();
        {
            let mut table = self.waiting.requests.lock().expect(UNPOISONED);
            if let Some(reason) = &table.ended {
                return Err(reason.clone());
            }
            let before = table.by_id.insert(message_id, Asked { whom, answer: sender });
            assert!(before.is_none(), "a message id is made once");
        }
        self.reads_all();
        self.wanted.send_replace(true);
        // The deliver stream may have to be lent credit.
        self.changed.notify_one();
        Ok(WaitingRequest { inbox: self, message_id, answer, _place: place })
    }

    /// Gives an answer to the request that waits for it.
    pub(super) fn answered(&self, answer: Delivery) {
        let mut table = self.waiting.requests.lock().expect(UNPOISONED);
        let asked = answer.correlation_id.and_then(|id| table.by_id.get(&id).map(|asked| (id, asked.whom)));
        let dropped = match asked {
            // Whoever learned the id of a request could else answer in another's place. The request waits on.
            Some((_, whom)) if whom != answer.from_id => Some((answer, &self.counters.foreign_responses)),
            Some((id, _)) => {
                let asked = table.by_id.remove(&id).expect("it was there just now");
                drop(table);
                match asked.answer.send(Ok(answer)) {
                    Ok(()) => return,
                    // It was given up in this moment.
                    Err(answer) => answer.ok().map(|answer| (answer, &self.counters.late_responses)),
                }
            }
            None => Some((answer, &self.counters.late_responses)),
        };
        if let Some((answer, count)) = dropped {
            drop_answer(&answer, count);
        }
    }
}

fn drop_answer(answer: &Delivery, count: &Counter) {
    let Delivery { from, message_id, correlation_id, .. } = answer;
    tracing::debug!(%from, %message_id, ?correlation_id, "an answer for which nobody waits is dropped");
    count.add(1);
    answer.token.discard();
}

impl WaitingRequest<'_> {
    /// The answer. It is not acknowledged yet. Cancel-safe: an answer that is not handed out is late when this is dropped.
    pub(crate) async fn answer(&mut self) -> Answer {
        // Whoever holds the other end sends before it lets go; if it is gone, everything is.
        (&mut self.answer).await.unwrap_or(Err(ReceiveError::Closed))
    }
}

impl Drop for WaitingRequest<'_> {
    fn drop(&mut self) {
        let asked = self.inbox.waiting.requests.lock().expect(UNPOISONED).by_id.remove(&self.message_id);
        drop(asked);
        self.answer.close();
        // It came, and nobody has seen it.
        if let Ok(Ok(answer)) = self.answer.try_recv() {
            drop_answer(&answer, &self.inbox.counters.late_responses);
        }
    }
}
