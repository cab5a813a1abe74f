//! Readings as OpenMetrics text 1.0, which Prometheus reads.

use std::collections::BTreeMap;
use std::fmt;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, LabelSetEncoder, MetricEncoder};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Registry;

use crate::{Family, Kind, Sample, Value, families};

/// The media type of the text.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// The text, families in the order of [`families::ALL`]; those without a value are left out.
#[must_use]
pub fn encode(samples: Vec<Sample>) -> String {
    let mut by_family: BTreeMap<&str, Vec<Sample>> = BTreeMap::new();
    for sample in samples {
        by_family.entry(sample.family.name).or_default().push(sample);
    }
    let mut registry = Registry::default();
    registry.register_collector(Box::new(Readings(by_family)));
    let mut out = String::new();
    prometheus_client::encoding::text::encode(&mut out, &registry).expect("a String takes what is written");
    out
}

#[derive(Debug)]
struct Readings(BTreeMap<&'static str, Vec<Sample>>);

/// A sample's labels, or none.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Labels<'s> {
    names: &'static [&'static str],
    values: &'s [String],
}

impl EncodeLabelSet for Labels<'_> {
    fn encode(&self, encoder: &mut LabelSetEncoder<'_>) -> fmt::Result {
        let pairs: Vec<_> = self.names.iter().copied().zip(self.values.iter().map(String::as_str)).collect();
        pairs.encode(encoder)
    }
}

impl Collector for Readings {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        for family in families::ALL {
            let Some(samples) = self.0.get(family.name) else { continue };
            encode_family(&mut encoder, family, samples)?;
        }
        Ok(())
    }
}

fn encode_family(encoder: &mut DescriptorEncoder<'_>, family: &Family, samples: &[Sample]) -> fmt::Result {
    let kind = match family.kind {
        Kind::Counter => MetricType::Counter,
        Kind::Gauge => MetricType::Gauge,
        Kind::Histogram => MetricType::Histogram,
    };
    let mut encoder = encoder.encode_descriptor(family.name, family.help, None, kind)?;
    for sample in samples {
        let labels = Labels { names: family.labels, values: &sample.labels };
        match family.labels.is_empty() {
            true => encode_value(encoder.encode_family(&NoLabels)?, family, &sample.value)?,
            false => encode_value(encoder.encode_family(&labels)?, family, &sample.value)?,
        }
    }
    Ok(())
}

struct NoLabels;

impl EncodeLabelSet for NoLabels {
    fn encode(&self, _: &mut LabelSetEncoder<'_>) -> fmt::Result {
        Ok(())
    }
}

fn encode_value(mut encoder: MetricEncoder<'_>, family: &Family, value: &Value) -> fmt::Result {
    match (value, family.kind) {
        (Value::Number(value), Kind::Counter) => encoder.encode_counter::<NoLabels, _, f64>(value, None),
        (Value::Number(value), _) => encoder.encode_gauge(value),
        (Value::Histogram(buckets), _) => {
            let mut upto = 0;
            // The library wants each bucket by itself, the last one without a bound.
            let mut each: Vec<(f64, u64)> = Vec::with_capacity(buckets.upto.len() + 1);
            for (bound, count) in &buckets.upto {
                each.push((*bound, count.saturating_sub(upto)));
                upto = *count;
            }
            each.push((f64::INFINITY, buckets.count.saturating_sub(upto)));
            encoder.encode_histogram::<NoLabels>(buckets.sum, buckets.count, &each, None)
        }
    }
}
