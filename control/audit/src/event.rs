//! An event as who saw it tells it, and as it stands in the log.
//!
//! [`Event`] is small, `Copy` and of one size, so that a shard pushes them by the thousand. It knows neither its source nor its
//! place: [`Chain`](crate::Chain) gives it both, on the thread that writes the log. [`ChainedEvent`] is what comes out: it has
//! one encoding, which `docs/audit-format.md` gives byte by byte.

mod control_code;
mod field;
mod kinds;
#[cfg(test)]
mod tests;

use std::fmt;

use thiserror::Error;

use crate::chain::ChainHash;
use crate::limits::{EVENT_HEADER_BYTES, LABEL_BYTES_MAX};
use crate::reader::Reader;

pub use control_code::CONTROL_CODES;
pub use field::{
    Action, ChannelId, Code, DeathCause, Digest, ExpiryCause, KindOf, Outcome, Peer, RotationMode, Rule, Shown, TimeMs,
    TokenId,
};
pub use kinds::{Kind, What};

/// Version of an event's bytes.
pub const EVENT_VERSION: u8 = 1;
const FLAG_RECOVERED: u8 = 1;
/// The bit of a stamp that is no part of the time.
const RECOVERED: u64 = 1 << 63;

/// What happened, and when.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Event {
    /// The time; its highest bit says that the event was found again.
    stamp: u64,
    /// What happened.
    pub what: What,
}

// A shard holds thousands of them, and copies each once.
const _: () = assert!(size_of::<Event>() <= 96);

impl Event {
    /// An event of now: `time_ms` is the node's clock, Unix milliseconds.
    ///
    /// # Panics
    /// When the time is above 2^63: no clock says so.
    #[must_use]
    pub fn new(time_ms: u64, what: What) -> Self {
        assert!(time_ms < RECOVERED, "a clock that shows the year 292,278,994");
        Self { stamp: time_ms, what }
    }

    /// An event that was found in a shard's log after a crash, and may not have been told before. `time_ms` is the best that
    /// the log says: the message's own time, or that of the start.
    ///
    /// # Panics
    /// When the time is above 2^63.
    #[must_use]
    pub fn recovered(time_ms: u64, what: What) -> Self {
        let event = Self::new(time_ms, what);
        Self { stamp: event.stamp | RECOVERED, ..event }
    }

    /// When, Unix milliseconds.
    #[must_use]
    pub fn time_ms(&self) -> u64 {
        self.stamp & !RECOVERED
    }

    /// Whether it was found again in a shard's log after a crash.
    #[must_use]
    pub fn is_recovered(&self) -> bool {
        self.stamp & RECOVERED != 0
    }
}

impl fmt::Debug for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Event")
            .field("time_ms", &self.time_ms())
            .field("recovered", &self.is_recovered())
            .field("what", &self.what)
            .finish()
    }
}

/// Who tells events: a shard, or control.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct SourceId(u16);

impl SourceId {
    /// The control service.
    pub const CONTROL: Self = Self(u16::MAX);

    /// The shard with this index.
    ///
    /// # Panics
    /// For 65,535, which is control's number.
    #[must_use]
    pub fn shard(index: u16) -> Self {
        assert!(index != u16::MAX, "shard 65,535 would be control");
        Self(index)
    }

    /// From its number in the bytes.
    #[must_use]
    pub fn from_number(number: u16) -> Self {
        Self(number)
    }

    /// Its number in the bytes.
    #[must_use]
    pub fn number(self) -> u16 {
        self.0
    }

    /// The shard's index; `None` for control.
    #[must_use]
    pub fn shard_index(self) -> Option<u16> {
        (self != Self::CONTROL).then_some(self.0)
    }

    /// Reads what `Display` writes.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        if text == "control" {
            return Some(Self::CONTROL);
        }
        let digits = text.strip_prefix("shard-")?;
        let index: u16 = digits.parse().ok()?;
        (index != u16::MAX && index.to_string() == digits).then_some(Self(index))
    }
}

impl fmt::Display for SourceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.shard_index() {
            Some(index) => write!(f, "shard-{index}"),
            None => f.write_str("control"),
        }
    }
}

impl fmt::Debug for SourceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A short text of printable ASCII: a name, never what a message says.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Label {
    length: u8,
    bytes: [u8; LABEL_BYTES_MAX],
}

impl Label {
    /// No text.
    pub const NONE: Self = Self { length: 0, bytes: [0; LABEL_BYTES_MAX] };

    /// This text, cut at 128 characters; what is not printable ASCII becomes a question mark, so that no terminal is told
    /// anything by it.
    #[must_use]
    pub fn of(text: &str) -> Self {
        let mut label = Self::NONE;
        for (byte, c) in label.bytes.iter_mut().zip(text.chars()) {
            *byte = u8::try_from(c).ok().filter(|byte| is_printable(*byte)).unwrap_or(b'?');
            label.length += 1;
        }
        label
    }

    /// `None` when it is too long or not printable.
    fn parse(text: &[u8]) -> Option<Self> {
        let mut label = Self::NONE;
        label.bytes.get_mut(..text.len())?.copy_from_slice(text);
        label.length = u8::try_from(text.len()).ok()?;
        text.iter().all(|&byte| is_printable(byte)).then_some(label)
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        str::from_utf8(self.as_bytes()).expect("printable ASCII is UTF-8")
    }

