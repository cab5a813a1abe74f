//! Group commit of changes: whatever arrived while one commit was in flight is the next one.

use std::sync::Arc;

use creto_control_storage::StorageError;
use creto_envelope::enrol::Enrolled;
use creto_envelope::prekeys::PrekeyStock;
use creto_envelope::{AgentId, RejectCode, TrustDomain};
use tokio::sync::{mpsc, oneshot};

use crate::directory::{
    AttributesSet, Change, Changed, ChannelPut, Directory, MailboxSet, Registered, Rotated, StatesSet, TokenSet,
};
use crate::enrolment;
use crate::error::ServiceError;
use crate::health::Health;
use crate::limits::{COMMIT_CHANGES_MAX, REFRESH_POLL};
use crate::prekeys::tables::Uploaded;
use crate::rotation::{Publication, Publications, Reply, Rotation};
use crate::service::{Published, SnapshotSink, wall_clock_ms};

/// A change, and who waits for its answer.
pub(crate) struct Pending {
    pub(crate) change: Change,
    pub(crate) answer: Answer,
    /// Who asked for it.
    pub(crate) by: AgentId,
}

impl Answer {
    /// Whether nobody waits for it any more.
    fn is_abandoned(&self) -> bool {
        match self {
            Self::Registration(answer) => answer.is_closed(),
            Self::Mailbox(answer) => answer.is_closed(),
            Self::Policy(answer) => answer.is_closed(),
            Self::Attributes(answer) => answer.is_closed(),
            Self::State(answer) => answer.is_closed(),
            Self::Token(answer) => answer.is_closed(),
            Self::Channel(answer) => answer.is_closed(),
            // What nobody waits for is to be done in any case, and of agents the shard knows who is gone.
            Self::Key(_) | Self::Enrolment(_) | Self::Prekeys(_) | Self::Nobody => false,
        }
    }
}

/// Who waits for an answer.
pub(crate) enum Answer {
    /// A request of the API. No answer, because the sender was dropped, means that storage failed.
    Registration(oneshot::Sender<Registered>),
    /// The same, of a mailbox.
    Mailbox(oneshot::Sender<MailboxSet>),
    /// The epoch from which a policy is in force. No answer as above.
    Policy(oneshot::Sender<u64>),
    /// The same, of an agent's attributes.
    Attributes(oneshot::Sender<AttributesSet>),
    /// The same, of states.
    State(oneshot::Sender<StatesSet>),
    /// The same, of tokens.
    Token(oneshot::Sender<TokenSet>),
    /// The same, of channels.
    Channel(oneshot::Sender<ChannelPut>),
    /// An agent, through its shard.
    Key(Reply),
    /// Who is to become an agent, through a shard.
    Enrolment(Reply<Enrolled>),
    /// Nobody.
    Nobody,
    /// The same, of prekeys.
    Prekeys(Reply<PrekeyStock>),
}

/// Checks what agents publish, and hands on what may be written, until the writer is gone.
pub(crate) async fn take_publications(
    mut publications: Publications,
    changes: mpsc::Sender<Pending>,
    trust_domain: TrustDomain,
) {
    while let Some(publication) = publications.next().await {
        let Publication { agent, mode, record, reply } = publication;
        match Rotation::check(agent, mode, *record, &trust_domain, wall_clock_ms()) {
            Err(code) => reply.send(Err(code.into())),
            Ok(rotation) => {
                let pending = Pending { change: Change::Rotate(rotation), answer: Answer::Key(reply), by: agent };
                // Without a writer the reply is dropped, which says so.
                if changes.send(pending).await.is_err() {
                    return;
                }
            }
        }
    }
}

/// Writes until every sender is gone.
///
/// Commits sync the disk, so they run beside the runtime, one at a time; meanwhile the API keeps answering.
pub(crate) async fn write(
    mut directory: Directory,
    mut sink: Box<dyn SnapshotSink>,
    published: Published,
    health: Health,
    mut pending: mpsc::Receiver<Pending>,
) {
    let mut batch = Vec::with_capacity(COMMIT_CHANGES_MAX);
    loop {
        let arrived = pending.recv_many(&mut batch, COMMIT_CHANGES_MAX);
        // What was stored without anybody being told of it is looked for, and what could not be told is told, also when nobody wants
        // anything.
        let arrived = match directory.is_stale() || directory.has_untold() {
            true => tokio::time::timeout(REFRESH_POLL, arrived).await,
            false => Ok(arrived.await),
        };
        if arrived == Ok(0) {
            return directory.end();
        }
        let requests = std::mem::take(&mut batch);
        let (published, health) = (published.clone(), health.clone());
        let commit = tokio::task::spawn_blocking(move || {
            if requests.is_empty() {
                refresh(&mut directory, sink.as_ref(), &published, &health);
            }
            for mut requests in transactions(requests) {
                // Whoever gave up while the storage was away, and was told so, does not want it any more.
                requests.retain(|request| !request.answer.is_abandoned());
                if requests.is_empty() {
                    continue;
                }
                commit(&mut directory, sink.as_ref(), &published, &health, requests);
            }
            (directory, sink)
        });
        match commit.await {
            Ok(state) => (directory, sink) = state,
            Err(panic) => std::panic::resume_unwind(panic.into_panic()),
        }
    }
}

