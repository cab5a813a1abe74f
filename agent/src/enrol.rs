//! Enrolment: an agent that the node does not know yet brings a token and its key record, and is registered.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use creto_audit::event::Code;
pub use creto_crypto_accel::token::EnrolmentToken;
use creto_envelope::control::{KeyRecordRequest, StreamOpen, StreamRole};
use creto_envelope::enrol::{Enrol, Enrolled};
use creto_envelope::{FrameType, RejectCode, SignedKeyRecord};
use quinn::{RecvStream, SendStream};
use thiserror::Error;
use tokio::time::timeout;

use crate::connection::{Dialer, LoginEnd, login_on};
use crate::error::ConnectError;
use crate::keys::AgentKeys;
use crate::limits::IDLE_TIMEOUT;
use crate::stream::{self, StreamEnd};
use crate::tls::NodeCertificate;

/// What became of an enrolment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Enrolment {
    /// The agent is registered now, and a use of the token is gone.
    Created,
    /// It was registered with these keys before; the token was not used.
    Known,
}

/// Why an agent was not registered.
#[derive(Clone, Debug, Error)]
#[non_exhaustive]
pub enum EnrolError {
    /// There is no connection, or the node refused for a reason of its own.
    #[error("{0}")]
    Connect(#[from] ConnectError),
    /// The node said no: a code of the control API, by its number.
    #[error("the node does not register this agent: {}", name_of(*.0))]
    Refused(u16),
    /// The agent is registered, and has replaced its encryption key since these keys were written.
    #[error("the agent is registered with a newer encryption key than this one; use the newest copy of its keys")]
    OtherKey,
}

impl EnrolError {
    /// The code of the control API that the node refused with, such as `token_expired`; `None` if it did not, or if this version does
    /// not know it.
    #[must_use]
    pub fn code(&self) -> Option<&'static str> {
        match self {
            Self::Refused(number) => Code(*number).name(),
            Self::Connect(_) | Self::OtherKey => None,
        }
    }
}

fn name_of(number: u16) -> String {
    let known = Code(number).name().map(|name| name.replace('_', " "));
    known.unwrap_or_else(|| format!("code {number}, which this version does not know; docs/audit-format.md lists them"))
}

/// Has the node register the agent of `keys` with the first version of its key record, valid in `valid_ms` (Unix milliseconds),
/// if `token` allows it; all within `within`.
///
/// Whoever lost the answer calls it again: keys that are registered already are [`Enrolment::Known`], also when the token is used
/// up. The token travels inside TLS to the holder of `certificate`, and to nobody else.
///
/// ```no_run
/// # async fn enrol() -> Result<(), Box<dyn std::error::Error>> {
/// use std::time::Duration;
///
/// use creto_agent::enrol::{EnrolmentToken, enrol};
/// use creto_agent::{AgentKeys, AgentName, NodeCertificate, TrustDomain};
///
/// let name = AgentName::parse("acme/planner")?;
/// let keys = AgentKeys::generate(name, TrustDomain::parse("example.org")?)?;
/// keys.save("planner.keys")?; // before anybody hears of them
/// let token = EnrolmentToken::parse(&std::env::var("CRETO_ENROLMENT_TOKEN")?).ok_or("no token")?;
/// let certificate = NodeCertificate::from_file("node.crt")?;
/// let valid_ms = 1_790_000_000_000..1_820_000_000_000;
/// enrol("192.0.2.7:7443".parse()?, &certificate, &keys.into(), valid_ms, &token, Duration::from_secs(10)).await?;
/// # Ok(()) }
/// ```
///
/// # Errors
/// [`EnrolError`].
pub async fn enrol(
    node: SocketAddr,
    certificate: &NodeCertificate,
    keys: &Arc<AgentKeys>,
    valid_ms: std::ops::Range<u64>,
    token: &EnrolmentToken,
    within: Duration,
) -> Result<Enrolment, EnrolError> {
    let record = keys.enrolment_record(token, valid_ms);
    let dialer = Dialer::new(node, certificate, IDLE_TIMEOUT)?;
    let whole = async {
        let connection = dialer.dial(within).await?;
        let answered = ask(&connection, keys, record, token).await;
        // Asked before this side closes: the reason that the node gave is gone then.
        let answered = answered.unwrap_or_else(|end| Err(dialer.login_error(&connection, end).into()));
        connection.close(quinn::VarInt::from_u32(0), b"");
        answered
    };
    timeout(within, whole).await.unwrap_or_else(|_| Err(ConnectError::TimedOut { node, after: within }.into()))
}

async fn ask(
    connection: &quinn::Connection,
    keys: &Arc<AgentKeys>,
    record: SignedKeyRecord,
    token: &EnrolmentToken,
) -> Result<Result<Enrolment, EnrolError>, LoginEnd> {
    let (mut send, mut receive) = connection.open_bi().await.map_err(|_| StreamEnd::Ended)?;
    let mut frames = Vec::new();
    StreamOpen { role: StreamRole::Control }.encode(&mut frames);
    Enrol { token: token.expose(), record }.encode(&mut frames);
    stream::write(&mut send, frames).await?;
    let answer = stream::read_frame(&mut receive).await?;
    match answer.frame_type {
        FrameType::Enrolled => match Enrolled::parse(&answer.body).map_err(StreamEnd::Broken)? {
            Enrolled::Created => Ok(Ok(Enrolment::Created)),
            Enrolled::Known => Ok(Ok(Enrolment::Known)),
            // A record with another validity is another record; whether the keys are the same shows when they log in.
            Enrolled::Refused(number) if Code(number).name() == Some("name_taken") => {
                match login_on(connection, keys, &mut send, &mut receive).await {
                    Ok(_) => Ok(is_current(keys, &mut send, &mut receive).await?),
                    Err(LoginEnd::Refused(Ok(RejectCode::LoginUnknownAgent | RejectCode::LoginBadSignature))) => {
                        Ok(Err(EnrolError::Refused(number)))
                    }
                    Err(end) => Err(end),
                }
            }
            Enrolled::Refused(number) => Ok(Err(EnrolError::Refused(number))),
        },
        FrameType::Reject => Err(LoginEnd::Refused(stream::refusal(&answer.body)?.code)),
        _ => Err(StreamEnd::Broken(RejectCode::FrameUnexpected).into()),
    }
}

/// Whether the encryption key is the one that the node hands out: older keys log in, too, and cannot open what is sent.
async fn is_current(
    keys: &AgentKeys,
    send: &mut SendStream,
    receive: &mut RecvStream,
) -> Result<Result<Enrolment, EnrolError>, LoginEnd> {
    let mut frames = Vec::new();
    KeyRecordRequest { agent: keys.id(), version: 0 }.encode(&mut frames);
    stream::write(send, frames).await?;
    let answer = stream::read_frame(receive).await?;
    match answer.frame_type {
        FrameType::KeyRecordResponse => {
            let current = SignedKeyRecord::parse(&answer.body).map_err(StreamEnd::Broken)?;
            let is_current = current.record.key_id() == keys.key_id();
            Ok(if is_current { Ok(Enrolment::Known) } else { Err(EnrolError::OtherKey) })
        }
        FrameType::Reject => Err(LoginEnd::Refused(stream::refusal(&answer.body)?.code)),
        _ => Err(StreamEnd::Broken(RejectCode::FrameUnexpected).into()),
    }
}
