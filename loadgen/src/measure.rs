//! Latencies: histograms of the whole run, and of each second of it. Pure: times come in as arguments.
//!
//! Percentiles are read from histograms only. Runs are put together by adding their histograms up; a mean of percentiles is never made.

use std::time::Duration;

use hdrhistogram::Histogram;
use hdrhistogram::serialization::{Serializer as _, V2DeflateSerializer};
use serde::{Deserialize, Serialize};

use crate::limits::{LATENCY_DIGITS, LATENCY_US_MAX, SERIES_ROWS_MAX};

/// Percentiles of a latency, in microseconds, with three significant digits. None of them is there when nothing was measured.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Percentiles {
    /// How many were measured.
    pub count: u64,
    /// The mean.
    pub mean: Option<u64>,
    /// Half are not above.
    pub p50: Option<u64>,
    /// 90 % are not above.
    pub p90: Option<u64>,
    /// 99 % are not above.
    pub p99: Option<u64>,
    /// 99.9 % are not above.
    pub p99_9: Option<u64>,
    /// The longest.
    pub max: Option<u64>,
}

impl Percentiles {
    pub(crate) fn of(histogram: &Histogram<u64>) -> Self {
        if histogram.is_empty() {
            return Self::default();
        }
        let at = |quantile| Some(histogram.value_at_quantile(quantile));
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a mean is below LATENCY_US_MAX")]
        let mean = histogram.mean().round() as u64;
        Self {
            count: histogram.len(),
            mean: Some(mean),
            p50: at(0.5),
            p90: at(0.9),
            p99: at(0.99),
            p99_9: at(0.999),
            max: Some(histogram.max()),
        }
    }
}

/// A point of a distribution: this share of all took this long or less.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Point {
    /// In percent, below 100.
    pub percentile: f64,
    /// In microseconds.
    pub us: u64,
}

/// A distribution by decades: ten points between 0 and 90 %, ten between 90 and 99 %, and so on, as far as something was measured.
pub(crate) fn curve(histogram: &Histogram<u64>) -> Vec<Point> {
    let mut points = Vec::new();
    let mut rest = 1.0f64;
    #[allow(clippy::cast_precision_loss, reason = "a run has far less than 2^52 messages")]
    let count = histogram.len() as f64;
    while rest * count >= 1.0 && points.len() < 100 {
        for step in 0..10 {
            let above = rest * (1.0 - 0.09 * f64::from(step));
            if above * count >= 1.0 {
                let quantile = 1.0 - above;
                // As it is meant: 99.9, not what is next to it in binary.
                let percentile = (quantile * 1e10).round() / 1e8;
                points.push(Point { percentile, us: histogram.value_at_quantile(quantile) });
            }
        }
        rest /= 10.0;
    }
    points
}

/// An empty histogram of latencies.
#[must_use]
pub(crate) fn latencies() -> Histogram<u64> {
    Histogram::new_with_bounds(1, LATENCY_US_MAX, LATENCY_DIGITS).expect("the bounds are constants that fit each other")
}

/// Adds a latency; above the limit it counts as the limit, and never as nothing.
pub(crate) fn record(histogram: &mut Histogram<u64>, latency: Duration) {
    histogram.saturating_record(u64::try_from(latency.as_micros()).unwrap_or(u64::MAX).clamp(1, LATENCY_US_MAX));
}

/// What was measured in one second of a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Second {
    /// Seconds after the start.
    pub(crate) second: u64,
    pub(crate) percentiles: Percentiles,
    /// The histogram itself, as a log of histograms has it, if that was wanted.
    pub(crate) encoded: Option<Vec<u8>>,
}

/// One kind of latency of a run.
#[derive(Debug)]
pub(crate) struct Metric {
    /// Of the messages that were due while it was measured.
    pub(crate) measured: Histogram<u64>,
    now: Histogram<u64>,
    second: u64,
    /// Seconds that are over, until somebody reads them: not while others wait to record.
    over: Vec<Over>,
}

/// The histogram of a second that is over.
pub(crate) type Over = (u64, Histogram<u64>);

impl Metric {
    pub(crate) fn new() -> Self {
        Self { measured: latencies(), now: latencies(), second: 0, over: Vec::new() }
    }

    /// Something took `latency` and ended `at` this time after the start.
    pub(crate) fn record(&mut self, at: Duration, latency: Duration, counts: bool) {
        if at.as_secs() > self.second {
            self.turn_to(at.as_secs());
        }
        record(&mut self.now, latency);
        if counts {
            record(&mut self.measured, latency);
        }
    }

    fn turn_to(&mut self, second: u64) {
        if !self.now.is_empty() {
            self.over.push((self.second, std::mem::replace(&mut self.now, latencies())));
        }
        self.second = second;
    }

