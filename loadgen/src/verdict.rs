//! Whether a run says what it seems to say. Pure.

use crate::limits::{
    ACHIEVED_SHARE_MIN, BACKLOG_GROWTH_MIN, BACKLOG_GROWTH_SHARE_MAX, BACKLOG_SAMPLES_MIN, GENERATOR_LATE_P99_US_MAX,
};

/// What validity is judged by.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Facts {
    /// None in a closed loop.
    pub(crate) offered_rate: Option<f64>,
    pub(crate) achieved_rate: f64,
    /// None in a closed loop.
    pub(crate) generator_late_p99_us: Option<u64>,
    pub(crate) acknowledged: u64,
    pub(crate) refused: u64,
    pub(crate) unknown: u64,
    pub(crate) lost: u64,
    pub(crate) duplicated: u64,
    /// Could not be verified or opened, or not as they were sent.
    pub(crate) rejected: u64,
    /// More and more was acknowledged and not delivered, and nobody asked for that.
    pub(crate) undelivered_grows: bool,
}

/// Why a run says little of the time until delivery: that is how long the run was.
pub(crate) const UNDELIVERED_GROWS: &str = "more and more is acknowledged and not delivered";

/// Why a run is not valid, each in words; nothing for one that is.
pub(crate) fn invalid_because(facts: &Facts) -> Vec<String> {
    let mut reasons = Vec::new();
    if facts.acknowledged == 0 {
        reasons.push("nothing was acknowledged".to_owned());
    }
    if let Some(late_us) = facts.generator_late_p99_us.filter(|late_us| *late_us > GENERATOR_LATE_P99_US_MAX) {
        reasons.push(format!(
            "the generator was late: p99 {late_us} us, above {GENERATOR_LATE_P99_US_MAX} us; give it cores of its own, or lower the rate"
        ));
    }
    if let Some(offered) = facts.offered_rate.filter(|offered| facts.achieved_rate < offered * ACHIEVED_SHARE_MIN) {
        reasons.push(format!(
            "{:.0} messages a second were achieved of {offered:.0} offered, less than {:.0} %",
            facts.achieved_rate,
            ACHIEVED_SHARE_MIN * 100.0
        ));
    }
    let mut none = |count: u64, what: &str| {
        if count > 0 {
            reasons.push(format!("{count} {what}"));
        }
    };
    none(facts.lost, "deliveries of acknowledged messages are missing");
    none(facts.duplicated, "messages were delivered twice");
    none(facts.refused, "messages were refused");
    none(facts.unknown, "messages have no known outcome");
    none(facts.rejected, "deliveries were not as they were sent");
    if facts.undelivered_grows {
        reasons.push(UNDELIVERED_GROWS.to_owned());
    }
    reasons
}

/// Whether a backlog grows: by the line through its samples (least squares), against this rate. The samples are equally far apart, and
/// the first and the last `seconds` apart.
pub(crate) fn is_growing(samples: &[u64], seconds: f64, rate_per_s: f64) -> bool {
    if samples.len() < BACKLOG_SAMPLES_MIN || seconds <= 0.0 {
        return false;
    }
    #[allow(clippy::cast_precision_loss, reason = "backlogs and counts of samples are far below 2^52")]
    let (count, values) = (samples.len() as f64, samples.iter().map(|sample| *sample as f64));
    let (middle, mean) = ((count - 1.0) / 2.0, values.clone().sum::<f64>() / count);
    let (mut above, mut below) = (0.0, 0.0);
    let mut place = 0.0;
    for value in values {
        above += (place - middle) * (value - mean);
        below += (place - middle) * (place - middle);
        place += 1.0;
    }
    let grew = above / below * (count - 1.0);
    grew / seconds > rate_per_s * BACKLOG_GROWTH_SHARE_MAX && grew >= BACKLOG_GROWTH_MIN
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const GOOD: Facts = Facts {
        offered_rate: Some(20_000.0),
        achieved_rate: 19_990.0,
        generator_late_p99_us: Some(90),
        acknowledged: 200_000,
        refused: 0,
        unknown: 0,
        lost: 0,
        duplicated: 0,
        rejected: 0,
        undelivered_grows: false,
    };

    #[test]
    fn a_run_that_kept_its_rate_and_lost_nothing_is_valid() {
        assert!(invalid_because(&GOOD).is_empty());
        let closed = Facts { offered_rate: None, generator_late_p99_us: None, achieved_rate: 3.0, ..GOOD };
        assert!(invalid_because(&closed).is_empty(), "a closed loop offers no rate");
    }

    #[test]
    fn each_reason_makes_a_run_invalid_and_is_named() {
        let cases = [
            (Facts { generator_late_p99_us: Some(GENERATOR_LATE_P99_US_MAX + 1), ..GOOD }, "generator was late"),
            (Facts { achieved_rate: 19_799.0, ..GOOD }, "less than 99 %"),
            (Facts { acknowledged: 0, ..GOOD }, "nothing was acknowledged"),
            (Facts { lost: 1, ..GOOD }, "missing"),
            (Facts { duplicated: 1, ..GOOD }, "twice"),
            (Facts { refused: 1, ..GOOD }, "refused"),
            (Facts { unknown: 1, ..GOOD }, "no known outcome"),
            (Facts { rejected: 1, ..GOOD }, "not as they were sent"),
            (Facts { undelivered_grows: true, ..GOOD }, "not delivered"),
        ];
        for (facts, reason) in cases {
            let reasons = invalid_because(&facts);
            assert!(reasons.len() == 1 && reasons[0].contains(reason), "{reasons:?}");
        }
        let edge = Facts { generator_late_p99_us: Some(GENERATOR_LATE_P99_US_MAX), achieved_rate: 19_800.0, ..GOOD };
        assert!(invalid_because(&edge).is_empty(), "the limits themselves are allowed");
    }

    #[test]
    fn a_backlog_that_stands_or_shrinks_does_not_grow() {
        assert!(!is_growing(&[100; 20], 10.0, 1_000.0));
        assert!(!is_growing(&[500, 400, 300, 200, 100], 10.0, 1_000.0));
        assert!(!is_growing(&[10, 900, 20, 880, 15, 910, 12, 890], 10.0, 20_000.0), "it moves, and comes back");
        assert!(!is_growing(&[0, 1_000_000, 2_000_000], 10.0, 1.0), "three looks say nothing");
        assert!(!is_growing(&[0, 1, 1, 2, 3], 1.0, 200.0), "some messages are on their way at any time");
        let tenth: Vec<u64> = (0..50).map(|place| 7 + place * 40).collect();
        assert!(is_growing(&tenth, 9.8, 2_000.0), "two hundred a second of two thousand are left");
    }

    proptest! {
        #[test]
        fn a_backlog_grows_exactly_when_its_line_is_steep_enough(rate in 1_000u64..100_000, percent in 0u64..20) {
            let samples: Vec<u64> = (0..=50).map(|place| rate * percent * place / 100 / 5).collect();
            // The line of whole numbers is within one message of the line that was meant.
            if percent != 1 {
                prop_assert_eq!(is_growing(&samples, 10.0, rate as f64), percent > 1);
            }
        }
    }
}
