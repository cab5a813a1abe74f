//! The JSON of the HTTP API, version 1, and its error codes. Server and client share these types.
//!
//! | request | answer |
//! |---|---|
//! | `POST /v1/agents`, `application/octet-stream`: a SignedKeyRecord | 201 or 200 (known already) with [`AgentInfo`]; 409, 422 |
//! | `GET /v1/agents?organization=acme&after=acme/a&limit=100` | 200 with [`AgentPage`], by name |
//! | `GET /v1/agents/{organization}/{agent}` | 200 with [`AgentInfo`]; 404 |
//! | `GET /v1/key-records/{agent id}/{version}` | 200, `application/octet-stream`: a SignedKeyRecord; 404 |
//! | `GET /v1/agents/{organization}/{agent}/keys` | 200 with [`AgentKeys`]; 404 |
//! | `GET /v1/status` | 200 with [`Status`] |
//!
//! Every other answer is an [`ApiError`]. Fields may be added; none changes its meaning.

use creto_envelope::AgentState;
use serde::{Deserialize, Serialize};

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
    /// The text is not an agent name.
    NameInvalid = "name_invalid", 400, "write organization/agent, such as acme/planner";
    /// A parameter of the query cannot be read.
    QueryInvalid = "query_invalid", 400, "use organization, after and limit as the API documents them";
    /// The body has another content type.
    ContentType = "content_type", 415, "send Content-Type: application/octet-stream";
    /// The body is too large.
    BodyTooLarge = "body_too_large", 413, "send one SignedKeyRecord and nothing else";
    /// The body ended too early.
    BodyIncomplete = "body_incomplete", 400, "send the whole body";
    /// The request took too long.
    RequestTimeout = "request_timeout", 408, "send the request again; registering the same record twice does no harm";
    /// There is no such path.
    PathUnknown = "path_unknown", 404, "use a path that the API documents, such as /v1/status";
    /// The path exists, the method does not.
    Method = "method", 405, "use GET, or POST for /v1/agents";
    /// The directory has reached its limit.
    DirectoryFull = "directory_full", 507, "start a second node for further agents";
    /// The directory's file could not be read or written.
    StorageFailed = "storage_failed", 500, "look at the node's log and the free space, then restart the node";
    /// The service is shutting down.
    ShuttingDown = "shutting_down", 503, "send the request again when the node is back";
}

/// The body of every answer that is not a success.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ApiError {
    /// Stable, for programs: one of [`ErrorCode`].
    pub code: String,
    /// What is wrong, for people.
    pub message: String,
    /// What to do next, for people.
    pub next: String,
}

/// An agent as the directory shows it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
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
}

/// The versions of an agent's key record.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct AgentKeys {
    /// `organization/agent`.
    pub name: String,
    /// How long a replaced encryption key is accepted, in milliseconds.
    pub key_grace_ms: u64,
    /// The current one first; at most the newest hundred.
    pub versions: Vec<KeyVersionInfo>,
}

/// One version of a key record.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
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
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct AgentPage {
    /// In the order of their names.
    pub agents: Vec<AgentInfo>,
    /// Pass this as `after` to get the next page; absent on the last one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_after: Option<String>,
}

/// How the service is.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Status {
    /// Version of the software.
    pub version: String,
    /// The trust domain of all names here.
    pub trust_domain: String,
    /// Counts the changes of the directory; the shards' snapshot has the same number.
    pub epoch: u64,
    /// How many agents are registered.
    pub agents: u64,
    /// The policy in force.
    pub policy: String,
    /// When the service started, Unix milliseconds.
    pub started_at_ms: u64,
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
