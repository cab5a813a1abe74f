//! What a seed chooses once: sizes, speeds, and which faults its run has. Not every run has every fault: some bugs show
//! only where others are absent.

use creto_store::limits::FULL_GROUP_BYTES;
use creto_store::{DedupConfig, MailboxesConfig, RedeliveryConfig, WalConfig};

use crate::disk::DiskHabits;
use crate::fault::Fault;
use crate::pool::{AGENTS, MESSAGES_PER_AGENT};
use crate::random::Random;

/// Messages that an agent sends beyond the oldest that is not acknowledged. The smallest deduplication window is larger; the
/// smaller ones are left behind by what an agent sends in a run.
const AHEAD_MAX: [usize; 3] = [32, 32, 8];

#[derive(Clone, Debug)]
pub(crate) struct Profile {
    pub(crate) shard_count: usize,
    pub(crate) wal: WalConfig,
    pub(crate) mailboxes: MailboxesConfig,
    pub(crate) disk: DiskHabits,
    /// How many messages each agent sends.
    pub(crate) messages: [usize; AGENTS],
    /// How many it sends beyond the oldest that is not acknowledged.
    pub(crate) ahead_max: usize,
    /// The usual delay of a frame.
    pub(crate) network_us: u64,
    /// The usual time between two faults that the run itself injects.
    pub(crate) chaos_us: u64,
    /// Which ones: those that happen between two steps.
    pub(crate) chaos: Vec<Fault>,
    pub(crate) failed_read_one_in: u64,
    pub(crate) bit_rot_one_in: u64,
    pub(crate) rot_one_in: u64,
    /// The wall clock is off by at most this.
    pub(crate) clock_jump_ms_max: u64,
    pub(crate) damaged_digest_one_in: u64,
    pub(crate) tampering_one_in: u64,
    /// Control cannot read the directory when it is asked for a key record.
    pub(crate) busy_control_one_in: u64,
    pub(crate) late_writes: bool,
    /// Clients reach a shard before its log has started.
    pub(crate) lets_in_early: bool,
    /// Whether consumers acknowledge all that they have, or leave some out.
    pub(crate) acknowledges_all: bool,
    /// What consumers do with messages that they do not take, and with dead letters.
    pub(crate) letters: LetterHabits,
    /// Batches of a shard that crypto workers take at a time; `None`: shards verify themselves.
    pub(crate) at_workers_max: Option<usize>,
}

/// Zero: never.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LetterHabits {
    pub(crate) nack_one_in: u64,
    pub(crate) reject_one_in: u64,
    pub(crate) ask_one_in: u64,
}

