//! The JSON of the HTTP API, version 1, and its error codes. Server and client share these types.
//!
//! | request | answer |
//! |---|---|
//! | `POST /v1/agents`, `application/octet-stream`: a SignedKeyRecord | 201 or 200 (known already) with [`AgentInfo`]; 409, 422 |
//! | `GET /v1/agents?organization=acme&after=acme/a&limit=100` | 200 with [`AgentPage`], by name |
//! | `GET /v1/agents/{organization}/{agent}` | 200 with [`AgentInfo`]; 404 |
//! | `PATCH /v1/agents/{organization}/{agent}`, `application/json`: an [`AttributesChange`](crate::attributes::AttributesChange) | 200 with [`AgentInfo`]; 404, 422 |
//! | `PUT /v1/agents/{organization}/{agent}/state`, `application/json`: a [`StateChange`](crate::states::StateChange) | 200 with [`AgentInfo`]; 404, 409, 422 |
//! | `PUT /v1/organizations/{organization}/state?after=acme/a`, the same | 200 with [`OrganizationChanged`](crate::states::OrganizationChanged); 404, 422 |
//! | `POST /v1/tokens`, `application/json`: a [`TokenWanted`](crate::tokens::TokenWanted) | 201 with [`TokenMade`](crate::tokens::TokenMade); 422, 507 |
//! | `GET /v1/tokens` | 200 with [`TokenList`](crate::tokens::TokenList) |
//! | `DELETE /v1/tokens/{id}` | 200 with [`TokenInfo`](crate::tokens::TokenInfo); 404 |
//! | `POST /v1/svid-enrolments`, `application/json`: a [`SvidEnrolment`](crate::svid::SvidEnrolment) | 201 or 200 (known already) with [`AgentInfo`]; 403, 409, 422 |
//! | `GET /v1/key-records/{agent id}/{version}` | 200, `application/octet-stream`: a SignedKeyRecord; 404 |
//! | `GET /v1/agents/{organization}/{agent}/keys` | 200 with [`AgentKeys`]; 404 |
//! | `GET /v1/agents/{organization}/{agent}/prekeys` | 200 with [`AgentPrekeys`]; 404 |
//! | `GET /v1/mailboxes?organization=acme&after=acme/a&limit=100` | 200 with [`MailboxPage`], by name |
//! | `GET /v1/mailboxes/fullest` | 200 with [`MailboxDepths`](crate::depths::MailboxDepths) |
//! | `GET /v1/mailboxes/{organization}/{agent}` | 200 with [`MailboxInfo`]; 404 |
//! | `PATCH /v1/mailboxes/{organization}/{agent}`, `application/json`: a [`MailboxChange`](crate::mailboxes::MailboxChange) | 200 with [`MailboxInfo`]; 404, 422 |
//! | `POST /v1/channels`, `application/octet-stream`: a SignedChannelRecord | 201 (created) or 200 (changed, deleted, or known already) with [`ChannelInfo`](crate::channels::ChannelInfo); 403, 409, 422, 507 |
//! | `GET /v1/channels?pattern=acme/alerts.*&after=acme/a&limit=100` | 200 with [`ChannelPage`](crate::channels::ChannelPage), by name |
//! | `GET /v1/channels/{organization}/{words}` | 200 with [`ChannelInfo`](crate::channels::ChannelInfo); 404 |
//! | `GET /v1/channel-records/{organization}/{words}` | 200, `application/octet-stream`: a SignedChannelRecord, of a deleted channel too; 404 |
//! | `GET /v1/policy` | 200 with [`PolicyInfo`] |
//! | `POST /v1/policy/reload` | 200 with [`PolicyInfo`]: what is in force now; 409, 422 |
//! | `GET /v1/policy/explain?from=acme/a&action=send_message&to=acme/b` | 200 with [`DecisionInfo`]; 400, 404 |
//! | `GET /v1/audit/events?from=0&limit=1000` | 200 with [`AuditPage`]; 503 |
//! | `GET /v1/audit/proofs/{leaf}` | 200, `text/plain`: the entry with its proof; 404, 503 |
//! | `GET /v1/audit/checkpoint`, `GET /v1/audit/keys` | 200, `text/plain`; 503 |
//! | `GET /v1/openapi.json` | 200, the [document](crate::openapi) of the API |
//! | `GET /v1/status` | 200 with [`Status`] |
//! | `GET /v1/ready` | 200 when every shard serves, by the directory that there is, 503 otherwise, with [`Readiness`](crate::health::Readiness) |
//! | `POST /v1/backups` | 201 with [`BackupBegun`]; 409, 503 |
//! | `POST /v1/backups/{id}` | 200 with [`BackupState`]: the logs are held on; 410 |
//! | `DELETE /v1/backups/{id}?given_up=true` | 200 with [`BackupState`]: the logs were held until now; 410. Without `given_up` the backup is complete |
//!
//! A registration brings its token for enrolment in the header [`TOKEN_HEADER`]; where `control.enrolment` is `"token"` it must. An
//! enrolment by an SVID needs none.
//! Every other answer is an [`ApiError`]. Fields may be added; none changes its meaning.

