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
