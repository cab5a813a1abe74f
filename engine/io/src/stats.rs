//! What a driver counts, readable from other threads.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use creto_net::NetStats;

macro_rules! counters {
    ($( $(#[doc = $doc:literal])+ $name:ident, )+) => {
        /// What a shard's driver has counted since it started.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct DriverStats {
            $( $(#[doc = $doc])+ pub $name: u64, )+
        }

        #[derive(Debug, Default)]
        struct Shared {
            $( $name: AtomicU64, )+
        }

        impl Shared {
            fn store(&self, stats: &DriverStats) {
                $( self.$name.store(stats.$name, Ordering::Relaxed); )+
            }

            fn load(&self) -> DriverStats {
                DriverStats { $( $name: self.$name.load(Ordering::Relaxed), )+ }
            }
        }

        impl DriverStats {
            /// Every counter with its name, for exporters.
            pub fn named(&self) -> impl Iterator<Item = (&'static str, u64)> {
                [ $( (stringify!($name), self.$name), )+ ].into_iter()
            }
        }
    };
}

counters! {
    /// Turns of the loop.
    turns,
    /// Times that the shard had nothing to do and waited.
    parks,
    /// Times that another shard or thread woke it.
    woken,
    /// Receive calls that brought something.
    receives,
    /// Bytes received from the socket.
    bytes_received,
    /// Datagrams that landed here and were forwarded to their owner.
    datagrams_forwarded,
    /// Datagrams that could not be forwarded because the ring was full; QUIC repeats them.
    datagrams_dropped,
    /// Send calls (one per GSO batch).
    sends,
    /// Bytes sent on the socket.
    bytes_sent,
    /// Times that the socket's send buffer was full.
    sends_blocked,
    /// Send calls that failed; QUIC repeats what was lost.
    send_errors,
    /// Items taken from rings.
    items_received,
    /// Items put into rings.
    items_sent,
    /// Items that found a ring full.
    rings_full,
    /// Disk writes made durable.
    disk_writes,
    /// Bytes of them.
    disk_bytes_written,
    /// Disk operations of any kind that failed.
    disk_errors,
    /// Microseconds that durable writes took, all together.
    disk_write_us,
    /// Open connections, now.
    connections,
    /// Handshakes completed.
    handshakes_completed,
    /// Handshakes refused, ignored or sent a Retry.
    handshakes_deferred,
    /// Frames received.
    frames_received,
}

/// Upper bounds of [`WriteTimes`], in microseconds.
pub const WRITE_TIME_BOUNDS_US: [u64; 16] = [
    100, 200, 400, 800, 1_500, 3_000, 6_000, 12_500, 25_000, 50_000, 100_000, 200_000, 400_000, 1_000_000, 3_000_000,
    10_000_000,
];

/// How long durable writes took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WriteTimes {
    /// Writes of at most [`WRITE_TIME_BOUNDS_US`] that are above the bound before; the last place has those above all of them.
    pub counts: [u64; WRITE_TIME_BOUNDS_US.len() + 1],
}

impl WriteTimes {
    pub(crate) fn add(&mut self, us: u64) {
        let place = WRITE_TIME_BOUNDS_US.partition_point(|&bound| bound < us);
        self.counts[place] += 1;
    }
}

/// Reads a driver's counters from any thread. They are written once per turn, so they may be a turn old, and one read
/// may mix two turns.
#[derive(Clone, Debug, Default)]
pub struct StatsReader(Arc<Published>);

#[derive(Debug, Default)]
struct Published {
    shared: Shared,
    write_times: [AtomicU64; WRITE_TIME_BOUNDS_US.len() + 1],
}

impl StatsReader {
    /// The counters.
    pub fn read(&self) -> DriverStats {
        self.0.shared.load()
    }

    /// How long durable writes took; [`DriverStats::disk_write_us`] is the sum.
    pub fn write_times(&self) -> WriteTimes {
        WriteTimes { counts: std::array::from_fn(|place| self.0.write_times[place].load(Ordering::Relaxed)) }
    }

    pub(crate) fn publish(&self, stats: &DriverStats, write_times: &WriteTimes) {
        self.0.shared.store(stats);
        for (shared, count) in self.0.write_times.iter().zip(write_times.counts) {
            shared.store(count, Ordering::Relaxed);
        }
    }
}

impl DriverStats {
    pub(crate) fn take_net(&mut self, net: &NetStats, connections: usize) {
        self.connections = connections as u64;
        self.handshakes_completed = net.handshakes_completed;
        self.handshakes_deferred = net.handshakes_refused + net.handshakes_ignored + net.handshakes_retried;
        self.frames_received = net.frames_received;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_write_counts_in_the_first_bucket_that_it_fits() {
        let mut times = WriteTimes::default();
        for us in [0, 100, 101, 10_000_000, 10_000_001, u64::MAX] {
            times.add(us);
        }
        assert_eq!((times.counts[0], times.counts[1], times.counts[15], times.counts[16]), (2, 1, 1, 2));
        assert!(WRITE_TIME_BOUNDS_US.is_sorted());
        let reader = StatsReader::default();
        reader.publish(&DriverStats { disk_writes: 6, ..DriverStats::default() }, &times);
        assert_eq!((reader.read().disk_writes, reader.write_times()), (6, times));
    }
}
