//! Everything a connection asks besides submitting messages: stream roles, login, its own next key, its mailbox, its dead
//! letters; key records, the key log and prekeys have files of their own.
//!
//! None of it is on the path. Each answer is a frame on the stream that asked; what is malformed is answered with a
//! Reject, and a connection that keeps sending such is closed.

use std::sync::Arc;

use bytes::Bytes;
use creto_audit::What;
use creto_envelope::control::{
    KeyRecordPublish, KeyRecordPublished, Login, LoginAccepted, Reject, StreamOpen, StreamRole, login_statement,
};
use creto_envelope::deliver::{ConsumerAck, ConsumerNack, Credit, Subscribe};
use creto_envelope::letters::{DeadLetterChange, DeadLetterList, DeadLetterRead};
use creto_envelope::limits::{CREDIT_BYTES_MAX, CREDIT_MESSAGES_MAX, SIGNAL_CREDIT_MAX};
use creto_envelope::signal::SignalCredit;
use creto_envelope::{AgentId, ChannelId, FrameType, RejectCode, SignedKeyRecord};
use creto_policy::{Action as PolicyAction, Decision};
use creto_store::RecordLog;

use crate::connection::LoggedIn;
use crate::event::{Action, ConnectionId, KeyRefused, Now, StreamId};
use crate::limits::{LOGIN_FAILURES_MAX, PROTOCOL_ERRORS_MAX};
use crate::route::{Origin, ShardMessage};
use crate::shard::Shard;
use crate::stage::log::letters::{LetterAnswer, LetterQuestion};
use crate::stage::receive::SubmitFrame;
use crate::stage::verify::valid_key_version;

/// What became of a frame.
pub(crate) type Outcome = Result<(), Refusal>;

/// Why a frame was refused, and about whom.
pub(crate) struct Refusal {
    code: RejectCode,
    context: [u8; 16],
}

impl From<RejectCode> for Refusal {
    fn from(code: RejectCode) -> Self {
        Self { code, context: [0; 16] }
    }
}

pub(crate) fn about(agent: &AgentId) -> impl Fn(RejectCode) -> Refusal + use<> {
    let context = agent.0;
    move |code| Refusal { code, context }
}

/// As [`about`], of a question that carries this.
pub(crate) fn about_context(context: [u8; 16]) -> impl Fn(RejectCode) -> Refusal + Copy + use<> {
    move |code| Refusal { code, context }
}

pub(crate) fn about_channel(channel: &ChannelId) -> impl Fn(RejectCode) -> Refusal + Copy + use<> {
    about_context(channel.0)
}

