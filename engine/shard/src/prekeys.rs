//! Prekeys: what agents upload and claim is handed to control, which keeps them, and the answers are handed back. The shard decides
//! who may claim, and goes on meanwhile: it holds no prekey.

use bytes::Bytes;
use creto_envelope::control::StreamRole;
use creto_envelope::prekeys::{
    PrekeyBatch, PrekeyClaim, PrekeyClaimed, PrekeyRefusal, PrekeyStock, PrekeyStockRequest, PrekeyStockTold,
    PrekeyUploaded,
};
use creto_envelope::{AgentId, FrameType, RejectCode};
use creto_policy::Action as PolicyAction;
use creto_store::RecordLog;

use crate::event::{Action, ConnectionId, Now, StreamId};
use crate::limits::PREKEY_QUESTIONS_MAX;
use crate::request::Outcome;
use crate::shard::Shard;

/// What an agent that is logged in wants of the node's prekeys.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum PrekeyQuestion {
    /// Take these; nothing about them was checked but their form.
    Upload(Box<PrekeyBatch>),
    /// One of this agent's, to which policy lets the asker send.
    Claim(AgentId),
    /// What is left of its own?
    Stock,
}

/// What a question is about, once it was handed over: enough to refuse it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PrekeyTopic {
    /// Of a [`PrekeyQuestion::Upload`].
    Upload,
    /// Of a [`PrekeyQuestion::Claim`].
    Claim(AgentId),
    /// Of a [`PrekeyQuestion::Stock`].
    Stock,
}

impl PrekeyQuestion {
    /// What it is about.
    #[must_use]
    pub const fn topic(&self) -> PrekeyTopic {
        match self {
            Self::Upload(_) => PrekeyTopic::Upload,
            Self::Claim(agent) => PrekeyTopic::Claim(*agent),
            Self::Stock => PrekeyTopic::Stock,
        }
    }
}

impl PrekeyTopic {
    /// The frame that answers no: of the question's own kind, so that nobody takes it for an answer to something else.
    #[must_use]
    pub fn refused(self, refusal: PrekeyRefusal) -> Bytes {
        let mut out = Vec::new();
        match self {
            Self::Upload => PrekeyUploaded { answer: Err(refusal) }.encode(&mut out),
            Self::Claim(agent) => PrekeyClaimed { agent, answer: Err(refusal) }.encode(&mut out),
            Self::Stock => PrekeyStockTold { answer: Err(refusal) }.encode(&mut out),
        }
        out.into()
    }
}

impl<L: RecordLog> Shard<L> {
    /// Hands a question to control; [`Event::PrekeysAnswered`](crate::Event) brings the answer.
    pub(crate) fn ask_prekeys(
        &mut self,
        now: Now,
        connection: ConnectionId,
        frame_type: FrameType,
        body: &[u8],
        actions: &mut Vec<Action>,
    ) -> Outcome {
        let asker = self.logged_in(connection)?.agent;
        let question = match frame_type {
            FrameType::PrekeyUpload => PrekeyQuestion::Upload(Box::new(PrekeyBatch::parse(body)?)),
            FrameType::PrekeyClaim => PrekeyQuestion::Claim(PrekeyClaim::parse(body)?.agent),
            _ => {
                PrekeyStockRequest::parse(body)?;
                PrekeyQuestion::Stock
            }
        };
        let granted = match &question {
            PrekeyQuestion::Claim(agent) => self.may(now, &asker, PolicyAction::SendMessage, agent),
            PrekeyQuestion::Upload(_) | PrekeyQuestion::Stock => Ok(()),
        };
        let state = self.connections.get_mut(&connection).expect("logged_in has looked the connection up");
        // Whoever keeps prekeys here wants to know when they become few, and knows the frame that says so.
        state.keeps_prekeys |= !matches!(question, PrekeyQuestion::Claim(_));
        let has_room = match self.draining {
            true => Err(RejectCode::ShuttingDown),
            false if state.prekey_questions >= PREKEY_QUESTIONS_MAX => Err(RejectCode::TooManyInFlight),
            false => Ok(()),
        };
        match granted.and(has_room) {
            Ok(()) => {
                state.prekey_questions += 1;
                actions.push(Action::AskPrekeys { connection, asker, question });
            }
            Err(code) => {
                self.counters.reject(code, 1);
                let frames = question.topic().refused(code.into());
                self.send_control(connection, frames, actions);
            }
        }
        Ok(())
    }

    /// Control has answered: hands the frame on, if whoever asked is still there.
    pub(crate) fn prekeys_answered(&mut self, connection: ConnectionId, frames: Bytes, actions: &mut Vec<Action>) {
        let Some(state) = self.connections.get_mut(&connection) else { return };
        state.prekey_questions =
            state.prekey_questions.checked_sub(1).expect("control answers what it was asked, once");
        self.send_control(connection, frames, actions);
    }

    /// An agent has few one-time prekeys left: tells its connections here that keep some.
    pub(crate) fn prekeys_low(&mut self, agent: AgentId, stock: PrekeyStock, actions: &mut Vec<Action>) {
        let mut out = Vec::new();
        PrekeyStockTold { answer: Ok(PrekeyStock { is_notice: true, ..stock }) }.encode(&mut out);
        let frames = Bytes::from(out);
        let is_owners = |login: Option<AgentId>| login == Some(agent);
        let told: Vec<(ConnectionId, StreamId)> = self
            .connections
            .iter()
            .filter(|(_, state)| state.keeps_prekeys && is_owners(state.login.map(|login| login.agent)))
            .filter_map(|(connection, state)| Some((*connection, state.stream(StreamRole::Control)?)))
            .collect();
        for (connection, stream) in told {
            actions.push(Action::Send { connection, stream, frames: frames.clone() });
        }
    }

    pub(crate) fn send_control(&self, connection: ConnectionId, frames: Bytes, actions: &mut Vec<Action>) {
        let stream = self.connections.get(&connection).and_then(|state| state.stream(StreamRole::Control));
        let stream = stream.expect("the control stream has asked");
        actions.push(Action::Send { connection, stream, frames });
    }
}
