//! Messages that destroy themselves: after reading, after a time, or whichever comes first. `docs/patterns.md` says what that is worth.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use bytes::{Buf as _, Bytes};
use creto_envelope::self_destruct::{SELF_DESTRUCT_HEADER_BYTES, SelfDestructPayload};
use tokio::task::AbortHandle;
use tokio::time::sleep;
use zeroize::{Zeroize, Zeroizing};

use crate::clock;
use crate::stats::UNPOISONED;

/// When a message destroys itself ([`SendOptions::self_destruct`](crate::SendOptions::self_destruct)).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum SelfDestruct {
    /// When the recipient's application acknowledges it.
    AfterReading,
    /// When so much time has passed since it was handed over for sending, to the millisecond. The node keeps it as long, counted in whole
    /// seconds from when it takes it.
    After(Duration),
    /// Whichever comes first.
    AfterReadingOr(Duration),
}

impl SelfDestruct {
    /// The time after which it is worthless to everybody.
    pub(crate) fn ttl(self) -> Option<Duration> {
        match self {
            Self::AfterReading => None,
            Self::After(after) | Self::AfterReadingOr(after) => Some(after),
        }
    }

    /// The payload that says so, sent now, behind what goes before all payloads. It is erased when nobody has it any more, and so is the body, as far as nobody else has it.
    pub(crate) fn wrap(self, head: &[u8], body: Bytes, now_ms: u64) -> Bytes {
        let after_ms = |after: Duration| u64::try_from(after.as_millis()).unwrap_or(u64::MAX);
        // Zero would be no time at all.
        let until_ms = self.ttl().map(|after| now_ms.saturating_add(after_ms(after)).max(1));
        let after_reading = !matches!(self, Self::After(_));
        // With all of its room, so that it is never moved and leaves nothing behind.
        let mut payload = Zeroizing::new(Vec::with_capacity(head.len() + SELF_DESTRUCT_HEADER_BYTES + body.len()));
        payload.extend_from_slice(head);
        SelfDestructPayload { after_reading, until_ms, body: &body }.write(&mut payload);
        erase(body);
        Bytes::from_owner(payload)
    }
}

/// What a message that destroys itself says, as long as it does: [`Delivery::self_destructing`](crate::Delivery::self_destructing).
#[non_exhaustive]
pub struct SelfDestructing {
    /// It is gone when the delivery is acknowledged.
    pub after_reading: bool,
    /// It is gone at this time, Unix milliseconds, whatever becomes of the delivery.
    pub until_ms: Option<u64>,
    content: Arc<Content>,
}

impl SelfDestructing {
    /// Shows the payload, if it is still there: `None` when the delivery was acknowledged, refused or dropped, and when its time is over.
    /// The memory is overwritten then. **Whoever copies what is shown keeps it.**
    pub fn read<R>(&self, look: impl FnOnce(&[u8]) -> R) -> Option<R> {
        // Not under the lock: it may acknowledge.
        let shown = self.content.show(clock::now_ms())?;
        Some(look(&shown))
    }
}

/// Says when, and nothing of what.
impl fmt::Debug for SelfDestructing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SelfDestructing")
            .field("after_reading", &self.after_reading)
            .field("until_ms", &self.until_ms)
            .finish_non_exhaustive()
    }
}

/// A payload until it is erased.
pub(crate) struct Content {
    until_ms: Option<u64>,
    payload: Mutex<Option<Bytes>>,
    was_shown: AtomicBool,
}

impl Content {
    fn show(&self, now_ms: u64) -> Option<Bytes> {
        if self.until_ms.is_some_and(|until_ms| now_ms >= until_ms) {
            self.erase();
        }
        let shown = self.payload.lock().expect(UNPOISONED).clone();
        self.was_shown.fetch_or(shown.is_some(), Ordering::AcqRel);
        shown
    }

    fn erase(&self) {
        // Its owner overwrites it when the last one lets go of it: this, or somebody who looks at this moment.
        drop(self.payload.lock().expect(UNPOISONED).take());
    }
}

/// What a delivery has of it. Finished or dropped, it erases the payload.
pub(crate) struct Fuse {
    content: Arc<Content>,
    timer: Option<AbortHandle>,
}

impl Fuse {
    /// Whether its time was over before anybody looked at it: whoever acknowledges it has done nothing with it.
    pub(crate) fn went_unseen(&self, now_ms: u64) -> bool {
        let is_over = self.content.until_ms.is_some_and(|until_ms| now_ms >= until_ms);
        is_over && !self.content.was_shown.load(Ordering::Acquire)
    }

    pub(crate) fn burn(&self) {
        self.content.erase();
        if let Some(timer) = &self.timer {
            timer.abort();
        }
    }
}

impl Drop for Fuse {
    fn drop(&mut self) {
        self.burn();
    }
}

/// What a payload of kind direct turns out to be.
pub(crate) enum Found {
    /// A message that stays.
    Plain(Bytes),
    /// One that destroys itself.
    Destructing(SelfDestructing, Fuse),
    /// One whose time is over.
    Over,
}

/// Looks whether a message destroys itself. One that only says so, or is of a later version, stays as it came.
pub(crate) fn found(payload: Bytes, now_ms: u64) -> Found {
    let Ok(Some(parsed)) = SelfDestructPayload::parse(&payload) else { return Found::Plain(payload) };
    let SelfDestructPayload { after_reading, until_ms, .. } = parsed;
    if until_ms.is_some_and(|until_ms| now_ms >= until_ms) {
        return Found::Over;
    }
    let body = payload.slice(SELF_DESTRUCT_HEADER_BYTES..);
    let content = Arc::new(Content { until_ms, payload: Mutex::new(Some(body)), was_shown: AtomicBool::new(false) });
    let timer = until_ms.map(|until_ms| {
        let left = Duration::from_millis(until_ms - now_ms);
        tokio::spawn(erase_after(left, Arc::downgrade(&content))).abort_handle()
    });
    let fuse = Fuse { content: Arc::clone(&content), timer };
    Found::Destructing(SelfDestructing { after_reading, until_ms, content }, fuse)
}

/// The body of a message to look at, if its time is not over.
pub(crate) fn looked_at(payload: Bytes, now_ms: u64) -> Option<Bytes> {
    match SelfDestructPayload::parse(&payload) {
        Ok(Some(SelfDestructPayload { until_ms: Some(until_ms), .. })) if now_ms >= until_ms => None,
        Ok(Some(_)) => Some(payload.slice(SELF_DESTRUCT_HEADER_BYTES..)),
        _ => Some(payload),
    }
}

async fn erase_after(left: Duration, content: Weak<Content>) {
    sleep(left).await;
    if let Some(content) = content.upgrade() {
        content.erase();
    }
}

/// A payload as it was opened, without what goes before all payloads: one that destroys itself overwrites its memory when nobody has it any more.
pub(crate) fn opened(payload: Vec<u8>, head_bytes: usize) -> Bytes {
    let mut opened = match SelfDestructPayload::is_claimed(&payload[head_bytes..]) {
        true => Bytes::from_owner(Zeroizing::new(payload)),
        false => Bytes::from(payload),
    };
    // In place: a slice would make two owners of it.
    opened.advance(head_bytes);
    opened
}

fn erase(payload: Bytes) {
    // What somebody else has, or what is no memory of its own, is not ours to overwrite.
    if let Ok(mut payload) = payload.try_into_mut() {
        payload.as_mut().zeroize();
    }
}

#[cfg(test)]
mod tests;
