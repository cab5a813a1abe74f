//! Every bound of the log and of the mailboxes, in one place. Bytes unless the name says otherwise.

/// Unit of writing and of alignment: frames start and end on it, and direct writes need it.
pub const BLOCK_BYTES: usize = 4096;
/// The first block of a segment holds its header.
pub const SEGMENT_HEADER_BYTES: usize = BLOCK_BYTES;
/// Size of a segment file unless configured otherwise.
pub const SEGMENT_BYTES: u64 = 64 << 20;
/// The largest segment file: every byte offset in it fits 32 bits.
pub const SEGMENT_BYTES_MAX: u64 = 2 << 30;
/// Bytes of a frame before its body.
pub const FRAME_HEADER_BYTES: usize = 96;
/// A frame with header and padding: what one group commit may write.
pub const FRAME_BYTES_MAX: usize = 4 << 20;
/// A write is one frame, with the segment header before it when it is the first of its segment.
pub const WRITE_BYTES_MAX: usize = FRAME_BYTES_MAX + SEGMENT_HEADER_BYTES;
/// The digest of a segment. A digest that would be larger is not made.
pub const DIGEST_BYTES_MAX: usize = 64 << 20;
/// Bytes of a record before its body.
pub const RECORD_HEADER_BYTES: usize = 8;
/// A record with its header and padding, in frames of the default size.
pub const RECORD_BYTES_MAX: usize = FRAME_BYTES_MAX - FRAME_HEADER_BYTES;
/// Messages in one `BatchPart` record.
pub const PART_MESSAGES_MAX: usize = 65_536;
/// Sequences in one `Settle` record.
pub const SETTLE_SEQUENCES_MAX: usize = 65_536;
/// Sequences in one `Settle` record by which a channel makes room: in the smallest frames that anybody uses.
pub const SETTLE_SEQUENCES_PER_LEAVE: usize = 1_024;
/// Dead letters in one `Dead` record, and sequences in one `Revive` record: in the smallest frames that anybody uses.
pub const DEAD_RECORD_LETTERS_MAX: usize = 512;
/// Subscriptions in one `Cursors` record.
pub const CURSORS_RECORD_ENTRIES_MAX: usize = 4_096;
/// Subscriptions in one `Subscriptions` record.
pub const SUBSCRIPTIONS_RECORD_ENTRIES_MAX: usize = 4_096;
/// Opaque batch header bytes in one `BatchPart` record.
pub const BATCH_HEADER_BYTES_MAX: usize = 64 << 10;
/// Hashes on the way from a leaf to the root: a tree of 2^32 leaves.
pub const PATH_HASHES_MAX: usize = 32;
/// What stands in place of an envelope in a `Notice` record.
pub const NOTICE_BYTES: usize = 48;
/// An envelope in a `BatchPart` record: more than the wire allows, so that the wire's limit is the one that speaks.
pub const ENVELOPE_BYTES_MAX: usize = 2 << 20;
/// Ids in one `Dedup` record; a carry-over of more is several records.
pub const DEDUP_RECORD_IDS_MAX: usize = 16_384;
/// Senders in one `Dedup` record.
pub const DEDUP_RECORD_SENDERS_MAX: usize = 4_096;

/// Bytes on disk that the log may take before it refuses messages.
pub const WAL_BYTES_MAX: u64 = 16 << 30;
/// Records waiting for the next group commit.
pub const PENDING_RECORDS_MAX: usize = 65_536;
/// Bytes waiting for the next group commit.
pub const PENDING_BYTES_MAX: usize = 32 << 20;
/// Writes on their way to the disk, full groups left out of account.
pub const WRITES_IN_FLIGHT_MAX: usize = 1;
/// Records that make a group commit full, in bytes: from here on the time of a write is that of its bytes, so nothing is
/// gained by waiting for more.
pub const FULL_GROUP_BYTES: usize = 1 << 20;
/// Full groups that may be on their way beside the usual writes. A sync waits at the device for the write behind it: while one
/// group is synced and the next one written, a third must have arrived there, and the fourth be encoded.
pub const FULL_GROUPS_AHEAD: usize = 3;
/// Trimmed segments kept for reuse instead of deleted.
pub const RECYCLED_SEGMENTS_MAX: usize = 2;

