//! A subscription to a channel: a cursor over the messages that the channel keeps, and who reads by it.
//!
//! Two kinds of readers. A subscriber of its own has what it was handed in order, and acknowledges by one sequence. The
//! members of a group share a cursor, and each message goes to one of them:
//!
//! ```text
//! new --> in hand --> done (above the cursor until everything below is done, too)
//!          |   ^ alone
//!          v   |
//!         again   its member went; after too many deliveries: skipped, which counts as done
//! ```
//!
//! **Which delivery failed.** What came back is handed out alone: its member gets nothing else until it is done with it. So when
//! a member goes that has one message in hand, that message is what it went over, and only then a delivery counts as failed.
//!
//! What is durable is the [`Progress`] alone; what is in whose hand, and how often it was, is in memory only.

use std::collections::{BTreeMap, BTreeSet};

use crate::id::{GroupId, SubscriberId};
use crate::limits::GROUP_WINDOW;
use crate::lsn::SegmentNumber;
use crate::record::{Progress, SUBSCRIPTIONS_ENTRY_BYTES};

/// Whoever reads a channel: a subscriber, or one member of a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Reader {
    /// The subscription's number.
    pub subscription: u64,
    /// The subscriber, or the member of the group.
    pub subscriber: SubscriberId,
}

/// One cursor.
#[derive(Debug, Clone)]
pub(crate) struct Subscription {
    /// Number of the channel's mailbox.
    pub(crate) mailbox: u32,
    pub(crate) group: GroupId,
    /// Whose it is; of a group [`SubscriberId::NONE`].
    pub(crate) subscriber: SubscriberId,
    /// Everything up to and with this is consumed, or gone.
    pub(crate) cursor: u64,
    /// The cursor that is durable.
    pub(crate) durable: u64,
    /// Records by which it begins anew, on their way: what is durable meanwhile is about what was before.
    pub(crate) moves: u32,
    /// Where it stands among the floors of its channel: the lower one of both.
    pub(crate) floor: u64,
    pub(crate) missed: u64,
    /// The segment of the record that it cannot be without; none while that record is on its way.
    pub(crate) segment: Option<SegmentNumber>,
    /// Where it counts as to be carried over, and how many bytes of it.
    pub(crate) counted: Option<(SegmentNumber, u64)>,
    /// It has come further than the last record about it says.
    pub(crate) is_dirty: bool,
    /// It missed messages since that record: the log says so by what it has of these.
    pub(crate) has_missed: bool,
    pub(crate) readers: Readers,
}

#[derive(Debug, Clone)]
pub(crate) enum Readers {
    One(Own),
    Group(Group),
}

/// What a reader waits for. Which list it is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Waits {
    /// For nothing that happens here: it is not there, or its credit is used up.
    #[default]
    Nothing,
    /// For something to be published: its place among the channel's readers that do.
    News(usize),
    /// For the message of this sequence to be read: its place among the channel's readers that do.
    Read(u64, usize),
    /// It was told, or is about to be.
    Ready,
}

/// What readers of a subscription have, and what a group knows above its cursor.
#[derive(Debug)]
pub(crate) enum Handed {
    /// Up to and with which sequence, and that of all that were attached.
    One(u64, u64),
    /// A group without its members.
    Group(Box<Group>),
}

/// A subscriber with a cursor of its own.
#[derive(Debug, Clone, Default)]
pub(crate) struct Own {
    pub(crate) is_attached: bool,
    pub(crate) waits: Waits,
    /// Everything up to and with this was handed to whoever is attached.
    pub(crate) handed: u64,
    /// The same, of all that were attached since the subscription began, or began anew, in this life of the node.
    pub(crate) handed_max: u64,
}

/// A consumer group.
#[derive(Debug, Clone, Default)]
pub(crate) struct Group {
    pub(crate) members: BTreeMap<SubscriberId, Member>,
    /// What is done above the cursor.
    pub(crate) done: BTreeSet<u64>,
    /// What came back from members that went.
    pub(crate) again: BTreeMap<u64, Tried>,
    /// What members have.
    pub(crate) in_hand: BTreeMap<u64, InHand>,
    /// Everything up to and with this was handed out at least once, or is done.
    pub(crate) handed: u64,
    pub(crate) skipped: u32,
}

/// A member of a group.
#[derive(Debug, Clone, Default)]
pub(crate) struct Member {
    pub(crate) is_attached: bool,
    pub(crate) waits: Waits,
    pub(crate) in_hand: BTreeSet<u64>,
}

/// How a message fared with the members of a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Tried {
    /// How often it was handed out.
    pub(crate) attempts: u8,
    /// How often its member went over it.
    pub(crate) failed: u8,
}

/// A message that a member has.
#[derive(Debug, Clone, Copy)]
pub(crate) struct InHand {
    pub(crate) member: SubscriberId,
    pub(crate) tried: Tried,
    /// It came back before: its member gets nothing else meanwhile.
    pub(crate) is_alone: bool,
}

