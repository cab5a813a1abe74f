//! What the shards of the node do while it is under load, looked at once a second where the node tells it.

use std::time::{Duration, Instant};

use creto_loadgen::{Progress, ShardCounts, ShardLook, ShardSeries};
use creto_metrics::{Buckets, families as of};
use creto_service::api::{MetricHistogram, MetricReading};
use creto_service::client::{Client, ClientError};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::sleep_until;

use super::driven::Driven;

/// A repetition that has begun.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Began {
    run: u32,
    at: Instant,
    /// Until nothing is due any more.
    lasts: Duration,
}

/// Somebody who looks at the shards as long as the runs last.
pub(super) enum Watched {
    By {
        began: watch::Sender<Option<Began>>,
        looking: JoinHandle<ShardSeries>,
    },
    /// Nobody can; because of this.
    Nobody(&'static str),
}

impl Watched {
    pub(super) fn begin(driven: &Driven) -> Self {
        let Some(control) = driven.control.clone() else {
            return Self::Nobody("the system that was driven has no shards to tell of");
        };
        let (began, heard) = watch::channel(None);
        Self::By { began, looking: tokio::spawn(look(control, heard)) }
    }

    /// Takes where a run stands: from that it is known when it began.
    pub(super) fn take(&self, progress: &Progress) {
        let Self::By { began, .. } = self else { return };
        let is_known = began.borrow().is_some_and(|began| began.run == progress.run);
        // What has not begun yet has lasted for nothing, however long it is until then.
        if is_known || progress.elapsed.is_zero() {
            return;
        }
        let at = Instant::now().checked_sub(progress.elapsed).unwrap_or_else(Instant::now);
        began.send_replace(Some(Began { run: progress.run, at, lasts: progress.duration }));
    }

    /// What was seen.
    pub(super) async fn end(self) -> ShardSeries {
        match self {
            Self::By { began, looking } => {
                drop(began);
                looking.await.expect("looking does not panic")
            }
            Self::Nobody(why) => ShardSeries::unavailable(why),
        }
    }
}

/// Looks at every second of each run, from its first to when nothing is due any more.
async fn look(control: Client, mut heard: watch::Receiver<Option<Began>>) -> ShardSeries {
    let mut looks = Vec::new();
    let mut failed = None;
    let (mut run, mut next) = (None, Duration::ZERO);
    loop {
        let due = run.filter(|began: &Began| next <= began.lasts).map(|began| began.at + next);
        tokio::select! {
            biased;
            changed = heard.changed() => match changed {
                Ok(()) => {
                    run = *heard.borrow_and_update();
                    next = run.map_or(Duration::ZERO, |began| Duration::from_secs(began.at.elapsed().as_secs()));
                }
                Err(_) => break,
            },
            () = sleep_until(due.unwrap_or_else(Instant::now).into()), if due.is_some() => {
                let Some(Began { run, at, .. }) = run else { continue };
                match control.metrics().await {
                    Ok(readings) => looks.push(ShardLook { run, at: at.elapsed(), shards: shard_counts(readings) }),
                    // One look that failed leaves its two seconds out; a node that is gone ends the run by itself.
                    Err(error) => failed = failed.or(Some(error)),
                }
                next = Duration::from_secs(at.elapsed().as_secs() + 1);
            }
        }
    }
    series(&looks, failed.as_ref())
}

fn series(looks: &[ShardLook], failed: Option<&ClientError>) -> ShardSeries {
    match failed {
        Some(error) if looks.is_empty() => {
            ShardSeries::unavailable(format!("the node's metrics could not be read: {error}"))
        }
        _ if !looks.is_empty() && looks.iter().all(|look| look.shards.is_empty()) => {
            ShardSeries::unavailable("the control socket is of a process that has no shards")
        }
        _ => ShardSeries::of(looks),
    }
}

/// Of everything that a node tells, what is looked at of its shards; by ascending number.
fn shard_counts(readings: Vec<MetricReading>) -> Vec<ShardCounts> {
    let mut all: Vec<ShardCounts> = Vec::new();
    for MetricReading { name, labels, value, histogram, .. } in readings {
        let is_wanted = [&of::MAILBOX_MESSAGES_DURABLE, &of::SHARD_CPU_SECONDS, &of::WAL_WRITE_SECONDS]
            .iter()
            .any(|family| family.name == name);
        let Some(shard) = labels.get("shard").and_then(|shard| shard.parse().ok()).filter(|_| is_wanted) else {
            continue;
        };
        let place = all.binary_search_by_key(&shard, |counts| counts.shard).unwrap_or_else(|place| {
            all.insert(place, ShardCounts { shard, ..ShardCounts::default() });
            place
        });
        let counts = &mut all[place];
        match (value, histogram) {
            (Some(value), _) if name == of::MAILBOX_MESSAGES_DURABLE.name => counts.accepted = value,
            (Some(value), _) if name == of::SHARD_CPU_SECONDS.name => counts.cpu_s = value,
            (_, Some(MetricHistogram { upto, count, sum })) => counts.commits = Buckets { upto, count, sum },
            _ => {}
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reading(family: &creto_metrics::Family, shard: &str, value: f64) -> MetricReading {
        MetricReading::from(&family_sample(family, shard, creto_metrics::Value::Number(value)))
    }

    fn family_sample(
        family: &creto_metrics::Family,
        shard: &str,
        value: creto_metrics::Value,
    ) -> creto_metrics::Sample {
        let family = of::find(family.name).expect("it is of the list");
        creto_metrics::Sample { family, labels: vec![shard.to_owned()], value }
    }

    #[test]
    fn what_a_node_tells_of_its_shards_is_found_among_all_else() {
        let times = Buckets { upto: vec![(0.001, 3), (0.1, 5)], count: 5, sum: 0.25 };
        let counts = shard_counts(vec![
            reading(&of::MAILBOX_MESSAGES_DURABLE, "10", 7.0),
            reading(&of::MAILBOX_MESSAGES_PUSHED, "10", 99.0),
            reading(&of::MAILBOX_MESSAGES_DURABLE, "2", 5.0),
            reading(&of::SHARD_CPU_SECONDS, "2", 0.5),
            reading(&of::SHARD_CPU_SECONDS, "no number", 9.0),
            MetricReading::from(&family_sample(
                &of::WAL_WRITE_SECONDS,
                "10",
                creto_metrics::Value::Histogram(times.clone()),
            )),
        ]);
        let two = ShardCounts { shard: 2, accepted: 5.0, cpu_s: 0.5, ..ShardCounts::default() };
        let ten = ShardCounts { shard: 10, accepted: 7.0, commits: times, ..ShardCounts::default() };
        assert_eq!(counts, [two, ten]);
    }

    #[test]
    fn where_nothing_is_to_be_had_it_is_said_why() {
        let look = |shards| ShardLook { run: 1, at: Duration::ZERO, shards };
        let without = series(&[look(Vec::new())], None).unavailable_because;
        assert_eq!(without.as_deref(), Some("the control socket is of a process that has no shards"));
        let some = series(&[look(vec![ShardCounts::default()])], None);
        assert_eq!((some.unavailable_because, some.shards), (None, vec![0]));
    }
}
