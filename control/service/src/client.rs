//! The HTTP API as typed calls, for the command line and for tests.
//!
//! ```no_run
//! # async fn example() -> Result<(), creto_service::client::ClientError> {
//! let client = creto_service::client::Client::new("/var/lib/creto/control.sock");
//! for agent in client.agents(Some("acme")).await? {
//!     println!("{} {}", agent.name, agent.state);
//! }
//! # Ok(())
//! # }
//! ```

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use creto_envelope::channel::{ChannelName, ChannelPattern, SignedChannelRecord};
use creto_envelope::{AgentId, AgentName, SignedKeyRecord};
use http_body_util::{BodyExt, Full, Limited};
use hyper::{Method, Request, StatusCode, header};
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use thiserror::Error;
use tokio::net::UnixStream;

use crate::api::{
    AgentInfo, AgentKeys, AgentPage, AgentPrekeys, ApiError, AuditPage, BackupBegun, BackupState, DecisionInfo,
    MailboxInfo, MailboxPage, MetricReading, PolicyInfo, Status, TOKEN_HEADER,
};
use crate::attributes::AttributesChange;
use crate::channels::{ChannelInfo, ChannelPage};
use crate::depths::MailboxDepths;
use crate::health::Readiness;
use crate::limits::{ANSWER_BYTES_MAX, CONNECTION_TIMEOUT};
use crate::mailboxes::MailboxChange;
use crate::states::{OrganizationChanged, StateChange};
use crate::svid::SvidEnrolment;
use crate::tokens::{EnrolmentToken, TokenInfo, TokenList, TokenMade, TokenWanted};

const TOKENS_PATH: &str = "/v1/tokens";
const SVIDS_PATH: &str = "/v1/svid-enrolments";

/// Why a call failed, and what to do next.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ClientError {
    /// nothing is at the socket's path
    #[error("no node runs here: {0} does not exist; start one with `creto serve`, or name its data folder")]
    SocketMissing(PathBuf),
    /// a socket without a process behind it
    #[error("the node is not running any more: nobody answers on {0}; start it again with `creto serve`")]
    NotRunning(PathBuf),
    /// the connection ended before the answer was there: what was asked may have been done
    #[error(
        "the node closed the connection before it had answered, it may be ending; see whether it runs, then look whether what you asked for was done"
    )]
    Closed,
    /// the socket belongs to another user
    #[error("{0} belongs to another user; run this command as the user that runs `creto serve`")]
    NotAllowed(PathBuf),
    /// the path is not usable as a socket
    #[error("cannot connect to {path}: {source}; check the path of the control socket in the configuration")]
    Connect {
        /// As given.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// no answer in time
    #[error("the node did not answer within {} s; look at its log, it may be out of disk", .0.as_secs())]
    Timeout(Duration),
    /// the node said no
    #[error("{}; {}", .error.message, .error.next)]
    Refused {
        /// HTTP status.
        status: u16,
        /// Code, message and next step, as the node gave them.
        error: ApiError,
    },
    /// the answer cannot be understood
    #[error("the node's answer cannot be understood ({0}); use the same version of `creto` on both sides")]
    Answer(String),
}

impl ClientError {
    /// The node's stable code, if it was the node that said no. [`crate::api::ErrorCode::as_str`] lists them.
    #[must_use]
    pub fn code(&self) -> Option<&str> {
        match self {
            Self::Refused { error, .. } => Some(&error.code),
            _ => None,
        }
    }
}

/// What [`Client::register`] did.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Registration {
    /// Whether the agent is new; otherwise the same record was registered before.
    pub created: bool,
    /// The agent as the directory has it.
    pub agent: AgentInfo,
}

/// Calls to the control service of one node. It holds no connection: every call opens its own.
#[derive(Clone, Debug)]
pub struct Client {
    socket_path: PathBuf,
    timeout: Duration,
}

