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
    /// Microseconds from the first bytes of signed batches to their last, all together.
    batch_receive_us,
}

/// Upper bounds of [`Times`], in microseconds.
pub const TIME_BOUNDS_US: [u64; 16] = [
    100, 200, 400, 800, 1_500, 3_000, 6_000, 12_500, 25_000, 50_000, 100_000, 200_000, 400_000, 1_000_000, 3_000_000,
    10_000_000,
];

/// How long something took, so often.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Times {
    /// Those of at most [`TIME_BOUNDS_US`] that are above the bound before; the last place has those above all of them.
    pub counts: [u64; TIME_BOUNDS_US.len() + 1],
}

impl Times {
    pub(crate) fn add(&mut self, us: u64) {
        let place = TIME_BOUNDS_US.partition_point(|&bound| bound < us);
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
    write_times: SharedTimes,
    receive_times: SharedTimes,
}

#[derive(Debug, Default)]
struct SharedTimes([AtomicU64; TIME_BOUNDS_US.len() + 1]);

impl SharedTimes {
    fn load(&self) -> Times {
        Times { counts: std::array::from_fn(|place| self.0[place].load(Ordering::Relaxed)) }
    }

    fn store(&self, times: &Times) {
        for (shared, count) in self.0.iter().zip(times.counts) {
            shared.store(count, Ordering::Relaxed);
        }
    }
}

impl StatsReader {
    /// The counters.
    pub fn read(&self) -> DriverStats {
        self.0.shared.load()
    }

    /// How long durable writes took; [`DriverStats::disk_write_us`] is the sum.
    pub fn write_times(&self) -> Times {
        self.0.write_times.load()
    }

    /// How long it took from the first bytes of a signed batch to its last; [`DriverStats::batch_receive_us`] is the sum.
    pub fn receive_times(&self) -> Times {
        self.0.receive_times.load()
    }

    pub(crate) fn publish(&self, stats: &DriverStats, write_times: &Times, receive_times: &Times) {
        self.0.shared.store(stats);
        self.0.write_times.store(write_times);
        self.0.receive_times.store(receive_times);
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
    fn what_took_so_long_counts_in_the_first_bucket_that_it_fits() {
        let mut times = Times::default();
        for us in [0, 100, 101, 10_000_000, 10_000_001, u64::MAX] {
            times.add(us);
        }
        assert_eq!((times.counts[0], times.counts[1], times.counts[15], times.counts[16]), (2, 1, 1, 2));
        assert!(TIME_BOUNDS_US.is_sorted());
        let reader = StatsReader::default();
        reader.publish(&DriverStats { disk_writes: 6, ..DriverStats::default() }, &times, &Times::default());
        assert_eq!((reader.read().disk_writes, reader.write_times()), (6, times));
        assert_eq!(reader.receive_times(), Times::default());
    }
}