    fn as_bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.length)]
    }
}

impl fmt::Debug for Label {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_str(), f)
    }
}

fn is_printable(byte: u8) -> bool {
    (b' '..=b'~').contains(&byte)
}

/// An event at its place in its source's chain.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ChainedEvent {
    /// Who told it.
    pub source: SourceId,
    /// How many events the source told before it.
    pub position: u64,
    /// The chain hash of the event before it, or the chain's beginning.
    pub previous: ChainHash,
    /// What happened, and when.
    pub event: Event,
    /// The text that some kinds carry.
    pub label: Label,
}

impl ChainedEvent {
    /// Appends the bytes to `out`.
    ///
    /// ```text
    ///  0 u8 version=1 | 1 u8 kind | 2 u8 flags (bit 0: recovered) | 3 u8 label_bytes | 4 u16 source | 6 u16 zero
    ///  8 u64 position | 16 u64 time_ms | 24 [32] previous chain hash | 56 fields of the kind | label
    /// ```
    pub fn encode(&self, out: &mut Vec<u8>) {
        let flags = if self.event.is_recovered() { FLAG_RECOVERED } else { 0 };
        out.extend_from_slice(&[EVENT_VERSION, self.event.what.number(), flags, self.label.length]);
        out.extend_from_slice(&self.source.number().to_le_bytes());
        out.extend_from_slice(&[0; 2]);
        out.extend_from_slice(&self.position.to_le_bytes());
        out.extend_from_slice(&self.event.time_ms().to_le_bytes());
        out.extend_from_slice(&self.previous.0);
        self.event.what.put(out);
        out.extend_from_slice(self.label.as_bytes());
    }

    /// Reads an event. Total: any bytes give an event, which encodes to the very same bytes, or an error.
    ///
    /// # Errors
    /// [`EventError`]: the first rule that is broken.
    pub fn parse(bytes: &[u8]) -> Result<Self, EventError> {
        let mut reader = Reader::new(bytes);
        let head = (|| Some((reader.u8()?, reader.u8()?, reader.u8()?, reader.u8()?, reader.u16()?, reader.u16()?)))();
        let (version, kind, flags, label_bytes, source, reserved) = head.ok_or(EventError::Truncated)?;
        if version != EVENT_VERSION {
            return Err(EventError::Version(version));
        }
        if flags & !FLAG_RECOVERED != 0 || reserved != 0 {
            return Err(EventError::NotZero);
        }
        let body = (|| Some((reader.u64()?, reader.u64()?, reader.array()?)))();
        let (position, time_ms, previous) = body.ok_or(EventError::Truncated)?;
        if time_ms >= RECOVERED {
            return Err(EventError::Value);
        }
        let what = What::take(kind, &mut reader).map_err(|_| EventError::Kind(kind))?;
        let what = what.ok_or(EventError::Value)?;
        let label = reader.rest();
        if label.len() != usize::from(label_bytes) {
            return Err(EventError::Length);
        }
        let label = Label::parse(label).ok_or(EventError::Value)?;
        let stamp = if flags & FLAG_RECOVERED != 0 { time_ms | RECOVERED } else { time_ms };
        let (source, previous) = (SourceId(source), ChainHash(previous));
        Ok(Self { source, position, previous, event: Event { stamp, what }, label })
    }

    /// Only source, position and previous hash: what a chain is checked by.
    ///
    /// # Errors
    /// [`EventError::Truncated`] or [`EventError::Version`].
    pub fn peek(bytes: &[u8]) -> Result<(SourceId, u64, ChainHash), EventError> {
        let header: &[u8; EVENT_HEADER_BYTES] = bytes.first_chunk().ok_or(EventError::Truncated)?;
        let mut reader = Reader::new(header);
        let fields = (|| {
            let version = reader.u8()?;
            reader.take(3)?;
            let source = reader.u16()?;
            reader.take(2)?;
            let position = reader.u64()?;
            reader.take(8)?;
            Some((version, source, position, reader.array()?))
        })();
        match fields.ok_or(EventError::Truncated)? {
            (EVENT_VERSION, source, position, previous) => Ok((SourceId(source), position, ChainHash(previous))),
            (version, ..) => Err(EventError::Version(version)),
        }
    }
}

/// Why bytes are not an event.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
pub enum EventError {
    /// the event ends before its fields do
    #[error("the event ends before its fields do")]
    Truncated,
    /// the event is of version {0}, which this program does not know: use the version that wrote it, or a later one
    #[error(
        "the event is of version {0}, which this program does not know: use the version that wrote it, or a later one"
    )]
    Version(u8),
    /// the event is of kind {0}, which this program does not know: use the version that wrote it, or a later one
    #[error(
        "the event is of kind {0}, which this program does not know: use the version that wrote it, or a later one"
    )]
    Kind(u8),
    /// a field or flag that must be zero is not
    #[error("a field or flag that must be zero is not")]
    NotZero,
    /// a field is missing or holds a value without a meaning
    #[error("a field is missing or holds a value without a meaning")]
    Value,
    /// the event's length is not the sum of its fields
    #[error("the event's length is not the sum of its fields")]
    Length,
}
