//! The key log: every change of an agent's key record is a leaf, written in the very transaction that makes the change; and the
//! door through which agents ask for proofs.
//!
//! ```text
//! shard                              control thread
//! ---------------------------------  -------------------------------------------------------------
//! KeyProofRequest -- Questioner -->  one read transaction for all that wait
//!                                    path and consistency proof from the stored subtrees
//!                                    a head of this size, signed once by both keys of the log
//! KeyProof        <-- the frame ---
//! ```
//!
//! A shard hands a question over without waiting and sends the answer on when it comes: nothing of it is on a message's way.
//! Leaves, heads and proofs are `creto-transparency`'s. There is one answer to each question, whatever happens.

use std::fmt;

use creto_envelope::RejectCode;
use creto_envelope::key_log::{KeyLogQuestion, KeyLogRefusal};
use tokio::sync::mpsc;

use crate::limits::{KEY_LOG_QUESTIONS_MAX, RETRY_MS};

pub(crate) mod serve;
pub(crate) mod tables;
#[cfg(test)]
mod tests;

/// A question with whoever waits for its answer.
pub(crate) struct Asked {
    pub(crate) question: KeyLogQuestion,
    reply: Option<Box<dyn FnOnce(Vec<u8>) + Send>>,
}

impl Asked {
    pub(crate) fn answer(mut self, frame: Vec<u8>) {
        if let Some(reply) = self.reply.take() {
            reply(frame);
        }
    }
}

impl Drop for Asked {
    fn drop(&mut self) {
        if let Some(reply) = self.reply.take() {
            reply(self.question.refused(RejectCode::ShuttingDown.into()));
        }
    }
}

impl fmt::Debug for Asked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Asked").field("question", &self.question).finish_non_exhaustive()
    }
}

/// Where shards put questions. Clones lead to the same service.
#[derive(Clone, Debug)]
pub struct Questioner(mpsc::Sender<Asked>);

/// Where a service takes them from: give it to [`Service::with_key_log`](crate::Service::with_key_log).
#[derive(Debug)]
pub struct Questions(pub(crate) mpsc::Receiver<Asked>);

/// A door of at most [`KEY_LOG_QUESTIONS_MAX`] questions. It may be made before the service is.
#[must_use]
pub fn questions() -> (Questioner, Questions) {
    let (questioner, questions) = mpsc::channel(KEY_LOG_QUESTIONS_MAX);
    (Questioner(questioner), Questions(questions))
}

impl Questioner {
    /// Hands a question over, without waiting. `reply` is called once, with a whole frame, on a thread of the service; it should
    /// hand it on and return.
    ///
    /// # Errors
    /// Why it was not taken; `reply` was not, and will not be, called.
    pub fn ask(
        &self,
        question: KeyLogQuestion,
        reply: impl FnOnce(Vec<u8>) + Send + 'static,
    ) -> Result<(), KeyLogRefusal> {
        let (mut back, refusal) = match self.0.try_send(Asked { question, reply: Some(Box::new(reply)) }) {
            Ok(()) => return Ok(()),
            Err(mpsc::error::TrySendError::Full(back)) => (back, BUSY),
            Err(mpsc::error::TrySendError::Closed(back)) => (back, RejectCode::ShuttingDown.into()),
        };
        // The caller has the answer already.
        back.reply = None;
        Err(refusal)
    }
}

/// The answer of a service that has no time, or whose disk has none.
pub(crate) const BUSY: KeyLogRefusal =
    KeyLogRefusal { code: RejectCode::Overloaded.as_u16(), retry_after_ms: RETRY_MS };
