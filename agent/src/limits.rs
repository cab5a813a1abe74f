//! Every bound of the SDK, in one place. What the wire allows is in `creto_envelope::limits`.

use std::time::Duration;

use creto_envelope::batch::BATCH_HEADER_BYTES;
use creto_envelope::limits::{
    BATCH_BYTES_MAX, BATCH_MESSAGES_MAX, CREDIT_BYTES_MAX, CREDIT_MESSAGES_MAX, IN_FLIGHT_MESSAGES_MAX,
    PREKEYS_PER_BATCH_MAX, SESSION_AGE_S_MAX, SIGNAL_CREDIT_MAX,
};

/// A batch closes when it holds this many messages.
pub const BATCH_MESSAGES: usize = 256;
/// A batch closes before its entries exceed this many bytes; a larger single message gets a batch of its own.
pub const BATCH_BYTES: usize = 256 * 1024;
/// A batch closes when its oldest message has waited this long, and at once when nothing is in flight.
pub const BATCH_AGE: Duration = Duration::from_millis(1);

/// Messages that were submitted and are not answered yet, by default.
pub const IN_FLIGHT_MESSAGES: u32 = 8_192;
/// Bytes of envelopes that were submitted and are not answered yet, by default. One message may exceed it.
pub const IN_FLIGHT_BYTES: u32 = 64 * 1024 * 1024;
/// Batches of one agent that may be sealed and signed at a time.
pub const SEAL_JOBS_MAX: usize = 3;
/// Jobs of all agents of the process that may wait for a cryptographic worker.
pub const WORKER_JOBS_MAX: usize = 512;
/// Cryptographic workers of the process; fewer when the machine has fewer cores.
pub const WORKER_THREADS_MAX: usize = 16;
/// Messages of one session, by default.
pub const SESSION_MESSAGES: u64 = 1_000;
/// Age of a session, by default.
pub const SESSION_AGE: Duration = Duration::from_secs(3_600);
/// Greatest age of a session.
pub const SESSION_AGE_MAX: Duration = Duration::from_secs(SESSION_AGE_S_MAX as u64);
/// Recipients to whom a session is kept; the one that was idle longest pays an encapsulation again.
pub const RECIPIENT_SESSIONS_MAX: usize = 4_096;
/// How often a message is sealed again because its recipient has another key by now.
pub const RESEALS_MAX: u32 = 4;
/// Frames that wait to be written to a stream.
pub const WRITE_QUEUE_FRAMES: usize = 4;