impl Client {
    /// A client for the node whose control socket is at `socket_path`.
    #[must_use]
    pub fn new(socket_path: impl Into<PathBuf>) -> Self {
        Self { socket_path: socket_path.into(), timeout: CONNECTION_TIMEOUT }
    }

    /// The same client with another limit on the time of a call.
    #[must_use]
    pub fn with_timeout(self, timeout: Duration) -> Self {
        Self { timeout, ..self }
    }

    /// Where it connects to.
    #[must_use]
    pub fn socket_path(&self) -> &Path {
        &self.socket_path
    }

    /// Registers an agent. Doing it twice with the same record does no harm.
    ///
    /// # Errors
    /// [`ClientError::Refused`] with the node's reason, or why there was no answer.
    pub async fn register(&self, signed: &SignedKeyRecord) -> Result<Registration, ClientError> {
        self.register_bytes(signed.to_bytes().into()).await
    }

    /// As [`Client::register`], for a record that is at hand as bytes.
    ///
    /// # Errors
    /// As [`Client::register`].
    pub async fn register_bytes(&self, signed: Bytes) -> Result<Registration, ClientError> {
        let (status, agent) = self.call(Method::POST, "/v1/agents", signed).await?;
        Ok(Registration { created: status == StatusCode::CREATED, agent })
    }

    /// Registers an agent with a token for enrolment, which a node may demand.
    ///
    /// # Errors
    /// As [`Client::register`], and the codes `token_unknown`, `token_expired`, `token_used`, `token_scope`, and `record_purpose` for
    /// a record that was not signed for this token.
    pub async fn enrol(&self, signed: &SignedKeyRecord, token: &EnrolmentToken) -> Result<Registration, ClientError> {
        let exchange = self.exchange(Method::POST, "/v1/agents", signed.to_bytes().into(), Some(token));
        let (status, body) = self.in_time(exchange).await?;
        let agent = answer(status, &body)?;
        Ok(Registration { created: status == StatusCode::CREATED, agent })
    }

    /// Registers an agent with what the key of an X.509-SVID has signed, see [`Svid::enrolment`](crate::svid::Svid::enrolment).
    ///
    /// # Errors
    /// As [`Client::register`], and the codes that begin with `svid_`.
    pub async fn enrol_with_svid(&self, enrolment: &SvidEnrolment) -> Result<Registration, ClientError> {
        let body = serde_json::to_vec(enrolment).expect("texts and numbers become JSON");
        let (status, agent) = self.call(Method::POST, SVIDS_PATH, body.into()).await?;
        Ok(Registration { created: status == StatusCode::CREATED, agent })
    }

    /// Makes a token for enrolment. The answer has its text, which is told once.
    ///
    /// # Errors
    /// [`ClientError::Refused`] with code `token_range` or `tokens_full`, or why there was no answer.
    pub async fn make_token(&self, wanted: &TokenWanted) -> Result<TokenMade, ClientError> {
        let body = serde_json::to_vec(wanted).expect("texts and numbers become JSON");
        self.call(Method::POST, TOKENS_PATH, body.into()).await.map(|(_, body)| body)
    }

    /// Every token there is, used up and over ones that are not forgotten yet too, without their texts.
    ///
    /// # Errors
    /// Why there was no answer.
    pub async fn tokens(&self) -> Result<Vec<TokenInfo>, ClientError> {
        self.get(TOKENS_PATH).await.map(|list: TokenList| list.tokens)
    }

    /// Withdraws a token: nobody is registered with it any more.
    ///
    /// # Errors
    /// [`ClientError::Refused`] with code `token_id_unknown`, or why there was no answer.
    pub async fn withdraw_token(&self, id: &str) -> Result<TokenInfo, ClientError> {
        let mut path = format!("{TOKENS_PATH}/");
        push_escaped(&mut path, id);
        self.call(Method::DELETE, &path, Bytes::new()).await.map(|(_, body)| body)
    }

