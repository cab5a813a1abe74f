//! Channels on the shard that owns them: who reads, who is told of the members, and what becomes of both.
//!
//! ```text
//! connection's shard                    channel's shard
//! ------------------------------------  ------------------------------------------------------------------
//! ChannelSubscribe -- ChannelAsk --->   may it? -> a record of the log -> durable -> a seat, ChannelSubscribed
//! ChannelCredit, ChannelAck --------->  its seat; cursors become one record a turn (stage/log/subscriptions.rs)
//! ChannelDeliver  <-- ReaderPush -----  fan_out.rs: what is durable, to each seat its share of a turn
//! ChannelAttach   ------------------->  members.rs: who subscribes, told before the outcomes of messages behind
//! ```
//!
//! Frames of clients are in `request`, and in `listing` what they ask about channels that they do not know. What may not subscribe any more is found after each snapshot that can have taken something from
//! somebody, some in each turn.

mod fan_out;
mod listing;
pub(crate) mod members;
pub(crate) mod readers;
mod request;

use std::collections::BTreeSet;

use bytes::Bytes;
use creto_envelope::channel::frames::{ChannelLeft, ChannelSubscribed, GiveBack, Start};
use creto_envelope::{AgentId, ChannelId, GroupId, RejectCode};
use creto_policy::Action as PolicyAction;
use creto_store::planted::{Bug, is_planted};
use creto_store::{MailboxId, Mailboxes, RecordLog, StartAt, SubscriberId};

pub use self::fan_out::ReaderPush;
use self::fan_out::{FanOut, FannedOut, MayRead, may_read};
use self::members::{MemberChange, Members, MembersNews, Watcher};
use self::readers::{Handle, Readers, Seat, Subscribed};
pub(crate) use self::request::ChannelEnd;
use crate::event::{Action, ConnectionId, Now};
use crate::limits::SWEPT_PER_TURN;
use crate::route::{Origin, ShardMessage};
use crate::shard::Shard;
use crate::stage::log::Durable;
use crate::stage::log::subscriptions::{Change, SubscriptionChange};

/// What a connection's shard asks the shard of a channel.
#[derive(Debug)]
pub enum ChannelAsk {
    /// This agent wants to read the channel.
    Subscribe {
        /// Who.
        agent: AgentId,
        /// In which group, if in one.
        group: GroupId,
        /// The client's number for it, which is free.
        handle: u32,
        /// Where it begins.
        start: Start,
        /// When it asked, in microseconds of the node's monotonic clock.
        since_us: u64,
        /// Epoch of the snapshot by which the connection's shard said yes.
        epoch: u64,
    },
    /// The connection can take this much more.
    Credit {
        /// Of which subscription.
        handle: u32,
        /// Messages in addition.
        messages: u32,
        /// Bytes in addition.
        bytes: u32,
    },
    /// The application has these messages; without a group, the one of this sequence and all before it.
    Ack {
        /// Of which subscription.
        handle: u32,
        /// Their sequences.
        sequences: Vec<u64>,
    },
    /// A member of a group gives these messages back.
    Nack {
        /// Of which subscription.
        handle: u32,
        /// How.
        how: GiveBack,
        /// Their sequences.
        sequences: Vec<u64>,
    },
    /// The connection does not read it any more.
    Leave {
        /// Which subscription.
        handle: u32,
        /// What becomes of it.
        leaving: Leaving,
    },
    /// This agent, who may publish, wants to be told who subscribes.
    Watch {
        /// Who.
        agent: AgentId,
        /// Epoch of the snapshot by which the connection's shard said yes.
        epoch: u64,
    },
    /// The connection does not want to be told any more.
    Unwatch,
}

/// How a connection leaves a subscription.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Leaving {
    /// It is gone: nobody is to be told.
    Gone,
    /// The subscription stays.
    Detach,
    /// The subscription ends.
    Unsubscribe,
}

/// What the shard of a channel says to a connection's.
#[derive(Debug)]
pub enum ChannelNews {
    /// The subscription is durable, and read by the connection.
    Subscribed(ChannelSubscribed),
    /// The connection does not read it any more, or never did.
    Left(ChannelLeft),
    /// A ChannelMembers frame.
    Members {
        /// Which.
        channel: ChannelId,
        /// All of it.
        frame: Bytes,
        /// Whether it answers [`ChannelAsk::Watch`].
        is_answer: bool,
    },
    /// The connection is not told who subscribes: it may not be.
    NotTold {
        /// To which channel.
        channel: ChannelId,
        /// Why not.
        code: RejectCode,
        /// Whether it answers [`ChannelAsk::Watch`].
        is_answer: bool,
    },
}