/// Deliveries that the application holds and has neither acknowledged nor dropped, by default.
pub const WINDOW_MESSAGES: u32 = 1_024;
/// Bytes of the envelopes of those, by default.
pub const WINDOW_BYTES: u32 = 4 * 1024 * 1024;
/// Deliver frames that are verified and opened at a time.
pub const OPEN_JOBS_MAX: usize = 4;
/// Message ids that are remembered per sender, to hide duplicates.
pub const DEDUP_IDS_PER_SENDER: usize = 32_768;
/// Message ids that are remembered over all senders.
pub const DEDUP_IDS_MAX: usize = 262_144;
/// Sessions of one sender that are remembered, at 1.4 KB without their keys; the one that was idle longest goes, so
/// whatever is over for good goes first.
///
/// A session that goes while its sender goes on with it costs messages: they do not carry the wrapped key any more, so
/// they are refused and stay in the mailbox unread. Room for two thousand processes of one identity, then: each has a
/// session to a recipient, two while it renews. More processes than that need several identities.
pub const SENDER_SESSIONS_MAX: usize = 4_096;
/// Sessions of all senders that are remembered; whoever has most loses the one that it left idle longest.
pub const ALL_SESSIONS_MAX: usize = 65_536;
/// Places for message keys of 32 bytes that the sessions of one sender take: 8 MiB. Above it, those that it left idle
/// longest go.
///
/// A message takes a place from when it, or a later one of its session, was opened until it and all before it are settled.
/// A sender that renews at 1,000 messages takes at most 1,024 for a session, and none in a session all of whose messages
/// that came are settled. What the application holds, 1,024 messages, lies in two or three sessions of each process that
/// sends: three thousand places for one, and for more of them fewer each. What piles up beyond that are sessions of which
/// messages never come, because they expired, whose keys are of no use to anybody; and sessions of which one message waits
/// while all others come, behind urgent ones or in the hands of the application. That takes 256 such sessions of one
/// sender at a time, a quarter of a million messages.
pub const SENDER_KEYS_KEPT_MAX: usize = 262_144;
/// The same over all senders: 64 MiB. Above it, whoever has most loses what it left idle longest.
pub const ALL_KEYS_KEPT_MAX: usize = 2_097_152;
/// Messages of one sender that the application refused and whose keys are kept beside their sessions, at 150 bytes: what may
/// lie in the mailbox as dead letters. Above it the oldest go, and open only while their sessions are remembered.
pub const SENDER_REFUSED_KEYS_MAX: usize = 65_536;
/// The same over all senders, 20 MB; above it the oldest of whoever has most go.
pub const ALL_REFUSED_KEYS_MAX: usize = 131_072;
/// How long such a key is kept: longer than any mailbox keeps a message, which is 30 days and for one that brings the key of a
/// session 25 hours more.
pub const REFUSED_KEY_AGE_MAX: Duration = Duration::from_secs(32 * 86_400);
/// How often it is looked whether some are older.
pub const REFUSED_KEYS_LOOKED_THROUGH: Duration = Duration::from_secs(3_600);
/// Messages of one sender that were to open a session and did not open, on one connection, before it is taken for hostile.
/// Messages above [`FAR_COUNTER`] that would open another session are refused then, but for one in [`FAR_TRIED_ONE_IN`].
pub const FAR_FAILURES_MAX: u32 = 8;
/// Counter up to which any message may open its session: above what a sender that renews at 1,000 messages ever uses.
pub const FAR_COUNTER: u64 = 1_024;
/// See [`FAR_FAILURES_MAX`].
pub const FAR_TRIED_ONE_IN: u64 = 16;
/// How long a subscription waits for the state of sessions while another process has it: that one is told to let go.
pub const STATE_WAIT: Duration = Duration::from_secs(10);
/// Pause between two looks whether it has let go.
pub const STATE_PAUSE: Duration = Duration::from_millis(20);
/// Rest of the disk between two transactions that settle messages: those that are acknowledged meanwhile go together.
/// Credit does not wait for it.
pub const SETTLE_REST: Duration = Duration::from_millis(10);
/// Rest between two frames that acknowledge deliveries, unless credit or a refusal goes with them: nobody waits for an
/// acknowledgement, and each frame is a wake-up of the node. The first one after a rest does not wait.
pub const ACKNOWLEDGEMENT_REST: Duration = Duration::from_millis(4);
/// Packets of QUIC after which the node is asked to acknowledge them at once.
pub const ACK_PACKETS: u32 = 32;
/// How long it may wait with that for something to go with.
pub const ACK_DELAY: Duration = Duration::from_millis(5);
/// Memory for pages of a file of sessions.
pub const STATE_CACHE_BYTES: usize = 4 * 1024 * 1024;
/// Batch headers whose verdict is remembered.
pub const ROOTS_CACHED: usize = 4_096;
/// Signals of one agent that were sent and are not answered; above it they are dropped.
pub const SIGNALS_IN_FLIGHT_MAX: u32 = 64;
/// Bytes of their envelopes.
pub const SIGNALS_IN_FLIGHT_BYTES_MAX: u32 = 512 * 1024;
/// How long a signal means something, unless it says otherwise.
pub const SIGNAL_TTL: Duration = Duration::from_secs(10);
/// Signals that the node may push before it is allowed more.
pub const SIGNAL_WINDOW: u32 = 64;
/// Signals that wait for the application; above it the oldest is dropped.
pub const SIGNALS_QUEUED_MAX: usize = 256;
/// Signals of one sender that are remembered until their time is over, so that none is shown twice; what is beyond is dropped.
pub const SIGNAL_IDS_PER_SENDER: usize = 1_024;
/// The same of all senders.
pub const SIGNAL_IDS_MAX: usize = 16_384;
/// How far the clocks of a sender and of this agent may be apart before its signals are dropped as late or early.
pub const SIGNAL_SKEW: Duration = Duration::from_secs(60);
/// How long a signal waits for its sender's key record before it is dropped: others wait behind it.
pub const SIGNAL_LOOKUP_TIMEOUT: Duration = Duration::from_secs(2);
/// Receipts of delivery that are on their way to the node at a time.
pub const DELIVERED_RECEIPTS_MAX: usize = 256;
/// How long a receipt of delivery is sent again that the node refuses for now: others wait behind it.
pub const DELIVERED_RETRY_FOR: Duration = Duration::from_secs(1);
/// Messages whose delivery was told, and receipts that came, that are remembered so that neither is told or shown twice.
pub const RECEIPTS_REMEMBERED: usize = 16_384;
/// Questions for presence that are open at a time; above it they wait.
pub const PRESENCE_QUESTIONS_MAX: usize = 64;
/// How long an answer about presence may take, reconnects included.
pub const PRESENCE_TIMEOUT: Duration = Duration::from_secs(10);
/// Incidents that wait to be looked at; the oldest are dropped (and stay counted) above it.
pub const INCIDENTS_QUEUED_MAX: usize = 256;
/// Groups of acknowledgements that wait for whoever measures them; the oldest are left out beyond.
pub const ACKNOWLEDGEMENTS_QUEUED_MAX: usize = 4_096;