use std::collections::BTreeMap;
use std::path::PathBuf;

use creto_envelope::AgentState;
use creto_rego::Obligations;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::mailboxes::MailboxDefaults;

/// The header of a registration that has its token for enrolment.
pub const TOKEN_HEADER: &str = "creto-enrolment-token";

macro_rules! error_codes {
    ($( $(#[doc = $doc:literal])+ $name:ident = $code:literal, $status:literal, $next:literal; )+) => {
        /// Why a request was refused. The texts are stable: a code never changes its meaning.
        #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
        #[non_exhaustive]
        pub enum ErrorCode {
            $( $(#[doc = $doc])+ $name, )+
        }

        impl ErrorCode {
            /// Every code.
            pub const ALL: &'static [Self] = &[ $( Self::$name, )+ ];

            /// The code as the API writes it.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $( Self::$name => $code, )+ }
            }

            /// The HTTP status that goes with it.
            #[must_use]
            pub const fn http_status(self) -> u16 {
                match self { $( Self::$name => $status, )+ }
            }

            /// What to do next.
            #[must_use]
            pub const fn next(self) -> &'static str {
                match self { $( Self::$name => $next, )+ }
            }
        }
    };
}

error_codes! {
    /// The body is not a signed key record.
    RecordMalformed = "record_malformed", 422, "send the bytes of a SignedKeyRecord as docs/envelope-format.md gives them";
    /// The record belongs to another trust domain.
    TrustDomain = "trust_domain", 422, "create the agent with this node's trust domain, see `creto config show`";
    /// The record's state byte is set.
    RecordState = "record_state", 422, "register with state 0 (active); states are set by the operator afterwards";
    /// The first record of an agent must have version 1.
    VersionNotFirst = "version_not_first", 422, "register the agent with version 1 of its key record first";
    /// The record's validity ends before it starts, or is over.
    Validity = "validity", 422, "check the clock and create the keys again with a validity that lies ahead";
    /// A key is of a kind that must not be used.
    WeakKey = "weak_key", 422, "create new keys with `creto agent create`";
    /// The record is not signed by both of its own keys.
    SelfSignature = "self_signature", 422, "sign the record, as it is sent, with both of its signing keys";
    /// The name is registered with other keys.
    NameTaken = "name_taken", 409, "choose another name, or use the keys that this name was registered with";
    /// No agent has this name.
    AgentUnknown = "agent_unknown", 404, "check the name with `creto agent list`, or create it with `creto agent create`";
    /// No key record with this version belongs to this agent.
    RecordUnknown = "record_unknown", 404, "check agent id and version; `creto agent show` prints both";
    /// The body is not a change of a mailbox's settings.
    SettingsMalformed = "settings_malformed", 422, "send a JSON object with retention_s, messages_max, bytes_max or max_deliveries; null takes one back";
    /// A setting is outside its range.
    SettingRange = "setting_range", 422, "choose a value inside the range, or null for the node's default";
    /// No file of policy is configured.
    PolicyNotConfigured = "policy_not_configured", 409, "set [policy] file in the configuration and restart the node";
    /// The file of policy cannot be loaded.
    PolicyRefused = "policy_refused", 422, "correct the file and load it again; the policy before it stays in force";
    /// The action is none that a node decides.
    ActionUnknown = "action_unknown", 400, "ask about send_message or read_directory";
    /// The body is not a change of an agent's attributes.
    AttributesMalformed = "attributes_malformed", 422, "send a JSON object with type, roles or capabilities; null takes one back";
    /// An attribute is too long, is not plain ASCII, or there are too many.
    AttributeRange = "attribute_range", 422, "give texts of 1 to 512 plain ASCII characters, at most 64 roles and 256 capabilities";
    /// The body is not a change of state.
    StateMalformed = "state_malformed", 422, "send a JSON object with state (active, suspended or revoked), and if wanted reason and since_ms";
    /// A reason is too long or cannot be shown, or a time cannot be meant.
    StateRange = "state_range", 422, "give a reason of one line, at most 512 bytes, and since_ms only for a revocation, not ahead of the clock";
    /// The agent was revoked, which is final.
    AgentRevoked = "agent_revoked", 409, "create another agent under another name: a revocation is final";
    /// The organization has no agents.
    OrganizationUnknown = "organization_unknown", 404, "check the name with `creto agent list`";
    /// This node registers nobody without a token.
    TokenMissing = "token_missing", 401, "have the operator run `creto token create`, then give its token with --token";
    /// No such token was made here.
    TokenUnknown = "token_unknown", 403, "copy the whole token, or have the operator make another with `creto token create`";
    /// The token's time is over.
    TokenExpired = "token_expired", 403, "have the operator make another with `creto token create`";
    /// The token was used as often as it may be.
    TokenUsed = "token_used", 403, "have the operator make another with `creto token create`, and say so if you never used this one";
    /// The token is for another name or another organization.
    TokenScope = "token_scope", 403, "register the agent that the token was made for, or ask for another token";
    /// The body does not say what token is wanted.
    TokenMalformed = "token_malformed", 422, "send a JSON object with organization, expires_in_s, uses, and name if it is for one agent";
    /// A token with these values cannot be made.
    TokenRange = "token_range", 422, "give an organization or an agent of it, a life of 1 minute to 90 days, and 1 to 10000 uses, one for a name";
    /// The record was signed for another token, for none although one is brought, or for one that is not.
    RecordPurpose = "record_purpose", 403, "sign the key record for the token that goes with it, or for none without one; `creto agent create` does";
    /// No trust bundle is configured.
    SvidOff = "svid_off", 409, "set [control] spiffe_bundle in the configuration and restart the node, or enrol with a token";
    /// The enrolment or its certificates cannot be read.
    SvidMalformed = "svid_malformed", 422, "send a JSON object with record, certificates, scheme and signature, as docs/operations.md gives them";
    /// The certificate does not have exactly one URI that is a SPIFFE id of an agent.
    SvidUri = "svid_uri", 422, "have the workload's entry give it one SPIFFE id, spiffe://TRUST-DOMAIN/ORGANIZATION/AGENT";
    /// The certificate is that of an authority.
    SvidAuthority = "svid_authority", 422, "send the workload's own certificate first, not its issuer's";
    /// The key usage of the certificate is not that of a workload.
    SvidKeyUsage = "svid_key_usage", 422, "have it issued with the key usage digitalSignature alone, and for clients if it says for what";
    /// The certificate belongs to another trust domain.
    SvidTrustDomain = "svid_trust_domain", 403, "enrol at a node of the certificate's trust domain; `creto config show` prints that of this one";
    /// The SPIFFE id is another agent's.
    SvidName = "svid_name", 403, "create the agent that the path of the SPIFFE id names";
    /// A certificate is not valid now.
    SvidTime = "svid_time", 403, "take the newest SVID from the SPIFFE agent, and check both clocks";
    /// No authority of the trust bundle stands behind the certificate.
    SvidUntrusted = "svid_untrusted", 403, "send the intermediate certificates, too, and check that the node's spiffe_bundle is current";
    /// The enrolment is not signed with the certificate's key.
    SvidSignature = "svid_signature", 403, "sign with the private key that belongs to the certificate; --svid and --svid-key must be a pair";
    /// The trust bundle cannot be read.
    SvidBundle = "svid_bundle", 500, "correct the file that [control] spiffe_bundle names; the node's log says what is wrong with it";
    /// No token has this id.
    TokenIdUnknown = "token_id_unknown", 404, "see `creto token list`";
    /// There are as many tokens as there may be.
    TokensFull = "tokens_full", 507, "withdraw tokens that are not needed: `creto token list`, `creto token withdraw ID`";
    /// The text is not an agent name.
    NameInvalid = "name_invalid", 400, "write organization/agent, such as acme/planner";
    /// A parameter of the query cannot be read.
    QueryInvalid = "query_invalid", 400, "use organization, after and limit as the API documents them";
    /// The body has another content type.
    ContentType = "content_type", 415, "send Content-Type: application/octet-stream for key records, application/json for settings, attributes, states and tokens";
    /// The body is too large.
    BodyTooLarge = "body_too_large", 413, "send one key record, or one object of settings, attributes or a state, and nothing else";
    /// The body ended too early.
    BodyIncomplete = "body_incomplete", 400, "send the whole body";
    /// The request came over TCP and is not signed as this API wants it.
    RequestUnsigned = "request_unsigned", 401, "sign the request with both keys of an administrator, as docs/control-api.md gives it";
    /// One of the two signatures does not hold.
    RequestSignature = "request_signature", 401, "sign the request as it is sent, with the keys that the agent is registered with";
    /// The request was signed too long ago, or ahead of the node's clock.
    RequestStale = "request_stale", 401, "set the clocks and sign the request again";
    /// The request was taken before.
    RequestReplayed = "request_replayed", 401, "sign the request again, with another nonce";
    /// The body is not the one that was signed.
    ContentDigest = "content_digest", 400, "sign the digest of the body as it is sent";
    /// The request is addressed to somebody else.
    Authority = "authority", 421, "address the request to what the node listens on, see `creto config show`";
    /// The agent that signed is no administrator, or may not act.
    NotAdministrator = "not_administrator", 403, "use an agent that control.administrators names, or have the operator name this one";
    /// An administrator asks too often.
    TooManyRequests = "too_many_requests", 429, "wait a second, and ask for larger pages";
    /// The request took too long.
    RequestTimeout = "request_timeout", 408, "send the request again; registering the same record twice does no harm";
    /// There is no such path.
    PathUnknown = "path_unknown", 404, "use a path that the API documents, such as /v1/status";
    /// The path exists, the method does not.
    Method = "method", 405, "use GET, POST for /v1/agents, PATCH for an agent or a mailbox, PUT for a state";
    /// The directory has reached its limit.
    DirectoryFull = "directory_full", 507, "start a second node for further agents";
    /// The directory's file could not be read or written.
    StorageFailed = "storage_failed", 500, "look at the node's log and the free space, then restart the node";
    /// Another backup is being taken.
    BackupRunning = "backup_running", 409, "wait for the other backup; one that was killed is forgotten after 30 s";
    /// The logs are not held for this backup any more.
    BackupOver = "backup_over", 410, "take another backup; what this one has copied may be from different times";
    /// The audit log has no such leaf, or its entry was dropped.
    LeafUnknown = "leaf_unknown", 404, "ask for a leaf below the size of the checkpoint; entries are dropped after [audit] retention";
    /// The audit log cannot be read now.
    AuditUnavailable = "audit_unavailable", 503, "try again in a second; if it stays so, look at the node's log";
    /// The body is not a signed record of a channel.
    ChannelMalformed = "channel_malformed", 422, "send the bytes of a signed channel record as docs/channels.md gives them, dated by a clock that is right";
    /// The owner is no active agent of the channel's organization, or another one owns the channel.
    ChannelOwner = "channel_owner", 403, "name an active agent of the channel's organization as its owner, and its current owner for a change";
    /// The record is not signed by both of its owner's keys.
    ChannelSignature = "channel_signature", 422, "sign the record, as it is sent, with both signing keys of the owner's key record";
    /// The record is not the next version of what the node has.
    ChannelVersion = "channel_version", 409, "look at the channel with `creto channel show`, then change it again";
    /// No channel has this name, or it was deleted.
    ChannelUnknown = "channel_unknown", 404, "check the name with `creto channel list`, or create it with `creto channel create`";
    /// The text is no channel's name, or no pattern of names.
    ChannelNameInvalid = "channel_name_invalid", 400, "write organization/words, such as acme/alerts.eu, or a pattern such as acme/alerts.*";
    /// There are as many channels as there may be.
    ChannelsFull = "channels_full", 507, "delete channels that nobody needs: `creto channel list`, `creto channel delete`";
    /// A shard does not hold its log now.
    BackupUnavailable = "backup_unavailable", 503, "try again when the node is ready";
    /// The service is shutting down.
    ShuttingDown = "shutting_down", 503, "send the request again when the node is back";
}

/// The body of every answer that is not a success: problem details (RFC 9457), `application/problem+json`, of no `type` of their
/// own, with a code and a next step beside what the standard names.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct ApiError {
    /// What the HTTP status is called.
    pub title: String,
    /// The HTTP status.
    pub status: u16,
    /// Stable, for programs: one of [`ErrorCode`].
    pub code: String,
    /// What is wrong, for people.
    #[serde(rename = "detail")]
    pub message: String,
    /// What to do next, for people.
    pub next: String,
}

/// An agent as the directory shows it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct AgentInfo {
    /// `organization/agent`.
    pub name: String,
    /// The agent id, 32 hexadecimal digits.
    pub id: String,
    /// The SPIFFE id.
    pub spiffe_id: String,
    /// The part of the name before the slash.
    pub organization: String,
    /// `active`, `suspended` or `revoked`.
    pub state: String,
    /// Since when it is suspended or revoked, Unix milliseconds: what a revoked agent signed later is void.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state_since_ms: Option<u64>,
    /// When that was said, Unix milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state_set_at_ms: Option<u64>,
    /// Why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state_reason: Option<String>,
    /// Version of the current key record.
    pub version: u32,
    /// Id of the current encryption key, 32 hexadecimal digits.
    pub key_id: String,
    /// Start of the current record's validity, Unix milliseconds.
    pub valid_from_ms: u64,
    /// End of the current record's validity, Unix milliseconds (exclusive).
    pub valid_until_ms: u64,
    /// When the agent was registered here, Unix milliseconds.
    pub registered_at_ms: u64,
    /// What kind of agent it is; `agent` unless it was set.
    #[serde(rename = "type")]
    pub agent_type: String,
    /// Its roles, sorted.
    pub roles: Vec<String>,
    /// Its capabilities, sorted.
    pub capabilities: Vec<String>,
}

