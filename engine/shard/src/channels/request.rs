//! What clients ask about channels, on the shard of their connection: frames in, asks of the channel's shard out, and back.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bytes::Bytes;
use creto_audit::What;
use creto_envelope::channel::frames::{
    ChannelAck, ChannelAttach, ChannelCredit, ChannelDeliver, ChannelDetach, ChannelLeave, ChannelLeft, ChannelNack,
    ChannelRequest, ChannelSubscribe, LeaveMode,
};
use creto_envelope::control::{Reject, StreamRole};
use creto_envelope::limits::{CHANNEL_SUBSCRIPTIONS_MAX, CREDIT_BYTES_MAX, CREDIT_MESSAGES_MAX};
use creto_envelope::{AgentId, ChannelId, FrameType, GroupId, RejectCode};
use creto_policy::Action as PolicyAction;
use creto_store::RecordLog;

use super::{ChannelAsk, ChannelNews, Leaving, ReaderPush};
use crate::event::{Action, ConnectionId, Now, StreamId};
use crate::limits::{CHANNEL_QUESTIONS_MAX, FREED_HANDLES_MAX};
use crate::request::{Outcome, about_channel};
use crate::route::{Origin, ShardMessage};
use crate::shard::Shard;

/// What a connection has to do with channels.
#[derive(Debug, Default)]
pub(crate) struct ChannelEnd {
    /// Its subscriptions by its own numbers, until it was told that they are left.
    handles: BTreeMap<u32, OpenHandle>,
    /// Numbers that were free again last: frames about them were on their way.
    freed: VecDeque<u32>,
    /// Channels whose members it is told.
    watched: BTreeSet<ChannelId>,
    /// Those whose shards have not answered that.
    asked: BTreeSet<ChannelId>,
    /// Questions for records that control has not answered.
    pub(crate) questions: u32,
    /// The listing whose client wants to be told when there may be another answer.
    pub(super) watched_listing: Option<[u8; 16]>,
    /// The turn that made its last page of one.
    pub(super) listed_in: Option<u64>,
}

#[derive(Debug)]
struct OpenHandle {
    channel: ChannelId,
    group: GroupId,
    is_subscribed: bool,
}

impl ChannelEnd {
    /// A client is told that a number is free: what it named, if it was anything. Frames about it may be on their way either way.
    fn free(&mut self, handle: u32) -> Option<OpenHandle> {
        if !self.freed.contains(&handle) {
            self.freed.push_back(handle);
        }
        if self.freed.len() > FREED_HANDLES_MAX {
            self.freed.pop_front();
        }
        self.handles.remove(&handle)
    }

    /// What a frame names. `None` where it was left meanwhile.
    fn named(&self, handle: u32) -> Result<Option<&OpenHandle>, RejectCode> {
        match self.handles.get(&handle) {
            Some(open) => Ok(Some(open)),
            None if self.freed.contains(&handle) => Ok(None),
            None => Err(RejectCode::NotSubscribed),
        }
    }
}

impl<L: RecordLog> Shard<L> {
    /// A frame of a connection's channels stream.
    pub(crate) fn take_channel_frame(
        &mut self,
        now: Now,
        connection: ConnectionId,
        frame_type: FrameType,
        body: &[u8],
        actions: &mut Vec<Action>,
    ) -> Outcome {
        let agent = self.logged_in(connection)?.agent;
        match frame_type {
            FrameType::ChannelSubscribe => {
                let subscribe = ChannelSubscribe::parse(body)?;
                let end = &mut self.connections.get_mut(&connection).expect("it is logged in").channels;
                if end.handles.contains_key(&subscribe.handle) {
                    return Err(RejectCode::FrameUnexpected.into());
                }
                match self.may_subscribe(now, connection, &agent, &subscribe) {
                    Ok(()) => self.ask_to_subscribe(now, connection, agent, &subscribe, actions),
                    Err(code) => {
                        self.counters.reject(code, 1);
                        let left = ChannelLeft::because(subscribe.handle, code);
                        self.end_handle(connection, left, actions);
                    }
                }
            }
            FrameType::ChannelCredit => {
                let ChannelCredit { handle, messages, bytes } = ChannelCredit::parse(body)?;
                if messages > CREDIT_MESSAGES_MAX || bytes > CREDIT_BYTES_MAX {
                    return Err(RejectCode::CreditExceeded.into());
                }
                self.ask_about(connection, handle, ChannelAsk::Credit { handle, messages, bytes }, actions)?;
            }
            FrameType::ChannelAck => {
                let ChannelAck { handle, sequences } = ChannelAck::parse(body)?;
                let end = &self.connections.get(&connection).expect("it is logged in").channels;
                if end.named(handle)?.is_some_and(|open| open.group == GroupId::NONE && sequences.len() != 1) {
                    return Err(RejectCode::FrameLength.into());
                }
                self.ask_about(connection, handle, ChannelAsk::Ack { handle, sequences }, actions)?;
            }
            FrameType::ChannelNack => {
                let ChannelNack { handle, how, sequences } = ChannelNack::parse(body)?;
                let end = &self.connections.get(&connection).expect("it is logged in").channels;
                if end.named(handle)?.is_some_and(|open| open.group == GroupId::NONE) {
                    return Err(RejectCode::FrameUnexpected.into());
                }
                self.ask_about(connection, handle, ChannelAsk::Nack { handle, how, sequences }, actions)?;
            }
            _ => {
                let ChannelLeave { handle, mode } = ChannelLeave::parse(body)?;
                let leaving = match mode {
                    LeaveMode::Detach => Leaving::Detach,
                    LeaveMode::Unsubscribe => Leaving::Unsubscribe,
                };
                self.ask_about(connection, handle, ChannelAsk::Leave { handle, leaving }, actions)?;
            }
        }
        Ok(())
    }

