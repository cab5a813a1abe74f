//! The API of a node whose control service is a process elsewhere: how the node is, and its own audit log. What is asked about agents
//! is answered there.

use std::sync::Arc;

use axum::Router;
use axum::extract::{FromRef, Request, State};
use axum::middleware;
use axum::routing::get;

use super::audit::AuditLog;
use super::{Refusal, audit, limit_time, mailboxes, metrics, node, refuse};
use crate::api::ErrorCode;
use crate::audit::AuditLogSource;
use crate::health::Health;

/// What its requests can reach.
#[derive(Clone)]
struct Linked {
    health: Health,
    audit_log: AuditLog,
    control: Arc<str>,
}

impl FromRef<Linked> for Health {
    fn from_ref(linked: &Linked) -> Self {
        linked.health.clone()
    }
}

impl FromRef<Linked> for AuditLog {
    fn from_ref(linked: &Linked) -> Self {
        linked.audit_log.clone()
    }
}

/// The paths of such a node; everything else is refused with where to ask.
pub(crate) fn linked_router(health: Health, audit_log: Arc<dyn AuditLogSource>, control: String) -> Router {
    let audit_log = AuditLog(Some(audit_log));
    Router::new()
        .route("/live", get(node::live))
        .route("/ready", get(node::ready))
        .route("/v1/ready", get(node::ready_v1))
        .route("/metrics", get(metrics::text))
        .route("/v1/metrics", get(metrics::readings))
        .route("/v1/mailboxes/fullest", get(mailboxes::fullest))
        .route("/v1/audit/events", get(audit::events))
        .route("/v1/audit/proofs/{leaf}", get(audit::proof))
        .route("/v1/audit/checkpoint", get(audit::checkpoint))
        .route("/v1/audit/keys", get(audit::keys))
        .fallback(elsewhere)
        .layer(middleware::from_fn(limit_time))
        .with_state(Linked { health, audit_log, control: control.into() })
}

async fn elsewhere(State(linked): State<Linked>, request: Request) -> Refusal {
    let (path, control) = (request.uri().path(), &linked.control);
    if path.starts_with("/v1/backups") {
        let message =
            "a node whose control service is elsewhere is copied while it is stopped: its data folder as it is";
        return refuse(ErrorCode::BackupUnavailable, message);
    }
    let message =
        format!("this node has no {path}: its control service is the process at {control}, so run this there");
    refuse(ErrorCode::PathUnknown, message)
}
