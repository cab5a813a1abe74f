//! Every bound of the wire formats, in one place.
//!
//! A limit that another limit depends on is tied to it at compile time, so that changing one number
//! cannot silently break a second one.

use crate::batch::{BATCH_HEADER_BYTES_MAX, ED25519_SIGNATURE_BYTES, ENTRY_HEADER_BYTES, ML_DSA_65_SIGNATURE_BYTES};
use crate::channel::CHANNEL_RECORD_FIXED_BYTES;
use crate::channel::frames::CHANNEL_DELIVER_HEADER_BYTES;
use crate::deliver::{DELIVERED_MESSAGE_HEADER_BYTES, NACK_BYTES};
use crate::envelope::ENVELOPE_HEADER_BYTES;
use crate::key_record::{FN_DSA_512_PUBLIC_BYTES, KEY_RECORD_FIXED_BYTES, TOKEN_BINDING_BYTES};
use crate::letters::DEAD_LETTER_ENTRY_BYTES;
use crate::prekeys::SIGNED_PREKEY_FIXED_BYTES;
use crate::proof::PROOF_HEADER_BYTES;

/// Largest plaintext of one message, in bytes (1 MiB).
pub const PAYLOAD_PLAINTEXT_BYTES_MAX: usize = 1024 * 1024;
/// Authentication tag that AES-256-GCM appends to the ciphertext, in bytes (NIST SP 800-38D).
pub const AEAD_TAG_BYTES: usize = 16;
/// Largest payload on the wire: ciphertext and tag.
pub const PAYLOAD_BYTES_MAX: usize = PAYLOAD_PLAINTEXT_BYTES_MAX + AEAD_TAG_BYTES;
/// Wrapped key: ML-KEM-768 ciphertext (1,088 B) and X25519 share (32 B).
pub const WRAPPED_KEY_BYTES: usize = 1_120;
/// Messages of one session: counters are below this. Recipients remember every counter of a session.
pub const SESSION_MESSAGES_MAX: u64 = 4_096;
/// Messages of one session of a channel: counters are below this.
pub const CHANNEL_SESSION_MESSAGES_MAX: u64 = 65_536;
/// Seconds after its first message in which a session is used by its sender. A node keeps what brings a session's key
/// longer than what needs it, by this.
pub const SESSION_AGE_S_MAX: u32 = 86_400;
/// Largest whole envelope, in bytes.
pub const ENVELOPE_BYTES_MAX: usize = ENVELOPE_HEADER_BYTES + WRAPPED_KEY_BYTES + PAYLOAD_BYTES_MAX;

/// Most messages one signed batch may hold.
pub const BATCH_MESSAGES_MAX: usize = 1_024;
/// Most bytes of one signed batch: header and entries.
pub const BATCH_BYTES_MAX: usize = 2 * 1024 * 1024;
/// Longest Merkle path of a batch: ceil(log2(`BATCH_MESSAGES_MAX`)) nodes.
pub const PATH_NODES_MAX: usize = 10;

