//! Where queued messages are: in memory by slot, on disk by segment, in time by expiry.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use crate::id::MailboxId;
use crate::lsn::{Position, SegmentNumber};
use crate::record::{PartMessage, detached};
use crate::shares::{ShareId, Shares};

/// Names a queued message while it is queued.
pub(crate) type Slot = u32;

/// A durable message that is not settled.
#[derive(Debug)]
pub(crate) struct Queued {
    pub(crate) message: PartMessage,
    pub(crate) batch_header: Bytes,
    pub(crate) position: Position,
    /// How often it was handed out.
    pub(crate) attempt: u8,
    /// A record that settles it was made and is not durable yet: it is not handed out again.
    pub(crate) is_settling: bool,
    /// The memory that its path and envelope are in, if others are in it, too.
    pub(crate) share: Option<ShareId>,
}

/// All queued messages of a shard.
#[derive(Debug, Default)]
pub(crate) struct Index {
    slots: Vec<Option<Queued>>,
    free: Vec<Slot>,
    live_by_segment: BTreeMap<SegmentNumber, u64>,
    /// Messages that expire: when, sequence, slot.
    expiries: BTreeSet<(u64, u64, Slot)>,
    shares: Shares,
}

impl Index {
    /// Opens the memory that the messages of a part share. Give it to each of them; a message alone shares nothing.
    pub(crate) fn open_share(&mut self, messages: &[PartMessage]) -> Option<ShareId> {
        (messages.len() > 1).then(|| self.shares.open(messages.len()))
    }

    pub(crate) fn insert(&mut self, queued: Queued) -> Slot {
        *self.live_by_segment.entry(queued.position.segment).or_default() += 1;
        let expiry = (queued.message.expiry_ms, queued.message.sequence);
        let share = queued.share.map(|share| (share, queued.message.held_bytes()));
        let slot = match self.free.pop() {
            Some(slot) => {
                self.slots[at(slot)] = Some(queued);
                slot
            }
            None => {
                let slot = Slot::try_from(self.slots.len()).expect("the quotas keep a shard far below 2^32 messages");
                self.slots.push(Some(queued));
                slot
            }
        };
        if expiry.0 != 0 {
            self.expiries.insert((expiry.0, expiry.1, slot));
        }
        if let Some((share, bytes)) = share {
            self.shares.join(share, slot, bytes);
        }
        slot
    }

    pub(crate) fn remove(&mut self, slot: Slot) -> Queued {
        let queued = self.slots[at(slot)].take().expect("a slot that is named is taken");
        self.free.push(slot);
        let segment = queued.position.segment;
        let live = self.live_by_segment.get_mut(&segment).expect("every queued message is counted in its segment");
        *live -= 1;
        if *live == 0 {
            self.live_by_segment.remove(&segment);
        }
        if queued.message.expiry_ms != 0 {
            self.expiries.remove(&(queued.message.expiry_ms, queued.message.sequence, slot));
        }
        if let Some(share) = queued.share {
            self.shares.leave(share, queued.message.held_bytes());
        }
        queued
    }

    /// Gives back memory of which the messages that are still queued are less than half: they get a copy of their own.
    /// To be called after messages were removed, once for all of them.
    pub(crate) fn compact(&mut self) {
        while let Some(share) = self.shares.next_sparse() {
            let slots = self.shares.slots(share).iter().copied();
            let live: Vec<Slot> = slots.filter(|&slot| self.is_in(slot, share)).collect();
            let copies = detached(live.iter().map(|&slot| &self.get(slot).message));
            for (&slot, copy) in live.iter().zip(copies) {
                self.get_mut(slot).message = copy;
            }
            self.shares.shrink(share, live);
        }
    }

    /// Bytes of memory that queued messages keep alive, as far as they share it.
    #[cfg(test)]
    pub(crate) fn shared_bytes(&self) -> usize {
        self.shares.held_bytes()
    }

    fn is_in(&self, slot: Slot, share: ShareId) -> bool {
        self.slots[at(slot)].as_ref().is_some_and(|queued| queued.share == Some(share))
    }

    pub(crate) fn get(&self, slot: Slot) -> &Queued {
        self.slots[at(slot)].as_ref().expect("a slot that is named is taken")
    }

    pub(crate) fn get_mut(&mut self, slot: Slot) -> &mut Queued {
        self.slots[at(slot)].as_mut().expect("a slot that is named is taken")
    }

    /// The oldest segment that holds a queued message.
    pub(crate) fn oldest_live_segment(&self) -> Option<SegmentNumber> {
        self.live_by_segment.keys().next().copied()
    }

    /// Up to `messages_max` messages whose time is over and that nobody settles yet: mailbox and sequence, earliest first.
    pub(crate) fn expired(&self, now_ms: u64, messages_max: usize) -> Vec<(MailboxId, u64)> {
        let over = self.expiries.iter().take_while(|(expiry_ms, ..)| *expiry_ms <= now_ms);
        let over = over.map(|&(_, sequence, slot)| (self.get(slot), sequence));
        let open = over.filter(|(queued, _)| !queued.is_settling);
        open.take(messages_max).map(|(queued, sequence)| (queued.message.mailbox, sequence)).collect()
    }
}

fn at(slot: Slot) -> usize {
    crate::layout::length_usize(slot)
}
