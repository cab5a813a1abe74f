//! The disk of an inbox: the sessions of senders, opened once, and what the application acknowledges written down before
//! the node is told.

use std::collections::BTreeSet;
use std::sync::Arc;

use creto_envelope::KeyId;
use creto_envelope::deliver::{DeliveredSpan, Nack};
use tokio::time::{Instant, sleep, sleep_until};

use super::open::{Arrived, Refused};
use super::sessions::{Bounds, IncomingSessions, SessionKey, SessionUse};
use super::window::Place;
use super::{Inbox, Settling, State};
use crate::error::{ReceiveError, StateError};
use crate::limits::{SETTLE_REST, STATE_PAUSE, STATE_WAIT};
use crate::worker::on_disk;

impl Inbox {
    /// The sessions of senders: opened once. Another process that has them is given time to let go.
    pub(crate) async fn sessions(&self) -> Result<Arc<IncomingSessions>, ReceiveError> {
        self.sessions.get_or_try_init(|| self.open_sessions()).await.cloned()
    }

    /// The sessions of senders, for one look: where nobody subscribed in this process they are the file's for as long as this
    /// is held, because they belong to the process that is subscribed. Dropping it may write: do so where that is welcome.
    pub(crate) async fn sessions_to_look(&self) -> Result<Arc<IncomingSessions>, ReceiveError> {
        if *self.wanted.borrow() { self.sessions().await } else { self.open_sessions().await }
    }

    async fn open_sessions(&self) -> Result<Arc<IncomingSessions>, ReceiveError> {
        let Some(folder) = &self.folder else { return Ok(self.keys.sessions_in_memory()) };
        let deadline = Instant::now() + STATE_WAIT;
        loop {
            let (folder, me) = (folder.clone(), self.me);
            let key = self.keys.prekey_file_key();
            let opened = on_disk(move || IncomingSessions::open(&folder, me, key, Bounds::PRODUCTION));
            match opened.await {
                Err(StateError::InUse { .. }) if Instant::now() < deadline => sleep(STATE_PAUSE).await,
                Err(error) => return Err(ReceiveError::State(Arc::new(error))),
                Ok(sessions) => return Ok(Arc::new(sessions)),
            }
        }
    }

    /// No sessions, for messages that belong to none.
    pub(crate) fn no_sessions(&self) -> Arc<IncomingSessions> {
        Arc::new(IncomingSessions::new(Bounds::PRODUCTION))
    }

    /// Settles what the application acknowledges, until nothing more will come; then lets go of the sessions. What arrives
    /// while a transaction is under way, and in a short rest after it, goes with the next: the disk is the node's too.
    pub(crate) async fn keep(self: Arc<Self>) {
        let mut rested = Instant::now();
        loop {
            if self.is_settling() {
                // The first one after a rest does not wait.
                sleep_until(rested).await;
            }
            let batch = {
                let mut state = self.state();
                let batch = std::mem::take(&mut state.settling);
                if batch.is_empty() && state.ended.is_some() {
                    break;
                }
                state.committing = !batch.is_empty();
                batch
            };
            let Some(sessions) = self.sessions.get().cloned().filter(|_| !batch.is_empty()) else {
                self.to_settle.notified().await;
                continue;
            };
            let (done, refused): (Vec<_>, Vec<_>) = batch.iter().partition(|settling| settling.nack.is_none());
            let done: Vec<SessionUse> = done.into_iter().map(|settling: Settling| settling.session).collect();
            let number = |settling: &Settling| settling.place.map_or(0, |place| place.mailbox_sequence);
            let refused: Vec<_> = refused.iter().map(|settling| (settling.session, number(settling))).collect();
            let outcome = match self.folder {
                None => sessions.settle_and_keep(done, refused),
                Some(_) => {
                    let outcome = on_disk(move || sessions.settle_and_keep(done, refused)).await;
                    rested = Instant::now() + SETTLE_REST;
                    self.counters.state_commits.add(1);
                    outcome
                }
            };
            if let Err(error) = &outcome {
                tracing::error!(%error, "what was received cannot be remembered, so it is not acknowledged");
            }
            let mut state = self.state();
            state.committing = false;
            match outcome {
                Ok(()) => {
                    for Settling { nack, place, .. } in batch {
                        state.answer(place, nack);
                    }
                }
                Err(error) => {
                    // Before anybody else looks: what is settled in memory only would look as good as on disk.
                    let reason = ReceiveError::State(Arc::new(error));
                    state.ended.get_or_insert_with(|| reason.clone());
                    state.settling.clear();
                    drop(state);
                    self.end(reason);
                }
            }
            self.changed.notify_one();
        }
        if let Some(sessions) = self.sessions.get().cloned() {
            on_disk(move || sessions.release()).await;
        }
    }