/// The versions of an agent's key record.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct AgentKeys {
    /// `organization/agent`.
    pub name: String,
    /// How long a replaced encryption key is accepted, in milliseconds.
    pub key_grace_ms: u64,
    /// The current one first; at most the newest hundred.
    pub versions: Vec<KeyVersionInfo>,
}

/// What is left of the prekeys that an agent uploaded.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct AgentPrekeys {
    /// `organization/agent`.
    pub name: String,
    /// The version of its key record that is current.
    pub version: u32,
    /// One-time prekeys of that version that were not handed out.
    pub one_time: u32,
    /// Whether there is one of last resort.
    pub last_resort: bool,
    /// The agent is told when it has fewer than this.
    pub low: u64,
    /// When it uploaded prekeys last, by its own clock, Unix milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uploaded_at_ms: Option<u64>,
}

/// One version of a key record.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct KeyVersionInfo {
    /// Counts from 1.
    pub version: u32,
    /// Id of its encryption key, 32 hexadecimal digits.
    pub key_id: String,
    /// What may be sealed to that key: one of [`KeyState`].
    pub state: String,
    /// Start of the record's validity, Unix milliseconds.
    pub valid_from_ms: u64,
    /// End of the record's validity, Unix milliseconds (exclusive).
    pub valid_until_ms: u64,
    /// When the next version replaced it, Unix milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replaced_at_ms: Option<u64>,
    /// Until when messages that are sealed to the key are still accepted; only in state `grace`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub accepted_until_ms: Option<u64>,
}