    /// The agent with this name.
    ///
    /// # Errors
    /// [`ClientError::Refused`] with code `agent_unknown`, or why there was no answer.
    pub async fn agent(&self, name: &AgentName) -> Result<AgentInfo, ClientError> {
        self.get(&format!("/v1/agents/{name}")).await
    }

    /// Sets an agent's type, roles or capabilities; says what it is then. It is durable, and the shards have it.
    ///
    /// # Errors
    /// [`ClientError::Refused`] with code `agent_unknown` or `attribute_range`, or why there was no answer.
    pub async fn set_attributes(&self, name: &AgentName, change: &AttributesChange) -> Result<AgentInfo, ClientError> {
        let body = serde_json::to_vec(change).expect("texts become JSON");
        self.call(Method::PATCH, &format!("/v1/agents/{name}"), body.into()).await.map(|(_, body)| body)
    }

    /// Suspends, resumes or revokes an agent; says what it is then. It is durable, and the shards were told.
    ///
    /// # Errors
    /// [`ClientError::Refused`] with code `agent_unknown`, `agent_revoked` or `state_range`, or why there was no answer.
    pub async fn set_state(&self, name: &AgentName, change: &StateChange) -> Result<AgentInfo, ClientError> {
        let body = serde_json::to_vec(change).expect("texts become JSON");
        self.call(Method::PUT, &format!("/v1/agents/{name}/state"), body.into()).await.map(|(_, body)| body)
    }

    /// The same for the agents of an organization whose names follow on `after`, at most
    /// [`STATE_CHANGES_MAX`](crate::limits::STATE_CHANGES_MAX) of them, in one transaction. While the answer has a
    /// `next_after`, there are more.
    ///
    /// # Errors
    /// [`ClientError::Refused`] with code `organization_unknown` or `state_range`, or why there was no answer.
    pub async fn set_organization_state(
        &self,
        organization: &str,
        after: Option<&str>,
        change: &StateChange,
    ) -> Result<OrganizationChanged, ClientError> {
        let mut path = "/v1/organizations/".to_owned();
        push_escaped(&mut path, organization);
        let body = serde_json::to_vec(change).expect("texts become JSON");
        let path = page_path(&format!("{path}/state"), None, after, None);
        self.call(Method::PUT, &path, body.into()).await.map(|(_, body)| body)
    }

    /// The signed key record of an agent with this version. Its signatures were not verified here.
    ///
    /// # Errors
    /// [`ClientError::Refused`] with code `record_unknown`, or why there was no answer.
    pub async fn key_record(&self, agent: AgentId, version: u32) -> Result<SignedKeyRecord, ClientError> {
        let path = format!("/v1/key-records/{agent}/{version}");
        let (status, body) = self.exchange_in_time(Method::GET, &path, Bytes::new()).await?;
        if !status.is_success() {
            return Err(refusal(status, &body));
        }
        SignedKeyRecord::parse(&body).map_err(|code| ClientError::Answer(format!("not a key record: {code}")))
    }

    /// The versions of an agent's key record, the current one first.
    ///
    /// # Errors
    /// As [`Client::agent`].
    pub async fn keys(&self, name: &AgentName) -> Result<AgentKeys, ClientError> {
        self.get(&format!("/v1/agents/{name}/keys")).await
    }

    /// Events of the audit log from leaf `from` on, at most `limit`.
    ///
    /// # Errors
    /// [`ClientError::Refused`] with code `audit_unavailable`, or why there was no answer.
    pub async fn audit_events(&self, from: u64, limit: usize) -> Result<AuditPage, ClientError> {
        self.get(&format!("/v1/audit/events?from={from}&limit={limit}")).await
    }

    /// A leaf of the audit log with its proof, in the form of `docs/audit-format.md`. It was not verified here.
    ///
    /// # Errors
    /// [`ClientError::Refused`] with code `leaf_unknown` or `audit_unavailable`, or why there was no answer.
    pub async fn audit_proof(&self, leaf: u64) -> Result<String, ClientError> {
        self.text(&format!("/v1/audit/proofs/{leaf}")).await
    }

