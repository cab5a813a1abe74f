//! The node: what it is, and how it is.

use axum::extract::{FromRef, State};
use axum::http::StatusCode;
use axum::response::Json;

use super::Api;
use super::openapi::Problems;
use crate::api::Status;
use crate::health::{Health, Readiness};

impl FromRef<Api> for Health {
    fn from_ref(api: &Api) -> Self {
        api.health.clone()
    }
}

/// How the service is
#[utoipa::path(get, path = "/v1/status", tag = "node", responses((status = 200, body = Status, description = "Version, trust domain, numbers"), Problems))]
pub(super) async fn status(State(api): State<Api>) -> Json<Status> {
    // From memory: a database reads all agents to count them.
    let snapshot = api.snapshot.newest();
    Json(Status {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        trust_domain: api.reader.trust_domain().to_string(),
        epoch: snapshot.epoch(),
        agents: snapshot.agent_count() as u64,
        policy: api.policy.info().name,
        started_at_ms: api.started_at_ms,
    })
}

/// Whether the process answers
///
/// Whether it serves is another question. Not signed over TCP.
#[utoipa::path(get, path = "/live", tag = "health", responses((status = 204, description = "It does")), security(()))]
pub(super) async fn live() -> StatusCode {
    StatusCode::NO_CONTENT
}

/// Whether every shard serves
///
/// Not signed over TCP.
#[utoipa::path(get, path = "/ready", tag = "health", responses((status = 200, body = Readiness, description = "Every shard serves"), (status = 503, body = Readiness, description = "Not every shard serves")), security(()))]
pub(super) async fn ready(State(health): State<Health>) -> (StatusCode, Json<Readiness>) {
    let readiness = health.readiness();
    let status = if readiness.ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(readiness))
}

/// Whether every shard serves; signed over TCP
#[utoipa::path(get, path = "/v1/ready", operation_id = "ready_v1", tag = "health", responses((status = 200, body = Readiness, description = "Every shard serves"), (status = 503, body = Readiness, description = "Not every shard serves"), Problems))]
pub(super) async fn ready_v1(health: State<Health>) -> (StatusCode, Json<Readiness>) {
    ready(health).await
}
