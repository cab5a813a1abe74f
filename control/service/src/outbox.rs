//! What control tells the audit log: written in the very transaction that changes the directory, and told until it is kept.
//!
//! An event that stands in the outbox is not lost with a crash between the two: the audit log remembers, together with its
//! leaves, up to which number it has them, and the next start tells the others again. Rows that are kept go with the next
//! change.

use std::sync::atomic::{AtomicU64, Ordering};

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
pub struct Kept(AtomicU64);

impl Kept {
    /// Up to `number` they are kept already.
    #[must_use]
    pub fn up_to(number: u64) -> Self {
        Self(AtomicU64::new(number))
    }

    /// Says that they are kept up to `number`.
    pub fn set(&self, number: u64) {
        self.0.fetch_max(number, Ordering::Relaxed);
    }

    /// Up to which number they are kept.
    #[must_use]
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}
