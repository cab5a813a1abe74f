//! Measuring: a warm-up, then samples long enough for the clock, then their median.
//!
//! What is measured is CPU time of the calling thread, so that another process on the same core does not count. Nothing that
//! is measured here waits for anything.

use std::time::Duration;

use nix::time::{ClockId, clock_gettime};

/// How long to measure one figure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Effort {
    /// Samples of which the median is taken.
    pub samples: usize,
    /// How long one sample takes; an operation that takes longer is a sample by itself.
    pub sample: Duration,
}

impl Effort {
    /// About half a second per figure: for figures that are told to others.
    pub const FULL: Self = Self { samples: 31, sample: Duration::from_millis(15) };
    /// As short as it goes: shows that measuring works, not what it measures.
    pub const TRIAL: Self = Self { samples: 1, sample: Duration::from_micros(1) };

    /// Nanoseconds that one call of `operation` takes, the median over the samples.
    pub fn median_ns(self, mut operation: impl FnMut()) -> f64 {
        // The warm-up counts how many calls fill a sample.
        let (begun, mut calls) = (CpuTime::now(), 0u32);
        while begun.elapsed() < self.sample * 3 || calls == 0 {
            operation();
            calls += 1;
        }
        let per_sample = (calls / 3).max(1);
        self.median_of(|| {
            let begun = CpuTime::now();
            for _ in 0..per_sample {
                operation();
            }
            begun.elapsed().as_nanos() as f64 / f64::from(per_sample)
        })
    }

    /// The median of what `sample` gives, for whoever times a part of it by itself.
    pub fn median_of(self, mut sample: impl FnMut() -> f64) -> f64 {
        let mut samples: Vec<f64> = (0..self.samples).map(|_| sample()).collect();
        samples.sort_unstable_by(f64::total_cmp);
        samples[samples.len() / 2]
    }
}

/// A moment in the CPU time of this thread.
#[derive(Clone, Copy, Debug)]
pub struct CpuTime(Duration);

impl CpuTime {
    /// Now.
    ///
    /// # Panics
    /// On a system without this clock; Linux has it.
    pub fn now() -> Self {
        let time = clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).expect("Linux counts the CPU time of threads");
        Self(time.into())
    }

    /// CPU time that this thread has used since.
    pub fn elapsed(self) -> Duration {
        Self::now().0.saturating_sub(self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_middle_one() {
        let mut values = [9.0, 1.0, 5.0].into_iter();
        let effort = Effort { samples: 3, ..Effort::TRIAL };
        assert_eq!(effort.median_of(|| values.next().unwrap()), 5.0);
    }
}
