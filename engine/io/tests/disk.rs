//! Segments through the whole driver: prepared, written, read back, recycled, shortened, deleted.
#![allow(clippy::unwrap_used, reason = "a test's steps fail by panicking")]

mod support;

use std::collections::VecDeque;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use creto_io::executor::DriverKind;
use creto_io::{ActionId, DiskError, Durability, IoAction, IoEvent, Machine, Now};
use support::{Block, Node, digest_name, file_name, on_each_driver};

type Action = IoAction<Order, Block>;
type Answer = (ActionId, Result<Option<Bytes>, DiskError>);

enum Order {
    Do(Box<Action>),
    Stop,
}

/// Does what it is told and reports what came of it.
struct Puppet {
    actions: VecDeque<Action>,
    answers: mpsc::Sender<Answer>,
    /// Works this long in every turn, and wants the next one at once.
    work: Duration,
}

impl Machine for Puppet {
    type Item = Order;
    type Write = Block;

    fn on_event(&mut self, _now: Now, event: IoEvent<Order>) {
        match event {
            IoEvent::Item { item: Order::Do(action), .. } => self.actions.push_back(*action),
            IoEvent::Item { item: Order::Stop, .. } => self.actions.push_back(IoAction::Halt),
            IoEvent::DiskDone { id, result } => self.answers.send((id, result.map(|()| None))).unwrap(),
            IoEvent::ReadDone { id, result } => self.answers.send((id, result.map(Some))).unwrap(),
            _ => {}
        }
    }

    fn on_turn(&mut self, _now: Now) {
        let began = Instant::now();
        while began.elapsed() < self.work {
            std::hint::spin_loop();
        }
    }

    fn poll_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    fn next_deadline_us(&self) -> Option<u64> {
        (self.work > Duration::ZERO).then_some(0)
    }
}

struct Rig {
    node: Node<Puppet>,
    answers: mpsc::Receiver<Answer>,
    _folder: tempfile::TempDir,
}

impl Rig {
    fn new(driver: DriverKind) -> Self {
        Self::with(driver, Durability::Fdatasync, Duration::ZERO)
    }

    fn with(driver: DriverKind, durability: Durability, work: Duration) -> Self {
        let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let (send, answers) = mpsc::channel();
        let puppet = |_| Puppet { actions: VecDeque::new(), answers: send.clone(), work };
        let node = Node::start_with(driver, durability, folder.path(), 1, puppet);
        Self { node, answers, _folder: folder }
    }

    fn start(&self, action: Action) {
        assert!(self.node.shards[0].port.send_item(Order::Do(Box::new(action))).is_ok());
    }

    fn answer(&self) -> Answer {
        self.answers.recv_timeout(Duration::from_secs(20)).unwrap()
    }

    /// Carries out one action and returns what came of it.
    fn carry_out(&self, action: Action) -> Result<Option<Bytes>, DiskError> {
        self.start(action);
        self.answer().1
    }

    fn path(&self, segment: u64) -> PathBuf {
        self.node.shards[0].folder.join(file_name(segment))
    }

    fn digest_path(&self, segment: u64) -> PathBuf {
        self.node.shards[0].folder.join(digest_name(segment))
    }

    fn stop(self) {
        self.node.stop(|| Order::Stop);
    }
}

fn write(id: ActionId, segment: u64, offset: u64, fill: u8, bytes: usize) -> Action {
    IoAction::Write { id, segment, offset, bytes, write: Block(vec![fill; bytes]) }
}

