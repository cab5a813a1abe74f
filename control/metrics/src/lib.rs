//! What a node counts and measures, as every reader sees it: the families with their names, and readings of them as text for Prometheus.
//!
//! [`families`] is the one list. What a node tells, the page of the documentation, the dashboard and the alert rules are made of it or
//! held to it, so that no panel asks for a name that does not exist.
//!
//! Names are `creto_<area>_<noun>_<unit>`, where the unit of a plain count is left out; the text has `_total` behind the names of counters
//! (OpenMetrics 1.0). Labels are few: the shard, the code of a refusal, a state, a version. Nothing is labelled by agent, channel or
//! address.
#![forbid(unsafe_code)]

pub mod dashboard;
pub mod families;
mod text;

pub use text::{CONTENT_TYPE, encode};

/// What a family's values do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// Only grows, from zero at the node's start.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Counts what was measured, by size.
    Histogram,
}

impl Kind {
    /// Its word, as OpenMetrics has it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        }
    }
}

/// Everything of one name.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Family {
    /// Its name, without the `_total` of counters.
    pub name: &'static str,
    /// What is counted, in one sentence without a full stop.
    pub help: &'static str,
    /// What its values do.
    pub kind: Kind,
    /// The labels of each value, beside none other.
    pub labels: &'static [&'static str],
}

/// How much of what was measured was at most this large, each bucket with those before it in it.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Buckets {
    /// Upper bounds and the counts up to them, in the family's unit; what is above the last is only in `count`.
    pub upto: Vec<(f64, u64)>,
    /// All that was measured.
    pub count: u64,
    /// Their sum, in the family's unit.
    pub sum: f64,
}

impl Buckets {
    /// What was measured since `before`, which is an earlier reading of the same.
    #[must_use]
    pub fn since(&self, before: &Self) -> Self {
        let earlier = |index: usize| before.upto.get(index).map_or(0, |(_, count)| *count);
        let upto = self.upto.iter().enumerate();
        Self {
            upto: upto.map(|(index, (bound, count))| (*bound, count.saturating_sub(earlier(index)))).collect(),
            count: self.count.saturating_sub(before.count),
            sum: (self.sum - before.sum).max(0.0),
        }
    }

    /// The bound of the bucket that has this share of all in it; `None` when nothing was measured or it lies above the last bound.
    #[must_use]
    #[allow(clippy::cast_precision_loss, reason = "counts of a shard stay far below 2^52")]
    pub fn quantile(&self, share: f64) -> Option<f64> {
        let wanted = share * self.count as f64;
        let found = self.upto.iter().find(|(_, count)| *count > 0 && *count as f64 >= wanted);
        found.map(|(bound, _)| *bound)
    }
}

/// What was read of one value.
#[derive(Clone, PartialEq, Debug)]
pub enum Value {
    /// Of a counter or a gauge.
    Number(f64),
    /// Of a histogram.
    Histogram(Buckets),
}

/// One value of a family.
#[derive(Clone, PartialEq, Debug)]
pub struct Sample {
    /// Which family.
    pub family: &'static Family,
    /// Its labels' values, in the family's order.
    pub labels: Vec<String>,
    /// What was read.
    pub value: Value,
}

impl Family {
    /// A value of this family, with its labels in order.
    ///
    /// # Panics
    /// When there are more or fewer labels than the family has.
    #[must_use]
    #[allow(clippy::cast_precision_loss, reason = "a counter loses single steps above 2^52, as Prometheus' own do")]
    pub fn count(&'static self, labels: &[&str], value: u64) -> Sample {
        self.number(labels, value as f64)
    }

    /// As [`Family::count`], of a number with a fraction.
    ///
    /// # Panics
    /// As [`Family::count`].
    #[must_use]
    pub fn number(&'static self, labels: &[&str], value: f64) -> Sample {
        self.sample(labels, Value::Number(value))
    }

    /// As [`Family::count`], of a histogram.
    ///
    /// # Panics
    /// As [`Family::count`].
    #[must_use]
    pub fn histogram(&'static self, labels: &[&str], value: Buckets) -> Sample {
        self.sample(labels, Value::Histogram(value))
    }

    fn sample(&'static self, labels: &[&str], value: Value) -> Sample {
        assert_eq!(labels.len(), self.labels.len(), "{} has the labels {:?}", self.name, self.labels);
        assert_eq!(matches!(value, Value::Histogram(_)), self.kind == Kind::Histogram, "{}", self.name);
        Sample { family: self, labels: labels.iter().map(|&label| label.to_owned()).collect(), value }
    }
}

/// Whoever can be asked how everything is.
pub trait Source: std::fmt::Debug + Send + Sync + 'static {
    /// Appends what there is, families in any order. It does not wait for anybody.
    fn read(&self, out: &mut Vec<Sample>);
}