/// The channels of a shard, beside what its log knows of them.
#[derive(Debug, Default)]
pub(crate) struct Channels {
    readers: Readers,
    fan_out: FanOut,
    members: Members,
    sweep: Option<Sweep>,
    /// Which turn it is, and how many pages of listings it has made.
    turn: u64,
    listings: u32,
}

/// A look at all subscriptions under a new snapshot: which of them may stay?
#[derive(Debug, Default)]
struct Sweep {
    /// The last one that was looked at.
    last: Option<Subscribed>,
    /// Another snapshot came meanwhile: once more, from the beginning.
    again: bool,
}

impl Channels {
    /// With the subscriptions that recovery found.
    pub(crate) fn of(mailboxes: &Mailboxes) -> Self {
        Self { members: Members::of(mailboxes), ..Self::default() }
    }

    /// As many listings again.
    pub(crate) fn begin_turn(&mut self) {
        (self.turn, self.listings) = (self.turn + 1, 0);
    }

    /// Whether a turn would hand something out, or end something.
    pub(crate) fn has_work(&self) -> bool {
        self.readers.ready_count() > 0 || self.sweep.is_some()
    }

    /// How many subscriptions there are, and how many are read.
    pub(crate) fn counts(&self) -> (u64, u64) {
        (self.members.subscription_count(), self.readers.len() as u64)
    }

    /// Those that may not read for now are looked at again.
    pub(crate) fn wake_held_back(&mut self) {
        self.fan_out.wake_held_back(&mut self.readers);
    }
}

impl<L: RecordLog> Shard<L> {
    /// Takes what a connection's shard asks.
    pub(crate) fn take_channel_ask(
        &mut self,
        now: Now,
        channel: ChannelId,
        origin: Origin,
        ask: ChannelAsk,
        actions: &mut Vec<Action>,
    ) {
        match ask {
            ChannelAsk::Subscribe { agent, group, handle, start, since_us, epoch } => {
                let handle = Handle { origin, number: handle };
                let seat = Seat::new(Subscribed { channel, agent, group }, handle, since_us);
                self.subscribe_channel(now, seat, start, epoch, actions);
            }
            ChannelAsk::Credit { handle, messages, bytes } => {
                self.channels.readers.credit(Handle { origin, number: handle }, messages, bytes);
            }
            ChannelAsk::Ack { handle, sequences } => self.acknowledge(Handle { origin, number: handle }, &sequences),
            ChannelAsk::Nack { handle, how, sequences } => {
                self.give_back(now, Handle { origin, number: handle }, how, &sequences);
            }
            ChannelAsk::Leave { handle, leaving } => {
                self.leave_channel(Handle { origin, number: handle }, leaving, actions);
            }
            ChannelAsk::Watch { agent, epoch } => {
                // The snapshot here may be newer than the one by which the connection's shard said yes.
                let news = match self.may_publish(now, &agent, channel) {
                    Ok(()) => {
                        let watcher = Watcher { agent, allowed_epoch: self.snapshot.epoch() };
                        let frame = self.channels.members.watch(channel, origin, watcher);
                        ChannelNews::Members { channel, frame, is_answer: true }
                    }
                    Err(code) => {
                        // It may have been told until now.
                        self.channels.members.unwatch(channel, origin);
                        let code = self.unless_late(epoch, code);
                        ChannelNews::NotTold { channel, code, is_answer: true }
                    }
                };
                self.tell_connection(origin, news, actions);
            }
            ChannelAsk::Unwatch => self.channels.members.unwatch(channel, origin),
        }
    }

    fn subscribe_channel(&mut self, now: Now, seat: Seat, start: Start, epoch: u64, actions: &mut Vec<Action>) {
        let (what, handle, since_us) = (seat.what, seat.handle, seat.since_us);
        // The snapshot here may be newer than the one by which the connection's shard said yes; and the look at all subscriptions
        // that this one stood for may be over.
        let may = may_read(&what, now, &self.snapshot, &mut self.decisions);
        let refused = match (may, self.snapshot.channel(&what.channel)) {
            (MayRead::Yes, Some(channel)) => Ok(channel.record().subscribers_max),
            (MayRead::Yes, None) => Err(RejectCode::UnknownChannel),
            (MayRead::NotNow(code) | MayRead::NoMore(code), _) => Err(code),
        };
        match refused {
            Ok(subscribers_max) => {
                self.channels.readers.expect(seat);
                let start = start_at(start);
                let change = Change::Subscribe { start, subscribers_max };
                let (waits, epoch) = (Some((handle, since_us)), self.snapshot.epoch());
                self.log.change_subscription(SubscriptionChange { what, waits, change, epoch });
            }
            Err(code) => {
                let code = self.unless_late(epoch, code);
                self.tell_left(handle, Some(code), actions);
            }
        }
    }

