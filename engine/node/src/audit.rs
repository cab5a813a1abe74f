//! The audit log of a node: one thread that takes what the shards tell, makes it durable, and signs it every second.
//!
//! ```text
//! shard  -- events, and up to which record of its log ------>  this thread: append ... commit ... checkpoint
//! shard  <-- so many are kept, and up to that record ---------
//! ```
//!
//! A shard lets no segment of its log go before the events of its records are kept, and the audit log remembers up to which
//! record it has each shard's events, in the same commit. So whatever a crash takes is read from the shard's log again, before
//! the shard goes on ([`AuditLog::catch_up`]): no event of an acknowledged message is missing.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use creto_audit::monitor::Limits;
use creto_audit::{Event, KeysError, Label, LogKeys, SourceId, What};
use creto_audit_store::disk::RealDisk;
use creto_audit_store::{RESUME_BYTES, Resume, StoreError, Writer, keys};
use creto_envelope::TrustDomain;
use creto_io::Parcel;
use creto_io::ring::ControlPort;
use creto_service::health::{Health, ShardState};
use creto_service::outbox::{AuditSink, ControlEvent, Kept};
use creto_shard::{AuditBatch, events_of};
use creto_store::{LogPlace, Lsn, Position, Record, RecoveryError, SegmentSource, read_behind};
use creto_transparency::origin_beside;
use crossbeam::channel::{self, Receiver, RecvTimeoutError, Sender};

use crate::audit::alarm::Alarm;
use crate::audit::retention::Retention;
use crate::machine::NodeItem;
use crate::run::tell;

mod alarm;
mod retention;
mod shown;

pub(crate) use shown::AuditShown;

/// At most so long after it happened an event is durable and signed, while the disk keeps up.
const CHECKPOINT_EVERY: Duration = Duration::from_secs(1);
/// So many events are made durable without waiting for that. Less than what a shard may have told and not heard of.
const COMMIT_EVENTS: u64 = 32_768;
const _: () = assert!(COMMIT_EVENTS < creto_shard::limits::AUDIT_EVENTS_MAX);
/// Events that are collected before they are handed to the log at once, when a shard's log is read again.
const CATCH_UP_EVENTS: usize = 4_096;

/// What the thread is told.
pub(crate) enum Told {
    /// By a shard.
    Shard(u16, AuditBatch),
    /// By control.
    Control(Vec<ControlEvent>),
    /// The shards are about to end: nobody waits for an answer any more.
    Stopping,
}

/// A log that is open, before anybody tells it anything.
pub(crate) struct AuditLog {
    folder: PathBuf,
    writer: Mutex<Writer<RealDisk>>,
    opened_ms: u64,
}

impl AuditLog {
    /// Opens the log in `folder`, or begins one with fresh keys.
    pub(crate) fn open(
        folder: &Path,
        trust_domain: &TrustDomain,
        shards: u16,
        now_ms: u64,
    ) -> Result<Self, StoreError> {
        let made = std::fs::create_dir_all(folder);
        made.map_err(|source| StoreError::File { what: "make", file: folder.display().to_string(), source })?;
        let keys = keys::load_or_create(folder, trust_domain.as_str())?;
        let mut writer = Writer::open(RealDisk::new(folder), keys)?;
        // So that every start is in the log, and the first one before anything else.
        writer.append_with_label(
            SourceId::CONTROL,
            &Event::new(now_ms, What::NodeStarted { shards }),
            &Label::of(env!("CARGO_PKG_VERSION")),
        )?;
        Ok(Self { folder: folder.to_owned(), writer: Mutex::new(writer), opened_ms: now_ms })
    }

    /// The keys of this node's key log: those of its audit log, under another name.
    pub(crate) fn key_log_keys(&self) -> Result<LogKeys, StoreError> {
        let writer = self.writer();
        let keys = writer.keys();
        let keys = keys.of_log(&origin_beside(keys.public().origin()));
        // An origin that is nearly as long as one may be has no room for the other name.
        keys.ok_or(StoreError::Keys(KeysError::Form))
    }

