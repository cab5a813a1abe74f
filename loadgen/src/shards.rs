//! What each shard of the node did, second by second, made of what the node tells of itself. Pure: whoever can ask the node looks.

use std::time::Duration;

use creto_metrics::Buckets;
use serde::{Deserialize, Serialize};

use crate::limits::SERIES_ROWS_MAX;
use crate::options::micros;

/// What one shard had done by one moment.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ShardCounts {
    /// Its number on the node.
    pub shard: u16,
    /// Messages that had become durable in its mailboxes and channels.
    pub accepted: f64,
    /// CPU time of its thread, in seconds.
    pub cpu_s: f64,
    /// How long its writes to the log took until they were durable, in seconds.
    pub commits: Buckets,
}

/// All shards at one moment of a run.
#[derive(Clone, Debug, PartialEq)]
pub struct ShardLook {
    /// Which repetition, from 1.
    pub run: u32,
    /// After its start.
    pub at: Duration,
    /// By ascending number.
    pub shards: Vec<ShardCounts>,
}

/// What each shard did in each second of the runs.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ShardSeries {
    /// Why nothing is known of the node's shards, where nothing is.
    pub unavailable_because: Option<String>,
    /// Numbers of the shards, in the order that every list of [`ShardSecond`] has.
    pub shards: Vec<u16>,
    /// The seconds that were looked at, at both of their ends.
    pub seconds: Vec<ShardSecond>,
}

/// One second of all shards; null where a shard was not there, or had nothing to measure.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ShardSecond {
    /// Which repetition, from 1.
    pub run: u32,
    /// Seconds after its start.
    pub second: u64,
    /// Messages a second that became durable.
    pub accepted_per_s: Vec<Option<f64>>,
    /// CPU time of the shard's thread, in percent of one CPU.
    pub cpu_percent: Vec<Option<f64>>,
    /// p99 of the group commits that became durable in this second, in microseconds: the upper bound of the bucket that it lies in, and
    /// the highest bound for what lies above that.
    pub commit_p99_us: Vec<Option<u64>>,
}

impl ShardSeries {
    /// Nothing is known of the shards, because of this.
    #[must_use]
    pub fn unavailable(why: impl Into<String>) -> Self {
        Self { unavailable_because: Some(why.into()), ..Self::default() }
    }

    /// Of what was seen, in order. A second whose end nobody looked at has no figures: what was counted over several is of none of them.
    #[must_use]
    pub fn of(looks: &[ShardLook]) -> Self {
        let mut shards: Vec<u16> = looks.iter().flat_map(|look| &look.shards).map(|counts| counts.shard).collect();
        shards.sort_unstable();
        shards.dedup();
        // Of a second the first look in it stands at its beginning, be it some milliseconds late.
        let second_of = |look: &ShardLook| (look.run, micros(look.at) / 1_000_000);
        let mut firsts: Vec<&ShardLook> = looks.iter().collect();
        firsts.dedup_by_key(|look| second_of(look));
        let neighbours = firsts.windows(2).filter(|two| {
            let ((run, second), next) = (second_of(two[0]), second_of(two[1]));
            (run, second + 1) == next
        });
        let seconds =
            neighbours.take(SERIES_ROWS_MAX).map(|two| ShardSecond::between(two[0], two[1], &shards)).collect();
        Self { unavailable_because: None, shards, seconds }
    }
}

