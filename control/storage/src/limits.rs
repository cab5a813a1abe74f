//! Every bound of the storage, in one place.

use std::time::Duration;

/// Memory that an open file takes for what was read of it and what is about to be written. The system keeps the rest of it in memory
/// as long as nobody else wants that.
pub const FILE_CACHE_BYTES: usize = 256 << 20;
/// Most rows that a scan holds at a time.
pub const PAGE_ROWS_MAX: usize = 256;
/// Most keys of one [`Reading::get_many`](crate::Reading::get_many).
pub const KEYS_AT_ONCE_MAX: usize = 1_024;

/// Connections to PostgreSQL that read at a time; whoever comes next waits for one.
pub const READERS_MAX: usize = 8;
/// Longest wait for one of them.
pub const READER_WAIT: Duration = Duration::from_secs(5);
/// Longest time to connect to one address.
pub const ADDRESS_TIMEOUT: Duration = Duration::from_secs(2);
/// Longest time to connect to all of them, with TLS and login.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Longest wait for the answer to the beginning of a transaction, which does nothing yet. A connection that says nothing for so
/// long is given up for a new one.
pub const BEGIN_TIMEOUT: Duration = Duration::from_secs(2);
/// So long nobody tries to connect again after it failed: whoever asks meanwhile is told why at once.
pub const RECONNECT_PAUSE: Duration = Duration::from_millis(500);
/// Longest wait for the answer to one statement.
pub const STATEMENT_TIMEOUT: Duration = Duration::from_secs(15);
/// Longest wait of one connection for another process to let go of the database. One that ended has let go at once.
pub const LOCK_TIMEOUT: Duration = Duration::from_secs(5);
/// After how long without a word the server asks whether a client is still there, how often, and how long it waits for each
/// answer: of a machine that died it hears after 25 s.
pub const KEEPALIVES: (Duration, u32, Duration) = (Duration::from_secs(10), 3, Duration::from_secs(5));
/// How long a node that starts waits in all for another one to let go, over TCP.
pub const TAKEN_WAIT: Duration = Duration::from_secs(30);
/// How long the outcome of a commit is looked for whose answer was lost.
pub const OUTCOME_TIMEOUT: Duration = Duration::from_secs(5);
/// Changes of a transaction that wait to be sent together.
pub const UNSENT_ROWS_MAX: usize = 1_024;
/// The same in bytes.
pub const UNSENT_BYTES_MAX: usize = 4 << 20;
/// Oldest PostgreSQL that is spoken with.
pub const POSTGRES_VERSION_MIN: u32 = 14;

const _: () = assert!(TAKEN_WAIT.as_secs() > KEEPALIVES.0.as_secs() + KEEPALIVES.1 as u64 * KEEPALIVES.2.as_secs());
const _: () = assert!(ADDRESS_TIMEOUT.as_secs() < CONNECT_TIMEOUT.as_secs());
const _: () = assert!(LOCK_TIMEOUT.as_secs() < STATEMENT_TIMEOUT.as_secs());