    /// The newest checkpoint of the audit log: a signed note. It was not verified here.
    ///
    /// # Errors
    /// As [`Client::audit_events`].
    pub async fn audit_checkpoint(&self) -> Result<String, ClientError> {
        self.text("/v1/audit/checkpoint").await
    }

    /// The public keys of the audit log, as this node says; keep them, or another log's may come the next time.
    ///
    /// # Errors
    /// As [`Client::audit_events`].
    pub async fn audit_keys(&self) -> Result<String, ClientError> {
        self.text("/v1/audit/keys").await
    }

    async fn text(&self, path: &str) -> Result<String, ClientError> {
        let (status, body) = self.exchange_in_time(Method::GET, path, Bytes::new()).await?;
        if !status.is_success() {
            return Err(refusal(status, &body));
        }
        String::from_utf8(body.into()).map_err(|_| ClientError::Answer("not text".to_owned()))
    }

    /// What is left of an agent's prekeys.
    ///
    /// # Errors
    /// As [`Client::agent`].
    pub async fn prekeys(&self, name: &AgentName) -> Result<AgentPrekeys, ClientError> {
        self.get(&format!("/v1/agents/{name}/prekeys")).await
    }

    /// All agents, of one organization or of every one, by name.
    ///
    /// # Errors
    /// Why there was no answer.
    pub async fn agents(&self, organization: Option<&str>) -> Result<Vec<AgentInfo>, ClientError> {
        let mut agents = Vec::new();
        let mut after: Option<String> = None;
        loop {
            let page = self.agents_page(organization, after.as_deref(), None).await?;
            agents.extend(page.agents);
            match page.next_after {
                Some(next) if after.as_deref() < Some(next.as_str()) => after = Some(next),
                Some(_) => return Err(ClientError::Answer("the list of agents does not advance".to_owned())),
                None => return Ok(agents),
            }
        }
    }

    /// One page of agents: those after the name `after`, at most `limit` of them.
    ///
    /// # Errors
    /// Why there was no answer.
    pub async fn agents_page(
        &self,
        organization: Option<&str>,
        after: Option<&str>,
        limit: Option<usize>,
    ) -> Result<AgentPage, ClientError> {
        self.get(&page_path("/v1/agents", organization, after, limit)).await
    }

    /// What is set for all mailboxes, of one organization or of every one, by name.
    ///
    /// # Errors
    /// Why there was no answer.
    pub async fn mailboxes(&self, organization: Option<&str>) -> Result<Vec<MailboxInfo>, ClientError> {
        let mut mailboxes = Vec::new();
        let mut after: Option<String> = None;
        loop {
            let path = page_path("/v1/mailboxes", organization, after.as_deref(), None);
            let page: MailboxPage = self.get(&path).await?;
            mailboxes.extend(page.mailboxes);
            match page.next_after {
                Some(next) if after.as_deref() < Some(next.as_str()) => after = Some(next),
                Some(_) => return Err(ClientError::Answer("the list of mailboxes does not advance".to_owned())),
                None => return Ok(mailboxes),
            }
        }
    }

    /// What is set for the mailbox of the agent with this name.
    ///
    /// # Errors
    /// As [`Client::agent`].
    pub async fn mailbox(&self, name: &AgentName) -> Result<MailboxInfo, ClientError> {
        self.get(&format!("/v1/mailboxes/{name}")).await
    }

    /// Sets what a mailbox may hold, from now on; says what is set then. It is durable, and the shards have it.
    ///
    /// # Errors
    /// [`ClientError::Refused`] with code `agent_unknown` or `setting_range`, or why there was no answer.
    pub async fn set_mailbox(&self, name: &AgentName, change: &MailboxChange) -> Result<MailboxInfo, ClientError> {
        let body = serde_json::to_vec(change).expect("numbers and names become JSON");
        self.call(Method::PATCH, &format!("/v1/mailboxes/{name}"), body.into()).await.map(|(_, body)| body)
    }