    /// The seconds that are over since this was asked last. To be asked for about every second.
    pub(crate) fn take_over(&mut self) -> Vec<Over> {
        std::mem::take(&mut self.over)
    }

    /// Everything was recorded: all of it, and the seconds that nobody has taken.
    pub(crate) fn finish(mut self) -> (Histogram<u64>, Vec<Over>) {
        self.turn_to(self.second + 1);
        (self.measured, self.over)
    }
}

/// What was measured in each second that is over.
#[derive(Debug, Default)]
pub(crate) struct Seconds {
    pub(crate) rows: Vec<Second>,
    encodes: bool,
}

impl Seconds {
    pub(crate) fn new(encodes: bool) -> Self {
        Self { rows: Vec::new(), encodes }
    }

    pub(crate) fn add(&mut self, over: Vec<Over>) {
        for (second, histogram) in over {
            if self.rows.len() >= SERIES_ROWS_MAX {
                return;
            }
            let encoded = self.encodes.then(|| encoded(&histogram));
            self.rows.push(Second { second, percentiles: Percentiles::of(&histogram), encoded });
        }
    }
}

/// Adds histograms up.
pub(crate) fn merged<'a>(histograms: impl IntoIterator<Item = &'a Histogram<u64>>) -> Histogram<u64> {
    let mut all = latencies();
    for histogram in histograms {
        all.add(histogram).expect("all histograms have the same bounds");
    }
    all
}

/// Histograms as text, from one process to another: as [`V2DeflateSerializer`] writes them.
pub(crate) mod written {
    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD;
    use hdrhistogram::Histogram;
    use hdrhistogram::serialization::Deserializer as HistogramReader;
    use serde::de::Error as _;
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    use super::{Percentiles, Second, encoded};

    fn text(histogram: &Histogram<u64>) -> String {
        STANDARD.encode(encoded(histogram))
    }

    fn histogram(text: &str) -> Result<Histogram<u64>, String> {
        let bytes = STANDARD.decode(text).map_err(|error| error.to_string())?;
        HistogramReader::new().deserialize(&mut &bytes[..]).map_err(|error| error.to_string())
    }

