//! The first thing in a log that does not fit, and where it is.

use std::fmt;

use thiserror::Error;

use crate::event::{EventError, SourceId};

/// Where something is in a log.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Place {
    /// The leaf.
    pub index: u64,
    /// Whose event it is, and its position there, as far as the leaf can be read.
    pub event: Option<(SourceId, u64)>,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.event {
            Some((source, position)) => write!(f, "leaf {} ({source}, position {position})", self.index),
            None => write!(f, "leaf {}", self.index),
        }
    }
}

/// What does not fit.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Finding {
    /// the leaf was changed
    #[error("{0} was changed: its bytes have another hash than its place in the tree")]
    LeafHash(Place),
    /// the leaf is not an event
    #[error("{0} is not an event: {1}")]
    Event(Place, EventError),
    /// the bundle is not entries
    #[error("the entries from leaf {0} on cannot be read: a length is wrong")]
    Bundle(u64),
    /// the chain has a hole
    #[error("before {place} events of its source are missing, from position {expected} on")]
    Hole {
        /// The event that came too early.
        place: Place,
        /// The position that should have come.
        expected: u64,
    },
    /// the chain goes back
    #[error("{place} is out of order: position {expected} of its source should come there")]
    Order {
        /// The event that came again or too late.
        place: Place,
        /// The position that should have come.
        expected: u64,
    },
    /// the event names another one before it
    #[error("{place} was changed, or {next} was: the later one names another hash than that of the one before it")]
    ChainHash {
        /// The event before.
        place: Place,
        /// The event that names another.
        next: Place,
    },
    /// the first event of a chain does not name the chain's beginning
    #[error("{0} is the first of its source and does not begin the chain of this log")]
    Beginning(Place),
    /// the checkpoint says that the chain of a source ends otherwise
    #[error(
        "the chain of {chain} stands at position {position} after leaf {size}, the checkpoint of that size says {signed}, or another head"
    )]
    Head {
        /// The source.
        chain: SourceId,
        /// Leaves of the checkpoint.
        size: u64,
        /// Where its chain stands by its events.
        position: u64,
        /// Where the checkpoint says.
        signed: u64,
        /// The last event of the chain that was seen.
        last: Option<Place>,
    },
    /// events are missing that no hidden leaf stands for
    #[error("{missing} events are missing from the chains, and {hidden} leaves are only hashes: leaves were exchanged")]
    Hidden {
        /// Events that are missing.
        missing: u64,
        /// Leaves that are only hashes.
        hidden: u64,
    },
    /// the tree has another root
    #[error(
        "the tree of the first {to} leaves has another root than the signed one: a leaf from {from} on was changed, exchanged, left out or put in"
    )]
    Root {
        /// The first leaf of which nothing is known.
        from: u64,
        /// Leaves of the checkpoint.
        to: u64,
    },
    /// the log does not extend the checkpoint that was seen
    #[error(
        "the log does not extend the checkpoint of {0} leaves that was seen before: its history was rewritten; do not trust it, and ask the operator"
    )]
    Forked(u64),
}

impl Finding {
    /// A stable word for scripts.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::LeafHash(_) => "leaf_changed",
            Self::Event(..) => "event",
            Self::Bundle(_) => "bundle",
            Self::Hole { .. } => "chain_hole",
            Self::Order { .. } => "chain_order",
            Self::ChainHash { .. } => "chain_hash",
            Self::Beginning(_) => "chain_beginning",
            Self::Head { .. } => "chain_head",
            Self::Hidden { .. } => "hidden",
            Self::Root { .. } => "root",
            Self::Forked(_) => "does_not_extend",
        }
    }

    /// The first leaf that does not fit, as far as it can be told.
    #[must_use]
    pub fn place(&self) -> Option<Place> {
        match *self {
            Self::LeafHash(place) | Self::Event(place, _) | Self::Beginning(place) => Some(place),
            Self::Hole { place, .. } | Self::Order { place, .. } | Self::ChainHash { place, .. } => Some(place),
            Self::Bundle(index) => Some(Place { index, event: None }),
            Self::Root { from, .. } => Some(Place { index: from, event: None }),
            Self::Head { last, .. } => last,
            Self::Hidden { .. } | Self::Forked(_) => None,
        }
    }
}
