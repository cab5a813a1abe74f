//! Keys of channels, which publishers send to the mailbox: kept before they are acknowledged, never shown.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use creto_crypto_accel::session::ChannelKey;
use creto_envelope::RejectCode;
use creto_envelope::deliver::DeliveredSpan;
use zeroize::Zeroize;

use super::Inbox;
use super::open::{Arrived, Opened, Refused};
use super::window::{Arrival, Place};
use crate::error::ReceiveError;
use crate::worker::on_disk;

impl Inbox {
    /// From now on the agent receives, also where nobody subscribes to its mailbox: keys come there. Where nobody does, nothing else is
    /// asked for, and what comes before a key is given back as it came: it must not count as tried.
    pub(crate) fn receive_keys(&self) {
        if !*self.wanted.borrow() {
            self.state().is_for_keys = true;
        }
        self.wanted.send_replace(true);
    }

    /// A key of a channel is awaited, or no more. While one is, credit is lent: it may stand behind what the application has no room for.
    pub(crate) fn await_key(&self, is_awaited: bool) {
        match is_awaited {
            true => self.awaited_keys.fetch_add(1, Ordering::AcqRel),
            false => self.awaited_keys.fetch_sub(1, Ordering::AcqRel),
        };
        self.changed.notify_one();
    }

    /// Whether something is awaited that may stand behind what the application has no room for.
    pub(super) fn is_asking(&self) -> bool {
        !self.waiting.is_empty() || self.awaited_keys.load(Ordering::Acquire) > 0
    }

    /// Waits until no more deliveries will come: gives why.
    pub(crate) async fn ended(&self) -> ReceiveError {
        // Its other end lives as long as this.
        let _ = self.over.subscribe().wait_for(|over| *over).await;
        self.end_reason()
    }

    /// Takes the keys of channels out of what came in one frame, and keeps them: when this returns, they are on disk. Their messages are
    /// to be acknowledged then; one that says that it is a key and is none is refused.
    pub(super) async fn keep_channel_keys(
        &self,
        verdicts: &mut [Result<Arrived, Refused>],
    ) -> Result<(), ReceiveError> {
        let mut keys = Vec::new();
        for verdict in verdicts {
            let Ok(Arrived::Message(message)) = verdict else { continue };
            if !message.is_channel_key() {
                continue;
            }
            match key_of(message) {
                Some(key) => keys.push(key),
                None => {
                    let from = message.identity.record.agent_id();
                    let (code, message_id) = (RejectCode::EnvelopeChannel, message.message_id);
                    *verdict = Err(Refused { code, from, message_id });
                }
            }
        }
        if keys.is_empty() {
            return Ok(());
        }
        self.counters.channel_keys_taken.add(keys.len());
        let sessions = self.sessions().await?;
        let kept = on_disk(move || sessions.keep_channel_keys(keys)).await;
        kept.map_err(|error| ReceiveError::State(Arc::new(error)))?;
        self.keys_came.send_modify(|count| *count += 1);
        Ok(())
    }

    /// A message that was a key is acknowledged: nobody is shown it.
    pub(super) fn took_key(&self, message: &Opened, span: &DeliveredSpan, stream: u64) {
        let place = Place { mailbox_sequence: span.mailbox_sequence, stream };
        let from = message.identity.record.agent_id();
        let mut state = self.state();
        state.credit.arrived(span.envelope.len());
        state.credit.finished(span.envelope.len());
        match state.window.arrived(from, message.message_id, place) {
            Arrival::Fresh => {
                let place = state.window.acknowledged(from, message.message_id);
                self.done(&mut state, message.session, place, None);
            }
            Arrival::Held | Arrival::Settled => self.done(&mut state, message.session, Some(place), None),
        }
        drop(state);
        self.changed.notify_one();
    }
}

/// The key that a message brings, which must be its sender's and of the channel that it names. The payload is erased.
fn key_of(message: &mut Opened) -> Option<ChannelKey> {
    let payload = std::mem::take(&mut message.payload);
    let key = ChannelKey::from_bytes(&payload).ok();
    erase(payload);
    let ends = key.as_ref()?.ends();
    let is_so = ends.channel == message.channel.0 && ends.publisher == message.identity.record.agent_id().0;
    key.filter(|_| is_so)
}

fn erase(payload: Bytes) {
    // Nobody else has it: it was opened for this.
    if let Ok(mut payload) = payload.try_into_mut() {
        payload.as_mut().zeroize();
    }
}
