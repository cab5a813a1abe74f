//! For how long a snapshot counts.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use nix::time::{ClockId, clock_gettime};

/// Until when a node's snapshot counts. Cheap to clone and to look at; all clones are one. At first it is over.
#[derive(Clone, Debug, Default)]
pub struct Lease(Arc<AtomicU64>);

/// A moment of the clock by which leases count, in microseconds: it goes on while the machine sleeps, and nobody sets it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct Moment(u64);

impl Moment {
    pub(crate) fn now() -> Self {
        let since_boot = clock_gettime(ClockId::CLOCK_BOOTTIME).expect("Linux has this clock since 2.6.39");
        Self(u64::try_from(Duration::from(since_boot).as_micros()).expect("no machine runs for half a million years"))
    }

    /// How long ago it was.
    pub(crate) fn elapsed(self) -> Duration {
        Duration::from_micros(Self::now().0.saturating_sub(self.0))
    }

    pub(crate) fn plus(self, span: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(span.as_micros()).unwrap_or(u64::MAX)))
    }
}

impl Lease {
    /// Whether the snapshot counts now.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        self.left().is_some()
    }

    /// For how long it does; `None`: not any more, or not yet.
    #[must_use]
    pub fn left(&self) -> Option<Duration> {
        let left = self.0.load(Ordering::Acquire).checked_sub(Moment::now().0)?;
        (left > 0).then_some(Duration::from_micros(left))
    }

    /// It counts until then. Returns whether that is later than now; else nothing changes.
    pub(crate) fn renew(&self, until: Moment) -> bool {
        if until <= Moment::now() {
            return false;
        }
        self.0.fetch_max(until.0, Ordering::AcqRel);
        true
    }

    /// Whether it never was alive.
    pub(crate) fn is_new(&self) -> bool {
        self.0.load(Ordering::Acquire) == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_is_over_at_first_and_is_never_made_shorter_or_renewed_into_the_past() {
        let lease = Lease::default();
        assert!(!lease.is_alive() && lease.is_new());
        let asked = Moment::now();
        assert!(!lease.renew(asked), "what was asked a lifetime ago counts for nothing");
        assert!(!lease.is_alive() && lease.is_new());
        assert!(lease.renew(asked.plus(Duration::from_secs(3_600))));
        assert!(lease.clone().is_alive(), "clones are one");
        assert!(lease.renew(asked.plus(Duration::from_secs(60))));
        assert!(lease.left().is_some_and(|left| left > Duration::from_secs(3_000)));
    }
}