/// Requests of one agent that may wait for their answers at a time. Above it a request waits for another to end; that counts as
/// its own time.
pub const REQUESTS_MAX: usize = 4_096;
/// The longest that a request waits: as long as any mailbox keeps it.
pub const REQUEST_TIMEOUT_MAX: Duration = Duration::from_secs(30 * 86_400);
/// Part of a request's time for which it is sent again when its recipient's mailbox is full or the node is busy, and no longer
/// than [`RETRY_FOR`]: one in this many. The rest is for the answer.
pub const REQUEST_RETRY_PART: u32 = 4;
/// Credit that the node is lent while requests wait and the application holds all that its window allows, in messages.
pub const LENT_MESSAGES: u32 = 64;
/// The same in bytes of envelopes; one message may exceed it.
pub const LENT_BYTES: u32 = 256 * 1024;
/// Messages that may be passed over on one connection to get at answers behind them; at that many the agent connects again, so that
/// answers, which are more urgent, come first. Fewer than the message keys that are kept of one sender.
pub const PASSED_OVER_MAX: usize = 65_536;
/// Requests that [`Agent::serve`](crate::Agent::serve) works on at a time, by default.
pub const SERVE_CONCURRENCY: usize = 64;
/// Most of them: no more than the window holds by default.
pub const SERVE_CONCURRENCY_MAX: usize = WINDOW_MESSAGES as usize;