/// Largest body of a frame, whatever its type.
pub const FRAME_BODY_BYTES_MAX: usize = BATCH_BYTES_MAX + 8;
/// Largest body of a frame on the control stream.
pub const CONTROL_BODY_BYTES_MAX: usize = 16 * 1024;
/// Most bytes of messages that the node puts into one Deliver frame when more than one message fits.
pub const DELIVER_BODY_BYTES_MAX: usize = FRAME_BODY_BYTES_MAX;
/// Most sequences in one ConsumerAck frame.
pub const CONSUMER_ACK_SEQUENCES_MAX: usize = 4_096;
/// Most messages in one ConsumerNack frame.
pub const CONSUMER_NACK_MESSAGES_MAX: usize = 4_096;
/// Most dead letters in one DeadLetters frame.
pub const DEAD_LETTERS_LISTED_MAX: usize = 256;
/// Most dead letters that one DeadLetterChange frame names.
pub const DEAD_LETTER_CHANGES_MAX: usize = 512;
/// Most prekeys in one upload.
pub const PREKEYS_PER_BATCH_MAX: usize = 128;
/// Longest path of a prekey: ceil(log2(`PREKEYS_PER_BATCH_MAX`)) nodes.
pub const PREKEY_PATH_NODES_MAX: usize = 7;
/// Largest body of a PrekeyUpload frame: its header and every prekey that it may hold.
pub const PREKEY_UPLOAD_BODY_BYTES_MAX: usize = 160_080;
/// Most leaves in one KeyLeaves frame.
pub const KEY_LEAVES_MAX: usize = 1_024;
/// Most hashes of a path or of a consistency proof.
pub const KEY_LOG_HASHES_MAX: usize = 65;
/// Largest head of a key log, in bytes.
pub const KEY_LOG_NOTE_BYTES_MAX: usize = 7_168;
/// Longest text of the public keys of a key log, in bytes.
pub const KEY_LOG_KEYS_BYTES_MAX: usize = 4_608;
/// Most results that one SubmitAck frame lists.
pub const SUBMIT_RESULTS_MAX: usize = 4_096;

/// Most messages one connection may have submitted and not yet seen answered.
///
/// The deduplication window of the node is larger than this, so whatever a sender must resend is still recognised.
pub const IN_FLIGHT_MESSAGES_MAX: u32 = 16_384;
/// Most deliver credit, in messages, that a subscriber may hold at a time.
pub const CREDIT_MESSAGES_MAX: u32 = 65_536;
/// Most deliver credit, in bytes, that a subscriber may hold at a time.
pub const CREDIT_BYTES_MAX: u32 = 4 * 1024 * 1024;

/// Largest plaintext of a signal, in bytes.
pub const SIGNAL_PLAINTEXT_BYTES_MAX: usize = 4_096;
/// Largest whole envelope of a signal, in bytes.
pub const SIGNAL_ENVELOPE_BYTES_MAX: usize =
    ENVELOPE_HEADER_BYTES + WRAPPED_KEY_BYTES + SIGNAL_PLAINTEXT_BYTES_MAX + AEAD_TAG_BYTES;
/// Longest life of a signal, in seconds.
pub const SIGNAL_TTL_S_MAX: u32 = 60;
/// Most signals that a reader may be pushed beyond those that it was pushed.
pub const SIGNAL_CREDIT_MAX: u32 = 256;

/// Longest agent name, in bytes.
pub const NAME_BYTES_MAX: usize = 128;
/// Longest trust domain, in bytes (SPIFFE allows 255).
pub const TRUST_DOMAIN_BYTES_MAX: usize = 255;

/// Largest signed key record, in bytes.
pub const SIGNED_KEY_RECORD_BYTES_MAX: usize = 8
    + KEY_RECORD_FIXED_BYTES
    + NAME_BYTES_MAX
    + TRUST_DOMAIN_BYTES_MAX
    + FN_DSA_512_PUBLIC_BYTES
    + TOKEN_BINDING_BYTES
    + ED25519_SIGNATURE_BYTES
    + ML_DSA_65_SIGNATURE_BYTES;
/// Largest proof, in bytes: its header, a batch header, a path, an envelope and a key record, each with its padding.
pub const PROOF_BYTES_MAX: usize = PROOF_HEADER_BYTES
    + BATCH_HEADER_BYTES_MAX
    + PATH_NODES_MAX * 32
    + ENVELOPE_BYTES_MAX.next_multiple_of(8)
    + SIGNED_KEY_RECORD_BYTES_MAX.next_multiple_of(8);

