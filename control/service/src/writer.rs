//! Group commit of registrations: whatever arrived while one commit was in flight is the next one.

use std::sync::Arc;

use tokio::sync::{mpsc, oneshot};

use crate::directory::{Directory, Registered};
use crate::error::ServiceError;
use crate::limits::COMMIT_REGISTRATIONS_MAX;
use crate::registration::Registration;
use crate::service::{SnapshotSink, wall_clock_ms};

/// A registration that waits for its answer. No answer, because the sender was dropped, means that storage failed.
pub(crate) struct Pending {
    pub(crate) registration: Registration,
    pub(crate) answer: oneshot::Sender<Registered>,
}

/// Writes until every sender is gone, then hands the directory back.
///
/// Commits sync the disk, so they run beside the runtime, one at a time; meanwhile the API keeps answering.
pub(crate) async fn write(
    mut directory: Directory,
    mut sink: Box<dyn SnapshotSink>,
    mut pending: mpsc::Receiver<Pending>,
) {
    let mut batch = Vec::with_capacity(COMMIT_REGISTRATIONS_MAX);
    while pending.recv_many(&mut batch, COMMIT_REGISTRATIONS_MAX).await > 0 {
        let requests = std::mem::take(&mut batch);
        let commit = tokio::task::spawn_blocking(move || {
            commit(&mut directory, sink.as_ref(), requests);
            (directory, sink)
        });
        match commit.await {
            Ok(state) => (directory, sink) = state,
            Err(panic) => std::panic::resume_unwind(panic.into_panic()),
        }
    }
}

fn commit(directory: &mut Directory, sink: &dyn SnapshotSink, requests: Vec<Pending>) {
    let (registrations, answers): (Vec<_>, Vec<_>) =
        requests.into_iter().map(|request| (request.registration, request.answer)).unzip();
    match directory.register(registrations, wall_clock_ms()) {
        Ok(results) => {
            // Before the answers: who is told "registered" and logs in at once must be known to the shards.
            if results.iter().any(|result| matches!(result, Registered::Created(_))) {
                sink.publish(Arc::new(directory.snapshot()));
            }
            for (result, answer) in results.into_iter().zip(answers) {
                // A peer that went away loses the answer only; it may ask again and is told that it is known.
                let _gone = answer.send(result);
            }
        }
        Err(error) => log_failure(&error, answers.len()),
    }
}

fn log_failure(error: &ServiceError, request_count: usize) {
    tracing::error!(%error, request_count, "registrations were refused");
}