fn a_segment_is_made_written_read_recycled_and_deleted(driver: DriverKind) {
    let rig = Rig::new(driver);
    let bytes = 4 << 20;
    assert_eq!(rig.carry_out(IoAction::Prepare { id: 1, segment: 7, bytes, recycle: None }), Ok(None));
    assert_eq!(std::fs::metadata(rig.path(7)).unwrap().len(), bytes);
    assert!(!rig.path(7).with_extension("new").exists());

    assert_eq!(rig.carry_out(write(2, 7, 4_096, 0xab, 8_192)), Ok(None));
    let on_disk = std::fs::read(rig.path(7)).unwrap();
    assert!(on_disk[4_096..12_288].iter().all(|byte| *byte == 0xab));
    assert!(on_disk[12_288..].iter().all(|byte| *byte == 0), "the rest is zeros");

    // Not block-aligned: reads need not be.
    let read = rig.carry_out(IoAction::Read { id: 3, segment: 7, offset: 4_090, bytes: 20 }).unwrap().unwrap();
    assert_eq!(&read[..], &on_disk[4_090..4_110]);
    assert_eq!(read.as_ptr() as usize % 8, 0);

    // A digest appears as a whole, and goes before its segment is another's.
    let pieces = vec![Bytes::from_static(b"what is "), Bytes::from_static(b"noted")];
    assert_eq!(rig.carry_out(IoAction::WriteDigest { id: 9, segment: 7, pieces }), Ok(None));
    assert_eq!(std::fs::read(rig.digest_path(7)).unwrap(), b"what is noted");
    assert_eq!(std::fs::read_dir(rig.path(7).parent().unwrap()).unwrap().count(), 2, "nothing unfinished is left");

    let digest_file = std::fs::metadata(rig.digest_path(7)).unwrap().ino();
    assert_eq!(rig.carry_out(IoAction::Prepare { id: 4, segment: 8, bytes, recycle: Some(7) }), Ok(None));
    assert!(!rig.path(7).exists() && !rig.digest_path(7).exists());
    assert_eq!(std::fs::read(rig.path(8)).unwrap(), on_disk, "a recycled file keeps its bytes");
    assert_eq!(rig.carry_out(write(5, 8, 0, 0x11, 4_096)), Ok(None));
    assert_eq!(std::fs::read(rig.path(8)).unwrap()[0], 0x11);

    assert_eq!(rig.carry_out(IoAction::Shorten { id: 6, segment: 8, bytes: 4_096 }), Ok(None));
    assert_eq!(std::fs::metadata(rig.path(8)).unwrap().len(), 4_096);
    // The file of the old digest is used again, and nothing of it is left.
    let pieces = vec![Bytes::from_static(b"noted")];
    assert_eq!(rig.carry_out(IoAction::WriteDigest { id: 10, segment: 8, pieces }), Ok(None));
    assert_eq!(std::fs::read(rig.digest_path(8)).unwrap(), b"noted");
    assert_eq!(std::fs::metadata(rig.digest_path(8)).unwrap().ino(), digest_file);
    assert_eq!(std::fs::read_dir(rig.path(8).parent().unwrap()).unwrap().count(), 2);
    assert_eq!(rig.carry_out(IoAction::Delete { id: 7, segment: 8 }), Ok(None));
    assert!(!rig.path(8).exists() && !rig.digest_path(8).exists());
    assert_eq!(rig.carry_out(IoAction::Delete { id: 8, segment: 8 }), Ok(None), "gone counts as deleted");
    rig.stop();
}

fn writes_in_flight_at_once_are_all_durable_beside_a_segment_that_is_made(driver: DriverKind) {
    let rig = Rig::new(driver);
    let bytes = 4 << 20;
    assert_eq!(rig.carry_out(IoAction::Prepare { id: 1, segment: 1, bytes, recycle: None }), Ok(None));
    rig.start(IoAction::Prepare { id: 2, segment: 2, bytes, recycle: None });
    for round in 0..8 {
        for lane in 0..8u8 {
            let offset = (u64::from(lane) + 1) * 65_536 + round * 4_096;
            rig.start(write(100 + u64::from(lane), 1, offset, lane + 1, 4_096));
        }
        let mut answered: Vec<_> = (0..8).map(|_| answer_of_write(&rig)).collect();
        answered.sort_unstable();
        assert_eq!(answered, (100..108).collect::<Vec<_>>());
        let on_disk = std::fs::read(rig.path(1)).unwrap();
        for lane in 0..8u8 {
            let at = (usize::from(lane) + 1) * 65_536 + usize::try_from(round).unwrap() * 4_096;
            assert!(on_disk[at..at + 4_096].iter().all(|byte| *byte == lane + 1));
        }
    }
    rig.stop();
}

/// The next write that was answered; the segment that is made meanwhile is passed over.
fn answer_of_write(rig: &Rig) -> ActionId {
    loop {
        let (id, result) = rig.answer();
        assert_eq!(result, Ok(None));
        if id >= 100 {
            return id;
        }
    }
}

fn a_segment_that_is_there_already_is_opened_and_one_that_is_not_is_an_error(driver: DriverKind) {
    let rig = Rig::new(driver);
    std::fs::write(rig.path(3), vec![1; 8_192]).unwrap();
    assert_eq!(rig.carry_out(write(1, 3, 4_096, 9, 4_096)), Ok(None));
    assert_eq!(std::fs::read(rig.path(3)).unwrap()[4_095..4_097], [1, 9]);
    let missing = rig.carry_out(write(2, 99, 0, 9, 4_096));
    assert!(matches!(missing, Err(DiskError::Io(_))), "{missing:?}");
    let past_the_end = rig.carry_out(IoAction::Read { id: 3, segment: 3, offset: 8_000, bytes: 1_000 });
    assert!(matches!(past_the_end, Err(DiskError::Io(_))), "{past_the_end:?}");
    rig.stop();
}

