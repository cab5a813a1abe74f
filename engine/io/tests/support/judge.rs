//! Watches counters of a running node from outside and judges every time that one of them stood still: was it the host,
//! or was it us?
//!
//! The machine that tests run on is shared. A gap is explained by as much of it as
//! - this judge itself could not run (the whole process was stopped, or the host was busy),
//! - a control thread pinned to the shard's CPU could not run (somebody else had that CPU),
//! - the kernel says that the shard's thread waited for its CPU.
//!
//! What is left is ours.

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
    pub(crate) limit: Duration,
}

impl Verdict {
    pub(crate) fn guilty(&self) -> bool {
        self.longest_unexplained > self.limit
    }
}

struct Case {
    subject: Subject,
    count: u64,
    still: Option<Gap>,
    longest: Duration,
    longest_unexplained: Duration,
}

struct Gap {
    since: Instant,
    explained: Duration,
    waited_before: Duration,
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
            count: (subject.count)(),
            subject,
            still: None,
            longest: Duration::ZERO,
            longest_unexplained: Duration::ZERO,
        })
        .collect();
    let mut late_before: Vec<u64> = controls.iter().map(|control| control.late_us.load(Ordering::Relaxed)).collect();
    let mut looked = Instant::now();
    while !over() {
        std::thread::sleep(SAMPLE);
        let now = Instant::now();
        let own_lateness = now.duration_since(looked).saturating_sub(SAMPLE + SAMPLE);
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
            case.look(now, own_lateness.max(of_cpu));
        }
    }
    stop.store(true, Ordering::Relaxed);
    cases.into_iter().map(Case::verdict).collect()
}

impl Case {
    fn look(&mut self, now: Instant, lateness: Duration) {
        let count = (self.subject.count)();
        if count != self.count {
            self.count = count;
            self.close(now);
            return;
        }
        match &mut self.still {
            Some(gap) => gap.explained += lateness,
            None => {
                self.still = Some(Gap {
                    since: now.checked_sub(SAMPLE).unwrap_or(now),
                    explained: lateness,
                    waited_before: waited(&self.subject.thread_name),
                });
            }
        }
    }

    fn close(&mut self, now: Instant) {
        let Some(gap) = self.still.take() else { return };
        let lasted = now - gap.since;
        self.longest = self.longest.max(lasted);
        if lasted <= self.longest_unexplained {
            return;
        }
        let waited = waited(&self.subject.thread_name).saturating_sub(gap.waited_before);
        let unexplained = lasted.saturating_sub(gap.explained).min(lasted.saturating_sub(waited));
        self.longest_unexplained = self.longest_unexplained.max(unexplained);
    }

    fn verdict(mut self) -> Verdict {
        self.close(Instant::now());
        Verdict {
            name: self.subject.name,
            count: self.count,
            longest: self.longest,
            longest_unexplained: self.longest_unexplained,
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

/// How long the thread of this name has waited for a CPU since it began.
fn waited(thread_name: &str) -> Duration {
    let Ok(tasks) = std::fs::read_dir("/proc/self/task") else { return Duration::ZERO };
    for task in tasks.flatten() {
        let name = std::fs::read_to_string(task.path().join("comm")).unwrap_or_default();
        if name.trim_end() == thread_name {
            let times = std::fs::read_to_string(task.path().join("schedstat")).unwrap_or_default();
            let nanos = times.split_ascii_whitespace().nth(1).and_then(|number| number.parse().ok());
            return Duration::from_nanos(nanos.unwrap_or(0));
        }
    }
    Duration::ZERO
}