/// What a queued message counts beyond its envelope: index entry, dedup entry, path, its share of its batch's header.
pub const MESSAGE_OVERHEAD_BYTES: u64 = 512;
/// Messages queued in one mailbox.
pub const MAILBOX_MESSAGES_MAX: u64 = 100_000;
/// Bytes queued in one mailbox.
pub const MAILBOX_BYTES_MAX: u64 = 64 << 20;
/// Bytes queued on one shard. They are on disk: half of what the log may take leaves room for what is settled and not
/// cleaned up yet.
pub const SHARD_BYTES_MAX: u64 = 8 << 30;
/// Bytes of payload that stay in memory after they became durable.
pub const CACHE_BYTES: usize = 256 << 20;
/// Mailboxes that hold anything, on one shard.
pub const MAILBOXES_MAX: usize = 1 << 20;

/// Subscribers of one channel, members of its groups among them.
pub const CHANNEL_SUBSCRIBERS_MAX: usize = 10_000;
/// Subscribers of all channels of one shard, members of groups among them.
pub const SUBSCRIBERS_MAX: usize = 1 << 18;
/// Messages that a consumer group has above its cursor: in the hands of its members, on their way back to others, and
/// acknowledged.
pub const GROUP_WINDOW: usize = 512;
/// Members of a group of which it is remembered that they gave a message back untouched.
pub const GIVERS_REMEMBERED: usize = 16;
/// The shortest time that a channel keeps messages, in seconds: a minute.
pub const CHANNEL_RETENTION_S_MIN: u32 = 60;
/// The longest, in seconds: thirty days.
pub const CHANNEL_RETENTION_S_MAX: u32 = 30 * 24 * 3_600;
/// Messages of one channel that are looked up once in a turn, for all its subscribers. Beyond them, each is looked up again.
pub const CHANNEL_MEMO_MESSAGES_MAX: usize = 128;
/// Reads of one channel under way: its subscribers may be at different places.
pub const CHANNEL_READS_MAX: usize = 4;
/// Of a channel's quota, the part by which it is emptied at once beyond what the next message needs, so that a channel at its
/// quota does not take one more record for each message.
pub const CHANNEL_LEAVE_SHARE: u64 = 64;

/// Slots of the index that one look for messages whose time is over comes by, at least.
pub const EXPIRY_SWEEP_SLOTS_MIN: usize = 4_096;
/// Looks after which every message was come by.
pub const EXPIRY_SWEEP_TICKS: usize = 100;

/// Messages whose time is over and whose senders are being told. The others wait.
pub const EXPIRING_MAX: usize = 8_192;

/// Bytes of the log that are read back in one go, for one mailbox. One message may be longer.
pub const READ_AHEAD_BYTES: usize = 512 << 10;
/// Pieces of the log that are read back in one go. Messages that are further apart wait for the next.
pub const READ_EXTENTS_MAX: usize = 8;
/// Bytes that are read along if that saves a read.
pub const READ_GAP_BYTES: u64 = 16 << 10;
/// Bytes from the beginning of a record that are read for its batch header: a usual one is in them.
pub const READ_HEADER_BYTES: u64 = 4_608;
/// Reads under way, of one shard.
pub const READS_IN_FLIGHT_MAX: usize = 24;
/// Bytes of them, about.
pub const READ_BYTES_IN_FLIGHT_MAX: usize = 8 << 20;
/// Times that a failed read is tried, once a tick, before the mailbox goes on with its next message.
pub const READ_TRIES_MAX: u8 = 10;