/// Age at which a session of a channel ends: the next message begins another.
pub const CHANNEL_SESSION_AGE: Duration = Duration::from_secs(86_400);
/// Sessions of a channel that a publisher keeps for those who come later, where the channel's owner gives them what was before. Above
/// it the oldest go.
pub const CHANNEL_SESSIONS_KEPT_MAX: usize = 256;
/// Counters of a channel's session that are written as used at a time. As many at most are lost of a session when a process dies.
pub const CHANNEL_COUNTERS_RESERVED: u64 = 1_024;
/// How often a publisher looks whether the channel keeps nothing of a session any more.
pub const CHANNEL_SESSIONS_LOOKED_THROUGH: Duration = Duration::from_secs(60);
/// Keys of one channel that are on their way to subscribers at a time.
pub const CHANNEL_GIVES_MAX: usize = 256;
/// How long a key is sent again at a time whose subscriber's mailbox is full, before what else there is to do goes on.
pub const CHANNEL_GIVE_RETRY_FOR: Duration = Duration::from_secs(1);
/// First pause before a key that could not be given is tried again; it doubles every time.
pub const CHANNEL_GIVE_PAUSE_MIN: Duration = Duration::from_secs(1);
/// Longest such pause.
pub const CHANNEL_GIVE_PAUSE_MAX: Duration = Duration::from_secs(60);
/// How long a publisher goes by a channel's record before it looks whether there is a newer one.
pub const CHANNEL_RECORD_LIFETIME: Duration = Duration::from_secs(60);
/// How long an answer about a channel's record may take.
pub const CHANNEL_RECORD_TIMEOUT: Duration = Duration::from_secs(10);
/// Pause before what the node could not say about a channel is asked again.
pub const CHANNEL_RECORD_PAUSE: Duration = Duration::from_millis(200);
/// How long opening a channel, or subscribing to one, may take.
pub const CHANNEL_ATTACH_TIMEOUT: Duration = Duration::from_secs(15);
/// How long a publisher that is put away tries to give the keys that are to be given.
pub const CHANNEL_CLOSE_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a message of a channel waits for its key before that is reported, by default.
pub const CHANNEL_KEY_WAIT: Duration = Duration::from_secs(10);
/// Messages of a channel that are opened at a time.
pub const CHANNEL_OPENED_AT_A_TIME: usize = 256;
/// Keys of channels of one publisher that are kept, at 0.3 KB; the one that was idle longest goes.
pub const PUBLISHER_CHANNEL_KEYS_MAX: usize = 4_096;
/// The same over all publishers; whoever has most loses the one that it left idle longest.
pub const ALL_CHANNEL_KEYS_MAX: usize = 65_536;
/// How long a key is kept beyond the time for which its channel keeps messages: a session is published under for a day at most.
pub const CHANNEL_KEY_GRACE: Duration = Duration::from_secs(2 * 86_400);
/// How often it is looked whether some are older.
pub const CHANNEL_KEYS_LOOKED_THROUGH: Duration = Duration::from_secs(3_600);
/// Messages of a group that are remembered as acknowledged, to hide what comes again: several times what a group has in hand.
pub const GROUP_DONE_REMEMBERED: usize = 2_048;
/// Bytes of the windows of all of an agent's subscriptions of channels together: as much as a node lets wait for a connection.
pub const CHANNEL_WINDOWS_BYTES: u32 = 4 * 1024 * 1024;
/// Of these, what every subscription has that there may be.
pub const CHANNEL_WINDOW_BYTES_LEAST: u32 = 32 * 1024;
/// How long is waited for the file that knows where a subscription began, which has just ended.
pub const CHANNEL_FORGET_TIMEOUT: Duration = Duration::from_secs(1);
/// Pause before a message that was given back and came again is given back once more: at first, and at most.
pub const CHANNEL_HOLD_MIN: Duration = Duration::from_secs(1);
/// See [`CHANNEL_HOLD_MIN`].
pub const CHANNEL_HOLD_MAX: Duration = Duration::from_secs(60);
/// Pause before a report for which the application's queue had no room is tried again.
pub const CHANNEL_REPORT_PAUSE: Duration = Duration::from_millis(100);
/// Pause before the record of a publisher is looked up again, for whose want a message is not shown: at first, and at most.
pub const CHANNEL_LOOKUP_PAUSE_MIN: Duration = Duration::from_millis(500);
/// See [`CHANNEL_LOOKUP_PAUSE_MIN`].
pub const CHANNEL_LOOKUP_PAUSE_MAX: Duration = Duration::from_secs(30);
/// Messages of a subscription whose publishers are looked up at a time.
pub const CHANNEL_LOOKUPS_MAX: usize = 16;
/// Payloads of channels from this size on are sealed by a cryptographic worker.
pub const OFFLOADED_BYTES_MIN: usize = 16 * 1024;

