//! Every bound of a shard, in one place.

use creto_envelope::batch::BATCH_HEADER_BYTES;
use creto_envelope::deliver::delivered_message_bytes;
use creto_envelope::limits::{
    BATCH_BYTES_MAX, BATCH_MESSAGES_MAX, DEAD_LETTER_CHANGES_MAX, DELIVER_BODY_BYTES_MAX, ENVELOPE_BYTES_MAX,
    IN_FLIGHT_MESSAGES_MAX, PATH_NODES_MAX, SESSION_AGE_S_MAX,
};

/// Bytes of batches that a shard may have taken in and not yet answered. Above it, nothing more is read from submit
/// streams: QUIC's flow control then slows the senders. This one number bounds every queue behind it: rings, the log's
/// pending records, batches held for room.
pub const INGRESS_BYTES_MAX: usize = 64 << 20;
/// Reading goes on when the unanswered bytes fell to this.
pub const INGRESS_BYTES_RESUME: usize = INGRESS_BYTES_MAX / 2;

/// Events that a shard has told and that are not in the audit log yet. Above it, nothing more is read from submit streams. At
/// 96 bytes each they take 12 MiB; a turn may tell of what it holds already beyond that.
pub const AUDIT_EVENTS_MAX: u64 = 131_072;
/// A shard tells so many events at once, or whatever there is when it looks after what has no event of its own.
pub const AUDIT_BATCH_EVENTS: usize = 1_024;
/// Batches of events whose memory a shard keeps to use it again: as many as are told before the first of them are kept.
pub const AUDIT_SPARE_BATCHES_MAX: usize = 32;
/// How often at most the audit log is told of what is only counted, in microseconds.
pub const COUNTED_TOLD_US: u64 = 1_000_000;
/// Reading goes on when so few are left.
pub const AUDIT_EVENTS_RESUME: u64 = AUDIT_EVENTS_MAX / 2;

/// Key records that one connection may have asked for and not been answered: as many as an agent of this SDK looks up at a time.
pub const KEY_RECORD_QUESTIONS_MAX: usize = 256;
/// Key records that a shard keeps besides those of its logins, 7 KiB each.
pub const KEY_RECORDS_KEPT_MAX: usize = 4_096;
/// How long somebody waits for a key record before they are told to come again, in microseconds: less than an SDK waits.
pub const KEY_RECORD_WAIT_US_MAX: u64 = 1_500_000;
/// Frames that may come behind a login which waits for its record, on the same stream.
pub const LOGIN_HELD_FRAMES_MAX: usize = 16;
/// Bytes of them.
pub const LOGIN_HELD_BYTES_MAX: usize = 4_096;
/// Questions about the key log that one connection may have open.
pub const KEY_LOG_QUESTIONS_MAX: u32 = 64;
/// Uploads, claims and other questions about prekeys that one connection may have open.
pub const PREKEY_QUESTIONS_MAX: u32 = 64;

/// Batches that one connection may have in flight.
pub const IN_FLIGHT_BATCHES_MAX: usize = IN_FLIGHT_MESSAGES_MAX as usize;

/// What a connection may do, as the configuration says and the login announces. Never above the protocol's limits.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ConnectionLimits {
    /// Messages that may wait for their answer.
    pub in_flight_messages_max: u32,
    /// Messages in one batch.
    pub batch_messages_max: u32,
    /// Bytes of one batch.
    pub batch_bytes_max: u32,
}

#[allow(clippy::cast_possible_truncation, reason = "the protocol's limits are far below u32::MAX")]
impl Default for ConnectionLimits {
    fn default() -> Self {
        Self {
            in_flight_messages_max: IN_FLIGHT_MESSAGES_MAX,
            batch_messages_max: BATCH_MESSAGES_MAX as u32,
            batch_bytes_max: BATCH_BYTES_MAX as u32,
        }
    }
}

impl ConnectionLimits {
    /// The same, with nothing above what the protocol allows and nothing zero.
    #[must_use]
    pub fn within_protocol(self) -> Self {
        let most = Self::default();
        Self {
            in_flight_messages_max: self.in_flight_messages_max.clamp(1, most.in_flight_messages_max),
            batch_messages_max: self.batch_messages_max.clamp(1, most.batch_messages_max),
            batch_bytes_max: self.batch_bytes_max.clamp(1, most.batch_bytes_max),
        }
    }
}

