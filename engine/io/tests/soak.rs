//! Two shards under everything at once: QUIC, timers, disk with fdatasync, rings, busy periods, and SIGSTOP from outside.
//! No shard may be without progress for 100 ms beyond what the host or the bursts explain, and no part may fall asleep.
//!
//! 12 seconds by default; `CRETO_SOAK_S=600` for the long form. Found by it and its forerunners: glommio 0.9 parks with
//! runnable tasks when its preemption timer fires at the wrong moment (see `creto_io::executor`).
#![allow(clippy::unwrap_used, reason = "a test's steps fail by panicking")]

mod support;

use std::collections::VecDeque;
use std::process::{Child, Command};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use creto_envelope::{FrameHeader, FrameType};
use creto_io::executor::DriverKind;
use creto_io::watchdog::{Stall, StallCause, Watchdog};
use creto_io::{IoAction, IoEvent, Machine, Now, Source};
use creto_net::NetEvent;
use rustix::process::{Pid, Signal, kill_process};
use support::judge::{Subject, judge};
use support::{Block, Node, client_endpoint, tokio_runtime};

const CHILD: &str = "CRETO_SOAK_CHILD";
const SEGMENT_BYTES: u64 = 8 << 20;
const TIMER_US: u64 = 3_000;
const STOP: u64 = u64::MAX;
/// Length of busy and calm periods of shard 1, and of one busy turn.
const PERIOD_US: u64 = 4_000_000;
const BUSY_TURN: Duration = Duration::from_micros(1_500);

/// What one shard has done, part by part.
#[derive(Default)]
struct Counts {
    frames: AtomicU64,
    balls: AtomicU64,
    timers: AtomicU64,
    writes: AtomicU64,
    segments: AtomicU64,
}

/// Echoes frames, plays ping-pong, keeps a timer, commits to disk without pause, and is busy at times.
struct Everything {
    shard_index: u16,
    actions: VecDeque<IoAction<u64, Block>>,
    counts: Arc<Counts>,
    next_timer_us: u64,
    segment: u64,
    offset: u64,
    round: u64,
    prepared: bool,
    asked: bool,
    stopping: bool,
}

impl Everything {
    fn new(shard_index: u16, counts: Arc<Counts>) -> Self {
        Self {
            shard_index,
            actions: VecDeque::new(),
            counts,
            next_timer_us: 0,
            segment: 0,
            offset: 0,
            round: 0,
            prepared: false,
            asked: false,
            stopping: false,
        }
    }

    fn ask_disk(&mut self) {
        if self.asked || self.stopping {
            return;
        }
        self.asked = true;
        if !self.prepared {
            let recycle = self.segment.checked_sub(1);
            let (segment, bytes) = (self.segment, SEGMENT_BYTES);
            self.actions.push_back(IoAction::Prepare { id: 0, segment, bytes, recycle });
            return;
        }
        self.round += 1;
        let bytes = 4_096 << (self.round % 7);
        let (segment, offset) = (self.segment, self.offset);
        let write = Block(vec![self.round.to_le_bytes()[0]; bytes]);
        self.actions.push_back(IoAction::Write { id: 1, segment, offset, bytes, write });
        self.offset += bytes as u64;
    }

    fn disk_done(&mut self, id: u64) {
        self.asked = false;
        if id == 0 {
            self.counts.segments.fetch_add(1, Ordering::Relaxed);
            self.prepared = true;
            self.offset = 0;
        } else {
            self.counts.writes.fetch_add(1, Ordering::Relaxed);
            if self.offset + (4_096 << 6) > SEGMENT_BYTES {
                self.segment += 1;
                self.prepared = false;
            }
        }
    }
}

impl Machine for Everything {
    type Item = u64;
    type Write = Block;

    fn on_event(&mut self, _now: Now, event: IoEvent<u64>) {
        match event {
            IoEvent::Net(NetEvent::Connected { conn, .. }) => {
                self.actions.push_back(IoAction::Authenticated { conn });
            }
            IoEvent::Net(NetEvent::Frame { conn, stream, frame_type, body, .. }) => {
                self.counts.frames.fetch_add(1, Ordering::Relaxed);
                let header = FrameHeader::new(frame_type, body.len()).unwrap().to_bytes();
                let pieces = vec![header.to_vec().into(), body].into();
                self.actions.push_back(IoAction::Send { conn, stream, pieces });
            }
            IoEvent::Item { item: STOP, .. } => {
                self.stopping = true;
                self.actions.push_back(IoAction::CloseAll { code: 0, reason: "soaked" });
                self.actions.push_back(IoAction::Halt);
            }
            IoEvent::Item { source, item } => {
                if source != Source::Control {
                    self.counts.balls.fetch_add(1, Ordering::Relaxed);
                }
                self.actions.push_back(IoAction::SendItem { to: 1 - self.shard_index, item });
            }
            IoEvent::DiskDone { id, result } => {
                result.unwrap();
                self.disk_done(id);
            }
            IoEvent::SendFull { .. } | IoEvent::RingFull { .. } => panic!("one ball and a few clients fill nothing"),
            _ => {}
        }
    }

