//! Key records: control keeps them, and a shard asks for one when somebody logs in or wants to read it. A snapshot has what else
//! there is to know of an agent, so nothing on the path of a message waits here: a batch is checked by the record of its
//! connection's login.
//!
//! Control is asked once for each record, however many wait for it. What came is kept, up to a bound, and the records of logins by
//! their connections besides.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use creto_envelope::control::{KeyRecordRequest, Login, Reject, encode_key_record_response};
use creto_envelope::{AgentId, AgentState, FrameType, RejectCode, SignedKeyRecord};
use creto_policy::{Recent, Snapshot};
use creto_store::RecordLog;

use crate::event::{Action, ConnectionId, KeyRefused, Now, StreamId};
use crate::limits::{
    KEY_RECORD_QUESTIONS_MAX, KEY_RECORD_WAIT_US_MAX, KEY_RECORDS_KEPT_MAX, LOGIN_HELD_BYTES_MAX, LOGIN_HELD_FRAMES_MAX,
};
use crate::request::{Outcome, about};
use crate::shard::Shard;

#[cfg(test)]
mod tests;

/// An agent, and a version of its key record.
pub(crate) type Place = (AgentId, u32);

/// The records that came last, and who waits for others.
#[derive(Debug)]
pub(crate) struct KeyRecords {
    kept: Recent<Place, Arc<SignedKeyRecord>>,
    /// What control was asked for and has not answered. Connections may be gone.
    waiting: BTreeMap<Place, Asked>,
}

/// Who waits for a record.
#[derive(Debug)]
struct Asked {
    /// When control was asked, by the monotonic clock, microseconds.
    at_us: u64,
    connections: Vec<ConnectionId>,
}

impl Default for KeyRecords {
    fn default() -> Self {
        Self { kept: Recent::new(KEY_RECORDS_KEPT_MAX), waiting: BTreeMap::new() }
    }
}

impl KeyRecords {
    pub(crate) fn get(&self, place: Place) -> Option<&Arc<SignedKeyRecord>> {
        self.kept.get(&place)
    }

    /// Has a connection wait for a record. Returns whether control is to be asked: nobody waited for it before.
    fn wait(&mut self, now: Now, place: Place, connection: ConnectionId) -> bool {
        let asked =
            self.waiting.entry(place).or_insert_with(|| Asked { at_us: now.monotonic_us, connections: Vec::new() });
        let is_first = asked.connections.is_empty();
        if !asked.connections.contains(&connection) {
            asked.connections.push(connection);
        }
        is_first
    }

    /// Takes an answer in. Returns who waited for it: nobody, where it came too late.
    fn answered(&mut self, place: Place, record: Option<&Arc<SignedKeyRecord>>) -> Vec<ConnectionId> {
        if let Some(record) = record {
            self.kept.insert(place, Arc::clone(record));
        }
        self.waiting.remove(&place).map_or_else(Vec::new, |asked| asked.connections)
    }

    /// What was asked for too long ago.
    fn overdue(&self, now: Now) -> Vec<Place> {
        let is_overdue = |asked: &Asked| asked.at_us.saturating_add(KEY_RECORD_WAIT_US_MAX) <= now.monotonic_us;
        self.waiting.iter().filter(|(_, asked)| is_overdue(asked)).map(|(place, _)| *place).collect()
    }
}

/// A login whose record was asked for, and what came behind it on its stream.
#[derive(Debug)]
pub(crate) struct WaitingLogin {
    stream: StreamId,
    login: Login,
    held: Vec<(FrameType, Bytes)>,
    held_bytes: usize,
}

/// Somebody wants to read a key record. Such questions are answered in the order in which they came.
#[derive(Debug)]
pub(crate) struct RecordQuestion {
    stream: StreamId,
    place: Place,
    /// The current version was asked for, whichever that is when the answer leaves.
    of_current: bool,
    answer: Answer,
}

#[derive(Debug)]
enum Answer {
    Waits,
    Record(Arc<SignedKeyRecord>),
    Refused(Reject, RejectCode),
}

