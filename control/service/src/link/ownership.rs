//! Whether this service still has the directory: nothing is confirmed to a node that is not known, since the node asked, to be true.
//!
//! A file is locked for as long as the process lives. A database may have been given to another process without a word, when the
//! connection that holds it was lost: what that one stores is not told here.

use std::sync::Arc;

use creto_control_storage::StorageError;
use tokio::sync::{Notify, watch};
use tokio::time::sleep;

use super::{ADMITTED_POLL, Moment};
use crate::error::ServiceError;
use crate::health::Health;
use crate::writer::note_lost;

/// When it was seen last. Cheap to clone; all clones are one.
#[derive(Clone, Debug)]
pub(super) struct Ownership {
    wanted: Arc<Notify>,
    /// The moment before the last look that found it so.
    seen: watch::Sender<Option<Moment>>,
}

impl Ownership {
    pub(super) fn new() -> Self {
        Self { wanted: Arc::default(), seen: watch::Sender::new(None) }
    }

    /// Returns when a look that began after this call has found that the directory is this service's.
    pub(super) async fn seen_from_now(&self) {
        let since = Moment::now();
        let mut seen = self.seen.subscribe();
        self.wanted.notify_one();
        // The sender lives as long as this.
        let _ = seen.wait_for(|seen| seen.is_some_and(|seen| seen >= since)).await;
    }

    /// Looks as often as somebody wants to know, one look at a time. It ends when `look` panics.
    pub(super) async fn watch(
        self,
        health: Health,
        look: impl Fn() -> Result<(), StorageError> + Clone + Send + 'static,
    ) {
        loop {
            self.wanted.notified().await;
            let (began, look) = (Moment::now(), look.clone());
            match tokio::task::spawn_blocking(look).await {
                Ok(Ok(())) => drop(self.seen.send_replace(Some(began))),
                Ok(Err(error)) => {
                    tracing::debug!(%error, "nothing is confirmed to nodes: the directory may be another's");
                    note_lost(&ServiceError::Storage(error), &health);
                    sleep(ADMITTED_POLL).await;
                    self.wanted.notify_one();
                }
                Err(_) => return,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    fn lost() -> StorageError {
        StorageError::Taken { database: "test".to_owned() }
    }

    #[tokio::test]
    async fn a_look_that_began_before_somebody_asked_is_no_answer_to_them() {
        let ownership = Ownership::new();
        let (begun, begins) = mpsc::channel();
        let (answer, answers) = mpsc::channel();
        let answers = Arc::new(std::sync::Mutex::new(answers));
        let look = move || {
            begun.send(()).unwrap();
            answers.lock().unwrap().recv().unwrap()
        };
        let looking = tokio::spawn(ownership.clone().watch(Health::new(0), look));
        let ask = |ownership: &Ownership| {
            let ownership = ownership.clone();
            tokio::spawn(async move { ownership.seen_from_now().await })
        };
        let wait = |begins: mpsc::Receiver<()>| async {
            tokio::task::spawn_blocking(move || {
                begins.recv().unwrap();
                begins
            })
            .await
            .unwrap()
        };
        let first = ask(&ownership);
        let begins = wait(begins).await;
        // It asks while the look for the first one is under way.
        let second = ask(&ownership);
        tokio::task::yield_now().await;
        answer.send(Ok(())).unwrap();
        first.await.unwrap();
        let begins = wait(begins).await;
        assert!(!second.is_finished(), "what was seen is from before");
        answer.send(Err(lost())).unwrap();
        let _begins = wait(begins).await;
        assert!(!second.is_finished(), "it is not seen to be so");
        answer.send(Ok(())).unwrap();
        second.await.unwrap();
        looking.abort();
    }
}
