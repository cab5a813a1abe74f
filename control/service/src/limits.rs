//! Every bound of the control service, in one place.

use std::time::Duration;

use creto_policy::Attributes;
use creto_policy::attributes::{ATTRIBUTES_BYTES_MAX, CAPABILITIES_MAX, ROLES_MAX};

/// Largest signed key record, and largest body of a request, in bytes.
pub use creto_envelope::limits::SIGNED_KEY_RECORD_BYTES_MAX;

/// Most agents in one directory. Each costs eleven kilobytes of disk, and some hundred bytes of memory.
pub const AGENTS_MAX: u64 = 1_000_000;

/// Most connections at a time; the next ones wait in the socket's backlog.
pub const CONNECTIONS_MAX: usize = 64;
/// Most connections over TCP at a time.
pub const REMOTE_CONNECTIONS_MAX: usize = 64;
/// Most connections to a dashboard at a time: a browser opens six.
pub const DASHBOARD_CONNECTIONS_MAX: usize = 32;
/// Requests of a dashboard that its node has to answer at a time; the next ones wait. The node's socket is for others, too.
pub const DASHBOARD_FORWARDS_MAX: usize = 4;
const _: () = assert!(DASHBOARD_FORWARDS_MAX < CONNECTIONS_MAX);
/// Longest wait of a dashboard for an answer of its node: after it the page says that there is none.
pub const DASHBOARD_TIMEOUT: Duration = Duration::from_secs(5);
/// Browser tabs that are let in; the one that came first is forgotten for the next one.
pub const DASHBOARD_KEYS_MAX: usize = 16;
/// How long a link to a dashboard holds that nobody opens: it stands in a terminal that others may see later.
pub const DASHBOARD_LINK_LIFETIME: Duration = Duration::from_mins(10);
/// Most events of the audit log that a dashboard asks for at a time.
pub const DASHBOARD_EVENTS_MAX: usize = 100;
/// Most administrators over TCP.
pub const ADMINISTRATORS_MAX: usize = 64;
/// How far the time of a signed request may be from the node's clock, in seconds.
pub const SIGNATURE_SKEW_S: u64 = 60;
/// Requests of one administrator at once; then one in [`ADMINISTRATOR_REQUEST`].
pub const ADMINISTRATOR_BURST: u32 = 100;
/// See there.
pub const ADMINISTRATOR_REQUEST: Duration = Duration::from_millis(20);
/// Signed requests that are remembered so that none is taken twice, 32 bytes each: what all administrators may ask within three times
/// [`SIGNATURE_SKEW_S`].
pub const NONCES_MAX: usize = 582_400;
const _: () = assert!(
    NONCES_MAX as u128
        == ADMINISTRATORS_MAX as u128
            * (ADMINISTRATOR_BURST as u128 + 3_000 * SIGNATURE_SKEW_S as u128 / ADMINISTRATOR_REQUEST.as_millis())
);
/// Most changes that one transaction commits together.
pub const COMMIT_CHANGES_MAX: usize = CONNECTIONS_MAX;
/// Requests that read the directory at a time; the next ones wait.
pub const READS_MAX: usize = 4;
/// How often a directory is looked for whose storage is away, while it is not known what of the last change was stored.
pub const REFRESH_POLL: Duration = Duration::from_secs(1);
/// Largest head of a request, in bytes.
pub const HEAD_BYTES_MAX: usize = 16 * 1024;
/// Longest wait for the head of a request.
pub const HEAD_TIMEOUT: Duration = Duration::from_secs(5);
/// Longest wait for a whole request and its answer.
pub const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// Longest life of a connection: one request, its answer, and the sending of both.
pub const CONNECTION_TIMEOUT: Duration = Duration::from_secs(20);
/// Longest wait of a shutdown for the requests that are under way.
pub const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(15);

/// Most published key records that wait for the writer, of all agents.
pub const PUBLICATIONS_MAX: usize = 1_024;
/// Most questions about the key log that wait to be answered, of all agents.
pub const KEY_LOG_QUESTIONS_MAX: usize = 1_024;
/// Questions that are answered from one read of the directory.
pub const KEY_LOG_ANSWERS_MAX: usize = 64;
/// Most questions for records of channels that wait to be answered, of all shards.
pub const CHANNEL_QUESTIONS_MAX: usize = 4_096;
/// Most questions for key records that wait to be answered, of all shards: as many logins may come at once when a node starts.
pub const KEY_RECORD_QUESTIONS_MAX: usize = 16_384;
/// Key records that are kept for the next who asks, 7 KiB each.
pub const KEY_RECORDS_KEPT_MAX: usize = 4_096;
/// Key records that are read together: seven kilobytes each.
pub const KEY_RECORD_ANSWERS_MAX: usize = 256;
/// When an agent should try again that found the service busy, in milliseconds.
pub const RETRY_MS: u32 = 1_000;
/// Keys that one agent may replace within [`ROTATION_WINDOW_MS`]: each costs seven kilobytes of disk for ever.
pub const ROTATIONS_PER_WINDOW_MAX: u32 = 64;
/// The same in an emergency, so that there is room for one after a burst.
pub const EMERGENCIES_PER_WINDOW_MAX: u32 = 80;
/// See there, in milliseconds.
pub const ROTATION_WINDOW_MS: u64 = 3_600_000;
/// The newest versions of one agent's key record, which the snapshots hold. The directory keeps all.
pub const VERSIONS_HELD_MAX: usize = 1_024;
/// Versions that the API lists, newest first.
pub const VERSIONS_LISTED_MAX: usize = 100;

