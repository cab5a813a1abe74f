//! The HTTP API: one request per connection, bounded in number, size and time.

use std::convert::Infallible;
use std::path::PathBuf;
use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::rejection::{BytesRejection, FailedToBufferBody};
use axum::extract::{DefaultBodyLimit, Request, State};
use axum::http::{HeaderMap, Method, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Json, Response};
use axum::{Extension, Router};
use creto_audit::event::Code;
use creto_audit::{Label, What};
use creto_envelope::AgentName;
use creto_envelope::limits::SIGNED_CHANNEL_RECORD_BYTES_MAX;
use serde::Deserialize;
use tokio::sync::{Semaphore, mpsc, oneshot};
use utoipa::IntoParams;
use utoipa_axum::router::{OpenApiRouter, UtoipaMethodRouterExt};
use utoipa_axum::routes;

use crate::api::{ApiError, ErrorCode};
use crate::audit::AuditLogSource;
use crate::backup::Backups;
use crate::directory::{Change, Reader};
use crate::error::ServiceError;
use crate::health::Health;
use crate::limits::{
    ATTRIBUTES_BODY_BYTES_MAX, READS_MAX, REQUEST_TIMEOUT, SIGNED_KEY_RECORD_BYTES_MAX, SVID_BODY_BYTES_MAX,
};
use crate::mailboxes::MailboxDefaults;
use crate::policy::{DecisionHost, InForce, Reload};
use crate::service::Published;
use crate::telling::Teller;
use crate::tokens::Enrolment;
use crate::writer::{Answer, Pending};

mod agents;
mod audit;
mod backups;
mod channels;
mod gate;
mod linked;
mod mailboxes;
mod metrics;
mod node;
pub(crate) mod openapi;
mod policy;
mod serve;
mod svid;
mod tokens;

pub(crate) use gate::Gate;
pub(crate) use linked::linked_router;
pub(crate) use serve::{serve, serve_local, serve_metrics, serve_tcp};

/// The path of registrations.
const REGISTRATIONS: &str = "/v1/agents";
/// The path of registrations by an X.509-SVID.
const SVID_ENROLMENTS: &str = "/v1/svid-enrolments";
/// The media type of an answer that is not a success (RFC 9457).
pub(crate) const PROBLEM_JSON: &str = "application/problem+json";

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
    pub(crate) audit_log: Option<Arc<dyn AuditLogSource>>,
    pub(crate) teller: Teller,
    pub(crate) started_at_ms: u64,
    pub(crate) health: Health,
}

/// Every path, with what the document of the API says of it.
fn paths() -> OpenApiRouter<Api> {
    let attributes = DefaultBodyLimit::max(ATTRIBUTES_BODY_BYTES_MAX);
    let svid = DefaultBodyLimit::max(SVID_BODY_BYTES_MAX);
    let channel_record = DefaultBodyLimit::max(SIGNED_CHANNEL_RECORD_BYTES_MAX);
    OpenApiRouter::with_openapi(openapi::frame())
        .routes(routes!(node::live))
        .routes(routes!(node::ready))
        .routes(routes!(node::ready_v1))
        .routes(routes!(node::status))
        .routes(routes!(metrics::text))
        .routes(routes!(metrics::readings))
        .routes(routes!(openapi::document))
        .routes(routes!(agents::agents, agents::register))
        .routes(routes!(agents::agent, agents::set_attributes).layer(attributes))
        .routes(routes!(agents::set_state))
        .routes(routes!(agents::set_states))
        .routes(routes!(agents::keys))
        .routes(routes!(agents::prekeys))
        .routes(routes!(agents::key_record))
        .routes(routes!(svid::enrol).layer(svid))
        .routes(routes!(tokens::tokens, tokens::make_token))
        .routes(routes!(tokens::withdraw_token))
        .routes(routes!(mailboxes::mailboxes))
        .routes(routes!(mailboxes::fullest))
        .routes(routes!(mailboxes::mailbox, mailboxes::set_mailbox))
        .routes(routes!(channels::channels, channels::put).layer(channel_record))
        .routes(routes!(channels::channel))
        .routes(routes!(channels::record))
        .routes(routes!(policy::in_force))
        .routes(routes!(policy::reload))
        .routes(routes!(policy::explain))
        .routes(routes!(audit::events))
        .routes(routes!(audit::proof))
        .routes(routes!(audit::checkpoint))
        .routes(routes!(audit::keys))
        .routes(routes!(backups::begin_backup))
        .routes(routes!(backups::renew_backup, backups::end_backup))
}

fn router(api: Api) -> Router {
    let (paths, _document) = paths().split_for_parts();
    paths
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

pub(crate) fn number_of(code: ErrorCode) -> Code {
    Code::of_control(code.as_str()).unwrap_or(Code::NONE)
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

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
struct PageQuery {
    /// Only agents of this one.
    organization: Option<String>,
    /// `next_after` of the page before.
    after: Option<String>,
    /// Most entries of a page.
    #[param(minimum = 1, maximum = 1000, default = 1000)]
    limit: Option<usize>,
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

fn agent_name(organization: &str, agent: &str) -> Result<AgentName, Refusal> {
    AgentName::parse(&format!("{organization}/{agent}"))
        .map_err(|error| refuse(ErrorCode::NameInvalid, error.to_string()))
}

fn unknown_agent(name: &AgentName) -> Refusal {
    refuse(ErrorCode::AgentUnknown, format!("no agent is registered as {name}"))
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