    fn on_turn(&mut self, now: Now) {
        if now.us >= self.next_timer_us {
            self.next_timer_us = now.us + TIMER_US;
            self.counts.timers.fetch_add(1, Ordering::Relaxed);
        }
        self.ask_disk();
        if self.shard_index == 1 && now.us / PERIOD_US % 2 == 1 && !self.stopping {
            let began = Instant::now();
            while began.elapsed() < BUSY_TURN {
                std::hint::spin_loop();
            }
        }
    }

    fn poll_action(&mut self) -> Option<IoAction<u64, Block>> {
        self.actions.pop_front()
    }

    fn next_deadline_us(&self) -> Option<u64> {
        Some(self.next_timer_us)
    }
}

fn soak_seconds() -> u64 {
    std::env::var("CRETO_SOAK_S").map_or(12, |text| text.parse().unwrap())
}

#[test]
fn two_shards_under_everything_never_fall_asleep() {
    if let Ok(name) = std::env::var(CHILD) {
        let driver = DriverKind::ALL.into_iter().find(|driver| driver.name() == name).unwrap();
        soak(driver, soak_seconds());
        return;
    }
    // One after the other: each wants both CPUs.
    DriverKind::ALL.into_iter().for_each(check);
}

fn check(driver: DriverKind) {
    println!("{}:", driver.name());
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "two_shards_under_everything_never_fall_asleep", "--nocapture"])
        .env(CHILD, driver.name())
        .spawn()
        .unwrap();
    let bursts = stop_now_and_then(&mut child);
    let status = child.wait().unwrap();
    println!("stopped {bursts} times from outside");
    assert!(status.success(), "{driver:?}: {status}");
    assert!(bursts > 0, "nothing was stopped, so nothing was tested");
}

/// SIGSTOP for 20 to 300 ms, about once a second, until the child ends. Returns how often.
fn stop_now_and_then(child: &mut Child) -> u32 {
    let pid = Pid::from_child(child);
    let mut bursts = 0;
    let mut random = u64::from(child.id()) | 1;
    let mut next = |limit: u64| {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        random % limit
    };
    std::thread::sleep(Duration::from_millis(1_000));
    while child.try_wait().unwrap().is_none() {
        // Some bursts come in quick succession: the wake-up after one must survive the next.
        for _ in 0..=next(4) {
            if kill_process(pid, Signal::STOP).is_err() {
                return bursts;
            }
            std::thread::sleep(Duration::from_millis(20 + next(280)));
            let _ = kill_process(pid, Signal::CONT);
            std::thread::sleep(Duration::from_millis(1 + next(20)));
            bursts += 1;
        }
        std::thread::sleep(Duration::from_millis(300 + next(1_200)));
    }
    bursts
}

fn soak(driver: DriverKind, seconds: u64) {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let counts: Vec<Arc<Counts>> = (0..2).map(|_| Arc::default()).collect();
    let node =
        Node::start(driver, folder.path(), 2, |index| Everything::new(index, Arc::clone(&counts[usize::from(index)])));
    node.shards[0].port.send_item(0).unwrap();

    let stalls = Arc::new(std::sync::Mutex::new(Vec::<Stall>::new()));
    let watchdog = Watchdog::start(node.watched(), {
        let stalls = Arc::clone(&stalls);
        move |stall| stalls.lock().unwrap().push(*stall)
    })
    .unwrap();

    let over = Arc::new(AtomicBool::new(false));
    let echoes = Arc::<AtomicU64>::default();
    let clients = std::thread::spawn({
        let (address, config) = (node.address, node.client_config());
        let (over, echoes) = (Arc::clone(&over), Arc::clone(&echoes));
        move || tokio_runtime().block_on(clients(address, config, &over, &echoes))
    });

    let end = Instant::now() + Duration::from_secs(seconds);
    let mut subjects = subjects(&node, &counts);
    let total = Arc::clone(&echoes);
    subjects.push(Subject {
        name: "echoes at the clients".into(),
        threads: shard_threads(),
        count: Box::new(move || total.load(Ordering::Relaxed)),
        // A client's own losses and probe timeouts are in here; a shard that forgot a socket would be far above.
        limit: Duration::from_millis(2_000),
    });
    let verdicts = judge(subjects, move || Instant::now() > end);
    over.store(true, Ordering::Relaxed);
    clients.join().unwrap();
    drop(watchdog);
    let (turns, parks) = node.shards.iter().map(|s| s.stats.read()).fold((0, 0), |t, s| (t.0 + s.turns, t.1 + s.parks));
    node.stop(|| STOP);

    for verdict in &verdicts {
        println!(
            "{:28} {:>9}  longest gap {:>6.1} ms, unexplained {:>6.1} of {:>5} ms",
            verdict.name,
            verdict.count,
            verdict.longest.as_secs_f64() * 1e3,
            verdict.longest_unexplained.as_secs_f64() * 1e3,
            verdict.limit.as_millis(),
        );
    }
    let stalls = stalls.lock().unwrap();
    let noticed = |cause| stalls.iter().filter(|stall| stall.ongoing && stall.cause == cause).count();
    let asleep = noticed(StallCause::Asleep);
    println!(
        "{turns} turns, {parks} parks; the watchdog noticed {} stalls waiting for a CPU, {} running, {} blocked, {asleep} asleep",
        noticed(StallCause::WaitingForCpu),
        noticed(StallCause::Running),
        noticed(StallCause::Blocked),
    );

    let guilty: Vec<_> = verdicts.iter().filter(|verdict| verdict.guilty()).collect();
    assert!(guilty.is_empty(), "stood still with no excuse: {guilty:#?}");
    assert_eq!(asleep, 0, "a shard slept through its work");
    for verdict in &verdicts {
        let least = if verdict.name.ends_with("segments") { 1 } else { seconds * 4 };
        assert!(verdict.count > least, "{} did next to nothing: {}", verdict.name, verdict.count);
    }
}

