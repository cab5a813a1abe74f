//! Every bound of the storage, in one place.

use std::time::Duration;

/// Most rows that a scan holds at a time.
pub const PAGE_ROWS_MAX: usize = 256;
/// Most keys of one [`Reading::get_many`](crate::Reading::get_many).
pub const KEYS_AT_ONCE_MAX: usize = 1_024;

/// Connections to PostgreSQL that read at a time; whoever comes next waits for one.
pub const READERS_MAX: usize = 8;
/// Longest wait for one of them.
pub const READER_WAIT: Duration = Duration::from_secs(5);
/// Longest time to connect, with TLS and login.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// So long nobody tries to connect again after it failed: whoever asks meanwhile is told why at once.
pub const RECONNECT_PAUSE: Duration = Duration::from_millis(500);
/// Longest wait for the answer to one statement.
pub const STATEMENT_TIMEOUT: Duration = Duration::from_secs(15);
/// Longest wait for another process to let go of the database. One that died has been forgotten by its server by then.
pub const LOCK_TIMEOUT: Duration = Duration::from_secs(5);
/// How long the outcome of a commit is looked for whose answer was lost.
pub const OUTCOME_TIMEOUT: Duration = Duration::from_secs(5);
/// Changes of a transaction that wait to be sent together.
pub const UNSENT_ROWS_MAX: usize = 1_024;
/// The same in bytes.
pub const UNSENT_BYTES_MAX: usize = 4 << 20;
/// Oldest PostgreSQL that is spoken with.
pub const POSTGRES_VERSION_MIN: u32 = 14;

const _: () = assert!(LOCK_TIMEOUT.as_secs() < STATEMENT_TIMEOUT.as_secs());
