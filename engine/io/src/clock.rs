//! The only place of the data plane that asks what time it is.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// A clock that all shards share: microseconds since the node started.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    origin: Instant,
}

/// One reading of the clock. A turn takes one and uses it throughout.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Now {
    /// Monotonic microseconds since the clock was started: for every timeout.
    pub us: u64,
    /// Unix time in milliseconds: for what is written down or shown. It may jump.
    pub wall_ms: u64,
}

impl Clock {
    /// Starts a clock at zero.
    pub fn start() -> Self {
        Self { origin: Instant::now() }
    }

    /// Reads it.
    pub fn now(&self) -> Now {
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
        Now { us: self.us_of(Instant::now()), wall_ms: u64::try_from(wall.as_millis()).unwrap_or(u64::MAX) }
    }

    /// Reads its monotonic half, which costs half as much.
    pub fn us(&self) -> u64 {
        self.us_of(Instant::now())
    }

    /// The instant of a reading.
    pub fn instant_of(&self, us: u64) -> Instant {
        self.origin + Duration::from_micros(us)
    }

    /// The reading of an instant, rounded up: a deadline never comes early.
    pub(crate) fn us_of_deadline(&self, at: Instant) -> u64 {
        let nanos = at.saturating_duration_since(self.origin).as_nanos();
        u64::try_from(nanos.div_ceil(1_000)).unwrap_or(u64::MAX)
    }

    fn us_of(&self, at: Instant) -> u64 {
        u64::try_from(at.saturating_duration_since(self.origin).as_micros()).unwrap_or(u64::MAX)
    }
}
