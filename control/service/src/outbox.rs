//! What control tells the audit log: written in the very transaction that changes the directory, and told until it is kept.
//!
//! An event that stands in the outbox is not lost with a crash between the two: the audit log remembers, together with its
//! leaves, up to which number it has them, and the next start tells the others again. Rows that are kept go with the next
//! change.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use creto_audit::{ChainHash, ChainedEvent, Event, Label, SourceId};

/// An event of control with its number: they ascend by one, from 1.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ControlEvent {
    /// Its number.
    pub number: u64,
    /// What happened, and when.
    pub event: Event,
    /// The event's text.
    pub label: Label,
}

impl ControlEvent {
    /// The bytes of the table `audit_outbox`: those of an event whose place in the chain is its number, behind nothing.
    pub(crate) fn to_bytes(self) -> Vec<u8> {
        let Self { number, event, label } = self;
        let mut out = Vec::new();
        ChainedEvent { source: SourceId::CONTROL, position: number, previous: ChainHash([0; 32]), event, label }
            .encode(&mut out);
        out
    }

    /// `None` when the bytes are not those of this number.
    pub(crate) fn parse(number: u64, bytes: &[u8]) -> Option<Self> {
        let ChainedEvent { source, position, previous, event, label } = ChainedEvent::parse(bytes).ok()?;
        let is_ours = source == SourceId::CONTROL && position == number && previous == ChainHash([0; 32]);
        is_ours.then_some(Self { number, event, label })
    }
}

/// Where events of control go.
///
/// `tell` is called by the thread that changed the directory, after the change is durable; it should hand the events on and
/// return. Numbers only go up.
pub trait AuditSink: Send + Sync {
    /// Takes over `events`.
    fn tell(&self, events: Vec<ControlEvent>);
}

/// Up to which number events of control are kept. Cheap to read; all clones of its `Arc` are one.
#[derive(Debug, Default)]
pub struct Kept {
    number: AtomicU64,
    held: Mutex<Option<Held>>,
}

/// Somebody copies the audit log first and the directory later: what was not in the one must be in the other.
#[derive(Clone, Copy, Debug)]
struct Held {
    number: u64,
    until: Instant,
}

impl Kept {
    /// Up to `number` they are kept already.
    #[must_use]
    pub fn up_to(number: u64) -> Self {
        Self { number: AtomicU64::new(number), held: Mutex::default() }
    }

    /// Says that they are kept up to `number`.
    pub fn set(&self, number: u64) {
        self.number.fetch_max(number, Ordering::Relaxed);
    }

    /// Up to which number they are kept.
    #[must_use]
    pub fn get(&self) -> u64 {
        self.number.load(Ordering::Relaxed)
    }

    /// For so long the outbox keeps what is not kept now, also when it is meanwhile. Called again, it goes on.
    pub fn hold(&self, lease: Duration) {
        let (now, mut held) = (Instant::now(), self.held());
        let number = held.filter(|held| held.until > now).map_or_else(|| self.get(), |held| held.number);
        *held = Some(Held { number, until: now + lease });
    }

    /// The outbox keeps nothing any more that is kept.
    pub fn let_go(&self) {
        *self.held() = None;
    }

    /// Up to which number nobody needs the outbox any more.
    pub(crate) fn removable(&self) -> u64 {
        let held = self.held().filter(|held| held.until > Instant::now());
        held.map_or_else(|| self.get(), |held| held.number)
    }

    fn held(&self) -> MutexGuard<'_, Option<Held>> {
        // What it guards is whole at every moment.
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
