//! What Prometheus reads.
#![allow(clippy::unwrap_used, reason = "a test stops where it is wrong")]

use creto_metrics::families::{self, DIRECTORY_AGENTS, MAILBOX_MESSAGES_DURABLE, NODE_REJECTS, WAL_WRITE_SECONDS};
use creto_metrics::{Buckets, Kind, encode};

#[test]
fn readings_are_written_as_openmetrics_text() {
    let times = Buckets { upto: vec![(0.001, 2), (0.01, 5)], count: 6, sum: 0.25 };
    let text = encode(vec![
        NODE_REJECTS.count(&["1", "PolicyDenied"], 3),
        MAILBOX_MESSAGES_DURABLE.count(&["0"], 7),
        WAL_WRITE_SECONDS.histogram(&["0"], times),
        MAILBOX_MESSAGES_DURABLE.count(&["1"], 8),
        DIRECTORY_AGENTS.count(&[], 2),
    ]);
    let expected = "\
# HELP creto_directory_agents Agents that are registered
# TYPE creto_directory_agents gauge
creto_directory_agents 2.0
# HELP creto_node_rejects Refusals, by the name of their code
# TYPE creto_node_rejects counter
creto_node_rejects_total{shard=\"1\",code=\"PolicyDenied\"} 3.0
# HELP creto_mailbox_messages_durable Messages that became durable in a mailbox or a channel
# TYPE creto_mailbox_messages_durable counter
creto_mailbox_messages_durable_total{shard=\"0\"} 7.0
creto_mailbox_messages_durable_total{shard=\"1\"} 8.0
# HELP creto_wal_write_seconds How long a write took until it was durable
# TYPE creto_wal_write_seconds histogram
creto_wal_write_seconds_sum{shard=\"0\"} 0.25
creto_wal_write_seconds_count{shard=\"0\"} 6
creto_wal_write_seconds_bucket{le=\"0.001\",shard=\"0\"} 2
creto_wal_write_seconds_bucket{le=\"0.01\",shard=\"0\"} 5
creto_wal_write_seconds_bucket{le=\"+Inf\",shard=\"0\"} 6
# EOF
";
    assert_eq!(text, expected);
}

#[test]
fn nothing_is_an_empty_text() {
    assert_eq!(encode(Vec::new()), "# EOF\n");
}

#[test]
fn every_family_has_a_name_of_its_own_in_the_one_form() {
    let mut names: Vec<&str> = families::ALL.iter().map(|family| family.name).collect();
    for family in families::ALL {
        let words: Vec<&str> = family.name.split('_').collect();
        let is_word = |word: &&str| !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_lowercase());
        assert!(words.len() >= 3 && words[0] == "creto" && words.iter().all(is_word), "{}", family.name);
        assert!(
            !["total", "bucket", "sum", "count"].contains(words.last().unwrap()),
            "{}: the text says it",
            family.name
        );
        assert!(!family.help.is_empty() && !family.help.ends_with('.'), "{}", family.name);
        assert!(family.kind != Kind::Histogram || family.name.ends_with("_seconds"), "{}", family.name);
        assert!(families::find(family.name) == Some(family));
    }
    names.sort_unstable();
    let all = names.len();
    names.dedup();
    assert_eq!(names.len(), all);
    // Whatever a label can be, there are few of it.
    let labels = families::ALL.iter().flat_map(|family| family.labels);
    assert!(labels.into_iter().all(|label| ["shard", "state", "code", "version"].contains(label)));
}

#[test]
fn what_was_measured_in_between_has_its_own_quantiles() {
    let before = Buckets { upto: vec![(0.001, 100), (0.01, 100), (0.1, 101)], count: 101, sum: 1.0 };
    let now = Buckets { upto: vec![(0.001, 100), (0.01, 199), (0.1, 200)], count: 201, sum: 2.5 };
    let since = now.since(&before);
    assert_eq!((since.count, since.sum, &since.upto), (100, 1.5, &vec![(0.001, 0), (0.01, 99), (0.1, 99)]));
    assert_eq!((since.quantile(0.5), since.quantile(0.99), since.quantile(1.0)), (Some(0.01), Some(0.01), None));
    assert_eq!(Buckets::default().quantile(0.5), None);
}

#[test]
#[should_panic(expected = "creto_node_rejects has the labels")]
fn a_value_has_all_labels_of_its_family() {
    let _ = NODE_REJECTS.count(&["1"], 3);
}
