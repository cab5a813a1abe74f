//! Every bound of what a shard keeps and spends for decisions, in one place.

/// Bytes of the answers of a policy that a shard keeps under what the policy read.
pub const ANSWERS_BYTES_MAX: usize = 4 << 20;
/// Bytes of the largest such key. An answer to a larger one is kept for its pair of agents only.
pub const ANSWER_KEY_BYTES_MAX: usize = 16 << 10;
/// What an answer takes beside its key, in bytes: its place in the map and the answer.
pub const ANSWER_EXTRA_BYTES: usize = 128;
/// Different obligations that a shard keeps under one policy. With more, it forgets every decision and begins anew.
pub const OBLIGATIONS_MAX: usize = 1_024;
/// Time that a shard may spend in evaluations in one turn, in microseconds. What needs one after that is refused as
/// [`Overloaded`](creto_envelope::RejectCode::Overloaded).
pub const EVALUATION_US_PER_TURN_MAX: u64 = 20_000;
/// How long a shard does not ask again what a policy had no time to answer, in milliseconds.
pub const TOO_LONG_MS: u64 = 1_000;
/// Agents and what they do to whom, of which a shard counts the uses of an open door one by one until they are told.
pub const OPEN_DOOR_PAIRS_MAX: usize = 1_024;

const _: () = assert!(ANSWER_KEY_BYTES_MAX + ANSWER_EXTRA_BYTES <= ANSWERS_BYTES_MAX / 2);
const _: () = assert!(OBLIGATIONS_MAX < u16::MAX as usize);