    /// Creates, changes or deletes a channel: hands in what its owner has signed. Doing it twice does no harm.
    ///
    /// # Errors
    /// [`ClientError::Refused`] with the node's reason, such as `channel_version`, or why there was no answer.
    pub async fn put_channel(&self, signed: &SignedChannelRecord) -> Result<ChannelInfo, ClientError> {
        self.call(Method::POST, "/v1/channels", signed.to_bytes().into()).await.map(|(_, channel)| channel)
    }

    /// The channel with this name.
    ///
    /// # Errors
    /// [`ClientError::Refused`] with code `channel_unknown`, or why there was no answer.
    pub async fn channel(&self, name: &ChannelName) -> Result<ChannelInfo, ClientError> {
        self.get(&format!("/v1/channels/{name}")).await
    }

    /// Every channel whose name fits, or every one, by name, without the names that they list.
    ///
    /// # Errors
    /// Why there was no answer.
    pub async fn channels(&self, pattern: Option<&ChannelPattern>) -> Result<Vec<ChannelInfo>, ClientError> {
        let mut channels = Vec::new();
        let mut after: Option<String> = None;
        loop {
            let mut path = "/v1/channels?".to_owned();
            for (name, value) in [("pattern", pattern.map(ChannelPattern::as_str)), ("after", after.as_deref())] {
                path.extend(value.map(|value| format!("{name}={value}&")));
            }
            let page: ChannelPage = self.get(&path[..path.len() - 1]).await?;
            channels.extend(page.channels);
            match page.next_after {
                Some(next) if after.as_deref() < Some(next.as_str()) => after = Some(next),
                Some(_) => return Err(ClientError::Answer("the list of channels does not advance".to_owned())),
                None => return Ok(channels),
            }
        }
    }

    /// The signed record of the channel with this name, of a deleted one, too.
    ///
    /// # Errors
    /// As [`Client::channel`].
    pub async fn channel_record(&self, name: &ChannelName) -> Result<SignedChannelRecord, ClientError> {
        let path = format!("/v1/channel-records/{name}");
        let (status, body) = self.exchange_in_time(Method::GET, &path, Bytes::new()).await?;
        if !status.is_success() {
            return Err(refusal(status, &body));
        }
        SignedChannelRecord::parse(&body).map_err(|code| ClientError::Answer(format!("not a channel record: {code}")))
    }

    /// How the service is.
    ///
    /// # Errors
    /// Why there was no answer.
    pub async fn status(&self) -> Result<Status, ClientError> {
        self.get("/v1/status").await
    }

    /// What the node counts and measures, now.
    ///
    /// # Errors
    /// Why there was no answer.
    pub async fn metrics(&self) -> Result<Vec<MetricReading>, ClientError> {
        self.get("/v1/metrics").await
    }

    /// The policy in force.
    ///
    /// # Errors
    /// Why there was no answer.
    pub async fn policy(&self) -> Result<PolicyInfo, ClientError> {
        self.get("/v1/policy").await
    }

    /// Has the node read its file of policy again; says what is in force then.
    ///
    /// # Errors
    /// [`ClientError::Refused`] with code `policy_refused` or `policy_not_configured`, or why there was no answer.
    pub async fn reload_policy(&self) -> Result<PolicyInfo, ClientError> {
        self.call(Method::POST, "/v1/policy/reload", Bytes::new()).await.map(|(_, body)| body)
    }

    /// What the node decides about two agents, and why.
    ///
    /// # Errors
    /// [`ClientError::Refused`] with code `agent_unknown` or `action_unknown`, or why there was no answer.
    pub async fn explain(&self, from: &AgentName, action: &str, to: &AgentName) -> Result<DecisionInfo, ClientError> {
        let mut path = format!("/v1/policy/explain?from={from}&action=");
        push_escaped(&mut path, action);
        path.push_str(&format!("&to={to}"));
        self.get(&path).await
    }