    /// What to say instead of no, where that is the answer of a snapshot older than the one that said yes.
    fn unless_late(&self, epoch: u64, code: RejectCode) -> RejectCode {
        if self.snapshot.epoch() < epoch { RejectCode::Overloaded } else { code }
    }

    /// Whoever reads a subscription that begins anew does not any more: it would be handed what the new reader is to have.
    pub(crate) fn those_before_rise(&mut self, actions: &mut Vec<Action>) {
        for (what, since_us) in self.log.take_begun_anew() {
            let Some(reader) = self.channels.readers.reader_of(&what) else { continue };
            // Rings of different shards overtake each other: who asked later reads.
            if self.channels.readers.seat(reader).is_some_and(|seat| seat.since_us <= since_us) {
                self.unseat(&what, RejectCode::SubscriptionReplaced, actions);
            }
        }
    }

    /// Whoever reads a subscription does not any more.
    fn unseat(&mut self, what: &Subscribed, code: RejectCode, actions: &mut Vec<Action>) {
        let Some(reader) = self.channels.readers.reader_of(what) else { return };
        let seat = self.channels.readers.rise(reader).expect("whoever reads has a seat");
        self.log.mailboxes_mut().reset_reader(reader, None);
        self.tell_left(seat.handle, Some(code), actions);
    }

    /// What was allowed under an older snapshot is durable now: the look at all subscriptions under the new one did not see it.
    /// Whoever may not read any more is a member for as long as its end is not durable: publishers are told of both.
    pub(crate) fn check_begun(&mut self, now: Now, durable: &mut Durable, actions: &mut Vec<Action>) {
        if is_planted(Bug::LeaveLateJoined) {
            return;
        }
        let mut ended = BTreeSet::new();
        for (SubscriptionChange { what, change, epoch, .. }, outcome) in &mut durable.subscriptions {
            let is_begun = matches!(change, Change::Subscribe { .. }) && outcome.is_ok();
            if !is_begun || *epoch == self.snapshot.epoch() {
                continue;
            }
            match may_read(what, now, &self.snapshot, &mut self.decisions) {
                MayRead::NoMore(code) => {
                    *outcome = Err(code);
                    if ended.insert(*what) {
                        self.end_subscription(*what, code, actions);
                    }
                }
                // The turn's time for evaluations is spent: the look at all is not over.
                MayRead::NotNow(RejectCode::Overloaded) => self.sweep_again(),
                MayRead::Yes | MayRead::NotNow(_) => {}
            }
        }
    }

    fn acknowledge(&mut self, handle: Handle, sequences: &[u64]) {
        let Some((reader, seat)) = self.channels.readers.find(handle) else { return };
        if seat.what.group != GroupId::NONE {
            self.log.mailboxes_mut().acknowledge_each(reader, sequences);
        } else if let [sequence] = sequences {
            let consumed = seat.acknowledge(*sequence);
            self.log.mailboxes_mut().acknowledge_upto(reader, consumed);
        }
    }

    /// What a member does not have in hand is left out, and whoever has lost its seat has nothing.
    fn give_back(&mut self, now: Now, handle: Handle, how: GiveBack, sequences: &[u64]) {
        let Some((reader, _)) = self.channels.readers.find(handle) else { return };
        let mailboxes = self.log.mailboxes_mut();
        match how {
            GiveBack::Untouched => mailboxes.give_back(reader, sequences),
            GiveBack::Later { delay_ms } => {
                self.counters.messages_nacked += sequences.len() as u64;
                let asked: Vec<(u64, u32)> = sequences.iter().map(|sequence| (*sequence, delay_ms)).collect();
                mailboxes.nack_published(reader, &asked, None, now.monotonic_us);
            }
        }
    }

    fn leave_channel(&mut self, handle: Handle, leaving: Leaving, actions: &mut Vec<Action>) {
        // Whoever has lost it meanwhile was told.
        let Some((seat, reader)) = self.channels.readers.remove(handle) else { return };
        if let Some(reader) = reader {
            self.log.mailboxes_mut().reset_reader(reader, None);
        }
        match leaving {
            Leaving::Gone => {}
            Leaving::Detach => self.tell_left(handle, None, actions),
            Leaving::Unsubscribe => {
                let waits = Some((handle, seat.since_us));
                self.log.change_subscription(SubscriptionChange::end(seat.what, waits));
            }
        }
    }

