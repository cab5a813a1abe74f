//! Backups: the logs are held for whoever copies them.

use std::sync::Arc;

use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::response::Json;
use creto_audit::event::{Outcome, TokenId};
use creto_audit::{Label, What};
use serde::Deserialize;
use utoipa::IntoParams;

use super::openapi::Problems;
use super::{Api, Refusal, refuse, storage_failed};
use crate::api::{BackupBegun, BackupState, ErrorCode};
use crate::backup::{self, Backups, NotHeld};
use crate::limits::BACKUP_LEASE;
use crate::service::wall_clock_ms;
use crate::telling::Teller;

/// Hold the logs for a backup
///
/// For `creto backup`, on the node's machine.
#[utoipa::path(post, path = "/v1/backups", tag = "backups", responses((status = 201, body = BackupBegun, description = "What to copy, and from where"), Problems))]
pub(super) async fn begin_backup(State(api): State<Api>) -> Result<(StatusCode, Json<BackupBegun>), Refusal> {
    let id = wall_clock_ms();
    let begun = with_backups(&api, move |backups| {
        let shards = backups.begin(id)?;
        let source = backups.source().inspect_err(|_| {
            // It was not begun, then.
            let _ended = backups.end(id);
        })?;
        Ok((shards, source))
    });
    let (shards, node) = begun.await?;
    let lease_ms = u64::try_from(BACKUP_LEASE.as_millis()).unwrap_or(u64::MAX);
    let count = u16::try_from(shards.len()).unwrap_or(u16::MAX);
    // Whoever began it may die at any moment: then nobody else would take away what it left.
    let (backups, teller) = (api.backups.clone(), api.teller.clone());
    tokio::spawn(async move {
        while backups.as_ref().is_some_and(|backups| backups.is_under_way(id)) {
            tokio::time::sleep(BACKUP_LEASE).await;
            let Some(backups) = backups.clone() else { break };
            let ended = tokio::task::spawn_blocking(move || backups.end_late()).await;
            if ended.unwrap_or(false) {
                tell_backup_ended(&teller, id, Outcome::GivenUp).await;
            }
        }
    });
    api.teller.tell(What::BackupBegun { backup: backup_in(id), shards: count }, Label::NONE).await;
    let version = env!("CARGO_PKG_VERSION").to_owned();
    Ok((StatusCode::CREATED, Json(BackupBegun { id: format!("{id:x}"), lease_ms, version, node, shards })))
}

/// Hold the logs for longer
#[utoipa::path(post, path = "/v1/backups/{id}", tag = "backups", params(("id" = String, Path, description = "As the backup was begun with")), responses((status = 200, body = BackupState, description = "They are held on"), Problems))]
pub(super) async fn renew_backup(State(api): State<Api>, Path(id): Path<String>) -> Result<Json<BackupState>, Refusal> {
    let id = backup_id(&id)?;
    let directory_copy = with_backups(&api, move |backups| backups.renew(id)).await?;
    Ok(Json(BackupState { directory_copy }))
}

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct EndQuery {
    /// It is not complete, and whoever took it does not want it any more.
    #[serde(default)]
    given_up: bool,
}

/// Let the logs go
#[utoipa::path(delete, path = "/v1/backups/{id}", tag = "backups", params(("id" = String, Path, description = "As the backup was begun with"), EndQuery), responses((status = 200, body = BackupState, description = "They were held until now"), Problems))]
pub(super) async fn end_backup(
    State(api): State<Api>,
    Path(id): Path<String>,
    query: Result<Query<EndQuery>, QueryRejection>,
) -> Result<Json<BackupState>, Refusal> {
    let Query(EndQuery { given_up }) =
        query.map_err(|rejection| refuse(ErrorCode::QueryInvalid, rejection.body_text()))?;
    let id = backup_id(&id)?;
    let held = with_backups(&api, move |backups| backups.end(id)).await?;
    let outcome = match &held {
        Ok(()) if given_up => Outcome::GivenUp,
        Ok(()) => Outcome::Done,
        Err(_) => Outcome::Failed,
    };
    tell_backup_ended(&api.teller, id, outcome).await;
    held.map(|()| Json(BackupState { directory_copy: None })).map_err(not_held)
}

async fn tell_backup_ended(teller: &Teller, id: u64, outcome: Outcome) {
    teller.tell(What::BackupEnded { backup: backup_in(id), outcome }, Label::NONE).await;
}

/// A backup's id as the log has it: the same digits, with zeros before them.
fn backup_in(id: u64) -> TokenId {
    TokenId(u128::from(id).to_be_bytes())
}

fn backup_id(text: &str) -> Result<u64, Refusal> {
    u64::from_str_radix(text, 16).map_err(|_| refuse(ErrorCode::BackupOver, format!("there is no backup {text}")))
}

/// Asks for something that waits for the shards.
async fn with_backups<T: Send + 'static>(
    api: &Api,
    ask: impl FnOnce(&Arc<Backups>) -> Result<T, backup::Refused> + Send + 'static,
) -> Result<T, Refusal> {
    let unavailable = |why: String| refuse(ErrorCode::BackupUnavailable, why);
    let backups = api.backups.clone().ok_or_else(|| unavailable("this service has no node to back up".to_owned()))?;
    let answer = tokio::task::spawn_blocking(move || ask(&backups)).await;
    let answer = answer.map_err(|_| unavailable("the node could not be asked".to_owned()))?;
    answer.map_err(|refused| match refused {
        backup::Refused::Running => refuse(ErrorCode::BackupRunning, "another backup is being taken"),
        backup::Refused::NotHeld(why) => not_held(why),
        backup::Refused::CopyFailed(why) => storage_failed(&format!("the directory could not be copied: {why}")),
    })
}

fn not_held(why: NotHeld) -> Refusal {
    match why {
        NotHeld::Unavailable(why) => refuse(ErrorCode::BackupUnavailable, why),
        NotHeld::Over(why) => refuse(ErrorCode::BackupOver, why),
    }
}
