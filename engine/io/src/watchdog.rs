//! Notices a shard that makes no progress, says why as far as the kernel knows, and tries to wake it.
//!
//! A shard counts its turns, and a parked one takes a turn every 50 ms, so there is one rule and no notion of "idle": the
//! count moves, or the shard is stalled. The watchdog's own sleep is the measure of time: an interval that took far longer
//! than asked for was a pause of the whole process or machine (SIGSTOP, a suspended host) and counts as one interval.

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::limits::STALL;
use crate::ring::ControlPort;

/// Time between two looks at the shards.
const INTERVAL: Duration = Duration::from_millis(20);

/// What a shard shows of itself: written by its driver, read by the watchdog.
#[derive(Debug, Default)]
pub struct Progress {
    turns: AtomicU64,
    /// Its thread, as `/proc` knows it; 0 before it runs and after it has ended.
    thread_id: AtomicI32,
}

impl Progress {
    /// Turns since the shard began.
    pub fn turns(&self) -> u64 {
        self.turns.load(Ordering::Relaxed)
    }

    pub(crate) fn begin(&self) {
        self.thread_id.store(rustix::thread::gettid().as_raw_nonzero().get(), Ordering::Relaxed);
    }

    pub(crate) fn turn(&self) {
        // One writer: no read-modify-write needed.
        self.turns.store(self.turns.load(Ordering::Relaxed).wrapping_add(1), Ordering::Relaxed);
    }

    pub(crate) fn end(&self) {
        self.thread_id.store(0, Ordering::Relaxed);
    }
}

/// What a stalled shard's thread was doing, from `/proc/<pid>/task/<tid>/schedstat`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StallCause {
    /// It ran: one turn takes too long.
    Running,
    /// It waited for its CPU: somebody else has it.
    WaitingForCpu,
    /// It slept: a wake-up was lost, or it is stopped in a system call.
    Asleep,
    /// The kernel does not say.
    Unknown,
}

/// A shard without progress.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stall {
    /// The shard.
    pub shard_index: u16,
    /// For how long, pauses of the whole process left out.
    pub lasted: Duration,
    /// What its thread did.
    pub cause: StallCause,
    /// Whether it goes on: each stall is reported when it is noticed and when it is over.
    pub ongoing: bool,
}

/// A shard to watch.
pub struct Watched {
    shard_index: u16,
    progress: Arc<Progress>,
    wake: Box<dyn Fn() + Send>,
}

impl Watched {
    /// Watches the shard with this progress, and wakes it through this port.
    pub fn new<T: Send + 'static>(shard_index: u16, progress: Arc<Progress>, port: ControlPort<T>) -> Self {
        Self { shard_index, progress, wake: Box::new(move || port.wake()) }
    }
}

/// The watchdog's thread; ends when this is dropped.
#[derive(Debug)]
pub struct Watchdog {
    stop: Arc<AtomicBool>,
    stalls: Arc<AtomicU64>,
    thread: Option<JoinHandle<()>>,
}

impl Watchdog {
    /// Starts to watch. Each stall is logged and given to `report`, twice: when it is noticed and when it is over.
    ///
    /// # Errors
    /// The thread could not be made.
    pub fn start(shards: Vec<Watched>, report: impl FnMut(&Stall) + Send + 'static) -> std::io::Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let stalls = Arc::new(AtomicU64::new(0));
        let thread = std::thread::Builder::new().name("creto-watchdog".into()).spawn({
            let (stop, stalls) = (Arc::clone(&stop), Arc::clone(&stalls));
            move || watch(shards, &stop, &stalls, report)
        })?;
        Ok(Self { stop, stalls, thread: Some(thread) })
    }

    /// Stalls noticed so far.
    pub fn stalls(&self) -> u64 {
        self.stalls.load(Ordering::Relaxed)
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            // A panic in it was printed by its own thread, and there is nothing to do about it here.
            let _ = thread.join();
        }
    }
}