    /// Tells whoever watches of what became durable. Before the outcomes of the same turn.
    pub(crate) fn tell_members(&mut self, now: Now, changes: Vec<MemberChange>, actions: &mut Vec<Action>) {
        changes.into_iter().for_each(|change| self.channels.members.take(change));
        for MembersNews { channel, frame, watchers } in self.channels.members.take_news() {
            for (origin, watcher) in watchers {
                let epoch = self.snapshot.epoch();
                // A snapshot that lapsed has the epoch under which it was allowed.
                let may = match watcher.allowed_epoch == epoch && self.snapshot.policy().is_some() {
                    true => Ok(()),
                    false => self.may_publish(now, &watcher.agent, channel),
                };
                match may {
                    Ok(()) => {
                        self.channels.members.still_watches(channel, origin, epoch);
                        let news = ChannelNews::Members { channel, frame: frame.clone(), is_answer: false };
                        self.tell_connection(origin, news, actions);
                    }
                    // It misses something: nothing counts as told until it has asked again.
                    Err(code) => {
                        self.channels.members.unwatch(channel, origin);
                        let news = ChannelNews::NotTold { channel, code, is_answer: false };
                        self.tell_connection(origin, news, actions);
                    }
                }
            }
        }
    }

    /// Whether this agent may publish, whatever it has sent of late.
    fn may_publish(&mut self, now: Now, agent: &AgentId, channel: ChannelId) -> Result<(), RejectCode> {
        let on = PolicyAction::on_channel(&channel);
        match self.decisions.decide(&self.snapshot, now.unix_ms, agent, PolicyAction::Publish, &on, 0) {
            creto_policy::Decision::Allow(_) => Ok(()),
            creto_policy::Decision::Deny(code) => Err(code),
        }
    }

    /// What became of changes that connections wait for: they are durable, or refused.
    pub(crate) fn subscriptions_changed(
        &mut self,
        changes: Vec<(SubscriptionChange, Result<(), RejectCode>)>,
        actions: &mut Vec<Action>,
    ) {
        for (SubscriptionChange { what, waits, change, .. }, outcome) in changes {
            if matches!(change, Change::Unsubscribe) {
                // Whoever else reads it reads nothing any more, or is not there for the log.
                self.unseat(&what, outcome.err().unwrap_or(RejectCode::NotSubscribed), actions);
            }
            let Some((handle, since_us)) = waits else { continue };
            match (change, outcome) {
                (Change::Subscribe { .. }, outcome) => {
                    // It may have gone, or left, since.
                    let Some(seat) = self.channels.readers.take_expected(handle, since_us) else { continue };
                    match outcome {
                        Ok(()) => self.take_seat(what, seat, actions),
                        Err(code) => self.tell_left(handle, Some(code), actions),
                    }
                }
                (Change::Unsubscribe, outcome) => self.tell_left(handle, outcome.err(), actions),
            }
        }
    }

    /// A durable subscription is read by a connection; whoever read it before is told.
    fn take_seat(&mut self, what: Subscribed, seat: Seat, actions: &mut Vec<Action>) {
        let (channel, subscriber, group) = store_ids(&what);
        let handle = seat.handle;
        let Some((reader, cursor)) = self.log.mailboxes().reader_of(channel, subscriber, group) else {
            // It was ended before it was told.
            return self.tell_left(handle, Some(RejectCode::NotSubscribed), actions);
        };
        // Rings of different shards overtake each other: who asked later reads.
        if self.channels.readers.seat(reader).is_some_and(|before| before.since_us > seat.since_us) {
            return self.tell_left(handle, Some(RejectCode::SubscriptionReplaced), actions);
        }
        if let Some(before) = self.channels.readers.rise(reader) {
            self.tell_left(before.handle, Some(RejectCode::SubscriptionReplaced), actions);
        }
        let attached = self.log.mailboxes_mut().attach(channel, subscriber, group);
        assert_eq!(attached, Some(reader), "it was just looked at");
        let (oldest_sequence, newest_sequence) = self.log.mailboxes().kept_range(channel).unwrap_or_default();
        self.channels.readers.sit(reader, seat);
        self.channels.readers.wake(reader);
        let subscribed = ChannelSubscribed {
            handle: handle.number,
            channel: what.channel,
            next_sequence: cursor.saturating_add(1),
            oldest_sequence,
            newest_sequence,
        };
        self.tell_connection(handle.origin, ChannelNews::Subscribed(subscribed), actions);
    }

