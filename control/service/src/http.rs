//! The HTTP API: one request per connection, bounded in number, size and time.

use std::convert::Infallible;
use std::path::PathBuf;
use std::sync::Arc;

use axum::Router;
use axum::body::Bytes;
use axum::extract::rejection::{BytesRejection, FailedToBufferBody, QueryRejection};
use axum::extract::{DefaultBodyLimit, Path, Query, Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Json, Response};
use axum::routing::{delete, get, post, put};
use creto_envelope::{AgentId, AgentName};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use serde::Deserialize;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, mpsc, oneshot, watch};
use tokio::task::JoinSet;

use crate::api::{
    AgentInfo, AgentKeys, AgentPage, ApiError, BackupBegun, BackupState, ErrorCode, MailboxInfo, MailboxPage, Status,
    TOKEN_HEADER,
};
use crate::attributes::{AttributesChange, AttributesRequest};
use crate::backup::{self, Backups, NotHeld};
use crate::directory::{
    AttributesSet, Change, EnrolRequest, MailboxSet, Reader, Registered, StatesSet, TokenChange, TokenSet,
};
use crate::error::ServiceError;
use crate::health::{Health, Readiness};
use crate::limits::{
    ATTRIBUTES_BODY_BYTES_MAX, BACKUP_LEASE, CONNECTION_TIMEOUT, CONNECTIONS_MAX, HEAD_BYTES_MAX, HEAD_TIMEOUT,
    PAGE_AGENTS_MAX, REQUEST_TIMEOUT, SHUTDOWN_TIMEOUT, SIGNED_KEY_RECORD_BYTES_MAX, SVID_BODY_BYTES_MAX,
};
use crate::mailboxes::{MailboxChange, MailboxDefaults, MailboxRequest};
use crate::policy::{DecisionHost, InForce, Reload};
use crate::registration::Registration;
use crate::service::{Published, wall_clock_ms};
use crate::states::{OrganizationChanged, StateChange, StateRequest, Whose};
use crate::tokens::{Enrolment, EnrolmentToken, TokenHash, TokenInfo, TokenList, TokenMade, TokenWanted};
use crate::writer::{Answer, Pending};

mod policy;
mod svid;

/// What every request can reach.
#[derive(Clone)]
pub(crate) struct Api {
    pub(crate) reader: Reader,
    pub(crate) key_grace_ms: u64,
    pub(crate) mailbox_defaults: MailboxDefaults,
    pub(crate) enrolment: Enrolment,
    pub(crate) spiffe_bundle: Option<PathBuf>,
    /// Set while the writer runs.
    pub(crate) changes: Option<mpsc::Sender<Pending>>,
    pub(crate) policy: InForce,
    pub(crate) reloads: mpsc::WeakSender<Reload>,
    pub(crate) snapshot: Published,
    pub(crate) decisions: Option<Arc<dyn DecisionHost>>,
    pub(crate) backups: Option<Arc<Backups>>,
    pub(crate) started_at_ms: u64,
    pub(crate) health: Health,
}

/// Serves until `stopped` resolves, then calls `closed`, finishes what is under way, and says how many requests had
/// to be cut off.
pub(crate) async fn serve(
    listener: UnixListener,
    api: Api,
    mut stopped: oneshot::Receiver<()>,
    closed: impl FnOnce(),
) -> usize {
    let router = router(api);
    let permits = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let mut connections = JoinSet::new();
    let (stopping, stopping_seen) = watch::channel(());
    loop {
        // The permit first: who is over the limit waits in the backlog, not in our memory.
        let accepted = async {
            let permit = Arc::clone(&permits).acquire_owned().await.expect("the semaphore is never closed");
            (permit, listener.accept().await)
        };
        let (permit, stream) = tokio::select! {
            biased;
            _ = &mut stopped => break,
            (permit, accepted) = accepted => match accepted {
                Ok((stream, _)) => (permit, stream),
                Err(error) => {
                    // Out of file descriptors, most likely: one of ours must end before the next try can do better.
                    tracing::warn!(%error, "a control connection was not accepted");
                    drop(permit);
                    tokio::select! {
                        _ = &mut stopped => break,
                        ended = connections.join_next() => if ended.is_none() {
                            tokio::time::sleep(HEAD_TIMEOUT).await;
                        },
                    }
                    continue;
                }
            },
        };
        while connections.try_join_next().is_some() {}
        if !is_own_user(&stream) {
            tracing::warn!("a control connection of another user was refused");
            continue;
        }
        let (router, stopping) = (router.clone(), stopping_seen.clone());
        connections.spawn(async move {
            serve_connection(stream, router, stopping).await;
            drop(permit);
        });
    }
    drop(listener);
    closed();
    drop((router, stopping));
    let all_ended = async { while connections.join_next().await.is_some() {} };
    if tokio::time::timeout(SHUTDOWN_TIMEOUT, all_ended).await.is_ok() {
        return 0;
    }
    let cut_off = connections.len();
    connections.shutdown().await;
    cut_off
}