    /// Has the node hold its logs and copy its directory for a backup.
    ///
    /// # Errors
    /// [`ClientError::Refused`] with code `backup_running` or `backup_unavailable`, or why there was no answer.
    pub async fn begin_backup(&self) -> Result<BackupBegun, ClientError> {
        self.call(Method::POST, "/v1/backups", Bytes::new()).await.map(|(_, body)| body)
    }

    /// Has the node hold its logs on; says where the copy of the directory is, once it is complete.
    ///
    /// # Errors
    /// [`ClientError::Refused`] with code `backup_over`, or why there was no answer: what was copied is worthless then.
    pub async fn renew_backup(&self, id: &str) -> Result<BackupState, ClientError> {
        self.call(Method::POST, &format!("/v1/backups/{id}"), Bytes::new()).await.map(|(_, body)| body)
    }

    /// Ends a backup. Only a success says that everything was held until now, and what was copied is one backup.
    ///
    /// # Errors
    /// As [`Client::renew_backup`].
    pub async fn end_backup(&self, id: &str) -> Result<(), ClientError> {
        let ended: Result<(_, BackupState), _> =
            self.call(Method::DELETE, &format!("/v1/backups/{id}"), Bytes::new()).await;
        ended.map(drop)
    }

    /// The same for one that is not complete and not wanted any more.
    ///
    /// # Errors
    /// As [`Client::renew_backup`].
    pub async fn give_up_backup(&self, id: &str) -> Result<(), ClientError> {
        let ended: Result<(_, BackupState), _> =
            self.call(Method::DELETE, &format!("/v1/backups/{id}?given_up=true"), Bytes::new()).await;
        ended.map(drop)
    }

    /// Whether the node serves, shard by shard.
    ///
    /// # Errors
    /// Why there was no answer.
    pub async fn readiness(&self) -> Result<Readiness, ClientError> {
        let (status, body) = self.exchange_in_time(Method::GET, "/v1/ready", Bytes::new()).await?;
        match status {
            StatusCode::OK | StatusCode::SERVICE_UNAVAILABLE => {
                serde_json::from_slice(&body).map_err(|error| unreadable(status, &error))
            }
            _ => Err(refusal(status, &body)),
        }
    }

    /// What the node answers to a GET of this path, as it is, refusals too: for whoever passes it on.
    ///
    /// # Errors
    /// Why there was no answer.
    pub async fn fetch(&self, path: &str) -> Result<(u16, Bytes), ClientError> {
        let (status, body) = self.exchange_in_time(Method::GET, path, Bytes::new()).await?;
        Ok((status.as_u16(), body))
    }

    /// The mailboxes and channels in which most waits.
    ///
    /// # Errors
    /// Why there was no answer.
    pub async fn fullest_mailboxes(&self) -> Result<MailboxDepths, ClientError> {
        self.get("/v1/mailboxes/fullest").await
    }

    async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, ClientError> {
        self.call(Method::GET, path, Bytes::new()).await.map(|(_, body)| body)
    }

    async fn call<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> Result<(StatusCode, T), ClientError> {
        let (status, body) = self.exchange_in_time(method, path, body).await?;
        answer(status, &body).map(|body| (status, body))
    }

