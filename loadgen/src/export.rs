//! What other tools read: a table second by second, and a log of histograms.

use std::fmt::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::measure::Second;
use crate::report::Report;
use crate::run::Outcome;

/// Every second of every run, as comma-separated values with a heading.
#[must_use]
pub fn csv(report: &Report) -> String {
    let mut text = "run,second,phase,sent,acknowledged,deliveries,durable_p50_us,durable_p99_us,delivered_p50_us,delivered_p99_us,\
                    settled_p99_us,node_cpu_us,generator_cpu_us\n"
        .to_owned();
    for row in &report.series {
        let figures = [
            row.durable_p50_us,
            row.durable_p99_us,
            row.delivered_p50_us,
            row.delivered_p99_us,
            row.settled_p99_us,
            row.node_cpu_us,
            row.generator_cpu_us,
        ];
        let figures = figures.map(|figure| figure.map_or_else(String::new, |figure| figure.to_string())).join(",");
        let (run, second, phase) = (row.run, row.second, row.phase.as_str());
        // Writing into a string does not fail.
        let _ = writeln!(text, "{run},{second},{phase},{},{},{},{figures}", row.sent, row.acknowledged, row.deliveries);
    }
    text
}

/// A log of histograms, one for each second, run and kind of latency, as the tools of HdrHistogram read it (log format 1.3, intervals
/// in seconds, values in microseconds). Runs follow each other.
pub(crate) fn hdr_log(outcomes: &[Outcome]) -> String {
    let mut text = "#[Latencies of creto bench, in microseconds]\n#[Histogram log format version 1.3]\n".to_owned();
    let begin = outcomes.first().map_or(0, |outcome| outcome.started_at_ms);
    // Writing into a string does not fail.
    let _ = writeln!(text, "#[StartTime: {} (seconds since epoch)]", seconds(begin));
    text.push_str("\"StartTimestamp\",\"Interval_Length\",\"Interval_Max\",\"Interval_Compressed_Histogram\"\n");
    for (run, outcome) in (1..).zip(outcomes) {
        let offset_ms = outcome.started_at_ms.saturating_sub(begin);
        let mut lines: Vec<(u64, String)> = Vec::new();
        for (kind, all) in [
            ("publish_to_durable", &outcome.durable.1),
            ("publish_to_delivered", &outcome.delivered.1),
            ("publish_to_settled", &outcome.settled.1),
        ] {
            let tag = if outcomes.len() == 1 { kind.to_owned() } else { format!("run{run}.{kind}") };
            lines.extend(all.iter().filter_map(|second| line(&tag, offset_ms, second)));
        }
        lines.sort_by_key(|(second, _)| *second);
        lines.into_iter().for_each(|(_, line)| text.push_str(&line));
    }
    text
}

fn line(tag: &str, offset_ms: u64, second: &Second) -> Option<(u64, String)> {
    let Second { second, percentiles, encoded } = second;
    let (from, histogram) = (seconds(offset_ms + second * 1_000), STANDARD.encode(encoded.as_ref()?));
    let max = percentiles.max.unwrap_or(0);
    Some((*second, format!("Tag={tag},{from},1.000,{max}.000,{histogram}\n")))
}

fn seconds(ms: u64) -> String {
    format!("{}.{:03}", ms / 1_000, ms % 1_000)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use hdrhistogram::Histogram;
    use hdrhistogram::serialization::Deserializer;
    use hdrhistogram::serialization::interval_log::{IntervalLogIterator, LogEntry};

    use super::*;
    use crate::measure::{Metric, Seconds};
    use crate::report::{Phase, Row};

    #[test]
    fn a_table_has_a_row_for_each_second_and_nothing_where_nothing_was_measured() {
        let row =
            Row { run: 2, second: 7, phase: Phase::Measured, sent: 3, delivered_p99_us: Some(9), ..Row::default() };
        let text = csv(&Report { series: vec![row], ..Report::default() });
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!((lines.len(), lines[1]), (2, "2,7,measured,3,0,0,,,,9,,,"));
        assert_eq!(lines[0].split(',').count(), lines[1].split(',').count());
    }

    #[test]
    fn a_line_of_the_log_is_read_by_others_with_the_histogram_of_its_second() {
        let (mut metric, mut seconds) = (Metric::new(), Seconds::new(true));
        for (ms, us) in [(100, 700), (1_200, 800), (1_300, 900)] {
            metric.record(Duration::from_millis(ms), Duration::from_micros(us), true);
        }
        seconds.add(metric.finish().1);
        let all = seconds.rows;
        let text: String =
            all.iter().filter_map(|second| line("publish_to_durable", 500, second)).map(|(_, line)| line).collect();
        let read: Vec<_> =
            IntervalLogIterator::new(text.as_bytes()).map(|entry| entry.expect("it is understood")).collect();
        let LogEntry::Interval(interval) = &read[1] else { panic!("{read:?}") };
        assert_eq!(interval.tag().map(|tag| tag.as_str()), Some("publish_to_durable"));
        assert_eq!(
            (interval.start_timestamp(), interval.duration()),
            (Duration::from_millis(1_500), Duration::from_secs(1))
        );
        let bytes = STANDARD.decode(interval.encoded_histogram()).unwrap();
        let histogram: Histogram<u64> = Deserializer::new().deserialize(&mut &bytes[..]).unwrap();
        assert_eq!((histogram.len(), histogram.min(), read.len()), (2, 800, 2));
    }
}
