//! Who reads the channels of this shard: which connection has which place in which subscription, and how much it can take.

use std::collections::{BTreeMap, VecDeque};

use creto_envelope::limits::{CREDIT_BYTES_MAX, CREDIT_MESSAGES_MAX};
use creto_envelope::{AgentId, ChannelId, GroupId};
use creto_store::{Reader, SegmentNumber};

use crate::route::Origin;

/// A subscription as the client that reads it names it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct Handle {
    /// Whose.
    pub(crate) origin: Origin,
    /// Its number for it.
    pub(crate) number: u32,
}

/// A subscription, as the log knows it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct Subscribed {
    pub(crate) channel: ChannelId,
    pub(crate) agent: AgentId,
    pub(crate) group: GroupId,
}

/// A connection that reads a subscription, or will when that is durable.
#[derive(Debug)]
pub(crate) struct Seat {
    pub(crate) what: Subscribed,
    pub(crate) handle: Handle,
    /// When its connection asked for it, by the node's monotonic clock.
    pub(crate) since_us: u64,
    pub(crate) credit_messages: u32,
    pub(crate) credit_bytes: u32,
    /// The record of the log whose batch header its client has.
    pub(crate) header_of: Option<(SegmentNumber, u32)>,
    /// The last message that it was pushed, and the last that it acknowledged.
    pub(crate) pushed: u64,
    pub(crate) acknowledged: u64,
    /// What was passed over behind that: consumed when everything before it is.
    pub(crate) passed_over: u64,
    /// It may read under the snapshot of this epoch, until this wall time.
    pub(crate) allowed: (u64, u64),
    is_ready: bool,
}

impl Seat {
    pub(crate) fn new(what: Subscribed, handle: Handle, since_us: u64) -> Self {
        Self {
            what,
            handle,
            since_us,
            credit_messages: 0,
            credit_bytes: 0,
            header_of: None,
            pushed: 0,
            acknowledged: 0,
            passed_over: 0,
            allowed: (0, 0),
            is_ready: false,
        }
    }

    /// A subscriber of its own has consumed this and all before: what that says to the log, passed over messages included.
    pub(crate) fn acknowledge(&mut self, sequence: u64) -> u64 {
        self.acknowledged = self.acknowledged.max(sequence);
        self.consumed()
    }

    /// Up to where a subscriber of its own has consumed everything.
    pub(crate) fn consumed(&self) -> u64 {
        if self.acknowledged >= self.pushed { self.acknowledged.max(self.passed_over) } else { self.acknowledged }
    }
}

#[derive(Debug)]
enum Place {
    /// Its subscription is not durable yet.
    Pending(Box<Seat>),
    Reads(Reader),
}

/// All of them.
#[derive(Debug, Default)]
pub(crate) struct Readers {
    places: BTreeMap<Handle, Place>,
    seats: BTreeMap<Reader, Seat>,
    /// The same by what they read. A subscription that ended and began again has another reader.
    by_what: BTreeMap<Subscribed, Reader>,
    /// Those that may have something to be pushed, each once. Some may be gone.
    ready: VecDeque<Reader>,
}

impl Readers {
    /// Somebody will read, when their subscription is durable.
    pub(crate) fn expect(&mut self, seat: Seat) {
        self.places.insert(seat.handle, Place::Pending(Box::new(seat)));
    }

    /// Whoever waits under this handle since then, and no longer does.
    pub(crate) fn take_expected(&mut self, handle: Handle, since_us: u64) -> Option<Seat> {
        match self.places.get(&handle) {
            Some(Place::Pending(seat)) if seat.since_us == since_us => {}
            _ => return None,
        }
        match self.places.remove(&handle) {
            Some(Place::Pending(seat)) => Some(*seat),
            _ => unreachable!("it was just looked at"),
        }
    }

    /// Whoever reads as this.
    pub(crate) fn seat(&self, reader: Reader) -> Option<&Seat> {
        self.seats.get(&reader)
    }

    pub(crate) fn seat_mut(&mut self, reader: Reader) -> Option<&mut Seat> {
        self.seats.get_mut(&reader)
    }

    /// Gives the place of a reader to this connection. Nobody has it.
    pub(crate) fn sit(&mut self, reader: Reader, seat: Seat) {
        self.places.insert(seat.handle, Place::Reads(reader));
        self.by_what.insert(seat.what, reader);
        let before = self.seats.insert(reader, seat);
        assert!(before.is_none(), "whoever had the place was told to go");
    }

    /// Takes the place of a reader away.
    pub(crate) fn rise(&mut self, reader: Reader) -> Option<Seat> {
        let seat = self.leave(reader)?;
        self.places.remove(&seat.handle);
        Some(seat)
    }

    /// Who reads this subscription.
    pub(crate) fn reader_of(&self, what: &Subscribed) -> Option<Reader> {
        self.by_what.get(what).copied()
    }

    fn leave(&mut self, reader: Reader) -> Option<Seat> {
        let seat = self.seats.remove(&reader)?;
        if self.by_what.get(&seat.what) == Some(&reader) {
            self.by_what.remove(&seat.what);
        }
        Some(seat)
    }

    /// Who reads under this handle, with what it is.
    pub(crate) fn find(&mut self, handle: Handle) -> Option<(Reader, &mut Seat)> {
        match self.places.get(&handle) {
            Some(Place::Reads(reader)) => self.seats.get_mut(reader).map(|seat| (*reader, seat)),
            _ => None,
        }
    }

    /// Takes away whatever stands under this handle; the reader, if it was one already.
    pub(crate) fn remove(&mut self, handle: Handle) -> Option<(Seat, Option<Reader>)> {
        match self.places.remove(&handle)? {
            Place::Pending(seat) => Some((*seat, None)),
            Place::Reads(reader) => {
                let seat = self.leave(reader).expect("whoever reads has a seat");
                Some((seat, Some(reader)))
            }
        }
    }

    /// Adds credit. Who grants more than the limit gets no more than the limit.
    pub(crate) fn credit(&mut self, handle: Handle, messages: u32, bytes: u32) {
        let (seat, reader) = match self.places.get_mut(&handle) {
            Some(Place::Pending(seat)) => (&mut **seat, None),
            Some(Place::Reads(reader)) => {
                (self.seats.get_mut(reader).expect("whoever reads has a seat"), Some(*reader))
            }
            None => return,
        };
        seat.credit_messages = seat.credit_messages.saturating_add(messages).min(CREDIT_MESSAGES_MAX);
        seat.credit_bytes = seat.credit_bytes.saturating_add(bytes).min(CREDIT_BYTES_MAX);
        if let Some(reader) = reader {
            self.wake(reader);
        }
    }

    /// There may be something for a reader.
    pub(crate) fn wake(&mut self, reader: Reader) {
        if let Some(seat) = self.seats.get_mut(&reader).filter(|seat| !seat.is_ready) {
            seat.is_ready = true;
            self.ready.push_back(reader);
        }
    }

    /// How many stand in line.
    pub(crate) fn ready_count(&self) -> usize {
        self.ready.len()
    }

    /// The first in line, if it is still there.
    pub(crate) fn next_ready(&mut self) -> Option<Reader> {
        while let Some(reader) = self.ready.pop_front() {
            if let Some(seat) = self.seats.get_mut(&reader).filter(|seat| seat.is_ready) {
                seat.is_ready = false;
                return Some(reader);
            }
        }
        None
    }

    /// How many connections read something, members of groups among them.
    pub(crate) fn len(&self) -> usize {
        self.seats.len()
    }
}
