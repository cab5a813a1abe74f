//! What a run found, for people and as JSON.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

use crate::limits::LATENCY_US_MAX;

/// Percentiles of a latency, in microseconds; three significant digits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Latency {
    /// How many were measured.
    pub count: u64,
    /// The mean.
    pub mean_us: u64,
    /// Half are below.
    pub p50_us: u64,
    /// 90 % are below.
    pub p90_us: u64,
    /// 99 % are below.
    pub p99_us: u64,
    /// 99.9 % are below.
    pub p999_us: u64,
    /// The longest.
    pub max_us: u64,
}

impl Latency {
    pub(crate) fn of(histogram: &Histogram<u64>) -> Self {
        Self {
            count: histogram.len(),
            #[allow(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "a mean is below LATENCY_US_MAX"
            )]
            mean_us: histogram.mean().round() as u64,
            p50_us: histogram.value_at_quantile(0.50),
            p90_us: histogram.value_at_quantile(0.90),
            p99_us: histogram.value_at_quantile(0.99),
            p999_us: histogram.value_at_quantile(0.999),
            max_us: histogram.max(),
        }
    }
}

impl fmt::Display for Latency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = |us: u64| Duration::from_micros(us).as_secs_f64() * 1_000.0;
        let (p50, p99, p999, max) = (ms(self.p50_us), ms(self.p99_us), ms(self.p999_us), ms(self.max_us));
        write!(f, "p50 {p50:.2} ms, p99 {p99:.2} ms, p99.9 {p999:.2} ms, max {max:.2} ms")
    }
}

/// An empty histogram of latencies.
pub(crate) fn latencies() -> Histogram<u64> {
    Histogram::new_with_bounds(1, LATENCY_US_MAX, 3).expect("the bounds are constants that fit each other")
}

/// Adds a latency; above the limit it counts as the limit.
pub(crate) fn record(histogram: &mut Histogram<u64>, latency: Duration) {
    histogram.saturating_record(u64::try_from(latency.as_micros()).unwrap_or(u64::MAX).min(LATENCY_US_MAX));
}

/// Where a run stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Messages that were due so far.
    pub due: u64,
    /// Messages of the whole run.
    pub message_count: u64,
    /// Messages given to the SDK.
    pub submitted: u64,
    /// Messages that the node acknowledged, in the ledger if there is one.
    pub acknowledged: u64,
    /// Messages that came to their receiver.
    pub delivered: u64,
    /// Since the start.
    pub elapsed: Duration,
}

/// What a run found. Everything is counted; nothing is assumed.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// Which scenario.
    pub scenario: String,
    /// Rate that was asked for, over all senders.
    pub rate_per_s: u64,
    /// How long messages were due, in seconds.
    pub duration_s: f64,
    /// Bytes of each payload.
    pub payload_bytes: usize,
    /// Pairs of a sender and a receiver.
    pub pairs: usize,
    /// Messages given to the SDK.
    pub sent: u64,
    /// Messages that the node acknowledged; with a ledger, only those that are in it and synced.
    pub acknowledged: u64,
    /// Messages that the node refused for good, by code.
    pub refused: BTreeMap<u16, u64>,
    /// Messages without a clear answer: the connection broke, or the run ended first.
    pub unknown: u64,
    /// Messages that came to their receiver, each counted once.
    pub delivered: u64,
    /// Messages that were shown to an application twice: zero, or the system is broken.
    pub delivered_twice: u64,
    /// Duplicates that the SDK hid.
    pub duplicates_hidden: u64,
    /// Acknowledged and not delivered: zero, or the system is broken (or the run did not wait long enough).
    pub lost: u64,
    /// Messages that could not be verified or opened by their receiver, or are not this run's.
    pub rejected: u64,
    /// Connections that were made again.
    pub reconnects: u64,
    /// Key encapsulations that the senders paid: one for each session, or for each message without sessions.
    #[serde(default)]
    pub encapsulations: u64,
    /// Batches that the senders signed, each with Ed25519 and ML-DSA-65.
    #[serde(default)]
    pub signatures: u64,
    /// Acknowledged per second, from the start to the last acknowledgement.
    pub acknowledged_per_s: f64,
    /// From the time a message was due to its acknowledgement.
    pub acknowledged_latency: Latency,
    /// From the time a message was due to its delivery.
    pub delivered_latency: Latency,
    /// How late this tool itself was in announcing what was due: its own share of the latencies.
    pub pacer_late: Latency,
    /// What makes the figures doubtful, in words.
    pub warnings: Vec<String>,
}

impl Report {
    /// Whether every acknowledged message was delivered exactly once, and there was at least one.
    #[must_use]
    pub fn holds(&self) -> bool {
        self.acknowledged > 0 && self.lost == 0 && self.delivered_twice == 0 && self.rejected == 0
    }

    pub(crate) fn warn(&mut self) {
        let late_ms = Duration::from_micros(self.pacer_late.p99_us).as_secs_f64() * 1_000.0;
        if late_ms > 1.0 {
            self.warnings.push(format!(
                "the load generator itself was late (p99 {late_ms:.1} ms): give it a core of its own, or lower the rate"
            ));
        }
        #[allow(clippy::cast_precision_loss, reason = "a rate is far below 2^52")]
        let asked = self.rate_per_s as f64;
        if self.acknowledged_per_s < asked * 0.98 {
            self.warnings.push(format!(
                "{:.0} messages a second were acknowledged, {asked:.0} were asked for: above what this system can do, latencies only say how long the run was",
                self.acknowledged_per_s
            ));
        }
        if self.acknowledged == 0 {
            self.warnings.push("nothing was acknowledged: this run says nothing".to_owned());
        }
    }
}
