//! The HTTP API: one request per connection, bounded in number, size and time.

use std::convert::Infallible;
use std::path::PathBuf;
use std::sync::Arc;

use axum::Extension;
use axum::Router;
use axum::body::Bytes;
use axum::extract::rejection::{BytesRejection, FailedToBufferBody, QueryRejection};
use axum::extract::{DefaultBodyLimit, Path, Query, Request, State};
use axum::http::{HeaderMap, Method, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Json, Response};
use axum::routing::{delete, get, post, put};
use creto_audit::event::{Code, Outcome, Peer, TokenId};
use creto_audit::{Label, What};
use creto_envelope::{AgentId, AgentName, SignedKeyRecord};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use serde::Deserialize;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener, UnixStream};
use tokio::sync::{Semaphore, mpsc, oneshot, watch};
use tokio::task::JoinSet;

use crate::api::{
    AgentInfo, AgentKeys, AgentPage, AgentPrekeys, ApiError, BackupBegun, BackupState, ErrorCode, MailboxInfo,
    MailboxPage, Status, TOKEN_HEADER,
};
use crate::attributes::{AttributesChange, AttributesRequest};
use crate::backup::{self, Backups, NotHeld};
use crate::directory::{
    AttributesSet, Change, EnrolRequest, MailboxSet, Reader, Registered, StatesSet, TokenChange, TokenSet, token_in,
};
use crate::error::ServiceError;
use crate::health::{Health, Readiness};
use crate::limits::{
    ATTRIBUTES_BODY_BYTES_MAX, BACKUP_LEASE, CONNECTION_TIMEOUT, CONNECTIONS_MAX, HEAD_BYTES_MAX, HEAD_TIMEOUT,
    PAGE_AGENTS_MAX, READS_MAX, REMOTE_CONNECTIONS_MAX, REQUEST_TIMEOUT, SHUTDOWN_TIMEOUT, SIGNED_KEY_RECORD_BYTES_MAX,
    SVID_BODY_BYTES_MAX,
};
use crate::mailboxes::{MailboxChange, MailboxDefaults, MailboxRequest};
use crate::policy::{DecisionHost, InForce, Reload};
use crate::registration::Registration;
use crate::service::{Published, wall_clock_ms};
use crate::states::{OrganizationChanged, StateChange, StateRequest, Whose};
use crate::telling::Teller;
use crate::tokens::{Enrolment, EnrolmentToken, TokenHash, TokenInfo, TokenList, TokenMade, TokenWanted};
use crate::writer::{Answer, Pending};

mod gate;
mod policy;
mod svid;

pub(crate) use gate::Gate;
use gate::Origin;

/// The path of registrations.
const REGISTRATIONS: &str = "/v1/agents";
/// The path of registrations by an X.509-SVID.
const SVID_ENROLMENTS: &str = "/v1/svid-enrolments";
/// The media type of an answer that is not a success (RFC 9457).
const PROBLEM_JSON: &str = "application/problem+json";
/// What the audit log calls a refusal of somebody who is neither the node's user nor root.
const OTHER_USER: &str = "other_user";

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
    pub(crate) teller: Teller,
    pub(crate) started_at_ms: u64,
    pub(crate) health: Health,
}

/// Serves on the control socket, and over TCP where `remote` is given, until `stopped` resolves; then calls `closed`, finishes
/// what is under way, and says how many requests had to be cut off.
pub(crate) async fn serve(
    listener: UnixListener,
    remote: Option<(TcpListener, Gate)>,
    api: Api,
    stopped: oneshot::Receiver<()>,
    closed: impl FnOnce(),
) -> usize {
    let teller = api.teller.clone();
    let local = router(api);
    let (stop, stopping) = watch::channel(());
    let over_tcp = async {
        let Some((listener, gate)) = remote else { return 0 };
        let router = local.clone().layer(middleware::from_fn_with_state(gate, gate::authenticate));
        let accept = async move || listener.accept().await;
        let admit = |(stream, peer): (_, std::net::SocketAddr)| {
            Some((stream, router.clone().layer(Extension(Origin(peer.ip())))))
        };
        accept_all(REMOTE_CONNECTIONS_MAX, accept, admit, stopping.clone(), || ()).await
    };
    let on_socket = async {
        let accept = async move || listener.accept().await;
        let admit = |(stream, _): (UnixStream, _)| match is_own_user(&stream) {
            Ok(()) => Some((stream, local.clone())),
            Err(uid) => {
                tell_other_user(&teller, uid);
                None
            }
        };
        accept_all(CONNECTIONS_MAX, accept, admit, stopping.clone(), closed).await
    };
    let stopped = async {
        // Also when whoever would say so is gone.
        let _ = stopped.await;
        drop(stop);
    };
    let (on_socket, over_tcp, ()) = tokio::join!(on_socket, over_tcp, stopped);
    on_socket + over_tcp
}