/// Whether messages that are sealed to a key are accepted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum KeyState {
    /// `current`: it is the one to seal to.
    Current,
    /// `grace`: it was replaced, and still is accepted.
    Grace,
    /// `ended`: it was replaced longer ago than the grace period.
    Ended,
    /// `revoked`: an emergency ended it at once.
    Revoked,
}

impl KeyState {
    /// The state's word in the API.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Current => "current",
            Self::Grace => "grace",
            Self::Ended => "ended",
            Self::Revoked => "revoked",
        }
    }
}

/// One page of the list of agents.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct AgentPage {
    /// In the order of their names.
    pub agents: Vec<AgentInfo>,
    /// Pass this as `after` to get the next page; absent on the last one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_after: Option<String>,
}

/// What is set for a mailbox, and what is in force.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct MailboxInfo {
    /// `organization/agent`.
    pub name: String,
    /// The agent id, 32 hexadecimal digits.
    pub id: String,
    /// How long what nobody acknowledges is kept, in seconds; `null`: the node's default.
    pub retention_s: Option<u32>,
    /// Most messages queued; `null`: the node's default.
    pub messages_max: Option<u32>,
    /// Most bytes queued; `null`: the node's default.
    pub bytes_max: Option<u64>,
    /// After so many deliveries a message is given up; `null`: the node's default.
    pub max_deliveries: Option<u8>,
    /// What holds for it.
    pub in_force: MailboxDefaults,
}