/// What the next message for a member of a group is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NextForMember {
    /// The first one that came back.
    Again,
    /// The first one behind this sequence.
    NewAfter(u64),
    /// None, until somebody is done with something.
    Blocked,
}

impl Subscription {
    pub(crate) fn new(mailbox: u32, group: GroupId, subscriber: SubscriberId, cursor: u64) -> Self {
        let readers = match group == GroupId::NONE {
            true => Readers::One(Own { handed: cursor, handed_max: cursor, ..Own::default() }),
            false => Readers::Group(Group { handed: cursor, ..Group::default() }),
        };
        Self {
            mailbox,
            group,
            subscriber,
            cursor,
            durable: cursor,
            moves: 0,
            floor: cursor,
            missed: 0,
            segment: None,
            counted: None,
            is_dirty: false,
            has_missed: false,
            readers,
        }
    }

    /// How far it has come.
    pub(crate) fn progress(&self) -> Progress {
        let (skipped, done) = match &self.readers {
            Readers::One(_) => (0, Vec::new()),
            Readers::Group(group) => (group.skipped, group.done.iter().copied().collect()),
        };
        Progress { cursor: self.cursor, missed: self.missed, skipped, done }
    }

    /// In recovery: it has come as far as this.
    pub(crate) fn put(&mut self, progress: &Progress) {
        self.begin_at(progress.cursor);
        self.durable = progress.cursor;
        self.missed = progress.missed;
        self.has_missed = false;
        if let Readers::Group(group) = &mut self.readers {
            group.skipped = progress.skipped;
            group.done = progress.done.iter().copied().collect();
        }
    }

    /// Everything up to and with `cursor` counts as consumed, and nothing else does.
    pub(crate) fn begin_at(&mut self, cursor: u64) {
        self.cursor = cursor;
        match &mut self.readers {
            Readers::One(own) => (own.handed, own.handed_max) = (cursor, cursor),
            Readers::Group(group) => {
                group.done.clear();
                group.again.clear();
                group.in_hand.clear();
                group.members.values_mut().for_each(|member| member.in_hand.clear());
                group.handed = cursor;
            }
        }
    }

    /// What its readers have, before it begins anew.
    pub(crate) fn take_handed(&mut self) -> Handed {
        match &mut self.readers {
            Readers::One(own) => Handed::One(own.handed, own.handed_max),
            Readers::Group(group) => {
                let (members, skipped) = (std::mem::take(&mut group.members), group.skipped);
                let before = std::mem::replace(group, Group { members, skipped, ..Group::default() });
                Handed::Group(Box::new(before))
            }
        }
    }

    /// It does not begin anew after all: its readers have what they had.
    pub(crate) fn put_handed(&mut self, handed: Handed) {
        match (&mut self.readers, handed) {
            (Readers::One(own), Handed::One(handed, handed_max)) => (own.handed, own.handed_max) = (handed, handed_max),
            (Readers::Group(group), Handed::Group(before)) => {
                let members = std::mem::take(&mut group.members);
                *group = Group { members, ..*before };
                for (&sequence, held) in &group.in_hand {
                    let member = group.members.get_mut(&held.member).expect("nobody left in between");
                    member.in_hand.insert(sequence);
                }
            }
            _ => unreachable!("a subscription is of one kind"),
        }
    }

    /// It is carried over whichever segments go: the log does not say how far it has come, or not for long.
    pub(crate) fn is_carried_always(&self) -> bool {
        self.is_dirty || self.has_missed
    }

    /// Bytes of the log that it takes when it is carried over, about.
    pub(crate) fn carried_bytes(&self) -> u64 {
        let bytes = match &self.readers {
            Readers::One(_) => SUBSCRIPTIONS_ENTRY_BYTES,
            Readers::Group(group) => SUBSCRIPTIONS_ENTRY_BYTES + 16 * group.members.len() + 8 * group.done.len(),
        };
        bytes as u64
    }

    /// How many of these messages, by growing sequence, it has not consumed.
    pub(crate) fn wanted_of(&self, sequences: &[u64]) -> usize {
        let above = &sequences[sequences.partition_point(|&sequence| sequence <= self.cursor)..];
        match &self.readers {
            Readers::Group(group) if !group.done.is_empty() => {
                above.iter().filter(|sequence| !group.done.contains(sequence)).count()
            }
            _ => above.len(),
        }
    }

    /// Those that read by it.
    pub(crate) fn subscribers(&self) -> usize {
        match &self.readers {
            Readers::One(_) => 1,
            Readers::Group(group) => group.members.len(),
        }
    }

    pub(crate) fn has_member(&self, subscriber: SubscriberId) -> bool {
        match &self.readers {
            Readers::One(_) => self.subscriber == subscriber,
            Readers::Group(group) => group.members.contains_key(&subscriber),
        }
    }

    /// What a reader waits for; `None` when it does not read by this.
    pub(crate) fn waits_mut(&mut self, subscriber: SubscriberId) -> Option<&mut Waits> {
        match &mut self.readers {
            Readers::One(own) => (self.subscriber == subscriber).then_some(&mut own.waits),
            Readers::Group(group) => group.members.get_mut(&subscriber).map(|member| &mut member.waits),
        }
    }