impl<L: RecordLog> Shard<L> {
    /// Takes one frame of a connection. Batches are only put aside: the path takes all of a turn at once.
    pub(crate) fn take_frame(
        &mut self,
        now: Now,
        connection: ConnectionId,
        stream: StreamId,
        frame_type: FrameType,
        body: Bytes,
        actions: &mut Vec<Action>,
    ) {
        let Some(state) = self.connections.get(&connection) else { return };
        if state.waiting_login.is_some() && self.hold_behind_login(connection, stream, frame_type, &body, actions) {
            return;
        }
        let Some(state) = self.connections.get(&connection) else { return };
        let outcome = match (state.role(stream), frame_type) {
            (None, FrameType::StreamOpen) => self.open_stream(connection, stream, &body),
            (Some(StreamRole::Control), FrameType::Login) => self.login(now, connection, stream, &body, actions),
            (Some(StreamRole::Control), FrameType::Enrol) => self.enrol(connection, stream, &body, actions),
            (Some(StreamRole::Control), FrameType::KeyRecordRequest) => {
                self.key_record(now, connection, stream, &body, actions)
            }
            (Some(StreamRole::Control), FrameType::KeyRecordPublish) => {
                self.publish_key_record(connection, stream, &body, actions)
            }
            (Some(StreamRole::Control), FrameType::KeyProofRequest | FrameType::KeyLeavesRequest) => {
                self.ask_key_log(now, connection, stream, frame_type, &body, actions)
            }
            (
                Some(StreamRole::Control),
                FrameType::PrekeyUpload | FrameType::PrekeyClaim | FrameType::PrekeyStockRequest,
            ) => self.ask_prekeys(now, connection, frame_type, &body, actions),
            (
                Some(StreamRole::Control),
                FrameType::DeadLetterList | FrameType::DeadLetterRead | FrameType::DeadLetterChange,
            ) => self.ask_letters(connection, stream, frame_type, &body, actions),
            (Some(StreamRole::Control), FrameType::ChannelRequest) => {
                self.ask_channel_record(now, connection, &body, actions)
            }
            (Some(StreamRole::Control), FrameType::ChannelList) => self.list_channels(now, connection, &body, actions),
            (Some(StreamRole::Submit), FrameType::ChannelAttach | FrameType::ChannelDetach) => {
                self.watch_channel(now, connection, frame_type, &body, actions)
            }
            (
                Some(StreamRole::Channels),
                FrameType::ChannelSubscribe
                | FrameType::ChannelCredit
                | FrameType::ChannelAck
                | FrameType::ChannelNack
                | FrameType::ChannelLeave,
            ) => self.take_channel_frame(now, connection, frame_type, &body, actions),
            (Some(StreamRole::Control), FrameType::PresenceRequest) => {
                self.ask_presence(now, connection, &body, actions)
            }
            (Some(StreamRole::Submit), FrameType::SignedBatch) => self.logged_in(connection).map(|_| {
                self.submit_frames.push(SubmitFrame { connection, body });
            }),
            (Some(StreamRole::Deliver), FrameType::Subscribe) => self.subscribe(now, connection, &body, actions),
            (Some(StreamRole::Deliver), FrameType::Credit) => self.credit(connection, &body, actions),
            (Some(StreamRole::Deliver), FrameType::SignalCredit) => self.signal_credit(connection, &body, actions),
            (Some(StreamRole::Deliver), FrameType::PresenceShow) => self.show_presence(connection, &body, actions),
            (Some(StreamRole::Deliver), FrameType::ConsumerAck) => self.consumer_ack(connection, &body, actions),
            (Some(StreamRole::Deliver), FrameType::ConsumerNack) => self.consumer_nack(connection, &body, actions),
            _ => Err(RejectCode::FrameUnexpected.into()),
        };
        if let Err(refusal) = outcome {
            self.refuse_frame(connection, stream, frame_type, &refusal, actions);
        }
    }

    pub(crate) fn refuse_frame(
        &mut self,
        connection: ConnectionId,
        stream: StreamId,
        frame_type: FrameType,
        refusal: &Refusal,
        actions: &mut Vec<Action>,
    ) {
        let Refusal { code, context } = *refusal;
        if frame_type == FrameType::Login {
            self.audit_login_failed(connection, context, code);
        }
        self.refuse(connection, stream, Reject { context, ..Reject::new(code) }, code, actions);
    }

    /// Answers with a Reject; too many of those that only a broken or hostile client earns end the connection.
    pub(crate) fn refuse(
        &mut self,
        connection: ConnectionId,
        stream: StreamId,
        reject: Reject,
        code: RejectCode,
        actions: &mut Vec<Action>,
    ) {
        self.counters.reject(code, 1);
        let mut out = Vec::new();
        reject.encode(&mut out);
        actions.push(Action::Send { connection, stream, frames: out.into() });
        let Some(state) = self.connections.get_mut(&connection) else { return };
        match code {
            RejectCode::LoginBadSignature | RejectCode::LoginUnknownAgent => state.login_failures += 1,
            RejectCode::UnknownAgent
            | RejectCode::PolicyDenied
            | RejectCode::UnknownDeadLetter
            | RejectCode::UnknownChannel
            | RejectCode::ChannelNotAllowed => {}
            // The node's own state is nobody's fault.
            code if code.is_retryable() => {}
            _ => state.protocol_errors += 1,
        }
        self.close_if_hopeless(connection, code, actions);
    }

    /// An enrolment that was refused counts as a login that failed: after a few of them the connection ends.
    pub(crate) fn count_login_failure(&mut self, connection: ConnectionId, actions: &mut Vec<Action>) {
        let Some(state) = self.connections.get_mut(&connection) else { return };
        state.login_failures += 1;
        self.close_if_hopeless(connection, RejectCode::LoginUnknownAgent, actions);
    }

    fn close_if_hopeless(&mut self, connection: ConnectionId, code: RejectCode, actions: &mut Vec<Action>) {
        let Some(state) = self.connections.get(&connection) else { return };
        if state.login_failures >= LOGIN_FAILURES_MAX || state.protocol_errors >= PROTOCOL_ERRORS_MAX {
            self.close(connection, code, actions);
        }
    }

    pub(crate) fn logged_in(&self, connection: ConnectionId) -> Result<LoggedIn, Refusal> {
        let login = self.connections.get(&connection).and_then(|state| state.login);
        login.ok_or_else(|| RejectCode::LoginRequired.into())
    }