/// Most agents that a channel's record lists as publishers, and most that it lists as subscribers.
pub const CHANNEL_MEMBERS_MAX: usize = 10_000;
/// Most subscribers that a channel can have.
pub const CHANNEL_SUBSCRIBERS_MAX: u32 = 10_000;
/// Most channels that one connection reads at a time, and most that it is told the subscribers of.
pub const CHANNEL_SUBSCRIPTIONS_MAX: usize = 64;
/// Shortest time for which a channel keeps messages, in seconds: a minute.
pub const CHANNEL_RETENTION_S_MIN: u32 = 60;
/// Longest time for which a channel keeps messages, in seconds: 30 days.
pub const CHANNEL_RETENTION_S_MAX: u32 = 30 * 86_400;
/// Largest signed record of a channel, in bytes.
pub const SIGNED_CHANNEL_RECORD_BYTES_MAX: usize = 8
    + CHANNEL_RECORD_FIXED_BYTES
    + NAME_BYTES_MAX
    + TRUST_DOMAIN_BYTES_MAX
    + 2 * CHANNEL_MEMBERS_MAX * 16
    + ED25519_SIGNATURE_BYTES
    + ML_DSA_65_SIGNATURE_BYTES;

/// Number of partitions that mailboxes are spread over.
pub const PARTITION_COUNT: u16 = 256;

// One message of the largest size must fit into a batch, or it could never be sent.
const _: () = assert!(BATCH_HEADER_BYTES_MAX + ENTRY_HEADER_BYTES + ENVELOPE_BYTES_MAX + 8 <= BATCH_BYTES_MAX);
// ... and into a Deliver or ChannelDeliver frame with its header and its path, or it could never be received.
const _: () = assert!(
    CHANNEL_DELIVER_HEADER_BYTES
        + 8
        + BATCH_HEADER_BYTES_MAX
        + DELIVERED_MESSAGE_HEADER_BYTES
        + PATH_NODES_MAX * 32
        + ENVELOPE_BYTES_MAX
        + 8
        <= DELIVER_BODY_BYTES_MAX
);
// All the signals that a reader may be pushed at a time fit into one frame.
const _: () = assert!(
    8 + BATCH_HEADER_BYTES_MAX
        + SIGNAL_CREDIT_MAX as usize
            * (DELIVERED_MESSAGE_HEADER_BYTES + PATH_NODES_MAX * 32 + SIGNAL_ENVELOPE_BYTES_MAX + 8)
        <= FRAME_BODY_BYTES_MAX
);
// A path of PATH_NODES_MAX nodes reaches every leaf of the largest batch.
const _: () = assert!(1 << PATH_NODES_MAX >= BATCH_MESSAGES_MAX);
// Acks and results fit into a frame.
const _: () = assert!(8 + CONSUMER_ACK_SEQUENCES_MAX * 8 <= FRAME_BODY_BYTES_MAX);
const _: () = assert!(16 + SUBMIT_RESULTS_MAX * 16 <= FRAME_BODY_BYTES_MAX);
const _: () = assert!(SIGNED_CHANNEL_RECORD_BYTES_MAX <= FRAME_BODY_BYTES_MAX);
const _: () = assert!(8 + CONSUMER_NACK_MESSAGES_MAX * NACK_BYTES <= FRAME_BODY_BYTES_MAX);
// What is said about dead letters fits a frame of the control stream.
const _: () = assert!(16 + DEAD_LETTERS_LISTED_MAX * DEAD_LETTER_ENTRY_BYTES <= CONTROL_BODY_BYTES_MAX);
const _: () = assert!(24 + DEAD_LETTER_CHANGES_MAX * 8 <= CONTROL_BODY_BYTES_MAX);
// A path of PREKEY_PATH_NODES_MAX nodes reaches every prekey of the largest upload, and the answer with it fits a frame.
const _: () = assert!(1 << PREKEY_PATH_NODES_MAX >= PREKEYS_PER_BATCH_MAX);
const _: () = assert!(24 + SIGNED_PREKEY_FIXED_BYTES + PREKEY_PATH_NODES_MAX * 32 <= CONTROL_BODY_BYTES_MAX);
const _: () = assert!(PREKEY_UPLOAD_BODY_BYTES_MAX <= FRAME_BODY_BYTES_MAX);