    /// Takes from a shard's log what it says and the audit log does not have yet; returns how many events that were. Before
    /// the shard goes on; several at once.
    pub(crate) fn catch_up<S: SegmentSource>(
        &self,
        source: &mut S,
        shard_index: u16,
    ) -> Result<Result<u64, StoreError>, RecoveryError> {
        let of = SourceId::shard(shard_index);
        let resume = self.writer().resume(of).filter(|resume| *resume != [0; RESUME_BYTES]);
        let from = resume.map_or(LogPlace::default(), |resume| place_in(&resume));
        let mut events = Vec::with_capacity(CATCH_UP_EVENTS);
        let (mut last, mut caught_up, mut failed) = (None, 0_u64, None);
        let mut started_ms = self.opened_ms;
        let read = read_behind(source, u32::from(shard_index), from, |position, record| {
            if let Record::Start(start) = &record {
                started_ms = start.started_ms;
            }
            events_of(&record, |what| events.push(Event::recovered(started_ms, what)));
            last = Some(position);
            if events.len() >= CATCH_UP_EVENTS {
                caught_up += events.len() as u64;
                failed = failed.take().or_else(|| self.writer().append(of, &events).err());
                events.clear();
            }
        })?;
        if resume.is_some() && read.frames_missing > 0 {
            tracing::error!(
                shard_index,
                frames = read.frames_missing,
                "frames of the log were trimmed before the audit log had their events: it has a hole there; keep the data \
                 folder and report this fault"
            );
        }
        if read.end_lsn < from.lsn {
            tracing::warn!(
                shard_index,
                "the log of this shard is older than the audit log, as after a restore: what it holds is in the audit log \
                 already, and events go on from here"
            );
        }
        // Or what comes now would not be told after a crash: it has the numbers of frames that were told before the restore.
        let end = (read.end_lsn < from.lsn).then_some(LogPlace { lsn: read.end_lsn, index: u32::MAX });
        let goes_on = last.map(|last| LogPlace { lsn: last.lsn, index: last.index }).or(end);
        caught_up += events.len() as u64;
        let ended = || -> Result<u64, StoreError> {
            let mut writer = self.writer();
            writer.append(of, &events)?;
            if let Some(place) = goes_on {
                writer.set_resume(of, resume_at(place))?;
            }
            Ok(caught_up)
        };
        Ok(failed.map_or_else(ended, Err))
    }

    /// Makes durable what was caught up, signs it, and starts the thread. The channel is bounded by what shards may have told
    /// and not heard of.
    pub(crate) fn start(
        self,
        ports: Vec<ControlPort<Parcel<NodeItem>>>,
        health: Health,
        retention: Duration,
        alerts: Limits,
    ) -> Result<Result<AuditThread, StoreError>, std::io::Error> {
        let opened_ms = self.opened_ms;
        let (retention, alarm) = (Retention::new(self.folder, retention), Alarm::new(alerts));
        let mut writer = self.writer.into_inner().unwrap_or_else(PoisonError::into_inner);
        let signed = writer.commit().and_then(|_| writer.checkpoint(opened_ms).map(drop));
        if let Err(error) = signed {
            return Ok(Err(error));
        }
        let kept = Arc::new(Kept::up_to(writer.resume(SourceId::CONTROL).map_or(0, |resume| number_in(&resume))));
        let (sender, told) = channel::unbounded();
        let of_control = Arc::clone(&kept);
        let thread = std::thread::Builder::new()
            .name("creto-audit".to_owned())
            .spawn(move || Keeper::new(writer, ports, health, of_control, retention, alarm).run(&told))?;
        Ok(Ok(AuditThread { sender, kept, thread }))
    }

    fn writer(&self) -> std::sync::MutexGuard<'_, Writer<RealDisk>> {
        self.writer.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The thread that keeps the log.
pub(crate) struct AuditThread {
    sender: Sender<Told>,
    kept: Arc<Kept>,
    thread: JoinHandle<()>,
}

impl AuditThread {
    /// Where a shard tells what happens. At most `AUDIT_EVENTS_MAX` events and one turn's are in it for each shard: a shard
    /// counts what it was not answered for.
    pub(crate) fn sender(&self) -> Sender<Told> {
        self.sender.clone()
    }

    /// Where control tells what it changed, and up to which number that is kept. Its outbox is bounded by the rate of its
    /// commits: a change is told when it is on disk.
    pub(crate) fn control(&self) -> (Arc<dyn AuditSink>, Arc<Kept>) {
        (Arc::new(ControlSink(self.sender.clone())), Arc::clone(&self.kept))
    }

