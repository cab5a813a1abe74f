//! The door for agents that are not registered yet: what arrived on a control stream, with a token, on its way to the writer.
//!
//! Whoever comes this way is a stranger from the network: without a token nobody is registered, also where the socket of the API
//! asks for none, and nothing is looked at before the token is known. As with [`rotation`](crate::rotation) there is exactly
//! one answer.

use std::fmt;
use std::sync::Arc;

use creto_audit::event::{Code, Peer};
use creto_audit::{Label, What};
use creto_envelope::enrol::Enrolled;
use creto_envelope::{RejectCode, SignedKeyRecord};
use tokio::sync::mpsc;

use crate::directory::{Change, EnrolRequest, Reader, Registered, token_in};
use crate::http::number_of;
use crate::limits::ENROLMENTS_MAX;
use crate::registration::Registration;
use crate::rotation::{Refused, Reply, not_taken};
use crate::service::wall_clock_ms;
use crate::telling::Teller;
use crate::tokens::TokenHash;
use crate::writer::{Answer, Pending};

/// An agent that is not logged in, and wants to be registered.
pub struct EnrolmentAsked {
    /// SHA-256 of the token's secret.
    pub token: [u8; 32],
    /// From where it comes.
    pub peer: Peer,
    /// What is to be registered; nothing about it was checked but its form.
    pub record: Box<SignedKeyRecord>,
    /// Who waits for the answer.
    pub reply: Reply<Enrolled>,
}

impl fmt::Debug for EnrolmentAsked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EnrolmentAsked").field("name", &self.record.record.name).finish_non_exhaustive()
    }
}

/// Where shards put enrolments. Clones lead to the same service.
#[derive(Clone, Debug)]
pub struct EnrolmentDoor(mpsc::Sender<EnrolmentAsked>);

/// Where a service takes them from: give it to [`crate::Service::with_enrolments`].
#[derive(Debug)]
pub struct Enrolments(pub(crate) mpsc::Receiver<EnrolmentAsked>);

/// A door of at most [`ENROLMENTS_MAX`] enrolments. It may be made before the service is.
#[must_use]
pub fn enrolments() -> (EnrolmentDoor, Enrolments) {
    let (door, enrolments) = mpsc::channel(ENROLMENTS_MAX);
    (EnrolmentDoor(door), Enrolments(enrolments))
}

impl EnrolmentDoor {
    /// Hands an enrolment over, without waiting.
    ///
    /// # Errors
    /// Why it was not taken; its reply was not, and will not be, called.
    pub fn enrol(&self, asked: EnrolmentAsked) -> Result<(), Refused> {
        self.0.try_send(asked).map_err(|error| not_taken(error, |back| back.reply.forget()))
    }
}

/// Checks what strangers bring, and hands on what may be written, until the writer is gone.
pub(crate) async fn take_enrolments(
    enrolments: Enrolments,
    changes: mpsc::Sender<Pending>,
    reader: Reader,
    teller: Teller,
) {
    let Enrolments(mut enrolments) = enrolments;
    let reader = Arc::new(reader);
    while let Some(asked) = enrolments.recv().await {
        let EnrolmentAsked { token, peer, record, reply } = asked;
        let reply = told_of_refusals(reply, token, peer, Label::of(record.record.name.as_str()), teller.clone());
        let looking = Arc::clone(&reader);
        let checked = tokio::task::spawn_blocking(move || check(&looking, &token, *record));
        match checked.await {
            Ok(Err(answer)) => reply.send(answer),
            Ok(Ok(request)) => {
                let by = request.registration().signed().record.agent_id();
                let change = Change::Enrol(request);
                let pending = Pending { change, answer: Answer::Enrolment(reply), by };
                // Without a writer the reply is dropped, which says so.
                if changes.send(pending).await.is_err() {
                    return;
                }
            }
            Err(error) => match error.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                // The service is shutting down; the reply is dropped, which says so.
                Err(_) => return,
            },
        }
    }
}

/// What may be written, or the answer. A token that was never made, or is for others, costs one look into the
/// directory, and tells nothing of the name; what is said of others is said in the transaction.
fn check(
    reader: &Reader,
    token: &TokenHash,
    record: SignedKeyRecord,
) -> Result<EnrolRequest, Result<Enrolled, Refused>> {
    let refused = |code| Err(Ok(Enrolled::Refused(number_of(code).0)));
    match reader.check_token(token, &record.record.name) {
        Ok(None) => {}
        Ok(Some(code)) => return refused(code),
        Err(error) => {
            tracing::error!(%error, "a token cannot be looked up");
            return Err(Err(RejectCode::StorageFull.into()));
        }
    }
    let registration = Registration::of(record, reader.trust_domain(), wall_clock_ms());
    let request = registration.and_then(|registration| EnrolRequest::new(registration, *token));
    request.or_else(|error| refused(error.code()))
}

/// The same reply, which has the audit log told when it says no.
fn told_of_refusals(
    reply: Reply<Enrolled>,
    token: TokenHash,
    peer: Peer,
    name: Label,
    teller: Teller,
) -> Reply<Enrolled> {
    Reply::new(move |answer| {
        if let Ok(Enrolled::Refused(code)) = answer {
            teller.refused(What::EnrolmentRefused { token: token_in(&token), peer, code: Code(code) }, name);
        }
        reply.send(answer);
    })
}

/// What the writer did, as the agent is told.
pub(crate) fn answer_of(registered: &Registered) -> Enrolled {
    match registered {
        Registered::Created(_) => Enrolled::Created,
        Registered::Known(_) => Enrolled::Known,
        Registered::Refused(code, _) => Enrolled::Refused(number_of(*code).0),
    }
}
