//! Agents, their keys and states.

use axum::body::Bytes;
use axum::extract::rejection::{BytesRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Json};
use creto_audit::{Label, What};
use creto_envelope::{AgentId, AgentName, SignedKeyRecord};
use serde::Deserialize;
use utoipa::IntoParams;

use super::openapi::{Problems, SignedKeyRecordBytes};
use super::{
    Api, PageQuery, Refusal, agent_name, body_of, gate, is_callers, number_of, read, refuse, unknown_agent, written,
};
use crate::api::{AgentInfo, AgentKeys, AgentPage, AgentPrekeys, ErrorCode, TOKEN_HEADER};
use crate::attributes::{AttributesChange, AttributesRequest};
use crate::directory::{AttributesSet, Change, EnrolRequest, Reader, Registered, StatesSet, token_in};
use crate::limits::{ATTRIBUTES_BODY_BYTES_MAX, PAGE_AGENTS_MAX, SIGNED_KEY_RECORD_BYTES_MAX};
use crate::registration::{Registration, RegistrationError};
use crate::service::wall_clock_ms;
use crate::states::{OrganizationChanged, StateChange, StateRequest, Whose};
use crate::tokens::{Enrolment, EnrolmentToken, TokenHash};
use crate::writer::Answer;

/// Register an agent
///
/// The body is a signed key record, version 1. A record that is registered already is answered with 200 and changes nothing. Where `control.enrolment` is `token` the header `creto-enrolment-token` must bring one; a record that comes with a token was signed for that token, any other for none.
#[utoipa::path(post, path = "/v1/agents", operation_id = "register_agent", tag = "agents", params(("creto-enrolment-token" = Option<String>, Header, description = "A token for enrolment")), request_body(content = SignedKeyRecordBytes, content_type = "application/octet-stream"), responses((status = 201, body = AgentInfo, description = "It is registered"), (status = 200, body = AgentInfo, description = "It was registered with this record before"), Problems))]
pub(super) async fn register(
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
    let refused = |error: RegistrationError| refuse(error.code(), error.to_string());
    let registration = Registration::check(&body, api.reader.trust_domain(), wall_clock_ms()).map_err(refused)?;
    let change = match token_of(headers, api.enrolment)? {
        Some(token) => EnrolRequest::new(registration, token).map(Change::Enrol),
        None => registration.signed_for(None).map(Change::Register),
    };
    answer_registered(api, change.map_err(refused)?).await
}

