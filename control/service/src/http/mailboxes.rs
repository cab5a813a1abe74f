//! What holds for mailboxes.

use axum::body::Bytes;
use axum::extract::rejection::{BytesRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use axum::http::HeaderMap;
use axum::response::Json;
use creto_envelope::AgentId;

use super::openapi::Problems;
use super::{Api, PageQuery, Refusal, agent_name, body_of, read, refuse, unknown_agent, written};
use crate::api::{ErrorCode, MailboxInfo, MailboxPage};
use crate::depths::MailboxDepths;
use crate::directory::{Change, MailboxSet, Reader};
use crate::health::Health;
use crate::limits::{PAGE_AGENTS_MAX, SIGNED_KEY_RECORD_BYTES_MAX};
use crate::mailboxes::{MailboxChange, MailboxRequest};
use crate::writer::Answer;

/// What holds for mailboxes, by name, in pages
#[utoipa::path(get, path = "/v1/mailboxes", operation_id = "list_mailboxes", tag = "mailboxes", params(PageQuery), responses((status = 200, body = MailboxPage, description = "A page"), Problems))]
pub(super) async fn mailboxes(
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

/// The mailboxes and channels in which most waits, at most 32
///
/// As of the last look of each shard: of the last second on a node with a thousand mailboxes, older where there are very many. Only
/// names and counts.
#[utoipa::path(get, path = "/v1/mailboxes/fullest", operation_id = "fullest_mailboxes", tag = "mailboxes", responses((status = 200, body = MailboxDepths, description = "Those with most messages first"), Problems))]
pub(super) async fn fullest(State(health): State<Health>) -> Json<MailboxDepths> {
    Json(health.depths())
}

/// What holds for a mailbox
#[utoipa::path(get, path = "/v1/mailboxes/{organization}/{agent}", operation_id = "show_mailbox", tag = "mailboxes", params(("organization" = String, Path, description = "The part of the name before the slash"), ("agent" = String, Path, description = "The part after it")), responses((status = 200, body = MailboxInfo, description = "What is set and what is in force"), Problems))]
pub(super) async fn mailbox(
    State(api): State<Api>,
    Path((organization, agent)): Path<(String, String)>,
) -> Result<Json<MailboxInfo>, Refusal> {
    let name = agent_name(&organization, &agent)?;
    let (asked, defaults) = (name.clone(), api.mailbox_defaults);
    let found = read(&api, move |reader| reader.mailbox(&asked, &defaults)).await?;
    found.map(Json).ok_or_else(|| unknown_agent(&name))
}

/// Change what holds for a mailbox
#[utoipa::path(patch, path = "/v1/mailboxes/{organization}/{agent}", tag = "mailboxes", params(("organization" = String, Path, description = "The part of the name before the slash"), ("agent" = String, Path, description = "The part after it")), request_body = MailboxChange, responses((status = 200, body = MailboxInfo, description = "What is set and what is in force"), Problems))]
pub(super) async fn set_mailbox(
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
