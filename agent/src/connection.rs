//! One connection: dial, export, sign, log in.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use creto_envelope::control::{LOGIN_EXPORTER_LABEL, Login, LoginAccepted, StreamOpen, StreamRole, login_statement};
use creto_envelope::{FrameType, RejectCode};
use quinn::{ConnectionError, Endpoint, RecvStream, SendStream};
use tokio::time::timeout;

use crate::error::ConnectError;
use crate::keys::AgentKeys;
use crate::stream::{self, StreamEnd};
use crate::tls::{self, NodeCertificate};
use crate::worker::offload;

/// TLS alert `unknown_ca` (RFC 8446 section 6): what the pinned verifier answers to another certificate.
const ALERT_UNKNOWN_CA: u8 = 48;

/// Makes connections to one node, over one socket.
#[derive(Clone, Debug)]
pub(crate) struct Dialer {
    endpoint: Endpoint,
    config: quinn::ClientConfig,
    pub(crate) node: SocketAddr,
}

/// Any port of this machine from which a node can be reached.
fn any_of(node: SocketAddr) -> SocketAddr {
    match node {
        SocketAddr::V4(_) => ([0, 0, 0, 0], 0).into(),
        SocketAddr::V6(_) => ([0_u16; 8], 0).into(),
    }
}

impl Dialer {
    pub(crate) fn new(
        node: SocketAddr,
        certificate: &NodeCertificate,
        idle_timeout: Duration,
    ) -> Result<Self, ConnectError> {
        let endpoint = Endpoint::client(any_of(node)).map_err(|error| ConnectError::Socket(Arc::new(error)))?;
        Ok(Self { endpoint, config: tls::client_config(certificate, idle_timeout), node })
    }

    /// Goes on from another port, with all of its connections.
    pub(crate) fn rebind(&self) -> std::io::Result<()> {
        self.endpoint.rebind(std::net::UdpSocket::bind(any_of(self.node))?)
    }

    /// A connection without a login.
    pub(crate) async fn dial(&self, within: Duration) -> Result<quinn::Connection, ConnectError> {
        let connecting = self
            .endpoint
            .connect_with(self.config.clone(), self.node, "localhost")
            .map_err(|source| ConnectError::Address { node: self.node, source })?;
        match timeout(within, connecting).await {
            Err(_) | Ok(Err(ConnectionError::TimedOut)) => {
                Err(ConnectError::TimedOut { node: self.node, after: within })
            }
            Ok(Err(error)) => Err(self.lost(error)),
            Ok(Ok(connection)) => Ok(connection),
        }
    }

    /// Connects and logs in, both within the given time.
    pub(crate) async fn log_in(&self, keys: &Arc<AgentKeys>, within: Duration) -> Result<Session, ConnectError> {
        let connection = self.dial(within).await?;
        match timeout(within, log_in(&connection, keys)).await {
            Err(_) => Err(ConnectError::TimedOut { node: self.node, after: within }),
            Ok(Ok((control, accepted))) => Ok(Session { connection, control, accepted }),
            Ok(Err(end)) => Err(self.login_error(&connection, end)),
        }
    }

    /// What it means that a login, or what may come before it, ended like this.
    pub(crate) fn login_error(&self, connection: &quinn::Connection, end: LoginEnd) -> ConnectError {
        match end {
            LoginEnd::Refused(Ok(code)) => ConnectError::Refused(code),
            LoginEnd::Refused(Err(number)) => ConnectError::RefusedWith(number),
            LoginEnd::Stream(StreamEnd::Broken(code)) => ConnectError::Protocol(code),
            LoginEnd::Stream(StreamEnd::Ended) => match connection.close_reason() {
                Some(reason) => self.lost(reason),
                None => ConnectError::Protocol(RejectCode::FrameTruncated),
            },
        }
    }

    /// Names the reason for which a connection ended.
    pub(crate) fn lost(&self, source: ConnectionError) -> ConnectError {
        match &source {
            ConnectionError::TransportError(error) if error.code == quinn_code(ALERT_UNKNOWN_CA) => {
                ConnectError::Certificate { node: self.node }
            }
            ConnectionError::ApplicationClosed(closed) => {
                let code = u16::try_from(closed.error_code.into_inner()).ok().and_then(RejectCode::from_u16);
                code.map_or(ConnectError::Lost { node: self.node, source }, ConnectError::Refused)
            }
            _ => ConnectError::Lost { node: self.node, source },
        }
    }
}

fn quinn_code(alert: u8) -> quinn::TransportErrorCode {
    quinn::TransportErrorCode::crypto(alert)
}

/// A connection that is logged in.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) connection: quinn::Connection,
    pub(crate) control: (SendStream, RecvStream),
    pub(crate) accepted: LoginAccepted,
}

pub(crate) enum LoginEnd {
    Refused(Result<RejectCode, u16>),
    Stream(StreamEnd),
}

impl From<StreamEnd> for LoginEnd {
    fn from(end: StreamEnd) -> Self {
        Self::Stream(end)
    }
}

async fn log_in(
    connection: &quinn::Connection,
    keys: &Arc<AgentKeys>,
) -> Result<((SendStream, RecvStream), LoginAccepted), LoginEnd> {
    let (mut send, mut receive) = connection.open_bi().await.map_err(|_| StreamEnd::Ended)?;
    let mut frames = Vec::new();
    StreamOpen { role: StreamRole::Control }.encode(&mut frames);
    stream::write(&mut send, frames).await?;
    let accepted = login_on(connection, keys, &mut send, &mut receive).await?;
    Ok(((send, receive), accepted))
}

/// Logs in on a control stream that is open.
pub(crate) async fn login_on(
    connection: &quinn::Connection,
    keys: &Arc<AgentKeys>,
    send: &mut SendStream,
    receive: &mut RecvStream,
) -> Result<LoginAccepted, LoginEnd> {
    let exporter = exporter(connection)?;
    let mut frames = Vec::new();
    sign_login(keys, exporter).await.encode(&mut frames);
    stream::write(send, frames).await?;
    let answer = stream::read_frame(receive).await?;
    match answer.frame_type {
        FrameType::LoginAccepted => Ok(LoginAccepted::parse(&answer.body).map_err(StreamEnd::Broken)?),
        FrameType::Reject => Err(LoginEnd::Refused(stream::refusal(&answer.body)?.code)),
        _ => Err(StreamEnd::Broken(RejectCode::FrameUnexpected).into()),
    }
}

/// The exporter value of this connection, which nobody else has.
pub(crate) fn exporter(connection: &quinn::Connection) -> Result<[u8; 32], StreamEnd> {
    let mut exporter = [0; 32];
    connection
        .export_keying_material(&mut exporter, LOGIN_EXPORTER_LABEL, b"")
        .map_err(|_| StreamEnd::Broken(RejectCode::LoginBadSignature))?;
    Ok(exporter)
}

/// The Login frame of these keys for the connection with this exporter value.
pub(crate) async fn sign_login(keys: &Arc<AgentKeys>, exporter: [u8; 32]) -> Login {
    let keys = Arc::clone(keys);
    offload(move || {
        let statement = login_statement(&exporter, &keys.id(), keys.record_version());
        let signature = keys.sign(&statement);
        Login {
            agent: keys.id(),
            key_record_version: keys.record_version(),
            ed25519: signature.ed25519,
            ml_dsa_65: signature.ml_dsa_65,
        }
    })
    .await
}