    /// Hands out what is durable.
    pub(crate) fn fan_out(&mut self, now: Now, actions: &mut Vec<Action>) {
        let Self { channels, log, snapshot, decisions, .. } = self;
        let Channels { readers, fan_out, .. } = channels;
        let FannedOut { pushes, ended, messages, void } =
            fan_out.run(now, snapshot, decisions, readers, log.mailboxes_mut());
        self.counters.channel_messages_pushed += messages;
        self.counters.messages_void += void;
        for (shard, pushes) in pushes {
            self.tell(shard, ShardMessage::FanOut { pushes }, actions);
        }
        for (reader, code) in ended {
            let Some(what) = self.channels.readers.seat(reader).map(|seat| seat.what) else { continue };
            self.end_subscription(what, code, actions);
        }
    }

    /// There is a new snapshot: which subscriptions may stay? All of them, where it can have taken nothing from anybody.
    pub(crate) fn look_at_subscriptions(&mut self, may_take_away: bool) {
        self.channels.wake_held_back();
        if may_take_away && !is_planted(Bug::ReadAfterRemoval) {
            self.sweep_again();
        }
    }

    /// A tick has passed: those that may not read for now are looked at again.
    pub(crate) fn channel_tick(&mut self) {
        self.channels.wake_held_back();
        if is_planted(Bug::ReadAfterRemoval) {
            self.sweep_again();
        }
    }

    fn sweep_again(&mut self) {
        match &mut self.channels.sweep {
            Some(sweep) => sweep.again = true,
            None => self.channels.sweep = Some(Sweep::default()),
        }
    }

    /// Looks at some of them. Behind the path, which has the time for evaluations first.
    pub(crate) fn sweep(&mut self, now: Now, actions: &mut Vec<Action>) {
        let Some(mut sweep) = self.channels.sweep.take() else { return };
        // Nobody may conclude from a snapshot that says nothing; and a log that is at its end takes no end of a subscription.
        if self.snapshot.policy().is_none() || self.log.is_closed() {
            return;
        }
        let some = self.channels.members.after(sweep.last.as_ref(), SWEPT_PER_TURN);
        let is_last = some.len() < SWEPT_PER_TURN;
        for what in some {
            match may_read(&what, now, &self.snapshot, &mut self.decisions) {
                // The turn's time for evaluations is spent: this one again in the next turn.
                MayRead::NotNow(RejectCode::Overloaded) => {
                    self.channels.sweep = Some(sweep);
                    return;
                }
                MayRead::NoMore(code) => self.end_subscription(what, code, actions),
                MayRead::Yes | MayRead::NotNow(_) => {}
            }
            sweep.last = Some(what);
        }
        self.channels.sweep = match (is_last, sweep.again) {
            (true, false) => None,
            (true, true) => Some(Sweep::default()),
            (false, _) => Some(sweep),
        };
    }

    /// A subscription is not allowed any more: whoever reads is told at once, and the log says that it ends.
    fn end_subscription(&mut self, what: Subscribed, code: RejectCode, actions: &mut Vec<Action>) {
        self.unseat(&what, code, actions);
        if self.log.holds_end(&what) {
            return;
        }
        self.counters.subscriptions_ended += 1;
        self.log.change_subscription(SubscriptionChange::end(what, None));
    }

    fn tell_left(&mut self, handle: Handle, code: Option<RejectCode>, actions: &mut Vec<Action>) {
        let left = match code {
            None => ChannelLeft::as_asked(handle.number),
            Some(code) => ChannelLeft::because(handle.number, code),
        };
        self.tell_connection(handle.origin, ChannelNews::Left(left), actions);
    }

    fn tell_connection(&mut self, origin: Origin, news: ChannelNews, actions: &mut Vec<Action>) {
        let connection: ConnectionId = origin.connection;
        self.tell(origin.shard, ShardMessage::ChannelNews { connection, news }, actions);
    }
}

/// A subscription's names, as the log knows them.
pub(crate) fn store_ids(what: &Subscribed) -> (MailboxId, SubscriberId, creto_store::GroupId) {
    (MailboxId(what.channel.0), SubscriberId(what.agent.0), creto_store::GroupId(what.group.0))
}

fn start_at(start: Start) -> Option<StartAt> {
    match start {
        Start::GoOn => None,
        Start::Now => Some(StartAt::Now),
        Start::Oldest => Some(StartAt::Oldest),
        Start::Sequence(sequence) => Some(StartAt::Sequence(sequence)),
        Start::Time(unix_ms) => Some(StartAt::TimeMs(unix_ms)),
    }
}