pub(super) async fn answer_registered(api: &Api, change: Change) -> Result<(StatusCode, Json<AgentInfo>), Refusal> {
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

/// List agents, by name, in pages
#[utoipa::path(get, path = "/v1/agents", operation_id = "list_agents", tag = "agents", params(PageQuery), responses((status = 200, body = AgentPage, description = "A page"), Problems))]
pub(super) async fn agents(
    State(api): State<Api>,
    query: Result<Query<PageQuery>, QueryRejection>,
) -> Result<Json<AgentPage>, Refusal> {
    let Query(query) = query.map_err(|rejection| refuse(ErrorCode::QueryInvalid, rejection.body_text()))?;
    let limit = query.limit.unwrap_or(PAGE_AGENTS_MAX);
    let page = move |reader: &Reader| reader.page(query.organization.as_deref(), query.after.as_deref(), limit);
    read(&api, page).await.map(Json)
}

/// Show an agent
#[utoipa::path(get, path = "/v1/agents/{organization}/{agent}", operation_id = "show_agent", tag = "agents", params(("organization" = String, Path, description = "The part of the name before the slash"), ("agent" = String, Path, description = "The part after it")), responses((status = 200, body = AgentInfo, description = "The agent"), Problems))]
pub(super) async fn agent(
    State(api): State<Api>,
    Path((organization, agent)): Path<(String, String)>,
) -> Result<Json<AgentInfo>, Refusal> {
    known_agent(&api, agent_name(&organization, &agent)?).await.map(Json)
}

async fn known_agent(api: &Api, name: AgentName) -> Result<AgentInfo, Refusal> {
    let asked = name.clone();
    read(api, move |reader| reader.agent(&asked)).await?.ok_or_else(|| unknown_agent(&name))
}

/// Change an agent's type, roles or capabilities
#[utoipa::path(patch, path = "/v1/agents/{organization}/{agent}", operation_id = "set_attributes", tag = "agents", params(("organization" = String, Path, description = "The part of the name before the slash"), ("agent" = String, Path, description = "The part after it")), request_body = AttributesChange, responses((status = 200, body = AgentInfo, description = "The agent as it is now"), Problems))]
pub(super) async fn set_attributes(
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

/// Suspend, revoke or let act again
///
/// A revocation is final. It holds on every shard when the answer comes.
#[utoipa::path(put, path = "/v1/agents/{organization}/{agent}/state", operation_id = "set_state", tag = "agents", params(("organization" = String, Path, description = "The part of the name before the slash"), ("agent" = String, Path, description = "The part after it")), request_body = StateChange, responses((status = 200, body = AgentInfo, description = "The agent as it is now"), Problems))]
pub(super) async fn set_state(
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

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct AfterQuery {
    /// `next_after` of the answer before.
    after: Option<String>,
}

/// The state of all agents of an organization
///
/// Large organizations take several requests: `next_after` of one answer is `after` of the next.
#[utoipa::path(put, path = "/v1/organizations/{organization}/state", operation_id = "set_organization_state", tag = "agents", params(("organization" = String, Path, description = "The part of the names before the slash"), AfterQuery), request_body = StateChange, responses((status = 200, body = OrganizationChanged, description = "How many were changed"), Problems))]
pub(super) async fn set_states(
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

/// One signed key record, as docs/envelope-format.md gives it
#[utoipa::path(get, path = "/v1/key-records/{agent}/{version}", tag = "keys", params(("agent" = String, Path, description = "An agent id, 32 hexadecimal digits"), ("version" = u32, Path, description = "Counts from 1")), responses((status = 200, body = SignedKeyRecordBytes, content_type = "application/octet-stream", description = "The record"), Problems))]
pub(super) async fn key_record(
    State(api): State<Api>,
    Path((agent, version)): Path<(String, String)>,
) -> Result<impl IntoResponse, Refusal> {
    let unknown = || refuse(ErrorCode::RecordUnknown, format!("there is no key record {version} of agent {agent}"));
    let (id, number) = AgentId::parse_hex(&agent).zip(version.parse().ok()).ok_or_else(unknown)?;
    let record = read(&api, move |reader| reader.key_record(id, number)).await?.ok_or_else(unknown)?;
    Ok(([(header::CONTENT_TYPE, "application/octet-stream")], record))
}

/// The versions of an agent's key record, and until when each is accepted
#[utoipa::path(get, path = "/v1/agents/{organization}/{agent}/keys", operation_id = "list_keys", tag = "keys", params(("organization" = String, Path, description = "The part of the name before the slash"), ("agent" = String, Path, description = "The part after it")), responses((status = 200, body = AgentKeys, description = "The current one first"), Problems))]
pub(super) async fn keys(
    State(api): State<Api>,
    Path((organization, agent)): Path<(String, String)>,
) -> Result<Json<AgentKeys>, Refusal> {
    let name = agent_name(&organization, &agent)?;
    let (asked, key_grace_ms) = (name.clone(), api.key_grace_ms);
    let found = read(&api, move |reader| reader.keys(&asked, key_grace_ms, wall_clock_ms())).await?;
    found.map(Json).ok_or_else(|| unknown_agent(&name))
}

/// How many prekeys the node has of an agent
#[utoipa::path(get, path = "/v1/agents/{organization}/{agent}/prekeys", operation_id = "count_prekeys", tag = "keys", params(("organization" = String, Path, description = "The part of the name before the slash"), ("agent" = String, Path, description = "The part after it")), responses((status = 200, body = AgentPrekeys, description = "What is left"), Problems))]
pub(super) async fn prekeys(
    State(api): State<Api>,
    Path((organization, agent)): Path<(String, String)>,
) -> Result<Json<AgentPrekeys>, Refusal> {
    let name = agent_name(&organization, &agent)?;
    let asked = name.clone();
    let found = read(&api, move |reader| reader.prekeys(&asked)).await?;
    found.map(Json).ok_or_else(|| unknown_agent(&name))
}