/// Key records that are remembered.
pub const KEY_RECORDS_CACHED: usize = 4_096;
/// How long a key record counts as current without being asked for again.
pub const KEY_RECORD_LIFETIME: Duration = Duration::from_secs(3_600);
/// Key records that may be asked for at a time.
pub const KEY_RECORD_LOOKUPS_MAX: usize = 256;
/// Key records that are asked for at a time to name whom notices are about: few, so that others find a place.
pub const NOTICE_LOOKUPS_MAX: usize = 16;
/// How long an answer about a key record may take.
pub const KEY_RECORD_TIMEOUT: Duration = Duration::from_secs(10);
/// How long at least is waited before a record is asked for again that the node could not give.
pub const KEY_RECORD_PAUSE: Duration = Duration::from_millis(50);

/// Proofs that are asked for at a time: fewer than a node takes of one connection.
pub const KEY_LOG_PROOFS_OPEN_MAX: usize = 48;
/// How often a proof is asked for that a busy node refused.
pub const KEY_LOG_TRIES_MAX: u32 = 8;
/// How often a proof may be overtaken by a newer head, which another one brings, before it is asked for alone.
pub const KEY_LOG_OVERTAKEN_MAX: u32 = 2;
/// How long after a connect the new leaves of the key log are read at the latest: each agent at a moment of its own.
pub const KEY_LOG_READ_AFTER: Duration = Duration::from_secs(60);
/// Looks at the key log in succession that a connected node may let come to nothing before no further key is used.
pub const KEY_LOG_LOOKS_MISSED_MAX: u32 = 12;
/// How often they are read besides; every [`KEY_LOG_READ_AFTER`] while they cannot be had.
pub const KEY_LOG_READ_EVERY: Duration = Duration::from_secs(600);

/// Encryption keys that a key file may hold.
pub const KEYS_HELD_MAX: usize = 1_024;
/// Bytes of a key file, encrypted or not: five times what that many keys take.
pub const KEY_FILE_BYTES_MAX: usize = 1024 * 1024;
/// Bytes of a passphrase.
pub const PASSPHRASE_BYTES_MAX: usize = 1024;
/// Fewest characters of a passphrase that locks something new (NIST SP 800-63B section 5.1.1.1).
pub const PASSPHRASE_CHARS_MIN: usize = 8;
/// Memory that the lock of a file may ask for, in KiB: from OWASP's least for two passes up to 1 GiB.
pub const ARGON2_MEMORY_KIB_MAX: u32 = 1024 * 1024;
/// See [`ARGON2_MEMORY_KIB_MAX`].
pub const ARGON2_MEMORY_KIB_MIN: u32 = 19 * 1024;
/// Passes over it.
pub const ARGON2_PASSES_MAX: u32 = 64;
/// See [`ARGON2_PASSES_MAX`].
pub const ARGON2_PASSES_MIN: u32 = 2;
/// Lanes, of which each is computed after the other.
pub const ARGON2_LANES_MAX: u32 = 64;
/// Memory times passes, in KiB: 4 GiB to go through are some seconds.
pub const ARGON2_WORK_KIB_MAX: u64 = 4 * 1024 * 1024;
/// How long a replaced encryption key opens what was sealed to it, by default: as long as a node accepts it by default.
pub const KEY_GRACE: Duration = Duration::from_secs(7 * 86_400);
/// Shortest and longest grace period.
pub const KEY_GRACE_RANGE: std::ops::RangeInclusive<Duration> =
    Duration::from_secs(3_600)..=Duration::from_secs(30 * 86_400);
/// A key that is to be erased stays in memory until it was not needed for this long, in milliseconds: what the node had
/// accepted before may still be on its way.
pub const KEY_UNUSED_MS_MIN: u64 = 10 * 60_000;
/// How long replacing a key may take, reconnects included.
pub const ROTATE_TIMEOUT: Duration = Duration::from_secs(30);
/// How often the agent looks whether a key is due to be replaced or erased.
pub const KEYS_LOOKED_AFTER: Duration = Duration::from_secs(60);

