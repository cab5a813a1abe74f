//! What a node's shards go by, and for how long.
//!
//! There is one place for it, which all shards look at: it has the newest snapshot, never a queue of them, so that a shard that takes
//! nothing for a while keeps nobody from anything and is handed the newest when it looks again. A confirmation is of one snapshot: a
//! shard that has not taken that one yet does not go by an older one because of it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use creto_policy::Snapshot;
use nix::time::{ClockId, clock_gettime};

/// The newest snapshot, and until when it counts. Cheap to clone and to look at; all clones are one. At first there is none.
#[derive(Clone, Debug)]
pub struct Lease(Arc<State>);

#[derive(Debug)]
struct State {
    /// Until when the confirmed snapshot counts.
    until: AtomicU64,
    /// The number of the snapshot that was confirmed last. Written before `until`, and read after it.
    confirmed: AtomicU64,
    /// The number of the newest one.
    number: AtomicU64,
    /// It; behind a lock that is taken when the number is another one than before.
    newest: Mutex<(u64, Arc<Snapshot>)>,
}

/// A moment of the clock by which leases count, in microseconds: it goes on while the machine sleeps, and nobody sets it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Moment(u64);

impl Moment {
    /// Now.
    #[must_use]
    pub fn now() -> Self {
        let since_boot = clock_gettime(ClockId::CLOCK_BOOTTIME).expect("Linux has this clock since 2.6.39");
        Self(u64::try_from(Duration::from(since_boot).as_micros()).expect("no machine runs for half a million years"))
    }

    /// How long ago it was.
    pub(crate) fn elapsed(self) -> Duration {
        Duration::from_micros(Self::now().0.saturating_sub(self.0))
    }

    /// So much later.
    #[must_use]
    pub fn plus(self, span: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(span.as_micros()).unwrap_or(u64::MAX)))
    }
}

impl Default for Lease {
    fn default() -> Self {
        let newest = Mutex::new((0, Arc::new(Snapshot::empty())));
        let (until, confirmed, number) = Default::default();
        Self(Arc::new(State { until, confirmed, number, newest }))
    }
}

impl Lease {
    fn newest(&self) -> MutexGuard<'_, (u64, Arc<Snapshot>)> {
        // What it guards is whole at every moment.
        self.0.newest.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The newest snapshot and its number, if that is another one than `seen`. The first one has the number 1.
    #[must_use]
    pub fn newest_but(&self, seen: u64) -> Option<(u64, Arc<Snapshot>)> {
        if self.0.number.load(Ordering::Acquire) == seen {
            return None;
        }
        let newest = self.newest();
        Some((newest.0, Arc::clone(&newest.1)))
    }

    /// Whether somebody who took the snapshot of this number, and none after it, may go by it now.
    #[must_use]
    pub fn is_alive_for(&self, taken: u64) -> bool {
        self.left().is_some() && self.confirmed() <= taken
    }

    /// The number of the snapshot that was confirmed last.
    #[must_use]
    pub fn confirmed(&self) -> u64 {
        self.0.confirmed.load(Ordering::Acquire)
    }

    /// For how long what was confirmed counts; `None`: not any more, or not yet.
    #[must_use]
    pub fn left(&self) -> Option<Duration> {
        let left = self.0.until.load(Ordering::Acquire).checked_sub(Moment::now().0)?;
        (left > 0).then_some(Duration::from_micros(left))
    }

    /// This is the newest snapshot. It counts when it was confirmed.
    pub fn publish(&self, snapshot: Arc<Snapshot>) {
        let mut newest = self.newest();
        newest.0 += 1;
        newest.1 = snapshot;
        self.0.number.store(newest.0, Ordering::Release);
    }

    /// The newest snapshot is what there is, and counts until then and no longer: whoever set a shorter time means it. Returns whether
    /// that is later than now.
    pub fn confirm(&self, until: Moment) -> bool {
        self.0.confirmed.store(self.0.number.load(Ordering::Acquire), Ordering::Release);
        self.0.until.store(until.0, Ordering::Release);
        until > Moment::now()
    }
}

#[cfg(test)]
mod tests {
    use creto_policy::{Policy, SnapshotBuilder};

    use super::*;

    fn snapshot(epoch: u64) -> Arc<Snapshot> {
        Arc::new(SnapshotBuilder::with_policy(Policy::SameOrganization).build(epoch))
    }

    fn hours(count: u64) -> Moment {
        Moment::now().plus(Duration::from_secs(3_600 * count))
    }

    #[test]
    fn a_lease_is_over_at_first_and_is_never_renewed_into_the_past() {
        let lease = Lease::default();
        assert!(!lease.is_alive_for(0) && lease.newest_but(0).is_none());
        lease.publish(snapshot(7));
        assert!(!lease.is_alive_for(1), "nobody has confirmed it");
        assert!(!lease.confirm(Moment::now()), "what was asked a lifetime ago counts for nothing");
        assert!(!lease.is_alive_for(1) && lease.left().is_none());
        assert!(lease.confirm(hours(1)));
        assert!(lease.clone().is_alive_for(1), "clones are one");
    }

    #[test]
    fn a_confirmation_is_of_one_snapshot_and_makes_no_older_one_count() {
        let lease = Lease::default();
        lease.publish(snapshot(7));
        lease.confirm(Moment::now());
        let (taken, first) = lease.newest_but(0).unwrap();
        assert_eq!((taken, first.epoch()), (1, 7));
        // The outage is over, and there is another one; a shard has not taken it yet.
        lease.publish(snapshot(8));
        assert!(!lease.is_alive_for(taken));
        lease.confirm(hours(1));
        assert!(!lease.is_alive_for(taken), "what it has was never confirmed again");
        let (taken, second) = lease.newest_but(taken).unwrap();
        assert!(lease.is_alive_for(taken) && second.epoch() == 8 && lease.newest_but(taken).is_none());
        // A newer one that is not confirmed yet may be gone by for as long as the one before it.
        lease.publish(snapshot(9));
        assert!(lease.is_alive_for(taken) && lease.is_alive_for(taken + 1));
    }

    #[test]
    fn a_shorter_lifetime_holds_from_the_next_confirmation() {
        let lease = Lease::default();
        lease.publish(snapshot(7));
        lease.confirm(hours(1));
        lease.confirm(Moment::now().plus(Duration::from_secs(60)));
        assert!(lease.left().is_some_and(|left| left <= Duration::from_secs(60)));
        assert!(!lease.confirm(Moment::now()));
        assert!(!lease.is_alive_for(1));
    }
}
