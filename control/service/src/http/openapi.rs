//! The API's own description: OpenAPI 3.1, made from the code that serves it.

use axum::response::Json;
use utoipa::openapi::security::{ApiKey, ApiKeyValue, SecurityRequirement, SecurityScheme};
use utoipa::openapi::{
    ComponentsBuilder, ContentBuilder, InfoBuilder, LicenseBuilder, OpenApi, OpenApiBuilder, Ref, RefOr,
    ResponseBuilder, ServerBuilder, response,
};
use utoipa::{IntoResponses, PartialSchema, ToSchema};

use super::PROBLEM_JSON;
use crate::api::ApiError;

const SIGNED: &str = "http_message_signature";

/// The document of the API: every path, what it takes and what it answers. `docs/openapi.json` is this.
#[must_use]
pub fn openapi() -> OpenApi {
    super::paths().split_for_parts().1
}

/// What is true of the whole.
pub(super) fn frame() -> OpenApi {
    let signature = ApiKey::Header(ApiKeyValue::with_description(
        "signature",
        "Over TCP: HTTP Message Signatures (RFC 9421) with Ed25519 and ML-DSA-65, as docs/control-api.md gives them. On the Unix socket the kernel says who connects, and nothing is signed.",
    ));
    let components = ComponentsBuilder::new()
        .security_scheme(SIGNED, SecurityScheme::ApiKey(signature))
        .schema(ApiError::name(), ApiError::schema())
        .build();
    let info = InfoBuilder::new()
        .title("creto control API")
        .version(env!("CARGO_PKG_VERSION"))
        .description(Some(
            "Agents, keys, tokens, mailboxes, policies, audit log and backups of a node. One request per connection; what is refused comes as problem details (RFC 9457) with a stable code.",
        ))
        .license(Some(LicenseBuilder::new().name("MIT OR Apache-2.0").identifier(Some("MIT OR Apache-2.0")).build()))
        .build();
    OpenApiBuilder::new()
        .info(info)
        .servers(Some([ServerBuilder::new()
            .url("http://127.0.0.1:7440")
            .description(Some("control.listen; the Unix socket control.socket takes the same requests"))
            .build()]))
        .components(Some(components))
        .security(Some([SecurityRequirement::new(SIGNED, [] as [&str; 0])]))
        .build()
}

/// This document
#[utoipa::path(get, path = "/v1/openapi.json", operation_id = "openapi", tag = "node", responses((status = 200, description = "OpenAPI 3.1"), Problems))]
pub(super) async fn document() -> Json<OpenApi> {
    Json(openapi())
}

/// The bytes of a SignedKeyRecord, as docs/envelope-format.md gives them.
#[derive(ToSchema)]
#[schema(value_type = String, format = Binary)]
pub(super) struct SignedKeyRecordBytes(#[allow(dead_code, reason = "only its schema is used")] Vec<u8>);

/// The bytes of a SignedChannelRecord, as docs/channels.md gives them.
#[derive(ToSchema)]
#[schema(value_type = String, format = Binary)]
pub(super) struct SignedChannelRecordBytes(#[allow(dead_code, reason = "only its schema is used")] Vec<u8>);

/// Every answer that is not a success.
pub(super) struct Problems;

impl IntoResponses for Problems {
    fn responses() -> std::collections::BTreeMap<String, RefOr<response::Response>> {
        let content = ContentBuilder::new().schema(Some(Ref::from_schema_name(ApiError::name()))).build();
        let refused =
            ResponseBuilder::new().description("Refused, with a code and a next step").content(PROBLEM_JSON, content);
        [("default".to_owned(), refused.build().into())].into()
    }
}
