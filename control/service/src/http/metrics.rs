//! What the node counts and measures.

use axum::extract::{Request, State};
use axum::http::header;
use axum::response::{IntoResponse, Json};
use axum::routing::get;
use axum::{Router, middleware};

use super::openapi::Problems;
use super::{limit_time, node, refuse};
use crate::api::{ErrorCode, MetricReading};
use crate::health::Health;

/// The paths of a listener for nothing else.
pub(super) fn router(health: Health) -> Router {
    Router::new()
        .route("/live", get(node::live))
        .route("/ready", get(node::ready))
        .route("/metrics", get(text))
        .fallback(async |request: Request| {
            refuse(ErrorCode::PathUnknown, format!("there is no {} here", request.uri().path()))
        })
        .layer(middleware::from_fn(limit_time))
        .with_state(health)
}

/// What the node counts and measures, for Prometheus
///
/// The document's page is `docs/metrics.md`.
#[utoipa::path(get, path = "/metrics", tag = "node", responses((status = 200, content_type = "application/openmetrics-text", body = String, description = "OpenMetrics text 1.0"), Problems))]
pub(super) async fn text(State(health): State<Health>) -> impl IntoResponse {
    ([(header::CONTENT_TYPE, creto_metrics::CONTENT_TYPE)], creto_metrics::encode(health.metrics()))
}

/// The same as JSON
#[utoipa::path(get, path = "/v1/metrics", operation_id = "metrics_v1", tag = "node", responses((status = 200, body = Vec<MetricReading>, description = "Every value, by family"), Problems))]
pub(super) async fn readings(State(health): State<Health>) -> Json<Vec<MetricReading>> {
    Json(health.metrics().iter().map(MetricReading::from).collect())
}
