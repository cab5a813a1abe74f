//! What a node tells of itself: each shard leaves its numbers on a board of its own, and whoever asks reads them there.
//!
//! A shard never waits for a reader: a board that is being read is left as it is until the next tick.

use std::sync::{Arc, Mutex, PoisonError, TryLockError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use creto_io::{StatsReader, TIME_BOUNDS_US, Times};
use creto_metrics::{Buckets, Sample, Source, families as of};
use creto_shard::Shard;
use creto_shard::observe::Counters;
use creto_shard::stages::{STAGE_BOUNDS_US, StageTimes, Stages};
use rustix::time::{ClockId, clock_gettime};

use crate::depths::Depths;

/// What a shard says that its driver does not.
#[derive(Clone, Debug, Default)]
struct Told {
    counters: Counters,
    cpu: Duration,
    waiting_bytes: u64,
    queued_messages: u64,
    queued_bytes: u64,
    cached_bytes: u64,
    subscriptions: u64,
    readers: u64,
    wal_bytes: u64,
    wal_bytes_max: u64,
    wal_room_bytes: u64,
    epoch: u64,
    agents: u64,
    channels: u64,
}

/// Where one shard leaves its numbers.
#[derive(Clone, Debug, Default)]
pub(crate) struct Board {
    told: Arc<Mutex<Told>>,
    stats: StatsReader,
    depths: Depths,
}

impl Board {
    /// What its driver counts.
    pub(crate) fn stats(&self) -> StatsReader {
        self.stats.clone()
    }

    /// Which of its mailboxes are the fullest.
    pub(crate) fn depths(&self) -> Depths {
        self.depths.clone()
    }

    /// Leaves the shard's numbers, on its own thread.
    pub(crate) fn leave(&self, shard: &Shard) {
        self.depths.look(shard);
        let mut told = match self.told.try_lock() {
            Ok(told) => told,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => return,
        };
        let cpu = clock_gettime(ClockId::ThreadCPUTime);
        let (mailboxes, space, snapshot) = (shard.log().mailboxes(), shard.log().wal().space(), shard.snapshot());
        let (subscriptions, readers) = shard.channel_subscriptions();
        told.counters.clone_from(shard.counters());
        *told = Told {
            counters: std::mem::take(&mut told.counters),
            cpu: Duration::try_from(cpu).unwrap_or_default(),
            waiting_bytes: shard.ingress_bytes() as u64,
            queued_messages: mailboxes.messages(),
            queued_bytes: mailboxes.queued_bytes(),
            cached_bytes: mailboxes.cached_bytes() as u64,
            subscriptions,
            readers,
            wal_bytes: space.bytes,
            wal_bytes_max: space.bytes_max,
            wal_room_bytes: space.message_bytes_left,
            epoch: snapshot.epoch(),
            agents: snapshot.agent_count() as u64,
            channels: snapshot.channel_count() as u64,
        };
    }
}

/// All of a node's numbers.
#[derive(Debug)]
pub(crate) struct NodeMetrics {
    boards: Vec<Board>,
    started: SystemTime,
}

impl NodeMetrics {
    pub(crate) fn new(boards: Vec<Board>) -> Self {
        Self { boards, started: SystemTime::now() }
    }

    fn process(&self, out: &mut Vec<Sample>) {
        let since = self.started.duration_since(UNIX_EPOCH).unwrap_or_default();
        out.push(of::NODE_INFO.count(&[env!("CARGO_PKG_VERSION")], 1));
        out.push(of::NODE_START_SECONDS.number(&[], since.as_secs_f64()));
        let cpu = Duration::try_from(clock_gettime(ClockId::ProcessCPUTime)).unwrap_or_default();
        out.push(of::NODE_CPU_SECONDS.number(&[], cpu.as_secs_f64()));
        // proc_pid_statm(5): the second number is the resident set in pages.
        let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
        if let Some(pages) = statm.split_whitespace().nth(1).and_then(|pages| pages.parse::<u64>().ok()) {
            out.push(of::NODE_RESIDENT_BYTES.count(&[], pages * rustix::param::page_size() as u64));
        }
        if let Ok(files) = std::fs::read_dir("/proc/self/fd") {
            out.push(of::NODE_OPEN_FILES.count(&[], files.count() as u64));
        }
    }
}

impl Source for NodeMetrics {
    fn read(&self, out: &mut Vec<Sample>) {
        self.process(out);
        let all: Vec<Told> =
            self.boards.iter().map(|board| board.told.lock().unwrap_or_else(PoisonError::into_inner).clone()).collect();
        // The shards' snapshots may differ for a moment: the newest.
        if let Some(newest) = all.iter().max_by_key(|told| told.epoch) {
            out.push(of::DIRECTORY_EPOCH.count(&[], newest.epoch));
            out.push(of::DIRECTORY_AGENTS.count(&[], newest.agents));
            out.push(of::DIRECTORY_CHANNELS.count(&[], newest.channels));
        }
        for (number, (told, board)) in all.iter().zip(&self.boards).enumerate() {
            let number = number.to_string();
            shard(&[&number], told, out);
            driver(&[&number], &board.stats, out);
            for (code, count) in &told.counters.rejects {
                out.push(of::NODE_REJECTS.count(&[&number, code.name()], *count));
            }
        }
    }
}

fn shard(labels: &[&str], told: &Told, out: &mut Vec<Sample>) {
    let Told { counters, .. } = told;
    let decisions = &counters.decisions;
    out.push(of::SHARD_CPU_SECONDS.number(labels, told.cpu.as_secs_f64()));
    out.extend([
        of::SUBMIT_BATCHES.count(labels, counters.batches_received),
        of::SUBMIT_BYTES.count(labels, counters.batch_bytes_received),
        of::SUBMIT_WAITING_BYTES.count(labels, told.waiting_bytes),
        of::SUBMIT_ROOTS_CHECKED.count(labels, counters.roots_checked),
        of::SUBMIT_BATCHES_VERIFIED.count(labels, counters.batches_verified),
        of::AGENT_LOGINS.count(labels, counters.logins),
        of::AGENT_KEYS_REPLACED.count(labels, counters.keys_replaced),
        of::POLICY_MESSAGES_ALLOWED.count(labels, counters.messages_authorized),
        of::POLICY_DECISIONS_KEPT.count(labels, decisions.hits),
        of::POLICY_DECISIONS_MADE.count(labels, decisions.misses),
        of::POLICY_EVALUATIONS.count(labels, decisions.evaluations),
        of::POLICY_EVALUATIONS_FAILED.count(labels, decisions.evaluations_failed + decisions.evaluations_too_long),
        of::POLICY_ALLOWED_WITHOUT.count(labels, decisions.allowed_without_policy),
        of::MAILBOX_MESSAGES_DURABLE.count(labels, counters.messages_durable),
        of::MAILBOX_MESSAGES_DUPLICATE.count(labels, counters.messages_duplicate),
        of::MAILBOX_MESSAGES_PUSHED.count(labels, counters.messages_pushed),
        of::MAILBOX_MESSAGES_SETTLED.count(labels, counters.messages_settled),
        of::MAILBOX_MESSAGES_NACKED.count(labels, counters.messages_nacked),
        of::MAILBOX_MESSAGES_EXPIRED.count(labels, counters.messages_expired),
        of::MAILBOX_MESSAGES_UNTOLD.count(labels, counters.messages_untold),
        of::MAILBOX_MESSAGES_DEAD.count(labels, counters.messages_dead),
        of::MAILBOX_MESSAGES_REVIVED.count(labels, counters.messages_revived),
        of::MAILBOX_MESSAGES_VOID.count(labels, counters.messages_void),
        of::MAILBOX_NOTICES.count(labels, counters.notices_durable),
        of::MAILBOX_QUEUED_MESSAGES.count(labels, told.queued_messages),
        of::MAILBOX_QUEUED_BYTES.count(labels, told.queued_bytes),
        of::MAILBOX_CACHED_BYTES.count(labels, told.cached_bytes),
        of::MAILBOX_READ_BACK.count(labels, counters.messages_read_back),
        of::MAILBOX_UNREADABLE.count(labels, counters.messages_unreadable),
        of::CHANNEL_MESSAGES_PUBLISHED.count(labels, counters.messages_published),
        of::CHANNEL_MESSAGES_PUSHED.count(labels, counters.channel_messages_pushed),
        of::CHANNEL_SUBSCRIPTIONS.count(labels, told.subscriptions),
        of::CHANNEL_READERS.count(labels, told.readers),
        of::CHANNEL_SUBSCRIPTIONS_ENDED.count(labels, counters.subscriptions_ended),
        of::WAL_MESSAGES_MOVED.count(labels, counters.messages_moved),
        of::WAL_BYTES.count(labels, told.wal_bytes),
        of::WAL_BYTES_MAX.count(labels, told.wal_bytes_max),
        of::WAL_ROOM_BYTES.count(labels, told.wal_room_bytes),
    ]);
    stages(labels, &counters.stages, out);
}

fn stages(labels: &[&str], stages: &Stages, out: &mut Vec<Sample>) {
    let Stages { verify, authorize, queue, acknowledge, deliver, settle } = stages;
    let times = |StageTimes { counts, sum_us }: &StageTimes| buckets(&STAGE_BOUNDS_US, counts, *sum_us);
    out.extend([
        of::SUBMIT_VERIFY_SECONDS.histogram(labels, times(verify)),
        of::POLICY_AUTHORIZE_SECONDS.histogram(labels, times(authorize)),
        of::WAL_QUEUE_SECONDS.histogram(labels, times(queue)),
        of::SUBMIT_ACKNOWLEDGE_SECONDS.histogram(labels, times(acknowledge)),
        of::MAILBOX_DELIVER_SECONDS.histogram(labels, times(deliver)),
        of::MAILBOX_SETTLE_SECONDS.histogram(labels, times(settle)),
    ]);
}

fn driver(labels: &[&str], stats: &StatsReader, out: &mut Vec<Sample>) {
    let read = stats.read();
    out.extend([
        of::SHARD_TURNS.count(labels, read.turns),
        of::SHARD_PARKS.count(labels, read.parks),
        of::SHARD_WAKES.count(labels, read.woken),
        of::NET_CONNECTIONS.count(labels, read.connections),
        of::NET_HANDSHAKES.count(labels, read.handshakes_completed),
        of::NET_HANDSHAKES_DEFERRED.count(labels, read.handshakes_deferred),
        of::NET_RECEIVED_BYTES.count(labels, read.bytes_received),
        of::NET_RECEIVES.count(labels, read.receives),
        of::NET_SENT_BYTES.count(labels, read.bytes_sent),
        of::NET_SENDS.count(labels, read.sends),
        of::NET_SENDS_BLOCKED.count(labels, read.sends_blocked),
        of::NET_SEND_ERRORS.count(labels, read.send_errors),
        of::NET_DATAGRAMS_FORWARDED.count(labels, read.datagrams_forwarded),
        of::NET_DATAGRAMS_DROPPED.count(labels, read.datagrams_dropped),
        of::NET_FRAMES.count(labels, read.frames_received),
        of::RING_ITEMS_SENT.count(labels, read.items_sent),
        of::RING_ITEMS_RECEIVED.count(labels, read.items_received),
        of::RING_FULL.count(labels, read.rings_full),
        of::WAL_WRITES.count(labels, read.disk_writes),
        of::WAL_WRITTEN_BYTES.count(labels, read.disk_bytes_written),
        of::WAL_WRITE_SECONDS.histogram(labels, driver_times(&stats.write_times(), read.disk_write_us)),
        of::SUBMIT_RECEIVE_SECONDS.histogram(labels, driver_times(&stats.receive_times(), read.batch_receive_us)),
        of::WAL_ERRORS.count(labels, read.disk_errors),
    ]);
}

fn driver_times(times: &Times, sum_us: u64) -> Buckets {
    buckets(&TIME_BOUNDS_US, &times.counts, sum_us)
}

/// Of counts between bounds, the last of those above all of them, those up to each bound.
#[allow(clippy::cast_precision_loss, reason = "bounds and sums of microseconds stay far below 2^52")]
fn buckets(bounds_us: &[u64], counts: &[u64], sum_us: u64) -> Buckets {
    let mut upto = 0;
    let buckets = bounds_us.iter().zip(counts).map(|(&bound_us, count)| {
        upto += count;
        (bound_us as f64 / 1e6, upto)
    });
    Buckets { upto: buckets.collect(), count: counts.iter().sum(), sum: sum_us as f64 / 1e6 }
}
