//! Looks after this agent's own prekeys: that the node has enough of them, and that what is of no use any more is erased.

use std::sync::Arc;
use std::time::Duration;

use creto_envelope::prekeys::{PrekeyBatch, PrekeyKind, PrekeyStock, encode_prekey_upload};
use creto_envelope::{KeyId, RejectCode};
use tokio::sync::watch;
use tokio::time::{Instant, sleep};
use zeroize::Zeroizing;

use super::{Prekeys, make};
use crate::clock;
use crate::error::{PrekeyError, StateError};
use crate::limits::{
    KEYS_LOOKED_AFTER, PREKEY_IN_USE_MAX, PREKEY_LAST_RESORT_AGE, PREKEY_LAST_RESORT_GRACE, PREKEYS_LOST_PAUSE,
    PREKEYS_LOW, PREKEYS_RETRY, PREKEYS_STOCK,
};
use crate::receiver::sessions::IncomingSessions;
use crate::state::prekeys::{Grace, Made, PrekeySecrets};
use crate::worker::{offload, on_disk};

/// How long what is over is kept.
const GRACE: Grace =
    Grace { last_resort_ms: millis(PREKEY_LAST_RESORT_GRACE), in_use_ms_max: millis(PREKEY_IN_USE_MAX) };

/// A batch whose secret halves are on disk, and of which nobody knows whether the node has it.
struct Pending {
    batch: PrekeyBatch,
    ids: Vec<KeyId>,
    /// It was sent before, and the answer was lost.
    is_again: bool,
}

/// What the keeper remembers from one look to the next.
#[derive(Default)]
struct Memory {
    pending: Option<Pending>,
    /// Of the last batch: each is signed later than the one before.
    signed_at_ms: u64,
    /// The version for which the node had enough.
    stocked: Option<u32>,
    /// The version of which the node takes none: it has another key of this agent, from another copy of its keys.
    behind: Option<u32>,
    /// The version of which the node has prekeys whose secret halves are gone, and when that was seen.
    lost: Option<(u32, Instant)>,
}

impl Memory {
    /// The node says that it has prekeys of this version whose secret halves are gone. Whether that is news, and whether the key is
    /// to be replaced for it: a node that says so of each key in turn would have an agent replace it for ever.
    fn lost(&mut self, version: u32, now: Instant) -> (bool, bool) {
        match self.lost {
            Some((lost, _)) if lost == version => (false, true),
            Some((_, at)) if now.duration_since(at) < PREKEYS_LOST_PAUSE => (false, false),
            _ => {
                self.lost = Some((version, now));
                (true, true)
            }
        }
    }
}

impl Prekeys {
    /// Looks after them until the agent closes: erases what is over, with every new key and every minute, whether or not this
    /// process receives; and where it makes some, restocks with every connection, when few are left, after a new key, and every
    /// minute.
    pub(crate) async fn look_after(self: Arc<Self>, closing: watch::Receiver<bool>) {
        tokio::join!(self.keep_erasing(closing.clone()), self.keep_stocked(closing));
    }

    /// Nothing that the node says, or does not say, holds this up.
    async fn keep_erasing(&self, mut closing: watch::Receiver<bool>) {
        let mut store = self.store.subscribe();
        loop {
            let is_replaced = tokio::select! {
                // An error means that every handle is gone: the same.
                _ = closing.wait_for(|closing| *closing) => return,
                () = self.replaced.notified() => true,
                // The sender lives as long as this.
                _ = store.changed() => false,
                () = sleep(KEYS_LOOKED_AFTER) => false,
            };
            self.erase_ended().await;
            if is_replaced {
                self.wake.notify_one();
            }
        }
    }

    /// Erases what is of no use any more. Where this process does not receive, the file is opened for it, if no other process has
    /// it: that one erases.
    pub(crate) async fn erase_ended(&self) {
        let _turn = self.erasing.lock().await;
        let (keys, store) = (Arc::clone(&self.keys), self.store.borrow().clone());
        let (me, file_key, current) = (keys.id(), keys.prekey_file_key(), keys.record_version());
        let folder = self.folder.clone();
        let ended = on_disk(move || {
            // A key that is newer than the current one may be published any moment.
            let has_version = |version| version >= current || keys.has_version(version);
            let now_ms = clock::now_ms();
            let end = |prekeys: &mut PrekeySecrets| prekeys.end(has_version, GRACE, now_ms);
            let ended = store.and_then(|sessions| sessions.prekeys(end));
            let here = || {
                let folder = folder?;
                Some(PrekeySecrets::end_in(&folder, me, file_key, has_version, GRACE, now_ms))
            };
            ended.or_else(here).unwrap_or(Ok(()))
        })
        .await;
        match ended {
            Ok(()) | Err(StateError::InUse { .. }) => {}
            Err(error) => {
                tracing::error!(%error, "prekeys that are of no use any more could not be erased, and will be later");
            }
        }
    }