    fn open_stream(&mut self, connection: ConnectionId, stream: StreamId, body: &[u8]) -> Outcome {
        let role = StreamOpen::parse(body)?.role;
        let state = self.connections.get_mut(&connection).expect("take_frame has looked the connection up");
        Ok(state.open_stream(stream, role)?)
    }

    /// Whoever holds both keys of a registered, valid record, and signs this very connection, is that agent.
    fn login(
        &mut self,
        now: Now,
        connection: ConnectionId,
        stream: StreamId,
        body: &[u8],
        actions: &mut Vec<Action>,
    ) -> Outcome {
        let login = Login::parse(body)?;
        self.check_login(now, connection, &login)?;
        match self.key_records.get((login.agent, login.key_record_version)).map(Arc::clone) {
            Some(record) => self.accept_login(now, connection, stream, &login, &record, actions)?,
            None => self.login_later(now, connection, stream, login, actions),
        }
        Ok(())
    }

    /// Everything about a login but its signatures.
    pub(crate) fn check_login(&self, now: Now, connection: ConnectionId, login: &Login) -> Outcome {
        let state = self.connections.get(&connection).expect("whoever logs in is connected");
        if state.login.is_some() {
            return Err(RejectCode::LoginAgain.into());
        }
        if self.draining {
            return Err(RejectCode::ShuttingDown.into());
        }
        // Control has not said yet who exists: nobody may conclude from that that they do not.
        if self.snapshot.policy().is_none() {
            return Err(about(&login.agent)(RejectCode::PolicyUnavailable));
        }
        valid_key_version(&self.snapshot, &login.agent, login.key_record_version, now.unix_ms)
            .map(drop)
            .map_err(|code| if code == RejectCode::UnknownSender { RejectCode::LoginUnknownAgent } else { code })
            .map_err(about(&login.agent))
    }

    /// Lets a login in that was checked and that `record`, which it names, has signed.
    pub(crate) fn accept_login(
        &mut self,
        now: Now,
        connection: ConnectionId,
        stream: StreamId,
        login: &Login,
        record: &Arc<SignedKeyRecord>,
        actions: &mut Vec<Action>,
    ) -> Outcome {
        let state = self.connections.get(&connection).expect("whoever logs in is connected");
        let statement = login_statement(&state.exporter, &login.agent, login.key_record_version);
        self.verifier
            .keys(record)?
            .verify(&statement, &login.ed25519, &login.ml_dsa_65)
            .map_err(|_| about(&login.agent)(RejectCode::LoginBadSignature))?;
        let state = self.connections.get_mut(&connection).expect("whoever logs in is connected");
        state.login = Some(LoggedIn { agent: login.agent, key_record_version: login.key_record_version });
        state.signer = Some(Arc::clone(record));
        self.counters.logins += 1;
        let (agent, peer, key_version) = (login.agent, state.audit_peer(), login.key_record_version);
        self.audit.tell(What::LoginAccepted { agent, peer, connection: connection.0, key_version });
        let accepted = LoginAccepted {
            node_time_ms: now.unix_ms,
            shard_index: u32::from(self.index.0),
            shard_count: u32::from(self.placement.shard_count()),
            in_flight_messages_max: self.limits.in_flight_messages_max,
            batch_messages_max: self.limits.batch_messages_max,
            batch_bytes_max: self.limits.batch_bytes_max,
        };
        let mut out = Vec::new();
        accepted.encode(&mut out);
        actions.push(Action::Authenticated { connection });
        actions.push(Action::Send { connection, stream, frames: out.into() });
        Ok(())
    }

    /// Whether policy lets `reader` have the key records of `agent`.
    pub(crate) fn may_read_record(&mut self, now: Now, reader: &AgentId, agent: &AgentId) -> Result<(), RejectCode> {
        // Who may not read the directory learns that, and an unknown name is unknown to whoever may.
        self.may(now, reader, PolicyAction::ReadDirectory, agent).map_err(|code| match code {
            RejectCode::UnknownRecipient => RejectCode::UnknownAgent,
            code => code,
        })
    }