    /// A reader is there, or is there no more; `None` when it does not read by this.
    pub(crate) fn attached_mut(&mut self, subscriber: SubscriberId) -> Option<&mut bool> {
        match &mut self.readers {
            Readers::One(own) => (self.subscriber == subscriber).then_some(&mut own.is_attached),
            Readers::Group(group) => group.members.get_mut(&subscriber).map(|member| &mut member.is_attached),
        }
    }

    /// The readers that are there.
    pub(crate) fn attached(&self) -> Vec<SubscriberId> {
        match &self.readers {
            Readers::One(own) => own.is_attached.then_some(self.subscriber).into_iter().collect(),
            Readers::Group(group) => {
                let attached = group.members.iter().filter(|(_, member)| member.is_attached);
                attached.map(|(&subscriber, _)| subscriber).collect()
            }
        }
    }
}

impl Group {
    /// What this member gets next, when this came back first.
    pub(crate) fn next_for(&self, member: SubscriberId, first_again: Option<u64>) -> NextForMember {
        let Some(holder) = self.members.get(&member).filter(|holder| holder.is_attached) else {
            return NextForMember::Blocked;
        };
        let has_one_alone = || holder.in_hand.first().is_some_and(|first| self.in_hand[first].is_alone);
        match first_again {
            // In order, ahead of what is new, and alone.
            Some(_) if holder.in_hand.is_empty() => NextForMember::Again,
            Some(_) => NextForMember::Blocked,
            None if has_one_alone() || self.above_cursor() >= GROUP_WINDOW => NextForMember::Blocked,
            None => NextForMember::NewAfter(self.handed),
        }
    }

    /// Whether this message was handed out, or is done.
    pub(crate) fn knows(&self, sequence: u64) -> bool {
        self.done.contains(&sequence) || self.in_hand.contains_key(&sequence) || self.again.contains_key(&sequence)
    }

    /// Messages above the cursor about which something is known.
    fn above_cursor(&self) -> usize {
        self.in_hand.len() + self.again.len() + self.done.len()
    }

    /// A message goes to a member; returns how often it was handed out, this time included.
    pub(crate) fn hand(&mut self, member: SubscriberId, sequence: u64) -> u8 {
        let back = self.again.remove(&sequence);
        let mut tried = back.unwrap_or_default();
        tried.attempts = tried.attempts.saturating_add(1);
        let before = self.in_hand.insert(sequence, InHand { member, tried, is_alone: back.is_some() });
        assert!(before.is_none(), "a message of a group is in one hand");
        self.members.get_mut(&member).expect("it was just asked for").in_hand.insert(sequence);
        self.handed = self.handed.max(sequence);
        tried.attempts
    }

    /// A member is done with a message; `false` when it does not have it.
    pub(crate) fn done(&mut self, member: SubscriberId, sequence: u64) -> bool {
        if self.in_hand.get(&sequence).is_none_or(|held| held.member != member) {
            return false;
        }
        self.in_hand.remove(&sequence);
        self.members.get_mut(&member).expect("it has the message").in_hand.remove(&sequence);
        self.done.insert(sequence);
        true
    }

    /// A member goes: what it had goes to others. What failed `deliveries_max` times is skipped; 0 for never.
    /// Returns whether that was so.
    pub(crate) fn member_goes(&mut self, member: SubscriberId, deliveries_max: u8) -> bool {
        let Some(holder) = self.members.get_mut(&member) else { return false };
        holder.is_attached = false;
        let held = std::mem::take(&mut holder.in_hand);
        let is_only_one = held.len() == 1;
        let mut is_skipped = false;
        for sequence in held {
            let mut tried = self.in_hand.remove(&sequence).expect("what a member has is in hand").tried;
            if is_only_one {
                tried.failed = tried.failed.saturating_add(1);
            }
            if deliveries_max > 0 && tried.failed >= deliveries_max {
                self.skipped = self.skipped.saturating_add(1);
                self.done.insert(sequence);
                is_skipped = true;
            } else {
                self.again.insert(sequence, tried);
            }
        }
        is_skipped
    }

    /// Of these messages, by growing sequence, those that members have, or had.
    pub(crate) fn known_of(&self, sequences: &[u64]) -> Vec<u64> {
        let (Some(&first), Some(&last)) = (sequences.first(), sequences.last()) else { return Vec::new() };
        let (in_hand, again) = (self.in_hand.range(first..=last), self.again.range(first..=last));
        let known = in_hand.map(|(&sequence, _)| sequence).chain(again.map(|(&sequence, _)| sequence));
        known.filter(|sequence| sequences.binary_search(sequence).is_ok()).collect()
    }

    /// A message is not kept any more. That it is done is remembered until the cursor is behind it.
    pub(crate) fn forget(&mut self, sequence: u64) {
        if let Some(held) = self.in_hand.remove(&sequence)
            && let Some(member) = self.members.get_mut(&held.member)
        {
            member.in_hand.remove(&sequence);
        }
        self.again.remove(&sequence);
    }
}