/// Takes connections, `connections_max` at a time, until `stop` changes or ends. `admit` says what serves one, if anything does.
async fn accept_all<C, S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(
    connections_max: usize,
    accept: impl AsyncFn() -> std::io::Result<C>,
    admit: impl Fn(C) -> Option<(S, Router)>,
    mut stop: watch::Receiver<()>,
    closed: impl FnOnce(),
) -> usize {
    let permits = Arc::new(Semaphore::new(connections_max));
    let mut connections = JoinSet::new();
    let (stopping, stopping_seen) = watch::channel(());
    loop {
        // The permit first: who is over the limit waits in the backlog, not in our memory.
        let accepted = async {
            let permit = Arc::clone(&permits).acquire_owned().await.expect("the semaphore is never closed");
            (permit, accept().await)
        };
        let (permit, connection) = tokio::select! {
            biased;
            _ = stop.changed() => break,
            (permit, accepted) = accepted => match accepted {
                Ok(connection) => (permit, connection),
                Err(error) => {
                    // Out of file descriptors, most likely: one of ours must end before the next try can do better.
                    tracing::warn!(%error, "a control connection was not accepted");
                    drop(permit);
                    tokio::select! {
                        _ = stop.changed() => break,
                        ended = connections.join_next() => if ended.is_none() {
                            tokio::time::sleep(HEAD_TIMEOUT).await;
                        },
                    }
                    continue;
                }
            },
        };
        while connections.try_join_next().is_some() {}
        let Some((stream, router)) = admit(connection) else { continue };
        let stopping = stopping_seen.clone();
        connections.spawn(async move {
            serve_connection(stream, router, stopping).await;
            drop(permit);
        });
    }
    drop(accept);
    closed();
    drop(stopping);
    let all_ended = async { while connections.join_next().await.is_some() {} };
    if tokio::time::timeout(SHUTDOWN_TIMEOUT, all_ended).await.is_ok() {
        return 0;
    }
    let cut_off = connections.len();
    connections.shutdown().await;
    cut_off
}

