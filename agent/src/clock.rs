//! Time and randomness of the process. Everything that decides takes both as arguments.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use creto_envelope::MessageId;
use tokio::time::Instant;

/// Monotonic microseconds since the agent began; timers compare these.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock(Instant);

impl Clock {
    pub(crate) fn start() -> Self {
        Self(Instant::now())
    }

    pub(crate) fn now_us(&self) -> u64 {
        u64::try_from(self.0.elapsed().as_micros()).unwrap_or(u64::MAX)
    }

    pub(crate) fn at(&self, us: u64) -> Instant {
        self.0 + Duration::from_micros(us)
    }
}

/// The wall clock, Unix milliseconds.
pub(crate) fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// Bytes from the system's generator.
///
/// # Panics
/// When the system has none: nothing can be sealed or named safely then.
pub(crate) fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    fill(&mut bytes);
    bytes
}

/// The same, where they are wanted: for what must leave no copy behind.
///
/// # Panics
/// As [`random`].
pub(crate) fn fill(bytes: &mut [u8]) {
    getrandom::fill(bytes).expect("the system gives randomness");
}

/// So many of them, asked for at once.
///
/// # Panics
/// As [`random`].
pub(crate) fn random_each<const N: usize>(count: usize) -> Vec<[u8; N]> {
    let mut each = vec![[0; N]; count];
    getrandom::fill(each.as_flattened_mut()).expect("the system gives randomness");
    each
}

pub(crate) fn new_message_id() -> MessageId {
    MessageId::from_parts(now_ms(), random())
}
