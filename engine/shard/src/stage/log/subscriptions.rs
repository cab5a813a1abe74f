//! Subscriptions to channels in the log: who begins and ends one, how far each has come, and what leaves a channel early.
//!
//! Promises what the log promises for messages: a change is answered when its record, and all before it, is durable.

use creto_envelope::RejectCode;
use creto_store::planted::{Bug, is_planted};
use creto_store::{AppendError, Record, RecordLog, RecordSequence, StartAt, Subscribe, SubscribeRefusal, Unsubscribe};

use super::Log;
use super::admit::reject_code;
use crate::channels::readers::{Handle, Subscribed};
use crate::channels::store_ids;

/// Somebody subscribes to a channel, or does not any more.
#[derive(Debug)]
pub(crate) struct SubscriptionChange {
    pub(crate) what: Subscribed,
    /// Who waits for it, and since when; nobody where the node ends it.
    pub(crate) waits: Option<(Handle, u64)>,
    pub(crate) change: Change,
    /// The epoch of the snapshot that allowed it; that of an end is of no interest.
    pub(crate) epoch: u64,
}

impl SubscriptionChange {
    /// It ends; by the node, where nobody waits for it.
    pub(crate) fn end(what: Subscribed, waits: Option<(Handle, u64)>) -> Self {
        Self { what, waits, change: Change::Unsubscribe, epoch: 0 }
    }

    fn is_by_the_node(&self) -> bool {
        self.waits.is_none()
    }
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum Change {
    Subscribe {
        start: Option<StartAt>,
        /// Most subscribers that the channel's record allows.
        subscribers_max: u32,
    },
    Unsubscribe,
}

/// A change whose record is not durable yet.
#[derive(Debug)]
pub(super) struct Changing {
    after: RecordSequence,
    change: SubscriptionChange,
}

pub(crate) type Changed = (SubscriptionChange, Result<(), RejectCode>);

/// What is made for the log and may have to be taken back.
enum Made {
    Subscribe(Subscribe),
    Unsubscribe(Unsubscribe),
}

impl<L: RecordLog> Log<L> {
    /// Subscriptions that began anew since this was asked last, and since when whoever asked for it does: nothing is durable yet, but
    /// whoever reads them is handed what the new one is to have.
    pub(crate) fn take_begun_anew(&mut self) -> Vec<(Subscribed, u64)> {
        std::mem::take(&mut self.begun_anew)
    }

    /// Takes a change; it becomes a record as soon as the log has room.
    pub(crate) fn change_subscription(&mut self, change: SubscriptionChange) {
        self.arrived.push_back(super::Arrived::Subscription(change));
    }

    /// Gives the change back when the log has no room for it right now.
    pub(super) fn admit_change(&mut self, change: SubscriptionChange) -> Option<SubscriptionChange> {
        if self.wal.fenced().is_some() {
            self.changed.push((change, Err(RejectCode::ShardFenced)));
            return None;
        }
        if change.is_by_the_node() && self.has_no_space_to_end(&change.what) {
            if !is_planted(Bug::ForgetRefusedEnd) {
                self.held_ends.insert(change.what);
            }
            return None;
        }
        let made = match self.make_change(&change) {
            Ok(made) => made,
            Err(code) => {
                self.changed.push((change, Err(code)));
                return None;
            }
        };
        let after = match made {
            // It is so already, by a record that may be on its way.
            None => self.wal.appended(),
            Some(made) => {
                let record = match &made {
                    Made::Subscribe(subscribe) => Record::Subscribe(*subscribe),
                    Made::Unsubscribe(unsubscribe) => Record::Unsubscribe(*unsubscribe),
                };
                match self.wal.check_append(&record) {
                    Ok(()) => {
                        if let Made::Subscribe(Subscribe { begins_after: Some(_), .. }) = made {
                            let since_us = change.waits.map_or(0, |(_, since_us)| since_us);
                            self.begun_anew.push((change.what, since_us));
                        }
                        self.wal.append(record).expect("room was just checked")
                    }
                    Err(error) => {
                        match &made {
                            Made::Subscribe(subscribe) => self.mailboxes.subscribe_refused(subscribe),
                            Made::Unsubscribe(unsubscribe) => self.mailboxes.unsubscribe_refused(unsubscribe),
                        }
                        if error == AppendError::Full {
                            return Some(change);
                        }
                        self.changed.push((change, Err(reject_code(&error))));
                        return None;
                    }
                }
            }
        };
        // Whether it was to end or is allowed again: this is later.
        self.held_ends.remove(&change.what);
        if after <= self.wal.durable() || is_planted(Bug::SubscribedBeforeDurable) {
            self.changed.push((change, Ok(())));
        } else {
            self.changing.push_back(Changing { after, change });
        }
        None
    }

