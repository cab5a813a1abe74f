//! The fullest mailboxes and channels of a shard: found a few at a time, at the shard's ticks, and left where whoever asks reads them.
//!
//! One look is bounded, however many mailboxes there are, so a pass over a million of them takes some minutes; of a node with a thousand
//! it is of the last second. Like the numbers beside it, it waits for no reader.

use std::cmp::Reverse;
use std::sync::{Arc, Mutex, PoisonError, TryLockError};

use creto_envelope::{AgentId, ChannelId};
use creto_policy::Snapshot;
use creto_service::depths::{DEPTHS_MAX, DepthSource, MailboxDepth, MailboxDepths, MailboxKind};
use creto_shard::Shard;
use creto_store::{Depth, Mailboxes};

/// Places that are looked at in one tick: some microseconds, or tens of them where memory is cold.
const PLACES_PER_LOOK: u32 = 1_024;
/// Ticks from the end of a pass to the next one. A second, so that a small node does not sort its mailboxes ten times in one.
const TICKS_BETWEEN: u8 = 10;
/// Candidates that a pass collects before it keeps the fullest of them.
const CANDIDATES_MAX: usize = 4 * DEPTHS_MAX;

/// Where a shard leaves what it found. Cheap to clone; all clones are one.
#[derive(Clone, Debug, Default)]
pub(crate) struct Depths(Arc<Mutex<Survey>>);

#[derive(Debug, Default)]
struct Survey {
    /// Where the pass goes on.
    place: u32,
    /// Of the pass that is under way.
    candidates: Vec<Depth>,
    seen: u64,
    ticks_left: u8,
    /// Of the last whole pass.
    found: Found,
}

#[derive(Clone, Debug, Default)]
struct Found {
    mailboxes: Vec<MailboxDepth>,
    holding: u64,
}

impl Depths {
    /// Looks on, on the shard's own thread.
    pub(crate) fn look(&self, shard: &Shard) {
        let mut survey = match self.0.try_lock() {
            Ok(survey) => survey,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => return,
        };
        if survey.look(shard.log().mailboxes()) {
            let snapshot = shard.snapshot();
            let named = survey.candidates.drain(..).map(|depth| named(depth, snapshot)).collect();
            survey.found = Found { mailboxes: named, holding: std::mem::take(&mut survey.seen) };
        }
    }

    fn found(&self) -> Found {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).found.clone()
    }
}

impl Survey {
    /// Returns whether a pass has just ended: the candidates are the fullest then, in order.
    fn look(&mut self, mailboxes: &Mailboxes) -> bool {
        if self.ticks_left > 0 {
            self.ticks_left -= 1;
            return false;
        }
        let Self { candidates, seen, .. } = self;
        let next = mailboxes.depths_from(self.place, PLACES_PER_LOOK, |depth| {
            *seen += 1;
            candidates.push(depth);
            if candidates.len() == CANDIDATES_MAX {
                keep_fullest(candidates);
            }
        });
        self.place = next.unwrap_or(0);
        if next.is_none() {
            self.ticks_left = TICKS_BETWEEN - 1;
            keep_fullest(&mut self.candidates);
        }
        next.is_none()
    }
}

fn keep_fullest(candidates: &mut Vec<Depth>) {
    candidates.sort_unstable_by_key(|depth| (Reverse(depth.messages), Reverse(depth.bytes), depth.mailbox));
    candidates.truncate(DEPTHS_MAX);
}

/// What it is called by the snapshot that the shard goes by; what was deleted meanwhile has only its id.
fn named(depth: Depth, snapshot: &Snapshot) -> MailboxDepth {
    let id = depth.mailbox.0;
    let agent = snapshot.principal(&AgentId(id)).map(|agent| agent.name().to_string());
    let channel = || snapshot.channel(&ChannelId(id)).map(|channel| channel.record().name.to_string());
    let (kind, name) = match agent {
        Some(name) => (MailboxKind::Agent, Some(name)),
        None => channel().map_or((MailboxKind::Unknown, None), |name| (MailboxKind::Channel, Some(name))),
    };
    MailboxDepth {
        id: AgentId(id).to_string(),
        name,
        kind,
        shard: 0,
        messages: depth.messages,
        bytes: depth.bytes,
        handed_out_messages: depth.handed_out_messages,
        dead_messages: depth.dead_messages,
    }
}

/// Those of all shards.
#[derive(Debug)]
pub(crate) struct NodeDepths(pub(crate) Vec<Depths>);

impl DepthSource for NodeDepths {
    fn fullest(&self) -> MailboxDepths {
        let (mut mailboxes, mut holding) = (Vec::new(), 0);
        for (shard, depths) in (0..).zip(&self.0) {
            let found = depths.found();
            holding += found.holding;
            mailboxes.extend(found.mailboxes.into_iter().map(|depth| MailboxDepth { shard, ..depth }));
        }
        mailboxes
            .sort_by(|one, other| (other.messages, other.bytes, &one.id).cmp(&(one.messages, one.bytes, &other.id)));
        mailboxes.truncate(DEPTHS_MAX);
        MailboxDepths { holding, mailboxes }
    }
}
