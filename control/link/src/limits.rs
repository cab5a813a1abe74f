//! Every bound of the link, in one place.

use creto_envelope::key_log::KEY_LEAF_BYTES;
use creto_envelope::limits::{
    CONTROL_BODY_BYTES_MAX, KEY_LEAVES_MAX, KEY_LOG_HASHES_MAX, KEY_LOG_KEYS_BYTES_MAX, KEY_LOG_NOTE_BYTES_MAX,
    NAME_BYTES_MAX, PREKEY_UPLOAD_BODY_BYTES_MAX, SIGNED_CHANNEL_RECORD_BYTES_MAX, SIGNED_KEY_RECORD_BYTES_MAX,
};
use creto_policy::attributes::{ATTRIBUTES_BYTES_MAX, CAPABILITIES_MAX, ROLES_MAX};

/// The version of the link that this code speaks.
pub const LINK_VERSION: u16 = 1;
/// Size of a frame's header, in bytes.
pub const FRAME_HEADER_BYTES: usize = 8;
/// Largest body of a frame, in bytes.
pub const FRAME_BODY_BYTES_MAX: usize = 512 * 1024;
/// Largest body of a frame that only says a few numbers and texts, in bytes.
pub const SMALL_BODY_BYTES_MAX: usize = 4 * 1024;
/// A frame of agents or of channels is closed when its body has so many bytes.
pub const CHUNK_BYTES: usize = 128 * 1024;
/// Most ids in a frame of agents, or of channels, that are gone.
pub const GONE_MAX: usize = 8_192;
/// Most agents in a snapshot that a node takes: far above what a directory is made for.
pub const AGENTS_MAX: usize = 4_000_000;
/// Most channels in a snapshot that a node takes: no directory has more.
pub const CHANNELS_MAX: usize = 100_000;
/// Most agents that the records of all channels of a snapshot list together: no directory has more.
pub const CHANNEL_LISTED_MAX: u64 = 4_000_000;
/// Size of what stands in front of a channel's record, in bytes.
pub const CHANNEL_HEAD_BYTES: usize = 8;
/// Most versions of one agent's key record in a snapshot.
pub const VERSIONS_MAX: usize = 1_024;
/// Size of an agent without its name, versions and attributes, in bytes.
pub const AGENT_FIXED_BYTES: usize = 48;
/// Size of one version, in bytes.
pub const VERSION_BYTES: usize = 48;
/// Most bytes of a policy's text.
pub const POLICY_BYTES_MAX: usize = 64 * 1024;
/// Most bytes of a policy's name.
pub const POLICY_NAME_BYTES_MAX: usize = 4_096;
/// Most bytes of the text that says why a link is refused.
pub const REASON_BYTES_MAX: usize = 512;
/// Most questions of one node that are not answered.
pub const QUESTIONS_MAX: usize = 4_096;
/// Most of them whose answers are large ([`is_large`](crate::Question::is_large)): 20 MB of answers at most.
pub const LARGE_QUESTIONS_MAX: usize = 64;

/// Most bytes of an answer of a few numbers, with its header.
pub const NUMBERS_ANSWER_BYTES_MAX: usize = 64;
/// Most bytes of an answer that has a key record, a prekey or a proof, with its header.
pub const RECORD_ANSWER_BYTES_MAX: usize = 24 * 1024;
/// Most bytes of an answer that has leaves of the key log, with its header.
pub const KEY_LEAVES_ANSWER_BYTES_MAX: usize = FRAME_HEADER_BYTES + 8 + KEY_LEAVES_MAX * KEY_LEAF_BYTES + 64;
/// Most bytes of an answer that has a channel's record, with its header.
pub const CHANNEL_ANSWER_BYTES_MAX: usize = FRAME_HEADER_BYTES + 16 + SIGNED_CHANNEL_RECORD_BYTES_MAX;

/// Most bytes that attributes take: a length in front of each text.
pub(crate) const ATTRIBUTES_MAX: usize = 4 + ATTRIBUTES_BYTES_MAX + 2 * (1 + ROLES_MAX + CAPABILITIES_MAX);
const AGENT_BYTES_MAX: usize = AGENT_FIXED_BYTES + NAME_BYTES_MAX + VERSIONS_MAX * VERSION_BYTES + ATTRIBUTES_MAX;

// The last agent, or channel, of a frame may be of any size.
const _: () = assert!(CHUNK_BYTES + AGENT_BYTES_MAX <= FRAME_BODY_BYTES_MAX);
const _: () = assert!(CHUNK_BYTES + CHANNEL_HEAD_BYTES + SIGNED_CHANNEL_RECORD_BYTES_MAX <= FRAME_BODY_BYTES_MAX);
const _: () = assert!(GONE_MAX * 16 <= FRAME_BODY_BYTES_MAX);
const _: () = assert!(POLICY_BYTES_MAX + POLICY_NAME_BYTES_MAX + 1_024 <= FRAME_BODY_BYTES_MAX);
const _: () = assert!(PREKEY_UPLOAD_BODY_BYTES_MAX + 1_024 <= FRAME_BODY_BYTES_MAX);
const _: () = assert!(KEY_LEAVES_MAX * 128 + 1_024 <= FRAME_BODY_BYTES_MAX);
const _: () = assert!(SIGNED_KEY_RECORD_BYTES_MAX + 1_024 <= RECORD_ANSWER_BYTES_MAX);
const _: () = assert!(
    KEY_LOG_NOTE_BYTES_MAX + KEY_LOG_KEYS_BYTES_MAX + 2 * KEY_LOG_HASHES_MAX * 32 + 1_024 <= RECORD_ANSWER_BYTES_MAX
);
const _: () = assert!(CONTROL_BODY_BYTES_MAX <= RECORD_ANSWER_BYTES_MAX);
const _: () = assert!(CHANNEL_ANSWER_BYTES_MAX <= FRAME_BODY_BYTES_MAX);
const _: () = assert!(REASON_BYTES_MAX + 256 <= SMALL_BODY_BYTES_MAX);
const _: () = assert!(NAME_BYTES_MAX <= u8::MAX as usize);