/// One-time prekeys that an agent has at its node once it has uploaded some. A batch of that many takes 83 KB there.
pub const PREKEYS_STOCK: u32 = 64;
/// Below this many left it uploads more: there the node says so by itself.
pub const PREKEYS_LOW: u32 = 32;
/// How often the prekey of last resort is replaced.
pub const PREKEY_LAST_RESORT_AGE: Duration = Duration::from_secs(7 * 86_400);
/// How long after that its secret half is kept: longer than mailboxes keep messages unless they are set otherwise, and than
/// senders use it again. One that opened something within ten minutes stays, at most for [`PREKEY_IN_USE_MAX`].
pub const PREKEY_LAST_RESORT_GRACE: Duration = Duration::from_secs(8 * 86_400);
/// The longest that a secret half whose time is over is kept because it still opens something, beyond that time: longer than any
/// mailbox keeps a message.
pub const PREKEY_IN_USE_MAX: Duration = REFUSED_KEY_AGE_MAX;
/// Secret halves that are kept, 128 bytes each; above it the oldest for one use go. Those that somebody claimed and never
/// used stay until the key of their record's version goes.
pub const PREKEY_SECRETS_MAX: usize = 16_384;
/// Pause before prekeys are uploaded again that the node did not take for a reason that may pass.
pub const PREKEYS_RETRY: Duration = Duration::from_secs(60);
/// How long after an agent saw that secret halves are lost it does not replace its key a second time for that.
pub const PREKEYS_LOST_PAUSE: Duration = Duration::from_secs(3_600);
/// Questions about prekeys that are open at a time: fewer than a node takes of one connection.
pub const PREKEY_QUESTIONS_OPEN_MAX: usize = 48;
/// How long an answer to a question about the agent's own prekeys may take: an upload is checked and written to disk.
pub const PREKEY_ANSWER_TIMEOUT: Duration = Duration::from_secs(30);
/// How long a node that ends the connection over such a question is not asked again.
pub const PREKEYS_UNSUPPORTED_REMEMBERED: Duration = Duration::from_secs(3_600);
/// How long an answer to a claim may take on a connection. Without one nobody waits for it.
pub const PREKEY_CLAIM_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a sender that was given a one-time prekey may open a session to it: then it asks for another.
pub const PREKEY_ONE_TIME_USED: Duration = Duration::from_secs(3_600);
/// How long a sender opens sessions to the same prekey of last resort before it asks again.
pub const PREKEY_LAST_RESORT_USED: Duration = Duration::from_secs(600);
/// How long a sender opens sessions to the key of a recipient's record before it asks again whether there is a prekey.
pub const PREKEY_NONE_REMEMBERED: Duration = Duration::from_secs(60);
/// The same where the node could not say so now, or did not answer: after that long it is asked once more, and only then are
/// sessions opened to the key of the record.
pub const PREKEY_RETRY_AFTER: Duration = Duration::from_secs(1);
/// Recipients of whom a sender remembers a prekey or that there is none.
pub const PREKEYS_REMEMBERED_MAX: usize = 4_096;

/// First pause before a reconnect; it doubles with every failure.
pub const RECONNECT_PAUSE_MIN: Duration = Duration::from_millis(50);
/// Longest pause before a reconnect.
pub const RECONNECT_PAUSE_MAX: Duration = Duration::from_secs(5);
/// How long one attempt to reconnect may take.
pub const RECONNECT_ATTEMPT_TIMEOUT: Duration = Duration::from_secs(2);
/// Refused logins in a row after which an agent that was logged in before gives up.
pub const LOGIN_REFUSALS_MAX: u32 = 5;
/// How long `connect` waits for the node, by default.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a silent node counts as alive, by default.
pub const IDLE_TIMEOUT: Duration = Duration::from_secs(6);
/// How long a message is sent again that the node refuses for now, by default.
pub const RETRY_FOR: Duration = Duration::from_secs(30);
/// How long `close` waits for messages that are not answered yet.
pub const CLOSE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a closing agent waits until the node has its last acknowledgements.
pub const GOODBYE_TIMEOUT: Duration = Duration::from_secs(1);
/// A connection that lived this long sets the pause back to its minimum.
pub const CONNECTION_PROVEN: Duration = Duration::from_secs(2);
/// How long an answer about dead letters may take, reconnects included.
pub const DEAD_LETTER_TIMEOUT: Duration = Duration::from_secs(15);
/// Channels of a pattern that are joined at a time.
pub const CHANNEL_JOINS_AT_A_TIME: usize = 8;
/// Pages of one listing: a directory has at most 100,000 channels, and a page names 100 or looks at 2,048.
pub const CHANNEL_LIST_PAGES_MAX: usize = 2_048;
/// Most time that passes before channels are listed again when there may be others, so that not everybody asks at once.
pub const CHANNEL_LIST_SPREAD: Duration = Duration::from_secs(1);
/// Pause before channels are listed again that the node could not list, and before one is joined again that could not be.
pub const CHANNEL_LIST_PAUSE: Duration = Duration::from_secs(5);
/// First pause before a message is sent again that the node refused for now; it doubles with every refusal.
pub const REFUSED_PAUSE_MIN: Duration = Duration::from_millis(50);
/// Longest pause before such a message is sent again.
pub const REFUSED_PAUSE_MAX: Duration = Duration::from_secs(1);
/// Longest pause that a node's wish is followed for.
pub const PAUSE_MAX: Duration = Duration::from_secs(10);

