//! The door for agents that replace their encryption key: what arrived on a control stream, on its way to the writer.
//!
//! A shard hands a [`Publication`] over without waiting, and is answered later, from the thread that committed it, after
//! the new snapshot was published. Whatever happens, there is exactly one answer.

use std::fmt;

use creto_envelope::control::RotationMode;
use creto_envelope::{AgentId, Purpose, RejectCode, SignedKeyRecord, TrustDomain};
use tokio::sync::mpsc;

use crate::limits::{PUBLICATIONS_MAX, RETRY_MS};
use crate::registration::Registration;

#[cfg(test)]
mod tests;

/// The version that is current now, or why the record was refused.
pub type Answer = Result<u32, Refused>;

/// Why a published key record was refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Refused {
    /// The code for the agent.
    pub code: RejectCode,
    /// When the same record may be accepted, in milliseconds from now; zero when that will not be.
    pub retry_after_ms: u32,
}

impl From<RejectCode> for Refused {
    fn from(code: RejectCode) -> Self {
        Self { code, retry_after_ms: if code.is_retryable() { RETRY_MS } else { 0 } }
    }
}

/// The next key record of an agent that is logged in.
#[derive(Debug)]
pub struct Publication {
    /// Who is logged in.
    pub agent: AgentId,
    /// What becomes of the key that is replaced.
    pub mode: RotationMode,
    /// The record; nothing about it was checked but its form.
    pub record: Box<SignedKeyRecord>,
    /// Who waits for the answer.
    pub reply: Reply,
}

/// Carries one answer. Dropped without one, it says that the service is shutting down.
pub struct Reply<T = u32>(Option<ReplyTo<T>>);

type ReplyTo<T> = Box<dyn FnOnce(Result<T, Refused>) + Send>;

impl<T> Reply<T> {
    /// Calls `answer` once, on a thread of the service; it should hand the answer on and return.
    pub fn new(answer: impl FnOnce(Result<T, Refused>) + Send + 'static) -> Self {
        Self(Some(Box::new(answer)))
    }

    pub(crate) fn send(mut self, answer: Result<T, Refused>) {
        if let Some(reply) = self.0.take() {
            reply(answer);
        }
    }

    /// Whoever waits has the answer already.
    pub(crate) fn forget(mut self) {
        self.0 = None;
    }
}

impl<T> Drop for Reply<T> {
    fn drop(&mut self) {
        if let Some(reply) = self.0.take() {
            reply(Err(RejectCode::ShuttingDown.into()));
        }
    }
}

impl<T> fmt::Debug for Reply<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Reply")
    }
}

/// Where shards put publications. Clones lead to the same service.
#[derive(Clone, Debug)]
pub struct Publisher(mpsc::Sender<Publication>);

/// Where a service takes them from: give it to [`crate::Service::spawn_with`].
#[derive(Debug)]
pub struct Publications(mpsc::Receiver<Publication>);

/// A door of at most [`PUBLICATIONS_MAX`] publications. It may be made before the service is.
#[must_use]
pub fn publications() -> (Publisher, Publications) {
    let (publisher, publications) = mpsc::channel(PUBLICATIONS_MAX);
    (Publisher(publisher), Publications(publications))
}

impl Publisher {
    /// Hands a publication over, without waiting.
    ///
    /// # Errors
    /// Why it was not taken; its reply was not, and will not be, called.
    pub fn publish(&self, publication: Publication) -> Result<(), Refused> {
        self.0.try_send(publication).map_err(|error| not_taken(error, |back| back.reply.forget()))
    }
}

/// Why a door did not take something; `forget` is called with what came back, so that nobody is answered twice.
pub(crate) fn not_taken<T>(error: mpsc::error::TrySendError<T>, forget: impl FnOnce(T)) -> Refused {
    let (back, code) = match error {
        mpsc::error::TrySendError::Full(back) => (back, RejectCode::Overloaded),
        mpsc::error::TrySendError::Closed(back) => (back, RejectCode::ShuttingDown),
    };
    forget(back);
    code.into()
}

impl Publications {
    pub(crate) async fn next(&mut self) -> Option<Publication> {
        self.0.recv().await
    }
}

/// A published record that was checked in every way that needs no look into the directory.
#[derive(Debug)]
pub(crate) struct Rotation {
    pub(crate) mode: RotationMode,
    registration: Registration,
}

impl Rotation {
    /// Checks what a record says about itself, and its signatures. About 0.2 ms.
    pub(crate) fn check(
        agent: AgentId,
        mode: RotationMode,
        record: SignedKeyRecord,
        trust_domain: &TrustDomain,
        now_ms: u64,
    ) -> Result<Self, RejectCode> {
        if record.record.agent_id() != agent {
            return Err(RejectCode::SenderMismatch);
        }
        // Signed, so that nobody between its agent and here decides what becomes of the replaced key.
        if record.record.purpose != Some(Purpose::Rotation(mode)) {
            return Err(RejectCode::RotationMode);
        }
        // It counts from now on: a record that starts later would lock its own agent out.
        if record.record.valid_from_ms > now_ms {
            return Err(RejectCode::RotationRecord);
        }
        let registration = Registration::of(record, trust_domain, now_ms).map_err(|_| RejectCode::RotationRecord)?;
        Ok(Self { mode, registration })
    }

    pub(crate) fn signed(&self) -> &SignedKeyRecord {
        self.registration.signed()
    }

    pub(crate) fn into_signed(self) -> SignedKeyRecord {
        self.registration.into_signed()
    }
}