    /// Whether policy lets `actor` do this to `agent`, apart from a message, which stage authorize decides about.
    pub(crate) fn may(
        &mut self,
        now: Now,
        actor: &AgentId,
        action: PolicyAction,
        agent: &AgentId,
    ) -> Result<(), RejectCode> {
        let recent = match self.snapshot.reads_recent_messages() {
            true => self.meter.recent(actor, now.monotonic_us).ok_or(RejectCode::Overloaded)?,
            false => 0,
        };
        match self.decisions.decide(&self.snapshot, now.unix_ms, actor, action, agent, recent) {
            Decision::Allow(_) => Ok(()),
            Decision::Deny(code) => Err(code),
        }
    }

    /// Hands an agent's next key record to control. The shard goes on; [`Event::KeyRecordPublished`](crate::Event) brings
    /// the answer.
    fn publish_key_record(
        &mut self,
        connection: ConnectionId,
        stream: StreamId,
        body: &[u8],
        actions: &mut Vec<Action>,
    ) -> Outcome {
        let login = self.logged_in(connection)?;
        let refused = about(&login.agent);
        let KeyRecordPublish { mode, record } = KeyRecordPublish::parse(body).map_err(&refused)?;
        // Nobody replaces the keys of someone else, whatever else they may do.
        if record.record.agent_id() != login.agent {
            return Err(refused(RejectCode::SenderMismatch));
        }
        let state = self.connections.get_mut(&connection).expect("logged_in has looked the connection up");
        if state.publishing.is_some() {
            return Err(refused(RejectCode::FrameUnexpected));
        }
        if self.draining {
            return Err(refused(RejectCode::ShuttingDown));
        }
        state.publishing = Some(stream);
        let record = Box::new(record);
        actions.push(Action::PublishKeyRecord { connection, agent: login.agent, mode, record });
        Ok(())
    }

    /// Control has answered: tells whoever published, if they are still there.
    pub(crate) fn key_record_published(
        &mut self,
        connection: ConnectionId,
        answer: Result<u32, KeyRefused>,
        actions: &mut Vec<Action>,
    ) {
        let Some(state) = self.connections.get_mut(&connection) else { return };
        let stream = state.publishing.take().expect("control answers what it was asked, once");
        let agent = state.login.expect("only who is logged in publishes").agent;
        match answer {
            Ok(version) => {
                let mut out = Vec::new();
                KeyRecordPublished { version }.encode(&mut out);
                self.counters.keys_replaced += 1;
                actions.push(Action::Send { connection, stream, frames: out.into() });
            }
            Err(KeyRefused { code, retry_after_ms }) => {
                let reject = Reject { code: code.as_u16(), retry_after_ms, context: agent.0 };
                self.refuse(connection, stream, reject, code, actions);
            }
        }
    }

    fn subscribe(&mut self, now: Now, connection: ConnectionId, body: &[u8], actions: &mut Vec<Action>) -> Outcome {
        self.logged_in(connection)?;
        let mailbox = Subscribe::parse(body)?.mailbox;
        self.own_mailbox(connection, &mailbox)?;
        let state = self.connections.get_mut(&connection).expect("logged_in has looked the connection up");
        if state.subscribed {
            return Err(RejectCode::FrameUnexpected.into());
        }
        state.subscribed = true;
        let (agent, connection_number) = (mailbox, connection.0);
        self.audit.tell(What::Subscribed { agent, channel: ChannelId::default(), connection: connection_number });
        let origin = Origin { shard: self.index, connection };
        let message = ShardMessage::Subscribe { mailbox, origin, since_us: now.monotonic_us };
        self.tell(self.placement.owner(&mailbox), message, actions);
        Ok(())
    }

    /// The one place that decides who reads a mailbox and what is in it: its owner, proven by the login.
    fn own_mailbox(&self, connection: ConnectionId, mailbox: &AgentId) -> Outcome {
        if self.logged_in(connection)?.agent == *mailbox {
            Ok(())
        } else {
            Err(about(mailbox)(RejectCode::NotMailboxOwner))
        }
    }

    pub(crate) fn subscribed(&self, connection: ConnectionId) -> Result<AgentId, Refusal> {
        let login = self.logged_in(connection)?;
        let subscribed = self.connections.get(&connection).is_some_and(|state| state.subscribed);
        if subscribed { Ok(login.agent) } else { Err(RejectCode::FrameUnexpected.into()) }
    }

    fn credit(&mut self, connection: ConnectionId, body: &[u8], actions: &mut Vec<Action>) -> Outcome {
        let mailbox = self.subscribed(connection)?;
        let Credit { messages, bytes } = Credit::parse(body)?;
        if messages > CREDIT_MESSAGES_MAX || bytes > CREDIT_BYTES_MAX {
            return Err(RejectCode::CreditExceeded.into());
        }
        let origin = Origin { shard: self.index, connection };
        let message = ShardMessage::Credit { mailbox, origin, messages, bytes };
        self.tell(self.placement.owner(&mailbox), message, actions);
        Ok(())
    }