    async fn exchange_in_time(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> Result<(StatusCode, Bytes), ClientError> {
        self.in_time(self.exchange(method, path, body, None)).await
    }

    async fn in_time<T>(&self, call: impl Future<Output = Result<T, ClientError>>) -> Result<T, ClientError> {
        tokio::time::timeout(self.timeout, call).await.map_err(|_| ClientError::Timeout(self.timeout))?
    }

    async fn exchange(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
        token: Option<&EnrolmentToken>,
    ) -> Result<(StatusCode, Bytes), ClientError> {
        let stream = UnixStream::connect(&self.socket_path).await.map_err(|source| self.connect_error(source))?;
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(broken)?;
        let mut request = Request::builder().method(method.clone()).uri(path).header(header::HOST, "creto");
        let content_type = match method {
            Method::POST if [TOKENS_PATH, SVIDS_PATH].contains(&path) => Some("application/json"),
            Method::POST => Some("application/octet-stream"),
            Method::PATCH | Method::PUT => Some("application/json"),
            _ => None,
        };
        if let Some(content_type) = content_type {
            request = request.header(header::CONTENT_TYPE, content_type);
        }
        if let Some(token) = token {
            request = request.header(TOKEN_HEADER, token.text().as_str());
        }
        let request = request.body(Full::new(body)).map_err(|error| ClientError::Answer(error.to_string()))?;
        let answer = async {
            let answer = sender.send_request(request).await.map_err(broken)?;
            let status = answer.status();
            let body = Limited::new(answer.into_body(), ANSWER_BYTES_MAX).collect().await;
            let body = body.map_err(|error| match error.downcast() {
                Ok(error) => broken(*error),
                Err(error) => ClientError::Answer(error.to_string()),
            })?;
            let body = body.to_bytes();
            Ok((status, body))
        };
        // The connection moves the bytes; it is polled beside the answer, so nothing outlives this call.
        tokio::pin!(answer);
        tokio::select! {
            answer = &mut answer => answer,
            ended = connection => match ended {
                // The server may close once the answer is sent; what it sent is still to be read.
                Ok(()) => answer.await,
                Err(error) => Err(broken(error)),
            },
        }
    }

    fn connect_error(&self, source: io::Error) -> ClientError {
        let path = self.socket_path.clone();
        match source.kind() {
            io::ErrorKind::NotFound => ClientError::SocketMissing(path),
            io::ErrorKind::ConnectionRefused => ClientError::NotRunning(path),
            io::ErrorKind::PermissionDenied => ClientError::NotAllowed(path),
            _ => ClientError::Connect { path, source },
        }
    }
}

/// The path of a page of a list.
fn page_path(list: &str, organization: Option<&str>, after: Option<&str>, limit: Option<usize>) -> String {
    let mut path = list.to_owned();
    let limit = limit.map(|limit| limit.to_string());
    for (name, value) in [("organization", organization), ("after", after), ("limit", limit.as_deref())] {
        if let Some(value) = value {
            path.push(if path.contains('?') { '&' } else { '?' });
            path.push_str(name);
            path.push('=');
            push_escaped(&mut path, value);
        }
    }
    path
}

/// The body of an answer that is a success.
fn answer<T: DeserializeOwned>(status: StatusCode, body: &[u8]) -> Result<T, ClientError> {
    if status.is_success() {
        serde_json::from_slice(body).map_err(|error| unreadable(status, &error))
    } else {
        Err(refusal(status, body))
    }
}

/// An answer that is not a success.
fn refusal(status: StatusCode, body: &[u8]) -> ClientError {
    match serde_json::from_slice(body) {
        Ok(error) => ClientError::Refused { status: status.as_u16(), error },
        Err(error) => unreadable(status, &error),
    }
}

/// A connection that ended early is told apart from bytes that are no answer.
fn broken(error: hyper::Error) -> ClientError {
    let closed = error.is_canceled() || error.is_closed() || error.is_incomplete_message();
    let system = std::error::Error::source(&error).is_some_and(|source| source.is::<io::Error>());
    if closed || system { ClientError::Closed } else { ClientError::Answer(error.to_string()) }
}

fn unreadable(status: StatusCode, error: &serde_json::Error) -> ClientError {
    ClientError::Answer(format!("status {status}: {error}"))
}

/// Percent-encodes what is not unreserved (RFC 3986 section 2.3), except the slash, which a query may hold.
fn push_escaped(path: &mut String, value: &str) {
    for byte in value.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~/".contains(&byte) {
            path.push(char::from(byte));
        } else {
            path.push_str(&format!("%{byte:02X}"));
        }
    }
}
