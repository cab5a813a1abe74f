//! Channels: records that their owners have signed.

use axum::body::Bytes;
use axum::extract::rejection::{BytesRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Json};
use creto_envelope::channel::{ChannelName, ChannelNameError, ChannelPattern};
use creto_envelope::limits::SIGNED_CHANNEL_RECORD_BYTES_MAX;
use serde::Deserialize;
use utoipa::IntoParams;

use super::openapi::{Problems, SignedChannelRecordBytes};
use super::{Api, Refusal, body_of, read, refuse, written};
use crate::api::ErrorCode;
use crate::channels::{ChannelInfo, ChannelPage, parse_record};
use crate::directory::{Change, ChannelPut, Reader};
use crate::limits::PAGE_CHANNELS_MAX;
use crate::service::wall_clock_ms;
use crate::writer::Answer;

/// Create, change or delete a channel
///
/// The body is a signed channel record: version 1 of a new channel, or the next version of one that is there. The record says whether it deletes the channel. A record that the node has is answered with 200 and changes nothing.
#[utoipa::path(post, path = "/v1/channels", operation_id = "put_channel", tag = "channels", request_body(content = SignedChannelRecordBytes, content_type = "application/octet-stream"), responses((status = 201, body = ChannelInfo, description = "It is created"), (status = 200, body = ChannelInfo, description = "It is changed or deleted, or was so before"), Problems))]
pub(super) async fn put(
    State(api): State<Api>,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Result<(StatusCode, Json<ChannelInfo>), Refusal> {
    let body = body_of(&headers, body, "application/octet-stream", SIGNED_CHANNEL_RECORD_BYTES_MAX)?;
    let refused = |(code, message)| refuse(code, message);
    let signed = parse_record(&body, api.reader.trust_domain(), wall_clock_ms()).map_err(refused)?;
    let name = signed.record.name.clone();
    let checked = read(&api, move |reader| reader.check_channel(signed)).await?.map_err(refused)?;
    let status = match written(&api, Change::Channel(checked), Answer::Channel, "channels").await? {
        ChannelPut::Created => StatusCode::CREATED,
        ChannelPut::Changed | ChannelPut::Deleted | ChannelPut::Known => StatusCode::OK,
        ChannelPut::Refused(code, message) => return Err(refuse(code, message)),
    };
    let put = name.clone();
    let shown = read(&api, move |reader| reader.channel_as_put(&put)).await?;
    Ok((status, Json(shown.ok_or_else(|| unknown(&name))?)))
}

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct ChannelsQuery {
    /// Only channels whose names fit, such as `acme/alerts.*.critical` or `acme/alerts.**`.
    pattern: Option<String>,
    /// `next_after` of the page before.
    after: Option<String>,
    /// Most channels of a page; it may hold fewer and not be the last.
    #[param(minimum = 1, maximum = 1000, default = 1000)]
    limit: Option<usize>,
}

/// List channels, by name, in pages
#[utoipa::path(get, path = "/v1/channels", operation_id = "list_channels", tag = "channels", params(ChannelsQuery), responses((status = 200, body = ChannelPage, description = "A page"), Problems))]
pub(super) async fn channels(
    State(api): State<Api>,
    query: Result<Query<ChannelsQuery>, QueryRejection>,
) -> Result<Json<ChannelPage>, Refusal> {
    let Query(query) = query.map_err(|rejection| refuse(ErrorCode::QueryInvalid, rejection.body_text()))?;
    let pattern = query.pattern.as_deref().map(ChannelPattern::parse).transpose().map_err(|error| invalid(&error))?;
    let limit = query.limit.unwrap_or(PAGE_CHANNELS_MAX);
    let page = move |reader: &Reader| reader.channels(pattern.as_ref(), query.after.as_deref(), limit);
    read(&api, page).await.map(Json)
}

/// Show a channel
#[utoipa::path(get, path = "/v1/channels/{organization}/{words}", operation_id = "show_channel", tag = "channels", params(("organization" = String, Path, description = "The part of the name before the slash"), ("words" = String, Path, description = "The part after it")), responses((status = 200, body = ChannelInfo, description = "The channel"), Problems))]
pub(super) async fn channel(
    State(api): State<Api>,
    Path((organization, words)): Path<(String, String)>,
) -> Result<Json<ChannelInfo>, Refusal> {
    let name = channel_name(&organization, &words)?;
    let asked = name.clone();
    read(&api, move |reader| reader.channel(&asked)).await?.map(Json).ok_or_else(|| unknown(&name))
}

/// The signed record of a channel
///
/// Of a deleted channel, too: its version is what the next one follows.
#[utoipa::path(get, path = "/v1/channel-records/{organization}/{words}", operation_id = "channel_record", tag = "channels", params(("organization" = String, Path, description = "The part of the name before the slash"), ("words" = String, Path, description = "The part after it")), responses((status = 200, body = SignedChannelRecordBytes, content_type = "application/octet-stream", description = "The record"), Problems))]
pub(super) async fn record(
    State(api): State<Api>,
    Path((organization, words)): Path<(String, String)>,
) -> Result<impl IntoResponse, Refusal> {
    let name = channel_name(&organization, &words)?;
    let asked = name.clone();
    let found = read(&api, move |reader| reader.channel_record(&asked)).await?;
    let record = found.ok_or_else(|| unknown(&name))?;
    Ok(([(header::CONTENT_TYPE, "application/octet-stream")], record))
}

fn channel_name(organization: &str, words: &str) -> Result<ChannelName, Refusal> {
    ChannelName::parse(&format!("{organization}/{words}")).map_err(|error| invalid(&error))
}

fn invalid(error: &ChannelNameError) -> Refusal {
    refuse(ErrorCode::ChannelNameInvalid, error.to_string())
}

fn unknown(name: &ChannelName) -> Refusal {
    refuse(ErrorCode::ChannelUnknown, format!("there is no channel {name}"))
}