/// The shards' threads and their CPUs.
fn shard_threads() -> Vec<(String, usize)> {
    let cpus = std::thread::available_parallelism().unwrap().get();
    (0..2).map(|index| (format!("creto-shard-{index}"), index % cpus)).collect()
}

fn subjects(node: &Node<Everything>, counts: &[Arc<Counts>]) -> Vec<Subject> {
    let threads = shard_threads();
    let mut subjects = Vec::new();
    for (index, (shard, counts)) in node.shards.iter().zip(counts).enumerate() {
        let mut add = |part: &str, limit_ms, count: Box<dyn Fn() -> u64 + Send>| {
            subjects.push(Subject {
                name: format!("shard {index} {part}"),
                threads: if part == "balls" { threads.clone() } else { vec![threads[index].clone()] },
                count,
                limit: Duration::from_millis(limit_ms),
            });
        };
        let progress = Arc::clone(&shard.progress);
        add("turns", 100, Box::new(move || progress.turns()));
        type Part = fn(&Counts) -> &AtomicU64;
        // The disk's limit is wide: it is the host's disk, others use it too, and so are the kernel's workers that sync.
        // But it is below a busy period: a shard that served its disk only when it is calm would be found.
        let parts: [(&str, u64, Part); 4] = [
            ("timers", 100, |counts| &counts.timers),
            ("balls", 100, |counts| &counts.balls),
            ("writes", 2_500, |counts| &counts.writes),
            ("segments", 60_000, |counts| &counts.segments),
        ];
        for (name, limit_ms, part) in parts {
            let counts = Arc::clone(counts);
            add(name, limit_ms, Box::new(move || part(&counts).load(Ordering::Relaxed)));
        }
    }
    subjects
}

/// Six connections, each sending frames of changing size and waiting for the echo, now and then reconnecting.
async fn clients(address: std::net::SocketAddr, config: quinn::ClientConfig, over: &AtomicBool, echoes: &AtomicU64) {
    let one = |n: usize| {
        let config = config.clone();
        async move {
            let endpoint = client_endpoint(config);
            while !over.load(Ordering::Relaxed) {
                let Ok(connection) = endpoint.connect(address, "localhost").unwrap().await else { continue };
                let (mut send, mut recv) = connection.open_bi().await.unwrap();
                for round in 0..400usize {
                    if over.load(Ordering::Relaxed) {
                        break;
                    }
                    let body = vec![7; (round * 977 + n * 131) % 20_000];
                    let header = FrameHeader::new(FrameType::SignedBatch, body.len()).unwrap().to_bytes();
                    let frame = [&header[..], &body].concat();
                    let mut echo = vec![0; frame.len()];
                    let done = tokio::try_join!(async { send.write_all(&frame).await.map_err(|_| ()) }, async {
                        recv.read_exact(&mut echo).await.map_err(|_| ())
                    });
                    if done.is_err() {
                        break;
                    }
                    assert!(echo == frame, "an echo differs");
                    echoes.fetch_add(1, Ordering::Relaxed);
                    tokio::time::sleep(Duration::from_millis(1 + (round as u64 * 7) % 9)).await;
                }
                connection.close(0u32.into(), b"");
            }
            endpoint.wait_idle().await;
        }
    };
    tokio::join!(one(0), one(1), one(2), one(3), one(4), one(5));
}