    /// Nobody waits for answers any more. Before the shards end.
    pub(crate) fn shards_end(&self) {
        // The thread lives as long as this sender does.
        let _ = self.sender.send(Told::Stopping);
    }

    /// Keeps what is left, signs it, and ends the thread. When the shards have ended.
    pub(crate) fn stop(self) {
        drop(self.sender);
        if self.thread.join().is_err() {
            tracing::error!("the thread of the audit log did not end well; the next start reads again what it missed");
        }
    }
}

struct ControlSink(Sender<Told>);

impl AuditSink for ControlSink {
    fn tell(&self, events: Vec<ControlEvent>) {
        // The thread lives longer than the service; what it does not take is told again by the next start.
        let _ = self.0.send(Told::Control(events));
    }
}

/// What a shard is to be answered.
struct Answer {
    shard_index: u16,
    events: u64,
    through: Option<Position>,
    spare: Vec<Vec<Event>>,
}

struct Keeper {
    writer: Writer<RealDisk>,
    ports: Vec<ControlPort<Parcel<NodeItem>>>,
    health: Health,
    answers: Vec<Answer>,
    kept: Arc<Kept>,
    /// The last event of control that is appended.
    control_number: u64,
    has_uncommitted: bool,
    events: u64,
    next_checkpoint: Instant,
    retention: Retention,
    alarm: Alarm,
    is_stopping: bool,
}

impl Keeper {
    fn new(
        writer: Writer<RealDisk>,
        ports: Vec<ControlPort<Parcel<NodeItem>>>,
        health: Health,
        kept: Arc<Kept>,
        retention: Retention,
        alarm: Alarm,
    ) -> Self {
        let control_number = kept.get();
        Self {
            writer,
            ports,
            health,
            answers: Vec::new(),
            kept,
            control_number,
            has_uncommitted: false,
            events: 0,
            next_checkpoint: Instant::now() + CHECKPOINT_EVERY,
            retention,
            alarm,
            is_stopping: false,
        }
    }

    fn run(mut self, told: &Receiver<Told>) {
        if let Err(error) = self.keep(told) {
            tracing::error!("{error}; until then nothing more is taken in");
            if self.ports.is_empty() {
                self.health.lose_audit_log();
            }
            for shard_index in 0..self.ports.len() {
                let shard_index = u16::try_from(shard_index).expect("the plan allows at most 256 shards");
                self.health.set(shard_index, ShardState::Fenced, error.to_string());
            }
            // What is told from now on is in the shards' logs, and no shard hears that it is kept: each stops reading soon.
            while told.recv().is_ok() {}
        }
    }

    fn keep(&mut self, told: &Receiver<Told>) -> Result<(), StoreError> {
        loop {
            let is_signed = self.writer.signed().is_some_and(|signed| signed.size == self.writer.size());
            let next = if !self.has_uncommitted && is_signed {
                // Nothing waits to be made durable or signed: an idle node sleeps.
                told.recv_deadline(self.retention.due)
            } else {
                told.recv_deadline(self.next_checkpoint)
            };
            match next {
                Ok(Told::Shard(shard_index, batch)) => self.append(shard_index, batch)?,
                Ok(Told::Control(events)) => self.append_control(&events)?,
                Ok(Told::Stopping) => self.is_stopping = true,
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => {
                    self.raise_alerts(true)?;
                    let stopped = What::NodeStopped { outcome: creto_audit::event::Outcome::Done };
                    self.writer.append(SourceId::CONTROL, &[Event::new(unix_ms(), stopped)])?;
                    self.commit()?;
                    return self.writer.checkpoint(unix_ms()).map(drop);
                }
            }
            let now = Instant::now();
            self.raise_alerts(now >= self.next_checkpoint)?;
            if self.events >= COMMIT_EVENTS || (now >= self.next_checkpoint && self.has_uncommitted) {
                self.commit()?;
            }
            if now >= self.next_checkpoint {
                // What is signed is durable: answers that wait are not.
                self.writer.checkpoint(unix_ms())?;
                self.next_checkpoint = Instant::now() + CHECKPOINT_EVERY;
            }
            if now >= self.retention.due {
                self.drop_entries()?;
            }
        }
    }

