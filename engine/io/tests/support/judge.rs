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

/// What is kept of the worst gap.
const SEEN_BYTES_MAX: usize = 2_000;
const SAMPLE: Duration = Duration::from_millis(5);

/// A counter that must not stand still for longer than its limit.
pub(crate) struct Subject {
    pub(crate) name: String,
    /// The threads that move it, each with its CPU. When several must, any of them may be what it waits for.
    pub(crate) threads: Vec<(String, usize)>,
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
    threads: Vec<Thread>,
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
    seen: String,
}

struct Thread {
    path: PathBuf,
    cpu: usize,
    ran: Duration,
}

/// How late a sleep came back on one CPU.
struct Control {
    cpu: usize,
    late_us: Arc<std::sync::atomic::AtomicU64>,
}

/// Judges until `over` says so.
pub(crate) fn judge(subjects: Vec<Subject>, mut over: impl FnMut() -> bool) -> Vec<Verdict> {
    let stop = Arc::new(AtomicBool::new(false));
    let cpus: std::collections::BTreeSet<usize> =
        subjects.iter().flat_map(|subject| subject.threads.iter().map(|(_, cpu)| *cpu)).collect();
    let controls: Vec<Control> = cpus.into_iter().map(|cpu| control(cpu, Arc::clone(&stop))).collect();
    let mut cases: Vec<Case> = subjects
        .into_iter()
        .map(|subject| Case {
            threads: subject.threads.iter().map(|(name, cpu)| Thread::find(name, *cpu)).collect(),
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
            let of_case = late.iter().filter(|(cpu, _)| case.threads.iter().any(|thread| thread.cpu == *cpu));
            let of_cpus = of_case.map(|(_, late)| *late).max().unwrap_or_default();
            case.look(now, elapsed, own_lateness.max(of_cpus));
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
            self.still = Some(Gap { since, explained: lateness.min(SAMPLE), seen: String::new() });
            self.threads.iter_mut().for_each(Thread::look_once);
            return;
        };
        let mut waited = false;
        for thread in &mut self.threads {
            waited |= thread.look(elapsed, &mut gap.seen);
        }
        let explained = if waited { elapsed } else { lateness.min(elapsed) };
        gap.explained += explained;
        if gap.seen.len() < SEEN_BYTES_MAX {
            gap.seen.push_str(&format!(" {} of {} ms explained;", explained.as_millis(), elapsed.as_millis()));
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

impl Thread {
    /// The thread of this name, or of this name and a number that its executor adds.
    fn find(name: &str, cpu: usize) -> Self {
        let numbered = format!("{name}-");
        let began = Instant::now();
        // A thread names itself once it runs, and on a busy machine that takes a while.
        while began.elapsed() < Duration::from_secs(10) {
            let mut tasks = std::fs::read_dir("/proc/self/task").unwrap().flatten().map(|task| task.path());
            let found = tasks.find(|task| {
                let comm = std::fs::read_to_string(task.join("comm")).unwrap_or_default();
                comm.trim_end() == name || comm.starts_with(&numbered)
            });
            if let Some(path) = found {
                return Self { path, cpu, ran: Duration::ZERO };
            }
            std::thread::sleep(SAMPLE);
        }
        panic!("there is no thread {name} to judge");
    }

    fn look_once(&mut self) {
        self.ran = cpu_time(&self.path);
    }

    /// Whether the thread has waited for its CPU for most of the time since the last look.
    fn look(&mut self, elapsed: Duration, seen: &mut String) -> bool {
        let (state, ran) = (state_of(&self.path), cpu_time(&self.path));
        let ran_now = ran.saturating_sub(std::mem::replace(&mut self.ran, ran));
        if seen.len() < SEEN_BYTES_MAX {
            let within = if state == 'R' { String::new() } else { within(&self.path) };
            seen.push_str(&format!(" {state}{within} ran {} us,", ran_now.as_micros()));
        }
        state == 'R' && ran_now < elapsed / 2
    }
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
