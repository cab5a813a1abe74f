//! Every bound of the load generator, in one place.

use std::time::Duration;

use creto_envelope::limits::PAYLOAD_PLAINTEXT_BYTES_MAX;

/// Smallest payload: the number of the message and when it was due.
pub const PAYLOAD_BYTES_MIN: usize = 16;
/// Largest payload.
pub const PAYLOAD_BYTES_MAX: usize = PAYLOAD_PLAINTEXT_BYTES_MAX;
/// Messages of one run: their numbers are kept as bits, two for each.
pub const MESSAGES_MAX: u64 = 4_000_000_000;
/// Pairs of a sender and a receiver.
pub const PAIRS_MAX: usize = 1_024;
/// Answers of one sender that may be waited for.
pub const PENDING_PER_PAIR: usize = 16_384;
/// Records that may wait to be written to a ledger.
pub const LEDGER_QUEUE_RECORDS: usize = 65_536;
/// Records that are written and synced together.
pub const LEDGER_BATCH_RECORDS: usize = 4_096;
/// Longest latency that is told apart; above it counts as this.
pub const LATENCY_US_MAX: u64 = 600_000_000;
/// How often progress is told.
pub const PROGRESS_EVERY: Duration = Duration::from_millis(200);
/// How long a run waits for answers and deliveries after its last message was due, by default.
pub const DRAIN_TIMEOUT: Duration = Duration::from_secs(60);
/// A mailbox from which nothing came for this long counts as read to its end, by default.
pub const QUIET: Duration = Duration::from_secs(2);

const _: () = assert!(PAYLOAD_BYTES_MIN <= PAYLOAD_BYTES_MAX);