/// Pause before the first redelivery of a message that its consumer asked to have later, in microseconds; it doubles.
pub const REDELIVERY_BASE_US: u64 = 1_000_000;
/// The longest such pause, unless the consumer asks for a longer one.
pub const REDELIVERY_MAX_US: u64 = 300_000_000;
/// Failed deliveries after which a message goes to the dead letters.
pub const DELIVERIES_MAX: u8 = 20;
/// Consumers that disappear one after the other with messages in hand and nothing settled, after which the next one gets
/// one message at a time.
pub const DISAPPEARED_MAX: u8 = 2;
/// How long such a consumer may sit on a message before it gets one more, in microseconds: it may be one that settles
/// several together.
pub const PROBE_HOLD_US: u64 = 30_000_000;

/// Bytes that a log may take, in halves of what is queued: beyond it, and [`SPACE_SEGMENTS`], it is cleaned.
pub const SPACE_FACTOR_HALVES: u64 = 3;
/// Segments that a log may take besides: the one that is written to, and the next.
pub const SPACE_SEGMENTS: u64 = 2;
/// Slots of the index that cleaning goes over in one turn.
pub const CLEANED_SLOTS_PER_STEP: usize = 16_384;
/// Messages that cleaning finds before it moves them, about.
pub const CLEANING_MESSAGES_MAX: u64 = 65_536;
/// Times that cleaning goes over a whole log of which little was settled meanwhile.
pub const CLEANING_PASSES_MAX: u32 = 3;

/// Most recent message ids remembered per sender.
pub const DEDUP_SENDER_IDS_MAX: usize = 65_536;
/// Message ids remembered per shard, all senders together (about 36 bytes each).
pub const DEDUP_SHARD_IDS_MAX: usize = 4 << 20;
/// Senders remembered per shard.
pub const DEDUP_SENDERS_MAX: usize = 1 << 20;
/// Age at which a message id is refused, in milliseconds.
pub const DEDUP_WINDOW_MS: u64 = 3_600_000;
/// How far ahead of the node's clock a message id may be, in milliseconds.
pub const DEDUP_AHEAD_MS: u64 = 300_000;
/// Messages that one sender may have sent and not yet seen acknowledged.
pub const SENDER_IN_FLIGHT_MESSAGES_MAX: usize = 16_384;

// A frame, and the header of the segment it opens, fit into every segment.
const _: () = assert!(WRITE_BYTES_MAX as u64 <= SEGMENT_BYTES && SEGMENT_BYTES <= SEGMENT_BYTES_MAX);
const _: () = assert!(SEGMENT_BYTES_MAX <= u32::MAX as u64);
const _: () = assert!(FRAME_BYTES_MAX.is_multiple_of(BLOCK_BYTES) && SEGMENT_BYTES.is_multiple_of(BLOCK_BYTES as u64));
// A message of the largest size fits into a record with its batch header and its path.
const _: () = assert!(ENVELOPE_BYTES_MAX + BATCH_HEADER_BYTES_MAX + 8192 <= RECORD_BYTES_MAX);
// A resend is always recognised: whatever is in flight is still in the sender's window.
const _: () = assert!(SENDER_IN_FLIGHT_MESSAGES_MAX < DEDUP_SENDER_IDS_MAX);
const _: () = assert!(DEDUP_SENDER_IDS_MAX < DEDUP_SHARD_IDS_MAX);
// One pending batch fits a frame, and one record always fits what may be pending.
const _: () = assert!(RECORD_BYTES_MAX < PENDING_BYTES_MAX);
// Some reads can always be under way beside each other.
const _: () = assert!(2 * READ_EXTENTS_MAX <= READS_IN_FLIGHT_MAX && 2 * READ_AHEAD_BYTES <= READ_BYTES_IN_FLIGHT_MAX);
// What a group has done above its cursor fits, with its cursor, into the smallest frames that anybody uses.
const _: () = assert!(8 * GROUP_WINDOW + 1_024 <= 16 << 10);
const _: () = assert!(CHANNEL_SUBSCRIBERS_MAX <= SUBSCRIBERS_MAX && CHANNEL_READS_MAX < READS_IN_FLIGHT_MAX);
const _: () = assert!(CHANNEL_RETENTION_S_MIN < CHANNEL_RETENTION_S_MAX);