    fn may_subscribe(
        &mut self,
        now: Now,
        connection: ConnectionId,
        agent: &AgentId,
        subscribe: &ChannelSubscribe,
    ) -> Result<(), RejectCode> {
        let end = &self.connections.get(&connection).expect("it is logged in").channels;
        if end.handles.len() >= CHANNEL_SUBSCRIPTIONS_MAX {
            return Err(RejectCode::TooManySubscriptions);
        }
        if self.draining {
            return Err(RejectCode::ShuttingDown);
        }
        self.may(now, agent, PolicyAction::SubscribeChannel, &PolicyAction::on_channel(&subscribe.channel))
    }

    fn ask_to_subscribe(
        &mut self,
        now: Now,
        connection: ConnectionId,
        agent: AgentId,
        subscribe: &ChannelSubscribe,
        actions: &mut Vec<Action>,
    ) {
        let &ChannelSubscribe { handle, channel, group, start } = subscribe;
        let end = &mut self.connections.get_mut(&connection).expect("it is logged in").channels;
        end.handles.insert(handle, OpenHandle { channel, group, is_subscribed: false });
        let (since_us, epoch) = (now.monotonic_us, self.snapshot.epoch());
        let ask = ChannelAsk::Subscribe { agent, group, handle, start, since_us, epoch };
        self.ask_channel(connection, channel, ask, actions);
    }

    /// Hands on what a client says about one of its subscriptions.
    fn ask_about(
        &mut self,
        connection: ConnectionId,
        handle: u32,
        ask: ChannelAsk,
        actions: &mut Vec<Action>,
    ) -> Result<(), RejectCode> {
        let end = &self.connections.get(&connection).expect("it is logged in").channels;
        if let Some(open) = end.named(handle)? {
            self.ask_channel(connection, open.channel, ask, actions);
        }
        Ok(())
    }

    fn ask_channel(
        &mut self,
        connection: ConnectionId,
        channel: ChannelId,
        ask: ChannelAsk,
        actions: &mut Vec<Action>,
    ) {
        let origin = Origin { shard: self.index, connection };
        let owner = self.placement.channel_owner(&channel);
        self.tell(owner, ShardMessage::Channel { channel, origin, ask }, actions);
    }

