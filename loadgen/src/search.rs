//! The highest rate that holds. Pure: what a rate did is an argument.

use std::ops::RangeInclusive;

use serde::{Deserialize, Serialize};

use crate::report::Report;
use crate::verdict::UNDELIVERED_GROWS;

/// What a rate must keep to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limit {
    /// p99 of publish to delivered, in microseconds.
    pub p99_us: u64,
}

/// What was tried at one rate.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Step {
    /// Messages a second.
    pub rate: u64,
    /// Whether it holds.
    pub holds: bool,
    /// Why not.
    pub because: Vec<String>,
    /// What was achieved.
    pub achieved_rate: f64,
    /// p99 of publish to delivered.
    pub publish_to_delivered_us_p99: Option<u64>,
    /// CPU time of the node.
    pub node_cpu_us_per_message: Option<f64>,
}

impl Step {
    /// What a run at this rate says: it holds when it is valid, its p99 is not above the limit, and no backlog grows on either side.
    #[must_use]
    pub fn of(rate: u64, limit: Limit, report: &Report) -> Self {
        let mut because = report.invalid_because.clone();
        let p99 = report.publish_to_delivered_us.p99;
        match p99 {
            Some(p99) if p99 <= limit.p99_us => {}
            Some(p99) => because.push(format!("p99 of publish to delivered is {p99} us, above {} us", limit.p99_us)),
            None => because.push("nothing was delivered".to_owned()),
        }
        if report.unacknowledged_grows {
            because.push("more and more is due and not acknowledged".to_owned());
        }
        // A run that nobody asked to fall behind is not valid with it, and has said so.
        if report.undelivered_grows && !because.iter().any(|reason| reason.contains(UNDELIVERED_GROWS)) {
            because.push(UNDELIVERED_GROWS.to_owned());
        }
        Self {
            rate,
            holds: because.is_empty(),
            because,
            achieved_rate: report.achieved_rate,
            publish_to_delivered_us_p99: p99,
            node_cpu_us_per_message: report.node_cpu_us_per_message,
        }
    }
}

/// Doubles until a rate does not hold, and halves the distance from then on.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Search {
    holds: u64,
    fails: Option<u64>,
    next: u64,
    /// Close enough, as a share.
    precision: f64,
    rate_min: u64,
    rate_max: u64,
}

impl Search {
    /// Begins with this rate, stays within these, and ends when the rate that holds and the one that does not are as close as this
    /// share of it.
    #[must_use]
    pub fn from(rate: u64, rates: RangeInclusive<u64>, precision: f64) -> Self {
        let rate_min = (*rates.start()).max(1);
        let rate_max = (*rates.end()).max(rate_min);
        let (next, precision) = (rate.clamp(rate_min, rate_max), precision.max(0.001));
        Self { holds: 0, fails: None, next, precision, rate_min, rate_max }
    }

    /// The rate to try; none when it is found.
    #[must_use]
    pub fn next(&self) -> Option<u64> {
        let Self { holds, fails, next, precision, .. } = *self;
        #[allow(clippy::cast_precision_loss, reason = "rates are far below 2^52")]
        let is_close = fails.is_some_and(|fails| (fails - holds) as f64 <= precision * holds as f64);
        let is_known = next == holds || Some(next) == fails;
        (!is_close && !is_known && next >= self.rate_min).then_some(next)
    }

    /// What the rate that was tried did.
    pub fn tried(&mut self, holds: bool) {
        match holds {
            true => self.holds = self.next,
            false => self.fails = Some(self.next),
        }
        self.next = match self.fails {
            None => self.holds.saturating_mul(2).min(self.rate_max),
            Some(fails) => u64::midpoint(self.holds, fails).max(1),
        };
    }

    /// The highest rate that holds so far; zero when none does.
    #[must_use]
    pub fn found(&self) -> u64 {
        self.holds
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::measure::Percentiles;

    fn report(p99: u64) -> Report {
        let publish_to_delivered_us = Percentiles { p99: Some(p99), ..Percentiles::default() };
        Report { valid: true, publish_to_delivered_us, ..Report::default() }
    }

    #[test]
    fn a_rate_holds_when_it_is_valid_fast_enough_and_nothing_piles_up() {
        let limit = Limit { p99_us: 5_000 };
        assert!(Step::of(1_000, limit, &report(5_000)).holds);
        let late = Report { invalid_because: vec!["late".to_owned()], ..report(10) };
        for (report, why) in [
            (report(5_001), "above 5000 us"),
            (late, "late"),
            (Report { unacknowledged_grows: true, ..report(10) }, "not acknowledged"),
            (Report { undelivered_grows: true, ..report(10) }, "not delivered"),
            (Report::default(), "nothing was delivered"),
        ] {
            let step = Step::of(1_000, limit, &report);
            assert!(!step.holds && step.because.len() == 1 && step.because[0].contains(why), "{step:?}");
        }
    }

    proptest! {
        #[test]
        fn the_search_finds_the_rate_within_its_precision_and_ends(
            limit in 1u64..200_000, begin in 1u64..50_000, percent in 1u64..20,
        ) {
            let mut search = Search::from(begin, 1..=1_000_000, percent as f64 / 100.0);
            let mut steps = 0;
            while let Some(rate) = search.next() {
                search.tried(rate <= limit);
                steps += 1;
                prop_assert!(steps < 60, "{search:?}");
            }
            let found = search.found();
            prop_assert!(found <= limit);
            prop_assert!((found + 1) as f64 * (1.0 + percent as f64 / 100.0) >= limit as f64, "{found} of {limit}");
        }

        #[test]
        fn a_search_without_an_end_stops_at_the_highest_rate(most in 1u64..100_000) {
            let mut search = Search::from(1_000, 1..=most, 0.05);
            while search.next().is_some() {
                search.tried(true);
            }
            prop_assert_eq!(search.found(), most);
        }

        #[test]
        fn a_search_in_which_nothing_holds_ends_above_the_lowest_rate(begin in 1u64..100_000, least in 1u64..1_000) {
            let mut search = Search::from(begin, least..=1_000_000, 0.05);
            while let Some(rate) = search.next() {
                prop_assert!(rate >= least);
                search.tried(false);
            }
            prop_assert_eq!(search.found(), 0);
        }
    }
}
