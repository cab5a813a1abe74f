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

    /// Whether the shard's thread runs: not before its first turn, and not after its last.
    pub fn is_running(&self) -> bool {
        self.thread_id.load(Ordering::Relaxed) != 0
    }

    /// The shard's thread, which calls this, has begun.
    pub fn begin(&self) {
        self.thread_id.store(rustix::thread::gettid().as_raw_nonzero().get(), Ordering::Relaxed);
    }

    /// One turn more. Only the thread that has begun calls it.
    pub fn turn(&self) {
        // One writer: no read-modify-write needed.
        self.turns.store(self.turns.load(Ordering::Relaxed).wrapping_add(1), Ordering::Relaxed);
    }

    /// The shard has ended.
    pub fn end(&self) {
        self.thread_id.store(0, Ordering::Relaxed);
    }
}

/// What a stalled shard's thread was doing most of the time, from its `stat` and `schedstat` under `/proc`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StallCause {
    /// It ran: one turn takes too long.
    Running,
    /// It waited for its CPU: somebody else has it.
    WaitingForCpu,
    /// It slept: a wake-up was lost.
    Asleep,
    /// It was in the kernel and could not be interrupted: a device or a page fault that takes too long.
    Blocked,
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

impl Stall {
    /// What the cause means, and what to do.
    #[must_use]
    pub fn advice(&self) -> &'static str {
        match self.cause {
            StallCause::Running => "one turn takes too long; this is a fault of the node, please report it",
            StallCause::WaitingForCpu => "another process has its CPU; give the shards CPUs of their own",
            StallCause::Blocked => "the kernel holds it; look for a slow disk or memory that is swapped",
            StallCause::Asleep => "it slept through a wake-up and was woken; if this repeats, please report it",
            StallCause::Unknown => "the kernel does not say why",
        }
    }
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
    let (ms, advice) = (lasted.as_millis(), stall.advice());
    if *ongoing {
        tracing::warn!(shard_index, stalled_ms = ms, ?cause, "shard makes no progress: {advice}");
    } else {
        tracing::warn!(shard_index, stalled_ms = ms, ?cause, "shard makes progress again");
    }
}

/// One shard's history.
struct Watch {
    shard: Watched,
    turns: u64,
    still: Duration,
    seen: Seen,
    /// CPU time of the thread when it was last looked at.
    ran: Duration,
    reported: Option<StallCause>,
}

/// How often the thread was seen doing what, since its count stands still.
#[derive(Clone, Copy, Default)]
struct Seen {
    running: u32,
    waiting: u32,
    asleep: u32,
    blocked: u32,
}

impl Watch {
    fn new(shard: Watched) -> Self {
        let (turns, seen) = (shard.progress.turns(), Seen::default());
        Self { shard, turns, still: Duration::ZERO, seen, ran: Duration::ZERO, reported: None }
    }

    fn look(&mut self, elapsed: Duration) -> Option<Stall> {
        let shard_index = self.shard.shard_index;
        let thread_id = self.shard.progress.thread_id.load(Ordering::Relaxed);
        let turns = self.shard.progress.turns();
        if turns != self.turns || thread_id == 0 {
            let lasted = std::mem::take(&mut self.still);
            self.turns = turns;
            self.seen = Seen::default();
            return self.reported.take().map(|cause| Stall { shard_index, lasted, cause, ongoing: false });
        }
        self.still += elapsed;
        self.see(thread_id, elapsed);
        if self.still < STALL {
            return None;
        }
        let cause = self.seen.mostly();
        if cause != StallCause::Running {
            (self.shard.wake)();
        }
        if self.reported.is_some() {
            return None;
        }
        self.reported = Some(cause);
        Some(Stall { shard_index, lasted: self.still, cause, ongoing: true })
    }

    /// Notes what the thread does now. The sum of its waits in `schedstat` would be simpler, but a wait is added to it
    /// only when it is over, and the one that matters is not.
    fn see(&mut self, thread_id: i32, elapsed: Duration) {
        let read = |name| fs::read_to_string(format!("/proc/self/task/{thread_id}/{name}")).unwrap_or_default();
        let stat = read("stat");
        let state = stat.rsplit_once(") ").and_then(|(_, rest)| rest.chars().next());
        let ran = read("schedstat").split_ascii_whitespace().next().and_then(|nanos| nanos.parse().ok());
        let ran = Duration::from_nanos(ran.unwrap_or(0));
        let ran_now = ran.saturating_sub(std::mem::replace(&mut self.ran, ran));
        match state {
            Some('R') if ran_now >= elapsed / 2 => self.seen.running += 1,
            Some('R') => self.seen.waiting += 1,
            Some('S') => self.seen.asleep += 1,
            Some('D') => self.seen.blocked += 1,
            _ => {}
        }
    }
}

impl Seen {
    fn mostly(self) -> StallCause {
        let Self { running, waiting, asleep, blocked } = self;
        // A parked shard sleeps for 50 ms before anybody can miss it, so of two equal counts sleep is the less telling.
        let seen = [
            (asleep, StallCause::Asleep),
            (blocked, StallCause::Blocked),
            (waiting, StallCause::WaitingForCpu),
            (running, StallCause::Running),
        ];
        match seen.into_iter().max_by_key(|(times, _)| *times) {
            Some((1.., cause)) => cause,
            _ => StallCause::Unknown,
        }
    }
}