    /// A publisher asks who subscribes, or does not want to know any more.
    pub(crate) fn watch_channel(
        &mut self,
        now: Now,
        connection: ConnectionId,
        frame_type: FrameType,
        body: &[u8],
        actions: &mut Vec<Action>,
    ) -> Outcome {
        let agent = self.logged_in(connection)?.agent;
        if frame_type == FrameType::ChannelDetach {
            let ChannelDetach { channel } = ChannelDetach::parse(body)?;
            let end = &mut self.connections.get_mut(&connection).expect("it is logged in").channels;
            if end.watched.remove(&channel) {
                self.ask_channel(connection, channel, ChannelAsk::Unwatch, actions);
            }
            return Ok(());
        }
        let ChannelAttach { channel } = ChannelAttach::parse(body)?;
        let refused = about_channel(&channel);
        let end = &self.connections.get(&connection).expect("it is logged in").channels;
        if !end.watched.contains(&channel) && end.watched.len() >= CHANNEL_SUBSCRIPTIONS_MAX {
            return Err(refused(RejectCode::TooManySubscriptions));
        }
        // One answer is many times as large as the question.
        match (end.asked.contains(&channel), end.watched.contains(&channel)) {
            // The one that is on its way answers this, too.
            (true, true) => return Ok(()),
            // It was detached before the answer came.
            (true, false) => return Err(refused(RejectCode::Overloaded)),
            (false, _) if end.asked.len() >= CHANNEL_QUESTIONS_MAX as usize => {
                return Err(refused(RejectCode::Overloaded));
            }
            (false, _) => {}
        }
        if self.draining {
            return Err(refused(RejectCode::ShuttingDown));
        }
        if let Err(code) = self.may(now, &agent, PolicyAction::Publish, &PolicyAction::on_channel(&channel)) {
            // It may have been told until now.
            let end = &mut self.connections.get_mut(&connection).expect("it is logged in").channels;
            if end.watched.remove(&channel) {
                self.ask_channel(connection, channel, ChannelAsk::Unwatch, actions);
            }
            return Err(refused(code));
        }
        let end = &mut self.connections.get_mut(&connection).expect("it is logged in").channels;
        end.watched.insert(channel);
        end.asked.insert(channel);
        let epoch = self.snapshot.epoch();
        self.ask_channel(connection, channel, ChannelAsk::Watch { agent, epoch }, actions);
        Ok(())
    }

    /// Hands a question for a channel's record to control; [`Event::ChannelAnswered`](crate::Event) brings the answer.
    pub(crate) fn ask_channel_record(
        &mut self,
        now: Now,
        connection: ConnectionId,
        body: &[u8],
        actions: &mut Vec<Action>,
    ) -> Outcome {
        let agent = self.logged_in(connection)?.agent;
        let ChannelRequest { channel } = ChannelRequest::parse(body)?;
        let refused = about_channel(&channel);
        let on = PolicyAction::on_channel(&channel);
        if let Err(code) = self.may(now, &agent, PolicyAction::Publish, &on)
            && self.may(now, &agent, PolicyAction::SubscribeChannel, &on).is_err()
        {
            // Whoever may do nothing in it does not learn that it is there.
            return Err(refused(match code {
                RejectCode::PolicyDenied | RejectCode::ChannelNotAllowed => RejectCode::UnknownChannel,
                code => code,
            }));
        }
        let end = &mut self.connections.get_mut(&connection).expect("it is logged in").channels;
        if end.questions >= CHANNEL_QUESTIONS_MAX {
            return Err(refused(RejectCode::Overloaded));
        }
        if self.draining {
            return Err(refused(RejectCode::ShuttingDown));
        }
        end.questions += 1;
        actions.push(Action::AskChannel { connection, channel });
        Ok(())
    }

    /// Control has answered: hands the frame on, or says why there is none.
    pub(crate) fn channel_answered(
        &mut self,
        connection: ConnectionId,
        channel: ChannelId,
        answer: Result<Bytes, RejectCode>,
        actions: &mut Vec<Action>,
    ) {
        let Some(state) = self.connections.get_mut(&connection) else { return };
        let end = &mut state.channels;
        end.questions = end.questions.checked_sub(1).expect("control answers what it was asked, once");
        match answer {
            Ok(frames) => self.send_control(connection, frames, actions),
            Err(code) => {
                let Some(stream) = state.stream(StreamRole::Control) else { return };
                let reject = Reject { context: channel.0, ..Reject::new(code) };
                self.refuse(connection, stream, reject, code, actions);
            }
        }
    }