    /// Tells of what an operator should look at.
    fn raise_alerts(&mut self, with_counted: bool) -> Result<(), StoreError> {
        for alert in self.alarm.take(with_counted) {
            self.writer.append(SourceId::CONTROL, &[Event::new(unix_ms(), alert)])?;
            self.has_uncommitted = true;
        }
        Ok(())
    }

    /// Lets the entries go whose time is over. That it did so is an event, which is signed with the next checkpoint.
    fn drop_entries(&mut self) -> Result<(), StoreError> {
        let now_ms = unix_ms();
        let below = self.retention.next(now_ms).unwrap_or_else(|error| {
            tracing::error!("old entries of the audit log stay for now: {error}");
            0
        });
        if below > 0 {
            let size = self.writer.size();
            let gone = self.writer.drop_entries_before(below, now_ms)?;
            if self.writer.size() > size {
                tracing::info!("the audit log dropped its entries before leaf {gone}: [audit] retention");
            }
        }
        Ok(())
    }

    fn append_control(&mut self, events: &[ControlEvent]) -> Result<(), StoreError> {
        for ControlEvent { number, event, label } in events {
            self.writer.append_with_label(SourceId::CONTROL, event, label)?;
            self.control_number = *number;
            self.alarm.see(event);
        }
        self.writer.set_resume(SourceId::CONTROL, resume_after(self.control_number))?;
        self.has_uncommitted = true;
        Ok(())
    }

    fn append(&mut self, shard_index: u16, batch: AuditBatch) -> Result<(), StoreError> {
        let of = SourceId::shard(shard_index);
        let AuditBatch { events, through } = batch;
        self.writer.append(of, &events)?;
        events.iter().for_each(|event| self.alarm.see(event));
        if let Some(through) = through {
            self.writer.set_resume(of, resume_at(LogPlace { lsn: through.lsn, index: through.index }))?;
        }
        let count = events.len() as u64;
        self.events += count;
        self.has_uncommitted = true;
        match self.answers.iter_mut().find(|answer| answer.shard_index == shard_index) {
            Some(answer) => {
                answer.events += count;
                answer.through = through.or(answer.through);
                answer.spare.push(events);
            }
            None => self.answers.push(Answer { shard_index, events: count, through, spare: vec![events] }),
        }
        Ok(())
    }

    fn commit(&mut self) -> Result<(), StoreError> {
        self.writer.commit()?;
        self.kept.set(self.control_number);
        (self.events, self.has_uncommitted) = (0, false);
        for Answer { shard_index, events, through, spare } in std::mem::take(&mut self.answers) {
            if !self.is_stopping {
                let port = &self.ports[usize::from(shard_index)];
                tell(usize::from(shard_index), port, NodeItem::Audited { events, through, spare });
            }
        }
        Ok(())
    }
}

/// The place of a record of a shard's log as the audit log remembers it.
///
/// ```text
/// 0 u64 lsn | 8 u32 index | 12 zeros; an earlier version wrote more there, which nobody reads
/// ```
fn resume_at(place: LogPlace) -> Resume {
    let mut resume = [0; RESUME_BYTES];
    resume[..8].copy_from_slice(&place.lsn.0.to_le_bytes());
    resume[8..12].copy_from_slice(&place.index.to_le_bytes());
    resume
}

/// As control's: the number of its last event, and zeros.
fn resume_after(number: u64) -> Resume {
    let mut resume = [0; RESUME_BYTES];
    resume[..8].copy_from_slice(&number.to_le_bytes());
    resume
}

fn number_in(resume: &Resume) -> u64 {
    u64::from_le_bytes(*resume.first_chunk().expect("a resume point has 32 bytes"))
}

fn place_in(resume: &Resume) -> LogPlace {
    let (lsn, rest) = resume.split_first_chunk::<8>().expect("a resume point has 32 bytes");
    let index = rest.first_chunk::<4>().expect("a resume point has 32 bytes");
    LogPlace { lsn: Lsn(u64::from_le_bytes(*lsn)), index: u32::from_le_bytes(*index) }
}

fn unix_ms() -> u64 {
    crate::run::unix_ms()
}