impl<L: RecordLog> Shard<L> {
    /// Keeps a frame back that came behind a login which waits for its record, on the same stream. Returns whether it is not to be
    /// looked at now: a stranger who sends more than is kept is sent away.
    pub(crate) fn hold_behind_login(
        &mut self,
        connection: ConnectionId,
        stream: StreamId,
        frame_type: FrameType,
        body: &Bytes,
        actions: &mut Vec<Action>,
    ) -> bool {
        let state = self.connections.get_mut(&connection);
        let Some(waiting) = state.and_then(|state| state.waiting_login.as_mut()) else { return false };
        if waiting.stream != stream {
            return false;
        }
        let held_bytes = waiting.held_bytes + body.len();
        if waiting.held.len() < LOGIN_HELD_FRAMES_MAX && held_bytes <= LOGIN_HELD_BYTES_MAX {
            waiting.held_bytes = held_bytes;
            waiting.held.push((frame_type, body.clone()));
        } else {
            // None of it is looked at out of its order, least of all another login.
            self.counters.reject(RejectCode::LoginRequired, 1);
            self.close(connection, RejectCode::LoginRequired, actions);
        }
        true
    }

    /// Tells whoever has waited too long for a record to come again: control may be busy, or an answer lost.
    pub(crate) fn give_up_key_records(&mut self, now: Now, actions: &mut Vec<Action>) {
        for place in self.key_records.overdue(now) {
            let code = RejectCode::Overloaded;
            let busy = Err(KeyRefused { code, retry_after_ms: code.retry_after_ms() });
            self.key_record_answered(now, place, &busy, actions);
        }
    }

    /// Has a login wait for its record.
    pub(crate) fn login_later(
        &mut self,
        now: Now,
        connection: ConnectionId,
        stream: StreamId,
        login: Login,
        actions: &mut Vec<Action>,
    ) {
        let place = (login.agent, login.key_record_version);
        let state = self.connections.get_mut(&connection).expect("take_frame has looked the connection up");
        let before =
            state.waiting_login.replace(Box::new(WaitingLogin { stream, login, held: Vec::new(), held_bytes: 0 }));
        assert!(before.is_none(), "what comes behind a login waits with it");
        self.want(now, place, connection, actions);
    }

    /// Answers who asks for a key record, now or when control has brought it.
    pub(crate) fn key_record(
        &mut self,
        now: Now,
        connection: ConnectionId,
        stream: StreamId,
        body: &[u8],
        actions: &mut Vec<Action>,
    ) -> Outcome {
        let login = self.logged_in(connection)?;
        let request = KeyRecordRequest::parse(body)?;
        let state = self.connections.get(&connection).expect("logged_in has looked the connection up");
        if state.record_questions.len() >= KEY_RECORD_QUESTIONS_MAX {
            return Err(about(&request.agent)(RejectCode::Overloaded));
        }
        let found = self.may_read_record(now, &login.agent, &request.agent);
        let found = found.and_then(|()| version_of(&self.snapshot, &request.agent, request.version));
        let of_current = request.version == 0;
        let (place, answer) = match found {
            Ok(version) => {
                let place = (request.agent, version);
                let kept = self.key_records.get(place).map(|record| Answer::Record(Arc::clone(record)));
                // Asked for also behind one that waits, so that they come together.
                (place, kept.unwrap_or_else(|| self.want(now, place, connection, actions)))
            }
            Err(code) => {
                let reject = Reject { context: request.agent.0, ..Reject::new(code) };
                ((request.agent, request.version), Answer::Refused(reject, code))
            }
        };
        let question = RecordQuestion { stream, place, of_current, answer };
        let state = self.connections.get_mut(&connection).expect("logged_in has looked the connection up");
        state.record_questions.push_back(question);
        self.answer_record_questions(now, connection, actions);
        Ok(())
    }

    /// Control has answered: whoever waited goes on.
    pub(crate) fn key_record_answered(
        &mut self,
        now: Now,
        place: Place,
        answer: &Result<Arc<SignedKeyRecord>, KeyRefused>,
        actions: &mut Vec<Action>,
    ) {
        for connection in self.key_records.answered(place, answer.as_ref().ok()) {
            let Some(state) = self.connections.get_mut(&connection) else { continue };
            for question in &mut state.record_questions {
                if question.place == place && matches!(question.answer, Answer::Waits) {
                    question.answer = match answer {
                        Ok(record) => Answer::Record(Arc::clone(record)),
                        Err(refused) => Answer::Refused(reject_of(refused, &place.0), refused.code),
                    };
                }
            }
            self.answer_record_questions(now, connection, actions);
            self.resume_login(now, connection, place, answer, actions);
        }
    }