impl Profile {
    /// `letters_random` is apart, so that runs without refused messages are as they were before there were any.
    pub(crate) fn draw(random: &mut Random, letters_random: &mut Random, shard_count: Option<u16>) -> Self {
        let shard_count = shard_count.map_or_else(|| random.between(1, 3), u64::from);
        let frame_bytes_max = random.pick(&[20_usize, 24]) << 10;
        let segment_bytes = random.pick(&[32_u64, 48, 64, 96, 128]) << 10;
        let wal = WalConfig {
            segment_bytes,
            frame_bytes_max,
            wal_bytes_max: random.pick(&[7, 9, 12, 20, 40]) * segment_bytes,
            pending_records_max: random.pick(&[4, 16, 64]),
            pending_bytes_max: random.pick(&[24_usize, 32, 64, 128]) << 10,
            writes_in_flight_max: random.pick(&[1, 1, 2, 3, 4]),
            // Drawn last: it came last, and changes nothing else about a seed.
            full_group_bytes: FULL_GROUP_BYTES,
            recycled_segments_max: random.pick(&[0, 1, 2]),
        };
        // With none, or a few KiB, almost everything that is not read at once is read back.
        let mut mailboxes = MailboxesConfig {
            cache_bytes: random.pick(&[0, 4 << 10, 16 << 10, 1 << 20]),
            ..MailboxesConfig::default()
        };
        if random.one_in(4) {
            mailboxes.mailbox_messages_max = random.between(4, 16);
        }
        let ahead_max = random.pick(&AHEAD_MAX);
        if random.one_in(2) {
            mailboxes.dedup = DedupConfig { sender_ids_max: 2 * ahead_max, ..DedupConfig::default() };
        }
        let letters = match letters_random.one_in(2) {
            true => LetterHabits { nack_one_in: 0, reject_one_in: 0, ask_one_in: 0 },
            false => LetterHabits {
                nack_one_in: letters_random.pick(&[0, 3, 8]),
                reject_one_in: letters_random.pick(&[0, 4, 12]),
                ask_one_in: letters_random.pick(&[10, 40]),
            },
        };
        // Ticks come every 100 ms: what matters is the order of things, not how long they take.
        mailboxes.redelivery = RedeliveryConfig {
            base_us: letters_random.pick(&[1_000, 150_000]),
            max_us: 400_000,
            deliveries_max: letters_random.pick(&[0, 1, 2, 5, 20]),
        };
        let disk = DiskHabits {
            write_us: random.pick(&[50, 200, 1_000]),
            sync_us: random.pick(&[100, 500, 3_000]),
            slow_one_in: random.pick(&[0, 20, 100]),
            failed_write_one_in: random.pick(&[0, 0, 40, 200]),
            failed_sync_one_in: random.pick(&[0, 0, 40, 200]),
            no_space_one_in: random.pick(&[0, 0, 5, 20]),
            failed_read_one_in: random.pick(&[0, 10]),
            flipped_read_one_in: random.pick(&[0, 0, 0, 20]),
            failed_file_one_in: random.pick(&[0, 0, 0, 30]),
            lie_one_in: random.pick(&[0, 0, 0, 0, 0, 30, 30, 10]),
        };
        let kinds = [
            Fault::Kill,
            Fault::PowerLoss,
            Fault::ConnectionDrop,
            Fault::Takeover,
            Fault::ClockJump,
            Fault::Drain,
            Fault::Resend,
            Fault::DiskFull,
            Fault::Backup,
        ];
        let mut chaos: Vec<Fault> = kinds.into_iter().filter(|_| random.one_in(2)).collect();
        if chaos.is_empty() {
            chaos.push(Fault::PowerLoss);
        }
        let mut profile = Self {
            shard_count: usize::try_from(shard_count).expect("a handful of shards"),
            wal,
            mailboxes,
            disk,
            messages: std::array::from_fn(|_| 8 + random.index(MESSAGES_PER_AGENT - 7)),
            ahead_max,
            network_us: random.pick(&[100, 500, 3_000]),
            chaos_us: random.pick(&[10_000, 30_000, 100_000]),
            chaos,
            failed_read_one_in: random.pick(&[0, 4]),
            bit_rot_one_in: random.pick(&[0, 2]),
            rot_one_in: random.pick(&[0, 0, 3]),
            clock_jump_ms_max: random.pick(&[30_000, 30_000, 45 * 60_000, 2 * 86_400_000]),
            damaged_digest_one_in: random.pick(&[0, 2]),
            tampering_one_in: random.pick(&[0, 0, 40]),
            busy_control_one_in: 0,
            late_writes: random.one_in(2),
            lets_in_early: random.one_in(2),
            acknowledges_all: random.one_in(2),
            letters,
            at_workers_max: random.pick(&[None, Some(1), Some(4)]),
        };
        profile.wal.full_group_bytes = random.pick(&[2_usize, 6, 24, 24, 24, 24]) << 10;
        profile
    }

    /// The faults are over.
    pub(crate) fn heal(&mut self) {
        self.disk.slow_one_in = 0;
        self.disk.failed_write_one_in = 0;
        self.disk.failed_sync_one_in = 0;
        self.disk.no_space_one_in = 0;
        self.disk.failed_read_one_in = 0;
        self.disk.flipped_read_one_in = 0;
        self.disk.failed_file_one_in = 0;
        self.disk.lie_one_in = 0;
        self.chaos.clear();
        self.failed_read_one_in = 0;
        self.bit_rot_one_in = 0;
        self.rot_one_in = 0;
        self.damaged_digest_one_in = 0;
        self.tampering_one_in = 0;
        self.busy_control_one_in = 0;
        self.acknowledges_all = true;
    }
}
