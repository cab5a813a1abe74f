//! Presence: whether another agent reads its mailbox just now, as far as it wants that known.
//!
//! Whoever asks is told the same of an agent that shows itself to nobody, of one that it may not send to, of one that was never there and
//! of a name that does not exist. All of it is the node's word, which nobody signs.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::Duration;

use creto_envelope::presence::{PresenceAnswer, PresenceRequest, PresenceState};
use creto_envelope::{AgentId, AgentName, RejectCode};
use tokio::sync::{Notify, Semaphore, oneshot};
use tokio::time::{Instant, sleep, timeout_at};

use crate::client::Agent;
use crate::error::PresenceError;
use crate::limits::{PRESENCE_QUESTIONS_MAX, PRESENCE_TIMEOUT};
use crate::stats::UNPOISONED;

/// To whom an agent shows that it reads its mailbox ([`ConnectOptions::presence`](crate::ConnectOptions::presence)).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PresencePolicy {
    /// To nobody.
    #[default]
    Nobody,
    /// To those whom the node's policy lets send to it: while it reads, and after that when it stopped, until it reads again without
    /// showing itself, the node is restarted, or a week is over.
    Senders,
}

/// What is known of an agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Presence {
    /// It reads its mailbox now.
    Online,
    /// It did, and stopped so long ago, in whole minutes.
    Seen {
        /// How long ago.
        ago: Duration,
    },
    /// Nothing, or nothing that this agent may know.
    Unknown,
}

/// The questions of one agent, over as many connections as it takes.
#[derive(Debug)]
pub(crate) struct Presences {
    state: Mutex<State>,
    /// Wakes the control stream's writer.
    asked: Notify,
    places: Semaphore,
}

#[derive(Debug, Default)]
struct State {
    /// At most one question for each agent: its answer names the agent.
    questions: BTreeMap<AgentId, Question>,
    is_closed: bool,
}

#[derive(Debug, Default)]
struct Question {
    is_written: bool,
    waiting: Vec<oneshot::Sender<Result<PresenceState, PresenceError>>>,
}

impl Presences {
    pub(crate) fn new() -> Self {
        Self { state: Mutex::default(), asked: Notify::new(), places: Semaphore::new(PRESENCE_QUESTIONS_MAX) }
    }

    /// Asks until there is an answer, or this time has come.
    async fn of(&self, agent: AgentId, until: Instant) -> Result<Presence, PresenceError> {
        let place = timeout_at(until, self.places.acquire()).await.map_err(|_| PresenceError::TimedOut)?;
        let _place = place.map_err(|_| PresenceError::Closed)?;
        let _forgets = ForgetsOnDrop { presences: self, agent };
        loop {
            let answer = timeout_at(until, self.ask(agent)?).await.map_err(|_| PresenceError::TimedOut)?;
            match answer.map_err(|_| PresenceError::Closed)?? {
                PresenceState::Online => return Ok(Presence::Online),
                PresenceState::Seen { minutes } => {
                    return Ok(Presence::Seen { ago: Duration::from_secs(u64::from(minutes) * 60) });
                }
                PresenceState::Later { retry_after_ms } => {
                    let pause = Duration::from_millis(u64::from(retry_after_ms.max(1)));
                    if Instant::now() + pause >= until {
                        return Err(PresenceError::TooOften);
                    }
                    sleep(pause).await;
                }
                // And whatever a later version says.
                _ => return Ok(Presence::Unknown),
            }
        }
    }

    fn ask(&self, agent: AgentId) -> Result<oneshot::Receiver<Result<PresenceState, PresenceError>>, PresenceError> {
        let (reply, answer) = oneshot::channel();
        let mut state = self.state.lock().expect(UNPOISONED);
        if state.is_closed {
            return Err(PresenceError::Closed);
        }
        let question = state.questions.entry(agent).or_default();
        question.waiting.retain(|waiting| !waiting.is_closed());
        question.waiting.push(reply);
        drop(state);
        self.asked.notify_one();
        Ok(answer)
    }

    /// The next question for the control stream, waiting for one.
    pub(crate) async fn next_frame(&self) -> Vec<u8> {
        loop {
            let asked = self.asked.notified();
            if let Some(agent) = self.take_question() {
                let mut frame = Vec::new();
                PresenceRequest { agent }.encode(&mut frame);
                return frame;
            }
            asked.await;
        }
    }

    fn take_question(&self) -> Option<AgentId> {
        let mut state = self.state.lock().expect(UNPOISONED);
        // Whoever asked may have stopped waiting.
        state
            .questions
            .retain(|_, question| question.is_written || question.waiting.iter().any(|waiting| !waiting.is_closed()));
        let (agent, question) = state.questions.iter_mut().find(|(_, question)| !question.is_written)?;
        question.is_written = true;
        Some(*agent)
    }

    /// An answer came. One that nobody asked for is ignored.
    pub(crate) fn answered(&self, answer: PresenceAnswer) {
        let mut state = self.state.lock().expect(UNPOISONED);
        let question = state.questions.remove(&answer.agent);
        drop(state);
        for waiting in question.into_iter().flat_map(|question| question.waiting) {
            let _ = waiting.send(Ok(answer.state));
        }
    }

    /// A new connection: every open question is asked again.
    pub(crate) fn connected(&self) {
        self.state.lock().expect(UNPOISONED).questions.values_mut().for_each(|question| question.is_written = false);
        self.asked.notify_one();
    }

    /// The node ended the connection with this code. One that knows no such question ends it over the first.
    pub(crate) fn ended_with(&self, code: RejectCode) {
        if code == RejectCode::FrameUnknownType {
            self.end(&PresenceError::Unsupported, |question| question.is_written);
        }
    }

    /// No connection will come any more.
    pub(crate) fn close(&self) {
        self.state.lock().expect(UNPOISONED).is_closed = true;
        self.end(&PresenceError::Closed, |_| true);
    }

    fn end(&self, error: &PresenceError, which: impl Fn(&Question) -> bool) {
        let mut state = self.state.lock().expect(UNPOISONED);
        let ended: Vec<_> = state.questions.extract_if(.., |_, question| which(question)).collect();
        drop(state);
        for waiting in ended.into_iter().flat_map(|(_, question)| question.waiting) {
            let _ = waiting.send(Err(error.clone()));
        }
    }
}

/// Whoever stops waiting last leaves no question behind: a node that answers none is not remembered with all that it was asked.
struct ForgetsOnDrop<'a> {
    presences: &'a Presences,
    agent: AgentId,
}

impl Drop for ForgetsOnDrop<'_> {
    fn drop(&mut self) {
        let mut state = self.presences.state.lock().expect(UNPOISONED);
        let is_waited_for = |question: &Question| question.waiting.iter().any(|waiting| !waiting.is_closed());
        if state.questions.get(&self.agent).is_some_and(|question| !is_waited_for(question)) {
            state.questions.remove(&self.agent);
        }
    }
}

impl Agent {
    /// Whether another agent reads its mailbox now, or when it stopped, if it shows itself to those who may send to it
    /// ([`PresencePolicy::Senders`]) and this agent may. [`Presence::Unknown`] says nothing, not even that there is such an agent.
    ///
    /// Of one connection the node answers 64 questions at once and one more each second; beyond that this waits.
    ///
    /// # Errors
    /// [`PresenceError`].
    pub async fn presence(&self, agent: &AgentName) -> Result<Presence, PresenceError> {
        self.presences().of(self.id_of(agent), Instant::now() + PRESENCE_TIMEOUT).await
    }
}

#[cfg(test)]
mod tests;