    fn signal_credit(&mut self, connection: ConnectionId, body: &[u8], actions: &mut Vec<Action>) -> Outcome {
        let mailbox = self.subscribed(connection)?;
        let SignalCredit { signals } = SignalCredit::parse(body)?;
        if signals > SIGNAL_CREDIT_MAX {
            return Err(RejectCode::CreditExceeded.into());
        }
        let origin = Origin { shard: self.index, connection };
        let message = ShardMessage::SignalCredit { mailbox, origin, signals };
        self.tell(self.placement.owner(&mailbox), message, actions);
        Ok(())
    }

    fn consumer_ack(&mut self, connection: ConnectionId, body: &[u8], actions: &mut Vec<Action>) -> Outcome {
        let mailbox = self.subscribed(connection)?;
        let sequences = ConsumerAck::parse(body)?.sequences;
        let origin = Origin { shard: self.index, connection };
        let message = ShardMessage::ConsumerAck { mailbox, origin, sequences };
        self.tell(self.placement.owner(&mailbox), message, actions);
        Ok(())
    }

    fn consumer_nack(&mut self, connection: ConnectionId, body: &[u8], actions: &mut Vec<Action>) -> Outcome {
        let mailbox = self.subscribed(connection)?;
        let messages = ConsumerNack::parse(body)?.messages;
        let origin = Origin { shard: self.index, connection };
        let message = ShardMessage::ConsumerNack { mailbox, origin, messages };
        self.tell(self.placement.owner(&mailbox), message, actions);
        Ok(())
    }

    /// Asks the mailbox's shard about dead letters. The answer comes later, and no second question before it.
    fn ask_letters(
        &mut self,
        connection: ConnectionId,
        stream: StreamId,
        frame_type: FrameType,
        body: &[u8],
        actions: &mut Vec<Action>,
    ) -> Outcome {
        self.logged_in(connection)?;
        let (mailbox, question) = letter_question(frame_type, body)?;
        self.own_mailbox(connection, &mailbox)?;
        // Nobody can say for now who may read what.
        if self.snapshot.policy().is_none() {
            return Err(about(&mailbox)(RejectCode::PolicyUnavailable));
        }
        let state = self.connections.get_mut(&connection).expect("logged_in has looked the connection up");
        if state.asking.is_some() {
            return Err(RejectCode::FrameUnexpected.into());
        }
        if self.draining {
            return Err(RejectCode::ShuttingDown.into());
        }
        state.asking = Some(stream);
        let origin = Origin { shard: self.index, connection };
        let message = ShardMessage::LetterQuestion { mailbox, origin, question };
        self.tell(self.placement.owner(&mailbox), message, actions);
        Ok(())
    }

    /// The mailbox's shard has answered: tells whoever asked, if they are still there.
    pub(crate) fn letters_answered(
        &mut self,
        connection: ConnectionId,
        answer: LetterAnswer,
        actions: &mut Vec<Action>,
    ) {
        let Some(state) = self.connections.get_mut(&connection) else { return };
        let stream = state.asking.take().expect("a question is answered once");
        match answer {
            Ok(frames) => actions.push(Action::Send { connection, stream, frames }),
            Err(code) => {
                // About nobody, so that it is not taken for the answer to a publish, which may be open beside it.
                self.refuse(connection, stream, Reject::new(code), code, actions);
            }
        }
    }
}

fn letter_question(frame_type: FrameType, body: &[u8]) -> Result<(AgentId, LetterQuestion), RejectCode> {
    Ok(match frame_type {
        FrameType::DeadLetterList => {
            let DeadLetterList { mailbox, after, letters_max } = DeadLetterList::parse(body)?;
            (mailbox, LetterQuestion::List { after, letters_max: letters_max as usize })
        }
        FrameType::DeadLetterRead => {
            let DeadLetterRead { mailbox, mailbox_sequence } = DeadLetterRead::parse(body)?;
            (mailbox, LetterQuestion::Read { sequence: mailbox_sequence })
        }
        _ => {
            let DeadLetterChange { mailbox, change, sequences } = DeadLetterChange::parse(body)?;
            (mailbox, LetterQuestion::Change { change, sequences })
        }
    })
}