/// Streams that a connection may have open: one of each role, and one more that is refused politely.
pub const STREAMS_MAX: usize = 5;
/// Time that a connection has to log in, in microseconds. Places are few and keep-alives are free: without this, one
/// stranger holds all of them for as long as it likes.
pub const LOGIN_US_MAX: u64 = 10_000_000;
/// Failed logins after which the connection is closed.
pub const LOGIN_FAILURES_MAX: u32 = 3;
/// Batches with a bad signature after which the connection is closed: each costs the node a verification.
pub const BAD_SIGNATURES_MAX: u32 = 8;
/// Requests refused for their form after which the connection is closed.
pub const PROTOCOL_ERRORS_MAX: u32 = 16;

/// The messages of one shard stay in the memory of their batch if they are at least this part of it ...
pub const SHARED_MEMORY_NUMERATOR: usize = 3;
/// ... of so many. What the mailboxes keep alive is then at most a third more than what they count.
pub const SHARED_MEMORY_DENOMINATOR: usize = 4;

/// Verdicts on batch roots that a shard remembers.
pub const ROOT_CACHE_ENTRIES: usize = 4_096;
/// Senders whose parsed keys a shard keeps, about 20 KiB each.
pub const KEY_CACHE_ENTRIES: usize = 1_024;
/// Policy decisions that a shard keeps.
pub const DECISION_TABLE_ENTRIES: usize = 131_072;
/// How long a decision may be used, in milliseconds.
pub const DECISION_LIFETIME_MS: u64 = 60_000;

/// How long a message counts as recent for a policy, in seconds.
pub const RECENT_S: usize = 60;
/// Senders whose recent messages a shard counts, 200 bytes each. Others wait until one of them has sent nothing for that long.
pub const RECENT_SENDERS_MAX: usize = 65_536;
/// Rates that a shard holds senders to, one for each sender and figures, 120 bytes each.
pub const RATES_MAX: usize = 65_536;
/// When a sender for which there is no room should try again, in milliseconds. As often is room looked for.
pub const METER_RETRY_MS: u32 = 1_000;

/// How long ago a batch may have been signed, in milliseconds: as long as message ids are remembered.
pub const SIGNED_AGE_MS_MAX: u64 = 3_600_000;
/// How far ahead of the node's clock a batch may have been signed, in milliseconds.
pub const SIGNED_AHEAD_MS_MAX: u64 = 300_000;

/// Messages pushed to one subscriber before the next one has its turn.
pub const DELIVER_MESSAGES_PER_TURN: u32 = 256;
/// Bytes pushed to one subscriber before the next one has its turn.
pub const DELIVER_BYTES_PER_TURN: u32 = 512 << 10;

/// Signals that one turn pushes; what is beyond is dropped.
pub const SIGNALS_PER_TURN: usize = 1_024;
/// How far ahead of the node's clock a signal may have been made, in milliseconds.
pub const SIGNAL_AHEAD_MS_MAX: u64 = 60_000;

/// Agents of a shard's mailboxes of which it remembers when they stopped showing themselves, some 100 bytes each.
pub const LAST_SEEN_MAX: usize = 65_536;
/// How long that is told, in milliseconds: a week.
pub const LAST_SEEN_KEPT_MS: u64 = 7 * 86_400_000;
/// Questions for presence that one connection may ask at once.
pub const PRESENCE_BURST: u32 = 64;
/// After so long it may ask one more, in microseconds.
pub const PRESENCE_REFILL_US: u64 = 1_000_000;
/// When whoever asked too much may ask again, in milliseconds.
pub const PRESENCE_RETRY_MS: u32 = 1_000;
/// Questions for presence that one connection may have open.
pub const PRESENCE_QUESTIONS_MAX: u32 = 64;

/// Messages of channels that one turn hands out, to all readers together. One reader's share may go beyond it.
pub const CHANNEL_MESSAGES_PER_TURN: usize = 4_096;
/// The same in bytes of envelopes.
pub const CHANNEL_BYTES_PER_TURN: usize = 4 << 20;
/// Readers of channels that one turn looks at, whether there is something for them or not.
pub const CHANNEL_READERS_PER_TURN: usize = 4_096;
/// Channels that one page of a listing looks at, whether they are of it or not.
pub const CHANNELS_LOOKED_THROUGH: usize = 2_048;
/// Pages of listings that one turn makes, for whomever.
pub const LISTINGS_PER_TURN: u32 = 8;
/// Encoded runs of messages that a shard keeps for readers that come for the same.
pub const SHARED_BODIES_MAX: usize = 16;
/// Bytes of them, unless one has more by itself.
pub const SHARED_BODIES_BYTES_MAX: usize = 4 << 20;
/// Subscriptions that a turn looks at after a new snapshot: whether they may stay.
pub const SWEPT_PER_TURN: usize = 128;
/// Numbers of subscriptions that a connection has left and that are remembered: frames about them may have been on their way.
pub const FREED_HANDLES_MAX: usize = 1_024;
/// Questions for records of channels that one connection may have open.
pub const CHANNEL_QUESTIONS_MAX: u32 = 64;

