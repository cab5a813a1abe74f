//! What the node says and hands out, held against the truth at the moment at which it does.

use bytes::Bytes;
use creto_envelope::channel::frames::{
    ChannelAck, ChannelAttach, ChannelDeliver, ChannelLeave, ChannelLeft, ChannelMembers, ChannelSubscribe,
    ChannelSubscribed, LeaveMode,
};
use creto_envelope::control::Reject;
use creto_envelope::deliver::Deliver;
use creto_envelope::{FrameType, GroupId, RejectCode};
use creto_shard::ShardMessage;

use super::{Cursor, RING_US_MAX};
use crate::model::{Checked, Rule, broken};
use crate::network::{CHANNELS as STREAM, LinkNumber};
use crate::node::{lane_of, link_of};
use crate::pool::{MessageNumber, Recipient, aligned};
use crate::world::World;

impl World<'_> {
    /// A frame about channels arrives at the node.
    pub(crate) fn note_channel_frame(&mut self, link: LinkNumber, frame_type: FrameType, body: &[u8]) {
        let (agent, now_us) = (self.links[link].agent, self.clock.now_us());
        let of = |side: &crate::network::NodeSide, handle: u32| side.readers.get(&handle).copied();
        match frame_type {
            FrameType::ChannelAttach => {
                let attach = ChannelAttach::parse(body).expect("agents send proper frames");
                let channel = self.pool.channel_of(&attach.channel.0).expect("agents know their channels");
                self.links[link].node_side.attached[channel] = true;
            }
            FrameType::ChannelSubscribe => {
                let subscribe = ChannelSubscribe::parse(body).expect("agents send proper frames");
                let channel = self.pool.channel_of(&subscribe.channel.0).expect("agents know their channels");
                let cursor = Cursor { channel, agent: (subscribe.group == GroupId::NONE).then_some(agent) };
                let seat = (link, subscribe.handle);
                self.links[link].node_side.readers.insert(subscribe.handle, cursor);
                if let Some(before) = self.channels.hands.seats.insert((cursor, agent), seat) {
                    self.channels.hands.release(before, now_us);
                    self.channels.hands.seats.insert((cursor, agent), seat);
                }
            }
            FrameType::ChannelAck => {
                let ChannelAck { handle, sequences } = ChannelAck::parse(body).expect("agents send proper frames");
                let Some(cursor) = of(&self.links[link].node_side, handle) else { return };
                let (hands, seat) = (&mut self.channels.hands, (link, handle));
                let known = self.model.channels.subscriptions.get(&cursor);
                let Some(known) = known.filter(|_| hands.seats.get(&(cursor, agent)) == Some(&seat)) else { return };
                for sequence in sequences {
                    let key = (cursor, known.number, sequence);
                    if cursor.agent.is_some() || hands.in_hand.get(&key) == Some(&seat) {
                        hands.in_hand.remove(&key);
                        hands.done.insert(key, (now_us, seat));
                    }
                }
            }
            FrameType::ChannelLeave => {
                let ChannelLeave { handle, mode } = ChannelLeave::parse(body).expect("agents send proper frames");
                let Some(cursor) = of(&self.links[link].node_side, handle) else { return };
                self.channels.hands.release((link, handle), now_us);
                if mode == LeaveMode::Unsubscribe {
                    self.model.channels.ends_asked.insert((cursor, agent));
                    self.links[link].node_side.ending.insert(handle);
                }
            }
            _ => {}
        }
    }

    /// The shard of a channel hands something to another one, which sends it on.
    pub(crate) fn check_ring(&mut self, shard: usize, message: &ShardMessage) -> Checked {
        let ShardMessage::FanOut { pushes } = message else { return Ok(()) };
        pushes
            .iter()
            .try_for_each(|push| self.handed_out(shard, link_of(push.connection), push.handle, &aligned(&push.body)))
    }

    /// Frames of the channels stream come in pieces: what they share is shared. Returns those that are whole.
    pub(crate) fn join_pieces(&mut self, link: LinkNumber, stream: usize, piece: Bytes) -> Bytes {
        if stream != lane_of(STREAM) {
            return piece;
        }
        let pieces = &mut self.links[link].node_side.pieces;
        pieces.extend_from_slice(&piece);
        let header = pieces.first_chunk().map(creto_envelope::FrameHeader::parse);
        let header = header.expect("a frame's header comes in one piece").expect("a shard sends proper frames");
        let whole = creto_envelope::frame::FRAME_HEADER_BYTES + header.body_bytes as usize;
        match pieces.len() >= whole {
            true => std::mem::take(pieces).into(),
            false => Bytes::new(),
        }
    }

    /// A shard says something about channels to a connection of its own.
    pub(crate) fn check_channel_frame(
        &mut self,
        shard: usize,
        link: LinkNumber,
        frame_type: FrameType,
        body: &Bytes,
    ) -> Checked {
        match frame_type {
            FrameType::ChannelSubscribed => self.check_subscribed(link, body),
            FrameType::ChannelLeft => self.check_left(link, body),
            FrameType::ChannelMembers => self.check_members(link, body),
            FrameType::ChannelDeliver => {
                let deliver = ChannelDeliver::parse(body).expect("a shard sends proper frames");
                let handle = deliver.handle;
                let owner = self.links[link].node_side.readers.get(&handle).map(|of| self.channel_owner(of.channel));
                // What comes from another shard was looked at there.
                if owner.is_some_and(|owner| owner != shard) {
                    return Ok(());
                }
                let body = aligned(&body[creto_envelope::channel::frames::CHANNEL_DELIVER_HEADER_BYTES..]);
                self.handed_out(shard, link, handle, &body)
            }
            FrameType::Reject => {
                let reject = Reject::parse(body).expect("a shard sends proper frames");
                if let Some(channel) = self.pool.channel_of(&reject.context) {
                    let side = &mut self.links[link].node_side;
                    (side.attached[channel], side.told[channel]) = (false, None);
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// A subscription is durable before anybody is told so.
    fn check_subscribed(&mut self, link: LinkNumber, body: &[u8]) -> Checked {
        let subscribed = ChannelSubscribed::parse(body).expect("a shard sends proper frames");
        let agent = self.links[link].agent;
        let cursor = self.links[link].node_side.readers.get(&subscribed.handle).copied();
        let known = cursor.and_then(|cursor| self.model.channels.subscriptions.get(&cursor));
        let Some(known) = known.filter(|known| known.members.contains(&agent)) else {
            let text = format!("agent {agent} is told that it reads {cursor:?}, which is not durable: {known:?}");
            return broken(Rule::AcknowledgedIsDurable, text);
        };
        match known.has_consumed(subscribed.next_sequence) {
            false => Ok(()),
            true => {
                broken(Rule::ConsumedStaysConsumed, format!("{cursor:?} is to go on with {subscribed:?}: {known:?}"))
            }
        }
    }

    fn check_left(&mut self, link: LinkNumber, body: &[u8]) -> Checked {
        let left = ChannelLeft::parse(body).expect("a shard sends proper frames");
        let agent = self.links[link].agent;
        let side = &mut self.links[link].node_side;
        let Some(cursor) = side.readers.remove(&left.handle) else {
            return broken(Rule::RefusedForAReason, format!("connection {link} was told {left:?} for nothing"));
        };
        let has_ended = side.ending.remove(&left.handle) && left.code == 0;
        let hands = &mut self.channels.hands;
        let reads_elsewhere = hands.seats.get(&(cursor, agent)).is_some_and(|seat| *seat != (link, left.handle));
        hands.release((link, left.handle), self.clock.now_us());
        let known = self.model.channels.subscriptions.get(&cursor);
        if has_ended && !reads_elsewhere && known.is_some_and(|known| known.members.contains(&agent)) {
            let text = format!("agent {agent} is told that it reads {cursor:?} no more; durably it does: {known:?}");
            return broken(Rule::AcknowledgedIsDurable, text);
        }
        let might_not = self.model.channels.denied.contains(&(cursor.channel, agent));
        let is_right = match RejectCode::from_u16(left.code) {
            None => left.code == 0,
            Some(RejectCode::ChannelNotAllowed | RejectCode::UnknownChannel | RejectCode::AgentRevoked) => might_not,
            Some(RejectCode::ShardFenced | RejectCode::ShuttingDown) => true,
            Some(RejectCode::StorageFull | RejectCode::Overloaded) => true,
            Some(RejectCode::SubscriptionReplaced | RejectCode::NotSubscribed) => true,
            Some(_) => false,
        };
        match is_right {
            true => Ok(()),
            false => broken(Rule::RefusedForAReason, format!("agent {agent} is told {left:?} about {cursor:?}")),
        }
    }

    fn check_members(&mut self, link: LinkNumber, body: &[u8]) -> Checked {
        let members = ChannelMembers::parse(body).expect("a shard sends proper frames");
        let channel = self.pool.channel_of(&members.channel.0).expect("a shard knows its channels");
        let ids = |ids: &[creto_envelope::AgentId]| -> Vec<usize> {
            ids.iter().map(|id| self.pool.agent_of(&id.0).expect("only agents subscribe")).collect()
        };
        let (joined, gone) = (ids(&members.joined), ids(&members.left));
        let durable = self.model.channels.members(channel);
        let told = &mut self.links[link].node_side.told[channel];
        let Some(known) = told.as_mut().filter(|_| !members.is_whole) else {
            if members.is_whole {
                *told = Some(joined.into_iter().collect());
                return Ok(());
            }
            return broken(Rule::JoinIsToldFirst, format!("connection {link} was told {members:?} and not the whole"));
        };
        // Whoever is in both went and came again.
        let is_news = gone.iter().all(|agent| known.remove(agent)) && joined.iter().all(|agent| known.insert(*agent));
        match is_news {
            true => Ok(()),
            false => {
                let text = format!("connection {link} was told {members:?}, which is no news; these read: {durable:?}");
                broken(Rule::JoinIsToldFirst, text)
            }
        }
    }

    /// A publisher hears of a message: it knows all who joined before.
    pub(crate) fn check_joins(&mut self, link: LinkNumber, attached: bool, number: MessageNumber) -> Checked {
        let Recipient::Channel(channel) = self.pool.messages[number].to else { return Ok(()) };
        let side = &self.links[link].node_side;
        if !attached || !side.attached[channel] {
            return Ok(());
        }
        let told = side.told[channel].clone().unwrap_or_default();
        let members = self.model.channels.members_before(channel, number);
        self.model.tally.joins_checked += members.len() as u64;
        match members.iter().find(|agent| !told.contains(agent)) {
            None => Ok(()),
            Some(agent) => {
                let text = format!(
                    "connection {link} hears of message {number}; agent {agent} read channel {channel} before, and it was \
                     told only of {told:?}"
                );
                broken(Rule::JoinIsToldFirst, text)
            }
        }
    }

    /// The shard of a channel hands messages to a reader.
    fn handed_out(&mut self, shard: usize, link: LinkNumber, handle: u32, body: &[u8]) -> Checked {
        let deliver = Deliver::parse(body).expect("a shard sends proper frames");
        let agent = self.links[link].agent;
        let Some(&cursor) = self.links[link].node_side.readers.get(&handle) else {
            return broken(
                Rule::Content,
                format!("connection {link} is handed something under {handle}, which is free"),
            );
        };
        if !self.channels.applied(shard).may_read(agent, cursor.channel) {
            let text = format!(
                "agent {agent} is handed messages of channel {} by shard {shard}, which knows that it may not read it",
                cursor.channel
            );
            return broken(Rule::RemovedGetNothing, text);
        }
        for span in &deliver.messages {
            let envelope = &body[span.envelope.clone()];
            let number = envelope.get(64..80).and_then(|id| self.pool.message_of(id.try_into().ok()?));
            let Some(number) = number.filter(|of| self.pool.messages[*of].to == Recipient::Channel(cursor.channel))
            else {
                return broken(Rule::Content, format!("{cursor:?} is handed what nobody published there"));
            };
            self.check_handed(shard, (link, handle), cursor, number, span.mailbox_sequence)?;
        }
        Ok(())
    }

    fn check_handed(
        &mut self,
        shard: usize,
        seat: (LinkNumber, u32),
        cursor: Cursor,
        number: MessageNumber,
        sequence: u64,
    ) -> Checked {
        let (agent, now_us) = (self.links[seat.0].agent, self.clock.now_us());
        let fate = &self.model.fates[number];
        let what = || format!("message {number}, sequence {sequence}, is handed to agent {agent} by {cursor:?}");
        if fate.stored.map(|stored| (stored.shard, stored.sequence)) != Some((shard, sequence)) {
            return broken(Rule::DeliveredIsDurable, format!("{}: {fate:?}", what()));
        }
        if fate.settled.is_some() {
            return broken(Rule::SettledStaysSettled, format!("{}: {fate:?}", what()));
        }
        if self.channels.applied(shard).is_void(self.pool.messages[number].sender) {
            return broken(Rule::RemovedGetNothing, format!("{}, and shard {shard} knows that it is void", what()));
        }
        let known = self.model.channels.subscriptions.get(&cursor);
        let Some(known) = known.filter(|known| known.members.contains(&agent)) else {
            return broken(Rule::DeliveredIsDurable, format!("{}, which is not durable: {known:?}", what()));
        };
        if known.has_consumed(sequence) {
            return broken(Rule::ConsumedStaysConsumed, format!("{}: {known:?}", what()));
        }
        let hands = &mut self.channels.hands;
        let key = (cursor, known.number, sequence);
        let done = match cursor.agent {
            Some(_) => hands.done.range(key..=(cursor, known.number, u64::MAX)).next_back(),
            None => hands.done.get_key_value(&key),
        };
        if let Some((done, (at_us, by))) = done.filter(|(_, (at_us, _))| at_us + RING_US_MAX <= now_us) {
            let text = format!("{}; connection {by:?} acknowledged {done:?} at {at_us} us", what());
            return broken(Rule::ConsumedStaysConsumed, text);
        }
        self.model.tally.published_pushed += 1;
        if cursor.agent.is_some() {
            return Ok(());
        }
        if let Some(holder) = hands.in_hand.get(&key) {
            return broken(Rule::OneHandAtATime, format!("{}; connection {holder:?} has it", what()));
        }
        if hands.seats.get(&(cursor, agent)) == Some(&seat) {
            hands.in_hand.insert(key, seat);
        }
        Ok(())
    }
}
