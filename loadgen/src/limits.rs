//! Every bound of the load generator, in one place.

use std::time::Duration;

use creto_envelope::limits::PAYLOAD_PLAINTEXT_BYTES_MAX;
use creto_envelope::request::REQUEST_BODY_BYTES_MAX;

/// Smallest payload: the number of the message and when it was due.
pub const PAYLOAD_BYTES_MIN: usize = 16;
/// Largest payload; a request's is smaller by what goes before it, so that every size fits every scenario.
pub const PAYLOAD_BYTES_MAX: usize = REQUEST_BODY_BYTES_MAX;
/// Messages of one run: their numbers are kept as bits, one for each whom it is for and one for its sender.
pub const MESSAGES_MAX: u64 = 1_000_000_000;
/// Bits that a run may take to know what came to whom: 1 GiB.
pub const TALLY_BITS_MAX: u64 = 8 << 30;
/// Connections that send.
pub const CONNECTIONS_MAX: usize = 1_024;
/// Agents that receive.
pub const AGENTS_MAX: usize = 4_096;
/// Processes that a run is divided among.
pub const PROCESSES_MAX: u32 = 256;
/// What one process says of its part in one line: histograms of every second, at most.
pub const SHARE_LINE_BYTES_MAX: u64 = 1 << 30;
/// Answers of one sender that may be waited for.
pub const PENDING_PER_SENDER: usize = 16_384;
/// Requests of one sender that may be waited for: as many as the SDK has places.
pub const REQUESTS_PER_SENDER: usize = 4_096;
/// Messages of a closed loop that may be under way.
pub const CLOSED_LOOP_MAX: usize = 1 << 20;
/// Records that may wait to be written to a ledger.
pub const LEDGER_QUEUE_RECORDS: usize = 65_536;
/// Records that are written and synced together.
pub const LEDGER_BATCH_RECORDS: usize = 4_096;
/// Longest latency that is told apart; above it counts as this.
pub const LATENCY_US_MAX: u64 = 600_000_000;
/// Significant digits of a latency: three, so an error of at most one in a thousand.
pub const LATENCY_DIGITS: u8 = 3;
/// How long before the first message is due a run gets its tasks and threads ready.
pub const START_IN: Duration = Duration::from_millis(50);
/// The same, where processes have to be told when it starts.
pub const PROCESSES_START_IN: Duration = Duration::from_millis(500);
/// How often progress is told, and the backlog looked at.
pub const PROGRESS_EVERY: Duration = Duration::from_millis(200);
/// Looks at the backlog that are kept: more than five hours of them.
pub const BACKLOG_SAMPLES_MAX: usize = 100_000;
/// Rows of a series, one a second: a week.
pub const SERIES_ROWS_MAX: usize = 604_800;
/// The longest that a warm-up, a run, or a wait in it may take: a week.
pub const RUN_TIME_MAX: Duration = Duration::from_secs(604_800);
/// Longest time that a batch waits for more messages.
pub const BATCH_AGE_MAX: Duration = Duration::from_secs(60);
/// How long no acknowledgement comes, with nothing due any more, until receivers that are away begin: then a mailbox is full.
pub const STANDSTILL: Duration = Duration::from_secs(1);
/// How long after nothing is due any more receivers that are away begin at the latest.
pub const AWAY_MAX: Duration = Duration::from_secs(10);
/// How long a run waits for answers and deliveries after its last message was due, by default.
pub const DRAIN_TIMEOUT: Duration = Duration::from_secs(60);
/// How long a run waits for the last acknowledgements of its receivers to go out, when everything else is there.
pub const SETTLE_TIMEOUT: Duration = Duration::from_secs(2);
/// A mailbox from which nothing came for this long counts as read to its end, by default.
pub const QUIET: Duration = Duration::from_secs(2);
/// How long a request waits for its answer.
pub const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);
/// Deliveries whose acknowledgement has not gone out yet, of one receiver; beyond it they have no time of settling.
pub const UNSETTLED_MAX: usize = 65_536;
/// How long a NATS server may take to connect, to make a stream, or to acknowledge a message.
pub const NATS_TIMEOUT: Duration = Duration::from_secs(30);
/// How long a NATS server may take to delete a stream at the end.
pub const NATS_CLOSE_TIMEOUT: Duration = Duration::from_secs(10);
/// Deliveries that a consumer of JetStream may leave unacknowledged; its default of 1,000 would be the limit of a run.
pub const NATS_ACK_PENDING_MAX: i64 = 65_536;
/// Messages that a consumer of JetStream asks for at a time, as the clients for applications do.
pub const NATS_PULL_MESSAGES: usize = 500;
/// What the monitoring of a NATS server answers is not longer.
pub const NATS_MONITOR_BYTES_MAX: u64 = 1 << 20;
/// Sizes or priorities that a mix may have.
pub const MIX_PARTS_MAX: usize = 16;

/// A run whose generator was later than this, in 99 of 100 messages, is not valid: its latencies are its own.
pub const GENERATOR_LATE_P99_US_MAX: u64 = 1_000;
/// A run that achieved less of the offered rate is not valid: above what the system can do, latencies only say how long the run was.
pub const ACHIEVED_SHARE_MIN: f64 = 0.99;
/// A backlog that grows by more than this share of the offered rate does not hold.
pub const BACKLOG_GROWTH_SHARE_MAX: f64 = 0.01;
/// A backlog that grew by fewer messages from one end of a run to the other has not grown: it only moves.
pub const BACKLOG_GROWTH_MIN: f64 = 64.0;
/// Fewer looks at a backlog say nothing about its growth.
pub const BACKLOG_SAMPLES_MIN: usize = 4;

const _: () = assert!(PAYLOAD_BYTES_MIN <= PAYLOAD_BYTES_MAX && PAYLOAD_BYTES_MAX <= PAYLOAD_PLAINTEXT_BYTES_MAX);
