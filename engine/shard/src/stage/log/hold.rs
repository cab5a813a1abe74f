//! The hold that a backup has on the log: a lease, so that a backup that died never keeps space that the node needs.
//!
//! It ends when the backup says so, when it was not heard of for [`HOLD_LEASE_US`], after [`HOLD_US_MAX`] in any case, and
//! when what it keeps is all that stands between the senders and a full log. Serving comes before backing up.

use creto_store::{HeldLog, RecordLog};

use super::Log;
use crate::event::Now;
use crate::limits::{HOLD_LEASE_US, HOLD_US_MAX};

/// Names a backup; another one for each.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct HoldId(pub u64);

/// What a backup asks of a shard.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum HoldRequest {
    /// Hold the log as it is durable now. Takes the place of an earlier hold.
    Begin,
    /// Go on holding it.
    Renew,
    /// Everything is copied: let go.
    End,
}

/// What a shard says to it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum HoldAnswer {
    /// It is held, and was all the time since [`HoldRequest::Begin`]; after [`HoldRequest::End`], until now.
    Held(HeldLog),
    /// The shard serves nobody yet.
    NotStarted,
    /// It is not held any more, and what was copied may be from different times.
    Over(HoldEnd),
}

/// Why a hold is over.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum HoldEnd {
    /// The backup was not heard of, or took too long.
    Lapsed,
    /// The log was about to refuse messages for want of the space that the hold kept.
    SpaceNeeded,
    /// Another backup has begun, or the node was started since.
    Unknown,
}

#[derive(Debug)]
pub(super) struct Hold {
    id: HoldId,
    /// When it ends unless it is renewed.
    until_us: u64,
    /// When it ends in any case.
    last_us: u64,
    ended: Option<HoldEnd>,
}

impl<L: RecordLog> Log<L> {
    /// Answers a backup.
    pub(crate) fn hold(&mut self, now: Now, id: HoldId, request: HoldRequest) -> HoldAnswer {
        self.end_late_hold(now);
        let until_us = now.monotonic_us.saturating_add(HOLD_LEASE_US);
        if request == HoldRequest::Begin {
            let Some(held) = self.wal.hold() else { return HoldAnswer::NotStarted };
            let last_us = now.monotonic_us.saturating_add(HOLD_US_MAX);
            self.hold = Some(Hold { id, until_us, last_us, ended: None });
            return HoldAnswer::Held(held);
        }
        let Some(hold) = self.hold.as_mut().filter(|hold| hold.id == id) else {
            return HoldAnswer::Over(HoldEnd::Unknown);
        };
        if let Some(ended) = hold.ended {
            return HoldAnswer::Over(ended);
        }
        let held = *self.wal.held().expect("the log is held as long as the hold has not ended");
        hold.until_us = until_us.min(hold.last_us);
        if request == HoldRequest::End {
            self.hold = None;
            self.wal.let_go();
        }
        HoldAnswer::Held(held)
    }

    /// Ends a hold whose time is over.
    pub(super) fn end_late_hold(&mut self, now: Now) {
        if self.hold.as_ref().is_some_and(|hold| hold.until_us <= now.monotonic_us) {
            self.end_hold(HoldEnd::Lapsed);
        }
    }

    /// Ends a hold that keeps space which the log is about to want.
    pub(super) fn end_costly_hold(&mut self) {
        let is_wanted = self.wal.space().message_bytes_left < self.wal.extent().segment_bytes;
        if self.hold.is_some() && is_wanted && self.wal.held_back_bytes() > 0 {
            self.end_hold(HoldEnd::SpaceNeeded);
        }
    }

    fn end_hold(&mut self, why: HoldEnd) {
        if let Some(hold) = self.hold.as_mut().filter(|hold| hold.ended.is_none()) {
            hold.ended = Some(why);
            self.wal.let_go();
        }
    }
}

#[cfg(test)]
mod tests;