/// Most questions about prekeys that wait for their commit, of all agents.
pub const PREKEY_QUESTIONS_MAX: usize = 4_096;
/// Most claims that one transaction commits together.
pub const PREKEY_CLAIMS_PER_COMMIT_MAX: usize = 1_024;
/// Most channels of a node; deleted ones, of which a small row stays, are not among them.
pub const CHANNELS_MAX: u64 = 100_000;
/// Most agents that the records of all channels list together: every node keeps them in memory, 16 bytes each.
pub const CHANNEL_LISTED_MAX: u64 = 4_000_000;
/// Most channels of a page.
pub const PAGE_CHANNELS_MAX: usize = 1_000;
/// Most names that are looked at for one page: a pattern may fit few of them.
pub const PAGE_CHANNELS_LOOKED_AT_MAX: usize = 20_000;
/// Channels whose records are read together.
pub const CHANNELS_AT_ONCE: usize = 32;
/// A page of channels ends when so many bytes of records were read for it: one has up to 324 KB.
pub const PAGE_CHANNELS_BYTES_MAX: usize = 4 << 20;
/// How far a channel's record may be dated ahead of the node's clock, in milliseconds.
pub const CHANNEL_AHEAD_MS_MAX: u64 = 300_000;
/// Most enrolments over the network that wait to be checked: 8 KB each.
pub const ENROLMENTS_MAX: usize = 256;
/// Most uploads of prekeys that wait to be checked, of all agents: 160 KB each.
pub const PREKEY_UPLOADS_MAX: usize = 64;
/// Most one-time prekeys that are kept of an agent: 1.5 KB of disk each.
pub const PREKEYS_HELD_MAX: u64 = 512;
/// An agent is told when it has fewer one-time prekeys than this.
pub const PREKEYS_LOW: u64 = 32;
/// How far ahead of the node's clock a batch of prekeys may be signed, in milliseconds.
pub const PREKEYS_SIGNED_AHEAD_MS: u64 = 300_000;
/// One-time prekeys of one agent that another one may claim within [`PREKEY_WINDOW_MS`]: fewer than are left when an agent is
/// told to upload more, so that nobody alone uses them up.
pub const PREKEY_CLAIMS_PER_PAIR_MAX: u32 = 16;
/// One-time prekeys that an agent may claim of all others within [`PREKEY_WINDOW_MS`].
pub const PREKEY_CLAIMS_PER_ASKER_MAX: u32 = 4_096;
/// Batches of prekeys that an agent may upload within [`PREKEY_WINDOW_MS`].
pub const PREKEY_UPLOADS_PER_AGENT_MAX: u32 = 128;
/// See there, in milliseconds.
pub const PREKEY_WINDOW_MS: u64 = 3_600_000;
/// Agents and pairs of them whose use is remembered, at about 100 bytes. Above it the prekey of last resort is given.
pub const PREKEY_ALLOWANCES_MAX: usize = 65_536;

/// Longest time between two requests of a backup.
pub const BACKUP_LEASE: Duration = Duration::from_secs(30);
/// Memory that copying the directory may take, in bytes.
pub const COPY_CACHE_BYTES: usize = 32 << 20;

/// How often it is looked whether the file of policy has changed. A change is loaded when it has lain still for as long.
pub const POLICY_POLL: Duration = Duration::from_millis(250);
/// Requests to load the policy that may wait.
pub const RELOADS_MAX: usize = 16;
/// Longest evaluation of a policy on a shard; the answer is no after that. What a turn of the shard spends on evaluations in
/// all is bounded by `creto_policy::limits::EVALUATION_US_PER_TURN_MAX` and one more of these.
pub const SHARD_EVALUATION_MAX: Duration = Duration::from_millis(5);

/// Most tokens for enrolment, with those that are used up or over and were not forgotten yet.
pub const TOKENS_MAX: u64 = 4_096;
/// Shortest and longest life of a token, in seconds: a minute and 90 days.
pub const TOKEN_SECONDS_MIN: u64 = 60;
/// See there.
pub const TOKEN_SECONDS_MAX: u64 = 90 * 86_400;
/// Most agents that one token registers.
pub const TOKEN_USES_MAX: u32 = 10_000;

