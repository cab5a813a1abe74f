//! The audit log.

use std::sync::Arc;

use axum::extract::rejection::QueryRejection;
use axum::extract::{FromRef, Path, Query, State};
use axum::response::Json;
use serde::Deserialize;
use tokio::sync::Semaphore;
use utoipa::IntoParams;

use super::openapi::Problems;
use super::{Api, Refusal, refuse};
use crate::api::{AuditPage, ErrorCode};
use crate::audit::{AuditLogSource, AuditUnread};
use crate::limits::PAGE_EVENTS_MAX;

/// The log, if this service has one.
#[derive(Clone)]
pub(super) struct AuditLog(pub(super) Option<Arc<dyn AuditLogSource>>);

impl FromRef<Api> for AuditLog {
    fn from_ref(api: &Api) -> Self {
        Self(api.audit_log.clone())
    }
}

/// One reader at a time, of few threads: a page holds a file of entries in memory, 19 MB at most.
static READS: Semaphore = Semaphore::const_new(1);

/// The newest checkpoint of the audit log
///
/// A note in C2SP form, signed by Ed25519 and ML-DSA-65.
#[utoipa::path(get, path = "/v1/audit/checkpoint", operation_id = "audit_checkpoint", tag = "audit",
    responses((status = 200, body = String, content_type = "text/plain", description = "The note"), Problems))]
pub(super) async fn checkpoint(State(log): State<AuditLog>) -> Result<String, Refusal> {
    read(log, |log| log.checkpoint()).await
}

/// The public keys of the audit log
///
/// Keep them: what is shown here later could be another log's.
#[utoipa::path(get, path = "/v1/audit/keys", operation_id = "audit_keys", tag = "audit",
    responses((status = 200, body = String, content_type = "text/plain", description = "As audit.pub has them"), Problems))]
pub(super) async fn keys(State(log): State<AuditLog>) -> Result<String, Refusal> {
    read(log, |log| log.keys()).await
}

/// An entry of the audit log with the proof that it is in there
///
/// `creto audit verify` holds it against the keys, without the node.
#[utoipa::path(get, path = "/v1/audit/proofs/{leaf}", operation_id = "audit_proof", tag = "audit",
    params(("leaf" = u64, Path, description = "Counts from 0")),
    responses((status = 200, body = String, content_type = "text/plain", description = "As docs/audit-format.md gives it"), Problems))]
pub(super) async fn proof(State(log): State<AuditLog>, Path(leaf): Path<String>) -> Result<String, Refusal> {
    let number =
        leaf.parse().map_err(|_| refuse(ErrorCode::LeafUnknown, format!("{leaf} is no leaf of an audit log")))?;
    read(log, move |log| log.proof(number)).await
}

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct EventsQuery {
    /// The first leaf, counted from 0.
    #[param(default = 0)]
    from: Option<u64>,
    /// Most events of a page.
    #[param(minimum = 1, maximum = 1000, default = 1000)]
    limit: Option<usize>,
}

/// Events of the audit log, in the order of its leaves, in pages
///
/// Read under a checkpoint whose signatures held. Only proofs and exports show it to others.
#[utoipa::path(get, path = "/v1/audit/events", operation_id = "audit_events", tag = "audit", params(EventsQuery),
    responses((status = 200, body = AuditPage, description = "A page"), Problems))]
pub(super) async fn events(
    State(log): State<AuditLog>,
    query: Result<Query<EventsQuery>, QueryRejection>,
) -> Result<Json<AuditPage>, Refusal> {
    let Query(query) = query.map_err(|rejection| refuse(ErrorCode::QueryInvalid, rejection.body_text()))?;
    let (from, limit) = (query.from.unwrap_or(0), query.limit.unwrap_or(PAGE_EVENTS_MAX).clamp(1, PAGE_EVENTS_MAX));
    read(log, move |log| log.events(from, limit)).await.map(Json)
}

async fn read<T: Send + 'static>(
    log: AuditLog,
    ask: impl FnOnce(&dyn AuditLogSource) -> Result<T, AuditUnread> + Send + 'static,
) -> Result<T, Refusal> {
    let unavailable = |why: &str| refuse(ErrorCode::AuditUnavailable, why);
    let log = log.0.ok_or_else(|| unavailable("this service has no audit log"))?;
    let permit = READS.acquire().await.expect("it is never closed");
    // The permit goes along: a read that outlives its request is still the only one.
    let read = tokio::task::spawn_blocking(move || {
        let read = ask(&*log);
        drop(permit);
        read
    });
    let read = read.await.map_err(|_| unavailable("the audit log was not read"))?;
    read.map_err(|unread| match unread {
        AuditUnread::NoLeaf => refuse(ErrorCode::LeafUnknown, "there is no such leaf, or its entry was dropped"),
        AuditUnread::Unavailable(why) => {
            tracing::error!(why, "the audit log could not be read");
            unavailable("the audit log could not be read, or nothing is signed yet")
        }
    })
}