    /// Whether acknowledgements wait for the disk.
    pub(super) fn is_settling(&self) -> bool {
        let state = self.state();
        state.committing || !state.settling.is_empty()
    }

    /// A message that was settled before came again.
    pub(super) fn settled_before(&self, session: SessionUse, span: &DeliveredSpan, stream: u64) {
        let mut state = self.state();
        state.credit.arrived(span.envelope.len());
        state.credit.finished(span.envelope.len());
        let place = Place { mailbox_sequence: span.mailbox_sequence, stream };
        self.done(&mut state, Some(session), Some(place), None);
        drop(state);
        self.counters.duplicates_hidden.add(1);
        self.changed.notify_one();
    }

    /// Writes the session of a message that came again to disk, if it is not there, before the message is shown.
    pub(super) async fn keep_session(&self, session: SessionUse) -> Result<(), ReceiveError> {
        let sessions = self.sessions().await?;
        if self.folder.is_none() {
            return Ok(());
        }
        let kept = on_disk(move || sessions.keep_session(session.key)).await;
        kept.map_err(|error| ReceiveError::State(Arc::new(error)))
    }

    /// The one-time prekeys that these messages were sealed to and that are not erased yet: their sessions are written to disk,
    /// then they are, before the messages are shown. One transaction for all of them.
    pub(super) async fn erase_used_prekeys(&self, verdicts: &[Result<Arrived, Refused>]) -> Result<(), ReceiveError> {
        let named = |verdict: &Result<Arrived, Refused>| match verdict {
            Ok(Arrived::Message(message)) => Some((message.session?.key, message.prekey?)),
            _ => None,
        };
        let mut named = verdicts.iter().filter_map(named).peekable();
        if named.peek().is_none() {
            return Ok(());
        }
        let sessions = self.sessions().await?;
        // Nothing is allocated for the many that follow once it is erased.
        let used: Vec<(SessionKey, KeyId)> = named.filter(|(_, prekey)| sessions.is_one_time(prekey)).collect();
        if used.is_empty() {
            return Ok(());
        }
        self.counters.prekeys_used.add(used.iter().map(|(_, prekey)| prekey.0).collect::<BTreeSet<_>>().len());
        let used: Vec<SessionKey> = used.into_iter().map(|(session, _)| session).collect();
        let kept = on_disk(move || sessions.keep_and_erase(&used)).await;
        kept.map_err(|error| ReceiveError::State(Arc::new(error)))
    }

    /// Dead letters were deleted: their keys go, where this process has them.
    pub(crate) async fn purged(&self, mailbox_sequences: &[u64]) {
        let Some(sessions) = self.sessions.get().cloned() else { return };
        let numbers = mailbox_sequences.to_vec();
        if let Err(error) = on_disk(move || sessions.purge_refused(&numbers)).await {
            tracing::warn!(%error, "keys of dead letters that were deleted are still on the disk");
        }
    }

    /// The application is done with a message, or refuses it: of a session that is on disk first, of any other the node is
    /// told right away.
    pub(super) fn done(
        &self,
        state: &mut State,
        session: Option<SessionUse>,
        place: Option<Place>,
        nack: Option<Nack>,
    ) {
        match session {
            // Without a keeper nothing can be remembered, so nothing may be acknowledged.
            Some(_) if state.ended.is_some() => {}
            Some(session) => {
                state.settling.push(Settling { session, nack, place });
                self.to_settle.notify_one();
            }
            None => state.answer(place, nack),
        }
    }
}