/// Most certificates of one enrolment by an SVID: the workload's own and those above it.
pub const SVID_CERTIFICATES_MAX: usize = 8;
/// Largest of them, in bytes: ten times what SPIRE makes.
pub const SVID_CERTIFICATE_BYTES_MAX: usize = 16 * 1024;
/// Largest body of such an enrolment, in bytes: all of them and a key record, in base64.
pub const SVID_BODY_BYTES_MAX: usize = 256 * 1024;
/// Largest trust bundle, in bytes.
pub const SPIFFE_BUNDLE_BYTES_MAX: u64 = 1024 * 1024;

/// Longest reason of a suspension or revocation, in bytes.
pub const REASON_BYTES_MAX: usize = 512;
/// Most agents whose state one transaction changes: a larger organization takes several. About 1 KiB of disk each.
pub const STATE_CHANGES_MAX: usize = 10_000;
/// Largest change of an agent's attributes, in bytes of JSON.
pub const ATTRIBUTES_BODY_BYTES_MAX: usize = 512 * 1024;

/// Most agents on one page of the list.
pub const PAGE_AGENTS_MAX: usize = 1_000;
/// Most events of the audit log on one page.
pub const PAGE_EVENTS_MAX: usize = 1_000;
/// Most bytes of JSON that attributes take on one page.
pub const PAGE_ATTRIBUTES_BYTES_MAX: usize = 512 * 1024;
/// Largest answer that the client reads, in bytes.
pub const ANSWER_BYTES_MAX: usize = 5 * 1024 * 1024;

/// Most bytes that these take in JSON: every character may need a backslash, and each text two quotes and a comma.
#[must_use]
pub fn attributes_json_bytes_max(attributes: &Attributes) -> usize {
    2 * attributes.text_bytes() + 4 * (1 + attributes.roles().len() + attributes.capabilities().len())
}

const LARGEST_ATTRIBUTES_JSON_BYTES: usize = 2 * ATTRIBUTES_BYTES_MAX + 4 * (1 + ROLES_MAX + CAPABILITIES_MAX);
// The largest set fits on a page, and into a request with the names of its fields.
const _: () = assert!(LARGEST_ATTRIBUTES_JSON_BYTES <= PAGE_ATTRIBUTES_BYTES_MAX);
const _: () = assert!(LARGEST_ATTRIBUTES_JSON_BYTES + 1_024 <= ATTRIBUTES_BODY_BYTES_MAX);

const _: () = assert!(
    (SVID_CERTIFICATES_MAX * SVID_CERTIFICATE_BYTES_MAX + SIGNED_KEY_RECORD_BYTES_MAX) * 4 / 3 + 4_096
        <= SVID_BODY_BYTES_MAX
);
// A shutdown that gives up before a request may, would drop an answer that is owed.
const _: () = assert!(SHUTDOWN_TIMEOUT.as_secs() > REQUEST_TIMEOUT.as_secs());
// An agent in JSON is below four kilobytes without its attributes: name 128 B, SPIFFE id below 400 B, a reason of 512 bytes of
// which each may become six, the rest numbers.
const _: () = assert!(PAGE_AGENTS_MAX * 4_096 + PAGE_ATTRIBUTES_BYTES_MAX <= ANSWER_BYTES_MAX);
// An event in JSON is below three kilobytes: a text of at most 255 bytes of which each may become six, the rest numbers and ids.
const _: () = assert!(PAGE_EVENTS_MAX * 3_072 <= ANSWER_BYTES_MAX);
// A token in JSON is below half a kilobyte.
const _: () = assert!(TOKENS_MAX * 512 <= ANSWER_BYTES_MAX as u64);
const _: () = assert!(VERSIONS_LISTED_MAX * 1_024 <= ANSWER_BYTES_MAX);
const _: () = assert!(EMERGENCIES_PER_WINDOW_MAX > ROTATIONS_PER_WINDOW_MAX);
// A full upload fits beside what an agent has that is told that it has few.
const _: () = assert!(PREKEYS_LOW + creto_envelope::limits::PREKEYS_PER_BATCH_MAX as u64 <= PREKEYS_HELD_MAX);
// Whoever takes its whole share at once, of an agent that was not told yet that it has few, leaves some to others.
const _: () = assert!((PREKEY_CLAIMS_PER_PAIR_MAX as u64) < PREKEYS_LOW);
// Hourly rotation and the longest grace period: every key that is accepted is held.
const _: () = assert!(VERSIONS_HELD_MAX > 30 * 24);
// A policy is in force less than a second after its file was changed: seen, seen again, loaded.
const _: () = assert!(POLICY_POLL.as_millis() * 3 < 1_000);
// The other shards and the disk wait for a turn to end.
const _: () =
    assert!(SHARD_EVALUATION_MAX.as_millis() + creto_policy::limits::EVALUATION_US_PER_TURN_MAX as u128 / 1_000 < 100);

/// A node is not ready when a shard has made no progress for so long.
pub(crate) const STALL_NOT_READY: Duration = Duration::from_secs(1);

/// Events that wait for the writer. Refusals beyond them are only counted.
pub(crate) const NOTES_MAX: usize = 1_024;