async fn serve_connection(stream: UnixStream, router: Router, mut stopping: watch::Receiver<()>) {
    let connection = hyper::server::conn::http1::Builder::new()
        .keep_alive(false)
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(HEAD_BYTES_MAX)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    let exchange = async {
        tokio::pin!(connection);
        tokio::select! {
            ended = &mut connection => ended,
            // Closes at once if nothing was asked yet, and after the answer otherwise.
            _ = stopping.changed() => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        }
    };
    match tokio::time::timeout(CONNECTION_TIMEOUT, exchange).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!(%error, "a control connection ended early"),
        Err(_) => tracing::debug!("a control connection was closed because it took too long"),
    }
}

/// The mode of the socket says the same; this holds also where a file system does not care about modes.
fn is_own_user(stream: &UnixStream) -> bool {
    let own_uid = rustix::process::geteuid().as_raw();
    stream.peer_cred().is_ok_and(|peer| peer.uid() == own_uid || peer.uid() == 0)
}

fn router(api: Api) -> Router {
    Router::new()
        .route("/v1/status", get(status))
        .route("/v1/ready", get(ready))
        .route("/v1/agents", get(agents).post(register))
        .route(
            "/v1/agents/{organization}/{agent}",
            get(agent).patch(set_attributes).layer(DefaultBodyLimit::max(ATTRIBUTES_BODY_BYTES_MAX)),
        )
        .route("/v1/agents/{organization}/{agent}/state", put(set_state))
        .route("/v1/organizations/{organization}/state", put(set_states))
        .route("/v1/tokens", get(tokens).post(make_token))
        .route("/v1/tokens/{id}", delete(withdraw_token))
        .route("/v1/svid-enrolments", post(svid::enrol).layer(DefaultBodyLimit::max(SVID_BODY_BYTES_MAX)))
        .route("/v1/key-records/{agent}/{version}", get(key_record))
        .route("/v1/agents/{organization}/{agent}/keys", get(keys))
        .route("/v1/mailboxes", get(mailboxes))
        .route("/v1/mailboxes/{organization}/{agent}", get(mailbox).patch(set_mailbox))
        .route("/v1/policy", get(policy::in_force))
        .route("/v1/policy/reload", post(policy::reload))
        .route("/v1/policy/explain", get(policy::explain))
        .route("/v1/backups", post(begin_backup))
        .route("/v1/backups/{id}", post(renew_backup).delete(end_backup))
        .fallback(async |request: Request| {
            refuse(ErrorCode::PathUnknown, format!("there is no {}", request.uri().path()))
        })
        .method_not_allowed_fallback(async |request: Request| {
            refuse(ErrorCode::Method, format!("{} does not take {}", request.uri().path(), request.method()))
        })
        .layer(middleware::from_fn(limit_time))
        .layer(DefaultBodyLimit::max(SIGNED_KEY_RECORD_BYTES_MAX))
        .with_state(api)
}

async fn limit_time(request: Request, next: Next) -> Result<Response, Infallible> {
    let answer = tokio::time::timeout(REQUEST_TIMEOUT, next.run(request)).await;
    Ok(answer.unwrap_or_else(|_| {
        let message = format!("the request was not done after {} s", REQUEST_TIMEOUT.as_secs());
        refuse(ErrorCode::RequestTimeout, message).into_response()
    }))
}

