//! Prekeys: what agents upload is kept, and handed out **at most once**, also across a crash.
//!
//! A shard hands a question over without waiting, and is answered later, from the thread that committed. A one-time prekey
//! leaves the directory's file, in a durable transaction, before whoever claimed it is told which one it is: a node that
//! dies between the two has lost a prekey, and never gives it to a second asker. Claims that arrive together are committed
//! together.
//!
//! ```text
//! upload --> signatures, keys --> the directory's writer --> prekeys, audit outbox --> answer
//! claim  --> allowance --> group commit: row removed, first number moved --> answer --> notice, when few are left
//! ```
//!
//! `docs/prekeys.md` has the bytes and the rules.

use std::fmt;

use creto_envelope::AgentId;
use creto_envelope::prekeys::{PrekeyBatch, PrekeyStock, SignedPrekey};
use tokio::sync::mpsc;

use crate::limits::{PREKEY_QUESTIONS_MAX, PREKEY_UPLOADS_MAX};
use crate::rotation::{Refused, not_taken};

pub use crate::rotation::Reply;
pub use allowance::PrekeyAllowance;

mod allowance;
pub(crate) mod check;
pub(crate) mod keeper;
pub(crate) mod tables;
#[cfg(test)]
mod tests;

/// Prekeys of an agent that is logged in.
#[derive(Debug)]
pub struct Upload {
    /// Who is logged in.
    pub agent: AgentId,
    /// The batch; nothing about it was checked but its form.
    pub batch: Box<PrekeyBatch>,
    /// Who waits for the answer: what the node has of the agent now.
    pub reply: Reply<PrekeyStock>,
}

/// Somebody wants a prekey of an agent, and may talk to it.
#[derive(Debug)]
pub struct Claim {
    /// Who is logged in.
    pub asker: AgentId,
    /// Whose prekey.
    pub agent: AgentId,
    /// Who waits for the answer.
    pub reply: Reply<SignedPrekey>,
}

#[derive(Debug)]
pub(crate) enum Question {
    Claim(Claim),
    Stock { agent: AgentId, reply: Reply<PrekeyStock> },
}

/// Who is told whose prekeys have become few. It is called from the thread that commits claims, and should hand the word on
/// and return.
pub trait StockSink: Send + Sync + 'static {
    /// `agent` has fewer one-time prekeys than [`crate::limits::PREKEYS_LOW`] from now on, or none.
    fn is_low(&self, agent: AgentId, stock: PrekeyStock);
}

impl<F: Fn(AgentId, PrekeyStock) + Send + Sync + 'static> StockSink for F {
    fn is_low(&self, agent: AgentId, stock: PrekeyStock) {
        self(agent, stock);
    }
}

/// Where shards put what is asked about prekeys. Clones lead to the same service.
#[derive(Clone, Debug)]
pub struct PrekeyDoor {
    uploads: mpsc::Sender<Upload>,
    questions: mpsc::Sender<Question>,
}

/// Where a service takes it from: give it to [`crate::Service::with_prekeys`].
pub struct PrekeyRequests {
    pub(crate) uploads: mpsc::Receiver<Upload>,
    pub(crate) questions: mpsc::Receiver<Question>,
}

impl fmt::Debug for PrekeyRequests {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PrekeyRequests")
    }
}

/// A door of at most [`PREKEY_QUESTIONS_MAX`] questions and [`PREKEY_UPLOADS_MAX`] uploads. It may be made before the
/// service is.
#[must_use]
pub fn prekey_requests() -> (PrekeyDoor, PrekeyRequests) {
    let (to_uploads, uploads) = mpsc::channel(PREKEY_UPLOADS_MAX);
    let (to_questions, questions) = mpsc::channel(PREKEY_QUESTIONS_MAX);
    (PrekeyDoor { uploads: to_uploads, questions: to_questions }, PrekeyRequests { uploads, questions })
}

impl PrekeyDoor {
    /// Hands an upload over, without waiting.
    ///
    /// # Errors
    /// Why it was not taken; its reply was not, and will not be, called.
    pub fn upload(&self, upload: Upload) -> Result<(), Refused> {
        self.uploads.try_send(upload).map_err(|error| not_taken(error, |upload| upload.reply.forget()))
    }

    /// Hands a claim over, without waiting.
    ///
    /// # Errors
    /// As [`PrekeyDoor::upload`].
    pub fn claim(&self, claim: Claim) -> Result<(), Refused> {
        self.ask(Question::Claim(claim))
    }

    /// Asks what is left of an agent's prekeys, without waiting.
    ///
    /// # Errors
    /// As [`PrekeyDoor::upload`].
    pub fn stock(&self, agent: AgentId, reply: Reply<PrekeyStock>) -> Result<(), Refused> {
        self.ask(Question::Stock { agent, reply })
    }

    fn ask(&self, question: Question) -> Result<(), Refused> {
        self.questions.try_send(question).map_err(|error| {
            not_taken(error, |question| match question {
                Question::Claim(Claim { reply, .. }) => reply.forget(),
                Question::Stock { reply, .. } => reply.forget(),
            })
        })
    }
}
