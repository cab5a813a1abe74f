//! Agents that have to do with channels: they publish as others send, subscribe, go on where they were after whatever happened, and
//! show each message of a cursor once, by its sequence.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use creto_envelope::channel::frames::{
    CHANNEL_DELIVER_HEADER_BYTES, ChannelAck, ChannelAttach, ChannelCredit, ChannelDeliver, ChannelLeave, ChannelLeft,
    ChannelMembers, ChannelSubscribe, ChannelSubscribed, LeaveMode, Start,
};
use creto_envelope::control::{Reject, StreamRole};
use creto_envelope::{EnvelopeView, FrameType, RejectCode};

use super::{CHANNEL_AGENTS, CHANNELS, Cursor, MESSAGES_PER_PUBLISHER, PUBLISHERS, RING_US_MAX};
use crate::fault::Fault;
use crate::model::{Checked, Rule, broken};
use crate::network::{CHANNELS as STREAM, CONTROL, LinkNumber, SUBMIT, code_of};
use crate::node::lane_of;
use crate::pool::{AGENTS, Pool, Recipient, Window, aligned};
use crate::random::Random;
use crate::world::{Step, World};

/// Numbers that agents give their subscriptions.
const HANDLES: u32 = 12;

/// An agent that has to do with channels.
#[derive(Debug)]
pub(crate) struct ChannelAgent {
    /// Its place in the pool.
    pub(crate) index: usize,
    /// The connection that it publishes and reads on.
    pub(crate) current: Option<LinkNumber>,
    /// All connections that it has not seen end.
    open: Vec<LinkNumber>,
    not_before_us: u64,
    outbox: Option<Outbox>,
    wants: Vec<Want>,
}

/// What it publishes.
#[derive(Debug)]
struct Outbox {
    most: usize,
    released: usize,
    acknowledged: [bool; MESSAGES_PER_PUBLISHER],
    next: usize,
}

/// A cursor that it reads by, or will.
#[derive(Debug)]
struct Want {
    cursor: Cursor,
    is_wanted: bool,
    /// Nobody reads by it, for certain: it may begin wherever it likes.
    is_fresh: bool,
    /// A connection on which it asked to begin somewhere, without an answer.
    unanswered: Option<LinkNumber>,
    /// The connection that it reads on, and its number there.
    seat: Option<(LinkNumber, u32)>,
    /// The last message that was shown.
    last: u64,
    not_before_us: u64,
}

/// A number that a connection has for a subscription.
#[derive(Debug)]
pub(crate) struct OpenHandle {
    want: usize,
    is_subscribed: bool,
    leaves: Option<LeaveMode>,
    header: Option<Bytes>,
    credit_messages: u32,
    credit_bytes: u64,
    /// The first that it may be pushed.
    next: u64,
    last: u64,
    seen: BTreeSet<u64>,
    unacknowledged: Vec<u64>,
}

impl Outbox {
    fn oldest_open(&self) -> usize {
        self.acknowledged.iter().take(self.released).position(|done| !done).unwrap_or(self.released)
    }
}

impl ChannelAgent {
    pub(super) fn draw(random: &mut Random, number: usize) -> Self {
        let most = 4 + random.index(MESSAGES_PER_PUBLISHER - 3);
        let outbox = Outbox { most, released: 0, acknowledged: [false; MESSAGES_PER_PUBLISHER], next: 0 };
        let index = AGENTS + number;
        let mut wants = Vec::new();
        for channel in 0..CHANNELS {
            for agent in [Some(index), None] {
                // The owner only publishes.
                if number > 0 && random.one_in(2) {
                    let cursor = Cursor { channel, agent };
                    let (is_fresh, is_wanted) = (true, !random.one_in(3));
                    let (unanswered, seat, last, not_before_us) = (None, None, 0, 0);
                    wants.push(Want { cursor, is_wanted, is_fresh, unanswered, seat, last, not_before_us });
                }
            }
        }
        let outbox = (number < PUBLISHERS).then_some(outbox);
        Self { index, current: None, open: Vec::new(), not_before_us: 0, outbox, wants }
    }

    pub(crate) fn open(&self) -> &[LinkNumber] {
        &self.open
    }

    fn has_all_acknowledged(&self) -> bool {
        self.outbox.as_ref().is_none_or(|outbox| outbox.oldest_open() == outbox.released)
    }
}