/// How long a mailbox keeps what nobody acknowledges unless configured otherwise, in milliseconds: seven days.
pub const RETENTION_MS: u64 = 7 * 86_400_000;
/// How much longer it keeps a message that brings the key of a session: as long as the session may go on, and an hour for
/// what was late on its way.
pub const SESSION_OPENER_EXTRA_MS: u64 = SESSION_AGE_S_MAX as u64 * 1_000 + 3_600_000;

/// Notices to senders in one record. A shard has no more than `EXPIRING_MAX` of the store on their way.
pub const NOTICES_PER_RECORD_MAX: usize = 1_024;

/// How long acknowledgements of consumers wait for a record that somebody waits for, to go to the disk with it, in microseconds. A
/// crash in this time has their messages delivered again, as one before they came would.
pub const SETTLE_REST_US: u64 = 5_000;
/// Acknowledgements, of one frame each, that wait for company: with more of them they are company enough.
pub const SETTLES_RESTING_MAX: usize = 256;
/// Expired messages that a shard settles per tick.
pub const EXPIRED_PER_TICK: usize = 4_096;

// What the log keeps of a notice is what a subscriber is sent.
const _: () = assert!(creto_envelope::notice::NOTICE_BODY_BYTES == creto_store::limits::NOTICE_BYTES);
// A session that began before a mailbox's retention rose is over before messages of it may be kept for longer.
const _: () = assert!(creto_policy::mailbox::SESSION_SPAN_MS > SESSION_OPENER_EXTRA_MS);
const _: () = assert!(INGRESS_BYTES_RESUME >= BATCH_BYTES_MAX);
// Only a message that cannot be told from a replay is refused for its age, so both windows agree.
const _: () = assert!(SIGNED_AGE_MS_MAX == creto_store::limits::DEDUP_WINDOW_MS);
// What a channel's record may say, its log takes; and what its sessions number, an envelope carries.
const _: () = assert!(
    creto_envelope::limits::CHANNEL_SESSION_MESSAGES_MAX == creto_crypto_accel::session::CHANNEL_SESSION_MESSAGES_MAX
);
const _: () = assert!((IN_FLIGHT_MESSAGES_MAX as usize) < creto_store::limits::DEDUP_SENDER_IDS_MAX);
// What a channel's record may say of subscribers and retention, the log takes, and refuses nothing of.
const _: () =
    assert!(creto_envelope::limits::CHANNEL_SUBSCRIBERS_MAX as usize == creto_store::limits::CHANNEL_SUBSCRIBERS_MAX);
const _: () = assert!(creto_envelope::limits::CHANNEL_RETENTION_S_MIN == creto_store::limits::CHANNEL_RETENTION_S_MIN);
const _: () = assert!(creto_envelope::limits::CHANNEL_RETENTION_S_MAX == creto_store::limits::CHANNEL_RETENTION_S_MAX);
// What one frame asks about dead letters becomes one record.
const _: () = assert!(DEAD_LETTER_CHANGES_MAX <= creto_store::limits::DEAD_RECORD_LETTERS_MAX);
// One share, overdrawn by one message of the largest size, is one frame at most.
const _: () = assert!(
    BATCH_HEADER_BYTES
        + DELIVER_BYTES_PER_TURN as usize
        + DELIVER_MESSAGES_PER_TURN as usize * delivered_message_bytes(PATH_NODES_MAX, 8)
        + ENVELOPE_BYTES_MAX
        <= DELIVER_BODY_BYTES_MAX
);

/// Parts of batches of which it is known when they became durable, for what is measured of deliveries: 48 KiB.
pub const DURABLE_MARKS_MAX: usize = 2_048;
/// Pushes of one mailbox that are measured at a time.
pub const PUSH_MARKS_MAX: usize = 4;
/// After this a push that its consumer is not done with gives its place to another one, in microseconds.
pub const PUSH_MARK_US_MAX: u64 = 60_000_000;

/// Time after which a backup that is not heard of has let go of the log, in microseconds.
pub const HOLD_LEASE_US: u64 = 30_000_000;
/// Longest time that a backup may hold the log, in microseconds.
pub const HOLD_US_MAX: u64 = 24 * 3_600_000_000;