fn watch(shards: Vec<Watched>, stop: &AtomicBool, stalls: &AtomicU64, mut report: impl FnMut(&Stall)) {
    let mut watches: Vec<Watch> = shards.into_iter().map(Watch::new).collect();
    let mut looked = Instant::now();
    while !stop.load(Ordering::Relaxed) {
        std::thread::park_timeout(INTERVAL);
        let now = Instant::now();
        // A longer gap was ours, not the shard's.
        let elapsed = now.duration_since(looked).min(2 * INTERVAL);
        looked = now;
        for watch in &mut watches {
            if let Some(stall) = watch.look(elapsed) {
                if stall.ongoing {
                    stalls.fetch_add(1, Ordering::Relaxed);
                }
                log(&stall);
                report(&stall);
            }
        }
    }
}

fn log(stall: &Stall) {
    let Stall { shard_index, lasted, cause, ongoing } = stall;
    let (ms, advice) = (lasted.as_millis(), advice(*cause));
    if *ongoing {
        tracing::warn!(shard_index, stalled_ms = ms, ?cause, "shard makes no progress: {advice}");
    } else {
        tracing::warn!(shard_index, stalled_ms = ms, ?cause, "shard makes progress again");
    }
}

fn advice(cause: StallCause) -> &'static str {
    match cause {
        StallCause::Running => "one turn takes too long; this is a fault of the node, please report it",
        StallCause::WaitingForCpu => "another process has its CPU; give the shards CPUs of their own",
        StallCause::Asleep => "it slept through a wake-up and was woken; if this repeats, please report it",
        StallCause::Unknown => "the kernel does not say why",
    }
}

/// One shard's history.
struct Watch {
    shard: Watched,
    turns: u64,
    still: Duration,
    /// The thread's times when the count was first seen standing still.
    before: Option<ThreadTimes>,
    reported: Option<StallCause>,
}

impl Watch {
    fn new(shard: Watched) -> Self {
        Self { turns: shard.progress.turns(), shard, still: Duration::ZERO, before: None, reported: None }
    }

    fn look(&mut self, elapsed: Duration) -> Option<Stall> {
        let shard_index = self.shard.shard_index;
        let thread_id = self.shard.progress.thread_id.load(Ordering::Relaxed);
        let turns = self.shard.progress.turns();
        if turns != self.turns || thread_id == 0 {
            let lasted = std::mem::take(&mut self.still);
            self.turns = turns;
            self.before = None;
            return self.reported.take().map(|cause| Stall { shard_index, lasted, cause, ongoing: false });
        }
        if self.before.is_none() {
            self.before = ThreadTimes::of(thread_id);
        }
        self.still += elapsed;
        if self.still < STALL {
            return None;
        }
        let cause = match (self.before, ThreadTimes::of(thread_id)) {
            (Some(before), Some(now)) => before.cause(now, self.still),
            _ => StallCause::Unknown,
        };
        if cause != StallCause::Running {
            (self.shard.wake)();
        }
        if self.reported.is_some() {
            return None;
        }
        self.reported = Some(cause);
        Some(Stall { shard_index, lasted: self.still, cause, ongoing: true })
    }
}

/// What the scheduler says of a thread.
#[derive(Clone, Copy, Debug)]
struct ThreadTimes {
    ran: Duration,
    waited: Duration,
}

impl ThreadTimes {
    fn of(thread_id: i32) -> Option<Self> {
        let text = fs::read_to_string(format!("/proc/self/task/{thread_id}/schedstat")).ok()?;
        let mut nanos = text.split_ascii_whitespace().map_while(|number| number.parse().ok().map(Duration::from_nanos));
        Some(Self { ran: nanos.next()?, waited: nanos.next()? })
    }

    fn cause(self, now: Self, still: Duration) -> StallCause {
        let ran = now.ran.saturating_sub(self.ran);
        let waited = now.waited.saturating_sub(self.waited);
        if ran >= still / 2 {
            StallCause::Running
        } else if ran + waited >= still / 2 {
            StallCause::WaitingForCpu
        } else {
            StallCause::Asleep
        }
    }
}