    /// Ends of subscriptions that the log had no space for. They wait: whoever may not read any more is no subscriber after a restart.
    pub(super) fn admit_held_ends(&mut self) {
        while let Some(&what) = self.held_ends.first() {
            if !self.is_closed() && self.has_no_space_to_end(&what) {
                break;
            }
            self.held_ends.remove(&what);
            if !self.is_closed()
                && let Some(blocked) = self.admit_change(SubscriptionChange::end(what, None))
            {
                self.held_ends.insert(blocked.what);
                break;
            }
        }
    }

    /// Whether the end of this one waits for space.
    pub(crate) fn holds_end(&self, what: &Subscribed) -> bool {
        self.held_ends.contains(what)
    }

    fn has_no_space_to_end(&self, what: &Subscribed) -> bool {
        let (channel, subscriber, group) = store_ids(what);
        let record = Record::Unsubscribe(Unsubscribe { channel, subscriber, group });
        self.wal.check_append(&record) == Err(AppendError::StorageFull)
    }

    fn make_change(&mut self, change: &SubscriptionChange) -> Result<Option<Made>, RejectCode> {
        let (channel, subscriber, group) = store_ids(&change.what);
        match change.change {
            Change::Unsubscribe => Ok(self.mailboxes.unsubscribe(channel, subscriber, group).map(Made::Unsubscribe)),
            Change::Subscribe { start, subscribers_max } => {
                let subscribes = || {
                    let known = self.mailboxes.subscription(channel, subscriber, group);
                    known.is_some_and(|known| known.subscribers.contains(&subscriber))
                };
                if self.mailboxes.channel_subscribers(channel) >= subscribers_max as usize && !subscribes() {
                    return Err(RejectCode::ChannelFull);
                }
                match self.mailboxes.subscribe(channel, subscriber, group, start) {
                    Ok(subscribe) => Ok(subscribe.map(Made::Subscribe)),
                    Err(SubscribeRefusal::ChannelFull) => Err(RejectCode::ChannelFull),
                    // ShardFull, and whatever a later version refuses for want of room.
                    Err(_) => Err(RejectCode::Overloaded),
                }
            }
        }
    }

    /// What makes room in channels, as far as the log takes it. What it does not take, a later turn tells.
    pub(super) fn admit_leaving(&mut self) {
        while let Some(settle) = self.mailboxes.next_leaving() {
            let record = Record::Settle(settle);
            if self.wal.check_append(&record).is_err() {
                self.mailboxes.settle_refused(&super::admit::settle_of(record));
                continue;
            }
            self.wal.append(record).expect("room was just checked");
        }
    }

    /// How far subscriptions have come, as far as the log takes it. What it does not take, a later turn tells.
    pub(super) fn admit_cursors(&mut self) {
        // The messages are handed out again after the restart.
        if self.is_closed() {
            return;
        }
        while let Some(cursors) = self.mailboxes.next_cursors(self.wal.record_bytes_max()) {
            let record = Record::Cursors(cursors);
            if self.wal.check_append(&record).is_err() {
                let Record::Cursors(cursors) = record else { unreachable!("just made") };
                self.mailboxes.cursors_refused(&cursors);
                break;
            }
            self.wal.append(record).expect("room was just checked");
        }
    }

    /// Changes whose records are durable now, and those that were refused.
    pub(super) fn take_changed(&mut self) -> Vec<Changed> {
        let mut changed = std::mem::take(&mut self.changed);
        while self.changing.front().is_some_and(|changing| changing.after <= self.wal.durable()) {
            let Changing { change, .. } = self.changing.pop_front().expect("the front was just looked at");
            changed.push((change, Ok(())));
        }
        changed
    }

    /// The log is fenced: nobody knows whether these are on the disk.
    pub(super) fn changes_are_fenced(&mut self) {
        let changing = std::mem::take(&mut self.changing);
        self.changed.extend(changing.into_iter().map(|changing| (changing.change, Err(RejectCode::ShardFenced))));
    }
}
