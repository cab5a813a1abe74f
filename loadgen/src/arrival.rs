//! When messages are due, and what they are: the plan of each sending connection, made from the seed alone. Pure.
//!
//! A plan is an iterator, so that a run of an hour takes no more memory than one of a second; the same seed and options give the same
//! plan, whatever became of the messages before.

use std::fmt;
use std::str::FromStr;

use creto_agent::Priority;
use rand::{RngExt as _, SeedableRng as _};
use rand_pcg::Pcg64;

use crate::mix::{PriorityMix, SizeMix, Targets};

/// How the times at which messages are due lie to each other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Arrival {
    /// At even distances: message `k` of a run is due `k / rate` seconds after the start.
    #[default]
    Fixed,
    /// Independent of each other, with the rate as their mean (a Poisson process), as the requests of many independent agents are.
    Poisson,
}

impl Arrival {
    /// The name, as on the command line.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Fixed => "fixed",
            Self::Poisson => "poisson",
        }
    }
}

impl fmt::Display for Arrival {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Arrival {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        match name {
            "fixed" => Ok(Self::Fixed),
            "poisson" => Ok(Self::Poisson),
            _ => Err(format!("`{name}` is none of fixed, poisson")),
        }
    }
}

/// Which way a message goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    /// To a mailbox.
    Direct,
    /// Into a channel.
    Publish,
    /// As a request that is answered.
    Request,
}

/// How often messages go each way, of all together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ways {
    pub(crate) direct: u32,
    pub(crate) publish: u32,
    pub(crate) request: u32,
}

impl Ways {
    pub(crate) const DIRECT: Self = Self { direct: 1, publish: 0, request: 0 };
    pub(crate) const PUBLISH: Self = Self { direct: 0, publish: 1, request: 0 };
    pub(crate) const REQUEST: Self = Self { direct: 0, publish: 0, request: 1 };
    /// Of ten messages seven are for a mailbox, two for a channel and one is a request.
    pub(crate) const MIXED: Self = Self { direct: 7, publish: 2, request: 1 };

    fn pick(self, chance: &mut Pcg64) -> Way {
        match self {
            Self::DIRECT => return Way::Direct,
            Self::PUBLISH => return Way::Publish,
            Self::REQUEST => return Way::Request,
            _ => {}
        }
        match chance.random_range(0..self.direct + self.publish + self.request) {
            at if at < self.direct => Way::Direct,
            at if at < self.direct + self.publish => Way::Publish,
            _ => Way::Request,
        }
    }
}

/// A message before it is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Planned {
    /// Its number in the run.
    pub(crate) number: u64,
    /// When it is due, in microseconds after the start.
    pub(crate) due_us: u64,
    pub(crate) way: Way,
    /// Place of the agent that it is for.
    pub(crate) target: usize,
    pub(crate) payload_bytes: usize,
    pub(crate) priority: Priority,
}

/// What all lanes of a run share.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Workload {
    pub(crate) arrival: Arrival,
    /// Messages a second, over all lanes.
    pub(crate) rate_per_s: u64,
    /// Nothing is due from then on, in microseconds after the start.
    pub(crate) end_us: u64,
    pub(crate) lanes: u32,
    /// Which of the lanes are this process's; the others' messages are as they would be with all of them.
    pub(crate) share: std::ops::Range<u32>,
    pub(crate) seed: u64,
    pub(crate) sizes: SizeMix,
    pub(crate) priorities: PriorityMix,
    pub(crate) targets: Targets,
    pub(crate) ways: Ways,
}

impl Workload {
    pub(crate) fn lane(&self, lane: u32) -> Lane<'_> {
        // What a message is must not depend on when it is due: two streams. Seeds far apart, because streams of one state are alike.
        let stream = |kind: u64| {
            let number = (u64::from(lane) * 2 + kind).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            Pcg64::seed_from_u64(self.seed.wrapping_add(number))
        };
        Lane { workload: self, lane, place: 0, at_us: 0.0, times: stream(0), kinds: stream(1) }
    }

    /// What the next message of a closed loop is, whenever that is.
    pub(crate) fn undated(&self, lane: u32) -> Undated<'_> {
        Undated(self.lane(lane))
    }

    /// Whether a message of this process is due from then on.
    pub(crate) fn has_any_from(&self, from_us: u64) -> bool {
        self.share.clone().any(|lane| self.lane(lane).any(|message| message.due_us >= from_us))
    }

    /// How many messages of this process are due in this stretch of time.
    pub(crate) fn count_in(&self, stretch_us: std::ops::Range<u64>) -> u64 {
        let due = |lane| self.lane(lane).filter(|message| stretch_us.contains(&message.due_us)).count() as u64;
        self.share.clone().map(due).sum()
    }

    /// No number of this process is as large.
    pub(crate) fn numbers_below(&self) -> u64 {
        let longest = self.share.clone().map(|lane| self.lane(lane).count() as u64).max().unwrap_or(0);
        longest.saturating_mul(u64::from(self.lanes))
    }
}