fn many_operations_at_once_are_each_answered_once(driver: DriverKind) {
    let rig = Rig::new(driver);
    let prepare = IoAction::Prepare { id: 1_000, segment: 1, bytes: 4 << 20, recycle: None };
    assert_eq!(rig.carry_out(prepare), Ok(None));
    for round in 0..10u64 {
        for n in 0..24 {
            let id = round * 100 + n;
            rig.start(write(id, 1, n * 65_536, u8::try_from(n).unwrap(), 65_536));
        }
        let mut answered: Vec<_> = (0..24).map(|_| rig.answer()).collect();
        answered.sort_by_key(|(id, _)| *id);
        for (n, (id, result)) in (0..24).zip(answered) {
            assert_eq!((id, result), (round * 100 + n, Ok(None)));
        }
    }
    let on_disk = std::fs::read(rig.path(1)).unwrap();
    for n in 0..24usize {
        assert!(on_disk[n * 65_536..(n + 1) * 65_536].iter().all(|byte| usize::from(*byte) == n));
    }
    rig.stop();
}

fn a_shard_that_never_rests_still_serves_its_disk(driver: DriverKind) {
    let rig = Rig::with(driver, Durability::Fdatasync, Duration::from_micros(500));
    let prepare = IoAction::Prepare { id: 1, segment: 1, bytes: 1 << 20, recycle: None };
    assert_eq!(rig.carry_out(prepare), Ok(None));
    let before = rig.node.shards[0].progress.turns();
    for n in 0..20 {
        assert_eq!(rig.carry_out(write(n, 1, n * 4_096, 0x33, 4_096)), Ok(None));
    }
    let turns = rig.node.shards[0].progress.turns() - before;
    // Each write needs the reactor a few times. It has its turn once in each of the shard's, whatever the disk's speed.
    assert!(turns > 20, "{turns} turns: the shard was to be busy all the time");
    rig.stop();
}

/// O_DSYNC is a flag of the open file: the kernel tells it.
fn with_dsync_every_segment_is_written_through_made_found_or_recycled(driver: DriverKind) {
    let rig = Rig::with(driver, Durability::Dsync, Duration::ZERO);
    let bytes = 1 << 20;
    let written_through = |segment| {
        let path = rig.path(segment);
        let descriptors = std::fs::read_dir("/proc/self/fd").unwrap().flatten();
        let open: Vec<_> = descriptors.filter(|fd| std::fs::read_link(fd.path()).is_ok_and(|to| to == path)).collect();
        let flags = open.iter().map(|fd| {
            let info = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", fd.file_name().display())).unwrap();
            let flags = info.lines().find_map(|line| line.strip_prefix("flags:")).unwrap().trim().to_owned();
            i32::from_str_radix(&flags, 8).unwrap()
        });
        let flags: Vec<i32> = flags.collect();
        assert!(!flags.is_empty(), "segment {segment} is open");
        assert!(flags.iter().all(|flags| flags & libc::O_DSYNC != 0), "{segment}: {flags:x?}");
    };
    assert_eq!(rig.carry_out(IoAction::Prepare { id: 1, segment: 1, bytes, recycle: None }), Ok(None));
    assert_eq!(rig.carry_out(write(2, 1, 0, 1, 8_192)), Ok(None));
    written_through(1);
    assert_eq!(rig.carry_out(IoAction::Prepare { id: 3, segment: 2, bytes, recycle: Some(1) }), Ok(None));
    assert_eq!(rig.carry_out(write(4, 2, 4_096, 2, 4_096)), Ok(None));
    written_through(2);
    std::fs::write(rig.path(9), vec![0; 8_192]).unwrap();
    assert_eq!(rig.carry_out(write(5, 9, 0, 9, 4_096)), Ok(None));
    written_through(9);
    let read = rig.carry_out(IoAction::Read { id: 6, segment: 2, offset: 4_095, bytes: 2 }).unwrap().unwrap();
    assert_eq!(&read[..], [1, 2]);
    rig.stop();
}

fn a_halt_waits_for_the_writes_under_way(driver: DriverKind) {
    let rig = Rig::new(driver);
    let prepare = IoAction::Prepare { id: 1, segment: 1, bytes: 1 << 20, recycle: None };
    assert_eq!(rig.carry_out(prepare), Ok(None));
    rig.start(write(2, 1, 0, 0x77, 65_536));
    let (path, answers) = (rig.path(1), &rig.answers);
    let node = rig.node;
    node.stop(|| Order::Stop);
    assert_eq!(answers.recv().unwrap(), (2, Ok(None)), "the machine heard of it before the end");
    assert_eq!(std::fs::read(path).unwrap()[65_535], 0x77);
}

on_each_driver!(
    a_segment_is_made_written_read_recycled_and_deleted,
    writes_in_flight_at_once_are_all_durable_beside_a_segment_that_is_made,
    a_segment_that_is_there_already_is_opened_and_one_that_is_not_is_an_error,
    many_operations_at_once_are_each_answered_once,
    a_shard_that_never_rests_still_serves_its_disk,
    with_dsync_every_segment_is_written_through_made_found_or_recycled,
    a_halt_waits_for_the_writes_under_way,
);
