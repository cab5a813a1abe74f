//! Which channels there are: asked for on the control stream, page by page.
//!
//! The node is believed here as far as it goes: what it leaves out is not seen, and a name that it makes up has no record that its owner
//! signed, so that nothing can be read or published under it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;
use std::time::Duration;

use creto_envelope::channel::listing::{ChannelList, ChannelListed};
use creto_envelope::channel::{ChannelName, ChannelPattern};
use creto_envelope::{ChannelId, RejectCode};
use tokio::sync::{Notify, oneshot, watch};
use tokio::time::{Instant, sleep, timeout_at};

use super::error::ChannelError;
use crate::clock;
use crate::limits::{CHANNEL_LIST_PAGES_MAX, CHANNEL_RECORD_TIMEOUT, REFUSED_PAUSE_MAX, REFUSED_PAUSE_MIN};
use crate::stats::UNPOISONED;
use crate::stream::Refusal;

/// The listings of one agent, over as many connections as it takes.
#[derive(Debug)]
pub(crate) struct Listings {
    state: Mutex<State>,
    /// Wakes the control stream's writer.
    asked: Notify,
    /// Counts how often the node said that listings may have other answers. A new connection counts: nobody knows what was said before.
    changed: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct State {
    /// By what they carry. Each is of a caller that waits for it.
    questions: BTreeMap<[u8; 16], Question>,
    closed: bool,
}

#[derive(Debug)]
struct Question {
    question: ChannelList,
    is_written: bool,
    waiting: oneshot::Sender<Answer>,
}

#[derive(Debug)]
enum Answer {
    Page { next: Option<ChannelId>, names: Vec<ChannelName> },
    Refused(Refusal),
    Unsupported,
}

impl Listings {
    pub(crate) fn new() -> Self {
        Self { state: Mutex::default(), asked: Notify::new(), changed: watch::Sender::new(0) }
    }

    /// How often the answers may have changed.
    pub(crate) fn changes(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// The names of all channels that fit and that this agent may subscribe to. With `is_watched`, [`changes`](Self::changes) says when
    /// there may be another answer.
    pub(crate) async fn list(
        &self,
        pattern: &ChannelPattern,
        is_watched: bool,
    ) -> Result<Vec<ChannelName>, ChannelError> {
        let (mut all, mut after) = (BTreeSet::new(), None);
        // A node that does as if there were more and more would have this go on for ever.
        for _ in 0..CHANNEL_LIST_PAGES_MAX {
            let (next, names) = self.page(pattern, after, is_watched).await?;
            if names.iter().any(|name| !pattern.matches(name)) {
                break;
            }
            all.extend(names);
            match next {
                Some(_) => after = next,
                None => return Ok(all.into_iter().collect()),
            }
        }
        Err(ChannelError::Refused(RejectCode::FrameUnexpected))
    }

    async fn page(
        &self,
        pattern: &ChannelPattern,
        after: Option<ChannelId>,
        is_watched: bool,
    ) -> Result<(Option<ChannelId>, Vec<ChannelName>), ChannelError> {
        let until = Instant::now() + CHANNEL_RECORD_TIMEOUT;
        let mut refused = None;
        loop {
            let context = clock::random();
            let question = ChannelList { context, after, is_watched, pattern: pattern.clone() };
            let forgets = ForgetsOnDrop { listings: self, context };
            let answer = self.ask(question)?;
            let refusal = match timeout_at(until, answer).await {
                Err(_) => return Err(refused.unwrap_or(ChannelError::TimedOut)),
                Ok(Err(_)) => return Err(ChannelError::Closed),
                Ok(Ok(Answer::Unsupported)) => return Err(ChannelError::Unsupported),
                Ok(Ok(Answer::Page { next, names })) => return Ok((next, names)),
                Ok(Ok(Answer::Refused(refusal))) => refusal,
            };
            drop(forgets);
            let number = refusal.code.map_or_else(|number| number, RejectCode::as_u16);
            let error = ChannelError::refused(pattern.as_str(), "list them", number);
            let pause =
                Duration::from_millis(refusal.retry_after_ms.into()).clamp(REFUSED_PAUSE_MIN, REFUSED_PAUSE_MAX);
            if !error.is_retryable() || Instant::now() + pause >= until {
                return Err(error);
            }
            refused = Some(error);
            sleep(pause).await;
        }
    }

    fn ask(&self, question: ChannelList) -> Result<oneshot::Receiver<Answer>, ChannelError> {
        let (waiting, answer) = oneshot::channel();
        let mut state = self.state.lock().expect(UNPOISONED);
        if state.closed {
            return Err(ChannelError::Closed);
        }
        state.questions.insert(question.context, Question { question, is_written: false, waiting });
        drop(state);
        self.asked.notify_one();
        Ok(answer)
    }

    /// The next question for the control stream, waiting for one.
    pub(crate) async fn next_frame(&self) -> Vec<u8> {
        loop {
            let asked = self.asked.notified();
            if let Some(frame) = self.take_question() {
                return frame;
            }
            asked.await;
        }
    }

    fn take_question(&self) -> Option<Vec<u8>> {
        let mut state = self.state.lock().expect(UNPOISONED);
        let question = state.questions.values_mut().find(|question| !question.is_written)?;
        question.is_written = true;
        let mut frame = Vec::new();
        question.question.encode(&mut frame);
        Some(frame)
    }

    /// A frame came. One that nobody waits for any more is ignored.
    pub(crate) fn answered(&self, listed: ChannelListed) {
        match listed {
            ChannelListed::Page { context, next, names } => drop(self.answer(&context, Answer::Page { next, names })),
            ChannelListed::Changed { .. } => self.has_changed(),
        }
    }

    /// The node refused something. Says whether it was a listing.
    pub(crate) fn refused(&self, refusal: &Refusal) -> bool {
        self.answer(&refusal.context, Answer::Refused(*refusal))
    }

    fn answer(&self, context: &[u8; 16], answer: Answer) -> bool {
        let question = self.state.lock().expect(UNPOISONED).questions.remove(context);
        // Whoever asked may have stopped waiting.
        question.map(|question| question.waiting.send(answer)).is_some()
    }

    fn has_changed(&self) {
        self.changed.send_modify(|count| *count += 1);
    }

    /// A new connection: every open question is asked again, and listings are looked at again.
    pub(crate) fn connected(&self) {
        self.state.lock().expect(UNPOISONED).questions.values_mut().for_each(|question| question.is_written = false);
        self.asked.notify_one();
        self.has_changed();
    }

    /// The node ended the connection with this code. One that knows no such question ends it over the first.
    pub(crate) fn ended_with(&self, code: RejectCode) {
        if code != RejectCode::FrameUnknownType {
            return;
        }
        let written: Vec<_> =
            self.state.lock().expect(UNPOISONED).questions.extract_if(.., |_, question| question.is_written).collect();
        for (_, question) in written {
            let _ = question.waiting.send(Answer::Unsupported);
        }
    }

    /// No connection will come any more.
    pub(crate) fn close(&self) {
        let mut state = self.state.lock().expect(UNPOISONED);
        state.closed = true;
        state.questions.clear();
        drop(state);
        self.has_changed();
    }
}

/// Whoever stops waiting leaves no question behind.
struct ForgetsOnDrop<'a> {
    listings: &'a Listings,
    context: [u8; 16],
}

impl Drop for ForgetsOnDrop<'_> {
    fn drop(&mut self) {
        self.listings.state.lock().expect(UNPOISONED).questions.remove(&self.context);
    }
}