    pub(crate) fn serialize<S: Serializer>(histogram: &Histogram<u64>, serializer: S) -> Result<S::Ok, S::Error> {
        text(histogram).serialize(serializer)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Histogram<u64>, D::Error> {
        histogram(&String::deserialize(deserializer)?).map_err(D::Error::custom)
    }

    /// With each second of a run, whose histograms were kept.
    pub(crate) mod with_seconds {
        use super::*;

        type Both = (Histogram<u64>, Vec<Second>);

        pub(crate) fn serialize<S: Serializer>((all, seconds): &Both, serializer: S) -> Result<S::Ok, S::Error> {
            let each =
                |second: &Second| (second.second, STANDARD.encode(second.encoded.as_deref().unwrap_or_default()));
            let seconds: Vec<(u64, String)> = seconds.iter().map(each).collect();
            (text(all), seconds).serialize(serializer)
        }

        pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Both, D::Error> {
            let (all, seconds): (String, Vec<(u64, String)>) = Deserialize::deserialize(deserializer)?;
            let each = |(second, text): (u64, String)| {
                let read = histogram(&text)?;
                Ok(Second { second, percentiles: Percentiles::of(&read), encoded: STANDARD.decode(text).ok() })
            };
            let seconds: Result<Vec<Second>, String> = seconds.into_iter().map(each).collect();
            Ok((histogram(&all).map_err(D::Error::custom)?, seconds.map_err(D::Error::custom)?))
        }
    }

    /// The histogram that a second was kept with.
    pub(crate) fn of_second(second: &Second) -> Option<Histogram<u64>> {
        HistogramReader::new().deserialize(&mut second.encoded.as_deref()?).ok()
    }
}

fn encoded(histogram: &Histogram<u64>) -> Vec<u8> {
    let mut bytes = Vec::new();
    V2DeflateSerializer::new().serialize(histogram, &mut bytes).expect("memory takes what is written to it");
    bytes
}

/// The seconds of several processes together: by the sum of their histograms, in the order of time.
pub(crate) fn seconds_together(all: &[Vec<Second>], keeps: bool) -> Vec<Second> {
    let mut together: std::collections::BTreeMap<u64, Histogram<u64>> = std::collections::BTreeMap::new();
    for second in all.iter().flatten() {
        if let Some(histogram) = written::of_second(second) {
            let sum = together.entry(second.second).or_insert_with(latencies);
            sum.add(&histogram).expect("all histograms have the same bounds");
        }
    }
    let second = |(second, histogram): (u64, Histogram<u64>)| Second {
        second,
        percentiles: Percentiles::of(&histogram),
        encoded: keeps.then(|| encoded(&histogram)),
    };
    together.into_iter().map(second).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn of(values: impl IntoIterator<Item = u64>) -> Histogram<u64> {
        let mut histogram = latencies();
        values.into_iter().for_each(|us| record(&mut histogram, Duration::from_micros(us)));
        histogram
    }

    #[test]
    fn percentiles_of_merged_runs_are_of_all_their_messages_and_no_mean() {
        // Ninety-nine fast messages of a hundred in one run, all slow in the other.
        let (one, other) = (of((0..99).map(|_| 100).chain([10_000])), of((0..100).map(|_| 10_000)));
        assert_eq!((Percentiles::of(&one).p50, Percentiles::of(&other).p50), (Some(100), Some(10_007)));
        let both = Percentiles::of(&merged([&one, &other]));
        assert_eq!((both.count, both.p50), (200, Some(10_007)), "a mean of both would be 5,050");
    }

    #[test]
    fn nothing_measured_has_no_percentiles() {
        let none = Percentiles::of(&latencies());
        assert_eq!(none, Percentiles::default());
        assert_eq!(serde_json::to_value(none).unwrap()["p99_9"], serde_json::Value::Null);
        assert!(curve(&latencies()).is_empty());
    }

    #[test]
    fn a_latency_above_the_limit_counts_as_the_limit() {
        let histogram = of([u64::MAX / 2]);
        assert!(Percentiles::of(&histogram).p99.unwrap() >= LATENCY_US_MAX / 1_000 * 999);
    }

    #[test]
    fn a_curve_ends_where_nothing_was_measured() {
        let points = curve(&of(1..=1_000));
        assert!(points.is_sorted_by(|a, b| a.percentile < b.percentile && a.us <= b.us), "{points:?}");
        let last = points.last().unwrap();
        assert!(
            last.percentile <= 99.9 + 1e-9 && last.us >= 998,
            "a thousand messages say nothing of 99.99 %: {last:?}"
        );
        assert!(points.iter().any(|point| (point.percentile - 99.0).abs() < 1e-9));
    }

    #[test]
    fn seconds_are_told_apart_and_only_what_counts_is_in_the_total() {
        let (mut metric, mut seconds) = (Metric::new(), Seconds::new(true));
        let at = Duration::from_millis;
        for (when, us, counts) in [(100, 10, false), (900, 20, false), (1_100, 30, true), (3_500, 40, true)] {
            metric.record(at(when), Duration::from_micros(us), counts);
            seconds.add(metric.take_over());
        }
        let (measured, over) = metric.finish();
        seconds.add(over);
        let seconds = seconds.rows;
        assert_eq!((measured.len(), measured.min()), (2, 30));
        let shown: Vec<(u64, u64)> = seconds.iter().map(|second| (second.second, second.percentiles.count)).collect();
        assert_eq!(shown, [(0, 2), (1, 1), (3, 1)]);
        assert!(seconds.iter().all(|second| second.encoded.as_ref().is_some_and(|bytes| !bytes.is_empty())));
    }

    #[test]
    fn seconds_of_processes_are_added_up_and_not_their_percentiles() {
        let of_process = |values: &[(u64, u64)]| {
            let (mut metric, mut seconds) = (Metric::new(), Seconds::new(true));
            for (second, us) in values {
                metric.record(Duration::from_secs(*second), Duration::from_micros(*us), true);
            }
            seconds.add(metric.finish().1);
            seconds.rows
        };
        let fast: Vec<(u64, u64)> = (0..99).map(|_| (2, 100)).chain([(2, 10_000)]).collect();
        let slow: Vec<(u64, u64)> = (0..100).map(|_| (2, 10_000)).chain([(4, 7)]).collect();
        let both = seconds_together(&[of_process(&fast), of_process(&slow)], false);
        let shown: Vec<_> = both.iter().map(|one| (one.second, one.percentiles.count, one.percentiles.p50)).collect();
        assert_eq!(shown, [(2, 200, Some(10_007)), (4, 1, Some(7))], "a mean of both would be 5,050");
        assert!(both.iter().all(|second| second.encoded.is_none()));
    }

    proptest! {
        #[test]
        fn merging_is_the_same_as_measuring_in_one(
            one in proptest::collection::vec(1u64..50_000_000, 0..200), other in proptest::collection::vec(1u64..50_000_000, 0..200),
        ) {
            let apart = merged([&of(one.iter().copied()), &of(other.iter().copied())]);
            prop_assert!(apart == of(one.into_iter().chain(other)));
        }
    }
}
