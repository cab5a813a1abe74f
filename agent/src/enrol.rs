//! Enrolment: an agent that the node does not know yet brings a token and its key record, and is registered.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use creto_audit::event::Code;
pub use creto_crypto_accel::token::EnrolmentToken;
use creto_envelope::control::{StreamOpen, StreamRole};
use creto_envelope::enrol::{Enrol, Enrolled};
use creto_envelope::{FrameType, RejectCode, SignedKeyRecord};
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
}

impl EnrolError {
    /// The code of the control API that the node refused with, such as `token_expired`; `None` if it did not, or if this version does
    /// not know it.
    #[must_use]
    pub fn code(&self) -> Option<&'static str> {
        match self {
            Self::Refused(number) => Code(*number).name(),
            Self::Connect(_) => None,
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
    let record = keys.signed_record(keys.record_version(), valid_ms.start, valid_ms.end);
    let dialer = Dialer::new(node, certificate, IDLE_TIMEOUT)?;
    let connection = dialer.dial(within).await?;
    let answered = timeout(within, ask(&connection, keys, record, token)).await;
    connection.close(quinn::VarInt::from_u32(0), b"");
    match answered {
        Err(_) => Err(ConnectError::TimedOut { node, after: within }.into()),
        Ok(Ok(Ok(enrolment))) => Ok(enrolment),
        Ok(Ok(Err(number))) => Err(EnrolError::Refused(number)),
        Ok(Err(end)) => Err(dialer.login_error(&connection, end).into()),
    }
}

/// The number of a code when the node said no.
async fn ask(
    connection: &quinn::Connection,
    keys: &Arc<AgentKeys>,
    record: SignedKeyRecord,
    token: &EnrolmentToken,
) -> Result<Result<Enrolment, u16>, LoginEnd> {
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
                Ok(match login_on(connection, keys, &mut send, &mut receive).await {
                    Ok(_) => Ok(Enrolment::Known),
                    Err(LoginEnd::Refused(_)) => Err(number),
                    Err(end) => return Err(end),
                })
            }
            Enrolled::Refused(number) => Ok(Err(number)),
        },
        FrameType::Reject => Err(LoginEnd::Refused(stream::refusal(&answer.body)?.code)),
        _ => Err(StreamEnd::Broken(RejectCode::FrameUnexpected).into()),
    }
}
