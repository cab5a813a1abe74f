//! Every bound of the driver, in one place.

use std::time::Duration;

/// Boundary and granularity of everything written to a segment, in bytes.
pub const BLOCK_BYTES: usize = 4_096;

/// Bytes taken from the socket in one turn. A turn that takes more would keep acknowledgements and disk completions
/// waiting: at about 1 us per KiB this is half a millisecond.
pub const RECEIVE_BYTES_PER_TURN: usize = 512 << 10;

/// Buffers of one receive call; each holds one GRO batch of up to 64 KiB.
pub const RECEIVE_BATCH: usize = 8;

/// Bytes of one receive buffer: the largest GRO batch.
pub const RECEIVE_BUFFER_BYTES: usize = 64 << 10;

/// Bytes of frames handed to the machine in one turn. The rest stays in QUIC, whose flow control holds senders back.
pub const FRAME_BYTES_PER_TURN: usize = 1 << 20;

/// Network events handed to the machine in one turn.
pub const NET_EVENTS_PER_TURN: usize = 4_096;

/// Items taken from each ring in one turn.
pub const RING_ITEMS_PER_TURN: usize = 1_024;

/// Actions carried out in one turn. The rest follows in the next.
pub const ACTIONS_PER_TURN: usize = 16_384;

/// GSO batches sent in one turn.
pub const TRANSMITS_PER_TURN: usize = 64;

/// Datagrams of one GSO batch. With 1,452-byte datagrams the kernel's 64 KiB allow 45.
pub const GSO_SEGMENTS_MAX: usize = 32;

/// Longest time that a shard stays parked. See the crate's page for why it is so short; it costs 20 wake-ups a second.
pub const PARK_MAX: Duration = Duration::from_millis(50);

/// Pause before a full socket send buffer is tried again; glommio has no wait for writability. A buffer of 4 MiB is
/// empty after 3 ms at 10 Gbit/s, so this is a fraction of what the kernel still has to send.
pub const SEND_RETRY: Duration = Duration::from_micros(300);

/// Disk operations that may be under way at one time. More are the machine's fault.
pub const DISK_OPERATIONS_MAX: usize = 64;

/// Bytes of one write while a new segment is filled with zeros. Small enough that a group commit never waits long
/// behind one.
pub const ZERO_FILL_BYTES: usize = 256 << 10;

/// The same once the zeros are so far behind the log. A shard that writes full groups comes back to its zeros once a
/// millisecond, so they must be more at a time, or the log waits for its next segment.
pub const ZERO_FILL_BYTES_BEHIND: usize = 1 << 20;

/// Zeros written into a segment that is being made for each byte of the log, as long as group commits are under way. It is
/// begun when half a segment is left, so with four it is ready when a quarter is.
pub const ZERO_FILL_PER_BYTE: u64 = 4;

/// Bytes of one write of a digest. A group commit may have to wait behind one.
pub const DIGEST_WRITE_BYTES: usize = 64 << 10;

/// Longest time that a halted shard goes on sending what is queued, in microseconds.
pub const HALT_US_MAX: u64 = 1_000_000;

/// A shard without progress for this long is reported.
pub const STALL: Duration = Duration::from_millis(100);

const _: () = assert!(PARK_MAX.as_millis() * 2 <= STALL.as_millis());
const _: () = assert!(DIGEST_WRITE_BYTES.is_multiple_of(BLOCK_BYTES));
const _: () = assert!(RECEIVE_BYTES_PER_TURN >= RECEIVE_BATCH * RECEIVE_BUFFER_BYTES);
const _: () =
    assert!(ZERO_FILL_BYTES.is_multiple_of(BLOCK_BYTES) && ZERO_FILL_BYTES_BEHIND.is_multiple_of(ZERO_FILL_BYTES));
