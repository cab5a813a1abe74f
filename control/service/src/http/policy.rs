//! The policy in force: shown, read again, explained.

use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::response::Json;
use creto_envelope::{AgentId, AgentName};
use creto_policy::Action;
use serde::Deserialize;
use tokio::sync::oneshot;
use utoipa::IntoParams;

use super::openapi::Problems;
use super::{Api, Refusal, refuse, storage_failed, unknown_agent};
use crate::api::{DecisionInfo, ErrorCode, PolicyInfo};
use crate::policy::{self, NotReloaded, Reload};
use crate::service::wall_clock_ms;

/// The policy in force
#[utoipa::path(get, path = "/v1/policy", operation_id = "show_policy", tag = "policy", responses((status = 200, body = PolicyInfo, description = "What is in force"), Problems))]
pub(super) async fn in_force(State(api): State<Api>) -> Json<PolicyInfo> {
    Json(api.policy.info())
}

/// Read the file of policy again
#[utoipa::path(post, path = "/v1/policy/reload", operation_id = "reload_policy", tag = "policy", responses((status = 200, body = PolicyInfo, description = "What is in force now"), Problems))]
pub(super) async fn reload(State(api): State<Api>) -> Result<Json<PolicyInfo>, Refusal> {
    let shutting_down = || refuse(ErrorCode::ShuttingDown, "the service loads no policy any more");
    let (answer, answered) = oneshot::channel();
    let reloads = api.reloads.upgrade().ok_or_else(shutting_down)?;
    reloads.send(Reload(Some(answer))).await.map_err(|_| shutting_down())?;
    answered.await.map_err(|_| shutting_down())?.map(Json).map_err(|error| match error {
        NotReloaded::NoFile => refuse(ErrorCode::PolicyNotConfigured, "no file of policy is configured"),
        NotReloaded::Load(error) => refuse(ErrorCode::PolicyRefused, error.to_string()),
        NotReloaded::Storage => storage_failed("the epoch of the policy was not stored"),
        NotReloaded::ShuttingDown => shutting_down(),
    })
}

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct ExplainQuery {
    /// Who wants to: `organization/agent`.
    from: String,
    /// `send_message` or `read_directory`.
    action: String,
    /// To whom: `organization/agent`.
    to: String,
}

/// What is decided about two agents, and why
#[utoipa::path(get, path = "/v1/policy/explain", operation_id = "explain_policy", tag = "policy", params(ExplainQuery), responses((status = 200, body = DecisionInfo, description = "The decision"), Problems))]
pub(super) async fn explain(
    State(api): State<Api>,
    query: Result<Query<ExplainQuery>, QueryRejection>,
) -> Result<Json<DecisionInfo>, Refusal> {
    let Query(query) = query.map_err(|rejection| refuse(ErrorCode::QueryInvalid, rejection.body_text()))?;
    let action = match query.action.as_str() {
        "send_message" => Action::SendMessage,
        "read_directory" => Action::ReadDirectory,
        other => return Err(refuse(ErrorCode::ActionUnknown, format!("this node decides nothing about {other}"))),
    };
    let snapshot = api.snapshot.newest();
    let agent = |name: &str| -> Result<AgentId, Refusal> {
        let name = AgentName::parse(name).map_err(|error| refuse(ErrorCode::NameInvalid, error.to_string()))?;
        let agent = AgentId::derive(api.reader.trust_domain(), &name);
        snapshot.principal(&agent).map(|_| agent).ok_or_else(|| unknown_agent(&name))
    };
    let (sender, recipient) = (agent(&query.from)?, agent(&query.to)?);
    let (hosts, in_force) = (api.decisions.clone(), api.policy.clone());
    // It waits for the shards, and compiles each rule of the policy by itself.
    let explained = tokio::task::spawn_blocking(move || {
        let kept = hosts.map(|hosts| hosts.kept(sender, action, recipient)).unwrap_or_default();
        policy::explain(&in_force, &snapshot, wall_clock_ms(), (sender, action, recipient), kept)
    });
    explained.await.map(Json).map_err(|_| storage_failed("the decision could not be explained"))
}
