//! Looks after this agent's own prekeys: that the node has enough of them, and that what is of no use any more is erased.

use std::sync::Arc;
use std::time::Duration;

use creto_envelope::prekeys::{PrekeyBatch, PrekeyKind, PrekeyStock, encode_prekey_upload};
use creto_envelope::{KeyId, RejectCode};
use tokio::sync::watch;
use tokio::time::sleep;
use zeroize::Zeroizing;

use super::{Prekeys, make};
use crate::clock;
use crate::error::{PrekeyError, StateError};
use crate::limits::{
    KEYS_LOOKED_AFTER, PREKEY_LAST_RESORT_AGE, PREKEY_LAST_RESORT_GRACE, PREKEYS_LOW, PREKEYS_RETRY, PREKEYS_STOCK,
};
use crate::receiver::sessions::IncomingSessions;
use crate::state::prekeys::Made;
use crate::worker::{offload, on_disk};

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
}

impl Prekeys {
    /// Looks after them until the agent closes: with every connection, when few are left, after a new key, and every minute.
    pub(crate) async fn look_after(self: Arc<Self>, mut closing: watch::Receiver<bool>) {
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

    /// Erases and uploads what is due. Says when to look again, if it should be another time than usual.
    async fn look(&self, sessions: &Arc<IncomingSessions>, is_woken: bool, memory: &mut Memory) -> Option<Duration> {
        if let Err(error) = self.end(sessions).await {
            tracing::warn!(%error, "prekeys that are of no use any more could not be erased, and will be later");
        }
        let version = self.keys.record_version();
        let made_ms = sessions.prekeys(|prekeys| prekeys.last_resort_made_ms(version))?;
        let is_due =
            made_ms.is_none_or(|made_ms| clock::now_ms() >= made_ms.saturating_add(millis(PREKEY_LAST_RESORT_AGE)));
        let has_enough = !is_due && memory.stocked == Some(version) && memory.pending.is_none();
        if !is_woken && (has_enough || memory.behind == Some(version)) {
            return None;
        }
        match self.restock(sessions, version, is_due, memory).await {
            Ok(()) => None,
            // The next connection looks again.
            Err(Trouble::Prekeys(PrekeyError::TimedOut | PrekeyError::Closed | PrekeyError::Unsupported)) => None,
            Err(Trouble::Prekeys(error @ PrekeyError::Refused(RejectCode::UnknownKeyVersion))) => {
                tracing::warn!(%error, version, "prekeys of this version are not taken: the node has another key of this agent");
                memory.behind = Some(version);
                None
            }
            Err(trouble) => {
                tracing::warn!(%trouble, "prekeys could not be uploaded, and will be later");
                memory.stocked = None;
                Some(PREKEYS_RETRY)
            }
        }
    }

    async fn end(&self, sessions: &Arc<IncomingSessions>) -> Result<(), StateError> {
        let (keys, sessions) = (Arc::clone(&self.keys), Arc::clone(sessions));
        let grace_ms = millis(PREKEY_LAST_RESORT_GRACE);
        let current = keys.record_version();
        // A key that is newer than the current one may be published any moment.
        let has_version = move |version| version >= current || keys.has_version(version);
        let ended = on_disk(move || sessions.prekeys(|prekeys| prekeys.end(has_version, grace_ms, clock::now_ms())));
        ended.await.unwrap_or(Ok(()))
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
        let stock = self.ask_stock().await?;
        let has = if stock.key_record_version == version { stock } else { PrekeyStock::default() };
        let one_time = if has.one_time < PREKEYS_LOW { PREKEYS_STOCK - has.one_time } else { 0 };
        let last_resort = is_due || !has.last_resort;
        if one_time > 0 || last_resort {
            let pending = self.make(sessions, version, one_time, last_resort, memory).await?;
            self.upload(sessions, pending, memory).await?;
        }
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
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