/// The messages of one sending connection, in the order of their times.
#[derive(Clone, Debug)]
pub(crate) struct Lane<'a> {
    workload: &'a Workload,
    lane: u32,
    /// How many came before.
    place: u64,
    /// When the one before was due; for independent arrivals.
    at_us: f64,
    times: Pcg64,
    kinds: Pcg64,
}

impl Lane<'_> {
    fn number(&self) -> u64 {
        self.place.saturating_mul(u64::from(self.workload.lanes)).saturating_add(u64::from(self.lane))
    }

    fn next_due_us(&mut self) -> u64 {
        let Workload { rate_per_s, lanes, .. } = *self.workload;
        match self.workload.arrival {
            Arrival::Fixed => {
                let due = u128::from(self.number()) * 1_000_000 / u128::from(rate_per_s);
                u64::try_from(due).unwrap_or(u64::MAX)
            }
            Arrival::Poisson => {
                // The sum of independent processes is one with the sum of their rates.
                #[allow(clippy::cast_precision_loss, reason = "a rate is far below 2^52")]
                let mean_us = 1e6 * f64::from(lanes) / rate_per_s as f64;
                let chance: f64 = self.times.random();
                self.at_us += -(1.0 - chance).ln() * mean_us;
                #[allow(
                    clippy::cast_possible_truncation,
                    clippy::cast_sign_loss,
                    reason = "times are positive; `as` saturates"
                )]
                let at_us = self.at_us as u64;
                at_us
            }
        }
    }

    fn message(&mut self, due_us: u64) -> Planned {
        let Workload { sizes, priorities, targets, ways, .. } = self.workload;
        let planned = Planned {
            number: self.number(),
            due_us,
            way: ways.pick(&mut self.kinds),
            target: targets.pick(self.lane, &mut self.kinds),
            payload_bytes: sizes.pick(&mut self.kinds),
            priority: priorities.pick(&mut self.kinds),
        };
        self.place += 1;
        planned
    }
}

impl Iterator for Lane<'_> {
    type Item = Planned;

    fn next(&mut self) -> Option<Planned> {
        let due_us = self.next_due_us();
        (due_us < self.workload.end_us).then(|| self.message(due_us))
    }
}

/// The messages of a closed loop: as a lane's, without their times.
#[derive(Clone, Debug)]
pub(crate) struct Undated<'a>(Lane<'a>);

impl Undated<'_> {
    /// The next message, sent now.
    pub(crate) fn at(&mut self, now_us: u64) -> Planned {
        self.0.message(now_us)
    }
}

/// The seed of a run that was given none.
///
/// # Errors
/// The system has no randomness.
pub fn new_seed() -> std::io::Result<u64> {
    let mut bytes = [0; 8];
    getrandom::fill(&mut bytes).map_err(std::io::Error::other)?;
    Ok(u64::from_le_bytes(bytes))
}

