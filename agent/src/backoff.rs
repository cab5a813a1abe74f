//! Pauses that double, with jitter, so that a thousand agents do not come back at the same moment.

use std::time::Duration;

/// The next pause, and the one after it. Pure: randomness is an argument.
#[derive(Clone, Debug)]
pub(crate) struct Backoff {
    min: Duration,
    max: Duration,
    failures: u32,
}

impl Backoff {
    pub(crate) fn new(min: Duration, max: Duration) -> Self {
        assert!(!min.is_zero() && min <= max, "a pause of zero would spin");
        Self { min, max, failures: 0 }
    }

    /// The pause after one more failure: between half of and the whole `min * 2^failures`, at most `max`.
    pub(crate) fn next(&mut self, random: u32) -> Duration {
        let whole = pause(self.min, self.max, self.failures);
        self.failures = self.failures.saturating_add(1);
        let half = whole / 2;
        half + half.mul_f64(f64::from(random) / f64::from(u32::MAX))
    }

    /// Something worked: start again from the shortest pause.
    pub(crate) fn reset(&mut self) {
        self.failures = 0;
    }
}

/// `min * 2^failures`, at most `max`.
pub(crate) fn pause(min: Duration, max: Duration, failures: u32) -> Duration {
    min.saturating_mul(1 << failures.min(20)).min(max)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MIN: Duration = Duration::from_millis(50);
    const MAX: Duration = Duration::from_secs(5);

    #[test]
    fn pauses_double_up_to_the_longest_and_start_again_after_a_success() {
        let mut backoff = Backoff::new(MIN, MAX);
        let pauses: Vec<u128> = (0..9).map(|_| backoff.next(u32::MAX).as_millis()).collect();
        assert_eq!(pauses, [50, 100, 200, 400, 800, 1600, 3200, 5000, 5000]);
        backoff.reset();
        assert_eq!(backoff.next(u32::MAX), MIN);
    }

    proptest! {
        #[test]
        fn a_pause_is_never_zero_never_above_the_longest_and_at_least_half_of_the_whole(
            failures in 0u32..100, random: u32,
        ) {
            let mut backoff = Backoff { failures, ..Backoff::new(MIN, MAX) };
            let whole = pause(MIN, MAX, failures);
            let found = backoff.next(random);
            prop_assert!(found >= whole / 2 && found <= whole && whole <= MAX && whole >= MIN);
        }
    }
}
