//! How much waits in which mailbox: for whoever looks after the node, a bounded number of places at a time.

use super::Mailboxes;
use crate::id::MailboxId;
use crate::slab::Held;

/// How much waits in one mailbox or channel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Depth {
    /// Which.
    pub mailbox: MailboxId,
    /// Messages that are durable and not settled, dead letters included.
    pub messages: u64,
    /// Their bytes, as the quotas count them.
    pub bytes: u64,
    /// Of these messages, those that its subscriber was given and has not settled.
    pub handed_out_messages: u64,
    /// Of these messages, dead letters.
    pub dead_messages: u64,
}

impl Mailboxes {
    /// Calls `see` for the mailboxes in up to `places_max` places from `place` on, and returns where to go on; `None` when that was the
    /// last place. Places that were given back are not walked and do not count. What comes and goes between two calls may be seen or not,
    /// and a mailbox that empties and fills again in between may be seen at two places.
    pub fn depths_from(&self, place: u32, places_max: u32, mut see: impl FnMut(Depth)) -> Option<u32> {
        let last = self.boxes.end();
        let (mut at, mut left) = (self.boxes.next_present(place), places_max);
        while at < last && left > 0 {
            let slot = at;
            (at, left) = (self.boxes.next_present(slot + 1), left - 1);
            let Some(Held::Taken(queues)) = self.boxes.look(slot) else { continue };
            if queues.messages > 0 {
                see(Depth {
                    mailbox: queues.id,
                    messages: queues.messages,
                    bytes: queues.bytes,
                    handed_out_messages: queues.handed_out_messages as u64,
                    dead_messages: queues.dead_messages,
                });
            }
        }
        (at < last).then_some(at)
    }
}