    async fn keep_stocked(&self, mut closing: watch::Receiver<bool>) {
        if !self.makes {
            return;
        }
        let mut memory = Memory::default();
        let mut pause = KEYS_LOOKED_AFTER;
        loop {
            let is_woken = tokio::select! {
                // An error means that every handle is gone: the same.
                _ = closing.wait_for(|closing| *closing) => return,
                () = self.wake.notified() => true,
                () = sleep(pause) => false,
            };
            let Some(sessions) = self.store.borrow().clone() else { continue };
            self.is_busy.send_replace(true);
            let look = self.look(&sessions, is_woken, &mut memory);
            tokio::select! {
                _ = async { closing.clone().wait_for(|closing| *closing).await.map(drop) } => {
                    self.is_busy.send_replace(false);
                    return;
                }
                retry = look => pause = retry.unwrap_or(KEYS_LOOKED_AFTER),
            }
            self.is_busy.send_replace(false);
        }
    }

    /// Uploads what is due. Says when to look again, if it should be another time than usual.
    async fn look(&self, sessions: &Arc<IncomingSessions>, is_woken: bool, memory: &mut Memory) -> Option<Duration> {
        let version = self.keys.record_version();
        let made_ms = self.secrets(sessions, move |prekeys| prekeys.last_resort_made_ms(version)).await?;
        let is_due =
            made_ms.is_none_or(|made_ms| clock::now_ms() >= made_ms.saturating_add(millis(PREKEY_LAST_RESORT_AGE)));
        let has_enough = !is_due && memory.stocked == Some(version) && memory.pending.is_none();
        if !is_woken && (has_enough || memory.behind == Some(version)) {
            return None;
        }
        let trouble = match self.restock(sessions, version, is_due, memory).await {
            Ok(()) => return None,
            Err(trouble) => trouble,
        };
        memory.stocked = None;
        match trouble {
            // The next connection looks again, and so does the next minute: it may be the answer that did not come.
            Trouble::Prekeys(PrekeyError::TimedOut | PrekeyError::Closed | PrekeyError::Unsupported) => None,
            Trouble::Prekeys(error @ PrekeyError::Refused(RejectCode::UnknownKeyVersion)) => {
                tracing::warn!(%error, version, "prekeys of this version are not taken: the node has another key of this agent");
                memory.behind = Some(version);
                None
            }
            Trouble::Lost { stock, there } => {
                let (is_news, is_to_replace) = memory.lost(version, Instant::now());
                if is_news {
                    tracing::error!(
                        version,
                        stock,
                        there,
                        "the node hands out prekeys whose secret halves are gone from here: what is sent to them cannot be read. \
                         They go with the encryption key: an agent with a schedule replaces it now, otherwise run `creto agent \
                         rotate`. Keep the state folder with its key file, or use no prekeys"
                    );
                }
                if is_to_replace {
                    self.to_replace.send_replace(version);
                }
                Some(PREKEYS_RETRY)
            }
            trouble => {
                tracing::warn!(%trouble, "prekeys could not be uploaded, and will be later");
                Some(PREKEYS_RETRY)
            }
        }
    }

