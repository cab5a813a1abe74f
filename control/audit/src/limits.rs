//! Every bound of the audit log's formats, in one place.

/// Most bytes of the text that an event of control may carry: an agent's name, an organization, the name of a file.
pub const LABEL_BYTES_MAX: usize = creto_envelope::limits::NAME_BYTES_MAX;
/// Bytes of an event before the fields of its kind.
pub const EVENT_HEADER_BYTES: usize = 56;
/// Most bytes of the fields of a kind.
pub const EVENT_FIELDS_BYTES_MAX: usize = 96;
/// Largest event, in bytes.
pub const EVENT_BYTES_MAX: usize = EVENT_HEADER_BYTES + EVENT_FIELDS_BYTES_MAX + LABEL_BYTES_MAX;
/// Bytes of the salt in front of an event.
pub const SALT_BYTES: usize = 16;
/// Largest entry of the log, in bytes: salt and event.
pub const ENTRY_BYTES_MAX: usize = SALT_BYTES + EVENT_BYTES_MAX;
/// Smallest entry of the log, in bytes.
pub const ENTRY_BYTES_MIN: usize = SALT_BYTES + EVENT_HEADER_BYTES;

// A label's length is one byte, an entry's length in a bundle is two.
const _: () = assert!(LABEL_BYTES_MAX <= u8::MAX as usize);
const _: () = assert!(ENTRY_BYTES_MAX < u16::MAX as usize);

/// Most sources of one log: a shard for each partition, and control.
pub const SOURCES_MAX: usize = creto_envelope::limits::PARTITION_COUNT as usize + 1;
/// Largest signed note that is read, in bytes.
pub const NOTE_BYTES_MAX: usize = 64 * 1024;
/// Most signatures of a note: the specification wants at least sixteen.
pub const NOTE_SIGNATURES_MAX: usize = 16;
/// Longest origin, in bytes.
pub const ORIGIN_BYTES_MAX: usize = 512;
/// Largest inclusion proof file, in bytes.
pub const PROOF_BYTES_MAX: usize = NOTE_BYTES_MAX + 16 * 1024;
/// Most hashes of an inclusion or consistency proof: a tree of 2^64 leaves needs no more.
pub const PATH_HASHES_MAX: usize = 65;
/// Most older checkpoints in an export.
pub const EXPORT_MILESTONES_MAX: usize = 1_024;
/// Longest text of the public keys of a log, in bytes.
pub const KEYS_BYTES_MAX: usize = 8 * 1024;

/// Events of one kind that strangers can cause, told one by one at once.
pub const TOLD_AT_ONCE_MAX: u32 = 256;
/// So many more of them in each second.
pub const TOLD_PER_S: u32 = 4;
/// Agents and addresses for which a rule of the monitor keeps counts.
pub const ALERT_SUBJECTS_MAX: usize = 1_024;

// A line for each source (name, position, 44 characters of hash), and both signatures in base64.
const _: () = assert!(
    ORIGIN_BYTES_MAX + 128 + SOURCES_MAX * (8 + 12 + 21 + 45) + 2 * ORIGIN_BYTES_MAX + 8 * 1024 <= NOTE_BYTES_MAX
);