const _: () = assert!(BATCH_MESSAGES <= BATCH_MESSAGES_MAX);
const _: () = assert!(BATCH_HEADER_BYTES + BATCH_BYTES <= BATCH_BYTES_MAX);
const _: () = assert!(IN_FLIGHT_MESSAGES <= IN_FLIGHT_MESSAGES_MAX);
const _: () = assert!(PASSED_OVER_MAX + CREDIT_MESSAGES_MAX as usize <= SENDER_KEYS_KEPT_MAX);
const _: () = assert!(SIGNAL_WINDOW <= SIGNAL_CREDIT_MAX && SIGNALS_QUEUED_MAX >= SIGNAL_WINDOW as usize);
const _: () = assert!(LENT_MESSAGES <= CREDIT_MESSAGES_MAX && LENT_BYTES <= CREDIT_BYTES_MAX);
const _: () = assert!(WINDOW_MESSAGES <= CREDIT_MESSAGES_MAX && WINDOW_BYTES <= CREDIT_BYTES_MAX);
// What may come again after a reconnect must still be recognised: everything that was held, several times over.
const _: () = assert!(DEDUP_IDS_PER_SENDER >= 4 * WINDOW_MESSAGES as usize);
const _: () = assert!(SESSION_MESSAGES <= creto_crypto_accel::session::SESSION_MESSAGES_MAX);
const _: () = assert!(ALL_SESSIONS_MAX >= SENDER_SESSIONS_MAX);
const _: () = assert!(SESSION_MESSAGES <= FAR_COUNTER);
const _: () = assert!(ALL_REFUSED_KEYS_MAX >= SENDER_REFUSED_KEYS_MAX);
const _: () = assert!(ALL_KEYS_KEPT_MAX >= SENDER_KEYS_KEPT_MAX);
// Far from what a sender takes whose messages come: three sessions of all that the application may hold.
const _: () = assert!(SENDER_KEYS_KEPT_MAX as u64 >= 64 * SESSION_MESSAGES.next_power_of_two());
const _: () = assert!(CHANNEL_KEY_GRACE.as_secs() > CHANNEL_SESSION_AGE.as_secs());
const _: () = assert!(PUBLISHER_CHANNEL_KEYS_MAX <= ALL_CHANNEL_KEYS_MAX);
const _: () = assert!(NOTICE_LOOKUPS_MAX < KEY_RECORD_LOOKUPS_MAX);
const _: () = assert!(PREKEYS_LOW <= PREKEYS_STOCK && (PREKEYS_STOCK as usize) < PREKEYS_PER_BATCH_MAX);
const _: () = assert!(PREKEY_LAST_RESORT_USED.as_secs() < PREKEY_LAST_RESORT_GRACE.as_secs());
const _: () = assert!(DEDUP_IDS_MAX >= DEDUP_IDS_PER_SENDER);