impl World<'_> {
    pub(crate) fn channel_agent_acts(&mut self, agent: usize) -> Checked {
        let pause_us = match (self.channels.is_let_go, self.is_healing) {
            (true, _) => 100_000,
            (false, true) => 4_000,
            (false, false) => 8_000,
        };
        let delay_us = self.channels.random.between(200, pause_us);
        self.clock.after(delay_us, Step::ChannelAgent { agent });
        if self.is_finishing {
            return Ok(());
        }
        self.release(agent);
        for link in self.channels.agents[agent].open.clone() {
            let has_handles = !self.links[link].client_side.handles.is_empty();
            let is_current = self.channels.agents[agent].current == Some(link);
            if self.links[link].client_side.is_logged_in && !has_handles && !is_current {
                self.close_link(link);
            } else if self.links[link].client_side.is_logged_in {
                self.acknowledge_published(link);
            }
        }
        let state = &self.channels.agents[agent];
        if state.not_before_us > self.clock.now_us() || self.channels.records().is_revoked(state.index) {
            return Ok(());
        }
        match state.current {
            None => self.connect_to_channels(agent),
            Some(link) if self.links[link].client_side.is_logged_in => {
                self.change_mind(agent, link);
                self.subscribe_wanted(agent, link);
                self.publish(agent, link);
            }
            Some(_) => {}
        }
        Ok(())
    }

    /// Its application publishes more.
    fn release(&mut self, agent: usize) {
        let Some(outbox) = &mut self.channels.agents[agent].outbox else { return };
        if !self.is_healing {
            outbox.released = (outbox.released + self.channels.random.index(4)).min(outbox.most);
        }
    }

    fn connect_to_channels(&mut self, agent: usize) {
        let index = self.channels.agents[agent].index;
        let roles = [(CONTROL, StreamRole::Control), (SUBMIT, StreamRole::Submit), (STREAM, StreamRole::Channels)];
        let link = self.open_link(index, &roles);
        let state = &mut self.channels.agents[agent];
        state.current = Some(link);
        state.open.push(link);
    }

    fn close_link(&mut self, link: LinkNumber) {
        self.note(|| format!("connection {link}: the agent closes it"));
        self.client_gone(link);
        let delay_us = self.delay(self.profile.network_us);
        self.clock.after(delay_us, Step::NodeGone { link });
    }

    pub(crate) fn channel_agent_logged_in(&mut self, agent: usize, link: LinkNumber) {
        self.note(|| format!("connection {link}: agent {} is logged in", agent + AGENTS));
        let Some(outbox) = &mut self.channels.agents[agent].outbox else { return };
        outbox.next = outbox.oldest_open();
        for channel in 0..CHANNELS {
            let attach = ChannelAttach { channel: self.pool.channels[channel] };
            self.send_to_node(link, SUBMIT, |out| attach.encode(out));
        }
    }

    /// Now and then an agent stops reading, for a while or for good, or comes over another connection.
    fn change_mind(&mut self, agent: usize, link: LinkNumber) {
        if self.is_healing || !self.channels.random.one_in(12) {
            return;
        }
        let handles = &self.links[link].client_side.handles;
        let is_settled = handles.values().all(|handle| handle.leaves.is_none() && handle.is_subscribed);
        if self.channels.random.one_in(3) {
            if is_settled {
                self.faults.add(Fault::Takeover);
                self.connect_to_channels(agent);
            }
            return;
        }
        let numbers: Vec<u32> = handles.keys().copied().collect();
        if numbers.is_empty() || !is_settled {
            return;
        }
        let handle = self.channels.random.pick(&numbers);
        // That nobody reads by a cursor any more is certain only where no other connection may ask for it.
        let is_alone = self
            .links
            .iter()
            .enumerate()
            .all(|(other, of)| other == link || of.agent != self.links[link].agent || self.is_quiet(other));
        let mode = match is_alone && self.channels.random.one_in(2) {
            true => LeaveMode::Unsubscribe,
            false => LeaveMode::Detach,
        };
        let open = self.links[link].client_side.handles.get_mut(&handle).expect("it was just picked");
        open.leaves = Some(mode);
        let want = &mut self.channels.agents[agent].wants[open.want];
        want.is_wanted = mode == LeaveMode::Detach;
        want.not_before_us = self.clock.now_us() + self.channels.random.between(0, 30_000);
        self.note(|| format!("connection {link}: the agent leaves {handle}: {mode:?}"));
        self.send_to_node(link, STREAM, |out| ChannelLeave { handle, mode }.encode(out));
    }

    /// Nothing that was said on a connection can reach a shard any more.
    fn is_quiet(&self, link: LinkNumber) -> bool {
        let Some(link) = self.links.get(link) else { return true };
        let side = &link.node_side;
        !side.is_open && !link.client_side.is_open && side.gone_us + RING_US_MAX <= self.clock.now_us()
    }

    fn subscribe_wanted(&mut self, agent: usize, link: LinkNumber) {
        let index = self.channels.agents[agent].index;
        for number in 0..self.channels.agents[agent].wants.len() {
            let cursor = self.channels.agents[agent].wants[number].cursor;
            let may_read = self.channels.records().may_read(index, cursor.channel);
            let asks_anyway = !self.is_healing && self.channels.random.one_in(20);
            let wants_again = self.is_healing || self.channels.random.one_in(30);
            let want = &mut self.channels.agents[agent].wants[number];
            want.is_wanted |= wants_again && may_read;
            let is_due = want.not_before_us <= self.clock.now_us() && want.seat.is_none_or(|(at, _)| at != link);
            if !want.is_wanted || !is_due || !(may_read || asks_anyway) {
                continue;
            }
            let unanswered = want.unanswered;
            let handles = &self.links[link].client_side.handles;
            if unanswered.is_some_and(|link| !self.is_quiet(link)) || handles.values().any(|open| open.want == number) {
                continue;
            }
            let free: Vec<u32> = (0..HANDLES).filter(|handle| !handles.contains_key(handle)).collect();
            let handle = self.channels.random.pick(&free);
            let start = match self.channels.agents[agent].wants[number].is_fresh {
                true => self.channels.random.pick(&[Start::GoOn, Start::Now, Start::Oldest, Start::Oldest]),
                false => Start::GoOn,
            };
            let want = &mut self.channels.agents[agent].wants[number];
            if std::mem::take(&mut want.is_fresh) && cursor.agent.is_some() {
                want.last = 0;
                self.model.channels.begins_anew(cursor);
            }
            want.unanswered = (start != Start::GoOn).then_some(link);
            want.seat = Some((link, handle));
            let open = OpenHandle {
                want: number,
                is_subscribed: false,
                leaves: None,
                header: None,
                credit_messages: 0,
                credit_bytes: 0,
                next: 0,
                last: 0,
                seen: BTreeSet::new(),
                unacknowledged: Vec::new(),
            };
            self.links[link].client_side.handles.insert(handle, open);
            self.note(|| format!("connection {link}: agent {index} asks for {cursor:?} as {handle}: {start:?}"));
            let subscribe =
                ChannelSubscribe { handle, channel: self.pool.channels[cursor.channel], group: cursor.group(), start };
            self.send_to_node(link, STREAM, |out| subscribe.encode(out));
            if self.channels.random.one_in(2) {
                self.grant_published(link, handle);
            }
        }
    }

    fn publish(&mut self, agent: usize, link: LinkNumber) {
        let sender = self.channels.agents[agent].index;
        let Some(outbox) = &self.channels.agents[agent].outbox else { return };
        let (first, end) = (outbox.next, outbox.released.min(outbox.oldest_open() + self.profile.ahead_max));
        let sizes: Vec<usize> = Pool::window_sizes(first, end).collect();
        if sizes.is_empty() {
            return;
        }
        let window = Window { sender, first, count: self.channels.random.pick(&sizes) };
        self.send_batch(link, window, false);
        self.channels.agents[agent].outbox.as_mut().expect("it was just looked at").next = first + window.count;
    }

    /// The node has answered batches; `results` are those of a window's messages.
    pub(crate) fn published_answered(&mut self, agent: usize, window: Window, results: &[(u32, u16)]) {
        let gone = [RejectCode::UnknownChannel, RejectCode::AgentRevoked, RejectCode::UnknownSender];
        let for_the_clock = [RejectCode::OutsideDedupWindow, RejectCode::SigningTime];
        for (index, number) in (0..).zip(window.messages()) {
            let place = self.pool.messages[number].order;
            let code = code_of(results, index).and_then(RejectCode::from_u16);
            let pause_us = self.channels.random.between(500, 40_000);
            let not_before_us = self.clock.now_us() + pause_us;
            let state = &mut self.channels.agents[agent];
            let outbox = state.outbox.as_mut().expect("only who publishes is answered");
            if outbox.acknowledged[place] {
                continue;
            }
            match code {
                None | Some(RejectCode::Duplicate) => {
                    outbox.acknowledged[place] = true;
                    self.model.fates[number].sender_knows = true;
                }
                Some(code) if gone.contains(&code) || for_the_clock.contains(&code) => {
                    // It is given up; what the node has of it comes behind what was published later.
                    outbox.acknowledged[place] = true;
                    self.model.refused_for_room = true;
                    self.model.tally.refused_for_the_clock += u64::from(for_the_clock.contains(&code));
                }
                Some(_) => {
                    outbox.next = outbox.next.min(place);
                    state.not_before_us = not_before_us;
                }
            }
        }
    }

    /// Acknowledges what its applications have, or a part of it, and lets more come.
    fn acknowledge_published(&mut self, link: LinkNumber) {
        let agent = self.links[link].agent - AGENTS;
        let handles: Vec<u32> = self.links[link].client_side.handles.keys().copied().collect();
        for handle in handles {
            let is_all = self.is_healing || self.profile.acknowledges_all;
            let open = self.links[link].client_side.handles.get_mut(&handle).expect("it was just listed");
            let want = &self.channels.agents[agent].wants[open.want];
            if want.seat != Some((link, handle)) || open.leaves.is_some() {
                continue;
            }
            let cursor = want.cursor;
            let mut waiting = std::mem::take(&mut open.unacknowledged);
            if !is_all && !waiting.is_empty() {
                match cursor.agent {
                    Some(_) => open.unacknowledged = waiting.split_off(self.channels.random.index(waiting.len() + 1)),
                    None => {
                        let (done, kept) = waiting.iter().partition(|_| self.channels.random.one_in(2));
                        (waiting, open.unacknowledged) = (done, kept);
                    }
                }
            }
            let is_low = open.credit_messages < 6 || open.credit_bytes < 2_048;
            if let Some(&last) = waiting.last() {
                let given = self.model.channels.given.entry(cursor).or_default();
                match cursor.agent {
                    Some(_) => given.acknowledged.extend(given.shown.range(..=last).copied().collect::<Vec<_>>()),
                    None => given.acknowledged.extend(&waiting),
                }
                let sequences = if cursor.agent.is_some() { vec![last] } else { waiting };
                self.note(|| format!("connection {link}: {cursor:?} acknowledges {sequences:?} as {handle}"));
                self.send_to_node(link, STREAM, |out| ChannelAck { handle, sequences }.encode(out));
            }
            if is_low && (self.is_healing || self.channels.random.one_in(2)) {
                self.grant_published(link, handle);
            }
        }
    }

    fn grant_published(&mut self, link: LinkNumber, handle: u32) {
        let messages = u32::try_from(self.channels.random.between(1, 8)).expect("a few");
        let bytes = if self.channels.random.one_in(4) { 100 } else { messages * 2_048 };
        let open = self.links[link].client_side.handles.get_mut(&handle).expect("it is open");
        open.credit_messages += messages;
        open.credit_bytes += u64::from(bytes);
        self.send_to_node(link, STREAM, |out| ChannelCredit { handle, messages, bytes }.encode(out));
    }

    /// A frame about channels arrives at an agent.
    pub(crate) fn channel_frame_arrives(&mut self, link: LinkNumber, frame_type: FrameType, body: &Bytes) -> Checked {
        match frame_type {
            FrameType::ChannelSubscribed => self.subscribed(link, body),
            FrameType::ChannelDeliver => self.published_arrives(link, body),
            FrameType::ChannelLeft => {
                self.left(link, body);
                Ok(())
            }
            // What it says was held against the truth when it was said.
            _ => {
                let members = ChannelMembers::parse(body).expect("a shard sends proper frames");
                self.note(|| format!("connection {link}: the node says {members:?}"));
                Ok(())
            }
        }
    }

    fn subscribed(&mut self, link: LinkNumber, body: &[u8]) -> Checked {
        let subscribed = ChannelSubscribed::parse(body).expect("a shard sends proper frames");
        self.note(|| format!("connection {link}: {subscribed:?}"));
        let agent = self.links[link].agent - AGENTS;
        let open = self.links[link].client_side.handles.get_mut(&subscribed.handle);
        let Some(open) = open.filter(|open| !open.is_subscribed) else {
            return broken(Rule::RefusedForAReason, format!("connection {link} did not ask for {subscribed:?}"));
        };
        (open.is_subscribed, open.next) = (true, subscribed.next_sequence);
        let want = &mut self.channels.agents[agent].wants[open.want];
        want.unanswered = want.unanswered.filter(|of| *of != link);
        Ok(())
    }

    fn left(&mut self, link: LinkNumber, body: &[u8]) {
        let left = ChannelLeft::parse(body).expect("a shard sends proper frames");
        self.note(|| format!("connection {link}: {left:?}"));
        let agent = self.links[link].agent - AGENTS;
        // That it did not ask for it was seen when it was said.
        let Some(open) = self.links[link].client_side.handles.remove(&left.handle) else { return };
        let pause_us = self.channels.random.between(1_000, 30_000);
        let want = &mut self.channels.agents[agent].wants[open.want];
        want.unanswered = want.unanswered.filter(|of| *of != link);
        if want.seat != Some((link, left.handle)) {
            return;
        }
        want.seat = None;
        if left.code != 0 {
            want.not_before_us = self.clock.now_us() + pause_us;
        } else if open.leaves == Some(LeaveMode::Unsubscribe) {
            want.is_fresh = true;
        }
    }

    /// What the SDK does with what was published: verify, hide what the application has seen, hand over the rest.
    fn published_arrives(&mut self, link: LinkNumber, body: &Bytes) -> Checked {
        let ChannelDeliver { handle, deliver } = ChannelDeliver::parse(body).expect("a shard sends proper frames");
        let rest = body.slice(CHANNEL_DELIVER_HEADER_BYTES..);
        let agent = self.links[link].agent - AGENTS;
        let open = self.links[link].client_side.handles.get_mut(&handle);
        let Some(open) = open.filter(|open| open.is_subscribed) else {
            return broken(Rule::Content, format!("connection {link} was pushed something under {handle}"));
        };
        if let Some(header) = deliver.batch_header {
            open.header = Some(body.slice_ref(header.as_bytes()));
        }
        let Some(header) = open.header.clone() else {
            return broken(Rule::Content, format!("connection {link}: a delivery came before any batch header"));
        };
        let cursor = self.channels.agents[agent].wants[open.want].cursor;
        for span in deliver.messages {
            let (envelope, sequence) = (aligned(&rest[span.envelope.clone()]), span.mailbox_sequence);
            let message_id = EnvelopeView::parse(&envelope).map(|view| view.message_id().0);
            let Some(number) = message_id.ok().and_then(|id| self.pool.message_of(&id)) else {
                return broken(Rule::Content, format!("connection {link}: a message came that nobody sent"));
            };
            let is_of_channel = self.pool.messages[number].to == Recipient::Channel(cursor.channel);
            if !is_of_channel || !self.pool.proves(number, &header, &rest, &span) {
                return broken(Rule::Content, format!("connection {link}: message {number} is not what was published"));
            }
            self.note(|| format!("connection {link}: message {number} comes as {sequence} of {cursor:?}"));
            self.pushed_to_application(link, handle, number, sequence, envelope.len() as u64)?;
        }
        Ok(())
    }

    fn pushed_to_application(
        &mut self,
        link: LinkNumber,
        handle: u32,
        number: usize,
        sequence: u64,
        bytes: u64,
    ) -> Checked {
        let agent = self.links[link].agent - AGENTS;
        let open = self.links[link].client_side.handles.get_mut(&handle).expect("it was just looked at");
        let want = &mut self.channels.agents[agent].wants[open.want];
        let cursor = want.cursor;
        let what = || format!("connection {link}: message {number}, sequence {sequence} of {cursor:?}");
        if open.credit_messages == 0 {
            return broken(Rule::CreditIsKept, format!("{} came without credit", what()));
        }
        open.credit_messages -= 1;
        open.credit_bytes = open.credit_bytes.saturating_sub(bytes);
        if cursor.agent.is_some() && (sequence <= open.last || sequence < open.next) {
            return broken(Rule::Order, format!("{} came after {}, from {} on", what(), open.last, open.next));
        }
        if !open.seen.insert(sequence) {
            return broken(Rule::OneHandAtATime, format!("{} came twice to one member", what()));
        }
        open.last = sequence;
        // Another connection has taken over, or nobody looks any more.
        if want.seat != Some((link, handle)) || open.leaves.is_some() {
            return Ok(());
        }
        open.unacknowledged.push(sequence);
        let is_later = sequence > want.last;
        want.last = want.last.max(sequence);
        let may_be_missing = self.model.may_be_missing(self.pool, number);
        let given = self.model.channels.given.entry(cursor).or_default();
        let is_first = given.shown.insert(sequence);
        match (cursor.agent.is_some(), is_later) {
            (false, _) => {}
            // It is hidden.
            (true, false) if !is_first => {}
            (true, false) if may_be_missing => {}
            (true, false) => return broken(Rule::Order, format!("{} came after one that is behind it", what())),
            (true, true) if is_first => self.model.published_in_order(self.pool, cursor, number)?,
            (true, true) => return broken(Rule::ConsumedStaysConsumed, format!("{} was shown twice", what())),
        }
        let tally = &mut self.model.tally;
        tally.published_shown += u64::from(is_first);
        tally.published_again += u64::from(!is_first);
        Ok(())
    }

    /// The node refuses something on another stream than that of channels.
    pub(crate) fn channel_agent_rejected(&mut self, link: LinkNumber, stream: usize, reject: &Reject) -> Checked {
        let agent = self.links[link].agent;
        let code = RejectCode::from_u16(reject.code);
        let was_revoked = self.channels.ever(|records| records.is_revoked(agent));
        let was_deleted = self.channels.ever(|records| records.is_deleted.contains(&true));
        match code {
            // It wants to know who reads a channel that is no more.
            Some(RejectCode::UnknownChannel) if was_deleted && stream == lane_of(SUBMIT) => return Ok(()),
            Some(RejectCode::AgentRevoked) if was_revoked => {}
            Some(RejectCode::ShuttingDown | RejectCode::Overloaded) => {}
            code => {
                return broken(Rule::RefusedForAReason, format!("connection {link} was refused something: {code:?}"));
            }
        }
        let pause_us = self.channels.random.between(1_000, 20_000);
        self.channels.agents[agent - AGENTS].not_before_us = self.clock.now_us() + pause_us;
        self.close_link(link);
        Ok(())
    }

    pub(crate) fn channel_agent_gone(&mut self, link: LinkNumber) {
        let state = &mut self.channels.agents[self.links[link].agent - AGENTS];
        state.open.retain(|open| *open != link);
        state.current = state.current.filter(|current| *current != link);
        self.links[link].client_side.handles = BTreeMap::new();
        for want in &mut state.wants {
            want.seat = want.seat.filter(|(of, _)| *of != link);
        }
    }

    /// What agents of channels still wait for, if anything.
    pub(crate) fn channels_wait(&self) -> Option<String> {
        if !self.channels.is_on {
            return None;
        }
        let records = self.channels.records();
        for agent in self.channels.agents.iter().filter(|agent| !records.is_revoked(agent.index)) {
            if !agent.has_all_acknowledged() {
                return Some(format!(
                    "agent {} has published what is not acknowledged: {:?}",
                    agent.index, agent.outbox
                ));
            }
            let link = agent.current;
            for want in agent.wants.iter().filter(|want| records.may_read(agent.index, want.cursor.channel)) {
                let handle = want.seat.filter(|(of, _)| Some(*of) == link).and_then(|(link, handle)| {
                    self.links[link].client_side.handles.get(&handle).filter(|open| open.is_subscribed)
                });
                if handle.is_none() {
                    return Some(format!("agent {} does not read yet: {want:?}", agent.index));
                }
            }
            if agent.outbox.is_some()
                && let Some(text) = self.knows_too_little(link)
            {
                return Some(text);
            }
        }
        let denied = self
            .model
            .channels
            .subscriptions
            .iter()
            .find(|(cursor, of)| of.members.iter().any(|member| !records.may_read(*member, cursor.channel)));
        if let Some(denied) = denied {
            return Some(format!("this subscription should have ended: {denied:?}"));
        }
        self.model.unread(self.pool)
    }

    /// A publisher has not been told who reads.
    fn knows_too_little(&self, link: Option<LinkNumber>) -> Option<String> {
        let Some(link) = link else { return Some("a publisher is not connected".to_owned()) };
        (0..CHANNELS).filter(|channel| !self.channels.records().is_deleted[*channel]).find_map(|channel| {
            let (told, members) = (&self.links[link].node_side.told[channel], self.model.channels.members(channel));
            (told.as_ref() != Some(&members)).then(|| {
                format!("connection {link} was told that {told:?} read channel {channel}; these do: {members:?}")
            })
        })
    }
}

const _: () = assert!(PUBLISHERS <= CHANNEL_AGENTS);