    /// Lets the login go on that waited for this record, and what came behind it.
    fn resume_login(
        &mut self,
        now: Now,
        connection: ConnectionId,
        place: Place,
        answer: &Result<Arc<SignedKeyRecord>, KeyRefused>,
        actions: &mut Vec<Action>,
    ) {
        let Some(state) = self.connections.get_mut(&connection) else { return };
        let is_its = |waiting: &mut Box<WaitingLogin>| (waiting.login.agent, waiting.login.key_record_version) == place;
        let Some(waiting) = state.waiting_login.take_if(is_its) else { return };
        let WaitingLogin { stream, login, held, held_bytes: _ } = *waiting;
        match answer {
            Ok(record) => {
                // Everything is looked at again: it may have been revoked, or the shard may be draining by now.
                let outcome = self.check_login(now, connection, &login);
                let outcome =
                    outcome.and_then(|()| self.accept_login(now, connection, stream, &login, record, actions));
                if let Err(refusal) = outcome {
                    self.refuse_frame(connection, stream, FrameType::Login, &refusal, actions);
                }
            }
            Err(refused) => {
                let reject = reject_of(refused, &login.agent);
                self.audit_login_failed(connection, reject.context, refused.code);
                self.refuse(connection, stream, reject, refused.code, actions);
            }
        }
        for (frame_type, body) in held {
            self.take_frame(now, connection, stream, frame_type, body, actions);
        }
    }

    /// Sends the answers that no earlier question of this connection holds back.
    fn answer_record_questions(&mut self, now: Now, connection: ConnectionId, actions: &mut Vec<Action>) {
        // A refusal may end the connection.
        while let Some(state) = self.connections.get_mut(&connection)
            && let Some(question) = state.record_questions.front_mut()
        {
            let agent = question.place.0;
            // Once a key is replaced, the one before it is handed out as the current one no more.
            if question.of_current
                && !matches!(question.answer, Answer::Refused(..))
                && let Some(principal) = self.snapshot.principal(&agent)
                && principal.current_version() != question.place.1
            {
                question.place.1 = principal.current_version();
                question.answer = Answer::Waits;
            }
            if let Answer::Waits = question.answer {
                let place = question.place;
                let Some(record) = self.key_records.get(place) else {
                    self.want(now, place, connection, actions);
                    return;
                };
                question.answer = Answer::Record(Arc::clone(record));
            }
            let RecordQuestion { stream, answer, .. } =
                state.record_questions.pop_front().expect("the front was just looked at");
            match answer {
                Answer::Record(record) => {
                    let frames = response(&self.snapshot, &agent, &record);
                    actions.push(Action::Send { connection, stream, frames });
                }
                Answer::Refused(reject, code) => self.refuse(connection, stream, reject, code, actions),
                Answer::Waits => unreachable!("who waits has left the loop"),
            }
        }
    }

    /// Has control asked for a record that is not kept, if nobody has before.
    fn want(&mut self, now: Now, place: Place, connection: ConnectionId, actions: &mut Vec<Action>) -> Answer {
        if self.key_records.wait(now, place, connection) {
            actions.push(Action::AskKeyRecord { agent: place.0, version: place.1 });
        }
        Answer::Waits
    }
}

/// The version that is meant, if the agent ever had it.
fn version_of(snapshot: &Snapshot, agent: &AgentId, version: u32) -> Result<u32, RejectCode> {
    let principal = snapshot.principal(agent).ok_or(RejectCode::UnknownAgent)?;
    match version {
        0 => Ok(principal.current_version()),
        version => principal.key_version(version).map(|known| known.version).ok_or(RejectCode::UnknownKeyVersion),
    }
}

fn response(snapshot: &Snapshot, agent: &AgentId, record: &Arc<SignedKeyRecord>) -> Bytes {
    let mut out = Vec::new();
    match snapshot.principal(agent).map_or(AgentState::Active, creto_policy::Principal::state) {
        AgentState::Active => encode_key_record_response(&mut out, record),
        // The state is the node's to say; the agent's signatures do not cover it.
        state => {
            let mut said = SignedKeyRecord::clone(record);
            said.record.state = state;
            encode_key_record_response(&mut out, &said);
        }
    }
    out.into()
}

fn reject_of(refused: &KeyRefused, agent: &AgentId) -> Reject {
    Reject { code: refused.code.as_u16(), retry_after_ms: refused.retry_after_ms, context: agent.0 }
}
