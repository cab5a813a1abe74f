//! A subscription to a channel: a cursor over the messages that the channel keeps, and who reads by it.
//!
//! Two kinds of readers. A subscriber of its own has what it was handed in order, and acknowledges by one sequence. The
//! members of a group share a cursor, and each message goes to one of them:
//!
//! ```text
//! new --> in hand --> done (above the cursor until everything below is done, too)
//!          |   ^
//!          |   +-- again <-- its member went, or gave it back untouched
//!          |         ^
//!          +------> later   its member refused it, until a pause is over
//! ```
//!
//! **Which delivery failed.** Whoever refuses a message says so itself. What came back because its member went is handed out
//! alone: its member gets nothing else until it is done with it. So when a member goes that has one message in hand, or one that it
//! was handed alone, that message is what it went over, and only then a delivery counts as failed. After too many of either a
//! message is skipped, which counts as done.
//!
//! **Who gave back.** What a member gives back untouched it does not get again while another member is there that did not give it
//! back: it may be one that cannot open it.
//!
//! **Who is held back.** A member that has one alone gets nothing else, and one that has any does not get what is to be had alone.
//! It may be one that collects messages before it acknowledges them, so after a while ([`PROBE_HOLD_US`]) it gets one more.
//!
//! What is durable is the [`Progress`] alone; what is in whose hand, and how often it was, is in memory only.

use std::collections::{BTreeMap, BTreeSet};

use crate::id::{GroupId, SubscriberId};
use crate::limits::{GIVERS_REMEMBERED, GROUP_WINDOW, PROBE_HOLD_US};
use crate::lsn::SegmentNumber;
use crate::planted::{Bug, is_planted};
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
    /// Elsewhere, so that the many that are none do not take its room.
    Group(Box<Group>),
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
    /// What came back.
    pub(crate) again: BTreeMap<u64, Tried>,
    /// What comes back later: when, by the monotonic clock in microseconds.
    later: BTreeMap<u64, (u64, Tried)>,
    /// What members have.
    pub(crate) in_hand: BTreeMap<u64, InHand>,
    /// Who gave a message back untouched: others get it first.
    given_back: BTreeMap<u64, Vec<SubscriberId>>,
    /// Everything up to and with this was handed out at least once, or is done.
    pub(crate) handed: u64,
    pub(crate) skipped: u32,
    /// What is to happen, and when.
    timers: BTreeSet<(u64, Due)>,
    /// When the shard is to look at these, not later than the first of them; 0 for not at all.
    pub(crate) timer_us: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Due {
    /// The message of this sequence comes back.
    Back(u64),
    /// This member is held back no longer.
    Held(SubscriberId),
}

/// A member of a group.
#[derive(Debug, Clone, Default)]
pub(crate) struct Member {
    pub(crate) is_attached: bool,
    pub(crate) waits: Waits,
    pub(crate) in_hand: BTreeSet<u64>,
    /// Of these, the one that it was handed alone.
    alone: Option<u64>,
    /// When it was handed something last.
    handed_us: u64,
    /// When its timer is due; 0 for none.
    held_until_us: u64,
}

/// How a message fared with the members of a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Tried {
    /// How often it was handed out.
    pub(crate) attempts: u8,
    /// How often its member went over it, or refused it.
    pub(crate) failed: u8,
    /// Its member went, maybe over it: it is handed out alone.
    pub(crate) is_suspect: bool,
}

/// A message that a member has.
#[derive(Debug, Clone, Copy)]
pub(crate) struct InHand {
    pub(crate) member: SubscriberId,
    pub(crate) tried: Tried,
}

/// What the next message for a member of a group is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NextForMember {
    /// The first one that came back.
    Again,
    /// The first one behind this sequence.
    NewAfter(u64),
    /// None before this time: it is held back.
    Held(u64),
    /// None, until somebody is done with something.
    Blocked,
}

/// What the timers of a group led to.
#[derive(Debug, Default)]
pub(crate) struct Passed {
    /// Something came back.
    pub(crate) is_back: bool,
    /// Members that are held back no longer.
    pub(crate) members: Vec<SubscriberId>,
}

