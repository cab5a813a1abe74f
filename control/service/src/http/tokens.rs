//! Tokens for enrolment.

use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::Json;

use super::openapi::Problems;
use super::{Api, Refusal, body_of, read, refuse, storage_failed, written};
use crate::api::ErrorCode;
use crate::directory::{Change, Reader, TokenChange, TokenSet};
use crate::limits::SIGNED_KEY_RECORD_BYTES_MAX;
use crate::service::wall_clock_ms;
use crate::tokens::{self, TokenInfo, TokenList, TokenMade, TokenWanted};
use crate::writer::Answer;

/// Make a token for enrolment
///
/// Its text is in this answer and nowhere else: the node keeps a hash.
#[utoipa::path(post, path = "/v1/tokens", tag = "tokens", request_body = TokenWanted, responses((status = 201, body = TokenMade, description = "The token"), Problems))]
pub(super) async fn make_token(
    State(api): State<Api>,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Result<(StatusCode, Json<TokenMade>), Refusal> {
    let body = body_of(&headers, body, "application/json", SIGNED_KEY_RECORD_BYTES_MAX)?;
    let wanted: TokenWanted = serde_json::from_slice(&body)
        .map_err(|error| refuse(ErrorCode::TokenMalformed, format!("what is wanted cannot be read: {error}")))?;
    let row = wanted.row(wall_clock_ms()).map_err(|error| refuse(ErrorCode::TokenRange, error.to_string()))?;
    let token = tokens::generate().map_err(|error| {
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

/// List the tokens for enrolment
#[utoipa::path(get, path = "/v1/tokens", operation_id = "list_tokens", tag = "tokens", responses((status = 200, body = TokenList, description = "Without their texts"), Problems))]
pub(super) async fn tokens(State(api): State<Api>) -> Result<Json<TokenList>, Refusal> {
    Ok(Json(TokenList { tokens: read(&api, Reader::tokens).await? }))
}

/// Withdraw a token
#[utoipa::path(delete, path = "/v1/tokens/{id}", tag = "tokens", params(("id" = String, Path, description = "As the list gives it")), responses((status = 200, body = TokenInfo, description = "What it was"), Problems))]
pub(super) async fn withdraw_token(State(api): State<Api>, Path(id): Path<String>) -> Result<Json<TokenInfo>, Refusal> {
    let change = Change::Token(TokenChange::Withdraw(id.clone()));
    match written(&api, change, Answer::Token, "tokens").await? {
        TokenSet::Done(_, info) => Ok(Json(info)),
        TokenSet::Full | TokenSet::Unknown => Err(refuse(ErrorCode::TokenIdUnknown, format!("there is no token {id}"))),
    }
}