    /// The shard of a channel says something to a connection.
    pub(crate) fn take_channel_news(&mut self, connection: ConnectionId, news: ChannelNews, actions: &mut Vec<Action>) {
        let Some(state) = self.connections.get_mut(&connection) else { return };
        match news {
            ChannelNews::Subscribed(subscribed) => {
                let Some(open) = state.channels.handles.get_mut(&subscribed.handle) else { return };
                open.is_subscribed = true;
                let (channel, connection_number) = (open.channel, connection.0);
                if let Some(login) = state.login {
                    let agent = login.agent;
                    self.audit.tell(What::Subscribed { agent, channel, connection: connection_number });
                }
                let mut out = Vec::new();
                subscribed.encode(&mut out);
                self.send_channels(connection, out.into(), actions);
            }
            ChannelNews::Left(left) => self.end_handle(connection, left, actions),
            ChannelNews::Members { channel, frame, is_answer } => {
                if is_answer {
                    state.channels.asked.remove(&channel);
                }
                let is_watched = state.channels.watched.contains(&channel);
                if let Some(stream) = state.stream(StreamRole::Submit).filter(|_| is_watched) {
                    actions.push(Action::Send { connection, stream, frames: frame });
                }
            }
            ChannelNews::NotTold { channel, code, is_answer } => {
                if is_answer {
                    state.channels.asked.remove(&channel);
                }
                // Where the client asked again meanwhile, the answer to that says whether it is told.
                if !state.channels.asked.contains(&channel) && !state.channels.watched.remove(&channel) {
                    return;
                }
                if let Some(stream) = state.stream(StreamRole::Submit) {
                    let reject = Reject { context: channel.0, ..Reject::new(code) };
                    self.refuse(connection, stream, reject, code, actions);
                }
            }
        }
    }

    /// Tells a client that a subscription is left. Its number is free with that.
    fn end_handle(&mut self, connection: ConnectionId, left: ChannelLeft, actions: &mut Vec<Action>) {
        let Some(state) = self.connections.get_mut(&connection) else { return };
        if let Some(open) = state.channels.free(left.handle)
            && open.is_subscribed
            && let Some(login) = state.login
        {
            let (agent, channel) = (login.agent, open.channel);
            let code = creto_audit::event::Code(left.code);
            self.audit.tell(What::Unsubscribed { agent, channel, connection: connection.0, code });
        }
        let mut out = Vec::new();
        left.encode(&mut out);
        self.send_channels(connection, out.into(), actions);
    }

    fn send_channels(&mut self, connection: ConnectionId, frames: Bytes, actions: &mut Vec<Action>) {
        let stream = self.connections.get(&connection).and_then(|state| state.stream(StreamRole::Channels));
        if let Some(stream) = stream {
            actions.push(Action::Send { connection, stream, frames });
        }
    }

    /// Sends what a channel's shard hands out: to each reader a few bytes of its own, and those that it shares with others.
    pub(crate) fn send_fan_out(&mut self, pushes: Vec<ReaderPush>, actions: &mut Vec<Action>) {
        let mut heads = Vec::with_capacity(pushes.len() * HEAD_BYTES);
        for push in &pushes {
            ChannelDeliver::encode_head(&mut heads, push.handle, push.body.len());
        }
        let mut heads = Bytes::from(heads);
        // What goes to one reader comes together.
        let mut last: Option<((ConnectionId, u32), Option<StreamId>)> = None;
        for ReaderPush { connection, handle, body } in pushes {
            let head = heads.split_to(HEAD_BYTES);
            let stream = match last {
                Some((known, stream)) if known == (connection, handle) => stream,
                _ => self.connections.get(&connection).and_then(|state| {
                    let is_open = state.channels.handles.contains_key(&handle);
                    state.stream(StreamRole::Channels).filter(|_| is_open)
                }),
            };
            last = Some(((connection, handle), stream));
            let Some(stream) = stream else { continue };
            actions.push(Action::Send { connection, stream, frames: head });
            actions.push(Action::Send { connection, stream, frames: body });
        }
    }

    /// A connection is gone: the shards of its channels hear of it.
    pub(crate) fn forget_channels(
        &mut self,
        connection: ConnectionId,
        agent: Option<AgentId>,
        end: ChannelEnd,
        actions: &mut Vec<Action>,
    ) {
        for (handle, open) in end.handles {
            if let Some(agent) = agent.filter(|_| open.is_subscribed) {
                let (channel, code) = (open.channel, creto_audit::event::Code(0));
                self.audit.tell(What::Unsubscribed { agent, channel, connection: connection.0, code });
            }
            let leave = ChannelAsk::Leave { handle, leaving: Leaving::Gone };
            self.ask_channel(connection, open.channel, leave, actions);
        }
        for channel in end.watched {
            self.ask_channel(connection, channel, ChannelAsk::Unwatch, actions);
        }
    }
}

/// What stands in front of a shared body: the frame's header and the handle.
const HEAD_BYTES: usize =
    creto_envelope::frame::FRAME_HEADER_BYTES + creto_envelope::channel::frames::CHANNEL_DELIVER_HEADER_BYTES;
