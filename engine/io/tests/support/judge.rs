//! Watches counters of a running node from outside and judges every time that one of them stood still: was it the host,
//! or was it us?
//!
//! The machine that tests run on is shared. A gap is looked at every 5 ms, and a part of it is explained when
//! - this judge itself could not run (the whole process was stopped, or the host was busy),
//! - a control thread pinned to the shard's CPU could not run (somebody else had that CPU),
//! - the shard's thread was runnable and did not run: it waited for its CPU. The kernel's own sum of such waits
//!   (`schedstat`) is of no use for this: a wait is added to it only when it is over.
//!
//! What is left is ours: the thread slept, or one turn took too long.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

const SAMPLE: Duration = Duration::from_millis(5);

/// A counter that must not stand still for longer than its limit.
pub(crate) struct Subject {
    pub(crate) name: String,
    pub(crate) cpu: usize,
    /// The thread that moves it.
    pub(crate) thread_name: String,
    pub(crate) count: Box<dyn Fn() -> u64 + Send>,
    pub(crate) limit: Duration,
}

/// What the judge found out about one subject.
#[derive(Debug, Clone)]
pub(crate) struct Verdict {
    pub(crate) name: String,
    pub(crate) count: u64,
    /// Longest gap as the clock says.
    pub(crate) longest: Duration,
    /// Longest part of a gap that nothing explains.
    pub(crate) longest_unexplained: Duration,
    /// What the thread was seen doing in that gap, every 5 ms: its state, and where in the kernel.
    pub(crate) seen: String,
    pub(crate) limit: Duration,
}

impl Verdict {
    pub(crate) fn guilty(&self) -> bool {
        self.longest_unexplained > self.limit
    }
}

struct Case {
    thread: Option<PathBuf>,
    subject: Subject,
    count: u64,
    still: Option<Gap>,
    longest: Duration,
    longest_unexplained: Duration,
    seen: String,
}

struct Gap {
    since: Instant,
    explained: Duration,
    ran: Duration,
    seen: String,
}

/// How late a sleep came back on one CPU.
struct Control {
    cpu: usize,
    late_us: Arc<std::sync::atomic::AtomicU64>,
}

/// Judges until `over` says so.
pub(crate) fn judge(subjects: Vec<Subject>, mut over: impl FnMut() -> bool) -> Vec<Verdict> {
    let stop = Arc::new(AtomicBool::new(false));
    let cpus: std::collections::BTreeSet<usize> = subjects.iter().map(|subject| subject.cpu).collect();
    let controls: Vec<Control> = cpus.into_iter().map(|cpu| control(cpu, Arc::clone(&stop))).collect();
    let mut cases: Vec<Case> = subjects
        .into_iter()
        .map(|subject| Case {
            thread: thread_of(&subject.thread_name),
            count: (subject.count)(),
            subject,
            still: None,
            longest: Duration::ZERO,
            longest_unexplained: Duration::ZERO,
            seen: String::new(),
        })
        .collect();
    let mut late_before: Vec<u64> = controls.iter().map(|control| control.late_us.load(Ordering::Relaxed)).collect();
    let mut looked = Instant::now();
    while !over() {
        std::thread::sleep(SAMPLE);
        let now = Instant::now();
        let elapsed = now.duration_since(looked);
        let own_lateness = elapsed.saturating_sub(SAMPLE + SAMPLE);
        looked = now;
        let mut late = Vec::new();
        for (control, before) in controls.iter().zip(&mut late_before) {
            let total = control.late_us.load(Ordering::Relaxed);
            late.push((control.cpu, Duration::from_micros(total - *before)));
            *before = total;
        }
        for case in &mut cases {
            let of_cpu =
                late.iter().find(|(cpu, _)| *cpu == case.subject.cpu).map_or(Duration::ZERO, |(_, late)| *late);
            case.look(now, elapsed, own_lateness.max(of_cpu));
        }
    }
    stop.store(true, Ordering::Relaxed);
    cases.into_iter().map(Case::verdict).collect()
}

