//! Which queued messages share one piece of memory, so that one that waits long does not keep that of all others alive.
//!
//! The messages of a batch arrive in one piece of memory and stay there: copying each would cost as much as everything
//! else that is done with it. When less than half of the piece is still queued, the rest moves into a smaller one
//! ([`Index::compact`](crate::index::Index)). So what is held is at most twice what is queued, and over its life a
//! message is copied once on average, at most.

use crate::index::Slot;
use crate::layout::length_usize;

/// Names a piece of memory while messages in it are queued.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct ShareId(u32);

/// All pieces of memory that queued messages share.
#[derive(Debug, Default)]
pub(crate) struct Shares {
    shares: Vec<Option<Share>>,
    free: Vec<ShareId>,
    /// Those of which less than half is queued, each at most once.
    sparse: Vec<ShareId>,
}

#[derive(Debug)]
struct Share {
    /// Every message that was in it, also those that are gone.
    slots: Vec<Slot>,
    held_bytes: usize,
    queued_bytes: usize,
    is_sparse: bool,
}

impl Shares {
    pub(crate) fn open(&mut self, message_count: usize) -> ShareId {
        let share =
            Share { slots: Vec::with_capacity(message_count), held_bytes: 0, queued_bytes: 0, is_sparse: false };
        match self.free.pop() {
            Some(id) => {
                self.shares[at(id)] = Some(share);
                id
            }
            None => {
                let id = ShareId(u32::try_from(self.shares.len()).expect("a share holds messages, of which are fewer"));
                self.shares.push(Some(share));
                id
            }
        }
    }

    pub(crate) fn join(&mut self, id: ShareId, slot: Slot, bytes: usize) {
        let share = self.get_mut(id);
        share.slots.push(slot);
        share.held_bytes += bytes;
        share.queued_bytes += bytes;
    }

    /// A message of so many bytes is not queued any more. With the last one the share is gone.
    pub(crate) fn leave(&mut self, id: ShareId, bytes: usize) {
        let share = self.get_mut(id);
        share.queued_bytes -= bytes;
        if share.queued_bytes == 0 && !share.is_sparse {
            self.shares[at(id)] = None;
            self.free.push(id);
        } else if share.queued_bytes * 2 < share.held_bytes && !share.is_sparse {
            share.is_sparse = true;
            self.sparse.push(id);
        }
    }

    /// The next one that is to be shrunk. Those that nothing is queued in any more are gone by then.
    pub(crate) fn next_sparse(&mut self) -> Option<ShareId> {
        while let Some(id) = self.sparse.pop() {
            let share = self.get_mut(id);
            share.is_sparse = false;
            if share.queued_bytes > 0 {
                return Some(id);
            }
            self.shares[at(id)] = None;
            self.free.push(id);
        }
        None
    }

    pub(crate) fn slots(&self, id: ShareId) -> &[Slot] {
        &self.shares[at(id)].as_ref().expect("a share that is named has messages").slots
    }

    /// What is queued has moved into memory of its own.
    pub(crate) fn shrink(&mut self, id: ShareId, slots: Vec<Slot>) {
        let share = self.get_mut(id);
        assert!(share.slots.len() > slots.len(), "a share shrinks when messages have left it");
        share.slots = slots;
        share.held_bytes = share.queued_bytes;
    }

    #[cfg(test)]
    pub(crate) fn held_bytes(&self) -> usize {
        self.shares.iter().flatten().map(|share| share.held_bytes).sum()
    }

    fn get_mut(&mut self, id: ShareId) -> &mut Share {
        self.shares[at(id)].as_mut().expect("a share that is named has messages")
    }
}

fn at(id: ShareId) -> usize {
    length_usize(id.0)
}