/// One page of the list of mailboxes.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct MailboxPage {
    /// In the order of their names.
    pub mailboxes: Vec<MailboxInfo>,
    /// Pass this as `after` to get the next page; absent on the last one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_after: Option<String>,
}

/// How the service is.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct Status {
    /// Version of the software.
    pub version: String,
    /// The trust domain of all names here.
    pub trust_domain: String,
    /// Counts the changes of the directory; the shards' snapshot has the same number.
    pub epoch: u64,
    /// How many agents are registered.
    pub agents: u64,
    /// Name of the policy in force; [`PolicyInfo`] has more.
    pub policy: String,
    /// When the service started, Unix milliseconds.
    pub started_at_ms: u64,
}

/// One value of what a node counts and measures.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, ToSchema)]
pub struct MetricReading {
    /// Its name, as `docs/metrics.md` lists it.
    pub name: String,
    /// `counter`, `gauge` or `histogram`.
    pub kind: String,
    /// Labels and their values.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Of a counter or a gauge.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<f64>,
    /// Of a histogram.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub histogram: Option<MetricHistogram>,
}

/// How much of what was measured was at most how large.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, ToSchema)]
pub struct MetricHistogram {
    /// Pairs of an upper bound and the count up to it, in the unit that the name ends with.
    pub upto: Vec<(f64, u64)>,
    /// All that was measured.
    pub count: u64,
    /// Their sum.
    pub sum: f64,
}

