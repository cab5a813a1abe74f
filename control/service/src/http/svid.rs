//! Enrolment by an X.509-SVID.

use axum::body::Bytes;
use axum::extract::State;
use axum::extract::rejection::BytesRejection;
use axum::http::{HeaderMap, StatusCode};
use axum::response::Json;

use creto_audit::event::TokenId;
use creto_audit::{Label, What};
use creto_envelope::SignedKeyRecord;
use tokio::sync::Semaphore;

use super::agents::answer_registered;
use super::openapi::Problems;
use super::{Api, Refusal, body_of, gate, is_callers, number_of, refuse, storage_failed};
use crate::api::{AgentInfo, ErrorCode};
use crate::directory::Change;
use crate::limits::SVID_BODY_BYTES_MAX;
use crate::registration::Registration;
use crate::service::wall_clock_ms;
use crate::svid::{SvidEnrolment, TrustBundle};

/// One reading of the bundle at a time: a file system that hangs takes one thread, and none that writes the directory.
static READS: Semaphore = Semaphore::const_new(1);

/// Register an agent by an X.509-SVID
///
/// The SVID takes the place of a token: it says that this name may be taken, and the key record says by whom.
#[utoipa::path(post, path = "/v1/svid-enrolments", operation_id = "register_by_svid", tag = "agents", request_body = SvidEnrolment, responses((status = 201, body = AgentInfo, description = "It is registered"), (status = 200, body = AgentInfo, description = "It was registered with this record before"), Problems))]
pub(super) async fn enrol(
    State(api): State<Api>,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Result<(StatusCode, Json<AgentInfo>), Refusal> {
    let mut name = Label::NONE;
    let enrolled = try_to_enrol(&api, &headers, body, &mut name).await;
    if let Err(refused) = &enrolled
        && is_callers(refused.code)
    {
        let (token, peer) = (TokenId::default(), gate::caller().peer);
        api.teller.refused(What::EnrolmentRefused { token, peer, code: number_of(refused.code) }, name);
    }
    enrolled
}

/// Says in `asked` which name was asked for, once that is known.
async fn try_to_enrol(
    api: &Api,
    headers: &HeaderMap,
    body: Result<Bytes, BytesRejection>,
    asked: &mut Label,
) -> Result<(StatusCode, Json<AgentInfo>), Refusal> {
    let body = body_of(headers, body, "application/json", SVID_BODY_BYTES_MAX)?;
    let Some(path) = api.spiffe_bundle.clone() else {
        return Err(refuse(ErrorCode::SvidOff, "this node has no trust bundle of SPIFFE, so no SVID registers agents"));
    };
    let enrolment: SvidEnrolment = serde_json::from_slice(&body)
        .map_err(|error| refuse(ErrorCode::SvidMalformed, format!("the enrolment cannot be read: {error}")))?;
    // Read each time: the authorities of a trust domain change every few hours or days, and whoever brings new bundles need
    // not tell the node.
    let permit = READS.acquire().await.expect("it is never closed");
    let read = tokio::task::spawn_blocking(move || {
        let bundle = TrustBundle::read(&path);
        drop(permit);
        bundle
    })
    .await;
    let bundle = read.map_err(|_| storage_failed("the trust bundle was not read"))?.map_err(|error| {
        tracing::error!(%error, "an enrolment by SVID was refused");
        refuse(ErrorCode::SvidBundle, "the trust bundle of this node cannot be read")
    })?;
    let (trust_domain, now_ms) = (api.reader.trust_domain(), wall_clock_ms());
    let vouched =
        bundle.check(&enrolment, trust_domain, now_ms).map_err(|error| refuse(error.code(), error.to_string()))?;
    if let Ok(signed) = SignedKeyRecord::parse(vouched.record()) {
        *asked = Label::of(signed.record.name.as_str());
    }
    let registration = Registration::check(vouched.record(), trust_domain, now_ms)
        .and_then(|registration| registration.signed_for(None))
        .map_err(|error| refuse(error.code(), error.to_string()))?;
    vouched
        .check_name(&registration.signed().record.name, trust_domain)
        .map_err(|error| refuse(error.code(), error.to_string()))?;
    answer_registered(api, Change::Register(registration)).await
}