impl ShardSecond {
    fn between(before: &ShardLook, after: &ShardLook, shards: &[u16]) -> Self {
        let took_s = after.at.saturating_sub(before.at).as_secs_f64();
        let find = |look: &ShardLook, shard: u16| {
            let place = look.shards.binary_search_by_key(&shard, |counts| counts.shard).ok()?;
            Some(look.shards[place].clone())
        };
        let grown = |shard: &u16, of: fn(&ShardCounts) -> f64| {
            let by = of(&find(after, *shard)?) - of(&find(before, *shard)?);
            // Less than before: the node was started again in between.
            (by >= 0.0 && took_s > 0.0).then(|| by / took_s)
        };
        let commit_p99_us = |shard: &u16| {
            let commits = find(after, *shard)?.commits.since(&find(before, *shard)?.commits);
            let highest = commits.upto.last().map(|(bound, _)| *bound);
            let bound_s = (commits.count > 0).then(|| commits.quantile(0.99).or(highest)).flatten()?;
            Some(micros(Duration::from_secs_f64(bound_s)))
        };
        Self {
            run: before.run,
            second: before.at.as_secs(),
            accepted_per_s: shards.iter().map(|shard| grown(shard, |counts| counts.accepted)).collect(),
            cpu_percent: shards.iter().map(|shard| grown(shard, |counts| 100.0 * counts.cpu_s)).collect(),
            commit_p99_us: shards.iter().map(commit_p99_us).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(shard: u16, accepted: f64, fast: u64, slow: u64, slowest: u64) -> ShardCounts {
        let upto = vec![(0.001, fast), (0.05, fast + slow)];
        let count = fast + slow + slowest;
        ShardCounts { shard, accepted, cpu_s: accepted / 1e4, commits: Buckets { upto, count, sum: 0.0 } }
    }

    fn look(run: u32, ms: u64, shards: Vec<ShardCounts>) -> ShardLook {
        ShardLook { run, at: Duration::from_millis(ms), shards }
    }

    #[test]
    fn each_second_has_what_was_done_between_the_looks_at_its_ends() {
        let series = ShardSeries::of(&[
            look(1, 2, vec![counts(0, 100.0, 10, 0, 0), counts(1, 0.0, 0, 0, 0)]),
            look(1, 1_002, vec![counts(0, 2_100.0, 109, 1, 0), counts(1, 500.0, 1, 1, 0)]),
            look(1, 2_502, vec![counts(0, 5_100.0, 109, 1, 7), counts(1, 500.0, 1, 1, 0)]),
        ]);
        assert_eq!((&series.shards[..], series.seconds.len(), series.unavailable_because), (&[0, 1][..], 2, None));
        let [first, second] = &series.seconds[..] else { panic!("two seconds") };
        assert_eq!((first.run, first.second), (1, 0));
        assert_eq!(first.accepted_per_s, [Some(2_000.0), Some(500.0)]);
        assert_eq!(first.cpu_percent, [Some(20.0), Some(5.0)]);
        assert_eq!(first.commit_p99_us, [Some(1_000), Some(50_000)], "99 of 100 were fast, and one of two");
        // It lasted half a second longer than it was to: rates are by what it lasted.
        assert_eq!((second.second, second.accepted_per_s[0]), (1, Some(2_000.0)));
        assert_eq!(second.commit_p99_us, [Some(50_000), None], "above all bounds is the highest; nothing is nothing");
    }

    #[test]
    fn seconds_that_nobody_looked_at_and_runs_that_follow_one_another_are_not_mixed() {
        let at = |run, ms, accepted| look(run, ms, vec![counts(0, accepted, 0, 0, 0)]);
        let series = ShardSeries::of(&[
            at(1, 0, 0.0),
            at(1, 1_000, 10.0),
            at(1, 1_500, 15.0),
            at(1, 3_000, 30.0),
            at(1, 4_000, 40.0),
            at(2, 0, 50.0),
            at(2, 1_000, 51.0),
        ]);
        let seconds: Vec<_> = series.seconds.iter().map(|second| (second.run, second.second)).collect();
        assert_eq!(seconds, [(1, 0), (1, 3), (2, 0)]);
        assert_eq!(series.seconds[2].accepted_per_s, [Some(1.0)]);
    }

    #[test]
    fn a_node_that_was_started_again_or_has_other_shards_has_no_figures_for_that_second() {
        let series = ShardSeries::of(&[
            look(1, 0, vec![counts(0, 900.0, 5, 0, 0)]),
            look(1, 1_000, vec![counts(0, 10.0, 1, 0, 0), counts(3, 7.0, 0, 0, 0)]),
        ]);
        assert_eq!(series.shards, [0, 3]);
        assert_eq!(series.seconds[0].accepted_per_s, [None, None]);
        assert_eq!(series.seconds[0].commit_p99_us, [None, None]);
    }
}
