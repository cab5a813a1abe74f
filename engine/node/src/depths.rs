//! The fullest mailboxes and channels of a shard: found a few at a time, at the shard's ticks, and left where whoever asks reads them.
//!
//! One look is bounded, however many mailboxes there are, so a pass over a million of them takes a minute and a half; of a node with a
//! thousand what was found is of the last two seconds. Until its first pass has ended a shard has found nothing, and says so. Like the numbers beside it, it waits for no reader.

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
    fullest: Fullest,
    seen: u64,
    ticks_left: u8,
    /// Of the last whole pass; none before the first has ended.
    found: Option<Found>,
}

#[derive(Clone, Debug)]
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
            let named = survey.fullest.take().into_iter().map(|depth| named(depth, snapshot)).collect();
            survey.found = Some(Found { mailboxes: named, holding: std::mem::take(&mut survey.seen) });
        }
    }

    fn found(&self) -> Option<Found> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).found.clone()
    }
}

impl Survey {
    /// Returns whether a pass has just ended.
    fn look(&mut self, mailboxes: &Mailboxes) -> bool {
        if self.ticks_left > 0 {
            self.ticks_left -= 1;
            return false;
        }
        let Self { fullest, seen, .. } = self;
        let next = mailboxes.depths_from(self.place, PLACES_PER_LOOK, |depth| {
            *seen += 1;
            fullest.add(depth);
        });
        self.place = next.unwrap_or(0);
        if next.is_none() {
            self.ticks_left = TICKS_BETWEEN - 1;
        }
        next.is_none()
    }
}

/// The fullest of any number of mailboxes, in bounded memory.
#[derive(Debug, Default)]
struct Fullest(Vec<Depth>);

impl Fullest {
    fn add(&mut self, depth: Depth) {
        self.0.push(depth);
        if self.0.len() == CANDIDATES_MAX {
            self.keep();
        }
    }

    /// At most [`DEPTHS_MAX`], the fullest first; none are left.
    fn take(&mut self) -> Vec<Depth> {
        self.keep();
        std::mem::take(&mut self.0)
    }

    fn keep(&mut self) {
        // A mailbox that emptied and filled again during the pass may have been seen at two places: what was seen last holds.
        self.0.sort_by_key(|depth| depth.mailbox);
        self.0.dedup_by(|later, earlier| {
            let is_same = later.mailbox == earlier.mailbox;
            if is_same {
                *earlier = *later;
            }
            is_same
        });
        self.0.sort_unstable_by_key(|depth| (Reverse(depth.messages), Reverse(depth.bytes), depth.mailbox));
        self.0.truncate(DEPTHS_MAX);
    }
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
        let (mut mailboxes, mut holding, mut complete) = (Vec::new(), 0, true);
        for (shard, depths) in (0..).zip(&self.0) {
            let Some(found) = depths.found() else {
                complete = false;
                continue;
            };
            holding += found.holding;
            mailboxes.extend(found.mailboxes.into_iter().map(|depth| MailboxDepth { shard, ..depth }));
        }
        mailboxes
            .sort_by(|one, other| (other.messages, other.bytes, &one.id).cmp(&(one.messages, one.bytes, &other.id)));
        mailboxes.truncate(DEPTHS_MAX);
        MailboxDepths { complete, holding, mailboxes }
    }
}

#[cfg(test)]
mod tests {
    use creto_store::MailboxId;

    use super::*;

    fn depth(number: u64) -> Depth {
        let mut id = [0; 16];
        id[..8].copy_from_slice(&number.to_be_bytes());
        // Neighbours hold the same number of messages and differ in bytes.
        let messages = number / 2;
        Depth { mailbox: MailboxId(id), messages, bytes: 1_000 + number % 2, handed_out_messages: 0, dead_messages: 0 }
    }

    #[test]
    fn of_any_number_of_mailboxes_the_fullest_are_kept_in_whatever_order_they_are_seen() {
        for count in [0, 1, 31, 32, 33, 127, 128, 129, 1_009, 10_007] {
            let mut fullest = Fullest::default();
            // 7,919 is prime to every count: each number comes once.
            for place in 0..count {
                fullest.add(depth(place * 7_919 % count));
                assert!(fullest.0.len() < CANDIDATES_MAX, "bounded");
            }
            let wanted: Vec<Depth> = (0..count).rev().take(DEPTHS_MAX).map(depth).collect();
            assert_eq!(fullest.take(), wanted, "{count} mailboxes");
            assert!(fullest.take().is_empty());
        }
    }

    #[test]
    fn a_mailbox_that_was_seen_at_two_places_is_listed_once_as_it_was_seen_last() {
        let mut fullest = Fullest::default();
        fullest.add(Depth { messages: 900, ..depth(7) });
        // Whether it was kept in between or not.
        (0..200).for_each(|number| fullest.add(depth(1_000 + number)));
        fullest.add(Depth { messages: 800, ..depth(7) });
        let found = fullest.take();
        let of_it: Vec<u64> =
            found.iter().filter(|one| one.mailbox == depth(7).mailbox).map(|one| one.messages).collect();
        assert_eq!((found.len(), of_it), (DEPTHS_MAX, vec![800]));
    }

    #[test]
    fn what_was_not_looked_at_is_not_said_to_be_empty() {
        let (first, second) = (Depths::default(), Depths::default());
        let node = NodeDepths(vec![first.clone(), second.clone()]);
        assert!(!node.fullest().complete, "no shard has looked");
        let nothing = || Some(Found { mailboxes: Vec::new(), holding: 0 });
        first.0.lock().unwrap().found = nothing();
        assert!(!node.fullest().complete, "one has not");
        second.0.lock().unwrap().found = nothing();
        assert_eq!(node.fullest(), MailboxDepths { complete: true, holding: 0, mailboxes: Vec::new() });
    }
}