/// What is committed together: as much as has arrived, but only one change that may concern very many agents.
fn transactions(requests: Vec<Pending>) -> Vec<Vec<Pending>> {
    let mut transactions: Vec<Vec<Pending>> = vec![Vec::new()];
    for request in requests {
        let is_bulk = request.change.is_bulk();
        transactions.last_mut().expect("there is always a last one").push(request);
        if is_bulk {
            transactions.push(Vec::new());
        }
    }
    transactions.retain(|requests| !requests.is_empty());
    transactions
}

/// Whoever watches the node hears of what no waiting mends.
pub(crate) fn note_lost(error: &ServiceError, health: &Health) {
    match error {
        ServiceError::Storage(StorageError::Overtaken { .. }) => {
            health.lose_directory("another node has written to the database; restart this node, or stop it");
        }
        ServiceError::Storage(StorageError::WentBack { .. }) => {
            health.lose_directory(
                "the database went back to an earlier time; its log says what to do, then restart this node",
            );
        }
        _ => {}
    }
}

fn refresh(directory: &mut Directory, sink: &dyn SnapshotSink, published: &Published, health: &Health) {
    let refreshed = directory.change(Vec::new(), wall_clock_ms());
    publish_if(directory.take_reloaded(), directory, sink, published);
    // Behind the snapshot that was loaded again.
    health.set_directory_in_doubt(directory.is_stale());
    if let Err(error) = refreshed {
        note_lost(&error, health);
        tracing::debug!(%error, "the directory cannot be loaded again yet");
    }
}

fn publish_if(is_new: bool, directory: &Directory, sink: &dyn SnapshotSink, published: &Published) {
    if is_new {
        let snapshot = Arc::new(directory.snapshot());
        published.set(&snapshot);
        sink.publish(snapshot);
    }
}

fn commit(
    directory: &mut Directory,
    sink: &dyn SnapshotSink,
    published: &Published,
    health: &Health,
    requests: Vec<Pending>,
) {
    let (changes, answers): (Vec<_>, Vec<_>) =
        requests.into_iter().map(|request| ((request.by, request.change), request.answer)).unzip();
    let changed = directory.change_by(changes, wall_clock_ms());
    if directory.is_stale() {
        health.set_directory_in_doubt(true);
    }
    let is_reloaded = directory.take_reloaded();
    match changed {
        Ok(results) => {
            // Before the answers: who is told "registered" and logs in at once must be known to the shards, and an
            // agent whose key was replaced may rely on it that the old one is handed out no more.
            publish_if(is_reloaded || results.iter().any(Changed::is_new), directory, sink, published);
            health.set_directory_in_doubt(directory.is_stale());
            for (result, answer) in results.into_iter().zip(answers) {
                tell(result, answer);
            }
        }
        Err(error) => {
            publish_if(is_reloaded, directory, sink, published);
            health.set_directory_in_doubt(directory.is_stale());
            note_lost(&error, health);
            tracing::error!(%error, change_count = answers.len(), "changes of the directory were refused");
            for answer in answers {
                match answer {
                    Answer::Key(reply) => reply.send(Err(RejectCode::StorageFull.into())),
                    Answer::Enrolment(reply) => reply.send(Err(RejectCode::StorageFull.into())),
                    Answer::Prekeys(reply) => reply.send(Err(RejectCode::StorageFull.into())),
                    _ => {}
                }
            }
        }
    }
}

fn tell(result: Changed, answer: Answer) {
    match (result, answer) {
        (Changed::Register(result), Answer::Registration(answer)) => {
            // A peer that went away loses the answer only; it may ask again and is told that it is known.
            let _gone = answer.send(result);
        }
        (Changed::Register(result), Answer::Enrolment(reply)) => reply.send(Ok(enrolment::answer_of(&result))),
        (Changed::Mailbox(result), Answer::Mailbox(answer)) => {
            let _gone = answer.send(result);
        }
        (Changed::Policy(epoch), Answer::Policy(answer)) => {
            let _gone = answer.send(epoch);
        }
        (Changed::Attributes(result), Answer::Attributes(answer)) => {
            let _gone = answer.send(result);
        }
        (Changed::Token(result), Answer::Token(answer)) => {
            let _gone = answer.send(result);
        }
        (Changed::Channel(result), Answer::Channel(answer)) => {
            let _gone = answer.send(result);
        }
        (Changed::State(result), Answer::State(answer)) => {
            let _gone = answer.send(result);
        }
        (Changed::Rotate(result), Answer::Key(reply)) => reply.send(match result {
            Rotated::Replaced(version) | Rotated::Known(version) => Ok(version),
            Rotated::Refused(refused) => Err(refused),
        }),
        (Changed::Told, Answer::Nobody) => {}
        (Changed::Prekeys(result), Answer::Prekeys(reply)) => reply.send(match result {
            Uploaded::Added(stock) | Uploaded::Known(stock) => Ok(stock),
            Uploaded::Refused(refused) => Err(refused),
        }),
        _ => unreachable!("the answer to a change is of its kind"),
    }
}

#[cfg(test)]
mod tests;