async fn register(
    State(api): State<Api>,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Result<(StatusCode, Json<AgentInfo>), Refusal> {
    let body = body_of(&headers, body, "application/octet-stream", SIGNED_KEY_RECORD_BYTES_MAX)?;
    let registration = Registration::check(&body, api.reader.trust_domain(), wall_clock_ms())
        .map_err(|error| refuse(error.code(), error.to_string()))?;
    let change = match token_of(&headers, api.enrolment)? {
        Some(token) => Change::Enrol(EnrolRequest { registration, token }),
        None => Change::Register(registration),
    };
    answer_registered(&api, change).await
}

async fn answer_registered(api: &Api, change: Change) -> Result<(StatusCode, Json<AgentInfo>), Refusal> {
    let registered = written(api, change, Answer::Registration, "registrations").await?;
    let (status, entry) = match registered {
        Registered::Created(entry) => (StatusCode::CREATED, entry),
        Registered::Known(entry) => (StatusCode::OK, entry),
        Registered::Refused(code, message) => return Err(refuse(code, message)),
    };
    Ok((status, Json(known_agent(api, &entry.name)?)))
}

/// The token that a registration brings. One that is brought must be good, also where none is needed.
fn token_of(headers: &HeaderMap, enrolment: Enrolment) -> Result<Option<TokenHash>, Refusal> {
    let Some(token) = headers.get(TOKEN_HEADER) else {
        return match enrolment {
            Enrolment::Open => Ok(None),
            Enrolment::Token => Err(refuse(ErrorCode::TokenMissing, "this node registers agents with a token only")),
        };
    };
    let token = token.to_str().ok().and_then(EnrolmentToken::parse);
    // Never with its text: somebody may have mistyped a good one.
    let malformed = || refuse(ErrorCode::TokenUnknown, "this is no token for enrolment");
    token.map(|token| Some(token.hash())).ok_or_else(malformed)
}

async fn make_token(
    State(api): State<Api>,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Result<(StatusCode, Json<TokenMade>), Refusal> {
    let body = body_of(&headers, body, "application/json", SIGNED_KEY_RECORD_BYTES_MAX)?;
    let wanted: TokenWanted = serde_json::from_slice(&body)
        .map_err(|error| refuse(ErrorCode::TokenMalformed, format!("what is wanted cannot be read: {error}")))?;
    let row = wanted.row(wall_clock_ms()).map_err(|error| refuse(ErrorCode::TokenRange, error.to_string()))?;
    let token = EnrolmentToken::generate().map_err(|error| {
        tracing::error!(%error, "no token could be made");
        storage_failed("the system gave no randomness for a token")
    })?;
    let change = Change::Token(TokenChange::Make(token.hash(), row));
    match written(&api, change, Answer::Token, "tokens").await? {
        TokenSet::Done(info) => {
            let token = token.text().to_string();
            Ok((StatusCode::CREATED, Json(TokenMade { token, info })))
        }
        TokenSet::Full | TokenSet::Unknown => {
            Err(refuse(ErrorCode::TokensFull, "there are as many tokens as there may be, and all can be used"))
        }
    }
}

async fn tokens(State(api): State<Api>) -> Result<Json<TokenList>, Refusal> {
    Ok(Json(TokenList { tokens: api.reader.tokens().map_err(log_failure)? }))
}

async fn withdraw_token(State(api): State<Api>, Path(id): Path<String>) -> Result<Json<TokenInfo>, Refusal> {
    let change = Change::Token(TokenChange::Withdraw(id.clone()));
    match written(&api, change, Answer::Token, "tokens").await? {
        TokenSet::Done(info) => Ok(Json(info)),
        TokenSet::Full | TokenSet::Unknown => Err(refuse(ErrorCode::TokenIdUnknown, format!("there is no token {id}"))),
    }
}

/// The whole body, if it is declared as what it must be.
fn body_of(
    headers: &HeaderMap,
    body: Result<Bytes, BytesRejection>,
    declared: &'static str,
    bytes_max: usize,
) -> Result<Bytes, Refusal> {
    let body = body.map_err(|rejection| match rejection {
        BytesRejection::FailedToBufferBody(FailedToBufferBody::LengthLimitError(_)) => refuse(
            ErrorCode::BodyTooLarge,
            format!("the body is larger than {bytes_max} bytes, the most that can be meant"),
        ),
        other => refuse(ErrorCode::BodyIncomplete, format!("the body could not be read: {}", other.body_text())),
    })?;
    let content_type = headers.get(header::CONTENT_TYPE).map(|value| value.as_bytes());
    if content_type != Some(declared.as_bytes()) {
        return Err(refuse(ErrorCode::ContentType, format!("the body is not declared as {declared}")));
    }
    Ok(body)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PageQuery {
    organization: Option<String>,
    after: Option<String>,
    limit: Option<usize>,
}

async fn agents(
    State(api): State<Api>,
    query: Result<Query<PageQuery>, QueryRejection>,
) -> Result<Json<AgentPage>, Refusal> {
    let Query(query) = query.map_err(|rejection| refuse(ErrorCode::QueryInvalid, rejection.body_text()))?;
    let limit = query.limit.unwrap_or(PAGE_AGENTS_MAX);
    let page = api.reader.page(query.organization.as_deref(), query.after.as_deref(), limit).map_err(log_failure)?;
    Ok(Json(page))
}

async fn agent(
    State(api): State<Api>,
    Path((organization, agent)): Path<(String, String)>,
) -> Result<Json<AgentInfo>, Refusal> {
    known_agent(&api, &agent_name(&organization, &agent)?).map(Json)
}

fn known_agent(api: &Api, name: &AgentName) -> Result<AgentInfo, Refusal> {
    api.reader.agent(name).map_err(log_failure)?.ok_or_else(|| unknown_agent(name))
}

async fn set_attributes(
    State(api): State<Api>,
    Path((organization, agent)): Path<(String, String)>,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Result<Json<AgentInfo>, Refusal> {
    let name = agent_name(&organization, &agent)?;
    let body = body_of(&headers, body, "application/json", ATTRIBUTES_BODY_BYTES_MAX)?;
    let change: AttributesChange = serde_json::from_slice(&body)
        .map_err(|error| refuse(ErrorCode::AttributesMalformed, format!("the attributes cannot be read: {error}")))?;
    let agent = AgentId::derive(api.reader.trust_domain(), &name);
    let change = Change::Attributes(AttributesRequest { agent, change });
    match written(&api, change, Answer::Attributes, "attributes").await? {
        AttributesSet::Changed(_) | AttributesSet::Same => known_agent(&api, &name).map(Json),
        AttributesSet::Unknown => Err(unknown_agent(&name)),
        AttributesSet::Refused(error) => Err(refuse(ErrorCode::AttributeRange, error.to_string())),
    }
}

async fn set_state(
    State(api): State<Api>,
    Path((organization, agent)): Path<(String, String)>,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Result<Json<AgentInfo>, Refusal> {
    let name = agent_name(&organization, &agent)?;
    let whose = Whose::Agent(AgentId::derive(api.reader.trust_domain(), &name));
    match change_states(&api, whose, &headers, body).await? {
        StatesSet::Done(_) => known_agent(&api, &name).map(Json),
        StatesSet::Unknown => Err(unknown_agent(&name)),
        StatesSet::Final => Err(refuse(ErrorCode::AgentRevoked, format!("{name} was revoked"))),
        StatesSet::Refused(error) => Err(refuse(ErrorCode::StateRange, error.to_string())),
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct AfterQuery {
    after: Option<String>,
}

async fn set_states(
    State(api): State<Api>,
    Path(organization): Path<String>,
    query: Result<Query<AfterQuery>, QueryRejection>,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Result<Json<OrganizationChanged>, Refusal> {
    let Query(AfterQuery { after }) =
        query.map_err(|rejection| refuse(ErrorCode::QueryInvalid, rejection.body_text()))?;
    let whose = Whose::Organization { name: organization.clone(), after };
    match change_states(&api, whose, &headers, body).await? {
        StatesSet::Done(done) => Ok(Json(done)),
        StatesSet::Unknown | StatesSet::Final => {
            Err(refuse(ErrorCode::OrganizationUnknown, format!("no agent is registered in {organization}")))
        }
        StatesSet::Refused(error) => Err(refuse(ErrorCode::StateRange, error.to_string())),
    }
}

async fn change_states(
    api: &Api,
    whose: Whose,
    headers: &HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Result<StatesSet, Refusal> {
    let body = body_of(headers, body, "application/json", SIGNED_KEY_RECORD_BYTES_MAX)?;
    let change: StateChange = serde_json::from_slice(&body)
        .map_err(|error| refuse(ErrorCode::StateMalformed, format!("the state cannot be read: {error}")))?;
    written(api, Change::State(StateRequest { whose, change }), Answer::State, "states").await
}

/// Hands a change to the writer, and waits until it is durable and the shards were given it.
async fn written<T>(
    api: &Api,
    change: Change,
    answer_as: impl FnOnce(oneshot::Sender<T>) -> Answer,
    what: &str,
) -> Result<T, Refusal> {
    let shutting_down = || refuse(ErrorCode::ShuttingDown, format!("the service takes no {what} any more"));
    let (answer, answered) = oneshot::channel();
    let changes = api.changes.as_ref().ok_or_else(shutting_down)?;
    let pending = Pending { change, answer: answer_as(answer) };
    changes.send(pending).await.map_err(|_| shutting_down())?;
    // No answer, because the sender was dropped, means that storage failed.
    answered.await.map_err(|_| storage_failed(&format!("the {what} were not stored")))
}

async fn key_record(
    State(api): State<Api>,
    Path((agent, version)): Path<(String, String)>,
) -> Result<impl IntoResponse, Refusal> {
    let unknown = || refuse(ErrorCode::RecordUnknown, format!("there is no key record {version} of agent {agent}"));
    let (id, number) = AgentId::parse_hex(&agent).zip(version.parse().ok()).ok_or_else(unknown)?;
    let record = api.reader.key_record(id, number).map_err(log_failure)?.ok_or_else(unknown)?;
    Ok(([(header::CONTENT_TYPE, "application/octet-stream")], record))
}

async fn keys(
    State(api): State<Api>,
    Path((organization, agent)): Path<(String, String)>,
) -> Result<Json<AgentKeys>, Refusal> {
    let name = agent_name(&organization, &agent)?;
    let found = api.reader.keys(&name, api.key_grace_ms, wall_clock_ms()).map_err(log_failure)?;
    found.map(Json).ok_or_else(|| unknown_agent(&name))
}

async fn mailboxes(
    State(api): State<Api>,
    query: Result<Query<PageQuery>, QueryRejection>,
) -> Result<Json<MailboxPage>, Refusal> {
    let Query(query) = query.map_err(|rejection| refuse(ErrorCode::QueryInvalid, rejection.body_text()))?;
    let limit = query.limit.unwrap_or(PAGE_AGENTS_MAX);
    let (organization, after) = (query.organization.as_deref(), query.after.as_deref());
    let page = api.reader.mailboxes(organization, after, limit, &api.mailbox_defaults).map_err(log_failure)?;
    Ok(Json(page))
}

async fn mailbox(
    State(api): State<Api>,
    Path((organization, agent)): Path<(String, String)>,
) -> Result<Json<MailboxInfo>, Refusal> {
    let name = agent_name(&organization, &agent)?;
    let found = api.reader.mailbox(&name, &api.mailbox_defaults).map_err(log_failure)?;
    found.map(Json).ok_or_else(|| unknown_agent(&name))
}

async fn set_mailbox(
    State(api): State<Api>,
    Path((organization, agent)): Path<(String, String)>,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Result<Json<MailboxInfo>, Refusal> {
    let name = agent_name(&organization, &agent)?;
    let body = body_of(&headers, body, "application/json", SIGNED_KEY_RECORD_BYTES_MAX)?;
    let change: MailboxChange = serde_json::from_slice(&body)
        .map_err(|error| refuse(ErrorCode::SettingsMalformed, format!("the settings cannot be read: {error}")))?;
    let agent = AgentId::derive(api.reader.trust_domain(), &name);
    let change = Change::Mailbox(MailboxRequest { agent, change });
    match written(&api, change, Answer::Mailbox, "settings").await? {
        MailboxSet::Changed(row) | MailboxSet::Same(row) => {
            Ok(Json(api.reader.mailbox_info(&name, &row, &api.mailbox_defaults)))
        }
        MailboxSet::Unknown => Err(unknown_agent(&name)),
        MailboxSet::OutOfRange(error) => Err(refuse(ErrorCode::SettingRange, error.to_string())),
    }
}

fn agent_name(organization: &str, agent: &str) -> Result<AgentName, Refusal> {
    AgentName::parse(&format!("{organization}/{agent}"))
        .map_err(|error| refuse(ErrorCode::NameInvalid, error.to_string()))
}

fn unknown_agent(name: &AgentName) -> Refusal {
    refuse(ErrorCode::AgentUnknown, format!("no agent is registered as {name}"))
}

async fn status(State(api): State<Api>) -> Result<Json<Status>, Refusal> {
    let (epoch, agents) = api.reader.counts().map_err(log_failure)?;
    Ok(Json(Status {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        trust_domain: api.reader.trust_domain().to_string(),
        epoch,
        agents,
        policy: api.policy.info().name,
        started_at_ms: api.started_at_ms,
    }))
}

async fn begin_backup(State(api): State<Api>) -> Result<(StatusCode, Json<BackupBegun>), Refusal> {
    let id = wall_clock_ms();
    let (node, shards) = with_backups(&api, move |backups| Ok((backups.source(), backups.begin(id)?))).await?;
    let lease_ms = u64::try_from(BACKUP_LEASE.as_millis()).unwrap_or(u64::MAX);
    // Whoever began it may die at any moment: then nobody else would take away what it left.
    let backups = api.backups.clone();
    tokio::spawn(async move {
        while backups.as_ref().is_some_and(|backups| backups.is_under_way(id)) {
            tokio::time::sleep(BACKUP_LEASE).await;
            let Some(backups) = backups.clone() else { break };
            let _ended = tokio::task::spawn_blocking(move || backups.end_late()).await;
        }
    });
    let version = env!("CARGO_PKG_VERSION").to_owned();
    Ok((StatusCode::CREATED, Json(BackupBegun { id: format!("{id:x}"), lease_ms, version, node, shards })))
}

async fn renew_backup(State(api): State<Api>, Path(id): Path<String>) -> Result<Json<BackupState>, Refusal> {
    let id = backup_id(&id)?;
    let directory_copy = with_backups(&api, move |backups| backups.renew(id)).await?;
    Ok(Json(BackupState { directory_copy }))
}

async fn end_backup(State(api): State<Api>, Path(id): Path<String>) -> Result<Json<BackupState>, Refusal> {
    let id = backup_id(&id)?;
    with_backups(&api, move |backups| backups.end(id)).await?;
    Ok(Json(BackupState { directory_copy: None }))
}

fn backup_id(text: &str) -> Result<u64, Refusal> {
    u64::from_str_radix(text, 16).map_err(|_| refuse(ErrorCode::BackupOver, format!("there is no backup {text}")))
}

/// Asks for something that waits for the shards.
async fn with_backups<T: Send + 'static>(
    api: &Api,
    ask: impl FnOnce(&Arc<Backups>) -> Result<T, backup::Refused> + Send + 'static,
) -> Result<T, Refusal> {
    let unavailable = |why: String| refuse(ErrorCode::BackupUnavailable, why);
    let backups = api.backups.clone().ok_or_else(|| unavailable("this service has no node to back up".to_owned()))?;
    let answer = tokio::task::spawn_blocking(move || ask(&backups)).await;
    let answer = answer.map_err(|_| unavailable("the node could not be asked".to_owned()))?;
    answer.map_err(|refused| match refused {
        backup::Refused::Running => refuse(ErrorCode::BackupRunning, "another backup is being taken"),
        backup::Refused::NotHeld(NotHeld::Unavailable(why)) => unavailable(why),
        backup::Refused::NotHeld(NotHeld::Over(why)) => refuse(ErrorCode::BackupOver, why),
        backup::Refused::CopyFailed(why) => storage_failed(&format!("the directory could not be copied: {why}")),
    })
}

async fn ready(State(api): State<Api>) -> (StatusCode, Json<Readiness>) {
    let readiness = api.health.readiness();
    let status = if readiness.ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(readiness))
}

/// An answer that is not a success.
struct Refusal {
    code: ErrorCode,
    message: String,
}

fn refuse(code: ErrorCode, message: impl Into<String>) -> Refusal {
    Refusal { code, message: message.into() }
}

fn storage_failed(message: &str) -> Refusal {
    refuse(ErrorCode::StorageFailed, message)
}

/// The log has the details; the peer gets no path of this machine.
#[allow(clippy::needless_pass_by_value, reason = "it is the last to see the error")]
fn log_failure(error: ServiceError) -> Refusal {
    tracing::error!(%error, "the directory could not be read");
    storage_failed("the directory could not be read")
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.code.http_status()).expect("every code has an HTTP status");
        let body =
            ApiError { code: self.code.as_str().to_owned(), message: self.message, next: self.code.next().to_owned() };
        (status, Json(body)).into_response()
    }
}