async fn serve_connection(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    router: Router,
    mut stopping: watch::Receiver<()>,
) {
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

fn tell_other_user(teller: &Teller, uid: Option<u32>) {
    tracing::warn!(uid, "a control connection of another user was refused");
    let (actor, peer, code) = (AgentId::ZERO, Peer::default(), Code::of_control(OTHER_USER));
    let what = What::AdministrationRefused { actor, peer, code: code.unwrap_or(Code::NONE) };
    teller.refused(what, Label::of(&uid.map_or_else(|| "user unknown".to_owned(), |uid| format!("user {uid}"))));
}

/// Gives the number of the user that is refused. The mode of the socket says the same; this holds also where a file system does
/// not care about modes.
fn is_own_user(stream: &UnixStream) -> Result<(), Option<u32>> {
    let own_uid = rustix::process::geteuid().as_raw();
    match stream.peer_cred().ok().map(|peer| peer.uid()) {
        Some(uid) if uid == own_uid || uid == 0 => Ok(()),
        other => Err(other),
    }
}

fn router(api: Api) -> Router {
    Router::new()
        .route("/v1/status", get(status))
        .route("/live", get(live))
        .route("/ready", get(ready))
        .route("/v1/ready", get(ready))
        .route(REGISTRATIONS, get(agents).post(register))
        .route(
            "/v1/agents/{organization}/{agent}",
            get(agent).patch(set_attributes).layer(DefaultBodyLimit::max(ATTRIBUTES_BODY_BYTES_MAX)),
        )
        .route("/v1/agents/{organization}/{agent}/state", put(set_state))
        .route("/v1/organizations/{organization}/state", put(set_states))
        .route("/v1/tokens", get(tokens).post(make_token))
        .route("/v1/tokens/{id}", delete(withdraw_token))
        .route(SVID_ENROLMENTS, post(svid::enrol).layer(DefaultBodyLimit::max(SVID_BODY_BYTES_MAX)))
        .route("/v1/key-records/{agent}/{version}", get(key_record))
        .route("/v1/agents/{organization}/{agent}/keys", get(keys))
        .route("/v1/agents/{organization}/{agent}/prekeys", get(prekeys))
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
        .layer(middleware::from_fn_with_state(api.clone(), tell_refused))
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

/// Has the audit log told of changes that were asked for and refused.
async fn tell_refused(State(api): State<Api>, request: Request, next: Next) -> Response {
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    // A registration tells of itself: it knows which name and token it is about.
    let is_enrolment = method == Method::POST && [REGISTRATIONS, SVID_ENROLMENTS].contains(&path.as_str());
    let is_change = !method.is_safe() && !is_enrolment;
    let caller = gate::caller();
    let answer = next.run(request).await;
    if let Some(code) = answer.extensions().get::<ErrorCode>().filter(|code| is_change && is_callers(**code)) {
        let what = What::AdministrationRefused { actor: caller.agent, peer: caller.peer, code: number_of(*code) };
        api.teller.refused(what, Label::of(&format!("{method} {path}")));
    }
    answer
}

/// Whether a refusal is about what was asked for. A policy that is refused has an event of its own.
fn is_callers(code: ErrorCode) -> bool {
    let is_callers = matches!(code.http_status(), 400..=499 | 507) && code != ErrorCode::RequestTimeout;
    is_callers && code != ErrorCode::PolicyRefused
}

fn number_of(code: ErrorCode) -> Code {
    Code::of_control(code.as_str()).unwrap_or(Code::NONE)
}

async fn register(
    State(api): State<Api>,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Result<(StatusCode, Json<AgentInfo>), Refusal> {
    let mut name = Label::NONE;
    let registered = try_to_register(&api, &headers, body, &mut name).await;
    if let Err(refused) = &registered
        && is_callers(refused.code)
    {
        let token = brought_token(&headers).map(|token| token_in(&token.hash())).unwrap_or_default();
        let what = What::EnrolmentRefused { token, peer: gate::caller().peer, code: number_of(refused.code) };
        api.teller.refused(what, name);
    }
    registered
}

/// Says in `asked` which name was asked for, once that is known.
async fn try_to_register(
    api: &Api,
    headers: &HeaderMap,
    body: Result<Bytes, BytesRejection>,
    asked: &mut Label,
) -> Result<(StatusCode, Json<AgentInfo>), Refusal> {
    let body = body_of(headers, body, "application/octet-stream", SIGNED_KEY_RECORD_BYTES_MAX)?;
    if let Ok(signed) = SignedKeyRecord::parse(&body) {
        *asked = Label::of(signed.record.name.as_str());
    }
    let registration = Registration::check(&body, api.reader.trust_domain(), wall_clock_ms())
        .map_err(|error| refuse(error.code(), error.to_string()))?;
    let change = match token_of(headers, api.enrolment)? {
        Some(token) => Change::Enrol(EnrolRequest { registration, token }),
        None => Change::Register(registration),
    };
    answer_registered(api, change).await
}

async fn answer_registered(api: &Api, change: Change) -> Result<(StatusCode, Json<AgentInfo>), Refusal> {
    let registered = written(api, change, Answer::Registration, "registrations").await?;
    let (status, entry) = match registered {
        Registered::Created(entry) => (StatusCode::CREATED, entry),
        Registered::Known(entry) => (StatusCode::OK, entry),
        Registered::Refused(code, message) => return Err(refuse(code, message)),
    };
    Ok((status, Json(known_agent(api, entry.name).await?)))
}

/// The token that a registration brings, if it is one.
fn brought_token(headers: &HeaderMap) -> Option<EnrolmentToken> {
    headers.get(TOKEN_HEADER)?.to_str().ok().and_then(EnrolmentToken::parse)
}

/// The token that a registration brings. One that is brought must be good, also where none is needed.
fn token_of(headers: &HeaderMap, enrolment: Enrolment) -> Result<Option<TokenHash>, Refusal> {
    if !headers.contains_key(TOKEN_HEADER) {
        return match enrolment {
            Enrolment::Open => Ok(None),
            Enrolment::Token => Err(refuse(ErrorCode::TokenMissing, "this node registers agents with a token only")),
        };
    }
    // Never with its text: somebody may have mistyped a good one.
    let malformed = || refuse(ErrorCode::TokenUnknown, "this is no token for enrolment");
    brought_token(headers).map(|token| Some(token.hash())).ok_or_else(malformed)
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
        TokenSet::Done(_, info) => {
            let token = token.text().to_string();
            Ok((StatusCode::CREATED, Json(TokenMade { token, info })))
        }
        TokenSet::Full | TokenSet::Unknown => {
            Err(refuse(ErrorCode::TokensFull, "there are as many tokens as there may be, and all can be used"))
        }
    }
}

async fn tokens(State(api): State<Api>) -> Result<Json<TokenList>, Refusal> {
    Ok(Json(TokenList { tokens: read(&api, Reader::tokens).await? }))
}

async fn withdraw_token(State(api): State<Api>, Path(id): Path<String>) -> Result<Json<TokenInfo>, Refusal> {
    let change = Change::Token(TokenChange::Withdraw(id.clone()));
    match written(&api, change, Answer::Token, "tokens").await? {
        TokenSet::Done(_, info) => Ok(Json(info)),
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
    let page = move |reader: &Reader| reader.page(query.organization.as_deref(), query.after.as_deref(), limit);
    read(&api, page).await.map(Json)
}

async fn agent(
    State(api): State<Api>,
    Path((organization, agent)): Path<(String, String)>,
) -> Result<Json<AgentInfo>, Refusal> {
    known_agent(&api, agent_name(&organization, &agent)?).await.map(Json)
}

async fn known_agent(api: &Api, name: AgentName) -> Result<AgentInfo, Refusal> {
    let asked = name.clone();
    read(api, move |reader| reader.agent(&asked)).await?.ok_or_else(|| unknown_agent(&name))
}

/// Reads the directory beside the runtime: a disk may be slow, and a database away.
async fn read<T: Send + 'static>(
    api: &Api,
    work: impl FnOnce(&Reader) -> Result<T, ServiceError> + Send + 'static,
) -> Result<T, Refusal> {
    static READS: Semaphore = Semaphore::const_new(READS_MAX);
    let permit = READS.acquire().await.expect("it is never closed");
    let reader = api.reader.clone();
    let done = tokio::task::spawn_blocking(move || {
        let outcome = work(&reader);
        drop(permit);
        outcome
    });
    done.await.map_err(|_| storage_failed("the directory was not read"))?.map_err(log_failure)
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
        AttributesSet::Changed(_) | AttributesSet::Same => known_agent(&api, name).await.map(Json),
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
        StatesSet::Done(_) => known_agent(&api, name).await.map(Json),
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
    let pending = Pending { change, answer: answer_as(answer), by: gate::caller().agent };
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
    let record = read(&api, move |reader| reader.key_record(id, number)).await?.ok_or_else(unknown)?;
    Ok(([(header::CONTENT_TYPE, "application/octet-stream")], record))
}

async fn keys(
    State(api): State<Api>,
    Path((organization, agent)): Path<(String, String)>,
) -> Result<Json<AgentKeys>, Refusal> {
    let name = agent_name(&organization, &agent)?;
    let (asked, key_grace_ms) = (name.clone(), api.key_grace_ms);
    let found = read(&api, move |reader| reader.keys(&asked, key_grace_ms, wall_clock_ms())).await?;
    found.map(Json).ok_or_else(|| unknown_agent(&name))
}

async fn prekeys(
    State(api): State<Api>,
    Path((organization, agent)): Path<(String, String)>,
) -> Result<Json<AgentPrekeys>, Refusal> {
    let name = agent_name(&organization, &agent)?;
    let asked = name.clone();
    let found = read(&api, move |reader| reader.prekeys(&asked)).await?;
    found.map(Json).ok_or_else(|| unknown_agent(&name))
}

async fn mailboxes(
    State(api): State<Api>,
    query: Result<Query<PageQuery>, QueryRejection>,
) -> Result<Json<MailboxPage>, Refusal> {
    let Query(query) = query.map_err(|rejection| refuse(ErrorCode::QueryInvalid, rejection.body_text()))?;
    let limit = query.limit.unwrap_or(PAGE_AGENTS_MAX);
    let defaults = api.mailbox_defaults;
    let page = move |reader: &Reader| {
        reader.mailboxes(query.organization.as_deref(), query.after.as_deref(), limit, &defaults)
    };
    read(&api, page).await.map(Json)
}

async fn mailbox(
    State(api): State<Api>,
    Path((organization, agent)): Path<(String, String)>,
) -> Result<Json<MailboxInfo>, Refusal> {
    let name = agent_name(&organization, &agent)?;
    let (asked, defaults) = (name.clone(), api.mailbox_defaults);
    let found = read(&api, move |reader| reader.mailbox(&asked, &defaults)).await?;
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
    let (epoch, agents) = read(&api, Reader::counts).await?;
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
    let begun = with_backups(&api, move |backups| {
        let shards = backups.begin(id)?;
        let source = backups.source().inspect_err(|_| {
            // It was not begun, then.
            let _ended = backups.end(id);
        })?;
        Ok((shards, source))
    });
    let (shards, node) = begun.await?;
    let lease_ms = u64::try_from(BACKUP_LEASE.as_millis()).unwrap_or(u64::MAX);
    let count = u16::try_from(shards.len()).unwrap_or(u16::MAX);
    // Whoever began it may die at any moment: then nobody else would take away what it left.
    let (backups, teller) = (api.backups.clone(), api.teller.clone());
    tokio::spawn(async move {
        while backups.as_ref().is_some_and(|backups| backups.is_under_way(id)) {
            tokio::time::sleep(BACKUP_LEASE).await;
            let Some(backups) = backups.clone() else { break };
            let ended = tokio::task::spawn_blocking(move || backups.end_late()).await;
            if ended.unwrap_or(false) {
                tell_backup_ended(&teller, id, Outcome::GivenUp).await;
            }
        }
    });
    api.teller.tell(What::BackupBegun { backup: backup_in(id), shards: count }, Label::NONE).await;
    let version = env!("CARGO_PKG_VERSION").to_owned();
    Ok((StatusCode::CREATED, Json(BackupBegun { id: format!("{id:x}"), lease_ms, version, node, shards })))
}

async fn renew_backup(State(api): State<Api>, Path(id): Path<String>) -> Result<Json<BackupState>, Refusal> {
    let id = backup_id(&id)?;
    let directory_copy = with_backups(&api, move |backups| backups.renew(id)).await?;
    Ok(Json(BackupState { directory_copy }))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct EndQuery {
    /// It is not complete, and whoever took it does not want it any more.
    #[serde(default)]
    given_up: bool,
}

async fn end_backup(
    State(api): State<Api>,
    Path(id): Path<String>,
    query: Result<Query<EndQuery>, QueryRejection>,
) -> Result<Json<BackupState>, Refusal> {
    let Query(EndQuery { given_up }) =
        query.map_err(|rejection| refuse(ErrorCode::QueryInvalid, rejection.body_text()))?;
    let id = backup_id(&id)?;
    let held = with_backups(&api, move |backups| backups.end(id)).await?;
    let outcome = match &held {
        Ok(()) if given_up => Outcome::GivenUp,
        Ok(()) => Outcome::Done,
        Err(_) => Outcome::Failed,
    };
    tell_backup_ended(&api.teller, id, outcome).await;
    held.map(|()| Json(BackupState { directory_copy: None })).map_err(not_held)
}

async fn tell_backup_ended(teller: &Teller, id: u64, outcome: Outcome) {
    teller.tell(What::BackupEnded { backup: backup_in(id), outcome }, Label::NONE).await;
}

/// A backup's id as the log has it: the same digits, with zeros before them.
fn backup_in(id: u64) -> TokenId {
    TokenId(u128::from(id).to_be_bytes())
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
        backup::Refused::NotHeld(why) => not_held(why),
        backup::Refused::CopyFailed(why) => storage_failed(&format!("the directory could not be copied: {why}")),
    })
}

fn not_held(why: NotHeld) -> Refusal {
    match why {
        NotHeld::Unavailable(why) => refuse(ErrorCode::BackupUnavailable, why),
        NotHeld::Over(why) => refuse(ErrorCode::BackupOver, why),
    }
}

/// The process answers. Whether it serves is another question.
async fn live() -> StatusCode {
    StatusCode::NO_CONTENT
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
        let body = ApiError {
            title: status.canonical_reason().unwrap_or("Refused").to_owned(),
            status: status.as_u16(),
            code: self.code.as_str().to_owned(),
            message: self.message,
            next: self.code.next().to_owned(),
        };
        let content_type = [(header::CONTENT_TYPE, PROBLEM_JSON)];
        // For whoever tells the audit log.
        (status, Extension(self.code), content_type, Json(body)).into_response()
    }
}