impl From<&creto_metrics::Sample> for MetricReading {
    fn from(sample: &creto_metrics::Sample) -> Self {
        let family = sample.family;
        let (value, histogram) = match &sample.value {
            creto_metrics::Value::Number(value) => (Some(*value), None),
            creto_metrics::Value::Histogram(buckets) => {
                let creto_metrics::Buckets { upto, count, sum } = buckets.clone();
                (None, Some(MetricHistogram { upto, count, sum }))
            }
        };
        let names = family.labels.iter().map(|&name| name.to_owned());
        Self {
            name: family.name.to_owned(),
            kind: family.kind.as_str().to_owned(),
            labels: names.zip(sample.labels.iter().cloned()).collect(),
            value,
            histogram,
        }
    }
}

/// The policy in force.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct PolicyInfo {
    /// The file; `same-organization` when none is configured, `fail-open` while it cannot be loaded and all is allowed.
    pub name: String,
    /// SHA-256 of the file, 64 hexadecimal digits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sha256: Option<String>,
    /// The epoch from which it is in force; decisions of an earlier one are void.
    pub epoch: u64,
    /// When it was loaded, Unix milliseconds.
    pub loaded_at_ms: u64,
    /// What it reads of a request.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub reads: Vec<String>,
    /// Whether the configuration allows everything while no policy can be loaded.
    pub allows_on_failure: bool,
    /// Why what is in the file is not in force.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<String>,
}

