//! Questions about the key log: handed to control, which keeps it, and the answers handed back. The shard looks at neither leaves
//! nor proofs, and goes on meanwhile.

use bytes::Bytes;
use creto_envelope::key_log::{KeyLeavesRequest, KeyLogQuestion, KeyLogRefusal, KeyProofRequest};
use creto_envelope::{FrameType, RejectCode};
use creto_store::RecordLog;

use crate::event::{Action, ConnectionId, Now, StreamId};
use crate::limits::KEY_LOG_QUESTIONS_MAX;
use crate::request::Outcome;
use crate::shard::Shard;

impl<L: RecordLog> Shard<L> {
    /// Hands a question to control; [`Event::KeyLogAnswered`](crate::Event) brings the answer. What is not granted is said in an
    /// answer of its own kind, so that nobody takes it for one about something else.
    pub(crate) fn ask_key_log(
        &mut self,
        now: Now,
        connection: ConnectionId,
        stream: StreamId,
        frame_type: FrameType,
        body: &[u8],
        actions: &mut Vec<Action>,
    ) -> Outcome {
        let login = self.logged_in(connection)?;
        let question = match frame_type {
            FrameType::KeyProofRequest => KeyLogQuestion::Proof(KeyProofRequest::parse(body)?),
            _ => KeyLogQuestion::Leaves(KeyLeavesRequest::parse(body)?),
        };
        let granted = match &question {
            // Whoever may not have the record may not have what proves it.
            KeyLogQuestion::Proof(question) => self.may_read_record(now, &login.agent, &question.agent),
            KeyLogQuestion::Leaves(_) => Ok(()),
        };
        let state = self.connections.get_mut(&connection).expect("logged_in has looked the connection up");
        let has_room = match self.draining {
            true => Err(RejectCode::ShuttingDown),
            false if state.key_log_questions >= KEY_LOG_QUESTIONS_MAX => Err(RejectCode::Overloaded),
            false => Ok(()),
        };
        let granted = granted.and(has_room);
        match granted {
            Ok(()) => {
                state.key_log_questions += 1;
                actions.push(Action::AskKeyLog { connection, question });
            }
            Err(code) => {
                self.counters.reject(code, 1);
                let frames = question.refused(KeyLogRefusal::from(code)).into();
                actions.push(Action::Send { connection, stream, frames });
            }
        }
        Ok(())
    }

    /// Control has answered: hands the frame on, if whoever asked is still there.
    pub(crate) fn key_log_answered(&mut self, connection: ConnectionId, frames: Bytes, actions: &mut Vec<Action>) {
        let Some(state) = self.connections.get_mut(&connection) else { return };
        state.key_log_questions =
            state.key_log_questions.checked_sub(1).expect("control answers what it was asked, once");
        self.send_control(connection, frames, actions);
    }
}
