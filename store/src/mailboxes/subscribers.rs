//! Who subscribes, all of it: for whoever keeps it in an order of its own beside the log.

use super::Mailboxes;
use crate::id::{GroupId, MailboxId, SubscriberId};
use crate::subscription::Readers;

impl Mailboxes {
    /// Every subscription to any channel, in order, each member of a group by itself. It takes as long as there are many: meant for
    /// the time after recovery.
    pub fn all_subscribers(&self) -> Vec<(MailboxId, GroupId, SubscriberId)> {
        let mut all = Vec::with_capacity(self.channels.subscriptions.len());
        for subscription in self.channels.subscriptions.values() {
            let channel = self.boxes.get(subscription.mailbox).taken().id;
            match &subscription.readers {
                Readers::One(_) => all.push((channel, GroupId::NONE, subscription.subscriber)),
                Readers::Group(group) => {
                    all.extend(group.members.keys().map(|&member| (channel, subscription.group, member)));
                }
            }
        }
        all.sort_unstable();
        all
    }
}