/// What the node decides about two agents, and why.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct DecisionInfo {
    /// Whether it may be done.
    pub allow: bool,
    /// The reject code that the agent gets; none with a yes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<u16>,
    /// Why not; none with a yes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// What a yes is bound to, if to something.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bound_to: Option<Obligations>,
    /// Name of the policy.
    pub policy: String,
    /// The epoch from which it is in force.
    pub policy_epoch: u64,
    /// The epoch of agents and policy under which this was decided.
    pub epoch: u64,
    /// Each rule `allow` of a file of policy as if it stood alone.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rules: Vec<RuleInfo>,
    /// What a file of policy saw.
    #[serde(default, skip_serializing_if = "serde_json::Value::is_null")]
    pub inputs: serde_json::Value,
    /// How many recent messages of the sender the node counts, if the policy reads that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recent_messages: Option<u32>,
    /// Shards that keep a decision, and would answer with it.
    pub kept: Vec<KeptDecision>,
}

/// One rule `allow`, as if there were no other.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct RuleInfo {
    /// Line on which it begins, counted from 1.
    pub line: u32,
    /// That line.
    pub text: String,
    /// Whether the policy would allow with this rule alone.
    pub allow: bool,
    /// Why it would have no answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// A decision that a shard keeps.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct KeptDecision {
    /// Counts from 0.
    pub shard: u16,
    /// Whether it is a yes.
    pub allow: bool,
    /// The reject code of a no.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<u16>,
}

/// Events of the audit log, in the order of its leaves.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, ToSchema)]
pub struct AuditPage {
    /// Who the log is of.
    pub origin: String,
    /// Leaves of the checkpoint that they were read under: signed by both keys.
    pub size: u64,
    /// When that was signed, by the node's clock, Unix milliseconds.
    pub signed_at_ms: u64,
    /// What each says, with its leaf (`index`); those that were dropped are left out.
    #[schema(value_type = Vec<Object>)]
    pub events: Vec<serde_json::Value>,
    /// Pass this as `from` to read on; absent where the checkpoint ends.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_from: Option<u64>,
}

/// A backup that may begin to copy. It asks again with its id within `lease_ms`, or it is over.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct BackupBegun {
    /// Names the backup in further requests.
    pub id: String,
    /// Time within which the next request must come, in milliseconds.
    pub lease_ms: u64,
    /// Version of the software.
    pub version: String,
    /// Where things are on the node's machine.
    pub node: BackupSource,
    /// The log of each shard, held up to a durable point.
    pub shards: Vec<HeldShard>,
}

/// What a node consists of, and where.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct BackupSource {
    /// Folder of everything the node keeps.
    #[schema(value_type = String)]
    pub data_dir: PathBuf,
    /// Folder of the logs.
    #[schema(value_type = String)]
    pub wal_dir: PathBuf,
    /// TLS certificate.
    #[schema(value_type = String)]
    pub certificate: PathBuf,
    /// TLS private key.
    #[schema(value_type = String)]
    pub private_key: PathBuf,
    /// The configuration in force, as a file.
    pub configuration: String,
    /// The audit log as it was when the logs were held; none where it cannot be read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub audit: Option<AuditMoment>,
}

/// What was durable and signed of an audit log.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct AuditMoment {
    /// The signed checkpoint.
    pub checkpoint: String,
    /// The commit, as it stands in the log's file.
    pub commit: Vec<u8>,
}

/// A log up to a frame that is durable.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct HeldShard {
    /// Whose log it is.
    pub shard: u16,
    /// The first segment that belongs to it.
    pub first_segment: u64,
    /// The last one.
    pub last_segment: u64,
    /// Where it ends in the last one: what lies behind is not to be copied.
    pub end_offset: u64,
    /// Its last frame.
    pub end_lsn: u64,
    /// The epoch of the node's start.
    pub epoch: u64,
}

/// How a backup is.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct BackupState {
    /// The copy of the directory, once it is complete: taken at one moment, after that of the logs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub directory_copy: Option<PathBuf>,
}

/// The state's word in the API.
#[must_use]
pub const fn state_word(state: AgentState) -> &'static str {
    match state {
        AgentState::Active => "active",
        AgentState::Suspended => "suspended",
        AgentState::Revoked => "revoked",
    }
}
