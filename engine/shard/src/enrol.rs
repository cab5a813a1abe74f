//! Enrolments: somebody who is not logged in brings a token and a key record, which are handed to control. The shard decides nothing
//! about them, and goes on meanwhile.

use creto_crypto_accel::digest::sha256;
use creto_envelope::RejectCode;
use creto_envelope::control::Reject;
use creto_envelope::enrol::{Enrol, Enrolled};
use creto_store::RecordLog;

use crate::event::{Action, ConnectionId, KeyRefused, StreamId};
use crate::request::Outcome;
use crate::shard::Shard;

impl<L: RecordLog> Shard<L> {
    /// Hands an enrolment to control; [`Event::Enrolled`](crate::Event) brings the answer. Of the token nothing goes further than
    /// its hash.
    pub(crate) fn enrol(
        &mut self,
        connection: ConnectionId,
        stream: StreamId,
        body: &[u8],
        actions: &mut Vec<Action>,
    ) -> Outcome {
        let Enrol { token, record } = Enrol::parse(body)?;
        let state = self.connections.get_mut(&connection).expect("take_frame has looked the connection up");
        if state.login.is_some() {
            return Err(RejectCode::LoginAgain.into());
        }
        if state.enrolling.is_some() {
            return Err(RejectCode::FrameUnexpected.into());
        }
        if self.draining {
            return Err(RejectCode::ShuttingDown.into());
        }
        state.enrolling = Some(stream);
        let (peer, token_hash) = (state.audit_peer(), sha256(&[token]));
        actions.push(Action::Enrol { connection, peer, token_hash, record: Box::new(record) });
        Ok(())
    }

    /// Control has answered: tells whoever asked, if they are still there. Who is refused again and again is sent away.
    pub(crate) fn enrolled(
        &mut self,
        connection: ConnectionId,
        answer: Result<Enrolled, KeyRefused>,
        actions: &mut Vec<Action>,
    ) {
        let Some(state) = self.connections.get_mut(&connection) else { return };
        let stream = state.enrolling.take().expect("control answers what it was asked, once");
        match answer {
            Ok(enrolled) => {
                let mut out = Vec::new();
                enrolled.encode(&mut out);
                actions.push(Action::Send { connection, stream, frames: out.into() });
                if let Enrolled::Refused(_) = enrolled {
                    self.count_login_failure(connection, actions);
                }
            }
            Err(KeyRefused { code, retry_after_ms }) => {
                let reject = Reject { retry_after_ms, ..Reject::new(code) };
                self.refuse(connection, stream, reject, code, actions);
            }
        }
    }
}