/// The seed of a run that is repeated, for its repetition.
pub(crate) fn seed_of(seed: u64, repetition: u32) -> u64 {
    match repetition {
        0 => seed,
        _ => Pcg64::seed_from_u64(seed ^ u64::from(repetition).rotate_left(32)).random(),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn workload(arrival: Arrival, rate_per_s: u64, lanes: u32, seed: u64) -> Workload {
        Workload {
            arrival,
            rate_per_s,
            end_us: 10_000_000,
            lanes,
            share: 0..lanes,
            seed,
            sizes: SizeMix::of(1_024),
            priorities: PriorityMix::default(),
            targets: Targets::new(4, None),
            ways: Ways::DIRECT,
        }
    }

    fn all(workload: &Workload) -> Vec<Planned> {
        let mut all: Vec<Planned> = (0..workload.lanes).flat_map(|lane| workload.lane(lane)).collect();
        all.sort_by_key(|message| (message.due_us, message.number));
        all
    }

    #[test]
    fn a_fixed_rate_is_even_over_all_connections() {
        let due: Vec<u64> = all(&workload(Arrival::Fixed, 20_000, 3, 1)).iter().map(|message| message.due_us).collect();
        assert_eq!(due.len(), 200_000);
        assert!(due.iter().enumerate().all(|(k, due_us)| *due_us == k as u64 * 50), "50 us from each to the next");
    }

    #[test]
    fn independent_arrivals_have_the_mean_and_the_spread_of_a_poisson_process() {
        let due = all(&workload(Arrival::Poisson, 20_000, 3, 42));
        let count = due.len() as f64;
        // Four standard deviations of a count of 200,000.
        assert!((count - 200_000.0).abs() < 4.0 * 200_000f64.sqrt(), "{count}");
        let gaps: Vec<f64> = due.windows(2).map(|two| (two[1].due_us - two[0].due_us) as f64).collect();
        let mean = gaps.iter().sum::<f64>() / gaps.len() as f64;
        let variance = gaps.iter().map(|gap| (gap - mean).powi(2)).sum::<f64>() / gaps.len() as f64;
        // The standard deviation of an exponential distribution is its mean; at even distances it would be nothing.
        assert!((variance.sqrt() / mean - 1.0).abs() < 0.02, "{mean} {variance}");
    }

    #[test]
    fn a_repetition_has_a_seed_of_its_own_and_the_first_the_seed_that_was_given() {
        let seeds: std::collections::BTreeSet<u64> = (0..100).map(|repetition| seed_of(5, repetition)).collect();
        assert_eq!((seed_of(5, 0), seeds.len()), (5, 100));
    }

    #[test]
    fn a_mix_of_ways_comes_in_its_shares() {
        let mixed = Workload { ways: Ways::MIXED, ..workload(Arrival::Fixed, 10_000, 2, 3) };
        let all = all(&mixed);
        let share = |way| all.iter().filter(|message| message.way == way).count() as f64 / all.len() as f64;
        assert!((share(Way::Direct) - 0.7).abs() < 0.01 && (share(Way::Request) - 0.1).abs() < 0.01);
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        /// proptest prints what it found, the seed of the plan among it.
        #[test]
        fn a_plan_is_in_order_ends_in_time_and_is_the_same_again(
            poisson: bool, rate in 1u64..30_000, lanes in 1u32..20, seed: u64, end_us in 0u64..2_000_000,
        ) {
            let arrival = if poisson { Arrival::Poisson } else { Arrival::Fixed };
            let workload = Workload { end_us, ..workload(arrival, rate, lanes, seed) };
            let below = workload.numbers_below();
            let mut seen = std::collections::BTreeSet::new();
            let mut count = 0;
            for lane in 0..lanes {
                let messages: Vec<Planned> = workload.lane(lane).collect();
                prop_assert!(messages.is_sorted_by_key(|message| message.due_us));
                prop_assert!(messages.iter().all(|message| message.due_us < end_us && message.number < below));
                prop_assert!(messages.iter().all(|message| message.number % u64::from(lanes) == u64::from(lane)));
                prop_assert!(messages.iter().eq(workload.lane(lane).collect::<Vec<_>>().iter()), "the same again");
                count += messages.len();
                seen.extend(messages.iter().map(|message| message.number));
            }
            prop_assert_eq!(seen.len(), count, "no number twice");
            prop_assert_eq!(workload.count_in(0..u64::MAX), count as u64);
            let half = end_us / 2;
            prop_assert_eq!(workload.count_in(0..half) + workload.count_in(half..u64::MAX), count as u64);
            if arrival == Arrival::Fixed {
                prop_assert_eq!(count as u64, (rate * end_us).div_ceil(1_000_000));
            }
        }

        #[test]
        fn processes_together_have_every_message_of_one_process_once(
            rate in 1u64..5_000, lanes in 1u32..20, seed: u64, cut in 0u32..20,
        ) {
            let whole = Workload { end_us: 1_000_000, ..workload(Arrival::Poisson, rate, lanes, seed) };
            let cut = cut.min(lanes);
            let of = |share: std::ops::Range<u32>| -> Vec<Planned> {
                let part = Workload { share, ..whole.clone() };
                part.share.clone().flat_map(|lane| part.lane(lane).collect::<Vec<_>>()).collect()
            };
            prop_assert_eq!([of(0..cut), of(cut..lanes)].concat(), of(0..lanes));
            let count = |share| Workload { share, ..whole.clone() }.count_in(0..u64::MAX);
            prop_assert_eq!(count(0..cut) + count(cut..lanes), whole.count_in(0..u64::MAX));
        }

        #[test]
        fn another_seed_is_another_plan_and_fixed_times_stay(seed: u64) {
            let other = seed.wrapping_add(1);
            let times = |arrival, seed| -> Vec<u64> {
                workload(arrival, 100, 1, seed).lane(0).map(|message| message.due_us).collect()
            };
            prop_assert_ne!(times(Arrival::Poisson, seed), times(Arrival::Poisson, other));
            prop_assert_eq!(times(Arrival::Fixed, seed), times(Arrival::Fixed, other));
        }
    }
}