impl Case {
    fn look(&mut self, now: Instant, elapsed: Duration, lateness: Duration) {
        let count = (self.subject.count)();
        if count != self.count {
            self.count = count;
            if let Some(gap) = &mut self.still {
                // It moved some time in this last step, which may have been a long one.
                gap.explained += lateness.min(elapsed);
            }
            self.close(now);
            return;
        }
        let Some(gap) = &mut self.still else {
            let since = now.checked_sub(SAMPLE).unwrap_or(now);
            let ran = self.thread.as_deref().map_or(Duration::ZERO, cpu_time);
            self.still = Some(Gap { since, explained: lateness.min(SAMPLE), ran, seen: String::new() });
            return;
        };
        let Some(thread) = &self.thread else {
            gap.explained += lateness.min(elapsed);
            return;
        };
        let (state, ran) = (state_of(thread), cpu_time(thread));
        let ran_now = ran.saturating_sub(std::mem::replace(&mut gap.ran, ran));
        let waited = state == 'R' && ran_now < elapsed / 2;
        let explained = if waited { elapsed } else { lateness.min(elapsed) };
        gap.explained += explained;
        if gap.seen.len() < 2_000 {
            let within = if state == 'R' { String::new() } else { within(thread) };
            let (ms, ran_ms) = (elapsed.as_millis(), ran_now.as_millis());
            gap.seen.push_str(&format!(" {state}{within} {ms}ms-{}ms ran {ran_ms}ms,", explained.as_millis()));
        }
    }

    fn close(&mut self, now: Instant) {
        let Some(gap) = self.still.take() else { return };
        let lasted = now - gap.since;
        self.longest = self.longest.max(lasted);
        let unexplained = lasted.saturating_sub(gap.explained);
        if unexplained > self.longest_unexplained {
            self.longest_unexplained = unexplained;
            self.seen = gap.seen;
        }
    }

    fn verdict(mut self) -> Verdict {
        self.close(Instant::now());
        Verdict {
            name: self.subject.name,
            count: self.count,
            longest: self.longest,
            longest_unexplained: self.longest_unexplained,
            seen: self.seen,
            limit: self.subject.limit,
        }
    }
}

fn control(cpu: usize, stop: Arc<AtomicBool>) -> Control {
    let late_us = Arc::<std::sync::atomic::AtomicU64>::default();
    let shared = Arc::clone(&late_us);
    std::thread::Builder::new()
        .name(format!("control-{cpu}"))
        .spawn(move || {
            let mut set = rustix::thread::CpuSet::new();
            set.set(cpu);
            rustix::thread::sched_setaffinity(None, &set).unwrap();
            while !stop.load(Ordering::Relaxed) {
                let began = Instant::now();
                std::thread::sleep(SAMPLE);
                let late = began.elapsed().saturating_sub(SAMPLE + SAMPLE / 2);
                shared.fetch_add(u64::try_from(late.as_micros()).unwrap(), Ordering::Relaxed);
            }
        })
        .unwrap();
    Control { cpu, late_us }
}

/// The thread of this name, or of this name and a number that its executor adds. None for a subject without a thread.
fn thread_of(name: &str) -> Option<PathBuf> {
    if name.is_empty() {
        return None;
    }
    let numbered = format!("{name}-");
    let began = Instant::now();
    // A thread names itself once it runs, and on a busy machine that takes a while.
    while began.elapsed() < Duration::from_secs(10) {
        let mut tasks = std::fs::read_dir("/proc/self/task").unwrap().flatten().map(|task| task.path());
        let found = tasks.find(|task| {
            let comm = std::fs::read_to_string(task.join("comm")).unwrap_or_default();
            comm.trim_end() == name || comm.starts_with(&numbered)
        });
        if found.is_some() {
            return found;
        }
        std::thread::sleep(SAMPLE);
    }
    panic!("there is no thread {name} to judge");
}

/// `R`: runs or waits for a CPU. `S`: sleeps. `D`: held by the kernel. `?`: gone.
fn state_of(thread: &Path) -> char {
    let stat = std::fs::read_to_string(thread.join("stat")).unwrap_or_default();
    stat.rsplit_once(") ").and_then(|(_, rest)| rest.chars().next()).unwrap_or('?')
}

/// Where in the kernel the thread is, if the kernel tells us.
fn within(thread: &Path) -> String {
    let stack = std::fs::read_to_string(thread.join("stack")).unwrap_or_default();
    let frames = stack.lines().filter_map(|line| line.split_ascii_whitespace().nth(1)?.split('+').next());
    format!("({})", frames.take(12).collect::<Vec<_>>().join("<"))
}

fn cpu_time(thread: &Path) -> Duration {
    let times = std::fs::read_to_string(thread.join("schedstat")).unwrap_or_default();
    Duration::from_nanos(times.split_ascii_whitespace().next().and_then(|nanos| nanos.parse().ok()).unwrap_or(0))
}