impl Subscription {
    pub(crate) fn new(mailbox: u32, group: GroupId, subscriber: SubscriberId, cursor: u64) -> Self {
        let readers = match group == GroupId::NONE {
            true => Readers::One(Own { handed: cursor, handed_max: cursor, ..Own::default() }),
            false => Readers::Group(Box::new(Group { handed: cursor, ..Group::default() })),
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
            Readers::Group(group) => group.begin_at(cursor),
        }
    }

    /// What its readers have, before it begins anew.
    pub(crate) fn handed(&self) -> Handed {
        match &self.readers {
            Readers::One(own) => Handed::One(own.handed, own.handed_max),
            Readers::Group(group) => Handed::Group(group.clone()),
        }
    }

    /// It does not begin anew after all: its readers have what they had.
    pub(crate) fn put_handed(&mut self, handed: Handed) {
        match (&mut self.readers, handed) {
            (Readers::One(own), Handed::One(handed, handed_max)) => (own.handed, own.handed_max) = (handed, handed_max),
            (Readers::Group(group), Handed::Group(mut before)) => {
                // Those that are to look at it are others by now.
                before.timer_us = group.timer_us;
                for (id, member) in &mut before.members {
                    member.waits = group.members.get(id).expect("nobody left in between").waits;
                }
                *group = before;
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
    /// Everything up to and with `cursor` counts as consumed, and nothing else does.
    fn begin_at(&mut self, cursor: u64) {
        let mut members = std::mem::take(&mut self.members);
        for member in members.values_mut() {
            *member = Member { is_attached: member.is_attached, waits: member.waits, ..Member::default() };
        }
        let (skipped, timer_us) = (self.skipped, self.timer_us);
        *self = Self { members, handed: cursor, skipped, timer_us, ..Self::default() };
    }

    /// What this member gets next, when this came back first.
    pub(crate) fn next_for(&self, member: SubscriberId, first_again: Option<u64>, now_us: u64) -> NextForMember {
        let Some(holder) = self.members.get(&member).filter(|holder| holder.is_attached) else {
            return NextForMember::Blocked;
        };
        let is_suspect = first_again.is_some_and(|sequence| self.again[&sequence].is_suspect);
        let is_held = holder.alone.is_some() || (is_suspect && !holder.in_hand.is_empty());
        let until_us = holder.handed_us.saturating_add(PROBE_HOLD_US);
        match first_again {
            _ if is_held && now_us < until_us => NextForMember::Held(until_us),
            // In order, ahead of what is new.
            Some(_) => NextForMember::Again,
            None if self.is_full() => NextForMember::Blocked,
            None if is_planted(Bug::HandOutTwice) => {
                let first = self.in_hand.first_key_value().map_or(u64::MAX, |(&sequence, _)| sequence);
                NextForMember::NewAfter(self.handed.min(first - 1))
            }
            None => NextForMember::NewAfter(self.handed),
        }
    }

    /// Whether a message that came back is for others than this member: it gave that back untouched, and somebody is there who did not.
    pub(crate) fn is_for_others(&self, sequence: u64, member: SubscriberId) -> bool {
        let Some(givers) = self.given_back.get(&sequence).filter(|givers| givers.contains(&member)) else {
            return false;
        };
        self.members.iter().any(|(id, other)| other.is_attached && !givers.contains(id))
    }

    /// Whether this message was handed out, or is done.
    pub(crate) fn knows(&self, sequence: u64) -> bool {
        let has_had = self.again.contains_key(&sequence) || self.later.contains_key(&sequence);
        let is_in_hand = self.in_hand.contains_key(&sequence) && !is_planted(Bug::HandOutTwice);
        has_had || self.done.contains(&sequence) || is_in_hand
    }

    /// As much as may be is known about messages above the cursor.
    pub(crate) fn is_full(&self) -> bool {
        self.in_hand.len() + self.again.len() + self.later.len() + self.done.len() >= GROUP_WINDOW
    }

    /// Whether what came back first is to be had alone: it holds up those that have anything.
    pub(crate) fn is_suspect_first(&self) -> bool {
        self.again.first_key_value().is_some_and(|(_, tried)| tried.is_suspect)
    }

    /// A message goes to a member; returns how often it was handed out, this time included.
    pub(crate) fn hand(&mut self, member: SubscriberId, sequence: u64, now_us: u64) -> u8 {
        let mut tried = self.again.remove(&sequence).unwrap_or_default();
        tried.attempts = tried.attempts.saturating_add(1);
        let before = self.in_hand.insert(sequence, InHand { member, tried });
        if let Some(holder) = before.filter(|_| is_planted(Bug::HandOutTwice)) {
            self.members.get_mut(&holder.member).expect("it has the message").in_hand.remove(&sequence);
        } else {
            assert!(before.is_none(), "a message of a group is in one hand");
        }
        let holder = self.members.get_mut(&member).expect("it was just asked for");
        if tried.is_suspect && holder.in_hand.is_empty() {
            holder.alone = Some(sequence);
        }
        holder.in_hand.insert(sequence);
        holder.handed_us = now_us;
        self.hold(member, 0);
        self.handed = self.handed.max(sequence);
        tried.attempts
    }

    /// Takes a message from a member; `None` when it does not have it.
    fn take(&mut self, member: SubscriberId, sequence: u64) -> Option<Tried> {
        let tried = self.in_hand.get(&sequence).filter(|held| held.member == member)?.tried;
        self.in_hand.remove(&sequence);
        let holder = self.members.get_mut(&member).expect("it has the message");
        holder.in_hand.remove(&sequence);
        holder.alone = holder.alone.filter(|&alone| alone != sequence);
        self.hold(member, 0);
        Some(tried)
    }

    /// A member is done with a message; `false` when it does not have it.
    pub(crate) fn done(&mut self, member: SubscriberId, sequence: u64) -> bool {
        let is_its = self.take(member, sequence).is_some();
        if is_its {
            self.is_done(sequence);
        }
        is_its
    }

    fn is_done(&mut self, sequence: u64) {
        self.given_back.remove(&sequence);
        self.done.insert(sequence);
    }

    /// A member gives a message back that it did not look at, or could do nothing with; `false` when it does not have it.
    pub(crate) fn untouched(&mut self, member: SubscriberId, sequence: u64) -> bool {
        let Some(tried) = self.take(member, sequence) else { return false };
        let givers = self.given_back.entry(sequence).or_default();
        if !givers.contains(&member) {
            // What so many gave back may go round once more.
            if givers.len() >= GIVERS_REMEMBERED {
                givers.clear();
            }
            givers.push(member);
        }
        self.again.insert(sequence, Tried { attempts: tried.attempts.saturating_sub(1), ..tried });
        true
    }

    /// Whether others may be handed something when this member goes: what it has, or what was given back while it was there.
    pub(crate) fn is_waited_for(&self, member: SubscriberId) -> bool {
        !self.given_back.is_empty() || self.members.get(&member).is_some_and(|holder| !holder.in_hand.is_empty())
    }

    /// A member refuses a message, which comes back after the pause that this gives for so many failed deliveries. Returns whether it
    /// is skipped instead, as in [`member_goes`](Self::member_goes); `None` when the member does not have it.
    pub(crate) fn refused(
        &mut self,
        member: SubscriberId,
        sequence: u64,
        deliveries_max: u8,
        due_us: impl FnOnce(u8) -> u64,
    ) -> Option<bool> {
        let tried = self.take(member, sequence)?;
        let tried = Tried { failed: tried.failed.saturating_add(1), is_suspect: false, ..tried };
        let is_skipped = self.is_too_often(sequence, tried, deliveries_max);
        if !is_skipped {
            let due_us = due_us(tried.failed);
            self.later.insert(sequence, (due_us, tried));
            self.timers.insert((due_us, Due::Back(sequence)));
        }
        Some(is_skipped)
    }

    /// A member goes: what it had goes to others. What failed `deliveries_max` times is skipped; 0 for never.
    /// Returns whether that was so.
    pub(crate) fn member_goes(&mut self, member: SubscriberId, deliveries_max: u8) -> bool {
        let Some(holder) = self.members.get_mut(&member) else { return false };
        holder.is_attached = false;
        // When it comes again, it may be able to do more.
        self.given_back.retain(|_, givers| {
            givers.retain(|giver| *giver != member);
            !givers.is_empty()
        });
        let holder = &self.members[&member];
        let only = holder.in_hand.first().copied().filter(|_| holder.in_hand.len() == 1);
        let blamed = holder.alone.or(only);
        let held: Vec<u64> = holder.in_hand.iter().copied().collect();
        let mut is_any_skipped = false;
        for sequence in held {
            let tried = self.take(member, sequence).expect("what a member has is in hand");
            let failed = tried.failed.saturating_add(u8::from(blamed == Some(sequence)));
            let tried = Tried { failed, is_suspect: true, ..tried };
            if self.is_too_often(sequence, tried, deliveries_max) {
                is_any_skipped = true;
            } else {
                self.again.insert(sequence, tried);
            }
        }
        self.hold(member, 0);
        is_any_skipped
    }

    /// Whether a message failed too often; then it is skipped.
    fn is_too_often(&mut self, sequence: u64, tried: Tried, deliveries_max: u8) -> bool {
        let is_too_often = deliveries_max > 0 && tried.failed >= deliveries_max;
        if is_too_often {
            self.skipped = self.skipped.saturating_add(1);
            self.is_done(sequence);
        }
        is_too_often
    }

    /// A member is held back until then; 0 for not any more.
    pub(crate) fn hold(&mut self, member: SubscriberId, until_us: u64) {
        let Some(holder) = self.members.get_mut(&member) else { return };
        let before_us = std::mem::replace(&mut holder.held_until_us, until_us);
        if before_us != until_us {
            self.timers.remove(&(before_us, Due::Held(member)));
            if until_us > 0 {
                self.timers.insert((until_us, Due::Held(member)));
            }
        }
    }

    /// When the first of its timers is due.
    pub(crate) fn first_due_us(&self) -> Option<u64> {
        self.timers.first().map(|&(due_us, _)| due_us)
    }

    /// Time has passed.
    pub(crate) fn pass(&mut self, now_us: u64) -> Passed {
        let mut passed = Passed::default();
        while let Some(&(_, due)) = self.timers.first().filter(|(due_us, _)| *due_us <= now_us) {
            self.timers.pop_first();
            match due {
                Due::Back(sequence) => {
                    let (_, tried) = self.later.remove(&sequence).expect("what leaves takes its timer with it");
                    self.again.insert(sequence, tried);
                    passed.is_back = true;
                }
                Due::Held(member) => {
                    self.members.get_mut(&member).expect("who leaves takes its timer with it").held_until_us = 0;
                    passed.members.push(member);
                }
            }
        }
        passed
    }

    /// Of these messages, by growing sequence, those that members have, or had.
    pub(crate) fn known_of(&self, sequences: &[u64]) -> Vec<u64> {
        let (Some(&first), Some(&last)) = (sequences.first(), sequences.last()) else { return Vec::new() };
        let in_hand = self.in_hand.range(first..=last).map(|(&sequence, _)| sequence);
        let again = self.again.range(first..=last).map(|(&sequence, _)| sequence);
        let later = self.later.range(first..=last).map(|(&sequence, _)| sequence);
        in_hand.chain(again).chain(later).filter(|sequence| sequences.binary_search(sequence).is_ok()).collect()
    }

    /// A message is not kept any more. That it is done is remembered until the cursor is behind it.
    pub(crate) fn forget(&mut self, sequence: u64) {
        if let Some(&InHand { member, .. }) = self.in_hand.get(&sequence) {
            self.take(member, sequence);
        }
        self.again.remove(&sequence);
        self.given_back.remove(&sequence);
        if let Some((due_us, _)) = self.later.remove(&sequence) {
            self.timers.remove(&(due_us, Due::Back(sequence)));
        }
    }
}