    /// Asks something of the secret halves, without anybody who waits for them meanwhile. `None` once they were let go of.
    async fn secrets<R: Send + 'static>(
        &self,
        sessions: &Arc<IncomingSessions>,
        work: impl FnOnce(&mut PrekeySecrets) -> R + Send + 'static,
    ) -> Option<R> {
        let sessions = Arc::clone(sessions);
        on_disk(move || sessions.prekeys(work)).await
    }

    /// Sees to it that the node has enough prekeys of this version.
    async fn restock(
        &self,
        sessions: &Arc<IncomingSessions>,
        version: u32,
        is_due: bool,
        memory: &mut Memory,
    ) -> Result<(), Trouble> {
        // What became of it, the node says best: the last batch may come twice.
        if let Some(pending) = memory.pending.take()
            && pending.batch.signature.key_record_version == version
        {
            self.upload(sessions, pending, memory).await?;
        }
        // Counted before the question: what is used meanwhile is gone from the node before it is gone from here.
        let counted = self.secrets(sessions, move |prekeys| (prekeys.one_time_of(version), prekeys.room())).await;
        let (there, room) = counted.ok_or(Trouble::Prekeys(PrekeyError::Closed))?;
        let stock = self.ask_stock().await?;
        // Another process that took the folder over meanwhile has others, too.
        self.secrets(sessions, |_| ()).await.ok_or(Trouble::Prekeys(PrekeyError::Closed))?;
        let has = if stock.key_record_version == version { stock } else { PrekeyStock::default() };
        // Beside those that are lost there is no room for others; the one of last resort has a place of its own.
        let is_lost = (has.one_time as usize) > there;
        let one_time = if !is_lost && has.one_time < PREKEYS_LOW { PREKEYS_STOCK - has.one_time } else { 0 };
        // Those that are there are for messages that are not opened yet: none of them makes room.
        let one_time = one_time.min(u32::try_from(room).unwrap_or(u32::MAX).saturating_sub(1));
        let last_resort = is_due || !has.last_resort;
        if one_time > 0 || last_resort {
            let pending = self.make(sessions, version, one_time, last_resort, memory).await?;
            self.upload(sessions, pending, memory).await?;
        }
        if is_lost {
            return Err(Trouble::Lost { stock: has.one_time, there });
        }
        self.to_replace.send_replace(0);
        memory.stocked = Some(version);
        Ok(())
    }

    /// Makes prekeys and signs them. Their secret halves are on disk when this returns.
    async fn make(
        &self,
        sessions: &Arc<IncomingSessions>,
        version: u32,
        one_time: u32,
        last_resort: bool,
        memory: &mut Memory,
    ) -> Result<Pending, Trouble> {
        let now_ms = clock::now_ms();
        memory.signed_at_ms = now_ms.max(memory.signed_at_ms.saturating_add(1));
        let (keys, signed_at_ms) = (Arc::clone(&self.keys), memory.signed_at_ms);
        let (batch, made) = offload(move || {
            let kinds = std::iter::repeat_n(PrekeyKind::OneTime, one_time as usize)
                .chain(last_resort.then_some(PrekeyKind::LastResort));
            let mut made = Vec::new();
            let mut prekeys = Vec::new();
            for kind in kinds {
                let mut seed = Zeroizing::new([0; 32]);
                clock::fill(&mut seed[..]);
                let prekey = make::prekey(kind, &seed);
                made.push(Made { kind, version, id: prekey.id(version), seed });
                prekeys.push(prekey);
            }
            (make::sign(&keys, version, prekeys, signed_at_ms), made)
        })
        .await;
        let ids = made.iter().map(|made| made.id).collect();
        let sessions = Arc::clone(sessions);
        let written = on_disk(move || sessions.prekeys(|prekeys| prekeys.add(made, now_ms))).await;
        written.ok_or(Trouble::Prekeys(PrekeyError::Closed))??;
        Ok(Pending { batch, ids, is_again: false })
    }

    async fn upload(
        &self,
        sessions: &Arc<IncomingSessions>,
        pending: Pending,
        memory: &mut Memory,
    ) -> Result<(), Trouble> {
        let mut frame = Vec::new();
        encode_prekey_upload(&mut frame, &pending.batch);
        let sessions = Arc::clone(sessions);
        match self.ask_upload(frame).await {
            Ok(_) => {
                self.counters.prekeys_uploaded.add(pending.ids.len());
                let written =
                    on_disk(move || sessions.prekeys(|prekeys| prekeys.uploaded(&pending.ids, clock::now_ms())));
                Ok(written.await.unwrap_or(Ok(()))?)
            }
            Err(error) if is_certain(&error) && !pending.is_again => {
                // Nobody was given any of them. Of one that comes again that is not said: what it was refused for may have come
                // after it.
                let erased = on_disk(move || sessions.prekeys(|prekeys| prekeys.erase(&pending.ids)));
                erased.await.unwrap_or(Ok(()))?;
                Err(error.into())
            }
            Err(error) => {
                if !is_certain(&error) {
                    memory.pending = Some(Pending { is_again: true, ..pending });
                }
                Err(error.into())
            }
        }
    }
}

/// Whether a batch that was refused so is not with the node, and never will be.
fn is_certain(error: &PrekeyError) -> bool {
    match error {
        PrekeyError::Refused(code) => !code.is_retryable() && *code != RejectCode::ShuttingDown,
        PrekeyError::Unsupported => true,
        _ => false,
    }
}

#[derive(Debug, thiserror::Error)]
enum Trouble {
    #[error("{0}")]
    Prekeys(#[from] PrekeyError),
    #[error("{0}")]
    State(#[from] StateError),
    #[error("the node has {stock} one-time prekeys, and {there} secret halves are here")]
    Lost { stock: u32, there: usize },
}

const fn millis(duration: Duration) -> u64 {
    duration.as_secs() * 1_000 + duration.subsec_millis() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_that_says_of_every_key_that_its_prekeys_are_lost_has_one_replaced_in_an_hour() {
        let (mut memory, now) = (Memory::default(), Instant::now());
        assert_eq!(memory.lost(1, now), (true, true));
        assert_eq!(memory.lost(1, now + PREKEYS_RETRY), (false, true), "it is not done yet");
        assert_eq!(memory.lost(2, now + 2 * PREKEYS_RETRY), (false, false));
        assert_eq!(memory.lost(2, now + PREKEYS_LOST_PAUSE), (true, true));
    }
}
